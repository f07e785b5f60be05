// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes between a stream's socket and regions, without a reference to a region's bytes: the kernel
//! copies, as a peer's NIC would.
//!
//! Deliberately not: a protocol. What may be written where is checked by who calls (`fabric::tcp`);
//! that it lies inside its region is checked here.
//!
//! Cost: one system call each; `append` is a copy.

use super::Extent;
use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Parts that one call sends at the most.
pub const PARTS_MAX: usize = 64;

/// What is sent.
#[derive(Clone, Copy)]
pub enum Part<'a> {
    Bytes(&'a [u8]),
    /// Bytes of a ring, which lie still until they are released (S).
    Ring {
        of: &'a Extent,
        at: u64,
        len: usize,
    },
}

/// Sends as much of the parts, of which only the first `PARTS_MAX` count, as the socket takes at
/// once; how many bytes. `Errno::AGAIN`: none now.
pub fn send<'a>(
    socket: BorrowedFd<'_>,
    parts: impl Iterator<Item = Part<'a>>,
) -> Result<usize, Errno> {
    let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    let (mut vectors, mut count) = ([nothing; PARTS_MAX], 0);
    for (vector, part) in vectors.iter_mut().zip(parts) {
        *vector = match part {
            Part::Bytes(bytes) => {
                libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
            }
            Part::Ring { of, at, len } => {
                let from = of.pointer(at, len as u64).expect("a span lies in its ring");
                libc::iovec { iov_base: from.as_ptr().cast(), iov_len: len }
            }
        };
        count += 1;
    }
    let (socket, flags) = (socket.as_raw_fd(), libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT);
    if let [libc::iovec { iov_base, iov_len }] = vectors[..count] {
        // SAFETY: as below.
        return answer(unsafe { libc::send(socket, iov_base, iov_len, flags) });
    }
    // SAFETY: zero is a value of this struct of integers and pointers.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (vectors.as_mut_ptr(), count as _);
    // SAFETY: the vectors name bytes that are borrowed for the call, or parts of regions that the
    // borrowed extents keep alive, in bounds (`pointer`). They are only read, and by the kernel: should
    // a thread of ours write there meanwhile, because the receiver lied about what it has released, the
    // liar gets a mixture.
    let sent = unsafe { libc::sendmsg(socket, &message, flags) };
    answer(sent)
}

/// Receives what is there into a part of a ring first, then into `rest`; how many bytes. 0: the other
/// side sends no more. `Errno::AGAIN`: nothing now.
///
/// Only the thread that reads this ring may call it, while nobody reads in the part.
pub fn receive(
    socket: BorrowedFd<'_>,
    ring: Option<(&Extent, u64, usize)>,
    rest: &mut [u8],
) -> Result<usize, Errno> {
    let buffer = libc::iovec { iov_base: rest.as_mut_ptr().cast(), iov_len: rest.len() };
    let socket = socket.as_raw_fd();
    let Some((of, at, len)) = ring else {
        // SAFETY: `rest` is borrowed for the call, and as long as said.
        let got =
            unsafe { libc::recv(socket, buffer.iov_base, buffer.iov_len, libc::MSG_DONTWAIT) };
        return answer(got);
    };
    let into = of.pointer_to_write(at, len as u64).expect("a span lies in its mirror");
    let mut vectors = [libc::iovec { iov_base: into.as_ptr().cast(), iov_len: len }, buffer];
    // SAFETY: zero is a value of this struct of integers and pointers.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (vectors.as_mut_ptr(), 2);
    // SAFETY: the first vector is a writable part of a region that `of` keeps alive, in bounds
    // (`pointer_to_write`), to whose bytes nobody has a reference (the caller's promise: messages are
    // lent by this thread, for the time of a callback); the second is borrowed for the call.
    let got = unsafe { libc::recvmsg(socket, &mut message, libc::MSG_DONTWAIT) };
    answer(got)
}

/// Appends bytes of a ring, which lie still until they are released (S).
pub fn append(from: &Extent, at: u64, len: usize, into: &mut Vec<u8>) {
    let source = from.pointer(at, len as u64).expect("a span lies in its ring");
    into.reserve(len);
    // SAFETY: the source is in bounds (`pointer`) and alive as long as `from`; room for `len` bytes was
    // made behind those of `into`. For who writes at the source meanwhile: as in `send`.
    unsafe {
        let target = into.as_mut_ptr().add(into.len());
        std::ptr::copy_nonoverlapping(source.as_ptr(), target, len);
        into.set_len(into.len() + len);
    }
}

/// Bytes that a stream holds of what was sent and the other side's kernel has not got.
pub fn unsent(socket: BorrowedFd<'_>) -> Option<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the call writes one integer to a valid place.
    let asked = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &mut bytes) };
    (asked == 0).then_some(bytes.max(0) as usize)
}

/// How many bytes of a stream that has not been sent yet may wait in the kernel: `send` answers
/// `AGAIN` above that. It is a wish; a kernel that has no such limit keeps its own.
pub fn limit_unsent(socket: BorrowedFd<'_>, bytes: u32) {
    let value = bytes as libc::c_int;
    let (level, option) = (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT);
    let len = size_of_val(&value) as libc::socklen_t;
    let value = (&raw const value).cast();
    // SAFETY: the option is an integer, at a valid place for the call.
    unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, len) };
}

fn answer(result: isize) -> Result<usize, Errno> {
    match usize::try_from(result) {
        Ok(bytes) => Ok(bytes),
        Err(_) => {
            let cause = std::io::Error::last_os_error();
            Err(Errno::from_io_error(&cause).unwrap_or(Errno::IO))
        }
    }
}
