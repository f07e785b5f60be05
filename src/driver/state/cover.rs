// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whose state one that joins needs: that of the shards in which it will be.
//!
//! A member has the state of the subgroups of the view that it is in, a shard counted as one. Where
//! the joiner will be follows from the policy, and may change until it is there: so it is looked at
//! when a checkpoint is opened, in each view, and once more when the joiner's first view is known.
//!
//! O1  A source has been a member, since its checkpoint, of all that it covers.
//! O2  Of what the joiner needs it covers as much as any one member could. That is all of it, but
//!     where no member is in all of the joiner's shards at once.

use crate::base::{Members, Rank};
use crate::group::membership::roster::Roster;
use crate::group::view::View;
use crate::limits::SUBGROUPS_MAX;

/// Subgroups of a view, a bit each.
pub type Subgroups = u32;
const _: () = assert!(SUBGROUPS_MAX <= 32);

/// The subgroups that a member is in.
pub fn of(view: &View, rank: Rank) -> Subgroups {
    let has = |at: &usize| view.subgroups[*at].has(rank);
    (0..view.subgroups.len()).filter(has).fold(0, |bits, at| bits | 1 << at)
}

/// What one that joins needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Need {
    /// The subgroups in which it will be.
    pub joins: Subgroups,
    /// Those of them whose state any member has.
    pub held: Subgroups,
    /// How many of them the best single member has.
    best: u32,
}

impl Need {
    /// Of the member `joiner` of `new`, from those of `old` that stay and are not among `gone`.
    pub fn of(
        (roster, view): (&Roster, &View),
        (new_roster, new): (&Roster, &View),
        joiner: u64,
        gone: Members,
    ) -> Need {
        let mut members = new_roster.members.iter();
        let rank = members.position(|member| member.incarnation == joiner);
        let joins = rank.map_or(0, |rank| of(new, Rank(rank as u16)));
        let stays = |rank: &Rank| new_roster.rank_of(roster.seniority(*rank)).is_some();
        let has = roster.all().without(gone).iter().filter(stays);
        let has: Vec<Subgroups> = has.map(|rank| of(view, rank) & joins).collect();
        let best = has.iter().map(|of| of.count_ones()).max().unwrap_or(0);
        Need { joins, held: has.iter().fold(0, |all, of| all | of), best }
    }

    /// O2: whether one with the state of `covers` will do.
    pub fn suits(&self, covers: Subgroups) -> bool {
        (covers & self.joins).count_ones() >= self.best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::config::{Changes, Config, Shards, SubgroupConfig};
    use crate::driver::policy::Policy;
    use crate::group::membership::changes::{Change, What};
    use crate::group::membership::roster::Address;

    fn joined(roster: &Roster) -> Roster {
        let join = What::Join {
            incarnation: 99,
            address: Address::default(),
            versions: crate::base::Versions::OURS,
        };
        roster.next(&[Change { what: join, ends: true }]).unwrap()
    }

    fn setting(subgroups: Vec<SubgroupConfig>, founders: u16) -> (Policy, Roster) {
        let mut config = Config::new("g", 0, founders);
        config.membership = Changes::Views;
        config.subgroups = subgroups;
        let founders: Vec<_> = (1..=founders.into()).map(|at| (at, Address::default())).collect();
        let (mut policy, roster) =
            (Policy::new(&config).unwrap(), Roster::first(&founders, Rank(0)));
        let plan = policy.view(&roster).unwrap().1;
        policy.adopt(&plan);
        (policy, roster)
    }

    fn shards(count: u16) -> SubgroupConfig {
        let shards = Shards { count, members_min: 1, members_max: 0 };
        SubgroupConfig { shards, ..SubgroupConfig::default() }
    }

    /// Three members in two shards and one subgroup of all: 0 and 2, and 1, whom the joiner joins.
    #[test]
    fn the_source_is_in_the_joiners_shard() {
        let (policy, roster) = setting(vec![shards(2), SubgroupConfig::default()], 3);
        let (view, next) = (policy.view(&roster).unwrap().0, joined(&roster));
        let then = policy.view(&next).unwrap().0;
        let need = Need::of((&roster, &view), (&next, &then), 99, Members::NONE);
        assert_eq!((need.joins, need.held, need.best), (0b110, 0b110, 2));
        let suits = |rank: u16| need.suits(of(&view, Rank(rank)));
        assert_eq!([suits(0), suits(1), suits(2)], [false, true, false]);
        // If that one has failed nobody has more than the others.
        let gone = Members::from_ranks([Rank(1)]);
        let need = Need::of((&roster, &view), (&next, &then), 99, gone);
        assert_eq!((need.joins, need.held, need.best), (0b110, 0b100, 1));
        assert!(need.suits(of(&view, Rank(0))) && !need.suits(0));
    }

    /// No member is in both of the joiner's shards: each that is in one of them will do.
    #[test]
    fn half_of_what_it_needs_is_better_than_nothing() {
        let two = |members: [u16; 2]| SubgroupConfig {
            members: members.to_vec(),
            ..SubgroupConfig::default()
        };
        let (policy, roster) = setting(vec![two([0, 1]), two([1, 2])], 3);
        let view = policy.view(&roster).unwrap().0;
        let (next, mut then) = (joined(&roster), view.clone());
        then.members = 4;
        for at in [0, 1] {
            then.subgroups[at].members =
                [then.subgroups[at].members.clone(), vec![Rank(3)]].concat();
        }
        let gone = Members::from_ranks([Rank(1)]);
        let need = Need::of((&roster, &view), (&next, &then), 99, gone);
        assert_eq!((need.joins, need.held, need.best), (0b11, 0b11, 1));
        assert!(need.suits(0b01) && need.suits(0b10) && !need.suits(0b100));
    }

    #[test]
    fn who_joins_nothing_needs_nothing() {
        let one = SubgroupConfig { members: vec![0], ..SubgroupConfig::default() };
        let (policy, roster) = setting(vec![one], 2);
        let (view, next) = (policy.view(&roster).unwrap().0, joined(&roster));
        let then = policy.view(&next).unwrap().0;
        let need = Need::of((&roster, &view), (&next, &then), 99, Members::NONE);
        assert!(need == Need { joins: 0, held: 0, best: 0 } && need.suits(0));
    }
}
