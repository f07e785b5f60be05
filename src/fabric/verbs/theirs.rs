// SPDX-License-Identifier: MIT OR Apache-2.0
//! A peer's memory as it lies here, open to the peer's writes: registered when it is shown, so that its
//! keys are there as soon as the peer enters, and until the peer says that it writes there no more.
//!
//! T1  Memory that cannot be registered is a shortage of mine (N3): whoever is shown it hears of it, and
//!     what a peer needs that has entered is tried again.
//! T2  A key opens the memory of one epoch, to one peer, once: none is used again.
//! T3  What is dropped here is closed: nothing lands there any more (F4).

use super::carrier::Keys;
use super::device::Device;
use super::memory::{Memory as Registered, Remote};
use crate::base::Epoch;
use crate::error::Error;
use crate::fabric::Memory;
use crate::mem::Region;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Epochs that a peer has entered and not said to be over: it is one view ahead of me at the most.
const OPEN_MAX: usize = 8;
/// Between two tries to register what a peer waits for.
const AGAIN: Duration = Duration::from_millis(20);

/// One region, open.
struct Open {
    region: Arc<Region>,
    memory: Registered,
}

impl Open {
    fn new(device: &Arc<Device>, region: &Arc<Region>) -> Result<Open, Error> {
        let memory = Registered::target(device, region.clone())?;
        Ok(Open { region: region.clone(), memory })
    }

    /// As many bytes of it as its owner may write.
    fn remote(&self) -> Remote {
        self.memory.remote()
    }
}

#[derive(Default)]
pub struct Theirs {
    /// Shown, and not entered.
    shown: Vec<Open>,
    /// By epoch, the oldest first.
    entered: VecDeque<(Epoch, Vec<Open>)>,
    /// Entered, and not open: what comes first is answered first.
    owed: VecDeque<(Epoch, Memory)>,
    again: Option<Instant>,
}

impl Theirs {
    /// Opens what a peer has shown. Some system calls, and pinning its pages.
    pub fn show(&mut self, device: &Arc<Device>, memory: &Memory) -> Result<(), Error> {
        for region in regions(memory) {
            let same = |open: &&Open| Arc::ptr_eq(&open.region, region);
            let entered = self.entered.iter().flat_map(|(_, all)| all);
            if self.shown.iter().chain(entered).find(same).is_none() {
                self.shown.push(Open::new(device, region)?);
            }
        }
        Ok(())
    }

    /// The peer has entered an epoch. `false`: it has left too many open.
    pub fn enter(&mut self, epoch: Epoch, memory: Memory) -> bool {
        self.owed.push_back((epoch, memory));
        self.owed.len() + self.entered.len() <= OPEN_MAX
    }

    /// Keys that the peer waits for, one epoch at a time. An error: for what this process lacks; said
    /// once.
    pub fn answer(&mut self, device: &Arc<Device>) -> Result<Option<(Epoch, Keys)>, Error> {
        if self.owed.is_empty() || self.again.is_some_and(|at| Instant::now() < at) {
            return Ok(None);
        }
        let (epoch, memory) = self.owed.front().cloned().expect("there is one");
        let known = self.again.is_some();
        match self.show(device, &memory) {
            Ok(()) => self.again = None,
            Err(short) => {
                self.again = Some(Instant::now() + AGAIN);
                return if known { Ok(None) } else { Err(short) };
            }
        }
        self.owed.pop_front();
        let mut take = |region: &Arc<Region>| {
            let at = self.shown.iter().position(|open| Arc::ptr_eq(&open.region, region));
            self.shown.swap_remove(at.expect("it was opened"))
        };
        let mut all = vec![take(&memory.block)];
        let block = all[0].remote();
        let rings = memory.rings.iter().map(|ring| {
            let open = take(ring.as_ref()?);
            let remote = open.remote();
            all.push(open);
            Some(remote)
        });
        let keys = Keys { block, rings: rings.collect() };
        self.entered.push_back((epoch, all));
        Ok(Some((epoch, keys)))
    }

    /// The peer writes there no more. `false`: it never could, or it is where it is now.
    pub fn close(&mut self, epoch: Epoch) -> bool {
        let at = self.entered.iter().position(|(open, _)| *open == epoch);
        let Some(at) = at.filter(|at| at + 1 < self.entered.len()) else { return false };
        self.entered.remove(at);
        true
    }

    /// Whether it waits for memory of mine.
    pub fn owes(&self) -> bool {
        !self.owed.is_empty()
    }
}

fn regions(memory: &Memory) -> impl Iterator<Item = &Arc<Region>> {
    std::iter::once(&memory.block).chain(memory.rings.iter().flatten())
}
