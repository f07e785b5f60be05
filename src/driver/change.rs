// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a turn does where views change, beyond the work of the engine at hand.
//!
//! While this member builds a view, `changing` is set and the engine of the old one is over: turns
//! come here and nowhere else.

use super::Driver;
use super::views::{ViewInfo, Views};
use crate::base::Events;
use crate::error::{Error, Fault, Status};
use crate::group::State;
use crate::group::view::{Subgroup, View};
use crate::log_sink::{Level, say};
use crate::mutant;
use crate::sst::kept::Kept;

/// Lanes of mine in subgroups that wait for members.
pub(super) fn waiting_of(view: &View) -> Vec<(u16, u16)> {
    let waits = (0..).zip(&view.subgroups).filter(|(_, subgroup)| subgroup.waits(view.me));
    let lanes =
        |(at, subgroup): (u16, &Subgroup)| (0..subgroup.shape.lanes).map(move |lane| (at, lane));
    waits.flat_map(lanes).collect()
}

fn say_who_waits(view: &ViewInfo) {
    for (part, (members, _)) in view.parts.iter().zip(&view.subgroups) {
        if part.lacks > 0 {
            let text = format!(
                "view {}: shard {} of subgroup {} has {} members and waits for {} more",
                view.epoch,
                part.shard,
                part.of,
                members.len(),
                part.lacks
            );
            say(Level::Notice, &text);
        }
    }
}

/// How often memory for other views is looked after however busy a member is, a region at a time.
const KEEP_HOUSE_NS: u64 = 20_000_000;

impl Driver {
    /// Before the engine's poll. True: that was the turn, the engine is not to be polled.
    #[cold]
    pub(super) fn change(&mut self) -> bool {
        if self.stopped.is_some() {
            return true;
        }
        let Some(mut views) = self.views.take() else { return false };
        let mut outcome = Ok(());
        if views.is_building() {
            self.fabric.poll(true, &mut self.events);
            outcome = self.build(&mut views);
        }
        if let Some(view) = views.untold.take() {
            self.tell(&view);
        }
        self.changing = views.is_building();
        self.views = Some(views);
        if self.is_inherited() {
            return true;
        }
        if let Err(error) = outcome {
            self.halt(&error);
            return true;
        }
        self.changing
    }

    /// Enters the next view, if all that it needs is there. An error: this member may not have it.
    fn build(&mut self, views: &mut Views) -> Result<(), Error> {
        let now = super::clock();
        let exchange = self.fabric.exchange().expect("views change");
        if !views.gather(now, exchange)? {
            return Ok(());
        }
        let mut assembly = views.enter(now, &mut *self.fabric);
        if let Some(membership) = self.engine.membership() {
            assembly.engine.remember(&self.table, membership.roster());
        }
        let kept = self.keep();
        let made = std::mem::take(&mut assembly.made);
        views.detectors.wishes.guard(&made);
        self.polls = self.fabric.polls();
        if let Some(view) = views.untold.take() {
            self.tell(&view);
        }
        if self.is_inherited() {
            return Ok(());
        }
        for multicast in self.engine.multicasts() {
            self.counted[multicast.subgroup].add(multicast); // the next one begins at 0
        }
        let waiting = waiting_of(assembly.engine.view());
        self.lending(|Driver { lanes, application, .. }| {
            lanes.install(kept, made, &waiting, &mut |message| application.dropped(&message));
        });
        views.beat(assembly.table.layout.beat.byte(0));
        self.engine = assembly.engine;
        self.table = assembly.table;
        self.inboxes = assembly.inboxes;
        self.work.clear();
        self.events = Events::default();
        self.fabric.poll(true, &mut self.events);
        self.until_tick = 0;
        self.page.write_change(views.changes, &views.last);
        Ok(())
    }

    /// The callback of a view.
    fn tell(&mut self, view: &ViewInfo) {
        say_who_waits(view);
        self.fence_departed(view);
        self.lending(|driver| driver.application.view(view));
    }

    /// What my lanes have in the old view and must send again.
    fn keep(&mut self) -> Vec<(u16, u16, Kept)> {
        let mut kept = Vec::new();
        for at in 0..self.engine.multicasts().len() {
            let multicast = self.engine.multicast(at);
            let (subgroup, lanes) = (multicast.subgroup as u16, multicast.lanes.len());
            for lane in 0..lanes {
                kept.push((subgroup, lane as u16, self.engine.keep(at, lane)));
            }
        }
        kept
    }

    /// Sends again what has room now.
    fn pump(&mut self) {
        self.lending(|Driver { lanes, application, .. }| {
            lanes.pump(&mut |message| application.dropped(&message));
        });
    }

    /// Suspects have heard their last word: their connections are closed.
    #[cold]
    pub(super) fn expel(&mut self) {
        self.revoke(self.work.expel);
        let Some(views) = &mut self.views else { return };
        views.note(self.engine.suspicions());
        for suspicion in self.engine.suspicions() {
            let (rank, member) = (suspicion.rank, views.member(suspicion.rank));
            let (level, what) = match suspicion.fault {
                Fault::Left { .. } => (Level::Notice, "has closed the group"),
                _ => (Level::Warning, "is cut off"),
            };
            let seat = member.address.extra;
            let text = format!("rank {} (seat {seat}) {what}: {}", rank.0, suspicion.fault);
            say(level, &text);
        }
    }

    /// After the posts of a turn: memory for the next view, in time, and the next view.
    pub(super) fn after_turn(&mut self, delivered: u32) {
        if let Some(views) = &mut self.views
            && views.detectors.breath.delivered(delivered)
        {
            self.until_tick = 0;
        }
        if delivered > 0
            && let Some(views) = &mut self.views
            && views.last.built.0 > 0
            && views.last.delivered.0 == 0
        {
            views.last.delivered = super::clock();
            self.page.write_change(views.changes, &views.last);
        }
        if self.lanes.has_left() {
            self.pump();
        }
        self.ask_to_leave();
        let (Some(membership), Some(views)) = (self.engine.membership(), &mut self.views) else {
            return;
        };
        let over = matches!(self.engine.state(), State::Stopped(..));
        if !membership.is_wedged() || over {
            return;
        }
        let (suspects, timings) = (membership.suspects(), membership.timings());
        views.note(self.engine.suspicions()); // some are not cut off here any more
        let exchange = self.fabric.exchange().expect("views change");
        let mut outcome = Ok(());
        if !views.ready {
            outcome = views.prepare(suspects, exchange);
        }
        if let (Ok(()), Some(install)) = (&outcome, self.work.install.take()) {
            outcome = views.begin(install, timings, self.now, exchange);
            self.changing = true;
            self.pass_on();
        }
        if let Err(error) = outcome {
            self.halt(&error);
        }
        if self.changing {
            self.change();
        }
    }

    /// This member cannot have a next view. No farewell: to the others it has failed.
    #[cold]
    fn halt(&mut self, error: &Error) {
        say(Level::Error, &format!("this member stops: {error}"));
        self.application.lacks(error);
        self.stop_lanes(error.status);
        for peer in self.views.iter().flat_map(|views| views.everyone()) {
            self.fabric.revoke(peer);
        }
    }

    /// It is over here, whatever the engine thinks.
    pub(super) fn end(&mut self, status: Status) {
        self.fabric.farewell();
        self.stop_lanes(status);
    }

    fn stop_lanes(&mut self, status: Status) {
        for lane in self.engine.multicasts().iter().flat_map(|multicast| &multicast.lanes) {
            lane.taker.stop(status);
        }
        self.changing = true;
        self.stopped(status, None);
    }

    /// Now and then: memory for the next view and of the last one, if there is nothing else to do.
    #[cold]
    pub(super) fn tick_views(&mut self) {
        let quiet = self.counters.busy_turns == self.busy_before;
        self.busy_before = self.counters.busy_turns;
        if self.stopped.is_some() {
            self.reach();
            return self.feed(); // whoever asks for the state hears that there is none
        }
        self.watch();
        self.ask_to_leave();
        self.feed();
        self.reach();
        let due = self.now.0 - self.kept_house.0 >= KEEP_HOUSE_NS;
        if quiet || due && !mutant!("spare-only-in-quiet") {
            self.kept_house = self.now;
            self.prepare();
        }
        self.pump();
    }

    fn prepare(&mut self) {
        let (Some(membership), Some(views)) = (self.engine.membership(), &mut self.views) else {
            return;
        };
        // Once all wait for the next view, what it needs is had at the wedge (`after_turn`).
        if views.is_building() || self.stopped.is_some() || membership.is_wedged() {
            return;
        }
        let over = views.ready && !mutant!("spare-never-let-go") && views.spare.release();
        if over || !views.shortage.is_due(self.now) {
            return;
        }
        let exchange = self.fabric.exchange().expect("views change");
        let tried = match views.ready {
            true if mutant!("spare-nothing-foreseen") => Ok(()),
            true => views.foresee(exchange),
            false => views.prepare(membership.suspects(), exchange),
        };
        // It is tried again later, or when it is needed.
        if let Some((level, text)) = views.shortage.note(self.now, &tried) {
            say(level, &text);
        }
    }

    /// The second half of `arm` in the middle of a change.
    #[cold]
    pub(super) fn arm_changing(&mut self) -> bool {
        let views = self.views.as_mut().expect("views change");
        let safe = views.is_building() && views.untold.is_none() && self.stopped.is_none();
        if !safe {
            self.armed = false;
            self.fabric.disarm();
        }
        safe
    }
}
