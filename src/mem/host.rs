// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of the application's that peers may read and write: known by its address, never as a
//! Rust reference.
//!
//! Q1  Nothing here reads or writes it: the kernel does, between it and a socket. What is not mapped
//!     is an error (EFAULT) and no signal, and no access races in the language's sense.

use super::Cell;
use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

/// Words that may be registered and are never seen by a reference: for Rust programs.
#[derive(Clone, Debug)]
pub struct Buffer(Arc<[Cell]>);

impl Buffer {
    /// Zeros.
    pub fn new(words: usize) -> Buffer {
        Buffer((0..words).map(|_| Cell::new(0)).collect())
    }

    /// The same memory, to be registered.
    pub fn lend(&self) -> Host {
        let (address, bytes) = (self.0.as_ptr().expose_provenance(), 8 * self.0.len() as u64);
        Host { address, bytes, kept: Some(self.clone()) }
    }

    /// Copies words from `first` on; those that are being written meanwhile may have any value. Panics
    /// beyond the end.
    pub fn read(&self, first: usize, words: &mut [u64]) {
        let cells = &self.0[first..first + words.len()];
        words.iter_mut().zip(cells).for_each(|(word, cell)| *word = cell.observe());
    }

    /// The other way.
    pub fn write(&self, first: usize, words: &[u64]) {
        let cells = &self.0[first..first + words.len()];
        words.iter().zip(cells).for_each(|(word, cell)| cell.publish(*word));
    }
}

/// Bytes of the application's, from an address on.
#[derive(Debug)]
pub struct Host {
    address: usize,
    bytes: u64,
    /// Whose they are, if they are ours to keep.
    kept: Option<Buffer>,
}

impl Host {
    /// `bytes` bytes at `address`. They need not be mapped now.
    ///
    /// # Safety
    /// Until this is dropped they are the application's to lend: whatever is written there breaks no
    /// promise that somebody else relies on. Rust code that has a reference to any of them while a peer
    /// may write them (or a unique one while it may read them) has such a promise.
    pub unsafe fn new(address: *mut u8, bytes: u64) -> Host {
        Host { address: address.expose_provenance(), bytes, kept: None }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn address(&self) -> u64 {
        self.address as u64
    }

    /// Whether it is there for as long as this is.
    pub fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// Sends `before`, then `len` bytes from `from` on, without waiting; how many in all.
    pub fn send(
        &self,
        socket: BorrowedFd<'_>,
        before: &[u8],
        from: u64,
        len: usize,
    ) -> Result<usize, Errno> {
        let mut parts = [
            libc::iovec { iov_base: before.as_ptr().cast_mut().cast(), iov_len: before.len() },
            libc::iovec { iov_base: self.at(from, len), iov_len: len },
        ];
        // SAFETY: zero is a value of every field.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = parts.as_mut_ptr();
        message.msg_iovlen = parts.len() as _;
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: the kernel reads `before`, which lives, and memory that is lent to us for that
        // (`new`) or not there, which it finds out; it keeps nothing.
        count(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) })
    }

    /// Receives `len` bytes at the most, to `from` and on, without waiting; 0: the end.
    pub fn receive(&self, socket: BorrowedFd<'_>, from: u64, len: usize) -> Result<usize, Errno> {
        let into = self.at(from, len);
        // SAFETY: the kernel writes memory that is lent to us for that (`new`) or not there, which
        // it finds out.
        count(unsafe { libc::recv(socket.as_raw_fd(), into, len, libc::MSG_DONTWAIT) })
    }

    /// The address of a byte of it.
    fn at(&self, from: u64, len: usize) -> *mut libc::c_void {
        let end = from.checked_add(len as u64);
        assert!(end.is_some_and(|end| end <= self.bytes), "within the region");
        std::ptr::with_exposed_provenance_mut(self.address + from as usize)
    }
}

fn count(outcome: isize) -> Result<usize, Errno> {
    usize::try_from(outcome).map_err(|_| {
        let cause = std::io::Error::last_os_error();
        Errno::from_io_error(&cause).unwrap_or(Errno::IO)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_is_not_mapped_is_an_error_and_nothing_is_lost() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        // SAFETY: the first page is nobody's.
        let nowhere = unsafe { Host::new(std::ptr::without_provenance_mut(4096), 64) };
        let mut bytes = [0u8; 8];
        // SAFETY: no reference to it is used while it is lent.
        let here = unsafe { Host::new((&raw mut bytes).cast(), 8) };
        ours.write_all(b"12345678").unwrap();
        assert_eq!(nowhere.receive(theirs.as_fd(), 0, 8), Err(Errno::FAULT));
        assert_eq!(nowhere.send(theirs.as_fd(), &[], 0, 8), Err(Errno::FAULT));
        assert_eq!(here.receive(theirs.as_fd(), 2, 6), Ok(6));
        assert_eq!(here.receive(theirs.as_fd(), 0, 2), Ok(2));
        assert_eq!(here.receive(theirs.as_fd(), 0, 2), Err(Errno::AGAIN));
        assert_eq!(&bytes, b"78123456");
    }

    #[test]
    #[should_panic(expected = "within the region")]
    fn nothing_beyond_it_is_touched() {
        let (_ours, theirs) = UnixStream::pair().unwrap();
        // SAFETY: never touched.
        let memory = unsafe { Host::new(std::ptr::without_provenance_mut(4096), 64) };
        let _ = memory.receive(theirs.as_fd(), 60, 8);
    }
}
