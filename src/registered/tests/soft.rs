// SPDX-License-Identifier: MIT OR Apache-2.0
//! A network device in software, for all members of a test: it carries out one operation at a time, when
//! the test says so; looks at keys, bounds and rights as a device does; and what it writes to memory of a
//! CUDA device is not visible there before a flush.

use super::super::direct::{Device, Endpoint, Exported, Keys, Order, Queue};
use super::*;
use crate::error::Error;
use crate::mem::cuda::standin::Standin;
use crate::mem::place::Span;
use std::collections::VecDeque;
use std::sync::Mutex;

/// Orders that one queue takes.
const DEPTH: usize = 3;

#[derive(Clone)]
enum Memory {
    Buffer(Buffer),
    Cuda,
}

struct Known {
    memory: Memory,
    address: u64,
    bytes: u64,
    rights: Rights,
}

struct Work {
    what: What,
    mine: (u32, u64),
    bytes: u64,
    theirs: (u64, u32),
    flush: bool,
}

#[derive(Default)]
struct End {
    peer: Option<u64>,
    work: VecDeque<Work>,
    over: u64,
    is_dead: bool,
    /// The peer's device has refused the first.
    is_refused: bool,
}

#[derive(Default)]
struct State {
    buffers: Vec<Buffer>,
    known: BTreeMap<u32, Known>,
    ends: BTreeMap<u64, End>,
    next: u64,
    /// Written to memory of a CUDA device and not flushed.
    posted: Vec<(u64, Vec<u8>)>,
    refuses: Vec<&'static str>,
    /// Registrations that were tried.
    tried: Vec<&'static str>,
}

pub struct Network(Mutex<State>);

struct Soft(Arc<Network>);

/// A registration.
struct Key(Arc<Network>, u32);

impl Drop for Key {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().known.remove(&self.1);
    }
}

struct Socket(Arc<Network>, u64);

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().ends.remove(&self.1);
    }
}

impl Network {
    pub fn new() -> Arc<Network> {
        Arc::new(Network(Mutex::default()))
    }

    pub fn device(self: &Arc<Network>) -> Arc<dyn Device> {
        Arc::new(Soft(self.clone()))
    }

    /// Memory of the host that may be registered.
    pub fn knows(&self, buffer: &Buffer) {
        self.0.lock().unwrap().buffers.push(buffer.clone());
    }

    /// Those registrations fail from now on.
    pub fn refuse(&self, which: &[&'static str]) {
        self.0.lock().unwrap().refuses = which.to_vec();
    }

    pub fn tried(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.0.lock().unwrap().tried)
    }

    /// Carries out the first order of a queue; with memory of CUDA devices: `standin`.
    pub fn step(&self, which: usize) {
        self.step_with(which, None);
    }

    pub fn step_with(&self, which: usize, standin: Option<&Standin>) {
        let mut guard = self.0.lock().unwrap();
        let state = &mut *guard;
        let count = state.ends.len().max(1);
        let Some(number) = state.ends.keys().nth(which % count).copied() else { return };
        let end = &state.ends[&number];
        let meets = end.peer.is_some_and(|peer| {
            state.ends.get(&peer).is_some_and(|theirs| theirs.peer == Some(number))
        });
        let Some(work) = end.work.front().filter(|_| !end.is_dead) else { return };
        let reached = meets && state.known.get(&work.mine.0).is_some();
        let carried = reached && {
            let theirs = state.known.get(&work.theirs.1);
            theirs.is_some_and(|theirs| {
                let from = work.theirs.0.wrapping_sub(theirs.address);
                let may = [theirs.rights.read, theirs.rights.write];
                let within = from.checked_add(work.bytes).is_some_and(|end| end <= theirs.bytes);
                within && may[usize::from(work.what == What::Put)]
            })
        };
        let end = state.ends.get_mut(&number).unwrap();
        if !carried {
            (end.is_dead, end.is_refused) = (true, reached);
            return;
        }
        let work = end.work.pop_front().unwrap();
        end.over += 1;
        state.carry(&work, standin);
    }
}

impl State {
    fn carry(&mut self, work: &Work, standin: Option<&Standin>) {
        let (mine, theirs) = (&self.known[&work.mine.0], &self.known[&work.theirs.1]);
        let near = (mine.memory.clone(), mine.address + work.mine.1);
        let far = (theirs.memory.clone(), work.theirs.0);
        let (from, into) = if work.what == What::Put { (near, far) } else { (far, near) };
        let len = work.bytes as usize;
        let bytes = match from {
            (Memory::Buffer(buffer), address) => {
                bytes_of(&buffer, (address - buffer.lend().address()) as usize, len)
            }
            (Memory::Cuda, address) => {
                let mut bytes = vec![0; len];
                standin.unwrap().peek(address, &mut bytes);
                bytes
            }
        };
        match into {
            (Memory::Buffer(buffer), address) => {
                write_bytes(&buffer, (address - buffer.lend().address()) as usize, &bytes);
            }
            (Memory::Cuda, address) => self.posted.push((address, bytes)),
        }
        if work.flush || work.what == What::Get {
            for (address, bytes) in self.posted.drain(..) {
                standin.unwrap().poke(address, &bytes);
            }
        }
    }
}

fn write_bytes(buffer: &Buffer, at: usize, bytes: &[u8]) {
    let (first, last) = (at / 8, (at + bytes.len()).div_ceil(8));
    let mut words = vec![0; last - first];
    buffer.read(first, &mut words);
    let mut all: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    all[at % 8..at % 8 + bytes.len()].copy_from_slice(bytes);
    let words: Vec<u64> =
        all.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
    buffer.write(first, &words);
}

impl Soft {
    fn register(
        &self,
        how: &'static str,
        place: (u64, u64),
        rights: Rights,
        find: impl FnOnce(&State) -> Option<Memory>,
    ) -> Result<Keys, Error> {
        let mut state = self.0.0.lock().unwrap();
        state.tried.push(how);
        let refuses = state.refuses.contains(&how);
        let Some(memory) = find(&state).filter(|_| !refuses) else {
            return Err(Error::new(Status::System, format!("no {how} here")));
        };
        state.next += 1;
        let (key, (address, bytes)) = (state.next as u32, place);
        state.known.insert(key, Known { memory, address, bytes, rights });
        Ok(Keys { address, remote: key, memory: Box::new(Key(self.0.clone(), key)) })
    }
}

impl Device for Soft {
    fn dma_buf(&self, memory: &Exported<'_>, rights: Rights) -> Result<Keys, Error> {
        let Exported { descriptor, offset, bytes, address } = *memory;
        assert!(rustix::io::fcntl_getfd(descriptor).is_ok() && offset < 4096);
        self.register("dma-buf", (address, bytes), rights, |_| Some(Memory::Cuda))
    }

    fn memory(&self, span: &Span, rights: Rights) -> Result<Keys, Error> {
        let (address, bytes) = (span.address(), span.bytes());
        let of = |state: &State| {
            let is_there = |buffer: &&Buffer| buffer.lend().address() == address;
            state.buffers.iter().find(is_there).cloned()
        };
        let is_host = of(&self.0.0.lock().unwrap()).is_some();
        let how = if is_host { "host" } else { "peermem" };
        self.register(how, (address, bytes), rights, |state| {
            Some(of(state).map_or(Memory::Cuda, Memory::Buffer))
        })
    }

    fn queue(&self, _: u64) -> Result<Box<dyn Queue>, Error> {
        let mut state = self.0.0.lock().unwrap();
        if state.refuses.contains(&"queue") {
            return Err(Error::new(Status::Limit, "no queue is left"));
        }
        state.next += 1;
        let number = state.next;
        state.ends.insert(number, End::default());
        Ok(Box::new(Socket(self.0.clone(), number)))
    }
}

impl Queue for Socket {
    fn endpoint(&self) -> Endpoint {
        [self.1, 1, 2, 3, 4]
    }

    fn connect(&mut self, theirs: &Endpoint) -> Result<(), Error> {
        assert_eq!(theirs[1..], [1, 2, 3, 4], "all five are carried");
        self.0.0.lock().unwrap().ends.get_mut(&self.1).unwrap().peer = Some(theirs[0]);
        Ok(())
    }

    fn begin(&mut self, order: &Order<'_>) -> Result<bool, Error> {
        let key = order.mine.memory.downcast_ref::<Key>().unwrap().1;
        let mut state = self.0.0.lock().unwrap();
        let end = state.ends.get_mut(&self.1).unwrap();
        assert!(end.peer.is_some(), "connected before");
        if end.work.len() >= DEPTH {
            return Ok(false);
        }
        end.work.push_back(Work {
            what: order.what,
            mine: (key, order.offset),
            bytes: order.bytes,
            theirs: order.theirs,
            flush: order.flush,
        });
        Ok(true)
    }

    fn over(&mut self) -> Result<u64, Error> {
        let state = self.0.0.lock().unwrap();
        let end = &state.ends[&self.1];
        match (end.is_dead, end.is_refused) {
            (false, _) => Ok(end.over),
            (true, true) => Err(Error::new(Status::Denied, "remote access error")),
            (true, false) => {
                Err(Error::new(Status::PeerLost, "the connection of the device is lost"))
            }
        }
    }

    fn landed(&self) -> u64 {
        self.0.0.lock().unwrap().ends[&self.1].over
    }

    fn wakes(&self) -> Option<Arc<dyn AsFd + Send + Sync>> {
        None
    }

    fn arm(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// Every step of the fall-back, and what is told of it.
#[test]
fn ways_to_memory_of_a_device_are_tried_in_order() {
    let Some(standin) = standin::load() else { return };
    let network = Network::new();
    let member = Member::new(1);
    let address = standin.alloc(9000) + 100;
    let register = |direct: bool| {
        let device = crate::mem::cuda::Device::new(standin.cuda, address, 8000).unwrap();
        let region = member.memories.register(Place::Device(device), BOTH, direct)?;
        let info = member.memories.info(region).unwrap();
        member.memories.deregister(region).unwrap();
        Ok::<_, Error>(info.path)
    };
    let refused = || {
        let error = register(true).unwrap_err();
        assert_eq!(error.status, Status::NotDirect);
        error.detail
    };
    assert_eq!(register(false), Ok(Path::Bounce));
    assert!(refused().contains("no network device"));
    member.owner.use_device(network.device());
    assert_eq!((register(false), register(true)), (Ok(Path::DmaBuf), Ok(Path::DmaBuf)));
    assert_eq!(network.tried(), ["dma-buf", "dma-buf"]);
    network.refuse(&["dma-buf"]);
    assert_eq!(register(true), Ok(Path::Peermem));
    assert_eq!(network.tried(), ["dma-buf", "peermem"]);
    for call in [c"cuMemGetHandleForAddressRange", c"no dma-buf", c"cuDeviceGetAttribute"] {
        standin.fail(Some(call));
        assert_eq!(register(true), Ok(Path::Peermem), "{call:?}");
        assert_eq!(network.tried(), ["peermem"], "{call:?}");
    }
    standin.fail(None);
    network.refuse(&["dma-buf", "peermem"]);
    assert_eq!(register(false), Ok(Path::Bounce));
    assert_eq!(network.tried(), ["dma-buf", "peermem"]);
    let why = refused();
    assert!(why.contains("DmaBuf: no dma-buf here; Peermem: no peermem here"), "{why}");
    let buffer = Buffer::new(8);
    network.knows(&buffer);
    let lent = |direct: bool| {
        let region = member.memories.register(Place::Host(buffer.lend()), BOTH, direct)?;
        member.memories.info(region).map(|info| info.path)
    };
    assert_eq!(lent(true), Ok(Path::Direct));
    network.refuse(&["host"]);
    assert_eq!(lent(false), Ok(Path::Staged));
    assert_eq!(lent(true).unwrap_err().status, Status::NotDirect);
}

/// A put to memory of a device is announced, and complete, behind its flush.
#[test]
fn what_a_device_has_written_is_flushed_before_it_is_announced() {
    let Some(standin) = standin::load() else { return };
    let arrives = |mutant: Option<&'static str>| {
        let network = Network::new();
        let mut two = Two::new();
        two.0.iter().for_each(|member| member.owner.use_device(network.device()));
        let mine = Buffer::new(512);
        network.knows(&mine);
        let host = Place::Host(mine.lend());
        let region = two.0[0].memories.register(host, NEITHER, true).unwrap();
        let address = standin.alloc(4096);
        let device = crate::mem::cuda::Device::new(standin.cuda, address, 4096).unwrap();
        let there = two.0[1].memories.register(Place::Device(device), BOTH, true).unwrap();
        let ticket = two.0[1].memories.ticket(there).unwrap();
        // The first one opens the stream, and may be copied.
        let (offset, at, bytes, tag, announce) = (0, 0, 8, 0, None);
        let first = Access { region, offset, ticket, at, bytes, tag, announce };
        assert_eq!(two.outcome(true, &first), Status::Ok);
        mine.write(0, &[0x0707_0707_0707_0707; 512]);
        let put = Access { bytes: 4096, tag: 1, announce: Some(5), ..first };
        two.0[0].memories.put(&put).unwrap();
        plant(mutant);
        let heard = loop {
            for Member { worker, shared, .. } in &mut two.0 {
                worker.round(shared);
            }
            network.step_with(0, Some(&standin));
            network.step_with(1, Some(&standin));
            if let Some(heard) = two.0[1].polled().pop() {
                break heard;
            }
        };
        plant(None);
        assert_eq!((heard.word, heard.bytes, heard.offset), (5, 4096, 0));
        let mut bytes = [0; 4096];
        standin.peek(address, &mut bytes);
        two.settle();
        let over = two.0[0].polled();
        assert_eq!((over.len(), over[0].status, over[0].bytes), (1, Status::Ok, 4096));
        bytes == [7; 4096]
    };
    assert!(arrives(None));
    assert!(!arrives(Some("memory-not-flushed")), "the planted fault is one");
}

/// K3: a stream ends with a get in the queue; when that is told, nothing of it lands here any more.
#[test]
fn what_was_lost_lands_nowhere_afterwards() {
    let lands = |mutant: Option<&'static str>| {
        let network = Network::new();
        let mut two = Two::new();
        two.0.iter().for_each(|member| member.owner.use_device(network.device()));
        let lend = |member: &Member| {
            let buffer = Buffer::new(64);
            network.knows(&buffer);
            let place = Place::Host(buffer.lend());
            (member.memories.register(place, BOTH, true).unwrap(), buffer)
        };
        let (region, mine) = lend(&two.0[0]);
        let (other, theirs) = lend(&two.0[1]);
        let ticket = two.0[1].memories.ticket(other).unwrap();
        theirs.write(0, &[5; 64]);
        let (offset, at, bytes, tag, announce) = (0, 0, 0, 0, None);
        let nothing = Access { region, offset, ticket, at, bytes, tag, announce };
        assert_eq!(two.outcome(true, &nothing), Status::Ok);
        let get = Access { bytes: 512, ..nothing };
        two.0[0].memories.get(&get).unwrap();
        two.settle();
        // The caller's end ends, the target's is not turned.
        two.0[0].owner.opened(2, None);
        plant(mutant);
        let Member { worker, shared, .. } = &mut two.0[0];
        worker.round(shared);
        plant(None);
        assert_eq!(two.0[0].polled()[0].status, Status::Gone);
        (0..8).for_each(|which| network.step(which));
        let mut words = [0; 64];
        mine.read(0, &mut words);
        words == [5; 64]
    };
    assert!(!lands(None));
    assert!(lands(Some("memory-queue-outlives")), "the planted fault is one");
}

/// Without a queue it is copied; when one is lost, what was begun in it is.
#[test]
fn a_device_may_have_no_queue_and_lose_one() {
    let network = Network::new();
    let mut two = Two::new();
    two.0.iter().for_each(|member| member.owner.use_device(network.device()));
    let lend = |member: &Member| {
        let buffer = Buffer::new(64);
        network.knows(&buffer);
        let place = Place::Host(buffer.lend());
        (member.memories.register(place, BOTH, false).unwrap(), buffer)
    };
    let (region, _mine) = lend(&two.0[0]);
    let (other, _theirs) = lend(&two.0[1]);
    let ticket = two.0[1].memories.ticket(other).unwrap();
    let (offset, at, bytes, tag, announce) = (0, 0, 512, 0, None);
    let access = Access { region, offset, ticket, at, bytes, tag, announce };
    network.refuse(&["queue"]);
    assert_eq!(two.outcome(true, &access), Status::Ok);
    assert!(network.0.lock().unwrap().ends.is_empty());
    let mut two = Two::new();
    network.refuse(&[]);
    two.0.iter().for_each(|member| member.owner.use_device(network.device()));
    let (region, _mine) = lend(&two.0[0]);
    let (other, _theirs) = lend(&two.0[1]);
    let ticket = two.0[1].memories.ticket(other).unwrap();
    let access = Access { region, ticket, ..access };
    assert_eq!(two.outcome(true, &access), Status::Ok);
    two.0[0].memories.put(&access).unwrap();
    two.0[0].memories.get(&access).unwrap();
    two.settle();
    assert!(two.0[0].polled().is_empty(), "the device has not been stepped");
    network.0.lock().unwrap().ends.values_mut().for_each(|end| end.is_dead = true);
    two.settle();
    let over = two.0[0].polled();
    assert!(over.len() == 2 && over.iter().all(|of| of.status == Status::Gone), "{over:?}");
}
