// SPDX-License-Identifier: MIT OR Apache-2.0
//! Handles: (generation, index) into a table that is never freed, so a closed one is recognised.
//!
//! There is no lock in it: a forked child could not have one that a thread of the parent held.

use super::group::Open;
use crate::error::{Error, Status};
use crate::fabric::shm::fork::{First, in_children};
use crate::mem::Cell;
use std::cell::UnsafeCell;

/// An open group: a value, not a pointer. 0 is none. A process has at most 256 at once.
pub type squall_group_t = u64;

/// Groups that one process may have open at once.
const GROUPS_MAX: usize = 256;
const INDEX_BITS: u32 = 16;

struct Entry {
    /// Odd while open. A handle carries it.
    generation: Cell,
    /// 1 while it is open or being opened.
    taken: Cell,
    open: UnsafeCell<Option<Box<Open>>>,
    /// Groups of this process's parents, whose memory they are: never dropped, and never lost, as a
    /// leak checker would say.
    inherited: UnsafeCell<Vec<Box<Open>>>,
}

// SAFETY: `open` is written only by who has taken the place while the generation is even, and read
// only by holders of the current handle; that close comes after all other calls is the caller's
// contract. `inherited` is reached only by who has taken the place.
unsafe impl Sync for Entry {}

static ENTRIES: [Entry; GROUPS_MAX] = [const {
    Entry {
        generation: Cell::new(0),
        taken: Cell::new(0),
        open: UnsafeCell::new(None),
        inherited: UnsafeCell::new(Vec::new()),
    }
}; GROUPS_MAX];

fn entry(handle: squall_group_t) -> Result<(&'static Entry, u64), Status> {
    let index = (handle & ((1 << INDEX_BITS) - 1)) as usize;
    let generation = handle >> INDEX_BITS;
    if generation % 2 != 1 {
        return Err(Status::NoHandle);
    }
    let entry = ENTRIES.get(index).ok_or(Status::NoHandle)?;
    Ok((entry, generation))
}

/// The group behind a handle.
#[inline(always)]
pub fn lookup(handle: squall_group_t) -> Result<&'static Open, Status> {
    let (entry, generation) = entry(handle)?;
    let now = entry.generation.observe();
    if now != generation {
        return Err(if generation < now { Status::Closed } else { Status::NoHandle });
    }
    // SAFETY: the generation is current, so `open` was set before it was published and is not
    // taken before `close`, which by contract comes after every other call with this handle.
    let open = unsafe { &*entry.open.get() };
    open.as_deref().ok_or(Status::Closed)
}

/// Makes a handle for what `make` opens; `make` gets the handle that will be. It may take its time:
/// other groups open and close meanwhile.
pub fn insert(
    make: impl FnOnce(squall_group_t) -> Result<Box<Open>, Error>,
) -> Result<squall_group_t, Error> {
    static HEARD: First = First::new();
    HEARD.call(|| in_children(close_inherited));
    let index = ENTRIES.iter().position(|entry| entry.taken.take()).ok_or_else(|| {
        let detail = format!("{GROUPS_MAX} groups are open in this process; close one");
        Error::new(Status::Limit, detail)
    })?;
    let entry = &ENTRIES[index];
    let generation = entry.generation.own() + 1;
    let handle = generation << INDEX_BITS | index as u64;
    // A panic in `make` comes out as one too, after the place is free again.
    let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| make(handle)));
    match made {
        Ok(Ok(made)) => {
            // SAFETY: the place is taken by this call and its generation is even: nobody else
            // looks at it.
            unsafe { (*entry.inherited.get()).extend(entry.open.get().replace(Some(made))) };
            entry.generation.publish(generation);
            Ok(handle)
        }
        other => {
            entry.taken.publish(0);
            other.unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map(|_| handle)
        }
    }
}

/// A forked child has no group: it shares their memory with the parent, who uses it. Its handles
/// are closed ones; what is behind them is forgotten, untouched. So is what a thread of the parent
/// was about to open or close.
unsafe extern "C" fn close_inherited() {
    for entry in ENTRIES.iter().filter(|entry| entry.taken.own() != 0) {
        let generation = entry.generation.own();
        entry.generation.publish(generation + generation % 2);
        entry.taken.publish(0);
    }
}

/// Ends a handle and gives back what was open.
pub fn remove(handle: squall_group_t) -> Result<Box<Open>, Status> {
    lookup(handle)?;
    let (entry, generation) = entry(handle)?;
    if !entry.generation.replace(generation, generation + 1) {
        return Err(Status::Closed); // somebody else has just closed it
    }
    // SAFETY: this call alone has moved the generation on, and the place is still taken: nobody
    // else looks at it (contract above).
    let open = unsafe { (*entry.open.get()).take() }.ok_or(Status::Closed);
    entry.taken.publish(0);
    open
}
