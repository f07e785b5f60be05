// SPDX-License-Identifier: MIT OR Apache-2.0
//! Members over loopback in one process: the promises, and what a stream can do to them.

use super::link::Keys;
use super::mirror::RingMeasures;
use super::*;
use crate::base::RingId;
use crate::fabric::conformance::{CHECKS, Check, End, WORDS, run};
use crate::mem::Extent;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::{TcpListener, TcpStream};

const BLOCK_BYTES: usize = WORDS * 8 + 256;
const BEAT_AT: usize = WORDS * 8;
const CLOSED_AT: usize = WORDS * 8 + 128;
const LANE_BYTES: u64 = 1 << 20;

fn setup(lane_bytes: u64) -> Setup {
    let rings = vec![RingMeasures { lanes: 2, lane_bytes }];
    let measures = Measures { block_bytes: BLOCK_BYTES, rings };
    Setup { measures, beat_at: BEAT_AT, closed_at: CLOSED_AT, parks: true, views: true }
}

/// Both ends of a connection, as they would come from a handshake.
fn channels(of: [u64; 2], sealed: bool) -> [Channel; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let other = listener.accept().unwrap().0;
    let keys = |send, receive| sealed.then_some(Keys { send: [send; 32], receive: [receive; 32] });
    [
        Channel::of(one, of[1], keys(1, 2)).unwrap(),
        Channel::of(other, of[0], keys(2, 1)).unwrap(),
    ]
}

/// A member and what it sees: its memory, and by rank the mirrors of the others.
struct Node {
    tcp: Tcp,
    me: usize,
    own: Memory,
    seen: Vec<Option<Memory>>,
    events: Events,
}

/// So many members, each connected with each, who have shown their memory of epoch 1 and entered it.
fn members(count: usize, sealed: bool, lane_bytes: u64) -> Vec<Node> {
    let mut nodes: Vec<Node> = (0..count)
        .map(|me| {
            let mut tcp = Tcp::new(setup(lane_bytes)).unwrap();
            let own = tcp.own(Epoch(1), &[0]).unwrap();
            Node { tcp, me, own, seen: vec![None; count], events: Events::default() }
        })
        .collect();
    for one in 0..count {
        for other in one + 1..count {
            let [first, second] = channels([one as u64 + 1, other as u64 + 1], sealed);
            nodes[one].tcp.connect_as(Peer(other as u16), first).unwrap();
            nodes[other].tcp.connect_as(Peer(one as u16), second).unwrap();
        }
    }
    nodes.iter_mut().for_each(|node| node.show(Epoch(1)));
    nodes.iter_mut().for_each(|node| node.enter(Epoch(1)));
    nodes
}

fn sizes(lane_bytes: u64) -> Sizes {
    Sizes { block: BLOCK_BYTES, rings: vec![Some(2 * lane_bytes as usize)] }
}

impl Node {
    fn peer(&self, rank: usize) -> Option<Peer> {
        self.tcp.peer(rank as u64 + 1).filter(|_| rank != self.me)
    }

    fn show(&mut self, epoch: Epoch) {
        for rank in (0..self.seen.len()).filter(|rank| *rank != self.me) {
            let peer = self.peer(rank).unwrap();
            self.tcp.show(epoch, peer, &[0]);
        }
    }

    fn enter(&mut self, epoch: Epoch) {
        let lane_bytes = self.tcp.measures.rings[0].lane_bytes;
        for rank in (0..self.seen.len()).filter(|rank| *rank != self.me) {
            let peer = self.peer(rank).unwrap();
            self.seen[rank] = Some(loop {
                self.tcp.poll(true, &mut self.events);
                match self.tcp.shown(peer, epoch, &sizes(lane_bytes)) {
                    Shown::Memory(memory) => break memory,
                    Shown::Waits => {}
                    Shown::Never => panic!("rank {rank} has ended"),
                }
            });
        }
        self.own = self.tcp.own(epoch, &[0]).unwrap();
        let block = |(rank, seen): (usize, &Option<Memory>)| {
            let memory = if rank == self.me { Some(&self.own) } else { seen.as_ref() };
            memory.unwrap().block.clone()
        };
        let blocks: Vec<Arc<Region>> = self.seen.iter().enumerate().map(block).collect();
        let peers: Vec<Option<Peer>> = (0..self.seen.len()).map(|rank| self.peer(rank)).collect();
        self.tcp.enter(epoch, Rank(self.me as u16), &peers, &blocks);
    }

    fn poll(&mut self) {
        self.events.full = Members::NONE;
        self.tcp.poll(false, &mut self.events);
    }

    fn others(&self) -> Members {
        let others = (0..self.seen.len()).filter(|rank| *rank != self.me);
        Members::from_ranks(others.map(|rank| Rank(rank as u16)))
    }

    fn words(&mut self, to: Members, word: usize, value: u64) {
        self.own.block.cell(word * 8).publish(value);
        let mut values = [0; POST_WORDS_MAX];
        values[0] = value;
        self.tcp.post(&[Post::Words { to, at: word as u32 * 8, values, len: 1 }]);
    }

    fn ring(&self) -> Extent {
        extent(self.own.rings[0].as_ref().unwrap())
    }

    fn word_of(&self, rank: usize, word: usize) -> u64 {
        self.seen[rank].as_ref().unwrap().block.cell(word * 8).observe()
    }

    fn ring_of(&self, rank: usize) -> Extent {
        extent(self.seen[rank].as_ref().unwrap().rings[0].as_ref().unwrap())
    }

    fn until(&mut self, what: &str, mut so: impl FnMut(&mut Node) -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !so(self) {
            assert!(Instant::now() < end, "never: {what}");
            self.poll();
        }
    }
}

struct TcpEnd {
    node: Node,
    rings: [Extent; 2],
    ended: Arc<[Cell; 2]>,
}

impl End for TcpEnd {
    fn peer(&self) -> Rank {
        Rank(1 - self.node.me as u16)
    }
    fn fabric(&mut self) -> &mut dyn Fabric {
        &mut self.node.tcp
    }
    fn mine(&self) -> &Region {
        &self.node.own.block
    }
    fn theirs(&self) -> &Region {
        &self.node.seen[1 - self.node.me].as_ref().unwrap().block
    }
    fn my_ring(&self) -> &Extent {
        &self.rings[0]
    }
    fn their_ring(&self) -> &Extent {
        &self.rings[1]
    }
    fn scratch(&self) -> usize {
        0
    }
    fn closed_at(&self) -> usize {
        CLOSED_AT
    }
    fn peer_has_ended(&self) -> bool {
        self.ended[1 - self.node.me].observe() == 1
    }
    fn stills_revoked(&self) -> bool {
        true
    }
    fn fd_is_readable(&mut self, within: Duration) -> bool {
        readable(&self.node.tcp, within)
    }
    fn rounds(&self) -> u64 {
        2_000
    }
}

fn readable(tcp: &Tcp, within: Duration) -> bool {
    let time = Timespec { tv_sec: within.as_secs() as i64, tv_nsec: within.subsec_nanos().into() };
    poll(&mut [PollFd::new(&tcp.fd(), PollFlags::IN)], Some(&time)) == Ok(1)
}

fn failures(check: &Check, sealed: bool) -> Vec<String> {
    let ended = Arc::new([Cell::new(0), Cell::new(0)]);
    let mut ends: Vec<TcpEnd> = members(2, sealed, LANE_BYTES)
        .into_iter()
        .map(|node| {
            let rings = [node.ring(), node.ring_of(1 - node.me)];
            TcpEnd { node, rings, ended: ended.clone() }
        })
        .collect();
    let (mut two, mut one) = (ends.pop().unwrap(), ends.pop().unwrap());
    let ended = &ended;
    std::thread::scope(|scope| {
        let other = scope.spawn(move || {
            let outcome = run(check, false, &mut two);
            drop(two);
            ended[1].publish(1);
            outcome
        });
        let first = run(check, true, &mut one);
        drop(one);
        ended[0].publish(1);
        [first, other.join().unwrap()].into_iter().filter_map(Result::err).collect()
    })
}

#[test]
fn tcp_keeps_every_promise() {
    for check in CHECKS {
        for sealed in [false, true] {
            assert_eq!(failures(check, sealed), [""; 0], "{} sealed: {sealed}", check.name);
        }
    }
}
