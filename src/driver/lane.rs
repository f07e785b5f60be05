// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lanes of a member, over all views: what the application sends with, and what the driver moves
//! from view to view. The mechanism is `sst/lane.rs`; here are subgroups, lane numbers and bells.

use crate::error::Status;
use crate::fabric::shm::OwnBell;
use crate::group::Engine;
use crate::mem::thread::{can_order_all_threads, order_all_threads};
use crate::sst::Table;
use crate::sst::kept::Kept;
use crate::sst::lane::{Handover, Lane, Next, lane};
use crate::sst::producer::Producer;
use crate::sst::ring::Taker;

/// A lane of mine: one producing thread at a time. It outlives the group's end harmlessly: then
/// every send answers why the group stopped.
///
/// It goes on from view to view: what was sent and not delivered is sent again in the next view,
/// before anything new, and ordinals go on. While views change every call answers `Again`; while the
/// view has no such lane, `NotSender`; while its subgroup waits for members, `Inadequate`; once the
/// member is to leave, `Left`.
pub struct Sender {
    lane: Lane,
    bell: Option<OwnBell>,
}

impl Sender {
    /// Copies `bytes` into the next slot. Never blocks. Answers the message's ordinal in this lane,
    /// or `Again` (no room, or views change: poll), `TooLong`, `NotSender`, or why the group has
    /// stopped.
    ///
    /// Cost: one copy; no system call, except one bell if the polling thread sleeps.
    #[inline]
    pub fn send(&mut self, bytes: &[u8]) -> Result<u64, Status> {
        let outcome = self.lane.send(bytes);
        self.tell(outcome)
    }

    /// The same if it needs no look around; else `None`, and nothing has happened.
    #[inline(always)]
    pub(crate) fn send_easily(&mut self, bytes: &[u8]) -> Option<u64> {
        let ordinal = self.lane.send_easily(bytes)?;
        if let Some(bell) = &mut self.bell {
            bell.ring_if_asleep();
        }
        Some(ordinal)
    }

    /// Sends messages one after the other, as many as there is room for. Answers how many were
    /// sent, and what stopped it before the end.
    #[inline]
    pub fn send_many<'a>(
        &mut self,
        messages: impl Iterator<Item = &'a [u8]>,
    ) -> (u64, Result<(), Status>) {
        let outcome = self.lane.send_many(messages);
        if let Some(bell) = &mut self.bell {
            bell.ring_if_asleep();
        }
        outcome
    }

    /// The same for a message in pieces.
    #[inline]
    pub fn send_parts(&mut self, parts: &[&[u8]]) -> Result<u64, Status> {
        let outcome = self.lane.send_parts(parts);
        self.tell(outcome)
    }

    /// Lends the next slot's bytes, which may be written until `publish` or `abort`, whatever becomes
    /// of the view meanwhile.
    #[inline]
    pub fn reserve(&mut self, len: u32) -> Result<&mut [u8], Status> {
        match self.lane.reserve(len) {
            Ok(bytes) => Ok(bytes),
            Err(status) => {
                if status == Status::Again
                    && let Some(bell) = &mut self.bell
                {
                    bell.ring_if_asleep();
                }
                Err(status)
            }
        }
    }

    /// Sends the first `len` bytes of what was reserved. If the view has changed since then they are
    /// copied, and `Again` is an answer, too; they stay reserved.
    #[inline]
    pub fn publish(&mut self, len: u32) -> Result<u64, Status> {
        let outcome = self.lane.publish(len);
        self.tell(outcome)
    }

    pub fn abort(&mut self) -> Result<(), Status> {
        self.lane.abort()
    }

    /// Wakes a polling thread that sleeps: for a message, and for want of room. It may have gone to
    /// sleep before this lane was refused; then nobody knows that it should be told of room.
    #[inline(always)]
    fn tell(&mut self, outcome: Result<u64, Status>) -> Result<u64, Status> {
        if let (Some(bell), Ok(_) | Err(Status::Again)) = (&mut self.bell, outcome) {
            bell.ring_if_asleep();
        }
        outcome
    }
}

/// A message that was accepted and that no view takes any more: of which lane, and why.
#[derive(Clone, Copy, Debug)]
pub struct Dropped<'a> {
    pub subgroup: u16,
    pub lane: u16,
    /// What `send` answered for it.
    pub ordinal: u64,
    /// To be read until the callback returns.
    pub bytes: &'a [u8],
    /// `NotSender`: this member has no such lane in the new view; `TooLong`: its largest message is
    /// smaller there; `Left`: this member has left: alone, or while the subgroup lacked members. Of these
    /// the message is delivered nowhere; in *received* mode, nowhere else: some members may have had it,
    /// this one, too.
    ///
    /// Any other: why this member's part is over; `TimedOut`: `close` has waited long enough. It did
    /// not see the message delivered, and others may have it all the same.
    pub why: Status,
}

struct Entry {
    subgroup: u16,
    lane: u16,
    handover: Handover,
    sender: Option<Sender>,
}

/// The turn thread's ends of all lanes that this member has, or had in some view.
///
/// The driver calls `install` once per view, the first one included, `pump` in every tick and in every
/// turn while `has_left`, `has_work` in the look before sleeping, and `stop` when the group is over.
pub struct Lanes {
    entries: Vec<Entry>,
    bell: Option<OwnBell>,
    left: bool,
}

impl Lanes {
    pub fn new(bell: Option<OwnBell>) -> Lanes {
        Lanes { entries: Vec::new(), bell, left: false }
    }

    /// Makes a lane that no view has yet, if it is not there: its sender can be taken already.
    pub fn add(&mut self, subgroup: u16, number: u16) {
        if self.position(subgroup, number).is_some() {
            return;
        }
        let (lane, handover) = lane();
        let sender = Some(Sender { lane, bell: self.bell.clone() });
        self.entries.push(Entry { subgroup, lane: number, handover, sender });
    }

    fn position(&self, subgroup: u16, lane: u16) -> Option<usize> {
        self.entries.iter().position(|entry| (entry.subgroup, entry.lane) == (subgroup, lane))
    }

    /// Takes the application's end of a lane. `None`: no such lane, or taken already.
    pub fn sender(&mut self, subgroup: u16, lane: u16) -> Option<Sender> {
        let at = self.position(subgroup, lane)?;
        self.entries[at].sender.take()
    }

    /// Goes on in the next view. What is left of the old one is sent again, lane by lane, before this
    /// returns, as far as there is room; what no view takes any more is given to `dropped`.
    ///
    /// `kept`: what `Engine::keep` says of every lane of mine in the view that has ended (none before
    /// the first view); `producers`: the fresh ends of every lane of mine in the new one; `waiting`:
    /// those that I would have there, if their subgroups had members enough. All by subgroup and lane,
    /// which must mean the same in all views.
    pub fn install(
        &mut self,
        mut kept: Vec<(u16, u16, Kept)>,
        producers: Vec<(u16, u16, Producer)>,
        waiting: &[(u16, u16)],
        dropped: &mut dyn FnMut(Dropped),
    ) {
        producers.iter().for_each(|(subgroup, lane, _)| self.add(*subgroup, *lane));
        waiting.iter().for_each(|(subgroup, lane)| self.add(*subgroup, *lane));
        let mut producers = producers;
        for Entry { subgroup, lane, handover, .. } in &mut self.entries {
            let (subgroup, lane) = (*subgroup, *lane);
            let its = |of: (u16, u16)| of == (subgroup, lane);
            let kept = kept.iter().position(|of| its((of.0, of.1))).map(|at| kept.swap_remove(at));
            let producer = producers.iter().position(|of| its((of.0, of.1)));
            let next = match producer.map(|at| producers.swap_remove(at).2) {
                Some(producer) => Next::Sends(producer),
                None if waiting.contains(&(subgroup, lane)) => Next::Waits,
                None => Next::NotSender,
            };
            let kept = kept.map(|(_, _, kept)| kept);
            handover.install(kept, next, &mut |what| {
                dropped(of_lane(what, subgroup, lane));
            });
        }
        assert!(kept.is_empty(), "what is kept is of a lane that is there");
        self.left = self.entries.iter().any(|entry| entry.handover.has_left());
    }

    /// Sends again what has room now, or came late. Whether it did anything.
    pub fn pump(&mut self, dropped: &mut dyn FnMut(Dropped)) -> bool {
        let mut any = false;
        for Entry { subgroup, lane, handover, .. } in &mut self.entries {
            let (subgroup, lane) = (*subgroup, *lane);
            any |= handover.pump(&mut |what| dropped(of_lane(what, subgroup, lane)));
        }
        self.left = self.entries.iter().any(|entry| entry.handover.has_left());
        any
    }

    /// Whether anything waits for room to be sent again: then `pump` in each turn.
    #[inline]
    pub fn has_left(&self) -> bool {
        self.left
    }

    /// Whether `pump` would find something that came late: for the look before sleeping. (Room for
    /// what waits is the engine's to see.)
    pub fn has_work(&mut self) -> bool {
        self.entries.iter_mut().any(|entry| entry.handover.has_work())
    }

    /// Takes nothing new any more, in any view: every call answers `status`. What calls under way
    /// have accepted is known when this returns.
    #[cold]
    pub fn shut(&mut self, engine: &mut Engine, status: Status) {
        for Entry { subgroup, lane, handover, .. } in &mut self.entries {
            handover.close(taker(engine, *subgroup, *lane).map(|taker| &*taker), status);
        }
        can_order_all_threads();
        let _ = order_all_threads(); // E; dear or not, it is not asked for again
        for Entry { subgroup, lane, handover, .. } in &mut self.entries {
            handover.settle(taker(engine, *subgroup, *lane));
        }
        self.left = self.entries.iter().any(|entry| entry.handover.has_left());
    }

    /// Of lanes that are shut: whether all that they ever took has been delivered, or given to
    /// `dropped`.
    pub fn are_delivered(&self, engine: &Engine, table: &Table) -> bool {
        let multicasts = || engine.multicasts().iter();
        self.entries.iter().all(|entry| entry.handover.is_drained())
            && multicasts().all(|multicast| multicast.has_delivered_mine(table))
    }

    /// This member's part is over: what was accepted and not delivered here is given to `dropped`.
    #[cold]
    pub fn end(
        &mut self,
        engine: &mut Engine,
        status: Status,
        why: Status,
        dropped: &mut dyn FnMut(Dropped),
    ) {
        self.shut(engine, status);
        for Entry { subgroup, lane, handover, .. } in &mut self.entries {
            let (subgroup, lane) = (*subgroup, *lane);
            let undelivered = match position(engine, subgroup, lane) {
                Some(at) => {
                    let (kept, had) = engine.multicast_mut(at).undelivered(lane.into());
                    (Some(kept), had)
                }
                None => (None, engine.had_of_waiting(subgroup, lane)),
            };
            handover.end(undelivered, why, &mut |what| dropped(of_lane(what, subgroup, lane)));
        }
        self.left = false;
    }

    /// The group is over: what lanes without a ring of their own answer from now on.
    pub fn stop(&self, status: Status) {
        self.entries.iter().for_each(|entry| entry.handover.stop(status));
    }
}

/// Where a subgroup is among those of this view, if that lane is there.
fn position(engine: &Engine, subgroup: u16, lane: u16) -> Option<usize> {
    engine.multicasts().iter().position(|multicast| {
        multicast.subgroup == usize::from(subgroup) && usize::from(lane) < multicast.lanes.len()
    })
}

fn taker(engine: &mut Engine, subgroup: u16, lane: u16) -> Option<&mut Taker> {
    let at = position(engine, subgroup, lane)?;
    Some(&mut engine.multicast_mut(at).lanes[usize::from(lane)].taker)
}

fn of_lane(what: crate::sst::lane::Dropped<'_>, subgroup: u16, lane: u16) -> Dropped<'_> {
    let crate::sst::lane::Dropped { ordinal, bytes, why } = what;
    Dropped { subgroup, lane, ordinal, bytes, why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::Region;
    use crate::sst::layout::{Mode, Shape};
    use crate::sst::producer::Gate;
    use crate::sst::ring::{LaneCells, Ring, Taker};
    use std::sync::Arc;

    fn ring() -> (Taker, Producer) {
        let mode = Mode::Received;
        let shape =
            Shape { senders: 1, lanes: 1, mode, window: 4, message_bytes_max: 64, ring_bytes: 512 };
        let ring = Ring::new(Arc::new(Region::heap(shape.lane().bytes as usize)), 0, &shape);
        let gate = Gate { rows: Vec::new(), mode, sender: 0, senders: 1, hook: None };
        let cells = LaneCells::new();
        (
            Taker::new(ring.clone(), cells.clone()),
            Producer::new(ring, cells, gate, &shape, shape.ring_bytes),
        )
    }

    /// The views of a member that sends in these lanes, one after the other.
    fn view(of: &[(u16, u16)]) -> (Vec<(u16, u16, Taker)>, Vec<(u16, u16, Producer)>) {
        let both = of.iter().map(|&(subgroup, lane)| {
            let (taker, producer) = ring();
            ((subgroup, lane, taker), (subgroup, lane, producer))
        });
        both.unzip()
    }

    fn end(takers: Vec<(u16, u16, Taker)>) -> Vec<(u16, u16, Kept)> {
        let end = |(subgroup, lane, mut taker): (u16, u16, Taker)| {
            taker.stop(Status::Again);
            (subgroup, lane, taker.keep(0))
        };
        takers.into_iter().map(end).collect()
    }

    /// Once it was counted, in a ring that nobody takes from any more, and had an ordinal.
    #[test]
    fn what_is_published_after_the_end_is_refused() {
        let mut lanes = Lanes::new(None);
        let (takers, producers) = view(&[(0, 0)]);
        lanes.install(Vec::new(), producers, &[], &mut |_| panic!("nothing was sent"));
        let mut sender = lanes.sender(0, 0).unwrap();
        sender.reserve(8).unwrap();
        takers[0].2.stop(Status::PeerLost);
        assert_eq!(sender.publish(8), Err(Status::PeerLost));
        assert_eq!(sender.send(b"more"), Err(Status::NotReserved));
        assert_eq!(sender.abort(), Ok(()));
        assert_eq!(sender.send(b"more"), Err(Status::PeerLost));
    }

    #[test]
    fn each_lane_goes_its_own_way() {
        let mut lanes = Lanes::new(None);
        lanes.add(1, 1);
        assert!(lanes.sender(0, 0).is_none(), "no view has it yet");
        let (takers, producers) = view(&[(0, 0), (1, 0)]);
        lanes.install(Vec::new(), producers, &[], &mut |_| panic!("nothing was sent"));
        let mut senders = [(0, 0), (1, 0), (1, 1)].map(|(s, l)| lanes.sender(s, l).unwrap());
        assert!(lanes.sender(0, 0).is_none(), "taken already");
        assert_eq!(senders[0].send(b"zero"), Ok(0));
        assert_eq!(senders[1].send(b"one"), Ok(0));
        assert_eq!(senders[2].send(b"none"), Err(Status::NotSender));

        let (mut kept, mut dropped) = (end(takers), Vec::new());
        assert_eq!(senders[0].send(b"between"), Err(Status::Again));
        kept.reverse();
        let (mut takers, producers) = view(&[(1, 1), (0, 0)]);
        lanes.install(kept, producers, &[], &mut |what| {
            dropped.push((what.subgroup, what.lane, what.ordinal, what.bytes.to_vec(), what.why));
        });
        assert_eq!(dropped, [(1, 0, 0, b"one".to_vec(), Status::NotSender)]);
        assert!(!lanes.has_left() && !lanes.has_work());
        assert_eq!(takers.iter_mut().map(|of| of.2.waiting()).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(senders[0].send(b"again"), Ok(1));
        assert_eq!(senders[1].send(b"none"), Err(Status::NotSender));
        assert_eq!(senders[2].send(b"first"), Ok(0));
        assert!(!lanes.pump(&mut |_| panic!("nothing is left")));
        lanes.stop(Status::PeerLost);
        assert_eq!(senders[1].send(b"none"), Err(Status::PeerLost));
    }
}
