// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes to one peer: posts, as parcels, and the record of them that is half sent.
//!
//! O1  Parcels leave in the order they came (F2); words by value, bytes of rings from where they lie.
//! O2  A record that the socket took in part is finished with the same bytes. In a trusted network
//!     large spans are sent from the ring itself: they lie still until this peer has released them,
//!     which it cannot before it has them. What is sealed has been copied before.
//! O3  There is no unbounded queue: who has anything waiting here takes no posts (`Events::full`), so
//!     that is one turn's posts and what few things the driver says (`PARCELS_MAX`).
//! O4  My beat, wherever it stands, is in each record (F6): so it waits behind one record and what the
//!     kernel holds, not behind a ring's worth of bytes.
//! O5  Words that are no news wait for the next post, some polls at the most: a record more for each
//!     message costs as much as the message. Whoever waits so is not full.
//!
//! Cost: a copy of words and small spans; one system call per record.

use super::mirror::Measures;
use super::seal::Sealer;
use super::wire::{HEADER_BYTES, SAY_BYTES_MAX, SEALED_BYTES_MAX, Span, TAG_BYTES, Writer, finish};
use crate::base::{Epoch, POST_WORDS_MAX, RingId};
use crate::error::Error;
use crate::limits::POSTS_MAX;
use crate::mem::bytes::{lack, with_room};
use crate::mem::stream::{PARTS_MAX, Part, append, send};
use crate::mem::{Extent, Region};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Bytes of a record that is trusted, and of one that is sealed, as they are made: the latter is in the
/// cache while it is copied and sealed.
const PLAIN_BYTES: usize = 256 << 10;
const SEALED_BYTES: usize = 60 << 10;
const _: () = assert!(SEALED_BYTES + SAY_BYTES_MAX + 1024 <= SEALED_BYTES_MAX);
/// Spans up to this are copied: that is cheaper than a part of their own.
const COPY_BYTES: usize = 2048;
/// A span is cut where a record ends, but no piece is smaller than this.
const PIECE_BYTES_MIN: usize = 4096;
/// Bytes that one turn sends to one peer at the most.
const TURN_BYTES: usize = 2 << 20;
/// Parcels for one peer at the most: the posts of a turn, all words of a block at `enter`, letters.
pub const PARCELS_MAX: usize = 4 * POSTS_MAX;
/// Bytes of letters that may wait.
const LETTERS_BYTES_MAX: usize = 1 << 20;
/// Polls that what is no news waits for a post that is, and how much may gather.
const LATE_MAX: u32 = 8;
const LATE_PARCELS_MAX: usize = 64;
/// Polls that pass between two tries of a full socket, at the most.
const PATIENCE_MAX: u32 = 64;

/// My memory of an epoch, as it is read for peers.
pub struct Own {
    pub block: Arc<Region>,
    /// By subgroup.
    pub rings: Vec<Option<Extent>>,
    pub measures: Arc<Measures>,
    /// `None`: another fabric sends my beat.
    pub beat_at: Option<usize>,
}

/// What is to be sent.
pub enum Parcel {
    Words {
        at: u32,
        values: [u64; POST_WORDS_MAX],
        len: u8,
    },
    Span {
        ring: RingId,
        from: u64,
        upto: u64,
    },
    Memory {
        epoch: Epoch,
        subgroups: Vec<usize>,
    },
    /// Words of a block that was shown and is not entered.
    Ahead {
        epoch: Epoch,
        at: u32,
        values: [u64; POST_WORDS_MAX],
        len: u8,
    },
    Enter {
        epoch: Epoch,
        own: Arc<Own>,
    },
    Say(Vec<u8>),
    /// For another fabric (`carry`).
    Carry(Vec<u8>),
}

/// A part of the record: of what was copied, or of a ring.
#[derive(Clone, Copy)]
enum Piece {
    Copied { from: usize, upto: usize },
    Ring { subgroup: u16, at: u64, len: usize },
}

pub struct Outgoing {
    queue: VecDeque<Parcel>,
    /// Bytes of letters in it.
    letters: usize,
    sealer: Option<Sealer>,
    /// Whose rings are read: those of the epoch that was entered last in what has been sent.
    own: Option<Arc<Own>>,
    /// The beat that was sent last.
    beat: u64,
    /// The record that is being sent: what was copied of it, and its parts; how many bytes it has, and
    /// how many of them have gone.
    copied: Vec<u8>,
    pieces: Vec<Piece>,
    bytes: usize,
    sent: usize,
    /// All that waits is no news; polls since it does.
    late: Option<u32>,
    /// Polls until a full socket is tried again, and how many it was last time.
    wait: u32,
    waited: u32,
    /// How often a try to send found no room.
    full: u64,
}

/// How a try to send came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    All,
    /// The socket takes no more now.
    Some,
    /// It takes nothing any more.
    Ended,
}

impl Outgoing {
    /// An error: this process has no memory for it.
    pub fn new(sealer: Option<Sealer>) -> Result<Outgoing, Error> {
        let mut queue = VecDeque::new();
        let kept = queue.try_reserve_exact(PARCELS_MAX);
        kept.map_err(|_| lack(PARCELS_MAX * size_of::<Parcel>()))?;
        Ok(Outgoing {
            queue,
            letters: 0,
            sealer,
            own: None,
            beat: 0,
            copied: with_room(SEALED_BYTES_MAX + HEADER_BYTES)?,
            pieces: Vec::with_capacity(PARTS_MAX),
            bytes: 0,
            sent: 0,
            late: None,
            wait: 0,
            waited: 0,
            full: 0,
        })
    }

    #[inline]
    pub fn push(&mut self, parcel: Parcel) {
        if let Parcel::Say(bytes) | Parcel::Carry(bytes) = &parcel {
            self.letters += bytes.len();
        }
        self.queue.push_back(parcel);
    }

    /// Whether anything waits: then there is no room for posts.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.late.is_none() && self.has_waiting()
    }

    /// What was pushed last is no news: it may wait for some (O5). False: no more.
    pub fn may_wait(&mut self) -> bool {
        let so = self.sent == self.bytes && self.parcels() < LATE_PARCELS_MAX;
        if so && self.late.is_none() {
            self.late = Some(0);
        }
        so
    }

    /// In a poll: whether what is no news has waited long enough.
    #[inline]
    pub fn is_late(&mut self) -> bool {
        self.late = self.late.map(|polls| polls + 1);
        self.late.is_some_and(|polls| polls > LATE_MAX)
    }

    pub fn waits(&self) -> bool {
        self.late.is_some()
    }

    /// Parcels that wait (O3).
    pub fn parcels(&self) -> usize {
        self.queue.len()
    }

    /// Whether so much waits that the peer cannot be told anything.
    pub fn is_choked(&self) -> bool {
        self.parcels() >= PARCELS_MAX || self.letters > LETTERS_BYTES_MAX
    }

    /// Bytes that wait, and how often a try to send found no room.
    pub fn load(&self) -> (u64, u64) {
        let bytes = |parcel: &Parcel| match parcel {
            Parcel::Words { len, .. } | Parcel::Ahead { len, .. } => 8 * u64::from(*len),
            Parcel::Span { from, upto, .. } => upto - from,
            Parcel::Say(bytes) | Parcel::Carry(bytes) => bytes.len() as u64,
            Parcel::Memory { .. } | Parcel::Enter { .. } => 0,
        };
        let queued: u64 = self.queue.iter().map(bytes).sum();
        (queued + (self.bytes - self.sent) as u64, self.full)
    }

    /// Nothing of it goes any more.
    pub fn forget(&mut self) {
        self.queue.clear();
        (self.bytes, self.sent, self.letters, self.late) = (0, 0, 0, None);
    }

    /// The same, and nothing will be said again: its buffers are not needed.
    pub fn let_go(&mut self) {
        self.forget();
        (self.queue, self.copied, self.pieces, self.own) =
            (VecDeque::new(), Vec::new(), Vec::new(), None);
    }

    /// In a poll: whether it is time to try a socket again that was full.
    #[inline]
    pub fn is_due(&mut self) -> bool {
        if self.wait > 0 {
            self.wait -= 1;
            return false;
        }
        true
    }

    /// So many polls of that wait are over.
    pub fn hurry(&mut self, polls: u32) {
        self.wait = self.wait.saturating_sub(polls);
    }

    /// Whether anything waits, urgent or not.
    #[inline]
    pub fn has_waiting(&self) -> bool {
        self.sent < self.bytes || !self.queue.is_empty()
    }

    /// Whether my beat has moved since it was sent.
    pub fn owes_beat(&self) -> bool {
        self.own.as_ref().and_then(|own| own.beat()).is_some_and(|(_, beat)| beat != self.beat)
    }

    /// Sends what waits, as far as the socket takes it.
    pub fn flush(&mut self, socket: BorrowedFd<'_>) -> Sent {
        let mut turn = 0;
        self.late = None;
        while turn < TURN_BYTES {
            if self.sent == self.bytes {
                if self.queue.is_empty() && !self.owes_beat() {
                    (self.wait, self.waited) = (0, 0);
                    return Sent::All;
                }
                self.build();
            }
            let rest = self.bytes - self.sent;
            match send(socket, self.parts()) {
                Ok(sent) => {
                    self.sent += sent;
                    turn += sent;
                    if sent == rest {
                        continue;
                    }
                    self.waited = 0;
                }
                Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) => {}
                Err(_) => return Sent::Ended,
            }
            self.full += 1;
            self.waited = (2 * self.waited).clamp(1, PATIENCE_MAX);
            self.wait = self.waited - 1;
            return Sent::Some;
        }
        Sent::Some
    }

    /// The parts of the record that have not gone.
    fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let mut gone = self.sent;
        self.pieces.iter().filter_map(move |piece| {
            let len = match *piece {
                Piece::Copied { from, upto } => upto - from,
                Piece::Ring { len, .. } => len,
            };
            let skip = gone.min(len);
            gone -= skip;
            (skip < len).then(|| match *piece {
                Piece::Copied { from, upto } => Part::Bytes(&self.copied[from + skip..upto]),
                Piece::Ring { subgroup, at, len } => {
                    let (at, len) = (at + skip as u64, len - skip);
                    let own = self.own.as_ref().expect("posts come after `enter`");
                    Part::Ring { of: own.ring(subgroup), at, len }
                }
            })
        })
    }

    /// Makes the next record of what waits.
    fn build(&mut self) {
        self.copied.clear();
        self.pieces.clear();
        (self.bytes, self.sent) = (0, 0);
        Writer(&mut self.copied).begin();
        let most = if self.sealer.is_some() { SEALED_BYTES } else { PLAIN_BYTES };
        let mut cut = 0;
        // Of `bytes`, those in rings; the others have been copied.
        self.take_beat();
        while self.bytes + self.copied.len() < most && self.pieces.len() + 3 < PARTS_MAX {
            if !self.take_parcel(most, &mut cut) {
                break;
            }
            self.take_beat();
        }
        let tag = if self.sealer.is_some() { TAG_BYTES } else { 0 };
        self.bytes += self.copied.len();
        finish(&mut self.copied[..HEADER_BYTES], self.bytes - HEADER_BYTES + tag);
        if let Some(sealer) = &mut self.sealer {
            sealer.seal(&mut self.copied);
        }
        self.bytes += tag;
        if cut < self.copied.len() {
            self.pieces.push(Piece::Copied { from: cut, upto: self.copied.len() });
        }
    }

    /// O4
    fn take_beat(&mut self) {
        let Some((at, beat)) = self.own.as_ref().and_then(|own| own.beat()) else { return };
        if beat != self.beat {
            self.beat = beat;
            Writer(&mut self.copied).words(at as u32, &[beat]);
        }
    }

    /// Puts the next parcel into the record, or the beginning of one that is too long. False: it has
    /// no place in this record, or there is none. `cut`: what has been copied up to there is in a piece.
    fn take_parcel(&mut self, most: usize, cut: &mut usize) -> bool {
        let whole = self.copied.len() == HEADER_BYTES && self.bytes == 0;
        let mut writer = Writer(&mut self.copied);
        match self.queue.front_mut() {
            None => return false,
            Some(Parcel::Words { at, values, len }) => {
                writer.words(*at, &values[..usize::from(*len)]);
            }
            Some(Parcel::Span { ring, from, upto }) => {
                let (ring, at, rest) = (*ring, *from, (*upto - *from) as usize);
                let room = most - (self.bytes + self.copied.len()).min(most);
                let len = rest.min(room & !7);
                if len < rest.min(PIECE_BYTES_MIN) {
                    return false;
                }
                *from += len as u64;
                let over = len == rest;
                self.take_span(ring, at, len, cut);
                if over {
                    self.queue.pop_front();
                }
                return over;
            }
            Some(Parcel::Memory { epoch, subgroups }) => writer.memory(*epoch, subgroups),
            Some(Parcel::Ahead { epoch, at, values, len }) => {
                writer.ahead(*epoch, *at, &values[..usize::from(*len)]);
            }
            // What is in the record before it lies in other rings.
            Some(Parcel::Enter { .. }) if !whole => return false,
            Some(Parcel::Enter { epoch, own }) => {
                writer.enter(*epoch);
                (self.own, self.beat) = (Some(own.clone()), 0);
            }
            Some(Parcel::Say(bytes)) => {
                writer.say(bytes);
                self.letters -= bytes.len();
            }
            Some(Parcel::Carry(bytes)) => {
                writer.carry(bytes);
                self.letters -= bytes.len();
            }
        }
        self.queue.pop_front();
        true
    }

    fn take_span(&mut self, ring: RingId, from: u64, len: usize, cut: &mut usize) {
        let own = self.own.as_ref().expect("posts come after `enter`");
        let RingId { subgroup, lane } = ring;
        let measures = &own.measures.rings[usize::from(subgroup)];
        let at = measures.place(lane, from, len as u64).expect("a span lies in its lane");
        let span = Span { subgroup, lane: lane as u8, from, len: len as u32 };
        Writer(&mut self.copied).span(&span);
        if len <= COPY_BYTES || self.sealer.is_some() {
            append(own.ring(subgroup), at, len, &mut self.copied);
            return;
        }
        self.pieces.push(Piece::Copied { from: *cut, upto: self.copied.len() });
        self.pieces.push(Piece::Ring { subgroup, at, len });
        (*cut, self.bytes) = (self.copied.len(), self.bytes + len);
    }
}

impl Own {
    fn ring(&self, subgroup: u16) -> &Extent {
        self.rings[usize::from(subgroup)].as_ref().expect("a ring of mine")
    }

    /// Where, and what it says.
    fn beat(&self) -> Option<(usize, u64)> {
        self.beat_at.map(|at| (at, self.block.cell(at).own()))
    }
}
