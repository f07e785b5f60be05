// SPDX-License-Identifier: MIT OR Apache-2.0
//! The seam to network devices that read and write registered memory themselves, and the order in which
//! ways to a region are tried.
//!
//! | memory | first | then | then | without |
//! |---|---|---|---|---|
//! | of the host | its address: *direct* | | copied: *staged* | |
//! | behind a dma-buf | the descriptor: *dma-buf* | | mapped, if it can be: *staged* | `NotDirect` |
//! | of a CUDA device | a dma-buf of the driver's: *dma-buf* | its address: *peermem* | pinned memory: *bounce* | |
//!
//! Who asked for direct access only gets the first of these, or `NotDirect` with all causes.
//!
//! V1  Keys are a registration: once they are dropped, nothing of others lands there (R6).
//! V2  A queue is one peer's, at each side; once it is dropped nothing comes through it (R5).
//! V3  A put is over when its bytes are visible there: to memory of a device that takes a flush behind
//!     them, and `Order::flush` says so; what a get brings there is flushed by its driver, and where that
//!     cannot do so it is copied. The flush of a put is a read: so of memory of a device that may be written
//!     the network device may read, too, whoever has the key, though a get is refused before it is asked.

use super::{Path, Rights, What};
use crate::error::{Error, Status};
use crate::log_sink::{Level, say};
use crate::mem::place::{Place, Span};
use std::any::Any;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// A network device, for any thread.
pub trait Device: Send + Sync {
    /// Registers memory behind a dma-buf.
    fn dma_buf(&self, memory: &Exported<'_>, rights: Rights) -> Result<Keys, Error>;
    /// Registers memory at its address: of the host, or, if its driver allows that, of a device.
    fn memory(&self, span: &Span, rights: Rights) -> Result<Keys, Error>;
    /// A queue to one peer, not connected.
    fn queue(&self, whom: u64) -> Result<Box<dyn Queue>, Error>;
}

/// `bytes` bytes of a dma-buf, from `offset` on, that peers will know by `address`.
pub struct Exported<'a> {
    pub descriptor: BorrowedFd<'a>,
    pub offset: u64,
    pub bytes: u64,
    pub address: u64,
}

/// What a device knows a region by (V1).
pub struct Keys {
    pub address: u64,
    /// For peers.
    pub remote: u32,
    /// The device's own; dropped, it deregisters.
    pub memory: Box<dyn Any + Send + Sync>,
}

/// Numbers by which a peer's queue finds mine. All zeros: there is none.
pub type Endpoint = [u64; 5];

/// What is to be carried out.
pub struct Order<'a> {
    pub what: What,
    pub mine: &'a Keys,
    pub offset: u64,
    pub bytes: u64,
    /// Address and key at the peer.
    pub theirs: (u64, u32),
    /// V3.
    pub flush: bool,
}

/// One end of a connection of the device's, for one thread at a time.
pub trait Queue: Send {
    fn endpoint(&self) -> Endpoint;
    /// The peer's numbers are checked; an error: they are wrong, or this device cannot.
    fn connect(&mut self, theirs: &Endpoint) -> Result<(), Error>;
    /// Begins it, behind what was begun before. `false`: no room now.
    fn begin(&mut self, order: &Order<'_>) -> Result<bool, Error>;
    /// How many of those begun are over, since the queue was made: in order. An error: the connection is
    /// lost; `Denied`: the first that has not landed was refused by the peer's device, and neither that nor
    /// what is behind it has been carried out.
    fn over(&mut self) -> Result<u64, Error>;
    /// How many `over` has found, also after an error.
    fn landed(&self) -> u64;
    /// Readable when `over` may have news after it has been armed; it outlives the queue. `None`: who
    /// waits must look.
    fn wakes(&self) -> Option<Arc<dyn AsFd + Send + Sync>>;
    /// To be called before the last look, before sleep.
    fn arm(&mut self) -> Result<(), Error>;
}

/// A way to that memory, and the keys if a device goes it itself. `direct`: only such a one.
pub(super) fn way_to(
    place: &Place,
    device: Option<&dyn Device>,
    rights: Rights,
    direct: bool,
) -> Result<(Path, Option<Keys>), Error> {
    let mut causes = Vec::new();
    if let Some(device) = device {
        for (path, keys) in ways(place, device, rights) {
            match keys {
                Ok(keys) => return Ok((path, Some(keys))),
                Err(error) => causes.push(format!("{path:?}: {error}")),
            }
        }
    } else {
        causes.push("this group has no network device".into());
    }
    let why = causes.join("; ");
    let without = match place {
        Place::Host(_) => Some(Path::Staged),
        Place::DmaBuf(buffer) => buffer.is_mapped().then_some(Path::Staged),
        Place::Device(_) => Some(Path::Bounce),
    };
    match without.filter(|_| !direct) {
        Some(path) => {
            if device.is_some() {
                say(Level::Notice, &format!("registered memory is copied ({path:?}): {why}"));
            }
            Ok((path, None))
        }
        None => {
            let remedy = without.map_or("", |_| "; if that is not asked for, it is copied");
            let why = format!("no network device reads and writes that memory itself: {why}");
            let detail = why + remedy;
            Err(Error::new(Status::NotDirect, detail))
        }
    }
}

/// The ways that there are, in order; each is tried when it is asked for.
fn ways<'a>(
    place: &'a Place,
    device: &'a dyn Device,
    rights: Rights,
) -> Box<dyn Iterator<Item = (Path, Result<Keys, Error>)> + 'a> {
    let (bytes, span) = (place.bytes(), place.span());
    let by_address = move |path: Path, rights: Rights| {
        let keys = move |span: Span| (path, device.memory(&span, rights));
        span.into_iter().map(keys)
    };
    let flushed = Rights { read: rights.read || rights.write, ..rights }; // V3
    match place {
        Place::Host(_) => Box::new(by_address(Path::Direct, rights)),
        Place::DmaBuf(buffer) => {
            let (descriptor, offset) = (buffer.descriptor(), buffer.offset());
            let memory = Exported { descriptor, offset, bytes, address: 0 };
            let keys = move || device.dma_buf(&memory, flushed);
            Box::new(std::iter::once_with(move || (Path::DmaBuf, keys())))
        }
        Place::Device(memory) => {
            let exported = move || {
                let ((own, offset), address) = (memory.export()?, memory.address());
                let descriptor = own.as_fd();
                device.dma_buf(&Exported { descriptor, offset, bytes, address }, flushed)
            };
            let first = std::iter::once_with(move || (Path::DmaBuf, exported()));
            Box::new(first.chain(by_address(Path::Peermem, flushed)))
        }
    }
}
