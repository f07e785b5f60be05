// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tape of `tape.rs` in every interleaving and with every value that the memory model allows:
//! K2 in both directions, K3 when it breaks, K4 when it begins anew, and the order of the end.
//!
//! Payload words are tracked: an access that nothing orders is reported as a race. Each direction
//! has a planted fault that must be found.

use super::tape::{Reader, Writer, tape};
use crate::mem::Cell;
use crate::mutants::plant;
use loom::thread;
use std::sync::Arc;

const PREEMPTIONS: usize = 3;

fn put(writer: &mut Writer, value: u64) -> bool {
    let fits = writer.takes() && writer.has_room(32);
    if fits {
        writer.write(&[value.to_le_bytes(); 4].concat());
        writer.count_message();
    }
    fits
}

/// The next record, if there is one.
fn get(reader: &mut Reader) -> Option<u64> {
    let bytes = reader.peek(32);
    if bytes.is_empty() {
        return None;
    }
    let value = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(bytes, [value.to_le_bytes(); 4].concat(), "a whole record");
    reader.release(32);
    Some(value)
}

fn explore(fault: Option<&'static str>, run: fn()) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    plant(fault);
    builder.check(run);
    plant(None);
}

/// Three records through room for two; the end comes with the last.
fn three_records() {
    let (mut writer, mut reader) = tape(64);
    writer.begin();
    let polling = thread::spawn(move || {
        let mut sent = 0;
        while sent < 3 && put(&mut writer, sent + 1) {
            sent += 1;
            if sent < 3 {
                writer.publish();
            }
        }
        let takes = writer.takes();
        if takes {
            writer.end();
        }
        (sent, takes)
    });
    let mut came = 0;
    let ended = loop {
        let end = reader.end();
        match get(&mut reader) {
            Some(value) => {
                came += 1;
                assert_eq!(value, came);
            }
            None if end.is_some() => break true,
            None if reader.is_broken(1) => break false,
            None => thread::yield_now(),
        }
    };
    while get(&mut reader).is_some() {
        came += 1;
    }
    let (sent, takes) = polling.join().unwrap();
    assert_eq!((sent, takes), (came, ended), "nothing is lost without a word");
}

/// The writer breaks the tape; the reader discards it and asks; what comes then is the new part.
fn begun_anew() {
    let (mut writer, mut reader) = tape(64);
    let asks = Arc::new(Cell::new(0));
    let asked = asks.clone();
    writer.begin();
    let polling = thread::spawn(move || {
        while put(&mut writer, 1) {
            writer.publish();
        }
        while asked.observe() == 0 {
            thread::yield_now();
        }
        writer.begin();
        assert!(put(&mut writer, 2));
        writer.publish();
    });
    while !reader.is_broken(1) {
        thread::yield_now();
    }
    reader.discard();
    asks.publish(1);
    let value = loop {
        match get(&mut reader) {
            Some(value) => break value,
            None => thread::yield_now(),
        }
    };
    assert_eq!(value, 2);
    polling.join().unwrap();
}

#[test]
fn loom_transfer_tape() {
    explore(None, three_records);
}

#[test]
fn loom_transfer_tape_begun_anew() {
    explore(None, begun_anew);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn loom_finds_a_tape_announced_without_release() {
    explore(Some("loom-transfer-tail-relaxed"), three_records);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn loom_finds_a_tape_given_back_without_release() {
    explore(Some("loom-transfer-released-relaxed"), three_records);
}

#[test]
#[should_panic(expected = "nothing is lost without a word")]
fn loom_finds_an_end_said_too_early() {
    explore(Some("transfer-end-before-tail"), three_records);
}
