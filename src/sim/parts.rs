// SPDX-License-Identifier: MIT OR Apache-2.0
//! Puts one member of one view together, from the simulated memory of that view.

use super::fabric::Wires;
use super::run::hook;
use crate::base::Rank;
use crate::group::view::View;
use crate::sst::inbox::Inbox;
use crate::sst::layout::{Layout, Mode};
use crate::sst::producer::{Gate, Producer};
use crate::sst::ring::{LaneCells, Ring, Taker};
use crate::sst::{Hook, Table};
use std::sync::Arc;

/// The producing end of a lane.
pub struct LanePart {
    pub subgroup: usize,
    /// Its sender number there.
    pub s: usize,
    pub lane: u16,
    pub producer: Producer,
}

pub struct Parts {
    pub table: Table,
    /// For each subgroup of mine, in the view's order, one per lane of mine.
    pub takers: Vec<Vec<Taker>>,
    pub inboxes: Vec<Inbox>,
    pub lanes: Vec<LanePart>,
}

/// Bytes of every member's rings, by owner and subgroup; `None`: it does not send there.
pub fn ring_bytes(view: &View, layout: &Layout) -> Vec<Vec<Option<usize>>> {
    let of = |owner: usize| {
        let bytes = |(at, spec): (usize, &crate::group::view::Subgroup)| {
            let sends = spec.senders.iter().any(|sender| sender.rank.index() == owner);
            sends.then(|| layout.rings_bytes(at))
        };
        view.subgroups.iter().enumerate().map(bytes).collect()
    };
    (0..view.members).map(of).collect()
}

/// `hot_bytes`: by subgroup, bytes of a ring that are used before others.
pub fn build(view: &View, layout: &Arc<Layout>, wires: &Wires, hot_bytes: &[u64]) -> Parts {
    let me = view.me;
    let hook: Option<Hook> = Some(hook);
    let blocks = (0..view.members).map(|owner| wires.mirror(owner, me.index()).clone()).collect();
    let table = Table::new(layout.clone(), me, blocks, hook);
    let (mut takers, mut lanes, mut inboxes) = (Vec::new(), Vec::new(), Vec::new());
    for (at, spec) in view.subgroups.iter().enumerate().filter(|(_, spec)| spec.has(me)) {
        let columns = &layout.subgroups[at];
        let ring = |rank: Rank, lane: u16| {
            let region = wires.ring_mirror(rank.index(), me.index(), at).clone();
            Ring::new(region, lane.into(), &spec.shape)
        };
        let rings = spec.senders.iter();
        let rings = rings.map(|of| (ring(of.rank, of.lane), of.rank.0, of.lane)).collect();
        inboxes.push(Inbox::new(rings, &spec.shape, view.epoch));
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
            let producer = Producer::new(ring, cells, gate, &spec.shape, hot_bytes[at]);
            lanes.push(LanePart { subgroup: at, s, lane: sender.lane, producer });
        }
        takers.push(mine);
    }
    Parts { table, takers, inboxes, lanes }
}
