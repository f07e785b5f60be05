// SPDX-License-Identifier: MIT OR Apache-2.0
//! A group is upgraded member by member, to a version of the wire that only these tests speak of.

use crate::check::Check;
use crate::member::{Cluster, More};
use rustix::process::Signal;

const OLD: More<'static> = &[("versions", &"1")];
const BOTH: More<'static> = &[("versions", &"1-2")];
const NEXT: More<'static> = &[("versions", &"2-3")];

/// A joiner that must not become a member: what it was told, with both values.
fn refused(cluster: &mut Cluster, more: More<'_>, speaks: &str, runs: &str) -> String {
    cluster.join_with(more);
    let mut one = cluster.take(cluster.members.len() - 1);
    let line = one.process.expect("error");
    // Over TCP the two hear of each other's versions before they say more.
    let sentences = [
        format!("speaks {speaks}, the group runs at {runs}:"),
        format!("speaks {runs}, this library speaks {speaks}:"),
    ];
    let named = sentences.iter().any(|text| line.contains(text));
    assert!(line.starts_with("WireVersion") && named, "{line}");
    assert_eq!(one.process.end().status.code(), Some(3));
    line
}

/// Whoever speaks more joins, whoever is old goes: by itself, or killed. With the last of them the
/// group's version rises, everywhere; from then on the old version is refused, and the one after the next
/// is not.
pub fn a_group_is_upgraded_member_by_member() -> String {
    let mut text = String::new();
    for fabric in ["shm", "tcp"] {
        let mut cluster = Cluster::start_over(fabric, "upgrade", 3, "park", &|_| OLD);
        cluster.delivers();
        text.push_str(&refused(&mut cluster, NEXT, "wire versions 2 to 3", "wire version 1"));
        for old in (0..3).rev() {
            cluster.join_with(BOTH);
            cluster.views(4);
            let mut one = cluster.take(0);
            match old % 2 {
                0 => one.process.say("leave"),
                _ => one.process.signal(Signal::KILL),
            }
            let lines = one.process.end().lines;
            assert!(!lines.iter().any(|line| line.starts_with("wire")), "{lines:?}");
            if old == 0 {
                let wires = cluster.members.iter_mut().map(|one| one.process.expect("wire"));
                assert_eq!(wires.collect::<Vec<_>>(), ["2", "2", "2"]);
            } else {
                cluster.views(3);
            }
        }
        cluster.delivers();
        let old = refused(&mut cluster, OLD, "wire version 1", "wire version 2");
        cluster.join_with(NEXT);
        cluster.views(4);
        cluster.delivers();
        cluster.rest();
        text.push_str(&format!("\n{old}\n{fabric}: {}\n", Check::of(&cluster).run()));
        cluster.leave_all();
    }
    text
}
