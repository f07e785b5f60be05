// SPDX-License-Identifier: MIT OR Apache-2.0
//! A lane in all views: its ring changes with the view, while the application's thread may be
//! anywhere in a call.
//!
//! The application's thread has a [`Lane`], the turn thread its [`Handover`]. A view is ended by
//! stopping the producer (`LaneCells`), which a call that is under way may not have seen: it counts
//! its message in the old ring all the same. So the turn thread makes the producer of the next view
//! and sends with it what is in the old ring, *as it comes*, until the application's thread takes
//! that producer, which it only does when nothing of its own is left behind.
//!
//! H1  A message whose send answered `Ok` is in the ring of the newest view, or in an older one and
//!     will be sent again from there, or was handed to `dropped`: exactly one of these.
//! H2  `passed` counts what is done with in older rings, in ordinals, and is published before the
//!     producer is offered. The application's thread takes an offer only if `passed` is all that it
//!     has ever sent: then nobody else sends in this lane any more.
//! H3  Neither thread waits for the other: to offer, to take and to take back is an exchange of one
//!     word. The easy path of a send knows nothing of all this.
//! H4  An old ring lives until the application's thread has left it: at its next call, or, if it has
//!     a message reserved there, when that is published or aborted.
//! H5  A lane that takes nothing new any more (`close`, `settle`) goes on through the views with what
//!     it has; when the member's part is over, what is left is handed to `dropped` (`end`). Rings of
//!     later views are closed (`Door`) before they come here.
//!
//! Cost: of a send, one addition; of a reserve or publish, two tests. A view change costs a box.

use super::kept::Kept;
use super::producer::Producer;
use super::ring::Taker;
use crate::error::Status;
use crate::mem::{Cell, Exchange};
use crate::mutant;
use std::collections::VecDeque;
use std::sync::Arc;

/// What both ends of a lane share.
struct Shared {
    offer: Exchange<Offer>,
    /// Ordinals that are done with in older rings than the one offered (H2). `// H`
    passed: Cell,
    /// What a call answers while nothing is offered: a `Status`, negated.
    answer: Cell,
}

impl Shared {
    fn answer(&self) -> Status {
        Status::from_code(-(self.answer.observe() as i32)).unwrap_or(Status::Failed)
    }

    fn set_answer(&self, status: Status) {
        self.answer.publish((status as i32).unsigned_abs().into());
    }
}

/// A view's producer, and the ordinal that its slot 0 would have if there were no gaps.
struct Offer {
    producer: Producer,
    base: u64,
}

/// The application thread's end of a lane. One thread at a time; never blocks.
///
/// Every call answers `Again` between the end of a view and the next one (poll, then try again),
/// `NotSender` while this member has no such lane in the view, and `Inadequate` while it would have one
/// if its subgroup had members enough.
pub struct Lane {
    producer: Producer,
    base: u64,
    /// The ring of a view that is over, with a reservation in it.
    held: Option<Box<Producer>>,
    shared: Arc<Shared>,
}

/// Both ends of a lane that has no ring yet.
pub fn lane() -> (Lane, Handover) {
    let (producer, nowhere) = Producer::nowhere();
    let shared =
        Arc::new(Shared { offer: Exchange::new(), passed: Cell::new(0), answer: Cell::new(0) });
    shared.set_answer(Status::NotSender);
    let handover = Handover {
        shared: shared.clone(),
        place: Place::There,
        role: Role::NotSender,
        sources: VecDeque::new(),
        bases: Vec::new(),
        nowhere: Some(nowhere),
        shut: false,
    };
    (Lane { producer, base: 0, held: None, shared }, handover)
}

impl Lane {
    /// Copies `bytes` into the next slot. Answers the message's ordinal in this lane, over all views.
    #[inline(always)]
    pub fn send(&mut self, bytes: &[u8]) -> Result<u64, Status> {
        match self.send_easily(bytes) {
            Some(ordinal) => Ok(ordinal),
            None => self.send_slowly(bytes),
        }
    }

    /// The same if it needs no look around; else `None`, and nothing has happened.
    #[inline(always)]
    pub fn send_easily(&mut self, bytes: &[u8]) -> Option<u64> {
        let slot = self.producer.send_easily(bytes)?;
        Some(slot + self.base) // in this order: the base is not to be carried along
    }

    #[inline(never)]
    fn send_slowly(&mut self, bytes: &[u8]) -> Result<u64, Status> {
        self.send_parts(&[bytes])
    }

    /// As `Producer::send_many`.
    #[inline(always)]
    pub fn send_many<'a>(
        &mut self,
        messages: impl Iterator<Item = &'a [u8]>,
    ) -> (u64, Result<(), Status>) {
        match self.look() {
            Ok(()) => self.producer.send_many(messages),
            Err(status) => (0, Err(status)),
        }
    }

    /// The same for a message in pieces.
    #[inline]
    pub fn send_parts(&mut self, parts: &[&[u8]]) -> Result<u64, Status> {
        self.look()?;
        Ok(self.producer.send_parts(parts)? + self.base)
    }

    /// Lends `len` bytes of the next slot, to be filled in place; then `publish` or `abort`. They may
    /// be written until then, whatever becomes of the view.
    #[inline]
    pub fn reserve(&mut self, len: u32) -> Result<&mut [u8], Status> {
        self.look()?;
        self.producer.reserve(len)
    }

    /// Sends the first `len` bytes of what was reserved. If the view it was reserved in is over they
    /// are copied, and `Again` is an answer, too: then they stay reserved.
    #[inline]
    pub fn publish(&mut self, len: u32) -> Result<u64, Status> {
        if self.held.is_none() && self.producer.stopped().is_none() {
            return Ok(self.producer.publish(len)? + self.base);
        }
        self.publish_by_copy(len)
    }

    #[cold]
    fn publish_by_copy(&mut self, len: u32) -> Result<u64, Status> {
        if !self.has_reserved() {
            return Err(Status::NotReserved);
        }
        self.renew()?;
        let Some(held) = &self.held else { return Err(Status::Again) };
        let slot = self.producer.send(held.reserved(len)?)?;
        self.held = None;
        Ok(self.base + slot)
    }

    /// Forgets what was reserved. No other member ever hears of it.
    pub fn abort(&mut self) -> Result<(), Status> {
        match self.held.take() {
            Some(_) => Ok(()),
            None => self.producer.abort(),
        }
    }

    /// Messages sent so far: the next ordinal.
    pub fn ordinal(&self) -> u64 {
        self.base + self.producer.ordinal()
    }

    fn has_reserved(&self) -> bool {
        self.held.is_some() || self.producer.has_reserved()
    }

    /// Before anything new is sent: whether the ring is still the view's, or the newest is to be had.
    #[inline(always)]
    fn look(&mut self) -> Result<(), Status> {
        if self.held.is_none() && self.producer.stopped().is_none() {
            return Ok(());
        }
        self.look_slowly()
    }

    #[cold]
    fn look_slowly(&mut self) -> Result<(), Status> {
        if self.has_reserved() {
            return Err(Status::NotReserved);
        }
        self.renew()
    }

    /// Takes the newest ring, if this one's view is over and the new one is offered (H2).
    fn renew(&mut self) -> Result<(), Status> {
        while let Some(status) = self.producer.stopped() {
            if status != Status::Again {
                return Err(status);
            }
            if self.shared.passed.observe() != self.ordinal() && !crate::mutant!("loom-h-early") {
                return Err(self.shared.answer()); // a message of mine is yet to be sent again
            }
            let Some(offer) = self.shared.offer.take() else { return Err(self.shared.answer()) };
            let Offer { producer, base } = *offer;
            assert_eq!(base + producer.ordinal(), self.ordinal(), "nothing is left behind (H2)");
            self.base = base;
            let old = std::mem::replace(&mut self.producer, producer);
            if old.has_reserved() {
                self.held = Some(Box::new(old));
            }
            if self.held.is_some() && !crate::mutant!("lane-held-leaves-the-easy-path-open") {
                self.producer.shut_easy_path(); // what was sent again has opened it
            }
        }
        Ok(())
    }
}

/// A message that was accepted and that no view can take.
#[derive(Clone, Copy, Debug)]
pub struct Dropped<'a> {
    /// What `send` answered for it.
    pub ordinal: u64,
    pub bytes: &'a [u8],
    /// `NotSender`: this member has no such lane in the new view; `TooLong`: its largest message is
    /// smaller there; else why this member's part is over (`Handover::end`).
    pub why: Status,
}

/// Where the newest view's producer is.
enum Place {
    /// With the application's thread, which sends with it.
    There,
    /// With me, who sends again with it what is left of older views.
    Here(Producer),
    /// Between the two: the application's thread may take it at any time, and I take it back when a
    /// message comes late.
    Offered,
}

/// What is left in a ring of an older view; and ordinals: from slot `.0` on, slot plus `.1`.
struct Source {
    kept: Kept,
    bases: Vec<(u64, u64)>,
}

impl Source {
    /// The ordinal of the next message.
    fn ordinal(&self) -> u64 {
        let slot = self.kept.next();
        let base = self.bases.iter().rev().find(|(from, _)| *from <= slot);
        slot + base.map_or(0, |(_, base)| *base)
    }
}

/// What becomes of a lane in the next view.
pub enum Next {
    /// It sends with this fresh end.
    Sends(Producer),
    /// It sends when a later view has members enough; until then it keeps what it has.
    Waits,
    /// This member has no such lane there.
    NotSender,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Sends,
    Waits,
    NotSender,
}

/// The turn thread's end of a lane.
pub struct Handover {
    shared: Arc<Shared>,
    place: Place,
    /// What the newest view has this lane for.
    role: Role,
    /// In the order sent; the last one is the ring that the application's thread is still in. None
    /// if it is in the newest.
    sources: VecDeque<Source>,
    /// Ordinals of the newest ring, as in `Source`.
    bases: Vec<(u64, u64)>,
    /// The newest ring, if it is one that takes nothing.
    nowhere: Option<Kept>,
    /// Nothing new is taken, in this view or a later one (H5).
    shut: bool,
}

impl Handover {
    /// Goes on in the next view, and sends again there what is left of the one that ended, as far as
    /// there is room now (`pump`). What no view can take any more is given to `dropped`.
    ///
    /// `kept` is what `Engine::keep` says of this lane, `None` if the old view did not have it.
    pub fn install(&mut self, kept: Option<Kept>, next: Next, dropped: &mut dyn FnMut(Dropped)) {
        assert!(kept.is_some() != self.nowhere.is_some(), "a lane ends the view it was in");
        let kept = kept.or(self.nowhere.take()).expect("one of the two");
        let newest = Source { kept, bases: std::mem::take(&mut self.bases) };
        if let Place::Offered = self.place
            && self.shared.offer.take().is_none()
        {
            self.settle_down();
        }
        self.sources.push_front(newest);
        if matches!(next, Next::Waits) && crate::mutant!("wire-forgets-while-waiting") {
            self.sources.iter_mut().for_each(|source| source.kept.forget());
        }
        let (role, answer, producer) = match next {
            Next::Sends(producer) => (Role::Sends, Status::Again, Some(producer)),
            Next::Waits => (Role::Waits, Status::Inadequate, None),
            Next::NotSender => (Role::NotSender, Status::NotSender, None),
        };
        self.role = role;
        if !self.shut {
            self.shared.set_answer(answer);
        }
        let producer = producer.unwrap_or_else(|| {
            let (producer, nowhere) = Producer::nowhere();
            self.nowhere = Some(nowhere);
            producer
        });
        self.place = Place::Here(producer);
        self.pump(dropped);
    }

    /// Sends again what can be, and offers the ring to the application's thread when nothing is left.
    /// To be called in each turn while `has_left`, and now and then while not `is_settled`. Whether
    /// it did anything.
    pub fn pump(&mut self, dropped: &mut dyn FnMut(Dropped)) -> bool {
        if let Place::Offered = self.place {
            if self.shared.offer.is_empty() {
                self.settle_down();
                return false;
            }
            let Some(last) = self.sources.back_mut() else { return false };
            if !last.kept.look() || crate::mutant!("loom-h-late-ones-overlooked") {
                return false;
            }
            // The application's thread has sent more than `passed`: it does not take the offer.
            let offer = self.shared.offer.take().expect("nobody may have taken it (H2)");
            self.place = Place::Here(offer.producer);
        }
        if self.role == Role::Waits {
            return false; // all stays where it is, in order
        }
        let Place::Here(producer) = &mut self.place else { return false };
        let (mut moved, mut last) = (false, self.sources.len() == 1);
        while let Some(source) = self.sources.front_mut() {
            source.kept.look();
            while let Some(bytes) = source.kept.first() {
                let sends = self.role == Role::Sends;
                let sent = if sends { producer.send_again(bytes) } else { Err(Status::NotSender) };
                let ordinal = source.ordinal();
                match sent {
                    Ok(slot) => note(&mut self.bases, slot, ordinal),
                    Err(why @ (Status::TooLong | Status::NotSender)) => {
                        dropped(Dropped { ordinal, bytes, why });
                    }
                    Err(status) => {
                        if !self.shut {
                            self.shared.set_answer(status);
                        }
                        return moved;
                    }
                }
                source.kept.pass();
                moved = true;
            }
            if last {
                break;
            }
            self.sources.pop_front();
            last = self.sources.len() == 1;
        }
        self.offer();
        true
    }

    /// Nothing is left, as far as anyone knows.
    fn offer(&mut self) {
        let Place::Here(producer) = std::mem::replace(&mut self.place, Place::Offered) else {
            return;
        };
        let next = self.sources.back().map_or(0, Source::ordinal);
        let base = next - producer.ordinal();
        note(&mut self.bases, producer.ordinal(), next);
        self.shared.passed.publish(next); // H2
        self.shared.offer.put(Box::new(Offer { producer, base }));
    }

    /// The application's thread has taken the newest ring: it has left all others.
    fn settle_down(&mut self) {
        self.place = Place::There;
        self.sources.clear();
    }

    /// Whether the application's thread is in the newest ring: nothing is to be done here.
    pub fn is_settled(&self) -> bool {
        matches!(self.place, Place::There)
    }

    /// Whether something waits to be sent again, for room.
    pub fn has_left(&self) -> bool {
        matches!(self.place, Place::Here(_))
            && !(self.shut && self.is_drained())
            && self.role != Role::Waits
    }

    /// How many messages wait for a view in which the subgroup has members enough, as far as known.
    pub fn waits_with(&mut self) -> Option<u64> {
        let left = |source: &mut Source| {
            source.kept.look();
            source.kept.len()
        };
        (self.role == Role::Waits).then(|| self.sources.iter_mut().map(left).sum())
    }

    /// Of a lane that is settled: whether all that it ever took is in the newest ring, or waits for
    /// members, which a leaver does not.
    pub fn is_drained(&self) -> bool {
        self.role == Role::Waits || self.sources.iter().all(|source| source.kept.is_empty())
    }

    /// Begins to take nothing new, in whatever view: every call answers `status` from now on, but
    /// for one that is under way. `taker` is of the newest ring, if it is one that takes something.
    /// A barrier of all threads must follow, then `settle`. `// E`
    pub fn close(&mut self, taker: Option<&Taker>, status: Status) {
        if let Place::Offered = self.place {
            match self.shared.offer.take() {
                Some(offer) => self.place = Place::Here(offer.producer),
                None => self.settle_down(),
            }
        }
        self.shared.set_answer(status);
        // Where the application's thread is.
        match (self.sources.back(), taker, &self.nowhere) {
            (Some(source), ..) => source.kept.stop(status),
            (None, Some(taker), _) => taker.stop(status),
            (None, None, Some(nowhere)) => nowhere.stop(status),
            (None, None, None) => {}
        }
    }

    /// After `close` and the barrier: what this lane has taken is known for ever. `// E`
    pub fn settle(&mut self, taker: Option<&mut Taker>) {
        self.shut = true;
        match (self.sources.back_mut(), taker) {
            (Some(source), _) => {
                source.kept.settle();
                source.kept.look();
            }
            (None, Some(taker)) => taker.settle(),
            (None, None) => {}
        }
    }

    /// This member's part is over, for the reason `why`: whatever the lane has taken and `kept`, or
    /// an older view, still has is given to `dropped`. `kept` is what was not delivered in the newest
    /// ring, `None` if that takes nothing. The lane is settled.
    ///
    /// `had`: so many of the first that older views have were delivered here (*received* mode). Who goes
    /// in good order gives them back all the same: others will not get them.
    pub fn end(
        &mut self,
        (kept, had): (Option<Kept>, u64),
        why: Status,
        dropped: &mut dyn FnMut(Dropped),
    ) {
        assert!(self.shut, "what it has taken is known");
        let mut had =
            if why == Status::Left || mutant!("wire-had-is-given-back") { 0 } else { had };
        let newest = usize::from(kept.is_some());
        if let Some(kept) = kept {
            self.sources.push_front(Source { kept, bases: std::mem::take(&mut self.bases) });
        }
        for (at, source) in self.sources.iter_mut().enumerate() {
            source.kept.look();
            while let Some(bytes) = source.kept.first() {
                if at >= newest && had > 0 {
                    had -= 1;
                } else {
                    dropped(Dropped { ordinal: source.ordinal(), bytes, why });
                }
                source.kept.pass();
            }
        }
    }

    /// Whether a call that was under way has sent something since, in a ring of an older view: for
    /// the look before sleeping.
    pub fn has_work(&mut self) -> bool {
        let last = self.sources.back_mut();
        matches!(self.place, Place::Offered) && last.is_some_and(|last| last.kept.look())
    }

    /// The group is over: what every call answers that has no ring of its own to say so.
    pub fn stop(&self, status: Status) {
        self.shared.set_answer(status);
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        if let Status::Again | Status::NotSender | Status::Inadequate = self.shared.answer() {
            self.stop(Status::Failed);
        }
    }
}

/// Notes that a slot has an ordinal, if that does not follow from the slots before.
fn note(bases: &mut Vec<(u64, u64)>, slot: u64, ordinal: u64) {
    let base = ordinal - slot;
    if bases.last().is_none_or(|(_, last)| *last != base) {
        bases.push((slot, base));
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
