// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table: one row per member, a mirror of every row at every member.
//!
//! I write my row only; peers' rows change under me. Nothing here waits, posts or knows time.
//!
//! T1  My cells never go back (asserted in `advance`, by construction in `raise`).
//! T2  Each foreign cell is observed at most once per poll: two looks may differ.
//! T3  Each column lies on lines of its own kind: what one thread writes in the steady state is one
//!     hot line per subgroup; what changes rarely lies elsewhere.
//!
//! Cost: `observe` is one load; `advance` is one load of an own line and one store. No allocation
//! after `new`.

pub mod frontier;
pub mod inbox;
pub mod kept;
pub mod lane;
pub mod layout;
pub mod producer;
pub mod ring;
pub mod stores;

#[cfg(all(test, not(loom)))]
mod batch_tests;
#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;

use crate::base::{Rank, Word};
use crate::mem::{CellRef, Region};
use layout::{Column, Layout};
use std::sync::Arc;

/// Called before every word that is observed or advanced. The simulator lets the rest of the world
/// move in it.
pub type Hook = fn(Rank);

/// All rows: mine to write, the others' to observe.
pub struct Table {
    pub layout: Arc<Layout>,
    me: Rank,
    /// Control blocks by rank; mine is memory that I own, the others are mirrors.
    blocks: Vec<Arc<Region>>,
    hook: Option<Hook>,
}

/// A cell of a row, found once.
pub struct Spot<T> {
    row: Rank,
    column: Column<T>,
    cell: CellRef,
}

impl Table {
    pub fn new(
        layout: Arc<Layout>,
        me: Rank,
        blocks: Vec<Arc<Region>>,
        hook: Option<Hook>,
    ) -> Self {
        assert!(me.index() < blocks.len());
        for block in &blocks {
            assert!(block.size() >= layout.control_bytes);
        }
        Table { layout, me, blocks, hook }
    }

    pub fn me(&self) -> Rank {
        self.me
    }

    pub fn members(&self) -> usize {
        self.blocks.len()
    }

    /// Moves a cell of mine forward. Panics if it would go back (T1).
    #[inline(always)]
    pub fn advance<T: Word>(&mut self, column: Column<T>, at: usize, value: T) {
        if let Some(hook) = self.hook {
            hook(self.me);
        }
        let cell = self.blocks[self.me.index()].cell(column.byte(at));
        let value = value.to_word();
        assert!(cell.own() <= value, "my cell {}[{at}] would go back", column.name);
        cell.publish(value);
    }

    /// As `advance`, for a cell of mine that other threads of this process move, too (`beat`): it is
    /// moved to `value`, unless it is beyond already.
    pub fn raise<T: Word>(&mut self, column: Column<T>, at: usize, value: T) {
        self.blocks[self.me.index()].cell(column.byte(at)).raise(value.to_word());
    }

    /// Sets a cell of mine that is a flag and no count (`asleep`).
    #[inline(always)]
    pub fn set<T: Word>(&mut self, column: Column<T>, at: usize, value: T) {
        self.blocks[self.me.index()].cell(column.byte(at)).publish(value.to_word());
    }

    /// Reads a cell of mine back.
    #[inline(always)]
    pub fn own<T: Word>(&self, column: Column<T>, at: usize) -> T {
        T::from_word(self.blocks[self.me.index()].cell(column.byte(at)).own())
    }

    /// Looks at a cell of any row: once per poll and cell (T2), guards first. `// N`
    #[inline(always)]
    pub fn observe<T: Word>(&self, row: Rank, column: Column<T>, at: usize) -> T {
        if let Some(hook) = self.hook {
            hook(row);
        }
        T::from_word(self.blocks[row.index()].cell(column.byte(at)).observe())
    }

    /// Finds a cell, for those that are looked at or moved in every turn.
    pub fn spot<T>(&self, row: Rank, column: Column<T>, at: usize) -> Spot<T> {
        let cell = CellRef::new(&self.blocks[row.index()], column.byte(at));
        Spot { row, column, cell }
    }

    /// As `advance`, for a cell of mine that has been found.
    #[inline(always)]
    pub fn advance_spot<T: Word>(&mut self, spot: &Spot<T>, value: T) {
        if let Some(hook) = self.hook {
            hook(self.me);
        }
        let value = value.to_word();
        assert!(spot.cell.own() <= value, "my cell {} would go back", spot.column.name);
        spot.cell.publish(value);
    }

    /// As `observe`, for a cell that has been found. `// N`
    #[inline(always)]
    pub fn observe_spot<T: Word>(&self, spot: &Spot<T>) -> T {
        if let Some(hook) = self.hook {
            hook(spot.row);
        }
        T::from_word(spot.cell.observe())
    }

    pub fn block(&self, row: Rank) -> &Arc<Region> {
        &self.blocks[row.index()]
    }

    pub fn hook(&self) -> Option<Hook> {
        self.hook
    }
}
