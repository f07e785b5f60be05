// SPDX-License-Identifier: MIT OR Apache-2.0
//! What befalls a group while it works. Faults strike at random, or lie in wait for a step of the
//! view change.

use super::node::Node;
use super::plan::Budget;
use super::world::{Life, Start, World};
use crate::base::{Members, Nanos, Versions};
use crate::error::Fault;
use crate::group::membership::roster::{Address, Roster};
use crate::group::membership::stage::Stage;
use crate::group::membership::{Request, Stop};
use crate::sim::coverage::{By, Case, Reached};
use crate::sim::rows::Row;
use crate::sim::turn::Phase;

pub const LOST: Fault = Fault::Lost { also: Members::NONE };
pub const SILENT: Fault = Fault::Silent { for_ns: Nanos(1) };

/// Two of a subgroup who suspect a third in the middle of a trim, and die when they have delivered.
#[derive(Clone, Copy, Debug)]
pub struct Secret {
    pub epoch: u64,
    pub pair: [usize; 2],
    pub delivered: [bool; 2],
}

/// Something that may befall a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Crash,
    Falsehood,
    Cut,
    Split,
    Storm,
    Leave,
    Join,
    Stop,
    Jump,
    Sponsor,
    Detect,
}

const KINDS: [Kind; 14] = [
    Kind::Crash,
    Kind::Crash,
    Kind::Falsehood,
    Kind::Falsehood,
    Kind::Cut,
    Kind::Split,
    Kind::Storm,
    Kind::Leave,
    Kind::Join,
    Kind::Stop,
    Kind::Jump,
    Kind::Sponsor,
    Kind::Detect,
    Kind::Detect,
];
/// What an ambush does.
const STRIKES: [Kind; 6] =
    [Kind::Crash, Kind::Falsehood, Kind::Cut, Kind::Stop, Kind::Leave, Kind::Join];
/// What goes on while faults lie in wait.
const CALM: [Kind; 3] = [Kind::Join, Kind::Sponsor, Kind::Detect];

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
        let waits = self.plan.ambush.is_some() && self.dice.chance(200);
        let kind = self.dice.pick(if waits { &CALM[..] } else { &KINDS[..] });
        self.befall(self.dice.pick(&up), kind, &up);
    }

    /// Whether the faults have waited for this.
    pub fn is_ambushed(&self, node: &Node) -> bool {
        self.watch_secret(node);
        match self.plan.ambush {
            Some(ambush) => {
                let now = !self.hush.get() && (!ambush.late || node.turn.phase == Phase::Poll);
                now && self.dice.chance(ambush.chance) && self.step_of(node) == ambush.step
            }
            None => false,
        }
    }

    /// The process is where the faults have waited for it.
    pub fn strike(&self, who: usize) {
        let up = self.all_up();
        if up.contains(&who) {
            // Those who lead die more often than they do anything else.
            let leads = self.leads(who) && self.dice.chance(128);
            let kind = if leads { Kind::Crash } else { self.dice.pick(&STRIKES) };
            self.befall(who, kind, &up);
        }
    }

    /// Whether the plan allows one more of a kind, which is then spent.
    fn spend(&self, which: fn(&mut Budget) -> &mut u32) -> bool {
        let (mut spent, mut most) = (self.spent.get(), self.plan.faults);
        let count = which(&mut spent);
        let more = *count < *which(&mut most);
        *count += u32::from(more);
        self.spent.set(spent);
        more
    }

    fn befall(&self, who: usize, kind: Kind, up: &[usize]) {
        let other = self.dice.below(self.plan.processes as u64) as usize;
        let changing = || up.iter().filter(|who| self.is_changing(**who)).count();
        // A gentle fate takes one where the others are a majority, and waits for the next view.
        let hard = || !self.plan.gentle || up.len() > 2 && changing() < 2;
        match kind {
            Kind::Crash if hard() && self.spend(|faults| &mut faults.crashes) => {
                self.interrupted(who, By::Crash);
                self.crash(who);
            }
            Kind::Falsehood if who != other && hard() => self.err(who, other, up),
            Kind::Cut if who != other && self.plan.lazy(other, who) => {
                if !self.is_cut(other, who) && self.spend(|faults| &mut faults.cuts) {
                    self.note("link cut", [other as u64, who as u64, 0, 0]);
                    self.interrupted(who, By::Cut);
                    self.break_link(other, who);
                    if !self.is_cut(who, other) {
                        self.tallies.reached(Case::OneWay);
                    }
                }
            }
            Kind::Split if self.spend(|faults| &mut faults.splits) => self.split(up),
            Kind::Storm => self.storm(up),
            Kind::Leave if up.len() > 1 && self.spend(|faults| &mut faults.leaves) => {
                self.oracle.borrow_mut().leavers.push(who);
                self.note("asks to leave", [who as u64, 0, 0, 0]);
                self.interrupted(who, By::Leave);
                self.leave(who);
            }
            Kind::Join => {
                let step = self.step(who);
                let asks = (0..self.plan.processes).filter(|joiner| self.ask(*joiner, who));
                if asks.count() > 0
                    && let Some(step) = step
                {
                    self.tallies.reached(Reached::Step(step, By::Join));
                }
            }
            Kind::Stop if self.spend(|faults| &mut faults.stops) => self.stop(who, up),
            Kind::Jump if self.spend(|faults| &mut faults.jumps) => {
                self.tallies.reached(Case::ClockJump);
                const HOUR: u64 = 3_600_000_000_000;
                let clock = self.clocks[who].get();
                let on = self.dice.chance(128);
                self.clocks[who].set(if on { clock + HOUR } else { clock - HOUR });
            }
            Kind::Sponsor => self.sponsor(other),
            Kind::Detect if self.is_gone(other) || self.is_cut(other, who) => {
                self.suspect(who, other, LOST);
            }
            _ => {}
        }
    }

    fn err(&self, who: usize, other: usize, up: &[usize]) {
        let stopped: Vec<usize> = up.iter().copied().filter(|p| self.is_paused(*p)).collect();
        let other = match stopped.is_empty() || self.dice.chance(128) {
            true => other,
            false => self.dice.pick(&stopped),
        };
        let step = self.step(who);
        if !self.may_suspect(who, other) || !self.spend(|faults| &mut faults.falsehoods) {
            return;
        }
        if self.suspect(who, other, SILENT) {
            step.into_iter().for_each(|step| {
                self.tallies.reached(Reached::Step(step, By::Falsehood));
            });
            // They may err about each other.
            if self.dice.chance(96) && self.suspect(other, who, SILENT) {
                self.tallies.reached(Case::Duel);
            }
        }
    }

    /// The group is parted for good.
    fn split(&self, up: &[usize]) {
        let chosen = self.dice.word();
        self.count_split(chosen, up);
        self.note("split", [chosen & ((1 << self.plan.processes) - 1), 0, 0, 0]);
        for from in 0..self.plan.processes {
            for to in 0..self.plan.processes {
                if chosen >> from & 1 != chosen >> to & 1 && self.plan.lazy(from, to) {
                    self.break_link(from, to);
                }
            }
        }
    }

    /// The group is parted for a while, perhaps one way only; some detectors take that for failures.
    fn storm(&self, up: &[usize]) {
        if self.storm_until.get() > 0 || !self.spend(|faults| &mut faults.storms) {
            return;
        }
        let chosen = self.dice.word();
        let one_way = self.dice.chance(85);
        let until = self.now.get() + self.dice.range(50, 2_000);
        self.storm_until.set(until);
        self.note("storm", [chosen & ((1 << self.plan.processes) - 1), one_way.into(), until, 0]);
        let apart = |from: usize, to: usize| {
            let (from, to) = (chosen >> from & 1, chosen >> to & 1);
            from < to || (from > to && !one_way)
        };
        for from in 0..self.plan.processes {
            for to in 0..self.plan.processes {
                if apart(from, to) && self.plan.lazy(from, to) {
                    self.stuck_until[self.pair(from, to)].set(until);
                }
            }
        }
        for &who in up {
            let far = up.iter().filter(|other| apart(**other, who));
            for &other in far.filter(|_| self.dice.chance(24)) {
                self.suspect(who, other, SILENT);
            }
        }
    }

    pub fn end_storm(&self) {
        let until = self.storm_until.get();
        if until > 0 && until <= self.now.get() {
            self.storm_until.set(0);
            if self.all_up().into_iter().any(|who| self.is_changing(who)) {
                self.tallies.reached(Case::HealsInChange);
            }
        }
    }

    /// A process is stopped for long, or its whole host.
    fn stop(&self, who: usize, up: &[usize]) {
        let until = self.now.get() + self.dice.range(200, self.plan.steps.max(201));
        let host = self.plan.hosts[who];
        let whole = self.dice.chance(85);
        let on_it = |other: &usize| *other == who || whole && self.plan.hosts[*other] == host;
        let stopped: Vec<usize> = up.iter().copied().filter(on_it).collect();
        if stopped.len() > 1 {
            self.tallies.reached(Case::HostPause);
        }
        for who in stopped {
            self.interrupted(who, By::Pause);
            self.halt(who, until);
        }
    }

    fn halt(&self, who: usize, until: u64) {
        self.note("is stopped", [who as u64, until, 0, 0]);
        self.paused_until[who].set(until);
        self.stopped[who].set(true);
    }

    /// In the middle of a callback a member is stopped for long, and perhaps somebody takes that for
    /// its failure.
    pub fn stop_in_callback(&self, node: &Node) {
        let most = self.plan.steps.max(201);
        self.halt(node.process, self.now.get() + self.dice.range(200, most));
        self.tallies.reached(Reached::Step(self.step_of(node), By::Pause));
        let up = self.all_up();
        if up.len() > 3 && self.dice.chance(128) {
            self.suspect(self.dice.pick(&up), node.process, SILENT);
        }
    }

    /// A short pause of a process, and of some wire.
    pub fn pause(&self, node: &Node) {
        self.tallies.one(Row::Pauses);
        self.tallies.reached(Reached::Step(self.step_of(node), By::Pause));
        let until = || self.now.get() + self.dice.below(self.plan.pause_max) + 1;
        self.paused_until[node.process].set(until());
        let pair = self.dice.below(self.stuck_until.len() as u64) as usize;
        self.stuck_until[pair].set(until());
    }

    pub fn heal(&self) {
        self.storm_until.set(0);
        self.paused_until.iter().for_each(|until| until.set(0));
        self.stuck_until.iter().for_each(|until| until.set(0));
    }

    /// Lets two of a subgroup suspect a third, and kills them once both have delivered.
    fn watch_secret(&self, node: &Node) {
        if !self.plan.hazard || self.hush.get() {
            return;
        }
        let stage = node.membership().stage();
        let Some(mut secret) = self.secret.get() else {
            if stage == Stage::Cut || stage == Stage::Echoed {
                self.share_secret(node);
            }
            return;
        };
        if node.epoch > secret.epoch && secret.delivered != [true; 2] {
            return self.secret.set(None); // it came to nothing; there may be another
        }
        let Some(at) = secret.pair.iter().position(|who| *who == node.process) else { return };
        if node.epoch == secret.epoch && stage >= Stage::Ended && !secret.delivered[at] {
            secret.delivered[at] = true;
            self.secret.set(Some(secret));
            if secret.delivered == [true; 2] {
                self.tallies.reached(Case::TwoOfThree);
                secret.pair.into_iter().for_each(|who| self.crash(who));
            }
        }
    }

    fn share_secret(&self, node: &Node) {
        let suspects = node.membership().suspects();
        for spec in
            self.eras.borrow()[&node.epoch].specs.iter().filter(|spec| spec.members.len() > 2)
        {
            let of = |rank: &&crate::base::Rank| !suspects.contains(**rank);
            let members = spec.members.iter().filter(of).map(|rank| node.view[rank.index()]);
            let others: Vec<usize> = members
                .filter(|who| *who != node.process && self.epochs[*who].get() == node.epoch)
                .filter(|who| !self.is_gone(*who))
                .collect();
            if others.len() < 2 || !spec.members.contains(&node.membership().me()) {
                continue;
            }
            let second = self.dice.pick(&others);
            let third = self.dice.pick(&others);
            if second == third || !self.may_suspect(second, third) {
                continue;
            }
            let pair = [node.process, second];
            let secret = Secret { epoch: node.epoch, pair, delivered: [false; 2] };
            self.secret.set(Some(secret));
            self.note("secret", [node.process as u64, second as u64, third as u64, node.epoch]);
            // What the two believe stays between them for a while.
            let until = self.now.get() + 400;
            for from in pair {
                for &to in node.view.iter().filter(|to| !pair.contains(to)) {
                    self.stuck_until[self.pair(from, to)].set(until);
                }
            }
            self.suspect(second, third, SILENT);
            return;
        }
    }

    // ---- what detectors and processes do ----

    /// Whether a report of `other` would be news to `who`.
    fn may_suspect(&self, who: usize, other: usize) -> bool {
        if who == other || self.is_gone(who) {
            return false;
        }
        let Ok(life) = self.lives[who].try_borrow() else { return false };
        let Life::Up(node) = &*life else { return false };
        let rank = node.rank_of(other);
        rank.is_some_and(|rank| !node.membership().suspects().contains(rank))
    }

    /// A detector of `who` reports `other`. Whether that was news there.
    pub fn suspect(&self, who: usize, other: usize, fault: Fault) -> bool {
        if !self.may_suspect(who, other) {
            return false;
        }
        let Ok(mut life) = self.lives[who].try_borrow_mut() else { return false };
        let Life::Up(node) = &mut *life else { return false };
        if !node.suspect(other, fault) {
            return false;
        }
        self.oracle.borrow_mut().suspected.push(other);
        self.note("is told of", [who as u64, other as u64, 0, 0]);
        if self.epochs[other].get() < node.epoch && !self.is_gone(other) {
            self.tallies.reached(Case::JoinerSuspected);
        }
        self.wake(who, true);
        true
    }

    /// A process that is no member asks one to join. Whether that one has heard of it.
    pub fn ask(&self, joiner: usize, who: usize) -> bool {
        let is_out = |life: &Life| matches!(life, Life::Unborn | Life::Asking);
        if joiner == who || !self.lives[joiner].try_borrow().is_ok_and(|life| is_out(&life)) {
            return false;
        }
        if self.plan.absent[joiner] {
            return false;
        }
        // A process restarts when it is dead, or has been told to stop.
        if self.plan.reborn[joiner].is_some_and(|before| !self.is_gone(before)) {
            return false;
        }
        *self.lives[joiner].borrow_mut() = Life::Asking;
        let Ok(mut life) = self.lives[who].try_borrow_mut() else { return false };
        let Life::Up(node) = &mut *life else { return false };
        let incarnation = joiner as u64 + 1;
        node.engine.ask_to_join(Request {
            incarnation,
            address: Address::default(),
            versions: Versions::OURS,
        });
        self.wake(who, true);
        true
    }

    /// A process that was joined starts from what a member of that view tells it.
    pub fn sponsor(&self, joiner: usize) {
        let asks = |life: &Life| matches!(life, Life::Asking);
        if !self.lives[joiner].try_borrow().is_ok_and(|life| asks(&life)) {
            return;
        }
        let mut found = Vec::new();
        for who in self.all_up() {
            let Ok(life) = self.lives[who].try_borrow() else { continue };
            let Life::Up(node) = &*life else { continue };
            let membership = node.membership();
            let Some(rank) = node.rank_of(joiner) else { continue };
            if !membership.suspects().contains(rank) && !membership.passed() {
                let roster = Roster { me: rank, ..membership.roster().clone() };
                let mut carry = membership.carry();
                if !self.plan.has_state() {
                    carry.ahead.clear();
                }
                found.push((who, roster, carry));
            }
        }
        if !found.is_empty() {
            let at = self.dice.below(found.len() as u64) as usize;
            let (source, roster, carry) = found.swap_remove(at);
            let until = self.now.get() + self.dice.below(self.plan.transfer_max + 1);
            let start = Start { source, until, roster, carry };
            self.note("is told to start", [joiner as u64, source as u64, until, 0]);
            *self.lives[joiner].borrow_mut() = Life::Loading(Box::new(start));
        }
    }

    // ---- ends ----

    /// A process dies, wherever it is.
    pub fn crash(&self, process: usize) {
        if self.is_gone(process) {
            return;
        }
        self.note("crashes", [process as u64, 0, 0, 0]);
        let mut torn = Vec::new();
        for (epoch, era) in &mut *self.eras.borrow_mut() {
            if let Some(rank) = era.rank(process) {
                let cuts = era.wires.cut_off(rank, &self.dice);
                torn.extend(cuts.into_iter().map(|cut| (*epoch, cut)));
            }
        }
        self.autopsy(process, &torn);
        self.end(process);
        // Sometimes it is restarted before anybody has noticed.
        let next = self.plan.reborn.iter().position(|before| *before == Some(process));
        if let Some(next) = next
            && self.dice.chance(128)
        {
            self.all_up().into_iter().for_each(|who| {
                self.ask(next, who);
            });
        }
    }

    pub fn end(&self, process: usize) {
        self.gone[process].set(true);
        self.stir();
        self.wake_all();
        if let Ok(mut life) = self.lives[process].try_borrow_mut() {
            *life = Life::Gone;
        }
    }

    /// A member has been told to stop, or is in a minority.
    pub fn stops(&self, process: usize, reason: Option<Stop>) {
        if self.is_gone(process) {
            return;
        }
        let row = match reason {
            Some(Stop::Expelled { .. }) => Row::Expelled,
            Some(Stop::Partitioned { .. }) => Row::Partitioned,
            Some(Stop::Left) => Row::LeftView,
            _ => Row::Exhausted,
        };
        self.check(self.oracle.borrow().may_stop(process, reason));
        self.tallies.one(row);
        self.note("stops", [process as u64, row as u64, 0, 0]);
        self.end(process);
    }
}
