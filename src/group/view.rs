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
}

impl Subgroup {
    /// `senders`: the ranks that may send, ascending, among `members`. `ring_bytes`: of one lane.
    pub fn new(members: Vec<Rank>, senders: &[Rank], lanes: u16, shape: Shape) -> Subgroup {
        let lane_of = |&rank: &Rank| (0..lanes).map(move |lane| Sender { rank, lane });
        let senders: Vec<Sender> = senders.iter().flat_map(lane_of).collect();
        let shape = Shape { senders: senders.len() as u16, lanes, ..shape };
        Subgroup { members, senders, shape }
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
