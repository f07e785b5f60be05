// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of a CUDA device, through libcuda: loaded when somebody registers some, so that nothing of it
//! is needed to build or to run without.
//!
//! U1  Bytes go through a pinned buffer of the host's. The copies are asynchronous on a stream of ours,
//!     and that is synchronised before anybody hears that they are done: then what came is visible to
//!     work that begins on the device, and what goes has been read.
//! U2  A device's memory is never touched by the processor, and no call of the socket's has it as a
//!     buffer.
//! U3  What has come from a socket and cannot be copied on has failed for good (`has_failed`): the bytes
//!     are gone, and so is the context, as a rule.
//! U4  What a network device has written here is visible to work that begins after the driver was asked
//!     for that (`arrived`), if it does not keep that order by itself.
//!
//! The context is that of the memory; where it has none, the device's primary one. It is current in a
//! thread only during calls of ours.

use super::Cell;
use super::host::Host;
use crate::error::{Error, Status};
use crate::log_sink::{Level, say};
use crate::mutant;
use rustix::io::Errno;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::ptr::{null, null_mut};
use std::sync::{Mutex, OnceLock, PoisonError};

#[cfg(all(test, not(loom)))]
pub mod real;
#[cfg(all(test, not(loom)))]
pub mod standin;

/// Bytes of the pinned buffer of a region.
const BOUNCE_BYTES: usize = 256 << 10;
/// Names the library, if it is not where the loader finds it.
const VARIABLE: &str = "SQUALL_CUDA_LIBRARY";
const LIBRARY: &CStr = c"libcuda.so.1";

/// Numbers of the driver's interface.
const ATTRIBUTE_CONTEXT: c_int = 1;
const ATTRIBUTE_MEMORY_TYPE: c_int = 2;
const ATTRIBUTE_IS_MANAGED: c_int = 8;
const ATTRIBUTE_DEVICE_ORDINAL: c_int = 9;
const DEVICE_FLUSHES: c_int = 117;
const DEVICE_ORDER: c_int = 118;
const DEVICE_EXPORTS: c_int = 124;
const FLUSH_BY_HOST: c_int = 1;
const FLUSH_CURRENT_CONTEXT: c_int = 0;
const TO_OWNER: c_int = 100;
const HANDLE_DMA_BUF: c_int = 1;
const MEMORY_TYPE_DEVICE: c_uint = 2;
const HOST_PORTABLE: c_uint = 1;
const STREAM_NON_BLOCKING: c_uint = 1;

type Code = c_int;

macro_rules! table {
    ($($field:ident = $symbol:literal: fn($($argument:ty),*);)*) => {
        /// What we call of it.
        pub struct Cuda {
            $($field: unsafe extern "C" fn($($argument),*) -> Code,)*
            export: Option<Export>,
            flush: Option<Flush>,
            #[cfg_attr(not(test), expect(dead_code, reason = "it stays loaded"))]
            library: Library,
        }

        impl Cuda {
            fn of(library: Library) -> Result<Cuda, Error> {
                Ok(Cuda {
                    $($field: {
                        let found = library.symbol($symbol)?;
                        // SAFETY: the driver's function of that name has this signature.
                        unsafe {
                            std::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn($($argument),*) -> Code,
                            >(found)
                        }
                    },)*
                    export: library.symbol(c"cuMemGetHandleForAddressRange").ok().map(|found| {
                        // SAFETY: the driver's function of that name has this signature.
                        unsafe { std::mem::transmute::<*mut c_void, Export>(found) }
                    }),
                    flush: library.symbol(c"cuFlushGPUDirectRDMAWrites").ok().map(|found| {
                        // SAFETY: the driver's function of that name has this signature.
                        unsafe { std::mem::transmute::<*mut c_void, Flush>(found) }
                    }),
                    library,
                })
            }
        }
    };
}

table! {
    init = c"cuInit": fn(c_uint);
    error_name = c"cuGetErrorName": fn(Code, *mut *const c_char);
    pointer = c"cuPointerGetAttribute": fn(*mut c_void, c_int, u64);
    retain = c"cuDevicePrimaryCtxRetain": fn(*mut *mut c_void, c_int);
    release = c"cuDevicePrimaryCtxRelease_v2": fn(c_int);
    push = c"cuCtxPushCurrent_v2": fn(*mut c_void);
    pop = c"cuCtxPopCurrent_v2": fn(*mut *mut c_void);
    pin = c"cuMemHostAlloc": fn(*mut *mut c_void, usize, c_uint);
    unpin = c"cuMemFreeHost": fn(*mut c_void);
    stream = c"cuStreamCreate": fn(*mut *mut c_void, c_uint);
    end_stream = c"cuStreamDestroy_v2": fn(*mut c_void);
    to_device = c"cuMemcpyHtoDAsync_v2": fn(u64, *const c_void, usize, *mut c_void);
    to_host = c"cuMemcpyDtoHAsync_v2": fn(*mut c_void, u64, usize, *mut c_void);
    synchronise = c"cuStreamSynchronize": fn(*mut c_void);
    device_attribute = c"cuDeviceGetAttribute": fn(*mut c_int, c_int, c_int);
}

/// `cuMemGetHandleForAddressRange`, which older drivers have not.
type Export = unsafe extern "C" fn(*mut c_void, u64, usize, c_int, u64) -> Code;

/// `cuFlushGPUDirectRDMAWrites`, likewise.
type Flush = unsafe extern "C" fn(c_int, c_int) -> Code;

/// A library that is never unloaded.
struct Library(*mut c_void);

// SAFETY: a handle for `dlsym`, which any thread may call.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    fn open(name: &CStr) -> Result<Library, Error> {
        // SAFETY: a name; what the library does as it is loaded is the driver's.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            let detail = format!(
                "libcuda cannot be loaded ({}): install the driver, or name the library in {VARIABLE}",
                last_error()
            );
            return Err(Error::new(Status::System, detail));
        }
        Ok(Library(handle))
    }

    fn symbol(&self, name: &CStr) -> Result<*mut c_void, Error> {
        // SAFETY: a handle of `dlopen`, and a name.
        let found = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        if found.is_null() {
            let detail = format!("libcuda is too old: {}; install a newer driver", last_error());
            return Err(Error::new(Status::System, detail));
        }
        Ok(found)
    }
}

fn last_error() -> String {
    // SAFETY: a text of this thread's, or NULL.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "no reason".into();
    }
    // SAFETY: not NULL: it ends with a NUL, and lives until the next such call of this thread.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

impl Cuda {
    /// The one of this process. An error says what is missing; the next call tries again.
    pub fn get() -> Result<&'static Cuda, Error> {
        static CUDA: OnceLock<Cuda> = OnceLock::new();
        if let Some(cuda) = CUDA.get() {
            return Ok(cuda);
        }
        // SAFETY: it takes a number and answers one.
        let trusted = unsafe { libc::getauxval(libc::AT_SECURE) } == 0;
        let named = std::env::var_os(VARIABLE).filter(|_| trusted).map(|name| name.into_vec());
        let named = named.and_then(|name| CString::new(name).ok());
        let cuda = Cuda::load(&named.unwrap_or_else(|| LIBRARY.into()))?;
        Ok(CUDA.get_or_init(|| cuda))
    }

    pub fn load(name: &CStr) -> Result<Cuda, Error> {
        let cuda = Cuda::of(Library::open(name)?)?;
        // SAFETY: the call takes a number that has to be 0.
        cuda.check("cuInit", unsafe { (cuda.init)(0) })?;
        Ok(cuda)
    }

    fn check(&self, call: &str, code: Code) -> Result<(), Error> {
        if code == 0 {
            return Ok(());
        }
        let mut name = null();
        // SAFETY: a place for a pointer to a static text.
        let known = unsafe { (self.error_name)(code, &raw mut name) } == 0 && !name.is_null();
        // SAFETY: not NULL: a static text with a NUL.
        let name =
            if known { unsafe { CStr::from_ptr(name) }.to_string_lossy() } else { "".into() };
        let detail = format!("{call} has failed: {name} ({code})");
        let status = if code == 2 { Status::NoMemory } else { Status::System };
        Err(Error::new(status, detail))
    }

    /// An attribute of a device address; `None`: it has none.
    fn attribute<T: Copy>(&self, which: c_int, address: u64, none: T) -> Option<T> {
        let mut value = none;
        // SAFETY: a place for a value of the type that this attribute has.
        let code = unsafe { (self.pointer)((&raw mut value).cast(), which, address) };
        (code == 0).then_some(value)
    }

    /// Whether it is a device's, and whose.
    fn device_of(&self, address: u64) -> Option<c_int> {
        let kind = self.attribute(ATTRIBUTE_MEMORY_TYPE, address, 0 as c_uint)?;
        let managed = self.attribute(ATTRIBUTE_IS_MANAGED, address, 0 as c_uint).unwrap_or(0);
        let is_device = kind == MEMORY_TYPE_DEVICE || managed != 0;
        self.attribute(ATTRIBUTE_DEVICE_ORDINAL, address, 0 as c_int).filter(|_| is_device)
    }

    /// A figure of a device; `None`: this driver has none.
    fn figure(&self, which: c_int, device: c_int) -> Option<c_int> {
        let mut value = 0;
        // SAFETY: a place for a number; a device that the driver has named.
        let code = unsafe { (self.device_attribute)(&raw mut value, which, device) };
        (code == 0).then_some(value)
    }

    /// With that context current.
    fn within<T>(
        &self,
        context: Handle,
        body: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        // SAFETY: a context that this driver has given out.
        self.check("cuCtxPushCurrent", unsafe { (self.push)(context.0) })?;
        let outcome = body();
        let mut popped = null_mut();
        // SAFETY: a place for a pointer; what is popped was pushed above.
        unsafe { (self.pop)(&raw mut popped) };
        outcome
    }
}

/// A context, a stream or an address of the driver's.
#[derive(Clone, Copy, Debug)]
struct Handle(*mut c_void);

// SAFETY: names of the driver's, which any thread may use.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

/// The way to a device and back.
#[derive(Debug)]
struct Bounce {
    pinned: Handle,
    host: Host,
    stream: Handle,
}

/// Memory of a device.
pub struct Device {
    cuda: &'static Cuda,
    address: u64,
    bytes: u64,
    device: c_int,
    context: Handle,
    /// That context is the device's primary one, and retained.
    is_primary: bool,
    bounce: Mutex<Bounce>,
    failed: Cell,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes at {:#x} of a device", self.bytes, self.address)
    }
}

impl Device {
    /// `bytes` bytes at a device's `address`. They are copied by the driver, which finds out what is not
    /// there: so a wrong address is an error.
    ///
    /// Errors: `Invalid`: they are no device's; `System`, `NoMemory`: what the driver says.
    pub fn new(cuda: &'static Cuda, address: u64, bytes: u64) -> Result<Device, Error> {
        let device = cuda.device_of(address);
        let last = bytes.checked_sub(1).and_then(|last| address.checked_add(last));
        let ends_there = last.and_then(|last| cuda.device_of(last)) == device;
        let Some(device) = device.filter(|_| ends_there) else {
            let detail = format!(
                "{bytes} bytes at {address:#x} are no memory that CUDA has allocated on one device"
            );
            return Err(Error::new(Status::Invalid, detail));
        };
        let own = cuda.attribute(ATTRIBUTE_CONTEXT, address, null_mut::<c_void>());
        let own = own.filter(|context| !context.is_null());
        let mut context = Handle(own.unwrap_or(null_mut()));
        if own.is_none() {
            // SAFETY: a place for a pointer, and a device that the driver has named.
            let code = unsafe { (cuda.retain)(&raw mut context.0, device) };
            cuda.check("cuDevicePrimaryCtxRetain", code)?;
        }
        let is_primary = own.is_none();
        let bounce = cuda.within(context, || Bounce::new(cuda)).inspect_err(|_| {
            if is_primary {
                // SAFETY: retained above.
                unsafe { (cuda.release)(device) };
            }
        })?;
        let (bounce, failed) = (Mutex::new(bounce), Cell::new(0));
        Ok(Device { cuda, address, bytes, device, context, is_primary, bounce, failed })
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn address(&self) -> u64 {
        self.address
    }

    /// A dma-buf of whole pages, and where in it this memory begins. An error: this driver, or this
    /// device, exports none of it.
    pub fn export(&self) -> Result<(OwnedFd, u64), Error> {
        let none = |detail: &str| Error::new(Status::NotDirect, detail);
        let export = self.cuda.export.ok_or_else(|| none("libcuda is too old for dma-bufs"))?;
        let (mut can, mut descriptor) = (0, -1);
        // SAFETY: a place for a number; a device that the driver has named.
        let code =
            unsafe { (self.cuda.device_attribute)(&raw mut can, DEVICE_EXPORTS, self.device) };
        self.cuda.check("cuDeviceGetAttribute", code)?;
        if can == 0 {
            return Err(none("the device exports no dma-bufs: its driver or kernel is too old"));
        }
        // What is exported begins and ends at a page of the host's.
        // SAFETY: it takes a number and answers one.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
        let offset = self.address % page;
        let bytes = (offset + self.bytes).next_multiple_of(page) as usize;
        self.cuda.within(self.context, || {
            let into = (&raw mut descriptor).cast();
            // SAFETY: a place for a descriptor; the driver knows whether the addresses are its.
            let code = unsafe { export(into, self.address - offset, bytes, HANDLE_DMA_BUF, 0) };
            self.cuda.check("cuMemGetHandleForAddressRange", code)
        })?;
        if descriptor < 0 {
            return Err(none("the driver has answered no descriptor"));
        }
        // SAFETY: the driver has made it for us.
        Ok((unsafe { OwnedFd::from_raw_fd(descriptor) }, offset))
    }

    /// Whether what a network device writes here can be made visible (U4); else it goes by copies.
    pub fn can_be_filled(&self) -> bool {
        let flushes = || self.cuda.figure(DEVICE_FLUSHES, self.device).unwrap_or(0);
        self.keeps_order() || (self.cuda.flush.is_some() && flushes() & FLUSH_BY_HOST != 0)
    }

    fn keeps_order(&self) -> bool {
        self.cuda.figure(DEVICE_ORDER, self.device).is_some_and(|order| order >= TO_OWNER)
    }

    /// What a network device has written here before is visible when this returns (U4). Waits for it.
    ///
    /// Errors: what the driver says.
    pub fn arrived(&self) -> Result<(), Error> {
        let Some(flush) = self.cuda.flush.filter(|_| !self.keeps_order()) else { return Ok(()) };
        self.cuda.within(self.context, || {
            // SAFETY: it takes numbers; a context is current.
            let code = unsafe { flush(FLUSH_CURRENT_CONTEXT, TO_OWNER) };
            self.cuda.check("cuFlushGPUDirectRDMAWrites", code)
        })
    }

    /// Some bytes that have come are lost (U3).
    pub fn has_failed(&self) -> bool {
        self.failed.observe() != 0
    }

    /// As `Host::send`.
    pub fn send(
        &self,
        socket: BorrowedFd<'_>,
        before: &[u8],
        from: u64,
        len: usize,
    ) -> Result<usize, Errno> {
        let len = len.min(BOUNCE_BYTES);
        let address = self.at(from, len);
        let bounce = self.bounce.lock().unwrap_or_else(PoisonError::into_inner);
        let copied = self.cuda.within(self.context, || {
            // SAFETY: the buffer is pinned, ours alone while it is locked, and that long; the
            // driver knows whether the address is one.
            let code =
                unsafe { (self.cuda.to_host)(bounce.pinned.0, address, len, bounce.stream.0) };
            self.cuda.check("cuMemcpyDtoHAsync", code)?;
            self.synchronise(&bounce)
        });
        match copied {
            Ok(()) => bounce.host.send(socket, before, 0, len),
            Err(error) => {
                self.fail(&error);
                Err(Errno::IO)
            }
        }
    }

    /// As `Host::receive`. When it returns they are visible on the device, or it `has_failed`.
    pub fn receive(&self, socket: BorrowedFd<'_>, from: u64, len: usize) -> Result<usize, Errno> {
        let bounce = self.bounce.lock().unwrap_or_else(PoisonError::into_inner);
        let count = bounce.host.receive(socket, 0, len.min(BOUNCE_BYTES))?;
        let address = self.at(from, count);
        let copied = self.cuda.within(self.context, || {
            // SAFETY: as in `send`.
            let code =
                unsafe { (self.cuda.to_device)(address, bounce.pinned.0, count, bounce.stream.0) };
            self.cuda.check("cuMemcpyHtoDAsync", code)?;
            if mutant!("cuda-not-synchronised") {
                return Ok(());
            }
            self.synchronise(&bounce)
        });
        if let Err(error) = copied {
            self.fail(&error); // U3
        }
        Ok(count)
    }

    fn synchronise(&self, bounce: &Bounce) -> Result<(), Error> {
        // SAFETY: a stream of ours.
        let code = unsafe { (self.cuda.synchronise)(bounce.stream.0) };
        self.cuda.check("cuStreamSynchronize", code)
    }

    #[cold]
    fn fail(&self, error: &Error) {
        if self.failed.take() {
            let text = format!("registered memory of a device ({self:?}) is lost: {error}");
            say(Level::Error, &text);
        }
    }

    fn at(&self, from: u64, len: usize) -> u64 {
        let end = from.checked_add(len as u64);
        assert!(end.is_some_and(|end| end <= self.bytes), "within the region");
        self.address + from
    }
}

impl Bounce {
    /// In the context that is current.
    fn new(cuda: &Cuda) -> Result<Bounce, Error> {
        let (mut pinned, mut stream) = (Handle(null_mut()), Handle(null_mut()));
        // SAFETY: a place for a pointer.
        let code = unsafe { (cuda.pin)(&raw mut pinned.0, BOUNCE_BYTES, HOST_PORTABLE) };
        cuda.check("cuMemHostAlloc", code)?;
        // SAFETY: a place for a pointer.
        let code = unsafe { (cuda.stream)(&raw mut stream.0, STREAM_NON_BLOCKING) };
        cuda.check("cuStreamCreate", code).inspect_err(|_| {
            // SAFETY: allocated above, and nobody has it.
            unsafe { (cuda.unpin)(pinned.0) };
        })?;
        // SAFETY: so many bytes, ours alone, freed after it.
        let host = unsafe { Host::new(pinned.0.cast(), BOUNCE_BYTES as u64) };
        Ok(Bounce { pinned, host, stream })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let bounce = self.bounce.get_mut().unwrap_or_else(PoisonError::into_inner);
        let (cuda, stream, pinned) = (self.cuda, bounce.stream.0, bounce.pinned.0);
        // If the context is gone, so are they.
        let _ = cuda.within(self.context, || {
            // SAFETY: both are ours, and nobody uses them again: every copy was synchronised.
            unsafe {
                (cuda.end_stream)(stream);
                (cuda.unpin)(pinned);
            }
            Ok(())
        });
        if self.is_primary {
            // SAFETY: retained in `new`, once.
            unsafe { (cuda.release)(self.device) };
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
