// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that is shown: what it says before its owner enters, and what is done where there is none
//! for it.

use super::super::mirror::LEFT;
use super::super::tests::{BEAT_AT, LANE_BYTES, Node, members, readable, sizes};
use super::*;
use crate::base::Events;
use crate::error::Status;
use crate::fabric::Fabric;
use crate::mutants::plant;
use std::time::{Duration, Instant};

fn two(sealed: bool) -> (Node, Node) {
    let mut nodes = members(2, sealed, LANE_BYTES);
    let two = nodes.pop().unwrap();
    (nodes.pop().unwrap(), two)
}

fn shown(of: &mut Node, epoch: u64) -> Memory {
    let peer = of.peer(0).unwrap();
    let mut memory = None;
    of.until("it shows its memory", |of| {
        if let Shown::Memory(there) = of.tcp.shown(peer, Epoch(epoch), &sizes(LANE_BYTES)).unwrap()
        {
            memory = Some(there);
        }
        memory.is_some()
    });
    memory.unwrap()
}

/// What a member shows and has not entered is compared by the others (`driver/views`, I4).
fn a_word_before_the_view() -> bool {
    let (mut one, mut two) = two(false);
    one.show_next(&[0]);
    let seen = shown(&mut two, 2);
    one.next_block().cell(24).publish(7); // written when it has been shown already
    one.show_next(&[0]);
    let peer = one.peer(1).unwrap();
    assert!(one.tcp.say(peer, b"that was it"));
    two.until("the letter, which comes after it", |two| two.tcp.heard().is_some());
    seen.block.cell(24).observe() == 7
}

#[test]
fn what_is_shown_again_says_what_it_says_by_then() {
    assert!(a_word_before_the_view());
    plant(Some("tcp-shows-memory-only"));
    let found = !a_word_before_the_view();
    plant(None);
    assert!(found, "tcp-shows-memory-only");
}

/// One that joins lives, too, though it has entered nothing.
#[test]
fn who_joins_beats_before_it_enters() {
    let (mut one, mut two) = two(true);
    one.tcp.block = None;
    one.show_next(&[0]);
    let seen = shown(&mut two, 2);
    one.next_block().cell(BEAT_AT).publish(99);
    one.tcp.poll(true, &mut Events::default());
    two.until("it beats", |_| seen.block.cell(BEAT_AT).observe() == 99);
}

/// Over two fabrics at once it was expelled after a long callback: those that had passed on heard nothing.
#[test]
fn who_is_behind_is_seen_to_beat_in_the_next_view() {
    let (mut one, mut two) = two(true);
    one.show_next(&[0]);
    two.show_next(&[0]);
    shown(&mut two, 2);
    two.enter(Epoch(2));
    one.next_block().cell(BEAT_AT).publish(99); // `keep_alive` writes it, in both
    one.tcp.beat();
    two.until("it beats", |two| two.word_of(0, BEAT_AT / 8) == 99);
}

/// What says that I have passed on waited for room in the socket; a callback then took long, and what it
/// sent was beats in a view that the others were not told of.
#[test]
fn a_beat_takes_along_what_waits() {
    let (mut one, mut two) = two(true);
    one.show_next(&[0]);
    two.show_next(&[0]);
    shown(&mut two, 2);
    one.enter(Epoch(2));
    one.own.block.cell(BEAT_AT).publish(500);
    one.tcp.beat();
    two.until("it beats in the view before", |two| two.word_of(0, BEAT_AT / 8) == 500);
}

/// With the view came what the block had said when it was entered, behind the beat of when that was sent:
/// that one was taken back. Who looked in between held it against the member, at once.
fn a_beat_as_a_view_is_entered(sealed: bool) -> bool {
    let (mut one, mut two) = two(sealed);
    one.show_next(&[0]);
    two.show_next(&[0]);
    let seen = shown(&mut two, 2);
    one.next_block().cell(BEAT_AT).publish(100); // while it waited for the others' memory
    one.enter(Epoch(2));
    one.own.block.cell(BEAT_AT).publish(500); // in the callback of the view
    one.tcp.beat();
    let peer = one.peer(1).unwrap();
    assert!(one.tcp.say(peer, b"that was it"));
    two.until("the letter, which comes after it", |two| two.tcp.heard().is_some());
    seen.block.cell(BEAT_AT).observe() == 500
}

#[test]
fn no_beat_is_taken_back() {
    assert!(a_beat_as_a_view_is_entered(false) && a_beat_as_a_view_is_entered(true));
    plant(Some("tcp-beat-said-twice"));
    let found = !a_beat_as_a_view_is_entered(false);
    plant(None);
    assert!(found, "tcp-beat-said-twice");
}

/// M5
#[test]
fn who_is_ahead_is_seen_to_beat() {
    let (mut one, mut two) = two(true);
    one.show_next(&[0]);
    two.show_next(&[0]);
    one.enter(Epoch(2));
    one.own.block.cell(BEAT_AT).publish(500);
    one.tcp.poll(true, &mut Events::default());
    two.until("it beats in the view before", |two| two.word_of(0, BEAT_AT / 8) == 500);
    two.enter(Epoch(2));
    one.own.block.cell(BEAT_AT).publish(501);
    one.tcp.poll(true, &mut Events::default());
    two.until("and in its own", |two| two.word_of(0, BEAT_AT / 8) == 501);
}

/// M4: it is my shortage, the peer is at no fault, and nothing that it sent is lost.
#[test]
fn without_memory_for_a_mirror_its_peer_waits() {
    for sealed in [false, true] {
        for left in 0..2 {
            let (mut one, mut two) = two(sealed);
            one.show_next(&[0]);
            two.show_next(&[0]);
            two.tcp.poll(true, &mut Events::default());
            // It is here by now, and is taken again.
            two.tcp.links.iter_mut().flatten().for_each(|link| link.mirror.forget_memory());
            LEFT.set(0);
            one.next_block().cell(72).publish(3);
            one.show(Epoch(2));
            one.words(one.others(), 5, 7);
            two.until("the view at hand goes on", |two| two.word_of(0, 5) == 7);
            LEFT.set(usize::MAX);
            one.enter(Epoch(2));
            one.words(one.others(), 5, 1);
            one.words(one.others(), 6, 2);
            LEFT.set(left); // a block, then nothing more
            let peer = two.peer(0).unwrap();
            for _ in 0..50 {
                two.poll();
                let error = two.tcp.shown(peer, Epoch(2), &sizes(LANE_BYTES)).err().unwrap();
                assert_eq!(error.status, Status::NoMemory, "{error}");
                LEFT.set(0);
            }
            assert!(!two.tcp.has_ended(peer));
            LEFT.set(usize::MAX);
            let seen = shown(&mut two, 2);
            two.until("what waited", |two| {
                two.tcp.poll(true, &mut Events::default());
                seen.block.cell(48).observe() == 2
            });
            assert_eq!([40, 72].map(|at| seen.block.cell(at).observe()), [1, 3]);
            two.enter(Epoch(2));
        }
    }
}

/// Its socket stayed readable, and whoever sleeps on the descriptor woke again and again; or it did not,
/// since all was read, and nobody woke to try again.
#[test]
fn what_waits_for_memory_ends_no_sleep() {
    for sealed in [false, true] {
        let (mut one, mut two) = two(sealed);
        one.show_next(&[0]);
        two.show_next(&[0]);
        two.until("it is shown", |two| {
            two.tcp.poll(true, &mut Events::default());
            two.tcp.links[0].as_ref().unwrap().mirror.has_shown(Epoch(2))
        });
        two.tcp.links[0].as_mut().unwrap().mirror.forget_memory();
        one.enter(Epoch(2));
        one.words(one.others(), 6, 1);
        LEFT.set(0);
        let waits = |two: &Node| two.tcp.links[0].as_ref().unwrap().mirror.is_put_off();
        let sleep = |two: &mut Node| two.tcp.sleep(Some(1_000_000_000), &mut Events::default());
        two.tcp.arm(false);
        two.until("it enters", |two| {
            sleep(two);
            waits(two)
        });
        assert!(readable(&two.tcp, Duration::from_secs(20)), "nobody wakes to try again");
        one.words(one.others(), 6, 2);
        let start = Instant::now();
        (0..6).for_each(|_| sleep(&mut two));
        let slept = start.elapsed();
        assert!(slept >= Duration::from_millis(50), "6 wakes in {slept:?}");
        LEFT.set(usize::MAX);
        two.until("what waited", |two| {
            sleep(two);
            !waits(two)
        });
        let seen = shown(&mut two, 2);
        one.words(one.others(), 7, 3);
        two.until("it is watched again", |two| {
            sleep(two);
            seen.block.cell(56).observe() == 3
        });
        assert_eq!(seen.block.cell(48).observe(), 2);
        two.tcp.disarm();
        two.enter(Epoch(2));
    }
}
