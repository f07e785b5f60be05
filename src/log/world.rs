// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random histories of a log on a disk that loses power and fails calls, and what must hold after.
//!
//! A history is some lives. In each the log is opened, written, trimmed, erased and read, until it is
//! closed, the power fails, a call fails or the process dies. The model knows what was appended, what
//! was reported durable and where trims were; after each opening the log must be a prefix of the one
//! that contains all of the other, byte for byte.

use super::format::{Entry, Kind, Label, Tip, Version};
use super::simulated::{SimDisk, Trouble};
use super::{Log, Options, Reader, Refusal, SEGMENT_BYTES_MIN, Start};
use crate::base::{Epoch, Number};
use rustix::io::Errno;

/// Chance that belongs to the history, not to the disk.
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5bd1_e995)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let word = (self.0 ^ (self.0 >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (word >> 33) % bound
    }

    /// One in so many times.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// A record as it was appended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    pub label: Label,
    pub payload: Vec<u8>,
}

impl Written {
    pub fn entry(&self) -> Entry<'_> {
        Entry { label: self.label, payload: &self.payload }
    }
}

/// A message with that number, which says so; `which` tells one from another at the same number.
pub fn message(number: u64, which: u64, len: usize) -> Written {
    let label = Label {
        kind: Kind::Message,
        flags: 0,
        rank: (number % 3) as u16,
        lane: 1,
        seat: (number % 3) as u16 + 7,
        version: Version { epoch: Epoch(1 + number / 40), number: Number(number) },
        stamp: 1000 + number * 10,
    };
    let word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ which << 48;
    let byte = |at: usize| (word.rotate_right(at as u32 * 8 % 64) as u8) ^ (at >> 3) as u8;
    Written { label, payload: (0..len).map(byte).collect() }
}

/// The seed's share of what was reached, so that empty histories do not pass for good ones.
#[derive(Clone, Copy, Default, Debug)]
pub struct Reached {
    pub lives: u64,
    pub power_cuts: u64,
    pub failed_calls: u64,
    pub torn: u64,
    pub records: u64,
    pub segments: u64,
    pub trims: u64,
    pub erased: u64,
}

pub struct World {
    pub disk: SimDisk,
    chance: Chance,
    /// By position: all that was given to `append` and not erased.
    written: Vec<Written>,
    /// Below: must be there; also below the end of what may be erased.
    durable: u64,
    /// The end, if the erasure that was stopped has taken place.
    may_end_at: Option<u64>,
    /// Where the log may begin.
    begins: (u64, u64),
    which: u64,
    /// What failed last.
    failure: String,
    pub reached: Reached,
}

pub fn options() -> Options {
    Options {
        owner: 77,
        identity: 4711,
        origin: Tip::default(),
        segment_bytes: SEGMENT_BYTES_MIN,
        zero_ahead_bytes: 1024,
    }
}

/// One history; `Err`: what did not hold.
pub fn history(seed: u64) -> Result<Reached, String> {
    let mut world = World::new(seed);
    let lives = 2 + world.chance.below(4);
    for _ in 0..lives {
        let call = world.disk.calls() + world.chance.below(60);
        let trouble = match world.chance.below(8) {
            0..=3 => Some(Trouble::PowerCut),
            4 => Some(Trouble::Error(Errno::IO)),
            5 => Some(Trouble::Error(Errno::NOSPC)),
            6 => Some(Trouble::Short),
            _ => None,
        };
        trouble.inspect(|trouble| world.disk.plan(call, *trouble));
        world.live()?;
    }
    world.disk.calm();
    world.open_and_check()?;
    Ok(world.reached)
}

/// The same short history for each call of it: there the power fails. How many there are.
pub fn each_call(seed: u64) -> Result<u64, String> {
    let mut call = 0;
    loop {
        let mut world = World::new(seed);
        world.chance = Chance::new(seed);
        world.disk.plan(call, Trouble::PowerCut);
        world.live()?;
        if world.reached.power_cuts == 0 {
            return Ok(call);
        }
        world.disk.calm();
        world.live()?;
        world.open_and_check()?;
        call += 1;
    }
}

impl World {
    pub fn new(seed: u64) -> World {
        World {
            disk: SimDisk::new(seed),
            chance: Chance::new(seed),
            written: Vec::new(),
            durable: 0,
            may_end_at: None,
            begins: (0, 0),
            which: seed << 8,
            failure: String::new(),
            reached: Reached::default(),
        }
    }

    /// From one opening to one end, and what the end leaves.
    fn live(&mut self) -> Result<(), String> {
        self.reached.lives += 1;
        let clean = match self.open_and_check()? {
            Some(log) => self.work(log)?,
            None => false,
        };
        let met = self.disk.met();
        let short = matches!(met, Some(Trouble::Short));
        if !clean && met.is_none() {
            return Err(format!("without trouble: {}", self.failure));
        }
        self.reached.failed_calls += u64::from(matches!(met, Some(Trouble::Error(_))) || short);
        let cut = met == Some(Trouble::PowerCut);
        self.reached.power_cuts += u64::from(cut);
        if cut || self.chance.one_in(2) {
            self.disk.cut_power();
        } else {
            self.disk.kill();
        }
        Ok(())
    }

    /// Opens and compares; `None`: trouble was in the way.
    fn open_and_check(&mut self) -> Result<Option<Log<SimDisk>>, String> {
        let (log, opened) = match Log::open(self.disk.clone(), options()) {
            Ok(opened) => opened,
            Err(Refusal::Failed(failure)) => {
                self.failure = failure.to_string();
                return Ok(None);
            }
            Err(refusal) => return Err(format!("refused: {refusal}")),
        };
        self.reached.torn += u64::from(opened.torn.is_some());
        let (begins_at, end) = (log.begins_at(), log.tip().position);
        if log.durable() != end {
            return Err("what is found is durable".into());
        }
        let erased = self.may_end_at == Some(end);
        if end < self.durable && !erased || end > self.written.len() as u64 {
            let (durable, appended) = (self.durable, self.written.len());
            return Err(format!("ends at {end}: {durable} were durable, {appended} appended"));
        }
        if begins_at < self.begins.0 || begins_at > self.begins.1 {
            return Err(format!("begins at {begins_at}, not in {:?}", self.begins));
        }
        self.compare(begins_at, end)?;
        self.written.truncate(end as usize);
        (self.durable, self.may_end_at) = (end, None);
        self.begins = (begins_at, begins_at);
        Ok(Some(log))
    }

    fn compare(&self, begins_at: u64, end: u64) -> Result<(), String> {
        let mut reader =
            Reader::open(self.disk.clone(), Start::First).map_err(|r| r.to_string())?;
        let mut next = begins_at;
        while let Some(record) = reader.next(end).map_err(|refusal| refusal.to_string())? {
            let written = &self.written[next as usize];
            let same = record.label == written.label && record.payload == written.payload;
            if record.position != next || !same {
                return Err(format!("record {next} is another one"));
            }
            next += 1;
        }
        if next == end { Ok(()) } else { Err(format!("reading ends at {next}, not {end}")) }
    }

    /// Writes and so on; whether it ended without a failure.
    fn work(&mut self, mut log: Log<SimDisk>) -> Result<bool, String> {
        for _ in 0..4 + self.chance.below(24) {
            let went = match self.chance.below(16) {
                0..=7 => self.append(&mut log),
                8..=11 => log.sync().is_ok(),
                12 => log.rest().is_ok(),
                13 => self.trim(&mut log),
                14 if self.chance.one_in(2) => self.erase(&mut log),
                15 => log.note().is_ok(),
                _ => true,
            };
            if log.durable() > self.written.len() as u64 {
                return Err("durable beyond what was appended".into());
            }
            self.durable = self.durable.max(log.durable());
            if !went && log.failure().is_none() {
                return Err("a failure is forgotten".into());
            }
            if !went {
                self.failure = log.failure().map(ToString::to_string).unwrap_or_default();
                // Whoever goes on must be refused, and nothing may become durable by it.
                let _ = log.sync();
                let refused = log.append(&[message(9999, 0, 8).entry()][..]).is_err();
                if log.durable() > self.durable || !refused {
                    return Err("it goes on after a failure".into());
                }
                return Ok(false);
            }
        }
        self.reached.records += log.tip().position - log.begins_at();
        if self.chance.one_in(2) {
            let closed = log.close();
            if closed.is_ok() {
                self.durable = self.written.len() as u64;
            }
            return Ok(closed.is_ok());
        }
        Ok(true)
    }

    fn append(&mut self, log: &mut Log<SimDisk>) -> bool {
        let from = self.written.len();
        for at in 0..1 + self.chance.below(6) {
            let number = from as u64 + at;
            self.which += u64::from(self.chance.one_in(3));
            let len = [0, 5, 8, 100, 600, 3000][self.chance.below(6) as usize];
            let mut written = message(number, self.which, len as usize);
            match self.chance.below(12) {
                0 => written.label.kind = Kind::Confirm,
                1 => written.label.kind = Kind::View,
                2 => written.payload = message(number, self.which, 9000).payload,
                _ => {}
            }
            self.written.push(written);
        }
        let entries: Vec<Entry<'_>> = self.written[from..].iter().map(Written::entry).collect();
        let before = log.durable();
        let went = log.append(&entries[..]).is_ok();
        self.reached.segments += u64::from(log.durable() > before);
        went
    }

    fn trim(&mut self, log: &mut Log<SimDisk>) -> bool {
        let below = self.chance.below(self.written.len() as u64 + 1);
        self.begins.1 = self.begins.1.max(below);
        let outcome = log.trim(below);
        if let Ok(begins_at) = outcome {
            self.reached.trims += u64::from(begins_at > self.begins.0);
            assert!(begins_at <= self.begins.1, "trimmed more than was to be");
            self.begins = (begins_at, begins_at);
        }
        outcome.is_ok()
    }

    fn erase(&mut self, log: &mut Log<SimDisk>) -> bool {
        let begins_at = log.begins_at();
        let from = begins_at + self.chance.below(self.written.len() as u64 - begins_at + 1);
        self.may_end_at = Some(from);
        let went = log.erase(from).is_ok();
        if went {
            self.reached.erased += u64::from(from < self.written.len() as u64);
            self.written.truncate(from as usize);
            (self.durable, self.may_end_at) = (self.durable.min(from), None);
        }
        went
    }
}
