// SPDX-License-Identifier: MIT OR Apache-2.0
//! How far a member is on its way to the next view: for the simulators' coverage and for whoever
//! asks why a view change takes so long.

use super::Membership;

/// The steps of a view change, in their order; of several subgroups the one that is furthest counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    Rest,
    /// The view is known to end, and nobody has proposed how.
    Suspected,
    Proposed,
    /// My receipts are final.
    Wedged,
    /// The next view is decided.
    Agreed,
    /// I lead a subgroup and have computed its cut.
    Cut,
    /// I have copied a cut into my row.
    Echoed,
    /// A cut is being delivered: everyone has echoed it.
    Delivering,
    Ended,
    Passed,
}

impl Stage {
    pub const ALL: [Stage; 10] = [
        Stage::Rest,
        Stage::Suspected,
        Stage::Proposed,
        Stage::Wedged,
        Stage::Agreed,
        Stage::Cut,
        Stage::Echoed,
        Stage::Delivering,
        Stage::Ended,
        Stage::Passed,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Stage::Rest => "at rest",
            Stage::Suspected => "suspected",
            Stage::Proposed => "proposed",
            Stage::Wedged => "wedged",
            Stage::Agreed => "agreed",
            Stage::Cut => "cut computed",
            Stage::Echoed => "cut echoed",
            Stage::Delivering => "cut delivered",
            Stage::Ended => "ended",
            Stage::Passed => "passed",
        }
    }
}

impl Membership {
    pub fn stage(&self) -> Stage {
        let own = self.own();
        if self.has_passed() {
            return Stage::Passed;
        }
        if own.ended {
            return Stage::Ended;
        }
        let shards = own.shards.iter().zip(&self.trims);
        let leads = |at: usize| self.shards[at].members.without(own.suspects).first();
        let reached =
            shards.enumerate().filter_map(|(at, (row, trim))| match (trim.asked, row.ready) {
                (true, _) => Some(Stage::Delivering),
                (false, true) if leads(at) == Some(self.me()) => Some(Stage::Cut),
                (false, true) => Some(Stage::Echoed),
                _ => None,
            });
        if let Some(reached) = reached.max() {
            return reached;
        }
        if self.is_decided() {
            return Stage::Agreed;
        }
        if own.wedged {
            return Stage::Wedged;
        }
        if !own.list.changes.is_empty() {
            return Stage::Proposed;
        }
        if self.frozen || !own.suspects.is_empty() || !self.requests.is_empty() || own.leaving {
            return Stage::Suspected;
        }
        Stage::Rest
    }
}
