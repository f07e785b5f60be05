// SPDX-License-Identifier: MIT OR Apache-2.0
//! One queue pair to one peer: writes are collected and handed over with one doorbell.
//!
//! Q1  Writes of one queue land in the order in which they were added (RC); words by the value that they
//!     had then, spans by what their memory holds when the device gets to it (F2, F3).
//! Q2  No write is added without a free slot, and slots are freed by our own account only (`slots`).
//! Q3  The first error is the last thing that is heard of a queue: it is reported once, and what is
//!     added afterwards goes nowhere (F5).
//! Q4  A dropped queue writes nothing any more, and nothing of its peer's lands through it (F4).
//!
//! Cost: `words` and `span` fill a work request in our own memory; `post` is one call of the provider,
//! one store to the device. No allocation, no lock, no system call.

pub use super::chain::Path;
use super::chain::{Chain, Door, What};
use super::completions::{Completion, Completions, Shared, Token};
use super::device::{Device, Place, of_errno};
use super::failure::{Cause, Failure};
use super::memory::{Memory, Remote};
use super::setup::{BELL_RETRIES_FOREVER, Made, path_to, random_number, validate};
pub use super::setup::{CHAIN, Depths, Endpoint, Manner};
use super::slots::Slots;
use super::sys::bindings::*;
use super::sys::zeroed;
use crate::error::{Error, Status};
use std::ffi::c_int;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

/// What was done; for people and tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    pub work_requests: u64,
    pub doorbells: u64,
    /// By a write of their own: beats, and what is said of notes.
    pub words: u64,
    /// Written in place.
    pub spans: u64,
    /// Of these and of notes, what a work request carried by value.
    pub inlined: u64,
    /// Bytes of spans.
    pub bytes: u64,
    pub reads: u64,
    /// Bells rung here and there.
    pub bells: u64,
    pub rung: u64,
    pub completions: u64,
    /// What turns had for the peer but long spans (`notes`).
    pub notes: u64,
}

/// What a completion was.
#[derive(Debug)]
#[must_use]
pub enum Taken {
    /// Of another that had this number before, or of one that has failed already.
    Stale,
    /// Slots are free.
    Sent,
    /// The peer has rung.
    Rung,
    /// The queue has ended (Q3).
    Failed(Failure),
}

type PostReceive =
    unsafe extern "C" fn(*mut ibv_qp, *mut ibv_recv_wr, *mut *mut ibv_recv_wr) -> c_int;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Made,
    Connected,
    Failed,
}

/// A queue pair, and what was added to it.
pub struct Queue {
    qp: NonNull<ibv_qp>,
    door: Door,
    post_receive: PostReceive,
    shared: Arc<Shared>,
    token: Token,
    depths: Depths,
    slots: Slots,
    chain: Chain,
    state: State,
    psn: u32,
    peer: Endpoint,
    counts: Counts,
    /// Why it has ended, if it has.
    failure: Option<Failure>,
}

// SAFETY: libibverbs' objects may be used by any thread (`Device`), and this one is one thread's at a
// time; the chain's pointers are set and used within one call.
unsafe impl Send for Queue {}

impl Queue {
    /// A queue whose completions `completions` takes, under a number of the caller's.
    ///
    /// Errors: `Again`: poll first; `Limit`, `NoMemory` or `System`.
    pub fn new(completions: &Completions, index: u16, depths: &Depths) -> Result<Queue, Error> {
        let shared = completions.shared().clone();
        let device = shared.device.clone();
        let slots_max = device.limits().slots_max.min(u32::from(u16::MAX)) as u16;
        let depths = Depths { send: depths.send.min(slots_max), ..*depths };
        if depths.send < 2 {
            let detail = format!("an RDMA send queue has 2 slots or more, not {}", depths.send);
            return Err(Error::new(Status::Invalid, detail));
        }
        let ops = unsafe_ops(&device);
        let missing =
            || Error::new(Status::System, format!("{}: its driver cannot post", device.name()));
        let post_send = ops.post_send.ok_or_else(missing)?;
        let post_receive = ops.post_recv.ok_or_else(missing)?;
        let psn = random_number()?;
        let token = shared.reserve(index, depths.entries())?;
        let made = Made::new(&device, &shared, depths);
        let made = made.inspect_err(|_| shared.give_back(depths.entries()))?;
        let mut queue = Queue {
            qp: made.qp,
            door: made.calls.map_or(Door::List(made.qp, post_send), Door::Calls),
            post_receive,
            shared,
            token,
            depths: Depths { inline_bytes: made.inline_bytes, ..depths },
            slots: Slots::new(depths.send),
            chain: Chain::new(),
            state: State::Made,
            psn,
            peer: Endpoint::default(),
            counts: Counts::default(),
            failure: None,
        };
        queue.begin()?;
        Ok(queue)
    }

    /// To INIT, with receives for bells.
    fn begin(&mut self) -> Result<(), Error> {
        let mut attr: ibv_qp_attr = zeroed();
        attr.qp_state = ibv_qp_state::IBV_QPS_INIT;
        attr.port_num = self.device().port();
        attr.qp_access_flags = ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0
            | ibv_access_flags::IBV_ACCESS_REMOTE_READ.0;
        let mask = ibv_qp_attr_mask::IBV_QP_STATE.0
            | ibv_qp_attr_mask::IBV_QP_PKEY_INDEX.0
            | ibv_qp_attr_mask::IBV_QP_PORT.0
            | ibv_qp_attr_mask::IBV_QP_ACCESS_FLAGS.0;
        self.modify(&mut attr, mask, "INIT")?;
        for _ in 0..self.depths.receive {
            self.receive().map_err(|errno| {
                of_errno(errno, &format!("{}: no receive for bells", self.device().name()))
            })?;
        }
        Ok(())
    }

    fn device(&self) -> &Arc<Device> {
        &self.shared.device
    }

    /// What the peer must be told.
    pub fn endpoint(&self) -> Endpoint {
        // SAFETY: the queue pair lives as long as `self`.
        Endpoint { qpn: unsafe { (*self.qp.as_ptr()).qp_num }, psn: self.psn }
    }

    /// Connects it with the peer's: from then on it may be written, and the peer may write. Nothing may
    /// be posted before the peer has done the same: what comes too early waits for a time-out.
    ///
    /// Errors: `PeerFault` if what the peer has told cannot be; `Invalid`; `System`. Cost: system calls;
    /// on Ethernet up to a second if the peer's host must first be asked for its address.
    pub fn connect(
        &mut self,
        peer: &Endpoint,
        place: &Place,
        manner: &Manner,
    ) -> Result<(), Error> {
        assert!(self.state == State::Made, "a queue is connected once");
        manner.check()?;
        validate(self.device(), peer, place)?;
        self.peer = *peer;
        let mut attr = path_to(self.device(), peer, place, manner);
        let mask = ibv_qp_attr_mask::IBV_QP_STATE.0
            | ibv_qp_attr_mask::IBV_QP_AV.0
            | ibv_qp_attr_mask::IBV_QP_PATH_MTU.0
            | ibv_qp_attr_mask::IBV_QP_DEST_QPN.0
            | ibv_qp_attr_mask::IBV_QP_RQ_PSN.0
            | ibv_qp_attr_mask::IBV_QP_MAX_DEST_RD_ATOMIC.0
            | ibv_qp_attr_mask::IBV_QP_MIN_RNR_TIMER.0;
        self.modify(&mut attr, mask, "RTR")?;
        let mut attr: ibv_qp_attr = zeroed();
        attr.qp_state = ibv_qp_state::IBV_QPS_RTS;
        attr.timeout = manner.timeout;
        attr.retry_cnt = manner.retry;
        attr.rnr_retry = BELL_RETRIES_FOREVER;
        attr.sq_psn = self.psn;
        attr.max_rd_atomic = self.device().limits().reads_out_max.min(16);
        let mask = ibv_qp_attr_mask::IBV_QP_STATE.0
            | ibv_qp_attr_mask::IBV_QP_TIMEOUT.0
            | ibv_qp_attr_mask::IBV_QP_RETRY_CNT.0
            | ibv_qp_attr_mask::IBV_QP_RNR_RETRY.0
            | ibv_qp_attr_mask::IBV_QP_SQ_PSN.0
            | ibv_qp_attr_mask::IBV_QP_MAX_QP_RD_ATOMIC.0;
        self.modify(&mut attr, mask, "RTS")?;
        self.state = State::Connected;
        Ok(())
    }

    fn modify(&self, attr: &mut ibv_qp_attr, mask: u32, to: &str) -> Result<(), Error> {
        // SAFETY: a queue pair that is alive, attributes as the mask says.
        let refused =
            unsafe { (self.device().table.modify_qp)(self.qp.as_ptr(), attr, mask as c_int) };
        match refused {
            0 => Ok(()),
            errno => {
                let what = format!("{}: {} cannot go to {to}", self.device().name(), self.name());
                Err(of_errno(errno, &what))
            }
        }
    }

    /// In words.
    fn name(&self) -> String {
        format!("queue {:#x} to {:#x}", self.endpoint().qpn, self.peer.qpn)
    }

    /// How the device orders the bytes of one write: `None` if the library cannot say.
    pub fn is_in_order(&self) -> Option<bool> {
        let query = self.device().table.query_qp_data_in_order?;
        // SAFETY: a queue pair that is alive.
        let answer = unsafe { query(self.qp.as_ptr(), ibv_wr_opcode::IBV_WR_RDMA_WRITE, 0) };
        Some(answer == 1)
    }

    /// What a peer must know of the port.
    pub fn place(&self) -> Place {
        self.device().place()
    }

    pub fn path(&self) -> Path {
        match self.door {
            Door::List(..) => Path::List,
            Door::Calls(_) => Path::Calls,
        }
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// How many more writes may be added before the next `post`; none after an error.
    #[inline]
    pub fn room(&self) -> usize {
        match self.state {
            State::Connected => self.slots.room().min(self.chain.room()),
            _ => 0,
        }
    }

    /// Whether completions should be polled, so that there will be room.
    #[inline]
    pub fn is_half_used(&self) -> bool {
        self.slots.is_half_used()
    }

    /// Adds a write of 1 to 8 adjoining words by value, to byte `at` of a peer's memory.
    #[inline]
    pub fn words(&mut self, remote: &Remote, at: u64, values: &[u64]) {
        let bytes = values.len() as u64 * 8;
        assert!(at.is_multiple_of(8) && bytes > 0, "words at a word");
        let what = self.add(ibv_wr_opcode::IBV_WR_RDMA_WRITE, remote, at, bytes, false);
        self.chain.add_bytes(what, bytes as usize, |to| {
            for (to, value) in to.as_chunks_mut::<8>().0.iter_mut().zip(values) {
                *to = value.to_ne_bytes();
            }
        });
        self.counts.words += values.len() as u64;
    }

    /// Adds a write of bytes `from..upto` of my memory, which stay still until it is over or nobody
    /// needs it, to byte `at` of a peer's.
    #[inline]
    pub fn span(&mut self, memory: &Memory, from: u64, upto: u64, remote: &Remote, at: u64) {
        self.write(memory, from, upto, remote, at, false);
        self.counts.spans += 1;
        self.counts.bytes += upto - from;
    }

    /// Adds a write of so many bytes, from byte `at` of my memory to the same byte of a peer's. They lie
    /// still until it is over.
    #[inline]
    pub fn note(&mut self, memory: &Memory, at: u64, bytes: u64, remote: &Remote) {
        self.write(memory, at, at + bytes, remote, at, false);
        self.counts.notes += 1;
    }

    /// The same as `span`, and it asks for a completion.
    pub fn put(&mut self, memory: &Memory, from: u64, upto: u64, remote: &Remote, at: u64) {
        self.write(memory, from, upto, remote, at, true);
        self.counts.spans += 1;
        self.counts.bytes += upto - from;
    }

    #[inline]
    fn write(
        &mut self,
        memory: &Memory,
        from: u64,
        upto: u64,
        remote: &Remote,
        at: u64,
        must: bool,
    ) {
        let part = memory.part(from, upto);
        let inline = part.length <= self.depths.inline_bytes && memory.may_copy();
        let opcode = ibv_wr_opcode::IBV_WR_RDMA_WRITE;
        let what = self.add(opcode, remote, at, upto - from, must);
        match inline {
            false => self.chain.add_part(what, part),
            true => self.chain.add_bytes(what, part.length as usize, |to| memory.copy(from, to)),
        }
        self.counts.inlined += u64::from(inline);
    }

    /// Adds a read of a peer's memory, from byte `at`, into mine. It asks for a completion.
    pub fn read(&mut self, memory: &Memory, from: u64, upto: u64, remote: &Remote, at: u64) {
        let part = memory.part(from, upto);
        let what = self.add(ibv_wr_opcode::IBV_WR_RDMA_READ, remote, at, upto - from, true);
        self.chain.add_part(what, part);
        self.counts.reads += 1;
    }

    /// Takes a slot for a write of so many bytes to byte `at`; `must`: it asks for a completion.
    #[inline]
    fn add(&mut self, opcode: ibv_wr_opcode, to: &Remote, at: u64, bytes: u64, must: bool) -> What {
        let end = at.checked_add(bytes);
        assert!(end.is_some_and(|end| end <= to.bytes), "a write outside the peer's memory");
        assert!(self.room() > 0, "Q2: a write without room");
        let (position, asks) = self.slots.add(must);
        let flag = ibv_send_flags::IBV_SEND_SIGNALED.0;
        let (address, key) = (to.address.wrapping_add(at), to.key);
        let (id, flags) = (self.token.sent(position), if asks { flag } else { 0 });
        What { id, opcode, flags, address, key }
    }

    /// Rings the doorbell for all that was added. `bell`: the last write also wakes the peer, which has
    /// said that it takes bells.
    ///
    /// Errors: the queue has ended (Q3).
    #[inline]
    pub fn post(&mut self, bell: bool) -> Result<(), Failure> {
        if self.chain.room() == CHAIN {
            return Ok(());
        }
        if bell {
            self.chain.ring();
            self.counts.bells += 1;
        }
        self.slots.post();
        // SAFETY: the queue pair lives as long as `self`; memory that spans are of is given back only
        // when they are over or their queue is (`Memory::drop`).
        let (errno, count) = unsafe { self.chain.post(&self.door) };
        self.counts.work_requests += count as u64;
        self.counts.doorbells += 1;
        if errno == 0 { Ok(()) } else { Err(self.fail(Cause::Post { errno })) }
    }

    /// All that was posted so far, as a position.
    pub fn mark(&self) -> u64 {
        self.slots.posted()
    }

    /// Whether the peer's device has acknowledged all before a mark.
    pub fn is_over(&self, mark: u64) -> bool {
        self.slots.is_over(mark)
    }

    /// Sees to it that a completion will come behind all that was posted: an empty write, if need be.
    /// Needs room for one.
    ///
    /// Errors: as `post`.
    pub fn settle(&mut self) -> Result<(), Failure> {
        self.post(false)?;
        if self.state != State::Connected || self.slots.all_asked() {
            return Ok(());
        }
        let nowhere = Remote::default();
        let what = self.add(ibv_wr_opcode::IBV_WR_RDMA_WRITE, &nowhere, 0, 0, true);
        self.chain.add_nothing(what);
        self.post(false)
    }

    /// What a completion with this queue's number was. A bell's receive is posted again.
    #[inline]
    pub fn take(&mut self, completion: Completion) -> Taken {
        if completion.token() != self.token || self.state == State::Failed {
            return Taken::Stale;
        }
        self.counts.completions += 1;
        if completion.status != ibv_wc_status::IBV_WC_SUCCESS.0 {
            let (status, vendor) = (completion.status, completion.vendor);
            return Taken::Failed(self.fail(Cause::Completion { status, vendor }));
        }
        if completion.is_receive() {
            self.counts.rung += 1;
            return match self.receive() {
                Ok(()) => Taken::Rung,
                Err(errno) => Taken::Failed(self.fail(Cause::Post { errno })),
            };
        }
        self.slots.complete(completion.position());
        Taken::Sent
    }

    fn receive(&mut self) -> Result<(), i32> {
        let mut request: ibv_recv_wr = zeroed();
        request.wr_id = self.token.received();
        let mut bad = std::ptr::null_mut();
        // SAFETY: a queue pair that is alive; the request, which takes no bytes, outlives the call.
        let errno = unsafe { (self.post_receive)(self.qp.as_ptr(), &mut request, &mut bad) };
        if errno == 0 { Ok(()) } else { Err(errno) }
    }

    #[cold]
    fn fail(&mut self, cause: Cause) -> Failure {
        self.state = State::Failed;
        self.chain.clear();
        let queue = format!("{}: {}", self.device().name(), self.name());
        self.failure.insert(Failure { queue, cause }).clone()
    }

    /// The failure that has ended it, once more.
    pub fn alive(&self) -> Result<(), Failure> {
        self.failure.clone().map_or(Ok(()), Err)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if !self.device().is_mine() {
            return; // X3
        }
        let mut attr: ibv_qp_attr = zeroed();
        attr.qp_state = ibv_qp_state::IBV_QPS_ERR;
        let table = &self.device().table;
        // SAFETY: a queue pair that is alive, and destroyed once; its events were acknowledged as they
        // were read (X2), so that this does not wait.
        let refused = unsafe {
            (table.modify_qp)(
                self.qp.as_ptr(),
                &mut attr,
                ibv_qp_attr_mask::IBV_QP_STATE.0 as c_int,
            );
            (table.destroy_qp)(self.qp.as_ptr())
        };
        if refused == 0 {
            self.shared.end(self.depths.entries());
        } else {
            // It may go on completing: what it has reserved stays reserved.
            let cause = io::Error::from_raw_os_error(refused);
            crate::notice!("{}: {} cannot be ended: {cause}", self.device().name(), self.name());
        }
    }
}

fn unsafe_ops(device: &Device) -> &ibv_context_ops {
    // SAFETY: the context is open as long as the device is, and its operations do not change.
    unsafe { &(*device.context.as_ptr()).ops }
}
