// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state of the group, for one that joins: before it asks to be joined, and up to the end of the
//! view before its first one.
//!
//! It asks the member in the lowest seat, and the next one if that fails or has no state of the shards
//! that this process will be in. When the source says that it has nearly caught up, it asks everybody
//! to be joined, as without a state; the letter that counts is the one at the end of the state.
//!
//! F1  While a state comes, the door is attended all the same: others that join must be connected
//!     with this process, and it with those that have joined.
//! F2  Who has asked to be joined and fails then is joined, or will be: the others count on it. It
//!     takes part without a state and leaves (`guest`), and comes back as another one.
//! F3  A source that lives and brings nothing, since its polling thread is stuck or its group has
//!     stopped, is given up. Nothing is waited for without an end.

use super::super::letter::Letter;
use super::super::lines::Lines;
use super::super::policy::Policy;
use super::super::rendezvous::CALL_AGAIN;
use super::super::state::{SAID_EVERY_NS, options};
use super::super::stats::{Page, TAKEN, Transferred};
use super::Joining;
use crate::base::{Events, Peer};
use crate::error::{Error, Status};
use crate::fabric::shm::fork::Unshared;
use crate::fabric::shm::socket::stream_pair;

use crate::log_sink::{Level, say};
use crate::mem::Region;
use crate::mutant;
use crate::transfer::{Failure, Flaw, Phase, Pipe, Progress, Snapshot, Socket, StateSink, receive};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long members may take to answer before the first source is chosen without them.
const SETTLE: Duration = Duration::from_millis(250);
/// How often the door is looked at while bytes come, and others are called.
const ATTEND_EVERY: Duration = Duration::from_millis(10);
const CALL_EVERY: Duration = Duration::from_millis(100);
const SAY_EVERY: Duration = Duration::from_nanos(SAID_EVERY_NS);
/// How long after all have refused they are asked again.
const ALL_AGAIN: Duration = Duration::from_millis(100);
/// How long a source may take to begin (F3): a checkpoint is opened at its next look at the clock, and
/// whoever does not look for the time to suspicion is cut off.
const BEGINS_WITHIN: Duration = Duration::from_secs(5);
/// A longer time between two looks was a pause of this process.
const LOOK_MAX: Duration = Duration::from_millis(200);

pub enum Fetched {
    /// The state, and what the first view begins with.
    Whole(Box<Letter>),
    /// It failed too late (F2). The letter, if one has come already; and why it failed, if that is
    /// the end of all.
    Late(Option<Box<Letter>>, Option<Error>),
}

/// How a try with one source ended.
enum Tried {
    Whole(Box<Letter>),
    Failed { why: Failure, letter: Option<Box<Letter>> },
}

impl Joining<'_> {
    /// Gets the state and becomes a member.
    pub fn fetch(
        &mut self,
        lines: &mut Lines,
        (policy, page): (&Policy, &Arc<Region>),
        sink: &mut dyn StateSink,
    ) -> Result<Fetched, Error> {
        let (mut began, mut settle) = (Instant::now(), SETTLE);
        let mut tried: Vec<u64> = Vec::new();
        let mut last = None;
        loop {
            lines.fabric().sleep(Some(CALL_AGAIN.as_nanos() as u64), &mut Events::default());
            while lines.exchange().heard().is_some() {}
            self.connect(lines)?;
            if self.is_late() {
                return Err(last.map_or_else(|| self.not_joined(), Error::from));
            }
            // Before the first one: for those that have not answered. Before another round: for all.
            let waits = !self.calls.is_empty() || last.is_some();
            if waits && began.elapsed() < settle {
                continue;
            }
            let untried = self.connected.iter().filter(|(.., who)| !tried.contains(who));
            let Some(&(seat, source, who)) = untried.min_by_key(|(seat, ..)| *seat) else {
                tried.clear(); // whoever was busy may not be any more
                (began, settle) = (Instant::now(), ALL_AGAIN);
                continue;
            };
            tried.push(who);
            let start = Instant::now();
            match self.fetch_from(lines, (policy, page), (source, who), sink)? {
                Tried::Whole(letter) => return Ok(Fetched::Whole(letter)),
                Tried::Failed { why, letter } => {
                    say(Level::Notice, &format!("no state from seat {seat}: {why}"));
                    // What has come until the source was gone is not held against this process.
                    if matches!(
                        why,
                        Failure::Gone | Failure::Refused { status: Status::Closed, .. }
                    ) {
                        self.start += start.elapsed();
                    }
                    let ends = !why.may_pass();
                    if !self.asked.is_empty() {
                        let end = ends.then(|| Error::from(why));
                        return Ok(Fetched::Late(letter, end)); // F2
                    }
                    if ends {
                        return Err(why.into());
                    }
                    last = Some(why);
                }
            }
        }
    }

    fn fetch_from(
        &mut self,
        lines: &mut Lines,
        (policy, page): (&Policy, &Arc<Region>),
        (source, who): (Peer, u64),
        sink: &mut dyn StateSink,
    ) -> Result<Tried, Error> {
        let (mine, theirs) = stream_pair()?;
        if !lines.exchange().offer(source, theirs.as_fd()) {
            return Ok(Tried::Failed { why: Failure::Gone, letter: None });
        }
        drop(theirs);
        let (options, me) = (options(self.config), self.hello.incarnation);
        let now = Instant::now();
        let mut pipe = Attended {
            stream: Socket(mine),
            joining: self,
            lines,
            rings: policy.joiner_sends(),
            source,
            who,
            near: None,
            letter: None,
            attended: now,
            called: now,
            said: now,
            progress: Arc::default(),
            page: Page::new(page.clone(), 0),
            seen: Snapshot::default(),
            idle: Duration::ZERO,
            patience: options.patience,
            trouble: None,
            given_up: None,
        };
        let progress = pipe.progress.clone();
        let outcome = receive(&mut pipe, &options, sink, progress);
        pipe.show();
        let Attended { letter, trouble, given_up, .. } = pipe;
        match outcome {
            Ok(end) => match Letter::decode(&end.extra, me) {
                Some(whole) if whole.roster.epoch == end.epoch => Ok(Tried::Whole(Box::new(whole))),
                _ => {
                    let why = Failure::Flawed(Flaw::Field { value: end.epoch.0 });
                    Ok(Tried::Failed { why, letter })
                }
            },
            Err(why) => match trouble {
                Some(trouble) => Err(trouble),
                None => Ok(Tried::Failed { why: given_up.unwrap_or(why), letter }),
            },
        }
    }
}

/// The stream, and the door along with it (F1).
struct Attended<'a, 'b> {
    stream: Socket<Unshared>,
    joining: &'a mut Joining<'b>,
    lines: &'a mut Lines,
    /// The subgroups in which I may send.
    rings: Vec<usize>,
    source: Peer,
    who: u64,
    /// Since when I have nearly caught up.
    near: Option<Instant>,
    /// I have been joined: what a member has said of my first view.
    letter: Option<Box<Letter>>,
    attended: Instant,
    called: Instant,
    said: Instant,
    progress: Arc<Progress>,
    page: Page,
    /// What had come at the last look, and for how long that has been all.
    seen: Snapshot,
    idle: Duration,
    patience: Duration,
    /// Why this process cannot be joined at all.
    trouble: Option<Error>,
    /// Why nothing more is expected of this source.
    given_up: Option<Failure>,
}

impl Attended<'_, '_> {
    fn attend(&mut self) -> io::Result<()> {
        let since = self.attended.elapsed().min(LOOK_MAX);
        self.attended = Instant::now();
        self.lines.fabric().sleep(Some(0), &mut Events::default());
        while let Some((_, bytes)) = self.lines.exchange().heard() {
            if let Err(refused) = self.joining.hear_refusal(&bytes) {
                self.trouble = Some(refused);
                return Err(ErrorKind::Other.into());
            }
            if self.letter.is_none() {
                self.letter = Letter::decode(&bytes, self.joining.hello.incarnation).map(Box::new);
            }
        }
        let phase = self.progress.read().phase;
        let asks = mutant!("state-asks-when-failed") && phase == Phase::Failed;
        // Nor does a transfer that has failed, while its source is told, make anybody ask.
        if (Phase::Joining..Phase::Failed).contains(&phase) || asks {
            self.near.get_or_insert(self.attended);
        }
        if self.called.elapsed() >= CALL_EVERY || self.near.is_some() {
            self.called = self.attended;
            if let Err(trouble) = self.joining.connect(self.lines) {
                self.trouble = Some(trouble);
                return Err(ErrorKind::Other.into());
            }
        }
        if let Some(since) = self.near {
            if let Err(trouble) = self.joining.ask(self.lines, &self.rings) {
                self.trouble = Some(trouble);
                return Err(ErrorKind::Other.into());
            }
            if self.letter.is_none() && since.elapsed() > self.joining.config.open_timeout {
                self.trouble = Some(self.joining.not_joined());
                return Err(ErrorKind::TimedOut.into());
            }
        }
        if self.said.elapsed() >= SAY_EVERY {
            self.said = self.attended;
            let group = &self.joining.config.group;
            say(Level::Notice, &format!("joining {group}: {}", self.progress.read()));
        }
        self.expect(since)
    }

    /// F3. Once it is near, others decide how long it takes: `near` bounds that.
    fn expect(&mut self, since: Duration) -> io::Result<()> {
        let now = self.progress.read();
        self.idle = if now == self.seen { self.idle + since } else { Duration::ZERO };
        if now != self.seen {
            self.show();
        }
        self.seen = now;
        let suspicion = match self.joining.config.suspicion_ns {
            0 => self.patience,
            ns => Duration::from_nanos(2 * ns).max(BEGINS_WITHIN).min(self.patience),
        };
        let most = if now.attempts == 0 { suspicion } else { self.patience };
        if self.near.is_some() || self.idle < most || mutant!("state-waits-for-ever") {
            return Ok(());
        }
        self.given_up = Some(Failure::Silent { for_ms: self.idle.as_millis() as u64 });
        Err(ErrorKind::TimedOut.into())
    }

    /// For `squall stat`, at every look with news: about a dozen stores.
    fn show(&self) {
        let progress = self.progress.read();
        self.page.write_transfer(TAKEN, &Transferred { gives: false, other: self.who, progress });
    }
}

impl Pipe for Attended<'_, '_> {
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.send(bytes)
    }

    fn recv(&mut self, place: &mut [u8]) -> io::Result<usize> {
        if self.attended.elapsed() >= ATTEND_EVERY {
            self.attend()?;
        }
        // Who has gone has sent all that it ever will.
        let gone = self.lines.exchange().has_ended(self.source);
        match self.stream.recv(place) {
            Err(cause) if gone && cause.kind() == ErrorKind::WouldBlock => Ok(0),
            outcome => outcome,
        }
    }

    fn wait(
        &mut self,
        to_send: bool,
        bell: Option<BorrowedFd<'_>>,
        most: Duration,
    ) -> io::Result<()> {
        let door = bell.unwrap_or_else(|| self.lines.fabric().fd());
        self.stream.wait(to_send, Some(door), most)?;
        self.attend()
    }
}
