// SPDX-License-Identifier: MIT OR Apache-2.0
//! What comes from one peer: bytes of its stream, on their way to its mirror.
//!
//! In a trusted network large spans are received straight into the mirror, and a little of what comes
//! behind them into the buffer. What is sealed stays in the buffer until its record is verified: a counter or a
//! slot that a stranger made must not land even for a moment.
//!
//! I1  The buffer is of a fixed size, and holds the longest frame, or the longest sealed record.
//! I2  A poll reads a bounded number of bytes; what is left keeps the descriptor readable.
//! I3  While a frame is put off for want of memory (`mirror`, M4), nothing more is read.

use super::mirror::Mirror;
use super::seal::Sealer;
use super::wire::{Flaw, HEADER_BYTES, Parser, SAY_BYTES_MAX, SEALED_BYTES_MAX, TAG_BYTES, length};
use crate::error::Error;
use crate::mem::bytes::zeroed;
use crate::mem::stream::receive;
use rustix::io::Errno;
use std::os::fd::BorrowedFd;

const BUFFER_BYTES: usize = 256 << 10;
const _: () = assert!(BUFFER_BYTES > SAY_BYTES_MAX + HEADER_BYTES);
const _: () = assert!(BUFFER_BYTES >= SEALED_BYTES_MAX + HEADER_BYTES);
/// Bytes that are read at once where a span may begin: what of it comes along is copied.
const READ_BYTES: usize = 16 << 10;
/// Bytes that one poll receives of one peer at the most, about.
const POLL_BYTES: usize = 1 << 20;

/// Why nothing more comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Over {
    /// The peer has closed its end, or died.
    Closed,
    Broken(Errno),
    Flaw(Flaw),
}

pub struct Incoming {
    buffer: Box<[u8]>,
    /// Bytes `from..upto` of the buffer have not been taken.
    from: usize,
    upto: usize,
    parser: Parser,
    opener: Option<Sealer>,
    /// Bytes of frames that were verified and have not been taken, at `from`.
    verified: usize,
}

impl Incoming {
    /// `before`: bytes of the stream that have been read already.
    pub fn new(opener: Option<Sealer>, before: &[u8]) -> Result<Incoming, Error> {
        assert!(before.len() <= BUFFER_BYTES);
        let mut buffer = zeroed(BUFFER_BYTES)?;
        buffer[..before.len()].copy_from_slice(before);
        let parser = Parser::default();
        Ok(Incoming { buffer, from: 0, upto: before.len(), parser, opener, verified: 0 })
    }

    /// Lands what is there.
    #[inline]
    pub fn poll(&mut self, socket: BorrowedFd<'_>, mirror: &mut Mirror) -> Result<(), Over> {
        if let Some(due) = mirror.waits() {
            if due {
                self.take(mirror).map_err(Over::Flaw)?;
            }
            if mirror.waits().is_some() {
                return Ok(()); // I3
            }
        }
        let mut bytes = 0;
        while bytes < POLL_BYTES {
            let ring = match self.parser.pending() {
                Some(span) if self.from == self.upto => mirror.place(&span),
                _ => None,
            };
            let direct = ring.map_or(0, |(_, _, len)| len);
            let mut room = self.buffer.len() - self.upto;
            if self.opener.is_none() {
                room = room.min(READ_BYTES);
            }
            let into = &mut self.buffer[self.upto..self.upto + room];
            let got = match receive(socket, ring, into) {
                Ok(0) => return Err(Over::Closed),
                Ok(got) => got,
                Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                Err(cause) => return Err(Over::Broken(cause)),
            };
            let landed = got.min(direct);
            self.parser.landed(landed as u32);
            self.upto += got - landed;
            self.take(mirror).map_err(Over::Flaw)?;
            if got < direct + room || mirror.waits().is_some() {
                return Ok(()); // that was all, or I3
            }
            bytes += got;
        }
        Ok(())
    }

    /// Takes what is in the buffer as far as it is whole.
    pub fn take(&mut self, mirror: &mut Mirror) -> Result<(), Flaw> {
        if self.opener.is_some() {
            return self.take_sealed(mirror);
        }
        self.from += self.parser.take(&self.buffer[self.from..self.upto], mirror)?;
        self.make_room(BUFFER_BYTES);
        Ok(())
    }

    fn take_sealed(&mut self, mirror: &mut Mirror) -> Result<(), Flaw> {
        let Some(opener) = &mut self.opener else { return Ok(()) };
        let mut wanted = HEADER_BYTES;
        loop {
            if self.verified > 0 {
                let frames = &self.buffer[self.from..self.from + self.verified];
                let taken = self.parser.record(frames, mirror)?;
                (self.from, self.verified) = (self.from + taken, self.verified - taken);
                if self.verified > 0 {
                    break; // I3
                }
                self.from += TAG_BYTES;
            }
            if self.upto - self.from < HEADER_BYTES {
                break;
            }
            let here = &mut self.buffer[self.from..self.upto];
            let (header, rest) = here.split_at_mut(HEADER_BYTES);
            let header = header.first_chunk().expect("split there");
            let bytes = length(*header, SEALED_BYTES_MAX)?;
            if (bytes as usize) < TAG_BYTES {
                return Err(Flaw::Length { bytes });
            }
            wanted = HEADER_BYTES + bytes as usize;
            let Some(sealed) = rest.get_mut(..bytes as usize) else { break };
            let frames = opener.open(header, sealed).ok_or(Flaw::Forged)?;
            self.verified = frames.len();
            self.from += if frames.is_empty() { wanted } else { HEADER_BYTES };
            wanted = HEADER_BYTES;
        }
        self.make_room(wanted);
        Ok(())
    }

    /// Moves what is left to the front, unless so many bytes have room where it lies.
    fn make_room(&mut self, wanted: usize) {
        if self.from == self.upto {
            (self.from, self.upto) = (0, 0);
        } else if self.from > 0 && self.from + wanted > self.buffer.len() {
            self.buffer.copy_within(self.from..self.upto, 0);
            (self.from, self.upto) = (0, self.upto - self.from);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
