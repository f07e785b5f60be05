// SPDX-License-Identifier: MIT OR Apache-2.0
//! What two verbs fabrics say to each other, in `carry` frames of the connection between them.
//!
//! ```text
//! message    byte 0  byte 1  bytes 2..4  bytes 4..8   then
//! endpoint   1       flags   LID         queue        first number, MTU (4 bytes each); GID (16 bytes);
//!                                                     key of the notes' ring, 0 (4 bytes each); its address
//! keys       2       0       count       block's key  epoch, block's address (8 bytes each); `count` rings
//!   a ring                   subgroup    key          address (8 bytes)
//! done       3       0       0           0            epoch (8 bytes)
//! ```
//!
//! All little-endian. Flags: 1: its port is of an Ethernet; 2: it sleeps, and wants a bell with news. How
//! large the memory behind a key is says the reader's own configuration, never the peer.
//!
//! C1  A message is one of these and nothing more: any other byte is a `Nonsense`, and the end of the
//!     connection. Nothing is allocated for what is refused but the list of rings, which is bounded.
//! C2  Addresses of what is as long as the reader knows do not go round the end of 64 bits.

use super::device::Place;
use super::gid::Gid;
use super::memory::Remote;
use super::notes;
use super::queue::Endpoint;
use crate::base::Epoch;
use crate::fabric::tcp::mirror::Measures;
use crate::fabric::tcp::wire::CARRY_BYTES_MAX;
use crate::limits::SUBGROUPS_MAX;
use std::fmt;

pub const ENDPOINT: u8 = 1;
pub const KEYS: u8 = 2;
pub const DONE: u8 = 3;

const ETHERNET: u8 = 1;
const WANTS_BELLS: u8 = 2;

const ENDPOINT_BYTES: usize = 48;
const KEYS_BYTES: usize = 24;
const RING_BYTES: usize = 16;
const DONE_BYTES: usize = 16;
const _: () = assert!(KEYS_BYTES + SUBGROUPS_MAX * RING_BYTES <= CARRY_BYTES_MAX);

/// Queue pairs and first numbers are so long.
const NUMBER_MAX: u32 = (1 << 24) - 1;

/// Where a peer's memory lies at the peer, and what lets one write there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keys {
    pub block: Remote,
    /// By subgroup.
    pub rings: Vec<Option<Remote>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// How the sender's queue for this connection is reached, where it reads notes, and whether it wants
    /// bells.
    Endpoint { endpoint: Endpoint, place: Place, notes: Remote, bells: bool },
    /// Where the reader of this may write in that epoch.
    Keys(Epoch, Keys),
    /// The sender writes there no more: all of it has landed.
    Done(Epoch),
}

/// What no correct member says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nonsense {
    Kind {
        kind: u8,
    },
    Length {
        kind: u8,
        bytes: u32,
    },
    Field {
        kind: u8,
        value: u64,
    },
    /// Of an epoch that is none, or not any more.
    Epoch {
        kind: u8,
        epoch: u64,
    },
    /// Something else is said first.
    Order {
        kind: u8,
    },
    /// In a note.
    Note {
        what: &'static str,
        value: u64,
    },
}

impl fmt::Display for Nonsense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Nonsense::Kind { kind } => write!(f, "a message of kind {kind} about its queue"),
            Nonsense::Length { kind, bytes } => {
                write!(f, "{bytes} bytes as a message of kind {kind} about its queue")
            }
            Nonsense::Field { kind, value } => {
                write!(f, "the value {value:#x} in a message of kind {kind} about its queue")
            }
            Nonsense::Epoch { kind, epoch } => {
                write!(f, "a message of kind {kind} about its queue for epoch {epoch}")
            }
            Nonsense::Order { kind } => {
                write!(f, "a message of kind {kind} about its queue out of its place")
            }
            Nonsense::Note { what, value } => {
                write!(f, "a note that cannot be ({what}: {value:#x})")
            }
        }
    }
}

impl Message {
    pub fn kind(&self) -> u8 {
        match self {
            Message::Endpoint { .. } => ENDPOINT,
            Message::Keys(..) => KEYS,
            Message::Done(..) => DONE,
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.kind(), 0, 0, 0];
        let mut put = |part: &[u8]| bytes.extend_from_slice(part);
        match self {
            Message::Endpoint { endpoint, place, notes, bells } => {
                put(&endpoint.qpn.to_le_bytes());
                put(&endpoint.psn.to_le_bytes());
                put(&place.mtu_bytes.to_le_bytes());
                put(&place.gid.0);
                put(&notes.key.to_le_bytes());
                put(&[0; 4]);
                put(&notes.address.to_le_bytes());
                let ethernet = if place.ethernet { ETHERNET } else { 0 };
                bytes[1] = ethernet | if *bells { WANTS_BELLS } else { 0 };
                bytes[2..4].copy_from_slice(&place.lid.to_le_bytes());
            }
            Message::Keys(epoch, keys) => {
                put(&keys.block.key.to_le_bytes());
                put(&epoch.0.to_le_bytes());
                put(&keys.block.address.to_le_bytes());
                let rings = (0u16..).zip(&keys.rings);
                for (subgroup, ring) in rings.filter_map(|(at, ring)| Some((at, ring.as_ref()?))) {
                    put(&[0; 2]);
                    put(&subgroup.to_le_bytes());
                    put(&ring.key.to_le_bytes());
                    put(&ring.address.to_le_bytes());
                }
                let count = keys.rings.iter().flatten().count() as u16;
                bytes[2..4].copy_from_slice(&count.to_le_bytes());
            }
            Message::Done(epoch) => {
                put(&[0; 4]);
                put(&epoch.0.to_le_bytes());
            }
        }
        bytes
    }

    /// What a peer says whose memory has those measures.
    pub fn decode(bytes: &[u8], measures: &Measures) -> Result<Message, Nonsense> {
        let (kind, length) = (bytes.first().copied().unwrap_or(0), bytes.len());
        let wanted = match kind {
            ENDPOINT => ENDPOINT_BYTES,
            KEYS if length >= KEYS_BYTES => KEYS_BYTES + usize::from(half(bytes, 2)) * RING_BYTES,
            KEYS => KEYS_BYTES,
            DONE => DONE_BYTES,
            _ => return Err(Nonsense::Kind { kind }),
        };
        if length != wanted {
            return Err(Nonsense::Length { kind, bytes: length as u32 });
        }
        match kind {
            ENDPOINT => endpoint(bytes),
            KEYS => keys(bytes, measures),
            _ => {
                zero(kind, u64::from(bytes[1]) | u64::from(half(bytes, 2)))?;
                zero(kind, u64::from(word(bytes, 4)))?;
                Ok(Message::Done(epoch(kind, long(bytes, 8))?))
            }
        }
    }
}

fn endpoint(bytes: &[u8]) -> Result<Message, Nonsense> {
    let (kind, flags) = (ENDPOINT, bytes[1]);
    let number = |value: u32| match value <= NUMBER_MAX {
        true => Ok(value),
        false => Err(Nonsense::Field { kind, value: value.into() }),
    };
    zero(kind, u64::from(flags & !(ETHERNET | WANTS_BELLS)))?;
    let endpoint = Endpoint { qpn: number(word(bytes, 4))?, psn: number(word(bytes, 8))? };
    let mtu_bytes = word(bytes, 12);
    if !matches!(mtu_bytes, 256 | 512 | 1024 | 2048 | 4096) {
        return Err(Nonsense::Field { kind, value: mtu_bytes.into() });
    }
    let mut gid = [0; 16];
    gid.copy_from_slice(&bytes[16..32]);
    let (gid, lid, ethernet) = (Gid(gid), half(bytes, 2), flags & ETHERNET != 0);
    let place = Place { gid, lid, mtu_bytes, ethernet };
    zero(kind, word(bytes, 36).into())?;
    let notes = remote(kind, long(bytes, 40), notes::RING_BYTES, word(bytes, 32))?;
    Ok(Message::Endpoint { endpoint, place, notes, bells: flags & WANTS_BELLS != 0 })
}

fn keys(bytes: &[u8], measures: &Measures) -> Result<Message, Nonsense> {
    let kind = KEYS;
    zero(kind, bytes[1].into())?;
    let epoch = epoch(kind, long(bytes, 8))?;
    let block = remote(kind, long(bytes, 16), measures.block_bytes, word(bytes, 4))?;
    let mut rings = vec![None; measures.rings.len()];
    for ring in bytes[KEYS_BYTES..].chunks_exact(RING_BYTES) {
        let subgroup = usize::from(half(ring, 2));
        zero(kind, half(ring, 0).into())?;
        let bad = Nonsense::Field { kind, value: subgroup as u64 };
        let place = rings.get_mut(subgroup).filter(|place| place.is_none()).ok_or(bad)?;
        let size = measures.rings[subgroup].bytes();
        *place = Some(remote(kind, long(ring, 8), size, word(ring, 4))?);
    }
    Ok(Message::Keys(epoch, Keys { block, rings }))
}

/// C2
fn remote(kind: u8, address: u64, size: usize, key: u32) -> Result<Remote, Nonsense> {
    match address.checked_add(size as u64) {
        Some(_) => Ok(Remote { address, bytes: size as u64, key }),
        None => Err(Nonsense::Field { kind, value: address }),
    }
}

fn epoch(kind: u8, epoch: u64) -> Result<Epoch, Nonsense> {
    if epoch == 0 { Err(Nonsense::Epoch { kind, epoch }) } else { Ok(Epoch(epoch)) }
}

fn zero(kind: u8, value: u64) -> Result<(), Nonsense> {
    if value == 0 { Ok(()) } else { Err(Nonsense::Field { kind, value }) }
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests;
