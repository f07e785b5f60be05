// SPDX-License-Identifier: MIT OR Apache-2.0
//! How members find each other: in any order, by names, over IPv6, at new addresses.

use crate::PACE_US;
use crate::check::Check;
use crate::member::Cluster;
use crate::net::{Net, skipped};
use crate::support::sites::Sites;
use crate::support::until;
use std::time::{Duration, Instant};

/// What a name's members listen on.
const PORT: u16 = 7471;

fn finish(mut cluster: Cluster) -> String {
    cluster.delivers();
    cluster.rest();
    let text = Check::of(&cluster).run();
    cluster.leave_all();
    text
}

fn short_while() {
    std::thread::sleep(Duration::from_millis(300));
}

/// A host gets another address while its member runs: that is a failure; its process starts again, and
/// of the addresses that it is told of only one is a member's.
pub fn a_host_gets_another_address() -> String {
    let Some(net) = Net::new(3) else { return skipped() };
    let mut cluster = Cluster::to_be("moves", 3, "park", PACE_US, Sites::on(net.hosts()));
    cluster.patient = false;
    cluster.start_all();
    cluster.delivers();
    let contacts = cluster.sites.addresses([3, 7, 2]); // its own before, nobody's, a member's
    net.renumber(2, "10.77.0.99");
    let lost = cluster.take(2);
    cluster.views(2);
    let lines = lost.process.end_well();
    assert!(lines.contains(&"over Partitioned".to_string()), "{lines:?}");
    cluster.sites.put(4, net.name(2), format!("10.77.0.99:{PORT}"));
    cluster.join_with(&[("others", &contacts)]);
    cluster.settle();
    // And back, while nobody notices: killed before.
    cluster.delivers();
    cluster.kill(2);
    cluster.views(2);
    net.renumber(2, "10.77.0.3");
    cluster.sites.put(5, net.name(2), format!("10.77.0.3:{PORT}"));
    cluster.join_with(&[("others", &contacts)]);
    cluster.settle();
    finish(cluster)
}

/// The names of founders, one of which is not known at first; then one name of many addresses, at most
/// of which there is nobody, or no member, or no host.
pub fn names_have_several_addresses() -> String {
    let Some(net) = Net::new(4) else { return skipped() };
    let mut cluster = Cluster::to_be("names", 3, "park", PACE_US, Sites::on(net.hosts()));
    let names: Vec<String> = (0..3).map(|at| format!("member-{at}:{PORT}")).collect();
    let names = names.join(",");
    let line = |at: usize| format!("{} member-{at}\n", net.address(at));
    let all: String = (0..3).map(line).collect();
    for at in 0..3 {
        net.names(at, if at == 2 { "127.0.0.1 localhost\n" } else { &all });
        cluster.sites.put(at as u64 + 1, net.name(at), format!("{}:{PORT}", net.address(at)));
        cluster.add(at as u16, false, &[("others", &names)]);
    }
    short_while();
    net.names(2, &all);
    cluster.settle();
    cluster.delivers();
    cluster.kill(0);
    cluster.views(2);
    // As of a service that has not noticed yet who is there and who is not.
    // Resolvers put those first that are like one's own.
    let own = "10.77.0.97";
    net.renumber(3, own);
    let nobody = (98..110).map(|number| format!("10.77.0.{number}"));
    let others = (0..3).map(|at| net.address(at));
    let lines: String = nobody
        .chain([own.to_string()])
        .chain(others)
        .map(|address| format!("{address} squall\n"))
        .collect();
    net.names(3, &lines);
    cluster.sites.put(4, net.name(3), format!("{own}:{PORT}"));
    let start = Instant::now();
    cluster.join_with(&[("others", &format!("squall:{PORT}"))]);
    cluster.settle();
    let joined = start.elapsed();
    format!("joined after {joined:.1?}; {}", finish(cluster))
}

/// The last one first, the first one on a host that cannot be reached yet, the other one late.
pub fn founders_come_in_any_order() -> String {
    let Some(net) = Net::new(3) else { return skipped() };
    let mut cluster = Cluster::to_be("anyorder", 3, "park", PACE_US, Sites::on(net.hosts()));
    net.cut(0);
    cluster.add(2, false, &[]);
    short_while();
    cluster.add(0, false, &[]);
    short_while();
    cluster.add(1, false, &[]);
    until("two meet", || net.connections(1) == 1);
    net.mend(0);
    cluster.settle();
    finish(cluster)
}

/// A host fails without a word while its founder waits for others; it starts again, as does the founder.
pub fn a_founder_comes_again() -> String {
    let Some(net) = Net::new(3) else { return skipped() };
    let mut cluster = Cluster::to_be("again", 3, "park", PACE_US, Sites::on(net.hosts()));
    cluster.add(1, false, &[]);
    cluster.add(2, false, &[]);
    until("two meet", || net.connections(1) == 1);
    short_while(); // and shake hands
    net.cut(2);
    cluster.kill(1);
    net.power_off(2);
    net.power_on(2);
    let start = Instant::now();
    cluster.add(2, false, &[]);
    cluster.add(0, false, &[]);
    cluster.settle();
    let founded = start.elapsed();
    format!("founded after {founded:.1?}; {}", finish(cluster))
}

/// Hosts without IPv4; one that joins listens on all addresses.
pub fn ipv6_only() -> String {
    let Some(net) = Net::six(3) else { return skipped() };
    let mut cluster = Cluster::to_be("six", 3, "park", PACE_US, Sites::on(net.hosts()));
    cluster.start_all();
    cluster.delivers();
    cluster.kill(0);
    cluster.views(2);
    cluster.join_with(&[("listen", &format!("*:{}", 20_004))]);
    cluster.settle();
    cluster.delivers();
    // Its address is known to those who join after it.
    cluster.kill(0);
    cluster.views(2);
    cluster.join();
    cluster.settle();
    finish(cluster)
}
