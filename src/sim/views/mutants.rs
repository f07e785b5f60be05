// SPDX-License-Identifier: MIT OR Apache-2.0
//! Faults planted in what joins multicast and membership, and those of the membership that its own
//! explorer does not find: the world must find each.

use super::run_seed;
use crate::sim::mutants::survivors;

/// Every fault of this kind, with what it breaks.
const MUTANTS: &[(&str, &str)] = &[
    ("wire-receives-when-wedged", "W1: after the receipt nothing is received or becomes stable"),
    ("wire-cut-ignored", "W2: nothing beyond the cut is delivered"),
    ("wire-hole-ends-the-cut", "W2: a message below the cut is delivered, whoever's is missing"),
    ("wire-own-message-lost", "W3: what the view did not deliver is sent again"),
    ("wire-resent-though-delivered", "W3: and what it did deliver is not"),
    ("wire-received-kept-from-own-count", "A1: what not all have received is sent again"),
    ("wire-ahead-forgotten-while-waiting", "A5: what a member is ahead of waits with its subgroup"),
    ("wire-ahead-forgotten", "A3: what I have had already is passed over"),
    ("wire-ahead-of-the-last-view-only", "A3: in the view after, too, if that one ended too soon"),
    ("wire-ahead-counted-twice", "A3: and no more than that"),
    ("wire-ahead-of-another-lane", "A4: each lane has its own count"),
    ("wire-loss-not-told", "the membership hears of connections that end"),
    ("wire-rows-not-looked-at", "a turn is still only if no row has moved"),
    ("wire-sleeps-on-rows", "P: a member that sleeps has looked at the rows, too"),
    ("wire-cut-not-awaited", "X3: a member says that it ended when its callbacks have returned"),
    ("wire-had-is-given-back", "what was delivered on receipt is not given back when all is over"),
    ("wire-lacking-goes-on", "P6: a subgroup that lacks members delivers nothing"),
    ("wire-forgets-while-waiting", "H1: what waits for members is sent when they are there"),
    ("loom-h-early", "H2: a lane's thread takes a ring when nothing of its own is left behind"),
    (
        "loom-h-late-ones-overlooked",
        "H1: a call under way counts in the old ring after the view's end",
    ),
    ("loom-e-not-looked-again", "D2: a call that counts too late is told so"),
    ("wire-leaves-undelivered", "a leaver's messages are delivered before it asks to be left out"),
    ("wire-door-stays-open", "a leaver's application is refused at once"),
    ("view-before-is-forgotten", "who is expelled as it passes on says so, and nothing else"),
    ("view-goes-without-a-word", "T4: who goes has said so"),
    ("view-passed-is-lost", "an end is no suspicion of one that has passed on"),
    ("view-passed-suspects", "V1: who has passed on takes an end for no failure"),
];

/// Seeds after which a fault counts as not found.
fn seeds_max() -> u64 {
    std::env::var("SQUALL_VIEW_MUTANT_SEEDS").ok().and_then(|t| t.parse().ok()).unwrap_or(6_000)
}

#[test]
fn each_dies() {
    let survivors = survivors(MUTANTS, |seed| run_seed(seed, |_| ()), seeds_max());
    assert!(survivors.is_empty(), "no property sees {survivors:?}");
}

#[test]
fn each_is_listed() {
    let mut planted = Vec::new();
    for folder in ["src/group", "src/group/multicast", "src/sst", "src/sst/producer"] {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        for entry in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
            let names = text.split("mutant!(\"").skip(1).filter_map(|part| part.split('"').next());
            planted.extend(names.filter(|name| name.starts_with("wire-")).map(str::to_owned));
        }
    }
    planted.sort();
    planted.dedup();
    let mut listed: Vec<&str> = MUTANTS.iter().map(|(name, _)| *name).collect();
    listed.retain(|name| name.starts_with("wire-"));
    listed.sort_unstable();
    assert_eq!(planted, listed);
}

/// How many of the faults in the membership's own rules this world sees (its explorer sees all).
#[test]
#[ignore = "as long as one wants"]
fn of_the_membership() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/group/membership");
    let mut names = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        let planted = text.split("mutant!(\"").skip(1).filter_map(|part| part.split('"').next());
        names.extend(planted.map(|name| &*Box::leak(name.to_owned().into_boxed_str())));
    }
    let only = std::env::var("SQUALL_VIEW_MUTANT").unwrap_or_default();
    let names = names.into_iter().filter(|name| name.contains(&only));
    let names: Vec<(&str, &str)> = names.map(|name| (name, "its explorer finds it")).collect();
    let unseen = survivors(&names, |seed| run_seed(seed, |_| ()), seeds_max());
    println!("{} of {} are not seen here", unseen.len(), names.len());
}
