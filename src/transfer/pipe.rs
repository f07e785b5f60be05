// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a transfer runs over: a connected stream of bytes that never blocks unasked.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// A connected stream. Unix and TCP sockets are ([`Socket`]); later others.
pub trait Pipe: Send {
    /// Sends as much as there is room for; `WouldBlock` if there is none. No signal, ever.
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Takes what has come, at most as much as there is place for; 0: the other side has ended it.
    /// `WouldBlock` if nothing has come.
    fn recv(&mut self, place: &mut [u8]) -> io::Result<usize>;
    /// Waits until something can be received (or the stream ends), until something can be sent if
    /// `to_send`, until the bell rings, or so long; or less, for whatever reason.
    fn wait(
        &mut self,
        to_send: bool,
        bell: Option<BorrowedFd<'_>>,
        most: Duration,
    ) -> io::Result<()>;
}

/// A connected stream socket of any family. Its flags are left alone.
pub struct Socket<F>(pub F);

impl<F: AsFd + Send> Pipe for Socket<F> {
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        Ok(send(self.0.as_fd(), bytes, flags)?)
    }

    fn recv(&mut self, place: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.0.as_fd(), place, RecvFlags::DONTWAIT)?.1)
    }

    fn wait(
        &mut self,
        to_send: bool,
        bell: Option<BorrowedFd<'_>>,
        most: Duration,
    ) -> io::Result<()> {
        let send = if to_send { PollFlags::OUT } else { PollFlags::empty() };
        let stream = PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN | send);
        // Without a bell the stream stands in its place, asked for nothing.
        let bell = match bell {
            Some(bell) => PollFd::from_borrowed_fd(bell, PollFlags::IN),
            None => PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::empty()),
        };
        let most =
            Timespec { tv_sec: most.as_secs() as i64, tv_nsec: i64::from(most.subsec_nanos()) };
        match poll(&mut [stream, bell], Some(&most)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(cause) => Err(cause.into()),
        }
    }
}
