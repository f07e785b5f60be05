// SPDX-License-Identifier: MIT OR Apache-2.0
//! A delivered message as the application sees it: the bytes where they landed.

/// One message of a batch. Valid until the callback that got it returns; hence not `Clone`.
///
/// The layout is that of `squall_message_t` in C.
#[repr(C)]
#[derive(Debug)]
pub struct Message {
    bytes: *const u8,
    /// Bytes of the message.
    pub len: u32,
    /// Rank of the member that sent it.
    pub rank: u16,
    /// Its lane.
    pub lane: u16,
    /// Position in the subgroup's total order (in *received* mode: equal to `index`).
    pub number: u64,
    /// Position among that sender's messages, nulls included.
    pub index: u64,
    /// The sender's clock when the message was taken up, in nanoseconds.
    pub time_ns: u64,
    /// Reserved: 0.
    pub flags: u64,
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
        let empty = |_| Message::new(&[], 0, 0, 0, 0, 0);
        Batch { room: (0..most).map(empty).collect(), len: 0 }
    }

    /// The messages in it.
    #[inline]
    pub fn messages(&self) -> &[Message] {
        &self.room[..self.len]
    }

    /// Places for up to `most` more, to be filled from the first on; then `filled`.
    #[inline]
    pub(crate) fn free(&mut self, most: usize) -> std::slice::IterMut<'_, Message> {
        let upto = (self.len + most).min(self.room.len());
        self.room[self.len..upto].iter_mut()
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
    /// `bytes` must stay until the batch has been delivered; rings live as long as their group.
    #[inline(always)]
    pub(crate) fn new(
        bytes: &[u8],
        rank: u16,
        lane: u16,
        number: u64,
        index: u64,
        time_ns: u64,
    ) -> Self {
        let len = bytes.len() as u32;
        Message { bytes: bytes.as_ptr(), len, rank, lane, number, index, time_ns, flags: 0 }
    }

    /// The payload.
    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: made from a slice of a live region; a message is only ever lent out by reference
        // during the delivery callback, before the slot is released (S).
        unsafe { std::slice::from_raw_parts(self.bytes, self.len as usize) }
    }
}
