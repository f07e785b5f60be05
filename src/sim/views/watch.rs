// SPDX-License-Identifier: MIT OR Apache-2.0
//! Looks at what happens, for the counters only: at which step of a view change a fault strikes,
//! and which of the failure cases a crash, a wedge or a partition was.

use super::era::Era;
use super::node::Node;
use super::world::{Life, World};
use crate::base::{Count, Epoch, Members, Rank};
use crate::group::membership::Membership;
use crate::group::membership::roster::is_majority;
use crate::group::membership::stage::Stage;
use crate::sim::coverage::{By, Case, INSTALLED, Reached};
use crate::sim::fabric::Torn;
use crate::sim::rows::Row;
use crate::sst::ring::index_of;

impl World {
    /// How far a member is on its way to the next view; `INSTALLED`: in one that others are not in.
    pub fn step_of(&self, node: &Node) -> usize {
        let stage = node.membership().stage();
        let late = |who: &usize| self.epochs[*who].get() < node.epoch && !self.is_gone(*who);
        if stage == Stage::Rest && node.epoch > 1 && node.view.iter().any(late) {
            return INSTALLED;
        }
        stage as usize
    }

    /// The same, unless it is in the middle of its step.
    pub fn step(&self, who: usize) -> Option<usize> {
        match &*self.lives[who].try_borrow().ok()? {
            Life::Up(node) => Some(self.step_of(node)),
            _ => None,
        }
    }

    pub fn interrupted(&self, who: usize, by: By) {
        if let Some(step) = self.step(who) {
            self.tallies.reached(Reached::Step(step, by));
        }
    }

    pub fn of_membership<T>(&self, who: usize, what: impl FnOnce(&Membership) -> T) -> Option<T> {
        match &*self.lives[who].try_borrow().ok()? {
            Life::Up(node) => Some(what(node.membership())),
            _ => None,
        }
    }

    pub fn is_changing(&self, who: usize) -> bool {
        self.of_membership(who, Membership::is_wedged).unwrap_or(false)
    }

    /// Whether `other` suspects `who`, which lives.
    pub fn is_suspected_by(&self, who: usize, other: usize) -> bool {
        if self.oracle.borrow().suspected.is_empty() {
            return false;
        }
        let Ok(life) = self.lives[other].try_borrow() else { return false };
        let Life::Up(node) = &*life else { return false };
        node.rank_of(who).is_some_and(|rank| node.membership().suspects().contains(rank))
    }

    /// A partition of all members of a view, `chosen` on one side.
    pub fn count_split(&self, chosen: u64, up: &[usize]) {
        let Some(&first) = up.first() else { return };
        let eras = self.eras.borrow();
        let Some(era) = eras.get(&self.epochs[first].get()) else { return };
        let whole = era.view.len() == up.len() && era.view.iter().all(|who| up.contains(who));
        let apart = era
            .view
            .iter()
            .all(|from| era.view.iter().all(|to| from == to || self.plan.lazy(*from, *to)));
        let side = era
            .view
            .iter()
            .zip(0..)
            .fold(0u64, |side, (who, rank)| side | (chosen >> who & 1) << rank);
        let (members, part) = (era.view.len(), side.count_ones() as usize);
        if !whole || !apart || part == 0 || part == members {
            return;
        }
        if (2..=5).contains(&members) {
            self.tallies.reached(Reached::Split(members, side));
        }
        if 2 * part == members {
            self.tallies.reached(Case::SplitEqual);
        }
    }

    /// A process begins a view.
    pub fn count_entry(&self, process: usize, epoch: u64, view: &[usize]) {
        self.tallies.one(Row::Installs);
        let slow = view.iter().map(|who| self.plan.slow[*who]).max().unwrap_or(1);
        if epoch > 1 && slow > 1 && !self.eras.borrow().contains_key(&epoch) {
            self.tallies.reached(if slow > 10 { Case::VerySlow } else { Case::Slow });
        }
        let eras = self.eras.borrow();
        if let Some(before) = eras.get(&(epoch - 1))
            && self.plan.tie_break
            && view.len() == 1
            && before.view.len() == 2
            && before.view[0] == process
            && self.oracle.borrow().suspected.contains(&before.view[1])
        {
            self.tallies.one(Row::TieBroken);
        }
        let joins = self.epochs[process].get() == 0 && epoch > 1;
        if !joins {
            return;
        }
        if view.iter().any(|who| self.is_cut(*who, process) || self.is_cut(process, *who)) {
            self.tallies.reached(Case::NoConnection);
        }
        if let Some(before) = self.plan.reborn[process] {
            self.tallies.one(Row::Rejoined);
            if view.contains(&before) {
                self.tallies.reached(Case::Rejoin);
            }
        }
    }

    /// A member has just stopped receiving: what state are its lanes in?
    pub fn wedges(&self, node: &Node) {
        let fails = !node.membership().suspects().is_empty();
        let oracle = self.oracle.borrow();
        for name in self.names.iter().filter(|name| name.process == node.process) {
            let mut multicasts = node.engine.multicasts().iter();
            let its = multicasts.find(|multicast| multicast.subgroup == name.subgroup);
            let Some(multicast) = its else { continue };
            let Some(lane) = multicast.lanes.get(usize::from(name.lane)) else { continue };
            let taker = &lane.taker;
            let who = (name.process, name.lane);
            let from = oracle.returned_by_all(node.epoch, name.subgroup, who);
            let place = |slot: u64| taker.ring.place(slot).0;
            if from < taker.slots && place(taker.slots - 1) < place(from) {
                self.tallies.reached(Case::WrapAtWedge);
            }
            let sent = oracle.count(name.subgroup, who);
            let sent = sent - oracle.base(node.epoch, name.subgroup, who);
            let window = u64::from(self.plan.templates[name.subgroup].shape.window);
            if fails && sent - from >= window {
                self.tallies.reached(Case::FullAtWedge);
            }
            let columns = &node.table.layout.subgroups[name.subgroup];
            let head: Count = node.table.own(columns.head, name.lane.into());
            let last = taker.runs.checked_sub(1).map(|at| taker.ring.run(at));
            let end = last.map_or(0, |run| {
                index_of(run.tagged, Epoch(node.epoch)).map_or(0, |first| first + run.count)
            });
            if head.0 > end {
                self.tallies.reached(Case::NullsAtWedge);
            }
        }
    }

    /// A process has just died: what has it left behind? `torn`: by epoch, its posts cut short.
    pub fn autopsy(&self, dead: usize, torn: &[(u64, Torn)]) {
        let Ok(life) = self.lives[dead].try_borrow() else { return };
        let Life::Up(node) = &*life else { return };
        let eras = self.eras.borrow();
        let era = &eras[&node.epoch];
        let leavers = &self.oracle.borrow().leavers;
        if node.view.iter().any(|who| *who != dead && leavers.contains(who) && !self.is_gone(*who))
        {
            self.tallies.reached(Case::LeaveAndFailure);
        }
        let membership = node.membership();
        if membership.leader() == membership.me() {
            self.autopsy_of_leader(node, era);
        }
        self.autopsy_of_trim(node, era);
        self.autopsy_of_sender(node, era, torn);
    }

    /// Of who leads a subgroup and has published its cut: have others got it?
    fn autopsy_of_trim(&self, node: &Node, era: &Era) {
        let membership = node.membership();
        if membership.stage() != Stage::Cut {
            return;
        }
        let (me, suspects) = (membership.me(), membership.suspects());
        for multicast in node.engine.multicasts() {
            let members =
                Members::from_ranks(era.specs[multicast.subgroup].members.iter().copied());
            let members = members.without(suspects);
            let byte = era.layout.subgroups[multicast.subgroup].cut_ready.byte(0);
            let has = |to: &Rank| *to != me && era.wires.eventual(me, *to, byte) == node.epoch;
            let have = members.iter().filter(has).count();
            if members.first() == Some(me) && have > 0 && have + 1 < members.len() {
                self.tallies.reached(Case::LeaderCutToSome);
            }
        }
    }

    fn autopsy_of_leader(&self, node: &Node, era: &Era) {
        let membership = node.membership();
        let me = membership.me();
        let all = membership.roster().all();
        let peers: Vec<Rank> =
            all.without(membership.suspects()).iter().filter(|rank| *rank != me).collect();
        let layout = &era.layout;
        let own = |byte: usize| era.wires.blocks[me.index()].cell(byte).own();
        // Those who have, or will have, what I have last written there.
        let have = |byte: usize| {
            let value = own(byte);
            peers.iter().filter(|to| era.wires.eventual(me, **to, byte) >= value).count()
        };
        let stage = membership.stage();
        let reached = |case: Case| self.tallies.reached(case);
        let some = |count: usize| count > 0 && count < peers.len();
        let (counts, records) = (layout.changes.byte(0), own(layout.changes.byte(0)));
        if matches!(stage, Stage::Proposed | Stage::Wedged) && records > 0 && !peers.is_empty() {
            let last =
                layout.change.byte((records as usize - 1) * crate::sst::layout::RECORD_WORDS);
            match (have(last), have(counts)) {
                (0, _) => reached(Case::LeaderBeforePush),
                (more, count) if more > count => reached(Case::LeaderRecordsOnly),
                (_, count) if some(count) => reached(Case::LeaderToSome),
                _ => {}
            }
        }
        let wedged = |rank: &Rank| {
            let block = &era.wires.blocks[rank.index()];
            block.cell(layout.wedged.byte(0)).own() == node.epoch
        };
        if stage == Stage::Agreed && !peers.iter().all(wedged) {
            reached(Case::LeaderAgreed);
        }
        if stage == Stage::Passed && some(have(layout.installed.byte(0))) {
            reached(Case::LeaderPassedToSome);
        }
        let loads = |who: &usize| self.epochs[*who].get() < node.epoch && !self.is_gone(*who);
        if stage == Stage::Rest && node.view.iter().any(loads) {
            reached(Case::LeaderInTransfer);
        }
        let alive = node.view.iter().filter(|who| **who != node.process && !self.is_gone(**who));
        let (alive, whole) = (alive.count(), node.view.len());
        let least = is_majority(alive, whole) && !is_majority(alive - 1, whole);
        if me != Rank(0) && stage >= Stage::Suspected && least {
            reached(Case::LeadersCascade);
        }
    }

    fn autopsy_of_sender(&self, node: &Node, era: &Era, torn: &[(u64, Torn)]) {
        let me = node.membership().me();
        let suspects = node.membership().suspects();
        for multicast in node.engine.multicasts().iter().filter(|of| !of.lanes.is_empty()) {
            let subgroup = multicast.subgroup;
            let members = era.specs[subgroup].members.iter().copied();
            let others: Vec<Rank> =
                members.filter(|rank| *rank != me && !suspects.contains(*rank)).collect();
            let columns = &era.layout.subgroups[subgroup];
            for lane in 0..multicast.lanes.len() {
                let byte = columns.slots.byte(lane);
                let own = era.wires.blocks[me.index()].cell(byte).own();
                let has = |to: &&Rank| era.wires.eventual(me, **to, byte) >= own;
                let have = others.iter().filter(has).count();
                if have > 0 && have < others.len() {
                    self.tallies.reached(Case::SlotsToSome);
                }
                // Landed or to land: the slots. Never to land: the heads that go with them.
                let between = |(epoch, torn): &(u64, Torn)| {
                    *epoch == node.epoch
                        && torn.kept == Some(columns.slots.byte(0))
                        && torn.lost == Some(columns.head.byte(0))
                };
                if lane == 0 && torn.iter().any(between) {
                    self.tallies.reached(Case::SlotsNoIndex);
                }
            }
        }
    }
}
