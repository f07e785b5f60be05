// SPDX-License-Identifier: MIT OR Apache-2.0
//! One planted fault per ordering rule: the world must find each, or it would not find the like.

use super::report::Violation;
use super::world::run_seed;
use crate::mutants::plant;
use std::sync::Mutex;
use std::time::Instant;

/// Every fault that is planted somewhere in the code, with the rule that it breaks.
const MUTANTS: &[(&str, &str)] = &[
    ("count-before-bytes", "W: the slot's bytes before its count"),
    ("index-not-written", "M1: a run says the index of its first message"),
    ("freed-one-over", "S: of a run only the released part is free"),
    ("reserve-skips-a-member", "S: all members must have released a slot"),
    ("reserve-ignores-window", "G2: at most a window of slots"),
    ("reserve-ignores-bytes", "G2: at most the ring's bytes"),
    ("easy-path-ignores-bytes", "G2: what follows the head in one piece ends at the tail"),
    ("reserve-leaves-the-easy-path-open", "a lane that holds a reservation cannot send"),
    ("freed-before-taken", "T: no index is read before it is written"),
    ("abort-sends", "what is aborted nobody hears of"),
    ("slots-observed-before-head", "M2: guards first"),
    ("head-published-before-slots", "M2: slots before head"),
    ("null-rule-one-short", "M4: nobody's delivery waits for a null"),
    ("null-rule-one-over", "M4: an idle group is still"),
    ("prefix-counts-own-heads-only", "M3: the prefix covers only what is here"),
    ("prefix-observed-twice", "T2, M3: each prefix is read once"),
    ("stable-skips-a-member", "M3: stable is the least prefix of all"),
    ("deliver-when-received", "M3: nothing above stable is delivered"),
    ("released-before-callback", "released moves after the callback"),
    ("released-before-delivered", "released covers what was handed out, not what may be"),
    ("released-under-the-wrong-sender", "received mode releases by sender"),
    ("words-posted-before-spans", "O1: spans, then slots, then head"),
    ("second-span-of-a-wrap-forgotten", "O1: a wrapped range is two spans"),
    ("streams-beyond-its-room", "G2: what is streamed to the end of its line has that line"),
    ("loose-slots-are-overlooked", "W: what is published without a fence is taken up, too"),
    ("descriptors-not-sent", "O1: descriptors before `slots`"),
    ("full-peer-loses-its-span", "O2: a full peer misses nothing"),
    ("counter-posted-by-reference", "F3: words land with the values posted"),
    ("room-is-not-told", "a peer without room hears of `released`"),
    ("refusal-rings-nobody", "P: a refused sender's poller hears that it waits"),
    ("ends-at-the-first-silence", "after a farewell all deliver what the departed had"),
    ("ends-without-its-last-posts", "who ends has told the others all it knows"),
    ("sleep-without-looking-again", "P: say asleep, look, sleep"),
];

/// Seeds after which a fault counts as not found.
const SEEDS_MAX: u64 = 10_000;

struct Kill {
    name: &'static str,
    seeds: u64,
    millis: u128,
    violation: Option<Violation>,
}

/// Runs a seed.
type Run = fn(u64) -> Option<Violation>;

fn hunt(name: &'static str, run: Run, seeds_max: u64) -> Kill {
    let start = Instant::now();
    plant(Some(name));
    let found = (1..=seeds_max).find_map(|seed| Some((seed, run(seed)?)));
    plant(None);
    let millis = start.elapsed().as_millis();
    let (seeds, violation) = found.map_or((seeds_max, None), |(seed, found)| (seed, Some(found)));
    Kill { name, seeds, millis, violation }
}

/// Hunts each of those faults, and prints how many seeds it took. Those that were not found.
pub fn survivors(
    mutants: &[(&'static str, &'static str)],
    run: Run,
    seeds_max: u64,
) -> Vec<&'static str> {
    let todo = Mutex::new(mutants.iter());
    let kills = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some((name, _)) = todo.lock().unwrap().next() else { return };
                    let kill = hunt(name, run, seeds_max);
                    kills.lock().unwrap().push(kill);
                }
            });
        }
    });
    let kills = kills.into_inner().unwrap();
    let mut survivors = Vec::new();
    for (name, rule) in mutants {
        let Kill { seeds, millis, violation, .. } =
            kills.iter().find(|kill| kill.name == *name).unwrap();
        let Some(violation) = violation else {
            println!("{name:32} SURVIVED {seeds} seeds ({rule})");
            survivors.push(*name);
            continue;
        };
        let detail: String = violation.detail.replace('\n', " ").chars().take(70).collect();
        println!("{name:32} {seeds:>4} seeds {millis:>6} ms  {}: {detail}", violation.property);
    }
    survivors
}

#[test]
fn each_dies() {
    let survivors = survivors(MUTANTS, |seed| run_seed(seed, |_| ()), SEEDS_MAX);
    assert!(survivors.is_empty(), "no property sees {survivors:?}");
}

/// The list above is the list of faults in the code.
#[test]
fn each_is_listed() {
    let mut planted = Vec::new();
    let mut places = vec![std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(place) = places.pop() {
        if place.is_dir() {
            places.extend(std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = std::fs::read_to_string(&place).unwrap_or_default();
        if place.ends_with("sim/mutants.rs") || place.ends_with("src/mutants.rs") {
            continue;
        }
        for part in text.split("mutant!(\"").skip(1) {
            planted.extend(part.split('"').next().map(str::to_owned));
        }
    }
    // Faults that only another thread can see are found in `sst/loom_tests.rs`.
    planted.retain(|name| !name.starts_with("loom-"));
    planted.retain(|name| !name.starts_with("view-")); // in `group/membership/mutants.rs`
    planted.retain(|name| !name.starts_with("wire-")); // in `sim/views/mutants.rs`
    planted.retain(|name| !name.starts_with("lane-")); // in `sst/lane/tests.rs`
    planted.retain(|name| !name.starts_with("detect-")); // in `group/detector/tests.rs`
    planted.retain(|name| !name.starts_with("transfer-")); // in `transfer/mutants.rs`
    planted.retain(|name| !name.starts_with("state-")); // in `driver/state/tests.rs`
    planted.retain(|name| !name.starts_with("spare-")); // in `driver/spare/tests.rs`
    planted.retain(|name| !name.starts_with("found-")); // in `driver/join/found/words/tests.rs`
    planted.retain(|name| !name.starts_with("shm-")); // in `fabric/shm/exchange/tests.rs`
    planted.retain(|name| !name.starts_with("tcp-")); // in `fabric/tcp/exchange/tests.rs`
    planted.retain(|name| !name.starts_with("verbs-")); // in tests of `fabric/verbs`
    planted.retain(|name| !name.starts_with("memory-")); // in `registered/tests.rs`
    planted.retain(|name| !name.starts_with("log-")); // in `log/mutants.rs`
    planted.retain(|name| !name.starts_with("cuda-")); // in `mem/cuda/tests.rs`
    planted.sort();
    planted.dedup();
    let mut listed: Vec<&str> = MUTANTS.iter().map(|(name, _)| *name).collect();
    listed.sort_unstable();
    assert_eq!(planted, listed);
}
