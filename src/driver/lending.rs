// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fabric while a callback has the polling thread: lent to whoever says that this process is alive.
//!
//! Over shared memory peers see a beat as soon as it is written. Over other fabrics somebody must send
//! it, and the thread that does is in the callback; so for that time the fabric lies where `keep_alive`
//! finds it, behind a lock.
//!
//! B1  It is lent over a fabric that `polls` only: nobody else pays for this.
//! B2  It is back before the engine or a turn goes on, also if the callback panics.
//! B3  A child that was forked meanwhile takes it if it can: it has no turn any more.
//!
//! Cost: per turn that delivers, and per look, two locks that are free, unless somebody beats just then.

use super::Driver;
use crate::base::{Events, Peer, Post, Posting};
use crate::fabric::Fabric;
use crate::fabric::shm::fork::forks;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// Where the fabric is meanwhile.
#[derive(Default)]
pub struct Lent(Mutex<Option<Box<dyn Fabric>>>);

impl Lent {
    fn lock(&self) -> MutexGuard<'_, Option<Box<dyn Fabric>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends my beat, if a callback runs. A system call per peer at the most.
    pub fn beat(&self) {
        if let Some(fabric) = &mut *self.lock() {
            fabric.beat();
        }
    }

    /// Runs a callback; `fabric` is in its place again when this returns.
    fn during<T>(&self, of: &mut Driver, callback: impl FnOnce(&mut Driver) -> T) -> T {
        let before = forks();
        let lent = self.lock().replace(std::mem::replace(&mut of.fabric, Box::new(Absent)));
        assert!(lent.is_none(), "no callback runs in another one");
        let outcome = catch_unwind(AssertUnwindSafe(|| callback(of)));
        let back = match forks() == before {
            true => self.lock().take(),
            // A thread that is not in this process may hold the lock (B3).
            false => match self.0.try_lock() {
                Ok(mut place) => place.take(),
                Err(TryLockError::Poisoned(place)) => place.into_inner().take(),
                Err(TryLockError::WouldBlock) => None,
            },
        };
        if let Some(fabric) = back {
            of.fabric = fabric;
        }
        outcome.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl Driver {
    /// Runs a callback that may take long.
    #[inline]
    pub(super) fn lending<T>(&mut self, callback: impl FnOnce(&mut Driver) -> T) -> T {
        match self.wishes.as_ref().filter(|_| self.polls) {
            None => callback(self),
            Some(wishes) => wishes.clone().lent.during(self, callback),
        }
    }
}

/// What is in the fabric's place.
struct Absent;

impl Fabric for Absent {
    fn posting(&self) -> Posting {
        Posting::Nothing
    }
    fn post(&mut self, _: &[Post]) {}
    fn poll(&mut self, _: bool, _: &mut Events) {}
    fn revoke(&mut self, _: Peer) {}
    fn fd(&self) -> BorrowedFd<'_> {
        panic!("a callback has this group, or it is a child's of the process that opened it")
    }
    fn arm(&mut self, _: bool) {}
    fn sleep(&mut self, _: Option<u64>, _: &mut Events) {}
    fn disarm(&mut self) {}
    fn farewell(&mut self) {}
    fn parks(&self) -> bool {
        false
    }
}
