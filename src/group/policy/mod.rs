// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which members form which shards, and who sends in them: the same answer at every member.
//!
//! The configuration has a *rule* per subgroup; each of its shards is one ordered stream, so one
//! `view::Subgroup`, and has the same index in every view. A policy places the members of a view in
//! the shards. The standard one keeps whoever has a place; code of the application may do otherwise.
//!
//! P1  A plan follows from rules, candidates and the assignment before it, and from nothing else: no
//!     clock, no environment, no order of a hash map. Every member makes it for itself.
//! P2  The assignment before is therefore part of what a joiner is given (`assignment.rs`).
//! P3  Planning changes nothing; `adopt` does, when the view is installed. A leader may plan many
//!     batches of changes that are never proposed.
//! P4  Who has a place keeps it while it is a member, but for the fewest moves that the least number
//!     of members per shard asks for. So a sender stays one as long as it stays in its shard.
//! P5  What a policy answers is checked against the rules like a peer's bytes: its mistake is an
//!     error with a text, not a panic.
//! P6  A shard with too few members is planned all the same, as one that *waits*: who is in it stays
//!     there, nobody sends. So a view is never held up: whoever is dead must be removed, and whoever
//!     joins may be the one that is missing.
//!
//! ```text
//! open:      planner = Planner::new(config.rules(most)?, Arc::new(Standard))
//! a joiner:  planner.restore(bytes from its sponsor, candidates of its first view)?
//! install:   plan = planner.plan(candidates of the next view)?; planner.adopt(&plan)
//!            View { epoch, me, members, subgroups: plan.subgroups }
//!            plan.inadequate(): the shards that wait (P6); tell the application
//!            show plan.digest() in the new block; who shows another has another policy
//! sponsor:   bytes = planner.encode(candidates of the view that the joiner will be in)
//!                before it adopts that view's plan: the joiner makes the same plan from them
//! ```
//!
//! Cost: at a view change only; members times shards.

pub mod assignment;
pub mod rules;
mod standard;

#[cfg(all(test, not(loom)))]
mod tests;

use super::membership::roster::Member;
use super::view::{Part, Sender, Subgroup};
use crate::base::Rank;
use crate::limits::{LANES_MAX, MEMBERS_MAX, SENDERS_MAX};
use crate::sst::layout::Shape;
use assignment::Assignment;
pub use rules::{Rule, Rules, Senders, Who};
pub use standard::Standard;
use std::fmt;
use std::sync::Arc;

/// A member of the view that is planned. In the order of their ranks, so by rising seniority.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    pub seniority: u64,
    /// Chosen anew by every process that opens the group; 0 in the first view: nobody knows it yet.
    pub incarnation: u64,
    /// Its place on its host; founders have their first ranks.
    pub seat: u16,
    /// What it calls itself; may be empty. A policy that looks at names needs all of them to be known
    /// everywhere before the view is.
    pub name: String,
}

/// A view's members as candidates; `name_of` says what each calls itself.
pub fn candidates(members: &[Member], name_of: impl Fn(&Member) -> String) -> Vec<Candidate> {
    let of = |member: &Member| {
        let Member { seniority, incarnation, address, .. } = *member;
        Candidate { seniority, incarnation, seat: address.extra, name: name_of(member) }
    };
    members.iter().map(of).collect()
}

/// A shard has too few members, and waits for more (P6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inadequate {
    /// Which rule, and which of its shards.
    pub subgroup: u16,
    pub shard: u16,
    pub have: u16,
    pub need: u16,
}

impl fmt::Display for Inadequate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inadequate { subgroup, shard, have, need } = self;
        write!(
            f,
            "shard {shard} of subgroup {subgroup} has {have} members and needs {need}: start more of \
             them"
        )
    }
}

/// What a policy answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placed {
    /// The members of each shard, in the order of the view's subgroups; each in order of arrival: who
    /// was there before first. Whoever is in no shard of a subgroup is not in that subgroup.
    pub assignment: Assignment,
    /// The seniorities of those of them that send, by subgroup of the view, if `Rule::senders` leaves
    /// it open who they are; `None`: as that says.
    pub senders: Option<Vec<Vec<u64>>>,
}

impl From<Assignment> for Placed {
    fn from(assignment: Assignment) -> Placed {
        Placed { assignment, senders: None }
    }
}

/// Places members in shards. Must be the same function at every member (P1): of what it is given and of
/// nothing else. It may be asked again for the same view, and for views that never come.
pub trait Policy {
    /// Where everybody is. An error, in a sentence, ends this member: it cannot have the view.
    fn place(
        &self,
        rules: &Rules,
        candidates: &[Candidate],
        before: &Assignment,
    ) -> Result<Placed, String>;
}

/// The callback of those who need code.
impl<F> Policy for F
where
    F: Fn(&Rules, &[Candidate], &Assignment) -> Result<Placed, String>,
{
    fn place(
        &self,
        rules: &Rules,
        candidates: &[Candidate],
        before: &Assignment,
    ) -> Result<Placed, String> {
        self(rules, candidates, before)
    }
}

/// What a view will look like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    pub assignment: Assignment,
    pub subgroups: Vec<Subgroup>,
}

impl Plan {
    /// The shards that wait (P6).
    pub fn inadequate(&self) -> impl Iterator<Item = Inadequate> {
        let waits = self.subgroups.iter().filter(|subgroup| subgroup.part.lacks > 0);
        waits.map(|subgroup| {
            let (have, part) = (subgroup.members.len() as u16, subgroup.part);
            let need = have + part.lacks;
            Inadequate { subgroup: part.of, shard: part.shard, have, need }
        })
    }

    /// The same for the same plan, at every member: what to compare before the view is used, since a
    /// policy that breaks P1 would part the group in silence.
    pub fn digest(&self) -> u64 {
        let shards = self.assignment.shards.iter();
        let words =
            shards.flat_map(|shard| [shard.len() as u64].into_iter().chain(shard.iter().copied()));
        assignment::fnv(words.chain([digest_of(&self.subgroups)]))
    }
}

/// The same for what of it shows in a view: but for the order of arrival.
pub fn digest_of(subgroups: &[Subgroup]) -> u64 {
    let mut words = vec![subgroups.len() as u64];
    for subgroup in subgroups {
        let shape = &subgroup.shape;
        words.extend([subgroup.members.len() as u64, subgroup.senders.len() as u64]);
        words.extend(subgroup.members.iter().map(|rank| u64::from(rank.0)));
        let sender = |sender: &Sender| u64::from(sender.rank.0) << 16 | u64::from(sender.lane);
        words.extend(subgroup.senders.iter().map(sender));
        words.extend([shape.mode as u64, shape.window.into(), shape.ring_bytes]);
        words.extend([u64::from(shape.message_bytes_max), u64::from(subgroup.part.lacks)]);
        words.extend(subgroup.waiting.iter().map(|rank| u64::from(rank.0)));
    }
    assignment::fnv(words)
}

/// A policy with what it needs to know of the view before.
pub struct Planner {
    rules: Rules,
    policy: Arc<dyn Policy + Send + Sync>,
    before: Assignment,
}

impl Planner {
    pub fn new(rules: Rules, policy: Arc<dyn Policy + Send + Sync>) -> Planner {
        let before = Assignment::empty(&rules);
        Planner { rules, policy, before }
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The assignment of the view that is installed.
    pub fn assignment(&self) -> &Assignment {
        &self.before
    }

    /// What a view of these members looks like (P1, P3, P6). An error is the application's policy's:
    /// it has broken a rule, which the text names (P5). Panics if seniorities do not rise.
    pub fn plan(&self, candidates: &[Candidate]) -> Result<Plan, String> {
        assert!(candidates.len() <= MEMBERS_MAX);
        assert!(candidates.windows(2).all(|pair| pair[0].seniority < pair[1].seniority));
        // Nobody is told of members that are gone: a joiner could not be (P2).
        let before = self.before.among(candidates);
        let Placed { assignment, senders } = self.policy.place(&self.rules, candidates, &before)?;
        assignment.check(&self.rules, candidates)?;
        let count = senders.as_ref().map_or(self.rules.subgroups(), Vec::len);
        if count != self.rules.subgroups() {
            let want = self.rules.subgroups();
            return Err(format!("senders of {count} shards where the rules have {want}"));
        }
        let mut subgroups = Vec::new();
        for (at, shard) in assignment.shards.iter().enumerate() {
            let (of, rule) = self.rules.of(at);
            let number = at - self.rules.shards(of).start;
            let chosen = senders.as_ref().map(|senders| senders[at].as_slice());
            let subgroup = self.subgroup(rule, shard, chosen, candidates);
            let subgroup =
                subgroup.map_err(|why| format!("shard {number} of subgroup {of}: {why}"))?;
            let part = Part { of: of as u16, shard: number as u16, ..subgroup.part };
            subgroups.push(Subgroup { part, ..subgroup });
        }
        Ok(Plan { assignment, subgroups })
    }

    fn subgroup(
        &self,
        rule: &Rule,
        shard: &[u64],
        chosen: Option<&[u64]>,
        candidates: &[Candidate],
    ) -> Result<Subgroup, String> {
        if let Some(chosen) = chosen {
            rule.senders.allow(chosen, shard, candidates)?;
        }
        let (mut members, mut senders) = (Vec::new(), Vec::new());
        for (ordinal, &seniority) in shard.iter().enumerate() {
            let rank = rank_of(candidates, seniority).expect("checked");
            members.push(rank);
            let by_rule = || rule.senders.has(&candidates[rank.index()], ordinal);
            if chosen.map_or_else(by_rule, |chosen| chosen.contains(&seniority)) {
                senders.push(rank);
            }
        }
        let Shape { lanes, .. } = rule.shape;
        assert!(lanes > 0 && usize::from(lanes) <= LANES_MAX, "rules are checked");
        if senders.len() * usize::from(lanes) > SENDERS_MAX {
            return Err(too_many_senders(senders.len(), lanes));
        }
        members.sort_unstable();
        senders.sort_unstable();
        let lacks = usize::from(rule.members_min).saturating_sub(members.len()) as u16;
        Ok(match lacks {
            0 => Subgroup::new(members, &senders, lanes, rule.shape),
            _ => Subgroup::lacking(lacks, members, &senders, lanes, rule.shape),
        })
    }

    /// That plan's view is installed: the next plan starts from it.
    pub fn adopt(&mut self, plan: &Plan) {
        self.before = plan.assignment.clone();
    }

    /// For a joiner that will be one of `candidates`: what it has to know of the view before.
    pub fn encode(&self, candidates: &[Candidate]) -> Vec<u8> {
        self.before.encode(candidates)
    }

    /// The joiner's side. The bytes are a peer's: an error says what is wrong with them.
    pub fn restore(&mut self, bytes: &[u8], candidates: &[Candidate]) -> Result<(), String> {
        self.before = Assignment::decode(bytes, &self.rules, candidates)?;
        Ok(())
    }
}

fn rank_of(candidates: &[Candidate], seniority: u64) -> Option<Rank> {
    let at = candidates.binary_search_by_key(&seniority, |candidate| candidate.seniority).ok()?;
    Some(Rank(at as u16))
}

fn too_many_senders(senders: usize, lanes: u16) -> String {
    format!("{senders} senders of {lanes} lanes are more than {SENDERS_MAX}")
}
