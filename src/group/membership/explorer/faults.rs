// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happens to groups (tests only): crashes, errors of detectors, broken links, stalls, joins.

use super::super::Request;
use super::super::roster::{Address, Roster};
use super::super::stage::Stage;
use super::net::Dice;
use super::oracle::Broken;
use super::plan::ANY;
use super::{Phase, World};
use crate::base::{Members, Rank};
use crate::error::{Fault, Suspicion};

impl World {
    /// One step of those that change anything, by their speeds; a fault now and then, and always
    /// when nothing else is left to happen.
    pub fn driven_step(&mut self, up: &[usize]) -> Result<(), Broken> {
        let net = self.net.clone();
        let n = self.processes.len();
        let speed = |dice: &mut Dice| dice.pick(&[1, 4, 32, 256]);
        if self.speeds.is_empty() {
            let dice = &mut net.borrow_mut().dice;
            self.speeds = (0..n + n * n).map(|_| speed(dice)).collect();
        }
        if net.borrow_mut().dice.chance(10) {
            let dice = &mut net.borrow_mut().dice;
            let at = dice.below(self.speeds.len());
            self.speeds[at] = speed(dice);
        }
        let mut open: Vec<(usize, usize)> = Vec::new();
        open.extend(up.iter().filter(|who| self.dirty[**who]).map(|who| (*who, *who)));
        let wires = (0..n).flat_map(|from| up.iter().map(move |to| (from, *to)));
        open.extend(wires.filter(|(from, to)| from != to && net.borrow().is_open(*from, *to)));
        let weight = |&(from, to): &(usize, usize)| {
            self.speeds[if from == to { to } else { n + from * n + to }]
        };
        let total: usize = open.iter().map(weight).sum();
        let fault = net.borrow_mut().dice.chance(self.plan.fault);
        if total == 0 || fault {
            let (who, other) = {
                let dice = &mut net.borrow_mut().dice;
                (dice.pick(up), dice.below(n))
            };
            self.dirty[who] |= net.borrow_mut().dice.chance(300);
            return self.fault(who, other);
        }
        let mut left = net.borrow_mut().dice.below(total);
        for pair in open {
            let its = weight(&pair);
            if left >= its {
                left -= its;
                continue;
            }
            let (from, to) = pair;
            if from == to {
                return self.turn(to);
            }
            let mut net = net.borrow_mut();
            let words = net.dice.range(1, self.plan.burst);
            net.land(from, to, words);
            self.dirty[to] = true;
            return Ok(());
        }
        unreachable!("one was chosen")
    }

    /// A process or some wires stand still for a while.
    pub fn stall(&mut self, who: usize, other: usize) {
        let mut net = self.net.borrow_mut();
        let until = net.step + net.dice.range(1, self.plan.steps / 2) as u64;
        match net.dice.below(4) {
            0 => self.paused_until[who] = until,
            1 => (0..self.processes.len()).for_each(|to| net.stall(who, to, until)),
            2 => (0..self.processes.len()).for_each(|from| net.stall(from, who, until)),
            _ => net.stall(other, who, until),
        }
    }

    /// Cuts every link between two groups of processes.
    pub fn split(&mut self) {
        let epoch_of =
            |who: usize| self.up(who).map_or(u64::MAX, |up| up.membership.roster().epoch.0);
        let oldest = (0..self.processes.len()).map(epoch_of).min().unwrap_or(0);
        let mut net = self.net.borrow_mut();
        let mut epochs: Vec<u64> = self.all_up().into_iter().map(epoch_of).collect();
        epochs.dedup();
        let by_epoch = epochs.len() > 1;
        if !by_epoch && net.dice.chance(995) {
            return;
        }
        let chosen = net.dice.word();
        let side = |who: usize| {
            if by_epoch { epoch_of(who) == oldest } else { chosen >> who & 1 == 1 }
        };
        for from in 0..self.processes.len() {
            for to in 0..self.processes.len() {
                if side(from) != side(to) {
                    net.cut(from, to);
                }
            }
        }
        drop(net);
        self.spent[4] += 1;
        self.count(if by_epoch { "splits between views" } else { "splits" }, 1);
        self.note(|| "the group is split".into());
    }

    /// Whoever is in the stage that the plan waits for fails, or errs about a leader.
    pub fn strike(&mut self, up: &[usize]) {
        let (who, crash, of) = {
            let dice = &mut self.net.borrow_mut().dice;
            (dice.pick(up), dice.chance(300), dice.below(4))
        };
        let membership = &self.up(who).expect("it is up").membership;
        if membership.stage() as usize != self.plan.ambush {
            return;
        }
        let lead = |set: Members| set.without(membership.suspects()).first();
        let all = membership.roster().all();
        let shard = membership.shards.last().map_or(all, |shard| shard.members);
        let target = if of == 0 { lead(all) } else { lead(shard) }.unwrap_or_default();
        let target = membership.roster().members[target.index()].incarnation as usize - 1;
        let any = self.net.borrow_mut().dice.below(self.processes.len());
        if crash && self.spent[0] < self.plan.crashes {
            self.spent[0] += 1;
            self.crash(who);
        } else if self.spent[1] < self.plan.falsehoods {
            self.err(who, if of == 3 { any } else { target });
        }
    }

    /// A detector errs: about one, about two, or about the one that erred last.
    pub fn err(&mut self, who: usize, other: usize) {
        let choice = self.net.borrow_mut().dice.below(4);
        match self.duel {
            Some((by, of)) if choice < 2 => {
                self.duel = None;
                self.suspect(of, by, Fault::Lost { also: Members::NONE });
                return;
            }
            _ => {}
        }
        if !self.suspect(who, other, Fault::Lost { also: Members::NONE }) {
            return;
        }
        self.spent[1] += 1;
        self.count("false suspicions", 1);
        self.duel = Some((who, other));
        if choice == 3 {
            let another = self.net.borrow_mut().dice.below(self.processes.len());
            self.suspect(who, another, Fault::Lost { also: Members::NONE });
        }
    }

    /// One of the things that happen to groups, as far as the plan allows.
    pub fn fault(&mut self, who: usize, other: usize) -> Result<(), Broken> {
        let net = self.net.clone();
        let kind = net.borrow_mut().dice.below(12);
        let here = self.up(who).map(|up| (up.membership.stage(), up.membership.leader()));
        let (stage, leads) = here.map_or((Stage::Rest, false), |(stage, leader)| {
            (stage, leader == self.up(who).expect("up").membership.me())
        });
        let now = self.plan.ambush == ANY || stage as usize == self.plan.ambush;
        match kind {
            0 | 1 if self.spent[0] < self.plan.crashes && now && (kind == 0 || leads) => {
                self.spent[0] += 1;
                self.crash(who);
            }
            2 if self.spent[1] < self.plan.falsehoods && now => self.err(who, other),
            3 if self.spent[2] < self.plan.cuts && who != other => {
                self.spent[2] += 1;
                self.count("links cut", 1);
                net.borrow_mut().cut(other, who);
                self.note(|| format!("link {other} -> {who} is cut"));
            }
            4 if self.spent[3] < self.plan.leaves => {
                self.spent[3] += 1;
                self.oracle.leavers.insert(who);
                let Phase::Up(up) = &mut self.processes[who] else { return Ok(()) };
                up.membership.ask_to_leave();
                self.note(|| format!("{who} asks to leave"));
            }
            5 | 6 => (0..self.processes.len()).for_each(|other| self.ask(other, who)),
            7 | 8 => self.sponsor(other)?,
            _ => {
                // A detector that is right.
                if self.is_gone(other) || net.borrow_mut().is_cut(other, who) {
                    self.suspect(who, other, Fault::Lost { also: Members::NONE });
                }
            }
        }
        Ok(())
    }

    pub fn is_gone(&self, who: usize) -> bool {
        matches!(self.processes[who], Phase::Crashed | Phase::Stopped)
    }

    pub fn crash(&mut self, victim: usize) {
        let Some(up) = self.up(victim) else { return };
        let membership = &up.membership;
        let role = if membership.leader() == membership.me() { "leader" } else { "member" };
        let key = format!("crash of a {role} {}", membership.stage().name());
        self.count(&key, 1);
        self.note(|| format!("{victim} crashes"));
        self.net.borrow_mut().crash(victim);
        self.processes[victim] = Phase::Crashed;
    }

    /// A detector of `who` reports `other`, if both are in its view.
    pub fn suspect(&mut self, who: usize, other: usize, fault: Fault) -> bool {
        let Phase::Up(up) = &mut self.processes[who] else { return false };
        let members = up.membership.roster().members.iter();
        let rank = members.zip(0..).find(|(member, _)| member.incarnation as usize == other + 1);
        let Some((_, rank)) = rank.filter(|_| other != who) else { return false };
        up.heard.push(Suspicion { rank: Rank(rank), fault });
        self.dirty[who] = true;
        self.note(|| format!("{who} is told that {other} is lost"));
        true
    }

    /// A process that is not a member asks one to join.
    pub fn ask(&mut self, other: usize, who: usize) {
        if matches!(self.processes[other], Phase::Unborn | Phase::Asking) {
            let versions = self.plan.versions(other);
            // At the door; or it has come before the group rose, and is told so.
            let cannot = |up: &super::Up| !up.membership.roster().takes(versions);
            if self.up(who).is_some_and(cannot) {
                return;
            }
            self.processes[other] = Phase::Asking;
            let Phase::Up(up) = &mut self.processes[who] else { return };
            let incarnation = other as u64 + 1;
            let request = Request { incarnation, address: Address::default(), versions };
            up.membership.ask_to_join(request);
        }
    }

    /// A process that was joined starts from the row of a member that has installed the view.
    pub fn sponsor(&mut self, joiner: usize) -> Result<(), Broken> {
        if !matches!(self.processes[joiner], Phase::Asking) {
            return Ok(());
        }
        let sponsors = self.all_up().into_iter().filter_map(|who| {
            let membership = &self.up(who)?.membership;
            let roster = membership.roster();
            let at = roster.members.iter().position(|m| m.incarnation as usize == joiner + 1)?;
            let believed = !membership.suspects().contains(Rank(at as u16));
            (believed && !membership.has_passed()).then_some((who, at))
        });
        let sponsors: Vec<(usize, usize)> = sponsors.collect();
        if sponsors.is_empty() {
            return Ok(());
        }
        let (who, at) = self.net.borrow_mut().dice.pick(&sponsors);
        let membership = &self.up(who).expect("it is up").membership;
        let roster = Roster { me: Rank(at as u16), ..membership.roster().clone() };
        let carry = membership.carry();
        self.count("joiners started", 1);
        self.enter(joiner, roster, carry)
    }
}
