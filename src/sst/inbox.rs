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
    /// Offset after the last slot that was handed out; slots handed out.
    at: u64,
    consumed: u64,
    /// The index of the next slot, if it has been looked at because a null came first; else
    /// anything below it.
    next: u64,
}

/// A slot as read: where it begins, its header's words.
struct Slot {
    at: u64,
    len: u32,
    index: u64,
    time: u64,
}

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
        let reader = |(ring, rank, lane)| Reader { ring, rank, lane, at: 0, consumed: 0, next: 0 };
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
        let check = Check { epoch: self.epoch, message_bytes_max: self.message_bytes_max };
        let mut room = BATCH_BYTES;
        let mut left = most - batch.len();
        let mut number = self.number;
        let outcome = 'all: loop {
            let (s, mut index) = (number % senders as u64, number / senders as u64);
            let mut s = s as usize;
            // Rounds without nulls: the steady state of a busy group.
            'rounds: loop {
                for (reader, known) in self.readers[s..].iter_mut().zip(&slots[s..]) {
                    if number >= upto || left == 0 || room <= 0 {
                        break 'all Ok(());
                    }
                    if reader.consumed >= known.0 || reader.next > index {
                        break 'rounds;
                    }
                    let slot = match reader.read(&check, index) {
                        Ok(slot) if slot.index == index => slot,
                        Ok(slot) => {
                            reader.next = slot.index;
                            break 'rounds;
                        }
                        Err(words) => {
                            let sender = (number % senders as u64) as usize;
                            break 'all Err(BadSlot { sender, words });
                        }
                    };
                    reader.emit(&slot, number, known.0, batch);
                    room -= i64::from(slot.len);
                    number += 1;
                    left -= 1;
                }
                (s, index) = (0, index + 1);
            }
            // A null: on to the first number that is a message, or to the end.
            match self.first_message(number, slots, &check) {
                Ok(first) => number = first.min(upto),
                Err(bad) => break Err(bad),
            }
        };
        assert!(number >= self.number);
        self.number = number;
        outcome
    }

    /// The least number of a known slot; that of the next message if there is none of `number`.
    fn first_message(
        &mut self,
        number: u64,
        slots: &[Count],
        check: &Check,
    ) -> Result<u64, BadSlot> {
        let senders = self.readers.len();
        let mut first = NO_NUMBER;
        for (s, known) in slots.iter().enumerate() {
            let reader = &mut self.readers[s];
            if reader.consumed >= known.0 {
                continue;
            }
            let least = frontier::share(Number(number), s, senders).0;
            if reader.next < least {
                let slot = reader.read(check, least);
                reader.next = slot.map_err(|words| BadSlot { sender: s, words })?.index;
            }
            first = first.min(reader.next * senders as u64 + s as u64);
        }
        Ok(first)
    }

    fn collect_received(
        &mut self,
        slots: &[Count],
        batch: &mut Vec<Message>,
        most: usize,
    ) -> Result<(), BadSlot> {
        let check = Check { epoch: self.epoch, message_bytes_max: self.message_bytes_max };
        let mut room = BATCH_BYTES;
        for _ in 0..self.readers.len() {
            if batch.len() >= most || room <= 0 {
                return Ok(());
            }
            // A full batch ends a sender's turn too: one that always has more starves nobody.
            let (s, known) = (self.turn, slots[self.turn].0);
            self.turn = (s + 1) % self.readers.len();
            let reader = &mut self.readers[s];
            while reader.consumed < known && batch.len() < most && room > 0 {
                let slot = match reader.read(&check, reader.consumed) {
                    Ok(slot) if slot.index == reader.consumed => slot,
                    // Without nulls there are no gaps.
                    Ok(slot) => {
                        return Err(BadSlot { sender: s, words: [slot.len.into(), slot.index] });
                    }
                    Err(words) => return Err(BadSlot { sender: s, words }),
                };
                room -= i64::from(slot.len);
                reader.emit(&slot, slot.index, known, batch);
            }
        }
        Ok(())
    }
}

const NO_NUMBER: u64 = u64::MAX;

/// How many slots ahead headers and first lines are asked for, if so many are known to be there.
const PREFETCH_SLOTS: u64 = 8;

/// What a sound header is measured by.
struct Check {
    epoch: Epoch,
    message_bytes_max: u32,
}

impl Reader {
    /// Reads the header of the next slot (I1). Its index is at least `least`, or it is no message.
    #[inline(always)]
    fn read(&self, by: &Check, least: u64) -> Result<Slot, [u64; 2]> {
        let (mut at, mut header) = self.ring.settle(self.at);
        if crate::mutant!("reader-misses-a-wrap")
            && let Some(filler) = self.ring.header(self.at)
        {
            (at, header) = (self.at, filler);
        }
        let (first, index, sum) = (header[0].own(), header[1].own(), header[3].own());
        let len = first as u32;
        // One branch for all that can be wrong: it never is, unless the sender is broken.
        let wrong = (first >> 48 != KIND_MESSAGE)
            | (sum != check(first, index, by.epoch))
            | (index < least)
            | (index >= COUNT_MAX)
            | (len > by.message_bytes_max)
            | (at + slot_bytes(len) > self.ring.size());
        if wrong {
            return Err([first, index]);
        }
        Ok(Slot { at, len, index, time: header[2].own() })
    }

    /// Hands out a slot that `read` has read; `known` slots are there.
    #[inline(always)]
    fn emit(&mut self, slot: &Slot, number: u64, known: u64, batch: &mut Vec<Message>) {
        let payload = self.ring.payload(slot.at, slot.len);
        batch.push(Message::new(payload, self.rank, self.lane, number, slot.index, slot.time));
        let bytes = slot_bytes(slot.len);
        self.at = slot.at + bytes;
        if known - self.consumed > PREFETCH_SLOTS {
            let ahead = slot.at + PREFETCH_SLOTS * bytes;
            self.ring.prefetch(ahead);
            self.ring.prefetch(ahead + 64);
        }
        self.consumed += 1;
    }
}

const _: () = assert!(KIND_FILLER != KIND_MESSAGE && HEADER_BYTES == 4 * 8);
