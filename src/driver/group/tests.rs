// SPDX-License-Identifier: MIT OR Apache-2.0
//! Groups as a Rust program uses them, all members in one process.

use super::*;
use crate::base::Rank;
use crate::driver::config::{Changes, Config};
use crate::driver::views::ViewInfo;
use crate::mem::Message;
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
