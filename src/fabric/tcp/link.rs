// SPDX-License-Identifier: MIT OR Apache-2.0
//! The connection with one incarnation of a peer, after the handshake: its socket, what goes, what
//! comes, its memory here.
//!
//! L1  The peer's end is what the *reading* side finds, once all that was sent before is read (F5,
//!     N1): a write that fails only ends the writing.
//! L2  A socket that is closed here says so to the peer as soon as what waits has gone (`part`), and is
//!     kept for a while: closed at once, it would take what is on its way along.
//! L3  Silence ends no connection of a member's (F5): one whose callback takes long may read nothing for
//!     minutes. A path on which nothing is sent is tried by the kernel now and then, and given up when
//!     nobody answers (`talk::SILENCE`): so who dies with its host before it is a member takes no memory for
//!     ever. What is closed here is held for a dead path for `CLOSED_MS` more, not for minutes.

use super::incoming::{Incoming, Over};
use super::mirror::{Measures, Mirror};
use super::outgoing::{Outgoing, Parcel, Sent};
use super::seal::{KEY_BYTES, Sealer};
use super::talk::{SILENCE, end_after};
use super::wire::Flaw;
use crate::error::Error;
use crate::fabric::shm::fork::Unshared;
use crate::fabric::shm::socket::system;
use crate::mem::stream::{limit_unsent, receive, unsent};
use rustix::io::Errno;
use rustix::net::{Shutdown, getpeername, shutdown, sockopt};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes that the kernel holds unsent for a peer, about: what a word of mine waits behind when the
/// network is slower than I am.
const UNSENT_BYTES: u32 = 1 << 20;
/// How long a connection that is closed here is kept for the peer to take what is on its way.
const PARTING: Duration = Duration::from_millis(500);
/// How long the kernel waits for any answer to what it sends after that, in milliseconds.
const CLOSED_MS: u32 = 3_000;
/// What such a peer still says is dropped, so much in a look.
const DROPPED_BYTES: usize = 64 << 10;

/// A connection that both ends have agreed on.
pub struct Channel {
    /// Connected, and closed in forked children.
    pub socket: Unshared,
    /// The peer's.
    pub incarnation: u64,
    /// `None`: the network is trusted.
    pub keys: Option<Keys>,
    /// Bytes of the stream that have been read already.
    pub before: Vec<u8>,
}

impl Channel {
    /// A connection about which both ends know all of that otherwise.
    pub fn of(stream: TcpStream, incarnation: u64, keys: Option<Keys>) -> Result<Channel, Error> {
        let socket = Unshared::make(|| Ok(OwnedFd::from(stream)));
        let socket = socket.map_err(|cause| system("cannot keep a connection", cause))?;
        Ok(Channel { socket, incarnation, keys, before: Vec::new() })
    }
}

/// What records are sealed with, by direction: of this connection only.
#[derive(Clone)]
pub struct Keys {
    pub send: [u8; KEY_BYTES],
    pub receive: [u8; KEY_BYTES],
}

pub struct Link {
    pub incarnation: u64,
    /// The other end, for whoever looks.
    pub remote: Option<SocketAddr>,
    /// `None`: nothing comes, and nothing goes.
    socket: Option<Unshared>,
    incoming: Incoming,
    pub outgoing: Outgoing,
    pub mirror: Mirror,
    /// Nothing can be sent any more (L1).
    deaf: bool,
    /// What waits is the last; and it has been said that nothing follows.
    last: bool,
    shut: bool,
    /// Bytes that came before the first poll.
    untaken: bool,
    /// `fd` tells when there is something, and when there is room.
    pub watched: bool,
    pub awaited: bool,
}

impl Link {
    pub fn new(channel: Channel, measures: Arc<Measures>) -> Result<Link, Error> {
        let Channel { socket, incarnation, keys, before } = channel;
        let set = sockopt::set_tcp_nodelay(&socket, true);
        let set = set.and_then(|()| end_after(&socket, SILENCE));
        set.map_err(|cause| system("cannot set up a connection", cause))?;
        limit_unsent(socket.as_fd(), UNSENT_BYTES);
        let [opener, sealer] = match &keys {
            Some(keys) => [Some(Sealer::new(&keys.receive)), Some(Sealer::new(&keys.send))],
            None => [None, None],
        };
        let remote = getpeername(&socket).ok().flatten();
        Ok(Link {
            incarnation,
            remote: remote.and_then(|remote| SocketAddr::try_from(remote).ok()),
            socket: Some(socket),
            incoming: Incoming::new(opener, &before)?,
            outgoing: Outgoing::new(sealer)?,
            mirror: Mirror::new(measures),
            deaf: false,
            last: false,
            shut: false,
            untaken: !before.is_empty(),
            watched: false,
            awaited: false,
        })
    }

    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    #[inline]
    pub fn has_ended(&self) -> bool {
        self.socket.is_none()
    }

    /// Lands what has come. An error: nothing more will.
    #[inline]
    pub fn hear(&mut self) -> Result<(), Over> {
        let Some(socket) = &self.socket else { return Ok(()) };
        if std::mem::take(&mut self.untaken) {
            self.incoming.take(&mut self.mirror).map_err(Over::Flaw)?;
        }
        self.incoming.poll(socket.as_fd(), &mut self.mirror)
    }

    #[inline]
    pub fn push(&mut self, parcel: Parcel) {
        if !self.deaf && !self.last && self.socket.is_some() {
            self.outgoing.push(parcel);
        }
    }

    /// Sends what waits, as far as it goes.
    pub fn flush(&mut self) {
        let Some(socket) = &self.socket else { return };
        if self.deaf || self.shut {
            return;
        }
        match self.outgoing.flush(socket.as_fd()) {
            Sent::Ended => {
                self.deaf = true;
                self.outgoing.forget();
            }
            Sent::All if self.last => {
                let _ = shutdown(socket, Shutdown::Write);
                self.shut = true;
            }
            Sent::All | Sent::Some => {}
        }
    }

    /// In a poll: tries again what had no room.
    #[inline]
    pub fn flush_if_due(&mut self) {
        if self.outgoing.is_full() && self.outgoing.is_due() {
            self.flush();
        }
    }

    /// What waits is the last that is sent.
    pub fn part(&mut self) {
        self.last = true;
        self.flush();
    }

    /// Whether the peer's kernel has all that I shall ever say, or it does not matter any more.
    pub fn is_done(&self) -> bool {
        let Some(socket) = &self.socket else { return true };
        self.deaf || (self.shut && unsent(socket.as_fd()).is_none_or(|bytes| bytes == 0))
    }

    /// Drops what the peer says.
    pub fn ignore(&self) {
        if let Some(socket) = &self.socket {
            drop_some(socket.as_fd());
        }
    }

    /// Nothing of the peer's lands any more, and what waits does not go. The peer is not told: `Parting::shut`.
    pub fn close(&mut self) -> Option<Parting> {
        let socket = self.socket.take()?;
        self.outgoing.let_go();
        self.incoming.let_go();
        let _ = sockopt::set_tcp_user_timeout(&socket, CLOSED_MS);
        Some(Parting { socket, until: Instant::now() + PARTING })
    }
}

/// A connection that is closed here, and whose peer may have something of mine on its way (L2).
pub struct Parting {
    socket: Unshared,
    until: Instant,
}

impl Parting {
    /// Nothing follows: the peer hears of the end behind what is on its way.
    pub fn shut(&mut self) {
        let _ = shutdown(&self.socket, Shutdown::Write);
        self.until = Instant::now() + PARTING;
    }

    /// Whether it may be closed.
    pub fn is_over(&self, now: Instant) -> bool {
        drop_some(self.socket.as_fd()) || now >= self.until
    }
}

/// Whether the peer has closed, too.
fn drop_some(socket: BorrowedFd<'_>) -> bool {
    let mut bytes = [0; 4096];
    for _ in 0..DROPPED_BYTES / bytes.len() {
        match receive(socket, None, &mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::INTR) => return false,
            Err(_) => return true,
        }
    }
    false
}

/// Why a connection has ended, for the log. `None`: its peer has closed it.
pub fn sentence(over: Over, peer: usize) -> Option<String> {
    match over {
        Over::Closed => None,
        Over::Broken(cause) => Some(format!("the connection of peer {peer} broke: {cause}")),
        Over::Flaw(Flaw::Forged) => Some(format!(
            "peer {peer} is cut off: {}; somebody between us changes what is sent",
            Flaw::Forged
        )),
        Over::Flaw(flaw) => Some(format!("peer {peer} is cut off: it sent {flaw}")),
    }
}
