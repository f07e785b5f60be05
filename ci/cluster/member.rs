// SPDX-License-Identifier: MIT OR Apache-2.0
//! A member that sends, delivers and writes both down; and the cluster of such members.

#![allow(dead_code, reason = "each test program uses its part")]

use crate::support::sites::{Host, Sites, network};
use crate::support::{Arguments, Numbers, Process, group_name};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Resource, Rlimit, setrlimit};
use squall::base::Versions;
use squall::driver::Application;
use squall::driver::config::{Changes, Config, Idle, OwnPolicy};
use squall::driver::control::Control;
use squall::driver::group::{Group, Sender};
use squall::driver::views::ViewInfo;
use squall::error::{Error, Status, Suspicion};
use squall::group::policy::assignment::Assignment;
use squall::group::policy::{Candidate, Placed, Policy, Rules, Standard};
use squall::limits::SUSPICION_NS_DEFAULT;
use squall::mem::Message;
use squall::sst::layout::Mode;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What a message says: whose it is, its place in that lane, and filler that follows from both.
pub fn content(id: u64, ordinal: u64, into: &mut Vec<u8>) {
    into.clear();
    into.extend_from_slice(&id.to_le_bytes());
    into.extend_from_slice(&ordinal.to_le_bytes());
    let mut numbers = Numbers(id << 40 ^ ordinal);
    let more = numbers.below(if ordinal % 50 == 0 { 900 } else { 90 });
    into.extend(
        (0..more).map(|at| (ordinal.wrapping_mul(31).wrapping_add(at * 7 + id) >> 3) as u8),
    );
}

/// Writes everything down, a system call per batch: what is written survives the process.
struct Scribe {
    file: File,
    text: String,
    expected: Vec<u8>,
    own: Arc<AtomicU64>,
    id: u64,
    opened: bool,
    /// The wire version.
    wire: u16,
    /// For the parent: every so many messages.
    count: u64,
    viewed: Arc<AtomicU64>,
    trouble: Arc<AtomicBool>,
    naps: Naps,
}

/// How long callbacks take that say that they live: that of the second view, and the first delivery in
/// it.
#[derive(Clone, Default)]
struct Naps {
    time: Duration,
    left: u32,
    control: Arc<Mutex<Option<Control>>>,
}

impl Naps {
    fn nap(&mut self, left: u32) {
        if self.left != left || self.time.is_zero() {
            return;
        }
        self.left -= 1;
        let start = Instant::now();
        while start.elapsed() < self.time {
            if let Some(control) = &*self.control.lock().unwrap() {
                control.keep_alive();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        println!("napped");
    }
}

impl Scribe {
    fn put(&mut self) {
        self.file.write_all(self.text.as_bytes()).unwrap();
        self.text.clear();
    }
}

impl Application for Scribe {
    fn deliver(&mut self, subgroup: u16, batch: &[Message]) {
        for message in batch {
            let word = |at: usize| {
                message
                    .bytes()
                    .get(at..at + 8)
                    .map_or(u64::MAX, |bytes| u64::from_le_bytes(bytes.try_into().expect("eight")))
            };
            let (id, ordinal) = (word(0), word(8));
            content(id, ordinal, &mut self.expected);
            if self.expected != message.bytes() {
                self.trouble.store(true, Ordering::Relaxed);
                println!("trouble: {id} {ordinal} says {:?}", message.bytes());
            }
            writeln!(self.text, "d {subgroup} {id} {ordinal} {}", message.number).unwrap();
            if id == self.id {
                self.own.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.count += batch.len() as u64;
        self.put();
        if self.viewed.swap(0, Ordering::Relaxed) != 0 {
            self.naps.nap(1);
            println!("first {}", self.count);
        }
    }

    fn view(&mut self, view: &ViewInfo) {
        let members: Vec<String> =
            view.members.iter().map(|member| member.incarnation.to_string()).collect();
        writeln!(self.text, "v {} {} {}", view.epoch, view.rank, members.join(",")).unwrap();
        self.put();
        let left: Vec<String> =
            view.left.iter().map(|(member, fault)| format!("{}: {fault}", member.seat)).collect();
        if !std::mem::replace(&mut self.opened, true) {
            println!("me {}", view.members[usize::from(view.rank)].incarnation);
        }
        println!("view {} {} {} {left:?}", view.epoch, view.members.len(), members.join(","));
        if std::mem::replace(&mut self.wire, view.wire) != view.wire {
            println!("wire {}", view.wire);
        }
        if view.epoch > 1 {
            self.naps.nap(2);
        }
        let lacks: u16 = view.parts.iter().map(|part| part.lacks).sum();
        if lacks > 0 {
            println!("waits {lacks}");
        }
        self.viewed.store(1, Ordering::Relaxed);
    }

    fn lacks(&mut self, error: &Error) {
        println!("short {:?} {error}", error.status);
    }

    fn stopped(&mut self, status: Status, suspicion: Option<Suspicion>) {
        writeln!(self.text, "s {status:?}").unwrap();
        self.put();
        println!("stopped {status:?} {suspicion:?}");
    }
}

/// The role: arguments group, rank, members, idle, id, file.
pub fn member(arguments: &Arguments) {
    let (group, rank) = (arguments.text("group").unwrap(), arguments.or("rank", 0));
    let mut config = Config::new(group, rank, arguments.or("members", 3));
    config.membership = Changes::Views;
    config.join = arguments.or("join", false);
    config.subgroups[0].window = arguments.or("window", 256);
    config.subgroups[0].message_bytes_max = 1024;
    if arguments.or("received", false) {
        config.subgroups[0].mode = Mode::Received;
    }
    config.subgroups[0].window_bytes = arguments.or("window_bytes", 0);
    config.subgroups[0].shards.members_min = arguments.or("members_min", 0);
    config.policy = match arguments.text("policy") {
        Some("same") => Some(OwnPolicy(Arc::new(Standard))),
        Some("odd") => Some(OwnPolicy(Arc::new(odd))),
        _ => None,
    };
    config.idle = match arguments.text("idle") {
        Some("yield") => Idle::Yield,
        Some("spin") => Idle::Spin,
        _ => Idle::Park,
    };
    if let Some(time) = arguments.get::<u64>("suspicion_ms") {
        config.suspicion_ns = time * 1_000_000;
    }
    if let Some(most) = arguments.get("descriptors") {
        limit(Resource::Nofile, most);
    }
    let versions = arguments.text("versions");
    config.versions = versions.map_or(Versions::OURS, |text| Versions::parse(text).unwrap());
    network(&mut config, arguments);
    let id: u64 = arguments.get("id").unwrap();
    if arguments.or("notes", false) {
        squall::log_sink::set(Some(Box::new(|level, text| println!("note {level:?} {text}"))));
    }
    let own = Arc::new(AtomicU64::new(0));
    let trouble = Arc::new(AtomicBool::new(false));
    let time = Duration::from_millis(arguments.or("nap_ms", 0));
    let naps = Naps { time, left: 2, ..Naps::default() };
    let scribe = Scribe {
        naps: naps.clone(),
        file: File::create(arguments.text("file").unwrap()).unwrap(),
        text: String::new(),
        expected: Vec::new(),
        own: own.clone(),
        id,
        opened: false,
        wire: 1,
        count: 0,
        viewed: Arc::default(),
        trouble: trouble.clone(),
    };
    let group = Group::open(&config, Box::new(scribe)).unwrap_or_else(|error| {
        println!("error {:?}: {error}", error.status);
        std::process::exit(3);
    });
    println!("open");
    *naps.control.lock().unwrap() = group.control();
    let orders = Arc::new(AtomicU64::new(GO));
    let (to, bell, delivered) = (orders.clone(), group.waker(), own.clone());
    let (started, starts) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let lines = std::io::stdin().lock().lines();
        started.send(()).unwrap();
        for line in lines.map_while(Result::ok) {
            let order = match line.as_str() {
                "go" => GO,
                "rest" => REST,
                "leave" => LEAVE,
                "close" => CLOSE,
                "own" => {
                    println!("own {}", delivered.load(Ordering::Relaxed));
                    continue;
                }
                _ => continue,
            };
            to.store(order, Ordering::Relaxed);
            if let Some(bell) = &bell {
                bell.ring_always();
            }
        }
    });
    starts.recv().unwrap(); // a thread that cannot map its signal stack ends the process
    confine(arguments);
    let (bytes, numbers) = (Vec::new(), Numbers(id));
    let pace = Duration::from_micros(arguments.or("pace_us", 0));
    let burst = Instant::now();
    let by_descriptor = arguments.text("idle") == Some("descriptor");
    let (sent, waits) = (0, false);
    Running { group, orders, own, id, sent, bytes, numbers, by_descriptor, pace, burst, waits }
        .run();
    assert!(!trouble.load(Ordering::Relaxed), "a message was not what was sent");
}

fn limit(resource: Resource, most: u64) {
    let maximum = rustix::process::getrlimit(resource).maximum;
    setrlimit(resource, Rlimit { current: Some(most), maximum }).unwrap();
}

/// From now on it may open only so many descriptors more, or map only so much.
fn confine(arguments: &Arguments) {
    if let Some(more) = arguments.get::<u64>("more_descriptors") {
        let free = File::open("/dev/null").unwrap();
        limit(Resource::Nofile, free.as_raw_fd() as u64 + more);
    }
    if let Some(more) = arguments.get::<u64>("more_mib") {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
        let kib: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
        limit(Resource::As, (kib << 10) + (more << 20));
    }
}

/// Of three members it lets two send: nobody else's policy does.
fn odd(rules: &Rules, all: &[Candidate], before: &Assignment) -> Result<Placed, String> {
    let placed = Standard.place(rules, all, before)?;
    let two = vec![placed.assignment.shards[0].iter().copied().take(2).collect()];
    Ok(Placed { senders: (all.len() == 3).then_some(two), ..placed })
}

const GO: u64 = 1;
const REST: u64 = 2;
const LEAVE: u64 = 3;
const CLOSE: u64 = 4;

struct Running {
    group: Group,
    orders: Arc<AtomicU64>,
    own: Arc<AtomicU64>,
    id: u64,
    sent: u64,
    bytes: Vec<u8>,
    numbers: Numbers,
    /// Sleeps as an event loop does.
    by_descriptor: bool,
    /// At least so long between two bursts, and when the last one was.
    pace: Duration,
    burst: Instant,
    /// The last send was refused for want of members.
    waits: bool,
}

impl Running {
    fn run(mut self) {
        let mut sender = self.group.sender(0, 0).unwrap();
        let mut told = false;
        loop {
            let order = self.orders.load(Ordering::Relaxed);
            match order {
                GO => {
                    told = false;
                    self.burst(&mut sender);
                }
                REST if !told && self.own.load(Ordering::Relaxed) == self.sent => {
                    println!("rests {}", self.sent);
                    told = true;
                }
                LEAVE => self.group.control().expect("views change").leave(),
                CLOSE => {
                    println!("sent {}", self.sent);
                    self.group.close();
                    return;
                }
                _ => {}
            }
            match self.group.turn(u32::MAX) {
                Ok(turn) if turn.busy => {}
                Ok(_) if order == GO && self.pace.is_zero() => std::thread::yield_now(),
                Ok(_) if order == REST && self.by_descriptor => {
                    if self.group.arm() == Ok(true) {
                        let mut one = [PollFd::new(&self.group, PollFlags::IN)];
                        let _ = rustix::event::poll(&mut one, None);
                    }
                }
                Ok(_) => {
                    let some = if order == GO { self.pace } else { Duration::from_millis(20) };
                    if self.group.wait(Some(some)).is_err() {
                        continue;
                    }
                }
                Err(status) => {
                    println!("sent {}", self.sent);
                    println!("over {status:?}");
                    assert_eq!(sender.send(b""), Err(status), "every call says it");
                    return;
                }
            }
        }
    }

    /// Some messages: now few, now as many as there is room for.
    fn burst(&mut self, sender: &mut Sender) {
        if self.pace > Duration::ZERO {
            if self.burst.elapsed() < self.pace {
                return;
            }
            self.burst = Instant::now();
        }
        for _ in 0..self.numbers.below(12) {
            content(self.id, self.sent, &mut self.bytes);
            match sender.send(&self.bytes) {
                Ok(ordinal) => {
                    assert_eq!(ordinal, self.sent, "ordinals go on");
                    self.sent += 1;
                }
                Err(Status::Inadequate) if !self.waits => {
                    println!("inadequate");
                    self.waits = true;
                    return;
                }
                Err(_) => return,
            }
            self.waits = false;
        }
    }
}

/// A member's process and where it writes.
pub struct One {
    pub process: Process,
    pub id: u64,
    /// 0: it has not said it yet.
    pub incarnation: u64,
    /// Its newest view, as far as it was waited for.
    pub viewed: Vec<u64>,
    /// What it said it had sent, once it rests.
    pub rests: Option<u64>,
}

/// Arguments of a role.
pub type More<'a> = &'a [(&'a str, &'a dyn std::fmt::Display)];

/// The time to suspicion where silence is not what is tested: no loaded machine is so slow.
pub const PATIENT_MS: u64 = 10_000;

pub struct Cluster {
    pub group: String,
    founders: u16,
    idle: String,
    pace_us: u64,
    members_min: u16,
    /// Ids of those that have another policy than all the others; `None`: they have none of their own.
    odd: Option<Vec<u64>>,
    /// Messages are delivered on receipt.
    pub received: bool,
    /// Silence is noticed only after `PATIENT_MS`.
    pub patient: bool,
    pub sites: Sites,
    pub folder: PathBuf,
    pub members: Vec<One>,
    notes: Vec<String>,
    /// Ids of all that ever were.
    pub ids: Vec<u64>,
}

/// What clusters run over, if nothing else is said: `SQUALL_CLUSTER_FABRIC`, or shared memory.
pub fn fabric() -> String {
    std::env::var("SQUALL_CLUSTER_FABRIC").unwrap_or_else(|_| "shm".into())
}

impl Cluster {
    pub fn start(what: &str, members: u16, idle: &str) -> Cluster {
        Cluster::start_paced(what, members, idle, 0)
    }

    /// Silence is noticed in the time that is the default; otherwise only much later, so that no test
    /// but those of silence depends on how much of a core a member gets.
    pub fn start_watchful(what: &str, members: u16, idle: &str) -> Cluster {
        Cluster::start_as(what, members, idle, 0, false)
    }

    /// `pace_us`: a member sends no more often than that.
    pub fn start_paced(what: &str, members: u16, idle: &str, pace_us: u64) -> Cluster {
        let mut cluster = Cluster::new(what, members, idle, pace_us);
        cluster.found(&|_| &[]);
        cluster
    }

    /// `received`: and all deliver on receipt. Watchful.
    pub fn start_as(what: &str, members: u16, idle: &str, pace_us: u64, received: bool) -> Cluster {
        let mut cluster = Cluster::new(what, members, idle, pace_us);
        (cluster.received, cluster.patient) = (received, false);
        cluster.found(&|_| &[]);
        cluster
    }

    /// `more`: further arguments, by rank.
    pub fn start_with<'a>(
        what: &str,
        members: u16,
        idle: &str,
        more: &dyn Fn(u16) -> More<'a>,
    ) -> Cluster {
        let mut cluster = Cluster::new(what, members, idle, 0);
        cluster.found(more);
        cluster
    }

    /// Over that fabric, whatever the others run over. `more`: as above.
    pub fn start_over<'a>(
        fabric: &str,
        what: &str,
        members: u16,
        idle: &str,
        more: &dyn Fn(u16) -> More<'a>,
    ) -> Cluster {
        let mut cluster = Cluster::new(what, members, idle, 0);
        cluster.sites = Sites::here(fabric.into());
        cluster.found(more);
        cluster
    }

    /// They send while they are so many at least.
    pub fn start_needing(what: &str, members: u16, idle: &str, members_min: u16) -> Cluster {
        let mut cluster = Cluster::new(what, members, idle, 0);
        cluster.members_min = members_min;
        cluster.found(&|_| &[]);
        cluster
    }

    /// Each has a policy of its own; those ids another one.
    pub fn start_placing(what: &str, members: u16, odd: &[u64]) -> Cluster {
        let mut cluster = Cluster::new(what, members, "park", 0);
        cluster.odd = Some(odd.to_vec());
        cluster.found(&|_| &[]);
        cluster
    }

    fn new(what: &str, members: u16, idle: &str, pace_us: u64) -> Cluster {
        let group = group_name(what);
        let folder = std::env::temp_dir().join(&group);
        std::fs::create_dir_all(&folder).unwrap();
        let idle = idle.to_string();
        Cluster {
            group,
            founders: members,
            idle,
            pace_us,
            sites: Sites::here(fabric()),
            members_min: 0,
            odd: None,
            received: false,
            patient: true,
            notes: Vec::new(),
            folder,
            members: Vec::new(),
            ids: Vec::new(),
        }
    }

    fn found<'a>(&mut self, more: &dyn Fn(u16) -> More<'a>) {
        for rank in 0..self.founders {
            self.add(rank, false, more(rank));
        }
        self.settle();
    }

    pub fn join_with(&mut self, more: More<'_>) {
        self.add(0, true, more);
    }

    /// Members that are on these hosts, in turns: namespaces, with their addresses. Watchful.
    pub fn start_on(what: &str, members: u16, idle: &str, hosts: Vec<Host>) -> Cluster {
        let mut cluster = Cluster::to_be(what, members, idle, 0, Sites::on(hosts));
        cluster.patient = false;
        cluster.found(&|_| &[]);
        cluster
    }

    /// Founders of which none is started: see `add`.
    pub fn to_be(what: &str, members: u16, idle: &str, pace_us: u64, sites: Sites) -> Cluster {
        let mut cluster = Cluster::new(what, members, idle, pace_us);
        cluster.sites = sites;
        cluster
    }

    /// Starts all of them.
    pub fn start_all(&mut self) {
        self.found(&|_| &[]);
    }

    /// Starts another one, which joins.
    pub fn join(&mut self) {
        self.join_with(&[]);
    }

    /// Whom a member is told of.
    fn others(&self, join: bool) -> String {
        match join {
            true => self.sites.addresses(self.members.iter().map(|one| one.id)),
            false => self.sites.addresses(1..=u64::from(self.founders)),
        }
    }

    /// What a process at that site is told to reach the others, whether it founds the group or joins.
    pub fn ways(&self, site: u64, join: bool) -> Vec<(&'static str, String)> {
        self.sites.ways(site, self.others(join), &self.folder)
    }

    /// By what those on one host with that member find each other.
    pub fn near_name(&self, id: u64) -> String {
        match self.sites.part(id) {
            "" => self.group.clone(),
            part => format!("{}@{part}", self.group),
        }
    }

    /// Starts one. Founders listen where the member of the id `rank + 1` does.
    pub fn add(&mut self, rank: u16, join: bool, more: More<'_>) {
        let id = self.ids.len() as u64 + 1;
        let is_odd = self.odd.as_ref().map(|odd| odd.contains(&id));
        let policy = is_odd.map_or("none", |odd| if odd { "odd" } else { "same" });
        let file = self.folder.join(id.to_string()).display().to_string();
        let site = if join { id } else { u64::from(rank) + 1 };
        let ways = self.ways(site, join);
        let ways: Vec<(&str, &dyn std::fmt::Display)> =
            ways.iter().map(|(key, way)| (*key, way as _)).collect();
        let suspicion_ms = if self.patient { PATIENT_MS } else { SUSPICION_NS_DEFAULT / 1_000_000 };
        let all: More<'_> = &[
            ("group", &self.group),
            ("rank", &rank),
            ("members", &self.founders),
            ("join", &join),
            ("idle", &self.idle),
            ("pace_us", &self.pace_us),
            ("members_min", &self.members_min),
            ("policy", &policy),
            ("received", &self.received),
            ("suspicion_ms", &suspicion_ms),
            ("id", &id),
            ("file", &file),
        ];
        let host = self.sites.namespace(site);
        let process = Process::start_in(host, "member", &[&ways[..], all, more].concat());
        self.members.push(One { process, id, incarnation: 0, viewed: Vec::new(), rests: None });
        self.ids.push(id);
    }

    /// Waits until every one is in a view of so many.
    pub fn views(&mut self, members: usize) {
        for one in &mut self.members {
            loop {
                let said = one.process.expect("view");
                if said.split(' ').nth(1) == Some(&members.to_string()) {
                    break;
                }
            }
        }
    }

    /// For whoever reads a failure.
    pub fn note(&mut self, what: String) {
        self.notes.push(what);
    }

    /// Waits until every one is in a view of them all, and of nobody else.
    pub fn settle(&mut self) {
        for one in self.members.iter_mut().filter(|one| one.incarnation == 0) {
            one.incarnation = one.process.expect("me").parse().unwrap();
        }
        let mut all: Vec<u64> = self.members.iter().map(|one| one.incarnation).collect();
        all.sort_unstable();
        for one in &mut self.members {
            loop {
                if one.viewed == all {
                    break;
                }
                let said = one.process.expect("view");
                let mut members: Vec<u64> = said
                    .split(' ')
                    .nth(2)
                    .map(|list| list.split(',').map(|who| who.parse().unwrap()).collect())
                    .unwrap_or_default();
                members.sort_unstable();
                one.viewed = members;
            }
        }
    }

    /// Waits until every one delivers in its view.
    pub fn delivers(&mut self) {
        self.members.iter_mut().for_each(|one| drop(one.process.expect("first")));
    }

    pub fn kill(&mut self, at: usize) {
        let mut one = self.members.remove(at);
        one.process.kill();
    }

    /// Waits until all that are left have stopped for that reason; how many.
    pub fn stops(&mut self, why: &str) -> usize {
        let all = std::mem::take(&mut self.members);
        let lives: Vec<Vec<String>> = all.into_iter().map(|one| one.process.end_well()).collect();
        let over = |lines: &&Vec<String>| lines.contains(&format!("over {why}"));
        assert_eq!(lives.iter().filter(over).count(), lives.len(), "{lives:#?}");
        lives.len()
    }

    /// Nobody sends any more, and everybody has delivered its own.
    pub fn rest(&mut self) {
        self.members.iter_mut().for_each(|one| one.process.say("rest"));
        for one in &mut self.members {
            one.rests = Some(one.process.expect("rests").parse().unwrap());
        }
    }

    /// All leave at once.
    pub fn leave_all(mut self) {
        self.members.iter_mut().for_each(|one| one.process.say("leave"));
        self.stops("Left");
    }

    /// Takes one out of the list of those that all are compared with.
    pub fn take(&mut self, at: usize) -> One {
        self.members.remove(at)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.folder);
            return;
        }
        eprintln!("{}: {:?}", self.folder.display(), self.notes);
        for one in &mut self.members {
            let (id, who) = (one.id, one.incarnation);
            eprintln!("{id} is {who}, in {:?}; {:?}", one.viewed, one.process.ready_lines());
        }
    }
}
