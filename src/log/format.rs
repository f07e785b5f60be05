// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a log lies on the disk, byte by byte. All words are little-endian.
//!
//! A log is a directory: `lock` (the pid of its process, as text), `anchor`, and *segments*, files
//! named by the position of their first record (16 hexadecimal digits, `.log`). A *position* counts
//! the records of a log from 0.
//!
//! ```text
//! a segment                                   a record, at a multiple of 8 in its segment
//!   0  u8×8 "SQUALLOG"                          0  u8×2 "SQ"
//!   8  u32  format version                      2  u8   kind: 1 message, 2 view, 3 trim,
//!  12  u32  4096: here records begin                    4 confirm, 5 filler (`Kind`)
//!  16  u64  identity of the log                 3  u8   flags
//!  24  u64  owner, as `Options` says            4  u16  rank of the sender in its epoch
//!  32  u64  position of its first record        6  u8   lane
//!  40  u64  epoch  } of the last agreed         7  u8   0
//!  48  u64  number } record before it           8  u32  bytes of the payload
//!  56  u64  stamp  }                           12  u32  CRC32C of the payload
//!  64  u32  chain  }                           16  u64  epoch
//!  68  u32  0                                  24  u64  number
//!  72  u64  first position of the segment      32  u64  stamp: hybrid clock (`stamp`)
//!           before it, or 2^64 - 1             40  u16  seat of the sender
//!  80  u64  bytes allocated                    42  u16  0
//!  88       0                                  44  u32  chain of the agreed record before it
//! 124  u32  CRC32C of bytes 0..124             48  u64  position
//! 128       0, up to 4096                      56  u32  position less the durable frontier then
//!                                              60  u32  CRC32C of bytes 0..60, from the identity on
//! the anchor: two slots, at 0 and 4096         64       payload, then zeros up to a multiple of 8
//!   0  u8×8 "SQUALANC"
//!   8  u32  format version                     40  u64  begins at: records below are trimmed
//!  12  u32  1 being made, 2 in use             48  u64  records below were durable then
//!  16  u64  generation; its slot is 4096 ×     56  u64  all from here on is to be erased, or
//!           its last bit; the highest counts            2^64 - 1
//!  24  u64  identity of the log                64       0
//!  32  u64  owner                             124  u32  CRC32C of bytes 0..124
//! ```
//!
//! Behind the last record all is zeros (V3). Magic, version and checksum stay where they are in every
//! version of the format.
//!
//! V1  A record is good if its head's checksum and its payload's hold, its position is the next one,
//!     and its chain is that of the agreed record before it: CRC32C of bytes 0..48 of that one. What
//!     members agree on is in there, and nothing else: of one history the chains are the same at all.
//! V2  A record claims that those below `position - unsynced` were durable when it was written. A bad
//!     record below such a claim is *damage*. A bad one that nothing claims was never promised: the
//!     log ends there (a *torn tail*), whatever lies behind it, because a disk may write in any order.
//! V3  A torn tail is erased before anything is appended, so that nothing of it is ever read again.

use crate::base::{Epoch, Number};
use crc32c::{crc32c, crc32c_append};

/// Version of the format. An older or newer one is recognised and refused.
pub const FORMAT_VERSION: u32 = 1;
/// Bytes of a record's head.
pub const HEAD_BYTES: u64 = 64;
/// Where a segment's records begin.
pub const RECORDS_AT: u64 = 4096;
/// Bytes of a file's or slot's head that mean something.
pub const PREFACE_BYTES: usize = 128;
/// Records begin at multiples of this.
pub const RECORD_ALIGN: u64 = 8;
/// What is agreed of a head.
const AGREED_BYTES: usize = 48;
const SUM_AT: usize = PREFACE_BYTES - 4;
const NONE: u64 = u64::MAX;

/// Where a message stands in its subgroup's history. A view's record is at number 0 of its epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Version {
    pub epoch: Epoch,
    pub number: Number,
}

/// What a record is.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Message = 1,
    /// A view was installed; its bytes are the caller's.
    View = 2,
    /// The ragged trim of an epoch; its bytes are the caller's.
    Trim = 3,
    /// What this member's application has confirmed. Each member has its own: not in the chain.
    Confirm = 4,
    /// Stands where a repair did not know what had been (`repair`). Not in the chain.
    Filler = 5,
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Message, Kind::View, Kind::Trim, Kind::Confirm, Kind::Filler];

    /// Whether all members have it alike, so that it is in the chain.
    pub fn is_agreed(self) -> bool {
        matches!(self, Kind::Message | Kind::View | Kind::Trim)
    }
}

/// What is said of a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label {
    pub kind: Kind,
    pub flags: u8,
    pub rank: u16,
    pub lane: u8,
    pub seat: u16,
    pub version: Version,
    /// As `stamp::Stamp`.
    pub stamp: u64,
}

/// A record to be appended; the bytes stay where they are until `appended` covers them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    pub label: Label,
    pub payload: &'a [u8],
}

/// A record's head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    pub label: Label,
    pub len: u32,
    /// Of the payload.
    pub sum: u32,
    /// Chain of the agreed record before.
    pub before: u32,
    pub position: u64,
    pub unsynced: u32,
}

/// The end of a prefix of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tip {
    /// Of the next record.
    pub position: u64,
    /// Of the last agreed record, like version and stamp.
    pub chain: u32,
    pub version: Version,
    pub stamp: u64,
}

impl Tip {
    pub fn after(self, head: &Head) -> Tip {
        let position = self.position + 1;
        match head.label.kind.is_agreed() {
            true => Tip {
                position,
                chain: head.chain(),
                version: head.label.version,
                stamp: head.label.stamp,
            },
            false => Tip { position, ..self },
        }
    }
}

/// With what the checksums of a log's heads begin: records of another log are none of this one.
pub fn seed_of(identity: u64) -> u32 {
    crc32c(&identity.to_le_bytes())
}

/// Bytes that a record with so long a payload takes.
pub fn record_bytes(payload: u64) -> u64 {
    HEAD_BYTES + payload.next_multiple_of(RECORD_ALIGN)
}

fn put(bytes: &mut [u8], at: usize, word: &[u8]) {
    bytes[at..at + word.len()].copy_from_slice(word);
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

impl Head {
    pub const MAGIC: [u8; 2] = *b"SQ";

    pub fn of(entry: &Entry<'_>, tip: &Tip, unsynced: u32) -> Head {
        let len = u32::try_from(entry.payload.len()).expect("a message has less than 4 GiB");
        let sum = crc32c(entry.payload);
        Head { label: entry.label, len, sum, before: tip.chain, position: tip.position, unsynced }
    }

    pub fn to_bytes(&self, seed: u32) -> [u8; HEAD_BYTES as usize] {
        let mut bytes = self.agreed();
        put(&mut bytes, 48, &self.position.to_le_bytes());
        put(&mut bytes, 56, &self.unsynced.to_le_bytes());
        let check = crc32c_append(seed, &bytes[..60]);
        put(&mut bytes, 60, &check.to_le_bytes());
        bytes
    }

    fn agreed(&self) -> [u8; HEAD_BYTES as usize] {
        let Label { kind, flags, rank, lane, seat, version, stamp } = self.label;
        let mut bytes = [0; HEAD_BYTES as usize];
        put(&mut bytes, 0, &Head::MAGIC);
        put(&mut bytes, 2, &[kind as u8, flags]);
        put(&mut bytes, 4, &rank.to_le_bytes());
        bytes[6] = lane;
        put(&mut bytes, 8, &self.len.to_le_bytes());
        put(&mut bytes, 12, &self.sum.to_le_bytes());
        put(&mut bytes, 16, &version.epoch.0.to_le_bytes());
        put(&mut bytes, 24, &version.number.0.to_le_bytes());
        put(&mut bytes, 32, &stamp.to_le_bytes());
        put(&mut bytes, 40, &seat.to_le_bytes());
        put(&mut bytes, 44, &self.before.to_le_bytes());
        bytes
    }

    /// `None`: that is no head of a record of this log.
    pub fn parse(bytes: &[u8], seed: u32) -> Option<Head> {
        if bytes.len() < HEAD_BYTES as usize || bytes[..2] != Head::MAGIC {
            return None;
        }
        let check = crc32c_append(seed, &bytes[..60]);
        if check != u32_at(bytes, 60) && !crate::mutant!("log-garbage-is-a-record") {
            return None;
        }
        let label = Label {
            kind: Kind::ALL.into_iter().find(|kind| *kind as u8 == bytes[2])?,
            flags: bytes[3],
            rank: u16_at(bytes, 4),
            lane: bytes[6],
            seat: u16_at(bytes, 40),
            version: Version { epoch: Epoch(u64_at(bytes, 16)), number: Number(u64_at(bytes, 24)) },
            stamp: u64_at(bytes, 32),
        };
        Some(Head {
            label,
            len: u32_at(bytes, 8),
            sum: u32_at(bytes, 12),
            before: u32_at(bytes, 44),
            position: u64_at(bytes, 48),
            unsynced: u32_at(bytes, 56),
        })
    }

    pub fn chain(&self) -> u32 {
        crc32c(&self.agreed()[..AGREED_BYTES])
    }

    /// Records below this one were durable when this one was written (V2).
    pub fn claim(&self) -> u64 {
        self.position.saturating_sub(u64::from(self.unsynced))
    }

    pub fn bytes(&self) -> u64 {
        record_bytes(u64::from(self.len))
    }
}

/// What the head of a file or slot is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Preface<T> {
    Good(T),
    /// It is whole, and of that version of the format.
    Foreign(u32),
    Bad,
}

/// What a preface of this kind holds, if it is whole and of this version.
fn preface<T>(bytes: &[u8], magic: &[u8; 8], parse: impl FnOnce(&[u8]) -> Option<T>) -> Preface<T> {
    let whole = bytes.len() >= PREFACE_BYTES
        && bytes[..8] == *magic
        && u32_at(bytes, SUM_AT) == crc32c(&bytes[..SUM_AT]);
    match (whole, u32_at(bytes.get(..12).unwrap_or(&[0; 12]), 8)) {
        (true, FORMAT_VERSION) => parse(bytes).map_or(Preface::Bad, Preface::Good),
        (true, version) => Preface::Foreign(version),
        _ => Preface::Bad,
    }
}

fn sealed(mut bytes: [u8; PREFACE_BYTES]) -> [u8; PREFACE_BYTES] {
    let sum = crc32c(&bytes[..SUM_AT]);
    put(&mut bytes, SUM_AT, &sum.to_le_bytes());
    bytes
}

/// The head of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHead {
    pub identity: u64,
    pub owner: u64,
    /// The end of what is before it: its first record has that position.
    pub tip: Tip,
    /// First position of the segment before it.
    pub previous: Option<u64>,
    pub bytes: u64,
}

impl SegmentHead {
    const MAGIC: &[u8; 8] = b"SQUALLOG";

    pub fn to_bytes(self) -> [u8; PREFACE_BYTES] {
        let mut bytes = [0; PREFACE_BYTES];
        put(&mut bytes, 0, SegmentHead::MAGIC);
        put(&mut bytes, 8, &FORMAT_VERSION.to_le_bytes());
        put(&mut bytes, 12, &(RECORDS_AT as u32).to_le_bytes());
        put(&mut bytes, 16, &self.identity.to_le_bytes());
        put(&mut bytes, 24, &self.owner.to_le_bytes());
        put(&mut bytes, 32, &self.tip.position.to_le_bytes());
        put(&mut bytes, 40, &self.tip.version.epoch.0.to_le_bytes());
        put(&mut bytes, 48, &self.tip.version.number.0.to_le_bytes());
        put(&mut bytes, 56, &self.tip.stamp.to_le_bytes());
        put(&mut bytes, 64, &self.tip.chain.to_le_bytes());
        put(&mut bytes, 72, &self.previous.unwrap_or(NONE).to_le_bytes());
        put(&mut bytes, 80, &self.bytes.to_le_bytes());
        sealed(bytes)
    }

    pub fn parse(bytes: &[u8]) -> Preface<SegmentHead> {
        preface(bytes, SegmentHead::MAGIC, |bytes| {
            let version =
                Version { epoch: Epoch(u64_at(bytes, 40)), number: Number(u64_at(bytes, 48)) };
            let tip = Tip {
                position: u64_at(bytes, 32),
                chain: u32_at(bytes, 64),
                version,
                stamp: u64_at(bytes, 56),
            };
            let previous = Some(u64_at(bytes, 72)).filter(|previous| *previous != NONE);
            (u32_at(bytes, 12) == RECORDS_AT as u32).then_some(SegmentHead {
                identity: u64_at(bytes, 16),
                owner: u64_at(bytes, 24),
                tip,
                previous,
                bytes: u64_at(bytes, 80),
            })
        })
    }

    /// The file of the segment with that first position.
    pub fn name(first: u64) -> String {
        format!("{first:016x}.log")
    }

    /// The first position of a segment with that name; `None`: that is no segment.
    pub fn first_of(name: &str) -> Option<u64> {
        let digits = name.strip_suffix(".log").filter(|digits| digits.len() == 16)?;
        let first = u64::from_str_radix(digits, 16).ok()?;
        (SegmentHead::name(first) == name).then_some(first)
    }
}

/// A slot of the anchor: what of a log is not in its records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Anchor {
    pub in_use: bool,
    pub generation: u64,
    pub identity: u64,
    pub owner: u64,
    /// Records below are trimmed.
    pub begins_at: u64,
    /// Records below were durable.
    pub synced: u64,
    /// All from here on is to be erased.
    pub erase_from: Option<u64>,
}

impl Anchor {
    pub const NAME: &str = "anchor";
    pub const SLOT_BYTES: u64 = 4096;
    const MAGIC: &[u8; 8] = b"SQUALANC";

    pub fn to_bytes(self) -> [u8; PREFACE_BYTES] {
        let mut bytes = [0; PREFACE_BYTES];
        put(&mut bytes, 0, Anchor::MAGIC);
        put(&mut bytes, 8, &FORMAT_VERSION.to_le_bytes());
        put(&mut bytes, 12, &(1 + u32::from(self.in_use)).to_le_bytes());
        put(&mut bytes, 16, &self.generation.to_le_bytes());
        put(&mut bytes, 24, &self.identity.to_le_bytes());
        put(&mut bytes, 32, &self.owner.to_le_bytes());
        put(&mut bytes, 40, &self.begins_at.to_le_bytes());
        put(&mut bytes, 48, &self.synced.to_le_bytes());
        put(&mut bytes, 56, &self.erase_from.unwrap_or(NONE).to_le_bytes());
        sealed(bytes)
    }

    pub fn parse(bytes: &[u8]) -> Preface<Anchor> {
        preface(bytes, Anchor::MAGIC, |bytes| {
            let state = u32_at(bytes, 12);
            [1, 2].contains(&state).then_some(Anchor {
                in_use: state == 2,
                generation: u64_at(bytes, 16),
                identity: u64_at(bytes, 24),
                owner: u64_at(bytes, 32),
                begins_at: u64_at(bytes, 40),
                synced: u64_at(bytes, 48),
                erase_from: Some(u64_at(bytes, 56)).filter(|from| *from != NONE),
            })
        })
    }

    /// Where the slot of its generation is.
    pub fn slot(self) -> u64 {
        (self.generation & 1) * Anchor::SLOT_BYTES
    }
}
