// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory behind a dma-buf's descriptor, mapped: where no network device reaches it itself.
//!
//! Z1  Whoever exports it is told before the processor touches it and afterwards, by an ioctl, for each
//!     piece; without that, caches may hide what one has written from the other. What is no dma-buf and
//!     can be mapped all the same (a memfd) needs no telling.
//! Z2  It is touched as `host` says (Q1), never by a reference.

use super::host::Host;
use crate::error::{Error, Status};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// `DMA_BUF_IOCTL_SYNC`: a word of flags.
const SYNC: u64 = 0x4008_6200;
const SYNC_READ: u64 = 1;
const SYNC_WRITE: u64 = 2;
const SYNC_END: u64 = 4;
/// Where a mapping may begin, whatever the size of pages is.
const PAGE_BYTES_MAX: u64 = 64 << 10;
/// The ioctl may be interrupted, or not be possible now; so often it is tried.
const TRIES: u32 = 1000;

#[derive(Debug)]
pub struct DmaBuf {
    descriptor: OwnedFd,
    offset: u64,
    bytes: u64,
    /// `None`: its exporter lets nobody map it.
    map: Option<Map>,
    /// It is one (Z1).
    is_told: bool,
}

#[derive(Debug)]
struct Map {
    at: usize,
    bytes: usize,
    host: Host,
}

impl DmaBuf {
    /// `bytes` bytes from `offset` on. The descriptor is copied.
    ///
    /// Errors: `Invalid`: no descriptor, or beyond its end.
    pub fn new(descriptor: BorrowedFd<'_>, offset: u64, bytes: u64) -> Result<DmaBuf, Error> {
        let invalid = |detail: String| Err(Error::new(Status::Invalid, detail));
        let number = descriptor.as_raw_fd();
        let descriptor = match rustix::io::fcntl_dupfd_cloexec(descriptor, 0) {
            Ok(copy) => copy,
            Err(cause) => return invalid(format!("descriptor {number}: {cause}")),
        };
        let size = rustix::fs::seek(&descriptor, rustix::fs::SeekFrom::End(0)).unwrap_or(u64::MAX);
        let end = offset.checked_add(bytes);
        if end.is_none_or(|end| end > size || end > isize::MAX as u64) {
            return invalid(format!(
                "{bytes} bytes from {offset} on, of a dma-buf that has {size} (descriptor {number})"
            ));
        }
        let first = offset - offset % PAGE_BYTES_MAX;
        let mapped = (offset - first + bytes) as usize;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, wherever there is room, which nothing of ours looks into.
        let map = unsafe {
            let (place, fd) = (std::ptr::null_mut(), descriptor.as_raw_fd());
            libc::mmap(place, mapped, access, libc::MAP_SHARED, fd, first as libc::off_t)
        };
        let map = (map != libc::MAP_FAILED).then(|| {
            let address = map.cast::<u8>().wrapping_add((offset - first) as usize);
            // SAFETY: mapped above; unmapped only after it is dropped, and nobody has a reference to it.
            let host = unsafe { Host::new(address, bytes) };
            Map { at: map.expose_provenance(), bytes: mapped, host }
        });
        let mut dma_buf = DmaBuf { descriptor, offset, bytes, map, is_told: true };
        dma_buf.is_told = match dma_buf.tell(SYNC_READ) {
            Ok(()) => dma_buf.tell(SYNC_READ | SYNC_END).is_ok(),
            Err(_) => false,
        };
        Ok(dma_buf)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Whether it can be copied.
    pub fn is_mapped(&self) -> bool {
        self.map.is_some()
    }

    /// As `Host::send`.
    pub fn send(
        &self,
        socket: BorrowedFd<'_>,
        before: &[u8],
        from: u64,
        len: usize,
    ) -> Result<usize, Errno> {
        self.telling(SYNC_READ, |host| host.send(socket, before, from, len))
    }

    /// As `Host::receive`.
    pub fn receive(&self, socket: BorrowedFd<'_>, from: u64, len: usize) -> Result<usize, Errno> {
        self.telling(SYNC_WRITE, |host| host.receive(socket, from, len))
    }

    /// Z1. What cannot be told has not happened.
    fn telling<T>(
        &self,
        what: u64,
        body: impl FnOnce(&Host) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let map = self.map.as_ref().ok_or(Errno::IO)?;
        self.tell(what).map_err(|_| Errno::IO)?;
        let outcome = body(&map.host);
        // An exporter that has let us begin lets us end.
        let _ = self.tell(what | SYNC_END);
        outcome
    }

    fn tell(&self, what: u64) -> Result<(), Errno> {
        if !self.is_told {
            return Ok(());
        }
        for _ in 0..TRIES {
            // SAFETY: the ioctl reads one word.
            let told =
                unsafe { libc::ioctl(self.descriptor.as_raw_fd(), SYNC as _, &raw const what) };
            if told == 0 {
                return Ok(());
            }
            match Errno::from_io_error(&std::io::Error::last_os_error()) {
                Some(Errno::INTR | Errno::AGAIN) => {}
                cause => return Err(cause.unwrap_or(Errno::IO)),
            }
        }
        Err(Errno::AGAIN)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, that long; `host` is never used again.
        unsafe { libc::munmap(std::ptr::with_exposed_provenance_mut(self.at), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    /// A memfd in its place: no machine here has an exporter that lets itself be mapped.
    #[test]
    fn what_can_be_mapped_is_reached() {
        let file = memfd_create("squall-dma", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 20_000).unwrap();
        let refused = |offset: u64, bytes: u64| {
            DmaBuf::new(file.as_fd(), offset, bytes).map(drop).unwrap_err().status
        };
        assert_eq!([refused(1, 20_000), refused(u64::MAX, 2)], [Status::Invalid; 2]);
        let memory = DmaBuf::new(file.as_fd(), 5000, 10_000).unwrap();
        assert!(!memory.is_told && memory.bytes() == 10_000);
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(b"12345678").unwrap();
        assert_eq!(memory.receive(theirs.as_fd(), 9000, 8), Ok(8));
        let mut bytes = [0; 10];
        rustix::io::pread(&file, &mut bytes, 13_999).unwrap();
        assert_eq!(&bytes, b"\x0012345678\0");
        assert_eq!(memory.send(theirs.as_fd(), b"<", 9001, 3), Ok(4));
        ours.read_exact(&mut bytes[..4]).unwrap();
        assert_eq!(&bytes[..4], b"<234");
        drop(memory);
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        let unmappable = DmaBuf::new(pipe.as_fd(), 0, 8).unwrap();
        assert!(!unmappable.is_mapped());
        assert_eq!(unmappable.send(theirs.as_fd(), &[], 0, 8), Err(Errno::IO));
    }

    /// What ends under us is an error, and no signal.
    #[test]
    fn what_is_cut_off_later_is_an_error() {
        let file = memfd_create("squall-dma", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 8192).unwrap();
        let memory = DmaBuf::new(file.as_fd(), 0, 8192).unwrap();
        ftruncate(&file, 0).unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(b"12345678").unwrap();
        assert_eq!(memory.receive(theirs.as_fd(), 0, 8), Err(Errno::FAULT));
        assert_eq!(memory.send(theirs.as_fd(), &[], 0, 8), Err(Errno::FAULT));
    }
}
