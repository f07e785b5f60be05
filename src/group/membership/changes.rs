// SPDX-License-Identifier: MIT OR Apache-2.0
//! The changes of a group's membership: records on the wire, and the list that they make.
//!
//! A record is four words:
//!
//! ```text
//! word 0   kind (bits 0..8), ends a batch (bit 8), extra of the address (16..32), position (32..64)
//! word 1   ballot: the leader's seniority; join: the incarnation; leave, remove: the seniority
//! word 2   join: address
//! word 3   join: the lowest (bits 0..16) and the highest (16..32) wire version that it speaks
//! ```
//!
//! L1  Records are only appended. A `ballot` record says: from here on I follow the leader of that
//!     seniority (R1), and of my list the part from the position on is no longer mine.
//! L2  A list consists of whole batches: its last change ends one. The next view is the old one
//!     after the first batch.
//! L3  Positions count the changes of the group's whole life; a list begins at its view's base.
//! L4  Who joins speaks the version of the view that it is proposed in (`Roster::wire`), and stands in
//!     the first batch: the next view may run at a later one.

use super::roster::{Address, Roster};
use crate::base::Versions;
use crate::limits::MEMBERS_MAX;
use crate::sst::layout::RECORD_WORDS;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    Join {
        incarnation: u64,
        address: Address,
        versions: Versions,
    },
    /// Asked for by the member, by seniority; it takes part until the next view is installed.
    Leave {
        member: u64,
    },
    /// Suspected; nobody waits for it once a majority has agreed.
    Remove {
        member: u64,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    pub what: What,
    /// The last of its batch.
    pub ends: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Record {
    Ballot { at: u64, ballot: u64 },
    Change { at: u64, change: Change },
}

const BALLOT: u64 = 1;
const JOIN: u64 = 2;
const LEAVE: u64 = 3;
const REMOVE: u64 = 4;
const ENDS: u64 = 1 << 8;

impl Record {
    pub fn words(self) -> [u64; RECORD_WORDS] {
        let head = |kind: u64, at: u64| kind | at << 32;
        let (at, change) = match self {
            Record::Ballot { at, ballot } => return [head(BALLOT, at), ballot, 0, 0],
            Record::Change { at, change } => (at, change),
        };
        let ends = if change.ends { ENDS } else { 0 };
        match change.what {
            What::Join { incarnation, address: Address { word, extra }, versions } => {
                let extra = u64::from(extra) << 16;
                let versions = u64::from(versions.min) | u64::from(versions.max) << 16;
                [head(JOIN, at) | ends | extra, incarnation, word, versions]
            }
            What::Leave { member } => [head(LEAVE, at) | ends, member, 0, 0],
            What::Remove { member } => [head(REMOVE, at) | ends, member, 0, 0],
        }
    }

    /// The record that those words are, if they are one.
    pub fn of_words(words: [u64; RECORD_WORDS]) -> Option<Record> {
        let [head, who, one, two] = words;
        let (at, ends) = (head >> 32, head & ENDS != 0);
        let what = match head & 0xff {
            BALLOT => {
                let record = Record::Ballot { at, ballot: who };
                return (record.words() == words).then_some(record);
            }
            JOIN => {
                let address = Address { word: one, extra: (head >> 16) as u16 };
                let versions = Versions { min: two as u16, max: (two >> 16) as u16 };
                if !versions.is_sound() {
                    return None;
                }
                What::Join { incarnation: who, address, versions }
            }
            LEAVE => What::Leave { member: who },
            REMOVE => What::Remove { member: who },
            _ => return None,
        };
        let record = Record::Change { at, change: Change { what, ends } };
        (record.words() == words).then_some(record)
    }
}

/// The changes that a member knows beyond its view, and whose proposal they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List {
    pub base: u64,
    /// The seniority of the leader that it was last copied from.
    pub ballot: u64,
    pub changes: Vec<Change>,
}

impl List {
    pub fn upto(&self) -> u64 {
        self.base + self.changes.len() as u64
    }

    /// Where the first batch ends: the changes below it make the next view.
    pub fn first_end(&self) -> Option<u64> {
        let at = self.changes.iter().position(|change| change.ends)?;
        Some(self.base + at as u64 + 1)
    }

    pub fn first_batch(&self) -> &[Change] {
        self.below(self.first_end().unwrap_or(self.base))
    }

    /// The changes before that position.
    pub fn below(&self, upto: u64) -> &[Change] {
        &self.changes[..(upto.clamp(self.base, self.upto()) - self.base) as usize]
    }

    /// Whether a removal of that member stands before the position.
    pub fn removes(&self, member: u64, upto: u64) -> bool {
        self.below(upto).iter().any(|change| change.what == What::Remove { member })
    }

    pub fn joins(&self, who: u64) -> bool {
        let joins = |what| matches!(what, What::Join { incarnation, .. } if incarnation == who);
        self.changes.iter().any(|change| joins(change.what))
    }

    /// How far two lists are the same.
    pub fn common(&self, other: &List) -> u64 {
        assert_eq!(self.base, other.base);
        let both = self.changes.iter().zip(&other.changes);
        self.base + both.take_while(|(mine, theirs)| mine == theirs).count() as u64
    }

    pub fn is_whole(&self) -> bool {
        self.changes.last().is_none_or(|change| change.ends)
    }

    /// Applies a peer's next record, or refuses what no correct member writes. `agreed`: how much
    /// of the list its owner cannot give up any more.
    pub fn apply(&mut self, record: Record, agreed: u64, first: bool, roster: &Roster) -> bool {
        match record {
            Record::Ballot { at, ballot } => {
                let newer = if first { ballot >= self.ballot } else { ballot > self.ballot };
                if !newer || ballot >= roster.base || at > self.upto() || at < agreed.max(self.base)
                {
                    return false;
                }
                self.ballot = ballot;
                self.changes.truncate((at - self.base) as usize);
                true
            }
            Record::Change { at, change } => {
                let sound = !first && at == self.upto() && self.takes(change.what, roster);
                if sound {
                    self.changes.push(change);
                }
                sound
            }
        }
    }

    /// Whether a change may follow.
    fn takes(&self, what: What, roster: &Roster) -> bool {
        let gone = |member| self.removes(member, self.upto());
        match what {
            What::Join { incarnation, versions, .. } => {
                let joins = |change: &&Change| matches!(change.what, What::Join { .. });
                let joined = self.changes.iter().filter(joins).count();
                incarnation != 0
                    && roster.takes(versions) // L4
                    && self.first_end().is_none()
                    && roster.members.iter().all(|member| member.incarnation != incarnation)
                    && !self.joins(incarnation)
                    && roster.len() + joined < MEMBERS_MAX
            }
            What::Leave { member } => {
                let leave = |change: &Change| change.what == What::Leave { member };
                roster.rank_of(member).is_some() && !gone(member) && !self.changes.iter().any(leave)
            }
            // It may have left with the view before: then its removal, agreed later, is void.
            What::Remove { member } => member < roster.base && !gone(member),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Members, Rank};
    use crate::group::membership::Carry;

    const JOINER: What = What::Join {
        incarnation: 77,
        address: Address { word: u64::MAX, extra: 0xbeef },
        versions: Versions { min: 1, max: 0xfffe },
    };

    fn roster() -> Roster {
        let founders = [1, 2, 3].map(|id| (id, Address::default()));
        Roster::first(&founders, Rank(0))
    }

    fn empty() -> List {
        List { base: 3, ballot: 0, changes: Vec::new() }
    }

    fn change(at: u64, what: What, ends: bool) -> Record {
        Record::Change { at, change: Change { what, ends } }
    }

    #[test]
    fn records_survive_the_wire_and_nothing_else_does() {
        let records = [
            Record::Ballot { at: 9, ballot: 4 },
            change(7, JOINER, false),
            change(7, What::Leave { member: 2 }, true),
            change(u64::from(u32::MAX), What::Remove { member: 1 }, true),
        ];
        for record in records {
            assert_eq!(Record::of_words(record.words()), Some(record));
            let mut words = record.words();
            words[0] |= 1 << 9;
            assert_eq!(Record::of_words(words), None, "an unknown bit");
        }
        let versions = |min: u64, max: u64| [JOIN, 77, 0, min | max << 16];
        assert!(Record::of_words(versions(2, 3)).is_some());
        let wrong = [versions(0, 0), versions(3, 2), versions(1, 1 << 16 | 1)];
        assert!(wrong.iter().all(|words| Record::of_words(*words).is_none()));
        for words in [[0; 4], [9, 1, 0, 0], [REMOVE, 1, 1, 0], [BALLOT, 1, 0, 1]] {
            assert_eq!(Record::of_words(words), None);
        }
    }

    #[test]
    fn a_ballot_cuts_what_its_leader_never_had() {
        let (mut list, roster) = (empty(), roster());
        assert!(!list.apply(change(3, JOINER, true), 3, true, &roster), "the ballot comes first");
        assert!(list.apply(Record::Ballot { at: 3, ballot: 0 }, 3, true, &roster));
        assert!(list.apply(change(3, JOINER, true), 3, false, &roster));
        assert_eq!((list.upto(), list.first_end()), (4, Some(4)));
        assert!(!list.apply(Record::Ballot { at: 3, ballot: 0 }, 3, false, &roster), "not newer");
        assert!(!list.apply(Record::Ballot { at: 5, ballot: 1 }, 3, false, &roster), "beyond");
        assert!(!list.apply(Record::Ballot { at: 3, ballot: 1 }, 4, false, &roster), "agreed");
        assert!(!list.apply(Record::Ballot { at: 3, ballot: 3 }, 3, false, &roster), "nobody's");
        assert!(list.apply(Record::Ballot { at: 3, ballot: 1 }, 3, false, &roster));
        assert_eq!((list.upto(), list.first_end(), list.ballot), (3, None, 1));
    }

    /// The last old member leaves in the first batch, and the second one joins a process as old: the view
    /// in between runs at a version that it does not speak. No leader proposes that; whoever followed one
    /// that did stopped at an assertion as it began that view.
    #[test]
    fn who_joins_stands_in_the_first_batch() {
        let (one, two) = (Versions { min: 1, max: 1 }, Versions { min: 1, max: 2 });
        let founders = [(1, one), (2, two), (3, two)];
        let founders = founders.map(|(id, versions)| (id, Address::default(), versions));
        let roster = Roster::founded(&founders, Rank(1));
        let join = What::Join { incarnation: 9, address: Address::default(), versions: one };
        let mut list = empty();
        assert!(list.apply(Record::Ballot { at: 3, ballot: 0 }, 3, true, &roster));
        assert!(list.apply(change(3, What::Leave { member: 0 }, true), 3, false, &roster));
        if list.apply(change(4, join, true), 3, false, &roster) {
            let next = roster.next(list.first_batch()).unwrap();
            assert_eq!((roster.wire(), next.wire()), (1, 2));
            let list = List { base: 4, ballot: 0, changes: list.changes[1..].to_vec() };
            let (suspects, ahead) = (Members::NONE, Vec::new());
            let carry = Carry { agreed: 4, list, suspects, ahead };
            assert!(carry.is_sound(&next), "it begins the next view with that");
            panic!("a join in the second batch");
        }
        assert!(list.apply(change(4, What::Remove { member: 1 }, true), 3, false, &roster));
    }

    #[test]
    fn changes_that_contradict_their_list_are_refused() {
        let (mut list, roster) = (empty(), roster());
        assert!(list.apply(Record::Ballot { at: 3, ballot: 0 }, 3, true, &roster));
        let mut takes = |at, what| list.apply(change(at, what, false), 3, false, &roster);
        assert!(!takes(4, JOINER), "a gap");
        assert!(takes(3, JOINER) && !takes(4, JOINER), "twice");
        let join = |incarnation, versions| {
            let address = Address::default();
            What::Join { incarnation, address, versions }
        };
        assert!(!takes(4, join(2, Versions::OURS)), "a member already");
        let later = Versions { min: Versions::OURS.max + 1, max: 9 };
        assert!(!takes(4, join(78, later)), "it does not speak what the view does (L4)");
        assert!(!takes(4, What::Remove { member: 3 }) && !takes(4, What::Leave { member: 9 }));
        assert!(takes(4, What::Leave { member: 1 }) && !takes(5, What::Leave { member: 1 }));
        assert!(takes(5, What::Remove { member: 1 }), "who leaves can still fail");
        assert!(!takes(6, What::Remove { member: 1 }));
        assert!(!list.is_whole() && list.first_end().is_none());
        assert!(list.removes(1, 6) && !list.removes(1, 5));
    }
}
