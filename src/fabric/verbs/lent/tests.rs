// SPDX-License-Identifier: MIT OR Apache-2.0
//! Registered memory of two members, with their threads, over the software device; and over a real one,
//! where there is one.

use super::super::device::Device;
use super::super::gid::Choice;
use super::super::sys::Table;
use super::super::sys::soft::{Call, Process, World};
use super::*;
use crate::mem::host::Buffer;
use crate::mem::place::Place;
use crate::registered::{Access, Completion, Memories, Owner, Path, Ticket};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const WORDS: usize = 40_000;
const BOTH: Allowed = Allowed { read: true, write: true };
const NEITHER: Allowed = Allowed { read: false, write: false };

struct Member {
    owner: Owner,
    memories: Memories,
    buffer: Buffer,
    region: u64,
}

impl Member {
    fn new(incarnation: u64, device: &Arc<Device>, allowed: Allowed) -> Member {
        let owner = Owner::new(incarnation, Box::new(|| ()));
        let manner = Manner { timeout: 10, retry: 1, ..Manner::default() };
        owner.use_device(Arc::new(Lent::new(device.clone(), manner)));
        let (memories, buffer) = (owner.memories(), Buffer::new(WORDS));
        let region = memories.register(Place::Host(buffer.lend()), allowed, false).unwrap();
        Member { owner, memories, buffer, region }
    }

    fn path(&self) -> Path {
        self.memories.info(self.region).unwrap().path
    }
}

struct Two {
    one: Member,
    other: Member,
    ticket: Ticket,
}

const NONE: Completion = Completion {
    what: What::Put,
    status: Status::Ok,
    tag: 0,
    incarnation: 0,
    region: 0,
    offset: 0,
    bytes: 0,
    word: 0,
};

impl Two {
    fn new(a: &Arc<Device>, b: &Arc<Device>) -> Two {
        let (one, other) = (Member::new(1, a, NEITHER), Member::new(2, b, BOTH));
        let ticket = other.memories.ticket(other.region).unwrap();
        Two { one, other, ticket }
    }

    fn access(&self, from: usize, at: usize, words: usize, announce: Option<u64>) -> Access {
        let [offset, at, bytes] = [from, at, words].map(|words| 8 * words as u64);
        let (region, ticket) = (self.one.region, self.ticket);
        Access { region, offset, ticket, at, bytes, tag: 0, announce }
    }

    /// What comes to a member, with the driver's part done meanwhile.
    fn next(&self, of: &Member) -> Completion {
        let (until, mut places) = (Instant::now() + Duration::from_secs(60), [NONE]);
        loop {
            for whom in self.one.owner.wants() {
                let (mine, theirs) = UnixStream::pair().unwrap();
                self.one.owner.opened(whom, Some(Box::new(mine)));
                self.other.owner.offered(1, Box::new(theirs)).unwrap();
            }
            if of.memories.poll(&mut places) == 1 {
                return places[0];
            }
            assert!(Instant::now() < until, "nothing comes");
            of.memories.wait(Some(Duration::from_millis(1))).unwrap();
        }
    }
}

/// There and back, by the device; with an announcement.
fn there_and_back(a: &Arc<Device>, b: &Arc<Device>) {
    let two = Two::new(a, b);
    assert_eq!((two.one.path(), two.other.path()), (Path::Direct, Path::Direct));
    let pattern: Vec<u64> = (0..WORDS as u64).map(|word| word * 7 + 1).collect();
    two.one.buffer.write(0, &pattern);
    // The first one opens the stream, and may be copied.
    two.one.memories.put(&two.access(0, 0, 1, None)).unwrap();
    assert_eq!(two.next(&two.one).status, Status::Ok);
    two.one.memories.put(&two.access(0, 0, WORDS, Some(9))).unwrap();
    let heard = two.next(&two.other);
    assert_eq!((heard.what, heard.word, heard.bytes), (What::Announced, 9, 8 * WORDS as u64));
    let mut words = vec![0; WORDS];
    two.other.buffer.read(0, &mut words);
    assert!(words == pattern);
    assert_eq!(two.next(&two.one).status, Status::Ok);
    two.one.buffer.write(0, &vec![0; WORDS]);
    let count = 300;
    for at in 0..count {
        two.one.memories.get(&two.access(at * 100, at * 100, 100, None)).unwrap();
    }
    for _ in 0..count {
        assert_eq!(two.next(&two.one).status, Status::Ok);
    }
    two.one.buffer.read(0, &mut words);
    assert!(words[..count * 100] == pattern[..count * 100] && words[count * 100] == 0);
    // Taken back: the device refuses, and what follows goes on by another queue.
    two.other.memories.deregister(two.other.region).unwrap();
    two.one.memories.put(&two.access(0, 0, 8, None)).unwrap();
    assert!([Status::Gone, Status::NoRegion].contains(&two.next(&two.one).status));
}

fn open(process: &Process) -> Arc<Device> {
    Device::open(&process.table(), &Choice::default()).unwrap()
}

#[test]
fn a_device_puts_and_gets_registered_memory() {
    let world = World::new(5);
    let (a, b) = (world.process(), world.process());
    world.start();
    there_and_back(&open(&a), &open(&b));
}

/// R5: its connection is there, its key is good, and nothing lands.
#[test]
fn who_is_fenced_reaches_nothing() {
    let world = World::new(6);
    let (a, b) = (world.process(), world.process());
    world.start();
    let two = Two::new(&open(&a), &open(&b));
    two.one.buffer.write(0, &vec![1; WORDS]);
    two.one.memories.put(&two.access(0, 0, 1, None)).unwrap();
    assert_eq!(two.next(&two.one).status, Status::Ok);
    world.hold();
    two.one.memories.put(&two.access(0, 0, WORDS, None)).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    two.other.owner.fence(1);
    let mut before = vec![0; WORDS];
    two.other.buffer.read(0, &mut before);
    world.release();
    assert_eq!(two.next(&two.one).status, Status::Gone);
    let mut after = vec![0; WORDS];
    two.other.buffer.read(0, &mut after);
    assert!(before == after);
}

/// What the device cannot register is copied, or refused if only direct access was asked for.
#[test]
fn what_cannot_be_registered_is_copied() {
    let world = World::new(7);
    let process = world.process();
    let device = open(&process);
    process.refuse(Call::RegMr, libc::ENOMEM, 0);
    let member = Member::new(1, &device, BOTH);
    assert_eq!(member.path(), Path::Staged);
    process.refuse(Call::RegMr, libc::EFAULT, 0);
    let place = Place::Host(member.buffer.lend());
    let refused = member.memories.register(place, BOTH, true).unwrap_err();
    assert_eq!(refused.status, Status::NotDirect, "{refused}");
}

#[test]
fn a_real_device_puts_and_gets_registered_memory() {
    let table = match Table::load() {
        Ok(table) => table,
        Err(error) => return eprintln!("SKIPPED: {error}"),
    };
    match Device::open(&table, &Choice::default()) {
        Ok(device) => there_and_back(&device, &device),
        Err(error) => eprintln!("SKIPPED: {error}"),
    }
}
