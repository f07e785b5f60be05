// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each peer has not been told yet, as posts: spans of payloads, descriptors and runs, then
//! `slots`, then the rest of the hot line.
//!
//! O1  Per peer the order is spans, `slots`, `head` and the others (M2 at the far side).
//! O2  A peer that takes no posts now misses nothing: words keep their newest value, spans stay one
//!     range, until it takes them.
//! O3  A span covers slots that are taken up and not released by that peer, so they lie still.

use super::multicast::Lane;
use crate::base::{Members, POST_WORDS_MAX, Post, Posting, Rank, RingId};
use crate::limits::{LANES_MAX, POSTS_MAX, SENDERS_MAX};
use crate::sst::Table;
use crate::sst::layout::{Column, Mode, SubgroupColumns};

/// The slots of my lanes that a peer has been sent, and the runs.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Sent {
    slots: [u64; LANES_MAX],
    runs: [u64; LANES_MAX],
}

impl Sent {
    /// All that there is.
    fn all(lanes: &[Lane]) -> Sent {
        let mut sent = Sent::default();
        for (at, lane) in lanes.iter().enumerate() {
            (sent.slots[at], sent.runs[at]) = (lane.taker.slots, lane.taker.runs);
        }
        sent
    }
}

struct PeerState {
    rank: Rank,
    sent: Sent,
    /// Words of mine have moved since its last post; and of those, ones that it waits for.
    stale: bool,
    news: bool,
}

pub struct Outbox {
    subgroup: u16,
    pub posting: Posting,
    columns: SubgroupColumns,
    mode: Mode,
    peers: Vec<PeerState>,
}

/// Most posts that one group of peers can need at once.
const GROUP_POSTS_MAX: usize = LANES_MAX * 7 + 3 + 2 * SENDERS_MAX.div_ceil(POST_WORDS_MAX);
const _: () = assert!(GROUP_POSTS_MAX <= POSTS_MAX);

impl Outbox {
    pub fn new(subgroup: usize, others: &[Rank], columns: SubgroupColumns, mode: Mode) -> Outbox {
        let peer = |&rank| PeerState { rank, sent: Sent::default(), stale: false, news: false };
        let peers = others.iter().map(peer).collect();
        Outbox { subgroup: subgroup as u16, posting: Posting::All, columns, mode, peers }
    }

    /// A cell that peers wait for has moved.
    #[inline]
    pub fn moved(&mut self) {
        if self.posting != Posting::Nothing {
            self.mark(true);
        }
    }

    /// A cell has moved that only a peer without room waits for.
    #[inline]
    pub fn moved_quietly(&mut self) {
        if self.posting != Posting::Nothing && !crate::mutant!("room-is-not-told") {
            self.mark(false);
        }
    }

    fn mark(&mut self, news: bool) {
        for peer in &mut self.peers {
            peer.stale = true;
            peer.news |= news;
        }
    }

    /// Whether some peer but `full` has not been told everything.
    pub fn owes(&self, full: Members) -> bool {
        self.peers.iter().any(|peer| peer.stale && !full.contains(peer.rank))
    }

    /// Appends the posts for all peers but `full`, as far as there is room for posts.
    pub fn post(&mut self, lanes: &[Lane], table: &Table, full: Members, posts: &mut Vec<Post>) {
        if self.posting == Posting::Nothing {
            return;
        }
        if crate::mutant!("full-peer-loses-its-span") {
            self.forget(lanes, full);
        }
        while let Some(first) = self.peers.iter().position(|p| p.stale && !full.contains(p.rank)) {
            if posts.len() + GROUP_POSTS_MAX > posts.capacity() {
                return;
            }
            // All peers in the same state share the posts.
            let (sent, news) = (self.peers[first].sent, self.peers[first].news);
            let mut to = Members::NONE;
            for peer in &mut self.peers {
                let same = peer.stale && peer.sent == sent && peer.news == news;
                if same && !full.contains(peer.rank) {
                    to.insert(peer.rank);
                    (peer.stale, peer.news) = (false, false);
                    peer.sent = Sent::all(lanes);
                }
            }
            if self.posting == Posting::Bells {
                posts.push(Post::Bell { to, news });
                continue;
            }
            self.post_slots(lanes, &sent, to, table, posts);
            self.post_hot_line(to, news, table, posts);
        }
    }

    /// The planted fault of O2: what a full peer has missed counts as sent.
    #[cold]
    fn forget(&mut self, lanes: &[Lane], full: Members) {
        for peer in self.peers.iter_mut().filter(|peer| full.contains(peer.rank)) {
            peer.sent = Sent::all(lanes);
        }
    }

    /// The spans that hold the slots after `sent`, then the `slots` words (O1, O3).
    ///
    /// Slots that are in use anew have been released by a peer that was never sent them: one that
    /// reads my memory itself, or a liar. Neither needs them.
    fn post_slots(
        &self,
        lanes: &[Lane],
        sent: &Sent,
        to: Members,
        table: &Table,
        posts: &mut Vec<Post>,
    ) {
        let mut any = false;
        let early = crate::mutant!("words-posted-before-spans");
        if early {
            post_words(self.columns.slots, (to, true), table, posts);
        }
        for (at, lane) in lanes.iter().enumerate() {
            let taker = &lane.taker;
            if taker.slots == sent.slots[at] {
                continue;
            }
            any = true;
            let payloads = taker.ring.payload_ranges(sent.slots[at], taker.slots);
            let Some([first, second]) = payloads else { continue };
            let ring = RingId { subgroup: self.subgroup, lane: at as u16 };
            let mut span = |(from, upto)| {
                if from < upto {
                    posts.push(Post::Span { to, ring, from, upto });
                }
            };
            span(first);
            if !crate::mutant!("second-span-of-a-wrap-forgotten") {
                span(second);
            }
            if !crate::mutant!("descriptors-not-sent") {
                let ranges = taker.ring.descriptor_ranges(sent.slots[at], taker.slots);
                ranges.into_iter().for_each(&mut span);
            }
            taker.ring.run_ranges(sent.runs[at], taker.runs).into_iter().for_each(&mut span);
        }
        if any && !early {
            post_words(self.columns.slots, (to, true), table, posts);
        }
    }

    /// Everything else of the hot line, by value.
    fn post_hot_line(&self, to: Members, news: bool, table: &Table, posts: &mut Vec<Post>) {
        let columns = &self.columns;
        let first = columns.head.byte(0);
        let words = (columns.released.byte(0) - first) / 8 + 1;
        post_range(first, words, (to, news), table, posts);
        if self.mode == Mode::Received {
            post_words(columns.delivered_by, (to, news), table, posts);
            post_words(columns.released_by, (to, news), table, posts);
        }
    }
}

fn post_words<T>(column: Column<T>, to: (Members, bool), table: &Table, posts: &mut Vec<Post>) {
    post_range(column.byte(0), usize::from(column.len), to, table, posts);
}

/// Words of my block from byte `first` on, in posts of at most `POST_WORDS_MAX`; to whom, and whether
/// they are news.
fn post_range(
    first: usize,
    words: usize,
    (to, news): (Members, bool),
    table: &Table,
    posts: &mut Vec<Post>,
) {
    let block = table.block(table.me());
    for start in (0..words).step_by(POST_WORDS_MAX) {
        let len = (words - start).min(POST_WORDS_MAX);
        let at = first + start * 8;
        let mut values = [0; POST_WORDS_MAX];
        for (i, value) in values[..len].iter_mut().enumerate() {
            *value = block.cell(at + i * 8).own();
        }
        posts.push(Post::Words { to, at: at as u32, values, len: len as u8, news });
    }
}
