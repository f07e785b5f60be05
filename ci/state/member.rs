// SPDX-License-Identifier: MIT OR Apache-2.0
//! A member with a state: fixed bytes, and counters that every message changes; and a crew of them.

#![allow(dead_code, reason = "the test and the bench use their parts")]

use crate::support::sites::{Sites, network};
use crate::support::{Arguments, Process, group_name, until};
use squall::driver::Application;
use squall::driver::config::{Changes, Config, Idle};
use squall::driver::group::Group;
use squall::driver::views::ViewInfo;
use squall::error::{Error, Status};
use squall::log_sink;
use squall::mem::Message;
use squall::sst::layout::Mode;
use squall::transfer::{CATCHUP, Checkpoint, StateSink, StateSource, Version};
use std::io::BufRead;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const COUNTERS: usize = 1 << 12;
const MESSAGE_BYTES: usize = 100;
pub const MIB: usize = 1 << 20;
/// What a process of the crew is, for `support::main`.
pub const ROLE: &str = "stateful";

/// The state.
#[derive(Clone, Default)]
struct Store {
    fixed: Arc<Vec<u8>>,
    counters: Vec<u64>,
    applied: u64,
}

/// What the polling thread tells the one that takes orders.
#[derive(Default)]
struct Seen {
    applied: AtomicU64,
    caught_up: AtomicU64,
    /// Between the end of one delivery and the beginning of the next, less `checkpoint_open`.
    longest_gap_ns: AtomicU64,
    open_ns: AtomicU64,
    order: AtomicU64,
}

struct Member {
    /// Only for the polling thread, which is also the one that asks for sums.
    store: Arc<Mutex<Store>>,
    /// Founders have none to take; members without a state none to give.
    takes: bool,
    gives: bool,
    /// On receipt there is no order of all messages.
    received: bool,
    coming: Vec<u8>,
    told_mib: usize,
    slow: Duration,
    /// For each batch that comes after the state.
    slow_apply: Duration,
    last: Instant,
    seen: Arc<Seen>,
}

impl Store {
    fn new(bytes: usize) -> Store {
        let words = (0..bytes as u64 / 8).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let fixed = Arc::new(words.flat_map(u64::to_le_bytes).collect());
        Store { fixed, counters: vec![0; COUNTERS], applied: 0 }
    }

    fn apply(&mut self, bytes: &[u8]) {
        let word = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        let at = (word ^ self.applied) as usize % COUNTERS;
        self.counters[at] = self.counters[at].rotate_left(7) ^ word ^ self.applied;
        self.applied += 1;
    }

    /// The same whatever the order.
    fn count(&mut self, bytes: &[u8]) {
        let word = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        let counter = &mut self.counters[word as usize % COUNTERS];
        *counter = counter.wrapping_add(word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        self.applied += 1;
    }

    fn take(&mut self, batch: &[Message], received: bool) {
        for message in batch {
            if received { self.count(message.bytes()) } else { self.apply(message.bytes()) }
        }
    }

    fn changing(&self) -> Vec<u8> {
        let words = self.counters.iter().chain(std::iter::once(&self.applied));
        words.flat_map(|word| word.to_le_bytes()).collect()
    }

    fn checksum(&self) -> String {
        format!("{:08x}-{:08x}", crc32c::crc32c(&self.fixed), crc32c::crc32c(&self.changing()))
    }
}

/// What changes, copied; then what is fixed.
struct Fixed(Vec<u8>, Arc<Vec<u8>>, usize);

impl Checkpoint for Fixed {
    fn read(&mut self, place: &mut [u8]) -> Result<usize, Error> {
        let Fixed(first, second, at) = self;
        let rest = if *at < first.len() { &first[*at..] } else { &second[*at - first.len()..] };
        let len = rest.len().min(place.len());
        place[..len].copy_from_slice(&rest[..len]);
        *at += len;
        Ok(len)
    }
}

impl StateSource for Member {
    fn checkpoint_open(&mut self, _version: &Version) -> Result<Box<dyn Checkpoint>, Error> {
        let start = Instant::now();
        let store = self.store.lock().unwrap();
        let fixed = Fixed(store.changing(), store.fixed.clone(), 0);
        self.last += start.elapsed();
        self.seen.open_ns.store(start.elapsed().as_nanos() as u64, Relaxed);
        Ok(Box::new(fixed))
    }
}

impl StateSink for Member {
    fn begin(&mut self, _version: &Version) -> Result<(), Error> {
        println!("begin");
        *self.store.lock().unwrap() = Store::default();
        self.coming.clear();
        self.told_mib = 0;
        Ok(())
    }

    fn load(&mut self, chunk: &[u8]) -> Result<(), Error> {
        if !self.slow.is_zero() {
            std::thread::sleep(self.slow);
        }
        self.coming.extend_from_slice(chunk);
        while self.coming.len() >> 20 > self.told_mib {
            self.told_mib += 1;
            println!("load {}", self.told_mib);
        }
        Ok(())
    }

    fn loaded(&mut self) -> Result<(), Error> {
        println!("loaded");
        let fixed = self.coming.split_off(8 * COUNTERS + 8);
        let words = self.coming.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
        let mut counters: Vec<u64> = words.collect();
        let applied = counters.pop().unwrap();
        *self.store.lock().unwrap() = Store { fixed: Arc::new(fixed), counters, applied };
        Ok(())
    }

    fn deliver(&mut self, _subgroup: u16, batch: &[Message]) {
        assert!(batch.iter().all(|message| message.flags == CATCHUP));
        std::thread::sleep(self.slow_apply);
        self.store.lock().unwrap().take(batch, self.received);
        self.seen.caught_up.fetch_add(batch.len() as u64, Relaxed);
    }
}

impl Application for Member {
    fn deliver(&mut self, _subgroup: u16, batch: &[Message]) {
        let gap = self.last.elapsed().as_nanos() as u64;
        self.seen.longest_gap_ns.fetch_max(gap, Relaxed);
        assert!(batch.iter().all(|message| message.flags == 0));
        let mut store = self.store.lock().unwrap();
        store.take(batch, self.received);
        self.seen.applied.store(store.applied, Relaxed);
        self.last = Instant::now();
    }

    fn view(&mut self, view: &ViewInfo) {
        println!("view {} {}", view.epoch, view.members.len());
        self.seen.applied.store(self.store.lock().unwrap().applied, Relaxed);
    }

    fn source(&mut self) -> Option<&mut dyn StateSource> {
        if self.gives { Some(self) } else { None }
    }

    fn sink(&mut self) -> Option<&mut dyn StateSink> {
        if self.takes { Some(self) } else { None }
    }

    fn stopped(&mut self, status: Status, _: Option<squall::error::Suspicion>) {
        println!("stopped {status:?}");
    }
}

const GO: u64 = 1;
const REST: u64 = 2;
const SUM: u64 = 3;
const LEAVE: u64 = 4;

/// The role: arguments group, rank, members, join, idle, bytes, slow, slowapply, openms, far, rate,
/// window, id, and those of `sites::network`.
pub fn member(arguments: &Arguments) {
    log_sink::set(Some(Box::new(|level, text| eprintln!("{level:?}: {text}"))));
    let (group, rank) = (arguments.text("group").unwrap(), arguments.or("rank", 0));
    let mut config = Config::new(group, rank, arguments.or("members", 3));
    config.membership = Changes::Views;
    config.join = arguments.or("join", false);
    config.subgroups[0].window = arguments.or("window", 256);
    config.subgroups[0].message_bytes_max = 1024;
    let received = arguments.or("received", false);
    if received {
        config.subgroups[0].mode = Mode::Received;
    }
    network(&mut config, arguments);
    config.transfer.near_messages = u64::from(config.subgroups[0].window);
    config.transfer.patience = Duration::from_millis(arguments.or("patience", 30_000));
    if arguments.or("far", false) {
        // The join is asked for however much is missing, and nobody loses patience.
        let transfer = &mut config.transfer;
        (transfer.near_messages, transfer.near_bytes) =
            (1 << 40, transfer.catchup_bytes as u64 / 4);
        config.suspicion_ns = 30_000_000_000;
    }
    if let Some(ms) = arguments.get("openms") {
        config.open_timeout = Duration::from_millis(ms);
    }
    config.idle = if arguments.text("idle") == Some("yield") { Idle::Yield } else { Idle::Park };
    let (bytes, id): (usize, u64) = (arguments.or("bytes", 0), arguments.get("id").unwrap());
    let seen = Arc::new(Seen::default());
    let store = if config.join { Store::default() } else { Store::new(bytes) };
    let store = Arc::new(Mutex::new(store));
    let application = Member {
        store: store.clone(),
        takes: config.join,
        gives: bytes > 0,
        received,
        coming: Vec::new(),
        told_mib: 0,
        slow: Duration::from_millis(arguments.or("slow", 0)),
        slow_apply: Duration::from_millis(arguments.or("slowapply", 0)),
        last: Instant::now(),
        seen: seen.clone(),
    };
    let mut group = Group::open(&config, Box::new(application)).unwrap_or_else(|error| {
        println!("error {:?}: {error}", error.status);
        std::process::exit(3);
    });
    println!("open");
    let mut sender = group.sender(0, 0).unwrap();
    let (theirs, bell) = (seen.clone(), group.waker());
    seen.order.store(GO, Relaxed);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let load = |of: &AtomicU64| of.load(Relaxed);
            match line.as_str() {
                "go" => theirs.order.store(GO, Relaxed),
                "rest" => theirs.order.store(REST, Relaxed),
                "sum" => theirs.order.store(SUM, Relaxed),
                "leave" => theirs.order.store(LEAVE, Relaxed),
                "delivered" => println!("delivered {}", load(&theirs.applied)),
                "caughtup" => println!("caughtup {}", load(&theirs.caught_up)),
                "gap" => println!("gap {}", theirs.longest_gap_ns.swap(0, Relaxed)),
                "opened" => println!("opened {}", theirs.open_ns.load(Relaxed)),
                _ => continue,
            }
            bell.iter().for_each(|bell| bell.ring_always());
        }
    });
    let (mut sent, mut bytes, start) = (0u64, vec![id as u8; MESSAGE_BYTES], Instant::now());
    let rate: u64 = arguments.or("rate", 5000);
    loop {
        let order = seen.order.load(Relaxed);
        let due = start.elapsed().as_micros() as u64 * rate / 1_000_000;
        for _ in 0..due.saturating_sub(sent).min(512) {
            if order != GO {
                sent = due;
                break;
            }
            bytes[..8].copy_from_slice(&(id << 40 | sent).to_le_bytes());
            if sender.send(&bytes).is_err() {
                break;
            }
            sent += 1;
        }
        if order == LEAVE {
            group.control().unwrap().leave();
        }
        if order == SUM {
            seen.order.store(REST, Relaxed); // before the parent says the next thing
            let store = store.lock().unwrap();
            println!("sum {} {}", store.applied, store.checksum());
        }
        match group.turn(u32::MAX) {
            Ok(turn) if turn.busy => {}
            Ok(_) => drop(group.wait(Some(Duration::from_millis(1)))),
            Err(status) => {
                println!("over {status:?}");
                return;
            }
        }
    }
}

/// A member's process.
pub struct One {
    pub process: Process,
    id: u64,
}

pub struct Crew {
    group: String,
    pub plan: Plan,
    pub sites: Sites,
    folder: PathBuf,
    pub members: Vec<One>,
    ids: u64,
}

impl Drop for Crew {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What its members are.
#[derive(Clone)]
pub struct Plan {
    pub founders: u16,
    /// Of the state.
    pub bytes: usize,
    pub idle: &'static str,
    /// Messages a second of each member, and of each that joins.
    pub rate: u64,
    pub rate_joined: u64,
    pub window: u32,
    /// Joins are asked for however far behind the joiner is, and it is slow to apply what it lacks.
    pub far: bool,
    /// Messages are delivered on receipt.
    pub received: bool,
    pub patience_ms: u64,
}

impl Plan {
    pub fn new(founders: u16, bytes: usize, idle: &'static str) -> Plan {
        let (rate, rate_joined, window, received) = (5000, 5000, 256, false);
        let (far, patience_ms) = (false, 30_000);
        Plan { founders, bytes, idle, rate, rate_joined, window, far, received, patience_ms }
    }
}

impl Crew {
    pub fn start(what: &str, founders: u16, bytes: usize, idle: &'static str) -> Crew {
        Crew::of(what, Plan::new(founders, bytes, idle))
    }

    pub fn of(what: &str, plan: Plan) -> Crew {
        Crew::on(what, plan, Sites::here("shm".into()))
    }

    /// The same, somewhere else.
    pub fn on(what: &str, plan: Plan, sites: Sites) -> Crew {
        let group = group_name(what);
        let folder = std::env::temp_dir().join(&group);
        std::fs::create_dir_all(&folder).unwrap();
        let mut crew = Crew { group, plan, sites, folder, members: Vec::new(), ids: 0 };
        for rank in 0..crew.plan.founders {
            crew.add(rank, false, 0, 60_000);
        }
        crew.members.iter_mut().for_each(|one| drop(one.process.expect("view 1")));
        crew
    }

    /// Starts one that joins and takes so many milliseconds for each piece of the state.
    pub fn join(&mut self, slow: u64) -> usize {
        self.join_within(slow, 60_000)
    }

    /// The same; without a state it would not wait longer than so many milliseconds.
    pub fn join_within(&mut self, slow: u64, open_ms: u64) -> usize {
        self.add(0, true, slow, open_ms)
    }

    fn add(&mut self, rank: u16, join: bool, slow: u64, open_ms: u64) -> usize {
        self.ids += 1;
        let others = match join {
            true => self.sites.addresses(self.members.iter().map(|one| one.id)),
            false => self.sites.addresses(1..=u64::from(self.plan.founders)),
        };
        let process = Process::start_in(
            self.sites.namespace(self.ids),
            ROLE,
            &[
                ("fabric", &self.sites.fabric),
                ("listen", &self.sites.address(self.ids)),
                ("others", &others),
                ("secret", &self.sites.secret(&self.folder)),
                ("group", &self.group),
                ("rank", &rank),
                ("members", &self.plan.founders),
                ("join", &join),
                ("idle", &self.plan.idle),
                ("bytes", &self.plan.bytes),
                ("rate", if join { &self.plan.rate_joined } else { &self.plan.rate }),
                ("window", &self.plan.window),
                ("far", &self.plan.far),
                ("slowapply", if join && self.plan.far { &20 } else { &0 }),
                ("received", &self.plan.received),
                ("patience", &self.plan.patience_ms),
                ("slow", &slow),
                ("openms", &open_ms),
                ("id", &self.ids),
            ],
        );
        self.members.push(One { process, id: self.ids });
        self.members.len() - 1
    }

    /// Until that one is in a view of so many, or more.
    pub fn joined(&mut self, at: usize, least: usize) {
        loop {
            let said = self.members[at].process.expect("view");
            let members: usize = said.split(' ').nth(1).unwrap().parse().unwrap();
            if members >= least {
                return;
            }
        }
    }

    pub fn ask(&mut self, at: usize, what: &str) -> u64 {
        self.members[at].process.say(what);
        self.members[at].process.expect(what).parse().unwrap()
    }

    pub fn delivered(&mut self, at: usize) -> u64 {
        self.ask(at, "delivered")
    }

    pub fn caught_up(&mut self, at: usize) -> u64 {
        self.ask(at, "caughtup")
    }

    /// Until all deliver.
    pub fn delivers(&mut self) {
        for at in 0..self.members.len() {
            until("it delivers", || self.delivered(at) > 0);
        }
    }

    pub fn kill(&mut self, at: usize) {
        self.members.remove(at).process.kill();
    }

    pub fn leave(&mut self, at: usize) {
        let mut one = self.members.remove(at);
        one.process.say("leave");
        let lines = one.process.end_well();
        assert!(lines.iter().any(|line| line == "over Left"), "{lines:?}");
    }

    /// All rest, and have the same state then.
    pub fn agree(&mut self) -> String {
        self.members.iter_mut().for_each(|one| one.process.say("rest"));
        let count = self.members.len();
        let mut before = Vec::new();
        until("all have delivered the same", || {
            let now: Vec<u64> = (0..count).map(|at| self.delivered(at)).collect();
            let same = now.iter().all(|one| *one == now[0]) && now == before;
            before = now;
            std::thread::sleep(Duration::from_millis(20));
            same
        });
        self.members.iter_mut().for_each(|one| one.process.say("sum"));
        let sums: Vec<String> =
            self.members.iter_mut().map(|one| one.process.expect("sum")).collect();
        assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
        sums[0].clone()
    }

    /// All leave at once.
    pub fn leave_all(mut self) {
        self.members.iter_mut().for_each(|one| one.process.say("leave"));
        for one in std::mem::take(&mut self.members) {
            let lines = one.process.end_well();
            assert!(lines.iter().any(|line| line == "over Left"), "{lines:?}");
        }
    }
}
