// SPDX-License-Identifier: MIT OR Apache-2.0
//! My copy of what a member's row says of the membership.
//!
//! W1  A row is observed only when its `cold` has moved, guards first, each word once (T2): in the
//!     reverse of the order in which it is published (`sst/layout.rs`). So a suspicion that I see
//!     comes with every agreement and every echo that its owner made before (R6).
//! W2  Whoever is suspected is not observed again: this copy is its frozen row, whatever its owner
//!     still writes.
//! W3  Every word is checked before use. What no correct member writes is a fault of its owner, and
//!     of a look that meets it nothing is kept.
//!
//! Cost of a quiet look: one load.

use super::changes::{List, Record};
use super::roster::Roster;
use crate::base::{Count, Epoch, Members, Rank};
use crate::error::{CellName, Fault};
use crate::limits::{COUNT_MAX, MEMBERS_WORDS, SUBGROUPS_MAX};
use crate::mutant;
use crate::sst::Table;
use crate::sst::layout::{
    Column, MembersWord, RECORD_WORDS, RECORDS_MAX, SubgroupColumns, members_of,
};

/// A subgroup that I belong to, as the trim sees it.
#[derive(Clone, Debug)]
pub struct Shard {
    pub subgroup: usize,
    pub members: Members,
    pub senders: usize,
    pub columns: SubgroupColumns,
}

/// What a row says of one of my subgroups.
#[derive(Clone, Debug, Default)]
pub struct ShardRow {
    /// Final once the row is wedged.
    pub received: Vec<Count>,
    pub ready: bool,
    /// Final once ready.
    pub cut: Vec<Count>,
}

#[derive(Clone, Debug)]
pub struct Row {
    cold: u64,
    /// 0: nothing is known of that member in this view yet.
    pub installed: Epoch,
    pub suspects: Members,
    pub wedged: bool,
    pub leaving: bool,
    pub ended: bool,
    pub agreed: u64,
    /// Records of its journal that I have.
    records: usize,
    pub list: List,
    /// As my subgroups.
    pub shards: Vec<ShardRow>,
}

/// The words that guard others, as one look found them.
struct Guards {
    installed: Epoch,
    suspects: Members,
    ended: Epoch,
    agreed: Count,
    /// As my subgroups.
    ready: [Epoch; SUBGROUPS_MAX],
    wedged: Epoch,
    leaving: u64,
    changes: Count,
}

fn cell(column: &'static str, subgroup: usize, index: usize) -> CellName {
    CellName { column, subgroup: subgroup as u16, index: index as u16 }
}

fn bad<T>(column: Column<T>, value: u64) -> Fault {
    Fault::BadWord { cell: cell(column.name, CellName::NONE.into(), 0), value }
}

fn regressed<T>(column: Column<T>, from: u64, to: u64) -> Fault {
    Fault::Regressed { cell: cell(column.name, CellName::NONE.into(), 0), from, to }
}

/// A word that is 0 or the epoch, and stays what it is once it is that.
fn raised(column: Column<Epoch>, epoch: Epoch, before: bool, word: Epoch) -> Result<bool, Fault> {
    if before && word != epoch {
        return Err(regressed(column, epoch.0, word.0));
    }
    if word.0 != 0 && word != epoch {
        return Err(bad(column, word.0));
    }
    Ok(word == epoch)
}

impl Row {
    pub fn new(base: u64, shards: usize) -> Row {
        Row {
            cold: 0,
            installed: Epoch(0),
            suspects: Members::NONE,
            wedged: false,
            leaving: false,
            ended: false,
            agreed: base,
            records: 0,
            list: List { base, ballot: 0, changes: Vec::new() },
            shards: vec![ShardRow::default(); shards],
        }
    }

    /// How often it had moved at the last look.
    #[inline]
    pub fn cold(&self) -> u64 {
        self.cold
    }

    /// Whether that member was seen in this view.
    pub fn is_here(&self) -> bool {
        self.installed.0 != 0
    }

    /// Looks once. True if there was anything new; after a fault the row is what it was.
    pub fn look(
        &mut self,
        rank: Rank,
        table: &Table,
        roster: &Roster,
        shards: &[Shard],
    ) -> Result<bool, Fault> {
        let layout = &table.layout;
        let cold: u64 = table.observe(rank, layout.cold, 0);
        if cold == self.cold {
            return Ok(false);
        }
        if cold < self.cold {
            return Err(regressed(layout.cold, self.cold, cold));
        }
        let before = self.clone();
        let outcome = self.take(cold, rank, table, roster, shards);
        if outcome.is_err() {
            *self = before; // half a row is nobody's word
        }
        outcome.map(|()| true)
    }

    fn take(
        &mut self,
        cold: u64,
        rank: Rank,
        table: &Table,
        roster: &Roster,
        shards: &[Shard],
    ) -> Result<(), Fault> {
        self.cold = cold;
        let guards = Guards::observe(rank, table, shards);
        self.take_flags(rank, &guards, table, roster)?;
        self.take_records(rank, &guards, table, roster)?;
        for (at, shard) in shards.iter().enumerate() {
            if shard.members.contains(rank) {
                let column = shard.columns.cut_ready;
                let ready = raised(column, roster.epoch, self.shards[at].ready, guards.ready[at])?;
                self.take_shard(rank, at, shard, ready, table)?;
            }
        }
        Ok(())
    }

    fn take_flags(
        &mut self,
        rank: Rank,
        seen: &Guards,
        table: &Table,
        roster: &Roster,
    ) -> Result<(), Fault> {
        let (layout, epoch) = (&table.layout, roster.epoch);
        let installed = seen.installed;
        if installed < self.installed {
            return Err(regressed(layout.installed, self.installed.0, installed.0));
        }
        let next = Epoch(epoch.0 + 1);
        if installed.0 != 0 && installed != epoch && installed != next {
            return Err(bad(layout.installed, installed.0));
        }
        let suspects = seen.suspects;
        let others = roster.all().without(Members::from_ranks([rank]));
        if !others.covers(suspects) || !suspects.covers(self.suspects) {
            return Err(bad(layout.suspects, suspects.first().map_or(0, |rank| u64::from(rank.0))));
        }
        if seen.leaving > 1 || (self.leaving && seen.leaving == 0) {
            return Err(bad(layout.leaving, seen.leaving));
        }
        self.ended = raised(layout.ended, epoch, self.ended, seen.ended)?;
        self.wedged = raised(layout.wedged, epoch, self.wedged, seen.wedged)?;
        self.installed = installed;
        self.suspects = suspects;
        self.leaving = seen.leaving == 1;
        Ok(())
    }

    /// The journal's new records (L1), and how much of the list is agreed.
    fn take_records(
        &mut self,
        rank: Rank,
        seen: &Guards,
        table: &Table,
        roster: &Roster,
    ) -> Result<(), Fault> {
        let layout = &table.layout;
        let count = seen.changes.0;
        if count < self.records as u64 {
            return Err(regressed(layout.changes, self.records as u64, count));
        }
        if count > RECORDS_MAX as u64 {
            return Err(bad(layout.changes, count));
        }
        for at in self.records..count as usize {
            let mut words = [0; RECORD_WORDS];
            for (word, value) in words.iter_mut().enumerate() {
                *value = table.observe(rank, layout.change, at * RECORD_WORDS + word);
            }
            let wrong = Fault::BadWord {
                cell: cell("change", CellName::NONE.into(), at * RECORD_WORDS),
                value: words[0],
            };
            let record = Record::of_words(words).ok_or(wrong)?;
            if !self.list.apply(record, self.agreed, at == 0, roster) {
                return Err(wrong);
            }
        }
        self.records = count as usize;
        if mutant!("view-count-read-twice") {
            self.records = table.observe(rank, layout.changes, 0).0 as usize;
        }
        if !self.list.is_whole() {
            return Err(bad(layout.changes, count));
        }
        let agreed = seen.agreed.0;
        // A row that was never written has agreed to nothing.
        if agreed == 0 && count == 0 {
            return Ok(());
        }
        if agreed < self.agreed {
            return Err(regressed(layout.agreed, self.agreed, agreed));
        }
        if agreed > self.list.upto() {
            return Err(bad(layout.agreed, agreed));
        }
        self.agreed = agreed;
        Ok(())
    }

    fn take_shard(
        &mut self,
        rank: Rank,
        at: usize,
        shard: &Shard,
        ready: bool,
        table: &Table,
    ) -> Result<(), Fault> {
        let columns = &shard.columns;
        let mine = &mut self.shards[at];
        if ready && !mine.ready {
            mine.cut = counts(rank, columns.cut, shard, table)?;
            mine.ready = true;
        }
        if self.wedged && mine.received.is_empty() {
            mine.received = counts(rank, columns.received, shard, table)?;
        }
        Ok(())
    }
}

fn counts(
    rank: Rank,
    column: Column<Count>,
    shard: &Shard,
    table: &Table,
) -> Result<Vec<Count>, Fault> {
    let mut counts = Vec::with_capacity(shard.senders);
    for sender in 0..shard.senders {
        let count: Count = table.observe(rank, column, sender);
        if count.0 > COUNT_MAX {
            let cell = cell(column.name, shard.subgroup, sender);
            return Err(Fault::BadWord { cell, value: count.0 });
        }
        counts.push(count);
    }
    Ok(counts)
}

impl Guards {
    /// From the level that is published last to the one before the data (R6).
    fn observe(rank: Rank, table: &Table, shards: &[Shard]) -> Guards {
        let layout = &table.layout;
        let suspects = || {
            let mut words = [MembersWord(0); MEMBERS_WORDS];
            for (at, word) in words.iter_mut().enumerate() {
                *word = table.observe(rank, layout.suspects, at);
            }
            members_of(words)
        };
        let installed = table.observe(rank, layout.installed, 0);
        let early = (!mutant!("view-suspects-observed-last")).then(suspects);
        let ended = table.observe(rank, layout.ended, 0);
        let agreed = table.observe(rank, layout.agreed, 0);
        let mut ready = [Epoch(0); SUBGROUPS_MAX];
        for (at, shard) in shards.iter().enumerate() {
            if shard.members.contains(rank) {
                ready[at] = table.observe(rank, shard.columns.cut_ready, 0);
            }
        }
        let wedged = table.observe(rank, layout.wedged, 0);
        let leaving = table.observe(rank, layout.leaving, 0);
        let changes = table.observe(rank, layout.changes, 0);
        let suspects = early.unwrap_or_else(suspects);
        Guards { installed, suspects, ended, agreed, ready, wedged, leaving, changes }
    }
}
