// SPDX-License-Identifier: MIT OR Apache-2.0
//! What must hold after every step, judged from what really happened and not from what the engine
//! believes. Numbers are those of `protocol.md` §f.

use super::dice::Pattern;
use super::fabric::Wires;
use super::plan::Plan;
use super::rows::{Row, Tallies};
use crate::base::{Count, Number, Rank};
use crate::group::view::Subgroup;
use crate::mem::Message;
use crate::sst::frontier;
use crate::sst::layout::{Layout, Mode, SubgroupColumns};
use crate::sst::ring::slot_bytes;
use std::collections::VecDeque;

/// A property that does not hold, and how.
pub type Broken = (&'static str, String);

pub const INTEGRITY: &str = "1 integrity";
pub const TOTAL_ORDER: &str = "8 total order";
pub const FIFO: &str = "9 order of each sender";
pub const STABILITY: &str = "10 stability: delivered before every member has it";
pub const REUSE: &str = "10 a slot was reused before every member released it";
pub const MONOTONE: &str = "14 a cell went back";
pub const NULLS: &str = "M4 nulls are exactly those owed";
pub const IDLE: &str = "17 an idle group exchanges nothing";
pub const LIVENESS: &str = "17 everything sent is delivered everywhere";
pub const ROOM: &str = "S room comes back, and who waits for it is told";
pub const TRUST: &str = "a correct member was cut off";
pub const ENDING: &str = "after a departure all stop, with the right status";
pub const ALIKE: &str = "6 after a farewell all deliver the same";
pub const SLEEP: &str = "17 an idle member sleeps";
pub const PANIC: &str = "no panic";
pub const VICTIM: &str = "a victim of garbage must not panic";

/// A message of the agreed sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    number: u64,
    s: usize,
    ordinal: u64,
}

/// What one lane has sent and not everyone has released.
#[derive(Default)]
struct Sent {
    /// Messages sent.
    count: u64,
    /// Of those that somebody has not released, oldest first: their lengths.
    open: VecDeque<u32>,
    open_bytes: u64,
    /// Index of the newest one delivered anywhere, and of the one before it.
    index: Option<u64>,
}

impl Sent {
    /// Whether that is the lane's message of that ordinal.
    fn is(&self, ordinal: u64, pattern: Pattern, message: &Message) -> Result<(), String> {
        if ordinal >= self.count {
            return Err("was never sent".into());
        }
        // A message that somebody has not released is still on the list of open ones.
        let len = self.open[(ordinal - (self.count - self.open.len() as u64)) as usize];
        if len != message.len {
            return Err(format!("{} bytes, {len} were sent", message.len));
        }
        match pattern.first_difference(message.bytes()) {
            Some(byte) => Err(format!("byte {byte} of {len} is not what was sent")),
            None => Ok(()),
        }
    }
}

/// What one member has been given.
struct Reader {
    rank: Rank,
    /// Position in the sequence.
    at: u64,
    number: Option<u64>,
    /// By sender: messages delivered; those whose callback has returned.
    delivered: Vec<u64>,
    released: Vec<u64>,
}

struct Stream {
    members: Vec<Rank>,
    spec: Subgroup,
    sequence: VecDeque<Entry>,
    /// Position of the first entry that is kept.
    base: u64,
    sent: Vec<Sent>,
    readers: Vec<Reader>,
}

pub struct Oracle {
    seed: u64,
    streams: Vec<Stream>,
    /// By member: the words of its block when it was last looked at.
    shadows: Vec<Vec<u64>>,
    first_cell: usize,
    /// This one writes garbage. What the others send each other is intact and in each one's order all
    /// the same; the total order is not.
    evil: Option<Rank>,
}

impl Oracle {
    pub fn new(plan: &Plan, layout: &Layout) -> Oracle {
        let stream = |spec: &Subgroup| {
            let senders = spec.senders.len();
            let reader = |&rank: &Rank| Reader {
                rank,
                at: 0,
                number: None,
                delivered: vec![0; senders],
                released: vec![0; senders],
            };
            Stream {
                members: spec.members.clone(),
                spec: spec.clone(),
                sequence: VecDeque::new(),
                base: 0,
                sent: (0..senders).map(|_| Sent::default()).collect(),
                readers: spec.members.iter().map(reader).collect(),
            }
        };
        let first_cell = layout.subgroups[0].slots.byte(0);
        let words = (layout.control_bytes - first_cell) / 8;
        Oracle {
            seed: plan.seed,
            streams: plan.subgroups.iter().map(stream).collect(),
            shadows: vec![vec![0; words]; plan.members],
            first_cell,
            evil: plan.evil,
        }
    }

    /// A lane has published a message of `len` bytes.
    pub fn published(
        &mut self,
        subgroup: usize,
        s: usize,
        ordinal: u64,
        len: u32,
    ) -> Result<(), Broken> {
        let stream = &mut self.streams[subgroup];
        let honest = stream.readers.iter().filter(|reader| self.evil != Some(reader.rank));
        let least = honest.map(|reader| reader.released[s]).min().unwrap_or(0);
        let sent = &mut stream.sent[s];
        if ordinal != sent.count {
            return Err((FIFO, format!("ordinal {ordinal} instead of {}", sent.count)));
        }
        sent.count += 1;
        sent.open.push_back(len);
        sent.open_bytes += slot_bytes(len);
        while sent.count - (sent.open.len() as u64) < least {
            let len = sent.open.pop_front().expect("as many as are open");
            sent.open_bytes -= slot_bytes(len);
        }
        let (open, shape) = (sent.open.len() as u64, &stream.spec.shape);
        let over = open > u64::from(shape.window) || sent.open_bytes > shape.ring_bytes;
        if over && self.evil != Some(stream.spec.senders[s].rank) {
            let bytes = sent.open_bytes;
            let detail = format!(
                "subgroup {subgroup} sender {s} has {open} messages in {bytes} bytes that somebody \
                 may still read"
            );
            return Err((REUSE, detail));
        }
        Ok(())
    }

    /// `message` is handed to the callback of `rank`.
    pub fn delivered(
        &mut self,
        rank: Rank,
        subgroup: usize,
        message: &Message,
        wires: &Wires,
        layout: &Layout,
        tallies: &Tallies,
    ) -> Result<(), Broken> {
        if self.evil.is_some_and(|evil| evil == rank || evil.0 == message.rank) {
            // Whatever it is, it must be readable.
            std::hint::black_box(message.bytes().iter().fold(0u8, |sum, byte| sum ^ byte));
            return Ok(());
        }
        let stream = &mut self.streams[subgroup];
        let senders = stream.spec.senders.len();
        let who = |sender: &crate::group::view::Sender| {
            (sender.rank.0, sender.lane) == (message.rank, message.lane.into())
        };
        let Some(s) = stream.spec.senders.iter().position(who) else {
            let detail = format!("rank {} lane {} is no sender", message.rank, message.lane);
            return Err((INTEGRITY, detail));
        };
        let name = || {
            format!("member {} subgroup {subgroup} number {} sender {s}", rank.0, message.number)
        };
        let at = stream.members.iter().position(|member| *member == rank).expect("a member");
        let ordinal = stream.readers[at].delivered[s];
        let pattern = Pattern::new(self.seed, subgroup, s, ordinal);
        let sound = stream.sent[s].is(ordinal, pattern, message);
        sound.map_err(|detail| (INTEGRITY, format!("{}: {detail}", name())))?;
        stream.readers[at].delivered[s] += 1;
        if self.evil.is_some() {
            return Ok(());
        }
        tallies.one(Row::Deliveries);
        if stream.spec.shape.window == 1 {
            tallies.one(Row::WindowOne);
        }
        if stream.spec.mode() == Mode::Received {
            tallies.one(Row::Received);
            if message.number != ordinal {
                return Err((FIFO, format!("{}: is ordinal {ordinal}", name())));
            }
            return Ok(());
        }
        if message.number % senders as u64 != s as u64 {
            return Err((TOTAL_ORDER, format!("{}: that is not its number", name())));
        }
        stream
            .in_order(at, Entry { number: message.number, s, ordinal }, tallies)
            .map_err(|(property, detail)| (property, format!("{}: {detail}", name())))?;
        is_everywhere(&stream.spec, &layout.subgroups[subgroup], message, ordinal, wires)
            .map_err(|detail| (STABILITY, format!("{}: {detail}", name())))
    }

    /// The callback of a batch is about to return: its messages must not have changed under it.
    pub fn still(&self, rank: Rank, subgroup: usize, batch: &[Message]) -> Result<(), Broken> {
        if self.evil == Some(rank) {
            return Ok(());
        }
        let stream = &self.streams[subgroup];
        let reader = stream.readers.iter().find(|reader| reader.rank == rank).expect("a member");
        let mut next = [0u64; crate::limits::SENDERS_MAX];
        next[..reader.released.len()].copy_from_slice(&reader.released);
        for message in batch.iter().filter(|message| self.evil != Some(Rank(message.rank))) {
            let s = stream.sender(message);
            let pattern = Pattern::new(self.seed, subgroup, s, next[s]);
            if let Some(byte) = pattern.first_difference(message.bytes()) {
                let detail = format!(
                    "member {} subgroup {subgroup} number {} sender {s}: byte {byte} changed \
                     during its callback",
                    rank.0, message.number
                );
                return Err((REUSE, detail));
            }
            next[s] += 1;
        }
        Ok(())
    }

    /// The callback has returned.
    pub fn returned(&mut self, rank: Rank, subgroup: usize, batch: &[Message]) {
        let evil = self.evil;
        if evil == Some(rank) {
            return;
        }
        let stream = &mut self.streams[subgroup];
        let at = stream.members.iter().position(|member| *member == rank).expect("a member");
        for message in batch.iter().filter(|message| evil != Some(Rank(message.rank))) {
            let s = stream.sender(message);
            stream.readers[at].released[s] += 1;
        }
    }

    /// The own words of `rank`'s block: none may have gone back. Whether any has moved.
    pub fn monotone(&mut self, rank: Rank, wires: &Wires) -> Result<bool, Broken> {
        let block = &wires.blocks[rank.index()];
        let first = self.first_cell;
        let mut moved = false;
        for (i, old) in self.shadows[rank.index()].iter_mut().enumerate() {
            let new = block.cell(first + i * 8).own();
            if new < *old {
                let detail = format!("member {} byte {}: {old} to {new}", rank.0, first + i * 8);
                return Err((MONOTONE, detail));
            }
            moved |= new != *old;
            *old = new;
        }
        Ok(moved)
    }

    /// Messages that somebody has not been given yet.
    pub fn missing(&self) -> u64 {
        let of = |stream: &Stream| {
            let sent: u64 = stream.sent.iter().map(|sent| sent.count).sum();
            let given = |reader: &Reader| sent - reader.delivered.iter().sum::<u64>();
            stream.readers.iter().map(given).max().unwrap_or(0)
        };
        self.streams.iter().map(of).max().unwrap_or(0)
    }

    /// All is silent: everything sent is delivered everywhere, and the nulls are exactly those that
    /// the last message asked for.
    pub fn quiet(&self, wires: &Wires, layout: &Layout) -> Result<(), Broken> {
        for (subgroup, stream) in self.streams.iter().enumerate() {
            for reader in &stream.readers {
                for (s, sent) in stream.sent.iter().enumerate() {
                    if reader.delivered[s] != sent.count {
                        let detail = format!(
                            "member {} subgroup {subgroup}: {} of the {} messages of sender {s}",
                            reader.rank.0, reader.delivered[s], sent.count
                        );
                        return Err((LIVENESS, detail));
                    }
                }
            }
            if stream.spec.mode() == Mode::Stable {
                stream.exact_nulls(subgroup, wires, layout)?;
            }
        }
        Ok(())
    }
}

impl Oracle {
    /// After a farewell: in the subgroups of the departed, everyone has delivered what it had.
    pub fn left_alike(&self, gone: Rank, wires: &Wires, layout: &Layout) -> Result<(), Broken> {
        for (subgroup, stream) in self.streams.iter().enumerate() {
            if !stream.spec.has(gone) || stream.spec.mode() != Mode::Stable {
                continue;
            }
            let columns = &layout.subgroups[subgroup];
            let cell = |rank: Rank, byte| wires.blocks[rank.index()].cell(byte).own();
            let last = cell(gone, columns.prefix.byte(0));
            for &rank in stream.members.iter().filter(|rank| **rank != gone) {
                let delivered = cell(rank, columns.delivered.byte(0));
                if delivered != last {
                    let detail = format!(
                        "member {} subgroup {subgroup} has delivered up to number {delivered}, \
                         member {} had {last} when it left",
                        rank.0, gone.0
                    );
                    return Err((ALIKE, detail));
                }
            }
        }
        Ok(())
    }
}

impl Stream {
    fn sender(&self, message: &Message) -> usize {
        let who = |sender: &crate::group::view::Sender| {
            (sender.rank.0, sender.lane) == (message.rank, message.lane.into())
        };
        self.spec.senders.iter().position(who).expect("it was checked at delivery")
    }

    /// The sequence of every member is a prefix of one sequence.
    fn in_order(&mut self, at: usize, entry: Entry, tallies: &Tallies) -> Result<(), Broken> {
        let reader = &mut self.readers[at];
        if reader.number.is_some_and(|number| number >= entry.number) {
            return Err((TOTAL_ORDER, format!("after number {:?}", reader.number)));
        }
        reader.number = Some(entry.number);
        let position = reader.at;
        reader.at += 1;
        if position < self.base + self.sequence.len() as u64 {
            let other = self.sequence[(position - self.base) as usize];
            if other != entry {
                let detail = format!("others had {other:?} at position {position}: {entry:?}");
                return Err((TOTAL_ORDER, detail));
            }
        } else {
            self.sequence.push_back(entry);
            let index = entry.number / self.spec.senders.len() as u64;
            let before = self.sent[entry.s].index.replace(index);
            let nulls = index - before.map_or(0, |before| before + 1);
            tallies.add(Row::Nulls, nulls);
            if nulls > u64::from(self.spec.shape.window) {
                tallies.one(Row::LongNullRun);
            }
        }
        if self.sequence.len() > 4096 {
            let least = self.readers.iter().map(|reader| reader.at).min().unwrap_or(0);
            self.sequence.drain(..(least - self.base) as usize);
            self.base = least;
        }
        Ok(())
    }

    fn exact_nulls(&self, subgroup: usize, wires: &Wires, layout: &Layout) -> Result<(), Broken> {
        let (columns, senders) = (&layout.subgroups[subgroup], self.spec.senders.len());
        let last = self.readers.iter().filter_map(|reader| reader.number).max();
        let length = Number(last.map_or(0, |number| number + 1));
        for (s, sender) in self.spec.senders.iter().enumerate() {
            let block = &wires.blocks[sender.rank.index()];
            let head = Count(block.cell(columns.head.byte(sender.lane.into())).own());
            let owed = frontier::share(length, s, senders);
            if head != owed {
                let detail = format!(
                    "subgroup {subgroup} sender {s} has given {head:?}, the last message is number \
                     {last:?} of {senders} senders, so it owes {owed:?}"
                );
                return Err((NULLS, detail));
            }
        }
        for &member in &self.members {
            let block = &wires.blocks[member.index()];
            let at = [columns.prefix, columns.delivered, columns.released];
            let cells = at.map(|column| block.cell(column.byte(0)).own());
            if cells != [length.0; 3] {
                let detail = format!(
                    "subgroup {subgroup} member {}: prefix, delivered, released are {cells:?} \
                     and not {length:?}",
                    member.0
                );
                return Err((LIVENESS, detail));
            }
        }
        Ok(())
    }
}

/// Every member of the subgroup has the message, its sender's slot `slot`: in its mirror, and so
/// says its own prefix.
pub fn is_everywhere(
    spec: &Subgroup,
    columns: &SubgroupColumns,
    message: &Message,
    slot: u64,
    wires: &Wires,
) -> Result<(), String> {
    let senders = spec.senders.len() as u64;
    let sender = spec.senders[(message.number % senders) as usize];
    let lane = usize::from(sender.lane);
    for &member in &spec.members {
        let prefix = wires.blocks[member.index()].cell(columns.prefix.byte(0)).own();
        if prefix <= message.number {
            return Err(format!("the prefix of member {} is {prefix}", member.0));
        }
        let mirror = wires.mirror(sender.rank.index(), member.index());
        let head = mirror.cell(columns.head.byte(lane)).own();
        let slots = mirror.cell(columns.slots.byte(lane)).own();
        if head <= message.number / senders || slots <= slot {
            return Err(format!("member {} has {head} indices and {slots} slots of it", member.0));
        }
    }
    Ok(())
}
