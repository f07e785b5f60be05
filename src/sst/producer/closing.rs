// SPDX-License-Identifier: MIT OR Apache-2.0
//! The last message of a lane, where that must be known to both sides: a member leaves, or is out,
//! and each message that a send has accepted is delivered or handed back.
//!
//! A send that is under way when its lane is stopped may not have seen that. It looks again when it
//! has counted its message, and the turn thread reads the count after a barrier of all threads: the
//! one sees the stop or the other the message (E). Who sees the stop does not know what the other
//! saw: so one of the two decides which slot is the last, by moving one word once, and both keep to
//! it.
//!
//! D1  A message counts if its slot is below `last`, or none has been decided yet.
//! D2  What `Ok` was answered for counts, and nothing else.
//! D3  A view that merely ends decides nothing: what is counted late is found (`lane`, H1).
//!
//! Cost: of a send, one more load of a word that it has read before.

use super::Producer;
use crate::error::Status;
use crate::mem::order::keep_order;
use crate::sst::ring::{Fences, LaneCells, Taker};
use std::sync::Arc;

impl LaneCells {
    /// How many slots count for ever, if the one who asks knows of so many. Who asks first decides.
    fn decide(&self, filled: u64) -> u64 {
        self.last.replace(0, filled + 1);
        self.last.observe() - 1
    }

    /// From now on no more slots count than I see now, or a call under way has claimed. To be called
    /// after a barrier of all threads that follows `stop`. `// E`
    pub(in crate::sst) fn settle(&self, fences: &mut Fences) {
        let published = self.published(fences);
        fences.most = self.decide(published);
        assert!(fences.most >= published, "what was accepted counts (D2)");
    }
}

/// Closes a lane from any thread, in the view whose ring this is.
#[derive(Clone)]
pub struct Door(Arc<LaneCells>);

impl Door {
    /// From now on every send in that ring answers `Left`, if it has no other answer yet.
    pub fn close(&self) {
        if crate::mutant!("wire-door-stays-open") {
            return;
        }
        self.0.stopped.replace(0, (Status::Left as i32).unsigned_abs().into());
    }
}

impl Taker {
    /// As `LaneCells::settle`.
    pub fn settle(&mut self) {
        self.cells.settle(&mut self.fences);
    }
}

impl Producer {
    pub fn door(&self) -> Door {
        Door(self.cells.clone())
    }

    /// Whether the lane was stopped before what I have just counted was seen, perhaps. `// E`
    #[inline(always)]
    pub(super) fn is_late(&self) -> bool {
        keep_order(); // the barrier on all threads does the rest
        self.cells.stopped.own() != 0 && !crate::mutant!("loom-e-not-looked-again")
    }

    /// The slot that I have just counted, unless it came too late.
    #[inline(always)]
    pub(super) fn confirm(&mut self, slot: u64) -> Result<u64, Status> {
        if self.is_late() {
            return self.confirm_late(slot).map_or(Ok(slot), Err);
        }
        Ok(slot)
    }

    /// Slots from `first` on were counted, and the lane is stopped: takes back those that do not
    /// count, and says why. `None`: all do.
    #[cold]
    #[inline(never)]
    pub(super) fn confirm_late(&mut self, first: u64) -> Option<Status> {
        let status = self.stopped().expect("it is stopped");
        if status == Status::Again {
            return None; // D3
        }
        let count = self.cells.decide(self.filled);
        assert!(count >= first, "what an earlier call answered `Ok` for counts (D2)");
        if count >= self.filled {
            return None;
        }
        self.filled = count;
        Some(status)
    }

    /// For the turn thread, which sends again here what an older view did not deliver, also when the
    /// lane takes nothing new.
    pub fn send_again(&mut self, bytes: &[u8]) -> Result<u64, Status> {
        assert!(self.reserved.is_none(), "the turn thread reserves nothing");
        if let Some(status) = self.stopped().filter(|status| *status != Status::Left) {
            return Err(status);
        }
        let len = u32::try_from(bytes.len()).map_err(|_| Status::TooLong)?;
        if len > self.message_bytes_max {
            return Err(Status::TooLong);
        }
        let slot = self.find(len)?;
        self.write(slot, &[bytes]);
        Ok(self.count(slot, len))
    }

    /// Nothing has room without another look: for who has something reserved elsewhere.
    pub fn shut_easy_path(&mut self) {
        self.easy_filled = 0;
    }
}
