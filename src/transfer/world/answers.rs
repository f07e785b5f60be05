// SPDX-License-Identifier: MIT OR Apache-2.0
//! A source, and a joiner that answers anything.

use super::super::carrier::{Step, TEXT_BYTES_MAX};
use super::super::frame::{Encoder, Kind};
use super::super::*;
use super::World;
use crate::base::{Epoch, Nanos};

/// What a joiner says to a source, and what that does meanwhile.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It delivers, looks after the transfer, and goes to another view.
    Goes {
        batches: u8,
        looks: bool,
        ends: bool,
    },
    /// `number`: 0 is the right one. Of both others: how they are taken from what is right.
    Synced {
        number: u64,
        bytes: (u8, u64),
        messages: (u8, u64),
    },
    Frame(Kind, Vec<u8>),
    Bytes(Vec<u8>),
}

impl World {
    /// The source, and a joiner that answers anything. `Err`: what is not as it must be.
    pub fn hear(&mut self, answers: &[Answer]) -> Result<(), String> {
        let (mut heard, mut joins, mut encoder) = (0, 0, Encoder::new(100));
        for answer in answers {
            self.now += 20_000_000;
            while self.carrier.step(Nanos(self.now)) == Step::Write {
                self.carrier.sent(self.carrier.pending().len());
            }
            let sent = self.progress.read();
            match answer {
                Answer::Goes { batches, looks, ends } => {
                    (0..*batches).for_each(|_| self.deliver());
                    let version = self.version();
                    match self.feed.as_mut().filter(|_| *looks).map(Feed::poll) {
                        Some(Ask::Open) => {
                            self.feed.as_mut().unwrap().open(&mut self.origin, &version)
                        }
                        Some(Ask::Join) => joins += 1,
                        Some(Ask::Over) => self.feed = None,
                        Some(Ask::Nothing) | None => {}
                    }
                    if let Some(feed) = self.feed.take_if(|_| *ends && joins > 0) {
                        let (epoch, finals) = (Epoch(self.epoch + 1), version.positions);
                        let end = End { epoch, finals, extra: Vec::new() };
                        self.ended = feed.end(&end).then_some(end);
                    }
                    continue;
                }
                Answer::Synced { number, bytes, messages } => {
                    let of = |said: &(u8, u64), all: u64| match said.0 {
                        0 => said.1,
                        1 => all,
                        2 => all.wrapping_add(said.1),
                        _ => all * (said.1 % 8) / 8,
                    };
                    if *number == 0 && !self.carrier.awaits_answer() {
                        continue;
                    }
                    let number = if *number == 0 { heard } else { *number };
                    let words = [
                        number,
                        of(bytes, sent.catchup_bytes),
                        of(messages, sent.catchup_messages),
                    ];
                    encoder.put(Kind::Synced, &words.map(u64::to_le_bytes).concat());
                    heard += 1;
                }
                Answer::Frame(kind, payload) => encoder.put(*kind, payload),
                Answer::Bytes(bytes) => self.back.extend(bytes),
            }
            let pending = encoder.pending();
            self.back.extend(pending);
            let len = pending.len();
            encoder.sent(len);
            while !self.back.is_empty() && self.carrier.outcome().is_none() {
                let space = self.carrier.space();
                let len = self.back.len().min(space.len()).min(1 + self.seed.below(60) as usize);
                self.back.drain(..len).zip(space).for_each(|(byte, place)| *place = byte);
                self.carrier.heard(len);
            }
            if self.carrier.pending().len() > 2 * TEXT_BYTES_MAX {
                return Err(format!("{} bytes to say", self.carrier.pending().len()));
            }
        }
        let done = self.carrier.outcome() == Some(&Ok(()));
        if joins > 1 || done && self.ended.is_none() {
            return Err(format!("{joins} joins, done: {done}"));
        }
        Ok(())
    }
}
