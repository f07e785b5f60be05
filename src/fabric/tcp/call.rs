// SPDX-License-Identifier: MIT OR Apache-2.0
//! A call to a member: through a list of addresses, until one of them answers as a member does.
//!
//! Works while some are down: an address at which nobody is, or is not what was looked for, is
//! passed over, and its trouble is told only if no other address is better. Never waits: `step` is
//! called again and again, by who has other things to do as well.
//!
//! A host that is down is found by silence only, and a name may have many such addresses. So the next
//! one is tried beside it, `STAGGER` later; but handshakes are made one at a time, so that no member is
//! met twice.

use super::handshake::{Handshake, Progress};
use super::hello::Hello;
use super::secret;
use super::session::Session;
use super::talk::{Stepped, Talk};
use super::terms::{Reason, Refusal, Terms};
use crate::error::{Error, Status};
use crate::fabric::shm::fork::Unshared;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long one address may take to be connected, and to the welcome after that.
pub const TRY: Duration = Duration::from_secs(3);
/// How long an address that does not answer keeps the next one waiting, to the connection.
const STAGGER: Duration = Duration::from_millis(200);
/// Addresses that are tried at once, at the most: system calls of a step.
const TRIED_MAX: usize = 16;
/// Addresses that one step passes over at the most.
const STEP_TRIES_MAX: usize = 4;

/// Why nobody was met: of the address that came nearest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    pub refusal: Refusal,
    /// `None`: there was no address.
    pub remote: Option<SocketAddr>,
    /// All that answered said that they do not belong together with this process, and all answered.
    pub is_hopeless: bool,
}

/// How far a call is.
pub enum Called {
    Waits,
    Met(Box<Session>),
    /// No address is left.
    Failed(Failure),
}

pub struct Call {
    terms: Arc<Terms>,
    hello: Hello,
    left: VecDeque<SocketAddr>,
    /// Where calls come from: the address of an interface.
    source: Option<IpAddr>,
    each: Duration,
    /// Those that are not connected yet, in the order of the list.
    tried: Vec<Talk>,
    /// When the next one is tried beside them.
    next: Option<Instant>,
    talk: Option<Talk>,
    /// How long the address that is talked with took until it was connected.
    connected: Option<Duration>,
    best: Option<Failure>,
    /// Of all addresses that were passed over (`Failure::is_hopeless`).
    differ: bool,
}

impl Call {
    /// Prepares a call. `source`: the address of the interface to be used, for targets of its
    /// family. `each`: for one address, `TRY` usually. Errors of the hello come with the first step.
    pub fn new(
        addresses: Vec<SocketAddr>,
        source: Option<IpAddr>,
        terms: Arc<Terms>,
        hello: Hello,
        each: Duration,
    ) -> Call {
        let (left, tried, next, talk, best) = (addresses.into(), Vec::new(), None, None, None);
        Call {
            terms,
            hello,
            left,
            source,
            each,
            tried,
            next,
            talk,
            connected: None,
            best,
            differ: true,
        }
    }

    /// How long the network took to connect with the last address that could be: without the handshake,
    /// and as exactly as `step` was called.
    pub fn connected_after(&self) -> Option<Duration> {
        self.connected
    }

    /// Goes on. Some system calls at the most. After `Met` or `Failed` it is over, and fails.
    pub fn step(&mut self, now: Instant) -> Called {
        for _ in 0..STEP_TRIES_MAX {
            if self.talk.is_none() {
                self.connect(now);
            }
            if self.talk.is_some() {
                match self.carry_on(now) {
                    Ok(called) => return called,
                    Err((refusal, address)) => self.pass_over(refusal, address),
                }
                continue;
            }
            let due = self.next.is_none_or(|next| now >= next);
            let may = self.tried.is_empty() || due && self.tried.len() < TRIED_MAX;
            let Some(address) = self.left.front().copied().filter(|_| may) else { break };
            self.left.pop_front();
            match self.begin(address, now) {
                Ok(talk) => {
                    self.tried.push(talk);
                    self.next = Some(now + STAGGER);
                }
                Err(refusal) => self.pass_over(refusal, address),
            }
        }
        if self.talk.is_none() && self.tried.is_empty() && self.left.is_empty() {
            let best = self.best.take().unwrap_or_else(no_address);
            let is_hopeless = self.differ && differs(&best.refusal);
            return Called::Failed(Failure { is_hopeless, ..best });
        }
        Called::Waits
    }

    /// Looks whether one of those that are tried is connected: that is talked with.
    fn connect(&mut self, now: Instant) {
        let mut at = 0;
        while at < self.tried.len() && self.talk.is_none() {
            let late = now >= self.tried[at].until;
            match is_connected(&self.tried[at].socket) {
                Ok(true) => {
                    let mut talk = self.tried.remove(at);
                    let called = talk.until - self.each;
                    self.connected = Some(now.saturating_duration_since(called));
                    talk.until = now + self.each; // others may have kept it waiting
                    self.talk = Some(talk);
                }
                Ok(false) if !late => at += 1,
                outcome => {
                    let address = self.tried.remove(at).remote;
                    let cause = outcome.err().unwrap_or(Errno::TIMEDOUT);
                    self.pass_over(unreachable_there(cause), address);
                }
            }
        }
    }

    fn begin(&self, address: SocketAddr, now: Instant) -> Result<Talk, Refusal> {
        let own = |error| own(Reason::Refused, error);
        let nonce = secret::random().map_err(own)?;
        let handshake = Handshake::call(self.terms.clone(), self.hello.clone(), nonce);
        let handshake = handshake.map_err(own)?;
        let cannot = unreachable_there;
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = Unshared::make(|| socket_with(family, SocketType::STREAM, flags, None));
        let socket = socket.map_err(cannot)?;
        if let Some(source) = self.source.filter(|source| source.is_ipv6() == address.is_ipv6()) {
            bind(&socket, &SocketAddr::new(source, 0)).map_err(|cause| {
                let detail = format!(
                    "calls cannot come from {source}: {cause}: it has to be an address of this host \
                     (`ip address` lists them)"
                );
                Refusal::new(Reason::Refused, Status::Invalid, detail)
            })?;
        }
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => {}
            Err(cause) => return Err(cannot(cause)),
        }
        Ok(Talk::new(socket, handshake, address, now + self.each))
    }

    /// `Err`: this address is none.
    fn carry_on(&mut self, now: Instant) -> Result<Called, (Refusal, SocketAddr)> {
        let talk = self.talk.as_mut().expect("it has begun");
        let address = talk.remote;
        let late = now >= talk.until;
        match talk.step() {
            Stepped::Waits if late => {
                let detail = format!(
                    "it took the call and said nothing within {:.1} s: its process hangs, or is \
                     none of squall's",
                    self.each.as_secs_f64()
                );
                Err((Refusal::new(Reason::Slow, Status::NotComplete, detail), address))
            }
            Stepped::Waits => Ok(Called::Waits),
            Stepped::Agreed => {
                let talk = self.talk.take().expect("it has agreed");
                match talk.session() {
                    Ok(session) => Ok(Called::Met(Box::new(session))),
                    Err(error) => Err((own(Reason::HungUp, error), address)),
                }
            }
            Stepped::Refused | Stepped::Asked => {
                let Progress::Refused(refusal) = talk.handshake.progress() else {
                    unreachable!("nobody asks a caller, and who has hung up is told");
                };
                Err((refusal.clone(), address))
            }
        }
    }

    fn pass_over(&mut self, mut refusal: Refusal, address: SocketAddr) {
        self.talk = None;
        self.differ &= differs(&refusal) || refusal.reason == Reason::Itself;
        refusal.error.detail = format!("at {address}: {}", refusal.error.detail);
        let better = |before: &Failure| nearness(refusal.reason) > nearness(before.refusal.reason);
        if self.best.as_ref().is_none_or(better) {
            self.best = Some(Failure { refusal, remote: Some(address), is_hopeless: false });
        }
    }
}

fn differs(refusal: &Refusal) -> bool {
    matches!(refusal.error.status, Status::Mismatch | Status::WireVersion)
}

/// Which of two troubles tells more of what is wrong: the nearer to a member, the more.
fn nearness(reason: Reason) -> u8 {
    match reason {
        Reason::Itself => 0, // of no interest
        Reason::HungUp | Reason::Slow | Reason::Crowd => 1,
        Reason::Garbage => 2,
        Reason::Versions | Reason::Trust | Reason::Proof => 3,
        Reason::Group | Reason::Refused => 4,
        Reason::Shortage => 5, // it is in the way of all calls
    }
}

/// A trouble of this process: it lacks something, or `otherwise`.
fn own(otherwise: Reason, error: Error) -> Refusal {
    let lacks = matches!(error.status, Status::Limit | Status::NoMemory);
    Refusal { reason: if lacks { Reason::Shortage } else { otherwise }, error }
}

fn no_address() -> Failure {
    let detail = "there is no address to call";
    let refusal = Refusal::new(Reason::HungUp, Status::NotComplete, detail);
    Failure { refusal, remote: None, is_hopeless: false }
}

/// Whether a connection is there. `Err`: it will not be.
fn is_connected(socket: &Unshared) -> Result<bool, Errno> {
    let mut one = [PollFd::new(socket, PollFlags::OUT)];
    match poll(&mut one, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(0) | Err(Errno::INTR) => Ok(false),
        Ok(_) => sockopt::socket_error(socket)?.map(|()| true),
        Err(cause) => Err(cause),
    }
}

fn unreachable_there(cause: Errno) -> Refusal {
    let detail = match cause {
        Errno::CONNREFUSED => {
            "nobody listens (connection refused): is the member started, and is this its port?"
                .to_string()
        }
        Errno::TIMEDOUT => {
            "no answer: is the host up, and does no firewall drop this port?".to_string()
        }
        Errno::MFILE | Errno::NFILE => {
            let error = crate::fabric::shm::socket::system("cannot call", cause);
            return own(Reason::Refused, error);
        }
        cause => {
            let cause = std::io::Error::from(cause);
            format!("it cannot be reached: {cause}")
        }
    };
    let error = Error::new(Status::NotComplete, detail);
    Refusal { reason: Reason::HungUp, error }
}

#[cfg(test)]
mod tests;
