// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages of a lane that the view they were sent in did not deliver, to be sent again in the next.
//!
//! The old ring lies still: its producer is stopped, and nobody looks at what is beyond the cut.

use super::producer::Producer;
use super::ring::Ring;
use crate::error::Status;

pub struct Kept {
    ring: Ring,
    next: u64,
    upto: u64,
}

impl Kept {
    /// The slots `from..upto` of a ring of mine.
    pub fn new(ring: Ring, from: u64, upto: u64) -> Kept {
        assert!(from <= upto);
        Kept { ring, next: from, upto }
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

    /// Sends as many as there is room for, in order. `Again`: some are left.
    pub fn send(&mut self, producer: &mut Producer) -> Result<(), Status> {
        while self.next < self.upto {
            let (at, len) = self.ring.place(self.next);
            producer.send(self.ring.payload(at, len).expect("a slot of mine"))?;
            self.next += 1;
        }
        Ok(())
    }
}
