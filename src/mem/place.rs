// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where registered memory lies, and how bytes get from a socket there and back.

use super::cuda::Device;
use super::dmabuf::DmaBuf;
use super::host::Host;
use crate::error::Error;
use rustix::io::Errno;
use std::os::fd::BorrowedFd;

/// Memory that was registered.
#[derive(Debug)]
pub enum Place {
    Host(Host),
    Device(Device),
    DmaBuf(DmaBuf),
}

/// Addresses of memory that was lent, for a device that registers them: nobody else makes one.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    address: u64,
    bytes: u64,
}

impl Span {
    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The same for calls that take a pointer; nobody reads or writes through it.
    pub fn first(&self) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(self.address as usize)
    }
}

impl Place {
    /// Where it lies, in this process or on its device. `None`: it has no address.
    pub fn span(&self) -> Option<Span> {
        let address = match self {
            Place::Host(host) => host.address(),
            Place::Device(device) => device.address(),
            Place::DmaBuf(_) => return None,
        };
        Some(Span { address, bytes: self.bytes() })
    }

    pub fn bytes(&self) -> u64 {
        match self {
            Place::Host(host) => host.bytes(),
            Place::Device(device) => device.bytes(),
            Place::DmaBuf(buffer) => buffer.bytes(),
        }
    }

    /// Whether it can be copied to and from sockets.
    pub fn can_copy(&self) -> bool {
        !matches!(self, Place::DmaBuf(buffer) if !buffer.is_mapped())
    }

    /// Whether a network device that writes here itself can be followed by `arrived`.
    pub fn can_be_filled(&self) -> bool {
        match self {
            Place::Device(device) => device.can_be_filled(),
            Place::Host(_) | Place::DmaBuf(_) => true,
        }
    }

    /// What it has written before is visible here when this returns. Of a dma-buf who has exported it
    /// sees to that.
    pub fn arrived(&self) -> Result<(), Error> {
        match self {
            Place::Device(device) => device.arrived(),
            Place::Host(_) | Place::DmaBuf(_) => Ok(()),
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
