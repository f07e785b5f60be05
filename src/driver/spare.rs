// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of the view that is over, and of the one to come: unmapped, and mapped, when nothing else is
//! to be done.
//!
//! Either takes a quarter of a millisecond per MiB, and nobody delivers meanwhile. So whoever enters a
//! view only lays the old memory aside, and has the new one of most members mapped already.
//!
//! A1  What is mapped early is what its owner has shown for that epoch; nothing in it is read before
//!     the view begins.
//! A2  A step takes one region at a time.
//! A3  Whoever lacks memory for a view lets go of all that is over first: only then it is short.

use crate::base::{Epoch, Peer};
use crate::error::Error;
use crate::fabric::{Memory, Sizes};
use crate::mem::Region;
use std::sync::Arc;

#[derive(Default)]
pub struct Spare {
    /// All of the view at hand.
    held: Vec<Arc<Region>>,
    /// Of views that are over.
    over: Vec<Arc<Region>>,
    /// Of the next one; `None`: it cannot be mapped, and will be asked for when it is needed.
    early: Vec<(Peer, Epoch, Option<Memory>)>,
}

impl Spare {
    /// A view begins, with these memories: what was held for the one before is over.
    pub fn begin(&mut self, memories: &[Memory]) {
        let unused = self.early.drain(..).filter_map(|(_, _, memory)| memory);
        self.over.extend(unused.flat_map(|memory| regions(&memory)));
        self.over.append(&mut self.held);
        self.held.extend(memories.iter().flat_map(regions));
    }

    /// Lets go of one region; false: there is none.
    pub fn release(&mut self) -> bool {
        self.over.pop().is_some()
    }

    /// Asks for memory; where there is too little, lets go of all that is over and asks again (A3).
    pub fn make_room<T>(&mut self, mut ask: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
        match ask() {
            Err(_) if !self.over.is_empty() => {
                self.over.clear();
                ask()
            }
            outcome => outcome,
        }
    }

    pub fn has(&self, peer: Peer, epoch: Epoch) -> bool {
        self.early.iter().any(|early| (early.0, early.1) == (peer, epoch))
    }

    pub fn keep(&mut self, peer: Peer, epoch: Epoch, memory: Option<Memory>) {
        self.early.push((peer, epoch, memory));
    }

    /// What that peer has shown for that epoch, if it was mapped and nothing is missing.
    pub fn take(&mut self, peer: Peer, epoch: Epoch, sizes: &Sizes) -> Option<Memory> {
        let at = self.early.iter().position(|early| (early.0, early.1) == (peer, epoch))?;
        let rings = &self.early[at].2.as_ref()?.rings;
        let whole =
            rings.iter().zip(&sizes.rings).all(|(ring, size)| ring.is_some() || size.is_none());
        if whole { self.early.swap_remove(at).2 } else { None }
    }
}

fn regions(memory: &Memory) -> Vec<Arc<Region>> {
    memory.rings.iter().flatten().chain([&memory.block]).cloned().collect()
}

#[cfg(all(test, not(loom)))]
mod tests;
