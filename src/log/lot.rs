// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes to the log thread at once: messages where they landed, and a record or two of the
//! caller's own. Made once, used again and again.

use super::Entries;
use super::format::{Entry, Kind, Label};
use crate::mem::Message;

#[derive(Debug)]
enum Payload {
    /// In a ring, which does not release it before `appended` covers it (L).
    Lent(Message),
    Own(Box<[u8]>),
}

/// Records for one log.
#[derive(Debug)]
pub struct Lot {
    pub(super) log: usize,
    records: Vec<(Label, Payload)>,
    most: usize,
    bytes: u64,
}

impl Lot {
    pub(super) fn new(most: usize) -> Lot {
        Lot { log: 0, records: Vec::with_capacity(most), most, bytes: 0 }
    }

    pub fn is_full(&self) -> bool {
        self.records.len() == self.most
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Adds a message where it lies. False: there is no room. The bytes stay still until the log's
    /// `appended` is beyond it.
    pub fn push(&mut self, label: Label, bytes: &[u8]) -> bool {
        assert!(label.kind == Kind::Message);
        let Label { rank, lane, version, .. } = label;
        let message = Message::new(bytes, rank, lane, version.number.0, 0);
        self.add(label, bytes.len(), Payload::Lent(message))
    }

    /// Adds a record of the caller's own making: a view, a trim, a confirmation. The only thing here
    /// that allocates.
    pub fn push_own(&mut self, label: Label, bytes: Box<[u8]>) -> bool {
        self.add(label, bytes.len(), Payload::Own(bytes))
    }

    fn add(&mut self, label: Label, len: usize, payload: Payload) -> bool {
        let room = !self.is_full();
        if room {
            self.bytes += len as u64;
            self.records.push((label, payload));
        }
        room
    }

    /// Of the payloads.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.bytes = 0;
    }
}

impl Entries for Lot {
    fn count(&self) -> usize {
        self.records.len()
    }

    fn entry(&self, at: usize) -> Entry<'_> {
        let (label, payload) = &self.records[at];
        let payload = match payload {
            Payload::Lent(message) => message.bytes(),
            Payload::Own(bytes) => bytes,
        };
        Entry { label: *label, payload }
    }
}
