// SPDX-License-Identifier: MIT OR Apache-2.0
//! What threads of the application, the polling thread and the memory thread have in common.
//!
//! D1  The lock is held for some instructions only, never while bytes are moved or anybody waits.
//! D2  Bytes are moved in *steps* of the memory thread's. A step begins under the lock, where what may
//!     not be touched any more is seen; so whoever changes that under the lock, and then finds no step
//!     at work on it, knows that there will be none (R5, R6).
//! D3  An operation counts until it has been polled: there is always a place for its completion.

use super::direct::{Device, Queue, way_to};
use super::{
    ANNOUNCED_MAX, Access, Completion, Info, OPEN_MAX, Operation, Path, Region, Rights, Stream,
    Ticket, What,
};
use crate::error::{Error, Status};
use crate::mem::Cell;
use crate::mem::place::Place;
use crate::mutant;
use rustix::event::{EventfdFlags, eventfd};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Regions of one member.
const REGIONS_MAX: usize = 4096;

/// A region, and how many operations of mine use it.
struct Lent {
    region: Arc<Region>,
    uses: usize,
}

/// What the thread is to know.
#[derive(Default)]
pub(super) struct Mail {
    pub asked: Vec<Operation>,
    /// Streams that it wants; `None`: there is none.
    pub opened: Vec<(u64, Option<Stream>)>,
    pub offered: Vec<(u64, Stream)>,
    /// Whose streams are to end.
    pub fenced: Vec<u64>,
    /// Announcements have been polled.
    pub has_room: bool,
}

/// A queue that may be taken away.
#[derive(Default)]
pub(super) struct Slot(Mutex<Option<Box<dyn Queue>>>);

impl Slot {
    /// With the queue; `None`: it is gone.
    pub fn with<T>(&self, body: impl FnOnce(&mut dyn Queue) -> T) -> Option<T> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.as_mut().map(|queue| body(&mut **queue))
    }

    /// Nothing comes or goes through it any more when this returns.
    pub fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// What the thread is doing (D2).
#[derive(Clone, Copy)]
pub(super) struct Step {
    pub whom: u64,
    pub region: u64,
}

#[derive(Default)]
pub(super) struct State {
    regions: BTreeMap<u64, Lent>,
    /// The number of the newest one.
    newest: u64,
    pub mail: Mail,
    /// Incarnations: they do not come again.
    pub fenced: BTreeSet<u64>,
    pub stopped: Option<Status>,
    step: Option<Step>,
    /// Operations that were accepted and have not been polled.
    open: usize,
    done: VecDeque<Completion>,
    announced: VecDeque<Completion>,
    /// To whom the thread wants a stream.
    pub wants: Vec<u64>,
    /// Queues of devices, by whose they are (R5).
    pub queues: Vec<(u64, Arc<Slot>)>,
    pub thread: Option<JoinHandle<()>>,
}

pub(super) struct Shared {
    state: Mutex<State>,
    /// Something can be polled.
    pub news: Condvar,
    /// A step is over.
    steps: Condvar,
    /// The driver has something to do; so many completions can be polled.
    pub wanted: Cell,
    there: Cell,
    /// Of the thread; there is one once it was begun.
    bell: OnceLock<OwnedFd>,
    /// Wakes the polling thread.
    wake: Box<dyn Fn() + Send + Sync>,
    pub incarnation: u64,
    pub device: OnceLock<Arc<dyn Device>>,
    /// What the thread runs.
    run: fn(&Shared),
}

/// Registered memory of a member: for any thread of its process, and for callbacks.
#[derive(Clone)]
pub struct Memories(pub(super) Arc<Shared>);

impl Shared {
    pub fn new(incarnation: u64, wake: Box<dyn Fn() + Send + Sync>, run: fn(&Shared)) -> Shared {
        Shared {
            state: Mutex::default(),
            news: Condvar::new(),
            steps: Condvar::new(),
            wanted: Cell::new(0),
            there: Cell::new(0),
            bell: OnceLock::new(),
            wake,
            incarnation,
            device: OnceLock::new(),
            run,
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the memory thread.
    pub fn ring(&self) {
        if let Some(bell) = self.bell.get() {
            let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
        }
    }

    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.get().expect("made before the thread").as_fd()
    }

    /// For the thread: what is new, and whether it is over.
    pub fn take_mail(&self) -> (Mail, Option<Status>) {
        let mut state = self.lock();
        (std::mem::take(&mut state.mail), state.stopped)
    }

    /// For the thread: begins a step that is for `whom` and touches a region of mine (0: none). `None`:
    /// nothing of theirs may be touched any more.
    pub fn enter(&self, whom: u64, region: u64) -> Option<Option<Arc<Region>>> {
        let mut state = self.lock();
        let fenced = state.fenced.contains(&whom) && !mutant!("memory-fence-unseen");
        if fenced || state.stopped.is_some() {
            return None;
        }
        state.step = Some(Step { whom, region });
        Some(state.regions.get(&region).map(|lent| lent.region.clone()))
    }

    /// For the thread: keeps a queue to that one, unless it is no member any more.
    pub fn hold(&self, whom: u64, queue: Box<dyn Queue>) -> Option<Arc<Slot>> {
        let slot = Arc::new(Slot(Mutex::new(Some(queue))));
        let mut state = self.lock();
        if state.fenced.contains(&whom) || state.stopped.is_some() {
            return None;
        }
        state.queues.retain(|(_, of)| Arc::strong_count(of) > 1);
        state.queues.push((whom, slot.clone()));
        Some(slot)
    }

    /// For the thread: that step is over, and what it has touched let go.
    pub fn leave(&self) {
        self.lock().step = None;
        self.steps.notify_all();
    }

    /// For the thread: operations of mine are over.
    pub fn complete(&self, over: impl IntoIterator<Item = (Operation, Status)>) {
        let (mut state, mut any) = (self.lock(), false);
        for (operation, status) in over {
            any = true;
            if let Some(lent) = state.regions.get_mut(&operation.access.region) {
                lent.uses -= 1;
            }
            state.done.push_back(operation.is_over(status));
        }
        self.tell(state, any);
    }

    /// For the thread: somebody has put something here. `false`: not now.
    pub fn announce(&self, what: Completion) -> bool {
        let mut state = self.lock();
        if state.announced.len() >= ANNOUNCED_MAX {
            return false;
        }
        state.announced.push_back(what);
        self.tell(state, true);
        true
    }

    fn tell(&self, state: MutexGuard<'_, State>, any: bool) {
        self.there.publish((state.done.len() + state.announced.len()) as u64);
        drop(state);
        if any {
            self.news.notify_all();
            (self.wake)();
        }
    }

    /// For the thread: a stream to that one is wanted.
    pub fn want(&self, whom: u64) {
        self.lock().wants.push(whom);
        self.wanted.publish(1);
        (self.wake)();
    }

    /// Queues to those are gone when this returns.
    pub fn cut(&self, is_theirs: impl Fn(u64) -> bool) {
        let queues = std::mem::take(&mut self.lock().queues);
        let (theirs, others): (Vec<_>, Vec<_>) =
            queues.into_iter().partition(|(whom, _)| is_theirs(*whom));
        self.lock().queues.extend(others);
        if !mutant!("memory-queue-left") {
            theirs.iter().for_each(|(_, slot)| slot.end());
        }
    }

    /// Returns when the thread is at no step that `is_theirs` (D2). `state` has been changed so that
    /// there will be none.
    pub fn pass(&self, mut state: MutexGuard<'_, State>, is_theirs: impl Fn(&Step) -> bool) {
        while state.step.as_ref().is_some_and(&is_theirs) && !mutant!("memory-step-not-awaited") {
            state = self.steps.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The thread of this member, unless it runs.
pub(super) fn start(shared: &Arc<Shared>, state: &mut State) -> Result<(), Error> {
    if state.thread.is_some() {
        return Ok(());
    }
    if shared.bell.get().is_none() {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|cause| {
            let detail = format!(
                "cannot make a descriptor for registered memory: {cause}; raise the limit with \
                 `ulimit -n`"
            );
            Error::new(Status::Limit, detail)
        })?;
        let _ = shared.bell.set(bell);
    }
    let theirs = shared.clone();
    let run = move || {
        crate::mem::thread::block_signals();
        (theirs.run)(&theirs);
    };
    let spawned = std::thread::Builder::new().name("squall-memory".into()).spawn(run);
    state.thread = Some(spawned.map_err(|cause| {
        let what = format!("cannot start the thread that moves registered memory: {cause}");
        let remedy = "raise the limit of threads (`ulimit -u`, or pids.max of the control group)";
        Error::new(Status::Limit, format!("{what}; {remedy}"))
    })?);
    Ok(())
}

fn invalid<T>(detail: String) -> Result<T, Error> {
    Err(Error::new(Status::Invalid, detail))
}

fn no_region<T>(region: u64) -> Result<T, Error> {
    invalid(format!(
        "{region} is no registered memory of this member: it was deregistered, or never was"
    ))
}

/// Whether `bytes` from `from` on are within `all`.
fn is_within(from: u64, bytes: u64, all: u64) -> bool {
    from.checked_add(bytes).is_some_and(|end| end <= all)
}

impl Memories {
    /// Lends memory to the other members, as far as `rights` say, and to operations of this one.
    /// `direct`: only if a network device reads and writes it itself.
    ///
    /// Errors: `NotDirect`; `Limit`: 4096 regions, or threads; why the group is over. Any thread.
    pub fn register(&self, place: Place, rights: Rights, direct: bool) -> Result<u64, Error> {
        let device = self.0.device.get().map(|device| &**device);
        let (path, keys) = way_to(&place, device, rights, direct)?;
        let mut state = self.0.lock();
        if let Some(status) = state.stopped {
            return Err(status.into());
        }
        if state.regions.len() >= REGIONS_MAX {
            let detail = format!(
                "{REGIONS_MAX} regions are registered: deregister one, or register \
                                  fewer and larger ones"
            );
            return Err(Error::new(Status::Limit, detail));
        }
        start(&self.0, &mut state)?;
        state.newest += 1;
        let number = state.newest;
        let region = Arc::new(Region { number, place, rights, path, keys });
        state.regions.insert(number, Lent { region, uses: 0 });
        Ok(number)
    }

    /// Takes it back. When this returns nobody touches it any more (R6): it waits for a step of the
    /// memory thread's at the most. Operations of others on it end with `NoRegion`.
    ///
    /// Errors: `Again`: operations of mine on it have not completed, poll; `Invalid`. Any thread.
    pub fn deregister(&self, region: u64) -> Result<(), Error> {
        let mut state = self.0.lock();
        match state.regions.get(&region) {
            None => return no_region(region),
            Some(lent) if lent.uses > 0 => {
                let detail = format!(
                    "{} operations on memory {region} have not completed: poll, then \
                                      try again",
                    lent.uses
                );
                return Err(Error::new(Status::Again, detail));
            }
            Some(_) => {}
        }
        if mutant!("memory-not-taken-back") {
            return Ok(());
        }
        let lent = state.regions.remove(&region);
        self.0.pass(state, |step| step.region == region);
        drop(lent);
        Ok(())
    }

    /// What names it elsewhere. `Invalid`: there is no such region. Any thread.
    pub fn ticket(&self, region: u64) -> Result<Ticket, Error> {
        let state = self.0.lock();
        let Some(Lent { region, .. }) = state.regions.get(&region) else {
            return no_region(region);
        };
        let bytes = region.place.bytes();
        let flush = region.path != Path::Direct;
        let keys = region.keys.as_ref().map(|keys| (keys.address, keys.remote, flush));
        Ok(Ticket::with(self.0.incarnation, region.number, bytes, region.rights, keys))
    }

    /// What was registered, and how it is reached. `Invalid`: there is no such region. Any thread.
    pub fn info(&self, region: u64) -> Result<Info, Error> {
        let state = self.0.lock();
        let Some(Lent { region, .. }) = state.regions.get(&region) else {
            return no_region(region);
        };
        Ok(Info { bytes: region.place.bytes(), rights: region.rights, path: region.path })
    }

    /// Writes bytes of a region of mine to where the ticket says. Never blocks. The bytes must stay as
    /// they are until it has completed.
    ///
    /// Errors: `Again`: `OPEN_MAX` operations are open, poll; `Invalid`: a range; `Denied`: the ticket
    /// has no such right; `Gone`: its owner is no member any more; why the group is over. Any thread.
    pub fn put(&self, access: &Access) -> Result<(), Error> {
        self.ask(What::Put, access)
    }

    /// Reads bytes from where the ticket says into a region of mine. As `put`; until it has completed,
    /// what is there is undefined.
    pub fn get(&self, access: &Access) -> Result<(), Error> {
        self.ask(What::Get, access)
    }

    fn ask(&self, what: What, access: &Access) -> Result<(), Error> {
        let (ticket, rights) = (&access.ticket, access.ticket.rights());
        if !is_within(access.at, access.bytes, ticket.bytes()) {
            return invalid(format!(
                "{} bytes from {} on, of a ticket for {}",
                access.bytes,
                access.at,
                ticket.bytes()
            ));
        }
        let may = if what == What::Put { rights.write } else { rights.read };
        if !may {
            return Err(denied(what));
        }
        let mut guard = self.0.lock();
        let state = &mut *guard;
        if let Some(status) = state.stopped {
            return Err(status.into());
        }
        if state.fenced.contains(&ticket.incarnation()) {
            let detail = format!("{} is no member any more", ticket.incarnation());
            return Err(Error::new(Status::Gone, detail));
        }
        let Some(lent) = state.regions.get_mut(&access.region) else {
            return no_region(access.region);
        };
        let all = lent.region.place.bytes();
        if !is_within(access.offset, access.bytes, all) {
            return invalid(format!(
                "{} bytes from {} on, of a region of {all}",
                access.bytes, access.offset
            ));
        }
        if !lent.region.place.can_copy() && ticket.keys().is_none() {
            let detail =
                "that dma-buf cannot be mapped, and no network device reaches the other end";
            return Err(Error::new(Status::NotDirect, detail));
        }
        if state.open >= OPEN_MAX {
            return Err(Status::Again.into());
        }
        state.open += 1; // D3
        lent.uses += 1;
        let mine = lent.region.clone();
        state.mail.asked.push(Operation { what, mine, access: *access, has_landed: false });
        let first = state.mail.asked.len() == 1;
        drop(guard);
        if first {
            self.0.ring(); // the thread takes all of them at once
        }
        Ok(())
    }

    /// Whether `poll` would find something: one load.
    #[inline]
    pub fn is_there(&self) -> bool {
        self.0.there.observe() != 0
    }

    /// Takes completions and announcements, as many as there are and fit; how many. Any thread.
    pub fn poll(&self, places: &mut [Completion]) -> usize {
        if !self.is_there() || places.is_empty() {
            return 0;
        }
        let mut guard = self.0.lock();
        let state = &mut *guard;
        let was_full = state.announced.len() >= ANNOUNCED_MAX;
        let mut taken = 0;
        for place in places {
            *place = match state.done.pop_front() {
                Some(done) => {
                    state.open -= 1; // D3
                    done
                }
                None => match state.announced.pop_front() {
                    Some(announced) => announced,
                    None => break,
                },
            };
            taken += 1;
        }
        let has_room = was_full && state.announced.len() < ANNOUNCED_MAX;
        state.mail.has_room |= has_room;
        self.0.tell(guard, false);
        if has_room {
            self.0.ring();
        }
        taken
    }

    /// Waits until `poll` would find something, or the time is over (`None`: for ever); whether it
    /// would. Any thread but the one that polls the group: without turns no stream is opened.
    ///
    /// Errors: why the group is over, if there is nothing to be polled.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool, Error> {
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut state = self.0.lock();
        loop {
            if !state.done.is_empty() || !state.announced.is_empty() {
                return Ok(true);
            }
            if let Some(status) = state.stopped.filter(|_| state.open == 0) {
                return Err(status.into());
            }
            let Some(until) = until else {
                state = self.0.news.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let Some(rest) = until.checked_duration_since(Instant::now()) else {
                return Ok(false);
            };
            let woken = self.0.news.wait_timeout(state, rest);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A ticket, or a region, without the right.
fn denied(what: What) -> Error {
    let right = if what == What::Put { "written" } else { "read" };
    let detail =
        format!("that memory may not be {right} by others: its owner has registered it so");
    Error::new(Status::Denied, detail)
}
