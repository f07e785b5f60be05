// SPDX-License-Identifier: MIT OR Apache-2.0
//! Chance, from the seed alone, and the payloads that can be told from each other.

use std::cell::Cell;

/// SplitMix64's finisher: every bit of the answer depends on every bit of the question.
#[inline(always)]
pub fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A source of chance that can be shared within its thread.
#[derive(Debug)]
pub struct Dice(Cell<u64>);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(Cell::new(mix(seed.wrapping_add(GOLDEN))))
    }

    #[inline(always)]
    pub fn word(&self) -> u64 {
        let state = self.0.get().wrapping_add(GOLDEN);
        self.0.set(state);
        mix(state)
    }

    /// One of `0..bound`.
    #[inline(always)]
    pub fn below(&self, bound: u64) -> u64 {
        assert!(bound > 0);
        ((u128::from(self.word()) * u128::from(bound)) >> 64) as u64
    }

    /// One of `from..=upto`.
    pub fn range(&self, from: u64, upto: u64) -> u64 {
        from + self.below(upto - from + 1)
    }

    /// True `of` times in 256.
    #[inline(always)]
    pub fn chance(&self, of: u32) -> bool {
        (self.word() >> 56) < u64::from(of)
    }

    pub fn pick<T: Copy>(&self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// What a message must contain: known from who sent it and its ordinal, at every position, so that
/// the first `n` bytes of a longer one are those of the shorter.
#[derive(Clone, Copy, Debug)]
pub struct Pattern(u64);

impl Pattern {
    pub fn new(seed: u64, subgroup: usize, sender: usize, ordinal: u64) -> Pattern {
        let who = (subgroup as u64) << 32 | sender as u64;
        Pattern(mix(seed ^ mix(who.wrapping_mul(GOLDEN) ^ mix(ordinal))))
    }

    #[inline(always)]
    fn word(self, at: usize) -> [u8; 8] {
        let word = (self.0 ^ at as u64).wrapping_mul(GOLDEN);
        (word ^ word >> 29).to_le_bytes()
    }

    pub fn fill(self, bytes: &mut [u8]) {
        for (at, chunk) in bytes.chunks_mut(8).enumerate() {
            let word = self.word(at);
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    /// Position of the first byte that is not as it should be.
    pub fn first_difference(self, bytes: &[u8]) -> Option<usize> {
        let mut chunks = bytes.chunks_exact(8);
        for (at, chunk) in chunks.by_ref().enumerate() {
            let word = self.word(at);
            if chunk != word {
                return Some(at * 8 + chunk.iter().zip(word).take_while(|(a, b)| *a == b).count());
            }
        }
        let (at, rest) = (bytes.len() / 8, chunks.remainder());
        let same = rest.iter().zip(self.word(at)).take_while(|(a, b)| *a == b).count();
        (same < rest.len()).then_some(at * 8 + same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_tell_messages_apart() {
        let mut bytes = [0; 21];
        let pattern = Pattern::new(7, 1, 2, 3);
        pattern.fill(&mut bytes);
        assert_eq!(pattern.first_difference(&bytes), None);
        assert_eq!(pattern.first_difference(&bytes[..13]), None);
        assert!(Pattern::new(7, 1, 2, 4).first_difference(&bytes).is_some());
        bytes[20] ^= 1;
        assert_eq!(pattern.first_difference(&bytes), Some(20));
    }

    #[test]
    fn dice_repeat_themselves() {
        let (one, two) = (Dice::new(3), Dice::new(3));
        for _ in 0..100 {
            let bound = one.range(1, 9);
            assert_eq!(bound, two.range(1, 9));
            assert!(one.below(bound) < bound && two.below(bound) < bound);
        }
    }
}
