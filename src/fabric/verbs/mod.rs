// SPDX-License-Identifier: MIT OR Apache-2.0
//! Members on other hosts by RDMA: the TCP fabric for all that is met, shown and said, and beside each of
//! its connections a queue pair by which posts are written into the peer's memory, without it.
//!
//! A peer's memory lies here as with TCP (`tcp::mirror`), on the heap, by peer and epoch; what is new is
//! that it is open to its owner's writes. Long spans and beats are written there, without a copy at either
//! side. All else of a turn goes as one *note* (`notes`) into a ring of the reader's, and lands when that
//! polls: what a write costs is the work request, not its bytes.
//!
//! K1  Two ways have no order. So nothing of an epoch goes by both at once: what is said *ahead* goes by
//!     TCP, and from `enter` on words and spans go by the queue only. (A word of TCP's that landed
//!     after a newer one of the queue's would turn a counter back: its owner would be suspected.) For the
//!     same reason words go in notes only, and a beat, which has no order with them, in none.
//! K2  `enter` is a frame behind all that was said ahead, and who has read it answers with the *keys* of
//!     its mirror; so the first write of the queue comes after the last word of TCP.
//! K3  Until the keys are here a peer is full, and what is posted to it all the same waits in order, behind
//!     my block as it was when I entered. To be full is nothing new to the engine: words keep their newest
//!     value, spans stay a range (`group::outbox`, O2), as with TCP when a socket has no room. An answer
//!     takes a round trip: while one is awaited, each poll reads the connections.
//! K4  The memory of an epoch stays open to its owner until this says *done*: all that it wrote there has
//!     landed (whoever reads *done* takes the notes first that have), and the other has entered a later
//!     epoch, too. Until then my beat is written in both, so that who is behind sees me (what `tcp::mirror`
//!     does at the reader, M5: here it would race with the queue), and who is behind and slow is heard by
//!     those who have passed on.
//! K5  Each epoch has regions of its own, and so keys of its own; after `revoke`, or the end of the
//!     connection, all that the peer had keys of is closed before anything else is done (F4).
//! K6  After `revoke` the queue lives on for a moment, for the last words that were posted, and only behind
//!     them the connection is closed (N4): a suspect that hears of its end first takes it for mine, and of
//!     two that suspect each other the others believe whom they hear first. Where the words cannot be heard
//!     the end comes after that moment: by then the others have heard. (A suspect that itself writes where
//!     nothing is open any more, K5, ends its queue so, and reports that, K7: the words were posted before
//!     the memory was closed, so they come first but where a packet is lost.) Who has stopped may not be
//!     polled again, and closes at once.
//! K7  A queue that fails ends its connection, with the cause in one line of the log: that is what is
//!     reported, once (F5). Silence breaks no queue: RC's acknowledgements come from the device of a
//!     stopped process, too. Heartbeats are the engine's.
//! K8  In good order: the word `closed` behind all posts, then the completion of all of that, then the end
//!     of the connection. So whoever sees the end has the word in its ring of notes, and takes what is there
//!     before it reports the end, or lets go of a queue that has failed. (A completion says that the peer's
//!     device has taken a write; that its host sees it earlier than the kernel of that host reads and passes
//!     on a TCP segment sent afterwards is what this rests on.) Of two that leave at once the one that ends
//!     first has been heard; with its connection it cuts off what the other still had for it.
//! K9  Nothing of what is *said* rests on words that were posted before, or the other way round: what the
//!     driver says are requests to join and their answers, which name epochs, and founding, which is over
//!     before the first view. Shared memory and TCP keep that order; this fabric does not.
//! K10 A peer that sleeps says so once, in its endpoint, and gets a *bell* with each turn's news: the last
//!     write announces itself there. It answers its receives in every poll, since a writer without one waits.
//! K11 `beat` (in a callback that takes long) also reads the connections while keys are awaited: who has
//!     just entered beats nowhere else.
//! K12 How much of a ring of notes was taken is said by the reader (`notes`, B3). A peer that takes none
//!     (it is stopped, or in a long callback) is full when its ring is; what waits is bounded (K3).
//!
//! What lands was not encrypted nor authenticated (`tcp/threats.md`): RDMA is for networks that are trusted.
//!
//! Cost: per turn and peer a write per long span, one of a note, and one doorbell; a turn without posts is a
//! load per peer, and a look at the completion queue while something is under way.

#[forbid(unsafe_code)]
pub mod carrier;
mod chain;
pub mod completions;
pub mod device;
#[forbid(unsafe_code)]
mod exchange;
pub mod failure;
pub mod gid;
pub mod lent;
#[forbid(unsafe_code)]
mod line;
pub mod memory;
#[forbid(unsafe_code)]
mod notes;
pub mod ordering;
pub mod queue;
pub mod raw;
pub mod reach;
mod setup;
pub mod slots;
pub mod sys;
#[forbid(unsafe_code)]
mod theirs;
#[forbid(unsafe_code)]
mod trouble;

#[cfg(all(test, not(loom)))]
#[path = "members/tests.rs"]
mod members;
#[cfg(all(test, not(loom)))]
mod tests;

use super::shm::OwnBell;
use super::shm::fork::forks;
use super::shm::socket::Watch;
use super::tcp::mirror::Carried;
use super::tcp::{Parting as Closing, Tcp};
use super::{Exchange, Fabric, Way};
use crate::base::{Events, Members, POST_WORDS_MAX, Peer, Post, Posting, Rank};
use crate::error::{Error, Status};
use crate::limits::MEMBERS_MAX;
use crate::log_sink::{Level, say};
use crate::mem::Region;
use crate::mutant;
use carrier::{Message, Nonsense};
use completions::Completions;
use device::{Device, News};
use gid::Choice;
use line::{Line, Own};
use memory::Memory as Registered;
use notes::{PLACES, Reader, Writer};
use ordering::Verdict;
use queue::{Depths, Manner, Queue, Taken};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use sys::Table;
use theirs::Theirs;
use trouble::Trouble;

/// Queues at once: members, and some who join or have just gone.
const QUEUES_MAX: usize = MEMBERS_MAX + 16;
/// Receives of one that sleeps: bells that each peer may ring before they are answered.
const RECEIVES: u16 = 64;
/// Completions that one poll takes, about: what is left is there in the next.
const COMPLETIONS_MAX: usize = 1024;
/// Notes of one peer's that one poll takes.
const NOTES_MAX: u64 = PLACES;
/// How long a queue is kept after `revoke`, and what `drop` waits for after a farewell.
const PARTING: Duration = Duration::from_millis(500);

const TOKEN_TCP: u64 = 0;
const TOKEN_BELL: u64 = 1;
const TOKEN_NEWS: u64 = 2;

/// How queues are made.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    pub depths: Depths,
    pub manner: Manner,
}

/// One connection's part of this fabric.
struct Place {
    line: Line,
    theirs: Theirs,
    reader: Reader,
    /// This member goes: up to where the queue must be complete before that.
    leaves: Option<Option<u64>>,
}

/// A queue whose peer was revoked (K6).
struct Parting {
    index: u16,
    line: Line,
    mark: Option<u64>,
    /// The connection, to be closed behind that mark.
    connection: Option<Closing>,
    until: Instant,
}

/// The verbs fabric of one member.
pub struct Verbs {
    /// By peer.
    places: Vec<Option<Place>>,
    partings: Vec<Parting>,
    /// Peers that have no queue yet, for want of room.
    unmet: Vec<Peer>,
    /// My rings, open to my own device, of epochs that are not entered.
    sources: Vec<(Arc<Region>, Arc<Registered>)>,
    completions: Completions,
    device: Arc<Device>,
    tcp: Tcp,
    setup: Setup,
    /// By rank of the view entered last: the peer.
    peers: Vec<Option<usize>>,
    own: Option<Arc<Own>>,
    watch: Watch,
    /// What the connections have reported and nobody has been told.
    heard: Events,
    /// Some line has something to do in each poll; a peer is to answer; a connection was cut.
    stirs: bool,
    waits: bool,
    cut: bool,
    parks: bool,
    left: bool,
    /// It has stopped: nobody may poll again (K6).
    stops: bool,
    /// In which process this was made.
    forks: u64,
}

/// The fabric beside `tcp`, which has no connection yet, over the port that suits best.
///
/// Errors: `System`: libibverbs or a device is missing, or does not keep the order of writes (F2), with the
/// remedy; `Invalid`: a figure of `setup`; `NoMemory`, `Limit`: what this process lacks.
pub fn open(tcp: Tcp, choice: &Choice, setup: Setup) -> Result<Verbs, Error> {
    setup.manner.check()?;
    let device = Device::open(&library()?, choice)?;
    match ordering::check(&device)? {
        Verdict::Holds { .. } => {}
        Verdict::Untried(why) => {
            let text = format!("{}: the order of its writes was not tried: {why}", device.name());
            say(Level::Notice, &text);
        }
        Verdict::Breaks(what) => {
            let detail = format!(
                "{}: {what}: counters could land before what they count; use another device \
                 (`rdma.device`), or fabric = \"tcp\"",
                device.name()
            );
            return Err(Error::new(Status::System, detail));
        }
    }
    say(Level::Notice, &format!("RDMA over {}", device.line()));
    Verbs::new(tcp, device, setup)
}

/// libibverbs; in tests what `plant` has put in its place for this thread.
fn library() -> Result<Arc<Table>, Error> {
    #[cfg(test)]
    if let Some(planted) = PLANTED.with_borrow(Option::clone) {
        return Ok(planted);
    }
    Table::load()
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::RefCell<Option<Arc<Table>>> = const { std::cell::RefCell::new(None) };
}

/// What this thread opens from now on is over that table.
#[cfg(test)]
pub fn plant(table: Arc<Table>) {
    PLANTED.set(Some(table));
}

impl Verbs {
    /// `tcp` has no connection yet.
    ///
    /// Errors: `System`, `NoMemory`, `Limit`: what the device or this process lacks.
    pub fn new(mut tcp: Tcp, device: Arc<Device>, mut setup: Setup) -> Result<Verbs, Error> {
        tcp.leave_posts();
        let parks = tcp.parks();
        setup.depths.send = setup.depths.send.min(PLACES as u16); // B4 of `notes`
        if parks && setup.depths.receive == 0 {
            setup.depths.receive = RECEIVES;
        }
        let completions = Completions::new(&device, QUEUES_MAX, &setup.depths)?;
        let watch = Watch::new()?;
        watch.add(tcp.fd(), TOKEN_TCP)?;
        watch.add(completions.fd(), TOKEN_BELL)?;
        watch.add(device.fd(), TOKEN_NEWS)?;
        Ok(Verbs {
            places: Vec::new(),
            partings: Vec::new(),
            unmet: Vec::new(),
            sources: Vec::new(),
            completions,
            device,
            tcp,
            setup,
            peers: Vec::new(),
            own: None,
            watch,
            heard: Events::default(),
            stirs: false,
            waits: false,
            cut: false,
            parks,
            left: false,
            stops: false,
            forks: forks(),
        })
    }

    /// Who meets whom, and what is said.
    pub fn tcp(&self) -> &Tcp {
        &self.tcp
    }

    pub fn tcp_mut(&mut self) -> &mut Tcp {
        &mut self.tcp
    }

    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// For threads that send while the turn thread sleeps. `None` if it never does.
    pub fn own_bell(&self) -> Option<OwnBell> {
        self.tcp.own_bell()
    }

    /// Whether all that was posted has landed, bells, too: to be asked until it has. For tests.
    pub fn has_landed(&mut self) -> bool {
        self.complete();
        let mut lines = self.places.iter_mut().flatten().map(|place| &mut place.line);
        lines.all(|line| matches!(line.is_drained(&mut None), Ok(true)))
    }

    fn place(&mut self, peer: usize) -> Option<&mut Place> {
        self.places.get_mut(peer)?.as_mut()
    }

    /// Reads the connections: who is new, what peers say, who has ended.
    fn listen(&mut self) {
        self.cut = false;
        self.tcp.poll(true, &mut self.heard);
        let late = mutant!("verbs-ends-before-its-notes");
        if !late {
            self.take_notes(); // before *done* is heard, and of those who have ended (K4, K8)
        }
        let unmet = std::mem::take(&mut self.unmet);
        unmet.into_iter().for_each(|peer| self.meet(peer));
        while let Some(peer) = self.tcp.next_met() {
            self.meet(peer);
        }
        for at in 0..self.tcp.places() {
            let peer = Peer(at as u16);
            while let Some(carried) = self.tcp.next_carried(peer) {
                if let Err(trouble) = self.hear(at, carried) {
                    self.fail(at, &trouble);
                }
            }
            if !self.tcp.lives(peer) && self.places.get(at).is_some_and(Option::is_some) {
                self.places[at] = None; // K5
            }
        }
        self.places.truncate(self.tcp.places());
        if late {
            self.take_notes();
        }
    }

    /// A connection is there: a queue beside it, and how it is reached.
    fn meet(&mut self, peer: Peer) {
        let at = usize::from(peer.0);
        if self.places.len() <= at {
            self.places.resize_with(at + 1, || None);
        }
        self.places[at] = None; // whoever had that number before
        if !self.tcp.lives(peer) {
            return;
        }
        let (queue, writer, reader) = match self.make(peer) {
            Ok(made) => made,
            // There is when completions have been polled.
            Err(error) if error.status == Status::Again => return self.unmet.push(peer),
            Err(error) => return self.fail(at, &error),
        };
        let (endpoint, place, bells) = (queue.endpoint(), self.device.place(), self.parks);
        let notes = reader.remote();
        let (line, theirs) = (Line::new(queue, writer), Theirs::new(self.tcp.measures().clone()));
        self.places[at] = Some(Place { line, theirs, reader, leaves: None });
        self.tell(at, &Message::Endpoint { endpoint, place, notes, bells });
        self.stir();
    }

    fn make(&self, peer: Peer) -> Result<(Queue, Writer, Reader), Error> {
        let queue = Queue::new(&self.completions, peer.0, &self.setup.depths)?;
        Ok((queue, Writer::new(&self.device)?, Reader::new(&self.device)?))
    }

    /// Takes the notes that are there.
    #[inline]
    fn take_notes(&mut self) {
        for at in 0..self.places.len() {
            if let Err(trouble) = self.take_notes_of(at) {
                self.fail(at, &trouble);
            }
        }
    }

    #[inline]
    fn take_notes_of(&mut self, at: usize) -> Result<(), Trouble> {
        let Some(Place { line, theirs, reader, .. }) = &mut self.places[at] else { return Ok(()) };
        let end = reader.taken() + NOTES_MAX;
        while reader.taken() < end {
            let Some(note) = reader.next() else { break };
            let said = note.taken;
            if let Err(nonsense) = theirs.land(note) {
                reader.end();
                return Err(nonsense.into());
            }
            line.hear_taken(reader.taken(), said)?;
        }
        if line.owes_word() {
            line.say_taken()?;
        }
        Ok(())
    }

    /// Lets go of a peer's queue and memory, with the last that it had to say (K8).
    fn let_go(&mut self, at: usize) {
        if at < self.places.len() && !mutant!("verbs-ends-before-its-notes") {
            let _ = self.take_notes_of(at); // no news of one that has ended
        }
        if let Some(place) = self.places.get_mut(at) {
            *place = None; // K5
        }
    }

    /// Says something to the fabric of a peer; one that does not listen is none.
    fn tell(&mut self, at: usize, message: &Message) {
        let peer = Peer(at as u16);
        if self.tcp.lives(peer) && !self.tcp.carry(peer, &message.encode()) {
            self.fail(at, &"it does not read what is said to it");
        }
    }

    fn hear(&mut self, at: usize, carried: Carried) -> Result<(), Trouble> {
        let measures = self.tcp.measures().clone();
        let Some(Place { line, theirs, .. }) = self.places.get_mut(at).and_then(Option::as_mut)
        else {
            return Ok(());
        };
        let message = match carried {
            Carried::Said(bytes) => Message::decode(&bytes, &measures)?,
            Carried::Entered(epoch, memory) => {
                if !line.connected {
                    return Err(Nonsense::Order { kind: carrier::ENDPOINT }.into());
                }
                line.entered = epoch;
                if !theirs.enter(epoch, memory) {
                    return Err(Nonsense::Epoch { kind: carrier::DONE, epoch: epoch.0 }.into());
                }
                self.answer(at);
                return Ok(());
            }
        };
        match message {
            Message::Endpoint { .. } if line.connected => {
                Err(Nonsense::Order { kind: carrier::ENDPOINT }.into())
            }
            Message::Endpoint { endpoint, place, notes, bells } => {
                line.queue.connect(&endpoint, &place, &self.setup.manner)?;
                line.connected(notes, bells);
                Ok(())
            }
            Message::Keys(epoch, keys) => {
                line.hear_keys(epoch, keys)?;
                line.flush(true)?;
                line.beat()
            }
            Message::Done(epoch) if theirs.close(epoch) => Ok(()),
            Message::Done(epoch) => {
                Err(Nonsense::Epoch { kind: carrier::DONE, epoch: epoch.0 }.into())
            }
        }
    }

    /// Says keys that a peer waits for (K2).
    fn answer(&mut self, at: usize) {
        loop {
            let device = self.device.clone();
            let Some(place) = self.place(at) else { return };
            match place.theirs.answer(&device) {
                Ok(Some((epoch, keys))) => self.tell(at, &Message::Keys(epoch, keys)),
                Ok(None) => return,
                Err(short) => {
                    let text = format!("peer {at} waits until there is memory for it: {short}");
                    return say(Level::Warning, &text);
                }
            }
        }
    }

    /// A queue carries nothing more, or a peer says nonsense: it is cut off (K7).
    #[cold]
    fn fail(&mut self, at: usize, why: &dyn std::fmt::Display) {
        let peer = Peer(at as u16);
        self.let_go(at);
        if self.tcp.lives(peer) {
            say(Level::Warning, &format!("peer {at} is cut off: {why}"));
            self.tcp.cut(peer);
            self.cut = true;
            self.stirs = true;
        }
    }

    /// Takes completions. A queue that has failed is found here.
    fn complete(&mut self) {
        let (mut failed, mut taken) = (Vec::new(), 0);
        let Verbs { completions, places, partings, .. } = self;
        while taken < COMPLETIONS_MAX {
            let got = completions.poll(|completion| {
                let at = usize::from(completion.index());
                let place = places.get_mut(at).and_then(Option::as_mut);
                let its = place.map_or(Taken::Stale, |place| place.line.queue.take(completion));
                match its {
                    Taken::Failed(failure) => failed.push((at, failure)),
                    Taken::Stale => {
                        for parting in partings.iter_mut().filter(|of| usize::from(of.index) == at)
                        {
                            let _ = parting.line.queue.take(completion);
                        }
                    }
                    Taken::Sent | Taken::Rung => {}
                }
            });
            let Ok(got) = got else { break };
            taken += got;
            if got == 0 {
                break;
            }
        }
        failed.into_iter().for_each(|(at, failure)| self.fail(at, &failure));
    }

    /// Each line has its turn: what waits for room, for keys, or for news; what is over.
    fn step(&mut self) {
        let (mut stirs, mut waits) = (self.parks || self.left, !self.unmet.is_empty());
        for at in 0..self.places.len() {
            let Some(place) = &self.places[at] else { continue };
            let Place { line, theirs, leaves, .. } = place;
            if line.stirs() || line.has_old() || theirs.owes() || leaves.is_some() {
                if let Err(trouble) = self.step_line(at) {
                    self.fail(at, &trouble);
                    continue;
                }
                let Some(place) = &self.places[at] else { continue };
                stirs |= place.line.stirs();
                waits |= place.line.waits() || place.theirs.owes();
            }
        }
        (self.stirs, self.waits) = (stirs || waits || self.cut, waits);
    }

    fn step_line(&mut self, at: usize) -> Result<(), Trouble> {
        let Some(Place { line, leaves, reader, .. }) = self.places[at].as_mut() else {
            return Ok(());
        };
        if line.is_full() {
            line.hear_taken(reader.taken(), reader.peer_has_taken())?;
        }
        line.say_taken()?;
        line.say_quiet(false);
        if line.connected {
            line.flush(true)?;
        }
        if let Some(mark) = leaves
            && line.connected
            && (line.is_drained(mark)? || mutant!("verbs-parts-at-once"))
        {
            *leaves = None;
            if self.left {
                self.tcp.part(Peer(at as u16)); // K8
            }
        }
        let over = line.over()?;
        if let Some(epoch) = over {
            self.tell(at, &Message::Done(epoch)); // K4
        }
        self.answer(at);
        Ok(())
    }

    #[inline]
    fn stir(&mut self) {
        (self.stirs, self.waits) = (true, true);
    }

    /// What need not be done in every poll.
    #[cold]
    fn keep_house(&mut self) {
        let mut news = false;
        self.watch.wait(Some(0), |token, _| news |= token == TOKEN_NEWS);
        while news && let Some(what) = self.device.news() {
            self.hear_news(&what);
        }
        if self.parks {
            self.completions.woken();
        }
        self.beat();
        self.part();
    }

    /// Closes the connections of those that have heard all that they were to hear (K6).
    fn part(&mut self) {
        let Verbs { partings, tcp, .. } = self;
        let now = Instant::now();
        partings.retain_mut(|Parting { line, mark, connection, until, .. }| {
            let stays = now < *until && !matches!(line.is_drained(mark), Ok(true));
            if let Some(connection) = connection.take_if(|_| !stays) {
                tcp.hang_up(connection);
            }
            stays
        });
    }

    fn hear_news(&mut self, news: &News) {
        match news {
            News::Queue { qpn, what } => {
                let its = |place: &Option<Place>| {
                    place.as_ref().is_some_and(|place| place.line.queue.endpoint().qpn == *qpn)
                };
                if let Some(at) = self.places.iter().position(its) {
                    self.fail(at, what);
                }
            }
            News::Device { what } => {
                (0..self.places.len()).for_each(|at| self.fail(at, what));
            }
            News::Port { port, up } => {
                let state = if *up { "up" } else { "down" };
                say(Level::Warning, &format!("{}: port {port} is {state}", self.device.name()));
            }
            News::Other => {}
        }
    }
}

impl Fabric for Verbs {
    fn posting(&self) -> Posting {
        Posting::All
    }

    /// Notes land in a poll; it says who is full; and my beat must be sent.
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
        }
        for rank in told.iter() {
            let Some(at) = self.peers[rank.index()] else { continue };
            let Some(Place { line, .. }) = self.places.get_mut(at).and_then(Option::as_mut) else {
                continue;
            };
            let is_news = news.contains(rank);
            line.post(posts, |post| post.to().contains(rank), is_news);
            let rung = line.flush(is_news);
            self.stirs |= line.stirs();
            if let Err(failure) = rung {
                self.fail(at, &failure);
            }
        }
    }

    fn poll(&mut self, look: bool, events: &mut Events) {
        if !look && !self.stirs {
            self.take_notes();
        } else {
            self.complete();
            if look || self.waits || self.cut {
                self.listen();
            } else {
                self.take_notes();
            }
            if look {
                self.keep_house();
            }
            self.step();
            for (peer, rank) in self.peers.iter().zip((0..).map(Rank)) {
                let place = peer.and_then(|at| self.places.get(at)?.as_ref());
                if place.is_some_and(|place| place.line.is_full()) {
                    events.full.insert(rank);
                }
            }
            let heard = std::mem::take(&mut self.heard);
            events.lost = events.lost.union(heard.lost);
        }
    }

    fn revoke(&mut self, peer: Peer) {
        let at = usize::from(peer.0);
        let Some(place) = self.places.get_mut(at).and_then(Option::take) else {
            return self.tcp.revoke(peer);
        };
        let Place { line, theirs, reader, .. } = place;
        drop((theirs, reader)); // K5
        let mut connection = self.tcp.disown(peer);
        if (!line.has_keys() || self.stops || mutant!("verbs-cuts-at-once"))
            && let Some(connection) = connection.take()
        {
            self.tcp.hang_up(connection); // it was told nothing by the queue
        }
        let until = Instant::now() + PARTING;
        self.partings.push(Parting { index: peer.0, line, mark: None, connection, until }); // K6
    }

    fn beat(&mut self) {
        self.tcp.beat();
        if self.waits {
            self.complete();
            self.listen(); // K11
            self.step();
        }
        for at in 0..self.places.len() {
            if let Some(place) = &mut self.places[at]
                && let Err(trouble) = place.line.beat()
            {
                self.fail(at, &trouble);
            }
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }

    fn arm(&mut self, room: bool) {
        if !self.parks {
            return;
        }
        self.tcp.arm(room);
        let mut full = false;
        for at in 0..self.places.len() {
            let Some(Place { line, .. }) = &mut self.places[at] else { continue };
            // Who has no room may sleep until it has.
            let bell = line.say_quiet(true);
            let tried = line.ring(bell).map_err(Trouble::from).and_then(|()| line.beat());
            full |= line.is_full();
            if let Err(trouble) = tried {
                self.fail(at, &trouble);
            }
        }
        if let Err(error) = self.completions.arm(full) {
            say(Level::Error, &format!("this member cannot sleep: {error}"));
            self.tcp.ring(); // it does not
        }
        self.complete(); // what came before it was armed
        if !mutant!("verbs-arms-blind") {
            self.take_notes(); // their bells are taken: nobody wakes me for them
        }
    }

    fn sleep(&mut self, timeout_ns: Option<u64>, events: &mut Events) {
        self.watch.wait(timeout_ns, |_, _| ());
        self.poll(true, events);
    }

    fn disarm(&mut self) {
        self.tcp.disarm();
    }

    fn ways(&self, tell: &mut dyn FnMut(Rank, Way)) {
        for (peer, rank) in self.peers.iter().zip((0..).map(Rank)) {
            let place = peer.and_then(|at| Some((at, self.places.get(at)?.as_ref()?)));
            if let Some((at, Place { line, .. })) = place {
                let remote = self.tcp.remote(Peer(at as u16));
                let (waiting, counts) = (line.waiting() as u64, *line.queue.counts());
                tell(rank, Way::Verbs { remote, waiting, full: line.full, counts });
            }
        }
    }

    fn device(&self) -> Option<Arc<dyn crate::registered::direct::Device>> {
        Some(Arc::new(lent::Lent::new(self.device.clone(), self.setup.manner)))
    }

    fn farewell(&mut self) {
        let Some(own) = &self.own else { return };
        let at = self.tcp.closed_at();
        own.block.cell(at).publish(1);
        let to = Members::from_ranks((0..self.peers.len() as u16).map(Rank));
        let mut values = [0; POST_WORDS_MAX];
        values[0] = 1;
        self.post(&[Post::Words { to, at: at as u32, values, len: 1, news: true }]);
        for at in self.peers.clone().into_iter().flatten() {
            if let Some(place) = self.place(at) {
                place.leaves = Some(None);
            }
        }
        (self.left, self.stirs) = (true, true);
    }

    fn parks(&self) -> bool {
        self.parks
    }

    fn exchange(&mut self) -> Option<&mut dyn Exchange> {
        self.tcp.exchange()?;
        Some(self)
    }
}

/// What was posted lands before the connections end (K8), as what a socket has taken does; a peer whose
/// device does not answer, or that has not said where, is not waited for for long.
impl Drop for Verbs {
    fn drop(&mut self) {
        if forks() != self.forks {
            return; // all of this is its parent's
        }
        for place in self.places.iter_mut().flatten().filter(|_| !self.left) {
            place.leaves = place.line.has_keys().then_some(None);
        }
        let until = Instant::now() + PARTING;
        let leaves = |place: &Option<Place>| place.as_ref().is_some_and(|of| of.leaves.is_some());
        while self.places.iter().any(leaves) && Instant::now() < until {
            self.poll(true, &mut Events::default());
            std::thread::sleep(Duration::from_micros(100));
        }
        if self.left {
            (0..self.places.len()).for_each(|at| self.tcp.part(Peer(at as u16)));
        }
    }
}
