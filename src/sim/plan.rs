// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the world of one seed looks like: its group, its fabric, and the habits of its parties.
//!
//! Swarm style: each seed leaves most things out and does a few of them much, so that the rare
//! states of one kind are not washed away by the others.

use super::dice::Dice;
use super::run::Hooks;
use crate::base::{Posting, Rank};
use crate::group::view::Subgroup;
use crate::limits::SLOT_ALIGN;
use crate::sst::layout::{Mode, Shape};
use crate::sst::ring::slot_bytes;
use std::fmt;

/// How the sizes of a lane's messages are chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sizes {
    Least,
    Largest,
    Small,
    Mixed,
}

/// How one application thread behaves. Shares are of 256.
#[derive(Clone, Copy, Debug)]
pub struct Habit {
    /// How often it gets to act; 0: it never sends.
    pub weight: u32,
    /// Of its turns, how many it uses.
    pub zeal: u32,
    pub burst_max: u64,
    /// Steps for which a refusal keeps it from trying again, at most.
    pub patience: u64,
    pub sizes: Sizes,
    pub gather: u32,
    pub reserve: u32,
    /// Of its payloads, how many it streams.
    pub streams: u32,
    /// Of the reservations: kept for a while, given up, never touched again.
    pub late: u32,
    pub abort: u32,
    pub abandon: u32,
    /// It acts only between two turns of its member's turn thread, and waits where that waits.
    pub same_thread: bool,
    /// Once refused, it waits for its member's turn thread to have taken another turn.
    pub waits: bool,
}

/// Who may act next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Actor {
    Node(u16),
    Lane(u16),
    Wire,
}

/// A producing thread: sender `s` of a subgroup.
#[derive(Clone, Copy, Debug)]
pub struct LanePlan {
    pub subgroup: usize,
    pub s: usize,
    pub rank: Rank,
    pub lane: u16,
    pub habit: Habit,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    /// Another course of events of the same plan.
    pub salt: u64,
    pub members: usize,
    pub subgroups: Vec<Subgroup>,
    pub hot_bytes: Vec<u64>,
    pub lanes: Vec<LanePlan>,
    pub posting: Posting,
    /// By owner and reader: whether the reader has a mirror of its own that a NIC writes.
    pub(super) lazy: Vec<bool>,
    pub parking: bool,
    pub evil: Option<Rank>,
    /// Who departs at the end, and whether in good order.
    pub leaver: Option<(Rank, bool)>,
    pub phases: u32,
    pub steps: u64,
    pub hooks: Hooks,
    /// Of 256 steps of a member, how many go through a whole turn.
    pub fuse: u32,
    pub budget_max: u64,
    pub callback_steps: u64,
    pub callback_sends: u32,
    /// Of 256 turns, how many a pause follows; how long at most.
    pub pause_chance: u32,
    pub pause_max: u64,
    /// Parcels in a wire's queue from which on its peer is full.
    pub queue_limit: usize,
    /// Parcels that one move of a wire lands at most (0: one piece of one).
    pub land_max: u64,
    pub tickets: Vec<Actor>,
}

impl Plan {
    pub fn new(seed: u64) -> Plan {
        let dice = &Dice::new(seed);
        let members = if dice.chance(12) { dice.range(7, 9) } else { dice.range(1, 6) } as usize;
        let subgroups: Vec<Subgroup> =
            (0..dice.pick(&[1, 1, 1, 2, 3])).map(|_| subgroup(dice, members)).collect();
        let of = |subgroup: &Subgroup| dice.range(1, subgroup.shape.ring_bytes);
        let hot_bytes = subgroups.iter().map(of).collect();
        let lanes = lanes(dice, &subgroups);
        let (lazy, posting) = fabric(dice, members);
        let evil =
            (members > 1 && dice.chance(20)).then(|| Rank(dice.below(members as u64) as u16));
        let leaver = (members > 1 && evil.is_none() && dice.chance(96))
            .then(|| (Rank(dice.below(members as u64) as u16), dice.chance(170)));
        let mut plan = Plan {
            seed,
            salt: 0,
            members,
            subgroups,
            hot_bytes,
            posting,
            lazy,
            parking: posting != Posting::Nothing && dice.chance(128),
            evil,
            leaver,
            phases: dice.range(2, 4) as u32,
            steps: dice.range(2_000, 12_000),
            hooks: Hooks {
                chance: dice.pick(&[0, 8, 32, 96, 160]),
                moves: dice.range(1, 3),
                depth_max: dice.range(1, 3) as u32,
            },
            fuse: dice.pick(&[0, 128, 230, 256]),
            budget_max: dice.pick(&[1, 3, 16, 256, 256]),
            callback_steps: dice.pick(&[0, 0, 2, 6]),
            callback_sends: dice.pick(&[0, 0, 16, 96]),
            pause_chance: dice.pick(&[0, 0, 4, 24]),
            pause_max: dice.pick(&[20, 200, 1000]),
            queue_limit: dice.pick(&[usize::MAX, 64, 8, 2, 2, 1]),
            land_max: dice.pick(&[0, 0, 1, 4, 16]),
            tickets: Vec::new(),
            lanes,
        };
        plan.tickets = plan.tickets(dice);
        plan
    }

    /// Whether the NIC carries what `owner` posts to `reader`.
    #[inline]
    pub fn lazy(&self, owner: usize, reader: usize) -> bool {
        self.lazy[owner * self.members + reader]
    }

    /// One entry per share of the world's time.
    fn tickets(&self, dice: &Dice) -> Vec<Actor> {
        let mut tickets = Vec::new();
        let mut push = |actor, times: u32| (0..times).for_each(|_| tickets.push(actor));
        for node in 0..self.members {
            push(Actor::Node(node as u16), dice.pick(&[1, 4, 4, 8]));
        }
        for (lane, plan) in self.lanes.iter().enumerate() {
            push(Actor::Lane(lane as u16), plan.habit.weight);
        }
        if self.lazy.contains(&true) {
            push(Actor::Wire, self.members as u32 * dice.pick(&[2, 8, 16]));
        }
        tickets
    }
}

/// A random subset of `of`, never empty, in order.
fn subset<T: Copy>(dice: &Dice, of: &[T]) -> Vec<T> {
    let sparse = dice.pick(&[60, 128, 256]);
    let mut some: Vec<T> = of.iter().copied().filter(|_| dice.chance(sparse)).collect();
    if some.is_empty() {
        some.push(dice.pick(of));
    }
    some
}

fn subgroup(dice: &Dice, members: usize) -> Subgroup {
    let all: Vec<Rank> = (0..members as u16).map(Rank).collect();
    let members = if dice.chance(128) { all } else { subset(dice, &all) };
    let senders = if dice.chance(128) { members.clone() } else { subset(dice, &members) };
    let message_bytes_max = dice.pick(&[0, 1, 8, 24, 40, 64, 100, 200, 200, 400, 1000]);
    let slot = slot_bytes(message_bytes_max);
    let window = match dice.below(4) {
        0 => 1,
        1 | 2 => dice.range(2, 8),
        _ => dice.range(9, 64),
    };
    // Two of the largest must fit (`ring_bytes_min`); the rest is a question of speed.
    let ring_bytes = match dice.below(4) {
        0 => 2 * slot,
        1 | 2 => 2 * slot + dice.below(3 * slot + 256) / SLOT_ALIGN * SLOT_ALIGN,
        _ => slot * (window + 1),
    };
    let shape = Shape {
        senders: 0,
        lanes: 0,
        mode: if dice.chance(40) { Mode::Received } else { Mode::Stable },
        window: window as u32,
        message_bytes_max,
        ring_bytes: ring_bytes.max(2 * slot),
    };
    Subgroup::new(members, &senders, dice.pick(&[1, 1, 1, 2, 3]), shape)
}

fn lanes(dice: &Dice, subgroups: &[Subgroup]) -> Vec<LanePlan> {
    let mut lanes = Vec::new();
    let reserves = dice.chance(128);
    let same_thread = dice.chance(96);
    for (subgroup, spec) in subgroups.iter().enumerate() {
        let lonely = dice.chance(50).then(|| dice.below(spec.senders.len() as u64) as usize);
        for (s, sender) in spec.senders.iter().enumerate() {
            let mut habit = habit(dice, reserves);
            habit.same_thread = same_thread;
            match lonely {
                Some(only) if only == s => (habit.weight, habit.zeal) = (8, 256),
                Some(_) if dice.chance(128) => habit.weight = 0,
                Some(_) => (habit.weight, habit.zeal) = (1, 4),
                None => {}
            }
            lanes.push(LanePlan { subgroup, s, rank: sender.rank, lane: sender.lane, habit });
        }
    }
    lanes
}

fn habit(dice: &Dice, reserves: bool) -> Habit {
    let (weight, zeal) = dice.pick(&[(0, 0), (1, 16), (1, 256), (4, 256), (4, 64), (8, 256)]);
    let some = |of: &[u32]| if reserves { dice.pick(of) } else { 0 };
    Habit {
        weight,
        zeal,
        burst_max: dice.pick(&[1, 1, 4, 20, 100]),
        patience: dice.pick(&[1, 20, 20, 100]),
        sizes: dice.pick(&[
            Sizes::Least,
            Sizes::Largest,
            Sizes::Small,
            Sizes::Small,
            Sizes::Mixed,
            Sizes::Mixed,
        ]),
        gather: dice.pick(&[0, 64, 256]),
        reserve: some(&[0, 64, 200]),
        streams: dice.pick(&[0, 0, 128, 256]),
        late: some(&[0, 32, 128]),
        abort: some(&[0, 32, 128]),
        abandon: some(&[0, 0, 1]),
        same_thread: false,
        waits: dice.chance(64),
    }
}

/// Which pairs share memory and which have a NIC between them, and what must be posted.
fn fabric(dice: &Dice, members: usize) -> (Vec<bool>, Posting) {
    let pairs = members * members;
    match dice.below(8) {
        0 | 1 => (vec![false; pairs], Posting::Nothing),
        2 | 3 => (vec![false; pairs], Posting::Bells),
        4..=6 => (vec![true; pairs], Posting::All),
        _ => {
            // Hosts: members of the same one share memory.
            let host: Vec<u64> = (0..members).map(|_| dice.below(3)).collect();
            let apart = |pair: usize| host[pair / members] != host[pair % members];
            ((0..pairs).map(apart).collect(), Posting::All)
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lazy = self.lazy.iter().filter(|lazy| **lazy).count();
        writeln!(
            f,
            "  {} members, posting {:?}, {lazy} of {} mirrors behind a NIC, queue limit {}, \
             parking {}, evil {:?}, leaver {:?}",
            self.members,
            self.posting,
            self.lazy.len(),
            match self.queue_limit {
                usize::MAX => "none".into(),
                limit => limit.to_string(),
            },
            self.parking,
            self.evil,
            self.leaver
        )?;
        for (at, subgroup) in self.subgroups.iter().enumerate() {
            let Shape { mode, window, message_bytes_max, ring_bytes, lanes, .. } = subgroup.shape;
            let ranks: Vec<u16> = subgroup.members.iter().map(|rank| rank.0).collect();
            let senders: Vec<u16> = subgroup.senders.iter().map(|sender| sender.rank.0).collect();
            writeln!(
                f,
                "  subgroup {at}: {mode:?}, members {ranks:?}, senders {senders:?} ({lanes} lanes \
                 each), window {window}, messages to {message_bytes_max} bytes, rings of \
                 {ring_bytes}"
            )?;
        }
        write!(
            f,
            "  {} times {} steps, hook {}/256 x{} depth {}, fuse {}, budget {}, pauses {}/256 to {}",
            self.phases,
            self.steps,
            self.hooks.chance,
            self.hooks.moves,
            self.hooks.depth_max,
            self.fuse,
            self.budget_max,
            self.pause_chance,
            self.pause_max
        )
    }
}
