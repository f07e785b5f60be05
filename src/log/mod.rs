// SPDX-License-Identifier: MIT OR Apache-2.0
//! The durable log: what one member has on its disk of one subgroup's history.
//!
//! A log is one stream: the messages of a subgroup in their order, views and trims between them, and
//! what this member's application has confirmed. `Log` writes it, one thread at a time; `LogThread`
//! does that for all logs of a device and commits what has come meanwhile together; `Reader` reads
//! it, also while it is written; `repair` puts back what a disk has lost. `format` says how it lies on
//! the disk, and which record is believed (V1–V3); `disk` what a disk promises (D1–D4).
//!
//! Deliberately not: what is durable *everywhere*, which the table knows; who has the longest log;
//! what bytes mean. A log knows positions and versions.
//!
//! 1. What was reported durable is there after any loss of power, of what any call answered (W1–W3).
//! 2. What is found after that is a prefix of what was appended, byte for byte.
//! 3. What was trimmed or erased never comes back (T1, O3).
//! 4. What was durable and is damaged is never taken for the end: the log is refused, with the place,
//!    and can be repaired. Only the last batch before a stop that came within a tenth of a second, and
//!    was no `close`, cannot be told from one that was never durable; other members have it (V2).
//! 5. A call that fails ends the log's writing, and the member with it (fail-stop).

pub mod disk;
pub mod flaw;
pub mod format;
mod lot;
mod open;
mod reader;
mod real;
pub mod repair;
mod segment;
#[doc(hidden)]
pub mod simulated;
pub mod stamp;
mod thread;
mod trim;
mod writer;

#[cfg(test)]
mod mutants;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

pub use disk::Disk;
pub use flaw::{Damage, Failure, Refusal};
pub use format::{Entry, Kind, Label, Tip, Version};
pub use lot::Lot;
pub use open::{Opened, Torn};
pub use reader::{Reader, Record, Start, position_as_of};
pub use real::RealDisk;
pub use stamp::Stamp;
pub use thread::{LogThread, Writing};
pub use writer::Log;

/// How a log is kept.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whose it is: anything that tells group, subgroup and member from others. Checked at opening.
    pub owner: u64,
    /// Of a log that is made: a number that no other log ever had here.
    pub identity: u64,
    /// Of a log that is made: what its first record follows on, as the chain, version and stamp of
    /// the member have it whose state it begins with; the position counts from 0 anyway.
    pub origin: Tip,
    /// Bytes of a segment; default 64 MiB. A record that is longer gets one of its own.
    pub segment_bytes: u64,
    /// Bytes that are written with zeros ahead when there is nothing else to do; default 256 KiB.
    /// Then the sync of a lone message changes nothing but its bytes.
    pub zero_ahead_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            owner: 0,
            identity: 0,
            origin: Tip::default(),
            segment_bytes: 64 << 20,
            zero_ahead_bytes: 256 << 10,
        }
    }
}

/// The least bytes of a segment: its head, and a small record.
pub const SEGMENT_BYTES_MIN: u64 = 2 * format::RECORDS_AT;
const _: () = assert!(SEGMENT_BYTES_MIN > format::RECORDS_AT + format::HEAD_BYTES);

impl Options {
    fn check(&self) {
        let aligned = self.segment_bytes % format::RECORD_ALIGN == 0;
        assert!(self.segment_bytes >= SEGMENT_BYTES_MIN && aligned, "a segment of such a length");
    }
}

/// Records to be appended together, from wherever they lie.
pub trait Entries {
    fn count(&self) -> usize;
    /// The same at each call, while it is appended.
    fn entry(&self, at: usize) -> Entry<'_>;
}

impl Entries for [Entry<'_>] {
    fn count(&self) -> usize {
        self.len()
    }

    fn entry(&self, at: usize) -> Entry<'_> {
        self[at]
    }
}
