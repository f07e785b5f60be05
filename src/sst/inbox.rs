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
use super::ring::{
    KIND_FILLER, KIND_MESSAGE, PREFETCH_SLOT_MAX, Ring, index_of, slot_bytes, tagged,
};
use crate::base::{Count, Epoch, Number};
use crate::limits::{BATCH_BYTES, HEADER_BYTES};
use crate::mem::{Batch, Message};

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
    lane: u8,
    /// Offset after the last slot that was handed out.
    at: u64,
    /// Slots known to be there; and of those, ones not handed out.
    known: u64,
    left: u64,
    /// The index that a closer look found in the next slot, if `looked_at` is `consumed + 1`.
    found: u64,
    looked_at: u64,
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
        let reader = |(ring, rank, lane): (Ring, u16, u16)| Reader {
            ring,
            rank,
            lane: lane as u8,
            at: 0,
            known: 0,
            left: 0,
            found: 0,
            looked_at: 0,
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
        Count(self.readers[sender].consumed())
    }

    /// Appends messages to `batch`, in order, until it is as long as `most`, holds `BATCH_BYTES` or
    /// more, or the order's prefix `upto` (in *received* mode: what `slots` counts) is exhausted.
    #[inline]
    pub fn collect(
        &mut self,
        upto: Number,
        slots: &[Count],
        batch: &mut Batch,
        most: usize,
    ) -> Result<(), BadSlot> {
        assert!(slots.len() == self.readers.len());
        match self.mode {
            Mode::Stable => self.collect_stable(upto.0, slots, batch, most),
            Mode::Received => self.collect_received(slots, batch, most),
        }
    }

    fn collect_stable(
        &mut self,
        upto: u64,
        slots: &[Count],
        batch: &mut Batch,
        most: usize,
    ) -> Result<(), BadSlot> {
        self.know(slots);
        let senders = self.readers.len();
        let by = Check { epoch: self.epoch, message_bytes_max: self.message_bytes_max };
        let places = batch.free(most);
        let mut filled = 0;
        let mut room = BATCH_BYTES;
        let mut number = self.number;
        let mut looked = NO_NUMBER;
        let outcome = 'all: loop {
            let mut s = (number % senders as u64) as usize;
            let mut index = number / senders as u64;
            // Rounds without nulls: the steady state of a busy group.
            'rounds: loop {
                let left = (upto - number).min((places.len() - filled) as u64) as usize;
                if left == 0 || room <= 0 {
                    break 'all Ok(());
                }
                let readers = &mut self.readers[s..];
                let due = readers.len().min(left);
                let mut done = 0;
                let round = readers.iter_mut().zip(&mut places[filled..filled + due]);
                for (reader, place) in round {
                    let Some(message) = reader.next(&by, index, number + done as u64) else {
                        break;
                    };
                    room -= i64::from(message.len);
                    *place = message;
                    done += 1;
                }
                (number, filled) = (number + done as u64, filled + done);
                if done < due {
                    break 'rounds;
                }
                (s, index) = (0, index + 1);
            }
            // A null, or a slot that needs a closer look: on to the first number that is a message,
            // and with its sender alone as far as no other sender has one.
            let run = match self.find_run(number, &by) {
                Ok(run) => run,
                Err(bad) => break Err(bad),
            };
            if run.first == number && looked == number {
                // Twice at one place: sound when looked at closely and not otherwise, so its owner
                // writes into it.
                let words = [0, number / senders as u64];
                break Err(BadSlot { sender: run.sender, words });
            }
            number = run.first.min(upto);
            looked = number;
            let end = run.end.min(upto);
            let reader = &mut self.readers[run.sender];
            let mut index = run.first / senders as u64;
            while number < end && room > 0 {
                let Some(place) = places.get_mut(filled) else { break };
                let Some(message) = reader.next(&by, index, number) else { break };
                room -= i64::from(message.len);
                *place = message;
                filled += 1;
                index += 1;
                // What lies between is null: no other sender has a message before `end`.
                number = (index * senders as u64 + run.sender as u64).min(end);
            }
        };
        batch.filled(filled);
        assert!(number >= self.number);
        self.number = number;
        outcome
    }

    /// The first message from `number` on, and up to where its sender is alone. Leaves every reader
    /// at a sound slot, or with none.
    #[inline(never)]
    fn find_run(&mut self, number: u64, by: &Check) -> Result<Run, BadSlot> {
        let senders = self.readers.len();
        let mut run = Run { sender: 0, first: NO_NUMBER, end: NO_NUMBER };
        for (s, reader) in self.readers.iter_mut().enumerate() {
            if reader.left == 0 {
                continue;
            }
            if reader.looked_at != reader.consumed() + 1 {
                let least = frontier::share(Number(number), s, senders).0;
                let read = reader.read(by, least);
                reader.found = read.map_err(|words| BadSlot { sender: s, words })?;
                reader.looked_at = reader.consumed() + 1;
            }
            let its = reader.found * senders as u64 + s as u64;
            if its < run.first {
                (run.sender, run.end, run.first) = (s, run.first, its);
            } else {
                run.end = run.end.min(its);
            }
        }
        Ok(run)
    }

    fn collect_received(
        &mut self,
        slots: &[Count],
        batch: &mut Batch,
        most: usize,
    ) -> Result<(), BadSlot> {
        self.know(slots);
        let by = Check { epoch: self.epoch, message_bytes_max: self.message_bytes_max };
        let mut room = BATCH_BYTES;
        for _ in 0..self.readers.len() {
            if batch.messages().len() >= most || room <= 0 {
                return Ok(());
            }
            // A full batch ends a sender's turn too: one that always has more starves nobody.
            let s = self.turn;
            self.turn = (s + 1) % self.readers.len();
            let reader = &mut self.readers[s];
            while reader.left > 0 && room > 0 {
                let free = batch.free(most - batch.messages().len());
                let Some(place) = free.first_mut() else { return Ok(()) };
                let index = reader.consumed();
                let mut message = reader.next(&by, index, index);
                if message.is_none() {
                    // Behind a filler, or nothing sound.
                    match reader.read(&by, index) {
                        Ok(found) if found == index => {}
                        // Without nulls there are no gaps.
                        Ok(found) => return Err(BadSlot { sender: s, words: [0, found] }),
                        Err(words) => return Err(BadSlot { sender: s, words }),
                    }
                    message = reader.next(&by, index, index);
                }
                let Some(message) = message else {
                    return Err(BadSlot { sender: s, words: [0, index] });
                };
                room -= i64::from(message.len);
                *place = message;
                batch.filled(1);
            }
        }
        Ok(())
    }

    /// Takes note of the slots that are there now.
    fn know(&mut self, slots: &[Count]) {
        for (reader, known) in self.readers.iter_mut().zip(slots) {
            assert!(known.0 >= reader.known, "known slots are not taken back");
            reader.left += known.0 - reader.known;
            reader.known = known.0;
        }
    }
}

const NO_NUMBER: u64 = u64::MAX;

/// A sender whose messages come next, with nothing but nulls of the others between them.
struct Run {
    sender: usize,
    /// Number of its next message.
    first: u64,
    /// The first number at which another sender has a message.
    end: u64,
}

/// So many more slots must be known before any is asked for ahead of its turn; about
/// `PREFETCH_BYTES` of small ones.
const PREFETCH_SLOTS: u64 = 24;

/// What a sound header is measured by.
struct Check {
    epoch: Epoch,
    message_bytes_max: u32,
}

impl Reader {
    /// Slots handed out.
    fn consumed(&self) -> u64 {
        self.known - self.left
    }

    /// The message of that index, if it is the next slot and lies where the last one ended. `None`: it is a null, or `read` must say what is there.
    #[inline(always)]
    fn next(&mut self, by: &Check, index: u64, number: u64) -> Option<Message> {
        let header = self.ring.header(self.at)?;
        if self.left == 0 {
            return None;
        }
        let (first, its) = (header[0].own(), header[1].own());
        // Kind, flags (none yet) and length in one comparison, index and epoch in another.
        let len = first.wrapping_sub(KIND_MESSAGE << 48);
        if len > u64::from(by.message_bytes_max) || its != tagged(index, by.epoch) {
            return None;
        }
        let len = len as u32;
        let payload = self.ring.payload(self.at, len)?;
        let bytes = slot_bytes(len);
        // Never beyond what is known to be there: the sender may be about to write it.
        if self.left > PREFETCH_SLOTS && bytes <= PREFETCH_SLOT_MAX {
            self.ring.prefetch(self.at, bytes);
        }
        self.at += bytes;
        self.left -= 1;
        Some(Message::new(payload, self.rank, self.lane, number))
    }

    /// Looks closely at the next slot, which is known to be there: settles at it and answers its
    /// index, at least `least`; else the words that are no message's (I1).
    #[cold]
    fn read(&mut self, by: &Check, least: u64) -> Result<u64, [u64; 2]> {
        let (mut at, mut header) = self.ring.settle(self.at);
        if crate::mutant!("reader-misses-a-wrap")
            && let Some(filler) = self.ring.header(self.at)
        {
            (at, header) = (self.at, filler);
        }
        let (first, word) = (header[0].own(), header[1].own());
        let len = first.wrapping_sub(KIND_MESSAGE << 48);
        let fits =
            len <= u64::from(by.message_bytes_max) && self.ring.payload(at, len as u32).is_some();
        match index_of(word, by.epoch) {
            Some(index) if fits && index >= least => {
                self.at = at;
                Ok(index)
            }
            _ => Err([first, word]),
        }
    }
}

const _: () = assert!(KIND_FILLER != KIND_MESSAGE && HEADER_BYTES == 4 * 8);
