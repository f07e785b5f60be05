// SPDX-License-Identifier: MIT OR Apache-2.0
//! `squall perf` from outside: its figures are sound, planted faults are found, and no process is
//! left behind. No figure is judged here: machines differ, and so do hours.

/// For its tests: the programs in `bench` have none that run.
#[allow(dead_code, reason = "they use the rest")]
#[path = "../bench/ticks.rs"]
mod ticks;

use serde_json::Value;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

fn perf(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_squall"));
    command.arg("perf").args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    perf(arguments).output().expect("the binary under test starts")
}

fn errors_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json_of(arguments: &[&str]) -> Value {
    let output = run(arguments);
    assert!(output.status.success(), "{}: {}", output.status, errors_of(&output));
    serde_json::from_slice(&output.stdout).expect("standard output is one JSON value")
}

fn positive(value: &Value, path: &str) {
    let found = value.pointer(path).and_then(Value::as_f64);
    assert!(found.is_some_and(|found| found > 0.0), "{path} is {found:?}");
}

#[test]
fn rate_prints_json() {
    let value = json_of(&["rate", "--seconds", "0.5", "--json"]);
    let figures = ["/messages_per_second/median", "/floor/messages_per_second", "/ratio"];
    for path in figures.iter().chain(&["/verified/messages", "/verified/texts"]) {
        positive(&value, path);
    }
    assert_eq!(value["plan"]["test"], "rate");
    let members = value["members"].as_array().unwrap();
    assert_eq!(members.len(), 2);
    assert_eq!(members[0]["hash"], members[1]["hash"]);
    assert_eq!(members[0]["total"], members[1]["total"]);
}

#[test]
fn small_and_large_messages_and_many_members_are_measured() {
    let tests: [&[&str]; 6] = [
        &["rate", "--size", "8"],
        &["rate", "--members", "5", "--senders", "2", "--window", "64"],
        &["rate", "--members", "1", "--senders", "1"],
        &["rate", "--idle", "park", "--members", "3"],
        &["bw", "--size", "3MiB", "--members", "3"],
        &["lat", "--members", "3", "--senders", "3", "--idle", "yield"],
    ];
    for test in tests {
        let value = json_of(&[test, &["--seconds", "0.1", "--json"]].concat());
        positive(&value, "/messages_per_second/median");
    }
}

#[test]
fn latency_writes_a_log_and_a_plot() {
    let file = |name: &str| PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let (hlog, plot) = (file("lat.hlog"), file("lat.svg"));
    let (log_path, plot_path) = (hlog.to_str().unwrap(), plot.to_str().unwrap());
    let value = json_of(&[
        "lat",
        "--seconds",
        "0.3",
        "--json",
        "--idle",
        "park",
        "--pace",
        "2ms",
        "--hlog",
        log_path,
        "--plot",
        plot_path,
    ]);
    let stages = value["latency"].as_array().unwrap();
    let names: Vec<_> = stages.iter().map(|stage| stage["stage"].as_str().unwrap()).collect();
    let sender = "send -> stable at the sender";
    assert_eq!(names, ["intended -> sent", sender, "send -> delivered at rank 1"]);
    // Every send that was due in the measured time counts, however late it was.
    for stage in stages {
        assert_eq!(stage["samples"], 150, "{stage}");
    }
    let log = std::fs::read_to_string(hlog).unwrap();
    assert!(log.starts_with("#[Histogram log format version 1.3]\n"), "{log}");
    assert!(log.contains("\"StartTimestamp\",\"Interval_Length\""));
    let intervals: Vec<&str> = log.lines().filter(|line| line.starts_with("Tag=")).collect();
    assert_eq!(intervals.len(), 3);
    // After the tag: when it began, how long it was.
    let times =
        |line: &&str| line.split(',').skip(1).take(2).collect::<Vec<_>>() == ["0.000", "0.300"];
    assert!(intervals.iter().all(times), "{log}");
    let plot = std::fs::read_to_string(plot).unwrap();
    assert!(plot.contains("</svg>") && plot.contains(sender.split("> ").next().unwrap()));
}

/// Members are killed, stopped and joined; each survivor tells of one view change, in order.
#[test]
fn failover_is_measured() {
    let events: [(&[&str], usize, &str); 4] = [
        (&["--event", "kill", "--times", "2"], 4, "above hang-up"),
        (
            &["--event", "kill", "--times", "1", "--idle", "park", "--members", "5"],
            4,
            "above hang-up",
        ),
        (&["--event", "stop", "--times", "1", "--suspicion", "1s"], 2, "to suspicion"),
        (&["--event", "join", "--times", "1", "--idle", "park"], 3, "gap between deliveries"),
    ];
    for (event, seen, figure) in events {
        let value = json_of(&[&["failover", "--json"], event].concat());
        let figures = value["figures"].as_array().unwrap();
        let judged = figures.iter().find(|of| of["what"] == figure).unwrap();
        assert_eq!(judged["samples"], seen, "{event:?}: {judged}");
        for sample in value["samples"].as_array().unwrap() {
            for seen in sample["seen"].as_array().unwrap() {
                let at = |what: &str| seen[what].as_u64().unwrap();
                assert!(at("last") <= at("view") && at("view") <= at("first"), "{seen}");
                assert!(sample["at"].as_u64().unwrap() < at("first"), "{sample}");
                assert_eq!(at("epoch"), 2);
            }
        }
    }
    let plot = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("failover.svg");
    let output = run(&["failover", "--times", "1", "--plot", plot.to_str().unwrap()]);
    assert!(output.status.success(), "{}", errors_of(&output));
    assert!(
        String::from_utf8_lossy(&output.stdout)
            .contains("above hang-up, of either kind: p50 under")
    );
    assert!(std::fs::read_to_string(plot).unwrap().contains("hang-up of the victim"));
    let value = json_of(&["failover", "--load", "0.3", "--burners", "1", "--json"]);
    assert_eq!(value["met"], true, "{value}");
}

/// A sender that cannot run while its messages are due sends them late, and each counts: those left
/// out would be the slowest (coordinated omission).
#[test]
fn a_sender_that_stands_still_counts_its_late_messages() {
    let group = format!("perf-test-late-{}", std::process::id());
    let start = |rank: &str| {
        let mut command = perf(&["lat", "--group", &group, "--rank", rank, "--json"]);
        command.args(["--seconds", "0.3", "--idle", "park", "--pace", "2ms"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let members = ["0", "1"].map(start);
    let delivered = || {
        let mut stat = Command::new(env!("CARGO_BIN_EXE_squall"));
        let output = stat.args(["stat", &group, "--json"]).output().unwrap();
        let value = serde_json::from_slice::<Value>(&output.stdout).ok()?;
        value.pointer("/members/0/subgroups/0/messages")?.as_u64()
    };
    while delivered().unwrap_or(0) == 0 && runs(members[0].id()) {
        std::thread::yield_now(); // the first message says when the measured time is
    }
    let signal = |name: &str| {
        let pid = members[0].id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    };
    signal("-STOP");
    std::thread::sleep(std::time::Duration::from_millis(400)); // the measured time is over
    signal("-CONT");
    for member in members {
        let output = member.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", errors_of(&output));
        let value = serde_json::from_slice::<Value>(&output.stdout).unwrap();
        for stage in value["latency"].as_array().unwrap() {
            assert_eq!(stage["samples"], 150, "{stage}");
        }
    }
}

#[test]
fn planted_faults_are_found() {
    let expected = [("payload", "checksum"), ("sequence", "was due"), ("order", "not the same")];
    for (fault, words) in expected {
        let output = run(&["rate", "--seconds", "0.3", "--plant", fault]);
        let errors = errors_of(&output);
        assert_eq!(output.status.code(), Some(1), "{fault}: {errors}");
        assert!(errors.contains("VIOLATION") && errors.contains(words), "{fault}: {errors}");
        assert!(output.stdout.is_empty(), "{fault}: no figures from a wrong run");
    }
}

#[test]
fn members_by_hand_meet() {
    let group = format!("perf-test-hand-{}", std::process::id());
    let start = |rank: &str| {
        let mut command = perf(&["rate", "--group", &group, "--rank", rank, "--json"]);
        command.args(["--seconds", "0.2"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let outputs = ["0", "1"].map(start).map(|child| child.wait_with_output().unwrap());
    let values = outputs.map(|output| {
        assert!(output.status.success(), "{}", errors_of(&output));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    });
    assert_eq!(values[0]["hash"], values[1]["hash"]);
    assert_eq!(values[1]["rank"], 1);
}

/// Processes whose parent is `parent`, and whether each still runs.
fn children_of(parent: u32) -> Vec<u32> {
    let field = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()
    };
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| field(*pid) == Some(parent)).collect()
}

fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    let state = stat.ok().and_then(|stat| stat.rsplit_once(") ")?.1.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

/// A measurement that would take minutes, with its two members.
#[allow(clippy::zombie_processes, reason = "whoever gets it waits for it")]
fn long_run() -> (Child, Vec<u32>) {
    let mut command = perf(&["rate", "--seconds", "300", "--idle", "park"]);
    let parent = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    loop {
        let members = children_of(parent.id());
        if members.len() == 2 {
            return (parent, members);
        }
        std::thread::yield_now();
    }
}

#[test]
fn members_die_with_their_parent() {
    let (mut parent, members) = long_run();
    parent.kill().unwrap();
    parent.wait().unwrap();
    while members.iter().any(|pid| runs(*pid)) {
        std::thread::yield_now();
    }
}

#[test]
fn a_dead_member_ends_the_run() {
    let (parent, members) = long_run();
    let killed = Command::new("kill").args(["-KILL", &members[1].to_string()]).status().unwrap();
    assert!(killed.success());
    let output = parent.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(errors_of(&output).contains("no figures"), "{}", errors_of(&output));
    assert!(!members.iter().any(|pid| runs(*pid)), "a member was left behind");
}

#[test]
fn the_tour_ends_with_a_table() {
    let output = run(&["--seconds", "4"]);
    assert!(output.status.success(), "{}", errors_of(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    for words in ["lat", "rate yield", "bw", "1 MiB", "memcpy", "round trip", "no violation"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(errors_of(&output).contains("7/7"), "plain progress where there is no terminal");
}

#[test]
fn wrong_use_says_what_is_right() {
    let cases: [(&[&str], &str); 15] = [
        (&["rate", "--size", "4"], "at least 8 bytes"),
        (&["rate", "--members", "65"], "1 to 64"),
        (&["rate", "--senders", "3"], "it is 1 to 2"),
        (&["lat", "--pace", "5"], "100us"),
        (&["lat", "--pace", "10s", "--seconds", "1"], "more --seconds"),
        (&["lat", "--pace", "0ns"], "1 ns to 10 s"),
        (&["lat", "--seconds", "0.1", "--pace", "1ns"], "a longer --pace"),
        (&["lat", "--plot", "lat.png"], "name it .svg"),
        (&["lat", "--hlog", "no/such/folder/lat.hlog"], "make it first"),
        (&["lat", "--plot", "no/such/folder/lat.svg"], "make it first"),
        (&["rate", "--cores", "x"], "0,2-3"),
        (&["rate", "--seconds", "0"], "0.01 to 3600"),
        (&["failover", "--members", "2"], "no majority"),
        (&["failover", "--size", "8"], "at least 16 bytes"),
        (&["failover", "--suspicion", "1ms"], "time to suspicion"),
    ];
    for (arguments, words) in cases {
        let output = run(arguments);
        assert!(!output.status.success());
        assert!(errors_of(&output).contains(words), "{arguments:?}: {}", errors_of(&output));
    }
}
