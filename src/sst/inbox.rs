// SPDX-License-Identifier: MIT OR Apache-2.0
//! Slots in rings, from the receiver's side: the messages of a subgroup in delivery order.
//!
//! A header is read once, at delivery, never at receipt. Index `i` of a sender is a null if its next
//! slot has a greater index or does not exist, given that all slots before its `head` are known: the
//! caller passes slot counts observed after the heads that bound the delivery (N).
//!
//! I1  Everything read from a peer's slot is copied to a local, checked, then used.
//! I2  An inbox never goes back and never skips a slot.
//!
//! Cost: one header read per message; a run of nulls of any length is one step per sender.

use super::frontier;
use super::layout::{Mode, Shape};
use super::ring::{KIND_FILLER, KIND_MESSAGE, Ring, check, slot_bytes};
use crate::base::{Count, Epoch, Number};
use crate::limits::{BATCH_BYTES, COUNT_MAX, HEADER_BYTES};
use crate::mem::Message;

/// A slot that is no message: the sender's position, the header's first two words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadSlot {
    pub sender: usize,
    pub words: [u64; 2],
}

/// What one sender's ring holds for me.
struct Reader {
    ring: Ring,
    rank: u16,
    lane: u16,
    /// Offset of the next slot, slots consumed before it.
    at: u64,
    consumed: u64,
    /// Its index and length, once read; no index while there is no slot.
    next: u64,
    len: u32,
}

const NO_SLOT: u64 = u64::MAX;

pub struct Inbox {
    readers: Vec<Reader>,
    mode: Mode,
    epoch: Epoch,
    message_bytes_max: u32,
    /// The next number to look at (stable mode) or the reader whose turn it is (received mode).
    number: u64,
    turn: usize,
}

impl Inbox {
    /// `rings`: by sender, with its rank and lane.
    pub fn new(rings: Vec<(Ring, u16, u16)>, shape: &Shape, epoch: Epoch) -> Inbox {
        let reader = |(ring, rank, lane)| Reader {
            ring,
            rank,
            lane,
            at: 0,
            consumed: 0,
            next: NO_SLOT,
            len: 0,
        };
        Inbox {
            readers: rings.into_iter().map(reader).collect(),
            mode: shape.mode,
            epoch,
            message_bytes_max: shape.message_bytes_max,
            number: 0,
            turn: 0,
        }
    }

    /// How far it has been emptied, in the total order.
    pub fn number(&self) -> Number {
        Number(self.number)
    }

    /// Slots of a sender that have been handed out.
    pub fn consumed(&self, sender: usize) -> Count {
        Count(self.readers[sender].consumed)
    }

    /// Appends messages to `batch`, in order, until it is as long as `most`, holds `BATCH_BYTES` or
    /// more, or the order's prefix `upto` (in *received* mode: what `slots` counts) is exhausted.
    #[inline]
    pub fn collect(
        &mut self,
        upto: Number,
        slots: &[Count],
        batch: &mut Vec<Message>,
        most: usize,
    ) -> Result<(), BadSlot> {
        assert!(slots.len() == self.readers.len() && most <= batch.capacity());
        match self.mode {
            Mode::Stable => self.collect_stable(upto.0, slots, batch, most),
            Mode::Received => self.collect_received(slots, batch, most),
        }
    }

    fn collect_stable(
        &mut self,
        upto: u64,
        slots: &[Count],
        batch: &mut Vec<Message>,
        most: usize,
    ) -> Result<(), BadSlot> {
        let senders = self.readers.len();
        for (s, known) in slots.iter().enumerate() {
            if self.readers[s].next == NO_SLOT {
                let least = frontier::share(Number(self.number), s, senders).0;
                self.look(s, known.0, least)?;
            }
        }
        let mut room = BATCH_BYTES;
        let mut number = self.number;
        let mut s = (number % senders as u64) as usize;
        let mut index = number / senders as u64;
        let mut outcome = Ok(());
        while number < upto && batch.len() < most && room > 0 {
            let reader = &mut self.readers[s];
            if reader.next == index {
                room -= i64::from(reader.len);
                reader.emit(number, batch);
                number += 1;
                outcome = self.look(s, slots[s].0, index + 1);
                s += 1;
                if s == senders {
                    (s, index) = (0, index + 1);
                }
                if outcome.is_err() {
                    break;
                }
            } else {
                // A null: on to the first number that is a message, or to the end.
                number = self.first_message().min(upto);
                (s, index) = ((number % senders as u64) as usize, number / senders as u64);
            }
        }
        assert!(number >= self.number);
        self.number = number;
        outcome
    }

    /// The least number of a known slot.
    fn first_message(&self) -> u64 {
        let senders = self.readers.len() as u64;
        let of = |(s, reader): (u64, &Reader)| {
            reader.next.checked_mul(senders).map_or(NO_SLOT, |number| number + s)
        };
        (0..).zip(&self.readers).map(of).min().unwrap_or(NO_SLOT)
    }

    fn collect_received(
        &mut self,
        slots: &[Count],
        batch: &mut Vec<Message>,
        most: usize,
    ) -> Result<(), BadSlot> {
        let mut room = BATCH_BYTES;
        for _ in 0..self.readers.len() {
            let (s, known) = (self.turn, slots[self.turn].0);
            if self.readers[s].next == NO_SLOT {
                self.look(s, known, self.readers[s].consumed)?;
            }
            while self.readers[s].next != NO_SLOT && batch.len() < most && room > 0 {
                let reader = &mut self.readers[s];
                if reader.next != reader.consumed {
                    let words = [reader.len.into(), reader.next];
                    return Err(BadSlot { sender: s, words }); // without nulls there are no gaps
                }
                room -= i64::from(reader.len);
                reader.emit(reader.next, batch);
                let least = reader.consumed;
                self.look(s, known, least)?;
            }
            if self.readers[s].next != NO_SLOT {
                return Ok(());
            }
            self.turn = (s + 1) % self.readers.len();
        }
        Ok(())
    }

    /// Reads the header of the sender's next slot, if there is one (I1). Its index is at least
    /// `least`, or the slot is no message.
    #[inline(always)]
    fn look(&mut self, s: usize, slots: u64, least: u64) -> Result<(), BadSlot> {
        let reader = &mut self.readers[s];
        if reader.consumed >= slots {
            reader.next = NO_SLOT;
            return Ok(());
        }
        let ring = &reader.ring;
        let at = ring.settle(reader.at);
        let header = ring.header(at);
        let (first, index, sum) = (header[0].own(), header[1].own(), header[3].own());
        let (len, slot) = (first as u32, slot_bytes(first as u32));
        // One branch for all that can be wrong: it never is, unless the sender is broken.
        let wrong = (first >> 48 != KIND_MESSAGE)
            | (sum != check(first, index, self.epoch))
            | (index < least)
            | (index >= COUNT_MAX)
            | (len > self.message_bytes_max)
            | (at + slot > ring.bytes);
        if wrong {
            return Err(BadSlot { sender: s, words: [first, index] });
        }
        (reader.at, reader.next, reader.len) = (at, index, len);
        if slots - reader.consumed > PREFETCH_SLOTS {
            let ahead = at + PREFETCH_SLOTS * slot;
            reader.ring.prefetch(ahead);
            reader.ring.prefetch(ahead + 64);
        }
        Ok(())
    }
}

/// How many slots ahead headers and first lines are asked for, if so many are known to be there.
const PREFETCH_SLOTS: u64 = 8;

impl Reader {
    /// Hands out the slot that `look` has read.
    #[inline(always)]
    fn emit(&mut self, number: u64, batch: &mut Vec<Message>) {
        let time = self.ring.header(self.at)[2].own();
        let payload = self.ring.payload(self.at, self.len);
        batch.push(Message::new(payload, self.rank, self.lane, number, self.next, time));
        self.at += slot_bytes(self.len);
        self.consumed += 1;
    }
}

const _: () = assert!(KIND_FILLER != KIND_MESSAGE && HEADER_BYTES == 4 * 8);
