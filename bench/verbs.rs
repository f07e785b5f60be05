// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an RDMA device does for a bare program between two processes, and how near the engine comes.
//!
//! `cargo bench --bench verbs -- [CASE ...] [--seconds 1] [--times 20] [--pairs 5] [--device NAME]
//! [--to NAME] [--yield] [--no-bars]`; without a case, all that is raw; `--to`: the device of the other
//! process, if it is another one. Without a device it says SKIPPED; if a bar is missed, it fails.
//!
//! ```text
//! lat    64 B written there and back, each end polls its memory: nanoseconds, both ways
//! rate   64 B writes, one a doorbell; then 16 a doorbell
//! bw     64 KiB writes
//! lost   the other process is killed: time from the next write to its completion with an error
//! engine `squall perf` in pairs with its raw figures: latency, rate, bandwidth, against their bars
//! ```
//!
//! Each case starts the other process anew. Between hosts `squall perf` measures the same.

#[path = "verbs/engine.rs"]
mod engine;

use squall::driver::idle::pin;
use squall::fabric::verbs::device::Device;
use squall::fabric::verbs::gid::Choice;
use squall::fabric::verbs::queue::Manner;
use squall::fabric::verbs::raw::{Lost, Raw, TICKET_BYTES};
use squall::fabric::verbs::sys::Table;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

const CASES: [&str; 4] = ["lat", "rate", "bw", "lost"];
const SMALL: usize = 64;
const LARGE: usize = 64 << 10;
/// No trip has this word: the end of a ping-pong.
const STOP: u64 = 2;
/// Between two trips each byte of the word changes: half of one would be seen.
const EACH_BYTE: u64 = 0x0101_0101_0101_0101;
/// Every wait has an end, long after retries are over.
const PATIENCE: Duration = Duration::from_secs(60);

struct Options {
    seconds: f64,
    times: usize,
    pairs: usize,
    device: Option<String>,
    to: Option<String>,
    yields: bool,
    bars: bool,
    /// As they were found: this process pins itself to the first, and what it starts inherits that.
    cores: usize,
    /// Of the other process.
    core: usize,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let option = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1).cloned()
    };
    let number = |name: &str, default: f64| {
        option(name).map_or(default, |text| text.parse().expect("a number after an option"))
    };
    let asked = |name: &str| args.iter().any(|arg| arg == name);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = Options {
        seconds: number("--seconds", 1.0),
        times: number("--times", 20.0) as usize,
        pairs: number("--pairs", 5.0).max(1.0) as usize,
        device: option("--device"),
        to: option("--to").or_else(|| option("--device")),
        yields: asked("--yield"),
        bars: !asked("--no-bars"),
        cores,
        core: number("--core", (cores - 1).min(1) as f64) as usize,
    };
    if let Some(port) = option("other") {
        return other(&args[0], port.parse().expect("a port"), &options);
    }
    let device = match open(&options.device) {
        Ok(device) => device,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    println!("{}", device.line());
    if asked("engine") && !engine::measure(&options) {
        std::process::exit(1);
    }
    for case in CASES {
        let none = !asked("engine") && !CASES.iter().any(|case| asked(case));
        if asked(case) || asked("all") || none {
            match case {
                "lat" => latency(&device, &options),
                "rate" => rate(&device, &options),
                "bw" => bandwidth(&device, &options),
                _ => lost(&device, &options),
            }
        }
    }
}

fn open(name: &Option<String>) -> Result<Arc<Device>, String> {
    let choice = Choice { device: name.clone(), ..Choice::default() };
    let table = Table::load().map_err(|why| why.to_string())?;
    Device::open(&table, &choice).map_err(|why| why.to_string())
}

/// One of two processes, connected with the other.
struct End {
    raw: Raw,
    stream: TcpStream,
    yields: bool,
    /// Killed at the latest when this is dropped.
    child: Option<Child>,
}

impl Drop for End {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl End {
    /// The first, which starts the other one.
    fn start(case: &str, device: &Arc<Device>, options: &Options) -> End {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let port = listener.local_addr().expect("bound").port().to_string();
        let program = std::env::current_exe().expect("this program");
        let mut command = Command::new(program);
        command.args([case, "other", &port, "--core", &options.core.to_string()]);
        if let Some(name) = &options.to {
            command.args(["--device", name]);
        }
        if options.yields {
            command.arg("--yield");
        }
        let child = command.spawn().expect("this program starts again");
        let (stream, _) = listener.accept().expect("the other process");
        End::connect(device, stream, options.yields, Some(child))
    }

    fn connect(
        device: &Arc<Device>,
        mut stream: TcpStream,
        yields: bool,
        child: Option<Child>,
    ) -> End {
        stream.set_nodelay(true).expect("a socket");
        let mut raw = Raw::open(device, LARGE).expect("a queue pair");
        let mut ticket = [0; TICKET_BYTES];
        stream.write_all(&raw.ticket()).expect("the other process");
        stream.read_exact(&mut ticket).expect("its ticket");
        raw.connect(&ticket, &Manner::default()).expect("a connection");
        // Both receive before either sends.
        stream.write_all(&[1]).expect("the other process");
        stream.read_exact(&mut [0]).expect("it is connected");
        End { raw, stream, yields, child }
    }

    /// Called while there is nothing; whether to go on waiting.
    fn pause(&self) -> impl FnMut() -> bool + use<> {
        let (yields, until, mut round) = (self.yields, Instant::now() + PATIENCE, 0u32);
        move || {
            round = round.wrapping_add(1);
            if yields {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
            !round.is_multiple_of(1 << 16) || Instant::now() < until
        }
    }
}

/// The other process: answers, or is only there.
fn other(case: &str, port: u16, options: &Options) {
    let with_parent = Some(rustix::process::Signal::KILL);
    rustix::process::set_parent_process_death_signal(with_parent).expect("a signal");
    pin(options.core).expect("a core");
    let device = open(&options.device).expect("the device of the other process");
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("who has started this");
    let mut end = End::connect(&device, stream, options.yields, None);
    if case != "lat" {
        let _ = end.stream.read(&mut [0]); // until the first one is done
        return;
    }
    let mut last = 0;
    let mut pause = end.pause();
    while let Some(word) = end.raw.wait(SMALL, last, &mut pause) {
        if word == STOP {
            // What was written after it is answered as long as this end is there.
            let _ = end.stream.read(&mut [0]);
            return;
        }
        if !end.raw.write::<1>(SMALL, word, &mut pause).expect("an answer") {
            return;
        }
        last = word;
    }
}

fn latency(device: &Arc<Device>, options: &Options) {
    pin(0).expect("a core");
    let mut end = End::start("lat", device, options);
    let mut pause = end.pause();
    let mut taken = Vec::with_capacity(1 << 20);
    let start = Instant::now();
    for trip in 1u64.. {
        let word = trip.wrapping_mul(EACH_BYTE);
        let begin = Instant::now();
        end.raw.write::<1>(SMALL, word, &mut pause).expect("a write");
        let back = end.raw.wait(SMALL, word.wrapping_sub(EACH_BYTE), &mut pause);
        taken.push(begin.elapsed().as_nanos() as u64);
        assert_eq!(back, Some(word), "what comes back is whole");
        if start.elapsed().as_secs_f64() > 1.2 * options.seconds {
            break;
        }
    }
    end.raw.write::<1>(SMALL, STOP, &mut pause).expect("a write");
    end.raw.settle(STOP, &mut pause).expect("all is written");
    let warm = taken.len() / 6;
    let taken = &mut taken[warm..];
    taken.sort_unstable();
    let at = |part: f64| taken[((taken.len() - 1) as f64 * part) as usize] as f64 / 1000.0;
    let (count, [least, p50, p99]) = (taken.len(), [0.0, 0.5, 0.99].map(at));
    println!(
        "= lat: {SMALL} B there and back: p50 {p50:.1} us (least {least:.1}, p99 {p99:.1}; {count})"
    );
}

/// Writes a second.
fn stream<const COUNT: usize>(end: &mut End, bytes: usize, seconds: f64) -> f64 {
    let mut pause = end.pause();
    let (mut from, mut posted) = (None, 0u64);
    let start = Instant::now();
    for round in 1u64.. {
        end.raw.write::<COUNT>(bytes, round, &mut pause).expect("a write");
        posted += COUNT as u64;
        let now = start.elapsed().as_secs_f64();
        if from.is_none() && now > 0.2 * seconds {
            end.raw.settle(round, &mut pause).expect("all is written");
            (from, posted) = (Some(Instant::now()), 0);
        }
        if now > 1.2 * seconds {
            end.raw.settle(round, &mut pause).expect("all is written");
            break;
        }
    }
    posted as f64 / from.expect("the warm-up is over").elapsed().as_secs_f64()
}

fn rate(device: &Arc<Device>, options: &Options) {
    pin(0).expect("a core");
    let mut end = End::start("rate", device, options);
    let one = stream::<1>(&mut end, SMALL, options.seconds) / 1e3;
    let many = stream::<16>(&mut end, SMALL, options.seconds) / 1e3;
    println!("= rate: {SMALL} B: {one:.1} k/s, one a doorbell; {many:.1} k/s, 16 a doorbell");
}

fn bandwidth(device: &Arc<Device>, options: &Options) {
    pin(0).expect("a core");
    let mut end = End::start("bw", device, options);
    let bytes = stream::<1>(&mut end, LARGE, options.seconds) * LARGE as f64;
    println!("= bw: {LARGE} B: {:.1} MB/s", bytes / 1e6);
}

fn lost(device: &Arc<Device>, options: &Options) {
    let mut taken: Vec<f64> = (0..options.times).map(|_| lost_once(device, options)).collect();
    taken.sort_by(f64::total_cmp);
    let (Some(least), Some(most)) = (taken.first(), taken.last()) else { return };
    let (p50, manner) = (taken[taken.len() / 2], Manner::default());
    let (timeout, retry) = (manner.timeout, manner.retry);
    println!(
        "= lost: retries exceeded after p50 {p50:.0} ms ({least:.0} - {most:.0}; {} kills; timeout \
         {timeout}, retry {retry})",
        taken.len()
    );
}

/// Milliseconds.
fn lost_once(device: &Arc<Device>, options: &Options) -> f64 {
    let mut end = End::start("lost", device, options);
    let mut pause = end.pause();
    assert_eq!(end.raw.settle(1, &mut pause), Ok(true), "the other process is there");
    let mut child = end.child.take().expect("it was started here");
    child.kill().expect("it is there");
    child.wait().expect("it has ended");
    let begin = Instant::now();
    let status: Result<bool, Lost> = end.raw.settle(2, &mut pause);
    assert!(status.is_err_and(Lost::is_silence), "{status:?}");
    begin.elapsed().as_secs_f64() * 1e3
}
