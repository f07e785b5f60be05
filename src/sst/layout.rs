// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where each column, ring and slot lies. This is the wire: members with different layouts refuse
//! each other by `digest`.
//!
//! A control block, in lines of 128 bytes (all words 64 bits, little-endian, aligned):
//!
//! ```text
//! line 0       magic, wire version, epoch, digest, incarnation           written once
//! line 1       beat                                                      at most every heartbeat
//! line 2       asleep, closed                                            parking, leaving
//! line 3       changes, wedged, leaving, agreed, ended, suspects, installed, cold   view changes
//! line 4 ..    change[RECORDS_MAX * RECORD_WORDS]                        view changes
//! per subgroup:
//!   hot line   slots[lanes] head[lanes] prefix delivered released        the steady state
//!   lines      delivered_by[senders], released_by[senders]               only in *received* mode
//!   lines      received[senders], cut[senders], cut_ready                view changes
//! ```
//!
//! What a view change moves is published in this order, level by level, and observed in the
//! reverse (`group/membership`); a level is posted only when those before it are:
//!
//! ```text
//! 0   change, received, cut           data
//! 1   changes, wedged, leaving, cut_ready       what guards the data
//! 2   agreed, ended                   what rests on level 1
//! 3   suspects                        only after every agreement and echo made before
//! 4   installed                       this row is written; then: its owner is in the next view
//! 5   cold                            counts all of these: the one word that a quiet poll looks at
//! ```
//!
//! The changes are a journal, not a list that is overwritten: a record once counted by `changes`
//! never changes. A new leader's list is a record that names the ballot and cuts the old list, then
//! the records that differ. So one word guards ballot, list and length at once, nothing goes back
//! (T1), and there is neither a `ballot` nor a `proposed` column that could be read apart from it.
//!
//! A lane has a region of its own, and in it three rings one after the other:
//!
//! ```text
//! runs         places * 32 bytes   which indices the slots got: a record per take-up    turn thread
//! descriptors  places * 8 bytes    where each slot's payload lies, and how long it is   application
//! payloads     ring_bytes          payloads, each at a multiple of 16                   application
//!
//! run          word 0  index of its first message among its sender's, nulls included (bits 0..48),
//!                      epoch (48..64)
//!              word 1  slots before it
//!              word 2  its slots, adjoining, with adjoining indices
//!              word 3  time: the sender's clock, nanoseconds
//! descriptor   length (bits 0..31), offset / 16 (31..60), laps of the descriptors + 1 (60..64)
//! ```
//!
//! `places` is the window, rounded up to a power of two. Slot `n` has the descriptor `n % places`,
//! run `n` the record `n % places`: a run has a slot at least, so records never run out before slots.
//! A payload never crosses the end of its ring; where it begins is for the sender alone to choose.

use crate::base::{Count, Epoch, Members, Nanos, Number, Rank, Word};
use crate::limits::*;
use std::marker::PhantomData;

/// The first word of every control block: "squall" and a format byte.
pub const MAGIC: u64 = u64::from_le_bytes(*b"squall\0\x01");
/// Words of one record of the journal of changes: kind, end mark, position; who; address.
pub const RECORD_WORDS: usize = 4;
/// Records that one member may write in one epoch. Half of the largest group failing leader by
/// leader is 31 removals and 31 ballots; two joins, and a third again for proposals that a new
/// leader replaced. Whoever has no room left stops.
pub const RECORDS_MAX: usize = 96;
const _: () = assert!(RECORDS_MAX > MEMBERS_MAX + MEMBERS_MAX / 3 && RECORDS_MAX < 1 << 16);

/// A column: `len` adjoining words in every row.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Column<T> {
    pub name: &'static str,
    at: u32,
    pub len: u16,
    _of: PhantomData<T>,
}

impl<T> Clone for Column<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Column<T> {}

impl<T> Column<T> {
    /// Byte of cell `index` in the control block.
    #[inline(always)]
    pub fn byte(&self, index: usize) -> usize {
        assert!(index < usize::from(self.len), "cell outside its column");
        self.at as usize + index * 8
    }
}

/// What the words of `Members` mean in a cell: one word of the set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MembersWord(pub u64);
impl Word for MembersWord {
    fn to_word(self) -> u64 {
        self.0
    }
    fn from_word(word: u64) -> Self {
        MembersWord(word)
    }
}

impl Word for u64 {
    #[inline(always)]
    fn to_word(self) -> u64 {
        self
    }
    #[inline(always)]
    fn from_word(word: u64) -> Self {
        word
    }
}

/// How a subgroup delivers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum Mode {
    /// In the total order, once every member has the message.
    #[default]
    Stable,
    /// On receipt, in the order of each sender.
    ///
    /// Where views change: what a sender that goes on has sent every other member that goes on
    /// delivers, once, in order; what the view has not brought to all is sent again in the next one,
    /// and those who have it are not given it again. What a sender that does *not* go on had last
    /// sent some may have delivered that others never will, with no way to tell: where that matters,
    /// deliver stable.
    ///
    /// Who comes to a subgroup begins, of every sender, with the first message that not all who were
    /// there had; with a member's state, after what that member had.
    Received,
}

/// The figures of a subgroup that decide its layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Shape {
    pub senders: u16,
    pub lanes: u16,
    pub mode: Mode,
    /// Messages that a lane may have unreleased.
    pub window: u32,
    pub message_bytes_max: u32,
    /// Bytes of one lane's payloads.
    pub ring_bytes: u64,
}

/// Where the rings of a lane lie, in bytes from its first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneLayout {
    /// Records of runs, and descriptors: a power of two.
    pub places: u64,
    pub descriptors: u64,
    pub payloads: u64,
    /// All of it.
    pub bytes: u64,
}

impl Shape {
    pub fn lane(&self) -> LaneLayout {
        let line = LINE_BYTES as u64;
        let places = u64::from(self.window).next_power_of_two();
        let descriptors = (places * RUN_BYTES).next_multiple_of(line);
        let payloads = (descriptors + places * DESCRIPTOR_BYTES).next_multiple_of(line);
        let bytes = (payloads + self.ring_bytes).next_multiple_of(line);
        LaneLayout { places, descriptors, payloads, bytes }
    }
}

/// The columns of a subgroup.
#[derive(Clone, Debug)]
pub struct SubgroupColumns {
    /// Slots of mine in the ring, by lane. Lands before `head`.
    pub slots: Column<Count>,
    /// Indices given out, nulls included, by lane.
    pub head: Column<Count>,
    /// I have the order's prefix of that length.
    pub prefix: Column<Number>,
    /// The callbacks have returned.
    pub delivered: Column<Number>,
    /// No reader here is left in a slot.
    pub released: Column<Number>,
    /// In *received* mode: `delivered` and `released` by sender (else of length 0).
    pub delivered_by: Column<Count>,
    pub released_by: Column<Count>,
    /// Final receipt and ragged trim, published when wedged (part B).
    pub received: Column<Count>,
    pub cut: Column<Count>,
    pub cut_ready: Column<Epoch>,
}

#[derive(Clone, Debug)]
pub struct Layout {
    pub magic: Column<u64>,
    pub wire: Column<u64>,
    pub epoch: Column<Epoch>,
    pub digest_cell: Column<u64>,
    pub incarnation: Column<u64>,
    pub beat: Column<Nanos>,
    /// 0 awake, 1 asleep, 2 asleep and waiting for room in a ring (edge P).
    pub asleep: Column<u64>,
    /// 1 once this member has closed the group in good order; nothing of its row moves after.
    pub closed: Column<u64>,
    /// Records of the journal `change` that are written.
    pub changes: Column<Count>,
    /// The epoch, once `received` is final.
    pub wedged: Column<Epoch>,
    /// 1 once this member asks to be left out of the next view.
    pub leaving: Column<u64>,
    /// How many changes of the group's life a majority has: never taken back.
    pub agreed: Column<Count>,
    /// The epoch, once every subgroup of mine has delivered its cut.
    pub ended: Column<Epoch>,
    pub suspects: Column<MembersWord>,
    /// This block's epoch once the row is written; the next one once its owner has passed on.
    pub installed: Column<Epoch>,
    /// How often any column of this group has moved.
    pub cold: Column<u64>,
    pub change: Column<u64>,
    pub subgroups: Vec<SubgroupColumns>,
    pub shapes: Vec<Shape>,
    pub control_bytes: usize,
}

/// Hands out columns from the first byte on.
struct Ruler {
    at: usize,
}

impl Ruler {
    fn line(&mut self) {
        self.at = self.at.next_multiple_of(LINE_BYTES);
    }

    fn column<T>(&mut self, name: &'static str, len: usize) -> Column<T> {
        let column = Column { name, at: self.at as u32, len: len as u16, _of: PhantomData };
        self.at += len * 8;
        column
    }
}

impl Layout {
    pub fn new(shapes: &[Shape]) -> Layout {
        assert!(shapes.len() <= SUBGROUPS_MAX);
        let mut ruler = Ruler { at: 0 };
        let r = &mut ruler;
        let (magic, wire, epoch) =
            (r.column("magic", 1), r.column("wire", 1), r.column("epoch", 1));
        let (digest_cell, incarnation) = (r.column("digest", 1), r.column("incarnation", 1));
        r.line();
        let beat = r.column("beat", 1);
        r.line();
        let (asleep, closed) = (r.column("asleep", 1), r.column("closed", 1));
        r.line();
        let (changes, wedged) = (r.column("changes", 1), r.column("wedged", 1));
        let leaving = r.column("leaving", 1);
        let (agreed, ended) = (r.column("agreed", 1), r.column("ended", 1));
        let suspects = r.column("suspects", MEMBERS_WORDS);
        let (installed, cold) = (r.column("installed", 1), r.column("cold", 1));
        r.line();
        let change = r.column("change", RECORDS_MAX * RECORD_WORDS);
        let subgroups = shapes.iter().map(|shape| SubgroupColumns::new(r, shape)).collect();
        r.line();
        let control_bytes = r.at;
        let shapes = shapes.to_vec();
        Layout {
            magic,
            wire,
            epoch,
            digest_cell,
            incarnation,
            beat,
            asleep,
            closed,
            changes,
            wedged,
            leaving,
            agreed,
            ended,
            suspects,
            installed,
            cold,
            change,
            subgroups,
            shapes,
            control_bytes,
        }
    }

    /// Bytes of the region that holds all lanes of one member in a subgroup.
    pub fn rings_bytes(&self, subgroup: usize) -> usize {
        let shape = &self.shapes[subgroup];
        shape.lane().bytes as usize * usize::from(shape.lanes)
    }
}

impl SubgroupColumns {
    fn new(r: &mut Ruler, shape: &Shape) -> SubgroupColumns {
        let (lanes, senders) = (usize::from(shape.lanes), usize::from(shape.senders));
        let by_sender = if shape.mode == Mode::Received { senders } else { 0 };
        r.line();
        let (slots, head) = (r.column("slots", lanes), r.column("head", lanes));
        let (prefix, delivered) = (r.column("prefix", 1), r.column("delivered", 1));
        let released = r.column("released", 1);
        r.line();
        let delivered_by = r.column("delivered_by", by_sender);
        let released_by = r.column("released_by", by_sender);
        r.line();
        let (received, cut) = (r.column("received", senders), r.column("cut", senders));
        let cut_ready = r.column("cut_ready", 1);
        SubgroupColumns {
            slots,
            head,
            prefix,
            delivered,
            released,
            delivered_by,
            released_by,
            received,
            cut,
            cut_ready,
        }
    }
}

/// A set of members as the words of a column.
pub fn members_words(set: Members) -> [MembersWord; MEMBERS_WORDS] {
    let mut words = [MembersWord(0); MEMBERS_WORDS];
    for rank in set.iter() {
        words[rank.index() / 64].0 |= 1 << (rank.index() % 64);
    }
    words
}

/// The set whose words these are.
pub fn members_of(words: [MembersWord; MEMBERS_WORDS]) -> Members {
    let bits = |word: MembersWord| (0..64u16).filter(move |bit| word.0 >> bit & 1 == 1);
    let ranks = words.into_iter().enumerate();
    Members::from_ranks(
        ranks.flat_map(|(at, word)| bits(word).map(move |bit| Rank((at * 64) as u16 + bit))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(lanes: u16, senders: u16, mode: Mode) -> Shape {
        Shape { senders, lanes, mode, window: 8, message_bytes_max: 64, ring_bytes: 4096 }
    }

    #[test]
    fn the_steady_state_of_one_lane_is_one_half_line() {
        let layout = Layout::new(&[shape(1, 3, Mode::Stable), shape(8, 24, Mode::Received)]);
        let hot = &layout.subgroups[0];
        assert_eq!(hot.slots.byte(0) % LINE_BYTES, 0);
        assert_eq!(hot.released.byte(0) - hot.slots.byte(0), 4 * 8);
        assert_eq!(hot.released_by.len, 0);
        let wide = &layout.subgroups[1];
        assert!(wide.released_by.byte(23) < wide.received.byte(0));
        assert_eq!(wide.received.byte(0) % LINE_BYTES, 0);
        assert_eq!(layout.control_bytes % LINE_BYTES, 0);
    }

    #[test]
    fn a_cell_beyond_its_column_is_refused() {
        let layout = Layout::new(&[shape(1, 3, Mode::Stable)]);
        crate::mutants::must_panic("outside its column", || {
            layout.subgroups[0].head.byte(1);
        });
    }
}
