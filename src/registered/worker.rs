// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory thread: one round after the other over all streams, and sleep when none goes on.
//!
//! W1  A round does one step of each kind for each stream, so a long operation holds up none but those
//!     behind it in its own stream.
//! W2  Who opens another stream has given up the one before: what has not been read of it is not carried
//!     out, or it might land on what comes by the new one.

use super::caller::Caller;
use super::door::{Mail, Shared};
use super::target::Target;
use super::{Operation, Stream};
use crate::error::Status;
use crate::mutant;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::collections::BTreeMap;
use std::os::fd::AsFd;

/// How a stream goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Went {
    /// Something was done: ask again.
    On,
    /// Nothing can be done now.
    Nowhere,
    /// The stream is over.
    Over,
}

#[derive(Default)]
pub(super) struct Worker {
    /// By incarnation.
    callers: BTreeMap<u64, Caller>,
    targets: Vec<Target>,
}

pub(super) fn run(shared: &Shared) {
    let mut worker = Worker::default();
    while let Some(went) = worker.round(shared) {
        if !went {
            worker.sleep(shared);
        }
    }
}

impl Worker {
    /// Reads the mail and does one round; whether anything was done. `None`: it is over.
    pub fn round(&mut self, shared: &Shared) -> Option<bool> {
        let (mail, stopped) = shared.take_mail();
        self.read(mail, shared);
        if let Some(status) = stopped {
            let open = std::mem::take(&mut self.callers).into_values();
            let open = open.flat_map(Caller::into_operations);
            shared.complete(open.map(|operation| (operation, status)));
            self.targets.clear();
            return None;
        }
        Some(self.go_round(shared))
    }

    fn read(&mut self, mail: Mail, shared: &Shared) {
        for (whom, stream) in mail.opened {
            match (self.callers.get_mut(&whom), stream) {
                (Some(caller), Some(stream)) => caller.begin(stream, shared),
                (Some(_), None) => self.give_up(whom, shared),
                (None, _) => {}
            }
        }
        for (whom, stream) in mail.offered {
            if !mutant!("memory-two-streams") {
                self.targets.retain(|target| target.whom != whom); // W2
            }
            self.targets.push(Target::new(whom, stream));
        }
        for operation in mail.asked {
            self.ask(operation, shared);
        }
        // What came before it, and no more: nothing is asked of who is fenced.
        for whom in mail.fenced {
            self.targets.retain(|target| target.whom != whom);
            self.give_up(whom, shared);
        }
        if mail.has_room {
            self.targets.iter_mut().for_each(|target| target.try_again());
        }
    }

    fn ask(&mut self, operation: Operation, shared: &Shared) {
        let whom = operation.access.ticket.incarnation();
        let caller = self.callers.entry(whom).or_insert_with(|| {
            if whom != shared.incarnation {
                shared.want(whom);
                return Caller::new(whom);
            }
            let mut caller = Caller::new(whom);
            if let Some((mine, theirs)) = pair() {
                caller.begin(mine, shared);
                self.targets.push(Target::new(whom, theirs));
            }
            caller
        });
        caller.ask(operation);
    }

    /// Operations on memory of that one are over.
    fn give_up(&mut self, whom: u64, shared: &Shared) {
        let Some(caller) = self.callers.remove(&whom) else { return };
        let open = caller.into_operations().into_iter();
        shared.complete(open.map(|operation| (operation, Status::Gone)));
    }

    /// Streams that others have opened.
    #[cfg(test)]
    pub fn targets(&self) -> usize {
        self.targets.len()
    }

    /// Whether anything was done.
    pub fn go_round(&mut self, shared: &Shared) -> bool {
        let mut any = false;
        let mut over = Vec::new();
        for (whom, caller) in &mut self.callers {
            match caller.go_on(shared) {
                Went::On => any = true,
                Went::Nowhere => {}
                Went::Over => over.push(*whom),
            }
        }
        for whom in over {
            any = true;
            self.give_up(whom, shared);
        }
        self.targets.retain_mut(|target| {
            let went = target.go_on(shared);
            any |= went != Went::Nowhere;
            went != Went::Over
        });
        any
    }

    /// Until a stream or a queue stirs, or there is mail.
    fn sleep(&mut self, shared: &Shared) {
        if !self.callers.values_mut().all(Caller::arm) {
            return std::thread::yield_now();
        }
        let bell = shared.bell();
        let mut watched = vec![PollFd::new(&bell, PollFlags::IN)];
        let (callers, targets) = (self.callers.values(), self.targets.iter());
        let of_callers = callers.filter_map(|caller| Some((caller.stream()?, caller.waits_for())));
        let of_targets = targets.map(|target| (target.stream(), target.waits_for()));
        let wakes =
            self.callers.values().filter_map(|caller| Some((caller.wakes()?, PollFlags::IN)));
        let streams: Vec<_> = wakes.chain(of_callers).chain(of_targets).collect();
        watched.extend(streams.iter().map(|(stream, what)| PollFd::new(stream, *what)));
        let _ = poll(&mut watched, None);
        let rang = !watched[0].revents().is_empty();
        // Who is watched for nothing is told of its end all the same.
        let first = watched.len() - self.targets.len();
        let ends = PollFlags::HUP | PollFlags::ERR;
        let ended: Vec<bool> =
            watched[first..].iter().map(|of| of.revents().intersects(ends)).collect();
        drop(watched);
        drop(streams);
        let mut ended = ended.into_iter();
        self.targets.retain(|target| {
            let ended = ended.next().is_some_and(|ended| ended);
            !(ended && target.waits_for().is_empty())
        });
        if rang {
            let _ = rustix::io::read(bell, &mut [0; 8]);
        }
    }
}

/// A stream to myself.
fn pair() -> Option<(Stream, Stream)> {
    let flags = SocketFlags::CLOEXEC;
    let (mine, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    Some((Box::new(mine), Box::new(theirs)))
}

/// What moves bytes of one stream, as far as the system lets it.
pub(super) fn receive(stream: &Stream, into: &mut [u8]) -> Result<usize, rustix::io::Errno> {
    let flags = rustix::net::RecvFlags::DONTWAIT;
    rustix::net::recv(stream.as_fd(), into, flags).map(|(count, _)| count)
}

pub(super) fn send(stream: &Stream, bytes: &[u8]) -> Result<usize, rustix::io::Errno> {
    let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
    rustix::net::send(stream.as_fd(), bytes, flags)
}
