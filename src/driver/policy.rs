// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which members make up which subgroups, in every view: the same function everywhere.
//!
//! The configuration speaks of *seats*. A founder's seat is its rank; who joins later takes a free
//! one, and with it the roles that the configuration gives that seat. Subgroups of all members have
//! those that join, too.

use super::config::Config;
use crate::base::{Members, Rank};
use crate::fabric::Sizes;
use crate::group::membership::roster::Roster;
use crate::group::view::{Subgroup, View};
use crate::limits::{MEMBERS_MAX, SENDERS_MAX};
use crate::sst::layout::{Layout, Shape};

struct Role {
    /// Seats; `None`: all.
    members: Option<Members>,
    senders: Option<Members>,
    shape: Shape,
}

impl Role {
    fn has(&self, seat: u16) -> bool {
        self.members.is_none_or(|seats| seats.contains(Rank(seat)))
    }

    fn sends(&self, seat: u16) -> bool {
        self.has(seat) && self.senders.is_none_or(|seats| seats.contains(Rank(seat)))
    }
}

/// How a list of members becomes a view.
pub struct Policy {
    roles: Vec<Role>,
}

impl Policy {
    /// `first`: the view of the founders, which is that configuration's.
    pub fn new(config: &Config, first: &View) -> Policy {
        let seats = |ranks: &[u16]| Members::from_ranks(ranks.iter().copied().map(Rank));
        let role = |(spec, built): (&super::config::SubgroupConfig, &Subgroup)| Role {
            members: (!spec.members.is_empty()).then(|| seats(&spec.members)),
            senders: spec.senders.as_deref().map(seats),
            shape: built.shape,
        };
        Policy { roles: config.subgroups.iter().zip(&first.subgroups).map(role).collect() }
    }

    /// The view of a roster.
    pub fn view(&self, roster: &Roster) -> View {
        let seat = |rank: &Rank| seat_of(roster, *rank);
        let ranks = || (0..roster.len() as u16).map(Rank);
        let subgroup = |role: &Role| {
            let members: Vec<Rank> = ranks().filter(|rank| role.has(seat(rank))).collect();
            let lanes = role.shape.lanes;
            // Who sent in a view sends in the next: those who join come last.
            let most = SENDERS_MAX / usize::from(lanes);
            let senders = members.iter().copied().filter(|rank| role.sends(seat(rank)));
            let senders: Vec<Rank> = senders.take(most).collect();
            Subgroup::new(members, &senders, lanes, role.shape)
        };
        let subgroups = self.roles.iter().map(subgroup).collect();
        View { epoch: roster.epoch, me: roster.me, members: roster.len(), subgroups }
    }

    /// What the memory of a member in that seat is, whatever the view.
    pub fn memory(&self, seat: u16) -> Sizes {
        let most = |role: &Role| {
            let members = role.members.map_or(MEMBERS_MAX, |seats| seats.len());
            let lanes = usize::from(role.shape.lanes);
            Shape { senders: (members * lanes).min(SENDERS_MAX) as u16, ..role.shape }
        };
        let shapes: Vec<Shape> = self.roles.iter().map(most).collect();
        let layout = Layout::new(&shapes);
        let ring = |(at, role): (usize, &Role)| role.sends(seat).then(|| layout.rings_bytes(at));
        let rings = self.roles.iter().enumerate().map(ring).collect();
        Sizes { block: layout.control_bytes, rings }
    }

    /// What a member in seat `theirs` shows to one in seat `mine`.
    pub fn shown(&self, theirs: u16, mine: u16) -> Sizes {
        let mut sizes = self.memory(theirs);
        for (ring, role) in sizes.rings.iter_mut().zip(&self.roles) {
            *ring = ring.filter(|_| role.has(mine));
        }
        sizes
    }
}

/// The seat of a member.
pub fn seat_of(roster: &Roster, rank: Rank) -> u16 {
    roster.members[rank.index()].address.extra
}

impl Policy {
    /// Of my rings, those that a member in seat `theirs` is to read.
    pub fn rings_for(&self, theirs: u16) -> Vec<usize> {
        let all = self.roles.iter().enumerate();
        all.filter(|(_, role)| role.has(theirs)).map(|(at, _)| at).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::config::SubgroupConfig;
    use crate::group::membership::changes::{Change, What};
    use crate::group::membership::roster::Address;

    fn roster() -> Roster {
        let seat = |extra| Address { extra, ..Address::default() };
        let founders: Vec<_> =
            (0..4).map(|seat_at| (u64::from(seat_at) + 1, seat(seat_at))).collect();
        Roster::first(&founders, Rank(1))
    }

    fn policy() -> Policy {
        let mut config = Config::new("g", 1, 4);
        let some = SubgroupConfig {
            members: vec![1, 3],
            senders: Some(vec![3]),
            lanes: 2,
            ..SubgroupConfig::default()
        };
        config.subgroups.push(some);
        Policy::new(&config, &config.view().unwrap())
    }

    #[test]
    fn seats_keep_their_roles_when_ranks_move() {
        let first = roster();
        let policy = policy();
        assert_eq!(policy.view(&first).subgroups[1].members, [Rank(1), Rank(3)]);
        let change = |what| Change { what, ends: true };
        let next = first.next(&[change(What::Remove { member: 0 })]).unwrap();
        let view = policy.view(&next);
        assert_eq!((view.me, view.members), (Rank(0), 3));
        assert_eq!(view.subgroups[0].senders.len(), 3);
        assert_eq!(view.subgroups[1].members, [Rank(0), Rank(2)]);
        let senders: Vec<Rank> = view.subgroups[1].senders.iter().map(|of| of.rank).collect();
        assert_eq!(senders, [Rank(2), Rank(2)]);
    }

    #[test]
    fn memory_is_the_same_in_every_view_and_large_enough_for_each() {
        let (policy, first) = (policy(), roster());
        let sizes = policy.memory(3);
        let layout = policy.view(&first).layout();
        assert!(sizes.block >= layout.control_bytes);
        assert_eq!(sizes.rings, [Some(layout.rings_bytes(0)), Some(layout.rings_bytes(1))]);
        assert_eq!(policy.memory(1).rings[1], None, "it only listens there");
        assert_eq!(policy.shown(3, 0).rings[1], None, "who does not listen maps no ring");
        assert_eq!(policy.rings_for(0), [0]);
    }
}
