// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is in a view and what the next one is: values and arithmetic, no behaviour.
//!
//! A member's *seniority* is the position of its join in the list of all changes of the group's
//! life: unique, never used again, and in every view it rises with the rank. Founders joined at
//! positions 0, 1, 2 …
//!
//! A view runs at the highest wire version that all its members speak. Everybody computes it from the
//! list of members; and as whoever joins speaks the version at hand, it never falls.

use super::changes::{Change, What};
use crate::base::{Epoch, Members, Rank, Versions};
use crate::limits::MEMBERS_MAX;

/// Where a member can be reached; the driver knows how to read it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Address {
    pub word: u64,
    pub extra: u16,
}

/// One incarnation of a process in the group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Member {
    pub seniority: u64,
    /// Chosen anew at every start of a process; never 0.
    pub incarnation: u64,
    pub address: Address,
    pub versions: Versions,
}

/// The members of a view, as one of them sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Roster {
    pub epoch: Epoch,
    pub me: Rank,
    /// How many changes of the group's life made this view.
    pub base: u64,
    /// By rank.
    pub members: Vec<Member>,
}

impl Roster {
    /// The first view, of members that speak what this library does: incarnations and addresses by rank.
    pub fn first(founders: &[(u64, Address)], me: Rank) -> Roster {
        let of = |&(incarnation, address): &_| (incarnation, address, Versions::OURS);
        Roster::founded(&founders.iter().map(of).collect::<Vec<_>>(), me)
    }

    /// The first view, of members that have a version in common.
    pub fn founded(founders: &[(u64, Address, Versions)], me: Rank) -> Roster {
        assert!(me.index() < founders.len() && founders.len() <= MEMBERS_MAX);
        let member = |(&(incarnation, address, versions), seniority)| Member {
            seniority,
            incarnation,
            address,
            versions,
        };
        let members: Vec<Member> = founders.iter().zip(0..).map(member).collect();
        Roster { epoch: Epoch(1), me, base: members.len() as u64, members }
    }

    /// Whether it can be a view of somebody's. A joiner that has it from its sponsor asks.
    pub fn is_sound(&self) -> bool {
        let rises = |pair: &[Member]| pair[0].seniority < pair[1].seniority;
        let one = |(at, member): (usize, &Member)| {
            let same = |other: &Member| other.incarnation == member.incarnation;
            let whole = member.incarnation != 0 && member.versions.is_sound();
            whole && !self.members[..at].iter().any(same)
        };
        self.epoch.0 > 0
            && self.me.index() < self.members.len()
            && self.members.len() <= MEMBERS_MAX
            && self.members.windows(2).all(rises)
            && self.members.last().is_some_and(|last| last.seniority < self.base)
            && self.members.iter().enumerate().all(one)
            && self.version().is_some()
    }

    fn version(&self) -> Option<u16> {
        Versions::common(self.members.iter().map(|member| member.versions))
    }

    /// The wire version that this view runs at.
    pub fn wire(&self) -> u16 {
        if crate::mutant!("view-version-is-mine") {
            return self.members[self.me.index()].versions.max;
        }
        self.version().expect("all of them speak what the view before did")
    }

    /// Whether one that speaks those may join.
    pub fn takes(&self, versions: Versions) -> bool {
        versions.speaks(self.wire()) || crate::mutant!("view-joiner-speaks-anything")
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn all(&self) -> Members {
        Members::below(Rank(self.members.len() as u16))
    }

    pub fn seniority(&self, rank: Rank) -> u64 {
        self.members[rank.index()].seniority
    }

    pub fn rank_of(&self, seniority: u64) -> Option<Rank> {
        let at = self.members.binary_search_by_key(&seniority, |member| member.seniority).ok()?;
        Some(Rank(at as u16))
    }

    /// The members after one batch of changes: survivors in the old order, then who joined.
    pub fn after(&self, batch: &[Change]) -> Vec<Member> {
        let mut members = self.members.clone();
        if crate::mutant!("view-order-is-local") && self.me.0 % 2 == 1 {
            members.rotate_left(1);
        }
        for (change, seniority) in batch.iter().zip(self.base..) {
            match change.what {
                What::Join { incarnation, address, mut versions } => {
                    if crate::mutant!("view-version-of-who-joins-is-mine") {
                        versions = self.members[self.me.index()].versions;
                    }
                    members.push(Member { seniority, incarnation, address, versions });
                }
                What::Leave { member } | What::Remove { member } => {
                    members.retain(|other| other.seniority != member);
                }
            }
        }
        members
    }

    /// The view after one batch, if I am in it.
    pub fn next(&self, batch: &[Change]) -> Option<Roster> {
        let members = self.after(batch);
        let mine = self.seniority(self.me);
        let me = members.iter().position(|member| member.seniority == mine)?;
        let base = self.base + batch.len() as u64;
        Some(Roster { epoch: Epoch(self.epoch.0 + 1), me: Rank(me as u16), base, members })
    }

    /// Which ranks of `next` the members `set` of this view have there.
    pub fn carried(&self, set: Members, next: &Roster) -> Members {
        Members::from_ranks(set.iter().filter_map(|rank| next.rank_of(self.seniority(rank))))
    }
}

/// A strict majority.
pub fn is_majority(part: usize, whole: usize) -> bool {
    if crate::mutant!("view-majority-is-half") {
        return 2 * part >= whole;
    }
    2 * part > whole
}

/// R3: whether every majority of a view of `old` members meets every majority of the next, of
/// `next` members, when both together are `union`. Removals need no such bound: whoever agrees to
/// them is no longer one of those removed.
pub fn majorities_meet(old: usize, next: usize, union: usize) -> bool {
    old / 2 + next / 2 + 2 > union || crate::mutant!("view-joins-uncapped")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roster(members: usize, me: u16) -> Roster {
        let founders: Vec<_> =
            (0..members as u64).map(|id| (id + 100, Address::default())).collect();
        Roster::first(&founders, Rank(me))
    }

    fn batch(whats: &[What]) -> Vec<Change> {
        let last = whats.len() - 1;
        whats.iter().enumerate().map(|(at, &what)| Change { what, ends: at == last }).collect()
    }

    #[test]
    fn the_next_view_keeps_the_old_order_and_appends_who_joined() {
        let old = roster(4, 3);
        let (address, versions) = (Address::default(), Versions::OURS);
        let join = What::Join { incarnation: 900, address, versions };
        let next = old.next(&batch(&[What::Leave { member: 1 }, join])).unwrap();
        let seniorities: Vec<u64> = next.members.iter().map(|member| member.seniority).collect();
        assert_eq!(seniorities, [0, 2, 3, 5], "the join stood at position 5");
        assert_eq!((next.epoch, next.me, next.base), (Epoch(2), Rank(2), 6));
        assert_eq!(next.rank_of(5), Some(Rank(3)));
        let set = Members::from_ranks([Rank(1), Rank(2)]);
        assert_eq!(old.carried(set, &next), Members::from_ranks([Rank(1)]));
        assert_eq!(old.next(&batch(&[What::Remove { member: 3 }])), None);
    }

    #[test]
    fn a_roster_that_cannot_be_is_told() {
        type Deed = fn(&mut Roster);
        let deeds: [Deed; 8] = [
            |r| r.epoch = Epoch(0),
            |r| r.me = Rank(4),
            |r| r.members[2].seniority = 1,
            |r| r.base = 3,
            |r| r.members[1].incarnation = 0,
            |r| r.members[3].incarnation = 100,
            |r| r.members[1].versions = Versions { min: 0, max: 1 },
            |r| r.members[1].versions = Versions { min: 7, max: 8 },
        ];
        assert!(roster(4, 3).is_sound());
        for (at, deed) in deeds.iter().enumerate() {
            let mut roster = roster(4, 3);
            deed(&mut roster);
            assert!(!roster.is_sound(), "{at}");
        }
    }

    /// A rolling upgrade, a member at a time: the version rises with the view that has no old one left.
    #[test]
    fn a_view_runs_at_what_all_its_members_speak() {
        let (one, both, two) = ((1, 1), (1, 2), (2, 3));
        let of = |(min, max): (u16, u16)| Versions { min, max };
        let join = |incarnation, versions| {
            let address = Address::default();
            What::Join { incarnation, address, versions: of(versions) }
        };
        let founders = [one, both, one].map(of);
        let founders = [1, 2, 3].map(|id| (id, Address::default(), founders[id as usize - 1]));
        let mut view = Roster::founded(&founders, Rank(1));
        let mut versions = vec![view.wire()];
        assert!(view.takes(of(one)) && view.takes(of(both)) && !view.takes(of(two)));
        let steps = [
            vec![What::Leave { member: 0 }, join(4, both)],
            vec![What::Remove { member: 2 }],
            vec![join(5, two)],
            vec![What::Leave { member: 1 }, What::Leave { member: 4 }],
        ];
        for step in steps {
            view = view.next(&batch(&step)).unwrap_or_else(|| view.clone());
            versions.push(view.wire());
        }
        assert_eq!(versions, [1, 1, 2, 2, 2]);
        assert!(view.is_sound() && !view.takes(of(one)) && view.takes(of(two)));
    }

    /// R3, against all pairs of majorities of small views.
    #[test]
    fn majorities_meet_exactly_within_the_bound() {
        let big = |set: u32, of: u32| 2 * (set & of).count_ones() > of.count_ones();
        for old in 1u32..6 {
            for (joins, leaves) in [(0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (0, 2)] {
                if leaves > old {
                    continue;
                }
                let before = (1u32 << old) - 1;
                let after = (before >> leaves << leaves) | (((1 << joins) - 1) << old);
                let union = before | after;
                let subsets = || (0..=union).filter(|set| set & !union == 0);
                let apart =
                    subsets().filter(|set| set & !before == 0 && big(*set, before)).any(|one| {
                        subsets().any(|two| two & !after == 0 && big(two, after) && one & two == 0)
                    });
                let [old, next, both] = [before, after, union].map(|set| set.count_ones() as usize);
                assert_eq!(majorities_meet(old, next, both), !apart, "{before:b} {after:b}");
            }
        }
    }

    #[test]
    fn half_is_no_majority() {
        assert!(is_majority(1, 1) && is_majority(2, 3) && !is_majority(1, 2) && !is_majority(2, 4));
    }
}
