// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tape: what the polling thread of a source keeps for a joiner until the transfer thread has
//! sent it. One writer, one reader, a ring of bytes made once.
//!
//! It knows no records: bytes go in in pieces of whole words and come out as they lie. It never
//! waits: what finds no room breaks the tape, and a broken tape takes nothing until it is begun
//! anew.
//!
//! K1  Positions are bytes since the tape was made; they never go back. `released <= tail`, and
//!     `tail - released` never exceeds the ring.
//! K2  Bytes `released..tail` belong to the reader, all others to the writer. The writer announces
//!     with `tail` (as edge W), the reader gives back with `released` (as edge S).
//! K3  Whole records only: `tail` moves over a batch at once, and not at all over what did not fit.
//!     What lies below `tail` is always good to send, also on a tape that is broken.
//! K4  Begun anew only when everything is given back, by the writer, when the reader has asked.
//!
//! Cost: an append is a copy; a batch is one release store, and a load of the reader's line when
//! the room known of is used up.

use crate::mem::{Cell, Extent, Region};
use crate::mutant;
use std::sync::Arc;

/// Cells of one writer each, a line apart.
#[repr(align(128))]
struct Line<T>(T);

struct WriterCells {
    /// How far the tape is written.
    tail: Cell,
    /// Messages below `tail`; announced by it.
    messages: Cell,
    /// The beginning (`Writer::begin`) that broke, counted from 1.
    broken: Cell,
    /// One more than the position at which the tape ends for good.
    end: Cell,
}

struct Lines {
    writer: Line<WriterCells>,
    released: Line<Cell>,
}

/// The polling thread's end.
pub struct Writer {
    bytes: Extent,
    lines: Arc<Lines>,
    mask: u64,
    /// How far it is written; announced or not.
    tail: u64,
    messages: u64,
    /// How far it may be written, as last seen.
    limit: u64,
    /// How often it was begun.
    begun: u64,
    takes: bool,
}

/// The transfer thread's end.
///
/// It should be the one that is dropped last: unmapping a large tape takes milliseconds.
pub struct Reader {
    bytes: Extent,
    lines: Arc<Lines>,
    mask: u64,
    released: u64,
}

/// A tape of `bytes`, a power of two, at least 64. All its pages are there when this returns.
pub fn tape(bytes: usize) -> (Writer, Reader) {
    assert!(bytes.is_power_of_two() && bytes >= 64);
    // `heap` writes zeros into it, since it asks for an alignment: no page fault comes later.
    let region = Arc::new(Region::heap(bytes));
    let extent = Extent::new(region, 0, bytes);
    let cell = || Cell::new(0);
    let writer = WriterCells { tail: cell(), messages: cell(), broken: cell(), end: cell() };
    let lines = Arc::new(Lines { writer: Line(writer), released: Line(cell()) });
    let mask = bytes as u64 - 1;
    let writer = Writer {
        bytes: extent.clone(),
        lines: lines.clone(),
        mask,
        tail: 0,
        messages: 0,
        limit: bytes as u64,
        begun: 0,
        takes: false,
    };
    (writer, Reader { bytes: extent, lines, mask, released: 0 })
}

impl Writer {
    /// Begins, or begins anew after it broke (K4). What is written from now on is read from `tail`.
    pub fn begin(&mut self) {
        self.limit = self.lines.released.0.observe() + self.mask + 1; // K2
        assert!(self.limit == self.tail + self.mask + 1, "the reader has given everything back");
        self.begun += 1;
        self.takes = true;
    }

    /// Whether it takes anything: begun, and neither broken nor ended.
    #[inline(always)]
    pub fn takes(&self) -> bool {
        self.takes
    }

    /// Room for a record of `len` bytes, a multiple of 8. `false`: the tape is broken now.
    #[inline]
    pub fn has_room(&mut self, len: u64) -> bool {
        self.tail + len <= self.limit || self.look_for_room(len)
    }

    #[cold]
    fn look_for_room(&mut self, len: u64) -> bool {
        self.limit = self.lines.released.0.observe() + self.mask + 1; // K2
        if mutant!("transfer-overflow-unseen") {
            self.limit = self.tail + len;
        }
        if self.tail + len <= self.limit {
            return true;
        }
        self.tail = self.lines.writer.0.tail.own(); // K3
        self.messages = self.lines.writer.0.messages.own();
        self.takes = false;
        self.lines.writer.0.broken.publish(self.begun);
        false
    }

    /// Writes a piece of a record for which there is room, and fills its last word with zeros.
    #[inline]
    pub fn write(&mut self, piece: &[u8]) {
        let len = piece.len() as u64;
        let at = self.tail & self.mask;
        let whole = len & !7;
        if at + whole + 8 <= self.mask + 1 {
            self.bytes.write(at, piece);
        } else {
            self.write_round(at, piece);
        }
        if len != whole {
            let mut last = [0; 8];
            last[..(len - whole) as usize].copy_from_slice(&piece[whole as usize..]);
            self.bytes.write((self.tail + whole) & self.mask, &last);
        }
        self.tail += len.next_multiple_of(8);
    }

    /// The same across the ring's end.
    #[cold]
    fn write_round(&mut self, at: u64, piece: &[u8]) {
        let first = (self.mask + 1 - at).min(piece.len() as u64) as usize;
        self.bytes.write(at, &piece[..first]);
        self.bytes.write(0, &piece[first..]);
    }

    /// One more of what has been written is a message.
    #[inline(always)]
    pub fn count_message(&mut self) {
        self.messages += 1;
    }

    /// Everything written belongs to the reader.
    #[inline]
    pub fn publish(&mut self) {
        self.lines.writer.0.messages.prepare(self.messages);
        if mutant!("loom-transfer-tail-relaxed") {
            self.lines.writer.0.tail.prepare(self.tail);
            return;
        }
        self.lines.writer.0.tail.publish(self.tail); // K2
    }

    /// Nothing comes after what has been written.
    pub fn end(&mut self) {
        assert!(self.takes);
        self.takes = false;
        if mutant!("transfer-end-before-tail") {
            self.lines.writer.0.end.publish(self.lines.writer.0.tail.own() + 1);
        }
        self.publish();
        if !mutant!("transfer-end-before-tail") {
            self.lines.writer.0.end.publish(self.tail + 1);
        }
    }
}

impl Reader {
    /// How far it is written, and how many messages that are; perhaps a few more already.
    pub fn written(&self) -> (u64, u64) {
        let tail = self.lines.writer.0.tail.observe(); // K2
        (tail, self.lines.writer.0.messages.own())
    }

    /// Whether the writer is dropped.
    #[cfg(not(loom))]
    pub fn is_alone(&self) -> bool {
        Arc::strong_count(&self.lines) == 1
    }

    pub fn size(&self) -> usize {
        self.mask as usize + 1
    }

    pub fn released(&self) -> u64 {
        self.released
    }

    /// Adjoining bytes that are to be sent, at most `most` (a multiple of 8).
    pub fn peek(&self, most: usize) -> &[u8] {
        let (tail, _) = self.written();
        let at = self.released & self.mask;
        let len = (tail - self.released).min(self.mask + 1 - at).min(most as u64);
        self.bytes.lend(at, len as u32).expect("inside the ring")
    }

    /// Gives back the first `len` bytes.
    pub fn release(&mut self, len: u64) {
        self.released += len;
        assert!(self.released <= self.written().0);
        if mutant!("loom-transfer-released-relaxed") {
            self.lines.released.0.prepare(self.released);
            return;
        }
        self.lines.released.0.publish(self.released); // K2
    }

    /// Whether the beginning of that number broke.
    pub fn is_broken(&self, begun: u64) -> bool {
        assert!(begun > 0);
        self.lines.writer.0.broken.observe() == begun
    }

    /// Gives back everything; answers where the next beginning starts. On a broken tape only (K4).
    pub fn discard(&mut self) -> u64 {
        let (tail, _) = self.written();
        self.release(tail - self.released);
        tail
    }

    /// Where it ends, if the writer has said so. Then `written` is that.
    pub fn end(&self) -> Option<u64> {
        self.lines.writer.0.end.observe().checked_sub(1)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn put(writer: &mut Writer, piece: &[u8]) -> bool {
        let fits = writer.takes() && writer.has_room(piece.len().next_multiple_of(8) as u64);
        if fits {
            writer.write(piece);
            writer.count_message();
            writer.publish();
        }
        fits
    }

    #[test]
    fn what_goes_in_comes_out_across_the_end() {
        let (mut writer, mut reader) = tape(64);
        assert!(!writer.takes());
        writer.begin();
        let (mut sent, mut came) = (Vec::new(), Vec::new());
        for round in 0..200usize {
            let piece: Vec<u8> = (0..round % 33).map(|i| (round + i) as u8).collect();
            assert!(put(&mut writer, &piece));
            sent.extend_from_slice(&piece);
            sent.resize(sent.len().next_multiple_of(8), 0);
            while !reader.peek(24).is_empty() {
                came.extend_from_slice(reader.peek(24));
                reader.release(reader.peek(24).len() as u64);
            }
            assert_eq!(reader.written(), (sent.len() as u64, round as u64 + 1));
        }
        assert_eq!(sent, came);
    }

    #[test]
    fn a_full_tape_breaks_and_begins_anew() {
        let (mut writer, mut reader) = tape(64);
        writer.begin();
        assert!((0..8).all(|i| put(&mut writer, &[i; 8])) && !reader.is_broken(1));
        assert!(!put(&mut writer, &[9]) && !writer.takes() && reader.is_broken(1));
        assert_eq!(reader.written(), (64, 8), "what was there is whole");
        assert_eq!(reader.discard(), 64);
        writer.begin();
        assert!(put(&mut writer, &[7; 16]) && !reader.is_broken(2));
        assert_eq!(reader.peek(64), [7; 16]);
        writer.end();
        assert!(!put(&mut writer, &[1]) && reader.end() == Some(80));
        assert!(!reader.is_alone() && reader.size() == 64);
        drop(writer);
        assert!(reader.is_alone());
    }

    #[test]
    fn half_a_batch_is_not_seen() {
        let (mut writer, reader) = tape(64);
        writer.begin();
        for _ in 0..8 {
            assert!(writer.has_room(8));
            writer.write(&[1; 8]);
        }
        assert!(!writer.has_room(8));
        assert_eq!((reader.written(), reader.is_broken(1)), ((0, 0), true));
    }
}
