// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real processes under load whose group changes: killed, stopped and continued, leaving, joining.
//!
//! Each member writes down every view and every message that it delivers; an independent checker
//! (`cluster/check.rs`) compares what they wrote.

#[path = "cluster/check.rs"]
mod check;
#[path = "cluster/leaver.rs"]
mod leaver;
#[path = "cluster/member.rs"]
mod member;
#[path = "cluster/short.rs"]
mod short;
mod support;
#[path = "cluster/unread.rs"]
mod unread;
#[path = "cluster/upgrade.rs"]
mod upgrade;

use check::Check;
use leaver::{a_leaver_sends_to_the_last, leaver};
use member::{Cluster, One, member};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::time::Duration;
use support::{Numbers, Process, until};

fn main() {
    support::main(
        &[
            ("one_by_one", one_by_one),
            ("three_at_once", three_at_once),
            ("a_member_killed_at_rest", a_member_killed_at_rest),
            ("one_leaves_after_the_other", one_leaves_after_the_other),
            ("all_leave_at_once", all_leave_at_once),
            ("a_leaver_sends_to_the_last", a_leaver_sends_to_the_last),
            ("a_stopped_member_is_expelled", a_stopped_member_is_expelled),
            ("one_joins", one_joins),
            ("three_join_at_once", three_join_at_once),
            ("one_fails_and_another_joins", one_fails_and_another_joins),
            ("an_event_loop_beats", an_event_loop_beats),
            ("a_long_callback_beats", a_long_callback_beats),
            ("a_group_that_lacks_members_waits", a_group_that_lacks_members_waits),
            ("a_group_may_begin_with_waiting", a_group_may_begin_with_waiting),
            ("a_policy_that_disagrees_is_found", a_policy_that_disagrees_is_found),
            ("a_group_is_upgraded_member_by_member", upgrade::a_group_is_upgraded_member_by_member),
            ("anything_may_happen", anything_may_happen),
            ("on_receipt_nothing_is_lost", on_receipt_nothing_is_lost),
            ("a_member_without_descriptors", short::a_member_without_descriptors),
            ("a_member_without_memory", short::a_member_without_memory),
            ("a_joiner_without_descriptors", short::a_joiner_without_descriptors),
            ("joiners_that_die", short::joiners_that_die),
            ("a_member_that_does_not_read", unread::a_member_that_does_not_read),
            ("a_peer_that_never_reads", unread::a_peer_that_never_reads),
        ],
        &[("member", member), ("leaver", leaver)],
    );
}

/// Five members killed one by one: views of 4, 3 and 2 go on, the last one stops.
fn one_by_one() -> String {
    let mut text = String::new();
    for idle in ["yield", "park"] {
        let mut cluster = Cluster::start("onebyone", 5, idle);
        for left in (2..5).rev() {
            cluster.delivers();
            cluster.kill(0);
            cluster.views(left);
        }
        cluster.delivers();
        cluster.kill(0);
        let last = cluster.stops("Partitioned");
        assert_eq!(last, 1, "who is alone is in a minority");
        text.push_str(&format!("{idle}: {}\n", Check::of(&cluster).run()));
    }
    text
}

/// Three of five killed at once: the other two are a minority.
fn three_at_once() -> String {
    let mut cluster = Cluster::start("atonce", 5, "park");
    cluster.delivers();
    cluster.members[1..4].iter_mut().for_each(|one| one.process.kill());
    cluster.members.drain(1..4).for_each(drop::<member::One>);
    assert_eq!(cluster.stops("Partitioned"), 2);
    Check::of(&cluster).run()
}

/// Members leave while the others send; whoever leaves has everything that it sent delivered.
fn one_leaves_after_the_other() -> String {
    let mut cluster = Cluster::start("leaves", 4, "park");
    for left in (1..4).rev() {
        cluster.delivers();
        let mut one = cluster.take(left % 2);
        one.process.say(if left == 2 { "close" } else { "leave" });
        let lines = one.process.end_well();
        let over = lines.iter().any(|line| line == "over Left");
        assert!(over || left == 2, "{lines:?}");
        cluster.views(left);
    }
    let text = Check::of(&cluster).run();
    cluster.leave_all();
    text
}

/// Whoever is slow finds the others gone, the last one even its connections ended: all have left, and
/// nobody takes that for a failure.
fn all_leave_at_once() -> String {
    let mut numbers = Numbers(7);
    for idle in ["park", "yield"].into_iter().cycle().take(12) {
        let mut cluster = Cluster::start("allleave", 3, idle);
        cluster.delivers();
        cluster.members.iter_mut().for_each(|one| one.process.say("leave"));
        let slow = numbers.below(3) as usize;
        std::thread::sleep(Duration::from_micros(numbers.below(4_000)));
        cluster.members[slow].process.signal(Signal::STOP);
        std::thread::sleep(Duration::from_millis(30));
        cluster.members[slow].process.signal(Signal::CONT);
        for one in std::mem::take(&mut cluster.members) {
            let lines = one.process.end_well();
            let failed = lines.iter().any(|line| line.contains("its process ended"));
            assert!(lines.contains(&"over Left".to_string()) && !failed, "{lines:?}");
        }
    }
    "12 groups of three".into()
}

/// SIGSTOP is noticed within the time to suspicion; what wakes up later stops at once and says why.
fn a_stopped_member_is_expelled() -> String {
    let mut text = String::new();
    for idle in ["park", "yield"] {
        let mut cluster = Cluster::start_watchful("stopped", 3, idle);
        cluster.delivers();
        let one = cluster.take(1);
        let start = std::time::Instant::now();
        one.process.signal(Signal::STOP);
        cluster.views(2);
        let noticed = start.elapsed();
        cluster.delivers();
        cluster.rest();
        one.process.signal(Signal::CONT);
        let lines = one.process.end_well();
        assert!(lines.iter().any(|line| line == "over Expelled"), "{lines:?}");
        let checked = Check::of(&cluster).run();
        text.push_str(&format!("{idle}: noticed after {noticed:.1?}; {checked}\n"));
        cluster.leave_all();
    }
    text
}

/// A process joins under load, and another one when the first is there.
fn one_joins() -> String {
    let mut text = String::new();
    for idle in ["park", "yield"] {
        let mut cluster = Cluster::start("joins", 2, idle);
        for members in 3..5 {
            cluster.delivers();
            cluster.join();
            cluster.views(members);
        }
        cluster.delivers();
        cluster.rest();
        text.push_str(&format!("{idle}: {}\n", Check::of(&cluster).run()));
        cluster.leave_all();
    }
    text
}

/// They may come together or one by one.
fn three_join_at_once() -> String {
    let mut cluster = Cluster::start("joinsatonce", 3, "park");
    cluster.delivers();
    (0..3).for_each(|_| cluster.join());
    cluster.views(6);
    cluster.delivers();
    cluster.rest();
    let text = Check::of(&cluster).run();
    cluster.leave_all();
    text
}

/// Again and again the leader is killed and another process takes its seat.
fn one_fails_and_another_joins() -> String {
    let mut cluster = Cluster::start("failsandjoins", 3, "park");
    for _ in 0..5 {
        cluster.delivers();
        cluster.kill(0);
        cluster.views(2);
        cluster.join();
        cluster.views(3);
    }
    cluster.delivers();
    cluster.rest();
    let text = Check::of(&cluster).run();
    cluster.leave_all();
    text
}

/// Members that sleep on the descriptor, with nothing to do for three times the time to suspicion, are
/// not suspected.
fn an_event_loop_beats() -> String {
    let mut cluster = Cluster::start_watchful("beats", 3, "descriptor");
    cluster.delivers();
    cluster.rest();
    std::thread::sleep(std::time::Duration::from_secs(3));
    for one in &mut cluster.members {
        assert_eq!(one.process.ready_lines(), [String::new(); 0], "nothing happens");
    }
    let text = Check::of(&cluster).run();
    cluster.leave_all();
    text
}

/// A member whose callbacks take longer than the time to suspicion, and say that they live, stays: that of a
/// view, and that of a delivery.
fn a_long_callback_beats() -> String {
    let fabric = member::fabric();
    let fabric = if fabric == "shm" { "tcp" } else { &fabric };
    let slow: &[(&str, &dyn std::fmt::Display)] = &[("suspicion_ms", &1_000), ("nap_ms", &1_500)];
    let more = |rank: u16| if rank == 1 { slow } else { &slow[..1] };
    let mut cluster = Cluster::start_over(fabric, "longcallback", 4, "park", &more);
    cluster.delivers();
    cluster.kill(0);
    cluster.views(3);
    for _ in 0..2 {
        cluster.members[0].process.expect("napped");
    }
    cluster.delivers();
    cluster.rest();
    for one in &mut cluster.members {
        let lines = one.process.ready_lines();
        assert!(!lines.iter().any(|line| line.starts_with("view")), "{lines:?}");
    }
    let text = Check::of(&cluster).run();
    cluster.leave_all();
    format!("{fabric}: {text}")
}

/// Too few are left: they say so, take nothing and deliver nothing, and lose nothing; when somebody
/// joins they go on where they were.
fn a_group_that_lacks_members_waits() -> String {
    let mut text = String::new();
    for idle in ["park", "yield"] {
        let mut cluster = Cluster::start_needing("lacks", 4, idle, 3);
        cluster.delivers();
        cluster.kill(0);
        cluster.views(3);
        cluster.delivers();
        cluster.kill(1);
        waits(&mut cluster, 1);
        refuses(&mut cluster);
        cluster.kill(0);
        assert_eq!(cluster.stops("Partitioned"), 1, "one of two is none");

        let mut cluster = Cluster::start_needing("lacks", 3, idle, 3);
        cluster.delivers();
        cluster.kill(0);
        waits(&mut cluster, 1);
        refuses(&mut cluster);
        cluster.join();
        go_on(&mut cluster, 3);
        cluster.rest();
        text.push_str(&format!("{idle}: {}\n", Check::of(&cluster).run()));
        cluster.leave_all();
    }
    text
}

/// Two founders of a group that needs four; they come one by one.
fn a_group_may_begin_with_waiting() -> String {
    let mut cluster = Cluster::start_needing("begins", 2, "park", 4);
    waits(&mut cluster, 2);
    cluster.join();
    waits(&mut cluster, 1);
    cluster.join();
    go_on(&mut cluster, 4);
    cluster.rest();
    let text = Check::of(&cluster).run();
    cluster.leave_all();
    text
}

/// All say that they wait for so many.
fn waits(cluster: &mut Cluster, members: u16) {
    for one in &mut cluster.members {
        assert_eq!(one.process.expect("waits"), members.to_string());
    }
}

/// All refuse to send for that.
fn refuses(cluster: &mut Cluster) {
    cluster.members.iter_mut().for_each(|one| drop(one.process.expect("inadequate")));
}

/// Nobody delivers anything before the view of so many; then all do.
fn go_on(cluster: &mut Cluster, members: usize) {
    for one in &mut cluster.members {
        loop {
            let line = one.process.line().expect("it goes on");
            assert!(!line.starts_with("first"), "{} delivers while it waits", one.id);
            if line.starts_with("view") && line.split(' ').nth(2) == Some(&members.to_string()) {
                break;
            }
        }
    }
    cluster.delivers();
}

/// One member's policy places three members otherwise than the others do: it stops, they go on.
fn a_policy_that_disagrees_is_found() -> String {
    let mut cluster = Cluster::start_placing("disagrees", 4, &[3]);
    cluster.delivers();
    cluster.kill(0);
    let odd = cluster.take(1).process.end_well();
    assert!(odd.contains(&"over Mismatch".to_string()), "{odd:?}");
    cluster.views(2);
    cluster.delivers();
    cluster.rest();
    let text = Check::of(&cluster).run();
    cluster.leave_all();
    format!("{text}\n{}", a_joiner_that_disagrees())
}

/// The same of one that joins two others.
fn a_joiner_that_disagrees() -> String {
    let mut cluster = Cluster::start_placing("misjoins", 2, &[3]);
    cluster.delivers();
    cluster.join();
    let mut odd = cluster.take(2);
    assert!(odd.process.expect("error").starts_with("Mismatch"), "it stops");
    drop(odd);
    cluster.views(3);
    cluster.views(2);
    cluster.delivers();
    cluster.rest();
    let text = Check::of(&cluster).run();
    cluster.leave_all();
    text
}

/// Members are killed, stopped and continued, leave and join, one or several at a time, while all send.
fn anything_may_happen() -> String {
    anything("anything", 40, false)
}

/// The same where messages are delivered on receipt.
fn on_receipt_nothing_is_lost() -> String {
    anything("onreceipt", 24, true)
}

/// `SQUALL_CLUSTER_CHANGES` says how many changes, `SQUALL_CLUSTER_SEED` which.
fn anything(what: &str, changes: u64, received: bool) -> String {
    let number = |key: &str, or: u64| {
        std::env::var(key).ok().map_or(or, |text| text.parse().expect("a number"))
    };
    let changes = number("SQUALL_CLUSTER_CHANGES", changes);
    let mut dice = Numbers(number("SQUALL_CLUSTER_SEED", 1));
    let mut cluster = Cluster::start_as(what, 4, "park", 300, received);
    let mut stopped: Vec<One> = Vec::new();
    let mut tally: BTreeMap<&str, u64> = BTreeMap::new();
    // Who is continued was left out before: that is no change.
    let made = |tally: &BTreeMap<&str, u64>| {
        tally.iter().filter(|(what, _)| **what != "continued").map(|(_, many)| many).sum::<u64>()
    };
    while made(&tally) < changes {
        let members = cluster.members.len();
        // Fewer than half may go at once.
        let mut may_go = (members - 1) / 2;
        for _ in 0..1 + dice.below(3) {
            let at = dice.below(cluster.members.len() as u64) as usize;
            let what = match dice.below(10) {
                0..4 if may_go > 0 && members > 2 => "killed",
                4 if may_go > 0 && members > 2 && stopped.len() < 3 => "stopped",
                5 | 6 if may_go > 0 && members > 2 => "left",
                7.. if cluster.members.len() < 7 => "joined",
                _ => continue,
            };
            *tally.entry(what).or_default() += 1;
            if what == "joined" {
                cluster.join();
                cluster.note(format!("{} joins", cluster.ids.len()));
                continue;
            }
            // Whoever was asked to join a moment ago may not be a member yet, and not be a loss.
            if cluster.members[at].incarnation == 0 {
                *tally.entry(what).or_default() -= 1;
                continue;
            }
            may_go -= 1;
            let mut one = cluster.take(at);
            cluster.note(format!("{} {what}", one.id));
            match what {
                "killed" => one.process.kill(),
                "stopped" => {
                    one.process.signal(Signal::STOP);
                    stopped.push(one);
                }
                _ => {
                    one.process.say("leave");
                    let lines = one.process.end_well();
                    assert!(lines.iter().any(|line| line == "over Left"), "{lines:?}");
                }
            }
        }
        cluster.settle();
        if !stopped.is_empty() && dice.below(3) == 0 {
            let one = stopped.remove(dice.below(stopped.len() as u64) as usize);
            one.process.signal(Signal::CONT);
            let lines = one.process.end_well();
            assert!(lines.iter().any(|line| line == "over Expelled"), "{lines:?}");
            *tally.entry("continued").or_default() += 1;
        }
    }
    cluster.delivers();
    cluster.rest();
    if received {
        until("all have heard all", || {
            std::thread::sleep(std::time::Duration::from_millis(20)); // the members need the core
            Check::of(&cluster).have_heard_all()
        });
    }
    let text = format!("{tally:?}; {}", Check::of(&cluster).run());
    cluster.leave_all();
    text
}

/// Nobody sends anything when it happens; afterwards all goes on.
fn a_member_killed_at_rest() -> String {
    let mut cluster = Cluster::start("atrest", 3, "park");
    cluster.delivers();
    cluster.rest();
    cluster.kill(1);
    cluster.views(2);
    cluster.members.iter_mut().for_each(|one| Process::say(&mut one.process, "go"));
    cluster.delivers();
    cluster.rest();
    let text = Check::of(&cluster).run();
    cluster.leave_all();
    text
}
