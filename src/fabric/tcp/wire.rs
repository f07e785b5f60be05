// SPDX-License-Identifier: MIT OR Apache-2.0
//! What two members say over a stream after the handshake: records of frames.
//!
//! ```text
//! record   length of what follows (32 bits), MAGIC (32 bits); frames; a tag of 16 bytes if sealed
//!
//! frame    byte 0  byte 1  bytes 2..4  bytes 4..8   then
//! words    1       count   0           byte `at`    `count` words for the control block from `at` on
//! span     2       lane    subgroup    length       offset in the lane (8 bytes); so many bytes
//! memory   3       count   0           0            epoch (8 bytes); `count` subgroups, 8 bytes each
//! enter    4       0       0           0            epoch (8 bytes)
//! say      5       0       0           length       so many bytes, and zeros up to a multiple of 8
//! ahead    6       count   0           byte `at`    epoch (8 bytes); `count` words, as `words`
//! carry    7       0       0           length       as `say`
//! ```
//!
//! All little-endian; every frame is a multiple of 8 bytes. A frame lies in one record; what is longer
//! goes in several spans. Words and spans are of the epoch that was entered last; `ahead` is what the
//! control block of one says that was shown and is not entered yet. `carry` is said by a fabric that has
//! another way for its posts (`carry`): between two such, no `words` and no `span` is sent.
//!
//! W1  The parser reads what is there and never waits, allocates, or panics; what it does not know is
//!     a `Flaw`, and the end of the connection.
//! W2  Bytes reach the `Sink` in the order sent (F2). It is asked before the first byte of a span is
//!     given to it, so that what lies elsewhere never lands anywhere.
//! W3  A span may come in pieces, as the stream does; every other frame is taken whole.
//! W4  The sink may put `enter` off, for want of memory: it stays where it is, and so does all behind it.

use crate::base::Epoch;
use std::fmt;

pub const HEADER_BYTES: usize = 8;
pub const MAGIC: u32 = u32::from_le_bytes(*b"Sqll");
pub const TAG_BYTES: usize = 16;

/// Bytes after the header, at the most. One that is sealed is kept until it is verified.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
pub const SEALED_BYTES_MAX: usize = 128 << 10;
/// Bytes of what the driver says at once.
pub const SAY_BYTES_MAX: usize = 64 << 10;
/// Bytes that are carried for another fabric at once.
pub const CARRY_BYTES_MAX: usize = 4 << 10;
const _: () = assert!(SAY_BYTES_MAX + 8 + TAG_BYTES <= SEALED_BYTES_MAX);
const _: () = assert!(SEALED_BYTES_MAX <= RECORD_BYTES_MAX);

pub const WORDS: u8 = 1;
pub const SPAN: u8 = 2;
pub const MEMORY: u8 = 3;
pub const ENTER: u8 = 4;
pub const SAY: u8 = 5;
pub const AHEAD: u8 = 6;
pub const CARRY: u8 = 7;

/// What a peer has sent that no correct member sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    NoRecord { word: u32 },
    Length { bytes: u32 },
    Forged,
    NoFrame { kind: u8 },
    CutFrame { kind: u8, rest: u32 },
    Words { at: u32, count: u8 },
    Span { subgroup: u16, lane: u8, from: u64, len: u32 },
    Memory { epoch: u64 },
    Enter { epoch: u64 },
    Ahead { epoch: u64, at: u32, count: u8 },
    BeforeEnter,
    SaysTooMuch { bytes: u32 },
    CarriesTooMuch { bytes: u32 },
    CarriesNothing,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::NoRecord { word } => write!(f, "{word:#010x} where a record should begin"),
            Flaw::Length { bytes } => write!(f, "a record of {bytes} bytes"),
            Flaw::Forged => write!(f, "a record that was not sealed for this place"),
            Flaw::NoFrame { kind } => write!(f, "a frame of kind {kind}"),
            Flaw::CutFrame { kind, rest } => {
                write!(f, "a frame of kind {kind} with {rest} bytes left of its record")
            }
            Flaw::Words { at, count } => write!(f, "{count} words at byte {at} of its block"),
            Flaw::Span { subgroup, lane, from, len } => {
                write!(f, "{len} bytes at {from} of lane {lane} in subgroup {subgroup}")
            }
            Flaw::Memory { epoch } => write!(f, "memory of epoch {epoch} that cannot be"),
            Flaw::Enter { epoch } => write!(f, "epoch {epoch} entered without memory, or again"),
            Flaw::Ahead { epoch, at, count } => {
                write!(
                    f,
                    "{count} words at byte {at} of its block in epoch {epoch}, of which it has none"
                )
            }
            Flaw::BeforeEnter => write!(f, "words or spans before it entered a view"),
            Flaw::SaysTooMuch { bytes } => write!(f, "{bytes} bytes to be listened to, too much"),
            Flaw::CarriesTooMuch { bytes } => write!(f, "{bytes} bytes of its fabric's, too much"),
            Flaw::CarriesNothing => write!(f, "what belongs to a fabric that this process has not"),
        }
    }
}

/// A part of a ring of the peer's that comes now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    pub subgroup: u16,
    pub lane: u8,
    pub from: u64,
    pub len: u32,
}

impl Span {
    fn flaw(&self) -> Flaw {
        let Span { subgroup, lane, from, len } = *self;
        Flaw::Span { subgroup, lane, from, len }
    }
}

/// Where frames land. It checks that they may.
pub trait Sink {
    /// Little-endian words, for byte `at` of the control block on.
    fn words(&mut self, at: u32, words: &[u8]) -> Result<(), Flaw>;
    /// Whether that may land: then it comes, in pieces.
    fn span(&mut self, span: &Span) -> Result<(), Flaw>;
    /// The next piece of it, at its beginning.
    fn piece(&mut self, span: &Span, bytes: &[u8]);
    fn memory(&mut self, epoch: Epoch, subgroups: &[u8]) -> Result<(), Flaw>;
    /// `false`: not yet (W4).
    fn enter(&mut self, epoch: Epoch) -> Result<bool, Flaw>;
    /// Words for the control block of an epoch that is not entered.
    fn ahead(&mut self, epoch: Epoch, at: u32, words: &[u8]) -> Result<(), Flaw>;
    fn say(&mut self, bytes: &[u8]) -> Result<(), Flaw>;
    fn carry(&mut self, bytes: &[u8]) -> Result<(), Flaw>;
}

/// The length that a header tells.
pub fn length(header: [u8; HEADER_BYTES], most: usize) -> Result<u32, Flaw> {
    let [length, magic] = [first_u32(&header), first_u32(&header[4..])];
    if magic != MAGIC {
        return Err(Flaw::NoRecord { word: magic });
    }
    let fits = length > 0 && length % 8 == 0 && length as usize <= most;
    if fits { Ok(length) } else { Err(Flaw::Length { bytes: length }) }
}

/// Where in a stream of records the next byte belongs.
#[derive(Debug, Default)]
pub struct Parser {
    /// Bytes that are left of the record.
    rest: u32,
    /// What is left of the span that has begun; of no bytes: none has. (No `Option`: compiled, it looked
    /// at the length before it looked whether there is one, which memcheck takes for a fault.)
    span: Span,
}

impl Parser {
    /// Takes what it can of a stream of records that are not sealed; how much. The rest is the
    /// beginning of a header or a frame, and wants to be shown again with more behind it.
    pub fn take(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<usize, Flaw> {
        let mut at = 0;
        loop {
            if self.rest == 0 {
                let Some(header) = bytes[at..].first_chunk() else { return Ok(at) };
                self.rest = length(*header, RECORD_BYTES_MAX)?;
                at += HEADER_BYTES;
            }
            at += self.frames(&bytes[at..], sink)?;
            if self.rest > 0 {
                return Ok(at);
            }
        }
    }

    /// Takes the frames of one record that has been verified, or what is left of them; how many bytes.
    /// Fewer than all: a frame was put off (W4).
    pub fn record(&mut self, frames: &[u8], sink: &mut impl Sink) -> Result<usize, Flaw> {
        self.rest = frames.len() as u32;
        let taken = self.frames(frames, sink)?;
        assert!(taken + self.rest as usize == frames.len(), "a frame lies in one record");
        Ok(taken)
    }

    /// The span that the next bytes of the stream belong to.
    pub fn pending(&self) -> Option<Span> {
        (self.span.len > 0).then_some(self.span)
    }

    /// So many bytes of it have landed, past the parser.
    pub fn landed(&mut self, bytes: u32) {
        let span = &mut self.span;
        assert!(bytes <= span.len, "no more than there is of it");
        (span.from, span.len) = (span.from + u64::from(bytes), span.len - bytes);
        self.rest -= bytes;
    }

    fn frames(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<usize, Flaw> {
        let mut at = 0;
        while self.rest > 0 {
            let span = self.span;
            if span.len > 0 {
                let here = (bytes.len() - at).min(span.len as usize);
                if here == 0 {
                    break;
                }
                sink.piece(&span, &bytes[at..at + here]);
                self.landed(here as u32);
                at += here;
                continue;
            }
            match self.frame(&bytes[at..], sink)? {
                0 => break,
                taken => {
                    at += taken;
                    self.rest -= taken as u32;
                }
            }
        }
        Ok(at)
    }

    /// Takes the next frame, of a span the beginning; how many bytes. 0: it is not all there, or was put
    /// off.
    fn frame(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<usize, Flaw> {
        let Some(head) = bytes.first_chunk::<8>() else { return Ok(0) };
        let [kind, count, low, high, ..] = *head;
        let value = first_u32(&head[4..]);
        let body = match kind {
            WORDS => usize::from(count) * 8,
            SPAN | ENTER => 8,
            MEMORY | AHEAD => 8 + usize::from(count) * 8,
            SAY if value as usize > SAY_BYTES_MAX => {
                return Err(Flaw::SaysTooMuch { bytes: value });
            }
            CARRY if value as usize > CARRY_BYTES_MAX => {
                return Err(Flaw::CarriesTooMuch { bytes: value });
            }
            SAY | CARRY => (value as usize).next_multiple_of(8),
            _ => return Err(Flaw::NoFrame { kind }),
        };
        // All of a span's bytes lie in its record, too.
        let spanned = if kind == SPAN { value as usize } else { 0 };
        if 8 + body + spanned > self.rest as usize {
            return Err(Flaw::CutFrame { kind, rest: self.rest });
        }
        let Some(body) = bytes.get(8..8 + body) else { return Ok(0) };
        match kind {
            WORDS => sink.words(value, body)?,
            SPAN => {
                let subgroup = u16::from_le_bytes([low, high]);
                let from = first_u64(body);
                let span = Span { subgroup, lane: count, from, len: value };
                if value == 0 || value % 8 != 0 || from % 8 != 0 {
                    return Err(span.flaw());
                }
                sink.span(&span)?;
                self.span = span;
            }
            MEMORY => sink.memory(Epoch(first_u64(body)), &body[8..])?,
            ENTER if !sink.enter(Epoch(first_u64(body)))? => return Ok(0),
            ENTER => {}
            AHEAD => sink.ahead(Epoch(first_u64(body)), value, &body[8..])?,
            CARRY => sink.carry(&body[..value as usize])?,
            _ => sink.say(&body[..value as usize])?,
        }
        Ok(8 + body.len())
    }
}

fn first_u32(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

pub(super) fn first_u64(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Appends frames to a record that is being written.
pub struct Writer<'a>(pub &'a mut Vec<u8>);

impl Writer<'_> {
    fn head(&mut self, kind: u8, count: usize, subgroup: u16, value: u32) {
        let [low, high] = subgroup.to_le_bytes();
        self.0.extend_from_slice(&[kind, count as u8, low, high]);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn word(&mut self, word: u64) {
        self.0.extend_from_slice(&word.to_le_bytes());
    }

    /// The header of a record: to be completed by `finish`.
    pub fn begin(&mut self) {
        self.0.extend_from_slice(&[0; 4]);
        self.0.extend_from_slice(&MAGIC.to_le_bytes());
    }

    pub fn words(&mut self, at: u32, words: &[u64]) {
        self.head(WORDS, words.len(), 0, at);
        words.iter().for_each(|word| self.word(*word));
    }

    /// Its bytes follow.
    pub fn span(&mut self, span: &Span) {
        self.head(SPAN, usize::from(span.lane), span.subgroup, span.len);
        self.word(span.from);
    }

    pub fn memory(&mut self, epoch: Epoch, subgroups: &[usize]) {
        self.head(MEMORY, subgroups.len(), 0, 0);
        self.word(epoch.0);
        subgroups.iter().for_each(|subgroup| self.word(*subgroup as u64));
    }

    pub fn enter(&mut self, epoch: Epoch) {
        self.head(ENTER, 0, 0, 0);
        self.word(epoch.0);
    }

    pub fn ahead(&mut self, epoch: Epoch, at: u32, words: &[u64]) {
        self.head(AHEAD, words.len(), 0, at);
        self.word(epoch.0);
        words.iter().for_each(|word| self.word(*word));
    }

    pub fn say(&mut self, bytes: &[u8]) {
        self.bytes(SAY, bytes);
    }

    pub fn carry(&mut self, bytes: &[u8]) {
        self.bytes(CARRY, bytes);
    }

    fn bytes(&mut self, kind: u8, bytes: &[u8]) {
        self.head(kind, 0, 0, bytes.len() as u32);
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(8), 0);
    }
}

/// Writes the length into the header of a record; `length` counts what is not in `record`, too.
pub fn finish(record: &mut [u8], length: usize) {
    assert!(length <= RECORD_BYTES_MAX && length.is_multiple_of(8));
    record[..4].copy_from_slice(&(length as u32).to_le_bytes());
}

#[cfg(test)]
pub(in crate::fabric) mod tests;
