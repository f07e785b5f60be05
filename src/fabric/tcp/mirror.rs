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
//! M4  Memory that cannot be had is a shortage of mine (N3): it is asked for again when the driver wants
//!     it, and once its peer enters now and then: until it is there, nothing more of that peer lands, and
//!     what has come of it ends no sleep.
//! M5  Who has entered an epoch beats in that, and is seen to beat in the one before by me who am still
//!     in it.
//! M6  Where posts come by another way (`carry`), nothing lands here but what is said ahead: who enters
//!     an epoch is told to the fabric that carries them, with its memory, in the order of its frames.
//!
//! Cost: a bounds check per frame; memory and its pages when a peer shows it.

use super::wire::{Flaw, Sink, Span, first_u64};
use crate::base::Epoch;
use crate::error::Error;
use crate::fabric::{Memory, Shown, Sizes};
use crate::mem::{Extent, Region};
use crate::sst::layout::{Layout, Shape};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Epochs that a peer may have shown and not entered: it is one view ahead, and has shown the next.
const AHEAD_MAX: usize = 4;
/// What a peer has said and nobody has listened to, at the most.
const HEARD_MAX: usize = 256;
const HEARD_BYTES_MAX: usize = 4 << 20;
/// What is carried for another fabric, which takes it after each poll, at the most.
const CARRIED_MAX: usize = 256;

/// Between two tries to get memory for what waits for it.
const AGAIN: Duration = Duration::from_millis(20);

/// How large the memory of any member is, in any view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Measures {
    pub block_bytes: usize,
    /// The byte of the word that says "I live".
    pub beat_at: usize,
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
        let beat_at = layout.beat.byte(0);
        Measures { block_bytes: layout.control_bytes, beat_at, rings }
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

/// Zeroed memory whose pages are there: none is to be faulted in when messages come. An error is a
/// shortage of this process.
pub fn made(bytes: usize) -> Result<Arc<Region>, Error> {
    #[cfg(test)]
    match LEFT.get() {
        0 => return Err(Error::new(crate::error::Status::NoMemory, "a test's")),
        left => LEFT.set(left - 1),
    }
    Region::pages(bytes).map(Arc::new)
}

/// All of a region, by the byte.
pub fn extent(region: &Arc<Region>) -> Extent {
    Extent::new(region.clone(), 0, region.size())
}

/// One epoch of the peer's.
struct Theirs {
    /// 0: the first one it will be in.
    epoch: Epoch,
    /// By subgroup: whether it has shown a ring.
    rings: Vec<bool>,
    /// What of it is here (M4).
    block: Option<Arc<Region>>,
    made: Vec<Option<Arc<Region>>>,
    /// Words of a block that is not, by their bytes: fewer than it has.
    early: BTreeMap<u32, u64>,
}

impl Theirs {
    fn new(epoch: Epoch, subgroups: usize) -> Theirs {
        let (block, made, early) = (None, vec![None; subgroups], BTreeMap::new());
        Theirs { epoch, rings: vec![false; subgroups], block, made, early }
    }

    /// Gets what is missing of it.
    fn make(&mut self, measures: &Measures) -> Result<&Arc<Region>, Error> {
        if self.block.is_none() {
            let block = made(measures.block_bytes)?;
            let early = std::mem::take(&mut self.early);
            early.into_iter().for_each(|(at, word)| block.cell(at as usize).publish(word));
            self.block = Some(block);
        }
        for (at, measures) in measures.rings.iter().enumerate() {
            if self.rings[at] && self.made[at].is_none() {
                self.made[at] = Some(made(measures.bytes())?);
            }
        }
        Ok(self.block.as_ref().expect("it is made"))
    }

    fn land(&mut self, at: u32, words: &[u8]) {
        match &self.block {
            Some(block) => land(block, at, words),
            None => self.early.extend((at..).step_by(8).zip(words.chunks_exact(8).map(first_u64))),
        }
    }
}

/// Where frames land now.
struct Landing {
    block: Arc<Region>,
    rings: Vec<Option<Extent>>,
    /// That of the epoch before, while I am in it (M5).
    before: Option<Arc<Region>>,
}

pub struct Mirror {
    measures: Arc<Measures>,
    theirs: Vec<Theirs>,
    landing: Option<Landing>,
    /// The last epoch that the peer has entered, and that I have with this peer.
    entered: Epoch,
    used: Epoch,
    /// What comes next waits for memory until then (M4).
    again: Option<Instant>,
    pub heard: VecDeque<Vec<u8>>,
    heard_bytes: usize,
    /// `None`: no other fabric has a part in this connection.
    carried: Option<VecDeque<Carried>>,
}

/// What a peer says to the fabric that carries its posts (M6).
pub enum Carried {
    /// It has entered that epoch; its memory here.
    Entered(Epoch, Memory),
    Said(Vec<u8>),
}

impl Mirror {
    pub fn new(measures: Arc<Measures>) -> Mirror {
        let (theirs, heard, heard_bytes) = (Vec::new(), VecDeque::new(), 0);
        let (entered, used) = (Epoch(0), Epoch(0));
        let (landing, again, carried) = (None, None, None);
        Mirror { measures, theirs, landing, entered, used, again, heard, heard_bytes, carried }
    }

    /// Posts come by another way (M6).
    pub fn carry(&mut self) {
        self.carried = Some(VecDeque::new());
    }

    pub fn next_carried(&mut self) -> Option<Carried> {
        self.carried.as_mut()?.pop_front()
    }

    fn keep_carried(&mut self, what: Carried) -> Result<(), Flaw> {
        let carried = self.carried.as_mut().ok_or(Flaw::CarriesNothing)?;
        if carried.len() >= CARRIED_MAX {
            return Err(Flaw::CarriesTooMuch { bytes: 0 });
        }
        carried.push_back(what);
        Ok(())
    }

    /// What has been shown of an epoch, if it is all that is wanted. An error: there is no memory for it
    /// here (M4).
    pub fn shown(&mut self, epoch: Epoch, sizes: &Sizes) -> Result<Option<Shown>, Error> {
        let Some(theirs) = self.theirs.iter_mut().find(|theirs| theirs.epoch == epoch) else {
            return Ok(None);
        };
        let mut wanted = sizes.rings.iter().zip(0..).filter_map(|(ring, at)| ring.map(|_| at));
        if !wanted.all(|at: usize| theirs.rings.get(at).is_some_and(|shown| *shown)) {
            return Ok(None);
        }
        let block = theirs.make(&self.measures)?.clone();
        let mut fits = block.size() >= sizes.block;
        let mut rings = vec![None; sizes.rings.len()];
        for (at, wanted) in sizes.rings.iter().enumerate() {
            let Some(bytes) = wanted else { continue };
            let ring = theirs.made[at].as_ref().expect("all that was shown is made");
            fits &= ring.size() >= *bytes;
            rings[at] = Some(ring.clone());
        }
        Ok(Some(if fits { Shown::Memory(Memory { block, rings }) } else { Shown::Never }))
    }

    /// Whether what came last waits for memory, and is to be tried again now (M4).
    pub fn waits(&self) -> Option<bool> {
        self.again.map(|at| Instant::now() >= at)
    }

    /// Whether what came last waits for memory.
    #[inline]
    pub fn is_put_off(&self) -> bool {
        self.again.is_some()
    }

    /// Until it is to be tried again.
    pub fn rest(&self) -> Option<Duration> {
        self.again.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// I have entered a view with this peer.
    pub fn use_epoch(&mut self, epoch: Epoch) {
        self.used = epoch;
        if let Some(landing) = self.landing.as_mut().filter(|_| epoch >= self.entered) {
            landing.before = None;
        }
        self.prune();
    }

    /// What the peer shows of an epoch that is to come. What it has shown as its first one it may have
    /// a name for by now.
    fn to_come(&mut self, epoch: Epoch) -> Option<&mut Theirs> {
        let at = |epoch: Epoch| self.theirs.iter().position(|theirs| theirs.epoch == epoch);
        let first = || at(Epoch(0)).filter(|_| self.entered == Epoch(0));
        let at = at(epoch).or_else(first).filter(|_| epoch > self.entered)?;
        Some(&mut self.theirs[at])
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
        land(&landing.block, at, words);
        if let Some(before) =
            landing.before.as_ref().filter(|_| at as usize == self.measures.beat_at)
        {
            before.cell(at as usize).raise(first_u64(words)); // M5
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
                self.theirs.push(Theirs::new(epoch, self.measures.rings.len()));
                self.theirs.len() - 1
            }
        };
        for subgroup in subgroups.chunks_exact(8).map(first_u64) {
            let subgroup = usize::try_from(subgroup).map_err(|_| flaw)?;
            *self.theirs[at].rings.get_mut(subgroup).ok_or(flaw)? = true;
        }
        let _ = self.theirs[at].make(&self.measures); // else when it is needed (M4)
        Ok(())
    }

    fn enter(&mut self, epoch: Epoch) -> Result<bool, Flaw> {
        let measures = self.measures.clone();
        let theirs = self.to_come(epoch).ok_or(Flaw::Enter { epoch: epoch.0 })?;
        let Ok(block) = theirs.make(&measures).cloned() else {
            self.again = Some(Instant::now() + AGAIN);
            return Ok(false);
        };
        let made = theirs.made.clone();
        self.again = None;
        if self.carried.is_some() {
            self.entered = epoch;
            self.prune();
            return self
                .keep_carried(Carried::Entered(epoch, Memory { block, rings: made }))
                .map(|()| true);
        }
        let rings = made.iter().map(|ring| ring.as_ref().map(extent)).collect();
        let behind = self.used < epoch;
        let before = self.landing.take().map(|landing| landing.block).filter(|_| behind);
        self.landing = Some(Landing { block, rings, before });
        self.entered = epoch;
        self.prune();
        Ok(true)
    }

    fn ahead(&mut self, epoch: Epoch, at: u32, words: &[u8]) -> Result<(), Flaw> {
        let flaw = Flaw::Ahead { epoch: epoch.0, at, count: (words.len() / 8) as u8 };
        let end = at as usize + words.len();
        if at % 8 != 0 || words.is_empty() || end > self.measures.block_bytes {
            return Err(flaw);
        }
        self.to_come(epoch).ok_or(flaw)?.land(at, words);
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

    fn carry(&mut self, bytes: &[u8]) -> Result<(), Flaw> {
        self.keep_carried(Carried::Said(bytes.to_vec()))
    }
}

/// M2
#[inline]
fn land(block: &Region, at: u32, words: &[u8]) {
    for (place, word) in (at as usize..).step_by(8).zip(words.chunks_exact(8)) {
        block.cell(place).publish(first_u64(word));
    }
}

#[cfg(test)]
impl Mirror {
    pub(super) fn has_shown(&self, epoch: Epoch) -> bool {
        self.theirs.iter().any(|theirs| theirs.epoch == epoch && theirs.block.is_some())
    }

    /// Of epochs that are not entered.
    pub(super) fn forget_memory(&mut self) {
        for theirs in self.theirs.iter_mut().filter(|theirs| theirs.epoch > self.entered) {
            (theirs.block, theirs.made) = (None, vec![None; theirs.made.len()]);
        }
    }
}

#[cfg(test)]
thread_local! {
    /// Regions that this thread may still make.
    pub(super) static LEFT: std::cell::Cell<usize> = const { std::cell::Cell::new(usize::MAX) };
}
