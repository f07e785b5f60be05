// SPDX-License-Identifier: MIT OR Apache-2.0
//! A member that lacks descriptors or memory for the next view: it stops and says why, and nobody
//! else is taken to be at fault.

use crate::check::Check;
use crate::member::{Cluster, One};
use crate::support::until;
use squall::fabric::shm::door::{Hello, Kind, socket_name};
use squall::fabric::shm::socket::{Bell, Socket};
use squall::mem::Region;
use squall::mem::region::Want;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};

/// One of five may open only so many descriptors more once it is a member.
pub fn a_member_without_descriptors() -> String {
    let amounts = [0, 1, 2, 3, 5, 8, 11, 40];
    sweep("descriptors", "more_descriptors", &amounts, &|text| {
        text.starts_with("Limit ")
            && text.contains("RLIMIT_NOFILE is ")
            && text.contains("ulimit -n")
    })
}

/// One of five may map only so much more once it is a member. A ring has 8 MiB, a view five.
pub fn a_member_without_memory() -> String {
    let amounts = [2, 10, 20, 30, 42, 60, 400];
    sweep("memory", "more_mib", &amounts, &|text| {
        text.starts_with("NoMemory ")
            && text.contains("RLIMIT_AS is ")
            && text.contains("ulimit -v")
    })
}

/// With each amount: one member is killed and another leaves. The poor one goes on or stops.
fn sweep(what: &str, key: &str, amounts: &[u64], says: &dyn Fn(&str) -> bool) -> String {
    let mut text = String::new();
    let mut outcomes = BTreeSet::new();
    for amount in amounts {
        let poor: &[(&str, &dyn std::fmt::Display)] =
            &[(key, amount), ("window_bytes", &(8 << 20)), ("notes", &true)];
        let rich: &[(&str, &dyn std::fmt::Display)] = &[("window_bytes", &(8 << 20))];
        let more = |rank: u16| if rank == 1 { poor } else { rich };
        let mut cluster = Cluster::start_with(what, 5, "park", &more);
        cluster.delivers();
        cluster.kill(4);
        let mut poor = cluster.take(1);
        let mut outcome = outcome(&mut poor, &mut cluster, says);
        let mut leaver = cluster.take(2);
        leaver.process.say("leave");
        let lines = leaver.process.end_well();
        assert!(lines.iter().any(|line| line == "over Left"), "{lines:?}");
        if outcome.is_none() {
            outcome = self::outcome(&mut poor, &mut cluster, says);
        }
        if outcome.is_none() {
            cluster.members.insert(1, poor);
        }
        cluster.settle();
        cluster.delivers();
        cluster.rest();
        let checked = Check::of(&cluster).run();
        cluster.leave_all();
        outcomes.insert(outcome.is_none());
        let outcome = outcome.unwrap_or_else(|| "goes on".into());
        text.push_str(&format!("{amount} more: {outcome}; {checked}\n"));
    }
    assert_eq!(outcomes.len(), 2, "too little, and enough: {text}");
    text
}

/// Whether it comes to a view of all who are left (`None`), or stops; then what it said.
fn outcome(poor: &mut One, cluster: &mut Cluster, says: &dyn Fn(&str) -> bool) -> Option<String> {
    let mut all: Vec<u64> = cluster.members.iter().map(|one| one.incarnation).collect();
    all.push(poor.incarnation);
    all.sort_unstable();
    let (mut why, mut lines) = (None, Vec::new());
    loop {
        let line = poor.process.line().unwrap_or_else(|| panic!("it says how it goes: {lines:?}"));
        if let Some(text) = line.strip_prefix("short ") {
            assert!(says(text), "{text}");
            why = Some(text.to_string());
        }
        if line.starts_with("stopped ") {
            assert!(why.is_some(), "{line} after {lines:?}");
            return why;
        }
        if let Some(view) = line.strip_prefix("view ") {
            let members = view.split(' ').nth(2).unwrap().split(',');
            let mut members: Vec<u64> = members.map(|who| who.parse().unwrap()).collect();
            members.sort_unstable();
            if members == all {
                poor.viewed = members;
                return None;
            }
        }
        lines.push(line);
    }
}

/// Who joins and may open too few descriptors says so, whether it is a member by then or not; the
/// members go on.
pub fn a_joiner_without_descriptors() -> String {
    let mut cluster = Cluster::start("poorjoiner", 3, "park");
    let (mut text, mut joined) = (String::new(), false);
    for most in 4..80 {
        cluster.join_with(&[("descriptors", &most)]);
        let at = cluster.members.len() - 1;
        let mut before = Vec::new();
        let error = loop {
            let line = cluster.members[at].process.line();
            let line = line.unwrap_or_else(|| panic!("it says how it goes: {before:?}"));
            match line.strip_prefix("error ") {
                Some(error) => break Some(error.to_string()),
                None if line.starts_with("view ") => break None,
                None => before.push(line),
            }
        };
        let Some(error) = error else {
            joined = true;
            text.push_str(&format!("{most} are enough; "));
            break;
        };
        let named = error.starts_with("Limit") && error.contains("ulimit -n");
        assert!(named && error.contains("RLIMIT_NOFILE is "), "with {most}: {error}");
        assert_eq!(cluster.take(at).process.end().status.code(), Some(3));
    }
    assert!(joined, "never enough");
    cluster.rest();
    text.push_str(&Check::of(&cluster).run());
    cluster.leave_all();
    text
}

/// Processes knock, are welcomed, show memory, ask to be joined and die, while no view changes:
/// nothing of them stays open, and whoever comes then is joined.
pub fn joiners_that_die() -> String {
    let mut cluster = Cluster::start("dying", 2, "park");
    cluster.delivers();
    let name = socket_name(&cluster.near_name(1), 0);
    let config = said(&name, Hello::new(Kind::Probe, 9, true, ""), &[]).1.config;
    let descriptors =
        |one: &One| std::fs::read_dir(format!("/proc/{}/fd", one.process.pid())).unwrap().count();
    let before = descriptors(&cluster.members[0]);
    let memory = || {
        let made = Region::share("dying", 4096, Want::No, Want::No, &mut Vec::new());
        let (_, descriptor) = made.unwrap();
        Region::seal(&descriptor).unwrap();
        descriptor
    };
    let (mut most, mut refused) = (before, 0);
    for incarnation in 1..=400 {
        let hello = Hello { incarnation, ..Hello::new(Kind::Enter, 9, true, &config) };
        let bell = Bell::new().unwrap();
        let (socket, answer) = said(&name, hello, &[bell.as_fd()]);
        refused += u32::from(answer.kind != Kind::Welcome);
        let (block, ring) = (memory(), memory());
        socket.send(b"memory 0 0,\n", &[block.as_fd(), ring.as_fd()]);
        socket.send(b"words\nask\nseat=9\nconnected=\n", &[]);
        most = most.max(descriptors(&cluster.members[0]));
    }
    assert_eq!(refused, 0);
    until("nothing is open that was not before", || descriptors(&cluster.members[0]) <= before + 2);
    assert!(most < before + 60, "{before} descriptors before, {most} between");
    cluster.join();
    cluster.views(3);
    cluster.delivers();
    cluster.rest();
    let checked = Check::of(&cluster).run();
    cluster.leave_all();
    format!("400 of them: {before} descriptors before, {most} at the most; {checked}")
}

/// Says that under a name; the connection, and the answer.
pub fn said(name: &str, hello: Hello, descriptors: &[BorrowedFd<'_>]) -> (Socket, Hello) {
    let mut socket = None;
    until("somebody listens", || {
        socket = Socket::connect(name).unwrap();
        socket.is_some()
    });
    let socket = socket.unwrap();
    assert!(socket.send(&hello.encode(), descriptors));
    let mut answer = None;
    until("an answer", || {
        answer = socket.receive();
        answer.is_some()
    });
    let (bytes, _) = answer.unwrap().expect("an answer, not a hang-up");
    (socket, Hello::decode(&bytes).unwrap())
}
