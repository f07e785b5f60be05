// SPDX-License-Identifier: MIT OR Apache-2.0
//! `squall config`: whether a configuration file is one, what it comes to, and an example with all keys.

use crate::failure::{Failure, fail};
use crate::text::{bytes_text, new_table, say};
use clap::Args;
use serde_json::json;
use squall::driver::network::Carrier;
use squall::settings::{self, Settings};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  squall config --example > squall.toml     every key, with its meaning and default
  squall config --check squall.toml         what it comes to, or the line that is wrong
  SQUALL_RANK=2 squall config --check squall.toml     the same with a key from the environment

Exit status 1: the file, or the environment, is wrong; standard error says where, and the remedy.";

/// Check a configuration file, or print a documented example.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Read this file and the environment, and say what they come to
    #[arg(long, value_name = "FILE", required_unless_present = "example")]
    check: Option<PathBuf>,
    /// Print an example: every key with its unit, default and meaning
    #[arg(long, conflicts_with = "check")]
    example: bool,
    /// Print JSON instead of a table
    #[arg(long, requires = "check")]
    json: bool,
}

pub fn run(options: &Options) -> Result<(), Failure> {
    let Some(path) = &options.check else {
        return say(settings::example().trim_end());
    };
    let settings = Settings::look(path)?;
    if options.json {
        let keys = settings.keys();
        let keys: Vec<_> =
            keys.map(|(key, origin)| json!({ "key": key, "from": origin })).collect();
        let (figures, path) = (figures(&settings)?, path.display().to_string());
        let figures: serde_json::Map<_, _> = figures
            .into_iter()
            .map(|(name, value)| (name.replace(' ', "_"), value.into()))
            .collect();
        return say(&format!("{:#}", json!({ "file": path, "comes_to": figures, "keys": keys })));
    }
    let mut table = new_table();
    table.set_header(["", "comes to"]);
    for (name, value) in figures(&settings)? {
        table.add_row([name, value]);
    }
    say(&table.to_string())?;
    let mut table = new_table();
    table.set_header(["key", "set in"]);
    for (key, origin) in settings.keys() {
        table.add_row([key.to_string(), origin]);
    }
    say(&table.to_string())
}

/// What a group opened with these settings is.
fn figures(settings: &Settings) -> Result<Vec<(String, String)>, Failure> {
    let config = &settings.config;
    let who = match config.join {
        true => "joins a group that runs".into(),
        false if settings.lacks_job => "as its job step says: rank, members, addresses".into(),
        false => format!("rank {} of {} first members", config.rank, config.members),
    };
    let carrier = match config.network.carrier {
        Carrier::Shm => "shared memory, on one host",
        Carrier::Tcp => "TCP",
        Carrier::Auto => "shared memory within a host, TCP between hosts",
        Carrier::Verbs => "RDMA",
        Carrier::ShmVerbs => "shared memory within a host, RDMA between hosts",
    };
    let view = squall::driver::config::Config { rank: 0, ..config.clone() }.view();
    let Ok(view) = view else { return fail!("the first view cannot be made") };
    let layout = view.layout();
    let rings: u64 = (0..view.subgroups.len()).map(|at| layout.rings_bytes(at) as u64).sum();
    let mut figures = vec![
        ("group".to_string(), config.group.clone()),
        ("this member".into(), who),
        ("members".into(), format!("{:?}", config.membership).to_lowercase()),
        ("fabric".into(), carrier.into()),
        ("idle".into(), format!("{:?}", config.idle).to_lowercase()),
        ("memory of a sender".into(), bytes_text(layout.control_bytes as u64 + rings)),
    ];
    for (at, subgroup) in config.subgroups.iter().enumerate() {
        let name = if subgroup.name.is_empty() { at.to_string() } else { subgroup.name.clone() };
        let text = format!(
            "{} order, messages up to {}, window {}",
            format!("{:?}", subgroup.mode).to_lowercase(),
            bytes_text(subgroup.message_bytes_max.into()),
            subgroup.window
        );
        figures.push((format!("subgroup {name}"), text));
    }
    Ok(figures)
}
