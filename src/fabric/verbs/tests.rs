// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices, memory and queues over the software device, which is stricter than hardware.

use super::completions::Completions;
use super::device::{self, Device, News};
use super::failure::{Cause, Failure};
use super::gid::{Choice, Gid, State};
use super::memory::{Memory, Remote, Rights};
use super::ordering::{self, Verdict};
use super::queue::{CHAIN, Counts, Depths, Endpoint, Manner, Path, Queue, Taken};
use super::reach::{Operation, Reach, What};
use super::sys::Table;
use super::sys::soft::nic::{Random, status};
use super::sys::soft::{Call, Event, Process, World};
use crate::error::{Error, Status};
use crate::fabric::tcp::session::cases;
use crate::mem::Region;
use crate::mutants::{must_panic, plant};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

const BYTES: usize = 64 << 10;

/// One side: a device, its completions, one queue, memory to send from and memory that is written.
struct Side {
    completions: Completions,
    queue: Queue,
    from: Arc<Region>,
    to: Arc<Region>,
    source: Memory,
    target: Option<Memory>,
    device: Arc<Device>,
}

fn depths(send: u16, receive: u16) -> Depths {
    Depths { send, receive, inline_bytes: 220 }
}

impl Side {
    fn new(process: &Process, depths: &Depths) -> Side {
        Side::of(Device::open(&process.table(), &Choice::default()).expect("a device"), depths)
    }

    fn of(device: Arc<Device>, depths: &Depths) -> Side {
        let completions = Completions::new(&device, 3, depths).expect("completions");
        let queue = Queue::new(&completions, 5, depths).expect("a queue");
        let (from, to) = (Arc::new(Region::heap(BYTES)), Arc::new(Region::heap(BYTES)));
        let source = Memory::source(&device, from.clone()).expect("a source");
        let target = Some(Memory::target(&device, to.clone()).expect("a target"));
        Side { completions, queue, from, to, source, target, device }
    }

    fn remote(&self) -> Remote {
        self.target.as_ref().expect("not taken back").remote()
    }

    /// Everything that completions bring.
    fn poll(&mut self) -> Vec<Taken> {
        let (queue, mut all) = (&mut self.queue, Vec::new());
        let polled = self.completions.poll(|completion| {
            assert_eq!(completion.index(), 5);
            all.push(queue.take(completion));
        });
        polled.expect("completions can be read");
        all
    }

    /// The one failure among them.
    fn failure(&mut self) -> Option<Failure> {
        let mut failures = self.poll().into_iter().filter_map(|taken| match taken {
            Taken::Failed(failure) => Some(failure),
            _ => None,
        });
        let first = failures.next();
        assert!(failures.next().is_none(), "a queue fails once");
        first
    }
}

fn connect(one: &mut Side, other: &mut Side) {
    let manner = Manner::default();
    let place = other.device.place();
    one.queue.connect(&other.queue.endpoint(), &place, &manner).expect("connected");
    other.queue.connect(&one.queue.endpoint(), &one.device.place(), &manner).expect("connected");
}

fn pair(world: &World, depths: &Depths) -> (Side, Side) {
    let (a, b) = (world.process(), world.process());
    pair_of(&a, &b, depths)
}

fn pair_of(a: &Process, b: &Process, depths: &Depths) -> (Side, Side) {
    let (mut one, mut other) = (Side::new(a, depths), Side::new(b, depths));
    connect(&mut one, &mut other);
    (one, other)
}

fn readable(fd: BorrowedFd<'_>) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now)) == Ok(1)
}

/// Data, then a counter, again and again: whenever the counter is there, so is all before it, and a
/// word is never half there.
fn stream(seed: u64, calls: bool) -> Counts {
    let world = World::new(seed);
    let (a, b) = (world.process(), world.process());
    a.abilities(|its| its.calls = calls);
    let (mut one, other) = pair_of(&a, &b, &depths(16, 0));
    assert_eq!(one.queue.path(), if calls { Path::Calls } else { Path::List });
    let remote = other.remote();
    let turns = 60;
    let lengths = [8, 40, 216, 224, 1000, 9000];
    let length = |turn: u64| lengths[turn as usize % lengths.len()];
    let (mut turn, mut seen) = (0, 0);
    while seen < turns {
        // A turn's span is where the one before was: its counter must have been seen.
        if turn == seen && turn < turns && one.queue.room() >= 2 {
            turn += 1;
            let bytes = length(turn);
            (0..bytes).step_by(8).for_each(|at| one.from.cell(256 + at).prepare(turn));
            one.queue.span(&one.source, 256, 256 + bytes as u64, &remote, 256);
            one.queue.words(&remote, 64, &[turn, turn + 1, turn + 2]);
            one.queue.post(false).expect("there was room");
        }
        let stepped = world.step();
        if other.to.cell(64).observe() == turn && turn > seen {
            let late =
                (0..length(turn)).step_by(8).filter(|at| other.to.cell(256 + at).observe() != turn);
            assert_eq!(late.count(), 0, "seed {seed}: a counter before its data");
            seen = turn;
        }
        if !stepped {
            one.poll().iter().for_each(|taken| assert!(matches!(taken, Taken::Sent)));
        }
    }
    *one.queue.counts()
}

#[test]
fn data_lands_before_its_counter() {
    for seed in 0..40 {
        let counts = stream(seed, seed % 2 == 0);
        assert_eq!((counts.doorbells, counts.work_requests), (60, 120), "one doorbell a turn");
        assert_eq!((counts.spans, counts.inlined, counts.words), (60, 30, 180));
        assert!((20..60).contains(&counts.completions), "{}", counts.completions);
    }
}

#[test]
fn a_small_queue_carries_a_long_stream() {
    for (seed, slots) in [(1, 2), (2, 3), (3, 8), (4, 64), (5, 255)] {
        let world = World::new(seed);
        let (mut one, other) = pair(&world, &depths(slots, 0));
        let remote = other.remote();
        let mut count = 0;
        while count < 3000 {
            while one.queue.room() > 0 && count < 3000 {
                count += 1;
                one.queue.words(&remote, 0, &[count]);
            }
            assert!(one.queue.room() == 0 || count == 3000);
            one.queue.post(false).expect("there was room");
            world.run();
            one.poll();
        }
        assert_eq!(other.to.cell(0).observe(), 3000);
        assert!(one.queue.room() > usize::from(slots) / 4);
        let chain = usize::from(slots).min(CHAIN) as u64;
        assert!(one.queue.counts().doorbells >= 3000 / chain, "at most so many at once");
    }
}

#[test]
fn a_queue_that_never_asks_for_a_completion_stops() {
    plant(Some("verbs-never-signalled"));
    let world = World::new(1);
    let (mut one, other) = pair(&world, &depths(16, 0));
    let remote = other.remote();
    for _ in 0..100 {
        if one.queue.room() > 0 {
            one.queue.words(&remote, 0, &[1]);
            one.queue.post(false).expect("there was room");
        }
        world.run();
        one.poll();
    }
    plant(None);
    assert_eq!(one.queue.counts().work_requests, 16, "soft-RoCE would have gone on for ever");
}

#[test]
fn whoever_counts_slots_wrongly_is_found_by_the_device() {
    let world = World::new(1);
    let (a, b) = (world.process(), world.process());
    // The device has fewer slots than the account believes.
    let (mut one, other) = pair_of(&a, &b, &depths(8, 0));
    for _ in 0..8 {
        one.queue.words(&other.remote(), 0, &[1]);
    }
    must_panic("without room", || one.queue.words(&other.remote(), 0, &[1]));
}

#[test]
fn all_that_was_posted_is_known_to_be_over() {
    for (seed, calls) in [(1, true), (2, false)] {
        let world = World::new(seed);
        let (a, b) = (world.process(), world.process());
        a.abilities(|its| its.calls = calls);
        let (mut one, other) = pair_of(&a, &b, &depths(64, 0));
        let remote = other.remote();
        for value in 1..=3 {
            one.queue.words(&remote, 8, &[value]);
            one.queue.post(false).unwrap();
        }
        let mark = one.queue.mark();
        world.run();
        one.poll();
        assert!(!one.queue.is_over(mark), "nobody asked");
        one.queue.settle().unwrap();
        one.queue.settle().unwrap();
        assert_eq!(one.queue.counts().work_requests, 4, "an empty write, once");
        assert!(!one.queue.is_over(mark));
        world.run();
        one.poll();
        assert!(one.queue.is_over(mark) && one.queue.room() == 64);
        assert_eq!(other.to.cell(8).observe(), 3);
    }
}

#[test]
fn a_dead_peer_is_reported_once_with_the_cause() {
    for seed in 0..8 {
        let world = World::new(seed);
        let (a, b) = (world.process(), world.process());
        let (mut one, other) = pair_of(&a, &b, &depths(32, 4));
        let remote = other.remote();
        b.kill();
        // None of these asks for a completion, and all of them complete.
        for value in 0..7 {
            one.queue.words(&remote, 0, &[value]);
        }
        one.queue.post(false).unwrap();
        world.run();
        let failure = one.failure().expect("it has failed");
        let text = failure.to_string();
        assert!(text.contains("transport retry counter exceeded (12, vendor 0x81)"), "{text}");
        assert!(text.starts_with("soft0: queue 0x"), "{text}");
        assert_eq!(one.queue.room(), 0, "Q3");
        one.queue.post(true).unwrap();
        one.queue.settle().unwrap();
        assert!(one.failure().is_none());
    }
}

#[test]
fn writes_under_way_when_it_fails_are_forgotten() {
    let world = World::new(3);
    let (a, b) = (world.process(), world.process());
    let (mut one, other) = pair_of(&a, &b, &depths(32, 0));
    let remote = other.remote();
    a.fail_next(status::REMOTE_ACCESS);
    one.queue.words(&remote, 0, &[1]);
    one.queue.post(false).unwrap();
    one.queue.words(&remote, 8, &[1]);
    world.run();
    let failure = one.failure().expect("it has failed");
    assert_eq!(failure.cause, Cause::Completion { status: status::REMOTE_ACCESS, vendor: 0x81 });
    one.queue.post(false).expect("what was added goes nowhere");
    assert_eq!(one.queue.counts().work_requests, 1);
}

#[test]
fn memory_taken_back_is_written_no_more() {
    let world = World::new(9);
    let (mut one, mut other) = pair(&world, &depths(32, 0));
    let remote = other.remote();
    world.hold();
    one.queue.words(&remote, 0, &[7]);
    one.queue.post(false).unwrap();
    drop(other.target.take());
    world.release();
    world.run();
    let failure = one.failure().expect("it has failed");
    assert!(failure.to_string().contains("taken back the memory"), "{failure}");
    assert_eq!(other.to.cell(0).observe(), 0);
    // The other end hears of it, too.
    assert!(readable(other.device.fd()));
    let qpn = other.queue.endpoint().qpn;
    assert_eq!(
        other.device.news(),
        Some(News::Queue { qpn, what: "its peer writes where it may not" })
    );
    assert_eq!(other.device.news(), None);
}

#[test]
fn nothing_lands_through_a_dropped_queue() {
    let world = World::new(4);
    let (a, b) = (world.process(), world.process());
    let (mut one, other) = pair_of(&a, &b, &depths(32, 0));
    let remote = other.remote();
    world.hold();
    one.queue.words(&remote, 0, &[7]);
    one.queue.post(false).unwrap();
    // F4: the memory is still registered, and the key is still good.
    let Side { queue, to, target, completions, source, from, device } = other;
    drop(queue);
    world.release();
    world.run();
    assert!(one.failure().expect("its peer is gone").to_string().contains("retry"));
    assert_eq!(to.cell(0).observe(), 0);
    drop((target, completions, source, from, device));
}

#[test]
fn a_bell_wakes_who_sleeps() {
    for (seed, calls) in [(1, true), (2, false)] {
        let world = World::new(seed);
        let (a, b) = (world.process(), world.process());
        a.abilities(|its| its.calls = calls);
        let (mut one, mut other) = pair_of(&a, &b, &depths(32, 4));
        let remote = other.remote();
        for round in 1..=40 {
            other.completions.arm(false).unwrap();
            one.queue.words(&remote, 0, &[round]);
            one.queue.post(false).unwrap();
            world.run();
            assert!(!readable(other.completions.fd()), "without a bell it sleeps on");
            one.queue.words(&remote, 0, &[round]);
            one.queue.words(&remote, 8, &[round]);
            one.queue.post(true).unwrap();
            world.run();
            assert!(readable(other.completions.fd()));
            assert_eq!(other.completions.woken(), 1);
            assert!(!readable(other.completions.fd()) && other.completions.woken() == 0);
            assert_eq!(other.to.cell(8).observe(), round, "the bell comes after its words");
            assert!(matches!(other.poll()[..], [Taken::Rung]));
            one.poll();
        }
        assert_eq!((one.queue.counts().bells, other.queue.counts().rung), (40, 40));
    }
}

#[test]
fn bells_that_nobody_takes_wait() {
    let world = World::new(2);
    let (mut one, mut other) = pair(&world, &depths(32, 2));
    let remote = other.remote();
    for value in 1..=6 {
        one.queue.words(&remote, 0, &[value]);
        one.queue.post(true).unwrap();
    }
    world.run();
    assert!(one.failure().is_none(), "patience is for ever");
    assert!(other.to.cell(0).observe() < 6);
    for _ in 0..6 {
        other.poll();
        world.run();
    }
    assert_eq!(other.to.cell(0).observe(), 6);
}

#[test]
fn a_peers_memory_can_be_read() {
    let world = World::new(5);
    let (mut one, other) = pair(&world, &depths(8, 0));
    let theirs: Vec<u64> = (0..512).map(|at| at * 3).collect();
    let mine = vec![0u64; 512];
    let first = |words: &[u64]| NonNull::from(&words[0]).cast::<u8>();
    let rights = Rights { write: false, read: true };
    // SAFETY: both vectors outlive what is registered here and are not touched meanwhile.
    let (shown, into) = unsafe {
        (
            Memory::foreign(&other.device, first(&theirs), 4096, rights).unwrap(),
            Memory::foreign(&one.device, first(&mine), 4096, Rights::default()).unwrap(),
        )
    };
    one.queue.read(&into, 0, 4096, &shown.remote(), 0);
    one.queue.post(false).unwrap();
    let mark = one.queue.mark();
    world.run();
    one.poll();
    assert!(one.queue.is_over(mark), "a read asks for its completion");
    drop((into, shown));
    assert_eq!(std::hint::black_box(&mine), &theirs);
    // What may only be read is not written.
    // SAFETY: as above.
    let shown = unsafe { Memory::foreign(&other.device, first(&theirs), 4096, rights) }.unwrap();
    one.queue.words(&shown.remote(), 0, &[1]);
    one.queue.post(false).unwrap();
    world.run();
    assert!(one.failure().is_some());
}

#[test]
fn a_write_stays_inside() {
    let world = World::new(5);
    let (mut one, other) = pair(&world, &depths(8, 0));
    let remote = other.remote();
    let end = remote.bytes;
    for (at, words) in [(end, 1), (end - 8, 2), (u64::MAX - 7, 1)] {
        must_panic("outside", || one.queue.words(&remote, at, &[0; 8][..words]));
    }
    must_panic("at a word", || one.queue.words(&remote, 4, &[0]));
    must_panic("outside", || one.queue.span(&one.source, 0, BYTES as u64 + 1, &remote, 0));
    must_panic("outside", || one.queue.span(&one.source, 8, 8, &remote, 0));
    must_panic("outside", || one.queue.span(&one.source, 0, 16, &remote, end - 8));
}

/// Every call can be refused; each refusal is an error in words, and nothing is left behind.
#[test]
fn every_refusal_is_said_and_leaves_nothing() {
    let steps = |process: &Process| -> Result<(), Error> {
        let device = Device::open(&process.table(), &Choice::default())?;
        let mut completions = Completions::new(&device, 2, &depths(8, 2))?;
        let mut queue = Queue::new(&completions, 0, &depths(8, 2))?;
        let other = Queue::new(&completions, 1, &depths(8, 2))?;
        let _memory = Memory::target(&device, Arc::new(Region::heap(4096)))?;
        queue.connect(&other.endpoint(), &device.place(), &Manner::default())?;
        completions.arm(false)
    };
    let mut refused = 0;
    for call in [
        Call::ListDevices,
        Call::OpenDevice,
        Call::QueryDevice,
        Call::AllocPd,
        Call::RegMr,
        Call::CreateChannel,
        Call::CreateCq,
        Call::CreateQp,
        Call::ModifyQp,
        Call::PostRecv,
        Call::ReqNotify,
    ] {
        for errno in [libc::ENOMEM, libc::EOPNOTSUPP, libc::EPERM] {
            for after in 0.. {
                let world = World::new(1);
                let process = world.process();
                process.abilities(|its| its.calls = after % 2 == 0);
                process.refuse(call, errno, after);
                let Err(error) = steps(&process) else { break };
                let cause = std::io::Error::from_raw_os_error(errno).to_string();
                assert!(error.detail.contains(&cause), "{call:?}: {error}");
                let limits = [Status::NoMemory, Status::Limit].contains(&error.status);
                assert_eq!(limits, errno == libc::ENOMEM, "{call:?}: {error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 50, "{refused}");
    let world = World::new(1);
    steps(&world.process()).unwrap();
}

#[test]
fn a_device_that_takes_no_work_ends_the_queue() {
    for calls in [true, false] {
        let world = World::new(1);
        let (a, b) = (world.process(), world.process());
        a.abilities(|its| its.calls = calls);
        let (mut one, other) = pair_of(&a, &b, &depths(8, 0));
        a.refuse(Call::PostSend, libc::ENOMEM, 0);
        one.queue.words(&other.remote(), 0, &[1]);
        let failure = one.queue.post(false).expect_err("refused");
        assert_eq!(failure.cause, Cause::Post { errno: libc::ENOMEM });
        assert!(failure.to_string().contains("refuses writes"), "{failure}");
        assert_eq!(one.queue.room(), 0);
        a.refuse(Call::PollCq, libc::EIO, 0);
        let failure = one.completions.poll(|_| {}).expect_err("refused");
        assert_eq!(failure.cause, Cause::Poll);
    }
}

#[test]
fn what_a_device_carries_by_value_is_found_out() {
    let granted = |inline_max: u32| {
        let world = World::new(1);
        let (a, b) = (world.process(), world.process());
        for process in [&a, &b] {
            process.abilities(|its| its.inline_max = inline_max);
        }
        let (mut one, other) = pair_of(&a, &b, &depths(8, 0));
        one.queue.words(&other.remote(), 0, &[1; 8]);
        one.queue.span(&one.source, 0, 110, &other.remote(), 128);
        one.queue.span(&one.source, 0, 111, &other.remote(), 128);
        one.queue.post(false).unwrap();
        world.run();
        one.queue.counts().inlined
    };
    assert_eq!((granted(512), granted(110), granted(64)), (2, 1, 0));
    let world = World::new(1);
    let process = world.process();
    process.abilities(|its| its.inline_max = 32);
    let device = Device::open(&process.table(), &Choice::default()).unwrap();
    let completions = Completions::new(&device, 1, &depths(8, 0)).unwrap();
    let error = Queue::new(&completions, 0, &depths(8, 0)).err().expect("too little");
    assert!(error.detail.contains("carries 64 bytes by value"), "{error}");
}

#[test]
fn completions_never_run_over() {
    let world = World::new(1);
    let process = world.process();
    process.abilities(|its| its.completions_max = 20);
    let device = Device::open(&process.table(), &Choice::default()).unwrap();
    let mut completions = Completions::new(&device, 64, &depths(8, 2)).unwrap();
    let new = |completions: &Completions, index| Queue::new(completions, index, &depths(8, 2));
    let one = new(&completions, 0).unwrap();
    let _two = new(&completions, 1).unwrap();
    let error = new(&completions, 2).err().expect("no room");
    assert_eq!(error.status, Status::Limit);
    assert!(error.detail.contains("of 20 entries has no room for 10 more"), "{error}");
    drop(one);
    assert_eq!(new(&completions, 2).err().expect("not yet").status, Status::Again);
    let mut flushed = 0;
    completions.poll(|completion| flushed += usize::from(completion.index() == 0)).unwrap();
    assert_eq!(flushed, 2, "its receives, which soft-RoCE leaves there");
    assert!(new(&completions, 2).is_ok());
}

#[test]
fn a_completion_of_one_that_has_ended_is_nobodys() {
    let world = World::new(6);
    let (mut one, other) = pair(&world, &depths(8, 0));
    world.hold();
    for _ in 0..3 {
        one.queue.words(&other.remote(), 0, &[1]);
    }
    one.queue.post(false).unwrap();
    // A further one under the same number: what the one before it had under way comes back.
    one.queue = Queue::new(&one.completions, 5, &depths(8, 0)).unwrap();
    let taken = one.poll();
    assert_eq!(taken.len(), 3, "flushed, though none of them asked");
    assert!(taken.iter().all(|taken| matches!(taken, Taken::Stale)), "{taken:?}");
}

#[test]
fn what_a_peer_tells_is_not_believed() {
    let world = World::new(1);
    let (a, b) = (world.process(), world.process());
    let (one, other) = (Side::new(&a, &depths(8, 0)), Side::new(&b, &depths(8, 0)));
    let (good, place) = (other.queue.endpoint(), other.device.place());
    let mut queue = one.queue;
    let mut refused = |endpoint: Endpoint, place: device::Place, status: Status| {
        let error = queue.connect(&endpoint, &place, &Manner::default()).err().expect("refused");
        assert_eq!(error.status, status, "{error}");
    };
    refused(Endpoint { qpn: 1, ..good }, place, Status::PeerFault);
    refused(Endpoint { qpn: 1 << 24, ..good }, place, Status::PeerFault);
    refused(Endpoint { psn: 1 << 24, ..good }, place, Status::PeerFault);
    for mtu_bytes in [0, 255, 1500, 8192, u32::MAX] {
        refused(good, device::Place { mtu_bytes, ..place }, Status::PeerFault);
    }
    refused(good, device::Place { gid: Gid::default(), ..place }, Status::PeerFault);
    refused(good, device::Place { ethernet: false, ..place }, Status::Mismatch);
    queue.connect(&good, &place, &Manner::default()).expect("this one is good");
    drop((other, queue, one.source, one.target, one.completions));
}

#[test]
fn a_manner_that_no_device_has_is_refused() {
    let good = Manner::default();
    assert!(good.check().is_ok());
    for bad in [
        Manner { timeout: 0, ..good },
        Manner { timeout: 32, ..good },
        Manner { retry: 7, ..good },
        Manner { service_level: 16, ..good },
        Manner { mtu_bytes: Some(1500), ..good },
        Manner { mtu_bytes: Some(8192), ..good },
    ] {
        assert_eq!(bad.check().err().expect("refused").status, Status::Invalid, "{bad:?}");
    }
}

#[test]
fn a_device_says_what_happens_to_it() {
    let world = World::new(1);
    let process = world.process();
    let device = Device::open(&process.table(), &Choice::default()).unwrap();
    assert!(!readable(device.fd()) && device.news().is_none());
    for (event, news) in [
        (Event::PortDown, News::Port { port: 1, up: false }),
        (Event::PortUp, News::Port { port: 1, up: true }),
        (Event::DeviceFatal, News::Device { what: "the device has failed" }),
    ] {
        process.event(event);
        assert!(readable(device.fd()));
        assert_eq!((device.news(), device.news()), (Some(news), None));
    }
    let line = device.line();
    assert!(line.contains("soft0 port 1: active, RoCE v2, 100 Gbit/s, MTU 4096"), "{line}");
    assert!(line.ends_with("GID ::ffff:10.77.0.1 (index 3)"), "{line}");
    assert!(device.survives_fork() && device.limits().completions_max == 32_767);
}

#[test]
fn the_device_with_the_address_is_opened() {
    let world = World::new(1);
    let process = world.process();
    process.plug("soft9", Ipv4Addr::new(10, 99, 0, 1));
    let found = device::list(&process.table()).unwrap();
    assert_eq!(found.iter().map(|port| &port.device[..]).collect::<Vec<_>>(), ["soft0", "soft9"]);
    let address = Some(Ipv4Addr::new(10, 99, 0, 1).into());
    let open = |choice: &Choice| Device::open(&process.table(), choice);
    let device = open(&Choice { address, ..Choice::default() }).unwrap();
    assert_eq!((device.name(), device.port()), ("soft9", 1));
    let error = open(&Choice { device: Some("mlx5_0".into()), ..Choice::default() }).err();
    assert!(error.expect("not there").detail.contains("has soft0 port 1, soft9 port 1"));
    process.abilities(|its| its.active = false);
    let error = open(&Choice::default()).err().expect("down");
    assert!(error.detail.contains("soft0 port 1: down"), "{error}");
}

#[test]
fn locked_memory_has_a_limit() {
    let world = World::new(1);
    let process = world.process();
    process.abilities(|its| its.bytes_max = 4096);
    let device = Device::open(&process.table(), &Choice::default()).unwrap();
    let kept = Memory::source(&device, Arc::new(Region::heap(4096))).unwrap();
    let error = Memory::target(&device, Arc::new(Region::heap(128))).err().expect("too much");
    assert!(error.detail.contains("soft0: cannot register 128 bytes"), "{error}");
    assert!([Status::Limit, Status::NoMemory].contains(&error.status));
    drop(kept);
    assert!(Memory::target(&device, Arc::new(Region::heap(128))).is_ok());
    let file = std::fs::File::open("/dev/null").unwrap();
    let error = Memory::dmabuf(&device, file.as_fd(), 0, 4096, 0, Rights::default());
    let error = error.err().expect("no device here can").detail;
    assert!(error.contains("memory of a descriptor"), "{error}");
}

#[test]
fn memory_that_is_not_given_back_stays_where_it_is() {
    let world = World::new(1);
    let process = world.process();
    let device = Device::open(&process.table(), &Choice::default()).unwrap();
    let region = Arc::new(Region::heap(4096));
    let memory = Memory::target(&device, region.clone()).unwrap();
    process.refuse(Call::DeregMr, libc::EBUSY, 0);
    drop(memory);
    assert_eq!(Arc::strong_count(&region), 2, "the device may go on writing there");
    drop(device);
    drop(world.violations());
    must_panic("1 registrations are left", || drop(world));
}

#[test]
fn a_forked_child_ends_nothing_of_its_parents() {
    let world = World::new(1);
    let (a, b) = (world.process(), world.process());
    let (one, other) = pair_of(&a, &b, &depths(8, 0));
    other.device.is_a_childs();
    drop(other);
    assert_eq!((b.queues(), b.registered()), (1, 2), "all of it is the parent's");
    drop(one);
    assert_eq!((a.queues(), a.registered()), (0, 0));
    must_panic("1 queue pairs are left", || drop(world));
}

#[test]
fn whoever_waits_for_room_is_woken_by_any_completion() {
    let world = World::new(1);
    let (mut one, other) = pair(&world, &depths(8, 0));
    for all in [false, true] {
        one.completions.arm(all).unwrap();
        one.queue.words(&other.remote(), 0, &[1]);
        one.queue.settle().unwrap();
        world.run();
        assert_eq!(readable(one.completions.fd()), all);
        assert_eq!(one.completions.woken(), usize::from(all));
        one.poll();
    }
}

#[test]
fn an_ordered_device_is_accepted_and_another_is_not() {
    for calls in [true, false] {
        let world = World::new(11);
        let process = world.process();
        process.abilities(|its| (its.calls, its.in_order) = (calls, calls));
        world.start();
        let device = Device::open(&process.table(), &Choice::default()).unwrap();
        match ordering::check(&device).unwrap() {
            Verdict::Holds { rounds, bytes_in_order } => {
                assert!(rounds > 0 && bytes_in_order == Some(calls));
            }
            verdict => panic!("{verdict:?}"),
        }
    }
    let world = World::new(12);
    let process = world.process();
    world.start();
    world.disorder();
    let device = Device::open(&process.table(), &Choice::default()).unwrap();
    match ordering::check(&device).unwrap() {
        Verdict::Breaks(what) => {
            assert!(what.contains("a counter landed before its data"), "{what}")
        }
        verdict => panic!("{verdict:?}"),
    }
    let world = World::new(13);
    let process = world.process();
    world.start();
    let device = Device::open(&process.table(), &Choice::default()).unwrap();
    process.lose_next();
    match ordering::check(&device).unwrap() {
        Verdict::Untried(what) => assert!(what.contains("retry counter"), "{what}"),
        verdict => panic!("{verdict:?}"),
    }
}

/// Both ends write, ring, poll and settle as they like: what is written first lands first, and the
/// device has nothing to complain about.
#[test]
fn any_mix_of_calls_keeps_order_and_rules() {
    for seed in 0..60 {
        let world = World::new(seed);
        let (a, b) = (world.process(), world.process());
        let mut random = Random(seed);
        a.abilities(|its| (its.calls, its.inline_max) = (seed % 2 == 0, 64 << (seed % 3)));
        let slots = [2, 5, 16, 128][random.below(4)];
        let (one, other) = pair_of(&a, &b, &depths(slots, 3));
        let mut sides = [one, other];
        let mut turns = [0; 2];
        for _ in 0..400 {
            let at = random.below(2);
            let remote = sides[1 - at].remote();
            let side = &mut sides[at];
            match random.below(8) {
                0..4 if side.queue.room() >= 3 => {
                    turns[at] += 1;
                    for place in 0..3 {
                        side.queue.words(&remote, place * 512, &[turns[at]; 2]);
                    }
                    let last = random.below(2) == 0;
                    side.queue.post(last).unwrap();
                }
                4 if side.queue.room() >= 1 => {
                    let bytes = [8, 64, 200, 4000][random.below(4)];
                    side.queue.span(&side.source, 8, 8 + bytes, &remote, 8192);
                }
                5 if side.queue.room() >= 1 => side.queue.settle().unwrap(),
                6 => drop(side.poll()),
                _ => drop((0..random.below(40)).filter(|_| world.step()).count()),
            }
            for (from, to) in [(0, 1), (1, 0)] {
                // The last first: what lands meanwhile only makes the others newer.
                let [last, middle, first] =
                    [1024, 512, 0].map(|at| sides[to].to.cell(at).observe());
                let ordered = last <= middle && middle <= first && first <= turns[from];
                assert!(ordered, "seed {seed}: {first} {middle} {last} of {}", turns[from]);
            }
        }
        for at in 0..2 {
            sides[at].queue.post(false).unwrap();
            for _ in 0..200 {
                world.run();
                let failed = sides.iter_mut().find_map(Side::failure);
                assert!(failed.is_none(), "seed {seed}: {failed:?}");
            }
            assert_eq!(sides[1 - at].to.cell(1024).observe(), turns[at], "seed {seed}");
        }
    }
}

/// Two ends that reach each other's memory, and that memory: 64 KiB each, theirs with all rights.
struct Reached {
    mine: Reach,
    theirs: Reach,
    source: Arc<Memory>,
    target: Option<Memory>,
    from: Arc<Region>,
    to: Arc<Region>,
}

impl Reached {
    fn new(a: &Arc<Device>, b: &Arc<Device>, rights: Rights) -> Reached {
        let (mut mine, mut theirs) = (Reach::new(a).unwrap(), Reach::new(b).unwrap());
        let manner = Manner { timeout: 10, retry: 1, ..Manner::default() };
        mine.connect(&theirs.endpoint(), &manner).unwrap();
        theirs.connect(&mine.endpoint(), &manner).unwrap();
        let (from, to) = (Arc::new(Region::heap(BYTES)), Arc::new(Region::heap(BYTES)));
        let source = Arc::new(Memory::sink(a, from.clone()).unwrap());
        let first = NonNull::from(to.cell(0)).cast::<u8>();
        // SAFETY: a region that outlives the registration (`Reached` drops it later), read by words.
        let target = Some(unsafe { Memory::foreign(b, first, BYTES, rights) }.unwrap());
        (0..BYTES).step_by(8).for_each(|at| from.cell(at).prepare(at as u64 + 1));
        Reached { mine, theirs, from, to, source, target }
    }

    fn operation(&self, what: What, offset: u64, bytes: u64, at: u64) -> Operation {
        let remote = self.target.as_ref().expect("not taken back").remote();
        Operation { what, offset, bytes, address: remote.address + at, key: remote.key }
    }
}

const ALL: Rights = Rights { write: true, read: true };
const PUT: What = What::Put { flush: false };

/// Puts in pieces, gets them back, and says how many pieces that took.
fn there_and_back(reached: &mut Reached, flush: bool, mut move_on: impl FnMut()) -> Counts {
    let put = reached.operation(What::Put { flush }, 0, 20_000, 8);
    let get = reached.operation(What::Get, 30_000, 20_000, 8);
    let nothing = reached.operation(PUT, 0, 0, 0);
    let (source, mut over) = (reached.source.clone(), 0);
    for (at, operation) in [put, nothing, get].into_iter().enumerate() {
        patiently("room", || {
            move_on();
            reached.mine.over().unwrap();
            reached.mine.begin(operation, &source).unwrap()
        });
        assert!(reached.mine.under_way() >= 1 && over <= at as u64);
        over = reached.mine.over().unwrap();
    }
    patiently("three operations", || {
        move_on();
        reached.mine.over().unwrap() == 3
    });
    assert_eq!(reached.mine.under_way(), 0);
    for at in (0..20_000).step_by(8) {
        assert_eq!(reached.to.cell(8 + at).observe(), at as u64 + 1);
        assert_eq!(reached.from.cell(30_000 + at).observe(), at as u64 + 1, "and back");
    }
    assert_eq!(reached.to.cell(20_008).observe(), 0, "no byte more");
    *reached.mine.counts()
}

#[test]
fn memory_is_put_and_got_in_pieces() {
    for (seed, write_bytes_max, flush) in [(1, 1 << 30, false), (2, 4096, true), (3, 100, true)] {
        let world = World::new(seed);
        let (a, b) = (world.process(), world.process());
        a.abilities(|its| its.write_bytes_max = write_bytes_max);
        let open = |process: &Process| Device::open(&process.table(), &Choice::default()).unwrap();
        let mut reached = Reached::new(&open(&a), &open(&b), ALL);
        let counts = there_and_back(&mut reached, flush, || {
            world.run();
        });
        let pieces = 20_000u64.div_ceil(u64::from(write_bytes_max));
        assert_eq!((counts.spans, counts.reads), (pieces, pieces + u64::from(flush)));
    }
}

#[test]
fn operations_wait_for_room_and_wake_who_sleeps() {
    let world = World::new(4);
    let (a, b) = (world.process(), world.process());
    let open = |process: &Process| Device::open(&process.table(), &Choice::default()).unwrap();
    let mut reached = Reached::new(&open(&a), &open(&b), ALL);
    let wakes = reached.mine.wakes().unwrap();
    let (source, put) = (reached.source.clone(), reached.operation(PUT, 0, 8, 0));
    let begun = (0..1000).take_while(|_| reached.mine.begin(put, &source).unwrap()).count();
    assert_eq!(begun, 127, "one slot is kept for a flush");
    assert_eq!((reached.mine.over().unwrap(), reached.mine.under_way()), (0, 127));
    reached.mine.arm().unwrap();
    assert_eq!(reached.mine.over().unwrap(), 0);
    reached.mine.arm().unwrap();
    assert!(!readable(wakes.as_fd()));
    world.run();
    assert!(readable(wakes.as_fd()));
    patiently("all", || reached.mine.over().unwrap() == 127);
    assert!(!readable(wakes.as_fd()));
    assert!(reached.mine.begin(put, &source).unwrap());
    world.run();
    drop(reached);
    assert!(!readable(wakes.as_fd()), "it outlives its end");
}

#[test]
fn an_operation_that_may_not_be_ends_the_connection_with_the_cause() {
    let write_only = Rights { write: true, read: false };
    let cases = [
        (ALL, PUT, 65_536 - 8, "remote access error"),
        (write_only, What::Get, 0, "remote access error"),
        (write_only, What::Put { flush: true }, 0, "remote access error"),
        (Rights { write: false, read: true }, PUT, 0, "remote access error"),
    ];
    for (seed, (rights, what, at, cause)) in cases.into_iter().enumerate() {
        let world = World::new(seed as u64);
        let (a, b) = (world.process(), world.process());
        let open = |process: &Process| Device::open(&process.table(), &Choice::default()).unwrap();
        let mut reached = Reached::new(&open(&a), &open(&b), rights);
        let (source, operation) = (reached.source.clone(), reached.operation(what, 0, 16, at));
        assert!(reached.mine.begin(operation, &source).unwrap());
        world.run();
        let error = reached.mine.over().unwrap_err();
        assert!(error.status == Status::Denied && error.detail.contains(cause), "{error}");
        assert_eq!(reached.mine.over().unwrap_err(), error, "and again");
        assert_eq!(reached.mine.begin(operation, &source).unwrap_err(), error);
        must_panic("outside its memory", || {
            let beyond = Operation { offset: BYTES as u64, ..operation };
            drop(reached.mine.begin(beyond, &source));
        });
    }
}

#[test]
fn nothing_comes_through_an_end_that_is_dropped() {
    let world = World::new(4);
    let (a, b) = (world.process(), world.process());
    let open = |process: &Process| Device::open(&process.table(), &Choice::default()).unwrap();
    let mut reached = Reached::new(&open(&a), &open(&b), ALL);
    let (source, put) = (reached.source.clone(), reached.operation(PUT, 0, 8, 0));
    world.hold();
    assert!(reached.mine.begin(put, &source).unwrap());
    reached.theirs = Reach::new(&open(&b)).unwrap();
    world.release();
    world.run();
    assert!(reached.mine.over().unwrap_err().detail.contains("retry"));
    assert_eq!(reached.to.cell(0).observe(), 0, "E3: though its key is good");
    for words in [[0; 5], [u64::MAX; 5], [2, 1 << 24, 1, 1, 1024 << 32 | 1]] {
        let error = reached.theirs.connect(&words, &Manner::default()).err().expect("nonsense");
        assert_eq!(error.status, Status::PeerFault, "{error}");
    }
}

/// Numbers of a queue that a peer has told: refused, or a connection.
#[test]
fn fuzz_a_peers_numbers_are_connected_or_refused() {
    let world = World::new(4);
    let (a, b) = (world.process(), world.process());
    let open = |process: &Process| Device::open(&process.table(), &Choice::default()).unwrap();
    let (mine, theirs) = (open(&a), Reach::new(&open(&b)).unwrap());
    let (good, reach) = (theirs.endpoint(), RefCell::new(Reach::new(&mine).unwrap()));
    let number = prop_oneof![0u64..3, (0u32..64).prop_map(|bit| 1 << bit), any::<u64>()];
    let change = prop::collection::vec((0usize..5, number, any::<bool>()), 0..4);
    let outcome = TestRunner::new(cases(500)).run(&change, |changes| {
        let mut words = good;
        for (at, number, flips) in changes {
            words[at] = if flips { words[at] ^ number } else { number };
        }
        match reach.borrow_mut().connect(&words, &Manner::default()) {
            Ok(()) => prop_assert!(words[0] < 1 << 24 && words[1] < 1 << 24, "{words:?}"),
            Err(refused) => {
                let status = [Status::PeerFault, Status::Mismatch].contains(&refused.status);
                prop_assert!(status && words != good, "{}", refused);
                return Ok(());
            }
        }
        *reach.borrow_mut() = Reach::new(&mine).unwrap(); // it is connected once
        Ok(())
    });
    outcome.unwrap();
}

/// What follows runs on a device of this machine, if it has one: in `ci/rxe`, or where there is hardware.
/// By both ways to hand work over, and between two devices if there are two that reach each other.
pub(super) fn on_real_devices(what: impl Fn(Arc<Device>, Arc<Device>)) {
    for calls in [true, false] {
        let mut table = match Table::load() {
            Ok(table) => table,
            Err(error) => return eprintln!("SKIPPED: {error}"),
        };
        if !calls {
            Arc::get_mut(&mut table).expect("nobody else has it").qp_to_qp_ex = None;
        }
        let found = match device::list(&table) {
            Ok(found) => found,
            Err(error) => return eprintln!("SKIPPED: {error}"),
        };
        let active = found.iter().filter(|port| port.state == State::Active);
        let names: Vec<&str> = active.map(|port| &port.device[..]).collect();
        let Some(first) = names.first() else { return eprintln!("SKIPPED: no active port") };
        let named = |device: &str| {
            let choice = Choice { device: Some(device.into()), ..Choice::default() };
            Device::open(&table, &choice).expect("an active port")
        };
        what(named(first), named(first));
        // The pair of ci/rxe, two devices on one wire.
        if names.contains(&"rxe1") && names.contains(&"rxe2") {
            what(named("rxe1"), named("rxe2"));
        }
    }
}

fn patiently(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < until, "not within 20 s: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn real_data_lands_before_its_counter() {
    on_real_devices(|a, b| {
        let (mut one, mut other) = (Side::of(a, &depths(16, 0)), Side::of(b, &depths(16, 0)));
        connect(&mut one, &mut other);
        eprintln!("{} by {:?}", one.device.line(), one.queue.path());
        let remote = other.remote();
        for turn in 1..=100 {
            let bytes = [8, 216, 224, 4096, 50_000][turn as usize % 5];
            (0..bytes).step_by(8).for_each(|at| one.from.cell(256 + at).prepare(turn));
            patiently("room", || {
                one.poll().iter().for_each(|taken| assert!(matches!(taken, Taken::Sent)));
                one.queue.room() >= 2
            });
            one.queue.span(&one.source, 256, 256 + bytes as u64, &remote, 256);
            one.queue.words(&remote, 64, &[turn]);
            one.queue.post(false).expect("there was room");
            patiently("a counter", || other.to.cell(64).observe() == turn);
            let late = (0..bytes).step_by(8).filter(|at| other.to.cell(256 + at).observe() != turn);
            assert_eq!(late.count(), 0, "a counter before its data");
        }
        one.queue.settle().unwrap();
        let mark = one.queue.mark();
        patiently("the end", || {
            assert!(one.failure().is_none());
            one.queue.is_over(mark)
        });
        assert_eq!(one.queue.room(), 16);
    });
}

#[test]
fn real_queues_stream_through_few_slots() {
    on_real_devices(|a, b| {
        let (mut one, mut other) = (Side::of(a, &depths(4, 0)), Side::of(b, &depths(4, 0)));
        connect(&mut one, &mut other);
        let remote = other.remote();
        for value in 1..=1000 {
            patiently("room", || {
                assert!(one.failure().is_none());
                one.queue.room() > 0
            });
            one.queue.words(&remote, 8, &[value; 8]);
            one.queue.post(false).expect("there was room");
        }
        patiently("the last", || other.to.cell(64).observe() == 1000);
    });
}

#[test]
fn real_bells_wake() {
    on_real_devices(|a, b| {
        let (mut one, mut other) = (Side::of(a, &depths(16, 4)), Side::of(b, &depths(16, 4)));
        connect(&mut one, &mut other);
        let remote = other.remote();
        for round in 1..=10 {
            other.completions.arm(false).unwrap();
            one.queue.words(&remote, 8, &[round]);
            one.queue.post(true).unwrap();
            patiently("a bell", || readable(other.completions.fd()));
            assert_eq!(other.completions.woken(), 1);
            assert_eq!(other.to.cell(8).observe(), round);
            assert!(matches!(other.poll()[..], [Taken::Rung]));
            one.poll();
        }
    });
}

#[test]
fn real_failures_have_their_cause() {
    on_real_devices(|a, b| {
        let new = |device: &Arc<Device>| Side::of(device.clone(), &depths(16, 0));
        let manner = Manner { timeout: 10, retry: 1, ..Manner::default() };
        let join = |one: &mut Side, other: &mut Side| {
            let (mine, theirs) = (one.queue.endpoint(), other.queue.endpoint());
            one.queue.connect(&theirs, &other.device.place(), &manner).unwrap();
            other.queue.connect(&mine, &one.device.place(), &manner).unwrap();
        };
        let failure_of = |one: &mut Side| {
            let mut failure = None;
            patiently("a failure", || {
                failure = one.failure();
                failure.is_some()
            });
            failure.expect("just seen").to_string()
        };
        // Memory that was taken back.
        let (mut one, mut other) = (new(&a), new(&b));
        join(&mut one, &mut other);
        let remote = other.remote();
        drop(other.target.take());
        one.queue.words(&remote, 0, &[1]);
        one.queue.post(false).unwrap();
        let text = failure_of(&mut one);
        assert!(text.contains("remote access error (10"), "{text}");
        assert_eq!(other.to.cell(0).observe(), 0);
        // A queue that is gone, with writes that do not ask.
        let (mut one, mut other) = (new(&a), new(&b));
        join(&mut one, &mut other);
        let Side { queue, to, target, .. } = other;
        drop(queue);
        let remote = target.as_ref().unwrap().remote();
        one.queue.words(&remote, 0, &[1]);
        one.queue.words(&remote, 0, &[1]);
        one.queue.post(false).unwrap();
        let text = failure_of(&mut one);
        assert!(text.contains("transport retry counter exceeded (12"), "{text}");
        assert_eq!(to.cell(0).observe(), 0, "F4");
    });
}

#[test]
fn real_devices_keep_order() {
    on_real_devices(|a, _| match ordering::check(&a).unwrap() {
        Verdict::Holds { rounds, .. } => eprintln!("{}: {rounds} rounds in order", a.name()),
        Verdict::Untried(what) => eprintln!("SKIPPED: {what}"),
        Verdict::Breaks(what) => panic!("{what}"),
    });
}

#[test]
fn real_memory_is_read_and_refused() {
    on_real_devices(|a, b| {
        let (mut one, mut other) = (Side::of(a, &depths(8, 0)), Side::of(b, &depths(8, 0)));
        connect(&mut one, &mut other);
        let theirs: Vec<u64> = (0..512).collect();
        let mine = vec![0u64; 512];
        let first = |words: &[u64]| NonNull::from(&words[0]).cast::<u8>();
        // SAFETY: both vectors outlive what is registered here and are not touched meanwhile.
        let (shown, into) = unsafe {
            let rights = Rights { write: false, read: true };
            (
                Memory::foreign(&other.device, first(&theirs), 4096, rights).unwrap(),
                Memory::foreign(&one.device, first(&mine), 4096, Rights::default()).unwrap(),
            )
        };
        one.queue.read(&into, 0, 4096, &shown.remote(), 0);
        one.queue.post(false).unwrap();
        let mark = one.queue.mark();
        patiently("a read", || {
            assert!(one.failure().is_none());
            one.queue.is_over(mark)
        });
        drop((into, shown));
        assert_eq!(std::hint::black_box(&mine), &theirs);
        let file = std::fs::File::open("/dev/null").unwrap();
        let refused = Memory::dmabuf(&one.device, file.as_fd(), 0, 4096, 0, Rights::default());
        assert!(refused.is_err(), "no memory is behind that");
    });
}

#[test]
fn real_memory_is_put_and_got() {
    on_real_devices(|a, b| {
        for flush in [false, true] {
            there_and_back(&mut Reached::new(&a, &b, ALL), flush, || {});
        }
        let mut reached = Reached::new(&a, &b, ALL);
        let (source, put) = (reached.source.clone(), reached.operation(PUT, 0, 8, 0));
        drop(reached.target.take());
        assert!(reached.mine.begin(put, &source).unwrap());
        let mut error = None;
        patiently("an error", || {
            error = reached.mine.over().err();
            error.is_some()
        });
        assert!(error.unwrap().detail.contains("taken back"));
    });
}
