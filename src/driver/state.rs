// SPDX-License-Identifier: MIT OR Apache-2.0
//! The application's state for those who join: what the source does on its polling thread. The
//! joiner's side is `fetch`, the mechanism and who calls what `transfer`.
//!
//! S1  Feeds are asked what they want at a look at the clock: between `done` and the next poll,
//!     when what is delivered is what the application has had.
//! S2  A feed ends at an install, before anything of the new view is delivered.
//! S3  Who is joined and will not get what it lacks is told so, and takes its leave itself
//!     (`join/guest.rs`): to report it would cost the group a member that it may need to go on.
//! S4  Only a member that has the state of the joiner's shards gives it (`cover`), and none that is
//!     about to leave.
//!
//! Nothing here waits, but closing a group: for the transfer threads (`Handle::close`).

pub mod cover;
#[cfg(all(test, not(loom)))]
mod tests;

use super::config::Config;
use super::stats::{GIVEN_MAX, Page, Transferred};
use super::views::Views;
use super::{Application, Driver};
use crate::base::{Epoch, Members, Nanos, Number, Peer};
use crate::error::{Error, Status};
use crate::fabric::shm::OwnBell;
use crate::fabric::shm::fork::{Unshared, forks};
use crate::group::Engine;
use crate::group::view::View;
use crate::limits::SUBGROUPS_MAX;
use crate::log_sink::{Level, say};
use crate::mem::Message;
use crate::mutant;
use crate::sst::layout::Mode;
use crate::transfer::{
    Ask, Checkpoint, End, Failure, Feed, Handle, Options, Position, Socket, StateSource, Version,
    refuse, start,
};
use cover::{Need, Subgroups};
use std::os::fd::OwnedFd;

/// Transfers at the same time, at one source: each has its thread and its catch-up buffer. Who asks
/// beyond that asks somebody else, or again.
const TRANSFERS_MAX: usize = 4;
const _: () = assert!(TRANSFERS_MAX == GIVEN_MAX);
/// How often the statistics page says how far they are.
const SHOWN_EVERY_NS: u64 = 20_000_000;
/// How often it is said how far a transfer is.
pub(super) const SAID_EVERY_NS: u64 = 1_000_000_000;

/// The smallest catch-up buffer that a letter to a joiner fits into.
const CATCHUP_BYTES_LEAST: usize = 128 << 10;

/// What transfers of this group may take.
pub fn options(config: &Config) -> Options {
    let longest = config.subgroups.iter().map(|subgroup| subgroup.message_bytes_max).max();
    let longest = longest.unwrap_or(0);
    // Room for two messages, and for the end: a letter of some kilobytes.
    let room = (2 * (longest as usize + 64)).next_power_of_two().max(CATCHUP_BYTES_LEAST);
    let catchup_bytes = config.transfer.catchup_bytes.max(room);
    Options {
        subgroups: (0..SUBGROUPS_MAX as u16).collect(),
        catchup_bytes,
        catchup_bytes_max: config.transfer.catchup_bytes_max.max(catchup_bytes),
        message_bytes_max: longest,
        ..config.transfer.clone()
    }
}

/// One that gets my state.
struct Transfer {
    /// Its incarnation.
    joiner: u64,
    peer: Peer,
    /// `None`: the rest is the transfer thread's.
    feed: Option<Feed>,
    /// What it gets the state of, since a checkpoint is open (O1).
    covers: Option<Subgroups>,
    /// In which view that was looked at.
    looked: Epoch,
    handle: Handle,
    /// Its place in the statistics.
    place: usize,
}

/// All who get my state.
#[derive(Default)]
pub struct States {
    options: Options,
    wake: Option<OwnBell>,
    transfers: Vec<Transfer>,
    /// Some have a feed.
    feeding: bool,
    said: Nanos,
    shown: Nanos,
    /// In which process this is.
    forks: u64,
}

impl States {
    /// `wake`: of the polling thread, if it ever sleeps.
    pub fn new(config: &Config, wake: Option<OwnBell>) -> States {
        let mut states = States::default();
        (states.options, states.wake, states.forks) = (options(config), wake, forks());
        states
    }

    /// A batch that the application has had, for whoever gets the state. One load, if nobody does.
    #[inline(always)]
    pub fn append(&mut self, subgroup: u16, batch: &[Message]) {
        if self.feeding {
            self.append_to_all(subgroup, batch);
        }
    }

    #[inline(never)]
    fn append_to_all(&mut self, subgroup: u16, batch: &[Message]) {
        if mutant!("state-batch-left-out") {
            return;
        }
        let feeds = self.transfers.iter_mut().filter_map(|transfer| transfer.feed.as_mut());
        feeds.for_each(|feed| feed.append(subgroup, batch));
    }

    /// This member delivers nothing any more: whoever was getting its state asks another one.
    pub fn stop(&mut self) {
        self.transfers.iter_mut().for_each(|transfer| transfer.feed = None);
        self.feeding = false;
    }

    /// Somebody asks for the state: it is given, or told why not.
    fn begin(&mut self, (joiner, peer): (u64, Peer), of: &Giver, stream: OwnedFd) {
        self.transfers.retain(|of| of.joiner != joiner || !of.handle.is_finished());
        for earlier in self.transfers.iter_mut().filter(|of| of.joiner == joiner) {
            earlier.feed = None;
        }
        let taken = |place: &usize| self.transfers.iter().any(|of| of.place == *place);
        let place = (0..TRANSFERS_MAX).find(|place| !taken(place));
        let why = match of.refuses(joiner) {
            None if place.is_none() => Failure::Busy("others are getting the state"),
            None => return self.start((joiner, peer), of, stream, place.expect("there is one")),
            Some(why) => why,
        };
        say(Level::Notice, &format!("no state for {joiner}: {why}"));
        refuse(Socket(stream), &why);
    }

    fn start(&mut self, (joiner, peer): (u64, Peer), of: &Giver, stream: OwnedFd, place: usize) {
        let wake = self.wake.clone();
        let wake = Box::new(move || {
            if let Some(bell) = &wake {
                bell.ring_always();
            }
        });
        let options = Options { incarnation: of.views.incarnation(), ..self.options.clone() };
        let started = Unshared::make(|| Ok(stream)).map_err(|cause| {
            let detail = format!("cannot keep a stream from forked children: {cause}");
            Error::new(Status::System, detail)
        });
        match started.and_then(|stream| start(Socket(stream), &options, wake)) {
            Ok((feed, handle)) => {
                let (feed, covers, looked) = (Some(feed), None, Epoch(0));
                self.transfers.push(Transfer { joiner, peer, feed, covers, looked, handle, place });
                self.feeding = true;
            }
            Err(trouble) => say(Level::Warning, &format!("no state for one that joins: {trouble}")),
        }
    }

    /// The next view is known, and nothing of it is delivered yet (S2).
    fn install(&mut self, engine: &Engine, views: &Views) {
        let finals = delivered(engine);
        let suspects = suspects(engine);
        for transfer in &mut self.transfers {
            let Some(mut feed) = transfer.feed.take() else { continue };
            let covers = transfer.covers.unwrap_or(0);
            let next = views.next(transfer.joiner, covers);
            let Some((roster, view, letter)) = next else { return };
            let Some(extra) = letter else {
                let covers = transfer.covers.map(|covers| covers & cover::of(view, roster.me));
                transfer.covers = covers;
                let members = roster.members.iter().map(|member| member.incarnation).collect();
                let positions = among(beginning(view), covers);
                if !mutant!("state-view-untold") {
                    feed.view(&Version { epoch: roster.epoch, positions, members });
                }
                transfer.feed = Some(feed);
                continue;
            };
            let need = Need::of(views.present(), (roster, view), transfer.joiner, suspects);
            if !need.suits(covers) && !mutant!("state-moved-at-the-end") {
                feed.give_up_moved(); // S3
                continue;
            }
            let lacks = need.held & !covers;
            if lacks != 0 {
                let text = format!(
                    "{} gets no state of these subgroups, a bit each: {lacks:#b}; no member is in all \
                     of its shards",
                    transfer.joiner
                );
                say(Level::Warning, &text);
            }
            let end = End { epoch: roster.epoch, finals: finals.clone(), extra };
            if mutant!("state-end-left-out") || !feed.end(&end) {
                say(Level::Warning, &format!("{} is joined and lacks the end", transfer.joiner));
            }
        }
        self.feeding = self.transfers.iter().any(|transfer| transfer.feed.is_some());
    }

    /// How far they are, for whoever looks; those that are over are forgotten.
    fn show(&mut self, now: Nanos, page: &Page) {
        let due = now.0 - self.shown.0 >= SHOWN_EVERY_NS;
        if due {
            self.shown = now;
        }
        self.transfers.retain(|of| {
            let over = of.feed.is_none() && of.handle.is_finished();
            if due || over {
                let progress = of.handle.progress().read();
                let shown = Transferred { gives: true, other: of.joiner, progress };
                page.write_transfer(of.place, &shown);
            }
            !over
        });
        self.feeding = self.transfers.iter().any(|transfer| transfer.feed.is_some());
    }

    fn tell_progress(&mut self, now: Nanos) {
        if now.0 - self.said.0 < SAID_EVERY_NS {
            return;
        }
        self.said = now;
        for transfer in self.transfers.iter().filter(|of| !of.handle.is_finished()) {
            let progress = transfer.handle.progress().read();
            say(Level::Notice, &format!("state for {}: {progress}", transfer.joiner));
        }
    }
}

/// A member that is asked for its state.
struct Giver<'a> {
    views: &'a Views,
    suspects: Members,
    stopped: bool,
}

impl Giver<'_> {
    /// Why one that asks gets nothing here (S4).
    fn refuses(&self, joiner: u64) -> Option<Failure> {
        let (roster, _) = self.views.present();
        let leaves = self.views.detectors.leaving && !mutant!("state-of-a-leaver");
        if self.stopped || leaves {
            return Some(Failure::Cancelled);
        }
        if roster.members.iter().any(|member| member.incarnation == joiner) {
            return Some(Failure::Busy("a member has its state"));
        }
        // Where it will be in the view that is built is looked at later.
        let suits = self.views.is_building() || self.covers(joiner, None).is_some();
        if suits { None } else { Some(Failure::Moved) }
    }

    /// What I can give it the state of, of `had` or of all that is mine; `None`: somebody else can
    /// give it more (O2).
    fn covers(&self, joiner: u64, had: Option<Subgroups>) -> Option<Subgroups> {
        let (roster, view) = self.views.present();
        let mine = had.unwrap_or(cover::of(view, roster.me));
        // Too few members for a view, say: nobody knows where it will be.
        let Some((next, then)) = self.views.foreseen(joiner) else { return Some(mine) };
        let need = Need::of((roster, view), (&next, &then), joiner, self.suspects);
        if mutant!("state-any-place") {
            return Some(mine);
        }
        need.suits(mine).then_some(mine & need.joins)
    }
}

impl Drop for States {
    fn drop(&mut self) {
        self.stop();
        for transfer in self.transfers.drain(..) {
            if forks() == self.forks {
                transfer.handle.close();
            } else {
                std::mem::forget(transfer.handle); // a child: that thread is its parent's
            }
        }
    }
}

impl Transfer {
    /// What the transfer wants now; whether it is over.
    fn attend(&mut self, of: &Giver, engine: &Engine, application: &mut dyn Application) -> bool {
        let Some(feed) = &mut self.feed else { return false };
        let ask = feed.poll();
        let moved = match ask {
            Ask::Over => {
                if let Some(Err(failure)) = feed.outcome() {
                    say(Level::Notice, &format!("state for {}: {failure}", self.joiner));
                }
                return true;
            }
            Ask::Open if of.views.detectors.leaving && !mutant!("state-of-a-leaver") => {
                return true;
            }
            Ask::Open => {
                self.covers = of.covers(self.joiner, None);
                self.covers.is_none()
            }
            Ask::Nothing | Ask::Join => {
                let again = self.covers.is_some() && self.looked != engine.epoch();
                let again = again && !mutant!("state-moves-unseen");
                again && of.covers(self.joiner, self.covers).is_none()
            }
        };
        self.looked = engine.epoch();
        if moved {
            self.feed.take().expect("it has one").give_up_moved();
            return true;
        }
        if ask == Ask::Open {
            let version = version(engine, self.covers);
            match application.source() {
                Some(source) => feed.open(source, &version),
                None => feed.open(&mut NoSource, &version),
            }
        }
        false
    }
}

impl Driver {
    /// A look at the clock: who asks for my state, and what transfers want (S1).
    #[cold]
    pub(super) fn feed(&mut self) {
        let Driver { engine, fabric, views, states, stopped, .. } = self;
        let Some((views, exchange)) = views.as_mut().zip(fabric.exchange()) else { return };
        let of = Giver { views, suspects: suspects(engine), stopped: stopped.is_some() };
        while let Some((peer, stream)) = exchange.offered() {
            if let Some(joiner) = exchange.incarnation(peer) {
                states.begin((joiner, peer), &of, stream);
            }
        }
        if of.stopped || views.is_building() || states.transfers.is_empty() {
            return;
        }
        self.lending(Driver::attend); // a checkpoint may take its time
        let Driver { fabric, states, now, page, .. } = self;
        let Some(exchange) = fabric.exchange() else { return }; // a child's (V4)
        for transfer in &mut states.transfers {
            // Its place may be another process' by now.
            let its = exchange.incarnation(transfer.peer) == Some(transfer.joiner);
            if !its || exchange.has_ended(transfer.peer) {
                transfer.feed = None;
            }
        }
        states.show(*now, page);
        states.tell_progress(*now);
    }

    /// What transfers want; those that are over end.
    fn attend(&mut self) {
        let Driver { engine, application, views, states, stopped, .. } = self;
        let Some(views) = views else { return };
        let of = Giver { views, suspects: suspects(engine), stopped: stopped.is_some() };
        for transfer in &mut states.transfers {
            if transfer.attend(&of, engine, &mut **application) {
                transfer.feed = None;
            }
        }
    }

    /// A view has just been seen to follow: feeds end, or go on into it.
    pub(super) fn pass_on(&mut self) {
        if let Some(views) = &self.views {
            self.states.install(&self.engine, views);
        }
    }
}

/// For a group without a state that is asked for one.
struct NoSource;

impl StateSource for NoSource {
    fn checkpoint_open(&mut self, _version: &Version) -> Result<Box<dyn Checkpoint>, Error> {
        let detail = "the members of this group have no state to give: join it without, or open it \
                      with the same application everywhere";
        Err(Error::new(Status::Mismatch, detail))
    }
}

/// What the application has had, of `covers`.
fn version(engine: &Engine, covers: Option<Subgroups>) -> Version {
    let roster = engine.membership().map(|membership| membership.roster());
    let members = roster.into_iter().flat_map(|roster| &roster.members);
    Version {
        epoch: engine.epoch(),
        positions: among(delivered(engine), covers),
        members: members.map(|member| member.incarnation).collect(),
    }
}

fn among(positions: Vec<Position>, covers: Option<Subgroups>) -> Vec<Position> {
    let covers = covers.unwrap_or(0);
    positions.into_iter().filter(|position| covers >> position.subgroup & 1 == 1).collect()
}

fn suspects(engine: &Engine) -> Members {
    engine.membership().map_or(Members::NONE, |membership| membership.suspects())
}

fn delivered(engine: &Engine) -> Vec<Position> {
    let at = if mutant!("state-version-ahead") { 0 } else { 2 };
    let position = |of: &crate::group::multicast::Multicast| Position {
        subgroup: of.subgroup as u16,
        ordered: of.mode == Mode::Stable,
        number: of.own_progress()[at],
    };
    engine.multicasts().iter().map(position).collect()
}

/// Where a view begins.
fn beginning(view: &View) -> Vec<Position> {
    let mine = view.subgroups.iter().zip(0..).filter(|(subgroup, _)| subgroup.has(view.me));
    let position = |(subgroup, at): (&crate::group::view::Subgroup, u16)| Position {
        subgroup: at,
        ordered: subgroup.mode() == Mode::Stable,
        number: Number(0),
    };
    mine.map(position).collect()
}
