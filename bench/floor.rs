// SPDX-License-Identifier: MIT OR Apache-2.0
//! The floor: how fast this machine can run the *shape* of Squall, with nothing of Squall in it.
//!
//! Forked processes share one mapping: a row (one hot line) for each member, a ring of fixed slots
//! for each sender. Total order by round robin, delivery once all have received, reuse once all
//! have delivered. Not here: nulls, views, failures, mirrors, wakes, a C door, mixed sizes. What the
//! application does is: each message's sequence is checked, each line of it read, and one in 64 has
//! its CRC computed and compared.
//!
//! F1  Message `index` of sender `s` is number `index * senders + s`.
//! F2  A cell (head, received, released) is a count; only its member writes it; it never goes back.
//! F3  A slot is written only while all members' `released` cover its previous lap.
//! F4  Cells are stored with release and loaded with acquire: a slot's bytes land before `head`
//!     says so, and are read before `released` says so.
//! F5  No process outlives its call: the parent kills and reaps by id on every way out, and
//!     children die with the parent's thread.
//!
//! Two cores may share a cache or not, and on a virtual machine this changes under us: a factor of
//! 2 to 5 in every figure. Print `line_ping_pong` beside each.

#![allow(dead_code)] // each program that includes this file uses a part of it

#[path = "ticks.rs"]
mod ticks;

#[cfg(target_arch = "x86_64")]
use std::arch::{asm, x86_64::*};
use std::fs::File;
use std::hint::{black_box, spin_loop};
use std::io::{Error, Read, Write};
use std::mem::{size_of, size_of_val, zeroed};
use std::os::fd::FromRawFd;
use std::panic;
use std::ptr::{copy_nonoverlapping, null_mut};
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::time::{Duration, Instant};
use ticks::{ns_per_tick, ticks};

/// Most messages filled in one turn: 64 loses 8-25 %, 1024 gains up to 4 %.
const BATCH: u64 = 512;
/// How far ahead slots are prefetched; slots above twice this are left to the hardware.
const AHEAD_BYTES: usize = 2048;
const HEADER: usize = 16; // length, then index + 1
const MEMBERS_MAX: usize = 64;

/// Messages delivered per second at each member; payload bytes per second at one (the mean).
#[derive(Clone, Debug)]
pub struct Rate {
    pub per_member: Vec<f64>,
    pub bytes_per_s: f64,
    pub streaming: bool,
}

/// Nanoseconds: percentiles within 0.4 % and the counter's grain (10 ns on Zen 5), `max` exact.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    pub count: u64,
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub p9999: f64,
    pub max: f64,
}

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub members: usize,
    pub senders: usize,
    pub size: usize,
    pub window: usize,
    pub yielding: bool,
}

/// The ordered rate: `senders` of `members` send messages of `size` bytes as fast as they can.
///
/// Plain stores win where the cores share a cache, streaming ones (past the cache) where they do
/// not: a short trial of both says which this machine is just now.
pub fn order_rate(
    members: usize,
    senders: usize,
    size: usize,
    window: usize,
    yielding: bool,
    seconds: f64,
) -> Result<Rate, String> {
    let shape = Shape { members, senders, size, window, yielding };
    let trial = |streaming| order_rate_with(shape, streaming, (seconds / 4.0).min(0.25));
    let streaming = trial(true)?.bytes_per_s > trial(false)?.bytes_per_s;
    order_rate_with(shape, streaming, seconds)
}

/// As `order_rate`, with the kind of store given.
pub fn order_rate_with(shape: Shape, streaming: bool, seconds: f64) -> Result<Rate, String> {
    let shared = Shared::new(Some(shape))?;
    run(&shared, &spread(shape.members), seconds, |rank| {
        let mut member = Member::new(&shared, shape, rank);
        let rate = if streaming { member.drive::<true>() } else { member.drive::<false>() };
        shared.control().rates[rank].0.store(rate.to_bits(), Release);
    })?;
    let rates = shared.control().rates[..shape.members].iter();
    let per_member: Vec<f64> = rates.map(|rate| f64::from_bits(rate.0.load(Acquire))).collect();
    let mean = per_member.iter().sum::<f64>() / shape.members as f64;
    Ok(Rate { per_member, bytes_per_s: mean * shape.size as f64, streaming })
}

/// Send to stable, one message outstanding: until the prefix of every member covers it.
pub fn order_latency(members: usize, size: usize, seconds: f64) -> Result<Latency, String> {
    let yielding = members > cores();
    let shape = Shape { members, senders: 1, size, window: 64, yielding };
    let shared = Shared::new(Some(shape))?;
    run(&shared, &spread(members), seconds, |rank| {
        let mut member = Member::new(&shared, shape, rank);
        if rank != 0 {
            member.drive::<false>();
            return;
        }
        let (control, rows) = (shared.control(), &shared.control().rows[..members]);
        control.measure(|| {
            let start = ticks();
            assert!(member.fill::<false>(1), "one message does not fill the window");
            member.received = member.sent;
            rows[0].received.store(member.sent, Release); // next to the head: one line transfer
            while rows.iter().any(|row| row.received.load(Acquire) < member.sent) {
                if control.stopped() {
                    return 0; // so are the others
                }
                pause(yielding);
            }
            let stable = ticks();
            member.deliver(member.sent);
            stable - start
        });
        black_box(member.sum);
    })?;
    Ok(shared.control().latency())
}

/// A round trip by cache lines: two processes, each spinning on the word that the other writes. The two
/// words lie on lines of their own, one for each way.
pub fn line_ping_pong(core_a: usize, core_b: usize, seconds: f64) -> Result<Latency, String> {
    let shared = Shared::new(None)?;
    run(&shared, &[core_a, core_b], seconds, |rank| {
        let control = shared.control();
        let (ping, pong, mut round) = (&control.ping.0, &control.pong.0, 0);
        if rank == 0 {
            control.measure(|| {
                let start = ticks();
                round += 1;
                ping.store(round, Release);
                while pong.load(Acquire) != round {
                    pause(core_a == core_b);
                }
                ticks() - start
            });
            ping.store(u64::MAX, Release);
        }
        while round != u64::MAX {
            let next = ping.load(Acquire);
            if next == round {
                pause(core_a == core_b);
            } else {
                round = next;
                pong.store(round, Release);
            }
        }
    })?;
    Ok(shared.control().latency())
}

/// One wake of another process, and its answer: blocking reads of eventfds, a round each `pace_ns`.
pub fn eventfd_ping_pong(
    core_a: usize,
    core_b: usize,
    pace_ns: u64,
    seconds: f64,
) -> Result<Latency, String> {
    const LAST: u64 = 2; // rounds do not overlap, so a count above 1 is free to say this
    let shared = Shared::new(None)?;
    let (ping, pong) = (event()?, event()?);
    run(&shared, &[core_a, core_b], seconds, |rank| {
        if rank == 0 {
            let mut tick_ns = now_ns();
            shared.control().measure(|| {
                tick_ns = (tick_ns + pace_ns).max(now_ns()); // late: no burst to catch up
                sleep_until(tick_ns);
                let start = ticks();
                signal(&ping, 1);
                wait(&pong);
                ticks() - start
            });
            return signal(&ping, LAST);
        }
        while wait(&ping) < LAST {
            signal(&pong, 1);
        }
    })?;
    Ok(shared.control().latency())
}

/// Bytes per second copied by one thread, block by block from one half of `area` into the other.
pub fn memcpy_rate(block: usize, area: usize, seconds: f64) -> f64 {
    let block = block.clamp(1, (area / 2).max(1));
    let (source, mut target) = (vec![1u8; area / 2 + 1], vec![2u8; area / 2 + 1]);
    let mut lap = || {
        for (source, target) in source.chunks_exact(block).zip(target.chunks_exact_mut(block)) {
            black_box(target).copy_from_slice(black_box(source));
        }
        (area / 2 + 1) / block * block
    };
    let (mut copied, mut start, mut warm) = (0, Instant::now(), false);
    loop {
        copied += lap();
        let time_s = start.elapsed().as_secs_f64();
        if warm && time_s > seconds {
            return copied as f64 / time_s;
        } else if !warm && time_s > seconds / 5.0 {
            (copied, start, warm) = (0, Instant::now(), true);
        }
    }
}

// ---- one member ----

/// All three cells on one line (and its neighbour, which prefetchers pair it with).
#[repr(C, align(128))]
struct Row {
    head: AtomicU64,
    received: AtomicU64,
    released: AtomicU64,
}

struct Member<'a> {
    control: &'a Control,
    rings: *mut u8,
    rank: usize,
    shape: Shape,
    slot_bytes: usize,
    ahead: u64,         // slots to prefetch ahead
    sent: u64,          // my messages
    limit: u64,         // how far `sent` may go before all `released` are looked at again
    received: u64,      // as in my row
    delivered: u64,     // as `released` in my row
    next: (usize, u64), // sender and index of number `delivered`
    source: Vec<u8>,
    crc: u32, // of the source
    sum: u64,
}

impl<'a> Member<'a> {
    fn new(shared: &'a Shared, shape: Shape, rank: usize) -> Member<'a> {
        let slot_bytes = slot_bytes(shape);
        Member {
            control: shared.control(),
            rings: shared.rings(),
            rank,
            shape,
            slot_bytes,
            ahead: ((AHEAD_BYTES + slot_bytes / 2) / slot_bytes) as u64,
            sent: 0,
            limit: shape.window as u64,
            received: 0,
            delivered: 0,
            next: (0, 0),
            crc: crc32fast::hash(&vec![0x5a; shape.size]),
            source: vec![0x5a; slot_bytes],
            sum: 0,
        }
    }

    /// Takes turns until told to stop; the deliveries per second while counting.
    fn drive<const STREAM: bool>(&mut self) -> f64 {
        // A quarter of the window: with all of it, sender and reader take turns on large messages.
        let batch = BATCH.min(self.shape.window as u64 / 4).max(1);
        let mut start = None;
        while !self.control.stopped() {
            if start.is_none() && self.control.phase.0.load(Relaxed) == COUNT {
                start = Some((Instant::now(), self.delivered));
            }
            if !self.turn::<STREAM>(batch) {
                pause(self.shape.yielding);
            }
        }
        black_box(self.sum);
        start.map_or(0.0, |(time, delivered)| {
            (self.delivered - delivered) as f64 / time.elapsed().as_secs_f64()
        })
    }

    /// Fill, observe, publish, deliver: each once. False if there was nothing to do.
    #[inline(always)]
    fn turn<const STREAM: bool>(&mut self, batch: u64) -> bool {
        let senders = self.shape.senders;
        let mut progress = self.rank < senders && self.fill::<STREAM>(batch);
        let (mut prefix, mut stable) = (u64::MAX, u64::MAX);
        for (peer, row) in self.control.rows[..self.shape.members].iter().enumerate() {
            if peer < senders {
                let head = if peer == self.rank { self.sent } else { row.head.load(Acquire) };
                prefix = prefix.min(head * senders as u64 + peer as u64); // the first missing, F1
            }
            if peer != self.rank {
                stable = stable.min(row.received.load(Acquire));
            }
        }
        if prefix > self.received {
            self.received = prefix;
            self.row().received.store(prefix, Release);
            progress = true;
        }
        stable = stable.min(prefix);
        if stable > self.delivered {
            self.deliver(stable);
            progress = true;
        }
        progress
    }

    /// Copies up to `most` messages into my ring; publishes `head` once.
    #[inline(always)]
    fn fill<const STREAM: bool>(&mut self, most: u64) -> bool {
        if self.sent == self.limit {
            self.limit = self.window_end();
        }
        let count = most.min(self.limit - self.sent);
        // Locals: fields would be loaded again after each write through a pointer (-30 %).
        let (mask, slot_bytes, size) = (self.mask(), self.slot_bytes, self.shape.size);
        let (ahead, limit, source) = (self.ahead, self.limit, self.source.as_ptr());
        // SAFETY: I am a sender, so my ring lies inside the mapping.
        let ring = unsafe { self.rings.add(self.rank * self.shape.window * slot_bytes) };
        let slot = |index: u64| ring.wrapping_add((index & mask) as usize * slot_bytes);
        for index in self.sent..self.sent + count {
            // SAFETY: a masked index names a slot of my ring, which no one reads: F3, by `limit`.
            // `source` is as long as a slot. Prefetches stop at `limit`: beyond it others read.
            unsafe {
                if STREAM {
                    stream(slot(index), source, [size as u64, index + 1], slot_bytes);
                    continue;
                }
                if ahead > 0 && index + ahead < limit {
                    prefetch_to_write(slot(index + ahead), slot_bytes);
                }
                slot(index).cast::<[u64; 2]>().write([size as u64, index + 1]);
                copy_nonoverlapping(source, slot(index).add(HEADER), size);
            }
        }
        if STREAM {
            stream_fence();
        }
        if count > 0 {
            self.sent += count;
            self.row().head.store(self.sent, Release); // F4
        }
        count > 0
    }

    /// How far I may send by what all have released.
    #[cold]
    fn window_end(&self) -> u64 {
        let rows = self.control.rows[..self.shape.members].iter();
        let released = rows.map(|row| row.released.load(Acquire)).min().unwrap_or(0); // F4
        let (senders, rank) = (self.shape.senders as u64, self.rank as u64);
        (released + senders - 1 - rank) / senders + self.shape.window as u64 // F1: so many are mine
    }

    /// Reads numbers `delivered..stable` in place; publishes `released` once.
    #[inline(always)]
    fn deliver(&mut self, stable: u64) {
        let (mask, slot_bytes, senders) = (self.mask(), self.slot_bytes, self.shape.senders);
        let (rings, ring_bytes) = (self.rings, self.shape.window * slot_bytes);
        // Prefetch my own ring too: neighbours on my core may have pushed it out. But nothing past
        // what I have received: that takes lines from a sender at work.
        let (ahead, end) = (self.ahead, self.received / senders as u64);
        let ((mut sender, mut index), mut sum) = (self.next, self.sum);
        let expected = self.crc;
        for _ in self.delivered..stable {
            // SAFETY: sender and masked index name a slot in the mapping. Below `stable` it has
            // landed (F4), and is not written again before I release it (F3).
            unsafe {
                let ring = rings.add(sender * ring_bytes);
                let slot = |index: u64| ring.wrapping_add((index & mask) as usize * slot_bytes);
                if ahead > 0 && index + ahead < end {
                    prefetch_to_read(slot(index + ahead), slot_bytes);
                }
                let [length, sequence] = slot(index).cast::<[u64; 2]>().read();
                if sequence != index + 1 || length as usize > slot_bytes - HEADER {
                    libc::_exit(BAD_ORDER);
                }
                if index % 64 == 0 && crc(slot(index).add(HEADER), length as usize) != expected {
                    libc::_exit(BAD_BYTES);
                }
                let mut at = HEADER;
                while at < HEADER + length as usize {
                    sum ^= slot(index).add(at).cast::<u64>().read();
                    at = (at | 63) + 1;
                }
            }
            sender += 1;
            if sender == senders {
                (sender, index) = (0, index + 1);
            }
        }
        (self.next, self.sum, self.delivered) = ((sender, index), sum, stable);
        self.row().released.store(stable, Release); // F4
    }

    fn row(&self) -> &'a Row {
        &self.control.rows[self.rank]
    }

    fn mask(&self) -> u64 {
        self.shape.window as u64 - 1
    }
}

fn slot_bytes(shape: Shape) -> usize {
    (HEADER + shape.size).next_multiple_of(64)
}

/// Of one message in 64, as the engine's application does.
///
/// # Safety
/// So many bytes are there.
#[inline(never)]
unsafe fn crc(bytes: *const u8, len: usize) -> u32 {
    // SAFETY: the caller's promise.
    crc32fast::hash(unsafe { std::slice::from_raw_parts(bytes, len) })
}

fn pause(yielding: bool) {
    if yielding {
        // SAFETY: takes nothing.
        unsafe { libc::sched_yield() };
    } else {
        spin_loop();
    }
}

// ---- the processor ----

/// Assembly, as the intrinsic emits a prefetch for reading unless the target has the feature;
/// where the processor lacks it, `prefetchw` does nothing.
#[inline(always)]
unsafe fn prefetch_to_write(slot: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..bytes).step_by(64) {
        // SAFETY: a prefetch touches no memory and faults on none.
        unsafe { asm!("prefetchw [{}]", in(reg) slot.add(at), options(nostack, preserves_flags)) };
    }
}

#[inline(always)]
unsafe fn prefetch_to_read(slot: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..bytes).step_by(64) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(slot.add(at).cast()) };
    }
}

/// Writes a slot past the cache, to the end of its last line: lines written in part are slow.
#[inline(always)]
unsafe fn stream(slot: *mut u8, source: *const u8, header: [u64; 2], slot_bytes: usize) {
    // SAFETY: slot and source are slot_bytes long, the slot is aligned to a line.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        _mm_stream_si128(slot.cast(), _mm_set_epi64x(header[1] as i64, header[0] as i64));
        for at in (0..slot_bytes - HEADER).step_by(16) {
            let word = _mm_loadu_si128(source.add(at).cast());
            _mm_stream_si128(slot.add(HEADER + at).cast(), word);
        }
    }
    // SAFETY: as above.
    #[cfg(not(target_arch = "x86_64"))]
    unsafe {
        slot.cast::<[u64; 2]>().write(header);
        copy_nonoverlapping(source, slot.add(HEADER), slot_bytes - HEADER);
    }
}

/// A release store (F4) does not order streaming stores before it; this does.
fn stream_fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86_64 has it.
    unsafe {
        _mm_sfence()
    };
}

// ---- processes ----

const WARM: u64 = 1;
const COUNT: u64 = 2;
const STOP: u64 = 3;
const BAD_ORDER: i32 = 3; // exit statuses of a child
const BAD_BYTES: i32 = 4;
const PANICKED: i32 = 2;

/// Runs `body(rank)` in a process of its own on each of `cores`: warm-up, count, stop.
fn run(shared: &Shared, cores: &[usize], seconds: f64, body: impl Fn(usize)) -> Result<(), String> {
    let (control, patience) = (shared.control(), Duration::from_secs(10));
    let mut children = Children(Vec::new());
    let parent = std::process::id();
    for (rank, &core) in cores.iter().enumerate() {
        // SAFETY: the child runs only `child`, which does not return.
        match unsafe { libc::fork() } {
            -1 => return Err(format!("fork: {}", Error::last_os_error())),
            0 => child(control, parent, core, || body(rank)),
            pid => children.0.push((rank, pid)),
        }
    }
    let count = cores.len() as u64;
    if !children.watch(patience, |_| control.ready.0.load(Acquire) == count)? {
        return Err("the processes did not come up".into());
    }
    for (phase, time_s) in [(WARM, seconds / 5.0), (COUNT, seconds)] {
        control.phase.0.store(phase, Release);
        children.watch(Duration::from_secs_f64(time_s), |_| false)?;
    }
    control.phase.0.store(STOP, Release);
    match children.watch(patience, |left| left == 0)? {
        true => Ok(()),
        false => Err("the processes did not stop".into()),
    }
}

fn child(control: &Control, parent: u32, core: usize, body: impl FnOnce()) -> ! {
    // SAFETY: system calls on this process, with structs that live here.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let mut set: libc::cpu_set_t = zeroed();
        libc::CPU_SET(core, &mut set);
        let pinned = libc::sched_setaffinity(0, size_of_val(&set), &set) == 0;
        if !pinned || libc::getppid() as u32 != parent {
            libc::_exit(1);
        }
        control.ready.0.fetch_add(1, AcqRel);
        while control.phase.0.load(Acquire) < WARM {
            libc::sched_yield();
        }
        // A panic must not unwind into the parent's frames.
        libc::_exit(panic::catch_unwind(panic::AssertUnwindSafe(body)).map_or(PANICKED, |()| 0))
    }
}

struct Children(Vec<(usize, libc::pid_t)>); // rank, id

impl Children {
    /// Waits until `done(children left)`, at most `time`: whether it was. A bad exit is an error.
    fn watch(&mut self, time: Duration, done: impl Fn(usize) -> bool) -> Result<bool, String> {
        let (start, mut failure) = (Instant::now(), None);
        loop {
            self.0.retain(|&(rank, pid)| {
                let mut status = 0;
                // SAFETY: a child of ours, not yet reaped.
                let gone = unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } != 0;
                if gone && status != 0 {
                    failure = Some(format!("process {rank} ended, wait status {status:#x}"));
                }
                !gone
            });
            let left = time.saturating_sub(start.elapsed());
            match failure {
                Some(failure) => return Err(failure),
                None if done(self.0.len()) => return Ok(true),
                None if left.is_zero() => return Ok(false),
                None => std::thread::sleep(left.min(Duration::from_millis(20))),
            }
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for &(_, pid) in &self.0 {
            // SAFETY: a child of ours, not yet reaped, so the id is still its own.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, null_mut(), 0);
            }
        }
    }
}

fn cores() -> usize {
    // SAFETY: takes a constant.
    unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }.max(1) as usize
}

fn spread(members: usize) -> Vec<usize> {
    (0..members).map(|rank| rank % cores()).collect()
}

// ---- shared memory ----

const BUCKETS: usize = 58 * 128; // up to 256 ticks one each, then 128 for each power of two

#[repr(C, align(128))]
struct Line(AtomicU64);

/// The start of the mapping; the rings follow.
#[repr(C, align(4096))]
struct Control {
    phase: Line,
    ready: Line,
    ping: Line,
    pong: Line,
    rates: [Line; MEMBERS_MAX],
    rows: [Row; MEMBERS_MAX],
    ticks_max: AtomicU64,
    count: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Control {
    fn stopped(&self) -> bool {
        self.phase.0.load(Relaxed) == STOP
    }

    /// Calls `round` until told to stop; while counting, keeps the ticks it says it took.
    fn measure(&self, mut round: impl FnMut() -> u64) {
        while !self.stopped() {
            let counting = self.phase.0.load(Relaxed) == COUNT;
            let ticks = round();
            if counting && !self.stopped() {
                let shift = 56_u32.saturating_sub(ticks.leading_zeros());
                let bucket = shift as usize * 128 + (ticks >> shift) as usize;
                self.buckets[bucket].fetch_add(1, Relaxed);
                self.count.fetch_add(1, Relaxed);
                self.ticks_max.fetch_max(ticks, Relaxed);
            }
        }
    }

    fn latency(&self) -> Latency {
        let (count, ns) = (self.count.load(Relaxed), ns_per_tick());
        let max = self.ticks_max.load(Relaxed) as f64 * ns;
        let value = |bucket: usize| {
            let shift = (bucket / 128).max(1) - 1;
            let least = ((bucket - shift * 128) as u64) << shift;
            (least as f64 + ((1u64 << shift) - 1) as f64 / 2.0) * ns
        };
        let held = || self.buckets.iter().map(|held| held.load(Relaxed)).enumerate();
        let percentile = |part: f64| {
            let mut left = (count as f64 * part) as u64;
            for (bucket, held) in held() {
                if left < held {
                    return value(bucket).min(max);
                }
                left -= held;
            }
            0.0
        };
        let [p99, p999, p9999] = [0.99, 0.999, 0.9999].map(percentile);
        let p50 = ticks::median_of(held().map(|(bucket, held)| (value(bucket), held)));
        Latency { count, p50, p99, p999, p9999, max }
    }
}

struct Shared {
    base: *mut u8,
    bytes: usize,
}

impl Shared {
    fn new(shape: Option<Shape>) -> Result<Shared, String> {
        let mut bytes = size_of::<Control>();
        if let Some(shape) = shape {
            let Shape { members, senders, window, .. } = shape;
            let fits = members <= MEMBERS_MAX && (1..=members).contains(&senders);
            if !fits || members < 2 || !window.is_power_of_two() {
                return Err(format!("cannot do {shape:?}"));
            }
            bytes += senders * window * slot_bytes(shape);
        }
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        // SAFETY: a new mapping, where the kernel likes.
        let base = unsafe { libc::mmap(null_mut(), bytes, access, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(format!("mmap of {bytes} bytes: {}", Error::last_os_error()));
        }
        Ok(Shared { base: base.cast(), bytes })
    }

    fn control(&self) -> &Control {
        // SAFETY: the mapping begins with it, page aligned; zeroes are valid; it is all atomics.
        unsafe { &*self.base.cast() }
    }

    fn rings(&self) -> *mut u8 {
        self.base.wrapping_add(size_of::<Control>())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: our mapping; what borrows it borrows `self`.
        unsafe { libc::munmap(self.base.cast(), self.bytes) };
    }
}

// ---- events and time ----

fn event() -> Result<File, String> {
    // SAFETY: takes constants; the new descriptor belongs to the file alone.
    match unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) } {
        -1 => Err(format!("eventfd: {}", Error::last_os_error())),
        fd => Ok(unsafe { File::from_raw_fd(fd) }),
    }
}

fn signal(mut event: &File, count: u64) {
    event.write_all(&count.to_ne_bytes()).expect("write of an eventfd");
}

fn wait(mut event: &File) -> u64 {
    let mut count = [0; 8];
    event.read_exact(&mut count).expect("read of an eventfd");
    u64::from_ne_bytes(count)
}

fn now_ns() -> u64 {
    // SAFETY: writes the struct it is given, of integers.
    let time = unsafe {
        let mut time: libc::timespec = zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time);
        time
    };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn sleep_until(time_ns: u64) {
    let (tv_sec, tv_nsec) = ((time_ns / 1_000_000_000) as _, (time_ns % 1_000_000_000) as _);
    let time = libc::timespec { tv_sec, tv_nsec };
    let (clock, flag) = (libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME);
    // SAFETY: reads the struct it is given. Interrupted, a round starts early: no harm.
    unsafe { libc::clock_nanosleep(clock, flag, &time, null_mut()) };
}
