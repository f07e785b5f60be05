// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver's turn in steps, between any two of which the world may move.

use super::dice::Dice;
use crate::base::Events;
use crate::group::{Delivery, Work};
use crate::limits::BATCH_MAX;
use crate::mem::Batch;

/// Where in its turn a member is: what its next step will do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Poll,
    Collect,
    Callback,
    Done,
    Post,
}

pub struct Turn {
    pub phase: Phase,
    pub work: Work,
    pub events: Events,
    pub batch: Batch,
    /// Messages of this turn so far.
    pub delivered: u64,
    /// Whether the turn so far did anything.
    pub busy: bool,
    /// Position in `work.deliver`; messages that this turn may still deliver.
    cursor: usize,
    budget: u64,
    /// Steps that the callback still takes; the world's count when it began.
    callback_steps: u64,
    callback_began: u64,
}

impl Turn {
    pub fn new() -> Turn {
        Turn {
            phase: Phase::Poll,
            work: Work::new(),
            events: Events::default(),
            batch: Batch::new(BATCH_MAX),
            delivered: 0,
            busy: false,
            cursor: 0,
            budget: 0,
            callback_steps: 0,
            callback_began: 0,
        }
    }

    /// A poll that came to nothing: it is left out, and `done` with it.
    pub fn skip(&mut self) {
        self.work.clear();
        (self.cursor, self.delivered, self.phase) = (0, 0, Phase::Post);
    }

    /// After a poll: what it found is delivered, so many messages at the most.
    pub fn begin(&mut self, budget: u64) {
        (self.cursor, self.delivered, self.budget) = (0, 0, budget);
        self.phase = if self.work.deliver.is_empty() { Phase::Done } else { Phase::Collect };
    }

    /// What is to be collected next, and how many messages at most; `None`: all is.
    pub fn next(&mut self) -> Option<(Delivery, usize)> {
        if self.cursor == self.work.deliver.len() || self.budget == 0 {
            self.phase = Phase::Done;
            return None;
        }
        Some((self.delivery(), self.budget.min(BATCH_MAX as u64) as usize))
    }

    /// What is being delivered.
    pub fn delivery(&self) -> Delivery {
        self.work.deliver[self.cursor]
    }

    /// The batch has been collected. Whether that used up what this turn may deliver.
    pub fn collected(&mut self) -> bool {
        self.budget -= self.batch.messages().len() as u64;
        self.budget == 0
    }

    /// A callback begins with the batch, if there is anything in it. Whether there is.
    pub fn calls_back(&mut self, now: u64, steps_max: u64, dice: &Dice) -> bool {
        if self.batch.messages().is_empty() {
            self.cursor += 1;
            return false;
        }
        self.busy = true;
        self.callback_steps = dice.range(0, steps_max);
        self.callback_began = now;
        self.phase = Phase::Callback;
        true
    }

    /// The callback goes on for a step. Whether it returns.
    ///
    /// Not `steps -= u64::from(!over)` with `over` for the caller to branch on: rustc 1.95 at
    /// opt-level 2 and 3 leaves the subtraction out once both are in line.
    pub fn returns(&mut self) -> bool {
        if self.callback_steps == 0 {
            return true;
        }
        self.callback_steps -= 1;
        false
    }

    /// Whether anything else moved during the callback.
    pub fn was_interrupted(&self, now: u64) -> bool {
        now > self.callback_began
    }

    /// The callback has returned.
    pub fn returned(&mut self) {
        self.delivered += self.batch.messages().len() as u64;
        self.batch.clear();
        self.cursor += 1;
        self.phase = Phase::Collect;
    }
}
