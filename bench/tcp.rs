// SPDX-License-Identifier: MIT OR Apache-2.0
//! How near two members over TCP come to bare sockets, in pairs, on loopback.
//!
//! `cargo bench --bench tcp -- [CASE ...] [--pairs 11] [--seconds 1] [--window N] [--work]`; cases:
//! see `CASES`, or `all`. Each pair measures bare sockets (non-blocking, TCP_NODELAY, spinning), then
//! the engine trusting the network, then the engine sealing it; what counts is the median of the
//! pairs' ratios. The two processes are pinned to cores 0 and 1, messages are distinct, and their
//! sequence is checked at each delivery. On a machine with other work, `--work` tells for a rate what
//! the slower end would do if it never waited: of the rounds that did something and were not
//! interrupted.
//!
//! ```text
//! lat    64 B there and back                         64 B, send to stable at the sender
//! 100b   a stream of 64 KiB writes, one way          100 B messages, both send: delivered at each
//! 10k    10 KiB writes, the reader adds up bytes     10 KiB messages, one sends, the other adds up
//! ```

#[allow(dead_code, reason = "this program uses a part of it")]
#[path = "ticks.rs"]
mod ticks;

use squall::base::{Epoch, Events, Peer, Rank};
use squall::driver::config::{Config, Idle};
use squall::driver::group::{Group, Sender};
use squall::driver::idle::pin;
use squall::fabric::tcp::link::{Channel, Keys};
use squall::fabric::tcp::mirror::Measures;
use squall::fabric::tcp::{Setup, Tcp};
use squall::fabric::{Exchange, Fabric, Memory, Shown, Sizes};
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
    /// Of the ratio for a latency, else of what the engine does at the least.
    bar: &'static str,
}

const CASES: [Case; 3] = [
    Case {
        name: "lat",
        what: "64 B, there and back / send to stable",
        kind: Kind::Latency,
        size: 64,
        window: 64,
        bar: "at most 1.5",
    },
    Case {
        name: "100b",
        what: "stream of 64 KiB writes / 100 B, both send",
        kind: Kind::Small,
        size: 100,
        window: 16384,
        bar: "5 M/s",
    },
    Case {
        name: "10k",
        what: "10 KiB writes, read by the byte / 10 KiB, one sends",
        kind: Kind::Large,
        size: 10 << 10,
        window: 256,
        bar: "at least 0.8",
    },
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Over {
    Bare,
    Trusted,
    Sealed,
}

const OVER: [Over; 3] = [Over::Bare, Over::Trusted, Over::Sealed];

#[derive(Clone, Copy)]
struct Job {
    case: usize,
    over: usize,
    window: usize,
    seconds: f64,
    work: bool,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let number = |at: usize| args[at].parse::<f64>().expect("a number");
    if args.first().is_some_and(|arg| arg == "peer") {
        let [case, over, window] = [1, 2, 3].map(|at| number(at) as usize);
        let job = Job { case, over, window, seconds: number(4), work: false };
        let stream = TcpStream::connect(("127.0.0.1", number(5) as u16)).expect("the other end");
        pin(1).expect("a second core");
        end(job, 1, stream);
        return;
    }
    let option = |name: &str, default: f64| {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|at| args.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let (pairs, seconds) = (option("--pairs", 11.0) as usize, option("--seconds", 1.0));
    let window = option("--window", 0.0) as usize;
    let work = args.iter().any(|arg| arg == "--work");
    pin(0).expect("a core");
    let mut none = true;
    for (at, case) in CASES.iter().enumerate() {
        if args.iter().any(|arg| arg == case.name || arg == "all") {
            none = false;
            let window = if window == 0 { case.window } else { window };
            measure(case, pairs, |over| run(Job { case: at, over, window, seconds, work }));
        }
    }
    if none {
        eprintln!("usage: tcp [--pairs N] [--seconds S] [--window N] all | lat | 100b | 10k");
    }
}

fn measure(case: &Case, pairs: usize, run: impl Fn(usize) -> f64) {
    let mut figures: [Vec<f64>; 3] = Default::default();
    let mut ratios: [Vec<f64>; 2] = Default::default();
    for _ in 0..pairs {
        let [bare, trusted, sealed] = [0, 1, 2].map(&run);
        for (values, figure) in figures.iter_mut().zip([bare, trusted, sealed]) {
            values.push(figure);
        }
        ratios[0].push(trusted / bare);
        ratios[1].push(sealed / bare);
    }
    println!("{:5} {}; the bar: {}", case.name, case.what, case.bar);
    for (over, values) in OVER.iter().zip(&mut figures) {
        let text = match case.kind {
            Kind::Latency => spread(values, 1.0, "ns"),
            _ => {
                let messages = spread(values, 1e-6 / case.size as f64, "M/s");
                format!("{}   {messages}", spread(values, 1e-9, "GB/s"))
            }
        };
        println!("      {:8} {text}", format!("{over:?}"));
    }
    for (over, values) in OVER[1..].iter().zip(&mut ratios) {
        println!("      {:8} {}", format!("{over:?}"), spread(values, 1.0, "of bare"));
    }
}

fn spread(values: &mut [f64], scale: f64, unit: &str) -> String {
    values.sort_by(f64::total_cmp);
    let [low, middle, high] = [0, values.len() / 2, values.len() - 1].map(|at| values[at] * scale);
    format!("{middle:.3} ({low:.3} - {high:.3}) {unit}")
}

/// One end here, one in a process of its own; the figure of this one.
fn run(job: Job) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = listener.local_addr().expect("bound").port();
    let numbers = [job.case as f64, job.over as f64, job.window as f64, job.seconds, port.into()];
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.arg("peer").args(numbers.map(|of| of.to_string())).stdout(Stdio::piped());
    let mut child = Ended(command.spawn().expect("this program starts again"));
    let figure = end(job, 0, listener.accept().expect("the other end").0);
    let mut said = String::new();
    let output = child.0.stdout.take().expect("piped");
    BufReader::new(output).read_line(&mut said).expect("a line, or the end");
    assert!(child.0.wait().expect("our child").success(), "the other end failed");
    match said.trim().parse::<f64>() {
        Ok(theirs) if job.work => figure.min(theirs),
        _ => figure,
    }
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn end(job: Job, rank: u16, stream: TcpStream) -> f64 {
    stream.set_nodelay(true).expect("a socket");
    stream.set_nonblocking(true).expect("a socket");
    let kind = CASES[job.case].kind;
    match (OVER[job.over], kind) {
        (Over::Bare, Kind::Latency) => bare_latency(job, rank, stream),
        (Over::Bare, Kind::Small) => bare_stream(job, rank, stream, 64 << 10, false),
        (Over::Bare, Kind::Large) => bare_stream(job, rank, stream, 10 << 10, true),
        (_, Kind::Latency) => latency(job, rank, stream),
        _ => rate(job, rank, stream),
    }
}

// ---- bare sockets ----

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
    median(job, || {
        let begin = ticks();
        assert_eq!(stream.write(&bytes).expect("room for a message"), bytes.len());
        assert!(read_all(&mut stream, &mut bytes), "the other end has gone");
        ticks() - begin
    })
}

/// Bytes per second that arrive at rank 0.
fn bare_stream(job: Job, rank: u16, mut stream: TcpStream, write: usize, touch: bool) -> f64 {
    let mut bytes = vec![1; 64 << 10];
    let (mut at, mut total) = (0, 0u64);
    counted(job, rank, || {
        let moved = match rank {
            0 => stream.read(&mut bytes),
            _ => stream.write(&bytes[at..write]),
        };
        let (moved, over) = match moved {
            Ok(moved) => (moved, moved == 0),
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => (0, false),
            Err(_) => (0, true),
        };
        match rank {
            0 if touch => {
                black_box(sum(&bytes[..moved]));
            }
            0 => {}
            _ => at = (at + moved) % write,
        }
        if moved == 0 {
            spin_loop();
        }
        total += moved as u64;
        Round { count: total, busy: moved > 0, over }
    })
}

#[inline(never)]
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8);
    let rest: u64 = words.remainder().iter().map(|byte| u64::from(*byte)).sum();
    words.map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes"))).fold(rest, |a, b| a ^ b)
}

/// The median of what `round` takes, in ns.
fn median(job: Job, mut round: impl FnMut() -> u64) -> f64 {
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
            if rank == 1 {
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

struct Member {
    group: Group,
    sender: Option<Sender>,
    delivered: Arc<Delivered>,
}

impl Member {
    /// Connects as a handshake would have; shows, sees and enters the first view.
    fn new(job: Job, rank: u16, stream: TcpStream) -> Member {
        let case = &CASES[job.case];
        let mut config = Config::new("tcp-bench", rank, 2);
        config.idle = Idle::Spin;
        let subgroup = &mut config.subgroups[0];
        (subgroup.window, subgroup.message_bytes_max) = (job.window as u32, case.size as u32);
        subgroup.senders = match case.kind {
            Kind::Latency => Some(vec![0]),
            Kind::Small => None,
            Kind::Large => Some(vec![1]),
        };
        let view = config.view().expect("a configuration");
        let layout = view.layout();
        let sends = |rank: u16| view.subgroups[0].senders.iter().any(|of| of.rank.0 == rank);
        let setup = Setup {
            measures: Measures::of(&layout),
            beat_at: layout.beat.byte(0),
            closed_at: layout.closed.byte(0),
            parks: false,
            views: false,
        };
        let mut tcp = Tcp::new(setup).expect("a fabric");
        let (peer, epoch) = (Peer(1 - rank), Epoch(1));
        let key = |of: u16| [of as u8 + 1; 32];
        let keys = Keys { send: key(rank), receive: key(1 - rank) };
        let keys = (OVER[job.over] == Over::Sealed).then_some(keys);
        let channel = Channel::of(stream, u64::from(2 - rank), keys).expect("a socket");
        tcp.connect_as(peer, channel).expect("a connection");
        let mine: &[usize] = if sends(rank) { &[0] } else { &[] };
        let own = tcp.own(epoch, mine).expect("memory");
        Group::prepare(&own.block);
        tcp.show(epoch, peer, mine).expect("it is told");
        let ring = sends(1 - rank).then(|| layout.rings_bytes(0));
        let sizes = Sizes { block: layout.control_bytes, rings: vec![ring] };
        let theirs: Memory = loop {
            tcp.poll(true, &mut Events::default());
            match tcp.shown(peer, epoch, &sizes).unwrap() {
                Shown::Memory(memory) => break memory,
                Shown::Waits => {}
                Shown::Never => panic!("the other end has gone"),
            }
        };
        let (mut memories, mut peers) = (vec![own, theirs], [None, Some(peer)]);
        if rank == 1 {
            memories.reverse();
            peers.reverse();
        }
        let blocks: Vec<_> = memories.iter().map(|memory| memory.block.clone()).collect();
        tcp.enter(epoch, Rank(rank), &peers, &blocks);
        let delivered = Arc::new(Delivered::default());
        let deliver = application(rank, case.kind, delivered.clone());
        let group = Group::over(&config, &memories, Box::new(tcp), None, Box::new(deliver));
        let mut group = group.expect("a group");
        Member { sender: group.sender(0, 0), group, delivered }
    }
}

fn application(
    rank: u16,
    kind: Kind,
    delivered: Arc<Delivered>,
) -> impl FnMut(u16, &[Message]) + Send {
    let mut next = [0u64; 2];
    move |_, batch| {
        delivered.at.store(ticks(), Relaxed);
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
        delivered.all.store(delivered.all.load(Relaxed) + batch.len() as u64, Relaxed);
        delivered.own.store(delivered.own.load(Relaxed) + own, Relaxed);
    }
}

fn latency(job: Job, rank: u16, stream: TcpStream) -> f64 {
    let Member { mut group, sender, delivered } = Member::new(job, rank, stream);
    if rank == 1 {
        while group.turn(u32::MAX).is_ok() {}
        return 0.0;
    }
    let (mut sender, mut sent) = (sender.expect("rank 0 sends"), 0u64);
    let mut bytes = vec![1; CASES[job.case].size];
    let figure = median(job, || {
        bytes[..8].copy_from_slice(&sent.to_le_bytes());
        sent += 1;
        let begin = ticks();
        sender.send(&bytes).expect("room for a message");
        while delivered.own.load(Relaxed) < sent {
            group.turn(u32::MAX).expect("the other end is there");
        }
        delivered.at.load(Relaxed) - begin
    });
    group.close();
    figure
}

/// Bytes of messages delivered here a second.
fn rate(job: Job, rank: u16, stream: TcpStream) -> f64 {
    const BURST: usize = 64;
    const BURST_BYTES: usize = 16 << 10;
    let Member { mut group, mut sender, delivered } = Member::new(job, rank, stream);
    let size = CASES[job.case].size;
    let burst = (BURST_BYTES / size).clamp(1, BURST);
    let (mut bytes, mut sent) = (vec![1; burst * size], 0u64);
    let figure = counted(job, rank, || {
        // A quarter of the window at the most: then both ends are always at work.
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
        Round { count: size as u64 * delivered.all.load(Relaxed), busy, over }
    });
    group.close();
    figure
}
