// SPDX-License-Identifier: MIT OR Apache-2.0
//! The engine of a group whose views change: multicast and membership, turn by turn.
//!
//! Each turn the subgroups come first, then the membership: what has landed before a suspicion still
//! counts. When the membership says *wedge*, all subgroups stop in the same poll and hand in their
//! receipts; when it says *deliver*, one is given its cut; when it says *install*, this engine is
//! over, as soon as its last callback has returned.
//!
//! X1  From the wedge on no row is looked at but by the membership, and a suspect's by nobody.
//! X2  A suspect is posted one farewell, in the turn in which it becomes one, and revoked after.
//! X3  `Work::install` comes when everything of the old view is delivered here, and once.
//!
//! Cost: a quiet turn is one more load per other member.

use super::membership::roster::Roster;
use super::membership::{Carry, Decision, Install, Membership, Options, Request, Stop};
use super::multicast::Multicast;
use super::view::View;
use super::{Delivery, Engine, Work};
use crate::base::{Events, Members, Nanos};
use crate::error::{Fault, Suspicion};
use crate::mutant;
use crate::sst::Table;
use crate::sst::kept::Kept;
use crate::sst::ring::Taker;

pub(super) struct Evolution {
    membership: Membership,
    decision: Decision,
    /// What the membership is told at the next poll.
    heard: Vec<Suspicion>,
    /// Connections that ended: no farewell gets there.
    lost: Members,
    install: Option<Install>,
    /// There is something to do at the next poll, whatever the table says.
    again: bool,
    over: bool,
}

impl Engine {
    /// As `new`, for a view that others may follow. `table` is fresh: nothing of mine is in it.
    /// Roster and carry are sound: what a joiner has from its sponsor it checks first.
    pub fn evolving(
        view: View,
        table: &mut Table,
        takers: Vec<Vec<Taker>>,
        (roster, carry): (Roster, Carry),
        options: Options,
    ) -> Engine {
        assert!(roster.me == view.me && roster.len() == view.members);
        assert!(roster.epoch == view.epoch && roster.is_sound() && carry.is_sound(&roster));
        let departed = carry.suspects;
        let membership = Membership::new(roster, &view.subgroups, carry, options, table);
        let mut engine = Engine::new(view, table, takers, options.posting);
        engine.departed = departed;
        engine.begin_ahead(membership.roster(), &membership.carry().ahead);
        engine.evolution = Some(Box::new(Evolution {
            membership,
            decision: Decision::default(),
            heard: Vec::new(),
            lost: Members::NONE,
            install: None,
            again: true,
            over: false,
        }));
        engine
    }

    /// The poll of a view that may end.
    #[inline(never)]
    pub(super) fn poll_evolving(
        &mut self,
        now: Nanos,
        table: &mut Table,
        events: &Events,
        work: &mut Work,
    ) {
        let mut evolution = self.evolution.take().expect("views may change");
        if !evolution.over {
            self.evolve(&mut evolution, now, table, events, work);
        }
        self.evolution = Some(evolution);
    }

    fn evolve(
        &mut self,
        evolution: &mut Evolution,
        now: Nanos,
        table: &mut Table,
        events: &Events,
        work: &mut Work,
    ) {
        for multicast in &mut self.multicasts {
            evolution.heard.extend(multicast.poll(now.0, table).err());
        }
        if !mutant!("wire-loss-not-told") {
            evolution.hear_of(events.lost, table);
        }
        let Evolution { membership, decision, heard, .. } = evolution;
        membership.poll(now, table, heard, decision);
        heard.clear();
        evolution.again = decision.busy || decision.wedge;
        work.busy |= decision.busy;
        work.expel = decision.revoke;
        self.departed = self.departed.union(decision.revoke);
        if let Some(stop) = decision.stopped {
            self.stop(stop.status(), decision.suspicions.first().copied());
            return;
        }
        if decision.wedge {
            for multicast in &mut self.multicasts {
                let (received, least) = multicast.wedge();
                membership.receipt(multicast.subgroup, &received, &least);
            }
        }
        for &subgroup in &decision.deliver {
            let its = |multicast: &&mut Multicast| multicast.subgroup == subgroup;
            let multicast = self.multicasts.iter_mut().find(its).expect("a subgroup of mine");
            multicast.deliver_cut(membership.cut(subgroup));
            evolution.again = true;
        }
        evolution.install = decision.install.take();
        evolution.again |= evolution.install.is_some();
        self.offer(work);
    }

    /// What may be delivered, in turns.
    pub(super) fn offer(&mut self, work: &mut Work) {
        let count = self.multicasts.len();
        for step in 0..count {
            let at = self.turn + step;
            let at = if at < count { at } else { at - count };
            if let Some(upto) = self.multicasts[at].deliverable() {
                work.deliver.push(Delivery { at, upto });
            }
        }
        self.turn = if self.turn + 1 < count { self.turn + 1 } else { 0 };
    }

    /// The second half of `done`.
    #[inline(never)]
    pub(super) fn done_evolving(&mut self, table: &mut Table, events: &Events, work: &mut Work) {
        let mut evolution = self.evolution.take().expect("views may change");
        let full = events.full.union(self.departed);
        if evolution.over {
            self.evolution = Some(evolution);
            return;
        }
        self.post(table, full, &mut work.posts);
        evolution.finish(&self.multicasts);
        let before = work.posts.len();
        evolution.membership.posts(table, events.full.union(evolution.lost), &mut work.posts);
        evolution.again |= work.posts.len() > before;
        if let Some(mut install) = evolution.install.take() {
            // X3: it has said of each subgroup that it has delivered the cut.
            let drained = self.multicasts.iter().all(Multicast::has_delivered_cut);
            assert!(drained || mutant!("wire-cut-not-awaited"), "it has ended");
            install.carry.ahead = self.ahead(evolution.membership.roster());
            install.carry.ahead.retain(|of| install.roster.rank_of(of.sender).is_some());
            work.install = Some(install);
            evolution.over = true;
        }
        self.evolution = Some(evolution);
    }

    /// A suspicion that arises between two polls.
    pub(super) fn tell(&mut self, suspicion: Suspicion) -> bool {
        self.evolution.as_mut().map(|evolution| evolution.told(suspicion)).is_some()
    }

    /// What the detectors or the application believe of a peer.
    pub fn report(&mut self, suspicion: Suspicion) {
        assert!(self.tell(suspicion), "views may change");
    }

    pub fn ask_to_join(&mut self, request: Request) {
        let evolution = self.evolution.as_mut().expect("views may change");
        evolution.membership.ask_to_join(request);
        evolution.again = true;
    }

    pub fn ask_to_leave(&mut self) {
        let evolution = self.evolution.as_mut().expect("views may change");
        evolution.membership.ask_to_leave();
        evolution.again = true;
    }

    /// What this member saw of the view before: tells whether it was expelled there.
    pub fn remember(&mut self, table: &Table, roster: &Roster) {
        let evolution = self.evolution.as_mut().expect("views may change");
        evolution.membership.remember(table, roster);
    }

    pub fn membership(&self) -> Option<&Membership> {
        self.evolution.as_ref().map(|evolution| &evolution.membership)
    }

    /// Why this member takes no more part, if its views could change.
    pub fn stop_reason(&self) -> Option<Stop> {
        self.membership()?.stopped()
    }

    /// Suspicions of the last poll.
    pub fn suspicions(&self) -> &[Suspicion] {
        self.evolution.as_ref().map_or(&[], |evolution| &evolution.decision.suspicions)
    }

    /// After `Work::install`: what a lane of mine is to send again in the next view.
    pub fn keep(&mut self, at: usize, lane: usize) -> Kept {
        self.multicasts[at].keep(lane)
    }
}

impl Evolution {
    fn told(&mut self, suspicion: Suspicion) {
        self.heard.push(suspicion);
        self.again = true;
    }

    fn hear_of(&mut self, lost: Members, table: &Table) {
        for rank in lost.without(self.lost).iter() {
            self.lost.insert(rank);
            let closed: u64 = table.observe(rank, table.layout.closed, 0);
            let also = Members::NONE;
            let fault = if closed == 1 { Fault::Left { also } } else { Fault::Lost { also } };
            self.heard.push(Suspicion { rank, fault });
        }
    }

    /// Says of each cut that has been delivered that it has.
    fn finish(&mut self, multicasts: &[Multicast]) {
        for multicast in multicasts {
            let waits = self.membership.waits_for_delivery(multicast.subgroup);
            if waits && (multicast.has_delivered_cut() || mutant!("wire-cut-not-awaited")) {
                self.membership.cut_delivered(multicast.subgroup);
                self.again = true;
            }
        }
    }

    /// Whether a poll would come to nothing.
    #[inline]
    pub fn is_still(&self, table: &Table) -> bool {
        !self.again
            && self.heard.is_empty()
            && self.membership.is_still()
            && (!self.membership.has_news(table) || mutant!("wire-rows-not-looked-at"))
    }

    /// Whether a turn would find something to do.
    pub fn has_work(&self, table: &Table, full: Members) -> bool {
        let blind = mutant!("wire-sleeps-on-rows");
        let news = (self.membership.has_news(table) && !blind) || self.membership.owes(full);
        !self.over && (self.again || !self.heard.is_empty() || news)
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
