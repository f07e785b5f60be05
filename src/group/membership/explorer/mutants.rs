// SPDX-License-Identifier: MIT OR Apache-2.0
//! One planted fault per rule and barrier: chance or a story must find each.
//!
//! Bugs of other systems (`protocol.md` §j, by number there) that are planted: 11 and 64 a join that
//! is asked for again (`view-joins-uncapped`, `view-member-joins-again`), 71 a view that is not the
//! same function everywhere, 108 a word read twice, 126 a takeover without barrier or adoption. 182,
//! a row that is read before it is written, does no harm: a blank row consents to nothing.
//!
//! Not planted, because the exhaustive search says that nothing breaks without them as long as the
//! others hold: counting consents under other ballots once the takeover barrier is kept, hearing a
//! suspect, ignoring frozen rows at takeover, not waiting for the others' echoes once one's own is
//! published, a joiner that begins without its sponsor's list, breaking
//! a tie before the other was seen. They stay in the code as second belts. Echoing a suspect's cut, which that search
//! finds, does no harm here: a cut is echoed in the poll that sees it, and an echo leaves before a
//! suspicion of the same poll.

use super::explore;
use super::oracle::Broken;
use super::stories::{STORIES, tell};
use crate::mutants::plant;
use std::time::Instant;

/// Every fault that is planted in this folder, with the rule that it breaks.
const MUTANTS: &[(&str, &str)] = &[
    ("view-ballot-is-rank", "R1: a ballot is a seniority, carried into the next view"),
    ("view-other-ballots-are-skipped", "R2: a row under another ballot consents to nothing"),
    ("view-joins-uncapped", "R3: majorities of neighbouring views meet"),
    (
        "view-cut-without-takeover-barrier",
        "R4: the cut waits for everyone's suspicion of those before",
    ),
    ("view-leaver-is-not-awaited", "R5: who leaves counts until the next view"),
    ("view-suspects-observed-last", "R6: guards first"),
    ("view-changes-before-records", "R6: records, then their count"),
    ("view-takeover-without-barrier", "R7: a new leader waits for everyone's suspicion of the old"),
    ("view-takeover-longest-list", "R7: the highest ballot, not the longest list"),
    ("view-removals-join-the-batch", "R7: removals are a batch of their own"),
    ("view-majority-is-half", "V2: a strict majority"),
    ("view-majority-untested", "V2: a minority stops"),
    ("view-barriers-trust-suspicion", "V4: barriers leave out only whose removal is agreed"),
    ("view-cut-before-all-are-wedged", "T1: a cut is of final receipts"),
    ("view-cut-recomputed", "T1, V5: a cut that was shown is copied"),
    ("view-cut-of-the-removed", "T1: of several cuts that of a member that is not removed"),
    ("view-cut-not-echoed", "T3, V6: echo before act"),
    ("view-install-without-ended", "T4: everyone has ended before anyone goes"),
    ("view-expelled-goes-on", "V1: who is suspected stops"),
    ("view-suspicions-stay-private", "V1: suspicion is viral"),
    ("view-member-joins-again", "j 11, 64: a request is one incarnation's, and served once"),
    ("view-cut-of-the-most", "T1: the least, and not the largest"),
    ("view-cut-of-my-receipts", "T1: a cut is the least receipt of all"),
    ("view-count-read-twice", "j 108, T2: each word is read once"),
    ("view-order-is-local", "j 71: the next view is the same function everywhere"),
    ("view-passing-is-not-heard", "T4: who passed tells those who wait for the dead"),
    ("view-version-is-mine", "a view runs at what all its members speak"),
    ("view-version-of-who-joins-is-mine", "a member speaks what it has said"),
    ("view-joiner-speaks-anything", "L4: who joins speaks the version at hand: it never falls"),
];

/// Found in the simulated world (`sim/views/mutants.rs`), where queues are full more often, and by
/// name in `membership/tests.rs`: the explorer's connections do not end before its members do.
const ELSEWHERE: [&str; 4] = [
    "view-before-is-forgotten",
    "view-goes-without-a-word",
    "view-passed-is-lost",
    "view-passed-suspects",
];

/// Seeds after which a fault counts as not found.
fn seeds_max() -> u64 {
    std::env::var("SQUALL_VIEW_MUTANT_SEEDS").ok().and_then(|t| t.parse().ok()).unwrap_or(20_000)
}

#[test]
fn each_view_mutant_dies() {
    let only = std::env::var("SQUALL_VIEW_MUTANT").unwrap_or_default();
    let mut survivors = Vec::new();
    for (name, rule) in MUTANTS.iter().filter(|(name, _)| name.contains(&only)) {
        let start = Instant::now();
        plant(Some(name));
        let story = STORIES.iter().find(|(of, ..)| of == name);
        let found = match story {
            Some((_, story, variants)) => tell(*story, *variants).map(|(_, broken)| (0, broken)),
            None => (1..=seeds_max()).find_map(|seed| Some((seed, explore(seed).0?))),
        };
        plant(None);
        let millis = start.elapsed().as_millis();
        let Some((seed, broken)) = found else {
            println!("{name:36} SURVIVED {} seeds ({rule})", seeds_max());
            survivors.push(name);
            continue;
        };
        let by = if story.is_some() { "story".into() } else { format!("{seed} seeds") };
        let what: String = broken.replace('\n', " ").chars().take(90).collect();
        println!("{name:36} {by:>11} {millis:>6} ms  {what}");
    }
    assert!(survivors.is_empty(), "no property sees {survivors:?}");
}

/// `SQUALL_VIEW_STORY=torn`: what happened in those.
pub fn show(trail: &[String], outcome: &Result<(), Broken>) {
    if std::env::var("SQUALL_VIEW_STORY").is_ok() {
        println!("{}\n{outcome:?}\n", trail.join("\n"));
    }
}

#[test]
fn stories_end_well_and_each_fault_spoils_its_own() {
    let mut harmless: Vec<&str> = Vec::new();
    let only = std::env::var("SQUALL_VIEW_STORY").unwrap_or_default();
    for (name, story, variants) in STORIES.iter().filter(|(name, ..)| name.contains(&only)) {
        assert_eq!(tell(*story, *variants), None, "{name}");
        plant(Some(name));
        let spoilt = tell(*story, *variants);
        plant(None);
        println!("{name:36} {spoilt:?}");
        harmless.extend(spoilt.is_none().then_some(*name));
    }
    assert!(harmless.is_empty(), "{harmless:?} do no harm in their stories");
}

/// The list above is the list of faults in this folder.
#[test]
fn each_view_mutant_is_listed() {
    let mut planted = Vec::new();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/group/membership");
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        for part in text.split("mutant!(\"").skip(1) {
            planted.extend(part.split('"').next().map(str::to_owned));
        }
    }
    planted.sort();
    planted.dedup();
    let mut listed: Vec<&str> = MUTANTS.iter().map(|(name, _)| *name).chain(ELSEWHERE).collect();
    listed.sort_unstable();
    assert_eq!(planted, listed);
}
