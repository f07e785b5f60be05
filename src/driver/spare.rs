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
    pub fn make_room<T>(
        &mut self,
        mut ask: impl FnMut() -> Result<T, Error>,
    ) -> Result<T, Error> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(rings: usize) -> Memory {
        let region = || Arc::new(Region::heap(64));
        let ring = |at| (at < rings).then(region);
        Memory { block: region(), rings: (0..2).map(ring).collect() }
    }

    fn sizes(rings: usize) -> Sizes {
        Sizes { block: 64, rings: (0..2).map(|at| (at < rings).then_some(64)).collect() }
    }

    #[test]
    fn memory_goes_region_by_region_and_not_before_its_view_is_over() {
        let mut spare = Spare::default();
        let first = memory(1);
        spare.begin(std::slice::from_ref(&first));
        assert!(!spare.release());
        spare.begin(&[memory(1)]);
        assert!(spare.release() && spare.release() && !spare.release());
        assert_eq!(Arc::strong_count(&first.block), 1);
    }

    #[test]
    fn what_was_mapped_early_is_taken_if_nothing_is_missing() {
        let (mut spare, one, two) = (Spare::default(), Peer(1), Peer(2));
        spare.keep(one, Epoch(7), Some(memory(1)));
        spare.keep(two, Epoch(7), None);
        assert!(spare.has(one, Epoch(7)) && !spare.has(one, Epoch(8)) && spare.has(two, Epoch(7)));
        assert!(spare.take(one, Epoch(8), &sizes(1)).is_none());
        assert!(spare.take(one, Epoch(7), &sizes(2)).is_none(), "it is to send in the second, too");
        assert!(spare.take(two, Epoch(7), &sizes(0)).is_none());
        assert!(spare.take(one, Epoch(7), &sizes(1)).is_some());
        assert!(spare.take(one, Epoch(7), &sizes(1)).is_none(), "once");
        spare.keep(two, Epoch(7), Some(memory(2)));
        spare.begin(&[]);
        assert!(spare.take(two, Epoch(7), &sizes(2)).is_none(), "its view has begun without it");
        assert!(spare.release());
    }
}
