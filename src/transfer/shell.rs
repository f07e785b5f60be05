// SPDX-License-Identifier: MIT OR Apache-2.0
//! The threads and sockets around the two machines.
//!
//! A pause of this process is not held against the other side: time without progress is the time of
//! waits, and a wait during which we were stopped is no longer than it should have been.

use super::carrier::{Carrier, Step, TEXT_BYTES_MAX, can_have, put_failure};
use super::control::{CLOSING, Control};
use super::feed::Feed;
use super::flaw::Failure;
use super::frame::Encoder;
use super::joiner::Joiner;
use super::pipe::Pipe;
use super::progress::Progress;
use super::record::End;
use super::{Options, StateSink};
use crate::base::Nanos;
use crate::error::{Error, Status};
use crate::mem::thread::block_signals;
use crate::mutant;
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The longest single wait: so often is a transfer looked at that nobody rings for.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// How long a polling thread may take to drop a feed that is over.
const LET_GO: Duration = Duration::from_secs(1);
/// How long a last word may take to be sent.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A transfer that runs, as whoever started it sees it. Dropping it leaves the transfer alone.
pub struct Handle {
    control: Arc<Control>,
    progress: Arc<Progress>,
    thread: JoinHandle<()>,
}

impl Handle {
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// How it ended, if it has.
    pub fn outcome(&self) -> Option<&Result<(), Failure>> {
        self.control.outcome.get()
    }

    /// Whether its thread has ended, too: nothing of the application is called any more.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Gives it up and waits for its thread; drop the feed before. That takes as long as a call of `Checkpoint::read` takes, and a
    /// second for last words. If the end is on its way already, that is brought to its end, for at
    /// most `patience` without progress. For the close of a group.
    pub fn close(self) {
        self.control.cancel(CLOSING);
        let _ = self.thread.join(); // its panics are caught inside
    }
}

/// Starts a transfer to a joiner at the other end of `pipe`.
///
/// May be called on any thread; it takes about as long as starting one (the buffer is made there).
/// `wake` tells a polling thread that may sleep that `Feed::poll` has news; it is called on the
/// transfer thread, some times per transfer, and must not wait.
pub fn start(
    pipe: impl Pipe + 'static,
    options: &Options,
    wake: Box<dyn Fn() + Send>,
) -> Result<(Feed, Handle), Error> {
    options.check()?;
    if !can_have(options.catchup_bytes) {
        let bytes = options.catchup_bytes;
        let detail = format!(
            "there is no memory for a catch-up buffer of {bytes} bytes: give it less (catchup_bytes), \
             or the process more"
        );
        return Err(Error::new(Status::NoMemory, detail));
    }
    let control = Arc::new(Control::new()?);
    let progress = Arc::new(Progress::default());
    let (tapes, their_tapes) = sync_channel(1);
    let (their_mailbox, mailbox) = sync_channel(1);
    let feed = Feed::new(control.clone(), their_tapes, their_mailbox, options);
    let (of_thread, seen) = ((control.clone(), options.clone()), progress.clone());
    let progress_of_thread = progress.clone();
    let thread = std::thread::Builder::new().name("squall-transfer".into());
    let thread = thread.spawn(move || {
        block_signals();
        let control = of_thread.0.clone();
        let run = || {
            let mut carrier = Carrier::new(of_thread, (tapes, mailbox), seen, wake);
            carry(&mut carrier, pipe, &control);
        };
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            // The stream is closed by now, which tells the joiner.
            let _ = control.outcome.set(Err(Failure::Panicked));
            progress_of_thread.fail();
            control.ask.publish(super::Ask::Over.word(u64::MAX >> 2));
        }
    });
    let thread = thread.map_err(|cause| {
        let detail = format!(
            "cannot start a thread for a state transfer: {cause}; raise the limit of threads \
             (`ulimit -u`, or pids.max of the control group)"
        );
        Error::new(Status::Limit, detail)
    })?;
    Ok((feed, Handle { control, progress, thread }))
}

/// Tells one that asks for a state why it gets none here; then its end of the stream is closed.
/// Never waits.
pub fn refuse(mut pipe: impl Pipe, failure: &Failure) {
    let mut encoder = Encoder::new(TEXT_BYTES_MAX);
    put_failure(&mut encoder, failure);
    let _ = pipe.send(encoder.pending()); // a stream that is new takes so much; else it just ends
}

/// Counts waits that came to nothing.
struct Patience {
    most: Duration,
    waited: Duration,
}

impl Patience {
    fn new(most: Duration) -> Patience {
        Patience { most, waited: Duration::ZERO }
    }

    fn progress(&mut self) {
        self.waited = Duration::ZERO;
    }

    /// A wait since then came to nothing, and the other side ought to have done something. It was
    /// `most` at the most: what is beyond that was a pause of this process. It may have been less,
    /// because something else rang: that is no sign of the other side.
    fn wasted(&mut self, since: Instant, most: Duration) -> Result<(), Failure> {
        let waited = since.elapsed().min(most);
        let overlooked = mutant!("transfer-short-waits-uncounted") && waited < most;
        self.waited += if overlooked { Duration::ZERO } else { waited };
        if self.waited < self.most {
            return Ok(());
        }
        Err(Failure::Silent { for_ms: self.waited.as_millis() as u64 })
    }
}

/// What a call of the pipe came to: bytes, or not now, or the end.
fn bytes_of(outcome: io::Result<usize>) -> Result<Option<usize>, Failure> {
    match outcome {
        Ok(0) => Err(Failure::Gone),
        Ok(len) => Ok(Some(len)),
        Err(cause) => match cause.kind() {
            ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(None),
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => {
                Err(Failure::Gone)
            }
            _ => Err(system("use the connection", &cause)),
        },
    }
}

fn system(what: &'static str, cause: &io::Error) -> Failure {
    Failure::System { what, cause: cause.raw_os_error().unwrap_or(0) }
}

/// The transfer thread.
fn carry(carrier: &mut Carrier, mut pipe: impl Pipe, control: &Control) {
    let start = Instant::now();
    let mut patience = Patience::new(carrier.patience());
    while carrier.outcome().is_none() {
        if let Err(failure) = carry_on(carrier, &mut pipe, control, start, &mut patience) {
            match failure {
                Failure::Gone => carrier.gone(),
                failure => carrier.fail(failure),
            }
        }
    }
    let failed = carrier.outcome() != Some(&Ok(()));
    if failed {
        tell(&mut pipe, carrier.pending());
    }
    drop(pipe);
    // So that the tape is unmapped here, and not by the polling thread.
    let over = Instant::now();
    while !carrier.is_alone() && over.elapsed() < LET_GO {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Says a last word, if it can be said, and takes what is there: a connection that is closed with
/// something unread takes the last word back.
fn tell(pipe: &mut impl Pipe, mut bytes: &[u8]) {
    let start = Instant::now();
    while !bytes.is_empty() && start.elapsed() < LAST_WORD {
        match bytes_of(pipe.send(bytes)) {
            Ok(Some(len)) => bytes = &bytes[len..],
            Ok(None) => drop(pipe.wait(true, None, WAIT_MAX)),
            Err(_) => break,
        }
    }
    let mut unread = [0; 4096];
    while let Ok(1..) = pipe.recv(&mut unread)
        && start.elapsed() < LAST_WORD
    {}
}

/// One round of the transfer thread.
fn carry_on(
    carrier: &mut Carrier,
    pipe: &mut impl Pipe,
    control: &Control,
    start: Instant,
    patience: &mut Patience,
) -> Result<(), Failure> {
    let now = Nanos(start.elapsed().as_nanos() as u64);
    let (wait, sends) = match carrier.step(now) {
        Step::Over => return Ok(()),
        Step::Wait { for_ns } => (Duration::from_nanos(for_ns), false),
        Step::Write => match bytes_of(pipe.send(carrier.pending())) {
            Ok(Some(len)) => {
                carrier.sent(len);
                patience.progress();
                (Duration::ZERO, false)
            }
            Ok(None) => (WAIT_MAX, true),
            Err(failure) => {
                // It may have said why before it went.
                while carrier.outcome().is_none()
                    && let Ok(Some(len)) = bytes_of(pipe.recv(carrier.space()))
                {
                    carrier.heard(len);
                }
                return Err(failure);
            }
        },
    };
    if !wait.is_zero() {
        let since = Instant::now();
        wait_for(pipe, sends, Some(control.bell()), wait)?;
        control.hush();
        if sends || carrier.awaits_answer() {
            patience.wasted(since, wait)?;
        }
        // A cancel is heard at once, also when the joiner takes nothing.
        carrier.look_for_cancel();
    }
    if !wait.is_zero() || carrier.awaits_answer() {
        if let Some(len) = bytes_of(pipe.recv(carrier.space()))? {
            patience.progress();
            carrier.heard(len);
        }
    }
    Ok(())
}

fn wait_for(
    pipe: &mut impl Pipe,
    sends: bool,
    bell: Option<BorrowedFd<'_>>,
    most: Duration,
) -> Result<(), Failure> {
    pipe.wait(sends, bell, most).map_err(|cause| system("wait for the connection", &cause))
}

/// Takes the state and what comes after it, on the calling thread, until the view in which this
/// process is a member begins: then everything before that view is in the state.
///
/// Blocks for as long as it takes; the source tells every 100 ms that it lives, and if it does not
/// for `patience`, or its process ends, this fails. After a failure the state is of no use: begin
/// anew, with a new connection and a new incarnation, from another member if
/// [`Failure::may_pass`].
pub fn receive(
    pipe: &mut impl Pipe,
    options: &Options,
    sink: &mut dyn StateSink,
    progress: Arc<Progress>,
) -> Result<End, Failure> {
    let mut joiner = Joiner::new(options, progress);
    let outcome = take_in(&mut joiner, pipe, options, sink);
    if let Err(failure) = &outcome {
        joiner.fail(failure);
    }
    tell(pipe, joiner.pending());
    outcome
}

fn take_in(
    joiner: &mut Joiner,
    pipe: &mut impl Pipe,
    options: &Options,
    sink: &mut dyn StateSink,
) -> Result<End, Failure> {
    let mut patience = Patience::new(options.patience);
    loop {
        if !joiner.pending().is_empty() {
            match bytes_of(pipe.send(joiner.pending())) {
                Ok(sent) => joiner.sent(sent.unwrap_or(0)),
                // It takes nothing any more; what it said before that is read below.
                Err(Failure::Gone) => joiner.sent(joiner.pending().len()),
                Err(failure) => return Err(failure),
            }
        }
        match bytes_of(pipe.recv(joiner.space()))? {
            Some(len) => {
                patience.progress();
                if let Some(end) = joiner.heard(len, sink)? {
                    return Ok(end);
                }
            }
            None => {
                let sends = !joiner.pending().is_empty();
                let since = Instant::now();
                wait_for(pipe, sends, None, WAIT_MAX)?;
                patience.wasted(since, WAIT_MAX)?;
            }
        }
    }
}
