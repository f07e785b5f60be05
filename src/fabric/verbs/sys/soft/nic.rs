// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the software device does, without C: queues, keys, and one small step at a time.
//!
//! D1  Writes of one queue land in their order; the words of one write in any order, a few per step, and
//!     a part is read from its memory when it lands, not before.
//! D2  A completion may come long after its write has landed, behind later writes that have landed, too.
//! D3  A slot is free when a completion behind it has been polled, as with hardware; not before.
//! D4  What breaks a rule of the interface is written down (`violations`), whoever asked for it.
//! D5  What lies in an accelerator is written there late: when it is read the next time, by whomever.

use crate::mem::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Steps, and time if a thread takes them, after which an unanswered write is given up.
const PATIENCE_STEPS: u32 = 64;
const PATIENCE: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opcode {
    Write { bell: bool },
    Read,
}

#[derive(Clone, Debug)]
pub enum Source {
    Nothing,
    Value(Vec<u8>),
    Part { address: u64, bytes: u32, key: u32 },
}

#[derive(Clone, Debug)]
pub struct Write {
    pub id: u64,
    pub opcode: Opcode,
    pub signalled: bool,
    pub solicited: bool,
    pub source: Source,
    pub address: u64,
    pub key: u32,
    /// Which pieces have not landed; `None`: not begun.
    pub pieces: Option<Vec<(u64, u64)>>,
    pub landed: bool,
    pub tried: u32,
    pub since: Option<Instant>,
}

impl Write {
    pub fn bytes(&self) -> u64 {
        match &self.source {
            Source::Nothing => 0,
            Source::Value(bytes) => bytes.len() as u64,
            Source::Part { bytes, .. } => u64::from(*bytes),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd)]
pub enum QueueState {
    Reset,
    Init,
    Receives,
    Sends,
    Error,
}

pub struct Pair {
    pub process: usize,
    pub device: usize,
    pub domain: u32,
    pub number: u32,
    pub completions: u32,
    pub state: QueueState,
    pub slots: u32,
    pub receives_max: u32,
    pub inline_max: u32,
    pub may_be_written: bool,
    pub may_be_read: bool,
    pub peer: u32,
    pub peer_gid: [u8; 16],
    pub first_sent: u32,
    pub first_received: u32,
    pub retry: u8,
    pub posted: u64,
    pub freed: u64,
    pub writes: VecDeque<Write>,
    pub receives: VecDeque<u64>,
    /// Where the C side finds it.
    pub address: usize,
}

pub struct Registered {
    pub process: usize,
    pub domain: u32,
    pub address: u64,
    pub bytes: u64,
    /// Of an accelerator's memory: where this process has its bytes (D5), and the pages that are mapped
    /// for that.
    pub of_accelerator: Option<(u64, (usize, usize))>,
    pub local_write: bool,
    pub remote_write: bool,
    pub remote_read: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub id: u64,
    pub status: u32,
    pub bell: bool,
    pub pair: u32,
    /// Of a write: slots before that are free once this is polled.
    pub frees: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Armed {
    No,
    Solicited,
    Any,
}

pub struct CompletionQueue {
    pub process: usize,
    pub entries: VecDeque<Entry>,
    pub capacity: usize,
    pub armed: Armed,
    /// Descriptor of its channel: written once per event.
    pub channel: Option<i32>,
    pub events: u64,
    pub address: usize,
}

/// Statuses of completions, by their numbers.
pub mod status {
    pub const SUCCESS: u32 = 0;
    pub const LOCAL_PROTECTION: u32 = 4;
    pub const FLUSHED: u32 = 5;
    pub const REMOTE_ACCESS: u32 = 10;
    pub const RETRIES: u32 = 12;
}

pub struct Nic {
    pub random: Random,
    /// By number; the numbers of all processes are different, so that a wrong one is found.
    pub pairs: BTreeMap<u32, Pair>,
    pub memory: BTreeMap<u32, Registered>,
    pub completions: BTreeMap<u32, CompletionQueue>,
    /// By device: whose port has that GID.
    pub gids: Vec<(usize, [u8; 16])>,
    pub dead: BTreeSet<usize>,
    pub cuts: BTreeSet<(usize, usize)>,
    pub held: bool,
    pub disordered: bool,
    pub timed: bool,
    pub fail_next: BTreeMap<usize, u32>,
    pub violations: Vec<String>,
    /// Of processes: numbers of queues that were written where they may not.
    pub accused: Vec<(usize, u32)>,
    /// D5: where, and what.
    posted: Vec<(usize, Vec<u8>)>,
    /// How much work was carried out, and how much of that was to read.
    pub carried: u64,
    pub reads: u64,
    next: u32,
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

impl Nic {
    pub fn new(seed: u64) -> Nic {
        Nic {
            random: Random(seed),
            pairs: BTreeMap::new(),
            memory: BTreeMap::new(),
            completions: BTreeMap::new(),
            gids: Vec::new(),
            dead: BTreeSet::new(),
            cuts: BTreeSet::new(),
            held: false,
            disordered: false,
            timed: false,
            fail_next: BTreeMap::new(),
            violations: Vec::new(),
            accused: Vec::new(),
            posted: Vec::new(),
            carried: 0,
            reads: 0,
            next: 16,
        }
    }

    /// A number that was never given before.
    pub fn number(&mut self) -> u32 {
        self.next += 1 + self.random.below(7) as u32;
        self.next
    }

    pub fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    /// Adds work to a queue; answers with an `errno`.
    pub fn post(&mut self, number: u32, write: Write) -> i32 {
        let Some(pair) = self.pairs.get_mut(&number) else { return libc::EIO };
        let inline = if let Source::Value(bytes) = &write.source { bytes.len() as u32 } else { 0 };
        let taken = pair.posted - pair.freed;
        let (slots, state, inline_max) = (pair.slots, pair.state, pair.inline_max);
        if state < QueueState::Sends {
            self.violation(format!("queue {number:#x}: posted in {state:?}"));
            return libc::EINVAL;
        }
        if taken >= u64::from(slots) && state != QueueState::Error {
            self.violation(format!(
                "queue {number:#x}: {taken} of {slots} slots, and one more (D3)"
            ));
            return libc::ENOMEM;
        }
        if inline > inline_max {
            self.violation(format!("queue {number:#x}: {inline} bytes by value of {inline_max}"));
            return libc::EINVAL;
        }
        let pair = self.pairs.get_mut(&number).expect("found above");
        pair.posted += 1;
        pair.writes.push_back(write);
        if state == QueueState::Error {
            self.flush(number);
        }
        0
    }

    /// One small piece of work of any queue; `false`: there is none to be done now.
    pub fn step(&mut self) -> bool {
        let busy: Vec<u32> = self
            .pairs
            .iter()
            .filter(|(_, pair)| !pair.writes.is_empty())
            .map(|(n, _)| *n)
            .collect();
        let from = if busy.is_empty() { 0 } else { self.random.below(busy.len()) };
        (0..busy.len()).any(|at| self.step_of(busy[(from + at) % busy.len()]))
    }

    fn step_of(&mut self, number: u32) -> bool {
        let pair = &self.pairs[&number];
        if self.dead.contains(&pair.process) || pair.state != QueueState::Sends {
            return false;
        }
        let landing = pair.writes.iter().position(|write| !write.landed);
        let over = landing != Some(0);
        // D2: sometimes the completion first, sometimes the next write.
        if over && (landing.is_none() || self.held || self.random.below(3) == 0) {
            self.complete(number);
            return true;
        }
        match landing {
            Some(_) if self.disordered && !self.held => {
                let waiting = self.pairs[&number].writes.len();
                let at = self.random.below(waiting);
                self.pairs[&number].writes[at].landed || self.land(number, at)
            }
            Some(at) if !self.held => self.land(number, at),
            _ => false,
        }
    }

    /// The write at the front is over.
    fn complete(&mut self, number: u32) {
        let pair = self.pairs.get_mut(&number).expect("it was chosen");
        let write = pair.writes.pop_front().expect("it has one");
        self.carried += 1;
        self.reads += u64::from(write.opcode == Opcode::Read);
        let frees = pair.posted - pair.writes.len() as u64;
        if write.signalled {
            let (at, id) = (pair.completions, write.id);
            let done = Entry {
                id,
                status: status::SUCCESS,
                bell: false,
                pair: number,
                frees: Some(frees),
            };
            self.push(at, done, false);
        }
    }

    pub fn push(&mut self, at: u32, entry: Entry, solicited: bool) {
        let Some(queue) = self.completions.get_mut(&at) else { return };
        queue.entries.push_back(entry);
        let over = queue.entries.len() > queue.capacity;
        let wanted = queue.armed == Armed::Any || (queue.armed == Armed::Solicited && solicited);
        if let (true, Some(channel)) = (wanted, queue.channel) {
            queue.armed = Armed::No;
            queue.events += 1;
            super::calls::signal(channel);
        }
        if over {
            self.violation(format!("completion queue {at:#x} runs over"));
        }
    }

    /// Everything posted ends: with an error each, asked for or not.
    pub fn flush(&mut self, number: u32) {
        let Some(pair) = self.pairs.get_mut(&number) else { return };
        pair.state = QueueState::Error;
        let at = pair.completions;
        let sent = std::mem::take(&mut pair.writes).into_iter().map(|write| write.id);
        let received = std::mem::take(&mut pair.receives);
        let all: Vec<u64> = sent.chain(received).collect();
        for id in all {
            let flushed =
                Entry { id, status: status::FLUSHED, bell: false, pair: number, frees: None };
            self.push(at, flushed, true);
        }
    }

    /// The first write that has not landed fails, and the queue with it.
    fn fail(&mut self, number: u32, at: usize, status: u32) -> bool {
        for _ in 0..at {
            self.complete(number);
        }
        let pair = self.pairs.get_mut(&number).expect("it was chosen");
        let write = pair.writes.pop_front().expect("it has one");
        let (queue, id) = (pair.completions, write.id);
        self.push(queue, Entry { id, status, bell: false, pair: number, frees: None }, true);
        self.flush(number);
        true
    }

    /// The other end, if packets reach it and it takes them.
    fn peer_of(&self, number: u32) -> Option<u32> {
        let pair = &self.pairs[&number];
        let at = self.gids.iter().position(|(_, gid)| *gid == pair.peer_gid)?;
        let peer = self.pairs.get(&pair.peer)?;
        let mine = self.gids[pair.device].1;
        let (low, high) = (pair.process.min(peer.process), pair.process.max(peer.process));
        let reached = peer.device == at
            && !self.dead.contains(&peer.process)
            && !self.cuts.contains(&(low, high));
        let listens = [QueueState::Receives, QueueState::Sends].contains(&peer.state)
            && peer.peer == number
            && peer.peer_gid == mine
            && peer.first_received == pair.first_sent;
        (reached && listens).then_some(pair.peer)
    }

    fn land(&mut self, number: u32, at: usize) -> bool {
        let process = self.pairs[&number].process;
        if let Some(status) = self.fail_next.remove(&process) {
            return self.fail(number, at, status);
        }
        let Some(peer) = self.peer_of(number) else { return self.unanswered(number, at) };
        let write = &self.pairs[&number].writes[at];
        let bell = write.opcode == Opcode::Write { bell: true };
        if bell && self.pairs[&peer].receives.is_empty() {
            return false; // It is asked again, for ever.
        }
        if write.pieces.is_none() {
            if let Some(status) = self.forbidden(number, peer, at) {
                return self.fail(number, at, status);
            }
            let pieces = self.pieces(number, at);
            self.pairs.get_mut(&number).expect("chosen").writes[at].pieces = Some(pieces);
        }
        for _ in 0..1 + self.random.below(16) {
            let write = &mut self.pairs.get_mut(&number).expect("chosen").writes[at];
            let pieces = write.pieces.as_mut().expect("made above");
            let Some((from, bytes)) = pieces.pop() else { break };
            let (opcode, source) = (write.opcode, write.source.clone());
            let remote = (write.key, write.address);
            if !self.copy(opcode, &source, remote, (from, bytes)) {
                return self.fail(number, at, status::LOCAL_PROTECTION);
            }
        }
        let write = &mut self.pairs.get_mut(&number).expect("chosen").writes[at];
        if write.pieces.as_ref().is_some_and(Vec::is_empty) {
            write.landed = true;
            if bell {
                self.ring(number, peer, at);
            }
        }
        true
    }

    fn ring(&mut self, number: u32, peer: u32, at: usize) {
        let solicited = self.pairs[&number].writes[at].solicited;
        let peer_pair = self.pairs.get_mut(&peer).expect("it listens");
        let id = peer_pair.receives.pop_front().expect("looked at above");
        let queue = peer_pair.completions;
        let rung = Entry { id, status: status::SUCCESS, bell: true, pair: peer, frees: None };
        self.push(queue, rung, solicited);
    }

    fn unanswered(&mut self, number: u32, at: usize) -> bool {
        let timed = self.timed;
        let pair = self.pairs.get_mut(&number).expect("it was chosen");
        let for_ever = pair.retry >= 7;
        let write = &mut pair.writes[at];
        write.tried += 1;
        let since = *write.since.get_or_insert_with(Instant::now);
        let over = match timed {
            true => since.elapsed() > PATIENCE,
            false => write.tried > PATIENCE_STEPS,
        };
        if over && !for_ever {
            return self.fail(number, at, status::RETRIES);
        }
        !timed && !for_ever
    }

    /// Whether keys, bounds and rights forbid it, and how that is called.
    fn forbidden(&mut self, number: u32, peer: u32, at: usize) -> Option<u32> {
        let (mine, theirs) = (&self.pairs[&number], &self.pairs[&peer]);
        let write = &mine.writes[at];
        let bytes = write.bytes();
        if bytes == 0 {
            return None;
        }
        let reads = write.opcode == Opcode::Read;
        if !self.is_mine(mine, write, reads) {
            return Some(status::LOCAL_PROTECTION);
        }
        let region = self.memory.get(&write.key).filter(|region| {
            let inside = write.address >= region.address
                && write.address - region.address + bytes <= region.bytes;
            let allowed = match reads {
                true => region.remote_read && theirs.may_be_read,
                false => region.remote_write && theirs.may_be_written,
            };
            region.process == theirs.process && region.domain == theirs.domain && inside && allowed
        });
        if region.is_some() {
            return None;
        }
        let process = theirs.process;
        self.accused.push((process, peer));
        self.flush(peer);
        Some(status::REMOTE_ACCESS)
    }

    fn is_mine(&self, pair: &Pair, write: &Write, reads: bool) -> bool {
        let Source::Part { address, bytes, key } = write.source else { return true };
        self.memory.get(&key).is_some_and(|region| {
            let inside = address >= region.address
                && address - region.address + u64::from(bytes) <= region.bytes;
            region.process == pair.process
                && region.domain == pair.domain
                && inside
                && (region.local_write || !reads)
        })
    }

    /// D1: the words of a write in any order; longer ones in larger pieces.
    fn pieces(&mut self, number: u32, at: usize) -> Vec<(u64, u64)> {
        let write = &self.pairs[&number].writes[at];
        let (address, bytes) = (write.address, write.bytes());
        let most = if bytes <= 512 { 8 } else { (bytes / 64).next_multiple_of(64) };
        let (mut from, mut pieces) = (0, Vec::new());
        while from < bytes {
            // Whole words of the target stay whole (F1).
            let end = ((address + from + most) & !7) - address;
            let end = end.clamp(from + 1, bytes);
            pieces.push((from, end - from));
            from = end;
        }
        for at in (1..pieces.len()).rev() {
            pieces.swap(at, self.random.below(at + 1));
        }
        pieces
    }

    /// Copies a piece; `false` if its memory is gone by now.
    fn copy(
        &mut self,
        opcode: Opcode,
        source: &Source,
        (key, address): (u32, u64),
        (from, bytes): (u64, u64),
    ) -> bool {
        let (remote, bytes) = ((key, address + from), bytes as usize);
        let here = |key: &u32| self.memory.contains_key(key);
        match source {
            Source::Nothing => {}
            Source::Value(value) if here(&key) => {
                self.put(remote, &value[from as usize..from as usize + bytes]);
            }
            Source::Part { address, key: local_key, .. } if here(&key) && here(local_key) => {
                let local = (*local_key, address + from);
                let (of, to) = match opcode {
                    Opcode::Read => (remote, local),
                    Opcode::Write { .. } => (local, remote),
                };
                let read = self.get(of, bytes);
                self.put(to, &read);
            }
            _ => return false,
        }
        true
    }

    fn get(&mut self, (key, address): (u32, u64), bytes: usize) -> Vec<u8> {
        let region = &self.memory[&key];
        let Some((base, _)) = region.of_accelerator else { return load(address as usize, bytes) };
        let first = (base + (address - region.address)) as usize;
        self.settle();
        load(first, bytes)
    }

    fn put(&mut self, (key, address): (u32, u64), bytes: &[u8]) {
        let region = &self.memory[&key];
        match region.of_accelerator {
            None => store(address as usize, bytes),
            Some((base, _)) => {
                let first = (base + (address - region.address)) as usize;
                self.posted.push((first, bytes.to_vec()));
            }
        }
    }

    /// What was written to accelerators is there (D5).
    pub fn settle(&mut self) {
        for (first, bytes) in std::mem::take(&mut self.posted) {
            store(first, &bytes);
        }
    }
}

fn cell(address: usize) -> &'static Cell {
    // SAFETY: an aligned word of registered memory, as the callers say; `Cell` is a transparent atomic,
    // used for the length of one call.
    unsafe { &*std::ptr::with_exposed_provenance::<Cell>(address) }
}

/// Reads registered memory, by words where it can.
fn load(address: usize, bytes: usize) -> Vec<u8> {
    let mut read = Vec::with_capacity(bytes);
    while read.len() < bytes {
        let at = address + read.len();
        if at % 8 == 0 && bytes - read.len() >= 8 {
            read.extend(cell(at).observe().to_ne_bytes());
        } else {
            // SAFETY: a byte of registered memory.
            read.push(unsafe { std::ptr::with_exposed_provenance::<u8>(at).read_volatile() });
        }
    }
    read
}

/// Writes registered memory, by words where it can.
fn store(address: usize, bytes: &[u8]) {
    let mut written = 0;
    while written < bytes.len() {
        let at = address + written;
        if at % 8 == 0 && bytes.len() - written >= 8 {
            let word: [u8; 8] = bytes[written..written + 8].try_into().expect("8 bytes");
            cell(at).publish(u64::from_ne_bytes(word));
            written += 8;
        } else {
            let place = std::ptr::with_exposed_provenance_mut::<u8>(at);
            // SAFETY: a byte of registered memory that its owner lets the peer write.
            unsafe { place.write_volatile(bytes[written]) };
            written += 1;
        }
    }
}
