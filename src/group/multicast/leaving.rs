// SPDX-License-Identifier: MIT OR Apache-2.0
//! What has become of my own messages, for a member that is to go.

use super::Multicast;
use crate::base::Count;
use crate::mutant;
use crate::sst::Table;
use crate::sst::kept::Kept;
use crate::sst::layout::Mode;

impl Multicast {
    /// Whether all that my lanes have in this view is delivered here, and will be at every member
    /// that goes on: it is stable; in *received* mode, delivered by all.
    pub fn has_delivered_mine(&self, table: &Table) -> bool {
        self.lanes.iter().all(|lane| {
            if mutant!("wire-leaves-undelivered") {
                return true;
            }
            let all = Count(lane.taker.slots);
            let here = !lane.taker.has_waiting() && self.consumed[lane.s] == all;
            let by = |rank| table.observe::<Count>(rank, self.columns.released_by, lane.s);
            let there = || self.others.iter().all(|other| by(other.rank) >= all);
            here && (self.mode == Mode::Stable || there())
        })
    }

    /// What of a lane of mine was not delivered here; and how many were that are still to be sent again.
    pub fn undelivered(&mut self, lane: usize) -> (Kept, u64) {
        let (s, taker) = (self.lanes[lane].s, &mut self.lanes[lane].taker);
        // Of what is sent again it has delivered the first in an earlier view.
        let (ahead, there) = (self.ahead[s].0, taker.slots + taker.waiting());
        (taker.keep(ahead.min(there).max(self.consumed[s].0)), ahead.saturating_sub(there))
    }
}
