// SPDX-License-Identifier: MIT OR Apache-2.0
//! The software device as C sees it: functions and objects of libibverbs, over `nic`.
//!
//! Every object of C is a box whose first field is the C struct, so that a pointer to one is a pointer to
//! the other. What the callers promise is what libibverbs asks for: pointers that it has given and that
//! were not given back.

use super::nic::Registered;
use super::queues::*;
use super::{Call, Event, Inner, State};
use crate::fabric::verbs::sys::bindings::*;
use crate::fabric::verbs::sys::{Table, zeroed};
use std::ffi::{c_char, c_int, c_void};
use std::mem::{MaybeUninit, offset_of};
use std::os::fd::AsRawFd;
use std::ptr::null_mut;
use std::sync::Arc;

pub(super) fn table(inner: &Arc<Inner>, process: usize) -> Table {
    let list = inner.clone();
    Table {
        get_device_list: Box::new(move |count| device_list(&list, process, count)),
        free_device_list,
        get_device_name,
        open_device,
        close_device,
        query_device,
        query_port,
        query_gid,
        get_async_event,
        ack_async_event,
        alloc_pd,
        dealloc_pd,
        reg_mr,
        dereg_mr,
        create_comp_channel,
        destroy_comp_channel,
        create_cq,
        destroy_cq,
        get_cq_event,
        ack_cq_events,
        create_qp,
        modify_qp,
        destroy_qp,
        query_gid_ex: Some(query_gid_ex),
        reg_dmabuf_mr: Some(reg_dmabuf_mr),
        query_qp_data_in_order: Some(query_qp_data_in_order),
        qp_to_qp_ex: Some(qp_to_qp_ex),
        is_fork_initialized: None,
    }
}

#[repr(C)]
struct SoftDevice {
    device: ibv_device,
    inner: Arc<Inner>,
    process: usize,
    /// Among the world's.
    at: usize,
}

#[repr(C)]
pub(super) struct SoftContext {
    verbs: verbs_context,
    pub(super) inner: Arc<Inner>,
    pub(super) process: usize,
    pub(super) device: usize,
}

pub(super) fn blank<T>() -> T {
    // SAFETY: used for C structs of numbers, pointers and optional functions only.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

pub(super) fn fail<T>(errno: i32) -> *mut T {
    // SAFETY: this thread's own place.
    unsafe { *libc::__errno_location() = errno };
    null_mut()
}

/// Makes a descriptor readable, once more.
pub(super) fn signal(descriptor: i32) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: an open descriptor and 8 bytes.
    unsafe { libc::write(descriptor, one.as_ptr().cast(), one.len()) };
}

pub(super) fn counter() -> i32 {
    // SAFETY: plain system call.
    unsafe { libc::eventfd(0, libc::EFD_SEMAPHORE | libc::EFD_CLOEXEC) }
}

/// Whether a descriptor had a signal; takes it.
pub(super) fn signalled(descriptor: i32) -> bool {
    let mut one = [0u8; 8];
    // SAFETY: an open descriptor and 8 bytes.
    unsafe { libc::read(descriptor, one.as_mut_ptr().cast(), one.len()) == 8 }
}

/// # Safety
/// A context of this module's that is open.
pub(super) unsafe fn soft<'a>(context: *mut ibv_context) -> &'a SoftContext {
    // SAFETY: the context is the last field of the first field of a `SoftContext`.
    unsafe { &*context.byte_sub(offset_of!(verbs_context, context)).cast::<SoftContext>() }
}

impl SoftContext {
    pub(super) fn refusal(&self, state: &mut State, call: Call) -> Option<i32> {
        state.refusal(self.process, call)
    }
}

fn device_list(inner: &Arc<Inner>, process: usize, count: *mut c_int) -> *mut *mut ibv_device {
    let mut state = inner.lock();
    if let Some(errno) = state.refusal(process, Call::ListDevices) {
        return fail(errno);
    }
    let mut list: Vec<*mut ibv_device> = Vec::new();
    for (at, plugged) in state.devices.iter().enumerate().filter(|(_, its)| its.process == process)
    {
        let mut device: ibv_device = blank();
        for (to, from) in device.name.iter_mut().zip(plugged.name.bytes()) {
            *to = from as c_char;
        }
        let device = SoftDevice { device, inner: inner.clone(), process, at };
        list.push(Box::into_raw(Box::new(device)).cast());
    }
    // SAFETY: null or a place for the count.
    if let Some(count) = unsafe { count.as_mut() } {
        *count = list.len() as c_int;
    }
    list.push(null_mut());
    Box::into_raw(list.into_boxed_slice()).cast()
}

unsafe extern "C" fn free_device_list(list: *mut *mut ibv_device) {
    let mut len = 0;
    // SAFETY: a list of `device_list`, which ends with null; each entry is a box of its own, and the
    // list, too.
    unsafe {
        while !(*list.add(len)).is_null() {
            drop(Box::from_raw((*list.add(len)).cast::<SoftDevice>()));
            len += 1;
        }
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(list, len + 1)));
    }
}

unsafe extern "C" fn get_device_name(device: *mut ibv_device) -> *const c_char {
    // SAFETY: an entry of a list that was not freed.
    unsafe { (&raw const (*device).name).cast() }
}

unsafe extern "C" fn open_device(device: *mut ibv_device) -> *mut ibv_context {
    // SAFETY: an entry of a list that was not freed.
    let device = unsafe { &*device.cast::<SoftDevice>() };
    let mut state = device.inner.lock();
    if let Some(errno) = state.refusal(device.process, Call::OpenDevice) {
        return fail(errno);
    }
    let mut verbs: verbs_context = blank();
    verbs.sz = size_of::<verbs_context>();
    verbs.query_port = Some(query_port_ex);
    let calls = state.hosts[device.process].abilities.calls;
    verbs.create_qp_ex = if calls { Some(create_qp_ex) } else { None };
    verbs.context.abi_compat = std::ptr::without_provenance_mut(usize::MAX);
    verbs.context.async_fd = counter();
    verbs.context.num_comp_vectors = 1;
    verbs.context.ops.post_send = Some(post_send);
    verbs.context.ops.post_recv = Some(post_recv);
    verbs.context.ops.poll_cq = Some(poll_cq);
    verbs.context.ops.req_notify_cq = Some(req_notify_cq);
    state.hosts[device.process].open.push((device.at, verbs.context.async_fd));
    state.contexts += 1;
    let (inner, process) = (device.inner.clone(), device.process);
    let context = Box::into_raw(Box::new(SoftContext { verbs, inner, process, device: device.at }));
    // SAFETY: just made.
    unsafe { &raw mut (*context).verbs.context }
}

unsafe extern "C" fn close_device(context: *mut ibv_context) -> c_int {
    // SAFETY: an open context, closed once.
    let context = unsafe {
        Box::from_raw(context.byte_sub(offset_of!(verbs_context, context)).cast::<SoftContext>())
    };
    let mut state = context.inner.lock();
    let descriptor = context.verbs.context.async_fd;
    state.hosts[context.process].open.retain(|(_, its)| *its != descriptor);
    // SAFETY: this context's own.
    unsafe { libc::close(descriptor) };
    state.contexts -= 1;
    0
}

unsafe extern "C" fn query_device(context: *mut ibv_context, attr: *mut ibv_device_attr) -> c_int {
    // SAFETY: an open context and a place for the answer.
    let (context, attr) = unsafe { (soft(context), &mut *attr) };
    let mut state = context.inner.lock();
    if let Some(errno) = context.refusal(&mut state, Call::QueryDevice) {
        return errno;
    }
    let abilities = &state.hosts[context.process].abilities;
    *attr = zeroed();
    attr.max_qp_wr = abilities.slots_max;
    attr.max_cqe = abilities.completions_max;
    attr.max_qp_rd_atom = 16;
    attr.max_qp_init_rd_atom = 16;
    attr.phys_port_cnt = 1;
    for (to, from) in attr.fw_ver.iter_mut().zip(*b"soft") {
        *to = from as c_char;
    }
    0
}

unsafe extern "C" fn query_port_ex(
    context: *mut ibv_context,
    port: u8,
    attr: *mut ibv_port_attr,
    bytes: usize,
) -> c_int {
    assert!(bytes >= size_of::<ibv_port_attr>(), "there is room for the answer");
    // SAFETY: an open context and a place for the answer.
    let (context, attr) = unsafe { (soft(context), &mut *attr) };
    let mut state = context.inner.lock();
    if let Some(errno) = context.refusal(&mut state, Call::QueryPort) {
        return errno;
    }
    if port != 1 {
        return libc::EINVAL;
    }
    let abilities = &state.hosts[context.process].abilities;
    *attr = zeroed();
    let (active, down) = (ibv_port_state::IBV_PORT_ACTIVE, ibv_port_state::IBV_PORT_DOWN);
    attr.state = if abilities.active { active } else { down };
    attr.active_mtu = ibv_mtu(abilities.mtu);
    attr.gid_tbl_len = 16;
    attr.max_msg_sz = abilities.write_bytes_max;
    attr.link_layer = IBV_LINK_LAYER_ETHERNET.0 as u8;
    (attr.active_width, attr.active_speed) = (2, 32);
    0
}

unsafe extern "C" fn query_port(
    context: *mut ibv_context,
    port: u8,
    attr: *mut _compat_ibv_port_attr,
) -> c_int {
    // SAFETY: as `query_port_ex`; the test's place has room for the whole struct.
    unsafe { query_port_ex(context, port, attr.cast(), size_of::<ibv_port_attr>()) }
}

/// The table of a port: link-local, then its address, each in both versions of RoCE.
fn gid_at(state: &State, device: usize, index: u32) -> Option<([u8; 16], bool)> {
    let mut local = [0; 16];
    local[..2].copy_from_slice(&[0xfe, 0x80]);
    local[15] = device as u8 + 1;
    let gid = if index < 2 { local } else { state.nic.gids[device].1 };
    (index < 4).then_some((gid, index % 2 == 1))
}

unsafe extern "C" fn query_gid(
    context: *mut ibv_context,
    _port: u8,
    index: c_int,
    gid: *mut ibv_gid,
) -> c_int {
    // SAFETY: an open context and a place for the answer.
    let (context, gid) = unsafe { (soft(context), &mut *gid) };
    let state = context.inner.lock();
    let found = gid_at(&state, context.device, index as u32);
    gid.raw = found.map_or([0; 16], |(raw, _)| raw);
    0
}

unsafe extern "C" fn query_gid_ex(
    context: *mut ibv_context,
    port: u32,
    index: u32,
    entry: *mut ibv_gid_entry,
    _flags: u32,
    bytes: usize,
) -> c_int {
    assert_eq!(bytes, size_of::<ibv_gid_entry>());
    // SAFETY: an open context and a place for the answer.
    let (context, entry) = unsafe { (soft(context), &mut *entry) };
    let state = context.inner.lock();
    let Some((raw, second)) = gid_at(&state, context.device, index) else { return libc::ENODATA };
    let (v1, v2) = (ibv_gid_type::IBV_GID_TYPE_ROCE_V1, ibv_gid_type::IBV_GID_TYPE_ROCE_V2);
    let kind = if second { v2.0 } else { v1.0 };
    (entry.gid_index, entry.port_num, entry.gid_type) = (index, port, kind);
    entry.gid.raw = raw;
    0
}

unsafe extern "C" fn get_async_event(
    context: *mut ibv_context,
    event: *mut ibv_async_event,
) -> c_int {
    // SAFETY: an open context and a place for the answer.
    let (context, event) = unsafe { (soft(context), &mut *event) };
    if !signalled(context.verbs.context.async_fd) {
        return -1;
    }
    let mut state = context.inner.lock();
    let Some(happened) = state.hosts[context.process].events.pop_front() else { return -1 };
    use ibv_event_type as T;
    let queue = |number: u32| state.nic.pairs.get(&number).map(|pair| pair.address as *mut ibv_qp);
    match happened {
        Event::PortDown => event.event_type = T::IBV_EVENT_PORT_ERR,
        Event::PortUp => event.event_type = T::IBV_EVENT_PORT_ACTIVE,
        Event::DeviceFatal => event.event_type = T::IBV_EVENT_DEVICE_FATAL,
        Event::QueueFatal(number) | Event::QueueAccess(number) => {
            // Of a queue that is gone nothing is told.
            let Some(qp) = queue(number) else { return -1 };
            event.element.qp = qp;
            let fatal = happened == Event::QueueFatal(number);
            let (one, other) = (T::IBV_EVENT_QP_FATAL, T::IBV_EVENT_QP_ACCESS_ERR);
            event.event_type = if fatal { one } else { other };
        }
    }
    if [T::IBV_EVENT_PORT_ERR, T::IBV_EVENT_PORT_ACTIVE].contains(&event.event_type) {
        event.element.port_num = 1;
    }
    0
}

unsafe extern "C" fn ack_async_event(_event: *mut ibv_async_event) {}

unsafe extern "C" fn alloc_pd(context: *mut ibv_context) -> *mut ibv_pd {
    // SAFETY: an open context.
    let soft = unsafe { soft(context) };
    let mut state = soft.inner.lock();
    if let Some(errno) = soft.refusal(&mut state, Call::AllocPd) {
        return fail(errno);
    }
    state.domains += 1;
    let handle = state.nic.number();
    Box::into_raw(Box::new(ibv_pd { context, handle }))
}

unsafe extern "C" fn dealloc_pd(pd: *mut ibv_pd) -> c_int {
    // SAFETY: a domain that was not given back, with an open context.
    let (pd, soft) = unsafe { (Box::from_raw(pd), soft((*pd).context)) };
    let mut state = soft.inner.lock();
    let used = state.nic.pairs.values().any(|pair| pair.domain == pd.handle)
        || state.nic.memory.values().any(|region| region.domain == pd.handle);
    if used {
        state.nic.violation("a protection domain goes before what was made in it".into());
    }
    state.domains -= 1;
    0
}

/// # Safety
/// A domain that was not given back.
unsafe fn register(
    pd: *mut ibv_pd,
    address: u64,
    bytes: usize,
    access: c_int,
    of_accelerator: Option<(u64, (usize, usize))>,
) -> *mut ibv_mr {
    // SAFETY: the caller's promise; its context is open.
    let (pd_of, soft) = unsafe { (&*pd, soft((*pd).context)) };
    let mut state = soft.inner.lock();
    let access = access as u32;
    let has = |flag: ibv_access_flags| access & flag.0 != 0;
    let local_write = has(ibv_access_flags::IBV_ACCESS_LOCAL_WRITE);
    let remote_write = has(ibv_access_flags::IBV_ACCESS_REMOTE_WRITE);
    if has(ibv_access_flags::IBV_ACCESS_RELAXED_ORDERING) {
        state.nic.violation("memory is registered with relaxed ordering".into());
    }
    if remote_write && !local_write {
        return fail(libc::EINVAL);
    }
    let all = state.nic.memory.values().filter(|region| region.process == soft.process);
    let all = all.map(|region| region.bytes).sum::<u64>() + bytes as u64;
    if all > state.hosts[soft.process].abilities.bytes_max {
        return fail(libc::ENOMEM);
    }
    let key = state.nic.number();
    let registered = Registered {
        process: soft.process,
        domain: pd_of.handle,
        address,
        bytes: bytes as u64,
        of_accelerator,
        local_write,
        remote_write,
        remote_read: has(ibv_access_flags::IBV_ACCESS_REMOTE_READ),
    };
    state.nic.memory.insert(key, registered);
    let addr = std::ptr::with_exposed_provenance_mut(address as usize);
    let (context, length) = (pd_of.context, bytes);
    Box::into_raw(Box::new(ibv_mr { context, pd, addr, length, handle: key, lkey: key, rkey: key }))
}

unsafe extern "C" fn reg_mr(
    pd: *mut ibv_pd,
    first: *mut c_void,
    bytes: usize,
    access: c_int,
) -> *mut ibv_mr {
    let address = first.expose_provenance() as u64;
    // SAFETY: a domain that was not given back; its context is open.
    let soft = unsafe { soft((*pd).context) };
    let mut state = soft.inner.lock();
    if let Some(errno) = soft.refusal(&mut state, Call::RegMr) {
        return fail(errno);
    }
    let peers = &state.hosts[soft.process].peer_memory;
    let there = peers.iter().find(|peer| address >= peer.address && address < peer.end);
    let there = there.map(|peer| (peer.descriptor.try_clone(), address - peer.address));
    drop(state);
    let base = match there {
        None => None,
        Some((descriptor, offset)) => {
            let descriptor = descriptor.expect("a descriptor is left");
            let Some(base) = mapped(descriptor.as_raw_fd(), offset, bytes) else {
                return fail(libc::EFAULT);
            };
            Some(base)
        }
    };
    // SAFETY: a domain that was not given back.
    unsafe { register(pd, address, bytes, access, base) }
}

/// Where bytes of a descriptor are for this process from now on, and the pages they are in.
fn mapped(descriptor: c_int, offset: u64, bytes: usize) -> Option<(u64, (usize, usize))> {
    let before = offset % 4096;
    let length = before as usize + bytes;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, wherever there is room.
    let first = unsafe {
        let place = std::ptr::null_mut();
        libc::mmap(place, length, access, libc::MAP_SHARED, descriptor, (offset - before) as i64)
    };
    if first == libc::MAP_FAILED {
        return None;
    }
    let first = first.expose_provenance();
    Some((first as u64 + before, (first, length)))
}

unsafe extern "C" fn reg_dmabuf_mr(
    pd: *mut ibv_pd,
    offset: u64,
    bytes: usize,
    address: u64,
    descriptor: c_int,
    access: c_int,
) -> *mut ibv_mr {
    // SAFETY: a domain that was not given back; its context is open.
    let soft = unsafe { soft((*pd).context) };
    let mut state = soft.inner.lock();
    let refusal = soft.refusal(&mut state, Call::RegDmabuf);
    let can = state.hosts[soft.process].abilities.dmabuf;
    drop(state);
    if !can || refusal.is_some() {
        return fail(refusal.unwrap_or(libc::EOPNOTSUPP));
    }
    let Some(base) = mapped(descriptor, offset, bytes) else { return fail(libc::EINVAL) };
    // SAFETY: a domain that was not given back.
    unsafe { register(pd, address, bytes, access, Some(base)) }
}

unsafe extern "C" fn dereg_mr(mr: *mut ibv_mr) -> c_int {
    // SAFETY: registered memory; its context is open.
    let (mr_of, soft) = unsafe { (&*mr, soft((*mr).context)) };
    let mut state = soft.inner.lock();
    let refusals = &mut state.hosts[soft.process].refusals;
    if let Some(at) = refusals.iter().position(|(call, _, _)| *call == Call::DeregMr) {
        return refusals.remove(at).1;
    }
    match state.nic.memory.remove(&mr_of.handle) {
        None => state.nic.violation("memory is deregistered twice".into()),
        Some(region) => {
            if let Some((_, (first, length))) = region.of_accelerator {
                state.nic.settle();
                // SAFETY: mapped by `mapped`, that long; nobody finds it any more.
                unsafe { libc::munmap(std::ptr::with_exposed_provenance_mut(first), length) };
            }
        }
    }
    drop(state);
    // SAFETY: a box of `register`, given back once.
    drop(unsafe { Box::from_raw(mr) });
    0
}
