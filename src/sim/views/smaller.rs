// SPDX-License-Identifier: MIT OR Apache-2.0
//! A failing plan made smaller, and how a plan is told.

use super::plan::{Budget, Plan};
use crate::base::Posting;
use crate::sim::coverage::step_name;
use crate::sim::run::Hooks;
use crate::sim::shrink::Shrinks;
use std::fmt;

impl Shrinks for Plan {
    fn smaller(&self, step: u64) -> Vec<Plan> {
        let mut all = Vec::new();
        if step + 1 < self.steps {
            all.push(Plan { steps: step + 1, ..self.clone() });
        }
        all.push(Plan { steps: self.steps / 2, ..self.clone() });
        for process in (self.founders..self.processes).filter(|process| !self.absent[*process]) {
            let mut plan = self.clone();
            plan.absent[process] = true;
            all.push(plan);
        }
        if self.processes > 2 {
            let last_first = (0..self.processes).rev().map(|process| self.without(process));
            all.extend(last_first.filter(|plan| plan.founders > 0));
        }
        if self.templates.len() > 1 {
            for at in 0..self.templates.len() {
                let mut plan = self.clone();
                plan.templates.remove(at);
                all.push(plan);
            }
        }
        self.fewer_faults(&mut all);
        self.plainer(&mut all);
        if self.messages_max > 1 {
            all.push(Plan { messages_max: self.messages_max.min(512) / 2, ..self.clone() });
        }
        all.push(Plan { steps: self.steps * 7 / 8, ..self.clone() });
        all.retain(|plan| plan.steps > 20);
        all
    }

    fn salted(&self, salt: u64) -> Plan {
        Plan { salt: self.salt + salt, ..self.clone() }
    }
}

impl Plan {
    fn fewer_faults(&self, all: &mut Vec<Plan>) {
        for fewer in [|_: u32| 0, |count: u32| count - 1] {
            for kind in 0..Budget::default().kinds().len() {
                let mut plan = self.clone();
                let count = &mut *plan.faults.kinds()[kind];
                if *count > 0 {
                    *count = fewer(*count);
                    all.push(plan);
                }
            }
        }
    }

    /// One peculiarity less.
    fn plainer(&self, all: &mut Vec<Plan>) {
        let mut also = |is: bool, change: fn(&mut Plan)| {
            if is {
                let mut plan = self.clone();
                change(&mut plan);
                all.push(plan);
            }
        };
        also(self.hazard, |plan| plan.hazard = false);
        also(self.ambush.is_some(), |plan| plan.ambush = None);
        also(self.hooks.chance > 0, |plan| {
            plan.hooks = Hooks { chance: 0, moves: 1, depth_max: 1 }
        });
        also(self.hooks.depth_max > 1, |plan| plan.hooks.depth_max = 1);
        also(self.slow.iter().any(|slow| *slow > 1), |plan| plan.slow.fill(1));
        also(self.transfer_max > 0, |plan| plan.transfer_max = 0);
        also(self.pause_chance > 0, |plan| plan.pause_chance = 0);
        also(self.sleepy > 0, |plan| plan.sleepy = 0);
        also(self.callback_steps > 0, |plan| plan.callback_steps = 0);
        also(self.parking, |plan| plan.parking = false);
        also(self.tie_break, |plan| plan.tie_break = false);
        also(self.queue_limit != usize::MAX, |plan| plan.queue_limit = usize::MAX);
        also(self.bursts > 0, |plan| plan.bursts = 0);
        also(self.reserves > 0, |plan| plan.reserves = 0);
        also(self.fuse < 256, |plan| plan.fuse = 256);
        also(self.land_max < 16, |plan| plan.land_max = 16);
        also(self.budget_max < 256, |plan| plan.budget_max = 256);
        let lanes = |plan: &Plan| plan.templates.iter().any(|template| template.lanes > 1);
        also(lanes(self), |plan| plan.templates.iter_mut().for_each(|of| of.lanes = 1));
        let asks = |plan: &Plan| plan.templates.iter().any(|template| template.members_min > 0);
        also(asks(self), |plan| plan.templates.iter_mut().for_each(|of| of.members_min = 0));
        let shared = self.posting == Posting::Nothing;
        also(!shared && !self.lazy.contains(&true), |plan| plan.posting = Posting::Nothing);
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { founders, processes, posting, parking, tie_break, .. } = self;
        let most = |most: u64| if most == u64::MAX { "none".into() } else { most.to_string() };
        let queue_limit = most(self.queue_limit as u64);
        let lazy = self.lazy.iter().filter(|lazy| **lazy).count();
        writeln!(
            f,
            "  {processes} processes, of which {founders} found the group, posting {posting:?}, \
             {lazy} of {} mirrors behind a NIC, queue limit {queue_limit}, parking {parking}, \
             tie-break {tie_break}",
            self.lazy.len(),
        )?;
        for (process, before) in self.reborn.iter().enumerate() {
            if let Some(before) = before {
                writeln!(f, "  process {process} is {before} restarted")?;
            }
        }
        let absent = (0..*processes).filter(|process| self.absent[*process]);
        let absent: Vec<usize> = absent.collect();
        if !absent.is_empty() {
            writeln!(f, "  of which these never are: {absent:?}")?;
        }
        for (process, slow) in self.slow.iter().enumerate().filter(|(_, slow)| **slow > 1) {
            writeln!(f, "  process {process} is {slow} times slower")?;
        }
        for (at, template) in self.templates.iter().enumerate() {
            let shape = &template.shape;
            writeln!(
                f,
                "  subgroup {at}: {:?}, members {:?} (at least {}), senders {:?} ({} lanes each), \
                 window {}, messages to {} bytes, rings of {}",
                shape.mode,
                template.members,
                template.members_min,
                template.senders,
                template.lanes,
                shape.window,
                shape.message_bytes_max,
                shape.ring_bytes
            )?;
        }
        writeln!(f, "  {:?}", self.faults)?;
        let ambush = self.ambush.map(|ambush| (step_name(ambush.step), ambush.chance, ambush.late));
        writeln!(
            f,
            "  {} steps, faults {}/4096, gentle {}, ambush {ambush:?}, hazard {}, transfers to {}",
            self.steps, self.fault_chance, self.gentle, self.hazard, self.transfer_max
        )?;
        write!(
            f,
            "  {:?}, fuse {}, budget {}, callbacks to {} (stopped {}/256), pauses {}/256 to {}, \
             limit of messages {}, salt {}",
            self.hooks,
            self.fuse,
            self.budget_max,
            self.callback_steps,
            self.sleepy,
            self.pause_chance,
            self.pause_max,
            most(self.messages_max),
            self.salt
        )
    }
}
