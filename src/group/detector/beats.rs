// SPDX-License-Identifier: MIT OR Apache-2.0
//! Heartbeats: every member moves a word of its own, and is suspected when it no longer does.
//!
//! The word (`beat` of the control block, a line of its own) is the owner's clock, but nobody else
//! reads a time from it: it moves or it does not. What follows from the one setting, T:
//!
//! ```text
//! T/16   a member moves its word when so much has passed since it did
//! T/64   rows are looked at no more often than that
//! T/4    a longer gap between two looks is a pause of my own (D1)
//! 7/8 T  a peer whose word has stood still for so long, as I counted, is suspected
//! ```
//!
//! H1  Whoever stops is suspected within T and one look, by everybody who looks every T/16 (a member
//!     that sleeps wakes by `wake_at` for that), and never before 7/8 T.
//! H2  A member that gets some of its core every 3/4 T is not suspected: on a loaded machine the
//!     default T of one second is some ten times as long as anybody waits for its turn.
//! H3  My own word never goes back, from one view to the next neither.
//!
//! **Long callbacks.** A callback runs on the thread that polls, so while it lasts this member
//! neither looks nor beats, and after T the others suspect it: they cannot tell it from a hung one.
//! Who needs longer calls `keep_alive` from inside the callback, at least every T/2. That says "I am
//! at work", not "I make progress": a subgroup with a policy of lag may evict it all the same. It is
//! meant for the polling thread; a thread that did nothing but beat would hide that the other hangs.
//!
//! **From view to view.** A peer that has not installed this view yet moves its word in the block of
//! the view before. For such a peer the driver shows the greater of both words; and who still beats
//! there does not beat in vain. A joiner beats in its new block from when it knows of it.
//!
//! Cost: a look is one comparison; every T/64 it is one load of a foreign line per watched member.

use super::{PAUSE_PART, Watch};
use crate::base::{Members, Nanos, Rank};
use crate::error::{CellName, Fault, Suspicion};
use crate::limits::{MEMBERS_MAX, SUSPICION_NS_DEFAULT};

const BEAT_PART: u64 = 16;
const LOOK_PART: u64 = 64;
const PATIENCE_PARTS: u64 = 14;
// H1: the beat that was seen is up to T/16 old when it is seen, and the end of patience up to T/16
// before the look that finds it. H2: between two beats lies what the peer waits for its turn.
const _: () = assert!(PATIENCE_PARTS + 2 <= BEAT_PART && LOOK_PART >= BEAT_PART);
const _: () = assert!(BEAT_PART / PAUSE_PART + 1 < PATIENCE_PARTS, "a pause is not yet silence");

/// What a peer's word was, and when it last moved.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    beat: Nanos,
    mark: u64,
}

/// The heartbeats of a view, as one member sees them.
#[derive(Clone, Debug)]
pub struct Beats {
    /// 0: nobody is ever suspected for silence.
    suspicion_ns: u64,
    beat_every: u64,
    look_every: u64,
    patience: u64,
    watch: Watch,
    /// The mark of the last look at the rows.
    looked: Option<u64>,
    /// My word, and when I moved it last.
    beat: Nanos,
    beaten: Option<Nanos>,
    watched: Members,
    told: Members,
    peers: [Heard; MEMBERS_MAX],
}

impl Beats {
    /// `suspicion_ns`: T, the same at every member; 0: only watch that others can tell I live.
    pub fn new(suspicion_ns: u64, now: Nanos) -> Beats {
        let time = if suspicion_ns == 0 { SUSPICION_NS_DEFAULT } else { suspicion_ns };
        let beat_every = time / BEAT_PART;
        Beats {
            suspicion_ns,
            beat_every,
            look_every: time / LOOK_PART,
            patience: beat_every * PATIENCE_PARTS,
            watch: Watch::new(now, time / PAUSE_PART),
            looked: None,
            beat: Nanos(0),
            beaten: None,
            watched: Members::NONE,
            told: Members::NONE,
            peers: [Heard::default(); MEMBERS_MAX],
        }
    }

    /// A new view: ranks mean others now, and everybody has the whole time again. My word goes on.
    pub fn begin(&mut self) {
        self.looked = None;
        self.beaten = None; // the new block wants its first beat at once
        (self.watched, self.told) = (Members::NONE, Members::NONE);
        self.peers = [Heard::default(); MEMBERS_MAX];
    }

    /// A look (D4: `now` was read before): what my word is to be moved to, if that is due. `observe`
    /// is asked for the words of `watched`, `suspect` is called for whom to report (D3).
    pub fn look(
        &mut self,
        now: Nanos,
        watched: Members,
        mut observe: impl FnMut(Rank) -> Nanos,
        mut suspect: impl FnMut(Suspicion),
    ) -> Option<Nanos> {
        let away = self.watch.step(now);
        if away > 0 {
            for peer in &mut self.peers {
                peer.mark = self.watch.forgive(peer.mark, away);
            }
        }
        let lately = self.looked.is_some_and(|mark| self.watch.since(mark) < self.look_every);
        if !lately || away > 0 || watched != self.watched {
            self.looked = Some(self.watch.mark());
            for rank in watched.without(self.told).iter() {
                if let Some(fault) = self.hear(rank, observe(rank)) {
                    self.told.insert(rank);
                    suspect(Suspicion { rank, fault });
                }
            }
            self.watched = watched;
        }
        self.keep_alive(now)
    }

    /// The value to move my word to, if that is due: nothing else. For the thread that polls, from
    /// inside a long callback.
    pub fn keep_alive(&mut self, now: Nanos) -> Option<Nanos> {
        if now < self.wake_at() && self.beaten.is_some_and(|beaten| beaten <= now) {
            return None;
        }
        self.beaten = Some(now);
        self.beat = Nanos(now.0.max(self.beat.0 + 1)); // H3
        Some(self.beat)
    }

    /// Look again by then.
    pub fn wake_at(&self) -> Nanos {
        self.beaten.map_or(Nanos(0), |beaten| Nanos(beaten.0.saturating_add(self.beat_every)))
    }

    /// How often I was away for longer than a pause, and how long at the most.
    pub fn pauses(&self) -> (u64, Nanos) {
        self.watch.pauses()
    }

    fn hear(&mut self, rank: Rank, beat: Nanos) -> Option<Fault> {
        let peer = &mut self.peers[rank.index()];
        if beat < peer.beat {
            let cell = CellName { column: "beat", subgroup: CellName::NONE, index: 0 };
            return Some(Fault::Regressed { cell, from: peer.beat.0, to: beat.0 });
        }
        if beat > peer.beat || !self.watched.contains(rank) {
            *peer = Heard { beat, mark: self.watch.mark() };
            return None;
        }
        let silence = self.watch.since(peer.mark);
        let over = silence >= self.patience && self.suspicion_ns > 0;
        over.then_some(Fault::Silent { for_ns: Nanos(silence) })
    }
}
