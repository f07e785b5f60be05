// SPDX-License-Identifier: MIT OR Apache-2.0
//! The network interfaces of this host: `/sys/class/net`, and their addresses as the kernel lists them
//! on a netlink socket (rtnetlink(7)), since no file has them.

use crate::machine::read;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{recv, send, socket_with};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Of netlink(7) and rtnetlink(7).
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLMSG_DONE: u16 = 3;
const NLMSG_ERROR: u16 = 2;
const REQUEST_DUMP: u16 = 0x301;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const HEAD: usize = 16;
const ADDRESS_HEAD: usize = 8;

pub struct Interface {
    pub name: String,
    pub mtu: u32,
    /// As the kernel calls it: up, down, unknown.
    pub state: String,
    pub addresses: Vec<(IpAddr, u8)>,
}

impl Interface {
    pub fn text(&self) -> String {
        let Interface { name, mtu, state, addresses } = self;
        let addresses: Vec<String> =
            addresses.iter().map(|(ip, bits)| format!("{ip}/{bits}")).collect();
        let addresses =
            if addresses.is_empty() { "no address".into() } else { addresses.join(" ") };
        format!("{name} {addresses}, MTU {mtu}, {state}")
    }
}

/// All of this network namespace, by their numbers.
pub fn interfaces() -> Vec<Interface> {
    let addresses = addresses().unwrap_or_default();
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mut all: Vec<(u32, Interface)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let figure = |what: &str| {
                read(&format!("/sys/class/net/{name}/{what}")).and_then(|text| text.parse().ok())
            };
            let index = figure("ifindex")?;
            let state = read(&format!("/sys/class/net/{name}/operstate")).unwrap_or_default();
            let its = addresses.iter().filter(|(of, ..)| *of == index);
            let addresses = its.map(|(_, ip, bits)| (*ip, *bits)).collect();
            Some((index, Interface { mtu: figure("mtu").unwrap_or(0), name, state, addresses }))
        })
        .collect();
    all.sort_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, interface)| interface).collect()
}

/// Interface, address, bits of its network. `None`: the kernel does not tell.
fn addresses() -> Option<Vec<(u32, IpAddr, u8)>> {
    let protocol = None; // 0: NETLINK_ROUTE
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, protocol).ok()?;
    let mut request = Vec::with_capacity(HEAD + ADDRESS_HEAD);
    request.extend_from_slice(&((HEAD + ADDRESS_HEAD) as u32).to_ne_bytes());
    request.extend_from_slice(&RTM_GETADDR.to_ne_bytes());
    request.extend_from_slice(&REQUEST_DUMP.to_ne_bytes());
    request.resize(HEAD + ADDRESS_HEAD, 0);
    send(&socket, &request, SendFlags::empty()).ok()?;
    let (mut all, mut bytes) = (Vec::new(), vec![0; 32 << 10]);
    loop {
        let got = recv(&socket, &mut bytes[..], RecvFlags::empty()).ok()?;
        let mut rest = &bytes[..got.0];
        if rest.is_empty() {
            return None;
        }
        while rest.len() >= HEAD {
            let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            let message = rest.get(HEAD..length)?;
            match kind {
                NLMSG_DONE => return Some(all),
                NLMSG_ERROR => return None,
                RTM_NEWADDR => all.extend(address(message)),
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// One message of the list.
fn address(message: &[u8]) -> Option<(u32, IpAddr, u8)> {
    let bits = *message.get(1)?;
    let index = u32::from_ne_bytes(*message.get(4..)?.first_chunk()?);
    let mut rest = message.get(ADDRESS_HEAD..)?;
    let (mut found, mut local) = (None, None);
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]])).max(4);
        let value = rest.get(4..length)?;
        let ip = match value.len() {
            4 => value.first_chunk::<4>().map(|bytes| IpAddr::V4(Ipv4Addr::from(*bytes))),
            16 => value.first_chunk::<16>().map(|bytes| IpAddr::V6(Ipv6Addr::from(*bytes))),
            _ => None,
        };
        match u16::from_ne_bytes([rest[2], rest[3]]) {
            IFA_ADDRESS => found = ip,
            IFA_LOCAL => local = ip, // of a point to point link the other one is the peer's
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some((index, local.or(found)?, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_has_its_address() {
        let all = interfaces();
        let Some(loopback) = all.iter().find(|of| of.name == "lo") else { return };
        if loopback.state == "down" || loopback.addresses.is_empty() {
            return; // a sandbox
        }
        let expected = (IpAddr::V4(Ipv4Addr::LOCALHOST), 8);
        assert!(loopback.addresses.contains(&expected), "{}", loopback.text());
        assert!(loopback.mtu > 0);
    }
}
