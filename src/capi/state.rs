// SPDX-License-Identifier: MIT OR Apache-2.0
//! State transfer, as C sees it: what a member gives, and what one that joins takes.

use super::attr;
use super::group::Trampoline;
use super::handle::squall_group_t;
use crate::error::{Error, Status};
use crate::mem::Message;
use crate::mem::thread::this_thread;
use crate::transfer::{CATCHUP, Checkpoint, Options, StateSink, StateSource, Version};
use std::ffi::{c_int, c_void};
use std::mem::size_of;
use std::ptr::null_mut;
use std::time::Duration;

/// In `flags` of a message: it was delivered before this process was a member, after the state that it
/// has got was fixed. Apply it like any other.
pub const SQUALL_MESSAGE_CATCHUP: u8 = 1;
const _: () = assert!(SQUALL_MESSAGE_CATCHUP == CATCHUP);

/// `state_load`: a state is coming; `bytes` is a `squall_version_t`. If something came before, it is
/// void, with all messages after it: the source has failed, or had to start over.
pub const SQUALL_STATE_BEGIN: u32 = 0;
/// `state_load`: the next `len` bytes of it, cut anywhere.
pub const SQUALL_STATE_CHUNK: u32 = 1;
/// `state_load`: that was all, and it came as it was sent; `bytes` is NULL. Messages follow.
pub const SQUALL_STATE_LOADED: u32 = 2;
/// `state_load`: the group has gone to another view, still without this process; `bytes` is a
/// `squall_version_t`. Ranks of messages are those of this view from now on.
pub const SQUALL_STATE_VIEW: u32 = 3;

/// How far a state is in one subgroup.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct squall_position_t {
    /// Messages of the view `epoch` with smaller numbers are in the state, and all of earlier views; with
    /// SQUALL_MODE_RECEIVED it means nothing.
    pub number: u64,
    pub subgroup: u32,
    /// 1: the subgroup has one order (SQUALL_MODE_STABLE).
    pub ordered: u32,
}

/// What a state contains: valid until the callback returns.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct squall_version_t {
    /// Bytes that the library has written; later versions write more.
    pub size: u32,
    pub position_count: u32,
    /// The view's number.
    pub epoch: u64,
    /// The subgroups whose state this is, ascending: those in which the one that joins will be and the
    /// member that gives the state is, each shard one. Those of other subgroups are not part of it.
    pub positions: *const squall_position_t,
    /// Incarnations of the view's members, by rank.
    pub members: *const u64,
    pub member_count: u32,
    /// Reserved: 0.
    pub reserved: u32,
}

/// Fixes the state as it is now, for one that joins: after all messages that have been delivered, and
/// none beyond. The group of this member stands still until it returns, and all wait for it: copy on
/// write, fork a child that writes to a pipe, or give out a version that is kept anyway.
///
/// Puts what stands for it at `checkpoint` (not NULL) and answers SQUALL_OK; or a negative status,
/// which ends this transfer and nothing else. Runs on the thread that polls.
pub type squall_checkpoint_open_fn = Option<
    unsafe extern "C" fn(
        user: *mut c_void,
        group: squall_group_t,
        version: *const squall_version_t,
        checkpoint: *mut *mut c_void,
    ) -> c_int,
>;

/// Puts the next bytes of a checkpoint at `place`, at most `len` (256 KiB or less), and answers how
/// many; 0 is the end. Or a negative status, which ends this transfer and nothing else.
///
/// Runs on a thread of the transfer, beside everything else; it may take its time, but no longer than
/// `patience_ms` of the one that joins (`squall_transfer_attr_t`; 30 s). It may not call the library.
pub type squall_checkpoint_read_fn = Option<
    unsafe extern "C" fn(
        user: *mut c_void,
        checkpoint: *mut c_void,
        place: *mut c_void,
        len: u32,
    ) -> i64,
>;

/// Nobody reads the checkpoint any more, to its end or not. Called once for each that was opened, and
/// before `squall_group_close` returns; on the thread of the transfer, or on the one that polls or
/// closes. It may not call the library.
pub type squall_checkpoint_close_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, checkpoint: *mut c_void)>;

/// Takes the state of the group that this process joins: SQUALL_STATE_BEGIN, then chunks, then
/// SQUALL_STATE_LOADED. Then come the messages after it, through `deliver` or `message`, flagged
/// SQUALL_MESSAGE_CATCHUP, and last the first view. Answers SQUALL_OK, or a negative status, which
/// ends the joining.
///
/// Runs inside `squall_group_open`, as all callbacks do until the first view: `group` may not be used
/// yet. It may take its time: the group goes on meanwhile, and this process is no member yet.
pub type squall_state_load_fn = Option<
    unsafe extern "C" fn(
        user: *mut c_void,
        group: squall_group_t,
        what: u32,
        bytes: *const c_void,
        len: u32,
    ) -> c_int,
>;

/// In `restarts_max`: not once.
pub const SQUALL_RESTARTS_NONE: u32 = u32::MAX;

/// What the transfer of the application's state may take, at this member, whether it gives the state
/// or gets it. 0 is the default everywhere; members need not have the same.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct squall_transfer_attr_t {
    /// Set by `squall_transfer_attr_init`.
    pub size: u32,
    /// Who gives: how often a transfer starts over because messages came faster than the other took
    /// them and the buffer was full; 0: 3; SQUALL_RESTARTS_NONE: it fails at once. Each time the buffer
    /// is twice as long, up to `catchup_bytes_max`. Nothing is kept on a disk.
    pub restarts_max: u32,
    /// Who gives: bytes of the buffer for what is delivered while the state is sent, a power of two; 0:
    /// 64 MiB. Each message takes its length and up to 39 bytes. It is larger where two of the longest
    /// messages need more, and there during a transfer only; four can run at once.
    pub catchup_bytes: u64,
    /// Bytes; 0: 256 MiB, or `catchup_bytes` if that is more.
    pub catchup_bytes_max: u64,
    /// Who gives: the other asks to be a member when it lacks no more than so many bytes of messages
    /// (0: 1 MiB; a fourth of the buffer at the most) and so many messages (0: 8192). All wait while
    /// it applies those.
    pub near_bytes: u64,
    pub near_messages: u64,
    /// How long the other side may stand still, in milliseconds; 0: 30000. Its callbacks count.
    pub patience_ms: u32,
    /// Reserved: 0.
    pub reserved: u32,
}

/// Makes `attr` the default.
///
/// @param attr  May be NULL: nothing happens.
/// @param size  sizeof *attr.
///
/// Threads: any. Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn squall_transfer_attr_init(attr: *mut squall_transfer_attr_t, size: u32) {
    // SAFETY: the caller says that `size` bytes are there.
    unsafe { attr::init(attr.cast(), size) }
}

/// Bytes of the struct in version 1; smaller ones are refused.
const TRANSFER_ATTR_V1: usize = 48;
const _: () = assert!(size_of::<squall_transfer_attr_t>() == TRANSFER_ATTR_V1);

/// What the caller says of transfers, in a struct as long as ours; NULL: the default.
///
/// # Safety
/// `at` is NULL, or points to a struct that begins with its `size`, and to that many bytes.
pub unsafe fn transfer_of(
    at: *const squall_transfer_attr_t,
) -> Result<squall_transfer_attr_t, Error> {
    // SAFETY: zero is a value of every field.
    let default: squall_transfer_attr_t = unsafe { attr::fresh() };
    if at.is_null() {
        return Ok(default);
    }
    // SAFETY: the caller's promise is ours.
    let given = unsafe { attr::adopt(at, TRANSFER_ATTR_V1, "attr.transfer")? };
    attr::unreserved(given.reserved, "attr.transfer")?;
    Ok(squall_transfer_attr_t { size: default.size, ..given })
}

/// The same as a configuration has it.
///
/// # Safety
/// As `transfer_of`.
pub unsafe fn options_of(at: *const squall_transfer_attr_t) -> Result<Options, Error> {
    let mut options = Options::default();
    // SAFETY: the caller's promise is ours.
    let attr = unsafe { transfer_of(at)? };
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    if attr.catchup_bytes > 0 {
        options.catchup_bytes = bytes(attr.catchup_bytes);
    }
    options.catchup_bytes_max = match attr.catchup_bytes_max {
        0 => options.catchup_bytes_max.max(options.catchup_bytes),
        most => bytes(most),
    };
    options.near_bytes = match attr.near_bytes {
        0 => options.near_bytes.min(options.catchup_bytes as u64 / 4),
        near => near,
    };
    if attr.near_messages > 0 {
        options.near_messages = attr.near_messages;
    }
    if attr.patience_ms > 0 {
        options.patience = Duration::from_millis(attr.patience_ms.into());
    }
    options.restarts_max = match attr.restarts_max {
        0 => options.restarts_max,
        SQUALL_RESTARTS_NONE => 0,
        most => most,
    };
    // How long messages are is the subgroups' to say, and looked at with them.
    Options { message_bytes_max: 0, ..options.clone() }.check()?;
    Ok(options)
}

/// Calls `tell` with a version as C sees it.
fn with_version<T>(version: &Version, tell: impl FnOnce(&squall_version_t) -> T) -> T {
    let position = |of: &crate::transfer::Position| squall_position_t {
        number: of.number.0,
        subgroup: of.subgroup.into(),
        ordered: of.ordered.into(),
    };
    let positions: Vec<squall_position_t> = version.positions.iter().map(position).collect();
    tell(&squall_version_t {
        size: size_of::<squall_version_t>() as u32,
        position_count: positions.len() as u32,
        epoch: version.epoch.0,
        positions: positions.as_ptr(),
        members: version.members.as_ptr(),
        member_count: version.members.len() as u32,
        reserved: 0,
    })
}

/// What a callback has answered.
fn outcome(code: i64, callback: &str) -> Result<u64, Error> {
    u64::try_from(code).map_err(|_| {
        let status = i32::try_from(code).ok().and_then(Status::from_code);
        let status = status.unwrap_or(Status::Invalid);
        Error::new(status, format!("the callback {callback} answered {code}"))
    })
}

impl Trampoline {
    fn load(&self, what: u32, bytes: *const c_void, len: usize) -> Result<(), Error> {
        let Some(load) = self.callbacks.state_load else { return Ok(()) };
        self.inside.prepare(this_thread());
        // SAFETY: the caller's function; the bytes live across the call.
        let code = unsafe { load(self.callbacks.user, self.group, what, bytes, len as u32) };
        self.inside.prepare(0);
        outcome(code.min(0).into(), "state_load").map(drop)
    }

    fn load_version(&self, what: u32, version: &Version) -> Result<(), Error> {
        with_version(version, |version| {
            self.load(what, std::ptr::from_ref(version).cast(), size_of::<squall_version_t>())
        })
    }
}

impl StateSource for Trampoline {
    fn checkpoint_open(&mut self, version: &Version) -> Result<Box<dyn Checkpoint>, Error> {
        let Some(open) = self.callbacks.checkpoint_open else {
            return Err(Error::new(Status::Invalid, "checkpoint_open is NULL"));
        };
        let (user, group) = (self.callbacks.user, self.group);
        let mut given = null_mut();
        self.inside.prepare(this_thread());
        // SAFETY: the caller's function; version and place live across the call.
        let code =
            with_version(version, |version| unsafe { open(user, group, version, &raw mut given) });
        self.inside.prepare(0);
        outcome(code.min(0).into(), "checkpoint_open")?;
        let (read, close) = (self.callbacks.checkpoint_read, self.callbacks.checkpoint_close);
        Ok(Box::new(Given { user, given, read, close }))
    }
}

impl StateSink for Trampoline {
    fn begin(&mut self, version: &Version) -> Result<(), Error> {
        self.load_version(SQUALL_STATE_BEGIN, version)
    }

    fn load(&mut self, chunk: &[u8]) -> Result<(), Error> {
        Trampoline::load(self, SQUALL_STATE_CHUNK, chunk.as_ptr().cast(), chunk.len())
    }

    fn loaded(&mut self) -> Result<(), Error> {
        Trampoline::load(self, SQUALL_STATE_LOADED, std::ptr::null(), 0)
    }

    fn deliver(&mut self, subgroup: u16, batch: &[Message]) {
        crate::driver::Application::deliver(self, subgroup, batch);
    }

    fn view(&mut self, version: &Version) {
        // What it answers is too late: the next chunk or message finds out.
        let _ = self.load_version(SQUALL_STATE_VIEW, version);
    }
}

/// A checkpoint of the caller's.
struct Given {
    user: *mut c_void,
    given: *mut c_void,
    read: squall_checkpoint_read_fn,
    close: squall_checkpoint_close_fn,
}

// SAFETY: the header says on which thread these callbacks run; the pointers are the caller's.
unsafe impl Send for Given {}

impl Checkpoint for Given {
    fn read(&mut self, place: &mut [u8]) -> Result<usize, Error> {
        let Some(read) = self.read else { return Ok(0) };
        let most = place.len();
        // SAFETY: the caller's function; so many bytes may be written there.
        let code = unsafe { read(self.user, self.given, place.as_mut_ptr().cast(), most as u32) };
        let len = outcome(code, "checkpoint_read")?;
        if len > most as u64 {
            let detail = format!("the callback checkpoint_read answered {len}, of {most} at most");
            return Err(Error::new(Status::Invalid, detail));
        }
        Ok(len as usize)
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        if let Some(close) = self.close {
            // SAFETY: the caller's function, once per checkpoint.
            unsafe { close(self.user, self.given) }
        }
    }
}
