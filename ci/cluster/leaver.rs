// SPDX-License-Identifier: MIT OR Apache-2.0
//! A process that joins, sends until it is refused, and leaves while it sends: again and again.
//!
//! L1  Each message that a send accepted is delivered by those who stay, or given to `dropped`: one
//!     of the two, once. That is so when the turn has answered `Left`, or `close` has returned.
//!     Only where `close` gave up after a second, on a slow machine, it may be both: `TimedOut` says
//!     that it is not *known* to be delivered.
//! L2  Once `leave` has returned nothing is accepted.

use crate::check::Check;
use crate::member::{Cluster, PATIENT_MS, content};
use crate::support::sites::network;
use crate::support::{Arguments, Numbers, Process};
use squall::driver::Application;
use squall::driver::config::{Changes, Config, Idle};
use squall::driver::control::Control;
use squall::driver::group::{Group, Sender};
use squall::driver::lane::Dropped;
use squall::error::Status;
use squall::mem::Message;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Which it does in a round; `leave` is asked for by another thread than sends.
const WAYS: [&str; 5] = ["leave", "twice", "close", "own", "callback"];

#[derive(Default)]
struct Heard {
    control: Mutex<Option<Control>>,
    /// And whether it is not known to be delivered.
    dropped: Mutex<Vec<(u64, bool)>>,
    leaves_in_callback: AtomicBool,
}

struct Listener(Arc<Heard>);

impl Application for Listener {
    fn deliver(&mut self, _: u16, _: &[Message]) {
        if self.0.leaves_in_callback.load(Ordering::Relaxed)
            && let Some(control) = &*self.0.control.lock().unwrap()
        {
            control.leave();
        }
    }

    fn dropped(&mut self, message: &Dropped) {
        let word = |at: usize| u64::from_le_bytes(message.bytes[at..at + 8].try_into().unwrap());
        assert_eq!(word(8), message.ordinal);
        let unknown = message.why == Status::TimedOut;
        self.0.dropped.lock().unwrap().push((message.ordinal, unknown));
    }
}

/// Sends until it is refused for good; how many were accepted, and how that ended.
fn send_on(mut sender: Sender, id: u64, left: &AtomicBool) -> (u64, Status) {
    let (mut bytes, mut sent, mut numbers) = (Vec::new(), 0, Numbers(id));
    loop {
        let before = left.load(Ordering::Acquire);
        content(id, sent, &mut bytes);
        let outcome = match numbers.below(4) {
            0 => sender
                .reserve(bytes.len() as u32)
                .map(|place| place.copy_from_slice(&bytes))
                .and_then(|()| {
                    let outcome = sender.publish(bytes.len() as u32);
                    outcome.inspect_err(|_| sender.abort().unwrap())
                }),
            1 => {
                let (count, outcome) = sender.send_many([bytes.as_slice()].into_iter());
                outcome.map(|()| sent + count - 1)
            }
            _ => sender.send(&bytes),
        };
        match outcome {
            Ok(ordinal) => {
                assert!(!before, "L2: {ordinal} of {id} is accepted after `leave`");
                assert_eq!(ordinal, sent);
                sent += 1;
            }
            Err(Status::Again) => std::thread::yield_now(),
            Err(status) => return (sent, status),
        }
    }
}

/// The role: arguments group, founders, idle, id, rounds, and those of `network`.
pub fn leaver(arguments: &Arguments) {
    let (first, rounds): (u64, u64) =
        (arguments.get("id").unwrap(), arguments.get("rounds").unwrap());
    let mut numbers = Numbers(first);
    for round in 0..rounds {
        let id = first + round;
        let way = WAYS[(round % WAYS.len() as u64) as usize];
        let mut config =
            Config::new(arguments.text("group").unwrap(), 0, arguments.get("founders").unwrap());
        (config.membership, config.join) = (Changes::Views, true);
        network(&mut config, arguments);
        config.subgroups[0].window = 256;
        config.subgroups[0].message_bytes_max = 1024;
        config.suspicion_ns = PATIENT_MS * 1_000_000;
        let yields = arguments.text("idle") == Some("yield");
        config.idle = if yields { Idle::Yield } else { Idle::Park };
        let heard = Arc::new(Heard::default());
        let group = Group::open(&config, Box::new(Listener(heard.clone()))).unwrap();
        let pause = Duration::from_micros(numbers.below(2_000));
        let (sent, status) = leave(group, way, pause, id, &heard);
        assert_eq!(status, Status::Left, "{way}");
        let told = |(ordinal, unknown): &(u64, bool)| {
            format!("{ordinal}{}", if *unknown { "?" } else { "" })
        };
        let dropped: Vec<String> = heard.dropped.lock().unwrap().iter().map(told).collect();
        println!("round {id} {way} {sent} {}", dropped.join(","));
    }
    println!("rounds");
}

fn leave(mut group: Group, way: &str, pause: Duration, id: u64, heard: &Heard) -> (u64, Status) {
    let (sender, control) = (group.sender(0, 0).unwrap(), group.control().unwrap());
    *heard.control.lock().unwrap() = Some(control.clone());
    let left = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| send_on(sender, id, &left));
        let asks = way != "close" && way != "callback";
        let asking = asks.then(|| {
            scope.spawn(|| {
                std::thread::sleep(pause);
                control.leave();
                left.store(true, Ordering::Release);
                if way == "twice" {
                    control.leave();
                }
            })
        });
        let over = match way {
            "own" => {
                let polling = group.spawn(None).unwrap();
                while !polling.ended() {
                    std::thread::yield_now();
                }
                polling.join().expect("no panic").1
            }
            "close" => {
                let until = Instant::now() + pause;
                while Instant::now() < until {
                    group.turn(u32::MAX).unwrap();
                }
                group.close();
                Status::Left
            }
            _ => {
                let start = Instant::now();
                group.run(|| {
                    let now = way == "callback" && start.elapsed() > pause;
                    heard.leaves_in_callback.store(now, Ordering::Relaxed);
                    false
                })
            }
        };
        // Before its thread has ended all is known (L1).
        let (sent, status) = sending.join().unwrap();
        asking.map(|asking| asking.join().unwrap());
        assert_eq!(over, status);
        (sent, status)
    })
}

/// Processes leave while they send, under load, and a member is killed meanwhile.
pub fn a_leaver_sends_to_the_last() -> String {
    let mut text = String::new();
    for idle in ["yield", "park"] {
        let mut cluster = Cluster::start_paced("leaver", 4, idle, 100);
        cluster.delivers();
        let asked = std::env::var("SQUALL_CLUSTER_ROUNDS").ok(); // fewer on an emulated machine
        let (rounds, first) = (asked.map_or(60u64, |text| text.parse().unwrap()), 1_000u64);
        let ways = cluster.ways(first, true);
        let ways: Vec<(&str, &dyn std::fmt::Display)> =
            ways.iter().map(|(key, way)| (*key, way as _)).collect();
        let arguments: [(&str, &dyn std::fmt::Display); 5] = [
            ("group", &cluster.group),
            ("founders", &4),
            ("idle", &idle),
            ("id", &first),
            ("rounds", &rounds),
        ];
        let mut process = Process::start("leaver", &[&ways[..], &arguments].concat());
        let mut told = Vec::new();
        for round in 0..rounds {
            told.push(process.expect("round"));
            if round == rounds / 3 {
                cluster.kill(1);
            }
        }
        process.end_well();
        cluster.rest();
        let check = Check::of(&cluster);
        let checked = check.run();
        let (mut sent, mut dropped) = (0, 0);
        for line in &told {
            let (all, handed_back) = one_of_two(&check, line);
            (sent, dropped) = (sent + all, dropped + handed_back);
        }
        assert!(sent > 10 * rounds, "{sent} messages are few");
        text.push_str(&format!("{idle}: {sent} accepted, {dropped} dropped; {checked}\n"));
        cluster.leave_all();
    }
    text
}

/// L1, of one round: how many were accepted, and dropped.
fn one_of_two(check: &Check, line: &str) -> (u64, u64) {
    let mut parts = line.split(' ');
    let mut number = || parts.next().unwrap_or_default().to_string();
    let (id, way, sent) = (number(), number(), number());
    let (id, sent): (u64, u64) = (id.parse().unwrap(), sent.parse().unwrap());
    let told = number();
    let told: Vec<&str> = told.split(',').filter(|text| !text.is_empty()).collect();
    let of = |text: &&str| -> u64 { text.trim_end_matches('?').parse().unwrap() };
    let dropped: Vec<u64> = told.iter().map(of).collect();
    let unknown: BTreeSet<u64> = told.iter().filter(|text| text.ends_with('?')).map(of).collect();
    for (who, heard) in check.heard_by_those_who_stay(id) {
        let all: BTreeSet<u64> = heard.iter().chain(&dropped).copied().collect();
        let both = heard.iter().filter(|ordinal| unknown.contains(ordinal)).count();
        let count = heard.len() + dropped.len() - both;
        assert!(
            all.len() == count && all == (0..sent).collect(),
            "L1: {id} ({way}) has {sent} accepted; {} are delivered at {who}, dropped {dropped:?}",
            heard.len()
        );
    }
    (sent, dropped.len() as u64)
}
