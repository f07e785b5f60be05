// SPDX-License-Identifier: MIT OR Apache-2.0
//! Puts and gets, as C sees them, and what came of them.

use super::attr;
use super::handle::{self, squall_group_t};
use super::memory::{invalid, squall_memory_t, squall_ticket_t, with};
use super::refusal;
use crate::error::{Error, Status};
use crate::mem::thread::this_thread;
use crate::registered::{Access, Completion, Ticket, What};
use std::ffi::c_int;
use std::mem::size_of;
use std::time::Duration;

/// A completion is that of a put of this member's;
pub const SQUALL_DONE_PUT: u32 = 1;
/// or of a get;
pub const SQUALL_DONE_GET: u32 = 2;
/// or somebody has put something into memory of this member, and announced it.
pub const SQUALL_ANNOUNCED: u32 = 3;
const _: () = assert!(SQUALL_DONE_PUT == What::Put as u32 && SQUALL_DONE_GET == What::Get as u32);
const _: () = assert!(SQUALL_ANNOUNCED == What::Announced as u32);

/// In `flags` of an access, a put's: its owner hears of it, with `word`.
pub const SQUALL_ACCESS_ANNOUNCE: u32 = 1;

/// A put or a get: between memory of this member's and that of a ticket.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct squall_access_t {
    /// Set by `squall_access_init`.
    pub size: u32,
    /// `SQUALL_ACCESS_ANNOUNCE`.
    pub flags: u32,
    /// This member's, and where in it.
    pub memory: squall_memory_t,
    pub offset: u64,
    /// The other one's, and where in it. Copied.
    pub ticket: *const squall_ticket_t,
    pub ticket_offset: u64,
    /// Bytes; 0 is allowed.
    pub length: u64,
    /// Comes back with the completion.
    pub tag: u64,
    /// With `SQUALL_ACCESS_ANNOUNCE`: what its owner gets.
    pub word: u64,
}

/// An operation of this member's that is over, or an announcement.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct squall_completion_t {
    /// `tag` of the access; 0 of an announcement.
    pub tag: u64,
    /// Who owns the ticket's memory; of an announcement, who has put it.
    pub incarnation: u64,
    /// This member's memory, and where in it.
    pub memory: squall_memory_t,
    pub offset: u64,
    pub length: u64,
    /// Of an announcement.
    pub word: u64,
    /// SQUALL_OK: of a put, the bytes are visible to whoever hears of it from now on, at their owner's,
    /// and for memory of a device to work that begins from now on; of a get, they are here. Or
    /// SQUALL_GONE, SQUALL_NO_REGION, SQUALL_DENIED, SQUALL_INVALID (beyond the memory's end),
    /// SQUALL_SYSTEM (it is not there), or why the group is over; then the bytes are undefined.
    pub status: i32,
    /// `SQUALL_DONE_PUT`, `SQUALL_DONE_GET`, `SQUALL_ANNOUNCED`.
    pub what: u32,
    /// Reserved: 0.
    pub reserved: u64,
}

/// Makes `access` the default.
///
/// @param access  May be NULL: nothing happens.
/// @param size    sizeof *access.
///
/// Threads: any. Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn squall_access_init(access: *mut squall_access_t, size: u32) {
    // SAFETY: the caller says that `size` bytes are there.
    unsafe { attr::init(access.cast(), size) }
}

/// Bytes of the struct in version 1; smaller ones are refused.
const ACCESS_V1: usize = 64;
const _: () = assert!(size_of::<squall_access_t>() == ACCESS_V1);
const _: () = assert!(size_of::<squall_completion_t>() == 64);

/// Write bytes of this member's memory to where a ticket says. Never blocks.
///
/// Operations of this member's on memory of one other are carried out in the order of these calls, and
/// complete in it; before it has completed, none has an order against messages.
///
/// @param access  What; copied. The bytes must stay as they are until it has completed.
/// @return SQUALL_OK: it will complete (`squall_memory_poll`), whatever happens; or
///         SQUALL_AGAIN    1024 operations have not been polled for: do that, then try again;
///         SQUALL_INVALID, SQUALL_WRONG_SIZE  an argument, or a range; as `squall_memory_register`;
///         SQUALL_WIRE_VERSION  the ticket is of another version;
///         SQUALL_DENIED   the memory may not be used so by others;
///         SQUALL_GONE     its owner is no member any more;
///         SQUALL_EXPELLED, SQUALL_PARTITIONED, SQUALL_LEFT and others: why the group is over;
///         SQUALL_PANIC, SQUALL_NO_HANDLE, SQUALL_CLOSED.
///
/// Threads: any, and callbacks. Cost: a lock for some instructions; now and then a system call. A put
/// delays no message; the first one to a member opens a connection, which takes a turn of both. Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn squall_memory_put(
    group: squall_group_t,
    access: *const squall_access_t,
) -> c_int {
    with(group, |memories| {
        // SAFETY: the caller's promise is that of `access_of`.
        let access = unsafe { access_of(access)? };
        memories.put(&access).map(|()| 0)
    })
}

/// Read bytes from where a ticket says into this member's memory. Never blocks.
///
/// @param access  What; copied. Until it has completed, what is in this member's memory is undefined.
/// @return As `squall_memory_put`.
///
/// Threads: any, and callbacks. Cost: as `squall_memory_put`. Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn squall_memory_get(
    group: squall_group_t,
    access: *const squall_access_t,
) -> c_int {
    with(group, |memories| {
        // SAFETY: the caller's promise is that of `access_of`.
        let access = unsafe { access_of(access)? };
        if access.announce.is_some() {
            return invalid("access.flags has SQUALL_ACCESS_ANNOUNCE, which is for a put");
        }
        memories.get(&access).map(|()| 0)
    })
}

/// # Safety
/// `at` is NULL, or begins with its size and has so many bytes; `ticket` in it is NULL, or points to one.
unsafe fn access_of(at: *const squall_access_t) -> Result<Access, Error> {
    // SAFETY: the caller's promise is ours.
    let given = unsafe { attr::adopt(at, ACCESS_V1, "access")? };
    if given.flags & !SQUALL_ACCESS_ANNOUNCE != 0 {
        return invalid(format!("access.flags has unknown bits: {:#x}", given.flags));
    }
    if given.ticket.is_null() {
        return invalid("access.ticket is NULL");
    }
    // SAFETY: not NULL: it points to one.
    let words = unsafe { given.ticket.read_unaligned() }.words;
    let announces = given.flags & SQUALL_ACCESS_ANNOUNCE != 0;
    Ok(Access {
        region: given.memory,
        offset: given.offset,
        ticket: Ticket::from_words(words)?,
        at: given.ticket_offset,
        bytes: given.length,
        tag: given.tag,
        announce: announces.then_some(given.word),
    })
}

/// Completions that one call takes at the most.
const POLLED_MAX: usize = 64;

/// Take what is over, and what others have announced. Never blocks.
///
/// @param completions  Gets them.
/// @param most         How many have room there; one call takes 64 at the most.
/// @return How many (>= 0), also when the group is over; or SQUALL_INVALID, SQUALL_PANIC,
///         SQUALL_NO_HANDLE, SQUALL_CLOSED.
///
/// Threads: any, and callbacks. With SQUALL_IDLE_PARK `squall_wait` returns when there is something.
/// Cost: one load if there is nothing. Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn squall_memory_poll(
    group: squall_group_t,
    completions: *mut squall_completion_t,
    most: u32,
) -> c_int {
    with(group, |memories| {
        if completions.is_null() && most > 0 {
            return invalid("completions is NULL");
        }
        if !memories.is_there() {
            return Ok(0);
        }
        let mut taken = [Completion::NONE; POLLED_MAX];
        let most = POLLED_MAX.min(most as usize);
        let count = memories.poll(&mut taken[..most]);
        for (at, completion) in taken[..count].iter().enumerate() {
            // SAFETY: `at` is below `most`, and the caller says that so many can be written.
            unsafe { completions.add(at).write_unaligned(shown(completion)) };
        }
        Ok(count as i32)
    })
}

fn shown(of: &Completion) -> squall_completion_t {
    squall_completion_t {
        tag: of.tag,
        incarnation: of.incarnation,
        memory: of.region,
        offset: of.offset,
        length: of.bytes,
        word: of.word,
        status: of.status as i32,
        what: of.what as u32,
        reserved: 0,
    }
}

/// Wait until `squall_memory_poll` would find something, or the group is over.
///
/// For threads beside the one that polls the group: without turns nothing is opened. That one calls
/// `squall_wait`.
///
/// @param timeout_ms  At the most; negative: for ever.
/// @return SQUALL_OK, or
///         SQUALL_TIMED_OUT  nothing came in that time;
///         SQUALL_REENTRANT  from inside a callback;
///         SQUALL_INVALID    as `squall_memory_register`;
///         why the group is over; SQUALL_PANIC, SQUALL_NO_HANDLE, SQUALL_CLOSED.
///
/// Threads: any but the one that polls. Since: 0.1
#[unsafe(no_mangle)]
pub extern "C" fn squall_memory_wait(group: squall_group_t, timeout_ms: i32) -> c_int {
    with(group, |memories| {
        if let Ok(open) = handle::lookup(group)
            && open.inside.own() == this_thread()
        {
            return Ok(refusal::reentrant(open));
        }
        let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
        match memories.wait(timeout) {
            Ok(true) => Ok(0),
            Ok(false) => Ok(Status::TimedOut as c_int),
            Err(over) => Err(over),
        }
    })
}
