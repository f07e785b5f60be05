// SPDX-License-Identifier: MIT OR Apache-2.0
//! How near the engine comes to the bare prototype of its own scheme (`floor.rs`), in pairs.
//!
//! `cargo bench --bench speed -- [CASE ...] [--pairs 11] [--seconds 1]`; cases: see `CASES`, or
//! `all`. Each pair measures the floor, then the engine, then the next pair; what counts is the
//! median of the pairs' ratios. The engine is called through the C door (by function pointers, so
//! nothing is inlined that a C program would not have inlined), members are processes pinned to
//! core `rank % cores`, messages are distinct messages in the total order, own ones included; at
//! each delivery the sequence word is checked, every 64-byte line of the payload is read, and one
//! message in 64 has its CRC computed and compared.

#[path = "floor.rs"]
mod floor;

#[path = "member.rs"]
mod member;

use member::{Job, Kind};
use std::process::{Child, Command, Stdio};

struct Case {
    name: &'static str,
    what: &'static str,
    bar: f64,
    kind: Kind,
    members: usize,
    senders: usize,
    size: usize,
    window: usize,
}

const fn rate(
    name: &'static str,
    what: &'static str,
    bar: f64,
    (members, senders): (usize, usize),
    size: usize,
    window: usize,
) -> Case {
    Case { name, what, bar, kind: Kind::Rate, members, senders, size, window }
}

const CASES: [Case; 8] = [
    rate("two", "2 members, all send, 100 B", 0.45, (2, 2), 100, 4096),
    rate("three", "3 members, all send, 100 B", 0.45, (3, 3), 100, 4096),
    rate("eight", "8 members, all send, 100 B", 0.30, (8, 8), 100, 4096),
    rate("1k", "2 members, one sends, 1 KiB", 0.85, (2, 1), 1024, 1024),
    rate("10k", "2 members, one sends, 10 KiB", 0.85, (2, 1), 10240, 64),
    rate("1m", "2 members, one sends, 1 MiB", 0.85, (2, 1), 1 << 20, 4),
    Case {
        name: "lat",
        what: "2 members, 64 B, send -> stable at the sender",
        bar: 1.5,
        kind: Kind::Latency,
        members: 2,
        senders: 1,
        size: 64,
        window: 64,
    },
    Case {
        name: "park",
        what: "3 members parked, 64 B each ms, send -> stable",
        bar: 2.5,
        kind: Kind::Park,
        members: 3,
        senders: 1,
        size: 64,
        window: 64,
    },
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if args.first().is_some_and(|arg| arg == "member") {
        return member::main(&args[1..]);
    }
    let option = |name: &str, default: f64| {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|at| args.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let (pairs, seconds) = (option("--pairs", 11.0) as usize, option("--seconds", 1.0));
    let named = |case: &&Case| args.iter().any(|arg| arg == case.name || arg == "all");
    let chosen: Vec<&Case> = CASES.iter().filter(named).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        eprintln!("usage: speed [--pairs N] [--seconds S] all | {}", names.join(" | "));
        return;
    }
    println!("{pairs} pairs of {seconds} s each; {} cores", member::cores());
    let mut failed = false;
    for case in chosen {
        failed |= !run(case, pairs, seconds);
    }
    std::process::exit(i32::from(failed));
}

/// Measures one case; true if it meets its bar.
fn run(case: &Case, pairs: usize, seconds: f64) -> bool {
    let (mut ratios, mut floors, mut engines) = (Vec::new(), Vec::new(), Vec::new());
    let mut tails = Vec::new();
    for _ in 0..pairs {
        let floor = floor_of(case, seconds);
        let engine = engine_of(case, seconds);
        let (floor, engine) = match (floor, engine) {
            (Ok(floor), Ok(engine)) => (floor, engine),
            (Err(why), _) | (_, Err(why)) => {
                println!("{}: FAILED: {why}", case.name);
                return false;
            }
        };
        ratios.push(engine[0] / floor);
        floors.push(floor);
        engines.push(engine[0]);
        tails.push(engine);
    }
    let latency = case.kind != Kind::Rate;
    let (unit, scale) = if latency { ("ns", 1.0) } else { ("M/s", 1e-6) };
    let ratio = median(&mut ratios);
    let met = if latency { ratio <= case.bar } else { ratio >= case.bar };
    println!(
        "{:6} {:46} ratio {:5.3} ({:5.3} - {:5.3}), bar {} {:4.2}: {}",
        case.name,
        case.what,
        ratio,
        ratios[0],
        ratios[ratios.len() - 1],
        if latency { "<=" } else { ">=" },
        case.bar,
        if met { "met" } else { "MISSED" },
    );
    let shown = |values: &mut Vec<f64>| {
        let middle = median(values) * scale;
        let last = values[values.len() - 1] * scale;
        format!("{:.3} ({:.3} - {:.3}) {unit}", middle, values[0] * scale, last)
    };
    println!("       floor {}   engine {}", shown(&mut floors), shown(&mut engines));
    if latency {
        let column = |at: usize| median(&mut tails.iter().map(|tail| tail[at]).collect::<Vec<_>>());
        println!(
            "       engine p99 {:.0}  p99.9 {:.0}  p99.99 {:.0}  max {:.0} ns (medians of the pairs)",
            column(1),
            column(2),
            column(3),
            column(4)
        );
    } else {
        let bytes = median(&mut engines) * case.size as f64;
        println!("       engine {:.2} GB/s at each member", bytes / 1e9);
    }
    met
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn floor_of(case: &Case, seconds: f64) -> Result<f64, String> {
    match case.kind {
        Kind::Rate => {
            let yielding = case.members > member::cores();
            let rate = floor::order_rate(
                case.members,
                case.senders,
                case.size,
                case.window,
                yielding,
                seconds,
            )?;
            Ok(median(&mut rate.per_member.clone()))
        }
        Kind::Latency => Ok(floor::line_ping_pong(0, 1 % member::cores(), seconds)?.p50),
        Kind::Park => Ok(floor::eventfd_ping_pong(0, 1 % member::cores(), 1_000_000, seconds)?.p50),
    }
}

/// Starts the members, takes their figures (the median member's for rates, the sender's for
/// latencies), ends them.
fn engine_of(case: &Case, seconds: f64) -> Result<Vec<f64>, String> {
    let exe = std::env::current_exe().map_err(|cause| cause.to_string())?;
    let mut children: Vec<Child> = Vec::new();
    for rank in 0..case.members {
        let job = Job {
            group: format!("speed-{}", std::process::id()),
            rank,
            members: case.members,
            senders: case.senders,
            size: case.size,
            window: case.window,
            seconds,
            kind: case.kind,
        };
        let mut command = Command::new(&exe);
        command.arg("member").args(job.args()).stdin(Stdio::piped()).stdout(Stdio::piped());
        children.push(command.spawn().map_err(|cause| cause.to_string())?);
    }
    let mut figures = Vec::new();
    let mut failure = None;
    for (rank, child) in children.iter_mut().enumerate() {
        match member::read_figures(child) {
            Some(figure) => figures.push(figure),
            None => failure = Some(format!("member {rank} gave no figure")),
        }
        if failure.is_some() {
            break;
        }
    }
    for child in &mut children {
        drop(child.stdin.take()); // the end of its input ends it
    }
    for (rank, child) in children.iter_mut().enumerate() {
        if failure.is_some() {
            let _ = child.kill();
        }
        let ended = child.wait().map_err(|cause| cause.to_string())?;
        if !ended.success() && failure.is_none() {
            failure = Some(format!("member {rank} ended with {ended}"));
        }
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    if case.kind != Kind::Rate {
        return Ok(figures.swap_remove(0));
    }
    figures.sort_by(|a, b| a[0].total_cmp(&b[0]));
    Ok(figures.swap_remove(figures.len() / 2))
}
