// SPDX-License-Identifier: MIT OR Apache-2.0
//! Groups whose members are on several hosts: network namespaces that are joined by a bridge, whose
//! links are cut, one way or both, flap, and are slowed down.
//!
//! Members that share a host meet over shared memory, the others over TCP (`fabric = "auto"`). What
//! each delivers is compared as in `cluster`. Needs root and iproute2, else the tests say SKIPPED.

#[path = "cluster/check.rs"]
mod check;
#[path = "cluster/member.rs"]
mod member;
#[path = "hosts/net.rs"]
mod net;
mod support;

use check::Check;
use member::{Cluster, member};
use net::{Net, skipped};

fn main() {
    support::main(
        &[
            ("members_on_two_hosts", members_on_two_hosts),
            ("a_host_is_cut_off", a_host_is_cut_off),
            ("a_host_hears_and_is_not_heard", a_host_hears_and_is_not_heard),
            ("links_that_flap", links_that_flap),
            ("a_slow_link", a_slow_link),
        ],
        &[("member", member)],
    );
}

/// Shared memory and TCP in one group; members fail and join on either host.
fn members_on_two_hosts() -> String {
    let Some(net) = Net::new(2) else { return skipped() };
    let mut cluster = Cluster::start_on("twohosts", 4, "park", net.hosts());
    let mut text = String::new();
    for _ in 0..3 {
        cluster.delivers();
        cluster.kill(0);
        cluster.views(3);
        cluster.join();
        cluster.views(4);
    }
    cluster.delivers();
    cluster.rest();
    text.push_str(&Check::of(&cluster).run());
    cluster.leave_all();
    text
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
    for round in 0..6 {
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
    std::thread::sleep(std::time::Duration::from_secs(4));
    cluster.rest();
    let text = Check::of(&cluster).run();
    cluster.leave_all();
    text
}
