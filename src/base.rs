// SPDX-License-Identifier: MIT OR Apache-2.0
//! Data that crosses rooms: names of members, counts, sets, and the one verb to the world.
//!
//! Everything here is a value: no behaviour beyond arithmetic, no memory, no time.
//!
//! B1  A `Count` or `Number` is half-open: `Count(3)` means that 0, 1 and 2 are here.
//! B2  On the wire each of these is one 64-bit word, little-endian, read and written whole.

use crate::limits::{MEMBERS_MAX, MEMBERS_WORDS, WIRE_VERSION};
use std::fmt;

/// What a 64-bit cell of the table may hold.
pub trait Word: Copy {
    fn to_word(self) -> u64;
    fn from_word(word: u64) -> Self;
}

macro_rules! word {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
        pub struct $name(pub u64);
        impl Word for $name {
            #[inline(always)]
            fn to_word(self) -> u64 {
                self.0
            }
            #[inline(always)]
            fn from_word(word: u64) -> Self {
                $name(word)
            }
        }
    };
}

word!(
    /// How many messages of one sender (nulls included, unless a name says *slots*).
    Count
);
word!(
    /// How long a prefix of a subgroup's total order.
    Number
);
word!(
    /// The number of a view; 0 is no view, the first one is 1.
    Epoch
);
word!(
    /// Time since an arbitrary start, in nanoseconds; only differences mean anything.
    Nanos
);

/// Versions of the wire that a process speaks: all from the first to the last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Versions {
    pub min: u16,
    pub max: u16,
}

impl Versions {
    /// This library's.
    pub const OURS: Versions = Versions { min: 1, max: WIRE_VERSION as u16 };

    pub fn is_sound(self) -> bool {
        1 <= self.min && self.min <= self.max
    }

    pub fn speaks(self, version: u16) -> bool {
        self.min <= version && version <= self.max
    }

    /// What a group of such members runs at: the highest that all speak, which is the highest of the
    /// member that lags behind most. `None`: there is none. Of any two there is one if and only if
    /// there is one of all.
    pub fn common(all: impl IntoIterator<Item = Versions>) -> Option<u16> {
        let any = Versions { min: 1, max: u16::MAX };
        let of_both =
            |a: Versions, b: Versions| Versions { min: a.min.max(b.min), max: a.max.min(b.max) };
        let common = all.into_iter().fold(any, of_both);
        (common.min <= common.max).then_some(common.max)
    }

    /// As in hellos and letters: `1`, or `1-2`.
    pub fn text(self) -> String {
        match self.min == self.max {
            true => self.max.to_string(),
            false => format!("{}-{}", self.min, self.max),
        }
    }

    /// `None`: that is no such text.
    pub fn parse(text: &str) -> Option<Versions> {
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        let versions = Versions { min: min.parse().ok()?, max: max.parse().ok()? };
        versions.is_sound().then_some(versions)
    }
}
const _: () = assert!(WIRE_VERSION >= 1 && WIRE_VERSION <= u16::MAX as u32);

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.min == self.max { "" } else { "s" };
        write!(f, "wire version{plural} {}", self.text().replace('-', " to "))
    }
}

/// Position of a member in its view.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Rank(pub u16);

impl Rank {
    #[inline(always)]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// One incarnation's connection: it exists before it has a rank and dies with the connection.
/// A view maps ranks to peers; with views that do not change yet, `Peer(r)` is rank `r`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Peer(pub u16);

/// A set of ranks. On the wire such sets only gain bits, so their words may land one by one.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Members([u64; MEMBERS_WORDS]);

impl std::fmt::Debug for Members {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter().map(|rank| rank.0)).finish()
    }
}

impl Members {
    pub const NONE: Members = Members([0; MEMBERS_WORDS]);

    pub fn from_ranks(ranks: impl IntoIterator<Item = Rank>) -> Self {
        let mut set = Self::NONE;
        for rank in ranks {
            set.insert(rank);
        }
        set
    }

    #[inline]
    pub fn insert(&mut self, rank: Rank) {
        assert!(rank.index() < MEMBERS_MAX);
        self.0[rank.index() / 64] |= 1 << (rank.index() % 64);
    }

    #[inline]
    pub fn remove(&mut self, rank: Rank) {
        assert!(rank.index() < MEMBERS_MAX);
        self.0[rank.index() / 64] &= !(1 << (rank.index() % 64));
    }

    #[inline]
    pub fn contains(&self, rank: Rank) -> bool {
        rank.index() < MEMBERS_MAX && self.0[rank.index() / 64] >> (rank.index() % 64) & 1 == 1
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    #[inline]
    pub fn union(mut self, other: Members) -> Members {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine |= theirs;
        }
        self
    }

    #[inline]
    pub fn without(mut self, other: Members) -> Members {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine &= !theirs;
        }
        self
    }

    /// Those that are in both.
    #[inline]
    pub fn common(self, other: Members) -> Members {
        self.without(self.without(other))
    }

    /// Whether every one of `other` is in it.
    #[inline]
    pub fn covers(self, other: Members) -> bool {
        other.without(self).is_empty()
    }

    /// The ranks below `bound`.
    pub fn below(bound: Rank) -> Members {
        Members::from_ranks((0..bound.0).map(Rank))
    }

    /// The lowest rank.
    #[inline]
    pub fn first(self) -> Option<Rank> {
        self.iter().next()
    }

    /// The ranks in ascending order.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = Rank> {
        self.0.into_iter().enumerate().flat_map(|(at, mut word)| {
            std::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros())?;
                word &= word - 1;
                Some(Rank((at * 64) as u16 + bit as u16))
            })
        })
    }
}

/// One of my rings: that of a lane of mine in a subgroup.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct RingId {
    pub subgroup: u16,
    pub lane: u16,
}

/// How many words one `Post::Words` carries at the most: a 64-byte line, inline on every device.
pub const POST_WORDS_MAX: usize = 8;

/// One write into my mirrors at `to`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Post {
    /// Values of adjoining cells of my control block, from byte `at`. They are carried by value and
    /// each is meaningful alone: the words of one post may land in any order. Without `news` they may
    /// wait a little for the next post, whoever has room does not care (F2 holds all the same).
    Words { to: Members, at: u32, values: [u64; POST_WORDS_MAX], len: u8, news: bool },
    /// Bytes `from..upto` of one of my rings (offsets within the ring, never across its end). They
    /// are read from my memory whenever the fabric gets to it, so they stay still until released.
    Span { to: Members, ring: RingId, from: u64, upto: u64 },
    /// Nothing but a wake-up, where the peers read my memory itself. Without `news` only those who
    /// wait for room in a ring care.
    Bell { to: Members, news: bool },
}

impl Post {
    pub fn to(&self) -> Members {
        match self {
            Post::Words { to, .. } | Post::Span { to, .. } | Post::Bell { to, .. } => *to,
        }
    }
}

/// What the fabric has to report.
#[derive(Clone, Copy, Default, Debug)]
pub struct Events {
    /// Peers whose connection ended.
    pub lost: Members,
    /// Peers that take no posts now.
    pub full: Members,
}

/// How much a fabric wants to hear.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Posting {
    /// Shared memory, and nobody ever sleeps: stores are enough (F6).
    Nothing,
    /// Shared memory: a ring of the bell is enough.
    Bells,
    /// Everything.
    #[default]
    All,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_a_set() {
        let set = Members::from_ranks([Rank(5), Rank(0), Rank(63)]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [Rank(0), Rank(5), Rank(63)]);
        assert_eq!(set.len(), 3);
        let other = Members::from_ranks([Rank(5)]);
        assert!(!set.without(other).contains(Rank(5)));
        assert_eq!(set.without(other).union(other), set);
        assert_eq!(
            set.common(Members::below(Rank(6))).iter().collect::<Vec<_>>(),
            [Rank(0), Rank(5)]
        );
        assert!(set.covers(other) && !other.covers(set) && set.first() == Some(Rank(0)));
        assert!(Members::NONE.is_empty() && !set.contains(Rank(64)));
    }
}
