// SPDX-License-Identifier: MIT OR Apache-2.0
//! The members of a measurement as processes: started, listened to, and never left behind.
//!
//! A member is this program again with hidden arguments. It answers with one line of JSON on its
//! standard output. It dies with its parent (`PR_SET_PDEATHSIG`); the parent ends all of them when
//! one fails, and when the time in which all must have answered is over.

use super::plan::{Plan, Report};
use crate::failure::{Failure, because, fail};
use crate::text::remark;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Beyond warm-up and measured time: to start, to meet, to end.
const SPARE: Duration = Duration::from_secs(30);
/// How long the others are listened to once one has failed: they may know why.
const GRACE: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(100);

/// All members of one measurement; dropping it ends those that still run.
struct Crew(Vec<Child>);

impl Drop for Crew {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What a member's pipes had to say until they were closed.
struct Words {
    rank: usize,
    output: String,
    errors: String,
}

/// Runs all members of a plan. `tick` is called ten times a second.
pub fn run(plan: &Plan, mut tick: impl FnMut()) -> Result<Vec<Report>, Failure> {
    plan.check()?;
    let mut crew = Crew(Vec::new());
    let (tell, heard) = channel();
    for rank in 0..plan.members {
        let mut child = start(plan, rank)?;
        listen(&mut child, usize::from(rank), tell.clone());
        crew.0.push(child);
    }
    let expected = Duration::from_secs_f64(plan.seconds + plan.warm_up_seconds());
    let mut deadline = Instant::now() + expected + SPARE;
    let mut reports = vec![None; crew.0.len()];
    let mut failures = Vec::new();
    let mut silent: Vec<usize> = (0..crew.0.len()).collect();
    while !silent.is_empty() && Instant::now() < deadline {
        let words = match heard.recv_timeout(TICK) {
            Ok(words) => words,
            Err(RecvTimeoutError::Timeout) => {
                tick();
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        silent.retain(|rank| *rank != words.rank);
        let status = crew.0[words.rank].wait();
        let status = status.map_err(|cause| because!("cannot wait for a member: {cause}"))?;
        match serde_json::from_str::<Report>(&words.output) {
            Ok(report) if status.success() => reports[words.rank] = Some(report),
            _ => {
                failures.push((words.rank, status, words.errors));
                deadline = deadline.min(Instant::now() + GRACE);
            }
        }
    }
    if failures.is_empty() && !silent.is_empty() {
        let seconds = (expected + SPARE).as_secs_f64();
        return fail!("rank {silent:?} did not end within {seconds:.0} s; all were stopped");
    }
    drop(crew);
    told(&failures)?;
    let reports: Vec<Report> = reports.into_iter().flatten().collect();
    agreed(&reports)?;
    Ok(reports)
}

fn start(plan: &Plan, rank: u16) -> Result<Child, Failure> {
    let program = std::env::current_exe();
    let program = program.map_err(|cause| because!("cannot find this program's file: {cause}"))?;
    let plan = serde_json::to_string(plan).expect("a plan is plain data");
    let parent = std::process::id().to_string();
    let mut command = Command::new(program);
    command.args(["perf", "member", "--rank", &rank.to_string()]);
    command.args(["--plan", &plan, "--parent", &parent]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().map_err(|cause| because!("cannot start member {rank}: {cause}"))
}

/// Called first in a member: from here on it does not outlive `parent`.
pub fn die_with(parent: u32) -> Result<(), Failure> {
    let set = set_parent_process_death_signal(Some(Signal::KILL));
    set.map_err(|cause| because!("cannot tie this member to its parent: {cause}"))?;
    if getppid().map(Pid::as_raw_nonzero).is_none_or(|pid| pid.get() as u32 != parent) {
        return fail!("the measurement that started this member is gone");
    }
    Ok(())
}

/// Reads both pipes of a child to their ends, in two threads.
fn listen(child: &mut Child, rank: usize, tell: Sender<Words>) {
    let mut output = child.stdout.take().expect("it is piped");
    let mut errors = child.stderr.take().expect("it is piped");
    std::thread::spawn(move || {
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = errors.read_to_string(&mut text);
            text
        });
        let mut text = String::new();
        let _ = output.read_to_string(&mut text);
        let errors = errors.join().unwrap_or_default();
        let _ = tell.send(Words { rank, output: text, errors });
    });
}

/// Passes on what the members said, those first that did not fail because of another.
fn told(failures: &[(usize, ExitStatus, String)]) -> Result<(), Failure> {
    if failures.is_empty() {
        return Ok(());
    }
    let consequence = |text: &str| text.contains(" is gone: ") || text.contains("ended too early");
    for (rank, status, errors) in failures.iter().filter(|(_, _, text)| !consequence(text)) {
        if errors.trim().is_empty() {
            remark(&format!("rank {rank} failed without a word: {status}"));
        }
        errors.lines().for_each(|line| remark(&format!("rank {rank}: {line}")));
    }
    if failures.iter().all(|(_, _, text)| consequence(text)) {
        let (rank, _, errors) = &failures[0];
        errors.lines().for_each(|line| remark(&format!("rank {rank}: {line}")));
    }
    fail!("the measurement failed; no figures")
}

/// All members delivered the same messages in the same order: the same count, the same hash.
pub fn agreed(reports: &[Report]) -> Result<(), Failure> {
    let first = &reports[0];
    for other in &reports[1..] {
        if (other.total, other.hash) != (first.total, first.hash) {
            return fail!(
                "VIOLATION: rank {} delivered {} messages with hash {:016x}, rank {} {} with \
                 {:016x}",
                first.rank,
                first.total,
                first.hash,
                other.rank,
                other.total,
                other.hash
            );
        }
    }
    Ok(())
}
