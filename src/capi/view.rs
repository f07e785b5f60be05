// SPDX-License-Identifier: MIT OR Apache-2.0
//! Groups whose members change, as C sees them: the view callback, and what one may ask for.

use super::handle::{self, squall_group_t};
use super::{guard, refusal, refuse};
use crate::driver::control::Control;
use crate::driver::views::{MemberInfo, ViewInfo};
use crate::error::{Error, Fault, Status};
use crate::group::view::Part;
use std::ffi::{CString, c_char, c_int, c_void};

/// The members are those of the attributes; the first loss ends the group.
pub const SQUALL_MEMBERSHIP_FIXED: u32 = 0;
/// Whoever fails or leaves is dropped and the others go on, as long as they are a majority of those
/// that there were; others may join (SQUALL_FLAG_JOIN).
pub const SQUALL_MEMBERSHIP_VIEWS: u32 = 1;

/// A member of a view.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct squall_member_t {
    /// Of this process and this opening of the group only; never 0.
    pub incarnation: u64,
    /// Its place on this host: who founded the group has its first rank.
    pub seat: u32,
    /// Reserved: 0.
    pub reserved: u32,
}

/// Who was a member of the view before, and is no more.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct squall_departed_t {
    pub incarnation: u64,
    pub seat: u32,
    /// SQUALL_PEER_LEFT, SQUALL_PEER_LOST or SQUALL_PEER_FAULT.
    pub status: i32,
    /// Why, in a sentence.
    pub text: *const c_char,
}

/// A subgroup of a view: ranks, ascending.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct squall_shard_t {
    pub members: *const u16,
    pub senders: *const u16,
    pub member_count: u32,
    pub sender_count: u32,
}

/// Which part of the attributes a subgroup of a view is, and whether it has its members.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct squall_part_t {
    /// Index of the subgroup in the attributes, and which of its shards, from 0.
    pub of: u32,
    pub shard: u32,
    /// How many members it lacks: it has so many fewer than `shard_members_min`. As long as it does it
    /// waits: sends there answer SQUALL_INADEQUATE, nothing is delivered, and what was sent and not
    /// delivered is kept for the view in which it has enough.
    pub lacks: u32,
    /// Reserved: 0.
    pub reserved: u32,
}

/// A view: valid until the callback returns.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct squall_view_t {
    /// Bytes that the library has written; later versions write more.
    pub size: u32,
    /// My rank in it.
    pub rank: u32,
    /// The view's number; it grows by one.
    pub epoch: u64,
    /// By rank.
    pub members: *const squall_member_t,
    /// Ranks that were not in the view before; in the first one, all.
    pub joined: *const u16,
    /// Who is no more.
    pub departed: *const squall_departed_t,
    /// By subgroup: each shard is one, numbered through.
    pub subgroups: *const squall_shard_t,
    pub member_count: u32,
    pub joined_count: u32,
    pub departed_count: u32,
    pub subgroup_count: u32,
    /// By subgroup.
    pub parts: *const squall_part_t,
}

/// Hears that a view begins: after the last message of the one before, before its own first. Only with
/// SQUALL_MEMBERSHIP_VIEWS; then of the first view, too.
pub type squall_view_fn = Option<
    unsafe extern "C" fn(user: *mut c_void, group: squall_group_t, view: *const squall_view_t),
>;

/// Hears of a message of mine that was accepted and that no view takes any more: which lane of which
/// subgroup, what `squall_send` answered for it, its bytes (valid until it returns), and why. On the
/// thread that polls, before `stopped`; in `squall_group_close` on the one that closes.
///
/// SQUALL_NOT_SENDER (this member does not send there in the new view), SQUALL_TOO_LONG (its largest
/// message is smaller there), SQUALL_LEFT (it was alone, and closed; or it has left while the subgroup
/// lacked members): it is delivered at no member that goes on; where messages are delivered on receipt
/// (SQUALL_MODE_RECEIVED), at none that has not had it before, as some may have, this one too.
/// SQUALL_EXPELLED, SQUALL_PARTITIONED, SQUALL_EXHAUSTED, SQUALL_NO_MEMORY,
/// SQUALL_LIMIT, SQUALL_SYSTEM (it is over for this member), SQUALL_TIMED_OUT (`squall_group_close`
/// has waited for a second): this member did not see it delivered; others may have it all the same.
pub type squall_dropped_fn = Option<
    unsafe extern "C" fn(
        user: *mut c_void,
        group: squall_group_t,
        subgroup: u32,
        ordinal: u64,
        bytes: *const c_void,
        len: u32,
        status: c_int,
    ),
>;

/// Calls `tell` with a view as C sees it.
pub(super) fn with_view(view: &ViewInfo, tell: impl FnOnce(&squall_view_t)) {
    let member = |of: &MemberInfo| squall_member_t {
        incarnation: of.incarnation,
        seat: of.seat.into(),
        reserved: 0,
    };
    let members: Vec<squall_member_t> = view.members.iter().map(member).collect();
    let text = |fault: &Fault| CString::new(fault.to_string()).unwrap_or_default();
    let texts: Vec<CString> = view.left.iter().map(|(_, fault)| text(fault)).collect();
    let departed = view.left.iter().zip(&texts).map(|((of, fault), text)| squall_departed_t {
        incarnation: of.incarnation,
        seat: of.seat.into(),
        status: status_of(fault) as i32,
        text: text.as_ptr(),
    });
    let departed: Vec<squall_departed_t> = departed.collect();
    let shard = |(members, senders): &(Vec<u16>, Vec<u16>)| squall_shard_t {
        members: members.as_ptr(),
        senders: senders.as_ptr(),
        member_count: members.len() as u32,
        sender_count: senders.len() as u32,
    };
    let subgroups: Vec<squall_shard_t> = view.subgroups.iter().map(shard).collect();
    let part = |of: &Part| squall_part_t {
        of: of.of.into(),
        shard: of.shard.into(),
        lacks: of.lacks.into(),
        reserved: 0,
    };
    let parts: Vec<squall_part_t> = view.parts.iter().map(part).collect();
    tell(&squall_view_t {
        size: size_of::<squall_view_t>() as u32,
        rank: view.rank.into(),
        epoch: view.epoch,
        members: members.as_ptr(),
        joined: view.joined.as_ptr(),
        departed: departed.as_ptr(),
        subgroups: subgroups.as_ptr(),
        member_count: members.len() as u32,
        joined_count: view.joined.len() as u32,
        departed_count: departed.len() as u32,
        subgroup_count: subgroups.len() as u32,
        parts: parts.as_ptr(),
    });
}

/// What happened to a member that is gone.
fn status_of(fault: &Fault) -> Status {
    match fault {
        Fault::Left { .. } => Status::PeerLeft,
        Fault::Regressed { .. }
        | Fault::BadWord { .. }
        | Fault::BadSlot { .. }
        | Fault::Disagrees => Status::PeerFault,
        _ => Status::PeerLost,
    }
}

fn asking(group: squall_group_t, ask: impl FnOnce(&Control)) -> c_int {
    guard(|| match handle::lookup(group) {
        Ok(open) => match &open.control {
            Some(control) => {
                ask(control);
                Status::Ok as c_int
            }
            None => {
                let detail = "the group's members do not change: open it with \
                              SQUALL_MEMBERSHIP_VIEWS";
                refuse(Error::new(Status::Invalid, detail))
            }
        },
        Err(status) => refusal::no_group(group, status),
    })
}

/// Leave in good order: what this member has sent is delivered by all first, however long that takes.
/// Returns at once; poll on until SQUALL_LEFT. (`squall_group_close` does the same, for a second, and
/// delivers nothing more here.)
///
/// When this has returned every send, in whatever thread, is refused with SQUALL_LEFT (or with
/// SQUALL_AGAIN while a view changes); what is reserved cannot be published any more, only aborted. A
/// send that is under way may still be accepted. What was accepted is delivered at the members that
/// stay and at this one before it goes; or, if its part ends otherwise (SQUALL_EXPELLED ...), given
/// to `dropped` before `stopped` is called: nothing is lost without a word. To ask twice does nothing.
///
/// @return SQUALL_OK, SQUALL_INVALID (members do not change), SQUALL_PANIC, SQUALL_NO_HANDLE,
///         SQUALL_CLOSED.
///
/// Threads: any, callbacks too. Since: 0.1
#[unsafe(no_mangle)]
pub extern "C" fn squall_leave(group: squall_group_t) -> c_int {
    asking(group, Control::leave)
}

/// Report that a member has failed: the group goes on without it, and if it lives it hears
/// SQUALL_EXPELLED. That cannot be taken back.
///
/// @param incarnation  Of the member, as the view callback named it; of no member: nothing happens.
/// @return As `squall_leave`.
///
/// Threads: any, callbacks too. Since: 0.1
#[unsafe(no_mangle)]
pub extern "C" fn squall_report(group: squall_group_t, incarnation: u64) -> c_int {
    asking(group, |control| control.report(incarnation))
}

/// Say that this process is alive: from inside a callback that takes long, at least twice in the time
/// to suspicion. A polling group does so by itself.
///
/// @return As `squall_leave`.
///
/// Threads: any, meant for the one that polls. Cost: a lock that nobody holds for longer than such a
/// call takes, a look at the clock and an atomic instruction. Since: 0.1
#[unsafe(no_mangle)]
pub extern "C" fn squall_keep_alive(group: squall_group_t) -> c_int {
    asking(group, Control::keep_alive)
}
