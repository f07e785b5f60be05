// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long a group stands still when a member is killed: `squall perf failover`, for the record.
//!
//! `cargo bench --bench view_change -- [--times 200] [--load SECONDS] [--cores LIST] [--json FOLDER]`
//!
//! Three members on the cores of this host, killed 200 times with each idle strategy, the leader and
//! another in turn; then one is stopped ten times; with `--load`, the group runs for so long beside
//! busy programs. The bars are those of the idle strategy `yield`: spinning members that share cores
//! wait for each other's time slices, and no engine can change that.

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let option = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1).cloned()
    };
    let times = option("--times").unwrap_or_else(|| "200".into());
    let mut met = true;
    for idle in ["yield", "park", "spin"] {
        let kills = ["--event", "kill", "--times", &times, "--idle", idle];
        let held = failover(&kills, &option, &format!("kill-{idle}"));
        met &= held || idle != "yield";
    }
    for idle in ["yield", "park"] {
        let stops = ["--event", "stop", "--times", "10", "--idle", idle];
        met &= failover(&stops, &option, &format!("stop-{idle}"));
    }
    failover(&["--event", "join", "--times", "20"], &option, "join-yield");
    if let Some(seconds) = option("--load") {
        met &= failover(&["--load", &seconds], &option, "load-yield");
    }
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one measurement; whether what it judges holds.
fn failover(what: &[&str], option: &impl Fn(&str) -> Option<String>, name: &str) -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_squall"));
    command.args(["perf", "failover"]).args(what);
    if let Some(cores) = option("--cores") {
        command.args(["--cores", &cores]);
    }
    println!("\n== squall perf failover {}", what.join(" "));
    let Some(folder) = option("--json") else {
        let output = command.output().expect("the program starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        print!("{text}{}", String::from_utf8_lossy(&output.stderr));
        return output.status.success() && !text.contains("MISSED");
    };
    let output = command.arg("--json").output().expect("the program starts");
    let path = format!("{folder}/{name}.json");
    std::fs::write(&path, &output.stdout).expect("the folder is there");
    let text = String::from_utf8_lossy(&output.stdout);
    let held = output.status.success() && !text.contains("\"met\": false");
    println!("{path}: {}", if held { "met" } else { "MISSED" });
    held
}
