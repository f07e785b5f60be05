// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a callback sees of a message, and the callbacks.

use super::handle::squall_group_t;
use super::place::squall_place_fn;
use super::state::{
    squall_checkpoint_close_fn, squall_checkpoint_open_fn, squall_checkpoint_read_fn,
    squall_state_load_fn,
};
use super::view::{squall_dropped_fn, squall_view_fn};
use crate::mem::Message;
use std::ffi::{c_char, c_int, c_void};
use std::mem::{offset_of, size_of};

/// A delivered message. It and its bytes are valid until the callback returns.
#[repr(C)]
#[derive(Debug)]
pub struct squall_message_t {
    /// The payload where it landed; aligned to 16. Not NULL, also if `len` is 0.
    pub bytes: *const c_void,
    /// Bytes of it.
    pub len: u32,
    /// Rank of the member that sent it.
    pub rank: u16,
    /// Its lane.
    pub lane: u8,
    /// SQUALL_MESSAGE_CATCHUP, or 0.
    pub flags: u8,
    /// Position in the total order that the subgroup has in the view at hand; grows, with gaps where a
    /// sender had nothing to say, and begins anew in every view. So what a state contains is told by
    /// two numbers, the view's `epoch` and this one; where members do not change there is one view.
    /// In *received* mode: position among its sender's messages, as far.
    pub number: u64,
    /// When the sender's polling thread took the message up: its CLOCK_MONOTONIC in nanoseconds, at
    /// most some turns old.
    pub time_ns: u64,
}

// The engine's batches are handed to C as they are.
const _: () = {
    assert!(size_of::<squall_message_t>() == size_of::<Message>() && size_of::<Message>() == 32);
    assert!(offset_of!(squall_message_t, len) == offset_of!(Message, len));
    assert!(offset_of!(squall_message_t, rank) == offset_of!(Message, rank));
    assert!(offset_of!(squall_message_t, lane) == offset_of!(Message, lane));
    assert!(offset_of!(squall_message_t, number) == offset_of!(Message, number));
    assert!(offset_of!(squall_message_t, time_ns) == offset_of!(Message, time_ns));
};

/// Receives a batch of a subgroup, in delivery order; `count` is 1 to SQUALL_BATCH_MAX.
pub type squall_deliver_fn = Option<
    unsafe extern "C" fn(
        user: *mut c_void,
        group: squall_group_t,
        subgroup: u32,
        messages: *const squall_message_t,
        count: u32,
    ),
>;

/// Receives one message of a subgroup, in delivery order.
pub type squall_message_fn = Option<
    unsafe extern "C" fn(
        user: *mut c_void,
        group: squall_group_t,
        subgroup: u32,
        message: *const squall_message_t,
    ),
>;

/// Hears once that the group has stopped: why, which rank is the cause (-1: none), and a sentence
/// that is valid until it returns.
pub type squall_stopped_fn = Option<
    unsafe extern "C" fn(
        user: *mut c_void,
        group: squall_group_t,
        status: c_int,
        rank: i32,
        text: *const c_char,
    ),
>;

/// Hears that senders of a subgroup have waited so many nanoseconds for a member that made no progress
/// at all; again after each such time. Only where the subgroup has SQUALL_LAG_REPORT; or
/// SQUALL_LAG_EVICT, and without that member there would be no majority.
pub type squall_lags_fn = Option<
    unsafe extern "C" fn(
        user: *mut c_void,
        group: squall_group_t,
        subgroup: u32,
        rank: u32,
        for_ns: u64,
    ),
>;

/// What a group calls. Where a callback says nothing else, it runs on the thread that polls: inside
/// `squall_poll`, or on the group's own thread; and before a joiner's first view inside
/// `squall_group_open`, where `group` may not be used yet. After that they may send; they may not
/// poll, wait, arm or close (`SQUALL_REENTRANT`). No exception and no longjmp may leave them.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct squall_callbacks_t {
    /// Set by `squall_callbacks_init`.
    pub size: u32,
    /// Reserved: 0.
    pub reserved: u32,
    /// Handed to each callback.
    pub user: *mut c_void,
    /// Batches. Takes precedence over `message`.
    pub deliver: squall_deliver_fn,
    /// Single messages, a convenience.
    pub message: squall_message_fn,
    /// May be NULL.
    pub stopped: squall_stopped_fn,
    /// May be NULL.
    pub view: squall_view_fn,
    /// May be NULL.
    pub dropped: squall_dropped_fn,
    /// May be NULL, all three together: there is no state; a process with `state_load` cannot join
    /// then.
    pub checkpoint_open: squall_checkpoint_open_fn,
    pub checkpoint_read: squall_checkpoint_read_fn,
    /// May be NULL if nothing is to be given back.
    pub checkpoint_close: squall_checkpoint_close_fn,
    /// May be NULL: with SQUALL_FLAG_JOIN this process joins without a state then.
    pub state_load: squall_state_load_fn,
    /// May be NULL: the library places members in shards.
    pub place: squall_place_fn,
    /// May be NULL: SQUALL_LAG_REPORT does nothing then.
    pub lags: squall_lags_fn,
}
