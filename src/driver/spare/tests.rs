// SPDX-License-Identifier: MIT OR Apache-2.0
//! The store by itself; what the views do with it, on an exchange that the test plays; and what a
//! member has mapped, whoever asks for it.

use super::super::config::{Changes, Config, Idle};
use super::super::group::Group;
use super::super::policy::Policy;
use super::super::views::Views;
use super::*;
use crate::base::{Events, Members, Nanos, Post, Posting, Rank};
use crate::error::Status;
use crate::fabric::{Admission, Exchange, Fabric, Shown};
use crate::group::membership::roster::{Address, Roster};
use crate::group::membership::{Carry, Install, Timings};
use crate::mem::Message;
use crate::mutants::plant;
use crate::sst::layout::Layout;
use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Weak;
use std::time::{Duration, Instant};

fn memory(rings: usize) -> Memory {
    let region = || Arc::new(Region::heap(64));
    let ring = |at| (at < rings).then(region);
    Memory { block: region(), rings: (0..2).map(ring).collect() }
}

fn sizes(rings: usize) -> Sizes {
    Sizes { block: 64, rings: (0..2).map(|at| (at < rings).then_some(64)).collect() }
}

#[test]
fn memory_goes_region_by_region_and_not_before_its_view_is_over() {
    let mut spare = Spare::default();
    let first = memory(1);
    spare.begin(std::slice::from_ref(&first));
    assert!(!spare.release());
    spare.begin(&[memory(1)]);
    assert!(spare.release() && spare.release() && !spare.release());
    assert_eq!(Arc::strong_count(&first.block), 1);
}

#[test]
fn what_was_mapped_early_is_taken_if_nothing_is_missing() {
    let (mut spare, one, two) = (Spare::default(), Peer(1), Peer(2));
    spare.keep(one, Epoch(7), Some(memory(1)));
    spare.keep(two, Epoch(7), None);
    assert!(spare.has(one, Epoch(7)) && !spare.has(one, Epoch(8)) && spare.has(two, Epoch(7)));
    assert!(spare.take(one, Epoch(8), &sizes(1)).is_none());
    assert!(spare.take(one, Epoch(7), &sizes(2)).is_none(), "it is to send in the second, too");
    assert!(spare.take(two, Epoch(7), &sizes(0)).is_none());
    assert!(spare.take(one, Epoch(7), &sizes(1)).is_some());
    assert!(spare.take(one, Epoch(7), &sizes(1)).is_none(), "once");
    spare.keep(two, Epoch(7), Some(memory(2)));
    spare.begin(&[]);
    assert!(spare.take(two, Epoch(7), &sizes(2)).is_none(), "its view has begun without it");
    assert!(spare.release());
}

#[test]
fn what_is_over_makes_room_for_what_is_needed() {
    let mut spare = Spare::default();
    let first = memory(1);
    let there = Arc::downgrade(&first.block);
    spare.begin(std::slice::from_ref(&first));
    drop(first);
    let lacks = || Error::new(Status::NoMemory, "too little");
    let mut room = || if there.strong_count() > 0 { Err(lacks()) } else { Ok(()) };
    assert_eq!(spare.make_room(&mut room), Err(lacks()), "it is of the view at hand");
    spare.begin(&[memory(1)]);
    assert_eq!(spare.make_room(&mut room), Ok(()));
    assert!(!spare.release());
    let mut tries = 0;
    let mut never = || {
        tries += 1;
        Err::<(), _>(lacks())
    };
    assert!(spare.make_room(&mut never).is_err());
    assert_eq!(tries, 1, "nothing is over");
}

/// An exchange of three members, of which this one is rank 0: `Peer(r)` is rank r.
struct Played {
    own: HashMap<Epoch, Memory>,
    theirs: HashMap<(Peer, Epoch), Memory>,
    /// Who was asked for.
    asked: Vec<(Peer, Epoch)>,
    /// Who cannot be mapped, for that reason.
    lacks: Option<(Peer, Error)>,
    /// Memory is only to be had once this is gone.
    room: Option<Weak<Region>>,
    ended: Vec<Peer>,
    /// The word in which this member beats, and what it was at each question.
    pulse: Option<(Arc<Region>, usize)>,
    beats: Vec<u64>,
}

/// More than a view of three needs.
const BYTES: (usize, usize) = (1 << 18, 1 << 20);

fn large() -> Memory {
    Memory {
        block: Arc::new(Region::heap(BYTES.0)),
        rings: vec![Some(Arc::new(Region::heap(BYTES.1)))],
    }
}

impl Played {
    fn new() -> Played {
        let theirs = [(1, 2), (2, 2), (1, 3), (2, 3)];
        Played {
            own: HashMap::new(),
            theirs: theirs.map(|(peer, epoch)| ((Peer(peer), Epoch(epoch)), large())).into(),
            asked: Vec::new(),
            lacks: None,
            room: None,
            ended: Vec::new(),
            pulse: None,
            beats: Vec::new(),
        }
    }
}

impl Exchange for Played {
    fn peer(&self, incarnation: u64) -> Option<Peer> {
        (incarnation > 70).then(|| Peer(incarnation as u16 - 71))
    }
    fn incarnation(&self, peer: Peer) -> Option<u64> {
        Some(u64::from(peer.0) + 71)
    }
    fn admit(&mut self, _whom: Admission) {}
    fn has_ended(&self, peer: Peer) -> bool {
        self.ended.contains(&peer)
    }
    fn own(&mut self, epoch: Epoch, _subgroups: &[usize]) -> Result<Memory, Error> {
        Ok(self.own.entry(epoch).or_insert_with(large).clone())
    }
    fn show(&mut self, _epoch: Epoch, _to: Peer, _subgroups: &[usize]) -> Result<(), Error> {
        Ok(())
    }
    fn shown(&mut self, peer: Peer, epoch: Epoch, _sizes: &Sizes) -> Result<Shown, Error> {
        self.asked.push((peer, epoch));
        if let Some((block, at)) = &self.pulse {
            self.beats.push(block.cell(*at).own());
            std::thread::sleep(Duration::from_micros(10)); // it takes its time
        }
        if let Some((_, lacks)) = self.lacks.as_ref().filter(|(of, _)| *of == peer) {
            return Err(lacks.clone());
        }
        if self.room.as_ref().is_some_and(|room| room.strong_count() > 0) {
            return Err(Error::new(Status::NoMemory, "too little"));
        }
        Ok(match self.theirs.get(&(peer, epoch)) {
            Some(memory) => Shown::Memory(memory.clone()),
            None if self.has_ended(peer) => Shown::Never,
            None => Shown::Waits,
        })
    }
    fn shortage(&self) -> Option<Error> {
        None
    }
    fn enter(&mut self, _: Epoch, _: Rank, _: &[Option<Peer>], _: &[Arc<Region>]) {}
    fn speak(&mut self, _wire: u16) {}

    fn alarm(&mut self, _after_ns: u64) {}
    fn say(&mut self, _to: Peer, _bytes: &[u8]) -> bool {
        true
    }
    fn heard(&mut self) -> Option<(Peer, Vec<u8>)> {
        None
    }
    fn offer(&mut self, _to: Peer, _stream: BorrowedFd<'_>) -> bool {
        true
    }
    fn offered(&mut self) -> Option<(Peer, OwnedFd)> {
        None
    }
}

impl Fabric for Played {
    fn posting(&self) -> Posting {
        Posting::Nothing
    }
    fn post(&mut self, _posts: &[Post]) {}
    fn poll(&mut self, _look: bool, _events: &mut Events) {}
    fn revoke(&mut self, _peer: Peer) {}
    fn fd(&self) -> BorrowedFd<'_> {
        unreachable!("nobody sleeps")
    }
    fn arm(&mut self, _room: bool) {}
    fn sleep(&mut self, _timeout_ns: Option<u64>, _events: &mut Events) {}
    fn disarm(&mut self) {}
    fn farewell(&mut self) {}
    fn parks(&self) -> bool {
        false
    }
    fn exchange(&mut self) -> Option<&mut dyn Exchange> {
        Some(self)
    }
}

/// Rank 0 of three, in its first view.
fn first_view(played: &mut Played) -> Views {
    let mut config = Config::new("played", 0, 3);
    config.membership = Changes::Views;
    (config.subgroups[0].window, config.subgroups[0].message_bytes_max) = (8, 64);
    let policy = Policy::new(&config).unwrap();
    let roster = roster();
    let view = policy.view(&roster).unwrap().0;
    let lags = policy.lags(&config);
    let memories = vec![large(), large(), large()];
    let blocks = memories.iter().map(|memory| memory.block.clone()).collect();
    let mut views = Views::new(policy, (roster, view), 1 << 40, &lags, played, blocks);
    views.spare.begin(&memories);
    views
}

fn roster() -> Roster {
    let founders: Vec<(u64, Address)> = (71..74).map(|who| (who, Address::default())).collect();
    Roster::first(&founders, Rank(0))
}

/// The same members go on.
fn begin(views: &mut Views, played: &mut Played) {
    begin_with(views, played, Members::NONE);
}

fn begin_with(views: &mut Views, played: &mut Played, joined: Members) {
    let roster = Roster { epoch: Epoch(2), ..roster() };
    let carry = Carry::first(&roster);
    let install = Install { roster, carry, joined, gone: Members::NONE };
    views.begin(install, Timings::default(), Nanos(1), played).unwrap();
}

/// What a change costs: who was asked for while all wait, and what was left to be let go of after.
fn change() -> (usize, usize) {
    let mut played = Played::new();
    let mut views = first_view(&mut played);
    views.prepare(Members::NONE, &mut played).unwrap();
    assert!(views.ready);
    (0..5).for_each(|_| views.foresee(&mut played).unwrap());
    let next = Epoch(2);
    assert_eq!(played.asked, [(Peer(1), next), (Peer(2), next)], "one at a time, each once");
    begin(&mut views, &mut played);
    assert_eq!(views.gather(Nanos(1), &mut played), Ok(true));
    drop(views.enter(Nanos(1), &mut played));
    assert!(Arc::strong_count(&played.theirs[&(Peer(1), next)].block) > 1, "held");
    (played.asked.len() - 2, (0..20).filter(|_| views.spare.release()).count())
}

#[test]
fn what_was_foreseen_is_what_the_next_view_uses() {
    // Three blocks and three rings of the view that is over; none of the one at hand.
    assert_eq!(change(), (0, 6));
    plant(Some("spare-not-used"));
    let (asked, _) = change();
    plant(Some("spare-unmapped-at-once"));
    let (_, over) = change();
    plant(None);
    assert!(asked > 0 && over < 6, "{asked} asked, {over} over");
}

#[test]
fn who_dies_while_its_memory_is_foreseen_is_asked_for_again() {
    let mut played = Played::new();
    let mut views = first_view(&mut played);
    let hers = played.theirs.remove(&(Peer(1), Epoch(2))).unwrap();
    views.foresee(&mut played).unwrap();
    assert!(!views.spare.has(Peer(1), Epoch(2)), "it has shown nothing yet");
    played.ended.push(Peer(1));
    views.foresee(&mut played).unwrap();
    played.theirs.insert((Peer(1), Epoch(2)), hers);
    begin(&mut views, &mut played);
    assert_eq!(views.gather(Nanos(1), &mut played), Ok(true));
    assert_eq!(played.asked.last(), Some(&(Peer(1), Epoch(2))));
}

/// Zeros stood in for the peer, and it was expelled.
#[test]
fn what_i_lack_is_nobody_elses_fault() {
    let lacks = || Error::new(Status::NoMemory, "too little");
    let mut played = Played::new();
    played.lacks = Some((Peer(2), lacks()));
    let mut views = first_view(&mut played);
    assert_eq!(views.foresee(&mut played), Ok(()), "1 can be mapped");
    assert_eq!(views.foresee(&mut played), Err(lacks()));
    assert!(!views.spare.has(Peer(2), Epoch(2)), "tried again");
    begin(&mut views, &mut played);
    assert_eq!(views.gather(Nanos(1), &mut played), Err(lacks()));
    assert_eq!(views.everyone().len(), 4, "they are to hear that I stop");
    played.lacks = None;
    assert_eq!(views.gather(Nanos(1), &mut played), Ok(true));
    let assembly = views.enter(Nanos(1), &mut played);
    assert!(assembly.engine.membership().unwrap().suspects().is_empty());
}

/// The memory of the last view was in the way of the next one.
#[test]
fn a_view_is_not_short_of_what_the_last_one_holds() {
    let mut played = Played::new();
    let mut views = first_view(&mut played);
    begin(&mut views, &mut played);
    assert_eq!(views.gather(Nanos(1), &mut played), Ok(true));
    let old = Arc::downgrade(&views.spare.held[0]);
    drop(views.enter(Nanos(1), &mut played));
    assert!(old.strong_count() > 0);
    played.room = Some(old);
    assert_eq!(views.spare.make_room(|| views_shown(&mut played)).err(), None);
}

fn views_shown(played: &mut Played) -> Result<Shown, Error> {
    played.shown(Peer(1), Epoch(3), &Sizes::default())
}

/// A member, or one that joins, was silent for as long as it mapped what all others had shown.
#[test]
fn who_gathers_beats_after_each_member() {
    let mut played = Played::new();
    let mut views = first_view(&mut played);
    let (block, at) = (Arc::new(Region::heap(4096)), Layout::new(&[]).beat.byte(0));
    views.detectors.wishes.beat_in(&block, at);
    played.pulse = Some((block.clone(), at));
    begin(&mut views, &mut played);
    assert_eq!(views.gather(Nanos(1), &mut played), Ok(true));
    assert!(played.beats.len() == 2 && played.beats[0] < played.beats[1], "{:?}", played.beats);
    assert!(block.cell(at).own() > played.beats[1]);
}

/// It was in the roster, mapped what all had shown, and was silent meanwhile.
#[test]
fn who_joins_beats_while_it_gathers() {
    let mut played = Played::new();
    let mut views = first_view(&mut played);
    let block = played.own(Epoch(2), &[]).unwrap().block;
    played.pulse = Some((block.clone(), Layout::new(&[]).beat.byte(0)));
    begin_with(&mut views, &mut played, Members::from_ranks([Rank(0)]));
    assert_eq!(views.gather(Nanos(1), &mut played), Ok(true));
    assert!(played.beats.len() == 2 && played.beats[0] < played.beats[1], "{:?}", played.beats);
}

/// How many rings of that group this process has mapped: of three members, each its own and the
/// others'.
fn mapped(group: &str) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let ring = |line: &&str| line.contains(&format!("squall-{group}-")) && line.contains("-ring0");
    maps.lines().filter(ring).count()
}

/// Three members, one of which goes. Memory of the next view is mapped while all are busy, and that
/// of the last one let go of. An error: that does not happen within `patience`.
fn three_then_two(what: &str, patience: Duration) -> Result<(), String> {
    let name = format!("{what}-{}", std::process::id());
    let open = |rank: u16| {
        let mut config = Config::new(&name, rank, 3);
        (config.membership, config.idle) = (Changes::Views, Idle::Yield);
        config.subgroups[0].window = 8;
        Group::open(&config, Box::new(|_: u16, _: &[Message]| {})).unwrap()
    };
    let mut groups: Vec<Group> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|rank| scope.spawn(move || open(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(mapped(&name), 9);
    let mut sender = groups[0].sender(0, 0).unwrap();
    let mut until = |groups: &mut Vec<Group>, rings: usize, sends_every: usize| {
        let start = Instant::now();
        while mapped(&name) != rings {
            for at in 0..200 {
                if at % sends_every == 0 {
                    let _ = sender.send(b"busy");
                }
                groups.iter_mut().for_each(|group| {
                    let _ = group.poll(u32::MAX);
                });
            }
            if start.elapsed() > patience {
                return Err(format!("{} rings instead of {rings}", mapped(&name)));
            }
        }
        Ok(())
    };
    until(&mut groups, 18, 1)?; // all of the next view
    drop(groups.pop());
    until(&mut groups, 8, 200) // this view and the next one, of two
}

#[test]
fn a_member_maps_what_is_to_come_and_lets_go_of_what_is_over() {
    assert_eq!(three_then_two("maps", Duration::from_secs(20)), Ok(()));
    for fault in ["spare-nothing-foreseen", "spare-never-let-go", "spare-only-in-quiet"] {
        plant(Some(fault));
        let spoilt = three_then_two(fault, Duration::from_secs(1));
        plant(None);
        println!("{fault}: {spoilt:?}");
        assert!(spoilt.is_err(), "{fault}");
    }
}
