// SPDX-License-Identifier: MIT OR Apache-2.0
//! How near members over TCP come to bare sockets, in pairs, on loopback.
//!
//! `cargo bench --bench tcp -- [CASE ...] [--pairs 11] [--seconds 1] [--window N] [--three] [--work]`;
//! cases: see `CASES`, or `all`, which is all of them and `--three`. Each pair measures bare sockets
//! (non-blocking, TCP_NODELAY, spinning; as one or two `Floor`s), then the engine trusting the network,
//! then the engine sealing it; what counts is the median of the pairs' ratios to the first floor, and the
//! program fails if one misses its bar. The ratio to the second is reported.
//! Members are processes pinned to core `rank % cores`, messages are distinct, and their sequence is
//! checked at each delivery. `--three` measures three members, too: beside the two ends of bare sockets,
//! and yielding where there are not as many cores. On a machine with other work, `--work` tells for a
//! rate what the slower end would do if it never waited: of the rounds that did something and were not
//! interrupted.
//!
//! ```text
//! lat    64 B there and back                         64 B, send to stable at the sender
//! 100b   a stream of 64 KiB writes, one way; and     100 B messages, both send: delivered at each,
//!        both ways, what is sent counted, too        which is its own half of the time
//! 10k    10 KiB writes, the reader adds up; and      10 KiB messages, one sends, the other adds up,
//!        64 KiB writes, as who gathers would         with the same code
//! quiet  `lat` of members with doors, to each of which somebody holds a connection and says nothing,
//!        against the same of members that nobody calls (sealed); for a minute in all, if 11 pairs
//! ```
//!
//! The second floors are what a program of its own would do that knows how it is measured: with 10 KiB
//! writes a stream is as fast as a loopback takes segments of 10 KiB, and an engine that gathers
//! messages is faster than that.

#[path = "tcp/meeting.rs"]
mod meeting;

#[allow(dead_code, reason = "this program uses a part of it")]
#[path = "ticks.rs"]
mod ticks;

use meeting::{Member, meet, stranger};
use squall::driver::idle::pin;
use squall::mem::Message;
use std::hint::{black_box, spin_loop};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use ticks::{ns_per_tick, ticks};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Latency,
    Small,
    Large,
}

struct Case {
    name: &'static str,
    what: &'static str,
    kind: Kind,
    size: usize,
    window: usize,
    /// The bar is a ratio to the first; those to the others are reported.
    floors: &'static [Floor],
    bar: Bar,
}

/// What bare sockets do.
struct Floor {
    what: &'static str,
    how: How,
}

#[derive(Clone, Copy)]
enum How {
    /// A message there and back.
    Trip,
    Stream(Stream),
}

#[derive(Clone, Copy)]
struct Stream {
    /// Bytes of a write.
    write: usize,
    /// Both ends send; what each has sent counts there, too, as members deliver what is theirs.
    both: bool,
    /// Who reads adds up what it has read, as who is delivered a message does.
    adds: bool,
}

/// Of the medians of the pairs.
#[derive(Clone, Copy)]
enum Bar {
    /// Of the ratio to the first floor.
    Most(f64),
    Least(f64),
    /// Messages delivered a second.
    Rate(f64),
}

const CASES: [Case; 4] = [
    Case {
        name: "lat",
        what: "64 B, send to stable",
        kind: Kind::Latency,
        size: 64,
        window: 64,
        floors: &[Floor { what: "64 B, there and back", how: How::Trip }],
        bar: Bar::Most(1.5),
    },
    Case {
        name: "100b",
        what: "100 B, all send; delivered at each, its own included",
        kind: Kind::Small,
        size: 100,
        window: 16384,
        floors: &[
            Floor {
                what: "a stream of 64 KiB writes, one way",
                how: How::Stream(Stream { write: 64 << 10, both: false, adds: false }),
            },
            Floor {
                what: "64 KiB writes, both ways; sent and received",
                how: How::Stream(Stream { write: 64 << 10, both: true, adds: false }),
            },
        ],
        bar: Bar::Rate(5e6),
    },
    Case {
        name: "10k",
        what: "10 KiB, one sends, the other adds up",
        kind: Kind::Large,
        size: 10 << 10,
        window: 256,
        floors: &[
            Floor {
                what: "10 KiB writes, the reader adds up",
                how: How::Stream(Stream { write: 10 << 10, both: false, adds: true }),
            },
            Floor {
                what: "64 KiB writes, the reader adds up",
                how: How::Stream(Stream { write: 64 << 10, both: false, adds: true }),
            },
        ],
        bar: Bar::Least(0.8),
    },
    Case {
        name: "quiet",
        what: "64 B, send to stable, a silent caller at each door",
        kind: Kind::Latency,
        size: 64,
        window: 64,
        floors: &[],
        bar: Bar::Most(1.1),
    },
];
const QUIET: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Over {
    /// The case's first floor, and its second.
    Bare,
    Other,
    Trusted,
    Sealed,
    /// Sealed, with doors; and somebody before each.
    Alone,
    Called,
}

const OVER: [Over; 6] =
    [Over::Bare, Over::Other, Over::Trusted, Over::Sealed, Over::Alone, Over::Called];

#[derive(Clone, Copy)]
struct Job {
    case: usize,
    over: usize,
    members: usize,
    window: usize,
    /// As the first process found them: it pins itself, and what it starts.
    cores: usize,
    seconds: f64,
    work: bool,
}

impl Job {
    fn over(&self) -> Over {
        OVER[self.over]
    }

    /// There are not cores enough for all to spin.
    fn yields(&self) -> bool {
        self.members > self.cores
    }
}

/// What a member's process is told: the job, its rank, where the members meet, and their doors.
struct Told {
    job: Job,
    rank: u16,
    ports: Vec<u16>,
    doors: Vec<u16>,
}

impl Told {
    fn arguments(&self) -> Vec<String> {
        let Job { case, over, members, window, cores, seconds, .. } = self.job;
        let mut all = [case, over, members, window, cores].map(|of| of.to_string()).to_vec();
        all.extend([seconds.to_string(), self.rank.to_string()]);
        all.extend(self.ports.iter().chain(&self.doors).map(u16::to_string));
        all
    }

    fn of(arguments: &[String]) -> Told {
        let number = |at: usize| arguments[at].parse::<f64>().expect("a number");
        let [case, over, members, window, cores] = [0, 1, 2, 3, 4].map(|at| number(at) as usize);
        let job = Job { case, over, members, window, cores, seconds: number(5), work: false };
        let ports = |from: usize| (from..from + members).map(|at| number(at) as u16).collect();
        Told { job, rank: number(6) as u16, ports: ports(7), doors: ports(7 + members) }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.first().map(String::as_str) {
        Some("peer") => {
            let told = Told::of(&args[1..]);
            pin(usize::from(told.rank) % told.job.cores).expect("a core");
            let listener = TcpListener::bind(("127.0.0.1", told.ports[usize::from(told.rank)]));
            end(&told, listener.expect("the port that was free"));
            return;
        }
        Some("stranger") => return stranger(&args[1..]),
        _ => {}
    }
    let option = |name: &str, default: f64| {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|at| args.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let (pairs, seconds) = (option("--pairs", 11.0) as usize, option("--seconds", 1.0));
    let window = option("--window", 0.0) as usize;
    let asked = |name: &str| args.iter().any(|arg| arg == name);
    let (work, three) = (asked("--work"), asked("--three") || asked("all"));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    pin(0).expect("a core");
    let (mut none, mut met) = (true, true);
    for (at, case) in CASES.iter().enumerate() {
        if !asked(case.name) && !asked("all") {
            continue;
        }
        if std::mem::take(&mut none) {
            println!("{pairs} pairs of {seconds} s each (quiet: at least 4.6); {cores} cores");
        }
        let window = if window == 0 { case.window } else { window };
        let job = Job { case: at, over: 0, members: 2, window, cores, seconds, work };
        // A door lets a silent caller go after ten seconds: a minute of them is eleven runs.
        let seconds = if at == QUIET { seconds.max(4.6) } else { seconds };
        let job = Job { seconds, ..job };
        met &= measure(job, pairs);
        if three && at != QUIET {
            measure(Job { members: 3, ..job }, pairs);
        }
    }
    if none {
        let names = CASES.map(|case| case.name).join(" | ");
        eprintln!("usage: tcp [--pairs N] [--seconds S] [--window N] [--three] all | {names}");
    }
    std::process::exit(i32::from(!met));
}

/// Measures one case; whether it meets its bar, if it has one.
fn measure(job: Job, pairs: usize) -> bool {
    let case = &CASES[job.case];
    let floors = &OVER[..case.floors.len()];
    let engine = if job.case == QUIET { &OVER[4..] } else { &OVER[2..4] };
    let over: Vec<Over> = floors.iter().chain(engine).copied().collect();
    let mut figures: Vec<Vec<f64>> = vec![Vec::new(); over.len()];
    for _ in 0..pairs {
        for (figures, over) in figures.iter_mut().zip(&over) {
            figures.push(run(Job { over: *over as usize, ..job }));
        }
    }
    // Of each pair, to one of the first.
    let ratios = |of: usize, to: usize| -> Vec<f64> {
        figures[of].iter().zip(&figures[to]).map(|(this, floor)| this / floor).collect()
    };
    println!("{:5} {} members: {}", case.name, job.members, case.what);
    let mut met = true;
    for at in 0..over.len() {
        let figure = said(case, &figures[at]);
        let name = format!("{:?}", over[at]).to_lowercase();
        if let Some(Floor { what, .. }) = case.floors.get(at) {
            println!("      {name:8} {figure}   {what}");
            continue;
        }
        if at == 0 {
            println!("      {name:8} {figure}");
            continue;
        }
        let (ratio, rate) = (median(&ratios(at, 0)), median(&figures[at]) / case.size as f64);
        let (bar, holds) = match case.bar {
            _ if job.members > 2 => ("reported".to_string(), true),
            Bar::Most(most) => (format!("bar <= {most}"), ratio <= most),
            Bar::Least(least) => (format!("bar >= {least}"), ratio >= least),
            Bar::Rate(least) => (format!("bar >= {} M/s", least * 1e-6), rate >= least),
        };
        met &= holds;
        let says = if job.members > 2 { "" } else { [": MISSED", ": met"][usize::from(holds)] };
        let first = spread(&ratios(at, 0), 1.0, "ratio");
        let other = match case.floors.len() {
            2 => format!("   to other {}, reported", spread(&ratios(at, 1), 1.0, "")),
            _ => String::new(),
        };
        println!("      {name:8} {figure}   {first}, {bar}{says}{other}");
    }
    met
}

/// Figures with their unit, of a rate in messages, too.
fn said(case: &Case, figures: &[f64]) -> String {
    match case.kind {
        Kind::Latency => spread(figures, 1.0, "ns"),
        _ => {
            let bytes = spread(figures, 1e-9, "GB/s");
            format!("{}   {bytes}", spread(figures, 1e-6 / case.size as f64, "M/s"))
        }
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

fn median(values: &[f64]) -> f64 {
    sorted(values)[values.len() / 2]
}

fn spread(values: &[f64], scale: f64, unit: &str) -> String {
    let all = sorted(values);
    let [low, middle, high] = [0, all.len() / 2, all.len() - 1].map(|at| all[at] * scale);
    let blank = if unit.is_empty() { "" } else { " " };
    format!("{middle:.3} ({low:.3} - {high:.3}){blank}{unit}")
}

/// One member here, the others in processes of their own; the figure of this one.
fn run(job: Job) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = |of: &TcpListener| of.local_addr().expect("bound").port();
    let free: Vec<TcpListener> =
        (1..2 * job.members).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    let all: Vec<u16> = std::iter::once(&listener).chain(&free).map(port).collect();
    drop(free);
    let (ports, doors) = all.split_at(job.members);
    let told = |rank: u16| Told { job, rank, ports: ports.to_vec(), doors: doors.to_vec() };
    let mut children: Vec<Ended> = Vec::new();
    for rank in 1..job.members as u16 {
        children.push(Ended::start("peer", &told(rank).arguments()));
    }
    let stranger = (job.over() == Over::Called).then(|| {
        let doors: Vec<String> = doors.iter().map(u16::to_string).collect();
        Ended::start("stranger", &doors)
    });
    let mut figure = end(&told(0), listener);
    if let Some(mut stranger) = stranger {
        let _ = stranger.0.kill();
        let mut held = String::new();
        let mut output = stranger.0.stdout.take().expect("piped");
        output.read_to_string(&mut held).expect("ports");
        let is_held = |door: &u16| held.lines().any(|line| line == door.to_string());
        assert!(doors.iter().all(is_held), "nobody was held at {doors:?}: {held}");
    }
    for child in &mut children {
        let mut said = String::new();
        let output = child.0.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut said).expect("a line, or the end");
        assert!(child.0.wait().expect("our child").success(), "another end failed");
        if let (Ok(theirs), true) = (said.trim().parse::<f64>(), job.work) {
            figure = figure.min(theirs);
        }
    }
    figure
}

struct Ended(Child);

impl Ended {
    fn start(role: &str, arguments: &[String]) -> Ended {
        let program = std::env::current_exe().expect("this program");
        let mut command = Command::new(program);
        command.arg(role).args(arguments).stdout(Stdio::piped());
        Ended(command.spawn().expect("this program starts again"))
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn end(told: &Told, listener: TcpListener) -> f64 {
    let (job, rank) = (told.job, told.rank);
    let mut streams = meet(rank, &told.ports, listener);
    let case = &CASES[job.case];
    let Some(floor) = case.floors.get(job.over).filter(|_| job.over < 2) else {
        return match case.kind {
            Kind::Latency => latency(told, streams),
            Kind::Small | Kind::Large => rate(told, streams),
        };
    };
    if rank > 1 {
        return 0.0; // two ends are all
    }
    let stream = streams.swap_remove(0).1;
    match floor.how {
        How::Trip => bare_latency(job, rank, stream),
        How::Stream(how) => bare_stream(job, rank, stream, how),
    }
}

// ---- bare sockets ----

/// Bytes that are read at once, at the most: of all sizes that were tried the best.
const READ: usize = 64 << 10;

/// False: the other end has closed.
fn read_all(stream: &mut TcpStream, bytes: &mut [u8]) -> bool {
    let mut at = 0;
    while at < bytes.len() {
        match stream.read(&mut bytes[at..]) {
            Ok(0) => return false,
            Ok(got) => at += got,
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => spin_loop(),
            Err(_) => return false,
        }
    }
    true
}

fn bare_latency(job: Job, rank: u16, mut stream: TcpStream) -> f64 {
    let mut bytes = vec![1; CASES[job.case].size];
    if rank == 1 {
        while read_all(&mut stream, &mut bytes) {
            let sent = stream.write(&bytes).expect("room for a message");
            assert_eq!(sent, bytes.len());
        }
        return 0.0;
    }
    median_trip(job, || {
        let begin = ticks();
        assert_eq!(stream.write(&bytes).expect("room for a message"), bytes.len());
        assert!(read_all(&mut stream, &mut bytes), "the other end has gone");
        ticks() - begin
    })
}

/// Bytes per second that arrive at rank 0; with `both` those that leave it, too.
fn bare_stream(job: Job, rank: u16, mut stream: TcpStream, how: Stream) -> f64 {
    let Stream { write, both, adds } = how;
    let (mut into, from) = (vec![1; READ], vec![1; write]);
    let (mut at, mut total) = (0, 0u64);
    counted(job, rank, || {
        let (mut round, mut over) = (0, false);
        let moved = |outcome: std::io::Result<usize>| match outcome {
            Ok(0) => (0, true),
            Ok(moved) => (moved, false),
            Err(cause) => (0, cause.kind() != ErrorKind::WouldBlock),
        };
        if both || rank == 0 {
            let (got, ends) = moved(stream.read(&mut into));
            if adds {
                black_box(sum(&into[..got]));
            }
            (round, over) = (round + got, over | ends);
        }
        if both || rank > 0 {
            let (sent, ends) = moved(stream.write(&from[at..]));
            at = (at + sent) % write;
            (round, over) = (round + sent, over | ends);
        }
        if round == 0 {
            spin_loop();
        }
        total += round as u64;
        Round { count: total, busy: round > 0, over }
    })
}

/// Exclusive or of all words: the compiler does many at once.
#[inline(never)]
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8);
    let rest: u64 = words.remainder().iter().map(|byte| u64::from(*byte)).sum();
    words.map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes"))).fold(rest, |a, b| a ^ b)
}

/// The median of what `round` takes, in ns.
fn median_trip(job: Job, mut round: impl FnMut() -> u64) -> f64 {
    let (warm, end) = (job.seconds * 0.2, job.seconds * 1.2);
    let mut taken = Vec::with_capacity(1 << 20);
    let start = Instant::now();
    loop {
        let ticks = round();
        let now = start.elapsed().as_secs_f64();
        if now > warm {
            taken.push(ticks);
        }
        if now > end {
            break;
        }
    }
    taken.sort_unstable();
    taken[taken.len() / 2] as f64 * ns_per_tick()
}

/// What a round came to: how much there is in all, and whether it did anything.
struct Round {
    count: u64,
    busy: bool,
    over: bool,
}

/// How fast it grows, a second, at rank 0. With `work`: how fast it would if this end never waited,
/// from the rounds that did something and were not interrupted; at rank 1 said to rank 0.
fn counted(job: Job, rank: u16, mut round: impl FnMut() -> Round) -> f64 {
    let gap = (0.000_1 / (ns_per_tick_once() * 1e-9)) as u64;
    let (warm, end) = (job.seconds * 0.2, job.seconds * 1.2);
    let (start, mut from) = (Instant::now(), None);
    let (mut before, mut last, mut worked, mut grown) = (ticks(), 0, 0, 0);
    let mut work = |now: u64, round: &Round| {
        let took = now - std::mem::replace(&mut before, now);
        let more = round.count - std::mem::replace(&mut last, round.count);
        if took < gap && round.busy {
            (worked, grown) = (worked + took, grown + more);
        }
        grown as f64 / (worked.max(1) as f64 * ns_per_tick_once() * 1e-9)
    };
    loop {
        let mut got = round();
        let mut worth = work(ticks(), &got);
        for _ in 0..15 {
            if got.over {
                break;
            }
            got = round();
            worth = work(ticks(), &got);
        }
        if got.over {
            if rank > 0 {
                println!("{worth}");
            }
            return worth;
        }
        let now = start.elapsed().as_secs_f64();
        match from {
            None if now > warm => from = Some((now, got.count)),
            Some(_) if now > end && rank == 0 && job.work => return worth,
            Some((at, before)) if now > end && rank == 0 => {
                return (got.count - before) as f64 / (now - at);
            }
            _ => {}
        }
    }
}

fn ns_per_tick_once() -> f64 {
    static NS: std::sync::OnceLock<f64> = std::sync::OnceLock::new();
    *NS.get_or_init(ns_per_tick)
}

// ---- the engine ----

/// What has been delivered here: messages, own ones, when the last batch came.
#[derive(Default)]
struct Delivered {
    all: AtomicU64,
    own: AtomicU64,
    at: AtomicU64,
}

fn application(rank: u16, kind: Kind, to: Arc<Delivered>) -> impl FnMut(u16, &[Message]) + Send {
    let mut next = [0u64; 3];
    move |_, batch| {
        to.at.store(ticks(), Relaxed);
        let (mut own, mut read) = (0, 0);
        for message in batch {
            let bytes = message.bytes();
            let sequence = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
            let next = &mut next[usize::from(message.rank)];
            assert_eq!(sequence, *next, "of rank {}", message.rank);
            *next += 1;
            own += u64::from(message.rank == rank);
            if kind == Kind::Large && message.rank != rank {
                read ^= sum(bytes);
            }
        }
        black_box(read);
        to.all.store(to.all.load(Relaxed) + batch.len() as u64, Relaxed);
        to.own.store(to.own.load(Relaxed) + own, Relaxed);
    }
}

fn latency(told: &Told, streams: Vec<(u16, TcpStream)>) -> f64 {
    let job = told.job;
    let Member { mut group, sender, delivered } = Member::new(told, streams);
    let idle = |busy: bool| {
        if !busy && job.yields() {
            std::thread::yield_now();
        }
    };
    if told.rank > 0 {
        while let Ok(turn) = group.turn(u32::MAX) {
            idle(turn.busy);
        }
        return 0.0;
    }
    let (mut sender, mut sent) = (sender.expect("rank 0 sends"), 0u64);
    let mut bytes = vec![1; CASES[job.case].size];
    let figure = median_trip(job, || {
        bytes[..8].copy_from_slice(&sent.to_le_bytes());
        sent += 1;
        let begin = ticks();
        sender.send(&bytes).expect("room for a message");
        while delivered.own.load(Relaxed) < sent {
            idle(group.turn(u32::MAX).expect("the other end is there").busy);
        }
        delivered.at.load(Relaxed) - begin
    });
    group.close();
    figure
}

/// Bytes of messages delivered here a second.
fn rate(told: &Told, streams: Vec<(u16, TcpStream)>) -> f64 {
    const BURST: usize = 64;
    const BURST_BYTES: usize = 16 << 10;
    let job = told.job;
    let Member { mut group, mut sender, delivered } = Member::new(told, streams);
    let size = CASES[job.case].size;
    let burst = (BURST_BYTES / size).clamp(1, BURST);
    let (mut bytes, mut sent) = (vec![1; burst * size], 0u64);
    let figure = counted(job, told.rank, || {
        // A quarter of the window at the most: then all ends are always at work.
        let (before, most) = (sent, sent + job.window as u64 / 4);
        while let Some(sender) = sender.as_mut().filter(|_| sent < most) {
            for (message, sequence) in bytes.chunks_exact_mut(size).zip(sent..) {
                message[..8].copy_from_slice(&sequence.to_le_bytes());
            }
            let (count, _) = sender.send_many(bytes.chunks_exact(size));
            sent += count;
            if count < burst as u64 {
                break;
            }
        }
        let turn = group.turn(u32::MAX);
        let (over, busy) = (turn.is_err(), turn.is_ok_and(|turn| turn.busy) || sent > before);
        if !busy && job.yields() {
            std::thread::yield_now();
        }
        Round { count: size as u64 * delivered.all.load(Relaxed), busy, over }
    });
    group.close();
    figure
}
