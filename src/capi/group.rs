// SPDX-License-Identifier: MIT OR Apache-2.0
//! A group: open, poll, close.
//!
//! Polling is guarded by one flag per turn, so that a call that would nest or come beside it answers
//! `SQUALL_REENTRANT`; sending (`send`) touches only its lane.

use super::attr::{
    SQUALL_FLAG_OWN_THREAD, SQUALL_FLAG_PIN, callbacks_of, config_of, squall_group_attr_t,
};
use super::handle::{self, squall_group_t};
use super::message::{squall_callbacks_t, squall_message_t};
use super::place::Places;
use super::view::with_view;
use super::{bug, guard, refusal, refuse};
use crate::driver::Application;
use crate::driver::config::OwnPolicy;
use crate::driver::control::Control;
use crate::driver::group::{Group, Polling, Sender};
use crate::driver::lane::Dropped;
use crate::driver::stats::{self, Snapshot};
use crate::driver::views::ViewInfo;
use crate::error::{Error, Status, Suspicion};
use crate::fabric::shm::fork::forks;
use crate::limits::{BATCH_MAX, LANES_MAX};
use crate::mem::thread::this_thread;
use crate::mem::turnstile::{Turnstile, Way};
use crate::mem::{Cell, Message, Region};
use crate::registered::Memories;
use crate::transfer::{StateSink, StateSource};
use std::cell::UnsafeCell;
use std::ffi::{CString, c_int};
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Who turns the group.
enum Turning {
    Caller(Box<Group>),
    Own(Polling),
    /// Between the two: its thread is being started.
    Starting,
}

/// What a handle stands for.
pub struct Open {
    /// Only for the one that has passed `door`.
    turning: UnsafeCell<Turning>,
    door: Turnstile,
    /// Which thread is inside a callback: the address of a thread-local of its, or 0.
    pub(super) inside: Arc<Cell>,
    /// Why the group has stopped, once it has.
    pub(super) stopped: Arc<OnceLock<String>>,
    /// Bytes of the largest message, by subgroup.
    pub(super) largest: Vec<u32>,
    /// By subgroup, then lane; each only for the one thread that sends in it.
    pub(super) senders: Vec<UnsafeCell<Option<Sender>>>,
    stats: Arc<Region>,
    poisoned: Cell,
    /// Rank and members in the view at hand.
    pub(super) place: Arc<[Cell; 2]>,
    /// `None`: members do not change.
    pub(super) control: Option<Control>,
    /// Likewise.
    pub(super) memories: Option<Memories>,
    own_thread: bool,
}

// SAFETY: `turning` is reached through `door` only, a sender by one thread at a time (the header's
// contract for lanes), everything else is read-only or a `Cell`.
unsafe impl Sync for Open {}
// SAFETY: nothing in it is bound to a thread.
unsafe impl Send for Open {}

/// The caller's functions as an application.
pub(super) struct Trampoline {
    pub(super) callbacks: squall_callbacks_t,
    pub(super) group: squall_group_t,
    pub(super) inside: Arc<Cell>,
    why: Arc<OnceLock<String>>,
    place: Arc<[Cell; 2]>,
}

// SAFETY: the header says on which thread the callbacks run; `user` is the caller's.
unsafe impl Send for Trampoline {}

impl Application for Trampoline {
    fn deliver(&mut self, subgroup: u16, batch: &[Message]) {
        let (user, group, subgroup) = (self.callbacks.user, self.group, u32::from(subgroup));
        let messages = batch.as_ptr().cast::<squall_message_t>();
        self.inside.prepare(this_thread());
        if let Some(deliver) = self.callbacks.deliver {
            // SAFETY: the caller's function; `messages` has the same layout (asserted), lives
            // across the call.
            unsafe { deliver(user, group, subgroup, messages, batch.len() as u32) }
        } else if let Some(message) = self.callbacks.message {
            let before = forks();
            for at in 0..batch.len() {
                // SAFETY: as above; `at` is within the batch.
                unsafe { message(user, group, subgroup, messages.add(at)) }
                if forks() != before {
                    break; // a child: the rest is the parent's
                }
            }
        }
        self.inside.prepare(0);
    }

    fn view(&mut self, view: &ViewInfo) {
        self.place[0].publish(view.rank.into());
        self.place[1].publish(view.members.len() as u64);
        let Some(tell) = self.callbacks.view else { return };
        let (user, group) = (self.callbacks.user, self.group);
        self.inside.prepare(this_thread());
        // SAFETY: the caller's function; the view lives across the call.
        with_view(view, |view| unsafe { tell(user, group, view) });
        self.inside.prepare(0);
    }

    fn lags(&mut self, subgroup: u16, rank: u16, for_ns: u64) {
        let Some(tell) = self.callbacks.lags else { return };
        let (user, group) = (self.callbacks.user, self.group);
        self.inside.prepare(this_thread());
        // SAFETY: the caller's function.
        unsafe { tell(user, group, subgroup.into(), rank.into(), for_ns) };
        self.inside.prepare(0);
    }

    fn source(&mut self) -> Option<&mut dyn StateSource> {
        if self.callbacks.checkpoint_open.is_some() { Some(self) } else { None }
    }

    fn sink(&mut self) -> Option<&mut dyn StateSink> {
        if self.callbacks.state_load.is_some() { Some(self) } else { None }
    }

    fn dropped(&mut self, message: &Dropped) {
        let Some(tell) = self.callbacks.dropped else { return };
        let (user, group) = (self.callbacks.user, self.group);
        let subgroup = u32::from(message.subgroup) | u32::from(message.lane) << 16;
        let (bytes, len) = (message.bytes.as_ptr().cast(), message.bytes.len() as u32);
        self.inside.prepare(this_thread());
        // SAFETY: the caller's function; the bytes live across the call.
        unsafe { tell(user, group, subgroup, message.ordinal, bytes, len, message.why as c_int) };
        self.inside.prepare(0);
    }

    fn lacks(&mut self, error: &Error) {
        let _ = self.why.set(error.to_string());
    }

    fn stopped(&mut self, status: Status, suspicion: Option<Suspicion>) {
        let rank = suspicion.map_or(-1, |suspicion| i32::from(suspicion.rank.0));
        let blamed = |s: Suspicion| match status {
            Status::PeerLost | Status::PeerFault | Status::PeerLeft => {
                format!("rank {}: {}", s.rank.0, s.fault)
            }
            _ => format!("{} (rank {}: {})", status.text(), s.rank.0, s.fault),
        };
        let text = suspicion.map_or(status.text().to_string(), blamed);
        let text = self.why.get_or_init(|| text).clone(); // it stops once
        let Some(stopped) = self.callbacks.stopped else { return };
        let text = CString::new(text).unwrap_or_default();
        self.inside.prepare(this_thread());
        // SAFETY: the caller's function; the text lives across the call.
        unsafe { stopped(self.callbacks.user, self.group, status as c_int, rank, text.as_ptr()) };
        self.inside.prepare(0);
    }
}

/// Opens a group and waits until all its members have.
///
/// Processes of one user (or of those that `peers_users` and `peers_group` name) on one host that open
/// the same name with the same attributes, each with its own rank, form the group; they may start in
/// any order. With `fabric` they may be on several
/// hosts, and prove to each other that they have the group's secret. Waiting, it goes on calling those
/// that are not there yet, and looks names up anew.
///
/// @param attr       What to open; copied. Initialise it with `squall_group_attr_init`.
/// @param callbacks  What to call; copied. Initialise it with `squall_callbacks_init`.
/// @param group      Gets the handle, on success only.
/// @return SQUALL_OK, or
///         SQUALL_INVALID, SQUALL_WRONG_SIZE   an argument; `squall_last_error` names it;
///         SQUALL_IN_USE        that rank of that group is open in a live process, or a port is;
///         SQUALL_FOREIGN_OWNER another user's process holds the name;
///         SQUALL_MISMATCH, SQUALL_WIRE_VERSION  the members do not fit; both values are named;
///         SQUALL_NOT_COMPLETE  not all members came within `open_timeout_ms`; what stood in the way of
///                              the last call is named: nobody listens, a name that is unknown, another
///                              secret;
///         SQUALL_NO_MEMORY, SQUALL_LIMIT, SQUALL_SYSTEM  this machine; the remedy is named;
///         SQUALL_LIMIT         also if this process has 256 groups open already;
///         SQUALL_PANIC         a bug of ours;
///         with SQUALL_FLAG_JOIN also what `state_load` has answered, and why the group is over.
///
/// Threads:   any. With SQUALL_FLAG_OWN_THREAD callbacks may run before this returns.
/// Ownership: the handle is the caller's, to be closed by it.
/// Cost:      allocates and maps everything that the group will ever use.
/// Since:     0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn squall_group_open(
    attr: *const squall_group_attr_t,
    callbacks: *const squall_callbacks_t,
    group: *mut squall_group_t,
) -> c_int {
    bug::hear_panics();
    guard(|| {
        if group.is_null() {
            return refuse(Error::new(Status::Invalid, "group is NULL"));
        }
        // SAFETY: the caller's promises about `attr` and `callbacks` are those of these functions.
        let opened = unsafe { config_of(attr) }.and_then(|(config, flags, core)| {
            // SAFETY: as above.
            let callbacks = unsafe { callbacks_of(callbacks)? };
            let handle =
                handle::insert(|handle| open(&config, callbacks, flags, handle).map(Box::new))?;
            if flags & SQUALL_FLAG_OWN_THREAD != 0 {
                let core = (flags & SQUALL_FLAG_PIN != 0).then_some(core as usize);
                start(handle, core).inspect_err(|_| drop(handle::remove(handle)))?;
            }
            Ok(handle)
        });
        match opened {
            Ok(handle) => {
                // SAFETY: not NULL, and the caller says that it can be written.
                unsafe { group.write(handle) };
                Status::Ok as c_int
            }
            Err(error) => refuse(error),
        }
    })
}

fn open(
    config: &crate::driver::config::Config,
    callbacks: squall_callbacks_t,
    flags: u32,
    handle: squall_group_t,
) -> Result<Open, Error> {
    let (inside, stopped) = (Arc::new(Cell::new(0)), Arc::new(OnceLock::new()));
    let place = Arc::new([Cell::new(0), Cell::new(0)]);
    let trampoline = Trampoline {
        callbacks,
        group: handle,
        inside: inside.clone(),
        why: stopped.clone(),
        place: place.clone(),
    };
    let mut config = config.clone();
    config.policy = callbacks.place.map(|place| {
        let (user, inside) = (callbacks.user, inside.clone());
        OwnPolicy(Arc::new(Places { place, user, inside }))
    });
    let config = &config;
    let mut group = Group::open(config, Box::new(trampoline))?;
    place[0].publish(group.rank().into());
    place[1].publish(group.members().into());
    let mut senders = Vec::new();
    let shards = 0..config.shards();
    let largest = shards.clone().filter_map(|at| Some(config.subgroup(at)?.message_bytes_max));
    let largest: Vec<u32> = largest.collect();
    for subgroup in shards {
        for lane in 0..LANES_MAX as u16 {
            senders.push(UnsafeCell::new(group.lane(subgroup, lane, config)));
        }
    }
    let (control, stats, memories) = (group.control(), group.stats_page(), group.memory());
    let own_thread = flags & SQUALL_FLAG_OWN_THREAD != 0;
    Ok(Open {
        turning: UnsafeCell::new(Turning::Caller(Box::new(group))),
        door: Turnstile::new(own_thread), // taken until `start` has ended
        inside,
        stopped,
        largest,
        senders,
        stats,
        poisoned: Cell::new(0),
        place,
        control,
        memories,
        own_thread,
    })
}

/// Starts the thread of a group that polls itself. The handle is good already: the first callback
/// may come, and send with it, before the thread's creator has gone on.
fn start(handle: squall_group_t, core: Option<usize>) -> Result<(), Error> {
    let open = handle::lookup(handle).map_err(|status| Error::new(status, "just opened"))?;
    // SAFETY: `door` has been taken since the group was opened: nobody else is here.
    let turning = unsafe { &mut *open.turning.get() };
    if let Turning::Caller(group) = std::mem::replace(turning, Turning::Starting) {
        *turning = Turning::Own(group.spawn(core)?);
    }
    open.door.leave(Way::Long);
    Ok(())
}

/// Closes a group: this member leaves in good order. What is stable is still delivered at the
/// others; then they hear SQUALL_PEER_LEFT. Closing 0 does nothing.
///
/// Where members change the others go on without it, and have first all that it has sent: as
/// `squall_leave`, but that it delivers nothing more itself, and waits for a second at the most. What
/// it does not know to be delivered by then goes to `dropped` with SQUALL_TIMED_OUT. If there is no
/// other member, what its own callbacks have not had goes there with SQUALL_LEFT. No other callback
/// is called.
///
/// While others get this member's state it waits for them, too: for `checkpoint_read`, if that is being
/// called, and a second for last words; for one that is being joined just then, until that has what it
/// lacks or has taken nothing for 30 s.
///
/// @return SQUALL_OK, SQUALL_NO_HANDLE, SQUALL_CLOSED, SQUALL_REENTRANT (from inside a callback, or
///         another thread is in the group), or SQUALL_PANIC: its own thread had died of a bug of ours;
///         closed it is all the same.
///
/// Threads: any but those of `checkpoint_read` and `checkpoint_close`; no other call with this handle
///          may be running or come later than its end.
/// Since:   0.1
#[unsafe(no_mangle)]
pub extern "C" fn squall_group_close(group: squall_group_t) -> c_int {
    guard(|| {
        if group == 0 {
            return Status::Ok as c_int;
        }
        let open = match handle::lookup(group) {
            Ok(open) => open,
            Err(status) => return refusal::no_group(group, status),
        };
        if open.inside.own() == this_thread() || open.door.enter().is_none() {
            return refusal::reentrant(open);
        }
        match handle::remove(group) {
            Ok(open) => close(*open),
            Err(status) => refusal::no_group(group, status),
        }
    })
}

fn close(open: Open) -> c_int {
    match open.turning.into_inner() {
        Turning::Starting => {}
        Turning::Caller(group) => group.close(),
        Turning::Own(polling) => {
            let Some((group, _)) = polling.join() else { return refusal::poisoned() };
            group.close();
        }
    }
    Status::Ok as c_int
}

/// This member's rank, or a negative status. Where members change: in the view at hand.
/// Threads: any. Since: 0.1
#[unsafe(no_mangle)]
pub extern "C" fn squall_group_rank(group: squall_group_t) -> c_int {
    guard(|| match handle::lookup(group) {
        Ok(open) => open.place[0].observe() as c_int,
        Err(status) => refusal::no_group(group, status),
    })
}

/// How many members the group has, or a negative status. Where members change: in the view at hand.
/// Threads: any. Since: 0.1
#[unsafe(no_mangle)]
pub extern "C" fn squall_group_members(group: squall_group_t) -> c_int {
    guard(|| match handle::lookup(group) {
        Ok(open) => open.place[1].observe() as c_int,
        Err(status) => refusal::no_group(group, status),
    })
}

/// Runs `body` with the group that the caller polls, as the only one in it.
#[inline(always)]
fn turning(group: squall_group_t, body: impl FnOnce(&mut Group) -> c_int) -> c_int {
    let open = match handle::lookup(group) {
        Ok(open) => open,
        Err(status) => return refusal::no_group(group, status),
    };
    if open.own_thread {
        return refusal::own_thread();
    }
    let Some(way) = open.door.enter() else { return refusal::reentrant(open) };
    if open.poisoned.own() != 0 {
        open.door.leave(way);
        return refusal::poisoned();
    }
    // SAFETY: `door` is passed: nobody else is here.
    let outcome = match unsafe { &mut *open.turning.get() } {
        Turning::Caller(group) => catch_unwind(AssertUnwindSafe(|| body(group))),
        _ => Ok(Status::OwnThread as c_int),
    };
    let code = outcome.unwrap_or_else(|panic| {
        open.poisoned.prepare(1);
        open.inside.prepare(0);
        refuse(bug::of(&*panic))
    });
    open.door.leave(way);
    if code < Status::Again as c_int { refusal::turning(open, code) } else { code }
}

/// Messages of a subgroup that one turn delivers at the most, and that one callback gets.
pub const SQUALL_BATCH_MAX: u32 = 512;
const _: () = assert!(SQUALL_BATCH_MAX as usize == BATCH_MAX);

/// Take one turn: send what is waiting, receive, deliver at most `limit` messages to the callbacks.
/// Never blocks.
///
/// @param limit  Messages to deliver at the most. Whatever it is, one turn delivers SQUALL_BATCH_MAX
///               per subgroup at the most.
/// @return How many were delivered (>= 0), or
///         SQUALL_REENTRANT   from inside a callback, or another thread is in here;
///         SQUALL_OWN_THREAD  the group polls itself;
///         SQUALL_PEER_LOST, SQUALL_PEER_LEFT  the group is over, and everything that was stable has
///                            been delivered;
///         SQUALL_PEER_FAULT  it is over at once: what a member wrote is nonsense;
///         SQUALL_EXPELLED, SQUALL_PARTITIONED, SQUALL_LEFT, SQUALL_EXHAUSTED  where members change:
///                            it is over for this one;
///         SQUALL_LIMIT, SQUALL_NO_MEMORY, SQUALL_SYSTEM, SQUALL_NOT_COMPLETE  likewise: this process
///                            lacks what the next view needs, which `squall_last_error` names with the
///                            remedy; or the view lacks members;
///         SQUALL_CLOSED      also in a child that was forked in a callback and has returned from it;
///         SQUALL_FAILED, SQUALL_PANIC, SQUALL_NO_HANDLE.
///
/// Threads: one at a time, any. Cost: some tens of nanoseconds if there is nothing. Since: 0.1
#[unsafe(no_mangle)]
pub extern "C" fn squall_poll(group: squall_group_t, limit: u32) -> c_int {
    turning(group, |group| match group.poll(limit.min(i32::MAX as u32)) {
        Ok(delivered) => delivered as c_int,
        Err(status) => status as c_int,
    })
}

/// Idle once, as the group's strategy says: spin, yield, or sleep until a peer rings. Returns at
/// once if there is work.
///
/// @param timeout_ms  With SQUALL_IDLE_PARK: how long to sleep at the most; negative: for ever.
/// @return SQUALL_OK: poll now, whether something happened, the time was over, or neither (it may
///         return early); or as `squall_poll`.
///
/// Threads: as `squall_poll`. Since: 0.1
#[unsafe(no_mangle)]
pub extern "C" fn squall_wait(group: squall_group_t, timeout_ms: i32) -> c_int {
    let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
    turning(group, |group| match group.wait(timeout) {
        Ok(()) => Status::Ok as c_int,
        Err(status) => status as c_int,
    })
}

/// A descriptor for an event loop: readable when a turn is due. It belongs to the group; do not
/// read, write or close it. Call `squall_arm` before sleeping on it.
///
/// @return The descriptor (>= 0), or as `squall_poll`.
///
/// Threads: as `squall_poll`. Since: 0.1
#[unsafe(no_mangle)]
pub extern "C" fn squall_fd(group: squall_group_t) -> c_int {
    turning(group, |group| group.as_raw_fd())
}

/// Say that this thread is about to sleep on `squall_fd`.
///
/// @return SQUALL_OK    it may sleep: whoever has news will make the descriptor readable;
///         SQUALL_AGAIN there is work: poll instead;
///         SQUALL_INVALID  the group was not opened with SQUALL_IDLE_PARK;
///         or as `squall_poll`.
///
/// Threads: as `squall_poll`. Since: 0.1
#[unsafe(no_mangle)]
pub extern "C" fn squall_arm(group: squall_group_t) -> c_int {
    turning(group, |group| match group.arm() {
        Ok(true) => Status::Ok as c_int,
        Ok(false) => Status::Again as c_int,
        Err(status) => status as c_int,
    })
}

/// What the member counts, for one subgroup.
pub(super) fn snapshot(group: squall_group_t) -> Result<Snapshot, Status> {
    let open = handle::lookup(group)?;
    if !open.own_thread && open.door.enter_to_count() {
        // Whoever comes meanwhile waits: a panic of ours must not leave the door shut (C2).
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: `door` is passed: nobody else is here.
            match unsafe { &mut *open.turning.get() } {
                Turning::Caller(group) if open.poisoned.own() == 0 => group.refresh(),
                _ => {}
            }
        }));
        open.poisoned.prepare(open.poisoned.own() | u64::from(outcome.is_err()));
        open.door.leave(Way::Long);
        outcome.unwrap_or_else(|panic| resume_unwind(panic));
    }
    stats::read(&open.stats).ok_or(Status::Failed)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::{Events, Peer, Post, Posting, Rank};
    use crate::capi::{squall_callbacks_init, squall_stats_get, squall_stats_t};
    use crate::driver::config::Config;
    use crate::fabric::{Fabric, Memory, Way as Reach};
    use std::os::fd::BorrowedFd;

    /// Has a bug of ours, met when statistics are brought up to date, but for the first time.
    struct Broken(Cell);

    impl Fabric for Broken {
        fn posting(&self) -> Posting {
            Posting::Nothing
        }
        fn post(&mut self, _: &[Post]) {}
        fn poll(&mut self, _: bool, _: &mut Events) {}
        fn revoke(&mut self, _: Peer) {}
        fn fd(&self) -> BorrowedFd<'_> {
            unreachable!("nobody sleeps here")
        }
        fn arm(&mut self, _: bool) {}
        fn sleep(&mut self, _: Option<u64>, _: &mut Events) {}
        fn disarm(&mut self) {}
        fn ways(&self, _: &mut dyn FnMut(Rank, Reach)) {
            assert!(self.0.take(), "a bug of ours");
        }
        fn farewell(&mut self) {}
        fn parks(&self) -> bool {
            false
        }
    }

    unsafe extern "C" fn deliver(
        _: *mut std::ffi::c_void,
        _: squall_group_t,
        _: u32,
        _: *const squall_message_t,
        _: u32,
    ) {
    }

    /// The door stayed shut behind it, and every later call waited for ever.
    #[test]
    fn a_panic_while_statistics_are_counted_leaves_the_door_open() {
        let config = Config::new(&format!("broken-{}", std::process::id()), 0, 1);
        // SAFETY: null pointers and integers.
        let mut callbacks: squall_callbacks_t = unsafe { std::mem::zeroed() };
        // SAFETY: so many bytes are there.
        unsafe { squall_callbacks_init(&mut callbacks, size_of::<squall_callbacks_t>() as u32) };
        callbacks.deliver = Some(deliver);
        let layout = config.view().unwrap().layout();
        let block = Arc::new(Region::heap(layout.control_bytes));
        let rings = layout.subgroups.iter().map(|_| Some(Arc::new(Region::heap(8 << 20))));
        let memories = [Memory { block, rings: rings.collect() }];
        Group::prepare(&memories[0].block);
        let handle = handle::insert(|handle| {
            let mut open = open(&config, callbacks, 0, handle)?;
            let deaf = Box::new(|_: u16, _: &[Message]| {});
            let group =
                Group::over(&config, &memories, Box::new(Broken(Cell::new(0))), None, deaf)?;
            open.turning = UnsafeCell::new(Turning::Caller(Box::new(group)));
            Ok(Box::new(open))
        });
        let handle = handle.unwrap();
        let mut stats =
            squall_stats_t { size: size_of::<squall_stats_t>() as u32, ..Default::default() };
        // SAFETY: it is a struct with its size.
        let mut get = || unsafe { squall_stats_get(handle, 0, &mut stats) };
        assert_eq!(get(), Status::Panic as c_int);
        assert_eq!(squall_poll(handle, 1), Status::Panic as c_int);
        assert_eq!(get(), Status::Ok as c_int);
        assert_eq!(squall_group_close(handle), Status::Ok as c_int);
    }
}
