// SPDX-License-Identifier: MIT OR Apache-2.0
//! Agreement on the changes: follow the leader, take over from it, propose, agree.
//!
//! The leader is the lowest rank that one does not suspect. Its *ballot* is its seniority (R1). A
//! member's row says whose list it holds and how long that is: this is its consent.
//!
//! Why nothing that is agreed gets lost: a majority held it. A new leader acts only when every
//! member that it does not suspect suspects all before it (R7); that too is a majority, so one of
//! them consented, and suspected only later; its row shows the consent, because a suspicion is
//! published after every consent made before (R6); so the highest ballot's list contains it.

use super::changes::{Change, List, Record, What};
use super::roster::majorities_meet;
use super::{Decision, Membership, Stop, records};
use crate::base::{Members, Rank};
use crate::error::{CellName, Fault};
use crate::limits::MEMBERS_MAX;
use crate::mutant;
use crate::sst::layout::RECORDS_MAX;

/// A list that contradicts what a majority has agreed to.
fn contradicts(list: &List) -> Fault {
    let cell = CellName { column: "changes", subgroup: CellName::NONE, index: 0 };
    Fault::BadWord { cell, value: list.upto() }
}

impl Membership {
    /// Copies my leader's list into my row and learns what is agreed.
    pub(super) fn follow(&mut self, decision: &mut Decision) -> Result<(), Stop> {
        let leader = self.leader();
        if leader == self.me() {
            return Ok(());
        }
        let ballot = self.roster.seniority(leader);
        let (own, row) = (self.own(), &self.rows[leader.index()]);
        if !row.is_here() || row.list.ballot != ballot || ballot < own.list.ballot {
            return Ok(());
        }
        let same = own.list.ballot == ballot;
        if !same || row.list.upto() > own.list.upto() {
            let list = row.list.clone();
            let keeps = if same { own.list.upto() } else { own.agreed };
            if list.common(&own.list) < keeps || list.removes(ballot, list.upto()) {
                self.suspect(leader, contradicts(&list), decision);
                return self.count();
            }
            // Whoever consents to a removal suspects: what is left of the view cannot be counted
            // twice (`majorities_meet`).
            for rank in self.removed_by(&list, list.upto()).iter() {
                self.suspect(rank, Fault::Reported { by: leader }, decision);
            }
            self.count()?;
            self.adopt(list)?;
            decision.busy = true;
        }
        let agreed = self.rows[leader.index()].agreed.min(self.own().list.upto());
        if agreed > self.own().agreed {
            self.own_mut().agreed = agreed;
            decision.busy = true;
        }
        Ok(())
    }

    /// What the leader does.
    pub(super) fn lead(&mut self, decision: &mut Decision) -> Result<(), Stop> {
        if self.leader() != self.me() {
            return Ok(());
        }
        if self.own().list.ballot != self.ballot() {
            self.take_over(decision)?;
        } else {
            self.propose(decision)?;
        }
        if self.own().list.ballot == self.ballot() {
            self.agree(decision);
        }
        Ok(())
    }

    /// Mine, if I lead (R1).
    fn ballot(&self) -> u64 {
        if mutant!("view-ballot-is-rank") { u64::from(self.me().0) } else { self.seniority() }
    }

    /// R7: once every member that I do not suspect suspects all before me, the best list of all
    /// rows, frozen ones included, becomes mine. My own wins ties.
    fn take_over(&mut self, decision: &mut Decision) -> Result<(), Stop> {
        let before = Members::below(self.me());
        let barrier = |rank: Rank| {
            let row = &self.rows[rank.index()];
            row.is_here() && row.suspects.covers(before)
        };
        let others = self.roster.all().without(self.suspects());
        let alone = others.without(Members::from_ranks([self.me()]));
        if !alone.iter().all(barrier) && !mutant!("view-takeover-without-barrier") {
            return Ok(());
        }
        let (mut best, mut of) = (&self.own().list, self.me());
        for (row, rank) in self.rows.iter().zip(0..).filter(|(row, _)| row.is_here()) {
            let better = if mutant!("view-takeover-longest-list") {
                let older = row.list.ballot < best.ballot;
                row.list.upto() > best.upto() || row.list.upto() == best.upto() && older
            } else {
                (row.list.ballot, row.list.upto()) > (best.ballot, best.upto())
            };
            if better {
                (best, of) = (&row.list, Rank(rank));
            }
        }
        let mut list = best.clone();
        if list.common(&self.own().list) < self.own().agreed {
            if !self.suspects().contains(of) {
                self.suspect(of, contradicts(&list), decision);
                return self.count();
            }
            list = self.own().list.clone();
        }
        if list.removes(self.seniority(), list.upto()) {
            return Err(Stop::Expelled { by: of });
        }
        if mutant!("view-removals-join-the-batch")
            && let Some(last) = list.changes.last_mut()
        {
            last.ends = false;
        }
        for rank in self.removed_by(&list, list.upto()).iter() {
            self.suspect(rank, Fault::Reported { by: of }, decision);
        }
        self.count()?;
        self.append_removals(&mut list);
        if let Some(last) = list.changes.last_mut() {
            last.ends = true;
        }
        list.ballot = self.ballot();
        decision.busy = true;
        self.adopt(list)
    }

    /// Appends what is wanted: removals of all suspects as a batch of their own (R7), or, while
    /// nothing else is under way, what was asked for.
    fn propose(&mut self, decision: &mut Decision) -> Result<(), Stop> {
        let mut list = self.own().list.clone();
        if !self.append_removals(&mut list) && list.changes.is_empty() && self.suspects().is_empty()
        {
            self.append_wishes(&mut list);
        }
        if list.upto() == self.own().list.upto() {
            return Ok(());
        }
        decision.busy = true;
        self.adopt(list)
    }

    fn append_removals(&self, list: &mut List) -> bool {
        let before = list.upto();
        for rank in self.suspects().iter() {
            let member = self.roster.seniority(rank);
            if !list.removes(member, before) {
                list.changes.push(Change { what: What::Remove { member }, ends: false });
            }
        }
        if list.upto() > before {
            list.changes.last_mut().expect("one was pushed").ends = true;
        }
        list.upto() > before
    }

    /// One batch of leaves and joins, as many as R3 allows; the others ask again in the next view.
    fn append_wishes(&mut self, list: &mut List) {
        let members = &self.roster.members;
        let leaves = self.rows.iter().zip(members).filter(|(row, _)| row.leaving);
        let leaves = leaves.map(|(_, member)| What::Leave { member: member.seniority });
        let joins = self.requests.iter().map(|request| What::Join {
            incarnation: request.incarnation,
            address: request.address,
            versions: request.versions,
        });
        let (old, mut gone, mut come) = (members.len(), 0, 0);
        for what in leaves.chain(joins) {
            let (left, arrived) = match what {
                What::Join { .. } => (gone, come + 1),
                _ => (gone + 1, come),
            };
            let next = old + arrived - left;
            let fits = majorities_meet(old, next, old + arrived);
            // A tie-breaker of two has all the votes there are: a view of three may not shrink to it.
            let breaks = self.options.tie_break && next == 2 && old > 2;
            if !fits || breaks || next == 0 || old + arrived > MEMBERS_MAX {
                continue;
            }
            (gone, come) = (left, arrived);
            list.changes.push(Change { what, ends: false });
        }
        if let Some(last) = list.changes.last_mut() {
            last.ends = true;
        }
    }

    /// R2: what every member that I do not suspect holds under my ballot is agreed; they are a
    /// majority (V2). A row under another ballot holds nothing of mine.
    fn agree(&mut self, decision: &mut Decision) {
        let ballot = self.ballot();
        let mut agreed = self.own().list.upto();
        for rank in self.roster.all().without(self.suspects()).iter() {
            let row = &self.rows[rank.index()];
            if rank == self.me() {
                continue;
            }
            if row.is_here() && row.list.ballot == ballot {
                agreed = agreed.min(row.list.upto());
            } else if !mutant!("view-other-ballots-are-skipped") {
                agreed = 0;
            }
        }
        if agreed > self.own().agreed {
            self.own_mut().agreed = agreed;
            decision.busy = true;
        }
    }

    /// Makes a list mine: the journal gets the ballot, if it is another, and what differs.
    fn adopt(&mut self, list: List) -> Result<(), Stop> {
        let own = self.own();
        let common = own.list.common(&list);
        assert!(common >= own.agreed, "what is agreed is never taken back (V3)");
        assert!(list.is_whole(), "a list consists of whole batches (L2)");
        let mut added = Vec::new();
        if list.ballot != own.list.ballot {
            added.push(Record::Ballot { at: common, ballot: list.ballot }.words());
        } else {
            assert_eq!(common, own.list.upto(), "under one ballot a list only grows");
        }
        added.extend(records(&list, common));
        if self.journal.len() + added.len() > RECORDS_MAX {
            return Err(Stop::Exhausted);
        }
        self.journal.extend(added);
        self.own_mut().list = list;
        Ok(())
    }

    /// The members of this view whose removal stands in a list before that position.
    pub(super) fn removed_by(&self, list: &List, upto: u64) -> Members {
        let ranks = self.roster.all();
        Members::from_ranks(
            ranks.iter().filter(|rank| list.removes(self.roster.seniority(*rank), upto)),
        )
    }
}
