// SPDX-License-Identifier: MIT OR Apache-2.0
//! Groups by RDMA, from the configuration on: members of one process, each with a software device of its
//! own, on one wire.

use super::config::{Changes, Config, Idle};
use super::group::Group;
use super::network::Carrier;
use crate::error::Status;
use crate::fabric::verbs::plant;
use crate::fabric::verbs::sys::Table;
use crate::fabric::verbs::sys::soft::{Process, World};
use crate::fabric::{Counts, Way};
use crate::mem::Message;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a test and a member tell each other.
#[derive(Default)]
struct Talk {
    members: u16,
    /// By sender's number: how many of its messages have come, and a sum of all in their order.
    heard: Vec<u64>,
    order: u64,
    to_send: u64,
    leave: bool,
    die: bool,
}

struct Member {
    talk: Arc<Mutex<Talk>>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl Member {
    fn start(config: Config, number: usize, table: Arc<Table>) -> Member {
        let talk = Arc::new(Mutex::new(Talk { heard: vec![0; 8], ..Talk::default() }));
        let told = talk.clone();
        let thread = std::thread::spawn(move || {
            plant(table);
            run(&config, number, &told)
        });
        Member { talk, thread: Some(thread) }
    }

    fn until(&self, what: &str, so: impl Fn(&Talk) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !so(&self.talk.lock().unwrap()) {
            let ended = self.thread.as_ref().is_some_and(JoinHandle::is_finished);
            assert!(!ended && Instant::now() < end, "never: {what} (ended: {ended})");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn tell(&self, what: impl FnOnce(&mut Talk)) {
        what(&mut self.talk.lock().unwrap());
    }

    fn end(&mut self) -> Result<(), String> {
        self.thread.take().unwrap().join().expect("it does not panic")
    }
}

fn run(config: &Config, number: usize, talk: &Arc<Mutex<Talk>>) -> Result<(), String> {
    let heard = talk.clone();
    let deliver = move |_: u16, batch: &[Message]| {
        let mut talk = heard.lock().unwrap();
        for message in batch {
            let bytes = message.bytes();
            talk.heard[usize::from(bytes[0])] += 1;
            for byte in bytes {
                talk.order = talk.order.wrapping_mul(0x100_0000_01b3) ^ u64::from(*byte);
            }
        }
    };
    let mut group = Group::open(config, Box::new(deliver)).map_err(|why| why.to_string())?;
    let mut sender = group.sender(0, 0).ok_or("it may send")?;
    let (control, mut left, mut sent) = (group.control().unwrap(), false, 0);
    loop {
        let (wanted, leave) = {
            let mut talk = talk.lock().unwrap();
            if talk.die {
                return Ok(());
            }
            talk.members = group.members();
            (talk.to_send, talk.leave)
        };
        if leave && !std::mem::replace(&mut left, true) {
            control.leave();
        }
        if sent < wanted {
            let len = [8, 100, 3_000, 40_000][sent as usize % 4];
            if sender.send(&vec![number as u8; len]).is_ok() {
                sent += 1;
            }
        }
        match group.turn(u32::MAX) {
            Ok(turn) if turn.busy => {}
            Ok(_) => group.wait(Some(Duration::from_millis(1))).map(drop).unwrap_or(()),
            Err(Status::Left) if left => return Ok(()),
            Err(why) => return Err(why.text().into()),
        }
    }
}

fn free() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn config(group: &str, carrier: Carrier, rank: u16, founders: &[String], join: bool) -> Config {
    let members = founders.len() as u16;
    let mut config = Config::new(group, if join { 0 } else { rank }, members);
    (config.membership, config.join) = (Changes::Views, join);
    (config.idle, config.suspicion_ns) = (Idle::Park, 20_000_000_000);
    config.subgroups[0].message_bytes_max = 40_000;
    let network = &mut config.network;
    (network.carrier, network.trusted) = (carrier, true);
    network.listen = vec![if join { free() } else { founders[usize::from(rank)].clone() }];
    match join {
        true => network.contacts = founders.to_vec(),
        false => network.founders = founders.to_vec(),
    }
    config
}

/// Found, send, let one go in good order, let one join, lose one without a word; with memory shared on
/// this host it is the same, and devices are there for others only.
#[test]
fn a_group_lives_by_rdma() {
    for (carrier, seed) in [(Carrier::Verbs, 21), (Carrier::ShmVerbs, 22)] {
        let world = World::new(seed);
        world.start();
        let processes: Vec<_> = (0..4).map(|_| world.process()).collect();
        let group = format!("rdma-{seed}-{}", std::process::id());
        let founders: Vec<String> = (0..3).map(|_| free()).collect();
        let start = |number: usize, join: bool| {
            let mut config = config(&group, carrier, number as u16, &founders, join);
            if carrier == Carrier::ShmVerbs {
                config.network.host = format!("h{}", number / 2); // two hosts of two
            }
            Member::start(config, number, processes[number].table())
        };
        let mut members: Vec<Member> = (0..3).map(|number| start(number, false)).collect();
        members.iter().for_each(|one| one.until("all are in", |talk| talk.members == 3));
        let all_hear = |members: &[&Member], all: &[(usize, u64)]| {
            for one in members {
                one.until("all is heard", |talk| all.iter().all(|of| talk.heard[of.0] == of.1));
            }
            let orders: Vec<u64> =
                members.iter().map(|one| one.talk.lock().unwrap().order).collect();
            assert!(orders.iter().all(|order| *order == orders[0]), "one order: {orders:x?}");
        };
        members.iter().for_each(|one| one.tell(|talk| talk.to_send = 300));
        let [one, two, three] = &members[..] else { unreachable!() };
        all_hear(&[one, two, three], &[(0, 300), (1, 300), (2, 300)]);
        members[2].tell(|talk| talk.leave = true);
        let went = members.pop().unwrap().end();
        assert_eq!(went, Ok(()));
        members.iter().for_each(|one| one.until("it is gone", |talk| talk.members == 2));
        let joins = start(3, true);
        joins.until("it is in", |talk| talk.members == 3);
        members.push(joins);
        members.iter().for_each(|one| one.until("all are in again", |talk| talk.members == 3));
        members[0].tell(|talk| talk.to_send = 500);
        members[2].tell(|talk| talk.to_send = 200);
        let [one, two, joined] = &members[..] else { unreachable!() };
        all_hear(&[one, two], &[(0, 500), (3, 200)]);
        joined.until("it hears, too", |talk| talk.heard[0] == 200 && talk.heard[3] == 200);
        processes[3].kill();
        members[2].tell(|talk| talk.die = true);
        let _ = members.pop().unwrap().end();
        members.iter().for_each(|one| one.until("it is missed", |talk| talk.members == 2));
        members.iter().for_each(|one| one.tell(|talk| talk.leave = true));
        members.iter_mut().for_each(|one| assert_eq!(one.end(), Ok(())));
    }
}

/// What is missing is said when the group is opened, with the remedy; and who is reached by something else
/// is told which.
#[test]
fn without_a_device_there_is_no_group() {
    let world = World::new(23);
    let process = world.process();
    process.abilities(|can| can.active = false);
    let founders = [free()];
    let config = config("no-device", Carrier::Verbs, 0, &founders, false);
    let error = std::thread::scope(|scope| {
        let opened = scope.spawn(|| {
            plant(process.table());
            Group::open(&config, Box::new(|_: u16, _: &[Message]| {})).map(drop)
        });
        opened.join().unwrap().unwrap_err()
    });
    assert_eq!(error.status, Status::System, "{error}");
    assert!(error.to_string().contains("soft0"), "{error}");
}

/// Founds a group in this thread.
fn found(config: Vec<Config>, processes: &[Process]) -> Vec<Group> {
    std::thread::scope(|scope| {
        let tables = processes.iter().map(Process::table);
        let opening = config.into_iter().zip(tables).map(|(config, table)| {
            scope.spawn(move || {
                plant(table);
                Group::open(&config, Box::new(|_: u16, _: &[Message]| {})).unwrap()
            })
        });
        let opening: Vec<_> = opening.collect();
        opening.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

/// What a member's queue to another one has counted.
fn counts(groups: &mut [Group], of: usize, to: usize) -> Counts {
    match groups[of].stats().peers[to] {
        Some(Way::Verbs { counts, .. }) => counts,
        other => panic!("{of} to {to}: {other:?}"),
    }
}

const BATCHES: u64 = 200;

fn check_batches(who: &str, sends: bool, before: &Counts, now: &Counts) {
    let [all, words, spans, notes, doorbells] = [
        now.work_requests - before.work_requests,
        now.words - before.words,
        now.spans - before.spans,
        now.notes - before.notes,
        now.doorbells - before.doorbells,
    ];
    let what = format!(
        "{who}: {all} writes: {spans} spans, {notes} notes, {words} words, {doorbells} doorbells"
    );
    eprintln!("{what}");
    assert_eq!(all, spans + notes + words, "nothing else is written: {what}");
    assert!(doorbells <= notes + words, "{what}");
    if sends {
        assert!((BATCHES + 10..BATCHES * 5 / 4).contains(&spans), "wraps: {what}");
        assert!(notes >= BATCHES && spans + notes <= BATCHES * 3, "{what}");
    } else {
        assert!(spans == 0 && notes <= BATCHES, "{what}");
    }
}

/// Issue D, line 3, by our own counters, message for message: of a batch of 16 one span (two at a wrap) and
/// one note go to each peer, with one doorbell at the most; and an acknowledgement is one note. What goes
/// by the clock, and not by messages, is counted apart: beats, a word each.
#[test]
fn a_batch_is_a_span_and_a_note_and_its_acknowledgement_a_note() {
    for members in [2, 3] {
        let world = World::new(24);
        world.start();
        let processes: Vec<_> = (0..members).map(|_| world.process()).collect();
        let founders: Vec<String> = (0..members).map(|_| free()).collect();
        let group = format!("rdma-batches-{members}-{}", std::process::id());
        let configs = (0..members as u16).map(|rank| {
            let mut config = config(&group, Carrier::Verbs, rank, &founders, false);
            let subgroup = &mut config.subgroups[0];
            (subgroup.senders, subgroup.message_bytes_max) = (Some(vec![0]), 72);
            (subgroup.window, subgroup.window_bytes) = (256, 12 << 10);
            config
        });
        let mut groups = found(configs.collect(), &processes);
        let calm = || {
            let end = Instant::now() + Duration::from_secs(30);
            while processes.iter().any(|process| process.waiting() > 0) {
                assert!(Instant::now() < end, "something is under way for ever");
                std::thread::yield_now();
            }
        };
        let mut sender = groups[0].sender(0, 0).unwrap();
        let mut batch = |groups: &mut Vec<Group>| {
            for at in 0..16 {
                // Of a length that goes round the ring's end in the midst of a batch.
                sender.send(if at == 0 { &[7; 8] } else { &[7; 72] }).expect("there is room");
            }
            for at in (0..groups.len()).chain([0]) {
                for _ in 0..2 {
                    groups[at].turn(u32::MAX).unwrap();
                }
                calm();
            }
        };
        (0..20).for_each(|_| batch(&mut groups)); // what comes with founding has gone
        let pairs: Vec<(usize, usize)> = (0..members)
            .flat_map(|of| (0..members).map(move |to| (of, to)))
            .filter(|(of, to)| of != to)
            .collect();
        let before: Vec<Counts> =
            pairs.iter().map(|(of, to)| counts(&mut groups, *of, *to)).collect();
        (0..BATCHES).for_each(|_| batch(&mut groups));
        for ((of, to), before) in pairs.into_iter().zip(before) {
            let now = counts(&mut groups, of, to);
            check_batches(&format!("{members} members, {of} to {to}"), of == 0, &before, &now);
        }
        std::thread::scope(|scope| {
            groups.into_iter().for_each(|group| _ = scope.spawn(|| group.close()));
        });
    }
}
