// SPDX-License-Identifier: MIT OR Apache-2.0
//! A member that leaves while its application goes on sending, and one whose part is over: what the
//! driver does with its lanes (`driver/lane.rs`, `driver/watch.rs`).

use super::lane::{Hand, Name};
use super::node::Node;
use super::oracle::{GRUDGE, OPINION};
use super::world::{Life, World};
use crate::base::{Members, Rank};
use crate::error::{Fault, Status};
use crate::group::Engine;
use crate::group::membership::Stop;
use crate::sim::oracle::Broken;
use crate::sim::rows::Row;
use crate::sst::ring::Taker;

/// How far a process is on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leaving {
    No,
    /// Its application has asked for it: the doors are closed.
    Asked,
    /// Its turn thread has heard of it: the lanes are settled.
    Settled,
    /// It is out.
    Left,
}

impl World {
    /// Some thread of a process asks to leave.
    pub fn leave(&self, who: usize) {
        if self.leaving[who].get() == Leaving::No {
            self.leaving[who].set(Leaving::Asked);
            self.hands_of(who).for_each(|hand| hand.borrow().close_door());
        }
        self.wake(who, true);
    }

    pub fn is_leaving(&self, who: usize) -> bool {
        self.leaving[who].get() != Leaving::No
    }

    /// Leaves it again, if it is one that wants to: something that is not told to it may have moved.
    pub fn remind(&self, who: usize) {
        if self.is_leaving(who) && matches!(&*self.lives[who].borrow(), Life::Up(_)) {
            self.wake(who, true);
        }
    }
}

impl World {
    fn has_left(&self, who: usize) -> bool {
        self.leaving[who].get() == Leaving::Left
    }
}

impl Node {
    /// Members of this view that have left, and all that they said before has come here.
    pub fn heard_leave(&self, world: &World) -> Members {
        let all = self.view.iter().zip((0..).map(Rank));
        let heard = |who: usize| {
            world.has_left(who)
                && world.has_landed(who, self.process)
                && !world.is_cut(who, self.process)
        };
        Members::from_ranks(all.filter(|(who, _)| heard(**who)).map(|(_, rank)| rank))
    }

    /// Who has left is nobody's suspect by its end: all have ended, and go without it. `left`: as
    /// `heard_leave` was before the poll.
    pub fn bears_no_grudge(&self, left: Members, world: &World) -> Result<(), Broken> {
        let expelled = world.oracle.borrow().suspected.contains(&self.process);
        for suspicion in self.engine.suspicions().iter().filter(|_| !expelled) {
            let ends = matches!(suspicion.fault, Fault::Lost { .. } | Fault::Left { .. });
            if ends && left.contains(suspicion.rank) {
                let detail = format!("{} suspects one that has left: {suspicion:?}", self.process);
                return Err((GRUDGE, detail));
            }
        }
        Ok(())
    }
}

impl Node {
    /// Who stops in a minority has not been told before, by one that it has lost, that it is expelled.
    pub fn says_why(&self, reason: Stop, world: &World) -> Result<(), Broken> {
        let Stop::Partitioned { suspects } = reason else { return Ok(()) };
        let eras = world.eras.borrow();
        let Some(era) = eras.get(&(self.epoch - 1)) else { return Ok(()) };
        let Some(me) = era.rank(self.process) else { return Ok(()) };
        for process in suspects.iter().map(|rank| self.view[rank.index()]) {
            let Some(rank) = era.rank(process) else { continue };
            let mirror = era.wires.mirror(rank.index(), me.index());
            if mirror.cell(era.layout.suspects.byte(0)).observe() >> me.0 & 1 == 1 {
                let detail = format!("{} was told so by {process}; {reason:?}", self.process);
                return Err((OPINION, detail));
            }
        }
        Ok(())
    }
}

fn taker<'a>(engine: &'a mut Engine, name: &Name) -> Option<&'a mut Taker> {
    let mut multicasts = engine.multicasts().iter();
    let at = multicasts.position(|multicast| multicast.subgroup == name.subgroup)?;
    Some(&mut engine.multicast_mut(at).lanes.get_mut(usize::from(name.lane))?.taker)
}

impl Node {
    /// Takes nothing new any more. (All threads are one here: no barrier.)
    fn shut(&mut self, status: Status, world: &World) {
        for hand in world.hands_of(self.process) {
            let Hand { name, end, .. } = &mut *hand.borrow_mut();
            end.close(taker(&mut self.engine, name).map(|taker| &*taker), status);
            end.settle(taker(&mut self.engine, name));
        }
    }

    /// What a turn does for a process that is to leave.
    pub fn leave(&mut self, world: &World) {
        match world.leaving[self.process].get() {
            Leaving::No => return,
            // Its turn thread looks for wishes now and then.
            Leaving::Asked if !world.hush.get() && !world.dice.chance(64) => return,
            Leaving::Asked => {
                self.shut(Status::Left, world);
                world.leaving[self.process].set(Leaving::Settled);
                world.stir();
            }
            Leaving::Settled | Leaving::Left => {}
        }
        let drained = world.hands_of(self.process).all(|hand| hand.borrow().end.is_drained());
        let mut multicasts = self.engine.multicasts().iter();
        let delivered = multicasts.all(|multicast| multicast.has_delivered_mine(&self.table));
        if drained && delivered && !self.has_asked_to_leave {
            world.tallies.one(Row::LeavesDelivered);
            world.note("asks to be left out", [self.process as u64, self.epoch, 0, 0]);
            self.has_asked_to_leave = true;
            self.engine.ask_to_leave();
        }
    }

    /// Its part is over: what its lanes have accepted and it has not delivered is given back.
    pub fn hand_back(&mut self, reason: Stop, world: &World) {
        let status = reason.status();
        if reason == Stop::Left {
            world.leaving[self.process].set(Leaving::Left);
        }
        self.shut(status, world);
        for hand in world.hands_of(self.process) {
            let Hand { name, end, .. } = &mut *hand.borrow_mut();
            let mut multicasts = self.engine.multicasts().iter();
            let at = multicasts.position(|multicast| {
                let here = usize::from(name.lane) < multicast.lanes.len();
                multicast.subgroup == name.subgroup && here
            });
            let undelivered = match at {
                Some(at) => {
                    let (kept, had) = self.engine.multicast_mut(at).undelivered(name.lane.into());
                    (Some(kept), had)
                }
                None => (None, self.engine.had_of_waiting(name.subgroup as u16, name.lane)),
            };
            end.end(undelivered, status, &mut |dropped| {
                world.tallies.one(Row::HandedBack);
                let lane = (name.process, name.lane);
                let mut oracle = world.oracle.borrow_mut();
                world.check(oracle.handed_back(
                    name.subgroup,
                    lane,
                    dropped.ordinal,
                    dropped.bytes,
                ));
            });
        }
        let lanes = world.names.iter().zip(&world.lanes);
        let mut its = lanes.filter(|(name, _)| name.process == self.process);
        let mut oracle = world.oracle.borrow_mut();
        if its.all(|(_, lane)| lane.try_borrow().is_ok()) {
            world.check(oracle.has_accounted(self.process, reason));
        } else {
            oracle.out.push((self.process, reason)); // a call is under way
        }
    }
}
