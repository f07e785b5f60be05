// SPDX-License-Identifier: MIT OR Apache-2.0
//! Members on other hosts: one connection per pair of incarnations, and a mirror on the heap for each
//! peer and epoch, into which its posts land when this member polls.
//!
//! P1  Only the thread that polls touches sockets and mirrors, or who has the fabric for it meanwhile
//!     (`beat`); other threads observe words of mirrors.
//! P2  A post is on its way when `post` returns, or it waits here and the peer is full; so a post is a
//!     system call per peer, and so is a poll.
//! P3  With keys, nothing lands that was not verified (`seal`); without, who can inject into the
//!     network can write counters. Either way a peer writes its own memory only (`mirror`).
//! P4  A slow peer costs a bounded amount of memory (`outgoing`) and a system call now and then.
//!
//! A beat is sent by itself, at looks and before sleep (`Outgoing`, O4); while a callback runs, when that
//! says so (`keep_alive`, `driver/lending`).
//!
//! Sockets are read by `recv` as they come, and watched by who sleeps only. Measured before that was
//! chosen, 64 B there and back on loopback, both spinning: `recv` and `send` 9.8 us; the same while an
//! epoll descriptor watches 10.1; io_uring with a receive always posted 12.1 (DEFER_TASKRUN), 12.8
//! (COOP_TASKRUN), 34 (without entering the kernel to look).
//!
//! The records are in `wire`. How two processes find and prove each other: `address` (names), `secret`,
//! `terms` and `hello` (what is said), `handshake` (in which order), `door` (who listens), `call` (who
//! calls); all of that ends in a `Session`. Who is trusted with what: `threats.md`. Silence of a network
//! ends no connection for as long as the kernel tries (F5): while something is to be sent, about a
//! quarter of an hour; a minute and a half of nothing but its own questions (`link`, L3).

pub mod address;
pub mod call;
mod carry;
pub mod door;
mod exchange;
pub mod handshake;
pub mod hello;
pub mod incoming;
pub mod link;
pub mod lobby;
pub mod mirror;
pub mod outgoing;
pub mod page;
pub mod seal;
pub mod secret;
pub mod session;
mod stream;
mod talk;
pub mod terms;
pub mod wire;

#[cfg(all(test, not(loom)))]
pub(in crate::fabric) mod tests;

use super::shm::OwnBell;
use super::shm::socket::{Alarm, Bell, Watch};
use super::{Admission, Exchange, Fabric, Memory, Way};
use crate::base::{Epoch, Events, Members, POST_WORDS_MAX, Peer, Post, Posting, Rank};
use crate::error::Error;
use crate::log_sink::{Level, say};
use crate::mem::{Cell, Region};
pub use link::Parting;
use link::{Channel, Keys, Link};
use lobby::{Lobby, New};
use mirror::Measures;
use outgoing::Parcel;
use session::Session;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The first epoch that a member is in, whichever that is.
const FIRST: Epoch = Epoch(0);
/// Members whose sockets are read one after the other in each poll; with more, it is asked first which
/// of them have something.
const READ_EACH_MAX: usize = 4;
/// Looks without sleep after which sockets are watched no more: a watch costs something per segment
/// that comes, and only who sleeps needs it.
const LOOKS_AWAKE: u32 = 4;
/// As how many polls a look counts for who waits for room in a socket: looks come ten thousand times a
/// second at a busy member, and may be all there is at one that sleeps.
const LOOK_POLLS: u32 = 8;
/// Connections that are closed here and kept for a moment, at the most.
const PARTINGS_MAX: usize = 64;
/// Places of processes that were no members and have ended: far more than can end between an `Install`,
/// which may name them, and the view that it begins.
const GHOSTS_MAX: usize = 1024;
/// Streams that peers have opened and that have not ended, at the most: two threads each.
const STREAMS_MAX: usize = 64;
/// How long `drop` waits, after a farewell, for it to be taken.
const FAREWELL: Duration = Duration::from_millis(500);

const TOKEN_BELL: u64 = u64::MAX;
const TOKEN_DOOR: u64 = u64::MAX - 1;
const TOKEN_ALARM: u64 = u64::MAX - 3;
const TOKEN_AGAIN: u64 = u64::MAX - 4;

/// What a TCP fabric must know of its group.
#[derive(Clone, Debug)]
pub struct Setup {
    pub measures: Measures,
    /// Bytes of the words of a control block that say "I live" and "I have left".
    pub beat_at: usize,
    pub closed_at: usize,
    /// Whether this member ever sleeps.
    pub parks: bool,
    /// Whether members change.
    pub views: bool,
}

/// My memory of an epoch.
struct Mine {
    epoch: Epoch,
    memory: Memory,
    /// To whom it was shown, and whose rings.
    seen: Vec<(Peer, Vec<usize>)>,
}

/// The TCP fabric of one member.
pub struct Tcp {
    /// By peer; `None`: mine, or nobody's.
    links: Vec<Option<Link>>,
    /// By rank of the view entered last: the peer.
    peers: Vec<Option<usize>>,
    setup: Setup,
    measures: Arc<Measures>,
    mine: Vec<Mine>,
    /// My control block of that view.
    block: Option<Arc<Region>>,
    /// The beat that was told last before the first one.
    beat: u64,
    watch: Watch,
    bell: Arc<Bell>,
    asleep_here: Arc<Cell>,
    asleep: u64,
    alarm: Option<Alarm>,
    /// When a mirror that cannot be had is tried again (`mirror`, M4).
    again: Option<Alarm>,
    admits: Admission,
    partings: Vec<Parting>,
    /// Ranks whose end was reported; whether some may still be to be.
    gone: Members,
    untold: bool,
    /// The farewell was said.
    left: bool,
    /// All sockets are watched. Looks since this member slept.
    watched: bool,
    awake: u32,
    /// `None`: connections are made by somebody else.
    lobby: Option<Lobby>,
    /// The door has stirred.
    knocked: bool,
    /// Streams that peers have opened, and whose.
    offered: VecDeque<(u64, OwnedFd)>,
    /// Held by each stream that a peer has opened.
    streams: Arc<()>,
    /// The same for registered memory.
    reached: VecDeque<(u64, OwnedFd)>,
    reaches: Arc<()>,
    /// Places of processes that were no members and have ended, the oldest first.
    ghosts: VecDeque<usize>,
    /// Where another fabric carries the posts (`carry`): connections that it has not heard of.
    met: Option<VecDeque<Peer>>,
}

impl Tcp {
    /// A member without connections.
    pub fn new(setup: Setup) -> Result<Tcp, Error> {
        let (watch, bell) = (Watch::new()?, Bell::new()?);
        watch.add(&bell, TOKEN_BELL)?;
        Ok(Tcp {
            links: Vec::new(),
            peers: Vec::new(),
            measures: Arc::new(setup.measures.clone()),
            setup,
            mine: Vec::new(),
            block: None,
            beat: 0,
            watch,
            bell: Arc::new(bell),
            asleep_here: Arc::new(Cell::new(0)),
            asleep: 0,
            alarm: None,
            again: None,
            admits: Admission::Nobody,
            partings: Vec::new(),
            gone: Members::NONE,
            untold: false,
            left: false,
            watched: false,
            awake: 0,
            lobby: None,
            knocked: false,
            offered: VecDeque::new(),
            streams: Arc::new(()),
            reached: VecDeque::new(),
            reaches: Arc::new(()),
            ghosts: VecDeque::new(),
            met: None,
        })
    }

    /// Keeps a connection whose handshake is over. There is one per incarnation; who comes again must
    /// have lost the one before. Of members of the first view the peer is the rank (`connect_as`).
    pub fn connect(&mut self, channel: Channel) -> Result<Peer, Error> {
        let free = match self.links.iter().position(Option::is_none) {
            None if self.ghosts.len() >= GHOSTS_MAX => self.forget_ghost(),
            free => free,
        };
        let peer = Peer(free.unwrap_or(self.links.len()) as u16);
        self.connect_as(peer, channel)?;
        Ok(peer)
    }

    /// The same under a number that is free.
    pub fn connect_as(&mut self, peer: Peer, channel: Channel) -> Result<(), Error> {
        let at = usize::from(peer.0);
        let mut link = Link::new(channel, self.measures.clone())?;
        if let Some(met) = &mut self.met {
            link.mirror.carry();
            met.push_back(peer);
        }
        while self.links.len() <= at {
            self.links.push(None);
        }
        assert!(self.links[at].is_none(), "the number is free");
        self.links[at] = Some(link);
        if self.watched {
            self.watch_all()?;
        }
        self.hear(at); // what was read before makes no socket readable
        Ok(())
    }

    /// The place of the one that has ended first, which is free now.
    fn forget_ghost(&mut self) -> Option<usize> {
        let oldest = self.ghosts.pop_front().filter(|at| !self.peers.contains(&Some(*at)))?;
        self.links[oldest] = None;
        self.mine.iter_mut().for_each(|mine| {
            mine.seen.retain(|(seen, _)| usize::from(seen.0) != oldest);
        });
        Some(oldest)
    }

    /// Lets a lobby make the connections from now on.
    pub fn attend(&mut self, lobby: Lobby) -> Result<(), Error> {
        self.watch.add(&lobby.door, TOKEN_DOOR)?;
        self.lobby = Some(lobby);
        Ok(())
    }

    pub fn lobby(&mut self) -> Option<&mut Lobby> {
        self.lobby.as_mut()
    }

    /// Who is in the view at hand, but me.
    fn members(&self) -> Vec<u64> {
        let links = self.peers.iter().flatten().filter_map(|at| self.links[*at].as_ref());
        links.map(|link| link.incarnation).collect()
    }

    /// One round of the lobby.
    #[cold]
    fn meet(&mut self) {
        let now = Instant::now();
        let members = self.members();
        let Some(lobby) = &mut self.lobby else { return };
        if !std::mem::take(&mut self.knocked) && !lobby.is_due(now) {
            return;
        }
        let gone = |who: &u64| {
            let its = |link: &&Link| link.incarnation == *who && !link.has_ended();
            !self.links.iter().flatten().any(|link| its(&link))
        };
        let ended: Vec<u64> = lobby.abouts().iter().map(|of| of.incarnation).filter(gone).collect();
        ended.into_iter().for_each(|who| lobby.forget(who));
        for new in lobby.step(now, self.admits, &members) {
            match new {
                New::Peer(session, asks) => self.keep(*session, asks),
                New::Stream(who, session) if Arc::strong_count(&self.streams) <= STREAMS_MAX => {
                    match stream::plain(*session, &self.streams) {
                        Ok(stream) => self.offered.push_back((who, stream)),
                        Err(trouble) => {
                            say(Level::Warning, &format!("no state transfer: {trouble}"));
                        }
                    }
                }
                New::Reach(who, session) if Arc::strong_count(&self.reaches) <= STREAMS_MAX => {
                    match stream::plain(*session, &self.reaches) {
                        Ok(stream) => self.reached.push_back((who, stream)),
                        Err(trouble) => {
                            say(Level::Warning, &format!("no registered memory: {trouble}"));
                        }
                    }
                }
                New::Stream(..) | New::Reach(..) => {} // hung up on
            }
        }
        if let Some((whom, asks)) = self.lobby.as_mut().and_then(|lobby| lobby.asks(now)) {
            for peer in whom.into_iter().filter_map(|who| self.peer(who)).collect::<Vec<_>>() {
                self.say(peer, asks);
            }
        }
    }

    fn keep(&mut self, session: Session, asks: bool) {
        let incarnation = session.incarnation();
        let Session { socket, keys, leftover: before, .. } = session;
        let keys = keys.map(|keys| Keys { send: keys.send, receive: keys.receive });
        // Whoever was here before with this number has ended, and is no member any more.
        match self.connect(Channel { socket, incarnation, keys, before }) {
            Ok(peer) if self.lobby.as_ref().is_some_and(Lobby::founds) => {
                if let Some(socket) = self.link(peer).and_then(Link::socket) {
                    let _ = talk::end_after(&socket, talk::FOUNDERS_SILENCE); // until all are let in
                }
            }
            Ok(peer) if asks => {
                self.say(peer, lobby::WHO);
            }
            Ok(_) => {}
            Err(trouble) => {
                say(Level::Warning, &format!("a connection is lost: {trouble}"));
                if let Some(lobby) = &mut self.lobby {
                    lobby.forget(incarnation);
                }
            }
        }
    }

    /// Incarnations that I am connected with, as they know, too.
    pub fn connected(&self) -> Vec<u64> {
        let live = self.links.iter().flatten().filter(|link| !link.has_ended());
        let all = live.map(|link| link.incarnation);
        all.filter(|who| self.lobby.as_ref().is_none_or(|lobby| lobby.is_sure(*who))).collect()
    }

    /// Whom the driver lets in now: for the door.
    pub fn admits(&self) -> Admission {
        self.admits
    }

    /// My memory of an epoch, made elsewhere: instead of `own`, for who shows the same memory over
    /// another fabric, too.
    pub fn lend(&mut self, epoch: Epoch, memory: &Memory) {
        self.name_first(epoch);
        match self.mine.iter_mut().find(|mine| mine.epoch == epoch) {
            Some(mine) => mine.memory = memory.clone(),
            None => self.mine.push(Mine { epoch, memory: memory.clone(), seen: Vec::new() }),
        }
    }

    /// For threads that send while the turn thread sleeps. `None` if it never does.
    pub fn own_bell(&self) -> Option<OwnBell> {
        self.setup.parks.then(|| OwnBell::new(self.bell.clone(), self.asleep_here.clone()))
    }

    fn link(&self, peer: Peer) -> Option<&Link> {
        self.links.get(usize::from(peer.0))?.as_ref()
    }

    fn link_mut(&mut self, peer: Peer) -> Option<&mut Link> {
        self.links.get_mut(usize::from(peer.0))?.as_mut()
    }

    /// Epoch 0 turns out to be that one.
    fn name_first(&mut self, epoch: Epoch) {
        if let Some(first) = self.mine.iter_mut().find(|mine| mine.epoch == FIRST) {
            first.epoch = epoch;
        }
    }

    /// Reads what a peer has sent.
    #[inline]
    fn hear(&mut self, peer: usize) {
        let Some(link) = self.links.get_mut(peer).and_then(Option::as_mut) else { return };
        if let Err(over) = link.hear() {
            if let Some(text) = link::sentence(over, peer) {
                say(Level::Warning, &text);
            }
            return self.end(peer);
        }
        if self.watched && link.watched == link.mirror.is_put_off() {
            self.watch_again(peer);
        }
    }

    /// Who waits for memory of mine is not listened to, and watched again by the clock: what it has sent
    /// would end each sleep at once (M4).
    #[cold]
    fn watch_again(&mut self, peer: usize) {
        let put_off = |link: &Link| link.mirror.is_put_off();
        let put_off = self.links[peer].as_ref().is_some_and(put_off);
        if put_off && self.again.is_none() {
            self.again = Alarm::new(&self.watch, TOKEN_AGAIN).ok();
        }
        let Some(link) = &mut self.links[peer] else { return };
        let Some(socket) = link.socket() else { return };
        if put_off && self.again.is_some() {
            self.watch.remove(socket);
            link.watched = false;
        } else if !put_off {
            match self.watch.add(socket, peer as u64) {
                Ok(()) => link.watched = true,
                Err(_) => self.watch_none(), // then each is read
            }
        }
        self.set_again();
    }

    /// Sleep ends when the first of those that wait for memory is to be tried again.
    #[cold]
    fn set_again(&mut self) {
        let rests = self.links.iter().flatten().filter_map(|link| link.mirror.rest());
        if let (Some(again), Some(rest)) = (&self.again, rests.min()) {
            again.set(rest.as_nanos() as u64);
        }
    }

    /// A connection is over here, by either side.
    #[cold]
    fn end(&mut self, peer: usize) {
        if let Some(parting) = self.still(peer) {
            self.hang_up(parting);
        }
    }

    /// The same, and the peer is not told yet.
    fn still(&mut self, peer: usize) -> Option<Parting> {
        let member = self.peers.contains(&Some(peer));
        let link = self.links.get_mut(peer).and_then(Option::as_mut)?;
        if !link.has_ended() && !member && self.admits == Admission::All {
            link.mirror = mirror::Mirror::new(self.measures.clone()); // N1
            self.ghosts.push_back(peer);
        }
        if let Some(socket) = link.socket().filter(|_| link.watched) {
            self.watch.remove(socket);
        }
        self.untold = true;
        link.close()
    }

    /// Reads what those have sent of whom `fd` says that they have; sleeps for that up to a time.
    fn look(&mut self, timeout_ns: Option<u64>) {
        let (mut ready, mut count) = ([0; super::shm::socket::EVENTS_MAX], 0);
        let (mut bell, mut alarm, mut again, mut door) = (false, false, false, false);
        self.watch.wait(timeout_ns, |token, _| match token {
            TOKEN_BELL => bell = true,
            TOKEN_DOOR => door = true,
            TOKEN_ALARM => alarm = true,
            TOKEN_AGAIN => again = true,
            peer => {
                ready[count] = peer as usize;
                count += 1;
            }
        });
        if bell {
            self.bell.silence();
        }
        let alarms = [(&self.alarm, alarm), (&self.again, again)];
        for set in alarms.into_iter().filter_map(|(set, rings)| set.as_ref().filter(|_| rings)) {
            set.silence();
        }
        ready[..count].iter().for_each(|peer| self.hear(*peer));
        self.knocked |= door;
        if self.lobby.is_some() {
            self.meet();
        }
    }

    /// From now on `fd` tells what sockets have.
    fn watch_all(&mut self) -> Result<(), Error> {
        for (peer, link) in self.links.iter_mut().enumerate() {
            let Some(link) = link.as_mut().filter(|link| !link.watched) else { continue };
            let Some(socket) = link.socket() else { continue };
            self.watch.add(socket, peer as u64)?;
            link.watched = true;
        }
        self.watched = true;
        for peer in 0..self.links.len() {
            if self.links[peer].as_ref().is_some_and(|link| link.mirror.is_put_off()) {
                self.watch_again(peer);
            }
        }
        Ok(())
    }

    #[cold]
    fn watch_none(&mut self) {
        for link in self.links.iter_mut().flatten() {
            if let Some(socket) = link.socket().filter(|_| link.watched) {
                self.watch.remove(socket);
            }
            (link.watched, link.awaited) = (false, false);
        }
        self.watched = false;
    }

    fn sleeps(&self) -> bool {
        self.asleep != OwnBell::awake(self.asleep)
    }

    /// What need not be done in every poll.
    #[cold]
    fn keep_house(&mut self) {
        self.awake += 1;
        if self.watched && self.awake > LOOKS_AWAKE && !self.sleeps() && !self.are_many() {
            self.watch_none();
        }
        self.beat_ahead();
        for link in self.links.iter_mut().flatten() {
            if link.outgoing.is_full() {
                link.outgoing.hurry(LOOK_POLLS);
                link.flush_if_due();
            } else if link.outgoing.owes_beat() || link.outgoing.has_waiting() {
                link.flush();
            }
        }
        for at in 0..self.links.len() {
            if self.links[at].as_ref().is_some_and(|link| link.mirror.waits() == Some(true)) {
                self.hear(at);
                self.set_again();
            }
        }
        if !self.partings.is_empty() {
            let now = Instant::now();
            self.partings.retain(|parting| !parting.is_over(now));
        }
    }

    fn are_many(&self) -> bool {
        self.links.len() > READ_EACH_MAX
    }

    /// Reports ends of connections, by rank, once (F5); who was revoked is none.
    #[cold]
    fn tell(&mut self, events: &mut Events) {
        self.untold = false;
        for (peer, rank) in self.peers.iter().zip((0..).map(Rank)) {
            let link = peer.and_then(|peer| self.links[peer].as_ref());
            if link.is_some_and(Link::has_ended) && !self.gone.contains(rank) {
                self.gone.insert(rank);
                events.lost.insert(rank);
            }
        }
    }

    /// Forgets connections that have ended, of processes that are no members any more.
    fn tidy(&mut self) {
        self.ghosts.clear();
        for at in 0..self.links.len() {
            let member = self.peers.contains(&Some(at));
            if !member && self.links[at].as_ref().is_some_and(Link::has_ended) {
                self.links[at] = None;
                self.mine.iter_mut().for_each(|mine| {
                    mine.seen.retain(|(seen, _)| usize::from(seen.0) != at);
                });
            }
        }
    }
}

impl Fabric for Tcp {
    fn posting(&self) -> Posting {
        Posting::All
    }

    fn polls(&self) -> bool {
        true
    }

    fn post(&mut self, posts: &[Post]) {
        let (mut told, mut news) = (Members::NONE, Members::NONE);
        for post in posts {
            told = told.union(post.to());
            if !matches!(post, Post::Words { news: false, .. }) {
                news = news.union(post.to());
            }
            for rank in post.to().iter() {
                let Some(peer) = self.peers[rank.index()] else { continue };
                let Some(link) = &mut self.links[peer] else { continue };
                match *post {
                    Post::Words { at, values, len, .. } => {
                        link.push(Parcel::Words { at, values, len });
                    }
                    Post::Span { ring, from, upto, .. } => {
                        link.push(Parcel::Span { ring, from, upto });
                    }
                    Post::Bell { .. } => {}
                }
            }
        }
        for rank in told.iter() {
            let link = self.peers[rank.index()].and_then(|at| self.links[at].as_mut());
            let Some(link) = link else { continue };
            if news.contains(rank) || !link.outgoing.may_wait() {
                link.flush();
            }
        }
    }

    fn poll(&mut self, look: bool, events: &mut Events) {
        if self.are_many() && !self.watched {
            let _ = self.watch_all(); // else each is read
        }
        if look || self.watched {
            self.look(Some(0));
        }
        if !self.watched {
            let all = if look { self.links.len() } else { 0 };
            (0..all).for_each(|peer| self.hear(peer));
            for rank in 0..if look { 0 } else { self.peers.len() } {
                if let Some(peer) = self.peers[rank] {
                    self.hear(peer);
                }
            }
        }
        if look {
            self.keep_house();
        }
        for (peer, rank) in self.peers.iter().zip((0..).map(Rank)) {
            let Some(link) = peer.and_then(|peer| self.links[peer].as_mut()) else { continue };
            if link.outgoing.is_late() {
                link.flush();
            }
            if link.outgoing.is_full() {
                link.flush_if_due();
                if link.outgoing.is_full() {
                    events.full.insert(rank);
                }
            }
        }
        if self.untold {
            self.tell(events);
        }
    }

    fn revoke(&mut self, peer: Peer) {
        if let Some(parting) = self.disown(peer) {
            self.hang_up(parting);
        }
    }

    fn beat(&mut self) {
        self.beat_ahead();
        for link in self.links.iter_mut().flatten() {
            // What waits may be the view that I beat in.
            if link.outgoing.owes_beat() || link.outgoing.has_waiting() {
                link.flush();
            }
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }

    fn arm(&mut self, room: bool) {
        if !self.setup.parks {
            return;
        }
        self.asleep = OwnBell::asleep(self.asleep, room);
        self.asleep_here.publish(self.asleep);
        crate::mem::order::fence(); // P: `asleep` before the last look
        self.awake = 0;
        if !self.watched && self.watch_all().is_err() {
            self.bell.ring(); // it cannot sleep
        }
        for (peer, link) in self.links.iter_mut().enumerate() {
            let Some(link) = link.as_mut() else { continue };
            let outgoing = &link.outgoing;
            if !outgoing.is_full() && !outgoing.owes_beat() && !outgoing.waits() {
                continue;
            }
            link.flush();
            if let Some(socket) = link.socket()
                && link.outgoing.is_full()
            {
                self.watch.await_writable(socket, peer as u64, true);
                link.awaited = true;
            }
        }
    }

    fn sleep(&mut self, timeout_ns: Option<u64>, events: &mut Events) {
        self.look(timeout_ns);
        self.poll(true, events);
    }

    fn disarm(&mut self) {
        self.asleep = OwnBell::awake(self.asleep);
        self.asleep_here.publish(self.asleep);
        for (peer, link) in self.links.iter_mut().enumerate() {
            let Some(link) = link.as_mut().filter(|link| link.awaited) else { continue };
            link.awaited = false;
            if let Some(socket) = link.socket() {
                self.watch.await_writable(socket, peer as u64, false);
            }
        }
    }

    fn ways(&self, tell: &mut dyn FnMut(Rank, Way)) {
        for (peer, rank) in self.peers.iter().zip((0..).map(Rank)) {
            let link = peer.and_then(|peer| self.links[peer].as_ref());
            if let Some(link) = link.filter(|link| !link.has_ended()) {
                let (queued_bytes, full) = link.outgoing.load();
                tell(rank, Way::Tcp { remote: link.remote, queued_bytes, full });
            }
        }
    }

    fn farewell(&mut self) {
        let Some(block) = &self.block else { return };
        let at = self.setup.closed_at;
        block.cell(at).publish(1);
        let mut values = [0; POST_WORDS_MAX];
        values[0] = 1;
        for peer in self.peers.iter().flatten() {
            let Some(link) = &mut self.links[*peer] else { continue };
            link.push(Parcel::Words { at: at as u32, values, len: 1 });
            link.part();
        }
        self.left = true;
    }

    fn parks(&self) -> bool {
        self.setup.parks
    }

    fn exchange(&mut self) -> Option<&mut dyn Exchange> {
        self.setup.views.then_some(self)
    }
}

/// The last words are sent, and taken, before the connections are closed; a peer that does not read
/// is not waited for for long.
impl Drop for Tcp {
    fn drop(&mut self) {
        if !self.left {
            return;
        }
        let until = Instant::now() + FAREWELL;
        let mut links: Vec<&mut Link> = self.links.iter_mut().flatten().collect();
        loop {
            links.retain_mut(|link| {
                link.flush();
                link.ignore();
                !link.is_done()
            });
            if links.is_empty() || Instant::now() >= until {
                return;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}
