// SPDX-License-Identifier: MIT OR Apache-2.0
//! The explorer's wires and mirrors (tests only): posts of a pair land in order, the words of one
//! post one by one in any order, some of them in the middle of a poll.
//!
//! An *eager* pair is shared memory: every word lands alone, in the order in which it was stored,
//! and suspects see it too (F6).

use crate::base::{POST_WORDS_MAX, Rank};
use crate::mem::Region;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

/// Chance, from the seed alone.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// One of `0..bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0);
        (self.word() % bound as u64) as usize
    }

    pub fn range(&mut self, from: usize, upto: usize) -> usize {
        from + self.below(upto - from + 1)
    }

    /// True `of` times in 1000.
    pub fn chance(&mut self, of: usize) -> bool {
        self.below(1000) < of
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// One post on its way: words of the sender's block of that epoch.
struct Parcel {
    epoch: u64,
    at: usize,
    values: [u64; POST_WORDS_MAX],
    /// Bit per word that has not landed.
    left: u8,
}

#[derive(Default)]
struct Wire {
    queue: VecDeque<Parcel>,
    eager: bool,
    /// Nothing lands for now, or ever again.
    stalled_until: u64,
    cut: bool,
}

pub struct Net {
    pub dice: Dice,
    processes: usize,
    wires: Vec<Wire>,
    /// By epoch, owner and reader; the owner's own is its memory.
    mirrors: BTreeMap<(u64, usize, usize), Arc<Region>>,
    block_bytes: usize,
    pub step: u64,
    /// Words that landed in the middle of a poll.
    pub in_poll: u64,
    /// Who polls, and the processes of its view by rank.
    polling: Option<(usize, Vec<usize>)>,
    pub hook_chance: usize,
    /// From and to: before that look of the reader's at a word of the row, all of it lands.
    pub trap: Option<(usize, usize, usize)>,
}

thread_local! {
    static NET: RefCell<Option<Rc<RefCell<Net>>>> = const { RefCell::new(None) };
}

/// Before every word that a member observes or advances: some may land.
pub fn hook(row: Rank) {
    let Some(net) = NET.with(|net| net.borrow().clone()) else { return };
    let mut net = net.borrow_mut();
    if let (Some((from, to, looks)), Some((who, view))) = (net.trap, net.polling.clone())
        && who == to
        && view[row.index()] == from
    {
        if looks == 0 {
            net.land(from, to, usize::MAX);
        }
        net.trap = looks.checked_sub(1).map(|looks| (from, to, looks));
    }
    let chance = net.hook_chance;
    if net.polling.is_none() || !net.dice.chance(chance) {
        return;
    }
    let (to, view) = net.polling.clone().expect("looked at");
    // Most often in the row that is being read.
    let from = if net.dice.chance(700) {
        view[row.index()]
    } else {
        let processes = net.processes;
        net.dice.below(processes)
    };
    let words = net.dice.range(1, 20);
    net.in_poll += net.land(from, to, words);
}

impl Net {
    pub fn new(seed: u64, processes: usize, block_bytes: usize, eager: usize) -> Rc<RefCell<Net>> {
        let mut dice = Dice::new(seed);
        let wire = |_| Wire { eager: dice.chance(eager), ..Wire::default() };
        let wires = (0..processes * processes).map(wire).collect();
        let hook_chance = dice.pick(&[0, 0, 20, 100, 300]);
        let net = Rc::new(RefCell::new(Net {
            dice,
            processes,
            wires,
            mirrors: BTreeMap::new(),
            block_bytes,
            step: 0,
            in_poll: 0,
            polling: None,
            hook_chance,
            trap: None,
        }));
        NET.with(|live| *live.borrow_mut() = Some(net.clone()));
        net
    }

    pub fn set_polling(&mut self, process: Option<(usize, Vec<usize>)>) {
        self.polling = process;
    }

    fn wire(&mut self, from: usize, to: usize) -> &mut Wire {
        &mut self.wires[from * self.processes + to]
    }

    pub fn block(&mut self, epoch: u64, owner: usize, reader: usize) -> Arc<Region> {
        let bytes = self.block_bytes;
        let fresh = || Arc::new(Region::heap(bytes));
        self.mirrors.entry((epoch, owner, reader)).or_insert_with(fresh).clone()
    }

    pub fn send(&mut self, from: usize, to: usize, epoch: u64, at: usize, values: &[u64]) {
        let wire = self.wire(from, to);
        let pieces = if wire.eager { 1 } else { values.len() };
        for (piece, chunk) in values.chunks(pieces).enumerate() {
            let mut all = [0; POST_WORDS_MAX];
            all[..chunk.len()].copy_from_slice(chunk);
            let left = ((1u16 << chunk.len()) - 1) as u8;
            let at = at + piece * pieces * 8;
            wire.queue.push_back(Parcel { epoch, at, values: all, left });
        }
    }

    /// Lands up to that many words of a pair. How many did.
    pub fn land(&mut self, from: usize, to: usize, words: usize) -> u64 {
        let step = self.step;
        for landed in 0..words {
            let wire = &mut self.wires[from * self.processes + to];
            if wire.cut || wire.stalled_until > step {
                return landed as u64;
            }
            let Some(parcel) = wire.queue.front_mut() else { return landed as u64 };
            let left: Vec<u32> = (0..8).filter(|bit| parcel.left >> bit & 1 == 1).collect();
            let word = left[self.dice.below(left.len())];
            parcel.left &= !(1 << word);
            let (epoch, at) = (parcel.epoch, parcel.at + word as usize * 8);
            let value = parcel.values[word as usize];
            if parcel.left == 0 {
                wire.queue.pop_front();
            }
            let block = self.block(epoch, from, to);
            let cell = block.cell(at);
            assert!(cell.own() <= value, "a word of {from}'s at byte {at} went back at {to}");
            cell.publish(value);
        }
        words as u64
    }

    pub fn is_eager(&mut self, from: usize, to: usize) -> bool {
        self.wire(from, to).eager
    }

    /// Whether anything can land there now.
    pub fn is_open(&self, from: usize, to: usize) -> bool {
        let wire = &self.wires[from * self.processes + to];
        !wire.queue.is_empty() && !wire.cut && wire.stalled_until <= self.step
    }

    pub fn queued(&mut self, from: usize, to: usize) -> usize {
        self.wire(from, to).queue.len()
    }

    /// Nothing more comes from there: who suspects has cut the connection.
    pub fn revoke(&mut self, from: usize, to: usize) {
        if !self.wire(from, to).eager {
            self.cut(from, to);
        }
    }

    pub fn cut(&mut self, from: usize, to: usize) {
        let wire = self.wire(from, to);
        wire.cut = true;
        wire.queue.clear();
    }

    pub fn is_cut(&mut self, from: usize, to: usize) -> bool {
        self.wire(from, to).cut
    }

    pub fn stall(&mut self, from: usize, to: usize, until: u64) {
        self.wire(from, to).stalled_until = until;
    }

    /// A process dies: of what it posted to each peer some prefix still lands.
    pub fn crash(&mut self, process: usize) {
        for to in 0..self.processes {
            let queued = self.queued(process, to);
            let keep = if self.dice.chance(400) { queued } else { self.dice.below(queued + 1) };
            self.wire(process, to).queue.truncate(keep);
            self.cut(to, process);
        }
    }

    pub fn heal(&mut self) {
        for wire in &mut self.wires {
            wire.stalled_until = 0;
        }
    }

    /// Lands everything, pair by pair.
    pub fn land_all(&mut self) {
        for from in 0..self.processes {
            for to in 0..self.processes {
                self.land(from, to, usize::MAX);
            }
        }
    }
}
