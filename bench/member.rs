// SPDX-License-Identifier: MIT OR Apache-2.0
//! One member process of a measurement: opens a group through the C door, sends, checks, counts.
//! Shared by the programs in this folder; not a program itself.

#[path = "ticks.rs"]
mod ticks;

use squall::capi::*;
use std::ffi::{CString, c_int, c_void};
use std::hint::black_box;
use std::io::{BufRead, BufReader, Read};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use ticks::{median_of, ns_per_tick, ticks};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Everybody sends as fast as it can.
    Rate,
    /// One message at a time, spinning.
    Latency,
    /// One message each millisecond, everybody parked.
    Park,
}

#[derive(Clone, Debug)]
pub struct Job {
    pub group: String,
    pub rank: usize,
    pub members: usize,
    pub senders: usize,
    pub size: usize,
    pub window: usize,
    pub seconds: f64,
    pub kind: Kind,
}

impl Job {
    pub fn args(&self) -> Vec<String> {
        let numbers = [self.rank, self.members, self.senders, self.size, self.window];
        let mut args = vec![self.group.clone()];
        args.extend(numbers.iter().map(|number| number.to_string()));
        args.extend([self.seconds.to_string(), format!("{:?}", self.kind)]);
        args
    }

    fn parse(args: &[String]) -> Job {
        let number = |at: usize| args[at].parse().expect("a number");
        Job {
            group: args[0].clone(),
            rank: number(1),
            members: number(2),
            senders: number(3),
            size: number(4),
            window: number(5),
            seconds: args[6].parse().expect("seconds"),
            kind: match args[7].as_str() {
                "Rate" => Kind::Rate,
                "Latency" => Kind::Latency,
                _ => Kind::Park,
            },
        }
    }
}

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get())
}

/// The figures that a member prints in one line; `None` if it ended without.
pub fn read_figures(child: &mut Child) -> Option<Vec<f64>> {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut()?).read_line(&mut line).ok()?;
    let figures: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    (!figures.is_empty()).then_some(figures)
}

const MEMBERS: usize = 64;

/// What the callback keeps: how many were delivered, what must come next.
pub struct Seen {
    pub messages: u64,
    pub own: u64,
    rank: u16,
    next: [u64; MEMBERS],
    number: u64,
    sum: u64,
    crc: u32,
    /// Whether to note when a batch comes, in ticks, and when the last one came.
    timed: bool,
    at: u64,
}

impl Seen {
    pub fn new() -> Seen {
        Seen {
            messages: 0,
            own: 0,
            rank: 0,
            next: [0; MEMBERS],
            number: 0,
            sum: 0,
            crc: 0,
            timed: false,
            at: 0,
        }
    }
}

/// The CRC of a payload of which only the first eight bytes (the sequence) differ: so the sender
/// need not compute one per message, and the receiver still reads and verifies every byte.
fn crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(&bytes[8.min(bytes.len())..])
}

/// Checks a batch as the bench's header says; a violation ends the process.
pub unsafe extern "C" fn deliver(
    user: *mut c_void,
    _group: squall_group_t,
    _subgroup: u32,
    messages: *const squall_message_t,
    count: u32,
) {
    // SAFETY: `user` is the `Seen` given at open, used by this thread only during polls; the
    // library hands `count` messages.
    let (seen, messages) = unsafe {
        (&mut *user.cast::<Seen>(), std::slice::from_raw_parts(messages, count as usize))
    };
    if seen.timed {
        seen.at = ticks();
    }
    // In locals, as a program that counts nanoseconds would.
    let (mut number, mut sum, mut own) = (seen.number, seen.sum, 0);
    let (rank, expected) = (seen.rank, seen.crc);
    for message in messages {
        // SAFETY: valid until the callback returns.
        let bytes =
            unsafe { std::slice::from_raw_parts(message.bytes.cast::<u8>(), message.len as usize) };
        let Some(first) = bytes.first_chunk::<8>() else { violation("a message without sequence") };
        let sequence = u64::from_le_bytes(*first);
        let next = &mut seen.next[usize::from(message.rank) % MEMBERS];
        if sequence != *next || message.number < number {
            violation(&format!("rank {} sequence {sequence}, expected {next}", message.rank));
        }
        *next += 1;
        number = message.number + 1;
        sum += touch(bytes);
        own += u64::from(message.rank == rank);
        if sequence % 64 == 0 && crc(bytes) != expected {
            violation(&format!("rank {} sequence {sequence}: wrong CRC", message.rank));
        }
    }
    (seen.number, seen.sum, seen.own) = (number, sum, seen.own + own);
    seen.messages += u64::from(count);
}

/// Reads every line of the payload: a byte of each 64, and the last one.
#[inline]
fn touch(bytes: &[u8]) -> u64 {
    let last = bytes.len() - 1;
    let mut sum = u64::from(bytes[0]) + u64::from(bytes[last / 2]) + u64::from(bytes[last]);
    if last < 128 {
        return sum; // three lines at the most
    }
    let mut at = 0;
    while at < bytes.len() {
        sum += u64::from(bytes[at]);
        at += 64;
    }
    sum
}

fn violation(what: &str) -> ! {
    eprintln!("VIOLATION: {what}");
    std::process::exit(1);
}

/// The functions of the door, as a C program has them: behind pointers.
#[allow(clippy::type_complexity, reason = "the types are those of the header")]
pub struct Door {
    pub send: unsafe extern "C" fn(squall_group_t, u32, *const c_void, u32) -> i64,
    pub send_many: unsafe extern "C" fn(squall_group_t, u32, *const squall_piece_t, u32) -> i64,
    pub poll: extern "C" fn(squall_group_t, u32) -> c_int,
    pub wait: extern "C" fn(squall_group_t, i32) -> c_int,
}

impl Door {
    pub fn new() -> Door {
        Door {
            send: black_box(squall_send),
            send_many: black_box(squall_send_many),
            poll: black_box(squall_poll),
            wait: black_box(squall_wait),
        }
    }
}

fn last_error() -> String {
    let mut text = vec![0u8; 1024];
    // SAFETY: as many bytes as said.
    let needed = unsafe { squall_last_error(text.as_mut_ptr().cast(), text.len()) };
    text.truncate(needed.saturating_sub(1).min(1023));
    String::from_utf8_lossy(&text).into_owned()
}

/// Opens the job's group; `seen` must outlive it.
pub fn open(job: &Job, idle: u32, payload: &[u8], seen: &mut Seen) -> squall_group_t {
    let timed = job.kind != Kind::Rate;
    *seen = Seen { rank: job.rank as u16, crc: crc(payload), timed, ..Seen::new() };
    let name = CString::new(job.group.as_str()).expect("a name");
    let senders: Vec<u16> = (0..job.senders as u16).collect();
    // SAFETY: plain structs for which zero is a value; the pointers live across the call.
    unsafe {
        let mut subgroup: squall_subgroup_attr_t = std::mem::zeroed();
        squall_subgroup_attr_init(&mut subgroup, size_of_val(&subgroup) as u32);
        subgroup.senders = senders.as_ptr();
        subgroup.sender_count = senders.len() as u32;
        subgroup.window = job.window as u32;
        subgroup.message_bytes_max = job.size as u32;
        let mut attr: squall_group_attr_t = std::mem::zeroed();
        squall_group_attr_init(&mut attr, size_of_val(&attr) as u32);
        (attr.name, attr.rank, attr.members) = (name.as_ptr(), job.rank as u32, job.members as u32);
        (attr.idle, attr.subgroups, attr.subgroup_count) = (idle, &subgroup, 1);
        let mut callbacks: squall_callbacks_t = std::mem::zeroed();
        squall_callbacks_init(&mut callbacks, size_of_val(&callbacks) as u32);
        callbacks.user = std::ptr::from_mut(seen).cast();
        callbacks.deliver = Some(deliver);
        let mut group = 0;
        if squall_group_open(&attr, &callbacks, &mut group) != 0 {
            eprintln!("member {}: {}", job.rank, last_error());
            std::process::exit(1);
        }
        group
    }
}

/// Messages that are offered before each poll, in one call: distinct ones, in a buffer that stays in
/// the first-level cache, as far as that holds any.
struct Burst {
    size: usize,
    offer: u64,
    bytes: Vec<u8>,
    pieces: Vec<squall_piece_t>,
}

/// Messages offered before a poll, and messages and bytes of one call, at the most. Of the window a
/// quarter is offered, as in the floor: with all of it sender and reader take turns.
const OFFER: u64 = 256;
const BURST: usize = 128;
const BURST_BYTES: usize = 16 << 10;

impl Burst {
    fn new(payload: &[u8], window: usize) -> Burst {
        let size = payload.len();
        let offer = OFFER.min(window as u64 / 4).max(1);
        let count = (BURST_BYTES / size).clamp(1, BURST.min(offer as usize));
        let bytes = payload.repeat(count);
        let piece =
            |at: usize| squall_piece_t { bytes: bytes[at * size..].as_ptr().cast(), len: size };
        let pieces = (0..count).map(piece).collect();
        Burst { size, offer, bytes, pieces }
    }

    /// Offers messages with sequences from `sequence` on, several times if there is room; how many
    /// were taken.
    fn send(&mut self, door: &Door, group: squall_group_t, sequence: u64) -> u64 {
        let mut taken = 0;
        while taken < self.offer {
            for (at, message) in self.bytes.chunks_exact_mut(self.size).enumerate() {
                let sequence = sequence + taken + at as u64;
                message[..8].copy_from_slice(&sequence.to_le_bytes());
            }
            let (pieces, count) = (self.pieces.as_ptr(), self.pieces.len());
            // SAFETY: the pieces point into `bytes`, which lives as long.
            let sent = unsafe { (door.send_many)(group, 0, pieces, count as u32) };
            taken += sent.max(0) as u64;
            if sent < count as i64 {
                break;
            }
        }
        taken
    }
}

/// Entry of a member process: measures, prints its figures in one line, goes on so that the others
/// can finish, and ends with its standard input.
pub fn main(args: &[String]) {
    let job = Job::parse(args);
    static OVER: AtomicBool = AtomicBool::new(false);
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        OVER.store(true, Relaxed);
        std::thread::sleep(Duration::from_secs(5));
        std::process::exit(3); // whoever started this one is gone
    });
    if job.kind != Kind::Park {
        let _ = squall::driver::idle::pin(job.rank % cores());
    }
    let idle = match job.kind {
        Kind::Park => SQUALL_IDLE_PARK,
        _ if job.members > cores() => SQUALL_IDLE_YIELD,
        _ => SQUALL_IDLE_SPIN,
    };
    let mut payload = vec![0x5au8; job.size];
    let mut seen = Box::new(Seen::new());
    let group = open(&job, idle, &payload, &mut seen);
    let seen: *mut Seen = &mut *seen;
    let door = Door::new();
    match job.kind {
        Kind::Rate => drive(&job, group, &door, seen, &mut payload, &OVER),
        _ => one_by_one(&job, group, &door, seen, &mut payload, &OVER),
    }
    squall_group_close(group);
}

/// The callback's count, read between polls.
fn count(seen: *mut Seen) -> (u64, u64) {
    // SAFETY: `seen` lives as long as the group; nothing else runs in this thread now.
    let seen = unsafe { &*seen };
    (seen.messages, seen.own)
}

fn drive(
    job: &Job,
    group: squall_group_t,
    door: &Door,
    seen: *mut Seen,
    payload: &mut [u8],
    over: &AtomicBool,
) {
    let sends = job.rank < job.senders;
    let (mut sequence, mut rounds) = (0u64, 0u64);
    let mut burst = Burst::new(payload, job.window);
    let warm = Duration::from_secs_f64(job.seconds * 0.2);
    let start = Instant::now();
    let mut from: Option<(Instant, u64)> = None;
    let mut printed = false;
    while !over.load(Relaxed) {
        let sent = if sends { burst.send(door, group, sequence) } else { 0 };
        sequence += sent;
        let delivered = (door.poll)(group, u32::MAX);
        if delivered == 0 && sent == 0 {
            (door.wait)(group, 0);
        }
        rounds += 1;
        if printed || rounds % 64 != 0 {
            continue;
        }
        match from {
            None if start.elapsed() > warm => from = Some((Instant::now(), count(seen).0)),
            Some((at, before)) if at.elapsed().as_secs_f64() > job.seconds => {
                let rate = (count(seen).0 - before) as f64 / at.elapsed().as_secs_f64();
                println!("{rate}");
                printed = true;
            }
            _ => {}
        }
    }
}

fn one_by_one(
    job: &Job,
    group: squall_group_t,
    door: &Door,
    seen: *mut Seen,
    payload: &mut [u8],
    over: &AtomicBool,
) {
    let parks = job.kind == Kind::Park;
    if job.rank != 0 {
        println!("0");
        while !over.load(Relaxed) && (door.poll)(group, u32::MAX) >= 0 {
            if parks {
                (door.wait)(group, 1000);
            }
        }
        return;
    }
    let mut histogram = hdrhistogram::Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)
        .expect("three digits up to a minute");
    let ns = ns_per_tick();
    let warm = Duration::from_secs_f64(job.seconds * 0.2);
    let start = Instant::now();
    let mut sequence = 0u64;
    let mut due = Instant::now();
    while start.elapsed() < warm + Duration::from_secs_f64(job.seconds) {
        if job.kind == Kind::Park {
            due = (due + Duration::from_millis(1)).max(Instant::now()); // no burst after a stall
            while let Some(left) = due.checked_duration_since(Instant::now()) {
                std::thread::sleep(left);
            }
        }
        payload[..8].copy_from_slice(&sequence.to_le_bytes());
        sequence += 1;
        let begin = ticks();
        // SAFETY: the payload has that many bytes.
        let sent = unsafe { (door.send)(group, 0, payload.as_ptr().cast(), job.size as u32) };
        assert!(sent >= 0, "one outstanding message always has room");
        loop {
            let delivered = (door.poll)(group, u32::MAX);
            if count(seen).1 >= sequence {
                break;
            }
            if delivered == 0 && parks {
                (door.wait)(group, 1000);
            }
        }
        // SAFETY: as in `count`.
        let took = (unsafe { (*seen).at } - begin) as f64 * ns;
        if start.elapsed() > warm {
            // Rounded: what is cut off would come off the median, which the floor's ticks keep.
            histogram.saturating_record(took.round() as u64);
        }
    }
    let at = |quantile: f64| histogram.value_at_quantile(quantile);
    let seen = histogram.iter_recorded();
    let seen = seen.map(|it| (it.value_iterated_to() as f64, it.count_at_value()));
    let p50 = median_of(seen);
    println!("{p50:.1} {} {} {} {}", at(0.99), at(0.999), at(0.9999), histogram.max());
    while !over.load(Relaxed) {
        (door.poll)(group, u32::MAX);
        (door.wait)(group, 10);
    }
}
