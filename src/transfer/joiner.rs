// SPDX-License-Identifier: MIT OR Apache-2.0
//! The joiner's end of a transfer, without the socket: bytes in, calls of the application out.
//!
//! J1  Nothing that came is believed before its frame's checksums hold, and nothing is set aside
//!     for a length that is not within bounds. Whatever comes ends in a call or a `Flaw`, never in a
//!     panic.
//! J2  The application hears: `begin`, `load`s, `loaded`, messages; and from `begin` again if the
//!     source starts over. A message comes after all before it in its subgroup, and once.
//! J3  The end is answered only when everything up to it was applied, and the totals agree.
//! J4  What is kept is bounded by the bounds of the configuration, whatever the source sends.
//!
//! Cost: one checksum of each byte; messages are read where they came, unless a frame cuts them.

use super::carrier::{TEXT_BYTES_MAX, put_failure, read_failure};
use super::flaw::{Failure, Flaw};
use super::frame::{Decoder, Encoder, FRAME_BYTES_MAX, Kind};
use super::progress::{Phase, Progress, Snapshot};
use super::record::{self, End, Fields, HEAD_BYTES, Head, Position, Version};
use super::{CATCHUP, Options, StateSink};
use crate::limits::BATCH_MAX;
use crate::mem::{Batch, Message};
use crate::mutant;
use crc32c::crc32c_append;
use std::sync::Arc;

/// Answers that the source has not taken, at the most.
const ANSWERS_BYTES_MAX: usize = 4096;

pub struct Joiner {
    decoder: Decoder,
    encoder: Encoder,
    state: State,
}

struct State {
    payload_max: u32,
    greeted: bool,
    progress: Arc<Progress>,
    now: Snapshot,
    /// CRC32C of the checkpoint, then of the catch-up stream, of this attempt.
    check: u32,
    /// Catch-up bytes that came; `now.catchup_bytes` are applied.
    came: u64,
    /// The record that a frame has cut, as far as it came.
    cut: Vec<u8>,
    messages: Messages,
    end: Option<End>,
}

/// Messages on their way to the application.
struct Messages {
    version: Version,
    batch: Batch,
    /// Whose the messages of the batch are.
    subgroup: u16,
}

impl Joiner {
    pub fn new(options: &Options, progress: Arc<Progress>) -> Joiner {
        Joiner {
            decoder: Decoder::new(FRAME_BYTES_MAX),
            encoder: Encoder::new(TEXT_BYTES_MAX),
            state: State {
                payload_max: options.message_bytes_max,
                greeted: false,
                progress,
                now: Snapshot::default(),
                check: 0,
                came: 0,
                cut: Vec::new(),
                messages: Messages {
                    version: Version::default(),
                    batch: Batch::new(BATCH_MAX),
                    subgroup: 0,
                },
                end: None,
            },
        }
    }

    /// What is to be written to the source.
    pub fn pending(&self) -> &[u8] {
        self.encoder.pending()
    }

    pub fn sent(&mut self, len: usize) {
        self.encoder.sent(len);
    }

    /// Where the source's bytes go; then `heard`.
    pub fn space(&mut self) -> &mut [u8] {
        self.decoder.space()
    }

    /// `len` bytes of the source's are in `space`. Answers the end, when it has come and everything
    /// before it is applied. After a failure the joiner is good for nothing but `fail`.
    pub fn heard(&mut self, len: usize, sink: &mut dyn StateSink) -> Result<Option<End>, Failure> {
        self.decoder.filled(len);
        while let Some((kind, payload)) = self.decoder.next()? {
            self.state.frame(kind, payload, &mut self.encoder, sink)?;
            self.state.progress.write(&self.state.now);
            if self.state.now.phase == Phase::Done {
                return Ok(self.state.end.take());
            }
        }
        Ok(None)
    }

    /// It has failed; the source is told with what is `pending` then.
    pub fn fail(&mut self, failure: &Failure) {
        if !matches!(failure, Failure::Refused { .. } | Failure::Gone) {
            put_failure(&mut self.encoder, failure);
        }
        self.state.messages.batch.clear(); // the bytes it points to may not stay
        self.state.now.phase = Phase::Failed;
        self.state.progress.write(&self.state.now);
    }
}

impl State {
    fn frame(
        &mut self,
        kind: Kind,
        payload: &[u8],
        encoder: &mut Encoder,
        sink: &mut dyn StateSink,
    ) -> Result<(), Failure> {
        let mut fields = Fields(payload);
        match (kind, self.now.phase) {
            (Kind::Fail, _) => return Err(read_failure(payload)?),
            (Kind::Hello, Phase::Opening) if !self.greeted => {
                fields.u64()?;
                fields.finish()?;
                self.greeted = true;
            }
            (Kind::Sync, _) if self.greeted && may_answer(encoder) => {
                let mut synced = fields.u64()?.to_le_bytes().to_vec();
                fields.finish()?;
                synced.extend_from_slice(&self.now.catchup_bytes.to_le_bytes());
                synced.extend_from_slice(&self.now.catchup_messages.to_le_bytes());
                encoder.put(Kind::Synced, &synced);
            }
            (Kind::Begin, Phase::Opening | Phase::Loading | Phase::Catchup) if self.greeted => {
                self.begin(fields, sink)?;
            }
            (Kind::Chunk, Phase::Loading) => self.chunk(payload, sink)?,
            (Kind::Loaded, Phase::Loading) => self.loaded(fields, sink)?,
            (Kind::Messages, Phase::Catchup | Phase::Joining) => self.messages(payload, sink)?,
            (Kind::Near, Phase::Catchup) => {
                fields.finish()?;
                self.now.phase = Phase::Joining;
            }
            (Kind::Close, Phase::Ending) => {
                let (bytes, messages, check) = (fields.u64()?, fields.u64()?, fields.u32()?);
                fields.finish()?;
                agree(self.now.catchup_bytes, bytes)?;
                agree(self.now.catchup_messages, messages)?;
                agree(u64::from(self.check), u64::from(check))?;
                self.now.phase = Phase::Done;
                encoder.put(Kind::Done, &[]);
            }
            (kind, phase) => return Err(unexpected(kind, phase).into()),
        }
        Ok(())
    }

    fn begin(&mut self, mut fields: Fields, sink: &mut dyn StateSink) -> Result<(), Failure> {
        let attempt = u64::from(fields.u32()?);
        agree(attempt, self.now.attempts + 1)?;
        let version = Version::from_bytes(fields.0)?;
        self.now = Snapshot { phase: Phase::Loading, attempts: attempt, ..Snapshot::default() };
        (self.check, self.came) = (0, 0);
        self.cut.clear();
        sink.begin(&version).map_err(Failure::Application)?;
        self.messages.version = version;
        Ok(())
    }

    fn chunk(&mut self, payload: &[u8], sink: &mut dyn StateSink) -> Result<(), Failure> {
        if payload.is_empty() {
            return Ok(());
        }
        self.check = crc32c_append(self.check, payload);
        self.now.state_bytes += payload.len() as u64;
        sink.load(payload).map_err(Failure::Application)
    }

    fn loaded(&mut self, mut fields: Fields, sink: &mut dyn StateSink) -> Result<(), Failure> {
        let (bytes, check) = (fields.u64()?, fields.u32()?);
        fields.finish()?;
        agree(self.now.state_bytes, bytes)?;
        agree(u64::from(self.check), u64::from(check))?;
        self.check = 0;
        self.now.phase = Phase::Catchup;
        sink.loaded().map_err(Failure::Application)
    }

    /// A piece of the catch-up stream.
    fn messages(&mut self, payload: &[u8], sink: &mut dyn StateSink) -> Result<(), Failure> {
        self.check = crc32c_append(self.check, payload);
        self.came += payload.len() as u64;
        if self.cut.is_empty() {
            let taken = self.records(payload, sink)?;
            self.cut.extend_from_slice(&payload[taken..]);
        } else {
            self.cut.extend_from_slice(payload);
            let cut = std::mem::take(&mut self.cut);
            let taken = self.records(&cut, sink)?;
            self.cut = cut;
            self.cut.drain(..taken);
        }
        let applied = self.came - self.cut.len() as u64;
        self.now.catchup_bytes = applied;
        if self.end.is_some() {
            if !self.cut.is_empty() {
                return Err(Flaw::Total { came: self.came, said: applied }.into());
            }
            self.now.phase = Phase::Ending;
        }
        Ok(())
    }

    /// Applies the whole records that `bytes` begins with; answers how many bytes those are.
    fn records(&mut self, bytes: &[u8], sink: &mut dyn StateSink) -> Result<usize, Failure> {
        let mut at = 0;
        while let Some(head) = bytes[at..].first_chunk::<HEAD_BYTES>() {
            let head = Head::from_bytes(head, self.payload_max)?;
            let Some(record) = bytes[at..].get(..head.bytes() as usize) else { break };
            let payload = &record[HEAD_BYTES..HEAD_BYTES + head.len as usize];
            if self.end.is_some() {
                return Err(Flaw::Record { word: u64::from(head.kind) << 32 }.into());
            }
            match head.kind {
                record::MESSAGE => {
                    self.messages.take(&head, payload, sink)?;
                    self.now.catchup_messages += 1;
                }
                record::VIEW => {
                    let version = Version::from_bytes(payload)?;
                    self.messages.flush(sink);
                    self.messages.begins(version.epoch.0)?;
                    sink.view(&version);
                    self.messages.version = version;
                }
                _ => {
                    let end = End::from_bytes(payload)?;
                    self.messages.flush(sink);
                    self.messages.begins(end.epoch.0)?;
                    self.messages.ends(&end)?;
                    self.end = Some(end);
                }
            }
            at += record.len();
        }
        self.messages.flush(sink);
        Ok(at)
    }
}

impl Messages {
    /// One more message; the application gets it with its like.
    fn take(
        &mut self,
        head: &Head,
        payload: &[u8],
        sink: &mut dyn StateSink,
    ) -> Result<(), Failure> {
        let Head { subgroup, number, rank, .. } = *head;
        let positions = &mut self.version.positions;
        let known = positions.iter_mut().find(|position| position.subgroup == subgroup);
        let position = known.ok_or(Flaw::Field { value: u64::from(subgroup) })?;
        if usize::from(rank) >= self.version.members.len() {
            return Err(Flaw::Field { value: u64::from(rank) }.into());
        }
        if position.ordered {
            let expected = position.number.0;
            if number < expected || number == u64::MAX {
                return Err(Flaw::Number { subgroup, number, expected }.into());
            }
            position.number.0 = number + 1;
        }
        if subgroup != self.subgroup || self.batch.messages().len() == BATCH_MAX {
            self.flush(sink);
            self.subgroup = subgroup;
        }
        let mut message = Message::new(payload, rank, head.lane, number, head.time_ns);
        message.flags = CATCHUP;
        self.batch.free(1)[0] = message;
        self.batch.filled(1);
        Ok(())
    }

    /// Nothing of the batch outlives this call: its bytes lie where they came.
    fn flush(&mut self, sink: &mut dyn StateSink) {
        if !self.batch.messages().is_empty() {
            sink.deliver(self.subgroup, self.batch.messages());
            self.batch.clear();
        }
    }

    /// A view must be later than the one in force.
    fn begins(&self, epoch: u64) -> Result<(), Flaw> {
        if epoch <= self.version.epoch.0 { Err(Flaw::Field { value: epoch }) } else { Ok(()) }
    }

    /// Every subgroup in force must end, and not before what came of it.
    fn ends(&self, end: &End) -> Result<(), Flaw> {
        if mutant!("transfer-finals-unchecked") {
            return Ok(());
        }
        for Position { subgroup, ordered, number } in &self.version.positions {
            let its = end.finals.iter().find(|last| last.subgroup == *subgroup);
            let last = its.ok_or(Flaw::Field { value: u64::from(*subgroup) })?;
            if *ordered && last.number < *number {
                let (number, expected) = (last.number.0, number.0);
                return Err(Flaw::Number { subgroup: *subgroup, number, expected });
            }
        }
        Ok(())
    }
}

/// The source awaits each answer (C4): one that asks on and on would fill this side's memory (J4).
fn may_answer(encoder: &Encoder) -> bool {
    encoder.pending().len() < ANSWERS_BYTES_MAX || mutant!("transfer-syncs-unbounded")
}

fn agree(came: u64, said: u64) -> Result<(), Flaw> {
    if came == said || mutant!("transfer-totals-unchecked") {
        Ok(())
    } else {
        Err(Flaw::Total { came, said })
    }
}

fn unexpected(kind: Kind, phase: Phase) -> Flaw {
    let phase = match phase {
        Phase::Opening => "opening",
        Phase::Loading => "loading",
        Phase::Catchup => "catching up",
        Phase::Joining => "nearly caught up",
        Phase::Ending => "ending",
        Phase::Done | Phase::Failed => "over",
    };
    Flaw::Kind { kind: kind as u8, phase }
}
