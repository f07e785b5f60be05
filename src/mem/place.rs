// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where registered memory lies, and how bytes get from a socket there and back.

use super::cuda::Device;
use super::dmabuf::DmaBuf;
use super::host::Host;
use rustix::io::Errno;
use std::os::fd::BorrowedFd;

/// Memory that was registered.
#[derive(Debug)]
pub enum Place {
    Host(Host),
    Device(Device),
    DmaBuf(DmaBuf),
}

impl Place {
    pub fn bytes(&self) -> u64 {
        match self {
            Place::Host(host) => host.bytes(),
            Place::Device(device) => device.bytes(),
            Place::DmaBuf(buffer) => buffer.bytes(),
        }
    }

    /// What has come is lost, though `receive` has said how much it was.
    pub fn has_failed(&self) -> bool {
        matches!(self, Place::Device(device) if device.has_failed())
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
            Place::Device(device) => device.send(socket, before, from, len),
            Place::DmaBuf(buffer) => buffer.send(socket, before, from, len),
        }
    }

    /// As `Host::receive`; when it returns they are visible there, or it `has_failed`.
    pub fn receive(&self, socket: BorrowedFd<'_>, from: u64, len: usize) -> Result<usize, Errno> {
        match self {
            Place::Host(host) => host.receive(socket, from, len),
            Place::Device(device) => device.receive(socket, from, len),
            Place::DmaBuf(buffer) => buffer.receive(socket, from, len),
        }
    }
}
