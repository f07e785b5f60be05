// SPDX-License-Identifier: MIT OR Apache-2.0
//! A group as a Rust program uses it; the C door is a thin layer over this.

mod opening;

use super::assembly::{Assembly, assemble, prologue};
use super::config::{Changes, Config, Idle};
use super::control::Control;
use super::idle::{Pace, pin};
use super::join::join;
use super::lane::Lanes;
pub use super::lane::Sender;
use super::lines::Lines;
use super::network::Carrier;
use super::policy::{Policy, sends};
use super::reach::Reach;
use super::rendezvous;
use super::state::{self, States};
use super::stats::{self, Page, Snapshot, Steps};
use super::views::Views;
use super::{Application, Driver, Seen, Turn};
use crate::base::Epoch;
use crate::error::{Error, Status};
use crate::fabric::shm::OwnBell;
use crate::fabric::shm::exchange::OwnMemory;
use crate::fabric::shm::socket::Bell;
use crate::fabric::tcp::secret::random;
use crate::fabric::{Admission, Fabric, Memory};
use crate::group::membership::Membership;
use crate::group::membership::stage::Stage;
use crate::limits::MEMBERS_MAX;
use crate::mem::region::Want;
use crate::mem::{Cell, Region};
use crate::registered::Memories;
use crate::sst::layout::Layout;
use opening::Opening;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// An open group, polled by the thread that holds it.
pub struct Group {
    driver: Driver,
    /// `None`: the view is fixed.
    control: Option<Control>,
    bell: Option<OwnBell>,
    stats: Arc<Region>,
    idle: Idle,
    rank: u16,
    members: u16,
}

impl Group {
    /// Opens a group: makes this member's memory, meets the others, maps theirs.
    ///
    /// Blocks until all members are there or `open_timeout` ends. `application` gets the messages.
    pub fn open(config: &Config, application: Box<dyn Application>) -> Result<Group, Error> {
        let several_hosts = config.network.carrier != Carrier::Shm;
        if config.join || several_hosts {
            if several_hosts && config.membership == Changes::Fixed {
                let detail = "members on several hosts may change: membership has to be `views`";
                return Err(Error::new(Status::Invalid, detail));
            }
            if several_hosts {
                config.network.check(config.join, config.members)?;
            }
            return join(config, application);
        }
        let (view, plan) = config.first()?;
        state::options(config).check()?;
        let layout = Arc::new(view.layout());
        let policy = Policy::new(config)?;
        let views = config.membership == Changes::Views;
        let (mut block_bytes, ring_bytes) = policy.sizes();
        if !views {
            block_bytes = layout.control_bytes;
        }
        let mut notes = Vec::new();
        let name = format!("squall-{}-{}", config.group, config.rank);
        let own = OwnMemory { name, block_bytes, ring_bytes, lock: config.lock, huge: config.huge };
        let mine = own.make(&sends(&view, view.me), &mut notes)?;
        prologue(&mine.memory.block, Epoch(1), (0, incarnation()));
        if !views {
            mine.memory.block.cell(layout.installed.byte(0)).publish(1);
        }
        let most = if views { MEMBERS_MAX } else { view.members };
        let page_bytes = stats::page_bytes(view.subgroups.len(), most);
        let page = Region::share("squall-stats", page_bytes, Want::No, Want::No, &mut notes)?;
        Region::seal(&page.1)?;
        notes.dedup();
        for note in &notes {
            crate::log_sink::say(crate::log_sink::Level::Warning, note);
        }
        let (block, bell) = (mine.memory.block.clone(), Bell::new()?);
        let shown = rendezvous::Mine { block, control: mine.block, rings: mine.rings, bell };
        let parks = config.idle == Idle::Park;
        let met = rendezvous::meet(config, &view, &layout, &shown, parks)?;
        let policy = (policy, plan);
        let assembly = Opening { config, view, layout, policy, memory: mine.memory, own };
        assembly.build(met, shown.bell, (Arc::new(page.0), page.1), application)
    }

    /// Takes a lane of mine: for the thread that will send in it. `None`: not a sender there, no
    /// such lane, or taken already.
    pub fn sender(&mut self, subgroup: u16, lane: u16) -> Option<Sender> {
        self.driver.lanes.sender(subgroup, lane)
    }

    /// The same for whoever may become a sender there in a later view: until then it answers
    /// `NotSender`.
    pub fn lane(&mut self, subgroup: u16, lane: u16, config: &Config) -> Option<Sender> {
        let of = config.subgroup(subgroup)?;
        if self.control.is_some() && lane < of.lanes {
            self.driver.lanes.add(subgroup, lane);
        }
        self.sender(subgroup, lane)
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
        if self.driver.is_inherited() {
            return Err(Status::Closed);
        }
        if !self.driver.fabric().parks() {
            return Err(Status::Invalid);
        }
        let safe = self.driver.arm();
        if safe {
            self.driver.wind_up();
        }
        Ok(safe)
    }

    /// Idles as the group's strategy says: spins or yields once, or sleeps until something happens
    /// or `timeout` is over.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<(), Status> {
        if self.driver.is_inherited() {
            return Err(Status::Closed);
        }
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

    /// Where views change: in the view at hand.
    pub fn rank(&self) -> u16 {
        self.driver.engine().view().me.0
    }

    /// As `rank`.
    pub fn members(&self) -> u16 {
        self.driver.engine().view().members as u16
    }

    /// How far the view at hand is on its way to the next one. `None`: it is fixed.
    pub fn stage(&self) -> Option<Stage> {
        self.driver.engine().membership().map(Membership::stage)
    }

    /// Brings `stats_page` up to date.
    pub fn refresh(&mut self) {
        self.driver.refresh();
    }

    /// What this member counts, now.
    pub fn stats(&mut self) -> Snapshot {
        self.refresh();
        stats::read(&self.stats).unwrap_or_default()
    }

    /// The page that `stats` decodes; any thread may read it.
    pub fn stats_page(&self) -> Arc<Region> {
        self.stats.clone()
    }

    /// For other threads of mine, and for callbacks. `None`: the view is fixed.
    pub fn control(&self) -> Option<Control> {
        self.control.clone()
    }

    /// Registered memory of this member, for any thread of mine and for callbacks. `None`: the view is
    /// fixed.
    pub fn memory(&self) -> Option<Memories> {
        self.driver.reach.as_ref().map(Reach::memories)
    }

    /// Leaves in good order: the others go on delivering what is stable. From now on this member
    /// delivers nothing itself.
    ///
    /// Where views change this is `Control::leave`: the others have first all that this member has
    /// sent. It takes a view change, and a second at the most: what is not known to be delivered then
    /// is given to `dropped` with `TimedOut`. If there is no other member, what was not delivered
    /// here is given to `dropped` with `Left`. No other callback is called.
    ///
    /// While others get this member's state it waits for them, too: for a call of `Checkpoint::read`;
    /// for one that is being joined just then, until that has what it lacks, or shows no progress for
    /// `transfer::Options::patience`.
    pub fn close(mut self) {
        if self.driver.is_inherited() {
            return; // V4
        }
        if let Some(control) = self.control.take() {
            self.driver.fall_silent();
            control.leave();
            let start = Instant::now();
            let mut pace = Pace::new(Idle::Yield);
            while start.elapsed() < CLOSE_TIMEOUT && self.turn(u32::MAX).is_ok() {
                pace.quiet();
            }
            self.driver.give_up();
        }
        self.driver.refuse();
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

impl Group {
    /// Of a fixed view, over a fabric that has entered it. `memories`: by rank, mine too (`prepare`).
    #[doc(hidden)]
    pub fn over(
        config: &Config,
        memories: &[Memory],
        fabric: Box<dyn Fabric>,
        bell: Option<OwnBell>,
        application: Box<dyn Application>,
    ) -> Result<Group, Error> {
        let view = config.view()?;
        let layout = Arc::new(view.layout());
        let bytes = stats::page_bytes(view.subgroups.len(), view.members);
        let page = Region::share("squall-stats", bytes, Want::No, Want::No, &mut Vec::new())?;
        let assembly = assemble(view, &layout, memories, fabric.posting(), None);
        Ok(Group::of(assembly, fabric, bell, None, application, Arc::new(page.0), config))
    }

    /// Writes into a control block what it says before a fixed view begins.
    #[doc(hidden)]
    pub fn prepare(block: &Region) {
        prologue(block, Epoch(1), (0, incarnation()));
        block.cell(Layout::new(&[]).installed.byte(0)).publish(1);
    }

    /// A member that has joined: its first view has been gathered.
    pub(super) fn joined(
        mut views: Box<Views>,
        mut lines: Lines,
        application: Box<dyn Application>,
        stats: Arc<Region>,
        config: &Config,
    ) -> Group {
        let assembly = views.enter(super::clock(), lines.fabric());
        views.beat(assembly.table.layout.beat.byte(0));
        if !config.join {
            // A founder's first view is no change, however the founders met.
            (views.changes, views.last) = (0, Steps::default());
        }
        let bell = lines.own_bell();
        let fabric = lines.into_fabric();
        Group::of(assembly, fabric, bell, Some(views), application, stats, config)
    }

    fn of(
        assembly: Assembly,
        mut fabric: Box<dyn Fabric>,
        bell: Option<OwnBell>,
        views: Option<Box<Views>>,
        application: Box<dyn Application>,
        stats: Arc<Region>,
        config: &Config,
    ) -> Group {
        let Assembly { engine, table, inboxes, made } = assembly;
        if let Some(views) = &views {
            views.detectors.wishes.guard(&made);
        }
        let mut lanes = Lanes::new(bell.clone());
        let waiting = super::change::waiting_of(engine.view());
        lanes.install(Vec::new(), made, &waiting, &mut |_| ());
        let (mut every, mut room) = (config.liveness_every_ns, engine.view().members);
        if views.is_some() {
            (every, room) = (every.min(LIVENESS_EVERY_NS), MEMBERS_MAX);
        }
        if let Some(exchange) = fabric.exchange() {
            exchange.admit(Admission::All);
        }
        let control =
            |views: &Box<Views>| Control::new(views.detectors.wishes.clone(), bell.clone());
        let control = views.as_ref().map(control);
        let page = Page::new(stats.clone(), room);
        if let Some(views) = &views {
            page.write_change(views.changes, &views.last);
        }
        let (rank, members) = (engine.view().me.0, engine.view().members as u16);
        let view = Seen { engine, table, inboxes };
        let states = States::new(config, bell.clone());
        let mut driver = Driver::new(view, fabric, application, page, lanes, every, views);
        driver.states = states;
        let device = driver.fabric.device();
        let reach = |views: &Box<Views>| Reach::new(views.incarnation(), bell.clone(), device);
        driver.reach = driver.views.as_ref().map(reach);
        driver.refresh();
        Group { driver, control, bell, stats, idle: config.idle, rank, members }
    }
}

/// How often connections are looked at where views change, at the least: a peer's end is noticed by
/// that if this member does not sleep.
const LIVENESS_EVERY_NS: u64 = 100_000;
/// How long `close` tries to leave in good order.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

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

/// Chosen at random, since other hosts choose theirs, too; never 0.
pub(super) fn incarnation() -> u64 {
    let random = random::<8>().map_or(0, u64::from_le_bytes);
    (super::clock().0 << 22 ^ u64::from(std::process::id()) ^ random).max(1)
}

#[cfg(test)]
mod tests;
