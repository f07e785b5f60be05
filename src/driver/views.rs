// SPDX-License-Identifier: MIT OR Apache-2.0
//! From one view to the next: memory for it, shown and seen in time, and the member put together
//! anew.
//!
//! An engine is one view. While it runs, memory for the next one is made when there is nothing else
//! to do, and shown to the others, at the latest when the view is frozen. Its `Install` says who
//! follows; then this member is *building*, until it has the memory of all of them. Turns go on
//! meanwhile: they look at connections, and deliver nothing.
//!
//! I1  A member enters a view only after it has shown its memory of it to all other members.
//! I2  For one whose connection has ended before it showed anything, zeros stand in: what a member
//!     shows that died before its first word. The new engine is told of it at once.
//! I3  What lanes keep is sent again before anything new in them (`lane`).
//! I4  Where the application places members, a member shows what its policy has answered before it
//!     enters a view, and enters it only with those that show the same, a majority; else it stops.
//!     Zeros stand in for the others: what they would write has another layout.

mod blame;
mod info;

use super::assembly::{Assembly, assemble, prologue};
use super::clock;
use super::control::Wishes;
use super::letter::{Ask, Letter, refusal};
use super::policy::{Policy, reads, sends, shown};
use super::shortage::Shortage;
use super::spare::Spare;
use super::state::cover::Subgroups;
use super::stats::Steps;
use super::watch::Detectors;
use crate::base::{Epoch, Members, Nanos, Peer, Posting, Rank};
use crate::error::{Error, Fault, Status, Suspicion};
use crate::fabric::{Exchange, Memory, Shown, Sizes};
use crate::group::detector::lag::Lag;
use crate::group::membership::changes::{Change, What};
use crate::group::membership::roster::{Address, Member, Roster};
use crate::group::membership::{Carry, Install, Options, Request, Timings};
use crate::group::multicast::ahead::Ahead;
use crate::group::policy::Plan;
use crate::group::view::View;
use crate::limits::MEMBERS_MAX;
use crate::mem::Region;
use crate::mutant;
use crate::sst::layout::Layout;
pub use info::{MemberInfo, ViewInfo};
use info::{info_of, say_version};
use std::sync::Arc;

/// What a member needs beyond one view.
pub struct Views {
    policy: Policy,
    sizes: (usize, Vec<usize>),
    /// For the views that follow.
    pub options: Options,
    suspicion_ns: u64,
    pub detectors: Detectors,
    roster: Roster,
    view: View,
    /// By rank.
    blocks: Vec<Arc<Region>>,
    /// By rank; mine: `None`.
    peers: Vec<Option<Peer>>,
    /// Memory of the next epoch is made, and shown to whom I do not suspect.
    pub ready: bool,
    pub spare: Spare,
    pub shortage: Shortage,
    building: Option<Building>,
    /// The view that the application has not been told of.
    pub untold: Option<ViewInfo>,
    /// Who asks to be joined.
    asking: Vec<Asking>,
    /// Incarnations that were handed to the membership in this view.
    handed: Vec<u64>,
    /// Why somebody is suspect in this view.
    faults: Vec<Suspicion>,
    pub changes: u64,
    /// The last change, as this member went through it.
    pub last: Steps,
}

struct Asking {
    peer: Peer,
    incarnation: u64,
    ask: Ask,
}

struct Building {
    install: Install,
    view: View,
    plan: Plan,
    /// What all must show of the plan (I4).
    shows: Option<u64>,
    layout: Arc<Layout>,
    /// By rank.
    memories: Vec<Option<Memory>>,
    peers: Vec<Option<Peer>>,
    /// Zeros stand in for these.
    never: Vec<Suspicion>,
    since: Nanos,
    /// The same on the detectors' watch.
    mark: u64,
    timings: Timings,
}

impl Views {
    /// The first view.
    pub fn new(
        policy: Policy,
        (roster, view): (Roster, View),
        suspicion_ns: u64,
        lags: &[Lag],
        exchange: &dyn Exchange,
        blocks: Vec<Arc<Region>>,
    ) -> Views {
        let joined = (0..roster.len() as u16).collect();
        let untold = Some(info_of(&roster, &view, joined, Vec::new()));
        Views {
            peers: peers_of(&roster, exchange),
            sizes: policy.sizes(),
            policy,
            view,
            options: Options::default(),
            suspicion_ns,
            detectors: Detectors::new(suspicion_ns, lags, Wishes::new(), clock()),
            roster,
            blocks,
            ready: false,
            spare: Spare::default(),
            shortage: Shortage::default(),
            building: None,
            untold,
            asking: Vec::new(),
            handed: Vec::new(),
            faults: Vec::new(),
            changes: 0,
            last: Steps::default(),
        }
    }

    /// The connection of a rank.
    pub fn peer(&self, rank: Rank) -> Option<Peer> {
        self.peers[rank.index()]
    }

    pub fn is_building(&self) -> bool {
        self.building.is_some()
    }

    pub fn member(&self, rank: Rank) -> Member {
        self.roster.members[rank.index()]
    }

    /// Mine.
    pub fn incarnation(&self) -> u64 {
        self.member(self.roster.me).incarnation
    }

    pub fn members(&self) -> usize {
        self.roster.len()
    }

    /// Where I beat now, for long callbacks.
    pub fn beat(&self, beat_at: usize) {
        self.detectors.wishes.beat_in(&self.blocks[self.roster.me.index()], beat_at);
    }

    pub fn is_asked(&self) -> bool {
        !self.asking.is_empty()
    }

    /// Who has ended asks no more.
    pub fn forget_ended(&mut self, exchange: &dyn Exchange) {
        // A connection that has ended may be another process' by now.
        let its = |of: &Asking| exchange.incarnation(of.peer) == Some(of.incarnation);
        self.asking.retain(|of| its(of) && !exchange.has_ended(of.peer));
    }

    /// Somebody asks to be joined.
    pub fn asked(&mut self, peer: Peer, incarnation: u64, ask: Ask) {
        if self.roster.members.iter().any(|member| member.incarnation == incarnation) {
            return; // a word from before
        }
        self.asking.retain(|asking| asking.incarnation != incarnation);
        self.asking.push(Asking { peer, incarnation, ask });
    }

    /// Whom the leader may propose now: those that are connected to every member, and to each other
    /// if they may come together. Each is named once in a view.
    pub fn requests(&mut self, exchange: &mut dyn Exchange) -> Vec<Request> {
        self.forget_ended(exchange);
        let roster = &self.roster;
        let follows = |of: &Asking| roster.takes(of.ask.versions);
        for of in self.asking.iter().filter(|of| !follows(of)) {
            exchange.say(of.peer, &refusal(roster.wire()));
        }
        self.asking.retain(follows);
        let members = &self.roster.members;
        let mut requests = Vec::new();
        for asking in &self.asking {
            let knows = |of: &Asking, who: u64| of.ask.connected.contains(&who);
            let here = members.iter().all(|member| knows(asking, member.incarnation));
            let mutual = self.asking.iter().all(|other| {
                !self.handed.contains(&other.incarnation)
                    || knows(asking, other.incarnation) && knows(other, asking.incarnation)
            });
            if !self.handed.contains(&asking.incarnation) && here && mutual {
                self.handed.push(asking.incarnation);
                let address = Address { extra: asking.ask.seat, ..Address::default() };
                let (incarnation, versions) = (asking.incarnation, asking.ask.versions);
                requests.push(Request { incarnation, address, versions });
            }
        }
        requests
    }

    /// Makes my memory of the next view and shows it to all but `suspects`. Without memory there is
    /// no next view for this member; the error says what is missing.
    pub fn prepare(&mut self, suspects: Members, exchange: &mut dyn Exchange) -> Result<(), Error> {
        let next = Epoch(self.roster.epoch.0 + 1);
        let (me, incarnation) = (self.roster.me, self.member(self.roster.me).incarnation);
        let subgroups = sends(&self.view, me);
        let memory = self.spare.make_room(|| exchange.own(next, &subgroups))?;
        prologue(&memory.block, next, (0, incarnation)); // nobody knows yet at which version
        for rank in self.roster.all().without(suspects).iter() {
            if let Some(peer) = self.peers[rank.index()] {
                exchange.show(next, peer, &reads(&self.view, me, rank))?;
            }
        }
        self.ready = true;
        Ok(())
    }

    /// Maps what one more member has shown for the next view, if its place in it will be the same.
    pub fn foresee(&mut self, exchange: &mut dyn Exchange) -> Result<(), Error> {
        let (next, me) = (Epoch(self.roster.epoch.0 + 1), self.roster.me);
        for (rank, peer) in (0..).map(Rank).zip(&self.peers) {
            let Some(peer) = peer.filter(|peer| !self.spare.has(*peer, next)) else { continue };
            let sizes = shown(&self.view, rank, me, &self.sizes);
            let memory = match exchange.shown(peer, next, &sizes)? {
                Shown::Memory(memory) => Some(memory),
                Shown::Never => None,
                Shown::Waits => continue,
            };
            self.spare.keep(peer, next, memory);
            return Ok(());
        }
        exchange.shortage().map_or(Ok(()), Err)
    }

    /// The old view is over, and this one follows.
    pub fn begin(
        &mut self,
        install: Install,
        timings: Timings,
        now: Nanos,
        exchange: &mut dyn Exchange,
    ) -> Result<(), Error> {
        let roster = &install.roster;
        let peers = peers_of(roster, exchange);
        let (view, plan) = self.policy.view(roster)?;
        let subgroups = sends(&view, roster.me);
        let own = self.spare.make_room(|| exchange.own(roster.epoch, &subgroups))?;
        let incarnation = self.member(self.roster.me).incarnation;
        prologue(&own.block, roster.epoch, (roster.wire(), incarnation));
        let (shows, layout) = (self.policy.shows(&plan), Arc::new(view.layout()));
        if let Some(digest) = shows {
            own.block.cell(layout.digest_cell.byte(0)).publish(digest);
        }
        for (rank, peer) in (0..).map(Rank).zip(&peers) {
            if let Some(peer) = peer {
                exchange.show(roster.epoch, *peer, &reads(&view, roster.me, rank))?;
            }
        }
        let old = !install.joined.contains(roster.me);
        for rank in install.joined.iter().filter(|_| old) {
            if let Some(peer) = peers[rank.index()] {
                // Without a state it has had nothing.
                exchange.say(peer, &self.letter(&install, rank, Vec::new()));
            }
        }
        let (wishes, beat_at) = (&self.detectors.wishes, layout.beat.byte(0));
        match old {
            // Who joins looks nowhere else, and may be there long before me.
            true => wishes.beat_in_too(&own.block, beat_at),
            false => wishes.beat_in(&own.block, beat_at), // it is in no other view
        }
        let mut memories = vec![None; roster.len()];
        memories[roster.me.index()] = Some(own);
        let (never, since) = (Vec::new(), now);
        self.detectors.building.step(now);
        let mark = self.detectors.building.mark();
        self.building = Some(Building {
            install,
            view,
            plan,
            shows,
            layout,
            memories,
            peers,
            never,
            since,
            mark,
            timings,
        });
        Ok(())
    }

    /// What one that joins with this view must know, and what it has had.
    fn letter(&self, install: &Install, rank: Rank, ahead: Vec<Ahead>) -> Vec<u8> {
        let roster = Roster { me: rank, ..install.roster.clone() };
        let (carry, joined) = (Carry { ahead, ..install.carry.clone() }, install.joined);
        let assignment = self.policy.encode(&roster);
        Letter { roster, carry, joined, assignment }.encode()
    }

    /// While a view is built: it, and the letter of an incarnation that is in it and has my state of
    /// these subgroups.
    pub fn next(
        &self,
        joiner: u64,
        covers: Subgroups,
    ) -> Option<(&Roster, &View, Option<Vec<u8>>)> {
        let Building { install, view, .. } = self.building.as_ref()?;
        let mut members = install.roster.members.iter();
        let rank = members.position(|member| member.incarnation == joiner);
        let mut ahead = install.carry.ahead.clone();
        ahead.retain(|of| covers >> of.subgroup & 1 == 1);
        let letter = rank.map(|rank| self.letter(install, Rank(rank as u16), ahead));
        Some((&install.roster, view, letter))
    }

    /// The view at hand, until another one is entered.
    pub fn present(&self) -> (&Roster, &View) {
        (&self.roster, &self.view)
    }

    /// What would follow if that process joined now, whatever it speaks; `None`: no view could.
    pub fn foreseen(&self, joiner: u64) -> Option<(Roster, View)> {
        if self.roster.len() >= MEMBERS_MAX {
            return None;
        }
        let (address, versions) = (Address::default(), self.member(self.roster.me).versions);
        let what = What::Join { incarnation: joiner, address, versions };
        let roster = self.roster.next(&[Change { what, ends: true }])?;
        let view = self.policy.view(&roster).ok()?.0;
        Some((roster, view))
    }

    /// Takes what the others have shown; whether that is everything. An error: this process lacks
    /// something for it, or may not have the view (I4). Beats after each member's.
    pub fn gather(&mut self, now: Nanos, exchange: &mut dyn Exchange) -> Result<bool, Error> {
        let Some(building) = &mut self.building else { return Ok(false) };
        let roster = &building.install.roster;
        self.detectors.building.step(now);
        let waited = self.detectors.building.since(building.mark);
        let (mut whole, patience) = (true, self.suspicion_ns);
        let late = patience > 0 && waited > patience;
        for (rank, place) in (0..).map(Rank).zip(&mut building.memories) {
            if place.is_some() {
                continue;
            }
            let sizes = shown(&building.view, rank, roster.me, &self.sizes);
            let peer = building.peers[rank.index()];
            // Who joins made its memory before it knew in which epoch.
            let joins = building.install.joined.contains(rank);
            let epoch = if joins { Epoch(0) } else { roster.epoch };
            if let Some(peer) = peer.filter(|_| !joins && !mutant!("spare-not-used"))
                && let Some(memory) = self.spare.take(peer, epoch, &sizes)
            {
                *place = Some(memory);
                continue;
            }
            let suspect = building.install.carry.suspects.contains(rank);
            let shown = peer.map_or(Ok(Shown::Never), |peer| {
                self.spare.make_room(|| exchange.shown(peer, epoch, &sizes))
            });
            self.detectors.wishes.pulse();
            let fault = match shown {
                Ok(Shown::Memory(memory)) => {
                    *place = Some(memory);
                    continue;
                }
                Ok(Shown::Never) => Fault::Lost { also: Members::NONE },
                Ok(Shown::Waits) | Err(_) if suspect => Fault::Lost { also: Members::NONE },
                Err(mine) => return Err(mine),
                Ok(Shown::Waits) if late => Fault::Silent { for_ns: Nanos(waited) },
                Ok(Shown::Waits) => {
                    whole = false;
                    continue;
                }
            };
            *place = Some(self.spare.make_room(|| zeros(&sizes))?); // I2
            building.never.push(Suspicion { rank, fault });
        }
        let Some(mine) = building.shows.filter(|_| whole) else { return Ok(whole) };
        let ended = |rank: Rank| {
            building.peers[rank.index()].is_none_or(|peer| exchange.has_ended(peer))
                || building.install.carry.suspects.contains(rank)
        };
        let absent: Vec<Rank> = roster.all().iter().filter(|rank| ended(*rank)).collect();
        building.compare(mine, |rank| late || absent.contains(&rank), Nanos(waited), &self.sizes)
    }

    /// The connections of all in this view, and in the one that is built.
    pub fn everyone(&self) -> Vec<Peer> {
        let next = self.building.iter().flat_map(|building| &building.peers);
        self.peers.iter().chain(next).flatten().copied().collect()
    }

    /// Puts the member together in the view that `gather` has everything of.
    pub fn enter(&mut self, now: Nanos, fabric: &mut dyn crate::fabric::Fabric) -> Assembly {
        let Building {
            install, view, plan, layout, memories, peers, never, timings, since, ..
        } = self.building.take().expect("building");
        let memories: Vec<Memory> = memories.into_iter().flatten().collect();
        let blocks: Vec<Arc<Region>> = memories.iter().map(|memory| memory.block.clone()).collect();
        self.spare.begin(&memories);
        let Install { roster, carry, joined, gone } = install;
        let left = gone.iter().map(|rank| self.departed(rank)).collect();
        let joined = joined.iter().map(|rank| rank.0).collect();
        self.untold = Some(info_of(&roster, &view, joined, left));
        let exchange = fabric.exchange().expect("views change");
        exchange.enter(roster.epoch, roster.me, &peers, &blocks);
        exchange.speak(roster.wire());
        say_version(&self.roster, &roster);
        let options = Options { posting: Posting::All, ..self.options };
        let held = self.held_against(carry.suspects, &roster);
        let evolving = Some((roster.clone(), carry, options));
        let posting = fabric.posting();
        let mut assembly = assemble(view.clone(), &layout, &memories, posting, evolving);
        never.into_iter().for_each(|suspicion| assembly.engine.report(suspicion));
        let old = |member: &Member| {
            Some(self.blocks[self.roster.rank_of(member.seniority)?.index()].clone())
        };
        self.detectors.begin(roster.members.iter().map(old).collect());
        self.policy.adopt(&plan);
        self.faults = held;
        self.handed.clear();
        // Who has been joined asks no more, whatever becomes of it.
        let is_member = |who: u64| roster.members.iter().any(|member| member.incarnation == who);
        self.asking.retain(|asking| !is_member(asking.incarnation));
        (self.roster, self.peers, self.ready) = (roster, peers, false);
        (self.view, self.blocks) = (view, blocks);
        self.changes += 1;
        let Timings { suspected, wedged, agreed, echoed, ended, passed } = timings;
        self.last = Steps {
            suspected,
            wedged,
            agreed,
            echoed,
            ended,
            passed,
            installed: since,
            built: now,
            delivered: Nanos(0),
        };
        assembly
    }
}

impl Building {
    /// Whether everybody has shown what its policy answered: then whoever differs is none of us, and
    /// fails if we are a majority (I4).
    fn compare(
        &mut self,
        mine: u64,
        is_absent: impl Fn(Rank) -> bool,
        waited: Nanos,
        sizes: &(usize, Vec<usize>),
    ) -> Result<bool, Error> {
        let Building { install: Install { roster, .. }, layout, memories, never, .. } = self;
        let (mut same, mut others) = (1, Vec::new());
        for rank in roster.all().iter().filter(|rank| *rank != roster.me) {
            if never.iter().any(|suspicion| suspicion.rank == rank) {
                continue;
            }
            let memory = memories[rank.index()].as_ref().expect("it has been shown");
            let shown = memory.block.cell(layout.digest_cell.byte(0)).observe();
            match shown {
                _ if shown == mine => same += 1,
                0 if !is_absent(rank) => return Ok(false),
                0 => others.push(Suspicion { rank, fault: Fault::Silent { for_ns: waited } }),
                _ => others.push(Suspicion { rank, fault: Fault::Disagrees }),
            }
        }
        let differ = others.iter().filter(|suspicion| suspicion.fault == Fault::Disagrees).count();
        if differ > 0 && 2 * same <= roster.len() {
            let detail = format!(
                "the policy of {differ} other members places the {} of view {} otherwise, {same} are of \
                 my mind: it must be the same function of what it is given, at every member",
                roster.len(),
                roster.epoch.0
            );
            return Err(Error::new(Status::Mismatch, detail));
        }
        for suspicion in others {
            let sizes = shown(&self.view, suspicion.rank, self.install.roster.me, sizes);
            self.memories[suspicion.rank.index()] = Some(zeros(&sizes)?);
            self.never.push(suspicion);
        }
        Ok(true)
    }
}

fn peers_of(roster: &Roster, exchange: &dyn Exchange) -> Vec<Option<Peer>> {
    let peer = |(member, rank): (&Member, u16)| {
        if Rank(rank) == roster.me { None } else { exchange.peer(member.incarnation) }
    };
    roster.members.iter().zip(0..).map(peer).collect()
}

/// What a member shows that died before its first word (I2).
fn zeros(sizes: &Sizes) -> Result<Memory, Error> {
    let region = |bytes: usize| Region::zeros(bytes).map(Arc::new);
    let rings = sizes.rings.iter().map(|bytes| bytes.map(region).transpose());
    Ok(Memory { block: region(sizes.block)?, rings: rings.collect::<Result<_, Error>>()? })
}

#[cfg(all(test, not(loom)))]
mod tests;
