// SPDX-License-Identifier: MIT OR Apache-2.0
//! One seed's group whose views change: its processes, what they form, and what befalls them.

use crate::base::{Posting, Rank};
use crate::group::view::Subgroup;
use crate::limits::SLOT_ALIGN;
use crate::sim::coverage::STEPS;
use crate::sim::dice::Dice;
use crate::sim::run::Hooks;
use crate::sst::layout::{Mode, Shape};
use crate::sst::ring::slot_bytes;

/// A subgroup as the policy sees it: which processes belong to it whenever they are members.
#[derive(Clone, Debug)]
pub struct Template {
    pub members: Vec<usize>,
    pub senders: Vec<usize>,
    /// In a view with fewer it waits.
    pub members_min: usize,
    pub lanes: u16,
    pub shape: Shape,
}

impl Template {
    /// The subgroup of a view with those processes, by rank.
    pub fn of(&self, view: &[usize]) -> Subgroup {
        let ranks = |of: &[usize]| {
            let here = view.iter().zip(0..).filter(|(process, _)| of.contains(process));
            here.map(|(_, rank)| Rank(rank)).collect::<Vec<Rank>>()
        };
        let (members, senders) = (ranks(&self.members), ranks(&self.senders));
        match self.lacks(view) {
            0 => Subgroup::new(members, &senders, self.lanes, self.shape),
            lacks => Subgroup::lacking(lacks, members, &senders, self.lanes, self.shape),
        }
    }

    /// How many members it lacks in the view of those processes.
    pub fn lacks(&self, view: &[usize]) -> u16 {
        let here = view.iter().filter(|process| self.members.contains(process)).count();
        self.members_min.saturating_sub(here) as u16
    }
}

/// How many of each kind of fault there are at the most.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Budget {
    pub crashes: u32,
    pub falsehoods: u32,
    /// Links cut for good, one way; the group parted for good.
    pub cuts: u32,
    pub splits: u32,
    /// The group parted for a while, with detectors that err.
    pub storms: u32,
    pub leaves: u32,
    /// Processes or hosts stopped for long; clocks that jump.
    pub stops: u32,
    pub jumps: u32,
}

impl Budget {
    /// `sleepy`: members are stopped in callbacks, and others take that for their failure.
    fn new(dice: &Dice, sleepy: u32) -> Budget {
        let some = |of: &[u32]| dice.pick(of);
        Budget {
            crashes: some(&[0, 1, 2, 3, 4]),
            falsehoods: if sleepy > 0 { 5 } else { some(&[0, 0, 1, 2, 3, 4]) },
            cuts: some(&[0, 0, 0, 1, 2]),
            splits: some(&[0, 0, 0, 0, 0, 0, 0, 1]),
            storms: some(&[0, 0, 0, 0, 1, 2]),
            leaves: some(&[0, 0, 1, 2]),
            stops: some(&[0, 0, 1, 3]),
            jumps: some(&[0, 0, 1]),
        }
    }

    pub fn kinds(&mut self) -> [&mut u32; 8] {
        let Budget { crashes, falsehoods, cuts, splits, storms, leaves, stops, jumps } = self;
        [crashes, falsehoods, cuts, splits, storms, leaves, stops, jumps]
    }
}

/// Faults strike members in this step of a view change, so many of 256 times; late: when they have
/// posted what they have to say of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ambush {
    pub step: usize,
    pub chance: u32,
    pub late: bool,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    /// Another course of events of the same plan.
    pub salt: u64,
    pub founders: usize,
    pub processes: usize,
    /// By process: the one whose new incarnation it is, with the same lanes.
    pub reborn: Vec<Option<usize>>,
    /// By process.
    pub hosts: Vec<u64>,
    /// By process: it is never born (of a plan made smaller).
    pub absent: Vec<bool>,
    /// By process: of so many of its steps it takes one.
    pub slow: Vec<u64>,
    pub templates: Vec<Template>,
    pub posting: Posting,
    pub tie_break: bool,
    pub(super) lazy: Vec<bool>,
    pub parking: bool,
    pub steps: u64,
    pub hooks: Hooks,
    pub fuse: u32,
    pub budget_max: u64,
    pub callback_steps: u64,
    pub queue_limit: usize,
    pub land_max: u64,
    pub zeal: u32,
    pub messages_max: u64,
    pub reserves: u32,
    /// Of 256 sends, how many are of several messages, between which the world moves.
    pub bursts: u32,
    pub pause_chance: u32,
    pub pause_max: u64,
    /// Steps that a joiner takes to load the state, at the most; 0: it takes none.
    pub transfer_max: u64,
    /// Of 4096 steps, how many are a fault.
    pub fault_chance: u64,
    pub faults: Budget,
    /// Of 256 steps of a callback, how many stop its process for long.
    pub sleepy: u32,
    /// Faults mostly leave a majority.
    pub gentle: bool,
    /// Faults lie in wait.
    pub ambush: Option<Ambush>,
    /// Two of a subgroup come to suspect a third in a trim, and die when they have delivered.
    pub hazard: bool,
    pub wire_share: u64,
}

impl Plan {
    pub fn new(seed: u64) -> Plan {
        let dice = &Dice::new(seed ^ 0x7669_6577);
        // Some groups are about a pair that dies with its secret, some about one partition.
        let hazard = dice.chance(16);
        let parted = !hazard && dice.chance(14);
        let founders = match (hazard, parted) {
            (true, _) => dice.range(7, 9),
            (_, true) => dice.range(2, 5),
            _ if dice.chance(24) => dice.range(8, 9),
            _ => dice.range(2, 7),
        } as usize;
        let born = founders + dice.pick(&[0, 4, 6, 8, 8]) as usize * usize::from(!parted);
        let reborn = reborn(dice, born, dice.pick(&[0, 0, 1, 2, 4]));
        let processes = reborn.len();
        let hosts = hosts(dice, &reborn);
        let (lazy, posting) = fabric(dice, &hosts);
        let templates = (0..dice.pick(&[1, 1, 1, 2, 3])).map(|_| template(dice, born, &reborn));
        let templates = templates.collect();
        let some = |of: &[u32]| dice.pick(of);
        let sleepy = some(&[0, 0, 8]);
        let ambush = dice.chance(128);
        let slow = dice.pick(&[1, 1, 1, 1, 1, 10, 1000]);
        let odd = dice.below(processes as u64);
        let speed = |process: u64| if process == odd { slow } else { 1 };
        let plan = Plan {
            seed,
            salt: 0,
            founders,
            processes,
            slow: (0..processes as u64).map(speed).collect(),
            absent: vec![false; processes],
            reborn,
            hosts,
            templates,
            posting,
            tie_break: if founders == 2 { dice.chance(128) } else { dice.chance(16) },
            lazy,
            parking: posting != Posting::Nothing && dice.chance(128),
            steps: dice.range(4_000, 14_000),
            hooks: Hooks {
                chance: some(&[0, 8, 32, 96, 160]),
                moves: 1,
                depth_max: dice.range(1, 3) as u32,
            },
            fuse: some(&[0, 128, 230, 256]),
            budget_max: dice.pick(&[1, 3, 16, 256]),
            callback_steps: if sleepy > 0 { 6 } else { dice.pick(&[0, 0, 2, 20]) },
            queue_limit: dice.pick(&[usize::MAX, usize::MAX, 64, 16, 4]),
            land_max: dice.pick(&[0, 1, 4, 16]),
            zeal: some(&[16, 64, 256]),
            messages_max: u64::MAX,
            reserves: some(&[0, 0, 64]),
            bursts: some(&[0, 0, 16, 64]),
            pause_chance: some(&[0, 0, 4, 24]),
            pause_max: dice.pick(&[20, 200, 2000]),
            transfer_max: dice.pick(&[0, 20, 500]),
            fault_chance: if sleepy > 0 { 128 } else { 0 } + dice.pick(&[12, 24, 48, 96]),
            faults: Budget::new(dice, sleepy),
            sleepy,
            gentle: dice.chance(160),
            ambush: ambush.then(|| Ambush {
                step: dice.below(STEPS as u64) as usize,
                chance: some(&[16, 64, 200]),
                late: dice.chance(128),
            }),
            hazard,
            wire_share: dice.pick(&[2, 4, 8]),
        };
        let plan = if parted { plan.parted(dice) } else { plan };
        plan.asking_for_members()
    }

    /// In some groups subgroups need so many members. Of numbers of its own: else every seed would be
    /// another one than it was.
    fn asking_for_members(mut self) -> Plan {
        let dice = &Dice::new(self.seed ^ 0x6c61_636b);
        for template in &mut self.templates {
            let most = template.members.len().min(self.founders + 1) as u64;
            if dice.chance(64) && most > 1 {
                template.members_min = dice.range(2, most) as usize;
            }
        }
        self
    }

    /// Nothing but a partition, and what comes of it.
    fn parted(self, dice: &Dice) -> Plan {
        let stops = self.faults.stops;
        Plan {
            faults: Budget { splits: 1, stops, ..Budget::default() },
            fault_chance: dice.pick(&[12, 48]),
            steps: self.steps / 2,
            sleepy: 0,
            ambush: None,
            lazy: vec![true; self.lazy.len()],
            posting: Posting::All,
            ..self
        }
    }

    /// Whether who joins gets the state of a member first.
    pub fn has_state(&self) -> bool {
        self.transfer_max > 0
    }

    pub fn lazy(&self, owner: usize, reader: usize) -> bool {
        self.lazy[owner * self.processes + reader]
    }

    /// The plan without one process; later ones move up.
    pub(super) fn without(&self, gone: usize) -> Plan {
        let mut plan = self.clone();
        let there = |process: usize| process - usize::from(process > gone);
        plan.processes -= 1;
        plan.founders -= usize::from(gone < self.founders);
        for list in [&mut plan.hosts, &mut plan.slow] {
            list.remove(gone);
        }
        plan.absent.remove(gone);
        // Who would have been its next incarnation is that of the one before.
        let before = plan.reborn.remove(gone);
        for of in &mut plan.reborn {
            *of = if *of == Some(gone) { before } else { *of }.map(there);
        }
        for template in &mut plan.templates {
            for list in [&mut template.members, &mut template.senders] {
                list.retain(|process| *process != gone);
                list.iter_mut().for_each(|process| *process = there(*process));
            }
        }
        let n = self.processes;
        let pairs = (0..n * n).filter(|pair| pair / n != gone && pair % n != gone);
        plan.lazy = pairs.map(|pair| self.lazy[pair]).collect();
        plan
    }
}

/// So many processes, and new incarnations of some of them.
fn reborn(dice: &Dice, born: usize, more: u64) -> Vec<Option<usize>> {
    let mut all: Vec<Option<usize>> = vec![None; born];
    for _ in 0..more {
        let free: Vec<usize> = (0..all.len()).filter(|of| !all.contains(&Some(*of))).collect();
        all.push(Some(dice.pick(&free)));
    }
    all
}

fn hosts(dice: &Dice, reborn: &[Option<usize>]) -> Vec<u64> {
    let mut hosts: Vec<u64> = Vec::new();
    for before in reborn {
        hosts.push(before.map_or_else(|| dice.below(3), |before| hosts[before]));
    }
    hosts
}

/// Which pairs share memory and which have a NIC between them, and what must be posted.
fn fabric(dice: &Dice, hosts: &[u64]) -> (Vec<bool>, Posting) {
    let n = hosts.len();
    match dice.below(8) {
        0 => (vec![false; n * n], Posting::Nothing),
        1 => (vec![false; n * n], Posting::Bells),
        2..=6 => (vec![true; n * n], Posting::All),
        _ => {
            let apart = |pair: usize| hosts[pair / n] != hosts[pair % n];
            ((0..n * n).map(apart).collect(), Posting::All)
        }
    }
}

fn template(dice: &Dice, born: usize, reborn: &[Option<usize>]) -> Template {
    let all: Vec<usize> = (0..born).collect();
    let subset = |of: &[usize]| {
        let sparse = dice.pick(&[100, 180, 256, 256]);
        let mut some: Vec<usize> = of.iter().copied().filter(|_| dice.chance(sparse)).collect();
        if some.is_empty() {
            some.push(dice.pick(of));
        }
        some
    };
    let mut members = subset(&all);
    let mut senders = subset(&members);
    // A new incarnation is what the old one was.
    for list in [&mut members, &mut senders] {
        for (process, before) in reborn.iter().enumerate() {
            if before.is_some_and(|before| list.contains(&before)) {
                list.push(process);
            }
        }
    }
    let message_bytes_max = dice.pick(&[16, 24, 64, 200]);
    let slot = slot_bytes(message_bytes_max);
    let window = dice.pick(&[1, 2, 3, 8, 32]);
    let ring_bytes = match dice.below(3) {
        0 => 2 * slot,
        1 => 2 * slot + dice.below(3 * slot + 256) / SLOT_ALIGN * SLOT_ALIGN,
        _ => slot * (window + 1),
    };
    let mode = if dice.chance(64) { Mode::Received } else { Mode::Stable };
    let shape = Shape {
        senders: 0,
        lanes: 0,
        mode,
        window: window as u32,
        message_bytes_max,
        ring_bytes: ring_bytes.max(2 * slot),
    };
    Template { members, senders, members_min: 0, lanes: dice.pick(&[1, 1, 1, 2]), shape }
}
