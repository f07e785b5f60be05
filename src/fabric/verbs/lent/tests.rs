// SPDX-License-Identifier: MIT OR Apache-2.0
//! Registered memory of two members, with their threads, over the software device; and over a real one,
//! where there is one.

use super::super::device::Device;
use super::super::gid::Choice;
use super::super::sys::soft::nic::status;
use super::super::sys::soft::{Call, Process, World};
use super::super::tests::on_real_devices;
use super::*;
use crate::mem::host::Buffer;
use crate::mem::place::Place;
use crate::registered::{Access, Completion, Memories, Owner, Path, Ticket};
use std::cell::RefCell;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

mod accelerator;

const WORDS: usize = 40_000;
const BYTES: u64 = 8 * WORDS as u64;
const BOTH: Allowed = Allowed { read: true, write: true };
const NEITHER: Allowed = Allowed { read: false, write: false };

struct Member {
    owner: Owner,
    memories: Memories,
    incarnation: u64,
    buffer: Buffer,
    region: u64,
}

impl Member {
    fn new(incarnation: u64, device: &Arc<Device>, allowed: Allowed, words: usize) -> Member {
        let owner = Owner::new(incarnation, Box::new(|| ()));
        let manner = Manner { timeout: 10, retry: 1, ..Manner::default() };
        owner.use_device(Arc::new(Lent::new(device.clone(), manner)));
        Member::of(incarnation, owner, allowed, words)
    }

    fn of(incarnation: u64, owner: Owner, allowed: Allowed, words: usize) -> Member {
        let (memories, buffer) = (owner.memories(), Buffer::new(words));
        let region = memories.register(Place::Host(buffer.lend()), allowed, false).unwrap();
        Member { owner, memories, incarnation, buffer, region }
    }

    fn path(&self) -> Path {
        self.memories.info(self.region).unwrap().path
    }

    fn ticket(&self) -> Ticket {
        self.memories.ticket(self.region).unwrap()
    }

    fn words(&self) -> Vec<u64> {
        let mut words = vec![0; self.memories.info(self.region).unwrap().bytes as usize / 8];
        self.buffer.read(0, &mut words);
        words
    }

    fn bytes(&self) -> Vec<u8> {
        self.words().iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// An operation of its on what the ticket names, in bytes.
    fn access(&self, ticket: Ticket, offset: u64, at: u64, bytes: u64) -> Access {
        Access { region: self.region, offset, ticket, at, bytes, tag: 0, announce: None }
    }
}

struct Two {
    one: Member,
    other: Member,
    /// Ends of streams, kept so that they can be cut: the caller's and the target's.
    streams: RefCell<Vec<(UnixStream, UnixStream)>>,
}

impl Two {
    fn new(a: &Arc<Device>, b: &Arc<Device>) -> Two {
        Two::with(Member::new(1, a, NEITHER, WORDS), Member::new(2, b, BOTH, WORDS))
    }

    fn with(one: Member, other: Member) -> Two {
        Two { one, other, streams: RefCell::default() }
    }

    /// In bytes.
    fn access(&self, offset: u64, at: u64, bytes: u64) -> Access {
        self.one.access(self.other.ticket(), offset, at, bytes)
    }

    /// The driver's part: opens what is asked for.
    fn connect(&self) {
        for (from, to) in [(&self.one, &self.other), (&self.other, &self.one)] {
            for whom in from.owner.wants() {
                if whom != to.incarnation {
                    from.owner.opened(whom, None);
                    continue;
                }
                let (mine, theirs) = UnixStream::pair().unwrap();
                let kept = (mine.try_clone().unwrap(), theirs.try_clone().unwrap());
                self.streams.borrow_mut().push(kept);
                from.owner.opened(whom, Some(Box::new(mine)));
                to.owner.offered(from.incarnation, Box::new(theirs)).unwrap();
            }
        }
    }

    /// What comes to a member.
    fn next(&self, of: &Member) -> Completion {
        let (until, mut places) = (Instant::now() + Duration::from_secs(60), [Completion::NONE]);
        loop {
            self.connect();
            if of.memories.poll(&mut places) == 1 {
                return places[0];
            }
            assert!(Instant::now() < until, "nothing comes");
            of.memories.wait(Some(Duration::from_millis(1))).unwrap();
        }
    }

    fn put(&self, access: &Access) -> Status {
        self.one.memories.put(access).unwrap();
        self.next(&self.one).status
    }

    fn get(&self, access: &Access) -> Status {
        self.one.memories.get(access).unwrap();
        self.next(&self.one).status
    }

    /// The first one opens the stream; when it is over both queues are connected, if there are any.
    fn meet(&self) {
        assert_eq!(self.put(&self.access(0, 0, 0)), Status::Ok);
    }
}

fn pattern(salt: u64, words: usize) -> Vec<u64> {
    (0..words as u64).map(|at| (at + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect()
}

/// There and back, by the device; with an announcement.
fn there_and_back(a: &Arc<Device>, b: &Arc<Device>) {
    let two = Two::new(a, b);
    assert_eq!((two.one.path(), two.other.path()), (Path::Direct, Path::Direct));
    let wanted = pattern(7, WORDS);
    two.one.buffer.write(0, &wanted);
    two.meet();
    two.one.memories.put(&Access { announce: Some(9), ..two.access(0, 0, BYTES) }).unwrap();
    let heard = two.next(&two.other);
    assert_eq!((heard.what, heard.word, heard.bytes), (What::Announced, 9, BYTES));
    assert!(two.other.words() == wanted);
    assert_eq!(two.next(&two.one).status, Status::Ok);
    two.one.buffer.write(0, &vec![0; WORDS]);
    let count = 300;
    for at in 0..count {
        two.one.memories.get(&two.access(at * 800, at * 800, 800)).unwrap();
    }
    for _ in 0..count {
        assert_eq!(two.next(&two.one).status, Status::Ok);
    }
    let words = two.one.words();
    let got = 100 * count as usize;
    assert!(words[..got] == wanted[..got] && words[got] == 0);
    // Taken back: the device refuses, the owner says why, and what follows goes on by another queue.
    let gone = two.access(0, 0, 8);
    two.other.memories.deregister(two.other.region).unwrap();
    assert_eq!(two.put(&gone), Status::NoRegion);
    let place = Place::Host(two.other.buffer.lend());
    let again = two.other.memories.register(place, BOTH, true).unwrap();
    let ticket = two.other.memories.ticket(again).unwrap();
    assert_ne!(ticket.words()[5], gone.ticket.words()[5], "a key of its own");
    two.one.buffer.write(0, &[5; 8]);
    for _ in 0..20 {
        assert_eq!(two.put(&two.one.access(ticket, 0, 64, 64)), Status::Ok);
    }
    let mut words = [0; 8];
    two.other.buffer.read(8, &mut words);
    assert_eq!(words, [5; 8]);
    assert_eq!(two.put(&gone), Status::NoRegion, "and again");
}

fn open(process: &Process) -> Arc<Device> {
    Device::open(&process.table(), &Choice::default()).unwrap()
}

/// A wire, two processes on it, and time that passes.
fn world(seed: u64) -> (World, Process, Process) {
    let world = World::new(seed);
    let (a, b) = (world.process(), world.process());
    world.start();
    (world, a, b)
}

#[test]
fn a_device_puts_and_gets_registered_memory() {
    let (world, a, b) = world(5);
    there_and_back(&open(&a), &open(&b));
    assert!(world.carried() > 300, "they are not copied");
}

#[test]
fn real_devices_put_and_get_registered_memory() {
    on_real_devices(|a, b| {
        there_and_back(&a, &b);
        every_size(&a, &b);
        both_at_once(&a, &b);
    });
}

/// From nothing to some MiB, at any byte, up to both ends of the region; no byte more is touched.
fn every_size(a: &Arc<Device>, b: &Arc<Device>) {
    let words = 512 * 1024;
    let all = 8 * words as u64;
    let two = Two::with(Member::new(1, a, NEITHER, words), Member::new(2, b, BOTH, words));
    let mine: Vec<u64> = pattern(1, words);
    two.one.buffer.write(0, &mine);
    let mine: Vec<u8> = mine.iter().flat_map(|word| word.to_le_bytes()).collect();
    two.meet();
    let mut model = two.other.bytes();
    let sizes = [0, 1, 2, 7, 8, 9, 63, 220, 221, 4095, 4096, 4097, 65_537, 1 << 20, (3 << 20) + 5];
    for (at, size) in sizes.into_iter().enumerate() {
        // The first byte, the last one, and somewhere between.
        for (offset, to) in [(0, 0), (all - size, all - size), (at as u64 % 9, 13 + at as u64)] {
            assert_eq!(two.put(&two.access(offset, to, size)), Status::Ok, "{size} bytes");
            let [offset, to, size] = [offset, to, size].map(|of| of as usize);
            model[to..to + size].copy_from_slice(&mine[offset..offset + size]);
        }
        assert!(two.other.bytes() == model, "{size} bytes");
    }
    let [beyond, over] = [(all - 7, 8), (u64::MAX, 2)];
    for (at, size) in [beyond, over, (0, all + 1), (all + 1, 0)] {
        for wrong in [two.access(at, 0, size), two.access(0, at, size)] {
            let (put, get) = (two.one.memories.put(&wrong), two.one.memories.get(&wrong));
            assert_eq!([put, get].map(|of| of.unwrap_err().status), [Status::Invalid; 2]);
        }
    }
    two.one.buffer.write(0, &vec![0; words]);
    let mut model = two.one.bytes();
    let theirs = two.other.bytes();
    for (at, size) in sizes.into_iter().enumerate() {
        for (offset, from) in [(0, 0), (all - size, all - size), (5 + at as u64, at as u64 % 7)] {
            assert_eq!(two.get(&two.access(offset, from, size)), Status::Ok, "{size} bytes");
            let [offset, from, size] = [offset, from, size].map(|of| of as usize);
            model[offset..offset + size].copy_from_slice(&theirs[from..from + size]);
        }
        assert!(two.one.bytes() == model, "{size} bytes");
    }
}

#[test]
fn every_size_arrives_at_any_byte_and_no_byte_more() {
    let (world, a, b) = world(8);
    a.abilities(|can| can.write_bytes_max = 1 << 20);
    every_size(&open(&a), &open(&b));
    assert!(world.carried() > 80, "they are not copied");
}

/// Each puts into its half of the other's, in pieces, as fast as it can, and gets the rest.
fn both_at_once(a: &Arc<Device>, b: &Arc<Device>) {
    let two = Two::with(Member::new(1, a, BOTH, WORDS), Member::new(2, b, BOTH, WORDS));
    let (half, piece) = (BYTES / 2, BYTES / 2 / 200);
    for (salt, member) in [(3, &two.one), (4, &two.other)] {
        member.buffer.write(0, &pattern(salt, WORDS / 2));
    }
    // The near half goes to the far half there.
    let pairs = [(&two.one, two.other.ticket()), (&two.other, two.one.ticket())];
    for (member, ticket) in pairs {
        member.memories.put(&member.access(ticket, 0, 0, 0)).unwrap();
        assert_eq!(two.next(member).status, Status::Ok);
    }
    for at in 0..200 {
        for (member, ticket) in pairs {
            let announce = (at == 199).then_some(member.incarnation);
            let put = member.access(ticket, at * piece, half + at * piece, piece);
            member.memories.put(&Access { announce, tag: at, ..put }).unwrap();
        }
    }
    let (mut over, mut heard) = ([0; 2], [false; 2]);
    while over != [200; 2] || heard != [true; 2] {
        for (at, (member, _)) in pairs.iter().enumerate() {
            two.connect();
            let mut places = [Completion::NONE; 16];
            let count = member.memories.poll(&mut places);
            for of in &places[..count] {
                if of.what == What::Announced {
                    assert_eq!(of.word, of.incarnation);
                    heard[at] = true;
                    let other = if at == 0 { 4 } else { 3 };
                    assert!(member.words()[WORDS / 2..] == pattern(other, WORDS / 2), "R2");
                    continue;
                }
                assert_eq!((of.status, of.tag), (Status::Ok, over[at]), "R3");
                over[at] += 1;
            }
        }
    }
}

#[test]
fn two_members_put_into_each_others_memory_at_once() {
    for seed in [9, 10] {
        let (world, a, b) = world(seed);
        both_at_once(&open(&a), &open(&b));
        assert!(world.carried() > 300, "they are not copied");
    }
}

/// A ticket as somebody would like it: rights, region, bytes.
fn forged(ticket: Ticket, change: impl FnOnce(&mut [u64; 8])) -> Ticket {
    let mut words = ticket.words();
    change(&mut words);
    let bytes: Vec<u8> = words[..7].iter().flat_map(|word| word.to_le_bytes()).collect();
    words[7] = crc32c::crc32c(&bytes).into();
    Ticket::from_words(words).unwrap()
}

/// Whatever a ticket says, the device looks at what was allowed, byte by byte; its owner then says what was
/// wrong, and what is asked before and behind that is carried out.
#[test]
fn the_device_refuses_what_the_owner_has_not_allowed() {
    let (world, a, b) = world(11);
    let two = Two::new(&open(&a), &open(&b));
    two.meet();
    two.one.buffer.write(0, &[9; 16]);
    let lend = |allowed: Allowed| {
        let buffer = Buffer::new(64);
        buffer.write(0, &[1; 64]);
        let place = Place::Host(buffer.lend());
        let region = two.other.memories.register(place, allowed, true).unwrap();
        let ticket = two.other.memories.ticket(region).unwrap();
        (buffer, forged(ticket, |words| words[0] |= 3 << 40))
    };
    let cases = [
        (Allowed { read: true, write: false }, Status::Denied, Status::Ok),
        (Allowed { read: false, write: true }, Status::Ok, Status::Denied),
        (NEITHER, Status::Denied, Status::Denied),
    ];
    for (allowed, put, get) in cases {
        let (buffer, ticket) = lend(allowed);
        let access = two.one.access(ticket, 64, 8, 16);
        let other = two.one.access(ticket, 512, 8, 16);
        assert_eq!((two.put(&access), two.get(&other)), (put, get), "{allowed:?}");
        let mut words = [0; 64];
        buffer.read(0, &mut words);
        assert_eq!(words[1..3], if put == Status::Ok { [9; 2] } else { [1; 2] }, "{allowed:?}");
        assert_eq!((words[0], &words[3..]), (1, &[1; 61][..]));
    }
    let (_longer, ticket) = lend(BOTH);
    let longer = forged(ticket, |words| words[3] = 4096);
    for (at, bytes) in [(505, 8), (512, 1), (4000, 96)] {
        assert_eq!(two.put(&two.one.access(longer, 0, at, bytes)), Status::Invalid, "{at}");
    }
    let (buffer, ticket) = lend(BOTH);
    let unknown = forged(ticket, |words| (words[2], words[5]) = (77, words[5] ^ 0x40));
    // Refused in the middle of many: these are over as if it were not there.
    let before = world.carried();
    let all = [ticket, ticket, unknown, ticket, ticket];
    for (tag, ticket) in all.into_iter().enumerate() {
        let access = two.one.access(ticket, 0, 8 * tag as u64, 8);
        two.one.memories.put(&Access { tag: tag as u64, ..access }).unwrap();
    }
    for (tag, ticket) in all.into_iter().enumerate() {
        let over = two.next(&two.one);
        let wanted = if ticket == unknown { Status::NoRegion } else { Status::Ok };
        assert_eq!((over.tag, over.status), (tag as u64, wanted));
    }
    let mut words = [0; 64];
    buffer.read(0, &mut words);
    assert_eq!(words[..6], [9, 9, 1, 9, 9, 1]);
    assert!(world.carried() > before, "they are not copied");
}

/// R5: its connection is there, its key is good, and nothing lands.
#[test]
fn who_is_fenced_reaches_nothing() {
    let (world, a, b) = world(6);
    let two = Two::new(&open(&a), &open(&b));
    two.one.buffer.write(0, &vec![1; WORDS]);
    two.meet();
    world.hold();
    two.one.memories.put(&two.access(0, 0, BYTES)).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    two.other.owner.fence(1);
    let before = two.other.words();
    world.release();
    assert_eq!(two.next(&two.one).status, Status::Gone);
    assert!(two.other.words() == before);
}

/// R6: what is under way when memory is taken back lands nowhere, and its owner says that it is gone.
#[test]
fn what_was_taken_back_is_touched_by_nobody() {
    let (world, a, b) = world(12);
    let two = Two::new(&open(&a), &open(&b));
    two.one.buffer.write(0, &vec![1; WORDS]);
    two.meet();
    world.hold();
    two.one.memories.put(&two.access(0, 0, BYTES)).unwrap();
    two.one.memories.get(&two.access(0, 0, BYTES)).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    two.other.memories.deregister(two.other.region).unwrap();
    world.release();
    assert_eq!([0; 2].map(|_| two.next(&two.one).status), [Status::NoRegion; 2]);
    let mut words = vec![7; WORDS];
    two.other.buffer.read(0, &mut words);
    assert!(words.iter().all(|word| *word == 0));
}

/// K3: the stream ends, and with it what the device has not carried out, here and there.
#[test]
fn what_was_lost_lands_nowhere_later() {
    let (world, a, b) = world(13);
    let two = Two::new(&open(&a), &open(&b));
    two.other.buffer.write(0, &vec![3; WORDS]);
    two.meet();
    two.one.buffer.write(0, &vec![1; WORDS]);
    world.hold();
    two.one.memories.get(&two.access(0, 0, BYTES / 2)).unwrap();
    two.one.memories.put(&two.access(BYTES / 2, BYTES / 2, BYTES / 2)).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    // Only the caller sees the end, so the target's queue is as it was.
    two.streams.borrow()[0].1.shutdown(Shutdown::Write).unwrap();
    assert_eq!([0; 2].map(|_| two.next(&two.one).status), [Status::Gone; 2]);
    world.release();
    std::thread::sleep(Duration::from_millis(20));
    assert!(two.one.words().iter().all(|word| *word == 1), "a get lands after its end");
    assert!(two.other.words().iter().all(|word| *word == 3), "a put lands after its end");
    assert_eq!(two.put(&two.access(0, 0, 8)), Status::Ok, "the next one opens another stream");
}

/// Who is removed, whose process is gone, whose device does not answer: all that is open ends with a status,
/// in order, and nothing more is asked of it.
#[test]
fn operations_of_and_on_who_is_removed_end_with_a_status() {
    enum End {
        Fenced,
        Killed,
        Silent,
    }
    for (seed, end) in [(14, End::Fenced), (15, End::Killed), (16, End::Silent)] {
        let (world, a, b) = world(seed);
        let two = Two::new(&open(&a), &open(&b));
        two.meet();
        world.hold();
        for tag in 0..500 {
            two.one.memories.put(&Access { tag, ..two.access(0, 0, 80) }).unwrap();
        }
        std::thread::sleep(Duration::from_millis(10));
        match end {
            End::Fenced => two.one.owner.fence(2),
            End::Killed => {
                b.kill();
                let (mine, theirs) = two.streams.borrow_mut().pop().unwrap();
                mine.shutdown(Shutdown::Both).unwrap();
                drop(theirs);
            }
            End::Silent => world.cut(&a, &b),
        }
        world.release();
        for tag in 0..500 {
            let over = two.next(&two.one);
            assert_eq!((over.tag, over.status), (tag, Status::Gone));
        }
        two.one.owner.fence(2);
        let refused = two.one.memories.put(&two.access(0, 0, 80)).unwrap_err();
        assert_eq!(refused.status, Status::Gone);
        two.one.memories.deregister(two.one.region).unwrap();
    }
}

/// Who comes again is another: its memory has keys of its own, and what names the former's fails.
#[test]
fn who_is_started_again_has_new_keys_and_old_tickets_fail() {
    let (world, a, b) = world(17);
    let device = open(&a);
    let mut two = Two::new(&device, &open(&b));
    two.meet();
    let old = two.other.ticket();
    b.kill();
    let again = world.process();
    two.other = Member::new(3, &open(&again), BOTH, WORDS);
    two.streams.borrow_mut().clear();
    let new = two.other.ticket();
    assert_ne!(old.words()[5] as u32, new.words()[5] as u32, "a fresh key");
    two.one.buffer.write(0, &[8; 2]);
    assert_eq!(two.put(&two.one.access(old, 0, 0, 8)), Status::Gone, "not removed yet");
    two.one.owner.fence(2);
    for what in [Memories::put, Memories::get] {
        let refused = what(&two.one.memories, &two.one.access(old, 0, 0, 8)).unwrap_err();
        assert_eq!(refused.status, Status::Gone);
    }
    two.meet();
    // The old key at the new one: its device knows none.
    let mixed = forged(new, |words| (words[2], words[5]) = (99, old.words()[5]));
    assert_eq!(two.put(&two.one.access(mixed, 0, 0, 8)), Status::NoRegion);
    assert_eq!(two.other.words()[0], 0);
    assert_eq!(two.put(&two.one.access(new, 0, 8, 8)), Status::Ok);
    assert_eq!(two.other.words()[..3], [0, 8, 0]);
}

/// What the device cannot register is copied, or refused if only direct access was asked for, with the cause.
#[test]
fn what_cannot_be_registered_is_copied() {
    for at_owner in [true, false] {
        let (world, a, b) = world(7);
        let poor = if at_owner { &b } else { &a };
        let [one, other] = [&a, &b].map(open);
        let scratch = Buffer::new(64);
        poor.refuse(Call::RegMr, libc::ENOMEM, 0);
        let two = Two::new(&one, &other);
        let member = if at_owner { &two.other } else { &two.one };
        assert_eq!(member.path(), Path::Staged);
        let refused = |errno: i32| {
            poor.refuse(Call::RegMr, errno, 0);
            let place = Place::Host(scratch.lend());
            let refused = member.memories.register(place, BOTH, true).unwrap_err();
            assert_eq!(refused.status, Status::NotDirect, "{refused}");
            refused.detail
        };
        assert!(refused(libc::ENOMEM).contains("ulimit -l"));
        assert!(refused(libc::EFAULT).contains("Bad address"));
        two.meet();
        let before = world.carried();
        two.one.buffer.write(0, &pattern(2, WORDS));
        assert_eq!(two.put(&two.access(0, 0, BYTES)), Status::Ok);
        assert!(two.other.words() == pattern(2, WORDS));
        assert_eq!(world.carried(), before, "it was copied");
    }
}

/// Each call that makes a queue may fail, at either side: then it is copied, and R2 holds.
#[test]
fn without_a_queue_it_is_copied() {
    for (call, after) in [(Call::CreateChannel, 0), (Call::CreateCq, 0), (Call::CreateQp, 0)]
        .into_iter()
        .chain((0..3).map(|after| (Call::ModifyQp, after)))
    {
        for at_owner in [true, false] {
            let (world, a, b) = world(18);
            let poor = if at_owner { &b } else { &a };
            poor.abilities(|can| can.calls = false); // else a queue is tried twice
            let two = Two::new(&open(&a), &open(&b));
            poor.refuse(call, libc::ENOMEM, after);
            two.one.buffer.write(0, &pattern(2, WORDS));
            two.meet();
            assert_eq!(two.put(&two.access(0, 0, BYTES)), Status::Ok, "{call:?} {after}");
            assert!(two.other.words() == pattern(2, WORDS));
            assert_eq!(world.carried(), 0, "{call:?} {after}");
        }
    }
}

/// A completion with an error: what is known not to have been carried out is asked again, all else is lost;
/// either way the next ones go on.
#[test]
fn completions_with_errors_end_operations_or_have_them_asked_again() {
    let cases = [
        (status::RETRIES, Status::Gone),
        (status::LOCAL_PROTECTION, Status::Gone),
        (status::FLUSHED, Status::Gone),
        (status::REMOTE_ACCESS, Status::Ok),
    ];
    for (cause, wanted) in cases {
        let (world, a, b) = world(19);
        let two = Two::new(&open(&a), &open(&b));
        two.meet();
        two.one.buffer.write(0, &pattern(3, WORDS));
        a.fail_next(cause);
        let asked = [0; 3].map(|_| two.one.memories.put(&two.access(0, 0, BYTES)));
        assert!(asked.iter().all(Result::is_ok));
        let over = asked.map(|_| two.next(&two.one).status);
        assert!(over[0] == wanted && over.iter().all(|of| [wanted, Status::Ok].contains(of)));
        two.meet();
        let before = world.carried();
        for _ in 0..20 {
            assert_eq!(two.put(&two.access(0, 0, 8)), Status::Ok);
        }
        let direct = world.carried() > before;
        assert_eq!(direct, wanted == Status::Gone, "what was refused is copied from then on");
        assert_eq!(two.get(&two.access(0, 8, BYTES - 8)), Status::Ok);
    }
}
