// SPDX-License-Identifier: MIT OR Apache-2.0
//! Slots in a ring of bytes, from the sender's side: reserve, publish, take up.
//!
//! A ring belongs to one lane. The *producer* (application thread) fills slots and counts them; the
//! *taker* (turn thread) gives each its index, which makes it a message. So a slot that is reserved
//! and never published delays nobody, and abort forgets.
//!
//! G1  A slot is as long as its message; it never crosses the ring's end (filler, see `layout`).
//! G2  `tail .. head` is what may still be read by someone; at most `window` slots and the ring's
//!     bytes. A slot is reused only when every member of the view has released it (S).
//! G3  While the first `hot_bytes` have room the producer stays there: a small working set is worth
//!     more than a deep window.
//!
//! Cost: a send is one copy, three own stores and one release store; the members' `released` cells
//! are looked at only when the ring seems full.

use super::Hook;
use super::frontier;
use super::layout::{Mode, Shape};
use crate::base::{Count, Epoch, Number, Rank};
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
    (epoch.0 << INDEX_BITS) + index
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
    bytes: Extent,
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
    fn prefetch_write(&self, at: u64, slot: u64) {
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

/// The rows whose `released` decides whether a slot of mine is free: all members of the subgroup,
/// suspects too. `// S`
pub struct Gate {
    /// (row, control block, byte of its released cell for this sender).
    pub rows: Vec<(Rank, Arc<Region>, usize)>,
    pub mode: Mode,
    pub sender: usize,
    pub senders: usize,
    pub hook: Option<Hook>,
}

impl Gate {
    /// How many of this sender's messages everyone has released.
    fn released(&self) -> Count {
        let mut least = u64::MAX;
        for (row, block, at) in &self.rows {
            if crate::mutant!("reserve-skips-a-member") && *row == self.rows[self.rows.len() - 1].0
            {
                continue;
            }
            if let Some(hook) = self.hook {
                hook(*row);
            }
            if crate::mutant!("loom-s-relaxed") {
                least = least.min(block.cell(*at).own());
                continue;
            }
            least = least.min(block.cell(*at).observe()); // S
        }
        match self.mode {
            Mode::Stable => frontier::share(Number(least), self.sender, self.senders),
            Mode::Received => Count(least),
        }
    }
}

/// The application thread's end of a lane.
pub struct Producer {
    ring: Ring,
    cells: Arc<LaneCells>,
    gate: Gate,
    window: u64,
    message_bytes_max: u32,
    hot_bytes: u64,
    /// Offset of the next slot, offset of the oldest unreleased one, bytes between (fillers too).
    head: u64,
    tail: u64,
    used: u64,
    /// Where the head was when `used` was last brought up to date (`used_now`).
    used_head: u64,
    /// Slots published, slots known to be released.
    filled: u64,
    freed: u64,
    /// Up to which offset and which count slots may be had without another look (`place`).
    easy_end: u64,
    easy_filled: u64,
    reserved: Option<Reservation>,
}

#[derive(Clone, Copy)]
struct Reservation {
    at: u64,
    len: u32,
    /// Bytes that a filler before it takes.
    skipped: u64,
}

impl Producer {
    pub fn new(
        ring: Ring,
        cells: Arc<LaneCells>,
        gate: Gate,
        shape: &Shape,
        hot_bytes: u64,
    ) -> Self {
        Producer {
            hot_bytes: hot_bytes.clamp(1, ring.size()),
            ring,
            cells,
            gate,
            window: u64::from(shape.window),
            message_bytes_max: shape.message_bytes_max,
            head: 0,
            tail: 0,
            used: 0,
            filled: 0,
            freed: 0,
            used_head: 0,
            easy_end: 0,
            easy_filled: 0,
            reserved: None,
        }
    }

    /// Copies `bytes` into the next slot and publishes it. The answer is the message's ordinal in
    /// this lane. `Again`: no room. `TooLong`, `NotReserved` (one is reserved): nothing is lost.
    #[inline(always)]
    pub fn send(&mut self, bytes: &[u8]) -> Result<u64, Status> {
        match self.send_easily(bytes) {
            Some(ordinal) => Ok(ordinal),
            None => self.send_slowly(bytes),
        }
    }

    /// The same while there is room that needs no look, which is nearly always; else `None`, and
    /// nothing has happened.
    #[inline(always)]
    pub fn send_easily(&mut self, bytes: &[u8]) -> Option<u64> {
        let len = bytes.len() as u64;
        if len > u64::from(self.message_bytes_max) {
            return None;
        }
        let (at, need) = (self.head, slot_bytes(len as u32));
        let easy = at + need <= self.easy_end && self.filled < self.easy_filled;
        if !easy || self.cells.stopped.own() != 0 || crate::mutant!("count-before-bytes") {
            return None;
        }
        if !self.ring.bytes.fill(at, KIND_MESSAGE << 48 | len, bytes) {
            return None;
        }
        Some(self.advance(at, need))
    }

    #[inline(never)]
    fn send_slowly(&mut self, bytes: &[u8]) -> Result<u64, Status> {
        let len = u32::try_from(bytes.len()).map_err(|_| Status::TooLong)?;
        let slot = self.claim(len)?;
        if crate::mutant!("count-before-bytes") {
            return Ok(self.fill(slot, len, &[bytes]));
        }
        self.ring.bytes.write(slot.at + HEADER_BYTES, bytes);
        Ok(self.count(slot, len))
    }

    /// The same for a message that lies in several pieces.
    #[inline]
    pub fn send_parts(&mut self, parts: &[&[u8]]) -> Result<u64, Status> {
        let total = parts.iter().map(|part| part.len()).sum::<usize>();
        let len = u32::try_from(total).map_err(|_| Status::TooLong)?;
        let slot = self.claim(len)?;
        let mut at = slot.at + HEADER_BYTES;
        for part in parts {
            self.ring.bytes.write(at, part);
            at += part.len() as u64;
        }
        Ok(self.count(slot, len))
    }

    /// The planted fault of edge W: the count first, then the bytes.
    #[cold]
    fn fill(&mut self, slot: Reservation, len: u32, parts: &[&[u8]]) -> u64 {
        let ordinal = self.count(slot, len);
        if let Some(hook) = self.gate.hook {
            hook(self.gate.rows[0].0);
        }
        self.ring.bytes.write(slot.at + HEADER_BYTES, parts[0]);
        ordinal
    }

    /// Lends `len` bytes of the next slot, to be filled in place. One at a time per lane.
    #[inline]
    pub fn reserve(&mut self, len: u32) -> Result<&mut [u8], Status> {
        let slot = self.claim(len)?;
        self.reserved = Some(slot);
        if !crate::mutant!("reserve-leaves-the-easy-path-open") {
            self.easy_filled = 0; // until published or aborted, nothing else has room
        }
        Ok(self.ring.bytes.lend_mut(slot.at + HEADER_BYTES, len as usize))
    }

    /// Sends the first `len` bytes of what was reserved; the answer is the message's ordinal.
    #[inline]
    pub fn publish(&mut self, len: u32) -> Result<u64, Status> {
        let slot = self.reserved.ok_or(Status::NotReserved)?;
        if len > slot.len {
            return Err(Status::TooLong);
        }
        self.reserved = None;
        Ok(self.count(slot, len))
    }

    /// Forgets what was reserved. No other member ever hears of it.
    pub fn abort(&mut self) -> Result<(), Status> {
        let slot = self.reserved.take().ok_or(Status::NotReserved)?;
        if crate::mutant!("abort-leaks") {
            self.used += slot_bytes(slot.len);
        }
        Ok(())
    }

    /// Messages sent so far: the next ordinal.
    pub fn ordinal(&self) -> u64 {
        self.filled
    }

    /// Messages sent that are not known to be released by everyone.
    pub fn unreleased(&self) -> u64 {
        self.filled - self.freed
    }

    #[inline(always)]
    fn claim(&mut self, len: u32) -> Result<Reservation, Status> {
        if len > self.message_bytes_max {
            return Err(Status::TooLong);
        }
        let need = slot_bytes(len);
        let easy = self.head + need <= self.easy_end && self.filled < self.easy_filled;
        if easy && self.cells.stopped.own() == 0 {
            return Ok(Reservation { at: self.head, len, skipped: 0 });
        }
        self.claim_slowly(len, need)
    }

    #[inline(never)]
    fn claim_slowly(&mut self, len: u32, need: u64) -> Result<Reservation, Status> {
        if self.reserved.is_some() {
            return Err(Status::NotReserved);
        }
        let stopped = self.cells.stopped.own();
        if stopped != 0 {
            return Err(Status::from_code(-(stopped as i32)).unwrap_or(Status::Failed));
        }
        if let Some(slot) = self.place(len, need) {
            return Ok(slot);
        }
        let released = self.free();
        let placed = self.place(len, need);
        let pressed = &self.cells.pressed;
        if let Some(slot) = placed {
            pressed[1].prepare(0);
            return Ok(slot);
        }
        pressed[0].prepare(pressed[0].own() + 1);
        pressed[1].publish(released.0 + 1);
        Err(Status::Again)
    }

    /// Finds room for `need` bytes at the head (G1, G2, G3), and how much more follows it.
    fn place(&mut self, len: u32, need: u64) -> Option<Reservation> {
        let full = self.filled - self.freed >= self.window;
        if full && !crate::mutant!("reserve-ignores-window") {
            return None;
        }
        let room = self.ring.size() - self.head;
        let ahead = self.head >= self.tail;
        // The rest of the ring is skipped if the slot does not fit there, or if the hot part is
        // free again. Skipping counts as use, so `used` says by itself whether the front is free.
        let skip = need > room || (self.head >= self.hot_bytes && ahead && need <= self.tail);
        let skipped = if skip { room } else { 0 };
        let used = self.used_now();
        if used + skipped + need > self.ring.size() && !crate::mutant!("reserve-ignores-bytes") {
            return None;
        }
        let at = if skip { 0 } else { self.head };
        // What follows in one piece: up to the ring's end, or the hot part's while the head is in
        // it, and not beyond what is free.
        let end = if at < self.hot_bytes { self.hot_bytes } else { self.ring.size() };
        let mut free = self.ring.size() - used - skipped;
        if crate::mutant!("easy-path-ignores-bytes") {
            free = self.ring.size();
        }
        self.easy_end = at + free.min(end.max(at + need) - at);
        self.easy_filled = self.freed + self.window;
        Some(Reservation { at, len, skipped })
    }

    /// Writes the header and counts the slot: from here on the turn thread may take it. `// W`
    #[inline(always)]
    fn count(&mut self, slot: Reservation, len: u32) -> u64 {
        if slot.at != self.head {
            self.skip(slot.skipped);
        }
        let header = self.ring.header(slot.at).expect("a slot lies in its ring");
        header[0].prepare(KIND_MESSAGE << 48 | u64::from(len));
        self.advance(slot.at, slot_bytes(len))
    }

    /// Counts the slot of `need` bytes at `at`, which is filled. `// W`
    #[inline(always)]
    fn advance(&mut self, at: u64, need: u64) -> u64 {
        if at + PREFETCH_BYTES + PREFETCH_SLOT_MAX < self.easy_end && need <= PREFETCH_SLOT_MAX {
            self.ring.prefetch_write(at, need);
        }
        self.head = at + need;
        let ordinal = self.filled;
        self.filled += 1;
        if crate::mutant!("loom-w-relaxed") {
            self.cells.filled.prepare(self.filled);
            return ordinal;
        }
        self.cells.filled.publish(self.filled); // W
        ordinal
    }

    /// Leaves the rest of the ring, with a filler if there is room for one (G1).
    #[cold]
    fn skip(&mut self, skipped: u64) {
        if let Some(filler) = self.ring.header(self.head)
            && !crate::mutant!("no-filler")
        {
            filler[0].prepare(KIND_FILLER << 48);
        }
        self.used = self.used_now() + skipped;
        self.used_head = 0; // where the next slot begins
    }

    /// Bytes between tail and head, fillers included.
    fn used_now(&self) -> u64 {
        self.used + (self.head - self.used_head)
    }

    /// Gives back the slots that every member has released. `// S, T`
    fn free(&mut self) -> Count {
        let taken = self.cells.taken.observe(); // T
        let released = self.gate.released();
        (self.used, self.used_head) = (self.used_now(), self.head);
        let (ring, mut tail, mut used, mut freed) = (&self.ring, self.tail, self.used, self.freed);
        let known = if crate::mutant!("freed-before-taken") { self.filled } else { taken };
        while freed < known {
            let (at, header) = ring.settle(tail);
            if header[1].own() & (COUNT_MAX - 1) >= released.0 {
                break;
            }
            if at != tail {
                used -= ring.size() - tail; // what was skipped
            }
            let bytes = slot_bytes(header[0].own() as u32);
            (used, tail, freed) = (used - bytes, at + bytes, freed + 1);
        }
        (self.tail, self.used, self.freed) = (tail, used, freed);
        released
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
