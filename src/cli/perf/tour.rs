// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tour: a few measurements that say how this engine does on this machine, in one table.

use super::plan::{Plan, Test};
use super::report::{self, Floor, Outcome};
use super::{crew, group_name, idle_for};
use crate::failure::{Failure, fail};
use crate::machine;
use crate::text::{IdleOption, remark, say};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::time::Duration;

/// A stop of the tour: test, members, senders, bytes, what idle members do.
type Stop = (Test, u16, u16, u32, IdleOption);

/// Beside each measured time: the floor, starting, meeting, ending.
const SPARE_SECONDS: f64 = 0.5;

fn stops(cores: &[usize]) -> Vec<Stop> {
    let idle = |members| idle_for(members, cores);
    vec![
        (Test::Lat, 2, 1, 64, idle(2)),
        (Test::Rate, 2, 2, 100, idle(2)),
        (Test::Rate, 3, 3, 100, IdleOption::Yield),
        (Test::Bw, 2, 1, 1 << 10, idle(2)),
        (Test::Bw, 2, 1, 10 << 10, idle(2)),
        (Test::Bw, 2, 1, 1 << 20, idle(2)),
        (Test::Lat, 3, 1, 64, IdleOption::Park),
    ]
}

pub fn run(cores: &[usize], seconds: f64, as_json: bool) -> Result<(), Failure> {
    if !(4.0..=3600.0).contains(&seconds) {
        return fail!("--seconds {seconds}: a tour takes 4 to 3600 s");
    }
    let stops = stops(cores);
    let count = stops.len() as f64;
    let each = (seconds / count - SPARE_SECONDS) / 1.2;
    let progress = Progress::new(stops.len());
    let mut outcomes = Vec::new();
    for (test, members, senders, size, idle) in stops {
        let plan = Plan {
            test,
            group: group_name(),
            members,
            senders,
            size,
            window: 4096,
            idle,
            cores: cores.to_vec(),
            seconds: each.max(0.05),
            pace_ns: if idle == IdleOption::Spin { 100_000 } else { 1_000_000 },
            plant: None,
        };
        progress.begin(&plan);
        let floor = Floor::measure(&plan)?;
        progress.tick();
        let reports = crew::run(&plan, || progress.tick())?;
        progress.end();
        outcomes.push(Outcome { plan, floor, reports }.check()?);
    }
    progress.close();
    if as_json {
        let tests: Vec<Value> = outcomes.iter().map(Outcome::json).collect();
        return say(&format!("{:#}", json!({ "machine": machine::json(), "tests": tests })));
    }
    print(&outcomes)
}

fn print(outcomes: &[Outcome]) -> Result<(), Failure> {
    say(&machine::line())?;
    let rows: Vec<[String; 6]> = outcomes.iter().map(Outcome::row).collect();
    say(&report::table(&rows))?;
    say(
        "lat: from the intended send of one paced sender until stable, delivered there in order.\n\
         rate, bw: delivered at each member: median (least - most). ratio: result / floor.",
    )?;
    report::disturbed(outcomes)?;
    say(&report::verified(outcomes))
}

/// A bar on a terminal, plain lines elsewhere; on standard error.
struct Progress {
    bar: Option<ProgressBar>,
    count: usize,
    at: std::cell::Cell<usize>,
}

/// Ticks of the bar per test.
const STEPS: u64 = 1000;

impl Progress {
    fn new(count: usize) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(count as u64 * STEPS);
            let style = ProgressStyle::with_template("[{elapsed_precise}] {bar:40} {msg}");
            bar.set_style(style.expect("the template is a constant"));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Progress { bar, count, at: std::cell::Cell::new(0) }
    }

    fn begin(&self, plan: &Plan) {
        let (name, members) = (plan.test.name(), plan.members);
        let size = crate::text::bytes_text(plan.size.into());
        let what =
            format!("{}/{} {name}, {members} members, {size}", self.at.get() + 1, self.count);
        match &self.bar {
            Some(bar) => bar.set_message(what),
            None => remark(&what),
        }
    }

    /// About a tenth of a second has passed.
    fn tick(&self) {
        let Some(bar) = &self.bar else { return };
        let limit = (self.at.get() as u64 + 1) * STEPS;
        bar.set_position((bar.position() + STEPS / 40).min(limit));
    }

    fn end(&self) {
        self.at.set(self.at.get() + 1);
        if let Some(bar) = &self.bar {
            bar.set_position(self.at.get() as u64 * STEPS);
        }
    }

    fn close(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
