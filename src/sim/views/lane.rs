// SPDX-License-Identifier: MIT OR Apache-2.0
//! An application thread, over all views, and the turn thread's end of its lane: a call may be under
//! way while a view ends and the next begins (`sst/lane.rs`).

use super::oracle::ACCOUNT;
use super::world::World;
use crate::error::Status;
use crate::sim::oracle::{Broken, FIFO, INTEGRITY};
use crate::sim::rows::Row;
use crate::sst::kept::Kept;
use crate::sst::lane::{self, Next};
use crate::sst::layout::Mode;
use crate::sst::producer::{Door, Producer};
use std::cell::RefCell;

/// Which lane of which process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name {
    pub process: usize,
    pub subgroup: usize,
    pub lane: u16,
}

impl Name {
    fn who(self) -> (usize, u16) {
        (self.process, self.lane)
    }
}

/// An application thread.
pub struct Lane {
    name: Name,
    end: lane::Lane,
    /// A reservation, of so many bytes.
    held: Option<u32>,
}

/// The turn thread's end.
pub struct Hand {
    pub(super) name: Name,
    pub(super) end: lane::Handover,
    /// Of the newest ring.
    door: Option<Door>,
    /// The view in which it sends, and how many of its messages came before that ring's first.
    epoch: u64,
    base: u64,
}

pub fn new(name: Name) -> (RefCell<Lane>, RefCell<Hand>) {
    let (lane, hand) = lane::lane();
    let lane = Lane { name, end: lane, held: None };
    (RefCell::new(lane), RefCell::new(Hand { name, end: hand, door: None, epoch: 0, base: 0 }))
}

impl Hand {
    /// The member has installed a view in which the lane sends.
    pub fn install(&mut self, epoch: u64, producer: Producer, kept: Option<Kept>, world: &World) {
        world.tallies.add(Row::WaitedFor, self.end.waits_with().unwrap_or(0));
        self.base += kept.as_ref().map_or(0, Kept::next);
        self.epoch = epoch;
        self.door = Some(producer.door());
        if world.is_leaving(self.name.process) {
            self.close_door(); // before anybody can send there
        }
        world.tallies.add(Row::Resent, kept.as_ref().map_or(0, Kept::len));
        let Name { subgroup, .. } = self.name;
        world.oracle.borrow_mut().begins(epoch, subgroup, self.name.who(), self.base);
        let next = Next::Sends(producer);
        self.end.install(kept, next, &mut |dropped| drops(self.name, dropped, world));
    }

    /// The member has installed a view in which the subgroup lacks members.
    pub fn waits(&mut self, kept: Option<Kept>, world: &World) {
        self.base += kept.as_ref().map_or(0, Kept::next);
        self.end.install(kept, Next::Waits, &mut |dropped| drops(self.name, dropped, world));
    }

    /// How many messages wait for members; `None`: the subgroup has enough.
    pub fn waits_with(&mut self) -> Option<u64> {
        self.end.waits_with()
    }

    /// Sends again what older views did not deliver, as far as there is room.
    pub fn pump(&mut self, world: &World) {
        if !self.end.is_settled() {
            let left = self.end.has_left();
            let moved = self.end.pump(&mut |dropped| drops(self.name, dropped, world));
            if moved {
                world.stir();
                world.tallies.add(Row::SentLate, (!left).into());
            }
        }
    }

    pub fn close_door(&self) {
        self.door.iter().for_each(Door::close);
    }

    pub fn has_left(&self) -> bool {
        self.end.has_left()
    }

    pub fn has_work(&mut self) -> bool {
        self.end.has_work()
    }

    /// Whether nothing in the ring lies where somebody may still read, of so many slots.
    pub fn fits(&self, slots: u64, world: &World) -> Result<(), Broken> {
        let Name { subgroup, .. } = self.name;
        world.oracle.borrow().fits(self.epoch, subgroup, self.name.who(), slots)
    }
}

fn drops(name: Name, dropped: lane::Dropped, world: &World) {
    world.fail((FIFO, format!("{name:?} drops {}: {}", dropped.ordinal, dropped.why)));
}

impl Lane {
    /// One action; whether it sent.
    pub fn act(&mut self, at: usize, world: &World) -> bool {
        let size = self.size(world);
        let late = world.is_leaving(self.name.process);
        let outcome = match self.held {
            Some(_) if !world.hush.get() && world.dice.chance(200) => return false,
            Some(_) if !world.hush.get() && world.dice.chance(24) => {
                self.held = None;
                world.tallies.one(Row::Aborts);
                assert_eq!(self.end.abort(), Ok(()), "what is reserved can be given up");
                return false;
            }
            Some(len) => self.end.publish(len).map(|ordinal| (ordinal, len)),
            None if world.hush.get() || world.has_sent_enough() => return false,
            None if world.dice.chance(world.plan.reserves) => {
                let bytes = self.end.reserve(size);
                if let Ok(bytes) = bytes {
                    world.oracle.borrow().next_pattern(self.name).fill(bytes);
                    self.held = Some(size);
                }
                return false;
            }
            None if world.dice.chance(world.plan.bursts) && !late => return self.burst(at, world),
            None => {
                let mut bytes = vec![0; size as usize];
                world.oracle.borrow().next_pattern(self.name).fill(&mut bytes);
                self.end.send(&bytes).map(|ordinal| (ordinal, size))
            }
        };
        match outcome {
            Ok((ordinal, _)) if late => {
                let detail = format!("{:?} sends {ordinal} though it leaves", self.name);
                world.fail((ACCOUNT, detail));
            }
            Ok((ordinal, len)) => {
                self.held = None;
                self.sent(ordinal, len, world);
                self.check_room(at, world);
                true
            }
            Err(status) => self.refused(status, world),
        }
    }

    /// Several messages in one call, between which the world moves.
    fn burst(&mut self, at: usize, world: &World) -> bool {
        let count = world.dice.range(2, 6) as usize;
        let sizes: Vec<u32> = (0..count).map(|_| self.size(world)).collect();
        let name = self.name;
        let first = world.oracle.borrow().count(name.subgroup, name.who());
        let texts: Vec<Vec<u8>> = (first..)
            .zip(&sizes)
            .map(|(ordinal, size)| {
                let mut bytes = vec![0; *size as usize];
                let oracle = world.oracle.borrow();
                oracle.pattern(name.subgroup, name.who(), ordinal).fill(&mut bytes);
                bytes
            })
            .collect();
        let mut begun = 0;
        let epoch = world.epochs[name.process].get();
        let messages = std::iter::from_fn(|| {
            // Whoever asks for the next one has taken the one before.
            if begun > 0 {
                sent(name, first + begun as u64 - 1, sizes[begun - 1], world);
            }
            // Now and then its thread loses the core in the middle of the call.
            let most = if world.dice.chance(24) { 2_000 } else { 8 };
            (0..world.dice.below(most)).for_each(|_| world.act_in_call());
            let text = texts.get(begun).map(Vec::as_slice);
            begun += 1;
            text
        });
        let (taken, outcome) = self.end.send_many(messages);
        let late = world.is_leaving(name.process);
        if outcome.is_err_and(|status| status != Status::Again) {
            let mut oracle = world.oracle.borrow_mut();
            let back = oracle.take_back(name.subgroup, name.who(), first + taken);
            world.tallies.add(Row::TakenBack, back);
        }
        world.tallies.add(Row::SentLeaving, if late { taken } else { 0 });
        let known = world.oracle.borrow().count(name.subgroup, name.who()) - first;
        if taken != known || (!world.is_gone(name.process) && self.end.ordinal() != first + taken) {
            let ordinal = self.end.ordinal();
            let detail = format!("{name:?} took {taken} of which {known} are known, to {ordinal}");
            world.fail((INTEGRITY, detail));
        }
        let over = world.epochs[name.process].get() > epoch;
        world.tallies.add(Row::CallOverView, over.into());
        world.wake(name.process, true);
        match outcome {
            Ok(()) => {
                self.check_room(at, world);
                true
            }
            Err(status) => self.refused(status, world),
        }
    }

    fn sent(&self, ordinal: u64, len: u32, world: &World) {
        sent(self.name, ordinal, len, world);
        world.wake(self.name.process, true);
    }

    /// 10, if it is known to send in the newest ring.
    fn check_room(&self, at: usize, world: &World) {
        if let Ok(hand) = world.hands[at].try_borrow()
            && hand.end.is_settled()
            && !world.is_gone(self.name.process)
        {
            world.check(hand.fits(self.end.ordinal() - hand.base, world));
        }
    }

    fn refused(&mut self, status: Status, world: &World) -> bool {
        match status {
            Status::Again => world.wake(self.name.process, true),
            Status::Left if world.is_leaving(self.name.process) => {
                world.tallies.one(Row::RefusedLeaving);
                if self.held.take().is_some() {
                    assert_eq!(self.end.abort(), Ok(()), "it stayed reserved");
                }
            }
            Status::Inadequate => world.tallies.one(Row::RefusedWaiting),
            Status::NotSender if world.epochs[self.name.process].get() == 0 => {}
            _ if world.is_gone(self.name.process) => {}
            status => panic!("a send was refused: {status:?}"),
        }
        false
    }

    fn size(&self, world: &World) -> u32 {
        let shape = &world.plan.templates[self.name.subgroup].shape;
        let most = u64::from(shape.message_bytes_max);
        // Long enough to tell the messages of one lane apart, where some may be missing.
        let least = if shape.mode == Mode::Received { 16 } else { 0 };
        match world.dice.below(8) {
            0 => least as u32,
            1 => most as u32,
            _ => world.dice.range(least, most) as u32,
        }
    }
}

fn sent(name: Name, ordinal: u64, len: u32, world: &World) {
    let Name { process, subgroup, .. } = name;
    world.stir();
    world.tallies.one(Row::Messages);
    world.note("sends", [process as u64, world.epochs[process].get(), ordinal, len.into()]);
    world.check(world.oracle.borrow_mut().sent(subgroup, name.who(), ordinal, len));
}
