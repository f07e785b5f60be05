// SPDX-License-Identifier: MIT OR Apache-2.0
//! Putting back what a disk has lost, from a peer's records, in place.
//!
//! What members agree on is in the chain, so the records are known to be those that were lost: the
//! last one's chain is what the next good record, or segment, follows on. Confirmations are each
//! member's own: for each that was lost a filler stands at the end of the range, in which other records
//! move up; and the application is shown again what it confirmed there.
//!
//! The log is closed meanwhile. Who is stopped in the middle begins anew: the damage is still one.

use super::Options;
use super::disk::Disk;
use super::flaw::{Damage, Refusal, Why, failing};
use super::format::{
    Anchor, Entry, HEAD_BYTES, Head, Kind, Label, RECORDS_AT, SegmentHead, Tip, seed_of,
};
use super::open::{lock, open_anchor, segments_of};
use super::segment::{Look, Segment, Window, look, read_exactly};
use super::writer::{put_anchor, write_all, write_zeros};
use crate::mutant;
use rustix::io::Errno;
use std::io::IoSlice;

/// Overwrites what is damaged with these agreed records of a peer: all of those positions, in order,
/// without confirmations. Then open, or read on: there may be more.
pub fn replace<D: Disk>(
    disk: &D,
    options: &Options,
    damage: &Damage,
    records: &[Entry<'_>],
) -> Result<(), Refusal> {
    let mut repair = Repair::begin(disk, options)?;
    match damage.why {
        Why::Preface => repair.preface(damage),
        _ => repair.records(damage, records),
    }
}

/// Gives up the damaged records and all behind them: the log ends there when it is opened next. For
/// who gets what is missing from a peer as a member that was away does.
pub fn shorten<D: Disk>(disk: &D, options: &Options, damage: &Damage) -> Result<(), Refusal> {
    let repair = Repair::begin(disk, options)?;
    let from = damage.positions.start;
    if from < repair.anchor.begins_at {
        return Err(Refusal::Trimmed { begins_at: repair.anchor.begins_at });
    }
    let (synced, generation) = (repair.anchor.synced.min(from), repair.anchor.generation + 1);
    let anchor = Anchor { erase_from: Some(from), synced, generation, ..repair.anchor };
    Ok(put_anchor(disk, &repair.anchor_file, anchor)?)
}

struct Repair<'d, D: Disk> {
    disk: &'d D,
    anchor: Anchor,
    anchor_file: D::File,
    segments: Vec<u64>,
    _lock: D::File,
}

impl<'d, D: Disk> Repair<'d, D> {
    fn begin(disk: &'d D, options: &Options) -> Result<Repair<'d, D>, Refusal> {
        let _lock = lock(disk)?;
        let names = disk.names().map_err(failing("list", "the directory", 0))?;
        let (anchor_file, anchor) = open_anchor(disk, &names)?.ok_or(Refusal::NoAnchor)?;
        if anchor.owner != options.owner {
            let (owner, expected) = (anchor.owner, options.owner);
            return Err(Refusal::Foreign { owner, expected });
        }
        Ok(Repair { disk, anchor, anchor_file, segments: segments_of(&names), _lock })
    }

    /// A segment's head again, from its first record and the segment before.
    fn preface(&mut self, damage: &Damage) -> Result<(), Refusal> {
        let first = damage.positions.start;
        let at = self.segments.iter().position(|other| *other == first);
        let at = at.ok_or(Refusal::Unfit("there is no such segment"))?;
        let file = self.disk.open(&damage.file).map_err(failing("open", &damage.file, 0))?;
        let bytes = self.disk.bytes(&file).map_err(failing("look at", &damage.file, 0))?;
        let previous = at.checked_sub(1).map(|at| self.segments[at]);
        let tip = match previous {
            Some(previous) => self.end_of(previous)?,
            // Versions and stamps before it are known to nobody: the least are right for searches.
            None => self.before_first(&file, &damage.file)?,
        };
        if tip.position != first {
            return Err(Refusal::Unfit("the segment before it ends elsewhere"));
        }
        let Anchor { identity, owner, .. } = self.anchor;
        let head = SegmentHead { identity, owner, tip, previous, bytes }.to_bytes();
        write_all(self.disk, &file, &damage.file, 0, &mut [IoSlice::new(&head)])?;
        Ok(self.disk.sync(&file).map_err(failing("sync", &damage.file, 0))?)
    }

    fn before_first(&self, file: &D::File, name: &str) -> Result<Tip, Refusal> {
        let bytes = read_exactly(self.disk, file, name, RECORDS_AT, HEAD_BYTES as usize)?;
        let head = Head::parse(&bytes, seed_of(self.anchor.identity));
        let head = head.ok_or(Refusal::Unfit("the first record is lost, too: rejoin without"))?;
        Ok(Tip { position: head.position, chain: head.before, ..Tip::default() })
    }

    fn end_of(&self, first: u64) -> Result<Tip, Refusal> {
        let segment = self.segment(first)?;
        Ok(self.walk(&segment, u64::MAX)?.1)
    }

    fn segment(&self, first: u64) -> Result<Segment<D::File>, Refusal> {
        match Segment::open(self.disk, first, &self.anchor)? {
            Some(Ok(segment)) => Ok(segment),
            _ => Err(Refusal::Unfit("the segment's head is damaged: have that repaired first")),
        }
    }

    /// Goes over good records, up to that place; where the next one is to be.
    fn walk(&self, segment: &Segment<D::File>, upto: u64) -> Result<(u64, Tip), Refusal> {
        let (mut at, mut tip) = (RECORDS_AT, segment.head.tip);
        let (mut window, seed) = (Window::new(), seed_of(self.anchor.identity));
        while at < upto {
            match look(&mut window, self.disk, segment, at, &tip, seed)? {
                Look::Record(head) => (at, tip) = (at + head.bytes(), tip.after(&head)),
                Look::Bad(_) => break,
            }
        }
        Ok((at, tip))
    }

    fn records(&mut self, damage: &Damage, records: &[Entry<'_>]) -> Result<(), Refusal> {
        let first = self.segments.iter().copied().filter(|at| *at <= damage.positions.start).max();
        let first = first.ok_or(Refusal::Unfit("there is no such segment"))?;
        let segment = self.segment(first)?;
        let (at, before) = self.walk(&segment, damage.offset)?;
        if at != damage.offset || before.position != damage.positions.start {
            return Err(Refusal::Unfit("the damage is elsewhere"));
        }
        let next = self.next_chain(&segment, damage)?;
        let bytes: u64 = records
            .iter()
            .map(|entry| super::format::record_bytes(entry.payload.len() as u64))
            .sum();
        let room = damage.upto.unwrap_or(segment.bytes) - at;
        let lost = damage.positions.end - damage.positions.start;
        let fillers = lost.checked_sub(records.len() as u64);
        let fillers = fillers.ok_or(Refusal::Unfit("there are more than were lost"))?;
        let spare = room.checked_sub(bytes).ok_or(Refusal::Unfit("they are longer"))?;
        let exact = damage.upto.is_some();
        if spare < fillers * HEAD_BYTES || exact && fillers == 0 && spare > 0 {
            return Err(Refusal::Unfit("their lengths are others"));
        }
        let (lengths, end) = self.laid_out(records, &before, fillers, spare, exact)?;
        if end.chain != next && !mutant!("log-repair-unchained") {
            return Err(Refusal::Unfit("they are not what was lost"));
        }
        if !exact {
            write_zeros(self.disk, &segment.file, &segment.name, at, segment.bytes)?;
        }
        let mut place = at;
        for (head, payload) in lengths {
            let head_bytes = head.to_bytes(seed_of(self.anchor.identity));
            let padded = (head.bytes() - HEAD_BYTES) as usize - payload.len();
            let zeros = vec![0; padded];
            let mut slices =
                [IoSlice::new(&head_bytes), IoSlice::new(payload), IoSlice::new(&zeros)];
            write_all(self.disk, &segment.file, &segment.name, place, &mut slices)?;
            place += head.bytes();
        }
        Ok(self.disk.sync(&segment.file).map_err(failing("sync", &segment.name, at))?)
    }

    /// Heads and payloads as they are to lie there, fillers last; and where they end.
    #[allow(clippy::type_complexity, reason = "pairs")]
    fn laid_out<'e>(
        &self,
        records: &[Entry<'e>],
        before: &Tip,
        fillers: u64,
        spare: u64,
        exact: bool,
    ) -> Result<(Vec<(Head, &'e [u8])>, Tip), Refusal> {
        static NOTHING: [u8; 0] = [];
        let (mut tip, mut laid) = (*before, Vec::new());
        for entry in records {
            if !entry.label.kind.is_agreed() {
                return Err(Refusal::Unfit("a confirmation is each member's own"));
            }
            let head = Head::of(entry, &tip, 0);
            tip = tip.after(&head);
            laid.push((head, entry.payload));
        }
        for at in 0..fillers {
            let rest = spare - fillers * HEAD_BYTES;
            let len = if exact && at + 1 == fillers { rest } else { 0 };
            let zeros = vec![0; usize::try_from(len).expect("less than a segment")];
            let label = Label {
                kind: Kind::Filler,
                flags: 0,
                rank: 0,
                lane: 0,
                seat: 0,
                version: tip.version,
                stamp: tip.stamp,
            };
            let head = Head::of(&Entry { label, payload: &zeros }, &tip, 0);
            tip = tip.after(&head);
            laid.push((head, &NOTHING[..]));
        }
        Ok((laid, tip))
    }

    /// The chain that what follows on the damage follows on.
    fn next_chain(&self, segment: &Segment<D::File>, damage: &Damage) -> Result<u32, Refusal> {
        let seed = seed_of(self.anchor.identity);
        if let Some(upto) = damage.upto {
            let (file, name) = (&segment.file, &segment.name);
            let bytes = read_exactly(self.disk, file, name, upto, HEAD_BYTES as usize)?;
            let head = Head::parse(&bytes, seed);
            let head = head.filter(|head| head.position == damage.positions.end);
            return head.map(|head| head.before).ok_or(Refusal::Unfit("nothing good follows"));
        }
        match Segment::open(self.disk, damage.positions.end, &self.anchor)? {
            Some(Ok(next)) => Ok(next.head.tip.chain),
            Some(Err(_)) => Err(Refusal::Unfit("the next segment is damaged, too")),
            None => {
                Err(failing("find what follows on", &segment.name, damage.offset)(Errno::NOENT)
                    .into())
            }
        }
    }
}
