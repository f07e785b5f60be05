// SPDX-License-Identifier: MIT OR Apache-2.0
//! The searches that are run, by name.

use crate::config::{Config, Fault, Part};
use crate::row::Set;
use crate::search::{Bounds, End, Report, search};
use crate::world::World;
use std::time::Duration;

/// One search.
#[derive(Clone)]
pub struct Case {
    pub name: &'static str,
    pub config: Config,
    pub seconds: u64,
}

pub fn run(config: &Config, bounds: Bounds) -> Report {
    fn of<const N: usize>(config: &Config, bounds: Bounds) -> Report {
        search(&World::<N>::new(config.clone()), bounds)
    }
    match config.processes() {
        2 => of::<2>(config, bounds),
        3 => of::<3>(config, bounds),
        4 => of::<4>(config, bounds),
        5 => of::<5>(config, bounds),
        _ => of::<6>(config, bounds),
    }
}

/// Takeover and agreement alone: founders, joiners, how many are suspected.
fn a(founders: usize, joiners: usize, suspects: usize) -> Config {
    Config { suspects, ..Config::new(Part::Agreement, founders, joiners) }
}

/// The trim alone, of a shard of three that is the group, or a part of a group of five.
fn b(suspects: usize, outside: u8) -> Config {
    Config { suspects, outside, join_agreed: true, ..Config::new(Part::Trim, 3, 0) }
}

/// Both.
fn w(founders: usize, joiners: usize, suspects: usize) -> Config {
    Config { suspects, ..Config::new(Part::Whole, founders, joiners) }
}

/// Three members that have the majorities of five: the last one's votes are three.
fn five_by_votes(joiners: usize) -> Config {
    let mut config = a(3, joiners, 2);
    config.votes[2] = 3;
    config
}

/// Two shards of which the middle member is in both.
fn shared(suspects: usize, joiners: usize) -> Config {
    Config { shards: vec![(0b011, 0b010), (0b110, 0b010)], ..w(3, joiners, suspects) }
}

/// A shard that the group's leader is not in.
fn apart(founders: usize, joiners: usize, suspects: usize) -> Config {
    let members = (((1u16 << founders) - 1) & !1) as Set;
    Config { shards: vec![(members, 0b100)], ..w(founders, joiners, suspects) }
}

fn only(config: Config, targets: Set) -> Config {
    Config { targets, ..config }
}

fn installs(config: Config) -> Config {
    Config { views: 1, ..config }
}

fn case(name: &'static str, config: Config) -> Case {
    Case { name, config, seconds: 300 }
}

/// The first of two goes on alone.
fn tie(founders: usize, joiners: usize) -> Config {
    Config { views: 2, tie_break: true, ..a(founders, joiners, 3) }
}

/// Two founders, one of whom has two votes, and two that join at once.
fn two_join() -> Config {
    let mut config = installs(a(2, 2, 3));
    config.votes[0] = 2;
    config
}

/// Five by votes; the one with two may leave, the first two may suspect the others.
fn one_leaves() -> Config {
    let mut config = Config { leavers: 0b1000, accusers: 0b0011, ..a(4, 1, 3) };
    config.targets = 0b0111;
    config.votes[3] = 2;
    config.symmetry = false;
    config.liveness = false;
    config
}

pub fn quick() -> Vec<Case> {
    vec![
        case("A  3 members, any suspected, installs", installs(a(3, 0, 3))),
        case("A  3 members + 1 joins, 2 suspected", a(3, 1, 2)),
        case("A  3 members + 1 joins, 2 suspected, installs", installs(a(3, 1, 2))),
        case("A  2 members + 2 join at once, 3 suspected, installs", two_join()),
        case("A  2 members + 1 joins, any suspected, 2 views, tie-break", tie(2, 1)),
        case(
            "A  3 members, 1 leaves, any suspected, 2 views, tie-break",
            Config { leavers: 0b010, ..tie(3, 0) },
        ),
        case("A  4 members, 2 suspected", a(4, 0, 2)),
        case(
            "A  5 by votes + 1 joins, 2 suspected, torn reads, first rows unseen",
            Config { torn: true, fresh: true, ..five_by_votes(1) },
        ),
        case("A  5 members, {0, 1} suspected", only(a(5, 0, 2), 0b00011)),
        case(
            "B  shard = group of 3, 2 suspected, no join",
            Config { join_agreed: false, ..b(2, 0) },
        ),
        case("B  shard 3 of 5, 1 suspected, join", b(1, 2)),
        case("AB 3 members, any suspected", w(3, 0, 3)),
        case("AB 3 members + 1 joins, 2 suspected", w(3, 1, 2)),
        case("AB 3 members, any suspected, torn reads", Config { torn: true, ..w(3, 0, 3) }),
        case(
            "AB 3 members + 1 joins, 1 suspected, in the next view",
            Config { beyond: true, ..w(3, 1, 1) },
        ),
        case("AB 3 members, 1 leaves, 2 suspected", Config { leavers: 0b010, ..w(3, 0, 2) }),
    ]
}

/// Two failures among five are one of three cases but for names: both that lead first, the first
/// and one that never leads, two that never lead. What never leads may change places.
pub fn deep() -> Vec<Case> {
    let minutes = |minutes: u64, case: Case| Case { seconds: 60 * minutes, ..case };
    let five = |joiners, targets| only(a(5, joiners, 2), targets);
    let torn = Config { torn: true, ..a(4, 1, 2) };
    let late = Config { lazy: true, ..b(1, 2) };
    vec![
        minutes(2, case("A  5 members, {0, 1} suspected", five(0, 0b00011))),
        minutes(2, case("A  5 members, {0, 2} suspected", five(0, 0b00101))),
        minutes(2, case("A  5 members, {3, 4} suspected", five(0, 0b11000))),
        minutes(2, case("A  4 members + 1 joins, 2 suspected, torn reads", torn)),
        minutes(2, case("A  4 members + 1 joins, 1 suspected, installs", installs(a(4, 1, 1)))),
        minutes(2, case("AB shards {0, 1} {1, 2}, 1 joins, 2 suspected", shared(2, 1))),
        minutes(
            4,
            case(
                "AB 3 members + 1 joins, 2 suspected, torn reads",
                Config { torn: true, ..w(3, 1, 2) },
            ),
        ),
        minutes(2, case("B  shard 3 of 5, 1 suspected, join, acts late", late)),
        minutes(3, case("AB 4 members, shard {1, 2, 3}, 1 joins, 1 suspected", apart(4, 1, 1))),
        minutes(3, case("B  shard 3 of 5, 2 suspected, join", b(2, 2))),
        minutes(3, case("A  5 members, {0, 1} suspected, installs", installs(five(0, 0b00011)))),
        minutes(3, case("A  4 members + 1 joins, 2 suspected, installs", installs(a(4, 1, 2)))),
        minutes(3, case("A  5 members + 1 joins, {3, 4} suspected", five(1, 0b11000))),
        minutes(8, case("A  5 members + 1 joins, {0, 1} suspected", five(1, 0b00011))),
    ]
}

/// What a broken rule is to come to.
pub enum Want {
    /// One of the searches finds it.
    Caught(Case),
    /// None does, and none needs to.
    Argued(&'static str, Case),
}

pub struct Mutation {
    /// As in `model.md`.
    pub mark: &'static str,
    pub rule: &'static str,
    pub faults: Vec<Fault>,
    pub want: Want,
}

fn caught(mark: &'static str, rule: &'static str, fault: Fault, config: Config) -> Mutation {
    let want = Want::Caught(case("", config));
    Mutation { mark, rule, faults: vec![fault], want }
}

pub fn mutations() -> Vec<Mutation> {
    use Fault::*;
    let b = |suspects, outside| Config { told: true, ..b(suspects, outside) };
    let torn = Config { torn: true, fresh: true, ..five_by_votes(1) };
    let argued = |mark, rule, fault, why, config| Mutation {
        mark,
        rule,
        faults: vec![fault],
        want: Want::Argued(why, case("", config)),
    };
    let mut all = vec![
        caught(
            "V1",
            "R4: a cut waits for everyone's suspicion",
            CutWithoutTakeoverBarrier,
            b(1, 2),
        ),
        caught("V2", "R3: majorities of neighbouring views meet", JoinsUncapped, two_join()),
        caught("V3", "R5: who leaves counts until it is out", LeaverOutOfCount, one_leaves()),
        caught(
            "V4",
            "R2: other ballots consent to nothing",
            OtherBallotsAreSkipped,
            five_by_votes(1),
        ),
        caught("M1", "R7: takeover has a barrier", TakeoverWithoutBarrier, five_by_votes(1)),
        caught(
            "M2",
            "R7: the highest ballot, not the longest",
            TakeoverLongestList,
            five_by_votes(1),
        ),
        argued(
            "M3",
            "R2: consent under an older ballot",
            OtherBallotsCount,
            "the takeover's barrier has read every row after it left the older leader, so all of \
             them are prefixes of the list that was adopted",
            five_by_votes(1),
        ),
        argued(
            "M4a",
            "R7: a suspect is not followed",
            SuspectsAreFollowed,
            "the suspect's row is frozen, and nothing that is said after the suspicion reaches it",
            five_by_votes(1),
        ),
        caught(
            "M4b",
            "R4: a suspect's cut is not echoed",
            SuspectsAreEchoed,
            Config { lazy: true, ..b(1, 2) },
        ),
        argued(
            "M5",
            "V1: a suspect's row is frozen",
            RowsNotFrozen,
            "redundant for agreement; needed where memory is used again, which is not modelled",
            five_by_votes(1),
        ),
        caught("M6", "V5: a cut that was shown is copied", CutRecomputed, b(1, 2)),
        argued(
            "M7a",
            "T3: all echo before one delivers",
            EchoesNotAwaited,
            "a cut computed later is of fewer receipts, all final, so it only grows, and the \
             barrier makes one's own echo seen. It is caught if a member may pass that is not told \
             of its removal, which the lists in the rows of all who consented prevent",
            b(1, 2),
        ),
        caught("M7b", "T3, V6: one echoes before one delivers", CutNotEchoed, b(1, 2)),
        caught(
            "M8",
            "V4: barriers wait for suspects",
            BarriersTrustSuspicion,
            Config { join_agreed: false, ..b(3, 2) },
        ),
        caught("M9", "V2: half is no majority", MajorityIsHalf, a(2, 0, 2)),
        caught("M9b", "V2: a minority stops", MajorityUntested, a(3, 0, 3)),
        caught("M10", "R6: suspects are looked at first", SuspectsObservedLast, torn),
        caught(
            "M11",
            "R7: removals are a batch of their own",
            RemovalsJoinTheBatch,
            five_by_votes(1),
        ),
        argued(
            "M12",
            "R7: frozen rows count at takeover",
            TakeoverWithoutFrozenRows,
            "every unsuspected member has passed the barrier, and one of them consented",
            five_by_votes(1),
        ),
        argued(
            "M12b",
            "T1: a frozen row's cut counts",
            CutWithoutFrozenRows,
            "who acted on it waited for the echo of everyone who is not removed, and one of them \
             is here",
            b(1, 2),
        ),
        caught(
            "M13a",
            "T1: receipts are final once wedged",
            AcceptsAfterWedge,
            Config { data: true, ..b(1, 0) },
        ),
        caught(
            "M13b",
            "property 10: what is delivered is stable",
            DeliversUnstable,
            Config { data: true, ..b(1, 0) },
        ),
        caught("M13c", "T1: all are wedged before the cut", CutBeforeAllAreWedged, b(1, 2)),
        caught("T4", "T4: all have ended before one goes", InstallWithoutEnded, w(3, 1, 2)),
        caught("T4b", "T4: who passed tells those who wait", PassingIsNotHeard, w(3, 1, 2)),
        argued(
            "M14a",
            "R1: a ballot goes on into the next view",
            BallotIsReset,
            "with one view installed and two suspects nothing comes of it",
            installs(a(3, 1, 2)),
        ),
        argued(
            "M14b",
            "R1: a joiner starts from its sponsor's row",
            JoinerStartsBlank,
            "with one view installed and two suspects nothing comes of it",
            installs(a(3, 1, 2)),
        ),
    ];
    // As the protocol was first written: no barrier where the shard is the group.
    all.push(Mutation {
        mark: "M8b",
        rule: "T1: the least of all that are not removed",
        faults: vec![CutOfUnsuspected, CutWithoutTakeoverBarrier],
        want: Want::Caught(case("", w(3, 1, 2))),
    });
    all
}

/// Which model a search is of.
pub fn letters(config: &Config) -> &'static str {
    match config.part {
        Part::Agreement => "A",
        Part::Trim => "B",
        Part::Whole => "AB",
    }
}

/// What a search came to, in a word.
pub fn outcome(report: &Report) -> String {
    match &report.end {
        End::Exhausted => "EXHAUSTED".into(),
        End::Bounded(why) => format!("bounded ({why})"),
        End::Broken { property, .. } => format!("BROKEN: {property}"),
    }
}

pub fn seconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64())
}
