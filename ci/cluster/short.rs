// SPDX-License-Identifier: MIT OR Apache-2.0
//! A member that lacks descriptors or memory for the next view: it stops and says why, and nobody
//! else is taken to be at fault.

use crate::check::Check;
use crate::member::{Cluster, One};
use std::collections::BTreeSet;

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
