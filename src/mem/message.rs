// SPDX-License-Identifier: MIT OR Apache-2.0
//! A delivered message as the application sees it: the bytes where they landed.

use super::order::Cell;
use crate::limits::{COUNT_MAX, HEADER_BYTES};

/// One message of a batch. Valid until the callback that got it returns; hence not `Clone`.
///
/// The layout is that of `squall_message_t` in C. It is three words, because every message costs
/// their writing; what few ask for is read from the slot's header, which lies before the bytes.
#[repr(C)]
#[derive(Debug)]
pub struct Message {
    bytes: *const u8,
    /// Bytes of the message.
    pub len: u32,
    /// Rank of the member that sent it.
    pub rank: u16,
    /// Its lane.
    pub lane: u8,
    /// Reserved: 0.
    pub flags: u8,
    /// Position in the subgroup's total order (in *received* mode: among that sender's messages).
    pub number: u64,
}

// SAFETY: the bytes are shared, read-only for this process, and stay still until released (S).
unsafe impl Send for Message {}
// SAFETY: as above.
unsafe impl Sync for Message {}

/// Room for one call's messages, made once.
#[derive(Debug)]
pub struct Batch {
    room: Box<[Message]>,
    len: usize,
}

impl Batch {
    pub fn new(most: usize) -> Batch {
        let empty = |_| Message::new(&[], 0, 0, 0);
        Batch { room: (0..most).map(empty).collect(), len: 0 }
    }

    /// The messages in it.
    #[inline]
    pub fn messages(&self) -> &[Message] {
        &self.room[..self.len]
    }

    /// Places for up to `most` more, to be filled from the first on; then `filled`.
    #[inline]
    pub(crate) fn free(&mut self, most: usize) -> &mut [Message] {
        let upto = (self.len + most).min(self.room.len());
        &mut self.room[self.len..upto]
    }

    /// So many places have been filled.
    #[inline]
    pub(crate) fn filled(&mut self, count: usize) {
        assert!(self.len + count <= self.room.len());
        self.len += count;
    }

    pub fn clear(&mut self) {
        self.len = 0;
    }
}

impl Message {
    /// The message in a slot: `bytes` follow its header, and stay until the batch has been
    /// delivered; rings live as long as their group.
    #[inline(always)]
    pub(crate) fn new(bytes: &[u8], rank: u16, lane: u8, number: u64) -> Self {
        Message { bytes: bytes.as_ptr(), len: bytes.len() as u32, rank, lane, flags: 0, number }
    }

    /// The payload.
    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: made from a slice of a live region; a message is only ever lent out by reference
        // during the delivery callback, before the slot is released (S).
        unsafe { std::slice::from_raw_parts(self.bytes, self.len as usize) }
    }

    /// Position among its sender's messages, nulls included.
    pub fn index(&self) -> u64 {
        self.header_word(1) & (COUNT_MAX - 1)
    }

    /// The sender's clock when its turn thread took the message up, in nanoseconds.
    pub fn time_ns(&self) -> u64 {
        self.header_word(2)
    }

    fn header_word(&self, word: usize) -> u64 {
        let before = HEADER_BYTES as usize - word * 8;
        // SAFETY: a delivered message's bytes follow the header of their slot, in the same ring,
        // aligned to a word (`Message::new`); the slot is not released yet (S).
        unsafe { (*self.bytes.sub(before).cast::<Cell>()).own() }
    }
}
