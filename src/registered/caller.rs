// SPDX-License-Identifier: MIT OR Apache-2.0
//! My operations on memory of one other member, through the stream that I have opened to it.
//!
//! K1  What is asked is answered in order; an answer to anything else ends the stream.
//! K2  A stream that ends takes all that was asked with it: what has landed is not known. The next
//!     operation opens another one, if its owner is a member still.

use super::door::Shared;
use super::wire::{ANNOUNCE, Kind, RECORD_BYTES, Record};
use super::worker::{Went, receive, send};
use super::{CHUNK_BYTES, Operation, Stream, What};
use crate::error::Status;
use rustix::event::PollFlags;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};

/// Bytes of records that are put together before they are sent.
const BATCH_BYTES: usize = 4096;

pub(super) struct Caller {
    whom: u64,
    stream: Option<Stream>,
    /// Not begun.
    waiting: VecDeque<Operation>,
    /// Asked, and not answered in full. Of the last one `left` bytes are to be sent yet.
    asked: VecDeque<Operation>,
    left: u64,
    /// Numbers of the next one to ask, and of the first of `asked`.
    next: u64,
    first: u64,
    /// Records to be sent, before those bytes.
    records: Vec<u8>,
    /// The answer that comes, as far as it is here.
    answer: [u8; RECORD_BYTES],
    here: usize,
    /// Bytes of the first of `asked` that are here; how many come before the next answer.
    got: u64,
    coming: u64,
}

impl Caller {
    pub fn new(whom: u64) -> Caller {
        Caller {
            whom,
            stream: None,
            waiting: VecDeque::new(),
            asked: VecDeque::new(),
            left: 0,
            next: 0,
            first: 0,
            records: Vec::new(),
            answer: [0; RECORD_BYTES],
            here: 0,
            got: 0,
            coming: 0,
        }
    }

    pub fn begin(&mut self, stream: Stream, me: u64) {
        self.stream = Some(stream);
        let hello = Record { word: me, ..Record::of(Kind::Hello) };
        self.records.extend_from_slice(&hello.encode());
    }

    pub fn ask(&mut self, operation: Operation) {
        self.waiting.push_back(operation);
    }

    /// What is open, in the order in which it was asked.
    pub fn into_operations(self) -> VecDeque<Operation> {
        let mut all = self.asked;
        all.extend(self.waiting);
        all
    }

    pub fn stream(&self) -> Option<BorrowedFd<'_>> {
        self.stream.as_ref().map(|stream| stream.as_fd())
    }

    pub fn waits_for(&self) -> PollFlags {
        let says = !self.records.is_empty() || self.left > 0 || !self.waiting.is_empty();
        if says { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }
    }

    /// Sends a piece, and receives one.
    pub fn go_on(&mut self, shared: &Shared) -> Went {
        if self.stream.is_none() || shared.enter(self.whom, 0).is_none() {
            return Went::Nowhere; // when it is fenced the thread will be told
        }
        let said = self.say();
        let (heard, over) = self.hear();
        shared.leave();
        shared.complete(over);
        match (said, heard) {
            (Went::Over, _) | (_, Went::Over) => Went::Over,
            (Went::Nowhere, Went::Nowhere) => Went::Nowhere,
            _ => Went::On,
        }
    }

    /// Begins operations as long as none has bytes to be sent with it.
    fn begin_more(&mut self) {
        while self.left == 0 && self.records.len() < BATCH_BYTES {
            let Some(operation) = self.waiting.pop_front() else { return };
            let access = &operation.access;
            let kind = if operation.what == What::Put { Kind::Put } else { Kind::Get };
            let record = Record {
                flags: if access.announce.is_some() { ANNOUNCE } else { 0 },
                number: self.next,
                region: access.ticket.region(),
                offset: access.at,
                bytes: access.bytes,
                word: access.announce.unwrap_or(0),
                ..Record::of(kind)
            };
            self.records.extend_from_slice(&record.encode());
            self.left = if kind == Kind::Put { access.bytes } else { 0 };
            self.next += 1;
            self.asked.push_back(operation);
        }
    }

    fn say(&mut self) -> Went {
        self.begin_more();
        let Some(stream) = &self.stream else { return Went::Nowhere };
        let sent = match self.asked.back().filter(|_| self.left > 0) {
            Some(Operation { mine, access, .. }) => {
                let from = access.offset + access.bytes - self.left;
                let len = self.left.min(CHUNK_BYTES as u64) as usize;
                mine.place.send((**stream).as_fd(), &self.records, from, len)
            }
            None if self.records.is_empty() => return Went::Nowhere,
            None => send(stream, &self.records),
        };
        match sent {
            Ok(sent) => {
                let records = sent.min(self.records.len());
                self.records.drain(..records);
                self.left -= (sent - records) as u64;
                Went::On
            }
            Err(Errno::AGAIN | Errno::INTR) => Went::Nowhere,
            Err(_) => Went::Over, // memory of mine that is not there ends it, too
        }
    }

    /// Takes what has come; an operation that is over by it.
    fn hear(&mut self) -> (Went, Option<(Operation, Status)>) {
        let Some(stream) = &self.stream else { return (Went::Nowhere, None) };
        if self.coming > 0 {
            let Operation { mine, access, .. } = self.asked.front().expect("a get is under way");
            let len = self.coming.min(CHUNK_BYTES as u64) as usize;
            let came = mine.place.receive((**stream).as_fd(), access.offset + self.got, len);
            return match came {
                Ok(0) => (Went::Over, None),
                Ok(count) => {
                    self.got += count as u64;
                    self.coming -= count as u64;
                    (Went::On, None)
                }
                Err(cause) => (nowhere_or_over(cause), None),
            };
        }
        match receive(stream, &mut self.answer[self.here..]) {
            Ok(0) => return (Went::Over, None),
            Ok(count) => self.here += count,
            Err(cause) => return (nowhere_or_over(cause), None),
        }
        if self.here < RECORD_BYTES {
            return (Went::On, None);
        }
        self.here = 0;
        match Record::decode(&self.answer).and_then(|answer| self.take(&answer)) {
            Some(over) => (Went::On, over),
            None => (Went::Over, None), // K1
        }
    }

    /// An answer, as far as it is one. `None`: it is none to what was asked.
    fn take(&mut self, answer: &Record) -> Option<Option<(Operation, Status)>> {
        let whole = self.asked.len() > 1 || self.left == 0;
        let operation = self.asked.front().filter(|_| whole && answer.number == self.first)?;
        let bytes = operation.access.bytes;
        let (is_get, rest) = (operation.what == What::Get, bytes - self.got);
        match answer.kind {
            Kind::Data if is_get && answer.bytes > 0 && answer.bytes <= rest => {
                self.coming = answer.bytes;
                Some(None)
            }
            Kind::Done if !is_get || answer.outcome() != Status::Ok || rest == 0 => {
                (self.first, self.got) = (self.first + 1, 0);
                let lost = is_get && operation.mine.place.has_failed();
                let outcome = if lost { Status::System } else { answer.outcome() };
                Some(Some((self.asked.pop_front()?, outcome)))
            }
            _ => None,
        }
    }
}

fn nowhere_or_over(cause: Errno) -> Went {
    match cause {
        Errno::AGAIN | Errno::INTR => Went::Nowhere,
        _ => Went::Over,
    }
}
