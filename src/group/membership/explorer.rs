// SPDX-License-Identifier: MIT OR Apache-2.0
//! The explorer (tests only): real memberships with a small multicast each, moved by chance through
//! crashes, false suspicions, broken links, joins and leaves; then the faults end, and whoever can
//! go on must.
//!
//! A process is an incarnation: process `p` has incarnation `p + 1`. The seed decides everything.

use super::changes::Change;
use super::net::{Dice, Net, hook};
use super::oracle::{Broken, Oracle};
use super::roster::{Address, Roster};
use super::{Carry, Decision, Membership, Options, Request};
use crate::base::{Count, Members, Nanos, Number, Post, Posting, Rank};
use crate::error::{Fault, Suspicion};
use crate::group::view::Subgroup;
use crate::sst::Table;
use crate::sst::frontier::{owed, prefix, share};
use crate::sst::layout::{Layout, Mode, Shape, SubgroupColumns};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

/// Bytes that hold every control block here.
const BLOCK_BYTES: usize = 16 << 10;
/// Rounds in which whoever can must have come to rest.
const ROUNDS: usize = 600;

/// What chance decided of a whole run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub founders: usize,
    pub joiners: usize,
    /// Subgroups: as `subgroups` reads it.
    pub shape: usize,
    pub crashes: usize,
    /// Crashes and false suspicions wait for members in that stage (see `stage`), and strike then
    /// in so many of 1000 steps.
    pub ambush: usize,
    eager_ambush: usize,
    pub falsehoods: usize,
    pub cuts: usize,
    /// Everybody is cut off from everybody of another group, by chance or by epoch.
    pub splits: usize,
    pub leaves: usize,
    pub tie_break: bool,
    /// Of 1000 pairs that many are shared memory.
    eager: usize,
    steps: usize,
    /// Weights of a step that lands words, and of one that is a fault.
    land: usize,
    fault: usize,
    stall: usize,
    burst: usize,
    sends: usize,
    full: usize,
    /// Only who has something to do takes turns, and wires and processes differ much in speed.
    pub driven: bool,
    /// Of 1000 turns, those in which a callback returns.
    pub returns: usize,
}

impl Plan {
    pub fn new(seed: u64) -> Plan {
        let mut dice = Dice::new(seed ^ 0x6d65_6d62);
        let founders = dice.pick(&[1, 2, 2, 3, 3, 3, 4, 4, 5, 5, 5, 5, 6, 7]);
        let theme = dice.below(4);
        let plan = Plan {
            seed,
            founders,
            joiners: dice.pick(&[0, 0, 1, 2, 2, 3, 4]),
            shape: dice.below(6),
            crashes: dice.pick(&[0, 1, 1, 1, 2, 2, 3]),
            falsehoods: dice.pick(&[0, 0, 0, 1, 1, 2, 3]),
            cuts: dice.pick(&[0, 0, 0, 0, 1, 2]),
            splits: dice.pick(&[0, 0, 0, 0, 1]),
            leaves: dice.pick(&[0, 0, 0, 1, 1, 2]),
            tie_break: founders == 2 && dice.chance(400),
            eager: dice.pick(&[0, 0, 300, 1000]),
            ambush: dice.pick(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 8]),
            eager_ambush: dice.pick(&[0, 10, 50]),
            steps: dice.pick(&[150, 400, 900, 900, 2000, 4000]),
            land: dice.pick(&[20, 60, 100, 200, 400]),
            fault: dice.pick(&[3, 10, 30, 100]),
            stall: dice.pick(&[0, 5, 20]),
            burst: dice.pick(&[1, 4, 30, 1000]),
            sends: dice.pick(&[100, 500, 900]),
            full: dice.pick(&[0, 0, 100]),
            driven: dice.chance(750),
            returns: dice.pick(&[100, 500, 1000]),
        };
        let quiet = Plan { cuts: 0, splits: 0, leaves: 0, stall: 0, full: 0, ..plan };
        match theme {
            // A cut under way in a part of the group, while suspicions spread.
            0 => Plan {
                founders: 5,
                joiners: 1,
                shape: dice.pick(&[1, 4]),
                crashes: dice.below(2),
                ambush: dice.range(2, 5),
                falsehoods: dice.range(1, 3),
                driven: true,
                returns: 100,
                steps: 900,
                fault: dice.pick(&[3, 10, 30]),
                tie_break: false,
                ..quiet
            },
            // Leaders that fail or are believed to while they propose.
            1 => Plan {
                founders: dice.pick(&[3, 5, 5]),
                joiners: dice.range(1, 2),
                crashes: dice.below(3),
                ambush: dice.range(3, 4),
                falsehoods: dice.range(1, 3),
                driven: true,
                steps: 900,
                fault: dice.pick(&[3, 10, 30]),
                tie_break: false,
                ..quiet
            },
            _ => plan,
        }
    }
}

impl Plan {
    /// Nothing happens by chance, and nobody sends.
    pub fn still(founders: usize, joiners: usize, shape: usize) -> Plan {
        let plan = Plan { founders, joiners, shape, tie_break: false, eager: 0, full: 0, ..Plan::new(0) };
        Plan { sends: 0, returns: 1000, ..plan }
    }
}

/// The subgroups of a view: a function of the plan and the number of members alone.
fn subgroups(plan: &Plan, members: usize) -> Vec<Subgroup> {
    let base = Shape {
        senders: 0,
        lanes: 0,
        mode: Mode::Stable,
        window: 8,
        message_bytes_max: 16,
        ring_bytes: 4096,
    };
    let ranks = |from: usize, upto: usize| (from..upto.min(members)).map(|rank| Rank(rank as u16));
    let last = |count: usize| ranks(members.saturating_sub(count), members).collect::<Vec<_>>();
    let all = last(members);
    let of = |members: Vec<Rank>, senders: Vec<Rank>| Subgroup::new(members, &senders, 1, base);
    match plan.shape {
        0 => vec![of(all.clone(), all)],
        1 => vec![of(last(3), last(3))],
        2 => vec![of(last(3), last(2)), of(all.clone(), vec![Rank(0)])],
        3 => vec![of(ranks(0, 2).collect(), vec![Rank(0)]), of(last(3), last(1))],
        4 => vec![of(last(4), last(2))],
        _ => {
            let received = Shape { mode: Mode::Received, ..base };
            vec![Subgroup::new(all.clone(), &all, 1, received), of(last(3), last(3))]
        }
    }
}

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
    let broken = match catch_unwind(AssertUnwindSafe(|| run(&mut world))) {
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
            oracle: Oracle::new(plan.founders, plan.tie_break),
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
        assert!(self.suspect(who, other, Fault::Lost), "both are in the view");
    }

    fn found(&mut self) -> Result<(), Broken> {
        let founders: Vec<_> =
            (0..self.plan.founders as u64).map(|id| (id + 1, Address::default())).collect();
        for who in 0..self.plan.founders {
            let roster = Roster::first(&founders, Rank(who as u16));
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
        if self.plan.ambush < 8 && net.borrow_mut().dice.chance(self.plan.eager_ambush) {
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

    /// One step of those that change anything, by their speeds; a fault now and then, and always
    /// when nothing else is left to happen.
    fn driven_step(&mut self, up: &[usize]) -> Result<(), Broken> {
        let net = self.net.clone();
        let n = self.processes.len();
        let speed = |dice: &mut Dice| dice.pick(&[1, 4, 32, 256]);
        if self.speeds.is_empty() {
            let dice = &mut net.borrow_mut().dice;
            self.speeds = (0..n + n * n).map(|_| speed(dice)).collect();
        }
        if net.borrow_mut().dice.chance(10) {
            let dice = &mut net.borrow_mut().dice;
            let at = dice.below(self.speeds.len());
            self.speeds[at] = speed(dice);
        }
        let mut open: Vec<(usize, usize)> = Vec::new();
        open.extend(up.iter().filter(|who| self.dirty[**who]).map(|who| (*who, *who)));
        let wires = (0..n).flat_map(|from| up.iter().map(move |to| (from, *to)));
        open.extend(wires.filter(|(from, to)| from != to && net.borrow().is_open(*from, *to)));
        let weight = |&(from, to): &(usize, usize)| {
            self.speeds[if from == to { to } else { n + from * n + to }]
        };
        let total: usize = open.iter().map(weight).sum();
        let fault = net.borrow_mut().dice.chance(self.plan.fault);
        if total == 0 || fault {
            let (who, other) = {
                let dice = &mut net.borrow_mut().dice;
                (dice.pick(up), dice.below(n))
            };
            self.dirty[who] |= net.borrow_mut().dice.chance(300);
            return self.fault(who, other);
        }
        let mut left = net.borrow_mut().dice.below(total);
        for pair in open {
            let its = weight(&pair);
            if left >= its {
                left -= its;
                continue;
            }
            let (from, to) = pair;
            if from == to {
                return self.turn(to);
            }
            let mut net = net.borrow_mut();
            let words = net.dice.range(1, self.plan.burst);
            net.land(from, to, words);
            self.dirty[to] = true;
            return Ok(());
        }
        unreachable!("one was chosen")
    }

    /// A process or some wires stand still for a while.
    fn stall(&mut self, who: usize, other: usize) {
        let mut net = self.net.borrow_mut();
        let until = net.step + net.dice.range(1, self.plan.steps / 2) as u64;
        match net.dice.below(4) {
            0 => self.paused_until[who] = until,
            1 => (0..self.processes.len()).for_each(|to| net.stall(who, to, until)),
            2 => (0..self.processes.len()).for_each(|from| net.stall(from, who, until)),
            _ => net.stall(other, who, until),
        }
    }

    /// Cuts every link between two groups of processes.
    fn split(&mut self) {
        let epoch_of = |who: usize| self.up(who).map_or(u64::MAX, |up| up.membership.roster().epoch.0);
        let oldest = (0..self.processes.len()).map(epoch_of).min().unwrap_or(0);
        let mut net = self.net.borrow_mut();
        let mut epochs: Vec<u64> = self.all_up().into_iter().map(epoch_of).collect();
        epochs.dedup();
        let by_epoch = epochs.len() > 1;
        if !by_epoch && net.dice.chance(995) {
            return;
        }
        let chosen = net.dice.word();
        let side = |who: usize| {
            if by_epoch { epoch_of(who) == oldest } else { chosen >> who & 1 == 1 }
        };
        for from in 0..self.processes.len() {
            for to in 0..self.processes.len() {
                if side(from) != side(to) {
                    net.cut(from, to);
                }
            }
        }
        drop(net);
        self.spent[4] += 1;
        self.count(if by_epoch { "splits between views" } else { "splits" }, 1);
        self.note(|| "the group is split".into());
    }

    /// Whoever is in the stage that the plan waits for fails, or errs about a leader.
    fn strike(&mut self, up: &[usize]) {
        let (who, crash, of) = {
            let dice = &mut self.net.borrow_mut().dice;
            (dice.pick(up), dice.chance(300), dice.below(4))
        };
        let membership = &self.up(who).expect("it is up").membership;
        if stage(membership).0 != self.plan.ambush {
            return;
        }
        let lead = |set: Members| set.without(membership.suspects()).first();
        let all = membership.roster().all();
        let shard = membership.shards.last().map_or(all, |shard| shard.members);
        let target = if of == 0 { lead(all) } else { lead(shard) }.unwrap_or_default();
        let target = membership.roster().members[target.index()].incarnation as usize - 1;
        let any = self.net.borrow_mut().dice.below(self.processes.len());
        if crash && self.spent[0] < self.plan.crashes {
            self.spent[0] += 1;
            self.crash(who);
        } else if self.spent[1] < self.plan.falsehoods {
            self.err(who, if of == 3 { any } else { target });
        }
    }

    /// A detector errs: about one, about two, or about the one that erred last.
    fn err(&mut self, who: usize, other: usize) {
        let choice = self.net.borrow_mut().dice.below(4);
        match self.duel {
            Some((by, of)) if choice < 2 => {
                self.duel = None;
                self.suspect(of, by, Fault::Lost);
                return;
            }
            _ => {}
        }
        if !self.suspect(who, other, Fault::Lost) {
            return;
        }
        self.spent[1] += 1;
        self.count("false suspicions", 1);
        self.duel = Some((who, other));
        if choice == 3 {
            let another = self.net.borrow_mut().dice.below(self.processes.len());
            self.suspect(who, another, Fault::Lost);
        }
    }

    /// One of the things that happen to groups, as far as the plan allows.
    fn fault(&mut self, who: usize, other: usize) -> Result<(), Broken> {
        let net = self.net.clone();
        let kind = net.borrow_mut().dice.below(12);
        let here = self.up(who).map(|up| (stage(&up.membership), up.membership.leader()));
        let (stage, leads) = here.map_or((0, false), |((stage, _), leader)| {
            (stage, leader == self.up(who).expect("up").membership.me())
        });
        let now = self.plan.ambush == 8 || stage == self.plan.ambush;
        match kind {
            0 | 1 if self.spent[0] < self.plan.crashes && now && (kind == 0 || leads) => {
                self.spent[0] += 1;
                self.crash(who);
            }
            2 if self.spent[1] < self.plan.falsehoods && now => self.err(who, other),
            3 if self.spent[2] < self.plan.cuts && who != other => {
                self.spent[2] += 1;
                self.count("links cut", 1);
                net.borrow_mut().cut(other, who);
                self.note(|| format!("link {other} -> {who} is cut"));
            }
            4 if self.spent[3] < self.plan.leaves => {
                self.spent[3] += 1;
                self.oracle.leavers.insert(who);
                let Phase::Up(up) = &mut self.processes[who] else { return Ok(()) };
                up.membership.ask_to_leave();
                self.note(|| format!("{who} asks to leave"));
            }
            5 | 6 => (0..self.processes.len()).for_each(|other| self.ask(other, who)),
            7 | 8 => self.sponsor(other)?,
            _ => {
                // A detector that is right.
                if self.is_gone(other) || net.borrow_mut().is_cut(other, who) {
                    self.suspect(who, other, Fault::Lost);
                }
            }
        }
        Ok(())
    }

    fn is_gone(&self, who: usize) -> bool {
        matches!(self.processes[who], Phase::Crashed | Phase::Stopped)
    }

    pub fn crash(&mut self, victim: usize) {
        let Some(up) = self.up(victim) else { return };
        let membership = &up.membership;
        let role = if membership.leader() == membership.me() { "leader" } else { "member" };
        let key = format!("crash of a {role} {}", stage(membership).1);
        self.count(&key, 1);
        self.note(|| format!("{victim} crashes"));
        self.net.borrow_mut().crash(victim);
        self.processes[victim] = Phase::Crashed;
    }

    /// A detector of `who` reports `other`, if both are in its view.
    fn suspect(&mut self, who: usize, other: usize, fault: Fault) -> bool {
        let Phase::Up(up) = &mut self.processes[who] else { return false };
        let members = up.membership.roster().members.iter();
        let rank = members.zip(0..).find(|(member, _)| member.incarnation as usize == other + 1);
        let Some((_, rank)) = rank.filter(|_| other != who) else { return false };
        up.heard.push(Suspicion { rank: Rank(rank), fault });
        self.dirty[who] = true;
        self.note(|| format!("{who} is told that {other} is lost"));
        true
    }

    /// A process that is not a member asks one to join.
    pub fn ask(&mut self, other: usize, who: usize) {
        if matches!(self.processes[other], Phase::Unborn | Phase::Asking) {
            self.processes[other] = Phase::Asking;
            let Phase::Up(up) = &mut self.processes[who] else { return };
            let incarnation = other as u64 + 1;
            up.membership.ask_to_join(Request { incarnation, address: Address::default() });
        }
    }

    /// A process that was joined starts from the row of a member that has installed the view.
    pub fn sponsor(&mut self, joiner: usize) -> Result<(), Broken> {
        if !matches!(self.processes[joiner], Phase::Asking) {
            return Ok(());
        }
        let sponsors = self.all_up().into_iter().filter_map(|who| {
            let membership = &self.up(who)?.membership;
            let roster = membership.roster();
            let at = roster.members.iter().position(|m| m.incarnation as usize == joiner + 1)?;
            let believed = !membership.suspects().contains(Rank(at as u16));
            (believed && !membership.has_passed()).then_some((who, at))
        });
        let sponsors: Vec<(usize, usize)> = sponsors.collect();
        if sponsors.is_empty() {
            return Ok(());
        }
        let (who, at) = self.net.borrow_mut().dice.pick(&sponsors);
        let membership = &self.up(who).expect("it is up").membership;
        let roster = Roster { me: Rank(at as u16), ..membership.roster().clone() };
        let carry = membership.carry();
        self.count("joiners started", 1);
        self.enter(joiner, roster, carry)
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
            let Post::Words { to, at: byte, values, len } = post else { unreachable!() };
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

    /// The faults end: what is in flight lands, detectors report whoever is gone or unreachable,
    /// nobody else. Then all who are left must agree and be at rest.
    pub fn settle(&mut self) -> Result<(), Broken> {
        let must = self.survivors_at_least();
        self.net.borrow_mut().heal();
        self.plan.full = 0;
        let mut still = 0;
        for round in 0..ROUNDS {
            self.net.borrow_mut().land_all();
            self.net.borrow_mut().step += 1;
            let mut busy = false;
            for who in self.all_up() {
                self.detect(who, round);
                self.turn(who)?;
                busy |= self.up(who).is_none_or(|up| up.decision.busy);
            }
            for joiner in 0..self.processes.len() {
                if let Phase::Asking = self.processes[joiner] {
                    let leader = self.all_up().into_iter().find(|who| {
                        let membership = &self.up(*who).expect("up").membership;
                        membership.leader() == membership.me()
                    });
                    leader.into_iter().for_each(|leader| self.ask(joiner, leader));
                    self.sponsor(joiner)?;
                }
            }
            still = if busy || !self.is_at_rest() { 0 } else { still + 1 };
            if still == 8 {
                return self.judge_survivors(&must);
            }
        }
        let stuck = self.all_up().into_iter().map(|who| {
            let membership = &self.up(who).expect("up").membership;
            format!("\n  {who}: {membership}")
        });
        Err(format!("stuck:{}", stuck.collect::<String>()))
    }

    fn detect(&mut self, who: usize, round: usize) {
        for other in 0..self.processes.len() {
            let (gone, cut) = (self.is_gone(other), self.net.borrow_mut().is_cut(other, who));
            // Who was cut off hears nothing any more.
            let shunned = self.shuns(other, who) || self.net.borrow_mut().is_cut(who, other);
            let rounds = &mut self.silent[who * self.processes.len() + other];
            *rounds = if shunned { *rounds + 1 } else { 0 };
            let dumb = *rounds > 20;
            let silent = round > 40 && matches!(self.processes[other], Phase::Unborn);
            let silence = Fault::Silent { for_ns: Nanos(1) };
            if other != who && (gone || cut || dumb || silent) {
                self.suspect(who, other, if gone || cut { Fault::Lost } else { silence });
            }
        }
    }

    fn shuns(&self, other: usize, who: usize) -> bool {
        let (Some(up), Some(mine)) = (self.up(other), self.up(who)) else { return false };
        let ahead = up.membership.roster().epoch > mine.membership.roster().epoch;
        let mut members = up.membership.roster().members.iter();
        let rank = members.position(|member| member.incarnation as usize == who + 1);
        rank.map_or(ahead, |rank| up.membership.suspects().contains(Rank(rank as u16)))
    }

    fn is_at_rest(&self) -> bool {
        let up = self.all_up();
        up.iter().all(|who| {
            let membership = &self.up(*who).expect("up").membership;
            let members = membership.roster().members.iter();
            let members: Vec<usize> = members.map(|m| m.incarnation as usize - 1).collect();
            members.len() == up.len()
                && up.iter().all(|other| members.contains(other))
                && membership.suspects().is_empty()
                && membership.changes().is_empty()
                && !membership.is_wedged()
        })
    }

    /// Those who must survive: up, never suspected, on no broken link, not leaving; if they are a
    /// majority of every view that any of them can be in.
    fn survivors_at_least(&mut self) -> Vec<usize> {
        let n = self.processes.len();
        let mut net = self.net.borrow_mut();
        let whole = |who: usize, net: &mut Net| {
            (0..n).all(|other| {
                let fine = |net: &mut Net| !net.is_cut(other, who) && !net.is_cut(who, other);
                other == who || self.is_gone(other) || fine(net)
            })
        };
        let fine: Vec<usize> = (0..n)
            .filter(|who| self.up(*who).is_some_and(|up| up.heard.is_empty()))
            .filter(|who| !self.oracle.suspected.contains(who))
            .filter(|who| !self.oracle.leavers.contains(who) && whole(*who, &mut net))
            .collect();
        let hears = |who: usize| self.up(who).is_some_and(|up| !up.heard.is_empty());
        let others = (self.plan.founders..n).filter(|who| !fine.contains(who));
        let others: Vec<usize> = others.collect();
        let epochs = fine.iter().map(|who| self.up(*who).unwrap().membership.roster().epoch.0);
        let Some(first) = epochs.min() else { return Vec::new() };
        let enough = self.oracle.views.range(first..).all(|(_, view)| {
            let strangers = others.iter().filter(|other| !view.contains(other)).count();
            let mine = fine.iter().filter(|who| view.contains(who)).count();
            2 * mine > view.len() + strangers
        });
        if enough && !(0..n).any(hears) { fine } else { Vec::new() }
    }

    fn judge_survivors(&mut self, must: &[usize]) -> Result<(), Broken> {
        let up = self.all_up();
        if let Some(lost) = must.iter().find(|who| !up.contains(who)) {
            return Err(format!("progress: {lost} did not survive; of {must:?} {up:?} did"));
        }
        self.count("runs that had to survive", u64::from(!must.is_empty()));
        self.count("runs that survived", u64::from(!up.is_empty()));
        self.count("members that had to survive", must.len() as u64);
        Ok(())
    }
}

/// Where a member stands, for ambushes and the coverage table.
pub fn stage(membership: &Membership) -> (usize, &'static str) {
    let own = membership.own();
    let decided = own.list.first_end().is_some_and(|end| own.agreed >= end);
    let steps = [
        (false, "0 at rest"),
        (!own.suspects.is_empty(), "1 suspecting"),
        (own.wedged, "2 wedged"),
        (!own.list.changes.is_empty(), "3 proposed"),
        (decided, "4 agreed"),
        (own.shards.iter().any(|shard| shard.ready), "5 with a cut"),
        (own.ended, "6 ended"),
        (membership.has_passed(), "7 passed"),
    ];
    let mut reached = steps.into_iter().enumerate().rev().filter(|(_, (here, _))| *here);
    reached.next().map_or((0, "0 at rest"), |(at, (_, name))| (at, name))
}

impl std::fmt::Display for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let members: Vec<u64> =
            self.roster.members.iter().map(|member| member.incarnation - 1).collect();
        write!(f, "epoch {} {members:?} {}", self.roster.epoch.0, stage(self).1)?;
        let show = |f: &mut std::fmt::Formatter<'_>, row: &super::row::Row| {
            let list: &[Change] = &row.list.changes;
            let suspects: Vec<u16> = row.suspects.iter().map(|rank| rank.0).collect();
            let (wedged, ended, installed) = (row.wedged, row.ended, row.installed.0);
            write!(f, "\n      suspects {suspects:?} ballot {} agreed {}", row.list.ballot, row.agreed)?;
            write!(f, " wedged {wedged} ended {ended} installed {installed} {list:?}")
        };
        self.rows.iter().try_for_each(|row| show(f, row))
    }
}
