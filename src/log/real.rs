// SPDX-License-Identifier: MIT OR Apache-2.0
//! The disk that is one: a directory of the file system.
//!
//! Through the page cache: a log is read back soon or never, `pwritev` takes bytes from wherever
//! they are, and a lone small message costs no copy of its sector.

use super::disk::{Disk, NoLock};
use rustix::fs::{
    Advice, AtFlags, Dir, FallocateFlags, FlockOperation, Mode, OFlags, fadvise, fallocate,
    fdatasync, flock, fstat, fsync, ftruncate, mkdir, open, openat, unlinkat,
};
use rustix::io::{Errno, pread, pwritev, retry_on_intr};
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

/// Rights of what is made: the application's messages are its user's.
const PRIVATE: Mode = Mode::from_raw_mode(0o600);
const LOCK: &str = "lock";

#[derive(Clone, Debug)]
pub struct RealDisk(Arc<OwnedFd>);

impl RealDisk {
    /// The directory at `path`, which is made if it is not there; the one above it must be.
    pub fn at(path: &Path) -> Result<RealDisk, Errno> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        match mkdir(path, Mode::from_raw_mode(0o700)) {
            Err(Errno::EXIST) => {}
            made => made?,
        }
        // Also if it was there: whoever made it may have been stopped before this.
        let above = path.parent().filter(|above| !above.as_os_str().is_empty());
        fsync(open(above.unwrap_or(Path::new(".")), flags, Mode::empty())?)?;
        Ok(RealDisk(Arc::new(open(path, flags, Mode::empty())?)))
    }

    fn open_with(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        retry_on_intr(|| openat(&*self.0, name, flags, PRIVATE))
    }
}

impl Disk for RealDisk {
    type File = OwnedFd;

    fn lock(&self) -> Result<OwnedFd, NoLock> {
        let file = self.open_with(LOCK, OFlags::CREATE).map_err(NoLock::Failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = [0; 16];
                let len = pread(&file, &mut text, 0).unwrap_or(0);
                let text = std::str::from_utf8(&text[..len]).unwrap_or("");
                return Err(NoLock::Held { pid: text.trim().parse().ok() });
            }
            Err(cause) => return Err(NoLock::Failed(cause)),
        }
        // Who it is helps whoever is refused; without it the refusal is the same.
        let pid = format!("{:<15}\n", std::process::id());
        let _ = rustix::io::pwrite(&file, pid.as_bytes(), 0);
        Ok(file)
    }

    fn names(&self) -> Result<Vec<String>, Errno> {
        let entries = Dir::read_from(&*self.0)?;
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry?.file_name().to_str().ok().map(str::to_owned));
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> Result<OwnedFd, Errno> {
        self.open_with(name, OFlags::CREATE | OFlags::EXCL)
    }

    fn open(&self, name: &str) -> Result<OwnedFd, Errno> {
        self.open_with(name, OFlags::empty())
    }

    fn remove(&self, name: &str) -> Result<(), Errno> {
        unlinkat(&*self.0, name, AtFlags::empty())
    }

    fn sync_names(&self) -> Result<(), Errno> {
        fsync(&*self.0)
    }

    fn bytes(&self, file: &OwnedFd) -> Result<u64, Errno> {
        Ok(fstat(file)?.st_size as u64)
    }

    fn allocate(&self, file: &OwnedFd, bytes: u64) -> Result<(), Errno> {
        match retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, bytes)) {
            // Then there is no room set aside: a full disk is met when it is written.
            Err(Errno::OPNOTSUPP) => ftruncate(file, bytes),
            outcome => outcome,
        }
    }

    fn write(&self, file: &OwnedFd, at: u64, gather: &[IoSlice<'_>]) -> Result<usize, Errno> {
        retry_on_intr(|| pwritev(file, gather, at))
    }

    fn read(&self, file: &OwnedFd, at: u64, place: &mut [u8]) -> Result<usize, Errno> {
        retry_on_intr(|| pread(file, &mut *place, at))
    }

    fn sync(&self, file: &OwnedFd) -> Result<(), Errno> {
        fdatasync(file)
    }

    fn forget(&self, file: &OwnedFd) -> Result<(), Errno> {
        fadvise(file, 0, None, Advice::DontNeed)
    }
}
