// SPDX-License-Identifier: MIT OR Apache-2.0
//! Edges W, T, S and H of `mem/order.rs` on the code itself, in every interleaving and with every value
//! that the memory model allows (up to `PREEMPTIONS` switches).
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release --lib --no-default-features loom`
//!
//! An application thread sends into a ring of one slot, so that every message reuses the bytes of
//! the one before; a turn thread takes it up, reads it through an inbox and releases it. Payload
//! words are tracked: an access that no edge orders is reported as a race. Each edge has a planted
//! fault that must be found.

use super::inbox::Inbox;
use super::lane::{Next, lane};
use super::layout::{Mode, Shape};
use super::producer::{Gate, Producer};
use super::ring::{LaneCells, Ring, Taker, slot_bytes};
use crate::base::{Count, Epoch, Number, Rank};
use crate::error::Status;
use crate::mem::{Batch, Region};
use crate::mutants::plant;
use loom::thread;
use std::sync::Arc;

const PREEMPTIONS: usize = 4;
const CHANGE_PREEMPTIONS: usize = 3;
const EPOCH: Epoch = Epoch(1);
const MESSAGES: u64 = 3;
/// Indices that were passed over before the first message: so that an index that was not written
/// yet, 0, looks like one that everybody has released.
const NULLS: u64 = 3;

struct Turn {
    taker: Taker,
    inbox: Inbox,
    block: Arc<Region>,
}

impl Turn {
    /// Takes up and delivers one message; whether there was one.
    fn turn(&mut self, count: u64) -> bool {
        if self.taker.waiting() == 0 {
            return false;
        }
        let next = Count(NULLS + count);
        self.taker.take(1, next, 0, EPOCH);
        let mut batch = Batch::new(1);
        let (upto, slots) = (Number(next.0 + 1), [Count(self.taker.slots)]);
        self.inbox.collect(upto, &slots, &mut batch, 1).expect("a sound slot");
        assert_eq!(batch.messages()[0].bytes(), word(count));
        self.block.cell(0).publish(upto.0); // S
        true
    }
}

fn word(count: u64) -> [u8; 8] {
    (0x1111_1111 * (count + 1)).to_le_bytes()
}

/// Both ends of a ring with room for one message.
fn ring() -> (Producer, Turn) {
    let shape = Shape {
        senders: 1,
        lanes: 1,
        mode: Mode::Stable,
        window: 1,
        message_bytes_max: 8,
        ring_bytes: slot_bytes(8),
    };
    let ring = Ring::new(Arc::new(Region::heap(shape.lane().bytes as usize)), 0, &shape);
    let block = Arc::new(Region::heap(8));
    block.cell(0).prepare(NULLS);
    let gate = Gate {
        rows: vec![(Rank(0), block.clone(), 0)],
        mode: Mode::Stable,
        sender: 0,
        senders: 1,
        hook: None,
    };
    let cells = LaneCells::new();
    let producer = Producer::new(ring.clone(), cells.clone(), gate, &shape, shape.ring_bytes);
    let inbox = Inbox::new(vec![(ring.clone(), 0, 0)], &shape, EPOCH);
    (producer, Turn { taker: Taker::new(ring, cells), inbox, block })
}

fn explore(fault: Option<&'static str>) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    plant(fault);
    builder.check(|| {
        let (mut producer, mut turn) = ring();
        let application = thread::spawn(move || {
            for count in 0..MESSAGES {
                loop {
                    match producer.send(&word(count)) {
                        Ok(ordinal) => break assert_eq!(ordinal, count),
                        Err(status) => assert_eq!(status, Status::Again),
                    }
                    thread::yield_now();
                }
            }
        });
        for count in 0..MESSAGES {
            while !turn.turn(count) {
                thread::yield_now();
            }
        }
        application.join().unwrap();
    });
    plant(None);
}

#[test]
fn loom_edges_w_t_s() {
    explore(None);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn loom_finds_a_count_without_release() {
    explore(Some("loom-w-relaxed"));
}

#[test]
#[should_panic(expected = "a run that was taken up")]
fn loom_finds_a_take_up_counted_before_the_index() {
    explore(Some("loom-t-early"));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn loom_finds_a_release_read_without_acquire() {
    explore(Some("loom-s-relaxed"));
}

/// The application's thread sends while the turn thread ends the view and goes on in the next: in
/// whatever call that happens, each message comes once, and in order.
///
/// `before`: it has sent a message when that begins; else it may not even have the first ring.
fn explore_a_view_change(fault: Option<&'static str>, before: bool, delivers: bool) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(CHANGE_PREEMPTIONS);
    plant(fault);
    builder.check(move || {
        let (mut lane, mut handover) = lane();
        let (producer, mut old) = ring();
        let none = &mut |_: super::lane::Dropped<'_>| panic!("nothing is dropped");
        handover.install(None, Next::Sends(producer), none);
        let first = u64::from(before);
        if before {
            lane.send(&word(0)).unwrap();
        }
        let application = thread::spawn(move || {
            for count in first..first + 2 {
                loop {
                    match lane.send(&word(count)) {
                        Ok(ordinal) => break assert_eq!(ordinal, count),
                        Err(status) => assert_eq!(status, Status::Again),
                    }
                    thread::yield_now();
                }
            }
        });
        let mut count = 0;
        if delivers && old.turn(count) {
            count += 1;
        }
        old.taker.stop(Status::Again);
        let kept = old.taker.keep(count);
        let (producer, mut turn) = ring();
        handover.install(Some(kept), Next::Sends(producer), none);
        while count < first + 2 {
            if turn.turn(count) {
                count += 1;
            } else {
                thread::yield_now();
            }
            handover.pump(none);
        }
        application.join().unwrap();
    });
    plant(None);
}

#[test]
fn loom_edge_h() {
    explore_a_view_change(None, true, false);
    explore_a_view_change(None, true, true);
    explore_a_view_change(None, false, false);
}

/// The application's thread sends while another closes its door and the turn thread settles the
/// lane, before or after a view change: what it was told to have sent is what there is.
fn explore_an_end(fault: Option<&'static str>, changes: bool) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(CHANGE_PREEMPTIONS);
    plant(fault);
    builder.check(move || {
        let (mut lane, mut handover) = lane();
        let (producer, mut turn) = ring();
        let door = producer.door();
        let none = &mut |_: super::lane::Dropped<'_>| panic!("nothing is dropped yet");
        handover.install(None, Next::Sends(producer), none);
        let application = thread::spawn(move || {
            let mut sent = 0;
            for _ in 0..3 {
                match lane.send(&word(sent)) {
                    Ok(ordinal) => {
                        assert_eq!(ordinal, sent);
                        sent += 1;
                    }
                    Err(Status::Again) => thread::yield_now(),
                    Err(status) => {
                        assert_eq!(status, Status::Left);
                        break;
                    }
                }
            }
            sent
        });
        door.close();
        let mut count = 0;
        if changes {
            turn.taker.stop(Status::Again);
            let kept = turn.taker.keep(0);
            let (producer, next) = ring();
            producer.door().close();
            turn = next;
            handover.install(Some(kept), Next::Sends(producer), none);
        }
        handover.close(Some(&turn.taker), Status::Left);
        assert!(crate::mem::thread::order_all_threads());
        handover.settle(Some(&mut turn.taker));
        if turn.turn(count) {
            count += 1;
        }
        let (kept, mut dropped) = (turn.taker.keep(count), 0);
        handover.end((Some(kept), 0), Status::Left, &mut |what| {
            assert_eq!((what.ordinal, what.bytes), (count + dropped, &word(count + dropped)[..]));
            dropped += 1;
        });
        assert_eq!(application.join().unwrap(), count + dropped, "what was accepted is known");
    });
    plant(None);
}

#[test]
fn loom_edge_e() {
    explore_an_end(None, false);
    explore_an_end(None, true);
}

#[test]
#[should_panic(expected = "what was accepted is known")]
fn loom_finds_a_call_that_does_not_look_again() {
    explore_an_end(Some("loom-e-not-looked-again"), false);
}

#[test]
#[should_panic(expected = "nothing is left behind")]
fn loom_finds_a_ring_left_too_early() {
    explore_a_view_change(Some("loom-h-early"), true, true);
}
