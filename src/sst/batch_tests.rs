// SPDX-License-Identifier: MIT OR Apache-2.0
//! Batches: where they end by number, by count or by bytes, and at a slot that is none. Everything
//! before it comes once and in order, nothing behind it, and the right sender is blamed.

use super::inbox::Inbox;
use super::layout::{Mode, Shape};
use super::producer::{Gate, Producer};
use super::ring::{LaneCells, Ring, Taker};
use super::stores::Stores;
use crate::base::{Count, Epoch, Number, Rank};
use crate::limits::BATCH_BYTES;
use crate::mem::{Batch, Region};
use proptest::prelude::*;
use std::sync::Arc;

const EPOCH: Epoch = Epoch(1);

/// What some senders send, and how it is looked at.
#[derive(Clone, Debug)]
struct Case {
    /// By sender: nulls before each message, and its length.
    lists: Vec<Vec<(u8, u16)>>,
    /// How many messages a run has at the most, in turn.
    runs: Vec<u8>,
    /// Whether a payload is streamed, in turn.
    streams: Vec<bool>,
    /// The sender and the message whose descriptor is destroyed.
    bad: Option<(u8, u8)>,
    /// Each collect's most messages (0: any), and how far the prefix goes on before it.
    collects: Vec<(u8, u16)>,
}

fn case() -> impl Strategy<Value = Case> {
    let len = prop_oneof![
        2 => Just(0u16),
        2 => 1..200u16,
        1 => 20_000..60_000u16,
        1 => Just(63u16),
        1 => Just(64u16),
    ];
    let nulls = prop_oneof![5 => Just(0u8), 1 => Just(1u8), 1 => 2..20u8];
    let list = proptest::collection::vec((nulls, len), 0..60);
    let most = prop_oneof![Just(0u8), 0..40u8];
    (
        proptest::collection::vec(list, 1..6),
        proptest::collection::vec(1..20u8, 1..8),
        proptest::collection::vec(any::<bool>(), 1..7),
        proptest::option::of((any::<u8>(), any::<u8>())),
        proptest::collection::vec((most, any::<u16>()), 1..12),
    )
        .prop_map(|(lists, runs, streams, bad, collects)| Case {
            lists,
            runs,
            streams,
            bad,
            collects,
        })
}

fn payload(s: usize, i: usize, len: u16) -> Vec<u8> {
    (0..usize::from(len)).map(|at| (at * 7 + i * 31 + s * 97) as u8).collect()
}

/// All that was sent, and where it lies.
struct Sent {
    rings: Vec<(Ring, u16, u16)>,
    slots: Vec<Count>,
    /// Number, sender, position in its list, length; in order.
    expected: Vec<(u64, usize, usize, u16)>,
    /// The order ends there: everybody has as many indices as the one with the most.
    most: u64,
}

fn shape(senders: usize, mode: Mode) -> Shape {
    Shape {
        senders: senders as u16,
        lanes: 1,
        mode,
        window: 61,
        message_bytes_max: 65536,
        ring_bytes: 4 << 20,
    }
}

fn lane(shape: &Shape, s: usize) -> (Producer, Taker, Ring) {
    let ring = Ring::new(Arc::new(Region::heap(shape.lane().bytes as usize)), 0, shape);
    let gate = Gate {
        rows: vec![(Rank(0), Arc::new(Region::heap(128)), 0)],
        mode: shape.mode,
        sender: s,
        senders: shape.senders.into(),
        hook: None,
    };
    let cells = LaneCells::new();
    let producer = Producer::new(ring.clone(), cells.clone(), gate, shape, 1000);
    (producer, Taker::new(ring.clone(), cells), ring)
}

fn send(case: &Case) -> Sent {
    let senders = case.lists.len();
    let mut sent = Sent { rings: vec![], slots: vec![], expected: vec![], most: 0 };
    for (s, list) in case.lists.iter().enumerate() {
        let (mut producer, mut taker, ring) = lane(&shape(senders, Mode::Stable), s);
        let (mut next, mut pending, mut runs) = (0, 0, case.runs.iter().cycle());
        let mut run = u64::from(*runs.next().unwrap());
        for (i, &(nulls, len)) in list.iter().enumerate() {
            if pending > 0 && (nulls > 0 || pending >= run) {
                taker.take(pending, Count(next - pending), 5, EPOCH);
                (pending, run) = (0, u64::from(*runs.next().unwrap()));
            }
            next += u64::from(nulls);
            producer.store(Stores::fixed(case.streams[i % case.streams.len()]));
            producer.send(&payload(s, i, len)).unwrap();
            sent.expected.push((next * senders as u64 + s as u64, s, i, len));
            (next, pending) = (next + 1, pending + 1);
        }
        if pending > 0 {
            taker.take(pending, Count(next - pending), 5, EPOCH);
        }
        sent.rings.push((ring, s as u16, 0));
        sent.slots.push(Count(taker.slots));
        sent.most = sent.most.max(next * senders as u64);
    }
    sent.expected.sort_unstable();
    sent
}

/// Destroys a descriptor: where in the order its message was.
fn destroy(case: &Case, sent: &Sent) -> Option<usize> {
    let (s, i) = case.bad?;
    let s = usize::from(s) % case.lists.len();
    let i = usize::from(i) % case.lists[s].len().max(1);
    let stop = sent.expected.iter().position(|expected| (expected.1, expected.2) == (s, i))?;
    sent.rings[s].0.descriptor(i as u64).prepare(0);
    Some(stop)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn up_to_a_bad_slot_all_comes_once_and_nothing_after(case in case()) {
        let sent = send(&case);
        let stop = destroy(&case, &sent);
        let Sent { rings, slots, expected, most } = sent;
        let mut inbox = Inbox::new(rings, &shape(case.lists.len(), Mode::Stable), EPOCH);
        let mut batch = Batch::new(512);
        let (mut given, mut upto) = (0, 0);
        let failed = loop {
            for &(limit, step) in &case.collects {
                upto = (upto + 1 + u64::from(step) % 97).min(most);
                let before = inbox.number();
                let limit = if limit == 0 { 512 } else { limit.into() };
                let outcome = inbox.collect(Number(upto), &slots, &mut batch, limit);
                for message in batch.messages() {
                    let (number, s, i, len) = expected[given];
                    let its = (message.number, usize::from(message.rank), message.len);
                    prop_assert_eq!(its, (number, s, u32::from(len)));
                    prop_assert!(message.number < upto && stop.is_none_or(|stop| given < stop));
                    prop_assert_eq!(message.bytes(), payload(s, i, len));
                    given += 1;
                }
                prop_assert!(batch.bytes() < BATCH_BYTES as u64 + 6 * 65536);
                batch.clear();
                if let Err(bad) = outcome {
                    let stop = stop.expect("only what was destroyed is bad");
                    prop_assert_eq!((bad.sender, given), (expected[stop].1, stop));
                    return Ok(());
                }
                prop_assert!(inbox.number() > before || before.0 == upto, "stuck at {:?}", before);
            }
            if upto == most && inbox.number().0 == most {
                break false;
            }
        };
        prop_assert_eq!((failed, stop), (false, None));
        prop_assert_eq!(given, expected.len());
    }

    /// A few numbers have a way of their own (`collect_few`): it gives what the other one does, and
    /// blames whom that blames, wherever the batches end.
    #[test]
    fn few_at_a_time_are_the_same_as_many(case in case()) {
        let sent = send(&case);
        destroy(&case, &sent);
        let shape = shape(case.lists.len(), Mode::Stable);
        let inbox = || Inbox::new(sent.rings.clone(), &shape, EPOCH);
        let (mut few, mut many) = (inbox(), inbox());
        let mut batches = [Batch::new(512), Batch::new(7)];
        let mut steps = case.collects.iter().cycle();
        let mut outcome = Ok(());
        let mut got: [Vec<(u64, u16, Vec<u8>)>; 2] = [vec![], vec![]];
        let take = |batch: &mut Batch, got: &mut Vec<_>| {
            let each = batch.messages().iter();
            got.extend(each.map(|its| (its.number, its.rank, its.bytes().to_vec())));
            batch.clear();
        };
        while outcome.is_ok() && many.number().0 < sent.most {
            outcome = many.collect(Number(sent.most), &sent.slots, &mut batches[0], 512);
            take(&mut batches[0], &mut got[0]);
        }
        let mut short = Ok(());
        while short.is_ok() && few.number().0 < sent.most {
            let &(most, step) = steps.next().unwrap();
            let upto = Number((few.number().0 + u64::from(step) % 5).min(sent.most));
            // Not emptied each time: it may be full before `most` is reached.
            short = few.collect(upto, &sent.slots, &mut batches[1], usize::from(most) % 6);
            if batches[1].messages().len() == 7 || step % 3 == 0 || step % 5 == 0 {
                take(&mut batches[1], &mut got[1]);
            }
            let again = (short, few.number());
            if short.is_err() {
                short = few.collect(upto, &sent.slots, &mut batches[1], 6);
                prop_assert_eq!((short, few.number()), again, "nothing moves after an error");
            }
            if case.collects.iter().all(|(most, step)| most % 6 == 0 || step % 5 == 0) {
                return Ok(()); // these never move
            }
        }
        take(&mut batches[1], &mut got[1]);
        prop_assert_eq!(short, outcome);
        prop_assert!(got[0] == got[1]);
        if short.is_ok() {
            let consumed = |inbox: &Inbox| {
                (0..case.lists.len()).map(|s| inbox.consumed(s)).collect::<Vec<_>>()
            };
            prop_assert_eq!(consumed(&few), consumed(&many));
        }
    }
}

/// Each message once, nobody blamed, all get a turn.
#[test]
fn on_receipt_batches_end_by_bytes() {
    let shape = shape(3, Mode::Received);
    let mut rings = vec![];
    for s in 0..3 {
        let (mut producer, mut taker, ring) = lane(&shape, s);
        for i in 0..60u8 {
            producer.send(&vec![i; 20_000 + 17 * usize::from(i)]).unwrap();
            if i % 7 == 6 || i == 59 {
                let (count, slots) = (taker.waiting(), taker.slots);
                taker.take(count, Count(slots), 0, EPOCH);
            }
        }
        rings.push((ring, s as u16, 0));
    }
    let mut inbox = Inbox::new(rings, &shape, EPOCH);
    let mut batch = Batch::new(512);
    let mut next = [0u64; 3];
    for round in 0..200 {
        inbox.collect(Number(0), &[Count(60); 3], &mut batch, 512).expect("sound");
        for message in batch.messages() {
            assert_eq!(message.number, next[usize::from(message.rank)]);
            assert!(message.bytes().iter().all(|byte| u64::from(*byte) == message.number));
            next[usize::from(message.rank)] += 1;
        }
        batch.clear();
        assert!(round != 2 || next.iter().all(|next| *next > 0), "{next:?}");
    }
    assert_eq!(next, [60; 3]);
}
