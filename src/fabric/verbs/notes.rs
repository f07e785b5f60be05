// SPDX-License-Identifier: MIT OR Apache-2.0
//! Notes: what a turn has for one peer but long spans, in one write.
//!
//! A ring of places at the reader, one per connection and direction, in front of it a line of its own:
//!
//! ```text
//! ring    bytes 0..8: how many notes the writer of this ring has taken out of its own;  64 on: the places
//! note    bytes 0..8  8..16                    16..24                     24..32  then
//!         check       number << 8 | words      taken, as in the ring      epoch   parcels
//! parcel  words: 1 << 56 | count << 32 | byte of the block; `count` values
//!         span:  2 << 56 | subgroup << 32 | lane << 16 | bytes; from; its bytes, filled up with zeros
//! ```
//!
//! All words of 8 bytes, little-endian; `words` are all of a note's, the check's own, too.
//!
//! B1  Nothing orders the bytes of one write, and a poll may look when half of them are there. So a note
//!     is believed when its number is the next one and the check over all its words fits: words are
//!     copied first, checked and read then. The check is NH (UMAC, RFC 4418) over words of 64 bits with
//!     fixed keys: a mixture of this note and of whatever lay there before passes about once in 2^63
//!     looks. At ten million such looks a second that is once in thirty thousand years. (It is no
//!     protection from a peer that lies: who writes the words can write the check.)
//! B2  Notes are taken in their order, each once: so are words and spans by value (F2). A span that the
//!     device writes in place goes ahead of the note that counts it: it has landed when the note has.
//! B3  A place is written again when the reader has taken what was in it. It says how much it has taken
//!     in every note of its own; and by a word, where nobody else writes, when more than half of what it
//!     has taken is unsaid: that needs no place, so two that are full of each other's notes go on.
//! B4  What a note was copied to for the device lies still until its write is over: a queue has no more
//!     slots than a ring has places (`Slots`, S1).
//! B5  The reader checks every field (`Nonsense`). A note that never fits is never taken, nor what follows:
//!     as of a peer that beats and says nothing else.
//!
//! Cost: a load per poll and peer; a note is copied once here and once there, and checked at both sides:
//! some dozen multiplications. No allocation.

use super::carrier::Nonsense;
use super::device::Device;
use super::memory::{Memory as Registered, Remote};
use super::queue::Queue;
use crate::base::{Epoch, POST_WORDS_MAX, RingId};
use crate::error::Error;
use crate::limits::LINE_BYTES;
use crate::mem::Region;
use crate::mutant;
use std::sync::Arc;

/// Notes that a peer has not taken, at the most; and slots of a queue that writes notes (B4).
pub const PLACES: u64 = 256;
pub const NOTE_WORDS: usize = 64;
const NOTE_BYTES: usize = NOTE_WORDS * 8;
/// Check, number, taken, epoch.
const HEADER_WORDS: usize = 4;
/// Bytes of a ring.
pub const RING_BYTES: usize = LINE_BYTES + PLACES as usize * NOTE_BYTES;
/// Longer spans are written in place, without a copy.
pub const SPAN_BYTES_MAX: u64 = 192;
/// What a parcel has before its values or its bytes.
const WORDS_HEAD: usize = 1;
const SPAN_HEAD: usize = 2;
// The longest parcels go into an empty note; lengths fit into their fields.
const _: () = assert!(HEADER_WORDS + SPAN_HEAD + SPAN_BYTES_MAX as usize / 8 <= NOTE_WORDS);
const _: () = assert!(HEADER_WORDS + WORDS_HEAD + POST_WORDS_MAX <= NOTE_WORDS && NOTE_WORDS < 256);

const WORDS: u64 = 1;
const SPAN: u64 = 2;

/// Where in a ring the note with that number lies; the first one is 1.
fn place_of(number: u64) -> usize {
    LINE_BYTES + (number % PLACES) as usize * NOTE_BYTES
}

/// Random numbers, by SplitMix64.
const KEYS: [u64; NOTE_WORDS] = {
    let (mut keys, mut at, mut state) = ([0; NOTE_WORDS], 0, 0x5371_7561_6c6c_0001u64);
    while at < NOTE_WORDS {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        keys[at] = mixed ^ mixed >> 31;
        at += 1;
    }
    keys
};

/// B1. `words`: those behind the check.
#[inline]
fn check_of(words: &[u64]) -> u64 {
    let mut sum = 0u128;
    let (pairs, rest) = words.as_chunks::<2>();
    let (keys, _) = KEYS.as_chunks::<2>();
    for ([a, b], [c, d]) in pairs.iter().zip(keys) {
        sum = sum.wrapping_add(product(a.wrapping_add(*c), b.wrapping_add(*d)));
    }
    if let [last] = rest {
        let [c, d] = keys[pairs.len()];
        sum = sum.wrapping_add(product(last.wrapping_add(c), d));
    }
    sum as u64 ^ (sum >> 64) as u64
}

#[inline]
fn product(a: u64, b: u64) -> u128 {
    u128::from(a) * u128::from(b)
}

/// The writing end: one note, which is being filled, and how far the reader is.
pub struct Writer {
    /// What is too long for a work request is copied there, at the place that it has over there (B4).
    staging: Arc<Region>,
    source: Registered,
    /// The ring at the reader.
    remote: Remote,
    words: [u64; NOTE_WORDS],
    /// Of the one that is being filled; 0: there is none.
    len: usize,
    written: u64,
    taken: u64,
}

impl Writer {
    /// Errors: as `Registered::source`.
    pub fn new(device: &Arc<Device>) -> Result<Writer, Error> {
        let staging = Arc::new(Region::pages(RING_BYTES)?);
        let source = Registered::source(device, staging.clone())?;
        let (remote, words) = (Remote::default(), [0; NOTE_WORDS]);
        Ok(Writer { staging, source, remote, words, len: 0, written: 0, taken: 0 })
    }

    /// Where the peer reads.
    pub fn connect(&mut self, remote: Remote) {
        self.remote = remote;
    }

    /// Whether one is being filled.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.len > 0
    }

    /// Whether one is being filled that has room for so many words more.
    #[inline]
    pub fn has_room(&self, words: usize) -> bool {
        self.is_open() && self.len + words <= NOTE_WORDS
    }

    /// Whether the reader has a place for one more.
    #[inline]
    pub fn has_place(&self) -> bool {
        self.written - self.taken < PLACES || mutant!("verbs-note-without-place")
    }

    /// Begins one.
    #[inline]
    pub fn open(&mut self, epoch: Epoch) {
        assert!(!self.is_open(), "one note at a time");
        self.words[HEADER_WORDS - 1] = epoch.0;
        self.len = HEADER_WORDS;
    }

    /// What a parcel takes of a note.
    #[inline]
    pub fn words_len(values: usize) -> usize {
        WORDS_HEAD + values
    }

    #[inline]
    pub fn span_len(bytes: usize) -> usize {
        SPAN_HEAD + bytes.div_ceil(8)
    }

    /// Adds words, for which there is room.
    #[inline]
    pub fn words(&mut self, at: u32, values: &[u64]) {
        let len = self.len;
        self.words[len] = WORDS << 56 | (values.len() as u64) << 32 | u64::from(at);
        self.words[len + WORDS_HEAD..][..values.len()].copy_from_slice(values);
        self.len += Writer::words_len(values.len());
    }

    /// Adds a span of so many bytes by value, for which there is room; `fill` gives the bytes.
    #[inline]
    pub fn span(&mut self, ring: RingId, from: u64, bytes: usize, fill: impl FnOnce(&mut [u8])) {
        let mut copied = [0; SPAN_BYTES_MAX as usize];
        fill(&mut copied[..bytes]);
        let (len, end) = (self.len, self.len + Writer::span_len(bytes));
        let ring = u64::from(ring.subgroup) << 32 | u64::from(ring.lane) << 16;
        self.words[len] = SPAN << 56 | ring | bytes as u64;
        self.words[len + 1] = from;
        let whole = copied.as_chunks::<8>().0;
        for (word, bytes) in self.words[len + SPAN_HEAD..end].iter_mut().zip(whole) {
            *word = u64::from_le_bytes(*bytes);
        }
        self.len = end;
    }

    /// Adds the note to what the next doorbell is for; `taken`: how many I have taken of the reader's.
    #[inline]
    pub fn close(&mut self, queue: &mut Queue, taken: u64) {
        let len = std::mem::take(&mut self.len);
        self.written += 1;
        self.words[1] = self.written << 8 | len as u64;
        self.words[2] = taken;
        self.words[0] = check_of(&self.words[1..len]);
        let at = place_of(self.written);
        let staged = (at..).step_by(8).zip(&self.words[..len]);
        staged.for_each(|(at, word)| self.staging.cell(at).prepare(*word));
        queue.note(&self.source, at as u64, len as u64 * 8, &self.remote);
    }

    /// Says how many I have taken (B3).
    pub fn say_taken(&self, queue: &mut Queue, taken: u64) {
        queue.words(&self.remote, 0, &[taken]);
    }

    /// Forgets the note that is being filled: its queue has ended.
    pub fn forget(&mut self) {
        self.len = 0;
    }

    /// The reader has said so.
    #[inline]
    pub fn hear_taken(&mut self, taken: u64) -> Result<(), Nonsense> {
        if taken > self.written {
            return Err(Nonsense::Note { what: "taken", value: taken });
        }
        self.taken = self.taken.max(taken); // the word and the notes overtake each other
        Ok(())
    }
}

/// One parcel of a note, as the peer says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parcel<'a> {
    Words {
        at: u32,
        values: &'a [u64],
    },
    /// The words hold `len` bytes.
    Span {
        ring: RingId,
        from: u64,
        len: usize,
        words: &'a [u64],
    },
}

/// A note that has been taken: a copy, which no peer can change.
pub struct Note<'a> {
    /// How many of mine its writer has taken.
    pub taken: u64,
    pub epoch: Epoch,
    rest: &'a [u64],
}

impl<'a> Note<'a> {
    /// The next parcel of it.
    #[inline]
    pub fn next(&mut self) -> Result<Option<Parcel<'a>>, Nonsense> {
        let Some((head, rest)) = self.rest.split_first() else { return Ok(None) };
        let nonsense = |what| Nonsense::Note { what, value: *head };
        match head >> 56 {
            WORDS => {
                let count = (head >> 32 & 0xff_ffff) as usize;
                if count == 0 || count > rest.len() {
                    return Err(nonsense("count of words"));
                }
                let (values, rest) = rest.split_at(count);
                self.rest = rest;
                Ok(Some(Parcel::Words { at: *head as u32, values }))
            }
            SPAN => {
                let Some((from, rest)) = rest.split_first() else {
                    return Err(nonsense("span"));
                };
                let (subgroup, lane) = ((head >> 32) as u16, (head >> 16) as u16);
                let len = usize::from(*head as u16);
                let unused = head >> 48 & 0xff;
                if unused != 0 || len == 0 || len.div_ceil(8) > rest.len() {
                    return Err(nonsense("length of a span"));
                }
                let (words, rest) = rest.split_at(len.div_ceil(8));
                self.rest = rest;
                let ring = RingId { subgroup, lane };
                Ok(Some(Parcel::Span { ring, from: *from, len, words }))
            }
            _ => Err(nonsense("parcel")),
        }
    }
}

/// The reading end.
pub struct Reader {
    ring: Arc<Region>,
    memory: Registered,
    words: [u64; NOTE_WORDS],
    taken: u64,
    /// What has come was nonsense: nothing more is taken.
    over: bool,
}

impl Reader {
    /// Errors: as `Registered::target`.
    pub fn new(device: &Arc<Device>) -> Result<Reader, Error> {
        let ring = Arc::new(Region::pages(RING_BYTES)?);
        let memory = Registered::target(device, ring.clone())?;
        Ok(Reader { ring, memory, words: [0; NOTE_WORDS], taken: 0, over: false })
    }

    /// What the peer must be told to write here.
    pub fn remote(&self) -> Remote {
        Remote { bytes: RING_BYTES as u64, ..self.memory.remote() }
    }

    /// The next note, if it is there, all of it (B1).
    #[inline]
    pub fn next(&mut self) -> Option<Note<'_>> {
        let number = self.taken + 1;
        let at = place_of(number);
        let head = self.ring.cell(at + 8).observe();
        let len = (head & 0xff) as usize;
        if head >> 8 != number || self.over || !(HEADER_WORDS..=NOTE_WORDS).contains(&len) {
            return None;
        }
        for (at, word) in (at..).step_by(8).zip(&mut self.words[..len]) {
            *word = self.ring.cell(at).observe();
        }
        let [check, again, taken, epoch] = self.words[..HEADER_WORDS] else { return None };
        let fits = again == head && check == check_of(&self.words[1..len]);
        if !fits && !mutant!("verbs-note-unchecked") {
            return None;
        }
        self.taken = number;
        Some(Note { taken, epoch: Epoch(epoch), rest: &self.words[HEADER_WORDS..len] })
    }

    /// How many have been taken.
    #[inline]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// How many of mine the peer has taken, by its word.
    #[inline]
    pub fn peer_has_taken(&self) -> u64 {
        self.ring.cell(0).observe()
    }

    /// Nothing more is taken.
    pub fn end(&mut self) {
        self.over = true;
    }
}

#[cfg(test)]
impl Reader {
    /// What the peer writes here.
    fn ring(&self) -> &Region {
        &self.ring
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
