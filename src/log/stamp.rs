// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hybrid clock: a stamp for each message, rising along the total order, alike at all members.
//!
//! Raw times of senders do not rise along the order. The stamp of a message is its sender's time, or
//! one more than that of the message before it if that is later: it depends on nothing but the order.

/// Bits that count messages within a microsecond; beyond them the count runs into the microseconds.
const LOGICAL_BITS: u32 = 12;

/// A point of the hybrid clock: microseconds since 1970 times 2^12, plus a count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Stamp(pub u64);

impl Stamp {
    /// The first stamp of that time, in nanoseconds since 1970.
    pub fn of_time(time_ns: u64) -> Stamp {
        Stamp((time_ns / 1000) << LOGICAL_BITS)
    }

    /// The stamp of a message that its sender sent at that time, after one of this stamp.
    pub fn next(self, time_ns: u64) -> Stamp {
        Stamp::of_time(time_ns).max(Stamp(self.0 + 1))
    }

    /// Nanoseconds since 1970.
    pub fn time_ns(self) -> u64 {
        (self.0 >> LOGICAL_BITS) * 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_rise_whatever_the_senders_clocks_say() {
        let mut last = Stamp::default();
        for time_ns in [5_000_000, 4_000_000, 4_000_000, 9_000_000, 0, u64::MAX >> 13] {
            let next = last.next(time_ns);
            assert!(next > last && next.time_ns() + 999 >= time_ns);
            last = next;
        }
        assert_eq!(Stamp::of_time(5_000_999), Stamp::of_time(5_000_000));
    }
}
