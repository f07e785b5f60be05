// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of the view before, for a member that finds itself in a minority: whether it was expelled.
//!
//! Who has passed on looks at those rows no more. If others come to suspect it there, they tell it in
//! them, and close their connections; in the view that follows it may hear nothing but that. It would
//! stop all the same, but say that it is in a minority, where they have gone on without it.
//!
//! Not for deciding whether to stop: what one says that is gone is no reason to, while a majority is
//! left.
//!
//! Cost: an `Arc` per member for as long as the view; a look when this member stops.

use super::Membership;
use super::roster::Roster;
use crate::base::{Rank, Word};
use crate::limits::MEMBERS_WORDS;
use crate::mem::Region;
use crate::mutant;
use crate::sst::Table;
use crate::sst::layout::{Column, MembersWord, members_of};
use std::sync::Arc;

pub(super) struct Before {
    /// By rank of this view; `None`: it was not in the one before.
    blocks: Vec<Option<Arc<Region>>>,
    suspects: Column<MembersWord>,
    /// Mine, there.
    me: Rank,
}

impl Before {
    fn suspects_me(&self, rank: Rank) -> bool {
        let Some(block) = &self.blocks[rank.index()] else { return false };
        let mut words = [MembersWord(0); MEMBERS_WORDS];
        for (at, word) in words.iter_mut().enumerate() {
            *word = MembersWord::from_word(block.cell(self.suspects.byte(at)).observe());
        }
        members_of(words).contains(self.me)
    }
}

impl Membership {
    /// What this member saw of the view that `roster` was.
    pub fn remember(&mut self, table: &Table, roster: &Roster) {
        let block = |member: &super::roster::Member| {
            Some(table.block(roster.rank_of(member.seniority)?).clone())
        };
        let blocks = self.roster.members.iter().map(block).collect();
        self.before = Some(Before { blocks, suspects: table.layout.suspects, me: roster.me });
    }

    /// A suspect of mine that had said in the view before that I was one.
    pub(super) fn expelled_before(&self) -> Option<Rank> {
        let before = self.before.as_ref().filter(|_| !mutant!("view-before-is-forgotten"))?;
        self.suspects().iter().find(|rank| before.suspects_me(*rank))
    }
}
