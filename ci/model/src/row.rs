// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a member's row says (`membership/row.rs`), and the list of changes (`changes.rs`), packed.
//!
//! Processes are named by the order in which they joined: the number is the seniority, and it rises
//! with the rank in every view. A list holds whole batches only (L2), from the group's start on;
//! a batch is a byte: the processes that it removes, or, with `WISH`, those that leave (if they
//! are members) or join (if they are not).

/// A set of processes.
pub type Set = u8;

/// The processes of a set, in order.
pub fn each(set: Set) -> impl Iterator<Item = usize> {
    (0..8).filter(move |who| set >> who & 1 == 1)
}

pub const WISH: u8 = 0x80;
pub const BATCHES_MAX: u8 = 8;

/// Flags of a row.
pub const WEDGED: u8 = 1;
pub const ENDED: u8 = 2;
/// Its owner is in the next view.
pub const PASSED: u8 = 4;
pub const LEAVING: u8 = 8;
/// `READY << shard`: the shard's cut is here.
pub const READY: u8 = 16;

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Hash)]
pub struct List {
    bytes: u64,
}

impl List {
    #[cfg(test)]
    pub fn of(batches: &[u8]) -> List {
        let mut list = List::default();
        batches.iter().for_each(|batch| list.push(*batch));
        list
    }

    pub fn len(self) -> u8 {
        8 - (self.bytes.leading_zeros() / 8) as u8
    }

    pub fn at(self, at: u8) -> u8 {
        (self.bytes >> (8 * at)) as u8
    }

    pub fn push(&mut self, batch: u8) {
        let len = self.len();
        assert!(batch != 0 && len < BATCHES_MAX, "the list is full");
        self.bytes |= u64::from(batch) << (8 * len);
    }

    pub fn below(self, upto: u8) -> List {
        if upto >= 8 {
            return self;
        }
        List { bytes: self.bytes & ((1 << (8 * upto)) - 1) }
    }

    pub fn common(self, other: List) -> u8 {
        let differs = (self.bytes ^ other.bytes).trailing_zeros() / 8;
        (differs as u8).min(self.len()).min(other.len())
    }

    /// Fault M11: the last batch is not its own any more.
    pub fn merge_last(&mut self, removals: u8) {
        let at = self.len() - 1;
        let merged = self.at(at) | removals;
        self.bytes = self.below(at).bytes | u64::from(merged) << (8 * at);
    }

    /// Whom the batches from..upto remove because they are suspected.
    pub fn removed(self, from: u8, upto: u8) -> Set {
        let batches = (from..upto.min(self.len())).map(|at| self.at(at));
        batches.filter(|batch| batch & WISH == 0).fold(0, |set, batch| set | batch)
    }

    pub fn roster(self, founders: Set, epoch: u8) -> Set {
        (0..epoch.min(self.len())).fold(founders, |members, at| match self.at(at) {
            wish if wish & WISH != 0 => members ^ (wish & !WISH),
            removed => members & !removed,
        })
    }

    fn permuted(self, map: &[u8]) -> List {
        let mut list = List::default();
        (0..self.len()).for_each(|at| {
            let batch = self.at(at);
            list.push(batch & WISH | permuted(batch & !WISH, map));
        });
        list
    }
}

pub fn permuted(set: Set, map: &[u8]) -> Set {
    let bits = map.iter().enumerate().filter(|(from, _)| set >> from & 1 == 1);
    bits.fold(0, |all, (_, to)| all | 1 << to)
}

/// Counts of messages by stream (a sender in a shard), four bits each.
pub type Counts = u16;

pub fn count(counts: Counts, stream: usize) -> u16 {
    counts >> (4 * stream) & 15
}

pub fn least(one: Counts, two: Counts) -> Counts {
    (0..4).fold(0, |all, s| all | count(one, s).min(count(two, s)) << (4 * s))
}

pub fn most(one: Counts, two: Counts) -> Counts {
    (0..4).fold(0, |all, s| all | count(one, s).max(count(two, s)) << (4 * s))
}

pub fn within(one: Counts, two: Counts) -> bool {
    (0..4).all(|s| count(one, s) <= count(two, s))
}

/// The default row is that of a member of which nothing is known in this view.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Hash)]
pub struct Row {
    pub list: List,
    /// By stream; those of a shard count once it is ready.
    pub cut: Counts,
    /// Final receipts by stream; they count once the row is wedged.
    pub received: Counts,
    /// Whether its owner has published it in this view.
    pub here: bool,
    pub epoch: u8,
    pub suspects: Set,
    pub ballot: u8,
    /// Batches since the group's start.
    pub agreed: u8,
    pub flags: u8,
    /// Only with the fault V3: who is known to have left.
    pub left: Set,
}

impl Row {
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whom this row's list removes from its view.
    pub fn removed(&self) -> Set {
        self.list.removed(self.epoch, self.list.len())
    }

    /// Whose removal is agreed, as far as this member knows (`Membership::excluded`).
    pub fn removed_for_good(&self) -> Set {
        self.list.removed(self.epoch, self.agreed)
    }

    pub fn is_decided(&self) -> bool {
        self.agreed > self.epoch
    }

    pub fn permuted(mut self, map: &[u8]) -> Row {
        self.list = self.list.permuted(map);
        self.suspects = permuted(self.suspects, map);
        self.left = permuted(self.left, map);
        if self.here {
            self.ballot = map[self.ballot as usize];
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_makes_its_views() {
        let list = List::of(&[WISH | 0b1000, 0b0001, WISH | 0b0110]);
        let rosters: Vec<Set> = (0..4).map(|epoch| list.roster(0b111, epoch)).collect();
        assert_eq!(rosters, [0b111, 0b1111, 0b1110, 0b1000]);
        assert_eq!((list.len(), list.removed(0, 3), list.removed(2, 3)), (3, 1, 0));
        assert_eq!((list.below(1).len(), list.common(list.below(2)), list.below(8)), (1, 2, list));
        assert_eq!(list.common(List::of(&[WISH | 0b1000, 2])), 1);
        assert_eq!(List::default().len(), 0);
    }

    #[test]
    fn a_row_is_renamed_and_back() {
        let map = [0, 2, 1, 3];
        let row = Row {
            list: List::of(&[0b0010, WISH | 0b1000]),
            suspects: 0b0010,
            ballot: 2,
            here: true,
            ..Row::default()
        };
        let other = row.permuted(&map);
        assert_eq!((other.list.at(0), other.suspects, other.ballot), (0b0100, 0b0100, 1));
        assert_eq!(other.permuted(&map), row);
    }

    #[test]
    fn counts_are_compared_stream_by_stream() {
        assert_eq!((least(0x12, 0x21), most(0x12, 0x21)), (0x11, 0x22));
        assert!(within(0x11, 0x12) && !within(0x21, 0x12));
    }
}
