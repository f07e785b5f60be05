// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of epochs to come, shown to the others over the connections that the rendezvous left.
//!
//! A message is a line of text, and what follows it:
//!
//! ```text
//! memory EPOCH SUBGROUP,SUBGROUP…      descriptors: control block, then a region of rings each
//! words                                 bytes for the driver
//! stream                                a descriptor: one end of a connection for a state transfer
//! reach                                 the same, for registered memory
//! ```
//!
//! X1  What a peer shows is mapped when its epoch comes, and checked then: sealed, long enough. What
//!     this process lacks for it is an error, and nobody's fault (`mem/errno.rs`).
//! X2  A peer that says nonsense, or shows more epochs than can be ahead, has ended: its connection
//!     is closed.
//! X3  A hang-up counts once all that was said before it has been read (N1).
//! X4  There is one connection per incarnation: with two, each end might mean another one. Only if it
//!     has ended may a process that is no member yet come again.
//! X5  Who joins says of a connection that it was called by only once the caller has said something
//!     there. Before, the caller may have become a member and dropped its call: it would hear of a
//!     joiner that it is not connected with, and cut it off.

use super::super::{Admission, Exchange, Memory, Shown, Sizes};
use super::door::{self, Kind, Visitor};
use super::socket::{Alarm, Bell, Socket};
use super::{Link, Shm};
use crate::base::{Epoch, Members, Peer, Rank};
use crate::error::{Error, Status};
use crate::limits::SUBGROUPS_MAX;
use crate::log_sink::{Level, say};
use crate::mem::Region;
use crate::mem::region::Want;
use crate::mutant;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Epochs that one peer may have shown and nobody has come to: it is one view ahead, and has shown
/// the next one.
const AHEAD_MAX: usize = 4;
/// What all peers have said and nobody has listened to, at the most.
const HEARD_MAX: usize = 1024;
/// Streams that all peers have offered and nobody has taken, at the most.
const OFFERED_MAX: usize = 64;
/// Messages of one peer that one look reads.
pub(super) const READ_MAX: usize = 64;

/// What this member's memory is, in every epoch.
#[derive(Clone)]
pub struct OwnMemory {
    /// For `/proc/PID/maps`.
    pub name: String,
    pub block_bytes: usize,
    /// By subgroup: of all lanes of one sender.
    pub ring_bytes: Vec<usize>,
    pub lock: Want,
    pub huge: Want,
}

/// Memory of mine, and what others map it by.
pub struct MadeMemory {
    pub memory: Memory,
    pub block: OwnedFd,
    /// By subgroup.
    pub rings: Vec<Option<OwnedFd>>,
}

impl OwnMemory {
    /// Makes it: zeroed, sealed. `notes`: as `Region::share`.
    pub fn make(&self, subgroups: &[usize], notes: &mut Vec<String>) -> Result<MadeMemory, Error> {
        let (block, block_fd) = self.share("table", self.block_bytes, notes)?;
        let count = self.ring_bytes.len();
        let memory = Memory { block, rings: vec![None; count] };
        let rings = (0..count).map(|_| None).collect();
        let mut made = MadeMemory { memory, block: block_fd, rings };
        made.extend(self, subgroups, notes)?;
        Ok(made)
    }

    fn share(
        &self,
        what: &str,
        bytes: usize,
        notes: &mut Vec<String>,
    ) -> Result<(Arc<Region>, OwnedFd), Error> {
        let name = format!("{}-{what}", self.name);
        let (region, fd) = Region::share(&name, bytes, self.lock, self.huge, notes)?;
        Region::seal(&fd)?;
        Ok((Arc::new(region), fd))
    }
}

impl MadeMemory {
    /// Makes the rings that are not there yet.
    fn extend(
        &mut self,
        own: &OwnMemory,
        subgroups: &[usize],
        notes: &mut Vec<String>,
    ) -> Result<(), Error> {
        for &at in subgroups {
            if self.rings[at].is_none() {
                let (region, fd) = own.share(&format!("ring{at}"), own.ring_bytes[at], notes)?;
                self.memory.rings[at] = Some(region);
                self.rings[at] = Some(fd);
            }
        }
        Ok(())
    }
}

/// One epoch of mine.
struct Mine {
    epoch: Epoch,
    made: MadeMemory,
    /// To whom it was shown, and whose rings.
    seen: Vec<(Peer, Vec<usize>)>,
}

/// One epoch of a peer's.
struct Theirs {
    peer: Peer,
    epoch: Epoch,
    block: OwnedFd,
    rings: Vec<(usize, OwnedFd)>,
}

/// The first epoch that a member is in, whichever that is.
const FIRST: Epoch = Epoch(0);

/// What is shown and has been shown.
pub struct Showroom {
    pub(super) admits: Admission,
    pub(super) alarm: Option<Alarm>,
    own: OwnMemory,
    mine: Vec<Mine>,
    theirs: Vec<Theirs>,
    heard: VecDeque<(Peer, Vec<u8>)>,
    offered: VecDeque<(Peer, OwnedFd)>,
    reached: VecDeque<(Peer, OwnedFd)>,
    /// What was wanted of my memory and not had, as far as it has been said.
    told: Vec<String>,
}

impl Showroom {
    pub fn new(own: OwnMemory) -> Showroom {
        let (mine, theirs, heard) = (Vec::new(), Vec::new(), VecDeque::new());
        let (offered, reached, told) = (VecDeque::new(), VecDeque::new(), Vec::new());
        let (admits, alarm) = (Admission::Nobody, None);
        Showroom { admits, alarm, own, mine, theirs, heard, offered, reached, told }
    }

    /// Takes a message; `false`: it is none (X2).
    pub(super) fn take(&mut self, peer: Peer, bytes: &[u8], descriptors: Vec<OwnedFd>) -> bool {
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        let Ok(line) = std::str::from_utf8(&bytes[..end]) else { return false };
        if line == "words" && end < bytes.len() && descriptors.is_empty() {
            self.heard.push_back((peer, bytes[end + 1..].to_vec()));
            return self.heard.len() <= HEARD_MAX;
        }
        let queue = match line {
            "stream" => Some(&mut self.offered),
            "reach" => Some(&mut self.reached),
            _ => None,
        };
        if let Some(queue) = queue.filter(|_| descriptors.len() == 1) {
            queue.extend(descriptors.into_iter().map(|stream| (peer, stream)));
            return queue.len() <= OFFERED_MAX;
        }
        self.take_memory(peer, line, descriptors).is_some()
    }

    fn take_memory(&mut self, peer: Peer, line: &str, descriptors: Vec<OwnedFd>) -> Option<()> {
        let mut parts = line.strip_prefix("memory ")?.split(' ');
        let epoch = Epoch(parts.next()?.parse().ok()?);
        let subgroups = parts.next()?.split(',').filter(|text| !text.is_empty());
        let subgroups = subgroups.map(|text| text.parse().ok()).collect::<Option<Vec<usize>>>()?;
        if descriptors.len() != 1 + subgroups.len() {
            return None; // all have been taken, so it has shown no more
        }
        let mut descriptors = descriptors.into_iter();
        let block = descriptors.next()?;
        let rings: Vec<(usize, OwnedFd)> = subgroups.into_iter().zip(descriptors).collect();
        let its = |theirs: &&mut Theirs| theirs.peer == peer && theirs.epoch == epoch;
        if let Some(before) = self.theirs.iter_mut().find(its) {
            before.rings.extend(rings);
            return (before.rings.len() <= SUBGROUPS_MAX).then_some(());
        }
        let ahead = self.theirs.iter().filter(|theirs| theirs.peer == peer).count();
        if ahead >= AHEAD_MAX || rings.len() > SUBGROUPS_MAX {
            return None;
        }
        self.theirs.push(Theirs { peer, epoch, block, rings });
        Some(())
    }

    pub(super) fn forget(&mut self, peer: Peer) {
        self.theirs.retain(|theirs| theirs.peer != peer);
        self.heard.retain(|(from, _)| *from != peer);
        self.offered.retain(|(from, _)| *from != peer);
        self.reached.retain(|(from, _)| *from != peer);
        self.mine.iter_mut().for_each(|mine| mine.seen.retain(|(seen, _)| *seen != peer));
    }
}

impl Shm {
    /// Answers one who wants to join, or asks whether here is a group to join.
    pub(super) fn let_in(&mut self, mut visitor: Visitor) {
        let Some(showroom) = &self.showroom else { return };
        let theirs = visitor.hello.clone();
        let who = format!("process {}", theirs.pid);
        if let Err(differs) = door::compare(&self.hello, &theirs, &who) {
            // It hears in its own words what differs.
            let (status, sentence) = (differs.status, &differs.detail);
            return door::refuse(&visitor.socket, status, sentence, Some(&self.hello));
        }
        let open = match showroom.admits {
            Admission::All => true,
            Admission::Higher => match theirs.kind {
                Kind::Enter => theirs.rank > self.hello.rank,
                Kind::Join => self.founds && theirs.rank > self.hello.rank,
                _ => false,
            },
            Admission::Nobody => false,
        };
        let refuse = |sentence: &str| {
            let status = Status::NotComplete;
            door::refuse(&visitor.socket, status, sentence, Some(&self.hello));
        };
        if let Some(short) = &visitor.short {
            say(Level::Warning, &format!("{who} cannot be joined now: {short}"));
            return refuse(&format!("process {} cannot meet others: {short}", self.hello.pid));
        }
        if !open {
            return refuse("this process is no member yet, or no more");
        }
        if theirs.kind == Kind::Probe {
            door::welcome(&visitor.socket, &self.hello, &[]);
            return;
        }
        let bell = visitor.descriptors.pop().map(Bell::from_descriptor);
        let (Some(Ok(bell)), 1..) = (bell, theirs.incarnation) else {
            return refuse("it shows too little to be a member");
        };
        if self.peer(theirs.incarnation).is_some_and(|peer| !self.has_ended(peer)) {
            return refuse("this process is connected already"); // X4
        }
        self.watch.remove(&visitor.socket); // so that there is room to watch it again
        match self.connect(&theirs, visitor.socket, bell) {
            Ok(peer) => {
                let link = self.links[usize::from(peer.0)].as_mut().expect("just connected");
                link.sure = mutant!("shm-calls-are-sure");
                let socket = link.socket.as_ref().expect("just connected");
                if !door::welcome(socket, &self.hello, &[self.bell.as_fd()]) {
                    self.watch.remove(socket); // nobody knows of it
                    self.links[usize::from(peer.0)] = None;
                }
            }
            Err(trouble) => say(Level::Warning, &format!("{who} cannot be joined: {trouble}")),
        }
    }

    /// Whether this member founds its group with others, or joins: before it is in a view.
    pub(super) fn begins(&self) -> bool {
        self.showroom.as_ref().is_some_and(|showroom| showroom.admits == Admission::Higher)
    }

    /// Incarnations that I am connected with, as they know, too (X5).
    pub fn connected(&self) -> Vec<u64> {
        let live = self.links.iter().flatten();
        live.filter(|link| !link.ended && link.socket.is_some() && link.sure)
            .map(|link| link.incarnation)
            .collect()
    }

    /// A copy of my bell, for whom I call.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    fn link_of(&self, peer: Peer) -> Option<&Link> {
        self.link(usize::from(peer.0))
    }

    fn socket_of(&self, peer: Peer) -> Option<&Socket> {
        self.link_of(peer).filter(|link| !link.ended)?.socket.as_ref()
    }
}

impl Exchange for Shm {
    fn peer(&self, incarnation: u64) -> Option<Peer> {
        let its = |at: &usize| self.link(*at).is_some_and(|link| link.incarnation == incarnation);
        let lives = |at: &usize| !self.has_ended(Peer(*at as u16));
        let mut all = (0..self.links.len()).filter(its);
        let ended = |at: &usize| self.link(*at).is_some_and(|link| !link.revoked);
        let found = all.clone().find(lives).or_else(|| all.clone().find(ended)); // X4
        let found = found.or_else(|| all.next());
        found.map(|at| Peer(at as u16))
    }

    fn incarnation(&self, peer: Peer) -> Option<u64> {
        Some(self.link_of(peer)?.incarnation)
    }

    fn admit(&mut self, whom: Admission) {
        if let Some(showroom) = &mut self.showroom {
            showroom.admits = whom;
        }
        if whom == Admission::Nobody {
            if let Some(listener) = &self.door.listener {
                self.watch.remove(listener);
            }
            self.door.close();
        }
    }

    fn has_ended(&self, peer: Peer) -> bool {
        self.socket_of(peer).is_none()
    }

    fn own(&mut self, epoch: Epoch, subgroups: &[usize]) -> Result<Memory, Error> {
        let Showroom { own, mine, told, .. } = self.showroom.as_mut().expect("views change");
        let mut notes = Vec::new();
        if let Some(first) = mine.iter_mut().find(|mine| mine.epoch == FIRST) {
            first.epoch = epoch;
        }
        let at = match mine.iter().position(|mine| mine.epoch == epoch) {
            Some(at) => at,
            None => {
                let made = own.make(subgroups, &mut notes)?;
                mine.push(Mine { epoch, made, seen: Vec::new() });
                mine.len() - 1
            }
        };
        mine[at].made.extend(own, subgroups, &mut notes)?;
        for note in notes {
            if !told.contains(&note) {
                say(Level::Warning, &note);
                told.push(note);
            }
        }
        Ok(mine[at].made.memory.clone())
    }

    fn show(&mut self, epoch: Epoch, to: Peer, subgroups: &[usize]) -> Result<(), Error> {
        let Some(showroom) = &mut self.showroom else { return Ok(()) };
        let mine = showroom.mine.iter_mut().find(|mine| mine.epoch == epoch);
        let Mine { made, seen, .. } = mine.expect("made before it is shown");
        let before = seen.iter().position(|(peer, _)| *peer == to);
        let new = |at: &usize| before.is_none_or(|before| !seen[before].1.contains(at));
        let new: Vec<usize> = subgroups.iter().copied().filter(new).collect();
        if before.is_some() && new.is_empty() {
            return Ok(());
        }
        let link = self.links[usize::from(to.0)].as_ref();
        let Some(socket) = link.and_then(|link| link.socket.as_ref()) else { return Ok(()) };
        let mut text = format!("memory {} ", epoch.0);
        let mut descriptors = vec![made.block.as_fd()];
        for subgroup in &new {
            let descriptor = made.rings[*subgroup].as_ref().expect("made before it is shown");
            text.push_str(&format!("{subgroup},"));
            descriptors.push(descriptor.as_fd());
        }
        text.push('\n');
        let sent = socket.deliver(text.as_bytes(), &descriptors)?;
        match before {
            Some(before) => seen[before].1.extend(new),
            None => seen.push((to, new)),
        }
        if !sent {
            // It is dead, or has not read for long: what it misses it will never get.
            self.hang_up(usize::from(to.0));
        }
        Ok(())
    }

    fn shown(&mut self, peer: Peer, epoch: Epoch, sizes: &Sizes) -> Result<Shown, Error> {
        let short = self.hear_out(usize::from(peer.0));
        let ended = self.has_ended(peer);
        let Some(showroom) = &mut self.showroom else { return Ok(Shown::Never) };
        let its = |theirs: &&Theirs| theirs.peer == peer && theirs.epoch == epoch;
        let theirs = showroom.theirs.iter().find(its);
        let there = |theirs: &&Theirs| theirs.has(sizes);
        match (theirs.filter(there), short) {
            (Some(theirs), _) => match theirs.map(sizes) {
                Ok(memory) => Ok(Shown::Memory(memory)),
                Err(error) if error.status == Status::PeerFault => {
                    say(Level::Warning, &format!("what a member shows is refused: {error}"));
                    Ok(Shown::Never)
                }
                Err(mine) => Err(mine),
            },
            (None, Some(short)) => Err(short),
            (None, None) if ended => Ok(Shown::Never),
            (None, None) => Ok(Shown::Waits),
        }
    }

    fn shortage(&self) -> Option<Error> {
        self.short_of().cloned()
    }

    fn enter(&mut self, epoch: Epoch, me: Rank, peers: &[Option<Peer>], blocks: &[Arc<Region>]) {
        self.peers = peers.iter().map(|peer| Some(usize::from((*peer)?.0))).collect();
        for (peer, block) in self.peers.iter().zip(blocks) {
            if let Some(link) = peer.and_then(|peer| self.links[peer].as_mut()) {
                link.block = block.clone();
                link.rung = 0;
            }
        }
        self.block = blocks[me.index()].clone();
        (self.gone, self.untold) = (Members::NONE, true);
        self.moves += 1;
        self.tidy();
        if let Some(showroom) = &mut self.showroom {
            // All who need them have mapped or been sent them.
            showroom.mine.retain(|mine| mine.epoch > epoch);
            let waits =
                |theirs: &Theirs| theirs.epoch == FIRST && !peers.contains(&Some(theirs.peer));
            showroom.theirs.retain(|theirs| theirs.epoch > epoch || waits(theirs));
        }
    }

    fn speak(&mut self, wire: u16) {
        self.hello.wire = wire;
    }

    fn alarm(&mut self, after_ns: u64) {
        if let Some(alarm) = self.showroom.as_ref().and_then(|of| of.alarm.as_ref()) {
            alarm.set(after_ns);
        }
    }

    fn say(&mut self, to: Peer, bytes: &[u8]) -> bool {
        let Some(socket) = self.socket_of(to) else { return false };
        socket.send(&[b"words\n", bytes].concat(), &[])
    }

    fn heard(&mut self) -> Option<(Peer, Vec<u8>)> {
        self.showroom.as_mut()?.heard.pop_front()
    }

    fn offer(&mut self, to: Peer, stream: BorrowedFd<'_>) -> bool {
        self.socket_of(to).is_some_and(|socket| socket.send(b"stream\n", &[stream]))
    }

    fn offered(&mut self) -> Option<(Peer, OwnedFd)> {
        self.showroom.as_mut()?.offered.pop_front()
    }

    fn reach(&mut self, to: Peer, stream: OwnedFd) -> bool {
        self.socket_of(to).is_some_and(|socket| socket.send(b"reach\n", &[stream.as_fd()]))
    }

    fn reached(&mut self) -> Option<(u64, OwnedFd)> {
        loop {
            let (peer, stream) = self.showroom.as_mut()?.reached.pop_front()?;
            if let Some(link) = self.link_of(peer).filter(|link| !link.ended) {
                return Some((link.incarnation, stream));
            }
        }
    }
}

impl Theirs {
    fn ring(&self, subgroup: usize) -> Option<&OwnedFd> {
        self.rings.iter().find(|(at, _)| *at == subgroup).map(|(_, descriptor)| descriptor)
    }

    fn has(&self, sizes: &Sizes) -> bool {
        let all = sizes.rings.iter().enumerate();
        all.filter(|(_, bytes)| bytes.is_some()).all(|(at, _)| self.ring(at).is_some())
    }

    /// As it `has` those. An error: X1.
    fn map(&self, sizes: &Sizes) -> Result<Memory, Error> {
        let block = Arc::new(Region::map_peer(&self.block, sizes.block)?);
        let mut rings = vec![None; sizes.rings.len()];
        for (at, bytes) in sizes.rings.iter().enumerate() {
            if let (Some(bytes), Some(ring)) = (bytes, self.ring(at)) {
                rings[at] = Some(Arc::new(Region::map_peer(ring, *bytes)?));
            }
        }
        Ok(Memory { block, rings })
    }
}

#[cfg(all(test, not(loom)))]
pub mod tests;
