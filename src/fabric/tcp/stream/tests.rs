// SPDX-License-Identifier: MIT OR Apache-2.0
//! What comes over a stream, from a stranger and from a peer that lies.

use super::super::session::cases;
use super::*;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;

const KEY: [u8; 32] = [3; 32];

/// A record of these bytes; its first word says `count`.
fn record(sealer: &mut Sealer, bytes: &[u8], count: u64) -> Vec<u8> {
    let padded = 8 + bytes.len().next_multiple_of(8);
    let mut record = ((padded + TAG_BYTES) as u32).to_le_bytes().to_vec();
    record.extend(MAGIC.to_le_bytes());
    record.extend(count.to_le_bytes());
    record.extend(bytes);
    record.resize(HEADER_BYTES + padded, 0);
    sealer.seal(&mut record);
    record
}

/// Bytes of a stranger's, changed on their way, or sealed by a peer that lies about how many count: what
/// goes on is what came in order before the first wrong one, and the rest ends the stream.
#[test]
fn fuzz_nothing_of_a_strangers_goes_on() {
    let pair = || UnixStream::pair().unwrap();
    let ((local, mut here), (far, there)) = (pair(), pair());
    here.set_nonblocking(true).unwrap();
    there.shutdown(std::net::Shutdown::Write).unwrap();
    let own = |of: UnixStream| Unshared::make(|| Ok(OwnedFd::from(of))).unwrap();
    let ends = Ends { local: own(local), far: own(far), _count: Arc::new(()) };
    let here = std::cell::RefCell::new(&mut here);
    let count = prop_oneof![4 => Just(None), 1 => any::<u64>().prop_map(Some), 1 => (0u64..90).prop_map(Some)];
    let records = prop::collection::vec((prop::collection::vec(any::<u8>(), 0..80), count), 0..5);
    let change =
        (any::<prop::sample::Index>(), 0usize..4, prop::collection::vec(any::<u8>(), 0..4));
    let bytes = prop::collection::vec(any::<u8>(), 0..100);
    let all = (records, prop::collection::vec(change, 0..3), bytes, any::<bool>());
    let outcome = TestRunner::new(cases(1_000)).run(&all, |(records, changes, bytes, framed)| {
        let mut sealer = Sealer::new(&KEY);
        let (mut stream, mut honest, mut sound) = (Vec::new(), Vec::<u8>::new(), true);
        for (bytes, count) in &records {
            let count = count.unwrap_or(bytes.len() as u64);
            stream.extend(record(&mut sealer, bytes, count));
            // Zeros that fill the record up may be said to count.
            let mut padded = bytes.clone();
            padded.resize(bytes.len().next_multiple_of(8), 0);
            sound &= count <= padded.len() as u64;
            if sound {
                honest.extend(&padded[..count as usize]);
            }
        }
        if framed {
            stream.extend(((bytes.len() + TAG_BYTES) as u32 & !7).to_le_bytes());
            stream.extend(MAGIC.to_le_bytes());
        }
        stream.extend(&bytes);
        let before = stream.clone();
        for (at, len, piece) in changes {
            let at = at.index(stream.len() + 1);
            let upto = (at + len).min(stream.len());
            stream.splice(at..upto, piece);
        }
        let whole = inwards(&ends, Some(Sealer::new(&KEY)), &stream);
        let (mut came, mut part) = (Vec::new(), [0; 4096]);
        loop {
            match here.borrow_mut().read(&mut part) {
                Ok(count) => came.extend(&part[..count]),
                Err(none) if none.kind() == ErrorKind::WouldBlock => break,
                Err(other) => panic!("{other}"),
            }
        }
        prop_assert!(honest.starts_with(&came));
        if stream == before {
            prop_assert_eq!(came.len(), honest.len());
            prop_assert_eq!(whole, sound && bytes.is_empty() && !framed);
        }
        Ok(())
    });
    outcome.unwrap();
}
