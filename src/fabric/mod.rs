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

#[doc(hidden)]
pub mod conformance;
pub mod shm;

use crate::base::{Events, Peer, Post, Posting};
use std::os::fd::BorrowedFd;

pub trait Fabric: Send {
    /// What the engine must post for this fabric.
    fn posting(&self) -> Posting;
    /// Carries the posts out, in order. Only to peers that the last `poll` did not call full.
    fn post(&mut self, posts: &[Post]);
    /// Adds what has happened. Never blocks. `look`: also at what costs a system call.
    fn poll(&mut self, look: bool, events: &mut Events);
    fn revoke(&mut self, peer: Peer);
    /// Readable when a peer rings, a connection ends or someone asks for something.
    fn fd(&self) -> BorrowedFd<'_>;
    /// Says "asleep" to the peers (with `room`: also waiting for room). Then look again, then sleep.
    fn arm(&mut self, room: bool);
    /// Sleeps on what `fd` watches, up to `timeout_ns` (`None`: for ever), then looks.
    fn sleep(&mut self, timeout_ns: Option<u64>, events: &mut Events);
    /// Says "awake". Cheap if not armed.
    fn disarm(&mut self);
    /// Tells the peers that this member leaves in good order.
    fn farewell(&mut self);
    /// Whether this member ever sleeps: else `arm` is refused by the driver.
    fn parks(&self) -> bool;
}
