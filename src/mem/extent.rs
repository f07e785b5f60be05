// SPDX-License-Identifier: MIT OR Apache-2.0
//! A part of a region, as a ring uses it: runs and descriptors by the word, payloads by the byte.
//!
//! Every access is one comparison and one addition; the small copy is in line. What may be touched
//! when is the ring's protocol (edges W, N and S of `order.rs`); what may be touched at all is here.

use super::order::Cell;
use super::region::Region;
use std::ptr::NonNull;
use std::sync::Arc;

/// A part of a region, with its own first byte: what a ring lies in. One check per access.
#[derive(Clone)]
pub struct Extent {
    base: NonNull<u8>,
    len: u64,
    /// Where writing must end: its length, or 0 if it is a peer's.
    write_end: u64,
    /// Keeps the bytes alive.
    _region: Arc<Region>,
}

// SAFETY: as for `Region`, which it is a part of.
unsafe impl Send for Extent {}
// SAFETY: as above.
unsafe impl Sync for Extent {}

impl Extent {
    /// Bytes `from..from + len` of a region; `from` is a multiple of 8.
    pub fn new(region: Arc<Region>, from: usize, len: usize) -> Extent {
        let inside = from % 8 == 0 && from + len <= region.len;
        assert!(inside, "extent outside its region");
        // SAFETY: in bounds by the line above.
        let base = unsafe { region.base.add(from) };
        let len = len as u64;
        let write_end = if region.writable { len } else { 0 };
        Extent { base, len, write_end, _region: region }
    }

    pub fn size(&self) -> u64 {
        self.len
    }

    /// All of it as words.
    #[inline(always)]
    pub fn words(&self) -> &[Cell] {
        // SAFETY: `len / 8` words are in bounds, aligned because `base` is (`new`), alive as long as
        // `self`; `Cell` is a transparent atomic, for which shared references may alias.
        unsafe {
            std::slice::from_raw_parts(self.base.as_ptr().cast::<Cell>(), self.len as usize / 8)
        }
    }

    /// Copies `bytes` to byte `at`, which the ring's protocol has given to the caller alone:
    /// edge S says that every reader has left the slot, W is not published yet.
    #[inline(always)]
    pub fn write(&self, at: u64, bytes: &[u8]) {
        assert!(at + bytes.len() as u64 <= self.write_end, "write outside");
        // SAFETY: in bounds and writable by the line above; `bytes` cannot overlap, because no
        // reference to a region's bytes lives while its slot is being filled (S).
        unsafe { copy(bytes.as_ptr(), self.base.as_ptr().add(at as usize), bytes.len()) }
    }

    /// The same where it fits; else `false`, and nothing is written.
    #[inline(always)]
    pub fn try_write(&self, at: u64, bytes: &[u8]) -> bool {
        if at + bytes.len() as u64 > self.write_end {
            return false;
        }
        // SAFETY: as in `write`.
        unsafe { copy(bytes.as_ptr(), self.base.as_ptr().add(at as usize), bytes.len()) }
        true
    }

    /// As `try_write`, past the cache: `at` is a multiple of 64, and zeros follow the bytes up to the
    /// end of their last line, because lines written in part are slow. Then `stream_fence`.
    #[inline]
    pub fn try_stream(&self, at: u64, bytes: &[u8]) -> bool {
        let to = self.base.as_ptr().wrapping_add(at as usize);
        let end = at + (bytes.len() as u64).next_multiple_of(64);
        let fits = to.addr() % 64 == 0 && end <= self.write_end;
        if fits {
            // SAFETY: whole lines, aligned, in bounds and writable by the line above; else as in
            // `write`.
            unsafe { stream(bytes, to) }
        }
        fits
    }

    /// Payload bytes for their one writer, between `reserve` and `publish`.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "the ring hands out each slot once, see SAFETY")]
    pub fn lend_mut(&self, at: u64, len: usize) -> &mut [u8] {
        assert!(at + len as u64 <= self.write_end, "slot outside its ring");
        // SAFETY: in bounds, writable. Only `ring::Producer` calls this, for the one slot that
        // it has reserved and not published; S says that no reader is left in it, and its
        // `&mut self` that it is lent once.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(at as usize), len) }
    }

    /// Payload bytes of a received message, which stay still until they are released (S).
    #[inline(always)]
    pub fn lend(&self, at: u64, len: u32) -> Option<&[u8]> {
        if at + u64::from(len) > self.len {
            return None;
        }
        // SAFETY: in bounds, alive as long as `self`. The owner does not touch the slot again
        // before this member has released it (S). An owner that breaks this shows us changing
        // bytes in memory that no Rust code of this process writes; readers must not index by
        // them unchecked, and ours do not.
        Some(unsafe {
            std::slice::from_raw_parts(self.base.as_ptr().add(at as usize), len as usize)
        })
    }

    /// Where `len` bytes from byte `at` begin; `None`: not all of them are its own.
    pub(in crate::mem) fn pointer(&self, at: u64, len: u64) -> Option<NonNull<u8>> {
        let inside = at.checked_add(len)? <= self.len;
        // SAFETY: in bounds by the line above.
        inside.then(|| unsafe { self.base.add(at as usize) })
    }

    /// The same, for who writes there.
    pub(in crate::mem) fn pointer_to_write(&self, at: u64, len: u64) -> Option<NonNull<u8>> {
        self.pointer(at, len).filter(|_| at + len <= self.write_end)
    }

    /// Asks the processor to bring the line of byte `at` near; anywhere else it is ignored.
    #[inline(always)]
    pub fn prefetch(&self, at: u64) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let line = self.base.as_ptr().wrapping_add(at as usize);
            // SAFETY: a prefetch reads nothing that a program can see, wherever it points.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at;
    }

    /// The same for a line that is about to be written.
    #[inline(always)]
    pub fn prefetch_write(&self, at: u64) {
        #[cfg(target_arch = "x86_64")]
        {
            let line = self.base.as_ptr().wrapping_add(at as usize);
            // SAFETY: a prefetch changes nothing that a program can see, wherever it points;
            // processors without the instruction take it for a no-operation. Inline, because
            // the intrinsic needs a target feature that the baseline lacks.
            unsafe {
                std::arch::asm!("prefetchw [{}]", in(reg) line,
                    options(nostack, preserves_flags, readonly))
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at;
    }
}

/// Orders what has been streamed before every later store: a release store alone does not.
#[inline(always)]
pub fn stream_fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86_64 has it.
    unsafe {
        std::arch::x86_64::_mm_sfence()
    };
}

/// Writes `bytes` past the cache, and zeros up to the end of their last line.
///
/// # Safety
/// `to` is aligned to 64 and may be written up to the end of the last line of `bytes`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn stream(bytes: &[u8], to: *mut u8) {
    use std::arch::x86_64::*;
    let mut at = 0;
    // SAFETY: every load lies in `bytes` or `last`, every store in the lines that the caller gives,
    // aligned to 16.
    unsafe {
        while at + 16 <= bytes.len() {
            let words = _mm_loadu_si128(bytes.as_ptr().add(at).cast());
            _mm_stream_si128(to.add(at).cast(), words);
            at += 16;
        }
        let mut last = [0u8; 16];
        last[..bytes.len() - at].copy_from_slice(&bytes[at..]);
        let mut words = _mm_loadu_si128(last.as_ptr().cast());
        while at < bytes.len().next_multiple_of(64) {
            _mm_stream_si128(to.add(at).cast(), words);
            words = _mm_setzero_si128();
            at += 16;
        }
    }
}

/// Where there are no such stores: with the usual ones.
///
/// # Safety
/// As above.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn stream(bytes: &[u8], to: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
}

/// Copies like `memcpy`, in line and without a loop for what small messages are.
///
/// # Safety
/// `len` bytes at `from` and at `to`, which do not overlap.
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    /// The first and the last `N` bytes; together all, if `N <= len <= 2 * N`.
    ///
    /// # Safety
    /// As for `copy`, and `len` is at least `N`.
    #[inline(always)]
    unsafe fn ends<const N: usize>(from: *const u8, to: *mut u8, len: usize) {
        // SAFETY: both pieces lie within the `len` bytes; where they overlap at the target they
        // carry the same values.
        unsafe {
            let first = from.cast::<[u8; N]>().read_unaligned();
            to.cast::<[u8; N]>().write_unaligned(first);
            let last = from.add(len - N).cast::<[u8; N]>().read_unaligned();
            to.add(len - N).cast::<[u8; N]>().write_unaligned(last);
        }
    }
    // SAFETY: the caller's promise, and each arm's range is that of its `N`.
    unsafe {
        match len {
            64..=128 => ends::<64>(from, to, len),
            32..=63 => ends::<32>(from, to, len),
            16..=31 => ends::<16>(from, to, len),
            _ => std::ptr::copy_nonoverlapping(from, to, len),
        }
    }
}
