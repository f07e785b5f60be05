// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of an accelerator: the stand-in for libcuda and the software device, which has what the stand-in
//! exports, and writes there late (`nic`, D5). And real ones, where there are any.

use super::*;
use crate::error::Error;
use crate::mem::cuda::standin::{self, Standin};
use crate::mem::cuda::{Cuda, Device as Accelerator, real};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::cell::Cell;
use std::io::Read;

/// Bytes, not at the beginning of a page.
const LENT: u64 = 70_000;
const BEGIN: u64 = 104;

/// Memory of the stand-in's, and what the driver's module for network devices knows of it.
struct Lendable {
    standin: Standin,
    address: u64,
}

impl Lendable {
    /// `None`: there is no C compiler.
    fn new() -> Option<Lendable> {
        let standin = standin::load()?;
        let address = standin.alloc((BEGIN + LENT) as usize) + BEGIN;
        Some(Lendable { standin, address })
    }

    fn memory(&self) -> Accelerator {
        Accelerator::new(self.standin.cuda, self.address, LENT).unwrap()
    }

    fn register(&self, member: &Member, direct: bool) -> Result<(u64, Path), Error> {
        let place = Place::Device(self.memory());
        let region = member.memories.register(place, BOTH, direct)?;
        Ok((region, member.memories.info(region)?.path))
    }

    /// Its addresses may be registered with the process's device.
    fn module(&self, process: &Process) {
        let (descriptor, offset) = self.memory().export().unwrap();
        process.peer_memory(self.address - offset, BEGIN + LENT, descriptor);
    }

    fn words(&self) -> Vec<u64> {
        let mut bytes = vec![0; LENT as usize];
        self.standin.peek(self.address, &mut bytes);
        bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
    }
}

/// The order of ways, each of which is told and works: a dma-buf, the driver's module, pinned memory, and the
/// refusal of who asked for direct access. What is announced is there.
#[test]
fn memory_of_an_accelerator_is_reached_by_the_first_way_that_there_is() {
    let Some(lendable) = Lendable::new() else { return };
    type Change<'a> = &'a dyn Fn(&Process);
    let exports: Change = &|process| process.abilities(|can| can.dmabuf = true);
    let module: Change = &|process| lendable.module(process);
    let all: Change = &|process| (exports(process), module(process)).1;
    let full: Change = &|process| {
        all(process);
        process.refuse(Call::RegDmabuf, libc::ENOMEM, 0);
    };
    let none: Change = &|process| process.refuse(Call::RegMr, libc::EFAULT, 1);
    let fullest: Change = &|process| {
        full(process);
        process.refuse(Call::RegMr, libc::ENOMEM, 1);
    };
    let cases: [(Change, Path); 6] = [
        (exports, Path::DmaBuf),
        (all, Path::DmaBuf),
        (module, Path::Peermem), // EOPNOTSUPP of the device
        (full, Path::Peermem),   // ENOMEM
        (none, Path::Bounce),
        (fullest, Path::Bounce),
    ];
    for (at, (change, wanted)) in cases.into_iter().enumerate() {
        let (world, a, b) = world(30 + at as u64);
        change(&b);
        let two = Two::new(&open(&a), &open(&b)); // its own memory is the first registration
        let (region, path) = lendable.register(&two.other, false).unwrap();
        assert_eq!(path, wanted);
        two.meet();
        let before = world.carried();
        reached(&two, region, at as u64, || lendable.words());
        let direct = world.carried() > before;
        assert_eq!(direct, wanted != Path::Bounce, "{wanted:?}");
    }
    for call in [c"cuMemGetHandleForAddressRange", c"no dma-buf"] {
        let (_world, a, b) = world(40);
        all(&b);
        lendable.standin.fail(Some(call));
        let two = Two::new(&open(&a), &open(&b));
        assert_eq!(lendable.register(&two.other, true).unwrap().1, Path::Peermem, "{call:?}");
        lendable.standin.fail(None);
    }
    let (_world, a, b) = world(41);
    b.refuse(Call::RegMr, libc::EFAULT, 1);
    let two = Two::new(&open(&a), &open(&b));
    let error = lendable.register(&two.other, true).unwrap_err();
    assert_eq!(error.status, Status::NotDirect);
    for cause in ["DmaBuf: ", "not supported", "Peermem: ", "Bad address", "it is copied"] {
        assert!(error.detail.contains(cause), "{cause}: {error}");
    }
}

/// A put that is announced, byte for byte, and a get.
fn reached(two: &Two, region: u64, salt: u64, there: impl Fn() -> Vec<u64>) {
    let words = LENT as usize / 8;
    let ticket = two.other.memories.ticket(region).unwrap();
    two.one.buffer.write(0, &pattern(salt, words));
    let put = Access { announce: Some(4), ..two.one.access(ticket, 0, 0, LENT) };
    two.one.memories.put(&put).unwrap();
    assert_eq!(two.next(&two.other).word, 4);
    assert!(there() == pattern(salt, words), "R4: what is announced is there");
    assert_eq!(two.next(&two.one).status, Status::Ok);
    assert_eq!(two.put(&two.one.access(ticket, 8, 1, 7)), Status::Ok);
    let first = pattern(salt, 2);
    assert_eq!(there()[0], first[1] << 8 | first[0] & 0xff, "R2: without being announced, too");
    two.one.buffer.write(0, &vec![0; words]);
    assert_eq!(two.get(&two.one.access(ticket, 8, 8, LENT - 8)), Status::Ok);
    assert!(two.one.words()[1..words] == pattern(salt, words)[1..]);
}

/// My own memory of an accelerator: what a get brings there is visible when it is over, by a call of the
/// driver's, or because it keeps that order; where neither is to be had it is copied.
#[test]
fn what_is_got_into_an_accelerator_is_flushed_there() {
    let Some(lendable) = Lendable::new() else { return };
    let cases = [(None, 1, true), (Some(c"keeps order"), 0, true), (Some(c"no flush"), 0, false)];
    for (seed, (call, flushes, direct)) in (50..).zip(cases) {
        let (world, a, b) = world(seed);
        a.abilities(|can| can.dmabuf = true);
        let two = Two::new(&open(&a), &open(&b));
        let (region, path) = lendable.register(&two.one, true).unwrap();
        assert_eq!(path, Path::DmaBuf);
        two.meet();
        assert_eq!(two.put(&two.access(0, 0, BYTES)), Status::Ok, "the queue is met");
        lendable.standin.fail(call);
        let words = LENT as usize / 8;
        two.other.buffer.write(0, &pattern(seed, words));
        let (before, carried) = (lendable.standin.flushes(), world.carried());
        assert_eq!(two.get(&Access { region, ..two.access(0, 0, LENT) }), Status::Ok);
        assert_eq!(lendable.standin.flushes() - before, flushes, "{call:?}");
        assert_eq!(world.carried() > carried, direct, "{call:?}");
        world.settle(); // the stand-in's flush is a count
        assert!(lendable.words() == pattern(seed, words));
        // And from there.
        two.other.buffer.write(0, &vec![0; words]);
        assert_eq!(two.put(&Access { region, ..two.access(0, 0, LENT) }), Status::Ok);
        assert!(two.other.words()[..words] == pattern(seed, words));
        lendable.standin.fail(Some(c"cuFlushGPUDirectRDMAWrites"));
        let over = two.get(&Access { region, ..two.access(0, 0, LENT) });
        assert_eq!(over, Status::System, "the driver has refused");
        lendable.standin.fail(None);
    }
}

/// The software device does what the flush is for: without one, what was written is not there.
#[test]
fn what_is_not_flushed_is_not_there_yet() {
    let (world, a, b) = world(60);
    let lent = [&a, &b].map(|process| {
        process.abilities(|can| can.dmabuf = true);
        Lent::new(open(process), Manner::default())
    });
    let file = memfd_create("squall-far", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, 8192).unwrap();
    let (offset, bytes, address) = (4096 + 16, 64, 0x7000_0000_0000);
    let memory = direct::Exported { descriptor: file.as_fd(), offset, bytes, address };
    let theirs = direct::Device::dma_buf(&lent[1], &memory, BOTH).unwrap();
    let buffer = Buffer::new(8);
    let span = Place::Host(buffer.lend()).span().unwrap();
    let mine = direct::Device::memory(&lent[0], &span, NEITHER).unwrap();
    let mut queues = [0, 1].map(|at| direct::Device::queue(&lent[at], 7).unwrap());
    let ends = [0, 1].map(|at: usize| queues[at].endpoint());
    (0..2).for_each(|at| queues[at].connect(&ends[1 - at]).unwrap());
    let mut put = |value: u64, flush: bool, nth: u64| {
        buffer.write(0, &[value; 8]);
        let (what, offset, theirs) = (What::Put, 0, (theirs.address + 8, theirs.remote));
        let order = Order { what, mine: &mine, offset, bytes: 16, theirs, flush };
        assert!(queues[0].begin(&order).unwrap());
        while queues[0].over().unwrap() < nth {
            std::thread::yield_now();
        }
        let mut bytes = [0; 32];
        rustix::io::pread(&file, &mut bytes, 4096 + 16).unwrap();
        bytes
    };
    assert_eq!(put(u64::MAX, false, 1), [0; 32]);
    assert_eq!(put(u64::MAX, true, 2), [[0; 8], [255; 8], [255; 8], [0; 8]].concat()[..]);
    drop(queues);
    drop((mine, theirs));
    assert_eq!(world.violations(), [""; 0]);
}

/// A device of CUDA's and, if there is one, an RDMA device that may reach it: by which way is said.
#[test]
fn real_memory_of_an_accelerator_is_put_to_and_got_from() {
    let Some((cuda, address)) = real::alloc(LENT as usize + 512) else { return };
    let tried = Cell::new(false);
    on_real_devices(|a, b| {
        tried.set(true);
        let (one, other) = (Member::new(1, &a, NEITHER, WORDS), Member::new(2, &b, BOTH, WORDS));
        real_there_and_back(cuda, address, &Two::with(one, other));
    });
    let owner = |incarnation| Owner::new(incarnation, Box::new(|| ()));
    let member = |incarnation| Member::of(incarnation, owner(incarnation), BOTH, WORDS);
    if !tried.get() {
        real_there_and_back(cuda, address, &Two::with(member(1), member(2)));
    }
}

fn real_there_and_back(cuda: &'static Cuda, address: u64, two: &Two) {
    let memory = || Accelerator::new(cuda, address, LENT).unwrap();
    let region = two.other.memories.register(Place::Device(memory()), BOTH, false).unwrap();
    let path = two.other.memories.info(region).unwrap().path;
    two.meet();
    let seen = memory();
    let there = || {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let (mut bytes, mut from) = (vec![0; LENT as usize], 0);
        while from < LENT as usize {
            let sent = seen.send(theirs.as_fd(), &[], from as u64, LENT as usize - from).unwrap();
            ours.read_exact(&mut bytes[from..from + sent]).unwrap();
            from += sent;
        }
        bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
    };
    reached(two, region, 3, there);
    eprintln!("memory of an accelerator was reached: {path:?}");
}
