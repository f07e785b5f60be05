// SPDX-License-Identifier: MIT OR Apache-2.0
//! A connection whose two ends have proved and welcomed each other: what the door and a call leave
//! for the data path.

use super::hello::Hello;
use super::terms::Versions;
use crate::fabric::shm::fork::Unshared;
use std::fmt;
use std::net::SocketAddr;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// What records are authenticated with: a key per direction, of this connection only. They depend
/// on the group's secret and on all that was said before (both nonces, versions, incarnations, the
/// group's name, both configurations), so records of another connection do not verify.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    pub send: [u8; KEY_BYTES],
    pub receive: [u8; KEY_BYTES],
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(not shown)")
    }
}

/// A connection, ready for records.
#[derive(Debug)]
pub struct Session {
    /// Connected, never blocks, `TCP_NODELAY`; closed in forked children, as a hang-up is the sign
    /// of a death. Write with `MSG_NOSIGNAL`: a host may not ignore SIGPIPE.
    pub socket: Unshared,
    /// What the peer has said of itself. Of the caller: its request; of the answerer: its welcome.
    pub peer: Hello,
    /// `None`: the network is trusted.
    pub keys: Option<Keys>,
    /// The highest wire version that both speak. A group runs at the lowest of all its members
    /// (`Versions::common`).
    pub wire: u16,
    /// What the peer speaks.
    pub versions: Versions,
    /// The numeric addresses of this connection: mine, and the peer's.
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// Bytes read that belong to records. Empty: the handshake reads no further than its own.
    pub leftover: Vec<u8>,
}

impl Session {
    /// The peer's; 0: not told.
    pub fn incarnation(&self) -> u64 {
        self.peer.incarnation
    }
}

/// How many inputs a parser's property is tried on: as many as usual, or `SQUALL_FUZZ_CASES`.
#[cfg(test)]
pub fn cases(usual: u32) -> proptest::test_runner::Config {
    let asked = std::env::var("SQUALL_FUZZ_CASES").ok();
    let cases = asked.map_or(usual, |count| count.parse().expect("SQUALL_FUZZ_CASES is a count"));
    proptest::test_runner::Config { cases, failure_persistence: None, ..Default::default() }
}
