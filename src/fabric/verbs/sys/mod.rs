// SPDX-License-Identifier: MIT OR Apache-2.0
//! libibverbs, opened at run time: nothing of it is needed to build, and a process without it goes on
//! without RDMA.
//!
//! V1  A `Table` is all that the rest of this room calls: what libibverbs exports, or what a test puts
//!     there (`soft`). The functions that are inline in C go through pointers that the provider has put
//!     into its own objects; they are ported below.
//! V2  Types and layouts are those of rdma-core 44, the oldest supported (`bindings`, generated). Structs
//!     that have grown since are never made here, or with room to spare (`PortAttr`).
//!     The committed ones are for 64-bit x86: elsewhere a mutex of the C library has another size, and
//!     a counter that a device wrote needs another barrier (edge N of `mem/order.rs`). There nothing is
//!     loaded.
//! V3  The library is never closed again: its objects and its providers' threads may outlive us.
//!
//! Cost: a call is a call through a pointer, as in C.

#[rustfmt::skip]
#[allow(non_camel_case_types, non_snake_case, non_upper_case_globals, dead_code, unsafe_op_in_unsafe_fn)]
#[allow(clippy::all, missing_docs)]
pub mod bindings;
#[cfg(all(test, not(loom)))]
pub mod soft;
#[cfg(all(test, not(loom)))]
mod tests;

use crate::error::{Error, Status};
use bindings::*;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

const LIBRARY: &CStr = c"libibverbs.so.1";

/// Whether the bindings are this machine's (V2).
const FITS: bool = size_of::<libc::pthread_mutex_t>() == size_of::<pthread_mutex_t>()
    && size_of::<libc::pthread_cond_t>() == size_of::<pthread_cond_t>();

/// Lists devices; the one call that has no object to find its world by.
pub type DeviceList = Box<dyn Fn(*mut c_int) -> *mut *mut ibv_device + Send + Sync>;

macro_rules! table {
    (
        required { $($name:ident: fn($($arg:ty),*) $(-> $ret:ty)?;)* }
        optional { $($opt:ident: fn($($oarg:ty),*) $(-> $oret:ty)?;)* }
    ) => {
        /// The functions of libibverbs, without their prefix `ibv_`. Those that not every version or
        /// device has are optional.
        pub struct Table {
            pub get_device_list: DeviceList,
            $(pub $name: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)*
            $(pub $opt: Option<unsafe extern "C" fn($($oarg),*) $(-> $oret)?>,)*
        }

        impl Table {
            fn of(library: &Library) -> Result<Table, Error> {
                let list = library.required(concat!("ibv_get_device_list", "\0"))?;
                // SAFETY: the symbol of that name in libibverbs.so.1 has that type (`signatures`).
                let list = unsafe {
                    std::mem::transmute::<
                        *mut c_void,
                        unsafe extern "C" fn(*mut c_int) -> *mut *mut ibv_device,
                    >(list.as_ptr())
                };
                Ok(Table {
                    // SAFETY: the argument is null or a place for the count (`Device::list`).
                    get_device_list: Box::new(move |count| unsafe { list(count) }),
                    $($name: {
                        let symbol = library.required(concat!("ibv_", stringify!($name), "\0"))?;
                        // SAFETY: as above; a function and a data pointer have one size here.
                        unsafe {
                            std::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn($($arg),*) $(-> $ret)?,
                            >(symbol.as_ptr())
                        }
                    },)*
                    $($opt: library.optional(symbol_of(stringify!($opt))).map(|symbol| {
                        // SAFETY: as above.
                        unsafe {
                            std::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn($($oarg),*) $(-> $oret)?,
                            >(symbol.as_ptr())
                        }
                    }),)*
                })
            }
        }
    };
}

table! {
    required {
        free_device_list: fn(*mut *mut ibv_device);
        get_device_name: fn(*mut ibv_device) -> *const c_char;
        open_device: fn(*mut ibv_device) -> *mut ibv_context;
        close_device: fn(*mut ibv_context) -> c_int;
        query_device: fn(*mut ibv_context, *mut ibv_device_attr) -> c_int;
        query_port: fn(*mut ibv_context, u8, *mut _compat_ibv_port_attr) -> c_int;
        query_gid: fn(*mut ibv_context, u8, c_int, *mut ibv_gid) -> c_int;
        get_async_event: fn(*mut ibv_context, *mut ibv_async_event) -> c_int;
        ack_async_event: fn(*mut ibv_async_event);
        alloc_pd: fn(*mut ibv_context) -> *mut ibv_pd;
        dealloc_pd: fn(*mut ibv_pd) -> c_int;
        reg_mr: fn(*mut ibv_pd, *mut c_void, usize, c_int) -> *mut ibv_mr;
        dereg_mr: fn(*mut ibv_mr) -> c_int;
        create_comp_channel: fn(*mut ibv_context) -> *mut ibv_comp_channel;
        destroy_comp_channel: fn(*mut ibv_comp_channel) -> c_int;
        create_cq: fn(*mut ibv_context, c_int, *mut c_void, *mut ibv_comp_channel, c_int) -> *mut ibv_cq;
        destroy_cq: fn(*mut ibv_cq) -> c_int;
        get_cq_event: fn(*mut ibv_comp_channel, *mut *mut ibv_cq, *mut *mut c_void) -> c_int;
        ack_cq_events: fn(*mut ibv_cq, c_uint);
        create_qp: fn(*mut ibv_pd, *mut ibv_qp_init_attr) -> *mut ibv_qp;
        modify_qp: fn(*mut ibv_qp, *mut ibv_qp_attr, c_int) -> c_int;
        destroy_qp: fn(*mut ibv_qp) -> c_int;
    }
    optional {
        query_gid_ex: fn(*mut ibv_context, u32, u32, *mut ibv_gid_entry, u32, usize) -> c_int;
        reg_dmabuf_mr: fn(*mut ibv_pd, u64, usize, u64, c_int, c_int) -> *mut ibv_mr;
        query_qp_data_in_order: fn(*mut ibv_qp, ibv_wr_opcode, u32) -> c_int;
        qp_to_qp_ex: fn(*mut ibv_qp) -> *mut ibv_qp_ex;
        is_fork_initialized: fn() -> ibv_fork_status;
    }
}

/// The table's types are the header's: never called, checked when compiled.
#[allow(dead_code, unused_assignments)]
fn signatures(table: &mut Table) {
    table.free_device_list = ibv_free_device_list;
    table.get_device_name = ibv_get_device_name;
    table.open_device = ibv_open_device;
    table.close_device = ibv_close_device;
    table.query_device = ibv_query_device;
    table.query_port = ibv_query_port;
    table.query_gid = ibv_query_gid;
    table.get_async_event = ibv_get_async_event;
    table.ack_async_event = ibv_ack_async_event;
    table.alloc_pd = ibv_alloc_pd;
    table.dealloc_pd = ibv_dealloc_pd;
    table.reg_mr = ibv_reg_mr;
    table.dereg_mr = ibv_dereg_mr;
    table.create_comp_channel = ibv_create_comp_channel;
    table.destroy_comp_channel = ibv_destroy_comp_channel;
    table.create_cq = ibv_create_cq;
    table.destroy_cq = ibv_destroy_cq;
    table.get_cq_event = ibv_get_cq_event;
    table.ack_cq_events = ibv_ack_cq_events;
    table.create_qp = ibv_create_qp;
    table.modify_qp = ibv_modify_qp;
    table.destroy_qp = ibv_destroy_qp;
    table.query_gid_ex = Some(_ibv_query_gid_ex);
    table.reg_dmabuf_mr = Some(ibv_reg_dmabuf_mr);
    table.query_qp_data_in_order = Some(ibv_query_qp_data_in_order);
    table.qp_to_qp_ex = Some(ibv_qp_to_qp_ex);
    table.is_fork_initialized = Some(ibv_is_fork_initialized);
}

/// `ibv_query_gid_ex` is inline in C and calls a symbol of another name.
fn symbol_of(name: &'static str) -> String {
    let underscore = if name == "query_gid_ex" { "_" } else { "" };
    format!("{underscore}ibv_{name}\0")
}

impl Table {
    /// Opens libibverbs.
    ///
    /// Errors: `System`, with the remedy, if this machine has none, or one that is too old. Threads: any.
    /// Cost: reads files.
    pub fn load() -> Result<Arc<Table>, Error> {
        if !FITS {
            let detail = "RDMA is for 64-bit x86 processors so far; use another fabric";
            return Err(Error::new(Status::System, detail));
        }
        Table::load_from(LIBRARY)
    }

    fn load_from(name: &CStr) -> Result<Arc<Table>, Error> {
        Table::of(&Library::open(name)?).map(Arc::new)
    }

    /// As `ibv_query_port` in C: asks the provider for all of it, or else for what every library knows.
    ///
    /// # Safety
    /// `context` was opened by this table and is not closed.
    pub unsafe fn port(&self, context: *mut ibv_context, port: u8) -> Result<PortAttr, c_int> {
        let mut attr = PortAttr::zero();
        let place: *mut ibv_port_attr = &raw mut attr.attr;
        // SAFETY: `context` is alive (the caller's promise), so the struct that surrounds it is.
        let extended =
            unsafe { extended(context, std::mem::offset_of!(verbs_context, query_port)) };
        // SAFETY: as above; the provider fills no more than the bytes that it is told of.
        let full = extended.and_then(|extended| unsafe { (*extended.as_ptr()).query_port });
        let refused = match full {
            // SAFETY: as above.
            Some(full) => unsafe { full(context, port, place, size_of::<ibv_port_attr>()) },
            // SAFETY: as above; the old struct is a beginning of the new one.
            None => unsafe { (self.query_port)(context, port, place.cast()) },
        };
        if refused == 0 { Ok(attr) } else { Err(refused) }
    }

    /// A queue pair that has the `ibv_wr_*` calls, as `ibv_create_qp_ex` in C. Null if the provider has
    /// none, or refuses (`errno`).
    ///
    /// # Safety
    /// `context` was opened by this table and is not closed; what `attr` points to is alive and its own.
    pub unsafe fn create_qp_ex(
        &self,
        context: *mut ibv_context,
        attr: &mut ibv_qp_init_attr_ex,
    ) -> *mut ibv_qp {
        // SAFETY: `context` is alive (the caller's promise), so the struct that surrounds it is.
        let extended =
            unsafe { extended(context, std::mem::offset_of!(verbs_context, create_qp_ex)) };
        // SAFETY: as above.
        let create = extended.and_then(|extended| unsafe { (*extended.as_ptr()).create_qp_ex });
        match create {
            // SAFETY: the provider's own function, with arguments that are alive.
            Some(create) => unsafe { create(context, attr) },
            None => std::ptr::null_mut(),
        }
    }
}

/// What surrounds a context, if the provider is of that kind and knows the field that begins `offset`
/// bytes into it (`verbs_get_ctx_op`): it grows at its beginning.
///
/// # Safety
/// `context` is alive.
unsafe fn extended(
    context: *mut ibv_context,
    offset: usize,
) -> Option<std::ptr::NonNull<verbs_context>> {
    let around = std::mem::offset_of!(verbs_context, context);
    // SAFETY: alive, the caller's promise.
    if unsafe { (*context).abi_compat }.addr() != usize::MAX {
        return None;
    }
    // SAFETY: that mark says that the context is the last field of a `verbs_context` of which at
    // least the end is there: its size lies right before the context.
    let extended = unsafe { context.byte_sub(around) }.cast::<verbs_context>();
    // SAFETY: as above.
    let size = unsafe { (*extended).sz };
    let known = size >= size_of::<verbs_context>() - offset;
    std::ptr::NonNull::new(extended).filter(|_| known)
}

/// A port's attributes, with room for what later versions add at the end (V2).
#[repr(C)]
pub struct PortAttr {
    pub attr: ibv_port_attr,
    _later: [u64; 8],
}

impl PortAttr {
    fn zero() -> PortAttr {
        PortAttr { attr: zeroed(), _later: [0; 8] }
    }
}

/// C structs that are plain bytes: all zeros are one of them.
///
/// # Safety
/// Numbers, pointers and optional functions only.
pub unsafe trait Plain {}

macro_rules! plain {
    ($($name:ty),*) => {
        $(
            // SAFETY: as generated, it has numbers, pointers, optional functions and unions of these.
            unsafe impl Plain for $name {}
        )*
    };
}
plain!(
    ibv_port_attr,
    ibv_device_attr,
    ibv_gid,
    ibv_gid_entry,
    ibv_qp_attr,
    ibv_qp_init_attr,
    ibv_qp_init_attr_ex,
    ibv_async_event,
    ibv_send_wr,
    ibv_recv_wr,
    ibv_sge,
    ibv_wc
);

pub fn zeroed<T: Plain>() -> T {
    // SAFETY: all zeros are a value of a plain type.
    unsafe { std::mem::zeroed() }
}

/// A shared library that stays open (V3).
struct Library(std::ptr::NonNull<c_void>);

impl Library {
    fn open(name: &CStr) -> Result<Library, Error> {
        // SAFETY: a C string; libibverbs' own initialisers are those that every program runs that is
        // linked with it.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        std::ptr::NonNull::new(handle).map(Library).ok_or_else(|| {
            let detail = format!(
                "RDMA is not to be had on this machine: {}; install rdma-core (libibverbs1 and \
                 ibverbs-providers), or use another fabric",
                loader_says()
            );
            Error::new(Status::System, detail)
        })
    }

    /// `name` ends with a zero byte.
    fn optional(&self, name: impl AsRef<str>) -> Option<std::ptr::NonNull<c_void>> {
        let name = CStr::from_bytes_with_nul(name.as_ref().as_bytes()).expect("ends with a zero");
        // SAFETY: an open library, a C string. Of symbols with several versions this gives the default.
        std::ptr::NonNull::new(unsafe { libc::dlsym(self.0.as_ptr(), name.as_ptr()) })
    }

    fn required(&self, name: &str) -> Result<std::ptr::NonNull<c_void>, Error> {
        self.optional(name).ok_or_else(|| {
            let name = name.trim_end_matches('\0');
            let detail = format!(
                "libibverbs.so.1 has no {name}: it is not what it seems, or older than rdma-core 17; \
                 install a newer one"
            );
            Error::new(Status::System, detail)
        })
    }
}

fn loader_says() -> String {
    // SAFETY: the text, if there is one, is this thread's until its next call.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "libibverbs.so.1 cannot be opened".into();
    }
    // SAFETY: as above, a C string.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
