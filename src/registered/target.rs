// SPDX-License-Identifier: MIT OR Apache-2.0
//! Operations of one other member on memory of mine, through the stream that it has opened.
//!
//! T1  They are carried out one after the other, and answered in that order.
//! T2  What may not be is answered with why not, after its bytes have been read past.
//! T3  A piece that was promised comes whole: if the memory goes meanwhile, zeros stand in, and the
//!     status says that the operation has failed.
//! T4  Of an announcement nothing is answered before it waits here to be polled (R4).
//! T5  With a further hello the queue of the one before has ended: nothing comes through it any more
//!     when what follows is carried out.

use super::door::{Shared, Slot};
use super::wire::{ANNOUNCE, Kind, LANDED, RECORD_BYTES, Record};
use super::worker::{Went, receive, send};
use super::{CHUNK_BYTES, Completion, Region, Stream, What};
use crate::error::{Error, Status};
use crate::log_sink::{Level, say};
use crate::mutant;
use rustix::event::PollFlags;
use rustix::io::Errno;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Answers that wait to be sent, in bytes: with more, nothing is read.
const ANSWERS_BYTES: usize = 4096;
/// No region is that long: nonsense, not a request.
const BYTES_MAX: u64 = 1 << 56;

/// What is done now.
#[derive(Clone, Copy)]
enum Doing {
    /// A record comes.
    Listen,
    /// Bytes come; how many have, and whether they are wanted.
    Put { record: Record, from: u64, status: Status },
    /// Bytes go; how many have been promised.
    Get { record: Record, from: u64 },
    /// It is carried out and not announced.
    Held { record: Record },
}

pub(super) struct Target {
    pub whom: u64,
    stream: Stream,
    doing: Doing,
    has_greeted: bool,
    /// The number of the next one.
    next: u64,
    record: [u8; RECORD_BYTES],
    here: usize,
    answers: Vec<u8>,
    /// Of a get: promised and not sent. They lie from there on.
    promised: usize,
    waits_for_room: bool,
    /// The end of a device's queue through which they come, too.
    queue: Option<Arc<Slot>>,
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(queue) = &self.queue {
            queue.end();
        }
    }
}

impl Target {
    pub fn new(whom: u64, stream: Stream) -> Target {
        Target {
            whom,
            stream,
            doing: Doing::Listen,
            has_greeted: false,
            next: 0,
            record: [0; RECORD_BYTES],
            here: 0,
            answers: Vec::new(),
            promised: 0,
            waits_for_room: false,
            queue: None,
        }
    }

    pub fn stream(&self) -> BorrowedFd<'_> {
        (*self.stream).as_fd()
    }

    /// There is room for announcements.
    pub fn try_again(&mut self) {
        self.waits_for_room = false;
    }

    pub fn waits_for(&self) -> PollFlags {
        let sends = !self.answers.is_empty() || self.promised > 0;
        let reads = matches!(self.doing, Doing::Listen | Doing::Put { .. })
            && self.answers.len() < ANSWERS_BYTES;
        let mut waits = PollFlags::empty();
        waits.set(PollFlags::OUT, sends);
        waits.set(PollFlags::IN, reads);
        waits
    }

    /// Receives a piece, and sends one.
    pub fn go_on(&mut self, shared: &Shared) -> Went {
        let region = match self.doing {
            Doing::Put { record, .. } | Doing::Get { record, .. } => record.region,
            Doing::Listen | Doing::Held { .. } => 0,
        };
        let Some(region) = shared.enter(self.whom, region) else { return Went::Over };
        let read = match self.doing {
            _ if self.answers.len() >= ANSWERS_BYTES => Went::Nowhere,
            Doing::Listen => self.listen(shared),
            Doing::Put { .. } => self.take(region.as_deref()),
            Doing::Get { .. } => self.promise(region.as_deref()),
            Doing::Held { .. } => Went::Nowhere,
        };
        let sent = self.send(region.as_deref());
        drop(region);
        shared.leave();
        if mutant!("memory-announced-early") && self.tell_early(shared) {
            return Went::On;
        }
        let told = self.tell(shared);
        let all = [read, sent, told];
        match all.contains(&Went::Over) {
            true => Went::Over,
            false if all.contains(&Went::On) => Went::On,
            false => Went::Nowhere,
        }
    }

    fn answer(&mut self, record: &Record, status: Status) {
        let done =
            Record { number: record.number, status: status as i64, ..Record::of(Kind::Done) };
        self.answers.extend_from_slice(&done.encode());
        self.doing = Doing::Listen;
    }

    fn listen(&mut self, shared: &Shared) -> Went {
        match receive(&self.stream, &mut self.record[self.here..]) {
            Ok(0) => return Went::Over,
            Ok(count) => self.here += count,
            Err(cause) => return nowhere_or_over(cause),
        }
        if self.here < RECORD_BYTES {
            return Went::On;
        }
        self.here = 0;
        let Some(record) = Record::decode(&self.record) else { return Went::Over };
        if !self.has_greeted {
            self.has_greeted = record.kind == Kind::Hello;
            return if self.has_greeted { self.greet(&record, shared) } else { Went::Over };
        }
        if record.kind == Kind::Hello {
            return self.greet(&record, shared); // T5
        }
        if record.number != self.next || record.bytes > BYTES_MAX {
            return Went::Over;
        }
        self.next += 1;
        let status = Status::Ok;
        self.doing = match record.kind {
            Kind::Put if record.flags & LANDED != 0 => {
                Doing::Put { record, from: record.bytes, status }
            }
            Kind::Put => Doing::Put { record, from: 0, status },
            Kind::Get => Doing::Get { record, from: 0 },
            Kind::Hello | Kind::Data | Kind::Done => return Went::Over,
        };
        Went::On
    }

    /// Answers a hello, with a queue of mine if there are devices at both sides.
    fn greet(&mut self, hello: &Record, shared: &Shared) -> Went {
        if let Some(queue) = self.queue.take() {
            queue.end(); // T5
        }
        let device = shared.device.get().filter(|_| self.whom != shared.incarnation);
        let both = device.zip(hello.endpoint());
        let made = both.map(|(device, theirs)| {
            let mut queue = device.queue(self.whom)?;
            queue.connect(&theirs)?;
            Ok::<_, Error>(queue)
        });
        let queue = made.transpose().unwrap_or_else(|trouble| {
            let text = format!("registered memory is copied for {}: {trouble}", self.whom);
            say(Level::Warning, &text);
            None
        });
        let endpoint = queue.as_ref().map_or([0; 5], |queue| queue.endpoint());
        self.queue = queue.and_then(|queue| shared.hold(self.whom, queue));
        self.answers.extend_from_slice(&Record::hello(&endpoint).encode());
        Went::On
    }

    /// The bytes of a put.
    fn take(&mut self, region: Option<&Region>) -> Went {
        let Doing::Put { record, from, status } = &mut self.doing else { return Went::Nowhere };
        if *status == Status::Ok {
            *status = may(region, record, What::Put);
        }
        let rest = record.bytes - *from;
        let len = rest.min(CHUNK_BYTES as u64) as usize;
        let came = match region.filter(|_| *status == Status::Ok) {
            _ if len == 0 => Ok(0),
            Some(region) => {
                region.place.receive((*self.stream).as_fd(), record.offset + *from, len)
            }
            None => receive(&self.stream, &mut [0; 16 << 10][..len.min(16 << 10)]), // T2
        };
        match came {
            Ok(0) if len > 0 => return Went::Over,
            Ok(count) => {
                *from += count as u64;
                if region.is_some_and(|region| region.place.has_failed()) {
                    *status = Status::System;
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => return Went::Nowhere,
            Err(Errno::CONNRESET | Errno::PIPE) => return Went::Over,
            Err(_) if *status == Status::Ok => *status = Status::System, // the memory is not there
            Err(_) => return Went::Over,
        }
        if *from < record.bytes {
            return Went::On;
        }
        let (record, status) = (*record, *status);
        match record.flags & ANNOUNCE {
            ANNOUNCE if status == Status::Ok => self.doing = Doing::Held { record },
            _ => self.answer(&record, status),
        }
        Went::On
    }

    /// The next bytes of a get, or its end.
    fn promise(&mut self, region: Option<&Region>) -> Went {
        let Doing::Get { record, from } = &mut self.doing else { return Went::Nowhere };
        if self.promised > 0 {
            return Went::Nowhere;
        }
        let (status, rest) = (may(region, record, What::Get), record.bytes - *from);
        if status != Status::Ok || rest == 0 {
            let record = *record;
            self.answer(&record, status);
            return Went::On;
        }
        let len = rest.min(CHUNK_BYTES as u64);
        *from += len;
        self.promised = len as usize;
        let data = Record { number: record.number, bytes: len, ..Record::of(Kind::Data) };
        self.answers.extend_from_slice(&data.encode());
        Went::On
    }

    fn send(&mut self, region: Option<&Region>) -> Went {
        if self.answers.is_empty() && self.promised == 0 {
            return Went::Nowhere;
        }
        let sent = match &self.doing {
            Doing::Get { record, from } if self.promised > 0 => {
                let at = record.offset + from - self.promised as u64;
                let there = region.filter(|of| may(Some(of), record, What::Get) == Status::Ok);
                let sent = there.map(|region| {
                    let stream = (*self.stream).as_fd();
                    region.place.send(stream, &self.answers, at, self.promised)
                });
                match sent {
                    None | Some(Err(Errno::FAULT | Errno::IO)) => {
                        self.zeros();
                        return Went::On;
                    }
                    Some(sent) => sent,
                }
            }
            _ => send(&self.stream, &self.answers),
        };
        match sent {
            Ok(count) => {
                let answers = count.min(self.answers.len());
                self.answers.drain(..answers);
                self.promised -= count - answers;
                Went::On
            }
            Err(cause) => nowhere_or_over(cause),
        }
    }

    /// The memory has gone: what is promised comes all the same (T3).
    fn zeros(&mut self) {
        let Doing::Get { record, .. } = self.doing else { return };
        self.answers.resize(self.answers.len() + self.promised, 0);
        self.promised = 0;
        self.answer(&record, Status::NoRegion);
    }

    /// The planted fault of T4.
    #[cold]
    fn tell_early(&mut self, shared: &Shared) -> bool {
        let Doing::Put { record, from: 0, status } = self.doing else { return false };
        let told = record.flags & ANNOUNCE != 0;
        if told {
            self.doing = Doing::Held { record };
            self.tell(shared);
            self.answers.clear();
            let record = Record { flags: 0, ..record };
            self.doing = Doing::Put { record, from: 0, status };
        }
        told
    }

    /// What was put is announced (T4).
    fn tell(&mut self, shared: &Shared) -> Went {
        let Doing::Held { record } = self.doing else { return Went::Nowhere };
        if self.waits_for_room {
            return Went::Nowhere;
        }
        let announced = shared.announce(Completion {
            what: What::Announced,
            status: Status::Ok,
            tag: 0,
            incarnation: self.whom,
            region: record.region,
            offset: record.offset,
            bytes: record.bytes,
            word: record.word,
        });
        if announced {
            self.answer(&record, Status::Ok);
            return Went::On;
        }
        self.waits_for_room = true;
        Went::Nowhere
    }
}

/// Whether that may be done there.
fn may(region: Option<&Region>, record: &Record, what: What) -> Status {
    let Some(region) = region else { return Status::NoRegion };
    let may = if what == What::Put { region.rights.write } else { region.rights.read };
    let end = record.offset.checked_add(record.bytes);
    match end.is_some_and(|end| end <= region.place.bytes()) {
        _ if !may && !mutant!("memory-rights-unasked") => Status::Denied,
        false => Status::Invalid,
        true if !region.place.can_copy() && record.flags & LANDED == 0 => Status::NotDirect,
        true => Status::Ok,
    }
}

fn nowhere_or_over(cause: Errno) -> Went {
    match cause {
        Errno::AGAIN | Errno::INTR => Went::Nowhere,
        _ => Went::Over,
    }
}
