// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unix sockets that carry descriptors, one message at a time, under a name that leaves no trace.
//!
//! The names are abstract: nothing of them is in the file system, and they vanish with their owner
//! however it ends. (`place` has others, that are files.) A hang-up of a connection means that the process at its other end is gone (or
//! has closed it); no process number can be reused in between. Forked children hold neither (`fork`).

use super::fork::Unshared;
use super::place::SocketFile;
use super::users;
use crate::error::{Error, Status};
use crate::mem::errno::{self, Whose, shortage};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags,
    SocketType, accept_with, bind, connect, listen, recv, recvmsg, sendmsg, shutdown, socket_with,
    socketpair,
};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Descriptors that one message carries at the most: table, bell and a ring per subgroup.
pub const DESCRIPTORS_MAX: usize = crate::limits::SUBGROUPS_MAX + 8;
/// Bytes of one message at the most.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Descriptors that one `Watch::wait` reports at the most.
pub const EVENTS_MAX: usize = 16;
/// Messages of a visitor that are dropped before it is told to go; one is what it should send.
const UNREAD_MAX: usize = 64;

/// A connected pair of streams that never block, and that forked children do not hold.
pub fn stream_pair() -> Result<(Unshared, Unshared), Error> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let made = || socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let made = made()
        .and_then(|(one, other)| Ok((Unshared::make(|| Ok(one))?, Unshared::make(|| Ok(other))?)));
    made.map_err(|cause| system("cannot make a stream for a state transfer", cause))
}

/// One end of a connection, or a listener; and what it is in the file system, if it is.
#[derive(Debug)]
pub struct Socket(Unshared, Option<SocketFile>);

impl Drop for Socket {
    fn drop(&mut self) {
        self.1 = None; // while it still listens: nobody takes the name meanwhile
    }
}

/// Who is at the other end, as the kernel says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// 0: of a process namespace that is not seen from here.
    pub pid: u32,
    pub uid: u32,
    pub gid: u32,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn unconnected() -> Result<Unshared, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Unshared::make(|| socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None))
}

fn address(name: &str) -> Result<SocketAddrUnix, Error> {
    SocketAddrUnix::new_abstract_name(name.as_bytes())
        .map_err(|cause| system("the group's name makes no socket name", cause))
}

/// A refusal by the system, with what was tried.
pub fn system(what: &str, cause: Errno) -> Error {
    match cause {
        // `EAGAIN` and others are no shortage here.
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS => shortage(what, &cause.into()),
        _ => Error::new(Status::System, format!("{what}: {cause}")),
    }
}

/// A message and its descriptors: `None` if there is none yet, `Some(None)` at a hang-up.
pub type Received = Option<Option<(Vec<u8>, Vec<OwnedFd>)>>;

/// A message with its descriptors, and why some of those are missing.
#[derive(Debug)]
pub struct Parcel {
    pub bytes: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
    pub short: Option<Error>,
}

/// The next message, taken with all that came with it, or left where it is.
#[derive(Debug)]
pub enum Taken {
    Nothing,
    /// A hang-up, and nothing more to be read.
    Ended,
    Message(Vec<u8>, Vec<OwnedFd>),
    /// There is one, and this process cannot take its descriptors: ask again.
    Short(Error),
}

impl Socket {
    /// Listens under `name`; `Ok(None)` if somebody else does.
    pub fn listen(name: &str) -> Result<Option<Socket>, Error> {
        Socket::listen_at(&address(name)?, || Ok(None))
            .map_err(|cause| system("cannot take the group's name", cause))
    }

    /// The same at an address; `made` is done before anybody can call.
    pub(super) fn listen_at(
        address: &SocketAddrUnix,
        made: impl FnOnce() -> Result<Option<SocketFile>, Errno>,
    ) -> Result<Option<Socket>, Errno> {
        let socket = unconnected()?;
        match bind(&socket, address) {
            Ok(()) => {}
            Err(Errno::ADDRINUSE) => return Ok(None),
            Err(cause) => return Err(cause),
        }
        let socket = Socket(socket, made()?);
        listen(&socket, 64)?;
        Ok(Some(socket))
    }

    /// Connects to who listens under `name`; `Ok(None)` if nobody does (or its queue is full).
    pub fn connect(name: &str) -> Result<Option<Socket>, Error> {
        match Socket::connect_at(&address(name)?) {
            Ok(socket) => Ok(Some(socket)),
            Err(Errno::CONNREFUSED | Errno::AGAIN | Errno::NOENT) => Ok(None),
            Err(cause) => Err(system("cannot connect to a member", cause)),
        }
    }

    pub(super) fn connect_at(address: &SocketAddrUnix) -> Result<Socket, Errno> {
        let socket = unconnected()?;
        connect(&socket, address)?;
        Ok(Socket(socket, None))
    }

    /// The next one who knocks, if any. An error: somebody knocks and cannot be let in, as when this
    /// process may not open a descriptor more.
    pub fn accept(&self) -> Result<Option<Socket>, Error> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match Unshared::make(|| accept_with(&self.0, flags)) {
            Ok(socket) => Ok(Some(Socket(socket, None))),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(cause) => Err(system("cannot meet others", cause)),
        }
    }

    pub fn credentials(&self) -> Option<Credentials> {
        let libc::ucred { pid, uid, gid } = users::credentials_of(self.as_fd())?;
        Some(Credentials { pid: pid as u32, uid, gid })
    }

    /// Its further groups.
    pub fn groups(&self) -> Vec<u32> {
        users::groups_of(self.as_fd())
    }

    /// Takes nothing more in, and drops what has come. What is sent from now on arrives, even if
    /// this end is closed at once. Descriptors that came along are never this process': to close one may
    /// wait for who serves its file, and ends all locks (`fcntl`) that this process has on that.
    pub fn deafen(&self) {
        let _ = shutdown(&self.0, Shutdown::Read);
        for _ in 0..UNREAD_MAX {
            // Without room for descriptors the system drops them with the rest of the message.
            match recv(&self.0, &mut [0u8; 1], RecvFlags::empty()) {
                Ok((1.., _)) | Err(Errno::CONNRESET) => {}
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// Sends one message whole, with descriptors. `false`: it did not.
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> bool {
        self.deliver(bytes, descriptors) == Ok(true)
    }

    /// The same. `Ok(false)`: the other end is gone or does not read. An error is this process's
    /// (`mem/errno.rs`); nothing was sent.
    pub fn deliver(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<bool, Error> {
        assert!(bytes.len() <= MESSAGE_BYTES_MAX && descriptors.len() <= DESCRIPTORS_MAX);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let parts = [IoSlice::new(bytes)];
        loop {
            let cause = match sendmsg(&self.0, &parts, &mut control, SendFlags::NOSIGNAL) {
                Ok(sent) => return Ok(sent == bytes.len()),
                Err(cause) => cause,
            };
            match errno::of_send(cause.raw_os_error()) {
                Whose::Nobodys => {}
                Whose::Peers => return Ok(false),
                Whose::Mine => return Err(shortage("cannot tell a member", &cause.into())),
            }
        }
    }

    /// Whether the other end is gone and has left nothing to be read.
    pub fn has_hung_up(&self) -> bool {
        let mut byte = [0u8; 1];
        match recv(&self.0, &mut byte, RecvFlags::PEEK) {
            Ok((got, _)) => got == 0,
            Err(Errno::AGAIN | Errno::INTR) => false,
            Err(_) => true,
        }
    }

    /// The next message: `None` if there is none yet, `Some(None)` at a hang-up.
    ///
    /// Descriptors that this process may not open (`ulimit -n`) are missing from the end.
    pub fn receive(&self) -> Received {
        self.receive_parcel().map(|message| message.map(|of| (of.bytes, of.descriptors)))
    }

    /// The same; and, if descriptors are missing, why.
    pub fn receive_parcel(&self) -> Option<Option<Parcel>> {
        self.receive_with(RecvFlags::empty(), false)
    }

    /// The next message, whole. What cannot be taken whole stays, and with it all that follow.
    pub fn take(&self) -> Taken {
        match self.receive_with(RecvFlags::PEEK, false) {
            None => Taken::Nothing,
            Some(None) => Taken::Ended,
            Some(Some(Parcel { short: Some(short), .. })) => Taken::Short(short),
            Some(Some(Parcel { bytes, descriptors, short: None })) => {
                // The descriptors are mine by the look already; those that leave with it are not.
                let _ = recv(&self.0, &mut [0u8; 1], RecvFlags::empty());
                Taken::Message(bytes, descriptors)
            }
        }
    }

    fn receive_with(&self, flags: RecvFlags, again: bool) -> Option<Option<Parcel>> {
        let mut bytes = vec![0; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags_of = flags | RecvFlags::CMSG_CLOEXEC;
        let got = match recvmsg(&self.0, &mut parts, &mut control, flags_of) {
            Ok(got) => got,
            // The other end closed with something of mine unread. What it had said before is still
            // there; the error is told once.
            Err(Errno::CONNRESET) if !again => return self.receive_with(flags, true),
            Err(cause) => {
                return match errno::of_receive(cause.raw_os_error()) {
                    Whose::Peers => Some(None),
                    _ => None, // it is still there
                };
            }
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if got.bytes == 0 {
            return Some(None);
        }
        bytes.truncate(got.bytes);
        // With as many as there is room for, the sender has shown too many.
        let cut = got.flags.contains(ReturnFlags::CTRUNC) && descriptors.len() < DESCRIPTORS_MAX;
        let short = cut.then(Self::why_cut);
        #[cfg(test)]
        let short = if descriptors.is_empty() { short } else { short.or_else(starved) };
        Some(Some(Parcel { bytes, descriptors, short }))
    }

    /// Why descriptors were left out: the system does not say, but it says why I may have no other.
    fn why_cut() -> Error {
        let what = "cannot take the descriptors that a member shows";
        match eventfd(0, EventfdFlags::CLOEXEC) {
            Err(cause) => shortage(what, &cause.into()),
            // There were fewer free than came, or the system forbids those.
            Ok(_) => shortage(what, &Errno::MFILE.into()),
        }
    }
}

/// A doorbell: whoever holds it can make its owner's `epoll` wake up.
#[derive(Debug)]
pub struct Bell(OwnedFd);

impl Bell {
    pub fn new() -> Result<Bell, Error> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        eventfd(0, flags).map(Bell).map_err(|cause| system("cannot make a doorbell", cause))
    }

    /// A peer's, as received. Anything that can be written to passes; it is only ever rung, and
    /// ringing must not block.
    pub fn from_descriptor(descriptor: OwnedFd) -> Result<Bell, Error> {
        let flags = rustix::fs::fcntl_getfl(&descriptor);
        let set = |flags| rustix::fs::fcntl_setfl(&descriptor, flags | OFlags::NONBLOCK);
        let refused = |cause| format!("a member's doorbell cannot be used: {cause}");
        let set = flags.and_then(set);
        set.map_err(|cause| Error::new(Status::PeerFault, refused(cause)))?;
        Ok(Bell(descriptor))
    }

    /// One system call. A full counter has rung already.
    pub fn ring(&self) {
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    pub fn silence(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.0, &mut count);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A timer that makes a watch wake up.
#[derive(Debug)]
pub struct Alarm(OwnedFd);

impl Alarm {
    pub fn new(watch: &Watch, token: u64) -> Result<Alarm, Error> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let made = timerfd_create(TimerfdClockId::Monotonic, flags);
        let alarm = Alarm(made.map_err(|cause| system("cannot make a timer", cause))?);
        watch.add(&alarm.0, token)?;
        Ok(alarm)
    }

    /// Once, after that time.
    pub fn set(&self, after_ns: u64) {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let after_ns = after_ns.max(1); // 0 would be never
        let at = Timespec {
            tv_sec: (after_ns / 1_000_000_000) as _,
            tv_nsec: (after_ns % 1_000_000_000) as _,
        };
        let once = Itimerspec { it_interval: zero, it_value: at };
        let _ = timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once);
    }

    pub fn silence(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.0, &mut count);
    }
}

/// Readiness of several descriptors behind one.
#[derive(Debug)]
pub struct Watch(OwnedFd);

impl Watch {
    pub fn new() -> Result<Watch, Error> {
        let made = epoll::create(epoll::CreateFlags::CLOEXEC);
        made.map(Watch).map_err(|cause| system("cannot make an epoll descriptor", cause))
    }

    /// Reports `token` while the descriptor is readable or hung up.
    pub fn add(&self, descriptor: impl AsFd, token: u64) -> Result<(), Error> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        let added = epoll::add(&self.0, descriptor, epoll::EventData::new_u64(token), flags);
        added.map_err(|cause| match cause {
            Errno::NOSPC => {
                let detail = "this user watches too many descriptors: raise the limit with `sysctl \
                              fs.epoll.max_user_watches`";
                Error::new(Status::Limit, detail)
            }
            cause => system("cannot watch a descriptor", cause),
        })
    }

    /// From now on reports `token` only when the descriptor is hung up.
    pub fn await_hang_up(&self, descriptor: impl AsFd, token: u64) {
        let data = epoll::EventData::new_u64(token);
        let _ = epoll::modify(&self.0, descriptor, data, epoll::EventFlags::RDHUP);
    }

    /// From now on reports `token` also (or not) while the descriptor can be written to.
    pub fn await_writable(&self, descriptor: impl AsFd, token: u64, yes: bool) {
        let data = epoll::EventData::new_u64(token);
        let mut flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        flags.set(epoll::EventFlags::OUT, yes);
        let _ = epoll::modify(&self.0, descriptor, data, flags);
    }

    /// From now on reports `token` only while the descriptor can be written to, or is hung up both ways.
    pub fn await_only_room(&self, descriptor: impl AsFd, token: u64) {
        let data = epoll::EventData::new_u64(token);
        let _ = epoll::modify(&self.0, descriptor, data, epoll::EventFlags::OUT);
    }

    /// From now on reports `token` when it is readable, too, as `add` does.
    pub fn await_all(&self, descriptor: impl AsFd, token: u64) {
        self.await_room(descriptor, token, false);
    }

    /// The same, and with `also` while it takes bytes.
    pub fn await_room(&self, descriptor: impl AsFd, token: u64, also: bool) {
        let data = epoll::EventData::new_u64(token);
        let room = if also { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | room;
        let _ = epoll::modify(&self.0, descriptor, data, flags);
    }

    pub fn remove(&self, descriptor: impl AsFd) {
        let _ = epoll::delete(&self.0, descriptor);
    }

    /// Waits up to `timeout_ns` (`None`: for ever, 0: not at all) and calls `each` per token, and
    /// with whether it is hung up.
    pub fn wait(&self, timeout_ns: Option<u64>, mut each: impl FnMut(u64, bool)) {
        let mut timeout = timeout_ns.map(|ns| rustix::event::Timespec {
            tv_sec: (ns / 1_000_000_000) as i64,
            tv_nsec: (ns % 1_000_000_000) as _,
        });
        if let Some(time) = &mut timeout
            && time.tv_nsec % 1_000_000 != 0
        {
            // epoll_wait counts milliseconds and rounds up, and epoll_pwait2 is Linux 5.11; ppoll
            // counts nanoseconds everywhere, and an epoll descriptor can be polled.
            let mut own = [rustix::event::PollFd::new(&self.0, rustix::event::PollFlags::IN)];
            let _ = rustix::event::poll(&mut own, Some(time));
            (time.tv_sec, time.tv_nsec) = (0, 0);
        }
        let mut space = [MaybeUninit::<epoll::Event>::uninit(); EVENTS_MAX];
        if let Ok((ready, _)) = epoll::wait(&self.0, &mut space, timeout.as_ref()) {
            use epoll::EventFlags as Flags;
            let ended = Flags::RDHUP | Flags::HUP | Flags::ERR;
            ready
                .iter()
                .for_each(|event| each(event.data.u64(), { event.flags }.intersects(ended)));
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
thread_local! {
    static STARVED: std::cell::RefCell<Option<Error>> = const { std::cell::RefCell::new(None) };
}

/// From now on this thread can take no descriptors, for that reason.
#[cfg(test)]
pub fn starve(why: Option<Error>) {
    STARVED.set(why);
}

#[cfg(test)]
fn starved() -> Option<Error> {
    STARVED.with_borrow(Clone::clone)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use rustix::pipe::pipe;

    /// Both ends of a connection.
    pub fn connected() -> (Socket, Socket) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (one, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let of = |end| Socket(Unshared::make(|| Ok(end)).unwrap(), None);
        (of(one), of(other))
    }

    /// What a member shows as its bell may be anything; ringing it blocked once it was full.
    #[test]
    fn a_bell_that_is_full_does_not_block() {
        let (_reader, writer) = pipe().unwrap();
        let bell = Bell::from_descriptor(writer).unwrap();
        (0..20_000).for_each(|_| bell.ring());
    }

    #[test]
    fn a_limit_of_descriptors_is_named() {
        let error = system("cannot do it", Errno::MFILE);
        assert_eq!(error.status, Status::Limit);
        assert!(error.detail.contains("ulimit -n"), "{error}");
        assert_eq!(system("cannot do it", Errno::ACCESS).status, Status::System);
    }
}
