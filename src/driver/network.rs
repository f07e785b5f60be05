// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the members of a group are, beyond one host, and what protects the way between them.

use crate::error::{Error, Status};
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
