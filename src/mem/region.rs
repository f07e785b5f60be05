// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that other processes read: made by their owner, mapped read-only by peers.
//!
//! Deliberately not: a buffer. Nobody gets `&[u8]` over words that change; control words are
//! `Cell`s, payload bytes are lent for the time in which the ring's protocol gives them to one side.
//!
//! R1  A region never moves, and its first byte is aligned to a line (`LINE_BYTES`).
//! R2  A shared region has all its pages (`fallocate`) before it is mapped, so a full machine is
//!     an error at open and not a SIGBUS later.
//! R3  After `seal`, nobody but the owner, through the map it already has, can write.
//!
//! Cost: one bounds check per call.

use super::order::Cell;
use crate::error::{Error, Status};

/// What the caller wants of the pages beyond their bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Want {
    #[default]
    No,
    /// Go on without it, and say so.
    Try,
    /// Refuse to open without it.
    Require,
}

#[cfg(not(loom))]
pub use real::{CellRef, Region};

#[cfg(loom)]
pub use modelled::{CellRef, Extent, Region, stream_fence};

#[cfg(not(loom))]
mod real {
    use super::super::errno::{self, Whose};
    use super::*;
    use crate::limits::LINE_BYTES;
    use memmap2::{MmapOptions, MmapRaw};
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::fs::File;
    use std::io;
    use std::ops::Deref;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    use std::ptr::NonNull;
    use std::sync::Arc;

    const HUGE_PAGE_BYTES: usize = 2 << 20;

    pub struct Region {
        pub(in crate::mem) base: NonNull<u8>,
        pub(in crate::mem) len: usize,
        pub(in crate::mem) writable: bool,
        /// Keeps the bytes alive; `base` points into it.
        _keep: Keep,
    }

    enum Keep {
        Heap(Layout, NonNull<u8>),
        Map(#[allow(dead_code, reason = "held for its drop")] MmapRaw),
    }

    impl Drop for Keep {
        fn drop(&mut self) {
            if let Keep::Heap(layout, base) = self {
                // SAFETY: `base` came from `alloc_zeroed` with this layout and is freed once.
                unsafe { dealloc(base.as_ptr(), *layout) }
            }
        }
    }

    // SAFETY: every access goes through `Cell` (atomic) or through bytes that the ring's protocol
    // gives to one thread at a time (edges W, N and S of `order.rs`).
    unsafe impl Send for Region {}
    // SAFETY: as above.
    unsafe impl Sync for Region {}

    impl Region {
        /// Private zeroed memory: the simulator's and the tests' mirrors.
        pub fn heap(len: usize) -> Region {
            Region::zeros(len).unwrap_or_else(|error| panic!("{error}"))
        }

        /// The same where there may be too little memory for it.
        pub fn zeros(len: usize) -> Result<Region, Error> {
            let len = len.next_multiple_of(LINE_BYTES).max(LINE_BYTES);
            let layout = Layout::from_size_align(len, LINE_BYTES).expect("a line is a power of 2");
            // SAFETY: the layout's size is at least one line, so not zero.
            let base = unsafe { alloc_zeroed(layout) };
            let base = NonNull::new(base).ok_or_else(|| {
                let cause = io::Error::from_raw_os_error(libc::ENOMEM);
                errno::shortage(&format!("cannot get {}", size_text(len as u64)), &cause)
            })?;
            Ok(Region { base, len, writable: true, _keep: Keep::Heap(layout, base) })
        }

        /// The same in pages of its own, all of which are there: they go back to the system at the end.
        pub fn pages(len: usize) -> Result<Region, Error> {
            let len = len.next_multiple_of(LINE_BYTES).max(LINE_BYTES);
            let map = MmapOptions::new().len(len).populate().map_anon();
            let map = map.map_err(|cause| {
                errno::shortage(&format!("cannot get {}", size_text(len as u64)), &cause)
            })?;
            Ok(Self::of_map(map.into(), true))
        }

        /// New zeroed pages of mine, shareable by the descriptor. Not sealed yet.
        ///
        /// `notes` receives one sentence for each thing wanted with `Want::Try` and not had.
        pub fn share(
            name: &str,
            len: usize,
            lock: Want,
            huge: Want,
            notes: &mut Vec<String>,
        ) -> Result<(Region, OwnedFd), Error> {
            let (map, fd) = match huge {
                Want::No => Self::share_pages(name, len, false)?,
                _ => match Self::share_pages(name, len, true) {
                    Ok(got) => got,
                    Err(refused) if huge == Want::Require => return Err(refused),
                    Err(refused) => {
                        notes.push(format!("{refused}; ordinary pages are used"));
                        Self::share_pages(name, len, false)?
                    }
                },
            };
            if lock != Want::No
                && let Err(cause) = map.lock()
            {
                let refused = lock_error(map.len(), &cause);
                if lock == Want::Require {
                    return Err(refused);
                }
                notes.push(format!("{refused}; the pages can be swapped out"));
            }
            Ok((Self::of_map(map, true), fd))
        }

        fn share_pages(name: &str, len: usize, huge: bool) -> Result<(MmapRaw, OwnedFd), Error> {
            let page = if huge { HUGE_PAGE_BYTES } else { 4096 };
            let len = len.next_multiple_of(page);
            let kind = if huge { libc::MFD_HUGETLB | libc::MFD_HUGE_2MB } else { 0 };
            let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | kind;
            let name = std::ffi::CString::new(name).unwrap_or_default();
            // SAFETY: `name` is a C string that outlives the call.
            let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
            if fd < 0 {
                return Err(memory_error(len, huge, &io::Error::last_os_error()));
            }
            // SAFETY: a fresh descriptor that nobody else owns.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            let file = File::from(fd);
            room_for(len, huge)?;
            file.set_len(len as u64).map_err(|cause| memory_error(len, huge, &cause))?;
            // R2: the pages exist before anyone maps them.
            // SAFETY: plain system call on a descriptor that we own.
            let got = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len as i64) };
            if got != 0 {
                return Err(memory_error(len, huge, &io::Error::last_os_error()));
            }
            let map = MmapOptions::new().len(len).populate().map_raw(&file);
            let map = map.map_err(|cause| memory_error(len, huge, &cause))?;
            Ok((map, file.into()))
        }

        /// R3: from here on no new writable map of these pages can be made by anybody.
        pub fn seal(fd: &OwnedFd) -> Result<(), Error> {
            let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_FUTURE_WRITE;
            // SAFETY: plain system call on a descriptor that the caller owns.
            let sealed = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) };
            if sealed != 0 {
                let cause = io::Error::last_os_error();
                let detail = format!("cannot seal shared memory: {cause}; Linux 5.1 or newer does");
                return Err(Error::new(Status::System, detail));
            }
            Ok(())
        }

        /// A peer's pages, read-only. Refuses a descriptor that is unsealed (its owner could
        /// shrink it or punch holes into it under us: SIGBUS) or shorter than `len`.
        ///
        /// Errors: `PeerFault` if it shows what cannot be used; all others are this process's
        /// (`errno`). Needs no descriptor more.
        pub fn map_peer(fd: &OwnedFd, len: usize) -> Result<Region, Error> {
            let peers = |what: String| Error::new(Status::PeerFault, what);
            let mine = |cause: &io::Error| {
                errno::shortage(&format!("cannot map {} of a peer's", size_text(len as u64)), cause)
            };
            // SAFETY: plain system call on a descriptor that the caller owns.
            let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
            if seals < 0 {
                let cause = io::Error::last_os_error();
                return Err(match errno::of_seals(cause.raw_os_error().unwrap_or(0)) {
                    Whose::Peers => peers("a peer's memory is none".into()),
                    _ => mine(&cause),
                });
            }
            let needed = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_FUTURE_WRITE;
            if seals & needed != needed {
                return Err(peers("a peer's memory is not sealed".into()));
            }
            let stat = rustix::fs::fstat(fd).map_err(|cause| mine(&cause.into()))?;
            let have = stat.st_size as u64;
            if have < len as u64 {
                let what = format!("a peer's memory has {have} bytes instead of {len}");
                return Err(peers(what));
            }
            // Huge pages can only be unmapped whole; such a file says so by its block size.
            let huge = stat.st_blksize as u64 == HUGE_PAGE_BYTES as u64;
            let len = if huge { len.next_multiple_of(HUGE_PAGE_BYTES) } else { len };
            let map = MmapOptions::new().len(len).populate().map_raw_read_only(fd);
            let map =
                map.map_err(|cause| match errno::of_map(cause.raw_os_error().unwrap_or(0)) {
                    Whose::Peers => peers(format!("a peer's memory cannot be mapped: {cause}")),
                    _ => mine(&cause),
                })?;
            Ok(Self::of_map(map, false))
        }

        fn of_map(map: MmapRaw, writable: bool) -> Region {
            let base = NonNull::new(map.as_mut_ptr()).expect("a map is never at address 0");
            Region { base, len: map.len(), writable, _keep: Keep::Map(map) }
        }

        /// Bytes of it.
        pub fn size(&self) -> usize {
            self.len
        }

        /// `N` adjoining words from byte `at` (a multiple of 8).
        #[inline(always)]
        pub fn cells<const N: usize>(&self, at: usize) -> &[Cell; N] {
            assert!(at % 8 == 0 && at + N * 8 <= self.len, "cells outside their region");
            // SAFETY: in bounds by the line above, aligned since `base` is (R1), alive as long as
            // `self`; `Cell` is a transparent atomic, for which shared references may alias.
            unsafe { &*self.base.as_ptr().add(at).cast::<[Cell; N]>() }
        }

        #[inline(always)]
        pub fn cell(&self, at: usize) -> &Cell {
            &self.cells::<1>(at)[0]
        }
    }

    /// A word of a region, found once: to read it is a load.
    pub struct CellRef {
        cell: NonNull<Cell>,
        _keep: Arc<Region>,
    }

    // SAFETY: it is a shared reference to an atomic, in a region that is `Send` and `Sync`.
    unsafe impl Send for CellRef {}
    // SAFETY: as above.
    unsafe impl Sync for CellRef {}

    impl CellRef {
        /// The word at byte `at` (a multiple of 8).
        pub fn new(region: &Arc<Region>, at: usize) -> CellRef {
            CellRef { cell: NonNull::from(region.cell(at)), _keep: region.clone() }
        }
    }

    impl Deref for CellRef {
        type Target = Cell;
        #[inline(always)]
        fn deref(&self) -> &Cell {
            // SAFETY: made from a reference into the region, which never moves (R1) and lives as long
            // as `_keep`.
            unsafe { self.cell.as_ref() }
        }
    }

    /// Refuses what would end this process (SIGXFSZ) or another (the kernel, out of memory, kills)
    /// instead of failing. An estimate: whoever takes memory at the same time is not seen.
    fn room_for(len: usize, huge: bool) -> Result<(), Error> {
        let need = len as u64;
        let limit = limit_of(libc::RLIMIT_FSIZE);
        if let Some(limit) = limit.filter(|limit| need > *limit) {
            let detail = format!(
                "cannot get {} of shared memory: RLIMIT_FSIZE is {}; raise it with `ulimit -f`",
                size_text(need),
                size_text(limit)
            );
            return Err(Error::new(Status::Limit, detail));
        }
        let available = available_bytes().filter(|bytes| need > *bytes && !huge);
        available.map_or(Ok(()), |bytes| {
            let cause = io::Error::other(format!("{} are available", size_text(bytes)));
            Err(memory_error(len, huge, &cause))
        })
    }

    /// What this machine can give, and this process's control group at the most; `None` if the
    /// system does not say.
    fn available_bytes() -> Option<u64> {
        let text = |path: &str| std::fs::read_to_string(path).ok();
        let machine = text("/proc/meminfo").and_then(|text| {
            let kib = |key: &str| -> Option<u64> {
                let line = text.lines().find_map(|line| line.strip_prefix(key))?;
                line.trim().strip_suffix("kB")?.trim().parse().ok()
            };
            Some((kib("MemAvailable:")? + kib("SwapFree:").unwrap_or(0)) << 10)
        });
        let group = text("/proc/self/cgroup").and_then(|groups| {
            let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
            text(&format!("/sys/fs/cgroup{path}/memory.max"))?.trim().parse().ok()
        });
        machine.into_iter().chain(group).min()
    }

    fn memory_error(len: usize, huge: bool, cause: &io::Error) -> Error {
        let size = size_text(len as u64);
        let what = format!("cannot get {size} of shared memory");
        if is_descriptor_limit(cause) {
            return errno::shortage(&what, cause);
        }
        if huge {
            let pages = len.div_ceil(HUGE_PAGE_BYTES);
            let detail = format!(
                "no huge pages for {size} ({cause}): reserve them with \
                 `sysctl vm.nr_hugepages={pages}` or more"
            );
            return Error::new(Status::Limit, detail);
        }
        let detail = format!("{what}: {cause}; {}", errno::memory_remedy());
        Error::new(Status::NoMemory, detail)
    }

    fn lock_error(len: usize, cause: &io::Error) -> Error {
        let size = size_text(len as u64);
        let limit = crate::mem::region::memlock_limit();
        let limit = limit.map_or("unlimited".into(), size_text);
        let detail = format!(
            "cannot lock {size} ({cause}): RLIMIT_MEMLOCK is {limit}; raise it with \
             `ulimit -l` or in limits.conf"
        );
        Error::new(Status::Limit, detail)
    }
}

/// `64 KiB`, `1.5 MiB`.
#[cfg(not(loom))]
pub(super) fn size_text(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{} KiB", bytes.div_ceil(1024)),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

/// RLIMIT_MEMLOCK in bytes; `None` is unlimited.
#[cfg(not(loom))]
pub fn memlock_limit() -> Option<u64> {
    limit_of(libc::RLIMIT_MEMLOCK)
}

/// A limit of this process; `None` is unlimited.
#[cfg(not(loom))]
pub(super) fn limit_of(resource: libc::__rlimit_resource_t) -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the answer.
    let got = unsafe { libc::getrlimit(resource, &mut limit) };
    (got == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// Whether the limit of open files was in the way.
#[cfg(not(loom))]
pub(crate) fn is_descriptor_limit(cause: &std::io::Error) -> bool {
    matches!(cause.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// The same region for the model checker: every word tracked, payload races found.
#[cfg(loom)]
mod modelled {
    use super::*;
    use loom::cell::UnsafeCell;
    use std::sync::Arc;

    pub struct Region {
        cells: Vec<Cell>,
        words: Vec<UnsafeCell<[u8; 8]>>,
    }

    // SAFETY: loom checks every access.
    unsafe impl Send for Region {}
    // SAFETY: loom checks every access.
    unsafe impl Sync for Region {}

    impl Region {
        pub fn heap(len: usize) -> Region {
            let words = len.div_ceil(8);
            Region {
                cells: (0..words).map(|_| Cell::new(0)).collect(),
                words: (0..words).map(|_| UnsafeCell::new([0; 8])).collect(),
            }
        }

        pub fn size(&self) -> usize {
            self.cells.len() * 8
        }

        pub fn cells<const N: usize>(&self, at: usize) -> &[Cell; N] {
            (&self.cells[at / 8..at / 8 + N]).try_into().unwrap()
        }

        pub fn cell(&self, at: usize) -> &Cell {
            &self.cells[at / 8]
        }
    }

    pub struct CellRef(Arc<Region>, usize);

    impl CellRef {
        pub fn new(region: &Arc<Region>, at: usize) -> CellRef {
            CellRef(region.clone(), at)
        }
    }

    impl std::ops::Deref for CellRef {
        type Target = Cell;
        fn deref(&self) -> &Cell {
            self.0.cell(self.1)
        }
    }

    #[derive(Clone)]
    pub struct Extent {
        region: Arc<Region>,
        from: usize,
        len: u64,
    }

    impl Extent {
        pub fn new(region: Arc<Region>, from: usize, len: usize) -> Extent {
            Extent { region, from, len: len as u64 }
        }

        pub fn size(&self) -> u64 {
            self.len
        }

        pub fn words(&self) -> &[Cell] {
            &self.region.cells[self.from / 8..(self.from + self.len as usize) / 8]
        }

        fn word(&self, at: u64, i: usize) -> &UnsafeCell<[u8; 8]> {
            &self.region.words[(self.from + at as usize) / 8 + i]
        }

        pub fn write(&self, at: u64, bytes: &[u8]) {
            for (i, chunk) in bytes.chunks(8).enumerate() {
                // SAFETY: loom reports a race if there is one.
                let put =
                    |to: *mut [u8; 8]| unsafe { (&mut *to)[..chunk.len()].copy_from_slice(chunk) };
                self.word(at, i).with_mut(put);
            }
        }

        pub fn try_write(&self, at: u64, bytes: &[u8]) -> bool {
            let fits = at + bytes.len() as u64 <= self.len;
            if fits {
                self.write(at, bytes);
            }
            fits
        }

        pub fn try_stream(&self, at: u64, bytes: &[u8]) -> bool {
            self.try_write(at, bytes)
        }

        #[allow(clippy::mut_from_ref, reason = "a leaked copy, for the race check only")]
        pub fn lend_mut(&self, at: u64, len: usize) -> &mut [u8] {
            for i in 0..len.div_ceil(8) {
                self.word(at, i).with_mut(|_| ());
            }
            Box::leak(vec![0; len].into_boxed_slice())
        }

        pub fn lend(&self, at: u64, len: u32) -> Option<&[u8]> {
            let mut bytes = Vec::new();
            for i in 0..(len as usize).div_ceil(8) {
                // SAFETY: loom reports a race if there is one.
                self.word(at, i).with(|from| bytes.extend(unsafe { *from }));
            }
            bytes.truncate(len as usize);
            Some(bytes.leak())
        }

        pub fn prefetch(&self, _at: u64) {}

        pub fn prefetch_write(&self, _at: u64) {}
    }

    pub fn stream_fence() {}

    #[allow(dead_code)]
    fn unused(_: Want, _: Error, _: Status) {}
}
