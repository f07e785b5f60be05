// SPDX-License-Identifier: MIT OR Apache-2.0
//! Transfers: in a seeded world, with every cut and every flipped bit, from liars, and between real
//! threads.

use super::carrier::TEXT_BYTES_MAX;
use super::frame::{Encoder, FRAME_HEAD_BYTES, Kind};
use super::joiner::Joiner;
use super::record::{END, Head, MESSAGE, VIEW};
use super::world::{Answer, Replica, Seed, World};
use super::*;
use crate::base::{Epoch, Number};
use proptest::prelude::*;
use std::sync::Arc;

/// `SQUALL_TRANSFER_SEEDS`, or as many as are usual.
fn seeds(usual: u64) -> u64 {
    let asked = std::env::var("SQUALL_TRANSFER_SEEDS").ok();
    asked.and_then(|count| count.parse().ok()).unwrap_or(usual)
}

/// Many seeds with room enough; all must end well.
pub fn worlds_with_room() -> Result<(), String> {
    for seed in 1..seeds(150) {
        let mut world = World::new(seed, 1 << 20, 1 + seed % 7, seed % 11);
        world.run().map_err(|text| format!("seed {seed}: {text}"))?;
        if world.outcome != Some(Ok(())) {
            return Err(format!("seed {seed}: {:?}", world.outcome));
        }
    }
    Ok(())
}

/// Many seeds with a tape that breaks: they start over, and some end well, some do not.
pub fn worlds_that_overflow() -> Result<(), String> {
    let (mut over_again, mut done, mut failed) = (0, 0, 0);
    for seed in 1..seeds(300) {
        let mut world = World::new(seed, 4 << 10, 1 + seed % 5, seed % 16);
        world.run().map_err(|text| format!("seed {seed}: {text}"))?;
        over_again += u64::from(world.replica.begun > 1);
        match world.outcome {
            Some(Ok(())) => done += 1,
            _ => failed += 1,
        }
    }
    if over_again < 20 || done < 20 || failed < 20 {
        return Err(format!("{over_again} started over, {done} done, {failed} failed"));
    }
    Ok(())
}

#[test]
fn a_joiner_ends_with_the_state_of_the_source() {
    worlds_with_room().unwrap();
}

#[test]
fn an_overflow_starts_over_or_says_why_not() {
    worlds_that_overflow().unwrap();
}

/// C3 across a new start.
pub fn old_answers() -> Result<(), String> {
    World::new(3, 4 << 10, 3, 0).old_answer(true)
}

/// C3 before there is a checkpoint.
pub fn early_answers() -> Result<(), String> {
    World::new(3, 4 << 10, 3, 0).old_answer(false)
}

#[test]
fn an_answer_about_something_else_asks_for_no_join() {
    old_answers().unwrap();
    early_answers().unwrap();
}

#[test]
fn a_refused_checkpoint_is_told_to_the_joiner() {
    let mut world = World::new(5, 4096, 1, 0);
    world.refuse_checkpoint();
    world.run().unwrap();
    let Some(Err(Failure::Refused { status, text })) = &world.outcome else {
        panic!("{:?}", world.outcome);
    };
    assert!(*status == Status::NoMemory && text.contains("no fork now"), "{text}");
}

#[test]
fn a_refused_load_is_told_to_the_source() {
    let mut world = World::new(6, 1 << 16, 3, 0);
    world.replica.refuses_after = Some(0);
    world.run().unwrap();
    let Some(Err(Failure::Refused { status, text })) = world.carrier.outcome() else {
        panic!("{:?}", world.carrier.outcome());
    };
    assert!(*status == Status::NoMemory && text.contains("no room for it"), "{text}");
}

/// What a source of a small transfer sends.
fn small_stream() -> Vec<u8> {
    let mut world = World::new(8, 16 << 10, 1, 0);
    world.run().unwrap();
    assert_eq!(world.outcome, Some(Ok(())));
    assert!(world.stream.len() > 1000, "a checkpoint and messages");
    world.stream
}

/// How a joiner takes `bytes`, in pieces of these lengths.
fn take(bytes: &[u8], pieces: &[usize]) -> (Result<Option<End>, Failure>, Replica) {
    let options = Options { message_bytes_max: 300, ..Options::default() };
    let mut joiner = Joiner::new(&options, Arc::default());
    let mut replica = Replica::default();
    let (mut at, mut pieces) = (0, pieces.iter().cycle());
    while at < bytes.len() {
        let space = joiner.space();
        let len = pieces.next().unwrap().min(&(bytes.len() - at)).min(&space.len()).to_owned();
        space[..len].copy_from_slice(&bytes[at..at + len]);
        at += len;
        joiner.sent(joiner.pending().len());
        match joiner.heard(len, &mut replica) {
            Ok(None) => (),
            outcome => return (outcome, replica),
        }
    }
    (Ok(None), replica)
}

#[test]
fn a_stream_that_is_cut_anywhere_is_no_end() {
    let stream = small_stream();
    for upto in 0..stream.len() {
        let (outcome, _) = take(&stream[..upto], &[upto.max(1)]);
        assert_eq!(outcome, Ok(None), "cut at {upto}");
    }
    assert!(matches!(take(&stream, &[1]).0, Ok(Some(_))));
}

/// Every bit of a small stream, one at a time.
pub fn flipped_bits() -> Result<(), String> {
    let stream = small_stream();
    for at in 0..stream.len() {
        let mut bytes = stream.clone();
        bytes[at] ^= 1 << (at % 8);
        let (outcome, _) = take(&bytes, &[4096]);
        if !matches!(outcome, Err(Failure::Flawed(_) | Failure::WireVersion { .. })) {
            return Err(format!("a bit flipped at {at} of {}: {outcome:?}", stream.len()));
        }
    }
    Ok(())
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    flipped_bits().unwrap();
}

/// Frames left out, doubled and swapped.
pub fn misplaced_frames() -> Result<(), String> {
    let stream = small_stream();
    let mut frames: Vec<&[u8]> = Vec::new();
    let mut rest = &stream[..];
    while !rest.is_empty() {
        let len = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        let (frame, after) = rest.split_at(FRAME_HEAD_BYTES + len);
        frames.push(frame);
        rest = after;
    }
    for at in 0..frames.len() - 1 {
        let (mut without, mut doubled, mut swapped) =
            (frames.clone(), frames.clone(), frames.clone());
        without.remove(at);
        doubled.insert(at, frames[at]);
        swapped.swap(at, at + 1);
        for changed in [without, doubled, swapped] {
            let (outcome, _) = take(&changed.concat(), &[4096]);
            if !matches!(outcome, Err(Failure::Flawed(Flaw::Sequence { .. }))) {
                return Err(format!("frame {at} is misplaced: {outcome:?}"));
            }
        }
    }
    Ok(())
}

#[test]
fn a_misplaced_frame_is_noticed() {
    misplaced_frames().unwrap();
}

proptest! {
    #[test]
    fn a_stream_may_be_cut_into_any_pieces(pieces in prop::collection::vec(1..3000usize, 1..20)) {
        let (outcome, replica) = take(&small_stream(), &pieces);
        prop_assert!(matches!(outcome, Ok(Some(_))));
        prop_assert!(replica.is_loaded && !replica.entries.is_empty());
    }
}

/// What a joiner answers, mostly as an honest one does.
fn answer() -> impl Strategy<Value = Answer> {
    let goes = (0u8..3, prop::bool::weighted(0.9), prop::bool::weighted(0.2))
        .prop_map(|(batches, looks, ends)| Answer::Goes { batches, looks, ends });
    let extreme = || prop::sample::select(vec![0, 1, 7, 1 << 32, u64::MAX - 1, u64::MAX]);
    let told =
        || prop_oneof![6 => (1u8..2, 0..8u64), 6 => (3u8..4, 0..8u64), 1 => (0u8..4, extreme())];
    let number = prop_oneof![12 => Just(0u64), 1 => extreme()];
    let synced = (number, told(), told()).prop_map(|(number, bytes, messages)| Answer::Synced {
        number,
        bytes,
        messages,
    });
    let bytes = || prop::collection::vec(any::<u8>(), 0..80);
    let frame = (0..Kind::ALL.len(), bytes())
        .prop_map(|(kind, payload)| Answer::Frame(Kind::ALL[kind], payload));
    let done = Just(Answer::Frame(Kind::Done, Vec::new()));
    let fail = (-40i32..2, bytes()).prop_map(|(code, text)| {
        Answer::Frame(Kind::Fail, [&code.to_le_bytes()[..], &text].concat())
    });
    prop_oneof![
        20 => goes, 20 => synced, 1 => frame, 2 => done, 1 => fail,
        1 => bytes().prop_map(Answer::Bytes),
    ]
}

/// What a source says, as frames; mostly as an honest one does.
#[derive(Clone, Debug)]
enum Said {
    Begin(u32, Version),
    Chunk(Vec<u8>),
    Loaded,
    /// Records, and where a frame cuts them.
    Messages(Vec<Vec<u8>>, usize),
    Close,
    Frame(Kind, Vec<u8>),
}

fn any_version() -> impl Strategy<Value = Version> {
    let number = prop_oneof![4 => 0u64..4, 1 => u64::MAX - 1..];
    let position = || (any::<bool>(), number.clone());
    let positions = prop_oneof![
        4 => prop::collection::vec(position(), 3),
        1 => prop::collection::vec(position(), 0..5),
    ];
    let epoch = prop_oneof![20 => 1u64..9, 1 => u64::MAX - 1..];
    (epoch, positions, prop_oneof![4 => Just(2usize), 1 => 0usize..4]).prop_map(
        |(epoch, numbers, members)| {
            let position = |(subgroup, (ordered, number))| Position {
                subgroup,
                ordered,
                number: Number(number),
            };
            let positions = (0..).zip(numbers).map(position).collect();
            Version { epoch: Epoch(epoch), positions, members: vec![7; members] }
        },
    )
}

fn any_record() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![8 => 0u64..9, 1 => u64::MAX - 1..];
    let payload = prop::collection::vec(any::<u8>(), 0..20);
    let subgroup = prop_oneof![12 => 0u16..3, 1 => 0u16..40];
    let rank = prop_oneof![12 => 0u16..2, 1 => any::<u16>()];
    let sent = (number, subgroup, rank, payload)
        .prop_map(|(number, subgroup, rank, payload)| message(number, subgroup, rank, &payload));
    let view = any_version().prop_map(|version| plain(VIEW, &version.to_bytes()));
    let end = any_version().prop_map(|Version { epoch, positions, .. }| {
        plain(END, &End { epoch, finals: positions, extra: vec![1] }.to_bytes())
    });
    let heads = (any::<[u8; 32]>(), 0u8..5).prop_map(|(mut head, kind)| {
        (head[2], head[3], head[4]) = (0, 0, kind);
        head.to_vec()
    });
    prop_oneof![24 => sent, 2 => view, 1 => end, 1 => heads]
}

fn said() -> impl Strategy<Value = Said> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..60);
    let messages = (prop::collection::vec(any_record(), 0..6), 0usize..300)
        .prop_map(|(records, cut)| Said::Messages(records, cut));
    prop_oneof![
        2 => (1u32..4, any_version()).prop_map(|(attempt, of)| Said::Begin(attempt, of)),
        3 => bytes().prop_map(Said::Chunk),
        2 => Just(Said::Loaded),
        6 => messages,
        2 => Just(Said::Close),
        1 => Just(Said::Frame(Kind::Near, Vec::new())),
        1 => any::<[u8; 8]>().prop_map(|number| Said::Frame(Kind::Sync, number.to_vec())),
        1 => (0..Kind::ALL.len(), bytes()).prop_map(|(at, bytes)| Said::Frame(Kind::ALL[at], bytes)),
    ]
}

/// Those as a stream whose frames are sound, and whose totals are right but for what is `off`.
fn stream_of(all: &[Said], off: u64) -> Vec<u8> {
    let (mut encoder, mut state, mut stream) = (Encoder::new(1 << 12), Vec::new(), Vec::new());
    let totals = |bytes: &[u8], more: &[u64]| {
        let mut total = (bytes.len() as u64).to_le_bytes().to_vec();
        more.iter().for_each(|word| total.extend(word.wrapping_add(off).to_le_bytes()));
        [total, crc32c::crc32c(bytes).to_le_bytes().to_vec()].concat()
    };
    let mut count = 0;
    encoder.put(Kind::Hello, &[0; 8]);
    for said in all {
        match said {
            Said::Begin(attempt, version) => {
                let begin = [&attempt.to_le_bytes()[..], &version.to_bytes()].concat();
                encoder.put(Kind::Begin, &begin);
                (state, stream, count) = (Vec::new(), Vec::new(), 0);
            }
            Said::Chunk(bytes) => {
                encoder.put(Kind::Chunk, bytes);
                state.extend(bytes);
            }
            Said::Loaded => encoder.put(Kind::Loaded, &totals(&state, &[])),
            Said::Messages(records, cut) => {
                let bytes = records.concat();
                let (first, rest) = bytes.split_at((*cut).min(bytes.len()));
                [first, rest].into_iter().for_each(|part| encoder.put(Kind::Messages, part));
                stream.extend(&bytes);
                count += records.iter().filter(|record| record[4] == MESSAGE).count() as u64;
            }
            Said::Close => encoder.put(Kind::Close, &totals(&stream, &[count])),
            Said::Frame(kind, payload) => encoder.put(*kind, payload),
        }
    }
    encoder.pending().to_vec()
}

/// An application that hears what it may hear, in the order in which it may.
#[derive(Default)]
struct Strict {
    begun: bool,
    loaded: bool,
    epoch: u64,
}

impl StateSink for Strict {
    fn begin(&mut self, version: &Version) -> Result<(), Error> {
        (self.begun, self.loaded, self.epoch) = (true, false, version.epoch.0);
        Ok(())
    }

    fn load(&mut self, chunk: &[u8]) -> Result<(), Error> {
        assert!(self.begun && !self.loaded && !chunk.is_empty());
        Ok(())
    }

    fn loaded(&mut self) -> Result<(), Error> {
        assert!(self.begun && !self.loaded);
        self.loaded = true;
        Ok(())
    }

    fn deliver(&mut self, subgroup: u16, batch: &[Message]) {
        assert!(self.loaded && subgroup < 32);
        assert!(batch.iter().all(|message| message.bytes().len() <= 300));
    }

    fn view(&mut self, version: &Version) {
        assert!(self.loaded && version.epoch.0 > self.epoch);
        self.epoch = version.epoch.0;
    }
}

proptest! {
    /// Whatever a joiner answers: a source asks for one join at the most, and is done with nobody who
    /// has not had the end.
    #[test]
    fn fuzz_any_answers_of_a_joiner(
        seed in 1..u64::MAX,
        small in any::<bool>(),
        answers in prop::collection::vec(answer(), 0..30),
    ) {
        let mut world = World::new(seed, if small { 4 << 10 } else { 64 << 10 }, 2, 0);
        prop_assert_eq!(world.hear(&answers), Ok(()));
    }

    /// A liar whose frames are sound: any kinds, any payloads.
    #[test]
    fn fuzz_a_liar_is_an_error(
        frames in prop::collection::vec(
            (0..Kind::ALL.len(), prop::collection::vec(any::<u8>(), 0..80)), 1..20),
    ) {
        let mut encoder = Encoder::new(100);
        encoder.put(Kind::Hello, &[0; 8]);
        frames.iter().for_each(|(kind, payload)| encoder.put(Kind::ALL[*kind], payload));
        let (outcome, _) = take(encoder.pending(), &[1000]);
        prop_assert!(!matches!(outcome, Ok(Some(_))), "{outcome:?}");
    }

    /// A source that says what one may say, wrong in some places: the application hears nothing out of
    /// its place, and what is kept for the source is bounded.
    #[test]
    fn fuzz_a_source_may_say_anything(
        versions in (any_version(), any_version()),
        records in prop::collection::vec(any_record(), 0..8),
        cut in 0usize..300,
        changes in prop::collection::vec((0usize..12, 0u8..3, said()), 0..4),
        off in prop_oneof![9 => Just(0u64), 1 => any::<u64>()],
        piece in 1usize..3000,
    ) {
        let (first, Version { epoch, positions, .. }) = versions;
        let epoch = Epoch(epoch.0.saturating_add(first.epoch.0));
        let last = End { epoch, finals: positions, extra: vec![1, 2, 3] };
        let last = vec![plain(END, &last.to_bytes())];
        let mut all = vec![
            Said::Begin(1, first),
            Said::Chunk(vec![1, 2, 3]),
            Said::Loaded,
            Said::Messages(records, cut),
            Said::Frame(Kind::Near, Vec::new()),
            Said::Messages(last, 9),
            Said::Close,
        ];
        for (at, how, said) in changes {
            let at = at % (all.len() + 1);
            match how {
                0 => all.insert(at, said),
                1 if at < all.len() => all[at] = said,
                _ if at < all.len() => drop(all.remove(at)),
                _ => {}
            }
        }
        let bytes = stream_of(&all, off);
        let options = Options { message_bytes_max: 300, ..Options::default() };
        let (mut joiner, mut sink, mut at) =
            (Joiner::new(&options, Arc::default()), Strict::default(), 0);
        while at < bytes.len() {
            let space = joiner.space();
            let len = piece.min(bytes.len() - at).min(space.len());
            space[..len].copy_from_slice(&bytes[at..at + len]);
            at += len;
            match joiner.heard(len, &mut sink) {
                Ok(None) => prop_assert!(joiner.pending().len() <= 2 * 4096),
                Ok(Some(_)) => {
                    prop_assert!(sink.loaded);
                    break;
                }
                Err(failure) => {
                    joiner.fail(&failure);
                    prop_assert!(joiner.pending().len() <= 2 * 4096);
                    break;
                }
            }
        }
    }
}

fn version(epoch: u64, number: u64) -> Version {
    let position = Position { subgroup: 1, ordered: true, number: Number(number) };
    Version { epoch: Epoch(epoch), positions: vec![position], members: vec![10, 20] }
}

fn message(number: u64, subgroup: u16, rank: u16, payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u32;
    let head = Head { len, kind: MESSAGE, lane: 0, rank, number, time_ns: 0, subgroup };
    let mut bytes = [&head.to_bytes(), payload].concat();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn plain(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [&Head::plain(kind, payload.len()).to_bytes(), payload].concat();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn end(epoch: u64, number: u64) -> Vec<u8> {
    let finals = version(0, number).positions;
    plain(END, &End { epoch: Epoch(epoch), finals, extra: vec![1, 2, 3] }.to_bytes())
}

/// A stream whose frames are all right, with these records; its totals are off by so much.
fn told(records: &[Vec<u8>], off: [u64; 5]) -> Vec<u8> {
    told_in_two(records, off, 0)
}

/// The same; a frame ends at that byte of the records.
fn told_in_two(records: &[Vec<u8>], off: [u64; 5], at: usize) -> Vec<u8> {
    let mut encoder = Encoder::new(1 << 16);
    encoder.put(Kind::Hello, &[0; 8]);
    let begin = [&1u32.to_le_bytes()[..], &version(5, 100).to_bytes()].concat();
    encoder.put(Kind::Begin, &begin);
    let words =
        |bytes: u64, check: u64| [bytes.to_le_bytes().to_vec(), check.to_le_bytes()[..4].to_vec()];
    encoder.put(Kind::Loaded, &words(off[0], off[1]).concat());
    let stream = records.concat();
    encoder.put(Kind::Messages, &stream[..at]);
    encoder.put(Kind::Messages, &stream[at..]);
    let count = records.iter().filter(|record| record[4] == MESSAGE).count() as u64;
    let mut close = (stream.len() as u64 + off[2]).to_le_bytes().to_vec();
    let check = u64::from(crc32c::crc32c(&stream) ^ off[4] as u32);
    close.extend(words(count + off[3], check).concat());
    encoder.put(Kind::Close, &close);
    encoder.pending().to_vec()
}

#[test]
fn records_may_be_cut_anywhere() {
    let mut records = vec![message(100, 1, 1, b"a"), message(105, 1, 0, &[9; 300])];
    records.extend([plain(VIEW, &version(6, 0).to_bytes()), message(0, 1, 1, b"b"), end(7, 1)]);
    for at in 0..records.concat().len() {
        let (outcome, replica) = take(&told_in_two(&records, [0; 5], at), &[700]);
        assert!(matches!(outcome, Ok(Some(_))), "cut at {at}: {outcome:?}");
        let entries = replica.entries.iter().map(|entry| (entry.0, entry.2, entry.4.len()));
        assert_eq!(entries.collect::<Vec<_>>(), [(5, 100, 1), (5, 105, 300), (6, 0, 1)]);
    }
}

/// Sources that lie in sound frames; each must be found out.
pub fn liars() -> Result<(), String> {
    let good = || vec![message(100, 1, 1, b"a"), message(105, 1, 0, b"b")];
    let with = |more: Vec<u8>| [good(), vec![more, end(6, 200)]].concat();
    let honest =
        [good(), vec![plain(VIEW, &version(6, 0).to_bytes()), message(0, 1, 1, &[7; 300])]];
    let honest = [honest.concat(), vec![end(7, 1)]].concat();
    let taken = take(&told(&honest, [0; 5]), &[1000]);
    if !matches!(taken.0, Ok(Some(_))) || taken.1.entries.len() != 3 {
        return Err(format!("the honest one: {:?}", taken.0));
    }
    let lies = [
        ("a number twice", with(message(105, 1, 0, b""))),
        ("a number that goes back", with(message(7, 1, 0, b""))),
        ("an unknown subgroup", with(message(106, 2, 0, b""))),
        ("an unknown rank", with(message(106, 1, 2, b""))),
        ("a message that is too long", with(message(106, 1, 0, &[0; 301]))),
        ("an unknown record", with(plain(4, b""))),
        ("a view that goes back", with(plain(VIEW, &version(5, 0).to_bytes()))),
        ("a view that is none", with(plain(VIEW, b"view"))),
        ("an end that is none", with(plain(END, b"end"))),
        ("an end before what came", [good(), vec![end(6, 105)]].concat()),
        ("an end of the same view", [good(), vec![end(5, 200)]].concat()),
        ("something after the end", [good(), vec![end(6, 200), message(106, 1, 0, b"")]].concat()),
        ("a piece after the end", [good(), vec![end(6, 200), vec![1, 2, 3, 4, 5]]].concat()),
        ("no end", good()),
    ];
    for (what, records) in lies {
        let (outcome, _) = take(&told(&records, [0; 5]), &[1000]);
        if !matches!(outcome, Err(Failure::Flawed(_))) {
            return Err(format!("{what}: {outcome:?}"));
        }
    }
    for at in 0..5 {
        let mut off = [0; 5];
        off[at] = 1;
        let (outcome, _) = take(&told(&with(message(106, 1, 0, b"")), off), &[1000]);
        if !matches!(outcome, Err(Failure::Flawed(Flaw::Total { .. }))) {
            return Err(format!("total {at}: {outcome:?}"));
        }
    }
    Ok(())
}

#[test]
fn liars_are_found_out() {
    liars().unwrap();
}

/// A source that asks how far the joiner is, and takes no answers.
pub fn floods() -> Result<(), String> {
    let mut joiner = Joiner::new(&Options::default(), Arc::default());
    let mut source = Encoder::new(64);
    source.put(Kind::Hello, &[0; 8]);
    for asked in 0..1000u64 {
        source.put(Kind::Sync, &asked.to_le_bytes());
        let bytes = source.pending();
        let len = bytes.len();
        joiner.space()[..len].copy_from_slice(bytes);
        source.sent(len);
        if joiner.heard(len, &mut Replica::default()).is_err() {
            return Ok(());
        }
    }
    Err(format!("{} bytes of answers are kept for it", joiner.pending().len()))
}

#[test]
fn a_source_that_takes_no_answers_is_a_liar() {
    floods().unwrap();
}

/// A source that says nothing, while something else wakes this side all the time: visitors at its
/// door. So a joiner with a dead source waited for ever, as long as another one tried to join.
pub fn restless_waits() -> Result<(), String> {
    struct Restless(u32);
    impl Pipe for Restless {
        fn send(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            Ok(bytes.len())
        }
        fn recv(&mut self, _place: &mut [u8]) -> std::io::Result<usize> {
            self.0 += 1;
            let end = self.0 > 800;
            if end { Ok(0) } else { Err(std::io::ErrorKind::WouldBlock.into()) }
        }
        fn wait(
            &mut self,
            _to_send: bool,
            _bell: Option<std::os::fd::BorrowedFd<'_>>,
            _most: Duration,
        ) -> std::io::Result<()> {
            std::thread::sleep(Duration::from_millis(5));
            Ok(())
        }
    }
    // So long that a loaded machine does not make thirty long waits of short ones.
    let options = Options { patience: Duration::from_secs(3), ..Options::default() };
    match receive(&mut Restless(0), &options, &mut Replica::default(), Arc::default()) {
        Err(Failure::Silent { .. }) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

#[test]
fn patience_ends_whoever_rings() {
    restless_waits().unwrap();
}

#[test]
fn a_refusal_says_why() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    refuse(Socket(ours), &Failure::Busy("four others are getting it"));
    let mut replica = Replica::default();
    let taken = receive(&mut Socket(theirs), &Options::default(), &mut replica, Arc::default());
    let failure = taken.unwrap_err();
    assert!(failure.may_pass() && failure.to_string().contains("four others"), "{failure}");
}

/// Once such a reason was no failure to the joiner, but a damaged stream.
#[test]
fn a_reason_that_is_none_is_a_failure_all_the_same() {
    let mut encoder = Encoder::new(TEXT_BYTES_MAX);
    carrier::put_failure(&mut encoder, &Failure::Application(Error::new(Status::Ok, "well?")));
    let (outcome, _) = take(encoder.pending(), &[1000]);
    assert!(matches!(outcome, Err(Failure::Refused { status: Status::System, .. })), "{outcome:?}");
}

#[test]
fn a_text_from_the_other_side_is_cut_and_harmless() {
    let mut encoder = Encoder::new(TEXT_BYTES_MAX);
    let text = format!("\x1b[2J\n{}", "ä".repeat(2000));
    let error = Error::new(Status::Invalid, text);
    carrier::put_failure(&mut encoder, &Failure::Application(error));
    assert!(encoder.pending().len() <= FRAME_HEAD_BYTES + TEXT_BYTES_MAX);
    let (outcome, _) = take(encoder.pending(), &[1000]);
    let Err(Failure::Refused { status: Status::Invalid, text }) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(text.contains("ää") && !text.contains('\x1b') && !text.contains('\n'), "{text}");
}

#[test]
fn options_that_cannot_work_are_refused() {
    assert!(Options::default().check().is_ok());
    let refused = [
        Options { catchup_bytes: 3 << 20, ..Options::default() },
        Options { catchup_bytes: 1 << 20, ..Options::default() },
        Options { catchup_bytes_max: 32 << 20, ..Options::default() },
        Options { subgroups: vec![32], ..Options::default() },
        Options { message_bytes_max: 32 << 20, ..Options::default() },
    ];
    for options in refused {
        assert_eq!(options.check().unwrap_err().status, Status::Invalid);
    }
    assert!(Seed::new(3).below(7) < 7);
}
