// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records: what the catch-up part of a transfer is made of, on the tape and on the wire alike.
//!
//! A head of 32 bytes, little-endian, then the payload, then zeros up to a multiple of 8:
//!
//! ```text
//!  0  u32  bytes of the payload        8  u64  number              24  u16  subgroup
//!  4  u8   kind: 1 message, 2 view, 16  u64  time, nanoseconds   26  u16  0
//!          3 end                                                  28  u32  0
//!  5  u8   lane
//!  6  u16  rank
//! ```
//!
//! Views and ends have 0 in every field but length and kind; their payload is that of `Version`
//! and `End`. A reader believes nothing: lengths are bounded before anything is set aside, ranks
//! and subgroups belong to the version in force, numbers of an ordered subgroup rise.

use super::flaw::Flaw;
use crate::base::{Epoch, Number};
use crate::limits::{MEMBERS_MAX, SUBGROUPS_MAX};

/// Bytes of a record's head.
pub const HEAD_BYTES: usize = 32;
/// What the driver may send along with the end: roster, carry, addresses.
pub const EXTRA_BYTES_MAX: usize = 1 << 20;

/// How far one subgroup is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    pub subgroup: u16,
    /// One number for all its messages (*stable* mode), or one per sender (*received* mode; then
    /// `number` means nothing).
    pub ordered: bool,
    /// Messages with numbers below it are in the state.
    pub number: Number,
}

/// What a state contains, and whom ranks mean from there on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Version {
    pub epoch: Epoch,
    /// The subgroups that are transferred, ascending.
    pub positions: Vec<Position>,
    /// By rank of that epoch's view: the incarnation of each member, as the roster has it.
    pub members: Vec<u64>,
}

/// The end of the view before the one in which the joiner is a member.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct End {
    /// The view that begins.
    pub epoch: Epoch,
    /// Where the subgroups ended in the old view.
    pub finals: Vec<Position>,
    /// What the driver wants the joiner to have: at least roster and carry.
    pub extra: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    pub len: u32,
    pub kind: u8,
    pub lane: u8,
    pub rank: u16,
    pub number: u64,
    pub time_ns: u64,
    pub subgroup: u16,
}

pub const MESSAGE: u8 = 1;
pub const VIEW: u8 = 2;
pub const END: u8 = 3;

impl Head {
    pub fn plain(kind: u8, len: usize) -> Head {
        Head { len: len as u32, kind, lane: 0, rank: 0, number: 0, time_ns: 0, subgroup: 0 }
    }

    #[inline(always)]
    pub fn to_bytes(self) -> [u8; HEAD_BYTES] {
        let first = u64::from(self.len)
            | u64::from(self.kind) << 32
            | u64::from(self.lane) << 40
            | u64::from(self.rank) << 48;
        let mut bytes = [0; HEAD_BYTES];
        bytes[..8].copy_from_slice(&first.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.time_ns.to_le_bytes());
        bytes[24..].copy_from_slice(&u64::from(self.subgroup).to_le_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8; HEAD_BYTES], payload_max: u32) -> Result<Head, Flaw> {
        let word = |at: usize| {
            u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes of thirty-two"))
        };
        let first = word(0);
        let head = Head {
            len: first as u32,
            kind: (first >> 32) as u8,
            lane: (first >> 40) as u8,
            rank: (first >> 48) as u16,
            number: word(8),
            time_ns: word(16),
            subgroup: word(24) as u16,
        };
        let most = if head.kind == MESSAGE { payload_max } else { PLAIN_BYTES_MAX as u32 };
        if head.len > most {
            return Err(Flaw::TooLong { len: u64::from(head.len), most: u64::from(most) });
        }
        let plain = head == Head::plain(head.kind, head.len as usize);
        let sound = match head.kind {
            MESSAGE => true,
            VIEW | END => plain,
            _ => false,
        };
        if !sound || word(24) >> 16 != 0 {
            return Err(Flaw::Record { word: first });
        }
        Ok(head)
    }

    /// Bytes of the whole record.
    #[inline(always)]
    pub fn bytes(&self) -> u64 {
        HEAD_BYTES as u64 + u64::from(self.len).next_multiple_of(8)
    }
}

const POSITION_BYTES: usize = 12;
/// The longest `Version`.
pub const VERSION_BYTES_MAX: usize = 8 + 2 + POSITION_BYTES * SUBGROUPS_MAX + 2 + 8 * MEMBERS_MAX;
/// The longest `Version` or `End`.
const PLAIN_BYTES_MAX: usize = 8 + 2 + POSITION_BYTES * SUBGROUPS_MAX + 4 + EXTRA_BYTES_MAX;
const _: () = assert!(VERSION_BYTES_MAX < PLAIN_BYTES_MAX);

fn put_positions(positions: &[Position], bytes: &mut Vec<u8>) {
    assert!(positions.len() <= SUBGROUPS_MAX);
    assert!(positions.is_sorted_by(|one, next| one.subgroup < next.subgroup));
    bytes.extend_from_slice(&(positions.len() as u16).to_le_bytes());
    for position in positions {
        bytes.extend_from_slice(&position.subgroup.to_le_bytes());
        bytes.extend_from_slice(&u16::from(position.ordered).to_le_bytes());
        bytes.extend_from_slice(&position.number.0.to_le_bytes());
    }
}

impl Version {
    pub fn to_bytes(&self) -> Vec<u8> {
        assert!(self.members.len() <= MEMBERS_MAX);
        let mut bytes = self.epoch.0.to_le_bytes().to_vec();
        put_positions(&self.positions, &mut bytes);
        bytes.extend_from_slice(&(self.members.len() as u16).to_le_bytes());
        self.members.iter().for_each(|member| bytes.extend_from_slice(&member.to_le_bytes()));
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Version, Flaw> {
        let mut fields = Fields(bytes);
        let epoch = Epoch(fields.u64()?);
        let positions = fields.positions()?;
        let count = usize::from(fields.u16()?);
        if count > MEMBERS_MAX {
            return Err(Flaw::Field { value: count as u64 });
        }
        let members = (0..count).map(|_| fields.u64()).collect::<Result<_, _>>()?;
        fields.finish()?;
        Ok(Version { epoch, positions, members })
    }
}

impl End {
    pub fn to_bytes(&self) -> Vec<u8> {
        assert!(self.extra.len() <= EXTRA_BYTES_MAX, "what goes along with the end is bounded");
        let mut bytes = self.epoch.0.to_le_bytes().to_vec();
        put_positions(&self.finals, &mut bytes);
        bytes.extend_from_slice(&(self.extra.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.extra);
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<End, Flaw> {
        let mut fields = Fields(bytes);
        let epoch = Epoch(fields.u64()?);
        let finals = fields.positions()?;
        let len = fields.u32()? as usize;
        let extra = fields.take(len)?.to_vec();
        fields.finish()?;
        Ok(End { epoch, finals, extra })
    }
}

/// Fields one after the other, from bytes that may be anything.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Flaw> {
        let (first, rest) = self.0.split_at_checked(len).ok_or(Flaw::Short)?;
        self.0 = rest;
        Ok(first)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        Ok(self.take(N)?.try_into().expect("as many as were taken"))
    }

    pub fn u16(&mut self) -> Result<u16, Flaw> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Flaw> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Flaw> {
        self.array().map(u64::from_le_bytes)
    }

    fn positions(&mut self) -> Result<Vec<Position>, Flaw> {
        let count = usize::from(self.u16()?);
        if count > SUBGROUPS_MAX {
            return Err(Flaw::Field { value: count as u64 });
        }
        let mut positions: Vec<Position> = Vec::with_capacity(count);
        for _ in 0..count {
            let (subgroup, ordered, number) = (self.u16()?, self.u16()?, Number(self.u64()?));
            let rises = positions.last().is_none_or(|before| before.subgroup < subgroup);
            if usize::from(subgroup) >= SUBGROUPS_MAX || ordered > 1 || !rises {
                return Err(Flaw::Field { value: u64::from(subgroup) });
            }
            positions.push(Position { subgroup, ordered: ordered == 1, number });
        }
        Ok(positions)
    }

    /// Nothing is left.
    pub fn finish(self) -> Result<(), Flaw> {
        if self.0.is_empty() { Ok(()) } else { Err(Flaw::Field { value: self.0.len() as u64 }) }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn version() -> impl Strategy<Value = Version> {
        let numbers = proptest::collection::vec((any::<bool>(), any::<u64>()), 0..=SUBGROUPS_MAX);
        let members = proptest::collection::vec(any::<u64>(), 0..=MEMBERS_MAX);
        (any::<u64>(), numbers, members).prop_map(|(epoch, numbers, members)| {
            let position = |(subgroup, (ordered, number))| Position {
                subgroup,
                ordered,
                number: Number(number),
            };
            let positions = (0..).zip(numbers).map(position).collect();
            Version { epoch: Epoch(epoch), positions, members }
        })
    }

    proptest! {
        #[test]
        fn versions_and_ends_come_back(version in version(), extra in any::<Vec<u8>>()) {
            let bytes = version.to_bytes();
            prop_assert!(bytes.len() <= VERSION_BYTES_MAX);
            prop_assert_eq!(Version::from_bytes(&bytes), Ok(version.clone()));
            prop_assert!((0..bytes.len()).all(|cut| Version::from_bytes(&bytes[..cut]).is_err()));
            let end = End { epoch: version.epoch, finals: version.positions, extra };
            let bytes = end.to_bytes();
            prop_assert_eq!(End::from_bytes(&bytes), Ok(end));
            prop_assert!((0..bytes.len()).all(|cut| End::from_bytes(&bytes[..cut]).is_err()));
        }

        #[test]
        fn fuzz_any_bytes_are_read_without_harm(bytes in any::<Vec<u8>>(), head in any::<[u8; 32]>()) {
            let _ = (Version::from_bytes(&bytes), End::from_bytes(&bytes));
            if let Ok(read) = Head::from_bytes(&head, 1 << 20) {
                prop_assert_eq!(read.to_bytes(), head);
                prop_assert!(read.len <= 1 << 21);
            }
        }

        #[test]
        fn heads_come_back(len in 0..1000u32, lane: u8, rank: u16, number: u64, time_ns: u64) {
            let head = Head { len, kind: MESSAGE, lane, rank, number, time_ns, subgroup: rank };
            prop_assert_eq!(Head::from_bytes(&head.to_bytes(), 1000), Ok(head));
            prop_assert!(len == 0 || Head::from_bytes(&head.to_bytes(), len - 1).is_err());
        }
    }
}
