// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a log asks of a disk: one directory, flat, and what of it survives a loss of power.
//!
//! D1  What was written is there after a loss of power if `sync` of that file has succeeded since.
//!     Else each byte of it is, for itself, as it was or as it was written.
//! D2  A name is there, or gone, if `sync_names` has succeeded since. Else either may be.
//! D3  If `sync` fails, what was written since the last one may be lost though it can be read, and
//!     a later `sync` that succeeds means nothing: it is never asked again. `forget` makes reads tell
//!     the truth.
//! D4  Bytes that were allocated and never written read as zeros.
//!
//! D1 means that a sector that is written over with the same bytes keeps them, torn or not.

use rustix::io::Errno;
use std::io::IoSlice;

/// Why a log cannot be had for oneself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoLock {
    Held { pid: Option<u32> },
    Failed(Errno),
}

/// One directory. Clones are the same one. Calls are whole or answer an error; a signal that
/// interrupts one is no error (it is called again), except in `sync`.
pub trait Disk: Clone + Send + 'static {
    type File: Send;

    /// Has the directory to oneself until the answer is dropped.
    fn lock(&self) -> Result<Self::File, NoLock>;
    fn names(&self) -> Result<Vec<String>, Errno>;
    /// A new, empty file.
    fn create(&self, name: &str) -> Result<Self::File, Errno>;
    fn open(&self, name: &str) -> Result<Self::File, Errno>;
    fn remove(&self, name: &str) -> Result<(), Errno>;
    fn sync_names(&self) -> Result<(), Errno>;

    fn bytes(&self, file: &Self::File) -> Result<u64, Errno>;
    /// Makes it so long, and has the room for it.
    fn allocate(&self, file: &Self::File, bytes: u64) -> Result<(), Errno>;
    /// Writes some of it, from byte `at` on; how much.
    fn write(&self, file: &Self::File, at: u64, gather: &[IoSlice<'_>]) -> Result<usize, Errno>;
    /// Reads some, from byte `at` on; 0: there is no more.
    fn read(&self, file: &Self::File, at: u64, place: &mut [u8]) -> Result<usize, Errno>;
    fn sync(&self, file: &Self::File) -> Result<(), Errno>;
    /// What was synced is read from the disk from now on, not from memory.
    fn forget(&self, file: &Self::File) -> Result<(), Errno>;
}
