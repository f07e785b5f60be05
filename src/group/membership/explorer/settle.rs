// SPDX-License-Identifier: MIT OR Apache-2.0
//! After the faults (tests only): whoever can go on must, and nobody hangs.

use super::super::Membership;
use super::super::changes::Change;
use super::net::Net;
use super::oracle::Broken;
use super::{Phase, World};
use crate::base::Members;
use crate::base::{Nanos, Rank};
use crate::error::Fault;

/// Rounds in which whoever can must have come to rest.
const ROUNDS: usize = 600;

impl World {
    /// The faults end: what is in flight lands, detectors report whoever is gone or unreachable,
    /// nobody else. Then all who are left must agree and be at rest.
    pub fn settle(&mut self) -> Result<(), Broken> {
        let must = self.survivors_at_least();
        self.net.borrow_mut().heal();
        self.plan.full = 0;
        let mut still = 0;
        for round in 0..ROUNDS {
            self.net.borrow_mut().land_all();
            self.net.borrow_mut().step += 1;
            let mut busy = false;
            for who in self.all_up() {
                self.detect(who, round);
                // A wish does not outlive its view; its driver repeats it.
                if let (true, Phase::Up(up)) =
                    (self.oracle.leavers.contains(&who), &mut self.processes[who])
                {
                    up.membership.ask_to_leave();
                }
                self.turn(who)?;
                busy |= self.up(who).is_none_or(|up| up.decision.busy);
            }
            for joiner in 0..self.processes.len() {
                if let Phase::Asking = self.processes[joiner] {
                    let leader = self.all_up().into_iter().find(|who| {
                        let membership = &self.up(*who).expect("up").membership;
                        membership.leader() == membership.me()
                    });
                    leader.into_iter().for_each(|leader| self.ask(joiner, leader));
                    self.sponsor(joiner)?;
                }
            }
            still = if busy || !self.is_at_rest() { 0 } else { still + 1 };
            if still == 8 {
                return self.judge_survivors(&must);
            }
        }
        let stuck = self.all_up().into_iter().map(|who| {
            let membership = &self.up(who).expect("up").membership;
            format!("\n  {who}: {membership}")
        });
        Err(format!("stuck:{}", stuck.collect::<String>()))
    }

    pub fn detect(&mut self, who: usize, round: usize) {
        for other in 0..self.processes.len() {
            let (gone, cut) = (self.is_gone(other), self.net.borrow_mut().is_cut(other, who));
            // Who was cut off hears nothing any more.
            let shunned = self.shuns(other, who) || self.net.borrow_mut().is_cut(who, other);
            let rounds = &mut self.silent[who * self.processes.len() + other];
            *rounds = if shunned { *rounds + 1 } else { 0 };
            let dumb = *rounds > 20;
            let silent = round > 40 && matches!(self.processes[other], Phase::Unborn);
            let silence = Fault::Silent { for_ns: Nanos(1) };
            if other != who && (gone || cut || dumb || silent) {
                self.suspect(
                    who,
                    other,
                    if gone || cut { Fault::Lost { also: Members::NONE } } else { silence },
                );
            }
        }
    }

    pub fn shuns(&self, other: usize, who: usize) -> bool {
        let (Some(up), Some(mine)) = (self.up(other), self.up(who)) else { return false };
        let ahead = up.membership.roster().epoch > mine.membership.roster().epoch;
        let mut members = up.membership.roster().members.iter();
        let rank = members.position(|member| member.incarnation as usize == who + 1);
        rank.map_or(ahead, |rank| up.membership.suspects().contains(Rank(rank as u16)))
    }

    pub fn is_at_rest(&self) -> bool {
        let up = self.all_up();
        // Who asked to join is in, who asked to leave is out; the last one has nobody to ask.
        let takes = |who: &usize, joiner: usize| {
            self.up(*who).expect("up").membership.roster().takes(self.plan.versions(joiner))
        };
        let asks = |joiner: usize| matches!(self.processes[joiner], Phase::Asking);
        let asks = |joiner: usize| asks(joiner) && up.iter().all(|who| takes(who, joiner));
        let asking = (0..self.processes.len()).any(asks);
        let leaving = up.iter().any(|who| self.oracle.leavers.contains(who));
        if (asking && !up.is_empty()) || (leaving && up.len() > 1 && !self.plan.tie_break) {
            return false;
        }
        up.iter().all(|who| {
            let membership = &self.up(*who).expect("up").membership;
            let members = membership.roster().members.iter();
            let members: Vec<usize> = members.map(|m| m.incarnation as usize - 1).collect();
            members.len() == up.len()
                && up.iter().all(|other| members.contains(other))
                && membership.suspects().is_empty()
                && membership.changes().is_empty()
                && !membership.is_wedged()
        })
    }

    /// Those who must survive: up, never suspected, on no broken link, not leaving; if they are a
    /// majority of every view that any of them can be in.
    pub fn survivors_at_least(&mut self) -> Vec<usize> {
        let n = self.processes.len();
        let mut net = self.net.borrow_mut();
        let whole = |who: usize, net: &mut Net| {
            (0..n).all(|other| {
                let fine = |net: &mut Net| !net.is_cut(other, who) && !net.is_cut(who, other);
                other == who || self.is_gone(other) || fine(net)
            })
        };
        let fine: Vec<usize> = (0..n)
            .filter(|who| self.up(*who).is_some_and(|up| up.heard.is_empty()))
            .filter(|who| !self.oracle.suspected.contains(who))
            .filter(|who| !self.oracle.leavers.contains(who) && whole(*who, &mut net))
            .collect();
        let hears = |who: usize| self.up(who).is_some_and(|up| !up.heard.is_empty());
        let others = (self.plan.founders..n).filter(|who| !fine.contains(who));
        let others: Vec<usize> = others.collect();
        let epochs = fine.iter().map(|who| self.up(*who).unwrap().membership.roster().epoch.0);
        let Some(first) = epochs.min() else { return Vec::new() };
        let enough = self.oracle.views.range(first..).all(|(_, view)| {
            let strangers = others.iter().filter(|other| !view.contains(other)).count();
            let mine = fine.iter().filter(|who| view.contains(who)).count();
            2 * mine > view.len() + strangers
        });
        if enough && !(0..n).any(hears) { fine } else { Vec::new() }
    }

    pub fn judge_survivors(&mut self, must: &[usize]) -> Result<(), Broken> {
        let up = self.all_up();
        if let Some(lost) = must.iter().find(|who| !up.contains(who)) {
            return Err(format!("progress: {lost} did not survive; of {must:?} {up:?} did"));
        }
        self.count("runs that had to survive", u64::from(!must.is_empty()));
        self.count("runs that survived", u64::from(!up.is_empty()));
        self.count("members that had to survive", must.len() as u64);
        Ok(())
    }
}

impl std::fmt::Display for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let members: Vec<u64> =
            self.roster.members.iter().map(|member| member.incarnation - 1).collect();
        write!(f, "epoch {} {members:?} {}", self.roster.epoch.0, self.stage().name())?;
        let show = |f: &mut std::fmt::Formatter<'_>, row: &super::super::row::Row| {
            let list: &[Change] = &row.list.changes;
            let suspects: Vec<u16> = row.suspects.iter().map(|rank| rank.0).collect();
            let (wedged, ended, installed) = (row.wedged, row.ended, row.installed.0);
            write!(
                f,
                "\n      suspects {suspects:?} ballot {} agreed {}",
                row.list.ballot, row.agreed
            )?;
            write!(f, " wedged {wedged} ended {ended} installed {installed} {list:?}")
        };
        self.rows.iter().try_for_each(|row| show(f, row))
    }
}
