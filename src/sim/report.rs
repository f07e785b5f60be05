// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a run has reached, how much it had to, and the page that tells of a violation.

use super::coverage::{self, BY, CASES, Reached, STEPS, count, step_name};
use super::rows::{self, ROWS, Row, Tallies};
use std::fmt;
use std::ops::Range;
use std::time::Duration;

/// One of the two simulated worlds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum World {
    /// Groups of one view: multicast alone (`sim/world.rs`).
    Fixed,
    /// Groups whose views change (`sim/views`).
    Views,
}

impl World {
    pub const ALL: [World; 2] = [World::Fixed, World::Views];

    pub fn name(self) -> &'static str {
        match self {
            World::Fixed => "fixed",
            World::Views => "views",
        }
    }
}

/// A broken property, and how to see it again.
#[derive(Clone, Debug)]
pub struct Violation {
    pub world: World,
    pub seed: u64,
    pub step: u64,
    /// Which property: its number in `protocol.md` §f, and a name.
    pub property: &'static str,
    pub detail: String,
    /// What was planned and the last events: one page.
    pub page: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let world = self.world.name();
        writeln!(f, "{world}, seed {} step {}: {}", self.seed, self.step, self.property)?;
        writeln!(f, "  {}", self.detail)?;
        write!(f, "{}", self.page)
    }
}

/// What all seeds of a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    counters: Vec<u64>,
    pub violations: Vec<Violation>,
    pub took: Duration,
    /// By world: what its seeds took, over all threads.
    pub spent: [Duration; 2],
    pub threads: usize,
    /// By world: the first seed, and the one after the last.
    pub seeds: [Range<u64>; 2],
}

/// Seeds of a world after which the figures of `ROWS` are due; fewer owe their share.
const FULL_SEEDS: u64 = 10_000;
/// Of so many seeds each cell of the coverage of view changes owes one.
const SEEDS_PER_CELL: u64 = 5_000;

/// A row of the report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    pub text: &'static str,
    pub count: u64,
    /// What a run of this many seeds must show at least; 0: nothing.
    pub want: u64,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of {}", self.text, self.count, self.want)
    }
}

/// How often a step of a view change was interrupted, by each of `BY`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    pub name: &'static str,
    pub counts: [u64; BY.len()],
    pub want: u64,
}

/// A failure case: its number in `protocol.md` §f.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Case {
    pub number: u32,
    pub line: Line,
}

impl Report {
    pub fn new(first: u64, threads: usize) -> Report {
        Report {
            counters: vec![0; rows::LEN + coverage::LEN],
            violations: Vec::new(),
            took: Duration::ZERO,
            spent: [Duration::ZERO; 2],
            threads,
            seeds: [first..first, first..first],
        }
    }

    pub fn get(&self, row: Row) -> u64 {
        self.counters[row as usize]
    }

    pub(super) fn absorb(&mut self, tallies: &Tallies) {
        for (sum, count) in self.counters.iter_mut().zip(tallies.all()) {
            *sum += count;
        }
    }

    /// Every counter of a world with its sentence.
    pub fn lines(&self, world: World) -> impl Iterator<Item = Line> + '_ {
        let seeds = match world {
            World::Fixed => self.get(Row::Seeds),
            World::Views => self.get(Row::ViewSeeds),
        };
        let its =
            move |row: Row| (row as usize >= Row::ViewSeeds as usize) == (world == World::Views);
        ROWS.iter().filter(move |(row, ..)| its(*row)).map(move |&(row, text, full)| {
            // Small shares of rare things say nothing.
            let share = full * seeds.min(FULL_SEEDS) / FULL_SEEDS;
            let want = if share < 20 && full > 0 { 0 } else { share };
            Line { text, count: self.get(row), want }
        })
    }

    /// Completed view changes per seed.
    pub fn views_per_seed(&self) -> f64 {
        self.get(Row::Views) as f64 / self.get(Row::ViewSeeds).max(1) as f64
    }

    fn want_of_cell(&self) -> u64 {
        self.get(Row::ViewSeeds).min(FULL_SEEDS) / SEEDS_PER_CELL
    }

    /// Which step of a view change was interrupted by what, in the order of `BY`.
    pub fn steps(&self) -> impl Iterator<Item = Step> + '_ {
        let counters = &self.counters[rows::LEN..];
        (0..STEPS).map(|step| Step {
            name: step_name(step),
            counts: BY.map(|(by, _)| count(counters, Reached::Step(step, by))),
            want: self.want_of_cell(),
        })
    }

    /// The failure cases of `protocol.md` §f.
    pub fn cases(&self) -> impl Iterator<Item = Case> + '_ {
        let (counters, want) = (&self.counters[rows::LEN..], self.want_of_cell());
        CASES.iter().map(move |&(case, number, text)| {
            let count = count(counters, Reached::Case(case));
            Case { number, line: Line { text, count, want } }
        })
    }

    /// What is short of what so many seeds must show: empty seeds do not pass.
    pub fn shortfalls(&self) -> impl Iterator<Item = Line> + '_ {
        let rows = World::ALL.into_iter().flat_map(|world| self.lines(world));
        let steps = self.steps().map(|Step { name, counts, want }| {
            let count = counts.into_iter().min().unwrap_or(0);
            Line { text: name, count, want }
        });
        let lines = rows.chain(steps).chain(self.cases().map(|case| case.line));
        lines.filter(|line| line.count < line.want)
    }

    pub fn coverage_complete(&self) -> bool {
        self.shortfalls().next().is_none()
    }

    /// Nothing violated, nothing missed.
    pub fn passed(&self) -> bool {
        self.violations.is_empty() && self.coverage_complete()
    }

    fn has_run(&self, world: World) -> bool {
        !self.seeds[world as usize].is_empty()
    }
}

fn short(count: u64, want: u64) -> String {
    if count < want { format!("   short of {want}") } else { String::new() }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for violation in &self.violations {
            writeln!(f, "{violation}")?;
        }
        for world in World::ALL.into_iter().filter(|world| self.has_run(*world)) {
            writeln!(f, "{}", ["groups of one view", "groups whose views change"][world as usize])?;
            for Line { text, count, want } in self.lines(world) {
                writeln!(f, "{count:>12}  {text}{}", short(count, want))?;
            }
        }
        if self.has_run(World::Views) {
            self.write_coverage(f)?;
        }
        let speed = self.get(Row::Deliveries) as f64 / self.took.as_secs_f64().max(1e-9);
        for world in World::ALL.into_iter().filter(|world| self.has_run(*world)) {
            let Range { start, end } = self.seeds[world as usize];
            let spent = self.spent[world as usize].as_secs_f64();
            writeln!(f, "{}: seeds {start}..{end} in {spent:.1} s of threads", world.name())?;
        }
        writeln!(
            f,
            "{} threads, {:.1} s, {speed:.0} deliveries a second",
            self.threads,
            self.took.as_secs_f64()
        )?;
        match self.violations.len() {
            0 => write!(f, "no violation"),
            many => write!(f, "{many} violations"),
        }
    }
}

impl Report {
    fn write_coverage(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "view changes interrupted: at which step of a member's, by what")?;
        write!(f, "{:>14}", "")?;
        BY.iter().try_for_each(|(_, name)| write!(f, "{name:>9}"))?;
        writeln!(f)?;
        for Step { name, counts, want } in self.steps() {
            write!(f, "{name:>14}")?;
            counts.iter().try_for_each(|count| write!(f, "{count:>9}"))?;
            writeln!(f, "{}", short(counts.into_iter().min().unwrap_or(0), want))?;
        }
        writeln!(f, "failure cases of protocol.md, section f, by number")?;
        for Case { number, line: Line { text, count, want } } in self.cases() {
            writeln!(f, "{count:>12}  {number:>2}  {text}{}", short(count, want))?;
        }
        let views = self.views_per_seed();
        writeln!(f, "{views:.2} completed view changes a seed in the mean")
    }
}
