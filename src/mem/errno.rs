// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whose fault it is that the system refuses a call while views change, and what a shortage is called.
//!
//! A peer is cut off for its own faults only. What this process or machine lacks is this member's: it
//! tries again while there is time, and stops with the cause when the next view needs it.
//!
//! | call | the peer's | nothing happened, or later | mine |
//! |---|---|---|---|
//! | memory of mine: `memfd_create`, `ftruncate`, `fallocate`, `fcntl`, `mmap`, `mlock` | | | all |
//! | a peer's: `F_GET_SEALS` | EINVAL: no memfd | | all others |
//! | a peer's: `fstat` | (shorter than it should be) | | all |
//! | a peer's: `mmap` | EACCES, ENODEV, EINVAL, EOVERFLOW, ETXTBSY | | ENOMEM, EAGAIN, ENFILE, EPERM, all others |
//! | a peer's bell: `fcntl` | all | | |
//! | `sendmsg` | EPIPE, ECONNRESET, ENOTCONN, ECONNREFUSED: gone; EAGAIN: it does not read | EINTR | ENOBUFS, ENOMEM, ETOOMANYREFS, all others |
//! | `recvmsg` | ECONNRESET, ENOTCONN, EPIPE, ETIMEDOUT: gone | EAGAIN, EINTR | ENOBUFS, ENOMEM, all others; descriptors left out (MSG_CTRUNC) |
//! | `accept` | | EAGAIN, EINTR, ECONNABORTED | EMFILE, ENFILE, ENOBUFS, ENOMEM, all others |
//! | `connect` | | ECONNREFUSED, ENOENT, EAGAIN: nobody there | all others |
//! | `socket`, `socketpair`, `epoll_ctl`, `eventfd`, `timerfd_create` | | | all |
//!
//! What is not known is mine: nobody is blamed for what we do not understand.

use super::region::{limit_of, memlock_limit, size_text};
use crate::error::{Error, Status};
use std::io;

/// Whose a refusal is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    /// It shows what cannot be used, or it is gone, or it does not read.
    Peers,
    /// Nothing has happened: the same call may do at once, or when there is something.
    Nobodys,
    /// This process or machine lacks something.
    Mine,
}

/// Of `F_GET_SEALS` of what a peer shows.
pub fn of_seals(errno: i32) -> Whose {
    if errno == libc::EINVAL { Whose::Peers } else { Whose::Mine }
}

/// Of mapping, for reading, what a peer shows.
pub fn of_map(errno: i32) -> Whose {
    match errno {
        libc::EACCES | libc::ENODEV | libc::EINVAL | libc::EOVERFLOW | libc::ETXTBSY => {
            Whose::Peers
        }
        _ => Whose::Mine,
    }
}

/// Of sending to a peer without waiting.
pub fn of_send(errno: i32) -> Whose {
    match errno {
        libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN | libc::ECONNREFUSED | libc::EAGAIN => {
            Whose::Peers
        }
        libc::EINTR => Whose::Nobodys,
        _ => Whose::Mine,
    }
}

/// Of receiving from a peer without waiting.
pub fn of_receive(errno: i32) -> Whose {
    match errno {
        libc::EAGAIN | libc::EINTR => Whose::Nobodys,
        libc::ECONNRESET | libc::ENOTCONN | libc::EPIPE | libc::ETIMEDOUT => Whose::Peers,
        _ => Whose::Mine,
    }
}

/// A shortage of mine: what was tried, the cause, the limit's value and the remedy.
pub fn shortage(what: &str, cause: &io::Error) -> Error {
    let limit = |of| limit_of(of).map_or("unlimited".into(), |value| value.to_string());
    let (status, remedy) = match cause.raw_os_error() {
        Some(libc::EMFILE) => {
            let files = limit(libc::RLIMIT_NOFILE);
            let remedy = format!("RLIMIT_NOFILE is {files}: raise the limit with `ulimit -n`");
            (Status::Limit, remedy)
        }
        Some(libc::ENFILE) => {
            let remedy = "this machine may open no more files: raise the limit with `sysctl \
                          fs.file-max` (`ulimit -n` does not help)";
            (Status::Limit, remedy.into())
        }
        Some(libc::ETOOMANYREFS) => {
            let files = limit(libc::RLIMIT_NOFILE);
            let remedy = format!(
                "more descriptors of this user are on their way than RLIMIT_NOFILE, {files}, allows: \
                 raise the limit with `ulimit -n`, or look for members that do not poll"
            );
            (Status::Limit, remedy)
        }
        Some(libc::EAGAIN) => {
            let locked = memlock_limit().map_or("unlimited".into(), size_text);
            let remedy = format!("RLIMIT_MEMLOCK is {locked}: raise it with `ulimit -l`");
            (Status::Limit, remedy)
        }
        Some(libc::ENOMEM | libc::ENOBUFS) => (Status::NoMemory, memory_remedy()),
        _ => (Status::System, "look into the system's log".into()),
    };
    Error::new(status, format!("{what}: {cause}; {remedy}"))
}

/// What to do where memory is missing.
pub fn memory_remedy() -> String {
    let remedy = "use a smaller window or largest message, or free memory";
    match limit_of(libc::RLIMIT_AS) {
        Some(limit) => {
            let limit = size_text(limit);
            format!("RLIMIT_AS is {limit}, raise it with `ulimit -v`; or {remedy}")
        }
        None => remedy.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Region;
    use super::super::region::Want;
    use super::*;
    use std::fs::{File, OpenOptions};
    use std::os::fd::{AsRawFd, OwnedFd};

    /// Everything that means "this process or machine lacks something", whatever the call.
    const SHORTAGES: [i32; 5] =
        [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS, libc::ETOOMANYREFS];

    #[test]
    fn no_shortage_is_a_peers() {
        for errno in SHORTAGES {
            for whose in [of_seals, of_map, of_send, of_receive] {
                assert_eq!(whose(errno), Whose::Mine, "{}", io::Error::from_raw_os_error(errno));
            }
        }
        // Locked pages: where all of them are (`mlockall`), a map is refused like this.
        assert_eq!((of_map(libc::EAGAIN), of_map(libc::EPERM)), (Whose::Mine, Whose::Mine));
        assert_eq!(of_receive(libc::EIO), Whose::Mine, "what is not known");
    }

    #[test]
    fn what_a_peer_shows_or_does_is_its_own() {
        assert_eq!(of_seals(libc::EINVAL), Whose::Peers);
        for errno in [libc::EACCES, libc::ENODEV, libc::EINVAL] {
            assert_eq!(of_map(errno), Whose::Peers);
        }
        for errno in [libc::EPIPE, libc::ECONNRESET] {
            assert_eq!((of_send(errno), of_receive(errno)), (Whose::Peers, Whose::Peers));
        }
        assert_eq!((of_send(libc::EAGAIN), of_receive(libc::EAGAIN)), {
            (Whose::Peers, Whose::Nobodys)
        });
        assert_eq!((of_send(libc::EINTR), of_receive(libc::EINTR)), {
            (Whose::Nobodys, Whose::Nobodys)
        });
    }

    #[test]
    fn a_shortage_is_named_with_its_value_and_remedy() {
        let text = |errno| shortage("cannot do it", &io::Error::from_raw_os_error(errno));
        for (errno, status, value, remedy) in [
            (libc::EMFILE, Status::Limit, "RLIMIT_NOFILE is ", "`ulimit -n`"),
            (libc::ENFILE, Status::Limit, "machine", "fs.file-max"),
            (libc::ETOOMANYREFS, Status::Limit, "RLIMIT_NOFILE", "do not poll"),
            (libc::EAGAIN, Status::Limit, "RLIMIT_MEMLOCK is ", "`ulimit -l`"),
            (libc::ENOMEM, Status::NoMemory, "cannot do it: ", "free memory"),
            (libc::EACCES, Status::System, "denied", "log"),
        ] {
            let error = text(errno);
            let named = error.detail.contains(value) && error.detail.contains(remedy);
            assert!(error.status == status && named, "{error}");
        }
    }

    /// What a peer may show instead of sealed memory that is long enough.
    #[test]
    fn what_is_no_memory_is_the_peers_fault() {
        let refused = |descriptor: &OwnedFd, what: &str| {
            let error = Region::map_peer(descriptor, 8192).err().expect(what);
            assert_eq!(error.status, Status::PeerFault, "{what}: {error}");
        };
        let share = |bytes| Region::share("test", bytes, Want::No, Want::No, &mut Vec::new());
        refused(&File::open("/dev/null").unwrap().into(), "no memfd");
        refused(&File::open("/proc/self/exe").unwrap().into(), "a file");
        let (_open, unsealed) = share(8192).unwrap();
        refused(&unsealed, "not sealed");
        let (_short, short) = share(4096).unwrap();
        Region::seal(&short).unwrap();
        refused(&short, "its length is a lie");
        let (_mine, good) = share(8192).unwrap();
        Region::seal(&good).unwrap();
        let blind = format!("/proc/self/fd/{}", good.as_raw_fd());
        let blind = OpenOptions::new().write(true).open(blind).unwrap();
        refused(&blind.into(), "not to be read");
        assert!(Region::map_peer(&good, 8192).is_ok());
    }
}
