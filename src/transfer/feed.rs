// SPDX-License-Identifier: MIT OR Apache-2.0
//! The polling thread's end of a transfer at its source.
//!
//! Nothing here waits, and nothing but `open`, `view` and `end` allocates or makes a system call:
//! those happen once per attempt and once per view.
//!
//! E1  Every message of the transferred subgroups that is delivered after `open` is appended, in
//!     the order of delivery, and none that was delivered before: together with the checkpoint that
//!     is the whole state, at every moment.
//! E2  What could not be appended breaks the tape; the joiner gets nothing beyond it.
//! E3  An end is appended only by an install of a view that contains the joiner, after the last
//!     message of the old view.

use super::control::{Ask, CLOSING, Control, LATE, MOVED, Opened};
use super::flaw::Failure;
use super::record::{self, End, HEAD_BYTES, Head, Version};
use super::tape::Writer;
use super::{Options, StateSource};
use crate::limits::SUBGROUPS_MAX;
use crate::mem::Message;
use crate::mutant;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Instant;

const _: () = assert!(SUBGROUPS_MAX <= 32);

/// See the head of this file. Dropped before `end`, it ends the transfer: the joiner is told.
pub struct Feed {
    control: Arc<Control>,
    /// As soon as the transfer thread has made it.
    tape: Option<Writer>,
    tapes: Receiver<Writer>,
    mailbox: SyncSender<Opened>,
    /// The subgroups that the joiner wants, a bit each, and those of them that are here.
    wanted: u32,
    carried: u32,
    seen: u64,
    ended: bool,
}

impl Feed {
    pub(super) fn new(
        control: Arc<Control>,
        tapes: Receiver<Writer>,
        mailbox: SyncSender<Opened>,
        options: &Options,
    ) -> Feed {
        let wanted = options.subgroups.iter().fold(0, |bits, subgroup| bits | 1 << subgroup);
        Feed { control, tape: None, tapes, mailbox, wanted, carried: 0, seen: 0, ended: false }
    }

    /// What the transfer wants now. To be asked once per turn, between deliveries; each thing is
    /// answered once. Cost: one load of a line that moves a few times per transfer.
    #[inline]
    pub fn poll(&mut self) -> Ask {
        let word = self.control.ask.observe();
        if word == self.seen {
            return Ask::Nothing;
        }
        self.seen = word;
        Ask::of(word)
    }

    /// After `Ask::Open`, between two deliveries: opens a checkpoint of what has been delivered,
    /// which `version` says, and keeps what is delivered from now on.
    ///
    /// Cost: the application's `checkpoint_open`, one system call, some allocations.
    pub fn open(&mut self, source: &mut dyn StateSource, version: &Version) {
        assert!(Ask::of(self.seen) == Ask::Open, "the transfer has asked for it");
        let start = Instant::now();
        let checkpoint = source.checkpoint_open(version);
        let took_ns = start.elapsed().as_nanos() as u64;
        // The first one, or a larger one; the transfer thread frees the other.
        if let Ok(tape) = self.tapes.try_recv() {
            self.tape = Some(tape);
        }
        let tape = self.tape.as_mut().expect("made before it was asked for");
        if checkpoint.is_ok() {
            tape.begin();
        }
        self.carried = self.wanted & bits(version);
        let opened = Opened { version: version.clone(), checkpoint, took_ns };
        // Room for one, and none is there: the transfer thread has asked. It may be gone.
        let _ = self.mailbox.try_send(opened);
        self.control.ring();
    }

    /// Keeps a batch for the joiner, after the application has had it and before it is released.
    ///
    /// Cost: a comparison if nothing is kept; else a copy of each message and a store per batch.
    #[inline]
    pub fn append(&mut self, subgroup: u16, batch: &[Message]) {
        if let Some(tape) = &mut self.tape
            && tape.takes()
            && self.carried >> subgroup & 1 == 1
        {
            keep(tape, subgroup, batch);
        }
    }

    /// A view without the joiner was installed: `version` is where it begins. Between the last
    /// delivery of the old view and the first of the new one.
    pub fn view(&mut self, version: &Version) {
        if let Some(tape) = &mut self.tape
            && tape.takes()
        {
            keep_plain(tape, record::VIEW, &version.to_bytes());
        }
        self.carried = self.wanted & bits(version);
    }

    /// A view with the joiner was installed. After the last delivery of the old view. `false`: the
    /// joiner will not get what it lacks; report it as lost at once, so that nobody waits for it.
    ///
    /// Cost: one system call, some allocations. Waits for nobody.
    #[must_use]
    pub fn end(mut self, end: &End) -> bool {
        if let Some(tape) = &mut self.tape
            && tape.takes()
            && keep_plain(tape, record::END, &end.to_bytes())
        {
            tape.end();
            self.ended = true;
            self.control.ring();
            return true;
        }
        self.control.cancel(LATE);
        self.ended = true; // nothing more is to be said
        false
    }

    /// The joiner will be in a shard whose state this member does not have: it is told so.
    pub fn give_up_moved(mut self) {
        self.control.cancel(MOVED);
        self.ended = true;
    }

    /// How it ended, if it has.
    pub fn outcome(&self) -> Option<&Result<(), Failure>> {
        self.control.outcome.get()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if !self.ended {
            self.control.cancel(CLOSING);
        }
    }
}

fn bits(version: &Version) -> u32 {
    version.positions.iter().fold(0, |bits, position| bits | 1 << position.subgroup)
}

#[inline]
fn keep(tape: &mut Writer, subgroup: u16, batch: &[Message]) {
    for message in batch {
        let head = Head {
            len: message.len,
            kind: record::MESSAGE,
            lane: message.lane,
            rank: message.rank,
            number: message.number,
            time_ns: message.time_ns,
            subgroup,
        };
        if mutant!("transfer-message-left-out") && message.number % 61 == 60 {
            continue;
        }
        if !tape.has_room(head.bytes()) {
            return; // E2
        }
        tape.write(&head.to_bytes());
        tape.write(message.bytes());
        tape.count_message();
    }
    tape.publish();
}

fn keep_plain(tape: &mut Writer, kind: u8, payload: &[u8]) -> bool {
    let fits = tape.has_room((HEAD_BYTES + payload.len().next_multiple_of(8)) as u64);
    if fits {
        tape.write(&Head::plain(kind, payload.len()).to_bytes());
        tape.write(payload);
        if kind != record::END {
            tape.publish(); // an end is announced by `Writer::end`
        }
    }
    fits
}
