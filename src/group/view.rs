// SPDX-License-Identifier: MIT OR Apache-2.0
//! Views: who is a member, what the subgroups are, who sends in them. Values, no behaviour.

use crate::base::{Epoch, Rank};
use crate::sst::layout::{Layout, Mode, Shape};

/// One stream of messages of a subgroup: a member and one of its lanes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sender {
    pub rank: Rank,
    pub lane: u16,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subgroup {
    /// In ascending order, without doubles.
    pub members: Vec<Rank>,
    /// In the order in which they take turns: by rank, then lane. A subset of the members.
    pub senders: Vec<Sender>,
    pub shape: Shape,
    pub part: Part,
    /// While `part.lacks`: who would send if it had its members, ascending.
    pub waiting: Vec<Rank>,
}

/// Which part of the configuration a subgroup of a view is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Part {
    /// Which of the configured subgroups, and which of its shards.
    pub of: u16,
    pub shard: u16,
    /// How many members it lacks. As long as it does, nobody sends in it.
    pub lacks: u16,
}

impl Subgroup {
    /// `senders`: the ranks that may send, ascending, among `members`. `ring_bytes`: of one lane.
    pub fn new(members: Vec<Rank>, senders: &[Rank], lanes: u16, shape: Shape) -> Subgroup {
        let lane_of = |&rank: &Rank| (0..lanes).map(move |lane| Sender { rank, lane });
        let senders: Vec<Sender> = senders.iter().flat_map(lane_of).collect();
        let shape = Shape { senders: senders.len() as u16, lanes, ..shape };
        Subgroup { members, senders, shape, part: Part::default(), waiting: Vec::new() }
    }

    /// The same where so many members are lacking: nobody sends, and nothing is delivered. What the
    /// lanes of `senders` hold waits for a view in which it has its members.
    pub fn lacking(
        lacks: u16,
        members: Vec<Rank>,
        senders: &[Rank],
        lanes: u16,
        shape: Shape,
    ) -> Subgroup {
        assert!(lacks > 0);
        if crate::mutant!("wire-lacking-goes-on") {
            return Subgroup::new(members, senders, lanes, shape);
        }
        let mut subgroup = Subgroup::new(members, &[], lanes, shape);
        subgroup.part.lacks = lacks;
        subgroup.waiting = senders.to_vec();
        subgroup
    }

    /// Whether the lanes of a member wait for the subgroup to have its members.
    pub fn waits(&self, rank: Rank) -> bool {
        self.waiting.contains(&rank)
    }

    pub fn has(&self, rank: Rank) -> bool {
        self.members.contains(&rank)
    }

    pub fn mode(&self) -> Mode {
        self.shape.mode
    }
}

/// An agreed list of members, as one of them sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    pub epoch: Epoch,
    pub me: Rank,
    /// How many members; their ranks are `0..members`.
    pub members: usize,
    pub subgroups: Vec<Subgroup>,
}

impl View {
    pub fn layout(&self) -> Layout {
        let shapes: Vec<Shape> = self.subgroups.iter().map(|subgroup| subgroup.shape).collect();
        Layout::new(&shapes)
    }
}
