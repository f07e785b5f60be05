// SPDX-License-Identifier: MIT OR Apache-2.0
//! Registered memory, as C sees it: lend it, and name it.

use super::attr;
use super::handle::{self, squall_group_t};
use super::{guard, refusal, refuse};
use crate::error::{Error, Status};
use crate::mem::cuda::{Cuda, Device};
use crate::mem::dmabuf::DmaBuf;
use crate::mem::host::Host;
use crate::mem::place::Place;
use crate::registered::{Memories, Path, Rights};
use std::ffi::{c_int, c_void};
use std::mem::size_of;
use std::os::fd::BorrowedFd;

/// Memory of the host's, at `address`.
pub const SQUALL_MEMORY_HOST: u32 = 0;
/// Memory that CUDA has allocated, at the device address `address`.
pub const SQUALL_MEMORY_CUDA: u32 = 1;
/// Memory behind a dma-buf's `descriptor`, from `offset` on.
pub const SQUALL_MEMORY_DMABUF: u32 = 2;

/// Other members may read it.
pub const SQUALL_MEMORY_READ: u32 = 1;
/// Other members may write it.
pub const SQUALL_MEMORY_WRITE: u32 = 2;
/// Only if a network device reads and writes it itself; else SQUALL_NOT_DIRECT.
pub const SQUALL_MEMORY_DIRECT: u32 = 4;
const KNOWN_FLAGS: u32 = 7;

/// How memory is reached: copied to and from sockets.
pub const SQUALL_PATH_STAGED: u32 = 1;
/// The same, and between them and the device through pinned memory of the host's.
pub const SQUALL_PATH_BOUNCE: u32 = 2;
/// A network device reads and writes the host's memory itself.
pub const SQUALL_PATH_DIRECT: u32 = 3;
/// A network device reads and writes the device's memory, through a dma-buf.
pub const SQUALL_PATH_DMABUF: u32 = 4;
/// The same through the driver's module for that (peermem).
pub const SQUALL_PATH_PEERMEM: u32 = 5;
const _: () = assert!(SQUALL_PATH_STAGED == Path::Staged as u32);
const _: () = assert!(SQUALL_PATH_BOUNCE == Path::Bounce as u32);
const _: () = assert!(SQUALL_PATH_DIRECT == Path::Direct as u32);
const _: () = assert!(SQUALL_PATH_DMABUF == Path::DmaBuf as u32);
const _: () = assert!(SQUALL_PATH_PEERMEM == Path::Peermem as u32);

/// Memory of this member that is registered; 0 is none.
pub type squall_memory_t = u64;

/// What is to be registered.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct squall_memory_attr_t {
    /// Set by `squall_memory_attr_init`.
    pub size: u32,
    /// `SQUALL_MEMORY_HOST`, `SQUALL_MEMORY_CUDA` or `SQUALL_MEMORY_DMABUF`.
    pub kind: u32,
    /// Of the host's memory, or the device's; NULL for a dma-buf.
    pub address: *mut c_void,
    /// Bytes.
    pub length: u64,
    /// Of a dma-buf: where in it the memory begins.
    pub offset: u64,
    /// Of a dma-buf; copied, and only looked at for that kind.
    pub descriptor: i32,
    /// `SQUALL_MEMORY_READ`, `SQUALL_MEMORY_WRITE`, `SQUALL_MEMORY_DIRECT`; without the first two it is
    /// for operations of this member's only.
    pub flags: u32,
}

/// Names registered memory at other members. Pass these 64 bytes on as they are, in a message say; they
/// permit nothing that the owner has not allowed.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct squall_ticket_t {
    pub words: [u64; 8],
}

/// What became of it. Fields that a library does not know are left as they are.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct squall_memory_info_t {
    /// Set by the caller: sizeof(squall_memory_info_t).
    pub size: u32,
    /// How others reach it: `SQUALL_PATH_…`.
    pub path: u32,
    /// Bytes.
    pub length: u64,
    /// `SQUALL_MEMORY_READ`, `SQUALL_MEMORY_WRITE`.
    pub flags: u32,
    /// Reserved: 0.
    pub reserved: u32,
}

/// Makes `attr` the default.
///
/// @param attr  May be NULL: nothing happens.
/// @param size  sizeof *attr.
///
/// Threads: any. Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn squall_memory_attr_init(attr: *mut squall_memory_attr_t, size: u32) {
    // SAFETY: the caller says that `size` bytes are there.
    unsafe { attr::init(attr.cast(), size) }
}

/// Bytes of the structs in version 1; smaller ones are refused.
const MEMORY_ATTR_V1: usize = 40;
const _: () = assert!(size_of::<squall_memory_attr_t>() == MEMORY_ATTR_V1);
const INFO_V1: usize = 24;
const _: () = assert!(size_of::<squall_memory_info_t>() == INFO_V1);

/// Runs `body` with the memory of a group's member.
pub(super) fn with(
    group: squall_group_t,
    body: impl FnOnce(&Memories) -> Result<i32, Error>,
) -> c_int {
    guard(|| {
        let open = match handle::lookup(group) {
            Ok(open) => open,
            Err(status) => return refusal::no_group(group, status),
        };
        let Some(memories) = &open.memories else {
            let detail = "registered memory needs a group whose members may change: open it with \
                          SQUALL_MEMBERSHIP_VIEWS";
            return refuse(Error::new(Status::Invalid, detail));
        };
        body(memories).unwrap_or_else(|error| match error.status {
            Status::Again => Status::Again as c_int,
            _ => refuse(error),
        })
    })
}

pub(super) fn invalid<T>(detail: impl Into<String>) -> Result<T, Error> {
    Err(Error::new(Status::Invalid, detail))
}

/// Lend memory to the other members, as far as `attr->flags` say, and to operations of this one.
///
/// @param attr    What. The memory must be there until `squall_memory_deregister` has returned, or
///                `squall_group_close`. Nothing is read or written but by operations on it.
/// @param memory  Gets its handle, on success only.
/// @return SQUALL_OK, or
///         SQUALL_INVALID, SQUALL_WRONG_SIZE  an argument; `squall_last_error` names it; or the group
///                            is one whose members do not change;
///         SQUALL_NOT_DIRECT  only direct access was asked for, and there is none;
///         SQUALL_LIMIT       4096 are registered, or the system's;
///         SQUALL_SYSTEM, SQUALL_NO_MEMORY  the device's driver, or the dma-buf's;
///         why the group is over; SQUALL_PANIC, SQUALL_NO_HANDLE, SQUALL_CLOSED.
///
/// Threads: any, and callbacks. Cost: the first call starts a thread, which moves the bytes; a device's
/// memory may be pinned. Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn squall_memory_register(
    group: squall_group_t,
    attr: *const squall_memory_attr_t,
    memory: *mut squall_memory_t,
) -> c_int {
    with(group, |memories| {
        // SAFETY: the caller says that it is NULL, or begins with its size and has so many bytes.
        let attr = unsafe { attr::adopt(attr, MEMORY_ATTR_V1, "attr")? };
        if memory.is_null() {
            return invalid("memory is NULL");
        }
        if attr.flags & !KNOWN_FLAGS != 0 {
            return invalid(format!(
                "attr.flags has unknown bits: {:#x}",
                attr.flags & !KNOWN_FLAGS
            ));
        }
        let rights = Rights {
            read: attr.flags & SQUALL_MEMORY_READ != 0,
            write: attr.flags & SQUALL_MEMORY_WRITE != 0,
        };
        let direct = attr.flags & SQUALL_MEMORY_DIRECT != 0;
        let number = memories.register(place_of(&attr)?, rights, direct)?;
        // SAFETY: not NULL, and the caller says that it can be written.
        unsafe { memory.write(number) };
        Ok(0)
    })
}

fn place_of(attr: &squall_memory_attr_t) -> Result<Place, Error> {
    if attr.length == 0 {
        return invalid("attr.length is 0");
    }
    match attr.kind {
        SQUALL_MEMORY_HOST => {
            let end = (attr.address.addr() as u64).checked_add(attr.length);
            if attr.address.is_null() || end.is_none() {
                return invalid(format!(
                    "attr.address is {:p}, of {} bytes",
                    attr.address, attr.length
                ));
            }
            // SAFETY: the caller lends it until it takes it back (above).
            Ok(Place::Host(unsafe { Host::new(attr.address.cast(), attr.length) }))
        }
        SQUALL_MEMORY_CUDA => {
            Device::new(Cuda::get()?, attr.address.addr() as u64, attr.length).map(Place::Device)
        }
        SQUALL_MEMORY_DMABUF => {
            if attr.descriptor < 0 || !attr.address.is_null() {
                return invalid(format!(
                    "a dma-buf has a descriptor, not an address: descriptor {}, address {:p}",
                    attr.descriptor, attr.address
                ));
            }
            // SAFETY: a number that the caller says is a descriptor of its; it is copied at once.
            let descriptor = unsafe { BorrowedFd::borrow_raw(attr.descriptor) };
            DmaBuf::new(descriptor, attr.offset, attr.length).map(Place::DmaBuf)
        }
        kind => invalid(format!("attr.kind {kind} is none that this library knows")),
    }
}

/// Take registered memory back: when this has returned, nobody reads or writes it any more. Operations
/// of others on it end with SQUALL_NO_REGION.
///
/// @return SQUALL_OK, or
///         SQUALL_AGAIN    operations of this member's on it are not over: poll for completions first;
///         SQUALL_INVALID  no such memory is registered; or as `squall_memory_register`;
///         SQUALL_PANIC, SQUALL_NO_HANDLE, SQUALL_CLOSED.
///
/// Threads: any, and callbacks. Cost: waits for 256 KiB to be moved at the most. Since: 0.1
#[unsafe(no_mangle)]
pub extern "C" fn squall_memory_deregister(
    group: squall_group_t,
    memory: squall_memory_t,
) -> c_int {
    with(group, |memories| memories.deregister(memory).map(|()| 0))
}

/// What names registered memory at other members.
///
/// @param ticket  Gets it, on success only.
/// @return As `squall_memory_deregister`, but SQUALL_AGAIN.
///
/// Threads: any, and callbacks. Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn squall_memory_ticket(
    group: squall_group_t,
    memory: squall_memory_t,
    ticket: *mut squall_ticket_t,
) -> c_int {
    with(group, |memories| {
        if ticket.is_null() {
            return invalid("ticket is NULL");
        }
        let words = memories.ticket(memory)?.words();
        // SAFETY: not NULL, and the caller says that it can be written.
        unsafe { ticket.write(squall_ticket_t { words }) };
        Ok(0)
    })
}

/// What was registered, and how others reach it.
///
/// @param info  Gets what fits into `info->size` bytes, on success only; set `size` before. Afterwards it
///              says how many of them this library knows.
/// @return As `squall_memory_ticket`, and SQUALL_WRONG_SIZE.
///
/// Threads: any, and callbacks. Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn squall_memory_info(
    group: squall_group_t,
    memory: squall_memory_t,
    info: *mut squall_memory_info_t,
) -> c_int {
    with(group, |memories| {
        if info.is_null() {
            return invalid("info is NULL");
        }
        // SAFETY: not NULL, and a `u32` comes first, says the caller.
        let size = unsafe { info.cast::<u32>().read_unaligned() };
        if (size as usize) < INFO_V1 {
            let detail = format!("info.size is {size}: set it to sizeof(squall_memory_info_t)");
            return Err(Error::new(Status::WrongSize, detail));
        }
        let known = memories.info(memory)?;
        let Rights { read, write } = known.rights;
        let flags = u32::from(read) * SQUALL_MEMORY_READ + u32::from(write) * SQUALL_MEMORY_WRITE;
        let (path, length) = (known.path as u32, known.bytes);
        let ours = squall_memory_info_t { size, path, length, flags, reserved: 0 };
        // SAFETY: so many bytes can be written, says the caller.
        unsafe { attr::answer(info, size as usize, &ours) };
        Ok(0)
    })
}
