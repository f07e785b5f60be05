// SPDX-License-Identifier: MIT OR Apache-2.0
//! A peer's memory as it lies here, open to the peer's writes: registered when it is shown, so that its
//! keys are there as soon as the peer enters, and until the peer says that it writes there no more.
//!
//! T1  Memory that cannot be registered is a shortage of mine (N3): whoever is shown it hears of it, and
//!     what a peer needs that has entered is tried again.
//! T2  A key opens the memory of one epoch, to one peer, once: none is used again.
//! T3  What is dropped here is closed: nothing lands there any more (F4).
//! T4  The peer's notes land in the epoch that they name, as long as it is open: in the peer's own block
//!     and lanes only (`tcp::mirror`, M1), words one by one in their order (M2). Its beat comes by itself
//!     (`line`, Q9), and spans that are long.

use super::carrier::{Keys, Nonsense};
use super::device::Device;
use super::memory::{Memory as Registered, Remote};
use super::notes::{NOTE_WORDS, Note, Parcel};
use crate::base::Epoch;
use crate::error::Error;
use crate::fabric::Memory;
use crate::fabric::tcp::mirror::{Measures, extent};
use crate::mem::{Extent, Region};
use crate::mutant;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Epochs that a peer has entered and not said to be over: it is one view ahead of me at the most.
const OPEN_MAX: usize = 8;
/// Between two tries to register what a peer waits for.
const AGAIN: Duration = Duration::from_millis(20);

/// One region, open.
struct Open {
    region: Arc<Region>,
    memory: Registered,
}

impl Open {
    fn new(device: &Arc<Device>, region: &Arc<Region>) -> Result<Open, Error> {
        let memory = Registered::target(device, region.clone())?;
        Ok(Open { region: region.clone(), memory })
    }

    /// As many bytes of it as its owner may write.
    fn remote(&self) -> Remote {
        self.memory.remote()
    }
}

/// An epoch that the peer has entered: what is open to it, and where its notes land.
struct Entered {
    epoch: Epoch,
    open: Vec<Open>,
    block: Arc<Region>,
    /// By subgroup.
    rings: Vec<Option<Extent>>,
}

pub struct Theirs {
    measures: Arc<Measures>,
    /// Shown, and not entered.
    shown: Vec<Open>,
    /// By epoch, the oldest first.
    entered: VecDeque<Entered>,
    /// Entered, and not open: what comes first is answered first.
    owed: VecDeque<(Epoch, Memory)>,
    again: Option<Instant>,
}

impl Theirs {
    pub fn new(measures: Arc<Measures>) -> Theirs {
        let (shown, entered, owed) = (Vec::new(), VecDeque::new(), VecDeque::new());
        Theirs { measures, shown, entered, owed, again: None }
    }

    /// Opens what a peer has shown. Some system calls, and pinning its pages.
    pub fn show(&mut self, device: &Arc<Device>, memory: &Memory) -> Result<(), Error> {
        for region in regions(memory) {
            let same = |open: &&Open| Arc::ptr_eq(&open.region, region);
            let entered = self.entered.iter().flat_map(|entered| &entered.open);
            if self.shown.iter().chain(entered).find(same).is_none() {
                self.shown.push(Open::new(device, region)?);
            }
        }
        Ok(())
    }

    /// The peer has entered an epoch. `false`: it has left too many open.
    pub fn enter(&mut self, epoch: Epoch, memory: Memory) -> bool {
        self.owed.push_back((epoch, memory));
        self.owed.len() + self.entered.len() <= OPEN_MAX
    }

    /// Keys that the peer waits for, one epoch at a time. An error: for what this process lacks; said
    /// once.
    pub fn answer(&mut self, device: &Arc<Device>) -> Result<Option<(Epoch, Keys)>, Error> {
        if self.owed.is_empty() || self.again.is_some_and(|at| Instant::now() < at) {
            return Ok(None);
        }
        let (epoch, memory) = self.owed.front().cloned().expect("there is one");
        let known = self.again.is_some();
        match self.show(device, &memory) {
            Ok(()) => self.again = None,
            Err(short) => {
                self.again = Some(Instant::now() + AGAIN);
                return if known { Ok(None) } else { Err(short) };
            }
        }
        self.owed.pop_front();
        let mut take = |region: &Arc<Region>| {
            let at = self.shown.iter().position(|open| Arc::ptr_eq(&open.region, region));
            self.shown.swap_remove(at.expect("it was opened"))
        };
        let mut all = vec![take(&memory.block)];
        let block = all[0].remote();
        let rings = memory.rings.iter().map(|ring| {
            let open = take(ring.as_ref()?);
            let remote = open.remote();
            all.push(open);
            Some(remote)
        });
        let keys = Keys { block, rings: rings.collect() };
        let rings = memory.rings.iter().map(|ring| ring.as_ref().map(extent)).collect();
        self.entered.push_back(Entered { epoch, open: all, block: memory.block.clone(), rings });
        Ok(Some((epoch, keys)))
    }

    /// The peer writes there no more. `false`: it never could, or it is where it is now.
    pub fn close(&mut self, epoch: Epoch) -> bool {
        let at = self.entered.iter().position(|entered| entered.epoch == epoch);
        let Some(at) = at.filter(|at| at + 1 < self.entered.len()) else { return false };
        self.entered.remove(at);
        true
    }

    /// Carries out what a note says (T4).
    #[inline]
    pub fn land(&self, mut note: Note<'_>) -> Result<(), Nonsense> {
        let epoch = note.epoch;
        let nonsense = |what, value| Nonsense::Note { what, value };
        let its = self.entered.iter().rev().find(|entered| entered.epoch == epoch);
        let its = its.ok_or(nonsense("epoch", epoch.0))?;
        while let Some(parcel) = note.next()? {
            match parcel {
                Parcel::Words { at, values } => {
                    let end = at as usize + values.len() * 8;
                    if at % 8 != 0 || end > self.measures.block_bytes {
                        return Err(nonsense("words", at.into()));
                    }
                    for (at, value) in (at as usize..).step_by(8).zip(values) {
                        if at != self.measures.beat_at || mutant!("verbs-beat-in-a-note") {
                            its.block.cell(at).publish(*value);
                        }
                    }
                }
                Parcel::Span { ring, from, len, words } => {
                    let subgroup = usize::from(ring.subgroup);
                    let place = self.measures.rings.get(subgroup);
                    let at = place.and_then(|lanes| lanes.place(ring.lane, from, len as u64));
                    let extent = its.rings.get(subgroup).and_then(Option::as_ref);
                    let (Some(at), Some(extent)) = (at, extent) else {
                        return Err(nonsense("span", from));
                    };
                    let mut bytes = [0; NOTE_WORDS * 8];
                    for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
                        *bytes = word.to_le_bytes();
                    }
                    assert!(extent.try_write(at, &bytes[..len]), "a span lies in its lane");
                }
            }
        }
        Ok(())
    }

    /// Whether it waits for memory of mine.
    pub fn owes(&self) -> bool {
        !self.owed.is_empty()
    }
}

fn regions(memory: &Memory) -> impl Iterator<Item = &Arc<Region>> {
    std::iter::once(&memory.block).chain(memory.rings.iter().flatten())
}
