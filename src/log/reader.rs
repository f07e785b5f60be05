// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading a log, also while it is written: from a position, a version or a point of time on.
//!
//! R1  Nothing at or beyond the bound that the caller gives is looked at: that is the writer's durable
//!     frontier, so what is read was promised, and a record that is not good is damage.
//! R2  Each record follows on the one before (V1), across segments too: who reads all has verified all.
//!
//! Cost: one read of the disk for each MiB, one pass for the checksums; memory for the longest record.

use super::disk::Disk;
use super::flaw::{Damage, Refusal, Why, failing};
use super::format::{
    Anchor, HEAD_BYTES, Head, Label, RECORDS_AT, SegmentHead, Tip, Version, seed_of,
};
use super::open::segments_of;
use super::segment::{Look, Segment, Window, look, look_behind, read_anchor};
use super::stamp::Stamp;
use crate::mutant;

/// Where reading begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// At the first record that is there.
    First,
    Position(u64),
    /// At the first agreed record of this version or a later one.
    Version(Version),
    /// At the first agreed record of this stamp or a later one.
    Stamp(Stamp),
}

/// A record, where it was read to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    pub position: u64,
    pub label: Label,
    pub payload: &'a [u8],
    /// Of the record, if it is agreed: two members with the same chain have the same history.
    pub chain: u32,
}

pub struct Reader<D: Disk> {
    disk: D,
    anchor: Anchor,
    from: Start,
    segment: Segment<D::File>,
    window: Window,
    at: u64,
    tip: Tip,
}

impl<D: Disk> Reader<D> {
    /// A reader of that log, which may be open in this process or another one. Reads the heads of
    /// the segments from the last one back to where it begins.
    pub fn open(disk: D, from: Start) -> Result<Reader<D>, Refusal> {
        // A segment may be trimmed between two looks: then everything is looked at again.
        let mut again = 0;
        loop {
            let anchor = anchor_of(&disk)?;
            if let Start::Position(position) = from
                && position < anchor.begins_at
            {
                return Err(Refusal::Trimmed { begins_at: anchor.begins_at });
            }
            if let Some(segment) = first_segment(&disk, &anchor, from)? {
                let tip = segment.head.tip;
                let window = Window::new();
                return Ok(Reader { disk, anchor, from, segment, window, at: RECORDS_AT, tip });
            }
            again += 1;
            if again > 100 {
                return Err(missing(anchor.begins_at));
            }
        }
    }

    /// The next record below position `upto`; `None`: there is none yet. Ask again when the frontier
    /// has moved.
    pub fn next(&mut self, upto: u64) -> Result<Option<Record<'_>>, Refusal> {
        loop {
            if self.tip.position >= upto {
                return Ok(None);
            }
            let head = self.step()?;
            let begun = match self.from {
                Start::First => head.position >= self.anchor.begins_at,
                Start::Position(position) => head.position >= position,
                Start::Version(version) => {
                    head.label.kind.is_agreed() && head.label.version >= version
                }
                Start::Stamp(stamp) => head.label.kind.is_agreed() && head.label.stamp >= stamp.0,
            };
            if begun && head.position >= self.anchor.begins_at {
                self.from = Start::First;
                return Ok(Some(self.record(&head)?));
            }
        }
    }

    /// Verifies what is left of the log below `upto`, some bytes of it at a time; whether that is
    /// all. For sealed segments in the background.
    pub fn verify(&mut self, upto: u64, bytes: u64) -> Result<bool, Refusal> {
        let mut left = bytes;
        while self.tip.position < upto && left > 0 {
            left = left.saturating_sub(self.step()?.bytes());
        }
        Ok(self.tip.position >= upto)
    }

    /// Where it stands: the end of what was read.
    pub fn tip(&self) -> Tip {
        self.tip
    }

    /// Goes over one record, which must be there.
    fn step(&mut self) -> Result<Head, Refusal> {
        let seed = seed_of(self.anchor.identity);
        let Reader { disk, segment, window, at, tip, .. } = self;
        let mut found = look(window, disk, segment, *at, tip, seed)?;
        if let Look::Bad(_) = found {
            window.clear(); // it was read before it was written, perhaps
            found = look(window, disk, segment, *at, tip, seed)?;
        }
        if let Look::Bad(_) = found
            && let Some(next) = next_segment(disk, &self.anchor, segment, tip)?
        {
            window.clear();
            (*segment, *at) = (next, RECORDS_AT);
            found = look(window, disk, segment, *at, tip, seed)?;
        }
        match found {
            Look::Record(head) => {
                (*at, *tip) = (*at + head.bytes(), tip.after(&head));
                Ok(head)
            }
            Look::Bad(why) => Err(self.lost(why)?),
        }
    }

    /// The record that was stepped over last.
    fn record(&mut self, head: &Head) -> Result<Record<'_>, Refusal> {
        let (from, len) = (self.at - head.bytes(), head.len as usize);
        let Segment { file, name, .. } = &self.segment;
        let bytes = self.window.get(&self.disk, file, name, from, HEAD_BYTES as usize + len)?;
        let payload = bytes.get(HEAD_BYTES as usize..).unwrap_or(&[]);
        let Tip { chain, .. } = self.tip;
        Ok(Record { position: head.position, label: head.label, payload, chain })
    }

    /// Why there is nothing: it was trimmed meanwhile, or it is damaged.
    fn lost(&mut self, why: Why) -> Result<Refusal, Refusal> {
        let anchor = anchor_of(&self.disk)?;
        if anchor.begins_at > self.tip.position {
            return Ok(Refusal::Trimmed { begins_at: anchor.begins_at });
        }
        let (seed, position) = (seed_of(anchor.identity), self.tip.position);
        let Reader { disk, segment, window, at, .. } = self;
        let behind = look_behind(window, disk, segment, *at, position, seed)?;
        // Without a good head behind it all is lost up to the next segment.
        let names = disk.names().map_err(failing("list", "the directory", 0))?;
        let later = segments_of(&names).into_iter().find(|first| *first > position);
        let end = behind.next.map(|(_, position)| position).or(later).unwrap_or(position + 1);
        let (file, offset) = (segment.name.clone(), *at);
        let upto = behind.next.map(|(place, _)| place);
        Ok(Refusal::Damaged(Damage { file, offset, upto, positions: position..end, why }))
    }
}

/// The position behind the last record below `upto` whose stamp is not above that one: the state as
/// of then. The caller waits until no earlier stamp can come.
pub fn position_as_of<D: Disk>(disk: D, stamp: Stamp, upto: u64) -> Result<u64, Refusal> {
    let mut reader = Reader::open(disk, Start::Stamp(Stamp(stamp.0.saturating_add(1))))?;
    Ok(reader.next(upto)?.map_or(upto, |record| record.position))
}

fn anchor_of<D: Disk>(disk: &D) -> Result<Anchor, Refusal> {
    let file = disk.open(Anchor::NAME).map_err(failing("open", Anchor::NAME, 0))?;
    read_anchor(disk, &file)?.ok_or(Refusal::NoAnchor)
}

fn missing(first: u64) -> Refusal {
    let (file, positions) = (SegmentHead::name(first), first..first + 1);
    Refusal::Damaged(Damage { file, offset: 0, upto: None, positions, why: Why::Missing })
}

fn bad_preface(first: u64) -> Refusal {
    let (file, positions, upto) = (SegmentHead::name(first), first..first, Some(RECORDS_AT));
    Refusal::Damaged(Damage { file, offset: 0, upto, positions, why: Why::Preface })
}

/// The last segment that begins before what is looked for, or the first one. `None`: look again.
fn first_segment<D: Disk>(
    disk: &D,
    anchor: &Anchor,
    from: Start,
) -> Result<Option<Segment<D::File>>, Refusal> {
    let names = disk.names().map_err(failing("list", "the directory", 0))?;
    let mut found = None;
    for first in segments_of(&names).into_iter().rev() {
        let segment = match Segment::open(disk, first, anchor)? {
            Some(Ok(segment)) => segment,
            None => return Ok(None),
            // One that is being made has no head yet.
            Some(Err(_)) if found.is_none() => continue,
            Some(Err(_)) => return Err(bad_preface(first)),
        };
        let tip = segment.head.tip;
        let skip = mutant!("log-reader-begins-late");
        let before = match from {
            Start::First => first <= anchor.begins_at,
            Start::Position(position) => first <= position,
            Start::Version(version) => tip.version < version || skip && tip.version == version,
            Start::Stamp(stamp) => tip.stamp < stamp.0,
        };
        let begins = first <= anchor.begins_at;
        found = Some(segment);
        if before || begins {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The segment that begins where this one ends, if there is one.
fn next_segment<D: Disk>(
    disk: &D,
    anchor: &Anchor,
    segment: &Segment<D::File>,
    tip: &Tip,
) -> Result<Option<Segment<D::File>>, Refusal> {
    let first = tip.position;
    if first == segment.head.tip.position {
        return Ok(None);
    }
    match Segment::open(disk, first, anchor)? {
        Some(Ok(next)) if next.head.tip == *tip => Ok(Some(next)),
        Some(_) => Err(bad_preface(first)),
        None => Ok(None),
    }
}
