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

pub fn ns_per_tick() -> f64 {
    let (start, first) = (Instant::now(), ticks());
    std::thread::sleep(Duration::from_millis(20));
    let last = ticks();
    start.elapsed().as_nanos() as f64 / (last - first) as f64
}
