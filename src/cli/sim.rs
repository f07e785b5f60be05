// SPDX-License-Identifier: MIT OR Apache-2.0
//! `squall sim`: the seeded world of `squall::sim` as a program.

use crate::failure::{Failure, fail};
use crate::text::say;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use squall::sim::{self, BY, Line, Report, Row, World};
use std::io::IsTerminal;
use std::time::Duration;

const EXAMPLES: &str = "\
Whole groups run in one thread: real engines over a simulated fabric, moved by chance and judged
after every step. There are two worlds, which share the time: groups of one view, and groups whose
views change, through crashes, errors of detectors, partitions, pauses, joins, leaves and restarts.
A world, a seed and this program's version reproduce a run. What breaks a property is shrunk.

Examples:
  squall sim                           a hundred seeds of each world
  squall sim --seconds 60              as many as fit, and as many as are enough
  squall sim --world views --seed 7    one again, after a violation named it

The exit status is 1 if a property was violated, or if so many seeds should have reached more.";

/// Search for violations of the order in a simulated world.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Run this world only
    #[arg(long, value_enum)]
    world: Option<Choice>,
    /// Run this seed only
    #[arg(long, conflicts_with_all = ["first", "seeds", "seconds"])]
    seed: Option<u64>,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// How many seeds [default: 100, or as many as fit --seconds]
    #[arg(long)]
    seeds: Option<u64>,
    /// No new seed is begun after this time, or, where seeds have reached too little by then, when
    /// they have: at most ten times as long
    #[arg(long)]
    seconds: Option<f64>,
    /// Threads, each with seeds of its own [default: the cores of this process]
    #[arg(long)]
    threads: Option<usize>,
    /// Violations after which the run ends
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    violations: usize,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Choice {
    /// Groups of one view
    Fixed,
    /// Groups whose views change
    Views,
}

pub fn run(options: &Options) -> Result<(), Failure> {
    let plan = plan(options)?;
    let worlds = if plan.world.is_some() { 1 } else { World::ALL.len() as u64 };
    let all = worlds * plan.seeds.unwrap_or(1);
    let bar = std::io::stderr().is_terminal().then(|| {
        let bar = ProgressBar::new(plan.budget.map_or(all, milliseconds));
        let template = "[{elapsed_precise}] {bar:40} {msg}";
        bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant"));
        bar
    });
    let report = sim::run(&plan, &|report| {
        if let Some(bar) = &bar {
            let seeds = seeds(report);
            bar.set_position(plan.budget.map_or(seeds, |_| milliseconds(report.took)));
            bar.set_message(format!("{seeds} seeds, {} deliveries", report.get(Row::Deliveries)));
        }
    });
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    let json = || format!("{:#}", report_json(&report, passed(options, &report)));
    say(&if options.json { json() } else { report.to_string() })?;
    match report.violations.first() {
        Some(violation) => {
            let (world, seed) = (violation.world.name(), violation.seed);
            fail!(
                "a property was violated; see it again with `squall sim --world {world} --seed {seed}`"
            )
        }
        None if passed(options, &report) => Ok(()),
        None => fail!(
            "these seeds reached less than they should: {}; take more seeds",
            report.shortfalls().map(|line| line.to_string()).collect::<Vec<_>>().join(", ")
        ),
    }
}

/// What the exit status says. One seed alone owes nothing but to violate nothing.
fn passed(options: &Options, report: &Report) -> bool {
    report.violations.is_empty() && (options.seed.is_some() || report.coverage_complete())
}

fn milliseconds(time: Duration) -> u64 {
    time.as_millis() as u64
}

/// Of all worlds.
fn seeds(report: &Report) -> u64 {
    report.seeds.iter().map(|seeds| seeds.end - seeds.start).sum()
}

fn plan(options: &Options) -> Result<sim::Options, Failure> {
    let world = options.world.map(|world| match world {
        Choice::Fixed => World::Fixed,
        Choice::Views => World::Views,
    });
    if let Some(seed) = options.seed {
        return Ok(sim::Options { world, ..sim::Options::replay(seed) });
    }
    if options.seeds == Some(0) || options.threads == Some(0) {
        let what = if options.seeds == Some(0) { "--seeds" } else { "--threads" };
        return fail!("{what} 0: nothing would be searched; at least 1");
    }
    let budget = match options.seconds {
        Some(seconds) if !(seconds > 0.0 && seconds <= 1e7) => {
            return fail!("--seconds {seconds}: more than 0, at most 10000000");
        }
        seconds => seconds.map(Duration::from_secs_f64),
    };
    Ok(sim::Options {
        first: options.first,
        seeds: options.seeds.or(if budget.is_none() { Some(100) } else { None }),
        budget,
        threads: options.threads.unwrap_or_else(crate::machine::cores),
        violations_max: options.violations.max(1),
        world,
    })
}

fn report_json(report: &Report, passed: bool) -> Value {
    let line = |line: Line| json!({ "what": line.text, "count": line.count, "want": line.want });
    let reached = |world| report.lines(world).map(line).collect::<Vec<_>>();
    let steps = report.steps().map(|step| {
        let by = BY.iter().zip(step.counts).map(|((_, name), count)| (name.to_string(), count));
        let by: serde_json::Map<String, Value> =
            by.map(|(name, count)| (name, count.into())).collect();
        json!({ "step": step.name, "interrupted": by, "want": step.want })
    });
    let cases = report.cases().map(|case| {
        let Line { text, count, want } = case.line;
        json!({ "number": case.number, "what": text, "count": count, "want": want })
    });
    let worlds = World::ALL.map(|world| {
        let seeds = &report.seeds[world as usize];
        json!({
            "world": world.name(),
            "first": seeds.start,
            "seeds": seeds.end - seeds.start,
            "thread_seconds": report.spent[world as usize].as_secs_f64(),
            "reached": reached(world),
        })
    });
    let violations = report.violations.iter().map(|violation| {
        json!({
            "world": violation.world.name(),
            "seed": violation.seed,
            "step": violation.step,
            "property": violation.property,
            "detail": violation.detail,
            "page": violation.page,
        })
    });
    json!({
        "passed": passed,
        "seconds": report.took.as_secs_f64(),
        "threads": report.threads,
        "worlds": worlds,
        "views_per_seed": report.views_per_seed(),
        "steps": steps.collect::<Vec<_>>(),
        "cases": cases.collect::<Vec<_>>(),
        "violations": violations.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn a_search_of_nothing_is_refused() {
        let planned = |words: &[&str]| {
            let line = Line::parse_from(["sim"].iter().chain(words));
            plan(&line.options)
        };
        for words in [["--seeds", "0"], ["--threads", "0"], ["--seconds", "0"]] {
            let refused = planned(&words).err().map(|why| why.to_string());
            assert!(refused.is_some_and(|why| why.contains(words[0])), "{words:?}");
        }
        assert!(planned(&["--seeds", "1", "--threads", "1", "--seconds", "0.1"]).is_ok());
    }

    /// What `--json` says and the exit status are one.
    #[test]
    fn one_seed_alone_owes_nothing_else() {
        let options = |words: &[&str]| Line::parse_from(["sim"].iter().chain(words)).options;
        let report = sim::run(&sim::Options::replay(7), &|_| ());
        assert!(report.violations.is_empty() && !report.coverage_complete());
        assert!(passed(&options(&["--seed", "7"]), &report));
        assert!(!passed(&options(&["--first", "7", "--seeds", "1"]), &report));
        assert_eq!(report_json(&report, true)["passed"], true);
    }
}
