// SPDX-License-Identifier: MIT OR Apache-2.0
//! A slot that is filled in place: reserve, then publish or abort. One at a time per lane.

use super::Producer;
use crate::error::Status;

impl Producer {
    /// Lends `len` bytes of the next slot, to be filled in place. One at a time per lane.
    #[inline]
    pub fn reserve(&mut self, len: u32) -> Result<&mut [u8], Status> {
        let slot = self.claim(len)?;
        self.reserved = Some(slot);
        if !crate::mutant!("reserve-leaves-the-easy-path-open") {
            self.easy_filled = 0; // until published or aborted, nothing else has room
        }
        Ok(self.ring.payloads.lend_mut(slot.at, len as usize))
    }

    /// Sends the first `len` bytes of what was reserved; the answer is the message's ordinal.
    #[inline]
    pub fn publish(&mut self, len: u32) -> Result<u64, Status> {
        let slot = self.reserved.ok_or(Status::NotReserved)?;
        if len > slot.len {
            return Err(Status::TooLong);
        }
        self.reserved = None;
        let counted = self.count(slot, len);
        self.confirm(counted).inspect_err(|_| self.reserved = Some(slot))
    }

    /// Forgets what was reserved. No other member ever hears of it.
    pub fn abort(&mut self) -> Result<(), Status> {
        let slot = self.reserved.take().ok_or(Status::NotReserved)?;
        if crate::mutant!("abort-sends") {
            self.count(slot, slot.len);
        }
        Ok(())
    }

    /// The first `len` bytes of what is reserved, to be sent elsewhere; it stays reserved.
    pub fn reserved(&self, len: u32) -> Result<&[u8], Status> {
        let slot = self.reserved.ok_or(Status::NotReserved)?;
        if len > slot.len {
            return Err(Status::TooLong);
        }
        Ok(self.ring.payload(slot.at, len).expect("a slot of mine"))
    }

    #[inline(always)]
    pub fn has_reserved(&self) -> bool {
        self.reserved.is_some()
    }
}
