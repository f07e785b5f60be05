// SPDX-License-Identifier: MIT OR Apache-2.0
//! Members over loopback in one process: the promises, and what a stream can do to them.

use super::link::Keys;
use super::mirror::{RingMeasures, extent};
use super::*;
use crate::base::RingId;
use crate::fabric::conformance::{CHECKS, Check, End, WORDS, run};
use crate::fabric::{Shown, Sizes};
use crate::mem::Extent;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::{TcpListener, TcpStream};

pub(in crate::fabric) const BLOCK_BYTES: usize = WORDS * 8 + 256;
pub(in crate::fabric) const BEAT_AT: usize = WORDS * 8;
pub(in crate::fabric) const CLOSED_AT: usize = WORDS * 8 + 128;
pub(in crate::fabric) const LANE_BYTES: u64 = 1 << 20;

pub fn setup(lane_bytes: u64) -> Setup {
    let rings = vec![RingMeasures { lanes: 2, lane_bytes }];
    let measures = Measures { block_bytes: BLOCK_BYTES, beat_at: BEAT_AT, rings };
    Setup { measures, beat_at: BEAT_AT, closed_at: CLOSED_AT, parks: true, views: true }
}

/// Both ends of a connection, as they would come from a handshake.
pub(in crate::fabric) fn channels(of: [u64; 2], sealed: bool) -> [Channel; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let other = listener.accept().unwrap().0;
    let keys = |send, receive| sealed.then_some(Keys { send: [send; 32], receive: [receive; 32] });
    [Channel::of(one, of[1], keys(1, 2)).unwrap(), Channel::of(other, of[0], keys(2, 1)).unwrap()]
}

/// A member and what it sees: its memory, and by rank the mirrors of the others.
pub(super) struct Node {
    pub(super) tcp: Tcp,
    me: usize,
    pub(super) own: Memory,
    seen: Vec<Option<Memory>>,
    events: Events,
}

/// So many members, each connected with each, who have shown their memory of epoch 1 and entered it.
pub(super) fn members(count: usize, sealed: bool, lane_bytes: u64) -> Vec<Node> {
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
    // That the others have entered is an event, too: tests begin after it.
    let all_heard =
        |node: &Node| node.others().iter().all(|rank| node.word_of(rank.index(), BEAT_AT / 8) == 1);
    while !nodes.iter().all(all_heard) {
        nodes.iter_mut().for_each(|node| node.poll());
    }
    nodes
}

pub(in crate::fabric) fn sizes(lane_bytes: u64) -> Sizes {
    Sizes { block: BLOCK_BYTES, rings: vec![Some(2 * lane_bytes as usize)] }
}

impl Node {
    pub(super) fn peer(&self, rank: usize) -> Option<Peer> {
        self.tcp.peer(rank as u64 + 1).filter(|_| rank != self.me)
    }

    pub(super) fn show(&mut self, epoch: Epoch) {
        for rank in (0..self.seen.len()).filter(|rank| *rank != self.me) {
            let peer = self.peer(rank).unwrap();
            self.tcp.show(epoch, peer, &[0]).unwrap();
        }
    }

    /// Makes memory of the epoch after the first, and shows it.
    pub(super) fn show_next(&mut self, subgroups: &[usize]) {
        self.tcp.own(Epoch(2), subgroups).unwrap();
        self.show(Epoch(2));
    }

    pub(super) fn next_block(&self) -> Arc<Region> {
        let mine = self.tcp.mine.iter().find(|mine| mine.epoch == Epoch(2));
        mine.unwrap().memory.block.clone()
    }

    pub(super) fn enter(&mut self, epoch: Epoch) {
        let lane_bytes = self.tcp.measures.rings[0].lane_bytes;
        for rank in (0..self.seen.len()).filter(|rank| *rank != self.me) {
            let peer = self.peer(rank).unwrap();
            self.seen[rank] = Some(loop {
                self.tcp.poll(true, &mut self.events);
                match self.tcp.shown(peer, epoch, &sizes(lane_bytes)).unwrap() {
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
        self.own.block.cell(BEAT_AT).raise(1); // with `enter`, not before
        self.tcp.enter(epoch, Rank(self.me as u16), &peers, &blocks);
    }

    pub(super) fn poll(&mut self) {
        self.events.full = Members::NONE;
        self.tcp.poll(false, &mut self.events);
    }

    pub(super) fn others(&self) -> Members {
        let others = (0..self.seen.len()).filter(|rank| *rank != self.me);
        Members::from_ranks(others.map(|rank| Rank(rank as u16)))
    }

    pub(super) fn words(&mut self, to: Members, word: usize, value: u64) {
        self.own.block.cell(word * 8).publish(value);
        let mut values = [0; POST_WORDS_MAX];
        values[0] = value;
        self.tcp.post(&[Post::Words { to, at: word as u32 * 8, values, len: 1, news: true }]);
    }

    fn ring(&self) -> Extent {
        extent(self.own.rings[0].as_ref().unwrap())
    }

    pub(super) fn word_of(&self, rank: usize, word: usize) -> u64 {
        self.seen[rank].as_ref().unwrap().block.cell(word * 8).observe()
    }

    fn ring_of(&self, rank: usize) -> Extent {
        extent(self.seen[rank].as_ref().unwrap().rings[0].as_ref().unwrap())
    }

    pub(super) fn until(&mut self, what: &str, mut so: impl FnMut(&mut Node) -> bool) {
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

pub(in crate::fabric) fn readable(fabric: &dyn Fabric, within: Duration) -> bool {
    let time = Timespec { tv_sec: within.as_secs() as i64, tv_nsec: within.subsec_nanos().into() };
    poll(&mut [PollFd::new(&fabric.fd(), PollFlags::IN)], Some(&time)) == Ok(1)
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

/// Posts slots of a ring and their count, as an engine does to those that are not full.
struct Stream {
    posted: Vec<u64>,
    slot_bytes: u64,
}

impl Stream {
    /// One more slot for each of those that take it.
    fn post(&mut self, node: &mut Node, to: Members) {
        let slots = node.tcp.measures.rings[0].lane_bytes / self.slot_bytes;
        for rank in to.without(node.events.full).iter() {
            let n = self.posted[rank.index()];
            let from = n % slots * self.slot_bytes;
            let upto = from + self.slot_bytes;
            let (to, ring) = (Members::from_ranks([rank]), RingId { subgroup: 0, lane: 1 });
            let mut values = [0; POST_WORDS_MAX];
            values[0] = n + 1;
            node.tcp.post(&[
                Post::Span { to, ring, from, upto },
                Post::Words { to, at: 8, values, len: 1, news: true },
            ]);
            self.posted[rank.index()] += 1;
        }
    }
}

fn queued(node: &Node, peer: usize) -> usize {
    node.tcp.links[peer].as_ref().unwrap().outgoing.parcels()
}

/// O3, P4: who never reads is full, costs no more memory after an hour than after a second, and does
/// not slow the others. When it reads, it gets all that it was posted, in order.
#[test]
fn a_peer_that_never_reads_costs_a_bounded_amount() {
    for sealed in [false, true] {
        let mut nodes = members(3, sealed, LANE_BYTES);
        let (mut lazy, mut eager, mut sender) =
            (nodes.pop().unwrap(), nodes.pop().unwrap(), nodes.pop().unwrap());
        let mut stream = Stream { posted: vec![0; 3], slot_bytes: 64 << 10 };
        let (mut most, mut full) = (0, 0u64);
        for n in 0..4_000u64 {
            sender.poll();
            full += u64::from(sender.events.full.contains(Rank(2)));
            let others = sender.others();
            stream.post(&mut sender, others);
            most = most.max(queued(&sender, 2));
            let count = stream.posted[1];
            eager.until("the one that reads has it", |eager| {
                sender.poll();
                eager.word_of(0, 1) == count
            });
            assert_eq!(count, n + 1, "it is never full for long: it is waited for");
        }
        assert!(full > 3_000, "full in {full} of 4000 polls");
        assert!(most <= 2, "{most} parcels waited");
        assert!(stream.posted[2] < 1_000, "the kernel holds that much");
        lazy.until("what was posted lands", |lazy| {
            sender.poll();
            lazy.word_of(0, 1) == stream.posted[2]
        });
        sender.until("it is full no more", |sender| sender.events.full.is_empty());
    }
}

/// O2: the socket takes a record in part; its rest follows unchanged, whatever is posted meanwhile.
#[test]
fn a_record_that_is_half_sent_is_finished() {
    for sealed in [false, true] {
        let lane_bytes = 8 << 20;
        let mut nodes = members(2, sealed, lane_bytes);
        let (mut two, mut one) = (nodes.pop().unwrap(), nodes.pop().unwrap());
        let ring = one.ring();
        let content = |at: u64| at.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for at in (0..lane_bytes).step_by(8) {
            ring.write(at, &content(at).to_le_bytes());
        }
        let (to, ring) = (one.others(), RingId::default());
        one.tcp.post(&[Post::Span { to, ring, from: 0, upto: lane_bytes }]);
        one.words(to, 3, 7);
        one.poll();
        assert!(one.events.full.contains(Rank(1)), "8 MiB went at once");
        one.own.block.cell(3 * 8).publish(9); // by value: this is not posted
        let mirror = two.ring_of(0);
        let mut turns = 0;
        two.until("it lands", |two| {
            one.poll();
            turns += 1;
            two.word_of(0, 3) != 0
        });
        assert!(turns > 1 && two.word_of(0, 3) == 7);
        let whole = mirror.lend(0, lane_bytes as u32).unwrap().chunks_exact(8).enumerate();
        for (at, bytes) in whole {
            assert_eq!(bytes, content(at as u64 * 8).to_le_bytes(), "word {at}");
        }
    }
}

/// O4: while a long span goes to a slow peer, my beat lands there all the same, before the span's end.
#[test]
fn a_beat_does_not_wait_behind_a_ring() {
    let lane_bytes = 64 << 20;
    let mut nodes = members(2, false, lane_bytes);
    let (mut two, mut one) = (nodes.pop().unwrap(), nodes.pop().unwrap());
    let (to, ring) = (one.others(), RingId::default());
    one.tcp.post(&[Post::Span { to, ring, from: 0, upto: lane_bytes }]);
    one.words(to, 3, 1);
    let (mut beats, mut beat) = (0, 0);
    two.until("the word after the span lands", |two| {
        one.own.block.cell(BEAT_AT).publish(one.own.block.cell(BEAT_AT).own() + 1);
        one.poll();
        let now = two.word_of(0, BEAT_AT / 8);
        beats += u64::from(now > beat);
        beat = now;
        two.word_of(0, 3) == 1
    });
    assert!(beats > 10, "{beats} beats landed before 64 MiB did");
    one.own.block.cell(BEAT_AT).publish(1 << 40);
    two.until("a beat lands without a post", |two| {
        one.tcp.poll(true, &mut one.events);
        two.word_of(0, BEAT_AT / 8) == 1 << 40
    });
}

/// A member that beats by a timer and sleeps in between looks once and goes back to sleep.
#[test]
fn a_beat_is_sent_before_sleep() {
    let mut nodes = members(2, true, LANE_BYTES);
    let (mut two, mut one) = (nodes.pop().unwrap(), nodes.pop().unwrap());
    one.own.block.cell(BEAT_AT).publish(77);
    one.tcp.arm(false);
    two.until("it is there", |two| two.word_of(0, BEAT_AT / 8) == 77);
}

/// O5: what is no news goes with the next news, or after some polls, or before sleep; never is the peer
/// full for that.
#[test]
fn what_is_no_news_waits_a_little() {
    let mut nodes = members(2, false, LANE_BYTES);
    let (mut two, mut one) = (nodes.pop().unwrap(), nodes.pop().unwrap());
    let to = one.others();
    let quiet = |one: &mut Node, value: u64| {
        let values = [value; POST_WORDS_MAX];
        one.tcp.post(&[Post::Words { to, at: 40, values, len: 1, news: false }]);
        one.poll();
        assert!(one.events.full.is_empty() && one.tcp.links[1].as_ref().unwrap().outgoing.waits());
    };
    quiet(&mut one, 1);
    one.words(to, 6, 1);
    two.until("news take it along", |two| two.word_of(0, 6) == 1);
    assert_eq!(two.word_of(0, 5), 1, "F2");
    quiet(&mut one, 2);
    (0..10).for_each(|_| one.poll());
    two.until("it goes alone after some polls", |two| two.word_of(0, 5) == 2);
    quiet(&mut one, 3);
    one.tcp.arm(false);
    two.until("it goes before sleep", |two| two.word_of(0, 5) == 3);
    one.tcp.disarm();
    quiet(&mut one, 4);
    one.tcp.farewell();
    two.until("it goes before the farewell", |two| two.word_of(0, CLOSED_AT / 8) == 1);
    assert_eq!(two.word_of(0, 5), 4);
}

/// Each look tried the socket of each peer that had no room, past the patience of polls: a hundred
/// microseconds' turn of a member whose peers stand still was spent on that.
#[test]
fn looks_are_patient_too() {
    let mut nodes = members(2, false, LANE_BYTES);
    let (_lazy, mut sender) = (nodes.pop().unwrap(), nodes.pop().unwrap());
    let mut stream = Stream { posted: vec![0; 2], slot_bytes: 64 << 10 };
    let others = sender.others();
    for _ in 0..500 {
        sender.poll();
        stream.post(&mut sender, others);
    }
    assert!(sender.events.full.contains(Rank(1)));
    let tries = |sender: &Node| sender.tcp.links[1].as_ref().unwrap().outgoing.load().1;
    let before = tries(&sender);
    for beat in 2..130 {
        sender.own.block.cell(BEAT_AT).publish(beat);
        sender.tcp.poll(true, &mut Events::default());
    }
    let tried = tries(&sender) - before;
    assert!((8..=24).contains(&tried), "{tried} tries in 128 looks");
}

/// O3: what is said to a peer that does not read is bounded, too.
#[test]
fn letters_to_the_deaf_are_refused() {
    let mut nodes = members(2, false, LANE_BYTES);
    let (mut two, mut one) = (nodes.pop().unwrap(), nodes.pop().unwrap());
    let (peer, letter) = (one.peer(1).unwrap(), vec![3; wire::SAY_BYTES_MAX]);
    let said = (0..10_000).take_while(|_| one.tcp.say(peer, &letter)).count();
    assert!((16..1_000).contains(&said), "{said} letters of 64 KiB");
    let mut heard = 0;
    two.until("all that was said is heard", |two| {
        one.poll();
        while let Some((_, bytes)) = two.tcp.heard() {
            assert!(bytes == letter);
            heard += 1;
        }
        heard == said
    });
    assert!(one.tcp.say(peer, b"you read again"));
}

/// What one posts that is a view ahead lands in that view's mirror; what waits from before the view
/// goes to the old one.
#[test]
fn a_peer_may_be_an_epoch_ahead() {
    let mut nodes = members(2, false, LANE_BYTES);
    let (mut two, mut one) = (nodes.pop().unwrap(), nodes.pop().unwrap());
    let others = one.others();
    one.words(others, 5, 1);
    one.own.block.cell(6 * 8).publish(1); // never posted
    let old = one.ring();
    old.write(64, &[7; 8]);
    let ring = RingId::default();
    one.tcp.post(&[Post::Span { to: others, ring, from: 64, upto: 72 }]);
    // One that goes on alone would never enter; it needs what the other has shown.
    one.tcp.own(Epoch(2), &[0]).unwrap().block.cell(7 * 8).publish(3);
    two.tcp.own(Epoch(2), &[0]).unwrap();
    (one.show(Epoch(2)), two.show(Epoch(2)));
    one.enter(Epoch(2));
    let ahead = one.ring();
    ahead.write(64, &[9; 8]);
    one.tcp.post(&[Post::Span { to: others, ring, from: 64, upto: 72 }]);
    one.words(others, 5, 2);
    let peer = two.peer(0).unwrap();
    let next = loop {
        two.poll();
        match two.tcp.shown(peer, Epoch(2), &sizes(LANE_BYTES)).unwrap() {
            Shown::Memory(memory) if memory.block.cell(5 * 8).observe() == 2 => break memory,
            Shown::Never => panic!("it lives"),
            _ => {}
        }
    };
    assert_eq!([5, 6, 7].map(|word| two.word_of(0, word)), [1, 0, 0]);
    assert_eq!(next.block.cell(7 * 8).observe(), 3, "it was written before the view was entered");
    assert_eq!(two.ring_of(0).lend(64, 8), Some(&[7; 8][..]));
    let (before, kept) = (two.seen[0].clone().unwrap(), next.clone());
    two.enter(Epoch(2));
    assert!(Arc::ptr_eq(&two.seen[0].as_ref().unwrap().block, &kept.block));
    assert_eq!(two.ring_of(0).lend(64, 8), Some(&[9; 8][..]));
    assert_eq!(before.block.cell(5 * 8).observe(), 1, "N2");
    two.words(two.others(), 5, 4);
    one.until("both are there", |one| one.word_of(1, 5) == 4);
}

#[test]
fn letters_arrive_whole_and_outlive_their_sender() {
    for sealed in [false, true] {
        let mut nodes = members(2, sealed, LANE_BYTES);
        let (mut two, mut one) = (nodes.pop().unwrap(), nodes.pop().unwrap());
        let long = vec![5; wire::SAY_BYTES_MAX];
        let peer = one.peer(1).unwrap();
        for letter in [&b""[..], b"odd", &long] {
            assert!(one.tcp.say(peer, letter));
        }
        assert!(!one.tcp.say(Peer(9), b"nobody"));
        one.tcp.farewell();
        drop(one);
        let end = Instant::now() + Duration::from_secs(30);
        while two.events.lost.is_empty() && Instant::now() < end {
            two.poll();
        }
        let from = two.peer(0).unwrap();
        assert!(two.tcp.has_ended(from));
        for letter in [&b""[..], b"odd", &long] {
            assert_eq!(two.tcp.heard(), Some((from, letter.to_vec())));
        }
        assert_eq!(two.tcp.heard(), None);
        assert_eq!(two.word_of(0, CLOSED_AT / 8), 1, "the farewell");
        assert!(!two.tcp.say(from, b"too late"));
    }
}

/// What a stranger puts into the stream ends the connection, and nothing of it lands.
#[test]
fn a_forged_record_never_lands() {
    let mut tcp = Tcp::new(setup(LANE_BYTES)).unwrap();
    let [mine, theirs] = channels([1, 2], true);
    tcp.connect_as(Peer(1), mine).unwrap();
    let mut sealer = seal::Sealer::new(&[2; 32]);
    let mut send = |seal: bool, write: &dyn Fn(&mut wire::Writer)| {
        let mut bytes = Vec::new();
        wire::Writer(&mut bytes).begin();
        write(&mut wire::Writer(&mut bytes));
        let length = bytes.len() - wire::HEADER_BYTES + wire::TAG_BYTES;
        wire::finish(&mut bytes, length);
        match seal {
            true => sealer.seal(&mut bytes),
            false => bytes.extend([0; wire::TAG_BYTES]),
        }
        let parts = [crate::mem::stream::Part::Bytes(&bytes)];
        let sent = crate::mem::stream::send(theirs.socket.as_fd(), parts.into_iter());
        assert_eq!(sent, Ok(bytes.len()));
    };
    send(true, &|writer| {
        writer.memory(Epoch(1), &[0]);
        writer.enter(Epoch(1));
        writer.words(8, &[1]);
    });
    let mut events = Events::default();
    let sizes = sizes(LANE_BYTES);
    let memory = loop {
        tcp.poll(true, &mut events);
        if let Shown::Memory(memory) = tcp.shown(Peer(1), Epoch(1), &sizes).unwrap() {
            break memory;
        }
    };
    assert_eq!(memory.block.cell(8).observe(), 1);
    send(false, &|writer| writer.words(8, &[2]));
    send(true, &|writer| writer.words(8, &[3]));
    while !tcp.has_ended(Peer(1)) {
        tcp.poll(true, &mut events);
    }
    assert_eq!(memory.block.cell(8).observe(), 1);
    assert!(matches!(tcp.shown(Peer(1), Epoch(2), &sizes), Ok(Shown::Never)));
}

/// Both ends at once: what a crossing farewell must not do is lose the other's.
#[test]
fn two_that_leave_at_once_hear_of_each_other() {
    for _ in 0..20 {
        let mut nodes = members(2, false, LANE_BYTES);
        std::thread::scope(|scope| {
            for mut node in nodes.drain(..) {
                scope.spawn(move || {
                    let other = 1 - node.me;
                    node.tcp.farewell();
                    node.until("the other leaves", |node| !node.events.lost.is_empty());
                    assert_eq!(node.word_of(other, CLOSED_AT / 8), 1);
                });
            }
        });
    }
}

/// Each that came and went before it was a member left its buffers and its mirror behind until the next
/// view began: one that is started again and again fills the memory of all members.
#[test]
fn who_comes_and_goes_leaves_nothing_behind() {
    let mut nodes = members(2, false, LANE_BYTES);
    let mut one = nodes.swap_remove(0);
    one.tcp.admit(Admission::All);
    for who in 100..100 + GHOSTS_MAX as u64 + 20 {
        let [mine, theirs] = channels([1, who], false);
        let mut guest = Tcp::new(setup(LANE_BYTES)).unwrap();
        let (peer, member) = (one.tcp.connect(mine).unwrap(), guest.connect(theirs).unwrap());
        if who == 100 {
            guest.own(Epoch(0), &[0]).unwrap();
            guest.show(Epoch(0), member, &[0]).unwrap();
            let shown = |one: &mut Node| one.tcp.shown(peer, Epoch(0), &sizes(LANE_BYTES)).unwrap();
            one.until("it shows its memory", |one| {
                one.tcp.poll(true, &mut one.events);
                matches!(shown(one), Shown::Memory(_))
            });
            drop(guest);
            one.until("it is gone", |one| {
                one.tcp.poll(true, &mut one.events);
                one.tcp.has_ended(peer)
            });
            assert!(matches!(shown(&mut one), Shown::Never), "its memory is kept");
            continue;
        }
        drop(guest);
        one.until("it is gone", |one| {
            one.tcp.poll(true, &mut one.events);
            one.tcp.has_ended(peer)
        });
    }
    assert!(one.tcp.links.len() <= GHOSTS_MAX + 3, "{} places", one.tcp.links.len());
    assert!(one.tcp.links[1].as_ref().is_some_and(|link| !link.has_ended()), "a member's stays");
}

/// Memory of one epoch after the other, each entered before the next is shown, was made without end.
#[test]
fn a_peer_makes_no_more_memory_than_it_may() {
    let measures = Arc::new(setup(4096).measures);
    let mut mirror = mirror::Mirror::new(measures);
    let refused = (1..100).find(|epoch| {
        use wire::Sink;
        let shown = mirror.memory(Epoch(*epoch), &[]);
        shown.and_then(|()| mirror.enter(Epoch(*epoch)).map(drop)).is_err()
    });
    assert!(refused.is_some_and(|epoch| epoch > 4), "{refused:?}");
}
