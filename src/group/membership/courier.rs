// SPDX-License-Identifier: MIT OR Apache-2.0
//! My row on its way: which cells have moved, in which order they are stored and posted, who is
//! owed what.
//!
//! C1  Cells are stored level by level (`sst/layout.rs`), all at the end of a poll: on shared
//!     memory a peer sees them at once (F6), and that order is right by itself.
//! C2  A level is posted to a peer only when it is owed nothing of those before. Values are those
//!     of now, so what a full peer missed is merged, never lost.
//! C3  Nothing is posted to a suspect (V1), but one farewell: that it is one. A member that is alive
//!     stops when it reads that; else it would take the silence for our failure, and tell others.

use super::Membership;
use crate::base::{Count, Epoch, Members, POST_WORDS_MAX, Post, Posting, Rank};
use crate::mutant;
use crate::sst::Table;
use crate::sst::layout::{Column, MembersWord, RECORD_WORDS, members_words};

/// Posts of one poll, and those of one long row more: the rest waits for the next poll.
const POSTS_ENOUGH: usize = 64;

/// Levels of single words, in the order of `sst/layout.rs`; `COLD` announces all.
const GUARDS: u8 = 1;
const RESTING: u8 = 2;
const SUSPECTS: u8 = 4;
const INSTALLED: u8 = 8;
const COLD: u8 = 16;

/// What a peer's mirror lacks. Bits by position among my subgroups.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Owed {
    /// Records of the journal from this one on.
    records: usize,
    received: u32,
    cut: u32,
    ready: u32,
    levels: u8,
}

pub(super) struct Courier {
    /// The subgroups, by position.
    subgroups: Vec<usize>,
    /// Peers that are posted to.
    peers: Members,
    /// New suspects, who are to hear of it.
    farewell: Members,
    /// By rank.
    owed: Vec<Owed>,
    /// Records stored.
    records: usize,
    received: bool,
    ready: u32,
    cold: u64,
    ended: bool,
    passed: bool,
}

impl Courier {
    pub fn new(peers: Members, subgroups: Vec<usize>) -> Courier {
        let most = peers.iter().last().map_or(0, |rank| rank.index() + 1);
        Courier {
            subgroups,
            peers,
            farewell: Members::NONE,
            owed: vec![Owed::default(); most],
            records: 0,
            received: false,
            ready: 0,
            cold: 0,
            ended: false,
            passed: false,
        }
    }

    pub fn forget(&mut self, rank: Rank) {
        self.peers.remove(rank);
        self.farewell.insert(rank);
    }

    /// That peer takes nothing any more, and is no suspect.
    pub fn release(&mut self, rank: Rank) {
        self.peers.remove(rank);
    }

    /// Whether it is published that I have ended (V6).
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether that I have passed is still to be published.
    pub fn owes_passing(&self) -> bool {
        !self.passed
    }

    pub fn owes_anyone(&self) -> bool {
        self.owes(Members::NONE)
    }

    /// Whether that peer is owed something.
    pub fn owes_it(&self, rank: Rank) -> bool {
        self.peers.contains(rank) && self.owed[rank.index()].any(self.records)
    }

    /// Whether some peer but `full` is owed something.
    pub fn owes(&self, full: Members) -> bool {
        let records = self.records;
        self.peers.without(full).iter().any(|rank| self.owed[rank.index()].any(records))
    }
}

impl Owed {
    fn any(&self, records: usize) -> bool {
        *self != Owed { records, ..Owed::default() }
    }
}

impl Membership {
    /// Stores those of my cells that have moved (C1). Whether any has.
    pub(super) fn publish(&mut self, table: &mut Table) -> bool {
        let layout = table.layout.clone();
        let own = &self.rows[self.roster.me.index()];
        let epoch = self.roster.epoch;
        let flag = |raised: bool| if raised { epoch } else { Epoch(0) };
        let courier = &mut self.courier;
        let mut moved = Owed { records: courier.records, ..Owed::default() };
        if mutant!("view-changes-before-records") {
            let count = Count(self.journal.len() as u64);
            advance(table, layout.changes, count, GUARDS, &mut moved.levels);
        }
        for (at, words) in self.journal.iter().enumerate().skip(courier.records) {
            for (word, &value) in words.iter().enumerate() {
                table.advance(layout.change, at * RECORD_WORDS + word, value);
            }
        }
        for (at, &subgroup) in courier.subgroups.iter().enumerate() {
            let (columns, mine) = (&layout.subgroups[subgroup], &own.shards[at]);
            if own.wedged && !courier.received {
                store(table, columns.received, &mine.received);
                moved.received |= 1 << at;
            }
            if mine.ready && courier.ready >> at & 1 == 0 {
                store(table, columns.cut, &mine.cut);
                table.advance(columns.cut_ready, 0, epoch);
                (moved.cut, moved.ready) = (moved.cut | 1 << at, moved.ready | 1 << at);
                self.trims[at].echoed = true;
            }
        }
        let grown = courier.records < self.journal.len();
        courier.records = self.journal.len();
        courier.received |= own.wedged;
        courier.ready |= moved.ready;
        let levels = &mut moved.levels;
        advance(table, layout.changes, Count(self.journal.len() as u64), GUARDS, levels);
        advance(table, layout.wedged, flag(own.wedged), GUARDS, levels);
        advance(table, layout.leaving, u64::from(own.leaving), GUARDS, levels);
        advance(table, layout.agreed, Count(own.agreed), RESTING, levels);
        advance(table, layout.ended, flag(own.ended), RESTING, levels);
        for (at, word) in members_words(own.suspects).into_iter().enumerate() {
            if table.own::<MembersWord>(layout.suspects, at) != word {
                table.advance(layout.suspects, at, word);
                *levels |= SUSPECTS;
            }
        }
        advance(table, layout.installed, own.installed, INSTALLED, levels);
        if !grown && !moved.any(moved.records) {
            return false;
        }
        courier.cold += 1;
        advance(table, layout.cold, courier.cold, COLD, &mut moved.levels);
        (courier.ended, courier.passed) = (own.ended, own.installed != epoch);
        for rank in courier.peers.iter() {
            courier.owed[rank.index()].add(moved);
        }
        true
    }

    /// Appends what peers are owed (C2); those in `full` wait.
    pub fn posts(&mut self, table: &Table, full: Members, posts: &mut Vec<Post>) {
        let courier = &mut self.courier;
        let farewell = std::mem::take(&mut courier.farewell).without(full);
        let records = courier.records;
        let owes = |rank: &Rank| courier.owed[rank.index()].any(records);
        let mut to = Members::from_ranks(courier.peers.without(full).iter().filter(owes));
        if self.options.posting != Posting::All {
            for rank in to.iter() {
                courier.owed[rank.index()] = Owed { records, ..Owed::default() };
            }
            to = to.union(farewell);
            if self.options.posting == Posting::Bells && !to.is_empty() {
                posts.push(Post::Bell { to, news: true });
            }
            return;
        }
        if !farewell.is_empty() {
            let mut owed = Owed { records, levels: SUSPECTS | COLD, ..Owed::default() };
            owed.post(table, &[], records, farewell, usize::MAX, posts);
        }
        let before = posts.len();
        while let Some(first) = to.first() {
            // All who are owed the same get it in one post each.
            let mut owed = courier.owed[first.index()];
            let alike = |rank: &Rank| courier.owed[rank.index()] == owed;
            let group = Members::from_ranks(to.iter().filter(alike));
            let most = before + POSTS_ENOUGH;
            owed.post(table, &courier.subgroups, records, group, most, posts);
            for rank in group.iter() {
                courier.owed[rank.index()] = owed;
            }
            to = to.without(group);
        }
    }
}

/// Advances one word if it moves.
fn advance<T>(table: &mut Table, column: Column<T>, value: T, level: u8, levels: &mut u8)
where
    T: crate::base::Word + PartialEq,
{
    if table.own(column, 0) != value {
        table.advance(column, 0, value);
        *levels |= level;
    }
}

fn store(table: &mut Table, column: Column<Count>, counts: &[Count]) {
    for (sender, &count) in counts.iter().enumerate() {
        table.advance(column, sender, count);
    }
}

impl Owed {
    fn add(&mut self, moved: Owed) {
        self.received |= moved.received;
        self.cut |= moved.cut;
        self.ready |= moved.ready;
        self.levels |= moved.levels;
    }

    /// Posts level after level until there are `most` posts; what is left stays owed.
    fn post(
        &mut self,
        table: &Table,
        subgroups: &[usize],
        records: usize,
        to: Members,
        most: usize,
        posts: &mut Vec<Post>,
    ) {
        let layout = &table.layout;
        if mutant!("view-changes-before-records") && self.levels & GUARDS != 0 {
            posts.push(post_of(table, layout.changes.byte(0), 3, to));
        }
        while self.records < records {
            if posts.len() >= most {
                return;
            }
            // Two records fill a post.
            let count = (records - self.records).min(POST_WORDS_MAX / RECORD_WORDS);
            let from = self.records * RECORD_WORDS;
            let upto = from + count * RECORD_WORDS;
            posts.push(post_of(table, layout.change.byte(from), upto - from, to));
            self.records += count;
        }
        for (at, &subgroup) in subgroups.iter().enumerate() {
            let columns = &layout.subgroups[subgroup];
            for (owed, column) in
                [(&mut self.received, columns.received), (&mut self.cut, columns.cut)]
            {
                if *owed >> at & 1 == 0 {
                    continue;
                }
                if posts.len() >= most {
                    return;
                }
                for first in (0..usize::from(column.len)).step_by(POST_WORDS_MAX) {
                    let len = (usize::from(column.len) - first).min(POST_WORDS_MAX);
                    posts.push(post_of(table, column.byte(first), len, to));
                }
                *owed &= !(1 << at);
            }
        }
        for (at, &subgroup) in subgroups.iter().enumerate() {
            if self.ready >> at & 1 == 1 {
                let column = layout.subgroups[subgroup].cut_ready;
                posts.push(post_of(table, column.byte(0), 1, to));
            }
        }
        self.ready = 0;
        let levels = std::mem::take(&mut self.levels);
        let mut post = |level: u8, at: usize, len: usize| {
            if levels & level != 0 {
                posts.push(post_of(table, at, len, to));
            }
        };
        post(GUARDS, layout.changes.byte(0), 3);
        post(RESTING, layout.agreed.byte(0), 2);
        post(SUSPECTS, layout.suspects.byte(0), usize::from(layout.suspects.len));
        post(INSTALLED, layout.installed.byte(0), 1);
        post(COLD, layout.cold.byte(0), 1);
    }
}

/// My cells from that byte on, with their values of now.
fn post_of(table: &Table, at: usize, len: usize, to: Members) -> Post {
    assert!(len <= POST_WORDS_MAX);
    let mut values = [0; POST_WORDS_MAX];
    for (word, value) in values[..len].iter_mut().enumerate() {
        *value = table.block(table.me()).cell(at + word * 8).own();
    }
    Post::Words { to, at: at as u32, values, len: len as u8, news: true }
}
