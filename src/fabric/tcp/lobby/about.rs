// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who a process is, where it is, and how it is reached.

use super::super::address::{Address, Host, parse};
use super::super::hello::Hello;
use std::net::{IpAddr, SocketAddr};

/// The key of a hello that says on which host a process is.
pub(super) const HOST: &str = "hostid";

/// What is known of a process that is connected, or may be called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct About {
    pub incarnation: u64,
    pub seat: u16,
    pub is_member: bool,
    /// Those that can meet over shared memory have the same.
    pub host: String,
    pub addresses: Vec<Address>,
    /// As whom its connection shows it; `None`: it has none here.
    pub(super) ip: Option<IpAddr>,
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
        host: host_of(hello).into(),
        addresses,
        ip: Some(remote.ip()),
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
    Some(About { incarnation, seat, is_member, host, addresses, ip: None })
}

/// The same for processes that see each other's sockets of this host: one machine, one boot, one
/// network namespace.
pub(super) fn this_host() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = std::fs::read_link("/proc/self/ns/net").unwrap_or_default();
    let digits = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>();
    format!("{}-{}", digits(&boot), digits(&space.to_string_lossy()))
}
