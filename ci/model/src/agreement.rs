// SPDX-License-Identifier: MIT OR Apache-2.0
//! Model A, takeover and agreement: `membership/mod.rs` (look, suspect, count) and `leader.rs`,
//! function by function and under the same names.

use crate::config::{Fault, Part};
use crate::judge::Property;
use crate::row::{ENDED, LEAVING, Row, Set, WISH, each};
use crate::world::{State, Status, World};

/// One look at one row. Which push of it is found, as 1 + its position; 0: none that is new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Read {
    pub push: u8,
    /// Up to which level it shows the words of a later push, that of the position `later` (R6).
    pub level: u8,
    pub later: u8,
}

/// One poll of one member: what it finds and what else comes to it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Poll {
    pub who: usize,
    /// Per other process, what it finds of that one.
    pub reads: [Read; 6],
    /// Whom its detectors report.
    pub hears: Set,
    /// Which processes ask it to let them join.
    pub wishes: Set,
    pub leaves: bool,
    /// It acts on what it knows; else it only looks, and says whom it suspects.
    pub acts: bool,
    /// `Part::Agreement`: its trim is over.
    pub ends: bool,
    /// Its callbacks have not returned from the cut yet.
    pub delays: bool,
    /// `Part::Trim`: 1 + how much it learns to be agreed; 0: nothing.
    pub learns: u8,
    /// Steps done, as positions in `STEPS`.
    pub done: u16,
}

/// Names of steps, as in `membership/mod.rs`.
pub const STEPS: [&str; 15] = [
    "suspects",
    "follows",
    "takes over",
    "proposes",
    "agrees",
    "is frozen",
    "is wedged",
    "cuts",
    "echoes",
    "delivers",
    "ends",
    "passes and installs",
    "stops",
    "asks to leave",
    "learns",
];
pub const SUSPECTS: u16 = 1;
pub const FOLLOWS: u16 = 2;
pub const TAKES_OVER: u16 = 4;
pub const PROPOSES: u16 = 8;
pub const AGREES: u16 = 16;
pub const FREEZES: u16 = 32;
pub const WEDGES: u16 = 64;
pub const CUTS: u16 = 128;
pub const ECHOES: u16 = 256;
pub const DELIVERS: u16 = 512;
pub const ENDS: u16 = 1024;
pub const PASSES: u16 = 2048;
pub const STOPS: u16 = 4096;
pub const LEAVES: u16 = 8192;
pub const LEARNS: u16 = 16384;

/// A poll under way.
pub struct Turn<'a, const N: usize> {
    pub state: &'a mut State<N>,
    pub poll: Poll,
    pub me: usize,
    /// My row: as I shall publish it, and as it was.
    pub own: Row,
    pub was: Row,
    /// Shards whose cut was being delivered before this poll.
    pub asked: u8,
    pub roster: Set,
}

/// Takes no more part.
pub struct Stop;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// There is no such poll.
    None,
    /// It found rows, and nothing came of them.
    Idle,
    /// The steps done.
    Done(u16),
}

/// Levels of a row as they land (`sst/layout.rs`): a torn row has the words up to a level from the
/// later push. With the fault R6 breaks it is the suspects that are too new.
fn torn(row: &Row, next: &Row, level: u8, suspects_last: bool) -> Row {
    if suspects_last {
        return Row { suspects: next.suspects, ..*row };
    }
    let mut mixed = *next;
    mixed.flags = next.flags & !crate::row::PASSED | row.flags & crate::row::PASSED;
    if level < 3 {
        mixed.suspects = row.suspects;
    }
    if level < 2 {
        mixed.agreed = row.agreed;
        mixed.flags = mixed.flags & !crate::row::ENDED | row.flags & crate::row::ENDED;
    }
    mixed
}

/// R3, by votes.
fn majorities_meet(old: u32, next: u32, union: u32) -> bool {
    old / 2 + next / 2 + 2 > union
}

impl<const N: usize> World<N> {
    /// `Membership::poll`.
    pub fn poll(&self, state: &mut State<N>, poll: Poll) -> Outcome {
        let me = poll.who;
        let own = self.row(state.own[me]);
        let roster = self.roster(&own);
        let asked = state.private[me].asked;
        let mut turn = Turn { state, poll, me, own, was: own, asked, roster };
        let Some(outcome) = self.go_on(&mut turn) else { return Outcome::None };
        let (done, own, was) = (turn.poll.done, turn.own, turn.was);
        if outcome.is_err() {
            self.leave(state, me, Status::Stopped);
            self.tidy(state);
            return Outcome::Done(done | STOPS);
        }
        if own == was && done & DELIVERS == 0 {
            self.tidy(state);
            return Outcome::Idle;
        }
        if own != was {
            state.own[me] = self.number(&own);
            self.push(state, me, &own);
        }
        if done & PASSES != 0 {
            self.install(state, me, &own);
        } else if poll.leaves && self.config.has(Fault::LeaverOutOfCount) {
            self.leave(state, me, Status::Stopped);
        }
        self.tidy(state);
        Outcome::Done(done)
    }

    fn go_on(&self, turn: &mut Turn<N>) -> Option<Result<(), Stop>> {
        Some(match self.look(turn)? {
            Ok(()) => self.act(turn),
            stop => stop,
        })
    }

    fn act(&self, turn: &mut Turn<N>) -> Result<(), Stop> {
        for who in each(turn.poll.hears) {
            self.suspect(turn, who);
        }
        self.count(turn)?;
        if turn.poll.leaves {
            turn.poll.done |= LEAVES;
            if self.config.has(Fault::LeaverOutOfCount) {
                // As it was first written: its last word, by which it suspects itself.
                turn.own.left |= 1 << turn.me;
                turn.own.suspects |= 1 << turn.me;
                return Ok(());
            }
            turn.own.flags |= LEAVING;
        }
        if !turn.poll.acts {
            self.wedge(turn);
            return Ok(());
        }
        if self.config.part == Part::Trim {
            self.learn(turn)?;
        } else {
            self.follow(turn)?;
            self.lead(turn)?;
        }
        self.wedge(turn);
        for shard in self.shards_of(turn.me, turn.own.epoch) {
            self.trim(turn, shard);
        }
        self.count(turn)?;
        self.end(turn);
        self.pass(turn);
        Ok(())
    }

    /// Takes in all rows that it finds. The code goes by rank and does not look at a row whose
    /// owner it has just come to suspect; here that is a poll that finds nothing new of that one,
    /// and so a poll in which two of the rows suspect each other is none.
    fn look(&self, turn: &mut Turn<N>) -> Option<Result<(), Stop>> {
        let (me, mut reported, mut seen) = (turn.me, 0, 0);
        let mut left = turn.own.left;
        for other in (0..N).filter(|other| turn.poll.reads[*other].push > 0) {
            let read = turn.poll.reads[other];
            let pushes = turn.state.pushes[other].rows;
            let at = usize::from(read.push) - 1;
            self.take(turn.state, me, other, at);
            if read.level > 0 {
                let suspects_last = self.config.has(Fault::SuspectsObservedLast);
                let (row, later) =
                    (self.row(pushes[at]), self.row(pushes[usize::from(read.later)]));
                let mixed = torn(&row, &later, read.level, suspects_last);
                if mixed == row || mixed == later {
                    return None;
                }
                turn.state.seen[me][other] = self.number(&self.for_reader(&mixed, other, me));
            }
            let row = self.row(turn.state.seen[me][other]);
            if (row.suspects | row.removed()) >> me & 1 == 1 {
                return Some(Err(Stop));
            }
            let accuses = row.suspects & seen;
            let duel = |who: usize| {
                accuses >> who & 1 == 1
                    && self.row(turn.state.seen[me][who]).suspects >> other & 1 == 1
            };
            if (0..N).any(duel) {
                return None;
            }
            reported |= row.suspects;
            left |= row.left;
            seen |= 1 << other;
        }
        turn.own.left = left;
        for who in each(reported | left) {
            self.suspect(turn, who);
        }
        Some(Ok(()))
    }

    /// V1.
    pub fn suspect(&self, turn: &mut Turn<N>, who: usize) {
        let bit = 1 << who;
        if turn.own.suspects & bit != 0 || turn.roster & bit == 0 || who == turn.me {
            return;
        }
        turn.own.suspects |= bit;
        turn.poll.done |= SUSPECTS;
        if !self.config.has(Fault::RowsNotFrozen) {
            self.freeze(turn.state, turn.me, who);
        }
    }

    /// V2.
    fn count(&self, turn: &Turn<N>) -> Result<(), Stop> {
        let (own, config) = (&turn.own, &self.config);
        let whole = turn.roster & !own.left;
        let rest = config.votes_of(whole & !own.suspects);
        let outside = u32::from(config.outside);
        if config.is_majority(rest + outside, config.votes_of(whole) + outside)
            || self.breaks_the_tie(turn)
        {
            return Ok(());
        }
        Err(Stop)
    }

    fn breaks_the_tie(&self, turn: &Turn<N>) -> bool {
        let (own, me) = (&turn.own, turn.me as u32);
        let next = own.list.roster(self.config.first_view(), own.epoch + 1);
        let outvoted = own.has(ENDED) && (next.count_ones() > 2 || next.trailing_zeros() != me);
        self.config.tie_break
            && turn.roster.count_ones() == 2
            && turn.roster.trailing_zeros() == me
            && self.others(turn).all(|who| self.seen(turn, who).here)
            && !outvoted
    }

    pub fn seen(&self, turn: &Turn<N>, who: usize) -> Row {
        if who == turn.me { turn.own } else { self.row(turn.state.seen[turn.me][who]) }
    }

    pub fn others(&self, turn: &Turn<N>) -> impl Iterator<Item = usize> + use<N> {
        let others = turn.roster & !(1 << turn.me);
        (0..N).filter(move |who| others >> who & 1 == 1)
    }

    fn follow(&self, turn: &mut Turn<N>) -> Result<(), Stop> {
        let leader = self.leader(&turn.own);
        if leader != turn.me {
            return self.follow_one(turn, leader);
        }
        if self.config.has(Fault::SuspectsAreFollowed) {
            let me = turn.me;
            for suspect in self.others(turn).take_while(|who| *who < me) {
                self.follow_one(turn, suspect)?;
            }
        }
        Ok(())
    }

    fn follow_one(&self, turn: &mut Turn<N>, leader: usize) -> Result<(), Stop> {
        let (row, ballot) = (self.seen(turn, leader), leader as u8);
        if !row.here || row.ballot != ballot || ballot < turn.own.ballot {
            return Ok(());
        }
        let same = turn.own.ballot == ballot;
        if !same || row.list.len() > turn.own.list.len() {
            let keeps = if same { turn.own.list.len() } else { turn.own.agreed };
            let removes = row.removed();
            if row.list.common(turn.own.list) < keeps || removes >> leader & 1 == 1 {
                self.break_it(turn.state, Property::LeaderContradicts);
                return Ok(());
            }
            self.suspect_all(turn, removes)?;
            turn.poll.done |= FOLLOWS;
            self.adopt(turn, row.list, ballot);
        }
        let agreed = row.agreed.min(turn.own.list.len());
        if agreed > turn.own.agreed {
            turn.own.agreed = agreed;
            self.learn_agreed(turn);
        }
        Ok(())
    }

    pub fn suspect_all(&self, turn: &mut Turn<N>, set: Set) -> Result<(), Stop> {
        for who in each(set) {
            self.suspect(turn, who);
        }
        self.count(turn)
    }

    fn lead(&self, turn: &mut Turn<N>) -> Result<(), Stop> {
        if self.leader(&turn.own) != turn.me {
            return Ok(());
        }
        if usize::from(turn.own.ballot) != turn.me {
            self.take_over(turn)?;
        } else {
            self.propose(turn);
        }
        if usize::from(turn.own.ballot) == turn.me {
            self.agree(turn);
        }
        Ok(())
    }

    /// R7.
    fn take_over(&self, turn: &mut Turn<N>) -> Result<(), Stop> {
        let fault = |fault| self.config.has(fault);
        let before = turn.roster & ((1u16 << turn.me) - 1) as Set;
        let barrier = |who: usize| {
            let row = self.seen(turn, who);
            row.here && row.suspects & before == before
        };
        let suspects = turn.own.suspects;
        let mut alone = self.others(turn).filter(|who| suspects >> who & 1 == 0);
        if !fault(Fault::TakeoverWithoutBarrier) && !alone.all(barrier) {
            return Ok(());
        }
        let mut best = turn.own;
        for who in self.others(turn) {
            let row = self.seen(turn, who);
            let frozen = turn.own.suspects >> who & 1 == 1;
            if !row.here || frozen && fault(Fault::TakeoverWithoutFrozenRows) {
                continue;
            }
            let (mine, its) = (best.list.len(), row.list.len());
            let better = if fault(Fault::TakeoverLongestList) {
                its > mine || its == mine && row.ballot < best.ballot
            } else {
                (row.ballot, its) > (best.ballot, mine)
            };
            if better {
                best = row;
            }
        }
        let mut list = best.list;
        if list.common(turn.own.list) < turn.own.agreed {
            self.break_it(turn.state, Property::LeaderContradicts);
            return Ok(());
        }
        let removes = list.removed(turn.own.epoch, list.len());
        if removes >> turn.me & 1 == 1 {
            return Err(Stop);
        }
        self.suspect_all(turn, removes)?;
        let missing = turn.own.suspects & !removes;
        if missing != 0 {
            if fault(Fault::RemovalsJoinTheBatch) && list.len() > turn.own.epoch {
                list.merge_last(missing);
            } else {
                list.push(missing);
            }
        }
        turn.poll.done |= TAKES_OVER;
        self.adopt(turn, list, turn.me as u8);
        Ok(())
    }

    fn propose(&self, turn: &mut Turn<N>) {
        let mut list = turn.own.list;
        let missing = turn.own.suspects & !turn.own.removed();
        if missing != 0 {
            list.push(missing);
        } else if list.len() == turn.own.epoch && turn.own.suspects == 0 {
            let wishes = self.wishes(turn);
            if wishes == 0 {
                return;
            }
            list.push(WISH | wishes);
        } else {
            return;
        }
        turn.poll.done |= PROPOSES;
        self.adopt(turn, list, turn.own.ballot);
    }

    /// As many leaves and joins as R3 allows (`append_wishes`).
    fn wishes(&self, turn: &Turn<N>) -> Set {
        let config = &self.config;
        let leaving =
            |who: &usize| turn.roster >> who & 1 == 1 && self.seen(turn, *who).has(LEAVING);
        let joining = |who: &usize| turn.poll.wishes >> who & 1 == 1;
        let (mut gone, mut come) = (0, 0);
        for who in (0..N).filter(leaving).chain((0..N).filter(joining)) {
            let bit = 1 << who;
            let join = turn.roster & bit == 0;
            let (left, arrived) = if join { (gone, come | bit) } else { (gone | bit, come) };
            let next = turn.roster & !left | arrived;
            let votes = |set: Set| config.votes_of(set);
            let meets =
                majorities_meet(votes(turn.roster), votes(next), votes(turn.roster | arrived));
            let breaks = config.tie_break && next.count_ones() == 2 && turn.roster.count_ones() > 2;
            if next != 0 && !breaks && (meets || config.has(Fault::JoinsUncapped)) {
                (gone, come) = (left, arrived);
            }
        }
        gone | come
    }

    /// R2.
    fn agree(&self, turn: &mut Turn<N>) {
        let mut agreed = turn.own.list.len();
        for who in self.others(turn).filter(|who| turn.own.suspects >> who & 1 == 0) {
            let row = self.seen(turn, who);
            let other = usize::from(row.ballot) != turn.me;
            if row.here && (!other || self.config.has(Fault::OtherBallotsCount)) {
                agreed = agreed.min(row.list.len());
            } else if !self.config.has(Fault::OtherBallotsAreSkipped) {
                agreed = 0;
            }
        }
        if agreed > turn.own.agreed {
            turn.own.agreed = agreed;
            turn.poll.done |= AGREES;
            self.judge_consent(turn);
            self.learn_agreed(turn);
        }
    }

    fn adopt(&self, turn: &mut Turn<N>, list: crate::row::List, ballot: u8) {
        if list.common(turn.own.list) < turn.own.agreed {
            self.break_it(turn.state, Property::TakenBack);
        }
        (turn.own.list, turn.own.ballot) = (list, ballot);
    }
}
