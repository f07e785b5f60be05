// SPDX-License-Identifier: MIT OR Apache-2.0
//! The software device's queues as C sees them: completion channels and queues, queue pairs, work.

use super::Call;
use super::calls::{blank, counter, fail, signalled, soft};
use super::nic::{Armed, CompletionQueue, Entry, Opcode, Pair, QueueState, Source, Write};
use crate::fabric::verbs::sys::bindings::*;
use crate::fabric::verbs::sys::zeroed;
use std::collections::VecDeque;
use std::ffi::{c_int, c_uint, c_void};
use std::ptr::null_mut;

#[repr(C)]
struct SoftQueue {
    calls: ibv_qp_ex,
    has_calls: bool,
    building: Vec<Write>,
}

pub(super) unsafe extern "C" fn create_comp_channel(
    context: *mut ibv_context,
) -> *mut ibv_comp_channel {
    // SAFETY: an open context.
    let soft = unsafe { soft(context) };
    let mut state = soft.inner.lock();
    if let Some(errno) = soft.refusal(&mut state, Call::CreateChannel) {
        return fail(errno);
    }
    state.channels += 1;
    Box::into_raw(Box::new(ibv_comp_channel { context, fd: counter(), refcnt: 0 }))
}

pub(super) unsafe extern "C" fn destroy_comp_channel(channel: *mut ibv_comp_channel) -> c_int {
    // SAFETY: a channel that was not given back; its context is open.
    let (channel, soft) = unsafe { (Box::from_raw(channel), soft((*channel).context)) };
    let mut state = soft.inner.lock();
    let used = state.nic.completions.values().any(|queue| queue.channel == Some(channel.fd));
    if used {
        state.nic.violation("a completion channel goes before its queue".into());
    }
    // SAFETY: the channel's own.
    unsafe { libc::close(channel.fd) };
    state.channels -= 1;
    0
}

pub(super) unsafe extern "C" fn create_cq(
    context: *mut ibv_context,
    entries: c_int,
    cq_context: *mut c_void,
    channel: *mut ibv_comp_channel,
    _vector: c_int,
) -> *mut ibv_cq {
    // SAFETY: an open context.
    let soft = unsafe { soft(context) };
    let mut state = soft.inner.lock();
    if let Some(errno) = soft.refusal(&mut state, Call::CreateCq) {
        return fail(errno);
    }
    if entries < 1 || entries > state.hosts[soft.process].abilities.completions_max {
        return fail(libc::EINVAL);
    }
    let handle = state.nic.number();
    let mut cq: ibv_cq = blank();
    (cq.context, cq.channel, cq.cq_context) = (context, channel, cq_context);
    (cq.handle, cq.cqe) = (handle, entries);
    let cq = Box::into_raw(Box::new(cq));
    // SAFETY: null or a channel that was not given back.
    let channel = unsafe { channel.as_ref() }.map(|channel| channel.fd);
    let queue = CompletionQueue {
        process: soft.process,
        entries: VecDeque::new(),
        capacity: entries as usize,
        armed: Armed::No,
        channel,
        events: 0,
        address: cq.expose_provenance(),
    };
    state.nic.completions.insert(handle, queue);
    cq
}

pub(super) unsafe extern "C" fn destroy_cq(cq: *mut ibv_cq) -> c_int {
    // SAFETY: a completion queue that was not given back; its context is open.
    let (cq, soft) = unsafe { (Box::from_raw(cq), soft((*cq).context)) };
    let mut state = soft.inner.lock();
    if state.nic.pairs.values().any(|pair| pair.completions == cq.handle) {
        state.nic.violation("a completion queue goes before a queue pair of it".into());
    }
    let gone = state.nic.completions.remove(&cq.handle).expect("made once");
    if cq.comp_events_completed as u64 > gone.events {
        state.nic.violation("more events are acknowledged than there were".into());
    }
    0
}

pub(super) unsafe extern "C" fn get_cq_event(
    channel: *mut ibv_comp_channel,
    cq: *mut *mut ibv_cq,
    cq_context: *mut *mut c_void,
) -> c_int {
    // SAFETY: a channel that was not given back; its context is open.
    let (fd, soft) = unsafe { ((*channel).fd, soft((*channel).context)) };
    if !signalled(fd) {
        return -1;
    }
    let state = soft.inner.lock();
    let mut queues = state.nic.completions.values();
    let queue = queues.find(|queue| queue.channel == Some(fd)).expect("who signals has a queue");
    let its = std::ptr::with_exposed_provenance_mut::<ibv_cq>(queue.address);
    // SAFETY: places for the answer; the queue was not given back.
    unsafe { (*cq, *cq_context) = (its, (*its).cq_context) };
    0
}

pub(super) unsafe extern "C" fn ack_cq_events(cq: *mut ibv_cq, events: c_uint) {
    // SAFETY: a completion queue that was not given back.
    unsafe { (*cq).comp_events_completed += events };
}

pub(super) unsafe extern "C" fn req_notify_cq(cq: *mut ibv_cq, solicited: c_int) -> c_int {
    // SAFETY: a completion queue that was not given back; its context is open.
    let (handle, soft) = unsafe { ((*cq).handle, soft((*cq).context)) };
    let mut state = soft.inner.lock();
    if let Some(errno) = soft.refusal(&mut state, Call::ReqNotify) {
        return errno;
    }
    let queue = state.nic.completions.get_mut(&handle).expect("made once");
    queue.armed = if solicited != 0 { Armed::Solicited } else { Armed::Any };
    0
}

pub(super) unsafe extern "C" fn poll_cq(cq: *mut ibv_cq, most: c_int, wc: *mut ibv_wc) -> c_int {
    // SAFETY: a completion queue that was not given back; its context is open.
    let (handle, soft) = unsafe { ((*cq).handle, soft((*cq).context)) };
    let mut state = soft.inner.lock();
    if soft.refusal(&mut state, Call::PollCq).is_some() {
        return -1;
    }
    let queue = state.nic.completions.get_mut(&handle).expect("made once");
    let count = queue.entries.len().min(most as usize);
    if count == 0 {
        // Whoever polls in a loop leaves the lock to the device.
        drop(state);
        std::thread::yield_now();
        return 0;
    }
    let entries: Vec<Entry> = queue.entries.drain(..count).collect();
    for (at, entry) in entries.into_iter().enumerate() {
        // D3: now its slots are free.
        if let (Some(frees), Some(pair)) = (entry.frees, state.nic.pairs.get_mut(&entry.pair)) {
            pair.freed = pair.freed.max(frees);
        }
        let mut done: ibv_wc = zeroed();
        done.wr_id = entry.id;
        done.status = ibv_wc_status(entry.status);
        // Of an error only number, status, queue and the vendor's word are there.
        done.opcode = match (entry.status, entry.bell) {
            (0, true) => ibv_wc_opcode::IBV_WC_RECV_RDMA_WITH_IMM,
            (0, false) => ibv_wc_opcode::IBV_WC_RDMA_WRITE,
            _ => ibv_wc_opcode(0xdead),
        };
        done.vendor_err = if entry.status == 0 { 0 } else { 0x81 };
        done.qp_num = entry.pair;
        // SAFETY: a place for so many.
        unsafe { wc.add(at).write(done) };
    }
    count as c_int
}

/// # Safety
/// A domain and completion queues that were not given back.
unsafe fn make_pair(
    pd: *mut ibv_pd,
    send_cq: *mut ibv_cq,
    recv_cq: *mut ibv_cq,
    cap: &mut ibv_qp_cap,
    calls: bool,
) -> *mut ibv_qp {
    // SAFETY: the caller's promise; their context is open.
    let (domain, completions, context) =
        unsafe { ((*pd).handle, (*send_cq).handle, (*pd).context) };
    // SAFETY: as above.
    let soft = unsafe { soft(context) };
    let mut state = soft.inner.lock();
    if let Some(errno) = soft.refusal(&mut state, Call::CreateQp) {
        return fail(errno);
    }
    let abilities = state.hosts[soft.process].abilities.clone();
    let slots_max = abilities.slots_max as u32;
    if cap.max_send_wr > slots_max || cap.max_inline_data > abilities.inline_max {
        return fail(libc::EINVAL);
    }
    // Devices round up; whoever counts on that is wrong.
    cap.max_inline_data = cap.max_inline_data.next_multiple_of(16).min(abilities.inline_max);
    let number = state.nic.number();
    let mut ex: ibv_qp_ex = blank();
    (ex.qp_base.context, ex.qp_base.pd, ex.qp_base.qp_num) = (context, pd, number);
    (ex.qp_base.send_cq, ex.qp_base.recv_cq) = (send_cq, recv_cq);
    if calls {
        ex.wr_start = Some(wr_start);
        ex.wr_complete = Some(wr_complete);
        ex.wr_rdma_write = Some(wr_rdma_write);
        ex.wr_rdma_write_imm = Some(wr_rdma_write_imm);
        ex.wr_rdma_read = Some(wr_rdma_read);
        ex.wr_set_sge = Some(wr_set_sge);
        ex.wr_set_sge_list = Some(wr_set_sge_list);
        ex.wr_set_inline_data = Some(wr_set_inline_data);
    }
    let queue = SoftQueue { calls: ex, has_calls: calls, building: Vec::new() };
    let qp = Box::into_raw(Box::new(queue)).cast::<ibv_qp>();
    let pair = Pair {
        process: soft.process,
        device: soft.device,
        domain,
        number,
        completions,
        state: QueueState::Reset,
        slots: cap.max_send_wr,
        receives_max: cap.max_recv_wr,
        inline_max: cap.max_inline_data,
        may_be_written: false,
        may_be_read: false,
        peer: 0,
        peer_gid: [0; 16],
        first_sent: 0,
        first_received: 0,
        retry: 0,
        posted: 0,
        freed: 0,
        writes: VecDeque::new(),
        receives: VecDeque::new(),
        address: qp.expose_provenance(),
    };
    state.nic.pairs.insert(number, pair);
    qp
}

pub(super) unsafe extern "C" fn create_qp(
    pd: *mut ibv_pd,
    attr: *mut ibv_qp_init_attr,
) -> *mut ibv_qp {
    // SAFETY: alive, and what it points to.
    let attr = unsafe { &mut *attr };
    assert!(attr.qp_type == ibv_qp_type::IBV_QPT_RC && attr.sq_sig_all == 0);
    // SAFETY: as the interface asks for.
    unsafe { make_pair(pd, attr.send_cq, attr.recv_cq, &mut attr.cap, false) }
}

pub(super) unsafe extern "C" fn create_qp_ex(
    _context: *mut ibv_context,
    attr: *mut ibv_qp_init_attr_ex,
) -> *mut ibv_qp {
    // SAFETY: alive, and what it points to.
    let attr = unsafe { &mut *attr };
    assert!(attr.qp_type == ibv_qp_type::IBV_QPT_RC && attr.sq_sig_all == 0);
    let wanted = ibv_qp_init_attr_mask::IBV_QP_INIT_ATTR_PD.0
        | ibv_qp_init_attr_mask::IBV_QP_INIT_ATTR_SEND_OPS_FLAGS.0;
    assert_eq!(attr.comp_mask, wanted, "the calls are asked for, and nothing else");
    // SAFETY: as the interface asks for.
    unsafe { make_pair(attr.pd, attr.send_cq, attr.recv_cq, &mut attr.cap, true) }
}

pub(super) unsafe extern "C" fn qp_to_qp_ex(qp: *mut ibv_qp) -> *mut ibv_qp_ex {
    let queue = qp.cast::<SoftQueue>();
    // SAFETY: a queue pair of `make_pair` that was not given back.
    unsafe { if (*queue).has_calls { &raw mut (*queue).calls } else { null_mut() } }
}

pub(super) unsafe extern "C" fn destroy_qp(qp: *mut ibv_qp) -> c_int {
    // SAFETY: a queue pair that was not given back; its context is open.
    let (number, soft) = unsafe { ((*qp).qp_num, soft((*qp).context)) };
    let mut state = soft.inner.lock();
    let refusals = &mut state.hosts[soft.process].refusals;
    if let Some(at) = refusals.iter().position(|(call, _, _)| *call == Call::DestroyQp) {
        return refusals.remove(at).1;
    }
    let pair = state.nic.pairs.remove(&number).expect("made once");
    if !state.hosts[soft.process].abilities.stale
        && let Some(queue) = state.nic.completions.get_mut(&pair.completions)
    {
        queue.entries.retain(|entry| entry.pair != number);
    }
    drop(state);
    // SAFETY: a box of `make_pair`, given back once.
    drop(unsafe { Box::from_raw(qp.cast::<SoftQueue>()) });
    0
}

pub(super) unsafe extern "C" fn query_qp_data_in_order(
    qp: *mut ibv_qp,
    opcode: ibv_wr_opcode,
    flags: u32,
) -> c_int {
    assert!(opcode == ibv_wr_opcode::IBV_WR_RDMA_WRITE && flags == 0);
    // SAFETY: a queue pair that was not given back; its context is open.
    let soft = unsafe { soft((*qp).context) };
    let state = soft.inner.lock();
    c_int::from(state.hosts[soft.process].abilities.in_order)
}

pub(super) unsafe extern "C" fn modify_qp(
    qp: *mut ibv_qp,
    attr: *mut ibv_qp_attr,
    mask: c_int,
) -> c_int {
    // SAFETY: a queue pair that was not given back; its context is open; attributes.
    let (number, soft, attr) = unsafe { ((*qp).qp_num, soft((*qp).context), &*attr) };
    let mut state = soft.inner.lock();
    let to_error = attr.qp_state == ibv_qp_state::IBV_QPS_ERR;
    if !to_error && let Some(errno) = soft.refusal(&mut state, Call::ModifyQp) {
        return errno;
    }
    if to_error {
        state.nic.flush(number);
        return 0;
    }
    let pair = state.nic.pairs.get_mut(&number).expect("made once");
    match advance(pair, attr, mask as u32) {
        Ok(()) => 0,
        Err(what) => {
            state.nic.violation(format!("queue {number:#x}: {what}"));
            libc::EINVAL
        }
    }
}

/// The ladder of states, each step with its own attributes, neither more nor fewer.
fn advance(pair: &mut Pair, attr: &ibv_qp_attr, mask: u32) -> Result<(), String> {
    use ibv_qp_attr_mask as M;
    let masks = |all: &[M]| all.iter().fold(0, |mask, flag| mask | flag.0);
    let (from, to, wanted) = match attr.qp_state {
        ibv_qp_state::IBV_QPS_INIT => {
            let access = attr.qp_access_flags;
            pair.may_be_written = access & ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0 != 0;
            pair.may_be_read = access & ibv_access_flags::IBV_ACCESS_REMOTE_READ.0 != 0;
            let all =
                [M::IBV_QP_STATE, M::IBV_QP_PKEY_INDEX, M::IBV_QP_PORT, M::IBV_QP_ACCESS_FLAGS];
            (QueueState::Reset, QueueState::Init, masks(&all))
        }
        ibv_qp_state::IBV_QPS_RTR => {
            let path = &attr.ah_attr;
            if path.is_global != 1 || path.grh.hop_limit < 2 || path.port_num != 1 {
                return Err("no way to a port on Ethernet".into());
            }
            if !(1..=5).contains(&attr.path_mtu.0) || attr.dest_qp_num > 0xff_ffff {
                return Err(format!("MTU {}, peer {:#x}", attr.path_mtu.0, attr.dest_qp_num));
            }
            (pair.peer, pair.first_received) = (attr.dest_qp_num, attr.rq_psn);
            // SAFETY: a GID is 16 bytes however it is looked at.
            pair.peer_gid = unsafe { path.grh.dgid.raw };
            let all = [
                M::IBV_QP_STATE,
                M::IBV_QP_AV,
                M::IBV_QP_PATH_MTU,
                M::IBV_QP_DEST_QPN,
                M::IBV_QP_RQ_PSN,
                M::IBV_QP_MAX_DEST_RD_ATOMIC,
                M::IBV_QP_MIN_RNR_TIMER,
            ];
            (QueueState::Init, QueueState::Receives, masks(&all))
        }
        ibv_qp_state::IBV_QPS_RTS => {
            if !(1..=31).contains(&attr.timeout) || attr.retry_cnt > 6 || attr.rnr_retry != 7 {
                return Err(format!(
                    "timeout {}, retries {} and {}",
                    attr.timeout, attr.retry_cnt, attr.rnr_retry
                ));
            }
            (pair.first_sent, pair.retry) = (attr.sq_psn, attr.retry_cnt);
            let all = [
                M::IBV_QP_STATE,
                M::IBV_QP_TIMEOUT,
                M::IBV_QP_RETRY_CNT,
                M::IBV_QP_RNR_RETRY,
                M::IBV_QP_SQ_PSN,
                M::IBV_QP_MAX_QP_RD_ATOMIC,
            ];
            (QueueState::Receives, QueueState::Sends, masks(&all))
        }
        state => return Err(format!("state {}", state.0)),
    };
    if pair.state != from || mask != wanted {
        return Err(format!("{:?} to {to:?} with attributes {mask:#x}", pair.state));
    }
    pair.state = to;
    Ok(())
}

pub(super) unsafe extern "C" fn post_recv(
    qp: *mut ibv_qp,
    wr: *mut ibv_recv_wr,
    bad: *mut *mut ibv_recv_wr,
) -> c_int {
    // SAFETY: a queue pair that was not given back; its context is open; one request.
    let (number, soft, request) = unsafe { ((*qp).qp_num, soft((*qp).context), &*wr) };
    assert!(request.next.is_null() && request.num_sge == 0);
    let mut state = soft.inner.lock();
    let refused = soft.refusal(&mut state, Call::PostRecv);
    let pair = state.nic.pairs.get_mut(&number).expect("made once");
    let full = pair.receives.len() >= pair.receives_max as usize;
    if let Some(errno) = refused.or(full.then_some(libc::ENOMEM)) {
        // SAFETY: a place for the answer.
        unsafe { *bad = wr };
        if full {
            state.nic.violation(format!("queue {number:#x}: its receives run over"));
        }
        return errno;
    }
    pair.receives.push_back(request.wr_id);
    if pair.state == QueueState::Error {
        state.nic.flush(number);
    }
    soft.inner.work.notify_all();
    0
}

/// What a request asks for.
///
/// # Safety
/// A request with parts that are alive.
unsafe fn write_of(request: &ibv_send_wr) -> Write {
    // SAFETY: the caller's promise: there is one part, or none; this kind of request names a place.
    let (source, rdma) = unsafe {
        let inline = request.send_flags & ibv_send_flags::IBV_SEND_INLINE.0 != 0;
        let source = match request.num_sge {
            0 => Source::Nothing,
            _ => source_of(&*request.sg_list, inline),
        };
        (source, request.wr.rdma)
    };
    let bell = request.opcode == ibv_wr_opcode::IBV_WR_RDMA_WRITE_WITH_IMM;
    let reads = request.opcode == ibv_wr_opcode::IBV_WR_RDMA_READ;
    assert!(bell || reads || request.opcode == ibv_wr_opcode::IBV_WR_RDMA_WRITE);
    let opcode = if reads { Opcode::Read } else { Opcode::Write { bell } };
    write(request.wr_id, request.send_flags, opcode, source, rdma.remote_addr, rdma.rkey)
}

/// # Safety
/// A part that is alive, and its bytes if they are carried by value.
unsafe fn source_of(part: &ibv_sge, inline: bool) -> Source {
    if !inline {
        return Source::Part { address: part.addr, bytes: part.length, key: part.lkey };
    }
    let bytes = std::ptr::with_exposed_provenance::<u8>(part.addr as usize);
    // SAFETY: the caller's promise.
    Source::Value(unsafe { std::slice::from_raw_parts(bytes, part.length as usize) }.to_vec())
}

fn write(id: u64, flags: u32, opcode: Opcode, source: Source, address: u64, key: u32) -> Write {
    Write {
        id,
        opcode,
        signalled: flags & ibv_send_flags::IBV_SEND_SIGNALED.0 != 0,
        solicited: flags & ibv_send_flags::IBV_SEND_SOLICITED.0 != 0,
        source,
        address,
        key,
        pieces: None,
        landed: false,
        tried: 0,
        since: None,
    }
}

pub(super) unsafe extern "C" fn post_send(
    qp: *mut ibv_qp,
    wr: *mut ibv_send_wr,
    bad: *mut *mut ibv_send_wr,
) -> c_int {
    // SAFETY: a queue pair that was not given back; its context is open.
    let (number, soft) = unsafe { ((*qp).qp_num, soft((*qp).context)) };
    let mut state = soft.inner.lock();
    let mut next = wr;
    // SAFETY: a list that ends with null, of requests whose parts are alive.
    while let Some(request) = unsafe { next.as_ref() } {
        let refused = soft.refusal(&mut state, Call::PostSend);
        // SAFETY: as above.
        let errno = refused.unwrap_or_else(|| state.nic.post(number, unsafe { write_of(request) }));
        if errno != 0 {
            // SAFETY: a place for the answer.
            unsafe { *bad = next };
            return errno;
        }
        next = request.next;
    }
    soft.inner.work.notify_all();
    0
}

unsafe extern "C" fn wr_start(qp: *mut ibv_qp_ex) {
    // SAFETY: a queue pair of `make_pair` that was not given back, and one thread's.
    let queue = unsafe { &mut *qp.cast::<SoftQueue>() };
    assert!(queue.building.is_empty(), "started twice");
}

unsafe extern "C" fn wr_complete(qp: *mut ibv_qp_ex) -> c_int {
    // SAFETY: a queue pair of `make_pair` that was not given back, and one thread's; its context.
    let (queue, soft) = unsafe { (&mut *qp.cast::<SoftQueue>(), soft((*qp).qp_base.context)) };
    let mut state = soft.inner.lock();
    let all = std::mem::take(&mut queue.building);
    if let Some(errno) = soft.refusal(&mut state, Call::PostSend) {
        return errno;
    }
    for write in all {
        match state.nic.post(queue.calls.qp_base.qp_num, write) {
            0 => {}
            errno => return errno,
        }
    }
    soft.inner.work.notify_all();
    0
}

/// # Safety
/// A queue pair of `make_pair` that was not given back, and one thread's.
unsafe fn build(qp: *mut ibv_qp_ex, opcode: Opcode, key: u32, address: u64) {
    // SAFETY: the caller's promise.
    let queue = unsafe { &mut *qp.cast::<SoftQueue>() };
    let (id, flags) = (queue.calls.wr_id, queue.calls.wr_flags);
    queue.building.push(write(id, flags, opcode, Source::Nothing, address, key));
}

/// # Safety
/// As `build`; a request was begun.
unsafe fn carry(qp: *mut ibv_qp_ex, source: Source) {
    // SAFETY: the caller's promise.
    let queue = unsafe { &mut *qp.cast::<SoftQueue>() };
    queue.building.last_mut().expect("a request was begun").source = source;
}

unsafe extern "C" fn wr_rdma_write(qp: *mut ibv_qp_ex, key: u32, address: u64) {
    // SAFETY: as the interface asks for.
    unsafe { build(qp, Opcode::Write { bell: false }, key, address) }
}

unsafe extern "C" fn wr_rdma_write_imm(qp: *mut ibv_qp_ex, key: u32, address: u64, _word: u32) {
    // SAFETY: as the interface asks for.
    unsafe { build(qp, Opcode::Write { bell: true }, key, address) }
}

unsafe extern "C" fn wr_rdma_read(qp: *mut ibv_qp_ex, key: u32, address: u64) {
    // SAFETY: as the interface asks for.
    unsafe { build(qp, Opcode::Read, key, address) }
}

unsafe extern "C" fn wr_set_sge(qp: *mut ibv_qp_ex, key: u32, address: u64, bytes: u32) {
    // SAFETY: as the interface asks for.
    unsafe { carry(qp, Source::Part { address, bytes, key }) }
}

unsafe extern "C" fn wr_set_sge_list(qp: *mut ibv_qp_ex, count: usize, _list: *const ibv_sge) {
    assert_eq!(count, 0, "one part is set by its own call");
    // SAFETY: as the interface asks for.
    unsafe { carry(qp, Source::Nothing) }
}

unsafe extern "C" fn wr_set_inline_data(qp: *mut ibv_qp_ex, bytes: *mut c_void, length: usize) {
    // SAFETY: a queue pair that was not given back.
    let flagged = unsafe { (*qp).wr_flags } & ibv_send_flags::IBV_SEND_INLINE.0 != 0;
    // SAFETY: as the interface asks for: bytes that are alive during the call.
    unsafe {
        let value = std::slice::from_raw_parts(bytes.cast::<u8>(), length).to_vec();
        // Without the flag soft-RoCE takes the bytes for a list of parts.
        let parts = Source::Part { address: 0, bytes: length as u32, key: 0 };
        carry(qp, if flagged { Source::Value(value) } else { parts });
    }
}
