// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shared memory: a mirror *is* the owner's memory, mapped read-only. A post is a bell at most.
//!
//! H1  The peers' maps are read-only and sealed, so no member can damage another's memory.
//! H2  A connection per peer stays open; its hang-up is the peer's death (F5),
//!     since forked children do not hold it (`fork`). What comes through it is not listened to, but
//!     where views change (`exchange`).
//! H3  A bell is rung only if its owner has said "asleep" since it was last rung, and after a fence
//!     that follows the stores it is about (P).
//!
//! Cost of `post`: nothing if no member ever sleeps; else one fence and one load per peer, and a
//! system call per sleeping peer.

pub mod door;
pub mod exchange;
pub mod fork;
mod links;
pub mod peers;
pub mod place;
pub mod socket;
mod users;

use super::{Exchange, Fabric, Way};
use crate::base::{Events, Members, Peer, Post, Posting, Rank, Versions};
use crate::error::{Error, Status};
use crate::log_sink::{Level, say};
use crate::mem::{Cell, Region, order};
use crate::sst::layout::Layout;
use door::{Door, Hello, Kind};
use exchange::{OwnMemory, Showroom};
use socket::{Alarm, Bell, Socket, Watch};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The `asleep` word: a generation, so that one sleep is rung once, and a state.
const AWAKE: u64 = 0;
const ASLEEP: u64 = 1;
const ASLEEP_FOR_ROOM: u64 = 2;
const STATE_BITS: u64 = 2;

/// How long the door stays shut when nobody can be let in, and who cannot be heard waits: a descriptor
/// may be free by then.
const SHORT_WAIT: Duration = Duration::from_millis(100);

/// Descriptors that one look asks about.
const EVENTS_MAX: usize = socket::EVENTS_MAX;

const TOKEN_BELL: u64 = u64::MAX;
const TOKEN_DOOR: u64 = u64::MAX - 1;
const TOKEN_VISITOR: u64 = u64::MAX - 2;
const TOKEN_ALARM: u64 = u64::MAX - 3;

/// What is known of another member on this host.
#[derive(Debug)]
pub struct Neighbour {
    pub rank: Rank,
    pub versions: Versions,
    pub pid: u32,
    pub parks: bool,
    pub socket: Socket,
    pub bell: Bell,
}

struct Link {
    /// 0 where nobody asks.
    incarnation: u64,
    /// A founder's is its rank.
    seat: u16,
    versions: Versions,
    /// Where other hosts reach it.
    doors: String,
    pid: u32,
    parks: bool,
    /// `None`: closed here.
    socket: Option<Socket>,
    /// `None`: it was no member, and has ended.
    bell: Option<Bell>,
    /// Its control block of the view entered last, if it is a member.
    block: Arc<Region>,
    /// The last `asleep` word that was rung for.
    rung: u64,
    /// Nothing more comes through the connection.
    ended: bool,
    /// I have closed the connection: its end is no news.
    revoked: bool,
    /// Its other end is certain to know of it (X5).
    sure: bool,
    /// What it says next waits until this process can take it (`links`).
    short: Option<Error>,
}

/// The shared-memory fabric of one member.
pub struct Shm {
    /// By peer; `None`: mine, or nobody's.
    links: Vec<Option<Link>>,
    /// By rank of the view entered last: the peer.
    peers: Vec<Option<usize>>,
    block: Arc<Region>,
    bell: Arc<Bell>,
    watch: Watch,
    door: Door,
    hello: Hello,
    stats: OwnedFd,
    asleep_at: usize,
    closed_at: usize,
    parks: bool,
    /// Generation and state of my own `asleep` word; and the same for threads of this process.
    asleep: u64,
    asleep_here: Arc<Cell>,
    /// Ranks whose end was reported; whether some may still be to be.
    gone: Members,
    untold: bool,
    /// Since when the door is not watched, because somebody knocks who cannot be let in.
    shut: Option<Instant>,
    /// That has been said.
    shut_told: bool,
    /// Since when somebody waits to be heard, because this process lacks descriptors.
    starved: Option<Instant>,
    /// Places of processes that were no members and have ended, the oldest first.
    ghosts: VecDeque<usize>,
    /// `None`: the view is fixed.
    showroom: Option<Showroom>,
    /// This member has come to found the group.
    founds: bool,
    /// Counts changes of who is connected.
    moves: u64,
}

/// Rings one's own bell from another thread: for an application thread whose group sleeps.
#[derive(Clone)]
pub struct OwnBell {
    bell: Arc<Bell>,
    asleep: Arc<Cell>,
    rung: u64,
}

impl OwnBell {
    /// For fabrics whose members sleep on a descriptor of their own.
    pub(in crate::fabric) fn new(bell: Arc<Bell>, asleep: Arc<Cell>) -> OwnBell {
        OwnBell { bell, asleep, rung: 0 }
    }

    /// What the `asleep` word becomes when its owner falls asleep, and when it wakes.
    pub(in crate::fabric) fn asleep(word: u64, room: bool) -> u64 {
        let generation = (word >> STATE_BITS) + 1;
        generation << STATE_BITS | if room { ASLEEP_FOR_ROOM } else { ASLEEP }
    }

    pub(in crate::fabric) fn awake(word: u64) -> u64 {
        word - word % (1 << STATE_BITS)
    }

    /// To be called after the stores that the turn thread should see (P).
    #[inline]
    pub fn ring_if_asleep(&mut self) {
        order::fence(); // P
        let asleep = self.asleep.observe();
        if asleep % (1 << STATE_BITS) != AWAKE && asleep != self.rung {
            self.rung = asleep;
            self.bell.ring();
        }
    }
}

impl OwnBell {
    /// Wakes the turn thread whatever it does.
    pub fn ring_always(&self) {
        self.bell.ring();
    }
}

/// What `Shm::new` is made of.
pub struct Parts {
    pub me: Rank,
    pub members: usize,
    /// Control blocks by rank.
    pub blocks: Vec<Arc<Region>>,
    pub neighbours: Vec<Neighbour>,
    pub bell: Bell,
    pub door: Door,
    pub hello: Hello,
    /// The statistics page, for whoever asks.
    pub stats: OwnedFd,
    /// Where views change: what my memory is to be.
    pub memory: Option<OwnMemory>,
}

impl Shm {
    pub fn new(parts: Parts, layout: &Layout) -> Result<Shm, Error> {
        let watch = Watch::new()?;
        watch.add(&parts.bell, TOKEN_BELL)?;
        if let Some(listener) = &parts.door.listener {
            watch.add(listener, TOKEN_DOOR)?;
        }
        let mut links: Vec<Option<Link>> = (0..parts.members).map(|_| None).collect();
        let mut peers = vec![None; parts.members];
        for Neighbour { rank, versions, pid, parks, socket, bell } in parts.neighbours {
            watch.add(&socket, u64::from(rank.0))?;
            peers[rank.index()] = Some(rank.index());
            let block = parts.blocks[rank.index()].clone();
            let incarnation = block.cell(layout.incarnation.byte(0)).observe();
            let mut link = Link::new((incarnation, rank.0), (pid, parks), socket, bell, block);
            link.versions = versions;
            links[rank.index()] = Some(link);
        }
        let (parks, founds) = (parts.hello.parks, parts.hello.kind == Kind::Join);
        let mut showroom = parts.memory.map(Showroom::new);
        if let Some(showroom) = showroom.as_mut().filter(|_| parks) {
            // Now, while a missing descriptor is an error and not a member that does not beat.
            showroom.alarm = Some(Alarm::new(&watch, TOKEN_ALARM)?);
        }
        Ok(Shm {
            links,
            peers,
            block: parts.blocks[parts.me.index()].clone(),
            bell: Arc::new(parts.bell),
            watch,
            door: parts.door,
            hello: Hello { kind: Kind::Welcome, ..parts.hello },
            founds,
            stats: parts.stats,
            asleep_at: layout.asleep.byte(0),
            closed_at: layout.closed.byte(0),
            parks,
            asleep: 0,
            asleep_here: Arc::new(Cell::new(AWAKE)),
            gone: Members::NONE,
            untold: false,
            shut: None,
            shut_told: false,
            starved: None,
            ghosts: VecDeque::new(),
            showroom,
            moves: 0,
        })
    }

    /// For threads that send while the turn thread sleeps. `None` if it never does.
    pub fn own_bell(&self) -> Option<OwnBell> {
        self.parks.then(|| OwnBell {
            bell: self.bell.clone(),
            asleep: self.asleep_here.clone(),
            rung: 0,
        })
    }

    pub fn pid(&self, rank: Rank) -> Option<u32> {
        Some(self.link(self.peers[rank.index()]?)?.pid)
    }

    fn link(&self, peer: usize) -> Option<&Link> {
        self.links.get(peer)?.as_ref()
    }

    fn look(&mut self, timeout_ns: Option<u64>, events: &mut Events) {
        let timeout_ns = if self.shut.is_some() { self.reopen(timeout_ns) } else { timeout_ns };
        let timeout_ns =
            if self.starved.is_some() { self.listen_again(timeout_ns) } else { timeout_ns };
        let (mut bell, mut door, mut alarm) = (false, false, false);
        let (mut moved, mut count) = ([(0, false); EVENTS_MAX], 0);
        self.watch.wait(timeout_ns, |token, hung_up| match token {
            TOKEN_BELL => bell = true,
            TOKEN_DOOR | TOKEN_VISITOR => door = true,
            TOKEN_ALARM => alarm = true,
            peer => {
                moved[count] = (peer as usize, hung_up);
                count += 1;
            }
        });
        if bell {
            self.bell.silence();
        }
        if door {
            self.serve();
        }
        if let Some(alarm) =
            self.showroom.as_ref().filter(|_| alarm).and_then(|of| of.alarm.as_ref())
        {
            alarm.silence();
        }
        for &(peer, hung_up) in &moved[..count] {
            if self.showroom.is_some() {
                self.hear(peer, hung_up);
            } else if !hung_up {
                self.ignore(peer);
            } else {
                self.hang_up(peer);
            }
        }
        if count > 0 || self.untold {
            self.tell(events);
        }
    }

    /// Reports ends of connections, by rank, once (F5).
    fn tell(&mut self, events: &mut Events) {
        self.untold = false;
        for (peer, rank) in self.peers.iter().zip((0..).map(Rank)) {
            let ended = |link: &Link| link.ended && !link.revoked;
            let link = peer.and_then(|peer| self.links[peer].as_ref());
            if link.is_some_and(ended) && !self.gone.contains(rank) {
                self.gone.insert(rank);
                events.lost.insert(rank);
            }
        }
    }

    /// After the rendezvous nobody says anything. What a peer says all the same stays unread, and
    /// does not wake this member again; the peer's end still does (H2).
    fn ignore(&mut self, peer: usize) {
        let Some(socket) = self.link(peer).and_then(|link| link.socket.as_ref()) else { return };
        self.watch.await_hang_up(socket, peer as u64);
        let text = format!("rank {peer} says what nobody expects; it is not listened to");
        say(Level::Warning, &text);
    }

    /// Somebody knocks who cannot be let in, and would wake this member again and again.
    pub(super) fn shut_the_door(&mut self, trouble: &Error) {
        if self.shut.is_some() {
            return;
        }
        if let Some(listener) = &self.door.listener {
            self.watch.remove(listener);
        }
        self.shut = Some(Instant::now());
        if !std::mem::replace(&mut self.shut_told, true) {
            say(Level::Warning, &format!("a visitor waits at the door: {trouble}"));
        }
    }

    /// Watches the door again when it is time; until then nobody sleeps longer.
    fn reopen(&mut self, timeout_ns: Option<u64>) -> Option<u64> {
        if let Some(rest) = rest_of(self.shut) {
            return Some(timeout_ns.map_or(rest, |timeout| timeout.min(rest)));
        }
        let watched = |listener: &Socket| self.watch.add(listener, TOKEN_DOOR).is_ok();
        if self.door.listener.as_ref().is_none_or(watched) {
            self.shut = None;
        }
        timeout_ns
    }

    /// Answers whoever knocks at a group that is complete.
    fn serve(&mut self) {
        let watch = &self.watch;
        let visitors = self.door.visitors(|socket| watch.add(socket, TOKEN_VISITOR));
        match self.door.trouble.take() {
            Some(trouble) => self.shut_the_door(&trouble),
            None => self.shut_told = false,
        }
        for visitor in visitors {
            match visitor.hello.kind {
                Kind::Enter | Kind::Probe if self.showroom.is_some() => self.let_in(visitor),
                Kind::Join if self.begins() => self.let_in(visitor),
                Kind::Stat => {
                    door::welcome(&visitor.socket, &self.hello, &[self.stats.as_fd()]);
                }
                Kind::Probe => {
                    door::welcome(&visitor.socket, &self.hello, &[]);
                }
                Kind::Join
                | Kind::Enter
                | Kind::Stream
                | Kind::Reach
                | Kind::Welcome
                | Kind::Refuse => {
                    let what = match self.showroom {
                        Some(_) => "the group runs already: join it (`join = true`)",
                        None => "the group is complete",
                    };
                    let sentence = format!(
                        "{what}; rank {} is open in process {}: wait for its end, or choose another name",
                        self.hello.rank, self.hello.pid
                    );
                    let status = Status::InUse;
                    door::refuse(&visitor.socket, status, &sentence, Some(&self.hello));
                }
            }
        }
    }
}

/// What is left of the time that somebody waits who cannot be let in or heard, in nanoseconds.
fn rest_of(since: Option<Instant>) -> Option<u64> {
    let waited = since.map_or(SHORT_WAIT, |since| since.elapsed());
    (waited < SHORT_WAIT).then(|| (SHORT_WAIT - waited).as_nanos() as u64)
}

impl Fabric for Shm {
    fn posting(&self) -> Posting {
        let mut peers = self.peers.iter().flatten();
        let anybody = peers.any(|peer| self.link(*peer).is_some_and(|link| link.parks));
        if anybody { Posting::Bells } else { Posting::Nothing }
    }

    fn post(&mut self, posts: &[Post]) {
        if posts.is_empty() {
            return;
        }
        order::fence(); // P: my cells before their `asleep`
        for post in posts {
            let Post::Bell { to, news } = *post else { continue };
            for rank in to.iter() {
                let Some(peer) = self.peers[rank.index()] else { continue };
                let Some(link) = &mut self.links[peer] else { continue };
                if !link.parks {
                    continue;
                }
                let asleep = link.block.cell(self.asleep_at).observe();
                let state = asleep % (1 << STATE_BITS);
                let waits = state == ASLEEP_FOR_ROOM || (state == ASLEEP && news);
                if waits && asleep != link.rung && !self.gone.contains(rank) {
                    link.rung = asleep; // H3
                    link.bell.iter().for_each(Bell::ring);
                }
            }
        }
    }

    fn poll(&mut self, look: bool, events: &mut Events) {
        if look {
            self.look(Some(0), events);
        }
    }

    fn revoke(&mut self, peer: Peer) {
        // Its words are no longer observed, because the engine looks away; the maps stay as long as
        // messages of its may be in a callback.
        let Some(link) = self.links.get_mut(usize::from(peer.0)).and_then(Option::as_mut) else {
            return;
        };
        if let Some(socket) = &link.socket {
            self.watch.remove(socket);
        }
        if self.showroom.is_some() {
            (link.socket, link.revoked) = (None, true); // N4
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }

    fn arm(&mut self, room: bool) {
        if !self.parks {
            return;
        }
        self.asleep = OwnBell::asleep(self.asleep, room);
        self.block.cell(self.asleep_at).publish(self.asleep);
        self.asleep_here.publish(self.asleep);
        order::fence(); // P: `asleep` before the last look
    }

    fn disarm(&mut self) {
        let state = self.asleep % (1 << STATE_BITS);
        if state != AWAKE {
            self.asleep -= state;
            self.block.cell(self.asleep_at).publish(self.asleep);
            self.asleep_here.publish(self.asleep);
        }
    }

    fn ways(&self, tell: &mut dyn FnMut(Rank, Way)) {
        for (peer, rank) in self.peers.iter().zip((0..).map(Rank)) {
            if peer.and_then(|peer| self.link(peer)).is_some_and(|link| !link.ended) {
                tell(rank, Way::Shm);
            }
        }
    }

    fn farewell(&mut self) {
        self.block.cell(self.closed_at).publish(1);
    }

    fn sleep(&mut self, timeout_ns: Option<u64>, events: &mut Events) {
        self.look(timeout_ns, events);
    }

    fn parks(&self) -> bool {
        self.parks
    }

    fn exchange(&mut self) -> Option<&mut dyn Exchange> {
        self.showroom.is_some().then_some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sst::layout::{Mode, Shape};
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    /// Rank 0 of two, in this process; the other end of its connection to rank 1.
    fn member(name: &str) -> (Shm, Socket) {
        let name = format!("squall/{name}-{}/0", std::process::id());
        let listener = Socket::listen(&name).unwrap().unwrap();
        let theirs = Socket::connect(&name).unwrap().unwrap();
        let socket = listener.accept().unwrap().unwrap();
        let mode = Mode::Stable;
        let shape = Shape {
            senders: 2,
            lanes: 1,
            mode,
            window: 1,
            message_bytes_max: 16,
            ring_bytes: 4096,
        };
        let layout = Layout::new(&[shape]);
        let (rank, bell) = (Rank(1), Bell::new().unwrap());
        let versions = Versions::OURS;
        let neighbour = Neighbour { rank, versions, pid: 1, parks: true, socket, bell };
        let parts = Parts {
            me: Rank(0),
            members: 2,
            blocks: (0..2).map(|_| Arc::new(Region::heap(layout.control_bytes))).collect(),
            neighbours: vec![neighbour],
            bell: Bell::new().unwrap(),
            door: Door::new(listener),
            hello: Hello::new(Kind::Join, 0, true, ""),
            stats: std::fs::File::open("/dev/null").unwrap().into(),
            memory: None,
        };
        (Shm::new(parts, &layout).unwrap(), theirs)
    }

    fn wakes(shm: &Shm) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&shm.fd(), PollFlags::IN)], Some(&now)).unwrap() == 1
    }

    /// Each word of it woke a member that slept, for ever if there were enough.
    #[test]
    fn a_peer_that_chats_is_not_listened_to_and_dies_all_the_same() {
        let (mut shm, peer) = member("chat");
        let mut events = Events::default();
        assert!(!wakes(&shm));
        (0..100).for_each(|_| assert!(peer.send(b"by the way", &[])));
        assert!(wakes(&shm));
        shm.sleep(None, &mut events);
        assert!(!wakes(&shm) && events.lost.is_empty());
        assert!(peer.send(b"what I wanted to say", &[]));
        assert!(!wakes(&shm));
        drop(peer);
        assert!(wakes(&shm));
        shm.sleep(None, &mut events);
        assert!(!wakes(&shm) && events.lost.contains(Rank(1)));
    }

    /// The door of a member that can let nobody in stayed readable: it never slept again.
    #[test]
    fn a_shut_door_wakes_nobody() {
        let (mut shm, _peer) = member("shut");
        let name = format!("squall/shut-{}/0", std::process::id());
        let visitor = Socket::connect(&name).unwrap().unwrap();
        assert!(visitor.send(&Hello::new(Kind::Probe, 0, false, "").encode(), &[]));
        assert!(wakes(&shm));
        shm.shut_the_door(&Error::new(Status::Limit, "no descriptor"));
        assert!(!wakes(&shm));
        // It is tried again by itself, and then the visitor is let in.
        let mut answer = None;
        while answer.is_none() {
            shm.sleep(None, &mut Events::default());
            answer = visitor.receive();
        }
        assert!(answer.unwrap().is_some());
    }
}
