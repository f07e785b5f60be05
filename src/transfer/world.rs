// SPDX-License-Identifier: MIT OR Apache-2.0
//! A whole transfer in one thread, driven by a seed: the polling thread, the transfer thread, the
//! stream and the joiner take steps in any order, bytes arrive in any pieces, messages go on being
//! delivered, views change, and the tape is as small as it may be.
//!
//! Checked: the joiner's state is the source's at the end, message by message; the join was asked
//! for within its bounds; whatever fails says so at both sides; and it comes to an end.

use super::carrier::{Carrier, Step};
use super::control::Control;
use super::feed::Feed;
use super::joiner::Joiner;
use super::*;
use crate::base::{Epoch, Nanos, Number};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

mod answers;
pub use answers::Answer;

/// One delivered message as both applications remember it.
pub type Entry = (u64, u16, u64, u16, Vec<u8>);

fn encode((epoch, subgroup, number, rank, bytes): &Entry, to: &mut Vec<u8>) {
    to.extend_from_slice(&epoch.to_le_bytes());
    to.extend_from_slice(&subgroup.to_le_bytes());
    to.extend_from_slice(&number.to_le_bytes());
    to.extend_from_slice(&rank.to_le_bytes());
    to.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    to.extend_from_slice(bytes);
}

/// A joiner's application: its state is the list of all messages ever.
#[derive(Default)]
pub struct Replica {
    pub entries: Vec<Entry>,
    pub begun: u64,
    pub is_loaded: bool,
    epoch: u64,
    loading: Vec<u8>,
    /// After so many loads it refuses.
    pub refuses_after: Option<u64>,
}

impl StateSink for Replica {
    fn begin(&mut self, version: &Version) -> Result<(), Error> {
        self.begun += 1;
        self.is_loaded = false;
        self.epoch = version.epoch.0;
        self.entries.clear();
        self.loading.clear();
        Ok(())
    }

    fn load(&mut self, chunk: &[u8]) -> Result<(), Error> {
        assert!(!chunk.is_empty() && !self.is_loaded);
        if let Some(left) = &mut self.refuses_after {
            *left = left.checked_sub(1).ok_or(Error::new(Status::NoMemory, "no room for it"))?;
        }
        self.loading.extend_from_slice(chunk);
        Ok(())
    }

    fn loaded(&mut self) -> Result<(), Error> {
        self.is_loaded = true;
        let mut rest = record::Fields(&self.loading);
        while !rest.0.is_empty() {
            let mut entry = || -> Result<Entry, Flaw> {
                let (epoch, subgroup) = (rest.u64()?, rest.u16()?);
                let (number, rank, len) = (rest.u64()?, rest.u16()?, rest.u32()?);
                Ok((epoch, subgroup, number, rank, rest.take(len as usize)?.to_vec()))
            };
            self.entries.push(entry().map_err(|_| Error::new(Status::Invalid, "no state"))?);
        }
        Ok(())
    }

    fn deliver(&mut self, subgroup: u16, batch: &[Message]) {
        assert!(self.is_loaded && !batch.is_empty());
        for message in batch {
            assert_eq!(message.flags, CATCHUP);
            let bytes = message.bytes().to_vec();
            self.entries.push((self.epoch, subgroup, message.number, message.rank, bytes));
        }
    }

    fn view(&mut self, version: &Version) {
        self.epoch = version.epoch.0;
    }
}

/// The source's application: likewise.
#[derive(Default)]
struct Origin {
    entries: Vec<Entry>,
    refuses: bool,
}

struct Copied(Vec<u8>, usize, usize);

impl Checkpoint for Copied {
    fn read(&mut self, place: &mut [u8]) -> Result<usize, Error> {
        let Copied(bytes, at, most) = self;
        let len = (bytes.len() - *at).min(place.len()).min(*most);
        place[..len].copy_from_slice(&bytes[*at..*at + len]);
        *at += len;
        Ok(len)
    }
}

impl StateSource for Origin {
    fn checkpoint_open(&mut self, _version: &Version) -> Result<Box<dyn Checkpoint>, Error> {
        if self.refuses {
            return Err(Error::new(Status::NoMemory, "no fork now"));
        }
        let mut bytes = Vec::new();
        self.entries.iter().for_each(|entry| encode(entry, &mut bytes));
        Ok(Box::new(Copied(bytes, 0, 300)))
    }
}

/// Numbers from a seed.
pub struct Seed(u64);

impl Seed {
    pub fn new(seed: u64) -> Seed {
        Seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % bound
    }
}

/// Subgroups: 0 and 2 are ordered, 3 is not; the joiner does not want 5.
const SUBGROUPS: [(u16, bool); 4] = [(0, true), (2, true), (3, false), (5, true)];
const MEMBERS: u64 = 3;

pub struct World {
    seed: Seed,
    origin: Origin,
    /// What is not transferred is not in the state either.
    epoch: u64,
    numbers: [u64; 6],
    feed: Option<Feed>,
    pub carrier: Carrier,
    /// What the source has written, whole; how much of it arrived.
    pub stream: Vec<u8>,
    arrived: usize,
    back: VecDeque<u8>,
    joiner: Joiner,
    pub replica: Replica,
    progress: Arc<Progress>,
    /// The joiner's.
    taken: Arc<Progress>,
    now: u64,
    options: Options,
    ended: Option<End>,
    pub outcome: Option<Result<(), Failure>>,
    /// Messages per batch, at most; how slow the joiner and the way back are, in sixteenths, and
    /// whether they stand still.
    rate: u64,
    slow: u64,
    naps: bool,
    deaf: bool,
    socket_bytes: usize,
}

impl World {
    pub fn new(seed: u64, catchup_bytes: usize, rate: u64, slow: u64) -> World {
        let mut seed = Seed::new(seed);
        let options = Options {
            incarnation: 77,
            subgroups: vec![0, 2, 3],
            catchup_bytes,
            catchup_bytes_max: catchup_bytes << seed.below(3),
            near_bytes: (catchup_bytes as u64 / 8).min(8192),
            near_messages: 1 + seed.below(12),
            message_bytes_max: 300,
            ..Options::default()
        };
        let socket_bytes = [500, 2000, 100_000][seed.below(3) as usize];
        let control = Arc::new(Control::new().unwrap());
        let (progress, taken) = (Arc::new(Progress::default()), Arc::new(Progress::default()));
        let (tapes, their_tapes) = sync_channel(1);
        let (their_mailbox, mailbox) = sync_channel(1);
        let feed = Feed::new(control.clone(), their_tapes, their_mailbox, &options);
        let ends = (tapes, mailbox);
        let carrier =
            Carrier::new((control, options.clone()), ends, progress.clone(), Box::new(|| ()));
        let mut world = World {
            seed,
            origin: Origin::default(),
            epoch: 4,
            numbers: [7; 6],
            feed: Some(feed),
            carrier,
            stream: Vec::new(),
            arrived: 0,
            back: VecDeque::new(),
            joiner: Joiner::new(&options, taken.clone()),
            replica: Replica::default(),
            progress,
            taken,
            now: 0,
            options,
            ended: None,
            outcome: None,
            rate,
            slow,
            naps: false,
            deaf: false,
            socket_bytes,
        };
        (0..world.seed.below(80)).for_each(|_| world.deliver());
        world
    }

    pub fn refuse_checkpoint(&mut self) {
        self.origin.refuses = true;
    }

    fn version(&self) -> Version {
        let position = |&(subgroup, ordered): &(u16, bool)| Position {
            subgroup,
            ordered,
            number: Number(self.numbers[usize::from(subgroup)]),
        };
        let positions = SUBGROUPS.iter().map(position).collect();
        Version { epoch: Epoch(self.epoch), positions, members: vec![1, 2, 3] }
    }

    /// A batch is delivered at the source.
    fn deliver(&mut self) {
        let (subgroup, ordered) = SUBGROUPS[self.seed.below(4) as usize];
        let mut payloads = Vec::new();
        for _ in 0..1 + self.seed.below(self.rate) {
            let len = [0, 1, 8, 13, 40, 300][self.seed.below(6) as usize];
            let byte = self.seed.below(256) as u8;
            payloads.push((0..len).map(|i| byte.wrapping_add(i as u8)).collect::<Vec<u8>>());
        }
        let mut batch = Vec::new();
        for payload in &payloads {
            let rank = self.seed.below(MEMBERS) as u16;
            let number = &mut self.numbers[usize::from(subgroup)];
            let own = if ordered { *number } else { self.seed.below(5) };
            *number += 1 + self.seed.below(2); // nulls
            batch.push(Message::new(payload, rank, 1, own, own + 9));
        }
        if subgroup != 5 {
            for message in &batch {
                let bytes = message.bytes().to_vec();
                let entry = (self.epoch, subgroup, message.number, message.rank, bytes);
                self.origin.entries.push(entry);
            }
        }
        if let Some(feed) = &mut self.feed {
            feed.append(subgroup, &batch);
        }
    }

    /// The polling thread looks after the transfer.
    fn look(&mut self) -> Result<(), String> {
        let version = self.version();
        let Some(feed) = &mut self.feed else { return Ok(()) };
        match feed.poll() {
            Ask::Nothing => (),
            Ask::Open => feed.open(&mut self.origin, &version),
            Ask::Join => {
                let applied = self.replica.entries.len();
                let lacks = (self.origin.entries.len() - applied) as u64;
                // What was delivered since it was asked is no fault of the transfer's.
                if !self.replica.is_loaded || lacks > self.options.near_messages + 8 * self.rate {
                    return Err(format!("the join was asked for while {lacks} are lacking"));
                }
            }
            Ask::Over => self.feed = None,
        }
        Ok(())
    }

    /// A view is installed; with the joiner, if it has been told to ask for its join.
    fn install(&mut self) {
        self.epoch += 1;
        if self.taken.read().phase == Phase::Joining && self.seed.below(4) > 0 {
            let mut finals = self.version().positions;
            let end = |finals| End { epoch: Epoch(self.epoch), finals, extra: b"roster".to_vec() };
            finals.iter_mut().for_each(|position| position.number.0 += 1);
            let Some(feed) = self.feed.take() else { return };
            if feed.end(&end(finals.clone())) {
                self.ended = Some(end(finals));
            }
            return;
        }
        self.numbers = [0; 6];
        let version = self.version();
        if let Some(feed) = &mut self.feed {
            feed.view(&version);
        }
    }

    fn carry(&mut self) -> Result<(), String> {
        self.now += 1 + self.seed.below(30_000_000);
        let was = self.progress.read().phase;
        if self.carrier.step(Nanos(self.now)) == Step::Write {
            let pending = self.carrier.pending();
            let len = (1 + self.seed.below(pending.len() as u64)) as usize;
            self.stream.extend_from_slice(&pending[..len]);
            self.carrier.sent(len);
        }
        let now = self.progress.read();
        let Options { near_bytes, near_messages, .. } = self.options;
        let near = now.behind_bytes <= near_bytes && now.behind_messages <= near_messages;
        if was == Phase::Catchup && now.phase == Phase::Joining && !near {
            return Err(format!("the join was asked for too far behind: {now:?}"));
        }
        let space = self.carrier.space();
        let len = if self.deaf { 0 } else { self.back.len().min(space.len()) };
        self.back.drain(..len).zip(space).for_each(|(byte, place)| *place = byte);
        self.carrier.heard(len);
        Ok(())
    }

    fn join_in(&mut self) {
        let waiting = self.stream.len() - self.arrived;
        if waiting > 0 && self.outcome.is_none() {
            let space = self.joiner.space();
            let most = waiting.min(space.len()) as u64;
            let len = 1 + self.seed.below(most) as usize;
            space[..len].copy_from_slice(&self.stream[self.arrived..self.arrived + len]);
            self.arrived += len;
            match self.joiner.heard(len, &mut self.replica) {
                Ok(None) => (),
                Ok(Some(end)) => {
                    assert_eq!(Some(&end), self.ended.as_ref());
                    self.outcome = Some(Ok(()));
                }
                Err(failure) => {
                    self.joiner.fail(&failure);
                    self.outcome = Some(Err(failure));
                }
            }
        }
        let pending = self.joiner.pending();
        let len = self.seed.below(pending.len() as u64 + 1) as usize;
        self.back.extend(&pending[..len]);
        self.joiner.sent(len);
    }

    /// The joiner owes an answer when the tape breaks, or since before there was a checkpoint; what
    /// it says then is nothing about the checkpoint that it is sent now.
    pub fn old_answer(&mut self, broken: bool) -> Result<(), String> {
        let step = |world: &mut World| {
            world.now += 1000;
            let step = world.carrier.step(Nanos(world.now));
            world.carrier.sent(world.carrier.pending().len());
            step
        };
        if !broken {
            while step(self) == Step::Write {}
            self.now += 200_000_000;
            while step(self) == Step::Write {}
        }
        for _ in 0..1 + u64::from(broken) {
            self.look()?;
            while step(self) == Step::Write {}
            assert!(self.carrier.awaits_answer() && self.progress.read().phase == Phase::Catchup);
            while self.progress.read().attempts == 1 && broken {
                (0..100).for_each(|_| self.deliver());
                step(self);
            }
        }
        let mut answers = super::frame::Encoder::new(100);
        answers.put(super::frame::Kind::Synced, &[0; 24]);
        let bytes = answers.pending();
        self.carrier.space()[..bytes.len()].copy_from_slice(bytes);
        self.carrier.heard(bytes.len());
        let asked = self.feed.as_mut().map(|feed| feed.poll());
        match asked {
            Some(Ask::Nothing) => Ok(()),
            _ => Err(format!("{asked:?} after the answer to another sync")),
        }
    }

    /// Until it has ended at both sides. `Err`: what is not as it must be.
    pub fn run(&mut self) -> Result<(), String> {
        for step in 0..2_000_000u64 {
            // The socket between them holds so much.
            let full = self.stream.len() - self.arrived > self.socket_bytes;
            if self.seed.below(400) == 0 {
                self.naps = self.seed.below(16) < self.slow;
            }
            if self.seed.below(1000) == 0 {
                self.deaf = self.seed.below(16) < self.slow;
            }
            match self.seed.below(16) {
                0 if self.ended.is_none() => self.deliver(),
                1 | 2 => self.look()?,
                3 if step > 500 && self.seed.below(20) == 0 && self.ended.is_none() => {
                    self.install()
                }
                4..8 if !full => self.carry()?,
                8.. if !self.naps => self.join_in(),
                _ => (),
            }
            let ended = self.carrier.outcome().is_some() && self.carrier.pending().is_empty();
            if ended && self.outcome.is_some() {
                return self.verdict();
            }
        }
        Err("it does not come to an end".into())
    }

    fn verdict(&self) -> Result<(), String> {
        let (theirs, ours) = (self.carrier.outcome().unwrap(), self.outcome.as_ref().unwrap());
        match (theirs, ours) {
            (Ok(()), Ok(())) => {
                if self.progress.read().phase != Phase::Done {
                    return Err("it does not say that it is done".into());
                }
                if self.replica.entries != self.origin.entries {
                    let (one, two) = (&self.replica.entries, &self.origin.entries);
                    let same = one.iter().zip(two).take_while(|(one, two)| one == two).count();
                    let (one, two) = (one.len(), two.len());
                    return Err(format!("{one} entries, not {two}; they differ at {same}"));
                }
                Ok(())
            }
            // Neither of them lies, so nothing else may be the reason.
            (
                Err(Failure::Overflow { .. } | Failure::LateOverflow { .. }),
                Err(Failure::Refused { .. }),
            ) => Ok(()),
            (Err(Failure::Application(_)), Err(Failure::Refused { .. })) => Ok(()),
            (Err(Failure::Refused { .. }), Err(Failure::Application(_))) => Ok(()),
            (theirs, ours) => Err(format!("the source says {theirs:?}, the joiner {ours:?}")),
        }
    }
}
