// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory-ordering argument, all of it. Nowhere else does a memory ordering appear (statistics
//! counters aside, which order nothing).
//!
//! Not for: exclusion (there are no locks on the data path), counting (that is arithmetic on values
//! one has read), or making several words change at once (nothing needs that).
//!
//! Parties: the *application thread* of a lane, the *turn thread* of the group (they may be one),
//! a peer's turn thread in another process or its NIC, later the log thread.
//!
//! | edge | release side | acquire side | after it, what is visible |
//! |---|---|---|---|
//! | W | application thread: slot counted in `filled` | turn thread, before it takes the slot up | the slot's payload and descriptor |
//! | | the same, streamed (`ring::Filled`): a fence between; or in `loose`, and the fence by the turn thread, if it is the same thread, else a barrier on all threads | | |
//! | T | turn thread: `taken`, after it wrote the run of the slots | application thread, before it reads the run back | the run's record |
//! | N | a member's store (or NIC, F2): payload, descriptor, run, `slots`, then `head` | turn thread, `observe` | all of them in the mirror |
//! | S | every member's `released` (N again) | application thread, `reserve` | all have finished with the slot: it may be overwritten |
//! | P | waker: its stores, fence, reads `asleep`; sleeper: stores `asleep`, fence, looks again, sleeps | each other | no wake-up is lost (Dekker) |
//! | H | turn thread: a lane's next ring, put into its `Exchange` | application thread, which takes it | the producer, all that was sent in that ring before, and that nobody else will |
//! | E | application thread: slot counted, then reads `stopped`; turn thread: `stopped`, a barrier on all threads, then reads the count | each other | a message whose send answered `Ok` is counted before its lane is settled (Dekker, `sst::closing`) |
//! | | whoever decides which slot is the last: `last`, moved once | the other one | that both mean the same |
//! | B | the first thread: `inside`, then reads `busy` and `first`; any other: `busy`, `first`, a barrier on all threads, then reads `inside` | each other | two are never in a group's turn at once (Dekker, `turnstile`) |
//! | L D K X | log, disk, epochs, reuse after a removal | parts B and E | |
//!
//! *Order of reads.* Cells of one row are observed in the reverse of the order in which they are
//! published: `head` before `slots`. A new head with old slots would turn a message into a null.
//! Each foreign cell is observed once per poll (T2 in `sst`): two looks may differ.
//!
//! *x86-64.* A release store and an acquire load are plain moves; only `fence` costs (about 20
//! cycles) and it is executed only in groups where some member may sleep. *aarch64.* `stlr`/`ldar`.
//!
//! *N over verbs.* The peer's device is the one that stores. That it stores in order rests on one
//! reliable connection per peer (writes land in the order posted), on memory that is never registered
//! with relaxed ordering (`verbs/memory`, R2), and on a try of each device (`verbs/ordering`); on x86-64
//! loads then see that order. Words come in a *note* (`verbs/notes`), which is believed when all of it is
//! there: whoever has seen it sees the spans that were written before it; its words this member's turn
//! thread then publishes itself, one by one. aarch64 would need the device's barrier (`dmb oshld`) between a guard and
//! what it guards: that fabric is not loaded there (`verbs/sys`, V2).

#[cfg(not(loom))]
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering, fence as atomic_fence};

#[cfg(loom)]
use loom::sync::atomic::{AtomicPtr, AtomicU64, Ordering, fence as atomic_fence};

/// One 64-bit word that another thread, process or NIC may read or write at any time.
///
/// Always accessed whole and with this type, never as bytes: mixed sizes would be undefined.
#[repr(transparent)]
#[derive(Debug)]
pub struct Cell(AtomicU64);

impl Cell {
    #[cfg(not(loom))]
    pub const fn new(value: u64) -> Self {
        Cell(AtomicU64::new(value))
    }

    #[cfg(loom)]
    pub fn new(value: u64) -> Self {
        Cell(AtomicU64::new(value))
    }

    /// Everything written before is visible to whoever observes this value (W, T, N, S).
    #[inline(always)]
    pub fn publish(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }

    /// Reads a word that someone else publishes (W, T, N, S).
    #[inline(always)]
    pub fn observe(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Reads back a word that only this thread writes, or one that an earlier `observe` covers.
    #[inline(always)]
    pub fn own(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Writes a word that a later `publish` will announce.
    #[inline(always)]
    pub fn prepare(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Moves a word that several threads of this process may move: true for the one that did.
    pub fn replace(&self, from: u64, to: u64) -> bool {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Moves a word that several threads of this process may move up, and never back: to `value`,
    /// unless it is beyond already. What is announced is the word, and nothing with it.
    pub fn raise(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Release);
    }

    /// Takes a flag that several threads of this process may want: true for the one that got it.
    /// Entry to a turn only, never per message.
    pub fn take(&self) -> bool {
        self.replace(0, 1)
    }
}

/// A place for one box, put there by one thread and taken by another, or taken back (H).
///
/// Neither ever waits: each call is one exchange of a pointer.
#[derive(Debug)]
pub struct Exchange<T>(AtomicPtr<T>);

impl<T> Exchange<T> {
    pub fn new() -> Self {
        Exchange(AtomicPtr::new(std::ptr::null_mut()))
    }

    /// Puts a box where there is none; one thread puts.
    pub fn put(&self, boxed: Box<T>) {
        let ordering =
            if crate::mutant!("loom-h-relaxed") { Ordering::Relaxed } else { Ordering::AcqRel };
        let before = self.0.swap(Box::into_raw(boxed), ordering); // H
        assert!(before.is_null(), "one box at a time");
    }

    /// Takes the box, if there is one: of several that try one gets it.
    pub fn take(&self) -> Option<Box<T>> {
        let taken = self.0.swap(std::ptr::null_mut(), Ordering::AcqRel); // H
        // SAFETY: what is in the place came from `Box::into_raw` (`put`), and whoever swaps it out
        // is the only one that has it.
        (!taken.is_null()).then(|| unsafe { Box::from_raw(taken) })
    }

    /// Whether there is none. Of use to the one that puts: nobody else changes that back.
    pub fn is_empty(&self) -> bool {
        self.0.load(Ordering::Acquire).is_null()
    }
}

impl<T> Default for Exchange<T> {
    fn default() -> Self {
        Exchange::new()
    }
}

impl<T> Drop for Exchange<T> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

// AtomicPtr is Send and Sync whatever it points to; what is in the place moves between threads.
// SAFETY: a box of `T` is handed from one thread to another, as a channel would: `T: Send`.
unsafe impl<T: Send> Sync for Exchange<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Exchange<T> {}

/// Edge P: my earlier stores are visible to every thread whose own `fence` comes later, and I see
/// the earlier stores of every thread whose `fence` came before mine.
#[inline(always)]
pub fn fence() {
    atomic_fence(Ordering::SeqCst);
}

/// My earlier stores stay before my later loads as far as the compiler goes; the processor is made
/// to by who needs it (`thread::order_all_threads`).
#[cfg(not(loom))]
#[inline(always)]
pub fn keep_order() {
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
}

/// The model has no barrier on all threads: each has its own.
#[cfg(loom)]
pub fn keep_order() {
    fence();
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// Edge P with the words that the driver uses: whoever publishes work either sees the sleeper
    /// and rings, or the sleeper sees the work and stays up.
    #[test]
    fn edge_p_loses_no_wakeup() {
        loom::model(|| {
            let cells = Arc::new((Cell::new(0), Cell::new(0), Cell::new(0)));
            let theirs = cells.clone();
            let waker = thread::spawn(move || {
                let (work, asleep, bell) = &*theirs;
                work.publish(1);
                fence();
                if asleep.observe() != 0 {
                    bell.publish(1);
                }
            });
            let (work, asleep, bell) = &*cells;
            asleep.publish(1);
            fence();
            let stays_up = work.observe() == 1;
            waker.join().unwrap();
            assert!(stays_up || bell.observe() == 1, "asleep, and nobody rang");
        });
    }

    /// Edge H: whoever takes the box has what was written before it was put.
    fn hand_a_box_over() {
        loom::model(|| {
            let (place, word) =
                (Arc::new(Exchange::new()), Arc::new(loom::cell::UnsafeCell::new(0)));
            let theirs = place.clone();
            let taker = thread::spawn(move || {
                let taken: Option<Box<Arc<loom::cell::UnsafeCell<u32>>>> = theirs.take();
                // SAFETY: loom reports a race if there is one.
                taken.is_some_and(|word| word.with(|word| unsafe { *word }) == 1)
            });
            // SAFETY: as above.
            word.with_mut(|word| unsafe { *word = 1 });
            place.put(Box::new(word));
            let taken = taker.join().unwrap();
            assert_eq!(place.is_empty(), taken);
            assert_eq!(place.take().is_none(), taken, "one of two gets it");
        });
    }

    #[test]
    fn loom_edge_h_hands_a_box_over() {
        hand_a_box_over();
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn loom_finds_an_exchange_without_release() {
        crate::mutants::plant(Some("loom-h-relaxed"));
        hand_a_box_over();
    }
}
