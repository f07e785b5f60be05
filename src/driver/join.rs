// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a process joins a group that runs.
//!
//! It takes the lowest free seat, connects to everybody who has one, and asks all of them; whoever
//! leads proposes it once it is connected to every member (`Ask::connected`). The view that it is
//! joined to comes with a letter from each of its other members; the first one counts. Its memory for
//! that view was made and shown before it asked, so nobody waits for that. If its application takes
//! a state, it gets that first, and the letter along with it (`fetch`).
//!
//! J1  A member never calls a joiner; of two joiners the one in the higher seat calls the other. So
//!     each pair is connected once. A call that is under way when its caller becomes a member is
//!     dropped: then the other calls it (`shm/exchange`, X5).
//! J2  A seat is bound before the others are looked for: of two processes one sees the other.
//! J3  Who cannot reach everybody is not proposed, and gives up in the end: it would be joined and
//!     cut off at once.
//! J4  Once it knows its view it beats, after each member's memory that it maps. What one member shows
//!     takes about a quarter of a millisecond per MiB, so that is gigabytes before it is silent for
//!     the usual time to suspicion. It does not beat before: who is in the roster and does not hear of
//!     it, or is not given its state, is to be suspected, since all wait for it.
//! J5  Who cannot hear what it is told, for want of descriptors, gives up at once: it may be in the
//!     roster.
//! J6  Across hosts one may come to join before the founders of its host are there: their seats, which
//!     are their ranks, are left to them. And it asks again now and then: founders do not listen yet.

mod fetch;
mod found;
mod guest;

use super::Application;
use super::config::{Config, Idle};
use super::group::{Group, incarnation};
use super::letter::{Ask, Letter, read_refusal};
use super::lines::{self, Lines, Myself};
use super::network::Carrier;
use super::policy::{Policy, config_text, sends};
use super::rendezvous::{CALL_AGAIN, name_taken};
use super::views::Views;
use super::{state, stats};
use crate::base::{Epoch, Events, Members, Peer, Rank};
use crate::error::{Error, Status};
use crate::fabric::Admission;
use crate::fabric::greeting::cannot_follow;
use crate::fabric::shm::door::{Door, Hello, Kind, compare};
use crate::fabric::shm::exchange::OwnMemory;
use crate::fabric::shm::place::Place;
use crate::fabric::shm::socket::{Bell, Parcel, Socket};
use crate::fabric::shm::{Parts, Shm};
use crate::fabric::tcp::secret::Secret;
use crate::group::membership::roster::{Address, Member, Roster};
use crate::group::membership::{Install, Timings};
use crate::group::view::View;
use crate::limits::MEMBERS_MAX;
use crate::mem::Region;
use crate::mem::region::Want;
use crate::sst::layout::Layout;
use fetch::Fetched;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Seats that are looked at: twice as many as there can be members, since processes that are no
/// members any more keep theirs for a while.
const SEATS: u16 = 2 * MEMBERS_MAX as u16;
/// How often one that joins asks again whom it has asked (J6).
const ASK_AGAIN: Duration = Duration::from_millis(500);

struct Joining<'a> {
    config: &'a Config,
    place: Place,
    start: Instant,
    hello: Hello,
    /// Calls that wait for an answer.
    calls: Vec<(u16, Socket)>,
    /// When all seats were called last.
    called: Option<Instant>,
    /// With whom I am connected: seat, peer, incarnation.
    connected: Vec<(u16, Peer, u64)>,
    /// What they were told last, and when.
    asked: Vec<u64>,
    asked_at: Instant,
    refusal: Option<Error>,
}

/// Joins a group that runs; blocks until it is a member or `open_timeout` ends, but for the time
/// that a state takes which comes.
pub fn join(config: &Config, mut application: Box<dyn Application>) -> Result<Group, Error> {
    let rank = if config.join { 0 } else { config.rank }; // it says nothing to one that joins
    let config = &Config { rank, ..config.clone() };
    state::options(config).check()?;
    let secret = lines::secret_of(config)?; // once: a pipe is empty then
    let mut start = Instant::now();
    loop {
        let joined = join_once(config, secret.as_ref(), &mut *application, &mut start)?;
        if let Some((views, lines, page)) = joined {
            return Ok(Group::joined(views, lines, application, page, config));
        }
    }
}

/// What a member that has joined begins with.
type Joined = (Box<Views>, Lines, Arc<Region>);

/// Joins as one incarnation. `None`: it has asked to be joined, has lost its source since, and has
/// left again; or it was to be a founder, and another one failed just then. Try as another one.
fn join_once(
    config: &Config,
    secret: Option<&Secret>,
    application: &mut dyn Application,
    start: &mut Instant,
) -> Result<Option<Joined>, Error> {
    let view = config.view()?;
    let policy = Policy::new(config)?;
    let text = config_text(config, &view)?;
    let kind = if config.join { Kind::Enter } else { Kind::Join };
    let mut hello = Hello::new(kind, u16::MAX, config.idle == Idle::Park, &text);
    (hello.incarnation, hello.versions) = (incarnation(), config.versions);
    let place = Place::new(&config.near_name(), &config.peers)?;
    let mut joining = Joining::new(config, place, *start, hello);
    if config.network.carrier == Carrier::Shm {
        joining.find()?;
    }
    let door = joining.open_door()?;
    let (block_bytes, ring_bytes) = policy.sizes();
    let name = format!("squall-{}-{}", config.group, joining.hello.rank);
    let (lock, huge) = (config.lock, config.huge);
    let own = OwnMemory { name, block_bytes, ring_bytes, lock, huge };
    let (page, page_fd) = stats_page(&policy)?;
    let nothing = Arc::new(Layout::new(&[]));
    let block = Arc::new(Region::heap(nothing.control_bytes));
    let parts = Parts {
        me: Rank(0),
        members: 1,
        blocks: vec![block.clone()],
        neighbours: Vec::new(),
        bell: Bell::new()?,
        door,
        hello: joining.hello.clone(),
        stats: page_fd,
        memory: Some(own),
    };
    let shm = Shm::new(parts, &nothing)?;
    let (seat, incarnation, largest) =
        (joining.hello.rank, joining.hello.incarnation, policy.largest());
    let (text, place) = (&joining.hello.config, &joining.place);
    let me = Myself { seat, incarnation, text, largest: &largest, secret, page: &page, place };
    let mut lines = lines::open(config, shm, &me)?;
    joining.hello.doors = lines.doors();
    let sends = if config.join { policy.joiner_sends() } else { sends(&view, Rank(config.rank)) };
    lines.exchange().own(Epoch(0), &sends)?;
    lines.exchange().admit(Admission::Higher);
    let letter = match application.sink().filter(|_| config.join) {
        None if !config.join => match joining.found(&mut lines, &sends)? {
            Some(letter) => letter,
            None => return Ok(None),
        },
        None => joining.wait(&mut lines, &policy)?,
        Some(sink) => match joining.fetch(&mut lines, (&policy, &page), sink)? {
            Fetched::Whole(letter) => *letter,
            Fetched::Late(letter, end) => {
                *start = joining.start;
                let letter = letter.map(|letter| *letter);
                let left = joining.take_leave(lines, policy, letter, (block, page));
                return end.map_or(left.map(|()| None), Err);
            }
        },
    };
    let views = joining.begin(&mut lines, policy, letter, block)?;
    Ok(Some((views, lines, page)))
}

/// What this member will count, for whoever looks.
fn stats_page(policy: &Policy) -> Result<(Arc<Region>, OwnedFd), Error> {
    let bytes = stats::page_bytes(policy.subgroups(), MEMBERS_MAX);
    let (page, shown) = Region::share("squall-stats", bytes, Want::No, Want::No, &mut Vec::new())?;
    Region::seal(&shown)?;
    Ok((Arc::new(page), shown))
}

impl Joining<'_> {
    fn new(config: &Config, place: Place, start: Instant, hello: Hello) -> Joining<'_> {
        Joining {
            config,
            place,
            start,
            hello,
            calls: Vec::new(),
            called: None,
            connected: Vec::new(),
            asked: Vec::new(),
            asked_at: start,
            refusal: None,
        }
    }

    fn is_late(&self) -> bool {
        self.start.elapsed() >= self.config.open_timeout
    }

    /// Finds a member that runs.
    fn find(&mut self) -> Result<(), Error> {
        let probe = Hello { kind: Kind::Probe, ..self.hello.clone() };
        loop {
            let mut calls = Vec::new();
            for seat in 0..SEATS {
                if let Some(socket) = self.place.call(seat)?
                    && socket.send(&probe.encode(), &[])
                {
                    calls.push((seat, socket));
                }
            }
            for _ in 0..8 {
                std::thread::sleep(CALL_AGAIN);
                for at in (0..calls.len()).rev() {
                    let (seat, socket) = &calls[at];
                    let Some(answer) = socket.receive() else { continue };
                    let hello = answer.and_then(|(bytes, _)| Hello::decode(&bytes));
                    if let Some(hello) = hello
                        && self.is_welcome(&hello, *seat)?
                    {
                        return Ok(());
                    }
                    calls.swap_remove(at);
                }
            }
            if self.is_late() {
                return Err(self.nobody());
            }
        }
    }

    fn nobody(&mut self) -> Error {
        self.refusal.take().unwrap_or_else(|| {
            let detail = format!(
                "group {}: nobody is there to join within {:.1} s; start its first members, or join \
                 later",
                self.config.group,
                self.config.open_timeout.as_secs_f64()
            );
            Error::new(Status::NotComplete, detail)
        })
    }

    /// Whether an answer is a welcome. An error: members have another configuration.
    fn is_welcome(&mut self, theirs: &Hello, seat: u16) -> Result<bool, Error> {
        let who = format!("seat {seat}");
        if !theirs.config.is_empty() {
            compare(&self.hello, theirs, &who)?;
        }
        if let Some((status, sentence)) = &theirs.refusal {
            let status = Status::from_code(*status).unwrap_or(Status::System);
            self.refusal = Some(Error::new(status, format!("{who}: {sentence}")));
            return Ok(false);
        }
        Ok(theirs.kind == Kind::Welcome)
    }

    fn open_door(&mut self) -> Result<Door, Error> {
        let listener = match self.config.join {
            true => self.sit_down()?,
            false => self.take_seat(self.config.rank)?,
        };
        Ok(self.place.door(listener))
    }

    /// Takes the lowest free seat (J2); across hosts none that a founder may still come to (J6).
    fn sit_down(&mut self) -> Result<Socket, Error> {
        let first = if self.config.network.carrier == Carrier::Shm { 0 } else { SEATS / 2 };
        for seat in (first..SEATS).chain(0..first) {
            if let Some(listener) = self.place.listen(seat)? {
                self.hello.rank = seat;
                return Ok(listener);
            }
        }
        let detail = format!(
            "group {}: all {SEATS} seats are taken: close groups that have stopped, or choose another \
             name",
            self.config.group
        );
        Err(Error::new(Status::InUse, detail))
    }

    /// Takes a founder's seat, which is that of its rank.
    fn take_seat(&mut self, rank: u16) -> Result<Socket, Error> {
        self.hello.rank = rank;
        let listener = self.place.listen(rank)?;
        listener.ok_or_else(|| name_taken(self.config, &self.place, &self.hello))
    }

    /// Until a view begins that I am in.
    fn wait(&mut self, lines: &mut Lines, policy: &Policy) -> Result<Letter, Error> {
        let rings = policy.joiner_sends();
        loop {
            let mut events = Events::default();
            lines.fabric().sleep(Some(CALL_AGAIN.as_nanos() as u64), &mut events);
            while let Some((_, bytes)) = lines.exchange().heard() {
                if let Some(letter) = Letter::decode(&bytes, self.hello.incarnation) {
                    return Ok(letter);
                }
                self.hear_refusal(&bytes)?;
            }
            self.connect(lines)?;
            self.ask(lines, &rings)?;
            if self.is_late() {
                return Err(self.not_joined());
            }
        }
    }

    /// An error: it is one.
    fn hear_refusal(&self, bytes: &[u8]) -> Result<(), Error> {
        let Some(wire) = read_refusal(bytes) else { return Ok(()) };
        let detail = cannot_follow("this process", self.config.versions, wire);
        Err(Error::new(Status::WireVersion, format!("group {}: {detail}", self.config.group)))
    }

    /// Asks all whom I am connected with, whenever those have changed, and now and then (J6).
    fn ask(&mut self, lines: &mut Lines, rings: &[usize]) -> Result<(), Error> {
        let mut all = lines.connected();
        all.sort_unstable();
        if all == self.asked && self.asked_at.elapsed() < ASK_AGAIN {
            return Ok(());
        }
        self.asked_at = Instant::now();
        let (seat, versions) = (self.hello.rank, self.config.versions);
        let ask = Ask { seat, versions, connected: all.clone() }.encode();
        let peers: Vec<Peer> = all.iter().filter_map(|who| lines.exchange().peer(*who)).collect();
        for peer in peers {
            lines.exchange().show(Epoch(0), peer, rings)?;
            lines.exchange().say(peer, &ask);
        }
        self.asked = all;
        Ok(())
    }

    fn not_joined(&mut self) -> Error {
        let (group, connected) = (&self.config.group, self.connected.len());
        let why = self.refusal.take().map(|refusal| format!("; {refusal}")).unwrap_or_default();
        let detail = format!(
            "group {group}: not joined within {:.1} s, connected to {connected} processes{why}: whoever \
             joins must reach every member; wait longer, or look for members that do not poll",
            self.config.open_timeout.as_secs_f64()
        );
        Error::new(Status::NotComplete, detail)
    }

    /// Calls whoever is not connected, now and then, and reads answers (J1).
    fn connect(&mut self, lines: &mut Lines) -> Result<(), Error> {
        while lines.exchange().offered().is_some() {} // I have no state to give
        if let Some(short) = lines.exchange().shortage() {
            return Err(short); // J5
        }
        self.connected.retain(|(_, peer, _)| !lines.exchange().has_ended(*peer));
        let far = lines.far_ones();
        self.connected.retain(|of| !far.contains(of));
        self.connected.extend(far.iter().filter(|of| !lines.exchange().has_ended(of.1)));
        if let Some((trouble, fatal)) = lines.trouble() {
            if fatal {
                return Err(trouble);
            }
            self.refusal = Some(trouble);
        }
        if !self.config.network.carrier.shares_memory() {
            return Ok(());
        }
        // Once it is joined the members wait for this process: then it must not be calling.
        let every = if self.asked.is_empty() { CALL_AGAIN } else { 8 * CALL_AGAIN };
        if self.called.is_none_or(|called| called.elapsed() >= every) {
            self.call_all(lines.near())?;
            self.called = Some(Instant::now());
        }
        self.read_answers(lines)
    }

    fn call_all(&mut self, shm: &Shm) -> Result<(), Error> {
        for seat in (0..SEATS).filter(|seat| *seat != self.hello.rank) {
            // Those on other hosts have seats of their own there.
            let known = shm.neighbours().any(|(_, its, ..)| its == seat);
            if known || self.calls.iter().any(|call| call.0 == seat) {
                continue;
            }
            if let Some(socket) = self.place.call(seat)?
                && socket.send(&self.hello.encode(), &[shm.bell()])
            {
                self.calls.push((seat, socket));
            }
        }
        Ok(())
    }

    fn read_answers(&mut self, lines: &mut Lines) -> Result<(), Error> {
        for at in (0..self.calls.len()).rev() {
            let Some(answer) = self.calls[at].1.receive_parcel() else { continue };
            let (seat, socket) = self.calls.swap_remove(at);
            let Some(Parcel { bytes, mut descriptors, short }) = answer else { continue };
            if let Some(short) = short {
                return Err(short);
            }
            let Some(theirs) = Hello::decode(&bytes) else { continue };
            if !self.is_welcome(&theirs, seat)? || theirs.incarnation == 0 {
                continue;
            }
            let Some(bell) = descriptors.pop() else { continue };
            let peer = lines.near().connect(&theirs, socket, Bell::from_descriptor(bell)?)?;
            self.connected.push((seat, lines.name_of_near(peer), theirs.incarnation));
        }
        Ok(())
    }

    /// What the view begins with, and everybody's memory of it.
    fn begin(
        &mut self,
        lines: &mut Lines,
        mut policy: Policy,
        letter: Letter,
        block: Arc<Region>,
    ) -> Result<Box<Views>, Error> {
        self.calls.clear(); // J1: whoever was called hears of it at once
        let Letter { roster, carry, joined, assignment } = letter;
        if self.config.join {
            let restored = policy.restore(&assignment, &roster);
            restored.map_err(|why| Error::new(Status::PeerFault, why))?;
        }
        let address = Address { extra: self.hello.rank, ..Address::default() };
        let incarnation = self.hello.incarnation;
        let versions = self.config.versions;
        let alone = Member { seniority: u64::MAX, incarnation, address, versions };
        let before = Roster { epoch: Epoch(0), me: Rank(0), base: 0, members: vec![alone] };
        let none = View { epoch: Epoch(0), me: Rank(0), members: 1, subgroups: Vec::new() };
        let (time, lags) = (self.config.suspicion_ns, policy.lags(self.config));
        let exchange = lines.exchange();
        let first = (before, none);
        let mut views = Box::new(Views::new(policy, first, time, &lags, exchange, vec![block]));
        views.untold = None;
        views.options = self.config.options();
        let install = Install { roster, carry, joined, gone: Members::NONE };
        views.begin(install, Timings::default(), super::clock(), exchange)?;
        while !views.gather(super::clock(), lines.exchange())? {
            let mut events = Events::default();
            lines.fabric().sleep(Some(CALL_AGAIN.as_nanos() as u64), &mut events);
        }
        Ok(views)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::config::Changes;
    use crate::mem::Message;
    use std::net::TcpListener;
    use std::sync::Mutex;

    /// It took a founder's seat, was taken for that founder, and asked before anybody listened.
    #[test]
    fn one_that_joins_may_come_before_the_founders() {
        let group = format!("early-{}", std::process::id());
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let founders = [free(), free()];
        let all_in = Arc::new(Mutex::new(0));
        let open = |rank: u16, join: bool| {
            let mut config = Config::new(&group, rank, 2);
            (config.membership, config.idle) = (Changes::Views, Idle::Yield);
            (config.join, config.suspicion_ns) = (join, 20_000_000_000);
            let network = &mut config.network;
            (network.carrier, network.trusted) = (Carrier::Auto, true);
            network.listen = vec![if join { free() } else { founders[usize::from(rank)].clone() }];
            let addresses = if join { &mut network.contacts } else { &mut network.founders };
            *addresses = founders.to_vec();
            let all_in = all_in.clone();
            std::thread::spawn(move || {
                let nobody = Box::new(|_: u16, _: &[Message]| {});
                let mut member = Group::open(&config, nobody).map_err(|why| why.to_string())?;
                // Told before anything is delivered: a founder's first view is no change, to join is one.
                let told = member.stats();
                let steps = (told.changes, told.last.built.0 != 0);
                assert_eq!(steps, (u64::from(join), join));
                let mut is_in = false;
                while *all_in.lock().unwrap() < 3 {
                    member.turn(u32::MAX).map_err(|status| format!("{status:?}"))?;
                    if member.members() == 3 && !std::mem::replace(&mut is_in, true) {
                        *all_in.lock().unwrap() += 1;
                    }
                    std::thread::yield_now();
                }
                Ok::<(), String>(())
            })
        };
        let joins = open(0, true);
        std::thread::sleep(Duration::from_millis(300));
        let founders = [open(0, false), open(1, false)];
        for one in founders.into_iter().chain([joins]) {
            assert_eq!(one.join().unwrap(), Ok(()));
        }
    }

    /// It was let in as one that joins, waited for the others to found the group with it, and heard in the
    /// end that not all had met.
    #[test]
    fn a_founder_that_comes_again_is_told_that_the_group_runs() {
        let group = format!("again-{}", std::process::id());
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let founders = [free(), free()];
        let open = |rank: u16, timeout_ms: u64| {
            let mut config = Config::new(&group, rank, 2);
            (config.membership, config.idle) = (Changes::Views, Idle::Yield);
            config.suspicion_ns = 20_000_000_000;
            config.open_timeout = Duration::from_millis(timeout_ms);
            (config.network.carrier, config.network.trusted) = (Carrier::Auto, true);
            config.network.listen = vec![founders[usize::from(rank)].clone()];
            config.network.founders = founders.to_vec();
            Group::open(&config, Box::new(|_: u16, _: &[Message]| {}))
        };
        let error = std::thread::scope(|scope| {
            let other = scope.spawn(|| open(1, 60_000).map(Group::close));
            let mut first = open(0, 60_000).unwrap();
            let mut turn_until = |over: &dyn Fn() -> bool| {
                while !over() {
                    first.turn(0).unwrap();
                    std::thread::yield_now();
                }
            };
            turn_until(&|| other.is_finished());
            other.join().unwrap().unwrap();
            let again = scope.spawn(|| open(1, 600).err());
            turn_until(&|| again.is_finished());
            again.join().unwrap().expect("it is no founder any more")
        });
        let said = |word: &str| assert!(error.detail.contains(word), "{word}: {error}");
        assert_eq!(error.status, Status::NotComplete);
        said("the group runs already");
        said("`join = true`");
    }

    /// Its process kept the seat until it closed the group, though nobody answered there.
    #[test]
    fn who_has_left_gives_its_seat_away_at_once() {
        let group = format!("seat-of-one-{}", std::process::id());
        let mut config = Config::new(&group, 0, 1);
        (config.membership, config.idle) = (Changes::Views, Idle::Yield);
        let mut member = Group::open(&config, Box::new(|_: u16, _: &[Message]| {})).unwrap();
        let seat = || Place::usual(&group).listen(0).unwrap();
        member.turn(0).unwrap();
        assert!(seat().is_none());
        member.control().unwrap().leave();
        while member.turn(0).is_ok() {}
        assert_eq!(member.turn(0), Err(Status::Left));
        assert!(seat().is_some(), "the group is open still");
    }
}
