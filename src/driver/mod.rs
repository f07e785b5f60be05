// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where engine, fabric and callbacks meet: the turn.
//!
//! V1  Callbacks run here and nowhere else, never inside the engine.
//! V2  The order of a turn is the order of `Work`: callbacks, `done`, revoke, posts, then what a view
//!     change asks for (`change`).
//! V3  A turn makes no system call but: a look at connections every `liveness_every_ns`, and bells
//!     for peers that sleep. The clock is read every `TICK_TURNS` turns, sooner if they are slow. Over
//!     a fabric that `polls` a turn also reads what the peers have sent, and its posts are sent.
//! V4  A child of the process that opened the group touches nothing: it shares the group's memory with
//!     its parent. One that was forked in a delivery, or as it heard of a view, and returns from that
//!     has had its last turn; any other has none. Seen by one load per batch, and one per turn in
//!     which something is to be done.

mod assembly;
mod change;
pub mod config;
pub mod control;
pub mod group;
pub mod idle;
mod join;
pub mod lane;
mod lending;
mod letter;
mod lines;
pub mod network;
mod policy;
mod reach;
pub mod rendezvous;
mod shortage;
mod spare;
pub mod state;
pub mod stats;
pub mod views;
mod watch;

pub use lines::{Inquiry, listen_at, misplaced, near_identity};

#[cfg(test)]
mod leaving_tests;
#[cfg(all(test, not(loom)))]
#[path = "rdma/tests.rs"]
mod rdma_tests;

use crate::base::{Events, Members, Nanos, Peer};
use crate::error::{Error, Fault, Status, Suspicion};
use crate::fabric::shm::fork::forks;
use crate::fabric::{Admission, Fabric};
use crate::group::{Engine, State, Work};
use crate::limits::BATCH_MAX;
use crate::log_sink::Level;
use crate::mem::{Batch, Message};
use crate::sst::Table;
use crate::sst::inbox::Inbox;
use crate::transfer::{StateSink, StateSource};
use control::Wishes;
use lane::{Dropped, Lanes};
use reach::Reach;
use state::States;
use stats::{Counted, Counters, Page};
use std::sync::Arc;
use views::{ViewInfo, Views};

/// Turns between two looks at the clock, at the most: a look costs about a quarter of a quiet turn.
const TICK_TURNS: u32 = 32;
/// There are fewer of them if they took longer than this. Where a thread waits for its core in every
/// turn (`yield` on a loaded core), 32 turns are longer than a quarter of the time to suspicion: each
/// look was taken for the end of a pause of my own, and who was gone was never suspected.
const TICK_LATE_NS: u64 = 2_000_000;

/// Where views change: turns between two looks whether the next tick is late already. Who polls now and
/// then, or begins to wait for its core, would not beat for 32 of those turns, and be suspected.
const LATE_TURNS: u32 = 4;

/// What the application does with its messages. Called on the thread that polls.
pub trait Application: Send {
    /// A batch of a subgroup, in order; never empty. The bytes may be read until this returns.
    /// It may send, in every lane; it must not poll or close.
    fn deliver(&mut self, subgroup: u16, batch: &[Message]);
    /// A view begins: after the last message of the one before, and before its own first. Only where
    /// members may change; then for the first view, too.
    fn view(&mut self, view: &ViewInfo) {
        let _ = view;
    }
    /// A message of mine was accepted and can be sent in no view any more: `Dropped::why`. Called
    /// between two views, before `stopped`, or in `Group::close`.
    fn dropped(&mut self, message: &Dropped) {
        let _ = message;
    }
    /// Senders of a subgroup wait for a member that has made no progress for so long: only where the
    /// subgroup asks for such reports.
    fn lags(&mut self, subgroup: u16, rank: u16, for_ns: u64) {
        let _ = (subgroup, rank, for_ns);
    }
    /// What those who join get the state from. `None`: there is none; they join without.
    fn source(&mut self) -> Option<&mut dyn StateSource> {
        None
    }
    /// What takes the state when this process joins, in `Group::open`. `None`: it joins without.
    fn sink(&mut self) -> Option<&mut dyn StateSink> {
        None
    }
    /// This member can have no next view, for something that this process lacks: the cause, the
    /// limit's value and the remedy. `stopped` follows.
    fn lacks(&mut self, error: &Error) {
        let _ = error;
    }
    /// The group has stopped; nothing is delivered any more. Called once.
    fn stopped(&mut self, status: Status, suspicion: Option<Suspicion>) {
        let _ = (status, suspicion);
    }
}

impl<F: FnMut(u16, &[Message]) + Send> Application for F {
    fn deliver(&mut self, subgroup: u16, batch: &[Message]) {
        self(subgroup, batch);
    }
}

/// An application that is closing its group.
struct Deaf(Box<dyn Application>);

impl Application for Deaf {
    fn deliver(&mut self, _: u16, _: &[Message]) {}

    fn dropped(&mut self, message: &Dropped) {
        self.0.dropped(message);
    }
}

/// What a turn came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turn {
    pub delivered: u32,
    /// It found or said something: take the next one at once.
    pub busy: bool,
}

/// A member in one view.
struct Seen {
    engine: Engine,
    table: Table,
    /// By subgroup of mine, as the engine counts them.
    inboxes: Vec<Inbox>,
}

/// This is a child that was forked in a callback and has returned from it.
struct Forked;

pub struct Driver {
    engine: Engine,
    table: Table,
    /// By subgroup of mine, as the engine counts them.
    inboxes: Vec<Inbox>,
    fabric: Box<dyn Fabric>,
    /// Each turn begins with a poll of it.
    polls: bool,
    application: Box<dyn Application>,
    /// It hears of nothing but what is dropped.
    is_silent: bool,
    work: Work,
    events: Events,
    batch: Batch,
    now: Nanos,
    looked: Nanos,
    liveness_every_ns: u64,
    until_tick: u32,
    tick_turns: u32,
    armed: bool,
    lanes: Lanes,
    /// Why the group has stopped, if it has.
    stopped: Option<Status>,
    /// `None`: the view is fixed.
    views: Option<Box<Views>>,
    /// The same as its detectors'.
    wishes: Option<Arc<Wishes>>,
    /// Before the next poll of the engine a view change has something to do.
    changing: bool,
    /// Busy turns at the last tick.
    busy_before: u64,
    states: States,
    /// `None`: as `views`.
    reach: Option<Reach>,
    /// When memory of other views was looked after last.
    kept_house: Nanos,
    /// In which process this is (`forks`).
    forks: u64,
    counters: Counters,
    /// By subgroup of the view.
    counted: Vec<Counted>,
    page: Page,
}

impl Driver {
    fn new(
        view: Seen,
        fabric: Box<dyn Fabric>,
        application: Box<dyn Application>,
        page: Page,
        lanes: Lanes,
        liveness_every_ns: u64,
        views: Option<Box<Views>>,
    ) -> Driver {
        let Seen { engine, table, inboxes } = view;
        let counted = vec![Counted::default(); engine.view().subgroups.len()];
        let now = clock();
        Driver {
            engine,
            table,
            inboxes,
            polls: fabric.polls(),
            fabric,
            application,
            is_silent: false,
            work: Work::new(),
            events: Events::default(),
            batch: Batch::new(BATCH_MAX),
            now,
            looked: now,
            liveness_every_ns,
            until_tick: 0,
            tick_turns: TICK_TURNS,
            armed: false,
            lanes,
            stopped: None,
            changing: views.is_some(),
            wishes: views.as_ref().map(|views| views.detectors.wishes.clone()),
            views,
            busy_before: 0,
            states: States::default(),
            reach: None,
            kept_house: now,
            forks: forks(),
            counters: Counters::default(),
            counted,
            page,
        }
    }

    /// One round; delivers at most `limit` messages.
    #[inline(always)]
    pub fn turn(&mut self, limit: u32) -> Turn {
        if (self.until_tick == 0 || self.armed) && !self.tick() {
            return Turn { delivered: 0, busy: false };
        }
        self.until_tick -= 1;
        if self.until_tick % LATE_TURNS == 1 && self.views.is_some() {
            self.hurry();
        }
        self.counters.turns += 1;
        if self.polls {
            self.poll_fabric();
        }
        if self.engine.is_still(&self.table, &self.events) {
            return Turn { delivered: 0, busy: false };
        }
        self.work_turn(limit)
    }

    /// Lands what the peers have posted; who is full is said anew.
    #[inline(never)]
    fn poll_fabric(&mut self) {
        self.events.full = Members::NONE;
        self.fabric.poll(false, &mut self.events);
    }

    /// A round in which something is to be done.
    #[inline(never)]
    fn work_turn(&mut self, limit: u32) -> Turn {
        if self.is_inherited() || self.changing && self.change() {
            return Turn { delivered: 0, busy: false };
        }
        self.engine.poll(self.now, &mut self.table, &self.events, &mut self.work);
        let most = self.views.as_ref().map_or(limit, |views| {
            let unheard = self.is_silent && views.members() == 1;
            if unheard { 0 } else { limit.min(views.detectors.breath.limit()) }
        });
        let called = match self.work.deliver.is_empty() {
            true => Ok(0),
            false => self.lending(|driver| driver.deliver(most)),
        };
        let Ok(delivered) = called else {
            return Turn { delivered: 0, busy: false };
        };
        self.engine.done(&self.inboxes, &mut self.table, &self.events, &mut self.work);
        if !self.work.revoke.is_empty() {
            self.revoke(self.work.revoke);
        }
        if !self.work.posts.is_empty() {
            self.fabric.post(&self.work.posts);
        }
        if !self.work.expel.is_empty() {
            self.expel();
        }
        self.events.lost = Members::NONE;
        if self.views.is_some() {
            self.after_turn(delivered);
        }
        let busy = self.work.busy || delivered > 0;
        self.counters.busy_turns += u64::from(busy);
        if let State::Stopped(status, suspicion) = self.engine.state() {
            self.stopped(status, suspicion);
        }
        Turn { delivered, busy }
    }

    /// Whether this is a child of the process that opened the group: here it is closed (V4).
    #[inline(always)]
    pub fn is_inherited(&mut self) -> bool {
        let inherited = forks() != self.forks;
        if inherited {
            self.abandon();
        }
        inherited
    }

    /// What is this process' own says so.
    #[cold]
    fn abandon(&mut self) {
        self.engine.abandon();
        self.lanes.stop(Status::Closed);
        self.stopped = Some(Status::Closed);
        (self.until_tick, self.armed) = (0, false);
    }

    #[cold]
    fn revoke(&mut self, ranks: Members) {
        for rank in ranks.iter() {
            let peer = self.views.as_ref().map_or(Some(Peer(rank.0)), |views| views.peer(rank));
            if let Some(peer) = peer {
                self.fabric.revoke(peer);
            }
        }
        self.fence(ranks);
    }

    /// Calls the application for what the work says, within the limit.
    #[inline]
    fn deliver(&mut self, limit: u32) -> Result<u32, Forked> {
        let mut delivered = 0;
        for at in 0..self.work.deliver.len() {
            let most = (limit - delivered).min(BATCH_MAX as u32) as usize;
            if most == 0 {
                break;
            }
            let delivery = self.work.deliver[at];
            let multicast = self.engine.multicast_mut(delivery.at);
            let inbox = &mut self.inboxes[delivery.at];
            let outcome = multicast.collect(inbox, delivery.upto, &mut self.batch, most);
            let batch = self.batch.messages();
            if !batch.is_empty() {
                self.application.deliver(multicast.subgroup as u16, batch);
                if forks() != self.forks {
                    self.abandon();
                    return Err(Forked); // V4
                }
                self.states.append(multicast.subgroup as u16, batch);
                delivered += batch.len() as u32;
                let counted = &mut self.counted[multicast.subgroup].delivered;
                counted.messages += batch.len() as u64;
                counted.bytes += self.batch.bytes();
                counted.batches += 1;
                self.batch.clear();
            }
            if let Err(bad) = outcome {
                self.engine.bad_slot(delivery.at, bad, &mut self.work);
                break;
            }
        }
        Ok(delivered)
    }

    /// The next turn reads what is due by the clock, if turns have become slow.
    #[inline(never)]
    fn hurry(&mut self) {
        if clock().0 > self.now.0 + TICK_LATE_NS {
            self.until_tick = 0;
        }
    }

    /// Reads the clock, and what is due by it. False: there is nothing any more.
    #[cold]
    fn tick(&mut self) -> bool {
        if self.is_inherited() {
            return false;
        }
        let now = clock();
        if self.armed {
            self.armed = false;
            self.fabric.disarm();
            self.looked = Nanos(0);
        } else {
            let gap = now.0.saturating_sub(self.now.0);
            self.counters.loop_gap_max_ns = self.counters.loop_gap_max_ns.max(gap);
            self.tick_turns = ticks_after(self.tick_turns, gap);
        }
        self.now = now;
        self.until_tick = self.tick_turns;
        let look = now.0 - self.looked.0 >= self.liveness_every_ns;
        if look {
            self.looked = now;
            self.fabric.poll(true, &mut self.events);
        }
        if self.views.is_some() {
            self.tick_views();
        }
        self.write_page(now);
        if look {
            self.write_ways();
        }
        true
    }

    #[cold]
    fn stopped(&mut self, status: Status, suspicion: Option<Suspicion>) {
        if self.stopped.is_some() {
            return;
        }
        self.stopped = Some(status);
        if self.views.is_some() {
            self.hand_back(status, status);
        }
        self.lanes.stop(status);
        self.states.stop();
        if let Some(reach) = &self.reach {
            reach.stop(status);
        }
        if let Some(exchange) = self.fabric.exchange() {
            exchange.admit(Admission::Nobody);
        }
        if self.views.is_some() {
            let level = if status == Status::Left { Level::Notice } else { Level::Error };
            crate::log_sink::say(level, status.text());
        } else if let Some(suspicion) = suspicion {
            let (level, what) = match suspicion.fault {
                Fault::Left { .. } => (Level::Notice, "has left"),
                _ => (Level::Error, "is cut off"),
            };
            let text = format!("rank {} {what}: {}", suspicion.rank.0, suspicion.fault);
            crate::log_sink::say(level, &text);
        }
        self.write_page(self.now);
        self.application.stopped(status, suspicion);
    }

    /// Says "asleep", then looks again. True: nothing is to be done, sleeping is safe. The next
    /// turn says "awake".
    pub fn arm(&mut self) -> bool {
        let room = self.engine.waits_for_room();
        self.fabric.arm(room);
        self.armed = true;
        if self.polls {
            self.poll_fabric();
        }
        if self.changing {
            return self.arm_changing();
        }
        if self.views.is_some() && self.lanes.has_work() {
            self.armed = false;
            self.fabric.disarm();
            return false;
        }
        // A send that was refused between the two looks has not rung, and nobody was asked to tell of room.
        let refused = !room && self.engine.waits_for_room();
        let has_work = self.engine.has_work(&self.table, &self.events);
        if has_work || refused || self.stopped_state().is_some() {
            self.armed = false;
            self.fabric.disarm();
            return false;
        }
        true
    }

    /// Sleeps until a peer rings, something happens to a connection, or the time is over. Only
    /// after `arm` said that it is safe.
    pub fn sleep(&mut self, timeout_ns: Option<u64>) {
        assert!(self.armed, "sleep without arm");
        self.counters.sleeps += 1;
        self.write_page(self.now);
        let timeout_ns = if self.views.is_some() { self.due(timeout_ns) } else { timeout_ns };
        self.fabric.sleep(timeout_ns, &mut self.events);
    }

    /// Why the group has stopped, if it has.
    #[inline]
    pub fn stopped_state(&self) -> Option<Status> {
        self.stopped
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    pub fn fabric(&self) -> &dyn Fabric {
        &*self.fabric
    }

    /// What was accepted and not delivered here is given to `dropped`; sends answer `status`.
    fn hand_back(&mut self, status: Status, why: Status) {
        let Driver { lanes, engine, application, .. } = self;
        lanes.end(engine, status, why, &mut |message| application.dropped(&message));
    }

    /// Lanes take nothing more, and answer `Left`: for a view that is fixed.
    pub fn refuse(&mut self) {
        if self.stopped.is_none() {
            for lane in self.engine.multicasts().iter().flat_map(|multicast| &multicast.lanes) {
                lane.taker.stop(Status::Left);
            }
            self.lanes.stop(Status::Left);
        }
    }

    /// This member goes without being told that it may.
    pub fn give_up(&mut self) {
        if self.stopped.is_none() {
            self.stopped = Some(Status::Left);
            self.hand_back(Status::Left, Status::TimedOut);
        }
    }

    /// No callback runs any more but `dropped`.
    pub fn fall_silent(&mut self) {
        let nobody: Box<dyn Application> = Box::new(|_: u16, _: &[Message]| {});
        self.application = Box::new(Deaf(std::mem::replace(&mut self.application, nobody)));
        self.is_silent = true;
        self.until_tick = 0;
    }

    /// The member leaves in good order.
    pub fn farewell(&mut self) {
        self.fabric.farewell();
    }

    /// Brings the statistics page up to date.
    pub fn refresh(&mut self) {
        if !self.is_inherited() {
            self.write_page(clock());
            self.write_ways();
        }
    }

    fn write_ways(&self) {
        self.fabric.ways(&mut |rank, way| self.page.write_way(rank, way));
    }

    fn write_page(&self, now: Nanos) {
        let Driver { engine, stopped, counters, counted, .. } = self;
        self.page.write(now, engine, *stopped, counters, counted);
    }
}

/// Turns to the next look at the clock, after so many took `gap` nanoseconds.
fn ticks_after(turns: u32, gap: u64) -> u32 {
    match gap > TICK_LATE_NS {
        true => ((u64::from(turns) * TICK_LATE_NS / gap) as u32).max(1),
        false => (2 * turns).min(TICK_TURNS),
    }
}

/// The host's monotonic clock: the same for all processes of this host.
#[inline]
pub fn clock() -> Nanos {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Nanos(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}
