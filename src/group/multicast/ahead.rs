// SPDX-License-Identifier: MIT OR Apache-2.0
//! *Received* mode over views: nothing of a sender that goes on is lost or delivered twice.
//!
//! What is delivered on receipt cannot be taken back, so a view ends with members that have had more
//! of a sender than others. From the cut on, its least final receipt, that sender sends all again in
//! the next view, in order, before anything new; whoever has had more than the cut passes over what
//! comes first there. Nobody is told how much that is: each counts what it has had.
//!
//! A1  What is sent again is all there: a slot is used anew when every member of the view has released
//!     it, so received it, and the cut is what some member had received.
//! A2  Whatever was received is delivered before the view ends, beyond the cut, too: `slots` is both
//!     the receipt and what has been delivered.
//! A3  A view may end before all has come that is to be passed over. What of the lane's messages a
//!     member has had is then the larger of what came and what was to be passed over.
//! A4  The count is a sender's and a lane's for as long as it is one from view to view, and a member's
//!     for as long as it is in the subgroup. Who comes, or comes back, begins with what is sent
//!     first; with a member's state, where that member does.
//! A5  In a view in which the subgroup lacks members nothing is sent again: the counts wait as well.
//!
//! Of a sender that does not go on some deliver what others do not: that is what the mode means.
//!
//! Cost: nothing once the first messages of a view have come.

use super::Multicast;
use crate::base::{Count, Number};
use crate::group::Engine;
use crate::group::membership::Membership;
use crate::group::membership::roster::Roster;
use crate::group::view::View;
use crate::limits::{COUNT_MAX, LANES_MAX, SUBGROUPS_MAX};
use crate::mem::Batch;
use crate::mutant;
use crate::sst::inbox::{BadSlot, Inbox};
use crate::sst::layout::Mode;

/// So many of the first messages of that lane in a view has a member had in earlier ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ahead {
    pub subgroup: u16,
    /// The sender's seniority.
    pub sender: u64,
    pub lane: u16,
    pub count: u64,
}

impl Ahead {
    /// Whether these can be what a member of that view begins with.
    pub fn are_sound(all: &[Ahead], roster: &Roster) -> bool {
        let sound = |ahead: &Ahead| {
            usize::from(ahead.subgroup) < SUBGROUPS_MAX
                && usize::from(ahead.lane) < LANES_MAX
                && roster.rank_of(ahead.sender).is_some()
                && ahead.count < COUNT_MAX
        };
        all.iter().all(sound)
    }

    /// A5: whether that lane keeps what it has for a view with members enough. Who is no sender in the
    /// meantime sends nothing of it again.
    fn waits(&self, view: &View, roster: &Roster) -> bool {
        let subgroup = view.subgroups.get(usize::from(self.subgroup));
        let sender = roster.rank_of(self.sender);
        subgroup.zip(sender).is_some_and(|(subgroup, sender)| subgroup.waits(sender))
    }
}

impl Engine {
    /// Begins a view with what this member has had of it.
    pub(in crate::group) fn begin_ahead(&mut self, roster: &Roster, ahead: &[Ahead]) {
        let waits = |of: &&Ahead| of.waits(&self.view, roster);
        self.ahead = ahead.iter().filter(waits).copied().collect();
        for multicast in self.multicasts.iter_mut().filter(|of| of.mode == Mode::Received) {
            let subgroup = multicast.subgroup;
            let senders = &self.view.subgroups[subgroup].senders;
            let count = |s: usize| {
                let (sender, lane) = (roster.seniority(senders[s].rank), senders[s].lane);
                let its = |of: &&Ahead| {
                    (usize::from(of.subgroup), of.sender) == (subgroup, sender)
                        && (of.lane == lane || mutant!("wire-ahead-of-another-lane"))
                };
                ahead.iter().find(its).map_or(Count(0), |of| Count(of.count))
            };
            multicast.ahead = (0..senders.len()).map(count).collect();
            multicast.ending.careful = multicast.ahead.iter().any(|count| count.0 > 0);
        }
    }

    /// How many of the first messages that a lane of mine keeps for its subgroup's members I have had.
    pub fn had_of_waiting(&self, subgroup: u16, lane: u16) -> u64 {
        let Some(roster) = self.membership().map(Membership::roster) else { return 0 };
        let mine = (subgroup, roster.seniority(roster.me), lane);
        let its = |of: &&Ahead| (of.subgroup, of.sender, of.lane) == mine;
        self.ahead.iter().find(its).map_or(0, |of| of.count)
    }

    /// What this member will have had of the next view, when all of this one is delivered. Of senders
    /// that it may be without, too.
    pub(in crate::group) fn ahead(&self, roster: &Roster) -> Vec<Ahead> {
        let mut all = match mutant!("wire-ahead-forgotten-while-waiting") {
            true => Vec::new(),
            false => self.ahead.clone(),
        };
        for multicast in self.multicasts.iter().filter(|of| of.mode == Mode::Received) {
            let senders = self.view.subgroups[multicast.subgroup].senders.iter();
            for (s, sender) in senders.enumerate() {
                let (subgroup, lane) = (multicast.subgroup as u16, sender.lane);
                let count = multicast.ahead_of_next(s);
                if count > 0 {
                    all.push(Ahead {
                        subgroup,
                        sender: roster.seniority(sender.rank),
                        lane,
                        count,
                    });
                }
            }
        }
        all
    }
}

impl Multicast {
    /// A3.
    fn ahead_of_next(&self, s: usize) -> u64 {
        let (came, ahead) = (self.slots[s].0, self.ahead[s].0);
        let cut = self.ending.cut.as_ref().expect("a view ends with a cut")[s].0;
        if mutant!("wire-ahead-forgotten") {
            return 0;
        }
        if mutant!("wire-ahead-counted-twice") {
            return came + ahead - cut;
        }
        if mutant!("wire-ahead-of-the-last-view-only") {
            return came - cut;
        }
        came.max(ahead) - cut
    }

    /// Of how many lanes messages are still to come that I have had in earlier views.
    pub fn lanes_ahead(&self) -> usize {
        let both = self.ahead.iter().zip(&self.consumed);
        both.filter(|(ahead, consumed)| consumed < ahead).count()
    }

    /// As `collect`, in *received* mode where a view begins or ends.
    pub(super) fn collect_received(
        &mut self,
        inbox: &mut Inbox,
        upto: Number,
        batch: &mut Batch,
        most: usize,
    ) -> Result<(), BadSlot> {
        let mut outcome = inbox.pass_over(&self.ahead, &self.slots);
        if outcome.is_ok() {
            outcome = inbox.collect(upto, &self.slots, batch, most);
        }
        if let Err(bad) = outcome
            && self.has_cut()
        {
            inbox.give_up(bad.sender); // whoever wrote that has no more messages here
        }
        let had = |(s, ahead): (usize, &Count)| inbox.consumed(s) >= *ahead;
        self.ending.careful = self.ending.wedged || !self.ahead.iter().enumerate().all(had);
        outcome
    }

    /// By sender: no cut is below this. A sender has at most a window of messages that some member
    /// has not released.
    pub(super) fn least_receipts(&mut self) -> Vec<Count> {
        let mut sent: Vec<u64> = self.slots.iter().map(|count| count.0).collect();
        for lane in &mut self.lanes {
            sent[lane.s] += lane.taker.waiting();
        }
        sent.into_iter().map(|sent| Count(sent.saturating_sub(self.window))).collect()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::super::transcript::Stage;
    use super::*;
    use crate::base::{Epoch, Rank};
    use crate::group::membership::roster::Address;
    use crate::group::view::Subgroup;
    use crate::sst::layout::Shape;

    /// Two members, of which 0 sends; it has sent so many, in runs of two.
    fn stage(messages: u64) -> Stage {
        let shape = Shape {
            senders: 0,
            lanes: 0,
            mode: Mode::Received,
            window: 8,
            message_bytes_max: 16,
            ring_bytes: 4096,
        };
        let mut stage = Stage::new(2, &[Rank(0)], shape);
        for at in 0..messages {
            stage.players[0].producer.as_mut().unwrap().send(&at.to_le_bytes()).unwrap();
            if at % 2 == 1 {
                stage.turn(0, 0);
            }
        }
        stage
    }

    /// What a member is handed in one go, at the most so many.
    fn handed(stage: &mut Stage, member: usize, most: usize) -> Vec<u64> {
        let player = &mut stage.players[member];
        let multicast = player.engine.multicast_mut(0);
        let Some(upto) = multicast.deliverable() else { return Vec::new() };
        let mut batch = Batch::new(8);
        multicast.collect(&mut player.inboxes[0], upto, &mut batch, most).unwrap();
        multicast.done(&player.inboxes[0], &mut player.table);
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        batch.messages().iter().map(|message| number(message.bytes())).collect()
    }

    fn begins(stage: &mut Stage, member: usize, ahead: u64) {
        let multicast = stage.players[member].engine.multicast_mut(0);
        multicast.ahead = vec![Count(ahead)];
        multicast.ending.careful = true;
    }

    /// A sender that is moved elsewhere while the subgroup lacks members gives back what it has; when it
    /// comes back, the first of its new messages were passed over by those who had had old ones.
    #[test]
    fn what_a_member_is_ahead_of_waits_with_senders_that_wait() {
        let founders: Vec<_> = (1..4).map(|id| (id, Address::default())).collect();
        let roster = Roster::first(&founders, Rank(0));
        let shape = stage(0).layout.shapes[0];
        let subgroup = Subgroup::lacking(1, vec![Rank(0), Rank(1)], &[Rank(1)], 1, shape);
        let view = View { epoch: Epoch(2), me: Rank(0), members: 3, subgroups: vec![subgroup] };
        let waits = |subgroup: u16, sender: u64| {
            Ahead { subgroup, sender, lane: 0, count: 3 }.waits(&view, &roster)
        };
        assert_eq!([0, 1, 2, 3].map(|sender| waits(0, sender)), [false, true, false, false]);
        assert!(!waits(1, 1), "no such subgroup");
    }

    #[test]
    fn from_the_cut_on_all_is_sent_again_and_counted_by_who_has_had_it() {
        let mut stage = stage(6);
        assert_eq!(handed(&mut stage, 0, 8), [0, 1, 2, 3, 4, 5]);
        let zero = stage.players[0].engine.multicast_mut(0);
        assert_eq!(zero.wedge(), (vec![Count(6)], vec![Count(0)]));
        zero.deliver_cut(&[Count(3)]);
        assert!(zero.has_delivered_cut());
        let kept = zero.keep(0);
        assert_eq!((kept.next(), kept.len(), zero.ahead_of_next(0)), (3, 3, 3));
        assert_eq!(kept.first(), Some(&3u64.to_le_bytes()[..]));
    }

    /// A view that ends before it has brought all that is to be passed over.
    #[test]
    fn what_is_left_to_pass_over_is_so_in_the_next_view() {
        for (came, cut, left) in [(2, 0, 5), (2, 2, 3), (6, 2, 4), (6, 6, 0)] {
            let mut stage = stage(6);
            begins(&mut stage, 0, 5);
            let zero = stage.players[0].engine.multicast_mut(0);
            zero.slots[0] = Count(came);
            zero.wedge();
            zero.deliver_cut(&[Count(cut)]);
            assert_eq!(zero.ahead_of_next(0), left, "{came} came, the cut is {cut}");
        }
    }

    /// What is passed over is released like the rest: its sender waits for that.
    #[test]
    fn the_first_messages_are_passed_over_as_they_come() {
        let mut stage = stage(2);
        begins(&mut stage, 1, 3);
        stage.land_all();
        assert_eq!(
            stage.turn(1, 8),
            "post to 0: head 0, prefix 0, delivered 0, released 0\n\
                                      post to 0: delivered_by 2\npost to 0: released_by 2\n"
        );
        assert!(stage.players[1].engine.multicast(0).lanes_ahead() == 1);
        for at in 2..6u64 {
            stage.players[0].producer.as_mut().unwrap().send(&at.to_le_bytes()).unwrap();
        }
        stage.turn(0, 0);
        stage.land_all();
        stage.turn(1, 0);
        assert_eq!(handed(&mut stage, 1, 1), [3]);
        let one = stage.players[1].engine.multicast(0);
        assert!(
            one.lanes_ahead() == 0 && !one.ending.careful,
            "from here on it is as it always was"
        );
        assert_eq!(handed(&mut stage, 1, 8), [4, 5]);
    }

    /// Slots are observed after the head that said of them, and may be more: all that is delivered
    /// counts.
    #[test]
    fn what_was_delivered_before_it_was_announced_counts() {
        let mut stage = stage(6);
        stage.land_all();
        let columns = stage.layout.subgroups[0].clone();
        stage.mirrors[0][1].cell(columns.head.byte(0)).publish(2);
        stage.turn(1, 8);
        let one = stage.players[1].engine.multicast_mut(0);
        assert_eq!(
            (one.received[0], one.slots[0], one.consumed[0]),
            (Count(2), Count(6), Count(6))
        );
        assert_eq!(one.wedge().0, [Count(6)]);
        one.deliver_cut(&[Count(1)]);
        assert_eq!(one.ahead_of_next(0), 5);
    }

    /// Garbage in the place of a message: what of its sender has not been delivered never will be,
    /// and the view ends all the same.
    #[test]
    fn a_liar_does_not_keep_a_view_from_ending() {
        let mut stage = stage(4);
        stage.land_all();
        let lane = stage.layout.shapes[0].lane();
        stage.ring(0, 1).cell(lane.descriptors as usize + 8).publish(u64::MAX);
        stage.turn(1, 0);
        let player = &mut stage.players[1];
        let multicast = player.engine.multicast_mut(0);
        let mut batch = Batch::new(8);
        let upto = multicast.deliverable().unwrap();
        assert!(multicast.collect(&mut player.inboxes[0], upto, &mut batch, 8).is_err());
        multicast.stumble();
        multicast.done(&player.inboxes[0], &mut player.table);
        assert_eq!((batch.messages().len(), multicast.deliverable()), (1, None));
        multicast.wedge();
        multicast.deliver_cut(&[Count(4)]);
        assert!(multicast.collect(&mut player.inboxes[0], upto, &mut batch, 8).is_err());
        multicast.done(&player.inboxes[0], &mut player.table);
        assert!(multicast.has_delivered_cut());
    }
}
