// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where registered memory lies, and how bytes get from a socket there and back.

use super::host::Host;
use rustix::io::Errno;
use std::os::fd::BorrowedFd;

/// Memory that was registered.
#[derive(Debug)]
pub enum Place {
    Host(Host),
}

impl Place {
    pub fn bytes(&self) -> u64 {
        match self {
            Place::Host(host) => host.bytes(),
        }
    }

    /// As `Host::send`.
    pub fn send(
        &self,
        socket: BorrowedFd<'_>,
        before: &[u8],
        from: u64,
        len: usize,
    ) -> Result<usize, Errno> {
        match self {
            Place::Host(host) => host.send(socket, before, from, len),
        }
    }

    /// As `Host::receive`; when it returns they are visible there.
    pub fn receive(&self, socket: BorrowedFd<'_>, from: u64, len: usize) -> Result<usize, Errno> {
        match self {
            Place::Host(host) => host.receive(socket, from, len),
        }
    }
}
