// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a device does for a bare program: the floor beside which figures over it are read.
//!
//! Deliberately not: a use of `queue`. One reliable queue pair between two processes, one registered
//! area each, work requests as a textbook writes them: what `queue` costs is to be seen in the
//! comparison, and a fault of its account is not to be shared by its measure.
//!
//! W1  The lower half of an area is sent from, the upper half is written by the other end; what is sent
//!     from somewhere in the lower half lands at the same place of the upper one.
//! W2  The last word of a write says which one it is. Whoever polls it (`landed`) looks at nothing else.
//! W3  At most `DEPTH` writes are under way, and one in `SIGNALLED` asks for a completion: a slot of the
//!     queue is free only when a completion behind it has been polled.

use super::device::{Device, Place};
use super::gid::Gid;
use super::memory::{Memory, Remote};
use super::setup::{BELL_RETRIES_FOREVER, Endpoint, Manner, path_to, validate};
use super::sys::bindings::*;
use super::sys::{Table, zeroed};
use crate::error::{Error, Status};
use crate::mem::Region;
use std::ptr::null_mut;
use std::sync::Arc;

/// Slots of the queue; most of them are used at a time.
const DEPTH: u32 = 128;
const SIGNALLED: u32 = 16;
/// What is written by value, if the device can: no more than the engine does.
const INLINE_BYTES: u32 = 220;
/// Bytes of what one end must be told of the other.
pub const TICKET_BYTES: usize = 48;

/// One end.
pub struct Raw {
    objects: Objects,
    memory: Memory,
    area: Arc<Region>,
    remote: Remote,
    psn: u32,
    inline_bytes: u32,
    /// Of all writes: how many, and up to which one they have completed.
    posted: u64,
    freed: u64,
}

/// A completion with an error: nothing goes through any more. The specification's number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lost(pub u32);

impl Lost {
    /// Whether the other end did not answer.
    pub fn is_silence(self) -> bool {
        ibv_wc_status(self.0) == ibv_wc_status::IBV_WC_RETRY_EXC_ERR
    }
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.is_silence() {
            true => write!(f, "the other end does not answer (retries exceeded)"),
            false => write!(f, "a write failed with status {}", self.0),
        }
    }
}

/// What the library made for an end, in the order in which it is destroyed.
struct Objects {
    device: Arc<Device>,
    qp: *mut ibv_qp,
    cq: *mut ibv_cq,
}

// SAFETY: verbs objects may be used by any thread; an end lends them to one at a time.
unsafe impl Send for Objects {}

impl Objects {
    fn table(&self) -> &Table {
        &self.device.table
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        // SAFETY: each was made with this table and is destroyed once, the queue pair before the
        // completion queue that it uses; null ones were never made.
        unsafe {
            if !self.qp.is_null() {
                (self.table().destroy_qp)(self.qp);
            }
            if !self.cq.is_null() {
                (self.table().destroy_cq)(self.cq);
            }
        }
    }
}

impl Raw {
    /// An end whose writes have up to `bytes` bytes.
    ///
    /// Errors: what the device refuses, with the cause. Cost: system calls; locks twice that much memory.
    pub fn open(device: &Arc<Device>, bytes: usize) -> Result<Raw, Error> {
        let area = Arc::new(Region::pages(2 * bytes.next_multiple_of(64))?);
        let memory = Memory::target(device, area.clone())?;
        let (context, domain) = (device.context.as_ptr(), device.domain.as_ptr());
        let mut objects = Objects { device: device.clone(), qp: null_mut(), cq: null_mut() };
        let entries = 2 * DEPTH as i32;
        // SAFETY: an open device; no channel and no word of ours.
        objects.cq =
            unsafe { (device.table.create_cq)(context, entries, null_mut(), null_mut(), 0) };
        made(objects.cq, "a completion queue")?;
        let mut attr: ibv_qp_init_attr = zeroed();
        for inline_bytes in [INLINE_BYTES, 64, 0] {
            (attr.send_cq, attr.recv_cq) = (objects.cq, objects.cq);
            (attr.cap.max_send_wr, attr.cap.max_send_sge) = (DEPTH, 1);
            (attr.cap.max_recv_wr, attr.cap.max_recv_sge) = (1, 1);
            attr.cap.max_inline_data = inline_bytes;
            attr.qp_type = ibv_qp_type::IBV_QPT_RC;
            // SAFETY: domain and completion queue are alive; `attr` is a value of its type.
            objects.qp = unsafe { (device.table.create_qp)(domain, &mut attr) };
            if !objects.qp.is_null() {
                break;
            }
        }
        made(objects.qp, "a queue pair")?;
        let (remote, psn) = (Remote::default(), std::process::id() & 0xff_ffff);
        let inline_bytes = attr.cap.max_inline_data;
        let (posted, freed) = (0, 0);
        let raw = Raw { objects, memory, area, remote, psn, inline_bytes, posted, freed };
        raw.initialize()?;
        Ok(raw)
    }

    /// What the other end must be told.
    pub fn ticket(&self) -> [u8; TICKET_BYTES] {
        let (place, remote) = (self.objects.device.place(), self.memory.remote());
        // SAFETY: a queue pair that is alive.
        let qpn = unsafe { (*self.objects.qp).qp_num };
        let mut ticket = [0; TICKET_BYTES];
        ticket[..16].copy_from_slice(&place.gid.0);
        let numbers = [place.lid.into(), place.mtu_bytes, qpn, self.psn, remote.key];
        for (at, number) in numbers.into_iter().enumerate() {
            ticket[16 + 4 * at..20 + 4 * at].copy_from_slice(&number.to_le_bytes());
        }
        ticket[40..].copy_from_slice(&remote.address.to_le_bytes());
        ticket
    }

    /// Connects with the end that wrote this ticket; it has as large an area.
    ///
    /// Errors: as of `Queue::connect`.
    pub fn connect(&mut self, ticket: &[u8; TICKET_BYTES], manner: &Manner) -> Result<(), Error> {
        let number = |at: usize| {
            let bytes = ticket[16 + 4 * at..20 + 4 * at].try_into().expect("four bytes");
            u32::from_le_bytes(bytes)
        };
        let device = self.objects.device.clone();
        let gid = Gid(ticket[..16].try_into().expect("sixteen bytes"));
        let (lid, mtu_bytes) = (number(0) as u16, number(1));
        let place = Place { gid, lid, mtu_bytes, ..device.place() };
        let peer = Endpoint { qpn: number(2), psn: number(3) };
        manner.check()?;
        validate(&device, &peer, &place)?;
        let address = u64::from_le_bytes(ticket[40..].try_into().expect("eight bytes"));
        self.remote = Remote { address, bytes: self.memory.bytes(), key: number(4) };
        let mask = ibv_qp_attr_mask::IBV_QP_STATE.0
            | ibv_qp_attr_mask::IBV_QP_AV.0
            | ibv_qp_attr_mask::IBV_QP_PATH_MTU.0
            | ibv_qp_attr_mask::IBV_QP_DEST_QPN.0
            | ibv_qp_attr_mask::IBV_QP_RQ_PSN.0
            | ibv_qp_attr_mask::IBV_QP_MAX_DEST_RD_ATOMIC.0
            | ibv_qp_attr_mask::IBV_QP_MIN_RNR_TIMER.0;
        self.modify(path_to(&device, &peer, &place, manner), mask)?;
        let mut attr: ibv_qp_attr = zeroed();
        attr.qp_state = ibv_qp_state::IBV_QPS_RTS;
        (attr.timeout, attr.retry_cnt) = (manner.timeout, manner.retry);
        attr.rnr_retry = BELL_RETRIES_FOREVER;
        (attr.sq_psn, attr.max_rd_atomic) = (self.psn, 1);
        let mask = ibv_qp_attr_mask::IBV_QP_STATE.0
            | ibv_qp_attr_mask::IBV_QP_TIMEOUT.0
            | ibv_qp_attr_mask::IBV_QP_RETRY_CNT.0
            | ibv_qp_attr_mask::IBV_QP_RNR_RETRY.0
            | ibv_qp_attr_mask::IBV_QP_SQ_PSN.0
            | ibv_qp_attr_mask::IBV_QP_MAX_QP_RD_ATOMIC.0;
        self.modify(attr, mask)
    }

    fn initialize(&self) -> Result<(), Error> {
        let mut attr: ibv_qp_attr = zeroed();
        attr.qp_state = ibv_qp_state::IBV_QPS_INIT;
        attr.port_num = self.objects.device.port();
        attr.qp_access_flags = ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0;
        let mask = ibv_qp_attr_mask::IBV_QP_STATE.0
            | ibv_qp_attr_mask::IBV_QP_PKEY_INDEX.0
            | ibv_qp_attr_mask::IBV_QP_PORT.0
            | ibv_qp_attr_mask::IBV_QP_ACCESS_FLAGS.0;
        self.modify(attr, mask)
    }

    fn modify(&self, mut attr: ibv_qp_attr, mask: u32) -> Result<(), Error> {
        let (modify, qp) = (self.objects.table().modify_qp, self.objects.qp);
        // SAFETY: a queue pair that is alive, and the attributes that `mask` names.
        let errno = unsafe { modify(qp, &mut attr, mask as i32) };
        if errno == 0 {
            return Ok(());
        }
        let (state, cause) = (attr.qp_state.0, std::io::Error::from_raw_os_error(errno));
        let what = format!("the raw queue pair cannot go to state {state}: {cause}");
        Err(Error::new(Status::System, what))
    }

    /// Posts `COUNT` writes of `bytes` bytes with one doorbell; the last word of each is `word` (W2).
    /// `pause` is called while there is no room for them, and says whether to go on waiting. Whether
    /// they were posted.
    #[inline]
    pub fn write<const COUNT: usize>(
        &mut self,
        bytes: usize,
        word: u64,
        mut pause: impl FnMut() -> bool,
    ) -> Result<bool, Lost> {
        let used = (DEPTH - COUNT as u32).into();
        while self.posted - self.freed > used {
            if !self.poll()? && !pause() {
                return Ok(false);
            }
        }
        let half = self.area.size() / 2;
        assert!(bytes >= 8 && bytes.is_multiple_of(8) && bytes <= half, "a write of whole words");
        self.area.cell(bytes - 8).publish(word);
        let mut parts = [self.memory.part(0, bytes as u64)];
        let mut chain: [ibv_send_wr; COUNT] = std::array::from_fn(|_| zeroed());
        let mut next: *mut ibv_send_wr = null_mut();
        for (at, request) in chain.iter_mut().enumerate().rev() {
            let position = self.posted + at as u64 + 1;
            let asks = position.is_multiple_of(SIGNALLED.into());
            request.wr_id = position;
            (request.sg_list, request.num_sge) = (parts.as_mut_ptr(), 1);
            request.opcode = ibv_wr_opcode::IBV_WR_RDMA_WRITE;
            let flag = |set: bool, flag: ibv_send_flags| if set { flag.0 } else { 0 };
            request.send_flags = flag(asks, ibv_send_flags::IBV_SEND_SIGNALED)
                | flag(bytes <= self.inline_bytes as usize, ibv_send_flags::IBV_SEND_INLINE);
            request.wr.rdma.remote_addr = self.remote.address + half as u64;
            request.wr.rdma.rkey = self.remote.key;
            request.next = next;
            next = request;
        }
        self.posted += COUNT as u64;
        self.post(next).map(|()| true)
    }

    /// Until something else than `last` has landed here, and what.
    #[inline]
    pub fn wait(
        &mut self,
        bytes: usize,
        last: u64,
        mut pause: impl FnMut() -> bool,
    ) -> Option<u64> {
        loop {
            let now = self.landed(bytes);
            if now != last {
                return Some(now);
            }
            if !pause() {
                return None;
            }
        }
    }

    #[inline]
    fn post(&mut self, first: *mut ibv_send_wr) -> Result<(), Lost> {
        let (qp, mut bad) = (self.objects.qp, null_mut());
        // SAFETY: a connected queue pair with room for these requests (W3), which with their parts are
        // alive during the call; what they name is registered as long as `self`.
        let errno = unsafe {
            let post = (*(*qp).context).ops.post_send.expect("a provider can post");
            post(qp, first, &mut bad)
        };
        if errno == 0 { Ok(()) } else { Err(Lost(ibv_wc_status::IBV_WC_LOC_QP_OP_ERR.0)) }
    }

    /// Polls a completion; whether there was one.
    #[inline]
    pub fn poll(&mut self) -> Result<bool, Lost> {
        let mut completion: ibv_wc = zeroed();
        let cq = self.objects.cq;
        // SAFETY: a completion queue that is alive, and a place for one completion.
        let got = unsafe {
            let poll = (*(*cq).context).ops.poll_cq.expect("a provider can poll");
            poll(cq, 1, &mut completion)
        };
        match (got, completion.status) {
            (0, _) => Ok(false),
            (1.., ibv_wc_status::IBV_WC_SUCCESS) => {
                self.freed = completion.wr_id;
                Ok(true)
            }
            (1.., status) => Err(Lost(status.0)),
            _ => Err(Lost(ibv_wc_status::IBV_WC_GENERAL_ERR.0)),
        }
    }

    /// Writes one more word, and waits until it and all before it are complete. Whether they are.
    pub fn settle(&mut self, word: u64, mut pause: impl FnMut() -> bool) -> Result<bool, Lost> {
        // So many that the last of them asks for a completion.
        loop {
            if !self.write::<1>(8, word, &mut pause)? {
                return Ok(false);
            }
            if self.posted.is_multiple_of(SIGNALLED.into()) {
                break;
            }
        }
        while self.freed < self.posted {
            if !self.poll()? && !pause() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The last word of the newest write of `bytes` bytes that has landed here (W2).
    #[inline]
    pub fn landed(&self, bytes: usize) -> u64 {
        self.area.cell(self.area.size() / 2 + bytes - 8).observe()
    }
}

fn made<T>(pointer: *mut T, what: &str) -> Result<(), Error> {
    if !pointer.is_null() {
        return Ok(());
    }
    let cause = std::io::Error::last_os_error();
    let what = format!("the device makes no {what} for the raw measurement: {cause}");
    Err(Error::new(Status::System, what))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::gid::Choice;
    use super::super::sys::soft::{Process, World};
    use super::*;

    fn ends(one: &Process, other: &Process) -> (Raw, Raw) {
        let open = |of: &Process| {
            let device = Device::open(&of.table(), &Choice::default()).unwrap();
            Raw::open(&device, 4096).unwrap()
        };
        let (mut first, mut second) = (open(one), open(other));
        first.connect(&second.ticket(), &Manner::default()).unwrap();
        second.connect(&first.ticket(), &Manner::default()).unwrap();
        (first, second)
    }

    /// There and back, streams by one and by many a doorbell, more than the queue is deep.
    #[test]
    fn writes_land_in_order_and_complete() {
        for seed in 1..20 {
            let world = World::new(seed);
            let (one, other) = (world.process(), world.process());
            let (mut first, mut second) = ends(&one, &other);
            let mut go_on = || world.step() || true;
            for trip in 1..300 {
                assert_eq!(first.write::<1>(64, trip, &mut go_on), Ok(true));
                assert_eq!(second.wait(64, trip - 1, &mut go_on), Some(trip));
                assert_eq!(second.write::<1>(64, trip, &mut go_on), Ok(true));
                assert_eq!(first.wait(64, trip - 1, &mut go_on), Some(trip));
            }
            for word in 1..100 {
                assert_eq!(first.write::<16>(4096, word, &mut go_on), Ok(true));
            }
            assert_eq!(first.settle(7, &mut go_on), Ok(true));
            assert_eq!((second.landed(4096), second.landed(8)), (99, 7));
        }
    }

    #[test]
    fn who_waits_in_vain_stops_and_who_writes_to_nobody_is_told() {
        let world = World::new(5);
        let (one, other) = (world.process(), world.process());
        let (mut first, second) = ends(&one, &other);
        let mut rounds = 0;
        let waited = first.wait(64, 0, || {
            rounds += 1;
            rounds < 10
        });
        assert_eq!((waited, rounds), (None, 10));
        drop(second);
        other.kill();
        let lost = first.settle(1, || world.step() || true).unwrap_err();
        assert!(lost.is_silence(), "{lost}");
    }
}
