// SPDX-License-Identifier: MIT OR Apache-2.0
//! Standard output without waiting for its reader: whoever waited would not poll, and where members
//! change, who does not poll is taken for dead.
//!
//! The descriptor stays as it is: others may share it. What says that it can be written takes a page
//! at least, so pieces of that size do not wait; a regular file never does.

use crate::failure::{Failure, because};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Output that waits so long is not added to: nothing more is delivered, and senders find no room.
pub const FULL_BYTES: usize = 64 << 10;
const PIECE_BYTES: usize = 4096;

pub struct Output {
    file: File,
    /// A regular file.
    plain: bool,
    bytes: Vec<u8>,
    /// How much of them is written.
    at: usize,
}

impl Output {
    pub fn new() -> Result<Output, Failure> {
        let descriptor = io::stdout().as_fd().try_clone_to_owned();
        let closed = |cause| because!("standard output is not open: {cause}");
        let file = File::from(descriptor.map_err(closed)?);
        let plain = file.metadata().is_ok_and(|about| about.is_file());
        Ok(Output { file, plain, bytes: Vec::with_capacity(2 * FULL_BYTES), at: 0 })
    }

    pub fn take(&mut self, bytes: &mut Vec<u8>) {
        self.bytes.append(bytes);
    }

    pub fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub fn is_full(&self) -> bool {
        self.bytes.len() - self.at >= FULL_BYTES
    }

    /// Writes what goes; the first piece may be waited for that long.
    pub fn write(&mut self, wait: Duration) -> io::Result<()> {
        let mut wait = wait;
        while !self.is_empty() {
            if self.plain {
                return self.finish();
            }
            if !is_ready(&mut [PollFd::new(&self.file, PollFlags::OUT)], Some(wait))? {
                return Ok(());
            }
            wait = Duration::ZERO;
            let upto = self.bytes.len().min(self.at + PIECE_BYTES);
            match self.file.write(&self.bytes[self.at..upto]) {
                Ok(written) => self.at += written,
                Err(cause) if is_nothing(&cause) => return Ok(()),
                Err(cause) => return Err(cause),
            }
        }
        self.empty();
        Ok(())
    }

    /// Writes everything, however long that takes.
    pub fn finish(&mut self) -> io::Result<()> {
        while !self.plain && !self.is_empty() {
            self.write(Duration::from_secs(1))?;
        }
        let outcome = self.file.write_all(&self.bytes[self.at..]);
        self.empty();
        outcome
    }

    fn empty(&mut self) {
        self.bytes.clear();
        self.at = 0;
    }

    /// Sleeps until there is room, or the other descriptor is readable.
    pub fn sleep_beside(&self, other: BorrowedFd<'_>) -> io::Result<()> {
        let other = PollFd::from_borrowed_fd(other, PollFlags::IN);
        is_ready(&mut [other, PollFd::new(&self.file, PollFlags::OUT)], None).map(drop)
    }
}

/// It was interrupted, or somebody else has made the descriptor one that does not block.
fn is_nothing(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// Whether anything happens within that time; `None`: for ever. What is broken is ready: writing
/// says why.
fn is_ready(descriptors: &mut [PollFd<'_>], wait: Option<Duration>) -> io::Result<bool> {
    let time = wait.map(|wait| Timespec {
        tv_sec: wait.as_secs() as i64,
        tv_nsec: wait.subsec_nanos().into(),
    });
    match poll(descriptors, time.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(cause) => Err(cause.into()),
    }
}
