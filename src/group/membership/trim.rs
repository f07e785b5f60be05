// SPDX-License-Identifier: MIT OR Apache-2.0
//! The way from a wedged view to the next: receipts, ragged trim, echo, end, pass, install.
//!
//! Per subgroup the lowest rank that one does not suspect computes the *cut*: how many messages of
//! each sender the survivors deliver. It is the least final receipt of all members that are not
//! removed. Why it covers everything that anybody ever delivered: that was stable, so every member
//! had received it before it was wedged. In *received* mode it is what all have, and those who have
//! more keep it: from there on senders send again (`multicast/ahead.rs`).
//!
//! T1  A cut is computed only from final receipts, and copied if any row shows one (V5).
//! T2  R4: and only when every member that is not removed suspects all of the subgroup before me:
//!     what such a member echoed before, I see, because it published the suspicion later.
//! T3  Nobody acts on a cut before everyone who is not removed has echoed it: then it can be read
//!     from any one survivor's row. An echo is the same cut: a row is read guards first, so another
//!     leader's may be seen here before the suspicion that made it one.
//! T4  A member passes on when everyone who is not removed has ended, or when somebody has passed:
//!     those it waited for may have failed since, and who has passed agrees to nothing here.

use super::row::{Row, Shard};
use super::{Carry, Decision, Install, Membership, Stop};
use crate::base::{Count, Epoch, Members, Rank};
use crate::error::{CellName, Fault};
use crate::mutant;

/// Where a subgroup of mine stands on its way; its receipts and cut are in my row.
#[derive(Clone, Debug, Default)]
pub(super) struct Trim {
    has_receipt: bool,
    /// By sender: below this no cut can be.
    least: Vec<Count>,
    /// The cut was published in an earlier poll (V6).
    pub echoed: bool,
    pub asked: bool,
    done: bool,
}

impl Membership {
    /// My final receipts of a subgroup, and how much of them every cut covers, because it may be
    /// delivered somewhere: the answer to `Decision::wedge`.
    pub fn receipt(&mut self, subgroup: usize, received: &[Count], least: &[Count]) {
        let at = self.shard(subgroup);
        assert!(self.frozen && !self.trims[at].has_receipt, "one receipt, when it was asked for");
        assert_eq!((received.len(), least.len()), (self.shards[at].senders, received.len()));
        assert!(received.iter().zip(least).all(|(received, least)| least <= received));
        self.own_mut().shards[at].received = received.to_vec();
        self.trims[at].least = least.to_vec();
        self.trims[at].has_receipt = true;
    }

    /// Up to where the old view of a subgroup is delivered, by sender.
    pub fn cut(&self, subgroup: usize) -> &[Count] {
        &self.own().shards[self.shard(subgroup)].cut
    }

    /// The callbacks have returned from everything below the cut.
    pub fn cut_delivered(&mut self, subgroup: usize) {
        let at = self.shard(subgroup);
        assert!(self.trims[at].asked && !self.trims[at].done, "it was asked for, and once");
        self.trims[at].done = true;
        if mutant!("view-cut-not-echoed") {
            self.own_mut().shards[at].ready = true;
        }
    }

    /// Whether a cut of that subgroup was asked for and `cut_delivered` not said.
    pub fn waits_for_delivery(&self, subgroup: usize) -> bool {
        let trim = &self.trims[self.shard(subgroup)];
        trim.asked && !trim.done
    }

    /// Whether multicast stands still.
    pub fn is_wedged(&self) -> bool {
        self.frozen
    }

    /// Freezes the view once it is known to end, and says so when all my receipts are final.
    pub(super) fn wedge(&mut self, decision: &mut Decision) {
        let own = self.own();
        let ends = !own.suspects.is_empty() || !own.list.changes.is_empty();
        if ends && !self.frozen {
            self.frozen = true;
            decision.wedge = !self.shards.is_empty();
            decision.busy = true;
        }
        if self.frozen && self.trims.iter().all(|trim| trim.has_receipt) {
            self.own_mut().wedged = true;
        }
    }

    /// The next view is decided.
    pub(super) fn is_decided(&self) -> bool {
        let own = self.own();
        own.list.first_end().is_some_and(|end| own.agreed >= end)
    }

    /// Whom barriers do not wait for (V4): those whose removal is agreed, and nobody else. A
    /// suspicion may die with the one who has it.
    fn excluded(&self) -> Members {
        if mutant!("view-barriers-trust-suspicion") {
            return self.suspects();
        }
        let mut excluded = self.removed_by(&self.own().list, self.own().agreed);
        if mutant!("view-leaver-is-not-awaited") {
            let leavers = self.roster.all().iter().filter(|rank| self.rows[rank.index()].leaving);
            leavers.for_each(|rank| excluded.insert(rank));
        }
        excluded
    }

    /// One subgroup's next step: cut, echo, deliver.
    pub(super) fn trim(&mut self, at: usize, decision: &mut Decision) -> Result<(), Stop> {
        let shard = &self.shards[at];
        let all = |of: &dyn Fn(&Row) -> bool| {
            let waits_for = shard.members.without(self.excluded());
            waits_for.iter().all(|rank| of(&self.rows[rank.index()]))
        };
        if self.own().shards[at].ready || self.trims[at].asked {
            let cut = &self.own().shards[at].cut;
            let echoed = all(&|row| row.shards[at].ready && row.shards[at].cut == *cut);
            if self.trims[at].echoed && !self.trims[at].asked && echoed {
                self.ask_for(at, decision);
            }
            return Ok(());
        }
        let leader = shard.members.without(self.suspects()).first().expect("I am one");
        if !self.own().wedged {
            return Ok(());
        }
        if leader != self.me() {
            return self.echo(at, leader, decision);
        }
        let before = Members::below(self.me()).common(shard.members);
        let wedged = all(&|row| row.wedged) || mutant!("view-cut-before-all-are-wedged");
        let taken_over =
            all(&|row| row.suspects.covers(before)) || mutant!("view-cut-without-takeover-barrier");
        if self.is_decided() && wedged && taken_over {
            if let Some((rank, fault)) = self.short_receipt(at) {
                self.suspect(rank, fault, decision);
                return Ok(());
            }
            let cut = self.compute(&self.shards[at], at);
            self.take_cut(at, cut, decision);
        }
        Ok(())
    }

    /// One who has received less than was delivered or released, and so less than it had said.
    fn short_receipt(&self, at: usize) -> Option<(Rank, Fault)> {
        let (shard, least) = (&self.shards[at], &self.trims[at].least);
        let waits_for = shard.members.without(self.excluded());
        let others = waits_for.iter().filter(|rank| self.rows[rank.index()].wedged);
        for rank in others {
            let received = &self.rows[rank.index()].shards[at].received;
            if let Some(s) = (0..shard.senders).find(|s| received[*s] < least[*s]) {
                let (column, subgroup) = ("received", shard.subgroup as u16);
                let cell = CellName { column, subgroup, index: s as u16 };
                return Some((rank, Fault::BadWord { cell, value: received[s].0 }));
            }
        }
        None
    }

    /// Copies what my leader of the subgroup says, and only that one's (R4). No more than I have, if
    /// it waited for me: else I am removed, and its suspicion of me has yet to be seen.
    fn echo(&mut self, at: usize, leader: Rank, decision: &mut Decision) -> Result<(), Stop> {
        let row = &self.rows[leader.index()].shards[at];
        if !row.ready {
            return Ok(());
        }
        let cut = row.cut.clone();
        if self.is_sound(at, &cut) {
            self.take_cut(at, cut, decision);
            return Ok(());
        }
        let own = self.own();
        if cut.iter().zip(&own.shards[at].received).any(|(cut, received)| cut > received) {
            return Err(Stop::Expelled { by: leader });
        }
        let cell = CellName { column: "cut", subgroup: self.shards[at].subgroup as u16, index: 0 };
        let value = cut.first().map_or(0, |count| count.0);
        self.suspect(leader, Fault::BadWord { cell, value }, decision);
        Ok(())
    }

    /// Whether survivors can deliver that: no more than I have, no less than I may have delivered.
    fn is_sound(&self, at: usize, cut: &[Count]) -> bool {
        let received = &self.own().shards[at].received;
        let least = &self.trims[at].least;
        let mut counts = cut.iter().zip(received).zip(least);
        counts.all(|((cut, received), least)| cut <= received && cut >= least)
    }

    /// T1. Those that are not removed show the same, if any: the leader before me waited for all of
    /// them and more. The removed may show an older one, on which nobody acted: I had not echoed it.
    fn compute(&self, shard: &Shard, at: usize) -> Vec<Count> {
        let rows = |set: Members| set.iter().map(|rank| &self.rows[rank.index()].shards[at]);
        let shown = |set| rows(set).filter(|row| row.ready && self.is_sound(at, &row.cut)).last();
        let mut stay = shard.members.without(self.excluded());
        if mutant!("view-cut-of-the-removed") {
            stay = shard.members;
        }
        if let Some(row) = shown(stay).or_else(|| shown(shard.members))
            && !mutant!("view-cut-recomputed")
        {
            return row.cut.clone();
        }
        let mut cut = self.own().shards[at].received.clone();
        if mutant!("view-cut-of-my-receipts") {
            return cut;
        }
        for row in rows(shard.members.without(self.excluded())) {
            for (least, received) in cut.iter_mut().zip(&row.received) {
                let most = mutant!("view-cut-of-the-most");
                *least = if most { *received.max(least) } else { *received.min(least) };
            }
        }
        cut
    }

    fn take_cut(&mut self, at: usize, cut: Vec<Count>, decision: &mut Decision) {
        self.own_mut().shards[at].cut = cut;
        decision.busy = true;
        if mutant!("view-cut-not-echoed") {
            return self.ask_for(at, decision);
        }
        self.own_mut().shards[at].ready = true;
    }

    fn ask_for(&mut self, at: usize, decision: &mut Decision) {
        self.trims[at].asked = true;
        decision.deliver.push(self.shards[at].subgroup);
        decision.busy = true;
    }

    /// My part of the old view is over.
    pub(super) fn end(&mut self) {
        if self.own().wedged && self.is_decided() && self.trims.iter().all(|trim| trim.done) {
            self.own_mut().ended = true;
        }
    }

    /// T4: the old view is over everywhere. I say so before I go.
    pub(super) fn pass(&mut self) {
        let next = Epoch(self.roster.epoch.0 + 1);
        let waits_for = self.roster.all().without(self.excluded());
        let ended = waits_for.iter().all(|rank| self.rows[rank.index()].ended);
        let passed = self.rows.iter().any(|row| row.installed == next);
        let heard = passed && !mutant!("view-passing-is-not-heard");
        let may_go = ended || heard || mutant!("view-install-without-ended");
        if self.courier.has_ended() && may_go {
            self.own_mut().installed = next;
        }
    }

    /// Whether this member goes on to the next view.
    pub fn passed(&self) -> bool {
        self.has_passed()
    }

    pub(super) fn has_passed(&self) -> bool {
        self.own().installed != self.roster.epoch
    }

    /// Goes, once everything that I said in the old view is on its way.
    pub(super) fn install(&mut self, decision: &mut Decision) -> Result<(), Stop> {
        if self.courier.owes_anyone() && !mutant!("view-goes-without-a-word") {
            return Ok(());
        }
        let own = self.own();
        let end = own.list.first_end().expect("it was decided");
        let batch = own.list.first_batch();
        let Some(roster) = self.roster.next(batch) else { return Err(Stop::Left) };
        let mut list = own.list.clone();
        list.changes.drain(..batch.len());
        list.base = end;
        let agreed = own.agreed;
        let suspects = self.roster.carried(own.suspects.union(self.late), &roster);
        let stays = self.roster.carried(self.roster.all(), &roster);
        let is_gone = |rank: &Rank| roster.rank_of(self.roster.seniority(*rank)).is_none();
        let gone = Members::from_ranks(self.roster.all().iter().filter(is_gone));
        let joined = roster.all().without(stays);
        let carry = Carry { list, agreed, suspects, ahead: Vec::new() };
        decision.install = Some(Install { roster, carry, joined, gone });
        Ok(())
    }

    fn shard(&self, subgroup: usize) -> usize {
        let at = self.shards.iter().position(|shard| shard.subgroup == subgroup);
        at.expect("a subgroup of mine")
    }
}
