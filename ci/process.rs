// SPDX-License-Identifier: MIT OR Apache-2.0
//! Groups of real processes, and what goes wrong with processes: any order of arrival, sudden death,
//! long silence, garbage in shared memory, strangers at the door, limits and missing memory.
//!
//! Every member is this program again, with a role. What members delivered is compared by a hash
//! over every message in its order.

mod support;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use squall::driver::Application;
use squall::driver::config::{Config, Idle, SubgroupConfig};
use squall::driver::group::{Group, Sender};
use squall::driver::idle::Pace;
use squall::driver::stats::{self, Snapshot};
use squall::error::{Status, Suspicion};
use squall::fabric::shm::door::{Hello, Kind, socket_name};
use squall::fabric::shm::socket::{Bell, Socket};
use squall::mem::region::Want;
use squall::mem::{Message, Region};
use squall::sst::layout::Mode;
use std::collections::BTreeMap;
use std::io::BufRead;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use support::{Arguments, Numbers, Process, Role, Test, group_name, listens, traces, until};

const TESTS: &[Test] = &[
    ("any_order_of_arrival", any_order_of_arrival),
    ("subgroups_lanes_and_threads_agree", subgroups_lanes_and_threads_agree),
    ("a_stopped_member_loses_nothing", a_stopped_member_loses_nothing),
    ("a_killed_member_is_named_and_replaced", a_killed_member_is_named_and_replaced),
    ("a_member_that_dies_before_the_group_is_complete", a_death_at_the_rendezvous),
    ("nothing_is_left_when_all_are_killed", nothing_is_left_when_all_are_killed),
    ("garbage_in_shared_memory_is_cut_off", garbage_in_shared_memory_is_cut_off),
    ("nobody_can_write_into_anothers_memory", nobody_can_write_into_anothers_memory),
    ("strangers_at_the_door_disturb_nobody", strangers_at_the_door_disturb_nobody),
    ("two_configurations_are_both_named", two_configurations_are_both_named),
    ("a_rank_is_open_once", a_rank_is_open_once),
    ("another_users_group_is_told_from_ours", another_users_group_is_told_from_ours),
    ("who_is_missing_is_named", who_is_missing_is_named),
    ("the_lock_limit_is_named", the_lock_limit_is_named),
    ("missing_huge_pages_are_named", missing_huge_pages_are_named),
    ("huge_pages_work", huge_pages_work),
    ("missing_memory_is_named", missing_memory_is_named),
    ("the_descriptor_limit_is_named", the_descriptor_limit_is_named),
];

const ROLES: &[Role] =
    &[("stream", stream), ("open", open_only), ("hostile", hostile), ("thief", thief)];

fn main() {
    support::main(TESTS, ROLES);
}

// ---- members ----------------------------------------------------------------------------------

/// The configuration that a role's arguments ask for.
fn config(arguments: &Arguments) -> Config {
    let mut config = Config::new(
        arguments.text("group").unwrap(),
        arguments.or("rank", 0),
        arguments.or("members", 3),
    );
    let lanes = arguments.or("lanes", 1);
    let one = SubgroupConfig {
        lanes,
        window: arguments.or("window", 256),
        window_bytes: arguments.or("window_bytes", 0),
        message_bytes_max: arguments.or("largest", 1024),
        ..SubgroupConfig::default()
    };
    config.subgroups = vec![one.clone()];
    if arguments.or("many", false) {
        let of =
            |members: &[u16], senders: Option<&[u16]>, mode: Mode, window: u32| SubgroupConfig {
                members: members.to_vec(),
                senders: senders.map(<[u16]>::to_vec),
                mode,
                window,
                ..one.clone()
            };
        config.subgroups.push(of(&[0, 1], None, Mode::Stable, 7));
        config.subgroups.push(of(&[], Some(&[1]), Mode::Stable, 64));
        config.subgroups.push(of(&[], None, Mode::Received, 100));
        config.subgroups.push(of(&[1, 2], Some(&[2]), Mode::Received, 1));
    }
    config.idle = match arguments.text("idle") {
        Some("spin") => Idle::Spin,
        Some("yield") => Idle::Yield,
        _ => Idle::Park,
    };
    let want = |key: &str| match arguments.text(key) {
        Some("require") => Want::Require,
        Some("try") => Want::Try,
        _ => Want::No,
    };
    (config.lock, config.huge) = (want("lock"), want("huge"));
    config.open_timeout = Duration::from_millis(arguments.or("timeout_ms", 60_000));
    config
}

/// What a message says: who sent it, its place in that lane, and filler that follows from both.
fn content(rank: u16, lane: u16, ordinal: u64, into: &mut Vec<u8>) {
    into.clear();
    let key = u64::from(rank) << 56 | u64::from(lane) << 48 | ordinal;
    into.extend_from_slice(&key.to_le_bytes());
    let mut numbers = Numbers(key);
    let more = numbers.below(if ordinal % 50 == 0 { 900 } else { 90 });
    into.extend((0..more).map(|at| (key.wrapping_mul(31).wrapping_add(at * 7) >> 3) as u8));
}

/// What a subgroup has delivered here.
#[derive(Clone)]
struct Heard {
    mode: Mode,
    count: u64,
    /// Over the whole order; in *received* mode by sender, since only that is one order.
    hash: u64,
    by_sender: BTreeMap<(u16, u16), (u64, u64)>,
    /// In subgroup 0: the hash after each message.
    history: Vec<u64>,
}

/// FNV-1a.
fn hash_of(mut hash: u64, bytes: &[u8]) -> u64 {
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    }
    hash
}

struct Listener {
    heard: Vec<Heard>,
    /// A rank whose messages may be anything.
    distrusted: Option<u16>,
    trouble: Option<String>,
    ended: Option<(Status, Option<Suspicion>)>,
    progress_every: u64,
    expected: Vec<u8>,
}

#[derive(Clone)]
struct Shared(Arc<Mutex<Listener>>);

impl Shared {
    fn new(config: &Config, arguments: &Arguments) -> Shared {
        let heard = |subgroup: &SubgroupConfig| Heard {
            mode: subgroup.mode,
            count: 0,
            hash: 0xcbf2_9ce4_8422_2325,
            by_sender: BTreeMap::new(),
            history: Vec::new(),
        };
        Shared(Arc::new(Mutex::new(Listener {
            heard: config.subgroups.iter().map(heard).collect(),
            distrusted: arguments.get("distrusted"),
            trouble: None,
            ended: None,
            progress_every: arguments.or("progress", u64::MAX),
            expected: Vec::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Listener> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Application for Shared {
    fn deliver(&mut self, subgroup: u16, batch: &[Message]) {
        let listener = &mut *self.lock();
        for message in batch {
            let heard = &mut listener.heard[usize::from(subgroup)];
            heard.count += 1;
            let sender = heard.by_sender.entry((message.rank, message.lane));
            let (count, own_hash) = sender.or_insert((0, 0xcbf2_9ce4_8422_2325));
            if listener.distrusted != Some(message.rank) {
                content(message.rank, message.lane, *count, &mut listener.expected);
                if message.bytes() != listener.expected {
                    let (rank, lane) = (message.rank, message.lane);
                    listener.trouble = Some(format!(
                        "message {count} of rank {rank}, lane {lane}, subgroup {subgroup} is {:?}",
                        message.bytes()
                    ));
                }
                *own_hash = hash_of(*own_hash, message.bytes());
                heard.hash = hash_of(heard.hash, message.bytes());
            }
            *count += 1;
            if subgroup == 0 {
                heard.history.push(heard.hash);
                if heard.count % listener.progress_every == 0 {
                    println!("progress {} {:016x}", heard.count, heard.hash);
                }
            }
        }
    }

    fn stopped(&mut self, status: Status, suspicion: Option<Suspicion>) {
        self.lock().ended = Some((status, suspicion));
    }
}

impl Heard {
    fn text(&self) -> String {
        let hash = match self.mode {
            Mode::Stable => self.hash,
            Mode::Received => self.by_sender.iter().fold(0, |hash, (sender, (count, own))| {
                hash_of(hash, format!("{sender:?} {count} {own}").as_bytes())
            }),
        };
        format!("{}:{hash:016x}", self.count)
    }
}

/// Sends messages of a lane until all are sent, or the group has stopped, or someone says so.
fn produce(mut sender: Sender, rank: u16, lane: u16, count: u64, stop: &AtomicBool) {
    let mut bytes = Vec::new();
    for ordinal in 0..count {
        content(rank, lane, ordinal, &mut bytes);
        loop {
            match sender.send(&bytes) {
                Ok(at) => break assert_eq!(at, ordinal),
                Err(Status::Again) if !stop.load(Ordering::Relaxed) => std::thread::yield_now(),
                Err(_) => return,
            }
        }
    }
}

/// Opens a group, sends from a thread per lane, delivers until all is there or the group stops.
struct Member {
    group: Group,
    shared: Shared,
    threads: Vec<std::thread::JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    expected: Vec<u64>,
    idle: Idle,
}

impl Member {
    fn open(config: &Config, arguments: &Arguments, count: u64) -> Member {
        let shared = Shared::new(config, arguments);
        let mut group = match Group::open(config, Box::new(shared.clone())) {
            Ok(group) => group,
            Err(error) => {
                println!("error {:?}: {error}", error.status);
                std::process::exit(3);
            }
        };
        println!("open {}", std::process::id());
        let stop = Arc::new(AtomicBool::new(false));
        let (mut threads, mut expected) = (Vec::new(), Vec::new());
        for (at, subgroup) in config.subgroups.iter().enumerate() {
            let all: Vec<u16> = (0..config.members).collect();
            let members = if subgroup.members.is_empty() { &all } else { &subgroup.members };
            let senders = subgroup.senders.as_ref().unwrap_or(members).len() as u64;
            let mine = members.contains(&config.rank);
            let total = senders.saturating_mul(u64::from(subgroup.lanes)).saturating_mul(count);
            expected.push(if mine { total } else { 0 });
            for lane in 0..subgroup.lanes {
                let Some(sender) = group.sender(at as u16, lane) else { continue };
                let (rank, stop) = (config.rank, stop.clone());
                let work = move || produce(sender, rank, lane, count, &stop);
                threads.push(std::thread::spawn(work));
            }
        }
        Member { group, shared, threads, stop, expected, idle: config.idle }
    }

    fn over(&self) -> bool {
        let listener = self.shared.lock();
        if let Some(trouble) = &listener.trouble {
            panic!("{trouble}");
        }
        listener.heard.iter().zip(&self.expected).all(|(heard, expected)| heard.count >= *expected)
    }

    /// One round; `Err` once the group has stopped.
    fn turn(&mut self, pace: &mut Pace) -> Result<u32, Status> {
        let turn = self.group.turn(u32::MAX)?;
        if turn.busy {
            pace.busy();
        } else if pace.quiet() {
            pace.busy();
            // If it has stopped meanwhile, the next turn says so.
            let _ = self.group.wait(None);
        }
        Ok(turn.delivered)
    }

    /// Until everything is delivered, or the group has stopped.
    fn run(&mut self) -> Status {
        let mut pace = Pace::new(self.idle);
        loop {
            if self.over() {
                return Status::Ok;
            }
            match self.turn(&mut pace) {
                Ok(_) => {}
                Err(status) => return status,
            }
        }
    }

    fn tell(&self, what: &str, status: Status) {
        let listener = self.shared.lock();
        let heard: Vec<String> = listener.heard.iter().map(Heard::text).collect();
        let suspicion = match listener.ended {
            Some((_, Some(Suspicion { rank, fault }))) => format!("rank={} {fault}", rank.0),
            _ => String::new(),
        };
        println!("{what} {status:?} heard={} {suspicion}", heard.join(","));
    }

    /// Ends the producers and leaves in good order.
    fn close(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.group.close();
    }
}

fn commands() -> impl Iterator<Item = String> {
    std::io::stdin().lock().lines().map_while(Result::ok)
}

/// A member that sends and delivers. With `reopen`: once the group has lost a member, it opens the
/// next one of the same name at once.
fn stream(arguments: &Arguments) {
    support_notes();
    let config = config(arguments);
    let count = arguments.or("count", u64::MAX >> 16);
    let mut member = Member::open(&config, arguments, count);
    let status = member.run();
    let history = std::mem::take(&mut member.shared.lock().heard[0].history);
    if status != Status::Ok && arguments.or("reopen", false) {
        let first = member.shared.clone();
        let text = Member::close_for(member);
        println!("{text}");
        drop(first);
        member = Member::open(&config, arguments, 2_000);
        let status = member.run();
        member.tell("done", status);
    } else {
        member.tell("done", status);
    }
    for command in commands() {
        match command.split_once(' ') {
            Some(("at", count)) => {
                let count: usize = count.parse().unwrap();
                let hash = count.checked_sub(1).and_then(|at| history.get(at));
                println!("hash {:016x}", hash.copied().unwrap_or(0));
            }
            _ => break,
        }
    }
    member.close();
}

impl Member {
    /// Closes a group that has stopped; what `tell` would say.
    fn close_for(self) -> String {
        let shared = self.shared.clone();
        self.close();
        let listener = shared.lock();
        let heard: Vec<String> = listener.heard.iter().map(Heard::text).collect();
        let Some((status, Some(suspicion))) = listener.ended else {
            return format!("stopped {:?}", listener.ended);
        };
        let (rank, fault) = (suspicion.rank.0, suspicion.fault);
        format!("stopped {status:?} heard={} rank={rank} {fault}", heard.join(","))
    }
}

/// Prints what the library says.
fn support_notes() {
    squall::log_sink::set(Some(Box::new(|level, text| println!("note {level:?} {text}"))));
}

// ---- tests ------------------------------------------------------------------------------------

/// `heard=` of a `done` line, after a good end.
fn heard_of(line: &str) -> String {
    let rest = line.strip_prefix("Ok heard=").unwrap_or_else(|| panic!("{line}"));
    rest.trim().to_string()
}

fn starts<'a>(
    group: &'a String,
    members: &'a u16,
    more: &[(&'a str, &'a dyn std::fmt::Display)],
) -> impl Fn(u16) -> Process {
    let more: Vec<(String, String)> =
        more.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    move |rank: u16| {
        let mut all: Vec<(&str, &dyn std::fmt::Display)> =
            vec![("group", group), ("members", members), ("rank", &rank)];
        all.extend(more.iter().map(|(key, value)| (key.as_str(), value as &dyn std::fmt::Display)));
        Process::start("stream", &all)
    }
}

/// Waits for `done` of all, which must have heard the same; then lets them leave.
fn all_agree(mut members: Vec<Process>) -> String {
    let heard: Vec<String> =
        members.iter_mut().map(|member| heard_of(&member.expect("done"))).collect();
    assert!(heard.iter().all(|one| *one == heard[0]), "{heard:?}");
    members.iter_mut().for_each(|member| member.say("close"));
    members.into_iter().for_each(|member| drop(member.end_well()));
    heard[0].clone()
}

fn any_order_of_arrival() -> String {
    let mut text = String::new();
    let mut numbers = Numbers(7);
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0u16]] {
        let group = group_name("order");
        let start = starts(&group, &3, &[("count", &3_000)]);
        let mut members: BTreeMap<u16, Process> = BTreeMap::new();
        let mut waits = Vec::new();
        for rank in order {
            members.insert(rank, start(rank));
            // Sometimes the one before is already there, sometimes they race.
            let there = numbers.below(2) == 0;
            if there {
                until("a member listens", || listens(&group, rank));
            }
            waits.push(there);
        }
        let heard = all_agree(members.into_values().collect());
        text.push_str(&format!("arrival {order:?}, waited for {waits:?}: {heard}\n"));
        assert_eq!(traces(&group), [""; 0]);
    }
    text
}

fn subgroups_lanes_and_threads_agree() -> String {
    let mut text = String::new();
    for (idle, lanes, count) in [("park", 3, 3_000), ("yield", 2, 3_000), ("spin", 1, 500)] {
        let group = group_name("many");
        let more: [(&str, &dyn std::fmt::Display); 4] =
            [("many", &true), ("idle", &idle), ("lanes", &lanes), ("count", &count)];
        let start = starts(&group, &3, &more);
        let mut members: Vec<Process> = (0..3).map(start).collect();
        let heard: Vec<Vec<String>> = members
            .iter_mut()
            .map(|member| heard_of(&member.expect("done")).split(',').map(String::from).collect())
            .collect();
        // Who is a member of what: see `config`.
        for (subgroup, ranks) in
            [vec![0, 1, 2], vec![0, 1], vec![0, 1, 2], vec![0, 1, 2], vec![1, 2]].iter().enumerate()
        {
            let first = &heard[ranks[0]][subgroup];
            assert!(ranks.iter().all(|rank| heard[*rank][subgroup] == *first), "{heard:?}");
        }
        members.iter_mut().for_each(|member| member.say("close"));
        members.into_iter().for_each(|member| drop(member.end_well()));
        text.push_str(&format!("{idle}, {lanes} lanes: {}\n", heard[1].join(" ")));
    }
    text
}

/// The statistics page of a member, as any process of its user can have it.
fn stat(group: &str, rank: u16) -> Snapshot {
    let mut socket = None;
    until("the door takes a visitor", || {
        socket = Socket::connect(&socket_name(group, rank)).unwrap();
        socket.is_some()
    });
    let socket = socket.unwrap();
    assert!(socket.send(&Hello::new(Kind::Stat, 0, false, "").encode(), &[]));
    let mut answer = None;
    until("the door answers", || {
        answer = socket.receive();
        answer.is_some()
    });
    let (bytes, descriptors) = answer.unwrap().expect("an answer, not a hang-up");
    let hello = Hello::decode(&bytes).unwrap();
    assert_eq!((hello.kind, hello.rank), (Kind::Welcome, rank));
    let page = Region::map_peer(&descriptors[0], 4096).unwrap();
    stats::read(&page).expect("a page of statistics")
}

fn a_stopped_member_loses_nothing() -> String {
    let group = group_name("stopped");
    let start = starts(&group, &3, &[("count", &40_000), ("window", &64), ("progress", &1_000)]);
    let mut members: Vec<Process> = (0..3).map(start).collect();
    let mut text = String::new();
    for round in 0..3usize {
        let victim = round % 3;
        members[victim].expect("progress");
        members[victim].signal(Signal::STOP);
        let state = format!("/proc/{}/stat", members[victim].pid());
        until("it has stopped", || std::fs::read_to_string(&state).unwrap().contains(") T"));
        // The others run into their windows: nobody may deliver what the stopped one lacks.
        let witness = ((victim + 1) % 3) as u16;
        let first = stat(&group, witness);
        let mut now = first.clone();
        until("the window of a witness is full", || {
            now = stat(&group, witness);
            now.subgroups[0].pressed > first.subgroups[0].pressed + 1_000
        });
        assert_eq!(now.stopped, 0, "a silent member is no lost member");
        let (delivered, pressed) = (now.subgroups[0].delivered_number, now.subgroups[0].pressed);
        text.push_str(&format!(
            "rank {victim} stopped: rank {witness} stands at {delivered}, refused {pressed} sends\n"
        ));
        members[victim].signal(Signal::CONT);
    }
    let heard = all_agree(members);
    assert!(heard.starts_with("120000:"), "{heard}");
    text + &format!("all: {heard}")
}

fn field<'a>(line: &'a str, key: &str) -> &'a str {
    line.split_whitespace().find_map(|word| word.strip_prefix(key)).unwrap_or("")
}

fn a_killed_member_is_named_and_replaced() -> String {
    let mut text = String::new();
    for (victim, idle) in [(2u16, "park"), (0, "yield"), (1, "spin"), (2, "yield")] {
        let group = group_name("killed");
        let more: [(&str, &dyn std::fmt::Display); 3] =
            [("idle", &idle), ("progress", &500), ("reopen", &true)];
        let start = starts(&group, &3, &more);
        let mut members: Vec<Process> = (0..3).map(&start).collect();
        for _ in 0..3 {
            members[usize::from(victim)].expect("progress");
        }
        let mut dead = members.remove(usize::from(victim));
        dead.kill();
        let lines = dead.end().lines;
        // Whoever takes its place may come at once: nobody coordinates this.
        let mut next = start(victim);
        let last = lines.iter().rev().find_map(|line| line.strip_prefix("progress "));
        let last = last.map(String::from);
        let mut numbers = Vec::new();
        for member in &mut members {
            let line = member.expect("stopped");
            assert!(line.starts_with("PeerLost"), "{line}");
            assert_eq!(field(&line, "rank="), victim.to_string(), "{line}");
            numbers.push(field(&line, "heard=").split(':').next().unwrap().parse::<u64>().unwrap());
        }
        let mut all = vec![next.expect("done")];
        all.extend(members.iter_mut().map(|member| member.expect("done")));
        assert!(all.iter().all(|line| *line == all[0]), "{all:?}");
        heard_of(&all[0]);
        // What the dead one had delivered, both others have, in its order; and of those two one has
        // delivered the beginning of what the other has.
        let common = *numbers.iter().min().unwrap();
        let mut at = |count: u64| {
            let hashes = members.iter_mut().map(|member| {
                member.say(&format!("at {count}"));
                member.expect("hash")
            });
            hashes.collect::<Vec<_>>()
        };
        let hashes = at(common);
        assert_eq!(hashes[0], hashes[1]);
        let mut died_at = 0;
        if let Some((count, hash)) = last.as_ref().and_then(|line| line.split_once(' ')) {
            died_at = count.parse().unwrap();
            assert!(died_at <= common, "it had delivered {died_at}, the others {numbers:?}");
            assert_eq!(at(died_at), [hash, hash]);
        }
        members.push(next);
        members.iter_mut().for_each(|member| member.say("close"));
        members.into_iter().for_each(|member| drop(member.end_well()));
        assert_eq!(traces(&group), [""; 0]);
        text.push_str(&format!(
            "rank {victim} of {idle} members killed after {died_at}: the others delivered \
             {numbers:?} in one order, named it, and met its successor\n"
        ));
    }
    text
}

/// Rank 1 meets rank 0 and dies before rank 2 is there: its successor completes the group.
fn a_death_at_the_rendezvous() -> String {
    let group = group_name("early");
    let start = starts(&group, &3, &[("count", &1_000)]);
    let first = start(0);
    until("rank 0 listens", || listens(&group, 0));
    let mut dead = start(1);
    // They have met when rank 0 holds the other's memory.
    let mapped = format!("memfd:squall-{group}-1-table");
    let maps = format!("/proc/{}/maps", first.pid());
    until("rank 0 has met rank 1", || std::fs::read_to_string(&maps).unwrap().contains(&mapped));
    dead.kill();
    drop(dead.end());
    let (second, third) = (start(1), start(2));
    let heard = all_agree(vec![first, second, third]);
    assert_eq!(traces(&group), [""; 0]);
    format!("rank 1 died after it had met rank 0, its successor completed the group: {heard}")
}

fn nothing_is_left_when_all_are_killed() -> String {
    let group = group_name("gone");
    let start = starts(&group, &3, &[("progress", &1_000)]);
    let mut members: Vec<Process> = (0..3).map(&start).collect();
    members.iter_mut().for_each(|member| drop(member.expect("progress")));
    let during = traces(&group);
    assert!(during.iter().any(|trace| trace.starts_with("socket")));
    members.iter_mut().for_each(Process::kill);
    members.into_iter().for_each(|member| drop(member.end()));
    assert_eq!(traces(&group), [""; 0]);
    // And the name is free.
    let start = starts(&group, &3, &[("count", &100)]);
    let heard = all_agree((0..3).map(start).collect());
    assert_eq!(traces(&group), [""; 0]);
    format!("{} traces while it ran, 0 after, the next group of the name: {heard}", during.len())
}
