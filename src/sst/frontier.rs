// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pure arithmetic on counts. Message `i` of sender `s`, of `S` senders, is number `i * S + s`.
//!
//! Every count here is at most `COUNT_MAX` (peers' words are checked before they come here), so
//! nothing overflows (`limits.rs`).

use crate::base::{Count, Number};

/// How long a prefix of the order is here, if `received[s]` messages of each sender are: the first
/// hole of sender `s` is at `received[s] * S + s`, and the prefix ends at the first hole.
#[inline]
pub fn prefix(received: &[Count]) -> Number {
    let senders = received.len() as u64;
    let holes = received.iter().zip(0u64..).map(|(count, s)| count.0 * senders + s);
    Number(holes.min().unwrap_or(0))
}

/// How many messages of sender `s` a prefix of that length contains.
#[inline(always)]
pub fn share(length: Number, s: usize, senders: usize) -> Count {
    let (s, senders) = (s as u64, senders as u64);
    Count(length.0.saturating_add(senders - 1 - s) / senders)
}

/// The count that sender `r` owes after what has been received: nobody's delivery may wait for it.
/// `received` includes `r`'s own count, which is the least answer.
///
/// A sender that has received `x` messages of `s` owes `x` of its own if it precedes `s` in a
/// round and `x - 1` if it follows (`protocol.md` §b, in counts). The largest demand is that of the
/// last sender among those that are ahead, so one pass finds it.
#[inline]
pub fn owed(received: &[Count], r: usize) -> Count {
    let mut owed = received[r];
    for (s, &count) in received.iter().enumerate() {
        let demand = if r < s { count.0 } else { count.0.saturating_sub(1) };
        if s != r && demand > owed.0 {
            owed = Count(demand);
        }
    }
    owed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All vectors of `senders` counts below `bound`.
    fn vectors(senders: usize, bound: u64) -> impl Iterator<Item = Vec<Count>> {
        let total = bound.pow(senders as u32);
        (0..total).map(move |mut code| {
            (0..senders)
                .map(|_| {
                    let digit = code % bound;
                    code /= bound;
                    Count(digit)
                })
                .collect()
        })
    }

    #[test]
    fn prefix_is_the_longest_run_without_a_hole() {
        for senders in 1..=4usize {
            for received in vectors(senders, 5) {
                let here = |n: u64| received[n as usize % senders].0 > n / senders as u64;
                let brute = (0u64..).take_while(|&n| here(n)).count() as u64;
                assert_eq!(prefix(&received), Number(brute), "{received:?}");
            }
        }
    }

    #[test]
    fn shares_sum_to_the_prefix() {
        for senders in 1..=5usize {
            for length in 0..40u64 {
                for s in 0..senders {
                    let brute = (0..length).filter(|n| n % senders as u64 == s as u64).count();
                    assert_eq!(share(Number(length), s, senders), Count(brute as u64));
                }
            }
        }
    }

    /// The rule's purpose: with what is owed, every message received is covered by the prefix as
    /// far as `r` is concerned; with one less it would not be (unless nothing was owed).
    #[test]
    fn owed_is_exactly_what_delivery_waits_for() {
        for senders in 2..=4usize {
            for received in vectors(senders, 5) {
                for r in 0..senders {
                    let first_hole = |count: u64| count * senders as u64 + r as u64;
                    let newest = (0..senders)
                        .filter(|&s| s != r && received[s].0 > 0)
                        .map(|s| (received[s].0 - 1) * senders as u64 + s as u64)
                        .max();
                    let owed = owed(&received, r);
                    assert!(owed >= received[r]);
                    if let Some(newest) = newest {
                        assert!(first_hole(owed.0) > newest, "{received:?} {r}");
                        if owed > received[r] {
                            assert!(first_hole(owed.0 - 1) < newest, "{received:?} {r}");
                        }
                    }
                }
            }
        }
    }
}
