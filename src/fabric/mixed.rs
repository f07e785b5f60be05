// SPDX-License-Identifier: MIT OR Apache-2.0
//! One group over two fabrics: members on this host by one, those on other hosts by another.
//!
//! Each peer belongs to the fabric that met it: the near one's peer `p` is `2p` here, the far one's
//! `2p + 1`. Both know the ranks of the whole view, and each only its own peers among them, so what
//! they report needs no translation.
//!
//! M1  Own memory is the near fabric's, since that one must be able to show it; the far one posts
//!     from it.
//! M2  A post goes to the far fabric as it is, for whom it knows. Near peers read the memory itself:
//!     of all posts of a turn they get one bell.
//!
//! Cost: a turn in which nobody is far is that of the near fabric, and one test.

use super::{Admission, Exchange, Fabric, Memory, Shown, Sizes, Way};
use crate::base::{Epoch, Events, Members, Peer, Post, Posting, Rank};
use crate::error::Error;
use crate::fabric::shm::socket::Watch;
use crate::mem::Region;
use crate::registered::direct::Device;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Whose peer that is, and its own name for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Near(Peer),
    Far(Peer),
}

fn side(peer: Peer) -> Side {
    match peer.0 % 2 {
        0 => Side::Near(Peer(peer.0 / 2)),
        _ => Side::Far(Peer(peer.0 / 2)),
    }
}

/// The near fabric's peer, as it is called here.
pub fn near(peer: Peer) -> Peer {
    Peer(2 * peer.0)
}

pub fn far(peer: Peer) -> Peer {
    Peer(2 * peer.0 + 1)
}

pub struct Mixed<N, F> {
    pub near: N,
    pub far: F,
    /// Ranks of the view entered last.
    nears: Members,
    fars: Members,
    watch: Watch,
    /// `Neighbours::moves` when the far fabric was told of them last.
    told: u64,
    /// What goes to the far fabric in this turn; kept for its room.
    posts: Vec<Post>,
}

impl<N: Fabric + Exchange + Neighbours, F: Fabric + Exchange + Borrows> Mixed<N, F> {
    /// Both fabrics can change views, and have no member but this one yet.
    pub fn new(near: N, far: F) -> Result<Mixed<N, F>, Error> {
        let watch = Watch::new()?;
        watch.add(near.fd(), 0)?;
        watch.add(far.fd(), 1)?;
        let (nears, fars) = (Members::NONE, Members::NONE);
        Ok(Mixed { near, far, nears, fars, watch, told: u64::MAX, posts: Vec::new() })
    }
}

impl<N: Fabric + Exchange + Neighbours, F: Fabric + Exchange + Borrows> Fabric for Mixed<N, F> {
    fn posting(&self) -> Posting {
        if self.fars.is_empty() { self.near.posting() } else { Posting::All }
    }

    fn post(&mut self, posts: &[Post]) {
        if self.fars.is_empty() {
            return self.near.post(posts);
        }
        let mut to = Members::NONE;
        self.posts.clear();
        for post in posts {
            to = to.union(post.to().common(self.nears));
            let fars = post.to().common(self.fars);
            if !fars.is_empty() && !matches!(post, Post::Bell { .. }) {
                self.posts.push(readdressed(*post, fars));
            }
        }
        self.far.post(&self.posts);
        if !to.is_empty() && self.near.posting() != Posting::Nothing {
            self.near.post(&[Post::Bell { to, news: true }]); // M2
        }
    }

    fn poll(&mut self, look: bool, events: &mut Events) {
        if look {
            self.near.poll(true, events);
            if self.near.moves() != self.told {
                self.told = self.near.moves();
                self.far.hear_of(self.near.neighbours());
            }
        }
        self.far.poll(look, events);
    }

    fn polls(&self) -> bool {
        !self.fars.is_empty() && self.far.polls()
    }

    fn revoke(&mut self, peer: Peer) {
        match side(peer) {
            Side::Near(peer) => self.near.revoke(peer),
            Side::Far(peer) => self.far.revoke(peer),
        }
    }

    fn beat(&mut self) {
        self.near.beat();
        self.far.beat();
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }

    fn arm(&mut self, room: bool) {
        self.near.arm(room);
        self.far.arm(room);
    }

    fn sleep(&mut self, timeout_ns: Option<u64>, events: &mut Events) {
        self.watch.wait(timeout_ns, |_, _| ());
        self.poll(true, events);
    }

    fn disarm(&mut self) {
        self.near.disarm();
        self.far.disarm();
    }

    fn ways(&self, tell: &mut dyn FnMut(Rank, Way)) {
        self.near.ways(tell);
        self.far.ways(tell);
    }

    fn device(&self) -> Option<Arc<dyn Device>> {
        self.near.device().or_else(|| self.far.device())
    }

    fn farewell(&mut self) {
        self.near.farewell();
        self.far.farewell();
    }

    fn parks(&self) -> bool {
        self.near.parks()
    }

    fn exchange(&mut self) -> Option<&mut dyn Exchange> {
        Some(self)
    }
}

fn readdressed(mut post: Post, whom: Members) -> Post {
    match &mut post {
        Post::Words { to, .. } | Post::Span { to, .. } | Post::Bell { to, .. } => *to = whom,
    }
    post
}

/// A fabric whose own memory may be made by somebody else (M1).
pub trait Borrows {
    /// As `Exchange::own`, with what there is; before anything of that epoch is shown.
    fn borrow_own(&mut self, epoch: Epoch, own: &Memory) -> Result<(), Error>;
    /// Who is near now, to be told to those who come from far.
    fn hear_of(&mut self, neighbours: Vec<Neighbour>);
}

/// Somebody whom the near fabric is connected with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Neighbour {
    pub incarnation: u64,
    pub seat: u16,
    pub is_member: bool,
    /// Addresses by which other hosts reach it, parted by commas.
    pub doors: String,
}

/// A fabric that knows who is near.
pub trait Neighbours {
    /// Changes whenever they do.
    fn moves(&self) -> u64;
    fn neighbours(&self) -> Vec<Neighbour>;
}

impl Neighbours for super::shm::Shm {
    fn moves(&self) -> u64 {
        self.moves()
    }

    fn neighbours(&self) -> Vec<Neighbour> {
        let of = |(incarnation, seat, is_member, doors): (u64, u16, bool, &str)| Neighbour {
            incarnation,
            seat,
            is_member,
            doors: doors.into(),
        };
        self.neighbours().map(of).collect()
    }
}

impl<N: Exchange, F: Exchange + Borrows> Exchange for Mixed<N, F> {
    fn peer(&self, incarnation: u64) -> Option<Peer> {
        let close = self.near.peer(incarnation);
        let distant = self.far.peer(incarnation);
        match (close, distant) {
            // It may have come again by the other way.
            (Some(close), Some(distant)) if self.near.has_ended(close) => Some(far(distant)),
            (Some(close), _) => Some(near(close)),
            (None, distant) => distant.map(far),
        }
    }

    fn incarnation(&self, peer: Peer) -> Option<u64> {
        match side(peer) {
            Side::Near(peer) => self.near.incarnation(peer),
            Side::Far(peer) => self.far.incarnation(peer),
        }
    }

    fn admit(&mut self, whom: Admission) {
        self.near.admit(whom);
        self.far.admit(whom);
    }

    fn has_ended(&self, peer: Peer) -> bool {
        match side(peer) {
            Side::Near(peer) => self.near.has_ended(peer),
            Side::Far(peer) => self.far.has_ended(peer),
        }
    }

    fn own(&mut self, epoch: Epoch, subgroups: &[usize]) -> Result<Memory, Error> {
        let own = self.near.own(epoch, subgroups)?;
        self.far.borrow_own(epoch, &own)?;
        Ok(own)
    }

    fn show(&mut self, epoch: Epoch, to: Peer, subgroups: &[usize]) -> Result<(), Error> {
        match side(to) {
            Side::Near(to) => self.near.show(epoch, to, subgroups),
            Side::Far(to) => self.far.show(epoch, to, subgroups),
        }
    }

    fn shown(&mut self, peer: Peer, epoch: Epoch, sizes: &Sizes) -> Result<Shown, Error> {
        match side(peer) {
            Side::Near(peer) => self.near.shown(peer, epoch, sizes),
            Side::Far(peer) => self.far.shown(peer, epoch, sizes),
        }
    }

    fn shortage(&self) -> Option<Error> {
        self.near.shortage().or_else(|| self.far.shortage())
    }

    fn enter(&mut self, epoch: Epoch, me: Rank, peers: &[Option<Peer>], blocks: &[Arc<Region>]) {
        let of = |wanted: fn(Side) -> Option<Peer>| -> Vec<Option<Peer>> {
            peers.iter().map(|peer| wanted(side((*peer)?))).collect()
        };
        let (nears, fars) = (of(if_near), of(if_far));
        (self.nears, self.fars) = (ranks(&nears), ranks(&fars));
        self.near.enter(epoch, me, &nears, blocks);
        self.far.enter(epoch, me, &fars, blocks);
    }

    fn speak(&mut self, wire: u16) {
        self.near.speak(wire);
        self.far.speak(wire);
    }

    fn alarm(&mut self, after_ns: u64) {
        self.near.alarm(after_ns);
    }

    fn say(&mut self, to: Peer, bytes: &[u8]) -> bool {
        match side(to) {
            Side::Near(to) => self.near.say(to, bytes),
            Side::Far(to) => self.far.say(to, bytes),
        }
    }

    fn heard(&mut self) -> Option<(Peer, Vec<u8>)> {
        let close = self.near.heard().map(|(peer, bytes)| (near(peer), bytes));
        close.or_else(|| self.far.heard().map(|(peer, bytes)| (far(peer), bytes)))
    }

    fn offer(&mut self, to: Peer, stream: BorrowedFd<'_>) -> bool {
        match side(to) {
            Side::Near(to) => self.near.offer(to, stream),
            Side::Far(to) => self.far.offer(to, stream),
        }
    }

    fn reach(&mut self, to: Peer, stream: OwnedFd) -> bool {
        match side(to) {
            Side::Near(to) => self.near.reach(to, stream),
            Side::Far(to) => self.far.reach(to, stream),
        }
    }

    fn reached(&mut self) -> Option<(u64, OwnedFd)> {
        self.near.reached().or_else(|| self.far.reached())
    }

    fn offered(&mut self) -> Option<(Peer, OwnedFd)> {
        let close = self.near.offered().map(|(peer, stream)| (near(peer), stream));
        close.or_else(|| self.far.offered().map(|(peer, stream)| (far(peer), stream)))
    }
}

fn if_near(side: Side) -> Option<Peer> {
    match side {
        Side::Near(peer) => Some(peer),
        Side::Far(_) => None,
    }
}

fn if_far(side: Side) -> Option<Peer> {
    match side {
        Side::Near(_) => None,
        Side::Far(peer) => Some(peer),
    }
}

fn ranks(peers: &[Option<Peer>]) -> Members {
    let there = (0..).map(Rank).zip(peers).filter(|(_, peer)| peer.is_some());
    Members::from_ranks(there.map(|(rank, _)| rank))
}
