// SPDX-License-Identifier: MIT OR Apache-2.0
//! Faults planted in the transfer: each must be found by one of its checks.

use super::tests::{
    early_answers, flipped_bits, floods, liars, misplaced_frames, old_answers, restless_waits,
    worlds_that_overflow, worlds_with_room,
};
use crate::mutants::{caught, plant};

type Check = fn() -> Result<(), String>;

/// Every fault of this kind, with what it breaks and what must find it.
const MUTANTS: &[(&str, &str, Check)] = &[
    ("transfer-overflow-unseen", "K1: what is not sent is not written over", worlds_that_overflow),
    ("transfer-end-before-tail", "the end is said after what it ends", worlds_with_room),
    ("transfer-message-left-out", "E1: every message after the checkpoint", worlds_with_room),
    ("transfer-goes-on-when-broken", "C2: a broken tape starts over", worlds_that_overflow),
    ("transfer-joins-early", "C3: the join waits for the bounds", worlds_with_room),
    ("transfer-old-answer-counts", "C3: of this attempt", old_answers),
    ("transfer-early-answer-counts", "C3: of what is loaded", early_answers),
    ("transfer-payload-unchecked", "J1: payloads", flipped_bits),
    ("transfer-head-unchecked", "J1: heads", flipped_bits),
    ("transfer-sequence-unchecked", "J1: order of frames", misplaced_frames),
    ("transfer-totals-unchecked", "J3: the totals agree", liars),
    ("transfer-near-unsaid", "C3: the joiner is told", worlds_with_room),
    ("transfer-syncs-unbounded", "J4: answers are bounded", floods),
    ("transfer-short-waits-uncounted", "patience ends though others ring", restless_waits),
    ("transfer-finals-unchecked", "J3: the end comes after what it ends", liars),
];

#[test]
fn each_dies() {
    let mut survivors = Vec::new();
    for (name, rule, check) in MUTANTS {
        plant(Some(name));
        let found = caught(check);
        plant(None);
        match found {
            Ok(Ok(())) => survivors.push((name, rule)),
            Ok(Err(text)) => println!("{name:32} {text}"),
            Err(_) => println!("{name:32} an assertion"),
        }
    }
    assert!(survivors.is_empty(), "no check sees {survivors:?}");
}

#[test]
fn each_is_listed() {
    let mut planted = Vec::new();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/transfer");
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        let names = text.split("mutant!(\"").skip(1).filter_map(|part| part.split('"').next());
        planted.extend(names.filter(|name| name.starts_with("transfer-")).map(str::to_owned));
    }
    planted.sort();
    planted.dedup();
    let mut listed: Vec<&str> = MUTANTS.iter().map(|(name, ..)| *name).collect();
    listed.sort_unstable();
    assert_eq!(planted, listed);
}
