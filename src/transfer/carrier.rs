// SPDX-License-Identifier: MIT OR Apache-2.0
//! The transfer thread's end of a transfer at its source, without the thread and the socket: what
//! is to be sent next, and what the joiner's answers mean.
//!
//! C1  The checkpoint is sent whole before anything of the tape.
//! C2  A tape that broke is never sent as if it had not: the joiner is told to begin anew, or that
//!     this is the end. After the join was asked for, only the latter.
//! C3  The join is asked for once, when what the joiner has not applied is within the bounds.
//! C4  At most one sync is unanswered, so the joiner's answers always find room and no two sides
//!     wait for each other.
//!
//! Cost: one copy and one checksum of each byte. Nothing is allocated per frame.

use super::control::{Ask, CLOSING, Control, LATE, MOVED, Opened};
use super::flaw::{Failure, Flaw};
use super::frame::{Decoder, Encoder, FRAME_BYTES_MAX, Kind};
use super::progress::{Phase, Progress, Snapshot};
use super::record::Fields;
use super::tape::{Reader, Writer, tape};
use super::{Checkpoint, Options};
use crate::base::Nanos;
use crate::error::Status;
use crate::{mutant, notice};
use crc32c::crc32c_append;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError};
use std::time::Duration;

/// A source that has nothing to say says so, so that the joiner knows that it lives.
const KEEPALIVE_NS: u64 = 100_000_000;
/// Catch-up bytes after which the joiner is asked how far it is.
const SYNC_BYTES: u64 = 512 << 10;
/// The longest text of a failure on the wire, and so the longest payload a source is sent.
pub const TEXT_BYTES_MAX: usize = 1024;

/// What a step came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// There is something to write: `pending`.
    Write,
    /// Nothing to do before the joiner answers, the bell rings, or so much time is over.
    Wait { for_ns: u64 },
    /// It has ended; `outcome` says how.
    Over,
}

pub struct Carrier {
    control: Arc<Control>,
    tape: Reader,
    /// The one that it replaced, until the polling thread has let go of its end.
    old_tape: Option<Reader>,
    tapes: SyncSender<Writer>,
    /// Beginnings of this tape.
    begun: u64,
    mailbox: Receiver<Opened>,
    /// Tells a polling thread that sleeps that it was asked for something.
    wake: Box<dyn Fn() + Send>,
    options: Options,
    encoder: Encoder,
    decoder: Decoder,
    checkpoint: Option<Box<dyn Checkpoint>>,
    progress: Arc<Progress>,
    now: Snapshot,
    /// CRC32C of the checkpoint, then of the catch-up stream, of this attempt.
    check: u32,
    /// Where this attempt's part of the tape begins, and what the tape counted before.
    base: (u64, u64),
    next_sync: u64,
    /// The sync that is not answered, and the attempt whose messages it asks for; 0: none's.
    asked: Option<(u64, u64)>,
    /// Catch-up bytes sent since the last one.
    unsynced: u64,
    said: Nanos,
    outcome: Option<Result<(), Failure>>,
}

impl Carrier {
    /// Makes the tape, which takes a while (its pages are touched), hands its other end to the
    /// feed, and says hello.
    pub fn new(
        (control, options): (Arc<Control>, Options),
        (tapes, mailbox): (SyncSender<Writer>, Receiver<Opened>),
        progress: Arc<Progress>,
        wake: Box<dyn Fn() + Send>,
    ) -> Carrier {
        let (writer, reader) = tape(options.catchup_bytes);
        offer(&tapes, writer);
        let mut encoder = Encoder::new(FRAME_BYTES_MAX);
        encoder.put(Kind::Hello, &options.incarnation.to_le_bytes());
        let mut carrier = Carrier {
            control,
            tape: reader,
            old_tape: None,
            tapes,
            begun: 0,
            mailbox,
            wake,
            options,
            encoder,
            decoder: Decoder::new(TEXT_BYTES_MAX),
            checkpoint: None,
            progress,
            now: Snapshot::default(),
            check: 0,
            base: (0, 0),
            next_sync: 0,
            asked: None,
            unsynced: 0,
            said: Nanos(0),
            outcome: None,
        };
        carrier.want_checkpoint();
        carrier
    }

    pub fn pending(&self) -> &[u8] {
        self.encoder.pending()
    }

    pub fn sent(&mut self, len: usize) {
        self.encoder.sent(len);
    }

    /// Where the joiner's bytes go; then `heard`.
    pub fn space(&mut self) -> &mut [u8] {
        self.decoder.space()
    }

    pub fn outcome(&self) -> Option<&Result<(), Failure>> {
        self.outcome.as_ref()
    }

    /// Whether the polling thread has let go of the tape.
    pub fn is_alone(&self) -> bool {
        self.tape.is_alone()
    }

    /// Whether the joiner owes an answer.
    pub fn awaits_answer(&self) -> bool {
        self.asked.is_some() || self.now.phase == Phase::Ending
    }

    /// Whether the end has been sent.
    fn is_ending(&self) -> bool {
        self.now.phase >= Phase::Ending
    }

    pub fn patience(&self) -> Duration {
        self.options.patience
    }

    /// Does the next thing. Not while something is pending.
    pub fn step(&mut self, now: Nanos) -> Step {
        if !self.pending().is_empty() {
            return Step::Write;
        }
        if self.outcome.is_some() {
            return Step::Over;
        }
        self.look_for_cancel();
        match self.now.phase {
            Phase::Opening => self.take_checkpoint(),
            Phase::Loading => self.send_chunk(),
            Phase::Catchup | Phase::Joining => self.send_messages(),
            Phase::Ending | Phase::Done | Phase::Failed => (),
        }
        if self.pending().is_empty() && self.outcome.is_none() {
            self.keep_alive(now);
        }
        self.write_progress();
        if self.pending().is_empty() {
            return match self.outcome {
                Some(_) => Step::Over,
                None => Step::Wait { for_ns: self.wait_ns() },
            };
        }
        self.said = now;
        Step::Write
    }

    /// Whether the polling thread has given it up; also while the joiner takes nothing.
    pub fn look_for_cancel(&mut self) {
        match self.control.cancel.observe() {
            _ if self.is_ending() || self.tape.end().is_some() => (),
            CLOSING => self.fail(Failure::Cancelled),
            LATE => self.fail(Failure::LateOverflow { bytes: self.tape.size() as u64 }),
            MOVED => self.fail(Failure::Moved),
            _ => (),
        }
    }

    /// New messages are looked for; everything else comes with a bell or an answer.
    fn wait_ns(&self) -> u64 {
        match self.now.phase {
            Phase::Catchup | Phase::Joining => 1_000_000,
            _ => 20_000_000,
        }
    }

    fn want_checkpoint(&mut self) {
        self.now = Snapshot {
            phase: Phase::Opening,
            attempts: self.now.attempts + 1,
            open_ns: self.now.open_ns,
            ..Snapshot::default()
        };
        self.progress.write(&self.now);
        self.begun += 1;
        self.ask(Ask::Open);
    }

    fn write_progress(&mut self) {
        self.now.tape_bytes = self.tape.size() as u64;
        self.now.tape_filled = self.tape.written().0 - self.tape.released();
        self.progress.write(&self.now);
    }

    fn ask(&mut self, what: Ask) {
        self.control.ask.publish(what.word(self.now.attempts));
        (self.wake)();
    }

    /// What the polling thread has opened, if it has.
    fn take_checkpoint(&mut self) {
        let Ok(Opened { version, checkpoint, took_ns }) = self.mailbox.try_recv() else { return };
        self.old_tape = None;
        self.now.open_ns = took_ns;
        match checkpoint {
            Ok(checkpoint) => self.checkpoint = Some(checkpoint),
            Err(error) => return self.fail(Failure::Application(error)),
        }
        self.base = (self.tape.released(), self.base.1);
        (self.check, self.unsynced) = (0, SYNC_BYTES); // the first sync comes with the first bytes
        let mut begin = (self.now.attempts as u32).to_le_bytes().to_vec();
        begin.extend_from_slice(&version.to_bytes());
        self.encoder.put(Kind::Begin, &begin);
        self.now.phase = Phase::Loading;
    }

    fn broke(&self) -> bool {
        self.tape.is_broken(self.begun) && !mutant!("transfer-goes-on-when-broken")
    }

    fn send_chunk(&mut self) {
        if self.broke() {
            return self.start_over();
        }
        let checkpoint = self.checkpoint.as_mut().expect("loading");
        let read = |place: &mut [u8]| checkpoint.read(place);
        match self.encoder.fill(Kind::Chunk, FRAME_BYTES_MAX, read) {
            Ok(0) => {
                // The empty chunk goes with it, and means nothing.
                self.checkpoint = None;
                let mut loaded = self.now.state_bytes.to_le_bytes().to_vec();
                loaded.extend_from_slice(&self.check.to_le_bytes());
                self.encoder.put(Kind::Loaded, &loaded);
                self.check = 0;
                self.now.phase = Phase::Catchup;
            }
            Ok(len) => {
                let pending = self.encoder.pending();
                self.check = crc32c_append(self.check, &pending[pending.len() - len..]);
                self.now.state_bytes += len as u64;
            }
            Err(error) => self.fail(Failure::Application(error)),
        }
    }

    fn send_messages(&mut self) {
        let end = self.tape.end(); // before looking how far it is written
        let piece = self.tape.peek(FRAME_BYTES_MAX);
        let len = piece.len() as u64;
        if self.broke() {
            return self.start_over();
        }
        if len > 0 {
            self.check = crc32c_append(self.check, piece);
            self.encoder.put(Kind::Messages, piece);
            self.tape.release(len);
            self.now.catchup_bytes += len;
            self.unsynced += len;
            if self.unsynced >= SYNC_BYTES {
                self.sync();
            }
        } else if end.is_some_and(|end| end == self.tape.released()) {
            self.now.catchup_messages = self.tape.written().1 - self.base.1;
            let mut close = self.now.catchup_bytes.to_le_bytes().to_vec();
            close.extend_from_slice(&self.now.catchup_messages.to_le_bytes());
            close.extend_from_slice(&self.check.to_le_bytes());
            self.encoder.put(Kind::Close, &close);
            self.now.phase = Phase::Ending;
        } else if self.unsynced > 0 {
            self.sync();
        }
    }

    /// Asks the joiner how far it is, unless it has not answered yet (C4).
    fn sync(&mut self) {
        if self.asked.is_none() {
            self.encoder.put(Kind::Sync, &self.next_sync.to_le_bytes());
            let catches_up = matches!(self.now.phase, Phase::Catchup | Phase::Joining);
            let attempt = if catches_up { self.now.attempts } else { 0 };
            self.asked = Some((self.next_sync, attempt));
            self.next_sync += 1;
            self.unsynced = 0;
        }
    }

    fn keep_alive(&mut self, now: Nanos) {
        if now.0.saturating_sub(self.said.0) >= KEEPALIVE_NS && self.now.phase < Phase::Ending {
            self.sync();
        }
    }

    /// The tape broke (C2).
    fn start_over(&mut self) {
        let size = self.tape.size();
        let bytes = size as u64;
        if self.now.phase == Phase::Joining {
            return self.fail(Failure::LateOverflow { bytes });
        }
        let times = self.now.attempts as u32;
        if times > self.options.restarts_max {
            return self.fail(Failure::Overflow { times, bytes });
        }
        notice!(
            "state transfer: {bytes} bytes of catch-up buffer are full after {} bytes of state and \
             {} of messages; starting over, {times} of at most {} times",
            self.now.state_bytes,
            self.now.catchup_bytes,
            self.options.restarts_max
        );
        self.checkpoint = None;
        if 2 * size <= self.options.catchup_bytes_max && can_have(2 * size) {
            let (writer, reader) = tape(2 * size);
            offer(&self.tapes, writer);
            self.old_tape = Some(std::mem::replace(&mut self.tape, reader));
            self.begun = 0;
        } else {
            self.tape.discard();
        }
        self.base.1 = self.tape.written().1;
        self.want_checkpoint();
    }

    /// `len` bytes of the joiner's are in `space`.
    pub fn heard(&mut self, len: usize) {
        self.decoder.filled(len);
        while self.outcome.is_none() {
            let answer = match self.decoder.next() {
                Ok(Some((kind, payload))) => Answer::read(kind, payload),
                Ok(None) => return,
                Err(flaw) => Err(flaw),
            };
            match answer {
                Ok(answer) => self.answered(answer),
                Err(flaw) => self.fail(flaw.into()),
            }
        }
    }

    fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Synced { number, bytes, messages } => {
                let Some((_, attempt)) = self.asked.take_if(|(asked, _)| *asked == number) else {
                    return self.fail(Flaw::Field { value: number }.into());
                };
                // What was applied of an attempt that broke, or before this one was loaded, says
                // nothing about this one.
                let early = attempt == 0 && mutant!("transfer-early-answer-counts");
                let old = attempt > 0 && mutant!("transfer-old-answer-counts");
                if attempt == self.now.attempts || early || old {
                    self.hear_progress(bytes, messages);
                }
            }
            Answer::Done if self.now.phase == Phase::Ending => self.finish(Ok(())),
            Answer::Done => {
                let flaw = Flaw::Kind { kind: Kind::Done as u8, phase: "not at the end" };
                self.fail(flaw.into());
            }
            Answer::Fail { status, text } => self.finish(Err(Failure::Refused { status, text })),
        }
    }

    /// How far the joiner was when it answered.
    fn hear_progress(&mut self, bytes: u64, messages: u64) {
        if !matches!(self.now.phase, Phase::Catchup | Phase::Joining) {
            return;
        }
        let (tail, counted) = self.tape.written();
        let (to_apply, in_all) = (tail - self.base.0, counted - self.base.1);
        if bytes > self.now.catchup_bytes || messages > in_all {
            return self.fail(Flaw::Total { came: bytes, said: self.now.catchup_bytes }.into());
        }
        self.now.catchup_messages = messages;
        self.now.behind_bytes = to_apply - bytes;
        self.now.behind_messages = in_all - messages;
        let Options { near_bytes, near_messages, .. } = self.options;
        let near = self.now.behind_bytes <= near_bytes && self.now.behind_messages <= near_messages;
        if self.now.phase == Phase::Catchup && (near || mutant!("transfer-joins-early")) {
            self.now.phase = Phase::Joining; // C3
            if !mutant!("transfer-near-unsaid") {
                self.encoder.put(Kind::Near, &[]);
            }
            self.ask(Ask::Join);
        }
    }

    /// The joiner's connection ended.
    pub fn gone(&mut self) {
        if self.outcome.is_none() {
            self.finish(Err(Failure::Gone));
        }
    }

    /// The transfer ends for a reason of this side's: the joiner is told.
    pub fn fail(&mut self, failure: Failure) {
        if self.outcome.is_none() {
            put_failure(&mut self.encoder, &failure);
            self.finish(Err(failure));
        }
    }

    fn finish(&mut self, outcome: Result<(), Failure>) {
        self.now.phase = if outcome.is_ok() { Phase::Done } else { Phase::Failed };
        self.write_progress();
        self.checkpoint = None;
        let _ = self.control.outcome.set(outcome.clone());
        self.outcome = Some(outcome);
        self.ask(Ask::Over);
    }
}

/// Whether there is that much memory, as far as can be known without touching it. To find out by
/// making a tape would end the process.
pub fn can_have(bytes: usize) -> bool {
    Vec::<u8>::new().try_reserve_exact(bytes).is_ok()
}

/// Hands the polling thread's end over; a feed that is gone needs none.
fn offer(tapes: &SyncSender<Writer>, writer: Writer) {
    let refused = tapes.try_send(writer);
    assert!(!matches!(refused, Err(TrySendError::Full(_))), "the one before was taken at its open");
}

/// What the other side is told of a failure.
pub fn put_failure(encoder: &mut Encoder, failure: &Failure) {
    // An application may have given any status as its reason; "all is well" is none.
    let status = Some(failure.status()).filter(|status| *status != Status::Ok);
    let mut told = (status.unwrap_or(Status::System) as i32).to_le_bytes().to_vec();
    let text = failure.to_string();
    let mut upto = text.len().min(TEXT_BYTES_MAX - 8);
    while !text.is_char_boundary(upto) {
        upto -= 1;
    }
    told.extend_from_slice(&text.as_bytes()[..upto]);
    encoder.put(Kind::Fail, &told);
}

/// What the other side has told of one.
pub fn read_failure(payload: &[u8]) -> Result<Failure, Flaw> {
    let mut fields = Fields(payload);
    let code = fields.u32()? as i32;
    let status = Status::from_code(code).filter(|status| *status != Status::Ok);
    let status = status.ok_or(Flaw::Field { value: u64::from(code as u32) })?;
    let text: String = String::from_utf8_lossy(fields.0).chars().take(TEXT_BYTES_MAX).collect();
    // It will be printed: no line breaks, no escapes of a terminal.
    let text = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    Ok(Failure::Refused { status, text })
}

enum Answer {
    Synced { number: u64, bytes: u64, messages: u64 },
    Done,
    Fail { status: Status, text: String },
}

impl Answer {
    fn read(kind: Kind, payload: &[u8]) -> Result<Answer, Flaw> {
        let mut fields = Fields(payload);
        let answer = match kind {
            Kind::Synced => Answer::Synced {
                number: fields.u64()?,
                bytes: fields.u64()?,
                messages: fields.u64()?,
            },
            Kind::Done => Answer::Done,
            Kind::Fail => {
                let Failure::Refused { status, text } = read_failure(payload)? else {
                    return Err(Flaw::Short);
                };
                return Ok(Answer::Fail { status, text });
            }
            kind => return Err(Flaw::Kind { kind: kind as u8, phase: "answering" }),
        };
        fields.finish()?;
        Ok(answer)
    }
}
