// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is let in, and whose connection is whose.

use super::super::Parts;
use super::door::Hello;
use super::*;
use crate::base::Events;
use crate::fabric::Fabric;
use crate::fabric::tcp::session::cases;
use crate::sst::layout::Layout;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// A member alone, whose views change, and the name it listens under.
pub fn member(name: &str) -> (Shm, String) {
    let name = format!("squall/{name}-{}/0", std::process::id());
    let layout = Layout::new(&[]);
    let block = Arc::new(Region::heap(layout.control_bytes));
    let own = OwnMemory {
        name: "test".into(),
        block_bytes: layout.control_bytes,
        ring_bytes: Vec::new(),
        lock: Want::No,
        huge: Want::No,
    };
    let parts = Parts {
        me: Rank(0),
        members: 1,
        blocks: vec![block],
        neighbours: Vec::new(),
        bell: Bell::new().unwrap(),
        door: door::Door::new(Socket::listen(&name).unwrap().unwrap()),
        hello: Hello::new(Kind::Join, 0, true, ""),
        stats: std::fs::File::open("/dev/null").unwrap().into(),
        memory: Some(own),
    };
    let mut shm = Shm::new(parts, &layout).unwrap();
    shm.admit(Admission::All);
    (shm, name)
}

/// A process of that incarnation knocks; what it hears.
pub fn knock(shm: &mut Shm, name: &str, incarnation: u64) -> (Socket, Hello) {
    let socket = Socket::connect(name).unwrap().unwrap();
    let mut hello = Hello::new(Kind::Enter, 9, true, "");
    hello.incarnation = incarnation;
    let bell = Bell::new().unwrap();
    assert!(socket.send(&hello.encode(), &[bell.as_fd()]));
    loop {
        shm.sleep(Some(1_000_000), &mut Events::default());
        if let Some(answer) = socket.receive() {
            return (socket, Hello::decode(&answer.unwrap().0).unwrap());
        }
    }
}

/// Of two that join the lower one calls the higher one once that is a member, though it was called by
/// it before. Either end then took the first connection in its list for the one that counts.
#[test]
fn nobody_is_connected_twice() {
    let (mut shm, name) = member("twice");
    let (first, welcome) = knock(&mut shm, &name, 77);
    assert_eq!(welcome.kind, Kind::Welcome);
    let (_again, refusal) = knock(&mut shm, &name, 77);
    assert_eq!(refusal.kind, Kind::Refuse);
    assert!(refusal.refusal.unwrap().1.contains("connected already"));
    let before = shm.peer(77).unwrap();
    drop(first);
    shm.sleep(None, &mut Events::default());
    assert!(shm.has_ended(before) && shm.peer(77) == Some(before));
    let (anew, welcome) = knock(&mut shm, &name, 77);
    assert_eq!(welcome.kind, Kind::Welcome, "its first connection has ended");
    let peer = shm.peer(77).unwrap();
    assert!(!shm.has_ended(peer), "the one that lives is meant");
    assert!(anew.send(b"words\nlet me in", &[]));
    shm.sleep(None, &mut Events::default());
    assert_eq!(shm.connected(), [77]);
}

/// One in a higher seat called it while both joined, became a member, and never heard that it was let in.
/// It was said to be connected, was proposed, and was cut off at once by the one that did not know it.
#[test]
fn a_call_that_was_dropped_is_no_connection() {
    let (mut shm, name) = member("dropped");
    shm.admit(Admission::Higher);
    let counts = |shm: &mut Shm| {
        let (call, welcome) = knock(shm, &name, 77);
        assert_eq!(welcome.kind, Kind::Welcome);
        (call, shm.connected())
    };
    crate::mutants::plant(Some("shm-calls-are-sure"));
    let (call, connected) = counts(&mut shm);
    crate::mutants::plant(None);
    assert_eq!(connected, [77], "the planted fault is the one that was found");
    drop(call);
    shm.sleep(None, &mut Events::default());
    let (call, connected) = counts(&mut shm);
    assert_eq!(connected, [], "the caller may be gone");
    // It is a member now, lets me in, and has no other connection with me.
    let (mine, its) = super::super::socket::tests::connected();
    let mut hello = Hello::new(Kind::Welcome, 9, true, "");
    hello.incarnation = 77;
    let peer = shm.connect(&hello, mine, Bell::new().unwrap()).unwrap();
    assert_eq!((shm.peer(77), shm.connected()), (Some(peer), vec![77]));
    assert!(call.receive().is_some_and(|end| end.is_none()), "the call is closed");
    drop(its);
    shm.sleep(None, &mut Events::default());
    assert_eq!(shm.connected(), []);
    // One that goes on says whom it is connected with.
    let (call, _) = knock(&mut shm, &name, 77);
    assert!(call.send(b"words\nlet me in", &[]));
    shm.sleep(None, &mut Events::default());
    assert_eq!(shm.connected(), [77]);
}

/// It was kept as a connection that had ended, and whoever was still there was never hung up on.
#[test]
fn who_cannot_be_told_is_not_let_in() {
    let (mut shm, name) = member("untold");
    shm.admit(Admission::Higher);
    let socket = Socket::connect(&name).unwrap().unwrap();
    let mut hello = Hello::new(Kind::Enter, 9, true, "");
    hello.incarnation = 77;
    assert!(socket.send(&hello.encode(), &[Bell::new().unwrap().as_fd()]));
    drop(socket);
    shm.sleep(None, &mut Events::default());
    shm.sleep(Some(1_000_000), &mut Events::default());
    assert!(shm.links.iter().flatten().all(|link| link.incarnation != 77), "it has gone");
}

/// How many descriptors this process has open.
fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn shared() -> OwnedFd {
    let (_, descriptor) = Region::share("test", 4096, Want::No, Want::No, &mut Vec::new()).unwrap();
    Region::seal(&descriptor).unwrap();
    descriptor
}

/// They held a socket, a bell and what they had shown until the next view began.
#[test]
fn joiners_that_die_leave_nothing_open() {
    let (mut shm, name) = member("dying");
    let mut before = None;
    for incarnation in 1..300 {
        let (socket, _) = knock(&mut shm, &name, incarnation);
        let (block, ring) = (shared(), shared());
        assert!(socket.send(b"memory 0 3,\n", &[block.as_fd(), ring.as_fd()]));
        assert!(socket.send(b"words\nlet me in", &[]));
        let peer = shm.peer(incarnation).unwrap();
        drop(socket);
        while !shm.has_ended(peer) {
            shm.sleep(Some(1_000_000), &mut Events::default());
        }
        assert_eq!(shm.incarnation(peer), Some(incarnation), "a view may still name it");
        assert!(shm.heard().is_none());
        // Tests beside this one open descriptors, too.
        before.get_or_insert_with(open_descriptors);
    }
    let (before, now) = (before.unwrap(), open_descriptors());
    assert!(now < before + 150, "{before} descriptors, then {now}");
    assert_eq!(shm.showroom.as_ref().unwrap().theirs.len(), 0);
    let block = Arc::new(Region::heap(1 << 16));
    shm.enter(Epoch(2), Rank(0), &[None], &[block]);
    assert!(shm.links.iter().all(Option::is_none) && shm.ghosts.is_empty());
}

/// Places of the dead are given away in the end: there are no more than a number has room for.
#[test]
fn places_of_the_dead_are_bounded() {
    let (mut shm, _) = member("ghosts");
    let hello = |incarnation| Hello { incarnation, ..Hello::new(Kind::Enter, 9, true, "") };
    for incarnation in 1..3_000 {
        let (one, _other) = super::super::socket::tests::connected();
        let peer = shm.connect(&hello(incarnation), one, Bell::new().unwrap()).unwrap();
        assert_eq!(shm.peer(incarnation), Some(peer));
        shm.hang_up(usize::from(peer.0));
        assert!(shm.has_ended(peer));
    }
    assert!(shm.links.len() <= 1_100, "{}", shm.links.len());
}

/// A seat was taken until its process closed the group, though nobody answered there any more.
#[test]
fn who_is_no_member_any_more_gives_its_seat_away() {
    let (mut shm, name) = member("seat");
    assert!(Socket::listen(&name).unwrap().is_none());
    let waits = Socket::connect(&name).unwrap().unwrap();
    shm.admit(Admission::Nobody);
    assert!(matches!(waits.receive(), Some(None)), "it calls somebody else");
    let _next = Socket::listen(&name).unwrap().expect("the seat is free");
    shm.sleep(Some(0), &mut Events::default());
    shm.shut_the_door(&Error::new(Status::Limit, "no descriptor"));
    shm.sleep(Some(0), &mut Events::default());
}

/// What a member shows and this process cannot take stays where it is, and is taken later; its end
/// is noticed all the same.
#[test]
fn what_cannot_be_taken_waits() {
    let (mut shm, name) = member("starved");
    let (socket, _) = knock(&mut shm, &name, 77);
    let peer = shm.peer(77).unwrap();
    let block = Arc::new(Region::heap(1 << 16));
    shm.enter(Epoch(2), Rank(0), &[None, Some(peer)], &[block.clone(), block]);
    let (memory, ring) = (shared(), shared());
    assert!(socket.send(b"memory 3 0,\n", &[memory.as_fd(), ring.as_fd()]));
    assert!(socket.send(b"words\nlater", &[]));
    let sizes = Sizes { block: 4096, rings: vec![Some(4096)] };
    let lacks = || Error::new(Status::Limit, "no descriptor");

    super::super::socket::starve(Some(lacks()));
    let mut events = Events::default();
    for _ in 0..10 {
        shm.sleep(Some(0), &mut events);
    }
    assert_eq!(shm.shown(peer, Epoch(3), &sizes).err(), Some(lacks()), "mine, not the peer's");
    assert_eq!(shm.shortage(), Some(lacks()));
    assert!(events.lost.is_empty() && !shm.has_ended(peer) && shm.heard().is_none());
    super::super::socket::starve(None);
    assert!(matches!(shm.shown(peer, Epoch(3), &sizes), Ok(Shown::Memory(_))), "when it is needed");
    assert_eq!(shm.shortage(), None);
    shm.sleep(None, &mut events);
    assert_eq!(shm.heard(), Some((peer, b"later".to_vec())), "it is listened to as before");

    let memory = shared();
    assert!(socket.send(b"memory 4 \n", &[memory.as_fd()]));
    super::super::socket::starve(Some(lacks()));
    shm.sleep(None, &mut events);
    drop(socket);
    while events.lost.is_empty() {
        shm.sleep(None, &mut events);
    }
    assert!(events.lost.contains(Rank(1)) && shm.has_ended(peer));
    assert_eq!(
        shm.shown(peer, Epoch(4), &Sizes { block: 4096, rings: vec![] }).err(),
        Some(lacks())
    );
    super::super::socket::starve(None);
    let shown = shm.shown(peer, Epoch(4), &Sizes { block: 4096, rings: vec![] });
    assert!(matches!(shown, Ok(Shown::Memory(_))), "said before its end");
}

/// Which is refused, and whose fault it is.
#[test]
fn what_a_peer_shows_is_its_own_fault() {
    let (mut shm, name) = member("liar");
    let (socket, _) = knock(&mut shm, &name, 77);
    let peer = shm.peer(77).unwrap();
    let sizes = Sizes { block: 8192, rings: vec![] };
    let memory = shared();
    assert!(socket.send(b"memory 0 \n", &[memory.as_fd()]));
    shm.sleep(None, &mut Events::default());
    assert!(matches!(shm.shown(peer, Epoch(0), &sizes), Ok(Shown::Never)), "too short");
    assert!(socket.send(b"memory 3 0,1,\n", &[memory.as_fd()]));
    while !shm.has_ended(peer) {
        shm.sleep(None, &mut Events::default()); // fewer than it says
    }
}

/// What a peer says and shows: taken or refused, and what is kept of it is bounded.
#[test]
fn fuzz_anything_shown_is_bounded() {
    let nothing = std::fs::File::open("/dev/null").unwrap();
    let number = prop_oneof![
        6 => (0u64..6).prop_map(|number| number.to_string()),
        1 => "[0-9]{18,22}", 1 => "(-1|x|)",
    ];
    let memory =
        (number.clone(), prop::collection::vec(number, 0..5)).prop_map(|(epoch, subgroups)| {
            format!("memory {epoch} {},\n", subgroups.join(",")).into_bytes()
        });
    let others = prop::sample::select(vec![
        "words\n",
        "words",
        "stream\n",
        "reach",
        "memory 1",
        "memory 1 0",
    ])
    .prop_map(|text| text.as_bytes().to_vec());
    let message =
        prop_oneof![6 => memory, 3 => others, 1 => prop::collection::vec(any::<u8>(), 0..30)];
    let fits = prop::bool::weighted(0.8);
    let messages = prop::collection::vec((message, fits, 0usize..3, 0u16..2), 0..12);
    let own = OwnMemory {
        name: "test".into(),
        block_bytes: 4096,
        ring_bytes: vec![4096; 3],
        lock: Want::No,
        huge: Want::No,
    };
    let outcome = TestRunner::new(cases(500)).run(&messages, |messages| {
        let mut showroom = Showroom::new(own.clone());
        for (message, fits, count, peer) in messages {
            let subgroups = message.iter().filter(|byte| **byte == b',').count();
            let count =
                if fits && message.starts_with(b"memory") { 1.max(subgroups) } else { count };
            let shown = (0..count).map(|_| nothing.try_clone().unwrap().into()).collect();
            let taken = showroom.take(Peer(peer), &message, shown);
            let room = showroom.theirs.iter().filter(|theirs| theirs.peer == Peer(peer)).count();
            prop_assert!(room <= AHEAD_MAX);
            let most = showroom.theirs.iter().map(|theirs| theirs.rings.len()).max();
            prop_assert!(!taken || most.unwrap_or(0) <= SUBGROUPS_MAX);
            let sizes = Sizes { block: 4096, rings: vec![Some(4096), None, Some(4096)] };
            for theirs in showroom.theirs.iter().filter(|theirs| theirs.has(&sizes)) {
                prop_assert!(theirs.map(&sizes).is_err(), "/dev/null is no memory");
            }
        }
        (0..2).for_each(|peer| showroom.forget(Peer(peer)));
        prop_assert!(showroom.theirs.is_empty() && showroom.heard.is_empty());
        prop_assert!(showroom.offered.is_empty() && showroom.reached.is_empty());
        Ok(())
    });
    outcome.unwrap();
}
