// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state of the group, for one that joins: before it asks to be joined, and up to the end of the
//! view before its first one.
//!
//! It asks the member in the lowest seat, and the next one if that fails. When the source says that
//! it has nearly caught up, it asks everybody to be joined, as without a state; the letter that
//! counts is the one that comes at the end of the state.
//!
//! F1  While a state comes, the door is attended all the same: others that join must be connected
//!     with this process, and it with those that have joined.
//! F2  Who has asked to be joined and fails then is joined perhaps. It comes back as another one.

use super::super::letter::Letter;
use super::super::lines::Lines;
use super::super::policy::Policy;
use super::super::rendezvous::CALL_AGAIN;
use super::super::state::{NEAR, SAID_EVERY_NS, options, text_of};
use super::Joining;
use crate::base::{Events, Peer};
use crate::error::{Error, Status};
use crate::fabric::shm::fork::Unshared;
use crate::fabric::shm::socket::stream_pair;
use crate::log_sink::{Level, say};
use crate::transfer::{Failure, Pipe, Progress, Socket, StateSink, receive};
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

pub enum Fetched {
    /// The state, and what the first view begins with.
    Whole(Box<Letter>),
    /// It failed too late (F2).
    Anew,
}

/// How a try with one source ended.
enum Tried {
    Whole(Box<Letter>),
    Failed { why: Failure, asked: bool },
}

impl Joining<'_> {
    /// Gets the state and becomes a member.
    pub fn fetch(
        &mut self,
        lines: &mut Lines,
        policy: &Policy,
        sink: &mut dyn StateSink,
    ) -> Result<Fetched, Error> {
        let began = Instant::now();
        let mut tried: Vec<u64> = Vec::new();
        let mut last = None;
        loop {
            lines.fabric().sleep(Some(CALL_AGAIN.as_nanos() as u64), &mut Events::default());
            while lines.exchange().heard().is_some() {}
            self.connect(lines)?;
            if self.is_late() {
                return Err(last.map_or_else(|| self.not_joined(), Error::from));
            }
            if !self.calls.is_empty() && began.elapsed() < SETTLE {
                continue;
            }
            let untried = self.connected.iter().filter(|(.., who)| !tried.contains(who));
            let Some(&(seat, source, who)) = untried.min_by_key(|(seat, ..)| *seat) else {
                tried.clear(); // whoever was busy may not be any more
                continue;
            };
            tried.push(who);
            match self.fetch_from(lines, policy, source, sink)? {
                Tried::Whole(letter) => return Ok(Fetched::Whole(letter)),
                Tried::Failed { why, .. } if !why.may_pass() => return Err(why.into()),
                Tried::Failed { why, asked } => {
                    say(Level::Notice, &format!("no state from seat {seat}: {why}"));
                    if asked && !self.is_late() {
                        return Ok(Fetched::Anew);
                    }
                    last = Some(why);
                }
            }
        }
    }

    fn fetch_from(
        &mut self,
        lines: &mut Lines,
        policy: &Policy,
        source: Peer,
        sink: &mut dyn StateSink,
    ) -> Result<Tried, Error> {
        let failed = |why, asked| Ok(Tried::Failed { why, asked });
        let (mine, theirs) = stream_pair()?;
        if !lines.exchange().offer(source, theirs.as_fd()) {
            return failed(Failure::Gone, false);
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
            near: None,
            attended: now,
            called: now,
            said: now,
            progress: Arc::default(),
            trouble: None,
        };
        let progress = pipe.progress.clone();
        let outcome = receive(&mut pipe, &options, sink, progress);
        let Attended { near, trouble, .. } = pipe;
        match (outcome, trouble) {
            (Ok(end), _) => match Letter::decode(&end.extra, me) {
                Some(letter) => Ok(Tried::Whole(Box::new(letter))),
                None => {
                    let detail = "a member's state ends with what begins no view; report this";
                    Err(Error::new(Status::PeerFault, detail))
                }
            },
            (Err(_), Some(trouble)) => Err(trouble),
            (Err(why), None) => failed(why, near.is_some()),
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
    /// Since when I have nearly caught up.
    near: Option<Instant>,
    attended: Instant,
    called: Instant,
    said: Instant,
    progress: Arc<Progress>,
    /// Why this process cannot be joined at all.
    trouble: Option<Error>,
}

impl Attended<'_, '_> {
    fn attend(&mut self) -> io::Result<()> {
        self.attended = Instant::now();
        self.lines.fabric().sleep(Some(0), &mut Events::default());
        while let Some((peer, bytes)) = self.lines.exchange().heard() {
            if peer == self.source && bytes == NEAR {
                self.near.get_or_insert(self.attended);
            }
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
            if since.elapsed() > self.joining.config.open_timeout {
                self.trouble = Some(self.joining.not_joined());
                return Err(ErrorKind::TimedOut.into());
            }
        }
        if self.said.elapsed() >= SAY_EVERY {
            self.said = self.attended;
            let group = &self.joining.config.group;
            let text = text_of(&self.progress.read());
            say(Level::Notice, &format!("joining {group}: {text}"));
        }
        Ok(())
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
    ) -> io::Result<bool> {
        let door = bell.unwrap_or_else(|| self.lines.fabric().fd());
        let over = self.stream.wait(to_send, Some(door), most)?;
        self.attend()?;
        Ok(over)
    }
}
