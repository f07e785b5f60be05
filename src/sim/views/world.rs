// SPDX-License-Identifier: MIT OR Apache-2.0
//! One seed's group whose views change: real engines with their memberships, in one thread, through
//! crashes, false suspicions, broken links, joins and leaves; then the faults end, and whoever can
//! go on must.
//!
//! A process is an incarnation: process `p` has incarnation `p + 1`; one that restarts is another
//! process, with the same part in the subgroups. Each epoch has wires, blocks and rings of its own;
//! what is posted between two processes lands epoch after epoch.

use super::era::Era;
use super::faults::Secret;
use super::lane::{self, Hand, Lane, Name};
use super::leave::Leaving;
use super::node::{KeptOf, Node};
use super::oracle::Oracle;
use super::plan::{Budget, Plan};
use crate::base::Rank;
use crate::group::membership::Carry;
use crate::group::membership::roster::{Address, Roster};
use crate::sim::coverage::Case;
use crate::sim::dice::Dice;
use crate::sim::oracle::PANIC;
use crate::sim::report::{Violation, World as Kind};
use crate::sim::rows::{Row, Tallies};
use crate::sim::run::{self, Run};
use crate::sim::turn::Phase;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::rc::Rc;

/// What a joiner was told, and when it will have loaded the state.
pub struct Start {
    pub source: usize,
    pub until: u64,
    pub roster: Roster,
    pub carry: Carry,
}

/// Where a process is.
pub enum Life {
    Unborn,
    Asking,
    Loading(Box<Start>),
    Up(Box<Node>),
    Gone,
}

pub struct World {
    pub plan: Plan,
    run: Run,
    pub oracle: RefCell<Oracle>,
    pub eras: RefCell<BTreeMap<u64, Era>>,
    pub lives: Vec<RefCell<Life>>,
    /// By process: the view that it is in.
    pub epochs: Vec<Cell<u64>>,
    /// The application's ends of all lanes, the turn threads' ends, and whose they are.
    pub lanes: Vec<RefCell<Lane>>,
    pub hands: Vec<RefCell<Hand>>,
    pub names: Vec<Name>,
    pub gone: Vec<Cell<bool>>,
    pub paused_until: Vec<Cell<u64>>,
    /// It was stopped for long.
    pub stopped: Vec<Cell<bool>>,
    /// By process: whether it is to leave.
    pub leaving: Vec<Cell<Leaving>>,
    /// By process: its clock, less that of the world.
    pub clocks: Vec<Cell<u64>>,
    /// By pair: nothing lands there any more.
    pub cut: Vec<Cell<bool>>,
    pub stuck_until: Vec<Cell<u64>>,
    /// When the group is whole again; 0: it is.
    pub storm_until: Cell<u64>,
    pub spent: Cell<Budget>,
    pub secret: Cell<Option<Secret>>,
    /// By pair, in the end: rounds for which one was deaf to the other.
    pub silent: Vec<Cell<u32>>,
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
    run::run(Kind::Views, plan.seed, Rc::new(World::new(plan)), absorb)
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
        PANIC
    }
}

impl World {
    fn new(plan: Plan) -> World {
        let n = plan.processes;
        let (mut lanes, mut hands, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for (subgroup, template) in plan.templates.iter().enumerate() {
            for &process in &template.senders {
                for lane in 0..template.lanes {
                    let name = Name { process, subgroup, lane };
                    let (lane, hand) = lane::new(name);
                    names.push(name);
                    lanes.push(lane);
                    hands.push(hand);
                }
            }
        }
        let dice = Dice::new(plan.seed ^ plan.salt << 32 ^ 0x7669_6577_7300);
        World {
            oracle: RefCell::new(Oracle::new(&plan)),
            eras: RefCell::new(BTreeMap::new()),
            lives: (0..n).map(|_| RefCell::new(Life::Unborn)).collect(),
            epochs: vec![Cell::new(0); n],
            lanes,
            hands,
            names,
            gone: vec![Cell::new(false); n],
            paused_until: vec![Cell::new(0); n],
            stopped: vec![Cell::new(false); n],
            leaving: vec![Cell::new(Leaving::No); n],
            // Far enough from zero to go back.
            clocks: vec![Cell::new(1 << 50); n],
            cut: vec![Cell::new(false); n * n],
            stuck_until: vec![Cell::new(0); n * n],
            storm_until: Cell::new(0),
            spent: Cell::new(Budget::default()),
            secret: Cell::new(None),
            silent: vec![Cell::new(0); n * n],
            run: Run::new(dice, plan.hooks, n),
            plan,
        }
    }

    fn play(&self) {
        self.tallies.one(Row::ViewSeeds);
        let founders: Vec<_> =
            (0..self.plan.founders as u64).map(|id| (id + 1, Address::default())).collect();
        for process in 0..self.plan.founders {
            let roster = Roster::first(&founders, Rank(process as u16));
            let carry = Carry::first(&roster);
            self.enter(process, (roster, carry), Vec::new(), None);
        }
        while self.now.get() < self.plan.steps {
            self.act();
        }
        self.settle();
    }

    /// One random step of one random party.
    fn act(&self) {
        self.tick();
        if !self.hush.get() {
            if self.dice.below(4096) < self.plan.fault_chance {
                self.fault();
            }
            self.end_storm();
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
            let process = (choice / 4) as usize;
            if self.hush.get() || self.dice.below(self.plan.slow[process]) == 0 {
                self.step_process(process);
            }
        } else if choice < 4 * n + lanes {
            self.step_lane((choice - 4 * n) as usize);
        } else {
            self.land(self.plan.land_max);
        }
    }

    fn step_process(&self, process: usize) {
        if self.is_paused(process) || !self.is_awake(process) {
            return;
        }
        if self.stopped[process].replace(false) {
            self.tallies.reached(Case::StopContinue);
        }
        let Ok(mut life) = self.lives[process].try_borrow_mut() else { return };
        if let Life::Loading(_) = &*life {
            drop(life);
            return self.load(process);
        }
        let Life::Up(node) = &mut *life else { return };
        let whole = self.dice.chance(self.plan.fuse);
        let struck = loop {
            if self.gone[process].get() {
                *life = Life::Gone;
                return;
            }
            if let Some(install) = node.step(self) {
                self.check(node.has_emptied());
                let kept = node.keep();
                drop(life);
                return self.enter(process, (install.roster, install.carry), kept, None);
            }
            let struck = self.is_ambushed(node);
            if struck || !whole || node.turn.phase == Phase::Poll {
                break struck;
            }
        };
        if self.gone[process].get() {
            *life = Life::Gone;
            return;
        }
        drop(life);
        if struck {
            self.strike(process);
        }
    }

    /// A whole turn, and what is left of one begun.
    pub fn turn(&self, process: usize) {
        for _ in 0..12 {
            let before = self.stirs.get();
            self.step_process(process);
            let at_rest = match &*self.lives[process].borrow() {
                Life::Up(node) => node.turn.phase == Phase::Poll,
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
        if let Ok(mut lane) = self.lanes[at].try_borrow_mut()
            && !self.gone[self.names[at].process].get()
        {
            lane.act(at, self);
        }
    }

    /// In the middle of a call of the application's.
    pub fn act_in_call(&self) {
        if !self.hush.get() && self.now.get() < self.plan.steps {
            self.act();
        }
    }

    pub fn has_sent_enough(&self) -> bool {
        self.tallies.get(Row::Messages) >= self.plan.messages_max
    }

    /// A lane's rest: what is reserved is published.
    pub fn resolve(&self, at: usize) {
        if !self.gone[self.names[at].process].get() {
            self.lanes[at].borrow_mut().act(at, self);
        }
    }

    /// The turn thread's part of every lane of a process.
    pub fn hands_of(&self, process: usize) -> impl Iterator<Item = &RefCell<Hand>> {
        let its =
            self.names.iter().zip(&self.hands).filter(move |(name, _)| name.process == process);
        its.map(|(_, hand)| hand)
    }

    /// A joiner loads the state; if its source dies, it looks for another.
    pub fn load(&self, process: usize) {
        let life = self.lives[process].replace(Life::Asking);
        let Life::Loading(start) = life else { unreachable!("it is loading") };
        if self.is_gone(start.source) {
            self.note("loses its source", [process as u64, start.source as u64, 0, 0]);
        } else if start.until > self.now.get() && !self.hush.get() {
            self.lives[process].replace(Life::Loading(start));
        } else {
            self.tallies.one(Row::Joined);
            let source = self.plan.has_state().then_some(start.source);
            self.enter(process, (start.roster, start.carry), Vec::new(), source);
        }
        self.stir();
    }

    /// A process begins a view. `source`: whose state it has, if it joins with one.
    pub fn enter(
        &self,
        process: usize,
        (roster, carry): (Roster, Carry),
        kept: Vec<KeptOf>,
        source: Option<usize>,
    ) {
        let view: Vec<usize> =
            roster.members.iter().map(|member| member.incarnation as usize - 1).collect();
        let epoch = roster.epoch.0;
        self.note("enters", [process as u64, epoch, view.len() as u64, 0]);
        self.stir();
        self.count_entry(process, epoch, &view);
        self.check(self.oracle.borrow_mut().install(process, epoch, &view, source));
        self.epochs[process].set(epoch);
        self.alone(|| {
            let mut eras = self.eras.borrow_mut();
            let era = eras.entry(epoch).or_insert_with(|| {
                self.tallies.add(Row::Views, (epoch > 1).into());
                let lacking = self.plan.templates.iter().filter(|of| of.lacks(&view) > 0).count();
                self.tallies.add(Row::Lacking, lacking as u64);
                Era::new(&self.plan, epoch, view.clone())
            });
            let me = roster.me;
            let waiting: Vec<(usize, u16)> = era
                .specs
                .iter()
                .enumerate()
                .flat_map(|(at, spec)| {
                    let lanes = if spec.waits(me) { spec.shape.lanes } else { 0 };
                    (0..lanes).map(move |lane| (at, lane))
                })
                .collect();
            let (mut node, lanes) = era.build(&self.plan, process, roster, carry);
            drop(eras);
            if let Life::Up(before) = &*self.lives[process].borrow() {
                node.engine.remember(&before.table, before.membership().roster());
            }
            let mut kept = kept;
            let mut kept_of = |subgroup: usize, lane: u16| {
                let its = |of: &KeptOf| (of.0, of.1) == (subgroup, lane);
                kept.iter().position(its).map(|at| kept.remove(at).2)
            };
            for part in lanes {
                let hand = self.hand(process, part.subgroup, part.lane);
                let kept = kept_of(part.subgroup, part.lane);
                hand.borrow_mut().install(epoch, part.producer, kept, self);
            }
            for (subgroup, lane) in waiting {
                let kept = kept_of(subgroup, lane);
                self.hand(process, subgroup, lane).borrow_mut().waits(kept, self);
            }
            assert!(kept.is_empty(), "whoever sent in a view sends in the next");
            *self.lives[process].borrow_mut() = Life::Up(Box::new(node));
        });
        self.rouse(process);
    }

    pub fn hand(&self, process: usize, subgroup: usize, lane: u16) -> &RefCell<Hand> {
        let name = Name { process, subgroup, lane };
        let at = self.names.iter().position(|other| *other == name);
        &self.hands[at.expect("a lane of the plan")]
    }

    pub fn clock(&self, process: usize) -> u64 {
        self.clocks[process].get() + self.now.get()
    }

    pub fn is_gone(&self, process: usize) -> bool {
        self.gone[process].get()
    }

    pub fn is_paused(&self, process: usize) -> bool {
        self.paused_until[process].get() > self.now.get()
    }

    pub fn epoch_of_most(&self) -> u64 {
        *self.eras.borrow().keys().last().expect("a first view")
    }
}
