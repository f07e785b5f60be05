// SPDX-License-Identifier: MIT OR Apache-2.0
//! Groups of real processes, and what goes wrong with processes: any order of arrival, sudden death,
//! long silence, garbage in shared memory, strangers at the door, limits and missing memory.
//!
//! Every member is this program again, with a role. What members delivered is compared by a hash
//! over every message in its order.

#[path = "process/bug.rs"]
mod bug;
#[path = "process/door.rs"]
mod door;
#[path = "process/fork.rs"]
mod fork;
#[path = "process/garbage.rs"]
mod garbage;
#[path = "process/limits.rs"]
mod limits;
#[path = "process/member.rs"]
mod member;
#[path = "process/memory.rs"]
mod memory;
#[path = "process/peers.rs"]
mod peers;
mod support;

use bug::*;
use door::*;
use fork::*;
use garbage::*;
use limits::*;
use member::*;
use memory::*;
use peers::*;
use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use squall::driver::Application;
use squall::driver::config::{Changes, Config, Idle, SubgroupConfig};
use squall::driver::group::{Group, Sender};
use squall::driver::idle::Pace;
use squall::driver::stats::{self, Snapshot};
use squall::driver::views::ViewInfo;
use squall::error::{Status, Suspicion};
use squall::fabric::shm::door::{Hello, Kind, socket_name};
use squall::fabric::shm::socket::{Bell, Socket};
use squall::mem::region::Want;
use squall::mem::{Message, Region};
use squall::sst::layout::Mode;
use std::collections::BTreeMap;
use std::io::BufRead;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use support::{Arguments, Numbers, Process, Role, Test, group_name, listens, traces, until};

const TESTS: &[Test] = &[
    ("any_order_of_arrival", any_order_of_arrival),
    ("subgroups_lanes_and_threads_agree", subgroups_lanes_and_threads_agree),
    ("a_stopped_member_loses_nothing", a_stopped_member_loses_nothing),
    ("statistics_are_read_from_outside", statistics_are_read_from_outside),
    ("a_killed_member_is_named_and_replaced", a_killed_member_is_named_and_replaced),
    ("a_member_that_forked_is_named_and_replaced", a_member_that_forked_is_named_and_replaced),
    ("a_child_may_return_from_its_callback", a_child_may_return_from_its_callback),
    ("a_child_of_a_rust_program_has_no_group", a_child_of_a_rust_program_has_no_group),
    ("a_fork_handler_may_wait", a_fork_handler_may_wait_for_a_thread_that_opens),
    ("children_open_beside_forks", children_open_while_threads_of_the_parent_do),
    ("a_member_that_dies_before_the_group_is_complete", a_death_at_the_rendezvous),
    ("all_meet_the_same_incarnations", all_meet_the_same_incarnations),
    ("nothing_is_left_when_all_are_killed", nothing_is_left_when_all_are_killed),
    ("garbage_in_shared_memory_is_cut_off", garbage_in_shared_memory_is_cut_off),
    ("nobody_can_write_into_anothers_memory", nobody_can_write_into_anothers_memory),
    ("strangers_at_the_door_disturb_nobody", strangers_at_the_door_disturb_nobody),
    ("two_configurations_are_both_named", two_configurations_are_both_named),
    ("a_rank_is_open_once", a_rank_is_open_once),
    ("another_users_group_is_told_from_ours", another_users_group_is_told_from_ours),
    ("two_users_share_a_group", two_users_share_a_group),
    ("another_user_cannot_write_either", another_user_cannot_write_either),
    ("namespaces_meet_in_a_directory", namespaces_meet_in_a_directory),
    ("who_is_not_mapped_is_refused", who_is_not_mapped_is_refused),
    ("who_is_missing_is_named", who_is_missing_is_named),
    ("the_lock_limit_is_named", the_lock_limit_is_named),
    ("missing_huge_pages_are_named", missing_huge_pages_are_named),
    ("huge_pages_work", huge_pages_work),
    ("missing_memory_is_named", missing_memory_is_named),
    ("the_descriptor_limit_is_named", the_descriptor_limit_is_named),
    ("a_bug_of_ours_is_said_in_the_log", a_bug_of_ours_is_said_in_the_log),
    ("without_a_descriptor_a_door_disturbs_nobody", a_door_without_a_descriptor),
];

const ROLES: &[Role] = &[
    ("stream", stream),
    ("honest", honest),
    ("hostile", hostile),
    ("thief", thief),
    ("knock", knock),
    ("cramped", cramped),
    ("buggy", buggy),
    ("forker", forker),
];

fn main() {
    support::main(TESTS, ROLES);
}

fn any_order_of_arrival() -> String {
    let mut text = String::new();
    let mut numbers = Numbers(7);
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0u16]] {
        let group = group_name("order");
        let start = starts(&group, 3, &[("count", &3_000)]);
        let mut members: BTreeMap<u16, Process> = BTreeMap::new();
        let mut waits = Vec::new();
        for rank in order {
            members.insert(rank, start(rank));
            // Sometimes the one before is already there, sometimes they race.
            let there = numbers.below(2) == 0;
            if there {
                until("a member listens", || listens(&group, rank));
            }
            waits.push(there);
        }
        let heard = all_agree(members.into_values().collect());
        text.push_str(&format!("arrival {order:?}, waited for {waits:?}: {heard}\n"));
        assert_eq!(traces(&group), [""; 0]);
    }
    text
}

fn subgroups_lanes_and_threads_agree() -> String {
    let mut text = String::new();
    for (idle, lanes, count) in [("park", 3, 3_000), ("yield", 2, 3_000), ("spin", 1, 60)] {
        let (group, begun) = (group_name("many"), std::time::Instant::now());
        let more: &Options<'_> =
            &[("many", &true), ("idle", &idle), ("lanes", &lanes), ("count", &count)];
        let start = starts(&group, 3, more);
        let mut members: Vec<Process> = (0..3).map(start).collect();
        let heard: Vec<Vec<String>> = members
            .iter_mut()
            .map(|member| heard_of(&member.expect("done")).split(',').map(String::from).collect())
            .collect();
        // Who is a member of what: see `config`.
        for (subgroup, ranks) in
            [vec![0, 1, 2], vec![0, 1], vec![0, 1, 2], vec![0, 1, 2], vec![1, 2]].iter().enumerate()
        {
            let first = &heard[ranks[0]][subgroup];
            assert!(ranks.iter().all(|rank| heard[*rank][subgroup] == *first), "{heard:?}");
        }
        members.iter_mut().for_each(|member| member.say("close"));
        members.into_iter().for_each(|member| drop(member.end_well()));
        let (heard, time) = (heard[1].join(" "), begun.elapsed().as_millis());
        text.push_str(&format!("{idle}, {lanes} lanes, {time} ms: {heard}\n"));
    }
    text
}

fn a_stopped_member_loses_nothing() -> String {
    let group = group_name("stopped");
    let start = starts(&group, 3, &[("count", &40_000), ("window", &64), ("progress", &1_000)]);
    let mut members: Vec<Process> = (0..3).map(start).collect();
    let mut text = String::new();
    for round in 0..3usize {
        let victim = round % 3;
        members[victim].expect("progress");
        members[victim].signal(Signal::STOP);
        let state = format!("/proc/{}/stat", members[victim].pid());
        until("it has stopped", || std::fs::read_to_string(&state).unwrap().contains(") T"));
        // The others run into their windows: nobody may deliver what the stopped one lacks.
        let witness = ((victim + 1) % 3) as u16;
        let first = stat(&group, witness);
        let mut now = first.clone();
        until("the window of a witness is full", || {
            now = stat(&group, witness);
            now.subgroups[0].pressed > first.subgroups[0].pressed + 1_000
        });
        assert_eq!(now.stopped, 0, "a silent member is no lost member");
        let (delivered, pressed) = (now.subgroups[0].delivered_number, now.subgroups[0].pressed);
        text.push_str(&format!(
            "rank {victim} stopped: rank {witness} stands at {delivered}, refused {pressed} sends\n"
        ));
        members[victim].signal(Signal::CONT);
    }
    let heard = all_agree(members);
    assert!(heard.starts_with("120000:"), "{heard}");
    text + &format!("all: {heard}")
}

/// The same pages by the program, if it was built; the group does not notice.
fn statistics_are_read_from_outside() -> String {
    let Some(program) = option_env!("CARGO_BIN_EXE_squall") else {
        return "SKIPPED: built without the program".into();
    };
    let group = group_name("stat");
    let start = starts(&group, 3, &[("count", &20_000), ("progress", &1_000)]);
    let mut members: Vec<Process> = (0..3).map(start).collect();
    members[0].expect("progress");
    let mut looks = 0;
    let mut last = 0;
    // While it runs, and once more when all is delivered.
    loop {
        let pages: Vec<Snapshot> = (0..3).map(|rank| stat(&group, rank)).collect();
        let output = std::process::Command::new(program).args(["stat", &group]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text} {}", String::from_utf8_lossy(&output.stderr));
        looks += 1;
        for (rank, page) in pages.iter().enumerate() {
            assert_eq!((page.rank, page.members, page.stopped), (rank as u64, 3, 0));
            assert_eq!(page.pid, u64::from(members[rank].pid()));
            let subgroup = &page.subgroups[0];
            assert!(subgroup.delivered_number <= subgroup.stable, "{subgroup:?}");
            assert!(subgroup.stable <= subgroup.prefix, "{subgroup:?}");
            assert!(subgroup.delivered.messages <= 60_000 && subgroup.sent <= 20_000);
        }
        last = pages[0].subgroups[0].delivered.messages.max(last);
        if pages.iter().all(|page| page.subgroups[0].delivered.messages == 60_000) {
            let heard = all_agree(members);
            return format!(
                "{looks} looks at 3 pages, the last at {last}; the group: {heard}\n{text}"
            );
        }
    }
}

fn a_killed_member_is_named_and_replaced() -> String {
    let mut text = String::new();
    for (victim, idle) in [(2u16, "park"), (0, "yield"), (1, "spin"), (2, "yield")] {
        let group = group_name("killed");
        let more: &Options<'_> = &[("idle", &idle), ("progress", &500), ("reopen", &true)];
        let start = starts(&group, 3, more);
        let mut members: Vec<Process> = (0..3).map(&start).collect();
        let mut last = String::new();
        for _ in 0..20 {
            last = members[usize::from(victim)].expect("progress");
        }
        let mut dead = members.remove(usize::from(victim));
        dead.kill();
        let lines = dead.end().lines;
        // Whoever takes its place may come at once: nobody coordinates this.
        let mut next = starts(&group, 3, &[("idle", &idle), ("count", &2_000)])(victim);
        let more = lines.iter().rev().find_map(|line| line.strip_prefix("progress "));
        let last = more.map_or(last, String::from);
        let mut numbers = Vec::new();
        for member in &mut members {
            let line = member.expect("stopped");
            assert!(line.starts_with("PeerLost"), "{line}");
            assert_eq!(field(&line, "rank="), victim.to_string(), "{line}");
            numbers.push(field(&line, "heard=").split(':').next().unwrap().parse::<u64>().unwrap());
        }
        let mut all = vec![next.expect("done")];
        all.extend(members.iter_mut().map(|member| member.expect("done")));
        assert!(all.iter().all(|line| *line == all[0]), "{all:?}");
        heard_of(&all[0]);
        // What the dead one had delivered, both others have, in its order; and of those two one has
        // delivered the beginning of what the other has.
        let common = *numbers.iter().min().unwrap();
        let mut at = |count: u64| {
            let hashes = members.iter_mut().map(|member| {
                member.say(&format!("at {count}"));
                member.expect("hash")
            });
            hashes.collect::<Vec<_>>()
        };
        let hashes = at(common);
        assert_eq!(hashes[0], hashes[1]);
        let (count, hash) = last.split_once(' ').unwrap();
        let died_at: u64 = count.parse().unwrap();
        assert!(died_at <= common, "it had delivered {died_at}, the others {numbers:?}");
        assert_eq!(at(died_at), [hash, hash]);
        members.push(next);
        members.iter_mut().for_each(|member| member.say("close"));
        members.into_iter().for_each(|member| drop(member.end_well()));
        assert_eq!(traces(&group), [""; 0]);
        text.push_str(&format!(
            "rank {victim} of {idle} members killed after {died_at}: the others delivered \
             {numbers:?} in one order, named it, and met its successor\n"
        ));
    }
    text
}

/// Rank 1 meets rank 0 and dies before rank 2 is there: its successor completes the group.
fn a_death_at_the_rendezvous() -> String {
    let group = group_name("early");
    let start = starts(&group, 3, &[("count", &1_000)]);
    let first = start(0);
    until("rank 0 listens", || listens(&group, 0));
    let mut dead = start(1);
    // They have met when rank 0 holds the other's memory.
    let mapped = format!("memfd:squall-{group}-1-table");
    let maps = format!("/proc/{}/maps", first.pid());
    until("rank 0 has met rank 1", || std::fs::read_to_string(&maps).unwrap().contains(&mapped));
    dead.kill();
    drop(dead.end());
    let (second, third) = (start(1), start(2));
    let heard = all_agree(vec![first, second, third]);
    assert_eq!(traces(&group), [""; 0]);
    format!("rank 1 died after it had met rank 0, its successor completed the group: {heard}")
}

/// Rank 1 meets rank 0 and dies before it meets rank 2, who meets its successor: the group of rank 0
/// would be another one than theirs.
fn all_meet_the_same_incarnations() -> String {
    let group = group_name("same");
    let start = starts(&group, 3, &[("count", &1_000)]);
    let first = start(0);
    until("rank 0 listens", || listens(&group, 0));
    let maps = format!("/proc/{}/maps", first.pid());
    let met = |rank: u16| {
        let mapped = format!("memfd:squall-{group}-{rank}-table");
        until("rank 0 has met it", || std::fs::read_to_string(&maps).unwrap().contains(&mapped));
    };
    let mut dead = start(1);
    met(1);
    dead.signal(Signal::STOP);
    let third = start(2);
    met(2);
    dead.kill();
    drop(dead.end());
    let heard = all_agree(vec![first, start(1), third]);
    assert_eq!(traces(&group), [""; 0]);
    format!("rank 0 had met rank 1, rank 2 had not: with its successor all agree: {heard}")
}

fn nothing_is_left_when_all_are_killed() -> String {
    let group = group_name("gone");
    let start = starts(&group, 3, &[("progress", &1_000)]);
    let mut members: Vec<Process> = (0..3).map(&start).collect();
    members.iter_mut().for_each(|member| drop(member.expect("progress")));
    let during = traces(&group);
    assert!(during.iter().any(|trace| trace.starts_with("socket")));
    members.iter_mut().for_each(Process::kill);
    members.into_iter().for_each(|member| drop(member.end()));
    assert_eq!(traces(&group), [""; 0]);
    // And the name is free.
    let start = starts(&group, 3, &[("count", &100)]);
    let heard = all_agree((0..3).map(start).collect());
    assert_eq!(traces(&group), [""; 0]);
    format!("{} traces while it ran, 0 after, the next group of the name: {heard}", during.len())
}
