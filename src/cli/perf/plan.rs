// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the parts of `squall perf` tell each other: the plan that each member gets, as JSON, and
//! the report that it answers with.

use super::message::{Checked, Plant};
use crate::failure::{Failure, fail};
use crate::text::{IdleOption, time_text};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use squall::driver::config::{Config, SubgroupConfig};
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Test {
    Lat,
    Rate,
    Bw,
}

impl Test {
    pub fn name(self) -> &'static str {
        match self {
            Test::Lat => "lat",
            Test::Rate => "rate",
            Test::Bw => "bw",
        }
    }

    /// Bytes of a message, if nothing else is said.
    pub fn size(self) -> u32 {
        match self {
            Test::Lat => 64,
            Test::Rate => 100,
            Test::Bw => 1 << 20,
        }
    }
}

/// One measurement, the same for all its members.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub test: Test,
    pub group: String,
    pub members: u16,
    /// Ranks 0 to `senders` - 1 are senders. In `lat`, rank 0 alone sends.
    pub senders: u16,
    pub size: u32,
    pub window: u32,
    pub idle: IdleOption,
    /// Member i runs on `cores[i % len]`; none: members on several hosts say it themselves.
    pub cores: Vec<usize>,
    pub seconds: f64,
    /// Nanoseconds between two sends of `lat`.
    pub pace_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plant: Option<Plant>,
}

impl Plan {
    /// Warm-up that is not measured.
    pub fn warm_up_seconds(&self) -> f64 {
        (self.seconds * 0.2).clamp(0.05, 1.0)
    }

    pub fn core(&self, rank: u16) -> usize {
        self.cores[usize::from(rank) % self.cores.len()]
    }

    pub fn config(&self, rank: u16) -> Config {
        let mut config = Config::new(&self.group, rank, self.members);
        config.idle = self.idle.into();
        config.subgroups = vec![self.subgroup()];
        config.open_timeout = Duration::from_secs(60);
        config
    }

    /// What all members on several hosts must have the same of.
    pub fn agreed(&self) -> serde_json::Value {
        serde_json::json!({
            "test": self.test.name(),
            "members": self.members,
            "senders": self.senders,
            "size": self.size,
            "window": self.window,
            "seconds": self.seconds.to_string(), // as text, so that it comes back the same
            "pace_ns": if self.test == Test::Lat { self.pace_ns } else { 0 },
        })
    }

    pub fn subgroup(&self) -> SubgroupConfig {
        SubgroupConfig {
            senders: Some((0..self.senders).collect()),
            window: self.window,
            message_bytes_max: self.size.max(super::message::CONTROL_BYTES as u32),
            ..SubgroupConfig::default()
        }
    }

    /// What can be refused before anything is started.
    pub fn check(&self) -> Result<(), Failure> {
        if self.members > 0 && !(1..=self.members).contains(&self.senders) {
            return fail!("--senders {}: it is 1 to {} here", self.senders, self.members);
        }
        if self.size < super::message::SIZE_MIN {
            let least = super::message::SIZE_MIN;
            return fail!("--size {}: at least {least} bytes, for the sequence", self.size);
        }
        if !(0.01..=3600.0).contains(&self.seconds) {
            return fail!("--seconds {}: it is 0.01 to 3600", self.seconds);
        }
        if self.pace_ns == 0 || self.pace_ns > 10_000_000_000 {
            return fail!("--pace {} ns: it is 1 ns to 10 s", self.pace_ns);
        }
        // One message at least is due in the measured time.
        if self.test == Test::Lat && self.pace_ns as f64 > self.seconds * 1e9 {
            return fail!(
                "--pace {} is longer than the {} s that are measured: a shorter pace, or more \
                 --seconds",
                time_text(self.pace_ns),
                self.seconds
            );
        }
        self.config(0).view()?;
        Ok(())
    }
}

/// A histogram on its way between processes: (value, how often), in nanoseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stage {
    pub name: String,
    pub counts: Vec<(u64, u64)>,
}

/// Histograms keep three digits, up to a minute.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order")
}

impl Stage {
    pub fn new(name: &str, histogram: &Histogram<u64>) -> Stage {
        let counts = histogram.iter_recorded();
        let counts = counts.map(|at| (at.value_iterated_to(), at.count_at_value())).collect();
        Stage { name: name.into(), counts }
    }

    pub fn histogram(&self) -> Histogram<u64> {
        let mut histogram = new_histogram();
        self.counts.iter().for_each(|(value, count)| histogram.saturating_record_n(*value, *count));
        histogram
    }

    /// Half as many values, each pair the higher one: nothing looks better than it was.
    pub fn coarsen(&mut self) {
        let pair = |pair: &[(u64, u64)]| (pair[pair.len() - 1].0, pair.iter().map(|of| of.1).sum());
        self.counts = self.counts.chunks(2).map(pair).collect();
    }
}

/// What one member saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub rank: u16,
    /// Messages delivered in the measured time, and that time.
    pub delivered: u64,
    pub window_ns: u64,
    /// All that were delivered, and the hash of their order.
    pub total: u64,
    pub hash: u64,
    pub checked: Checked,
    /// What it sent itself; how often there was no room; what the engine made of it.
    pub sent: u64,
    pub refused: u64,
    pub nulls: u64,
    pub batches: u64,
    pub sleeps: u64,
    pub loop_gap_max_ns: u64,
    /// Which part of the time this member ran: for one that never sleeps and has a core of its
    /// own, less than 1 is what other programs took.
    pub ran: f64,
    pub stages: Vec<Stage>,
}

impl Report {
    pub fn per_second(&self) -> f64 {
        self.delivered as f64 / (self.window_ns.max(1) as f64 / 1e9)
    }
}
