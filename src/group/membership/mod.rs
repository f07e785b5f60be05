// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is in the group: suspicion, agreement on the changes, and the way to the next view.
//!
//! One value per member and epoch; pure, like the engine: rows in, decisions and own cells out.
//! Suspicion is an input (detectors and their mercy for one's own pauses belong to the driver).
//! Rules R1–R7 are those of the exhaustively searched model; they stand where they are obeyed.
//!
//! V1  Suspicion is viral and never taken back. A suspect's row is frozen here at once, and nothing
//!     is posted to it (`row.rs`).
//! V2  Only a strict majority of the view goes on; every other member stops, and says so.
//! V3  What a majority has agreed to is never taken back, whoever leads (`leader.rs`).
//! V4  Barriers wait for every member whose removal is not agreed, suspects too (`trim.rs`).
//! V5  A trim is computed once, echoed by all before anyone acts on it, and never computed anew.
//! V6  A member acts on what it has published in an earlier poll, never on what it will say.
//!
//! The steps of a view change, by the names that the statistics and the model use: *suspect* or
//! *ask*, *propose*, *agree*; *wedge*, *cut*, *echo*, *deliver*, *end*; *pass*, *install*.
//!
//! Cost: a quiet poll is one load per other member (`cold`) and nothing else. Only a view change
//! allocates.

mod before;
pub mod changes;
mod courier;
mod leader;
pub mod roster;
mod row;
pub mod stage;
mod trim;

#[cfg(all(test, not(loom)))]
mod explorer;
#[cfg(all(test, not(loom)))]
mod tests;

use super::multicast::ahead::Ahead;
use super::view::Subgroup;
use crate::base::{Members, Nanos, Posting, Rank, Versions};
use crate::error::{Fault, Status, Suspicion};
use crate::mutant;
use crate::sst::Table;
use crate::sst::layout::{Layout, RECORD_WORDS, RECORDS_MAX};
use before::Before;
use changes::{Change, List, Record};
use courier::Courier;
use roster::{Address, Roster, is_majority};
use row::{Row, Shard};
use trim::Trim;

/// What the user may choose.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// In a view of two, rank 0 goes on alone. It is not safe against a broken link between two
    /// living members in the sense that both believe the other failed; only one of them stops.
    pub tie_break: bool,
    pub posting: Posting,
}

/// What a member brings into a view (R1): nothing is reset but the rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Carry {
    pub list: List,
    pub agreed: u64,
    /// By rank of the view that begins.
    pub suspects: Members,
    /// Of lanes in *received* mode. Who joins with the state of a member has that one's; without, none.
    pub ahead: Vec<Ahead>,
}

impl Carry {
    pub fn first(roster: &Roster) -> Carry {
        let list = List { base: roster.base, ballot: 0, changes: Vec::new() };
        Carry { agreed: list.base, list, suspects: Members::NONE, ahead: Vec::new() }
    }

    /// Whether a member of that view can begin with it. A joiner that has it from its sponsor asks.
    pub fn is_sound(&self, roster: &Roster) -> bool {
        let (list, me) = (&self.list, roster.me);
        let mut again = List { base: roster.base, ballot: 0, changes: Vec::new() };
        let ballot = Record::Ballot { at: roster.base, ballot: list.ballot };
        let changes = list.changes.iter().zip(roster.base..);
        list.base == roster.base
            && list.changes.len() < RECORDS_MAX
            && again.apply(ballot, roster.base, true, roster)
            && changes.into_iter().all(|(&change, at)| {
                again.apply(Record::Change { at, change }, roster.base, false, roster)
            })
            && list.is_whole()
            && (list.base..=list.upto()).contains(&self.agreed)
            && roster.all().covers(self.suspects)
            && !self.suspects.contains(me)
            && !list.removes(roster.seniority(me), list.upto())
            && Ahead::are_sound(&self.ahead, roster)
    }
}

/// Why a member takes no more part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// Another member suspects this one.
    Expelled { by: Rank },
    /// The members that are not suspected are no majority of the view.
    Partitioned { suspects: Members },
    /// It asked to leave, and the next view is without it.
    Left,
    /// Its journal is full: too many leaders failed in one view change (`RECORDS_MAX`).
    Exhausted,
}

impl Stop {
    pub fn status(self) -> Status {
        match self {
            Stop::Expelled { .. } => Status::Expelled,
            Stop::Partitioned { .. } => Status::Partitioned,
            Stop::Left => Status::Left,
            Stop::Exhausted => Status::Exhausted,
        }
    }
}

/// The next view and what this member brings into it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Install {
    pub roster: Roster,
    pub carry: Carry,
    /// Ranks of the new view that were not in the old one.
    pub joined: Members,
    /// Ranks of the old view that are not in the new one.
    pub gone: Members,
}

/// What one poll asks of the world, in the order of the fields.
#[derive(Default, Debug)]
pub struct Decision {
    /// New suspicions, with their reasons.
    pub suspicions: Vec<Suspicion>,
    /// Receive nothing more in this view, deliver nothing beyond what is stable now (in *received*
    /// mode, what is received), and say `receipt` for each subgroup of mine.
    pub wedge: bool,
    /// Subgroups whose old view is to be delivered up to `Membership::cut`, no further; then say
    /// `cut_delivered`.
    pub deliver: Vec<usize>,
    /// The old view is over: its last message was delivered everywhere. This value is spent.
    pub install: Option<Install>,
    pub stopped: Option<Stop>,
    /// Peers that may write no more.
    pub revoke: Members,
    /// Whether anything was new: poll again soon.
    pub busy: bool,
}

impl Decision {
    fn clear(&mut self) {
        self.suspicions.clear();
        self.deliver.clear();
        self.install = None;
        self.stopped = None;
        (self.wedge, self.revoke, self.busy) = (false, Members::NONE, false);
    }
}

/// When the steps of this view's end were first reached; 0 is not yet.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Timings {
    pub suspected: Nanos,
    pub wedged: Nanos,
    pub agreed: Nanos,
    pub echoed: Nanos,
    pub ended: Nanos,
    pub passed: Nanos,
}

/// A process that asks to become a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    pub incarnation: u64,
    pub address: Address,
    /// One that does not speak the view's version is not proposed (L4).
    pub versions: Versions,
}

pub struct Membership {
    roster: Roster,
    options: Options,
    shards: Vec<Shard>,
    /// By rank; mine is what I publish, possibly not yet published.
    rows: Vec<Row>,
    /// Mine, as `rows[me].list` came about.
    journal: Vec<[u64; RECORD_WORDS]>,
    /// As `shards`.
    trims: Vec<Trim>,
    requests: Vec<Request>,
    /// What I began with, for those who join with my state.
    ahead: Vec<Ahead>,
    courier: Courier,
    before: Option<Before>,
    /// Whom to suspect from the beginning of the next view.
    late: Members,
    frozen: bool,
    /// A suspicion was added since the majority was last counted.
    uncounted: bool,
    stopped: Option<Stop>,
    timings: Timings,
}

impl Membership {
    /// Begins a view and publishes my row of it. `table` is fresh: nothing of mine is in it.
    pub fn new(
        roster: Roster,
        subgroups: &[Subgroup],
        carry: Carry,
        options: Options,
        table: &mut Table,
    ) -> Membership {
        assert!(table.me() == roster.me && table.members() == roster.len());
        assert_eq!(carry.list.base, roster.base);
        let shards = shards_of(&roster, subgroups, &table.layout);
        let mut rows = vec![Row::new(roster.base, shards.len()); roster.len()];
        let own = &mut rows[roster.me.index()];
        own.installed = roster.epoch;
        own.suspects = carry.suspects;
        own.agreed = carry.agreed;
        let ballot = Record::Ballot { at: roster.base, ballot: carry.list.ballot };
        let mut journal = vec![ballot.words()];
        journal.extend(records(&carry.list, roster.base));
        own.list = carry.list;
        let peers = roster.all().without(Members::from_ranks([roster.me]));
        let subgroups = shards.iter().map(|shard| shard.subgroup).collect();
        let mine =
            |of: &Ahead| shards.iter().any(|shard| shard.subgroup == usize::from(of.subgroup));
        let ahead = carry.ahead.into_iter().filter(mine).collect();
        let mut courier = Courier::new(peers, subgroups);
        // Whoever was suspect before the view is so in it: it is told, and nobody waits for it (V1).
        rows[roster.me.index()].suspects.iter().for_each(|rank| courier.forget(rank));
        let mut membership = Membership {
            options,
            rows,
            journal,
            trims: vec![Trim::default(); shards.len()],
            shards,
            requests: Vec::new(),
            ahead,
            courier,
            before: None,
            late: Members::NONE,
            frozen: false,
            uncounted: true,
            stopped: None,
            timings: Timings::default(),
            roster,
        };
        membership.publish(table);
        membership
    }

    /// One bounded turn's decisions. `suspicions`: what the detectors and the application believe.
    pub fn poll(
        &mut self,
        now: Nanos,
        table: &mut Table,
        suspicions: &[Suspicion],
        decision: &mut Decision,
    ) {
        decision.clear();
        if self.stopped.is_some() {
            decision.stopped = self.stopped;
            return;
        }
        let outcome = if self.has_passed() {
            self.hear_late(suspicions, decision);
            self.install(decision)
        } else {
            self.go_on(now, table, suspicions, decision)
        };
        if let Err(stop) = outcome {
            // Whoever stops says nothing more: its last words are those of its last poll.
            self.stopped = Some(stop);
            decision.stopped = self.stopped;
            decision.deliver.clear();
            decision.wedge = false;
            return;
        }
        if !self.has_passed() || self.courier.owes_passing() {
            decision.busy |= self.publish(table);
        }
    }

    fn go_on(
        &mut self,
        now: Nanos,
        table: &Table,
        suspicions: &[Suspicion],
        decision: &mut Decision,
    ) -> Result<(), Stop> {
        self.look(table, decision)?;
        self.hear(suspicions, decision);
        self.count()?;
        if self.is_quiet() {
            return Ok(());
        }
        self.follow(decision)?;
        self.lead(decision)?;
        self.wedge(decision);
        for at in 0..self.shards.len() {
            self.trim(at, decision)?;
        }
        self.count()?;
        self.end();
        self.pass();
        self.note(now);
        Ok(())
    }

    /// Observes every row that has moved, in the order of the ranks. A suspicion takes effect at
    /// once, so that of two members who suspect each other only one is believed here.
    fn look(&mut self, table: &Table, decision: &mut Decision) -> Result<(), Stop> {
        let me = self.me();
        for rank in self.roster.all().iter() {
            if rank == me || self.suspects().contains(rank) {
                continue;
            }
            let row = &mut self.rows[rank.index()];
            match row.look(rank, table, &self.roster, &self.shards) {
                Ok(false) => continue,
                Err(fault) => self.suspect(rank, fault, decision),
                Ok(true) => {
                    decision.busy = true;
                    let reported = self.rows[rank.index()].suspects;
                    let removes = |row: &Row| row.list.removes(self.seniority(), row.list.upto());
                    if mutant!("view-expelled-goes-on") {
                        continue;
                    }
                    if reported.contains(me) || removes(&self.rows[rank.index()]) {
                        return Err(Stop::Expelled { by: rank });
                    }
                    for other in
                        reported.iter().filter(|_| !mutant!("view-suspicions-stay-private"))
                    {
                        self.suspect(other, Fault::Reported { by: rank }, decision);
                    }
                }
            }
        }
        Ok(())
    }

    /// What the detectors say; after a look, so that what has landed is not lost.
    fn hear(&mut self, suspicions: &[Suspicion], decision: &mut Decision) {
        for suspicion in suspicions {
            let passed = self.rows[suspicion.rank.index()].installed > self.roster.epoch;
            match suspicion.fault {
                // Who has passed on moves nothing here, and nobody has to wait for it.
                Fault::Silent { .. } | Fault::Lag { .. } if passed => {}
                // I have ended, and go with what it said last: who has left may be gone by now.
                Fault::Lost { .. } | Fault::Left { .. }
                    if passed && self.courier.has_ended() && !mutant!("view-passed-is-lost") =>
                {
                    self.courier.release(suspicion.rank);
                }
                fault => self.suspect(suspicion.rank, fault, decision),
            }
        }
    }

    /// V1 once I have passed: my row says nothing more here, so nobody is cut off without a word. Who is
    /// gone may have left, and its row is not looked at any more; of a member of the next view I hear
    /// there again, by a connection that has ended or by silence. What is reported waits for that view.
    fn hear_late(&mut self, suspicions: &[Suspicion], decision: &mut Decision) {
        if mutant!("view-passed-suspects") {
            return self.hear(suspicions, decision);
        }
        for &suspicion in suspicions {
            let Suspicion { rank, fault } = suspicion;
            match fault {
                Fault::Lost { .. } | Fault::Left { .. } => self.courier.release(rank),
                // Nobody waits for one that takes nothing.
                Fault::Silent { .. } | Fault::Lag { .. } if self.courier.owes_it(rank) => {
                    self.suspect(rank, fault, decision);
                }
                Fault::Silent { .. } | Fault::Lag { .. } => {}
                _ => {
                    self.late.insert(rank);
                    decision.suspicions.push(suspicion);
                }
            }
        }
    }

    /// V1. My own rank is nobody's to suspect here: who hears of such a belief stops.
    fn suspect(&mut self, rank: Rank, fault: Fault, decision: &mut Decision) {
        let is_peer = rank != self.me() && rank.index() < self.rows.len();
        assert!(is_peer, "a peer of this view: {rank:?}, {fault:?}");
        if self.suspects().contains(rank) {
            return;
        }
        self.own_mut().suspects.insert(rank);
        self.courier.forget(rank);
        self.uncounted = true;
        decision.suspicions.push(Suspicion { rank, fault });
        decision.revoke.insert(rank);
        decision.busy = true;
    }

    /// V2.
    fn count(&mut self) -> Result<(), Stop> {
        if !self.uncounted || mutant!("view-majority-untested") {
            return Ok(());
        }
        self.uncounted = false;
        let suspects = self.suspects();
        let all = self.roster.all();
        let whole = all.len();
        if is_majority(all.without(suspects).len(), whole) || self.breaks_the_tie() {
            return Ok(());
        }
        match self.expelled_before() {
            Some(by) => Err(Stop::Expelled { by }),
            None => Err(Stop::Partitioned { suspects }),
        }
    }

    /// Of two members the first goes on alone, if the user wants that. Only where no majority of a
    /// neighbouring view can do without it: the other one was seen in this view, so it is not
    /// agreeing to anything in the one before, and it cannot be in a next view that outvotes me.
    fn breaks_the_tie(&self) -> bool {
        let next = self.roster.after(self.own().list.first_batch());
        let first = next.first().map(|member| member.seniority);
        let outvoted = self.own().ended && (next.len() > 2 || first != Some(self.seniority()));
        self.options.tie_break
            && self.roster.len() == 2
            && self.me() == Rank(0)
            && self.rows[1].is_here()
            && !outvoted
    }

    /// Nothing to do but wait: nobody suspected, nothing proposed or asked for, and I follow the
    /// leader that there is.
    fn is_quiet(&self) -> bool {
        let own = self.own();
        let leader = self.leader();
        let asked = !self.requests.is_empty() || self.rows.iter().any(|row| row.leaving);
        let follows = own.list.ballot == self.roster.seniority(leader)
            && self.rows[leader.index()].list.upto() == own.list.base
            && own.list.upto() == own.list.base;
        own.suspects.is_empty() && follows && !(asked && leader == self.me())
    }

    /// Whether the last poll left nothing to be done or said, but for what others' rows bring.
    #[inline]
    pub fn is_still(&self) -> bool {
        !self.frozen && !self.courier.owes_anyone()
    }

    /// Whether a row that I look at has moved. Keeps nothing of what it sees.
    #[inline]
    pub fn has_news(&self, table: &Table) -> bool {
        if self.stopped.is_some() || self.has_passed() {
            return false;
        }
        let peers = self.roster.all().without(self.suspects()).iter();
        let moved = |rank: Rank| {
            table.observe(rank, table.layout.cold, 0) != self.rows[rank.index()].cold()
        };
        peers.filter(|rank| *rank != self.me()).any(moved)
    }

    /// Whether peers but `full` are still to be told something.
    pub fn owes(&self, full: Members) -> bool {
        self.courier.owes(full)
    }

    /// A process asks to join. Only a leader's requests are proposed: tell `leader` of others. A
    /// wish lasts as long as the view: whoever is not in the next one asks again there. Whoever cannot
    /// be in it (`Roster::takes`) is ignored.
    pub fn ask_to_join(&mut self, request: Request) {
        assert!(request.incarnation != 0);
        let known = |member: &roster::Member| member.incarnation == request.incarnation;
        let member = self.roster.members.iter().any(known) && !mutant!("view-member-joins-again");
        if !member && self.roster.takes(request.versions) {
            self.requests.retain(|other| other.incarnation != request.incarnation);
            self.requests.push(request);
        }
    }

    /// This member asks to be left out of the next view. It takes part until that is installed.
    pub fn ask_to_leave(&mut self) {
        self.own_mut().leaving = true;
    }

    /// What a process that has joined this view starts from.
    pub fn carry(&self) -> Carry {
        let own = self.own();
        let (list, ahead) = (own.list.clone(), self.ahead.clone());
        Carry { list, agreed: own.agreed, suspects: own.suspects, ahead }
    }

    pub fn me(&self) -> Rank {
        self.roster.me
    }

    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// The lowest rank that I do not suspect.
    pub fn leader(&self) -> Rank {
        self.roster.all().without(self.suspects()).first().expect("I do not suspect myself")
    }

    pub fn suspects(&self) -> Members {
        self.own().suspects
    }

    /// How many changes of the group's life are agreed, as far as I know.
    pub fn agreed(&self) -> u64 {
        self.own().agreed
    }

    /// The changes beyond my view that I know, agreed or not.
    pub fn changes(&self) -> &[Change] {
        &self.own().list.changes
    }

    pub fn timings(&self) -> Timings {
        self.timings
    }

    pub fn stopped(&self) -> Option<Stop> {
        self.stopped
    }

    fn seniority(&self) -> u64 {
        self.roster.seniority(self.me())
    }

    fn own(&self) -> &Row {
        &self.rows[self.roster.me.index()]
    }

    fn own_mut(&mut self) -> &mut Row {
        &mut self.rows[self.roster.me.index()]
    }

    fn note(&mut self, now: Nanos) {
        let own = &self.rows[self.roster.me.index()];
        let agreed = own.list.first_end().is_some_and(|end| own.agreed >= end);
        let echoed = own.shards.iter().all(|mine| mine.ready);
        let t = &mut self.timings;
        for (reached, at) in [
            (!own.suspects.is_empty(), &mut t.suspected),
            (own.wedged, &mut t.wedged),
            (agreed, &mut t.agreed),
            (agreed && echoed, &mut t.echoed),
            (own.ended, &mut t.ended),
            (own.installed != self.roster.epoch, &mut t.passed),
        ] {
            if reached && at.0 == 0 {
                *at = now;
            }
        }
    }
}

/// My subgroups, as the trim sees them.
fn shards_of(roster: &Roster, subgroups: &[Subgroup], layout: &Layout) -> Vec<Shard> {
    let all = subgroups.iter().enumerate().filter(|(_, subgroup)| subgroup.has(roster.me));
    all.map(|(at, subgroup)| Shard {
        subgroup: at,
        members: Members::from_ranks(subgroup.members.iter().copied()),
        senders: subgroup.senders.len(),
        columns: layout.subgroups[at].clone(),
    })
    .collect()
}

/// A list's records from a position on.
fn records(list: &List, from: u64) -> impl Iterator<Item = [u64; RECORD_WORDS]> + '_ {
    let changes = list.changes.iter().zip(list.base..).skip((from - list.base) as usize);
    changes.map(|(&change, at)| Record::Change { at, change }.words())
}
