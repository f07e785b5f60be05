// SPDX-License-Identifier: MIT OR Apache-2.0
//! The messages of a measurement, and how every member checks each of them.
//!
//! A message begins with as many of these little-endian words as fit it; text fills the rest:
//!
//! ```text
//! 0   kind << 56 | sequence     the sender's own count of messages, from 0
//! 8   check << 32 | checkpoint  CRC of the text, mixed with the sequence, in one of 64 messages;
//!                               the number of the sender's newest checkpoint
//! 16  hash                      its hash at that checkpoint
//! 24  begin | count             of a START and of a FINAL: see `Kind`
//! 32  end   | hash
//! ```
//!
//! Checked at every member, always:
//!
//! K1  Each sender's sequence goes up by one; numbers of the order only go up.
//! K2  One of 64 texts has the CRC that its sender saw.
//! K3  The total order: each member hashes (sender, sequence) of everything it delivers and
//!     remembers the hash at every 4096th message, a checkpoint. A sender's newest checkpoint
//!     travels in its messages; whoever gets one must have had the same hash there. A sender has
//!     delivered its checkpoint before it sends it, so every receiver has passed it too.
//! K4  After the END of all senders, each says count and hash; all must have the same.

use squall::driver::group::Sender;
use squall::error::Status;
use squall::mem::Message;

/// Words of a message that are not data.
pub const CONTROL_BYTES: usize = 40;
/// The least message: a sequence.
pub const SIZE_MIN: u32 = 8;

const HEAD_BYTES: usize = 24;
const CHECKPOINT_EVERY: u64 = 1 << 12;
/// One of so many texts is checked.
const CHECKED_EVERY: u64 = 64;
const SEQUENCE_BITS: u32 = 56;
/// Texts begin at different places of the sender's pattern, so that neighbours differ.
const PATTERN_STEP: usize = 64;

/// Kinds: data; START says when the measured time begins and ends; END is a sender's last; FINAL
/// carries what it had delivered at the last END.
pub const DATA: u64 = 1;
pub const START: u64 = 2;
pub const END: u64 = 3;
pub const FINAL: u64 = 4;

/// A fault to plant, for the test that faults are found.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Plant {
    /// A byte of a text is changed after its CRC was taken.
    Payload,
    /// A sequence is left out.
    Sequence,
    /// The last member believes in another order.
    Order,
}

/// Where faults are planted: a message whose text is checked.
const PLANTED_AT: u64 = 1024;

fn mix(sequence: u64) -> u32 {
    (sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

/// The next hash of an order.
#[inline(always)]
fn step(hash: u64, rank: u16, sequence: u64) -> u64 {
    (hash.rotate_left(5) ^ (sequence << 8 | u64::from(rank))).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A point that all members pass with the same hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Checkpoint {
    pub number: u64,
    pub hash: u64,
}

/// Makes one sender's messages.
pub struct Writer {
    sequence: u64,
    size: usize,
    pattern: Vec<u8>,
    /// By place in the pattern: the CRC of the text that begins there, once taken.
    checks: Vec<Option<u32>>,
    plant: Option<Plant>,
}

impl Writer {
    pub fn new(rank: u16, size: u32, plant: Option<Plant>) -> Writer {
        let places = CHECKED_EVERY as usize;
        let mut word = u64::from(rank) + 1;
        let mut pattern = Vec::with_capacity(size as usize + places * PATTERN_STEP + 8);
        while pattern.len() < size as usize + places * PATTERN_STEP {
            word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            pattern.extend_from_slice(&(word ^ word >> 29).to_le_bytes());
        }
        Writer { sequence: 0, size: size as usize, pattern, checks: vec![None; places], plant }
    }

    /// Sends the next message of data, filled in place.
    #[inline]
    pub fn data(&mut self, sender: &mut Sender, newest: Checkpoint) -> Result<(), Status> {
        let sequence = self.sequence;
        let planted = self.plant.is_some() && sequence == PLANTED_AT;
        let place = ((sequence >> 6 ^ sequence) % CHECKED_EVERY) as usize;
        let head = HEAD_BYTES.min(self.size);
        let from = place * PATTERN_STEP;
        let text = &self.pattern[from..from + (self.size - head)];
        let bytes = sender.reserve(self.size as u32)?;
        let mut word = DATA << SEQUENCE_BITS | sequence;
        if planted && self.plant == Some(Plant::Sequence) {
            word += 1;
        }
        bytes[..8].copy_from_slice(&word.to_le_bytes());
        if self.size >= HEAD_BYTES {
            let mut check = 0;
            if sequence.is_multiple_of(CHECKED_EVERY) {
                let crc = self.checks[place].get_or_insert_with(|| crc32fast::hash(text));
                check = *crc ^ mix(sequence);
            }
            let word = u64::from(check) << 32 | newest.number & 0xffff_ffff;
            bytes[8..16].copy_from_slice(&word.to_le_bytes());
            bytes[16..24].copy_from_slice(&newest.hash.to_le_bytes());
        }
        bytes[head..].copy_from_slice(text);
        if planted && self.plant == Some(Plant::Payload) {
            *bytes.last_mut().expect("a message has bytes") ^= 1;
        }
        sender.publish(self.size as u32)?;
        self.sequence += 1;
        Ok(())
    }

    /// Sends a message that is not data.
    pub fn control(
        &mut self,
        sender: &mut Sender,
        kind: u64,
        words: [u64; 2],
    ) -> Result<(), Status> {
        let mut bytes = [0; CONTROL_BYTES];
        bytes[..8].copy_from_slice(&(kind << SEQUENCE_BITS | self.sequence).to_le_bytes());
        bytes[24..32].copy_from_slice(&words[0].to_le_bytes());
        bytes[32..40].copy_from_slice(&words[1].to_le_bytes());
        sender.send(&bytes)?;
        self.sequence += 1;
        Ok(())
    }

    /// Messages sent so far.
    pub fn sent(&self) -> u64 {
        self.sequence
    }
}

/// What a message meant, beyond being sound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meaning {
    Data { sequence: u64 },
    Start { begin: u64, end: u64 },
    End,
    Final,
}

/// How much was checked.
#[derive(Clone, Copy, Default, Debug, serde::Serialize, serde::Deserialize)]
pub struct Checked {
    /// Messages whose sequence and place in the order were checked.
    pub messages: u64,
    /// Texts whose CRC was compared, and checkpoints of others that were.
    pub texts: u64,
    pub checkpoints: u64,
}

#[derive(Clone, Copy, Default)]
struct From {
    sequence: u64,
    /// The newest checkpoint of it that was compared.
    checkpoint: u32,
}

/// Checks everything that one member delivers.
pub struct Reader {
    me: u16,
    size: u32,
    from: Vec<From>,
    next_number: u64,
    hash: u64,
    newest: Checkpoint,
    /// Recent checkpoints, by number.
    recent: Vec<u64>,
    ends: u16,
    senders: u16,
    /// Count and hash at the last END.
    closing: (u64, u64),
    plant: Option<Plant>,
    pub checked: Checked,
}

impl Reader {
    /// `window`: messages that a sender may have under way, which bounds the age of a checkpoint.
    pub fn new(me: u16, members: u16, senders: u16, window: u32, size: u32) -> Reader {
        let under_way = u64::from(window) * u64::from(senders);
        let recent = (under_way / CHECKPOINT_EVERY + 4).next_power_of_two();
        Reader {
            me,
            size,
            from: vec![From::default(); usize::from(members)],
            next_number: 0,
            hash: 0,
            newest: Checkpoint::default(),
            recent: vec![0; recent as usize],
            ends: 0,
            senders,
            closing: (0, 0),
            plant: None,
            checked: Checked::default(),
        }
    }

    pub fn plant(&mut self, plant: Option<Plant>) {
        self.plant = plant;
    }

    pub fn newest(&self) -> Checkpoint {
        self.newest
    }

    pub fn delivered(&self) -> u64 {
        self.checked.messages
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Count and hash when the last sender had ended; `None`: not yet.
    pub fn closing(&self) -> Option<(u64, u64)> {
        (self.ends == self.senders).then_some(self.closing)
    }

    /// Checks one message. An error is what is wrong with it.
    #[inline]
    pub fn take(&mut self, message: &Message) -> Result<Meaning, String> {
        let (bytes, rank) = (message.bytes(), message.rank);
        let Some(first) = word(bytes, 0) else { return Err(self.odd(message)) };
        let sequence = first & ((1 << SEQUENCE_BITS) - 1);
        let from = &mut self.from[usize::from(rank)];
        if sequence != from.sequence {
            let expected = from.sequence;
            return Err(format!(
                "message {sequence} of rank {rank} came where its message {expected} was due, at \
                 number {} of the order",
                message.number
            ));
        }
        from.sequence += 1;
        if message.number < self.next_number {
            let last = self.next_number - 1;
            return Err(format!("number {} of the order came after {last}", message.number));
        }
        self.next_number = message.number + 1;
        self.hash = step(self.hash, rank, sequence);
        self.checked.messages += 1;
        if self.checked.messages.is_multiple_of(CHECKPOINT_EVERY) {
            self.checkpoint();
        }
        if first >> SEQUENCE_BITS != DATA {
            return self.control(message, first >> SEQUENCE_BITS);
        }
        if message.len != self.size {
            return Err(self.odd(message));
        }
        if let (Some(second), Some(hash)) = (word(bytes, 1), word(bytes, 2)) {
            if second as u32 != self.from[usize::from(rank)].checkpoint {
                self.compare(rank, second as u32, hash)?;
            }
            if sequence.is_multiple_of(CHECKED_EVERY) {
                self.checked.texts += 1;
                let crc = crc32fast::hash(&bytes[HEAD_BYTES..]) ^ mix(sequence);
                if crc != (second >> 32) as u32 {
                    return Err(format!(
                        "the text of message {sequence} of rank {rank} has the checksum {crc:08x} \
                         where its sender saw {:08x}",
                        second >> 32
                    ));
                }
            }
        }
        Ok(Meaning::Data { sequence })
    }

    #[cold]
    fn odd(&self, message: &Message) -> String {
        let (size, len, rank) = (self.size, message.len, message.rank);
        format!("a message of rank {rank} has {len} bytes instead of {size}")
    }

    #[cold]
    fn checkpoint(&mut self) {
        if self.plant == Some(Plant::Order) && self.me > 0 {
            self.hash ^= 1;
        }
        let number = self.checked.messages / CHECKPOINT_EVERY;
        self.newest = Checkpoint { number, hash: self.hash };
        let mask = self.recent.len() as u64 - 1;
        self.recent[(number & mask) as usize] = self.hash;
    }

    /// A sender's newest checkpoint is a new one (K3). Only its low 32 bits travel.
    #[cold]
    fn compare(&mut self, rank: u16, low: u32, hash: u64) -> Result<(), String> {
        let behind = u64::from((self.newest.number as u32).wrapping_sub(low));
        let at = |number: u64| number * CHECKPOINT_EVERY;
        if behind >= self.recent.len() as u64 {
            return Err(format!(
                "rank {rank} speaks of checkpoint {low} (modulo 2^32) where this member has \
                 delivered {} messages only: the order is not the same",
                self.checked.messages
            ));
        }
        let number = self.newest.number - behind;
        let mine = self.recent[(number & (self.recent.len() as u64 - 1)) as usize];
        self.from[usize::from(rank)].checkpoint = low;
        self.checked.checkpoints += 1;
        if mine != hash {
            return Err(format!(
                "the order of the first {} messages is not the same: hash {mine:016x} here, \
                 {hash:016x} at rank {rank}",
                at(number)
            ));
        }
        Ok(())
    }

    #[cold]
    fn control(&mut self, message: &Message, kind: u64) -> Result<Meaning, String> {
        let bytes = message.bytes();
        let (Some(one), Some(two)) = (word(bytes, 3), word(bytes, 4)) else {
            return Err(self.odd(message));
        };
        match kind {
            START => Ok(Meaning::Start { begin: one, end: two }),
            END => {
                self.ends += 1;
                self.closing = (self.checked.messages, self.hash);
                Ok(Meaning::End)
            }
            FINAL if (one, two) == self.closing && self.ends == self.senders => Ok(Meaning::Final),
            FINAL => Err(format!(
                "rank {} delivered {one} messages with hash {two:016x}, this member {} with \
                 {:016x}: not the same order",
                message.rank, self.closing.0, self.closing.1
            )),
            _ => Err(format!("a message of rank {} is of unknown kind {kind}", message.rank)),
        }
    }
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at * 8..at * 8 + 8)?;
    Some(u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
}

/// Reads one byte of each line of a message, as an application that uses it would.
#[inline(always)]
pub fn touch(bytes: &[u8]) -> u8 {
    bytes.iter().step_by(64).fold(0, |sum, byte| sum ^ byte)
}
