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
/// can tell apart it is interpolated, as if each stood for all that is nearer to it than to the nearer
/// one of its neighbours. The farther one may be an outlier, and the first and last may be it for
/// their neighbour: they stand for themselves.
pub fn median_of(seen: impl Iterator<Item = (f64, u64)>) -> f64 {
    let seen: Vec<(f64, u64)> = seen.filter(|(_, count)| *count > 0).collect();
    let mut left = seen.iter().map(|(_, count)| count).sum::<u64>() as f64 / 2.0;
    for (at, &(value, count)) in seen.iter().enumerate() {
        if left <= count as f64 {
            let below = at.checked_sub(1).map_or(0.0, |before| value - seen[before].0);
            let above = seen.get(at + 1).map_or(0.0, |(after, _)| after - value);
            return value + below.min(above) * (left / count as f64 - 0.5);
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

#[cfg(test)]
mod tests {
    /// Ten of eleven rounds took 100 ns: so did the median one.
    #[test]
    fn an_outlier_does_not_move_the_median() {
        let median = super::median_of([(100.0, 10), (10_000.0, 1)].into_iter());
        assert!((95.0..105.0).contains(&median), "{median}");
    }

    /// A counter of 10 ns; nine in ten are in one grain, the rest another mode.
    #[test]
    fn a_second_mode_does_not_move_the_median() {
        let median = super::median_of([(210.0, 90), (420.0, 10)].into_iter());
        assert!((205.0..215.0).contains(&median), "{median}");
        let median = super::median_of([(90.0, 10), (210.0, 90)].into_iter());
        assert!((205.0..215.0).contains(&median), "{median}");
    }

    /// The same distribution seen through counters of different grain.
    #[test]
    fn the_grain_does_not_move_the_median() {
        let mut seen = Vec::new();
        let mut x = 12345u64;
        for _ in 0..400_000 {
            let mut sum = 0.0;
            for _ in 0..12 {
                x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                sum += (x >> 11) as f64 / (1u64 << 53) as f64;
            }
            seen.push(143.7 + (sum - 6.0) * 12.0);
        }
        for grain in [1.0, 2.0, 10.0] {
            let mut counts = std::collections::BTreeMap::new();
            for value in &seen {
                *counts.entry((value / grain).round() as i64).or_insert(0u64) += 1;
            }
            let median =
                super::median_of(counts.into_iter().map(|(at, count)| (at as f64 * grain, count)));
            assert!((median - 143.7).abs() < 0.5, "grain {grain}: {median}");
        }
    }
}
