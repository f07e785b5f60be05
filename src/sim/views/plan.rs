// SPDX-License-Identifier: MIT OR Apache-2.0
//! One seed's group whose views change: its processes, what they form, and what befalls them.

use crate::base::{Posting, Rank};
use crate::group::view::Subgroup;
use crate::limits::SLOT_ALIGN;
use crate::sim::dice::Dice;
use crate::sst::layout::{Mode, Shape};
use crate::sst::ring::slot_bytes;

/// A subgroup as the policy sees it: which processes belong to it whenever they are members.
#[derive(Clone, Debug)]
pub struct Template {
    pub members: Vec<usize>,
    pub senders: Vec<usize>,
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
        Subgroup::new(ranks(&self.members), &ranks(&self.senders), self.lanes, self.shape)
    }
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub founders: usize,
    pub processes: usize,
    pub templates: Vec<Template>,
    pub posting: Posting,
    lazy: Vec<bool>,
    pub parking: bool,
    pub steps: u64,
    pub hook_chance: u32,
    pub depth_max: u32,
    pub fuse: u32,
    pub budget_max: u64,
    pub callback_steps: u64,
    pub queue_limit: usize,
    pub land_max: u64,
    pub zeal: u32,
    pub reserves: u32,
    pub pause_chance: u32,
    pub pause_max: u64,
    /// Of 4096 steps, how many are a fault; and how many of each kind at the most.
    pub fault_chance: u64,
    /// Of 256 steps of a callback, how many stop its process for long.
    pub sleepy: u32,
    /// Faults mostly leave a majority.
    pub gentle: bool,
    pub crashes: u32,
    pub falsehoods: u32,
    pub cuts: u32,
    pub splits: u32,
    pub leaves: u32,
    /// Faults prefer members in the middle of a view change.
    pub ambush: bool,
    pub wire_share: u64,
}

impl Plan {
    pub fn new(seed: u64) -> Plan {
        let dice = &Dice::new(seed ^ 0x7669_6577);
        let founders = if dice.chance(24) { dice.range(8, 9) } else { dice.range(2, 7) } as usize;
        let processes = founders + dice.pick(&[0, 4, 5, 6, 7]) as usize;
        let templates = (0..dice.pick(&[1, 1, 1, 2, 3])).map(|_| template(dice, processes));
        let templates = templates.collect();
        let pairs = processes * processes;
        let (lazy, posting) = match dice.below(8) {
            0 => (vec![false; pairs], Posting::Nothing),
            1 => (vec![false; pairs], Posting::Bells),
            2..=6 => (vec![true; pairs], Posting::All),
            _ => {
                let host: Vec<u64> = (0..processes).map(|_| dice.below(3)).collect();
                let apart = |pair: usize| host[pair / processes] != host[pair % processes];
                ((0..pairs).map(apart).collect(), Posting::All)
            }
        };
        let some = |of: &[u32]| dice.pick(of);
        let sleepy = some(&[0, 0, 4]);
        Plan {
            seed,
            founders,
            processes,
            templates,
            posting,
            lazy,
            parking: posting != Posting::Nothing && dice.chance(128),
            steps: dice.range(4_000, 14_000),
            hook_chance: some(&[0, 8, 32, 96, 160]),
            depth_max: dice.range(1, 3) as u32,
            fuse: some(&[0, 128, 230, 256]),
            budget_max: dice.pick(&[1, 3, 16, 256]),
            callback_steps: if sleepy > 0 { 6 } else { dice.pick(&[0, 0, 2, 20]) },
            queue_limit: dice.pick(&[usize::MAX, usize::MAX, 64, 16, 4]),
            land_max: dice.pick(&[0, 1, 4, 16]),
            zeal: some(&[16, 64, 256]),
            reserves: some(&[0, 0, 64]),
            pause_chance: some(&[0, 0, 4, 24]),
            pause_max: dice.pick(&[20, 200, 2000]),
            fault_chance: if sleepy > 0 { 128 } else { 0 } + dice.pick(&[12, 24, 48, 96]),
            sleepy,
            gentle: dice.chance(160),
            crashes: some(&[0, 1, 2, 3, 4]),
            falsehoods: if sleepy > 0 { 5 } else { some(&[0, 0, 1, 2, 3, 4]) },
            cuts: some(&[0, 0, 0, 1, 2]),
            splits: some(&[0, 0, 0, 0, 0, 0, 0, 1]),
            leaves: some(&[0, 0, 1, 2]),
            ambush: dice.chance(128),
            wire_share: dice.pick(&[2, 4, 8]),
        }
    }

    pub fn lazy(&self, owner: usize, reader: usize) -> bool {
        self.lazy[owner * self.processes + reader]
    }
}

fn template(dice: &Dice, processes: usize) -> Template {
    let all: Vec<usize> = (0..processes).collect();
    let subset = |of: &[usize]| {
        let sparse = dice.pick(&[100, 180, 256, 256]);
        let mut some: Vec<usize> = of.iter().copied().filter(|_| dice.chance(sparse)).collect();
        if some.is_empty() {
            some.push(dice.pick(of));
        }
        some
    };
    let members = subset(&all);
    let senders = subset(&members);
    // Long enough to tell the messages of one lane apart, for where some may be missing.
    let message_bytes_max = dice.pick(&[16, 24, 64, 200]);
    let slot = slot_bytes(message_bytes_max);
    let window = dice.pick(&[1, 2, 3, 8, 32]);
    let ring_bytes = match dice.below(3) {
        0 => 2 * slot,
        1 => 2 * slot + dice.below(3 * slot + 256) / SLOT_ALIGN * SLOT_ALIGN,
        _ => slot * (window + 1),
    };
    let mode = if dice.chance(24) { Mode::Received } else { Mode::Stable };
    let shape = Shape {
        senders: 0,
        lanes: 0,
        mode,
        window: window as u32,
        message_bytes_max,
        ring_bytes: ring_bytes.max(2 * slot),
    };
    Template { members, senders, lanes: dice.pick(&[1, 1, 1, 2]), shape }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Plan { founders, processes, posting, queue_limit, parking, .. } = self;
        writeln!(
            f,
            "  views: {founders} founders of {processes} processes, posting {posting:?}, queue limit \
             {queue_limit}, parking {parking}, crashes {}, false suspicions {}, cuts {}, splits {}, \
             leaves {}",
            self.crashes, self.falsehoods, self.cuts, self.splits, self.leaves
        )?;
        for (at, template) in self.templates.iter().enumerate() {
            writeln!(f, "  subgroup {at}: {template:?}")?;
        }
        Ok(())
    }
}
