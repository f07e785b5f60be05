// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a device keeps the order that everything here rests on: what a counter counts has landed when
//! the counter has (F2).
//!
//! The InfiniBand text promises that the effects of two writes of one queue are seen in their order; the
//! way from the device through the bus into memory can spoil it (relaxed ordering, which is never asked
//! for here; adaptive routing with placement out of order, which is opt-in). So it is tried before a group
//! uses a device: a pair of queues on its own port, data and then a counter, many times.
//!
//! To pass is necessary, not sufficient: nothing of the network is in it.
//!
//! Cost: a few milliseconds on hardware; at most `TRY_FOR`.

use super::completions::Completions;
use super::device::Device;
use super::failure::Failure;
use super::memory::Memory;
use super::queue::{Depths, Manner, Queue, Taken};
use crate::error::Error;
use crate::mem::Region;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of data before each counter: one packet, several, and more than a device has on its way at once.
const SIZES: [usize; 4] = [256, 1024, 4096, 64 << 10];
const ROUNDS_EACH: u64 = 32;
/// No longer than that, whatever was tried until then.
const TRY_FOR: Duration = Duration::from_secs(1);
/// A test of a device that does not answer ends sooner than a peer's loss would.
const TIMEOUT: u8 = 12;

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// So many rounds without fault. What the device says of the bytes of one write, for people: nothing
    /// here needs those in order.
    Holds { rounds: u64, bytes_in_order: Option<bool> },
    /// A counter overtook its data: such a device cannot be used.
    Breaks(String),
    /// Its port does not talk to itself, or too slowly.
    Untried(String),
}

/// Tries it.
///
/// Errors: what the device lacks for two queues.
pub fn check(device: &Arc<Device>) -> Result<Verdict, Error> {
    let mut pair = Pair::new(device)?;
    let until = Instant::now() + TRY_FOR;
    let mut rounds = 0;
    for bytes in SIZES {
        for _ in 0..ROUNDS_EACH {
            rounds += 1;
            match pair.round(rounds, bytes, until) {
                Ok(None) => {}
                Ok(Some(broken)) => {
                    let what = format!(
                        "{}: a counter landed before its data ({broken}): the device or its path \
                         reorders writes, and Squall cannot use it; look for adaptive routing or \
                         relaxed ordering in its settings",
                        device.name()
                    );
                    return Ok(Verdict::Breaks(what));
                }
                // What was tried until then went well.
                Err(Stop::Slow) if rounds > 1 => return Ok(pair.holds(rounds - 1)),
                Err(stop) => return Ok(Verdict::Untried(stop.to_string())),
            }
        }
    }
    Ok(pair.holds(rounds))
}

/// Why a round did not end.
enum Stop {
    Slow,
    Failed(Failure),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Slow => f.write_str("its port is too slow to itself"),
            Stop::Failed(failure) => failure.fmt(f),
        }
    }
}

/// Two queues of one port, connected with each other.
struct Pair {
    completions: Completions,
    sender: Queue,
    _receiver: Queue,
    source: Memory,
    target: Memory,
    from: Arc<Region>,
    to: Arc<Region>,
}

/// Where the counter is: on a line of its own before the data.
const COUNTER: usize = 0;
const DATA: usize = 128;

impl Pair {
    fn new(device: &Arc<Device>) -> Result<Pair, Error> {
        let depths = Depths { send: 16, receive: 0, inline_bytes: 64 };
        let completions = Completions::new(device, 2, &depths)?;
        let mut sender = Queue::new(&completions, 0, &depths)?;
        let mut receiver = Queue::new(&completions, 1, &depths)?;
        let manner = Manner { timeout: TIMEOUT, ..Manner::default() };
        receiver.connect(&sender.endpoint(), &device.place(), &manner)?;
        sender.connect(&receiver.endpoint(), &device.place(), &manner)?;
        let bytes = DATA + SIZES[SIZES.len() - 1];
        let (from, to) = (Arc::new(Region::zeros(bytes)?), Arc::new(Region::zeros(bytes)?));
        let source = Memory::source(device, from.clone())?;
        let target = Memory::target(device, to.clone())?;
        Ok(Pair { completions, sender, _receiver: receiver, source, target, from, to })
    }

    /// One round: `Some` says which word of the data was old when the counter was new.
    fn round(&mut self, round: u64, bytes: usize, until: Instant) -> Result<Option<String>, Stop> {
        if self.sender.room() < 3 {
            return Err(Stop::Slow);
        }
        let words = (DATA..DATA + bytes).step_by(8);
        for at in words.clone() {
            self.from.cell(at).prepare(round << 32 | at as u64);
        }
        let remote = self.target.remote();
        let (begin, end) = (DATA as u64, (DATA + bytes) as u64);
        self.sender.span(&self.source, begin, end, &remote, begin);
        self.sender.words(&remote, COUNTER as u64, &[round]);
        let mark = self.sender.mark() + 2;
        self.sender.settle().map_err(Stop::Failed)?;
        // N: the counter, then what it counts.
        while self.to.cell(COUNTER).observe() != round {
            self.poll()?;
            if Instant::now() > until {
                return Err(Stop::Slow);
            }
        }
        let old = words.map(|at| (at, self.to.cell(at).observe()));
        let mut old = old.filter(|(at, word)| *word != round << 32 | *at as u64);
        if let Some((at, _)) = old.next() {
            let bytes_late = (old.count() + 1) * 8;
            return Ok(Some(format!(
                "round {round}, {bytes} bytes: {bytes_late} late, the first at {}",
                at - DATA
            )));
        }
        // A round that goes on without that takes slots that are not free.
        while !self.sender.is_over(mark) {
            self.poll()?;
            if Instant::now() > until {
                return Err(Stop::Slow);
            }
        }
        Ok(None)
    }

    fn poll(&mut self) -> Result<(), Stop> {
        let sender = &mut self.sender;
        let mut failed = None;
        let polled = self.completions.poll(|completion| {
            if completion.index() == 0
                && let Taken::Failed(failure) = sender.take(completion)
            {
                failed = Some(failure);
            }
        });
        match failed.or(polled.err()) {
            Some(failure) => Err(Stop::Failed(failure)),
            None => Ok(()),
        }
    }

    fn holds(&self, rounds: u64) -> Verdict {
        Verdict::Holds { rounds, bytes_in_order: self.sender.is_in_order() }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::gid::Choice;
    use super::super::sys::soft::World;
    use super::*;

    /// Its time was over between a counter and the completion behind it, and the next rounds took slots
    /// that were not free: who opened a group on a machine that was stopped for a second fell.
    #[test]
    fn who_has_no_time_left_takes_no_slots() {
        let world = World::new(1);
        world.start();
        let process = world.process();
        let device = Device::open(&process.table(), &Choice::default()).unwrap();
        let mut pair = Pair::new(&device).unwrap();
        let until = Instant::now();
        for round in 1..200 {
            let _ = pair.round(round, 64, until);
            std::thread::yield_now();
        }
    }
}
