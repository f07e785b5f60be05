// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of ports, and which of a machine's is taken: values only, no device.
//!
//! On InfiniBand a port has a LID, and GIDs for who must route. On Ethernet (RoCE) it has GIDs only, one
//! per address and version; version 2 goes in UDP and can be routed.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// A port's name, 16 bytes as an IPv6 address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Gid(pub [u8; 16]);

impl Gid {
    pub fn is_zero(self) -> bool {
        self.0 == [0; 16]
    }

    /// The address that it was made of: an IPv4 one that is written as an IPv6 one, or itself.
    pub fn address(self) -> IpAddr {
        Ipv6Addr::from(self.0).to_canonical()
    }

    fn is_link_local(self) -> bool {
        self.0[0] == 0xfe && self.0[1] & 0xc0 == 0x80
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Ipv6Addr::from(self.0))
    }
}

/// How packets to such a GID look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    InfiniBand,
    RoceV1,
    RoceV2,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::InfiniBand => "InfiniBand",
            Kind::RoceV1 => "RoCE v1",
            Kind::RoceV2 => "RoCE v2",
        })
    }
}

/// One entry of a port's table of GIDs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub index: u32,
    pub gid: Gid,
    pub kind: Kind,
}

/// How a port is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Down,
    /// The link is up and no subnet manager has configured it yet.
    Waits,
    Active,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Down => "down",
            State::Waits => "up, not configured",
            State::Active => "active",
        })
    }
}

/// A port of a device, as it was found.
#[derive(Clone, PartialEq, Debug)]
pub struct Found {
    pub device: String,
    pub firmware: String,
    pub port: u8,
    pub state: State,
    pub ethernet: bool,
    pub lid: u16,
    /// Packets can only reach it by GID.
    pub needs_gid: bool,
    pub mtu_bytes: u32,
    pub gbit_per_s: f64,
    pub gids: Vec<Entry>,
    /// The memory node that it is near to, where the system says.
    pub node: Option<u32>,
}

impl Found {
    /// One line, for people: `mlx5_0 port 1: active, RoCE v2, 100 Gbit/s, MTU 4096, node 0`.
    pub fn line(&self) -> String {
        let link = match (self.ethernet, self.gids.iter().any(|entry| entry.kind == Kind::RoceV2)) {
            (false, _) => "InfiniBand",
            (true, true) => "RoCE v2",
            (true, false) => "RoCE v1",
        };
        let node = self.node.map_or(String::new(), |node| format!(", node {node}"));
        format!(
            "{} port {}: {}, {link}, {} Gbit/s, MTU {}{node}",
            self.device, self.port, self.state, self.gbit_per_s, self.mtu_bytes
        )
    }
}

/// What the user, or the rest of the fabric, says about the port; nothing by default.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Choice {
    pub device: Option<String>,
    pub port: Option<u8>,
    pub gid_index: Option<u32>,
    /// The address at which this member is reached otherwise: the port that has it is preferred.
    pub address: Option<IpAddr>,
}

/// Picks a port and its GID: of the active ones that were named, the one that has the address; then one
/// near `node`; then the first. Says why there is none.
pub fn pick(found: &[Found], choice: &Choice, node: Option<u32>) -> Result<(usize, Entry), String> {
    let named = |at: &&usize| {
        let port = &found[**at];
        choice.device.as_ref().is_none_or(|device| *device == port.device)
            && choice.port.is_none_or(|number| number == port.port)
    };
    let all: Vec<usize> = (0..found.len()).collect();
    let wanted: Vec<usize> = all.iter().filter(named).copied().collect();
    if wanted.is_empty() {
        return Err(nothing_named(found, choice));
    }
    let active = wanted.iter().filter(|at| found[**at].state == State::Active);
    let usable = active.filter_map(|at| Some((*at, entry_of(&found[*at], choice)?)));
    let best = usable.min_by_key(|(at, entry)| {
        let addressed = choice.address.is_some_and(|address| entry.gid.address() == address);
        let near = node.is_some() && found[*at].node == node;
        // The first of the best: `min_by_key` takes it.
        (!addressed, !near, *at)
    });
    best.ok_or_else(|| {
        let ports: Vec<String> = wanted.iter().map(|at| found[*at].line()).collect();
        let index = choice.gid_index.map_or(String::new(), |index| {
            format!(" with a GID at index {index}")
        });
        format!(
            "no RDMA port is active{index} ({}): bring its link up (`ip link`, `rdma link`, `ibstat`), \
             on InfiniBand look for a subnet manager, on Ethernet give it an address, or name another \
             device",
            ports.join("; ")
        )
    })
}

fn nothing_named(found: &[Found], choice: &Choice) -> String {
    if found.is_empty() {
        return "this machine has no RDMA device: load its driver, or add a soft one with `rdma link \
                add rxe0 type rxe netdev DEVICE`"
            .into();
    }
    let have: Vec<String> =
        found.iter().map(|port| format!("{} port {}", port.device, port.port)).collect();
    let device = choice.device.as_deref().unwrap_or("any device");
    let port = choice.port.map_or(String::new(), |port| format!(" port {port}"));
    format!("there is no RDMA device {device}{port}; this machine has {}", have.join(", "))
}

/// The GID of a port that is used: the one at the index given; or the one that is the address; on
/// Ethernet the newest version first, an IPv4 address before others, and what holds on this link only
/// last.
fn entry_of(port: &Found, choice: &Choice) -> Option<Entry> {
    let usable = port.gids.iter().filter(|entry| !entry.gid.is_zero());
    let mut usable = usable.filter(|entry| choice.gid_index.is_none_or(|at| at == entry.index));
    if !port.ethernet {
        return usable.next().copied();
    }
    usable
        .min_by_key(|entry| {
            let address = entry.gid.address();
            (
                entry.kind != Kind::RoceV2,
                choice.address != Some(address),
                entry.gid.is_link_local(),
                !address.is_ipv4(),
                entry.index,
            )
        })
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u32, gid: &str, kind: Kind) -> Entry {
        let address: IpAddr = gid.parse().unwrap();
        let gid = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        Entry { index, gid: Gid(gid.octets()), kind }
    }

    fn port(device: &str, port: u8, gids: Vec<Entry>) -> Found {
        Found {
            device: device.into(),
            firmware: String::new(),
            port,
            state: State::Active,
            ethernet: true,
            lid: 0,
            needs_gid: true,
            mtu_bytes: 1024,
            gbit_per_s: 100.0,
            gids,
            node: None,
        }
    }

    /// What Linux puts into the table of a port with an IPv4 and a link-local address.
    fn usual(address: &str) -> Vec<Entry> {
        vec![
            entry(0, "fe80::1", Kind::RoceV1),
            entry(1, "fe80::1", Kind::RoceV2),
            entry(2, address, Kind::RoceV1),
            entry(3, address, Kind::RoceV2),
        ]
    }

    #[test]
    fn version_2_and_ipv4_come_first() {
        let found = [port("a", 1, usual("10.0.0.1"))];
        let picked = pick(&found, &Choice::default(), None).unwrap();
        assert_eq!((picked.0, picked.1.index), (0, 3));
        let local = [port("a", 1, usual("10.0.0.1")[..2].to_vec())];
        assert_eq!(pick(&local, &Choice::default(), None).unwrap().1.index, 1);
        let routed =
            [port("a", 1, [usual("10.0.0.1")[1], entry(5, "fd00::7", Kind::RoceV2)].into())];
        assert_eq!(pick(&routed, &Choice::default(), None).unwrap().1.index, 5);
    }

    #[test]
    fn the_port_with_the_address_is_taken_then_a_near_one() {
        let mut found = [
            port("a", 1, usual("10.0.0.1")),
            port("b", 1, usual("10.0.0.2")),
            port("c", 2, vec![]),
        ];
        found[1].node = Some(1);
        let at = |choice: &Choice, node| pick(&found, choice, node).map(|(at, _)| at);
        let address = |text: &str| Choice { address: text.parse().ok(), ..Choice::default() };
        assert_eq!(at(&address("10.0.0.2"), None), Ok(1));
        assert_eq!(at(&address("10.0.0.1"), Some(1)), Ok(0), "the address counts more");
        assert_eq!(at(&address("10.0.0.9"), Some(1)), Ok(1), "near");
        assert_eq!(at(&Choice::default(), Some(7)), Ok(0), "the first");
    }

    #[test]
    fn what_is_named_is_taken_or_refused() {
        let mut found = [port("a", 1, usual("10.0.0.1")), port("b", 2, usual("10.0.0.2"))];
        let named = |device: &str, port: Option<u8>, gid_index| Choice {
            device: Some(device.into()),
            port,
            gid_index,
            address: None,
        };
        let picked = pick(&found, &named("b", Some(2), Some(0)), None).unwrap();
        assert_eq!((picked.0, picked.1.index), (1, 0), "the index is obeyed, whatever it is");
        let text = pick(&found, &named("b", Some(1), None), None).unwrap_err();
        assert!(text.contains("b port 1") && text.contains("a port 1, b port 2"), "{text}");
        let text = pick(&found, &named("b", None, Some(99)), None).unwrap_err();
        assert!(text.contains("index 99"), "{text}");
        found[1].state = State::Down;
        let text = pick(&found, &named("b", None, None), None).unwrap_err();
        assert!(text.contains("b port 2: down, RoCE v2") && text.contains("ip link"), "{text}");
        assert!(pick(&[], &Choice::default(), None).unwrap_err().contains("rdma link add"));
    }

    #[test]
    fn infiniband_needs_no_address() {
        let mut port = port("ib0", 1, vec![entry(0, "fe80::2", Kind::InfiniBand)]);
        port.ethernet = false;
        assert_eq!(pick(&[port], &Choice::default(), None).unwrap().1.index, 0);
    }
}
