// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who meets whom: the door of a member that others call, and its calls while it founds or joins.
//!
//! A founder calls those of lower rank at the addresses of the configuration. One that joins calls its
//! contacts, all of them for as long as it joins: whom it meets first may join itself, or be about to
//! stop. Each that it meets tells it who else there is and where, in its welcome and whenever it asks
//! (`who`), and it calls those. So it works while some contacts are down, and a member may have any
//! address.
//!
//! Y1  A member calls nobody. Of two that join, the one with the higher incarnation calls: each pair is
//!     connected once.
//! Y2  There is one connection per incarnation: who is connected is not called, and one that comes a
//!     second time is refused.
//! Y3  Where members on one host meet over shared memory, they do not over TCP; one that joins is told
//!     who else there is all the same, then both hang up.
//! Y4  What one address says ends no join while others may be better: it may be another's by now.
//! Y5  A peer is asked again when it has answered, or not for long, so that one that does not listen for
//!     a while finds few questions.
//! Y6  Who joins says that it is connected once it has been asked there who there is, or answered: a
//!     caller asks at once. Before, a caller may have become a member and hung up (Y1), or the one that
//!     was called may lack something and hang up: a member would hear of one that joins and that it is
//!     not connected with, and cut it off.
//!
//! What is said in connections that are there (`Tcp::heard` keeps it from the driver):
//!
//! ```text
//! who                                          one that joins
//! here                                         a member, of all that it is connected with
//! INCARNATION SEAT member|joins HOST ADDRESS,ADDRESS…
//! ```

mod about;
mod goals;

use super::super::mixed::Neighbour;
use super::address::{Address, parse};
use super::call::{Call, TRY};
use super::door::{Arrival, Door, Visitor};
use super::handshake::Terms;
use super::hello::{Hello, Kind, compare, same_group};
use super::page;
use super::session::Session;
use super::terms::NEAR;
use crate::error::{Error, Status};
use crate::fabric::Admission;
use crate::limits::MEMBERS_MAX;
use crate::mem::Region;
use crate::mutant;
pub use about::{About, told_of};
use about::{HOST, about, entry, host_of, list, settle, this_host};
use goals::{Goal, Whom};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often one that joins asks who there is.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How long an answer may take: one that had no room is not sent again.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);
/// Entries that are believed of one peer: twice as many as a group has members, since some join.
pub(super) const HERE_MAX: usize = 2 * MEMBERS_MAX;
/// Processes that are connected, at the most; some join, and some have just gone.
const PEERS_MAX: usize = 4 * MEMBERS_MAX;
/// Processes that are called at once, at the most.
const GOALS_MAX: usize = 2 * HERE_MAX;
pub(super) const WHO: &[u8] = b"who\n";

pub struct Lobby {
    terms: Arc<Terms>,
    hello: Hello,
    host: String,
    /// Members on this host meet otherwise (Y3).
    others_only: bool,
    /// Calls come from this interface.
    source: Option<IpAddr>,
    page: Option<Arc<Region>>,
    pub door: Door,
    goals: Vec<Goal>,
    /// All that are connected.
    abouts: Vec<About>,
    /// Those that are connected by shared memory.
    near: Vec<About>,
    /// All that others have told of.
    told: Vec<About>,
    joins: bool,
    founds: bool,
    asked: Instant,
    trouble: Option<Error>,
    fatal: Option<Error>,
}

/// What a lobby is made of.
pub struct Parts {
    pub terms: Arc<Terms>,
    /// Of kind `Join` for a founder, `Enter` for one that joins; with its addresses.
    pub hello: Hello,
    pub door: Door,
    pub others_only: bool,
    pub source: Option<IpAddr>,
    /// This member's statistics, for whoever holds the secret.
    pub page: Option<Arc<Region>>,
    /// Where members on this host meet otherwise: its name among such places.
    pub place: String,
}

/// A new connection. Of a peer's, whether it is to be asked who there is (Y6): `WHO`.
pub enum New {
    Peer(Box<Session>, bool),
    /// For a state transfer, by that incarnation.
    Stream(u64, Box<Session>),
    /// For registered memory.
    Reach(u64, Box<Session>),
}

impl Lobby {
    pub fn new(parts: Parts) -> Lobby {
        let Parts { terms, mut hello, door, others_only, source, page, place } = parts;
        let host = this_host(&place);
        hello.more.push((HOST.into(), host.clone()));
        let (joins, founds) = (hello.kind == Kind::Enter, hello.kind == Kind::Join);
        let (goals, abouts, told) = (Vec::new(), Vec::new(), Vec::new());
        let near = Vec::new();
        let (trouble, fatal) = (None, None);
        let asked = Instant::now();
        Lobby {
            terms,
            hello,
            host,
            others_only,
            source,
            page,
            door,
            goals,
            abouts,
            near,
            told,
            joins,
            founds,
            asked,
            trouble,
            fatal,
        }
    }

    /// A founder's: the addresses of all, by rank.
    pub fn call_founders(&mut self, founders: &[Address]) {
        let lower = founders.iter().take(self.hello.rank.into()).zip(0..);
        for (address, rank) in lower {
            self.add(Whom::Founder(rank), vec![address.clone()]);
        }
    }

    /// One that joins: any of these will do.
    pub fn call_contacts(&mut self, contacts: &[Address]) {
        self.add(Whom::Anybody, contacts.to_vec());
    }

    fn add(&mut self, whom: Whom, addresses: Vec<Address>) {
        let next = Instant::now();
        let (lookup, call, failed) = (None, None, false);
        self.goals.push(Goal { whom, addresses, lookup, call, next, failed });
    }

    /// This process is a member: calls that are under way are hung up on (Y1).
    pub fn stop_calling(&mut self) {
        self.goals.clear();
        self.told.clear();
        (self.joins, self.founds) = (false, false);
    }

    /// Whether there is something to do now though nobody stirs.
    pub fn is_due(&self, now: Instant) -> bool {
        self.joins || !self.goals.is_empty() || self.door.wake_at().is_some_and(|at| at <= now)
    }

    /// What stands in the way of meeting somebody: of the last call that failed.
    pub fn trouble(&self) -> Option<&Error> {
        self.fatal.as_ref().or(self.trouble.as_ref())
    }

    /// What no further call can mend: another configuration.
    pub fn fatal(&self) -> Option<&Error> {
        self.fatal.as_ref()
    }

    /// Whether this is a founder of a group that does not run yet.
    pub fn founds(&self) -> bool {
        self.founds
    }

    /// The group runs at that wire version: who does not speak it is refused.
    pub fn runs_at(&mut self, wire: u16) {
        self.hello.wire = wire;
    }

    pub fn abouts(&self) -> &[About] {
        &self.abouts
    }

    /// One round: who has come through the door, and whom calls have met. `meets`: whom the driver
    /// lets in. `members`: those of the view.
    pub fn step(&mut self, now: Instant, meets: Admission, members: &[u64]) -> Vec<New> {
        let mut new = Vec::new();
        for arrival in self.door.look(now) {
            match arrival {
                Arrival::Asks(visitor) => self.decide(*visitor, meets, members),
                Arrival::Met(session) if session.peer.kind == Kind::Stream => {
                    new.push(New::Stream(session.incarnation(), session));
                }
                Arrival::Met(session) if session.peer.kind == Kind::Reach => {
                    new.push(New::Reach(session.incarnation(), session));
                }
                Arrival::Met(session) if session.peer.kind == Kind::Probe => {}
                Arrival::Met(session) => self.keep(session, false, &mut new),
            }
        }
        self.look_for_more();
        for at in (0..self.goals.len()).rev() {
            match self.go_on(at, now) {
                Some(session) => {
                    self.read_told(&session.peer, session.remote.ip());
                    self.keep(session, true, &mut new);
                    self.goals[at].next = now + self.pause(self.goals[at].whom);
                }
                // If it is still there it will be told of again, with its addresses by then.
                None if matches!(self.goals[at].whom, Whom::Incarnation(_)) => {
                    let over = self.goals[at].failed && self.goals[at].lookup.is_none();
                    if over || self.is_reached(self.goals[at].whom) {
                        self.goals.swap_remove(at);
                    }
                }
                None => {}
            }
        }
        new
    }

    fn is_reached(&self, whom: Whom) -> bool {
        match whom {
            Whom::Founder(rank) => self.abouts.iter().any(|of| of.seat == rank),
            Whom::Anybody => false,
            Whom::Incarnation(who) => self.is_connected(who),
        }
    }

    fn has_met_nobody(&self) -> bool {
        self.abouts.is_empty() && self.near.is_empty()
    }

    /// Whether that one knows, too, that it is connected (Y6).
    pub fn is_sure(&self, incarnation: u64) -> bool {
        let its = self.abouts.iter().find(|of| of.incarnation == incarnation);
        !self.joins || its.is_none_or(|of| of.is_sure) || mutant!("tcp-calls-are-sure")
    }

    fn is_connected(&self, incarnation: u64) -> bool {
        self.abouts.iter().any(|of| of.incarnation == incarnation)
    }

    /// Who was told of and is to be called by me.
    fn look_for_more(&mut self) {
        for about in std::mem::take(&mut self.told) {
            let whom = Whom::Incarnation(about.incarnation);
            let mine = about.incarnation == self.terms.incarnation;
            let calls_me = !about.is_member && about.incarnation > self.terms.incarnation; // Y1
            let near = self.others_only && about.host == self.host; // Y3
            let known = self.goals.iter().any(|goal| goal.whom == whom);
            let full = self.goals.len() >= GOALS_MAX; // whoever holds the secret may name anybody
            if !(mine || calls_me || near || known || full || self.is_connected(about.incarnation))
            {
                self.add(whom, about.addresses);
            }
        }
    }

    /// A connection is there, unless there is one already (Y2).
    fn keep(&mut self, session: Box<Session>, called: bool, new: &mut Vec<New>) {
        let (peer, who) = (&session.peer, session.incarnation());
        if who == 0 || self.is_connected(who) {
            return;
        }
        if called && let Err(differs) = compare(&self.hello, peer, &peer.who(session.remote)) {
            self.fatal.get_or_insert(differs);
            return;
        }
        let mut about = about(peer, session.remote, called);
        let asks = called && self.joins; // Y6
        about.asked = asks.then(Instant::now);
        if self.others_only && about.host == self.host {
            return; // Y3
        }
        self.abouts.push(about);
        new.push(New::Peer(session, asks));
    }

    /// Somebody who holds the secret wants something.
    fn decide(&mut self, visitor: Visitor, meets: Admission, members: &[u64]) {
        let theirs = &visitor.hello;
        let refuse = |status: Status, sentence: &str| Err((status, sentence.to_string()));
        let kind = theirs.kind;
        // Who only looks has no configuration.
        let fits = match kind {
            Kind::Stat => same_group(&self.hello.group, theirs, &visitor.who()),
            _ => compare(&self.hello, theirs, &visitor.who()),
        };
        let outcome = match fits {
            Err(differs) => Err((differs.status, differs.detail)),
            Ok(()) => match theirs.kind {
                Kind::Probe | Kind::Stat => Ok(()),
                Kind::Stream | Kind::Reach if self.is_connected(theirs.incarnation) => Ok(()),
                Kind::Stream | Kind::Reach => {
                    refuse(Status::NotComplete, "this process is not connected with it")
                }
                Kind::Join | Kind::Enter => self.may_come(theirs, meets),
                Kind::Welcome | Kind::Refuse => refuse(Status::Invalid, "that is an answer"),
            },
        };
        match outcome {
            Ok(()) => {
                let mut welcome = Hello { kind: Kind::Welcome, ..self.hello.clone() };
                welcome.more.push(("here".into(), self.here(members).replace('\n', ";")));
                if let Some(page) = self.page.as_ref().filter(|_| kind == Kind::Stat) {
                    welcome.more.push((page::KEY.into(), page::encode(page)));
                }
                // It cannot fail but for a hello of ours that is too long: then without page and list.
                while welcome.check().is_err() && welcome.more.pop().is_some() {}
                let _ = self.door.welcome(visitor, &welcome);
            }
            Err((status, sentence)) => self.door.refuse(visitor, &self.hello, status, &sentence),
        }
    }

    fn may_come(&self, theirs: &Hello, meets: Admission) -> Result<(), (Status, String)> {
        let refuse = |status: Status, sentence: &str| Err((status, sentence.to_string()));
        if theirs.incarnation == 0 {
            return refuse(Status::Invalid, "it says no incarnation");
        }
        if self.is_connected(theirs.incarnation) {
            return refuse(Status::InUse, "this process is connected already"); // Y2
        }
        if self.others_only && host_of(theirs) == self.host {
            return match (meets, theirs.kind) {
                (Admission::All, Kind::Enter) => Ok(()), // it is not kept
                _ => refuse(Status::InUse, NEAR),        // Y3
            };
        }
        if self.abouts.len() >= PEERS_MAX {
            return refuse(Status::Limit, "too many processes are connected with this one");
        }
        match (meets, theirs.kind, self.hello.kind) {
            (Admission::All, Kind::Enter, _) => Ok(()),
            (Admission::All, ..) => {
                refuse(Status::InUse, "the group runs already: join it (`join = true`)")
            }
            (Admission::Higher, Kind::Join, Kind::Join) => {
                let taken = self.abouts.iter().any(|of| of.seat == theirs.rank);
                match theirs.rank > self.hello.rank && !taken {
                    true => Ok(()),
                    false => refuse(Status::InUse, &format!("rank {} is there", theirs.rank)),
                }
            }
            (Admission::Higher, Kind::Enter, Kind::Enter) => {
                match theirs.incarnation > self.terms.incarnation {
                    true => Ok(()), // Y1
                    false => refuse(Status::NotComplete, "this process joins itself"),
                }
            }
            _ => refuse(Status::NotComplete, "this process is no member yet, or no more"),
        }
    }

    /// What a peer says that is for the lobby. `None`: it is for the driver; else what to answer.
    pub fn hears(&mut self, from: u64, bytes: &[u8], members: &[u64]) -> Option<Option<Vec<u8>>> {
        if bytes == WHO {
            let its = self.abouts.iter_mut().find(|of| of.incarnation == from);
            its.into_iter().for_each(|of| of.is_sure = true);
            return Some(Some(format!("here\n{}", self.here(members)).into_bytes()));
        }
        let text = bytes.strip_prefix(b"here\n")?;
        let its = self.abouts.iter_mut().find(|of| of.incarnation == from);
        let ip = its.and_then(|of| {
            (of.asked, of.is_sure) = (None, true); // Y5, Y6
            of.ip
        });
        if let Ok(text) = std::str::from_utf8(text)
            && self.joins
        {
            self.learn(text.lines(), ip);
        }
        Some(None)
    }

    /// Who is to be asked what, if it is time.
    pub fn asks(&mut self, now: Instant) -> Option<(Vec<u64>, &'static [u8])> {
        if !self.joins || now < self.asked + ASK_EVERY {
            return None;
        }
        self.asked = now;
        let due = |of: &&mut About| of.asked.is_none_or(|asked| now >= asked + ANSWERED_WITHIN);
        let whom = self.abouts.iter_mut().filter(due); // Y5
        let whom = whom.map(|of| {
            of.asked = Some(now);
            of.incarnation
        });
        Some((whom.collect(), WHO))
    }

    fn read_told(&mut self, welcome: &Hello, ip: IpAddr) {
        let here = welcome.more.iter().find(|(key, _)| key == "here");
        if let Some((_, text)) = here.filter(|_| self.joins) {
            let text = text.clone();
            self.learn(text.split(';'), Some(ip));
        }
    }

    /// Lines of a peer's: what is none is passed over.
    /// `ip`: whose host its addresses are of that name none.
    fn learn<'a>(&mut self, lines: impl Iterator<Item = &'a str>, ip: Option<IpAddr>) {
        for mut about in lines.take(HERE_MAX).filter_map(entry) {
            if let Some(ip) = ip {
                about.addresses.iter_mut().for_each(|address| settle(address, ip));
            }
            self.told.push(about);
        }
        self.told.truncate(4 * HERE_MAX);
    }

    /// All that I am connected with, a line each.
    fn here(&self, members: &[u64]) -> String {
        let all = self.abouts.iter().chain(&self.near);
        list(all.map(|of| (of, of.is_member || members.contains(&of.incarnation))))
    }

    /// Who is connected by shared memory now.
    pub fn hear_of(&mut self, neighbours: &[Neighbour]) {
        let of = |of: &Neighbour| {
            let doors = of.doors.split(',').filter(|text| !text.is_empty());
            About {
                incarnation: of.incarnation,
                seat: of.seat,
                is_member: of.is_member,
                versions: None,
                host: self.host.clone(),
                addresses: doors.filter_map(|text| parse(text, None).ok()).collect(),
                ip: None,
                asked: None,
                is_sure: true,
            }
        };
        self.near = neighbours.iter().map(of).collect();
    }

    /// A connection has ended.
    pub fn forget(&mut self, incarnation: u64) {
        self.abouts.retain(|of| of.incarnation != incarnation);
    }

    /// A call for a stream of that kind, to one that is connected.
    pub fn call_for_stream(&self, incarnation: u64, kind: Kind) -> Option<Call> {
        let about = self.abouts.iter().find(|of| of.incarnation == incarnation)?;
        let numeric = about.addresses.iter().filter_map(|address| address.numeric().ok().flatten());
        let hello = Hello { kind, ..self.hello.clone() };
        let (terms, source) = (self.terms.clone(), self.source);
        Some(Call::new(numeric.collect(), source, terms, hello, TRY))
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
