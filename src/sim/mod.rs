// SPDX-License-Identifier: MIT OR Apache-2.0
//! The seeded world: whole groups in one thread, moved by chance, judged after every step.
//!
//! Real engines, tables, rings and inboxes; simulated are the NICs, the application threads and the
//! order in which things happen. A run is reproducible from its seed (and the commit) alone. What
//! was reached is counted, so that empty seeds cannot pass.

mod dice;
mod evil;
mod fabric;
mod lane;
mod node;
mod oracle;
mod plan;
mod report;
mod views;
mod world;

#[cfg(test)]
mod mutants;

pub use plan::Plan;
pub use report::{Line, Report, Row, Violation};

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What to run. Seeds are taken in ascending order until one of the two limits is reached.
#[derive(Clone, Debug)]
pub struct Options {
    pub first: u64,
    /// How many seeds at most.
    pub seeds: Option<u64>,
    /// No new seed is begun after this.
    pub budget: Option<Duration>,
    pub threads: usize,
    /// Violations after which the run ends.
    pub violations_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { first: 1, seeds: Some(100), budget: None, threads: 2, violations_max: 1 }
    }
}

impl Options {
    /// One seed again.
    pub fn replay(seed: u64) -> Options {
        Options { first: seed, seeds: Some(1), threads: 1, ..Options::default() }
    }
}

/// Runs seeds on `threads` threads; `progress` is called after each, with what has been reached.
pub fn run(options: &Options, progress: &(dyn Fn(&Report) + Sync)) -> Report {
    let start = Instant::now();
    let threads = options.threads.max(1);
    let report = Mutex::new(Report::new(options.first, threads));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| run_thread(options, &report, start, progress));
        }
    });
    let mut report = report.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    report.took = start.elapsed();
    report.violations.sort_by_key(|violation| violation.seed);
    report
}

fn run_thread(
    options: &Options,
    report: &Mutex<Report>,
    start: Instant,
    progress: &(dyn Fn(&Report) + Sync),
) {
    let lock = || report.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    loop {
        let seed = {
            let mut report = lock();
            let seed = report.seeds.end;
            let spent = options.seeds.is_some_and(|seeds| seed - options.first >= seeds)
                || options.budget.is_some_and(|budget| start.elapsed() >= budget);
            if spent || report.violations.len() >= options.violations_max {
                return;
            }
            report.seeds.end += 1;
            seed
        };
        let violation = world::run_seed(seed, |tallies| lock().absorb(tallies));
        let violation =
            violation.or_else(|| views::run_seed(seed, |tallies| lock().absorb(tallies)));
        let mut report = lock();
        report.violations.extend(violation);
        report.took = start.elapsed();
        progress(&report);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_seeds_find_nothing() {
        let options = Options { seeds: Some(60), ..Options::default() };
        let report = run(&options, &|_| ());
        assert!(report.violations.is_empty(), "{report}");
        assert!(report.get(Row::Deliveries) > 10_000, "{report}");
    }

    /// `SECONDS=60 cargo test --release --lib sim::tests::long_views -- --ignored --nocapture`, or
    /// `SEED=7` for one: views only.
    #[test]
    #[ignore = "as long as one wants"]
    fn long_views() {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let start = Instant::now();
        let (mut report, mut seed) = (Report::new(1, 1), number("FIRST").unwrap_or(1));
        let only = number("SEED");
        while start.elapsed().as_secs() < number("SECONDS").unwrap_or(10) {
            let at = only.unwrap_or(seed);
            let violation = views::run_seed(at, |tallies| report.absorb(tallies));
            seed += 1;
            report.violations.extend(violation);
            if !report.violations.is_empty() || only.is_some() {
                break;
            }
        }
        (report.seeds.end, report.took) = (seed, start.elapsed());
        println!("{report}");
        assert!(report.violations.is_empty());
    }

    /// `SECONDS=180 cargo test --release --lib sim::tests::long -- --ignored --nocapture`, or
    /// `SEED=7` for one.
    #[test]
    #[ignore = "as long as one wants"]
    fn long_run() {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let options = match number("SEED") {
            Some(seed) => Options::replay(seed),
            None => Options {
                first: number("FIRST").unwrap_or(1),
                seeds: None,
                budget: Some(Duration::from_secs(number("SECONDS").unwrap_or(10))),
                ..Options::default()
            },
        };
        let report = run(&options, &|_| ());
        println!("{report}");
        assert!(report.passed());
    }

    #[test]
    fn a_seed_repeats_itself() {
        for seed in [1, 2, 3, 5, 8, 13] {
            let (one, two) =
                (run(&Options::replay(seed), &|_| ()), run(&Options::replay(seed), &|_| ()));
            let lines = |report: &Report| report.lines().collect::<Vec<_>>();
            assert_eq!(lines(&one), lines(&two));
        }
    }
}
