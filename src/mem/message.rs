// SPDX-License-Identifier: MIT OR Apache-2.0
//! A delivered message as the application sees it: the bytes where they landed.

/// One message of a batch. Valid until the callback that got it returns; hence not `Clone`.
///
/// The layout is that of `squall_message_t` in C. It is four words, because every message costs
/// their writing.
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
    /// `transfer::CATCHUP`, or 0.
    pub flags: u8,
    /// Position in the total order that the subgroup has in the view at hand (in *received* mode:
    /// among that sender's messages). It begins anew in every view: a version is epoch and number.
    pub number: u64,
    /// The sender's clock when its turn thread took the message up, in nanoseconds.
    pub time_ns: u64,
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
    bytes: u64,
}

impl Batch {
    pub fn new(most: usize) -> Batch {
        let empty = |_| Message::new(&[], 0, 0, 0, 0);
        Batch { room: (0..most).map(empty).collect(), len: 0, bytes: 0 }
    }

    /// The messages in it.
    #[inline]
    pub fn messages(&self) -> &[Message] {
        &self.room[..self.len]
    }

    /// Payload bytes of the messages in it.
    #[inline]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends one; false: there is no room.
    #[inline]
    pub(crate) fn push(&mut self, message: Message) -> bool {
        let Some(place) = self.room.get_mut(self.len) else { return false };
        self.bytes += u64::from(message.len);
        self.len += 1;
        *place = message;
        true
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
        let more = &self.room[self.len..self.len + count];
        self.bytes += more.iter().map(|message| u64::from(message.len)).sum::<u64>();
        self.len += count;
    }

    pub fn clear(&mut self) {
        (self.len, self.bytes) = (0, 0);
    }
}

impl Message {
    /// The message of a slot; `bytes` stay until the batch has been delivered, and rings live as long
    /// as their group.
    #[inline(always)]
    pub(crate) fn new(bytes: &[u8], rank: u16, lane: u8, number: u64, time_ns: u64) -> Self {
        let len = bytes.len() as u32;
        Message { bytes: bytes.as_ptr(), len, rank, lane, flags: 0, number, time_ns }
    }

    /// The payload.
    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: made from a slice of a live region; a message is only ever lent out by reference
        // during the delivery callback, before the slot is released (S).
        unsafe { std::slice::from_raw_parts(self.bytes, self.len as usize) }
    }
}
