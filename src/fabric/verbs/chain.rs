// SPDX-License-Identifier: MIT OR Apache-2.0
//! The writes that one doorbell takes, and the two ways to hand them over.
//!
//! K1  Pointers into the chain are set and used within one call: the device has copied requests and what
//!     they carry by value when that returns.
//!
//! Cost: the chain is one piece of memory, made with its queue; most turns use its first two entries.

use super::setup::{CHAIN, INLINE_BYTES_MAX};
use super::sys::bindings::*;
use super::sys::zeroed;
use std::ffi::c_int;
use std::ptr::NonNull;

pub(super) type PostSend =
    unsafe extern "C" fn(*mut ibv_qp, *mut ibv_send_wr, *mut *mut ibv_send_wr) -> c_int;

/// How work is handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Path {
    /// As a list (`ibv_post_send`).
    List,
    /// Call by call (`ibv_wr_*`), where the provider has that: it saves a copy.
    Calls,
}

pub(super) enum Door {
    List(NonNull<ibv_qp>, PostSend),
    Calls(NonNull<ibv_qp_ex>),
}

/// One collected write.
#[derive(Clone, Copy)]
struct Entry {
    request: ibv_send_wr,
    part: ibv_sge,
    /// What is carried by value.
    bytes: [u8; INLINE_BYTES_MAX],
    by_value: bool,
}

/// One write, but for what it carries.
pub(super) struct What {
    pub(super) id: u64,
    pub(super) opcode: ibv_wr_opcode,
    pub(super) flags: u32,
    pub(super) address: u64,
    pub(super) key: u32,
}

/// What is collected.
pub(super) struct Chain {
    entries: Box<[Entry; CHAIN]>,
    added: usize,
}

impl Chain {
    pub(super) fn new() -> Chain {
        let (request, part, bytes) = (zeroed(), zeroed(), [0; INLINE_BYTES_MAX]);
        let entry = Entry { request, part, bytes, by_value: false };
        Chain { entries: Box::new([entry; CHAIN]), added: 0 }
    }

    #[inline]
    pub(super) fn room(&self) -> usize {
        CHAIN - self.added
    }

    pub(super) fn clear(&mut self) {
        self.added = 0;
    }

    /// Collects one write: its number, flags, what it carries, and where to.
    #[inline]
    fn add(&mut self, what: What, by_value: bool) -> &mut Entry {
        let entry = &mut self.entries[self.added];
        self.added += 1;
        entry.request.wr_id = what.id;
        entry.request.opcode = what.opcode;
        entry.request.send_flags = what.flags;
        entry.request.num_sge = 1;
        entry.request.wr.rdma.remote_addr = what.address;
        entry.request.wr.rdma.rkey = what.key;
        entry.by_value = by_value;
        entry
    }

    /// Bytes by value, as `fill` gives them.
    #[inline]
    pub(super) fn add_bytes(&mut self, mut what: What, len: usize, fill: impl FnOnce(&mut [u8])) {
        what.flags |= ibv_send_flags::IBV_SEND_INLINE.0;
        let entry = self.add(what, true);
        fill(&mut entry.bytes[..len]);
        // Where they are is filled in by `link`.
        entry.part = ibv_sge { addr: 0, length: len as u32, lkey: 0 };
    }

    #[inline]
    pub(super) fn add_part(&mut self, what: What, part: ibv_sge) {
        self.add(what, false).part = part;
    }

    /// A write of nothing: neither address nor key is looked at.
    pub(super) fn add_nothing(&mut self, what: What) {
        let entry = self.add(what, false);
        entry.request.num_sge = 0;
        entry.part = zeroed();
    }

    /// The last write also rings.
    #[inline]
    pub(super) fn ring(&mut self) {
        let last = &mut self.entries[self.added - 1].request;
        assert!(last.opcode == ibv_wr_opcode::IBV_WR_RDMA_WRITE, "a read rings no bell");
        last.opcode = ibv_wr_opcode::IBV_WR_RDMA_WRITE_WITH_IMM;
        last.send_flags |= ibv_send_flags::IBV_SEND_SOLICITED.0;
    }

    /// Hands over what was collected; answers with an `errno`, 0 if that went well, and how many.
    ///
    /// # Safety
    /// The door's queue pair is alive; what parts are of stays registered until their writes are over.
    #[inline]
    pub(super) unsafe fn post(&mut self, door: &Door) -> (i32, usize) {
        let count = std::mem::take(&mut self.added);
        // SAFETY: the caller's promises.
        let errno = unsafe {
            match *door {
                _ if count == 0 => 0,
                Door::List(qp, post) => self.post_list(count, qp, post),
                Door::Calls(calls) => self.post_calls(count, calls.as_ptr()),
            }
        };
        (errno, count)
    }

    /// Sets an entry's pointers; gives its request.
    #[inline]
    fn link(chain: *mut Entry, at: usize) -> *mut ibv_send_wr {
        // SAFETY: `chain` points to the whole chain, mutably, and `at` is one of it (`add`).
        unsafe {
            let entry = chain.add(at);
            if (*entry).by_value {
                (*entry).part.addr = (&raw mut (*entry).bytes).expose_provenance() as u64;
            }
            (*entry).request.sg_list = &raw mut (*entry).part;
            &raw mut (*entry).request
        }
    }

    /// # Safety
    /// As `post`.
    unsafe fn post_list(&mut self, count: usize, qp: NonNull<ibv_qp>, post: PostSend) -> i32 {
        let chain = self.entries.as_mut_ptr();
        let mut next = std::ptr::null_mut();
        for at in (0..count).rev() {
            let request = Chain::link(chain, at);
            // SAFETY: an entry of the chain, which nobody else has.
            unsafe { (*request).next = next };
            next = request;
        }
        let mut bad = std::ptr::null_mut();
        // SAFETY: a queue pair that is alive; the list, its parts and what is carried by value are in
        // the chain (or in registered memory) and stay there during the call, which is all that the
        // provider needs of them; other memory stays registered (`span`).
        unsafe { post(qp.as_ptr(), next, &mut bad) }
    }

    /// # Safety
    /// As `post`; the queue pair was made for these calls.
    unsafe fn post_calls(&mut self, count: usize, qp: *mut ibv_qp_ex) -> i32 {
        let chain = self.entries.as_mut_ptr();
        // SAFETY: the queue pair was made for these calls (`Made`), so each of those used here is
        // there; between start and complete nothing else touches it. What is carried by value is copied
        // by the call that gets it; other memory stays registered (`span`).
        unsafe {
            let missing = "a provider has the calls that it was asked for";
            ((*qp).wr_start.expect(missing))(qp);
            for at in 0..count {
                let request = Chain::link(chain, at);
                let inline = ibv_send_flags::IBV_SEND_INLINE.0;
                let rdma = (*request).wr.rdma;
                (*qp).wr_id = (*request).wr_id;
                // With the flag of what is carried by value: soft-RoCE looks for it, others do not.
                (*qp).wr_flags = (*request).send_flags;
                match (*request).opcode {
                    ibv_wr_opcode::IBV_WR_RDMA_WRITE => {
                        ((*qp).wr_rdma_write.expect(missing))(qp, rdma.rkey, rdma.remote_addr);
                    }
                    ibv_wr_opcode::IBV_WR_RDMA_READ => {
                        ((*qp).wr_rdma_read.expect(missing))(qp, rdma.rkey, rdma.remote_addr);
                    }
                    _ => {
                        let call = (*qp).wr_rdma_write_imm.expect(missing);
                        call(qp, rdma.rkey, rdma.remote_addr, 0);
                    }
                }
                let part = *(*request).sg_list;
                if (*request).num_sge == 0 {
                    ((*qp).wr_set_sge_list.expect(missing))(qp, 0, std::ptr::null());
                } else if (*request).send_flags & inline != 0 {
                    let bytes = std::ptr::with_exposed_provenance_mut(part.addr as usize);
                    ((*qp).wr_set_inline_data.expect(missing))(qp, bytes, part.length as usize);
                } else {
                    ((*qp).wr_set_sge.expect(missing))(qp, part.lkey, part.addr, part.length);
                }
            }
            ((*qp).wr_complete.expect(missing))(qp)
        }
    }
}
