// SPDX-License-Identifier: MIT OR Apache-2.0
//! A failing plan of the world of one view made smaller.

use super::plan::{Actor, Plan};
use super::run::Hooks;
use super::shrink::Shrinks;
use crate::base::Rank;
use crate::group::view::Subgroup;

impl Shrinks for Plan {
    fn smaller(&self, step: u64) -> Vec<Plan> {
        let mut all = Vec::new();
        if self.phases > 1 {
            all.push(Plan { phases: 1, ..self.clone() });
            all.push(Plan { phases: self.phases - 1, ..self.clone() });
        }
        if step + 1 < self.steps {
            all.push(Plan { steps: step + 1, ..self.clone() });
        }
        all.push(Plan { steps: self.steps / 2, ..self.clone() });
        if self.members > 1 {
            all.extend((0..self.members).rev().filter_map(|rank| self.without(rank)));
        }
        if self.subgroups.len() > 1 {
            all.extend((0..self.subgroups.len()).rev().map(|at| self.without_subgroup(at)));
        }
        self.plainer(&mut all);
        all.push(Plan { steps: self.steps * 7 / 8, ..self.clone() });
        all.retain(|plan| plan.steps > 20 && !plan.tickets.is_empty());
        all
    }

    fn salted(&self, salt: u64) -> Plan {
        Plan { salt: self.salt + salt, ..self.clone() }
    }
}

impl Plan {
    /// One peculiarity less.
    fn plainer(&self, all: &mut Vec<Plan>) {
        let mut also = |is: bool, change: fn(&mut Plan)| {
            if is {
                let mut plan = self.clone();
                change(&mut plan);
                all.push(plan);
            }
        };
        also(self.leaver.is_some(), |plan| plan.leaver = None);
        also(self.evil.is_some(), |plan| plan.evil = None);
        also(self.hooks.chance > 0, |plan| {
            plan.hooks = Hooks { chance: 0, moves: 1, depth_max: 1 }
        });
        also(self.hooks.depth_max > 1, |plan| plan.hooks.depth_max = 1);
        also(self.hooks.moves > 1, |plan| plan.hooks.moves = 1);
        also(self.pause_chance > 0, |plan| plan.pause_chance = 0);
        also(self.callback_steps > 0, |plan| plan.callback_steps = 0);
        also(self.callback_sends > 0, |plan| plan.callback_sends = 0);
        also(self.parking, |plan| plan.parking = false);
        also(self.queue_limit != usize::MAX, |plan| plan.queue_limit = usize::MAX);
        also(self.fuse < 256, |plan| plan.fuse = 256);
        also(self.land_max < 16, |plan| plan.land_max = 16);
        also(self.budget_max < 256, |plan| plan.budget_max = 256);
        let quiet = |plan: &mut Plan, change: fn(&mut super::plan::Habit)| {
            plan.lanes.iter_mut().for_each(|lane| change(&mut lane.habit));
        };
        for change in [
            |habit: &mut super::plan::Habit| (habit.reserve, habit.late, habit.abort) = (0, 0, 0),
            |habit: &mut super::plan::Habit| (habit.gather, habit.streams) = (0, 0),
            |habit: &mut super::plan::Habit| habit.burst_max = 1,
            |habit: &mut super::plan::Habit| habit.zeal = (habit.zeal / 4).max(1),
        ] {
            let mut plan = self.clone();
            quiet(&mut plan, change);
            let habits = |plan: &Plan| {
                let of = |lane: &super::plan::LanePlan| format!("{:?}", lane.habit);
                plan.lanes.iter().map(of).collect::<Vec<_>>()
            };
            if habits(&plan) != habits(self) {
                all.push(plan);
            }
        }
    }

    /// The plan without a member, unless it is the last of some subgroup, or one it is about.
    fn without(&self, gone: usize) -> Option<Plan> {
        let rank = Rank(gone as u16);
        let there = |of: Rank| Rank(of.0 - u16::from(of > rank));
        if self.evil == Some(rank) || self.leaver.is_some_and(|(leaver, _)| leaver == rank) {
            return None;
        }
        let mut plan = self.clone();
        for subgroup in &mut plan.subgroups {
            let members = subgroup.members.iter().copied().filter(|of| *of != rank);
            let members: Vec<Rank> = members.map(there).collect();
            let senders = subgroup.senders.iter().map(|sender| sender.rank);
            let mut senders: Vec<Rank> = senders.filter(|of| *of != rank).map(there).collect();
            senders.dedup();
            if senders.is_empty() {
                return None;
            }
            *subgroup = Subgroup::new(members, &senders, subgroup.shape.lanes, subgroup.shape);
        }
        plan.members -= 1;
        plan.evil = plan.evil.map(there);
        plan.leaver = plan.leaver.map(|(leaver, farewell)| (there(leaver), farewell));
        let n = self.members;
        let pairs = (0..n * n).filter(|pair| pair / n != gone && pair % n != gone);
        plan.lazy = pairs.map(|pair| self.lazy[pair]).collect();
        plan.tickets.retain(|actor| *actor != Actor::Node(rank.0));
        for actor in &mut plan.tickets {
            if let Actor::Node(of) = actor {
                *of = there(Rank(*of)).0;
            }
        }
        plan.keep_lanes(|lane| lane.rank != rank);
        plan.lanes.iter_mut().for_each(|lane| lane.rank = there(lane.rank));
        Some(plan)
    }

    fn without_subgroup(&self, gone: usize) -> Plan {
        let mut plan = self.clone();
        plan.subgroups.remove(gone);
        plan.hot_bytes.remove(gone);
        plan.keep_lanes(|lane| lane.subgroup != gone);
        for lane in plan.lanes.iter_mut().filter(|lane| lane.subgroup > gone) {
            lane.subgroup -= 1;
        }
        plan
    }

    /// Drops lanes, and what the tickets say of them; sender numbers close up.
    fn keep_lanes(&mut self, keep: impl Fn(&super::plan::LanePlan) -> bool) {
        let kept: Vec<usize> = (0..self.lanes.len()).filter(|at| keep(&self.lanes[*at])).collect();
        let place = |lane: u16| kept.iter().position(|at| *at == usize::from(lane));
        let moved = self.tickets.iter().filter_map(|actor| match *actor {
            Actor::Lane(lane) => place(lane).map(|at| Actor::Lane(at as u16)),
            other => Some(other),
        });
        self.tickets = moved.collect();
        self.lanes = kept.iter().map(|at| self.lanes[*at]).collect();
        let mut before: Vec<usize> = Vec::new();
        for lane in &mut self.lanes {
            lane.s = before.iter().filter(|subgroup| **subgroup == lane.subgroup).count();
            before.push(lane.subgroup);
        }
    }
}
