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
//! Cost: a send is one copy, one own store and one release store; the members' `released` cells are
//! looked at only when the ring seems full, and then slots come back a run at a time.

mod closing;
mod reserved;

pub use closing::Door;

use super::Hook;
use super::frontier;
use super::kept::Kept;
use super::layout::{Mode, Shape};
use super::ring::{Fences, LaneCells, PREFETCH_BYTES, PREFETCH_SLOT_MAX, Ring, slot_bytes};
use super::stores::Stores;
use crate::base::{Count, Number, Rank};
use crate::error::Status;
use crate::limits::{COUNT_MAX, SLOT_ALIGN};
use crate::mem::thread::{order_all_threads, this_thread};
use crate::mem::{Region, stream_fence};
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
    /// So many bytes before they are written lines are asked for.
    ahead: u64,
    /// Where the next payload would begin, and where the oldest unreleased one does.
    head: u64,
    tail: u64,
    /// Slots published, slots known to be released, runs of which all slots are.
    filled: u64,
    freed: u64,
    freed_runs: u64,
    /// Up to which offset and which count slots may be had without another look (`place`).
    easy_end: u64,
    easy_filled: u64,
    reserved: Option<Reservation>,
    stores: Stores,
    /// Whether fences may be left to the turn thread, if that is this one; and whether the last was.
    defers: bool,
    loose: bool,
    /// Bytes of the ring ever used, about.
    sent: u64,
}

/// Payloads from this size on are streamed, if any are: smaller ones share lines.
const STREAM_MIN: u64 = 64;
const LINE: u64 = 64;

/// Bytes that a payload takes of the ring.
#[inline(always)]
fn room(len: u32, align: u64) -> u64 {
    slot_bytes(len).next_multiple_of(align)
}

#[derive(Clone, Copy)]
struct Reservation {
    at: u64,
    len: u32,
    /// What its bytes are rounded up to: whole lines are there to be streamed.
    align: u64,
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
            ahead: PREFETCH_BYTES.min(ring.size() / 8),
            ring,
            cells,
            gate,
            window: u64::from(shape.window),
            message_bytes_max: shape.message_bytes_max,
            head: 0,
            tail: 0,
            filled: 0,
            freed: 0,
            freed_runs: 0,
            easy_end: 0,
            easy_filled: 0,
            reserved: None,
            stores: Stores::fixed(false),
            defers: false,
            loose: false,
            sent: 0,
        }
    }

    /// A ring that takes nothing, for a lane that has no other: every send answers `Again`.
    pub fn nowhere() -> (Producer, Kept) {
        let shape = Shape {
            senders: 1,
            lanes: 1,
            mode: Mode::Received,
            window: 1,
            message_bytes_max: u32::MAX,
            ring_bytes: SLOT_ALIGN,
        };
        let ring = Ring::new(Arc::new(Region::heap(shape.lane().bytes as usize)), 0, &shape);
        let cells = LaneCells::new();
        cells.stop(Status::Again);
        let gate = Gate { rows: Vec::new(), mode: shape.mode, sender: 0, senders: 1, hook: None };
        let kept = Kept::new(ring.clone(), cells.clone(), Fences::NONE, 0, 0);
        (Producer::new(ring, cells, gate, &shape, 1), kept)
    }

    /// Writes payloads as `stores` says; without this, with plain stores. A ring that hardly holds two
    /// of the largest messages cannot spare the bytes to begin each on a line of its own.
    pub fn store(&mut self, stores: Stores) {
        if 2 * room(self.message_bytes_max, LINE) <= self.ring.size() {
            self.stores = stores;
        }
    }

    /// Leaves fences to the turn thread where that is the same one. Needs `order_all_threads`, for
    /// the day when it is another.
    pub fn defer_fences(&mut self, defers: bool) {
        self.defers = defers;
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
        if self.cells.stopped.own() != 0 || crate::mutant!("count-before-bytes") {
            return None;
        }
        let (slot, at) = (self.filled, self.head);
        let head = self.fill(slot, at, bytes)?;
        let slot = self.publish_slots(slot + 1, head);
        if self.is_late() && self.confirm_late(slot).is_some() {
            return None;
        }
        Some(slot)
    }

    /// Sends messages one after the other, as many as there is room for, and publishes them
    /// together. How many were sent, and what stopped it before the end.
    #[inline(always)]
    pub fn send_many<'a>(
        &mut self,
        messages: impl Iterator<Item = &'a [u8]>,
    ) -> (u64, Result<(), Status>) {
        let first = self.filled;
        let mut outcome = self.send_each(messages);
        if self.filled > first && self.is_late() {
            outcome = self.confirm_late(first).map_or(outcome, Err);
        }
        (self.filled - first, outcome)
    }

    #[inline(always)]
    fn send_each<'a>(&mut self, messages: impl Iterator<Item = &'a [u8]>) -> Result<(), Status> {
        let mut stopped = self.is_stopped();
        // In locals: fields would be stored and loaded again for each message.
        let (mut slot, mut head) = (self.filled, self.head);
        for bytes in messages {
            if !stopped && let Some(next) = self.fill(slot, head, bytes) {
                (slot, head) = (slot + 1, next);
                continue;
            }
            if slot > self.filled {
                self.publish_slots(slot, head);
            }
            self.send_slowly(bytes)?;
            (slot, head) = (self.filled, self.head);
            // Its last slot may have been decided (D1): nothing is to be counted beyond that.
            if !crate::mutant!("lane-many-past-the-last") {
                stopped = self.is_stopped();
            }
        }
        if slot > self.filled {
            self.publish_slots(slot, head);
        }
        Ok(())
    }

    #[inline(always)]
    fn is_stopped(&self) -> bool {
        self.cells.stopped.own() != 0 || crate::mutant!("count-before-bytes")
    }

    /// Writes payload and descriptor of a slot at `at`, if that is room that needs no look: where the
    /// next one begins.
    #[inline(always)]
    fn fill(&self, slot: u64, at: u64, bytes: &[u8]) -> Option<u64> {
        let len = bytes.len() as u64;
        if len > u64::from(self.message_bytes_max) || slot >= self.easy_filled {
            return None;
        }
        if self.stores.streaming && len >= STREAM_MIN {
            return self.fill_past_the_cache(slot, at, bytes);
        }
        let need = slot_bytes(len as u32);
        let end = at + need;
        if end > self.easy_end || !self.ring.payloads.try_write(at, bytes) {
            return None;
        }
        let soon = end + self.ahead;
        if soon + 192 < self.easy_end && need <= PREFETCH_SLOT_MAX {
            self.ring.prefetch_write(slot, soon, need);
        }
        self.ring.describe(slot, at, len as u32);
        Some(end)
    }

    #[inline(never)]
    fn fill_past_the_cache(&self, slot: u64, at: u64, bytes: &[u8]) -> Option<u64> {
        let at = at.next_multiple_of(LINE);
        let mut end = at + room(bytes.len() as u32, LINE);
        if crate::mutant!("streams-beyond-its-room") {
            end = at + bytes.len() as u64;
        }
        if end > self.easy_end || !self.ring.payloads.try_stream(at, bytes) {
            return None;
        }
        self.ring.describe(slot, at, bytes.len() as u32);
        Some(end)
    }

    #[inline(never)]
    fn send_slowly(&mut self, bytes: &[u8]) -> Result<u64, Status> {
        self.send_parts(&[bytes])
    }

    /// The same for a message that lies in several pieces.
    #[inline]
    pub fn send_parts(&mut self, parts: &[&[u8]]) -> Result<u64, Status> {
        let total = parts.iter().map(|part| part.len()).sum::<usize>();
        let len = u32::try_from(total).map_err(|_| Status::TooLong)?;
        let slot = self.claim(len)?;
        if crate::mutant!("count-before-bytes") {
            return Ok(self.count_early(slot, parts));
        }
        self.write(slot, parts);
        let slot = self.count(slot, len);
        self.confirm(slot)
    }

    fn write(&self, slot: Reservation, parts: &[&[u8]]) {
        let streams = slot.align == LINE && parts.len() == 1;
        assert!(!streams || self.stores.streaming, "what is streamed will be fenced");
        if streams && self.ring.payloads.try_stream(slot.at, parts[0]) {
            return;
        }
        let mut at = slot.at;
        for part in parts {
            self.ring.payloads.write(at, part);
            at += part.len() as u64;
        }
    }

    /// The planted fault of edge W: the count first, then the bytes.
    #[cold]
    fn count_early(&mut self, slot: Reservation, parts: &[&[u8]]) -> u64 {
        let ordinal = self.count(slot, slot.len);
        if let Some(hook) = self.gate.hook {
            hook(self.gate.rows[0].0);
        }
        self.write(slot, parts);
        ordinal
    }

    /// Why nothing can be sent in this ring any more, as far as this thread knows yet.
    #[inline(always)]
    pub fn stopped(&self) -> Option<Status> {
        self.cells.stopped()
    }

    /// Lets the rest of the world move while room is looked for.
    #[cfg(test)]
    pub fn look_through(&mut self, hook: Hook) {
        self.gate.hook = Some(hook);
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
        let align = self.align(len);
        let (at, need) = (self.head.next_multiple_of(align), room(len, align));
        let easy = at + need <= self.easy_end && self.filled < self.easy_filled;
        if easy && self.cells.stopped.own() == 0 {
            return Ok(Reservation { at, len, align });
        }
        self.claim_slowly(len)
    }

    /// What the bytes of a payload of that length are rounded up to.
    #[inline(always)]
    fn align(&self, len: u32) -> u64 {
        let streams = self.stores.streaming && u64::from(len) >= STREAM_MIN;
        if streams { LINE } else { SLOT_ALIGN }
    }

    #[inline(never)]
    fn claim_slowly(&mut self, len: u32) -> Result<Reservation, Status> {
        if self.reserved.is_some() {
            return Err(Status::NotReserved);
        }
        if let Some(status) = self.cells.stopped() {
            return Err(status);
        }
        self.find(len)
    }

    /// Room for `len` bytes, if there is some.
    fn find(&mut self, len: u32) -> Result<Reservation, Status> {
        // Here and not later: this may change the kind of stores, and what is claimed for one kind is
        // written and fenced as that kind wants it.
        self.stores.looked(self.sent);
        let align = self.align(len);
        if let Some(at) = self.place(len, align) {
            return Ok(Reservation { at, len, align });
        }
        let released = loop {
            let taken = self.cells.taken.observe(); // T
            let released = self.gate.released(); // S
            let known = if crate::mutant!("freed-before-taken") { self.filled } else { taken };
            self.free(known, released);
            if let Some(at) = self.place(len, align) {
                self.cells.pressed[1].prepare(0);
                return Ok(Reservation { at, len, align });
            }
            // What was taken up and released between the two looks would be noted below as seen, and
            // nobody would tell of it. Ends: at most what I have filled is taken.
            if self.cells.taken.observe() == taken {
                break released;
            }
        };
        let pressed = &self.cells.pressed;
        pressed[0].prepare(pressed[0].own() + 1);
        pressed[1].publish(released.0 + 1);
        Err(Status::Again)
    }

    /// Finds room for a payload (G1, G2, G3), and how much more follows it in one piece.
    ///
    /// Between `tail` and `head`, in the direction of writing, lies what may still be read. Slots are
    /// never empty, so `head == tail` says that the ring is full, or that nothing is in it.
    fn place(&mut self, len: u32, align: u64) -> Option<u64> {
        let need = room(len, align);
        let full = self.filled - self.freed >= self.window;
        if full && !crate::mutant!("reserve-ignores-window") {
            return None;
        }
        if self.filled == self.freed {
            (self.head, self.tail) = (0, 0);
        }
        let ahead = self.head > self.tail || self.filled == self.freed;
        let mut end = if ahead { self.ring.size() } else { self.tail };
        if crate::mutant!("reserve-ignores-bytes") {
            end = self.ring.size();
        }
        let mut at = self.head.next_multiple_of(align);
        // What follows the head is left unused if the slot does not fit there, or if the hot part is
        // free again.
        let front = ahead && need <= self.tail;
        if front && (at + need > end || at >= self.hot_bytes) {
            (at, end) = (0, self.tail);
        }
        if at + need > end {
            return None;
        }
        self.easy_end =
            if at < self.hot_bytes { end.min(self.hot_bytes.max(at + need)) } else { end };
        if crate::mutant!("easy-path-ignores-bytes") {
            self.easy_end = self.ring.size();
        }
        self.easy_filled = self.freed + self.window;
        Some(at)
    }

    /// Describes the slot and counts it: from here on the turn thread may take it. `// W`
    #[inline(always)]
    fn count(&mut self, slot: Reservation, len: u32) -> u64 {
        self.ring.describe(self.filled, slot.at, len);
        self.publish_slots(self.filled + 1, slot.at + room(len, slot.align))
    }

    /// Counts the slots before `filled`, which end at `head`; the last one's ordinal. `// W`
    #[inline(always)]
    fn publish_slots(&mut self, filled: u64, head: u64) -> u64 {
        self.sent += if head > self.head { head - self.head } else { head };
        (self.filled, self.head) = (filled, head);
        if (self.stores.streaming || self.loose) && self.order_stores() {
            self.cells.filled.loose.publish(filled); // W, with a fence of the turn thread's
            return filled - 1;
        }
        if crate::mutant!("loom-w-relaxed") {
            self.cells.filled.fenced.prepare(filled);
            return filled - 1;
        }
        self.cells.filled.fenced.publish(filled); // W
        filled - 1
    }

    /// Puts a fence behind what has been streamed, or leaves it to the turn thread, which is this one as
    /// far as is known: then `true`.
    #[inline(always)]
    fn order_stores(&mut self) -> bool {
        let (me, by) = (this_thread(), &self.cells.filled.by);
        if self.loose && by.own() != me {
            // The lane has changed hands, with stores of the other thread open.
            self.defers = order_all_threads();
        }
        self.loose = self.defers && self.stores.streaming && self.cells.taker.own() == me;
        if self.loose {
            by.prepare(me);
        } else {
            stream_fence();
        }
        self.loose
    }

    /// Gives back the slots that every member has released, run by run. `// S, T`
    fn free(&mut self, taken: u64, released: Count) {
        while self.freed < taken {
            let run = self.ring.run(self.freed_runs);
            let holds = run.slots <= self.freed && self.freed < run.slots + run.count;
            assert!(holds, "a run that was taken up");
            let first = run.tagged & (COUNT_MAX - 1);
            let mut gone = released.0.saturating_sub(first).min(run.count);
            if crate::mutant!("freed-one-over") && gone < run.count {
                gone += 1;
            }
            // A peer whose word goes back takes nothing back: what was free may be in use again.
            self.freed = self.freed.max(run.slots + gone);
            if gone < run.count {
                break;
            }
            self.freed_runs += 1;
        }
        let none = self.freed == self.filled;
        self.tail = if none { self.head } else { self.ring.place(self.freed).0 };
    }
}
