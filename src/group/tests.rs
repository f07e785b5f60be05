// SPDX-License-Identifier: MIT OR Apache-2.0
//! The engine as a whole: several subgroups, several losses.

use super::view::{Subgroup, View};
use super::{Engine, Work};
use crate::base::{Epoch, Events, Nanos, Post, Posting, Rank};
use crate::mem::Region;
use crate::sst::Table;
use crate::sst::layout::{Mode, Shape};
use std::sync::Arc;

/// A turn has fewer posts than all subgroups would like: in a fixed order the last ones would never
/// have any.
#[test]
fn no_subgroup_waits_for_ever_to_post() {
    const MEMBERS: usize = 33;
    const SUBGROUPS: usize = 16;
    let shape = Shape {
        senders: 0,
        lanes: 0,
        mode: Mode::Received,
        window: 2,
        message_bytes_max: 16,
        ring_bytes: 4096,
    };
    // All others send, so each subgroup tells how far it is with each of 256 senders.
    let all: Vec<Rank> = (0..MEMBERS as u16).map(Rank).collect();
    let subgroup = Subgroup::new(all.clone(), &all[1..], 8, shape);
    let subgroups = vec![subgroup; SUBGROUPS];
    let view = View { epoch: Epoch(1), me: Rank(0), members: MEMBERS, subgroups };
    let layout = Arc::new(view.layout());
    let blocks = (0..MEMBERS).map(|_| Arc::new(Region::heap(layout.control_bytes))).collect();
    let mut table = Table::new(layout.clone(), Rank(0), blocks, None);
    let takers = (0..SUBGROUPS).map(|_| Vec::new()).collect();
    let mut engine = Engine::new(view, &table, takers, Posting::All);
    let (mut work, events) = (Work::new(), Events::default());
    let mut turns_of = [0; SUBGROUPS];
    const TURNS: usize = 100;
    for turn in 0..TURNS {
        for multicast in &mut engine.multicasts {
            multicast.outbox().moved(); // every subgroup always has something new to say
        }
        engine.poll(Nanos(turn as u64), &mut table, &events, &mut work);
        engine.done(&[], &mut table, &events, &mut work);
        assert!(work.posts.len() <= crate::limits::POSTS_MAX);
        for (at, columns) in layout.subgroups.iter().enumerate() {
            let last = columns.released_by.byte(255);
            let last = |post: &Post| {
                matches!(post, Post::Words { at, len, .. }
                if (*at as usize..*at as usize + usize::from(*len) * 8).contains(&last))
            };
            turns_of[at] += usize::from(work.posts.iter().any(last));
        }
    }
    let (least, most) = (turns_of.iter().min().unwrap(), turns_of.iter().max().unwrap());
    assert!(*most < TURNS, "a turn has room for all: this test says nothing");
    assert!(most - least <= 1, "turns in which each subgroup has posted: {turns_of:?}");
}
