// SPDX-License-Identifier: MIT OR Apache-2.0
//! The explorer (tests only): real memberships with a small multicast each, moved by chance through
//! crashes, false suspicions, broken links, joins and leaves; then the faults end, and whoever can
//! go on must.
//!
//! A process is an incarnation: process `p` has incarnation `p + 1`. The seed decides everything.

mod faults;
mod mutants;
mod net;
mod oracle;
mod plan;
mod settle;
mod stories;
mod transcript;

use super::roster::{Address, Roster};
use super::{Carry, Decision, Membership, Options};
use crate::base::{Count, Members, Nanos, Number, Post, Posting, Rank};
use crate::error::{Fault, Suspicion};
use crate::mutants::caught;
use crate::sst::Table;
use crate::sst::frontier::{owed, prefix, share};
use crate::sst::layout::{Layout, Mode, Shape, SubgroupColumns};
pub use net::Dice;
use net::{Net, hook};
use oracle::{Broken, Oracle};
pub use plan::Plan;
use plan::subgroups;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// Bytes that hold every control block here.
const BLOCK_BYTES: usize = 16 << 10;
/// A small multicast: who has how much of a subgroup, in one view.
struct App {
    subgroup: usize,
    me: Rank,
    columns: SubgroupColumns,
    others: Vec<Rank>,
    senders: Vec<Rank>,
    received: Vec<Count>,
    delivered: Number,
    posted: [u64; 2],
    stable_mode: bool,
}

impl App {
    /// Sends, receives, delivers what is stable.
    fn turn(&mut self, table: &mut Table, sends: bool) {
        for (s, &sender) in self.senders.iter().enumerate() {
            if sender != self.me {
                self.received[s] = table.observe(sender, self.columns.head, 0);
            }
        }
        if let Some(s) = self.senders.iter().position(|sender| *sender == self.me) {
            // A few messages per view are as good as many.
            self.received[s].0 += u64::from(sends && self.received[s].0 < 6);
            self.received[s] = owed(&self.received, s);
            table.advance(self.columns.head, 0, self.received[s]);
        }
        if !self.stable_mode {
            return;
        }
        let mine = prefix(&self.received);
        table.advance(self.columns.prefix, 0, mine);
        let prefixes = self.others.iter().map(|rank| table.observe(*rank, self.columns.prefix, 0));
        self.delivered = prefixes.min().map_or(mine, |least: Number| least.min(mine));
    }

    fn delivered(&self) -> Vec<Count> {
        let senders = self.senders.len();
        (0..senders).map(|s| share(self.delivered, s, senders)).collect()
    }
}

/// A process that is in a view.
pub struct Up {
    pub membership: Membership,
    table: Table,
    apps: Vec<App>,
    frozen: bool,
    heard: Vec<Suspicion>,
    /// Subgroups whose cut is being delivered.
    delivering: Vec<usize>,
    decision: Decision,
}

pub enum Phase {
    Unborn,
    Asking,
    Up(Box<Up>),
    Crashed,
    Stopped,
}

pub struct World {
    pub plan: Plan,
    pub net: Rc<RefCell<Net>>,
    pub processes: Vec<Phase>,
    pub oracle: Oracle,
    pub tally: BTreeMap<String, u64>,
    pub trail: Vec<String>,
    pub told: bool,
    /// Crashes, falsehoods, cut links, leaves, splits so far.
    spent: [usize; 5],
    /// The last false suspicion: of two who suspect each other only one can be right.
    duel: Option<(usize, usize)>,
    paused_until: Vec<u64>,
    /// By process: something landed, was heard or is left to do.
    dirty: Vec<bool>,
    /// By pair, while the faults have ended: rounds for which one was silent to the other.
    silent: Vec<usize>,
    /// By process, then by pair: how fast.
    speeds: Vec<usize>,
}

/// One seed. What was broken, if anything was; and what was reached.
pub fn explore(seed: u64) -> (Option<Broken>, World) {
    explore_plan(Plan::new(seed), false, |_| None)
}

/// `told`: whether it keeps the story. `crash`: asked before every step, whom to kill now.
pub fn explore_plan(
    plan: Plan,
    told: bool,
    mut crash: impl FnMut(&World) -> Option<usize>,
) -> (Option<Broken>, World) {
    let mut world = World::new(plan);
    world.told = told;
    let mut run = |world: &mut World| -> Result<(), Broken> {
        world.found()?;
        for _ in 0..world.plan.steps {
            if let Some(victim) = crash(world) {
                world.crash(victim);
            }
            world.step()?;
        }
        world.settle()
    };
    let broken = match caught(|| run(&mut world)) {
        Ok(outcome) => outcome.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
            Some(format!("panic: {}", text.unwrap_or_default()))
        }
    };
    (broken, world)
}

impl World {
    fn new(plan: Plan) -> World {
        let processes = plan.founders + plan.joiners;
        World {
            net: Net::new(plan.seed, processes, BLOCK_BYTES, plan.eager),
            processes: (0..processes).map(|_| Phase::Unborn).collect(),
            oracle: Oracle::new(
                plan.founders,
                plan.tie_break,
                (0..processes).map(|who| plan.versions(who)).collect(),
            ),
            tally: BTreeMap::new(),
            trail: Vec::new(),
            told: false,
            spent: [0; 5],
            duel: None,
            paused_until: vec![0; processes],
            dirty: vec![true; processes],
            silent: vec![0; processes * processes],
            speeds: Vec::new(),
            plan,
        }
    }

    pub fn of(plan: Plan) -> Result<World, Broken> {
        let mut world = World::new(plan);
        world.net.borrow_mut().hook_chance = 0;
        world.found()?;
        Ok(world)
    }

    /// Lets everything happen that is not held back, but for some processes.
    pub fn calm(&mut self, without: &[usize]) -> Result<(), Broken> {
        for _ in 0..60 {
            self.net.borrow_mut().land_all();
            for who in self.all_up().into_iter().filter(|who| !without.contains(who)) {
                self.turn(who)?;
            }
        }
        Ok(())
    }

    /// A turn in which that process sends.
    pub fn send(&mut self, who: usize) -> Result<(), Broken> {
        self.plan.sends = 1000;
        self.turn(who)?;
        self.plan.sends = 0;
        Ok(())
    }

    pub fn tell(&mut self, who: usize, other: usize) {
        assert!(
            self.suspect(who, other, Fault::Lost { also: Members::NONE }),
            "both are in the view"
        );
    }

    fn found(&mut self) -> Result<(), Broken> {
        let founder = |who: usize| (who as u64 + 1, Address::default(), self.plan.versions(who));
        let founders: Vec<_> = (0..self.plan.founders).map(founder).collect();
        for who in 0..self.plan.founders {
            let roster = Roster::founded(&founders, Rank(who as u16));
            let carry = Carry::first(&roster);
            self.enter(who, roster, carry)?;
        }
        Ok(())
    }

    /// A process begins a view.
    fn enter(&mut self, who: usize, roster: Roster, carry: Carry) -> Result<(), Broken> {
        self.note(|| format!("{who} enters {} as {roster:?} with {carry:?}", roster.epoch.0));
        self.oracle.install(who, &roster)?;
        self.count("installs", 1);
        self.count("installs at a later version", u64::from(roster.wire() > 1));
        let specs = subgroups(&self.plan, roster.len());
        let shapes: Vec<Shape> = specs.iter().map(|spec| spec.shape).collect();
        let layout = Arc::new(Layout::new(&shapes));
        assert!(layout.control_bytes <= BLOCK_BYTES);
        let epoch = roster.epoch.0;
        let block = |member: &super::roster::Member| {
            let owner = member.incarnation as usize - 1;
            self.net.borrow_mut().block(epoch, owner, who)
        };
        let blocks = roster.members.iter().map(block).collect();
        let mut table = Table::new(layout.clone(), roster.me, blocks, Some(hook));
        let mut apps = Vec::new();
        for (subgroup, spec) in specs.iter().enumerate().filter(|(_, spec)| spec.has(roster.me)) {
            let senders: Vec<Rank> = spec.senders.iter().map(|sender| sender.rank).collect();
            let app = App {
                subgroup,
                me: roster.me,
                columns: layout.subgroups[subgroup].clone(),
                others: spec.members.iter().copied().filter(|rank| *rank != roster.me).collect(),
                received: vec![Count(0); senders.len()],
                senders,
                delivered: Number(0),
                posted: [0; 2],
                stable_mode: spec.mode() == Mode::Stable,
            };
            if app.stable_mode {
                self.oracle.deliver(who, epoch, subgroup, app.delivered())?;
            }
            apps.push(app);
        }
        let options = Options { tie_break: self.plan.tie_break, posting: Posting::All };
        let membership = Membership::new(roster, &specs, carry, options, &mut table);
        let frozen = false;
        let (heard, delivering, decision) = (Vec::new(), Vec::new(), Decision::default());
        let up = Up { membership, table, apps, frozen, heard, delivering, decision };
        self.processes[who] = Phase::Up(Box::new(up));
        self.dirty[who] = true;
        Ok(())
    }

    pub fn up(&self, who: usize) -> Option<&Up> {
        match &self.processes[who] {
            Phase::Up(up) => Some(up),
            _ => None,
        }
    }

    pub fn all_up(&self) -> Vec<usize> {
        (0..self.processes.len()).filter(|who| self.up(*who).is_some()).collect()
    }

    fn count(&mut self, what: &str, more: u64) {
        *self.tally.entry(what.into()).or_insert(0) += more;
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if self.told {
            let step = self.net.borrow().step;
            self.trail.push(format!("{step:>5} {}", what()));
        }
    }

    fn step(&mut self) -> Result<(), Broken> {
        let net = self.net.clone();
        net.borrow_mut().step += 1;
        let up = self.all_up();
        if up.is_empty() {
            return Ok(());
        }
        if self.plan.ambush < plan::ANY && net.borrow_mut().dice.chance(self.plan.eager_ambush) {
            self.strike(&up);
        }
        let up = self.all_up();
        if up.is_empty() {
            return Ok(());
        }
        if self.spent[4] < self.plan.splits && net.borrow_mut().dice.chance(30) {
            self.split();
        }
        if self.plan.driven {
            return self.driven_step(&up);
        }
        let (land, fault, stall) = (self.plan.land, self.plan.fault, self.plan.stall);
        let total = 100 + land + fault + stall;
        let (choice, who, other) = {
            let dice = &mut net.borrow_mut().dice;
            (dice.below(total), dice.pick(&up), dice.below(self.processes.len()))
        };
        if choice < 100 {
            let paused = net.borrow().step < self.paused_until[who];
            return if paused { Ok(()) } else { self.turn(who) };
        }
        if choice < 100 + land {
            let mut net = net.borrow_mut();
            let words = net.dice.range(1, self.plan.burst);
            net.land(other, who, words);
        } else if choice < 100 + land + stall {
            self.stall(who, other);
        } else {
            self.fault(who, other)?;
        }
        Ok(())
    }

    /// One turn of a member, as its driver would take it.
    pub fn turn(&mut self, who: usize) -> Result<(), Broken> {
        let phase = std::mem::replace(&mut self.processes[who], Phase::Unborn);
        let Phase::Up(mut up) = phase else { unreachable!("only members take turns") };
        let members = up.membership.roster().members.iter();
        let view = members.map(|member| member.incarnation as usize - 1).collect();
        self.net.borrow_mut().set_polling(Some((who, view)));
        let outcome = self.turn_of(who, &mut up);
        self.net.borrow_mut().set_polling(None);
        self.dirty[who] = up.decision.busy || !up.delivering.is_empty();
        if matches!(self.processes[who], Phase::Unborn) {
            self.processes[who] = Phase::Up(up);
        }
        if let Some(next) = outcome? {
            self.enter(who, next.roster, next.carry)?;
        }
        Ok(())
    }

    fn turn_of(&mut self, who: usize, up: &mut Up) -> Result<Option<super::Install>, Broken> {
        let epoch = up.membership.roster().epoch.0;
        let net = self.net.clone();
        for app in up.apps.iter_mut().filter(|_| !up.frozen) {
            let sends = net.borrow_mut().dice.chance(self.plan.sends);
            app.turn(&mut up.table, sends);
            self.post_app(who, app, up.membership.roster(), &up.table);
            if app.stable_mode {
                self.oracle.deliver(who, epoch, app.subgroup, app.delivered())?;
            }
        }
        let heard = std::mem::take(&mut up.heard);
        let now = Nanos(net.borrow().step);
        up.membership.poll(now, &mut up.table, &heard, &mut up.decision);
        let membership = &mut up.membership;
        let base = membership.roster().base;
        let agreed = (membership.agreed() - base) as usize;
        self.oracle.agrees(who, base, &membership.changes()[..agreed])?;
        for suspicion in &up.decision.suspicions {
            let suspect = membership.roster().members[suspicion.rank.index()].incarnation;
            self.oracle.suspected.insert(suspect as usize - 1);
            net.borrow_mut().revoke(suspect as usize - 1, who);
            self.note(|| format!("{who} suspects {}: {}", suspect - 1, suspicion.fault));
        }
        if let Some(stop) = up.decision.stopped {
            self.note(|| format!("{who} stops: {stop:?}"));
            self.count(&format!("stopped {}", format!("{stop:?}").split(' ').next().unwrap()), 1);
            net.borrow_mut().crash(who);
            self.processes[who] = Phase::Stopped;
            return Ok(None);
        }
        if up.decision.wedge {
            up.frozen = true;
            for app in &up.apps {
                membership.receipt(app.subgroup, &app.received, &app.delivered());
            }
            self.note(|| format!("{who} wedges"));
        }
        up.frozen |= membership.is_wedged();
        for subgroup in up.decision.deliver.drain(..) {
            let cut = membership.cut(subgroup).to_vec();
            self.note(|| format!("{who} delivers the cut {cut:?} of {subgroup}"));
            self.oracle.deliver(who, epoch, subgroup, cut)?;
            up.delivering.push(subgroup);
        }
        // The callbacks may take their time.
        let returns = net.borrow_mut().dice.chance(self.plan.returns);
        if returns && let Some(subgroup) = up.delivering.pop() {
            membership.cut_delivered(subgroup);
            up.decision.busy = true;
        }
        self.post_membership(who, up);
        Ok(up.decision.install.take())
    }

    fn post_app(&mut self, who: usize, app: &mut App, roster: &Roster, table: &Table) {
        let columns = &app.columns;
        for (at, (byte, value)) in [
            (columns.head.byte(0), table.own(columns.head, 0).0),
            (columns.prefix.byte(0), table.own(columns.prefix, 0).0),
        ]
        .into_iter()
        .enumerate()
        {
            if app.posted[at] == value {
                continue;
            }
            app.posted[at] = value;
            for rank in &app.others {
                let to = roster.members[rank.index()].incarnation as usize - 1;
                self.net.borrow_mut().send(who, to, roster.epoch.0, byte, &[value]);
            }
        }
    }

    fn post_membership(&mut self, who: usize, up: &mut Up) {
        let roster = up.membership.roster().clone();
        let mut net = self.net.borrow_mut();
        let at = |rank: Rank| roster.members[rank.index()].incarnation as usize - 1;
        let mut full = Members::NONE;
        for rank in roster.all().iter() {
            if net.dice.chance(self.plan.full) {
                full.insert(rank);
            }
        }
        let mut posts = Vec::new();
        up.membership.posts(&up.table, full, &mut posts);
        for post in posts {
            let Post::Words { to, at: byte, values, len, .. } = post else { unreachable!() };
            for rank in roster.all().iter().filter(|rank| *rank != roster.me) {
                // Shared memory shows a suspect what is stored, too; the others get it by post.
                let shown = net.is_eager(who, at(rank)) && up.membership.suspects().contains(rank);
                if to.contains(rank) || shown {
                    let values = &values[..usize::from(len)];
                    net.send(who, at(rank), roster.epoch.0, byte as usize, values);
                }
            }
        }
    }
}
