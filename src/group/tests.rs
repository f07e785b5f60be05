// SPDX-License-Identifier: MIT OR Apache-2.0
//! The engine as a whole: several subgroups, several losses.

use super::membership::roster::{Address, Roster};
use super::membership::{Carry, Options};
use super::transcript::Stage;
use super::view::{Subgroup, View};
use super::{Engine, State, Work};
use crate::base::{Epoch, Events, Members, Nanos, Post, Posting, Rank};
use crate::error::{Fault, Status, Suspicion};
use crate::mem::Region;
use crate::sst::Table;
use crate::sst::layout::{Mode, Shape};
use std::cell::Cell;
use std::sync::Arc;

fn shape(mode: Mode) -> Shape {
    Shape { senders: 0, lanes: 0, mode, window: 2, message_bytes_max: 16, ring_bytes: 4096 }
}

/// A turn has fewer posts than all subgroups would like: in a fixed order the last ones would never
/// have any.
#[test]
fn no_subgroup_waits_for_ever_to_post() {
    const MEMBERS: usize = 33;
    const SUBGROUPS: usize = 16;
    let shape = shape(Mode::Received);
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

thread_local! {
    static LOOKS: Cell<u64> = const { Cell::new(0) };
}

/// Views that may change cost a quiet turn one look per other member, and a fixed view nothing.
#[test]
fn a_quiet_turn_costs_a_look_more_per_member() {
    const MEMBERS: u16 = 4;
    let all: Vec<Rank> = (0..MEMBERS).map(Rank).collect();
    let subgroups = vec![Subgroup::new(all.clone(), &all[..0], 1, shape(Mode::Stable))];
    let looks = |evolving: bool| {
        let members = MEMBERS.into();
        let view = |me| View { epoch: Epoch(1), me, members, subgroups: subgroups.clone() };
        let layout = Arc::new(view(Rank(0)).layout());
        let blocks: Vec<Arc<Region>> =
            all.iter().map(|_| Arc::new(Region::heap(layout.control_bytes))).collect();
        let founders: Vec<_> =
            (1..=u64::from(MEMBERS)).map(|id| (id, Address::default())).collect();
        let look = |_| LOOKS.set(LOOKS.get() + 1);
        let member = |&me: &Rank| {
            let mut table = Table::new(layout.clone(), me, blocks.clone(), Some(look));
            let engine = if evolving {
                let roster = Roster::first(&founders, me);
                let carry = Carry::first(&roster);
                let options = Options { tie_break: false, posting: Posting::Nothing };
                Engine::evolving(view(me), &mut table, vec![vec![]], (roster, carry), options)
            } else {
                Engine::new(view(me), &table, vec![vec![]], Posting::Nothing)
            };
            (engine, table)
        };
        let mut group: Vec<(Engine, Table)> = all.iter().map(member).collect();
        let (mut work, events) = (Work::new(), Events::default());
        for turn in 0..16 {
            let at = turn % group.len();
            let (engine, table) = &mut group[at];
            engine.poll(Nanos(turn as u64), table, &events, &mut work);
            engine.done(&[], table, &events, &mut work);
        }
        LOOKS.set(0);
        let (engine, table) = &mut group[0];
        assert!(engine.is_still(table, &events) && !engine.has_work(table, &events));
        LOOKS.set(0);
        assert!(engine.is_still(table, &events));
        LOOKS.get()
    };
    assert_eq!(looks(true), looks(false) + u64::from(MEMBERS) - 1);
}

/// Member 0 hears at its turns, one after the other, of those who have gone; `farewell`: of these in
/// good order. How it ends.
fn end_of(turns: &[&[u16]], farewell: &[u16]) -> State {
    let mut stage = Stage::new(4, &[Rank(0)], shape(Mode::Stable));
    let closed = stage.layout.closed.byte(0);
    farewell.iter().for_each(|&of| stage.mirrors[usize::from(of)][0].cell(closed).publish(1));
    // Something to deliver, or the group would end with the first.
    stage.players[0].producer.as_mut().unwrap().send(b"last words").unwrap();
    for _ in 0..2 {
        (0..4).for_each(|member| drop(stage.turn(member, 0)));
        stage.land_all();
    }
    for gone in turns {
        stage.players[0].lost = Members::from_ranks(gone.iter().map(|&rank| Rank(rank)));
        stage.turn(0, 0);
        assert!(!matches!(stage.players[0].engine.state(), State::Stopped(..)));
    }
    (0..2).for_each(|_| drop(stage.turn(0, 1)));
    stage.players[0].engine.state()
}

/// Only the lowest of several was named, and of those who left nobody.
#[test]
fn everyone_who_has_gone_is_named() {
    let of = |ranks: &[u16]| Members::from_ranks(ranks.iter().map(|&rank| Rank(rank)));
    let lost = |rank, also| {
        let fault = Fault::Lost { also: of(also) };
        State::Stopped(Status::PeerLost, Some(Suspicion { rank: Rank(rank), fault }))
    };
    let left = |rank, also| {
        let fault = Fault::Left { also: of(also) };
        State::Stopped(Status::PeerLeft, Some(Suspicion { rank: Rank(rank), fault }))
    };
    assert_eq!(end_of(&[&[2]], &[]), lost(2, &[]));
    assert_eq!(end_of(&[&[1, 3]], &[]), lost(1, &[3]));
    assert_eq!(end_of(&[&[3], &[1, 2]], &[]), lost(3, &[1, 2]));
    // Whoever says farewell is no cause while somebody does not.
    assert_eq!(end_of(&[&[1, 2, 3]], &[1]), lost(2, &[3]));
    assert_eq!(end_of(&[&[2]], &[2]), left(2, &[]));
    assert_eq!(end_of(&[&[3], &[1]], &[1, 3]), left(3, &[1]));
    let State::Stopped(_, Some(Suspicion { fault, .. })) = lost(1, &[2, 3]) else { panic!() };
    let text = "its process ended or its connection broke; rank 2 likewise; rank 3 likewise";
    assert_eq!(fault.to_string(), text);
}
