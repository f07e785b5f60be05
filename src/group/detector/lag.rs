// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lag: for whom the senders of a subgroup wait, and what is done about it.
//!
//! A member that consumes slowly slows everybody down: nobody's ring may run over it. By default all
//! wait. A subgroup may ask to be told of a member that makes no progress at all while a full window
//! waits for it, or to go on without it, which is a suspicion like any other, with a reason of its
//! own (`Fault::Lag`). Slowness that is progress is never held against anybody.
//!
//! G1  Only who waits may complain: `held` is said by a sender whose lane has no room, of those that
//!     keep it from having any, and of nobody if it is itself one of them (`Multicast::laggards`).
//! G2  Time counts from the first look that finds a member holding, starts anew when it moves or no
//!     longer holds, and is taken back for pauses of my own (D1).
//! G3  Nobody is evicted whose absence would cost the majority: that is reported instead.
//! G4  A member that keeps itself alive in a long callback is not silent, but it lags.
//!
//! Cost: nothing where all wait; else a few loads per lane that has no room.

use super::{PAUSE_PART, Watch};
use crate::base::{Members, Nanos, Rank};
use crate::error::{Fault, Suspicion};
use crate::limits::MEMBERS_MAX;

/// The part of the shortest time after which a member that sleeps looks again.
const LOOK_PART: u64 = 16;
const _: () = assert!(LOOK_PART > 2 * PAUSE_PART, "a look that comes a little late is no pause");

/// What a subgroup does about a member without progress that its senders wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum Lag {
    /// All wait for it.
    #[default]
    Wait,
    /// The application is told when it has made none for so long, and again after each such time.
    Report { after_ns: u64 },
    /// It is suspected when it has made none for so long.
    Evict { after_ns: u64 },
}

impl Lag {
    fn after_ns(self) -> Option<u64> {
        match self {
            Lag::Wait => None,
            Lag::Report { after_ns } | Lag::Evict { after_ns } => Some(after_ns),
        }
    }
}

/// What a look came to for one member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Tell the application: senders of that subgroup have waited for it for so long.
    Report { subgroup: u16, rank: Rank, for_ns: Nanos },
    /// Suspect it.
    Evict(Suspicion),
}

/// A member that holds, since when, where it stood, and what was last reported of it.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    mark: u64,
    moved: u64,
    reported_ns: u64,
}

/// The policy of lag of a group's subgroups, with its timers.
#[derive(Clone, Debug)]
pub struct Laggards {
    policies: Vec<Lag>,
    /// The shortest time of a policy.
    shortest: u64,
    watch: Watch,
    /// By subgroup: who held at the last look, and who does at this one.
    before: Vec<Members>,
    holding: Vec<Members>,
    /// By subgroup, then rank.
    held: Vec<[Held; MEMBERS_MAX]>,
    told: Members,
}

impl Laggards {
    /// `policies`: by subgroup of the view.
    pub fn new(policies: &[Lag], now: Nanos) -> Laggards {
        let shortest = policies.iter().filter_map(|policy| policy.after_ns()).min();
        let shortest = shortest.unwrap_or(u64::MAX);
        Laggards {
            policies: policies.to_vec(),
            shortest,
            watch: Watch::new(now, shortest / PAUSE_PART),
            before: vec![Members::NONE; policies.len()],
            holding: vec![Members::NONE; policies.len()],
            held: vec![[Held::default(); MEMBERS_MAX]; policies.len()],
            told: Members::NONE,
        }
    }

    /// A new view: ranks mean others now.
    pub fn begin(&mut self) {
        self.told = Members::NONE;
        self.before.fill(Members::NONE);
        self.holding.fill(Members::NONE);
    }

    /// Whether a subgroup has a policy: else nobody need look.
    pub fn wants(&self, subgroup: usize) -> bool {
        self.policies[subgroup] != Lag::Wait
    }

    /// While somebody holds: look again by then, or the time until then is a pause of mine (D1).
    pub fn wake_at(&self) -> Option<Nanos> {
        let any = self.holding.iter().any(|holding| !holding.is_empty());
        any.then(|| Nanos(self.watch.last().0.saturating_add(self.shortest / LOOK_PART)))
    }

    /// A look begins (D4: `now` was read before).
    pub fn look(&mut self, now: Nanos) {
        let away = self.watch.step(now);
        for at in 0..self.policies.len() {
            let before = std::mem::replace(&mut self.holding[at], Members::NONE);
            self.before[at] = before;
            if away > 0 {
                for rank in before.iter() {
                    let held = &mut self.held[at][rank.index()];
                    held.mark = self.watch.forgive(held.mark, away);
                    held.reported_ns = held.reported_ns.min(self.watch.since(held.mark));
                }
            }
        }
    }

    /// A sender here waits for `rank`, who has got as far as `moved` (any count that moves when it
    /// makes progress).
    pub fn held(&mut self, subgroup: usize, rank: Rank, moved: u64) {
        let held = &mut self.held[subgroup][rank.index()];
        if !self.before[subgroup].contains(rank) || held.moved != moved {
            *held = Held { mark: self.watch.mark(), moved, reported_ns: 0 };
        }
        self.holding[subgroup].insert(rank);
    }

    /// The look is over: what follows. `may_go`: how many members more the group can do without and
    /// keep its majority (G3).
    pub fn verdicts(&mut self, mut may_go: usize, mut say: impl FnMut(Verdict)) {
        for at in 0..self.policies.len() {
            let policy = self.policies[at];
            let Some(after_ns) = policy.after_ns() else { continue };
            for rank in self.holding[at].without(self.told).iter() {
                let held = &mut self.held[at][rank.index()];
                let waited = self.watch.since(held.mark);
                if waited < after_ns {
                    continue;
                }
                let (subgroup, for_ns) = (at as u16, Nanos(waited));
                if matches!(policy, Lag::Evict { .. }) && may_go > 0 {
                    may_go -= 1;
                    self.told.insert(rank);
                    let fault = Fault::Lag { subgroup, for_ns };
                    say(Verdict::Evict(Suspicion { rank, fault }));
                } else if waited - held.reported_ns >= after_ns {
                    held.reported_ns = waited;
                    say(Verdict::Report { subgroup, rank, for_ns });
                }
            }
        }
    }
}
