// SPDX-License-Identifier: MIT OR Apache-2.0
//! A note is there whole or not at all; whatever else is written there ends its peer at the most.

use super::super::completions::Completions;
use super::super::gid::Choice;
use super::super::queue::{Depths, Manner, Taken};
use super::super::sys::soft::World;
use super::super::theirs::Theirs;
use super::*;
use crate::fabric::Memory;
use crate::fabric::tcp::mirror::{Measures, RingMeasures};
use crate::fabric::tcp::session::cases;
use crate::mutants::plant;
use proptest::prelude::*;
use std::cell::RefCell;

/// A writer, its queue, and the reader at the other end.
struct Pair {
    writer: Writer,
    queue: Queue,
    completions: Completions,
    reader: Reader,
    _other: (Queue, Completions),
    device: Arc<Device>,
}

fn pair(world: &World) -> Pair {
    let depths = Depths { send: PLACES as u16, ..Depths::default() };
    let [one, two] = [(); 2].map(|()| {
        let device = Device::open(&world.process().table(), &Choice::default()).unwrap();
        let completions = Completions::new(&device, 1, &depths).unwrap();
        let queue = Queue::new(&completions, 0, &depths).unwrap();
        (device, completions, queue)
    });
    let ((here, completions, mut queue), (there, others, mut other)) = (one, two);
    let manner = Manner::default();
    queue.connect(&other.endpoint(), &there.place(), &manner).unwrap();
    other.connect(&queue.endpoint(), &here.place(), &manner).unwrap();
    let mut writer = Writer::new(&here).unwrap();
    let reader = Reader::new(&there).unwrap();
    writer.connect(reader.remote());
    Pair { writer, queue, completions, reader, _other: (other, others), device: there }
}

impl Pair {
    fn complete(&mut self) {
        let queue = &mut self.queue;
        let taken = self.completions.poll(|completion| {
            assert!(matches!(queue.take(completion), Taken::Sent));
        });
        taken.unwrap();
    }

    /// All of whose words say the same number; of several lengths, so that what lay there shows.
    fn write(&mut self, number: u64) {
        self.writer.open(Epoch(number));
        for _ in 0..number % 7 {
            self.writer.words(8, &[number; POST_WORDS_MAX]);
        }
        self.writer.words(8, &[number]);
        self.writer.close(&mut self.queue, number);
        self.queue.post(false).unwrap();
    }

    /// Takes one, if there is one: its number, if all of it is that number's.
    fn read(&mut self) -> Option<Result<u64, ()>> {
        let number = self.reader.taken() + 1;
        let mut note = self.reader.next()?;
        let mut whole = (note.taken, note.epoch) == (number, Epoch(number));
        let mut words = 0;
        loop {
            match note.next() {
                Ok(Some(Parcel::Words { at: 8, values })) => {
                    words += values.len();
                    whole &= values.iter().all(|value| *value == number);
                }
                Ok(None) => break,
                Ok(Some(_)) => whole = false,
                Err(_) => return Some(Err(())),
            }
        }
        whole &= words == (number % 7) as usize * POST_WORDS_MAX + 1;
        Some(if whole { Ok(number) } else { Err(()) })
    }
}

/// Notes over a wire that lands the words of a write in any order, looked at after each of its steps; how
/// many were not what was written.
fn torn(seed: u64, notes: u64) -> usize {
    let world = World::new(seed);
    let mut pair = pair(&world);
    let (mut written, mut torn) = (0, 0);
    while pair.reader.taken() < notes {
        pair.complete();
        let ahead = 1 + seed % PLACES;
        if written < notes && written - pair.reader.taken() < ahead && pair.queue.room() > 0 {
            written += 1;
            pair.write(written);
        }
        world.step();
        torn += usize::from(pair.read().is_some_and(|read| read.is_err()));
        pair.writer.hear_taken(pair.reader.taken()).unwrap();
    }
    torn
}

#[test]
fn a_note_is_there_whole_or_not_at_all() {
    for seed in [0, 1, 5, 300] {
        assert_eq!(torn(seed, 700), 0, "seed {seed}");
    }
    plant(Some("verbs-note-unchecked"));
    let unchecked = torn(1, 700);
    plant(None);
    assert!(unchecked > 100, "verbs-note-unchecked: {unchecked}");
}

/// B3: no place is written before it was taken.
#[test]
fn a_full_ring_waits() {
    assert_eq!(overwritten(), 0);
    plant(Some("verbs-note-without-place"));
    let overwritten = overwritten();
    plant(None);
    assert!(overwritten > 0, "verbs-note-without-place");
}

/// Notes that are lost where the writer goes on as long as it has room.
fn overwritten() -> u64 {
    let world = World::new(3);
    let mut pair = pair(&world);
    let mut written = 0;
    while pair.writer.has_place() && written < PLACES + 5 {
        written += 1;
        pair.write(written);
        world.run();
        pair.complete();
    }
    assert!(written >= PLACES);
    while pair.read() == Some(Ok(pair.reader.taken())) {}
    let lost = written - pair.reader.taken();
    if lost == 0 {
        let beyond = pair.writer.hear_taken(written + 1);
        assert_eq!(beyond, Err(Nonsense::Note { what: "taken", value: written + 1 }));
        pair.writer.hear_taken(pair.reader.taken()).unwrap();
        pair.writer.say_taken(&mut pair.queue, 77);
        pair.write(written + 1);
        world.run();
        assert_eq!(pair.read(), Some(Ok(written + 1)));
        assert_eq!(pair.reader.peer_has_taken(), 77);
    }
    lost
}

/// A span by value: all lengths, beside words, out of memory that is not aligned.
#[test]
fn spans_go_by_value() {
    let world = World::new(4);
    let mut pair = pair(&world);
    for len in 1..=SPAN_BYTES_MAX as usize {
        let ring = RingId { subgroup: 0x123, lane: 0x45 };
        pair.writer.open(Epoch(9));
        pair.writer.words(16, &[1, 2]);
        pair.writer.span(ring, 77, len, |bytes| bytes.fill(len as u8));
        pair.writer.words(24, &[3]);
        pair.writer.close(&mut pair.queue, 5);
        pair.queue.post(false).unwrap();
        world.run();
        pair.complete();
        let mut note = pair.reader.next().expect("it has landed");
        assert_eq!(note.next(), Ok(Some(Parcel::Words { at: 16, values: &[1, 2] })));
        let Ok(Some(Parcel::Span { words, .. })) = note.next() else { panic!("no span") };
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert!(bytes[..len].iter().all(|byte| *byte == len as u8));
        assert!(bytes[len..].iter().all(|byte| *byte == 0) && bytes.len() - len < 8);
        assert_eq!(note.next(), Ok(Some(Parcel::Words { at: 24, values: &[3] })));
        assert_eq!(note.next(), Ok(None));
        pair.writer.hear_taken(pair.reader.taken()).unwrap();
    }
}

const LANE_BYTES: u64 = 4096;
const BLOCK_BYTES: usize = 1024;
const BEAT_AT: usize = 64;

/// What a note may land in: the memory of epoch 1, of which subgroup 1 has a ring.
fn theirs(device: &Arc<Device>) -> (Theirs, Memory) {
    let ring = RingMeasures { lanes: 2, lane_bytes: LANE_BYTES };
    let measures = Measures { block_bytes: BLOCK_BYTES, beat_at: BEAT_AT, rings: vec![ring; 2] };
    let block = Arc::new(Region::heap(BLOCK_BYTES));
    let rings = vec![None, Some(Arc::new(Region::heap(ring.bytes())))];
    let memory = Memory { block, rings };
    let mut theirs = Theirs::new(Arc::new(measures));
    assert!(theirs.enter(Epoch(1), memory.clone()));
    theirs.answer(device).unwrap().expect("its keys");
    (theirs, memory)
}

impl Reader {
    /// Writes what a peer would: with the check that fits, and the next number.
    fn forge(&mut self, taken: u64, epoch: u64, body: &[u64]) {
        let (number, len) = (self.taken + 1, HEADER_WORDS + body.len());
        let mut words = vec![0, number << 8 | len as u64, taken, epoch];
        words.extend(body);
        words[0] = check_of(&words[1..]);
        for (at, word) in (place_of(number)..).step_by(8).zip(words) {
            self.ring().cell(at).publish(word);
        }
    }
}

/// What lies between all sorts of words and those that have a meaning.
fn word() -> impl Strategy<Value = u64> {
    let kind = prop::sample::select(vec![WORDS, SPAN, 0, 3, 255]);
    let near = prop::sample::select(vec![0, 1, 8, 192, 1024, 4096, 8192, u64::from(u32::MAX)]);
    let head = (kind, 0u64..70, 0u64..4, near.clone(), any::<bool>()).prop_map(
        |(kind, count, other, at, span)| {
            let rest = if span { other << 32 | (count & 1) << 16 } else { count << 32 };
            kind << 56 | rest | at
        },
    );
    prop_oneof![any::<u64>(), near, head]
}

proptest! {
    #![proptest_config(cases(3_000))]

    /// B5: whatever a peer writes lands in its own memory, or is refused with a text.
    #[test]
    fn fuzz_notes(
        body in prop::collection::vec(word(), 0..NOTE_WORDS - HEADER_WORDS),
        epoch in prop_oneof![Just(1u64), any::<u64>()],
        taken in any::<u64>(),
    ) {
        thread_local! {
            static HERE: (RefCell<(Pair, Theirs, Memory)>, World) = {
                let world = World::new(1);
                let pair = pair(&world);
                let (theirs, memory) = theirs(&pair.device);
                ((pair, theirs, memory).into(), world)
            };
        }
        HERE.with(|(here, _)| {
            let (pair, theirs, memory) = &mut *here.borrow_mut();
            memory.block.cell(BEAT_AT).publish(5);
            pair.reader.forge(taken, epoch, &body);
            let note = pair.reader.next().expect("its check fits");
            match theirs.land(note) {
                Ok(()) => assert_eq!(epoch, 1),
                Err(nonsense) => assert!(!nonsense.to_string().is_empty()),
            }
            assert_eq!(memory.block.cell(BEAT_AT).observe(), 5, "a beat comes by itself");
            let heard = pair.writer.hear_taken(taken);
            assert_eq!(heard.is_ok(), taken == 0, "nothing was written");
        });
    }

    /// B1: one word that is another is none of it; nor is a note where another is due.
    #[test]
    fn fuzz_a_changed_note_is_none(
        body in prop::collection::vec(any::<u64>(), 0..NOTE_WORDS - HEADER_WORDS),
        at in any::<prop::sample::Index>(),
        with in 1u64..,
    ) {
        thread_local! {
            static HERE: (RefCell<Pair>, World) = {
                let world = World::new(1);
                let pair = pair(&world);
                (pair.into(), world)
            };
        }
        HERE.with(|(here, _)| {
            let reader = &mut here.borrow_mut().reader;
            reader.forge(7, 1, &body);
            let at = place_of(reader.taken() + 1) + at.index(HEADER_WORDS + body.len()) * 8;
            let word = reader.ring().cell(at).observe();
            reader.ring().cell(at).publish(word ^ with);
            assert!(reader.next().is_none(), "it is changed");
            reader.ring().cell(at).publish(word);
            assert!(reader.next().is_some(), "and back");
            assert!(reader.next().is_none(), "and taken once");
        });
    }
}

/// Each field of what a peer says.
#[test]
fn what_no_correct_peer_writes_is_refused() {
    let world = World::new(2);
    let mut pair = pair(&world);
    let (theirs, memory) = theirs(&pair.device);
    let block = BLOCK_BYTES as u64;
    let words = |count: u64, at: u64| WORDS << 56 | count << 32 | at;
    let span = |subgroup: u64, lane: u64, len: u64| SPAN << 56 | subgroup << 32 | lane << 16 | len;
    let good: [&[u64]; 6] = [
        &[],
        &[words(2, 8), 4, 5],
        &[words(1, block - 8), 4],
        &[span(1, 1, 8), LANE_BYTES - 8, 4],
        &[span(1, 0, 1), LANE_BYTES - 1, 4, words(1, 0), 1],
        &[words(3, BEAT_AT as u64 - 8), 4, 4, 4],
    ];
    let bad: [(&[u64], &str); 14] = [
        (&[0], "parcel"),
        (&[3 << 56], "parcel"),
        (&[words(0, 8)], "count of words"),
        (&[words(2, 8), 4], "count of words"),
        (&[words(1, 4), 4], "words"),
        (&[words(1, block), 4], "words"),
        (&[words(2, block - 8), 4, 4], "words"),
        (&[words(1, u32::MAX as u64 & !7), 4], "words"),
        (&[span(1, 0, 8)], "span"),
        (&[span(1, 0, 0), 0], "length of a span"),
        (&[span(1, 0, 9), 0, 4], "length of a span"),
        (&[span(0, 0, 8), 0, 4], "span"), // no ring is shown
        (&[span(1, 2, 8), 0, 4], "span"),
        (&[span(1, 1, 8), u64::MAX, 4], "span"),
    ];
    for body in good {
        pair.reader.forge(0, 1, body);
        assert_eq!(theirs.land(pair.reader.next().unwrap()), Ok(()), "{body:x?}");
    }
    assert_eq!(memory.block.cell(BEAT_AT).observe(), 0, "a beat comes by itself");
    assert_eq!(memory.block.cell(BEAT_AT + 8).observe(), 4);
    for (body, why) in bad {
        pair.reader.forge(0, 1, body);
        match theirs.land(pair.reader.next().unwrap()) {
            Err(Nonsense::Note { what, .. }) => assert_eq!(what, why, "{body:x?}"),
            other => panic!("{body:x?}: {other:?}"),
        }
    }
    pair.reader.forge(0, 2, &[]);
    let epoch = Nonsense::Note { what: "epoch", value: 2 };
    assert_eq!(theirs.land(pair.reader.next().unwrap()), Err(epoch));
    pair.reader.forge(0, 1, &[]);
    pair.reader.end();
    assert!(pair.reader.next().is_none(), "after nonsense nothing is read");
}
