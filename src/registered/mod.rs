// SPDX-License-Identifier: MIT OR Apache-2.0
//! Registered memory: one-sided reads and writes of what other members have lent.
//!
//! A member *registers* memory of its and gives others a [`Ticket`] of it, as a message say. Whoever has
//! one may [`put`](Memories::put) bytes there and [`get`](Memories::get) them from there, as far as the
//! owner allows; the owner's application takes no part.
//!
//! R1  Every operation that was accepted completes once, with `Ok` or with why not.
//! R2  `Ok` of a put: the bytes are visible at their owner, to whoever hears of it afterwards, by a
//!     message or by its announcement. `Ok` of a get: they are here.
//! R3  Operations of one member on memory of one other are carried out in the order of issue, and
//!     complete in it. Before it has completed, none has an order against messages.
//! R4  An announcement comes to who polls there (`Memories::poll`), after R2.
//! R5  After `fence` of an incarnation nothing of its touches memory here, and no operation on its
//!     memory is open. The driver does that when a suspect's connection is cut, and before the
//!     application hears of a view without it. Operations between members that stay go on across views.
//! R6  After `deregister` nobody touches the memory.
//!
//! *Who does it.* One thread of the group, `squall-memory`, begun at the first use, owns all streams and
//! is the only one that touches the memory; the turn does not, and pays nothing. The stream to a peer
//! is opened by the driver when the first operation asks for it: a connection of its own, so that no
//! put delays a message.
//!
//! *Devices.* Where a network device reads and writes memory itself (`direct`), operations go through a
//! queue of its and the stream carries announcements only. They change between the two when nothing is
//! under way in the other, so R3 holds. What the owner's device refuses is asked in the stream once more:
//! so its owner says why not, and what is behind it goes on.
//!
//! *Deliberately not*: remote atomics; operations in groups whose view is fixed.
//!
//! Cost: a put or get takes a lock for some instructions, and wakes the thread; that makes a system
//! call per record and chunk, and so does the thread at the other end.

mod caller;
pub mod direct;
mod door;
mod owner;
mod target;
mod ticket;
mod wire;
mod worker;

#[cfg(all(test, not(loom)))]
mod tests;

pub use door::Memories;
pub use owner::Owner;
pub use ticket::Ticket;

use crate::error::Status;
use crate::mem::place::Place;
use std::os::fd::AsFd;

/// Operations of one member that may be open at once, and so completions of its that wait to be polled.
pub const OPEN_MAX: usize = 1024;
/// Announcements that wait to be polled; with more, operations that announce wait.
pub const ANNOUNCED_MAX: usize = 4096;
/// Bytes that are moved in one step, at the most: for that long a fence may have to wait.
pub const CHUNK_BYTES: usize = 256 << 10;

/// One end of a connection; what keeps it from forked children is its maker's.
pub type Stream = Box<dyn AsFd + Send + Sync>;

/// What others may do to a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rights {
    pub read: bool,
    pub write: bool,
}

/// How a region is reached from other members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Path {
    /// Copied to and from sockets.
    Staged = 1,
    /// The same, and between them and the device through pinned memory of the host's.
    Bounce = 2,
    /// A network device reads and writes it itself: memory of the host's,
    Direct = 3,
    /// memory of a device through a dma-buf,
    DmaBuf = 4,
    /// or through the driver's module for that.
    Peermem = 5,
}

/// A region of mine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Info {
    pub bytes: u64,
    pub rights: Rights,
    pub path: Path,
}

/// An operation: `bytes` bytes of a region of mine, from `offset` on, and as many of a ticket's, from
/// `at` on.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    pub region: u64,
    pub offset: u64,
    pub ticket: Ticket,
    pub at: u64,
    pub bytes: u64,
    /// The application's own; comes back with the completion.
    pub tag: u64,
    /// Of a put: the owner hears of it, with that word.
    pub announce: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// A put of mine is over; or a get.
    Put = 1,
    Get = 2,
    /// Somebody has put something into a region of mine, and says so.
    Announced = 3,
}

/// What `Memories::poll` tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    pub what: What,
    /// Of an operation of mine.
    pub status: Status,
    pub tag: u64,
    /// Who owns the other region; of an announcement, who has put it.
    pub incarnation: u64,
    /// My region.
    pub region: u64,
    pub offset: u64,
    pub bytes: u64,
    /// Of an announcement.
    pub word: u64,
}

impl Completion {
    /// To be polled into.
    pub const NONE: Completion = Completion {
        what: What::Put,
        status: Status::Ok,
        tag: 0,
        incarnation: 0,
        region: 0,
        offset: 0,
        bytes: 0,
        word: 0,
    };
}

/// Memory that is lent.
struct Region {
    number: u64,
    /// A network device reads and writes it itself. Dropped first: then nothing lands there any more.
    keys: Option<direct::Keys>,
    place: Place,
    rights: Rights,
    path: Path,
}

/// An operation of mine on its way.
struct Operation {
    what: What,
    mine: std::sync::Arc<Region>,
    access: Access,
    /// It is carried out, but for the announcement.
    has_landed: bool,
}

impl Operation {
    fn is_over(&self, status: Status) -> Completion {
        Completion {
            what: self.what,
            status,
            tag: self.access.tag,
            incarnation: self.access.ticket.incarnation(),
            region: self.access.region,
            offset: self.access.offset,
            bytes: self.access.bytes,
            word: 0,
        }
    }
}
