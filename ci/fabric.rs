// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fabric's promises between two processes: the list of `squall::fabric::conformance`. Over shared
//! memory, where they know nothing of each other but a name, once for members that sleep and once for
//! members that never do; over TCP, once in a trusted network and once sealed; over both at once; over RDMA,
//! where there is a device, or two of them: `SQUALL_RDMA_DEVICES=rxe0,rxe1`, by rank. Over TCP and over both
//! once more between two hosts, which are network namespaces (root only).

#[path = "fabric/mixed.rs"]
mod mixed;
#[path = "hosts/net.rs"]
#[allow(dead_code, reason = "`hosts` uses the rest")]
mod net;
mod support;

use net::{Net, skipped};
use squall::base::{Epoch, Events, Members, Peer, Rank};
use squall::driver::config::{Config, Idle};
use squall::driver::group::Group;
use squall::driver::rendezvous::{Mine, meet};
use squall::error::Status;
use squall::fabric::Fabric;
use squall::fabric::conformance::{CHECKS, Check, End, RING_BYTES, WORDS, run};
use squall::fabric::shm::socket::Bell;
use squall::fabric::shm::{Parts, Shm};
use squall::fabric::tcp::link::{Channel, Keys};
use squall::fabric::tcp::mirror::Measures;
use squall::fabric::tcp::{Setup, Tcp};
use squall::fabric::verbs::device::Device;
use squall::fabric::verbs::gid::Choice;
use squall::fabric::verbs::sys::Table;
use squall::fabric::verbs::{self, Verbs};
use squall::fabric::{Exchange, Memory, Shown, Sizes};
use squall::mem::region::Want;
use squall::mem::{Extent, Region};
use squall::sst::layout::Layout;
use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use support::{
    Arguments, Numbers, Process, forget_lives, group_name, listens, lives, says_that_it_lives,
};

fn main() {
    support::main(
        &[
            ("shm_parking", || check_all("shm", true)),
            ("shm_spinning", || check_all("shm", false)),
            ("tcp_trusted", || check_all("trusted", true)),
            ("tcp_sealed", || check_all("sealed", true)),
            ("mixed_near", || check_all("near", true)),
            ("mixed_far", || check_all("far", true)),
            ("tcp_trusted_between_hosts", || check_hosts("trusted")),
            ("tcp_sealed_between_hosts", || check_hosts("sealed")),
            ("mixed_between_hosts", || check_hosts("far")),
            ("verbs_parking", || check_rdma(true)),
            ("verbs_spinning", || check_rdma(false)),
            ("tcp_group", group_over_tcp),
        ],
        &[("end", end), ("member", member)],
    );
}

/// The same by RDMA, if there is any.
fn check_rdma(parks: bool) -> String {
    let found = Table::load().and_then(|table| Device::open(&table, &choice(0)));
    match found {
        Ok(device) => format!("{}\n{}", device.line(), check_all("verbs", parks)),
        Err(why) => format!("SKIPPED: {why}\n"),
    }
}

/// The device of a rank.
fn choice(rank: u16) -> Choice {
    let named = std::env::var("SQUALL_RDMA_DEVICES").unwrap_or_default();
    let device = named.split(',').cycle().nth(rank.into()).filter(|name| !name.is_empty());
    Choice { device: device.map(String::from), ..Choice::default() }
}

/// Every check between a fresh pair of processes on this host.
fn check_all(over: &str, parks: bool) -> String {
    check_between(None, over, parks)
}

/// The same, each on a host of its own.
fn check_hosts(over: &str) -> String {
    let Some(net) = Net::new(2) else { return skipped() };
    check_between(Some(&net), over, true)
}

fn check_between(net: Option<&Net>, over: &str, parks: bool) -> String {
    let host = net.map_or("127.0.0.1".into(), |net| net.address(0));
    let mut text = String::new();
    for (at, check) in CHECKS.iter().enumerate() {
        let group = group_name(&format!("fabric{at}"));
        let _forgets = Forgets(&group);
        let start = |rank: u16, port: &str| {
            let address = format!("{host}:{port}");
            let arguments: [(&str, &dyn std::fmt::Display); 6] = [
                ("group", &group),
                ("rank", &rank),
                ("at", &at),
                ("parks", &parks),
                ("over", &over),
                ("address", &address),
            ];
            Process::start_in(net.map(|net| net.name(rank.into())), "end", &arguments)
        };
        let mut one = start(0, "0");
        let calls = over != "shm" && over != "near";
        let port = if calls { one.expect("port") } else { "0".into() };
        let mut two = start(1, &port);
        let (first, second) = (one.expect("counted"), two.expect("counted"));
        one.end_well();
        // One that dies has ended as it should: by the signal.
        if check.two_dies {
            drop(two.end())
        } else {
            drop(two.end_well())
        }
        let both = [first, second];
        let said: Vec<&str> =
            both.iter().map(String::as_str).filter(|line| !line.is_empty()).collect();
        text.push_str(&format!("{:4} {}: {}\n", check.promise, check.name, said.join("; ")));
    }
    text
}

/// No file of a group's is left behind, whatever became of it.
struct Forgets<'a>(&'a str);

impl Drop for Forgets<'_> {
    fn drop(&mut self) {
        forget_lives(self.0);
    }
}

/// A member that is nothing but its end of the fabric.
struct ShmEnd {
    shm: Shm,
    group: String,
    peer: Rank,
    mine: Arc<Region>,
    theirs: Arc<Region>,
    rings: [Extent; 2],
    scratch: usize,
    closed_at: usize,
}

impl End for ShmEnd {
    fn peer(&self) -> Rank {
        self.peer
    }
    fn fabric(&mut self) -> &mut dyn Fabric {
        &mut self.shm
    }
    fn mine(&self) -> &Region {
        &self.mine
    }
    fn theirs(&self) -> &Region {
        &self.theirs
    }
    fn my_ring(&self) -> &Extent {
        &self.rings[0]
    }
    fn their_ring(&self) -> &Extent {
        &self.rings[1]
    }
    fn scratch(&self) -> usize {
        self.scratch
    }
    fn closed_at(&self) -> usize {
        self.closed_at
    }
    fn peer_has_ended(&self) -> bool {
        !listens(&self.group, self.peer.0)
    }
    fn stills_revoked(&self) -> bool {
        false
    }
    fn fd_is_readable(&mut self, within: Duration) -> bool {
        readable(self.shm.fd(), within)
    }
    fn rounds(&self) -> u64 {
        1_000_000
    }
}

fn readable(fd: BorrowedFd<'_>, within: Duration) -> bool {
    let mut watched = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor in a valid place.
    unsafe { libc::poll(&mut watched, 1, within.as_millis() as i32) == 1 }
}

fn open(group: &str, rank: u16, parks: bool) -> ShmEnd {
    let mut config = Config::new(group, rank, 2);
    config.idle = if parks { Idle::Park } else { Idle::Spin };
    config.subgroups[0].message_bytes_max = 64;
    let view = config.view().unwrap();
    let layout = view.layout();
    let ring_bytes = layout.shapes[0].ring_bytes;
    assert!(ring_bytes >= RING_BYTES && usize::from(layout.change.len) >= WORDS);
    let share = |what: &str, bytes: usize| -> (Arc<Region>, OwnedFd) {
        let name = format!("squall-{group}-{rank}-{what}");
        let made = Region::share(&name, bytes, Want::No, Want::No, &mut Vec::new());
        let (region, descriptor) = made.unwrap();
        Region::seal(&descriptor).unwrap();
        (Arc::new(region), descriptor)
    };
    let (block, control) = share("table", layout.control_bytes);
    let (ring, ring_descriptor) = share("ring0", layout.rings_bytes(0));
    let (_, stats) = share("stats", 4096);
    let (bell, rings) = (Bell::new().unwrap(), vec![Some(ring_descriptor)]);
    let mine = Mine { block: block.clone(), control, rings, bell };
    let met = meet(&config, &view, &layout, &mine, parks).unwrap();
    let peer = Rank(1 - rank);
    let theirs = met.blocks[peer.index()].clone().unwrap();
    let their_ring = met.rings[peer.index()][0].clone().unwrap();
    let mut blocks = vec![block.clone(), theirs.clone()];
    if rank == 1 {
        blocks.reverse();
    }
    let parts = Parts {
        me: Rank(rank),
        members: 2,
        blocks,
        neighbours: met.neighbours,
        bell: mine.bell,
        door: met.door,
        hello: met.hello,
        stats,
        memory: None,
    };
    let extent = |region: &Arc<Region>| Extent::new(region.clone(), 0, ring_bytes as usize);
    ShmEnd {
        shm: Shm::new(parts, &layout).unwrap(),
        group: group.into(),
        peer,
        mine: block,
        theirs,
        rings: [extent(&ring), extent(&their_ring)],
        scratch: layout.change.byte(0),
        closed_at: layout.closed.byte(0),
    }
}

/// The same over a connection.
struct FarEnd {
    fabric: Box<dyn Fabric>,
    rounds: u64,
    group: String,
    peer: Rank,
    mine: Arc<Region>,
    theirs: Arc<Region>,
    rings: [Extent; 2],
    scratch: usize,
    closed_at: usize,
    /// It says that this process lives.
    _lives: File,
}

impl End for FarEnd {
    fn peer(&self) -> Rank {
        self.peer
    }
    fn fabric(&mut self) -> &mut dyn Fabric {
        &mut *self.fabric
    }
    fn mine(&self) -> &Region {
        &self.mine
    }
    fn theirs(&self) -> &Region {
        &self.theirs
    }
    fn my_ring(&self) -> &Extent {
        &self.rings[0]
    }
    fn their_ring(&self) -> &Extent {
        &self.rings[1]
    }
    fn scratch(&self) -> usize {
        self.scratch
    }
    fn closed_at(&self) -> usize {
        self.closed_at
    }
    fn peer_has_ended(&self) -> bool {
        !lives(&self.group, self.peer.0)
    }
    fn stills_revoked(&self) -> bool {
        true
    }
    fn fd_is_readable(&mut self, within: Duration) -> bool {
        readable(self.fabric.fd(), within)
    }
    fn rounds(&self) -> u64 {
        self.rounds
    }
}

const MESSAGE_BYTES_MAX: u64 = 100_000;

fn setup(layout: &Layout) -> Setup {
    Setup {
        measures: Measures::of(layout),
        beat_at: layout.beat.byte(0),
        closed_at: layout.closed.byte(0),
        parks: true,
        views: true,
    }
}

/// A connection, as a handshake would have left it.
struct TcpSide {
    stream: TcpStream,
    keys: Option<Keys>,
}

/// Calls the other end; with port 0 it is called, and says at which.
fn dial(rank: u16, sealed: bool, address: SocketAddr) -> TcpSide {
    let stream = if address.port() == 0 {
        let listener = TcpListener::bind(address).unwrap();
        println!("port {}", listener.local_addr().unwrap().port());
        listener.accept().unwrap().0
    } else {
        TcpStream::connect(address).unwrap()
    };
    let key = |of: u16| [of as u8 + 1; 32];
    let keys = sealed.then(|| Keys { send: key(rank), receive: key(1 - rank) });
    TcpSide { stream, keys }
}

/// How the other process is reached where two fabrics are one.
enum Way {
    Near,
    Far(SocketAddr),
}

/// Connects as a handshake would have, and shows, sees and enters the first view: of which the
/// memories by rank.
fn meet_tcp(
    group: &str,
    rank: u16,
    sealed: bool,
    address: SocketAddr,
) -> (Config, Vec<Memory>, Tcp) {
    let (config, layout, channel) = dialled(group, rank, sealed, address);
    let mut tcp = Tcp::new(Setup { views: false, ..setup(&layout) }).unwrap();
    tcp.connect_as(Peer(1 - rank), channel).unwrap();
    let memories = enter_first(&mut tcp, rank, &layout, |_| true);
    (config, memories, tcp)
}

/// The same by RDMA beside the connection.
fn meet_verbs(
    group: &str,
    rank: u16,
    parks: bool,
    address: SocketAddr,
) -> (Config, Vec<Memory>, Verbs) {
    let (config, layout, channel) = dialled(group, rank, true, address);
    let tcp = Tcp::new(Setup { parks, ..setup(&layout) }).unwrap();
    let mut verbs = verbs::open(tcp, &choice(rank), verbs::Setup::default()).unwrap();
    verbs.tcp_mut().connect_as(Peer(1 - rank), channel).unwrap();
    let memories = enter_first(&mut verbs, rank, &layout, Verbs::has_landed);
    (config, memories, verbs)
}

fn dialled(group: &str, rank: u16, sealed: bool, address: SocketAddr) -> (Config, Layout, Channel) {
    let mut config = Config::new(group, rank, 2);
    config.subgroups[0].message_bytes_max = MESSAGE_BYTES_MAX as u32;
    let layout = config.view().unwrap().layout();
    let TcpSide { stream, keys } = dial(rank, sealed, address);
    let channel = Channel::of(stream, u64::from(2 - rank), keys).unwrap();
    (config, layout, channel)
}

fn enter_first<F: Fabric + Exchange>(
    far: &mut F,
    rank: u16,
    layout: &Layout,
    landed: impl Fn(&mut F) -> bool,
) -> Vec<Memory> {
    let (peer, epoch) = (Peer(1 - rank), Epoch(1));
    let own = far.own(epoch, &[0]).unwrap();
    far.show(epoch, peer, &[0]).unwrap();
    let sizes = Sizes { block: layout.control_bytes, rings: vec![Some(layout.rings_bytes(0))] };
    let theirs: Memory = loop {
        far.poll(true, &mut Events::default());
        match far.shown(peer, epoch, &sizes).unwrap() {
            Shown::Memory(memory) => break memory,
            Shown::Waits => {}
            Shown::Never => panic!("the other end has ended"),
        }
    };
    let beat_at = layout.beat.byte(0);
    own.block.cell(beat_at).publish(1);
    Group::prepare(&own.block);
    let beats = theirs.block.clone();
    let (mut memories, mut peers) = (vec![own, theirs], [None, Some(peer)]);
    if rank == 1 {
        memories.reverse();
        peers.reverse();
    }
    let blocks: Vec<_> = memories.iter().map(|memory| memory.block.clone()).collect();
    far.enter(epoch, Rank(rank), &peers, &blocks);
    // That the other has entered is an event, too, and so are its keys: the checks begin after them.
    let mut events = Events::default();
    while beats.cell(beat_at).observe() == 0 || !events.full.is_empty() || !landed(far) {
        events.full = Members::NONE;
        far.poll(true, &mut events);
    }
    assert!(far.say(peer, b"all that I have posted has landed"));
    while far.heard().is_none() {
        far.poll(true, &mut events);
    }
    far.poll(true, &mut events);
    memories
}

fn open_tcp(group: &str, rank: u16, sealed: bool, address: SocketAddr) -> FarEnd {
    let lives = says_that_it_lives(group, rank);
    let (config, memories, tcp) = meet_tcp(group, rank, sealed, address);
    far_end(group, rank, (config, memories), Box::new(tcp), 30_000, lives)
}

fn open_verbs(group: &str, rank: u16, parks: bool, address: SocketAddr) -> FarEnd {
    let lives = says_that_it_lives(group, rank);
    let (config, memories, verbs) = meet_verbs(group, rank, parks, address);
    far_end(group, rank, (config, memories), Box::new(verbs), 3_000, lives)
}

fn far_end(
    group: &str,
    rank: u16,
    (config, mut memories): (Config, Vec<Memory>),
    fabric: Box<dyn Fabric>,
    rounds: u64,
    lives: File,
) -> FarEnd {
    let layout = config.view().unwrap().layout();
    if rank == 1 {
        memories.reverse();
    }
    let extent = |memory: &Memory| {
        let bytes = layout.shapes[0].ring_bytes as usize;
        Extent::new(memory.rings[0].clone().unwrap(), 0, bytes)
    };
    FarEnd {
        rings: [extent(&memories[0]), extent(&memories[1])],
        fabric,
        rounds,
        group: group.into(),
        peer: Rank(1 - rank),
        mine: memories[0].block.clone(),
        theirs: memories[1].block.clone(),
        scratch: layout.change.byte(0),
        closed_at: layout.closed.byte(0),
        _lives: lives,
    }
}

/// Two members of a fixed view send to each other, of all sizes, and sleep in between: both deliver
/// the same messages in the same order; when one leaves the other hears that it did, in good order.
fn group_over_tcp() -> String {
    let mut text = String::new();
    for sealed in [false, true] {
        let group = group_name("group");
        let start = |rank: u16, port: &str| {
            let address = format!("127.0.0.1:{port}");
            let arguments: [(&str, &dyn std::fmt::Display); 4] =
                [("group", &group), ("rank", &rank), ("sealed", &sealed), ("address", &address)];
            Process::start("member", &arguments)
        };
        let mut one = start(0, "0");
        let port = one.expect("port");
        let mut two = start(1, &port);
        let (first, second) = (one.expect("order"), two.expect("order"));
        assert_eq!(first, second, "the same messages in the same order");
        two.say("leave");
        two.end_well();
        assert_eq!(one.expect("stopped"), "PeerLeft");
        one.end_well();
        text.push_str(&format!("sealed {sealed}: order {first}\n"));
    }
    text
}

fn member(arguments: &Arguments) {
    const MESSAGES: u64 = 5_000;
    let (rank, sealed) = (arguments.get("rank").unwrap(), arguments.get("sealed").unwrap());
    let name = arguments.text("group").unwrap();
    let (config, memories, tcp) = meet_tcp(name, rank, sealed, arguments.get("address").unwrap());
    let order = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let seen = order.clone();
    let deliver = move |_: u16, batch: &[squall::mem::Message]| {
        for message in batch {
            // Every byte and its place counts.
            let bytes = message.bytes().iter().fold(u64::from(message.rank), |sum, byte| {
                sum.wrapping_mul(0x100_0000_01b3) ^ u64::from(*byte)
            });
            let sum = seen[0].load(Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ bytes;
            seen[0].store(sum, Relaxed);
            seen[1].fetch_add(1, Relaxed);
        }
    };
    let bell = tcp.own_bell();
    let group = Group::over(&config, &memories, Box::new(tcp), bell, Box::new(deliver));
    let mut group = group.unwrap();
    let mut sender = group.sender(0, 0).unwrap();
    let mut numbers = Numbers(u64::from(rank) + 1);
    let (mut sent, mut bytes) = (0, Vec::new());
    let input = std::thread::spawn(|| std::io::stdin().read_line(&mut String::new()));
    let mut told = false;
    loop {
        let most = if sent < MESSAGES { 1 + numbers.below(64) } else { 0 };
        for _ in 0..most.min(MESSAGES - sent) {
            if bytes.is_empty() {
                let most = if sent % 50 == 0 { MESSAGE_BYTES_MAX } else { 200 };
                bytes.resize(8 + numbers.below(most - 7) as usize, sent as u8);
                bytes[..8].copy_from_slice(&sent.to_le_bytes());
            }
            match sender.send(&bytes) {
                Ok(_) => (sent, bytes) = (sent + 1, Vec::new()),
                Err(Status::Again) => break,
                Err(why) => panic!("{why:?}"),
            }
        }
        match group.turn(u32::MAX) {
            Ok(turn) if turn.busy => {}
            Ok(_) => drop(group.wait(Some(Duration::from_millis(20)))),
            Err(why) => {
                println!("stopped {why:?}");
                return;
            }
        }
        if order[1].load(Relaxed) == 2 * MESSAGES && !std::mem::replace(&mut told, true) {
            println!("order {:016x}", order[0].load(Relaxed));
        }
        if told && rank == 1 && input.is_finished() {
            return group.close();
        }
    }
}

/// One end of one check, in a process of its own.
fn end(arguments: &Arguments) {
    let check: &Check = &CHECKS[arguments.get::<usize>("at").unwrap()];
    let rank: u16 = arguments.get("rank").unwrap();
    let (group, over) = (arguments.text("group").unwrap(), arguments.text("over").unwrap());
    let mut end: Box<dyn End> = match over {
        "shm" => Box::new(open(group, rank, arguments.get("parks").unwrap())),
        "near" => Box::new(mixed::open(group, rank, Way::Near)),
        "far" => Box::new(mixed::open(group, rank, Way::Far(arguments.get("address").unwrap()))),
        "verbs" => {
            let parks = arguments.get("parks").unwrap();
            Box::new(open_verbs(group, rank, parks, arguments.get("address").unwrap()))
        }
        _ => Box::new(open_tcp(group, rank, over == "sealed", arguments.get("address").unwrap())),
    };
    match run(check, rank == 0, &mut *end) {
        Ok(counted) => println!("counted {counted}"),
        Err(why) => {
            println!("counted FAILED {why}");
            panic!("{}, role {}: {why}", check.name, if rank == 0 { "one" } else { "two" });
        }
    }
    if check.two_dies && rank == 1 {
        let me = rustix::process::getpid();
        rustix::process::kill_process(me, rustix::process::Signal::KILL).unwrap();
    }
}
