// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of epochs to come, shown to the others over the connections that the rendezvous left.
//!
//! A message is a line of text, and what follows it:
//!
//! ```text
//! memory EPOCH SUBGROUP,SUBGROUP…      descriptors: control block, then a region of rings each
//! words                                 bytes for the driver
//! ```
//!
//! X1  What a peer shows is mapped when its epoch comes, and checked then: sealed, long enough.
//! X2  A peer that says nonsense, or shows more epochs than can be ahead, has ended: its connection
//!     is closed.
//! X3  A hang-up counts once all that was said before it has been read (N1).

use super::super::{Exchange, Memory, Shown, Sizes};
use super::socket::Socket;
use super::{Link, Shm};
use crate::base::{Epoch, Members, Peer, Rank};
use crate::error::Error;
use crate::limits::SUBGROUPS_MAX;
use crate::mem::Region;
use crate::mem::region::Want;
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Epochs that one peer may have shown and nobody has come to: it is one view ahead, and has shown
/// the next one.
const AHEAD_MAX: usize = 4;
/// Messages of one peer that one look reads.
const READ_MAX: usize = 64;

/// What this member's memory is, in every epoch.
pub struct OwnMemory {
    /// For `/proc/PID/maps`.
    pub name: String,
    pub sizes: Sizes,
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
    pub fn make(&self, notes: &mut Vec<String>) -> Result<MadeMemory, Error> {
        let mut share = |what: &str, bytes: usize| {
            let name = format!("{}-{what}", self.name);
            let (region, fd) = Region::share(&name, bytes, self.lock, self.huge, notes)?;
            Region::seal(&fd)?;
            Ok::<_, Error>((Arc::new(region), fd))
        };
        let (region, block) = share("table", self.sizes.block)?;
        let (mut regions, mut rings) = (Vec::new(), Vec::new());
        for (at, bytes) in self.sizes.rings.iter().enumerate() {
            let made = bytes.map(|bytes| share(&format!("ring{at}"), bytes)).transpose()?;
            let (region, descriptor) = made.unzip();
            regions.push(region);
            rings.push(descriptor);
        }
        Ok(MadeMemory { memory: Memory { block: region, rings: regions }, block, rings })
    }
}

/// One epoch of mine.
struct Mine {
    epoch: Epoch,
    memory: Memory,
    block: OwnedFd,
    rings: Vec<Option<OwnedFd>>,
    /// To whom it was shown.
    seen: Vec<Peer>,
}

/// One epoch of a peer's.
struct Theirs {
    peer: Peer,
    epoch: Epoch,
    subgroups: Vec<usize>,
    descriptors: Vec<OwnedFd>,
}

/// What is shown and has been shown.
pub struct Showroom {
    own: OwnMemory,
    mine: Vec<Mine>,
    theirs: Vec<Theirs>,
    heard: VecDeque<(Peer, Vec<u8>)>,
}

impl Showroom {
    pub fn new(own: OwnMemory) -> Showroom {
        Showroom { own, mine: Vec::new(), theirs: Vec::new(), heard: VecDeque::new() }
    }

    /// Takes a message; `false`: it is none (X2).
    fn take(&mut self, peer: Peer, bytes: &[u8], descriptors: Vec<OwnedFd>) -> bool {
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        let Ok(line) = std::str::from_utf8(&bytes[..end]) else { return false };
        if line == "words" && end < bytes.len() && descriptors.is_empty() {
            self.heard.push_back((peer, bytes[end + 1..].to_vec()));
            return true;
        }
        let mut parts = line.split(' ');
        if parts.next() != Some("memory") {
            return false;
        }
        let Some(Ok(epoch)) = parts.next().map(str::parse) else { return false };
        let epoch = Epoch(epoch);
        let subgroups = parts.next().unwrap_or("");
        let subgroups: Result<Vec<usize>, _> =
            subgroups.split(',').filter(|text| !text.is_empty()).map(str::parse).collect();
        let Ok(subgroups) = subgroups else { return false };
        let ahead = self.theirs.iter().filter(|theirs| theirs.peer == peer);
        let sound = subgroups.iter().all(|subgroup| *subgroup < SUBGROUPS_MAX)
            && ahead.clone().count() < AHEAD_MAX
            && ahead.clone().all(|theirs| theirs.epoch < epoch);
        if sound {
            self.theirs.push(Theirs { peer, epoch, subgroups, descriptors });
        }
        sound
    }

    fn forget(&mut self, peer: Peer) {
        self.theirs.retain(|theirs| theirs.peer != peer);
        self.heard.retain(|(from, _)| *from != peer);
        self.mine.iter_mut().for_each(|mine| mine.seen.retain(|seen| *seen != peer));
    }
}

impl Shm {
    /// Reads what a peer says; at a hang-up to the end (X3).
    pub(super) fn hear(&mut self, peer: usize, hung_up: bool) {
        let Some(showroom) = &mut self.showroom else { return };
        for _ in 0..READ_MAX {
            let link = self.links.get(peer).and_then(Option::as_ref);
            let Some(socket) = link.and_then(|link| link.socket.as_ref()) else { return };
            match socket.receive() {
                None if hung_up => break,
                None => return,
                Some(None) => break,
                Some(Some((bytes, descriptors))) => {
                    if !showroom.take(Peer(peer as u16), &bytes, descriptors) {
                        break;
                    }
                    if !hung_up {
                        return; // the rest at the next look
                    }
                }
            }
        }
        self.hang_up(peer);
    }

    fn link_of(&self, peer: Peer) -> Option<&Link> {
        self.link(usize::from(peer.0))
    }

    fn socket_of(&self, peer: Peer) -> Option<&Socket> {
        self.link_of(peer).filter(|link| !link.ended)?.socket.as_ref()
    }

    /// Forgets connections that have ended, of processes that are no members any more.
    fn tidy(&mut self) {
        for at in 0..self.links.len() {
            let member = self.peers.contains(&Some(at));
            let over = |link: &Link| link.ended || link.socket.is_none();
            if !member && self.links[at].as_ref().is_some_and(over) {
                self.links[at] = None;
                if let Some(showroom) = &mut self.showroom {
                    showroom.forget(Peer(at as u16));
                }
            }
        }
    }
}

impl Exchange for Shm {
    fn peer(&self, incarnation: u64) -> Option<Peer> {
        let its =
            |link: &Option<Link>| link.as_ref().is_some_and(|link| link.incarnation == incarnation);
        Some(Peer(self.links.iter().position(its)? as u16))
    }

    fn has_ended(&self, peer: Peer) -> bool {
        self.socket_of(peer).is_none()
    }

    fn own(&mut self, epoch: Epoch) -> Result<Memory, Error> {
        let showroom = self.showroom.as_mut().expect("views change");
        if let Some(mine) = showroom.mine.iter().find(|mine| mine.epoch == epoch) {
            return Ok(mine.memory.clone());
        }
        let MadeMemory { memory, block, rings } = showroom.own.make(&mut Vec::new())?;
        showroom.mine.push(Mine { epoch, memory: memory.clone(), block, rings, seen: Vec::new() });
        Ok(memory)
    }

    fn show(&mut self, epoch: Epoch, to: Peer, subgroups: &[usize]) {
        let Some(showroom) = &mut self.showroom else { return };
        let mine = showroom.mine.iter_mut().find(|mine| mine.epoch == epoch);
        let mine = mine.expect("made before it is shown");
        if mine.seen.contains(&to) {
            return;
        }
        let link = self.links[usize::from(to.0)].as_ref();
        let Some(socket) = link.and_then(|link| link.socket.as_ref()) else { return };
        let mut text = format!("memory {} ", epoch.0);
        let mut descriptors = vec![mine.block.as_fd()];
        for subgroup in subgroups {
            if let Some(descriptor) = &mine.rings[*subgroup] {
                text.push_str(&format!("{subgroup},"));
                descriptors.push(descriptor.as_fd());
            }
        }
        text.push('\n');
        mine.seen.push(to);
        if !socket.send(text.as_bytes(), &descriptors) {
            // It is dead, or has not read for long: what it misses it will never get.
            self.hang_up(usize::from(to.0));
            self.untold = true;
        }
    }

    fn shown(&mut self, peer: Peer, epoch: Epoch, sizes: &Sizes) -> Shown {
        let ended = self.has_ended(peer);
        let Some(showroom) = &mut self.showroom else { return Shown::Never };
        let its = |theirs: &Theirs| theirs.peer == peer && theirs.epoch == epoch;
        let Some(at) = showroom.theirs.iter().position(its) else {
            return if ended { Shown::Never } else { Shown::Waits };
        };
        let theirs = showroom.theirs.swap_remove(at);
        theirs.map(sizes).map_or(Shown::Never, Shown::Memory)
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
        self.tidy();
        if let Some(showroom) = &mut self.showroom {
            // All who need them have mapped or been sent them.
            showroom.mine.retain(|mine| mine.epoch > epoch);
            showroom.theirs.retain(|theirs| theirs.epoch > epoch);
        }
    }

    fn say(&mut self, to: Peer, bytes: &[u8]) -> bool {
        let Some(socket) = self.socket_of(to) else { return false };
        socket.send(&[b"words\n", bytes].concat(), &[])
    }

    fn heard(&mut self) -> Option<(Peer, Vec<u8>)> {
        self.showroom.as_mut()?.heard.pop_front()
    }
}

impl Theirs {
    /// `None`: it is not what it should be (X1).
    fn map(self, sizes: &Sizes) -> Option<Memory> {
        let mut descriptors = self.descriptors.into_iter();
        let block = Region::map_peer(&descriptors.next()?, sizes.block).ok()?;
        let mut rings = vec![None; sizes.rings.len()];
        for subgroup in self.subgroups {
            let descriptor = descriptors.next()?;
            if let Some(Some(bytes)) = sizes.rings.get(subgroup) {
                rings[subgroup] = Some(Arc::new(Region::map_peer(&descriptor, *bytes).ok()?));
            }
        }
        let whole =
            rings.iter().zip(&sizes.rings).all(|(ring, size)| ring.is_some() == size.is_some());
        whole.then(|| Memory { block: Arc::new(block), rings })
    }
}
