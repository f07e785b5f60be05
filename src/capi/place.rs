// SPDX-License-Identifier: MIT OR Apache-2.0
//! The caller's own policy: a callback that places members in shards.

use super::view::squall_part_t;
use crate::group::policy::assignment::Assignment;
use crate::group::policy::{Candidate, Placed, Policy, Rules, Standard};
use crate::mem::Cell;
use crate::mem::thread::this_thread;
use std::ffi::{c_int, c_void};
use std::sync::Arc;

/// Not a member of that subgroup.
pub const SQUALL_PLACE_NONE: u8 = 0;
/// A member that only receives.
pub const SQUALL_PLACE_MEMBER: u8 = 1;
/// A member that sends, too.
pub const SQUALL_PLACE_SENDER: u8 = 2;

/// A member of a view that is to be made.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct squall_candidate_t {
    /// How many joined the group before it: founders have their first ranks, 0, 1, 2 ...; never given
    /// twice.
    pub seniority: u64,
    /// Of this process and this opening of the group only; 0 of all founders in the first view, where
    /// nobody knows it yet.
    pub incarnation: u64,
    /// Its place on this host: who founded the group has its first rank.
    pub seat: u32,
    /// Reserved: 0.
    pub reserved: u32,
}

/// Who is to be placed, and what there was: valid until the callback returns.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct squall_roster_t {
    /// Bytes that the library has written; later versions write more.
    pub size: u32,
    pub member_count: u32,
    /// By rank in the view that is to be made.
    pub members: *const squall_candidate_t,
    /// By subgroup of the view: which shard of which subgroup of the attributes it is.
    pub parts: *const squall_part_t,
    /// By subgroup of the view, `member_count` bytes each, by rank: 0, that member was not in it in the
    /// view before; or how many had arrived there up to it, 1 for the first.
    pub before: *const u8,
    pub subgroup_count: u32,
    /// Reserved: 0.
    pub reserved: u32,
}

/// Places the members of a view. `places` has `subgroup_count` times `member_count` bytes: that of a
/// member in a subgroup is `places[subgroup * member_count + rank]`, SQUALL_PLACE_... It comes filled
/// with what the library would do without the callback: change what you want otherwise, and answer
/// SQUALL_OK. A negative status, or places that break the attributes (`members`, `shard_members_max`,
/// one shard for a member, ...), end this member: SQUALL_INVALID, with the rule in the log and in
/// `stopped`. A shard with too few members waits (`shard_members_min`).
///
/// Every member asks its own callback, and all must answer the same: from what they are given and from
/// nothing else, neither clock nor environment nor chance, nor what was asked before. It may be asked
/// more than once for the same view. Answers are compared before the view is used: members that are not
/// of one mind with a majority of it stop (SQUALL_MISMATCH), and the others go on without them. Either
/// all members have such a callback or none.
///
/// Runs inside `squall_group_open`, and on the thread that polls. It may not call the library.
pub type squall_place_fn = Option<
    unsafe extern "C" fn(
        user: *mut c_void,
        roster: *const squall_roster_t,
        places: *mut u8,
    ) -> c_int,
>;

/// The caller's function as a policy.
pub(super) struct Places {
    pub place: unsafe extern "C" fn(*mut c_void, *const squall_roster_t, *mut u8) -> c_int,
    pub user: *mut c_void,
    pub inside: Arc<Cell>,
}

// SAFETY: the header says on which thread the callback runs, one at a time; `user` is the caller's.
unsafe impl Send for Places {}
// SAFETY: as above.
unsafe impl Sync for Places {}

impl Policy for Places {
    fn place(
        &self,
        rules: &Rules,
        candidates: &[Candidate],
        before: &Assignment,
    ) -> Result<Placed, String> {
        let count = candidates.len();
        let members: Vec<squall_candidate_t> = candidates.iter().map(candidate).collect();
        let parts: Vec<squall_part_t> = (0..rules.subgroups()).map(|at| part(rules, at)).collect();
        let mut ordinals = vec![0u8; parts.len() * count];
        for (shard, row) in before.shards.iter().zip(ordinals.chunks_mut(count)) {
            for (ordinal, seniority) in (1..).zip(shard) {
                let rank = candidates.iter().position(|of| of.seniority == *seniority);
                row[rank.expect("who is gone is not told of")] = ordinal;
            }
        }
        let mut places = usual(rules, candidates, before)?;
        let roster = squall_roster_t {
            size: size_of::<squall_roster_t>() as u32,
            member_count: count as u32,
            members: members.as_ptr(),
            parts: parts.as_ptr(),
            before: ordinals.as_ptr(),
            subgroup_count: parts.len() as u32,
            reserved: 0,
        };
        self.inside.prepare(this_thread());
        // SAFETY: the caller's function; roster and places live across the call.
        let code = unsafe { (self.place)(self.user, &raw const roster, places.as_mut_ptr()) };
        self.inside.prepare(0);
        if code < 0 {
            return Err(format!("the callback place answered {code}"));
        }
        read(&places, count, candidates, before)
    }
}

fn candidate(of: &Candidate) -> squall_candidate_t {
    let Candidate { seniority, incarnation, seat, .. } = *of;
    squall_candidate_t { seniority, incarnation, seat: seat.into(), reserved: 0 }
}

fn part(rules: &Rules, at: usize) -> squall_part_t {
    let of = rules.of(at).0;
    let shard = at - rules.shards(of).start;
    squall_part_t { of: of as u32, shard: shard as u32, lacks: 0, reserved: 0 }
}

/// What the standard policy answers, as the callback may change it.
fn usual(rules: &Rules, candidates: &[Candidate], before: &Assignment) -> Result<Vec<u8>, String> {
    let Assignment { shards } = Standard.place(rules, candidates, before)?.assignment;
    let mut places = vec![SQUALL_PLACE_NONE; shards.len() * candidates.len()];
    for (at, shard) in shards.iter().enumerate() {
        let senders = &rules.of(at).1.senders;
        for (ordinal, seniority) in shard.iter().enumerate() {
            let rank = candidates.iter().position(|of| of.seniority == *seniority);
            let rank = rank.expect("one of them");
            let sends = senders.has(&candidates[rank], ordinal);
            let place = if sends { SQUALL_PLACE_SENDER } else { SQUALL_PLACE_MEMBER };
            places[at * candidates.len() + rank] = place;
        }
    }
    Ok(places)
}

/// What the callback has answered: in each shard who was there before comes first, in the old order.
fn read(
    places: &[u8],
    count: usize,
    candidates: &[Candidate],
    before: &Assignment,
) -> Result<Placed, String> {
    let (mut shards, mut senders) = (Vec::new(), Vec::new());
    for (at, (row, before)) in places.chunks(count).zip(&before.shards).enumerate() {
        if let Some((rank, place)) = row.iter().enumerate().find(|of| *of.1 > SQUALL_PLACE_SENDER) {
            return Err(format!(
                "the callback place put {place} for rank {rank} in subgroup {at} of the view: 0, 1 or 2"
            ));
        }
        let with = |least: u8| {
            let all = row.iter().zip(candidates).filter(move |(place, _)| **place >= least);
            all.map(|(_, candidate)| candidate.seniority).collect::<Vec<u64>>()
        };
        let here = with(SQUALL_PLACE_MEMBER);
        let stay = before.iter().copied().filter(|member| here.contains(member));
        let come = here.iter().copied().filter(|member| !before.contains(member));
        shards.push(stay.chain(come).collect());
        senders.push(with(SQUALL_PLACE_SENDER));
    }
    Ok(Placed { assignment: Assignment { shards }, senders: Some(senders) })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::driver::config::{Config, OwnPolicy, Shards};
    use std::slice;

    /// Moves the member in the highest seat out of where it is; `user`: what to answer.
    unsafe extern "C" fn place(
        user: *mut c_void,
        roster: *const squall_roster_t,
        places: *mut u8,
    ) -> c_int {
        // SAFETY: as `Places` calls it.
        let (roster, answer) = unsafe { (&*roster, *user.cast::<c_int>()) };
        let count = roster.member_count as usize;
        // SAFETY: as above.
        let (members, parts, places) = unsafe {
            (
                slice::from_raw_parts(roster.members, count),
                slice::from_raw_parts(roster.parts, roster.subgroup_count as usize),
                slice::from_raw_parts_mut(places, count * roster.subgroup_count as usize),
            )
        };
        assert_eq!(parts.iter().map(|of| (of.of, of.shard)).collect::<Vec<_>>(), [(0, 0), (0, 1)]);
        assert!(members.iter().zip(0..).all(|(of, rank)| of.seat == rank && of.incarnation == 0));
        assert_eq!(*places, [2, 0, 2, 0, 2, 0]);
        places[count - 1] = SQUALL_PLACE_MEMBER;
        places[2 * count - 1] = answer.max(0) as u8;
        answer.min(0)
    }

    #[test]
    fn a_callback_changes_what_it_wants_and_is_checked() {
        let view = |mut answer: c_int| {
            let user = (&raw mut answer).cast();
            let inside = Arc::new(Cell::new(0));
            let mut config = Config::new("g", 0, 3);
            config.subgroups[0].shards = Shards { count: 2, members_min: 0, members_max: 0 };
            config.policy = Some(OwnPolicy(Arc::new(Places { place, user, inside })));
            config.view().map_err(|error| error.detail)
        };
        let placed = view(0).unwrap();
        let ranks = placed.subgroups.iter().map(|of| {
            let senders = of.senders.iter().map(|sender| sender.rank.0).collect::<Vec<u16>>();
            (of.members.iter().map(|rank| rank.0).collect::<Vec<u16>>(), senders)
        });
        assert_eq!(ranks.collect::<Vec<_>>(), [(vec![0, 2], vec![0]), (vec![1], vec![1])]);
        assert!(view(2).unwrap_err().contains("rank 2 has two places"));
        assert!(view(3).unwrap_err().contains("put 3 for rank 2 in subgroup 1"));
        assert!(view(-11).unwrap_err().contains("place answered -11"));
    }
}
