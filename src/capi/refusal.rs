// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sentences for calls that fail on a handle: cause, value, remedy.
//!
//! Everything here is cold: a call that succeeds, or answers `SQUALL_AGAIN`, pays nothing for it.

use super::group::Open;
use super::handle::{self, squall_group_t};
use super::refuse;
use super::send::lane_of;
use crate::error::{Error, Status};
use crate::limits::LANES_MAX;
use crate::mem::thread::this_thread;

/// What was to be done in a lane.
#[derive(Clone, Copy)]
pub enum Doing {
    /// Send or reserve so many bytes, as far as that is known.
    Send(usize),
    /// Publish so many bytes of what is reserved.
    Publish(u32),
    Abort,
}

/// An argument that cannot be, in the caller's words.
#[cold]
pub fn argument(detail: String) -> i32 {
    refuse(Error::new(Status::Invalid, detail))
}

/// A handle that `lookup` has refused.
#[cold]
pub fn no_group(group: squall_group_t, status: Status) -> i32 {
    let detail = match status {
        Status::Closed => format!(
            "the group of handle {group:#x} was closed, or opened before this process was forked; \
             open it again"
        ),
        _ if group == 0 => "handle 0 is no group: open one first".into(),
        _ => format!("{group:#x} is no handle that squall_group_open has given out"),
    };
    refuse(Error::new(status, detail))
}

/// Who must be alone and is not.
#[cold]
pub fn reentrant(open: &Open) -> i32 {
    let detail = match open.inside.own() == this_thread() {
        true => "called from inside a callback of this group: return from it first",
        false => {
            "another thread is polling, waiting, arming or closing this group: one at a time does"
        }
    };
    refuse(Error::new(Status::Reentrant, detail))
}

#[cold]
pub fn own_thread() -> i32 {
    let detail = "the group polls itself in a thread of its own, as SQUALL_FLAG_OWN_THREAD says: \
                  do not poll it, wait for it, arm it or ask for its descriptor";
    refuse(Error::new(Status::OwnThread, detail))
}

#[cold]
pub fn poisoned() -> i32 {
    let detail = "a bug in squall was caught in an earlier call with this group: close it";
    refuse(Error::new(Status::Panic, detail))
}

/// A turn or a wait that has failed.
#[cold]
#[inline(never)]
pub fn turning(open: &Open, code: i32) -> i32 {
    match Status::from_code(code).unwrap_or(Status::Failed) {
        Status::Panic => code, // that has been said
        Status::OwnThread => own_thread(),
        Status::Closed => forked(),
        Status::Invalid => argument(
            "the group was opened with SQUALL_IDLE_YIELD or SQUALL_IDLE_SPIN and never sleeps: open \
             it with SQUALL_IDLE_PARK to arm it"
                .into(),
        ),
        status => over(open, status),
    }
}

/// Returned from a callback in another process than it was called in.
fn forked() -> i32 {
    let detail =
        "this process was forked in a callback, and the group is its parent's: open another";
    refuse(Error::new(Status::Closed, detail))
}

/// The group has stopped, or is about to.
fn over(open: &Open, status: Status) -> i32 {
    let why = open.stopped.get().map_or(status.text(), String::as_str);
    refuse(Error::new(status, format!("{why}; close the group, and open it again to go on")))
}

/// A lane that a subgroup argument does not lead to.
#[cold]
pub fn no_lane(group: squall_group_t, subgroup: u32, status: Status) -> i32 {
    let open = match handle::lookup(group) {
        Ok(open) => open,
        Err(status) => return no_group(group, status),
    };
    let (at, lane) = lane_of(subgroup);
    let (subgroups, rank) = (open.largest.len(), open.place[0].observe());
    let detail = if lane >= LANES_MAX {
        format!("lane {lane}: a member has at most {LANES_MAX} in a subgroup")
    } else if at >= subgroups {
        format!("subgroup {at}: the group was opened with {subgroups}, counted from 0")
    } else {
        format!(
            "rank {rank} does not send in lane {lane} of subgroup {at}: its senders and lanes are \
             those given at open"
        )
    };
    refuse(Error::new(status, detail))
}

/// A lane that has refused what was to be done.
#[cold]
#[inline(never)]
pub fn sending(group: squall_group_t, subgroup: u32, status: Status, doing: Doing) -> i32 {
    let open = match handle::lookup(group) {
        Ok(open) => open,
        Err(status) => return no_group(group, status),
    };
    let (at, lane) = lane_of(subgroup);
    let largest = open.largest.get(at).copied().unwrap_or(0);
    let detail = match (status, doing) {
        (Status::TooLong, Doing::Send(len)) => format!(
            "a message of {len} bytes in subgroup {at}, whose largest is {largest}: open the group \
             with a larger message_bytes_max, or send it in parts"
        ),
        (Status::TooLong, Doing::Publish(len)) => format!(
            "{len} bytes are more than were reserved in lane {lane} of subgroup {at}: publish fewer, \
             or abort and reserve again"
        ),
        (Status::NotReserved, Doing::Send(_)) => format!(
            "a message is reserved in lane {lane} of subgroup {at}: publish or abort it first"
        ),
        (Status::NotReserved, _) => {
            format!("nothing is reserved in lane {lane} of subgroup {at}: reserve first")
        }
        (Status::Inadequate, _) => format!(
            "subgroup {at} has fewer members than its shard_members_min and waits for more: start \
             another one, and try again in the next view; nothing is lost meanwhile"
        ),
        (Status::NotSender, _) => format!(
            "this member does not send in lane {lane} of subgroup {at} in the view at hand: wait for \
             one in which it does"
        ),
        (Status::Left, _) => format!(
            "this member leaves, as it asked to: lane {lane} of subgroup {at} takes nothing more; poll \
             until SQUALL_LEFT"
        ),
        _ => return over(open, status),
    };
    refuse(Error::new(status, detail))
}
