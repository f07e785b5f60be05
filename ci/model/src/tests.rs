// SPDX-License-Identifier: MIT OR Apache-2.0
//! The models checked: encoding, symmetry, and that the reads left out are no loss.

use crate::config::{Config, Fault, Part};
use crate::row::Set;
use crate::search::{Bounds, End, Model, search};
use crate::world::{Private, State, Status, World};
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::time::Duration;

const BOUNDS: Bounds = Bounds { bytes: 1 << 28, time: Duration::from_secs(300), progress: false };

/// All states, by their encoding, without the search.
fn reach<const N: usize>(world: &World<N>) -> Vec<State<N>> {
    let (mut seen, mut queue, mut all) = (HashSet::new(), VecDeque::new(), Vec::new());
    let mut meet = |state: &State<N>, queue: &mut VecDeque<State<N>>| {
        let mut bytes = Vec::new();
        world.encode(state, &mut bytes);
        if seen.insert(bytes) {
            queue.push_back(state.clone());
        }
    };
    world.starts(&mut |state| meet(state, &mut queue));
    while let Some(state) = queue.pop_front() {
        world.successors(&state, &mut |_, next| meet(next, &mut queue));
        all.push(state);
    }
    all
}

/// What can be said of a state without its unread pushes and copies.
type Face<const N: usize> = (Vec<Status>, Vec<String>, Vec<(u16, u16, u8)>, String, u16, Set, u8);

fn faces<const N: usize>(config: Config) -> (usize, BTreeSet<String>) {
    let world = World::<N>::new(config);
    let all = reach(&world);
    let face = |state: &State<N>| {
        let rows = state.own.iter().map(|own| format!("{:?}", world.row(*own))).collect();
        let private = |its: &Private| (its.received, its.delivered, its.asked);
        let face: Face<N> = (
            state.status.to_vec(),
            rows,
            state.private.iter().map(private).collect(),
            format!("{:?}", state.agreed),
            state.delivered,
            state.ended,
            state.broken,
        );
        format!("{face:?}")
    };
    (all.len(), all.iter().map(face).collect())
}

fn compare<const N: usize>(config: Config) {
    let config = Config { symmetry: false, ..config };
    let (few, least) = faces::<N>(config.clone());
    let (many, naive) = faces::<N>(Config { naive: true, ..config });
    assert!(few <= many && least.len() > 20, "{few} of {many}");
    let lost = naive.difference(&least).next();
    assert_eq!((lost, naive.len()), (None, least.len()), "{few} states for {many}");
}

#[test]
fn reads_that_make_no_difference_are_no_loss() {
    compare::<3>(Config { suspects: 3, views: 1, ..Config::new(Part::Agreement, 3, 0) });
    compare::<3>(Config { suspects: 2, views: 1, ..Config::new(Part::Agreement, 2, 1) });
    compare::<3>(Config { suspects: 3, ..Config::new(Part::Whole, 3, 0) });
    compare::<3>(Config { suspects: 1, ..Config::new(Part::Whole, 2, 1) });
    let early = vec![Fault::TakeoverWithoutBarrier];
    compare::<3>(Config { suspects: 3, faults: early, ..Config::new(Part::Agreement, 3, 0) });
    compare::<3>(Config { suspects: 1, messages: 1, ..Config::new(Part::Trim, 3, 0) });
}

#[test]
fn a_state_survives_its_encoding() {
    let world = World::<4>::new(Config {
        suspects: 1,
        views: 1,
        shards: vec![(0b011, 0b010)],
        beyond: true,
        symmetry: false,
        ..Config::new(Part::Whole, 3, 1)
    });
    let (mut one, mut two) = (Vec::new(), Vec::new());
    let mut count = 0;
    let mut state = None;
    world.starts(&mut |start| state = Some(start.clone()));
    let mut state = state.expect("there is a start");
    // A walk that is not quite straight.
    for step in 0..400usize {
        let mut next = Vec::new();
        world.successors(&state, &mut |_, state| next.push(state.clone()));
        if next.is_empty() {
            break;
        }
        state = next[step * 7919 % next.len()].clone();
        (one.clear(), two.clear());
        world.encode(&state, &mut one);
        world.encode(&world.decode(&one), &mut two);
        assert_eq!(one, two);
        count += 1;
    }
    assert!(count > 10, "the walk went on");
}

#[test]
fn a_symmetry_changes_no_verdict() {
    for faults in [vec![], vec![Fault::TakeoverWithoutBarrier]] {
        let config =
            Config { suspects: 2, targets: 0b0011, faults, ..Config::new(Part::Agreement, 4, 1) };
        let config = Config { targets: 0b0001, ..config };
        let with = World::<5>::new(config.clone());
        let without = World::<5>::new(Config { symmetry: false, ..config });
        assert!(with.symmetry_count() > 1 && without.symmetry_count() == 1);
        let (with, without) = (search(&with, BOUNDS), search(&without, BOUNDS));
        let broken = |end: &End| matches!(end, End::Broken { .. });
        assert_eq!(broken(&with.end), broken(&without.end));
        assert_eq!(with.depth, without.depth);
        assert!(with.states < without.states);
    }
}

/// The data plane, message by message, comes to what its outcomes at the start come to.
#[test]
fn receipts_at_the_start_are_those_of_a_moving_data_plane() {
    for faults in [vec![], vec![Fault::CutBeforeAllAreWedged]] {
        let config = Config { suspects: 1, faults, ..Config::new(Part::Whole, 3, 0) };
        let still = search(&World::<3>::new(config.clone()), BOUNDS);
        let moving = search(&World::<3>::new(Config { data: true, ..config }), BOUNDS);
        let broken = |end: &End| matches!(end, End::Broken { .. });
        assert_eq!(broken(&still.end), broken(&moving.end));
        assert!(moving.states > still.states);
    }
}
