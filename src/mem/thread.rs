// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a thread of ours needs of the system and the standard library has no name for.

#[cfg(not(loom))]
/// Blocks all signals in the calling thread, so that an embedding program's handlers never run in
/// a thread that it does not know.
pub fn block_signals() {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigfillset` initialises the set that the second call reads; neither keeps it.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut());
    }
}

/// A number, never 0, that no other living thread of this process has.
#[inline(always)]
pub fn this_thread() -> u64 {
    thread_local!(static PLACE: u8 = const { 0 });
    PLACE.try_with(|place| std::ptr::from_ref(place).addr() as u64).unwrap_or(u64::MAX)
}

/// `membarrier` commands, as the kernel numbers them.
#[cfg(not(loom))]
const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
#[cfg(not(loom))]
const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

#[cfg(not(loom))]
fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: the call takes numbers and keeps nothing.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

/// Prepares `order_all_threads`; whether it works here.
#[cfg(not(loom))]
pub fn can_order_all_threads() -> bool {
    membarrier(REGISTER_PRIVATE_EXPEDITED)
}

/// Makes every thread of this process run a full barrier, which orders its streamed stores too,
/// between what it did before and what it does after. Some microseconds.
#[cfg(not(loom))]
pub fn order_all_threads() {
    assert!(membarrier(PRIVATE_EXPEDITED), "membarrier was there when it was asked for");
}

#[cfg(loom)]
pub fn order_all_threads() {}
