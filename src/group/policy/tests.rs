// SPDX-License-Identifier: MIT OR Apache-2.0
//! The policy of subgroups: placement, stability, and the bytes that a joiner is given.

use super::assignment::Assignment;
use super::*;
use crate::sst::layout::Mode;
use proptest::prelude::*;

fn shape() -> Shape {
    Shape {
        senders: 0,
        lanes: 1,
        mode: Mode::Stable,
        window: 8,
        message_bytes_max: 64,
        ring_bytes: 4096,
    }
}

fn rule(shards: u16, members_min: u16, members_max: u16) -> Rule {
    Rule {
        name: String::new(),
        who: Who::All,
        shards,
        members_min,
        members_max,
        senders: Senders::All,
        shape: shape(),
    }
}

fn rules(list: Vec<Rule>) -> Rules {
    Rules::new(list, MEMBERS_MAX as u16).unwrap()
}

fn planner(list: Vec<Rule>) -> Planner {
    Planner::new(rules(list), Arc::new(Standard))
}

fn candidate(seniority: u64) -> Candidate {
    let incarnation = seniority * 1000 + 7;
    Candidate { seniority, incarnation, seat: 0, name: format!("member-{seniority}") }
}

fn candidates(seniorities: impl IntoIterator<Item = u64>) -> Vec<Candidate> {
    seniorities.into_iter().map(candidate).collect()
}

/// Plans and adopts; the shards.
fn install(planner: &mut Planner, seniorities: &[u64]) -> Vec<Vec<u64>> {
    let plan = planner.plan(&candidates(seniorities.iter().copied())).unwrap();
    planner.adopt(&plan);
    plan.assignment.shards
}

#[test]
fn the_first_view_deals_members_out_by_rank() {
    let mut planner = planner(vec![rule(2, 1, 0), rule(1, 1, 0)]);
    let plan = planner.plan(&candidates(0..5)).unwrap();
    let ranks =
        |at: usize| -> Vec<u16> { plan.subgroups[at].members.iter().map(|r| r.0).collect() };
    assert_eq!((ranks(0), ranks(1), ranks(2)), (vec![0, 2, 4], vec![1, 3], vec![0, 1, 2, 3, 4]));
    assert_eq!(plan.subgroups[1].shape.senders, 2);
    planner.adopt(&plan);
    assert_eq!(planner.assignment().shard_of(planner.rules(), 0, 3), Some(1));
    assert_eq!(planner.assignment().shard_of(planner.rules(), 0, 9), None);
}

/// Two policies that differ in who sends only, or in the order of arrival only, are told apart.
#[test]
fn plans_that_differ_show_it() {
    let plan = |first: u16, order: &'static [u64]| {
        let place = move |_: &Rules, _: &[Candidate], _: &Assignment| {
            Ok(Assignment { shards: vec![order.to_vec()] }.into())
        };
        let one = Rule { senders: Senders::First(first), ..rule(1, 0, 0) };
        Planner::new(rules(vec![one]), Arc::new(place)).plan(&candidates(0..3)).unwrap().digest()
    };
    assert_eq!(plan(3, &[0, 1, 2]), plan(3, &[0, 1, 2]));
    assert!(plan(3, &[0, 1, 2]) != plan(2, &[0, 1, 2]));
    assert!(plan(3, &[0, 1, 2]) != plan(3, &[0, 2, 1]));
    assert!(plan(3, &[0, 1, 2]) != plan(3, &[0, 1]));
}

#[test]
fn who_leaves_moves_nobody_and_who_joins_takes_the_emptiest() {
    let mut planner = planner(vec![rule(3, 1, 0)]);
    install(&mut planner, &[0, 1, 2, 3, 4, 5]);
    assert_eq!(install(&mut planner, &[0, 2, 3, 4, 5]), [vec![0, 3], vec![4], vec![2, 5]]);
    assert_eq!(install(&mut planner, &[0, 2, 3, 4, 5, 9]), [[0, 3], [4, 9], [2, 5]]);
}

#[test]
fn the_newest_of_the_fullest_moves_where_too_few_are_left() {
    let mut planner = planner(vec![rule(2, 2, 0)]);
    assert_eq!(install(&mut planner, &[0, 1, 2, 3, 4, 5]), [[0, 2, 4], [1, 3, 5]]);
    assert_eq!(install(&mut planner, &[0, 2, 4, 5]), [[0, 2], [5, 4]]);
    // 4 arrived after 5 in its shard, whatever their seniority.
    assert_eq!(install(&mut planner, &[0, 2, 4, 5, 7]), [vec![0, 2, 7], vec![5, 4]]);
}

/// Only that shard, and nobody leaves it: its members alone have what it has delivered.
#[test]
fn a_shard_with_too_few_members_waits_for_more() {
    let senders = Senders::First(1);
    let mut planner = planner(vec![rule(1, 1, 0), Rule { senders, ..rule(3, 2, 0) }]);
    assert_eq!(install(&mut planner, &[0, 1, 2, 3, 4, 5])[1..], [[0, 3], [1, 4], [2, 5]]);
    let plan = planner.plan(&candidates([0, 1, 2, 3, 4])).unwrap();
    assert_eq!(plan.assignment.shards[1..], [vec![0, 3], vec![1, 4], vec![2]]);
    let waits: Vec<Inadequate> = plan.inadequate().collect();
    assert_eq!(waits, [Inadequate { subgroup: 1, shard: 2, have: 1, need: 2 }]);
    assert!(waits[0].to_string().contains("shard 2 of subgroup 1 has 1 members and needs 2"));
    let part = |at: usize| plan.subgroups[at].part;
    assert_eq!((part(0), part(3)), (Part::default(), Part { of: 1, shard: 2, lacks: 1 }));
    assert!(plan.subgroups[3].senders.is_empty() && plan.subgroups[3].waits(Rank(2)));
    assert_eq!(plan.subgroups[3].shape.senders, 0);
    assert!(!plan.subgroups[2].senders.is_empty() && plan.subgroups[2].waiting.is_empty());
    planner.adopt(&plan);
    let plan = planner.plan(&candidates([0, 1, 2, 3, 4, 6])).unwrap();
    assert_eq!(plan.assignment.shards[1..], [[0, 3], [1, 4], [2, 6]]);
    assert!(plan.inadequate().next().is_none());
    assert_eq!(plan.subgroups[3].senders[0].rank, Rank(2), "who waited comes first");
}

/// Who can be spared moves, and not more: the other shards go on.
#[test]
fn a_shard_that_has_just_enough_lends_nobody() {
    let mut planner = planner(vec![rule(2, 3, 0)]);
    install(&mut planner, &[0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(install(&mut planner, &[0, 2, 4, 5, 6]), [vec![0, 2, 4], vec![5, 6]]);
    assert_eq!(install(&mut planner, &[2, 4, 5, 6]), [vec![2, 4], vec![5, 6]]);
}

#[test]
fn who_is_too_many_waits_and_is_the_first_to_follow() {
    let mut planner = planner(vec![rule(2, 1, 2)]);
    assert_eq!(install(&mut planner, &[0, 1, 2, 3, 4, 5]), [[0, 2], [1, 3]]);
    assert_eq!(install(&mut planner, &[0, 1, 3, 4, 5]), [[0, 4], [1, 3]]);
}

#[test]
fn senders_are_who_the_rule_says() {
    let senders = |senders: Senders, seniorities: &[u64]| -> Vec<u16> {
        let mut planner = planner(vec![Rule { senders, ..rule(1, 1, 0) }]);
        let mut plan = planner.plan(&candidates([2, 4, 6, 8])).unwrap();
        planner.adopt(&plan);
        if !seniorities.is_empty() {
            plan = planner.plan(&candidates(seniorities.iter().copied())).unwrap();
        }
        plan.subgroups[0].senders.iter().map(|sender| sender.rank.0).collect()
    };
    assert_eq!(senders(Senders::All, &[]), [0, 1, 2, 3]);
    assert_eq!(senders(Senders::First(2), &[]), [0, 1]);
    assert_eq!(senders(Senders::First(2), &[2, 6, 8, 9]), [0, 1], "the next in line follows");
    assert_eq!(senders(Senders::Ordinals(vec![3, 1, 9]), &[]), [1, 3]);
    let listed = || Senders::Of(Who::Seniorities(vec![8, 4]));
    assert_eq!(senders(listed(), &[]), [1, 3]);
    assert_eq!(senders(listed(), &[4, 6, 9]), [0], "a role goes with its member");
    let named = Senders::Of(Who::Names(vec!["member-9".into()]));
    assert_eq!(senders(named.clone(), &[]), [0u16; 0]);
    assert_eq!(senders(named, &[4, 6, 9]), [2]);
}

/// A first sender that has to move to another shard is not first there.
#[test]
fn who_arrives_in_a_shard_takes_no_role_from_who_is_there() {
    let senders = Senders::First(1);
    let mut planner = planner(vec![Rule { senders, ..rule(2, 1, 0) }]);
    assert_eq!(install(&mut planner, &[0, 1, 3]), [vec![0, 3], vec![1]]);
    let plan = planner.plan(&candidates([0, 3, 5])).unwrap();
    assert_eq!(plan.assignment.shards, [vec![0, 3], vec![5]]);
    planner.adopt(&plan);
    let plan = planner.plan(&candidates([0, 3])).unwrap();
    assert_eq!(plan.assignment.shards, [[0], [3]]);
    let mut sender = plan.subgroups.iter().map(|subgroup| subgroup.senders[0].rank.0);
    assert_eq!((sender.next(), sender.next()), (Some(0), Some(1)));
}

#[test]
fn rules_that_cannot_be_are_refused_by_name() {
    let refused = |change: fn(&mut Rule)| {
        let mut list = vec![rule(1, 1, 0), rule(2, 2, 4)];
        change(&mut list[1]);
        Rules::new(list, 64).unwrap_err()
    };
    assert!(refused(|r| r.shards = 0).contains("subgroup 1: 0 shards"));
    assert!(refused(|r| (r.shards, r.members_min) = (32, 1)).contains("33 subgroups"));
    assert!(refused(|r| r.members_min = 33).contains("at most 64 in all"));
    assert!(refused(|r| r.members_max = 1).contains("fewer than 2"));
    assert!(refused(|r| r.name = "a b".into()).contains("\"a b\""));
    assert!(refused(|r| r.shape.lanes = 9).contains("9 lanes"));
    assert!(refused(|r| (r.shape.lanes, r.members_max) = (8, 33)).contains("33 senders of 8"));
    assert!(refused(|r| r.shape.ring_bytes = 5).contains("window_bytes 5"));
    let named = || Rule { name: "orders".into(), ..rule(1, 1, 0) };
    assert!(Rules::new(vec![named(), named()], 64).unwrap_err().contains("that of 0"));
    assert!(Rules::new(vec![], 64).unwrap_err().contains("1 to 32"));
    // With few senders many members may have many lanes.
    let few = Rule { senders: Senders::First(4), ..rule(1, 1, 0) };
    let few = Rule { shape: Shape { lanes: 8, ..shape() }, ..few };
    assert!(Rules::new(vec![few], 64).is_ok());
}

#[test]
fn a_policy_in_code_is_heard_and_held_to_the_rules() {
    let list = || vec![Rule { who: Who::Seniorities(vec![0, 1, 2, 3]), ..rule(2, 1, 2) }];
    let plan = |place: fn(&Rules, &[Candidate], &Assignment) -> Result<Placed, String>| {
        Planner::new(rules(list()), Arc::new(place)).plan(&candidates(0..6))
    };
    fn vectors(of: &[&[u64]]) -> Vec<Vec<u64>> {
        of.iter().map(|of| of.to_vec()).collect()
    }
    fn placed(shards: &[&[u64]]) -> Assignment {
        Assignment { shards: vectors(shards) }
    }
    // Even and odd: captures nothing, so it is a function that every member has.
    let good = plan(|_, who, _| {
        let part = |odd| who.iter().map(|c| c.seniority).filter(move |s| s % 2 == odd && *s < 4);
        Ok(Assignment { shards: vec![part(0).collect(), part(1).collect()] }.into())
    });
    assert_eq!(good.unwrap().assignment, placed(&[&[0, 2], &[1, 3]]));
    type Lists = &'static [&'static [u64]];
    let answered = |shards: Lists, senders: Option<Lists>, by_rule: Senders| {
        let place = move |_: &Rules, _: &[Candidate], _: &Assignment| {
            Ok(Placed { assignment: placed(shards), senders: senders.map(vectors) })
        };
        let list = list().into_iter().map(|rule| Rule { senders: by_rule.clone(), ..rule });
        Planner::new(rules(list.collect()), Arc::new(place)).plan(&candidates(0..6))
    };
    let unruly = |shards: Lists| answered(shards, None, Senders::All).unwrap_err();
    assert!(unruly(&[&[0]]).contains("1 shards where the rules have 2"));
    assert!(unruly(&[&[0, 1, 2], &[3]]).contains("3 members in a shard, 2 at most"));
    assert!(unruly(&[&[0], &[0]]).contains("rank 0 has two places"));
    assert!(unruly(&[&[0], &[99]]).contains("nobody has seniority 99"));
    assert!(unruly(&[&[0], &[5]]).contains("rank 5 is not meant for it"));
    let empty = plan(|_, _, _| Ok(Assignment { shards: vec![vec![0], vec![]] }.into())).unwrap();
    let inadequate = Inadequate { subgroup: 0, shard: 1, have: 0, need: 1 };
    assert_eq!(empty.inadequate().collect::<Vec<_>>(), [inadequate]);
    assert_eq!(plan(|_, _, _| Err("not today".into())), Err("not today".into()));

    let there: Lists = &[&[0, 2], &[1, 3]];
    let sends = |senders: Lists, by_rule| answered(there, Some(senders), by_rule);
    let chosen = sends(&[&[2], &[]], Senders::All).unwrap();
    let ranks = chosen.subgroups[0].senders.iter().map(|sender| sender.rank.0);
    assert_eq!((ranks.collect(), chosen.subgroups[1].senders.len()), (vec![2], 0));
    let refused = |senders: Lists, by_rule| sends(senders, by_rule).unwrap_err();
    assert!(refused(&[&[2]], Senders::All).contains("senders of 1 shards where the rules have 2"));
    assert!(
        refused(&[&[1], &[]], Senders::All).contains("seniority 1 sends there and is no member")
    );
    assert!(refused(&[&[99], &[]], Senders::All).contains("shard 0 of subgroup 0: seniority 99"));
    assert!(refused(&[&[], &[3, 3]], Senders::All).contains("rank 3 sends there twice"));
    assert!(refused(&[&[0, 2], &[]], Senders::First(1)).contains("2 senders, 1 at most"));
    let some = Senders::Of(Who::Seniorities(vec![0, 1]));
    assert!(refused(&[&[2], &[]], some).contains("rank 2 may not send there"));
}

/// P2: a joiner cannot know of members that were gone before it came, so nobody's policy is told.
#[test]
fn a_policy_is_not_told_of_who_is_gone() {
    let place = |_: &Rules, who: &[Candidate], before: &Assignment| {
        // A bad idea that must not part the group: how many there were decides.
        let most = before.shards[0].len() + 1;
        let all = who.iter().map(|candidate| candidate.seniority);
        Ok(Assignment { shards: vec![all.take(most).collect()] }.into())
    };
    let new = || Planner::new(rules(vec![rule(1, 0, 0)]), Arc::new(place));
    let mut planner = new();
    for _ in 0..3 {
        install(&mut planner, &[0, 1, 2, 3]);
    }
    let next = candidates([1, 3, 5, 6]);
    let mut joiner = new();
    joiner.restore(&planner.encode(&next), &next).unwrap();
    assert_eq!(planner.plan(&next).unwrap().assignment.shards, [[1, 3]]);
    assert_eq!(joiner.plan(&next), planner.plan(&next));
}

/// Of listed members none may be left, if no least number was asked for: the others go on.
#[test]
fn a_subgroup_may_be_empty() {
    let listed = Rule { who: Who::Seniorities(vec![0, 1]), ..rule(1, 0, 0) };
    let mut planner = planner(vec![listed, rule(2, 0, 0)]);
    assert_eq!(install(&mut planner, &[0, 1, 2]), [vec![0, 1], vec![0, 2], vec![1]]);
    let plan = planner.plan(&candidates([2])).unwrap();
    assert_eq!(plan.assignment.shards, [vec![], vec![2], vec![]]);
    let (epoch, subgroups) = (crate::base::Epoch(2), plan.subgroups);
    let view = super::super::view::View { epoch, me: Rank(0), members: 1, subgroups };
    assert_eq!(view.layout().subgroups[0].received.len, 0);
}

#[test]
fn the_bytes_for_a_joiner_are_compact_and_checked() {
    let mut planner = planner(vec![rule(2, 1, 0), rule(1, 1, 0)]);
    install(&mut planner, &[0, 1, 2, 3]);
    // 1 goes, 9 comes.
    let next = candidates([0, 2, 3, 9]);
    let bytes = planner.encode(&next);
    assert_eq!(bytes[..2], [1, 3]);
    assert_eq!(bytes[10..], [2, 0, 1, 1, 2, 3, 0, 1, 2]);
    let joiner = || super::tests::planner(vec![rule(2, 1, 0), rule(1, 1, 0)]);
    let refused = |bytes: &[u8], who: &[Candidate]| joiner().restore(bytes, who).unwrap_err();
    let with = |at: usize, byte: u8| {
        let mut changed = bytes.clone();
        changed[at] = byte;
        changed
    };
    assert!(refused(&bytes[..9], &next).contains("9 bytes"));
    assert!(refused(&with(0, 2), &next).contains("format 2"));
    assert!(refused(&with(1, 2), &next).contains("2 subgroups"));
    assert!(refused(&bytes, &candidates([0, 2, 3, 8])).contains("other members"));
    assert!(refused(&with(11, 4), &next).contains("rank 4 of 4"));
    assert!(refused(&with(14, 0), &next).contains("two places"));
    assert!(refused(&with(10, 9), &next).contains("ends in subgroup 0"));
    assert!(refused(&bytes[..bytes.len() - 1], &next).contains("ends in subgroup 2"));
    assert!(refused(&[&bytes[..], &[0]].concat(), &next).contains("1 bytes too many"));
    let mut joiner = joiner();
    joiner.restore(&bytes, &next).unwrap();
    assert_eq!(joiner.plan(&next), planner.plan(&next));
}

#[derive(Clone, Debug)]
struct Life {
    rules: Vec<Rule>,
    /// By view: which members go (by a number each), how many come.
    changes: Vec<(Vec<u64>, u64)>,
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let senders = prop_oneof![
        Just(Senders::All),
        (0..4u16).prop_map(Senders::First),
        proptest::collection::vec(0..4u16, 0..3).prop_map(Senders::Ordinals),
        proptest::collection::vec(0..9u64, 0..4).prop_map(|l| Senders::Of(Who::Seniorities(l))),
    ];
    let who = prop_oneof![
        4 => Just(Who::All),
        1 => proptest::collection::vec(0..9u64, 1..8).prop_map(Who::Seniorities),
    ];
    (1..4u16, 0..3u16, 0..4u16, senders, who).prop_map(|(shards, least, over, senders, who)| {
        let most = if over == 0 { 0 } else { (least + over - 1).max(1) };
        Rule { senders, who, ..rule(shards, least, most) }
    })
}

fn life() -> impl Strategy<Value = Life> {
    let change = (proptest::collection::vec(any::<u64>(), 0..3), 0..3u64);
    (proptest::collection::vec(any_rule(), 1..4), proptest::collection::vec(change, 1..12))
        .prop_map(|(rules, changes)| Life { rules, changes })
}

/// Members view by view: six founders, then as the life says.
fn rosters(life: &Life) -> Vec<Vec<Candidate>> {
    let (mut members, mut next) = (candidates(0..6), 6);
    let mut rosters = vec![members.clone()];
    for (go, come) in &life.changes {
        for number in go {
            if members.len() > 1 {
                members.remove((number % members.len() as u64) as usize);
            }
        }
        for _ in 0..*come {
            members.push(candidate(next));
            next += 1;
        }
        rosters.push(members.clone());
    }
    rosters
}

/// Every member is where the rules allow it, and everybody has a place that there is.
fn obeys(rules: &Rules, plan: &Plan, who: &[Candidate]) {
    plan.assignment.check(rules, who).unwrap();
    assert_eq!(plan.subgroups.len(), rules.subgroups());
    for (at, rule) in rules.list().iter().enumerate() {
        let shards = &plan.assignment.shards[rules.shards(at)];
        let placed: usize = shards.iter().map(Vec::len).sum();
        let fit = who.iter().filter(|candidate| rule.who.has(candidate)).count();
        assert_eq!(placed, fit.min(rule.most() * shards.len()), "nobody waits beside a free place");
        let need = usize::from(rule.members_min);
        let enough = shards.iter().filter(|shard| shard.len() >= need).count();
        assert!(enough == shards.len() || fit < need * shards.len());
        assert!(enough == shards.len() || shards.iter().all(|shard| shard.len() <= need));
        let told = plan.inadequate().filter(|waits| usize::from(waits.subgroup) == at);
        assert_eq!(told.count(), shards.len() - enough);
    }
    for (subgroup, shard) in plan.subgroups.iter().zip(&plan.assignment.shards) {
        assert!(subgroup.members.is_sorted() && subgroup.members.len() == shard.len());
        assert!(subgroup.senders.iter().all(|sender| subgroup.has(sender.rank)));
        assert_eq!(usize::from(subgroup.shape.senders), subgroup.senders.len());
        assert!(subgroup.part.lacks == 0 || subgroup.senders.is_empty());
        assert!(subgroup.part.lacks > 0 || subgroup.waiting.is_empty());
    }
}

/// Who of a rule's members has another shard than before, though it had one.
fn moved(rules: &Rules, at: usize, before: &Assignment, after: &Assignment) -> usize {
    let all = after.shards[rules.shards(at)].iter().flatten();
    let moved = |member: &&u64| {
        let old = before.shard_of(rules, at, **member);
        old.is_some() && old != after.shard_of(rules, at, **member)
    };
    all.filter(moved).count()
}

/// The fewest moves that fill the shards: what is missing in them, less what newcomers fill; as far as
/// others have more than they need.
fn moves_needed(rules: &Rules, at: usize, before: &Assignment, who: &[Candidate]) -> usize {
    let rule = &rules.list()[at];
    let stayed = before.among(who);
    let left: Vec<usize> = stayed.shards[rules.shards(at)].iter().map(Vec::len).collect();
    let fit = who.iter().filter(|candidate| rule.who.has(candidate)).count();
    let newcomers = fit - left.iter().sum::<usize>();
    let missing: usize =
        left.iter().map(|have| usize::from(rule.members_min).saturating_sub(*have)).sum();
    let spare: usize = left.iter().map(|have| have.saturating_sub(rule.members_min.into())).sum();
    missing.saturating_sub(newcomers).min(spare)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    /// Rules are kept, nobody moves without need, and old members and joiners agree.
    #[test]
    fn a_life_of_views_obeys_its_rules_and_moves_nobody_without_need(life in life()) {
        let Ok(rules) = Rules::new(life.rules.clone(), 64) else { return Ok(()) };
        let fresh = || Planner::new(rules.clone(), Arc::new(Standard));
        let mut planner = fresh();
        for who in rosters(&life) {
            let before = planner.assignment().clone();
            let plan = planner.plan(&who).unwrap();
            obeys(&rules, &plan, &who);
            for at in 0..rules.list().len() {
                let (moves, needed) = (
                    moved(&rules, at, &before, &plan.assignment),
                    moves_needed(&rules, at, &before, &who),
                );
                prop_assert_eq!(moves, needed);
            }
            // A joiner with nothing but the bytes plans the same.
            let mut joiner = fresh();
            joiner.restore(&planner.encode(&who), &who).unwrap();
            prop_assert_eq!(joiner.plan(&who).unwrap(), plan.clone());
            prop_assert_eq!(joiner.plan(&who).unwrap().digest(), plan.digest());
            planner.adopt(&plan);
        }
    }

    /// Plans that are never adopted, rules in another order, lists in another order: all the same.
    #[test]
    fn no_order_of_evaluation_matters(life in life()) {
        let reversed: Vec<Rule> = life.rules.iter().rev().cloned().map(|mut rule| {
            if let Who::Seniorities(list) = &mut rule.who {
                list.reverse();
            }
            if let Senders::Ordinals(list) = &mut rule.senders {
                list.reverse();
            }
            rule
        }).collect();
        let (Ok(one), Ok(two)) = (Rules::new(life.rules.clone(), 64), Rules::new(reversed, 64)) else {
            return Ok(());
        };
        let mut first = Planner::new(one.clone(), Arc::new(Standard));
        let mut second = Planner::new(two.clone(), Arc::new(Standard));
        let rosters = rosters(&life);
        for who in &rosters {
            for other in rosters.iter().rev() {
                let _ = second.plan(other);
            }
            let (Ok(plan), Ok(again)) = (first.plan(who), second.plan(who)) else {
                prop_assert_eq!(first.plan(who).is_err(), second.plan(who).is_err());
                continue;
            };
            let last = one.list().len() - 1;
            for at in 0..=last {
                let (mine, theirs) = (one.shards(at), two.shards(last - at));
                prop_assert_eq!(&plan.assignment.shards[mine.clone()], &again.assignment.shards[theirs.clone()]);
                let shown = |plan: &Plan, of: std::ops::Range<usize>| -> Vec<Subgroup> {
                    let all = plan.subgroups[of].iter().cloned();
                    all.map(|one| Subgroup { part: Part { of: 0, ..one.part }, ..one }).collect()
                };
                prop_assert_eq!(shown(&plan, mine), shown(&again, theirs));
            }
            first.adopt(&plan);
            second.adopt(&again);
        }
    }

    /// Senders that stay in their shard stay senders, but for those named by their place in line.
    #[test]
    fn who_stays_in_its_shard_stays_a_sender(life in life()) {
        let Ok(rules) = Rules::new(life.rules.clone(), 64) else { return Ok(()) };
        let mut planner = Planner::new(rules.clone(), Arc::new(Standard));
        let mut roles: Vec<Vec<u64>> = vec![Vec::new(); rules.subgroups()];
        for who in rosters(&life) {
            let Ok(plan) = planner.plan(&who) else { continue };
            let senders = plan.subgroups.iter().map(|subgroup| {
                let senders = subgroup.senders.iter().map(|sender| sender.rank);
                let all = senders.chain(subgroup.waiting.iter().copied());
                all.map(|rank| who[rank.index()].seniority).collect::<Vec<u64>>()
            });
            let senders: Vec<Vec<u64>> = senders.collect();
            for at in 0..rules.subgroups() {
                let by_place = matches!(rules.of(at).1.senders, Senders::Ordinals(_));
                let stayed = roles[at].iter().filter(|s| plan.assignment.shards[at].contains(s));
                let kept = stayed.clone().all(|s| senders[at].contains(s));
                prop_assert!(kept || by_place);
            }
            planner.adopt(&plan);
            roles = senders;
        }
    }
}

proptest! {
    /// A sponsor may be a liar.
    #[test]
    fn fuzz_no_bytes_make_a_joiner_panic(
        life in life(),
        flips in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..4),
        cut in any::<u16>(),
        noise in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let Ok(rules) = Rules::new(life.rules.clone(), 64) else { return Ok(()) };
        let who = candidates(0..6);
        let mut planner = Planner::new(rules.clone(), Arc::new(Standard));
        let Ok(plan) = planner.plan(&who) else { return Ok(()) };
        planner.adopt(&plan);
        let mut bytes = planner.encode(&who);
        for (at, byte) in flips {
            let at = usize::from(at) % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - usize::from(cut) % 3);
        for bytes in [bytes, noise] {
            if planner.restore(&bytes, &who).is_ok() {
                let plan = planner.plan(&who).unwrap();
                obeys(&rules, &plan, &who);
            }
        }
    }
}
