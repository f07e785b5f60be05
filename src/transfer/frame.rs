// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames: how a transfer lies on the wire, and the machines that write and read them.
//!
//! A head of 32 bytes, little-endian, then the payload:
//!
//! ```text
//!  0  u32  magic "SQTR"              12  u32  CRC32C of the payload
//!  4  u8   version of this format    16  u64  number of the frame in its direction, from 0
//!  5  u8   kind                      24  u32  0
//!  6  u16  0                         28  u32  CRC32C of bytes 0..28
//!  8  u32  bytes of the payload
//! ```
//!
//! | kind | from | payload |
//! |---|---|---|
//! | 1 hello | source | u64 its incarnation |
//! | 2 begin | source | u32 attempt, from 1; `Version`: a checkpoint follows, forget another |
//! | 3 chunk | source | bytes of the checkpoint |
//! | 4 loaded | source | u64 bytes, u32 CRC32C of the checkpoint |
//! | 5 messages | source | a piece of the catch-up stream (`record`), cut anywhere |
//! | 6 sync | source | u64 a number: answer with it when what came before is applied |
//! | 7 close | source | u64 bytes, u64 messages, u32 CRC32C of the catch-up stream, which ends |
//! | 8 fail | both | i32 status, text |
//! | 9 synced | joiner | u64 the number, u64 bytes, u64 messages of the catch-up stream applied |
//! | 10 done | joiner | nothing: all is applied |
//! | 11 near | source | nothing: nearly caught up, the joiner may ask for its join. Once |
//!
//! A frame is good if both checksums hold and its number is the next one; nothing of it is looked
//! at before, its length aside, which the head's checksum covers. This is against broken memory,
//! broken software and mixed-up streams, not against an attacker.
//!
//! Cost: a frame is one pass for its checksum; nothing is allocated after `new`.

use super::flaw::Flaw;
use crate::mutant;
use crc32c::crc32c;

/// Version of this format. A joiner and a source with different ones refuse each other.
pub const TRANSFER_VERSION: u8 = 2;
const MAGIC: u32 = u32::from_le_bytes(*b"SQTR");
pub const FRAME_HEAD_BYTES: usize = 32;
/// The longest payload: what one call of `Checkpoint::read` may fill.
pub const FRAME_BYTES_MAX: usize = 256 << 10;
const _: () = assert!(FRAME_BYTES_MAX % 8 == 0);
const _: () = assert!(FRAME_BYTES_MAX > super::record::VERSION_BYTES_MAX + 4);

#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Hello = 1,
    Begin = 2,
    Chunk = 3,
    Loaded = 4,
    Messages = 5,
    Sync = 6,
    Close = 7,
    Fail = 8,
    Synced = 9,
    Done = 10,
    Near = 11,
}

impl Kind {
    pub const ALL: [Kind; 11] = [
        Kind::Hello,
        Kind::Begin,
        Kind::Chunk,
        Kind::Loaded,
        Kind::Messages,
        Kind::Sync,
        Kind::Close,
        Kind::Fail,
        Kind::Synced,
        Kind::Done,
        Kind::Near,
    ];

    fn from_code(code: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == code)
    }
}

/// Makes frames, and keeps them until they are written.
pub struct Encoder {
    /// As long as it ever was: nothing is cleared that will be written over.
    bytes: Vec<u8>,
    /// What of it is frames, and how much of that is written.
    len: usize,
    sent: usize,
    next: u64,
}

impl Encoder {
    pub fn new(payload_max: usize) -> Encoder {
        Encoder { bytes: vec![0; FRAME_HEAD_BYTES + payload_max], len: 0, sent: 0, next: 0 }
    }

    /// What is still to be written.
    pub fn pending(&self) -> &[u8] {
        &self.bytes[self.sent..self.len]
    }

    /// The first `len` bytes of it are.
    pub fn sent(&mut self, len: usize) {
        self.sent += len;
        assert!(self.sent <= self.len);
        if self.sent == self.len {
            (self.len, self.sent) = (0, 0);
        }
    }

    /// Adds a frame whose payload `fill` puts into a place of `most` bytes; it answers how many it
    /// put there. An error adds nothing.
    pub fn fill<E>(
        &mut self,
        kind: Kind,
        most: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        assert!(most <= FRAME_BYTES_MAX);
        let payload = self.len + FRAME_HEAD_BYTES;
        let upto = payload + most;
        if self.bytes.len() < upto {
            self.bytes.resize(upto, 0);
        }
        let len = fill(&mut self.bytes[payload..upto])?;
        assert!(len <= most, "what was filled is more than there was room for");
        self.seal(kind, len);
        Ok(len)
    }

    /// Adds a frame.
    pub fn put(&mut self, kind: Kind, payload: &[u8]) {
        let copy = |place: &mut [u8]| {
            place.copy_from_slice(payload);
            Ok::<_, std::convert::Infallible>(payload.len())
        };
        let Ok(_) = self.fill(kind, payload.len(), copy);
    }

    fn seal(&mut self, kind: Kind, len: usize) {
        let upto = self.len + FRAME_HEAD_BYTES + len;
        let (head, payload) = self.bytes[self.len..upto].split_at_mut(FRAME_HEAD_BYTES);
        head.fill(0);
        head[..4].copy_from_slice(&MAGIC.to_le_bytes());
        (head[4], head[5]) = (TRANSFER_VERSION, kind as u8);
        head[8..12].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        head[12..16].copy_from_slice(&crc32c(payload).to_le_bytes());
        head[16..24].copy_from_slice(&self.next.to_le_bytes());
        let check = crc32c(&head[..28]);
        head[28..].copy_from_slice(&check.to_le_bytes());
        self.len = upto;
        self.next += 1;
    }
}

/// Reads frames from bytes that come in pieces.
pub struct Decoder {
    bytes: Box<[u8]>,
    /// What has come and is not read yet.
    from: usize,
    upto: usize,
    next: u64,
    payload_max: usize,
}

/// What the head says.
struct Head {
    kind: Kind,
    len: usize,
    check: u32,
}

impl Decoder {
    pub fn new(payload_max: usize) -> Decoder {
        let bytes = vec![0; FRAME_HEAD_BYTES + payload_max].into_boxed_slice();
        Decoder { bytes, from: 0, upto: 0, next: 0, payload_max }
    }

    /// Where the next bytes go; then `filled`. Never empty, if `next` was asked until it had none.
    pub fn space(&mut self) -> &mut [u8] {
        if self.from > 0 {
            self.bytes.copy_within(self.from..self.upto, 0);
            (self.from, self.upto) = (0, self.upto - self.from);
        }
        &mut self.bytes[self.upto..]
    }

    pub fn filled(&mut self, len: usize) {
        self.upto += len;
        assert!(self.upto <= self.bytes.len());
    }

    /// Whether a frame has begun to come.
    pub fn is_within_frame(&self) -> bool {
        self.from < self.upto
    }

    /// The next frame, if it is all there. After a flaw the stream is good for nothing more.
    pub fn next(&mut self) -> Result<Option<(Kind, &[u8])>, Flaw> {
        let came = &self.bytes[self.from..self.upto];
        let Some((head, rest)) = came.split_first_chunk::<FRAME_HEAD_BYTES>() else {
            return Ok(None);
        };
        let Head { kind, len, check } = self.look(head)?;
        if rest.len() < len {
            return Ok(None);
        }
        let at = self.from + FRAME_HEAD_BYTES;
        let payload = &self.bytes[at..at + len];
        if crc32c(payload) != check && !mutant!("transfer-payload-unchecked") {
            return Err(Flaw::Checksum);
        }
        self.from = at + len;
        self.next += 1;
        Ok(Some((kind, payload)))
    }

    fn look(&self, head: &[u8; FRAME_HEAD_BYTES]) -> Result<Head, Flaw> {
        let word = |at: usize| {
            u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes of thirty-two"))
        };
        if word(0) != MAGIC {
            return Err(Flaw::Magic { word: word(0) });
        }
        // Another version's head may be checked otherwise; all have their version in this place.
        if head[4] != TRANSFER_VERSION {
            return Err(Flaw::Version { theirs: head[4] });
        }
        if crc32c(&head[..28]) != word(28) && !mutant!("transfer-head-unchecked") {
            return Err(Flaw::Checksum);
        }
        let (came, expected) = (u64::from(word(16)) | u64::from(word(20)) << 32, self.next);
        if came != expected && !mutant!("transfer-sequence-unchecked") {
            return Err(Flaw::Sequence { came, expected });
        }
        let (len, most) = (word(8) as usize, self.payload_max);
        if len > most {
            return Err(Flaw::TooLong { len: len as u64, most: most as u64 });
        }
        let kind = Kind::from_code(head[5]).filter(|_| head[6..8] == [0; 2] && word(24) == 0);
        let kind = kind.ok_or(Flaw::Kind { kind: head[5], phase: "reading" })?;
        Ok(Head { kind, len, check: word(12) })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut encoder = Encoder::new(64);
        for (at, payload) in payloads.iter().enumerate() {
            encoder.put(Kind::ALL[at % Kind::ALL.len()], payload);
        }
        encoder.pending().to_vec()
    }

    /// Feeds `bytes` in pieces of these lengths, over and over; what came, and the flaw that ended it.
    fn read(bytes: &[u8], pieces: &[usize]) -> (Vec<Vec<u8>>, Option<Flaw>) {
        let (mut decoder, mut came, mut at) = (Decoder::new(64), Vec::new(), 0);
        for piece in pieces.iter().cycle() {
            loop {
                match decoder.next() {
                    Ok(Some((kind, payload))) => {
                        assert_eq!(kind, Kind::ALL[came.len() % Kind::ALL.len()]);
                        came.push(payload.to_vec());
                    }
                    Ok(None) => break,
                    Err(flaw) => return (came, Some(flaw)),
                }
            }
            if at == bytes.len() {
                break;
            }
            let space = decoder.space();
            let len = (*piece).min(space.len()).min(bytes.len() - at);
            space[..len].copy_from_slice(&bytes[at..at + len]);
            decoder.filled(len);
            at += len;
        }
        (came, None)
    }

    fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
        proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..=64), 0..12)
    }

    proptest! {
        #[test]
        fn frames_come_back_however_they_are_cut(
            payloads in payloads(),
            pieces in proptest::collection::vec(1..200usize, 1..20),
        ) {
            prop_assert_eq!(read(&stream(&payloads), &pieces), (payloads, None));
        }

        #[test]
        fn a_flipped_bit_is_seen(payloads in payloads(), at: prop::sample::Index, bit in 0..8u32) {
            let mut bytes = stream(&payloads);
            prop_assume!(!bytes.is_empty());
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let (came, flaw) = read(&bytes, &[97]);
            prop_assert!(flaw.is_some() && came.len() < payloads.len());
        }

    }

    proptest! {
        #[test]
        fn fuzz_any_bytes_are_read_without_harm(bytes in any::<Vec<u8>>()) {
            let (came, _) = read(&bytes, &[13]);
            prop_assert!(came.is_empty());
        }

        /// Heads whose checksum is right, and anything in them: a frame that fits, or a flaw.
        #[test]
        fn fuzz_a_head_may_say_anything(
            kind in prop_oneof![4 => 0u8..13, 1 => any::<u8>()],
            len in prop_oneof![4 => 0u32..70, 1 => any::<u32>()],
            number in prop_oneof![4 => 0u64..2, 1 => any::<u64>()],
            zeros in prop_oneof![8 => Just((0u16, 0u32)), 1 => any::<(u16, u32)>()],
            check in prop_oneof![4 => Just(None), 1 => any::<u32>().prop_map(Some)],
            payload in proptest::collection::vec(any::<u8>(), 0..80),
            piece in 1usize..120,
        ) {
            let honest = payload.get(..len as usize).unwrap_or(&payload);
            let mut bytes = MAGIC.to_le_bytes().to_vec();
            bytes.extend([TRANSFER_VERSION, kind]);
            bytes.extend(zeros.0.to_le_bytes());
            bytes.extend(len.to_le_bytes());
            bytes.extend(check.unwrap_or(crc32c(honest)).to_le_bytes());
            bytes.extend(number.to_le_bytes());
            bytes.extend(zeros.1.to_le_bytes());
            bytes.extend(crc32c(&bytes).to_le_bytes());
            bytes.extend(&payload);
            let (mut decoder, mut at, mut came) = (Decoder::new(64), 0, Vec::new());
            let flaw = loop {
                match decoder.next() {
                    Ok(Some((_, payload))) => came.push(payload.to_vec()),
                    Ok(None) if at == bytes.len() => break None,
                    Ok(None) => {
                        let space = decoder.space();
                        prop_assert!(!space.is_empty());
                        let upto = bytes.len().min(at + piece.min(space.len()));
                        space[..upto - at].copy_from_slice(&bytes[at..upto]);
                        decoder.filled(upto - at);
                        at = upto;
                    }
                    Err(flaw) => break Some(flaw),
                }
            };
            let sound = (1..12).contains(&kind) && len <= 64 && number == 0 && zeros == (0, 0);
            let right = check.is_none_or(|check| check == crc32c(honest));
            let whole = sound && right && len as usize <= payload.len();
            prop_assert_eq!(came.len(), usize::from(whole), "{:?}", flaw);
            prop_assert!(came.iter().all(|came| came == honest));
        }
    }

    #[test]
    fn a_frame_of_another_place_is_refused() {
        let bytes = stream(&[vec![1], vec![2], vec![3]]);
        let one = FRAME_HEAD_BYTES + 1;
        let swapped = [&bytes[..one], &bytes[2 * one..], &bytes[one..2 * one]].concat();
        let (came, flaw) = read(&swapped, &[1000]);
        assert_eq!((came.len(), flaw), (1, Some(Flaw::Sequence { came: 2, expected: 1 })));
    }

    #[test]
    fn a_failed_fill_leaves_nothing() {
        let mut encoder = Encoder::new(64);
        assert_eq!(encoder.fill(Kind::Chunk, 64, |_| Err::<usize, _>(7)), Err(7));
        assert!(encoder.pending().is_empty());
        let filled = encoder.fill::<()>(Kind::Hello, 64, |place| {
            place[..3].copy_from_slice(b"abc");
            Ok(3)
        });
        assert_eq!(filled, Ok(3));
        assert_eq!(read(encoder.pending(), &[10]).0, [b"abc"]);
    }
}
