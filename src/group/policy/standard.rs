// SPDX-License-Identifier: MIT OR Apache-2.0
//! The standard policy: who has a place keeps it, who has none takes the emptiest, and only where a
//! shard would have too few does anybody move.

use super::assignment::Assignment;
use super::{Candidate, Placed, Policy, Rule, Rules};

/// Places each subgroup by itself, in four steps:
///
/// ```text
/// 1  who was in a shard and is still a candidate stays, in the old order
/// 2  the others, by seniority, go one by one into the shard with the fewest (the first of equals),
///    unless all are full
/// 3  while a shard has too few and another one more than it needs, the newest of the shard with the
///    most (the last of equals) moves to the shard with the fewest
/// ```
///
/// Where there are not enough for all, nobody moves out of a shard that has just enough, or too few:
/// it would leave behind what only its members have.
///
/// Steps 2 and 3 move as few as any policy could: each move fills one missing place, and newcomers
/// have filled what they can before. It never moves anybody for balance alone: a sender that moves
/// loses its role.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standard;

impl Policy for Standard {
    fn place(
        &self,
        rules: &Rules,
        candidates: &[Candidate],
        before: &Assignment,
    ) -> Result<Placed, String> {
        let mut shards = Vec::new();
        for (at, rule) in rules.list().iter().enumerate() {
            let mut fit: Vec<u64> = Vec::new();
            let eligible = candidates.iter().filter(|candidate| rule.who.has(candidate));
            fit.extend(eligible.map(|candidate| candidate.seniority));
            shards.extend(settle(rule, &fit, &before.shards[rules.shards(at)]));
        }
        Ok(Assignment { shards }.into())
    }
}

/// `fit`: whom the rule lets in, by seniority.
fn settle(rule: &Rule, fit: &[u64], before: &[Vec<u64>]) -> Vec<Vec<u64>> {
    let stays = |shard: &Vec<u64>| {
        let here = shard.iter().copied().filter(|member| fit.contains(member));
        here.take(rule.most()).collect::<Vec<u64>>()
    };
    let mut shards: Vec<Vec<u64>> = before.iter().map(stays).collect();
    for &member in fit {
        if shards.iter().any(|shard| shard.contains(&member)) {
            continue;
        }
        let fewest = fewest(&shards);
        if shards[fewest].len() < rule.most() {
            shards[fewest].push(member);
        }
    }
    loop {
        let (fewest, need) = (fewest(&shards), usize::from(rule.members_min));
        let most = (0..shards.len()).max_by_key(|&at| shards[at].len()).expect("a shard");
        if shards[fewest].len() >= need || shards[most].len() <= need {
            return shards;
        }
        let mover = shards[most].pop().expect("it has the most");
        shards[fewest].push(mover);
    }
}

/// The first of those with the fewest members.
fn fewest(shards: &[Vec<u64>]) -> usize {
    (0..shards.len()).min_by_key(|&at| shards[at].len()).expect("a rule has a shard")
}
