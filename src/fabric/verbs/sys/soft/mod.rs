// SPDX-License-Identifier: MIT OR Apache-2.0
//! A software device behind the table of libibverbs: several "processes" of one test process, one wire
//! between them. Stricter than hardware, and slower only by choice.
//!
//! What it does is in `nic` (D1 to D4), what C sees of it in `calls`. By hand (`step`, `run`) the same
//! seed does the same; with a thread (`start`) it runs beside the test.
//!
//! ```text
//! let world = World::new(7);
//! let (a, b) = (world.process(), world.process());
//! world.start();                       // or world.run() after each move
//! let device = Device::open(&a.table(), &Choice::default())?;
//! ...
//! drop(device); world ends: every broken rule and every object that is left is a panic
//! ```

mod calls;
pub mod nic;
mod queues;

use super::Table;
use crate::mem::Cell;
use nic::{Nic, status};
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// A call that can be made to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    ListDevices,
    OpenDevice,
    QueryDevice,
    QueryPort,
    AllocPd,
    RegMr,
    RegDmabuf,
    DeregMr,
    CreateChannel,
    CreateCq,
    CreateQp,
    ModifyQp,
    DestroyQp,
    PostSend,
    PostRecv,
    PollCq,
    ReqNotify,
}

/// What happens to a device by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    PortDown,
    PortUp,
    DeviceFatal,
    QueueFatal(u32),
    QueueAccess(u32),
}

/// What the devices of a process can do.
#[derive(Clone, Debug)]
pub struct Abilities {
    pub completions_max: i32,
    pub slots_max: i32,
    pub inline_max: u32,
    /// The `ibv_wr_*` calls.
    pub calls: bool,
    pub dmabuf: bool,
    pub in_order: bool,
    /// Completions of an ended queue stay where they are, as with soft-RoCE.
    pub stale: bool,
    pub active: bool,
    pub mtu: u32,
    /// Bytes of one write.
    pub write_bytes_max: u32,
    /// Bytes that may be registered: as RLIMIT_MEMLOCK does.
    pub bytes_max: u64,
}

impl Default for Abilities {
    fn default() -> Self {
        Abilities {
            completions_max: 32_767,
            slots_max: 16_384,
            inline_max: 512,
            calls: true,
            dmabuf: false,
            in_order: false,
            stale: true,
            active: true,
            mtu: 5,
            write_bytes_max: 1 << 30,
            bytes_max: u64::MAX,
        }
    }
}

/// One device of a process.
struct Plugged {
    process: usize,
    name: String,
}

/// Addresses of an accelerator's memory, and a descriptor by which this process has it.
struct PeerMemory {
    address: u64,
    end: u64,
    descriptor: OwnedFd,
}

/// One process, as the wire sees it.
struct Host {
    abilities: Abilities,
    refusals: Vec<(Call, i32, usize)>,
    peer_memory: Vec<PeerMemory>,
    events: VecDeque<Event>,
    /// Descriptors of its open devices, by device: each is written once per event.
    open: Vec<(usize, i32)>,
}

/// Everything behind the one lock.
struct State {
    nic: Nic,
    hosts: Vec<Host>,
    devices: Vec<Plugged>,
    /// Objects of C that were made and not given back, by kind.
    contexts: i64,
    domains: i64,
    channels: i64,
}

struct Inner {
    state: Mutex<State>,
    work: Condvar,
    stop: Cell,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    /// Whether a call of a process fails now, and by which `errno`.
    fn refusal(&mut self, process: usize, call: Call) -> Option<i32> {
        if self.nic.dead.contains(&process) {
            return Some(libc::EIO);
        }
        let refusals = &mut self.hosts[process].refusals;
        let at = refusals.iter().position(|(its, _, _)| *its == call)?;
        if refusals[at].2 > 0 {
            refusals[at].2 -= 1;
            return None;
        }
        Some(refusals.remove(at).1)
    }

    fn announce(&mut self, process: usize, event: Event) {
        let host = &mut self.hosts[process];
        host.events.push_back(event);
        for (_, descriptor) in &host.open {
            calls::signal(*descriptor);
        }
    }

    /// What the device noticed by itself.
    fn accuse(&mut self) {
        for (process, number) in std::mem::take(&mut self.nic.accused) {
            self.announce(process, Event::QueueAccess(number));
        }
    }

    fn step(&mut self) -> bool {
        let stepped = self.nic.step();
        self.accuse();
        stepped
    }
}

/// The wire. Dropped last; then every object must have been given back and no rule broken.
pub struct World {
    inner: Arc<Inner>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl World {
    pub fn new(seed: u64) -> World {
        let state = State {
            nic: Nic::new(seed),
            hosts: Vec::new(),
            devices: Vec::new(),
            contexts: 0,
            domains: 0,
            channels: 0,
        };
        let (work, stop) = (Condvar::new(), Cell::new(0));
        let inner = Arc::new(Inner { state: Mutex::new(state), work, stop });
        World { inner, thread: Mutex::new(None) }
    }

    /// A further process, with one device, `soft0`, at 10.77.0.1 and so on.
    pub fn process(&self) -> Process {
        let mut state = self.inner.lock();
        let at = state.hosts.len();
        state.hosts.push(Host {
            abilities: Abilities::default(),
            refusals: Vec::new(),
            peer_memory: Vec::new(),
            events: VecDeque::new(),
            open: Vec::new(),
        });
        drop(state);
        let process = Process { inner: self.inner.clone(), at };
        process.plug("soft0", Ipv4Addr::new(10, 77, 0, 1 + at as u8));
        process
    }

    /// Lets a thread do the device's work from now on.
    pub fn start(&self) {
        let mut thread = self.thread.lock().expect("no test panics here");
        self.inner.lock().nic.timed = true;
        let inner = self.inner.clone();
        thread.get_or_insert_with(|| {
            let named = std::thread::Builder::new().name("soft nic".into());
            named.spawn(move || work(&inner)).expect("a thread")
        });
    }

    /// One small piece of work by hand; `false`: there is none.
    pub fn step(&self) -> bool {
        self.inner.lock().step()
    }

    /// Steps until there is nothing to do; says how many.
    pub fn run(&self) -> usize {
        std::iter::from_fn(|| self.step().then_some(())).take(1_000_000).count()
    }

    /// Nothing lands from now on; what has landed may still complete.
    pub fn hold(&self) {
        self.inner.lock().nic.held = true;
    }

    pub fn release(&self) {
        self.inner.lock().nic.held = false;
        self.inner.work.notify_all();
    }

    /// Writes land in any order from now on: no device may do that.
    pub fn disorder(&self) {
        self.inner.lock().nic.disordered = true;
    }

    /// Nothing that one sends reaches the other, either way.
    pub fn cut(&self, one: &Process, other: &Process) {
        let pair = (one.at.min(other.at), one.at.max(other.at));
        self.inner.lock().nic.cuts.insert(pair);
    }

    pub fn heal(&self, one: &Process, other: &Process) {
        let pair = (one.at.min(other.at), one.at.max(other.at));
        self.inner.lock().nic.cuts.remove(&pair);
        self.inner.work.notify_all();
    }

    /// How many writes and reads are over.
    pub fn carried(&self) -> u64 {
        self.inner.lock().nic.carried
    }

    /// How many of them are reads.
    pub fn reads(&self) -> u64 {
        self.inner.lock().nic.reads
    }

    /// What was written to accelerators is there (`nic`, D5).
    pub fn settle(&self) {
        self.inner.lock().nic.settle();
    }

    /// Rules that were broken so far; they are forgotten.
    pub fn violations(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.lock().nic.violations)
    }

    fn left(&self) -> Vec<String> {
        let state = self.inner.lock();
        let nic = &state.nic;
        let counts = [
            ("contexts", state.contexts),
            ("protection domains", state.domains),
            ("completion channels", state.channels),
            ("registrations", nic.memory.len() as i64),
            ("completion queues", nic.completions.len() as i64),
            ("queue pairs", nic.pairs.len() as i64),
        ];
        let left = counts.into_iter().filter(|(_, count)| *count != 0);
        left.map(|(what, count)| format!("{count} {what} are left")).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.inner.stop.publish(1);
        self.inner.work.notify_all();
        if let Some(thread) = self.thread.lock().ok().and_then(|mut thread| thread.take()) {
            let _ = thread.join();
        }
        let mut wrong = self.violations();
        wrong.extend(self.left());
        if !std::thread::panicking() {
            assert!(wrong.is_empty(), "the software device complains:\n  {}", wrong.join("\n  "));
        }
    }
}

fn work(inner: &Inner) {
    while inner.stop.observe() == 0 {
        let mut state = inner.lock();
        let steps = 1 + state.nic.random.below(8);
        let worked = (0..steps).filter(|_| state.step()).count();
        let pause = state.nic.random.below(64) == 0;
        if worked == 0 {
            let nap = Duration::from_micros(200);
            drop(inner.work.wait_timeout(state, nap).map(|(state, _)| drop(state)));
        } else {
            drop(state);
            if pause {
                std::thread::sleep(Duration::from_micros(20))
            } else {
                std::thread::yield_now()
            }
        }
    }
}

/// One process on the wire.
#[derive(Clone)]
pub struct Process {
    inner: Arc<Inner>,
    at: usize,
}

impl Process {
    /// Its libibverbs.
    pub fn table(&self) -> Arc<Table> {
        Arc::new(calls::table(&self.inner, self.at))
    }

    /// A further device, with one port of that address.
    pub fn plug(&self, name: &str, address: Ipv4Addr) {
        let mut state = self.inner.lock();
        let at = state.devices.len();
        state.devices.push(Plugged { process: self.at, name: name.into() });
        state.nic.gids.push((at, address.to_ipv6_mapped().octets()));
    }

    pub fn abilities(&self, change: impl FnOnce(&mut Abilities)) {
        change(&mut self.inner.lock().hosts[self.at].abilities);
    }

    /// Memory of an accelerator may be registered at its addresses: there is a module of its driver's.
    /// `descriptor`: what is there.
    pub fn peer_memory(&self, address: u64, bytes: u64, descriptor: OwnedFd) {
        let peer = PeerMemory { address, end: address + bytes, descriptor };
        self.inner.lock().hosts[self.at].peer_memory.push(peer);
    }

    /// It ends without a word: its queues and memory are gone.
    pub fn kill(&self) {
        let mut state = self.inner.lock();
        state.nic.dead.insert(self.at);
        self.inner.work.notify_all();
    }

    /// A call of its fails once, by that `errno`, after so many that do not.
    pub fn refuse(&self, call: Call, errno: i32, after: usize) {
        self.inner.lock().hosts[self.at].refusals.push((call, errno, after));
    }

    /// The next write of its that is begun fails by that status (`nic::status`).
    pub fn fail_next(&self, status: u32) {
        self.inner.lock().nic.fail_next.insert(self.at, status);
    }

    /// As `fail_next`, as if the peer were gone.
    pub fn lose_next(&self) {
        self.fail_next(status::RETRIES);
    }

    pub fn event(&self, event: Event) {
        self.inner.lock().announce(self.at, event);
    }

    /// How many writes and receives wait in its queues.
    pub fn waiting(&self) -> usize {
        let state = self.inner.lock();
        let pairs = state.nic.pairs.values().filter(|pair| pair.process == self.at);
        pairs.map(|pair| pair.writes.len()).sum()
    }

    /// How many registrations it has.
    pub fn registered(&self) -> usize {
        let state = self.inner.lock();
        state.nic.memory.values().filter(|region| region.process == self.at).count()
    }

    /// The same for queues.
    pub fn queues(&self) -> usize {
        let state = self.inner.lock();
        state.nic.pairs.values().filter(|pair| pair.process == self.at).count()
    }
}
