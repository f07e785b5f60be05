// SPDX-License-Identifier: MIT OR Apache-2.0
//! What durability costs beside the disk itself: a lone message, and as many as there is room for.
//!
//! `cargo bench --bench log`. From the environment: `LOG_DIR` (a folder on the disk in question; default
//! the one for temporary files), `PAIRS` (11), `LONE` messages of a round (200), `MIB` of a round (128).
//! The log and the floor take turns, and medians of the rounds' medians and rates are printed:
//!
//! - *lone*: 1 KiB, then durable, then the next. The log: submit until the frontier covers it, with the
//!   log thread; and append and sync without a thread. The floor: `write` at the end of a file and
//!   `fdatasync`; and `pwrite` over what is written already, which is the least that a disk does.
//! - *throughput*: messages of 1 KiB through the log thread. The floor: `pwritev` of 1 MiB and
//!   `fdatasync`, at the end of a file.
//! - *opening*: a log of so much, beside reading its files, caches dropped by the log itself.

use rustix::io::pwrite;
use squall::base::{Epoch, Number};
use squall::log::{
    Entry, Kind, Label, Log, LogThread, Options, Reader, RealDisk, Start, Version, Writing,
};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

const MESSAGE: usize = 1024;
const MIB: usize = 1 << 20;

fn main() {
    let base = std::env::var_os("LOG_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = Folder(base.join(format!("squall-bench-log-{}", std::process::id())));
    std::fs::create_dir_all(&folder.0).expect("a folder on the disk in question");
    let (pairs, lone) = (or("PAIRS", 11), or("LONE", 200));
    let mib = or("MIB", 128);
    println!("{pairs} pairs in {}; {lone} lone messages, {mib} MiB a round", folder.0.display());
    let mut seen: [Vec<f64>; 6] = Default::default();
    for pair in 0..pairs {
        let path = |what: &str| folder.0.join(format!("{what}-{pair}"));
        let figures = [
            lone_thread(&path("thread"), lone),
            lone_log(&path("log"), lone),
            lone_append(&path("append"), lone),
            lone_over(&path("over"), lone),
            stream_thread(&path("stream"), mib),
            stream_raw(&path("raw"), mib),
        ];
        for (seen, figure) in seen.iter_mut().zip(figures) {
            seen.push(figure);
        }
        if pair + 1 == pairs {
            opening(&path("stream"), mib);
        }
        for what in ["thread", "log", "stream"] {
            let _ = std::fs::remove_dir_all(path(what));
        }
    }
    let [thread, log, append, over, stream, raw] = seen.map(median);
    println!("lone 1 KiB, p50 us: log thread {thread:.0}, log {log:.0}");
    println!("             floor: append + fdatasync {append:.0}, over + fdatasync {over:.0}");
    println!(
        "             log thread / append {:.2}, / over {:.2}",
        thread / append,
        thread / over
    );
    println!("1 KiB messages, MiB/s: log thread {stream:.0}; 1 MiB + fdatasync {raw:.0}");
    println!("             log thread / floor {:.2}", stream / raw);
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn or(key: &str, default: usize) -> usize {
    std::env::var(key).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Microseconds at the median of so many.
fn each(count: usize, mut what: impl FnMut(usize)) -> f64 {
    let timed = (0..count).map(|at| {
        let start = Instant::now();
        what(at);
        start.elapsed().as_secs_f64() * 1e6
    });
    median(timed.collect())
}

fn log_at(path: &Path) -> Log<RealDisk> {
    let disk = RealDisk::at(path).expect("a folder of the log's own");
    Log::open(disk, Options { identity: 1, ..Options::default() }).expect("a log").0
}

fn label(number: u64) -> Label {
    let version = Version { epoch: Epoch(1), number: Number(number) };
    Label { kind: Kind::Message, flags: 0, rank: 0, lane: 0, seat: 0, version, stamp: number }
}

fn lone_thread(path: &Path, lone: usize) -> f64 {
    let bytes = [7; MESSAGE];
    let logs = vec![log_at(path)];
    let mut thread = LogThread::start(logs, Writing::default(), || ()).expect("a thread");
    let time = each(lone, |at| {
        let mut lot = thread.lot().expect("the last one is durable");
        lot.push(label(at as u64), &bytes);
        thread.submit(0, lot);
        while thread.durable(0) <= at as u64 {
            std::thread::yield_now();
        }
    });
    thread.close().expect("a disk");
    time
}

fn lone_log(path: &Path, lone: usize) -> f64 {
    let bytes = [7; MESSAGE];
    let mut log = log_at(path);
    each(lone, |at| {
        let entry = Entry { label: label(at as u64), payload: &bytes };
        log.append(&[entry][..]).and_then(|()| log.sync()).expect("a disk");
        log.rest().expect("a disk");
    })
}

fn lone_append(path: &Path, lone: usize) -> f64 {
    let mut file = File::create(path).expect("a file");
    let time = each(lone, |_| {
        file.write_all(&[7; MESSAGE]).expect("a disk");
        file.sync_data().expect("a disk");
    });
    let _ = std::fs::remove_file(path);
    time
}

fn lone_over(path: &Path, lone: usize) -> f64 {
    let mut file = File::create(path).expect("a file");
    file.write_all(&vec![0; lone * MESSAGE]).and_then(|()| file.sync_all()).expect("a disk");
    let time = each(lone, |at| {
        pwrite(&file, &[7; MESSAGE], (at * MESSAGE) as u64).expect("a disk");
        file.sync_data().expect("a disk");
    });
    let _ = std::fs::remove_file(path);
    time
}

/// MiB of payloads in a second.
fn stream_thread(path: &Path, mib: usize) -> f64 {
    let bytes = vec![7; MIB];
    let messages = (mib * MIB / MESSAGE) as u64;
    let logs = vec![log_at(path)];
    let mut thread = LogThread::start(logs, Writing::default(), || ()).expect("a thread");
    let (start, mut next) = (Instant::now(), 0);
    while thread.durable(0) < messages {
        match thread.lot().filter(|_| next < messages) {
            Some(mut lot) => {
                while next < messages {
                    let from = next as usize * MESSAGE % MIB;
                    if !lot.push(label(next), &bytes[from..from + MESSAGE]) {
                        break;
                    }
                    next += 1;
                }
                thread.submit(0, lot);
            }
            None => std::thread::yield_now(),
        }
        assert!(thread.failure().is_none(), "{:?}", thread.failure());
    }
    let rate = mib as f64 / start.elapsed().as_secs_f64();
    thread.close().expect("a disk");
    rate
}

fn stream_raw(path: &Path, mib: usize) -> f64 {
    let bytes = vec![7; MIB];
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("a file");
    let start = Instant::now();
    for _ in 0..mib {
        file.write_all(&bytes).and_then(|()| file.sync_data()).expect("a disk");
    }
    let rate = mib as f64 / start.elapsed().as_secs_f64();
    let _ = std::fs::remove_file(path);
    rate
}

/// Opening what the last round has left, and verifying all of it.
fn opening(path: &Path, mib: usize) {
    let start = Instant::now();
    let log = log_at(path);
    let opened = start.elapsed();
    let start = Instant::now();
    let disk = RealDisk::at(path).expect("the log's folder");
    let mut reader = Reader::open(disk, Start::First).expect("a log");
    reader.verify(log.durable(), u64::MAX).expect("what was written");
    let verified = start.elapsed();
    let start = Instant::now();
    let entries = std::fs::read_dir(path).expect("the log's folder").flatten();
    let bytes: usize =
        entries.map(|entry| std::fs::read(entry.path()).map_or(0, |bytes| bytes.len())).sum();
    let read = start.elapsed();
    println!(
        "a log of {mib} MiB: opened in {opened:?}, verified in {verified:?}; its {bytes} bytes are \
         read from the cache in {read:?}"
    );
}
