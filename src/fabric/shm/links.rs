// SPDX-License-Identifier: MIT OR Apache-2.0
//! The connections of a member whose views change: what they say, when it cannot be taken, and their
//! ends.
//!
//! L1  What comes with descriptors that this process may not open stays in the connection, and all
//!     that follows it. It is tried again every `SHORT_WAIT`, and whenever it is needed. Nobody is at
//!     fault for it but this process.
//! L2  Who is no member holds no descriptor of a member's from its end on. Its place stays until the
//!     next view, since a view that is being built may name it; the places are `GHOSTS_MAX` at the
//!     most, then the oldest one is given away. One that joins itself keeps all that it is shown.

use super::super::Admission;
use super::door::Hello;
use super::exchange::{READ_MAX, Showroom};
use super::socket::{Bell, Socket, Taken};
use super::{Link, Shm, rest_of};
use crate::base::{Peer, Versions};
use crate::error::Error;
use crate::fabric::Fabric;
use crate::mem::Region;
use std::sync::Arc;
use std::time::Instant;

/// Far more than can end between an `Install` and the view that it begins.
const GHOSTS_MAX: usize = 1024;

impl Link {
    pub(super) fn new(
        (incarnation, seat): (u64, u16),
        (pid, parks): (u32, bool),
        socket: Socket,
        bell: Bell,
        block: Arc<Region>,
    ) -> Link {
        Link {
            incarnation,
            seat,
            versions: Versions::OURS,
            doors: String::new(),
            pid,
            parks,
            socket: Some(socket),
            bell: Some(bell),
            block,
            rung: 0,
            ended: false,
            revoked: false,
            sure: true,
            short: None,
        }
    }
}

impl Shm {
    /// Reads what a peer says; at a hang-up to the end (X3), or up to what cannot be taken.
    pub(super) fn hear(&mut self, peer: usize, hung_up: bool) {
        let Some(showroom) = &mut self.showroom else { return };
        for _ in 0..READ_MAX {
            let Some(link) = self.links.get_mut(peer).and_then(Option::as_mut) else { return };
            let Some(socket) = &link.socket else { return };
            match socket.take() {
                Taken::Nothing if hung_up => break,
                Taken::Nothing => return,
                Taken::Ended => break,
                Taken::Short(short) => {
                    if link.short.is_none() {
                        self.watch.await_hang_up(socket, peer as u64);
                    }
                    link.short = Some(short);
                    self.starved = Some(Instant::now()); // L1
                    if hung_up {
                        break;
                    }
                    return;
                }
                Taken::Message(bytes, descriptors) => {
                    if link.short.take().is_some() && !link.ended {
                        self.watch.await_all(socket, peer as u64);
                    }
                    link.sure = true;
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

    /// What a peer has said and I could not take, if it is needed now. Whether some is left.
    pub(super) fn hear_out(&mut self, peer: usize) -> Option<Error> {
        for _ in 0..READ_MAX {
            self.link(peer)?.short.as_ref()?;
            let ended = self.link(peer)?.ended;
            self.hear(peer, ended);
            if let Some(short) = &self.link(peer)?.short {
                return Some(short.clone());
            }
        }
        None
    }

    /// What this process lacks, if somebody cannot be heard for that.
    pub(super) fn short_of(&self) -> Option<&Error> {
        self.links.iter().flatten().find_map(|link| link.short.as_ref())
    }

    /// Tries again to hear those that wait for it, when it is time; until then nobody sleeps longer.
    #[cold]
    pub(super) fn listen_again(&mut self, timeout_ns: Option<u64>) -> Option<u64> {
        if let Some(rest) = rest_of(self.starved) {
            return Some(timeout_ns.map_or(rest, |timeout| timeout.min(rest)));
        }
        self.starved = None;
        for peer in 0..self.links.len() {
            self.hear_out(peer);
        }
        timeout_ns
    }

    /// Nothing comes from there any more.
    pub(super) fn hang_up(&mut self, peer: usize) {
        let member = self.peers.contains(&Some(peer));
        let Some(link) = self.links.get_mut(peer).and_then(Option::as_mut) else { return };
        if let Some(socket) = &link.socket {
            self.watch.remove(socket);
        }
        if link.ended {
            return;
        }
        (link.ended, self.untold) = (true, true);
        self.moves += 1;
        let guest = |of: &&mut Showroom| !member && of.admits == Admission::All;
        let Some(showroom) = self.showroom.as_mut().filter(guest) else { return };
        (link.socket, link.bell, link.short) = (None, None, None); // L2
        showroom.forget(Peer(peer as u16));
        self.ghosts.push_back(peer);
    }

    /// Keeps a connection with one that is no member yet.
    pub fn connect(&mut self, hello: &Hello, socket: Socket, bell: Bell) -> Result<Peer, Error> {
        // Whoever takes me in knows of no other connection with me (X4).
        let older = |link: &Option<Link>| {
            let its = |link: &Link| link.incarnation == hello.incarnation && link.socket.is_some();
            link.as_ref().is_some_and(|link| its(link) && !link.ended)
        };
        for at in (0..self.links.len()).filter(|at| older(&self.links[*at])).collect::<Vec<_>>() {
            debug_assert!(!self.is_in(at), "members are called, and do not call");
            Fabric::revoke(self, Peer(at as u16));
        }
        let oldest = |of: &mut Shm| of.ghosts.pop_front().filter(|at| !of.is_in(*at));
        let free = match self.links.iter().position(Option::is_none) {
            Some(free) => free,
            None if self.ghosts.len() >= GHOSTS_MAX => oldest(self).unwrap_or(self.links.len()),
            None => self.links.len(),
        };
        self.watch.add(&socket, free as u64)?;
        if free == self.links.len() {
            self.links.push(None);
        }
        let block = self.block.clone(); // until it is a member
        let who = (hello.pid, hello.parks);
        let mut link = Link::new((hello.incarnation, hello.rank), who, socket, bell, block);
        (link.versions, link.doors) = (hello.versions, hello.doors.clone());
        self.links[free] = Some(link);
        self.moves += 1;
        Ok(Peer(free as u16))
    }

    /// Where other hosts reach me, for those that connect from now on.
    pub fn set_doors(&mut self, doors: &str) {
        self.hello.doors = doors.into();
    }

    pub fn doors(&self) -> &str {
        &self.hello.doors
    }

    /// What one speaks that is connected.
    pub fn versions(&self, incarnation: u64) -> Option<Versions> {
        let mut links = self.links.iter().flatten();
        links.find(|link| link.incarnation == incarnation).map(|link| link.versions)
    }

    /// Changes when somebody comes or goes, or a view begins.
    pub fn moves(&self) -> u64 {
        self.moves
    }

    /// All that are connected: incarnation, seat, whether it is a member, where other hosts reach it.
    pub fn neighbours(&self) -> impl Iterator<Item = (u64, u16, bool, &str)> {
        let live = self.links.iter().enumerate();
        let live = live.filter_map(|(at, link)| Some((at, link.as_ref()?)));
        live.filter(|(_, link)| !link.ended && link.socket.is_some())
            .map(|(at, link)| (link.incarnation, link.seat, self.is_in(at), link.doors.as_str()))
    }

    /// Whether that is a member of the view entered last.
    fn is_in(&self, peer: usize) -> bool {
        self.peers.contains(&Some(peer))
    }

    /// Forgets connections that have ended, of processes that are no members any more.
    pub(super) fn tidy(&mut self) {
        self.ghosts.clear();
        for at in 0..self.links.len() {
            let over = |link: &Link| link.ended || link.socket.is_none();
            if !self.is_in(at) && self.links[at].as_ref().is_some_and(over) {
                self.links[at] = None;
                if let Some(showroom) = &mut self.showroom {
                    showroom.forget(Peer(at as u16));
                }
            }
        }
    }
}
