// SPDX-License-Identifier: MIT OR Apache-2.0
//! The faults end: whoever is left must agree, have everything, and come to rest.

use super::faults::{LOST, SILENT};
use super::world::{Life, World};
use crate::base::{Members, Rank};
use crate::group::membership::Membership;
use crate::sim::oracle::{IDLE, LIVENESS, SLEEP};
use crate::sim::rows::Row;

/// Rounds in which whoever can must have come to rest.
const ROUNDS: u32 = 600;

impl World {
    /// The faults end, the application falls silent: all that is posted lands, detectors tell who is
    /// gone or out of reach, and nobody else. Whoever is left agrees, has everything, and rests.
    pub fn settle(&self) {
        let must = self.survivors_at_least();
        self.hush.set(true);
        self.heal();
        let mut still = 0;
        for round in 0..ROUNDS {
            if self.round(round) || !self.is_at_rest() {
                still = 0;
                continue;
            }
            still += 1;
            if still == 4 {
                return self.judge(&must);
            }
        }
        self.stuck();
    }

    /// Everybody gets turns and every post lands. Whether anything happened.
    fn round(&self, round: u32) -> bool {
        self.tick();
        let before = self.stirs.get();
        while self.land(self.dice.below(4)) {}
        for who in self.all_up() {
            self.detect(who);
            if round % 8 == 0 {
                self.remind(who); // in *received* mode nobody tells it what was released
            }
            self.turn(who);
        }
        for at in 0..self.lanes.len() {
            self.resolve(at);
        }
        for joiner in 0..self.plan.processes {
            if matches!(*self.lives[joiner].borrow(), Life::Loading(_)) {
                self.load(joiner);
            }
            if matches!(*self.lives[joiner].borrow(), Life::Asking) {
                let up = self.all_up();
                let broken = |who: &usize| self.is_cut(joiner, *who) || self.is_cut(*who, joiner);
                if up.iter().any(broken) {
                    self.end(joiner); // else it would be joined and cut off for ever
                    continue;
                }
                if let Some(leader) = self.all_up().into_iter().find(|who| self.leads(*who)) {
                    self.ask(joiner, leader);
                }
                self.sponsor(joiner);
            }
        }
        self.stirs.get() != before
    }

    /// Whether it believes that it leads the group.
    pub fn leads(&self, who: usize) -> bool {
        let leads = |membership: &Membership| membership.leader() == membership.me();
        self.of_membership(who, leads).unwrap_or(false)
    }

    /// Detectors that are right.
    fn detect(&self, who: usize) {
        for other in (0..self.plan.processes).filter(|other| *other != who) {
            let cut = self.is_cut(other, who);
            let unborn = !matches!(*self.lives[other].borrow(), Life::Up(_) | Life::Gone);
            let absent = unborn && self.has_member(who, other);
            let deaf = self.shuns(other, who) || self.is_cut(who, other) || absent;
            let silent = &self.silent[who * self.plan.processes + other];
            silent.set(if deaf { silent.get() + 1 } else { 0 });
            // That a process is gone is the fabric's to tell (`events.lost`).
            if cut && !self.is_gone(other) {
                self.suspect(who, other, LOST);
            } else if silent.get() > 40 && !self.is_gone(other) {
                self.suspect(who, other, SILENT);
            }
        }
    }

    fn has_member(&self, who: usize, other: usize) -> bool {
        match &*self.lives[who].borrow() {
            Life::Up(node) => node.rank_of(other).is_some(),
            _ => false,
        }
    }

    /// Whether `other` has done with `who`.
    fn shuns(&self, other: usize, who: usize) -> bool {
        let (one, two) = (self.lives[other].borrow(), self.lives[who].borrow());
        let (Life::Up(one), Life::Up(two)) = (&*one, &*two) else { return false };
        let suspects = one.membership().suspects();
        one.rank_of(who).map_or(one.epoch > two.epoch, |rank| suspects.contains(rank))
    }

    fn is_at_rest(&self) -> bool {
        let up = self.all_up();
        let asks = |life: &std::cell::RefCell<Life>| {
            matches!(*life.borrow(), Life::Asking | Life::Loading(_))
        };
        if !up.is_empty() && self.lives.iter().any(asks) {
            return false;
        }
        let leavers = &self.oracle.borrow().leavers;
        // With a tie-break nobody can leave a view of three.
        let may_leave = up.len() > 1 && !(self.plan.tie_break && up.len() <= 3);
        if may_leave && up.iter().any(|who| leavers.contains(who)) {
            return false;
        }
        up.iter().all(|who| {
            let life = self.lives[*who].borrow();
            let Life::Up(node) = &*life else { return false };
            let membership = node.membership();
            node.view.len() == up.len()
                && node.view.iter().all(|other| up.contains(other))
                && membership.suspects().is_empty()
                && membership.changes().is_empty()
                && !membership.is_wedged()
        })
    }

    /// Those who must survive: up, never suspected, on no broken link, not leaving; if they are a
    /// majority of every view that any of them can be in.
    fn survivors_at_least(&self) -> Vec<usize> {
        let oracle = self.oracle.borrow();
        let n = self.plan.processes;
        let up = self.all_up();
        let whole = |who: usize| {
            (0..n).all(|o| {
                o == who || self.is_gone(o) || !self.is_cut(o, who) && !self.is_cut(who, o)
            })
        };
        let fine: Vec<usize> = up
            .iter()
            .copied()
            .filter(|who| !oracle.suspected.contains(who) && !oracle.leavers.contains(who))
            .filter(|who| whole(*who))
            .collect();
        // Others may be in views to come, if they have asked for it.
        let born = |who: &usize| !matches!(*self.lives[*who].borrow(), Life::Unborn);
        let others = (self.plan.founders..n).filter(|who| !fine.contains(who)).filter(born).count();
        let epochs = fine.iter().filter_map(|who| oracle.installed.get(who));
        let Some(&first) = epochs.min() else { return Vec::new() };
        let enough = oracle.views.range(first..).all(|(_, view)| {
            let mine = fine.iter().filter(|who| view.contains(who)).count();
            2 * mine > view.len() + others
        });
        if enough { fine } else { Vec::new() }
    }

    fn judge(&self, must: &[usize]) {
        let up = self.all_up();
        if let Some(lost) = must.iter().find(|who| !up.contains(who)) {
            self.fail((LIVENESS, format!("{lost} did not survive; of {must:?} {up:?} did")));
        }
        self.tallies.one(Row::Quiet);
        self.tallies.add(Row::SurvivedSeeds, u64::from(!up.is_empty()));
        self.check(self.oracle.borrow().quiet(&up));
        for (name, hand) in self.names.iter().zip(&self.hands) {
            if let Some(kept) =
                hand.borrow_mut().waits_with().filter(|_| up.contains(&name.process))
            {
                self.check(self.oracle.borrow().keeps(*name, kept));
            }
        }
        for _ in 0..3 {
            if self.round(1) {
                self.fail((IDLE, "something moved after all had come to rest".into()));
            }
        }
        if self.plan.parking
            && let Some(who) = up.iter().find(|who| self.is_awake(**who))
        {
            self.fail((SLEEP, format!("process {who} stays up with nothing to do")));
        }
    }

    fn stuck(&self) -> ! {
        let mut told = String::new();
        for who in self.all_up() {
            if let Life::Up(node) = &*self.lives[who].borrow() {
                let membership = node.membership();
                let kept = self.hands_of(who).filter(|hand| hand.borrow().has_left()).count();
                told += &format!(
                    "\n  {who}: epoch {} view {:?} wedged {} suspects {:?} changes {:?} timings {:?} \
                     awake {} {kept} lanes keep, passed {} owes {} full {:?} phase {:?}",
                    node.epoch,
                    node.view,
                    membership.is_wedged(),
                    membership.suspects().iter().map(|rank: Rank| rank.0).collect::<Vec<_>>(),
                    membership.changes(),
                    membership.timings(),
                    self.is_awake(who),
                    membership.passed(),
                    membership.owes(Members::NONE),
                    self.full(node.epoch, membership.me()),
                    node.turn.phase,
                );
            }
        }
        self.fail((LIVENESS, format!("still moving after {ROUNDS} rounds:{told}")))
    }
}
