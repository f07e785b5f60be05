// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections that a forked child does not inherit.
//!
//! A hang-up is the sign of death (H2), and a name is free when its listener is closed. A child that
//! forked and did not exec would hold both open: its parent could die unnoticed, and nobody could
//! take the parent's rank. So the child closes them, before `fork` returns there.
//!
//! K1  Every connection is in `OPEN` from before anybody else can see it until it is closed: both
//!     ends of its life, and every `fork`, are under `LOCK`.
//! K2  In the child runs only what may run in a signal handler: loads, stores, `close`.
//! K3  A fork never waits for long: out of a signal handler that has interrupted the holder of the
//!     lock, it would be for ever. Then the child may keep one connection.
//!
//! Not caught: `clone` called past the C library, without exec.

use crate::mem::Cell;
use crate::mem::thread::this_thread;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Once;
use std::time::Duration;

/// Descriptors that can be kept from a child: as many as Linux lets a process have, usually.
const DESCRIPTORS: usize = 1 << 20;
/// How long a fork waits for the lock (K3), in steps.
const WAITS: u32 = 2_000;
const WAIT: Duration = Duration::from_micros(50);

/// A bit per descriptor.
static OPEN: [Cell; DESCRIPTORS / 64] = [const { Cell::new(0) }; DESCRIPTORS / 64];
/// Words of `OPEN` that were ever used.
static USED: Cell = Cell::new(0);
/// The thread that makes or closes a connection, or forks.
static LOCK: Cell = Cell::new(0);
/// The thread that forks and has the lock.
static FORKING: Cell = Cell::new(0);
/// How many forks lie between this process and the first one that had a connection.
static FORKS: Cell = Cell::new(0);

/// A descriptor that is closed in forked children.
#[derive(Debug)]
pub struct Unshared {
    descriptor: ManuallyDrop<OwnedFd>,
    forks: u64,
}

impl Unshared {
    /// Keeps what `make` makes from children. `make` must not wait.
    pub fn make<E>(make: impl FnOnce() -> Result<OwnedFd, E>) -> Result<Unshared, E> {
        static HEARD: Once = Once::new();
        HEARD.call_once(|| at_fork(Some(prepare), Some(in_parent), Some(in_child)));
        locked(|| {
            let descriptor = ManuallyDrop::new(make()?);
            mark(descriptor.as_raw_fd(), true);
            Ok(Unshared { descriptor, forks: FORKS.own() })
        })
    }
}

impl Drop for Unshared {
    fn drop(&mut self) {
        if self.forks != FORKS.observe() {
            return; // a child's copy: closed already, and the number may be somebody else's
        }
        locked(|| {
            mark(self.descriptor.as_raw_fd(), false);
            // SAFETY: this is the end of it; nobody uses it again.
            unsafe { ManuallyDrop::drop(&mut self.descriptor) };
        });
    }
}

impl AsFd for Unshared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
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

/// Under `LOCK`.
fn mark(descriptor: i32, open: bool) {
    let (word, bit) = (descriptor as usize / 64, 1 << (descriptor % 64));
    let Some(cell) = OPEN.get(word) else { return };
    cell.prepare(if open { cell.own() | bit } else { cell.own() & !bit });
    USED.prepare(USED.own().max(word as u64 + 1));
}

fn locked<R>(body: impl FnOnce() -> R) -> R {
    while !LOCK.replace(0, this_thread()) {
        std::thread::yield_now();
    }
    let done = body();
    LOCK.publish(0);
    done
}

unsafe extern "C" fn prepare() {
    for _ in 0..WAITS {
        if LOCK.replace(0, this_thread()) {
            FORKING.publish(this_thread());
            return;
        }
        if LOCK.observe() == this_thread() {
            return; // in a signal handler that has interrupted `locked`
        }
        std::thread::sleep(WAIT);
    }
}

unsafe extern "C" fn in_parent() {
    if FORKING.observe() == this_thread() {
        FORKING.publish(0);
        LOCK.publish(0);
    }
}

unsafe extern "C" fn in_child() {
    for (at, word) in OPEN.iter().enumerate().take(USED.own() as usize) {
        for bit in (0..64).filter(|bit| word.own() >> bit & 1 == 1) {
            // SAFETY: it was a connection of ours, and of this child only this thread is left:
            // nothing here uses it any more.
            unsafe { libc::close((at * 64 + bit) as i32) };
        }
        word.prepare(0);
    }
    FORKS.publish(FORKS.own() + 1);
    FORKING.publish(0);
    LOCK.publish(0); // whoever else had it is not here
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
}
