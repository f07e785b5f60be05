// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of epochs to come: as over TCP, and open to devices as soon as it is made or shown.

use super::super::mixed::{Borrows, Neighbour};
use super::super::{Admission, Exchange, Memory, Shown, Sizes};
use super::memory::Memory as Registered;
use super::{Own, Verbs};
use crate::base::{Epoch, Events, Peer, Rank};
use crate::error::Error;
use crate::mem::Region;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

impl Verbs {
    /// Opens my rings to my device.
    fn open(&mut self, own: &Memory) -> Result<(), Error> {
        for ring in own.rings.iter().flatten() {
            if !self.sources.iter().any(|(open, _)| Arc::ptr_eq(open, ring)) {
                let source = Registered::source(&self.device, ring.clone())?;
                self.sources.push((ring.clone(), Arc::new(source)));
            }
        }
        Ok(())
    }

    fn source_of(&self, ring: &Arc<Region>) -> Arc<Registered> {
        let of = self.sources.iter().find(|(open, _)| Arc::ptr_eq(open, ring));
        of.expect("my rings are opened as they are made").1.clone()
    }
}

impl Borrows for Verbs {
    fn borrow_own(&mut self, epoch: Epoch, own: &Memory) -> Result<(), Error> {
        self.open(own)?;
        self.tcp.borrow_own(epoch, own)
    }

    fn hear_of(&mut self, neighbours: Vec<Neighbour>) {
        self.tcp.hear_of(neighbours);
    }
}

impl Exchange for Verbs {
    fn peer(&self, incarnation: u64) -> Option<Peer> {
        self.tcp.peer(incarnation)
    }

    fn incarnation(&self, peer: Peer) -> Option<u64> {
        self.tcp.incarnation(peer)
    }

    fn admit(&mut self, whom: Admission) {
        self.tcp.admit(whom);
        if whom == Admission::Nobody {
            self.stops = true;
            let Verbs { partings, tcp, .. } = self;
            let all = partings.iter_mut().filter_map(|parting| parting.connection.take());
            all.for_each(|connection| tcp.hang_up(connection)); // nobody may poll again
        }
    }

    fn has_ended(&self, peer: Peer) -> bool {
        self.tcp.has_ended(peer)
    }

    fn own(&mut self, epoch: Epoch, subgroups: &[usize]) -> Result<Memory, Error> {
        let own = self.tcp.own(epoch, subgroups)?;
        self.open(&own)?;
        Ok(own)
    }

    fn show(&mut self, epoch: Epoch, to: Peer, subgroups: &[usize]) -> Result<(), Error> {
        self.tcp.show(epoch, to, subgroups)
    }

    /// What is shown is opened to its owner at once: that may fail, and then it is not seen yet (N3).
    fn shown(&mut self, peer: Peer, epoch: Epoch, sizes: &Sizes) -> Result<Shown, Error> {
        let shown = self.tcp.shown(peer, epoch, sizes)?;
        let device = self.device.clone();
        if let (Shown::Memory(memory), Some(place)) = (&shown, self.place(usize::from(peer.0))) {
            place.theirs.show(&device, memory)?;
        }
        Ok(shown)
    }

    fn shortage(&self) -> Option<Error> {
        self.tcp.shortage()
    }

    fn enter(&mut self, epoch: Epoch, me: Rank, peers: &[Option<Peer>], blocks: &[Arc<Region>]) {
        let memory = self.tcp.own(epoch, &[]).expect("made before it is entered");
        let rings = memory.rings.iter().map(|ring| Some(self.source_of(ring.as_ref()?))).collect();
        let own = Arc::new(Own {
            epoch,
            block: blocks[me.index()].clone(),
            rings,
            measures: self.tcp.measures().clone(),
            beat_at: self.tcp.beat_at(),
        });
        self.tcp.enter(epoch, me, peers, blocks);
        let before = self.sources.len();
        self.sources
            .retain(|(open, _)| memory.rings.iter().flatten().all(|ring| !Arc::ptr_eq(open, ring)));
        debug_assert!(self.sources.len() <= before);
        self.peers = peers.iter().map(|peer| Some(usize::from((*peer)?.0))).collect();
        for at in self.peers.clone().into_iter().flatten() {
            if let Some(place) = self.place(at) {
                place.line.enter(&own);
            }
        }
        self.own = Some(own);
        self.heard = Events::default(); // of ranks that were; told again (`Exchange::enter`)
        self.stir();
    }

    fn speak(&mut self, wire: u16) {
        self.tcp.speak(wire);
    }

    fn alarm(&mut self, after_ns: u64) {
        self.tcp.alarm(after_ns);
    }

    fn say(&mut self, to: Peer, bytes: &[u8]) -> bool {
        self.tcp.say(to, bytes)
    }

    fn heard(&mut self) -> Option<(Peer, Vec<u8>)> {
        self.tcp.heard()
    }

    fn offer(&mut self, to: Peer, stream: BorrowedFd<'_>) -> bool {
        self.tcp.offer(to, stream)
    }

    fn offered(&mut self) -> Option<(Peer, OwnedFd)> {
        self.tcp.offered()
    }

    fn reach(&mut self, to: Peer, stream: OwnedFd) -> bool {
        self.tcp.reach(to, stream)
    }

    fn reached(&mut self) -> Option<(u64, OwnedFd)> {
        self.tcp.reached()
    }
}
