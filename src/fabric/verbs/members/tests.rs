// SPDX-License-Identifier: MIT OR Apache-2.0
//! Members over a software device in one process: the promises, the order of two ways, and what comes of
//! nonsense, failures and shortages.

mod net;

use super::super::conformance::{CHECKS, Check, End, run};
use super::super::tcp::tests::{
    BEAT_AT, BLOCK_BYTES, CLOSED_AT, LANE_BYTES, channels, readable, setup, sizes,
};
use super::super::{Admission, Memory, Shown};
use super::sys::soft::{Call, Event};
use super::*;
use crate::base::{Epoch, RingId};
use crate::fabric::tcp::mirror::extent;
use crate::mem::{Cell, Extent};
use crate::mutants::plant as plant_fault;
use net::Net;

/// A member and what it sees: its memory, and by rank the mirrors of the others.
struct Node {
    verbs: Verbs,
    me: usize,
    own: Memory,
    seen: Vec<Option<Memory>>,
    events: Events,
}

/// So many members, each connected with each, who have shown their memory of epoch 1 and entered it, and
/// have each other's keys.
fn members(net: &Net, count: usize, sealed: bool) -> Vec<Node> {
    let mut nodes = strangers(net, count, sealed);
    nodes.iter_mut().for_each(|node| node.show(Epoch(1)));
    nodes.iter_mut().for_each(|node| node.enter(Epoch(1)));
    settle(&mut nodes);
    nodes
}

/// The same before they have shown anything.
fn strangers(net: &Net, count: usize, sealed: bool) -> Vec<Node> {
    let mut nodes: Vec<Node> = (0..count).map(|me| node(net, me, count)).collect();
    for one in 0..count {
        for other in one + 1..count {
            let [first, second] = channels([one as u64 + 1, other as u64 + 1], sealed);
            nodes[one].verbs.tcp_mut().connect_as(Peer(other as u16), first).unwrap();
            nodes[other].verbs.tcp_mut().connect_as(Peer(one as u16), second).unwrap();
        }
    }
    nodes
}

fn node(net: &Net, me: usize, count: usize) -> Node {
    let tcp = Tcp::new(setup(LANE_BYTES)).unwrap();
    let mut verbs = Verbs::new(tcp, net.device(), Setup::default()).unwrap();
    let own = verbs.own(Epoch(1), &[0]).unwrap();
    Node { verbs, me, own, seen: vec![None; count], events: Events::default() }
}

/// Until nobody waits for anybody.
fn settle(nodes: &mut [Node]) {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        nodes.iter_mut().for_each(Node::look);
        let calm = |node: &Node| !node.verbs.waits && node.events.full.is_empty();
        if nodes.iter().all(calm) && nodes.iter_mut().all(|node| node.verbs.has_landed()) {
            // The bells of that are there, and are taken.
            return nodes.iter_mut().for_each(Node::look);
        }
        assert!(Instant::now() < end, "somebody waits for ever");
    }
}

impl Node {
    fn peer(&self, rank: usize) -> Option<Peer> {
        self.verbs.peer(rank as u64 + 1).filter(|_| rank != self.me)
    }

    fn show(&mut self, epoch: Epoch) {
        self.verbs.own(epoch, &[0]).unwrap();
        for rank in (0..self.seen.len()).filter(|rank| *rank != self.me) {
            let peer = self.peer(rank).unwrap();
            self.verbs.show(epoch, peer, &[0]).unwrap();
        }
    }

    fn enter(&mut self, epoch: Epoch) {
        for rank in (0..self.seen.len()).filter(|rank| *rank != self.me) {
            let peer = self.peer(rank).unwrap();
            self.seen[rank] = Some(loop {
                self.verbs.poll(true, &mut self.events);
                match self.verbs.shown(peer, epoch, &sizes(LANE_BYTES)).unwrap() {
                    Shown::Memory(memory) => break memory,
                    Shown::Waits => {}
                    Shown::Never => panic!("rank {rank} has ended"),
                }
            });
        }
        self.own = self.verbs.own(epoch, &[0]).unwrap();
        let block = |(rank, seen): (usize, &Option<Memory>)| {
            let memory = if rank == self.me { Some(&self.own) } else { seen.as_ref() };
            memory.unwrap().block.clone()
        };
        let blocks: Vec<Arc<Region>> = self.seen.iter().enumerate().map(block).collect();
        let peers: Vec<Option<Peer>> = (0..self.seen.len()).map(|rank| self.peer(rank)).collect();
        self.own.block.cell(BEAT_AT).raise(1);
        self.verbs.enter(epoch, Rank(self.me as u16), &peers, &blocks);
    }

    fn poll(&mut self) {
        self.events.full = Members::NONE;
        self.verbs.poll(false, &mut self.events);
    }

    fn look(&mut self) {
        self.events.full = Members::NONE;
        self.verbs.poll(true, &mut self.events);
    }

    fn others(&self) -> Members {
        let others = (0..self.seen.len()).filter(|rank| *rank != self.me);
        Members::from_ranks(others.map(|rank| Rank(rank as u16)))
    }

    fn words(&mut self, word: usize, value: u64, news: bool) {
        self.own.block.cell(word * 8).publish(value);
        let mut values = [0; POST_WORDS_MAX];
        values[0] = value;
        let (to, at) = (self.others(), word as u32 * 8);
        self.verbs.post(&[Post::Words { to, at, values, len: 1, news }]);
    }

    fn word_of(&self, rank: usize, word: usize) -> u64 {
        self.seen[rank].as_ref().unwrap().block.cell(word * 8).observe()
    }

    fn ring(&self) -> Extent {
        extent(self.own.rings[0].as_ref().unwrap())
    }

    fn ring_of(&self, rank: usize) -> Extent {
        extent(self.seen[rank].as_ref().unwrap().rings[0].as_ref().unwrap())
    }

    fn line(&mut self, rank: usize) -> &mut Line {
        let at = usize::from(self.peer(rank).unwrap().0);
        &mut self.verbs.places[at].as_mut().unwrap().line
    }

    fn until(&mut self, what: &str, mut so: impl FnMut(&mut Node) -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !so(self) {
            assert!(Instant::now() < end, "never: {what}");
            self.look();
        }
    }

    /// Polls of both.
    fn until_with(&mut self, other: &mut Node, what: &str, mut so: impl FnMut(&mut Node) -> bool) {
        self.until(what, |node| {
            other.look();
            so(node)
        });
    }
}

fn two(net: &Net, sealed: bool) -> (Node, Node) {
    let mut nodes = members(net, 2, sealed);
    let two = nodes.pop().unwrap();
    (nodes.pop().unwrap(), two)
}

struct VerbsEnd {
    node: Node,
    rings: [Extent; 2],
    ended: Arc<[Cell; 2]>,
}

impl End for VerbsEnd {
    fn peer(&self) -> Rank {
        Rank(1 - self.node.me as u16)
    }
    fn fabric(&mut self) -> &mut dyn Fabric {
        &mut self.node.verbs
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
        readable(&self.node.verbs, within)
    }
    fn rounds(&self) -> u64 {
        400
    }
}

fn failures(check: &Check, sealed: bool) -> Vec<String> {
    let net = Net::running(check.name.len() as u64);
    let ended = Arc::new([Cell::new(0), Cell::new(0)]);
    let mut ends: Vec<VerbsEnd> = members(&net, 2, sealed)
        .into_iter()
        .map(|node| {
            let rings = [node.ring(), node.ring_of(1 - node.me)];
            VerbsEnd { node, rings, ended: ended.clone() }
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
fn verbs_keeps_every_promise() {
    for (at, check) in CHECKS.iter().enumerate() {
        assert_eq!(failures(check, at % 2 == 0), [""; 0], "{}", check.name);
    }
}

/// K3: a peer whose keys are not here is full; what is posted to it waits, and comes behind the block as
/// it was.
#[test]
fn until_there_are_keys_a_peer_is_full() {
    let net = Net::running(1);
    let mut nodes = strangers(&net, 2, false);
    nodes.iter_mut().for_each(|node| node.show(Epoch(1)));
    let (mut two, mut one) = (nodes.pop().unwrap(), nodes.pop().unwrap());
    one.own.block.cell(7 * 8).publish(5); // before the first post
    one.until_with(&mut two, "it is shown", |one| {
        let peer = one.peer(1).unwrap();
        let sizes = sizes(LANE_BYTES);
        matches!(one.verbs.shown(peer, Epoch(1), &sizes), Ok(Shown::Memory(_)))
    });
    one.enter(Epoch(1));
    for value in 1..40 {
        one.words(6, value, true);
        one.poll();
        assert_eq!(one.events.full, one.others(), "nobody has answered");
    }
    two.enter(Epoch(1));
    one.until_with(&mut two, "it has keys", |one| one.events.full.is_empty());
    one.until_with(&mut two, "and the other, too", |_| true);
    two.until_with(&mut one, "all is there", |two| two.word_of(0, 6) == 39);
    assert_eq!(two.word_of(0, 7), 5);
}

/// K1 to K4: what one posts that is a view ahead lands in that view's memory; what it has posted before, in
/// the old one; when both have gone on, the old one is closed.
#[test]
fn a_peer_may_be_an_epoch_ahead() {
    let net = Net::running(2);
    let (mut one, mut two) = two(&net, true);
    let (others, ring) = (one.others(), RingId::default());
    let span = Post::Span { to: others, ring, from: 64, upto: 72 };
    one.words(5, 1, true);
    one.ring().write(64, &[7; 8]);
    one.verbs.post(&[span]);
    two.until_with(&mut one, "it lands", |two| two.word_of(0, 5) == 1);
    (one.show(Epoch(2)), two.show(Epoch(2)));
    let open = net.open();
    one.enter(Epoch(2));
    one.until_with(&mut two, "keys come from one who has not entered", |one| {
        one.events.full.is_empty()
    });
    one.ring().write(64, &[9; 8]);
    one.verbs.post(&[span]);
    one.words(5, 2, true);
    let peer = two.peer(0).unwrap();
    let mut next = None;
    two.until_with(&mut one, "it lands in the next", |two| {
        match two.verbs.shown(peer, Epoch(2), &sizes(LANE_BYTES)).unwrap() {
            Shown::Memory(memory) => next = Some(memory),
            Shown::Waits | Shown::Never => {}
        }
        next.as_ref().is_some_and(|next| next.block.cell(5 * 8).observe() == 2)
    });
    assert_eq!(two.word_of(0, 5), 1);
    assert_eq!(two.ring_of(0).lend(64, 8), Some(&[7; 8][..]));
    two.enter(Epoch(2));
    assert!(Arc::ptr_eq(&two.seen[0].as_ref().unwrap().block, &next.unwrap().block));
    assert_eq!(two.ring_of(0).lend(64, 8), Some(&[9; 8][..]));
    two.words(5, 4, true);
    one.until_with(&mut two, "both are there", |one| one.word_of(1, 5) == 4);
    // Of each: its rings of that epoch, the other's block and rings, and what notes are written from and
    // read in; nothing of the one before.
    one.until_with(&mut two, "what is over is closed", |_| net.open() == 10);
    assert!(open > 10);
}

/// K4: who is behind sees who has passed on, and those who have see who is behind; in whatever view they
/// look.
#[test]
fn beats_are_seen_across_views() {
    assert!(beats_across_views());
    plant_fault(Some("verbs-leaves-at-once"));
    let seen = beats_across_views();
    plant_fault(None);
    assert!(!seen, "verbs-leaves-at-once");
}

fn beats_across_views() -> bool {
    let net = Net::running(3);
    let (mut one, mut two) = two(&net, false);
    (one.show(Epoch(2)), two.show(Epoch(2)));
    let behind = two.seen[0].clone().unwrap().block;
    one.enter(Epoch(2));
    one.until_with(&mut two, "it has keys", |one| one.events.full.is_empty());
    (0..100).for_each(|_| [&mut one, &mut two].into_iter().for_each(Node::look));
    one.own.block.cell(BEAT_AT).publish(77);
    two.own.block.cell(BEAT_AT).publish(88);
    (one.verbs.beat(), two.verbs.beat());
    let end = Instant::now() + Duration::from_millis(300);
    let of_two = one.seen[1].clone();
    while Instant::now() < end {
        [&mut one, &mut two].into_iter().for_each(Node::look);
        if behind.cell(BEAT_AT).observe() == 77 {
            break;
        }
    }
    drop(of_two);
    behind.cell(BEAT_AT).observe() == 77
}

/// K11: who has just entered, and whose callback takes long, is heard all the same.
#[test]
fn a_beat_in_a_callback_takes_keys() {
    let net = Net::running(4);
    let mut nodes = strangers(&net, 2, false);
    nodes.iter_mut().for_each(|node| node.show(Epoch(1)));
    nodes.iter_mut().for_each(|node| node.enter(Epoch(1)));
    let (mut two, mut one) = (nodes.pop().unwrap(), nodes.pop().unwrap());
    one.own.block.cell(BEAT_AT).publish(55);
    two.until("it beats though it is not polled", |two| {
        one.verbs.beat();
        two.word_of(0, BEAT_AT / 8) == 55
    });
}

/// Q4: what is no news goes with the next news, or after some polls, or before sleep; never is the peer
/// full for that. News that say the same words take its place.
#[test]
fn what_is_no_news_waits_a_little() {
    let net = Net::running(5);
    let (mut one, mut two) = two(&net, false);
    let quiet = |one: &mut Node, value: u64| {
        one.words(5, value, false);
        one.poll();
        assert!(one.events.full.is_empty() && one.line(1).waiting() == 1);
    };
    quiet(&mut one, 1);
    one.words(6, 1, true);
    two.until("news take it along", |two| two.word_of(0, 6) == 1);
    assert_eq!(two.word_of(0, 5), 1, "F2");
    quiet(&mut one, 2);
    (0..20).for_each(|_| one.poll());
    two.until("it goes alone after some polls", |two| two.word_of(0, 5) == 2);
    quiet(&mut one, 3);
    two.verbs.arm(true);
    two.verbs.poll(true, &mut Events::default());
    assert!(!readable(&two.verbs, Duration::ZERO));
    one.verbs.arm(false);
    assert!(readable(&two.verbs, Duration::from_secs(20)), "who waits for room is woken");
    two.verbs.disarm();
    two.until("it goes before sleep", |two| two.word_of(0, 5) == 3);
    one.verbs.disarm();
    quiet(&mut one, 4);
    let before = one.line(1).queue.counts().work_requests;
    one.words(5, 5, true);
    two.until("the newer one lands", |two| two.word_of(0, 5) == 5);
    assert_eq!(one.line(1).queue.counts().work_requests - before, 1, "and the older one does not");
    quiet(&mut one, 6);
    one.verbs.farewell();
    two.until_with(&mut one, "it goes before the farewell", |two| {
        two.word_of(0, CLOSED_AT / 8) == 1
    });
    assert_eq!(two.word_of(0, 5), 6);
}

/// Acceptance of issue D, line 3: what a turn costs per peer.
#[test]
fn a_turn_is_its_long_spans_one_note_and_one_doorbell() {
    let net = Net::running(6);
    let mut nodes = members(&net, 3, false);
    let before = [1, 2].map(|rank| *nodes[0].line(rank).queue.counts());
    let one = &mut nodes[0];
    let (to, ring, mut values) = (one.others(), RingId::default(), [0; POST_WORDS_MAX]);
    values[0] = 9;
    let words = |at| Post::Words { to, at, values, len: 1, news: true };
    let span = |from, upto| Post::Span { to, ring, from, upto };
    one.verbs.post(&[span(0, 4096), span(64, 192), words(8), words(64)]);
    for (rank, before) in [1, 2].into_iter().zip(before) {
        let now = *nodes[0].line(rank).queue.counts();
        assert_eq!(now.work_requests - before.work_requests, 2);
        assert_eq!(now.doorbells - before.doorbells, 1);
        assert_eq!((now.spans - before.spans, now.notes - before.notes), (1, 1));
        assert_eq!(now.words, before.words);
    }
}

/// More than a queue has slots, and more than one doorbell is for; in order, and whole.
#[test]
fn a_burst_waits_and_lands() {
    let net = Net::running(7);
    let (mut one, mut two) = two(&net, false);
    let (to, mut value) = (one.others(), 0);
    for round in 0..20 {
        one.until_with(&mut two, "there is room", |one| one.events.full.is_empty());
        let mut posts = Vec::new();
        for _ in 0..if round == 0 { 2000 } else { 80 } {
            value += 1;
            let values = [value; POST_WORDS_MAX];
            posts.push(Post::Words { to, at: 128, values, len: 8, news: true });
        }
        let ring = RingId { subgroup: 0, lane: 1 };
        posts.push(Post::Span { to, ring, from: 0, upto: LANE_BYTES });
        one.own.block.cell(128).publish(value);
        if round == 0 {
            net.world.hold();
        }
        one.verbs.post(&posts);
        if round == 0 {
            one.look();
            assert_eq!(one.events.full, to, "so much has no room");
            net.world.release();
        }
    }
    two.until_with(&mut one, "all has landed", |two| two.word_of(0, 16) == value);
    assert_eq!((value, two.word_of(0, 23)), (3520, 3520));
}

/// What no correct member says ends the connection, and is reported once.
#[test]
fn nonsense_is_the_end_of_its_peer() {
    let good = |epoch: u64| {
        let remote = |bytes: usize| memory::Remote { address: 0, bytes: bytes as u64, key: 1 };
        let keys = carrier::Keys { block: remote(BLOCK_BYTES), rings: vec![None] };
        Message::Keys(Epoch(epoch), keys).encode()
    };
    let endpoint = |verbs: &Verbs| {
        let (endpoint, place) = (queue::Endpoint { qpn: 9, psn: 9 }, verbs.device.place());
        let notes = memory::Remote::default();
        Message::Endpoint { endpoint, place, notes, bells: false }.encode()
    };
    for kind in 0..6 {
        let net = Net::running(8);
        let (mut one, mut two) = two(&net, true);
        let said = match kind {
            0 => b"what?".to_vec(),
            1 => good(1), // again
            2 => good(7),
            3 => Message::Done(Epoch(1)).encode(), // it is in it
            4 => Message::Done(Epoch(7)).encode(),
            _ => endpoint(&one.verbs),
        };
        let peer = one.peer(1).unwrap();
        assert!(one.verbs.tcp_mut().carry(peer, &said));
        two.until("it is cut off", |two| !two.events.lost.is_empty());
        two.events.lost = Members::NONE;
        (0..100).for_each(|_| two.verbs.poll(true, &mut two.events));
        assert!(two.events.lost.is_empty(), "{kind}: reported twice");
        assert!(two.verbs.has_ended(two.peer(0).unwrap()));
        one.until("and hears that it is", |one| !one.events.lost.is_empty());
    }
}

/// K5: after `revoke` a peer finds nothing open.
#[test]
fn who_is_revoked_finds_nothing_open() {
    let net = Net::running(9);
    let (mut one, mut two) = two(&net, false);
    let open = net.open();
    one.words(5, 1, true);
    two.until("it lands", |two| two.word_of(0, 5) == 1);
    let peer = two.peer(0).unwrap();
    two.verbs.revoke(peer);
    assert_eq!(net.open(), open - 3, "its block, its rings and its notes are closed at once");
    (2..50).for_each(|value| one.words(5, value, true));
    one.until_with(&mut two, "it is told by the end of its connection", |one| {
        !one.events.lost.is_empty()
    });
    assert_eq!(two.word_of(0, 5), 1, "F4");
    (0..100).for_each(|_| two.verbs.poll(true, &mut two.events));
    assert!(two.events.lost.is_empty(), "that is no news");
}

/// K6: a suspect hears why before it hears of the end, however long that takes on its way.
#[test]
fn a_suspect_hears_the_last_words_before_the_end() {
    assert!(is_told_before_the_end());
    plant_fault(Some("verbs-cuts-at-once"));
    let told = is_told_before_the_end();
    plant_fault(None);
    assert!(!told, "verbs-cuts-at-once");
}

fn is_told_before_the_end() -> bool {
    let net = Net::running(10);
    let (mut one, mut two) = two(&net, false);
    net.world.hold();
    one.words(5, 7, true);
    let peer = one.peer(1).unwrap();
    one.verbs.revoke(peer);
    assert!(one.verbs.has_ended(peer), "N4, as far as this end goes");
    let partings = one.verbs.partings.iter_mut();
    partings.for_each(|parting| parting.until += Duration::from_secs(60)); // a loaded machine
    let end = Instant::now() + PARTING / 5;
    while two.events.lost.is_empty() && Instant::now() < end {
        [&mut one, &mut two].into_iter().for_each(Node::look);
    }
    let early = !two.events.lost.is_empty();
    net.world.release();
    two.until_with(&mut one, "it ends", |two| !two.events.lost.is_empty());
    (0..100).for_each(|_| one.look());
    assert!(one.events.lost.is_empty(), "that is no news");
    assert!(early || one.verbs.partings.is_empty(), "its queue is not kept");
    !early && two.word_of(0, 5) == 7
}

/// A member that stops for itself (`Driver::halt`) says nothing by its queues, lets go of all, and may not
/// be polled again: nobody closed its connections (K6).
#[test]
fn who_halts_is_heard_of_without_another_poll() {
    let net = Net::running(11);
    let (mut one, mut two) = two(&net, false);
    let peer = one.peer(1).unwrap();
    one.verbs.admit(Admission::Nobody);
    one.verbs.revoke(peer);
    two.until("the other has stopped", |two| !two.events.lost.is_empty());
}

/// Both ends at once: who is seen to end first has been heard. (What the other has posted to that one may
/// be cut off by it, K8.)
#[test]
fn two_that_leave_at_once_hear_of_each_other() {
    for seed in 0..10 {
        let net = Net::running(seed);
        let mut nodes = members(&net, 2, false);
        let heard: u64 = std::thread::scope(|scope| {
            let leave = |mut node: Node| {
                let other = 1 - node.me;
                node.verbs.farewell();
                node.until("the other leaves", |node| !node.events.lost.is_empty());
                node.word_of(other, CLOSED_AT / 8)
            };
            let threads: Vec<_> =
                nodes.drain(..).map(|node| scope.spawn(move || leave(node))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!(heard >= 1, "neither has heard the other");
    }
}

/// A number is given to another process: nothing of the one before is there.
#[test]
fn who_comes_again_begins_anew() {
    let net = Net::running(11);
    let (mut one, two) = two(&net, false);
    drop(two);
    one.until("it is gone", |one| {
        one.verbs.poll(true, &mut one.events);
        !one.events.lost.is_empty()
    });
    assert!(one.verbs.places[1].is_none(), "its queue and memory are gone");
    let mut guest = node(&net, 2, 2);
    let [mine, theirs] = channels([1, 9], false);
    let peer = one.verbs.tcp_mut().connect(mine).unwrap();
    guest.verbs.tcp_mut().connect(theirs).unwrap();
    one.until_with(&mut guest, "they have found each other", |one| {
        let place = one.verbs.places.get(usize::from(peer.0)).and_then(Option::as_ref);
        place.is_some_and(|place| place.line.connected)
    });
}

/// K8: who sees the end has seen the last word, however long that takes on its way.
#[test]
fn the_end_comes_after_the_last_word() {
    assert!(ends_after_its_last_word());
    plant_fault(Some("verbs-parts-at-once"));
    let kept = ends_after_its_last_word();
    plant_fault(None);
    assert!(!kept, "verbs-parts-at-once");
}

fn ends_after_its_last_word() -> bool {
    let net = Net::running(12);
    let (mut one, mut two) = two(&net, false);
    net.world.hold();
    one.verbs.farewell();
    let end = Instant::now() + Duration::from_millis(100);
    while two.events.lost.is_empty() && Instant::now() < end {
        [&mut one, &mut two].into_iter().for_each(Node::look);
    }
    let early = !two.events.lost.is_empty();
    net.world.release();
    two.until_with(&mut one, "it ends", |two| !two.events.lost.is_empty());
    !early && two.word_of(0, CLOSED_AT / 8) == 1
}

/// K7: however a queue comes to its end, its peer is reported, once, and the other hears of it, too.
#[test]
fn a_queue_that_fails_is_the_end_of_its_peer() {
    for kind in 0..4 {
        let net = Net::running(13);
        let (mut one, mut two) = two(&net, false);
        let qpn = one.line(1).queue.endpoint().qpn;
        match kind {
            0 => net.at(0, |process| process.lose_next()),
            1 => net.at(0, |process| process.event(Event::QueueFatal(qpn))),
            2 => net.at(0, |process| process.event(Event::DeviceFatal)),
            _ => net.at(0, |process| process.refuse(Call::PostSend, libc::ENOMEM, 0)),
        }
        one.words(5, 1, true);
        one.until("its peer is lost", |one| !one.events.lost.is_empty());
        assert_eq!(one.events.lost, one.others());
        one.events.lost = Members::NONE;
        (0..50).for_each(|_| one.look());
        assert!(one.events.lost.is_empty(), "{kind}: reported twice");
        two.until("and hears of it", |two| !two.events.lost.is_empty());
    }
}

/// A device that is gone without a word, its process' sockets, too.
#[test]
fn who_dies_is_lost() {
    let net = Net::running(14);
    let (mut one, two) = two(&net, true);
    net.at(1, |process| process.kill());
    one.words(5, 1, true);
    one.until("it is missed", |one| !one.events.lost.is_empty());
    drop(two);
}

/// N3: memory that cannot be registered is asked for again, by who is shown it and for who has entered.
#[test]
fn a_shortage_is_mine() {
    let net = Net::running(15);
    let (mut one, mut two) = two(&net, false);
    (one.show(Epoch(2)), two.show(Epoch(2)));
    let peer = two.peer(0).unwrap();
    net.at(1, |process| process.refuse(Call::RegMr, libc::ENOMEM, 0));
    let mut short = None;
    two.until_with(&mut one, "it is short of memory", |two| {
        short = two.verbs.shown(peer, Epoch(2), &sizes(LANE_BYTES)).err();
        short.is_some()
    });
    let short = short.unwrap().status;
    assert!(matches!(short, Status::NoMemory | Status::Limit), "{short:?}");
    let again = two.verbs.shown(peer, Epoch(2), &sizes(LANE_BYTES));
    assert!(matches!(again, Ok(Shown::Memory(_))), "and then it has it");
    (one.show(Epoch(3)), two.show(Epoch(3)));
    (one.enter(Epoch(2)), two.enter(Epoch(2)));
    net.at(1, |process| process.refuse(Call::RegMr, libc::ENOMEM, 0));
    one.enter(Epoch(3)); // and nobody has looked at what it has shown
    one.until_with(&mut two, "it has keys all the same", |one| one.events.full.is_empty());
}

/// Without room for a queue there is no peer; that is for the log, and for who calls again.
#[test]
fn without_a_queue_there_is_no_peer() {
    let net = Net::running(16);
    let mut nodes = strangers(&net, 2, false);
    net.at(0, |process| process.refuse(Call::ModifyQp, libc::ENOMEM, 0));
    let (mut two, mut one) = (nodes.pop().unwrap(), nodes.pop().unwrap());
    one.look();
    two.until_with(&mut one, "it is hung up on", |two| two.verbs.has_ended(two.peer(0).unwrap()));
}

/// More bells than a peer has receives: they are answered in every poll, and no write waits for ever.
#[test]
fn bells_are_answered() {
    let net = Net::running(17);
    let (mut one, mut two) = two(&net, false);
    for value in 1..=500 {
        one.poll();
        one.until_with(&mut two, "there is room", |one| one.events.full.is_empty());
        one.words(5, value, true);
    }
    two.until_with(&mut one, "all is there", |two| two.word_of(0, 5) == 500);
    let bells = one.line(1).queue.counts().bells;
    assert!(bells >= 500, "{bells}");
}

/// A note that landed before a member fell asleep lay there for ever: its bell had been taken when the
/// queue was armed, and the last look before sleep is for words.
#[test]
fn a_note_before_sleep_is_taken() {
    assert!(is_seen_before_sleep());
    plant_fault(Some("verbs-arms-blind"));
    let seen = is_seen_before_sleep();
    plant_fault(None);
    assert!(!seen, "verbs-arms-blind");
}

fn is_seen_before_sleep() -> bool {
    let net = Net::running(19);
    let (mut one, mut two) = two(&net, false);
    one.words(5, 1, true);
    let end = Instant::now() + Duration::from_secs(30);
    while !one.verbs.has_landed() {
        assert!(Instant::now() < end, "it never lands");
        one.poll();
    }
    two.verbs.arm(false);
    let seen = two.word_of(0, 5) == 1 || readable(&two.verbs, Duration::from_millis(100));
    two.verbs.disarm();
    seen
}

/// K12: a peer that takes no notes is full when its ring is; nothing that was posted is lost, and both go
/// on where each is full for the other.
#[test]
fn a_ring_of_notes_that_is_full_waits() {
    both_go_on();
    assert!(one_goes_on(Duration::from_secs(30)));
    plant_fault(Some("verbs-taken-unsaid"));
    let went_on = one_goes_on(Duration::from_millis(300));
    plant_fault(None);
    assert!(!went_on, "verbs-taken-unsaid");
}

/// Notes to one who has nothing to say.
fn one_goes_on(patience: Duration) -> bool {
    let net = Net::running(22);
    let (mut one, mut two) = two(&net, false);
    let (mut value, end) = (0, Instant::now() + patience);
    while two.word_of(0, 5) < 3 * PLACES {
        if Instant::now() > end {
            return false;
        }
        [&mut one, &mut two].into_iter().for_each(Node::look);
        if value < 3 * PLACES && one.events.full.is_empty() {
            value += 1;
            one.words(5, value, true);
        }
    }
    let counts = *two.line(0).queue.counts();
    assert!(counts.notes < 3 && counts.words < 12, "a word now and then: {counts:?}");
    true
}

fn both_go_on() {
    let net = Net::running(18);
    let (mut one, mut two) = two(&net, false);
    let turns = PLACES + 40;
    for value in 1..=turns {
        for node in [&mut one, &mut two] {
            node.words(5, value, true);
            let rank = 1 - node.me;
            let end = Instant::now() + Duration::from_secs(30);
            while !node.line(rank).is_full() && !node.verbs.has_landed() {
                assert!(Instant::now() < end, "it lands, or there is no place");
            }
        }
    }
    for (node, rank) in [(&mut one, 1), (&mut two, 0)] {
        let notes = node.line(rank).queue.counts().notes;
        assert!(node.line(rank).is_full() && notes.abs_diff(PLACES) < 4, "{notes}");
    }
    // What each has posted goes on as soon as the other takes some.
    one.until_with(&mut two, "all has landed there", |one| one.word_of(1, 5) == turns);
    two.until_with(&mut one, "and here", |two| two.word_of(0, 5) == turns);
}

/// K4, K8: notes that have landed are taken before what comes by TCP behind them is heard: that an epoch is
/// done, and the end of who wrote them.
#[test]
fn notes_are_taken_before_what_comes_behind_them() {
    assert_eq!((word_before_done(), word_before_the_end()), (1, 1));
    plant_fault(Some("verbs-ends-before-its-notes"));
    let late = (word_before_done(), word_before_the_end());
    plant_fault(None);
    assert_eq!(late, (0, 0), "verbs-ends-before-its-notes");
}

fn word_before_done() -> u64 {
    let net = Net::running(19);
    let (mut one, mut two) = two(&net, false);
    (one.show(Epoch(2)), two.show(Epoch(2)));
    let before = two.seen[0].clone().unwrap().block;
    two.until_with(&mut one, "all is shown", |two| {
        let peer = two.peer(0).unwrap();
        !matches!(two.verbs.shown(peer, Epoch(2), &sizes(LANE_BYTES)), Ok(Shown::Waits))
    });
    two.enter(Epoch(2));
    one.until_with(&mut two, "it hears that", |one| one.line(1).entered == Epoch(2));
    net.world.hold();
    one.words(5, 1, true);
    one.enter(Epoch(2));
    one.until_with(&mut two, "it has keys", |one| one.line(1).has_old());
    net.world.release();
    one.until("it is done there", |one| !one.line(1).has_old());
    std::thread::sleep(Duration::from_millis(5)); // the word of that is on its way
    (0..5).for_each(|_| two.look());
    before.cell(5 * 8).observe()
}

fn word_before_the_end() -> u64 {
    let net = Net::running(21);
    let (mut one, mut two) = two(&net, false);
    one.verbs.farewell();
    one.until("it has said all", |one| one.verbs.places[1].as_ref().unwrap().leaves.is_none());
    std::thread::sleep(Duration::from_millis(5)); // its end is on its way
    two.until("it has ended", |two| !two.events.lost.is_empty());
    two.word_of(0, CLOSED_AT / 8)
}

/// K1: a beat is in no note, where an older one could land behind a newer one.
#[test]
fn a_beat_never_goes_back() {
    for fault in [None, Some("verbs-beat-in-a-note")] {
        let net = Net::running(20);
        let (mut one, mut two) = two(&net, false);
        one.own.block.cell(BEAT_AT).publish(66);
        one.verbs.beat();
        two.until("it beats", |two| two.word_of(0, BEAT_AT / 8) == 66);
        plant_fault(fault);
        let mut values = [7; POST_WORDS_MAX];
        values[0] = 65;
        let (to, at) = (one.others(), BEAT_AT as u32);
        one.verbs.post(&[Post::Words { to, at, values, len: 2, news: true }]);
        two.until("the other word lands", |two| two.word_of(0, BEAT_AT / 8 + 1) == 7);
        plant_fault(None);
        assert_eq!(two.word_of(0, BEAT_AT / 8) == 66, fault.is_none(), "{fault:?}");
    }
}
