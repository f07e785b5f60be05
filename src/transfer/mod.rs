// SPDX-License-Identifier: MIT OR Apache-2.0
//! State transfer: how a process that joins gets the application's state from a member, while the
//! group goes on.
//!
//! A *source* (a member) and a *joiner* (a process that is no member yet) share one connected
//! stream ([`Pipe`]). The source's application opens a checkpoint between two deliveries, which must
//! be short; a *transfer thread* streams it. What is delivered meanwhile is copied to a *tape*, a
//! bounded ring, and sent after the checkpoint. When the joiner has nearly caught up, and not
//! before, its join is asked for; what the old view delivers from then on, and its end, follow on
//! the same tape. So an old member's gap is its install, whatever the joiner and the stream do.
//!
//! Deliberately not: membership (who joins when is `group/membership`'s), retries with another
//! source (the caller's), a log (nobody keeps messages for joiners but during a transfer).
//!
//! Invariants: K1–K4 in `tape`, E1–E3 in `feed`, C1–C4 in `carrier`, J1–J3 in `joiner`.
//!
//! Cost: without a transfer, the driver's one branch per batch; with one, a copy of each message and
//! one store per batch, and at the source one thread and one buffer.
#![doc = include_str!("wiring.md")]

pub mod flaw;
pub mod frame;
pub mod record;
pub mod tape;

#[cfg(not(loom))]
mod carrier;
#[cfg(not(loom))]
mod control;
#[cfg(not(loom))]
mod feed;
#[cfg(not(loom))]
mod joiner;
#[cfg(not(loom))]
mod pipe;
#[cfg(not(loom))]
pub mod progress;
#[cfg(not(loom))]
mod shell;

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod mutants;
#[cfg(all(test, not(loom)))]
mod tests;
#[cfg(all(test, not(loom)))]
mod thread_tests;
#[cfg(all(test, not(loom)))]
mod world;

#[cfg(not(loom))]
pub use control::Ask;
#[cfg(not(loom))]
pub use feed::Feed;
pub use flaw::{Failure, Flaw};
#[cfg(not(loom))]
pub use pipe::{Pipe, Socket};
#[cfg(not(loom))]
pub use progress::{Phase, Progress, Snapshot};
pub use record::{End, Position, Version};
#[cfg(not(loom))]
pub use shell::{Handle, receive, refuse, start};

use crate::error::{Error, Status};
use crate::limits::{MESSAGE_BYTES_MAX, SUBGROUPS_MAX};
use crate::mem::Message;
use std::time::Duration;

/// In `Message::flags`: it was delivered before this process was a member, and belongs to the state.
pub const CATCHUP: u8 = 1;

/// An application whose state can be had by others. Called on the polling thread.
pub trait StateSource {
    /// Fixes the state as it is now, after the messages that `version` says and none beyond. Called
    /// between two deliveries; the group of this member stands still until it returns: copy on
    /// write, fork, or give out a version that the application keeps anyway. An error ends this
    /// transfer and nothing else.
    fn checkpoint_open(&mut self, version: &Version) -> Result<Box<dyn Checkpoint>, Error>;
}

/// A fixed state. Read and dropped on the transfer thread, while the application goes on; dropped
/// on the polling thread if the transfer was over before it was opened.
pub trait Checkpoint: Send {
    /// Puts the next bytes into `place` (at most 256 KiB; never empty) and answers how many; 0 is
    /// the end. It may take its time. An error ends this transfer and nothing else.
    fn read(&mut self, place: &mut [u8]) -> Result<usize, Error>;
}

/// An application that takes such a state. Called on the thread that opens the group.
pub trait StateSink {
    /// A state is coming. If one came before, whole or in part, with or without messages after it,
    /// it is void: the source had to start over.
    fn begin(&mut self, version: &Version) -> Result<(), Error>;
    /// The next bytes of it, cut anywhere; never empty. An error ends the joining.
    fn load(&mut self, chunk: &[u8]) -> Result<(), Error>;
    /// That was all of it, and it came as it was sent.
    fn loaded(&mut self) -> Result<(), Error>;
    /// Messages after it, in order, as later batches in the view; with the flag [`CATCHUP`]. Ranks
    /// are those of the version in force. The bytes may be read until this returns.
    fn deliver(&mut self, subgroup: u16, batch: &[Message]);
    /// The group has gone to another view, still without this process.
    fn view(&mut self, version: &Version) {
        let _ = version;
    }
}

/// For applications without a state: nothing is sent.
pub struct NoState;

impl StateSource for NoState {
    fn checkpoint_open(&mut self, _version: &Version) -> Result<Box<dyn Checkpoint>, Error> {
        Ok(Box::new(NoState))
    }
}

impl Checkpoint for NoState {
    fn read(&mut self, _place: &mut [u8]) -> Result<usize, Error> {
        Ok(0)
    }
}

/// What a transfer may take. Both sides have theirs; each says whose.
#[derive(Clone, Debug)]
pub struct Options {
    /// Source: its incarnation, for whoever reads a trace.
    pub incarnation: u64,
    /// Source: the subgroups whose messages the joiner gets.
    pub subgroups: Vec<u16>,
    /// Source: bytes of the catch-up buffer, a power of two; default 64 MiB. Each message takes its
    /// length and 32 to 39 bytes. It is there only during a transfer. The driver makes it larger
    /// where two of the longest messages would not fit.
    pub catchup_bytes: usize,
    /// Source: how often a transfer may start over when that is full; default 3. Each time with
    /// twice as much, as long as that is no more than `catchup_bytes_max`. Nothing is written to a
    /// disk instead.
    pub restarts_max: u32,
    /// Source: bytes; default 256 MiB.
    pub catchup_bytes_max: usize,
    /// Source: the joiner is to ask for its join when it lacks no more than this; default 1 MiB, at
    /// most a fourth of the buffer. What it lacks then, and what is delivered until the view ends, it
    /// applies before it takes part, and all wait for it.
    pub near_bytes: u64,
    /// The same in messages; default 8192.
    pub near_messages: u64,
    /// Both: how long the other side may stand still; default 30 s. A call of the application counts;
    /// so this is longer than any of `Checkpoint::read`, `load`, `loaded` or `deliver`.
    pub patience: Duration,
    /// Both: the longest message of their configuration. Two of them must fit into the buffer.
    pub message_bytes_max: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            incarnation: 0,
            subgroups: Vec::new(),
            catchup_bytes: 64 << 20,
            restarts_max: 3,
            catchup_bytes_max: 256 << 20,
            near_bytes: 1 << 20,
            near_messages: 8192,
            patience: Duration::from_secs(30),
            message_bytes_max: 1 << 20,
        }
    }
}

/// Bounds of a catch-up buffer, in bytes.
pub const CATCHUP_BYTES_MIN: usize = 4 << 10;
pub const CATCHUP_BYTES_MAX: usize = 1 << 34;
const _: () = assert!(CATCHUP_BYTES_MAX as u64 > 2 * (MESSAGE_BYTES_MAX + 64));

impl Options {
    pub fn check(&self) -> Result<(), Error> {
        let invalid = |text: String| Err(Error::new(Status::Invalid, text));
        let bytes = self.catchup_bytes;
        let (most, range) = (self.catchup_bytes_max, CATCHUP_BYTES_MIN..=CATCHUP_BYTES_MAX);
        if !bytes.is_power_of_two()
            || !range.contains(&bytes)
            || !(bytes..=CATCHUP_BYTES_MAX).contains(&most)
        {
            return invalid(format!(
                "a catch-up buffer of {bytes} to {most} bytes: give a power of two from \
                 {CATCHUP_BYTES_MIN}, and no less, to {CATCHUP_BYTES_MAX}"
            ));
        }
        if 2 * (u64::from(self.message_bytes_max) + 64) > bytes as u64 {
            return invalid(format!(
                "a catch-up buffer of {bytes} bytes, with messages of up to {}: give room for two",
                self.message_bytes_max
            ));
        }
        if self.near_bytes > bytes as u64 / 4 {
            return invalid(format!(
                "nearly caught up at {} bytes, with a buffer of {bytes}: give a fourth at the most, \
                 or what comes until the join finds no room",
                self.near_bytes
            ));
        }
        if let Some(subgroup) = self.subgroups.iter().find(|at| usize::from(**at) >= SUBGROUPS_MAX)
        {
            return invalid(format!("subgroup {subgroup}: there are {SUBGROUPS_MAX} at the most"));
        }
        Ok(())
    }
}
