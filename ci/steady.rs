// SPDX-License-Identifier: MIT OR Apache-2.0
//! After open nothing per message costs more than the message: runs of N and of 10 N messages make
//! the same number of allocations, system calls and page faults, liveness looks aside. And who waits
//! costs nothing: three idle members that park use less than 1 % of a core each.
//!
//! Members are this program again. Each counts its allocations in the allocator and its faults in
//! `getrusage`; system calls are counted by `strace` around it, between marks that the member
//! leaves in the trace.

mod support;

use rustix::process::getppid;
use squall::driver::config::{Config, Idle};
use squall::driver::group::{Group, Sender};
use squall::driver::idle::Pace;
use squall::error::Status;
use squall::mem::Message;
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::{Arguments, Process, group_name};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is the system's allocator's.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: as the system's.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    // SAFETY: as the system's.
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    support::main(
        &[
            ("ten_times_the_messages_cost_nothing_more", ten_times),
            ("idle_members_that_park_use_no_core", idle),
        ],
        &[("busy", busy), ("parked", parked)],
    );
}

/// Messages of each member in the short run. The window is passed many times before it starts. Not
/// more: where two members that spin have one core, they take turns of a window each.
const N: u64 = 20_000;
const WARM: u64 = 5_000;
const WINDOW: u32 = 256;

/// Minor and major page faults.
fn faults() -> [i64; 2] {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: a valid place for the answer, whose every bit pattern is one.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    [usage.ru_minflt, usage.ru_majflt]
}

struct Streamer {
    group: Group,
    sender: Sender,
    pace: Pace,
    delivered: Arc<AtomicU64>,
    sent: u64,
    bytes: [u8; 100],
}

impl Streamer {
    /// Until everybody's first `upto` messages are delivered here. `parks`: sleeps when idle.
    fn run(&mut self, upto: u64, members: u64) {
        while self.delivered.load(Ordering::Relaxed) < upto * members {
            // What others send of the next phase is part of this one: no more is asked than that
            // all phases are of the same kind.
            let mut busy = false;
            for _ in 0..16 {
                if self.sent < upto && self.sender.send(&self.bytes).is_ok() {
                    (self.sent, busy) = (self.sent + 1, true);
                }
            }
            match self.group.turn(u32::MAX) {
                Ok(turn) if turn.busy || busy => self.pace.busy(),
                Ok(_) => {
                    if self.pace.quiet() {
                        self.pace.busy();
                        let _ = self.group.wait(None);
                    }
                }
                Err(status) => panic!("the group has stopped: {status}"),
            }
        }
    }
}

fn open(arguments: &Arguments, idle: Idle) -> (Streamer, u64) {
    let (rank, members) = (arguments.get("rank").unwrap(), arguments.get("members").unwrap());
    let mut config = Config::new(arguments.text("group").unwrap(), rank, members);
    config.subgroups[0].window = WINDOW;
    config.subgroups[0].message_bytes_max = 128;
    config.idle = idle;
    if let Some(every) = arguments.get("liveness_every_ns") {
        config.liveness_every_ns = every;
    }
    let delivered = Arc::new(AtomicU64::new(0));
    let counted = delivered.clone();
    let application = move |_: u16, batch: &[Message]| {
        counted.fetch_add(batch.len() as u64, Ordering::Relaxed);
    };
    let mut group = Group::open(&config, Box::new(application)).unwrap();
    let sender = group.sender(0, 0).unwrap();
    let pace = Pace::new(idle);
    let streamer = Streamer { group, sender, pace, delivered, sent: 0, bytes: [7; 100] };
    (streamer, u64::from(members))
}

/// Warms up, then runs N and 10 N messages between marks.
fn busy(arguments: &Arguments) {
    let spin = arguments.text("idle") == Some("spin");
    let (mut streamer, members) = open(arguments, if spin { Idle::Spin } else { Idle::Yield });
    let mut counts = Vec::with_capacity(4);
    let mut mark = || {
        let [minor, major] = faults();
        counts.push((ALLOCATIONS.load(Ordering::Relaxed), minor, major, Instant::now()));
        let _ = getppid(); // seen by strace, and by nobody else here
    };
    mark();
    streamer.run(WARM, members);
    mark();
    streamer.run(WARM + N, members);
    mark();
    streamer.run(WARM + 11 * N, members);
    mark();
    for (at, name) in ["warm", "short", "long"].iter().enumerate() {
        let (before, after) = (&counts[at], &counts[at + 1]);
        println!(
            "{name} allocations={} minor={} major={} ns={}",
            after.0 - before.0,
            after.1 - before.1,
            after.2 - before.2,
            (after.3 - before.3).as_nanos()
        );
    }
    println!("done");
    // A good member until the other is through as well.
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_line(&mut String::new());
        let _ = tell.send(());
    });
    while told.try_recv().is_err() {
        match streamer.group.turn(u32::MAX) {
            Ok(_) | Err(Status::PeerLeft) => std::thread::yield_now(),
            Err(status) => panic!("the group has stopped: {status}"),
        }
    }
    streamer.group.close();
}

/// What a phase of a member cost.
#[derive(Default, Debug, Clone)]
struct Cost {
    allocations: u64,
    minor: u64,
    major: u64,
    ns: u64,
    calls: BTreeMap<String, u64>,
}

/// Two members, each under `strace` if it is there: the costs of `short` and `long` of each.
fn measure(idle: &str, liveness_every_ns: u64, strace: bool) -> Vec<[Cost; 2]> {
    let group = group_name("steady");
    let folder = std::env::temp_dir();
    let trace = |rank: u16| folder.join(format!("{group}-{rank}.trace"));
    let start = |rank: u16| {
        let program = std::env::current_exe().unwrap();
        let mut command =
            Command::new(if strace { "strace".as_ref() } else { program.as_os_str() });
        if strace {
            command.args(["-f", "-qq", "-o"]).arg(trace(rank)).arg(&program);
        }
        command.arg("role:busy").args([
            format!("group={group}"),
            format!("rank={rank}"),
            "members=2".into(),
            format!("idle={idle}"),
            format!("liveness_every_ns={liveness_every_ns}"),
        ]);
        Process::spawn(command, format!("busy {rank}"))
    };
    let mut members = [start(0), start(1)];
    let mut costs = Vec::new();
    for member in &mut members {
        let mut read = |word: &str| {
            let line = member.expect(word);
            let number = |key: &str| -> u64 {
                let found = line.split(' ').find_map(|part| part.strip_prefix(key));
                found.unwrap_or_else(|| panic!("{line}")).parse().unwrap()
            };
            let (allocations, minor) = (number("allocations="), number("minor="));
            let (major, ns) = (number("major="), number("ns="));
            Cost { allocations, minor, major, ns, calls: BTreeMap::new() }
        };
        costs.push([read("short"), read("long")]);
        member.expect("done");
    }
    members.iter_mut().for_each(|member| member.say("close"));
    members.into_iter().for_each(|member| drop(member.end_well()));
    for (rank, cost) in costs.iter_mut().enumerate().filter(|_| strace) {
        let text = std::fs::read_to_string(trace(rank as u16)).unwrap();
        let _ = std::fs::remove_file(trace(rank as u16));
        let [_, short, long] = calls_between_marks(&text);
        (cost[0].calls, cost[1].calls) = (short, long);
    }
    costs
}

/// System calls by name in the three phases of a trace: `PID NAME(…`.
fn calls_between_marks(trace: &str) -> [BTreeMap<String, u64>; 3] {
    let mut phases: [BTreeMap<String, u64>; 3] = Default::default();
    let mut marks = 0;
    for line in trace.lines() {
        let call = line.split_once(' ').map_or("", |(_, call)| call.trim_start());
        let Some((name, _)) = call.split_once('(') else { continue };
        match name {
            "getppid" => marks += 1,
            // What a mark itself needs, and the second half of a call that is counted already.
            "getrusage" => {}
            _ if name.starts_with('<') => {}
            _ if (1..4).contains(&marks) => {
                *phases[marks - 1].entry(name.to_string()).or_default() += 1;
            }
            _ => {}
        }
    }
    assert_eq!(marks, 4, "a mark is missing in the trace");
    phases
}

/// Whether strace can trace here.
fn strace_works() -> Result<(), String> {
    match Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "true"]).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().into()),
        Err(cause) => Err(format!("strace: {cause}")),
    }
}

/// Faults that the kernel makes of its own accord (it scans and moves pages).
const FAULTS_SPARE: u64 = 8;

fn ten_times() -> String {
    let mut text = String::new();
    let strace = strace_works();
    if let Err(why) = &strace {
        text.push_str(&format!("SKIPPED for system calls: {why}\n"));
    }
    let hour = 3_600_000_000_000;
    for (idle, every) in [("spin", hour), ("spin", 1_000_000)] {
        for (rank, [short, long]) in measure(idle, every, strace.is_ok()).into_iter().enumerate() {
            let looks = |cost: &Cost| if every == hour { 0 } else { cost.ns / every + 2 };
            for (name, messages, cost) in [("N", N, &short), ("10 N", 10 * N, &long)] {
                text.push_str(&format!(
                    "liveness every {} ms, rank {rank}, {name} = {messages}: {} allocations, {} + \
                     {} faults, calls {:?}, looks allowed {}\n",
                    every / 1_000_000,
                    cost.allocations,
                    cost.minor,
                    cost.major,
                    cost.calls,
                    looks(cost)
                ));
            }
            for cost in [&short, &long] {
                assert_eq!(cost.allocations, 0, "allocations: {text}");
                assert!(cost.minor + cost.major <= FAULTS_SPARE, "page faults: {text}");
                for (call, count) in &cost.calls {
                    let look = call.starts_with("epoll_") && *count <= looks(cost);
                    assert!(look, "{count} calls of {call}: {text}");
                }
            }
        }
    }
    text
}

/// A member that talks a little and then only waits.
fn parked(arguments: &Arguments) {
    let (mut streamer, members) = open(arguments, Idle::Park);
    streamer.run(1_000, members);
    println!("idle");
    let (waker, stop) = (streamer.group.waker().unwrap(), Arc::new(AtomicU64::new(0)));
    let told = stop.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_line(&mut String::new());
        told.store(1, Ordering::Relaxed);
        waker.ring_always();
    });
    streamer.group.run(|| stop.load(Ordering::Relaxed) == 1);
    println!("sleeps {}", streamer.group.stats().counters.sleeps);
    streamer.group.close();
}

/// Processor time of all threads of a process in nanoseconds, and how often they were put on a core.
fn processor_time(pid: u32) -> (u64, u64) {
    let mut sum = (0, 0);
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let Ok(text) = std::fs::read_to_string(task.path().join("schedstat")) else { continue };
        let words: Vec<u64> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
        sum = (sum.0 + words[0], sum.1 + words[2]);
    }
    sum
}

fn idle() -> String {
    let group = group_name("idle");
    let start = |rank: u16| {
        Process::start("parked", &[("group", &group), ("rank", &rank), ("members", &3)])
    };
    let mut members: Vec<Process> = (0..3u16).map(start).collect();
    members.iter_mut().for_each(|member| drop(member.expect("idle")));
    // Until the last of them has gone to sleep: nobody has run between two looks.
    let all = |members: &[Process]| -> Vec<(u64, u64)> {
        members.iter().map(|member| processor_time(member.pid())).collect()
    };
    support::until("all have gone to sleep", || {
        let before = all(&members);
        std::thread::sleep(Duration::from_millis(20));
        before == all(&members)
    });
    let (start, before) = (Instant::now(), all(&members));
    // This one is about time: what does waiting for a while cost?
    std::thread::sleep(Duration::from_secs(3));
    let (wall, after) = (start.elapsed(), all(&members));
    let mut text = String::new();
    for (rank, (before, after)) in before.iter().zip(&after).enumerate() {
        let share = (after.0 - before.0) as f64 / wall.as_nanos() as f64 * 100.0;
        let (ns, times) = (after.0 - before.0, after.1 - before.1);
        text.push_str(&format!(
            "rank {rank}: {ns} ns of {:.1} s on a core ({share:.4} %), put on one {times} times\n",
            wall.as_secs_f64()
        ));
        assert!(before.0 > 0, "this kernel counts no processor time");
        assert!(share < 1.0, "{text}");
    }
    members.iter_mut().for_each(|member| member.say("close"));
    members.into_iter().for_each(|member| drop(member.end_well()));
    text
}
