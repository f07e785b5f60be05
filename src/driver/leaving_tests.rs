// SPDX-License-Identifier: MIT OR Apache-2.0
//! What becomes of the messages of a member that goes: real groups, whose members are all of this
//! process and take turns when a test says so.

use super::config::{Changes, Config, Idle};
use super::control::Control;
use super::group::{Group, Sender};
use super::lane::Dropped;
use super::views::ViewInfo;
use super::{Application, Turn};
use crate::error::{Status, Suspicion};
use crate::group::membership::stage::Stage;
use crate::mem::Message;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[derive(Default)]
struct Log {
    delivered: Vec<String>,
    dropped: Vec<(u64, String, Status)>,
    incarnations: Vec<u64>,
    stopped: bool,
}

struct Ear(Arc<Mutex<Log>>);

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

impl Application for Ear {
    fn deliver(&mut self, _: u16, batch: &[Message]) {
        let texts = batch.iter().map(|message| text(message.bytes()));
        self.0.lock().unwrap().delivered.extend(texts);
    }

    fn view(&mut self, view: &ViewInfo) {
        self.0.lock().unwrap().incarnations =
            view.members.iter().map(|member| member.incarnation).collect();
    }

    fn dropped(&mut self, message: &Dropped) {
        let mut log = self.0.lock().unwrap();
        assert!(!log.stopped, "what is dropped is told before the end");
        log.dropped.push((message.ordinal, text(message.bytes), message.why));
    }

    fn stopped(&mut self, _: Status, _: Option<Suspicion>) {
        self.0.lock().unwrap().stopped = true;
    }
}

struct Member {
    group: Group,
    sender: Sender,
    control: Control,
    log: Arc<Mutex<Log>>,
}

impl Member {
    /// Nobody is suspected for being silent.
    fn open(name: &str, rank: u16, members: u16) -> Member {
        let mut config = Config::new(&format!("{name}-{}", std::process::id()), rank, members);
        (config.membership, config.suspicion_ns) = (Changes::Views, 0);
        config.idle = Idle::Yield;
        let log = Arc::new(Mutex::new(Log::default()));
        let mut group = Group::open(&config, Box::new(Ear(log.clone()))).unwrap();
        let (sender, control) = (group.sender(0, 0).unwrap(), group.control().unwrap());
        Member { group, sender, control, log }
    }

    fn turn(&mut self) -> Result<Turn, Status> {
        self.group.turn(u32::MAX)
    }

    fn send(&mut self, texts: &[&str]) {
        texts.iter().for_each(|text| assert!(self.sender.send(text.as_bytes()).is_ok()));
    }

    fn delivered(&self) -> Vec<String> {
        self.log.lock().unwrap().delivered.clone()
    }

    fn dropped(&self) -> Vec<(u64, String, Status)> {
        self.log.lock().unwrap().dropped.clone()
    }
}

fn open(name: &str, members: u16) -> Vec<Member> {
    std::thread::scope(|scope| {
        let all = (0..members).map(|rank| scope.spawn(move || Member::open(name, rank, members)));
        let all: Vec<_> = all.collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

/// All take turns until that one is out.
fn until_out(members: &mut [Member], at: usize) -> Status {
    loop {
        for (rank, member) in members.iter_mut().enumerate() {
            match member.turn() {
                Err(status) if rank == at => return status,
                Err(status) => panic!("{rank} is out: {status:?}"),
                Ok(_) => {}
            }
        }
    }
}

#[test]
fn the_last_member_leaves_when_it_has_delivered_its_own() {
    let mut alone = open("alone-leaves", 1);
    let one = &mut alone[0];
    one.send(&["a", "b"]);
    one.control.leave();
    assert_eq!(one.sender.send(b"c"), Err(Status::Left), "at once");
    assert_eq!(one.sender.reserve(1).err(), Some(Status::Left));
    one.control.leave();
    assert_eq!(until_out(&mut alone, 0), Status::Left);
    assert_eq!(alone[0].delivered(), ["a", "b"]);
    assert_eq!(alone[0].dropped(), []);
    assert_eq!(alone[0].sender.send(b"c"), Err(Status::Left));
}

/// They were delivered to nobody, without a word.
#[test]
fn the_last_member_that_closes_has_given_back_what_nobody_hears() {
    let mut alone = open("alone-closes", 1).remove(0);
    alone.send(&["a"]);
    while alone.delivered().is_empty() {
        alone.turn().unwrap();
    }
    alone.send(&["b", "c"]);
    alone.group.close();
    assert_eq!(alone.log.lock().unwrap().delivered, ["a"]);
    let left = |ordinal, text: &str| (ordinal, text.to_owned(), Status::Left);
    assert_eq!(alone.log.lock().unwrap().dropped, [left(1, "b"), left(2, "c")]);
    assert_eq!(alone.sender.send(b"d"), Err(Status::Left));
}

/// What a member that closes has sent is delivered by those who stay. Where the machine leaves it too
/// little time for that in a second, it is tried again.
#[test]
fn another_member_that_closes_has_been_heard() {
    let late = |at: &u32| member_closes(&format!("closes-{at}")) >= Duration::from_secs(1);
    assert!((0..60).take_while(late).count() < 60, "it always takes a second");
}

fn member_closes(name: &str) -> Duration {
    let mut both = open(name, 2);
    let (mut stays, mut goes) = (both.remove(0), both.remove(0));
    let texts: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    texts.iter().for_each(|text| goes.send(&[text]));
    let (gone, took) = std::thread::scope(|scope| {
        let closing = scope.spawn(|| {
            let start = Instant::now();
            goes.group.close();
            (goes.log, start.elapsed())
        });
        while !closing.is_finished() {
            stays.turn().unwrap();
        }
        closing.join().unwrap()
    });
    if took < Duration::from_secs(1) {
        assert_eq!(stays.delivered(), texts);
        assert_eq!(gone.lock().unwrap().dropped, []);
    }
    assert_eq!(gone.lock().unwrap().delivered, [""; 0], "it hears nothing more");
    took
}

/// It goes after a second, and says what it has not seen delivered.
#[test]
fn close_gives_up_on_a_member_that_is_not_polled() {
    let mut both = open("gives-up", 2);
    both[1].send(&["a", "b"]);
    let goes = both.remove(1);
    goes.group.close();
    let dropped = &goes.log.lock().unwrap().dropped;
    let doubt = |ordinal, text: &str| (ordinal, text.to_owned(), Status::TimedOut);
    assert_eq!(*dropped, [doubt(0, "a"), doubt(1, "b")]);
}

/// A member asks to be left out when all has what it sent, however long that takes.
#[test]
fn a_leaver_waits_for_whoever_has_not_received() {
    let mut three = open("waits", 3);
    three[2].send(&["a"]);
    three[2].control.leave();
    for _ in 0..2_000 {
        three[1].turn().unwrap();
        three[2].turn().unwrap();
    }
    assert_eq!(three[2].delivered(), [""; 0]);
    let stage = three[1].group.stage().unwrap();
    assert_eq!(stage, Stage::Rest, "nobody has heard that it wants to leave");
    assert_eq!(until_out(&mut three, 2), Status::Left);
    for member in &three {
        assert_eq!((member.delivered(), member.dropped()), (vec!["a".to_owned()], vec![]));
    }
}

/// Others may have what it gave back, and it says so by the reason.
#[test]
fn a_leaver_that_is_expelled_gives_back_what_it_has_not_delivered() {
    let mut three = open("expelled", 3);
    three[2].turn().unwrap();
    three[2].send(&["a"]);
    three[2].control.leave();
    for _ in 0..200 {
        three[2].turn().unwrap();
    }
    let incarnations = three[2].log.lock().unwrap().incarnations.clone();
    three[0].control.report(incarnations[2]);
    assert_eq!(until_out(&mut three, 2), Status::Expelled);
    assert_eq!(three[2].dropped(), [(0, "a".to_owned(), Status::Expelled)]);
    assert_eq!(three[2].delivered(), [""; 0]);
    assert_eq!(three[2].sender.send(b"b"), Err(Status::Expelled));
}
