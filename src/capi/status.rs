// SPDX-License-Identifier: MIT OR Apache-2.0
//! Statuses, versions, the text of the last error, the log sink.

use super::LAST_ERROR;
use crate::error::Status;
use crate::log_sink::{self, Level};
use std::ffi::{CString, c_char, c_int, c_void};

/// The answers of calls: 0, or negative and grouped by what is lost. The numbers are frozen.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub enum squall_status {
    /// Done.
    SQUALL_OK = 0,
    /// Nothing is lost: no free slot, or there is work. Poll, then try again.
    SQUALL_AGAIN = -1,
    /// Nothing is lost: a wait ended before anything happened. Only `squall_memory_wait` answers it:
    /// `squall_wait` says SQUALL_OK then too, and opening says SQUALL_NOT_COMPLETE.
    SQUALL_TIMED_OUT = -2,
    /// Nothing is lost: the subgroup has fewer members than `shard_members_min` and waits for more. Try
    /// again in the next view (the view callback says who lacks how many).
    SQUALL_INADEQUATE = -3,
    /// This call is lost: an argument is out of its range (`squall_last_error` says which).
    SQUALL_INVALID = -10,
    /// This call is lost: the message is longer than the subgroup's largest.
    SQUALL_TOO_LONG = -11,
    /// This call is lost: this member does not send in that subgroup or lane.
    SQUALL_NOT_SENDER = -12,
    /// This call is lost: a struct's `size` is not one that this library knows.
    SQUALL_WRONG_SIZE = -13,
    /// This call is lost: no such handle was ever opened.
    SQUALL_NO_HANDLE = -14,
    /// This call is lost: the handle was closed.
    SQUALL_CLOSED = -15,
    /// This call is lost: it came from inside a callback, or beside another thread in the same call.
    SQUALL_REENTRANT = -16,
    /// This call is lost: the group polls itself in a thread of its own.
    SQUALL_OWN_THREAD = -17,
    /// This call is lost: no message is reserved in that lane (publish, abort), or one is (send,
    /// reserve).
    SQUALL_NOT_RESERVED = -18,
    /// This operation is lost: the owner of the memory is no member any more, or the connection to it
    /// broke; what was carried out is not known.
    SQUALL_GONE = -19,
    /// This operation is lost: the memory is not registered any more.
    SQUALL_NO_REGION = -20,
    /// This operation is lost: its owner has not allowed that.
    SQUALL_DENIED = -21,
    /// This call is lost: only direct access was asked for, and no device reaches that memory itself.
    SQUALL_NOT_DIRECT = -22,
    /// Not opened: not enough memory. This one and those that follow may also say why a member stops
    /// that can have no next view.
    SQUALL_NO_MEMORY = -30,
    /// Not opened: a limit is in the way (`squall_last_error` names it and the remedy).
    SQUALL_LIMIT = -31,
    /// Not opened: that rank of that group is open in a live process.
    SQUALL_IN_USE = -32,
    /// Not opened: another user's process holds the group's name.
    SQUALL_FOREIGN_OWNER = -33,
    /// Not opened: the members have different configurations.
    SQUALL_MISMATCH = -34,
    /// Not opened: the members speak different versions of the wire.
    SQUALL_WIRE_VERSION = -35,
    /// Not opened: not all members arrived in time.
    SQUALL_NOT_COMPLETE = -36,
    /// Not opened: the system refused something.
    SQUALL_SYSTEM = -37,
    /// The group is lost: a member's process ended without closing it.
    SQUALL_PEER_LOST = -50,
    /// The group is lost: a member wrote nonsense and was cut off.
    SQUALL_PEER_FAULT = -51,
    /// The group is over: a member has closed it, nothing more can become stable.
    SQUALL_PEER_LEFT = -52,
    /// The group is lost; only close is left.
    SQUALL_FAILED = -53,
    /// The group goes on without this member: the others believed it failed. Close it, and open it
    /// anew to join again.
    SQUALL_EXPELLED = -54,
    /// This member stops: those that it can see are no majority of the group.
    SQUALL_PARTITIONED = -55,
    /// This member has left, as it asked to.
    SQUALL_LEFT = -56,
    /// This member stops: too many leaders failed in one view change.
    SQUALL_EXHAUSTED = -57,
    /// A bug of ours was caught. The group is poisoned; only close is left.
    SQUALL_PANIC = -90,
}

/// Version of the header: major, minor, patch in a byte each, from the highest used one down.
pub const SQUALL_VERSION: u32 = version();

const fn version() -> u32 {
    const fn number(text: &str) -> u32 {
        let (bytes, mut at, mut value) = (text.as_bytes(), 0, 0);
        while at < bytes.len() {
            value = value * 10 + (bytes[at] - b'0') as u32;
            at += 1;
        }
        value
    }
    let (major, minor) =
        (number(env!("CARGO_PKG_VERSION_MAJOR")), number(env!("CARGO_PKG_VERSION_MINOR")));
    major << 16 | minor << 8 | number(env!("CARGO_PKG_VERSION_PATCH"))
}

/// The version of the loaded library, to be compared with `SQUALL_VERSION` of the header: equal
/// major numbers fit.
///
/// Threads: any. Cost: none. Since: 0.1
#[unsafe(no_mangle)]
pub extern "C" fn squall_version() -> u32 {
    SQUALL_VERSION
}

/// The version of the loaded library as text, "major.minor.patch". Static.
///
/// Threads: any. Since: 0.1
#[unsafe(no_mangle)]
pub extern "C" fn squall_version_text() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// One sentence for a status. Static; never NULL, for unknown numbers neither.
///
/// Threads: any. Since: 0.1
#[unsafe(no_mangle)]
pub extern "C" fn squall_status_text(status: c_int) -> *const c_char {
    macro_rules! texts {
        ($($name:ident)*) => {
            match status {
                $(code if code == Status::$name as i32 => {
                    const TEXT: &str = Status::$name.text();
                    const LEN: usize = TEXT.len() + 1;
                    static WITH_NUL: [u8; LEN] = {
                        let (mut bytes, mut at) = ([0; LEN], 0);
                        while at < TEXT.len() {
                            bytes[at] = TEXT.as_bytes()[at];
                            at += 1;
                        }
                        bytes
                    };
                    WITH_NUL.as_ptr().cast()
                })*
                _ => c"no status of squall".as_ptr(),
            }
        };
    }
    texts!(Ok Again TimedOut Inadequate Invalid TooLong NotSender WrongSize NoHandle Closed Reentrant OwnThread
        NotReserved Gone NoRegion Denied NotDirect NoMemory Limit InUse ForeignOwner Mismatch WireVersion NotComplete System
        PeerLost PeerFault PeerLeft Failed Expelled Partitioned Left Exhausted Panic)
}

/// Copies the sentence about the last call of this thread that failed: cause, value and remedy, in
/// UTF-8. SQUALL_AGAIN is no failure and leaves it as it is. What does not fit is left out, by whole
/// letters.
///
/// @param bytes  Where to; may be NULL if `len` is 0. Always ended with a NUL if `len` is not 0.
/// @param len    Bytes there.
/// @return       Bytes needed for all of it, its NUL included; 1 if there was no error.
///
/// Threads: any; each has its own. Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn squall_last_error(bytes: *mut c_char, len: usize) -> usize {
    let copy = |text: &str| {
        if !bytes.is_null() && len > 0 {
            let fits = |&at: &usize| text.is_char_boundary(at);
            let copied = (0..=text.len().min(len - 1)).rev().find(fits).unwrap_or(0);
            // SAFETY: the caller says that `len` bytes can be written; `copied` is less, and the
            // text is a different allocation.
            unsafe {
                std::ptr::copy_nonoverlapping(text.as_ptr(), bytes.cast::<u8>(), copied);
                bytes.add(copied).write(0);
            }
        }
        text.len() + 1
    };
    LAST_ERROR.try_with(|last| copy(&last.borrow())).unwrap_or_else(|_| copy(""))
}

/// Levels of log sentences.
pub const SQUALL_LOG_ERROR: i32 = 1;
pub const SQUALL_LOG_WARNING: i32 = 2;
pub const SQUALL_LOG_NOTICE: i32 = 3;

/// Receives the library's sentences. `text` is valid until it returns.
pub type squall_log_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, level: i32, text: *const c_char)>;

struct User(*mut c_void);
// SAFETY: the pointer is only handed back to the caller's own function, which the header's comment
// says may be called from any thread that opens or polls.
unsafe impl Send for User {}
// SAFETY: as above.
unsafe impl Sync for User {}

/// Sets where the library's few sentences go; NULL silences it (as at the start). Nothing is ever
/// said on the data path. A bug of ours that was caught (SQUALL_PANIC) is said here too.
///
/// @param log   Called from any thread that opens, polls or closes a group, or meets a bug. Must not
///              call squall.
/// @param user  Handed to it.
///
/// Threads: any. Since: 0.1
#[unsafe(no_mangle)]
pub extern "C" fn squall_log_set(log: squall_log_fn, user: *mut c_void) {
    let Some(log) = log else { return log_sink::set(None) };
    let user = User(user);
    log_sink::set(Some(Box::new(move |level: Level, text: &str| {
        let user = &user;
        let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
        // SAFETY: the caller's function, with its own pointer; the text lives across the call.
        unsafe { log(user.0, level as i32, text.as_ptr()) };
    })));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn every_status_has_its_text_and_its_number() {
        for status in Status::ALL {
            // SAFETY: a static text with a NUL.
            let text = unsafe { CStr::from_ptr(squall_status_text(status as i32)) };
            assert_eq!(text.to_str().unwrap(), status.text());
            assert_eq!(Status::from_code(status as i32), Some(status));
        }
        assert_eq!(squall_status::SQUALL_AGAIN as i32, Status::Again as i32);
        assert_eq!(squall_status::SQUALL_TIMED_OUT as i32, Status::TimedOut as i32);
        assert_eq!(squall_status::SQUALL_NOT_RESERVED as i32, Status::NotReserved as i32);
        assert_eq!(squall_status::SQUALL_SYSTEM as i32, Status::System as i32);
        assert_eq!(squall_status::SQUALL_FAILED as i32, Status::Failed as i32);
        assert_eq!(squall_status::SQUALL_PANIC as i32, Status::Panic as i32);
    }
}
