// SPDX-License-Identifier: MIT OR Apache-2.0
//! A log that is open for writing: append, sync, and the frontiers that follow.
//!
//! W1  `durable` moves after a sync that succeeded, and to what was written before it was called.
//! W2  After a call that failed nothing is written or synced any more (fail-stop): what the disk has
//!     is not known, and only opening anew finds out.
//! W3  A segment is synced before the next one is made; that one, its name too, before it is written.
//!     So whatever is in another segment than the last was durable.
//!
//! Cost: an append is one pass for the checksums, and one `pwritev` for each 341 records; nothing
//! is allocated but for a new segment.

use super::disk::Disk;
use super::flaw::{Failure, failing};
use super::format::{Anchor, Entry, HEAD_BYTES, Head, RECORDS_AT, SegmentHead, Tip, record_bytes};
use super::segment::Segment;
use super::{Entries, Options};
use crate::mutant;
use std::io::IoSlice;

/// Slices of one `pwritev` (IOV_MAX of Linux), three for each record.
const SLICES_MAX: usize = 1024;
const RECORDS_MAX: usize = SLICES_MAX / 3;
pub(super) static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// One process has it, one thread at a time writes it.
pub struct Log<D: Disk> {
    pub(super) disk: D,
    pub(super) options: Options,
    pub(super) seed: u32,
    pub(super) anchor: Anchor,
    pub(super) anchor_file: D::File,
    /// First positions of the segments before the last one.
    pub(super) sealed: Vec<u64>,
    pub(super) last: Segment<D::File>,
    /// Where the next record goes, in the last segment.
    pub(super) at: u64,
    /// Up to where the segment was written with zeros, so that a sync changes no extents.
    pub(super) zeroed: u64,
    pub(super) tip: Tip,
    pub(super) durable: u64,
    pub(super) failed: Option<Failure>,
    pub(super) heads: Box<[[u8; HEAD_BYTES as usize]]>,
    pub(super) _lock: D::File,
}

impl<D: Disk> Log<D> {
    pub(super) fn heads() -> Box<[[u8; HEAD_BYTES as usize]]> {
        vec![[0; HEAD_BYTES as usize]; RECORDS_MAX].into_boxed_slice()
    }

    /// The end of what was appended: the position of the next record. All below it was read from
    /// where it lay.
    pub fn tip(&self) -> Tip {
        self.tip
    }

    /// Records below this position are on the disk (W1).
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Records below this position are trimmed.
    pub fn begins_at(&self) -> u64 {
        self.anchor.begins_at
    }

    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Why it is written no more.
    pub fn failure(&self) -> Option<&Failure> {
        self.failed.as_ref()
    }

    /// Writes them behind what is there; versions and stamps never go back. They are durable after
    /// `sync`.
    pub fn append<E: Entries + ?Sized>(&mut self, entries: &E) -> Result<(), Failure> {
        let mut from = 0;
        while from < entries.count() {
            from += self.guarded(|log| log.append_some(entries, from))?;
        }
        Ok(())
    }

    /// What was appended is on the disk when this returns.
    pub fn sync(&mut self) -> Result<(), Failure> {
        self.guarded(Log::sync_last)
    }

    /// To be called when there is nothing else to do: prepares room, so that the next sync is short.
    /// True: something was done.
    pub fn rest(&mut self) -> Result<bool, Failure> {
        self.guarded(Log::zero_ahead)
    }

    /// Writes down what is durable, so that damage to the last records is not taken for a torn tail
    /// (V2). One more sync: for when it has been quiet for a while.
    pub fn note(&mut self) -> Result<(), Failure> {
        let early = mutant!("log-noted-before-sync");
        let synced = if early { self.tip.position } else { self.durable };
        if synced == self.anchor.synced {
            return Ok(());
        }
        let anchor = Anchor { synced, ..self.anchor };
        self.guarded(|log| log.write_anchor(anchor))
    }

    /// Ends in good order: all is durable, and that is known from then on.
    pub fn close(mut self) -> Result<(), Failure> {
        self.sync()?;
        self.note()
    }

    /// Does something with the log, unless it has failed; a failure is kept (W2).
    pub(super) fn guarded<T>(
        &mut self,
        what: impl FnOnce(&mut Log<D>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if let Some(failure) = &self.failed
            && !mutant!("log-goes-on-after-a-failure")
        {
            return Err(failure.clone());
        }
        let outcome = what(self);
        if let Err(failure) = &outcome {
            self.failed = Some(failure.clone());
        }
        outcome
    }

    /// Writes some of them, at least one: as many as the segment and one call take. How many.
    fn append_some<E: Entries + ?Sized>(
        &mut self,
        entries: &E,
        from: usize,
    ) -> Result<usize, Failure> {
        if self.at + record_bytes(entries.entry(from).payload.len() as u64) > self.last.bytes {
            self.rotate(record_bytes(entries.entry(from).payload.len() as u64))?;
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let (mut tip, mut bytes, mut taken) = (self.tip, 0, 0);
        let room = self.last.bytes - self.at;
        for (at, place) in (from..entries.count()).zip(self.heads.iter_mut()) {
            let entry = entries.entry(at);
            if bytes + record_bytes(entry.payload.len() as u64) > room {
                break;
            }
            assert_order(&tip, &entry);
            let unsynced = u32::try_from(tip.position - self.durable).expect("a bounded backlog");
            let head = Head::of(&entry, &tip, unsynced);
            *place = head.to_bytes(self.seed);
            (tip, bytes, taken) = (tip.after(&head), bytes + head.bytes(), taken + 1);
        }
        for (at, head) in self.heads[..taken].iter().enumerate() {
            let payload = entries.entry(from + at).payload;
            let pad = payload.len().next_multiple_of(8) - payload.len();
            slices[at * 3] = IoSlice::new(head);
            slices[at * 3 + 1] = IoSlice::new(payload);
            slices[at * 3 + 2] = IoSlice::new(&ZEROS[..pad]);
        }
        write_all(&self.disk, &self.last.file, &self.last.name, self.at, &mut slices[..taken * 3])?;
        (self.tip, self.at) = (tip, self.at + bytes);
        self.zeroed = self.zeroed.max(self.at);
        Ok(taken)
    }

    fn sync_last(&mut self) -> Result<(), Failure> {
        if self.durable == self.tip.position {
            return Ok(());
        }
        if mutant!("log-durable-before-sync") {
            self.durable = self.tip.position;
        }
        let synced = self.disk.sync(&self.last.file);
        let synced = match synced {
            Err(_) if mutant!("log-sync-retried") => self.disk.sync(&self.last.file),
            synced => synced,
        };
        synced.map_err(failing("sync", &self.last.name, self.at))?;
        self.durable = self.tip.position;
        Ok(())
    }

    /// Goes on in a new segment, in which a record of so many bytes has room (W3).
    fn rotate(&mut self, least: u64) -> Result<(), Failure> {
        if !mutant!("log-left-unsynced") {
            self.sync_last()?;
        }
        let bytes = self.options.segment_bytes.max(RECORDS_AT + least);
        if self.last.head.tip.position == self.tip.position {
            // It is empty and too short.
            let Segment { file, name, .. } = &self.last;
            self.disk.allocate(file, bytes).map_err(failing("have room for", name, bytes))?;
            self.disk.sync(file).map_err(failing("sync", name, bytes))?;
            self.last.bytes = bytes;
            return Ok(());
        }
        let previous = Some(self.last.head.tip.position);
        let head = SegmentHead {
            identity: self.anchor.identity,
            owner: self.anchor.owner,
            tip: self.tip,
            previous,
            bytes,
        };
        let next = make_segment(&self.disk, head)?;
        self.sealed.push(self.last.head.tip.position);
        (self.last, self.at, self.zeroed) = (next, RECORDS_AT, RECORDS_AT);
        Ok(())
    }

    fn zero_ahead(&mut self) -> Result<bool, Failure> {
        let ahead = self.options.zero_ahead_bytes;
        let upto = self.last.bytes.min(self.at + ahead);
        if self.zeroed >= upto || self.zeroed - self.at > ahead / 2 {
            return Ok(false);
        }
        write_zeros(&self.disk, &self.last.file, &self.last.name, self.zeroed, upto)?;
        self.disk.sync(&self.last.file).map_err(failing("sync", &self.last.name, upto))?;
        (self.zeroed, self.durable) = (upto, self.tip.position);
        Ok(true)
    }

    /// Writes the anchor so that both of its slots say so: what was begun is over, and must not begin
    /// again if the disk loses one of them.
    pub(super) fn write_anchor_twice(&mut self, anchor: Anchor) -> Result<(), Failure> {
        self.write_anchor(anchor)?;
        if mutant!("log-anchor-written-once") {
            return Ok(());
        }
        self.write_anchor(anchor)
    }

    /// Writes the anchor of the next generation into the slot that is not the newest, and syncs it.
    pub(super) fn write_anchor(&mut self, anchor: Anchor) -> Result<(), Failure> {
        let generation = self.anchor.generation + 1 + u64::from(mutant!("log-anchor-written-over"));
        let anchor = Anchor { generation, ..anchor };
        put_anchor(&self.disk, &self.anchor_file, anchor)?;
        self.anchor = anchor;
        Ok(())
    }
}

/// Ours to keep: the log is one history.
fn assert_order(tip: &Tip, entry: &Entry<'_>) {
    let label = &entry.label;
    let rises = label.version >= tip.version && label.stamp >= tip.stamp;
    assert!(rises || !label.kind.is_agreed(), "{:?} after {:?}", label.version, tip.version);
}

pub(super) fn put_anchor<D: Disk>(disk: &D, file: &D::File, anchor: Anchor) -> Result<(), Failure> {
    let bytes = anchor.to_bytes();
    write_all(disk, file, Anchor::NAME, anchor.slot(), &mut [IoSlice::new(&bytes)])?;
    disk.sync(file).map_err(failing("sync", Anchor::NAME, anchor.slot()))
}

/// A new segment, whole on the disk (W3).
pub(super) fn make_segment<D: Disk>(
    disk: &D,
    head: SegmentHead,
) -> Result<Segment<D::File>, Failure> {
    let name = SegmentHead::name(head.tip.position);
    let file = disk.create(&name).map_err(failing("make", &name, 0))?;
    disk.allocate(&file, head.bytes).map_err(failing("have room for", &name, head.bytes))?;
    write_all(disk, &file, &name, 0, &mut [IoSlice::new(&head.to_bytes())])?;
    if !mutant!("log-segment-not-synced") {
        disk.sync(&file).map_err(failing("sync", &name, 0))?;
    }
    if !mutant!("log-name-not-synced") {
        disk.sync_names().map_err(failing("sync the name of", &name, 0))?;
    }
    Ok(Segment { file, name, bytes: head.bytes, head })
}

/// Writes all of it. What a call leaves over is written by the next one, which says why if it cannot.
pub(super) fn write_all<D: Disk>(
    disk: &D,
    file: &D::File,
    name: &str,
    mut at: u64,
    mut slices: &mut [IoSlice<'_>],
) -> Result<(), Failure> {
    IoSlice::advance_slices(&mut slices, 0); // leaves out what is empty
    while !slices.is_empty() {
        let written = disk.write(file, at, slices).map_err(failing("write", name, at))?;
        if written == 0 {
            return Err(failing("write", name, at)(rustix::io::Errno::IO));
        }
        if mutant!("log-short-write-ignored") {
            return Ok(());
        }
        at += written as u64;
        IoSlice::advance_slices(&mut slices, written);
    }
    Ok(())
}

pub(super) fn write_zeros<D: Disk>(
    disk: &D,
    file: &D::File,
    name: &str,
    mut from: u64,
    upto: u64,
) -> Result<(), Failure> {
    while from < upto {
        let len = (upto - from).min(ZEROS.len() as u64);
        write_all(disk, file, name, from, &mut [IoSlice::new(&ZEROS[..len as usize])])?;
        from += len;
    }
    Ok(())
}
