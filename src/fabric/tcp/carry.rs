// SPDX-License-Identifier: MIT OR Apache-2.0
//! This fabric under another one, which has a way of its own for the posts and needs all the rest: who
//! meets whom, what is shown and said, whose end it is.
//!
//! Between two such members no words and no spans are sent here once a view is entered, and no beat in it:
//! what comes by two ways has no order, and a counter would go back. What the upper fabric says to that
//! of a peer goes in the same stream as all the rest, and so in the same order.

use super::mirror::{Carried, Measures};
use super::outgoing::Parcel;
use super::{Link, PARTINGS_MAX, Parting, Tcp, wire};
use crate::base::{Peer, Rank};
use std::collections::VecDeque;
use std::sync::Arc;

impl Tcp {
    /// Posts go and come by another way. Before the first connection.
    pub fn leave_posts(&mut self) {
        assert!(self.links.is_empty(), "nobody is connected yet");
        self.met = Some(VecDeque::new());
    }

    /// A connection that is new. Whoever had that number before has ended, and is forgotten.
    pub fn next_met(&mut self) -> Option<Peer> {
        self.met.as_mut()?.pop_front()
    }

    /// Says something to the fabric of a peer; `false`: it is gone, or does not read.
    pub fn carry(&mut self, to: Peer, bytes: &[u8]) -> bool {
        assert!(bytes.len() <= wire::CARRY_BYTES_MAX, "what is carried is short");
        let Some(link) = self.link_mut(to) else { return false };
        if link.has_ended() || link.outgoing.is_choked() {
            return false;
        }
        link.push(Parcel::Carry(bytes.to_vec()));
        link.flush();
        true
    }

    /// What that of a peer has said, also one that has ended since.
    pub fn next_carried(&mut self, of: Peer) -> Option<Carried> {
        self.link_mut(of)?.mirror.next_carried()
    }

    /// So many places for connections there are; who is in one that lives.
    pub fn places(&self) -> usize {
        self.links.len()
    }

    pub fn lives(&self, peer: Peer) -> bool {
        self.link(peer).is_some_and(|link| !link.has_ended())
    }

    /// The other way is broken, or the peer says nonsense there: its connection is over, and that is
    /// reported as such an end is (F5).
    pub fn cut(&mut self, peer: Peer) {
        self.end(usize::from(peer.0));
    }

    /// As `revoke`, but the peer is not told before `hang_up`, or the end of what is handed out here.
    pub fn disown(&mut self, peer: Peer) -> Option<Parting> {
        let at = usize::from(peer.0);
        let rank = self.peers.iter().position(|of| *of == Some(at));
        if let Some(rank) = rank {
            self.gone.insert(Rank(rank as u16)); // that is no news
        }
        self.still(at)
    }

    pub fn hang_up(&mut self, mut parting: Parting) {
        parting.shut();
        if self.partings.len() < PARTINGS_MAX {
            self.partings.push(parting);
        }
    }

    /// What waits for a peer is the last that is said to it.
    pub fn part(&mut self, peer: Peer) {
        self.left = true;
        if let Some(link) = self.link_mut(peer) {
            link.part();
        }
    }

    pub fn measures(&self) -> &Arc<Measures> {
        &self.measures
    }

    /// Bytes of the words of a control block that say "I live" and "I have left".
    pub fn beat_at(&self) -> usize {
        self.setup.beat_at
    }

    pub fn closed_at(&self) -> usize {
        self.setup.closed_at
    }

    /// Makes `fd` readable.
    pub fn ring(&self) {
        self.bell.ring();
    }

    /// The other end of a connection, for whoever looks.
    pub fn remote(&self, peer: Peer) -> Option<std::net::SocketAddr> {
        self.link(peer).and_then(|link: &Link| link.remote)
    }
}
