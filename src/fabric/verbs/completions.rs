// SPDX-License-Identifier: MIT OR Apache-2.0
//! The completion queue of all of a member's queues, and the channel that wakes who sleeps.
//!
//! C1  It never runs over: every queue reserves an entry for each of its slots, sending and receiving,
//!     signalled or not, because an error completes them all. What an ended queue has reserved is free
//!     only after it was read empty once more.
//! C2  A completion says by its own number whose it is; one of a queue that has ended is recognised.
//!
//! Cost: `poll` is one call of the provider per 16 completions and one more, no system call.

use super::device::{Device, make_nonblocking, refused};
use super::failure::{Cause, Failure};
use super::queue::Depths;
use super::sys::bindings::*;
use super::sys::zeroed;
use crate::error::{Error, Status};
use crate::mem::Cell;
use std::ffi::c_int;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard};

/// Completions that one call of the provider brings.
const BATCH: usize = 16;
/// Those of one `poll`.
const POLL_MAX: usize = 64;

/// Whose a completion is: a number that the caller gives, and one that tells apart those that have it one
/// after the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Token {
    index: u16,
    generation: u16,
}

const GENERATIONS: u16 = 1 << 15;
const RECEIVE: u64 = 1 << 63;

impl Token {
    #[inline]
    pub(super) fn sent(self, position: u64) -> u64 {
        u64::from(self.generation) << 48 | u64::from(self.index) << 32 | position & 0xffff_ffff
    }

    pub(super) fn received(self) -> u64 {
        RECEIVE | self.sent(0)
    }
}

/// One completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    id: u64,
    pub(super) status: u32,
    pub(super) vendor: u32,
}

impl Completion {
    /// The number that its queue was given.
    #[inline]
    pub fn index(self) -> u16 {
        (self.id >> 32) as u16
    }

    #[inline]
    pub(super) fn token(self) -> Token {
        let generation = (self.id >> 48) as u16 & (GENERATIONS - 1);
        Token { index: self.index(), generation }
    }

    #[inline]
    pub(super) fn is_receive(self) -> bool {
        self.id & RECEIVE != 0
    }

    #[inline]
    pub(super) fn position(self) -> u32 {
        self.id as u32
    }
}

/// The queue itself, shared with those whose completions it takes: it outlives them.
pub(super) struct Shared {
    pub(super) device: Arc<Device>,
    pub(super) cq: NonNull<ibv_cq>,
    channel: NonNull<ibv_comp_channel>,
    book: Mutex<Book>,
    /// Not 0: `Book::ended` is not 0. Moved with the book in hand.
    has_ended: Cell,
}

/// Who has reserved what (C1).
struct Book {
    capacity: u32,
    reserved: u32,
    /// Reserved by those that have ended since it was read empty.
    ended: u32,
    generation: u16,
}

// SAFETY: as for `Device`: libibverbs' objects may be used by any thread.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Entries for a new queue, and what its completions are known by.
    pub(super) fn reserve(&self, index: u16, entries: u32) -> Result<Token, Error> {
        let mut book = self.book();
        if book.reserved + entries > book.capacity {
            let name = self.device.name();
            if book.ended > 0 {
                let detail = format!("{name}: completions of an ended queue are still to be read");
                return Err(Error::new(Status::Again, detail));
            }
            let detail = format!(
                "{name}: a completion queue of {} entries has no room for {entries} more: use \
                 shorter send queues, or fewer members",
                book.capacity
            );
            return Err(Error::new(Status::Limit, detail));
        }
        book.reserved += entries;
        book.generation = (book.generation + 1) % GENERATIONS;
        Ok(Token { index, generation: book.generation })
    }

    /// A queue has ended: nothing more of it comes.
    pub(super) fn end(&self, entries: u32) {
        let mut book = self.book();
        book.ended += entries;
        self.has_ended.publish(1);
    }

    /// A queue never began.
    pub(super) fn give_back(&self, entries: u32) {
        self.book().reserved -= entries;
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !self.device.is_mine() {
            return; // X3
        }
        // SAFETY: the last of those that share it; queues hold it, so none is left, and events were
        // acknowledged as they were read, so that this does not wait.
        unsafe {
            (self.device.table.destroy_cq)(self.cq.as_ptr());
            (self.device.table.destroy_comp_channel)(self.channel.as_ptr());
        }
    }
}

/// The reading end. One thread at a time.
pub struct Completions {
    shared: Arc<Shared>,
    poll: unsafe extern "C" fn(*mut ibv_cq, c_int, *mut ibv_wc) -> c_int,
    notify: unsafe extern "C" fn(*mut ibv_cq, c_int) -> c_int,
    batch: Box<[ibv_wc; BATCH]>,
}

// SAFETY: `Shared` is; the batch is plain data without pointers into anything.
unsafe impl Send for Completions {}

impl Completions {
    /// For so many queues of such depths, or as many as the device has room for.
    ///
    /// Errors: `NoMemory`, `Limit` or `System`.
    pub fn new(device: &Arc<Device>, queues: usize, depths: &Depths) -> Result<Completions, Error> {
        let each = depths.entries();
        let wanted = u32::try_from(queues.max(1)).unwrap_or(u32::MAX).saturating_mul(each);
        let asked = wanted.min(device.limits().completions_max).max(1);
        let (table, name) = (&device.table, device.name());
        // SAFETY: an open context.
        let channel = unsafe { (table.create_comp_channel)(device.context.as_ptr()) };
        let channel = NonNull::new(channel)
            .ok_or_else(|| refused(&format!("{name}: no completion channel")))?;
        let context = device.context.as_ptr();
        let (entries, none) = (asked as c_int, std::ptr::null_mut());
        // SAFETY: an open context and its channel; vector 0 is always there.
        let cq = unsafe { (table.create_cq)(context, entries, none, channel.as_ptr(), 0) };
        let Some(cq) = NonNull::new(cq) else {
            let error = refused(&format!("{name}: no completion queue of {asked} entries"));
            // SAFETY: made above, and nothing uses it.
            unsafe { (table.destroy_comp_channel)(channel.as_ptr()) };
            return Err(error);
        };
        // SAFETY: just made.
        let capacity = unsafe { (*cq.as_ptr()).cqe }.max(0) as u32;
        let book = Book { capacity: capacity.max(asked), reserved: 0, ended: 0, generation: 0 };
        let (book, has_ended) = (Mutex::new(book), Cell::new(0));
        let shared = Shared { device: device.clone(), cq, channel, book, has_ended };
        // SAFETY: an open context's operations do not change; these two every provider has.
        let ops = unsafe { &(*device.context.as_ptr()).ops };
        let missing = || Error::new(Status::System, format!("{name}: its driver cannot poll"));
        let (poll, notify) = (ops.poll_cq.ok_or_else(missing)?, ops.req_notify_cq);
        let completions = Completions {
            shared: Arc::new(shared),
            poll,
            notify: notify.ok_or_else(missing)?,
            batch: Box::new([zeroed(); BATCH]),
        };
        make_nonblocking(completions.fd())?;
        Ok(completions)
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Hands over what there is, 64 at most; says how many. Never blocks.
    ///
    /// Errors: the device is lost, and every queue with it.
    pub fn poll(&mut self, mut take: impl FnMut(Completion)) -> Result<usize, Failure> {
        let mut all = 0;
        while all < POLL_MAX {
            let batch = self.batch.as_mut_ptr();
            // SAFETY: a completion queue that is alive and a place for as many as are asked for.
            let got = unsafe { (self.poll)(self.shared.cq.as_ptr(), BATCH as c_int, batch) };
            let Ok(got) = usize::try_from(got) else {
                let queue = format!("{}: completion queue", self.shared.device.name());
                return Err(Failure { queue, cause: Cause::Poll });
            };
            assert!(got <= BATCH, "a driver gives what it was asked for at the most");
            for wc in &self.batch[..got] {
                take(Completion { id: wc.wr_id, status: wc.status.0, vendor: wc.vendor_err });
            }
            all += got;
            if got < BATCH {
                self.was_empty();
                break;
            }
        }
        Ok(all)
    }

    /// C1: what ended before this was read empty has nothing in it any more.
    #[inline]
    fn was_empty(&mut self) {
        if self.shared.has_ended.observe() != 0 {
            let mut book = self.shared.book();
            self.shared.has_ended.prepare(0);
            book.reserved -= std::mem::take(&mut book.ended);
        }
    }

    /// Asks for a wake-up at the next bell, or error; `all`: at the next completion of any kind. Then poll
    /// once more; then sleep on `fd`.
    ///
    /// Errors: `System`.
    pub fn arm(&mut self, all: bool) -> Result<(), Error> {
        let solicited = c_int::from(!all);
        // SAFETY: a completion queue that is alive.
        let refused = unsafe { (self.notify)(self.shared.cq.as_ptr(), solicited) };
        match refused {
            0 => Ok(()),
            errno => {
                let what = format!("{}: its driver wakes nobody", self.shared.device.name());
                Err(super::device::of_errno(errno, &what))
            }
        }
    }

    /// Readable after a bell, if armed.
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel and its descriptor live as long as `self`.
        unsafe { BorrowedFd::borrow_raw((*self.shared.channel.as_ptr()).fd) }
    }

    /// Takes the wake-ups that made `fd` readable; says how many. Never blocks.
    pub fn woken(&mut self) -> usize {
        let table = &self.shared.device.table;
        let (mut cq, mut context) = (std::ptr::null_mut(), std::ptr::null_mut());
        let mut events = 0;
        // SAFETY: a channel that is alive and does not block, and two places for the answer.
        while unsafe {
            (table.get_cq_event)(self.shared.channel.as_ptr(), &mut cq, &mut context) == 0
        } {
            events += 1;
        }
        if events > 0 {
            // SAFETY: so many were read, of the one queue that has this channel.
            unsafe { (table.ack_cq_events)(self.shared.cq.as_ptr(), events) };
        }
        events as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_says_whose_it_is() {
        let token = Token { index: 0xfedc, generation: GENERATIONS - 1 };
        let of = |id| Completion { id, status: 0, vendor: 0 };
        let sent = of(token.sent(0x1_2345_6789));
        assert_eq!((sent.index(), sent.token(), sent.position()), (0xfedc, token, 0x2345_6789));
        assert!(!sent.is_receive() && of(token.received()).is_receive());
        assert_eq!(of(token.received()).token(), token);
    }
}
