// SPDX-License-Identifier: MIT OR Apache-2.0
//! A stream to another host for a state transfer: a connection of its own, so that a state of any
//! length delays no message.
//!
//! The transfer reads and writes one end of a local stream, as on one host; two threads carry what
//! goes through the other end over the network, one each way, sealed as records are. They end with
//! either end of it. What a stranger changes, drops or repeats ends the stream.
//!
//! X1  A path that is dead ends it, too: within `DEAD` at the side that waits for bytes; and at the joiner,
//!     which opens it, with bytes on their way, too: they are few, and a source takes them at once. A
//!     joiner may take its time: what is on its way there is the transfer's to judge, by its patience.
//! X2  When the transfer has ended here, what it has sent last still goes, for as long as it moves on
//!     within `LINGER`; what comes is dropped, `DROPPED_BYTES` at the most. Closed at once, the socket
//!     would take the last words along.
//!
//! Cost: two threads and a copy at each side, for as long as a transfer takes.

use super::call::{Call, Called};
use super::seal::Sealer;
use super::session::Session;
use super::talk::{Silence, end_after};
use super::wire::{HEADER_BYTES, MAGIC, TAG_BYTES, length};
use crate::error::{Error, Status};
use crate::fabric::shm::fork::Unshared;
use crate::fabric::shm::socket::system;
use crate::log_sink::{Level, say};
use crate::mem::thread::block_signals;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, dup, ioctl_fionbio};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, recv, send, shutdown,
    socketpair, sockopt,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of one record.
const CHUNK: usize = 64 << 10;
/// The other host's kernel says nothing for about seven seconds.
const DEAD: Silence =
    Silence { idle: Duration::from_secs(2), every: Duration::from_secs(1), count: 5 };
const DEAD_MS: u32 = 7_000;
const LINGER: Duration = Duration::from_secs(3);
const DROPPED_BYTES: usize = 1 << 20;
/// Between two looks at a call.
const STEP: Duration = Duration::from_micros(200);

/// The two ends that are carried between.
struct Ends {
    local: Unshared,
    far: Unshared,
    _count: Arc<()>,
}

impl Ends {
    /// Until the far end stirs. `false`: it does not, and nobody waits for it here any more (X2).
    fn wait(&self, what: PollFlags) -> bool {
        let mut both = [PollFd::new(&self.far, what), PollFd::new(&self.local, PollFlags::empty())];
        loop {
            match poll(&mut both, None) {
                Err(Errno::INTR) => {}
                Err(_) => return false,
                Ok(_) if !both[0].revents().is_empty() => return true,
                Ok(_) => break,
            }
        }
        let linger = Timespec { tv_sec: LINGER.as_secs() as i64, tv_nsec: 0 };
        loop {
            match poll(&mut both[..1], Some(&linger)) {
                Err(Errno::INTR) => {}
                outcome => return outcome.is_ok_and(|count| count > 0),
            }
        }
    }

    /// Sends them all to the far end.
    fn send(&self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match send(&self.far, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if self.wait(PollFlags::OUT) => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// How many bytes have come; 0 at the end, `None`: it broke.
    fn receive(&self, bytes: &mut [u8]) -> Option<usize> {
        loop {
            match recv(&self.far, &mut *bytes, RecvFlags::DONTWAIT) {
                Ok((count, _)) => return Some(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if self.wait(PollFlags::IN) => {}
                Err(_) => return None,
            }
        }
    }
}

/// Calls `whom`, and carries `local` over the connection from then on. Waits for the answer, for as long
/// as a call may take.
pub fn open(call: Call, whom: u64, local: BorrowedFd<'_>) -> Result<(), Error> {
    let session = meet(call, whom)?;
    sockopt::set_tcp_user_timeout(&session.socket, DEAD_MS).map_err(trouble)?;
    let local = Unshared::make(|| dup(local));
    carry(*session, local.map_err(trouble)?, Arc::new(()))
}

fn meet(mut call: Call, whom: u64) -> Result<Box<Session>, Error> {
    loop {
        match call.step(Instant::now()) {
            Called::Waits => std::thread::sleep(STEP),
            Called::Failed(failure) => return Err(failure.refusal.error),
            Called::Met(session) if session.incarnation() != whom => {
                let detail = format!("another process answers at {}", session.remote);
                return Err(Error::new(Status::PeerFault, detail));
            }
            Called::Met(session) => return Ok(session),
        }
    }
}

/// The same for registered memory, by a thread of its own: who polls waits for nobody. What goes wrong is
/// seen at the other end of `local`. A path that is dead ends it with the member, and who takes its time
/// there may.
pub fn reach(call: Call, whom: u64, local: OwnedFd) -> Result<(), Error> {
    let local = Unshared::make(|| Ok(local)).map_err(trouble)?;
    begin(move || match meet(call, whom) {
        Ok(session) => {
            if let Err(trouble) = carry(*session, local, Arc::new(())) {
                say(Level::Warning, &format!("no registered memory: {trouble}"));
            }
        }
        Err(trouble) => say(Level::Notice, &format!("no registered memory: {trouble}")),
    })
}

/// The end of a local stream that stands for a connection somebody has opened. `count`: is held until
/// both directions have ended.
pub fn plain(session: Session, count: &Arc<()>) -> Result<OwnedFd, Error> {
    let pair = || socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let (mine, theirs) = pair().map_err(trouble)?;
    ioctl_fionbio(&mine, true).map_err(trouble)?;
    let theirs = Unshared::make(|| Ok(theirs)).map_err(trouble)?;
    carry(session, theirs, count.clone())?;
    Ok(mine)
}

fn trouble(cause: Errno) -> Error {
    system("cannot open a stream for a state transfer", cause)
}

fn carry(session: Session, local: Unshared, count: Arc<()>) -> Result<(), Error> {
    let Session { socket: far, keys, leftover, .. } = session;
    ioctl_fionbio(&local, false).map_err(trouble)?;
    end_after(&far, DEAD).map_err(trouble)?;
    let ends = Arc::new(Ends { local, far, _count: count });
    let (sealer, opener) = match &keys {
        Some(keys) => (Some(Sealer::new(&keys.send)), Some(Sealer::new(&keys.receive))),
        None => (None, None),
    };
    let both = ends.clone();
    begin(move || {
        let whole = out(&both, sealer);
        let _ = shutdown(&both.far, if whole { Shutdown::Write } else { Shutdown::Both });
    })?;
    begin(move || {
        let whole = inwards(&ends, opener, &leftover);
        // Who has sent all may still be sent to.
        let _ = shutdown(&ends.local, if whole { Shutdown::Write } else { Shutdown::Both });
        if !whole {
            drop_rest(&ends);
            let _ = shutdown(&ends.far, Shutdown::Both);
        }
    })
}

fn begin(work: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let run = || {
        block_signals();
        work();
    };
    let spawned = std::thread::Builder::new().name("squall-stream".into()).spawn(run);
    spawned.map(drop).map_err(|cause| {
        let what = format!("cannot start a thread for a state transfer: {cause}");
        let remedy = "raise the limit of threads (`ulimit -u`, or pids.max of the control group)";
        Error::new(Status::Limit, format!("{what}; {remedy}"))
    })
}

/// From here to there, to the end; whether all has been sent.
fn out(ends: &Ends, mut sealer: Option<Sealer>) -> bool {
    let mut bytes = vec![0; CHUNK];
    let mut record = Vec::with_capacity(HEADER_BYTES + CHUNK + 8 + TAG_BYTES);
    while let Some(count) = read(ends.local.as_fd(), &mut bytes) {
        let sent = match &mut sealer {
            None => ends.send(&bytes[..count]),
            Some(sealer) => {
                // A record is a multiple of 8 bytes; the first word says how many count.
                let padded = 8 + count.next_multiple_of(8);
                record.clear();
                record.extend_from_slice(&((padded + TAG_BYTES) as u32).to_le_bytes());
                record.extend_from_slice(&MAGIC.to_le_bytes());
                record.extend_from_slice(&(count as u64).to_le_bytes());
                record.extend_from_slice(&bytes[..count]);
                record.resize(HEADER_BYTES + padded, 0);
                sealer.seal(&mut record);
                ends.send(&record)
            }
        };
        if !sent {
            return false;
        }
    }
    true
}

/// From there to here; whether it came to its end in good order.
fn inwards(ends: &Ends, opener: Option<Sealer>, before: &[u8]) -> bool {
    let mut source = Source { ends, before };
    let mut bytes = vec![0; CHUNK + 8 + TAG_BYTES];
    let Some(mut opener) = opener else {
        loop {
            match source.some(&mut bytes) {
                Some(0) => return true,
                Some(count) if write(ends.local.as_fd(), &bytes[..count]) => {}
                _ => return false,
            }
        }
    };
    loop {
        let mut header = [0; HEADER_BYTES];
        match source.all(&mut header) {
            Some(true) => {}
            Some(false) => return true,
            None => return false,
        }
        let Ok(length) = length(header, CHUNK + 8 + TAG_BYTES) else { return false };
        let sealed = &mut bytes[..length as usize];
        if source.all(sealed) != Some(true) {
            return false;
        }
        let Some(plain) = opener.open(&header, sealed) else { return false };
        let Some((count, rest)) = plain.split_first_chunk::<8>() else { return false };
        let count = u64::from_le_bytes(*count) as usize;
        if count > rest.len() || !write(ends.local.as_fd(), &rest[..count]) {
            return false;
        }
    }
}

/// What comes from there, after what came with the handshake.
struct Source<'a> {
    ends: &'a Ends,
    before: &'a [u8],
}

impl Source<'_> {
    /// How many bytes; 0 at the end, `None`: it broke.
    fn some(&mut self, bytes: &mut [u8]) -> Option<usize> {
        if !self.before.is_empty() {
            let count = self.before.len().min(bytes.len());
            let (first, rest) = self.before.split_at(count);
            bytes[..count].copy_from_slice(first);
            self.before = rest;
            return Some(count);
        }
        self.ends.receive(bytes)
    }

    /// Fills them all. `Some(false)`: it ended before the first; `None`: in the middle.
    fn all(&mut self, bytes: &mut [u8]) -> Option<bool> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.some(&mut bytes[filled..])? {
                0 => return (filled == 0).then_some(false),
                count => filled += count,
            }
        }
        Some(true)
    }
}

/// What comes though nobody takes it (X2).
fn drop_rest(ends: &Ends) {
    let (mut bytes, until) = ([0; 4096], Instant::now() + LINGER);
    for _ in 0..DROPPED_BYTES / bytes.len() {
        if ends.receive(&mut bytes).is_none_or(|count| count == 0) || Instant::now() > until {
            return;
        }
    }
}

/// `None`: the end.
fn read(from: BorrowedFd<'_>, bytes: &mut [u8]) -> Option<usize> {
    loop {
        match recv(from, &mut *bytes, RecvFlags::empty()) {
            Ok((0, _)) => return None,
            Ok((count, _)) => return Some(count),
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

fn write(to: BorrowedFd<'_>, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match send(to, bytes, SendFlags::NOSIGNAL) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}

#[cfg(all(test, not(loom)))]
mod tests;
