// SPDX-License-Identifier: MIT OR Apache-2.0
//! Registered memory, as a device of this fabric reads and writes it itself: what `registered::direct`
//! asks for, by `memory` and `reach`.

use super::device::Device;
use super::memory::{Memory, Remote, Rights};
use super::queue::Manner;
use super::reach::{self, Operation, Reach};
use crate::error::{Error, Status};
use crate::mem::place::Span;
use crate::registered::direct::{self, Endpoint, Exported, Keys, Order, Queue};
use crate::registered::{Rights as Allowed, What};
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;

/// The device of a group, for registered memory.
pub struct Lent {
    device: Arc<Device>,
    manner: Manner,
}

impl Lent {
    /// `manner`: of its queues, as of the group's.
    pub fn new(device: Arc<Device>, manner: Manner) -> Lent {
        Lent { device, manner }
    }
}

fn rights(Allowed { read, write }: Allowed) -> Rights {
    Rights { write, read }
}

fn keys(memory: Memory) -> Keys {
    let Remote { address, key, .. } = memory.remote();
    Keys { address, remote: key, memory: Box::new(Arc::new(memory)) }
}

impl direct::Device for Lent {
    fn dma_buf(&self, memory: &Exported<'_>, allowed: Allowed) -> Result<Keys, Error> {
        let Exported { descriptor, offset, bytes, address } = *memory;
        let bytes = bytes as usize;
        Memory::dmabuf(&self.device, descriptor, offset, bytes, address, rights(allowed)).map(keys)
    }

    fn memory(&self, span: &Span, allowed: Allowed) -> Result<Keys, Error> {
        let first = NonNull::new(span.first()).ok_or_else(|| {
            Error::new(Status::Invalid, "memory at address 0 cannot be registered")
        })?;
        // SAFETY: who lends the bytes has promised that they are there until they are taken back, and
        // that nobody relies on what they hold (`Host::new`; of a CUDA device its driver keeps them);
        // the keys are dropped first (`registered::Region`).
        let memory =
            unsafe { Memory::foreign(&self.device, first, span.bytes() as usize, rights(allowed)) };
        memory.map(keys)
    }

    fn queue(&self, _whom: u64) -> Result<Box<dyn Queue>, Error> {
        let reach = Reach::new(&self.device)?;
        let wakes: Arc<dyn AsFd + Send + Sync> = Arc::new(reach.wakes()?);
        Ok(Box::new(Line { reach, wakes, manner: self.manner }))
    }
}

/// One end of a connection.
struct Line {
    reach: Reach,
    wakes: Arc<dyn AsFd + Send + Sync>,
    manner: Manner,
}

impl Queue for Line {
    fn endpoint(&self) -> Endpoint {
        self.reach.endpoint()
    }

    fn connect(&mut self, theirs: &Endpoint) -> Result<(), Error> {
        self.reach.connect(theirs, &self.manner)
    }

    fn begin(&mut self, order: &Order<'_>) -> Result<bool, Error> {
        let memory = order.mine.memory.downcast_ref().expect("keys of this device");
        let what = match order.what {
            What::Get => reach::What::Get,
            What::Put | What::Announced => reach::What::Put { flush: order.flush },
        };
        let (address, key) = order.theirs;
        let operation = Operation { what, offset: order.offset, bytes: order.bytes, address, key };
        self.reach.begin(operation, memory)
    }

    fn over(&mut self) -> Result<u64, Error> {
        self.reach.over()
    }

    fn landed(&self) -> u64 {
        self.reach.landed()
    }

    fn wakes(&self) -> Option<Arc<dyn AsFd + Send + Sync>> {
        Some(self.wakes.clone())
    }

    fn arm(&mut self) -> Result<(), Error> {
        self.reach.arm()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
