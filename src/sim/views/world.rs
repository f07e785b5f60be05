// SPDX-License-Identifier: MIT OR Apache-2.0
//! One seed's group whose views change: real engines with their memberships, in one thread, through
//! crashes, false suspicions, broken links, joins and leaves; then the faults end, and whoever can
//! go on must.
//!
//! A process is an incarnation: process `p` has incarnation `p + 1`. Each epoch has wires, blocks and
//! rings of its own; what is posted between two processes lands epoch after epoch.

use super::era::Era;
use super::node::{KeptOf, Lane, Node, Phase};
use super::oracle::Oracle;
use super::plan::Plan;
use crate::base::{Members, Post, Rank};
use crate::group::membership::roster::{Address, Roster};
use crate::group::membership::{Carry, Stop};
use crate::sim::dice::Dice;
use crate::sim::oracle::{Broken, PANIC};
use crate::sim::report::{Row, Tallies, Violation};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

/// Where a process is.
pub enum Life {
    Unborn,
    Asking,
    Up(Box<Node>),
    Gone,
}

pub struct World {
    pub plan: Plan,
    pub dice: Dice,
    pub tallies: Tallies,
    pub oracle: RefCell<Oracle>,
    eras: RefCell<BTreeMap<u64, Era>>,
    pub lives: Vec<RefCell<Life>>,
    pub lanes: Vec<RefCell<Lane>>,
    /// By lane: its process, subgroup and number.
    names: Vec<(usize, usize, u16)>,
    gone: Vec<Cell<bool>>,
    asleep: Vec<Cell<Option<bool>>>,
    paused_until: Vec<Cell<u64>>,
    /// By pair: nothing lands there any more.
    cut: Vec<Cell<bool>>,
    stuck_until: Vec<Cell<u64>>,
    pub now: Cell<u64>,
    pub hush: Cell<bool>,
    pub stirs: Cell<u64>,
    pub polling: Cell<u32>,
    depth: Cell<u32>,
    pub spent: [Cell<u32>; 5],
    /// By pair, in the end: rounds for which one was deaf to the other.
    pub silent: Vec<Cell<u32>>,
    trail: RefCell<VecDeque<String>>,
}

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

/// Before a word is observed or advanced: the world may move.
pub fn hook(_: Rank) {
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
            (PANIC, text.unwrap_or_else(|| "a panic without a text".into()))
        }
    };
    Some(Violation { seed, step: world.now.get(), property, detail, page: world.page() })
}

impl World {
    fn new(plan: Plan) -> World {
        let n = plan.processes;
        let (mut lanes, mut names) = (Vec::new(), Vec::new());
        for (subgroup, template) in plan.templates.iter().enumerate() {
            for &process in &template.senders {
                for lane in 0..template.lanes {
                    let lane = Lane { process, subgroup, lane, ring: None, kept: None, held: None };
                    names.push((process, subgroup, lane.lane));
                    lanes.push(RefCell::new(lane));
                }
            }
        }
        World {
            dice: Dice::new(plan.seed ^ 0x7669_6577_7300),
            tallies: Tallies::new(),
            oracle: RefCell::new(Oracle::new(&plan)),
            eras: RefCell::new(BTreeMap::new()),
            lives: (0..n).map(|_| RefCell::new(Life::Unborn)).collect(),
            lanes,
            names,
            gone: vec![Cell::new(false); n],
            asleep: vec![Cell::new(None); n],
            paused_until: vec![Cell::new(0); n],
            cut: vec![Cell::new(false); n * n],
            stuck_until: vec![Cell::new(0); n * n],
            now: Cell::new(0),
            hush: Cell::new(false),
            stirs: Cell::new(0),
            polling: Cell::new(0),
            depth: Cell::new(0),
            spent: std::array::from_fn(|_| Cell::new(0)),
            silent: vec![Cell::new(0); n * n],
            trail: RefCell::new(VecDeque::new()),
            plan,
        }
    }

    fn run(&self) {
        self.tallies.one(Row::ViewSeeds);
        let founders: Vec<_> =
            (0..self.plan.founders as u64).map(|id| (id + 1, Address::default())).collect();
        for process in 0..self.plan.founders {
            let roster = Roster::first(&founders, Rank(process as u16));
            let carry = Carry::first(&roster);
            self.enter(process, roster, carry, Vec::new());
        }
        while self.now.get() < self.plan.steps {
            self.act();
        }
        self.settle();
        self.tallies.add(Row::Steps, self.now.get());
    }

    /// One random step of one random party.
    fn act(&self) {
        self.now.set(self.now.get() + 1);
        if !self.hush.get() && self.dice.below(4096) < self.plan.fault_chance {
            self.fault();
        }
        let n = self.plan.processes as u64;
        let lanes = self.lanes.len() as u64;
        let wires = if self.plan.posting == crate::base::Posting::All {
            n * self.plan.wire_share
        } else {
            0
        };
        let choice = self.dice.below(4 * n + lanes + wires);
        if choice < 4 * n {
            self.step_process((choice / 4) as usize);
        } else if choice < 4 * n + lanes {
            self.step_lane((choice - 4 * n) as usize);
        } else {
            self.land(self.plan.land_max);
        }
    }

    fn meanwhile(&self) {
        let depth = self.depth.get();
        if depth >= self.plan.depth_max || !self.dice.chance(self.plan.hook_chance) {
            return;
        }
        self.depth.set(depth + 1);
        self.act();
        self.depth.set(depth);
    }

    fn step_process(&self, process: usize) {
        let paused = self.paused_until[process].get() > self.now.get();
        if paused || self.asleep[process].get().is_some() {
            return;
        }
        let Ok(mut life) = self.lives[process].try_borrow_mut() else { return };
        let Life::Up(node) = &mut *life else { return };
        let whole = self.dice.chance(self.plan.fuse);
        loop {
            if self.gone[process].get() {
                *life = Life::Gone;
                return;
            }
            // A view does not begin in the middle of a send.
            if node.work.install.is_some() && !self.lanes_are_free(process) {
                return;
            }
            if let Some(install) = node.step(self) {
                self.check(node.has_emptied());
                let kept = node.keep();
                drop(life);
                return self.enter(process, install.roster, install.carry, kept);
            }
            if !whole || node.phase == Phase::Poll {
                break;
            }
        }
        if self.gone[process].get() {
            *life = Life::Gone;
        }
    }

    /// A whole turn, and what is left of one begun.
    pub fn turn(&self, process: usize) {
        for _ in 0..12 {
            let before = self.stirs.get();
            self.step_process(process);
            let at_rest = match &*self.lives[process].borrow() {
                Life::Up(node) => node.phase == Phase::Poll,
                _ => true,
            };
            if at_rest && before == self.stirs.get() {
                break;
            }
        }
    }

    fn step_lane(&self, at: usize) {
        if !self.hush.get() && !self.dice.chance(self.plan.zeal) {
            return;
        }
        let Ok(mut lane) = self.lanes[at].try_borrow_mut() else { return };
        if !self.gone[lane.process].get() {
            lane.act(self);
        }
    }

    /// A lane's rest: what is reserved is published, what is kept is sent.
    pub fn resolve(&self, at: usize) {
        let mut lane = self.lanes[at].borrow_mut();
        if !self.gone[lane.process].get() {
            lane.act(self);
        }
    }

    pub fn resend(&self, process: usize) {
        for lane in &self.lanes {
            if let Ok(mut lane) = lane.try_borrow_mut()
                && lane.process == process
                && lane.kept.is_some()
            {
                lane.resend();
            }
        }
    }

    /// A process begins a view.
    pub fn enter(&self, process: usize, roster: Roster, carry: Carry, kept: Vec<KeptOf>) {
        let view: Vec<usize> =
            roster.members.iter().map(|member| member.incarnation as usize - 1).collect();
        let epoch = roster.epoch.0;
        self.note("enters", [process as u64, epoch, view.len() as u64, 0]);
        self.stir();
        self.tallies.one(Row::Installs);
        self.check(self.oracle.borrow_mut().install(process, epoch, &view));
        let depth = self.depth.replace(u32::MAX); // nothing moves meanwhile
        let mut eras = self.eras.borrow_mut();
        let era = eras.entry(epoch).or_insert_with(|| {
            self.tallies.add(Row::Views, (epoch > 1).into());
            Era::new(&self.plan, view.clone())
        });
        let (node, lanes) = era.build(&self.plan, process, roster, carry);
        drop(eras);
        let mut kept = kept;
        for (subgroup, lane, producer) in lanes {
            let its = |of: &KeptOf| (of.0, of.1) == (subgroup, lane);
            let kept = kept.iter().position(its).map(|at| kept.remove(at).2);
            self.lane(process, subgroup, lane).borrow_mut().renew(producer, kept, self);
        }
        assert!(kept.is_empty(), "whoever sent in a view sends in the next");
        *self.lives[process].borrow_mut() = Life::Up(Box::new(node));
        self.depth.set(depth);
        self.asleep[process].set(None);
    }

    fn lane(&self, process: usize, subgroup: usize, lane: u16) -> &RefCell<Lane> {
        let its = |name: &(usize, usize, u16)| *name == (process, subgroup, lane);
        &self.lanes[self.names.iter().position(its).expect("a lane of the plan")]
    }

    /// Whether no application thread of the process is in the middle of a call.
    fn lanes_are_free(&self, process: usize) -> bool {
        let mut mine = self.names.iter().zip(&self.lanes).filter(|(name, _)| name.0 == process);
        mine.all(|(_, lane)| lane.try_borrow_mut().is_ok())
    }

    // ---- wires ----

    fn pair(&self, from: usize, to: usize) -> usize {
        from * self.plan.processes + to
    }

    /// Lands something somewhere; whether there was anything.
    pub fn land(&self, parcels: u64) -> bool {
        let mut eras = self.eras.borrow_mut();
        let queued: Vec<u64> = eras
            .iter()
            .filter(|(_, era)| era.wires.queued() > 0)
            .map(|(epoch, _)| *epoch)
            .collect();
        if queued.is_empty() {
            return false;
        }
        let epoch = if self.hush.get() { queued[0] } else { self.dice.pick(&queued) };
        // What was posted in an earlier view lands first.
        let mut before = Vec::new();
        for older in queued.iter().filter(|older| **older < epoch) {
            before.extend(eras[older].busy_pairs());
        }
        let era = eras.get_mut(&epoch).expect("looked up");
        let now = self.now.get();
        let allowed = |from: usize, to: usize| {
            let (from, to) = (era.view[from], era.view[to]);
            self.stuck_until[self.pair(from, to)].get() <= now && !before.contains(&(from, to))
        };
        let landed = era.wires.land_where(now, parcels, &self.dice, &self.tallies, allowed);
        let Some(landed) = landed else { return false };
        let (from, to) = (era.view[landed.from.index()], era.view[landed.to.index()]);
        drop(eras);
        if let Some((byte, old, new)) = landed.regressed {
            let detail = format!("byte {byte} of {from}'s mirror at {to}: {old} to {new}");
            self.fail((crate::sim::oracle::MONOTONE, detail));
        }
        self.stir();
        if self.polling.get() > 0 {
            self.tallies.add(Row::LandedInPoll, landed.words);
        }
        self.wake(to, true);
        if landed.room_again {
            self.wake(from, true);
        }
        true
    }

    pub fn full(&self, epoch: u64, rank: Rank) -> Members {
        self.eras.borrow()[&epoch].wires.full(rank)
    }

    pub fn post(&self, epoch: u64, from: Rank, view: &[usize], posts: &[Post]) {
        let me = view[from.index()];
        let open = |rank: &Rank| {
            let to = view[rank.index()];
            !self.cut[self.pair(me, to)].get() && !self.gone[to].get()
        };
        let mut eras = self.eras.borrow_mut();
        let wires = &mut eras.get_mut(&epoch).expect("its own era").wires;
        for &post in posts {
            let mut post = post;
            match &mut post {
                Post::Words { to, .. } | Post::Span { to, .. } | Post::Bell { to, .. } => {
                    *to = Members::from_ranks(to.iter().filter(open));
                }
            }
            wires.post(from, &[post], &self.dice);
        }
    }

    pub fn has_landed(&self, from: usize, to: usize) -> bool {
        let eras = self.eras.borrow();
        eras.values().all(|era| !era.busy_pairs().contains(&(from, to)))
    }

    /// Nothing more comes from there, where that needs a NIC.
    pub fn revoke(&self, from: usize, to: usize) {
        if self.plan.lazy(from, to) {
            self.break_link(from, to);
        }
    }

    pub fn break_link(&self, from: usize, to: usize) {
        self.cut[self.pair(from, to)].set(true);
        for era in self.eras.borrow_mut().values_mut() {
            if let (Some(from), Some(to)) = (era.rank(from), era.rank(to)) {
                era.wires.drop_all(from, to);
            }
        }
    }

    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut[self.pair(from, to)].get()
    }

    /// In the middle of a callback a member is stopped for long.
    pub fn stop_for_long(&self, process: usize) {
        let most = self.plan.steps;
        self.paused_until[process].set(self.now.get() + self.dice.below(most) + 1);
    }

    pub fn epoch_of_most(&self) -> u64 {
        *self.eras.borrow().keys().last().expect("a first view")
    }

    pub fn is_paused(&self, process: usize) -> bool {
        self.paused_until[process].get() > self.now.get()
    }

    pub fn pause(&self, process: usize) {
        let until = || self.now.get() + self.dice.below(self.plan.pause_max) + 1;
        self.paused_until[process].set(until());
        let pair = self.dice.below(self.stuck_until.len() as u64) as usize;
        self.stuck_until[pair].set(until());
    }

    pub fn heal(&self) {
        self.paused_until.iter().for_each(|until| until.set(0));
        self.stuck_until.iter().for_each(|until| until.set(0));
    }

    // ---- ends ----

    /// A process dies, wherever it is.
    pub fn crash(&self, process: usize) {
        self.note("crashes", [process as u64, 0, 0, 0]);
        for era in self.eras.borrow_mut().values_mut() {
            if let Some(rank) = era.rank(process) {
                era.wires.cut_off(rank, &self.dice);
            }
        }
        self.end(process);
    }

    pub fn end(&self, process: usize) {
        self.gone[process].set(true);
        self.stir();
        self.asleep.iter().for_each(|asleep| asleep.set(None));
        if let Ok(mut life) = self.lives[process].try_borrow_mut() {
            *life = Life::Gone;
        }
    }

    /// A member has been told to stop, or is in a minority.
    pub fn stops(&self, process: usize, reason: Option<Stop>) {
        if self.gone[process].get() {
            return;
        }
        let row = match reason {
            Some(Stop::Expelled { .. }) => Row::Expelled,
            Some(Stop::Partitioned { .. }) => Row::Partitioned,
            Some(Stop::Left) => Row::LeftView,
            _ => Row::Exhausted,
        };
        self.tallies.one(row);
        self.note("stops", [process as u64, row as u64, 0, 0]);
        self.end(process);
    }

    pub fn is_gone(&self, process: usize) -> bool {
        self.gone[process].get()
    }

    // ---- the rest ----

    pub fn stir(&self) {
        self.stirs.set(self.stirs.get() + 1);
    }

    pub fn sleep(&self, process: usize, room: bool) {
        self.tallies.one(Row::Sleeps);
        self.asleep[process].set(Some(room));
    }

    pub fn wake(&self, process: usize, news: bool) {
        if self.asleep[process].get().is_some_and(|room| room || news) {
            self.asleep[process].set(None);
        }
    }

    pub fn is_asleep(&self, process: usize) -> bool {
        self.asleep[process].get().is_some()
    }

    pub fn fail(&self, broken: Broken) -> ! {
        resume_unwind(Box::new(broken))
    }

    pub fn check<T>(&self, outcome: Result<T, Broken>) -> T {
        outcome.unwrap_or_else(|broken| self.fail(broken))
    }

    pub fn note(&self, what: &'static str, who: [u64; 4]) {
        let mut trail = self.trail.borrow_mut();
        if trail.len() == 60 {
            trail.pop_front();
        }
        trail.push_back(format!("{:>6} {what} {who:?}", self.now.get()));
    }

    fn page(&self) -> String {
        let mut page = format!("{}", self.plan);
        for line in &*self.trail.borrow() {
            let _ = writeln!(page, "  {line}");
        }
        page
    }
}
