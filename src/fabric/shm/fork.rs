// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections that a forked child does not inherit.
//!
//! A hang-up is the sign of death (H2), and a name is free when its listener is closed. A child that
//! forked and did not exec would hold both open: its parent could die unnoticed, and nobody could
//! take the parent's rank. So the child closes them, before `fork` returns there.
//!
//! K1  Every connection is in `OPEN` from before anybody else can see it until it is closed: a fork
//!     waits for the maker at work, and makers wait for forks.
//! K2  In the child runs only what may run in a signal handler: loads, stores, `close`. No lock of
//!     the parent's is needed there (`First`).
//! K3  Nobody waits for long. A fork may come out of a signal handler that has interrupted the
//!     maker; and between our handler and the fork run the host's, which may wait for a mutex whose
//!     holder is a maker. Who has waited enough goes on: then the child may keep one connection,
//!     and the end of that one is said aloud (`shutdown`).
//! K4  Whoever clears a descriptor's bit closes it, and nobody else.
//!
//! Not caught: `_Fork`, and `clone` called past the C library: no handler runs there. And a name is
//! free again when the children that were being forked as it was closed have come to close it, too.

use crate::mem::Cell;
use crate::mem::order::fence;
use crate::mem::thread::this_thread;
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Descriptors that can be kept from a child: as many as Linux lets a process have, usually.
const DESCRIPTORS: usize = 1 << 20;
/// How long a fork waits for a maker (K3), in steps. A maker's work is one system call.
const FORK_WAITS: u32 = 2_000;
/// How long a maker waits for a fork: a large process takes its time, once per fork.
const MAKER_WAITS: u32 = 5_000;
const WAIT: Duration = Duration::from_micros(50);

/// A bit per descriptor.
static OPEN: [Cell; DESCRIPTORS / 64] = [const { Cell::new(0) }; DESCRIPTORS / 64];
/// Words of `OPEN` that were ever used.
static USED: Cell = Cell::new(0);
/// The thread that makes or closes a connection.
static MAKER: Cell = Cell::new(0);
/// Forks that have begun, and how many of them run: from their first handler to their last.
static BEGUN: Cell = Cell::new(0);
static RUNNING: Cell = Cell::new(0);
/// The thread whose fork began last.
static FORKER: Cell = Cell::new(0);
/// As many had begun when a maker lost patience.
static ENDLESS: Cell = Cell::new(0);
/// How many forks lie between this process and the first one that had a connection.
static FORKS: Cell = Cell::new(0);

/// A number that differs between a process and its forked children, once there was a connection.
/// One load.
#[inline(always)]
pub fn forks() -> u64 {
    FORKS.own()
}

/// A descriptor that is closed in forked children.
#[derive(Debug)]
pub struct Unshared {
    descriptor: ManuallyDrop<OwnedFd>,
    forks: u64,
    /// Made while a fork ran for too long: a child may hold it (K3).
    shared: bool,
}

impl Unshared {
    /// Keeps what `make` makes from children. `make` must not wait.
    pub fn make(make: impl FnOnce() -> Result<OwnedFd, Errno>) -> Result<Unshared, Errno> {
        static HEARD: First = First::new();
        HEARD.call(|| at_fork(Some(prepare), Some(in_parent), Some(in_child)));
        alone(|shared| {
            let forks = forks();
            let descriptor = make()?;
            if self::forks() != forks {
                return Err(Errno::CANCELED); // a child that came out of a signal handler in `make`
            }
            mark(descriptor.as_raw_fd());
            Ok(Unshared { descriptor: ManuallyDrop::new(descriptor), forks, shared })
        })
    }
}

impl Drop for Unshared {
    fn drop(&mut self) {
        alone(|shared| {
            // A child's copy is closed already, and the number may be somebody else's.
            if self.forks != forks() || !unmark(self.descriptor.as_raw_fd()) {
                return;
            }
            if shared || self.shared {
                let _ = shutdown(&*self.descriptor, Shutdown::Both); // its peer hears of it
            }
            // SAFETY: this is the end of it; nobody uses it again (K4).
            unsafe { ManuallyDrop::drop(&mut self.descriptor) };
        });
    }
}

impl AsFd for Unshared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Something to be done once, which a forked child does again if it is the business of a thread that
/// is not there. `Once` would let it wait for ever.
pub struct First(Cell);

impl First {
    const DONE: u64 = u64::MAX;

    #[expect(clippy::new_without_default, reason = "it stands in a static")]
    pub const fn new() -> First {
        First(Cell::new(0))
    }

    /// Returns when `body`, which must not panic, has run, by whomever.
    pub fn call(&self, body: impl FnOnce()) {
        loop {
            let doing = self.0.observe();
            if doing == Self::DONE {
                return;
            }
            let me = u64::from(std::process::id());
            if doing != me && self.0.replace(doing, me) {
                body();
                return self.0.publish(Self::DONE);
            }
            std::thread::yield_now();
        }
    }
}

type Handler = Option<unsafe extern "C" fn()>;

fn at_fork(before: Handler, parent: Handler, child: Handler) {
    // SAFETY: the handlers are functions of this library, which is never unloaded (build.rs). It
    // fails for want of memory only; then a child keeps what it inherits.
    unsafe { libc::pthread_atfork(before, parent, child) };
}

/// Runs `handler` in every forked child from now on. It may do what a signal handler may (K2).
pub fn in_children(handler: unsafe extern "C" fn()) {
    at_fork(None, None, Some(handler));
}

/// Moves a word that others move, too; what it was before.
fn change(cell: &Cell, to: impl Fn(u64) -> u64) -> u64 {
    loop {
        let now = cell.observe();
        if cell.replace(now, to(now)) {
            return now;
        }
    }
}

/// The word and the bit of a descriptor; `None`: there are no so large ones.
fn place(descriptor: i32) -> Option<(usize, u64)> {
    let (word, bit) = (descriptor as usize / 64, 1 << (descriptor % 64));
    (word < OPEN.len()).then_some((word, bit))
}

fn mark(descriptor: i32) {
    let Some((word, bit)) = place(descriptor) else { return };
    change(&USED, |used| used.max(word as u64 + 1));
    change(&OPEN[word], |open| open | bit);
}

/// Whether it is the caller's to close (K4).
fn unmark(descriptor: i32) -> bool {
    place(descriptor).is_none_or(|(word, bit)| change(&OPEN[word], |open| open & !bit) & bit != 0)
}

/// Runs `body`, as the only maker and while no fork runs, if that can be had (K3); else with `true`.
fn alone<R>(body: impl FnOnce(bool) -> R) -> R {
    let me = this_thread();
    let mut waited = 0;
    let shared = loop {
        while !MAKER.replace(0, me) {
            std::thread::yield_now();
        }
        fence(); // pairs with that of `prepare`: one of the two sees the other
        let mine = u64::from(FORKER.observe() == me); // what its handlers do comes before it
        if RUNNING.observe() == mine {
            break false;
        }
        if ENDLESS.observe() == BEGUN.observe() {
            break true;
        }
        MAKER.publish(0);
        if waited == MAKER_WAITS {
            ENDLESS.publish(BEGUN.observe());
        }
        waited += 1;
        std::thread::sleep(WAIT);
    };
    let done = body(shared);
    MAKER.publish(0);
    done
}

unsafe extern "C" fn prepare() {
    change(&BEGUN, |begun| begun + 1);
    FORKER.publish(this_thread());
    change(&RUNNING, |running| running + 1);
    fence();
    for _ in 0..FORK_WAITS {
        let maker = MAKER.observe();
        if maker == 0 || maker == this_thread() {
            return; // mine: this is a signal handler that has interrupted it
        }
        std::thread::sleep(WAIT);
    }
}

unsafe extern "C" fn in_parent() {
    FORKER.replace(this_thread(), 0);
    // None runs, if a signal handler between the two has forked, and this is its child.
    change(&RUNNING, |running| running.saturating_sub(1));
}

unsafe extern "C" fn in_child() {
    for (at, word) in OPEN.iter().enumerate().take(USED.own() as usize) {
        let open = change(word, |_| 0);
        for bit in (0..64).filter(|bit| open >> bit & 1 == 1) {
            // SAFETY: it was a connection of ours, and of this child only this thread is left:
            // nothing here uses it any more.
            unsafe { libc::close((at * 64 + bit) as i32) };
        }
    }
    FORKS.publish(FORKS.own() + 1);
    FORKER.publish(0);
    RUNNING.publish(0);
    MAKER.publish(0); // whoever it was is not here, or goes on alone
}

#[cfg(test)]
mod tests {
    use super::super::socket::Socket;
    use super::*;

    /// The status of a child that does `body`, which must not allocate: other threads are not there.
    fn child(body: impl FnOnce() -> i32) -> i32 {
        // SAFETY: the child calls nothing but `body` and `_exit`.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let status = body();
            // SAFETY: it ends this process.
            unsafe { libc::_exit(status) };
        }
        let mut status = -1;
        // SAFETY: a child of ours, and a place for its status.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        status
    }

    #[test]
    fn a_child_holds_no_connection_and_closes_none_of_its_own() {
        let name = format!("squall/fork-{}/0", std::process::id());
        let listener = Socket::listen(&name).unwrap().unwrap();
        let caller = Socket::connect(&name).unwrap().unwrap();
        let called = listener.accept().unwrap().unwrap();
        let numbers = [&listener, &caller, &called].map(|socket| socket.as_fd().as_raw_fd());
        // SAFETY: the call takes numbers only.
        let open = move |number: i32| unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
        let status = child(|| {
            if numbers.iter().any(|number| open(*number)) {
                return 1;
            }
            // The numbers are used again; what the child inherited must not close them.
            for number in numbers {
                // SAFETY: the call takes numbers only.
                unsafe { libc::dup2(2, number) };
            }
            drop((listener, caller, called));
            i32::from(!numbers.iter().all(|number| open(*number)))
        });
        assert_eq!(status, 0);
    }

    /// The child of a signal handler in the middle of `make` has a copy of what is made: not its own.
    #[test]
    fn a_fork_in_the_middle_leaves_nothing_with_the_child() {
        let (mut pid, mut number) = (-1, -1);
        let made = Unshared::make(|| {
            let made = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
            number = made.as_raw_fd();
            // SAFETY: the child comes no further than to its `_exit` below.
            pid = unsafe { libc::fork() };
            Ok(made)
        });
        if pid == 0 {
            // SAFETY: the calls take numbers only.
            let open = unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
            let well = matches!(made, Err(Errno::CANCELED)) && !open && MAKER.own() == 0;
            // SAFETY: it ends this process.
            unsafe { libc::_exit(i32::from(!well)) };
        }
        let mut status = -1;
        // SAFETY: a child of ours, and a place for its status.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(status, 0);
        let made = made.unwrap();
        assert!(forks() == made.forks && MAKER.own() != this_thread());
    }

    #[test]
    fn what_a_missing_thread_was_to_do_is_done_again() {
        let (other, mut times) = (First(Cell::new(1 << 40)), 0);
        other.call(|| times += 1);
        other.call(|| times += 1);
        assert_eq!(times, 1);
    }
}
