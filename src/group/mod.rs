// SPDX-License-Identifier: MIT OR Apache-2.0
//! The engine: a pure function from (its state, the table, the events, the time) to work.
//!
//! It calls nobody, sleeps never, and knows neither clock, fabric nor callbacks. The driver does what
//! `Work` asks for, in the order of its fields, and says so with `done`.
//!
//! E1  `poll` and `done` alternate (asserted), but for polls that find all still.
//! E2  A poll is bounded: O(members + senders) loads per subgroup, `TAKE_MAX` slots per lane,
//!     `POSTS_MAX` posts.
//! E3  A peer's bytes are checked before use; nonsense makes that peer suspect, never a panic.
//!
//! Without a membership the view is fixed and a suspicion ends the group; with one (`evolve.rs`) it
//! ends the view, and `Work::install` says what comes next.

pub mod detector;
mod evolve;
pub mod membership;
pub mod multicast;
pub mod outbox;
pub mod policy;
pub mod view;

#[cfg(all(test, not(loom)))]
mod tests;
#[cfg(all(test, not(loom)))]
mod transcript;

use crate::base::{Epoch, Events, Members, Nanos, Number, Post, Posting, Rank};
use crate::error::{Fault, Status, Suspicion};
use crate::limits::POSTS_MAX;
use crate::sst::Table;
use crate::sst::inbox::{BadSlot, Inbox};
use crate::sst::ring::Taker;
use membership::Install;
use multicast::Multicast;
use view::View;

/// Messages to deliver: those of a subgroup up to a number of its order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// Position among my subgroups: of its inbox, and for `Engine::multicast`.
    pub at: usize,
    pub upto: Number,
}

/// What one poll asks of the world, to be done in the order of the fields.
pub struct Work {
    /// 1  Callbacks, within the poll's budget.
    pub deliver: Vec<Delivery>,
    // ---- then Engine::done ----
    /// 2  Peers that may write no more: nothing of theirs is looked at from now on.
    pub revoke: Members,
    /// 3  In this order.
    pub posts: Vec<Post>,
    /// 4  Peers that heard their last word in those posts, and then may write no more.
    pub expel: Members,
    /// 5  The next view: this engine is over.
    pub install: Option<Install>,
    /// Whether the poll found anything new or said anything new.
    pub busy: bool,
}

impl Work {
    pub fn new() -> Work {
        let deliver = Vec::with_capacity(crate::limits::SUBGROUPS_MAX);
        let posts = Vec::with_capacity(POSTS_MAX);
        let (revoke, expel) = (Members::NONE, Members::NONE);
        Work { deliver, revoke, posts, expel, install: None, busy: false }
    }
}

impl Work {
    /// Nothing to do.
    pub fn clear(&mut self) {
        self.deliver.clear();
        self.posts.clear();
        (self.revoke, self.expel) = (Members::NONE, Members::NONE);
        self.install = None;
        self.busy = false;
    }
}

impl Default for Work {
    fn default() -> Self {
        Work::new()
    }
}

/// Whether the group still runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Running,
    /// A member has closed in good order. What is stable is still delivered; then it is `Stopped`.
    Leaving(Rank),
    /// A member is lost. What is stable is still delivered; then it is `Stopped`.
    Ending(Suspicion),
    Stopped(Status, Option<Suspicion>),
}

#[derive(PartialEq, Eq)]
enum Phase {
    Poll,
    Done,
}

pub struct Engine {
    epoch: Epoch,
    view: View,
    multicasts: Vec<Multicast>,
    departed: Members,
    state: State,
    phase: Phase,
    /// Where the next poll starts, so that no subgroup starves another.
    turn: usize,
    /// Whose posts come first: where the last turn had no room for more.
    first_to_post: usize,
    /// What I am ahead of in subgroups that lack members: for the view in which they have them.
    ahead: Vec<multicast::ahead::Ahead>,
    /// `None`: the view is fixed.
    evolution: Option<Box<evolve::Evolution>>,
}

impl Engine {
    /// `takers`: for each subgroup of mine, in the view's order, one per lane of mine.
    pub fn new(view: View, table: &Table, mut takers: Vec<Vec<Taker>>, posting: Posting) -> Engine {
        takers.reverse();
        let mut multicasts = Vec::new();
        for (subgroup, spec) in view.subgroups.iter().enumerate() {
            if spec.has(view.me) {
                let mine = takers.pop().expect("takers for each subgroup of mine");
                multicasts.push(Multicast::new(&view, subgroup, table, mine));
            }
        }
        for multicast in &mut multicasts {
            multicast.outbox().posting = posting;
        }
        Engine {
            epoch: view.epoch,
            view,
            multicasts,
            departed: Members::NONE,
            state: State::Running,
            phase: Phase::Poll,
            turn: 0,
            first_to_post: 0,
            ahead: Vec::new(),
            evolution: None,
        }
    }

    /// Whether a poll would come to nothing; then it may be left out, and `done` with it.
    #[inline(always)]
    pub fn is_still(&self, table: &Table, events: &Events) -> bool {
        self.state == State::Running
            && events.lost.is_empty()
            && self.multicasts.iter().all(|multicast| multicast.is_still(table))
            && self.evolution.as_ref().is_none_or(|evolution| evolution.is_still(table))
    }

    /// One bounded turn's decisions (E2). Calls nobody.
    pub fn poll(&mut self, now: Nanos, table: &mut Table, events: &Events, work: &mut Work) {
        assert!(self.phase == Phase::Poll, "poll after poll");
        self.phase = Phase::Done;
        work.clear();
        if let State::Stopped(..) = self.state {
            return;
        }
        if self.evolution.is_some() {
            return self.poll_evolving(now, table, events, work);
        }
        if !events.lost.is_empty() {
            for rank in events.lost.without(self.departed).iter() {
                self.lose(rank, table);
            }
        }
        for at in 0..self.multicasts.len() {
            if let Err(suspicion) = self.multicasts[at].poll(now.0, table) {
                self.suspect(suspicion, work);
                return;
            }
        }
        self.offer(work);
        if work.deliver.is_empty() && self.state != State::Running {
            self.end_if_over();
        }
    }

    /// The world did what `work` said, as far as the inboxes say. Appends the posts.
    pub fn done(&mut self, inboxes: &[Inbox], table: &mut Table, events: &Events, work: &mut Work) {
        assert!(self.phase == Phase::Done, "done without poll");
        self.phase = Phase::Poll;
        for delivery in &work.deliver {
            self.multicasts[delivery.at].done(&inboxes[delivery.at], table);
        }
        if let State::Stopped(..) = self.state {
            return;
        }
        if self.evolution.is_some() {
            self.done_evolving(table, events, work);
            work.busy |= !work.posts.is_empty();
            return;
        }
        let full = events.full.union(self.departed);
        self.post(table, full, &mut work.posts);
        work.busy |= !work.posts.is_empty();
    }

    /// As many posts as a turn may have. Where they end, the next turn goes on.
    fn post(&mut self, table: &Table, full: Members, posts: &mut Vec<Post>) {
        let first = self.first_to_post;
        for at in (first..self.multicasts.len()).chain(0..first) {
            self.multicasts[at].posts(table, full, posts);
            // Half of the posts are more than one subgroup's share: before that nothing is kept back.
            if posts.len() > POSTS_MAX / 2 && self.multicasts[at].outbox().owes(full) {
                let next = if at == first { at + 1 } else { at };
                self.first_to_post = if next < self.multicasts.len() { next } else { 0 };
                return;
            }
        }
    }

    /// An inbox met a slot that is no message: its sender is cut off (E3).
    pub fn bad_slot(&mut self, at: usize, bad: BadSlot, work: &mut Work) {
        let subgroup = self.multicasts[at].subgroup;
        let sender = self.view.subgroups[subgroup].senders[bad.sender];
        assert!(sender.rank != self.view.me, "a slot of my own is no message");
        let (subgroup, sender_at) = (subgroup as u16, bad.sender as u16);
        let fault = Fault::BadSlot { subgroup, sender: sender_at, words: bad.words };
        self.multicasts[at].stumble();
        self.suspect(Suspicion { rank: sender.rank, fault }, work);
    }

    fn suspect(&mut self, suspicion: Suspicion, work: &mut Work) {
        if self.tell(suspicion) {
            return;
        }
        work.revoke.insert(suspicion.rank);
        self.stop(Status::PeerFault, Some(suspicion));
    }

    /// A connection ended: after a farewell in the control block, or without.
    fn lose(&mut self, rank: Rank, table: &Table) {
        self.departed.insert(rank);
        let closed: u64 = table.observe(rank, table.layout.closed, 0);
        match self.state {
            State::Running if closed == 1 => self.state = State::Leaving(rank),
            State::Leaving(_) if closed == 1 => {}
            State::Running | State::Leaving(_) if closed != 1 => {
                let fault = Fault::Lost { also: Members::NONE };
                self.state = State::Ending(Suspicion { rank, fault });
            }
            State::Ending(Suspicion { rank: first, fault: Fault::Lost { mut also } })
                if closed != 1 =>
            {
                also.insert(rank);
                self.state = State::Ending(Suspicion { rank: first, fault: Fault::Lost { also } });
            }
            _ => return,
        }
        if closed == 1 {
            // Nothing sent from now on can become stable.
            let with =
                self.multicasts.iter().filter(|multicast| multicast.has_member(self.departed));
            for lane in with.flat_map(|multicast| &multicast.lanes) {
                lane.taker.stop(Status::PeerLeft);
            }
        }
    }

    /// Once a member is gone without a farewell and nothing is left to deliver, that is the end:
    /// nobody knows what the others still get. After a farewell all get what the departed had.
    fn end_if_over(&mut self) {
        match self.state {
            State::Ending(suspicion) => self.stop(Status::PeerLost, Some(suspicion)),
            State::Leaving(rank) if self.is_over() => {
                let mut also = self.departed;
                also.remove(rank);
                let left = Suspicion { rank, fault: Fault::Left { also } };
                self.state = State::Stopped(Status::PeerLeft, Some(left));
            }
            _ => {}
        }
    }

    /// Whether nothing can be delivered any more: a group goes on while it has subgroups that no
    /// departed member belonged to.
    fn is_over(&self) -> bool {
        self.multicasts.iter().all(|multicast| multicast.is_over(self.departed))
    }

    fn stop(&mut self, status: Status, suspicion: Option<Suspicion>) {
        self.state = State::Stopped(status, suspicion);
        for multicast in &self.multicasts {
            multicast.lanes.iter().for_each(|lane| lane.taker.stop(status));
        }
    }

    /// Stops without a word to anybody: the memory is no longer this process's to write.
    pub fn abandon(&mut self) {
        self.stop(Status::Closed, None);
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub fn view(&self) -> &View {
        &self.view
    }

    /// My subgroups, in the view's order.
    pub fn multicasts(&self) -> &[Multicast] {
        &self.multicasts
    }

    #[inline]
    pub fn multicast(&self, at: usize) -> &Multicast {
        &self.multicasts[at]
    }

    /// For `Multicast::collect`.
    #[inline]
    pub fn multicast_mut(&mut self, at: usize) -> &mut Multicast {
        &mut self.multicasts[at]
    }

    /// Whether a turn would find something to do: for the look between saying "asleep" and sleeping.
    /// `events` tells who is full now, not who was at the last poll.
    pub fn has_work(&mut self, table: &Table, events: &Events) -> bool {
        let over = match self.state {
            State::Ending(_) => true,
            State::Leaving(_) => self.is_over(),
            State::Running | State::Stopped(..) => false,
        };
        let full = events.full.union(self.departed);
        over || self.evolution.as_ref().is_some_and(|evolution| evolution.has_work(table, full))
            || self.multicasts.iter_mut().any(|multicast| multicast.has_work(table, full))
    }

    /// Whether `released` of others is news to me: a lane of mine waits for room.
    pub fn waits_for_room(&self) -> bool {
        self.multicasts.iter().any(Multicast::waits_for_room)
    }
}
