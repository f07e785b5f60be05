// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bare RDMA writes between the same two hosts, by the same verbs as the engine's fabric has them:
//! there and back, each end polling its memory; or a stream, its writes complete at the end.
//!
//! The bare connection carries what the two queue pairs must know of each other, and what was measured.

use super::{Bare, FOR, LOOK_EVERY, PATIENCE, TRIPS_WARM, WARM_UP, Wire};
use crate::perf::plan::{Test, new_histogram};
use crate::text::IdleOption;
use rustix::thread::sched_yield;
use squall::driver::network::Rdma;
use squall::fabric::verbs::device::Device;
use squall::fabric::verbs::raw::{Lost, Raw, TICKET_BYTES};
use squall::fabric::verbs::sys::Table;
use std::time::Instant;

/// Writes of one doorbell, for the rate that the device is capable of.
const CHAIN: usize = 16;
/// No trip has this number: the last write.
const STOP: u64 = u64::MAX;

/// What was measured: nanoseconds, or writes a second; and with `CHAIN` writes a doorbell.
#[derive(Clone, Copy, Default)]
pub struct Figure {
    pub one: f64,
    pub chained: f64,
}

struct End<'a> {
    raw: Raw,
    wire: &'a mut Wire,
    bytes: usize,
}

/// Rank 0's side (`first`), or the other one's, whose figure says nothing.
pub fn measure(bare: &Bare, rdma: &Rdma, wire: &mut Wire, first: bool) -> Result<Figure, String> {
    let mut end = End::connect(bare, rdma, wire)?;
    let lost = |lost: Lost| format!("bare RDMA: {lost}");
    match (bare.test, first) {
        (Test::Lat, true) => {
            let figure = end.trips()?;
            end.say(b'!')?;
            Ok(figure)
        }
        (Test::Lat, false) => {
            end.echoes().map_err(lost)?;
            // What was written after the last trip is answered as long as this end is there.
            end.hear().map(|()| Figure::default())
        }
        (_, true) => {
            let one = end.pours::<1>().map_err(lost)?;
            let chained = if bare.test == Test::Rate { end.pours::<CHAIN>() } else { Ok(0.0) };
            let chained = chained.map_err(lost)?;
            end.say(b'!')?;
            if one == 0.0 {
                return Err("bare RDMA: not one write was complete in time".into());
            }
            Ok(Figure { one, chained })
        }
        (_, false) => end.hear().map(|()| Figure::default()),
    }
}

impl End<'_> {
    fn connect<'a>(bare: &Bare, rdma: &Rdma, wire: &'a mut Wire) -> Result<End<'a>, String> {
        let said = |why: squall::error::Error| why.to_string();
        let mut choice = rdma.choice.clone();
        let local = wire.stream.local_addr().ok().map(|address| address.ip());
        choice.address = choice.address.or(local);
        let device = Table::load().and_then(|table| Device::open(&table, &choice)).map_err(said)?;
        let bytes = bare.size.next_multiple_of(8);
        let mut raw = Raw::open(&device, bytes).map_err(said)?;
        let gone = |cause: std::io::Error| format!("the bare connection is lost: {cause}");
        let mut ticket = [0; TICKET_BYTES];
        wire.write_all(&raw.ticket()).map_err(gone)?;
        wire.read_all(&mut ticket).map_err(gone)?;
        raw.connect(&ticket, &rdma.manner).map_err(said)?;
        let mut end = End { raw, wire, bytes };
        end.say(b'?')?;
        end.hear()?; // both receive before either sends
        Ok(end)
    }

    fn say(&mut self, word: u8) -> Result<(), String> {
        let said = self.wire.write_all(&[word]);
        said.map_err(|cause| format!("the bare connection is lost: {cause}"))
    }

    fn hear(&mut self) -> Result<(), String> {
        let heard = self.wire.read_all(&mut [0]);
        heard.map_err(|cause| format!("the bare connection is lost: {cause}"))
    }

    /// What is done while there is nothing; who sleeps elsewhere yields here.
    fn pause(&self) -> impl FnMut() -> bool + use<> {
        let (spins, until) = (self.wire.idle == IdleOption::Spin, Instant::now() + FOR + PATIENCE);
        let mut round = 0u32;
        move || {
            round = round.wrapping_add(1);
            if spins {
                std::hint::spin_loop()
            } else {
                sched_yield()
            }
            !round.is_multiple_of(LOOK_EVERY) || Instant::now() < until
        }
    }

    fn trips(&mut self) -> Result<Figure, String> {
        let lost = |lost: Lost| format!("bare RDMA: {lost}");
        let mut pause = self.pause();
        let mut histogram = new_histogram();
        let start = Instant::now();
        for trip in 1u64.. {
            let begin = Instant::now();
            self.raw.write::<1>(self.bytes, trip, &mut pause).map_err(lost)?;
            match self.raw.wait(self.bytes, trip - 1, &mut pause) {
                Some(back) if back == trip => (),
                Some(back) => return Err(format!("bare RDMA: {back:#x} came back of {trip:#x}")),
                None => return Err("bare RDMA: nothing comes back".into()),
            }
            if trip > u64::from(TRIPS_WARM) {
                histogram.saturating_record(begin.elapsed().as_nanos() as u64);
            }
            if trip > u64::from(TRIPS_WARM) && start.elapsed() > FOR {
                break;
            }
        }
        self.raw.write::<1>(self.bytes, STOP, &mut pause).map_err(lost)?;
        self.raw.settle(STOP, &mut pause).map_err(lost)?;
        Ok(Figure { one: histogram.value_at_quantile(0.5) as f64, chained: 0.0 })
    }

    fn echoes(&mut self) -> Result<(), Lost> {
        let (mut pause, mut last) = (self.pause(), 0);
        while let Some(trip) = self.raw.wait(self.bytes, last, &mut pause) {
            if trip == STOP || !self.raw.write::<1>(self.bytes, trip, &mut pause)? {
                break;
            }
            last = trip;
        }
        Ok(())
    }

    /// Writes a second.
    fn pours<const COUNT: usize>(&mut self) -> Result<f64, Lost> {
        let (mut pause, mut posted) = (self.pause(), 0u64);
        let (start, mut from) = (Instant::now(), None);
        loop {
            self.raw.write::<COUNT>(self.bytes, posted + 1, &mut pause)?;
            posted += COUNT as u64;
            if from.is_none() && start.elapsed() > WARM_UP {
                self.raw.settle(1, &mut pause)?;
                (from, posted) = (Some(Instant::now()), 0);
            }
            if start.elapsed() > FOR {
                break;
            }
        }
        self.raw.settle(1, &mut pause)?;
        Ok(from.map_or(0.0, |from| posted as f64 / from.elapsed().as_secs_f64()))
    }
}
