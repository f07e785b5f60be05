// SPDX-License-Identifier: MIT OR Apache-2.0
//! Because of whom a lane of mine has no room: for the policy of lag (`group/detector/lag.rs`).
//!
//! A slot is free again when every member has released it, and a member releases it when its own
//! callbacks have returned; before that it must be stable, for which every member must have the order
//! up to it, for which every sender before it must have sent or passed its turn. Whoever stands
//! still may do so because of another. So only the first cause is named: who has a stable message
//! and does not release it; else who lacks what I have; else whose turn the order waits for.

use super::{Lane, Multicast};
use crate::base::{Count, Number, Rank};
use crate::sst::Table;
use crate::sst::frontier;
use crate::sst::layout::Mode;

impl Multicast {
    /// Says of everyone because of whom a lane of mine has no room how far it has got. Nobody is
    /// named while I am a cause myself. Not to be asked once the view is wedged.
    pub fn laggards(&self, table: &Table, mut say: impl FnMut(Rank, u64)) {
        for lane in &self.lanes {
            let Some(released) = lane.taker.waits_beyond() else { continue };
            // Its first message that was not released then. If there is none I have not polled.
            if released < lane.next {
                match self.mode {
                    Mode::Stable => self.stable_laggards(table, lane, released, &mut say),
                    Mode::Received => self.received_laggards(table, lane, released, &mut say),
                }
            }
        }
    }

    fn received_laggards(
        &self,
        table: &Table,
        lane: &Lane,
        released: Count,
        say: &mut impl FnMut(Rank, u64),
    ) {
        if self.consumed[lane.s] <= released {
            return;
        }
        for other in &self.others {
            let its: Count = table.observe(other.rank, self.columns.released_by, lane.s);
            if its <= released {
                say(other.rank, its.0);
            }
        }
    }

    fn stable_laggards(
        &self,
        table: &Table,
        lane: &Lane,
        released: Count,
        say: &mut impl FnMut(Rank, u64),
    ) {
        // The message has this number: who is past it has a prefix above.
        let number = Number(released.0 * self.received.len() as u64 + lane.s as u64);
        if self.stable > number {
            if self.delivered <= number {
                return;
            }
            for other in &self.others {
                let its: Number = table.observe(other.rank, self.columns.released, 0);
                if its <= number {
                    say(other.rank, its.0);
                }
            }
        } else if self.prefix > number {
            for other in self.others.iter().filter(|other| other.seen <= number) {
                say(other.rank, other.seen.0);
            }
        } else {
            // The first hole of the order is its owner's turn.
            let s = (self.prefix.0 % self.received.len() as u64) as usize;
            debug_assert_eq!(
                frontier::share(self.prefix, s, self.received.len()),
                self.received[s]
            );
            if let Some(sender) = self.foreign.iter().find(|sender| sender.s == s) {
                say(sender.rank, self.received[s].0);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::super::transcript::Stage;
    use crate::base::Rank;
    use crate::sst::layout::{Mode, Shape};

    fn stage(mode: Mode) -> Stage {
        let shape = Shape {
            senders: 0,
            lanes: 0,
            mode,
            window: 2,
            message_bytes_max: 16,
            ring_bytes: 4096,
        };
        Stage::new(3, &[Rank(0), Rank(1)], shape)
    }

    /// Sends in 0 until there is no room.
    fn fill(stage: &mut Stage) {
        while let Ok(_) = stage.players[0].producer.as_mut().unwrap().send(b"x") {
            stage.turn(0, 0);
        }
    }

    fn laggards(stage: &Stage) -> Vec<u16> {
        let player = &stage.players[0];
        let mut named = Vec::new();
        player.engine.multicast(0).laggards(&player.table, |rank, _| named.push(rank.0));
        named
    }

    /// Turns of `who`, each delivering at most so many.
    fn rest(stage: &mut Stage, who: &[usize], limit: usize) {
        for _ in 0..8 {
            for &member in who {
                stage.turn(member, limit);
            }
            stage.land_all();
        }
    }

    #[test]
    fn who_does_not_call_back_is_named_once_others_have() {
        for mode in [Mode::Stable, Mode::Received] {
            let mut stage = stage(mode);
            assert_eq!(laggards(&stage), [0u16; 0], "nobody waits");
            fill(&mut stage);
            rest(&mut stage, &[0, 1], 8);
            rest(&mut stage, &[2], 0); // it polls, and does not deliver
            rest(&mut stage, &[0, 1], 8);
            assert_eq!(laggards(&stage), [2], "{mode:?}");
            rest(&mut stage, &[2, 0], 8);
            assert_eq!(laggards(&stage), [0u16; 0], "{mode:?}: there is room");
        }
    }

    #[test]
    fn who_is_itself_a_cause_blames_nobody() {
        for mode in [Mode::Stable, Mode::Received] {
            let mut stage = stage(mode);
            fill(&mut stage);
            rest(&mut stage, &[0, 1, 2], 0);
            assert_eq!(laggards(&stage), [0u16; 0], "{mode:?}");
        }
    }

    #[test]
    fn who_does_not_poll_is_named_and_not_those_who_wait_for_it() {
        let mut stage = stage(Mode::Stable);
        fill(&mut stage);
        rest(&mut stage, &[0, 1], 8);
        assert_eq!(laggards(&stage), [2]);
    }

    /// The order waits for the turn of 1: the others have released nothing, and are not to blame.
    #[test]
    fn the_sender_whose_turn_it_is_is_named() {
        let mut stage = stage(Mode::Stable);
        fill(&mut stage);
        rest(&mut stage, &[0, 2], 8);
        assert_eq!(laggards(&stage), [1]);
    }
}
