// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a member does by the clock where views change: it beats, looks who else does and for whom
//! all wait, and finds what other threads have asked for.

use super::Driver;
use super::control::Wishes;
use super::letter::Ask;
use crate::base::{Members, Nanos, Rank};
use crate::error::{Fault, Status, Suspicion};
use crate::group::State;
use crate::group::detector::Watch;
use crate::group::detector::beats::Beats;
use crate::group::detector::breath::Breath;
use crate::group::detector::lag::{Lag, Laggards, Verdict};
use crate::group::membership::Membership;
use crate::log_sink::{Level, say};
use crate::mem::Region;
use std::sync::Arc;

/// The detectors, over all views.
pub struct Detectors {
    pub beats: Beats,
    pub breath: Breath,
    lag: Laggards,
    /// Some subgroup has a policy of lag.
    lags: bool,
    /// Counts the time that a view is built for, without pauses of my own.
    pub building: Watch,
    /// By rank: the control block of the view before, in which a slow member still beats.
    before: Vec<Option<Arc<Region>>>,
    pub wishes: Arc<Wishes>,
    /// This member has asked to leave, and all its lanes are shut.
    pub leaving: bool,
    /// And has said so to the others, in the view at hand.
    has_said_so: bool,
}

impl Detectors {
    /// `lags`: by subgroup of a view.
    pub fn new(suspicion_ns: u64, lags: &[Lag], wishes: Arc<Wishes>, now: Nanos) -> Detectors {
        Detectors {
            beats: Beats::new(suspicion_ns, now),
            breath: Breath::new(suspicion_ns, now),
            lag: Laggards::new(lags, now),
            lags: lags.iter().any(|lag| *lag != Lag::Wait),
            building: Watch::new(now, suspicion_ns.max(4) / 4),
            before: Vec::new(),
            wishes,
            leaving: false,
            has_said_so: false,
        }
    }

    /// A new view. `before`: by rank, control blocks of the one before.
    pub fn begin(&mut self, before: Vec<Option<Arc<Region>>>) {
        self.has_said_so = false; // a wish does not outlive its view
        self.beats.begin();
        self.lag.begin();
        self.before = before;
    }

    /// When to look again at the latest.
    pub fn wake_at(&self) -> Nanos {
        self.lag.wake_at().map_or(self.beats.wake_at(), |at| at.min(self.beats.wake_at()))
    }
}

impl Driver {
    /// A look at the clock.
    #[cold]
    pub(super) fn watch(&mut self) {
        let now = self.now;
        self.find_wishes();
        self.find_joiners();
        let Driver { engine, table, views, counters, .. } = self;
        let (Some(membership), Some(views)) = (engine.membership(), views) else { return };
        let building = views.is_building();
        let roster = membership.roster();
        let (me, suspects) = (roster.me, membership.suspects());
        let mut watched = roster.all().without(suspects);
        watched.remove(me);
        let watched = if building { Members::NONE } else { watched };
        let detectors = &mut views.detectors;
        detectors.breath.look(now);
        let (column, before) = (table.layout.beat, &detectors.before);
        let observe = |rank: Rank| {
            let old = before.get(rank.index()).and_then(Option::as_ref);
            let old = old.map_or(Nanos(0), |block| Nanos(block.cell(column.byte(0)).observe()));
            table.observe::<Nanos>(rank, column, 0).max(old)
        };
        let mut heard = Vec::new();
        let beat = detectors.beats.look(now, watched, observe, |silent| heard.push(silent));
        if let Some(beat) = beat {
            table.raise(column, 0, beat); // `keep_alive` may come beside it
            if building {
                detectors.wishes.pulse(); // in the next view, too: who joins looks nowhere else
            }
        }
        let mut lagging = Vec::new();
        if detectors.lags && !membership.is_wedged() {
            let lag = &mut detectors.lag;
            lag.look(now);
            for multicast in engine.multicasts() {
                let at = multicast.subgroup;
                if lag.wants(at) {
                    multicast.laggards(table, |rank, moved| lag.held(at, rank, moved));
                }
            }
            let may_go = ((roster.len() - 1) / 2).saturating_sub(suspects.len());
            lag.verdicts(may_go, |verdict| match verdict {
                Verdict::Evict(suspicion) => {
                    counters.evicted += 1;
                    heard.push(suspicion);
                }
                Verdict::Report { subgroup, rank, for_ns } => {
                    lagging.push((subgroup, rank.0, for_ns.0));
                }
            });
        }
        if !building {
            heard.into_iter().for_each(|suspicion| engine.report(suspicion));
        }
        for (subgroup, rank, for_ns) in lagging {
            self.lending(|driver| driver.application.lags(subgroup, rank, for_ns));
        }
    }

    /// Who asks to be joined, and whom the leader proposes.
    fn find_joiners(&mut self) {
        let Driver { engine, fabric, views, .. } = self;
        let Some((views, exchange)) = views.as_mut().zip(fabric.exchange()) else { return };
        while let Some((peer, bytes)) = exchange.heard() {
            if let (Some(ask), Some(who)) = (Ask::decode(&bytes), exchange.incarnation(peer)) {
                views.forget_ended(exchange);
                views.asked(peer, who, ask);
            }
        }
        let leads = |membership: &Membership| {
            membership.leader() == membership.me() && !membership.is_wedged()
        };
        if !views.is_asked() || views.is_building() || !engine.membership().is_some_and(leads) {
            return;
        }
        for request in views.requests(exchange) {
            engine.ask_to_join(request);
        }
    }

    /// What other threads, or callbacks, have asked for.
    fn find_wishes(&mut self) {
        let Some(views) = &mut self.views else { return };
        // The engine of a view that is over hears nothing: what is wished meanwhile waits.
        if views.is_building() || !views.detectors.wishes.are_there() {
            return;
        }
        let (leave, reported) = views.detectors.wishes.take();
        if leave && !views.detectors.leaving {
            views.detectors.leaving = true;
            self.lanes.shut(&mut self.engine, Status::Left);
        }
        for incarnation in reported {
            self.report(incarnation);
        }
    }

    /// Says in this view that I want to leave, if I do and all that I have sent is delivered. Nobody
    /// has to hear of it, if I am alone.
    pub(super) fn ask_to_leave(&mut self) {
        let Some(views) = &self.views else { return };
        let detectors = &views.detectors;
        if !detectors.leaving || detectors.has_said_so || views.is_building() {
            return;
        }
        let over = self.stopped.is_some() || self.engine.state() != State::Running;
        if over || !self.has_left_nothing() {
            return;
        }
        if self.is_alone() {
            return self.end(Status::Left);
        }
        self.engine.ask_to_leave();
        self.views.as_mut().expect("they change").detectors.has_said_so = true;
    }

    /// Whether nothing of mine is still to be delivered: here, when nobody listens, nothing will be.
    fn has_left_nothing(&self) -> bool {
        let unheard = self.is_silent && self.is_alone();
        unheard || self.lanes.are_delivered(&self.engine, &self.table)
    }

    /// Whether there is no other member.
    pub(super) fn is_alone(&self) -> bool {
        self.views.as_ref().is_some_and(|views| views.members() == 1)
    }

    fn report(&mut self, incarnation: u64) {
        let Some(membership) = self.engine.membership() else { return };
        let (me, mut members) = (membership.me(), membership.roster().members.iter());
        let rank = members.position(|member| member.incarnation == incarnation);
        let Some(rank) = rank.map(|rank| Rank(rank as u16)).filter(|rank| *rank != me) else {
            say(Level::Notice, &format!("{incarnation} is reported, and no other member"));
            return;
        };
        self.engine.report(Suspicion { rank, fault: Fault::Reported { by: me } });
    }

    /// Whoever sleeps on the descriptor is woken in time to beat.
    pub(super) fn wind_up(&mut self) {
        if let Some(most) = self.due(None)
            && let Some(exchange) = self.fabric.exchange()
        {
            exchange.alarm(most);
        }
    }

    /// When this member wants to be woken at the latest.
    pub(super) fn due(&self, timeout_ns: Option<u64>) -> Option<u64> {
        let Some(views) = &self.views else { return timeout_ns };
        let now = super::clock();
        let most = views.detectors.wake_at().0.saturating_sub(now.0);
        Some(timeout_ns.map_or(most, |timeout| timeout.min(most)))
    }
}
