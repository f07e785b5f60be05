// SPDX-License-Identifier: MIT OR Apache-2.0
//! Groups of real processes, and what goes wrong with processes: any order of arrival, sudden death,
//! long silence, garbage in shared memory, strangers at the door, limits and missing memory.
//!
//! Every member is this program again, with a role. What members delivered is compared by a hash
//! over every message in its order.

mod support;

use rustix::process::{Resource, Rlimit, Signal, setrlimit};
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
use std::sync::mpsc::{TryRecvError, channel};
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

const ROLES: &[Role] = &[
    ("stream", stream),
    ("honest", honest),
    ("hostile", hostile),
    ("thief", thief),
    ("knock", knock),
];

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
        if !arguments.or("together", false) {
            config.subgroups.push(of(&[0, 1], None, Mode::Stable, 7));
        }
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
            let sender = heard.by_sender.entry((message.rank, message.lane.into()));
            let (count, own_hash) = sender.or_insert((0, 0xcbf2_9ce4_8422_2325));
            if listener.distrusted != Some(message.rank) {
                content(message.rank, message.lane.into(), *count, &mut listener.expected);
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
    confine(arguments);
    for _ in 1..arguments.or("repeat", 1) {
        let mut member = Member::open(&config(arguments), arguments, 500);
        let status = member.run();
        member.tell("repeated", status);
        // Nobody leaves before all are through: the parent knows.
        assert_eq!(commands().next().as_deref(), Some("next"));
        member.close();
    }
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
    let (tell, told) = channel();
    std::thread::spawn(move || commands().for_each(|command| drop(tell.send(command))));
    loop {
        let command = match told.try_recv() {
            Ok(command) => command,
            Err(TryRecvError::Disconnected) => break,
            // It stays a good member until it is told to leave: others may need it.
            Err(TryRecvError::Empty) => {
                let soon = Some(Duration::from_millis(2));
                let stopped = member.group.turn(u32::MAX).and_then(|_| member.group.wait(soon));
                match stopped {
                    Ok(()) => continue,
                    Err(_) => match told.recv() {
                        Ok(command) => command,
                        Err(_) => break,
                    },
                }
            }
        };
        let Some(("at", count)) = command.split_once(' ') else { break };
        let count: usize = count.parse().unwrap();
        let hash = count.checked_sub(1).and_then(|at| history.get(at));
        println!("hash {:016x}", hash.copied().unwrap_or(0));
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

/// Takes from this process what the arguments say: limits, and the user.
fn confine(arguments: &Arguments) {
    for (key, resource) in [
        ("memlock", Resource::Memlock),
        ("nofile", Resource::Nofile),
        ("fsize", Resource::Fsize),
        ("as", Resource::As),
    ] {
        if let Some(limit) = arguments.get(key) {
            let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
            setrlimit(resource, limit).unwrap();
        }
    }
    if let Some(id) = arguments.get("uid") {
        let (uid, gid) = (rustix::process::Uid::from_raw(id), rustix::process::Gid::from_raw(id));
        rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
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

/// Arguments of a role.
type Options<'a> = [(&'a str, &'a dyn std::fmt::Display)];

/// Starts members of a group, by rank.
fn starts(group: &str, members: u16, more: &Options<'_>) -> impl Fn(u16) -> Process + use<> {
    let mut all = vec![("group".to_string(), group.to_string())];
    all.push(("members".into(), members.to_string()));
    all.extend(more.iter().map(|(key, value)| (key.to_string(), value.to_string())));
    move |rank: u16| {
        let mut options: Vec<(&str, &dyn std::fmt::Display)> = vec![("rank", &rank)];
        options.extend(all.iter().map(|(key, value)| (key.as_str(), value as _)));
        Process::start("stream", &options)
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
        let start = starts(&group, 3, &[("count", &3_000)]);
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
        let more: &Options<'_> =
            &[("many", &true), ("idle", &idle), ("lanes", &lanes), ("count", &count)];
        let start = starts(&group, 3, more);
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
    let start = starts(&group, 3, &[("count", &40_000), ("window", &64), ("progress", &1_000)]);
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
        let more: &Options<'_> = &[("idle", &idle), ("progress", &500), ("reopen", &true)];
        let start = starts(&group, 3, more);
        let mut members: Vec<Process> = (0..3).map(&start).collect();
        let mut last = String::new();
        for _ in 0..20 {
            last = members[usize::from(victim)].expect("progress");
        }
        let mut dead = members.remove(usize::from(victim));
        dead.kill();
        let lines = dead.end().lines;
        // Whoever takes its place may come at once: nobody coordinates this.
        let mut next = starts(&group, 3, &[("idle", &idle), ("count", &2_000)])(victim);
        let more = lines.iter().rev().find_map(|line| line.strip_prefix("progress "));
        let last = more.map_or(last, String::from);
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
        let (count, hash) = last.split_once(' ').unwrap();
        let died_at: u64 = count.parse().unwrap();
        assert!(died_at <= common, "it had delivered {died_at}, the others {numbers:?}");
        assert_eq!(at(died_at), [hash, hash]);
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
    let start = starts(&group, 3, &[("count", &1_000)]);
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
    let start = starts(&group, 3, &[("progress", &1_000)]);
    let mut members: Vec<Process> = (0..3).map(&start).collect();
    members.iter_mut().for_each(|member| drop(member.expect("progress")));
    let during = traces(&group);
    assert!(during.iter().any(|trace| trace.starts_with("socket")));
    members.iter_mut().for_each(Process::kill);
    members.into_iter().for_each(|member| drop(member.end()));
    assert_eq!(traces(&group), [""; 0]);
    // And the name is free.
    let start = starts(&group, 3, &[("count", &100)]);
    let heard = all_agree((0..3).map(start).collect());
    assert_eq!(traces(&group), [""; 0]);
    format!("{} traces while it ran, 0 after, the next group of the name: {heard}", during.len())
}

// ---- garbage ----------------------------------------------------------------------------------

/// A correct member of one group after the other, in each of which rank 2 writes garbage.
fn honest(arguments: &Arguments) {
    support_notes();
    for round in 0..arguments.get::<u64>("rounds").unwrap() {
        let mut config = config(arguments);
        config.group = format!("{}.{round}", config.group);
        let mut member = Member::open(&config, arguments, u64::MAX >> 16);
        let status = member.run();
        member.tell("round", status);
        member.close();
    }
}

/// The shared memory that this process may write: (address, bytes, name).
fn own_memory(group: &str) -> Vec<(u64, u64, String)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mark = format!("memfd:squall-{group}-");
    let mine = maps.lines().filter(|line| line.contains(&mark) && line.contains(" rw-s "));
    mine.map(|line| {
        let (from, upto) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        (number(from), number(upto) - number(from), line.split('/').next_back().unwrap().into())
    })
    .collect()
}

/// A member that takes part properly for a while, then writes garbage into its table and rings,
/// through the kernel's view of its own memory.
fn hostile(arguments: &Arguments) {
    let rounds: u64 = arguments.get("rounds").unwrap();
    for round in 0..rounds {
        let mut config = config(arguments);
        config.group = format!("{}.{round}", config.group);
        let mut numbers = Numbers(arguments.or("seed", 1) * 1_000 + round);
        let mut member = Member::open(&config, arguments, u64::MAX >> 16);
        let enough = numbers.below(3_000);
        let mut pace = Pace::new(config.idle);
        while member.shared.lock().heard[0].count < enough {
            if member.turn(&mut pace).is_err() {
                break;
            }
        }
        // Its own threads must not trip over the garbage.
        member.stop.store(true, Ordering::Relaxed);
        member.threads.drain(..).for_each(|thread| thread.join().unwrap());
        let memory = std::fs::OpenOptions::new().read(true).write(true).open("/proc/self/mem");
        let memory = memory.unwrap();
        let regions = own_memory(&config.group);
        assert!(regions.len() >= 2, "a table and a ring: {regions:?}");
        let (count, kind) = (1 + numbers.below(60), numbers.below(4));
        for _ in 0..count {
            scribble(&memory, &regions, kind, &config, &mut numbers);
            (0..numbers.below(4)).for_each(|_| std::thread::yield_now());
        }
        println!("scribbled {count} of kind {kind}");
        if numbers.below(4) == 0 { member.group.close() } else { drop(member.group) }
    }
}

/// One piece of garbage. Kinds: 0 the counts of the first subgroup, 1 any word of the table, 2 slot
/// headers, 3 bytes anywhere.
fn scribble(
    memory: &std::fs::File,
    regions: &[(u64, u64, String)],
    kind: u64,
    config: &Config,
    numbers: &mut Numbers,
) {
    let layout = config.view().unwrap().layout();
    let (table, table_bytes, name) =
        &regions.iter().find(|(.., name)| name.contains("-table")).unwrap();
    assert!(name.contains("table") && *table_bytes >= layout.control_bytes as u64);
    let ring = &regions[numbers.below(regions.len() as u64) as usize];
    let at = match kind {
        0 => {
            let hot = layout.subgroups[0].slots.byte(0) as u64;
            table
                + hot
                + numbers.below(layout.subgroups[0].released.byte(0) as u64 + 8 - hot) / 8 * 8
        }
        1 => table + numbers.below(layout.control_bytes as u64 / 8) * 8,
        2 => ring.0 + numbers.below(ring.1.min(64 << 10) / 8) * 8,
        _ => ring.0 + numbers.below(ring.1 - 8),
    };
    let mut old = [0; 8];
    memory.read_exact_at(&mut old, at).unwrap();
    let old = u64::from_le_bytes(old);
    let value = match numbers.below(8) {
        0 => 0,
        1 => u64::MAX,
        2 => numbers.word(),
        3 => 1 << 48,
        4 => old.wrapping_sub(1),
        5 => old.wrapping_add(1 + numbers.below(2_000)),
        6 => old ^ 1 << numbers.below(64),
        _ => numbers.below(1 << 20),
    };
    memory.write_all_at(&value.to_le_bytes(), at).unwrap();
}

fn garbage_in_shared_memory_is_cut_off() -> String {
    let mut outcomes: BTreeMap<String, u64> = BTreeMap::new();
    let mut faults: BTreeMap<String, u64> = BTreeMap::new();
    for (seed, idle, many, rounds) in
        [(1u64, "park", false, 60u64), (2, "yield", true, 40), (3, "spin", false, 15)]
    {
        let group = group_name("garbage");
        let start = |role: &str, rank: u16| {
            let lanes = if many { 2 } else { 1 };
            Process::start(
                role,
                &[
                    ("group", &group),
                    ("rank", &rank),
                    ("rounds", &rounds),
                    ("seed", &seed),
                    ("idle", &idle),
                    ("many", &many),
                    // No subgroup goes on without the hostile one.
                    ("together", &true),
                    ("lanes", &lanes),
                    ("window", &64),
                    ("distrusted", &2),
                ],
            )
        };
        let hostile = start("hostile", 2);
        let honest = [start("honest", 0), start("honest", 1)];
        for member in honest {
            let lines = member.end_well();
            let ends = lines.iter().filter_map(|line| line.strip_prefix("round "));
            let mut count = 0;
            for line in ends {
                count += 1;
                let status = line.split(' ').next().unwrap();
                *outcomes.entry(status.into()).or_default() += 1;
                let named = field(line, "rank=");
                assert!(named.is_empty() || named == "2", "an honest member is blamed: {line}");
                assert!(!named.is_empty() || status == "PeerLeft", "{line}");
                if status == "PeerFault" {
                    let why = line.split_once("rank=2 ").unwrap().1;
                    let why: String = why.chars().filter(|c| !c.is_ascii_digit()).collect();
                    *faults.entry(why.chars().take(60).collect()).or_default() += 1;
                }
            }
            assert_eq!(count, rounds, "a round is missing");
        }
        drop(hostile.end());
        assert_eq!(traces(&group), [""; 0]);
    }
    assert!(outcomes.get("PeerFault").copied().unwrap_or(0) >= 20, "{outcomes:?}");
    format!("ends of honest members: {outcomes:?}\nreasons: {faults:#?}")
}

// ---- memory of others -------------------------------------------------------------------------

/// Joins as a member by hand, and tries everything on what it is shown.
fn thief(arguments: &Arguments) {
    let config = config(arguments);
    let view = config.view().unwrap();
    let layout = view.layout();
    let bytes = [layout.control_bytes, layout.rings_bytes(0)];
    let share = |bytes: usize| {
        let made = Region::share("squall-thief", bytes, Want::No, Want::No, &mut Vec::new());
        let descriptor = made.unwrap().1;
        Region::seal(&descriptor).unwrap();
        descriptor
    };
    let (control, ring, bell) = (share(bytes[0]), share(bytes[1]), Bell::new().unwrap());
    let mut socket = None;
    until("rank 0 listens", || {
        socket = Socket::connect(&socket_name(&config.group, 0)).unwrap();
        socket.is_some()
    });
    let socket = socket.unwrap();
    let hello = Hello::new(Kind::Join, 1, true, &config.agreed_text(&view));
    assert!(socket.send(&hello.encode(), &[control.as_fd(), bell.as_fd(), ring.as_fd()]));
    let mut answer = None;
    until("rank 0 answers", || {
        answer = socket.receive();
        answer.is_some()
    });
    let (text, shown) = answer.unwrap().unwrap();
    assert_eq!(Hello::decode(&text).unwrap().kind, Kind::Welcome);
    assert_eq!(shown.len(), 3, "table, bell, ring");
    for (what, descriptor, bytes) in [("table", &shown[0], bytes[0]), ("ring", &shown[2], bytes[1])]
    {
        for (attempt, refused) in attempts(descriptor, bytes) {
            println!("tried {what}: {attempt}: {}", refused.as_deref().unwrap_or("NOT REFUSED"));
        }
        println!("tried {what}: read: {}", Region::map_peer(descriptor, bytes).is_ok());
    }
    commands().next();
}

/// Each way to change another's pages, and how it was refused.
fn attempts(descriptor: &OwnedFd, bytes: usize) -> Vec<(&'static str, Option<String>)> {
    let fd = descriptor.as_raw_fd();
    let error = || Some(std::io::Error::last_os_error().to_string());
    let map = |fd: i32, protection: i32| {
        let (none, shared) = (std::ptr::null_mut(), libc::MAP_SHARED);
        // SAFETY: a new map at an address that the kernel chooses; nothing of ours lies there.
        unsafe { libc::mmap(none, bytes, protection, shared, fd, 0) }
    };
    let writable = libc::PROT_READ | libc::PROT_WRITE;
    let mut tried = Vec::new();
    let mapped = |fd: i32| if map(fd, writable) == libc::MAP_FAILED { error() } else { None };
    tried.push(("mmap for writing", mapped(fd)));
    let read_only = map(fd, libc::PROT_READ);
    assert_ne!(read_only, libc::MAP_FAILED);
    // SAFETY: the map that was just made, which nothing else uses.
    let changed = unsafe { libc::mprotect(read_only, bytes, writable) };
    tried.push(("mprotect for writing", if changed == 0 { None } else { error() }));
    // SAFETY: as above.
    let removed = unsafe { libc::madvise(read_only, bytes, libc::MADV_REMOVE) };
    tried.push(("madvise to remove", if removed == 0 { None } else { error() }));
    let again =
        std::fs::OpenOptions::new().read(true).write(true).open(format!("/proc/self/fd/{fd}"));
    match again {
        Err(cause) => tried.push(("open again", Some(cause.to_string()))),
        Ok(file) => {
            tried.push(("mmap what was opened again", mapped(file.as_raw_fd())));
            let written = file.write_at(b"x", 0).err().map(|cause| cause.to_string());
            tried.push(("write to what was opened again", written));
        }
    }
    // SAFETY: plain system calls on a descriptor that we hold, and bytes that live on.
    unsafe {
        let written = libc::pwrite(fd, b"x".as_ptr().cast(), 1, 0);
        tried.push(("write", if written == 1 { None } else { error() }));
        let cut = libc::ftruncate(fd, 0);
        tried.push(("ftruncate shorter", if cut == 0 { None } else { error() }));
        let grown = libc::ftruncate(fd, 1 << 30);
        tried.push(("ftruncate longer", if grown == 0 { None } else { error() }));
        let kind = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let punched = libc::fallocate(fd, kind, 0, 4096);
        tried.push(("punch a hole", if punched == 0 { None } else { error() }));
        let sealed = libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_WRITE);
        tried.push(("seal against its owner", if sealed == 0 { None } else { error() }));
    }
    tried
}

fn nobody_can_write_into_anothers_memory() -> String {
    let group = group_name("thief");
    let owner = starts(&group, 2, &[("count", &10)])(0);
    let mut thief = Process::start("thief", &[("group", &group), ("members", &2), ("rank", &1)]);
    let mut text = String::new();
    let mut read = 0;
    while read < 2 {
        let line = thief.expect("tried");
        assert!(!line.contains("NOT REFUSED"), "{line}");
        read += u64::from(line.ends_with("read: true"));
        assert!(!line.ends_with("read: false"), "{line}");
        text.push_str(&line);
        text.push('\n');
    }
    drop((thief, owner));
    text
}

// ---- the door ---------------------------------------------------------------------------------

/// Knocks as another user and says what it was told.
fn knock(arguments: &Arguments) {
    confine(arguments);
    let config = config(arguments);
    let view = config.view().unwrap();
    let mut socket = None;
    until("the door takes a visitor", || {
        socket = Socket::connect(&socket_name(&config.group, 0)).unwrap();
        socket.is_some()
    });
    let socket = socket.unwrap();
    socket.send(&Hello::new(Kind::Join, 1, true, &config.agreed_text(&view)).encode(), &[]);
    let mut answer = None;
    until("the door answers", || {
        answer = socket.receive();
        answer.is_some()
    });
    let answer = answer.unwrap().and_then(|(bytes, _)| Hello::decode(&bytes)).unwrap();
    println!("told {:?} {:?}", answer.kind, answer.refusal);
}

/// A connection to a member's door, however many wait there.
fn connect(group: &str, rank: u16) -> Socket {
    let mut socket = None;
    until("the door takes a visitor", || {
        socket = Socket::connect(&socket_name(group, rank)).unwrap();
        socket.is_some()
    });
    socket.unwrap()
}

/// Everybody whom a door may see: silent ones, garbage, and false members. Those who stay.
fn crowd(group: &str, rank: u16, numbers: &mut Numbers) -> Vec<Socket> {
    let mut stay = Vec::new();
    for at in 0..1_000u64 {
        let socket = connect(group, rank);
        let mut bytes: Vec<u8> =
            (0..1 + numbers.below(300)).map(|_| numbers.word() as u8).collect();
        match at % 5 {
            0 => {} // silent
            1 => drop(socket.send(&bytes, &[])),
            2 => {
                let mut text = b"squall 1\nkind=join\nrank=".to_vec();
                text.append(&mut bytes);
                socket.send(&text, &[]);
            }
            3 => drop(socket.send(&Hello::new(Kind::Welcome, 1, false, "config").encode(), &[])),
            _ => drop(socket.send(b"squall 77\n", &[])),
        }
        if at % 20 < 5 {
            stay.push(socket);
        }
    }
    stay
}

/// Visitors with the right words and wrong memory; what each was told.
fn impostors(group: &str, config: &Config) -> Vec<String> {
    let view = config.view().unwrap();
    let layout = view.layout();
    let agreed = config.agreed_text(&view);
    let memory = |bytes: usize, sealed: bool| {
        let made = Region::share("impostor", bytes, Want::No, Want::No, &mut Vec::new());
        let descriptor = made.unwrap().1;
        if sealed {
            Region::seal(&descriptor).unwrap();
        }
        descriptor
    };
    let bell = Bell::new().unwrap();
    let null: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    let whole = memory(layout.control_bytes, true);
    let (open, ring) = (memory(layout.control_bytes, false), memory(layout.rings_bytes(0), true));
    let short_ring = memory(4096, true);
    let cases: [(&str, u16, Vec<&dyn AsFd>); 7] = [
        ("no memory", 1, vec![]),
        ("a table only", 1, vec![&whole]),
        ("an unsealed table", 1, vec![&open, &bell, &ring]),
        ("no memory but a file", 1, vec![&null, &null, &null]),
        ("a short ring", 1, vec![&whole, &bell, &short_ring]),
        ("a rank beyond the group", 9, vec![&whole, &bell, &ring]),
        ("the door's own rank", 0, vec![&whole, &bell, &ring]),
    ];
    let mut told = Vec::new();
    for (what, rank, shown) in cases {
        let socket = connect(group, 0);
        let descriptors: Vec<_> = shown.iter().map(|one| one.as_fd()).collect();
        assert!(socket.send(&Hello::new(Kind::Join, rank, true, &agreed).encode(), &descriptors));
        let mut answer = None;
        until("an impostor is answered", || {
            answer = socket.receive();
            answer.is_some()
        });
        let (bytes, _) = answer.unwrap().expect("an answer, not a hang-up");
        let answer = Hello::decode(&bytes).unwrap();
        assert_eq!(answer.kind, Kind::Refuse, "{what}");
        told.push(format!("{what}: {:?}", answer.refusal.unwrap()));
    }
    told
}

fn strangers_at_the_door_disturb_nobody() -> String {
    let group = group_name("door");
    let arguments: &Options<'_> = &[("count", &60_000), ("window", &64)];
    let start = starts(&group, 2, arguments);
    let first = start(0);
    until("rank 0 listens", || listens(&group, 0));
    let mut numbers = Numbers(3);
    let mut guests = crowd(&group, 0, &mut numbers);
    let mut config = Config::new(&group, 1, 2);
    config.subgroups[0].window = 64;
    config.subgroups[0].message_bytes_max = 1024;
    let told = impostors(&group, &config);
    let mut members = vec![first, start(1)];
    members.iter_mut().for_each(|member| drop(member.expect("open")));
    for rank in [0, 1] {
        guests.extend(crowd(&group, rank, &mut numbers));
    }
    let late = impostors(&group, &config);
    assert!(late.iter().all(|line| line.contains("the group is complete")), "{late:?}");
    let heard = all_agree(members);
    format!("{}\n3000 others knocked, {} stayed; the group: {heard}", told.join("\n"), guests.len())
}

// ---- the name ---------------------------------------------------------------------------------

/// The error of a member that cannot open: its status and sentence.
fn refused(mut member: Process) -> String {
    let line = member.expect("error");
    assert_eq!(member.end().status.code(), Some(3), "{line}");
    line
}

fn two_configurations_are_both_named() -> String {
    let group = group_name("other");
    let with = |window: &u64| starts(&group, 2, &[("window", window), ("count", &100)]);
    let first = with(&256)(0);
    until("rank 0 listens", || listens(&group, 0));
    let arriving = refused(with(&64)(1));
    let same_rank = refused(with(&32)(0));
    let names = |line: &str, theirs: &str| {
        line.starts_with("Mismatch")
            && line.contains("`subgroup.0.window=256`")
            && line.contains(theirs)
    };
    assert!(names(&arriving, "`subgroup.0.window=64`"), "{arriving}");
    assert!(names(&same_rank, "`subgroup.0.window=32`"), "{same_rank}");
    let fewer = refused(starts(&group, 3, &[("window", &256)])(2));
    assert!(fewer.contains("members=2") && fewer.contains("members=3"), "{fewer}");
    let heard = all_agree(vec![first, with(&256)(1)]);
    format!("{arriving}\n{same_rank}\n{fewer}\nthe first group went on: {heard}")
}

fn a_rank_is_open_once() -> String {
    let group = group_name("twice");
    let start = starts(&group, 2, &[("count", &20_000), ("window", &16)]);
    let mut first = start(0);
    until("rank 0 listens", || listens(&group, 0));
    let waiting = refused(start(0));
    let mut second = start(1);
    let pids = [first.expect("open"), second.expect("open")];
    let running = refused(start(1));
    for (line, pid) in [(&waiting, &pids[0]), (&running, &pids[1])] {
        assert!(line.starts_with("InUse") && line.contains(&format!("process {pid}")), "{line}");
    }
    let heard = all_agree(vec![first, second]);
    format!("{waiting}\n{running}\nthe first group went on: {heard}")
}

fn root() -> bool {
    rustix::process::geteuid().is_root()
}

fn another_users_group_is_told_from_ours() -> String {
    if !root() {
        return "SKIPPED: only root can be two users".into();
    }
    let group = group_name("foreign");
    let of = |uid: &u32, rank: u16| {
        let more: &Options<'_> = &[("uid", uid), ("count", &100_000), ("window", &16)];
        starts(&group, 2, more)(rank)
    };
    // Another user holds the name.
    let holder = of(&65534, 0);
    until("rank 0 listens", || listens(&group, 0));
    let (same, next) = (refused(of(&0, 0)), refused(of(&0, 1)));
    for line in [&same, &next] {
        let named = line.contains(&format!("process {} of user 65534", holder.pid()));
        assert!(line.starts_with("ForeignOwner") && named, "{line}");
    }
    let heard = all_agree(vec![holder, of(&65534, 1)]);
    // A foreign visitor comes to ours.
    let holder = of(&0, 0);
    until("rank 0 listens", || listens(&group, 0));
    let visitor = refused(of(&65534, 1));
    assert!(visitor.starts_with("ForeignOwner") && visitor.contains("of user 0"), "{visitor}");
    let knock = || {
        let uid = 65534;
        let arguments: &Options<'_> = &[("group", &group), ("members", &2), ("uid", &uid)];
        Process::start("knock", arguments).expect("told")
    };
    let mut told = vec![knock()];
    let mut members = vec![holder, of(&0, 1)];
    members.iter_mut().for_each(|member| drop(member.expect("open")));
    told.push(knock());
    assert!(told.iter().all(|line| line.contains("belongs to another user")), "{told:?}");
    let ours = all_agree(members);
    format!("{same}\n{next}\n{visitor}\nat the door: {}\ntheirs: {heard}; ours: {ours}", told[0])
}

fn who_is_missing_is_named() -> String {
    let group = group_name("missing");
    let start = starts(&group, 4, &[("timeout_ms", &300)]);
    let alone = refused(start(3));
    assert!(alone.starts_with("NotComplete") && alone.contains("[0, 1, 2]"), "{alone}");
    let (first, third) = (start(0), start(2));
    let lines = [refused(first), refused(third)];
    assert!(lines.iter().any(|line| line.contains("[1, 3]")), "{lines:?}");
    assert_eq!(traces(&group), [""; 0]);
    format!("{alone}\n{}\n{}", lines[0], lines[1])
}

// ---- limits -----------------------------------------------------------------------------------

/// A member alone in its group, with what is to be taken from it.
fn alone(more: &Options<'_>) -> (String, Process) {
    let group = group_name("alone");
    let member = starts(&group, 1, more)(0);
    (group, member)
}

/// Runs it to its end: what it said.
fn runs(more: &Options<'_>) -> Vec<String> {
    let mut all: Vec<(&str, &dyn std::fmt::Display)> = vec![("count", &100)];
    all.extend(more.iter().copied());
    let (_, mut member) = alone(&all);
    let mut lines = Vec::new();
    loop {
        let line = member.line().unwrap_or_else(|| panic!("{lines:?}"));
        let done = line.starts_with("done") || line.starts_with("error");
        lines.push(line);
        if done {
            break;
        }
    }
    member.say("close");
    drop(member.end_well());
    assert!(lines.last().unwrap().starts_with("done Ok heard=100:"), "{lines:?}");
    lines
}

fn the_lock_limit_is_named() -> String {
    if !root() {
        return "SKIPPED: only root can lower its user".into();
    }
    let confined: &Options<'_> = &[("memlock", &65536), ("uid", &65534)];
    let with = |lock: &'static &'static str| {
        let mut all: Vec<(&str, &dyn std::fmt::Display)> = vec![("lock", lock)];
        all.extend(confined.iter().copied());
        all
    };
    let line = refused(alone(&with(&"require")).1);
    let named = line.contains("RLIMIT_MEMLOCK is 0.1 MiB") && line.contains("ulimit -l");
    assert!(line.starts_with("Limit") && named, "{line}");
    let lines = runs(&with(&"try"));
    let warned = lines.iter().find(|line| line.starts_with("note Warning"));
    let warned = warned.unwrap_or_else(|| panic!("{lines:?}"));
    assert!(warned.contains("RLIMIT_MEMLOCK") && warned.contains("swapped out"), "{warned}");
    // Where it is allowed, the pages are locked.
    let (group, mut member) = alone(&[("lock", &"require"), ("count", &10)]);
    member.expect("done");
    let status = std::fs::read_to_string(format!("/proc/{}/status", member.pid())).unwrap();
    let locked = status.lines().find(|line| line.starts_with("VmLck")).unwrap().to_string();
    assert!(!locked.ends_with(" 0 kB"), "{locked}");
    drop((group, member));
    format!("{line}\n{warned}\nallowed: {locked}")
}

fn huge_pages() -> [u64; 2] {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    ["HugePages_Total:", "HugePages_Free:"].map(|key| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.map_or(0, |line| line.trim().parse().unwrap())
    })
}

fn missing_huge_pages_are_named() -> String {
    if huge_pages() != [0, 0] {
        return format!("SKIPPED: huge pages are reserved here: {:?}", huge_pages());
    }
    let line = refused(alone(&[("huge", &"require")]).1);
    assert!(line.starts_with("Limit") && line.contains("sysctl vm.nr_hugepages="), "{line}");
    let lines = runs(&[("huge", &"try")]);
    let warned = lines.iter().find(|line| line.starts_with("note Warning"));
    let warned = warned.unwrap_or_else(|| panic!("{lines:?}"));
    assert!(warned.contains("ordinary pages are used"), "{warned}");
    format!("{line}\n{warned}")
}

/// Gives the huge pages back however the test ends.
struct Reserved(String);

const NR_HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";

impl Drop for Reserved {
    fn drop(&mut self) {
        let _ = std::fs::write(NR_HUGEPAGES, &self.0);
    }
}

fn huge_pages_work() -> String {
    let Ok(before) = std::fs::read_to_string(NR_HUGEPAGES) else {
        return "SKIPPED: this kernel has no huge pages".into();
    };
    // Two members with a table and a ring each, and nothing to spare.
    let need = 4;
    let [total, free] = huge_pages();
    if std::fs::write(NR_HUGEPAGES, (total - free + need).to_string()).is_err() {
        return "SKIPPED: only root can reserve huge pages".into();
    }
    let _back = Reserved(before);
    if huge_pages()[1] < need {
        return format!("SKIPPED: the kernel found no room for {need} huge pages");
    }
    let group = group_name("huge");
    let more: &Options<'_> = &[("huge", &"require"), ("count", &3_000), ("repeat", &3)];
    let start = starts(&group, 2, more);
    let mut members: Vec<Process> = (0..2).map(start).collect();
    for _ in 0..2 {
        // Each group needs the pages of the one before: it must have given all of them back.
        members.iter_mut().for_each(|member| drop(heard_of(&member.expect("repeated"))));
        members.iter_mut().for_each(|member| member.say("next"));
    }
    members.iter_mut().for_each(|member| drop(heard_of(&member.expect("done"))));
    let mut huge = Vec::new();
    for member in &members {
        let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", member.pid())).unwrap();
        let mut inside = false;
        let mut pages = 0;
        for line in smaps.lines() {
            if line.contains("memfd:") {
                inside = line.contains(&format!("squall-{group}-"));
            }
            pages += u64::from(
                inside && line.starts_with("KernelPageSize:") && line.contains("2048 kB"),
            );
        }
        huge.push(pages);
    }
    assert_eq!(huge, [4, 4], "maps of huge pages: own and foreign table and ring");
    members.iter_mut().for_each(|member| member.say("close"));
    members.into_iter().for_each(|member| drop(member.end_well()));
    assert_eq!(huge_pages()[1], need, "all are free again");
    format!("3 groups one after the other in the same {need} pages; maps per member: {huge:?}")
}

fn missing_memory_is_named() -> String {
    let gib: u64 = 1 << 30;
    let absurd = refused(alone(&[("window_bytes", &(8 * gib)), ("lanes", &8)]).1);
    assert!(absurd.starts_with("NoMemory") && absurd.contains("65536.0 MiB"), "{absurd}");
    assert!(absurd.contains("use a smaller window"), "{absurd}");
    let space = refused(alone(&[("window_bytes", &gib), ("as", &(gib / 2))]).1);
    assert!(space.starts_with("NoMemory") && space.contains("1024.0 MiB"), "{space}");
    let file = refused(alone(&[("window_bytes", &(64 << 20)), ("fsize", &(1 << 20))]).1);
    assert!(file.starts_with("Limit") && file.contains("64.0 MiB"), "{file}");
    assert!(file.contains("RLIMIT_FSIZE is 1.0 MiB") && file.contains("ulimit -f"), "{file}");
    format!("{absurd}\n{space}\n{file}")
}

fn the_descriptor_limit_is_named() -> String {
    let check = |line: &str, limit: u64| {
        let named = line.starts_with("Limit") && line.contains("ulimit -n");
        assert!(named, "with {limit} descriptors: {line}");
    };
    let mut text = String::new();
    for limited in [0u16, 1] {
        let mut limit = 4;
        let mut sentences: Vec<String> = Vec::new();
        // One more descriptor each time, until it is enough. A fresh group each time: who has met
        // the one that gives up may have met all, and go on without waiting for a successor.
        loop {
            let group = group_name("descriptors");
            let more: &Options<'_> = &[("count", &100), ("many", &true), ("timeout_ms", &20_000)];
            let mut members: Vec<Process> = Vec::new();
            for rank in 0..3 {
                let all = [more, &[("nofile", &limit)]].concat();
                let confined = rank == limited;
                members.push(starts(&group, 3, if confined { &all } else { more })(rank));
            }
            let mut member = members.remove(usize::from(limited));
            let line = loop {
                let line = member.line().expect("it says how it went");
                if line.starts_with("error") || line.starts_with("done") {
                    break line;
                }
            };
            if line.starts_with("done") {
                members.push(member);
                all_are_done(members);
                break;
            }
            check(line.strip_prefix("error ").unwrap(), limit);
            assert_eq!(member.end().status.code(), Some(3));
            sentences.push(line.split(": ").nth(1).unwrap_or("").to_string());
            limit += 1;
            assert!(limit < 200, "never enough");
        }
        sentences.dedup();
        text.push_str(&format!("rank {limited}: {limit} are enough; with fewer: {sentences:?}\n"));
    }
    text
}

fn all_are_done(mut members: Vec<Process>) {
    members.iter_mut().for_each(|member| member.say("close"));
    members.into_iter().for_each(|member| drop(member.end_well()));
}
