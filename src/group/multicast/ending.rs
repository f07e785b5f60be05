// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of a subgroup's view: wedge, the cut, and what of mine the next view sends again.
//!
//! W1  After the wedge nothing is taken up or received, and no prefix raises `stable`: what the
//!     receipt says is final.
//! W2  Below the cut all is stable among those who go on; nothing beyond it is delivered.
//! W3  A message of mine is below the cut, or it is kept: those in the order sent, once each.
//!
//! In *received* mode the cut decides only what is sent again: what has come is delivered (`ahead.rs`).

use super::Multicast;
use crate::base::{Count, Number};
use crate::error::Status;
use crate::mem::Batch;
use crate::mutant;
use crate::sst::frontier;
use crate::sst::inbox::{BadSlot, Inbox};
use crate::sst::kept::Kept;
use crate::sst::layout::Mode;
use crate::sst::ring::index_of;

/// Where the view of a subgroup stands on its way to its end.
#[derive(Default)]
pub(super) struct Ending {
    pub wedged: bool,
    /// `collect` takes the long way: it is wedged, or I have had some of what comes first.
    pub careful: bool,
    /// By sender: how many messages of it the view delivers.
    pub cut: Option<Vec<Count>>,
    /// A slot below `stable` is no message: nothing is delivered until the cut.
    broken: bool,
}

impl Multicast {
    /// Stops everything (W1). By sender: what is received, nulls included, and below what no cut of it
    /// can be: what others may have delivered before there is one. Producers are told to ask again.
    pub fn wedge(&mut self) -> (Vec<Count>, Vec<Count>) {
        assert!(!self.ending.wedged, "it is wedged once");
        (self.ending.wedged, self.ending.careful) = (true, true);
        for lane in &self.lanes {
            lane.taker.stop(Status::Again);
        }
        if self.mode == Mode::Received {
            return (self.slots.clone(), self.least_receipts());
        }
        let senders = self.received.len();
        let below = |s| frontier::share(self.stable, s, senders);
        (self.received.clone(), (0..senders).map(below).collect())
    }

    /// From now on the view is delivered up to the cut, and no further (W2).
    pub fn deliver_cut(&mut self, cut: &[Count]) {
        assert!(self.ending.wedged && self.ending.cut.is_none());
        self.ending.broken = false;
        if self.mode == Mode::Received {
            self.ending.cut = Some(cut.to_vec());
            return;
        }
        let (mut cut, senders) = (cut.to_vec(), cut.len() as u64);
        if mutant!("wire-cut-ignored") {
            cut.clone_from(&self.received);
        }
        let last = cut.iter().zip(0..).filter(|(count, _)| count.0 > 0);
        let end = last.map(|(count, s)| (count.0 - 1) * senders + s + 1).max().unwrap_or(0);
        let end = if mutant!("wire-hole-ends-the-cut") { frontier::prefix(&cut).0 } else { end };
        assert!(end >= self.stable.0, "what was stable is below the cut");
        self.stable = Number(end);
        self.ending.cut = Some(cut);
    }

    /// Appends the next messages to a batch: as `Inbox::collect`, and not beyond the cut.
    #[inline]
    pub fn collect(
        &mut self,
        inbox: &mut Inbox,
        upto: Number,
        batch: &mut Batch,
        most: usize,
    ) -> Result<(), BadSlot> {
        if self.ending.careful {
            return self.collect_carefully(inbox, upto, batch, most);
        }
        inbox.collect(upto, &self.slots, batch, most)
    }

    #[cold]
    fn collect_carefully(
        &mut self,
        inbox: &mut Inbox,
        upto: Number,
        batch: &mut Batch,
        most: usize,
    ) -> Result<(), BadSlot> {
        if self.mode == Mode::Received {
            return self.collect_received(inbox, upto, batch, most);
        }
        let Some(cut) = &mut self.ending.cut else {
            return inbox.collect(upto, &self.slots, batch, most);
        };
        let outcome = inbox.collect_cut(upto, cut, &self.slots, batch, most);
        if let Err(bad) = outcome {
            // Whoever wrote that has no more messages here.
            cut[bad.sender] = Count(inbox.number().0 / cut.len() as u64);
        }
        outcome
    }

    /// A slot below `stable` is no message. Its sender becomes suspect; what of the view is still
    /// to be delivered is for the cut to say.
    pub fn stumble(&mut self) {
        self.ending.broken = self.ending.cut.is_none();
    }

    /// Whether the cut is known.
    pub fn has_cut(&self) -> bool {
        self.ending.cut.is_some()
    }

    pub(super) fn is_broken(&self) -> bool {
        self.ending.broken
    }

    /// Whether there is a cut, and all below it is delivered.
    pub fn has_delivered_cut(&self) -> bool {
        self.ending.cut.is_some() && self.deliverable().is_none()
    }

    /// What of a lane of mine the view does not deliver (W3); in *received* mode, not to all.
    pub fn keep(&mut self, lane: usize) -> Kept {
        let from = self.first_kept(lane);
        self.lanes[lane].taker.keep(from)
    }

    fn first_kept(&self, lane: usize) -> u64 {
        let lane = &self.lanes[lane];
        let (taker, ring) = (&lane.taker, &lane.taker.ring);
        let Some(cut) = &self.ending.cut else { return taker.slots };
        if self.mode == Mode::Received {
            let own = mutant!("wire-received-kept-from-own-count");
            return if own { taker.slots } else { cut[lane.s].0 };
        }
        if mutant!("wire-own-message-lost") {
            return taker.slots;
        }
        // A run that is not released is still there, and what is not below the cut is not released.
        let mut from = taker.slots;
        for at in (taker.runs.saturating_sub(ring.layout.places)..taker.runs).rev() {
            let run = ring.run(at);
            let first = index_of(run.tagged, self.epoch).expect("a run of mine");
            let below = cut[lane.s].0.saturating_sub(first).min(run.count);
            from = run.slots + below;
            if below > 0 {
                break;
            }
        }
        if mutant!("wire-resent-though-delivered") { from.saturating_sub(1) } else { from }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::Rank;
    use crate::group::transcript::Stage;
    use crate::sst::layout::Shape;

    fn stage() -> Stage {
        let shape = Shape {
            senders: 0,
            lanes: 0,
            mode: Mode::Stable,
            window: 4,
            message_bytes_max: 16,
            ring_bytes: 4096,
        };
        let mut stage = Stage::new(2, &[Rank(0), Rank(1)], shape);
        for text in ["a", "b", "c", "d"] {
            stage.players[0].producer.as_mut().unwrap().send(text.as_bytes()).unwrap();
            if text == "c" {
                stage.turn(0, 0);
            }
        }
        stage.land(0, 1);
        stage.turn(1, 0);
        stage
    }

    fn texts(stage: &mut Stage, member: usize, most: usize) -> Vec<String> {
        let player = &mut stage.players[member];
        let multicast = player.engine.multicast_mut(0);
        let mut batch = Batch::new(8);
        if let Some(upto) = multicast.deliverable() {
            multicast.collect(&mut player.inboxes[0], upto, &mut batch, most).unwrap();
            multicast.done(&player.inboxes[0], &mut player.table);
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        batch.messages().iter().map(|message| text(message.bytes())).collect()
    }

    /// A cut in the middle of a run, beyond which one sender has a hole and the other messages.
    #[test]
    fn what_is_below_the_cut_is_delivered_and_the_rest_kept() {
        let mut stage = stage();
        let counts = |counts: [u64; 2]| counts.map(Count).to_vec();
        let one = stage.players[1].engine.multicast_mut(0);
        assert_eq!(one.wedge(), (counts([3, 2]), counts([1, 0])));
        assert_eq!(one.deliverable(), Some(Number(1)), "\"a\" is stable");
        one.deliver_cut(&counts([2, 0]));
        assert_eq!(texts(&mut stage, 1, 1), ["a"]);
        assert!(!stage.players[1].engine.multicast(0).has_delivered_cut());
        assert_eq!(texts(&mut stage, 1, 8), ["b"]);
        assert!(stage.players[1].engine.multicast(0).has_delivered_cut());

        let zero = stage.players[0].engine.multicast_mut(0);
        zero.wedge();
        zero.deliver_cut(&counts([2, 0]));
        // "c" was taken up, "d" was not: both are kept.
        let kept = zero.keep(0);
        assert_eq!((kept.next(), kept.len(), kept.is_empty()), (2, 2, false));
        assert_eq!(texts(&mut stage, 0, 8), ["a", "b"]);
        let refused = stage.players[0].producer.as_mut().unwrap().send(b"e");
        assert_eq!(refused, Err(Status::Again));
    }

    /// After the wedge neither heads nor prefixes that land are looked at.
    #[test]
    fn a_wedged_subgroup_is_deaf() {
        let mut stage = stage();
        stage.players[1].engine.multicast_mut(0).wedge();
        stage.land(1, 0);
        stage.turn(0, 0);
        stage.land(0, 1);
        stage.turn(1, 0);
        let one = stage.players[1].engine.multicast(0);
        assert_eq!((one.slots()[0], one.deliverable()), (Count(3), Some(Number(1))));
    }
}
