// SPDX-License-Identifier: MIT OR Apache-2.0
//! The seeded world: whole groups in one thread, moved by chance, judged after every step.
//!
//! Real engines, tables, rings and inboxes; simulated are the NICs, the application threads and the
//! order in which things happen. A run is reproducible from its seed (and the commit) alone. What
//! was reached is counted, so that empty seeds cannot pass.

mod coverage;
mod dice;
mod evil;
mod fabric;
mod lane;
mod node;
mod oracle;
mod parts;
mod plan;
mod report;
mod rows;
mod run;
mod shrink;
mod smaller;
mod turn;
mod views;
mod world;

#[cfg(test)]
mod mutants;

pub use coverage::BY;
pub use plan::Plan;
pub use report::{Case, Line, Report, Step, Violation, World};
pub use rows::Row;

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How many times its budget a run may take until its seeds have reached enough.
pub const GRACE: u32 = 10;

/// What to run. In each world, seeds are taken in ascending order until one of the limits is
/// reached; the worlds share the time.
#[derive(Clone, Debug)]
pub struct Options {
    pub first: u64,
    /// How many seeds at most, of each world.
    pub seeds: Option<u64>,
    /// No new seed is begun after this, if the seeds have reached what so many must. If they have
    /// not, it goes on until they have, for at most `GRACE` times as long: rare things come by
    /// chance, and how many seeds fit a time is the machine's affair.
    pub budget: Option<Duration>,
    pub threads: usize,
    /// Violations after which the run ends.
    pub violations_max: usize,
    /// This world only.
    pub world: Option<World>,
}

impl Default for Options {
    fn default() -> Self {
        let seeds = Some(100);
        Options { first: 1, seeds, budget: None, threads: 2, violations_max: 1, world: None }
    }
}

impl Options {
    /// One seed again.
    pub fn replay(seed: u64) -> Options {
        Options { first: seed, seeds: Some(1), threads: 1, ..Options::default() }
    }

    /// Whether the time is over.
    fn is_spent(&self, took: Duration, report: &Report) -> bool {
        self.budget.is_some_and(|budget| {
            took >= GRACE * budget || took >= budget && report.coverage_complete()
        })
    }

    /// The world whose turn it is, and its next seed: the one that is behind its share of the time.
    fn next(&self, report: &Report) -> Option<(World, u64)> {
        // What can go wrong is mostly in the changes of views.
        const SHARES: [u32; 2] = [1, 2];
        let begun = |world: World| report.seeds[world as usize].end - self.first;
        let open = World::ALL.into_iter().filter(|world| {
            self.world.is_none_or(|only| only == *world)
                && self.seeds.is_none_or(|seeds| begun(*world) < seeds)
        });
        let behind = |world: &World| report.spent[*world as usize] / SHARES[*world as usize];
        open.min_by_key(behind).map(|world| (world, report.seeds[world as usize].end))
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
        let (world, seed) = {
            let mut report = lock();
            let spent = options.is_spent(start.elapsed(), &report);
            if spent || report.violations.len() >= options.violations_max {
                return;
            }
            let Some((world, seed)) = options.next(&report) else { return };
            report.seeds[world as usize].end += 1;
            (world, seed)
        };
        let began = Instant::now();
        let violation = run_seed(world, seed, |tallies| lock().absorb(tallies));
        let mut report = lock();
        report.violations.extend(violation);
        report.spent[world as usize] += began.elapsed();
        report.took = start.elapsed();
        progress(&report);
    }
}

/// One seed; what it breaks is shrunk to less that breaks the same.
fn run_seed(world: World, seed: u64, absorb: impl FnOnce(&rows::Tallies)) -> Option<Violation> {
    match world {
        World::Fixed => {
            let plan = Plan::new(seed);
            let found = world::run_plan(plan.clone(), absorb)?;
            Some(shrink::shrink(plan, found, |plan| world::run_plan(plan.clone(), |_| ())))
        }
        World::Views => {
            let plan = views::Plan::new(seed);
            let found = views::run_plan(plan.clone(), absorb)?;
            Some(shrink::shrink(plan, found, |plan| views::run_plan(plan.clone(), |_| ())))
        }
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

    /// A failing seed of either world is shrunk, if it can be, to the same page each time.
    #[test]
    fn what_fails_is_made_smaller() {
        let faults =
            [(World::Views, "wire-own-message-lost"), (World::Fixed, "released-before-callback")];
        for (world, fault) in faults {
            crate::mutants::plant(Some(fault));
            let dies = (1..1000).filter_map(|seed| run_seed(world, seed, |_| ()));
            let mut smaller = dies.take(20).filter(|found| found.page.contains("shrunk"));
            let found = smaller.next().expect("it dies, and can be made smaller");
            let again = run_seed(world, found.seed, |_| ()).expect("it dies again");
            crate::mutants::plant(None);
            println!("{found}");
            assert_eq!(found.page, again.page);
            let [before, after] = found.page.split("shrunk").collect::<Vec<_>>()[..] else {
                panic!("a plan, and what became of it")
            };
            let steps = |page: &str| {
                let before = page.split(" steps, ").next().unwrap_or("");
                before.rsplit(' ').next().and_then(|word| word.parse::<u64>().ok())
            };
            assert!(steps(after) < steps(before), "{found}");
        }
    }

    #[test]
    fn a_seed_repeats_itself() {
        for seed in [1, 2, 3, 5, 8, 13] {
            let (one, two) =
                (run(&Options::replay(seed), &|_| ()), run(&Options::replay(seed), &|_| ()));
            let all = |report: &Report| {
                let rows = World::ALL.into_iter().flat_map(|world| report.lines(world));
                let cases = report.cases().map(|case| case.line);
                (rows.chain(cases).collect::<Vec<_>>(), report.steps().collect::<Vec<_>>())
            };
            assert_eq!(all(&one), all(&two));
        }
    }
}
