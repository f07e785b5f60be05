// SPDX-License-Identifier: MIT OR Apache-2.0
//! My operations on memory of one other member, through the stream that I have opened to it.
//!
//! K1  What is asked is answered in order; an answer to anything else ends the stream.
//! K2  What goes through a queue of a device (`direct`) is begun when nothing is asked in the stream, and
//!     asked there when nothing is under way in the queue (R3); but for the announcement of what has
//!     landed, behind which the next completions wait.
//! K3  A stream that ends takes all that was asked with it: what has landed is not known. The next
//!     operation opens another one, if its owner is a member still. Before anybody hears that an operation
//!     is over its queue has ended, so nothing of it lands later, here or there.
//! K4  What the owner's device refuses (`Denied`) has not been carried out, nor what was begun behind it.
//!     All of that is asked once more, in the stream, behind a further hello with the numbers of a new
//!     queue: the owner says of it what is wrong. Of that region nothing goes through a queue again.

use super::direct::Order;
use super::door::{Shared, Slot};
use super::wire::{ANNOUNCE, Kind, LANDED, RECORD_BYTES, Record};
use super::worker::{Went, receive, send};
use super::{CHUNK_BYTES, Operation, Stream, What};
use crate::error::{Error, Status};
use crate::log_sink::{Level, say};
use crate::mutant;
use rustix::event::PollFlags;
use rustix::io::Errno;
use std::collections::{BTreeSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// Bytes of records that are put together before they are sent.
const BATCH_BYTES: usize = 4096;
/// Regions that are remembered because a device has refused them.
const REFUSED_MAX: usize = 1024;

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
    /// Of a device; and whether the peer has another.
    queue: Option<Arc<Slot>>,
    wakes: Option<Arc<dyn AsFd + Send + Sync>>,
    is_met: bool,
    /// The peer has answered the hello.
    is_greeted: bool,
    /// Begun there, in order; and how many were over before.
    begun: VecDeque<Operation>,
    over: u64,
    /// The first of those that are over is being announced.
    announces: bool,
    /// Regions of its that its device has refused (K4).
    refused: BTreeSet<u64>,
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
            queue: None,
            wakes: None,
            is_met: false,
            is_greeted: false,
            begun: VecDeque::new(),
            over: 0,
            announces: false,
            refused: BTreeSet::new(),
        }
    }

    /// Here is the stream.
    pub fn begin(&mut self, stream: Stream, shared: &Shared) {
        self.stream = Some(stream);
        self.greet(shared);
    }

    /// Says hello. A device's queue is asked for with it, if there is one.
    fn greet(&mut self, shared: &Shared) {
        (self.is_greeted, self.is_met, self.over) = (false, false, 0);
        let device = shared.device.get().filter(|_| self.whom != shared.incarnation);
        let queue = device.map(|device| device.queue(self.whom)).transpose();
        let queue = queue.unwrap_or_else(|trouble| {
            let text = format!("registered memory of {} is copied: {trouble}", self.whom);
            say(Level::Warning, &text);
            None
        });
        let endpoint = queue.as_ref().map_or([0; 5], |queue| queue.endpoint());
        self.wakes = queue.as_ref().and_then(|queue| queue.wakes());
        self.queue = queue.and_then(|queue| shared.hold(self.whom, queue));
        self.records.extend_from_slice(&Record::hello(&endpoint).encode());
    }

    pub fn ask(&mut self, operation: Operation) {
        self.waiting.push_back(operation);
    }

    /// What is open, in the order in which it was asked; its queue has ended (K3).
    pub fn into_operations(self) -> VecDeque<Operation> {
        let Caller { mut asked, begun, waiting, queue, .. } = self;
        if let Some(queue) = queue.filter(|_| !mutant!("memory-queue-outlives")) {
            queue.end();
        }
        asked.extend(begun);
        asked.extend(waiting);
        asked
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
        let taken = self.take_landed(shared);
        let all = [said, heard, taken];
        match all.contains(&Went::Over) {
            true => Went::Over,
            false if all.contains(&Went::On) => Went::On,
            false => Went::Nowhere,
        }
    }

    /// Something is under way in the queue.
    pub fn is_under_way(&self) -> bool {
        !self.begun.is_empty() && !self.announces
    }

    /// To be asked before sleep: whether there is nothing to be taken from the queue yet, and it will wake
    /// who sleeps on its descriptor.
    pub fn arm(&mut self) -> bool {
        let Some(queue) = self.queue.as_ref().filter(|_| self.is_under_way()) else { return true };
        let armed = queue.with(|queue| {
            let wakes = self.wakes.is_some() && queue.arm().is_ok();
            wakes && queue.over().is_ok_and(|over| over == self.over)
        });
        armed.unwrap_or(false)
    }

    /// What wakes who sleeps, while something is under way in the queue.
    pub fn wakes(&self) -> Option<BorrowedFd<'_>> {
        let wakes = self.wakes.as_ref().filter(|_| self.is_under_way());
        wakes.map(|wakes| (**wakes).as_fd())
    }

    /// Whether the next one that waits goes through the queue.
    fn goes_direct(&self, next: &Operation) -> bool {
        let (access, ticket) = (&next.access, &next.access.ticket);
        let both = next.mine.keys.is_some() && ticket.keys().is_some();
        let may = both && !self.refused.contains(&ticket.region());
        let can = next.what == What::Put || next.mine.place.can_be_filled();
        self.is_met && may && can && !next.has_landed && access.bytes > 0
    }

    /// Begins the next one in the queue. `None`: not now.
    fn begin_direct(&mut self) -> Option<Went> {
        if !self.asked.is_empty() || self.left > 0 {
            return None; // K2
        }
        let Operation { what, mine, access, .. } = self.waiting.front()?;
        let (mine, (address, key, flush)) = (mine.keys.as_ref()?, access.ticket.keys()?);
        let order = Order {
            what: *what,
            mine,
            offset: access.offset,
            bytes: access.bytes,
            theirs: (address + access.at, key),
            flush: flush && !mutant!("memory-not-flushed"),
        };
        match self.queue.as_ref()?.with(|queue| queue.begin(&order)) {
            Some(Ok(true)) => {
                self.begun.extend(self.waiting.pop_front());
                Some(Went::On)
            }
            Some(Ok(false)) => None,
            // What it is will be said where what is over is taken.
            Some(Err(_)) if !self.begun.is_empty() => None,
            Some(Err(_)) | None => Some(Went::Over),
        }
    }

    /// Takes what is over in the queue; what is to be announced is asked in the stream first.
    fn take_landed(&mut self, shared: &Shared) -> Went {
        let Some(queue) = self.queue.as_ref().filter(|_| self.is_under_way()) else {
            return Went::Nowhere;
        };
        let Some((trouble, over)) = queue.with(|queue| (queue.over().err(), queue.landed())) else {
            return Went::Nowhere; // it is fenced: the thread will be told
        };
        let before = self.over;
        while self.over < over && !self.announces {
            let mut operation = self.begun.pop_front().expect("so many were begun");
            self.over += 1;
            if operation.access.announce.is_some() {
                (operation.has_landed, self.announces) = (true, true);
                self.waiting.push_front(operation);
            } else {
                let status = arrived(&operation);
                shared.complete([(operation, status)]);
            }
        }
        let all = self.over == over && self.is_under_way();
        match trouble.filter(|_| all) {
            None if self.over == before => Went::Nowhere,
            None => Went::On,
            Some(trouble) if trouble.status == Status::Denied => {
                self.ask_again(&trouble, shared);
                Went::On
            }
            Some(trouble) => {
                let text = format!("operations on memory of {} are lost: {trouble}", self.whom);
                say(Level::Warning, &text);
                Went::Over
            }
        }
    }

    /// The owner's device has refused the first that is not over (K4).
    #[cold]
    fn ask_again(&mut self, trouble: &Error, shared: &Shared) {
        if let Some(queue) = self.queue.take() {
            queue.end();
        }
        let region = self.begun.front().map(|first| first.access.ticket.region());
        if self.refused.len() >= REFUSED_MAX {
            self.refused.clear();
        }
        self.refused.extend(region.filter(|_| !mutant!("memory-refused-again")));
        let text = format!("memory {} of {}: {trouble}", region.unwrap_or(0), self.whom);
        say(Level::Notice, &text);
        let mut open = std::mem::take(&mut self.begun);
        open.append(&mut self.waiting);
        self.waiting = open;
        self.greet(shared);
    }

    /// Begins operations as long as none has bytes to be sent with it.
    fn begin_more(&mut self) -> Went {
        while self.left == 0 && self.records.len() < BATCH_BYTES {
            let Some(next) = self.waiting.front() else { return Went::Nowhere };
            if self.goes_direct(next) {
                match self.begin_direct() {
                    Some(Went::On) => continue,
                    went => return went.unwrap_or(Went::Nowhere),
                }
            }
            if !self.begun.is_empty() && !next.has_landed && !mutant!("memory-overtakes") {
                return Went::Nowhere; // K2
            }
            if !next.has_landed && !next.mine.place.can_copy() && !self.is_greeted {
                return Went::Nowhere; // it may go through the queue
            }
            let operation = self.waiting.pop_front().expect("seen above");
            let access = &operation.access;
            let kind = if operation.what == What::Put { Kind::Put } else { Kind::Get };
            let announces = if access.announce.is_some() { ANNOUNCE } else { 0 };
            let record = Record {
                flags: announces | if operation.has_landed { LANDED } else { 0 },
                number: self.next,
                region: access.ticket.region(),
                offset: access.at,
                bytes: access.bytes,
                word: access.announce.unwrap_or(0),
                ..Record::of(kind)
            };
            self.records.extend_from_slice(&record.encode());
            let follows = kind == Kind::Put && !operation.has_landed;
            self.left = if follows { access.bytes } else { 0 };
            self.next += 1;
            self.asked.push_back(operation);
        }
        Went::Nowhere
    }

    fn say(&mut self) -> Went {
        if self.begin_more() == Went::Over {
            return Went::Over;
        }
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

    /// The answer to the hello. `None`: what it says cannot be.
    fn meet(&mut self, answer: &Record) -> Option<()> {
        if self.is_greeted {
            return None;
        }
        self.is_greeted = true;
        let (Some(queue), Some(endpoint)) = (&self.queue, answer.endpoint()) else {
            return Some(());
        };
        let met = queue.with(|queue| queue.connect(&endpoint))?;
        if let Err(trouble) = met {
            let copied = trouble.status != Status::PeerFault;
            let how = if copied { "copied" } else { "out of reach" };
            let text = format!("registered memory of {} is {how}: {trouble}", self.whom);
            say(Level::Warning, &text);
            queue.end();
            return copied.then_some(());
        }
        self.is_met = true;
        Some(())
    }

    /// An answer, as far as it is one. `None`: it is none to what was asked.
    fn take(&mut self, answer: &Record) -> Option<Option<(Operation, Status)>> {
        if answer.kind == Kind::Hello {
            return self.meet(answer).map(|()| None);
        }
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
                self.announces &= !operation.has_landed;
                let lost = is_get && operation.mine.place.has_failed();
                let outcome = if lost { Status::System } else { answer.outcome() };
                Some(Some((self.asked.pop_front()?, outcome)))
            }
            _ => None,
        }
    }
}

/// Of what has gone through a queue: a get is over when its bytes are visible here (R2).
fn arrived(operation: &Operation) -> Status {
    if operation.what == What::Put || mutant!("memory-not-arrived") {
        return Status::Ok;
    }
    match operation.mine.place.arrived() {
        Ok(()) => Status::Ok,
        Err(error) => {
            say(Level::Error, &format!("what was read by a device is not visible: {error}"));
            Status::System
        }
    }
}

fn nowhere_or_over(cause: Errno) -> Went {
    match cause {
        Errno::AGAIN | Errno::INTR => Went::Nowhere,
        _ => Went::Over,
    }
}
