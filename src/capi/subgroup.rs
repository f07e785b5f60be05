// SPDX-License-Identifier: MIT OR Apache-2.0
//! One subgroup of the attributes.

use super::attr::{adopt, init, invalid, squall_group_attr_t, unreserved};
use super::network::text_of;
use crate::driver::config::{Shards, SubgroupConfig};
use crate::error::{Error, Status};
use crate::group::detector::lag::Lag;
use crate::sst::layout::Mode;
use std::ffi::c_char;
use std::mem::size_of;

/// Deliver in the total order, once every member has the message.
pub const SQUALL_MODE_STABLE: u32 = 0;
/// Deliver on receipt, in the order of each sender.
///
/// Where views change (SQUALL_MEMBERSHIP_VIEWS): of a sender that stays in the group, all members that
/// stay deliver every message, once and in order. Of one that fails some may deliver last
/// messages that others never get: where that matters, use SQUALL_MODE_STABLE. Who joins begins with
/// the first message of each sender that not all had; with a state, after what its source had.
pub const SQUALL_MODE_RECEIVED: u32 = 1;

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
    /// Its name; no two are the same. NULL: none. Copied.
    pub name: *const c_char,
}

/// Bytes of the struct in version 1; smaller ones are refused.
const SUBGROUP_ATTR_V1: usize = 56;
const _: () = assert!(size_of::<squall_subgroup_attr_t>() > SUBGROUP_ATTR_V1);

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

/// # Safety
/// As for `squall_group_open`.
pub(super) unsafe fn subgroups_of(
    attr: &squall_group_attr_t,
) -> Result<Vec<SubgroupConfig>, Error> {
    let (count, most) = (attr.subgroup_count as usize, crate::limits::SUBGROUPS_MAX);
    if attr.subgroups.is_null() != (count == 0) {
        return invalid("attr.subgroups and attr.subgroup_count contradict each other");
    }
    if count > most {
        return invalid(format!("{count} subgroups: at most {most}"));
    }
    if count == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the caller says that `subgroup_count` structs are there, each as long as the first says.
    unsafe { list_of(attr.subgroups, count) }
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
unsafe fn list_of(
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
        // SAFETY: the caller says that it is a string, or NULL.
        let name = unsafe { text_of(attr.name, &format!("subgroups[{i}].name"))? };
        let defaults = SubgroupConfig::default();
        let or = |value: u32, default: u32| if value == 0 { default } else { value };
        subgroups.push(SubgroupConfig {
            name: name.unwrap_or_default(),
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
