// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lazy NIC: a queue of posts per ordered pair of members, landing later and in pieces.
//!
//! Posts of a pair land in the order posted, one after the other (F2). The words of one post land
//! one by one in any order (F1); words carry their values, spans are read from the owner's memory
//! word by word as they land (F3). Where a mirror is the owner's memory there is nothing to land.

use super::dice::Dice;
use super::rows::{Row, Tallies};
use crate::base::{Members, POST_WORDS_MAX, Post, Rank, RingId};
use crate::mem::Region;
use crate::mutant;
use std::collections::VecDeque;
use std::sync::Arc;

/// A post on its way to one peer.
#[derive(Clone, Copy, Debug)]
enum Parcel {
    /// `left`: bit per word that has not landed.
    Words { at: u32, values: [u64; POST_WORDS_MAX], len: u8, left: u8 },
    /// Words `0..words` from byte `at` of the ring region; `landed` of them have, in the order
    /// `first + k * stride`.
    Span { subgroup: u16, at: usize, words: u64, landed: u64, first: u64, stride: u64 },
}

/// One ordered pair's queue, and where its posts land.
struct Wire {
    queue: VecDeque<Parcel>,
    lazy: bool,
    /// Nothing lands before this step of the world.
    stuck_until: u64,
}

/// What has happened at the far end of a wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Landed {
    pub from: Rank,
    pub to: Rank,
    pub words: u64,
    /// A cell of the mirror that went back: its byte, from, to.
    pub regressed: Option<(usize, u64, u64)>,
    /// The queue was at its limit and is no more.
    pub room_again: bool,
}

/// Where the posts of one who died were cut short on their way to a peer: the first byte of the
/// words that were the last to land, and of those that were the first not to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Torn {
    pub kept: Option<usize>,
    pub lost: Option<usize>,
}

pub struct Wires {
    members: usize,
    limit: usize,
    wires: Vec<Wire>,
    queued: usize,
    /// By owner.
    pub blocks: Vec<Arc<Region>>,
    /// By owner and reader.
    pub mirrors: Vec<Arc<Region>>,
    /// By owner, then subgroup; `None` where it is no sender.
    pub rings: Vec<Vec<Option<Arc<Region>>>>,
    /// By owner and reader, then subgroup.
    pub ring_mirrors: Vec<Vec<Option<Arc<Region>>>>,
    pub lane_bytes: Vec<u64>,
}

impl Wires {
    /// `rings`: by owner and subgroup, the bytes of its rings. `lazy`: whether a pair has a NIC.
    pub fn new(
        control_bytes: usize,
        rings: &[Vec<Option<usize>>],
        lane_bytes: Vec<u64>,
        limit: usize,
        lazy: impl Fn(usize, usize) -> bool,
    ) -> Wires {
        let members = rings.len();
        let heap = |bytes: usize| Arc::new(Region::heap(bytes));
        let heaps = |of: &Vec<Option<usize>>| of.iter().map(|bytes| bytes.map(heap)).collect();
        let blocks: Vec<Arc<Region>> = (0..members).map(|_| heap(control_bytes)).collect();
        let own: Vec<Vec<Option<Arc<Region>>>> = rings.iter().map(heaps).collect();
        let (mut mirrors, mut ring_mirrors, mut wires) = (Vec::new(), Vec::new(), Vec::new());
        for owner in 0..members {
            for reader in 0..members {
                let lazy = owner != reader && lazy(owner, reader);
                mirrors.push(if lazy { heap(control_bytes) } else { blocks[owner].clone() });
                let rings = if lazy { heaps(&rings[owner]) } else { own[owner].clone() };
                ring_mirrors.push(rings);
                wires.push(Wire { queue: VecDeque::new(), lazy, stuck_until: 0 });
            }
        }
        Wires {
            members,
            limit,
            wires,
            queued: 0,
            blocks,
            mirrors,
            rings: own,
            ring_mirrors,
            lane_bytes,
        }
    }

    pub fn mirror(&self, owner: usize, reader: usize) -> &Arc<Region> {
        &self.mirrors[owner * self.members + reader]
    }

    pub fn ring_mirror(&self, owner: usize, reader: usize, subgroup: usize) -> &Arc<Region> {
        let rings = &self.ring_mirrors[owner * self.members + reader];
        rings[subgroup].as_ref().expect("a sender has a ring")
    }

    /// Posts that have not landed.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// The peers that take no posts of `from` now.
    pub fn full(&self, from: Rank) -> Members {
        let wires = &self.wires[from.index() * self.members..][..self.members];
        let full = (0u16..).zip(wires).filter(|(_, wire)| wire.queue.len() >= self.limit);
        Members::from_ranks(full.map(|(rank, _)| Rank(rank)))
    }

    /// Takes the posts of a turn.
    pub fn post(&mut self, from: Rank, posts: &[Post], dice: &Dice) {
        for post in posts {
            for to in post.to().iter() {
                assert!(to != from, "a post to myself");
                let wire = &mut self.wires[from.index() * self.members + to.index()];
                if !wire.lazy {
                    continue;
                }
                let parcel = match *post {
                    Post::Words { at, values, len, .. } => {
                        let left = ((1u32 << len) - 1) as u8;
                        Parcel::Words { at, values, len, left }
                    }
                    Post::Span { ring, from, upto, .. } => {
                        span(ring, from, upto, &self.lane_bytes, dice)
                    }
                    Post::Bell { .. } => continue,
                };
                wire.queue.push_back(parcel);
                self.queued += 1;
            }
        }
    }

    /// Whether nothing is on its way between the two.
    pub fn is_idle(&self, from: Rank, to: Rank) -> bool {
        self.wires[from.index() * self.members + to.index()].queue.is_empty()
    }

    /// `from` dies: of what it has posted to each peer, a random part never lands.
    pub fn cut_off(&mut self, from: Rank, dice: &Dice) -> Vec<Torn> {
        let mut torn = Vec::new();
        for wire in &mut self.wires[from.index() * self.members..][..self.members] {
            let keep = dice.below(wire.queue.len() as u64 + 1) as usize;
            self.queued -= wire.queue.len() - keep;
            let byte = |parcel: &Parcel| match parcel {
                Parcel::Words { at, .. } => Some(*at as usize),
                Parcel::Span { .. } => None,
            };
            let kept = keep.checked_sub(1).and_then(|last| byte(&wire.queue[last]));
            let lost = wire.queue.get(keep).and_then(byte);
            torn.push(Torn { kept, lost });
            wire.queue.truncate(keep);
        }
        torn
    }

    /// What a word of `from` will be at `to` once all that is on its way has landed.
    pub fn eventual(&self, from: Rank, to: Rank, byte: usize) -> u64 {
        let at = from.index() * self.members + to.index();
        let on_its_way = self.wires[at].queue.iter().rev().find_map(|parcel| match parcel {
            Parcel::Words { at, values, len, .. } => {
                let word = byte.checked_sub(*at as usize)? / 8;
                (word < usize::from(*len)).then(|| values[word])
            }
            Parcel::Span { .. } => None,
        });
        on_its_way.unwrap_or_else(|| self.mirrors[at].cell(byte).own())
    }

    /// Nothing of what is on its way between the two lands any more.
    pub fn drop_all(&mut self, from: Rank, to: Rank) {
        let queue = &mut self.wires[from.index() * self.members + to.index()].queue;
        self.queued -= queue.len();
        queue.clear();
    }

    /// Holds a random wire up until a step of the world.
    pub fn stick(&mut self, until: u64, dice: &Dice) {
        let wire = dice.below(self.wires.len() as u64) as usize;
        self.wires[wire].stuck_until = until;
    }

    /// Lets all wires run again.
    pub fn heal(&mut self) {
        self.wires.iter_mut().for_each(|wire| wire.stuck_until = 0);
    }

    /// Lands something of a random wire: `parcels` whole ones, or a piece of one if that is 0.
    pub fn land(
        &mut self,
        now: u64,
        parcels: u64,
        dice: &Dice,
        tallies: &Tallies,
    ) -> Option<Landed> {
        self.land_where(now, parcels, dice, tallies, |_, _| true)
    }

    /// The same, of those wires only, by owner and reader.
    pub fn land_where(
        &mut self,
        now: u64,
        parcels: u64,
        dice: &Dice,
        tallies: &Tallies,
        allowed: impl Fn(usize, usize) -> bool,
    ) -> Option<Landed> {
        if self.queued == 0 {
            return None;
        }
        let start = dice.below(self.wires.len() as u64) as usize;
        let order = (start..self.wires.len()).chain(0..start);
        let ready =
            |&at: &usize| !self.wires[at].queue.is_empty() && self.wires[at].stuck_until <= now;
        let ready = |at: &usize| ready(at) && allowed(at / self.members, at % self.members);
        let at = order.into_iter().find(ready)?;
        let (owner, reader) = (at / self.members, at % self.members);
        let was_full = self.wires[at].queue.len() >= self.limit;
        let mut landed = Landed {
            from: Rank(owner as u16),
            to: Rank(reader as u16),
            words: 0,
            regressed: None,
            room_again: false,
        };
        for _ in 0..parcels.max(1) {
            let Some(parcel) = self.wires[at].queue.pop_front() else { break };
            let rest = match parcel {
                Parcel::Words { .. } => {
                    self.land_words(at, parcel, parcels == 0, &mut landed, dice)
                }
                Parcel::Span { .. } => self.land_span(at, parcel, parcels == 0, &mut landed, dice),
            };
            match rest {
                None => self.queued -= 1,
                Some(rest) => {
                    let torn = if matches!(rest, Parcel::Span { .. }) {
                        Row::TornSpans
                    } else {
                        Row::TornWords
                    };
                    tallies.one(torn);
                    self.wires[at].queue.push_front(rest);
                }
            }
        }
        landed.room_again = was_full && self.wires[at].queue.len() < self.limit;
        Some(landed)
    }

    fn land_words(
        &self,
        wire: usize,
        parcel: Parcel,
        piece: bool,
        landed: &mut Landed,
        dice: &Dice,
    ) -> Option<Parcel> {
        let Parcel::Words { at, values, len, mut left } = parcel else { unreachable!() };
        let mut most = if piece { dice.range(1, u64::from(len)) } else { u64::from(len) };
        while left != 0 && most > 0 {
            let i = loop {
                let i = dice.below(u64::from(len)) as usize;
                if left >> i & 1 == 1 {
                    break i;
                }
            };
            left &= !(1 << i);
            most -= 1;
            let byte = at as usize + i * 8;
            let mut value = values[i];
            if mutant!("counter-posted-by-reference") {
                value = self.blocks[wire / self.members].cell(byte).own();
            }
            let cell = self.mirrors[wire].cell(byte);
            if cell.own() > value {
                landed.regressed = Some((byte, cell.own(), value));
            }
            cell.publish(value);
            landed.words += 1;
        }
        (left != 0).then_some(Parcel::Words { at, values, len, left })
    }

    fn land_span(
        &self,
        wire: usize,
        parcel: Parcel,
        piece: bool,
        out: &mut Landed,
        dice: &Dice,
    ) -> Option<Parcel> {
        let Parcel::Span { subgroup, at, words, landed, first, stride } = parcel else {
            unreachable!()
        };
        let owner = wire / self.members;
        let source = self.rings[owner][usize::from(subgroup)].as_ref().expect("its own ring");
        let target = self.ring_mirrors[wire][usize::from(subgroup)].as_ref().expect("its mirror");
        let upto = if piece { dice.range(landed + 1, words) } else { words };
        for k in landed..upto {
            let byte = at + ((first + k * stride) % words) as usize * 8;
            target.cell(byte).publish(source.cell(byte).own());
        }
        out.words += upto - landed;
        let rest = Parcel::Span { subgroup, at, words, landed: upto, first, stride };
        (upto < words).then_some(rest)
    }
}

fn span(ring: RingId, from: u64, upto: u64, lane_bytes: &[u64], dice: &Dice) -> Parcel {
    let lane_bytes = lane_bytes[usize::from(ring.subgroup)];
    assert!(from < upto && upto <= lane_bytes, "a span lies in its lane");
    assert!(from.is_multiple_of(8) && upto.is_multiple_of(8));
    let words = (upto - from) / 8;
    // An order that visits each word once: a step without a common factor.
    let mut stride = dice.range(1, words);
    while common(stride, words) != 1 {
        stride -= 1;
    }
    Parcel::Span {
        subgroup: ring.subgroup,
        at: (u64::from(ring.lane) * lane_bytes + from) as usize,
        words,
        landed: 0,
        first: dice.below(words),
        stride,
    }
}

fn common(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
