// SPDX-License-Identifier: MIT OR Apache-2.0
//! *Received* mode over views: nothing of a sender that goes on is lost or delivered twice.
//!
//! What is delivered on receipt cannot be taken back, so a view ends with members that have had more
//! of a sender than others. From the cut on, its least final receipt, that sender sends all again in
//! the next view, in order, before anything new; whoever has had more than the cut passes over what
//! comes first there. Nobody is told how much that is: each counts what it has had.
//!
//! A1  What is sent again is all there: a slot is used anew when every member of the view has released
//!     it, so received it, and the cut is what some member had received.
//! A2  Whatever was received is delivered before the view ends, beyond the cut, too: `slots` is both
//!     the receipt and what has been delivered.
//! A3  A view may end before all has come that is to be passed over. What of the lane's messages a
//!     member has had is then the larger of what came and what was to be passed over.
//! A4  The count is a sender's and a lane's for as long as it is one from view to view, and a member's
//!     for as long as it is in the subgroup. Who comes, or comes back, begins with what is sent
//!     first; with a member's state, where that member does.
//!
//! Of a sender that does not go on some deliver what others do not: that is what the mode means.
//!
//! Cost: nothing once the first messages of a view have come.

use super::Multicast;
use crate::base::{Count, Number};
use crate::group::Engine;
use crate::group::membership::roster::Roster;
use crate::limits::{COUNT_MAX, LANES_MAX, SUBGROUPS_MAX};
use crate::mem::Batch;
use crate::mutant;
use crate::sst::inbox::{BadSlot, Inbox};
use crate::sst::layout::Mode;

/// So many of the first messages of that lane in a view has a member had in earlier ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ahead {
    pub subgroup: u16,
    /// The sender's seniority.
    pub sender: u64,
    pub lane: u16,
    pub count: u64,
}

impl Ahead {
    /// Whether these can be what a member of that view begins with.
    pub fn are_sound(all: &[Ahead], roster: &Roster) -> bool {
        let sound = |ahead: &Ahead| {
            usize::from(ahead.subgroup) < SUBGROUPS_MAX
                && usize::from(ahead.lane) < LANES_MAX
                && roster.rank_of(ahead.sender).is_some()
                && ahead.count < COUNT_MAX
        };
        all.iter().all(sound)
    }
}

impl Engine {
    /// Begins a view with what this member has had of it.
    pub(in crate::group) fn begin_ahead(&mut self, roster: &Roster, ahead: &[Ahead]) {
        for multicast in self.multicasts.iter_mut().filter(|of| of.mode == Mode::Received) {
            let subgroup = multicast.subgroup;
            let senders = &self.view.subgroups[subgroup].senders;
            let count = |s: usize| {
                let (sender, lane) = (roster.seniority(senders[s].rank), senders[s].lane);
                let its = |of: &&Ahead| {
                    (usize::from(of.subgroup), of.sender) == (subgroup, sender)
                        && (of.lane == lane || mutant!("wire-ahead-of-another-lane"))
                };
                ahead.iter().find(its).map_or(Count(0), |of| Count(of.count))
            };
            multicast.ahead = (0..senders.len()).map(count).collect();
            multicast.ending.careful = multicast.ahead.iter().any(|count| count.0 > 0);
        }
    }

    /// What this member will have had of the next view, when all of this one is delivered. Of senders
    /// that it may be without, too.
    pub(in crate::group) fn ahead(&self, roster: &Roster) -> Vec<Ahead> {
        let mut all = Vec::new();
        for multicast in self.multicasts.iter().filter(|of| of.mode == Mode::Received) {
            let senders = self.view.subgroups[multicast.subgroup].senders.iter();
            for (s, sender) in senders.enumerate() {
                let (subgroup, lane) = (multicast.subgroup as u16, sender.lane);
                let count = multicast.ahead_of_next(s);
                if count > 0 {
                    all.push(Ahead { subgroup, sender: roster.seniority(sender.rank), lane, count });
                }
            }
        }
        all
    }
}

impl Multicast {
    /// A3.
    fn ahead_of_next(&self, s: usize) -> u64 {
        let (came, ahead) = (self.slots[s].0, self.ahead[s].0);
        let cut = self.ending.cut.as_ref().expect("a view ends with a cut")[s].0;
        if mutant!("wire-ahead-forgotten") {
            return 0;
        }
        if mutant!("wire-ahead-counted-twice") {
            return came + ahead - cut;
        }
        if mutant!("wire-ahead-of-the-last-view-only") {
            return came - cut;
        }
        if mutant!("wire-ahead-by-head") {
            return self.received[s].0.max(ahead).max(cut) - cut;
        }
        came.max(ahead) - cut
    }

    /// Whether some of the view's first messages are still to come that I have had.
    pub fn is_ahead(&self) -> bool {
        let mut both = self.ahead.iter().zip(&self.consumed);
        both.any(|(ahead, consumed)| consumed < ahead)
    }

    /// As `collect`, in *received* mode where a view begins or ends.
    pub(super) fn collect_received(
        &mut self,
        inbox: &mut Inbox,
        upto: Number,
        batch: &mut Batch,
        most: usize,
    ) -> Result<(), BadSlot> {
        let mut outcome = inbox.pass_over(&self.ahead, &self.slots);
        if outcome.is_ok() {
            outcome = inbox.collect(upto, &self.slots, batch, most);
        }
        if let Err(bad) = outcome
            && self.has_cut()
        {
            inbox.give_up(bad.sender); // whoever wrote that has no more messages here
        }
        let had = |(s, ahead): (usize, &Count)| inbox.consumed(s) >= *ahead;
        self.ending.careful = self.ending.wedged || !self.ahead.iter().enumerate().all(had);
        outcome
    }

    /// By sender: no cut is below this. A sender has at most a window of messages that some member
    /// has not released.
    pub(super) fn least_receipts(&mut self) -> Vec<Count> {
        let mut sent: Vec<u64> = self.slots.iter().map(|count| count.0).collect();
        for lane in &mut self.lanes {
            sent[lane.s] += lane.taker.waiting();
        }
        sent.into_iter().map(|sent| Count(sent.saturating_sub(self.window))).collect()
    }
}
