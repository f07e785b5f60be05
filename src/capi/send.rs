// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sending: whole, in pieces, or in place.
//!
//! A lane belongs to one thread at a time and nothing else of the group is touched, so a sender in
//! another thread than the poller needs no lock.

use super::handle::{self, squall_group_t};
use super::refusal::{self, Doing};
use super::{guard, guard_count};
use crate::driver::group::Sender;
use crate::error::Status;
use crate::limits::LANES_MAX;
use std::ffi::{c_int, c_void};

/// Bits of a subgroup argument below the lane.
const LANE_SHIFT: u32 = 16;

/// Subgroup and lane of a subgroup argument.
#[inline(always)]
pub(super) fn lane_of(subgroup: u32) -> (usize, usize) {
    ((subgroup & ((1 << LANE_SHIFT) - 1)) as usize, (subgroup >> LANE_SHIFT) as usize)
}

/// The lane that a subgroup argument means.
///
/// # Safety
/// One thread per lane at a time: the contract of the header.
#[inline(always)]
#[allow(clippy::mut_from_ref, reason = "the lane belongs to the calling thread")]
unsafe fn lane(group: squall_group_t, subgroup: u32) -> Result<&'static mut Sender, Status> {
    let open = handle::lookup(group)?;
    let (subgroup, lane) = lane_of(subgroup);
    if lane >= LANES_MAX {
        return Err(Status::NotSender);
    }
    let at = subgroup * LANES_MAX + lane;
    let Some(sender) = open.senders.get(at) else { return Err(Status::Invalid) };
    // SAFETY: the caller's thread is the only one in this lane.
    unsafe { &mut *sender.get() }.as_mut().ok_or(Status::NotSender)
}

/// An ordinal, or the refusal and why.
#[inline(always)]
fn answer(
    outcome: Result<u64, Status>,
    (group, subgroup): (squall_group_t, u32),
    doing: impl FnOnce() -> Doing,
) -> i64 {
    match outcome {
        Ok(ordinal) => ordinal as i64,
        Err(Status::Again) => Status::Again as i64,
        Err(status) => refusal::sending(group, subgroup, status, doing()).into(),
    }
}

/// A NULL that should not be one.
#[cold]
fn null(what: &str, number: &str, value: usize) -> i64 {
    refusal::argument(format!("{what} is NULL, but {number} is {value}")).into()
}

/// Send `len` bytes to every member of a subgroup, in the subgroup's total order.
///
/// Copies the bytes into the next slot; never blocks. The message is delivered at every member of
/// the subgroup, this one included, at the same place of the order. Where members change and that
/// cannot be, `dropped` gets it back.
///
/// @param group     Open group.
/// @param subgroup  Index in the list given at open, or SQUALL_LANE(index, lane).
/// @param bytes     May be NULL only if `len` is 0.
/// @param len       Bytes; at most `message_bytes_max`.
/// @return The message's ordinal in its lane (>= 0), or
///         SQUALL_AGAIN       no free slot, or a view change is under way: poll, then try again;
///         SQUALL_TOO_LONG    `len` exceeds `message_bytes_max`;
///         SQUALL_INADEQUATE  the subgroup waits for members: try again in the next view;
///         SQUALL_NOT_SENDER  this member does not send in that subgroup or lane, where members change:
///                            in the view at hand;
///         SQUALL_NOT_RESERVED  a message is reserved in that lane: publish or abort it first;
///         SQUALL_PEER_LOST, SQUALL_PEER_FAULT, SQUALL_PEER_LEFT, SQUALL_FAILED  the group is over;
///         SQUALL_LEFT        where members change: this one leaves, as `squall_leave` asked;
///         SQUALL_EXPELLED, SQUALL_PARTITIONED, SQUALL_EXHAUSTED, SQUALL_NO_MEMORY, SQUALL_LIMIT,
///         SQUALL_SYSTEM, SQUALL_NOT_COMPLETE  it is over for this one, as `squall_poll` says;
///         SQUALL_INVALID, SQUALL_PANIC, SQUALL_NO_HANDLE, SQUALL_CLOSED.
///
/// Threads:   one sending thread per lane at a time; may run beside squall_poll.
/// Ownership: `bytes` may be reused when the call returns.
/// Order:     none between subgroups; within a lane as sent.
/// Cost:      one copy of `len` bytes; no system call, except one bell if the poller sleeps.
/// Since:     0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn squall_send(
    group: squall_group_t,
    subgroup: u32,
    bytes: *const c_void,
    len: u32,
) -> i64 {
    guard_count(|| {
        // SAFETY: the caller keeps to one thread per lane.
        if let Ok(sender) = unsafe { lane(group, subgroup) }
            && !bytes.is_null()
        {
            // SAFETY: the caller says that `len` bytes are there, and it is not NULL.
            let bytes = unsafe { std::slice::from_raw_parts(bytes.cast(), len as usize) };
            if let Some(ordinal) = sender.send_easily(bytes) {
                return ordinal as i64;
            }
        }
        // SAFETY: the caller's promises are those of this function.
        unsafe { send_slowly(group, subgroup, bytes, len) }
    })
}

/// `squall_send` where something needs a closer look.
///
/// # Safety
/// As for `squall_send`.
#[inline(never)]
unsafe fn send_slowly(group: squall_group_t, subgroup: u32, bytes: *const c_void, len: u32) -> i64 {
    // SAFETY: the caller keeps to one thread per lane.
    let sender = match unsafe { lane(group, subgroup) } {
        Ok(sender) => sender,
        Err(status) => return refusal::no_lane(group, subgroup, status).into(),
    };
    // SAFETY: the caller says that `len` bytes are there.
    match unsafe { slice(bytes, len as usize) } {
        Some(bytes) => answer(sender.send(bytes), (group, subgroup), || Doing::Send(len as usize)),
        None => null("bytes", "len", len as usize),
    }
}

/// # Safety
/// `bytes` points to `len` readable bytes, or is NULL.
#[inline(always)]
unsafe fn slice<'a>(bytes: *const c_void, len: usize) -> Option<&'a [u8]> {
    if bytes.is_null() {
        return (len == 0).then_some(&[]);
    }
    // SAFETY: as promised, and not NULL.
    Some(unsafe { std::slice::from_raw_parts(bytes.cast(), len) })
}

/// One piece of a gathered message.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct squall_piece_t {
    /// May be NULL only if `len` is 0.
    pub bytes: *const c_void,
    pub len: usize,
}

/// No slice may be that long, no message is, and the sum of 64 shorter ones does not overflow.
#[inline(always)]
fn is_endless(piece: &squall_piece_t) -> bool {
    !piece.bytes.is_null() && piece.len > u32::MAX as usize
}

/// Pieces of one gathered message.
const PIECES_MAX: usize = 64;

/// Send one message that lies in several pieces, as if they were adjoining.
///
/// @param pieces  At most 64; may be NULL only if `count` is 0.
/// @return As `squall_send`.
///
/// Threads, ownership, order, cost: as `squall_send`. Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn squall_sendv(
    group: squall_group_t,
    subgroup: u32,
    pieces: *const squall_piece_t,
    count: u32,
) -> i64 {
    guard_count(|| {
        // SAFETY: the caller keeps to one thread per lane.
        let sender = match unsafe { lane(group, subgroup) } {
            Ok(sender) => sender,
            Err(status) => return refusal::no_lane(group, subgroup, status).into(),
        };
        let count = count as usize;
        if count > PIECES_MAX {
            let detail = format!("{count} pieces: at most {PIECES_MAX} make a message");
            return refusal::argument(detail).into();
        }
        if pieces.is_null() && count > 0 {
            return null("pieces", "count", count);
        }
        let mut parts: [&[u8]; PIECES_MAX] = [&[]; PIECES_MAX];
        for (at, part) in parts.iter_mut().enumerate().take(count) {
            // SAFETY: the caller says that `count` pieces are there, and their bytes.
            let piece = unsafe { pieces.add(at).read() };
            if is_endless(&piece) {
                return answer(Err(Status::TooLong), (group, subgroup), || Doing::Send(piece.len));
            }
            // SAFETY: as above.
            match unsafe { slice(piece.bytes, piece.len) } {
                Some(bytes) => *part = bytes,
                None => return null(&format!("pieces[{at}].bytes"), "its len", piece.len),
            }
        }
        let parts = &parts[..count];
        let total = || Doing::Send(parts.iter().map(|part| part.len()).sum());
        answer(sender.send_parts(parts), (group, subgroup), total)
    })
}

/// Send several messages, one after the other, as many as there is room for.
///
/// @param messages  Each piece is a message of its own; may be NULL only if `count` is 0.
/// @return How many were sent, from the first on (> 0, or 0 if `count` is 0), or, if the first could
///         not be sent, what `squall_send` answers for it.
///
/// Threads, ownership, order: as `squall_send`. Cost: that of the copies, nearly. Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn squall_send_many(
    group: squall_group_t,
    subgroup: u32,
    messages: *const squall_piece_t,
    count: u32,
) -> i64 {
    guard_count(|| {
        // SAFETY: the caller keeps to one thread per lane.
        let sender = match unsafe { lane(group, subgroup) } {
            Ok(sender) => sender,
            Err(status) => return refusal::no_lane(group, subgroup, status).into(),
        };
        if messages.is_null() {
            return if count == 0 { 0 } else { null("messages", "count", count as usize) };
        }
        // SAFETY: the caller says that `count` pieces are there.
        let piece = |at: usize| unsafe { messages.add(at).read() };
        // What no message can be ends the row, and so does a NULL with a length.
        let each = (0..count as usize).map_while(|at| {
            let piece = piece(at);
            if piece.len > u32::MAX as usize {
                return None;
            }
            // SAFETY: the caller says that the bytes of a piece are there.
            unsafe { slice(piece.bytes, piece.len) }
        });
        match sender.send_many(each) {
            (0, Ok(())) if count > 0 && !is_endless(&piece(0)) => {
                null("messages[0].bytes", "its len", piece(0).len)
            }
            (0, outcome) if count > 0 => {
                let refused = Err(outcome.err().unwrap_or(Status::TooLong));
                answer(refused, (group, subgroup), || Doing::Send(piece(0).len))
            }
            (sent, _) => sent as i64,
        }
    })
}

/// Lend the next slot of a lane, to be filled in place; then `squall_publish` or `squall_abort`.
///
/// A reserved slot that is never published delays nobody.
///
/// @param len    Bytes wanted; at most `message_bytes_max`.
/// @param bytes  Gets where to write, on success only; aligned to 16.
/// @return SQUALL_OK, or as `squall_send`.
///
/// Threads:   as `squall_send`.
/// Ownership: the bytes are the caller's until publish or abort, also while others poll.
/// Cost:      no copy. Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn squall_reserve(
    group: squall_group_t,
    subgroup: u32,
    len: u32,
    bytes: *mut *mut c_void,
) -> c_int {
    guard(|| {
        // SAFETY: the caller keeps to one thread per lane.
        let sender = match unsafe { lane(group, subgroup) } {
            Ok(sender) => sender,
            Err(status) => return refusal::no_lane(group, subgroup, status),
        };
        if bytes.is_null() {
            return refusal::argument("bytes is NULL: it gets the address of the slot".into());
        }
        match sender.reserve(len) {
            Ok(lent) => {
                // SAFETY: not NULL, and the caller says that it can be written.
                unsafe { bytes.write(lent.as_mut_ptr().cast()) };
                Status::Ok as c_int
            }
            Err(Status::Again) => Status::Again as c_int,
            Err(status) => refusal::sending(group, subgroup, status, Doing::Send(len as usize)),
        }
    })
}

/// Send the first `len` bytes of what is reserved in a lane.
///
/// @param len  At most what was reserved.
/// @return The message's ordinal in its lane (>= 0), or
///         SQUALL_NOT_RESERVED  nothing is reserved;
///         SQUALL_TOO_LONG      more than was reserved, or, if members have changed since, than the new
///                              view's largest;
///         SQUALL_AGAIN         members have changed since it was reserved, or do so now, and there is no
///                              room: poll, then try again;
///         SQUALL_NOT_SENDER    and this member does not send in that lane any more;
///         or why no message is accepted any more, and what else is wrong, as `squall_send`.
///         Whatever it is, what is reserved stays so.
///
/// Threads: as `squall_send`. Since: 0.1
#[unsafe(no_mangle)]
pub extern "C" fn squall_publish(group: squall_group_t, subgroup: u32, len: u32) -> i64 {
    // SAFETY: the caller keeps to one thread per lane.
    guard_count(|| match unsafe { lane(group, subgroup) } {
        Ok(sender) => answer(sender.publish(len), (group, subgroup), || Doing::Publish(len)),
        Err(status) => refusal::no_lane(group, subgroup, status).into(),
    })
}

/// Give a reserved slot back. No member ever hears of it.
///
/// @return SQUALL_OK, SQUALL_NOT_RESERVED, SQUALL_INVALID (no such subgroup), SQUALL_NOT_SENDER (no
///         such lane), SQUALL_PANIC, SQUALL_NO_HANDLE, SQUALL_CLOSED.
///
/// Threads: as `squall_send`. Since: 0.1
#[unsafe(no_mangle)]
pub extern "C" fn squall_abort(group: squall_group_t, subgroup: u32) -> c_int {
    // SAFETY: the caller keeps to one thread per lane.
    guard(|| match unsafe { lane(group, subgroup) } {
        Ok(sender) => match sender.abort() {
            Ok(()) => Status::Ok as c_int,
            Err(status) => refusal::sending(group, subgroup, status, Doing::Abort),
        },
        Err(status) => refusal::no_lane(group, subgroup, status),
    })
}
