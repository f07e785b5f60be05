// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who a process is, where it is, and how it is reached.

use super::super::address::{Address, Host, parse};
use super::super::hello::Hello;
use super::super::wire::SAY_BYTES_MAX;
use super::HERE_MAX;
use crate::base::Versions;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// The key of a hello that says on which host a process is.
pub(super) const HOST: &str = "hostid";

/// Bytes of all lines: they are said at once, and stand in a hello.
const LIST_BYTES_MAX: usize = SAY_BYTES_MAX / 2;

/// What is known of a process that is connected, or may be called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct About {
    pub incarnation: u64,
    pub seat: u16,
    pub is_member: bool,
    /// `None`: it has no connection here.
    pub versions: Option<Versions>,
    /// Those that can meet over shared memory have the same.
    pub host: String,
    pub addresses: Vec<Address>,
    /// As whom its connection shows it; `None`: it has none here.
    pub(super) ip: Option<IpAddr>,
    /// Since when it has not answered.
    pub(super) asked: Option<Instant>,
    /// It is certain to know of the connection (Y6).
    pub(super) is_sure: bool,
}

/// What a hello says of a process, and how it is reached. `called`: at the address it was found at.
pub(super) fn about(hello: &Hello, remote: SocketAddr, called: bool) -> About {
    let mut addresses = hello.addresses.clone();
    addresses.iter_mut().for_each(|address| settle(address, remote.ip()));
    if called {
        addresses.insert(0, remote.into());
    }
    addresses.dedup();
    About {
        incarnation: hello.incarnation,
        seat: hello.rank,
        is_member: false,
        versions: Some(hello.versions),
        host: host_of(hello).into(),
        addresses,
        ip: Some(remote.ip()),
        asked: None,
        is_sure: false,
    }
}

/// An address that names no host is one of that host's.
pub(super) fn settle(address: &mut Address, ip: IpAddr) {
    let unspecified = match address.host {
        Host::Any => true,
        Host::V4(ip) => ip.is_unspecified(),
        Host::V6(ip, _) => ip.is_unspecified(),
        Host::Name(_) => false,
    };
    if unspecified {
        *address = SocketAddr::new(ip, address.port).into();
    }
}

pub(super) fn host_of(hello: &Hello) -> &str {
    hello.more.iter().find(|(key, _)| key == HOST).map_or("", |(_, host)| host)
}

/// A line for each, with whether it is a member. What peers say of themselves is in it, so it is bounded:
/// those for whom there is no room are left out, and told of by others.
pub(super) fn list<'a>(all: impl Iterator<Item = (&'a About, bool)>) -> String {
    let mut text = String::new();
    for (about, is_member) in all.take(HERE_MAX) {
        let what = if is_member { "member" } else { "joins" };
        let addresses: Vec<String> = about.addresses.iter().map(Address::to_string).collect();
        let (who, seat, host) = (about.incarnation, about.seat, &about.host);
        let line = format!("{who} {seat} {what} {host} {}\n", addresses.join(","));
        if text.len() + line.len() <= LIST_BYTES_MAX {
            text.push_str(&line);
        }
    }
    text
}

/// For one that is no member: whom a welcome tells of. Who has sent it is `from`.
pub fn told_of(welcome: &Hello, from: IpAddr) -> Vec<About> {
    let here = welcome.more.iter().find(|(key, _)| key == "here").map_or("", |(_, text)| text);
    let mut all: Vec<About> = here.split(';').take(HERE_MAX).filter_map(entry).collect();
    let addresses = all.iter_mut().flat_map(|about| &mut about.addresses);
    addresses.for_each(|address| settle(address, from));
    all
}

pub(super) fn entry(line: &str) -> Option<About> {
    let mut parts = line.split(' ');
    let incarnation = parts.next()?.parse().ok().filter(|who| *who != 0)?;
    let seat = parts.next()?.parse().ok()?;
    let is_member = match parts.next()? {
        "member" => true,
        "joins" => false,
        _ => return None,
    };
    let host = parts.next()?.to_string();
    let addresses = parts.next()?.split(',').filter(|text| !text.is_empty()).take(16);
    let addresses = addresses.map(|text| parse(text, None).ok()).collect::<Option<Vec<_>>>()?;
    let (versions, ip, asked, is_sure) = (None, None, None, false);
    Some(About { incarnation, seat, is_member, versions, host, addresses, ip, asked, is_sure })
}

/// The same for processes that can meet over shared memory: one machine, one boot, one place
/// (`shm::place`).
pub(super) fn this_host(place: &str) -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot: String = boot.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("{boot}-{place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a peer says of itself could make a list that was too long to be said: an assertion.
    #[test]
    fn a_list_can_be_said_whatever_peers_are_called() {
        let about = |incarnation: u64, bytes: usize| About {
            incarnation,
            seat: 1,
            is_member: false,
            versions: None,
            host: "h".repeat(bytes),
            addresses: vec![parse("10.0.0.1:7471", None).unwrap()],
            ip: None,
            asked: None,
            is_sure: true,
        };
        let all: Vec<About> = (1..=200).map(|who| about(who, 60_000)).collect();
        assert_eq!(list(all.iter().map(|of| (of, true))), "");
        let all: Vec<About> = (1..=200).map(|who| about(who, 1_000)).collect();
        let text = list(all.iter().map(|of| (of, true)));
        assert!((20_000..=LIST_BYTES_MAX).contains(&text.len()));
        let first = entry(text.lines().next().unwrap()).unwrap();
        assert_eq!((first.incarnation, first.is_member), (1, true));
    }
}
