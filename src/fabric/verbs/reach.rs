// SPDX-License-Identifier: MIT OR Apache-2.0
//! Puts and gets of whole stretches of registered memory at one peer: a queue and completions of their
//! own, so that neither they nor the group's posts wait for each other.
//!
//! E1  Operations are carried out and are over in the order in which they were begun.
//! E2  An operation that is over has landed: behind a put comes the peer's acknowledgement. One into memory
//!     of an accelerator is flushed by a read of its last bytes, which pushes them out of the bus.
//! E3  Once this is dropped nothing of the peer's comes through it, and nothing goes (`Queue`, Q4).
//! E4  What a peer's device refuses (its key, its bounds, its rights) has not been carried out, nor
//!     anything behind it; what was before it is over.
//!
//! Cost: `begin` and `over` are a few calls of the provider; no allocation but for the list of what is
//! under way, which is made at the beginning.

use super::completions::Completions;
use super::device::{Device, Place};
use super::failure::{Cause, Failure};
use super::gid::Gid;
use super::memory::{Memory, Remote};
use super::queue::{Counts, Depths, Manner, Queue, Taken};
use super::sys::bindings::ibv_wc_status;
use crate::error::{Error, Status};
use crate::mem::Region;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

const DEPTHS: Depths = Depths { send: 128, receive: 0, inline_bytes: 220 };
/// Bytes of one write or read, if the device takes that many.
const PIECE_BYTES_MAX: u64 = 1 << 30;
/// Bytes that a flush reads, at the most.
const FLUSH_BYTES: u64 = 8;

/// What the peer's end must be told, as words. All zeros is none.
pub type Words = [u64; 5];

/// One operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operation {
    pub what: What,
    /// First byte of mine.
    pub offset: u64,
    pub bytes: u64,
    /// Where it is at the peer, and the key.
    pub address: u64,
    pub key: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// `flush`: into memory of an accelerator (E2); the key must allow reads, too.
    Put {
        flush: bool,
    },
    Get,
}

/// One end.
pub struct Reach {
    queue: Queue,
    completions: Completions,
    /// Where flushes read to.
    scratch: Memory,
    piece_bytes_max: u64,
    /// Behind each operation that is under way.
    marks: VecDeque<u64>,
    /// The operation that is not all posted, and its memory.
    rest: Option<(Operation, Arc<Memory>)>,
    begun: u64,
    over: u64,
    armed: bool,
}

impl Reach {
    /// Errors: `NoMemory`, `Limit` or `System`: what this process or the device lacks.
    pub fn new(device: &Arc<Device>) -> Result<Reach, Error> {
        let completions = Completions::new(device, 1, &DEPTHS)?;
        let queue = Queue::new(&completions, 0, &DEPTHS)?;
        let scratch = Memory::sink(device, Arc::new(Region::zeros(FLUSH_BYTES as usize)?))?;
        let most = u64::from(device.limits().write_bytes_max);
        Ok(Reach {
            queue,
            completions,
            scratch,
            piece_bytes_max: most.clamp(1, PIECE_BYTES_MAX),
            marks: VecDeque::with_capacity(usize::from(DEPTHS.send)),
            rest: None,
            begun: 0,
            over: 0,
            armed: false,
        })
    }

    /// What the peer's end must be told.
    pub fn endpoint(&self) -> Words {
        let (end, place) = (self.queue.endpoint(), self.queue.place());
        let (high, low) = place.gid.0.split_at(8);
        let word = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("8 bytes"));
        let link = u64::from(place.mtu_bytes) << 32 | u64::from(place.lid) << 8;
        [
            u64::from(end.qpn),
            u64::from(end.psn),
            word(high),
            word(low),
            link | u64::from(place.ethernet),
        ]
    }

    /// Connects it. Operations may be begun when the peer has done the same.
    ///
    /// Errors: `PeerFault`: what the peer has told cannot be; `Mismatch`; `System`.
    pub fn connect(&mut self, peer: &Words, manner: &Manner) -> Result<(), Error> {
        let fault =
            |_| Error::new(Status::PeerFault, "a peer's numbers of its queue are too large");
        let mut gid = [0; 16];
        gid[..8].copy_from_slice(&peer[2].to_be_bytes());
        gid[8..].copy_from_slice(&peer[3].to_be_bytes());
        let place = Place {
            gid: Gid(gid),
            lid: (peer[4] >> 8) as u16,
            mtu_bytes: (peer[4] >> 32) as u32,
            ethernet: peer[4] & 1 != 0,
        };
        let end = super::queue::Endpoint {
            qpn: u32::try_from(peer[0]).map_err(fault)?,
            psn: u32::try_from(peer[1]).map_err(fault)?,
        };
        self.queue.connect(&end, &place, manner)
    }

    /// Begins an operation on `mine`, behind those that were begun before. `false`: there is no room now;
    /// ask again after `over`.
    ///
    /// Errors: the connection is lost, with the cause.
    ///
    /// Panics if not all bytes are `mine`.
    pub fn begin(&mut self, operation: Operation, mine: &Arc<Memory>) -> Result<bool, Error> {
        let end = operation.offset.checked_add(operation.bytes);
        assert!(end.is_some_and(|end| end <= mine.bytes()), "an operation outside its memory");
        if self.rest.is_some() || self.queue.room() < 2 {
            self.queue.alive().map_err(lost)?;
            return Ok(false);
        }
        self.begun += 1;
        self.rest = Some((operation, mine.clone()));
        self.go_on()?;
        Ok(true)
    }

    /// Posts what is left of the operation begun last, as far as there is room.
    fn go_on(&mut self) -> Result<(), Error> {
        let Some((mut left, mine)) = self.rest.take() else { return Ok(()) };
        let flushes = left.what == What::Put { flush: true };
        while self.queue.room() >= 2 {
            let remote = Remote { address: left.address, bytes: left.bytes, key: left.key };
            let piece = left.bytes.min(self.piece_bytes_max);
            let (from, upto) = (left.offset, left.offset + piece);
            match left.what {
                _ if piece == 0 => {}
                What::Get => self.queue.read(&mine, from, upto, &remote, 0),
                What::Put { .. } => self.queue.put(&mine, from, upto, &remote, 0),
            }
            left.offset += piece;
            left.address = left.address.wrapping_add(piece);
            left.bytes -= piece;
            if left.bytes > 0 {
                continue;
            }
            // Its last bytes are those before what is left of it, of which there is room for one more.
            let bytes = piece.min(FLUSH_BYTES);
            if flushes && bytes > 0 {
                let address = left.address.wrapping_sub(bytes);
                let last = Remote { address, bytes, key: left.key };
                self.queue.read(&self.scratch, 0, bytes, &last, 0);
            }
            self.queue.post(false).map_err(lost)?;
            self.marks.push_back(self.queue.mark());
            return Ok(());
        }
        self.queue.post(false).map_err(lost)?;
        self.rest = Some((left, mine));
        Ok(())
    }

    /// How many operations are over, of all that were begun. Never blocks.
    ///
    /// Errors: `PeerLost`: the connection is lost, with the cause; what is not over by now may have landed
    /// or not. `Denied`: the peer's device has refused what comes after those that have landed (E4).
    pub fn over(&mut self) -> Result<u64, Error> {
        if std::mem::take(&mut self.armed) {
            self.completions.woken();
        }
        let (queue, mut failed) = (&mut self.queue, None);
        let polled = self.completions.poll(|completion| {
            if let Taken::Failed(failure) = queue.take(completion) {
                failed = Some(failure);
            }
        });
        while self.marks.front().is_some_and(|mark| self.queue.is_over(*mark)) {
            self.marks.pop_front();
            self.over += 1;
        }
        polled.map_err(lost)?;
        if let Some(failure) = failed {
            return Err(lost(failure));
        }
        self.queue.alive().map_err(lost)?;
        self.go_on()?;
        Ok(self.over)
    }

    /// How many `over` has found, also after an error.
    pub fn landed(&self) -> u64 {
        self.over
    }

    /// Operations that are begun and not over.
    pub fn under_way(&self) -> u64 {
        self.begun - self.over
    }

    pub fn counts(&self) -> &Counts {
        self.queue.counts()
    }

    /// A descriptor that is readable when `over` may have news, once armed. It outlives this end.
    ///
    /// Errors: `Limit`: this process has no descriptor left.
    pub fn wakes(&self) -> Result<OwnedFd, Error> {
        let copy = self.completions.fd().try_clone_to_owned();
        copy.map_err(|cause| crate::mem::errno::shortage("no descriptor to sleep on", &cause))
    }

    /// To be called before the last look (`over`), before sleep.
    ///
    /// Errors: `System`.
    pub fn arm(&mut self) -> Result<(), Error> {
        self.completions.arm(true)?;
        self.armed = true;
        Ok(())
    }
}

fn lost(failure: Failure) -> Error {
    let refusals =
        [ibv_wc_status::IBV_WC_REM_ACCESS_ERR.0, ibv_wc_status::IBV_WC_REM_INV_REQ_ERR.0];
    let status = match failure.cause {
        Cause::Completion { status, .. } if refusals.contains(&status) => Status::Denied,
        _ => Status::PeerLost,
    };
    Error::new(status, failure.to_string())
}
