// SPDX-License-Identifier: MIT OR Apache-2.0
//! Streams in whatever pieces the network makes of them, trusted and sealed, sound and not.

use super::super::mirror::{Measures, RingMeasures, extent};
use super::super::wire::tests::cases;
use super::super::wire::{Span, Writer, finish};
use super::*;
use crate::base::Epoch;
use crate::fabric::{Shown, Sizes};
use crate::mem::stream::{Part, send};
use proptest::prelude::*;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

const KEY: [u8; 32] = [5; 32];
const LANE_BYTES: u64 = 200 << 10;

fn mirror() -> Mirror {
    let rings = vec![RingMeasures { lanes: 1, lane_bytes: LANE_BYTES }];
    Mirror::new(Arc::new(Measures { block_bytes: 128, beat_at: 64, rings }))
}

fn incoming(sealed: bool, before: &[u8]) -> Incoming {
    Incoming::new(sealed.then(|| Sealer::new(&KEY)), before).unwrap()
}

/// A stream of records, and what the ring and the first words are after it.
fn stream(sealed: bool, spans: &[(u64, u32, u8)]) -> (Vec<u8>, Vec<u8>, u64) {
    let (mut stream, mut ring) = (Vec::new(), vec![0; LANE_BYTES as usize]);
    let mut sealer = Sealer::new(&KEY);
    let mut record = |write: &dyn Fn(&mut Writer)| {
        let mut bytes = Vec::new();
        Writer(&mut bytes).begin();
        write(&mut Writer(&mut bytes));
        let tag = if sealed { TAG_BYTES } else { 0 };
        let length = bytes.len() - HEADER_BYTES + tag;
        finish(&mut bytes, length);
        if sealed {
            sealer.seal(&mut bytes);
        }
        stream.extend(bytes);
    };
    record(&|writer| {
        writer.memory(Epoch(1), &[0]);
        writer.enter(Epoch(1));
    });
    for (n, &(from, len, fill)) in spans.iter().enumerate() {
        let len = u64::from(len).min(LANE_BYTES - from) as u32;
        record(&|writer| {
            writer.span(&Span { subgroup: 0, lane: 0, from, len });
            writer.0.resize(writer.0.len() + len as usize, fill);
            writer.words(8, &[n as u64 + 1]);
        });
        ring[from as usize..][..len as usize].fill(fill);
    }
    (stream, ring, spans.len() as u64)
}

fn landed(mirror: &mut Mirror) -> Option<(Vec<u8>, u64)> {
    let sizes = Sizes { block: 128, rings: vec![Some(LANE_BYTES as usize)] };
    let Ok(Some(Shown::Memory(memory))) = mirror.shown(Epoch(1), &sizes) else { return None };
    let ring = extent(memory.rings[0].as_ref().unwrap());
    let bytes = ring.lend(0, LANE_BYTES as u32).unwrap().to_vec();
    Some((bytes, memory.block.cell(8).observe()))
}

proptest! {
    // These are slow: a stream, a ring and sockets each.
    #![proptest_config(ProptestConfig::with_cases(cases(300).min(10_000)))]

    /// Whatever is read at once, by whichever way: the same lands.
    #[test]
    fn what_was_sent_lands_however_it_is_cut(
        sealed in any::<bool>(),
        spans in prop::collection::vec((0u64..LANE_BYTES / 8, 1u32..6_000, any::<u8>()), 1..6),
        cuts in prop::collection::vec(1usize..60_000, 0..20),
        early in 0usize..3_000,
    ) {
        let spans: Vec<(u64, u32, u8)> =
            spans.into_iter().map(|(at, len, fill)| (at * 8, len * 8, fill)).collect();
        let (stream, ring, count) = stream(sealed, &spans);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let early = early.min(stream.len());
        let (mut incoming, mut mirror) = (incoming(sealed, &stream[..early]), mirror());
        incoming.take(&mut mirror).unwrap();
        let (mut at, mut cuts) = (early, cuts.into_iter().chain(std::iter::repeat(50_000)));
        while at < stream.len() {
            let upto = stream.len().min(at + cuts.next().unwrap());
            let parts = [Part::Bytes(&stream[at..upto])];
            at += send(theirs.as_fd(), parts.into_iter()).unwrap_or(0);
            prop_assert_eq!(incoming.poll(ours.as_fd(), &mut mirror), Ok(()));
        }
        prop_assert_eq!(landed(&mut mirror), Some((ring, count)));
        drop(theirs);
        prop_assert_eq!(incoming.poll(ours.as_fd(), &mut mirror), Err(Over::Closed));
    }

    /// One wrong bit of a sealed stream: its record does not land, and nothing after it.
    #[test]
    fn a_sealed_stream_is_cut_at_its_first_wrong_bit(
        lens in prop::collection::vec(1u32..3_000, 1..5),
        flip in any::<(prop::sample::Index, u8)>(),
    ) {
        let spans: Vec<(u64, u32, u8)> = lens.iter().map(|len| (0, len * 8, 9)).collect();
        let (mut stream, _, count) = stream(true, &spans);
        let at = flip.0.index(stream.len());
        stream[at] ^= 1 << (flip.1 % 8);
        let (mut incoming, mut mirror) = (incoming(true, &stream), mirror());
        // A length that is too long only says that more is to come.
        let flaw = incoming.take(&mut mirror);
        let counted = landed(&mut mirror).map_or(0, |(_, counted)| counted);
        prop_assert!(counted < count, "{:?}", flaw);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(2_000)))]

    /// Any bytes where sealed records should be: a flaw or a wait, and nothing lands.
    #[test]
    fn fuzz_strangers_bytes_never_land(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut mirror = mirror();
        let _ = incoming(true, &bytes).take(&mut mirror);
        let mut framed = (bytes.len().next_multiple_of(8) as u32).to_le_bytes().to_vec();
        framed.extend(super::super::wire::MAGIC.to_le_bytes());
        framed.extend(&bytes);
        framed.resize(framed.len().next_multiple_of(8), 0);
        let _ = incoming(true, &framed).take(&mut mirror);
        prop_assert!(landed(&mut mirror).is_none());
    }

    /// A trusted stream with wrong bytes in it, in whatever pieces: it is read to a flaw or to its end.
    #[test]
    fn fuzz_a_trusted_stream_may_be_wrong(
        spans in prop::collection::vec((0u64..LANE_BYTES / 8, 1u32..60, 1u8..), 1..4),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0usize..5, any::<[u8; 4]>()), 0..3),
        cuts in prop::collection::vec(1usize..600, 1..20),
    ) {
        let spans: Vec<(u64, u32, u8)> =
            spans.into_iter().map(|(at, len, fill)| (at * 8, len * 8, fill)).collect();
        let (mut stream, ring, count) = stream(false, &spans);
        let before = stream.clone();
        for (at, len, piece) in changes {
            let at = at.index(stream.len());
            let upto = (at + len).min(stream.len());
            stream[at..upto].copy_from_slice(&piece[..upto - at]);
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut incoming, mut mirror) = (incoming(false, &[]), mirror());
        let (mut at, mut cuts, mut over) = (0, cuts.into_iter().cycle(), Ok(()));
        while at < stream.len() && over.is_ok() {
            let upto = stream.len().min(at + cuts.next().unwrap());
            at += send(theirs.as_fd(), [Part::Bytes(&stream[at..upto])].into_iter()).unwrap();
            over = incoming.poll(ours.as_fd(), &mut mirror);
        }
        prop_assert!(matches!(over, Ok(()) | Err(Over::Flaw(_))), "{:?}", over);
        if stream == before {
            prop_assert_eq!(landed(&mut mirror), Some((ring, count)));
        }
    }
}
