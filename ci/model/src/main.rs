// SPDX-License-Identifier: MIT OR Apache-2.0
//! All states of a view change, in small groups: two models of `src/group/membership`, searched
//! exhaustively, and what happens when one of its rules is left out. `model --help` says how.
//!
//! # The models
//!
//! **A, takeover and agreement** (`agreement.rs`): suspicion, who leads, the list of changes,
//! ballots, agreement, and the way through two views with joins and leaves. The trim is a delay: a
//! member may end at any time once the next view is decided.
//!
//! **B, trim and install** (`trim.rs`): receipts, wedge, cut, echo, delivery, end and pass in a
//! shard that is the group or a part of it. Agreement is an oracle that does all that A allows.
//!
//! **AB** is both as they are, in one: where it can be searched, the interface need not be
//! believed.
//!
//! # The interface
//!
//! B takes for granted of A (`oracle.rs`; checked in every state of A and AB):
//!
//! ```text
//! I1  there is one list of agreed changes, of which a member knows a prefix, which only grows
//! I2  who knows of a removal suspects
//! I3  when a removal is agreed, everyone suspects whom the leader that agrees does not suspect,
//!     and these are a majority
//! I4  a member learns of an agreement at any time, in no order with other members' rows
//! ```
//!
//! A takes for granted of B (checked in every state of B and AB):
//!
//! ```text
//! I5  a member ends only once the next view is decided
//! I6  a member passes only when everyone has ended whose removal is not agreed
//! ```
//!
//! # Steps, and the code that they stand for
//!
//! A step is one `Membership::poll` with what it finds (any number of the pushes on their way from
//! each other member), what detectors report, who asks, and what is published in the end. Within it
//! the functions are those of the code, in its order, under its names:
//!
//! ```text
//! look, suspect, count                      mod.rs      agreement.rs
//! follow, lead, take_over, propose, agree   leader.rs   agreement.rs
//! wedge, trim, echo, compute, end, pass     trim.rs     trim.rs
//! install, carry (sponsor)                  trim.rs     trim.rs
//! publish, posts (push), Row (take, torn)   courier.rs, row.rs    world.rs, agreement.rs
//! List, Roster, majorities_meet             changes.rs, roster.rs   row.rs, agreement.rs
//! ```
//!
//! # What is left out, and why that is no loss
//!
//! Where a row is (the journal, posts, layouts): a push arrives whole, or torn between two levels
//! of `sst/layout.rs` (`Config::torn`). Crashes: a member that is not polled again; what it pushed
//! may never be read. Detectors: anybody may suspect anybody, rightly or not, within a number of
//! suspects. Messages: which receipts members end with is chosen at the start (`trim.rs`). A process
//! that starts again is a new incarnation, so a joiner; its old one is a suspect that may still
//! live. State transfer is when a joiner starts: at any time after its sponsor has installed, from
//! any that does not suspect it. A full journal, a liar, and total failure with a log are no part
//! of this.
//!
//! A position in the list counts batches, not changes. Reads that make no difference to a poll are
//! left to a later one (`steps.rs`; a test compares). Members that can never lead and are alike
//! change places freely.
//!
//! # What is not needed for safety here
//!
//! `model mutations` prints it, with the argument: M3, M4a, M5, M7a, M12, M14 of the design's list.

mod agreement;
mod config;
mod encode;
mod judge;
mod oracle;
mod row;
mod search;
mod steps;
mod suites;
mod table;
#[cfg(test)]
mod tests;
mod trim;
mod world;

use search::{Bounds, End, Report};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use suites::{Case, Mutation, Want, outcome, run, seconds};

const HELP: &str = "\
model: searches all states of Squall's view change, in small groups

usage: model SUITE [options]

suites
  quick        searches that are done within a minute
  deep         the larger ones, about half an hour in all
  mutations    breaks one rule after the other: which search finds it, in how many steps
  list         the names of all searches

options
  --only TEXT       searches (or mutations) whose name has that text
  --seconds N       at most that long for each search  [300; deep: each its own]
  --mebibytes N     at most that much memory for each search  [8192]
  --stories         also tells the shortest way to each violation
  --progress        says how far it is, level by level

Exit: 0 if everything came to what it should; 1 if a rule that is kept broke a property, or one
that was broken was not found out; 2 if the call was wrong. A search that ran out of time or memory
says so and counts as good.";

struct Options {
    only: String,
    seconds: Option<u64>,
    bytes: usize,
    stories: bool,
    progress: bool,
}

fn parse(arguments: &[String]) -> Option<(String, Options)> {
    let mut options = Options {
        only: String::new(),
        seconds: None,
        bytes: 8192 << 20,
        stories: false,
        progress: false,
    };
    let (suite, rest) = arguments.split_first()?;
    let mut rest = rest.iter();
    while let Some(name) = rest.next() {
        match name.as_str() {
            "--only" => options.only = rest.next()?.clone(),
            "--seconds" => options.seconds = Some(rest.next()?.parse().ok()?),
            "--mebibytes" => options.bytes = rest.next()?.parse::<usize>().ok()? << 20,
            "--stories" => options.stories = true,
            "--progress" => options.progress = true,
            _ => return None,
        }
    }
    Some((suite.clone(), options))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let begin = Instant::now();
    let Some((suite, options)) = parse(&arguments) else {
        eprintln!("{HELP}");
        return ExitCode::from(2);
    };
    let good = match suite.as_str() {
        "quick" => searches(suites::quick(), &options),
        "deep" => searches(suites::deep(), &options),
        "mutations" => mutations(suites::mutations(), &options),
        "list" => {
            let cases = suites::quick().into_iter().chain(suites::deep());
            cases.for_each(|case| println!("{}", case.name));
            suites::mutations().iter().for_each(|m| println!("{:5} {}", m.mark, m.rule));
            true
        }
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    };
    println!(
        "model {suite}: {} s, {}",
        begin.elapsed().as_secs(),
        if good { "good" } else { "BAD" }
    );
    ExitCode::from(u8::from(!good))
}

fn bounds(case: &Case, options: &Options) -> Bounds {
    let time = Duration::from_secs(options.seconds.unwrap_or(case.seconds));
    Bounds { bytes: options.bytes, time, progress: options.progress }
}

fn figures(report: &Report) -> String {
    let (states, transitions, depth) = (report.states, report.transitions, report.depth);
    format!("{states:>10} {transitions:>11} {depth:>5} {:>7}", seconds(report.time))
}

fn story(report: &Report) {
    if let End::Broken { story, .. } = &report.end {
        story.iter().for_each(|line| println!("      {}", line.replace('\n', "\n      ")));
    }
}

fn searches(cases: Vec<Case>, options: &Options) -> bool {
    let heads = ["states", "transitions", "depth", "seconds"];
    println!("{:66} {:>10} {:>11} {:>5} {:>7}", "search", heads[0], heads[1], heads[2], heads[3]);
    let mut good = true;
    for case in cases.iter().filter(|case| case.name.contains(&options.only)) {
        let report = run(&case.config, bounds(case, options));
        let mebibytes = report.peak_bytes >> 20;
        println!("{:66} {}  {} {mebibytes} MiB", case.name, figures(&report), outcome(&report));
        if matches!(report.end, End::Broken { .. }) {
            good = false;
            story(&report);
        }
    }
    good
}

fn mutations(mutations: Vec<Mutation>, options: &Options) -> bool {
    let heads = ["states", "transitions", "depth", "seconds"];
    println!(
        "{:5} {:47} {:2} {:>10} {:>11} {:>5} {:>7}",
        "", "rule left out", "by", heads[0], heads[1], heads[2], heads[3]
    );
    let mut good = true;
    let named = |m: &&Mutation| m.mark.contains(&options.only) || m.rule.contains(&options.only);
    for mutation in mutations.iter().filter(named) {
        let (case, argument) = match &mutation.want {
            Want::Caught(case) => (case, None),
            Want::Argued(why, case) => (case, Some(why)),
        };
        let mut config = case.config.clone();
        config.faults = mutation.faults.clone();
        let part = suites::letters(&config);
        let report = run(&config, bounds(case, options));
        let broken = matches!(report.end, End::Broken { .. });
        let right = broken == argument.is_none();
        good &= right;
        let verdict = outcome(&report);
        let verdict = if right { verdict } else { format!("NOT AS IT SHOULD: {verdict}") };
        println!(
            "{:5} {:47} {part:2} {}  {verdict}",
            mutation.mark,
            mutation.rule,
            figures(&report)
        );
        if let Some(why) = argument {
            println!("      not needed for what is searched here: {why}");
        }
        if options.stories || !right {
            story(&report);
        }
    }
    good
}
