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
///
/// False: it was done, at the cost of milliseconds; rather have no need of it again. So it is once
/// the program has forbidden itself the system call (seccomp) after it was asked for.
#[cfg(not(loom))]
#[must_use]
pub fn order_all_threads() -> bool {
    membarrier(PRIVATE_EXPEDITED) || {
        interrupt_all_threads();
        false
    }
}

/// The barrier of those who have none. Taking back the right to write a page that was written makes
/// the kernel interrupt all processors that run a thread of this process, and waits for them; a
/// thread that does not run was switched out, which is a barrier. An interrupt drains the buffers of
/// streamed stores, and so do its neighbours, the timer's: they are waited for because there are
/// processors that take rights back without an interrupt (INVLPGB). Where stores are not streamed,
/// nothing is left for it to do.
#[cfg(not(loom))]
fn interrupt_all_threads() {
    /// Two ticks of the slowest timer (100 Hz).
    const TICKS: std::time::Duration = std::time::Duration::from_millis(20);
    let bytes = 4096;
    let (read, write) = (libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE);
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a page of our own, written while it may be, and given back; nobody else has it.
    unsafe {
        let page = libc::mmap(std::ptr::null_mut(), bytes, write, kind, -1, 0);
        if page != libc::MAP_FAILED {
            page.cast::<u8>().write_volatile(1);
            libc::mprotect(page, bytes, read);
            libc::munmap(page, bytes);
        }
    }
    std::thread::sleep(TICKS);
}

#[cfg(loom)]
pub fn can_order_all_threads() -> bool {
    true
}

#[cfg(loom)]
#[must_use]
pub fn order_all_threads() -> bool {
    super::order::fence();
    true
}

/// From now on this thread, and those that it starts, may not call `membarrier`.
#[cfg(all(test, not(loom)))]
pub fn forbid_membarrier() {
    let step = |code: u32, yes, no, k| libc::sock_filter { code: code as u16, jt: yes, jf: no, k };
    let answer = |what| step(libc::BPF_RET | libc::BPF_K, 0, 0, what);
    let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let is = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let mut steps = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0), // the number of the call
        step(is, 0, 1, libc::SYS_membarrier as u32),
        answer(refused),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: the program lies there across the call, which copies it.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) == 0
    };
    assert!(done, "a thread may forbid itself what it likes");
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// It was an assertion that failed in the application's thread.
    #[test]
    fn a_barrier_that_is_forbidden_later_is_another() {
        if !can_order_all_threads() {
            return; // then nobody asks for it
        }
        assert!(order_all_threads());
        let confined = || {
            forbid_membarrier();
            order_all_threads() || membarrier(PRIVATE_EXPEDITED)
        };
        assert!(!std::thread::spawn(confined).join().unwrap());
        assert!(order_all_threads());
    }
}
