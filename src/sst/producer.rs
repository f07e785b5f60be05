// SPDX-License-Identifier: MIT OR Apache-2.0
//! The application thread's end of a lane: reserve, fill, publish.
//!
//! A slot that is reserved and never published delays nobody, and abort forgets.
//!
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
use super::ring::{
    KIND_FILLER, KIND_MESSAGE, LaneCells, PREFETCH_BYTES, PREFETCH_SLOT_MAX, Ring, slot_bytes,
};
use crate::base::{Count, Number, Rank};
use crate::error::Status;
use crate::limits::{COUNT_MAX, HEADER_BYTES};
use crate::mem::Region;
use std::collections::VecDeque;
use std::sync::Arc;

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
    /// Bytes ever used, fillers included, when the head was at `passed_head`; and of those, bytes
    /// given back. What is between is in use (`used`).
    passed: u64,
    passed_head: u64,
    returned: u64,
    /// Places between slots, one in `MARK_SLOTS`, from which many slots can be given back at once.
    marks: VecDeque<Mark>,
    /// Slots published, slots known to be released.
    filled: u64,
    freed: u64,
    /// Up to which offset and which count slots may be had without another look (`place`).
    easy_end: u64,
    easy_filled: u64,
    reserved: Option<Reservation>,
}

/// Slots between two marks.
const MARK_SLOTS: u64 = 32;

/// A place between two slots: how many slots, which offset and how many bytes ever used are before
/// it.
struct Mark {
    filled: u64,
    head: u64,
    passed: u64,
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
            passed: 0,
            passed_head: 0,
            returned: 0,
            marks: VecDeque::with_capacity((shape.window as u64 / MARK_SLOTS) as usize + 4),
            filled: 0,
            freed: 0,
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
            self.passed += slot_bytes(slot.len);
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
        self.mark();
        if let Some(slot) = self.place(len, need) {
            return Ok(slot);
        }
        let taken = self.cells.taken.observe(); // T
        let released = self.gate.released(); // S
        let taken = if crate::mutant!("freed-before-taken") { self.filled } else { taken };
        self.free_to_mark(taken, released);
        let mut placed = self.place(len, need);
        if placed.is_none() {
            self.free(taken, released);
            placed = self.place(len, need);
        }
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
        let used = self.used();
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
        let next_mark = (self.filled / MARK_SLOTS + 1) * MARK_SLOTS;
        self.easy_filled = (self.freed + self.window).min(next_mark);
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
        self.passed = self.passed_now() + skipped;
        self.passed_head = 0; // where the next slot begins
    }

    /// Bytes between tail and head, fillers included.
    fn used(&self) -> u64 {
        self.passed_now() - self.returned
    }

    fn passed_now(&self) -> u64 {
        self.passed + (self.head - self.passed_head)
    }

    /// Notes the place before the next slot, if one is due there.
    fn mark(&mut self) {
        let due = self.filled % MARK_SLOTS == 0 && self.filled > self.freed;
        if due && self.marks.back().is_none_or(|mark| mark.filled < self.filled) {
            let (filled, head, passed) = (self.filled, self.head, self.passed_now());
            self.marks.push_back(Mark { filled, head, passed });
        }
    }

    /// Gives back slots up to a mark, without a look at each: if the index of the slot behind a mark
    /// is not above what is released, all slots before it are below. `// S, T`
    fn free_to_mark(&mut self, taken: u64, released: Count) {
        while let Some(mark) = self.marks.front() {
            if mark.filled >= taken {
                return; // the slot behind it has no index yet
            }
            let (_, header) = self.ring.settle(mark.head);
            if header[1].own() & (COUNT_MAX - 1) > released.0 {
                return;
            }
            (self.tail, self.freed, self.returned) = (mark.head, mark.filled, mark.passed);
            self.marks.pop_front();
        }
    }

    /// Gives back the slots that every member has released, one by one. `// S, T`
    fn free(&mut self, taken: u64, released: Count) {
        let (ring, mut tail, mut freed) = (&self.ring, self.tail, self.freed);
        while freed < taken {
            let (at, header) = ring.settle(tail);
            if header[1].own() & (COUNT_MAX - 1) >= released.0 {
                break;
            }
            if at != tail {
                self.returned += ring.size() - tail; // what was skipped
            }
            let bytes = slot_bytes(header[0].own() as u32);
            self.returned += bytes;
            (tail, freed) = (at + bytes, freed + 1);
        }
        (self.tail, self.freed) = (tail, freed);
        while self.marks.front().is_some_and(|mark| mark.filled <= freed) {
            self.marks.pop_front();
        }
    }
}
