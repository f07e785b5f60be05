// SPDX-License-Identifier: MIT OR Apache-2.0
//! Users and groups of this host: names and numbers, and which number stands for those that have none.
//!
//! Names are asked of the host's data bases, which may be files or services of other hosts: it may take
//! any time. Not for who polls.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::null_mut;

/// Bytes that an entry of the user or group data base may take: a group lists its users.
const ENTRY_BYTES_MAX: usize = 1 << 20;
/// Further groups of a process, at the most (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 1 << 16;

/// The number of a user, given by name or number.
pub fn user(text: &str) -> Option<u32> {
    number(text).or_else(|| {
        let name = CString::new(text).ok()?;
        look_up(
            // SAFETY: the name is a C string that outlives the call; the others are `look_up`'s.
            |entry, bytes, len, found| unsafe {
                libc::getpwnam_r(name.as_ptr(), entry, bytes, len, found)
            },
            |entry: &libc::passwd| Some(entry.pw_uid),
        )
    })
}

pub fn user_name(uid: u32) -> Option<String> {
    look_up(
        // SAFETY: all pointers are `look_up`'s.
        |entry, bytes, len, found| unsafe { libc::getpwuid_r(uid, entry, bytes, len, found) },
        // SAFETY: a found entry's name is a C string in bytes that `look_up` keeps meanwhile.
        |entry: &libc::passwd| text(unsafe { CStr::from_ptr(entry.pw_name) }),
    )
}

/// The number of a group, given by name or number.
pub fn group(text: &str) -> Option<u32> {
    number(text).or_else(|| {
        let name = CString::new(text).ok()?;
        look_up(
            // SAFETY: the name is a C string that outlives the call; the others are `look_up`'s.
            |entry, bytes, len, found| unsafe {
                libc::getgrnam_r(name.as_ptr(), entry, bytes, len, found)
            },
            |entry: &libc::group| Some(entry.gr_gid),
        )
    })
}

pub fn group_name(gid: u32) -> Option<String> {
    look_up(
        // SAFETY: all pointers are `look_up`'s.
        |entry, bytes, len, found| unsafe { libc::getgrgid_r(gid, entry, bytes, len, found) },
        // SAFETY: a found entry's name is a C string in bytes that `look_up` keeps meanwhile.
        |entry: &libc::group| text(unsafe { CStr::from_ptr(entry.gr_name) }),
    )
}

/// For sentences.
pub fn user_text(uid: u32) -> String {
    user_name(uid).map_or(format!("user {uid}"), |name| format!("user {uid} ({name})"))
}

pub fn group_text(gid: u32) -> String {
    group_name(gid).map_or(format!("group {gid}"), |name| format!("group {gid} ({name})"))
}

/// The numbers, of users and of groups, that stand for all that this user namespace does not map.
/// `None`: it maps all.
pub fn unmapped() -> (Option<u32>, Option<u32>) {
    let one = |map: &str, overflow: &str| {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let number = || read(overflow).and_then(|text| text.trim().parse().ok()).unwrap_or(65534);
        let all = read(map).is_none_or(|map| maps_all(&map));
        (!all).then(number)
    };
    (
        one("/proc/self/uid_map", "/proc/sys/kernel/overflowuid"),
        one("/proc/self/gid_map", "/proc/sys/kernel/overflowgid"),
    )
}

/// Of `uid_map`: all there are, in one line. A namespace that maps nobody has an empty one.
fn maps_all(map: &str) -> bool {
    let numbers: Vec<u64> = map.split_whitespace().filter_map(|text| text.parse().ok()).collect();
    numbers == [0, 0, u64::from(u32::MAX)]
}

/// All of this process' groups.
pub fn my_groups() -> Vec<u32> {
    let further = rustix::process::getgroups().unwrap_or_default();
    let own = rustix::process::getegid();
    further.into_iter().chain([own]).map(|gid| gid.as_raw()).collect()
}

/// The process at the other end of a Unix socket, as it was when it called or began to listen. Not
/// `rustix`'s: there a process number is never 0, and that of another process namespace is.
pub fn credentials_of(socket: BorrowedFd<'_>) -> Option<libc::ucred> {
    let mut of = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut bytes = size_of::<libc::ucred>() as libc::socklen_t;
    let into = (&raw mut of).cast();
    // SAFETY: `into` has room for `bytes` bytes, of which any are numbers.
    let got = unsafe {
        let level = libc::SOL_SOCKET;
        libc::getsockopt(socket.as_raw_fd(), level, libc::SO_PEERCRED, into, &mut bytes)
    };
    (got == 0 && bytes as usize == size_of::<libc::ucred>()).then_some(of)
}

/// The further groups of the process at the other end of a Unix socket, as they were when it called or
/// began to listen. Linux before 4.13 does not say: none.
pub fn groups_of(socket: BorrowedFd<'_>) -> Vec<u32> {
    let mut groups = vec![0u32; 64];
    for _ in 0..2 {
        let mut bytes = (groups.len() * size_of::<u32>()) as libc::socklen_t;
        let into = groups.as_mut_ptr().cast();
        // SAFETY: `into` has room for `bytes` bytes, of which any are numbers.
        let got = unsafe {
            let level = libc::SOL_SOCKET;
            libc::getsockopt(socket.as_raw_fd(), level, libc::SO_PEERGROUPS, into, &mut bytes)
        };
        let count = bytes as usize / size_of::<u32>();
        if got == 0 {
            groups.truncate(count);
            return groups;
        }
        if count <= groups.len() || count > GROUPS_MAX {
            break;
        }
        groups.resize(count, 0); // it has said how many there are
    }
    Vec::new()
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number != u32::MAX) // which means nobody to the system
}

fn text(name: &CStr) -> Option<String> {
    let name = name.to_string_lossy().into_owned();
    (!name.chars().any(char::is_control)).then_some(name)
}

/// What one of the reentrant look-ups finds, with as much room as it asks for.
fn look_up<T, R>(
    ask: impl Fn(*mut T, *mut libc::c_char, usize, *mut *mut T) -> i32,
    read: impl FnOnce(&T) -> Option<R>,
) -> Option<R> {
    #[cfg(test)]
    LOOKED_UP.set(LOOKED_UP.get() + 1);
    let mut bytes: Vec<libc::c_char> = vec![0; 4096];
    loop {
        let (mut entry, mut found) = (MaybeUninit::<T>::uninit(), null_mut());
        let status = ask(entry.as_mut_ptr(), bytes.as_mut_ptr(), bytes.len(), &mut found);
        if status == libc::ERANGE && bytes.len() < ENTRY_BYTES_MAX {
            bytes.resize(2 * bytes.len(), 0);
        } else if status != 0 || found.is_null() {
            return None;
        } else {
            // SAFETY: `found` is `entry`, which has been filled in; what it points to is in `bytes`.
            return read(unsafe { &*found });
        }
    }
}

#[cfg(test)]
thread_local! {
    /// Names and numbers that this thread has looked up.
    pub(super) static LOOKED_UP: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_found() {
        assert_eq!((user("root"), user("17"), group("root")), (Some(0), Some(17), Some(0)));
        assert_eq!(
            (user_name(0).as_deref(), group_name(0).as_deref()),
            (Some("root"), Some("root"))
        );
        assert_eq!((user("no such user"), user("4294967295"), user("-1")), (None, None, None));
        assert_eq!(user_text(3_999_999_999), "user 3999999999");
        assert_eq!(user_text(0), "user 0 (root)");
        assert!(!my_groups().is_empty());
    }

    #[test]
    fn a_namespace_that_does_not_map_all_is_told() {
        assert!(maps_all("         0          0 4294967295\n") && !maps_all(""));
        assert!(!maps_all("         0       1000          1\n"));
        assert!(!maps_all("0 0 1000\n1000 1000 4294966295\n"));
    }
}
