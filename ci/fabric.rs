// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fabric's promises between two processes: the list of `squall::fabric::conformance`. Over shared
//! memory, where they know nothing of each other but a name, once for members that sleep and once for
//! members that never do; over TCP, once in a trusted network and once sealed.

mod support;

use squall::base::{Epoch, Events, Peer, Rank};
use squall::driver::config::{Config, Idle};
use squall::driver::rendezvous::{Mine, meet};
use squall::fabric::Fabric;
use squall::fabric::conformance::{CHECKS, Check, End, RING_BYTES, WORDS, run};
use squall::fabric::shm::door::socket_name;
use squall::fabric::shm::socket::{Bell, Socket};
use squall::fabric::shm::{Parts, Shm};
use squall::fabric::tcp::link::{Channel, Keys};
use squall::fabric::tcp::mirror::Measures;
use squall::fabric::tcp::{Setup, Tcp};
use squall::fabric::{Exchange, Memory, Shown, Sizes};
use squall::mem::region::Want;
use squall::mem::{Extent, Region};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use support::{Arguments, Process, group_name, listens};

fn main() {
    support::main(
        &[
            ("shm_parking", || check_all("shm", true)),
            ("shm_spinning", || check_all("shm", false)),
            ("tcp_trusted", || check_all("trusted", true)),
            ("tcp_sealed", || check_all("sealed", true)),
        ],
        &[("end", end)],
    );
}

/// Every check between a fresh pair of processes.
fn check_all(over: &str, parks: bool) -> String {
    let mut text = String::new();
    for (at, check) in CHECKS.iter().enumerate() {
        let group = group_name(&format!("fabric{at}"));
        let start = |rank: u16, port: &str| {
            let arguments: [(&str, &dyn std::fmt::Display); 6] = [
                ("group", &group),
                ("rank", &rank),
                ("at", &at),
                ("parks", &parks),
                ("over", &over),
                ("port", &port),
            ];
            Process::start("end", &arguments)
        };
        let mut one = start(0, "0");
        let port = if over == "shm" { "0".into() } else { one.expect("port") };
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
struct TcpEnd {
    tcp: Tcp,
    group: String,
    peer: Rank,
    mine: Arc<Region>,
    theirs: Arc<Region>,
    rings: [Extent; 2],
    scratch: usize,
    closed_at: usize,
    /// Its name says that this process lives.
    _name: Socket,
}

impl End for TcpEnd {
    fn peer(&self) -> Rank {
        self.peer
    }
    fn fabric(&mut self) -> &mut dyn Fabric {
        &mut self.tcp
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
        true
    }
    fn fd_is_readable(&mut self, within: Duration) -> bool {
        readable(self.tcp.fd(), within)
    }
    fn rounds(&self) -> u64 {
        30_000
    }
}

/// Connects as a handshake would have, and shows and enters the first view.
fn open_tcp(group: &str, rank: u16, sealed: bool, port: u16) -> TcpEnd {
    let name = Socket::listen(&socket_name(group, rank)).unwrap().unwrap();
    let mut config = Config::new(group, rank, 2);
    config.subgroups[0].message_bytes_max = 64;
    let layout = config.view().unwrap().layout();
    let ring_bytes = layout.shapes[0].ring_bytes;
    let stream = if port == 0 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        println!("port {}", listener.local_addr().unwrap().port());
        listener.accept().unwrap().0
    } else {
        TcpStream::connect(("127.0.0.1", port)).unwrap()
    };
    let key = |of: u16| [of as u8 + 1; 32];
    let keys = sealed.then(|| Keys { send: key(rank), receive: key(1 - rank) });
    let mut tcp = Tcp::new(Setup {
        measures: Measures::of(&layout),
        beat_at: layout.beat.byte(0),
        closed_at: layout.closed.byte(0),
        parks: true,
        views: false,
    })
    .unwrap();
    let (peer, epoch) = (Peer(1 - rank), Epoch(1));
    let incarnation = u64::from(2 - rank);
    tcp.connect_as(peer, Channel::of(stream, incarnation, keys).unwrap()).unwrap();
    let own = tcp.own(epoch, &[0]).unwrap();
    tcp.show(epoch, peer, &[0]).unwrap();
    let sizes = Sizes { block: layout.control_bytes, rings: vec![Some(layout.rings_bytes(0))] };
    let theirs: Memory = loop {
        tcp.poll(true, &mut Events::default());
        match tcp.shown(peer, epoch, &sizes).unwrap() {
            Shown::Memory(memory) => break memory,
            Shown::Waits => {}
            Shown::Never => panic!("the other end has ended"),
        }
    };
    let mut blocks = [own.block.clone(), theirs.block.clone()];
    let mut peers = [None, Some(peer)];
    if rank == 1 {
        blocks.reverse();
        peers.reverse();
    }
    let beat_at = layout.beat.byte(0);
    own.block.cell(beat_at).publish(1);
    tcp.enter(epoch, Rank(rank), &peers, &blocks);
    // That the other has entered is an event, too: the checks begin after it.
    while theirs.block.cell(beat_at).observe() == 0 {
        tcp.poll(true, &mut Events::default());
    }
    let extent =
        |memory: &Memory| Extent::new(memory.rings[0].clone().unwrap(), 0, ring_bytes as usize);
    TcpEnd {
        rings: [extent(&own), extent(&theirs)],
        tcp,
        group: group.into(),
        peer: Rank(1 - rank),
        mine: own.block,
        theirs: theirs.block,
        scratch: layout.change.byte(0),
        closed_at: layout.closed.byte(0),
        _name: name,
    }
}

/// One end of one check, in a process of its own.
fn end(arguments: &Arguments) {
    let check: &Check = &CHECKS[arguments.get::<usize>("at").unwrap()];
    let rank: u16 = arguments.get("rank").unwrap();
    let (group, over) = (arguments.text("group").unwrap(), arguments.text("over").unwrap());
    let mut end: Box<dyn End> = match over {
        "shm" => Box::new(open(group, rank, arguments.get("parks").unwrap())),
        _ => Box::new(open_tcp(group, rank, over == "sealed", arguments.get("port").unwrap())),
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
