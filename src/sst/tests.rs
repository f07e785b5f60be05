// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rings and inboxes against the obvious: a sorted list of messages. Wraps, windows, runs of nulls,
//! messages of all sizes, batches that end anywhere.

use super::frontier::prefix;
use super::inbox::Inbox;
use super::layout::{Mode, Shape};
use super::producer::{Gate, Producer};
use super::ring::{LaneCells, Ring, Taker, slot_bytes};
use super::stores::Stores;
use crate::base::{Count, Epoch, Number, Rank};
use crate::error::Status;
use crate::limits::BATCH_MAX;
use crate::mem::thread::forbid_membarrier;
use crate::mem::{Batch, Region};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

const EPOCH: Epoch = Epoch(4);

/// What happens to a group of senders of which one member sees everything at once.
#[derive(Clone, Copy, Debug)]
enum Op {
    Send {
        s: usize,
        len: u32,
    },
    /// A slot is reserved, and given up or published with fewer bytes.
    Reserve {
        s: usize,
        len: u32,
        publish: Option<u32>,
    },
    Take {
        s: usize,
    },
    /// The next indices are passed over.
    Nulls {
        s: usize,
        count: u64,
    },
    Collect {
        most: usize,
    },
    Release,
}

#[derive(Clone, Copy, Debug)]
struct Setup {
    senders: usize,
    window: u32,
    message_bytes_max: u32,
    spare: u64,
    hot_bytes: u64,
    mode: Mode,
}

fn setup(mode: Mode) -> impl Strategy<Value = Setup> {
    let sizes = prop_oneof![Just(0u32), Just(1), Just(40), Just(333)];
    (1..5usize, 1..9u32, sizes, 0..20u64, 1..900u64).prop_map(
        move |(senders, window, message_bytes_max, spare, hot_bytes)| {
            let spare = spare * 16;
            Setup { senders, window, message_bytes_max, spare, hot_bytes, mode }
        },
    )
}

fn op(nulls: bool) -> impl Strategy<Value = Op> {
    let len = prop_oneof![Just(0u32), Just(1), Just(u32::MAX), any::<u32>()];
    let nulls = if nulls { 1 } else { 0 };
    prop_oneof![
        6 => (0..5usize, len.clone()).prop_map(|(s, len)| Op::Send { s, len }),
        1 => (0..5usize, len.clone(), proptest::option::of(any::<u32>()))
            .prop_map(|(s, len, publish)| Op::Reserve { s, len, publish }),
        4 => (0..5usize).prop_map(|s| Op::Take { s }),
        3 * nulls => (0..5usize, 1..30u64).prop_map(|(s, count)| Op::Nulls { s, count }),
        4 => prop_oneof![Just(1usize), Just(2), Just(BATCH_MAX)].prop_map(|most| Op::Collect { most }),
        3 => Just(Op::Release),
    ]
}

struct Sender {
    producer: Producer,
    taker: Taker,
    next: Count,
    /// Published and not taken up: ordinal and length.
    waiting: Vec<(u64, u32)>,
}

struct Bench {
    setup: Setup,
    senders: Vec<Sender>,
    inbox: Inbox,
    block: Arc<Region>,
    batch: Batch,
    /// Taken up and not delivered, by position in the order: sender, ordinal, length.
    expected: BTreeMap<u64, (usize, u64, u32)>,
    delivered: Vec<u64>,
}

fn byte(s: usize, ordinal: u64, at: usize) -> u8 {
    (s as u64 * 97 + ordinal * 31 + at as u64 * 7) as u8
}

fn payload(s: usize, ordinal: u64, len: u32) -> Vec<u8> {
    (0..len as usize).map(|at| byte(s, ordinal, at)).collect()
}

impl Bench {
    fn new(setup: Setup) -> Bench {
        let shape = Shape {
            senders: setup.senders as u16,
            lanes: 1,
            mode: setup.mode,
            window: setup.window,
            message_bytes_max: setup.message_bytes_max,
            ring_bytes: 2 * slot_bytes(setup.message_bytes_max) + setup.spare,
        };
        // Word 0: `released` in stable mode; words 1 + s: by sender.
        let block = Arc::new(Region::heap(256));
        let mut rings = Vec::new();
        let sender = |s: usize| {
            let region = Arc::new(Region::heap(shape.lane().bytes as usize));
            let ring = Ring::new(region, 0, &shape);
            rings.push((ring.clone(), s as u16, 0));
            let at = if setup.mode == Mode::Stable { 0 } else { 8 + s * 8 };
            let gate = Gate {
                rows: vec![(Rank(0), block.clone(), at)],
                mode: setup.mode,
                sender: s,
                senders: setup.senders,
                hook: None,
            };
            let cells = LaneCells::new();
            let hot_bytes = setup.hot_bytes;
            let producer = Producer::new(ring.clone(), cells.clone(), gate, &shape, hot_bytes);
            Sender { producer, taker: Taker::new(ring, cells), next: Count(0), waiting: vec![] }
        };
        let senders = (0..setup.senders).map(sender).collect();
        Bench {
            inbox: Inbox::new(rings, &shape, EPOCH),
            setup,
            senders,
            block,
            batch: Batch::new(BATCH_MAX),
            expected: BTreeMap::new(),
            delivered: vec![0; setup.senders],
        }
    }

    fn act(&mut self, op: Op) {
        let most = self.setup.message_bytes_max;
        let pick = |s: usize| s % self.setup.senders;
        match op {
            Op::Send { s, len } => {
                let (s, len) = (pick(s), len % (most + 1));
                let sender = &mut self.senders[s];
                let bytes = payload(s, sender.producer.ordinal(), len);
                match sender.producer.send(&bytes) {
                    Ok(ordinal) => sender.waiting.push((ordinal, len)),
                    Err(status) => assert_eq!(status, Status::Again),
                }
            }
            Op::Reserve { s, len, publish } => {
                let (s, len) = (pick(s), len % (most + 1));
                let sender = &mut self.senders[s];
                let ordinal = sender.producer.ordinal();
                match sender.producer.reserve(len) {
                    Ok(slot) => slot.copy_from_slice(&payload(s, ordinal, len)),
                    Err(status) => return assert_eq!(status, Status::Again),
                }
                assert_eq!(sender.producer.send(b""), Err(Status::NotReserved));
                let Some(less) = publish else { return sender.producer.abort().unwrap() };
                let less = less % (len + 1);
                assert_eq!(sender.producer.publish(less), Ok(ordinal));
                sender.waiting.push((ordinal, less));
            }
            Op::Take { s } => self.take(pick(s)),
            Op::Nulls { s, count } => self.senders[pick(s)].next.0 += count,
            Op::Collect { most } => self.collect(most),
            Op::Release => self.release(),
        }
    }

    fn take(&mut self, s: usize) {
        let sender = &mut self.senders[s];
        assert_eq!(sender.taker.waiting(), sender.waiting.len() as u64);
        if sender.waiting.is_empty() {
            return;
        }
        sender.taker.take(sender.waiting.len() as u64, sender.next, 77, EPOCH);
        for (ordinal, len) in sender.waiting.drain(..) {
            let number = sender.next.0 * self.setup.senders as u64 + s as u64;
            self.expected.insert(number, (s, ordinal, len));
            sender.next.0 += 1;
        }
    }

    fn collect(&mut self, most: usize) {
        let received: Vec<Count> = self.senders.iter().map(|sender| sender.next).collect();
        let slots: Vec<Count> =
            self.senders.iter().map(|sender| Count(sender.taker.slots)).collect();
        let upto = prefix(&received);
        self.inbox.collect(upto, &slots, &mut self.batch, most).expect("sound slots");
        let due = match self.setup.mode {
            Mode::Stable => self.expected.range(..upto.0).count(),
            Mode::Received => self.expected.len(),
        };
        assert_eq!(self.batch.messages().len(), due.min(most), "as many as there are");
        if self.setup.mode == Mode::Stable && due < most {
            assert_eq!(self.inbox.number(), upto, "trailing nulls are passed");
        }
        for message in self.batch.messages() {
            let s = usize::from(message.rank);
            let (number, first) = match self.setup.mode {
                Mode::Stable => (message.number, *self.expected.keys().next().unwrap()),
                Mode::Received => {
                    let number = message.number * self.setup.senders as u64 + s as u64;
                    (number, number)
                }
            };
            assert_eq!(number, first, "in order, none left out");
            let (of, ordinal, len) = self.expected.remove(&number).expect("once");
            assert_eq!((of, ordinal, len), (s, self.delivered[s], message.len));
            assert_eq!(message.bytes(), payload(s, ordinal, len), "sender {s} ordinal {ordinal}");
            assert_eq!(message.time_ns, 77);
            self.delivered[s] += 1;
            assert_eq!(self.inbox.consumed(s).0.max(self.delivered[s]), self.inbox.consumed(s).0);
        }
        self.batch.clear();
    }

    fn release(&mut self) {
        self.block.cell(0).publish(self.inbox.number().0);
        for s in 0..self.setup.senders {
            self.block.cell(8 + s * 8).publish(self.inbox.consumed(s).0);
        }
    }

    /// Everything sent is delivered, and then an empty ring takes the largest message.
    fn end(&mut self) {
        (0..self.setup.senders).for_each(|s| self.take(s));
        let longest = self.senders.iter().map(|sender| sender.next.0).max().unwrap();
        self.senders.iter_mut().for_each(|sender| sender.next.0 = longest);
        while !self.expected.is_empty() {
            self.collect(3);
        }
        self.collect(1);
        self.release();
        for sender in &mut self.senders {
            let most = self.setup.message_bytes_max;
            assert!(sender.producer.reserve(most).is_ok(), "room for the largest");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_total_order_with_nulls_comes_out_as_it_went_in(
        setup in setup(Mode::Stable),
        ops in proptest::collection::vec(op(true), 1..300),
    ) {
        let mut bench = Bench::new(setup);
        ops.into_iter().for_each(|op| bench.act(op));
        bench.end();
    }

    #[test]
    fn on_receipt_each_sender_comes_out_in_its_order(
        setup in setup(Mode::Received),
        ops in proptest::collection::vec(op(false), 1..300),
    ) {
        let mut bench = Bench::new(setup);
        ops.into_iter().for_each(|op| bench.act(op));
        bench.end();
    }
}

/// Senders that always have one more, or many, must not keep the others waiting for ever.
#[test]
fn on_receipt_no_sender_starves_another() {
    let setup = Setup {
        senders: 3,
        window: 8,
        message_bytes_max: 8,
        spare: 4096,
        hot_bytes: 1,
        mode: Mode::Received,
    };
    for ahead in 0..3 {
        let mut bench = Bench::new(setup);
        let send = Op::Send { s: 0, len: 0 };
        bench.act(Op::Send { s: 1, len: 0 });
        bench.take(1);
        (0..ahead).for_each(|_| bench.act(send));
        for _ in 0..3 {
            bench.act(send);
            bench.take(0);
            bench.collect(1);
            bench.release();
        }
        assert_eq!(bench.delivered, [2, 1, 0], "{ahead} ahead");
    }
}

/// Found by the property above: where the last slot ends with the ring nothing is skipped, and the
/// producer counted its bytes in use wrongly from then on.
#[test]
fn a_ring_that_ends_with_a_slot_holds_no_more_than_it_can() {
    let setup = Setup {
        senders: 1,
        window: 9,
        message_bytes_max: 16,
        spare: 0,
        hot_bytes: 1,
        mode: Mode::Stable,
    };
    let mut bench = Bench::new(setup);
    for lap in 0..3 {
        for fits in [true, true, false] {
            let ordinal = bench.senders[0].producer.ordinal();
            bench.act(Op::Send { s: 0, len: 16 });
            assert_eq!(bench.senders[0].producer.ordinal() > ordinal, fits, "lap {lap}");
        }
        bench.take(0);
        bench.collect(9);
        bench.release();
    }
}

/// Both ends of a lane whose slots a row of `blocks` each releases.
fn lane(shape: &Shape, s: usize, rows: usize) -> (Producer, Taker, Ring, Vec<Arc<Region>>) {
    let ring = Ring::new(Arc::new(Region::heap(shape.lane().bytes as usize)), 0, shape);
    let blocks: Vec<_> = (0..rows).map(|_| Arc::new(Region::heap(128))).collect();
    let row = |(rank, block): (usize, &Arc<Region>)| (Rank(rank as u16), block.clone(), 0);
    let gate = Gate {
        rows: blocks.iter().enumerate().map(row).collect(),
        mode: shape.mode,
        sender: s,
        senders: shape.senders.into(),
        hook: None,
    };
    let cells = LaneCells::new();
    let producer = Producer::new(ring.clone(), cells.clone(), gate, shape, 1000);
    (producer, Taker::new(ring.clone(), cells), ring, blocks)
}

/// Found by review: a slot was claimed to be streamed, then the kind of stores changed, and it was
/// published without a fence. Now an assertion in `Producer::write` sees that.
#[test]
fn what_is_streamed_is_fenced_though_the_kind_of_stores_changes() {
    let shape = Shape {
        senders: 1,
        lanes: 1,
        mode: Mode::Stable,
        window: 8,
        message_bytes_max: 4096,
        ring_bytes: 64 << 10,
    };
    let (mut producer, mut taker, _, blocks) = lane(&shape, 0, 1);
    producer.store(Stores::adaptive(|| 0, 4096));
    for ordinal in 0..200_000 {
        // A quick reader: the lane is never refused.
        assert_eq!(producer.send(&[7; 4096]), Ok(ordinal));
        taker.take(1, Count(ordinal), 0, EPOCH);
        blocks[0].cell(0).publish(ordinal + 1);
    }
}

/// The thread that polls is another than before, and may not call `membarrier` any more: that was a
/// panic. Now it is told once, and the producer fences what it streams itself.
#[test]
fn a_taker_without_a_barrier_leaves_no_fences_undone() {
    let shape = Shape {
        senders: 1,
        lanes: 1,
        mode: Mode::Stable,
        window: 8,
        message_bytes_max: 64,
        ring_bytes: 4096,
    };
    let (mut producer, mut taker, ..) = lane(&shape, 0, 1);
    producer.store(Stores::fixed(true));
    producer.defer_fences(true);
    let mut sends = |taker: &Taker, loose: bool| {
        let filled = &taker.cells().filled;
        let before = filled.loose.own();
        producer.send(&[7; 64]).unwrap();
        assert_eq!(filled.loose.own() > before, loose);
    };
    sends(&taker, false);
    taker.take(1, Count(0), 0, EPOCH);
    sends(&taker, true);
    std::thread::scope(|scope| {
        let confined = || {
            forbid_membarrier();
            assert_eq!(taker.waiting(), 1);
            taker.take(1, Count(1), 0, EPOCH);
        };
        scope.spawn(confined).join().unwrap();
    });
    for at in 2..4 {
        sends(&taker, false);
        assert_eq!(taker.waiting(), 1);
        taker.take(1, Count(at), 0, EPOCH);
    }
}

/// Found by review: a hostile member's `released` went back, and what an honest one was still
/// reading was free a second time.
#[test]
fn released_that_goes_back_frees_nothing_that_is_still_read() {
    let shape = Shape {
        senders: 1,
        lanes: 1,
        mode: Mode::Stable,
        window: 64,
        message_bytes_max: 64,
        ring_bytes: 1024,
    };
    let (mut producer, mut taker, ring, blocks) = lane(&shape, 0, 2);
    let (honest, hostile) = (&blocks[0], &blocks[1]);
    let mut inbox = Inbox::new(vec![(ring, 0, 0)], &shape, EPOCH);
    for n in 0..16 {
        producer.send(&[n; 64]).unwrap();
    }
    taker.take(16, Count(0), 0, EPOCH);
    let mut batch = Batch::new(16);
    inbox.collect(Number(16), &[Count(16)], &mut batch, 8).unwrap();
    batch.clear();
    honest.cell(0).publish(8);
    hostile.cell(0).publish(8);
    inbox.collect(Number(16), &[Count(16)], &mut batch, 8).unwrap();
    for n in 16..24 {
        producer.send(&[n; 64]).unwrap();
    }
    assert_eq!(producer.send(&[24; 64]), Err(Status::Again), "the ring is full");
    hostile.cell(0).publish(0);
    assert_eq!(producer.send(&[25; 64]), Err(Status::Again));
    for (message, n) in batch.messages().iter().zip(8u8..) {
        assert_eq!(message.bytes(), [n; 64], "slot {n} in its callback");
    }
}

/// Found by `squall sim`, seed 71476 of its day: a hostile member had released what it was never sent,
/// a producer used the slots anew, and the posts for that member were spans outside the lane.
#[test]
fn ranges_of_slots_that_are_used_anew_are_none() {
    let shape = Shape {
        senders: 1,
        lanes: 1,
        mode: Mode::Received,
        window: 2,
        message_bytes_max: 0,
        ring_bytes: 48,
    };
    let (mut producer, mut taker, ring, blocks) = lane(&shape, 0, 1);
    assert_eq!((producer.send(b""), producer.send(b"")), (Ok(0), Ok(1)));
    taker.take(2, Count(0), 0, EPOCH);
    assert!(ring.payload_ranges(0, 2).is_some());
    blocks[0].cell(0).publish(1);
    assert_eq!(producer.send(b""), Ok(2));
    assert!(ring.payload_ranges(0, 2).is_none() && ring.payload_ranges(1, 2).is_some());
}
