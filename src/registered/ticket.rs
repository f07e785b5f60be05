// SPDX-License-Identifier: MIT OR Apache-2.0
//! What names a region elsewhere: 64 bytes, to be passed on as they are.
//!
//! ```text
//! word 0   magic (32 bits), version (8), rights (8: 1 read, 2 write), 0 (16)
//!      1   the owner's incarnation
//!      2   the region's number there; numbers are not used again
//!      3   bytes
//!      4   for network devices that reach it themselves: its address
//!      5   key (32 bits), 1 if there is one (bit 32), 2 if a put needs a flush (bit 33)
//!      6   0
//!      7   a checksum of the others
//! ```
//!
//! A ticket permits nothing: the owner looks at each chunk whether the region is there still, and what
//! it may be used for.

use super::Rights;
use crate::error::{Error, Status};

const MAGIC: u64 = 0x5471_7301;
const WORDS: usize = 8;

/// Names a region of some member's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket([u64; WORDS]);

impl Ticket {
    /// Without keys.
    #[cfg(test)]
    pub(super) fn new(incarnation: u64, region: u64, bytes: u64, rights: Rights) -> Ticket {
        Ticket::with(incarnation, region, bytes, rights, None)
    }

    /// `keys`: address, key, and whether a put needs a flush.
    pub(super) fn with(
        incarnation: u64,
        region: u64,
        bytes: u64,
        rights: Rights,
        keys: Option<(u64, u32, bool)>,
    ) -> Ticket {
        let rights = u64::from(rights.read) | u64::from(rights.write) << 1;
        let mut words = [MAGIC | 1 << 32 | rights << 40, incarnation, region, bytes, 0, 0, 0, 0];
        if let Some((address, key, flush)) = keys {
            (words[4], words[5]) = (address, u64::from(key) | 1 << 32 | u64::from(flush) << 33);
        }
        words[WORDS - 1] = sum(&words);
        Ticket(words)
    }

    /// What is passed on.
    pub fn words(&self) -> [u64; WORDS] {
        self.0
    }

    /// What was passed on.
    pub fn from_words(words: [u64; WORDS]) -> Result<Ticket, Error> {
        if words[0] as u32 != MAGIC as u32 || words[WORDS - 1] != sum(&words) {
            let detail = "these 64 bytes are no ticket: pass on those that the owner has got, as they \
                          are";
            return Err(Error::new(Status::Invalid, detail));
        }
        let version = words[0] >> 32 & 0xff;
        if version != 1 {
            let detail = format!("a ticket of version {version}, this library knows version 1");
            return Err(Error::new(Status::WireVersion, detail));
        }
        Ok(Ticket(words))
    }

    /// Whose region it is.
    pub fn incarnation(&self) -> u64 {
        self.0[1]
    }

    pub fn bytes(&self) -> u64 {
        self.0[3]
    }

    pub fn rights(&self) -> Rights {
        let bits = self.0[0] >> 40;
        Rights { read: bits & 1 == 1, write: bits & 2 == 2 }
    }

    /// As in `with`.
    pub(super) fn keys(&self) -> Option<(u64, u32, bool)> {
        let there = self.0[5] >> 32 & 1 == 1;
        there.then_some((self.0[4], self.0[5] as u32, self.0[5] >> 33 & 1 == 1))
    }

    pub(super) fn region(&self) -> u64 {
        self.0[2]
    }
}

fn sum(words: &[u64; WORDS]) -> u64 {
    let bytes: Vec<u8> = words[..WORDS - 1].iter().flat_map(|word| word.to_le_bytes()).collect();
    crc32c::crc32c(&bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_ticket_is_refused() {
        let rights = Rights { read: true, write: false };
        let ticket = Ticket::new(7, 3, 4096, rights);
        assert_eq!(Ticket::from_words(ticket.words()), Ok(ticket));
        assert_eq!((ticket.incarnation(), ticket.region(), ticket.bytes()), (7, 3, 4096));
        assert_eq!(ticket.rights(), rights);
        for at in 0..WORDS {
            for bit in [0, 17, 33, 41, 63] {
                let mut words = ticket.words();
                words[at] ^= 1 << bit;
                assert!(Ticket::from_words(words).is_err(), "word {at}, bit {bit}");
            }
        }
        assert!(Ticket::from_words([0; WORDS]).is_err());
    }
}
