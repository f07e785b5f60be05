// SPDX-License-Identifier: MIT OR Apache-2.0
//! Schedules that chance finds too rarely (tests only): the counterexamples that the exhaustive
//! search printed for the protocol without one of its rules, played in the explorer's world. Each
//! must end well as the code stands, and badly with the fault that it is about.
//!
//! `calm` lets everything happen that is not held back; `hold` holds wires back.

use super::mutants::show;
use super::oracle::Broken;
use super::{Plan, World};
use crate::base::Rank;

type Story = fn(usize) -> Result<(), Broken>;

/// What a story is about, and in how many variants it is told.
pub const STORIES: &[(&str, Story, usize)] = &[
    ("view-joins-uncapped", two_joins_at_once, 1),
    ("view-cut-without-takeover-barrier", two_leaders_of_a_part, 1),
    ("view-suspects-observed-last", a_torn_row, 16),
    ("view-takeover-without-barrier", a_blind_leader, 1),
    ("view-takeover-longest-list", an_old_proposal, 1),
    ("view-barriers-trust-suspicion", alone_past_all_barriers, 1),
    ("view-cut-not-echoed", a_silent_delivery, 1),
    ("view-cut-of-the-removed", a_cut_of_the_dead, 1),
];

/// The first variant that breaks a property.
pub fn tell(story: Story, variants: usize) -> Option<(usize, Broken)> {
    (0..variants).find_map(|variant| Some((variant, story(variant).err()?)))
}

fn world(founders: usize, joiners: usize, shape: usize) -> World {
    let mut world = World::of(Plan::still(founders, joiners, shape)).expect("founded");
    world.told = true;
    world
}

fn hold(world: &World, wires: &[(usize, usize)]) {
    wires.iter().for_each(|(from, to)| world.net.borrow_mut().stall(*from, *to, u64::MAX));
}

fn free(world: &World, wires: &[(usize, usize)]) {
    wires.iter().for_each(|(from, to)| world.net.borrow_mut().stall(*from, *to, 0));
}

fn end(mut world: World) -> Result<(), Broken> {
    let outcome = world.settle();
    show(&world.trail, &outcome);
    outcome
}

/// A process dies, and nothing of it that is held back ever lands.
fn die(world: &mut World, who: usize) {
    (0..world.processes.len()).for_each(|to| world.net.borrow_mut().cut(who, to));
    world.crash(who);
}

/// V2: 2 is in a view of five with two new members, 0 and 1 are not there yet; then each half
/// suspects the other and is a majority of its own view.
fn two_joins_at_once(_: usize) -> Result<(), Broken> {
    let mut w = world(3, 2, 0);
    w.calm(&[])?;
    w.ask(3, 0);
    w.ask(4, 0);
    w.plan.returns = 0;
    w.calm(&[])?;
    w.plan.returns = 1000;
    hold(&w, &[(2, 0), (2, 1)]);
    w.calm(&[])?;
    w.sponsor(3)?;
    w.sponsor(4)?;
    w.calm(&[])?;
    for left in [0, 1] {
        for right in [2, 3, 4] {
            w.net.borrow_mut().cut(left, right);
            w.net.borrow_mut().cut(right, left);
        }
    }
    end(w)
}

/// V1: 2 leads the subgroup {2, 3, 4} of a group that 0 leads. It computes a cut without 3's
/// message, 4 echoes it, 3 learns that 2 is removed before it sees any of that.
fn two_leaders_of_a_part(_: usize) -> Result<(), Broken> {
    let mut w = world(5, 1, 1);
    w.calm(&[])?;
    hold(&w, &[(3, 2)]);
    w.send(3)?;
    w.calm(&[])?;
    hold(&w, &[(2, 3)]);
    w.ask(5, 0);
    w.calm(&[])?;
    hold(&w, &[(4, 3)]);
    free(&w, &[(3, 2)]);
    w.calm(&[])?;
    w.tell(3, 2);
    w.calm(&[])?;
    free(&w, &[(2, 3), (4, 3)]);
    end(w)
}

/// M8: 2 suspects 3 and 4, delivers what they do not have, and dies.
fn alone_past_all_barriers(_: usize) -> Result<(), Broken> {
    let mut w = world(5, 1, 1);
    w.calm(&[])?;
    hold(&w, &[(2, 3), (2, 4)]);
    w.send(2)?;
    hold(&w, &[(3, 2), (4, 2)]);
    w.ask(5, 0);
    w.calm(&[])?;
    hold(&w, &[(2, 0), (2, 1)]);
    w.tell(2, 3);
    w.tell(2, 4);
    w.calm(&[])?;
    die(&mut w, 2);
    end(w)
}

/// M7b: 4 has delivered 2's cut and not said so when 2 dies; 3 has one message more.
fn a_silent_delivery(_: usize) -> Result<(), Broken> {
    let mut w = world(5, 1, 1);
    w.calm(&[])?;
    hold(&w, &[(3, 2)]);
    w.send(3)?;
    w.calm(&[])?;
    hold(&w, &[(2, 3)]);
    w.ask(5, 0);
    w.calm(&[])?;
    hold(&w, &[(4, 3)]);
    free(&w, &[(3, 2)]);
    w.calm(&[3, 4])?;
    w.plan.returns = 0;
    w.calm(&[])?;
    die(&mut w, 2);
    w.tell(3, 2);
    w.tell(4, 2);
    w.calm(&[])?;
    free(&w, &[(4, 3)]);
    w.plan.returns = 1000;
    end(w)
}

/// M10: 2 consents to 0's join, then suspects 0. 1 reads 2's row while both land, and leads.
fn a_torn_row(variant: usize) -> Result<(), Broken> {
    let mut w = world(3, 1, 0);
    w.turn(0)?;
    w.turn(2)?;
    for pair in [(0, 2), (2, 0), (2, 1)] {
        w.net.borrow_mut().land(pair.0, pair.1, usize::MAX);
    }
    hold(&w, &[(2, 1), (0, 1), (1, 0), (1, 2)]);
    w.calm(&[1])?;
    w.ask(3, 0);
    w.turn(0)?;
    w.net.borrow_mut().land(0, 2, usize::MAX);
    hold(&w, &[(0, 2)]);
    w.calm(&[0, 1])?;
    w.net.borrow_mut().land(2, 0, usize::MAX);
    w.tell(0, 1);
    w.turn(0)?;
    hold(&w, &[(2, 0)]);
    w.tell(2, 0);
    w.calm(&[0, 1])?;
    w.tell(1, 0);
    free(&w, &[(2, 1)]);
    w.net.borrow_mut().trap = Some((2, 1, variant));
    w.turn(1)?;
    w.net.borrow_mut().trap = None;
    free(&w, &[(1, 2)]);
    w.calm(&[0])?;
    die(&mut w, 0);
    end(w)
}

/// M1: 0 suspects 1, and 2 has consented to its join; 1 suspects 0 and has seen nothing of that.
fn a_blind_leader(_: usize) -> Result<(), Broken> {
    let mut w = world(3, 1, 0);
    w.calm(&[])?;
    hold(&w, &[(0, 1), (1, 0), (2, 1), (1, 2)]);
    w.ask(3, 0);
    w.turn(0)?;
    w.net.borrow_mut().land(0, 2, usize::MAX);
    w.turn(2)?;
    w.net.borrow_mut().land(2, 0, usize::MAX);
    hold(&w, &[(0, 2), (2, 0)]);
    w.tell(0, 1);
    w.turn(0)?;
    w.tell(1, 0);
    w.turn(1)?;
    free(&w, &[(1, 2)]);
    w.calm(&[0, 1])?;
    die(&mut w, 0);
    end(w)
}

/// M2: 0's proposal reached 2 only, as it began to suspect 0. 1 leads, what it proposes is agreed,
/// it dies. 2 leads, and has both.
fn an_old_proposal(_: usize) -> Result<(), Broken> {
    let mut w = world(5, 1, 0);
    w.calm(&[])?;
    hold(&w, &[(0, 1), (0, 3), (0, 4)]);
    w.ask(5, 0);
    w.turn(0)?;
    w.net.borrow_mut().land(0, 2, usize::MAX);
    w.tell(2, 0);
    w.turn(2)?;
    for to in [1, 3, 4] {
        w.net.borrow_mut().land(2, to, usize::MAX);
        w.turn(to)?;
    }
    for from in [3, 4] {
        w.net.borrow_mut().land(from, 1, usize::MAX);
    }
    w.turn(1)?;
    for to in [2, 3, 4] {
        w.net.borrow_mut().land(1, to, usize::MAX);
        w.turn(to)?;
        w.net.borrow_mut().land(to, 1, usize::MAX);
    }
    hold(&w, &[(1, 2), (1, 3), (1, 4)]);
    w.turn(1)?;
    die(&mut w, 0);
    die(&mut w, 1);
    end(w)
}

/// Found by review: 0's cut reached 4 alone, and 4's echo 2 alone; both die. 1 knows nothing of it,
/// computes another, which 3 echoes, and dies. 2 leads, and has seen 4's and 3's.
fn a_cut_of_the_dead(_: usize) -> Result<(), Broken> {
    let mut w = world(7, 1, 0);
    w.calm(&[])?;
    hold(&w, &[(3, 0)]);
    w.send(3)?;
    w.calm(&[])?;
    w.ask(7, 0);
    w.turn(0)?;
    for to in 1..7 {
        w.net.borrow_mut().land(0, to, usize::MAX);
    }
    hold(&w, &[(0, 1), (0, 2), (0, 3), (0, 5), (0, 6), (4, 1), (4, 3), (4, 5), (4, 6)]);
    free(&w, &[(3, 0)]);
    // 0 has read that all are wedged, but not 3's message: it is wedged itself.
    w.calm(&[])?;
    die(&mut w, 0);
    die(&mut w, 4);
    for who in [1, 2, 3, 5, 6] {
        w.tell(who, 0);
        w.tell(who, 4);
        w.turn(who)?;
    }
    for from in [2, 3, 5, 6] {
        w.net.borrow_mut().land(from, 1, usize::MAX);
    }
    w.turn(1)?;
    for to in [2, 3, 5, 6] {
        w.net.borrow_mut().land(1, to, usize::MAX);
    }
    hold(&w, &[(1, 2), (1, 5), (1, 6)]);
    w.calm(&[])?;
    die(&mut w, 1);
    w.tell(2, 1);
    w.tell(3, 1);
    end(w)
}

/// Half of the largest group fails in one view, leader by leader, each after it has proposed: the
/// journals have room for all of it, here and in the next view.
#[test]
#[ignore = "20 s"]
fn half_of_the_largest_group_fails_leader_by_leader() {
    let mut w = world(64, 0, 0);
    w.plan.returns = 0;
    for dead in 0..31 {
        die(&mut w, dead);
        for _ in 0..2 {
            for who in w.all_up() {
                if !w.up(who).expect("it is up").membership.suspects().contains(Rank(dead as u16)) {
                    w.tell(who, dead);
                }
                w.turn(who).expect("a turn");
            }
            w.net.borrow_mut().land_all();
        }
    }
    w.plan.returns = 1000;
    assert_eq!(w.settle(), Ok(()));
    assert_eq!(w.all_up().len(), 33);
}
