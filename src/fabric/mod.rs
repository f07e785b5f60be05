// SPDX-License-Identifier: MIT OR Apache-2.0
//! One-sided writes to peers: the one verb to the world.
//!
//! F1  A word (8 bytes, aligned) lands whole.
//! F2  Posts to one peer land in the order posted.
//! F3  `Words` land with the values posted; a `Span` with any value its source had after posting.
//! F4  After `revoke(peer)` nothing more of that peer's is observed here.
//! F5  A lost peer is reported once. Silence is not reported: that is the engine's business.
//! F6  An own cell may also be seen by peers as soon as it is advanced, before any post (shared
//!     memory does this).
//!
//! Posts and events speak of the ranks of the view that was entered last. In the first one `Peer(r)`
//! is rank r.

#[doc(hidden)]
pub mod conformance;
pub mod greeting;
pub mod mixed;
pub mod shm;
#[forbid(unsafe_code)]
pub mod tcp;
#[doc(hidden)]
pub mod verbs;

use crate::base::{Epoch, Events, Peer, Post, Posting, Rank};
use crate::error::Error;
use crate::mem::Region;
use crate::registered::direct::Device;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
pub use verbs::queue::Counts;

pub trait Fabric: Send {
    /// What the engine must post for this fabric.
    fn posting(&self) -> Posting;
    /// Whether every turn begins with a poll: posts of peers land there only, or it says who is full; and
    /// my beat must be sent (`beat`).
    fn polls(&self) -> bool {
        false
    }
    /// Carries the posts out, in order. Only to peers that the last `poll` did not call full.
    fn post(&mut self, posts: &[Post]);
    /// Adds what has happened. Never blocks. `look`: also at what costs a system call.
    fn poll(&mut self, look: bool, events: &mut Events);
    fn revoke(&mut self, peer: Peer);
    /// Readable when a peer rings, a connection ends or someone asks for something.
    fn fd(&self) -> BorrowedFd<'_>;
    /// Sends my beat, if it has moved, to peers that do not read my memory. Between two calls of others
    /// only, like them, but on any thread. Never blocks.
    fn beat(&mut self) {}
    /// Says "asleep" to the peers (with `room`: also waiting for room). Then look again, then sleep.
    fn arm(&mut self, room: bool);
    /// Sleeps on what `fd` watches, up to `timeout_ns` (`None`: for ever), then looks.
    fn sleep(&mut self, timeout_ns: Option<u64>, events: &mut Events);
    /// Says "awake". Cheap if not armed.
    fn disarm(&mut self);
    /// Tells by what each peer is reached, by rank of the view entered last: for whoever looks from
    /// outside, now and then. No system call.
    fn ways(&self, tell: &mut dyn FnMut(Rank, Way)) {
        let _ = tell;
    }
    /// What reads and writes registered memory itself. `None`: it is copied.
    fn device(&self) -> Option<Arc<dyn Device>> {
        None
    }
    /// Tells the peers that this member leaves in good order.
    fn farewell(&mut self);
    /// Whether this member ever sleeps: else `arm` is refused by the driver.
    fn parks(&self) -> bool;
    /// For groups whose views change. `None`: this one's view is fixed.
    fn exchange(&mut self) -> Option<&mut dyn Exchange> {
        None
    }
}

/// By what a peer is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Shm,
    Tcp {
        /// The other end of the connection.
        remote: Option<SocketAddr>,
        /// Bytes that wait here, because its socket has no room.
        queued_bytes: u64,
        /// How often a try to send found none.
        full: u64,
    },
    Verbs {
        /// The other end of the connection beside it.
        remote: Option<SocketAddr>,
        /// Posts that wait here, for room in its queue or for keys; how often a try found none.
        waiting: u64,
        full: u64,
        counts: Counts,
    },
}

/// One member's memory in one epoch, as it lies here.
#[derive(Clone)]
pub struct Memory {
    pub block: Arc<Region>,
    /// By subgroup; `None` where it does not send, or I do not listen.
    pub rings: Vec<Option<Arc<Region>>>,
}

/// How many bytes a member's memory has, at the least: its control block, and rings by subgroup.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sizes {
    pub block: usize,
    pub rings: Vec<Option<usize>>,
}

/// Whom a member's door lets in that wants to join.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Not yet; and, once said, never again: whoever is no member any more gives its seat away.
    Nobody,
    /// This member joins itself: those in higher seats. It calls those in lower ones.
    Higher,
    All,
}

/// What a peer has shown for an epoch.
pub enum Shown {
    /// Nothing yet.
    Waits,
    Memory(Memory),
    /// Its connection has ended, or it has shown what cannot be used: nothing will come.
    Never,
}

/// Each epoch has memory of its own, and every member shows its own to the others, over connections
/// that outlive the views.
///
/// N1  A connection belongs to an incarnation. What a member has shown before its connection ended is
///     still there; what one had that is none yet is not.
/// N2  Memory of an epoch is used in that epoch only, and is there as long as anybody uses it: a
///     member that is not in the next view may go on reading.
/// N3  An error says what this process lacks; no peer is at fault, and nothing is lost: the same may be
///     asked again. What a peer shows that cannot be used is that peer's fault.
/// N4  After `revoke(peer)` its connection is closed, and it is told by that at the latest.
pub trait Exchange {
    /// The connection of an incarnation that there is or was.
    fn peer(&self, incarnation: u64) -> Option<Peer>;
    /// Whose connection that is.
    fn incarnation(&self, peer: Peer) -> Option<u64>;
    /// Who may connect from now on, beside those that have.
    fn admit(&mut self, whom: Admission);
    /// Whether that has ended.
    fn has_ended(&self, peer: Peer) -> bool;
    /// My memory of an epoch, with rings for these subgroups at the least; what is not there yet is
    /// made: some system calls, and zeroing pages. Epoch 0 is the first one that I shall be in,
    /// whichever that is.
    fn own(&mut self, epoch: Epoch, subgroups: &[usize]) -> Result<Memory, Error>;
    /// Shows my memory of an epoch, made before, to a peer: the block and the rings of `subgroups`.
    /// What it has been shown already is not shown again.
    fn show(&mut self, epoch: Epoch, to: Peer, subgroups: &[usize]) -> Result<(), Error>;
    /// What a peer has shown of an epoch; it has at least those sizes. Does not look for more. Of one
    /// that joins in this view it is epoch 0.
    fn shown(&mut self, peer: Peer, epoch: Epoch, sizes: &Sizes) -> Result<Shown, Error>;
    /// What this process lacks, if somebody who says something cannot be heard for that. It is tried
    /// again by itself.
    fn shortage(&self) -> Option<Error>;
    /// A view begins: its members' connections by rank (mine: `None`) and control blocks. Ends of
    /// connections are reported again, by their new ranks.
    fn enter(&mut self, epoch: Epoch, me: Rank, peers: &[Option<Peer>], blocks: &[Arc<Region>]);
    /// The group runs at that wire version from now on: who comes to the door and does not speak it is
    /// refused.
    fn speak(&mut self, wire: u16);
    /// Makes `fd` readable after that time: for who sleeps on it elsewhere, and must beat.
    fn alarm(&mut self, after_ns: u64);
    /// Says something to a peer; `false`: it is gone, or does not read.
    fn say(&mut self, to: Peer, bytes: &[u8]) -> bool;
    /// What a peer has said.
    fn heard(&mut self) -> Option<(Peer, Vec<u8>)>;
    /// Hands a peer one end of a stream, for the state transfer; `false`: as `say`.
    fn offer(&mut self, to: Peer, stream: BorrowedFd<'_>) -> bool;
    /// What a peer has handed over.
    fn offered(&mut self) -> Option<(Peer, OwnedFd)>;
    /// Hands a peer one end of a stream, for registered memory; `false`: as `say`. Never waits: what
    /// becomes of it later is seen at the other end.
    fn reach(&mut self, to: Peer, stream: OwnedFd) -> bool {
        let _ = (to, stream);
        false
    }
    /// What an incarnation has handed over for that.
    fn reached(&mut self) -> Option<(u64, OwnedFd)> {
        None
    }
}
