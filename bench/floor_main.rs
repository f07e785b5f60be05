// SPDX-License-Identifier: MIT OR Apache-2.0
//! `floor [SECONDS [REPEATS]]`: what this machine can do, as a table; see floor.rs.
//!
//! Each row carries the cache-line round trip (two lines, one each way) taken just before it: on a
//! virtual machine the cores may move closer or apart between two rows, and only rows with a like
//! round trip compare.
//! A round trip of 0 (none was counted) or of milliseconds says that other work had the cores:
//! such rows are worthless, as two spinning processes then mostly wait for each other's time slice.

#[path = "floor.rs"]
mod floor;

use floor::Latency;

fn main() -> Result<(), String> {
    let mut args = std::env::args().skip(1);
    let seconds: f64 = args.next().map_or(Ok(0.5), |arg| arg.parse()).map_err(usage)?;
    let repeats: usize = args.next().map_or(Ok(3), |arg| arg.parse()).map_err(usage)?;
    for _ in 0..repeats {
        rates(seconds)?;
        latencies(seconds)?;
    }
    for (block, area) in [(1 << 20, 256 << 20), (1 << 20, 2 << 20), (64 << 10, 1 << 20)] {
        let rates = (0..repeats).map(|_| floor::memcpy_rate(block, area, seconds) / 1e9);
        let rates: Vec<String> = rates.map(|rate| format!("{rate:.1}")).collect();
        println!("memcpy, {block} B blocks over {area} B: {} GB/s", rates.join(" "));
    }
    Ok(())
}

fn rates(seconds: f64) -> Result<(), String> {
    #[rustfmt::skip]
    let shapes = [
        // members, senders, bytes, window, yielding
        (2, 2, 100, 1024, false),
        (2, 2, 100, 4096, false),
        (2, 1, 100, 4096, false),
        (3, 3, 100, 4096, true),
        (3, 3, 100, 16384, true),
        (8, 8, 100, 4096, true),
        (8, 8, 100, 16384, true),
        (2, 2, 1 << 10, 1024, false),
        (2, 1, 1 << 10, 1024, false),
        (2, 2, 10 << 10, 64, false),
        (2, 1, 10 << 10, 64, false),
        (2, 1, 1 << 20, 4, false),
    ];
    for (members, senders, size, window, yielding) in shapes {
        let line_ns = floor::line_ping_pong(0, 1, 0.02)?.p50;
        let rate = floor::order_rate(members, senders, size, window, yielding, seconds)?;
        let least = rate.per_member.iter().copied().fold(f64::INFINITY, f64::min);
        println!(
            "{members} members, {senders} send {size:7} B, window {window:5}: {:9.4} M/s at each, \
             {:5.1} GB/s  {:9}  line {line_ns:3.0} ns",
            least / 1e6,
            rate.bytes_per_s / 1e9,
            if rate.streaming { "streaming" } else { "plain" },
        );
    }
    Ok(())
}

fn latencies(seconds: f64) -> Result<(), String> {
    let row = |what: &str, line_ns: f64, l: Latency| {
        println!(
            "{what}: p50 {:.0} p99 {:.0} p99.9 {:.0} p99.99 {:.0} max {:.0} ns of {}  \
             line {line_ns:.0} ns",
            l.p50, l.p99, l.p999, l.p9999, l.max, l.count
        );
    };
    for members in [2, 3] {
        let line_ns = floor::line_ping_pong(0, 1, 0.02)?.p50;
        let latency = floor::order_latency(members, 64, seconds)?;
        row(&format!("{members} members, 64 B, send to stable"), line_ns, latency);
    }
    let line = floor::line_ping_pong(0, 1, seconds)?;
    row("two cache lines, one each way", line.p50, line);
    for pace_ns in [100_000, 1_000_000] {
        let latency = floor::eventfd_ping_pong(0, 1, pace_ns, seconds)?;
        row(&format!("eventfd, there and back, each {pace_ns} ns"), line.p50, latency);
    }
    Ok(())
}

fn usage(error: impl std::fmt::Display) -> String {
    format!("floor [SECONDS [REPEATS]]: {error}")
}
