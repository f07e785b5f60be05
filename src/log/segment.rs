// SPDX-License-Identifier: MIT OR Apache-2.0
//! A segment that is open, and looking at what is in it: the one place where a record is believed.

use super::disk::Disk;
use super::flaw::{Failure, Refusal, Why, failing};
use super::format::{
    Anchor, HEAD_BYTES, Head, PREFACE_BYTES, Preface, RECORD_ALIGN, RECORDS_AT, SegmentHead, Tip,
};
use crate::mutant;
use crc32c::crc32c;

/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;

pub(super) struct Segment<F> {
    pub file: F,
    pub name: String,
    pub head: SegmentHead,
    /// Of the file, which may be cut short.
    pub bytes: u64,
}

impl<F> Segment<F> {
    /// `Ok(None)`: there is no such file. `Err(Ok(file))`: its head is bad.
    pub fn open<D: Disk<File = F>>(
        disk: &D,
        first: u64,
        anchor: &Anchor,
    ) -> Result<Option<Result<Segment<F>, F>>, Refusal> {
        let name = SegmentHead::name(first);
        let file = match disk.open(&name) {
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            outcome => outcome.map_err(failing("open", &name, 0))?,
        };
        let bytes = disk.bytes(&file).map_err(failing("look at", &name, 0))?;
        let preface = read_exactly(disk, &file, &name, 0, PREFACE_BYTES)?;
        match SegmentHead::parse(&preface) {
            Preface::Foreign(version) => Err(Refusal::Format { file: name, version }),
            Preface::Good(head) if head.tip.position == first => {
                if head.identity != anchor.identity {
                    let (owner, expected) = (head.owner, anchor.owner);
                    return Err(Refusal::Foreign { owner, expected });
                }
                Ok(Some(Ok(Segment { file, name, head, bytes })))
            }
            _ => Ok(Some(Err(file))),
        }
    }
}

/// So many bytes, or fewer where the file ends.
pub(super) fn read_exactly<D: Disk>(
    disk: &D,
    file: &D::File,
    name: &str,
    at: u64,
    len: usize,
) -> Result<Vec<u8>, Failure> {
    let mut window = Window::new();
    Ok(window.get(disk, file, name, at, len)?.to_vec())
}

/// The anchor as it is on the disk: of its two slots the newer one that is whole.
pub(super) fn read_anchor<D: Disk>(disk: &D, file: &D::File) -> Result<Option<Anchor>, Refusal> {
    let mut found: Option<Anchor> = None;
    for at in [0, Anchor::SLOT_BYTES] {
        match Anchor::parse(&read_exactly(disk, file, Anchor::NAME, at, PREFACE_BYTES)?) {
            Preface::Good(anchor) if anchor.slot() == at => {
                found = found.filter(|other| other.generation > anchor.generation).or(Some(anchor));
            }
            Preface::Foreign(version) => {
                return Err(Refusal::Format { file: Anchor::NAME.into(), version });
            }
            _ => {}
        }
    }
    Ok(found)
}

/// A part of a file, in memory. It is as long as the longest record that it had to hold.
pub(super) struct Window {
    bytes: Vec<u8>,
    from: u64,
    len: usize,
}

impl Window {
    pub fn new() -> Window {
        Window { bytes: Vec::new(), from: 0, len: 0 }
    }

    /// Nothing of it is known any more.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Bytes from `at` on; fewer where the file ends.
    pub fn get<D: Disk>(
        &mut self,
        disk: &D,
        file: &D::File,
        name: &str,
        at: u64,
        len: usize,
    ) -> Result<&[u8], Failure> {
        let inside = at >= self.from && at + len as u64 <= self.from + self.len as u64;
        if !inside {
            let want = if len <= PREFACE_BYTES && self.bytes.is_empty() { len } else { READ_BYTES };
            let want = want.max(len);
            if self.bytes.len() < want {
                self.bytes.resize(want, 0);
            }
            (self.from, self.len) = (at, 0);
            while self.len < want {
                let at = at + self.len as u64;
                let place = &mut self.bytes[self.len..want];
                let read = disk.read(file, at, place).map_err(failing("read", name, at))?;
                if read == 0 {
                    break;
                }
                self.len += read;
            }
        }
        let from = (at - self.from) as usize;
        Ok(&self.bytes[from.min(self.len)..(from + len).min(self.len)])
    }
}

/// What is at a place of a segment.
pub(super) enum Look {
    /// A good record (V1).
    Record(Head),
    Bad(Why),
}

/// Looks at the place where the record after `tip` is to be.
pub(super) fn look<D: Disk>(
    window: &mut Window,
    disk: &D,
    segment: &Segment<D::File>,
    at: u64,
    tip: &Tip,
    seed: u32,
) -> Result<Look, Failure> {
    let (file, name) = (&segment.file, segment.name.as_str());
    let bytes = window.get(disk, file, name, at, HEAD_BYTES as usize)?;
    let Some(head) = Head::parse(bytes, seed) else { return Ok(Look::Bad(Why::Head)) };
    if head.position != tip.position {
        return Ok(Look::Bad(Why::Position(head.position)));
    }
    if at + head.bytes() > segment.bytes {
        return Ok(Look::Bad(Why::Length(u64::from(head.len))));
    }
    if head.before != tip.chain && !mutant!("log-chain-unchecked") {
        return Ok(Look::Bad(Why::Chain));
    }
    let len = head.len as usize;
    // The head, too, so that one window holds the record.
    let bytes = window.get(disk, file, name, at, HEAD_BYTES as usize + len)?;
    let payload = bytes.get(HEAD_BYTES as usize..).unwrap_or(&[]);
    let whole = payload.len() == len && crc32c(payload) == head.sum;
    if !whole && !mutant!("log-torn-payload-accepted") {
        return Ok(Look::Bad(Why::Payload));
    }
    Ok(Look::Record(head))
}

/// What lies behind a bad record.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Behind {
    /// Byte behind the last one that is not 0.
    pub end: u64,
    /// The first good head of a later record: where it is, and its position.
    pub next: Option<(u64, u64)>,
    /// Some head there claims that the bad record was durable (V2).
    pub claimed: bool,
}

/// Looks through all that is from `from` on, where the record `position` should be and is not.
pub(super) fn look_behind<D: Disk>(
    window: &mut Window,
    disk: &D,
    segment: &Segment<D::File>,
    from: u64,
    position: u64,
    seed: u32,
) -> Result<Behind, Failure> {
    const STEP: usize = 64 << 10;
    let (file, name) = (&segment.file, segment.name.as_str());
    let mut behind = Behind { end: from, ..Behind::default() };
    let mut at = from;
    while at < segment.bytes {
        // A head may reach into the next step.
        let bytes = window.get(disk, file, name, at, STEP + HEAD_BYTES as usize)?;
        if bytes.is_empty() {
            break;
        }
        let step = &bytes[..STEP.min(bytes.len())];
        if let Some(last) = step.iter().rposition(|byte| *byte != 0) {
            behind.end = at + last as u64 + 1;
            for offset in (0..step.len()).step_by(RECORD_ALIGN as usize) {
                if bytes[offset..].starts_with(&Head::MAGIC)
                    && let Some(head) = Head::parse(&bytes[offset..], seed)
                    && head.position > position
                {
                    let place = at + offset as u64;
                    behind.next = behind.next.or(Some((place, head.position)));
                    behind.claimed |= head.claim() > position;
                }
            }
        }
        at += step.len() as u64;
    }
    Ok(behind)
}

const _: () = assert!(RECORDS_AT % RECORD_ALIGN == 0 && HEAD_BYTES % RECORD_ALIGN == 0);
