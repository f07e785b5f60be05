// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opening a log: making one, or finding the end of what is there.
//!
//! O1  The last segment is synced, then forgotten by the cache, before it is read: what is found is on
//!     the disk, also after a process that died before its sync, and after a sync that failed (D3).
//! O2  Only the last segment can have a torn tail (W3): it alone is read here. The others are known by
//!     their heads, each of which names the one before; `Reader` verifies what is in them.
//! O3  What a log says that was begun (`in_use`, `erase_from`, `begins_at`) is brought to its end
//!     before anything else is done; then both slots of the anchor say that it is over.
//!
//! Cost: the last segment is read once.

use super::Options;
use super::disk::{Disk, NoLock};
use super::flaw::{Damage, Failure, Refusal, Why, failing};
use super::format::{Anchor, HEAD_BYTES, Head, RECORDS_AT, SegmentHead, Tip, seed_of};
use super::segment::{Behind, Look, Segment, Window, look, look_behind, read_anchor, read_exactly};
use super::writer::{Log, make_segment, put_anchor, write_zeros};
use crate::mutant;

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    /// It was made now.
    pub made: bool,
    /// What was behind the last good record, and is erased.
    pub torn: Option<Torn>,
    pub tip: Tip,
}

/// A torn tail: nothing of it was ever reported durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Torn {
    pub file: String,
    pub offset: u64,
    pub bytes: u64,
    /// Where the log ends now.
    pub position: u64,
}

impl std::fmt::Display for Torn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Torn { file, offset, bytes, position } = self;
        write!(
            f,
            "{bytes} bytes from byte {offset} of {file} on are no whole records and were never \
             durable: they are erased, the log goes on at record {position}"
        )
    }
}

impl<D: Disk> Log<D> {
    /// Opens the log in that directory, or makes one. May take as long as reading one segment.
    pub fn open(disk: D, options: Options) -> Result<(Log<D>, Opened), Refusal> {
        options.check();
        let lock = lock(&disk)?;
        let names = disk.names().map_err(failing("list", "the directory", 0))?;
        let segments = segments_of(&names);
        let found = open_anchor(&disk, &names)?;
        match found {
            Some((file, anchor)) if anchor.in_use => {
                if anchor.owner != options.owner {
                    let (owner, expected) = (anchor.owner, options.owner);
                    return Err(Refusal::Foreign { owner, expected });
                }
                Found { disk, options, anchor, file, lock }.open(segments)
            }
            None if !segments.is_empty() => Err(Refusal::NoAnchor),
            _ => make(disk, options, lock, &names),
        }
    }
}

pub(super) fn lock<D: Disk>(disk: &D) -> Result<D::File, Refusal> {
    disk.lock().map_err(|refused| match refused {
        NoLock::Held { pid } => Refusal::Locked { pid },
        NoLock::Failed(cause) => failing("lock", "the directory", 0)(cause).into(),
    })
}

/// First positions, ascending.
pub(super) fn segments_of(names: &[String]) -> Vec<u64> {
    let mut segments: Vec<u64> =
        names.iter().filter_map(|name| SegmentHead::first_of(name)).collect();
    segments.sort_unstable();
    segments
}

/// `None`: there is none, or none that is whole.
pub(super) fn open_anchor<D: Disk>(
    disk: &D,
    names: &[String],
) -> Result<Option<(D::File, Anchor)>, Refusal> {
    if !names.iter().any(|name| name == Anchor::NAME) {
        return Ok(None);
    }
    let file = disk.open(Anchor::NAME).map_err(failing("open", Anchor::NAME, 0))?;
    settle(disk, &file, Anchor::NAME)?;
    Ok(read_anchor(disk, &file)?.map(|anchor| (file, anchor)))
}

/// What is read of it from now on is on the disk (O1).
fn settle<D: Disk>(disk: &D, file: &D::File, name: &str) -> Result<(), Failure> {
    if !mutant!("log-opened-unsynced") {
        disk.sync(file).map_err(failing("sync", name, 0))?;
    }
    if !mutant!("log-cache-believed") {
        disk.forget(file).map_err(failing("forget", name, 0))?;
    }
    Ok(())
}

/// A new log. The anchor comes first and says that it is being made; until it says otherwise nothing
/// was promised, and who finds it so begins anew.
fn make<D: Disk>(
    disk: D,
    options: Options,
    lock: D::File,
    names: &[String],
) -> Result<(Log<D>, Opened), Refusal> {
    // Segments first: one without an anchor would be taken for a log that has lost it.
    for first in segments_of(names) {
        let name = SegmentHead::name(first);
        disk.remove(&name).map_err(failing("remove", &name, 0))?;
        disk.sync_names().map_err(failing("sync the names of", "the directory", 0))?;
    }
    if names.iter().any(|name| name == Anchor::NAME) {
        disk.remove(Anchor::NAME).map_err(failing("remove", Anchor::NAME, 0))?;
    }
    let Options { identity, owner, segment_bytes, .. } = options;
    let anchor = Anchor {
        in_use: false,
        generation: 1,
        identity,
        owner,
        begins_at: 0,
        synced: 0,
        erase_from: None,
    };
    let file = disk.create(Anchor::NAME).map_err(failing("make", Anchor::NAME, 0))?;
    let bytes = 2 * Anchor::SLOT_BYTES;
    disk.allocate(&file, bytes).map_err(failing("have room for", Anchor::NAME, bytes))?;
    put_anchor(&disk, &file, anchor)?;
    disk.sync_names().map_err(failing("sync the name of", Anchor::NAME, 0))?;
    let tip = Tip { position: 0, ..options.origin };
    let head = SegmentHead { identity, owner, tip, previous: None, bytes: segment_bytes };
    let last = make_segment(&disk, head)?;
    let mut log = begin(disk, options, anchor, file, lock, Vec::new(), last, (RECORDS_AT, tip));
    log.write_anchor_twice(Anchor { in_use: true, ..anchor })?;
    Ok((log, Opened { made: true, torn: None, tip }))
}

#[allow(clippy::too_many_arguments, reason = "the parts of one value")]
fn begin<D: Disk>(
    disk: D,
    options: Options,
    anchor: Anchor,
    anchor_file: D::File,
    lock: D::File,
    sealed: Vec<u64>,
    last: Segment<D::File>,
    (at, tip): (u64, Tip),
) -> Log<D> {
    Log {
        disk,
        options,
        seed: seed_of(anchor.identity),
        anchor,
        anchor_file,
        sealed,
        last,
        at,
        zeroed: at,
        tip,
        durable: tip.position,
        failed: None,
        heads: Log::<D>::heads(),
        _lock: lock,
    }
}

/// A log that is there.
struct Found<D: Disk> {
    disk: D,
    options: Options,
    anchor: Anchor,
    file: D::File,
    lock: D::File,
}

impl<D: Disk> Found<D> {
    fn open(self, mut segments: Vec<u64>) -> Result<(Log<D>, Opened), Refusal> {
        let Anchor { begins_at, erase_from, identity, .. } = self.anchor;
        let seed = seed_of(identity);
        self.remove_what_is_void(&mut segments)?;
        let last = self.open_segments(&mut segments)?;
        let mut window = Window::new();
        let (mut at, mut tip) = (RECORDS_AT, last.head.tip);
        let why = loop {
            if Some(tip.position) == erase_from {
                break Why::Missing;
            }
            match look(&mut window, &self.disk, &last, at, &tip, seed)? {
                Look::Record(head) => (at, tip) = (at + head.bytes(), tip.after(&head)),
                Look::Bad(why) => break why,
            }
        };
        let behind = look_behind(&mut window, &self.disk, &last, at, tip.position, seed)?;
        if erase_from.is_none_or(|from| tip.position < from) {
            self.no_damage(&last, (at, &tip), why, &behind)?;
        }
        let erased = erase_from.is_some();
        let torn = (behind.end > at && !erased).then(|| Torn {
            file: last.name.clone(),
            offset: at,
            bytes: behind.end - at,
            position: tip.position,
        });
        if behind.end > at && !mutant!("log-tail-not-erased") {
            write_zeros(&self.disk, &last.file, &last.name, at, behind.end)?;
            self.disk.sync(&last.file).map_err(failing("sync", &last.name, at))?;
        }
        self.disk.sync_names().map_err(failing("sync the names of", "the directory", 0))?;
        assert!(tip.position >= begins_at, "a log begins at a record that it has, or at its end");
        let Found { disk, options, anchor, file, lock } = self;
        let mut log = begin(disk, options, anchor, file, lock, segments, last, (at, tip));
        let anchor = Anchor { synced: tip.position, erase_from: None, ..anchor };
        match erased {
            true => log.write_anchor_twice(anchor)?,
            false => log.write_anchor(anchor)?,
        }
        Ok((log, Opened { made: false, torn, tip }))
    }

    /// Segments that are trimmed, or are to be erased (O3).
    fn remove_what_is_void(&self, segments: &mut Vec<u64>) -> Result<(), Refusal> {
        let Anchor { begins_at, erase_from, .. } = self.anchor;
        let trimmed = segments.iter().filter(|first| **first <= begins_at).count();
        let kept = segments.split_off(trimmed.saturating_sub(1));
        let upto = erase_from.unwrap_or(u64::MAX);
        let valid = kept.iter().filter(|first| **first <= upto).count();
        let void = segments.iter().chain(&kept[valid..]);
        for first in void {
            let name = SegmentHead::name(*first);
            self.disk.remove(&name).map_err(failing("remove", &name, 0))?;
        }
        *segments = kept[..valid].to_vec();
        Ok(())
    }

    /// Opens the last one; of the others the heads are checked. The last one's first position is
    /// taken from `segments`.
    fn open_segments(&self, segments: &mut Vec<u64>) -> Result<Segment<D::File>, Refusal> {
        let begins_at = self.anchor.begins_at;
        let mut last: Option<Segment<D::File>> = None;
        let missing = |from: u64, upto: u64| {
            let file = SegmentHead::name(from);
            let positions = from..upto;
            let why = Why::Missing;
            Refusal::Damaged(Damage { file, offset: 0, upto: None, positions, why })
        };
        for (at, first) in segments.clone().into_iter().enumerate() {
            let is_last = at + 1 == segments.len();
            if is_last {
                // Its head, too, may be in the cache only.
                let name = SegmentHead::name(first);
                let file = self.disk.open(&name).map_err(failing("open", &name, 0))?;
                settle(&self.disk, &file, &name)?;
            }
            match Segment::open(&self.disk, first, &self.anchor)? {
                Some(Ok(segment)) => {
                    let before = last.as_ref().map(|last| last.head.tip.position);
                    let follows = match before {
                        Some(before) => segment.head.previous == Some(before),
                        None => first <= begins_at,
                    };
                    if !follows {
                        return Err(missing(before.unwrap_or(begins_at), first));
                    }
                    last = Some(segment);
                }
                // Nothing is written to a segment before its head is on the disk (W3).
                Some(Err(file)) if is_last && last.is_some() && !self.begins(&file, first)? => {
                    let name = SegmentHead::name(first);
                    self.disk.remove(&name).map_err(failing("remove", &name, 0))?;
                    segments.pop();
                }
                Some(Err(_)) => {
                    let (file, positions) = (SegmentHead::name(first), first..first);
                    let (upto, why) = (Some(RECORDS_AT), Why::Preface);
                    let damage = Damage { file, offset: 0, upto, positions, why };
                    return Err(Refusal::Damaged(damage));
                }
                None => return Err(missing(first, first + 1)),
            }
        }
        segments.pop();
        last.ok_or_else(|| missing(begins_at, self.anchor.synced.max(begins_at + 1)))
    }

    /// Whether a record of this log is where that segment's first one would be.
    fn begins(&self, file: &D::File, first: u64) -> Result<bool, Failure> {
        let name = SegmentHead::name(first);
        let bytes = read_exactly(&self.disk, file, &name, RECORDS_AT, HEAD_BYTES as usize)?;
        let head = Head::parse(&bytes, seed_of(self.anchor.identity));
        Ok(head.is_some_and(|head| head.position == first))
    }

    /// Whether what ends the log is its end, or damage (V2).
    fn no_damage(
        &self,
        last: &Segment<D::File>,
        (at, tip): (u64, &Tip),
        why: Why,
        behind: &Behind,
    ) -> Result<(), Refusal> {
        let synced = self.anchor.synced.max(self.anchor.begins_at);
        let promised = behind.claimed || synced > tip.position;
        if !promised || mutant!("log-damage-is-a-tail") {
            return Ok(());
        }
        let next = behind.next;
        let end = next.map_or(synced.max(tip.position + 1), |(_, position)| position);
        Err(Refusal::Damaged(Damage {
            file: last.name.clone(),
            offset: at,
            upto: next.map(|(place, _)| place),
            positions: tip.position..end,
            why: if behind.end == at { Why::Missing } else { why },
        }))
    }
}
