// SPDX-License-Identifier: MIT OR Apache-2.0
//! One member's turn thread: the driver's turn, one step at a time.

use super::oracle::{ENDING, TRUST};
use super::rows::Row;
use super::turn::{Phase, Turn};
use super::world::World;
use crate::base::{Members, Nanos, Post, Rank};
use crate::error::Status;
use crate::group::{Engine, State};
use crate::sst::Table;
use crate::sst::inbox::Inbox;

pub struct Node {
    rank: Rank,
    engine: Engine,
    table: Table,
    inboxes: Vec<Inbox>,
    pub turn: Turn,
    pub paused_until: u64,
    stopped: bool,
    /// It has been told of the departure.
    told: bool,
    /// By subgroup of mine and lane: where the last slot taken lies, and how many were.
    taken: Vec<Vec<(u64, u64)>>,
}

impl Node {
    pub fn new(rank: Rank, engine: Engine, table: Table, inboxes: Vec<Inbox>) -> Node {
        let lanes =
            |multicast: &crate::group::multicast::Multicast| vec![(0, 0); multicast.lanes.len()];
        Node {
            taken: engine.multicasts().iter().map(lanes).collect(),
            rank,
            engine,
            table,
            inboxes,
            turn: Turn::new(),
            paused_until: 0,
            stopped: false,
            told: false,
        }
    }

    /// The next step of the turn. Afterwards `phase` is `Poll` if the turn is over.
    pub fn step(&mut self, world: &World) {
        match self.turn.phase {
            Phase::Poll => self.poll(world),
            Phase::Collect => self.collect(world),
            Phase::Callback => self.callback(world),
            Phase::Done => self.done(world),
            Phase::Post => self.post(world),
        }
    }

    fn poll(&mut self, world: &World) {
        self.turn.busy = false;
        if self.stopped {
            return;
        }
        world.tallies.one(Row::Turns);
        world.note("polls", [self.rank.0.into(), 0, 0, 0]);
        self.turn.events.full = world.wires.borrow().full(self.rank);
        world.tallies.add(Row::FullTurns, (!self.turn.events.full.is_empty()).into());
        self.hear_of_departure(world);
        world.polling.set(world.polling.get() + 1);
        if self.engine.is_still(&self.table, &self.turn.events) {
            world.polling.set(world.polling.get() - 1);
            self.turn.skip();
            return;
        }
        let now = Nanos(world.now.get());
        self.engine.poll(now, &mut self.table, &self.turn.events, &mut self.turn.work);
        world.polling.set(world.polling.get() - 1);
        self.count_wraps(world);
        self.look_at_cells(world);
        self.trust(world);
        self.turn.begin(world.dice.range(1, world.plan.budget_max));
    }

    /// A connection ends after what was posted on it has landed; each peer hears of it some time.
    fn hear_of_departure(&mut self, world: &World) {
        self.turn.events.lost = Members::NONE;
        let Some(gone) = world.gone.get().filter(|_| !self.told) else { return };
        let over = world.wires.borrow().is_idle(gone, self.rank);
        if over && (world.hush.get() || world.dice.chance(40)) {
            world.note("hears of it", [self.rank.0.into(), gone.0.into(), 0, 0]);
            world.stir();
            self.told = true;
            self.turn.events.lost.insert(gone);
        }
    }

    /// The member departs: with a farewell, after its last turns; without, wherever it is.
    pub fn depart(&mut self, farewell: bool, world: &World) {
        if !farewell {
            self.turn.batch.clear();
            return;
        }
        // Whoever closes has posted everything.
        for _ in 0..4 {
            loop {
                self.step(world);
                if self.turn.phase == Phase::Poll {
                    break;
                }
            }
            // A pause after one of these turns may have held a wire up again.
            world.wires.borrow_mut().heal();
            while !world.wires.borrow().full(self.rank).is_empty() {
                world.wires.borrow_mut().heal(); // time stands still here: no wire may be stuck
                world.land(1);
            }
        }
        let closed = world.layout.closed;
        self.table.set(closed, 0, 1u64);
        let all = (0..world.plan.members as u16).map(Rank).filter(|rank| *rank != self.rank);
        let mut values = [0; crate::base::POST_WORDS_MAX];
        values[0] = 1;
        let to = Members::from_ranks(all);
        let post = Post::Words { to, at: closed.byte(0) as u32, values, len: 1, news: true };
        world.wires.borrow_mut().post(self.rank, &[post], &world.dice);
    }

    /// After a departure: stopped, if nothing can go on without the departed.
    pub fn has_ended(
        &self,
        gone: Rank,
        farewell: bool,
        world: &World,
    ) -> Result<(), (&'static str, String)> {
        if self.rank == gone {
            return Ok(());
        }
        let with = |spec: &&crate::group::view::Subgroup| spec.has(self.rank);
        let mut mine = world.plan.subgroups.iter().filter(with);
        let status = match self.engine.state() {
            State::Stopped(status, _) => Some(status),
            _ => None,
        };
        let right = match status {
            Some(Status::PeerLost) => !farewell,
            Some(Status::PeerLeft) => farewell,
            Some(_) => false,
            None => farewell && (mine.any(|spec| !spec.has(gone)) || mine.next().is_none()),
        };
        if right {
            return Ok(());
        }
        let state = self.engine.state();
        Err((ENDING, format!("member {} is {state:?} after a departure", self.rank.0)))
    }

    /// No cell of mine went back; one that moved makes the turn a busy one.
    fn look_at_cells(&mut self, world: &World) {
        let outcome = world.oracle.borrow_mut().monotone(self.rank, &world.wires.borrow());
        if world.check(outcome) {
            self.turn.busy = true;
            world.stir();
        }
    }

    /// Nobody is cut off, unless somebody writes garbage.
    fn trust(&mut self, world: &World) {
        let state = self.engine.state();
        if state == State::Running || self.stopped {
            return;
        }
        if world.gone.get().is_some() {
            if let State::Stopped(Status::PeerLeft | Status::PeerLost, _) = state {
                self.stopped = true;
                world.note("stops", [self.rank.0.into(), 0, 0, 0]);
                return;
            }
            if matches!(state, State::Leaving(_) | State::Ending(_)) {
                return;
            }
        }
        if world.plan.evil.is_none() {
            world.fail((TRUST, format!("by member {}: {state:?}", self.rank.0)));
        }
        world.tallies.one(Row::EvilFaults);
        self.stopped = true;
    }

    fn count_wraps(&mut self, world: &World) {
        for (at, multicast) in self.engine.multicasts().iter().enumerate() {
            for (lane, (last, slots)) in multicast.lanes.iter().zip(&mut self.taken[at]) {
                let taker = &lane.taker;
                if taker.slots == *slots {
                    continue;
                }
                let (first, end) =
                    (taker.ring.place(*slots).0, taker.ring.place(taker.slots - 1).0);
                world.tallies.add(Row::Laps, (end < first || first < *last).into());
                world.tallies.add(Row::WrapInBatch, (end < first).into());
                (*last, *slots) = (end, taker.slots);
            }
        }
    }

    fn collect(&mut self, world: &World) {
        let Some((delivery, most)) = self.turn.next() else { return };
        let multicast = self.engine.multicast_mut(delivery.at);
        let inbox = &mut self.inboxes[delivery.at];
        let outcome = multicast.collect(inbox, delivery.upto, &mut self.turn.batch, most);
        world.tallies.add(Row::CutShort, self.turn.collected().into());
        let subgroup = multicast.subgroup;
        for message in self.turn.batch.messages() {
            let (sender, lane) = (u64::from(message.rank), u64::from(message.lane));
            world.note("delivers", [self.rank.0.into(), message.number, sender, lane]);
            let wires = world.wires.borrow();
            world.check(world.oracle.borrow_mut().delivered(
                self.rank,
                subgroup,
                message,
                &wires,
                &world.layout,
                &world.tallies,
            ));
        }
        if let Err(bad) = outcome {
            self.engine.bad_slot(delivery.at, bad, &mut self.turn.work);
            self.trust(world);
        }
        if self.turn.calls_back(world.now.get(), world.plan.callback_steps, &world.dice) {
            world.stir();
        }
    }

    /// The callback runs for a while, may send, and looks at its messages again before it returns.
    fn callback(&mut self, world: &World) {
        if !world.hush.get() && world.dice.chance(world.plan.callback_sends) {
            let lanes = &world.lanes_of[self.rank.index()];
            if !lanes.is_empty() {
                world.send_from_callback(world.dice.pick(lanes));
            }
        }
        if !self.turn.returns() {
            return;
        }
        world.tallies.add(Row::MovedInCallback, self.turn.was_interrupted(world.now.get()).into());
        let delivery = self.turn.delivery();
        let subgroup = self.engine.multicast(delivery.at).subgroup;
        let batch = self.turn.batch.messages();
        world.check(world.oracle.borrow().still(self.rank, subgroup, batch));
        world.oracle.borrow_mut().returned(self.rank, subgroup, batch);
        self.turn.returned();
    }

    fn done(&mut self, world: &World) {
        world.note("done", [self.rank.0.into(), self.turn.delivered, 0, 0]);
        self.engine.done(&self.inboxes, &mut self.table, &self.turn.events, &mut self.turn.work);
        self.look_at_cells(world);
        self.turn.busy |= !self.turn.work.posts.is_empty();
        self.turn.phase = Phase::Post;
    }

    fn post(&mut self, world: &World) {
        self.turn.phase = Phase::Poll;
        let turns = &world.turns[self.rank.index()];
        turns.set(turns.get() + 1);
        let posts = &self.turn.work.posts;
        if !posts.is_empty() {
            world.stir();
            world.note("posts", [self.rank.0.into(), posts.len() as u64, 0, 0]);
            self.count_spans(world);
            world.wires.borrow_mut().post(self.rank, posts, &world.dice);
        }
        // Shared memory: the stores are there; who sleeps is rung.
        for post in &self.turn.work.posts {
            let news = !matches!(post, Post::Bell { news: false, .. });
            for to in post.to().iter() {
                if !world.plan.lazy(self.rank.index(), to.index()) {
                    world.wake(to.index(), news);
                }
            }
        }
        if world.dice.chance(world.plan.pause_chance) && !world.hush.get() {
            world.tallies.one(Row::Pauses);
            let until = |most| world.now.get() + world.dice.below(most) + 1;
            self.paused_until = until(world.plan.pause_max);
            world.wires.borrow_mut().stick(until(world.plan.pause_max), &world.dice);
        }
        if world.plan.parking && !self.turn.busy {
            self.park(world);
        }
    }

    fn count_spans(&self, world: &World) {
        let mut before: Option<(Members, crate::base::RingId)> = None;
        let all = Members::from_ranks((0..world.plan.members as u16).map(Rank));
        for post in &self.turn.work.posts {
            let Post::Span { to, ring, from, .. } = *post else {
                before = None;
                continue;
            };
            let first = world.layout.shapes[usize::from(ring.subgroup)].lane().payloads;
            let wrapped = before == Some((to, ring)) && from == first;
            world.tallies.add(Row::WrapInPosts, wrapped.into());
            before = Some((to, ring));
        }
        // Different peers get different ranges: some had missed a few.
        let spans = self.turn.work.posts.iter().filter(|post| matches!(post, Post::Span { .. }));
        let to: Vec<Members> = spans.map(Post::to).collect();
        let split = to.iter().any(|set| *set != to[0] && *set != all);
        world.tallies.add(Row::CaughtUp, split.into());
    }

    /// Says "asleep", looks again, sleeps.
    fn park(&mut self, world: &World) {
        let room = self.engine.waits_for_room();
        world.sleep(self.rank.index(), room);
        self.turn.events.full = world.wires.borrow().full(self.rank);
        let blind = crate::mutant!("sleep-without-looking-again");
        let news = world.gone.get().is_some() && !self.told;
        if self.stopped || news || (!blind && self.engine.has_work(&self.table, &self.turn.events))
        {
            world.rouse(self.rank.index());
        } else if !world.is_awake(self.rank.index()) {
            world.note("sleeps", [self.rank.0.into(), room.into(), 0, 0]);
            world.tallies.one(Row::Sleeps);
        }
    }
}
