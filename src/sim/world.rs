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
use super::node::{Node, Phase};
use super::oracle::{Broken, IDLE, LIVENESS, Oracle, PANIC, SLEEP, VICTIM};
use super::plan::{Actor, Plan};
use super::report::{Row, Tallies, Violation};
use crate::base::{Epoch, Rank};
use crate::group::Engine;
use crate::group::view::View;
use crate::sst::inbox::Inbox;
use crate::sst::layout::{Layout, Mode};
use crate::sst::producer::{Gate, Producer};
use crate::sst::ring::{LaneCells, Ring, Taker};
use crate::sst::{Hook, Table};
use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;

/// What a member's `asleep` word says.
pub const AWAKE: u64 = 0;
pub const ASLEEP: u64 = 1;
pub const ASLEEP_FOR_ROOM: u64 = 2;

/// Events that a violation shows.
const TRAIL: usize = 40;

/// One thing that happened, for the page.
#[derive(Clone, Copy, Default)]
struct Event {
    step: u64,
    depth: u32,
    what: &'static str,
    who: [u64; 4],
}

pub struct World {
    pub plan: Plan,
    pub dice: Dice,
    pub layout: Arc<Layout>,
    pub nodes: Vec<RefCell<Node>>,
    pub lanes: Vec<RefCell<Lane>>,
    /// By member: its lanes.
    pub lanes_of: Vec<Vec<usize>>,
    pub wires: RefCell<Wires>,
    pub oracle: RefCell<Oracle>,
    pub tallies: Tallies,
    /// By member: whether its turn thread sleeps.
    pub asleep: Vec<Cell<u64>>,
    /// By member: turns taken.
    pub turns: Vec<Cell<u64>>,
    pub now: Cell<u64>,
    /// The application has fallen silent: what is reserved is resolved, nothing new is sent.
    pub hush: Cell<bool>,
    /// Who has departed.
    pub gone: Cell<Option<Rank>>,
    /// The evil member has begun.
    pub evil: Cell<bool>,
    /// Counts whatever changes the world: posts that land, cells that move, messages.
    pub stirs: Cell<u64>,
    /// Polls under way.
    pub polling: Cell<u32>,
    depth: Cell<u32>,
    trail: RefCell<[Event; TRAIL]>,
    events: Cell<usize>,
}

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

fn hook(_: Rank) {
    WORLD.with(|world| {
        if let Some(world) = &*world.borrow() {
            world.meanwhile();
        }
    });
}

/// Runs one seed to its end, or to the first property that does not hold.
pub fn run_seed(seed: u64, absorb: impl FnOnce(&Tallies)) -> Option<Violation> {
    let world = Rc::new(World::new(Plan::new(seed)));
    WORLD.with(|place| *place.borrow_mut() = Some(world.clone()));
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
    WORLD.with(|place| *place.borrow_mut() = None);
    absorb(&world.tallies);
    let panic = outcome.err()?;
    let (property, detail) = match panic.downcast::<Broken>() {
        Ok(broken) => *broken,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
            let property = if world.evil.get() { VICTIM } else { PANIC };
            (property, text.unwrap_or_else(|| "a panic without a text".into()))
        }
    };
    Some(Violation { seed, step: world.now.get(), property, detail, page: world.page() })
}

impl World {
    fn new(plan: Plan) -> World {
        let dice = Dice::new(plan.seed ^ 0x5155_414c_4c00);
        let view = |me: usize| View {
            epoch: Epoch(1 + plan.seed % 3),
            me: Rank(me as u16),
            members: plan.members,
            subgroups: plan.subgroups.clone(),
        };
        let layout = Arc::new(view(0).layout());
        let ring_bytes = |owner: usize| {
            let of = |(at, spec): (usize, &crate::group::view::Subgroup)| {
                let sends = spec.senders.iter().any(|sender| sender.rank.index() == owner);
                sends.then(|| layout.rings_bytes(at))
            };
            plan.subgroups.iter().enumerate().map(of).collect()
        };
        let rings: Vec<Vec<Option<usize>>> = (0..plan.members).map(ring_bytes).collect();
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
            asleep: (0..plan.members).map(|_| Cell::new(AWAKE)).collect(),
            wires: RefCell::new(wires),
            tallies: Tallies::new(),
            now: Cell::new(0),
            hush: Cell::new(false),
            gone: Cell::new(None),
            evil: Cell::new(false),
            stirs: Cell::new(0),
            polling: Cell::new(0),
            depth: Cell::new(0),
            trail: RefCell::new([Event::default(); TRAIL]),
            events: Cell::new(0),
            plan,
            dice,
            layout,
            nodes,
            lanes,
        }
    }

    /// Phases of noise, each followed by silence in which all must come to rest.
    fn run(&self) {
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
        self.tallies.add(Row::Steps, self.now.get());
    }

    /// One random step of one random party.
    fn act(&self) {
        self.now.set(self.now.get() + 1);
        match self.dice.pick(&self.plan.tickets) {
            Actor::Node(rank) => self.step_node(usize::from(rank)),
            Actor::Lane(lane) => self.step_lane(usize::from(lane)),
            Actor::Wire => {
                let most = self.plan.land_max;
                self.land(if most == 0 { 0 } else { self.dice.below(most + 1) });
            }
        }
    }

    /// Before a word is observed or advanced: the world may move.
    fn meanwhile(&self) {
        let depth = self.depth.get();
        if depth >= self.plan.depth_max || !self.dice.chance(self.plan.hook_chance) {
            return;
        }
        self.depth.set(depth + 1);
        for _ in 0..self.dice.range(1, self.plan.hook_moves) {
            self.act();
        }
        self.depth.set(depth);
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

    pub fn stir(&self) {
        self.stirs.set(self.stirs.get() + 1);
    }

    /// Rings a member's bell; without `news`, only if it waits for room.
    pub fn wake(&self, rank: usize, news: bool) {
        let asleep = self.asleep[rank].get();
        if asleep == ASLEEP_FOR_ROOM || (news && asleep == ASLEEP) {
            self.asleep[rank].set(AWAKE);
            self.tallies.one(Row::Woken);
        }
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
            && let Some(rank) = self.asleep.iter().position(|asleep| asleep.get() == AWAKE)
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
        // A hang-up wakes whoever sleeps.
        self.asleep.iter().for_each(|asleep| asleep.set(AWAKE));
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
        self.now.set(self.now.get() + 1);
        let before = self.stirs.get();
        while self.wires.borrow().queued() > 0 {
            self.land(self.dice.below(4));
        }
        for rank in 0..self.nodes.len() {
            let gone = self.gone.get() == Some(Rank(rank as u16));
            if self.asleep[rank].get() == AWAKE && !gone {
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
                if node.phase == Phase::Poll {
                    break;
                }
            }
            if self.asleep[rank].get() != AWAKE {
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
        if self.asleep[rank].get() != AWAKE || node.paused_until > self.now.get() {
            return;
        }
        if self.polling.get() > 0 {
            self.tallies.one(Row::MovedInPoll);
        }
        let whole = self.dice.chance(self.plan.fuse);
        loop {
            node.step(self);
            if !whole || node.phase == Phase::Poll {
                return;
            }
        }
    }

    /// Ends the run.
    pub fn fail(&self, broken: Broken) -> ! {
        resume_unwind(Box::new(broken))
    }

    pub fn check<T>(&self, outcome: Result<T, Broken>) -> T {
        outcome.unwrap_or_else(|broken| self.fail(broken))
    }

    /// Remembers what happened, for the page.
    #[inline]
    pub fn note(&self, what: &'static str, who: [u64; 4]) {
        let events = self.events.get();
        let event = Event { step: self.now.get(), depth: self.depth.get(), what, who };
        self.trail.borrow_mut()[events % TRAIL] = event;
        self.events.set(events + 1);
    }

    fn page(&self) -> String {
        let mut page = format!("{}\n", self.plan);
        let events = self.events.get();
        for at in events.saturating_sub(TRAIL)..events {
            let Event { step, depth, what, who } = self.trail.borrow()[at % TRAIL];
            let indent = "  ".repeat(depth as usize);
            let _ = writeln!(page, "  {step:>6} {indent}{what} {who:?}");
        }
        page
    }
}

/// Puts one member together.
fn build(plan: &Plan, view: View, layout: &Arc<Layout>, wires: &Wires) -> (Node, Vec<Lane>) {
    let me = view.me;
    let hook: Option<Hook> = Some(hook);
    let blocks = (0..plan.members).map(|owner| wires.mirror(owner, me.index()).clone()).collect();
    let table = Table::new(layout.clone(), me, blocks, hook);
    let (mut takers, mut lanes, mut inboxes) = (Vec::new(), Vec::new(), Vec::new());
    for (at, spec) in plan.subgroups.iter().enumerate() {
        if !spec.has(me) {
            continue;
        }
        let columns = &layout.subgroups[at];
        let ring = |rank: Rank, lane: u16| {
            let region = wires.ring_mirror(rank.index(), me.index(), at).clone();
            Ring::new(region, lane.into(), &spec.shape)
        };
        let of = |sender: &crate::group::view::Sender| {
            (ring(sender.rank, sender.lane), sender.rank.0, sender.lane)
        };
        let rings = spec.senders.iter().map(of).collect();
        inboxes.push(Inbox::new(rings, &spec.shape, view.epoch));
        let mut mine = Vec::new();
        for lane in plan.lanes.iter().filter(|lane| (lane.subgroup, lane.rank) == (at, me)) {
            let cells = LaneCells::new();
            let ring = ring(me, lane.lane);
            let released = match spec.mode() {
                Mode::Stable => columns.released.byte(0),
                Mode::Received => columns.released_by.byte(lane.s),
            };
            let row = |&rank: &Rank| (rank, table.block(rank).clone(), released);
            let gate = Gate {
                rows: spec.members.iter().map(row).collect(),
                mode: spec.mode(),
                sender: lane.s,
                senders: spec.senders.len(),
                hook,
            };
            mine.push(Taker::new(ring.clone(), cells.clone()));
            let producer = Producer::new(ring, cells, gate, &spec.shape, plan.hot_bytes[at]);
            lanes.push(Lane::new(*lane, producer, spec.shape.message_bytes_max));
        }
        takers.push(mine);
    }
    let engine = Engine::new(view, &table, takers, plan.posting);
    (Node::new(me, engine, table, inboxes), lanes)
}
