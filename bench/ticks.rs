// SPDX-License-Identifier: MIT OR Apache-2.0
//! The processor's counter, for the floor and for the engine alike: a call of the clock would be a
//! fifth of what is measured. Shared by the programs in this folder; not a program itself.

use std::time::{Duration, Instant};

#[inline(always)]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads a counter.
    return unsafe { std::arch::x86_64::_rdtsc() };
    #[cfg(not(target_arch = "x86_64"))]
    {
        use std::sync::OnceLock;
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
}

/// The median of values seen so often each, in ascending order: between the values that the counter
/// can tell apart it is interpolated, as if each stood for all that is nearer to it than to others.
pub fn median_of(seen: impl Iterator<Item = (f64, u64)>) -> f64 {
    let seen: Vec<(f64, u64)> = seen.filter(|(_, count)| *count > 0).collect();
    let mut left = seen.iter().map(|(_, count)| count).sum::<u64>() as f64 / 2.0;
    for (at, &(value, count)) in seen.iter().enumerate() {
        if left <= count as f64 {
            let below = at.checked_sub(1).map_or(value, |before| (seen[before].0 + value) / 2.0);
            let above = seen.get(at + 1).map_or(value, |(after, _)| (value + after) / 2.0);
            return below + (above - below) * left / count as f64;
        }
        left -= count as f64;
    }
    0.0
}

pub fn ns_per_tick() -> f64 {
    let (start, first) = (Instant::now(), ticks());
    std::thread::sleep(Duration::from_millis(20));
    let last = ticks();
    start.elapsed().as_nanos() as f64 / (last - first) as f64
}
