// SPDX-License-Identifier: MIT OR Apache-2.0
//! Breath: how many messages the polling thread delivers before it looks at the clock again.
//!
//! One long callback is the application's business (`beats.rs`). Many short ones are ours: a batch
//! of 512 messages of 100 µs each, and 32 batches between two looks at the clock, would be more than
//! a second without a heartbeat. So a limit of messages per look follows what they cost: halved or
//! more when a look comes late, doubled when it comes early.
//!
//! ```text
//! most = breath.limit().min(BATCH_MAX)         for each call of the application
//! if breath.delivered(messages): look at the clock, then breath.look(now)
//! ```
//!
//! What it cannot do: callbacks that were short and are suddenly 2 ms long take a second for a full
//! batch, once. The C door may call `keep_alive` between the messages of a batch.
//!
//! Cost: an addition and a comparison per call of the application.

use crate::base::Nanos;
use crate::limits::{BATCH_MAX, SUSPICION_NS_DEFAULT};

/// A look is late after this part of the time to suspicion.
const LATE_PART: u64 = 64;
/// What it starts with: a callback may be slow from the first one on.
const FIRST: u32 = 16;

#[derive(Clone, Copy, Debug)]
pub struct Breath {
    late_ns: u64,
    limit: u32,
    /// Messages since the last look, and when that was.
    since: u32,
    last: Nanos,
}

impl Breath {
    /// `suspicion_ns` as for `Beats`.
    pub fn new(suspicion_ns: u64, now: Nanos) -> Breath {
        let time = if suspicion_ns == 0 { SUSPICION_NS_DEFAULT } else { suspicion_ns };
        Breath { late_ns: time / LATE_PART, limit: FIRST, since: 0, last: now }
    }

    /// How many messages more may be delivered before a look; at least 1.
    #[inline]
    pub fn limit(&self) -> u32 {
        (self.limit - self.since.min(self.limit)).max(1)
    }

    /// So many have been. Whether it is time for a look.
    #[inline]
    pub fn delivered(&mut self, messages: u32) -> bool {
        self.since = self.since.saturating_add(messages);
        self.since >= self.limit
    }

    /// A look at the clock, whatever it is for.
    pub fn look(&mut self, now: Nanos) {
        let gap = now.0.saturating_sub(self.last.0);
        if gap > self.late_ns && self.since > 0 {
            let afford = u128::from(self.since) * u128::from(self.late_ns) / u128::from(gap);
            self.limit = (afford as u32).clamp(1, (self.limit / 2).max(1));
        } else if gap <= self.late_ns / 4 && self.since >= self.limit {
            self.limit = (self.limit * 2).min(BATCH_MAX as u32);
        }
        (self.since, self.last) = (0, now);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Delivers without end, each message so many microseconds long: the longest time between two
    /// looks, and the limit at the end.
    fn work(breath: &mut Breath, now: &mut u64, looks: u32, micros: u64) -> (u64, u32) {
        let mut longest = 0;
        for _ in 0..looks {
            let start = *now;
            loop {
                let batch = breath.limit().min(BATCH_MAX as u32);
                *now += u64::from(batch) * micros * 1000;
                if breath.delivered(batch) {
                    break;
                }
            }
            longest = longest.max(*now - start);
            breath.look(Nanos(*now));
        }
        (longest, breath.limit())
    }

    #[test]
    fn short_callbacks_get_whole_batches_and_long_ones_a_look_each() {
        let mut now = 0;
        let mut breath = Breath::new(0, Nanos(0));
        assert_eq!(work(&mut breath, &mut now, 20, 1).1, BATCH_MAX as u32);
        assert_eq!(work(&mut breath, &mut now, 20, 100_000).1, 1);
        assert_eq!(work(&mut breath, &mut now, 20, 1).1, BATCH_MAX as u32, "and back");
    }

    /// From the first message on: a beat is due every sixteenth of the time.
    #[test]
    fn callbacks_of_any_cost_leave_time_for_a_beat() {
        for micros in [1, 10, 100, 1_000, 3_000] {
            let (longest, _) = work(&mut Breath::new(0, Nanos(0)), &mut 0, 1_000, micros);
            assert!(longest < SUSPICION_NS_DEFAULT / 16, "{longest} ns with {micros} us each");
        }
    }

    #[test]
    fn what_was_short_and_is_suddenly_long_costs_one_batch() {
        let mut now = 0;
        let mut breath = Breath::new(0, Nanos(0));
        work(&mut breath, &mut now, 20, 1);
        let (longest, _) = work(&mut breath, &mut now, 1, 1_000);
        assert!(longest <= SUSPICION_NS_DEFAULT * 5 / 8);
        let (longest, _) = work(&mut breath, &mut now, 100, 1_000);
        assert!(longest <= SUSPICION_NS_DEFAULT / 16);
    }

    /// A look that comes late because nothing was to be delivered says nothing about callbacks.
    #[test]
    fn idle_time_is_not_held_against_callbacks() {
        let mut now = 0;
        let mut breath = Breath::new(0, Nanos(0));
        work(&mut breath, &mut now, 20, 1);
        breath.look(Nanos(now + SUSPICION_NS_DEFAULT));
        assert_eq!(breath.limit(), BATCH_MAX as u32);
        breath.look(Nanos(0));
        assert_eq!(breath.limit(), BATCH_MAX as u32, "nor is a clock that goes back");
    }
}
