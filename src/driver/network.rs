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
        if self.secret.is_none() && !self.trusted {
            return missing(
                "members on other hosts must prove that they belong to the group: give them a secret \
                 (`secret_file`; `squall secret FILE` makes one), or say that the network is trusted \
                 (`trusted_network`)"
                    .into(),
            );
        }
        Ok(())
    }
}
