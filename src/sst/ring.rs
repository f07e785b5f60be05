// SPDX-License-Identifier: MIT OR Apache-2.0
//! Slots in a ring of bytes, and the turn thread's end of it: what is sent gets its index here.
//!
//! A ring belongs to one lane. The *producer* (`producer.rs`, application thread) fills slots and
//! counts them; the *taker* (turn thread) gives each its index, which makes it a message.
//!
//! G1  A slot is as long as its message; it never crosses the ring's end (filler, see `layout`).
//!
//! Cost: two own stores per message taken up.

use super::layout::Shape;
use crate::base::{Count, Epoch};
use crate::error::Status;
use crate::limits::{COUNT_MAX, HEADER_BYTES, SLOT_ALIGN};
use crate::mem::{Cell, Extent, Region};
use crossbeam_utils::CachePadded;
use std::sync::Arc;

/// Kinds of a slot: bits 48..64 of its first word.
pub const KIND_MESSAGE: u64 = 1;
pub const KIND_FILLER: u64 = 2;

/// Bytes of a slot with a payload of `len` bytes.
#[inline(always)]
pub fn slot_bytes(len: u32) -> u64 {
    (HEADER_BYTES + SLOT_ALIGN - 1 + u64::from(len)) & !(SLOT_ALIGN - 1)
}

/// Smallest ring for messages of that size: G1 needs room for a message and for the same once more
/// before the end.
pub const fn ring_bytes_min(message_bytes_max: u64) -> u64 {
    let slot = (HEADER_BYTES + message_bytes_max).next_multiple_of(SLOT_ALIGN);
    let least = if 2 * slot > crate::limits::RING_BYTES_MIN {
        2 * slot
    } else {
        crate::limits::RING_BYTES_MIN
    };
    least.next_multiple_of(4096)
}

/// Bits of a header's second word that hold the index; the epoch's low bits are above.
const INDEX_BITS: u32 = 48;
const _: () = assert!(COUNT_MAX == 1 << INDEX_BITS);

/// The second word of a header: the index, tagged with the epoch, so that one comparison tells the
/// message that is due from what an earlier lap or another epoch left.
#[inline(always)]
pub fn tagged(index: u64, epoch: Epoch) -> u64 {
    (epoch.0 << INDEX_BITS).wrapping_add(index)
}

/// The index of a second word, if it is of that epoch.
#[inline(always)]
pub fn index_of(word: u64, epoch: Epoch) -> Option<u64> {
    let index = word.wrapping_sub(epoch.0 << INDEX_BITS);
    (index < COUNT_MAX).then_some(index)
}

/// How far ahead of its use a line is asked for, in bytes: about the time that a line takes from
/// another core at the speed of small messages. Slots above `PREFETCH_SLOT_MAX` need none.
pub const PREFETCH_BYTES: u64 = 2048;
pub const PREFETCH_SLOT_MAX: u64 = 4096;

/// One lane's ring.
#[derive(Clone)]
pub struct Ring {
    pub(super) bytes: Extent,
}

impl Ring {
    /// The ring of `lane` in a member's region of a subgroup.
    pub fn new(region: Arc<Region>, lane: usize, shape: &Shape) -> Ring {
        let bytes = shape.ring_bytes as usize;
        assert!(shape.ring_bytes % SLOT_ALIGN == 0);
        Ring { bytes: Extent::new(region, lane * bytes, bytes) }
    }

    #[inline(always)]
    pub fn size(&self) -> u64 {
        self.bytes.size()
    }

    /// The header at an offset; `None` where there is no room for one before the ring's end.
    #[inline(always)]
    pub fn header(&self, at: u64) -> Option<&[Cell; 4]> {
        self.bytes.header(at)
    }

    /// The payload of the slot at an offset; `None` where it would cross the ring's end.
    #[inline(always)]
    pub fn payload(&self, at: u64, len: u32) -> Option<&[u8]> {
        self.bytes.lend(at + HEADER_BYTES, len)
    }

    /// Asks for the lines of a slot of `slot` bytes, some slots ahead of the one at `at`.
    #[inline(always)]
    pub fn prefetch(&self, at: u64, slot: u64) {
        self.bytes.prefetch(at + PREFETCH_BYTES);
        self.bytes.prefetch(at + PREFETCH_BYTES + 64);
        if slot > 128 {
            self.bytes.prefetch(at + PREFETCH_BYTES + 128);
        }
    }

    /// The same for the slots that are about to be written.
    #[inline(always)]
    pub(super) fn prefetch_write(&self, at: u64, slot: u64) {
        self.bytes.prefetch_write(at + PREFETCH_BYTES);
        self.bytes.prefetch_write(at + PREFETCH_BYTES + 64);
        if slot > 128 {
            self.bytes.prefetch_write(at + PREFETCH_BYTES + 128);
        }
    }

    /// The slot that follows offset `at`: there, or at the first byte because of a filler or too
    /// little room for a header. Only for slots that have been published.
    #[inline(always)]
    pub fn settle(&self, at: u64) -> (u64, &[Cell; 4]) {
        match self.header(at) {
            Some(header) if header[0].own() >> 48 != KIND_FILLER => (at, header),
            _ => (0, self.header(0).expect("a ring holds a header")),
        }
    }
}

/// Where producer and taker of a lane meet: private memory of this process.
#[derive(Debug)]
pub struct LaneCells {
    /// Slots published by the producer. `// W`
    pub filled: CachePadded<Cell>,
    /// Slots that have their index. `// T`
    pub taken: CachePadded<Cell>,
    /// How often a reserve found no room; and, while the last one did, one more than the count of
    /// messages that everyone had released then (0: nobody waits).
    pub pressed: CachePadded<[Cell; 2]>,
    /// Why nothing can be sent any more: a `Status`, negated; 0 while all is well.
    pub stopped: CachePadded<Cell>,
}

impl LaneCells {
    pub fn new() -> Arc<LaneCells> {
        Arc::new(LaneCells {
            filled: CachePadded::new(Cell::new(0)),
            taken: CachePadded::new(Cell::new(0)),
            pressed: CachePadded::new([Cell::new(0), Cell::new(0)]),
            stopped: CachePadded::new(Cell::new(0)),
        })
    }
}

/// The turn thread's end of a lane: what has been taken up.
pub struct Taker {
    pub ring: Ring,
    cells: Arc<LaneCells>,
    /// Offset of the next slot to take; slots taken.
    pub at: u64,
    pub slots: u64,
    /// End of what was used before the last wrap, the filler's header included.
    pub wrapped_at: u64,
}

impl Taker {
    pub fn new(ring: Ring, cells: Arc<LaneCells>) -> Taker {
        Taker { ring, cells, at: 0, slots: 0, wrapped_at: 0 }
    }

    /// Slots published and not taken up yet.
    #[inline(always)]
    pub fn waiting(&self) -> u64 {
        self.cells.filled.observe() - self.slots // W
    }

    /// Gives the next `count` slots the indices from `next` on.
    #[inline]
    pub fn take(&mut self, count: u64, next: Count, time: u64, epoch: Epoch) {
        assert!(next.0 + count <= COUNT_MAX);
        if crate::mutant!("loom-t-early") {
            self.cells.taken.publish(self.slots + count);
        }
        let (ring, mut offset) = (&self.ring, self.at);
        for index in next.0..next.0 + count {
            let (at, header) = ring.settle(offset);
            if at < offset && !crate::mutant!("stale-wrapped-at") {
                let filler = ring.header(offset).is_some();
                self.wrapped_at = offset + if filler { HEADER_BYTES } else { 0 };
            }
            if !crate::mutant!("index-not-written") {
                header[1].prepare(tagged(index, epoch));
            }
            header[2].prepare(time);
            offset = at + slot_bytes(header[0].own() as u32);
        }
        self.at = offset;
        self.slots += count;
        self.cells.taken.publish(self.slots); // T
    }

    /// How often the producer found no room. Looked at before `waits_beyond`.
    pub fn pressed(&self) -> u64 {
        self.cells.pressed[0].observe()
    }

    /// While the producer waits for room: how many messages everyone had released when it looked.
    pub fn waits_beyond(&self) -> Option<Count> {
        self.cells.pressed[1].observe().checked_sub(1).map(Count)
    }

    /// From now on every send answers `status`.
    pub fn stop(&self, status: Status) {
        self.cells.stopped.publish((status as i32).unsigned_abs().into());
    }
}
