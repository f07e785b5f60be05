// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a run has reached: counters with what they mean and how much a full run must show, and the
//! page that tells of a violation.

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

macro_rules! rows {
    ($($name:ident $want:literal $text:literal,)*) => {
        /// What is counted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Row { $($name,)* }

        /// Every row: what it counts, and how many a full run must show.
        const ROWS: &[(Row, &str, u64)] = &[$((Row::$name, $text, $want),)*];
    };
}

rows! {
    Seeds 0 "seeds",
    Steps 0 "steps of the world",
    Turns 0 "turns of members",
    Deliveries 10_000_000 "deliveries (message and member)",
    Received 100_000 "of these, in *received* mode",
    Messages 1_000_000 "messages sent",
    Nulls 100_000 "nulls given",
    Laps 100_000 "laps of a ring",
    WindowFull 1_000 "sends refused: window full",
    RingFull 1_000 "sends refused: no bytes left",
    WrapInBatch 1_000 "wraps inside one take-up",
    WrapInPosts 1_000 "ranges posted in two spans",
    LongNullRun 1_000 "null runs longer than the window",
    LandedInPoll 1_000 "words landing between two observes of one poll",
    MovedInPoll 1_000 "steps of other members inside one poll",
    MovedInCallback 1_000 "callbacks during which others moved",
    WindowOneSeeds 100 "subgroups with window 1",
    WindowOne 1_000 "deliveries with window 1",
    Singletons 100 "subgroups of one member",
    Gathered 1_000 "gathered sends",
    Late 1_000 "reservations published late",
    Aborts 1_000 "reservations aborted",
    Abandoned 100 "reservations never published nor aborted",
    CallbackSends 1_000 "sends from callbacks",
    CutShort 1_000 "deliveries that one turn's budget cut short",
    FullTurns 1_000 "turns with a peer that took no posts",
    CaughtUp 1_000 "posts to a peer that had missed some",
    TornWords 1_000 "word posts seen half landed",
    TornSpans 1_000 "spans seen half landed",
    Pauses 1_000 "pauses of a member",
    Sleeps 1_000 "sleeps",
    Woken 1_000 "sleepers woken by a bell or a landing",
    Quiet 1_000 "times that all fell silent and was compared",
    Left 100 "departures in good order",
    Lost 50 "departures without",
    LeftBehind 1_000 "messages delivered after a departure",
    EvilSeeds 20 "seeds with a member that writes garbage",
    EvilWords 1_000 "words and headers of garbage",
    EvilFaults 20 "members that cut it off",
    ViewSeeds 0 "seeds of groups whose views change",
    Views 10_000 "views after a first one",
    Installs 10_000 "views installed (view and member)",
    Wedged 10_000 "members wedged",
    CutDeliveries 1_000 "messages delivered by a cut",
    Resent 1_000 "messages sent again in the next view",
    CallbackOverView 100 "callbacks during which others went on by one view",
    CallbackOverViews 3 "callbacks during which others went on by several",
    Crashes 1_000 "crashes of a member at rest",
    CrashesFrozen 20 "crashes of one that has just stopped receiving",
    CrashesWedged 100 "crashes of one that is wedged",
    CrashesAgreed 20 "crashes of one that knows the next view",
    CrashesEchoed 20 "crashes of one that has published its cuts",
    CrashesEnded 20 "crashes of one that has delivered its cuts",
    CrashesPassed 1 "crashes of one that is about to install",
    Falsehoods 1_000 "false suspicions by a member at rest",
    FalsehoodsFrozen 20 "false suspicions by one that has just stopped receiving",
    FalsehoodsWedged 100 "false suspicions by one that is wedged",
    FalsehoodsAgreed 20 "false suspicions by one that knows the next view",
    FalsehoodsEchoed 20 "false suspicions by one that has published its cuts",
    FalsehoodsEnded 20 "false suspicions by one that has delivered its cuts",
    FalsehoodsPassed 1 "false suspicions by one that is about to install",
    Duels 100 "members that suspected each other",
    CutLinks 500 "links cut one way",
    Splits 100 "partitions",
    Joined 500 "joiners started",
    LeftView 100 "members that left with a view",
    Expelled 500 "members expelled",
    Partitioned 500 "members in a minority",
    Exhausted 0 "members whose journal was full",
    SurvivedSeeds 1_000 "groups that survived",
}

const LEN: usize = ROWS.len();

/// Counters of one world.
pub struct Tallies([Cell<u64>; LEN]);

impl Tallies {
    pub fn new() -> Tallies {
        Tallies(std::array::from_fn(|_| Cell::new(0)))
    }

    #[inline(always)]
    pub fn add(&self, row: Row, count: u64) {
        let cell = &self.0[row as usize];
        cell.set(cell.get() + count);
    }

    pub fn get(&self, row: Row) -> u64 {
        self.0[row as usize].get()
    }

    #[inline(always)]
    pub fn one(&self, row: Row) {
        self.add(row, 1);
    }
}

/// A broken property, and how to see it again.
#[derive(Clone, Debug)]
pub struct Violation {
    pub seed: u64,
    pub step: u64,
    /// Which property: its number in `protocol.md` §f, and a name.
    pub property: &'static str,
    pub detail: String,
    /// The seed's configuration and its last events: one page.
    pub page: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} step {}: {}", self.seed, self.step, self.property)?;
        writeln!(f, "  {}", self.detail)?;
        write!(f, "{}", self.page)
    }
}

/// What all seeds of a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    rows: [u64; LEN],
    pub violations: Vec<Violation>,
    pub took: Duration,
    pub threads: usize,
    /// The first seed, and the one after the last.
    pub seeds: std::ops::Range<u64>,
}

/// Seeds after which the figures of `ROWS` are due; fewer owe their share.
const FULL_SEEDS: u64 = 10_000;

/// A row of the report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    pub text: &'static str,
    pub count: u64,
    /// What a run of this many seeds must show at least; 0: nothing.
    pub want: u64,
}

impl Report {
    pub fn new(first: u64, threads: usize) -> Report {
        Report {
            rows: [0; LEN],
            violations: Vec::new(),
            took: Duration::ZERO,
            threads,
            seeds: first..first,
        }
    }

    pub fn get(&self, row: Row) -> u64 {
        self.rows[row as usize]
    }

    pub(super) fn absorb(&mut self, tallies: &Tallies) {
        for (sum, cell) in self.rows.iter_mut().zip(&tallies.0) {
            *sum += cell.get();
        }
    }

    /// Every counter with its sentence.
    pub fn lines(&self) -> impl Iterator<Item = Line> + '_ {
        let seeds = self.get(Row::Seeds).min(FULL_SEEDS);
        ROWS.iter().map(move |&(row, text, full)| {
            // Small shares of rare things say nothing.
            let share = full * seeds / FULL_SEEDS;
            let want = if share < 20 && full > 0 { 0 } else { share };
            Line { text, count: self.get(row), want }
        })
    }

    /// The rows that are short of what so many seeds must show: empty seeds do not pass.
    pub fn shortfalls(&self) -> impl Iterator<Item = Line> + '_ {
        self.lines().filter(|line| line.count < line.want)
    }

    pub fn coverage_complete(&self) -> bool {
        self.shortfalls().next().is_none()
    }

    /// Nothing violated, nothing missed.
    pub fn passed(&self) -> bool {
        self.violations.is_empty() && self.coverage_complete()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for violation in &self.violations {
            writeln!(f, "{violation}")?;
        }
        for Line { text, count, want } in self.lines() {
            let short = if count < want { format!("   short of {want}") } else { String::new() };
            writeln!(f, "{count:>12}  {text}{short}")?;
        }
        let seconds = self.took.as_secs_f64();
        let speed = self.get(Row::Deliveries) as f64 / seconds.max(1e-9);
        writeln!(
            f,
            "seeds {}..{} on {} threads in {seconds:.1} s, {speed:.0} deliveries a second",
            self.seeds.start, self.seeds.end, self.threads
        )?;
        match self.violations.len() {
            0 => write!(f, "no violation"),
            many => write!(f, "{many} violations"),
        }
    }
}
