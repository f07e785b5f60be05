// SPDX-License-Identifier: MIT OR Apache-2.0
//! A handshake on a socket, as the door and a call carry it on: never waits, and each step of it is
//! a bounded number of system calls.
//!
//! W1  It reads what the handshake wants and no more, at most `PART_BYTES` at a time, at most
//!     `READS_MAX` times in all: an honest peer needs some ten, and one that dribbles its bytes is
//!     cut off.

use super::handshake::{Handshake, Progress};
use super::session::Session;
use super::terms::{Reason, Refusal};
use crate::error::{Error, Status};
use crate::fabric::shm::fork::Unshared;
use crate::fabric::shm::socket::system;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, getsockname, recv, send, sockopt};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Bytes of one read.
const PART_BYTES: usize = 4096;
/// Reads of one handshake.
const READS_MAX: u32 = 256;
/// Reads of one step; the rest at the next look.
const STEP_READS_MAX: u32 = 8;

/// After which silence of the other's *kernel* a connection ends on which nothing of mine is on its way:
/// that of one that joins and whose host has failed would stay for ever. About as long as the kernel
/// tries where something is.
const SILENCE: Silence =
    Silence { idle: Duration::from_secs(60), every: Duration::from_secs(60), count: 14 };

/// Asks after `idle`, so often, and takes no answer for an end.
#[derive(Clone, Copy)]
pub struct Silence {
    pub idle: Duration,
    pub every: Duration,
    pub count: u32,
}

/// From now on the connection ends after such a silence.
pub fn end_after(socket: &Unshared, silence: Silence) -> Result<(), Errno> {
    sockopt::set_tcp_keepidle(socket, silence.idle)?;
    sockopt::set_tcp_keepintvl(socket, silence.every)?;
    sockopt::set_tcp_keepcnt(socket, silence.count)?;
    sockopt::set_socket_keepalive(socket, true)
}

pub struct Talk {
    pub socket: Unshared,
    pub handshake: Handshake,
    pub remote: SocketAddr,
    /// When it is too late.
    pub until: Instant,
    reads: u32,
}

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stepped {
    /// It waits for the other, or for room to send.
    Waits,
    /// A decision is needed.
    Asked,
    /// All was said: `session`.
    Agreed,
    /// All was said: the handshake knows why.
    Refused,
}

impl Talk {
    pub fn new(socket: Unshared, handshake: Handshake, remote: SocketAddr, until: Instant) -> Talk {
        Talk { socket, handshake, remote, until, reads: 0 }
    }

    /// Whether it waits for room to send.
    pub fn is_writing(&self) -> bool {
        !self.handshake.output().is_empty()
    }

    pub fn step(&mut self) -> Stepped {
        let mut part = [0; PART_BYTES];
        for _ in 0..STEP_READS_MAX {
            if !self.flush() {
                return Stepped::Refused; // nobody hears the rest
            }
            match self.handshake.progress() {
                Progress::Asked(_) => return Stepped::Asked,
                _ if self.is_writing() => return Stepped::Waits,
                Progress::Agreed => return Stepped::Agreed,
                Progress::Refused(_) => return Stepped::Refused,
                Progress::Reads => {}
            }
            let count = self.handshake.wanted().min(PART_BYTES);
            self.reads += 1;
            if self.reads > READS_MAX {
                let detail = format!("it sends a few bytes at a time, {READS_MAX} times by now");
                self.handshake.end(Refusal::new(Reason::Slow, Status::PeerFault, detail));
                return Stepped::Refused;
            }
            match recv(&self.socket, &mut part[..count], RecvFlags::DONTWAIT) {
                Ok((0, _)) => self.handshake.hung_up(),
                Ok((got, _)) => {
                    let taken = self.handshake.feed(&part[..got]);
                    debug_assert!(taken == got || self.handshake.wanted() == 0);
                }
                Err(Errno::AGAIN | Errno::INTR) => {
                    self.reads -= 1;
                    return Stepped::Waits;
                }
                Err(_) => self.handshake.hung_up(),
            }
        }
        Stepped::Waits
    }

    /// Sends what it can. `false`: nobody is there.
    fn flush(&mut self) -> bool {
        while self.is_writing() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match send(&self.socket, self.handshake.output(), flags) {
                Ok(count) => self.handshake.sent(count),
                Err(Errno::AGAIN | Errno::INTR) => return true,
                Err(_) => {
                    self.handshake.hung_up();
                    return false;
                }
            }
        }
        true
    }

    /// The connection, when both have agreed. `Err`: the system would not prepare it.
    pub fn session(self) -> Result<Session, Error> {
        let remote = self.remote;
        let what = "cannot use a member's connection";
        sockopt::set_tcp_nodelay(&self.socket, true).map_err(|cause| system(what, cause))?;
        end_after(&self.socket, SILENCE).map_err(|cause| system(what, cause))?;
        let local = getsockname(&self.socket).map_err(|cause| system(what, cause))?;
        let local = SocketAddr::try_from(local).map_err(|cause| system(what, cause))?;
        let agreed = self.handshake.agreed().expect("both have agreed");
        Ok(Session {
            socket: self.socket,
            peer: agreed.peer,
            keys: agreed.keys,
            wire: agreed.wire,
            versions: agreed.versions,
            local,
            remote,
            leftover: Vec::new(),
        })
    }
}
