// SPDX-License-Identifier: MIT OR Apache-2.0
//! Faults planted in the log: each must be found by one of its checks.

use super::tests::CHECKS;
use crate::mutants::{caught, plant};

/// Every fault of this kind, with what it breaks.
const MUTANTS: &[(&str, &str)] = &[
    ("log-durable-before-sync", "W1: durable after the sync"),
    ("log-noted-before-sync", "V2: what is noted was durable"),
    ("log-sync-retried", "W2, D3: a failed sync is not asked again"),
    ("log-goes-on-after-a-failure", "W2: fail-stop"),
    ("log-left-unsynced", "W3: a segment is synced before the next one"),
    ("log-segment-not-synced", "W3: a segment is there before it is written"),
    ("log-name-not-synced", "W3, D2: so is its name"),
    ("log-short-write-ignored", "what a call leaves over is written"),
    ("log-anchor-written-over", "the anchor's newest slot stays"),
    ("log-anchor-written-once", "O3: what is over does not begin again"),
    ("log-garbage-is-a-record", "V1: heads"),
    ("log-torn-payload-accepted", "V1: payloads"),
    ("log-chain-unchecked", "V1: the chain"),
    ("log-damage-is-a-tail", "V2: what was durable is no torn tail"),
    ("log-tail-not-erased", "V3: a torn tail is erased"),
    ("log-opened-unsynced", "O1: what is found is durable"),
    ("log-cache-believed", "O1, D3: what is found is on the disk"),
    ("log-trims-unmarked", "T1: the anchor says it first"),
    ("log-trims-one-over", "what is to be kept is kept"),
    ("log-erases-unmarked", "T1, O3: what is erased stays away"),
    ("log-reader-begins-late", "the first record of a version"),
    ("log-repair-unchained", "a repair is what was lost"),
    ("log-slots-freed-early", "L1: appended after the write"),
    ("log-frontier-before-sync", "L2: durable after the sync"),
];

#[test]
fn each_dies() {
    let mut survivors = Vec::new();
    for (name, rule) in MUTANTS {
        plant(Some(name));
        let found = CHECKS.iter().rev().find_map(|(check, run)| match caught(run) {
            Ok(Ok(())) => None,
            Ok(Err(text)) => Some(format!("{check}: {text}")),
            Err(_) => Some(format!("{check}: an assertion")),
        });
        plant(None);
        match found {
            Some(text) => println!("{name:28} {text}"),
            None => survivors.push((name, rule)),
        }
    }
    assert!(survivors.is_empty(), "no check sees {survivors:?}");
}

#[test]
fn each_is_listed() {
    let mut planted = Vec::new();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/log");
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        let names = text.split("mutant!(\"").skip(1).filter_map(|part| part.split('"').next());
        planted.extend(names.filter(|name| name.starts_with("log-")).map(str::to_owned));
    }
    planted.sort();
    planted.dedup();
    let mut listed: Vec<&str> = MUTANTS.iter().map(|(name, _)| *name).collect();
    listed.sort_unstable();
    assert_eq!(planted, listed);
}
