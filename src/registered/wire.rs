// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes through a stream, in records of 64 bytes; all numbers are little-endian.
//!
//! ```text
//!  0  magic (32 bits), version (8), kind (8), flags (16)
//!  8  the operation's number: 0 and up, by one
//! 16  region   24  offset   32  bytes   40  word   48  status   56  0
//! ```
//!
//! Who has opened the stream says `hello`, and is answered by one: the five words from 8 on are the numbers
//! of its queue (`direct::Endpoint`), zeros if it has none. It may say so again: the queue before is none
//! any more. It asks: `put`, with its bytes after it, and `get`. The
//! other side answers in the same order: `done` with a status; before it, of a get, `data` with bytes
//! after each. Bytes of one operation go on where those before ended. After a put that is flagged `landed`
//! none come: they are there.

use super::direct::Endpoint;
use crate::error::Status;

pub const RECORD_BYTES: usize = 64;
const MAGIC: u32 = 0x4d51_7301;
const VERSION: u8 = 1;
/// In the flags of a put: its owner is to hear of it.
pub const ANNOUNCE: u16 = 1;
/// Of a put: its bytes have gone another way.
pub const LANDED: u16 = 2;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    Hello = 1,
    Put = 2,
    Get = 3,
    Data = 4,
    Done = 5,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    pub kind: Kind,
    pub flags: u16,
    pub number: u64,
    pub region: u64,
    pub offset: u64,
    pub bytes: u64,
    pub word: u64,
    pub status: i64,
}

impl Record {
    pub fn of(kind: Kind) -> Record {
        let (number, region, offset, bytes, word, status) = (0, 0, 0, 0, 0, 0);
        Record { kind, flags: 0, number, region, offset, bytes, word, status }
    }

    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let first = u64::from(MAGIC)
            | u64::from(VERSION) << 32
            | (self.kind as u64) << 40
            | u64::from(self.flags) << 48;
        let status = self.status as u64;
        let words =
            [first, self.number, self.region, self.offset, self.bytes, self.word, status, 0];
        let mut bytes = [0; RECORD_BYTES];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// `None`: no record of this version.
    pub fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<Record> {
        let word = |at: usize| {
            u64::from_le_bytes(bytes[at * 8..at * 8 + 8].try_into().expect("eight bytes"))
        };
        let first = word(0);
        let kinds = [Kind::Hello, Kind::Put, Kind::Get, Kind::Data, Kind::Done];
        let kind = kinds.into_iter().find(|kind| *kind as u64 == first >> 40 & 0xff)?;
        let sound = first as u32 == MAGIC && (first >> 32) as u8 == VERSION && word(7) == 0;
        sound.then_some(Record {
            kind,
            flags: (first >> 48) as u16,
            number: word(1),
            region: word(2),
            offset: word(3),
            bytes: word(4),
            word: word(5),
            status: word(6) as i64,
        })
    }

    /// A hello with these numbers.
    pub fn hello(endpoint: &Endpoint) -> Record {
        let [number, region, offset, bytes, word] = *endpoint;
        Record { number, region, offset, bytes, word, ..Record::of(Kind::Hello) }
    }

    /// Those of a hello; `None`: there is no queue.
    pub fn endpoint(&self) -> Option<Endpoint> {
        let endpoint = [self.number, self.region, self.offset, self.bytes, self.word];
        (endpoint != [0; 5]).then_some(endpoint)
    }

    /// How an operation came out there, in a word of mine.
    pub fn outcome(&self) -> Status {
        let code = i32::try_from(self.status).ok().and_then(Status::from_code);
        code.unwrap_or(Status::System)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn fuzz_any_bytes_are_a_record_or_none(bytes in proptest::array::uniform32(any::<u8>())) {
            let mut record = [0; RECORD_BYTES];
            record[..32].copy_from_slice(&bytes);
            if let Some(decoded) = Record::decode(&record) {
                prop_assert_eq!(decoded.encode(), record);
            }
            record[..6].copy_from_slice(&Record::of(Kind::Put).encode()[..6]);
            let decoded = Record::decode(&record).expect("a sound record");
            prop_assert_eq!(decoded.encode(), record);
        }
    }
}
