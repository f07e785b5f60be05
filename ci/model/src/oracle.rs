// SPDX-License-Identifier: MIT OR Apache-2.0
//! What model B takes for granted of model A: the interface, as a machine that does everything the
//! interface allows, at any time.
//!
//! I1  There is one list of agreed changes; a member knows a prefix of it, which only grows.
//! I2  Whoever knows of a removal, agreed or proposed, suspects.
//! I3  A removal is agreed under somebody who suspects a minority S of the view, the removed one
//!     among them; every member that is not in S has suspected the removed one before, and has said
//!     so with its consent. That holds for any leader, of any number that follow each other; which
//!     S each had is forgotten.
//! I4  A member knows of an agreement at any time later, in no order with other members' rows.
//!
//! What model A takes for granted of B: a member ends only when the next view is decided, at any
//! time later (`Poll::ends`), and passes only when everyone whose removal is not agreed has ended.
//! `judge.rs` checks I1–I3 and the latter in the searches of `Part::Agreement` and `Part::Whole`.

use crate::agreement::{LEARNS, Stop, Turn};
use crate::row::Set;
use crate::world::{State, Status, World};

impl<const N: usize> World<N> {
    /// In place of `follow` and `lead`.
    pub fn learn(&self, turn: &mut Turn<N>) -> Result<(), Stop> {
        if turn.poll.learns == 0 {
            return Ok(());
        }
        let upto = turn.poll.learns - 1;
        let known = turn.state.agreed.below(upto.max(1));
        if known.len() > turn.own.list.len() {
            turn.own.list = known;
        }
        turn.own.agreed = turn.own.agreed.max(upto);
        turn.poll.done |= LEARNS;
        let removed = turn.own.removed();
        if removed >> turn.me & 1 == 1 {
            return Err(Stop);
        }
        self.suspect_all(turn, removed)
    }

    /// How much more a member may learn: `Poll::learns`.
    pub fn lessons(&self, state: &State<N>, who: usize) -> std::ops::RangeInclusive<u8> {
        let (own, len) = (self.row(state.own[who]), state.agreed.len());
        // 1: the proposal that ends the view without a suspicion, not yet agreed.
        let first = if own.list.len() == 0 && self.config.join_agreed { 1 } else { own.agreed + 2 };
        first..=len + 1
    }

    /// Every removal that may be agreed next: who, and whom whoever agrees to it must suspect.
    pub fn removals(&self, state: &State<N>) -> impl Iterator<Item = (usize, Set)> + '_ {
        let removed = state.agreed.removed(0, state.agreed.len());
        let state = state.clone();
        (0..N).filter(move |who| removed >> who & 1 == 0).filter_map(move |who| {
            let consents = |other: &usize| self.row(state.own[*other]).suspects >> who & 1 == 1;
            let mut suspects: Set = 1 << who;
            (0..N).filter(|other| !consents(other)).for_each(|other| suspects |= 1 << other);
            let new = suspects & !state.suspected;
            let all = self.config.processes() as u32 + u32::from(self.config.outside);
            let fits = (suspects | state.suspected).count_ones() as usize <= self.config.suspects;
            let may = new & !self.config.targets == 0
                && fits
                && 2 * (all - suspects.count_ones()) > all
                && state.status[who] != Status::Unborn;
            may.then_some((who, suspects))
        })
    }
}
