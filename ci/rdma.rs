// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processes over an RDMA device: all sizes, all-to-all, and what a member hears when another's host goes
//! away without a word. `ci/rxe` runs it where there is soft-RoCE; without a device the tests say SKIPPED.
//!
//! `SQUALL_RDMA_DEVICES=ONE,OTHER`: members are on these in turns (default: as the library chooses).
//! `SQUALL_RDMA_CABLE=NAME`: the network interface that is the way between the two; it is pulled.
//! `SQUALL_RDMA_RAW=PROGRAM`: `bench/verbs.rs`, beside whose time to a loss that of members is held.

mod support;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use squall::driver::config::{Changes, Config, Idle};
use squall::driver::group::{Group, Sender};
use squall::driver::network::Carrier;
use squall::driver::views::ViewInfo;
use squall::driver::{Application, clock};
use squall::error::{Status, Suspicion};
use squall::fabric::Way;
use squall::fabric::verbs::device::Device;
use squall::fabric::verbs::gid::Choice;
use squall::fabric::verbs::sys::Table;
use squall::log_sink::{self, Level};
use squall::mem::Message;
use std::collections::HashMap;
use std::io::BufRead;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{Arguments, Process, group_name};

fn main() {
    support::main(
        &[
            ("all_sizes", all_sizes),
            ("eight_all_to_all", eight_all_to_all),
            ("the_least_work", the_least_work),
            ("a_pulled_cable_is_a_loss", a_pulled_cable_is_a_loss),
            ("a_host_that_falls_silent_is_a_loss", a_host_that_falls_silent_is_a_loss),
            ("as_soon_as_the_device_knows", as_soon_as_the_device_knows),
        ],
        &[("member", member)],
    );
}

/// Bytes of messages: around lines, packets and slots.
const SIZES: [usize; 18] =
    [1, 2, 7, 8, 9, 63, 64, 65, 220, 256, 1000, 4095, 4096, 4097, 10_000, 65_536, 300_000, 1 << 20];

/// Why there is nothing to test, if so.
fn skipped() -> Option<String> {
    let found = Table::load().and_then(|table| Device::open(&table, &Choice::default()));
    found.err().map(|why| format!("SKIPPED: {why}"))
}

fn devices() -> Vec<String> {
    let text = std::env::var("SQUALL_RDMA_DEVICES").unwrap_or_default();
    text.split(',').filter(|name| !name.is_empty()).map(String::from).collect()
}

/// A group of processes, by rank.
struct Crew(Vec<Process>);

impl Crew {
    fn start(what: &str, members: u16, more: &[(&str, &str)]) -> Crew {
        let (group, devices) = (group_name(what), devices());
        let free: Vec<TcpListener> =
            (0..members).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let at = |of: &TcpListener| of.local_addr().unwrap().to_string();
        let addresses: Vec<String> = free.iter().map(at).collect();
        drop(free);
        let founders = addresses.join(",");
        let start = |rank: u16| {
            let at = usize::from(rank);
            let device = devices.get(at % devices.len().max(1)).map_or("", String::as_str);
            let mut arguments: Vec<(&str, &dyn std::fmt::Display)> = vec![
                ("group", &group),
                ("rank", &rank),
                ("members", &members),
                ("listen", &addresses[at]),
                ("founders", &founders),
                ("device", &device),
            ];
            arguments.extend(more.iter().map(|(key, value)| (*key, value as _)));
            Process::start("member", &arguments)
        };
        Crew((0..members).map(start).collect())
    }

    /// What all say after that word.
    fn expect(&mut self, word: &str) -> Vec<String> {
        self.0.iter_mut().map(|process| process.expect(word)).collect()
    }

    fn close(self) {
        let mut all = self.0;
        all.iter_mut().for_each(|process| process.say("close"));
        all.into_iter().for_each(|process| drop(process.end_well()));
    }
}

fn all_sizes() -> String {
    if let Some(why) = skipped() {
        return why;
    }
    let mut text = String::new();
    for idle in ["yield", "park"] {
        let count = (2 * SIZES.len()).to_string();
        let mut crew = Crew::start("sizes", 2, &[("count", &count), ("idle", idle)]);
        let seen = crew.expect("all");
        assert!(seen.windows(2).all(|two| two[0] == two[1]), "{seen:?}");
        text.push_str(&format!("{idle}: {}\n", seen[0]));
        crew.close();
    }
    text
}

fn eight_all_to_all() -> String {
    if let Some(why) = skipped() {
        return why;
    }
    let mut crew = Crew::start("eight", 8, &[("count", "100"), ("small", "true")]);
    let seen = crew.expect("all");
    assert!(seen.windows(2).all(|two| two[0] == two[1]), "{seen:?}");
    crew.close();
    format!("{} at each of 8", seen[0])
}

/// By the queues' own counts: one sender, batches of 16, two receivers. A batch is at most as many work
/// requests to a peer as these, and one doorbell; a receiver's acknowledgements are one of each. (Three
/// are the aim: bytes, descriptors and runs of a ring are spans of their own, and its hot line is two
/// posts.)
fn the_least_work() -> String {
    const BATCHES: u64 = 100;
    const OF_A_BATCH: u64 = 6;
    // Beats, first words, batches that two turns have shared.
    const BESIDES: u64 = 60;
    if let Some(why) = skipped() {
        return why;
    }
    let count = (BATCHES * 16).to_string();
    let more = [("count", &count[..]), ("small", "true"), ("batch", "16"), ("senders", "1")];
    let mut crew = Crew::start("work", 3, &more);
    crew.expect("all");
    let counted = crew.expect("counted");
    crew.close();
    for (rank, line) in counted.iter().enumerate() {
        let numbers = |text: &str| text.split(' ').map(|word| word.parse().unwrap()).collect();
        for (requests, doorbells) in line.split(';').map(|peer| {
            let peer: Vec<u64> = numbers(peer.trim());
            (peer[0], peer[1])
        }) {
            let most = if rank == 0 { OF_A_BATCH } else { 1 } * BATCHES + BESIDES;
            assert!(requests <= most, "rank {rank}: {requests} work requests, at most {most}");
            let most = BATCHES + BESIDES;
            assert!(doorbells <= most, "rank {rank}: {doorbells} doorbells, at most {most}");
        }
    }
    format!("work requests and doorbells by peer, {BATCHES} batches: {counted:?}")
}

/// With two members nobody has a majority any more; what matters is how soon they know, and why.
fn a_pulled_cable_is_a_loss() -> String {
    let Ok(cable) = std::env::var("SQUALL_RDMA_CABLE") else {
        return "SKIPPED: no cable may be pulled here (SQUALL_RDMA_CABLE)".into();
    };
    if let Some(why) = skipped() {
        return why;
    }
    let set = |state: &str| {
        let status = Command::new("ip").args(["link", "set", &cable, state]).status();
        assert!(status.is_ok_and(|status| status.success()), "ip link set {cable} {state}");
    };
    let mut crew = Crew::start("cable", 2, &[("small", "true"), ("pace_us", "1000")]);
    crew.expect("open");
    crew.expect("flows");
    let pulled = clock().0;
    set("down");
    let over = crew.expect("over");
    set("up");
    // Who hears of it first ends the connection, and by that tells the other one.
    let why = over.iter().find_map(|line| line.split_once("is cut off: "));
    let (_, why) = why.unwrap_or_else(|| panic!("none of its queues has failed: {over:?}"));
    assert!(over.iter().all(|line| line.contains("Partitioned") && line.contains("Lost")));
    format!("after {:?} ms: {why}", since(pulled, &over))
}

/// A member dies, and its connections live on: another process holds them. So nothing tells of its death
/// but the queues of the others. (Silence is never held against anybody here.)
fn a_host_that_falls_silent_is_a_loss() -> String {
    if let Some(why) = skipped() {
        return why;
    }
    let (failures, views, why) = fall_silent();
    format!("failed after {failures:?} ms, views after {views:?} ms\n{why}")
}

/// From the kill, by survivor, in milliseconds: the queue's failure, the next view; and what was said.
fn fall_silent() -> (Vec<u64>, Vec<u64>, String) {
    let mut crew = Crew::start("silent", 3, &[("small", "true"), ("pace_us", "1000")]);
    crew.expect("flows");
    let held = sockets_of(&crew.0[2]);
    crew.0[2].kill();
    let killed = clock().0;
    drop(crew.0.pop());
    let views = crew.expect("view 2");
    // Who hears of it first tells the other, whose queue then need not fail.
    let mut failed = crew.expect("why");
    failed.retain(|line| !line.is_empty());
    drop(held);
    crew.close();
    // No answer; or, when a write came while the kernel took down the process, one that refuses.
    let known =
        |line: &String| ["retry counter", "remote access"].iter().any(|of| line.contains(of));
    assert!(failed.iter().any(known), "{failed:?}");
    (since(killed, &failed), since(killed, &views), failed[0].clone())
}

/// In turns: the raw program's other end is killed, and a member. The raw time begins with the first
/// write after the death.
fn as_soon_as_the_device_knows() -> String {
    const KILLS: usize = 20;
    const MORE_MS: u64 = 50;
    let Ok(program) = std::env::var("SQUALL_RDMA_RAW") else {
        return "SKIPPED: no raw program to compare with (SQUALL_RDMA_RAW)".into();
    };
    if let Some(why) = skipped() {
        return why;
    }
    let (mut raw, mut failures, mut views) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..KILLS {
        let output = Command::new(&program).args(["lost", "--times", "1", "--yield"]).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let ms = text.split_once("after p50 ").and_then(|(_, rest)| rest.split(' ').next());
        raw.push(ms.and_then(|ms| ms.parse::<u64>().ok()).unwrap_or_else(|| panic!("{text}")));
        let (failed, viewed, _) = fall_silent();
        failures.extend(failed);
        views.extend(viewed);
    }
    let sorted = |mut all: Vec<u64>| {
        all.sort_unstable();
        all
    };
    let [raw, failures, views] = [raw, failures, views].map(sorted);
    let mut text = format!("{KILLS} kills, milliseconds from the kill, at all who noticed\n");
    for (what, all) in [("raw", &raw), ("failed", &failures), ("next view", &views)] {
        text.push_str(&format!("{what}: p50 {}, {all:?}\n", median(all)));
    }
    assert!(median(&failures) <= median(&raw) + MORE_MS, "{text}");
    text
}

fn median(sorted: &[u64]) -> u64 {
    sorted[sorted.len() / 2]
}

/// Milliseconds from then to the times that lines begin with.
fn since(then: u64, lines: &[String]) -> Vec<u64> {
    let at = |line: &String| line.split(' ').next().and_then(|word| word.parse::<u64>().ok());
    let times = lines.iter().map(|line| at(line).expect("a line begins with its time"));
    times.map(|at| at.saturating_sub(then) / 1_000_000).collect()
}

/// Its connections, open as long as these are.
fn sockets_of(process: &Process) -> Vec<OwnedFd> {
    let pid = Pid::from_raw(process.pid() as i32).unwrap();
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let mut held = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{}/fd", process.pid())).unwrap().flatten() {
        let link = std::fs::read_link(entry.path()).unwrap_or_default();
        if !link.to_string_lossy().starts_with("socket:") {
            continue;
        }
        let number: i32 = entry.file_name().to_string_lossy().parse().unwrap();
        held.extend(pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()));
    }
    assert!(!held.is_empty(), "it has no connections");
    held
}

// ---- a member ----

fn content(rank: u16, ordinal: u64, small: bool, into: &mut Vec<u8>) {
    let size = if small { 64 } else { SIZES[(ordinal % SIZES.len() as u64) as usize] };
    let first = u64::from(rank) * 31 + ordinal * 7;
    into.clear();
    into.extend((0..size as u64).map(|at| (first + at * 13 + (at >> 8)) as u8));
}

#[derive(Default)]
struct Seen {
    count: u64,
    hash: u64,
    next: HashMap<u16, u64>,
    expected: Vec<u8>,
}

struct Listener {
    seen: Arc<Mutex<Seen>>,
    small: bool,
}

impl Application for Listener {
    fn deliver(&mut self, _: u16, batch: &[Message]) {
        let mut seen = self.seen.lock().unwrap();
        let Seen { count, hash, next, expected } = &mut *seen;
        for message in batch {
            let ordinal = next.entry(message.rank).or_default();
            content(message.rank, *ordinal, self.small, expected);
            assert!(message.bytes() == expected, "message {ordinal} of rank {}", message.rank);
            *hash = (hash.rotate_left(7) ^ u64::from(message.rank)).wrapping_mul(0x100_0000_01b3);
            (*ordinal, *count) = (*ordinal + 1, *count + 1);
        }
    }

    fn view(&mut self, view: &ViewInfo) {
        let left: Vec<String> =
            view.left.iter().map(|(member, fault)| format!("{}: {fault}", member.seat)).collect();
        println!("view {} {} {left:?}", view.epoch, clock().0);
        println!("why {}", FAILED.lock().unwrap());
    }

    fn stopped(&mut self, status: Status, suspicion: Option<Suspicion>) {
        let failed = FAILED.lock().unwrap();
        println!("over {} {status:?} {suspicion:?} {failed}", clock().0);
    }
}

/// What the library has said of queues that failed.
static FAILED: Mutex<String> = Mutex::new(String::new());

/// What the library says, and when.
fn note(level: Level, text: &str) {
    let failed = text.contains("is cut off") && text.contains("queue 0x");
    let line = format!("{} {level:?} {text}", clock().0);
    println!("{} {line}", if failed { "failed" } else { "note" });
    if failed {
        *FAILED.lock().unwrap() = line;
    }
}

/// The role: sends `count` messages (`count` missing: until it is told to close), says what it has
/// delivered when that is all, and waits for the word to close.
fn member(arguments: &Arguments) {
    log_sink::set(Some(Box::new(note)));
    let (rank, members) = (arguments.or("rank", 0u16), arguments.or("members", 2u16));
    let mut config = Config::new(arguments.text("group").unwrap(), rank, members);
    config.membership = Changes::Views;
    config.suspicion_ns = 0;
    config.idle = if arguments.text("idle") == Some("park") { Idle::Park } else { Idle::Yield };
    let list = |key: &str| -> Vec<String> {
        arguments.text(key).unwrap_or("").split(',').map(String::from).collect()
    };
    let network = &mut config.network;
    (network.carrier, network.trusted) = (Carrier::Verbs, true);
    (network.listen, network.founders) = (list("listen"), list("founders"));
    network.rdma.choice.device =
        arguments.text("device").filter(|name| !name.is_empty()).map(String::from);
    let (small, senders) = (arguments.or("small", false), arguments.or("senders", members));
    let subgroup = &mut config.subgroups[0];
    subgroup.senders = Some((0..senders).collect());
    subgroup.message_bytes_max = if small { 64 } else { 1 << 20 };
    subgroup.window = if small { 256 } else { 8 };
    let seen = Arc::new(Mutex::new(Seen::default()));
    let listener = Listener { seen: seen.clone(), small };
    let mut group = Group::open(&config, Box::new(listener)).unwrap_or_else(|why| panic!("{why}"));
    println!("open");
    let asked = Arc::new(AtomicBool::new(false));
    let asks = asked.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().lock().read_line(&mut String::new());
        asks.store(true, Ordering::Release);
    });
    let count = arguments.get("count").unwrap_or(u64::MAX);
    let mut flow = Flow {
        sender: group.sender(0, 0),
        count,
        all: count.saturating_mul(senders.into()),
        batch: arguments.or("batch", 1),
        pace: Duration::from_micros(arguments.or("pace_us", 0)),
        ..Flow::new(rank, small)
    };
    while !asked.load(Ordering::Acquire) {
        let sent = flow.send();
        let Ok(turn) = group.turn(u32::MAX) else { break };
        if flow.look(&seen.lock().unwrap()) {
            tell_counts(&mut group);
        }
        if !turn.busy && !sent {
            let _ = group.wait(Some(Duration::from_micros(200)));
        }
    }
    group.close();
}

/// What a member has sent and said.
struct Flow {
    sender: Option<Sender>,
    rank: u16,
    small: bool,
    sent: u64,
    count: u64,
    all: u64,
    batch: u64,
    pace: Duration,
    last: Instant,
    bytes: Vec<u8>,
    flows: bool,
    done: bool,
}

impl Flow {
    fn new(rank: u16, small: bool) -> Flow {
        Flow {
            sender: None,
            rank,
            small,
            sent: 0,
            count: 0,
            all: 0,
            batch: 1,
            pace: Duration::ZERO,
            last: Instant::now(),
            bytes: Vec::new(),
            flows: false,
            done: false,
        }
    }

    /// A batch, if it is time; whether anything was sent.
    fn send(&mut self) -> bool {
        let Some(sender) = &mut self.sender else { return false };
        if self.last.elapsed() < self.pace {
            return false;
        }
        self.last = Instant::now();
        let before = self.sent;
        while self.sent < self.count && self.sent - before < self.batch {
            content(self.rank, self.sent, self.small, &mut self.bytes);
            if sender.send(&self.bytes).is_err() {
                break;
            }
            self.sent += 1;
        }
        self.sent > before
    }

    /// Says how far it has come; true once, when all is delivered.
    fn look(&mut self, seen: &Seen) -> bool {
        if !self.flows && seen.count >= 100.min(self.all) {
            self.flows = true;
            println!("flows");
        }
        let over = !self.done && seen.count >= self.all;
        if over {
            self.done = true;
            println!("all {} messages, hash {:016x}", seen.count, seen.hash);
        }
        over
    }
}

/// What its queues have counted: work requests and doorbells, by peer.
fn tell_counts(group: &mut Group) {
    let mut peers = Vec::new();
    for way in &group.stats().peers {
        if let Some(Way::Verbs { counts, .. }) = way {
            peers.push(format!("{} {}", counts.work_requests, counts.doorbells));
        }
    }
    println!("counted {}", peers.join("; "));
}
