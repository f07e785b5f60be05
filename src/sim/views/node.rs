// SPDX-License-Identifier: MIT OR Apache-2.0
//! A member's turn thread, where views change.

use super::oracle::EMPTY;
use super::world::World;
use crate::base::{Members, Nanos, Post, Rank};
use crate::error::{Fault, Suspicion};
use crate::group::Engine;
use crate::group::membership::stage::Stage;
use crate::group::membership::{Install, Membership};
use crate::group::multicast::Multicast;
use crate::sim::coverage::Case;
use crate::sim::oracle::{Broken, TRUST};
use crate::sim::rows::Row;
use crate::sim::turn::{Phase, Turn};
use crate::sst::Table;
use crate::sst::inbox::Inbox;
use crate::sst::kept::Kept;
use crate::sst::layout::Mode;

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
    inboxes: Vec<Inbox>,
    pub turn: Turn,
    /// The messages of the batch: lane and ordinal.
    lent: Vec<((usize, u16), u64)>,
    told: Members,
    /// Its progress at the last poll.
    seen: u64,
    wedged: bool,
    pub(super) has_asked_to_leave: bool,
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
            turn: Turn::new(),
            lent: Vec::new(),
            told: Members::NONE,
            seen: 0,
            wedged: false,
            has_asked_to_leave: false,
        }
    }

    pub fn membership(&self) -> &Membership {
        self.engine.membership().expect("views may change here")
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
        let news = !self.membership().suspects().contains(rank);
        self.engine.report(Suspicion { rank, fault });
        news
    }

    /// At the end of a view: in *received* mode all that came has been delivered.
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
        match self.turn.phase {
            Phase::Poll => self.poll(world),
            Phase::Collect => self.collect(world),
            Phase::Callback => self.callback(world),
            Phase::Done => {
                self.done();
                self.leave(world);
            }
            Phase::Post => return self.post(world),
        }
        None
    }

    fn poll(&mut self, world: &World) {
        world.hands_of(self.process).for_each(|hand| hand.borrow_mut().pump(world));
        self.leave(world);
        self.turn.busy = false;
        world.tallies.one(Row::Turns);
        self.turn.events.full = world.full(self.epoch, self.rank());
        self.turn.events.lost = Members::NONE;
        for (&process, rank) in self.view.iter().zip((0..).map(Rank)) {
            // Who ends in the middle of its own turn has no connection with itself that tells it.
            let other = process != self.process;
            let gone = other && world.is_gone(process) && !self.told.contains(rank);
            let landed = || world.has_landed(process, self.process);
            if gone && landed() && (world.hush.get() || world.dice.chance(40)) {
                self.told.insert(rank);
                self.turn.events.lost.insert(rank);
                world.stir();
            }
        }
        world.polling.set(world.polling.get() + 1);
        if self.engine.is_still(&self.table, &self.turn.events) {
            world.polling.set(world.polling.get() - 1);
            self.turn.skip();
            return;
        }
        let now = Nanos(world.clock(self.process));
        let left = self.heard_leave(world);
        self.engine.poll(now, &mut self.table, &self.turn.events, &mut self.turn.work);
        world.polling.set(world.polling.get() - 1);
        world.check(self.bears_no_grudge(left, world));
        let progress = self.progress();
        if progress != std::mem::replace(&mut self.seen, progress) {
            world.stir(); // where nothing is posted nothing else shows it
            self.turn.busy = true;
        }
        self.look(world);
        world.check(self.has_room(world));
        self.turn.begin(world.dice.range(1, world.plan.budget_max));
    }

    fn progress(&self) -> u64 {
        let of = |multicast: &Multicast| {
            let mine: u64 = multicast.own_progress().iter().map(|number| number.0).sum();
            mine + multicast.slots().iter().map(|count| count.0).sum::<u64>()
        };
        self.engine.multicasts().iter().map(of).sum()
    }

    /// 10: what is taken up lies where nobody reads any more.
    fn has_room(&self, world: &World) -> Result<(), Broken> {
        for multicast in self.engine.multicasts() {
            for (lane, of) in multicast.lanes.iter().enumerate() {
                let hand = world.hand(self.process, multicast.subgroup, lane as u16);
                hand.borrow().fits(of.taker.slots, world)?;
            }
        }
        Ok(())
    }

    /// What the membership has decided, for the oracle and the world.
    fn look(&mut self, world: &World) {
        self.turn.busy |= self.turn.work.busy;
        if self.turn.work.busy {
            world.stir();
            let membership = self.membership();
            let base = membership.roster().base;
            let agreed = &membership.changes()[..(membership.agreed() - base) as usize];
            world.check(world.oracle.borrow_mut().agrees(self.process, base, agreed));
        }
        for suspicion in self.engine.suspicions() {
            self.look_at(suspicion, world);
        }
        let wedged = self.membership().is_wedged();
        if wedged && !self.wedged {
            world.note("wedges", [self.process as u64, self.epoch, 0, 0]);
            world.tallies.one(Row::Wedged);
            world.wedges(self);
        }
        if wedged && !self.turn.events.full.is_empty() {
            world.tallies.reached(Case::FullQueue);
        }
        self.wedged = wedged;
        if let Some(reason) = self.engine.stop_reason() {
            world.check(self.says_why(reason, world));
            self.hand_back(reason, world);
            world.stops(self.process, self.engine.stop_reason());
        }
    }

    fn look_at(&self, suspicion: &Suspicion, world: &World) {
        let suspect = self.view[suspicion.rank.index()];
        world.note("suspects", [self.process as u64, suspect as u64, self.epoch, 0]);
        match suspicion.fault {
            Fault::Reported { .. } => {
                let stage = self.membership().stage();
                if stage >= Stage::Cut && stage <= Stage::Delivering {
                    world.tallies.reached(Case::ViralInTrim);
                }
            }
            Fault::Lost { .. } | Fault::Silent { .. } => {}
            _ => world.fail((TRUST, format!("by process {}: {suspicion:?}", self.process))),
        }
        world.oracle.borrow_mut().suspected.push(suspect);
    }

    fn collect(&mut self, world: &World) {
        let Some((delivery, most)) = self.turn.next() else { return };
        let multicast = self.engine.multicast_mut(delivery.at);
        let inbox = &mut self.inboxes[delivery.at];
        let outcome = multicast.collect(inbox, delivery.upto, &mut self.turn.batch, most);
        let (cut, stable) = (multicast.has_cut(), multicast.mode == Mode::Stable);
        let subgroup = multicast.subgroup;
        if let Err(bad) = outcome {
            world.fail((TRUST, format!("process {}: {bad:?}", self.process)));
        }
        if cut {
            let counts = self.membership().cut(subgroup);
            world.check(world.oracle.borrow_mut().acts_on(self.epoch, subgroup, counts));
        }
        self.turn.collected();
        self.lent.clear();
        for message in self.turn.batch.messages() {
            let lane = (self.view[usize::from(message.rank)], u16::from(message.lane));
            world.note(
                if cut { "delivers (cut)" } else { "delivers" },
                [self.process as u64, self.epoch, message.number, lane.0 as u64],
            );
            world.tallies.one(Row::Deliveries);
            let mut oracle = world.oracle.borrow_mut();
            let given = oracle.delivered(self.process, self.epoch, subgroup, lane, message);
            let ordinal = world.check(given);
            self.lent.push((lane, ordinal));
            if cut && stable {
                let most = world.plan.templates[subgroup].shape.message_bytes_max;
                world.tallies.one(Row::CutDeliveries);
                if message.len == 0 {
                    world.tallies.reached(Case::EmptyAcross);
                } else if message.len == most {
                    world.tallies.reached(Case::LargestAcross);
                }
            } else if stable {
                let slot = ordinal - oracle.base(self.epoch, subgroup, lane);
                world.check(world.is_stable(self.epoch, subgroup, slot, message));
            }
        }
        if self.turn.calls_back(world.now.get(), world.plan.callback_steps, &world.dice) {
            world.stir();
        }
    }

    fn callback(&mut self, world: &World) {
        if !self.turn.returns() {
            if !world.hush.get() && world.dice.chance(world.plan.sleepy) {
                world.stop_in_callback(self);
            }
            return;
        }
        let delivery = self.turn.delivery();
        let subgroup = self.engine.multicast(delivery.at).subgroup;
        for (message, &(lane, ordinal)) in self.turn.batch.messages().iter().zip(&self.lent) {
            let mut oracle = world.oracle.borrow_mut();
            world.check(oracle.returned(
                self.process,
                self.epoch,
                subgroup,
                lane,
                ordinal,
                message,
            ));
        }
        if self.turn.was_interrupted(world.now.get()) {
            self.count_views(subgroup, world);
        }
        self.turn.returned();
    }

    /// How far the others went on during a callback.
    fn count_views(&self, subgroup: usize, world: &World) {
        let ahead = world.epoch_of_most() - self.epoch;
        if ahead == 0 {
            return;
        }
        let oracle = world.oracle.borrow();
        let suspect = oracle.suspected.contains(&self.process);
        let window = u64::from(world.plan.templates[subgroup].shape.window);
        let lapped = self.lent.iter().any(|(lane, ordinal)| {
            oracle.count(subgroup, *lane) > ordinal + window && !world.is_gone(lane.0)
        });
        let row = |several: bool| match several {
            true => [Row::CallbackOverViews, Row::StoppedOverViews],
            false => [Row::CallbackOverView, Row::StoppedOverView],
        };
        let [over, stopped] = row(ahead > 1);
        world.tallies.one(over);
        world.tallies.add(stopped, (suspect && (ahead == 1 || lapped)).into());
    }

    fn done(&mut self) {
        self.engine.done(&self.inboxes, &mut self.table, &self.turn.events, &mut self.turn.work);
        self.turn.busy |= self.turn.work.busy;
        self.turn.phase = Phase::Post;
    }

    fn post(&mut self, world: &World) -> Option<Install> {
        self.turn.phase = Phase::Poll;
        let posts = &self.turn.work.posts;
        if !posts.is_empty() {
            world.stir();
            world.post(self.epoch, self.rank(), &self.view, posts);
            let to = posts.iter().fold(Members::NONE, |all, post| all.union(post.to()));
            if to.iter().any(|to| world.is_suspected_by(self.process, self.view[to.index()])) {
                world.tallies.reached(Case::SuspectWrites);
            }
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
        for rank in self.turn.work.expel.union(self.turn.work.revoke).iter() {
            world.revoke(self.view[rank.index()], self.process);
        }
        if !world.hush.get() && world.dice.chance(world.plan.pause_chance) {
            world.pause(self);
        }
        if let Some(install) = self.turn.work.install.take() {
            world.tallies.add(Row::Ahead, install.carry.ahead.len() as u64);
            let still: usize = self.engine.multicasts().iter().map(Multicast::lanes_ahead).sum();
            world.tallies.add(Row::AheadStill, still as u64);
            return Some(install);
        }
        if world.plan.parking && !self.turn.busy {
            self.park(world);
        }
        None
    }

    /// Says "asleep", looks again, sleeps.
    fn park(&mut self, world: &World) {
        let room = self.engine.waits_for_room();
        self.turn.events.full = world.full(self.epoch, self.rank());
        let told = |(process, rank): (&usize, u16)| {
            world.is_gone(*process) && !self.told.contains(Rank(rank))
        };
        let late = world.hands_of(self.process).any(|hand| hand.borrow_mut().has_work());
        let news = late || self.view.iter().zip(0..).any(told);
        world.sleep(self.process, room);
        if news || self.engine.has_work(&self.table, &self.turn.events) {
            world.rouse(self.process);
        } else {
            world.tallies.one(Row::Sleeps);
        }
    }
}
