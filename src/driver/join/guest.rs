// SPDX-License-Identifier: MIT OR Apache-2.0
//! A process that is joined, or will be, and does not get the state: its source failed between the
//! join that all have agreed to and the end of the state.
//!
//! The others count on it: in a view of four whose source has failed, two are no majority, and
//! nothing is delivered without the one that has joined. So it takes part: it votes, it receives, it
//! delivers to nobody. It gives no state, and leaves in good order at once.
//!
//! G1  Its application hears nothing of this: to it the state that came is void, and another will
//!     begin (`StateSink::begin`).
//! G2  It stays until it has left, or until it is cut off, or until the group stops; and no longer
//!     than `open_timeout`.

use super::super::group::Group;
use super::super::letter::Letter;
use super::super::lines::Lines;
use super::super::{Application, StateSource};
use super::{Joining, Policy};
use crate::error::{Error, Status};
use crate::log_sink::{Level, say};
use crate::mem::{Message, Region};
use crate::mutant;
use crate::transfer::{Checkpoint, Version};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An application of nobody's.
struct Guest;

impl Application for Guest {
    fn deliver(&mut self, _subgroup: u16, _batch: &[Message]) {}

    fn source(&mut self) -> Option<&mut dyn StateSource> {
        Some(self)
    }
}

impl StateSource for Guest {
    fn checkpoint_open(&mut self, _version: &Version) -> Result<Box<dyn Checkpoint>, Error> {
        let detail = "this member has no state itself and is about to leave: ask another one";
        Err(Error::new(Status::NotComplete, detail))
    }
}

impl Joining<'_> {
    /// Takes part and leaves. `letter`: of the first view, if one has come.
    pub fn take_leave(
        &mut self,
        mut lines: Lines,
        policy: Policy,
        letter: Option<Letter>,
        (block, page): (Arc<Region>, Arc<Region>),
    ) -> Result<(), Error> {
        if mutant!("state-comes-anew-at-once") {
            return Ok(());
        }
        let start = Instant::now();
        let letter = match letter {
            Some(letter) => letter,
            None => {
                self.start = start; // as long as one that joins without a state
                self.wait(&mut lines, &policy)?
            }
        };
        let epoch = letter.roster.epoch.0;
        let text =
            format!("joined in view {epoch} without the whole state: leaving, to come again");
        say(Level::Notice, &text);
        let views = self.begin(&mut lines, policy, letter, block)?;
        let mut group = Group::joined(views, lines, Box::new(Guest), page, self.config);
        group.control().expect("views change").leave();
        while start.elapsed() < self.config.open_timeout {
            match group.turn(u32::MAX) {
                Ok(turn) if turn.busy => {}
                Ok(_) => drop(group.wait(Some(Duration::from_millis(1)))),
                Err(_) => break,
            }
        }
        Ok(())
    }
}
