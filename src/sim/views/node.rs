// SPDX-License-Identifier: MIT OR Apache-2.0
//! A member's turn thread and its application threads, where views change.

use super::oracle::EMPTY;
use super::world::World;
use crate::base::{Events, Members, Nanos, Post, Rank};
use crate::error::{Fault, Status, Suspicion};
use crate::group::membership::Install;
use crate::group::{Engine, Work};
use crate::limits::BATCH_MAX;
use crate::mem::Batch;
use crate::sim::oracle::{Broken, TRUST};
use crate::sim::report::Row;
use crate::sst::Table;
use crate::sst::inbox::Inbox;
use crate::sst::kept::Kept;
use crate::sst::layout::Mode;
use crate::sst::producer::Producer;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Poll,
    Collect,
    Callback,
    Done,
    Post,
}

/// Subgroup and lane, and what it must send again.
pub type KeptOf = (usize, u16, Kept);

/// A process in one view.
pub struct Node {
    pub process: usize,
    pub epoch: u64,
    /// The processes of the view, by rank.
    pub view: Vec<usize>,
    pub engine: Engine,
    pub table: Table,
    pub inboxes: Vec<Inbox>,
    pub work: Work,
    pub events: Events,
    batch: Batch,
    pub phase: Phase,
    cursor: usize,
    budget: u64,
    callback_steps: u64,
    callback_began: u64,
    /// The messages of the batch: lane and ordinal.
    lent: Vec<((usize, u16), u64)>,
    busy: bool,
    told: Members,
    /// Its progress at the last poll.
    seen: u64,
    wedged: bool,
}

impl Node {
    pub fn new(
        process: usize,
        view: Vec<usize>,
        engine: Engine,
        table: Table,
        inboxes: Vec<Inbox>,
    ) -> Node {
        Node {
            process,
            epoch: engine.epoch().0,
            view,
            engine,
            table,
            inboxes,
            work: Work::new(),
            events: Events::default(),
            batch: Batch::new(BATCH_MAX),
            phase: Phase::Poll,
            cursor: 0,
            budget: 0,
            callback_steps: 0,
            callback_began: 0,
            lent: Vec::new(),
            busy: false,
            told: Members::NONE,
            seen: 0,
            wedged: false,
        }
    }

    pub fn rank_of(&self, process: usize) -> Option<Rank> {
        self.view.iter().position(|of| *of == process).map(|at| Rank(at as u16))
    }

    fn rank(&self) -> Rank {
        self.engine.view().me
    }

    /// A detector reports a process. Whether that was news.
    pub fn suspect(&mut self, process: usize, fault: Fault) -> bool {
        let Some(rank) = self.rank_of(process).filter(|rank| *rank != self.rank()) else {
            return false;
        };
        let news = !self.engine.membership().expect("views").suspects().contains(rank);
        self.engine.report(Suspicion { rank, fault });
        news
    }

    /// At the end of a view: where there is no cut, all that came has been delivered.
    pub fn has_emptied(&self) -> Result<(), Broken> {
        for (multicast, inbox) in self.engine.multicasts().iter().zip(&self.inboxes) {
            let all = multicast.slots().iter().enumerate();
            let left = all.filter(|(s, slots)| inbox.consumed(*s) != **slots).count();
            if left > 0 && multicast.mode == Mode::Received {
                let detail = format!("{} goes on with messages undelivered", self.process);
                return Err((EMPTY, detail));
            }
        }
        Ok(())
    }

    /// What its lanes are to send again in the next view.
    pub fn keep(&mut self) -> Vec<KeptOf> {
        let mut kept = Vec::new();
        for at in 0..self.engine.multicasts().len() {
            let multicast = self.engine.multicast(at);
            let subgroup = multicast.subgroup;
            for lane in 0..multicast.lanes.len() {
                kept.push((subgroup, lane as u16, self.engine.keep(at, lane)));
            }
        }
        kept
    }

    /// The next step of the turn. The next view, if it ends this one.
    pub fn step(&mut self, world: &World) -> Option<Install> {
        match self.phase {
            Phase::Poll => self.poll(world),
            Phase::Collect => self.collect(world),
            Phase::Callback => self.callback(world),
            Phase::Done => self.done(),
            Phase::Post => return self.post(world),
        }
        None
    }

    fn poll(&mut self, world: &World) {
        world.resend(self.process);
        self.busy = false;
        world.tallies.one(Row::Turns);
        self.events.full = world.full(self.epoch, self.rank());
        self.events.lost = Members::NONE;
        for (&process, rank) in self.view.iter().zip((0..).map(Rank)) {
            let gone = world.is_gone(process) && !self.told.contains(rank);
            let landed = || world.has_landed(process, self.process);
            if gone && landed() && (world.hush.get() || world.dice.chance(40)) {
                self.told.insert(rank);
                self.events.lost.insert(rank);
                world.stir();
            }
        }
        (self.cursor, self.phase) = (0, Phase::Post);
        world.polling.set(world.polling.get() + 1);
        if self.engine.is_still(&self.table, &self.events) {
            world.polling.set(world.polling.get() - 1);
            self.work.clear();
            return;
        }
        let now = Nanos(world.now.get());
        self.engine.poll(now, &mut self.table, &self.events, &mut self.work);
        world.polling.set(world.polling.get() - 1);
        let progress = self.progress();
        if progress != std::mem::replace(&mut self.seen, progress) {
            world.stir(); // where nothing is posted nothing else shows it
            self.busy = true;
        }
        self.look(world);
        self.budget = world.dice.range(1, world.plan.budget_max);
        self.phase = if self.work.deliver.is_empty() { Phase::Done } else { Phase::Collect };
    }

    fn progress(&self) -> u64 {
        let of = |multicast: &crate::group::multicast::Multicast| {
            let mine: u64 = multicast.own_progress().iter().map(|number| number.0).sum();
            mine + multicast.slots().iter().map(|count| count.0).sum::<u64>()
        };
        self.engine.multicasts().iter().map(of).sum()
    }

    /// What the membership has decided, for the oracle and the world.
    fn look(&mut self, world: &World) {
        self.busy |= self.work.busy;
        if self.work.busy {
            world.stir();
        }
        for suspicion in self.engine.suspicions() {
            let suspect = self.view[suspicion.rank.index()];
            world.note("suspects", [self.process as u64, suspect as u64, self.epoch, 0]);
            if !matches!(
                suspicion.fault,
                Fault::Lost { .. } | Fault::Silent { .. } | Fault::Reported { .. }
            ) {
                world.fail((TRUST, format!("by process {}: {suspicion:?}", self.process)));
            }
            world.oracle.borrow_mut().suspected.push(suspect);
        }
        let wedged = self.engine.membership().expect("views").is_wedged();
        if wedged && !self.wedged {
            world.note("wedges", [self.process as u64, self.epoch, 0, 0]);
            world.tallies.one(Row::Wedged);
        }
        self.wedged = wedged;
        if self.engine.stop_reason().is_some() {
            world.stops(self.process, self.engine.stop_reason());
        }
    }

    fn collect(&mut self, world: &World) {
        if self.cursor == self.work.deliver.len() || self.budget == 0 {
            self.phase = Phase::Done;
            return;
        }
        let delivery = self.work.deliver[self.cursor];
        let most = self.budget.min(BATCH_MAX as u64) as usize;
        let multicast = self.engine.multicast_mut(delivery.at);
        let inbox = &mut self.inboxes[delivery.at];
        let outcome = multicast.collect(inbox, delivery.upto, &mut self.batch, most);
        let cut = multicast.has_cut();
        let subgroup = multicast.subgroup;
        if let Err(bad) = outcome {
            world.fail((TRUST, format!("process {}: {bad:?}", self.process)));
        }
        self.budget -= self.batch.messages().len() as u64;
        self.lent.clear();
        for message in self.batch.messages() {
            let lane = (self.view[usize::from(message.rank)], u16::from(message.lane));
            world.note(
                if cut { "delivers (cut)" } else { "delivers" },
                [self.process as u64, self.epoch, message.number, lane.0 as u64],
            );
            world.tallies.one(Row::Deliveries);
            world.tallies.add(Row::CutDeliveries, cut.into());
            let mut oracle = world.oracle.borrow_mut();
            let given = oracle.delivered(self.process, self.epoch, subgroup, lane, message);
            self.lent.push((lane, world.check(given)));
        }
        if self.batch.messages().is_empty() {
            self.cursor += 1;
            return;
        }
        self.busy = true;
        world.stir();
        self.callback_steps = world.dice.range(0, world.plan.callback_steps);
        self.callback_began = world.now.get();
        self.phase = Phase::Callback;
    }

    fn callback(&mut self, world: &World) {
        if self.callback_steps > 0 {
            self.callback_steps -= 1;
            if !world.hush.get() && world.dice.chance(world.plan.sleepy) {
                world.stop_for_long(self.process);
            }
            return;
        }
        let delivery = self.work.deliver[self.cursor];
        let subgroup = self.engine.multicast(delivery.at).subgroup;
        for (message, &(lane, ordinal)) in self.batch.messages().iter().zip(&self.lent) {
            let oracle = world.oracle.borrow();
            world.check(oracle.still(self.process, subgroup, lane, ordinal, message));
        }
        if world.now.get() - self.callback_began > 0 {
            let ahead = world.epoch_of_most() - self.epoch;
            world.tallies.add(Row::CallbackOverView, (ahead == 1).into());
            world.tallies.add(Row::CallbackOverViews, (ahead > 1).into());
        }
        self.batch.clear();
        self.cursor += 1;
        self.phase = Phase::Collect;
    }

    fn done(&mut self) {
        self.engine.done(&self.inboxes, &mut self.table, &self.events, &mut self.work);
        self.busy |= self.work.busy;
        self.phase = Phase::Post;
    }

    fn post(&mut self, world: &World) -> Option<Install> {
        self.phase = Phase::Poll;
        let posts = &self.work.posts;
        if !posts.is_empty() {
            world.stir();
            world.post(self.epoch, self.rank(), &self.view, posts);
        }
        for post in posts {
            let news = !matches!(post, Post::Bell { news: false, .. });
            for to in post.to().iter() {
                let to = self.view[to.index()];
                if !world.plan.lazy(self.process, to) {
                    world.wake(to, news);
                }
            }
        }
        for rank in self.work.expel.union(self.work.revoke).iter() {
            world.revoke(self.view[rank.index()], self.process);
        }
        if !world.hush.get() && world.dice.chance(world.plan.pause_chance) {
            world.tallies.one(Row::Pauses);
            world.pause(self.process);
        }
        if let Some(install) = self.work.install.take() {
            return Some(install);
        }
        if world.plan.parking && !self.busy {
            let room = self.engine.waits_for_room();
            self.events.full = world.full(self.epoch, self.rank());
            let told = |(process, rank): (&usize, u16)| {
                world.is_gone(*process) && !self.told.contains(Rank(rank))
            };
            let news = self.view.iter().zip(0..).any(told);
            // Says "asleep", then looks.
            world.sleep(self.process, room);
            if news || self.engine.has_work(&self.table, &self.events) {
                world.wake(self.process, true);
            }
        }
        None
    }
}

/// An application thread, over all views.
pub struct Lane {
    pub process: usize,
    pub subgroup: usize,
    pub lane: u16,
    /// Its end of the ring of this view, and how many of its messages came before that ring's first.
    pub ring: Option<(Producer, u64)>,
    /// What it has sent in the view before and must send again.
    pub kept: Option<Kept>,
    /// A reservation, of so many bytes, in this ring or in that of a view that is over.
    pub held: Option<(u32, bool)>,
}

impl Lane {
    /// Its member has installed a view in which it sends.
    pub fn renew(&mut self, producer: Producer, kept: Option<Kept>, world: &World) {
        let before = self.ring.as_ref().map_or(0, |(_, base)| *base);
        let base = before + kept.as_ref().map_or(0, Kept::next);
        world.tallies.add(Row::Resent, kept.as_ref().map_or(0, Kept::len));
        self.ring = Some((producer, base));
        self.kept = kept;
        if let Some((_, over)) = &mut self.held {
            *over = true;
        }
        self.resend();
    }

    /// Sends again what the old view did not deliver, as far as there is room.
    pub fn resend(&mut self) {
        if let (Some(kept), Some((producer, _))) = (&mut self.kept, &mut self.ring)
            && matches!(kept.send(producer), Ok(()))
        {
            self.kept = None;
        }
    }

    /// One action; whether it sent.
    pub fn act(&mut self, world: &World) -> bool {
        self.resend();
        let Some((producer, base)) = &mut self.ring else { return false };
        let who = (self.process, self.lane);
        let ordinal = world.oracle.borrow().count(self.subgroup, who);
        let pattern = world.oracle.borrow().pattern(self.subgroup, who, ordinal);
        let shape = &world.plan.templates[self.subgroup].shape;
        let most = u64::from(shape.message_bytes_max);
        let (len, outcome) = match self.held {
            Some((len, false)) => {
                if !world.hush.get() && world.dice.chance(200) {
                    return false;
                }
                self.held = None;
                (len, producer.publish(len))
            }
            // Before what was sent earlier, nothing new.
            _ if self.kept.is_some() => return false,
            None if world.hush.get() => return false,
            None if world.dice.chance(world.plan.reserves) => {
                let len = world.dice.range(16, most) as u32;
                if let Ok(slot) = producer.reserve(len) {
                    pattern.fill(slot);
                    self.held = Some((len, false));
                }
                return false;
            }
            held => {
                let len = held.map_or_else(|| world.dice.range(16, most) as u32, |(len, _)| len);
                let mut bytes = vec![0; len as usize];
                pattern.fill(&mut bytes);
                (len, producer.send(&bytes))
            }
        };
        match outcome {
            Ok(slot) => {
                self.held = None;
                world.stir();
                world.tallies.one(Row::Messages);
                let mut oracle = world.oracle.borrow_mut();
                world.check(oracle.sent(self.subgroup, who, *base + slot, len));
                world.wake(self.process, true);
                true
            }
            Err(Status::Again) => {
                world.wake(self.process, true);
                false
            }
            Err(_) if world.is_gone(self.process) => false,
            Err(status) => panic!("a send was refused: {status:?}"),
        }
    }
}
