// SPDX-License-Identifier: MIT OR Apache-2.0
//! An application thread, over all views: it sends, and what a view did not deliver it sends again.

use super::world::World;
use crate::error::Status;
use crate::sim::oracle::Broken;
use crate::sim::rows::Row;
use crate::sst::kept::Kept;
use crate::sst::layout::Mode;
use crate::sst::producer::Producer;

/// An application thread, over all views.
pub struct Lane {
    pub process: usize,
    pub subgroup: usize,
    pub lane: u16,
    /// Of the view in which it sends.
    epoch: u64,
    /// Its end of the ring of this view, and how many of its messages came before that ring's first.
    pub ring: Option<(Producer, u64)>,
    /// What it has sent in the view before and must send again.
    pub kept: Option<Kept>,
    /// A reservation, of so many bytes, in this ring or in that of a view that is over.
    pub held: Option<(u32, bool)>,
}

impl Lane {
    pub fn new(process: usize, subgroup: usize, lane: u16) -> Lane {
        Lane { process, subgroup, lane, epoch: 0, ring: None, kept: None, held: None }
    }

    /// Its member has installed a view in which it sends.
    pub fn renew(&mut self, epoch: u64, producer: Producer, kept: Option<Kept>, world: &World) {
        let before = self.ring.as_ref().map_or(0, |(_, base)| *base);
        let base = before + kept.as_ref().map_or(0, Kept::next);
        world.tallies.add(Row::Resent, kept.as_ref().map_or(0, Kept::len));
        self.epoch = epoch;
        let lane = (self.process, self.lane);
        world.oracle.borrow_mut().begins(epoch, self.subgroup, lane, base);
        self.ring = Some((producer, base));
        self.kept = kept;
        if let Some((_, over)) = &mut self.held {
            *over = true;
        }
        self.resend(world);
    }

    /// Sends again what the old view did not deliver, as far as there is room.
    pub fn resend(&mut self, world: &World) {
        let (Some(kept), Some((producer, _))) = (&mut self.kept, &mut self.ring) else { return };
        let before = producer.ordinal();
        if matches!(kept.send(producer), Ok(())) {
            self.kept = None;
        }
        if producer.ordinal() > before {
            world.check(self.fits(world));
        }
    }

    /// Whether nothing in the ring lies where somebody may still read.
    fn fits(&self, world: &World) -> Result<(), Broken> {
        let Some((producer, _)) = &self.ring else { return Ok(()) };
        let lane = (self.process, self.lane);
        world.oracle.borrow().fits(self.epoch, self.subgroup, lane, producer.ordinal())
    }

    /// What of its messages may still be read, for the counters: first slot, and the one after.
    pub fn unreleased(&self) -> Option<(u64, u64)> {
        let (producer, _) = self.ring.as_ref()?;
        let end = producer.ordinal();
        Some((end - producer.unreleased(), end))
    }

    /// One action; whether it sent.
    pub fn act(&mut self, world: &World) -> bool {
        self.resend(world);
        let size = self.size(world);
        let Some((producer, base)) = &mut self.ring else { return false };
        let who = (self.process, self.lane);
        let ordinal = world.oracle.borrow().count(self.subgroup, who);
        let pattern = world.oracle.borrow().pattern(self.subgroup, who, ordinal);
        let (len, outcome) = match self.held {
            Some((len, false)) => {
                if !world.hush.get() && world.dice.chance(200) {
                    return false;
                }
                self.held = None;
                (len, producer.publish(len))
            }
            // Before what was sent earlier, nothing new.
            _ if self.kept.is_some() => return false,
            None if world.hush.get() || world.has_sent_enough() => return false,
            None if world.dice.chance(world.plan.reserves) => {
                if let Ok(slot) = producer.reserve(size) {
                    pattern.fill(slot);
                    self.held = Some((size, false));
                }
                return false;
            }
            held => {
                let len = held.map_or(size, |(len, _)| len);
                let mut bytes = vec![0; len as usize];
                pattern.fill(&mut bytes);
                (len, producer.send(&bytes))
            }
        };
        match outcome {
            Ok(slot) => {
                self.held = None;
                world.stir();
                world.tallies.one(Row::Messages);
                let ordinal = *base + slot;
                world.note("sends", [self.process as u64, self.epoch, ordinal, len.into()]);
                world.check(world.oracle.borrow_mut().sent(self.subgroup, who, ordinal, len));
                world.check(self.fits(world));
                world.wake(self.process, true);
                true
            }
            Err(Status::Again) => {
                world.wake(self.process, true);
                false
            }
            Err(_) if world.is_gone(self.process) => false,
            Err(status) => panic!("a send was refused: {status:?}"),
        }
    }

    fn size(&self, world: &World) -> u32 {
        let shape = &world.plan.templates[self.subgroup].shape;
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
