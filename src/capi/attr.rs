// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a group is opened with, as C structs: zero is the default everywhere.

use super::message::squall_callbacks_t;
use super::network::{network_into, peers_into, text_of};
use super::state::{options_of, squall_transfer_attr_t};
use super::subgroup::{squall_subgroup_attr_t, subgroups_of};
use super::view::{SQUALL_MEMBERSHIP_FIXED, SQUALL_MEMBERSHIP_VIEWS};
use crate::driver::config::{Changes, Config, Idle};
use crate::error::{Error, Status};
use crate::mem::region::Want;
use std::ffi::{c_char, c_void};
use std::mem::size_of;
use std::time::Duration;

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
/// The group's secret is read from the descriptor `secret_fd`; not with SQUALL_FABRIC_SHM.
pub const SQUALL_FLAG_SECRET_FD: u32 = 64;
/// Nothing is authenticated: whoever reaches a port of a member is believed, and may be a member.
/// Instead of a secret, and at all members or at none; not with SQUALL_FABRIC_SHM.
pub const SQUALL_FLAG_TRUSTED_NETWORK: u32 = 128;
/// As `SQUALL_FLAG_REQUIRE`, for `SQUALL_FLAG_LOCK` only.
pub const SQUALL_FLAG_REQUIRE_LOCK: u32 = 256;
/// As `SQUALL_FLAG_REQUIRE`, for `SQUALL_FLAG_HUGE` only.
pub const SQUALL_FLAG_REQUIRE_HUGE: u32 = 512;
/// Of two members the one of the lower rank goes on alone when it loses the other; else neither is a
/// majority, and both stop. Of three nobody can leave in good order then: `squall_leave` waits until there
/// are more, or fewer, and `squall_group_close` is a failure to the others. At all members or at none; only
/// with SQUALL_MEMBERSHIP_VIEWS.
pub const SQUALL_FLAG_TIE_BREAK: u32 = 1024;
const KNOWN_FLAGS: u32 = 2047;

/// In `suspicion_ms`: silence is never held against a member.
pub const SQUALL_SUSPICION_NEVER: u32 = u32::MAX;

/// A group and this process' place in it.
///
/// Strings and structs that it points to are copied by `squall_group_open`, and need to live until it
/// returns; those that `squall_group_attr_read` puts here live until `squall_group_attr_free`. Strings
/// are UTF-8. Addresses are "HOST:PORT", "[IPv6]:PORT" or "NAME:PORT", several parted by commas; the
/// port is 7471 if none is named.
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
    /// it, in milliseconds, the same everywhere; 0: 1000. SQUALL_SUSPICION_NEVER.
    pub suspicion_ms: u32,
    /// With SQUALL_MEMBERSHIP_VIEWS: what the transfer of the state may take; NULL: the default. Copied.
    pub transfer: *const squall_transfer_attr_t,
    /// `SQUALL_FABRIC_…`, the same everywhere. What follows, up to `secret_fd`, is for members on several
    /// hosts: with SQUALL_FABRIC_SHM it is nothing (`launcher` aside).
    pub fabric: u32,
    /// `SQUALL_LAUNCHER_…`.
    pub launcher: u32,
    /// Addresses to listen on, of an interface or "*:PORT"; NULL: all of this host, and the port that
    /// `founders` says of this member, or 7471. Calls come from the first that is one address.
    pub listen: *const c_char,
    /// The one address that others are told to reach this member by; NULL: as they see it.
    pub advertise: *const c_char,
    /// Addresses of the founders, as many as `members`, by rank. Needed by who founds.
    pub founders: *const c_char,
    /// With SQUALL_FLAG_JOIN: addresses of members, any of which will do; a name may have several.
    /// NULL: `founders`.
    pub contacts: *const c_char,
    /// A file with the group's secret, which must belong to this user and be readable by nobody else
    /// (`squall secret FILE` makes one). Neither it nor its bytes are kept or logged. NULL:
    /// SQUALL_FLAG_SECRET_FD or SQUALL_FLAG_TRUSTED_NETWORK is needed.
    pub secret_file: *const c_char,
    /// With SQUALL_FLAG_SECRET_FD: the same from an open file or pipe, read to its end when the group is
    /// opened, for 5 s at the most. It stays open, and the caller's.
    pub secret_fd: i32,
    /// Reserved: 0.
    pub reserved: u32,
    /// How often a busy turn looks at connections, in nanoseconds; 0: 10 ms.
    pub liveness_every_ns: u64,
    /// Of `squall_group_attr_read`: leave it as it is.
    pub owned: *mut c_void,
    /// Users of this host whose processes may be members, beside this process' own: names or numbers,
    /// parted by commas. NULL: none. Each member decides for itself: all need each other's.
    pub peers_users: *const c_char,
    /// A unix group, by name or number: processes that have it may be members; this one must have it,
    /// too. NULL: none.
    pub peers_group: *const c_char,
    /// An existing directory in which members on this host find each other, the same for all, who can
    /// read and write it: for containers that share a volume and no network. NULL: abstract names.
    pub peers_directory: *const c_char,
    /// Parts a machine: members with another name are on another host, and meet over TCP though they
    /// could share memory. Up to 24 letters, digits, '-', '_', '.'; NULL: none; not with
    /// SQUALL_FABRIC_SHM.
    pub host: *const c_char,
    /// With SQUALL_FABRIC_VERBS or SQUALL_FABRIC_SHM_VERBS: which port of this host, and how, as
    /// "device=mlx5_0,port=1,gid_index=3,mtu=4096,timeout=14,retry=6,traffic_class=0,service_level=0"; what
    /// is left out is chosen, as `squall config --example` says. NULL: all of it.
    pub rdma: *const c_char,
}

/// Bytes of each struct in version 1; smaller ones are refused.
const GROUP_ATTR_V1: usize = 48;
const CALLBACKS_V1: usize = 40;
/// Bytes of any struct of any version to come, at the most.
const STRUCT_BYTES_MAX: usize = 4096;
const _: () = {
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

/// A struct of ours, all default.
///
/// # Safety
/// `T` begins with its size, a `u32`, and zero is a value of every field.
pub(super) unsafe fn fresh<T: Copy>() -> T {
    let mut fresh = std::mem::MaybeUninit::<T>::uninit();
    // SAFETY: so many bytes are there, and zero is a value of each, as promised.
    unsafe {
        init(fresh.as_mut_ptr().cast(), size_of::<T>() as u32);
        fresh.assume_init()
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
    if flags & SQUALL_FLAG_PIN != 0 && flags & SQUALL_FLAG_OWN_THREAD == 0 {
        return invalid(
            "attr.flags has SQUALL_FLAG_PIN without SQUALL_FLAG_OWN_THREAD: there is no thread to \
             pin; add that flag, or pin the polling thread yourself",
        );
    }
    let rows = [
        (SQUALL_FLAG_REQUIRE, "", SQUALL_FLAG_LOCK | SQUALL_FLAG_HUGE, "LOCK or SQUALL_FLAG_HUGE"),
        (SQUALL_FLAG_REQUIRE_LOCK, "_LOCK", SQUALL_FLAG_LOCK, "LOCK"),
        (SQUALL_FLAG_REQUIRE_HUGE, "_HUGE", SQUALL_FLAG_HUGE, "HUGE"),
    ];
    for (flag, suffix, of, names) in rows {
        if flags & flag != 0 && flags & of == 0 {
            return invalid(format!(
                "attr.flags has SQUALL_FLAG_REQUIRE{suffix} without SQUALL_FLAG_{names}: nothing is \
                 required; add that, or leave it out"
            ));
        }
    }
    Ok(())
}

/// What the flags say of pages.
fn pages_into(config: &mut Config, flags: u32) {
    let want = |bit: u32, required: u32| {
        let required = flags & (SQUALL_FLAG_REQUIRE | required) != 0;
        match (flags & bit != 0, required) {
            (false, _) => Want::No,
            (true, false) => Want::Try,
            (true, true) => Want::Require,
        }
    };
    config.lock = want(SQUALL_FLAG_LOCK, SQUALL_FLAG_REQUIRE_LOCK);
    config.huge = want(SQUALL_FLAG_HUGE, SQUALL_FLAG_REQUIRE_HUGE);
}

pub(super) fn invalid<T>(detail: impl Into<String>) -> Result<T, Error> {
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
    // A struct that nobody initialised says any size: what is out of the question is not read. Nor is
    // one that ends in the middle of a field: half of a pointer would be one, too.
    let whole = size % std::mem::align_of::<T>() == 0;
    let plausible = whole && size >= least && size <= STRUCT_BYTES_MAX;
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

/// Fills a struct of the caller's version from one of ours: as many bytes as both know, and in `size`, which
/// comes first, how many those are (C4).
///
/// # Safety
/// `size` bytes can be written at `at`.
pub(super) unsafe fn answer<T: Copy>(at: *mut T, size: usize, ours: &T) {
    let min = size.min(size_of::<T>());
    // SAFETY: the caller's promise; ours has as many, and is a different allocation.
    unsafe {
        std::ptr::copy_nonoverlapping(std::ptr::from_ref(ours).cast::<u8>(), at.cast(), min);
        at.cast::<u32>().write_unaligned(min as u32);
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

/// The attributes, whatever version the caller knows.
///
/// # Safety
/// As for `squall_group_open`.
pub(super) unsafe fn attr_of(at: *const squall_group_attr_t) -> Result<squall_group_attr_t, Error> {
    // SAFETY: the caller's promise is ours.
    unsafe { adopt(at, GROUP_ATTR_V1, "attr") }
}

/// A checked configuration and the flags.
///
/// # Safety
/// As for `squall_group_open`.
pub unsafe fn config_of(at: *const squall_group_attr_t) -> Result<(Config, u32, u32), Error> {
    // SAFETY: the caller's promise is ours.
    let attr = unsafe { attr_of(at)? };
    unreserved(attr.reserved, "attr")?;
    // SAFETY: the caller says that it is a string, or NULL.
    let Some(name) = (unsafe { text_of(attr.name, "name")? }) else {
        return invalid("attr.name is NULL");
    };
    flags_of(attr.flags)?;
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
    config.tie_break = attr.flags & SQUALL_FLAG_TIE_BREAK != 0;
    for (flag, name) in [(config.join, "JOIN"), (config.tie_break, "TIE_BREAK")] {
        if flag && config.membership == Changes::Fixed {
            return invalid(format!(
                "attr.flags has SQUALL_FLAG_{name} without SQUALL_MEMBERSHIP_VIEWS"
            ));
        }
    }
    // SAFETY: the caller says that its strings are some.
    unsafe {
        network_into(&mut config, &attr)?;
        peers_into(&mut config, &attr)?;
    }
    match attr.suspicion_ms {
        0 => {}
        SQUALL_SUSPICION_NEVER => config.suspicion_ns = 0,
        ms => config.suspicion_ns = u64::from(ms) * 1_000_000,
    }
    if attr.liveness_every_ns > 0 {
        config.liveness_every_ns = attr.liveness_every_ns;
    }
    // SAFETY: the caller says that such a struct is there, or NULL.
    config.transfer = unsafe { options_of(attr.transfer)? };
    pages_into(&mut config, attr.flags);
    if attr.open_timeout_ms > 0 {
        config.open_timeout = Duration::from_millis(attr.open_timeout_ms.into());
    }
    if attr.subgroup_count > 0 || !attr.subgroups.is_null() {
        // SAFETY: the caller says that so many structs are there, or NULL.
        config.subgroups = unsafe { subgroups_of(&attr)? };
    }
    Ok((config, attr.flags, attr.core))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Answer {
        size: u32,
        first: u32,
        second: u64,
        third: u64,
    }

    /// An older caller's struct ends earlier, a newer one's later: what is behind it, or unknown here, stays.
    #[test]
    fn no_more_is_answered_than_both_know() {
        let ours = Answer { size: 0, first: 1, second: 2, third: 3 };
        for (size, known) in [(16, 16), (24, 24), (32, 24)] {
            let mut place = [0xa5a5_a5a5_a5a5_a5a5_u64; 5];
            // SAFETY: the place is larger than any of these sizes.
            unsafe { answer(place.as_mut_ptr().cast::<Answer>(), size, &ours) };
            let words = [1 << 32 | known as u64, 2, 3];
            assert_eq!(place[..known / 8], words[..known / 8], "{size}");
            assert!(place[known / 8..].iter().all(|word| *word == 0xa5a5_a5a5_a5a5_a5a5), "{size}");
        }
    }
}
