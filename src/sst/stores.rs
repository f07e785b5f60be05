// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which stores a lane writes its payloads with: plain ones, or streaming ones, past the cache.
//!
//! Between cores that share a cache plain stores win; between cores that do not, a plain store first
//! fetches the line that the reader still has, and streaming ones are up to three times as fast. A
//! virtual machine may change from one to the other under us, so it is measured: as long as the lane
//! is busy, one *phase* of sending in some is spent on trying the other kind. A lane that is not
//! keeps to plain stores: then a message's way to its reader is what counts.
//!
//! Cost: two calls of the clock in each phase.

/// Bytes of a phase, and messages of the largest size if that is more; of these, the first quarter
/// is not measured: what the last phase left in the caches is still about.
const PHASE_BYTES: u64 = 4 << 20;
const PHASE_MESSAGES: u64 = 16;
/// Phases of the better kind between two trials of the other one, of `TRIAL` phases: twice as many
/// after each trial that changes nothing, as the wrong kind may cost as much as three phases.
const SETTLED_MIN: u32 = 48;
const SETTLED_MAX: u32 = 48 << 5;
const TRIAL: u32 = 2;
/// So many phases in a row that take half as long again as they did, or two thirds: another machine.
const STRANGE: u32 = 2;
/// How much faster, in percent, streaming must be.
const BETTER: u64 = 4;
/// A lane that sends less than this, 0.5 GB/s, is not busy.
const BUSY_BYTES_PER_US: u64 = 500;

/// Nanoseconds since whenever.
pub type Clock = fn() -> u64;

pub struct Stores {
    /// Whether payloads are streamed just now.
    pub streaming: bool,
    /// `None`: as it is, for ever.
    clock: Option<Clock>,
    phase_bytes: u64,
    /// Bytes ever sent when the phase and its measured part began; when that was, once it has.
    begun: u64,
    measured_from: u64,
    since: Option<u64>,
    /// Phases until the kind changes, and how many there were to be.
    left: u32,
    settled: u32,
    /// What a phase took when this kind was settled on; how many in a row were far from that.
    usual_ns: u64,
    strange: u32,
    /// Whether this is a trial. Best times of a phase: of the other kind's last ones, and of these.
    trial: bool,
    best_ns: u64,
    rival_ns: u64,
}

impl Stores {
    /// Always the same kind.
    pub fn fixed(streaming: bool) -> Stores {
        Stores { streaming, ..Stores::new(None, 0) }
    }

    /// Whichever is faster for messages of up to that size.
    pub fn adaptive(clock: Clock, message_bytes_max: u32) -> Stores {
        Stores::new(Some(clock), u64::from(message_bytes_max))
    }

    fn new(clock: Option<Clock>, message_bytes_max: u64) -> Stores {
        Stores {
            streaming: false,
            clock,
            phase_bytes: PHASE_BYTES.max(PHASE_MESSAGES * message_bytes_max),
            begun: 0,
            measured_from: 0,
            since: None,
            left: TRIAL,
            settled: SETTLED_MIN,
            usual_ns: 0,
            strange: 0,
            trial: false,
            best_ns: u64::MAX,
            rival_ns: u64::MAX,
        }
    }

    /// The lane has looked for room, with so many bytes ever sent.
    #[inline]
    pub fn looked(&mut self, sent: u64) {
        let Some(clock) = self.clock else { return };
        let phase = sent - self.begun;
        if self.since.is_none() {
            if phase >= self.phase_bytes / 4 {
                (self.since, self.measured_from) = (Some(clock()), sent);
            }
        } else if phase >= self.phase_bytes {
            self.end_phase(clock(), sent);
        }
    }

    #[cold]
    fn end_phase(&mut self, now: u64, sent: u64) {
        let took = now - self.since.unwrap_or(now);
        // For the same number of bytes: phases end at a look, so they differ a little.
        let bytes = (sent - self.measured_from).max(1);
        let took = (u128::from(took) * u128::from(self.phase_bytes) / u128::from(bytes)) as u64;
        (self.begun, self.since) = (sent, None);
        if took > self.phase_bytes * 1000 / BUSY_BYTES_PER_US {
            // Perhaps only as it streams, on trial: then plain stores take what they did.
            let tried = self.trial && self.streaming;
            self.settle(false, if tried { self.best_ns } else { 0 });
            return;
        }
        if !self.trial && self.has_changed(took) {
            // Perhaps it is the application that changes, and will again: trials are rare all the same.
            let gone = self.settled - self.left;
            self.left = self.left.min(SETTLED_MIN.saturating_sub(gone).max(TRIAL));
            self.settled = SETTLED_MIN;
        }
        // The least of some phases: whoever is preempted seems slow.
        if self.trial {
            self.rival_ns = self.rival_ns.min(took);
        } else if self.left <= TRIAL {
            self.best_ns = self.best_ns.min(took);
        }
        self.left -= 1;
        if self.left > 0 {
            return;
        }
        if !self.trial {
            (self.trial, self.left) = (true, TRIAL);
            self.streaming = !self.streaming;
            return;
        }
        let (streaming_ns, plain_ns) = match self.streaming {
            true => (self.rival_ns, self.best_ns),
            false => (self.best_ns, self.rival_ns),
        };
        let streams = streaming_ns < plain_ns - plain_ns / 100 * BETTER;
        self.settle(streams, if streams { streaming_ns } else { plain_ns });
    }

    /// Whether phases are no longer what they were; a single one may have been preempted.
    fn has_changed(&mut self, took: u64) -> bool {
        let usual = self.usual_ns;
        let strange = usual > 0 && (took > usual + usual / 2 || took < usual - usual / 3);
        self.strange = if strange { self.strange + 1 } else { 0 };
        self.strange >= STRANGE
    }

    /// This kind from now on, until the next trial. Times are taken anew: the machine may change.
    fn settle(&mut self, streaming: bool, usual_ns: u64) {
        let stays = self.trial && streaming != self.streaming;
        let settled = if stays { 2 * self.settled } else { SETTLED_MIN };
        self.settled = settled.min(SETTLED_MAX);
        (self.streaming, self.trial, self.left) = (streaming, false, self.settled);
        (self.usual_ns, self.strange) = (usual_ns, 0);
        (self.best_ns, self.rival_ns) = (u64::MAX, u64::MAX);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local!(static NOW: Cell<u64> = const { Cell::new(0) });

    /// How many of so many phases a lane streams that takes so long for each.
    fn streamed(phases: u64, mut took: impl FnMut(u64, bool) -> u64) -> u64 {
        let mut stores = Stores::adaptive(|| NOW.get(), 64);
        let (mut sent, mut streamed) = (0, 0);
        for phase in 0..phases {
            streamed += u64::from(stores.streaming);
            let took = took(phase, stores.streaming);
            for _ in 0..4 {
                sent += PHASE_BYTES / 4;
                NOW.set(NOW.get() + took / 4);
                stores.looked(sent);
            }
        }
        streamed
    }

    #[test]
    fn the_better_kind_is_found_and_trials_grow_rarer() {
        let better = |streaming: bool| if streaming { 1_000_000 } else { 3_000_000 };
        assert!(streamed(2_000, |_, streaming| better(streaming)) > 1_980);
        assert!(streamed(2_000, |_, streaming| better(!streaming)) < 20);
    }

    #[test]
    fn another_machine_is_noticed() {
        let took = |phase, streaming| match (phase < 1_000, streaming) {
            (true, true) | (false, false) => 3_000_000,
            _ => 1_000_000,
        };
        assert!((900..1_000).contains(&streamed(2_000, took)));
    }

    /// What a lane sends may go up and down with what its application does: no reason to try what
    /// is three times as slow more often than once in a while.
    #[test]
    fn a_lane_that_changes_its_pace_is_not_on_trial_all_the_time() {
        let took = |phase: u64, streaming: bool| {
            let pace = if phase / 4 % 2 == 0 { 1_000_000 } else { 2_000_000 };
            if streaming { 3 * pace } else { pace }
        };
        let streamed = streamed(2_000, took);
        assert!(streamed <= 2_000 * u64::from(TRIAL) / u64::from(SETTLED_MIN), "{streamed}");
    }

    /// The other kind is so slow that a trial of it is given up; until this is another machine.
    #[test]
    fn another_machine_is_noticed_after_trials_that_were_given_up() {
        let took = |phase, streaming| match (phase < 3_000, streaming) {
            (true, true) => 10_000_000,
            (true, false) => 3_000_000,
            (false, true) => 2_000_000,
            (false, false) => 6_000_000,
        };
        let streamed = streamed(4_000, took);
        assert!((900..1_050).contains(&streamed), "{streamed}");
    }
}
