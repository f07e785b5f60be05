// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that the device may read or write: registered with it, and given back by dropping it.
//!
//! R1  Registered memory stays mapped and where it is as long as it is registered: a `Memory` holds
//!     its region, or what else keeps it.
//! R2  Never with relaxed ordering: a counter must not overtake what it counts on its way through the
//!     bus (F2). There is no way to ask for it here.
//! R3  What a peer may write is read by words (`Cell`), and written by nobody else; but a mirror, where
//!     what comes in notes is written here (`notes`): of its block the peer's device writes the beat only,
//!     and of a ring what nobody here has been told of.
//!
//! Cost: registering pins the pages: tens of microseconds, and more with more pages; system calls.

use super::device::{Device, of_errno, refused};
use super::sys::bindings::*;
use crate::error::{Error, Status};
use crate::mem::Region;
use std::any::Any;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// A peer's memory as it is written to: what it has told of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Remote {
    pub address: u64,
    pub bytes: u64,
    pub key: u32,
}

/// What peers may do with memory that they have the key of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rights {
    pub write: bool,
    pub read: bool,
}

impl Rights {
    fn access(self) -> u32 {
        let flag = |wanted: bool, flag: ibv_access_flags| if wanted { flag.0 } else { 0 };
        // What a peer may write, and what my own reads fill, the device may write.
        flag(self.write, ibv_access_flags::IBV_ACCESS_REMOTE_WRITE)
            | flag(self.read, ibv_access_flags::IBV_ACCESS_REMOTE_READ)
            | ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0
    }
}

/// Registered memory.
pub struct Memory {
    mr: NonNull<ibv_mr>,
    /// Where its first byte is for the device; of a descriptor's memory the number that was chosen.
    address: u64,
    bytes: u64,
    local_key: u32,
    /// Of this process's own pages: where they begin for the processor.
    first: Option<NonNull<u8>>,
    device: Arc<Device>,
    /// Keeps the pages (R1).
    _keep: Option<Arc<dyn Any + Send + Sync>>,
}

// SAFETY: libibverbs' objects may be used by any thread (`Device`); the rest does not change.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Memory that my own writes are read from. The region may be a read-only map where the device can
    /// do that (soft-RoCE cannot).
    ///
    /// Errors: `Limit` or `NoMemory` of this process; the text names value and remedy.
    pub fn source(device: &Arc<Device>, region: Arc<Region>) -> Result<Memory, Error> {
        Memory::of_region(device, region, 0)
    }

    /// A mirror: memory that a peer writes.
    ///
    /// Errors: as `source`.
    pub fn target(device: &Arc<Device>, region: Arc<Region>) -> Result<Memory, Error> {
        Memory::of_region(device, region, Rights { write: true, read: false }.access())
    }

    /// Memory that my own reads fill.
    ///
    /// Errors: as `source`.
    pub fn sink(device: &Arc<Device>, region: Arc<Region>) -> Result<Memory, Error> {
        Memory::of_region(device, region, Rights::default().access())
    }

    fn of_region(device: &Arc<Device>, region: Arc<Region>, access: u32) -> Result<Memory, Error> {
        let first = std::ptr::from_ref(region.cell(0)).cast_mut().cast::<u8>();
        let bytes = region.size();
        let first = NonNull::new(first).expect("a reference is never null");
        // SAFETY: the region's bytes are mapped as long as `region` is kept, and are only accessed as
        // `Cell`s or by the ring's protocol, which allows for others that write.
        unsafe { Memory::register(device, first, bytes, access, Some(region)) }
    }

    /// Memory of the application's, or of an accelerator that the kernel can map for the device.
    ///
    /// Errors: as `source`; `System` with EFAULT where the device cannot reach such memory.
    ///
    /// # Safety
    /// The bytes stay mapped until this is dropped. With `rights.write`, or if reads are to fill them,
    /// they change at any time: no reference to them exists meanwhile.
    pub unsafe fn foreign(
        device: &Arc<Device>,
        first: NonNull<u8>,
        bytes: usize,
        rights: Rights,
    ) -> Result<Memory, Error> {
        // SAFETY: the caller's promise.
        unsafe { Memory::register(device, first, bytes, rights.access(), None) }
    }

    /// # Safety
    /// As `foreign`, unless `keep` sees to it.
    unsafe fn register(
        device: &Arc<Device>,
        first: NonNull<u8>,
        bytes: usize,
        access: u32,
        keep: Option<Arc<dyn Any + Send + Sync>>,
    ) -> Result<Memory, Error> {
        let (domain, table) = (device.domain.as_ptr(), &device.table);
        // SAFETY: a protection domain that is alive; the bytes are mapped (the caller's promise).
        let mr = unsafe { (table.reg_mr)(domain, first.as_ptr().cast(), bytes, access as i32) };
        let mr = NonNull::new(mr).ok_or_else(|| unregistered(device, bytes))?;
        let mut memory = Memory::new(device, mr, first.addr().get() as u64, bytes);
        // What nobody keeps here may be an accelerator's: the processor leaves it alone.
        memory.first = keep.is_some().then_some(first);
        memory._keep = keep;
        Ok(memory)
    }

    /// Memory behind a descriptor (dma-buf): of an accelerator, or of another process. `address` is what
    /// its first byte is called from now on. The descriptor may be closed afterwards.
    ///
    /// Errors: `System` with EOPNOTSUPP where the library, the kernel or the device cannot; else as
    /// `source`.
    pub fn dmabuf(
        device: &Arc<Device>,
        descriptor: BorrowedFd<'_>,
        offset: u64,
        bytes: usize,
        address: u64,
        rights: Rights,
    ) -> Result<Memory, Error> {
        let what = format!("{}: memory of a descriptor cannot be registered", device.name());
        let Some(register) = device.table.reg_dmabuf_mr else {
            return Err(of_errno(libc::EOPNOTSUPP, &format!("{what} (rdma-core is too old)")));
        };
        let (domain, fd) = (device.domain.as_ptr(), descriptor.as_raw_fd());
        // SAFETY: a protection domain that is alive, an open descriptor; the kernel keeps the memory
        // as long as it is registered, and it is none that this process addresses by Rust references.
        let mr = unsafe { register(domain, offset, bytes, address, fd, rights.access() as i32) };
        let mr = NonNull::new(mr).ok_or_else(|| refused(&what))?;
        Ok(Memory::new(device, mr, address, bytes))
    }

    fn new(device: &Arc<Device>, mr: NonNull<ibv_mr>, address: u64, bytes: usize) -> Memory {
        // SAFETY: just registered, so alive.
        let local_key = unsafe { (*mr.as_ptr()).lkey };
        let (bytes, device) = (bytes as u64, device.clone());
        Memory { mr, address, bytes, local_key, first: None, device, _keep: None }
    }

    /// What a peer must be told to write here.
    pub fn remote(&self) -> Remote {
        // SAFETY: registered as long as `self`.
        let key = unsafe { (*self.mr.as_ptr()).rkey };
        Remote { address: self.address, bytes: self.bytes, key }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the processor can read it, too.
    #[inline]
    pub(super) fn may_copy(&self) -> bool {
        self.first.is_some()
    }

    /// Copies bytes from byte `from`, which stay still meanwhile (`may_copy`).
    #[inline]
    pub(super) fn copy(&self, from: u64, to: &mut [u8]) {
        let inside = from.checked_add(to.len() as u64).is_some_and(|end| end <= self.bytes);
        assert!(inside, "bytes outside their memory");
        let first = self.first.expect("the processor can read it");
        // SAFETY: in bounds by the line above; mapped, since the region is kept; what is posted was
        // published by its one writer and stays still until it is released (S of `mem/order.rs`).
        unsafe {
            let from = first.as_ptr().add(from as usize);
            std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len());
        }
    }

    /// Where bytes `from..upto` are for the device, and by which key; panics if they are not all its own.
    #[inline]
    pub(super) fn part(&self, from: u64, upto: u64) -> ibv_sge {
        assert!(from < upto && upto <= self.bytes, "a span outside its memory");
        let length = u32::try_from(upto - from).expect("a span is shorter than a write");
        ibv_sge { addr: self.address + from, length, lkey: self.local_key }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if !self.device.is_mine() {
            return; // X3: the pages are the child's own copy, or shared and kept by the parent.
        }
        // SAFETY: registered, and deregistered once; the device is alive (X1). No write of mine that
        // reads it is under way, or its queue ends with an error: the device checks keys itself.
        let refused = unsafe { (self.device.table.dereg_mr)(self.mr.as_ptr()) };
        if refused != 0 {
            let cause = io::Error::from_raw_os_error(refused);
            // The device may go on writing there: the pages are left to it.
            crate::notice!("{}: memory cannot be deregistered: {cause}", self.device.name());
            std::mem::forget(self._keep.take());
        }
    }
}

/// Why memory was not registered: above all, pages are locked for it.
fn unregistered(device: &Device, bytes: usize) -> Error {
    let cause = io::Error::last_os_error();
    let what = format!("{}: cannot register {bytes} bytes", device.name());
    let limit = crate::mem::region::memlock_limit();
    match (cause.raw_os_error(), limit) {
        (Some(libc::ENOMEM), Some(limit)) => {
            let detail = format!(
                "{what}: {cause}; RLIMIT_MEMLOCK is {limit} bytes: raise it with `ulimit -l`, or \
                 memlock in limits.conf, or LimitMEMLOCK= of the service"
            );
            Error::new(Status::Limit, detail)
        }
        _ => of_errno(cause.raw_os_error().unwrap_or(0), &what),
    }
}
