// SPDX-License-Identifier: MIT OR Apache-2.0
//! The few words between the polling thread and the transfer thread of one transfer, beside the
//! tape. Neither ever waits for the other.

use super::flaw::Failure;
use super::{Checkpoint, Version};
use crate::error::{Error, Status};
use crate::mem::Cell;
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

/// What the transfer wants of the polling thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    Nothing,
    /// A checkpoint: call `Feed::open` between two deliveries.
    Open,
    /// The joiner has nearly caught up and is told so: it asks for its join now. Said once.
    Join,
    /// It has ended; `Feed::outcome` says how. Drop the feed.
    Over,
}

impl Ask {
    /// With the number of the attempt, so that two asks are never the same word.
    pub fn word(self, attempt: u64) -> u64 {
        attempt << 2 | self as u64
    }

    pub fn of(word: u64) -> Ask {
        [Ask::Nothing, Ask::Open, Ask::Join, Ask::Over][(word & 3) as usize]
    }
}

/// What the polling thread hands over when it has called `checkpoint_open`.
pub struct Opened {
    pub version: Version,
    pub checkpoint: Result<Box<dyn Checkpoint>, Error>,
    pub took_ns: u64,
}

/// The member closes, or is none any more.
pub const CLOSING: u64 = 1;
/// The view with the joiner has begun, and the tape is not good for it.
pub const LATE: u64 = 2;
/// The joiner will be where this member has no state of.
pub const MOVED: u64 = 3;

pub struct Control {
    /// Written by the transfer thread.
    pub ask: Cell,
    /// `CLOSING`, `LATE` or `MOVED`: the polling thread wants no more of it.
    pub cancel: Cell,
    /// How it ended; set before `Ask::Over` is.
    pub outcome: OnceLock<Result<(), Failure>>,
    bell: OwnedFd,
}

impl Control {
    pub fn new() -> Result<Control, Error> {
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(|cause| {
            let detail = format!(
                "cannot make an event descriptor for a state transfer: {cause}; raise the limit \
                 with `ulimit -n`"
            );
            Error::new(Status::Limit, detail)
        })?;
        let (ask, cancel) = (Cell::new(0), Cell::new(0));
        Ok(Control { ask, cancel, outcome: OnceLock::new(), bell })
    }

    /// Gives the transfer up, unless its end is on its way.
    pub fn cancel(&self, reason: u64) {
        self.cancel.publish(reason);
        self.ring();
    }

    /// Wakes the transfer thread. One system call: when a checkpoint is opened, a view ends, or the
    /// transfer is given up; never per message.
    pub fn ring(&self) {
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    pub fn hush(&self) {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
    }
}
