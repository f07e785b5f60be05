// SPDX-License-Identifier: MIT OR Apache-2.0
//! Our own account of a send queue: which of its slots are taken, and which write asks for a completion.
//! Pure counts.
//!
//! A device gives a slot back only when a completion that lies behind it has been polled; some forgive a
//! missing one (soft-RoCE frees at the acknowledgement), hardware stops for ever. So it is not left to
//! the provider to refuse.
//!
//! S1  `freed <= posted + added <= freed + slots`.
//! S2  One write in `every` asks for a completion, so a full queue always has one on its way:
//!     `every <= slots / 2`.
//! S3  Completions of one queue come in the order of its writes; each frees all writes before it, too.

/// The account. Positions count work requests from the queue's beginning.
#[derive(Clone, Debug)]
pub struct Slots {
    slots: u64,
    every: u64,
    /// Handed to the device.
    posted: u64,
    /// Of them, those whose slots are free again.
    freed: u64,
    /// Collected for the next doorbell.
    added: u64,
    /// Behind the last one, of those posted or added, that asks for a completion.
    asked: u64,
}

impl Slots {
    pub fn new(slots: u16) -> Slots {
        let slots = u64::from(slots);
        let every = (slots / 4).max(1);
        assert!(slots >= 2 && every <= slots / 2, "a queue of {slots} slots"); // S2
        Slots { slots, every, posted: 0, freed: 0, added: 0, asked: 0 }
    }

    /// How many more may be added now.
    #[inline]
    pub fn room(&self) -> usize {
        (self.slots - self.taken()) as usize
    }

    #[inline]
    fn taken(&self) -> u64 {
        self.posted + self.added - self.freed
    }

    /// Whether completions should be looked for.
    #[inline]
    pub fn is_half_used(&self) -> bool {
        self.taken() * 2 >= self.slots
    }

    /// Takes a slot: the write's position, and whether it asks for a completion; `must`: it does.
    #[inline]
    pub fn add(&mut self, must: bool) -> (u64, bool) {
        assert!(self.taken() < self.slots, "S1: a write without a slot");
        let position = self.posted + self.added;
        self.added += 1;
        let due = crate::mutant!("verbs-never-signalled");
        let asks = must || (position + 1 - self.asked >= self.every && !due);
        if asks {
            self.asked = position + 1;
        }
        (position, asks)
    }

    /// The doorbell: all that was added is the device's now.
    #[inline]
    pub fn post(&mut self) {
        self.posted += self.added;
        self.added = 0;
    }

    /// A completion of the write whose position ends with these 32 bits: it and all before it are over.
    /// Says how many that frees.
    #[inline]
    pub fn complete(&mut self, position: u32) -> u64 {
        // S3: less than a queue's length ahead of what is free.
        let ahead = u64::from(position.wrapping_sub(self.freed as u32));
        assert!(ahead < self.posted - self.freed, "a completion of what was not posted");
        self.freed += ahead + 1;
        ahead + 1
    }

    /// All that was posted, as a position.
    #[inline]
    pub fn posted(&self) -> u64 {
        self.posted
    }

    /// Whether all before a position is over.
    #[inline]
    pub fn is_over(&self, mark: u64) -> bool {
        self.freed >= mark
    }

    /// Whether nothing that was posted stays without a completion behind it.
    pub fn all_asked(&self) -> bool {
        assert!(self.added == 0, "asked between a write and its doorbell");
        self.asked == self.posted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[test]
    fn a_full_queue_has_a_completion_under_way() {
        for slots in 2..300u16 {
            let mut account = Slots::new(slots);
            let mut last = None;
            while account.room() > 0 {
                let (position, asks) = account.add(false);
                last = if asks { Some(position) } else { last };
            }
            account.post();
            let last = last.expect("S2: one asked");
            assert!(account.complete(last as u32) > u64::from(slots) / 2, "{slots}: too few");
        }
    }

    #[test]
    #[should_panic(expected = "a write without a slot")]
    fn a_slot_is_not_taken_twice() {
        let mut account = Slots::new(4);
        for _ in 0..5 {
            account.add(true);
            account.post();
        }
    }

    #[test]
    #[should_panic(expected = "what was not posted")]
    fn a_completion_of_nothing_is_found() {
        let mut account = Slots::new(4);
        account.add(true);
        account.complete(0);
    }

    #[test]
    fn positions_survive_32_bits() {
        let mut account = Slots::new(8);
        let from = u64::from(u32::MAX) - 2;
        (account.posted, account.freed, account.asked) = (from, from, from);
        for _ in 0..6 {
            let (position, _) = account.add(true);
            account.post();
            assert_eq!(account.complete(position as u32), 1);
        }
        assert!(account.is_over(from + 6) && account.room() == 8);
    }

    proptest! {
        /// Against a device that frees behind polled completions only.
        #[test]
        fn it_never_overruns_a_device(slots in 2u16..64, moves in prop::collection::vec(0u8..8, 1..400)) {
            let mut account = Slots::new(slots);
            let mut device: VecDeque<(u64, bool)> = VecDeque::new();
            let mut added: Vec<(u64, bool)> = Vec::new();
            for (turn, kind) in moves.into_iter().enumerate() {
                match kind {
                    0..5 if account.room() > 0 => added.push(account.add(turn % 7 == 0)),
                    5 => {
                        account.post();
                        device.extend(added.drain(..));
                    }
                    _ => if let Some(at) = device.iter().position(|(_, asks)| *asks) {
                        let (position, _) = device[at];
                        prop_assert_eq!(account.complete(position as u32), at as u64 + 1);
                        device.drain(..=at);
                        prop_assert!(account.is_over(position + 1) && !account.is_over(position + 2));
                    }
                }
                prop_assert!(device.len() + added.len() <= usize::from(slots));
                prop_assert_eq!(account.room(), usize::from(slots) - device.len() - added.len());
            }
        }
    }
}
