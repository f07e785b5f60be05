// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a group is opened with, as C structs: zero is the default everywhere.

use super::message::squall_callbacks_t;
use super::state::{options_of, squall_transfer_attr_t};
use super::view::{SQUALL_MEMBERSHIP_FIXED, SQUALL_MEMBERSHIP_VIEWS};
use crate::driver::config::{Changes, Config, Idle, Shards, SubgroupConfig};
use crate::error::{Error, Status};
use crate::group::detector::lag::Lag;
use crate::mem::region::Want;
use crate::sst::layout::Mode;
use std::ffi::{CStr, c_char, c_void};
use std::mem::size_of;
use std::time::Duration;

/// Deliver in the total order, once every member has the message.
pub const SQUALL_MODE_STABLE: u32 = 0;
/// Deliver on receipt, in the order of each sender.
///
/// Where views change (SQUALL_MEMBERSHIP_VIEWS): of a sender that stays in the group, all members that
/// stay deliver every message, once and in order. Of one that fails some may deliver last
/// messages that others never get: where that matters, use SQUALL_MODE_STABLE. Who joins begins with
/// the first message of each sender that not all had; with a state, after what its source had.
pub const SQUALL_MODE_RECEIVED: u32 = 1;

/// Poll a while, then sleep until a peer rings. Needed for `squall_fd` and `squall_arm`.
pub const SQUALL_IDLE_PARK: u32 = 0;
/// Give the core away and poll on: for more members than cores.
pub const SQUALL_IDLE_YIELD: u32 = 1;
/// Poll on: lowest latency, a whole core.
pub const SQUALL_IDLE_SPIN: u32 = 2;

/// The group polls itself in a thread of its own, which blocks all signals.
pub const SQUALL_FLAG_OWN_THREAD: u32 = 1;
/// That thread runs on `core`; only with `SQUALL_FLAG_OWN_THREAD`.
pub const SQUALL_FLAG_PIN: u32 = 2;
/// Lock the shared pages in memory; without `SQUALL_FLAG_REQUIRE`, as far as RLIMIT_MEMLOCK allows.
pub const SQUALL_FLAG_LOCK: u32 = 4;
/// Use huge pages; without `SQUALL_FLAG_REQUIRE`, if there are any.
pub const SQUALL_FLAG_HUGE: u32 = 8;
/// What `SQUALL_FLAG_LOCK` and `SQUALL_FLAG_HUGE` ask for is had, or the group is not opened; only
/// with one of them.
pub const SQUALL_FLAG_REQUIRE: u32 = 16;
/// Join a group that runs instead of founding one; only with SQUALL_MEMBERSHIP_VIEWS. `rank` says
/// nothing then; `members` is as at the founders.
pub const SQUALL_FLAG_JOIN: u32 = 32;
const KNOWN_FLAGS: u32 = 63;

/// Senders wait for a member that makes no progress, however long.
pub const SQUALL_LAG_WAIT: u32 = 0;
/// The same; and when it has made none for `lag_ms`, the callback `lags` hears of it.
pub const SQUALL_LAG_REPORT: u32 = 1;
/// When it has made none for `lag_ms` the group goes on without it, as if it had failed: only with
/// SQUALL_MEMBERSHIP_VIEWS.
pub const SQUALL_LAG_EVICT: u32 = 2;

/// One subgroup: an ordered stream of messages with its own members; or several, its shards, each with
/// some of them. The list must be the same at all members, but for `lag`.
///
/// Everywhere else shards are numbered through, as subgroups of their own: if the first of the list has
/// three shards they are the subgroups 0, 1 and 2, and the second of the list begins with 3.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct squall_subgroup_attr_t {
    /// Set by `squall_subgroup_attr_init`.
    pub size: u32,
    /// `SQUALL_MODE_…`.
    pub mode: u32,
    /// Ranks of its members; NULL: all members of the group.
    pub members: *const u16,
    /// Ranks among them that may send; NULL: all of them.
    pub senders: *const u16,
    /// How many ranks `members` and `senders` point to.
    pub member_count: u32,
    pub sender_count: u32,
    /// Producing threads per sender, 1 to 8; 0: 1.
    pub lanes: u32,
    /// Messages that one lane may have unreleased; 0: 4096.
    pub window: u32,
    /// Bytes of the largest message; 0: 1 MiB.
    pub message_bytes_max: u32,
    /// Reserved: 0.
    pub reserved: u32,
    /// Bytes of a lane's ring; 0: room for a window of the largest messages, but no more than
    /// 4 MiB, unless four of them need more.
    pub window_bytes: u64,
    /// Disjoint parts, 1 to 32 of all subgroups; 0: 1. A member is in one of them at the most, and
    /// stays in it (unless another one lacks members that this one can spare).
    pub shards: u32,
    /// Members that each shard needs, 0 to 64. One with fewer waits: see SQUALL_INADEQUATE. Without
    /// SQUALL_MEMBERSHIP_VIEWS the group is not opened with fewer. 0: it may even be empty.
    pub shard_members_min: u32,
    /// Members that each shard may have; who is too many has no place until one is free. 0: no bound.
    pub shard_members_max: u32,
    /// Only the first so many to arrive in a shard send there; if one goes, the next in line follows.
    /// Not together with `senders`. 0: no bound.
    pub senders_first: u32,
    /// `SQUALL_LAG_...`: what is done about a member that its senders wait for.
    pub lag: u32,
    /// With SQUALL_LAG_REPORT and SQUALL_LAG_EVICT: after how long without any progress, in milliseconds,
    /// 1 to 3600000; there is no default.
    pub lag_ms: u32,
}

/// A group and this process' place in it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct squall_group_attr_t {
    /// Set by `squall_group_attr_init`.
    pub size: u32,
    /// This process' rank: 0 to `members` - 1.
    pub rank: u32,
    /// How many members the group has, 1 to 64.
    pub members: u32,
    /// `SQUALL_IDLE_…`.
    pub idle: u32,
    /// Name of the group on this host: up to 64 letters, digits, '-', '_', '.'. Copied.
    pub name: *const c_char,
    /// Subgroups; NULL: one, of all members. Copied.
    pub subgroups: *const squall_subgroup_attr_t,
    /// How many.
    pub subgroup_count: u32,
    /// `SQUALL_FLAG_OWN_THREAD`, `SQUALL_FLAG_PIN`, …
    pub flags: u32,
    /// With `SQUALL_FLAG_PIN`: the core of the group's own thread.
    pub core: u32,
    /// How long opening waits for the others, in milliseconds; 0: a minute.
    pub open_timeout_ms: u32,
    /// `SQUALL_MEMBERSHIP_…`.
    pub membership: u32,
    /// With SQUALL_MEMBERSHIP_VIEWS: how long a member may be silent before the others go on without
    /// it, in milliseconds, the same everywhere; 0: 1000.
    pub suspicion_ms: u32,
    /// With SQUALL_MEMBERSHIP_VIEWS: what the transfer of the state may take; NULL: the default. Copied.
    pub transfer: *const squall_transfer_attr_t,
}

/// Bytes of each struct in version 1; smaller ones are refused.
const SUBGROUP_ATTR_V1: usize = 56;
const GROUP_ATTR_V1: usize = 48;
const CALLBACKS_V1: usize = 40;
/// Bytes of any struct of any version to come, at the most.
const STRUCT_BYTES_MAX: usize = 4096;
const _: () = {
    assert!(size_of::<squall_subgroup_attr_t>() > SUBGROUP_ATTR_V1);
    assert!(size_of::<squall_group_attr_t>() > GROUP_ATTR_V1);
    assert!(size_of::<squall_callbacks_t>() > CALLBACKS_V1);
};

/// Zeroes `size` bytes and notes the size: every field has its default then.
///
/// # Safety
/// `at` points to `size` writable bytes, or is NULL.
pub(super) unsafe fn init(at: *mut c_void, size: u32) {
    if at.is_null() || size < 4 {
        return;
    }
    // SAFETY: as promised by the caller; `size` fits the `u32` that comes first.
    unsafe {
        std::ptr::write_bytes(at.cast::<u8>(), 0, size as usize);
        at.cast::<u32>().write_unaligned(size);
    }
}

/// Makes `attr` the default: one subgroup of all members, polled by the caller.
///
/// @param attr  May be NULL: nothing happens.
/// @param size  sizeof *attr.
///
/// Threads: any. Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn squall_group_attr_init(attr: *mut squall_group_attr_t, size: u32) {
    // SAFETY: the caller says that `size` bytes are there.
    unsafe { init(attr.cast(), size) }
}

/// Makes `attr` the default: all members, all of them senders, the total order.
///
/// @param attr  May be NULL: nothing happens.
/// @param size  sizeof *attr.
///
/// Threads: any. Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn squall_subgroup_attr_init(attr: *mut squall_subgroup_attr_t, size: u32) {
    // SAFETY: the caller says that `size` bytes are there.
    unsafe { init(attr.cast(), size) }
}

/// Makes `callbacks` empty; set `deliver` or `message` before opening.
///
/// @param callbacks  May be NULL: nothing happens.
/// @param size       sizeof *callbacks.
///
/// Threads: any. Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn squall_callbacks_init(callbacks: *mut squall_callbacks_t, size: u32) {
    // SAFETY: the caller says that `size` bytes are there.
    unsafe { init(callbacks.cast(), size) }
}

/// What is 0 in this version, so that a later one can give it a meaning.
pub(super) fn unreserved(value: u32, of: &str) -> Result<(), Error> {
    match value {
        0 => Ok(()),
        _ => invalid(format!("{of}.reserved is {value}, it must be 0: call its _init first")),
    }
}

/// Flags that do nothing without others.
fn flags_of(flags: u32) -> Result<(), Error> {
    let unknown = flags & !KNOWN_FLAGS;
    if unknown != 0 {
        return invalid(format!("attr.flags has unknown bits: {unknown:#x}"));
    }
    let pages = SQUALL_FLAG_LOCK | SQUALL_FLAG_HUGE;
    if flags & SQUALL_FLAG_PIN != 0 && flags & SQUALL_FLAG_OWN_THREAD == 0 {
        return invalid(
            "attr.flags has SQUALL_FLAG_PIN without SQUALL_FLAG_OWN_THREAD: there is no thread to \
             pin; add that flag, or pin the polling thread yourself",
        );
    }
    if flags & SQUALL_FLAG_REQUIRE != 0 && flags & pages == 0 {
        return invalid(
            "attr.flags has SQUALL_FLAG_REQUIRE without SQUALL_FLAG_LOCK or SQUALL_FLAG_HUGE: \
             nothing is required; add one of them, or leave it out",
        );
    }
    Ok(())
}

fn invalid<T>(detail: impl Into<String>) -> Result<T, Error> {
    Err(Error::new(Status::Invalid, detail))
}

/// Copies a struct of the caller's version into one of ours (C4).
///
/// # Safety
/// `at` points to a struct that begins with its `size`, and to that many bytes.
pub(super) unsafe fn adopt<T: Copy>(at: *const T, least: usize, what: &str) -> Result<T, Error> {
    if at.is_null() {
        return invalid(format!("{what} is NULL"));
    }
    // SAFETY: as promised, a `u32` comes first.
    let size = unsafe { at.cast::<u32>().read_unaligned() } as usize;
    let ours = size_of::<T>();
    // A struct that nobody initialised says any size: what is out of the question is not read.
    let plausible = size >= least && size <= STRUCT_BYTES_MAX;
    // SAFETY: as promised, `size` bytes are there.
    let unknown = |i: usize| unsafe { at.cast::<u8>().add(i).read() } != 0;
    if !plausible || (ours..size).any(unknown) {
        let detail =
            format!("{what}: size {size} is unknown here (it has {ours} bytes); call its _init");
        return Err(Error::new(Status::WrongSize, detail));
    }
    let mut copy = std::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: both sides have `min` bytes; the structs are plain integers and nullable pointers,
    // for which zero is a value.
    unsafe {
        let min = size.min(ours);
        std::ptr::copy_nonoverlapping(at.cast::<u8>(), copy.as_mut_ptr().cast(), min);
        Ok(copy.assume_init())
    }
}

/// # Safety
/// As for `squall_group_open`.
pub unsafe fn callbacks_of(at: *const squall_callbacks_t) -> Result<squall_callbacks_t, Error> {
    // SAFETY: the caller's promise is ours.
    let callbacks = unsafe { adopt(at, CALLBACKS_V1, "callbacks")? };
    unreserved(callbacks.reserved, "callbacks")?;
    if callbacks.deliver.is_none() && callbacks.message.is_none() {
        return invalid("callbacks: neither deliver nor message is set");
    }
    if callbacks.checkpoint_open.is_some() != callbacks.checkpoint_read.is_some() {
        return invalid("callbacks: set both of checkpoint_open and checkpoint_read, or neither");
    }
    Ok(callbacks)
}

/// A checked configuration and the flags.
///
/// # Safety
/// As for `squall_group_open`.
pub unsafe fn config_of(at: *const squall_group_attr_t) -> Result<(Config, u32, u32), Error> {
    // SAFETY: the caller's promise is ours.
    let attr = unsafe { adopt(at, GROUP_ATTR_V1, "attr")? };
    if attr.name.is_null() {
        return invalid("attr.name is NULL");
    }
    flags_of(attr.flags)?;
    // SAFETY: the caller says that it is a string.
    let name = unsafe { CStr::from_ptr(attr.name) }.to_string_lossy();
    let narrow = |value: u32, what: &str| match u16::try_from(value) {
        Ok(value) => Ok(value),
        Err(_) => invalid(format!("attr.{what} {value}: a group has 1 to 64 members")),
    };
    let (rank, members) = (narrow(attr.rank, "rank")?, narrow(attr.members, "members")?);
    let mut config = Config::new(&name, rank, members);
    config.idle = match attr.idle {
        SQUALL_IDLE_PARK => Idle::Park,
        SQUALL_IDLE_YIELD => Idle::Yield,
        SQUALL_IDLE_SPIN => Idle::Spin,
        other => return invalid(format!("attr.idle {other} is no SQUALL_IDLE_…")),
    };
    config.membership = match attr.membership {
        SQUALL_MEMBERSHIP_FIXED => Changes::Fixed,
        SQUALL_MEMBERSHIP_VIEWS => Changes::Views,
        other => return invalid(format!("attr.membership {other} is no SQUALL_MEMBERSHIP_…")),
    };
    config.join = attr.flags & SQUALL_FLAG_JOIN != 0;
    if config.join && config.membership == Changes::Fixed {
        return invalid("attr.flags has SQUALL_FLAG_JOIN without SQUALL_MEMBERSHIP_VIEWS");
    }
    if attr.suspicion_ms > 0 {
        config.suspicion_ns = u64::from(attr.suspicion_ms) * 1_000_000;
    }
    // SAFETY: the caller says that such a struct is there, or NULL.
    config.transfer = unsafe { options_of(attr.transfer)? };
    let want = |bit: u32| match (attr.flags & bit != 0, attr.flags & SQUALL_FLAG_REQUIRE != 0) {
        (false, _) => Want::No,
        (true, false) => Want::Try,
        (true, true) => Want::Require,
    };
    (config.lock, config.huge) = (want(SQUALL_FLAG_LOCK), want(SQUALL_FLAG_HUGE));
    if attr.open_timeout_ms > 0 {
        config.open_timeout = Duration::from_millis(attr.open_timeout_ms.into());
    }
    if attr.subgroups.is_null() != (attr.subgroup_count == 0) {
        return invalid("attr.subgroups and attr.subgroup_count contradict each other");
    }
    if attr.subgroup_count as usize > crate::limits::SUBGROUPS_MAX {
        return invalid(format!(
            "{} subgroups: at most {}",
            attr.subgroup_count,
            crate::limits::SUBGROUPS_MAX
        ));
    }
    if attr.subgroup_count > 0 {
        // SAFETY: the caller says that `subgroup_count` structs are there, each as long as the
        // first says.
        config.subgroups = unsafe { subgroups_of(attr.subgroups, attr.subgroup_count as usize)? };
    }
    Ok((config, attr.flags, attr.core))
}

/// # Safety
/// `at` points to `count` ranks, or is NULL.
unsafe fn ranks(at: *const u16, count: u32, what: &str) -> Result<Vec<u16>, Error> {
    match (at.is_null(), count as usize) {
        (true, 0) => Ok(Vec::new()),
        (true, _) => invalid(format!("{what}s is NULL, but {what}_count is {count}")),
        (_, many) if many > crate::limits::MEMBERS_MAX => {
            invalid(format!("{what}_count {many}: a group has 1 to 64 members"))
        }
        // SAFETY: as promised.
        (_, count) => Ok(unsafe { std::slice::from_raw_parts(at, count) }.to_vec()),
    }
}

/// # Safety
/// `at` points to `count` structs, each as long as its `size` says, all alike.
unsafe fn subgroups_of(
    at: *const squall_subgroup_attr_t,
    count: usize,
) -> Result<Vec<SubgroupConfig>, Error> {
    // SAFETY: as promised.
    let stride = unsafe { at.cast::<u32>().read_unaligned() } as usize;
    let mut subgroups = Vec::new();
    for i in 0..count {
        // SAFETY: as promised, the structs follow each other at that distance.
        let at = unsafe { at.byte_add(i * stride) };
        // SAFETY: as promised, a `u32` comes first.
        let size = unsafe { at.cast::<u32>().read_unaligned() } as usize;
        if size != stride {
            let detail = format!("subgroups[{i}].size {size} differs from the first's {stride}");
            return Err(Error::new(Status::WrongSize, detail));
        }
        // SAFETY: as promised, it is as long as the first, which says so.
        let attr = unsafe { adopt(at, SUBGROUP_ATTR_V1, &format!("subgroups[{i}]"))? };
        unreserved(attr.reserved, &format!("subgroups[{i}]"))?;
        // SAFETY: the caller says that so many ranks are there.
        let (members, senders) = unsafe {
            (
                ranks(attr.members, attr.member_count, &format!("subgroups[{i}].member"))?,
                ranks(attr.senders, attr.sender_count, &format!("subgroups[{i}].sender"))?,
            )
        };
        if !attr.members.is_null() && members.is_empty() {
            return invalid(format!("subgroups[{i}].members has no member: member_count is 0"));
        }
        let defaults = SubgroupConfig::default();
        let or = |value: u32, default: u32| if value == 0 { default } else { value };
        subgroups.push(SubgroupConfig {
            members,
            senders: (!attr.senders.is_null()).then_some(senders),
            lanes: or(attr.lanes.min(u32::from(u16::MAX)), 1) as u16,
            mode: match attr.mode {
                SQUALL_MODE_STABLE => Mode::Stable,
                SQUALL_MODE_RECEIVED => Mode::Received,
                other => {
                    return invalid(format!("subgroups[{i}].mode {other} is no SQUALL_MODE_…"));
                }
            },
            window: or(attr.window, defaults.window),
            window_bytes: attr.window_bytes,
            message_bytes_max: or(attr.message_bytes_max, defaults.message_bytes_max),
            shards: shards_of(&attr, i)?,
            senders_first: narrow(attr.senders_first, i, "senders_first")?,
            lag: lag_of(&attr, i)?,
            ..defaults
        });
    }
    Ok(subgroups)
}

fn narrow(value: u32, i: usize, what: &str) -> Result<u16, Error> {
    u16::try_from(value).or_else(|_| {
        let most = crate::limits::MEMBERS_MAX;
        invalid(format!("subgroups[{i}].{what} is {value}: at most {most}"))
    })
}

fn shards_of(attr: &squall_subgroup_attr_t, i: usize) -> Result<Shards, Error> {
    Ok(Shards {
        count: narrow(attr.shards.max(1), i, "shards")?,
        members_min: narrow(attr.shard_members_min, i, "shard_members_min")?,
        members_max: narrow(attr.shard_members_max, i, "shard_members_max")?,
    })
}

fn lag_of(attr: &squall_subgroup_attr_t, i: usize) -> Result<Lag, Error> {
    let after_ns = u64::from(attr.lag_ms) * 1_000_000;
    match attr.lag {
        SQUALL_LAG_WAIT if attr.lag_ms == 0 => Ok(Lag::Wait),
        SQUALL_LAG_WAIT => invalid(format!(
            "subgroups[{i}].lag_ms is {} and says nothing with SQUALL_LAG_WAIT: set lag, too",
            attr.lag_ms
        )),
        SQUALL_LAG_REPORT | SQUALL_LAG_EVICT if after_ns == 0 => {
            invalid(format!("subgroups[{i}].lag_ms is 0: say after how many milliseconds"))
        }
        SQUALL_LAG_REPORT => Ok(Lag::Report { after_ns }),
        SQUALL_LAG_EVICT => Ok(Lag::Evict { after_ns }),
        other => invalid(format!("subgroups[{i}].lag {other} is no SQUALL_LAG_...")),
    }
}
