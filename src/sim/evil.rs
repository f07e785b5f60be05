// SPDX-License-Identifier: MIT OR Apache-2.0
//! A member that writes garbage: into its own words, its slots, and whatever its peers can see of
//! them. Its victims may cut it off or not; they must not panic, read out of bounds or run for ever.

use super::rows::Row;
use super::world::World;
use crate::base::Epoch;
use crate::limits::{COUNT_MAX, DESCRIPTOR_BYTES, RUN_BYTES, SLOT_ALIGN};
use crate::sst::ring::tagged;

/// One piece of garbage, seen by one random peer (or by all who share its memory).
pub fn write_garbage(world: &World, evil: usize) {
    let dice = &world.dice;
    let mut victim = dice.below(world.plan.members as u64) as usize;
    if victim == evil {
        victim = (victim + 1) % world.plan.members;
    }
    world.tallies.one(Row::EvilWords);
    if dice.chance(150) {
        write_word(world, evil, victim);
    } else {
        write_slot(world, evil, victim);
    }
    world.wake(victim, true);
}

/// A number that looks like an honest one, or like nothing.
fn value(world: &World, now: u64) -> u64 {
    let dice = &world.dice;
    match dice.below(10) {
        0 => dice.word(),
        1 => dice.pick(&[0, 1, u64::MAX, u64::MAX - 1, 1 << 63, COUNT_MAX, COUNT_MAX + 1]),
        2 => now ^ 1 << dice.below(64),
        3 => now.wrapping_sub(1),
        4 => now.wrapping_add(dice.below(1 << 20)),
        _ => now.wrapping_add(dice.below(4)),
    }
}

fn write_word(world: &World, evil: usize, victim: usize) {
    let first = world.layout.subgroups[0].slots.byte(0);
    let words = (world.layout.control_bytes - first) as u64 / 8;
    let subgroup = world.dice.below(world.plan.subgroups.len() as u64) as usize;
    // Mostly the words that matter: the hot line of a subgroup.
    let hot = &world.layout.subgroups[subgroup];
    let hot_words = (hot.released.byte(0) - hot.slots.byte(0)) as u64 / 8 + 1;
    let byte = if world.dice.chance(220) {
        hot.slots.byte(0) + world.dice.below(hot_words) as usize * 8
    } else {
        first + world.dice.below(words) as usize * 8
    };
    let wires = world.wires.borrow();
    let cell = wires.mirror(evil, victim).cell(byte);
    let value = value(world, cell.own());
    world.note("garbage word", [evil as u64, victim as u64, byte as u64, value]);
    cell.publish(value);
}

fn write_slot(world: &World, evil: usize, victim: usize) {
    let dice = &world.dice;
    let mine: Vec<usize> = world.lanes_of[evil].clone();
    if mine.is_empty() {
        return;
    }
    let lane = world.plan.lanes[dice.pick(&mine)];
    let shape = &world.plan.subgroups[lane.subgroup].shape;
    let wires = world.wires.borrow();
    let region = wires.ring_mirror(evil, victim, lane.subgroup);
    let layout = shape.lane();
    let first = u64::from(lane.lane) * layout.bytes;
    let place = dice.below(layout.places);
    let sound = dice.chance(230);
    if dice.chance(128) {
        let cell = region.cell((first + layout.descriptors + place * DESCRIPTOR_BYTES) as usize);
        let len = match dice.below(4) {
            0 => dice.word() & 0x7fff_ffff,
            1 => shape.ring_bytes,
            _ => dice.below(u64::from(shape.message_bytes_max) + 2),
        };
        let at = dice.below(shape.ring_bytes / SLOT_ALIGN + 1);
        let word = cell.own() & 15 << 60 | at << 31 | len;
        cell.publish(if sound { word } else { dice.word() });
        world.note("garbage slot", [evil as u64, victim as u64, place, word]);
        return;
    }
    let words = region.cells::<4>((first + place * RUN_BYTES) as usize);
    let epoch = Epoch(1 + world.plan.seed % 3);
    let index = value(world, words[0].own() & ((1 << 48) - 1));
    match dice.below(3) {
        0 => {
            words[0].publish(if sound { tagged(0, epoch).wrapping_add(index) } else { dice.word() })
        }
        1 => words[1].publish(value(world, words[1].own())),
        _ => words[2].publish(value(world, words[2].own())),
    }
    world.note("garbage run", [evil as u64, victim as u64, place, index]);
}
