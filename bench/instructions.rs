// SPDX-License-Identifier: MIT OR Apache-2.0
//! Instructions per message and member, counted by callgrind: two members in one process, turned
//! by hand in one thread, through the C door.
//!
//! `cargo bench --bench instructions` runs itself under valgrind at batches 1, 16 and 256, each with
//! N and with 10 N rounds, so that opening and closing cancel out. `-- --functions` lists where they
//! go. A *message and member* is one message delivered at one of the two members: sending is in it.

#[path = "member.rs"]
#[allow(dead_code, reason = "the other programs of this folder use the rest")]
mod member;

use member::{Door, Job, Kind, Seen};
use squall::capi::*;
use std::process::Command;

const ROUNDS: u64 = 200;
const SIZE: usize = 100;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if args.first().is_some_and(|arg| arg == "turn") {
        let number = |at: usize| args[at].parse().expect("a number");
        return turn_two(number(1), number(2) as usize);
    }
    let functions = args.iter().any(|arg| arg == "--functions");
    for batch in [1, 16, 256] {
        let few = count(ROUNDS, batch, false);
        let many = count(10 * ROUNDS, batch, functions);
        let (Some(few), Some(many)) = (few, many) else {
            println!("SKIPPED: valgrind does not run here");
            return;
        };
        let delivered = (9 * ROUNDS * batch * 2 * 2) as f64;
        let each = (many - few) as f64 / delivered;
        println!("batch {batch:3}: {each:7.1} instructions per message and member");
    }
}

/// Instructions of one run, as callgrind counts them.
fn count(rounds: u64, batch: u64, functions: bool) -> Option<u64> {
    let exe = std::env::current_exe().ok()?;
    let out = std::env::temp_dir().join(format!("squall-callgrind-{}", std::process::id()));
    let ran = Command::new("valgrind")
        .args(["--tool=callgrind", &format!("--callgrind-out-file={}", out.display())])
        .arg(exe)
        .args(["turn", &rounds.to_string(), &batch.to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&ran.stderr);
    let line = text.lines().find(|line| line.contains("Collected"))?;
    if functions {
        let listing = Command::new("callgrind_annotate").arg(&out).output().ok()?;
        let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
        listing.lines().filter(|l| l.contains('%')).take(16).for_each(|l| println!("    {l}"));
    }
    let _ = std::fs::remove_file(&out);
    line.rsplit(' ').next()?.parse().ok()
}

/// Two members by hand: each sends a batch, then both are polled until all of it is delivered.
fn turn_two(rounds: u64, batch: usize) {
    let job = |rank| Job {
        group: format!("instructions-{}", std::process::id()),
        rank,
        members: 2,
        senders: 2,
        size: SIZE,
        window: 1024,
        seconds: 0.0,
        kind: Kind::Rate,
    };
    let payload = vec![0x5au8; SIZE];
    let mut seen: Vec<Box<Seen>> = (0..2).map(|_| Box::new(Seen::new())).collect();
    let mut groups = [0; 2];
    std::thread::scope(|scope| {
        for (rank, (group, seen)) in groups.iter_mut().zip(&mut seen).enumerate() {
            let payload = &payload;
            scope.spawn(move || *group = member::open(&job(rank), SQUALL_IDLE_SPIN, payload, seen));
        }
    });
    let door = Door::new();
    let mut payloads = [payload.clone(), payload];
    for round in 0..rounds {
        for (group, payload) in groups.iter().zip(&mut payloads) {
            for i in 0..batch as u64 {
                let sequence = round * batch as u64 + i;
                payload[..8].copy_from_slice(&sequence.to_le_bytes());
                // SAFETY: the payload has that many bytes.
                let sent = unsafe { (door.send)(*group, 0, payload.as_ptr().cast(), SIZE as u32) };
                assert!(sent >= 0, "the window is larger than a batch");
            }
        }
        let due = (round + 1) * batch as u64 * 2;
        while seen.iter().any(|seen| seen.messages < due) {
            for group in &groups {
                (door.poll)(*group, u32::MAX);
            }
        }
    }
    for group in groups {
        squall_group_close(group);
    }
}
