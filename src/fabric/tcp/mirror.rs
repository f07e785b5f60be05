// SPDX-License-Identifier: MIT OR Apache-2.0
//! A peer's memory as it lies here, epoch by epoch, and what of it may land where.
//!
//! M1  A peer writes what is its own: its control block, and the lanes of those subgroups of which it
//!     has shown a ring. Nothing it sends can land elsewhere; how large these are says my own
//!     configuration, never the peer.
//! M2  Words are published one by one, in the order they come (F1, F2): other threads of mine observe
//!     them. Bytes of rings are read by the thread that lands them only.
//! M3  Memory of an epoch is here until the peer has entered it and I have; and then as long as
//!     somebody reads it (N2).
//!
//! Cost: a bounds check per frame; memory and its pages when a peer shows it.

use super::wire::{Flaw, Sink, Span, first_u64};
use crate::base::Epoch;
use crate::fabric::{Memory, Shown, Sizes};
use crate::mem::{Extent, Region};
use crate::sst::layout::{Layout, Shape};
use std::collections::VecDeque;
use std::sync::Arc;

/// Epochs that a peer may have shown and not entered: it is one view ahead, and has shown the next.
const AHEAD_MAX: usize = 4;
/// What a peer has said and nobody has listened to, at the most.
const HEARD_MAX: usize = 256;
const HEARD_BYTES_MAX: usize = 4 << 20;

const PAGE_BYTES: usize = 4096;

/// How large the memory of any member is, in any view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Measures {
    pub block_bytes: usize,
    /// By subgroup.
    pub rings: Vec<RingMeasures>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingMeasures {
    pub lanes: u16,
    pub lane_bytes: u64,
}

impl Measures {
    /// Those of a layout; for members that change, of the largest one.
    pub fn of(layout: &Layout) -> Measures {
        let ring =
            |shape: &Shape| RingMeasures { lanes: shape.lanes, lane_bytes: shape.lane().bytes };
        let rings = layout.shapes.iter().map(ring).collect();
        Measures { block_bytes: layout.control_bytes, rings }
    }
}

impl RingMeasures {
    pub fn bytes(&self) -> usize {
        usize::from(self.lanes) * self.lane_bytes as usize
    }

    /// Where a part of a lane lies in the region of all lanes; `None`: not in that lane.
    pub fn place(&self, lane: u16, from: u64, len: u64) -> Option<u64> {
        let inside = lane < self.lanes && from.checked_add(len)? <= self.lane_bytes;
        inside.then(|| u64::from(lane) * self.lane_bytes + from)
    }
}

/// Zeroed memory whose pages are there: none is to be faulted in when messages come.
pub fn made(bytes: usize) -> Arc<Region> {
    let region = Region::heap(bytes);
    (0..region.size()).step_by(PAGE_BYTES).for_each(|at| region.cell(at).prepare(0));
    Arc::new(region)
}

/// All of a region, by the byte.
pub fn extent(region: &Arc<Region>) -> Extent {
    Extent::new(region.clone(), 0, region.size())
}

/// One epoch of the peer's.
struct Theirs {
    /// 0: the first one it will be in.
    epoch: Epoch,
    memory: Memory,
}

/// Where frames land now.
struct Landing {
    block: Arc<Region>,
    rings: Vec<Option<Extent>>,
}

pub struct Mirror {
    measures: Arc<Measures>,
    theirs: Vec<Theirs>,
    landing: Option<Landing>,
    /// The last epoch that the peer has entered, and that I have with this peer.
    entered: Epoch,
    used: Epoch,
    pub heard: VecDeque<Vec<u8>>,
    heard_bytes: usize,
}

impl Mirror {
    pub fn new(measures: Arc<Measures>) -> Mirror {
        let (theirs, heard) = (Vec::new(), VecDeque::new());
        let (entered, used) = (Epoch(0), Epoch(0));
        Mirror { measures, theirs, landing: None, entered, used, heard, heard_bytes: 0 }
    }

    /// What has been shown of an epoch, if it is all that is wanted.
    pub fn shown(&self, epoch: Epoch, sizes: &Sizes) -> Option<Shown> {
        let theirs = self.theirs.iter().find(|theirs| theirs.epoch == epoch)?;
        let mut rings = vec![None; sizes.rings.len()];
        let mut fits = theirs.memory.block.size() >= sizes.block;
        for (at, wanted) in sizes.rings.iter().enumerate() {
            let Some(bytes) = wanted else { continue };
            let ring = theirs.memory.rings.get(at)?.clone()?;
            fits &= ring.size() >= *bytes;
            rings[at] = Some(ring);
        }
        let memory = Memory { block: theirs.memory.block.clone(), rings };
        Some(if fits { Shown::Memory(memory) } else { Shown::Never })
    }

    /// I have entered a view with this peer.
    pub fn use_epoch(&mut self, epoch: Epoch) {
        self.used = epoch;
        self.prune();
    }

    /// M3
    fn prune(&mut self) {
        let over = |of: Epoch, by: Epoch| by > Epoch(0) && of <= by;
        let (entered, used) = (self.entered, self.used);
        self.theirs.retain(|theirs| !over(theirs.epoch, entered) || !over(theirs.epoch, used));
    }

    /// Where the rest of a span that was let in lies: its extent, byte and length.
    pub fn place(&self, span: &Span) -> Option<(&Extent, u64, usize)> {
        let ring = self.ring(span.subgroup)?;
        let measures = self.measures.rings.get(usize::from(span.subgroup))?;
        let at = measures.place(u16::from(span.lane), span.from, u64::from(span.len))?;
        Some((ring, at, span.len as usize))
    }

    fn ring(&self, subgroup: u16) -> Option<&Extent> {
        self.landing.as_ref()?.rings.get(usize::from(subgroup))?.as_ref()
    }

    pub fn next_heard(&mut self) -> Option<Vec<u8>> {
        let bytes = self.heard.pop_front()?;
        self.heard_bytes -= bytes.len();
        Some(bytes)
    }
}

impl Sink for Mirror {
    #[inline]
    fn words(&mut self, at: u32, words: &[u8]) -> Result<(), Flaw> {
        let Some(landing) = &self.landing else { return Err(Flaw::BeforeEnter) };
        let end = at as usize + words.len();
        if at % 8 != 0 || words.is_empty() || end > self.measures.block_bytes {
            return Err(Flaw::Words { at, count: (words.len() / 8) as u8 });
        }
        for (place, word) in (at as usize..).step_by(8).zip(words.chunks_exact(8)) {
            landing.block.cell(place).publish(first_u64(word)); // M2
        }
        Ok(())
    }

    fn span(&mut self, span: &Span) -> Result<(), Flaw> {
        if self.landing.is_none() {
            return Err(Flaw::BeforeEnter);
        }
        let Span { subgroup, lane, from, len } = *span;
        self.place(span).map(|_| ()).ok_or(Flaw::Span { subgroup, lane, from, len })
    }

    #[inline]
    fn piece(&mut self, span: &Span, bytes: &[u8]) {
        let (ring, at, len) = self.place(span).expect("it was let in");
        assert!(bytes.len() <= len && ring.try_write(at, bytes), "a piece lies in its span");
    }

    fn memory(&mut self, epoch: Epoch, subgroups: &[u8]) -> Result<(), Flaw> {
        let flaw = Flaw::Memory { epoch: epoch.0 };
        let stale = epoch > Epoch(0) && epoch <= self.entered;
        if stale || (epoch == Epoch(0) && self.entered > Epoch(0)) {
            return Err(flaw);
        }
        let before = self.theirs.iter().position(|theirs| theirs.epoch == epoch);
        let at = match before {
            Some(at) => at,
            None => {
                let ahead = self.theirs.iter().filter(|theirs| theirs.epoch > self.entered);
                // Nor any number that it has entered and I have not.
                if ahead.count() >= AHEAD_MAX || self.theirs.len() >= 2 * AHEAD_MAX {
                    return Err(flaw);
                }
                let block = made(self.measures.block_bytes);
                let rings = vec![None; self.measures.rings.len()];
                self.theirs.push(Theirs { epoch, memory: Memory { block, rings } });
                self.theirs.len() - 1
            }
        };
        for subgroup in subgroups.chunks_exact(8).map(first_u64) {
            let subgroup = usize::try_from(subgroup).map_err(|_| flaw)?;
            let measures = self.measures.rings.get(subgroup).ok_or(flaw)?;
            let ring = &mut self.theirs[at].memory.rings[subgroup];
            if ring.is_none() {
                *ring = Some(made(measures.bytes()));
            }
        }
        Ok(())
    }

    fn enter(&mut self, epoch: Epoch) -> Result<(), Flaw> {
        let of = |epoch: Epoch| self.theirs.iter().find(|theirs| theirs.epoch == epoch);
        let first = || of(Epoch(0)).filter(|_| self.entered == Epoch(0));
        let theirs = of(epoch).or_else(first).filter(|_| epoch > self.entered);
        let Memory { block, rings } = &theirs.ok_or(Flaw::Enter { epoch: epoch.0 })?.memory;
        let rings = rings.iter().map(|ring| ring.as_ref().map(extent)).collect();
        self.landing = Some(Landing { block: block.clone(), rings });
        self.entered = epoch;
        self.prune();
        Ok(())
    }

    fn say(&mut self, bytes: &[u8]) -> Result<(), Flaw> {
        self.heard_bytes += bytes.len();
        self.heard.push_back(bytes.to_vec());
        if self.heard.len() > HEARD_MAX || self.heard_bytes > HEARD_BYTES_MAX {
            return Err(Flaw::SaysTooMuch { bytes: self.heard_bytes as u32 });
        }
        Ok(())
    }
}
