// SPDX-License-Identifier: MIT OR Apache-2.0
//! A lane over many views, both ends for real and the world around them played: by hand, and with an
//! application's thread that sends in every way while views change every few hundred microseconds.

use super::{Dropped, Handover, Lane, Next, lane};
use crate::base::{Count, Epoch, Rank};
use crate::error::Status;
use crate::limits::SLOT_ALIGN;
use crate::mem::thread::{can_order_all_threads, order_all_threads};
use crate::mem::{Cell, Region};
use crate::mutants::plant;
use crate::sst::kept::Kept;
use crate::sst::layout::{Mode, Shape};
use crate::sst::producer::{Door, Gate, Producer};
use crate::sst::ring::{LaneCells, Ring, Taker};
use crate::sst::stores::Stores;
use std::cell::RefCell;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

const EPOCH: Epoch = Epoch(1);

/// The turn thread's side of one view in which the lane has a ring.
struct View {
    taker: Taker,
    block: Arc<Region>,
    /// Slots delivered.
    delivered: u64,
    memory: Weak<Region>,
    door: Door,
}

#[derive(Clone, Copy)]
struct Sort {
    window: u32,
    message_bytes_max: u32,
    ring_bytes: u64,
    streams: bool,
}

const PLAIN: Sort = Sort { window: 4, message_bytes_max: 64, ring_bytes: 512, streams: false };

impl View {
    fn new(sort: Sort) -> (View, Producer) {
        let shape = Shape {
            senders: 1,
            lanes: 1,
            mode: Mode::Received,
            window: sort.window,
            message_bytes_max: sort.message_bytes_max,
            ring_bytes: sort.ring_bytes.next_multiple_of(SLOT_ALIGN),
        };
        let region = Arc::new(Region::heap(shape.lane().bytes as usize));
        let (ring, memory) = (Ring::new(region.clone(), 0, &shape), Arc::downgrade(&region));
        let block = Arc::new(Region::heap(8));
        let gate = Gate {
            rows: vec![(Rank(0), block.clone(), 0)],
            mode: shape.mode,
            sender: 0,
            senders: 1,
            hook: None,
        };
        let cells = LaneCells::new();
        let mut producer = Producer::new(ring.clone(), cells.clone(), gate, &shape, 128);
        producer.store(Stores::fixed(sort.streams));
        producer.defer_fences(can_order_all_threads());
        let door = producer.door();
        (View { taker: Taker::new(ring, cells), block, delivered: 0, memory, door }, producer)
    }

    fn take_up(&mut self) {
        let (count, next) = (self.taker.waiting(), Count(self.taker.slots));
        if count > 0 {
            self.taker.take(count, next, 0, EPOCH);
        }
    }

    /// Delivers up to `most` of what has been taken up.
    fn deliver(&mut self, most: u64, deliver: &mut impl FnMut(&[u8])) {
        let upto = self.taker.slots.min(self.delivered.saturating_add(most));
        while self.delivered < upto {
            let (at, len) = self.taker.ring.place(self.delivered);
            deliver(self.taker.ring.payload(at, len).expect("a slot"));
            self.delivered += 1;
            self.block.cell(0).publish(self.delivered);
        }
    }

    /// Ends: what has been taken up and is not below the cut is kept, and what has not been.
    fn end(&mut self, last: u64, deliver: &mut impl FnMut(&[u8])) -> Kept {
        self.taker.stop(Status::Again);
        self.deliver(last, deliver);
        self.taker.keep(self.delivered)
    }
}

/// Both ends by hand.
struct Stage {
    lane: Lane,
    handover: Handover,
    view: Option<View>,
    got: Vec<String>,
    dropped: Vec<(u64, String, Status)>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

impl Stage {
    fn new(sort: Option<Sort>) -> Stage {
        let (lane, handover) = lane();
        let mut stage = Stage { lane, handover, view: None, got: vec![], dropped: vec![] };
        stage.install(sort);
        stage
    }

    fn send(&mut self, text: &str) -> Result<u64, Status> {
        self.lane.send(text.as_bytes())
    }

    fn turn(&mut self) {
        let dropped = &mut self.dropped;
        self.handover.pump(&mut |what| dropped.push((what.ordinal, text(what.bytes), what.why)));
        let Some(view) = &mut self.view else { return };
        view.take_up();
        view.deliver(u64::MAX, &mut |bytes| self.got.push(text(bytes)));
    }

    /// The view ends with `last` more deliveries, and the next begins.
    fn change(&mut self, last: u64, sort: Option<Sort>) {
        let kept = self.end(last);
        self.begin(kept, sort);
    }

    fn end(&mut self, last: u64) -> Option<Kept> {
        self.view.take().map(|mut view| view.end(last, &mut |bytes| self.got.push(text(bytes))))
    }

    fn begin(&mut self, kept: Option<Kept>, sort: Option<Sort>) {
        let (view, producer) = sort.map(View::new).unzip();
        self.view = view;
        self.go_on(kept, producer.map_or(Next::NotSender, Next::Sends));
    }

    fn go_on(&mut self, kept: Option<Kept>, next: Next) {
        let dropped = &mut self.dropped;
        self.handover.install(kept, next, &mut |what: Dropped| {
            dropped.push((what.ordinal, text(what.bytes), what.why));
        });
    }

    fn turn_and_change(&mut self) {
        self.turn();
        self.change(0, Some(PLAIN));
    }

    /// The lane takes nothing new any more.
    fn shut(&mut self, status: Status) {
        self.handover.close(self.view.as_ref().map(|view| &view.taker), status);
        let _ = order_all_threads();
        self.handover.settle(self.view.as_mut().map(|view| &mut view.taker));
    }

    /// The member's part is over.
    fn part(&mut self, why: Status) {
        self.shut(why);
        let kept = self.view.as_mut().map(|view| view.taker.keep(view.delivered));
        let dropped = &mut self.dropped;
        self.handover.end((kept, 0), why, &mut |what| {
            dropped.push((what.ordinal, text(what.bytes), what.why));
        });
    }

    /// That of the newest ring.
    fn memory(&self) -> Weak<Region> {
        self.view.as_ref().unwrap().memory.clone()
    }

    fn install(&mut self, sort: Option<Sort>) {
        self.begin(None, sort);
    }
}

#[test]
fn what_a_view_did_not_deliver_comes_first_in_the_next() {
    let mut stage = Stage::new(Some(PLAIN));
    assert_eq!([stage.send("a"), stage.send("b")], [Ok(0), Ok(1)]);
    stage.view.as_mut().unwrap().take_up();
    assert_eq!(stage.send("c"), Ok(2));
    let kept = stage.end(1);
    assert_eq!(stage.send("refused"), Err(Status::Again));
    stage.begin(kept, Some(PLAIN));
    assert_eq!(stage.send("d"), Ok(3));
    stage.turn();
    assert_eq!(stage.got, ["a", "b", "c", "d"]);
    assert!(stage.handover.is_settled() && !stage.handover.has_left());
}

/// Views in which the subgroup lacks members: everything stays where it is, whoever looks, and comes
/// first when there are enough; a call that was under way included.
#[test]
fn what_waits_for_members_comes_first_when_they_are_there() {
    let mut stage = Stage::new(Some(PLAIN));
    for text in ["a", "b", "c"] {
        stage.send(text).unwrap();
    }
    stage.view.as_mut().unwrap().take_up();
    stage.lane.reserve(1).unwrap()[0] = b'd';
    let mut kept = stage.end(1);
    for _ in 0..3 {
        stage.go_on(kept.take(), Next::Waits);
        stage.turn();
        assert_eq!(stage.handover.waits_with(), Some(2));
        assert!(!stage.handover.has_left() && !stage.handover.has_work());
        assert_eq!(stage.lane.publish(1), Err(Status::Inadequate), "it stays reserved");
    }
    assert_eq!(stage.got, ["a"]);
    stage.begin(None, Some(PLAIN));
    assert_eq!(stage.handover.waits_with(), None);
    assert_eq!((stage.lane.publish(1), stage.send("e")), (Ok(3), Ok(4)));
    stage.turn();
    assert_eq!(stage.got, ["a", "b", "c", "d", "e"]);
    // Waits, and is no sender when there are enough.
    stage.send("f").unwrap();
    let kept = stage.end(0);
    stage.go_on(kept, Next::Waits);
    assert_eq!((stage.dropped.len(), stage.send("no")), (0, Err(Status::Inadequate)));
    stage.begin(None, None);
    assert_eq!(stage.dropped, [(5, "f".into(), Status::NotSender)]);
    assert_eq!(stage.send("no"), Err(Status::NotSender));
}

/// Nobody has sent anything, in no view yet.
#[test]
fn a_lane_may_begin_with_waiting() {
    let (lane, handover) = lane();
    let mut stage = Stage { lane, handover, view: None, got: vec![], dropped: vec![] };
    stage.go_on(None, Next::Waits);
    assert_eq!((stage.send("no"), stage.handover.waits_with()), (Err(Status::Inadequate), Some(0)));
    stage.handover.stop(Status::PeerLost);
    assert_eq!(stage.send("no"), Err(Status::PeerLost));
    stage.begin(None, Some(PLAIN));
    assert_eq!(stage.send("a"), Ok(0));
}

/// An idle lane goes through views without its thread, and its thread through all at once.
#[test]
fn a_lane_that_nobody_calls_sends_again_all_the_same() {
    let mut stage = Stage::new(Some(PLAIN));
    for text in ["a", "b", "c"] {
        stage.send(text).unwrap();
    }
    stage.view.as_mut().unwrap().take_up();
    stage.change(1, Some(PLAIN));
    stage.view.as_mut().unwrap().take_up();
    stage.change(1, Some(PLAIN));
    assert!(!stage.handover.is_settled());
    stage.turn();
    assert_eq!(stage.got, ["a", "b", "c"]);
    assert_eq!(stage.send("d"), Ok(3));
    stage.turn();
    assert_eq!(stage.got[3], "d");
    assert!(stage.handover.is_settled());
}

/// Three views' messages, none delivered, in rings that get smaller: they wait for room in order.
#[test]
fn what_has_no_room_waits_and_nothing_new_passes_it() {
    let mut stage = Stage::new(Some(Sort { window: 8, ..PLAIN }));
    for n in 0..8 {
        stage.send(&n.to_string()).unwrap();
    }
    stage.change(0, Some(Sort { window: 2, ..PLAIN }));
    assert!(stage.handover.has_left());
    assert_eq!(stage.send("8"), Err(Status::Again));
    stage.view.as_mut().unwrap().take_up();
    stage.change(1, Some(Sort { window: 3, ..PLAIN }));
    assert_eq!(stage.send("8"), Err(Status::Again));
    while stage.handover.has_left() {
        stage.turn();
    }
    assert_eq!(stage.send("8"), Ok(8));
    stage.turn();
    assert_eq!(stage.got, ["0", "1", "2", "3", "4", "5", "6", "7", "8"]);
}

/// The role is lost and comes back; ordinals tell of what was dropped, also of what is dropped a
/// view later than it was sent again.
#[test]
fn what_no_view_takes_is_dropped_by_its_ordinal() {
    let small = Sort { message_bytes_max: 4, ..PLAIN };
    let mut stage = Stage::new(Some(PLAIN));
    for text in ["zero", "number one", "two", "number three"] {
        stage.send(text).unwrap();
    }
    assert_eq!(stage.send("four"), Err(Status::Again), "the window is full");
    stage.change(0, Some(small));
    let too_long = |ordinal, text: &str| (ordinal, text.to_owned(), Status::TooLong);
    assert_eq!(stage.dropped, [too_long(1, "number one"), too_long(3, "number three")]);
    assert_eq!(stage.send("number four"), Err(Status::TooLong));
    assert_eq!(stage.send("four"), Ok(4));
    stage.dropped.clear();
    stage.change(0, None);
    let no_sender = |ordinal, text: &str| (ordinal, text.to_owned(), Status::NotSender);
    assert_eq!(stage.dropped, [no_sender(0, "zero"), no_sender(2, "two"), no_sender(4, "four")]);
    for _ in 0..2 {
        assert_eq!(stage.send("nowhere"), Err(Status::NotSender));
        assert_eq!(stage.lane.reserve(1).err(), Some(Status::NotSender));
        stage.change(0, None);
    }
    stage.change(0, Some(PLAIN));
    assert_eq!(stage.send("five"), Ok(5));
    stage.turn();
    assert_eq!((stage.got, stage.dropped.len()), (vec!["five".to_owned()], 3));
}

#[test]
fn a_reservation_outlives_its_view() {
    let mut stage = Stage::new(Some(PLAIN));
    stage.lane.reserve(8).unwrap().copy_from_slice(b"reserved");
    stage.change(0, Some(Sort { window: 1, ..PLAIN }));
    assert_eq!(stage.send("beside it"), Err(Status::NotReserved));
    assert_eq!(stage.lane.publish(9), Err(Status::TooLong));
    assert_eq!(stage.lane.publish(7), Ok(0));
    assert_eq!(stage.lane.publish(7), Err(Status::NotReserved));
    // The next one meets a full ring, and a view change while it is held.
    stage.turn();
    stage.lane.reserve(2).unwrap().copy_from_slice(b"no");
    assert_eq!(stage.lane.abort(), Ok(()));
    stage.lane.reserve(4).unwrap().copy_from_slice(b"next");
    let kept = stage.end(0);
    assert_eq!(stage.lane.publish(4), Err(Status::Again));
    stage.begin(kept, Some(PLAIN));
    stage.change(0, None);
    assert_eq!(stage.lane.publish(4), Err(Status::NotSender));
    assert_eq!(stage.lane.reserve(1).err(), Some(Status::NotReserved));
    stage.change(0, Some(PLAIN));
    assert_eq!(stage.lane.publish(4), Ok(1));
    stage.lane.reserve(5).unwrap().copy_from_slice(b"never");
    stage.change(0, Some(PLAIN));
    assert_eq!(stage.lane.send_parts(&[b"beside"]), Err(Status::NotReserved));
    assert_eq!(stage.lane.abort(), Ok(()));
    assert_eq!(stage.send("last"), Ok(2));
    stage.turn();
    assert_eq!(stage.got, ["reserve", "next", "last"]);
}

/// A call that began before the wedge and ends two views later: the turn thread has gone on without
/// it, and sends again what it counted in the old ring, before anything newer.
fn a_call_spans_views(change: impl Fn(&mut Stage)) {
    let mut stage = Stage::new(Some(PLAIN));
    let mut lane = std::mem::replace(&mut stage.lane, super::lane().0);
    assert_eq!(lane.send(b"before"), Ok(0));
    let late = (0..2).map(|at: usize| {
        if at == 1 {
            change(&mut stage);
            change(&mut stage);
        }
        [b"late 0".as_slice(), b"late 1"][at]
    });
    assert_eq!(lane.send_many(late), (2, Ok(())));
    stage.lane = lane;
    assert!(stage.handover.has_work(), "it may not sleep on that");
    assert_eq!(stage.send("after"), Err(Status::Again));
    stage.turn();
    assert_eq!(stage.send("after"), Ok(3));
    stage.turn();
    assert_eq!(stage.got, ["before", "late 0", "late 1", "after"]);
    assert!(!stage.handover.has_work());
}

#[test]
fn a_call_that_was_under_way_loses_nothing() {
    a_call_spans_views(|stage| stage.change(0, Some(PLAIN)));
    a_call_spans_views(|stage| stage.turn_and_change());
}

#[test]
fn a_call_that_was_under_way_is_told_of_a_lost_role() {
    let mut stage = Stage::new(Some(PLAIN));
    let mut lane = std::mem::replace(&mut stage.lane, super::lane().0);
    lane.send(b"before").unwrap();
    let late = (0..1).map(|_| {
        stage.change(u64::MAX, None);
        b"late".as_slice()
    });
    assert_eq!(lane.send_many(late), (1, Ok(())));
    stage.lane = lane;
    assert_eq!(stage.send("after"), Err(Status::NotSender));
    stage.turn();
    let lost = |ordinal, text: &str| (ordinal, text.to_owned(), Status::NotSender);
    assert_eq!(stage.dropped, [lost(0, "before"), lost(1, "late")]);
    stage.change(0, Some(PLAIN));
    assert_eq!(stage.send("after"), Ok(2));
}

#[test]
#[should_panic(expected = "nothing is left behind (H2)")]
fn a_ring_left_too_early_is_found() {
    plant(Some("loom-h-early"));
    a_call_spans_views(|stage| stage.change(0, Some(PLAIN)));
}

#[test]
#[should_panic]
fn a_late_message_overlooked_is_found() {
    plant(Some("loom-h-late-ones-overlooked"));
    a_call_spans_views(|stage| stage.change(0, Some(PLAIN)));
}

/// What was sent again has opened the easy path of the ring that is taken over.
fn a_reservation_is_in_the_way_of_easy_sends() {
    let mut stage = Stage::new(Some(PLAIN));
    stage.send("a").unwrap();
    stage.lane.reserve(8).unwrap().copy_from_slice(b"reserved");
    stage.change(0, Some(PLAIN));
    assert_eq!(stage.lane.publish(9), Err(Status::TooLong));
    assert_eq!(stage.send("beside it"), Err(Status::NotReserved));
    assert_eq!(stage.lane.reserve(1).err(), Some(Status::NotReserved));
    assert_eq!(stage.lane.publish(8), Ok(1));
    assert_eq!(stage.send("b"), Ok(2));
    stage.turn();
    assert_eq!(stage.got, ["a", "reserved", "b"]);
}

#[test]
fn a_reservation_is_in_the_way_whatever_was_sent_again() {
    a_reservation_is_in_the_way_of_easy_sends();
}

#[test]
#[should_panic(expected = "NotReserved")]
fn an_easy_path_left_open_is_found() {
    plant(Some("lane-held-leaves-the-easy-path-open"));
    a_reservation_is_in_the_way_of_easy_sends();
}

/// The door closes; then the lane is settled, goes through views, and its member's part is over.
#[test]
fn a_lane_that_takes_nothing_new_goes_on_with_what_it_has() {
    let mut stage = Stage::new(Some(PLAIN));
    for (text, ordinal) in [("a", 0), ("b", 1), ("c", 2)] {
        assert_eq!(stage.send(text), Ok(ordinal));
    }
    stage.lane.reserve(4).unwrap();
    stage.view.as_ref().unwrap().door.close();
    assert_eq!(stage.lane.publish(4), Err(Status::Left), "it stays reserved");
    assert_eq!(stage.send("d"), Err(Status::NotReserved));
    assert_eq!(stage.lane.abort(), Ok(()));
    assert_eq!(stage.send("d"), Err(Status::Left));
    stage.shut(Status::Left);
    stage.view.as_mut().unwrap().take_up();
    stage.change(1, Some(Sort { window: 1, ..PLAIN }));
    assert!(stage.handover.has_left() && !stage.handover.is_drained());
    assert_eq!(stage.send("d"), Err(Status::Left), "in whatever view");
    stage.view.as_mut().unwrap().take_up();
    stage.change(1, Some(Sort { window: 2, ..PLAIN }));
    assert!(stage.handover.is_drained() && !stage.handover.has_left());
    assert_eq!(stage.send("d"), Err(Status::Left));
    assert_eq!(stage.lane.reserve(1).err(), Some(Status::Left));
    assert_eq!(stage.lane.send_many([b"d".as_slice()].into_iter()), (0, Err(Status::Left)));
    stage.part(Status::Expelled);
    assert_eq!(stage.got, ["a", "b"]);
    assert_eq!(stage.dropped, [(2, "c".to_owned(), Status::Expelled)]);
    assert_eq!(stage.send("d"), Err(Status::Expelled), "a better reason");
}

/// A call is under way while its lane is closed, `change` befalls it and it is settled: how many of
/// two messages it is told to have sent, and they are delivered or given back.
fn a_call_while_the_door_closes(settles: bool, change: impl Fn(&mut Stage)) -> u64 {
    let mut stage = Stage::new(Some(PLAIN));
    let mut lane = std::mem::replace(&mut stage.lane, super::lane().0);
    assert_eq!(lane.send(b"before"), Ok(0));
    let late = (0..2).map(|at: usize| {
        if at == 1 {
            stage.view.as_ref().unwrap().door.close();
            change(&mut stage);
            if settles {
                stage.shut(Status::Left);
            }
        }
        [b"late 0".as_slice(), b"late 1"][at]
    });
    let (sent, outcome) = lane.send_many(late);
    stage.lane = lane;
    assert_eq!(outcome, if sent == 2 { Ok(()) } else { Err(Status::Left) });
    assert_eq!(stage.lane.ordinal(), 1 + sent);
    if !settles {
        stage.shut(Status::Left);
    }
    assert_eq!(stage.send("after"), Err(Status::Left));
    stage.turn();
    stage.part(Status::Left);
    let dropped = stage.dropped.iter().map(|(_, text, _)| text.clone());
    let all: Vec<String> = stage.got.iter().cloned().chain(dropped).collect();
    assert_eq!(all, ["before", "late 0", "late 1"][..1 + sent as usize]);
    sent
}

#[test]
fn a_call_under_way_while_the_door_closes_is_told_the_truth() {
    for settles in [false, true] {
        let sent = a_call_while_the_door_closes(settles, |_| ());
        assert_eq!(sent, if settles { 0 } else { 2 });
        for change in [Some(PLAIN), None] {
            let sent = a_call_while_the_door_closes(settles, |stage| stage.change(0, change));
            assert_eq!(sent, if settles { 0 } else { 2 });
        }
    }
}

#[test]
#[should_panic]
fn a_call_that_does_not_look_again_is_found() {
    plant(Some("loom-e-not-looked-again"));
    a_call_while_the_door_closes(true, |_| ());
}

thread_local!(static DOOR: RefCell<Option<Door>> = const { RefCell::new(None) });

/// The door closes while a call of several messages looks for room for one of them: that one decides
/// which slot is the last, and those after it are not sent. They were counted, and taken back too late
/// for the turn thread, which stopped at an assertion or delivered what had been refused.
fn several_messages_while_the_door_closes() {
    let mut stage = Stage::new(Some(PLAIN));
    for text in ["a", "b", "c", "d"] {
        stage.send(text).unwrap();
    }
    stage.turn();
    DOOR.set(Some(stage.view.as_ref().unwrap().door.clone()));
    stage
        .lane
        .producer
        .look_through(|_| DOOR.with_borrow(|door| door.iter().for_each(Door::close)));
    let texts = [b"e".as_slice(), b"f", b"g"];
    assert_eq!(stage.lane.send_many(texts.into_iter()), (1, Err(Status::Left)));
    assert_eq!((stage.lane.ordinal(), stage.send("h")), (5, Err(Status::Left)));
    stage.turn();
    stage.shut(Status::Left);
    stage.turn();
    stage.part(Status::Left);
    assert_eq!((stage.got.join(""), stage.dropped.len()), ("abcde".into(), 0));
}

#[test]
fn of_several_messages_those_after_the_last_are_not_sent() {
    several_messages_while_the_door_closes();
}

#[test]
#[should_panic]
fn several_messages_sent_past_the_last_are_found() {
    plant(Some("lane-many-past-the-last"));
    several_messages_while_the_door_closes();
}

/// A callback sends while its view's last messages are delivered: it is told to ask again.
#[test]
fn a_callback_may_send_while_its_view_ends() {
    let mut stage = Stage::new(Some(PLAIN));
    stage.send("a").unwrap();
    let mut view = stage.view.take().unwrap();
    view.take_up();
    let (mut refused, lane) = (None, &mut stage.lane);
    let kept = view.end(1, &mut |_| refused = Some(lane.send(b"from a callback")));
    assert_eq!(refused, Some(Err(Status::Again)));
    stage.begin(Some(kept), Some(PLAIN));
    assert_eq!(stage.send("b"), Ok(1));
}

/// Whoever goes first: the group's end, in a view or between two, or the sender's.
#[test]
fn the_end_may_come_at_any_moment() {
    let mut stage = Stage::new(Some(PLAIN));
    stage.send("a").unwrap();
    let kept = stage.end(0);
    stage.handover.stop(Status::PeerLost);
    assert_eq!(stage.send("b"), Err(Status::PeerLost));
    stage.begin(kept, Some(PLAIN));
    stage.view.as_ref().unwrap().taker.stop(Status::PeerFault);
    assert_eq!(stage.send("b"), Err(Status::PeerFault), "the new view ended before it was taken");

    let mut stage = Stage::new(Some(PLAIN));
    stage.send("a").unwrap();
    stage.change(0, Some(PLAIN));
    let (memory, Stage { mut lane, handover, view, .. }) = (stage.memory(), stage);
    drop((handover, view));
    assert_eq!(lane.send(b"b"), Ok(1), "there is a ring, as for any view that nobody polls");
    drop(lane);
    assert_eq!(memory.strong_count(), 0);

    let mut stage = Stage::new(Some(PLAIN));
    stage.send("a").unwrap();
    drop(stage.end(0));
    let Stage { mut lane, handover, .. } = stage;
    drop(handover);
    assert_eq!(lane.send(b"b"), Err(Status::Failed));

    let mut stage = Stage::new(Some(PLAIN));
    stage.send("a").unwrap();
    stage.change(0, Some(PLAIN));
    let Stage { lane, mut handover, view, .. } = stage;
    drop(lane);
    let kept = view.map(|mut view| view.end(0, &mut |_| ()));
    handover.install(kept, Next::Sends(View::new(PLAIN).1), &mut |_| panic!("nothing is dropped"));
}

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}

/// A message says which it is: its ordinal, and a byte of it all over.
fn fill(bytes: &mut [u8], ordinal: u64) {
    bytes.fill(ordinal as u8 ^ 0x5a);
    let len = bytes.len().min(8);
    bytes[..len].copy_from_slice(&ordinal.to_le_bytes()[..len]);
}

const LEN_MIN: u64 = 8;
const LEN_MAX: u64 = 400;

/// The application's thread: sends in every way, sleeps over views, holds reservations over them.
/// How many it has sent, and its lane.
fn application(mut lane: Lane, seed: u64, over: &Cell) -> (u64, Lane) {
    let (mut dice, mut sent) = (Dice::new(seed), 0);
    let mut room = vec![0; 8 * LEN_MAX as usize];
    let pause = |dice: &mut Dice| match dice.below(300) {
        0 => thread::sleep(Duration::from_micros(dice.below(2_000))),
        1..20 => thread::yield_now(),
        _ => {}
    };
    while over.observe() == 0 {
        pause(&mut dice);
        let len = dice.below(LEN_MAX - LEN_MIN) as usize + LEN_MIN as usize;
        let outcome = match dice.below(6) {
            0 => {
                let count = dice.below(8);
                for (bytes, at) in room.chunks_mut(LEN_MAX as usize).zip(0..) {
                    fill(bytes, sent + at);
                }
                let each = room.chunks(LEN_MAX as usize).take(count as usize).map(|bytes| {
                    pause(&mut dice); // in the middle of the call
                    &bytes[..len]
                });
                let (count, outcome) = lane.send_many(each);
                sent += count;
                assert_eq!(lane.ordinal(), sent);
                outcome.map(|()| None)
            }
            1 => {
                fill(&mut room[..len], sent);
                let (one, two) = room[..len].split_at(len / 3);
                lane.send_parts(&[one, two]).map(Some)
            }
            2 => match lane.reserve(len as u32) {
                Ok(bytes) => {
                    fill(bytes, sent);
                    pause(&mut dice);
                    if dice.below(8) == 0 {
                        assert_eq!(lane.abort(), Ok(()));
                        continue;
                    }
                    loop {
                        match lane.publish(len as u32) {
                            Err(Status::Again) if over.observe() == 0 => thread::yield_now(),
                            Err(_) => {
                                assert_eq!(lane.abort(), Ok(()));
                                break Ok(None);
                            }
                            Ok(ordinal) => break Ok(Some(ordinal)),
                        }
                    }
                }
                Err(status) => Err(status),
            },
            _ => {
                fill(&mut room[..len], sent);
                lane.send(&room[..len]).map(Some)
            }
        };
        match outcome {
            Ok(Some(ordinal)) => {
                assert_eq!(ordinal, sent);
                sent += 1;
            }
            Ok(None) => {}
            Err(status) if is_passing(status) => thread::yield_now(),
            Err(Status::Left) => break,
            Err(status) => panic!("{status:?}"),
        }
    }
    (sent, lane)
}

fn is_passing(status: Status) -> bool {
    let no_room = matches!(status, Status::Again | Status::TooLong);
    no_room || matches!(status, Status::NotSender | Status::Inadequate)
}

/// What comes of the messages: each is delivered or dropped, once, and those delivered in order.
#[derive(Default)]
struct Checker {
    seen: Vec<bool>,
    delivered: u64,
    dropped: u64,
    /// The least ordinal that may be delivered next.
    next: u64,
}

impl Checker {
    fn see(&mut self, bytes: &[u8]) -> u64 {
        let ordinal = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert!(bytes[8..].iter().all(|byte| *byte == ordinal as u8 ^ 0x5a), "{ordinal} is torn");
        let at = ordinal as usize;
        if at >= self.seen.len() {
            self.seen.resize(at + 1, false);
        }
        assert!(!std::mem::replace(&mut self.seen[at], true), "{ordinal} comes twice");
        ordinal
    }

    fn deliver(&mut self, bytes: &[u8]) {
        let ordinal = self.see(bytes);
        assert!(ordinal >= self.next, "{ordinal} after {}", self.next);
        self.next = ordinal + 1;
        self.delivered += 1;
    }

    fn drop(&mut self, what: Dropped) {
        assert_eq!(self.see(what.bytes), what.ordinal);
        self.dropped += 1;
    }
}

/// The turn thread over `changes` views; how often something came late.
struct Turns {
    handover: Handover,
    view: Option<View>,
    checker: Checker,
    dice: Dice,
    memories: Vec<Weak<Region>>,
    streams: bool,
    late: u64,
    /// Rings of later views are closed before anybody has them.
    leaves: bool,
}

impl Turns {
    fn turn(&mut self) {
        let checker = &mut self.checker;
        if self.handover.has_left() || self.dice.below(4) == 0 {
            let offered = !self.handover.has_left();
            let moved = self.handover.pump(&mut |what| checker.drop(what));
            self.late += u64::from(moved && offered);
        }
        let Some(view) = &mut self.view else { return };
        if self.dice.below(3) > 0 {
            view.take_up();
        }
        if self.dice.below(3) > 0 {
            view.deliver(self.dice.below(9), &mut |bytes| checker.deliver(bytes));
        }
    }

    fn change(&mut self, role: Option<u64>) {
        let checker = &mut self.checker;
        let last = self.dice.below(5);
        let kept =
            self.view.take().map(|mut view| view.end(last, &mut |bytes| checker.deliver(bytes)));
        if self.dice.below(3) == 0 {
            thread::sleep(Duration::from_micros(self.dice.below(60)));
        }
        let sort = Sort {
            window: 1 + self.dice.below(12) as u32,
            message_bytes_max: role.unwrap_or(0) as u32,
            ring_bytes: 2 * LEN_MAX + self.dice.below(8_000),
            streams: self.streams,
        };
        let (view, producer) = role.map(|_| View::new(sort)).unzip();
        self.memories.extend(view.as_ref().map(|view| view.memory.clone()));
        if let Some(view) = view.as_ref().filter(|_| self.leaves) {
            view.door.close();
        }
        self.view = view;
        let next = match producer {
            Some(producer) => Next::Sends(producer),
            None if self.dice.below(2) == 0 => Next::Waits,
            None => Next::NotSender,
        };
        self.handover.install(kept, next, &mut |what| checker.drop(what));
    }

    fn view_of(&mut self, micros: u64) {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_micros(micros) {
            (0..16).for_each(|_| self.turn());
            thread::yield_now(); // there may be one core for both
        }
    }
}

fn churn(seed: u64, changes: u64, streams: bool) {
    let (lane, handover) = lane();
    let over = Arc::new(Cell::new(0));
    let (checker, dice) = (Checker::default(), Dice::new(seed));
    let memories = Vec::new();
    let mut turns =
        Turns { handover, view: None, checker, dice, memories, streams, late: 0, leaves: false };
    let (sent, lane) = thread::scope(|scope| {
        let theirs = over.clone();
        let thread = scope.spawn(move || application(lane, seed + 77_777, &theirs));
        for _ in 0..changes {
            let role = match turns.dice.below(12) {
                0 | 1 => None,
                2 => Some(LEN_MAX / 2),
                _ => Some(LEN_MAX),
            };
            turns.change(role);
            let micros = 20 + turns.dice.below(300);
            turns.view_of(micros);
        }
        turns.change(Some(LEN_MAX));
        over.publish(1);
        thread.join().unwrap()
    });
    while turns.checker.delivered + turns.checker.dropped < sent {
        turns.turn();
    }
    let Checker { seen, delivered, dropped, .. } = &turns.checker;
    assert!(seen.iter().all(|seen| *seen) && seen.len() as u64 == sent);
    println!(
        "{changes} changes, {delivered} delivered, {dropped} dropped, {} times late",
        turns.late
    );
    // Of all rings there are at most the newest and the one that the lane is still in.
    let alive = |turns: &Turns| turns.memories.iter().filter(|m| m.strong_count() > 0).count();
    assert!(alive(&turns) <= 2);
    drop((turns.view.take(), lane));
    assert!(alive(&turns) <= if turns.handover.is_settled() { 0 } else { 2 });
    let memories = std::mem::take(&mut turns.memories);
    drop(turns);
    assert!(memories.iter().all(|memory| memory.strong_count() == 0), "nothing leaks");
}

#[test]
fn each_message_comes_once_while_views_change_under_a_sending_thread() {
    for seed in 1..=6 {
        churn(seed, 700, seed % 3 == 0);
    }
}

/// The lane is closed while its thread sends, by another one, and settled while views change: what
/// was accepted is delivered or given back, and nothing else.
fn churn_to_the_end(seed: u64) -> u64 {
    let (lane, handover) = lane();
    let over = Arc::new(Cell::new(0));
    let (checker, dice) = (Checker::default(), Dice::new(seed));
    let memories = Vec::new();
    let mut turns = Turns {
        handover,
        view: None,
        checker,
        dice,
        memories,
        streams: false,
        late: 0,
        leaves: false,
    };
    turns.change(Some(LEN_MAX));
    thread::scope(|scope| {
        let thread = scope.spawn(|| application(lane, seed + 77_777, &over));
        for _ in 0..turns.dice.below(3) {
            turns.view_of(50);
            turns.change(Some(LEN_MAX));
        }
        let micros = turns.dice.below(150);
        turns.view_of(micros);
        // However busy the machine is, some end in the middle of something.
        let least = if seed % 3 == 0 { 5 } else { 0 };
        while turns.checker.delivered < least {
            turns.turn();
            thread::yield_now();
        }
        let door = turns.view.as_ref().unwrap().door.clone();
        turns.leaves = true;
        let closer = scope.spawn(move || door.close());
        if turns.dice.below(2) == 0 {
            closer.join().unwrap();
        }
        let (role, at) = (turns.dice.below(8) > 0, turns.dice.below(3));
        for step in 0..3 {
            if step == at {
                let view = turns.view.as_ref().map(|view| &view.taker);
                turns.handover.close(view, Status::Left);
                let _ = order_all_threads();
                turns.handover.settle(turns.view.as_mut().map(|view| &mut view.taker));
            }
            if turns.dice.below(2) == 0 {
                turns.change(role.then_some(LEN_MAX));
            }
            turns.turn();
        }
        let Turns { handover, view, checker, .. } = &mut turns;
        let kept = view.as_mut().map(|view| view.taker.keep(view.delivered));
        handover.end((kept, 0), Status::Left, &mut |what| checker.drop(what));
        let known = checker.delivered + checker.dropped;
        let (sent, lane) = thread.join().unwrap();
        assert_eq!(known, sent, "before its thread has ended all is known");
        assert_eq!(lane.ordinal(), sent);
        sent
    })
}

#[test]
fn what_was_accepted_is_delivered_or_given_back() {
    let sent: u64 = (1..=1_500).map(churn_to_the_end).sum();
    assert!(sent >= 500 * 5, "{sent}");
}

/// `SQUALL_SEED=n` is the first one.
#[test]
#[ignore = "as long as one wants"]
fn many_changes() {
    let first = std::env::var("SQUALL_SEED").map_or(1000, |seed| seed.parse().unwrap());
    for seed in first..first + 60 {
        churn(seed, 2_000, seed % 2 == 0);
    }
}

/// What is reserved in an old ring keeps the lane (`SQUALL_NOT_RESERVED`), also when the
/// new ring has been used already, to send again what the old view did not deliver.
#[test]
fn a_reservation_keeps_its_lane_in_a_ring_that_was_used() {
    let mut stage = Stage::new(Some(PLAIN));
    assert_eq!(stage.send("a"), Ok(0));
    stage.lane.reserve(8).unwrap().copy_from_slice(b"reserved");
    stage.change(0, Some(PLAIN));
    assert_eq!(stage.send("beside it"), Err(Status::NotReserved));
    assert_eq!(stage.lane.publish(9), Err(Status::TooLong));
    assert_eq!(stage.send("beside it"), Err(Status::NotReserved));
}
