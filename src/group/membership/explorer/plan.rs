// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a seed decides (tests only): how many, which subgroups, which faults, how fast.

use super::super::stage::Stage;
use super::net::Dice;
use crate::base::{Rank, Versions};
use crate::group::view::Subgroup;
use crate::sst::layout::{Mode, Shape};

/// No stage in particular.
pub const ANY: usize = Stage::ALL.len();

/// What chance decided of a whole run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub founders: usize,
    pub joiners: usize,
    /// Subgroups: as `subgroups` reads it.
    pub shape: usize,
    pub crashes: usize,
    /// Crashes and false suspicions wait for members in that stage, or in `ANY`, and strike then
    /// in so many of 1000 steps.
    pub ambush: usize,
    pub eager_ambush: usize,
    pub falsehoods: usize,
    pub cuts: usize,
    /// Everybody is cut off from everybody of another group, by chance or by epoch.
    pub splits: usize,
    pub leaves: usize,
    pub tie_break: bool,
    /// Of 1000 pairs that many are shared memory.
    pub eager: usize,
    pub steps: usize,
    /// Weights of a step that lands words, and of one that is a fault.
    pub land: usize,
    pub fault: usize,
    pub stall: usize,
    pub burst: usize,
    pub sends: usize,
    pub full: usize,
    /// Only who has something to do takes turns, and wires and processes differ much in speed.
    pub driven: bool,
    /// Of 1000 turns, those in which a callback returns.
    pub returns: usize,
}

impl Plan {
    pub fn new(seed: u64) -> Plan {
        let mut dice = Dice::new(seed ^ 0x6d65_6d62);
        let founders = dice.pick(&[1, 2, 2, 3, 3, 3, 4, 4, 5, 5, 5, 5, 6, 7]);
        let theme = dice.below(5);
        let plan = Plan {
            seed,
            founders,
            joiners: dice.pick(&[0, 0, 1, 2, 2, 3, 4]),
            shape: dice.below(6),
            crashes: dice.pick(&[0, 1, 1, 1, 2, 2, 3]),
            falsehoods: dice.pick(&[0, 0, 0, 1, 1, 2, 3]),
            cuts: dice.pick(&[0, 0, 0, 0, 1, 2]),
            splits: dice.pick(&[0, 0, 0, 0, 1]),
            leaves: dice.pick(&[0, 0, 0, 1, 1, 2]),
            tie_break: founders == 2 && dice.chance(400),
            eager: dice.pick(&[0, 0, 300, 1000]),
            ambush: dice.pick(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ANY, ANY]),
            eager_ambush: dice.pick(&[0, 10, 50]),
            steps: dice.pick(&[150, 400, 900, 900, 2000, 4000]),
            land: dice.pick(&[20, 60, 100, 200, 400]),
            fault: dice.pick(&[3, 10, 30, 100]),
            stall: dice.pick(&[0, 5, 20]),
            burst: dice.pick(&[1, 4, 30, 1000]),
            sends: dice.pick(&[100, 500, 900]),
            full: dice.pick(&[0, 0, 100]),
            driven: dice.chance(750),
            returns: dice.pick(&[100, 500, 1000]),
        };
        plan.themed(theme, &mut dice)
    }

    /// Half of the seeds are about something.
    fn themed(self, theme: usize, dice: &mut Dice) -> Plan {
        let plan = self;
        let quiet = Plan { cuts: 0, splits: 0, leaves: 0, stall: 0, full: 0, ..plan };
        match theme {
            // A cut under way in a part of the group, while suspicions spread.
            0 => Plan {
                founders: 5,
                joiners: 1,
                shape: dice.pick(&[1, 4]),
                crashes: dice.below(2),
                ambush: dice.range(Stage::Proposed as usize, Stage::Echoed as usize),
                falsehoods: dice.range(1, 3),
                driven: true,
                returns: 100,
                steps: 900,
                fault: dice.pick(&[3, 10, 30]),
                tie_break: false,
                ..quiet
            },
            // Leaders that fail or are believed to while they propose.
            1 => Plan {
                founders: dice.pick(&[3, 5, 5]),
                joiners: dice.range(1, 2),
                crashes: dice.below(3),
                ambush: dice.pick(&[Stage::Proposed, Stage::Agreed]) as usize,
                falsehoods: dice.range(1, 3),
                driven: true,
                steps: 900,
                fault: dice.pick(&[3, 10, 30]),
                tie_break: false,
                ..quiet
            },
            // Leaves, and suspicions of those who stay.
            2 => Plan {
                founders: dice.pick(&[3, 4, 5]),
                leaves: dice.range(1, 3),
                crashes: dice.below(2),
                ambush: ANY,
                falsehoods: dice.range(2, 3),
                driven: true,
                fault: dice.pick(&[10, 30, 100]),
                tie_break: false,
                ..quiet
            },
            _ => plan,
        }
    }
}

impl Plan {
    /// What a process speaks. In a third of the seeds a group is upgraded: some of its founders and most
    /// of those that come speak a version more, and some only that.
    pub fn versions(&self, who: usize) -> Versions {
        if self.seed % 3 != 1 {
            return Versions::OURS;
        }
        let mut dice = Dice::new(self.seed ^ 0x7665_7273 ^ (who as u64) << 32);
        let (old, both, new) = ((1, 1), (1, 2), (2, 3));
        let (min, max) = match who < self.founders {
            true => dice.pick(&[old, both, both]),
            false => dice.pick(&[both, both, old, new]),
        };
        Versions { min, max }
    }

    /// Joins and messages, and no fault of its own.
    pub fn calm_join(seed: u64) -> Plan {
        Plan {
            crashes: 0,
            falsehoods: 0,
            cuts: 0,
            splits: 0,
            leaves: 0,
            tie_break: false,
            driven: true,
            steps: 900,
            fault: 30,
            ambush: ANY,
            ..Plan::new(seed)
        }
    }

    /// Nothing happens by chance, and nobody sends.
    pub fn still(founders: usize, joiners: usize, shape: usize) -> Plan {
        let plan =
            Plan { founders, joiners, shape, tie_break: false, eager: 0, full: 0, ..Plan::new(0) };
        Plan { sends: 0, returns: 1000, ..plan }
    }
}

/// The subgroups of a view: a function of the plan and the number of members alone.
pub fn subgroups(plan: &Plan, members: usize) -> Vec<Subgroup> {
    let base = Shape {
        senders: 0,
        lanes: 0,
        mode: Mode::Stable,
        window: 8,
        message_bytes_max: 16,
        ring_bytes: 4096,
    };
    let ranks = |from: usize, upto: usize| (from..upto.min(members)).map(|rank| Rank(rank as u16));
    let last = |count: usize| ranks(members.saturating_sub(count), members).collect::<Vec<_>>();
    let all = last(members);
    let of = |members: Vec<Rank>, senders: Vec<Rank>| Subgroup::new(members, &senders, 1, base);
    match plan.shape {
        0 => vec![of(all.clone(), all)],
        1 => vec![of(last(3), last(3))],
        2 => vec![of(last(3), last(2)), of(all.clone(), vec![Rank(0)])],
        3 => vec![of(ranks(0, 2).collect(), vec![Rank(0)]), of(last(3), last(1))],
        4 => vec![of(last(4), last(2))],
        _ => {
            let received = Shape { mode: Mode::Received, ..base };
            vec![Subgroup::new(all.clone(), &all, 1, received), of(last(3), last(3))]
        }
    }
}
