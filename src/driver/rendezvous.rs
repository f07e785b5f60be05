// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the members of a group on one host find each other, in any order of arrival.
//!
//! Every member listens under the group's name and its rank and calls those with lower ranks. Both
//! sides say a hello with the descriptors of their memory and bell; then each has what it needs, and
//! the connection stays as the sign of life. A caller whose peer is not there yet tries again: there
//! is no event for the birth of a name.
//!
//! Who dies before all have met makes room for its successor. So that nobody runs with the one while
//! somebody else runs with the other, a member that has met all shows a digest of whom it has met
//! (their incarnations) in its control block, and goes on when all show the same. A member that goes
//! on never changes its digest, and what one shows before that moves from incarnations to their
//! successors only: two that go on with each other agree on all.

use super::config::{Changes, Config};
use super::policy::config_text;
use crate::base::Rank;
use crate::error::{Error, Status};
use crate::fabric::shm::Neighbour;
use crate::fabric::shm::door::{self, Door, Hello, Kind, Visitor, compare, refuse};
use crate::fabric::shm::place::Place;
use crate::fabric::shm::socket::{Bell, Parcel, Socket};
use crate::group::view::View;
use crate::mem::Region;
use crate::sst::layout::Layout;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a call that found nobody waits before the next one.
pub const CALL_AGAIN: Duration = Duration::from_millis(2);
/// How long a stranger that answers nothing is waited for when the name is taken.
const PROBE: Duration = Duration::from_millis(500);

/// My memory, as the others will map it.
pub struct Mine {
    pub block: Arc<Region>,
    pub control: OwnedFd,
    /// By subgroup; `None` where I am no sender.
    pub rings: Vec<Option<OwnedFd>>,
    pub bell: Bell,
}

/// What the others have shown.
pub struct Met {
    pub door: Door,
    pub hello: Hello,
    pub neighbours: Vec<Neighbour>,
    /// By rank; `None` at my own.
    pub blocks: Vec<Option<Arc<Region>>>,
    /// By rank, then subgroup.
    pub rings: Vec<Vec<Option<Arc<Region>>>>,
}

struct Meeting<'a> {
    config: &'a Config,
    place: Place,
    view: &'a View,
    layout: &'a Layout,
    mine: &'a Mine,
    met: Met,
    /// Calls that wait for their answer.
    calls: Vec<(u16, Socket)>,
    /// The last one that may be taken back.
    refusal: Option<Error>,
}

/// What a member has shown, mapped: its control block, its bell, and its rings by subgroup.
struct Shown {
    block: Region,
    bell: Bell,
    rings: Vec<Option<Arc<Region>>>,
}

/// Meets all others, or says who is missing when `open_timeout` ends.
pub fn meet(
    config: &Config,
    view: &View,
    layout: &Layout,
    mine: &Mine,
    parks: bool,
) -> Result<Met, Error> {
    let mut hello = Hello::new(Kind::Join, config.rank, parks, &config_text(config, view)?);
    hello.versions = config.versions;
    if config.membership == Changes::Views {
        hello.incarnation = mine.block.cell(layout.incarnation.byte(0)).own();
    }
    let place = Place::new(&config.near_name(), &config.peers)?;
    let Some(listener) = place.listen(config.rank)? else {
        return Err(name_taken(config, &place, &hello));
    };
    let members = view.members;
    let met = Met {
        door: place.door(listener),
        hello,
        neighbours: Vec::new(),
        blocks: vec![None; members],
        rings: vec![vec![None; view.subgroups.len()]; members],
    };
    let mut meeting =
        Meeting { config, place, view, layout, mine, met, calls: Vec::new(), refusal: None };
    let start = Instant::now();
    let mut told = Duration::ZERO;
    loop {
        let moved = meeting.step()?;
        let missing = meeting.missing();
        let undecided = if missing.is_empty() { meeting.undecided() } else { Vec::new() };
        if missing.is_empty() && undecided.is_empty() {
            return Ok(meeting.met);
        }
        let waited = start.elapsed();
        if waited >= config.open_timeout {
            if let Some(refusal) = meeting.refusal {
                return Err(refusal);
            }
            let who = match missing.is_empty() {
                true => format!("rank {undecided:?} has not met all others"),
                false => format!("rank {missing:?} did not arrive"),
            };
            let detail = format!(
                "group {}: {who} within {:.1} s; start it with the same name and configuration, \
                 or wait longer",
                config.group,
                config.open_timeout.as_secs_f64()
            );
            return Err(Error::new(Status::NotComplete, detail));
        }
        if waited >= told + Duration::from_secs(2) {
            told = waited;
            let whom = if missing.is_empty() { &undecided } else { &missing };
            crate::notice!("group {}: waiting for rank {whom:?}", config.group);
        }
        if !moved {
            std::thread::sleep(CALL_AGAIN); // only before the group exists
        }
    }
}

/// Why the name cannot be had: who holds it, and whether it is the same group.
pub fn name_taken(config: &Config, place: &Place, hello: &Hello) -> Error {
    let (group, rank) = (&config.group, config.rank);
    let in_use = |who: String| {
        let detail = format!(
            "rank {rank} of group {group} is already open{who}: close it there or end that process, \
             or choose another rank or name"
        );
        Error::new(Status::InUse, detail)
    };
    let socket = match place.call(rank) {
        Ok(Some(socket)) => socket,
        Err(stranger) if stranger.status == Status::ForeignOwner => return stranger,
        _ => return in_use(String::new()),
    };
    let Some(owner) = socket.credentials() else { return in_use(String::new()) };
    let probe = Hello { kind: Kind::Probe, ..hello.clone() };
    socket.send(&probe.encode(), &[]);
    let until = Instant::now() + PROBE;
    while Instant::now() < until {
        if let Some(answer) = socket.receive() {
            let theirs = answer.and_then(|(bytes, _)| Hello::decode(&bytes));
            let who = format!("rank {rank} in process {}", owner.pid);
            if let Some(Err(differs)) = theirs.map(|theirs| compare(hello, &theirs, &who)) {
                return differs;
            }
            break;
        }
        std::thread::sleep(CALL_AGAIN);
    }
    in_use(format!(" in process {}", owner.pid))
}

impl Meeting<'_> {
    fn missing(&self) -> Vec<u16> {
        let here =
            |rank: &u16| *rank == self.config.rank || self.met.blocks[usize::from(*rank)].is_some();
        (0..self.view.members as u16).filter(|rank| !here(rank)).collect()
    }

    /// One round: answers who knocks, calls who is missing below, reads their answers.
    fn step(&mut self) -> Result<bool, Error> {
        let mut moved = self.forget_the_dead();
        for visitor in self.met.door.visitors(|_| Ok(())) {
            moved = true;
            self.receive(visitor)?;
        }
        if let Some(trouble) = self.met.door.trouble.take() {
            return Err(trouble);
        }
        for rank in self.missing() {
            let called = self.calls.iter().any(|(callee, _)| *callee == rank);
            if rank < self.config.rank && !called {
                moved |= self.call(rank)?;
            }
        }
        for at in (0..self.calls.len()).rev() {
            let Some(answer) = self.calls[at].1.receive_parcel() else { continue };
            let (rank, socket) = self.calls.swap_remove(at);
            // A hang-up without an answer: it gave up, or was not ready; call again.
            let Some(answer) = answer else { continue };
            self.answered(rank, socket, answer)?;
        }
        Ok(moved)
    }

    /// Shows whom I have met, now that it is all; whoever shows something else or nothing yet.
    fn undecided(&self) -> Vec<u16> {
        let block = |rank: u16| self.met.blocks[usize::from(rank)].as_ref();
        let block = |rank: u16| block(rank).unwrap_or(&self.mine.block);
        let ranks = 0..self.view.members as u16;
        let incarnation = |rank: u16| block(rank).cell(self.layout.incarnation.byte(0)).observe();
        let digest = ranks.clone().map(incarnation).fold(1u64, |digest, incarnation| {
            (digest.rotate_left(7) ^ incarnation).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        });
        let shown = self.layout.digest_cell.byte(0);
        self.mine.block.cell(shown).publish(digest | 1); // 0: nothing yet
        ranks.filter(|rank| block(*rank).cell(shown).observe() != digest | 1).collect()
    }

    /// Who has died since we met is missing again: its successor may come. If all had decided, it
    /// may have run and left already: then that is for the group to find.
    fn forget_the_dead(&mut self) -> bool {
        let all = self.met.neighbours.iter();
        // What it says is for later: who has met all may go on, and show memory of the next view.
        let dead = all.filter(|neighbour| neighbour.socket.has_hung_up());
        let dead: Vec<Rank> = dead.map(|neighbour| neighbour.rank).collect();
        if dead.is_empty() || (self.missing().is_empty() && self.undecided().is_empty()) {
            return false;
        }
        self.met.neighbours.retain(|neighbour| !dead.contains(&neighbour.rank));
        for rank in &dead {
            self.met.blocks[rank.index()] = None;
            self.met.rings[rank.index()].fill(None);
        }
        true
    }

    fn call(&mut self, rank: u16) -> Result<bool, Error> {
        let Some(socket) = self.place.call(rank)? else { return Ok(false) };
        if !socket.send(&self.met.hello.encode(), &self.descriptors_for(rank)) {
            return Ok(false);
        }
        self.calls.push((rank, socket));
        Ok(true)
    }

    /// Control block, bell, and the ring of each subgroup that both belong to and I send in.
    fn descriptors_for(&self, rank: u16) -> Vec<BorrowedFd<'_>> {
        let mut descriptors = vec![self.mine.control.as_fd(), self.mine.bell.as_fd()];
        for (subgroup, ring) in self.view.subgroups.iter().zip(&self.mine.rings) {
            if let (Some(ring), true) = (ring, subgroup.has(Rank(rank))) {
                descriptors.push(ring.as_fd());
            }
        }
        descriptors
    }

    fn answered(&mut self, rank: u16, socket: Socket, answer: Parcel) -> Result<(), Error> {
        let Parcel { bytes, descriptors, short } = answer;
        let hello = Hello::decode(&bytes);
        let hello = hello.ok_or_else(|| {
            Error::new(Status::PeerFault, format!("rank {rank} answered with nonsense"))
        })?;
        compare(&self.met.hello, &hello_of(&hello, &self.met.hello), &format!("rank {rank}"))?;
        if let Some((status, sentence)) = hello.refusal {
            let status = Status::from_code(status).unwrap_or(Status::System);
            let refusal = Error::new(status, format!("rank {rank}: {sentence}"));
            if status == Status::InUse {
                // My own rank's name was free: so that group has lost its member of my rank, and
                // will end and leave the name to the next one. Or it does not; then say this.
                self.refusal = Some(refusal);
                return Ok(());
            }
            return Err(refusal);
        }
        let shown = self.map(rank, descriptors, short)?;
        self.keep(rank, socket, &hello, shown);
        Ok(())
    }

    /// Someone has said hello at my door.
    fn receive(&mut self, mut visitor: Visitor) -> Result<(), Error> {
        let theirs = &visitor.hello;
        let mine = Some(&self.met.hello);
        let who = format!("process {}", theirs.pid);
        // The newcomer hears in its own words what differs; this member goes on waiting.
        match compare(&self.met.hello, theirs, &who) {
            Err(differs) if differs.status == Status::WireVersion => {
                crate::notice!("group {}: refused {who}: {}", self.config.group, differs.detail);
                refuse(&visitor.socket, differs.status, &differs.detail, mine);
                return Ok(());
            }
            _ if theirs.kind != Kind::Join => {
                let sentence = "the group is still waiting for its members";
                refuse(&visitor.socket, Status::NotComplete, sentence, mine);
                return Ok(());
            }
            Err(differs) => {
                crate::notice!("group {}: refused {who}: {}", self.config.group, differs.detail);
                refuse(&visitor.socket, Status::Mismatch, "another configuration", mine);
                return Ok(());
            }
            Ok(()) => {}
        }
        let rank = theirs.rank;
        if !self.missing().contains(&rank) {
            let members = self.view.members;
            let sentence = if usize::from(rank) < members {
                format!("rank {rank} is already there")
            } else {
                format!("there is no rank {rank} among {members} members")
            };
            refuse(&visitor.socket, Status::InUse, &sentence, mine);
            return Ok(());
        }
        // Nobody is welcomed whose memory cannot be used: it may be a stranger with the right words.
        let descriptors = visitor.descriptors.split_off(0);
        let shown = match self.map(rank, descriptors, visitor.short.take()) {
            Err(fault) if fault.status == Status::PeerFault => {
                crate::notice!("group {}: refused {who}: {}", self.config.group, fault.detail);
                refuse(&visitor.socket, Status::PeerFault, &fault.detail, Some(&self.met.hello));
                return Ok(());
            }
            shown => shown?,
        };
        let answer = Hello { kind: Kind::Welcome, ..self.met.hello.clone() };
        if door::welcome(&visitor.socket, &answer, &self.descriptors_for(rank)) {
            self.keep(rank, visitor.socket, &visitor.hello, shown);
        }
        Ok(()) // if it is gone, it may come again
    }

    /// Maps what a member has shown.
    fn map(
        &self,
        rank: u16,
        descriptors: Vec<OwnedFd>,
        short: Option<Error>,
    ) -> Result<Shown, Error> {
        if let Some(short) = short {
            return Err(short); // mine
        }
        let too_little = || Error::new(Status::PeerFault, format!("rank {rank} shows too little"));
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or_else(too_little);
        let block = Region::map_peer(&next()?, self.layout.control_bytes)?;
        let bell = Bell::from_descriptor(next()?)?;
        let mut rings = vec![None; self.view.subgroups.len()];
        for (at, subgroup) in self.view.subgroups.iter().enumerate() {
            let sends = subgroup.senders.iter().any(|sender| sender.rank == Rank(rank));
            if sends && subgroup.has(self.view.me) {
                let region = Region::map_peer(&next()?, self.layout.rings_bytes(at))?;
                rings[at] = Some(Arc::new(region));
            }
        }
        Ok(Shown { block, bell, rings })
    }

    fn keep(&mut self, rank: u16, socket: Socket, hello: &Hello, shown: Shown) {
        self.refusal = None;
        self.met.rings[usize::from(rank)] = shown.rings;
        self.met.blocks[usize::from(rank)] = Some(Arc::new(shown.block));
        let (rank, versions, bell) = (Rank(rank), hello.versions, shown.bell);
        let (pid, parks) = (hello.pid, hello.parks);
        self.met.neighbours.push(Neighbour { rank, versions, pid, parks, socket, bell });
    }
}

/// A refusal may come without a configuration; then there is nothing to compare.
fn hello_of(theirs: &Hello, mine: &Hello) -> Hello {
    let config = if theirs.config.is_empty() { mine.config.clone() } else { theirs.config.clone() };
    Hello { config, ..theirs.clone() }
}
