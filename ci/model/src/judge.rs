// SPDX-License-Identifier: MIT OR Apache-2.0
//! What must hold in every state.

use crate::agreement::Turn;
use crate::config::Part;
use crate::row::{PASSED, Row, Set, WISH};
use crate::trim::is_frozen;
use crate::world::{State, Status, World};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Property {
    /// Property 15 of `protocol.md` §2f; I1 of the interface.
    OneList,
    /// V3 of the code.
    TakenBack,
    LeaderContradicts,
    /// I2, I3 of the interface.
    Consent,
    /// What A takes for granted of B.
    PassedEarly,
    /// Property 4.
    Primary,
    /// Property 11: the cut covers what was delivered, and nobody has less.
    CutRefused,
    /// Properties 6 and 7.
    Uniform,
}

pub const PROPERTIES: [&str; 8] = [
    "two agreements on change #c differ",
    "what was agreed is taken back",
    "a correct leader's list contradicts what is agreed",
    "a removal is agreed, and an unsuspected member does not suspect",
    "a member passes, and one that is not removed has not ended",
    "the next view holds no majority of the one before",
    "a cut is below what was delivered, or above what was received",
    "somebody delivered what a member of the next view did not",
];

impl<const N: usize> World<N> {
    pub fn break_it(&self, state: &mut State<N>, property: Property) {
        if state.broken == 0 {
            state.broken = property as u8 + 1;
        }
    }

    /// A member came to know more to be agreed.
    pub fn learn_agreed(&self, turn: &mut Turn<N>) {
        let (own, state) = (&turn.own, &mut *turn.state);
        let both = own.agreed.min(state.agreed.len());
        if own.list.below(both) != state.agreed.below(both) {
            self.break_it(state, Property::OneList);
        }
        if own.agreed > state.agreed.len() {
            state.agreed = own.list.below(own.agreed);
        }
    }

    /// A leader agrees: everyone it counts on suspects whom the list removes.
    pub fn judge_consent(&self, turn: &mut Turn<N>) {
        let removed = turn.own.removed_for_good() & turn.roster;
        let counted = turn.roster & !turn.own.suspects & !(1 << turn.me);
        for who in (0..N).filter(|who| counted >> who & 1 == 1) {
            let row = self.row(turn.state.own[who]);
            let here = turn.state.status[who] == Status::Up && row.epoch == turn.own.epoch;
            if here && removed & !row.suspects != 0 {
                self.break_it(turn.state, Property::Consent);
            }
        }
        if removed & !turn.own.suspects != 0 {
            self.break_it(turn.state, Property::Consent);
        }
    }

    pub fn judge_passing(&self, turn: &mut Turn<N>) {
        if turn.own.epoch > 0 {
            return;
        }
        let agreed = turn.state.agreed;
        let waits_for = turn.roster & !agreed.removed(0, agreed.len());
        let founders = waits_for & self.config.first_view();
        if founders & !turn.state.ended != 0 {
            self.break_it(turn.state, Property::PassedEarly);
        }
    }

    pub fn judge_view(&self, state: &mut State<N>, old: &Row) {
        let first = self.config.first_view();
        let [before, after] = [0, 1].map(|more| old.list.roster(first, old.epoch + more));
        let batch = old.list.at(old.epoch);
        let left = if batch & WISH != 0 { batch & !WISH & before } else { 0 } | old.left;
        let votes = |set: Set| self.config.votes_of(set);
        let first = before.trailing_zeros() == after.trailing_zeros();
        let broken_tie = self.config.tie_break && before.count_ones() == 2 && first;
        if 2 * votes(after & before & !left) <= votes(before & !left) && !broken_tie {
            self.break_it(state, Property::Primary);
        }
    }

    /// Whoever is in the next view has delivered what anybody delivered in the first.
    pub fn judge_deliveries(&self, state: &mut State<N>) {
        for who in 0..N {
            let next = match state.status[who] {
                Status::Passed => true,
                Status::Up => self.row(state.own[who]).epoch > 0,
                _ => false,
            };
            let wanted = self.mine(who, state.delivered);
            if next && !crate::row::within(wanted, state.private[who].delivered) {
                self.break_it(state, Property::Uniform);
            }
        }
    }

    /// Whether those who are left agree on who that is, and yet have not come to the end. Asked of
    /// states in which nothing goes on without a new fault.
    pub fn is_stuck(&self, state: &State<N>) -> bool {
        let up = |who: &usize| state.status[*who] == Status::Up;
        let here = |who: &usize| up(who) || state.status[*who] == Status::Passed;
        let alive: Set = (0..N).filter(here).fold(0, |set, who| set | 1 << who);
        let rows: Vec<Row> = (0..N).filter(up).map(|who| self.row(state.own[who])).collect();
        let settled = |row: &Row| {
            row.suspects & alive == 0 && self.roster(row) & !row.suspects & !alive & !64 == 0
        };
        if rows.is_empty() || !rows.iter().all(settled) {
            return false;
        }
        match self.config.part {
            Part::Trim => rows.iter().any(|row| is_frozen(row) && !row.has(PASSED)),
            _ if rows.iter().any(|row| row.epoch < self.config.views) => {
                rows.iter().any(|row| is_frozen(row) && row.epoch < self.config.views)
            }
            _ => {
                let first = rows[0];
                let known = first.suspects & !first.removed() == 0;
                let agreed = first.agreed == first.list.len();
                // Where nobody installs, followers do not learn what is agreed.
                let knows = |row: &Row| self.config.views == 0 || row.agreed == first.agreed;
                let same = |row: &Row| {
                    row.list == first.list && row.suspects == first.suspects && knows(row)
                };
                !(known && agreed && rows.iter().all(same))
            }
        }
    }
}
