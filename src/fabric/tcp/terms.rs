// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a process asks of everybody whom it meets, the opening that says as much of it as a stranger
//! may hear, and why two do not belong together.

use super::secret::Secret;
pub use crate::base::Versions;
use crate::error::{Error, Status};

pub const OPENING_BYTES: usize = 48;
pub const NONCE_BYTES: usize = 32;
pub const MAGIC: &[u8; 6] = b"SQUALL";
const FORM: u8 = 1;
const AUTHENTICATES: u8 = 1;

/// What a process asks of everybody whom it meets.
#[derive(Clone, Debug)]
pub struct Terms {
    pub group: String,
    /// `None`: the network is trusted.
    pub secret: Option<Secret>,
    pub versions: Versions,
    /// Its own; 0: it has none.
    pub incarnation: u64,
}

/// Why two do not belong together. Each is said once in the log, and counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Reason {
    /// It speaks another protocol, or nonsense.
    Garbage,
    /// Its own bytes, or its own process.
    Itself,
    Versions,
    /// One trusts the network and the other does not.
    Trust,
    /// It does not hold the secret.
    Proof,
    /// It belongs to another group.
    Group,
    /// The application's side said no.
    Refused,
    /// It hung up in the middle.
    HungUp,
    /// It took too long, or too many reads.
    Slow,
    /// There were too many others.
    Crowd,
    /// This process lacks something: a descriptor, memory.
    Shortage,
}

pub const REASONS: usize = 11;

/// Told to a caller that is on the same host. Founders call before they know where the others are, so that
/// is no trouble, and not for the log.
pub const NEAR: &str = "members on one host meet over shared memory";

/// That they do not, and the sentence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub reason: Reason,
    pub error: Error,
}

impl Refusal {
    pub fn new(reason: Reason, status: Status, detail: impl Into<String>) -> Refusal {
        Refusal { reason, error: Error::new(status, detail) }
    }
}

/// The first that each side says. Every version reads it.
#[derive(Clone, Copy)]
pub struct Opening {
    pub bytes: [u8; OPENING_BYTES],
    pub versions: Versions,
    pub authenticates: bool,
}

impl Opening {
    pub fn new(terms: &Terms, nonce: [u8; NONCE_BYTES]) -> Opening {
        let (versions, authenticates) = (terms.versions, terms.secret.is_some());
        let mut bytes = [0; OPENING_BYTES];
        bytes[..6].copy_from_slice(MAGIC);
        bytes[6] = FORM;
        bytes[7] = if authenticates { AUTHENTICATES } else { 0 };
        bytes[8..10].copy_from_slice(&versions.min.to_le_bytes());
        bytes[10..12].copy_from_slice(&versions.max.to_le_bytes());
        bytes[16..].copy_from_slice(&nonce);
        Opening { bytes, versions, authenticates }
    }

    /// `None`: nonsense.
    pub fn decode(bytes: [u8; OPENING_BYTES]) -> Option<Opening> {
        let number = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let versions = Versions { min: number(8), max: number(10) };
        let sound = bytes.starts_with(MAGIC) && bytes[6] == FORM;
        let sound = sound && 1 <= versions.min && versions.min <= versions.max;
        let authenticates = bytes[7] & AUTHENTICATES != 0;
        sound.then_some(Opening { bytes, versions, authenticates })
    }
}
