// SPDX-License-Identifier: MIT OR Apache-2.0
//! The log thread: all logs of a device, written by one thread, so that one sync commits what has
//! come while the last one took its time.
//!
//! L1  `appended` moves after the write: then the log reads the slots no more (L in `mem::order`).
//! L2  `durable` moves after the sync (D).
//! L3  A log that fails, or a bug of ours, ends the thread: what it says last is why. No frontier moves
//!     after that, and nobody waits for one unawares.
//!
//! Nothing here waits for the log thread but `close`: without a free lot there is no `lot`, and the
//! caller delivers nothing more to the log meanwhile. Lots go round, so memory is bounded; a lot that
//! is sent, or comes back, costs a wake of who sleeps, and nothing per message.

use super::disk::Disk;
use super::flaw::{Failure, Refusal};
use super::lot::Lot;
use super::writer::Log;
use crate::error::{Error, Status};
use crate::mem::Cell;
use crate::mem::thread::block_signals;
use crate::mutant;
use crate::mutants::caught;
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel,
};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes after which a round syncs though more has come, so that nobody waits for long.
const ROUND_BYTES: u64 = 4 << 20;

/// How long nothing has to come before it is noted what is durable.
const QUIET: Duration = Duration::from_millis(100);

/// How a log thread works.
#[derive(Clone, Copy, Debug)]
pub struct Writing {
    /// Lots that are under way at the most, of all logs; default 64.
    pub lots: usize,
    /// Records in each at the most; default 512.
    pub records: usize,
}

impl Default for Writing {
    fn default() -> Writing {
        Writing { lots: 64, records: 512 }
    }
}

/// The frontiers of one log: positions, as in `Tip`.
#[derive(Debug)]
struct Frontiers {
    appended: Cell,
    durable: Cell,
    begins_at: Cell,
    /// Up to where a trim was asked for that is carried out.
    trimmed: Cell,
}

#[derive(Debug)]
struct Shared {
    frontiers: Box<[Frontiers]>,
    failure: OnceLock<Error>,
}

enum Order {
    Append(Box<Lot>),
    Trim { log: usize, below: u64 },
    Close,
}

/// The caller's side: one thread's, the turn thread's.
pub struct LogThread {
    shared: Arc<Shared>,
    orders: SyncSender<Order>,
    free: Receiver<Box<Lot>>,
    thread: Option<JoinHandle<()>>,
    /// By log: up to where a trim was asked for.
    trims: Box<[u64]>,
}

impl LogThread {
    /// Starts the thread for these logs. `wake` is called on it whenever a frontier has moved or it
    /// has failed: it rings who is asleep, and must be short.
    pub fn start<D: Disk>(
        logs: Vec<Log<D>>,
        writing: Writing,
        wake: impl Fn() + Send + 'static,
    ) -> Result<LogThread, Error> {
        let (mut handle, worker) = pair(logs, writing, wake);
        let run = move || {
            block_signals();
            let mut worker = worker;
            let outcome = caught(|| worker.run());
            worker.end(outcome);
        };
        let spawned = std::thread::Builder::new().name("squall-log".into()).spawn(run);
        let thread = spawned.map_err(|cause| {
            let text = format!("cannot start the log thread: {cause}; raise `ulimit -u`");
            Error::new(Status::Limit, text)
        })?;
        handle.thread = Some(thread);
        Ok(handle)
    }

    /// An empty lot to fill; `None`: the log is behind by as much as it may be.
    pub fn lot(&mut self) -> Option<Box<Lot>> {
        self.free.try_recv().ok()
    }

    /// Has it appended to that log. One without records is of use to nobody, and comes back.
    pub fn submit(&mut self, log: usize, mut lot: Box<Lot>) {
        assert!(log < self.shared.frontiers.len());
        lot.log = log;
        // If the thread is over the caller learns it from `failure`.
        let sent = self.orders.try_send(Order::Append(lot));
        assert!(!matches!(sent, Err(TrySendError::Full(_))), "there is room for all lots");
    }

    /// All below is read from the slots: they may be released.
    pub fn appended(&self, log: usize) -> u64 {
        self.shared.frontiers[log].appended.observe() // L
    }

    /// All below is on the disk.
    pub fn durable(&self, log: usize) -> u64 {
        self.shared.frontiers[log].durable.observe() // D
    }

    /// All below is trimmed.
    pub fn begins_at(&self, log: usize) -> u64 {
        self.shared.frontiers[log].begins_at.observe()
    }

    /// Has whole segments below that position removed, soon. To be called again and again, as the
    /// position rises: while one is under way the next is not asked for.
    pub fn trim(&mut self, log: usize, below: u64) {
        let idle = self.shared.frontiers[log].trimmed.observe() == self.trims[log];
        if idle && below > self.trims[log] {
            self.trims[log] = below;
            let _ = self.orders.try_send(Order::Trim { log, below });
        }
    }

    /// Why nothing becomes durable any more.
    pub fn failure(&self) -> Option<&Error> {
        self.shared.failure.get()
    }

    /// Ends it, after all that was submitted is on the disk. Waits for that.
    pub fn close(mut self) -> Result<(), Error> {
        self.end();
        self.shared.failure.get().map_or(Ok(()), |failure| Err(failure.clone()))
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        let _ = self.orders.send(Order::Close);
        let _ = thread.join();
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.end();
    }
}

pub(super) struct Worker<D: Disk, W> {
    shared: Arc<Shared>,
    logs: Vec<Log<D>>,
    orders: Receiver<Order>,
    free: SyncSender<Box<Lot>>,
    wake: W,
}

/// Both sides, and no thread yet.
pub(super) fn pair<D: Disk, W: Fn()>(
    logs: Vec<Log<D>>,
    writing: Writing,
    wake: W,
) -> (LogThread, Worker<D, W>) {
    let frontiers = logs.iter().map(|log| Frontiers {
        appended: Cell::new(log.tip().position),
        durable: Cell::new(log.durable()),
        begins_at: Cell::new(log.begins_at()),
        trimmed: Cell::new(log.begins_at()),
    });
    let (frontiers, failure) = (frontiers.collect(), OnceLock::new());
    let shared = Arc::new(Shared { frontiers, failure });
    // Room for all lots, a trim of each log, and the end: sending never waits.
    let (orders, ordered) = sync_channel(writing.lots + logs.len() + 1);
    let (free, freed) = sync_channel(writing.lots);
    for _ in 0..writing.lots {
        let _ = free.try_send(Box::new(Lot::new(writing.records)));
    }
    let trims = logs.iter().map(Log::begins_at).collect();
    let handle = LogThread { shared: shared.clone(), orders, free: freed, thread: None, trims };
    (handle, Worker { shared, logs, orders: ordered, free, wake })
}

impl<D: Disk, W: Fn()> Worker<D, W> {
    fn run(&mut self) -> Result<(), Failure> {
        while self.round(true)? {}
        self.close()
    }

    /// Says how it ended, if not in good order.
    fn end(self, outcome: std::thread::Result<Result<(), Failure>>) {
        let error = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(Error::from(Refusal::Failed(failure))),
            Err(_) => Some(Error::new(Status::Panic, "the log thread panicked: nothing is logged")),
        };
        if let Some(error) = error {
            let _ = self.shared.failure.set(error);
        }
        (self.wake)();
    }

    fn close(&mut self) -> Result<(), Failure> {
        self.logs.drain(..).try_for_each(Log::close)
    }

    /// Does what there is, and one sync per log at the end; with `wait` there will be something.
    /// `false`: it is over.
    pub(super) fn round(&mut self, wait: bool) -> Result<bool, Failure> {
        let Some(first) = self.first(wait)? else { return Ok(false) };
        let (mut order, mut goes_on, mut bytes) = (Some(first), true, 0);
        while let Some(now) = order {
            match now {
                Order::Append(lot) => {
                    bytes += 1 + lot.bytes();
                    self.append(lot)?;
                }
                Order::Trim { log, below } => {
                    let begins_at = self.logs[log].trim(below)?;
                    self.shared.frontiers[log].begins_at.publish(begins_at);
                    self.shared.frontiers[log].trimmed.publish(below);
                }
                Order::Close => goes_on = false,
            }
            if bytes >= ROUND_BYTES {
                break;
            }
            order = match self.orders.try_recv() {
                Ok(order) => Some(order),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => {
                    goes_on = false;
                    None
                }
            };
        }
        if bytes > 0 {
            (self.wake)(); // slots are free
            self.sync()?;
            (self.wake)();
        }
        Ok(goes_on)
    }

    /// The next order; `None`: there will be none. Before it waits it prepares room; when it has
    /// waited in vain it notes what is durable.
    fn first(&mut self, wait: bool) -> Result<Option<Order>, Failure> {
        match self.orders.try_recv() {
            Err(TryRecvError::Empty) if wait => {}
            order => return Ok(order.ok()),
        }
        for log in &mut self.logs {
            log.rest()?;
        }
        match self.orders.recv_timeout(QUIET) {
            Err(RecvTimeoutError::Timeout) => {}
            order => return Ok(order.ok()),
        }
        self.logs.iter_mut().try_for_each(Log::note)?;
        Ok(self.orders.recv().ok())
    }

    fn append(&mut self, mut lot: Box<Lot>) -> Result<(), Failure> {
        let (log, frontiers) = (&mut self.logs[lot.log], &self.shared.frontiers[lot.log]);
        if mutant!("log-slots-freed-early") {
            frontiers.appended.publish(log.tip().position + 1);
        }
        log.append(&*lot)?;
        frontiers.appended.publish(log.tip().position); // L
        frontiers.durable.publish(log.durable()); // where a segment ended on the way
        lot.clear();
        let _ = self.free.try_send(lot);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Failure> {
        for (log, frontiers) in self.logs.iter_mut().zip(&self.shared.frontiers) {
            if mutant!("log-frontier-before-sync") {
                frontiers.durable.publish(log.tip().position);
            }
            log.sync()?;
            frontiers.durable.publish(log.durable()); // D
        }
        Ok(())
    }
}
