// SPDX-License-Identifier: MIT OR Apache-2.0
//! One view's memory and wires, and how a member is put together in it.

use super::node::Node;
use super::plan::Plan;
use super::world::hook;
use crate::base::Rank;
use crate::group::Engine;
use crate::group::membership::roster::Roster;
use crate::group::membership::{Carry, Options};
use crate::group::view::{Subgroup, View};
use crate::sim::fabric::Wires;
use crate::sst::inbox::Inbox;
use crate::sst::layout::{Layout, Mode, Shape};
use crate::sst::producer::{Gate, Producer};
use crate::sst::ring::{LaneCells, Ring, Taker};
use crate::sst::{Hook, Table};
use std::sync::Arc;

/// One view's memory and wires.
pub struct Era {
    pub view: Vec<usize>,
    specs: Vec<Subgroup>,
    layout: Arc<Layout>,
    pub wires: Wires,
}

impl Era {
    pub fn new(plan: &Plan, view: Vec<usize>) -> Era {
        let specs: Vec<Subgroup> = plan.templates.iter().map(|t| t.of(&view)).collect();
        let shapes: Vec<Shape> = specs.iter().map(|spec| spec.shape).collect();
        let layout = Arc::new(Layout::new(&shapes));
        let ring_bytes = |owner: usize| {
            let of = |(at, spec): (usize, &Subgroup)| {
                let sends = spec.senders.iter().any(|sender| sender.rank.index() == owner);
                sends.then(|| layout.rings_bytes(at))
            };
            specs.iter().enumerate().map(of).collect()
        };
        let rings: Vec<Vec<Option<usize>>> = (0..view.len()).map(ring_bytes).collect();
        let lane_bytes = shapes.iter().map(|shape| shape.lane().bytes).collect();
        let lazy = |owner: usize, reader: usize| plan.lazy(view[owner], view[reader]);
        let wires = Wires::new(layout.control_bytes, &rings, lane_bytes, plan.queue_limit, lazy);
        Era { view, specs, layout, wires }
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
    ) -> (Node, Vec<(usize, u16, Producer)>) {
        let (me, members) = (roster.me, roster.len());
        let hook: Option<Hook> = Some(hook);
        let block = |owner: usize| self.wires.mirror(owner, me.index()).clone();
        let blocks = (0..members).map(block).collect();
        let mut table = Table::new(self.layout.clone(), me, blocks, hook);
        let (mut takers, mut lanes, mut inboxes) = (Vec::new(), Vec::new(), Vec::new());
        for (at, spec) in self.specs.iter().enumerate().filter(|(_, spec)| spec.has(me)) {
            let columns = &self.layout.subgroups[at];
            let ring = |rank: Rank, lane: u16| {
                let region = self.wires.ring_mirror(rank.index(), me.index(), at).clone();
                Ring::new(region, lane.into(), &spec.shape)
            };
            let rings = spec.senders.iter();
            let rings = rings.map(|of| (ring(of.rank, of.lane), of.rank.0, of.lane)).collect();
            inboxes.push(Inbox::new(rings, &spec.shape, roster.epoch));
            let mut mine = Vec::new();
            let all = spec.senders.iter().enumerate();
            for (s, sender) in all.filter(|(_, sender)| sender.rank == me) {
                let released = match spec.mode() {
                    Mode::Stable => columns.released.byte(0),
                    Mode::Received => columns.released_by.byte(s),
                };
                let row = |&rank: &Rank| (rank, table.block(rank).clone(), released);
                let gate = Gate {
                    rows: spec.members.iter().map(row).collect(),
                    mode: spec.mode(),
                    sender: s,
                    senders: spec.senders.len(),
                    hook,
                };
                let (ring, cells) = (ring(me, sender.lane), LaneCells::new());
                mine.push(Taker::new(ring.clone(), cells.clone()));
                let hot = spec.shape.ring_bytes;
                lanes.push((at, sender.lane, Producer::new(ring, cells, gate, &spec.shape, hot)));
            }
            takers.push(mine);
        }
        let view = View { epoch: roster.epoch, me, members, subgroups: self.specs.clone() };
        let options = Options { tie_break: false, posting: plan.posting };
        let engine = Engine::evolving(view, &mut table, takers, (roster, carry), options);
        (Node::new(process, self.view.clone(), engine, table, inboxes), lanes)
    }
}
