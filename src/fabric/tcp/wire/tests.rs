// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any bytes: what is refused and why, that nothing lands elsewhere, that cuts of the stream make no
//! difference.

use super::super::mirror::{Measures, Mirror, RingMeasures};
use super::*;
use crate::fabric::{Memory, Shown, Sizes};
use proptest::prelude::*;
use std::sync::Arc;

/// How many inputs a property is tried on: as many as usual, or `SQUALL_FUZZ_CASES`.
pub fn cases(usual: u32) -> u32 {
    let asked = std::env::var("SQUALL_FUZZ_CASES").ok();
    asked.map_or(usual, |count| count.parse().expect("SQUALL_FUZZ_CASES is a count"))
}

const BLOCK_BYTES: usize = 24 * 8;
const LANE_BYTES: u64 = 320;

fn mirror() -> Mirror {
    let ring = RingMeasures { lanes: 2, lane_bytes: LANE_BYTES };
    let measures = Measures { block_bytes: BLOCK_BYTES, beat_at: 64, rings: vec![ring, ring] };
    Mirror::new(Arc::new(measures))
}

fn seen(mirror: &mut Mirror, epoch: u64) -> Memory {
    let sizes = Sizes { block: BLOCK_BYTES, rings: vec![Some(2 * LANE_BYTES as usize), None] };
    match mirror.shown(Epoch(epoch), &sizes) {
        Ok(Some(Shown::Memory(memory))) => memory,
        _ => panic!("it was shown"),
    }
}

/// A record of frames.
fn record(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer(&mut bytes);
    writer.begin();
    write(&mut writer);
    let length = bytes.len() - HEADER_BYTES;
    finish(&mut bytes, length);
    bytes
}

fn begun() -> (Parser, Mirror) {
    let (mut parser, mut mirror) = (Parser::default(), mirror());
    let bytes = record(|writer| {
        writer.memory(Epoch(1), &[0]);
        writer.enter(Epoch(1));
    });
    assert_eq!(parser.take(&bytes, &mut mirror), Ok(bytes.len()));
    (parser, mirror)
}

fn span(subgroup: u16, lane: u8, from: u64, len: u32) -> Span {
    Span { subgroup, lane, from, len }
}

#[track_caller]
fn refused(flaw: Flaw, write: impl FnOnce(&mut Writer)) {
    let (mut parser, mut mirror) = begun();
    let bytes = record(write);
    assert_eq!(parser.take(&bytes, &mut mirror), Err(flaw));
    assert!(!flaw.to_string().is_empty());
}

fn bad_span(of: Span) {
    let Span { subgroup, lane, from, len } = of;
    refused(Flaw::Span { subgroup, lane, from, len }, |writer| {
        writer.span(&of);
        writer.0.resize(writer.0.len() + (len as usize).next_multiple_of(8).min(4096), 1);
    });
}

#[test]
fn what_is_no_record_or_frame_is_refused() {
    let (mut parser, mut mirror) = begun();
    let mut bytes = record(|writer| writer.words(0, &[1]));
    bytes[4] ^= 1;
    let flaw = parser.take(&bytes, &mut mirror).unwrap_err();
    assert!(matches!(flaw, Flaw::NoRecord { .. }), "{flaw}");
    for length in [0u32, 4, 12, RECORD_BYTES_MAX as u32 + 8, u32::MAX] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(MAGIC.to_le_bytes());
        let (mut parser, mut mirror) = begun();
        assert_eq!(parser.take(&bytes, &mut mirror), Err(Flaw::Length { bytes: length }));
    }
    for kind in [0, 8, 255] {
        refused(Flaw::NoFrame { kind }, |writer| writer.head(kind, 0, 0, 0));
    }
    refused(Flaw::CutFrame { kind: WORDS, rest: 16 }, |writer| {
        writer.head(WORDS, 2, 0, 0);
        writer.word(1);
    });
    refused(Flaw::CutFrame { kind: SPAN, rest: 24 }, |writer| {
        writer.span(&span(0, 0, 0, 16));
        writer.word(1);
    });
    let bytes = SAY_BYTES_MAX as u32 + 1;
    refused(Flaw::SaysTooMuch { bytes }, |writer| writer.head(SAY, 0, 0, bytes));
    let bytes = CARRY_BYTES_MAX as u32 + 1;
    refused(Flaw::CarriesTooMuch { bytes }, |writer| writer.head(CARRY, 0, 0, bytes));
    refused(Flaw::CarriesNothing, |writer| writer.carry(b"who listens?"));
}

#[test]
fn words_and_spans_stay_in_what_is_the_peers() {
    let at = BLOCK_BYTES as u32;
    refused(Flaw::Words { at, count: 1 }, |writer| writer.words(at, &[1]));
    refused(Flaw::Words { at: at - 8, count: 2 }, |writer| writer.words(at - 8, &[1, 2]));
    refused(Flaw::Words { at: 4, count: 1 }, |writer| writer.words(4, &[1]));
    refused(Flaw::Words { at: u32::MAX - 7, count: 1 }, |writer| writer.words(u32::MAX - 7, &[1]));
    refused(Flaw::Words { at: 0, count: 0 }, |writer| writer.words(0, &[]));
    bad_span(span(1, 0, 0, 8)); // a ring that it has not shown
    bad_span(span(2, 0, 0, 8)); // a subgroup that there is not
    bad_span(span(0, 2, 0, 8)); // a lane that there is not
    bad_span(span(0, 0, LANE_BYTES - 8, 16)); // into the next lane
    bad_span(span(0, 0, u64::MAX - 7, 8));
    bad_span(span(0, 0, 4, 8));
    bad_span(span(0, 0, 0, 12));
    bad_span(span(0, 0, 0, 0));
}

#[test]
fn epochs_come_in_their_order() {
    let (mut parser, mut mirror) = (Parser::default(), mirror());
    let early = record(|writer| writer.words(0, &[1]));
    assert_eq!(parser.take(&early, &mut mirror), Err(Flaw::BeforeEnter));
    let (mut parser, mut mirror) = (Parser::default(), self::mirror());
    let early = record(|writer| writer.span(&span(0, 0, 0, 8)));
    // Its bytes are part of the record.
    let mut early = early;
    early.extend([0; 8]);
    finish(&mut early, 24);
    assert_eq!(parser.take(&early, &mut mirror), Err(Flaw::BeforeEnter));
    refused(Flaw::Enter { epoch: 2 }, |writer| writer.enter(Epoch(2)));
    refused(Flaw::Enter { epoch: 1 }, |writer| writer.enter(Epoch(1)));
    refused(Flaw::Memory { epoch: 1 }, |writer| writer.memory(Epoch(1), &[0]));
    refused(Flaw::Memory { epoch: 0 }, |writer| writer.memory(Epoch(0), &[0]));
    refused(Flaw::Memory { epoch: 2 }, |writer| writer.memory(Epoch(2), &[2]));
    refused(Flaw::Memory { epoch: 2 }, |writer| writer.memory(Epoch(2), &[usize::MAX]));
    let at = BLOCK_BYTES as u32 - 8;
    refused(Flaw::Ahead { epoch: 1, at: 0, count: 1 }, |writer| writer.ahead(Epoch(1), 0, &[1]));
    refused(Flaw::Ahead { epoch: 2, at: 0, count: 1 }, |writer| writer.ahead(Epoch(2), 0, &[1]));
    refused(Flaw::Ahead { epoch: 2, at, count: 2 }, |writer| {
        writer.memory(Epoch(2), &[]);
        writer.ahead(Epoch(2), at, &[1, 2]);
    });
    refused(Flaw::Memory { epoch: 6 }, |writer| {
        (2..7).for_each(|epoch| writer.memory(Epoch(epoch), &[]));
    });
}

#[test]
fn letters_that_nobody_hears_are_bounded() {
    let (mut parser, mut mirror) = begun();
    let letter = record(|writer| writer.say(b"by the way"));
    let mut said = 0;
    while parser.take(&letter, &mut mirror).is_ok() {
        said += 1;
        assert!(said < 10_000);
    }
    let (mut parser, mut mirror) = begun();
    let letter = record(|writer| writer.say(&[1; SAY_BYTES_MAX]));
    let mut bytes = 0;
    while parser.take(&letter, &mut mirror).is_ok() {
        bytes += SAY_BYTES_MAX;
        assert!(bytes < 16 << 20);
    }
}

/// One that joins shows its memory before it knows for which epoch; what it posts there lands.
#[test]
fn the_first_epoch_may_be_any() {
    let (mut parser, mut mirror) = (Parser::default(), mirror());
    let bytes = record(|writer| {
        writer.memory(Epoch(0), &[0]);
        writer.enter(Epoch(7));
        writer.words(8, &[5]);
    });
    assert_eq!(parser.take(&bytes, &mut mirror), Ok(bytes.len()));
    assert_eq!(seen(&mut mirror, 0).block.cell(8).observe(), 5);
    mirror.use_epoch(Epoch(7));
    let sizes = Sizes { block: BLOCK_BYTES, rings: Vec::new() };
    assert!(mirror.shown(Epoch(0), &sizes).unwrap().is_none(), "both have entered");
    let again = record(|writer| writer.memory(Epoch(0), &[0]));
    assert_eq!(parser.take(&again, &mut mirror), Err(Flaw::Memory { epoch: 0 }));
}

#[derive(Clone, Debug)]
enum Step {
    Words(u32, Vec<u64>),
    Span(Span, u8),
    Memory(u64, Vec<usize>),
    Enter(u64),
    Ahead(u64, u32, Vec<u64>),
    Say(Vec<u8>),
    Carry(Vec<u8>),
    Raw(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let word = (0u32..40).prop_map(|word| word * 8);
    let at = prop_oneof![8 => word, 1 => any::<u32>()];
    let place = (0u16..3, 0u8..3, 0u64..50, 0u32..50)
        .prop_map(|(subgroup, lane, from, len)| span(subgroup, lane, from * 8, len * 8));
    let ahead = (0u64..9, at.clone(), prop::collection::vec(any::<u64>(), 0..9));
    prop_oneof![
        2 => ahead.prop_map(|(e, a, w)| Step::Ahead(e, a, w)),
        4 => (at, prop::collection::vec(any::<u64>(), 0..9)).prop_map(|(a, w)| Step::Words(a, w)),
        4 => (place, any::<u8>()).prop_map(|(span, fill)| Step::Span(span, fill)),
        1 => (0u64..9, prop::collection::vec(0usize..3, 0..3)).prop_map(|(e, s)| Step::Memory(e, s)),
        1 => (0u64..9).prop_map(Step::Enter),
        1 => prop::collection::vec(any::<u8>(), 0..100).prop_map(Step::Say),
        1 => prop::collection::vec(any::<u8>(), 0..100).prop_map(Step::Carry),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Step::Raw),
    ]
}

fn write(steps: &[Step], writer: &mut Writer) {
    for step in steps {
        match step {
            Step::Words(at, words) => writer.words(*at, words),
            Step::Span(span, fill) => {
                writer.span(span);
                writer.0.resize(writer.0.len() + span.len as usize, *fill);
            }
            Step::Memory(epoch, subgroups) => writer.memory(Epoch(*epoch), subgroups),
            Step::Enter(epoch) => writer.enter(Epoch(*epoch)),
            Step::Ahead(epoch, at, words) => writer.ahead(Epoch(*epoch), *at, words),
            Step::Say(bytes) => writer.say(bytes),
            Step::Carry(bytes) => writer.carry(bytes),
            Step::Raw(bytes) => {
                writer.0.extend(bytes);
                writer.0.resize(writer.0.len().next_multiple_of(8), 0);
            }
        }
    }
}

/// Gives a stream to a parser in pieces; what came of it, and where things landed.
fn outcome(stream: &[u8], cuts: &[usize]) -> (Option<Flaw>, Vec<u64>, Vec<u8>, usize) {
    let (mut parser, mut mirror) = begun();
    let memory = seen(&mut mirror, 1);
    let (mut from, mut shown, mut flaw) = (0, 0, None);
    for cut in cuts.iter().copied().chain([usize::MAX]) {
        shown = stream.len().min(shown + cut.min(stream.len()));
        match parser.take(&stream[from..shown], &mut mirror) {
            Ok(taken) => from += taken,
            Err(found) => {
                flaw = Some(found);
                break;
            }
        }
    }
    let words = (0..memory.block.size()).step_by(8).map(|at| memory.block.cell(at).observe());
    let words: Vec<u64> = words.collect();
    let ring = super::super::mirror::extent(memory.rings[0].as_ref().unwrap());
    let bytes = ring.lend(0, ring.size() as u32).unwrap().to_vec();
    assert!(words[BLOCK_BYTES / 8..].iter().all(|word| *word == 0), "past the block");
    assert!(bytes[2 * LANE_BYTES as usize..].iter().all(|byte| *byte == 0), "past the lanes");
    (flaw, words, bytes, mirror.heard.len())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(2_000)))]

    /// W1: any bytes, whole or in pieces, end in a flaw or wait for more; nothing lands elsewhere.
    #[test]
    fn fuzz_any_bytes_are_survived(
        stream in prop::collection::vec(any::<u8>(), 0..600),
        cuts in prop::collection::vec(0usize..100, 0..12),
    ) {
        outcome(&stream, &cuts);
        // The same behind a header that is one.
        let mut framed = (stream.len().next_multiple_of(8).max(8) as u32).to_le_bytes().to_vec();
        framed.extend(MAGIC.to_le_bytes());
        framed.extend(&stream);
        outcome(&framed, &cuts);
    }

    /// F2, W3: frames, sound or not, come to the same in whatever pieces the stream delivers them.
    #[test]
    fn cuts_of_the_stream_make_no_difference(
        records in prop::collection::vec(prop::collection::vec(step(), 1..6), 1..6),
        cuts in prop::collection::vec(0usize..200, 0..40),
    ) {
        let records = records.iter().map(|steps| record(|writer| write(steps, writer)));
        let stream: Vec<u8> = records.flatten().collect();
        prop_assert_eq!(outcome(&stream, &[]), outcome(&stream, &cuts));
    }

    /// A record that is verified is taken whole or refused.
    #[test]
    fn fuzz_a_verified_record_may_still_be_nonsense(
        steps in prop::collection::vec(step(), 0..6),
        flip in any::<(usize, u8)>(),
    ) {
        let mut bytes = record(|writer| write(&steps, writer));
        let (mut parser, mut mirror) = begun();
        let frames = &mut bytes[HEADER_BYTES..];
        if !frames.is_empty() {
            let at = flip.0 % frames.len();
            frames[at] ^= flip.1;
        }
        let _ = parser.record(frames, &mut mirror);
    }
}
