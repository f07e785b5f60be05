// SPDX-License-Identifier: MIT OR Apache-2.0
//! Groups whose members are on several hosts: network namespaces that are joined by a bridge, whose
//! links are cut, one way or both, flap, and are slowed down.
//!
//! Members that share a host meet over shared memory, the others over TCP (`fabric = "auto"`). What
//! each delivers is compared as in `cluster`. Needs root and iproute2, else the tests say SKIPPED.
//! `SQUALL_HOSTS_DEEP=1`: the long runs.

#[path = "cluster/check.rs"]
mod check;
#[path = "cluster/member.rs"]
mod member;
#[path = "hosts/net.rs"]
mod net;
#[path = "hosts/places.rs"]
mod places;
#[path = "hosts/state.rs"]
mod state;
#[path = "state/member.rs"]
mod stateful;
#[path = "hosts/strangers.rs"]
mod strangers;
mod support;

use check::Check;
use member::{Cluster, One, member};
use net::{Net, skipped};
use rustix::process::Signal;
use std::collections::BTreeMap;
use support::sites::Sites;
use support::{Numbers, until};

/// Microseconds between two bursts of a member, where it is not speed that is tried: others need the
/// machine, too.
const PACE_US: u64 = 300;

fn main() {
    support::main(
        &[
            ("members_on_two_hosts", members_on_two_hosts),
            ("anything_may_happen", anything_may_happen),
            ("a_host_is_cut_off", a_host_is_cut_off),
            ("a_host_hears_and_is_not_heard", a_host_hears_and_is_not_heard),
            ("links_that_flap", links_that_flap),
            ("a_slow_link", a_slow_link),
            ("a_joiner_gets_the_state", state::a_joiner_gets_the_state),
            ("a_path_ends", state::a_path_ends),
            ("a_host_gets_another_address", places::a_host_gets_another_address),
            ("names_have_several_addresses", places::names_have_several_addresses),
            ("founders_come_in_any_order", places::founders_come_in_any_order),
            ("a_founder_comes_again", places::a_founder_comes_again),
            ("ipv6_only", places::ipv6_only),
            ("strangers_at_the_doors", strangers::strangers_at_the_doors),
        ],
        &[
            ("member", member),
            (stateful::ROLE, stateful::member),
            ("stranger", strangers::stranger),
        ],
    );
}

/// Whether the long runs are asked for.
fn deep() -> bool {
    std::env::var_os("SQUALL_HOSTS_DEEP").is_some()
}

/// Shared memory within a host and TCP between both, in one group; members fail and join on either.
fn members_on_two_hosts() -> String {
    let Some(net) = Net::new(2) else { return skipped() };
    let mut cluster = Cluster::to_be("twohosts", 4, "park", PACE_US, Sites::on(net.hosts()));
    cluster.start_all();
    // One for each pair on different hosts, and no others.
    let connected = |pairs: usize| {
        until("there are that many connections", || net.connections(0) == pairs);
        until("there are that many connections", || net.connections(1) == pairs);
    };
    for _ in 0..3 {
        connected(2 * 2);
        cluster.delivers();
        cluster.kill(0);
        cluster.views(3);
        connected(2);
        cluster.join();
        cluster.settle();
    }
    cluster.delivers();
    cluster.join();
    cluster.join();
    cluster.settle();
    connected(3 * 3);
    cluster.delivers();
    cluster.members[..2].iter_mut().for_each(|one| one.process.kill()); // one of each
    cluster.members.drain(..2).for_each(drop::<One>);
    cluster.settle();
    connected(2 * 2);
    cluster.delivers();
    cluster.rest();
    let text = Check::of(&cluster).run();
    cluster.leave_all();
    text
}

/// Members are killed, stopped and continued, leave and join, hosts are cut off and come back, one after
/// the other.
fn anything_may_happen() -> String {
    const HOSTS: usize = 4;
    let Some(net) = Net::new(HOSTS) else { return skipped() };
    // Of seed 3 the first five are one of each kind.
    let seed = std::env::var("SQUALL_CLUSTER_SEED").ok().map_or(3, |seed| seed.parse().unwrap());
    let (changes, mut dice) = (if deep() { 100 } else { 5 }, Numbers(seed));
    let mut cluster = Cluster::to_be("farchanges", 5, "park", PACE_US, Sites::on(net.hosts()));
    cluster.patient = false;
    cluster.start_all();
    cluster.delivers();
    let mut tally: BTreeMap<&str, u64> = BTreeMap::new();
    while tally.values().sum::<u64>() < changes {
        let members = cluster.members.len();
        let at = dice.below(HOSTS as u64) as usize;
        let here = |one: &One| (one.id - 1) as usize % HOSTS == at;
        let lost = cluster.members.iter().filter(|one| here(one)).count();
        let what = match dice.below(9) {
            0 | 1 if members > 3 => "killed",
            2 | 3 if lost > 0 && 2 * lost < members && members - lost > 2 => "cut off",
            4 if members > 3 => "left",
            5 if members > 3 => "stopped",
            6.. if members < 9 => "joined",
            _ => continue,
        };
        *tally.entry(what).or_default() += 1;
        cluster.note(format!("host {at}: {what}"));
        match what {
            "killed" => cluster.kill(dice.below(members as u64) as usize),
            "joined" => (0..1 + dice.below(3)).for_each(|_| cluster.join()),
            "left" => {
                let mut one = cluster.take(dice.below(members as u64) as usize);
                one.process.say("leave");
                ends(one, "over Left");
            }
            "stopped" => {
                let one = cluster.take(dice.below(members as u64) as usize);
                one.process.signal(Signal::STOP);
                cluster.settle();
                one.process.signal(Signal::CONT);
                ends(one, "over Expelled");
            }
            _ => {
                net.cut(at);
                let all = std::mem::take(&mut cluster.members).into_iter();
                let (lost, rest): (Vec<One>, Vec<One>) = all.partition(here);
                cluster.members = rest;
                cluster.settle();
                lost.into_iter().for_each(|one| ends(one, "over Partitioned"));
                net.mend(at);
            }
        }
        cluster.settle();
        cluster.delivers();
    }
    cluster.rest();
    let text = format!("{tally:?}; {}", Check::of(&cluster).run());
    cluster.leave_all();
    text
}

/// A member's process ends in good order, having said that.
fn ends(one: One, said: &str) {
    let lines = one.process.end_well();
    assert!(lines.iter().any(|line| line == said), "{lines:?}");
}

/// Both ways: the hosts that are the majority go on, the other one stops.
fn a_host_is_cut_off() -> String {
    let Some(net) = Net::new(3) else { return skipped() };
    let mut cluster = Cluster::start_on("cutoff", 3, "park", net.hosts());
    cluster.delivers();
    net.cut(2);
    let alone = cluster.take(2);
    cluster.views(2);
    cluster.delivers();
    // The path is dead: what is closed on it is not kept for the minutes that the kernel would try.
    support::until("nothing is kept for it", || net.sockets(0, 2) == 0);
    let lines = alone.process.end_well();
    assert!(lines.iter().any(|line| line == "over Partitioned"), "{lines:?}");
    net.mend(2);
    cluster.join();
    cluster.views(3);
    cluster.delivers();
    cluster.rest();
    let text = Check::of(&cluster).run();
    cluster.leave_all();
    text
}

/// One way only: what it sends gets lost, what the others send arrives.
fn a_host_hears_and_is_not_heard() -> String {
    let Some(net) = Net::new(3) else { return skipped() };
    let mut cluster = Cluster::start_on("oneway", 3, "park", net.hosts());
    cluster.delivers();
    net.silence(2);
    let mute = cluster.take(2);
    cluster.views(2);
    cluster.delivers();
    let lines = mute.process.end_well();
    let over = |line: &String| line == "over Partitioned" || line == "over Expelled";
    assert!(lines.iter().any(over), "{lines:?}");
    cluster.rest();
    let text = Check::of(&cluster).run();
    cluster.leave_all();
    text
}

/// Down for less than the time to suspicion, again and again: nobody is suspected, nothing is lost.
fn links_that_flap() -> String {
    let Some(net) = Net::new(3) else { return skipped() };
    let mut cluster = Cluster::start_on("flaps", 3, "park", net.hosts());
    cluster.delivers();
    for round in 0..if deep() { 12 } else { 3 } {
        net.unplug(round % 3);
        std::thread::sleep(std::time::Duration::from_millis(100));
        net.plug(round % 3);
        std::thread::sleep(std::time::Duration::from_millis(600));
    }
    cluster.rest();
    let text = Check::of(&cluster).run();
    cluster.leave_all();
    text
}

/// A megabyte a second to and from one host: all wait for it, and nobody is suspected for that.
fn a_slow_link() -> String {
    let Some(net) = Net::new(3) else { return skipped() };
    let mut cluster = Cluster::start_on("slow", 3, "park", net.hosts());
    cluster.delivers();
    net.slow_down(1, "8mbit");
    std::thread::sleep(std::time::Duration::from_secs(if deep() { 10 } else { 2 }));
    cluster.rest();
    let text = Check::of(&cluster).run();
    cluster.leave_all();
    text
}
