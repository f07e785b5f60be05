// SPDX-License-Identifier: MIT OR Apache-2.0
//! Detectors: who has fallen silent (`beats.rs`), and for whom everybody waits (`lag.rs`); and how
//! long a polling thread may work before it looks (`breath.rs`).
//!
//! They decide and do nothing: no clock, no system call, no allocation after construction. Whoever
//! drives them says what time it is and what it saw; what comes out goes to `Engine::report`.
//!
//! D1  *Mercy.* A member judges others only by time in which it was itself running and looking. Of
//!     two looks further apart than a quarter of the time to suspicion nothing in between counts,
//!     and twice as much of what was counted before is taken back from everybody: after a pause one
//!     does not know who else had one, and who needs longer to come back from it. (Not all is taken
//!     back: a member that is often away would never notice who is gone for good.)
//! D2  What is counted against a peer is never more than the time that passed since it last moved.
//! D3  Each suspicion is said once in a view.
//! D4  The time given to a look was taken *before* the cells were observed. The other way round a
//!     member that is preempted in between would hold its own absence against the others.
//!
//! What a driver does with them, in its look at the clock (every millisecond or so, and whenever
//! `breath.delivered` asks for one):
//!
//! ```text
//! now = clock(); breath.look(now)
//! beat = beats.look(now, watched, |rank| table.observe(rank, beat_column, 0),
//!                   |suspicion| engine.report(suspicion))
//! if let Some(beat): table.advance(beat_column, 0, beat), and post that word to the others; where
//!                   they read my memory itself the store is enough, and nobody is woken for it
//! if the view is not wedged:
//!     lag.look(now)
//!     for each subgroup of mine: multicast.laggards(table, |rank, moved| lag.held(at, rank, moved))
//!     lag.verdicts(may_go, |verdict| match verdict { Report => tell, Evict => engine.report })
//! sleep no longer than until beats.wake_at(), and lag.wake_at() if there is one
//! ```
//!
//! `watched` are the members of the view but me, who is suspected, who is known to be gone (the
//! fabric's `lost` goes to the engine at once and needs no timer), and who has passed on to the next
//! view (its row's `installed` says so): it moves nothing here any more.

pub mod beats;
pub mod breath;
pub mod lag;

#[cfg(all(test, not(loom)))]
mod tests;

use crate::base::Nanos;

/// The part of a time to suspicion that a pause of my own has to be longer than (D1).
pub const PAUSE_PART: u64 = 4;

/// Counts the time in which its owner was looking regularly (D1).
#[derive(Clone, Debug)]
pub struct Watch {
    last: Nanos,
    pause_ns: u64,
    /// Never goes back; a mark is what it was at some moment.
    counted: u64,
    pauses: u64,
    longest: Nanos,
}

impl Watch {
    /// A gap of more than `pause_ns` between two looks is a pause.
    pub fn new(now: Nanos, pause_ns: u64) -> Watch {
        Watch { last: now, pause_ns, counted: 0, pauses: 0, longest: Nanos(0) }
    }

    /// A look. How long I was away: 0 if I was not; all time there is if the clock went back, which
    /// no monotonic one does, since then nobody knows.
    pub fn step(&mut self, now: Nanos) -> u64 {
        let before = std::mem::replace(&mut self.last, now);
        let gap = now.0.checked_sub(before.0).unwrap_or(u64::MAX);
        if gap <= self.pause_ns || crate::mutant!("detect-own-pauses-count") {
            self.counted = self.counted.saturating_add(gap);
            return 0;
        }
        self.pauses += 1;
        if gap != u64::MAX {
            self.longest = self.longest.max(Nanos(gap));
        }
        gap
    }

    /// Now, as a mark.
    pub fn mark(&self) -> u64 {
        self.counted
    }

    /// Time counted since a mark, in nanoseconds.
    pub fn since(&self, mark: u64) -> u64 {
        self.counted - mark
    }

    /// After a pause of `away`: the mark since which less is counted (D1).
    pub fn forgive(&self, mark: u64, away: u64) -> u64 {
        let away = if crate::mutant!("detect-pauses-forgive-nothing") { 0 } else { away };
        mark.saturating_add(away.saturating_mul(2)).min(self.counted)
    }

    /// When the last look was.
    pub fn last(&self) -> Nanos {
        self.last
    }

    /// How often I was away, and how long at the most (for the statistics).
    pub fn pauses(&self) -> (u64, Nanos) {
        (self.pauses, self.longest)
    }
}
