// SPDX-License-Identifier: MIT OR Apache-2.0
//! What any thread may ask of a group, also from inside a callback: to leave, to go on without a
//! member, to count as alive during a long callback.
//!
//! Wishes are noted here and the turn thread finds them at its next look at the clock. A wish to
//! leave takes effect at once as far as senders go: the doors of all lanes are noted here, too.

use super::clock;
use super::lending::Lent;
use crate::fabric::shm::OwnBell;
use crate::mem::{Cell, Region};
use crate::sst::producer::{Door, Producer};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is wished for, by whatever thread.
#[derive(Default)]
struct Noted {
    leave: bool,
    /// Incarnations.
    suspects: Vec<u64>,
    /// Where I beat: my control block, and the byte; in the middle of a change two of them.
    pulse: [Option<(Arc<Region>, usize)>; 2],
    /// Of the lanes of the newest view: what is sent elsewhere is refused already.
    doors: Vec<Door>,
}

impl Noted {
    fn close_doors(&self) {
        if self.leave {
            self.doors.iter().for_each(Door::close);
        }
    }
}

pub struct Wishes {
    /// Something is noted.
    any: Cell,
    noted: Mutex<Noted>,
    pub(super) lent: Lent,
}

impl Wishes {
    pub fn new() -> Arc<Wishes> {
        Arc::new(Wishes { any: Cell::new(0), noted: Mutex::default(), lent: Lent::default() })
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

    /// The lanes of a view that follows, before anybody can send in them. Who has asked to leave
    /// will not.
    pub fn guard(&self, producers: &[(u16, u16, Producer)]) {
        let mut noted = self.lock();
        noted.doors = producers.iter().map(|(_, _, producer)| producer.door()).collect();
        noted.close_doors();
    }

    /// This process is alive.
    pub fn pulse(&self) {
        for (block, at) in self.lock().pulse.iter().flatten() {
            block.cell(*at).raise(clock().0);
        }
        self.lent.beat();
    }

    /// From now on this is where I beat.
    pub fn beat_in(&self, block: &Arc<Region>, at: usize) {
        self.lock().pulse = [Some((block.clone(), at)), None];
    }

    /// There, too, until the next call of `beat_in`.
    pub fn beat_in_too(&self, block: &Arc<Region>, at: usize) {
        self.lock().pulse[1] = Some((block.clone(), at));
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

    /// Leaves in good order. From now on every send of this member answers `Left` (`Again` while a
    /// view changes), in whatever thread; one that is under way may still be accepted. What has been
    /// accepted is delivered first, by all, this member included, for as long as that takes; then the
    /// others go on without it, and turns answer `Left`. If this member's part ends before, turns
    /// say why, and `dropped` gets what it has not delivered. To ask again changes nothing.
    pub fn leave(&self) {
        let mut noted = self.wishes.lock();
        noted.leave = true;
        noted.close_doors();
        drop(noted);
        self.tell();
    }

    /// The application believes that the process of this incarnation has failed: the group goes on
    /// without it. Whoever is no member is ignored.
    pub fn report(&self, incarnation: u64) {
        self.wishes.lock().suspects.push(incarnation);
        self.tell();
    }

    /// This process is alive, though its callback takes long: to be called from inside it, at least
    /// twice in the time to suspicion. Costs a lock that is held for as long as such a call takes, by
    /// another thread that calls this or by the polling one between two views; a look at the clock,
    /// and one atomic instruction. With members on other hosts, while a callback runs: a system call
    /// for each of them; outside of callbacks those hear of it at the next turn.
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
