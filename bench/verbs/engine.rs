// SPDX-License-Identifier: MIT OR Apache-2.0
//! The engine beside the raw figures: `squall perf --config`, which measures both in each run, so that
//! they come in pairs.

use super::Options;
use serde_json::Value;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// What is run, and the bar of the median ratio to the raw figure of the same run.
struct Case {
    what: &'static str,
    arguments: &'static [&'static str],
    bar: Bar,
}

enum Bar {
    Most(f64),
    Least(f64),
}

const CASES: [Case; 3] = [
    Case {
        what: "64 B, send to stable / written there and back",
        // Slow enough for a device that is a processor's work: or else what waits would be measured.
        arguments: &["lat", "--size", "64", "--pace", "1ms"],
        bar: Bar::Most(2.0),
    },
    Case {
        what: "64 B messages a second, one sends / 64 B writes, one a doorbell",
        arguments: &["rate", "--size", "64", "--senders", "1"],
        bar: Bar::Least(5.0),
    },
    Case {
        what: "64 KiB messages a second / 64 KiB writes",
        arguments: &["bw", "--size", "64KiB", "--window", "64"],
        bar: Bar::Least(0.8),
    },
];

/// Whether all bars are met, or do not count.
pub fn measure(options: &Options) -> bool {
    let mut met = true;
    for case in &CASES {
        let mut pairs: Vec<[f64; 3]> = (0..options.pairs).map(|_| pair(case, options)).collect();
        pairs.sort_by(|one, other| one[2].total_cmp(&other[2]));
        let [figure, floor, ratio] = pairs[pairs.len() / 2];
        let (least, most) = (pairs[0][2], pairs[pairs.len() - 1][2]);
        let (bar, holds) = match case.bar {
            Bar::Most(most) => (format!("at most {most}"), ratio <= most),
            Bar::Least(least) => (format!("at least {least}"), ratio >= least),
        };
        let says = if holds { "met" } else { "MISSED" };
        println!(
            "= {}: {figure:.0} / {floor:.0}: ratio {ratio:.2} ({least:.2} - {most:.2}), {bar}: {says}",
            case.what
        );
        met &= holds || !options.bars;
    }
    met
}

/// Figure, raw figure, ratio; nanoseconds, or messages a second.
fn pair(case: &Case, options: &Options) -> [f64; 3] {
    let free = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").expect("loopback"));
    let [one, other] = free.each_ref().map(|of| of.local_addr().expect("bound"));
    drop(free);
    let idle = if options.yields { "yield" } else { "spin" };
    let text = format!(
        "group = \"verbs-bench-{}\"\nmembers = 2\nfabric = \"verbs\"\nidle = \"{idle}\"\n\
         [network]\nfounders = [\"{one}\", \"{other}\"]\ntrusted_network = true\n",
        std::process::id()
    );
    let file = File(std::env::temp_dir().join(format!("verbs-{}.toml", std::process::id())));
    std::fs::write(&file.0, text).expect("a place for a file");
    let start = |rank: usize| -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_squall"));
        command.args(["perf", "--config"]).arg(&file.0).args(case.arguments).arg("--json");
        command.args(["--seconds", &options.seconds.to_string()]);
        command.env("SQUALL_RANK", rank.to_string());
        if options.cores > 1 && !options.yields {
            command.env("SQUALL_CORE", rank.to_string());
        }
        if let Some(name) = [&options.device, &options.to][rank] {
            command.env("SQUALL_RDMA__DEVICE", name);
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
    };
    let (first, second) = (start(0), start(1));
    let said = first.wait_with_output().expect("rank 0");
    let other = second.wait_with_output().expect("rank 1");
    let [first, second] = [&said, &other].map(|of| String::from_utf8_lossy(&of.stderr));
    let well = said.status.success() && other.status.success();
    assert!(well, "rank 0, {}: {first}\nrank 1, {}: {second}", said.status, other.status);
    let value: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    let number = |path: &str| value.pointer(path).and_then(Value::as_f64);
    let floor = number("/tests/0/floor/p50_ns");
    let floor = floor.or(number("/tests/0/floor/messages_per_second"));
    let ratio = number("/tests/0/ratio");
    let (Some(floor), Some(ratio)) = (floor, ratio) else { panic!("no floor: {value:#}") };
    [ratio * floor, floor, ratio]
}

/// Removed when it is dropped.
struct File(PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
