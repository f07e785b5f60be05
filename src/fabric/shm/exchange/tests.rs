// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is let in, and whose connection is whose.

use super::super::Parts;
use super::*;
use crate::base::Events;
use crate::fabric::Fabric;
use crate::sst::layout::Layout;

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
    let (_anew, welcome) = knock(&mut shm, &name, 77);
    assert_eq!(welcome.kind, Kind::Welcome, "its first connection has ended");
    let peer = shm.peer(77).unwrap();
    assert!(!shm.has_ended(peer), "the one that lives is meant");
    assert_eq!(shm.connected(), [77]);
}
