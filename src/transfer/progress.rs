// SPDX-License-Identifier: MIT OR Apache-2.0
//! How far a transfer is, for whoever wants to look: a few words with one writer, the transfer
//! thread at the source, the opening thread at the joiner.
//!
//! Each word is whole; together they may be of two moments.

use crate::mem::Cell;

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
        let Snapshot { behind_bytes, behind_messages, open_ns, tape_bytes, tape_filled, .. } = *self;
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
    }
}
