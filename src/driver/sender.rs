// SPDX-License-Identifier: MIT OR Apache-2.0
//! The application's end of a lane.

use crate::error::Status;
use crate::fabric::shm::OwnBell;
use crate::sst::kept::Kept;
use crate::sst::producer::Producer;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A lane over all views: its end of the ring of the view at hand.
pub struct Lane {
    pub producer: Producer,
    /// Messages sent in it before that ring's first.
    base: u64,
    /// What the view before did not deliver and this one has not been sent yet.
    kept: Option<Kept>,
}

impl Lane {
    pub fn new(producer: Producer) -> Lane {
        Lane { producer, base: 0, kept: None }
    }

    /// The next view's end, and what is to be sent again in it.
    pub fn renew(&mut self, producer: Producer, kept: Kept) {
        self.base += kept.next();
        self.producer = producer;
        self.kept = Some(kept);
        self.resend();
    }

    /// Sends again as much as there is room for; whether that is all.
    pub fn resend(&mut self) -> bool {
        if let Some(kept) = &mut self.kept
            && kept.send(&mut self.producer).is_ok()
        {
            self.kept = None;
        }
        self.kept.is_none()
    }

    fn send(&mut self, bytes: &[u8]) -> Result<u64, Status> {
        if self.kept.is_some() && !self.resend() {
            return Err(Status::Again);
        }
        Ok(self.base + self.producer.send(bytes)?)
    }
}

/// A lane that the turn thread can get at.
pub type SharedLane = Arc<Mutex<Lane>>;

pub fn lock(lane: &SharedLane) -> MutexGuard<'_, Lane> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

enum End {
    Own(Producer),
    Shared(SharedLane),
}

/// A lane of mine: one producing thread at a time. It outlives the group's end harmlessly: then
/// every send answers why the group stopped.
pub struct Sender {
    end: End,
    bell: Option<OwnBell>,
}

impl Sender {
    pub(super) fn own(producer: Producer, bell: Option<OwnBell>) -> Sender {
        Sender { end: End::Own(producer), bell }
    }

    pub(super) fn shared(lane: SharedLane, bell: Option<OwnBell>) -> Sender {
        Sender { end: End::Shared(lane), bell }
    }

    /// Copies `bytes` into the next slot. Never blocks. Answers the message's ordinal in this lane,
    /// or `Again` (no room: poll), `TooLong`, or why the group has stopped.
    ///
    /// Cost: one copy; no system call, except one bell if the polling thread sleeps.
    #[inline]
    pub fn send(&mut self, bytes: &[u8]) -> Result<u64, Status> {
        let outcome = match &mut self.end {
            End::Own(producer) => producer.send(bytes),
            End::Shared(lane) => lock(lane).send(bytes),
        };
        self.tell(outcome)
    }

    /// The same if it needs no look around; else `None`, and nothing has happened.
    #[inline(always)]
    pub(crate) fn send_easily(&mut self, bytes: &[u8]) -> Option<u64> {
        let End::Own(producer) = &mut self.end else { return None };
        let ordinal = producer.send_easily(bytes)?;
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
        let outcome = match &mut self.end {
            End::Own(producer) => producer.send_many(messages),
            End::Shared(lane) => {
                let mut lane = lock(lane);
                let mut sent = 0;
                let mut outcome = Ok(());
                for bytes in messages {
                    outcome = lane.send(bytes).map(|_| ());
                    if outcome.is_err() {
                        break;
                    }
                    sent += 1;
                }
                (sent, outcome)
            }
        };
        if let Some(bell) = &mut self.bell {
            bell.ring_if_asleep();
        }
        outcome
    }

    /// The same for a message in pieces.
    #[inline]
    pub fn send_parts(&mut self, parts: &[&[u8]]) -> Result<u64, Status> {
        let outcome = match &mut self.end {
            End::Own(producer) => producer.send_parts(parts),
            End::Shared(lane) => lock(lane).send(&parts.concat()),
        };
        self.tell(outcome)
    }

    /// Lends the next slot's bytes; then `publish` or `abort`.
    #[inline]
    pub fn reserve(&mut self, len: u32) -> Result<&mut [u8], Status> {
        let End::Own(producer) = &mut self.end else { return Err(Status::Invalid) };
        match producer.reserve(len) {
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

    /// Sends the first `len` bytes of what was reserved.
    #[inline]
    pub fn publish(&mut self, len: u32) -> Result<u64, Status> {
        let End::Own(producer) = &mut self.end else { return Err(Status::NotReserved) };
        let outcome = producer.publish(len);
        self.tell(outcome)
    }

    pub fn abort(&mut self) -> Result<(), Status> {
        let End::Own(producer) = &mut self.end else { return Err(Status::NotReserved) };
        producer.abort()
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
