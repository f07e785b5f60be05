// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `squall` program: measure, use and look at groups, on this host and on others. One file per verb; the
//! library knows nothing of it.
//!
//! Results go to standard output, everything else to standard error. Exit status 0: done; 1: it
//! failed, and standard error says what, with which value, and what to do; 2: wrong usage;
//! 3 and 4: `squall cat --help` says when.

#![forbid(unsafe_code)]

mod cat;
mod config;
mod failure;
mod far;
mod info;
mod machine;
mod near;
mod perf;
mod secret;
mod sim;
mod stat;
mod text;

use clap::{Parser, Subcommand};
use failure::Failure;
use squall::log_sink::{self, Level};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  squall perf                             half a minute, every figure beside this machine's floor
  squall cat --group demo --members 2 --rank 0     (and --rank 1 in another terminal)
  squall stat demo                        look into that group from a third one
  squall info                             what this machine lacks, and the remedies
  squall perf --config demo.toml          the same between hosts: on each of them, with the same file
  squall stat --config demo.toml          look into a group on several hosts
  squall secret FILE                      make what members on several hosts prove themselves with
  squall sim --seconds 10                 search a simulated world for a wrong order

`squall VERB --help` has more.";

/// Totally ordered multicast between processes, on one host or several.
#[derive(Parser)]
#[command(name = "squall", version, after_help = EXAMPLES, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Perf(perf::Options),
    Cat(cat::Options),
    Stat(stat::Options),
    Info(info::Options),
    Secret(secret::Options),
    Config(config::Options),
    Sim(sim::Options),
}

fn main() -> ExitCode {
    log_sink::set(Some(Box::new(|level, text| {
        let kind = match level {
            Level::Error => "error: ",
            Level::Warning => "warning: ",
            Level::Notice => "",
        };
        text::remark(&format!("{kind}{text}"));
    })));
    let outcome = match Arguments::parse().verb {
        Verb::Perf(options) => perf::run(&options),
        Verb::Cat(options) => cat::run(&options),
        Verb::Stat(options) => stat::run(&options),
        Verb::Info(options) => info::run(&options),
        Verb::Secret(options) => secret::run(&options),
        Verb::Config(options) => config::run(&options),
        Verb::Sim(options) => sim::run(&options),
    };
    match outcome {
        Ok(()) | Err(Failure::Quiet) => ExitCode::SUCCESS,
        Err(Failure::Because(why)) => {
            text::remark(&format!("error: {why}"));
            ExitCode::FAILURE
        }
        Err(Failure::Told(status, why)) => {
            text::remark(&format!("error: {why}"));
            ExitCode::from(status)
        }
    }
}
