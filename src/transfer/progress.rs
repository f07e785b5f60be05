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
    /// The joiner has nearly caught up, and the source has been told to ask for its join.
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
}

/// The same as words that other threads may read.
#[repr(align(128))]
#[derive(Debug)]
pub struct Progress([Cell; 8]);

impl Default for Progress {
    fn default() -> Self {
        Progress(std::array::from_fn(|_| Cell::new(0)))
    }
}

impl Progress {
    /// By the one writer.
    pub(super) fn write(&self, now: &Snapshot) {
        let words = [
            now.phase as u64,
            now.attempts,
            now.state_bytes,
            now.catchup_bytes,
            now.catchup_messages,
            now.behind_bytes,
            now.behind_messages,
            now.open_ns,
        ];
        self.0.iter().zip(words).for_each(|(cell, word)| cell.publish(word));
    }

    /// By anybody, at any time. Cost: eight loads.
    pub fn read(&self) -> Snapshot {
        let word = |at: usize| self.0[at].observe();
        Snapshot {
            phase: Phase::ALL[word(0) as usize],
            attempts: word(1),
            state_bytes: word(2),
            catchup_bytes: word(3),
            catchup_messages: word(4),
            behind_bytes: word(5),
            behind_messages: word(6),
            open_ns: word(7),
        }
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
