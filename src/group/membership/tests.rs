// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each rule by itself, and the explorer's runs.

use super::explorer::{Plan, explore, explore_plan};
use std::collections::BTreeMap;

fn seeds() -> u64 {
    std::env::var("SQUALL_VIEW_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3_000)
}

#[test]
fn no_schedule_breaks_a_property() {
    let mut tally: BTreeMap<String, u64> = BTreeMap::new();
    let first = std::env::var("SQUALL_VIEW_FIRST").ok().and_then(|t| t.parse().ok()).unwrap_or(1);
    for seed in first..first + seeds() {
        let (broken, world) = explore(seed);
        if let Some(broken) = broken {
            panic!("seed {seed}: {broken}\n{:?}", world.plan);
        }
        for (what, count) in world.tally {
            *tally.entry(what).or_insert(0) += count;
        }
        *tally.entry("steps".into()).or_insert(0) += world.net.borrow().step;
        *tally.entry("words landed in a poll".into()).or_insert(0) += world.net.borrow().in_poll;
    }
    for (what, count) in tally {
        println!("{count:>10} {what}");
    }
}

/// `SQUALL_VIEW_SEED=7`: that seed's story.
#[test]
fn one_seed_on_request() {
    let Ok(seed) = std::env::var("SQUALL_VIEW_SEED") else { return };
    let (broken, world) = explore_plan(Plan::new(seed.parse().unwrap()), true, |_| None);
    println!("{:?}\n{}\n{broken:?}", world.plan, world.trail.join("\n"));
}
