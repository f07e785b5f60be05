// SPDX-License-Identifier: MIT OR Apache-2.0
//! An end of two fabrics at once: the other process is near, and a third member is far; or it is far.

use crate::support::{lives, says_that_it_lives, until};
use crate::{TcpSide, Way, readable};
use squall::base::{Epoch, Events, Peer, Rank};
use squall::driver::config::{Config, Idle};
use squall::fabric::conformance::End;
use squall::fabric::mixed::{Mixed, near};
use squall::fabric::shm::door::{Door, Hello, Kind, socket_name};
use squall::fabric::shm::exchange::OwnMemory;
use squall::fabric::shm::socket::{Bell, Socket};
use squall::fabric::shm::{Parts, Shm};
use squall::fabric::tcp::Tcp;
use squall::fabric::tcp::link::Channel;
use squall::fabric::{Admission, Exchange, Fabric, Memory, Shown, Sizes};
use squall::mem::region::Want;
use squall::mem::{Extent, Region};
use squall::sst::layout::Layout;
use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

const EPOCH: Epoch = Epoch(1);
/// The third member, whose fabric is polled by a thread of this process.
const THIRD: u64 = 3;

pub struct MixedEnd {
    mixed: Mixed<Shm, Tcp>,
    far: bool,
    group: String,
    peer: Rank,
    name: Peer,
    mine: Arc<Region>,
    theirs: Arc<Region>,
    rings: [Extent; 2],
    layout: Layout,
    over: Arc<AtomicBool>,
    /// It says that this process lives.
    _lives: File,
}

impl Drop for MixedEnd {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
    }
}

impl End for MixedEnd {
    fn peer(&self) -> Rank {
        self.peer
    }
    fn name(&self) -> Peer {
        self.name
    }
    fn fabric(&mut self) -> &mut dyn Fabric {
        &mut self.mixed
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
        self.layout.change.byte(0)
    }
    fn closed_at(&self) -> usize {
        self.layout.closed.byte(0)
    }
    fn peer_has_ended(&self) -> bool {
        !lives(&self.group, self.peer.0)
    }
    fn stills_revoked(&self) -> bool {
        self.far
    }
    fn fd_is_readable(&mut self, within: Duration) -> bool {
        readable(self.mixed.fd(), within)
    }
    fn rounds(&self) -> u64 {
        if self.far { 5_000 } else { 20_000 }
    }
}

/// What a member shows.
fn sizes(layout: &Layout) -> Sizes {
    Sizes { block: layout.control_bytes, rings: vec![Some(layout.rings_bytes(0))] }
}

pub fn open(group: &str, rank: u16, way: Way) -> MixedEnd {
    let far = matches!(way, Way::Far(_));
    let lives = says_that_it_lives(group, rank);
    let mut config = Config::new(group, rank, if far { 2 } else { 3 });
    config.idle = Idle::Park;
    config.subgroups[0].message_bytes_max = 64;
    let layout = config.view().unwrap().layout();
    let (me, other) = (u64::from(rank) + 1, 2 - u64::from(rank));
    let mut shm = shm(group, rank, &layout, me);
    let mut tcp = Tcp::new(crate::setup(&layout)).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    match way {
        Way::Far(address) => {
            let TcpSide { stream, keys } = crate::dial(rank, true, address);
            tcp.connect(Channel::of(stream, other, keys).unwrap()).unwrap();
        }
        Way::Near => {
            meet_near(&mut shm, group, rank);
            third(&mut tcp, &layout, me, over.clone());
        }
    }
    let mut mixed = Mixed::new(shm, tcp).unwrap();
    let own = mixed.own(EPOCH, &[0]).unwrap();
    let others = if far { vec![other] } else { vec![other, THIRD] };
    let mut peers = vec![None; others.len() + 1];
    let mut memories: Vec<Option<Memory>> = vec![None; peers.len()];
    memories[usize::from(rank)] = Some(own.clone());
    for who in others {
        let peer = mixed.peer(who).expect("it is connected");
        assert_eq!(peer.0 % 2 == 1, far || who == THIRD, "which side it is on");
        mixed.show(EPOCH, peer, &[0]).unwrap();
        let at = who as usize - 1;
        peers[at] = Some(peer);
        memories[at] = Some(seen(&mut mixed, peer, &layout));
    }
    let beats: Vec<Arc<Region>> = memories.iter().flatten().map(|of| of.block.clone()).collect();
    own.block.cell(layout.beat.byte(0)).publish(1);
    mixed.enter(EPOCH, Rank(rank), &peers, &beats);
    // That the others have entered is an event, too: the checks begin after it.
    until("all have entered", || {
        mixed.poll(true, &mut Events::default());
        beats.iter().all(|block| block.cell(layout.beat.byte(0)).observe() != 0)
    });
    let theirs = memories[2 - me as usize].take().unwrap();
    let ring = |memory: &Memory| {
        let bytes = layout.shapes[0].ring_bytes as usize;
        Extent::new(memory.rings[0].clone().unwrap(), 0, bytes)
    };
    MixedEnd {
        rings: [ring(&own), ring(&theirs)],
        mixed,
        far,
        group: group.into(),
        peer: Rank(1 - rank),
        name: peers[usize::from(1 - rank)].unwrap(),
        mine: own.block,
        theirs: theirs.block,
        layout,
        over,
        _lives: lives,
    }
}

fn seen(of: &mut (impl Fabric + Exchange), peer: Peer, layout: &Layout) -> Memory {
    loop {
        of.sleep(Some(1_000_000), &mut Events::default());
        match of.shown(peer, EPOCH, &sizes(layout)).unwrap() {
            Shown::Memory(memory) => return memory,
            Shown::Waits => {}
            Shown::Never => panic!("the other end has ended"),
        }
    }
}

fn shm(group: &str, rank: u16, layout: &Layout, incarnation: u64) -> Shm {
    let door = Socket::listen(&socket_name(group, rank)).unwrap().unwrap();
    let mut hello = Hello::new(Kind::Enter, rank, true, "");
    hello.incarnation = incarnation;
    let own = OwnMemory {
        name: format!("squall-{group}-{rank}"),
        block_bytes: layout.control_bytes,
        ring_bytes: vec![layout.rings_bytes(0)],
        lock: Want::No,
        huge: Want::No,
    };
    let (page, stats) =
        Region::share("squall-stats", 4096, Want::No, Want::No, &mut Vec::new()).unwrap();
    drop(page);
    let nothing = Layout::new(&[]);
    let parts = Parts {
        me: Rank(0),
        members: 1,
        blocks: vec![Arc::new(Region::heap(nothing.control_bytes))],
        neighbours: Vec::new(),
        bell: Bell::new().unwrap(),
        door: Door::new(door),
        hello,
        stats,
        memory: Some(own),
    };
    let mut shm = Shm::new(parts, &nothing).unwrap();
    shm.admit(Admission::Higher);
    shm
}

/// The higher one calls the lower one.
fn meet_near(shm: &mut Shm, group: &str, rank: u16) {
    if rank == 0 {
        until("the other calls", || {
            shm.sleep(Some(1_000_000), &mut Events::default());
            shm.peer(2).is_some()
        });
        return;
    }
    let mut hello = Hello::new(Kind::Enter, rank, true, "");
    hello.incarnation = 2;
    let mut call = None;
    until("it listens", || {
        call = Socket::connect(&socket_name(group, 0)).unwrap();
        call.is_some()
    });
    let call = call.unwrap();
    assert!(call.send(&hello.encode(), &[shm.bell()]));
    let mut answer = None;
    until("it answers", || {
        answer = call.receive();
        answer.is_some()
    });
    let (bytes, mut descriptors): (Vec<u8>, Vec<OwnedFd>) = answer.unwrap().unwrap();
    let theirs = Hello::decode(&bytes).unwrap();
    assert_eq!(theirs.kind, Kind::Welcome, "{:?}", theirs.refusal);
    let bell = Bell::from_descriptor(descriptors.pop().unwrap()).unwrap();
    let peer = shm.connect(&theirs, call, bell).unwrap();
    assert_eq!(near(peer).0 % 2, 0);
}

/// A member that is connected with this one over TCP, enters the view and polls.
fn third(tcp: &mut Tcp, layout: &Layout, me: u64, over: Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let ours = listener.accept().unwrap().0;
    tcp.connect(Channel::of(ours, THIRD, None).unwrap()).unwrap();
    let mut it = Tcp::new(crate::setup(layout)).unwrap();
    let peer = it.connect(Channel::of(stream, me, None).unwrap()).unwrap();
    let layout = Layout::clone(layout);
    std::thread::spawn(move || {
        let own = it.own(EPOCH, &[0]).unwrap();
        it.show(EPOCH, peer, &[0]).unwrap();
        let theirs = seen(&mut it, peer, &layout);
        let (mut peers, mut blocks) = (vec![None; 3], vec![own.block.clone(); 3]);
        peers[me as usize - 1] = Some(peer);
        blocks[me as usize - 1] = theirs.block;
        own.block.cell(layout.beat.byte(0)).publish(1);
        it.enter(EPOCH, Rank(2), &peers, &blocks);
        while !over.load(Relaxed) {
            it.sleep(Some(2_000_000), &mut Events::default());
        }
    });
}
