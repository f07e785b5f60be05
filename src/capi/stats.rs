// SPDX-License-Identifier: MIT OR Apache-2.0
//! Statistics of this member; `squall stat` shows the same of all members from outside.

use super::attr;
use super::group::snapshot;
use super::handle::squall_group_t;
use super::{guard, refusal, refuse};
use crate::driver::stats::{Steps, SubgroupSnapshot};
use crate::error::{Error, Status};
use std::ffi::c_int;
use std::mem::size_of;

/// One subgroup of this member: counts since the group was opened, and positions in the view `epoch`.
/// Fields that a library does not know are left as they are.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct squall_stats_t {
    /// Set by the caller: sizeof(squall_stats_t).
    pub size: u32,
    /// Index of the subgroup.
    pub subgroup: u32,
    /// How far this member is in the order of the view at hand: received, stable everywhere, delivered.
    pub prefix: u64,
    pub stable: u64,
    pub delivered: u64,
    /// Messages that it sent (one that is sent again in a later view counts there, too), indices that
    /// became nulls, batches announced.
    pub sent: u64,
    pub nulls: u64,
    pub announced: u64,
    /// Sends and reserves that found no room.
    pub pressed: u64,
    /// Messages and bytes delivered, and calls of the callback.
    pub messages: u64,
    pub bytes: u64,
    pub batches: u64,
    /// How far the slowest member is in the view at hand, as this one knows.
    pub slowest: u64,
    /// Of the whole member: turns, those with work, sleeps, the longest time between two looks at
    /// the clock in nanoseconds (a look comes every 32 turns, or sooner).
    pub turns: u64,
    pub busy_turns: u64,
    pub sleeps: u64,
    pub loop_gap_max_ns: u64,
    /// The view in which those are positions.
    pub epoch: u64,
    /// Of the whole member, where members change (else 0): changes that it went through. To join is
    /// one, of which only the steps from installed on are its own; a founder's first view is none.
    pub view_changes: u64,
    /// When the last of these changes reached each of its steps here: CLOCK_MONOTONIC in nanoseconds, by
    /// the last look at the clock (some turns early; built: exactly; delivers: when the turn that delivered
    /// it was over); 0: it did not (nobody was suspected, say), or not yet, or there was none. One that is
    /// read while a view begins may be of the change before.
    ///
    /// suspected: it suspects somebody; wedged: what it has received in the old view is final; agreed:
    /// who is in the next one is decided. These three come in any order. echoed: it holds the cut that
    /// the old view ends with, in all its subgroups; ended: that much is delivered here; passed: and
    /// everywhere; installed: it makes the memory of the new view; built: it has that of all members,
    /// and its view callback follows; delivers: the first message of the new view is delivered.
    pub suspected_ns: u64,
    pub wedged_ns: u64,
    pub agreed_ns: u64,
    pub echoed_ns: u64,
    pub ended_ns: u64,
    pub passed_ns: u64,
    pub installed_ns: u64,
    pub built_ns: u64,
    pub delivers_ns: u64,
}

/// Reads this member's statistics.
///
/// @param subgroup  Index of a subgroup of its.
/// @param stats     Gets `stats->size` bytes of them, on success only; set `size` before.
/// @return SQUALL_OK, SQUALL_WRONG_SIZE, SQUALL_INVALID (`stats` is NULL, or no member of that
///         subgroup), SQUALL_FAILED (a view began meanwhile: ask again), SQUALL_PANIC,
///         SQUALL_NO_HANDLE, SQUALL_CLOSED.
///
/// Threads: any. Cost: some hundred nanoseconds; if another thread polls the group, some
/// microseconds, and that one is interrupted unless it is just in a call. Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn squall_stats_get(
    group: squall_group_t,
    subgroup: u32,
    stats: *mut squall_stats_t,
) -> c_int {
    guard(|| {
        let snapshot = match snapshot(group) {
            Ok(snapshot) => snapshot,
            Err(Status::Failed) => {
                let detail = "the statistics changed whenever they were looked at: ask again";
                return refuse(Error::new(Status::Failed, detail));
            }
            Err(status) => return refusal::no_group(group, status),
        };
        if stats.is_null() {
            return refuse(Error::new(Status::Invalid, "stats is NULL"));
        }
        // SAFETY: the caller says that a struct with its size first is there.
        let size = unsafe { stats.cast::<u32>().read_unaligned() } as usize;
        if !(16..=1 << 16).contains(&size) {
            let detail =
                format!("stats.size is {size}, it has {} bytes here", size_of::<squall_stats_t>());
            return refuse(Error::new(Status::WrongSize, detail));
        }
        let found = snapshot.subgroups.iter().find(|of| of.subgroup == u64::from(subgroup));
        let Some(of) = found else {
            return refuse(Error::new(
                Status::Invalid,
                format!("this member is not in a subgroup {subgroup} of the group"),
            ));
        };
        let size = size.min(size_of::<squall_stats_t>());
        let SubgroupSnapshot { prefix, stable, delivered_number, .. } = *of;
        let Steps { suspected, wedged, agreed, echoed, ended, passed, .. } = snapshot.last;
        let ours = squall_stats_t {
            size: size as u32,
            subgroup,
            prefix,
            stable,
            delivered: delivered_number,
            sent: of.sent,
            nulls: of.nulls,
            announced: of.announced,
            pressed: of.pressed,
            messages: of.delivered.messages,
            bytes: of.delivered.bytes,
            batches: of.delivered.batches,
            slowest: of.progress.iter().copied().filter(|at| *at != u64::MAX).min().unwrap_or(0),
            turns: snapshot.counters.turns,
            busy_turns: snapshot.counters.busy_turns,
            sleeps: snapshot.counters.sleeps,
            loop_gap_max_ns: snapshot.counters.loop_gap_max_ns,
            epoch: snapshot.epoch,
            view_changes: snapshot.changes,
            suspected_ns: suspected.0,
            wedged_ns: wedged.0,
            agreed_ns: agreed.0,
            echoed_ns: echoed.0,
            ended_ns: ended.0,
            passed_ns: passed.0,
            installed_ns: snapshot.last.installed.0,
            built_ns: snapshot.last.built.0,
            delivers_ns: snapshot.last.delivered.0,
        };
        // SAFETY: the caller says that `size` bytes can be written.
        unsafe { attr::answer(stats, size, &ours) };
        Status::Ok as c_int
    })
}
