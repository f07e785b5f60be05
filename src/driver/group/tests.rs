// SPDX-License-Identifier: MIT OR Apache-2.0
//! Groups as a Rust program uses them, all members in one process.

use super::*;
use crate::base::{Events, Members, Peer, Post, Posting, Rank};
use crate::driver::config::{Changes, Config, OwnPolicy};
use crate::driver::policy::config_text;
use crate::driver::views::ViewInfo;
use crate::driver::{LATE_TURNS, TICK_TURNS};
use crate::error::Fault;
use crate::group::detector::lag::Lag;
use crate::group::policy::Standard;
use crate::mem::Message;
use crate::transfer::{Checkpoint, StateSink, StateSource, Version};
use std::panic::{AssertUnwindSafe, catch_unwind};

#[test]
fn a_limit_of_threads_is_named() {
    let error = no_thread(&std::io::Error::from_raw_os_error(libc::EAGAIN));
    assert_eq!(error.status, Status::Limit);
    assert!(error.detail.contains("ulimit -u"), "{error}");
}

/// Event loops of other crates take what has a descriptor.
#[test]
fn a_group_has_a_descriptor_to_wait_on() {
    let config = Config::new(&format!("descriptor-{}", std::process::id()), 0, 1);
    let mut group = Group::open(&config, Box::new(|_: u16, _: &[crate::mem::Message]| {}));
    let group = group.as_mut().unwrap();
    while !group.arm().unwrap() {
        group.turn(0).unwrap();
    }
    let readable = |group: &Group| {
        let flags = rustix::event::PollFlags::IN;
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut [rustix::event::PollFd::new(group, flags)], Some(&now))
    };
    assert_eq!(readable(group), Ok(0));
    group.waker().unwrap().ring_always();
    assert_eq!(readable(group), Ok(1));
    assert_eq!(group.as_raw_fd(), group.as_fd().as_raw_fd());
}

/// The polling thread sleeps and wants to hear of messages only; then a thread that sends finds
/// no room. Unless that wakes it, room that comes later is news to nobody.
#[test]
fn a_refused_send_wakes_its_poller() {
    let name = format!("refused-{}", std::process::id());
    let open = |rank: u16| {
        let mut config = Config::new(&name, rank, 2);
        config.subgroups[0].window = 1;
        config.subgroups[0].message_bytes_max = 64;
        Group::open(&config, Box::new(|_: u16, _: &[crate::mem::Message]| {})).unwrap()
    };
    let (mut one, mut two) = std::thread::scope(|scope| {
        let other = scope.spawn(|| open(1));
        (open(0), other.join().unwrap())
    });
    let mut sender = one.sender(0, 0).unwrap();
    sender.send(b"fills the window").unwrap();
    one.turn(0).unwrap();
    two.turn(0).unwrap(); // received there, and not released
    assert_eq!(one.poll(1), Ok(1));
    while !one.arm().unwrap() {
        one.turn(0).unwrap();
    }
    assert_eq!(sender.send(b"no room"), Err(Status::Again));
    let start = Instant::now();
    one.driver.sleep(Some(20_000_000_000));
    assert!(start.elapsed() < Duration::from_secs(10), "nobody rang");
    assert_eq!(two.poll(1), Ok(1));
    two.turn(0).unwrap(); // what a turn delivers, the next one releases
    one.turn(0).unwrap();
    assert!(sender.send(b"room again").is_ok());
}

/// A fabric in front of which a thread that sends is quick: it is refused after the look that says
/// whether this member waits for room, and before the word that says so to the others.
struct Quick {
    fabric: Box<dyn Fabric>,
    sender: Option<Sender>,
}

impl Fabric for Quick {
    fn posting(&self) -> Posting {
        self.fabric.posting()
    }
    fn post(&mut self, posts: &[Post]) {
        self.fabric.post(posts);
    }
    fn poll(&mut self, look: bool, events: &mut Events) {
        self.fabric.poll(look, events);
    }
    fn revoke(&mut self, peer: Peer) {
        self.fabric.revoke(peer);
    }
    fn fd(&self) -> BorrowedFd<'_> {
        self.fabric.fd()
    }
    fn arm(&mut self, room: bool) {
        if let Some(mut sender) = self.sender.take() {
            assert_eq!(sender.send(b"no room"), Err(Status::Again));
        }
        self.fabric.arm(room);
    }
    fn sleep(&mut self, timeout_ns: Option<u64>, events: &mut Events) {
        self.fabric.sleep(timeout_ns, events);
    }
    fn disarm(&mut self) {
        self.fabric.disarm();
    }
    fn farewell(&mut self) {}
    fn parks(&self) -> bool {
        self.fabric.parks()
    }
}

/// The bell that a refused send rings is for one that sleeps. One that was just about to was not rung
/// for, slept without saying that it waits for room, and nobody told it of any.
#[test]
fn a_send_that_is_refused_as_its_poller_falls_asleep_is_told_of_room() {
    let name = format!("quick-{}", std::process::id());
    let open = |rank: u16| {
        let mut config = Config::new(&name, rank, 2);
        config.subgroups[0].window = 1;
        config.subgroups[0].message_bytes_max = 64;
        Group::open(&config, Box::new(deaf)).unwrap()
    };
    let (mut one, mut two) = std::thread::scope(|scope| {
        let other = scope.spawn(|| open(1));
        (open(0), other.join().unwrap())
    });
    let mut sender = one.sender(0, 0).unwrap();
    sender.send(b"fills the window").unwrap();
    one.turn(0).unwrap();
    two.turn(0).unwrap(); // received there, and not released
    assert_eq!(one.poll(1), Ok(1));
    while one.driver.engine.has_work(&one.driver.table, &Events::default()) {
        one.turn(0).unwrap();
    }
    let nobody: Box<dyn Fabric> = Box::new(Counts(Arc::new(Cell::new(0))));
    let fabric = std::mem::replace(&mut one.driver.fabric, nobody);
    one.driver.fabric = Box::new(Quick { fabric, sender: Some(sender) });
    while !one.arm().unwrap() {
        one.turn(0).unwrap();
    }
    assert_eq!(two.poll(1), Ok(1));
    two.turn(0).unwrap(); // what a turn delivers, the next one releases
    let start = Instant::now();
    one.driver.sleep(Some(20_000_000_000));
    assert!(start.elapsed() < Duration::from_secs(10), "nobody told of room");
}

fn deaf(_: u16, _: &[Message]) {}

fn views(name: &str, rank: u16, members: u16, suspicion_ms: u64) -> Config {
    let mut config = Config::new(&format!("{name}-{}", std::process::id()), rank, members);
    config.membership = Changes::Views;
    config.suspicion_ns = suspicion_ms * 1_000_000;
    config.subgroups[0].window = 16;
    config.subgroups[0].message_bytes_max = 64;
    config.idle = Idle::Yield;
    config
}

/// Threads beside the polling one made that one panic ("my cell beat[0] would go back"), or moved the
/// word back themselves, between the clock and their store, which the others took for nonsense.
#[test]
fn keep_alive_beside_the_polling_thread() {
    let mut group = Group::open(&views("alive", 0, 1, 1_000), Box::new(deaf)).unwrap();
    assert_eq!(group.poll(8), Ok(0));
    let (control, over) = (group.control().unwrap(), Cell::new(0));
    let driver = &mut group.driver;
    let (block, at) = (driver.table.block(Rank(0)).clone(), driver.table.layout.beat.byte(0));
    let mut turns = || {
        let mut last = 0;
        for _ in 0..100_000 {
            driver.views.as_mut().unwrap().detectors.beats.begin(); // a beat is due at once
            driver.now = crate::driver::clock();
            driver.watch();
            let beat = block.cell(at).observe();
            assert!(beat >= last, "my word went back");
            last = beat;
        }
    };
    let outcome = std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while over.observe() == 0 {
                    control.keep_alive();
                }
            });
        }
        let outcome = catch_unwind(AssertUnwindSafe(&mut turns));
        over.publish(1);
        outcome
    });
    assert!(outcome.is_ok());
}

/// Counts beats, and is in its place.
struct Counts(Arc<Cell>);

impl Fabric for Counts {
    fn posting(&self) -> Posting {
        Posting::All
    }
    fn polls(&self) -> bool {
        true
    }
    fn post(&mut self, _: &[Post]) {}
    fn poll(&mut self, _: bool, _: &mut Events) {}
    fn revoke(&mut self, _: Peer) {}
    fn beat(&mut self) {
        self.0.publish(self.0.own() + 1);
    }
    fn fd(&self) -> BorrowedFd<'_> {
        unreachable!("nobody sleeps here")
    }
    fn arm(&mut self, _: bool) {}
    fn sleep(&mut self, _: Option<u64>, _: &mut Events) {}
    fn disarm(&mut self) {}
    fn farewell(&mut self) {}
    fn parks(&self) -> bool {
        true
    }
}

/// Over connections nobody heard of it before the callback was over.
#[test]
fn keep_alive_in_a_callback_is_sent() {
    let mut group = Group::open(&views("sends", 0, 1, 1_000), Box::new(deaf)).unwrap();
    let (control, beats) = (group.control().unwrap(), Arc::new(Cell::new(0)));
    let driver = &mut group.driver;
    (driver.fabric, driver.polls) = (Box::new(Counts(beats.clone())), true);
    control.keep_alive();
    assert_eq!(beats.own(), 0, "no callback runs: the next turn sends it");
    driver.lending(|_| control.keep_alive());
    assert_eq!(beats.own(), 1);
    driver.lending(|_| std::thread::scope(|scope| drop(scope.spawn(|| control.keep_alive()))));
    assert_eq!(beats.own(), 2, "by another thread");
    let broken = catch_unwind(AssertUnwindSafe(|| driver.lending(|_| panic!("a callback's"))));
    assert!(broken.is_err() && driver.fabric.parks(), "B2: it is back");
    driver.polls = false;
    driver.lending(|driver| assert!(driver.fabric.parks(), "B1"));
}

/// A fabric that must be told to send a beat.
struct Deputy(Box<dyn Fabric>, Arc<Cell>);

impl Fabric for Deputy {
    fn posting(&self) -> Posting {
        self.0.posting()
    }
    fn polls(&self) -> bool {
        true
    }
    fn post(&mut self, posts: &[Post]) {
        self.0.post(posts);
    }
    fn poll(&mut self, look: bool, events: &mut Events) {
        self.0.poll(look, events);
    }
    fn revoke(&mut self, peer: Peer) {
        self.0.revoke(peer);
    }
    fn beat(&mut self) {
        self.1.publish(self.1.own() + 1);
    }
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }
    fn arm(&mut self, room: bool) {
        self.0.arm(room);
    }
    fn sleep(&mut self, timeout_ns: Option<u64>, events: &mut Events) {
        self.0.sleep(timeout_ns, events);
    }
    fn disarm(&mut self) {
        self.0.disarm();
    }
    fn farewell(&mut self) {
        self.0.farewell();
    }
    fn parks(&self) -> bool {
        self.0.parks()
    }
    fn exchange(&mut self) -> Option<&mut dyn crate::fabric::Exchange> {
        self.0.exchange()
    }
}

/// Says in callbacks that it lives, and notes how many beats that has sent.
#[derive(Clone)]
struct Busy {
    control: Arc<Mutex<Option<Control>>>,
    noted: Arc<Mutex<Vec<(&'static str, u64)>>>,
    beats: Arc<Cell>,
}

impl Busy {
    fn works(&self, what: &'static str) {
        let before = self.beats.own();
        self.control.lock().unwrap().iter().for_each(Control::keep_alive);
        self.noted.lock().unwrap().push((what, self.beats.own() - before));
    }

    fn has_done(&self, what: &str) -> bool {
        self.noted.lock().unwrap().iter().any(|(noted, _)| *noted == what)
    }
}

impl Application for Busy {
    fn deliver(&mut self, _: u16, _: &[Message]) {}

    fn lags(&mut self, _: u16, _: u16, _: u64) {
        self.works("lags");
    }

    fn source(&mut self) -> Option<&mut dyn StateSource> {
        Some(self)
    }
}

impl StateSource for Busy {
    fn checkpoint_open(&mut self, _: &Version) -> Result<Box<dyn Checkpoint>, Error> {
        self.works("opens a checkpoint");
        Err(Error::new(Status::Mismatch, "it was only to be asked"))
    }
}

/// Loads nothing.
struct Stateless;

impl Application for Stateless {
    fn deliver(&mut self, _: u16, _: &[Message]) {}

    fn sink(&mut self) -> Option<&mut dyn StateSink> {
        Some(self)
    }
}

impl StateSink for Stateless {
    fn begin(&mut self, _: &Version) -> Result<(), Error> {
        Ok(())
    }
    fn load(&mut self, _: &[u8]) -> Result<(), Error> {
        Ok(())
    }
    fn loaded(&mut self) -> Result<(), Error> {
        Ok(())
    }
    fn deliver(&mut self, _: u16, _: &[Message]) {}
}

/// Over connections deliveries and view callbacks sent it at once, and no others: who took long to open
/// a checkpoint was expelled, whatever it said meanwhile.
#[test]
fn keep_alive_is_sent_in_callbacks_of_every_kind() {
    let (control, noted) = (Arc::default(), Arc::default());
    let busy = Busy { control, noted, beats: Arc::new(Cell::new(0)) };
    let mut config = views("busy", 0, 2, 0);
    config.subgroups[0].lag = Lag::Report { after_ns: 5_000_000 };
    let other = Config { rank: 1, ..config.clone() };
    let (mut one, mut two) = std::thread::scope(|scope| {
        let two = scope.spawn(|| Group::open(&other, Box::new(deaf)).unwrap());
        (Group::open(&config, Box::new(busy.clone())).unwrap(), two.join().unwrap())
    });
    *busy.control.lock().unwrap() = one.control();
    let driver = &mut one.driver;
    let nowhere = Box::new(Counts(Arc::new(Cell::new(0))));
    let fabric = std::mem::replace(&mut driver.fabric, nowhere);
    (driver.fabric, driver.polls) = (Box::new(Deputy(fabric, busy.beats.clone())), true);
    let mut sender = one.sender(0, 0).unwrap();
    while !busy.has_done("lags") {
        let _ = sender.send(b"nobody takes it");
        one.poll(8).unwrap();
    }
    let joins = Config { join: true, ..config.clone() };
    std::thread::scope(|scope| {
        let three = scope.spawn(|| Group::open(&joins, Box::new(Stateless)));
        while !three.is_finished() {
            (one.poll(8).unwrap(), two.poll(8).unwrap());
            std::thread::yield_now();
        }
        assert_eq!(three.join().unwrap().err().unwrap().status, Status::Mismatch);
    });
    assert!(busy.has_done("opens a checkpoint"));
    let noted = busy.noted.lock().unwrap();
    assert!(noted.iter().all(|(_, beats)| *beats == 1), "{noted:?}");
}

/// Who may write a directory in which two groups meet that are alike put the one's socket where the
/// other's was looked for, and members of both were a third group.
#[test]
fn a_socket_of_another_group_is_none_of_ours() {
    let directory = std::env::temp_dir().join(format!("squall-moved-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let open = |group: &'static str, rank: u16| {
        let mut config = Config::new(group, rank, 2);
        config.peers.directory = directory.clone();
        config.open_timeout = Duration::from_secs(6); // both are to be there at once, on a loaded machine
        Group::open(&config, Box::new(deaf)).err()
    };
    let [waits, comes] = std::thread::scope(|scope| {
        let waits = scope.spawn(|| open("one", 0));
        let moved = || {
            std::fs::rename(directory.join("squall.one.0"), directory.join("squall.other.0"))
                .is_ok()
        };
        while !moved() && !waits.is_finished() {
            std::thread::yield_now();
        }
        [open("other", 1), waits.join().unwrap()]
    });
    std::fs::remove_dir_all(&directory).unwrap();
    let (waits, comes) = (waits.expect("no group"), comes.expect("no group"));
    let both = [&waits, &comes].map(|error| error.status);
    assert!(both.contains(&Status::Mismatch), "{waits}; {comes}");
}

/// Where members do not change it was accepted, and nobody would ever have sent it.
#[test]
fn a_send_after_close_is_refused() {
    for changes in [Changes::Views, Changes::Fixed] {
        let mut config = views("late", 0, 1, 1000);
        config.membership = changes;
        let mut group = Group::open(&config, Box::new(deaf)).unwrap();
        let mut sender = group.sender(0, 0).unwrap();
        assert_eq!(sender.send(b"in time"), Ok(0));
        group.close();
        assert_eq!(sender.send(b"too late"), Err(Status::Left), "{changes:?}");
    }
}

/// Notes which view is at hand, and the numbers of its messages.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<(u64, Vec<(u64, u64)>)>>);

impl Notes {
    fn all(&self) -> Vec<(u64, u64)> {
        self.0.lock().unwrap().1.clone()
    }
}

impl Application for Notes {
    fn deliver(&mut self, _: u16, batch: &[Message]) {
        let (epoch, noted) = &mut *self.0.lock().unwrap();
        noted.extend(batch.iter().map(|message| (*epoch, message.number)));
    }

    fn view(&mut self, view: &ViewInfo) {
        self.0.lock().unwrap().0 = view.epoch;
    }
}

/// What is counted since the group was opened began anew in every view. Numbers do, as the header says
/// now: view and number together grow.
#[test]
fn counts_go_on_and_numbers_begin_anew_in_the_next_view() {
    let notes = Notes::default();
    let config = |rank| views("counts", rank, 3, 5_000);
    let open = |rank| Group::open(&config(rank), Box::new(deaf)).unwrap();
    let mut groups = std::thread::scope(|scope| {
        let others = [scope.spawn(move || open(1)), scope.spawn(move || open(2))];
        let one = Group::open(&config(0), Box::new(notes.clone())).unwrap();
        let [two, three] = others.map(|other| other.join().unwrap());
        vec![one, two, three]
    });
    let turn = |groups: &mut Vec<Group>| groups.iter_mut().for_each(|group| _ = group.poll(8));
    let mut sender = groups[0].sender(0, 0).unwrap();
    let mut deliver = |groups: &mut Vec<Group>, upto: usize| {
        while sender.send(b"x") == Err(Status::Again) {
            turn(groups);
        }
        while notes.all().len() < upto {
            turn(groups);
        }
    };
    for upto in 1..=5 {
        deliver(&mut groups, upto);
    }
    let before = groups[0].stats();
    groups[2].control().unwrap().leave();
    while groups[0].members() == 3 || groups[1].members() == 3 {
        turn(&mut groups);
    }
    groups.pop();
    deliver(&mut groups, 6);
    let after = groups[0].stats();
    assert_eq!((before.epoch, after.epoch), (1, 2));
    let counts = [before, after].map(|page| {
        let of = &page.subgroups[0];
        (of.sent, of.delivered.messages, of.announced > 0)
    });
    assert_eq!(counts, [(5, 5, true), (6, 6, true)]);
    let noted = notes.all();
    assert!(noted.is_sorted() && noted[0] == (1, 0) && noted[5] == (2, 0), "{noted:?}");
}

/// One that the driver had stopped and no engine (`Driver::end`) seemed to run.
#[test]
fn the_page_says_that_the_last_member_has_left() {
    let mut group = Group::open(&views("page", 0, 1, 1000), Box::new(deaf)).unwrap();
    group.control().unwrap().leave();
    let status = loop {
        if let Err(status) = group.poll(8) {
            break status;
        }
    };
    assert_eq!(status, Status::Left);
    assert_eq!(group.stats().stopped, u64::from((Status::Left as i32).unsigned_abs()));
}

/// Says that it is alive as it hears of a view, and notes who has gone from it.
#[derive(Clone, Default)]
struct Watcher(Arc<Mutex<(Option<Control>, Vec<u64>, Vec<Fault>)>>);

impl Application for Watcher {
    fn deliver(&mut self, _: u16, _: &[Message]) {}

    fn view(&mut self, view: &ViewInfo) {
        let (control, incarnations, gone) = &mut *self.0.lock().unwrap();
        control.iter().for_each(Control::keep_alive);
        *incarnations = view.members.iter().map(|member| member.incarnation).collect();
        gone.extend(view.left.iter().map(|(_, fault)| fault));
    }
}

fn watched(name: &str, members: u16) -> Vec<(Group, Watcher)> {
    let open = |rank: u16| {
        let watcher = Watcher::default();
        // Nobody is suspected for being silent.
        let group = Group::open(&views(name, rank, members, 0), Box::new(watcher.clone())).unwrap();
        watcher.0.lock().unwrap().0 = group.control();
        (group, watcher)
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..members).map(|rank| scope.spawn(move || open(rank))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

/// It beat in the block of the view before, in which one that has just joined does not look: that one
/// suspected a member whose first callback took long, whatever the callback said.
#[test]
fn keep_alive_as_a_view_begins_is_heard_in_that_view() {
    let mut both = watched("alive-at-once", 2);
    both[1].0.control().unwrap().leave();
    while both[0].0.members() == 2 {
        let _ = both[1].0.poll(8);
        both[0].0.poll(8).unwrap();
    }
    let table = &both[0].0.driver.table;
    let beat = table.block(Rank(0)).cell(table.layout.beat.byte(0)).observe();
    assert!(beat > 0, "and nothing else has beaten there yet");
}

/// One that waits for the others' memory of the next view beat in the view before only. Who has joined
/// does not look there: it suspected that member before that one's own patience was over, and with a
/// member that had failed in the same moment those that were left were no majority.
#[test]
fn who_builds_a_view_beats_in_it() {
    let founded = |rank: u16| {
        let mut config = views("builds", rank, 3, 0);
        // With a policy of its own each waits for what the others' has answered (I4).
        config.policy = Some(OwnPolicy(Arc::new(Standard)));
        Group::open(&config, Box::new(deaf)).unwrap()
    };
    let mut all: Vec<Group> = std::thread::scope(|scope| {
        let all = [0, 1, 2].map(|rank| scope.spawn(move || founded(rank)));
        all.map(|one| one.join().unwrap()).into()
    });
    all[2].control().unwrap().leave();
    let builds = |group: &Group| group.driver.views.as_ref().unwrap().is_building();
    let mut at = 0;
    while !builds(&all[0]) {
        let _ = all[at].poll(8);
        at = (at + 1) % 3;
        assert_eq!(all[0].members(), 3, "it waits for the others");
    }
    let driver = &mut all[0].driver;
    let beat_at = driver.table.layout.beat.byte(0);
    let next = driver.fabric.exchange().unwrap().own(Epoch(2), &[]).unwrap().block;
    let beat = |block: &Region| block.cell(beat_at).observe();
    let before = [beat(driver.table.block(Rank(0))), beat(&next)];
    driver.views.as_mut().unwrap().detectors.beats.begin(); // a beat is due
    driver.now = crate::driver::clock();
    driver.watch();
    let after = [beat(driver.table.block(Rank(0))), beat(&next)];
    assert!(before[0] < after[0] && before[1] < after[1], "{before:?} {after:?}");
}

/// The others come to suspect a member that has passed on, and are not in the next view yet when it is.
/// All that it hears there is that their connections have ended: it said that it was in a minority.
#[test]
fn who_is_expelled_as_it_passes_on_says_so() {
    let mut all = watched("expelled-late", 4);
    all[3].0.control().unwrap().leave();
    let mut at = 0;
    while all[0].0.stage() < Some(Stage::Passed) {
        let _ = all[at].0.poll(8);
        at = (at + 1) % 4;
    }
    let one = all[0].1.0.lock().unwrap().1[0];
    for (group, _) in &mut all[1..3] {
        assert_eq!((group.stage() < Some(Stage::Passed), group.members()), (true, 4));
        group.control().unwrap().report(one);
        group.driver.until_tick = 0;
        group.poll(8).unwrap();
    }
    let status = loop {
        if let Err(status) = all[0].0.poll(8) {
            break status;
        }
    };
    assert_eq!(status, Status::Expelled);
}

/// What was held against a member was forgotten with the view: it was said to have left.
#[test]
fn who_is_suspected_late_has_not_left() {
    for stage in [Stage::Agreed, Stage::Passed] {
        let mut all = watched(&format!("late-{stage:?}"), 4);
        all[3].0.control().unwrap().leave();
        let turn = |all: &mut Vec<(Group, Watcher)>, at: usize| {
            let _ = all[at].0.poll(8);
            all[0].0.stage() >= Some(stage)
        };
        let mut at = 0;
        while !turn(&mut all, at) {
            at = (at + 1) % 4;
        }
        let suspect = all[0].1.0.lock().unwrap().1[2];
        all[0].0.control().unwrap().report(suspect);
        all[0].0.driver.until_tick = 0;
        while all[..2].iter().any(|of| of.0.members() > 2) {
            (0..4).for_each(|at| _ = turn(&mut all, at));
        }
        for (_, watcher) in &all[..2] {
            let gone = &watcher.0.lock().unwrap().2;
            let faults = [Fault::Left { also: Members::NONE }, Fault::Reported { by: Rank(0) }];
            assert_eq!(gone[..], faults, "{stage:?}");
        }
    }
}

/// Three founders of different versions, whatever the membership: the group runs at what all speak, says so
/// at its door, and is refused to those who do not speak it. A founder without a version in common with
/// another one hears both.
#[test]
fn founders_agree_on_a_version() {
    use crate::base::Versions;
    use crate::fabric::shm::door::{Hello, Kind};
    use crate::fabric::shm::place::Place;
    let deliver = |_: u16, _: &[Message]| {};
    let of = |name: &str, views: bool, rank: u16, (min, max)| {
        let mut config = Config::new(name, rank, 3);
        config.membership = if views { Changes::Views } else { Changes::Fixed };
        config.versions = Versions { min, max };
        config.open_timeout = std::time::Duration::from_secs(20);
        config
    };
    for views in [false, true] {
        let name = format!("versions-{views}-{}", std::process::id());
        let speak = [(1, 3), (2, 4), (1, 2)];
        let open = |rank: u16| {
            let config = of(&name, views, rank, speak[usize::from(rank)]);
            Group::open(&config, Box::new(deliver)).unwrap()
        };
        let mut groups = std::thread::scope(|scope| {
            let others = [1, 2].map(|rank| scope.spawn(move || open(rank)));
            let mut all = vec![open(0)];
            all.extend(others.map(|other| other.join().unwrap()));
            all
        });
        let socket = Place::usual(&name).call(1).unwrap().unwrap();
        assert!(socket.send(&Hello::new(Kind::Stat, 0, false, "").encode(), &[]));
        let answer = loop {
            groups.iter_mut().for_each(|group| assert!(group.turn(0).is_ok()));
            if let Some(answer) = socket.receive() {
                break Hello::decode(&answer.unwrap().0).unwrap();
            }
        };
        assert_eq!((answer.versions, answer.wire), (Versions { min: 2, max: 4 }, 2));
    }
    let name = format!("versions-none-{}", std::process::id());
    let waits = Place::usual(&name).listen(0).unwrap().unwrap();
    let mut door = Place::usual(&name).door(waits);
    let late = std::thread::scope(|scope| {
        let late = scope
            .spawn(|| Group::open(&of(&name, false, 1, (2, 3)), Box::new(deliver)).err().unwrap());
        loop {
            for visitor in door.visitors(|_| Ok(())) {
                let mine = Hello::new(Kind::Join, 0, false, "members=3\n");
                let who = Status::InUse;
                crate::fabric::shm::door::refuse(&visitor.socket, who, "no", Some(&mine));
            }
            if late.is_finished() {
                return late.join().unwrap();
            }
            std::thread::yield_now();
        }
    });
    let named = late.detail.contains("speaks wire version 1, this library speaks wire versions 2");
    assert!(late.status == Status::WireVersion && named, "{late}");
}

/// A thread that waits for its core in every turn looked at the clock so rarely that it took each gap
/// for a pause of its own: who was gone was suspected by nobody, for ever.
#[test]
fn who_is_gone_is_noticed_where_turns_are_slow() {
    let open = |rank| Group::open(&views("slow", rank, 3, 1_000), Box::new(deaf)).unwrap();
    let mut groups = std::thread::scope(|scope| {
        [0, 1, 2].map(|rank| scope.spawn(move || open(rank))).map(|open| open.join().unwrap())
    });
    let start = Instant::now();
    let [one, two, _gone] = &mut groups;
    while one.members() == 3 || two.members() == 3 {
        _ = (one.poll(8).unwrap(), two.poll(8).unwrap());
        std::thread::sleep(Duration::from_millis(12));
        assert!(start.elapsed() < Duration::from_secs(300), "never suspected");
    }
}

/// The protocol had it, the simulator and the model tried it, and nobody could ask for it.
#[test]
fn of_two_members_the_first_goes_on_alone_if_that_is_chosen() {
    for (tie_break, lost) in [(true, 1), (true, 0), (false, 1)] {
        let open = |rank: u16| {
            let mut config = views(&format!("tie-{tie_break}-{lost}"), rank, 2, 0);
            config.tie_break = tie_break;
            Group::open(&config, Box::new(deaf)).unwrap()
        };
        let mut both = std::thread::scope(|scope| {
            let other = scope.spawn(|| open(1));
            vec![open(0), other.join().unwrap()]
        });
        // Both have seen each other in this view.
        (0..100).for_each(|at| _ = both[at % 2].poll(8).unwrap());
        drop(both.remove(lost));
        let group = &mut both[0];
        let end = loop {
            match group.poll(8) {
                Ok(_) if group.members() == 2 => {}
                outcome => break outcome,
            }
        };
        let goes_on = tie_break && lost == 1;
        let want = if goes_on { Ok(0) } else { Err(Status::Partitioned) };
        assert_eq!(end, want, "{tie_break} {lost}");
        if goes_on {
            let mut sender = group.sender(0, 0).unwrap();
            while sender.send(b"alone") == Err(Status::Again) {
                group.poll(8).unwrap();
            }
            while group.poll(8).unwrap() == 0 {}
        }
    }
    let text = |tie_break: bool| {
        let config = Config { tie_break, ..views("tie", 0, 2, 0) };
        config_text(&config, &config.view().unwrap()).unwrap()
    };
    assert_ne!(text(true), text(false), "all must agree on it");
}

/// Who polled often and then now and then (every 40 ms, say) did not beat for 32 turns, longer than the time
/// to suspicion, and was expelled.
#[test]
fn who_begins_to_poll_rarely_beats_in_time() {
    let mut group = Group::open(&views("rarely", 0, 1, 1_000), Box::new(deaf)).unwrap();
    let ticked = |group: &Group| {
        let driver = &group.driver;
        driver.tick_turns == TICK_TURNS && driver.until_tick == TICK_TURNS - 1
    };
    while !ticked(&group) {
        group.poll(8).unwrap();
    }
    let (before, mut turns) = (group.driver.now, 0);
    while group.driver.now == before {
        std::thread::sleep(Duration::from_millis(3)); // later than `TICK_LATE_NS`
        group.poll(8).unwrap();
        turns += 1;
    }
    assert!(turns <= LATE_TURNS, "{turns} turns");
}
