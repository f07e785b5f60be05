// SPDX-License-Identifier: MIT OR Apache-2.0
//! One view of one member, put together: table, rings, inboxes, engine, and a producer per lane of
//! mine. The same for the first view and for every one that follows.
//!
//! Cost: allocates; what memory there is has been made and mapped before.

use super::clock;
use crate::base::{Epoch, Posting, Rank};
use crate::fabric::Memory;
use crate::group::Engine;
use crate::group::membership::roster::Roster;
use crate::group::membership::{Carry, Options};
use crate::group::view::View;
use crate::mem::Region;
use crate::mem::thread::can_order_all_threads;
use crate::sst::Table;
use crate::sst::inbox::Inbox;
use crate::sst::layout::{Layout, MAGIC, Mode};
use crate::sst::producer::{Gate, Producer};
use crate::sst::ring::{LaneCells, Ring, Taker};
use crate::sst::stores::Stores;
use std::sync::Arc;

/// A ring's first part, where small messages stay while there is room (half of a usual L2).
const HOT_BYTES: u64 = 512 << 10;

/// A member in a view.
pub struct Assembly {
    pub engine: Engine,
    pub table: Table,
    pub inboxes: Vec<Inbox>,
    /// Producers of mine, by subgroup and lane.
    pub made: Vec<(u16, u16, Producer)>,
}

/// Puts a member together. `memories`: by rank, mine among them. `evolving`: what a view that others
/// may follow begins with.
pub fn assemble(
    view: View,
    layout: &Arc<Layout>,
    memories: &[Memory],
    posting: Posting,
    evolving: Option<(Roster, Carry, Options)>,
) -> Assembly {
    let me = view.me;
    let blocks: Vec<Arc<Region>> = memories.iter().map(|memory| memory.block.clone()).collect();
    let mut table = Table::new(layout.clone(), me, blocks, None);
    let (mut takers, mut made, mut inboxes) = (Vec::new(), Vec::new(), Vec::new());
    for (at, subgroup) in view.subgroups.iter().enumerate() {
        if !subgroup.has(me) {
            continue;
        }
        let ring_of = |rank: Rank, lane: u16| {
            let region = memories[rank.index()].rings[at].clone().expect("a sender has a ring");
            Ring::new(region, usize::from(lane), &subgroup.shape)
        };
        let senders = subgroup.senders.iter();
        let rings = senders
            .map(|sender| (ring_of(sender.rank, sender.lane), sender.rank.0, sender.lane))
            .collect();
        inboxes.push(Inbox::new(rings, &subgroup.shape, view.epoch));
        let mut mine = Vec::new();
        for (s, sender) in subgroup.senders.iter().enumerate().filter(|(_, of)| of.rank == me) {
            let cells = LaneCells::new();
            let ring = ring_of(me, sender.lane);
            mine.push(Taker::new(ring.clone(), cells.clone()));
            let gate = gate(&view, &table, at, s);
            let stores = Stores::adaptive(|| clock().0, subgroup.shape.message_bytes_max);
            let mut producer = Producer::new(ring, cells, gate, &subgroup.shape, HOT_BYTES);
            producer.store(stores);
            producer.defer_fences(can_order_all_threads());
            made.push((at as u16, sender.lane, producer));
        }
        takers.push(mine);
    }
    let engine = match evolving {
        None => Engine::new(view, &table, takers, posting),
        Some((roster, carry, options)) => {
            let options = Options { posting, ..options };
            Engine::evolving(view, &mut table, takers, (roster, carry), options)
        }
    };
    Assembly { engine, table, inboxes, made }
}

/// What a control block says before anything moves; the same place in every layout. `wire`: the version
/// that its view runs at; 0: that is not known yet.
pub fn prologue(block: &Region, epoch: Epoch, (wire, incarnation): (u16, u64)) {
    let layout = Layout::new(&[]);
    block.cell(layout.wire.byte(0)).prepare(u64::from(wire));
    block.cell(layout.epoch.byte(0)).prepare(epoch.0);
    block.cell(layout.incarnation.byte(0)).prepare(incarnation);
    block.cell(layout.magic.byte(0)).publish(MAGIC);
}

/// Who must have released a slot of sender `s` before it is used again.
fn gate(view: &View, table: &Table, subgroup: usize, s: usize) -> Gate {
    let spec = &view.subgroups[subgroup];
    let columns = &table.layout.subgroups[subgroup];
    let at = match spec.mode() {
        Mode::Stable => columns.released.byte(0),
        Mode::Received => columns.released_by.byte(s),
    };
    let row = |&rank: &Rank| (rank, table.block(rank).clone(), at);
    Gate {
        rows: spec.members.iter().map(row).collect(),
        mode: spec.mode(),
        sender: s,
        senders: spec.senders.len(),
        hook: None,
    }
}
