// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages of a lane that the view they were sent in did not deliver, to be sent again in the next.
//!
//! The old ring is read only: its producer is stopped, and nobody looks at what is beyond the cut.
//! A call of the application's that passed the stop before it was there may still count a slot; who
//! has to hear of it looks again.

use super::producer::Producer;
use super::ring::{Fences, LaneCells, Ring};
use crate::error::Status;
use std::sync::Arc;

pub struct Kept {
    ring: Ring,
    cells: Arc<LaneCells>,
    fences: Fences,
    next: u64,
    upto: u64,
}

impl Kept {
    /// The slots `from..upto` of a ring of mine, and those that are published later.
    pub(super) fn new(
        ring: Ring,
        cells: Arc<LaneCells>,
        fences: Fences,
        from: u64,
        upto: u64,
    ) -> Kept {
        assert!(from <= upto);
        Kept { ring, cells, fences, next: from, upto }
    }

    /// The first slot that is still to be sent; that is how many of the lane's messages the old view
    /// and this one have.
    pub fn next(&self) -> u64 {
        self.next
    }

    pub fn is_empty(&self) -> bool {
        self.next == self.upto
    }

    pub fn len(&self) -> u64 {
        self.upto - self.next
    }

    /// Looks for slots that have been published since; whether any is to be sent. `// W`
    pub fn look(&mut self) -> bool {
        self.upto = self.cells.published(&mut self.fences);
        !self.is_empty()
    }

    /// From now on a call of the application's in that ring answers `status`.
    pub fn stop(&self, status: Status) {
        self.cells.stop(status);
    }

    /// As `LaneCells::settle`.
    pub fn settle(&mut self) {
        self.cells.settle(&mut self.fences);
    }

    /// The next message to be sent. One whose place is in use anew is empty: all have said that they
    /// released it, so whoever says at the view's end that it lacks it lies, and gets that instead.
    pub fn first(&self) -> Option<&[u8]> {
        if self.is_empty() {
            return None;
        }
        let (at, len) = self.ring.place(self.next);
        Some(self.ring.payload(at, len).unwrap_or_default())
    }

    /// The first one is done with.
    pub fn pass(&mut self) {
        assert!(!self.is_empty());
        self.next += 1;
    }

    /// All is done with that is known.
    pub fn forget(&mut self) {
        self.look();
        self.next = self.upto;
    }

    /// Sends as many as there is room for, in order. `Again`: some are left.
    pub fn send(&mut self, producer: &mut Producer) -> Result<(), Status> {
        while let Some(bytes) = self.first() {
            producer.send(bytes)?;
            self.pass();
        }
        Ok(())
    }
}
