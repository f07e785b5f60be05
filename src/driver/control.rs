// SPDX-License-Identifier: MIT OR Apache-2.0
//! What any thread may ask of a group, also from inside a callback: to leave, to go on without a
//! member, to count as alive during a long callback.
//!
//! Wishes are noted here and the turn thread finds them at its next look at the clock.

use super::clock;
use crate::fabric::shm::OwnBell;
use crate::mem::{Cell, Region};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is wished for, by whatever thread.
#[derive(Default)]
struct Noted {
    leave: bool,
    /// Incarnations.
    suspects: Vec<u64>,
    /// Where I beat: my control block, and the byte.
    pulse: Option<(Arc<Region>, usize)>,
}

pub struct Wishes {
    /// Something is noted.
    any: Cell,
    noted: Mutex<Noted>,
}

impl Wishes {
    pub fn new() -> Arc<Wishes> {
        Arc::new(Wishes { any: Cell::new(0), noted: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is anything to `take`: one load.
    pub fn are_there(&self) -> bool {
        self.any.observe() != 0
    }

    /// Whether to leave, and whom to suspect.
    pub fn take(&self) -> (bool, Vec<u64>) {
        let mut noted = self.lock();
        self.any.publish(0);
        (noted.leave, std::mem::take(&mut noted.suspects))
    }

    /// This process is alive.
    pub fn pulse(&self) {
        if let Some((block, at)) = &self.lock().pulse {
            let cell = block.cell(*at);
            cell.publish(clock().0.max(cell.own() + 1));
        }
    }

    /// From now on I beat where that one does.
    pub fn beat_as(&self, other: &Wishes) {
        let pulse = other.lock().pulse.clone();
        self.lock().pulse = pulse;
    }

    /// From now on this is where I beat.
    pub fn beat_in(&self, block: &Arc<Region>, at: usize) {
        self.lock().pulse = Some((block.clone(), at));
    }
}

/// For any thread of this process, and for callbacks.
#[derive(Clone)]
pub struct Control {
    wishes: Arc<Wishes>,
    bell: Option<OwnBell>,
}

impl Control {
    pub(super) fn new(wishes: Arc<Wishes>, bell: Option<OwnBell>) -> Control {
        Control { wishes, bell }
    }

    /// Leaves in good order: what this member has sent is delivered first, by all. Then turns answer
    /// `Left`. At once the same as asking again.
    pub fn leave(&self) {
        self.wishes.lock().leave = true;
        self.tell();
    }

    /// The application believes that the process of this incarnation has failed: the group goes on
    /// without it. Whoever is no member is ignored.
    pub fn report(&self, incarnation: u64) {
        self.wishes.lock().suspects.push(incarnation);
        self.tell();
    }

    /// This process is alive, though its callback takes long: to be called from inside it, at least
    /// twice in the time to suspicion. Costs a look at the clock and a store.
    pub fn keep_alive(&self) {
        self.wishes.pulse();
    }

    fn tell(&self) {
        self.wishes.any.publish(1);
        if let Some(bell) = &self.bell {
            bell.ring_always();
        }
    }
}
