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
        let ticket = Ticket(words);
        // Addresses in it are summed up: not round the end of 64 bits.
        if ticket.keys().is_some_and(|(address, ..)| address.checked_add(ticket.bytes()).is_none())
        {
            let detail =
                "this ticket is of memory that there cannot be: get another one of its owner";
            return Err(Error::new(Status::Invalid, detail));
        }
        Ok(ticket)
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
    use proptest::prelude::*;

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

    /// The sum of such an address and an offset went round the end: an assertion, or another address.
    #[test]
    fn memory_round_the_end_of_all_addresses_has_no_ticket() {
        let rights = Rights { read: true, write: true };
        let at = |address| Ticket::with(7, 3, 4096, rights, Some((address, 9, false)));
        assert!(Ticket::from_words(at(u64::MAX - 4096).words()).is_ok());
        assert!(Ticket::from_words(at(u64::MAX - 4095).words()).is_err());
    }

    proptest! {
        /// Words whose checksum is right: what is taken can be asked for without harm.
        #[test]
        fn fuzz_any_words_are_a_ticket_or_none(
            begins in any::<bool>(),
            low in any::<u64>(),
            rest in prop::array::uniform6(prop_oneof![0..200u64, any::<u64>(), u64::MAX - 200..]),
        ) {
            let mut words = [low; WORDS];
            words[1..WORDS - 1].copy_from_slice(&rest);
            if begins {
                words[0] = MAGIC | 1 << 32 | low << 40;
            }
            prop_assert!(Ticket::from_words(words).is_err() || words[WORDS - 1] == sum(&words));
            words[WORDS - 1] = sum(&words);
            if let Ok(ticket) = Ticket::from_words(words) {
                prop_assert_eq!(ticket.words(), words);
                let end = ticket.keys().map(|(address, ..)| address + ticket.bytes()); // asserts
                prop_assert!(end.is_none_or(|end| end >= ticket.bytes()));
            }
        }
    }
}
