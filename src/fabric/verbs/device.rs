// SPDX-License-Identifier: MIT OR Apache-2.0
//! One port of one RDMA device: found, chosen, opened, with a protection domain and its limits.
//!
//! X1  The device lives as long as anything made of it: memory and queues hold it by their `Arc`.
//! X2  Asynchronous events are acknowledged as they are read, so that no `destroy` waits for one.
//! X3  A forked child has the descriptors of its parent's device, but none of these objects: dropped
//!     there, they leave everything as it is.
//!
//! Cost: system calls, all of them; nothing here is on the hot path.

use super::gid::{Choice, Entry, Found, Gid, Kind, State, pick};
use super::sys::bindings::*;
use super::sys::{Table, zeroed};
use crate::error::{Error, Status};
use crate::mem::Cell;
use std::ffi::{CStr, c_int};
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

/// Ports that a device may have, at the most: more are not looked at.
const PORTS_MAX: u8 = 16;
/// Entries of a port's table of GIDs that are looked at.
const GIDS_MAX: i32 = 128;
/// `IBV_QPF_GRH_REQUIRED`, a flag of a port that the header defines within an expression.
const GRH_REQUIRED: u8 = 1;

/// What a peer must know of this port to reach it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place {
    pub gid: Gid,
    /// 0 on Ethernet.
    pub lid: u16,
    pub mtu_bytes: u32,
    pub ethernet: bool,
}

/// What the device can do, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Entries of a completion queue, slots of a send queue.
    pub completions_max: u32,
    pub slots_max: u32,
    /// Bytes of one write.
    pub write_bytes_max: u32,
    /// Reads under way, of mine and of a peer's.
    pub reads_out_max: u8,
    pub reads_in_max: u8,
}

/// An open port. Calls that change it are the one thread's that has the fabric; making memory and queues
/// is safe from any.
pub struct Device {
    pub(super) table: Arc<Table>,
    pub(super) context: NonNull<ibv_context>,
    pub(super) domain: NonNull<ibv_pd>,
    found: Found,
    pub(super) gid: Entry,
    limits: Limits,
    /// In which process it was opened (X3).
    process: Cell,
}

// SAFETY: libibverbs' objects may be used by any thread, several at a time ("thread safe" by
// `ibv_open_device(3)` and the provider interface); the rest is plain data that does not change.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// What a device has to say by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum News {
    /// Something happened to a queue of this number; if it failed, its completions say so, too.
    Queue { qpn: u32, what: &'static str },
    /// A port came up or went down; queues survive that, as long as their peers are patient.
    Port { port: u8, up: bool },
    /// The device is lost, and all queues with it.
    Device { what: &'static str },
    /// Of no consequence here.
    Other,
}

/// All ports of this machine, for people. Opens every device for a moment.
///
/// Errors: `System` if the kernel has no RDMA, with the remedy.
pub fn list(table: &Arc<Table>) -> Result<Vec<Found>, Error> {
    let mut all = Vec::new();
    for context in open_all(table, None)?.0 {
        all.extend(context.ports()?);
    }
    Ok(all)
}

impl Device {
    /// Opens the port that suits best (`gid::pick`).
    ///
    /// Errors: `System` where there is none, or not the one named, with what there is and the remedy.
    pub fn open(table: &Arc<Table>, choice: &Choice) -> Result<Arc<Device>, Error> {
        let mut all = open_all(table, choice.device.as_deref())?;
        if all.0.is_empty() {
            all = open_all(table, None)?; // For the text of the refusal.
        }
        let (opened, refused) = all;
        let mut found = Vec::new();
        let mut of_whom = Vec::new();
        for (at, context) in opened.iter().enumerate() {
            let ports = context.ports()?;
            of_whom.extend(ports.iter().map(|_| at));
            found.extend(ports);
        }
        let (at, gid) = pick(&found, choice, node_here()).map_err(|what| {
            let refused = refused.map_or(String::new(), |error| format!(" ({error})"));
            Error::new(Status::System, what + &refused)
        })?;
        let mut opened = opened;
        let context = opened.swap_remove(of_whom[at]);
        let limits = context.limits(found[at].port)?;
        let mut found = found.swap_remove(at);
        // On InfiniBand that is what naming one means: there is a router between the members.
        found.needs_gid |= choice.gid_index.is_some();
        Device::of(context, found, gid, limits)
    }

    fn of(
        context: Context,
        found: Found,
        gid: Entry,
        limits: Limits,
    ) -> Result<Arc<Device>, Error> {
        context.make_events_nonblocking()?;
        // SAFETY: an open context.
        let domain = unsafe { (context.table.alloc_pd)(context.context.as_ptr()) };
        let domain = NonNull::new(domain)
            .ok_or_else(|| refused(&format!("{}: no protection domain", found.device)))?;
        let (table, context) = context.keep();
        let process = Cell::new(u64::from(std::process::id()));
        Ok(Arc::new(Device { table, context, domain, found, gid, limits, process }))
    }

    /// Whether this is the process that opened it. A system call.
    pub(super) fn is_mine(&self) -> bool {
        self.process.own() == u64::from(std::process::id())
    }

    /// What a forked child would find.
    #[cfg(test)]
    pub(super) fn is_a_childs(&self) {
        self.process.prepare(0);
    }

    pub fn name(&self) -> &str {
        &self.found.device
    }

    pub fn port(&self) -> u8 {
        self.found.port
    }

    pub fn place(&self) -> Place {
        Place {
            gid: self.gid.gid,
            lid: self.found.lid,
            mtu_bytes: self.found.mtu_bytes,
            ethernet: self.found.ethernet,
        }
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether packets from this port name their way by GIDs.
    pub(super) fn routes_by_gid(&self) -> bool {
        self.found.ethernet || self.found.needs_gid
    }

    /// One sentence for the log.
    pub fn line(&self) -> String {
        format!("{}, GID {} (index {})", self.found.line(), self.gid.gid, self.gid.index)
    }

    /// Whether pages that a device may write stay where they are when this process forks. Kernels
    /// before 5.12 move them unless libibverbs was told in time.
    pub fn survives_fork(&self) -> bool {
        // SAFETY: it takes nothing and reads what the library knows.
        let state = self.table.is_fork_initialized.map(|state| unsafe { state() });
        state.is_none_or(|state| state != ibv_fork_status::IBV_FORK_DISABLED)
    }

    /// Readable when there are `news`.
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the context is open and its descriptor is its own, as long as `self`.
        unsafe { BorrowedFd::borrow_raw((*self.context.as_ptr()).async_fd) }
    }

    /// The next piece of news; `None`: there is no more. Never blocks.
    pub fn news(&self) -> Option<News> {
        let mut event: ibv_async_event = zeroed();
        // SAFETY: an open context whose descriptor does not block; a place for the event.
        let none = unsafe { (self.table.get_async_event)(self.context.as_ptr(), &mut event) } != 0;
        if none {
            return None;
        }
        let news = news_of(&event);
        // SAFETY: an event that was just read, acknowledged once (X2).
        unsafe { (self.table.ack_async_event)(&mut event) };
        Some(news)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if !self.is_mine() {
            return; // X3
        }
        // SAFETY: the last `Arc`: nothing made of the two is left (X1).
        unsafe {
            (self.table.dealloc_pd)(self.domain.as_ptr());
            (self.table.close_device)(self.context.as_ptr());
        }
    }
}

fn news_of(event: &ibv_async_event) -> News {
    use ibv_event_type as T;
    let queue = |what| {
        // SAFETY: events of these types carry a queue pair, which lives until they are acknowledged.
        let qpn = unsafe { (*event.element.qp).qp_num };
        News::Queue { qpn, what }
    };
    // SAFETY: events of the types that this is called for carry a port's number.
    let port = |up| News::Port { port: unsafe { event.element.port_num } as u8, up };
    match event.event_type {
        T::IBV_EVENT_QP_FATAL => queue("the device has given it up"),
        T::IBV_EVENT_QP_REQ_ERR => queue("its peer sends what it may not"),
        T::IBV_EVENT_QP_ACCESS_ERR => queue("its peer writes where it may not"),
        T::IBV_EVENT_PORT_ACTIVE => port(true),
        T::IBV_EVENT_PORT_ERR => port(false),
        T::IBV_EVENT_DEVICE_FATAL => News::Device { what: "the device has failed" },
        T::IBV_EVENT_CQ_ERR => News::Device { what: "a completion queue has run over" },
        _ => News::Other,
    }
}

/// A context that is closed if nothing comes of it.
struct Context {
    table: Arc<Table>,
    context: NonNull<ibv_context>,
    name: String,
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: opened by `open_all`, and nothing was made of it.
        unsafe { (self.table.close_device)(self.context.as_ptr()) };
    }
}

/// Opens every device that opens, or the one of that name; beside that why the last that does not does
/// not.
fn open_all(
    table: &Arc<Table>,
    only: Option<&str>,
) -> Result<(Vec<Context>, Option<Error>), Error> {
    let mut count: c_int = 0;
    let list = (table.get_device_list)(&mut count);
    let Some(list) = NonNull::new(list) else {
        let cause = io::Error::last_os_error();
        if ![Some(libc::ENOSYS), Some(libc::ENOENT)].contains(&cause.raw_os_error()) {
            return Err(refused("RDMA devices cannot be listed"));
        }
        let detail = format!(
            "this kernel offers no RDMA ({cause}): load its modules (`modprobe ib_uverbs`), or use \
             another fabric"
        );
        return Err(Error::new(Status::System, detail));
    };
    let (mut opened, mut error) = (Vec::new(), None);
    for at in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the list has `count` entries, alive until it is freed.
        let (device, name) = unsafe {
            let device = *list.as_ptr().add(at);
            (device, CStr::from_ptr((table.get_device_name)(device)))
        };
        let name = name.to_string_lossy().into_owned();
        if only.is_some_and(|only| only != name) {
            continue;
        }
        // SAFETY: an entry of the list; the field is the public struct's.
        let transport = unsafe { (*device).transport_type };
        if transport != ibv_transport_type::IBV_TRANSPORT_IB {
            // iWARP and others have no queue pairs that are connected like these.
            let detail = format!("RDMA device {name} speaks neither InfiniBand nor RoCE");
            error = Some(Error::new(Status::System, detail));
            continue;
        }
        // SAFETY: an entry of the list.
        match NonNull::new(unsafe { (table.open_device)(device) }) {
            Some(context) => opened.push(Context { table: table.clone(), context, name }),
            None => error = Some(refused(&format!("RDMA device {name} cannot be opened"))),
        }
    }
    // SAFETY: a list of the table's, freed once; open devices outlive it.
    unsafe { (table.free_device_list)(list.as_ptr()) };
    match (opened.is_empty(), error) {
        (true, Some(error)) => Err(error),
        (_, error) => Ok((opened, error)),
    }
}

impl Context {
    fn keep(self) -> (Arc<Table>, NonNull<ibv_context>) {
        let kept = (self.table.clone(), self.context);
        // The table's count was raised above; what is not dropped here is the name alone.
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped or used again, so both are dropped once.
        unsafe {
            drop(std::ptr::read(&this.table));
            drop(std::ptr::read(&this.name));
        }
        kept
    }

    fn attributes(&self) -> Result<ibv_device_attr, Error> {
        let mut attr: ibv_device_attr = zeroed();
        // SAFETY: an open context and a place for the answer.
        let errno = unsafe { (self.table.query_device)(self.context.as_ptr(), &mut attr) };
        match errno {
            0 => Ok(attr),
            _ => Err(of_errno(errno, &format!("RDMA device {} does not answer", self.name))),
        }
    }

    fn ports(&self) -> Result<Vec<Found>, Error> {
        let attr = self.attributes()?;
        let firmware: Vec<u8> =
            attr.fw_ver.iter().map(|c| *c as u8).take_while(|c| *c != 0).collect();
        let firmware = String::from_utf8_lossy(&firmware).into_owned();
        let node = number_in(&format!("/sys/class/infiniband/{}/device/numa_node", self.name));
        let mut found = Vec::new();
        for port in 1..=attr.phys_port_cnt.min(PORTS_MAX) {
            // SAFETY: an open context.
            let Ok(answer) = (unsafe { self.table.port(self.context.as_ptr(), port) }) else {
                continue;
            };
            let attr = &answer.attr;
            let ethernet = u32::from(attr.link_layer) == IBV_LINK_LAYER_ETHERNET.0;
            found.push(Found {
                device: self.name.clone(),
                firmware: firmware.clone(),
                port,
                state: state_of(attr.state),
                ethernet,
                lid: attr.lid,
                needs_gid: attr.flags & GRH_REQUIRED != 0,
                mtu_bytes: mtu_bytes(attr.active_mtu),
                gbit_per_s: gbit_per_s(attr.active_width, attr.active_speed),
                gids: self.gids(port, attr.gid_tbl_len, ethernet),
                node: node.and_then(|node| u32::try_from(node).ok()),
            });
        }
        Ok(found)
    }

    fn gids(&self, port: u8, len: c_int, ethernet: bool) -> Vec<Entry> {
        let entries = 0..len.clamp(0, GIDS_MAX) as u32;
        entries.filter_map(|index| self.gid(port, index, ethernet)).collect()
    }

    fn gid(&self, port: u8, index: u32, ethernet: bool) -> Option<Entry> {
        if let Some(query) = self.table.query_gid_ex {
            let mut entry: ibv_gid_entry = zeroed();
            let bytes = size_of::<ibv_gid_entry>();
            let context = self.context.as_ptr();
            // SAFETY: an open context, a place for the answer and its size.
            let refused = unsafe { query(context, port.into(), index, &mut entry, 0, bytes) };
            if refused != 0 {
                return None;
            }
            // SAFETY: a GID is 16 bytes however it is looked at.
            let gid = Gid(unsafe { entry.gid.raw });
            let kind = match ibv_gid_type(entry.gid_type) {
                ibv_gid_type::IBV_GID_TYPE_IB => Kind::InfiniBand,
                ibv_gid_type::IBV_GID_TYPE_ROCE_V2 => Kind::RoceV2,
                _ => Kind::RoceV1,
            };
            return (!gid.is_zero()).then_some(Entry { index, gid, kind });
        }
        let mut gid: ibv_gid = zeroed();
        let at = index as c_int;
        // SAFETY: an open context and a place for the answer.
        let refused = unsafe { (self.table.query_gid)(self.context.as_ptr(), port, at, &mut gid) };
        // SAFETY: as above.
        let gid = Gid(unsafe { gid.raw });
        if refused != 0 || gid.is_zero() {
            return None;
        }
        let kind = match ethernet {
            false => Kind::InfiniBand,
            true => {
                let attributes =
                    format!("/sys/class/infiniband/{}/ports/{port}/gid_attrs", self.name);
                let text = fs::read_to_string(format!("{attributes}/types/{index}"));
                let newer = text.is_ok_and(|text| text.contains("v2"));
                if newer { Kind::RoceV2 } else { Kind::RoceV1 }
            }
        };
        Some(Entry { index, gid, kind })
    }

    fn limits(&self, port: u8) -> Result<Limits, Error> {
        let attr = self.attributes()?;
        // SAFETY: an open context.
        let answer = unsafe { self.table.port(self.context.as_ptr(), port) };
        let answer = answer
            .map_err(|errno| of_errno(errno, &format!("{} port {port} is gone", self.name)))?;
        let most = |value: c_int| u32::try_from(value).unwrap_or(0);
        let reads = |value: c_int| value.clamp(0, 255) as u8;
        Ok(Limits {
            completions_max: most(attr.max_cqe),
            slots_max: most(attr.max_qp_wr),
            write_bytes_max: answer.attr.max_msg_sz,
            reads_out_max: reads(attr.max_qp_init_rd_atom),
            reads_in_max: reads(attr.max_qp_rd_atom),
        })
    }

    fn make_events_nonblocking(&self) -> Result<(), Error> {
        // SAFETY: the context is open and its descriptor is its own.
        let fd = unsafe { BorrowedFd::borrow_raw((*self.context.as_ptr()).async_fd) };
        make_nonblocking(fd)
    }
}

pub(super) fn make_nonblocking(fd: BorrowedFd<'_>) -> Result<(), Error> {
    rustix::io::ioctl_fionbio(fd, true).map_err(|cause| {
        let detail = format!("an RDMA device's events cannot be watched: {cause}");
        Error::new(Status::System, detail)
    })
}

/// The last call's `errno` in words, with the remedies that there are.
pub(super) fn refused(what: &str) -> Error {
    of_errno(io::Error::last_os_error().raw_os_error().unwrap_or(0), what)
}

pub(super) fn of_errno(errno: i32, what: &str) -> Error {
    let cause = io::Error::from_raw_os_error(errno);
    match errno {
        libc::ENOMEM | libc::EAGAIN | libc::EMFILE | libc::ENFILE => {
            crate::mem::errno::shortage(what, &cause)
        }
        libc::EACCES | libc::EPERM => {
            let remedy = "let this user open /dev/infiniband/uverbs* (group rdma, or udev rules)";
            Error::new(Status::System, format!("{what}: {cause}; {remedy}"))
        }
        _ => Error::new(Status::System, format!("{what}: {cause}; look into the system's log")),
    }
}

fn state_of(state: ibv_port_state) -> State {
    match state {
        ibv_port_state::IBV_PORT_ACTIVE | ibv_port_state::IBV_PORT_ACTIVE_DEFER => State::Active,
        ibv_port_state::IBV_PORT_INIT | ibv_port_state::IBV_PORT_ARMED => State::Waits,
        _ => State::Down,
    }
}

/// Bytes by the device's number for them: 1 is 256, each next one twice that.
pub(super) fn mtu_bytes(mtu: ibv_mtu) -> u32 {
    128 << mtu.0.clamp(1, 5)
}

/// The number of the largest that is at most so many bytes.
pub(super) fn mtu_of(bytes: u32) -> ibv_mtu {
    ibv_mtu(bytes.clamp(256, 4096).ilog2() - 7)
}

fn gbit_per_s(width: u8, speed: u8) -> f64 {
    let lanes = match width {
        2 => 4.0,
        4 => 8.0,
        8 => 12.0,
        16 => 2.0,
        _ => 1.0,
    };
    let lane = match speed {
        1 => 2.5,
        2 => 5.0,
        4 | 8 => 10.0,
        16 => 14.0,
        32 => 25.0,
        64 => 50.0,
        128 => 100.0,
        _ => 0.0,
    };
    lanes * lane
}

fn number_in(path: &str) -> Option<i64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The memory node of the processor that runs this.
fn node_here() -> Option<u32> {
    let (mut processor, mut node) = (0u32, 0u32);
    // SAFETY: two places for the answer; the third argument is unused by the kernel.
    let refused = unsafe {
        libc::syscall(
            libc::SYS_getcpu,
            &raw mut processor,
            &raw mut node,
            std::ptr::null_mut::<u8>(),
        )
    };
    (refused == 0).then_some(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mtus_are_powers_of_two() {
        for (number, bytes) in [(1, 256), (2, 512), (3, 1024), (4, 2048), (5, 4096)] {
            assert_eq!((mtu_bytes(ibv_mtu(number)), mtu_of(bytes).0), (bytes, number));
        }
        assert_eq!((mtu_of(1500).0, mtu_of(9000).0, mtu_of(0).0), (3, 5, 1));
    }

    #[test]
    fn a_processor_has_a_node() {
        assert!(node_here().is_some());
    }
}
