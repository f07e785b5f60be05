// SPDX-License-Identifier: MIT OR Apache-2.0
//! How far a transfer is, for whoever wants to look: a few words with one writer, the transfer
//! thread at the source, the opening thread at the joiner.
//!
//! Each word is whole; together they may be of two moments.

use crate::mem::Cell;
use std::fmt;

/// What a transfer is at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(u64)]
pub enum Phase {
    /// Connected; the polling thread has not opened a checkpoint yet.
    #[default]
    Opening = 0,
    /// The checkpoint is sent and loaded.
    Loading = 1,
    /// Messages after the checkpoint are sent and applied, beside the group's work.
    Catchup = 2,
    /// The joiner has nearly caught up, and has been told to ask for its join.
    Joining = 3,
    /// The last part, up to the end of the old view, is on its way.
    Ending = 4,
    Done = 5,
    Failed = 6,
}

impl Phase {
    const ALL: [Phase; 7] = [
        Phase::Opening,
        Phase::Loading,
        Phase::Catchup,
        Phase::Joining,
        Phase::Ending,
        Phase::Done,
        Phase::Failed,
    ];
}

/// How far a transfer is, at one side.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    pub phase: Phase,
    /// Checkpoints begun; each after the first is a new start.
    pub attempts: u64,
    /// Bytes of the present checkpoint sent (source) or loaded (joiner).
    pub state_bytes: u64,
    /// Bytes and messages of the present catch-up sent (source) or applied (joiner).
    pub catchup_bytes: u64,
    pub catchup_messages: u64,
    /// Source: what was delivered there and not applied at the joiner when it last said so.
    pub behind_bytes: u64,
    pub behind_messages: u64,
    /// Source: how long the last `checkpoint_open` took on the polling thread.
    pub open_ns: u64,
    /// Source: bytes of the catch-up buffer, and how many of them hold what is not sent yet.
    pub tape_bytes: u64,
    pub tape_filled: u64,
}

/// Words of a snapshot.
pub const WORDS: usize = 10;

/// The same as words that other threads may read.
#[repr(align(128))]
#[derive(Debug)]
pub struct Progress([Cell; WORDS]);

impl Default for Progress {
    fn default() -> Self {
        Progress(std::array::from_fn(|_| Cell::new(0)))
    }
}

impl Progress {
    /// By the one writer.
    pub(super) fn write(&self, now: &Snapshot) {
        self.0.iter().zip(now.words()).for_each(|(cell, word)| cell.publish(word));
    }

    /// It has failed, wherever it was.
    pub(super) fn fail(&self) {
        self.0[0].publish(Phase::Failed as u64);
    }

    /// By anybody, at any time. Cost: a load per word.
    pub fn read(&self) -> Snapshot {
        Snapshot::of_words(std::array::from_fn(|at| self.0[at].observe()))
            .expect("they are a snapshot's")
    }
}

impl Snapshot {
    pub fn words(&self) -> [u64; WORDS] {
        let Snapshot { phase, attempts, state_bytes, catchup_bytes, catchup_messages, .. } = *self;
        let Snapshot { behind_bytes, behind_messages, open_ns, tape_bytes, tape_filled, .. } =
            *self;
        [
            phase as u64,
            attempts,
            state_bytes,
            catchup_bytes,
            catchup_messages,
            behind_bytes,
            behind_messages,
            open_ns,
            tape_bytes,
            tape_filled,
        ]
    }

    /// `None`: there is no such phase. They may be of a process that one does not trust.
    pub fn of_words(words: [u64; WORDS]) -> Option<Snapshot> {
        let [phase, attempts, state_bytes, catchup_bytes, catchup_messages, rest @ ..] = words;
        let [behind_bytes, behind_messages, open_ns, tape_bytes, tape_filled] = rest;
        Some(Snapshot {
            phase: *Phase::ALL.get(usize::try_from(phase).ok()?)?,
            attempts,
            state_bytes,
            catchup_bytes,
            catchup_messages,
            behind_bytes,
            behind_messages,
            open_ns,
            tape_bytes,
            tape_filled,
        })
    }
}

/// For whoever waits.
impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.phase {
            Phase::Opening => "waits for a checkpoint",
            Phase::Loading => "loads",
            Phase::Catchup => "catches up",
            Phase::Joining => "has nearly caught up",
            Phase::Ending => "is at the end",
            Phase::Done => "is done",
            Phase::Failed => "has failed",
        };
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let (state, after) = (mib(self.state_bytes), mib(self.catchup_bytes));
        let messages = self.catchup_messages;
        write!(
            f,
            "{what}: {state:.1} MiB of state, {messages} messages of {after:.1} MiB after it"
        )?;
        if self.tape_bytes > 0 {
            let (filled, whole) = (mib(self.tape_filled), mib(self.tape_bytes));
            write!(f, "; {filled:.1} of {whole:.1} MiB of catch-up buffer are full")?;
        }
        if self.attempts > 1 {
            write!(f, "; start {}", self.attempts)?;
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let progress = Progress::default();
        assert_eq!(progress.read(), Snapshot::default());
        for (at, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, at);
            let now = Snapshot {
                phase,
                attempts: 1,
                behind_messages: 6,
                open_ns: 7,
                ..*&progress.read()
            };
            progress.write(&now);
            assert_eq!(progress.read(), now);
        }
        progress.fail();
        assert_eq!(progress.read().phase, Phase::Failed);
        let mut words = progress.read().words();
        words[0] = Phase::ALL.len() as u64;
        assert_eq!(Snapshot::of_words(words), None, "another process' words");
    }

    #[test]
    fn a_snapshot_is_said_in_a_line() {
        let mib = |count: u64| count << 20;
        let now = Snapshot {
            phase: Phase::Catchup,
            attempts: 2,
            state_bytes: mib(3),
            catchup_bytes: mib(1),
            catchup_messages: 12,
            tape_bytes: mib(64),
            tape_filled: mib(16),
            ..Snapshot::default()
        };
        assert_eq!(
            now.to_string(),
            "catches up: 3.0 MiB of state, 12 messages of 1.0 MiB after it; 16.0 of 64.0 MiB of \
             catch-up buffer are full; start 2"
        );
    }
}
