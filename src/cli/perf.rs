// SPDX-License-Identifier: MIT OR Apache-2.0
//! `squall perf`: how fast the engine is on this machine, or between hosts, beside what the machine or
//! the network can do at all.

mod crew;
mod failover;
mod floor;
mod hlog;
mod hosts;
mod member;
mod message;
mod plan;
mod plot;
mod report;
mod tour;

use crate::failure::{Failure, because, fail};
use crate::text::{IdleOption, parse_message_bytes, remark, say};
use clap::{Args, Subcommand};
use message::Plant;
use plan::{Plan, Test};
use report::Outcome;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Without a test it takes a tour of about half a minute and ends with a table. Every test starts its
own members, one process each, and stops them.

Examples:
  squall perf                                   the tour
  squall perf rate --members 3 --size 100       messages per second at each member
  squall perf bw --size 1MiB                    bytes per second, one sender
  squall perf lat --plot lat.svg --hlog lat.hlog
  squall perf lat --idle park --members 3       members that sleep between messages
  squall perf failover --times 200              kill -9 to the first delivery in the next view
  squall perf rate --group g --rank 0           one member by hand; start rank 1 elsewhere, same flags

Between hosts: on each the same command with the same file (`squall config --example` lists its keys),
and its own rank, in the file or as SQUALL_RANK. Rank 0 prints for all; whoever is missing is named.
  squall perf --config demo.toml                a tour of some ten seconds
  squall perf --config demo.toml lat --seconds 10
The file says who the members are, how they meet, what they do when idle (`idle`) and on which core
(`core`); its subgroups are not used. The floor is bare TCP between rank 0 and the first member on
another host: there and back for `lat`, a one-way stream for `rate` and `bw`, over a port of its own
(--floor-port, if a firewall is between). Between hosts clocks differ: latency is from send to stable.

Every member checks every message while it measures: each sender's sequence, the total order, and
the checksum of one text in 64. A violation ends the run with status 1.
The floor (cache-line round trip by two lines, one each way; eventfd round trip; memcpy) is measured
in the same run, on the same cores; ratio is engine / floor.";

/// Measure the engine on this machine, beside the machine's floor.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    #[command(subcommand)]
    test: Option<TestVerb>,
    /// A configuration file: be one of the members that it names, on several hosts
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// With --config: the port of rank 0 that the bare TCP floor is measured over [default: any]
    #[arg(long, value_name = "PORT", global = true)]
    floor_port: Option<u16>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// About how long the tour takes [default: 30; with --config 12]
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// Cores to use, like 0,2-3; member i runs on the (i modulo length)-th [default: all]
    #[arg(long, value_parser = parse_cores, value_name = "LIST")]
    cores: Option<Cores>,
}

#[derive(Subcommand)]
enum TestVerb {
    /// Latency of one paced sender: to stable at the sender, to delivery at each receiver
    #[command(alias = "latency")]
    Lat {
        #[command(flatten)]
        common: Common,
        /// Time between two sends, like 100us, 1ms [default: 100us; 1ms if members sleep or share cores]
        #[arg(long, value_parser = parse_time, value_name = "TIME")]
        pace: Option<u64>,
        /// Write an HdrHistogram log, one histogram per stage
        #[arg(long, value_name = "FILE")]
        hlog: Option<PathBuf>,
        /// Write a percentile plot
        #[arg(long, value_name = "FILE.svg")]
        plot: Option<PathBuf>,
    },
    /// Messages per second delivered at each member, all senders at full speed
    Rate(Common),
    /// Bytes per second delivered at each member, one sender with large messages
    #[command(alias = "bandwidth")]
    Bw(Common),
    Failover(failover::Options),
    #[command(hide = true)]
    FailoverRole {
        #[arg(long)]
        role: String,
        #[arg(long)]
        parent: u32,
    },
    #[command(hide = true)]
    Member {
        #[arg(long)]
        rank: u16,
        #[arg(long)]
        plan: String,
        #[arg(long)]
        parent: u32,
    },
}

#[derive(Args)]
struct Common {
    /// Bytes of a message [default: lat 64, rate 100, bw 1MiB]
    #[arg(long, value_parser = parse_message_bytes, value_name = "BYTES")]
    size: Option<u32>,
    /// Members of the group, one process each [default: 2]
    #[arg(long)]
    members: Option<u16>,
    /// How many of them are senders [default: lat and bw 1, rate all]
    #[arg(long)]
    senders: Option<u16>,
    /// Messages that a sender may have under way
    #[arg(long, default_value_t = 4096, value_name = "MESSAGES")]
    window: u32,
    /// What members do when there is nothing to do [default: spin; yield if they share cores]
    #[arg(long, value_enum)]
    idle: Option<IdleOption>,
    /// Cores to use, like 0,2-3; member i runs on the (i modulo length)-th [default: all]
    #[arg(long, value_parser = parse_cores, value_name = "LIST")]
    cores: Option<Cores>,
    /// How long to measure, after a warm-up of a fifth of that (at most 1 s)
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Be one member, started by hand: the others have the same flags and other ranks
    #[arg(long, requires = "group")]
    rank: Option<u16>,
    /// Name of the group that members started by hand meet in
    #[arg(long, requires = "rank", value_name = "NAME")]
    group: Option<String>,
    /// Plant a fault, to see that it is found
    #[arg(long, hide = true)]
    plant: Option<Plant>,
}

type Cores = std::sync::Arc<[usize]>;

pub fn run(options: &Options) -> Result<(), Failure> {
    let cores = options.cores.as_deref().map(<[usize]>::to_vec);
    if options.test.is_some() && (options.json || options.seconds.is_some() || cores.is_some()) {
        return fail!("give --json, --seconds and --cores after the test, as its own options");
    }
    if let Some(file) = &options.config {
        return between_hosts(options, file);
    }
    if options.floor_port.is_some() {
        return fail!("--floor-port is for members on several hosts: add --config FILE");
    }
    match &options.test {
        None => {
            let seconds = options.seconds.unwrap_or(30.0);
            tour::run(&cores.map_or_else(own_cores, Ok)?, seconds, options.json)
        }
        Some(TestVerb::Member { rank, plan, parent }) => {
            crew::die_with(*parent)?;
            let plan: Plan =
                serde_json::from_str(plan).map_err(|why| because!("no plan: {why}"))?;
            let report = member::run(&plan, *rank)?;
            say(&serde_json::to_string(&report).expect("a report is plain data"))
        }
        Some(TestVerb::Failover(options)) => failover::run(options),
        Some(TestVerb::FailoverRole { role, parent }) => {
            let role = serde_json::from_str(role).map_err(|why| because!("no role: {why}"))?;
            failover::member::run(&role, *parent)
        }
        Some(TestVerb::Lat { common, pace, hlog, plot }) => {
            let plan = make_plan(Test::Lat, common, *pace)?;
            hlog.as_deref().map_or(Ok(()), can_be_made)?;
            plot.as_deref().map_or(Ok(()), can_be_drawn)?;
            let Some(outcome) = measure(&plan, common)? else { return Ok(()) };
            if let Some(path) = hlog {
                hlog::write(path, &outcome)?;
            }
            if let Some(path) = plot {
                plot::write_latencies(path, &outcome)?;
            }
            outcome.print(common.json)
        }
        Some(TestVerb::Rate(common)) => whole(Test::Rate, common),
        Some(TestVerb::Bw(common)) => whole(Test::Bw, common),
    }
}

/// This process is one member of a measurement between hosts.
fn between_hosts(options: &Options, file: &Path) -> Result<(), Failure> {
    let job = hosts::Job::read(file, options.floor_port.unwrap_or(0))?;
    let (test, common, pace) = match &options.test {
        None if options.cores.is_some() => {
            return fail!("--cores: with --config each member's core is `core` in its file");
        }
        None => return job.tour(options.seconds.unwrap_or(12.0), options.json),
        Some(TestVerb::Lat { common, pace, hlog: None, plot: None }) => (Test::Lat, common, *pace),
        Some(TestVerb::Lat { .. }) => return fail!("--hlog and --plot: not with --config yet"),
        Some(TestVerb::Rate(common)) => (Test::Rate, common, None),
        Some(TestVerb::Bw(common)) => (Test::Bw, common, None),
        Some(_) => return fail!("--config: only for lat, rate, bw and the tour"),
    };
    let by_file = [
        (common.members.is_some(), "--members", "members"),
        (common.rank.is_some(), "--rank", "rank"),
        (common.group.is_some(), "--group", "group"),
        (common.idle.is_some(), "--idle", "idle"),
        (common.cores.is_some(), "--cores", "core"),
    ];
    if let Some((_, option, key)) = by_file.iter().find(|(given, ..)| *given) {
        return fail!("{option}: with --config the file says it (`{key}`)");
    }
    let mut plan = job.plan(test, common.size);
    plan.senders = common.senders.unwrap_or(plan.senders);
    (plan.window, plan.seconds, plan.plant) = (common.window, common.seconds, common.plant);
    plan.pace_ns = pace.unwrap_or(plan.pace_ns);
    job.run(vec![plan], common.json)
}

fn whole(test: Test, common: &Common) -> Result<(), Failure> {
    let outcome = measure(&make_plan(test, common, None)?, common)?;
    outcome.map_or(Ok(()), |outcome| outcome.print(common.json))
}

/// Whether a result has a place, asked before anything is measured.
fn can_be_made(path: &Path) -> Result<(), Failure> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        Some(folder) if !folder.is_dir() => {
            fail!(
                "cannot write {}: there is no folder {}; make it first",
                path.display(),
                folder.display()
            )
        }
        _ if path.is_dir() => fail!("cannot write {}: it is a folder; name a file", path.display()),
        _ => Ok(()),
    }
}

/// The same for a plot.
fn can_be_drawn(path: &Path) -> Result<(), Failure> {
    if path.extension().is_none_or(|ending| ending != "svg") {
        return fail!("--plot {}: only SVG is drawn; name it .svg", path.display());
    }
    can_be_made(path)
}

/// Runs a plan with all its members, or one member of it (`None`: that has printed already).
fn measure(plan: &Plan, common: &Common) -> Result<Option<Outcome>, Failure> {
    plan.check()?;
    if let Some(rank) = common.rank {
        if rank >= plan.members {
            return fail!("--rank {rank}: ranks are 0 to {} here", plan.members - 1);
        }
        report::print_member(plan, &member::run(plan, rank)?, common.json)?;
        return Ok(None);
    }
    let floor = report::Floor::measure(plan)?;
    let reports = crew::run(plan, || ())?;
    Outcome { plan: plan.clone(), floor, reports }.check().map(Some)
}

fn make_plan(test: Test, common: &Common, pace: Option<u64>) -> Result<Plan, Failure> {
    let cores = match &common.cores {
        Some(cores) => cores.to_vec(),
        None => own_cores()?,
    };
    let members = common.members.unwrap_or(2);
    let idle = common.idle.unwrap_or_else(|| idle_for(members, &cores));
    let crowded = usize::from(members) > cores.len();
    if idle == IdleOption::Spin && crowded {
        let cores = cores.len();
        remark(&format!(
            "warning: {members} spinning members share {cores} cores and wait for each other's \
             time slices; --idle yield is for that"
        ));
    }
    let slow = idle == IdleOption::Park || crowded;
    Ok(Plan {
        test,
        group: common.group.clone().unwrap_or_else(group_name),
        members,
        senders: common.senders.unwrap_or(if test == Test::Rate { members } else { 1 }),
        size: common.size.unwrap_or(test.size()),
        window: common.window,
        idle,
        cores,
        seconds: common.seconds,
        pace_ns: pace.unwrap_or(if slow { 1_000_000 } else { 100_000 }),
        plant: common.plant,
    })
}

/// Spinning needs a core per member.
fn idle_for(members: u16, cores: &[usize]) -> IdleOption {
    if usize::from(members) <= cores.len() { IdleOption::Spin } else { IdleOption::Yield }
}

/// A name that no other run has.
fn group_name() -> String {
    format!("perf-{}-{}", std::process::id(), squall::driver::clock().0)
}

/// The cores that this process may use.
fn own_cores() -> Result<Vec<usize>, Failure> {
    let set = rustix::thread::sched_getaffinity(None);
    let set = set.map_err(|cause| because!("cannot see which cores this process has: {cause}"))?;
    Ok((0..rustix::thread::CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect())
}

fn parse_cores(text: &str) -> Result<Cores, String> {
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            let core = text.parse::<usize>().ok();
            let core = core.filter(|core| *core < rustix::thread::CpuSet::MAX_CPU);
            core.ok_or_else(|| format!("{text:?} is no core; write it like 0,2-3"))
        };
        cores.extend(number(first)?..=number(last)?);
    }
    if cores.is_empty() { Err("no cores; write it like 0,2-3".into()) } else { Ok(cores.into()) }
}

fn parse_time(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor = match &text[digits.len()..] {
        "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        _ => return Err("write it like 500ns, 100us, 1ms, 1s".into()),
    };
    let time = digits.parse::<u64>().ok().and_then(|digits| digits.checked_mul(factor));
    time.ok_or_else(|| "write it like 500ns, 100us, 1ms, 1s".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_and_times_are_read() {
        assert_eq!(*parse_cores("0,2-4").unwrap(), [0, 2, 3, 4]);
        assert!(["", "x", "3-1", "0,,1", "99999"].iter().all(|text| parse_cores(text).is_err()));
        assert_eq!(parse_time("100us"), Ok(100_000));
        assert!(["", "1", "us", "1h"].iter().all(|text| parse_time(text).is_err()));
    }
}
