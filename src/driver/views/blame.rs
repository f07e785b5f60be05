// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why somebody is suspect, for who is told of it when that one is gone: in the next view, or, if it
//! became suspect too late for that, in the one after.

use super::Views;
use super::info::{MemberInfo, member_info};
use crate::base::{Members, Rank};
use crate::error::{Fault, Suspicion};
use crate::group::membership::roster::Roster;

impl Views {
    /// The first reason counts.
    pub fn note(&mut self, suspicions: &[Suspicion]) {
        for suspicion in suspicions {
            if self.fault_of(suspicion.rank).is_none() {
                self.faults.push(*suspicion);
            }
        }
    }

    fn fault_of(&self, rank: Rank) -> Option<Fault> {
        Some(self.faults.iter().find(|suspicion| suspicion.rank == rank)?.fault)
    }

    /// Why those are suspect with whom the view of `roster` begins; ranks are of that one.
    pub(super) fn held_against(&self, suspects: Members, roster: &Roster) -> Vec<Suspicion> {
        let here = roster.all().without(suspects).first().expect("I am not suspect");
        let next = |rank: Rank| roster.rank_of(self.roster.seniority(rank));
        let fault = |rank: Rank| {
            let before = self.roster.rank_of(roster.seniority(rank));
            match before.and_then(|rank| self.fault_of(rank)) {
                Some(Fault::Reported { by }) => Fault::Reported { by: next(by).unwrap_or(here) },
                Some(fault) => fault,
                // Who joins is told whom the others suspect, and not why.
                None => Fault::Reported { by: here },
            }
        };
        suspects.iter().map(|rank| Suspicion { rank, fault: fault(rank) }).collect()
    }

    /// A member of the old view that is not in the next, and why.
    pub(super) fn departed(&self, rank: Rank) -> (MemberInfo, Fault) {
        let left = Fault::Left { also: Members::NONE };
        (member_info(&self.roster, rank), self.fault_of(rank).unwrap_or(left))
    }
}
