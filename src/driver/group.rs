// SPDX-License-Identifier: MIT OR Apache-2.0
//! A group as a Rust program uses it; the C door is a thin layer over this.

use super::config::{Config, Idle};
use super::idle::{Pace, pin};
use super::lane::Lanes;
pub use super::lane::Sender;
use super::rendezvous::{self, Met};
use super::stats::{self, Page, Snapshot};
use super::{Application, Driver, Turn, clock};
use crate::base::Rank;
use crate::error::{Error, Status};
use crate::fabric::Fabric;
use crate::fabric::shm::socket::Bell;
use crate::fabric::shm::{OwnBell, Parts, Shm};
use crate::group::Engine;
use crate::group::view::View;
use crate::limits::WIRE_VERSION;
use crate::mem::region::Want;
use crate::mem::thread::can_order_all_threads;
use crate::mem::{Cell, Region};
use crate::sst::Table;
use crate::sst::inbox::Inbox;
use crate::sst::layout::{Layout, MAGIC, Mode};
use crate::sst::producer::{Gate, Producer};
use crate::sst::ring::{LaneCells, Ring, Taker};
use crate::sst::stores::Stores;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// An open group, polled by the thread that holds it.
pub struct Group {
    driver: Driver,
    lanes: Lanes,
    bell: Option<OwnBell>,
    stats: Arc<Region>,
    idle: Idle,
    rank: u16,
    members: u16,
}

/// My lanes of one subgroup, both ends, and the memory they share with the world.
struct OwnRings {
    region: Option<Arc<Region>>,
    descriptor: Option<OwnedFd>,
}

impl Group {
    /// Opens a group: makes this member's memory, meets the others, maps theirs.
    ///
    /// Blocks until all members are there or `open_timeout` ends. `application` gets the messages.
    pub fn open(config: &Config, application: Box<dyn Application>) -> Result<Group, Error> {
        let view = config.view()?;
        let layout = Arc::new(view.layout());
        let mut notes = Vec::new();
        let share = |what: &str, bytes: usize, notes: &mut Vec<String>| {
            let name = format!("squall-{}-{}-{what}", config.group, config.rank);
            Region::share(&name, bytes, config.lock, config.huge, notes)
        };
        let (control, control_fd) = share("table", layout.control_bytes, &mut notes)?;
        prologue(&control, &layout, &view);
        Region::seal(&control_fd)?;
        let mut rings = Vec::new();
        for (at, subgroup) in view.subgroups.iter().enumerate() {
            let sends = subgroup.senders.iter().any(|sender| sender.rank == view.me);
            if !sends {
                rings.push(OwnRings { region: None, descriptor: None });
                continue;
            }
            let (region, fd) = share(&format!("ring{at}"), layout.rings_bytes(at), &mut notes)?;
            Region::seal(&fd)?;
            rings.push(OwnRings { region: Some(Arc::new(region)), descriptor: Some(fd) });
        }
        let page_bytes = stats::page_bytes(view.subgroups.len(), view.members);
        let page = Region::share("squall-stats", page_bytes, Want::No, Want::No, &mut notes)?;
        Region::seal(&page.1)?;
        notes.dedup();
        for note in &notes {
            crate::log_sink::say(crate::log_sink::Level::Warning, note);
        }
        let descriptors = rings.iter_mut().map(|ring| ring.descriptor.take()).collect();
        let (block, bell) = (Arc::new(control), Bell::new()?);
        let mine = rendezvous::Mine {
            block: block.clone(),
            control: control_fd,
            rings: descriptors,
            bell,
        };
        let parks = config.idle == Idle::Park;
        let met = rendezvous::meet(config, &view, &layout, &mine, parks)?;
        let regions = rings.into_iter().map(|ring| ring.region).collect();
        let assembly = Assembly { config, view, layout, control: block, rings: regions };
        assembly.build(met, mine.bell, (Arc::new(page.0), page.1), application)
    }

    /// Takes a lane of mine: for the thread that will send in it. `None`: not a sender there, no
    /// such lane, or taken already.
    pub fn sender(&mut self, subgroup: u16, lane: u16) -> Option<Sender> {
        self.lanes.sender(subgroup, lane)
    }

    /// One turn in this thread; delivers at most `limit` messages. Never blocks.
    #[inline]
    pub fn poll(&mut self, limit: u32) -> Result<u32, Status> {
        Ok(self.turn(limit)?.delivered)
    }

    /// The same, telling also whether it found something to do.
    #[inline(always)]
    pub fn turn(&mut self, limit: u32) -> Result<Turn, Status> {
        let turn = self.driver.turn(limit);
        match self.driver.stopped_state() {
            Some(status) if turn.delivered == 0 => Err(status),
            _ => Ok(turn),
        }
    }

    /// Whether it is safe to sleep on the group's descriptor: `false`, there is work, poll first. Needs `Idle::Park`.
    pub fn arm(&mut self) -> Result<bool, Status> {
        if !self.driver.fabric().parks() {
            return Err(Status::Invalid);
        }
        Ok(self.driver.arm())
    }

    /// Idles as the group's strategy says: spins or yields once, or sleeps until something happens
    /// or `timeout` is over.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<(), Status> {
        if let Some(status) = self.driver.stopped_state() {
            return Err(status);
        }
        if self.idle != Idle::Park {
            Pace::new(self.idle).quiet();
            return Ok(());
        }
        if self.driver.arm() {
            self.driver.sleep(timeout.map(|timeout| timeout.as_nanos() as u64));
        }
        Ok(())
    }

    /// For another thread of mine: `ring_always` ends this thread's `wait`, or its next one at
    /// once. `None`: this group never sleeps.
    pub fn waker(&self) -> Option<OwnBell> {
        self.bell.clone()
    }

    /// Polls in this thread until `until` says so, idling as the strategy says.
    pub fn run(&mut self, mut until: impl FnMut() -> bool) -> Status {
        let mut pace = Pace::new(self.idle);
        while !until() {
            match self.turn(u32::MAX) {
                Ok(turn) if turn.busy => pace.busy(),
                Ok(_) => {
                    if pace.quiet() {
                        pace.busy();
                        if self.driver.arm() {
                            self.driver.sleep(None);
                        }
                    }
                }
                Err(status) => return status,
            }
        }
        Status::Ok
    }

    /// Hands the group to a thread of its own, on `core` if given.
    pub fn spawn(self, core: Option<usize>) -> Result<Polling, Error> {
        let stop = Arc::new(Cell::new(0));
        let (theirs, bell) = (stop.clone(), self.bell.clone());
        let (rank, members, stats) = (self.rank, self.members, self.stats.clone());
        // No channel: receiving from one would leave a handle of the calling thread, which is the
        // application's, to be found by its leak checker.
        let report = Arc::new((Mutex::new(None), Condvar::new()));
        let pinned = report.clone();
        let mut group = self;
        let run = move || {
            crate::mem::thread::block_signals();
            let outcome = core.map_or(Ok(()), pin);
            let failed = outcome.is_err();
            *report.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
            report.1.notify_one();
            if failed {
                return (group, Status::Invalid);
            }
            let status = group.run(|| theirs.observe() != 0);
            (group, status)
        };
        let spawned = std::thread::Builder::new().name("squall-poll".into()).spawn(run);
        let thread = spawned.map_err(|cause| no_thread(&cause))?;
        let mut outcome = pinned.0.lock().unwrap_or_else(PoisonError::into_inner);
        while outcome.is_none() && !thread.is_finished() {
            let woken = pinned.1.wait_timeout(outcome, Duration::from_millis(100));
            outcome = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        if let Some(Err(error)) = outcome.take() {
            drop(outcome);
            drop(thread.join()); // and with it the group: its name is free when this returns
            return Err(error);
        }
        Ok(Polling { stop, bell, thread: Some(thread), rank, members, stats })
    }

    pub fn rank(&self) -> u16 {
        self.rank
    }

    pub fn members(&self) -> u16 {
        self.members
    }

    /// What this member counts, now.
    pub fn stats(&mut self) -> Snapshot {
        self.driver.refresh();
        stats::read(&self.stats).unwrap_or_default()
    }

    /// The page that `stats` decodes; any thread may read it.
    pub fn stats_page(&self) -> Arc<Region> {
        self.stats.clone()
    }

    /// Leaves in good order: the others go on delivering what is stable.
    pub fn close(mut self) {
        self.driver.farewell();
    }
}

/// Readable when a turn is due, for an event loop; not to be read or written. `arm` before sleeping
/// on it.
impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.driver.fabric().fd()
    }
}

impl AsRawFd for Group {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// A group that polls itself.
pub struct Polling {
    stop: Arc<Cell>,
    bell: Option<OwnBell>,
    thread: Option<JoinHandle<(Group, Status)>>,
    pub rank: u16,
    pub members: u16,
    pub stats: Arc<Region>,
}

impl Polling {
    /// Whether its thread has ended by itself: the group has stopped.
    pub fn ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops the thread and gives the group back, with the status that ended it. `None`: it died
    /// of a panic.
    pub fn join(mut self) -> Option<(Group, Status)> {
        self.end()
    }

    fn end(&mut self) -> Option<(Group, Status)> {
        let thread = self.thread.take()?;
        self.stop.publish(1);
        let start = Instant::now();
        while !thread.is_finished() {
            if let Some(bell) = &mut self.bell {
                bell.ring_always();
            }
            // A callback may take its time; the bell must not be lost meanwhile.
            std::thread::sleep(Duration::from_micros(if start.elapsed().as_millis() < 5 {
                50
            } else {
                1000
            }));
        }
        thread.join().ok()
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        self.end();
    }
}

/// What is needed to put a member together once all have met.
struct Assembly<'a> {
    config: &'a Config,
    view: View,
    layout: Arc<Layout>,
    control: Arc<Region>,
    rings: Vec<Option<Arc<Region>>>,
}

impl Assembly<'_> {
    fn build(
        self,
        met: Met,
        bell: Bell,
        (stats, stats_fd): (Arc<Region>, OwnedFd),
        application: Box<dyn Application>,
    ) -> Result<Group, Error> {
        let (me, members) = (self.view.me, self.view.members);
        let mut blocks = Vec::new();
        for (rank, block) in met.blocks.iter().enumerate() {
            blocks.push(if rank == me.index() {
                self.control.clone()
            } else {
                block.clone().expect("all have met")
            });
        }
        let parts = Parts {
            me,
            members,
            blocks: blocks.clone(),
            neighbours: met.neighbours,
            bell,
            door: met.door,
            hello: met.hello,
            stats: stats_fd,
        };
        let fabric = Shm::new(parts, &self.layout)?;
        let own_bell = fabric.own_bell();
        let table = Table::new(self.layout.clone(), me, blocks, None);
        let (mut takers, mut producers, mut inboxes) = (Vec::new(), Vec::new(), Vec::new());
        for (at, subgroup) in self.view.subgroups.iter().enumerate() {
            if !subgroup.has(me) {
                continue;
            }
            let ring_of = |rank: Rank, lane: u16| {
                let region =
                    if rank == me { &self.rings[at] } else { &met.rings[rank.index()][at] };
                let region = region.clone().expect("a sender has a ring");
                Ring::new(region, usize::from(lane), &subgroup.shape)
            };
            let of = |sender: &crate::group::view::Sender| {
                (ring_of(sender.rank, sender.lane), sender.rank.0, sender.lane)
            };
            let rings = subgroup.senders.iter().map(of).collect();
            inboxes.push(Inbox::new(rings, &subgroup.shape, self.view.epoch));
            let mut mine = Vec::new();
            for (s, sender) in subgroup.senders.iter().enumerate() {
                if sender.rank != me {
                    continue;
                }
                let cells = LaneCells::new();
                let ring = ring_of(me, sender.lane);
                mine.push(Taker::new(ring.clone(), cells.clone()));
                let gate = self.gate(&table, at, s);
                let stores = Stores::adaptive(|| clock().0, subgroup.shape.message_bytes_max);
                let mut producer = Producer::new(ring, cells, gate, &subgroup.shape, HOT_BYTES);
                producer.store(stores);
                producer.defer_fences(can_order_all_threads());
                producers.push((at as u16, sender.lane, producer));
            }
            takers.push(mine);
        }
        let subgroups = takers.len();
        let posting = fabric.posting();
        let engine = Engine::new(self.view, &table, takers, posting);
        let page = Page::new(stats.clone(), me.0, members, subgroups);
        let every = self.config.liveness_every_ns;
        let driver =
            Driver::new(engine, table, inboxes, Box::new(fabric), application, page, every);
        let (idle, rank) = (self.config.idle, me.0);
        let mut lanes = Lanes::new(own_bell.clone());
        lanes.install(Vec::new(), producers, &mut |_| ());
        Ok(Group { driver, lanes, bell: own_bell, stats, idle, rank, members: members as u16 })
    }

    /// Who must have released a slot of sender `s` before it is used again.
    fn gate(&self, table: &Table, subgroup: usize, s: usize) -> Gate {
        let spec = &self.view.subgroups[subgroup];
        let columns = &self.layout.subgroups[subgroup];
        let at = match spec.mode() {
            Mode::Stable => columns.released.byte(0),
            Mode::Received => columns.released_by.byte(s),
        };
        let row = |&rank: &Rank| (rank, table.block(rank).clone(), at);
        Gate {
            rows: spec.members.iter().map(row).collect(),
            mode: spec.mode(),
            sender: s,
            senders: spec.senders.len(),
            hook: None,
        }
    }
}

/// Too many threads are told like too little memory for one more: "try again".
fn no_thread(cause: &std::io::Error) -> Error {
    let what = format!("cannot start a polling thread: {cause}");
    if cause.kind() == std::io::ErrorKind::WouldBlock {
        let remedy = "raise the limit of threads (`ulimit -u`, or pids.max of the control group), or \
                      poll the group yourself";
        return Error::new(Status::Limit, format!("{what}; {remedy}"));
    }
    Error::new(Status::System, what)
}

/// A ring's first part, where small messages stay while there is room (half of a usual L2).
const HOT_BYTES: u64 = 512 << 10;

/// What a control block says before anything moves.
fn prologue(control: &Region, layout: &Layout, view: &View) {
    control.cell(layout.wire.byte(0)).prepare(u64::from(WIRE_VERSION));
    control.cell(layout.epoch.byte(0)).prepare(view.epoch.0);
    control.cell(layout.installed.byte(0)).prepare(view.epoch.0);
    // Never that of another process of this rank, nor of this one's last group.
    let incarnation = super::clock().0 << 22 ^ u64::from(std::process::id());
    control.cell(layout.incarnation.byte(0)).prepare(incarnation);
    control.cell(layout.magic.byte(0)).publish(MAGIC);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::config::Config;

    #[test]
    fn a_limit_of_threads_is_named() {
        let error = no_thread(&std::io::Error::from_raw_os_error(libc::EAGAIN));
        assert_eq!(error.status, Status::Limit);
        assert!(error.detail.contains("ulimit -u"), "{error}");
    }

    /// Event loops of other crates take what has a descriptor.
    #[test]
    fn a_group_has_a_descriptor_to_wait_on() {
        let config = Config::new(&format!("descriptor-{}", std::process::id()), 0, 1);
        let mut group = Group::open(&config, Box::new(|_: u16, _: &[crate::mem::Message]| {}));
        let group = group.as_mut().unwrap();
        while !group.arm().unwrap() {
            group.turn(0).unwrap();
        }
        let readable = |group: &Group| {
            let flags = rustix::event::PollFlags::IN;
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            rustix::event::poll(&mut [rustix::event::PollFd::new(group, flags)], Some(&now))
        };
        assert_eq!(readable(group), Ok(0));
        group.waker().unwrap().ring_always();
        assert_eq!(readable(group), Ok(1));
        assert_eq!(group.as_raw_fd(), group.as_fd().as_raw_fd());
    }

    /// The polling thread sleeps and wants to hear of messages only; then a thread that sends finds
    /// no room. Unless that wakes it, room that comes later is news to nobody.
    #[test]
    fn a_refused_send_wakes_its_poller() {
        let name = format!("refused-{}", std::process::id());
        let open = |rank: u16| {
            let mut config = Config::new(&name, rank, 2);
            config.subgroups[0].window = 1;
            config.subgroups[0].message_bytes_max = 64;
            Group::open(&config, Box::new(|_: u16, _: &[crate::mem::Message]| {})).unwrap()
        };
        let (mut one, mut two) = std::thread::scope(|scope| {
            let other = scope.spawn(|| open(1));
            (open(0), other.join().unwrap())
        });
        let mut sender = one.sender(0, 0).unwrap();
        sender.send(b"fills the window").unwrap();
        one.turn(0).unwrap();
        two.turn(0).unwrap(); // received there, and not released
        assert_eq!(one.poll(1), Ok(1));
        while !one.arm().unwrap() {
            one.turn(0).unwrap();
        }
        assert_eq!(sender.send(b"no room"), Err(Status::Again));
        let start = Instant::now();
        one.driver.sleep(Some(20_000_000_000));
        assert!(start.elapsed() < Duration::from_secs(10), "nobody rang");
        assert_eq!(two.poll(1), Ok(1));
        two.turn(0).unwrap(); // what a turn delivers, the next one releases
        one.turn(0).unwrap();
        assert!(sender.send(b"room again").is_ok());
    }
}
