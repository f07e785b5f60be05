// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a queue pair is made and connected: depths, manner, what the two ends tell each other.
//!
//! Nothing here is on the hot path.

use super::completions::Shared;
use super::device::{Device, Place, mtu_bytes, mtu_of, refused};
use super::sys::bindings::*;
use super::sys::zeroed;
use crate::base::POST_WORDS_MAX;
use crate::error::{Error, Status};
use ring::rand::{SecureRandom, SystemRandom};
use std::io;
use std::ptr::NonNull;

/// Writes that one doorbell takes at the most.
pub const CHAIN: usize = 64;
/// Words of one post are carried by value.
pub const INLINE_BYTES_MIN: u32 = POST_WORDS_MAX as u32 * 8;
/// More than that the device fetches by itself as fast.
pub const INLINE_BYTES_MAX: usize = 256;
/// How long a peer waits before it asks again for a bell to be taken: 40 us, by the device's number.
const BELL_RETRY: u8 = 4;
/// Of this queue's retries when the peer takes no bells: for ever.
pub(super) const BELL_RETRIES_FOREVER: u8 = 7;
const HOPS_MAX: u8 = 64;
/// Numbers of queues and packets have 24 bits.
const NUMBER_MAX: u32 = 0xff_ffff;

/// How deep the queues are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Depths {
    /// Slots for writes.
    pub send: u16,
    /// Bells that may come before one is taken; 0: nobody rings this member.
    pub receive: u16,
    /// Bytes of a span that are carried by value rather than fetched by the device.
    pub inline_bytes: u32,
}

impl Default for Depths {
    fn default() -> Self {
        Depths { send: 256, receive: 0, inline_bytes: 220 }
    }
}

impl Depths {
    /// Completions that one queue can have waiting.
    pub(super) fn entries(&self) -> u32 {
        u32::from(self.send) + u32::from(self.receive)
    }
}

/// How packets of a queue travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Manner {
    /// An unanswered packet is sent again after 4.096 us * 2^timeout; 1 to 31.
    pub timeout: u8,
    /// So many times, 0 to 6: 7 is for ever on some devices.
    pub retry: u8,
    pub traffic_class: u8,
    pub service_level: u8,
    /// At most the smaller one of the two ports'.
    pub mtu_bytes: Option<u32>,
}

impl Default for Manner {
    fn default() -> Self {
        Manner { timeout: 14, retry: 6, traffic_class: 0, service_level: 0, mtu_bytes: None }
    }
}

impl Manner {
    /// Errors: `Invalid`, with the range.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |what: String| Err(Error::new(Status::Invalid, what));
        if !(1..=31).contains(&self.timeout) {
            return refuse(format!("an RDMA timeout is 1 to 31, not {}", self.timeout));
        }
        if self.retry > 6 {
            return refuse(format!("RDMA retries are 0 to 6, not {}", self.retry));
        }
        if self.service_level > 15 {
            return refuse(format!("a service level is 0 to 15, not {}", self.service_level));
        }
        match self.mtu_bytes {
            Some(bytes) if !(256..=4096).contains(&bytes) || !bytes.is_power_of_two() => {
                refuse(format!("an RDMA MTU is 256, 512, 1024, 2048 or 4096, not {bytes}"))
            }
            _ => Ok(()),
        }
    }
}

/// What the other end must know of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Endpoint {
    pub qpn: u32,
    /// The number of its first packet.
    pub psn: u32,
}

/// The way to a peer's port, for RTR.
pub(super) fn path_to(
    device: &Device,
    peer: &Endpoint,
    place: &Place,
    manner: &Manner,
) -> ibv_qp_attr {
    let mtu = place.mtu_bytes.min(device.place().mtu_bytes);
    let mut attr: ibv_qp_attr = zeroed();
    attr.qp_state = ibv_qp_state::IBV_QPS_RTR;
    attr.path_mtu = mtu_of(manner.mtu_bytes.map_or(mtu, |bytes| bytes.min(mtu)));
    attr.dest_qp_num = peer.qpn;
    attr.rq_psn = peer.psn;
    attr.max_dest_rd_atomic = device.limits().reads_in_max.min(16);
    attr.min_rnr_timer = BELL_RETRY;
    attr.ah_attr.dlid = place.lid;
    attr.ah_attr.sl = manner.service_level;
    attr.ah_attr.port_num = device.port();
    if device.routes_by_gid() {
        attr.ah_attr.is_global = 1;
        attr.ah_attr.grh.dgid.raw = place.gid.0;
        attr.ah_attr.grh.sgid_index = device.gid.index as u8;
        attr.ah_attr.grh.hop_limit = HOPS_MAX;
        attr.ah_attr.grh.traffic_class = manner.traffic_class;
    }
    attr
}

pub(super) fn random_number() -> Result<u32, Error> {
    let mut bytes = [0; 4];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::new(Status::System, "the system gives no random bytes (getrandom)"))?;
    Ok(u32::from_le_bytes(bytes) & NUMBER_MAX)
}

/// Whether what a peer has told can be.
pub(super) fn validate(device: &Device, peer: &Endpoint, place: &Place) -> Result<(), Error> {
    let fault = |what: String| Err(Error::new(Status::PeerFault, what));
    // 0 and 1 are the subnet's own.
    if peer.qpn < 2 || peer.qpn > NUMBER_MAX || peer.psn > NUMBER_MAX {
        return fault(format!("a peer's queue is {:#x}, its packet {:#x}", peer.qpn, peer.psn));
    }
    if mtu_bytes(mtu_of(place.mtu_bytes)) != place.mtu_bytes {
        return fault(format!("a peer's MTU is {} bytes", place.mtu_bytes));
    }
    if place.ethernet != device.place().ethernet {
        let link = |ethernet| if ethernet { "Ethernet (RoCE)" } else { "InfiniBand" };
        let (theirs, mine) = (link(place.ethernet), link(!place.ethernet));
        return Err(Error::new(
            Status::Mismatch,
            format!("a peer's RDMA port is on {theirs}, mine ({}) on {mine}", device.name()),
        ));
    }
    if device.routes_by_gid() && place.gid.is_zero() {
        return fault("a peer's RDMA port has no GID".into());
    }
    if !device.routes_by_gid() && !(1..0xc000).contains(&place.lid) {
        return fault(format!("a peer's LID is {}", place.lid));
    }
    Ok(())
}

/// A queue pair as the provider has made it.
pub(super) struct Made {
    pub(super) qp: NonNull<ibv_qp>,
    pub(super) calls: Option<NonNull<ibv_qp_ex>>,
    pub(super) inline_bytes: u32,
}

impl Made {
    /// Tries the calls first, then the list; and to carry less by value where the device refuses.
    pub(super) fn new(device: &Device, shared: &Shared, depths: Depths) -> Result<Made, Error> {
        let most = INLINE_BYTES_MAX as u32;
        let mut inline_bytes = depths.inline_bytes.clamp(INLINE_BYTES_MIN, most);
        loop {
            let made = Made::with_calls(device, shared, &depths, inline_bytes)
                .or_else(|| Made::with_list(device, shared, &depths, inline_bytes));
            if let Some(made) = made {
                return made.check(device);
            }
            let error = refused(&format!(
                "{}: no queue of {} slots that carries {inline_bytes} bytes by value",
                device.name(),
                depths.send
            ));
            let errno = io::Error::last_os_error().raw_os_error();
            if errno != Some(libc::EINVAL) || inline_bytes == INLINE_BYTES_MIN {
                return Err(error);
            }
            inline_bytes = (inline_bytes / 2).max(INLINE_BYTES_MIN);
        }
    }

    fn check(self, device: &Device) -> Result<Made, Error> {
        if self.inline_bytes >= INLINE_BYTES_MIN {
            return Ok(self);
        }
        // SAFETY: just made, and nothing uses it.
        unsafe { (device.table.destroy_qp)(self.qp.as_ptr()) };
        let detail = format!(
            "{}: its queues carry {} bytes by value, {INLINE_BYTES_MIN} are needed: use another \
             device or fabric",
            device.name(),
            self.inline_bytes
        );
        Err(Error::new(Status::System, detail))
    }

    fn capabilities(depths: &Depths, inline_bytes: u32) -> ibv_qp_cap {
        ibv_qp_cap {
            max_send_wr: depths.send.into(),
            max_recv_wr: depths.receive.max(1).into(),
            max_send_sge: 1,
            max_recv_sge: 1,
            max_inline_data: inline_bytes,
        }
    }

    fn with_calls(
        device: &Device,
        shared: &Shared,
        depths: &Depths,
        inline_bytes: u32,
    ) -> Option<Made> {
        let to_calls = device.table.qp_to_qp_ex?;
        let mut attr: ibv_qp_init_attr_ex = zeroed();
        attr.send_cq = shared.cq.as_ptr();
        attr.recv_cq = shared.cq.as_ptr();
        attr.cap = Made::capabilities(depths, inline_bytes);
        attr.qp_type = ibv_qp_type::IBV_QPT_RC;
        attr.comp_mask = ibv_qp_init_attr_mask::IBV_QP_INIT_ATTR_PD.0
            | ibv_qp_init_attr_mask::IBV_QP_INIT_ATTR_SEND_OPS_FLAGS.0;
        attr.pd = device.domain.as_ptr();
        attr.send_ops_flags = u64::from(
            ibv_qp_create_send_ops_flags::IBV_QP_EX_WITH_RDMA_WRITE.0
                | ibv_qp_create_send_ops_flags::IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM.0
                | ibv_qp_create_send_ops_flags::IBV_QP_EX_WITH_RDMA_READ.0,
        );
        // SAFETY: an open context; the domain and the completion queue are alive.
        let qp = unsafe { device.table.create_qp_ex(device.context.as_ptr(), &mut attr) };
        let qp = NonNull::new(qp)?;
        // SAFETY: just made.
        match NonNull::new(unsafe { to_calls(qp.as_ptr()) }) {
            Some(calls) => Some(Made::granted(qp, Some(calls), &attr.cap, inline_bytes)),
            None => {
                // SAFETY: just made, and nothing uses it.
                unsafe { (device.table.destroy_qp)(qp.as_ptr()) };
                None
            }
        }
    }

    fn with_list(
        device: &Device,
        shared: &Shared,
        depths: &Depths,
        inline_bytes: u32,
    ) -> Option<Made> {
        let mut attr: ibv_qp_init_attr = zeroed();
        attr.send_cq = shared.cq.as_ptr();
        attr.recv_cq = shared.cq.as_ptr();
        attr.cap = Made::capabilities(depths, inline_bytes);
        attr.qp_type = ibv_qp_type::IBV_QPT_RC;
        // SAFETY: the domain and the completion queue are alive.
        let qp = unsafe { (device.table.create_qp)(device.domain.as_ptr(), &mut attr) };
        Some(Made::granted(NonNull::new(qp)?, None, &attr.cap, inline_bytes))
    }

    fn granted(
        qp: NonNull<ibv_qp>,
        calls: Option<NonNull<ibv_qp_ex>>,
        granted: &ibv_qp_cap,
        inline_bytes: u32,
    ) -> Made {
        // At least what was asked for: else the provider refuses.
        let inline_bytes = inline_bytes.min(granted.max_inline_data);
        Made { qp, calls, inline_bytes }
    }
}
