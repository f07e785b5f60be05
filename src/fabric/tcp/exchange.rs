// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of epochs to come, shown to the others by frames: it is made at once at their side, and
//! what the control block says already is said with it, and again whenever it is shown again.
//!
//! X1  Until this member enters a view nothing but `ahead` tells the others of its block there: so its
//!     beat goes that way, too (`beat_ahead`).
//! X2  An epoch is entered behind what was posted in the one before, with all that its block says by then.

use super::super::mixed::{Borrows, Neighbour};
use super::super::{Admission, Exchange, Memory, Shown, Sizes};
use super::link::Link;
use super::mirror::{extent, made};
use super::outgoing::{Own, Parcel};
use super::talk::{SILENCE, end_after};
use super::{FIRST, Mine, TOKEN_ALARM, Tcp, stream, wire};
use crate::base::{Epoch, Members, POST_WORDS_MAX, Peer, Rank};
use crate::error::Error;
use crate::fabric::greeting::Kind;
use crate::fabric::shm::socket::Alarm;
use crate::log_sink::{Level, say};
use crate::mem::Region;
use crate::mutant;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

impl Borrows for Tcp {
    fn borrow_own(&mut self, epoch: Epoch, own: &Memory) -> Result<(), Error> {
        self.lend(epoch, own);
        Ok(())
    }

    fn hear_of(&mut self, neighbours: Vec<Neighbour>) {
        if let Some(lobby) = &mut self.lobby {
            lobby.hear_of(&neighbours);
        }
    }
}

impl Exchange for Tcp {
    fn peer(&self, incarnation: u64) -> Option<Peer> {
        let link = |at: &usize| self.links[*at].as_ref();
        let its = |at: &usize| link(at).is_some_and(|link| link.incarnation == incarnation);
        let lives = |at: &usize| link(at).is_some_and(|link| !link.has_ended());
        let mut all = (0..self.links.len()).filter(its);
        let found = all.clone().find(lives).or_else(|| all.next());
        found.map(|at| Peer(at as u16))
    }

    fn incarnation(&self, peer: Peer) -> Option<u64> {
        Some(self.link(peer)?.incarnation)
    }

    fn admit(&mut self, whom: Admission) {
        self.admits = whom;
        match &mut self.lobby {
            Some(lobby) if whom == Admission::All => {
                lobby.stop_calling();
                for socket in self.links.iter().flatten().filter_map(Link::socket) {
                    let _ = end_after(&socket, SILENCE);
                }
            }
            Some(lobby) if whom == Admission::Nobody => lobby.door.close(),
            _ => {}
        }
    }

    fn has_ended(&self, peer: Peer) -> bool {
        self.link(peer).is_none_or(Link::has_ended)
    }

    fn own(&mut self, epoch: Epoch, subgroups: &[usize]) -> Result<Memory, Error> {
        self.name_first(epoch);
        let at = match self.mine.iter().position(|mine| mine.epoch == epoch) {
            Some(at) => at,
            None => {
                let rings = vec![None; self.measures.rings.len()];
                let memory = Memory { block: made(self.measures.block_bytes)?, rings };
                self.mine.push(Mine { epoch, memory, seen: Vec::new() });
                self.mine.len() - 1
            }
        };
        let memory = &mut self.mine[at].memory;
        for &subgroup in subgroups {
            if memory.rings[subgroup].is_none() {
                memory.rings[subgroup] = Some(made(self.measures.rings[subgroup].bytes())?);
            }
        }
        Ok(memory.clone())
    }

    fn show(&mut self, epoch: Epoch, to: Peer, subgroups: &[usize]) -> Result<(), Error> {
        let mine = self.mine.iter_mut().find(|mine| mine.epoch == epoch);
        let Mine { seen, memory, .. } = mine.expect("made before it is shown");
        let block = memory.block.clone();
        let before = seen.iter().position(|(peer, _)| *peer == to);
        let new = |at: &usize| before.is_none_or(|before| !seen[before].1.contains(at));
        let new: Vec<usize> = subgroups.iter().copied().filter(new).collect();
        match before {
            Some(before) => seen[before].1.extend(&new),
            None => seen.push((to, new.clone())),
        }
        let block_bytes = self.measures.block_bytes;
        let Some(link) = self.link_mut(to) else { return Ok(()) };
        if link.outgoing.is_choked() {
            self.end(usize::from(to.0)); // what it misses it will never get
            return Ok(());
        }
        if before.is_none() || !new.is_empty() {
            link.push(Parcel::Memory { epoch, subgroups: new });
        }
        if epoch > FIRST && !mutant!("tcp-shows-memory-only") {
            words_of(&block, block_bytes, |at, values, len| {
                link.push(Parcel::Ahead { epoch, at, values, len });
            });
        }
        link.flush();
        Ok(())
    }

    fn shown(&mut self, peer: Peer, epoch: Epoch, sizes: &Sizes) -> Result<Shown, Error> {
        let Some(link) = self.link_mut(peer) else { return Ok(Shown::Never) };
        let nothing = if link.has_ended() { Shown::Never } else { Shown::Waits };
        Ok(link.mirror.shown(epoch, sizes)?.unwrap_or(nothing))
    }

    /// Whoever says something is heard: it takes no descriptor.
    fn shortage(&self) -> Option<Error> {
        None
    }

    fn enter(&mut self, epoch: Epoch, me: Rank, peers: &[Option<Peer>], blocks: &[Arc<Region>]) {
        self.name_first(epoch);
        let mine = self.mine.iter().find(|mine| mine.epoch == epoch);
        let memory = &mine.expect("made before it is entered").memory;
        let block = blocks[me.index()].clone();
        let own = Arc::new(Own {
            block: block.clone(),
            rings: memory.rings.iter().map(|ring| ring.as_ref().map(extent)).collect(),
            measures: self.measures.clone(),
            beat_at: self.met.is_none().then_some(self.setup.beat_at),
        });
        self.peers = peers.iter().map(|peer| Some(usize::from((*peer)?.0))).collect();
        for peer in self.peers.iter().flatten() {
            let Some(link) = &mut self.links[*peer] else { continue };
            link.mirror.use_epoch(epoch);
            link.push(Parcel::Enter { epoch, own: own.clone() });
            if self.met.is_some() {
                link.flush(); // K2 of `verbs`
                continue;
            }
            // What was written before the first post; but for the beat, which stands alone in its line:
            // a later one is sent ahead of this (`Outgoing`, O4), and would be taken back.
            let beat_at = self.setup.beat_at;
            words_of(&block, self.measures.block_bytes, |at, values, len| {
                if at as usize != beat_at || mutant!("tcp-beat-said-twice") {
                    link.push(Parcel::Words { at, values, len });
                }
            });
        }
        self.block = Some(block);
        (self.gone, self.untold) = (Members::NONE, true);
        self.mine.retain(|mine| mine.epoch > epoch);
        self.tidy();
    }

    fn speak(&mut self, wire: u16) {
        if let Some(lobby) = &mut self.lobby {
            lobby.runs_at(wire);
        }
    }

    fn alarm(&mut self, after_ns: u64) {
        if self.alarm.is_none() {
            self.alarm = Alarm::new(&self.watch, TOKEN_ALARM).ok();
        }
        if let Some(alarm) = &self.alarm {
            alarm.set(after_ns);
        }
    }

    fn say(&mut self, to: Peer, bytes: &[u8]) -> bool {
        assert!(bytes.len() <= wire::SAY_BYTES_MAX, "the driver's letters are shorter");
        let Some(link) = self.link_mut(to) else { return false };
        if link.has_ended() || link.outgoing.is_choked() {
            return false;
        }
        link.push(Parcel::Say(bytes.to_vec()));
        link.flush();
        true
    }

    fn heard(&mut self) -> Option<(Peer, Vec<u8>)> {
        loop {
            let mut links = self.links.iter_mut().zip(0..);
            let next = |(link, at): (&mut Option<Link>, u16)| {
                Some((Peer(at), link.as_mut()?.mirror.next_heard()?))
            };
            let (peer, bytes) = links.find_map(next)?;
            let members = if self.lobby.is_some() { self.members() } else { Vec::new() };
            let from = self.incarnation(peer).unwrap_or(0);
            let taken = self.lobby.as_mut().and_then(|of| of.hears(from, &bytes, &members));
            let Some(answer) = taken else { return Some((peer, bytes)) };
            if let Some(answer) = answer {
                self.say(peer, &answer);
            }
        }
    }

    /// Opens a connection of its own for that, and waits for it.
    fn offer(&mut self, to: Peer, stream: BorrowedFd<'_>) -> bool {
        let Some(who) = self.link(to).map(|link| link.incarnation) else { return false };
        let Some(call) = self.lobby.as_ref().and_then(|of| of.call_for_stream(who, Kind::Stream))
        else {
            return false;
        };
        match stream::open(call, who, stream) {
            Ok(()) => true,
            Err(trouble) => {
                say(Level::Notice, &format!("no stream for the state: {trouble}"));
                false
            }
        }
    }

    /// A thread opens the connection.
    fn reach(&mut self, to: Peer, stream: OwnedFd) -> bool {
        let Some(link) = self.link(to).filter(|link| !link.has_ended()) else { return false };
        let who = link.incarnation;
        let call = self.lobby.as_ref().and_then(|of| of.call_for_stream(who, Kind::Reach));
        let begun = call.map_or(Ok(false), |call| stream::reach(call, who, stream).map(|()| true));
        begun.unwrap_or_else(|trouble| {
            say(Level::Warning, &format!("no registered memory: {trouble}"));
            false
        })
    }

    fn reached(&mut self) -> Option<(u64, OwnedFd)> {
        loop {
            let (who, stream) = self.reached.pop_front()?;
            if self.peer(who).is_some_and(|peer| !self.has_ended(peer)) {
                return Some((who, stream));
            }
        }
    }

    fn offered(&mut self) -> Option<(Peer, OwnedFd)> {
        loop {
            let (who, stream) = self.offered.pop_front()?;
            if let Some(peer) = self.peer(who) {
                return Some((peer, stream));
            }
        }
    }
}

impl Tcp {
    /// That I live, to all who have been shown what I shall be in: who is there already looks nowhere
    /// else, while I am in no view yet, or in a callback of the one before (X1).
    pub(super) fn beat_ahead(&mut self) {
        let Some(mine) = self.mine.last() else { return };
        let beat = mine.memory.block.cell(self.setup.beat_at).own();
        if mine.epoch == FIRST || beat == self.beat {
            return;
        }
        self.beat = beat;
        let mut values = [0; POST_WORDS_MAX];
        values[0] = beat;
        let (epoch, at) = (mine.epoch, self.setup.beat_at as u32);
        for (peer, _) in &mine.seen {
            let link = self.links.get_mut(usize::from(peer.0)).and_then(Option::as_mut);
            if let Some(link) = link.filter(|link| !link.outgoing.is_full()) {
                link.push(Parcel::Ahead { epoch, at, values, len: 1 });
                link.flush();
            }
        }
    }
}

/// The words of a block that are not zero.
fn words_of(block: &Region, bytes: usize, mut each: impl FnMut(u32, [u64; POST_WORDS_MAX], u8)) {
    let bytes = bytes.min(block.size());
    for at in (0..bytes).step_by(8 * POST_WORDS_MAX) {
        let len = POST_WORDS_MAX.min((bytes - at) / 8);
        let mut values = [0; POST_WORDS_MAX];
        for (word, value) in values[..len].iter_mut().enumerate() {
            *value = block.cell(at + word * 8).own();
        }
        if values != [0; POST_WORDS_MAX] {
            each(at as u32, values, len as u8);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
