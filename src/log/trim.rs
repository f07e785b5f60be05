// SPDX-License-Identifier: MIT OR Apache-2.0
//! Taking away: what all have applied, from the front; what was never agreed on, from the end.
//!
//! T1  The anchor says it, durably, before anything is removed: names go in any order, and a log with
//!     a hole, or with a tail that has come back, would be worse than a long one.

use super::disk::Disk;
use super::flaw::{Failure, failing};
use super::format::{Anchor, RECORDS_AT, SegmentHead};
use super::segment::{Look, Segment, Window, look};
use super::writer::{Log, write_zeros};
use crate::mutant;

impl<D: Disk> Log<D> {
    /// Records below that position are needed no more. Whole segments are removed; the last one
    /// stays. Where the log begins now: at the first record that is still there.
    pub fn trim(&mut self, below: u64) -> Result<u64, Failure> {
        self.guarded(|log| log.trim_segments(below))
    }

    /// Forgets all from that position on: it was never agreed on, and must not come back. For a
    /// member that rejoins, before it appends anything; nobody reads the log meanwhile.
    pub fn erase(&mut self, from: u64) -> Result<(), Failure> {
        assert!(from >= self.anchor.begins_at, "what is trimmed was agreed on");
        self.guarded(|log| log.erase_tail(from))
    }

    fn trim_segments(&mut self, below: u64) -> Result<u64, Failure> {
        let below = below.min(self.tip.position);
        let last = self.last.head.tip.position;
        let firsts = self.sealed.iter().copied().chain([last]);
        let over = usize::from(mutant!("log-trims-one-over"));
        let kept = firsts.filter(|first| *first <= below).count();
        let removed = (kept + over).saturating_sub(1).min(self.sealed.len());
        if removed == 0 {
            return Ok(self.anchor.begins_at);
        }
        let begins_at = self.sealed.get(removed).copied().unwrap_or(last);
        let anchor = Anchor { begins_at, ..self.anchor };
        if !mutant!("log-trims-unmarked") {
            self.write_anchor(anchor)?;
        }
        for at in 0..removed {
            let name = SegmentHead::name(self.sealed[at]);
            self.disk.remove(&name).map_err(failing("remove", &name, 0))?;
        }
        self.sealed.drain(..removed);
        self.disk.sync_names().map_err(failing("sync the names of", "the directory", 0))?;
        self.write_anchor(anchor)?; // into the other slot, too
        Ok(begins_at)
    }

    fn erase_tail(&mut self, from: u64) -> Result<(), Failure> {
        if from >= self.tip.position {
            return Ok(());
        }
        let synced = self.anchor.synced.min(from);
        let anchor = Anchor { erase_from: Some(from), synced, ..self.anchor };
        if mutant!("log-erases-unmarked") {
            self.anchor = Anchor { synced, ..self.anchor };
        } else {
            self.write_anchor(anchor)?;
        }
        if self.last.head.tip.position > from {
            self.drop_segments(from)?;
        }
        let mut window = Window::new();
        let (mut at, mut tip) = (RECORDS_AT, self.last.head.tip);
        while tip.position < from {
            match look(&mut window, &self.disk, &self.last, at, &tip, self.seed)? {
                Look::Record(head) => (at, tip) = (at + head.bytes(), tip.after(&head)),
                // It was good when it was opened or written: the disk is at fault.
                Look::Bad(_) => {
                    let cause = rustix::io::Errno::IO;
                    return Err(failing("read back", &self.last.name, at)(cause));
                }
            }
        }
        write_zeros(&self.disk, &self.last.file, &self.last.name, at, self.last.bytes)?;
        self.disk.sync(&self.last.file).map_err(failing("sync", &self.last.name, at))?;
        (self.at, self.tip, self.durable) = (at, tip, tip.position);
        self.zeroed = self.last.bytes;
        self.write_anchor_twice(Anchor { erase_from: None, ..self.anchor })
    }

    /// Removes the segments that begin behind that position; the one before them is the last again.
    fn drop_segments(&mut self, from: u64) -> Result<(), Failure> {
        let kept = self.sealed.iter().filter(|first| **first <= from).count();
        let removed: Vec<u64> = self.sealed[kept..].iter().copied().collect();
        for first in removed.into_iter().chain([self.last.head.tip.position]) {
            let name = SegmentHead::name(first);
            self.disk.remove(&name).map_err(failing("remove", &name, 0))?;
        }
        self.disk.sync_names().map_err(failing("sync the names of", "the directory", 0))?;
        self.sealed.truncate(kept);
        let first = self.sealed.pop().expect("a log begins at or below what it erases");
        let name = SegmentHead::name(first);
        let lost = || failing("open", &name, 0)(rustix::io::Errno::IO);
        self.last = match Segment::open(&self.disk, first, &self.anchor) {
            Ok(Some(Ok(segment))) => segment,
            Err(super::flaw::Refusal::Failed(failure)) => return Err(failure),
            _ => return Err(lost()),
        };
        Ok(())
    }
}
