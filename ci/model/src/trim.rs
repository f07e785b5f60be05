// SPDX-License-Identifier: MIT OR Apache-2.0
//! Model B, trim and install: `membership/trim.rs`, function by function and under the same names.
//!
//! The data plane is not modelled message by message: which receipts members end with is a choice
//! at the start, and what every member of a shard has received may have been delivered anywhere.
//! With `Config::data` it is modelled, and the search shows that this comes to the same.

use crate::agreement::{CUTS, DELIVERS, ECHOES, ENDS as ENDS_STEP, FREEZES, PASSES, Turn, WEDGES};
use crate::config::{Fault, Part};
use crate::judge::Property;
use crate::row::{
    Counts, ENDED, LEAVING, PASSED, READY, Row, Set, WEDGED, count, each, least, most, within,
};
use crate::world::{State, Status, World};

/// Whether a row says that its view ends (`Membership::wedge`).
pub fn is_frozen(row: &Row) -> bool {
    row.suspects != 0 || row.list.len() > row.epoch
}

impl<const N: usize> World<N> {
    /// The counts of a shard's streams.
    fn of_shard(&self, shard: usize, counts: Counts) -> Counts {
        let streams = self.streams.iter().enumerate().filter(|(_, (its, _))| *its == shard);
        streams.fold(0, |all, (at, _)| all | count(counts, at) << (4 * at))
    }

    /// Receipts are taken when the view is frozen, and said in the next poll at the earliest.
    pub fn wedge(&self, turn: &mut Turn<N>) {
        if self.config.part == Part::Agreement {
            return;
        }
        let (was, now) = (is_frozen(&turn.was), is_frozen(&turn.own));
        let shards = self.shards_of(turn.me, turn.own.epoch).next().is_some();
        if now && !was && shards {
            turn.own.received = turn.state.private[turn.me].received;
            turn.poll.done |= FREEZES;
        }
        if (was || now && !shards) && !turn.own.has(WEDGED) {
            turn.own.flags |= WEDGED;
            turn.poll.done |= WEDGES;
        }
    }

    /// V4.
    pub fn excluded(&self, turn: &Turn<N>) -> Set {
        let removed = turn.own.removed_for_good();
        if self.config.has(Fault::BarriersTrustSuspicion) {
            return turn.own.suspects;
        }
        if self.config.has(Fault::LeaverIsNotAwaited) {
            let leaving = |who: &usize| self.seen(turn, *who).has(LEAVING);
            return removed | (0..N).filter(leaving).fold(0, |set, who| set | 1 << who);
        }
        removed
    }

    pub fn trim(&self, turn: &mut Turn<N>, shard: usize) {
        let (members, _) = self.config.shards[shard];
        let (ready, asked) = (READY << shard, 1 << shard);
        let fault = |fault| self.config.has(fault);
        let waits_for = members & !self.excluded(turn);
        let all = |of: &dyn Fn(usize, Row) -> bool| {
            (0..N).filter(|who| waits_for >> who & 1 == 1).all(|who| of(who, self.seen(turn, who)))
        };
        let has_asked = turn.state.private[turn.me].asked & asked != 0;
        if turn.own.has(ready) || has_asked {
            let echoed = all(&|_, row| row.has(ready)) || fault(Fault::EchoesNotAwaited);
            if turn.was.has(ready) && !has_asked && echoed {
                self.deliver(turn, shard);
            } else if has_asked && fault(Fault::CutNotEchoed) && !turn.poll.delays {
                turn.own.flags |= ready;
            }
            return;
        }
        if !turn.own.has(WEDGED) {
            return;
        }
        let leader = (members & !turn.own.suspects).trailing_zeros() as usize;
        let shown = |who: &usize| {
            members >> who & 1 == 1 && *who != turn.me && self.seen(turn, *who).has(ready)
        };
        if fault(Fault::SuspectsAreEchoed)
            && let Some(who) = (0..N).find(shown)
        {
            return self.echo(turn, shard, who);
        }
        if leader != turn.me {
            if self.seen(turn, leader).has(ready) {
                self.echo(turn, shard, leader);
            }
            return;
        }
        let before = members & ((1u16 << turn.me) - 1) as Set;
        let wedged = all(&|_, row| row.has(WEDGED)) || fault(Fault::CutBeforeAllAreWedged);
        let taken_over = all(&|_, row| row.suspects & before == before)
            || fault(Fault::CutWithoutTakeoverBarrier);
        if turn.own.is_decided() && wedged && taken_over {
            let cut = self.compute(turn, shard);
            turn.poll.done |= CUTS;
            self.take_cut(turn, shard, cut);
        }
    }

    fn echo(&self, turn: &mut Turn<N>, shard: usize, leader: usize) {
        let cut = self.of_shard(shard, self.seen(turn, leader).cut);
        if !self.is_sound(turn, shard, cut) {
            return self.break_it(turn.state, Property::CutRefused);
        }
        turn.poll.done |= ECHOES;
        self.take_cut(turn, shard, cut);
    }

    fn is_sound(&self, turn: &Turn<N>, shard: usize, cut: Counts) -> bool {
        let received = self.of_shard(shard, turn.own.received);
        let delivered = self.of_shard(shard, turn.state.private[turn.me].delivered);
        within(cut, received) && within(delivered, cut)
    }

    fn compute(&self, turn: &Turn<N>, shard: usize) -> Counts {
        let fault = |fault| self.config.has(fault);
        let (members, _) = self.config.shards[shard];
        let rows = |set: Set| (0..N).filter(move |who| set >> who & 1 == 1);
        let shown = |who: &usize| {
            let row = self.seen(turn, *who);
            let frozen = turn.own.suspects >> who & 1 == 1;
            row.has(READY << shard)
                && !(frozen && fault(Fault::CutWithoutFrozenRows))
                && self.is_sound(turn, shard, self.of_shard(shard, row.cut))
        };
        if let Some(who) = rows(members).filter(shown).last()
            && !fault(Fault::CutRecomputed)
        {
            return self.of_shard(shard, self.seen(turn, who).cut);
        }
        let mut cut = turn.own.received;
        let mut counted = members & !self.excluded(turn);
        if fault(Fault::CutOfUnsuspected) {
            counted &= !turn.own.suspects;
        }
        for who in rows(counted) {
            let row = self.seen(turn, who);
            if row.has(WEDGED) {
                cut = least(cut, row.received);
            }
        }
        // Streams of other shards that are not both's are no part of this.
        self.of_shard(shard, cut)
    }

    fn take_cut(&self, turn: &mut Turn<N>, shard: usize, cut: Counts) {
        turn.own.cut |= cut;
        if self.config.has(Fault::CutNotEchoed) {
            return self.deliver(turn, shard);
        }
        turn.own.flags |= READY << shard;
    }

    /// Asks for the cut's delivery, and has it delivered at once, though not to the knowledge of
    /// this member before the next poll, or a later one (`Poll::delays`).
    fn deliver(&self, turn: &mut Turn<N>, shard: usize) {
        let cut = self.of_shard(shard, turn.own.cut);
        let private = &mut turn.state.private[turn.me];
        private.asked |= 1 << shard;
        turn.poll.done |= DELIVERS;
        if !within(self.of_shard(shard, private.delivered), cut) {
            return self.break_it(turn.state, Property::CutRefused);
        }
        private.delivered = most(private.delivered, cut);
        turn.state.delivered = most(turn.state.delivered, cut);
        self.judge_deliveries(turn.state);
    }

    pub fn end(&self, turn: &mut Turn<N>) {
        let config = &self.config;
        let last = turn.own.epoch >= config.views && config.part != Part::Trim;
        let over = if config.part == Part::Agreement {
            turn.poll.ends
        } else {
            let asked = turn.asked;
            turn.own.has(WEDGED)
                && !turn.poll.delays
                && self.shards_of(turn.me, turn.own.epoch).all(|shard| asked >> shard & 1 == 1)
        };
        if over && turn.own.is_decided() && !turn.own.has(ENDED) && !last {
            turn.own.flags |= ENDED;
            turn.poll.done |= ENDS_STEP;
            if turn.own.epoch == 0 {
                turn.state.ended |= 1 << turn.me;
                if self.config.part == Part::Trim && self.config.told {
                    turn.state.private[turn.me].suspected = turn.own.suspects;
                }
            }
        }
    }

    /// T4.
    pub fn pass(&self, turn: &mut Turn<N>) {
        if !turn.was.has(ENDED) {
            return;
        }
        let waits_for = turn.roster & !self.excluded(turn);
        let mut may = if self.config.part == Part::Trim {
            self.may_pass(turn)
        } else {
            let mut rows = (0..N).filter(|who| waits_for >> who & 1 == 1);
            let heard = |who: usize| self.seen(turn, who).has(PASSED);
            rows.all(|who| self.seen(turn, who).has(ENDED))
                || self.others(turn).any(heard) && !self.config.has(Fault::PassingIsNotHeard)
        };
        may |= self.config.has(Fault::InstallWithoutEnded);
        if may {
            turn.own.flags |= PASSED;
            turn.poll.done |= PASSES;
            self.judge_passing(turn);
        }
    }

    /// `Part::Trim`: when everyone has ended whose removal somebody does not know to be agreed, who
    /// then passes and says so. With `Config::told` a member that one of them suspected is told.
    fn may_pass(&self, turn: &Turn<N>) -> bool {
        let (state, me) = (&*turn.state, turn.me);
        (turn.own.agreed..=state.agreed.len()).any(|known| {
            let rest = self.config.first_view() & !state.agreed.removed(0, known);
            let accuses = |who: usize| state.private[who].suspected >> me & 1 == 1;
            let told = self.config.told && (rest >> me & 1 == 0 || each(rest).any(accuses));
            rest & !state.ended == 0 && !told
        })
    }

    /// The next view, after the last word in the old one (`Membership::install`, `new`).
    pub fn install(&self, state: &mut State<N>, me: usize, old: &Row) {
        let epoch = old.epoch + 1;
        let roster = old.list.roster(self.config.first_view(), epoch);
        if roster >> me & 1 == 0 {
            return self.leave(state, me, Status::Stopped);
        }
        self.judge_view(state, old);
        let last = !self.config.beyond && epoch == self.config.views;
        if last || self.config.part == Part::Trim {
            self.leave(state, me, Status::Passed);
            return self.judge_deliveries(state);
        }
        let reset = self.config.has(Fault::BallotIsReset);
        let own = Row {
            epoch,
            here: true,
            list: old.list,
            agreed: old.agreed,
            suspects: old.suspects & roster,
            left: old.left & roster,
            ballot: if reset { roster.trailing_zeros() as u8 } else { old.ballot },
            ..Row::default()
        };
        state.own[me] = self.number(&own);
        state.seen[me] = [0; N];
        state.private[me].asked = 0;
        for other in 0..N {
            let gone = roster >> other & 1 == 0 || own.suspects >> other & 1 == 1;
            let unread = state.unread[me][other];
            let rows = &state.pushes[other].rows;
            let now = (0..16).filter(|at| unread >> at & 1 == 1 && !gone);
            let now = now.filter(|at| self.row(rows[*at]).epoch >= epoch);
            state.unread[me][other] = now.fold(0, |all, at| all | 1 << at);
        }
        self.judge_deliveries(state);
        self.push(state, me, &own);
    }

    /// A process that was joined starts from what a member of its view knows (`carry`), whenever
    /// the transfer of the application's state is over.
    pub fn sponsor(&self, state: &mut State<N>, sponsor: usize, joiner: usize) {
        let its = self.row(state.own[sponsor]);
        let mut own = Row {
            here: true,
            epoch: its.epoch,
            list: its.list,
            agreed: its.agreed,
            suspects: its.suspects,
            left: its.left,
            ballot: its.ballot,
            ..Row::default()
        };
        if self.config.has(Fault::JoinerStartsBlank) {
            own.list = its.list.below(its.epoch);
            (own.agreed, own.suspects, own.ballot) = (its.epoch, 0, 0);
        }
        state.status[joiner] = Status::Up;
        state.own[joiner] = self.number(&own);
        state.private[joiner].delivered = state.private[sponsor].delivered;
        for other in (0..N).filter(|other| own.suspects >> other & 1 == 1) {
            state.unread[joiner][other] = 0;
        }
        self.judge_deliveries(state);
        self.push(state, joiner, &own);
        self.tidy(state);
    }
}
