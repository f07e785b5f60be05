// SPDX-License-Identifier: MIT OR Apache-2.0
//! Slots in rings, from the receiver's side: the messages of a subgroup in delivery order.
//!
//! Runs and descriptors are read once, at delivery, never at receipt. Index `i` of a sender is a null
//! if its next slot has a greater index or does not exist, given that all slots before its `head` are
//! known: the caller passes slot counts observed after the heads that bound the delivery (N).
//!
//! I1  Everything read from a peer's memory is copied to a local, checked, then used.
//! I2  An inbox never goes back and never skips a slot.
//!
//! Messages come in *stretches*: as long as each sender has one in every round or in none, they are
//! read a sender at a time, into every n-th place of the batch.
//!
//! Cost: one descriptor read per message; a run of messages or nulls of any length is one step per
//! sender. Payloads are not read, only asked for.

use super::layout::{Mode, Shape};
use super::ring::{Ring, Run, index_of};
use crate::base::{Count, Epoch, Number};
use crate::limits::{BATCH_BYTES, SENDERS_MAX};
use crate::mem::{Batch, Message};

/// A slot that is no message: the sender's position, the words that say so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadSlot {
    pub sender: usize,
    pub words: [u64; 2],
}

/// What one sender's ring holds for me.
struct Reader {
    ring: Ring,
    rank: u16,
    lane: u8,
    /// Slots known to be there, handed out; runs begun.
    known: u64,
    consumed: u64,
    runs: u64,
    /// What is left of the run begun: the next slot's index, how many slots, their time.
    index: u64,
    left: u64,
    time_ns: u64,
}

/// A place in the order: number `index * senders + s`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Place {
    index: u64,
    s: usize,
}

impl Place {
    /// The first index of sender `s` that is not before this place.
    #[inline(always)]
    fn due(self, s: usize) -> u64 {
        self.index + u64::from(s < self.s)
    }
}

pub struct Inbox {
    readers: Vec<Reader>,
    mode: Mode,
    epoch: Epoch,
    message_bytes_max: u32,
    /// The next number to look at (stable mode).
    at: Place,
    /// The reader whose turn it is (received mode).
    turn: usize,
    /// Who sends in the stretch at hand, in the order's order.
    active: Box<[u16; SENDERS_MAX]>,
}

impl Inbox {
    /// `rings`: by sender, with its rank and lane.
    pub fn new(rings: Vec<(Ring, u16, u16)>, shape: &Shape, epoch: Epoch) -> Inbox {
        let reader = |(ring, rank, lane): (Ring, u16, u16)| Reader {
            ring,
            rank,
            lane: lane as u8,
            known: 0,
            consumed: 0,
            runs: 0,
            index: 0,
            left: 0,
            time_ns: 0,
        };
        assert!(rings.len() <= SENDERS_MAX);
        Inbox {
            readers: rings.into_iter().map(reader).collect(),
            mode: shape.mode,
            epoch,
            message_bytes_max: shape.message_bytes_max,
            at: Place { index: 0, s: 0 },
            turn: 0,
            active: Box::new([0; SENDERS_MAX]),
        }
    }

    /// How far it has been emptied, in the total order.
    pub fn number(&self) -> Number {
        Number(self.at.index * self.readers.len() as u64 + self.at.s as u64)
    }

    /// Slots of a sender that have been handed out.
    pub fn consumed(&self, sender: usize) -> Count {
        Count(self.readers[sender].consumed)
    }

    /// Appends messages to `batch`, in order, until it is as long as `most`, holds about
    /// `BATCH_BYTES` or more, or the order's prefix `upto` (in *received* mode: what `slots` counts)
    /// is exhausted.
    #[inline]
    pub fn collect(
        &mut self,
        upto: Number,
        slots: &[Count],
        batch: &mut Batch,
        most: usize,
    ) -> Result<(), BadSlot> {
        if self.mode == Mode::Stable && upto.0 - self.number().0 <= FEW {
            return self.collect_few(upto.0, slots, batch, most);
        }
        self.collect_many(upto, slots, batch, most)
    }

    #[inline(never)]
    fn collect_many(
        &mut self,
        upto: Number,
        slots: &[Count],
        batch: &mut Batch,
        most: usize,
    ) -> Result<(), BadSlot> {
        self.know(slots);
        let outcome = match self.mode {
            Mode::Stable => self.collect_stable(upto.0, batch.free(most)),
            Mode::Received => self.collect_received(batch.free(most)),
        };
        batch.filled(outcome.0);
        outcome.1
    }

    /// Takes note of the slots that are there now.
    #[inline]
    fn know(&mut self, slots: &[Count]) {
        assert!(slots.len() == self.readers.len());
        for (reader, slots) in self.readers.iter_mut().zip(slots) {
            reader.know(slots.0);
        }
    }

    /// How many places of `places` it has filled.
    fn collect_stable(
        &mut self,
        upto: u64,
        places: &mut [Message],
    ) -> (usize, Result<(), BadSlot>) {
        let senders = self.readers.len() as u64;
        let mut filled = 0;
        assert!(upto >= self.number().0 && (senders > 0 || upto == 0), "an order has senders");
        let end = Place { index: upto / senders, s: (upto % senders) as usize };
        let mut room = BATCH_BYTES as u64;
        while self.at < end && filled < places.len() && room > 0 {
            let (until, active) = match self.stretch(end, places.len() - filled) {
                Ok(stretch) => stretch,
                Err(bad) => return (filled, Err(bad)),
            };
            let places = &mut places[filled..];
            let (count, outcome) = self.fill(until, active, places, &mut room);
            filled += count;
            if outcome.is_err() {
                return (filled, outcome);
            }
        }
        (filled, Ok(()))
    }

    /// The same number by number, which is less work for a few: somebody waits for them.
    #[inline(always)]
    fn collect_few(
        &mut self,
        upto: u64,
        slots: &[Count],
        batch: &mut Batch,
        most: usize,
    ) -> Result<(), BadSlot> {
        assert!(slots.len() == self.readers.len());
        let senders = slots.len();
        let Place { mut index, mut s } = self.at;
        let (mut number, end) = (self.number().0, batch.messages().len() + most);
        while number < upto && batch.messages().len() < end {
            let reader = &mut self.readers[s];
            reader.know(slots[s].0);
            if reader.left == 0
                && reader.consumed < reader.known
                && let Err(words) = reader.begin(self.epoch, index)
            {
                return Err(BadSlot { sender: s, words });
            }
            if reader.left > 0 && reader.index == index {
                let Some(message) = reader.read_one(number, self.message_bytes_max) else {
                    return Err(BadSlot { sender: s, words: reader.bad(0) });
                };
                if !batch.push(message) {
                    break;
                }
                reader.pass(1);
            }
            (number, s) = (number + 1, s + 1);
            if s == senders {
                (index, s) = (index + 1, 0);
            }
            self.at = Place { index, s };
        }
        Ok(())
    }

    fn collect_some(
        &mut self,
        upto: u64,
        cut: &[Count],
        places: &mut [Message],
    ) -> (usize, Result<(), BadSlot>) {
        let (mut number, mut filled) = (self.number().0, 0);
        while number < upto && filled < places.len() {
            let Place { index, s } = self.at;
            let reader = &mut self.readers[s];
            let cut_off = index >= cut[s].0;
            if reader.left == 0
                && reader.consumed < reader.known
                && !cut_off
                && let Err(words) = reader.begin_apart(self.epoch, index)
            {
                return (filled, Err(BadSlot { sender: s, words }));
            }
            if reader.left > 0 && reader.index == index && !cut_off {
                let Some(message) = reader.read_one(number, self.message_bytes_max) else {
                    return (filled, Err(BadSlot { sender: s, words: reader.bad(0) }));
                };
                places[filled] = message;
                reader.pass(1);
                filled += 1;
            }
            number += 1;
            let wraps = s + 1 == self.readers.len();
            self.at =
                if wraps { Place { index: index + 1, s: 0 } } else { Place { index, s: s + 1 } };
        }
        (filled, Ok(()))
    }

    /// As `collect`, at the end of a view: of each sender no more than `cut`, by count. What is
    /// beyond is passed over as if it were nulls, and never looked at.
    pub fn collect_cut(
        &mut self,
        upto: Number,
        cut: &[Count],
        slots: &[Count],
        batch: &mut Batch,
        most: usize,
    ) -> Result<(), BadSlot> {
        self.know(slots);
        assert!(self.mode == Mode::Stable && cut.len() == self.readers.len());
        let (filled, outcome) = self.collect_some(upto.0, cut, batch.free(most));
        batch.filled(filled);
        outcome
    }

    /// The longest stretch from here on: where it ends, and how many are `active` in it: have a
    /// message in each of its rounds. The others have none in it. At most `most` messages.
    #[inline]
    fn stretch(&mut self, end: Place, most: usize) -> Result<(Place, usize), BadSlot> {
        let (from, senders) = (self.at, self.readers.len());
        let (mut until, mut active) = (end, 0);
        for s in (from.s..senders).chain(0..from.s) {
            let reader = &mut self.readers[s];
            let due = from.due(s);
            if reader.left == 0 {
                if reader.consumed == reader.known {
                    continue; // nulls, as far as anyone knows
                }
                let begun = reader.begin_apart(self.epoch, due);
                begun.map_err(|words| BadSlot { sender: s, words })?;
            }
            if reader.index > due {
                until = until.min(Place { index: reader.index, s });
                continue;
            }
            until = until.min(Place { index: due + reader.left, s });
            if active == most {
                until = until.min(Place { index: due, s });
            } else {
                self.active[active] = s as u16;
                active += 1;
            }
        }
        if active > 0 {
            let rounds = (most / active) as u64;
            until = until.min(Place { index: from.index + rounds, s: from.s });
        }
        Ok((until, active))
    }

    /// Reads the messages of a stretch, a sender at a time; passes them and the nulls between. How
    /// many, and whether it met something that is none.
    #[inline]
    fn fill(
        &mut self,
        mut until: Place,
        active: usize,
        places: &mut [Message],
        room: &mut u64,
    ) -> (usize, Result<(), BadSlot>) {
        let (from, senders) = (self.at, self.readers.len() as u64);
        let mut bad = None;
        let share = (*room / active.max(1) as u64).max(1);
        let mut bytes = 0;
        for (first, &s) in self.active[..active].iter().enumerate() {
            let s = usize::from(s);
            let (reader, due) = (&mut self.readers[s], from.due(s));
            let to = Column {
                first,
                step: active,
                number: due * senders + s as u64,
                numbers: senders,
                count: until.due(s).saturating_sub(due),
                bytes_max: share,
            };
            let (count, its) = reader.read(to, self.message_bytes_max, places);
            bytes += its;
            if count < to.count {
                // All the others end here, too: who came before has read too far and is held back.
                until = Place { index: due + count, s };
                bad = (its < share).then(|| (s, reader.bad(count)));
            }
        }
        *room = room.saturating_sub(bytes);
        let mut filled = 0;
        for &s in &self.active[..active] {
            let s = usize::from(s);
            let count = until.due(s).saturating_sub(from.due(s));
            self.readers[s].pass(count);
            filled += count as usize;
        }
        self.at = until;
        match bad {
            Some((sender, words)) => (filled, Err(BadSlot { sender, words })),
            None => (filled, Ok(())),
        }
    }

    /// In *received* mode: hands out nothing of the first `ahead` slots of each sender, as far as they
    /// are there.
    pub fn pass_over(&mut self, ahead: &[Count], slots: &[Count]) -> Result<(), BadSlot> {
        self.know(slots);
        assert!(self.mode == Mode::Received && ahead.len() == self.readers.len());
        for (s, (reader, ahead)) in self.readers.iter_mut().zip(ahead).enumerate() {
            let upto = ahead.0.min(reader.known);
            while reader.consumed < upto {
                let begun = reader.begin_received(self.epoch);
                begun.map_err(|words| BadSlot { sender: s, words })?;
                reader.pass(reader.left.min(upto - reader.consumed));
            }
        }
        Ok(())
    }

    /// Nothing more of a sender is looked at, nor does anything more come: its view is over.
    pub fn give_up(&mut self, sender: usize) {
        let reader = &mut self.readers[sender];
        (reader.consumed, reader.left) = (reader.known, 0);
    }

    fn collect_received(&mut self, places: &mut [Message]) -> (usize, Result<(), BadSlot>) {
        let mut room = BATCH_BYTES as u64;
        let mut filled = 0;
        for _ in 0..self.readers.len() {
            // A full batch ends a sender's turn too: one that always has more starves nobody.
            let s = self.turn;
            if filled == places.len() || room == 0 {
                break;
            }
            self.turn = (s + 1) % self.readers.len();
            let reader = &mut self.readers[s];
            while reader.consumed < reader.known && filled < places.len() && room > 0 {
                if let Err(words) = reader.begin_received(self.epoch) {
                    return (filled, Err(BadSlot { sender: s, words }));
                }
                let index = reader.consumed;
                let count = reader.left.min((places.len() - filled) as u64);
                let to =
                    Column { first: 0, step: 1, number: index, numbers: 1, count, bytes_max: room };
                let (count, bytes) = reader.read(to, self.message_bytes_max, &mut places[filled..]);
                let bad = count < to.count && bytes < room;
                let words = reader.bad(count);
                room = room.saturating_sub(bytes);
                reader.pass(count);
                filled += count as usize;
                if bad {
                    return (filled, Err(BadSlot { sender: s, words }));
                }
            }
        }
        (filled, Ok(()))
    }
}

/// So many numbers are few.
const FEW: u64 = 4;

/// Where the messages of one sender go in a batch, and what numbers they have.
#[derive(Clone, Copy)]
struct Column {
    first: usize,
    step: usize,
    number: u64,
    numbers: u64,
    count: u64,
    /// Payload bytes after which to stop.
    bytes_max: u64,
}

impl Reader {
    /// Begins the next run, which is known to be there, with an index of at least `least`; else the
    /// words that are no run's (I1).
    #[inline(always)]
    fn begin(&mut self, epoch: Epoch, least: u64) -> Result<(), [u64; 2]> {
        let Run { tagged, slots, count, time_ns } = self.ring.run(self.runs);
        let there = self.known - self.consumed;
        match index_of(tagged, epoch) {
            Some(index)
                if index >= least && slots == self.consumed && 0 < count && count <= there =>
            {
                (self.index, self.left, self.time_ns) = (index, count, time_ns);
                self.runs += 1;
                Ok(())
            }
            _ => Err([tagged, count]),
        }
    }

    /// The same where it would only be in the way.
    #[inline(never)]
    fn begin_apart(&mut self, epoch: Epoch, least: u64) -> Result<(), [u64; 2]> {
        self.begin(epoch, least)
    }

    /// In *received* mode: begins the next run, unless one is begun.
    #[inline(always)]
    fn begin_received(&mut self, epoch: Epoch) -> Result<(), [u64; 2]> {
        if self.left == 0 {
            self.begin_apart(epoch, self.consumed)?;
        }
        // Without nulls there are no gaps.
        if self.index == self.consumed { Ok(()) } else { Err([0, self.index]) }
    }

    /// Reads the next message, which is of the run begun; `None`: it is not sound.
    #[inline(always)]
    fn read_one(&self, number: u64, message_bytes_max: u32) -> Option<Message> {
        let (offset, len) = self.ring.place(self.consumed);
        if len > message_bytes_max {
            return None;
        }
        let payload = self.ring.payload(offset, len)?;
        Some(Message::new(payload, self.rank, self.lane, number, self.time_ns))
    }

    /// Reads the next `to.count` messages, all of the run begun. How many it has read, and their
    /// bytes: fewer if one is not sound, or once there are `to.bytes_max` bytes.
    #[inline]
    fn read(&self, to: Column, message_bytes_max: u32, places: &mut [Message]) -> (u64, u64) {
        let (mut number, mut at, mut bytes) = (to.number, to.first, 0);
        let ring = &self.ring;
        for slot in self.consumed..self.consumed + to.count {
            let (offset, len) = ring.place(slot);
            let (true, Some(payload), Some(place)) =
                (len <= message_bytes_max, ring.payload(offset, len), places.get_mut(at))
            else {
                return (slot - self.consumed, bytes);
            };
            ring.prefetch_payload(offset, len);
            *place = Message::new(payload, self.rank, self.lane, number, self.time_ns);
            number += to.numbers;
            at += to.step;
            bytes += u64::from(len);
            if bytes >= to.bytes_max {
                return (slot + 1 - self.consumed, bytes);
            }
        }
        (to.count, bytes)
    }

    /// The words of the slot after `count` more: where it is no message's.
    #[cold]
    fn bad(&self, count: u64) -> [u64; 2] {
        [self.ring.descriptor(self.consumed + count).own(), self.index + count]
    }

    /// The next `count` messages have been handed out.
    #[inline(always)]
    fn pass(&mut self, count: u64) {
        self.consumed += count;
        self.index += count;
        self.left -= count;
    }

    /// Takes note of the slots that are there now, and asks for what will be read of them.
    #[inline(always)]
    fn know(&mut self, slots: u64) {
        assert!(slots >= self.known, "known slots are not taken back");
        if slots > self.known {
            self.ring.prefetch(self.runs, self.known, slots);
            self.known = slots;
        }
    }
}
