// SPDX-License-Identifier: MIT OR Apache-2.0
//! `squall sim`: the seeded world of `squall::sim` as a program.

use crate::failure::{Failure, fail};
use crate::text::say;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use squall::sim::{self, Report, Row};
use std::io::IsTerminal;
use std::time::Duration;

const EXAMPLES: &str = "\
Whole groups run in one thread: real engines over a simulated fabric, moved by chance and judged
after every step. A seed and this program's version reproduce a run.

Examples:
  squall sim                      a hundred seeds
  squall sim --seconds 60         as many as fit
  squall sim --seed 7             one again, after a violation named it

The exit status is 1 if a property was violated, or if so many seeds should have reached more.";

/// Search for violations of the order in a simulated world.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Run this seed only
    #[arg(long, conflicts_with_all = ["first", "seeds", "seconds"])]
    seed: Option<u64>,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// How many seeds [default: 100, or as many as fit --seconds]
    #[arg(long)]
    seeds: Option<u64>,
    /// No new seed is begun after this time
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

pub fn run(options: &Options) -> Result<(), Failure> {
    let plan = plan(options)?;
    let bar = std::io::stderr().is_terminal().then(|| {
        let bar = ProgressBar::new(plan.budget.map_or(plan.seeds.unwrap_or(1), milliseconds));
        let template = "[{elapsed_precise}] {bar:40} {msg}";
        bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant"));
        bar
    });
    let report = sim::run(&plan, &|report| {
        if let Some(bar) = &bar {
            let seeds = report.seeds.end - report.seeds.start;
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
            let seed = violation.seed;
            fail!("a property was violated; see it again with `squall sim --seed {seed}`")
        }
        None if passed(options, &report) => Ok(()),
        None => fail!(
            "these seeds reached less than they should: see \"short of\" above, and take more seeds"
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

fn plan(options: &Options) -> Result<sim::Options, Failure> {
    if let Some(seed) = options.seed {
        return Ok(sim::Options::replay(seed));
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
    })
}

fn report_json(report: &Report, passed: bool) -> Value {
    let lines = report.lines();
    let lines =
        lines.map(|line| json!({ "what": line.text, "count": line.count, "want": line.want }));
    let violations = report.violations.iter().map(|violation| {
        json!({
            "seed": violation.seed,
            "step": violation.step,
            "property": violation.property,
            "detail": violation.detail,
            "page": violation.page,
        })
    });
    json!({
        "passed": passed,
        "first": report.seeds.start,
        "seeds": report.seeds.end - report.seeds.start,
        "seconds": report.took.as_secs_f64(),
        "threads": report.threads,
        "reached": lines.collect::<Vec<_>>(),
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
