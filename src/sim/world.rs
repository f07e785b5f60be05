// SPDX-License-Identifier: MIT OR Apache-2.0
//! One seed's world: real engines, tables, rings and inboxes in one thread, moved by chance.
//!
//! A member's turn is the driver's turn in steps: poll, collect, callback, done, post. Between any
//! two steps, and before every word that a member observes or advances (the hook), the rest of the
//! world may move: other members, application threads, NICs. Nothing moves but here, so the seed
//! alone decides what happens.

use super::dice::Dice;
use super::fabric::Wires;
use super::lane::Lane;
use super::node::Node;
use super::oracle::{IDLE, LIVENESS, Oracle, PANIC, SLEEP, VICTIM};
use super::parts;
use super::plan::{Actor, Plan};
use super::report::{Violation, World as Kind};
use super::rows::{Row, Tallies};
use super::run::{self, Run};
use super::turn::Phase;
use crate::base::{Epoch, Rank};
use crate::group::Engine;
use crate::group::view::View;
use crate::sst::layout::Layout;
use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

pub struct World {
    pub plan: Plan,
    run: Run,
    pub layout: Arc<Layout>,
    pub nodes: Vec<RefCell<Node>>,
    pub lanes: Vec<RefCell<Lane>>,
    /// By member: its lanes.
    pub lanes_of: Vec<Vec<usize>>,
    pub wires: RefCell<Wires>,
    pub oracle: RefCell<Oracle>,
    /// By member: turns taken.
    pub turns: Vec<Cell<u64>>,
    /// Who has departed.
    pub gone: Cell<Option<Rank>>,
    /// The evil member has begun.
    pub evil: Cell<bool>,
}

impl Deref for World {
    type Target = Run;

    fn deref(&self) -> &Run {
        &self.run
    }
}

/// Runs one seed to its end, or to the first property that does not hold.
#[cfg(test)]
pub fn run_seed(seed: u64, absorb: impl FnOnce(&Tallies)) -> Option<Violation> {
    run_plan(Plan::new(seed), absorb)
}

pub fn run_plan(plan: Plan, absorb: impl FnOnce(&Tallies)) -> Option<Violation> {
    run::run(Kind::Fixed, plan.seed, Rc::new(World::new(plan)), absorb)
}

impl run::World for World {
    fn run(&self) {
        self.play();
    }

    fn act(&self) {
        self.act();
    }

    fn run_of(&self) -> &Run {
        &self.run
    }

    fn planned(&self) -> String {
        self.plan.to_string()
    }

    fn property_of_panics(&self) -> &'static str {
        if self.evil.get() { VICTIM } else { PANIC }
    }
}

impl World {
    fn new(plan: Plan) -> World {
        let dice = Dice::new(plan.seed ^ plan.salt << 32 ^ 0x5155_414c_4c00);
        let view = |me: usize| View {
            epoch: Epoch(1 + plan.seed % 3),
            me: Rank(me as u16),
            members: plan.members,
            subgroups: plan.subgroups.clone(),
        };
        let layout = Arc::new(view(0).layout());
        let rings = parts::ring_bytes(&view(0), &layout);
        let lane_bytes = plan.subgroups.iter().map(|spec| spec.shape.lane().bytes).collect();
        let lazy = |owner: usize, reader: usize| plan.lazy(owner, reader);
        let wires = Wires::new(layout.control_bytes, &rings, lane_bytes, plan.queue_limit, lazy);
        let (mut nodes, mut lanes) = (Vec::new(), Vec::new());
        for me in 0..plan.members {
            let (node, own) = build(&plan, view(me), &layout, &wires);
            nodes.push(RefCell::new(node));
            lanes.extend(own.into_iter().map(RefCell::new));
        }
        // Lanes in the plan's order: its tickets speak of them by position.
        let place = |lane: &RefCell<Lane>| (lane.borrow().plan.subgroup, lane.borrow().plan.s);
        lanes.sort_by_key(place);
        let of = |me: usize| {
            let mine = |(_, lane): &(usize, &RefCell<Lane>)| lane.borrow().plan.rank.index() == me;
            lanes.iter().enumerate().filter(mine).map(|(at, _)| at).collect()
        };
        World {
            lanes_of: (0..plan.members).map(of).collect(),
            oracle: RefCell::new(Oracle::new(&plan, &layout)),
            turns: (0..plan.members).map(|_| Cell::new(0)).collect(),
            wires: RefCell::new(wires),
            gone: Cell::new(None),
            evil: Cell::new(false),
            run: Run::new(dice, plan.hooks, plan.members),
            plan,
            layout,
            nodes,
            lanes,
        }
    }

    /// Phases of noise, each followed by silence in which all must come to rest.
    fn play(&self) {
        self.tallies.one(Row::Seeds);
        for subgroup in &self.plan.subgroups {
            self.tallies.add(Row::WindowOneSeeds, (subgroup.shape.window == 1).into());
            self.tallies.add(Row::Singletons, (subgroup.members.len() == 1).into());
        }
        for phase in 0..self.plan.phases {
            if phase > 0 && self.plan.evil.is_some() {
                self.evil.set(true);
            }
            let until = self.now.get() + self.plan.steps;
            while self.now.get() < until {
                self.act();
            }
            if self.plan.evil.is_none() {
                self.settle();
            }
        }
        if let Some((rank, farewell)) = self.plan.leaver {
            self.depart(rank, farewell);
        }
        self.tallies.add(Row::EvilSeeds, self.plan.evil.is_some().into());
    }

    /// One random step of one random party.
    fn act(&self) {
        self.tick();
        match self.dice.pick(&self.plan.tickets) {
            Actor::Node(rank) => self.step_node(usize::from(rank)),
            Actor::Lane(lane) => self.step_lane(usize::from(lane)),
            Actor::Wire => {
                let most = self.plan.land_max;
                self.land(if most == 0 { 0 } else { self.dice.below(most + 1) });
            }
        }
    }

    /// Lands something somewhere; whether there was anything.
    pub fn land(&self, parcels: u64) -> bool {
        let landed =
            self.wires.borrow_mut().land(self.now.get(), parcels, &self.dice, &self.tallies);
        let Some(landed) = landed else { return false };
        self.stir();
        let (from, to) = (landed.from, landed.to);
        self.note("lands", [from.0.into(), to.0.into(), landed.words, parcels]);
        if let Some((byte, from, to)) = landed.regressed
            && self.plan.evil != Some(landed.from)
        {
            let detail = format!("byte {byte} of a mirror: {from} to {to}");
            self.fail((super::oracle::MONOTONE, detail));
        }
        if self.polling.get() > 0 {
            self.tallies.add(Row::LandedInPoll, landed.words);
        }
        self.wake(to.index(), true);
        if landed.room_again {
            self.wake(from.index(), true);
        }
        true
    }

    /// Faults end, the application falls silent: within bounded rounds all must come to rest, and
    /// then nothing must move any more.
    fn settle(&self) {
        self.hush.set(true);
        self.wires.borrow_mut().heal();
        for node in &self.nodes {
            node.borrow_mut().paused_until = 0;
        }
        let missing = self.oracle.borrow().missing();
        let bound = 100 + 4 * missing * self.plan.members as u64;
        let mut rounds = 0;
        while self.round() {
            rounds += 1;
            if rounds > bound {
                let missing = self.oracle.borrow().missing();
                let detail = format!("still moving after {bound} fair rounds, {missing} missing");
                self.fail((LIVENESS, detail));
            }
        }
        if let Err(broken) = self.oracle.borrow().quiet(&self.wires.borrow(), &self.layout) {
            self.fail(broken);
        }
        for lane in 0..self.lanes.len() {
            self.check(self.has_room(lane));
        }
        for _ in 0..3 {
            if self.round() {
                self.fail((IDLE, "something moved after all had come to rest".into()));
            }
        }
        if self.plan.parking
            && let Some(rank) = (0..self.nodes.len()).find(|rank| self.is_awake(*rank))
        {
            self.fail((SLEEP, format!("member {rank} stays up with nothing to do")));
        }
        self.tallies.one(Row::Quiet);
        self.hush.set(false);
    }

    /// In the middle of things a member departs. The others hear of it at different times, deliver
    /// what is stable, and stop; after a farewell, all at the same place.
    fn depart(&self, rank: Rank, farewell: bool) {
        let noise = |steps: u64| {
            let until = self.now.get() + steps;
            while self.now.get() < until {
                self.act();
            }
        };
        noise(self.plan.steps / 4);
        self.tallies.one(if farewell { Row::Left } else { Row::Lost });
        self.note("departs", [rank.0.into(), farewell.into(), 0, 0]);
        self.wires.borrow_mut().heal();
        self.nodes[rank.index()].borrow_mut().depart(farewell, self);
        if !farewell {
            self.wires.borrow_mut().cut_off(rank, &self.dice);
        }
        self.gone.set(Some(rank));
        self.wake_all();
        let delivered = self.tallies.get(Row::Deliveries);
        noise(self.plan.steps / 4);
        self.hush.set(true);
        self.wires.borrow_mut().heal();
        self.nodes.iter().for_each(|node| node.borrow_mut().paused_until = 0);
        let bound = 100 + 4 * self.oracle.borrow().missing() * self.plan.members as u64;
        let mut rounds = 0;
        while self.round() {
            rounds += 1;
            if rounds > bound {
                self.fail((LIVENESS, format!("still moving {bound} rounds after a departure")));
            }
        }
        self.tallies.add(Row::LeftBehind, self.tallies.get(Row::Deliveries) - delivered);
        for node in &self.nodes {
            self.check(node.borrow().has_ended(rank, farewell, self));
        }
        if farewell {
            self.check(self.oracle.borrow().left_alike(rank, &self.wires.borrow(), &self.layout));
        }
    }

    /// Everybody gets a turn and every post lands. Whether anything happened.
    fn round(&self) -> bool {
        self.tick();
        let before = self.stirs.get();
        while self.wires.borrow().queued() > 0 {
            self.land(self.dice.below(4));
        }
        for rank in 0..self.nodes.len() {
            let gone = self.gone.get() == Some(Rank(rank as u16));
            if self.is_awake(rank) && !gone {
                self.turn(rank);
            }
        }
        for lane in 0..self.lanes.len() {
            self.resolve(lane);
        }
        self.stirs.get() != before
    }

    /// The rest of a member's turn, if it is in one, and one whole turn.
    fn turn(&self, rank: usize) {
        for _ in 0..2 {
            loop {
                let mut node = self.nodes[rank].borrow_mut();
                node.step(self);
                if node.turn.phase == Phase::Poll {
                    break;
                }
            }
            if !self.is_awake(rank) {
                break;
            }
        }
    }

    fn step_node(&self, rank: usize) {
        let Ok(mut node) = self.nodes[rank].try_borrow_mut() else { return };
        if self.evil.get() && self.plan.evil == Some(Rank(rank as u16)) {
            return super::evil::write_garbage(self, rank);
        }
        if self.gone.get() == Some(Rank(rank as u16)) {
            return;
        }
        if !self.is_awake(rank) || node.paused_until > self.now.get() {
            return;
        }
        if self.polling.get() > 0 {
            self.tallies.one(Row::MovedInPoll);
        }
        let whole = self.dice.chance(self.plan.fuse);
        loop {
            node.step(self);
            if !whole || node.turn.phase == Phase::Poll {
                return;
            }
        }
    }
}

/// Puts one member together.
fn build(plan: &Plan, view: View, layout: &Arc<Layout>, wires: &Wires) -> (Node, Vec<Lane>) {
    let me = view.me;
    let parts = parts::build(&view, layout, wires, &plan.hot_bytes);
    let lanes = parts.lanes.into_iter().map(|part| {
        let its =
            |lane: &&super::plan::LanePlan| (lane.subgroup, lane.s) == (part.subgroup, part.s);
        let lane = plan.lanes.iter().find(its).expect("every lane is planned");
        Lane::new(*lane, part.producer, plan.subgroups[part.subgroup].shape.message_bytes_max)
    });
    let lanes = lanes.collect();
    let engine = Engine::new(view, &parts.table, parts.takers, plan.posting);
    (Node::new(me, engine, parts.table, parts.inboxes), lanes)
}
