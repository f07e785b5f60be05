// SPDX-License-Identifier: MIT OR Apache-2.0
//! A set of fingerprints: open addressing, eight bytes a slot, bounded.
//!
//! Two states of one fingerprint would be taken for one: with n states the chance that this happens
//! at all is about n² / 2⁶⁵ (10⁸ states: 0.03 %).

/// A 64-bit hash of some bytes; never 0.
pub fn fingerprint(bytes: &[u8]) -> u64 {
    const ONE: u64 = 0xa076_1d64_78bd_642f;
    const TWO: u64 = 0xe703_7ed1_a0b4_28db;
    let fold = |one: u64, two: u64| {
        let wide = u128::from(one) * u128::from(two);
        wide as u64 ^ (wide >> 64) as u64
    };
    let mut hash = fold(bytes.len() as u64 ^ ONE, TWO);
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = u64::from_le_bytes(chunk.try_into().expect("eight bytes"));
        hash = fold(word ^ ONE, hash ^ TWO);
    }
    let mut last = [0; 8];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    hash = fold(u64::from_le_bytes(last) ^ TWO, hash ^ ONE);
    fold(hash ^ ONE, TWO).max(1)
}

pub struct Table {
    slots: Vec<u64>,
    used: usize,
    slots_max: usize,
}

#[derive(PartialEq, Eq, Debug)]
pub enum Inserted {
    New,
    Known,
    /// There is no room within the bound.
    Full,
}

impl Table {
    pub fn new(bytes_max: usize) -> Table {
        let slots_max = (bytes_max / 8).max(64).next_power_of_two();
        let slots_max = if slots_max * 8 > bytes_max { slots_max / 2 } else { slots_max };
        Table { slots: vec![0; slots_max.min(1 << 12)], used: 0, slots_max }
    }

    pub fn len(&self) -> usize {
        self.used
    }

    pub fn bytes(&self) -> usize {
        self.slots.len() * 8
    }

    pub fn insert(&mut self, print: u64) -> Inserted {
        if self.used * 4 >= self.slots.len() * 3 && self.slots.len() < self.slots_max {
            self.grow();
        }
        let at = self.find(print);
        if self.slots[at] == print {
            return Inserted::Known;
        }
        if self.used * 16 >= self.slots.len() * 15 {
            return Inserted::Full;
        }
        self.slots[at] = print;
        self.used += 1;
        Inserted::New
    }

    /// Its slot, or the free one where it belongs.
    fn find(&self, print: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = print as usize & mask;
        while self.slots[at] != 0 && self.slots[at] != print {
            at = (at + 1) & mask;
        }
        at
    }

    fn grow(&mut self) {
        let more = vec![0; self.slots.len() * 2];
        let old = std::mem::replace(&mut self.slots, more);
        for print in old.into_iter().filter(|print| *print != 0) {
            let at = self.find(print);
            self.slots[at] = print;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_inserted_is_known_and_the_bound_holds() {
        let mut table = Table::new(1 << 16);
        let print = |n: u64| fingerprint(&n.to_le_bytes());
        let new = (0..100_000).take_while(|n| table.insert(print(*n)) == Inserted::New).count();
        assert_eq!((new, table.len(), table.bytes()), (8192 * 15 / 16, new, 1 << 16));
        assert!((0..new as u64).all(|n| table.insert(print(n)) == Inserted::Known));
        assert_eq!(table.insert(print(1 << 40)), Inserted::Full);
    }

    #[test]
    fn prints_differ_where_bytes_do() {
        let mut all: Vec<u64> = (0..2000usize).map(|n| fingerprint(&vec![255; n])).collect();
        all.extend((0..2000u16).map(|n| fingerprint(&n.to_le_bytes())));
        all.extend((0..2000u16).map(|n| fingerprint(&[&[0; 9][..], &n.to_le_bytes()].concat())));
        let whole = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), whole);
    }
}
