// SPDX-License-Identifier: MIT OR Apache-2.0
//! What this machine can do without any engine, measured in the same minute and on the same cores:
//! the figures that an engine's are to be compared with.

use super::plan::new_histogram;
use crate::failure::{Failure, because, fail};
use hdrhistogram::Histogram;
use rustix::event::{EventfdFlags, eventfd};
use rustix::thread::sched_yield;
use squall::driver::clock;
use squall::driver::idle::pin;
use squall::limits::LINE_BYTES;
use squall::mem::{Cell, Region};
use std::hint::black_box;
use std::os::fd::OwnedFd;
use std::thread::{Builder, JoinHandle};

/// How long each figure is measured, in nanoseconds.
const FOR_NS: u64 = 400_000_000;
const WARM_UP: u64 = 1_000;
const STOP: u64 = u64::MAX;

fn on_core<T: Send + 'static>(
    core: usize,
    what: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<Result<T, Failure>>, Failure> {
    let run = move || {
        pin(core)?;
        Ok(what())
    };
    let thread = Builder::new().name("squall-floor".into()).spawn(run);
    thread.map_err(|cause| because!("cannot start a thread: {cause}"))
}

fn joined<T>(thread: JoinHandle<Result<T, Failure>>) -> Result<T, Failure> {
    thread.join().unwrap_or_else(|_| fail!("a thread that measures the floor has died"))
}

/// Two threads on two cores hand one cache line each to and fro: round trips, in nanoseconds. On
/// one core they give it away in between.
pub fn round_trip(cores: [usize; 2]) -> Result<Histogram<u64>, Failure> {
    let shares = cores[0] == cores[1];
    let pause = move || if shares { sched_yield() } else { std::hint::spin_loop() };
    let lines = std::sync::Arc::new(Region::heap(2 * LINE_BYTES));
    let theirs = lines.clone();
    let echo = on_core(cores[1], move || {
        let (ping, pong): (&Cell, &Cell) = (theirs.cell(0), theirs.cell(LINE_BYTES));
        let mut last = 0;
        loop {
            let now = ping.observe();
            if now == STOP {
                return;
            }
            if now != last {
                pong.publish(now);
                last = now;
            } else {
                pause();
            }
        }
    })?;
    let measure = on_core(cores[0], move || {
        let (ping, pong): (&Cell, &Cell) = (lines.cell(0), lines.cell(LINE_BYTES));
        let mut histogram = new_histogram();
        let until = clock().0 + FOR_NS;
        for trip in 1.. {
            let from = clock().0;
            ping.publish(trip);
            while pong.observe() != trip {
                pause();
            }
            let upto = clock().0;
            if trip > WARM_UP {
                histogram.saturating_record(upto - from);
            }
            if upto > until {
                break;
            }
        }
        ping.publish(STOP);
        histogram
    })?;
    let histogram = joined(measure);
    joined(echo)?;
    histogram
}

/// The same with two threads that sleep: each trip is two wake-ups through an eventfd.
pub fn wake_up_round_trip(cores: [usize; 2]) -> Result<Histogram<u64>, Failure> {
    let bell = || -> Result<std::sync::Arc<OwnedFd>, Failure> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC);
        bell.map(std::sync::Arc::new).map_err(|cause| because!("cannot make an eventfd: {cause}"))
    };
    let (ping, pong) = (bell()?, bell()?);
    let (their_ping, their_pong) = (ping.clone(), pong.clone());
    // An eventfd adds up what is written: 1 is a trip, more is the end.
    let ring = |bell: &OwnedFd, value: u64| {
        let _ = rustix::io::write(bell, &value.to_ne_bytes());
    };
    let heard = |bell: &OwnedFd| {
        let mut value = [0; 8];
        let got = rustix::io::read(bell, &mut value);
        if got == Ok(8) { u64::from_ne_bytes(value) } else { 2 }
    };
    let echo = on_core(cores[1], move || {
        while heard(&their_ping) == 1 {
            ring(&their_pong, 1);
        }
    })?;
    let measure = on_core(cores[0], move || {
        let mut histogram = new_histogram();
        let until = clock().0 + FOR_NS;
        for trip in 0u64.. {
            let from = clock().0;
            ring(&ping, 1);
            heard(&pong);
            let upto = clock().0;
            if trip > 100 {
                histogram.saturating_record(upto - from);
            }
            if upto > until && trip > 200 {
                break;
            }
        }
        ring(&ping, 2);
        histogram
    })?;
    let histogram = joined(measure);
    joined(echo)?;
    histogram
}

/// The area that copies go to: as much as the engine keeps hot in a ring.
const AREA_BYTES: usize = 512 << 10;

/// Copies of `size` bytes per second, from one place to places in turn within a hot area; the
/// median of several runs.
pub fn copies_per_second(core: usize, size: u32) -> Result<f64, Failure> {
    let size = size as usize;
    joined(on_core(core, move || {
        let source = vec![7u8; size];
        let slot = size.next_multiple_of(64);
        let slots = (AREA_BYTES / slot).max(1);
        let mut area = vec![0u8; slots * slot];
        let mut rates = Vec::new();
        for run in 0..9 {
            let (mut copies, from) = (0u64, clock().0);
            let mut upto = from;
            while upto < from + FOR_NS / 16 {
                for place in area.chunks_exact_mut(slot) {
                    place[..size].copy_from_slice(black_box(&source));
                }
                black_box(&mut area);
                copies += slots as u64;
                upto = clock().0;
            }
            if run > 0 {
                rates.push(copies as f64 * 1e9 / (upto - from) as f64);
            }
        }
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    })?)
}
