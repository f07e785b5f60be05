// SPDX-License-Identifier: MIT OR Apache-2.0
//! A lane's slots: payloads in a ring of bytes, descriptors that say where, runs that say which.
//!
//! The *producer* (`producer.rs`, application thread) writes payloads and descriptors and counts
//! them; the *taker* (turn thread) gives adjoining slots adjoining indices with one record, a *run*,
//! which makes them messages.
//!
//! G1  A payload never crosses the end of its ring, and its bytes are those of its message only.
//!
//! Cost: four own stores per take-up, however many messages it is.

use super::kept::Kept;
use super::layout::{LaneLayout, Shape};
use crate::base::{Count, Epoch};
use crate::error::Status;
use crate::limits::*;
use crate::mem::thread::{order_all_threads, this_thread};
use crate::mem::{Cell, Extent, Region, stream_fence};
use crossbeam_utils::CachePadded;
use std::sync::Arc;

/// Bytes of a ring that a payload of `len` bytes takes. Never none, so that two slots never begin at
/// the same place.
#[inline(always)]
pub fn slot_bytes(len: u32) -> u64 {
    (u64::from(len) + SLOT_ALIGN - 1 & !(SLOT_ALIGN - 1)).max(SLOT_ALIGN)
}

/// Smallest ring for messages of that size: one may be read while the next is written.
pub const fn ring_bytes_min(message_bytes_max: u64) -> u64 {
    let slot = message_bytes_max.next_multiple_of(SLOT_ALIGN);
    let least = if 2 * slot > RING_BYTES_MIN { 2 * slot } else { RING_BYTES_MIN };
    least.next_multiple_of(4096)
}

/// Bits of a run's first word that hold the index; the epoch's low bits are above.
const INDEX_BITS: u32 = 48;
const _: () = assert!(COUNT_MAX == 1 << INDEX_BITS);

/// The first word of a run: the index, tagged with the epoch.
#[inline(always)]
pub fn tagged(index: u64, epoch: Epoch) -> u64 {
    (epoch.0 << INDEX_BITS).wrapping_add(index)
}

/// The index of a first word, if it is of that epoch.
#[inline(always)]
pub fn index_of(word: u64, epoch: Epoch) -> Option<u64> {
    let index = word.wrapping_sub(epoch.0 << INDEX_BITS);
    (index < COUNT_MAX).then_some(index)
}

/// A descriptor's fields (`layout`).
const LEN_BITS: u32 = 31;
const LAP_SHIFT: u32 = 60;
const LAP_MASK: u64 = 15;
const _: () = assert!(MESSAGE_BYTES_MAX < 1 << LEN_BITS);
const _: () = assert!(RING_BYTES_MAX / SLOT_ALIGN <= 1 << (LAP_SHIFT - LEN_BITS));

/// How far ahead of its use a line is asked for, in bytes: about the time that a line takes from
/// another core at the speed of small messages. Slots above `PREFETCH_SLOT_MAX` need none.
pub const PREFETCH_BYTES: u64 = 2048;
pub const PREFETCH_SLOT_MAX: u64 = 4096;

/// A record of adjoining slots with adjoining indices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// As it is in the ring: to be checked with `index_of`.
    pub tagged: u64,
    /// Slots before it, and its own.
    pub slots: u64,
    pub count: u64,
    pub time_ns: u64,
}

/// One lane's slots.
#[derive(Clone)]
pub struct Ring {
    runs: Extent,
    descriptors: Extent,
    pub(super) payloads: Extent,
    mask: u64,
    /// Bits of `mask`.
    lap_shift: u32,
    pub layout: LaneLayout,
}

impl Ring {
    /// The slots of `lane` in a member's region of a subgroup.
    pub fn new(region: Arc<Region>, lane: usize, shape: &Shape) -> Ring {
        let layout = shape.lane();
        assert!(shape.ring_bytes % SLOT_ALIGN == 0);
        let first = lane * layout.bytes as usize;
        let part = |from: u64, bytes: u64| {
            Extent::new(region.clone(), first + from as usize, bytes as usize)
        };
        Ring {
            runs: part(0, layout.places * RUN_BYTES),
            descriptors: part(layout.descriptors, layout.places * DESCRIPTOR_BYTES),
            payloads: part(layout.payloads, shape.ring_bytes),
            mask: layout.places - 1,
            lap_shift: layout.places.trailing_zeros(),
            layout,
        }
    }

    /// Bytes of all payloads.
    #[inline(always)]
    pub fn size(&self) -> u64 {
        self.payloads.size()
    }

    /// What the descriptors of a slot's lap have in their highest bits.
    #[inline(always)]
    fn lap(&self, slot: u64) -> u64 {
        ((slot >> self.lap_shift) + 1 & LAP_MASK) << LAP_SHIFT
    }

    /// The descriptor of a slot, to be read or written.
    #[inline(always)]
    pub fn descriptor(&self, slot: u64) -> &Cell {
        &self.descriptors.words()[(slot & self.mask) as usize]
    }

    /// Writes the descriptor of a slot.
    #[inline(always)]
    pub(super) fn describe(&self, slot: u64, at: u64, len: u32) {
        let word = self.lap(slot) | at / SLOT_ALIGN << LEN_BITS | u64::from(len);
        self.descriptor(slot).prepare(word);
    }

    /// Where the payload of a slot begins, and its length, as its descriptor says. One of another lap
    /// says a place behind the ring's end.
    #[inline(always)]
    pub fn place(&self, slot: u64) -> (u64, u32) {
        let word = self.descriptor(slot).own() ^ self.lap(slot);
        ((word >> LEN_BITS) * SLOT_ALIGN, (word & ((1 << LEN_BITS) - 1)) as u32)
    }

    /// The bytes of a payload; `None` if they are not inside the ring.
    #[inline(always)]
    pub fn payload(&self, at: u64, len: u32) -> Option<&[u8]> {
        self.payloads.lend(at, len)
    }

    /// The words of a run's record.
    #[inline(always)]
    pub fn run_words(&self, run: u64) -> &[Cell; 4] {
        let first = (run & self.mask) as usize * 4;
        self.runs.words()[first..first + 4].try_into().expect("four words")
    }

    #[inline(always)]
    pub fn run(&self, run: u64) -> Run {
        let words = self.run_words(run);
        Run {
            tagged: words[0].own(),
            slots: words[1].own(),
            count: words[2].own(),
            time_ns: words[3].own(),
        }
    }

    /// Asks for what will be read of the slots `from..upto`, which have come: the record of run
    /// `run`, and descriptors.
    #[inline]
    pub fn prefetch(&self, run: u64, from: u64, upto: u64) {
        /// Descriptors in a line of 64 bytes, and lines asked for at the most.
        const PER_LINE: u64 = 64 / DESCRIPTOR_BYTES;
        const LINES: u64 = 32;
        self.runs.prefetch((run & self.mask) * RUN_BYTES);
        let upto = upto.min(from + LINES * PER_LINE);
        let mut slot = from & !(PER_LINE - 1);
        while slot < upto {
            self.descriptors.prefetch((slot & self.mask) * DESCRIPTOR_BYTES);
            slot += PER_LINE;
        }
    }

    /// Asks for the record of a run that will be written soon.
    #[inline(always)]
    fn prefetch_run(&self, run: u64) {
        self.runs.prefetch_write((run & self.mask) * RUN_BYTES);
    }

    /// Asks for the lines of a payload that will be read soon; of a long one for the first, and the
    /// processor guesses the rest.
    #[inline(always)]
    pub fn prefetch_payload(&self, at: u64, len: u32) {
        self.payloads.prefetch(at);
        if len > 48 {
            self.payloads.prefetch(at + 64);
            self.payloads.prefetch(at + u64::from(len) - 1);
        }
    }

    /// Asks for the lines that are about to be written: those of a payload of so many bytes at `at`,
    /// and descriptors after that of `slot`.
    #[inline(always)]
    pub(super) fn prefetch_write(&self, slot: u64, at: u64, bytes: u64) {
        self.payloads.prefetch_write(at);
        self.payloads.prefetch_write(at + 64);
        if bytes > 128 {
            self.payloads.prefetch_write(at + 128);
        }
        self.descriptors.prefetch_write((slot + 16 & self.mask) * DESCRIPTOR_BYTES);
    }

    // ---- for a fabric that copies: ranges of the lane's bytes ----

    /// The payloads of slots `from..upto`, at least one: one range, or two where they wrap; the second
    /// is empty if they do not. `None`: not all of them are there any more.
    pub fn payload_ranges(&self, from: u64, upto: u64) -> Option<[(u64, u64); 2]> {
        let payload = |slot: u64| {
            let (at, len) = self.place(slot);
            let end = at + slot_bytes(len);
            let base = self.layout.payloads;
            (end <= self.size()).then_some((base + at, base + end))
        };
        if upto - from > self.layout.places {
            return None;
        }
        let (first, last) = (payload(from)?, payload(upto - 1)?);
        if last.0 >= first.0 {
            return Some([(first.0, last.1), (0, 0)]);
        }
        // Places ascend up to the wrap, and after it all are below the first.
        let (mut before, mut behind) = (from, upto - 1);
        while behind - before > 1 {
            let middle = before + (behind - before) / 2;
            if payload(middle)?.0 >= first.0 { before = middle } else { behind = middle }
        }
        Some([(first.0, payload(before)?.1), (payload(behind)?.0, last.1)])
    }

    /// The descriptors of slots `from..upto`.
    pub fn descriptor_ranges(&self, from: u64, upto: u64) -> [(u64, u64); 2] {
        self.ranges(self.layout.descriptors, DESCRIPTOR_BYTES, from, upto)
    }

    /// The records of runs `from..upto`.
    pub fn run_ranges(&self, from: u64, upto: u64) -> [(u64, u64); 2] {
        self.ranges(0, RUN_BYTES, from, upto)
    }

    /// Items `from..upto`, at most `places`, of a ring that begins at byte `base`.
    fn ranges(&self, base: u64, bytes: u64, from: u64, upto: u64) -> [(u64, u64); 2] {
        let (first, count) = (from & self.mask, upto - from);
        let before = count.min(self.layout.places - first);
        let range = |first: u64, count: u64| (base + first * bytes, base + (first + count) * bytes);
        [range(first, before), range(0, count - before)]
    }
}

/// How many slots are published.
///
/// What has been streamed needs a fence, which waits for the stores. A producer that is the turn
/// thread, too, leaves it to the take-up: one for all that was sent since the last one.
#[derive(Debug)]
pub struct Filled {
    /// So many with all their bytes.
    pub fenced: Cell,
    /// So many, if a fence of the thread `by` has come in between.
    pub loose: Cell,
    pub by: Cell,
}

/// Where producer and taker of a lane meet: private memory of this process.
#[derive(Debug)]
pub struct LaneCells {
    /// Slots published by the producer. `// W`
    pub filled: CachePadded<Filled>,
    /// The thread that took slots last.
    pub taker: CachePadded<Cell>,
    /// Slots that have their index. `// T`
    pub taken: CachePadded<Cell>,
    /// How often a reserve found no room; and, while the last one did, one more than the count of
    /// messages that everyone had released then (0: nobody waits).
    pub pressed: CachePadded<[Cell; 2]>,
    /// Why nothing can be sent any more: a `Status`, negated; 0 while all is well.
    pub stopped: CachePadded<Cell>,
    /// One more than the slots that will ever count, once that is decided (`closing`); else 0.
    pub last: CachePadded<Cell>,
}

impl LaneCells {
    pub fn new() -> Arc<LaneCells> {
        Arc::new(LaneCells {
            filled: CachePadded::new(Filled {
                fenced: Cell::new(0),
                loose: Cell::new(0),
                by: Cell::new(0),
            }),
            taker: CachePadded::new(Cell::new(0)),
            taken: CachePadded::new(Cell::new(0)),
            pressed: CachePadded::new([Cell::new(0), Cell::new(0)]),
            stopped: CachePadded::new(Cell::new(0)),
            last: CachePadded::new(Cell::new(0)),
        })
    }
}

impl LaneCells {
    /// How many slots are published, all their bytes behind us. `// W`
    #[inline(always)]
    pub(super) fn published(&self, fences: &mut Fences) -> u64 {
        let Filled { fenced, loose, by } = &*self.filled;
        let (fenced, loose) = (fenced.observe().max(fences.done), loose.observe());
        if loose > fenced {
            if by.own() == this_thread() {
                stream_fence();
            } else {
                // Another thread polls than before, while that one sends: it stored before it
                // counted, and the barrier runs after I saw the count.
                fences.are_cheap = order_all_threads();
                if !fences.are_cheap {
                    self.taker.publish(0);
                }
            }
            fences.done = loose;
        }
        fenced.max(loose).min(fences.most)
    }

    /// Why nothing can be sent in this ring any more.
    #[inline(always)]
    pub(super) fn stopped(&self) -> Option<Status> {
        let stopped = self.stopped.own();
        (stopped != 0).then(|| Status::from_code(-(stopped as i32)).unwrap_or(Status::Failed))
    }

    /// From now on every send answers `status`. Whoever is told more than to ask again is not told
    /// that afterwards.
    pub(super) fn stop(&self, status: Status) {
        let code = (status as i32).unsigned_abs().into();
        if status == Status::Again {
            self.stopped.replace(0, code);
        } else {
            self.stopped.publish(code);
        }
    }
}

/// The turn thread's end of a lane: what has been taken up.
pub struct Taker {
    pub ring: Ring,
    pub(super) cells: Arc<LaneCells>,
    /// Slots taken, in how many runs.
    pub slots: u64,
    pub runs: u64,
    pub(super) fences: Fences,
}

/// What the turn thread has done for producers that leave fences to it.
#[derive(Clone, Copy)]
pub(super) struct Fences {
    /// Of the loose slots: so many have had theirs.
    done: u64,
    /// Whether producers hear which thread takes: no more once a barrier on all threads is dear.
    are_cheap: bool,
    /// So many slots count at the most: all, until the lane is settled (`closing`).
    pub(super) most: u64,
}

impl Fences {
    pub(super) const NONE: Fences = Fences { done: 0, are_cheap: true, most: u64::MAX };
}

impl Taker {
    pub fn new(ring: Ring, cells: Arc<LaneCells>) -> Taker {
        Taker { ring, cells, slots: 0, runs: 0, fences: Fences::NONE }
    }

    #[cfg(test)]
    pub fn cells(&self) -> &LaneCells {
        &self.cells
    }

    /// Whether slots are published that are not taken up yet.
    #[inline(always)]
    pub fn has_waiting(&self) -> bool {
        let Filled { fenced, loose, .. } = &*self.cells.filled;
        if crate::mutant!("loose-slots-are-overlooked") {
            return fenced.observe() > self.slots;
        }
        fenced.observe().max(loose.observe()).min(self.fences.most) > self.slots
    }

    /// How many there are, all their bytes behind us. `// W`
    #[inline(always)]
    pub fn waiting(&mut self) -> u64 {
        self.cells.published(&mut self.fences) - self.slots
    }

    /// What is published and not before slot `from`: to be sent again in another ring.
    pub fn keep(&mut self, from: u64) -> Kept {
        let upto = self.slots + self.waiting();
        Kept::new(self.ring.clone(), self.cells.clone(), self.fences, from, upto)
    }

    /// Gives the next `count` slots, at least one, the indices from `next` on.
    #[inline]
    pub fn take(&mut self, count: u64, next: Count, time_ns: u64, epoch: Epoch) {
        assert!(count > 0 && next.0 + count <= COUNT_MAX);
        if crate::mutant!("loom-t-early") {
            self.cells.taken.publish(self.slots + count);
        }
        // The record was last that of a run whose slots the producer has had back: it counted them
        // before it filled this many more (S, then W).
        let words = self.ring.run_words(self.runs);
        if !crate::mutant!("index-not-written") {
            words[0].prepare(tagged(next.0, epoch));
        }
        words[1].prepare(self.slots);
        words[2].prepare(count);
        words[3].prepare(time_ns);
        self.ring.prefetch_run(self.runs + 4);
        let me = this_thread();
        if self.cells.taker.own() != me && self.fences.are_cheap {
            self.cells.taker.publish(me);
        }
        self.runs += 1;
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
        self.cells.stop(status);
    }
}
