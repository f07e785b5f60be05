// SPDX-License-Identifier: MIT OR Apache-2.0
//! One view's memory and wires, and how a member is put together in it.

use super::node::Node;
use super::plan::Plan;
use crate::base::{Epoch, Rank};
use crate::group::Engine;
use crate::group::membership::roster::Roster;
use crate::group::membership::{Carry, Options};
use crate::group::view::{Subgroup, View};
use crate::sim::fabric::Wires;
use crate::sim::parts::{self, LanePart};
use crate::sst::layout::Layout;
use std::sync::Arc;

/// One view's memory and wires.
pub struct Era {
    /// Its processes, by rank.
    pub view: Vec<usize>,
    pub specs: Vec<Subgroup>,
    pub layout: Arc<Layout>,
    pub wires: Wires,
}

impl Era {
    pub fn new(plan: &Plan, epoch: u64, view: Vec<usize>) -> Era {
        let specs = plan.templates.iter().map(|template| template.of(&view)).collect();
        let of = View { epoch: Epoch(epoch), me: Rank(0), members: view.len(), subgroups: specs };
        let layout = Arc::new(of.layout());
        let rings = parts::ring_bytes(&of, &layout);
        let lane_bytes = of.subgroups.iter().map(|spec| spec.shape.lane().bytes).collect();
        let lazy = |owner: usize, reader: usize| plan.lazy(view[owner], view[reader]);
        let wires = Wires::new(layout.control_bytes, &rings, lane_bytes, plan.queue_limit, lazy);
        Era { view, specs: of.subgroups, layout, wires }
    }

    pub fn rank(&self, process: usize) -> Option<Rank> {
        self.view.iter().position(|of| *of == process).map(|at| Rank(at as u16))
    }

    pub fn busy_pairs(&self) -> Vec<(usize, usize)> {
        let n = self.view.len();
        let pairs = (0..n).flat_map(|from| (0..n).map(move |to| (from, to)));
        let busy =
            |(from, to): &(usize, usize)| !self.wires.is_idle(Rank(*from as u16), Rank(*to as u16));
        pairs.filter(busy).map(|(from, to)| (self.view[from], self.view[to])).collect()
    }

    /// Puts one member together: as `install` says, and the same policy everywhere.
    pub fn build(
        &self,
        plan: &Plan,
        process: usize,
        roster: Roster,
        carry: Carry,
    ) -> (Node, Vec<LanePart>) {
        let (me, members, epoch) = (roster.me, roster.len(), roster.epoch);
        let view = View { epoch, me, members, subgroups: self.specs.clone() };
        let hot: Vec<u64> = self.specs.iter().map(|spec| spec.shape.ring_bytes).collect();
        let mut parts = parts::build(&view, &self.layout, &self.wires, &hot);
        let options = Options { tie_break: plan.tie_break, posting: plan.posting };
        let start = (roster, carry);
        let engine = Engine::evolving(view, &mut parts.table, parts.takers, start, options);
        let node = Node::new(process, self.view.clone(), engine, parts.table, parts.inboxes);
        (node, parts.lanes)
    }
}
