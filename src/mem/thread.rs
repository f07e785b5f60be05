// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a thread of ours needs of the system and the standard library has no name for.

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
