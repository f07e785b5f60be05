// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the members of a group are, beyond one host, and what protects the way between them.

use crate::error::{Error, Status};
use crate::fabric::verbs::gid::Choice;
use crate::fabric::verbs::queue::Manner;
use std::path::PathBuf;

/// What carries a group's messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Carrier {
    /// Shared memory: all members are on this host.
    #[default]
    Shm,
    /// TCP, between members on one host, too.
    Tcp,
    /// Shared memory within a host, TCP between hosts.
    Auto,
    /// RDMA, between members on one host, too.
    Verbs,
    /// Shared memory within a host, RDMA between hosts.
    ShmVerbs,
}

impl Carrier {
    /// As in configurations; the order is that of the variants.
    pub const NAMES: [&str; 5] = ["shm", "tcp", "auto", "verbs", "shm+verbs"];
    pub const ALL: [Carrier; 5] =
        [Carrier::Shm, Carrier::Tcp, Carrier::Auto, Carrier::Verbs, Carrier::ShmVerbs];

    pub fn text(self) -> &'static str {
        Carrier::NAMES[self as usize]
    }

    /// Whether members on one host share memory.
    pub fn shares_memory(self) -> bool {
        matches!(self, Carrier::Shm | Carrier::Auto | Carrier::ShmVerbs)
    }

    /// Whether messages go by RDMA, to some members at least.
    pub fn is_rdma(self) -> bool {
        matches!(self, Carrier::Verbs | Carrier::ShmVerbs)
    }
}

/// Which port RDMA goes by, and how. The port is this member's alone; all else is best the same at all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rdma {
    pub choice: Choice,
    pub manner: Manner,
}

impl Rdma {
    /// What differs from the usual, as `parse` reads it; nothing: "".
    pub fn text(&self) -> String {
        let Rdma { choice: Choice { device, port, gid_index, .. }, manner } = self;
        let usual = Manner::default();
        let other = |value: u8, usual: u8| (value != usual).then_some(u32::from(value));
        let figures = [
            ("port", port.map(u32::from)),
            ("gid_index", *gid_index),
            ("mtu", manner.mtu_bytes),
            ("timeout", other(manner.timeout, usual.timeout)),
            ("retry", other(manner.retry, usual.retry)),
            ("traffic_class", other(manner.traffic_class, usual.traffic_class)),
            ("service_level", other(manner.service_level, usual.service_level)),
        ];
        let device = device.iter().map(|name| format!("device={name}"));
        let figures =
            figures.iter().filter_map(|(key, value)| Some(format!("{key}={}", (*value)?)));
        device.chain(figures).collect::<Vec<_>>().join(",")
    }

    /// `KEY=VALUE`, parted by commas; keys as in a configuration's `[rdma]`.
    ///
    /// Errors: `Invalid`, with the part that is none.
    pub fn parse(text: &str) -> Result<Rdma, Error> {
        let mut rdma = Rdma::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let Some(()) = rdma.take(part) else {
                let detail = format!(
                    "{part:?} says nothing about RDMA: device=NAME, port, gid_index, mtu, timeout, retry, \
                     traffic_class, service_level, each with = and a number, parted by commas"
                );
                return Err(Error::new(Status::Invalid, detail));
            };
        }
        rdma.manner.check()?;
        Ok(rdma)
    }

    fn take(&mut self, part: &str) -> Option<()> {
        let (key, value) = part.split_once('=')?;
        let Rdma { choice, manner } = self;
        match key {
            "device" => choice.device = Some(value.into()),
            "port" => choice.port = Some(value.parse().ok()?),
            "gid_index" => choice.gid_index = Some(value.parse().ok()?),
            "mtu" => manner.mtu_bytes = Some(value.parse().ok()?),
            "timeout" => manner.timeout = value.parse().ok()?,
            "retry" => manner.retry = value.parse().ok()?,
            "traffic_class" => manner.traffic_class = value.parse().ok()?,
            "service_level" => manner.service_level = value.parse().ok()?,
            _ => return None,
        }
        Some(())
    }
}

/// The port that is listened on if none is given.
pub const PORT_DEFAULT: u16 = 7471;

/// Bytes of a name that parts a machine: with that of a group it stands in names of sockets.
pub const HOST_BYTES_MAX: usize = 24;

/// Where the key of a group comes from: bytes that all members share and nobody else knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SecretFrom {
    /// A file that only its owner may read.
    File(PathBuf),
    /// An open descriptor, which is read to its end.
    Descriptor(i32),
}

/// Everything about a group that is not on one host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Network {
    pub carrier: Carrier,
    /// Parts a machine: processes with another name are on another host, though they could share memory.
    /// At most `HOST_BYTES_MAX` letters, digits, `-`, `_`, `.`; empty: none.
    pub host: String,
    /// Addresses to listen on, `HOST:PORT`; empty: all addresses of this host, and the port at which
    /// `founders` names this member, or `PORT_DEFAULT`.
    pub listen: Vec<String>,
    /// The address that others reach this member by; empty: as they see it.
    pub advertise: String,
    /// Of the first members, by rank.
    pub founders: Vec<String>,
    /// For one that joins: members, any of which will do; a name may have several addresses. Empty: the
    /// founders.
    pub contacts: Vec<String>,
    /// `None`: none, which `trusted` must allow.
    pub secret: Option<SecretFrom>,
    /// Nothing is authenticated: whoever reaches a port is believed.
    pub trusted: bool,
    pub rdma: Rdma,
}

impl Network {
    /// Whether it is all that a member needs to meet those on other hosts. Addresses are not looked at.
    ///
    /// Errors: `Invalid`, with what is missing.
    pub fn check(&self, join: bool, members: u16) -> Result<(), Error> {
        self.check_addresses(join, members)?;
        self.check_secret()
    }

    /// Whether there are as many as are needed.
    pub fn check_addresses(&self, join: bool, members: u16) -> Result<(), Error> {
        let missing = |what: String| Err(Error::new(Status::Invalid, what));
        let named = self.founders.len();
        if join && self.contacts.is_empty() && named == 0 {
            return missing(
                "one that joins across hosts needs addresses of members: give it `contacts`".into(),
            );
        }
        if !join && named != usize::from(members) {
            return missing(format!(
                "`founders` names {named} addresses for {members} members: one each, by rank"
            ));
        }
        Ok(())
    }

    /// Whether it is said what protects the way.
    pub fn check_secret(&self) -> Result<(), Error> {
        if self.secret.is_none() && !self.trusted {
            let what = "members on other hosts must prove that they belong to the group: give them a secret \
                        (`secret_file`; `squall secret FILE` makes one), or say that the network is trusted \
                        (`trusted_network`)";
            return Err(Error::new(Status::Invalid, what));
        }
        Ok(())
    }
}

/// Whether that may be `Network::host`.
pub fn is_host(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    text.len() <= HOST_BYTES_MAX && text.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rdma_is_told_can_be_written_down() {
        assert_eq!(Rdma::default().text(), "");
        let text = "device=mlx5_0,port=2,gid_index=3,mtu=1024,timeout=12,retry=4,traffic_class=106,service_level=3";
        let rdma = Rdma::parse(text).unwrap();
        assert_eq!(rdma.text(), text);
        assert_eq!(Rdma::parse(&format!(" {} ,", text.replace(',', " , "))), Ok(rdma));
        for bad in ["device", "speed=3", "port=x", "timeout=300", "retry=7", "mtu=1500"] {
            let error = Rdma::parse(bad).unwrap_err();
            assert_eq!(error.status, Status::Invalid, "{bad}: {error}");
        }
    }

    #[test]
    fn carriers_have_names() {
        for (at, carrier) in Carrier::ALL.into_iter().enumerate() {
            assert_eq!((carrier as usize, carrier.text()), (at, Carrier::NAMES[at]));
        }
    }
}
