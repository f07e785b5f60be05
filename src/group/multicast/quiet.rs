// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether there is anything to do: before a poll, and between saying "asleep" and sleeping.
//!
//! These looks keep nothing of what they see: the poll's own look is the one that counts (T2).

use super::{Foreign, Multicast, Other};
use crate::base::{Count, Members, Number};
use crate::sst::Table;
use crate::sst::frontier;
use crate::sst::layout::Mode;

impl Multicast {
    /// Whether there is something of mine that peers but `full` have not been told.
    pub(super) fn owes(&self, full: Members) -> bool {
        self.outbox.owes(full) || (self.mode == Mode::Stable && self.released != self.delivered)
    }

    /// Whether a poll would find nothing and say nothing. It looks at foreign cells and keeps nothing
    /// of what it sees, so that the poll's own look is the one that counts (T2).
    #[inline(always)]
    pub fn is_still(&self, table: &Table) -> bool {
        self.settled && !self.has_news(table)
    }

    /// Whether a lane has filled or a foreign cell has moved.
    #[inline(always)]
    fn has_news(&self, table: &Table) -> bool {
        if self.ending.wedged {
            return false;
        }
        let head = |sender: &Foreign| table.observe_spot(&sender.head) != self.received[sender.s];
        let prefix = |other: &Other| table.observe_spot(&other.prefix) != other.seen;
        self.lanes.iter().any(|lane| lane.taker.has_waiting())
            || self.foreign.iter().any(head)
            || (self.mode == Mode::Stable && self.others.iter().any(prefix))
    }

    /// Whether a poll would find something: for the look that comes after saying "asleep". Room for
    /// a lane that found none counts once per refusal: a producer that gave up keeps nobody awake.
    pub fn has_work(&mut self, table: &Table, full: Members) -> bool {
        self.owes(full)
            || self.deliverable().is_some()
            || self.has_news(table)
            || (!self.ending.wedged && self.room_again(table))
    }

    /// Whether a lane that found no room would find some now.
    fn room_again(&mut self, table: &Table) -> bool {
        let mut any = false;
        for at in 0..self.lanes.len() {
            let Some((refusal, before)) = self.lanes[at].waits() else { continue };
            if self.released_by_all(table, self.lanes[at].s) > before {
                self.lanes[at].told = refusal;
                any = true;
            }
        }
        any
    }

    /// How many messages of sender `s` every member has released.
    pub fn released_by_all(&self, table: &Table, s: usize) -> Count {
        let ranks = self.others.iter().map(|other| other.rank).chain([table.me()]);
        match self.mode {
            Mode::Stable => {
                let of = |rank| table.observe::<Number>(rank, self.columns.released, 0);
                frontier::share(ranks.map(of).min().unwrap_or(Number(0)), s, self.received.len())
            }
            Mode::Received => {
                let of = |rank| table.observe::<Count>(rank, self.columns.released_by, s);
                ranks.map(of).min().unwrap_or(Count(0))
            }
        }
    }

    /// Whether a lane of mine waits for room: then `released` is news to me.
    pub fn waits_for_room(&self) -> bool {
        self.lanes.iter().any(|lane| lane.waits().is_some())
    }
}
