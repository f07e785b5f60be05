// SPDX-License-Identifier: MIT OR Apache-2.0
//! The application's state for those who join: what the source does on its polling thread. The
//! joiner's side is `fetch`, the mechanism and who calls what `transfer`.
//!
//! S1  Feeds are asked what they want at a look at the clock: between `done` and the next poll,
//!     when what is delivered is what the application has had.
//! S2  A feed ends at an install, before anything of the new view is delivered.
//! S3  Who is joined and will not get what it lacks is reported as soon as its view is there: it
//!     would take no part, and all would wait for it.
//!
//! Nothing here waits, but closing a group: for the transfer threads (`Handle::close`).

use super::Driver;
use super::config::Config;
use super::control::Control;
use super::views::Views;
use crate::base::{Nanos, Number, Peer};
use crate::error::{Error, Status};
use crate::fabric::shm::OwnBell;
use crate::fabric::shm::fork::{Unshared, forks};
use crate::group::Engine;
use crate::group::view::View;
use crate::limits::SUBGROUPS_MAX;
use crate::log_sink::{Level, say};
use crate::mem::Message;
use crate::sst::layout::Mode;
use crate::transfer::{
    Ask, Checkpoint, End, Feed, Handle, Options, Phase, Position, Snapshot, Socket, StateSource,
    Version, start,
};
use std::os::fd::OwnedFd;

/// Transfers at the same time, at one source: each has its thread and its catch-up buffer. Who asks
/// beyond that asks somebody else, or again.
const TRANSFERS_MAX: usize = 4;
/// How often it is said how far a transfer is.
pub(super) const SAID_EVERY_NS: u64 = 1_000_000_000;
/// What a source says to its joiner: it has nearly caught up, and is to ask for its join.
pub(super) const NEAR: &[u8] = b"near\n";

/// What transfers of this group may take.
pub fn options(config: &Config) -> Options {
    let longest = config.subgroups.iter().map(|subgroup| subgroup.message_bytes_max).max();
    let longest = longest.unwrap_or(0);
    let room = (2 * (longest as usize + 64)).next_power_of_two();
    Options {
        subgroups: (0..SUBGROUPS_MAX as u16).collect(),
        catchup_bytes: config.transfer.catchup_bytes.max(room),
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
    /// It has been told to ask for its join.
    near: bool,
    handle: Handle,
}

/// All who get my state.
#[derive(Default)]
pub struct States {
    options: Options,
    wake: Option<OwnBell>,
    transfers: Vec<Transfer>,
    /// Some have a feed.
    feeding: bool,
    /// Incarnations that may be joined though their transfer is over.
    over: Vec<u64>,
    /// Incarnations that are joined and have not got what they lack (S3).
    lost: Vec<u64>,
    said: Nanos,
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
        let feeds = self.transfers.iter_mut().filter_map(|transfer| transfer.feed.as_mut());
        feeds.for_each(|feed| feed.append(subgroup, batch));
    }

    /// This member delivers nothing any more: whoever was getting its state asks another one.
    pub fn stop(&mut self) {
        self.transfers.iter_mut().for_each(|transfer| transfer.feed = None);
        self.feeding = false;
    }

    /// Somebody asks for the state.
    fn begin(&mut self, (joiner, peer): (u64, Peer), me: u64, stream: OwnedFd) {
        self.transfers.retain(|of| of.joiner != joiner || !of.handle.is_finished());
        for earlier in self.transfers.iter_mut().filter(|of| of.joiner == joiner) {
            earlier.feed = None;
        }
        if self.transfers.len() >= TRANSFERS_MAX {
            return say(Level::Notice, "one more asks for the state: not before others have it");
        }
        let wake = self.wake.clone();
        let wake = Box::new(move || {
            if let Some(bell) = &wake {
                bell.ring_always();
            }
        });
        let options = Options { incarnation: me, ..self.options.clone() };
        let started = Unshared::make(|| Ok(stream)).map_err(|cause| {
            let detail = format!("cannot keep a stream from forked children: {cause}");
            Error::new(Status::System, detail)
        });
        match started.and_then(|stream| start(Socket(stream), &options, wake)) {
            Ok((feed, handle)) => {
                let feed = Some(feed);
                self.transfers.push(Transfer { joiner, peer, feed, near: false, handle });
                self.feeding = true;
            }
            Err(trouble) => say(Level::Warning, &format!("no state for one that joins: {trouble}")),
        }
    }

    /// The next view is known, and nothing of it is delivered yet (S2).
    fn install(&mut self, engine: &Engine, views: &Views) {
        let finals = delivered(engine);
        for transfer in &mut self.transfers {
            let Some(mut feed) = transfer.feed.take() else { continue };
            let Some((roster, view, letter)) = views.next(transfer.joiner) else { return };
            let Some(extra) = letter else {
                let members = roster.members.iter().map(|member| member.incarnation).collect();
                let positions = beginning(view);
                feed.view(&Version { epoch: roster.epoch, positions, members });
                transfer.feed = Some(feed);
                continue;
            };
            let end = End { epoch: roster.epoch, finals: finals.clone(), extra };
            if feed.outcome().is_some() || !feed.end(&end) {
                self.lost.push(transfer.joiner);
            }
        }
        let joined =
            |joiner: &u64| views.next(*joiner).is_some_and(|(.., letter)| letter.is_some());
        self.lost.extend(self.over.drain(..).filter(joined));
        self.feeding = self.transfers.iter().any(|transfer| transfer.feed.is_some());
    }

    fn tell_progress(&mut self, now: Nanos) {
        if now.0 - self.said.0 < SAID_EVERY_NS {
            return;
        }
        self.said = now;
        for transfer in self.transfers.iter().filter(|of| !of.handle.is_finished()) {
            let progress = transfer.handle.progress().read();
            say(Level::Notice, &format!("state for {}: {}", transfer.joiner, text_of(&progress)));
        }
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

impl Driver {
    /// A look at the clock: who asks for my state, and what transfers want (S1).
    #[cold]
    pub(super) fn feed(&mut self) {
        let Driver { engine, fabric, application, views, states, now, .. } = self;
        let Some((views, exchange)) = views.as_mut().zip(fabric.exchange()) else { return };
        while let Some((peer, stream)) = exchange.offered() {
            if let Some(joiner) = exchange.incarnation(peer) {
                states.begin((joiner, peer), views.incarnation(), stream);
            }
        }
        if views.is_building() {
            return;
        }
        if !states.lost.is_empty() {
            let control = Control::new(views.detectors.wishes.clone(), None);
            states.lost.drain(..).for_each(|joiner| control.report(joiner)); // S3
        }
        if states.transfers.is_empty() {
            return;
        }
        for transfer in &mut states.transfers {
            let Some(feed) = &mut transfer.feed else { continue };
            let over = match feed.poll() {
                Ask::Nothing => exchange.has_ended(transfer.peer),
                Ask::Open => {
                    let version = version(engine);
                    match application.source() {
                        Some(source) => feed.open(source, &version),
                        None => feed.open(&mut NoSource, &version),
                    }
                    false
                }
                Ask::Join => {
                    transfer.near = true;
                    !exchange.say(transfer.peer, NEAR)
                }
                Ask::Over => {
                    if let Some(Err(failure)) = feed.outcome() {
                        say(Level::Notice, &format!("state for {}: {failure}", transfer.joiner));
                    }
                    true
                }
            };
            if over {
                transfer.feed = None;
                states.over.extend(transfer.near.then_some(transfer.joiner));
            }
        }
        states.transfers.retain(|of| of.feed.is_some() || !of.handle.is_finished());
        states.feeding = states.transfers.iter().any(|transfer| transfer.feed.is_some());
        states.tell_progress(*now);
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

/// What the application has had.
fn version(engine: &Engine) -> Version {
    let roster = engine.membership().map(|membership| membership.roster());
    let members = roster.into_iter().flat_map(|roster| &roster.members);
    Version {
        epoch: engine.epoch(),
        positions: delivered(engine),
        members: members.map(|member| member.incarnation).collect(),
    }
}

fn delivered(engine: &Engine) -> Vec<Position> {
    let position = |of: &crate::group::multicast::Multicast| Position {
        subgroup: of.subgroup as u16,
        ordered: of.mode == Mode::Stable,
        number: of.own_progress()[2],
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

/// For whoever waits.
pub(super) fn text_of(progress: &Snapshot) -> String {
    let Snapshot { phase, attempts, state_bytes, catchup_bytes, catchup_messages, .. } = *progress;
    let what = match phase {
        Phase::Opening => "waits for a checkpoint",
        Phase::Loading => "loads",
        Phase::Catchup => "catches up",
        Phase::Joining => "has nearly caught up",
        Phase::Ending => "is at the end",
        Phase::Done => "is done",
        Phase::Failed => "has failed",
    };
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let again = if attempts > 1 { format!(", start {attempts}") } else { String::new() };
    format!(
        "{what}: {:.1} MiB of state, {catchup_messages} messages of {:.1} MiB after it{again}",
        mib(state_bytes),
        mib(catchup_bytes)
    )
}
