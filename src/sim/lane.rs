// SPDX-License-Identifier: MIT OR Apache-2.0
//! One application thread: it sends by copy, in pieces, in place, late, or not after all.

use super::dice::Pattern;
use super::oracle::{Broken, ROOM};
use super::plan::{LanePlan, Sizes};
use super::rows::Row;
use super::turn::Phase;
use super::world::World;
use crate::error::Status;
use crate::sst::producer::Producer;
use crate::sst::stores::Stores;

/// What becomes of a reservation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Publish,
    Abort,
    Abandon,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    len: u32,
    until: u64,
    fate: Fate,
}

pub struct Lane {
    pub plan: LanePlan,
    producer: Producer,
    message_bytes_max: u32,
    held: Option<Held>,
    /// Messages of the current burst that are still to be sent.
    burst: u64,
    /// It has been refused and does not try before this step.
    patient_until: u64,
    /// It has been refused, and waits for a turn after this many of its member.
    waiting: Option<u64>,
    bytes: Vec<u8>,
}

impl Lane {
    pub fn new(plan: LanePlan, producer: Producer, message_bytes_max: u32) -> Lane {
        let bytes = vec![0; message_bytes_max as usize];
        Lane {
            plan,
            producer,
            message_bytes_max,
            held: None,
            burst: 0,
            patient_until: 0,
            waiting: None,
            bytes,
        }
    }

    /// Whether it was not refused, or its member has taken a turn since.
    fn may_try(&mut self, world: &World) -> bool {
        let turns = world.turns[self.plan.rank.index()].get();
        self.waiting = self.waiting.filter(|before| turns == *before);
        self.waiting.is_none()
    }

    fn size(&self, world: &World) -> u32 {
        let most = u64::from(self.message_bytes_max);
        let sizes = match self.plan.habit.sizes {
            Sizes::Mixed => world.dice.pick(&[Sizes::Least, Sizes::Largest, Sizes::Small]),
            sizes => sizes,
        };
        match sizes {
            Sizes::Least => 0,
            Sizes::Largest => self.message_bytes_max,
            _ => world.dice.below((most / 4).max(16).min(most) + 1) as u32,
        }
    }

    fn pattern(&self, world: &World, ordinal: u64) -> Pattern {
        Pattern::new(world.plan.seed, self.plan.subgroup, self.plan.s, ordinal)
    }

    /// One action of the thread. Whether it sent.
    fn act(&mut self, world: &World) -> bool {
        if let Some(held) = self.held {
            if world.dice.chance(64) {
                let outcome = self.producer.send(&[]);
                assert_eq!(outcome, Err(Status::NotReserved), "one at a time per lane");
            }
            return held.until <= world.now.get() && self.release(held, world);
        }
        let habit = self.plan.habit;
        if habit.streams > 0 {
            self.producer.store(Stores::fixed(world.dice.chance(habit.streams)));
            self.producer.defer_fences(world.dice.chance(128));
        }
        let len = self.size(world);
        if world.dice.chance(habit.reserve) {
            return self.reserve(len, world);
        }
        let ordinal = self.producer.ordinal();
        let pattern = self.pattern(world, ordinal);
        let mut bytes = std::mem::take(&mut self.bytes);
        pattern.fill(&mut bytes[..len as usize]);
        let outcome = if world.dice.chance(habit.gather) {
            world.tallies.one(Row::Gathered);
            let (a, b) =
                bytes[..len as usize].split_at(world.dice.below(u64::from(len) + 1) as usize);
            let (b, c) = b.split_at(world.dice.below(b.len() as u64 + 1) as usize);
            self.producer.send_parts(&[a, b, c])
        } else {
            self.producer.send(&bytes[..len as usize])
        };
        self.bytes = bytes;
        self.sent(outcome, len, world)
    }

    fn reserve(&mut self, len: u32, world: &World) -> bool {
        let pattern = self.pattern(world, self.producer.ordinal());
        match self.producer.reserve(len) {
            Ok(slot) => {
                pattern.fill(slot);
                // A shorter one may find room where a longer one did not: then nobody waits to be told.
                self.waiting = None;
            }
            Err(status) => return self.sent(Err(status), len, world),
        }
        let (habit, dice) = (self.plan.habit, &world.dice);
        let fate = if dice.chance(habit.abandon) {
            world.tallies.one(Row::Abandoned);
            Fate::Abandon
        } else if dice.chance(habit.abort) {
            Fate::Abort
        } else {
            Fate::Publish
        };
        // Less may be sent than was reserved.
        let len = if dice.chance(64) { dice.below(u64::from(len) + 1) as u32 } else { len };
        let late = dice.chance(habit.late);
        let until = world.now.get() + if late { dice.below(300) } else { 0 };
        let held = Held { len, until, fate };
        self.held = Some(held);
        world.stir();
        world.note("reserves", [self.plan.subgroup as u64, self.plan.s as u64, len.into(), until]);
        if late {
            world.tallies.one(Row::Late);
            return false;
        }
        self.release(held, world)
    }

    /// Publishes or aborts what is held. Whether it sent.
    fn release(&mut self, held: Held, world: &World) -> bool {
        match held.fate {
            Fate::Abandon => false,
            Fate::Abort => {
                self.held = None;
                world.tallies.one(Row::Aborts);
                assert_eq!(self.producer.abort(), Ok(()));
                assert_eq!(self.producer.abort(), Err(Status::NotReserved));
                false
            }
            Fate::Publish => {
                self.held = None;
                let outcome = self.producer.publish(held.len);
                assert!(outcome.is_ok(), "what is reserved can be published: {outcome:?}");
                self.sent(outcome, held.len, world)
            }
        }
    }

    fn sent(&mut self, outcome: Result<u64, Status>, len: u32, world: &World) -> bool {
        let (subgroup, s) = (self.plan.subgroup, self.plan.s);
        match outcome {
            Ok(ordinal) => {
                world.note("sends", [subgroup as u64, s as u64, ordinal, len.into()]);
                world.stir();
                world.tallies.one(Row::Messages);
                world.check(world.oracle.borrow_mut().published(subgroup, s, ordinal, len));
                world.wake(self.plan.rank.index(), true);
                true
            }
            Err(Status::Again) => {
                let shape = &world.plan.subgroups[subgroup].shape;
                let full = self.producer.unreleased() >= u64::from(shape.window);
                world.tallies.one(if full { Row::WindowFull } else { Row::RingFull });
                let rank = self.plan.rank.index();
                if self.plan.habit.waits {
                    self.waiting = Some(world.turns[rank].get());
                }
                if !crate::mutant!("refusal-rings-nobody") {
                    world.wake(rank, true);
                }
                self.patient_until = world.now.get() + world.dice.below(self.plan.habit.patience);
                false
            }
            Err(_) if world.plan.evil.is_some() => false,
            Err(Status::PeerLeft | Status::PeerLost) if world.gone.get().is_some() => {
                self.waiting = None;
                false
            }
            Err(status) => panic!("a send was refused: {status:?}"),
        }
    }
}

impl World {
    /// One action of an application thread, if it may act now.
    pub fn step_lane(&self, at: usize) {
        let Ok(mut lane) = self.lanes[at].try_borrow_mut() else { return };
        let gone = self.gone.get() == Some(lane.plan.rank);
        if gone || self.evil.get() && self.plan.evil == Some(lane.plan.rank) {
            return;
        }
        let (rank, habit) = (lane.plan.rank.index(), lane.plan.habit);
        // A thread that also polls: it sends between two turns, and not while it sleeps in one.
        let _turn = if habit.same_thread {
            let Ok(node) = self.nodes[rank].try_borrow_mut() else { return };
            if node.turn.phase != Phase::Poll || !self.is_awake(rank) {
                return;
            }
            Some(node)
        } else {
            None
        };
        if self.hush.get() || lane.patient_until > self.now.get() || !lane.may_try(self) {
            return;
        }
        if lane.burst == 0 {
            if !self.dice.chance(habit.zeal) {
                return;
            }
            lane.burst = self.dice.range(1, habit.burst_max);
        }
        for _ in 0..self.dice.range(1, 4).min(lane.burst) {
            if !lane.act(self) {
                return;
            }
            lane.burst -= 1;
        }
    }

    /// A callback of the lane's member sends.
    pub fn send_from_callback(&self, at: usize) {
        let Ok(mut lane) = self.lanes[at].try_borrow_mut() else { return };
        if lane.plan.habit.weight > 0 && lane.act(self) {
            self.tallies.one(Row::CallbackSends);
        }
    }

    /// All is delivered: a lane that holds nothing can send the largest message.
    pub fn has_room(&self, at: usize) -> Result<(), Broken> {
        let lane = &mut *self.lanes[at].borrow_mut();
        let LanePlan { subgroup, s, .. } = lane.plan;
        if lane.held.is_some() {
            return Ok(());
        }
        if lane.waiting.is_some() {
            let detail = format!("subgroup {subgroup} sender {s} waits to be told of room");
            return Err((ROOM, detail));
        }
        let outcome = lane.producer.reserve(lane.message_bytes_max).map(|_| ());
        if let Err(status) = outcome.and_then(|()| lane.producer.abort()) {
            let unreleased = lane.producer.unreleased();
            let detail =
                format!("subgroup {subgroup} sender {s}: {status:?} with {unreleased} unreleased");
            return Err((ROOM, detail));
        }
        Ok(())
    }

    /// At the end: what is reserved is published or given up, unless it never will be.
    pub fn resolve(&self, at: usize) {
        let mut lane = self.lanes[at].borrow_mut();
        lane.burst = 0;
        if self.gone.get() == Some(lane.plan.rank) {
            return;
        }
        if let Some(held) = lane.held.filter(|held| held.fate != Fate::Abandon) {
            lane.release(held, self);
        } else if lane.waiting.is_some() && lane.may_try(self) {
            lane.act(self);
        }
    }
}
