// SPDX-License-Identifier: MIT OR Apache-2.0
//! What befalls a group while it works, and what must hold once that ends.

use super::world::{Life, World};
use crate::base::{Members, Nanos, Rank};
use crate::error::Fault;
use crate::group::membership::Request;
use crate::group::membership::roster::{Address, Roster};
use crate::sim::oracle::{IDLE, LIVENESS, SLEEP};
use crate::sim::report::Row;

/// Rounds in which whoever can must have come to rest.
const ROUNDS: u32 = 600;

/// By the step of the view change that the member had reached.
const CRASHES: [Row; 7] = [
    Row::Crashes,
    Row::CrashesFrozen,
    Row::CrashesWedged,
    Row::CrashesAgreed,
    Row::CrashesEchoed,
    Row::CrashesEnded,
    Row::CrashesPassed,
];
const FALSEHOODS: [Row; 7] = [
    Row::Falsehoods,
    Row::FalsehoodsFrozen,
    Row::FalsehoodsWedged,
    Row::FalsehoodsAgreed,
    Row::FalsehoodsEchoed,
    Row::FalsehoodsEnded,
    Row::FalsehoodsPassed,
];

const LOST: Fault = Fault::Lost { also: Members::NONE };
const SILENT: Fault = Fault::Silent { for_ns: Nanos(1) };

impl World {
    pub fn all_up(&self) -> Vec<usize> {
        let up = |process: &usize| match self.lives[*process].try_borrow() {
            Ok(life) => matches!(*life, Life::Up(_)),
            Err(_) => true,
        };
        (0..self.plan.processes).filter(|of| !self.is_gone(*of)).filter(up).collect()
    }

    /// One of the things that happen to groups, as far as the plan allows.
    pub fn fault(&self) {
        let up = self.all_up();
        if up.is_empty() {
            return;
        }
        let changing: Vec<usize> =
            up.iter().copied().filter(|who| self.is_changing(*who)).collect();
        let ambush = self.plan.ambush && self.dice.chance(230);
        if ambush && changing.is_empty() && self.spent.iter().any(|spent| spent.get() > 0) {
            return;
        }
        let who = self.dice.pick(if ambush && !changing.is_empty() { &changing } else { &up });
        let other = self.dice.below(self.plan.processes as u64) as usize;
        let spend = |kind: usize, most: u32| {
            let spent = self.spent[kind].get();
            self.spent[kind].set(spent + u32::from(spent < most));
            spent < most
        };
        // A gentle fate takes one where the others are a majority, and waits for the next view.
        let hard = !self.plan.gentle || up.len() > 2 && changing.len() < 2;
        match self.dice.below(10) {
            0 | 1 if hard && spend(0, self.plan.crashes) => {
                self.tallies.one(CRASHES[self.stage(who)]);
                self.crash(who);
            }
            2 | 3 if who != other && hard && spend(1, self.plan.falsehoods) => {
                let stopped: Vec<usize> =
                    up.iter().copied().filter(|p| self.is_paused(*p)).collect();
                let other = match stopped.is_empty() || self.dice.chance(128) {
                    true => other,
                    false => self.dice.pick(&stopped),
                };
                let stage = self.stage(who);
                if self.suspect(who, other, SILENT) {
                    self.tallies.one(FALSEHOODS[stage]);
                    // They may err about each other.
                    if self.dice.chance(96) && self.suspect(other, who, SILENT) {
                        self.tallies.one(Row::Duels);
                    }
                }
            }
            4 if who != other && self.plan.lazy(other, who) && spend(2, self.plan.cuts) => {
                self.tallies.one(Row::CutLinks);
                self.note("link cut", [other as u64, who as u64, 0, 0]);
                self.break_link(other, who);
            }
            5 if spend(3, self.plan.splits) => self.split(),
            6 if up.len() > 1 && spend(4, self.plan.leaves) => {
                self.oracle.borrow_mut().leavers.push(who);
                self.note("asks to leave", [who as u64, 0, 0, 0]);
                self.ask_to_leave(who);
            }
            7 => (0..self.plan.processes).for_each(|joiner| self.ask(joiner, who)),
            8 => self.sponsor(other),
            _ => {
                if self.is_gone(other) || self.is_cut(other, who) {
                    self.suspect(who, other, LOST);
                }
            }
        }
    }

    fn split(&self) {
        self.tallies.one(Row::Splits);
        let chosen = self.dice.word();
        for from in 0..self.plan.processes {
            for to in 0..self.plan.processes {
                if chosen >> from & 1 != chosen >> to & 1 && self.plan.lazy(from, to) {
                    self.break_link(from, to);
                }
            }
        }
    }

    /// How far a member is on its way to the next view.
    fn stage(&self, who: usize) -> usize {
        let Ok(life) = self.lives[who].try_borrow() else { return 0 };
        let Life::Up(node) = &*life else { return 0 };
        let membership = node.engine.membership().expect("views");
        let t = membership.timings();
        let wedged = membership.is_wedged();
        let steps = [t.wedged.0 > 0, t.agreed.0 > 0, t.echoed.0 > 0, t.ended.0 > 0, t.passed.0 > 0];
        let last = steps.iter().rposition(|reached| *reached);
        last.map_or(usize::from(wedged), |at| at + 2)
    }

    fn is_changing(&self, who: usize) -> bool {
        match self.lives[who].try_borrow() {
            Ok(life) => match &*life {
                Life::Up(node) => node.engine.membership().expect("views").is_wedged(),
                _ => false,
            },
            Err(_) => false,
        }
    }

    fn ask_to_leave(&self, who: usize) {
        if let Ok(mut life) = self.lives[who].try_borrow_mut()
            && let Life::Up(node) = &mut *life
        {
            node.engine.ask_to_leave();
            self.wake(who, true);
        }
    }

    /// A detector of `who` reports `other`. Whether that was news there.
    pub fn suspect(&self, who: usize, other: usize, fault: Fault) -> bool {
        if who == other || self.is_gone(who) {
            return false;
        }
        let Ok(mut life) = self.lives[who].try_borrow_mut() else { return false };
        let Life::Up(node) = &mut *life else { return false };
        if !node.suspect(other, fault) {
            return false;
        }
        self.oracle.borrow_mut().suspected.push(other);
        self.note("is told of", [who as u64, other as u64, 0, 0]);
        self.wake(who, true);
        true
    }

    /// A process that is no member asks one to join.
    fn ask(&self, joiner: usize, who: usize) {
        let is_out = |life: &Life| matches!(life, Life::Unborn | Life::Asking);
        if joiner == who || !self.lives[joiner].try_borrow().is_ok_and(|life| is_out(&life)) {
            return;
        }
        *self.lives[joiner].borrow_mut() = Life::Asking;
        if let Ok(mut life) = self.lives[who].try_borrow_mut()
            && let Life::Up(node) = &mut *life
        {
            let incarnation = joiner as u64 + 1;
            node.engine.ask_to_join(Request { incarnation, address: Address::default() });
            self.wake(who, true);
        }
    }

    /// A process that was joined starts from what a member of that view tells it.
    fn sponsor(&self, joiner: usize) {
        let asks = |life: &Life| matches!(life, Life::Asking);
        if !self.lives[joiner].try_borrow().is_ok_and(|life| asks(&life)) {
            return;
        }
        let mut found = Vec::new();
        for who in self.all_up() {
            let Ok(life) = self.lives[who].try_borrow() else { continue };
            let Life::Up(node) = &*life else { continue };
            let membership = node.engine.membership().expect("views");
            let Some(rank) = node.rank_of(joiner) else { continue };
            if !membership.suspects().contains(rank) && !membership.passed() {
                let roster = Roster { me: rank, ..membership.roster().clone() };
                found.push((roster, membership.carry()));
            }
        }
        if !found.is_empty() {
            let at = self.dice.below(found.len() as u64) as usize;
            let (roster, carry) = found.swap_remove(at);
            self.tallies.one(Row::Joined);
            self.enter(joiner, roster, carry, Vec::new());
        }
    }

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
        self.now.set(self.now.get() + 1);
        let before = self.stirs.get();
        while self.land(self.dice.below(4)) {}
        for who in self.all_up() {
            self.detect(who);
            if self.oracle.borrow().leavers.contains(&who) && round % 8 == 0 {
                self.ask_to_leave(who); // a wish does not outlive its view
            }
            self.turn(who);
        }
        for at in 0..self.lanes.len() {
            self.resolve(at);
        }
        for joiner in 0..self.plan.processes {
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

    fn leads(&self, who: usize) -> bool {
        match &*self.lives[who].borrow() {
            Life::Up(node) => {
                let membership = node.engine.membership().expect("views");
                membership.leader() == membership.me()
            }
            _ => false,
        }
    }

    /// Detectors that are right.
    fn detect(&self, who: usize) {
        for other in (0..self.plan.processes).filter(|other| *other != who) {
            let cut = self.is_cut(other, who);
            let unborn = matches!(*self.lives[other].borrow(), Life::Unborn | Life::Asking);
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
        let suspects = one.engine.membership().expect("views").suspects();
        one.rank_of(who).map_or(one.epoch > two.epoch, |rank| suspects.contains(rank))
    }

    fn is_at_rest(&self) -> bool {
        let up = self.all_up();
        let asks = |life: &std::cell::RefCell<Life>| matches!(*life.borrow(), Life::Asking);
        if !up.is_empty() && self.lives.iter().any(asks) {
            return false;
        }
        let leavers = &self.oracle.borrow().leavers;
        if up.len() > 1 && up.iter().any(|who| leavers.contains(who)) {
            return false;
        }
        up.iter().all(|who| {
            let life = self.lives[*who].borrow();
            let Life::Up(node) = &*life else { return false };
            let membership = node.engine.membership().expect("views");
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
        let others = (self.plan.founders..n).filter(|who| !fine.contains(who)).count();
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
        for _ in 0..3 {
            if self.round(1) {
                self.fail((IDLE, "something moved after all had come to rest".into()));
            }
        }
        if self.plan.parking
            && let Some(who) = up.iter().find(|who| !self.is_asleep(**who))
        {
            self.fail((SLEEP, format!("process {who} stays up with nothing to do")));
        }
    }

    fn stuck(&self) -> ! {
        let mut told = String::new();
        for who in self.all_up() {
            if let Life::Up(node) = &*self.lives[who].borrow() {
                let membership = node.engine.membership().expect("views");
                let kept = self.lanes.iter().filter(|lane| lane.borrow().kept.is_some()).count();
                told += &format!(
                    "\n  {who}: epoch {} view {:?} wedged {} suspects {:?} changes {:?} timings {:?} \
                     asleep {} {kept} lanes keep, passed {} owes {} full {:?} phase {:?}",
                    node.epoch,
                    node.view,
                    membership.is_wedged(),
                    membership.suspects().iter().map(|rank: Rank| rank.0).collect::<Vec<_>>(),
                    membership.changes(),
                    membership.timings(),
                    self.is_asleep(who),
                    membership.passed(),
                    membership.owes(Members::NONE),
                    self.full(node.epoch, membership.me()),
                    node.phase,
                );
            }
        }
        self.fail((LIVENESS, format!("still moving after {ROUNDS} rounds:{told}")))
    }
}
