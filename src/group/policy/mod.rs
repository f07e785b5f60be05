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
//!
//! ```text
//! open:      planner = Planner::new(config.rules(most)?, Box::new(Standard))
//! a joiner:  planner.restore(bytes from its sponsor, candidates of its first view)?
//! leader:    planner.plan(candidates of roster.after(batch))
//!                Err(Unplanned::Inadequate): keep the batch to itself, say so, wait for joins
//! install:   plan = planner.plan(candidates of the next view)?; planner.adopt(&plan)
//!            View { epoch, me, members, subgroups: plan.subgroups }
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
use super::view::{Sender, Subgroup};
use crate::base::Rank;
use crate::limits::{LANES_MAX, MEMBERS_MAX, SENDERS_MAX};
use crate::sst::layout::Shape;
use assignment::Assignment;
pub use rules::{Rule, Rules, Senders, Who};
pub use standard::Standard;
use std::fmt;

/// A member of the view that is planned. In the order of their ranks, so by rising seniority.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    pub seniority: u64,
    pub incarnation: u64,
    /// What it calls itself; may be empty. A policy that looks at names needs all of them to be known
    /// everywhere before the view is.
    pub name: String,
}

/// A view's members as candidates; `name_of` says what each calls itself.
pub fn candidates(members: &[Member], name_of: impl Fn(&Member) -> String) -> Vec<Candidate> {
    let of = |member: &Member| {
        let Member { seniority, incarnation, .. } = *member;
        Candidate { seniority, incarnation, name: name_of(member) }
    };
    members.iter().map(of).collect()
}

/// A subgroup has too few members for its shards: the view waits for more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inadequate {
    /// Which rule.
    pub subgroup: u16,
    pub have: u16,
    pub need: u16,
}

impl fmt::Display for Inadequate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inadequate { subgroup, have, need } = self;
        write!(f, "subgroup {subgroup} has {have} members and needs {need}: start more of them")
    }
}

/// Why there is no plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unplanned {
    Inadequate(Inadequate),
    /// The application's policy has broken a rule; which, and how.
    Unruly(String),
}

/// Places members in shards. Must be the same function at every member (P1).
pub trait Policy {
    /// The members of each shard, in the order of the view's subgroups; each in order of arrival:
    /// who is in `before` first. Whoever is in no shard of a subgroup is not in that subgroup.
    fn place(
        &self,
        rules: &Rules,
        candidates: &[Candidate],
        before: &Assignment,
    ) -> Result<Assignment, Inadequate>;

    /// Whether a member may send in a shard of `rule`, in which `ordinal` members arrived before it.
    fn may_send(&self, rule: &Rule, candidate: &Candidate, ordinal: usize) -> bool {
        rule.senders.has(candidate, ordinal)
    }
}

/// The callback of those who need code.
impl<F> Policy for F
where
    F: Fn(&Rules, &[Candidate], &Assignment) -> Result<Assignment, Inadequate>,
{
    fn place(
        &self,
        rules: &Rules,
        candidates: &[Candidate],
        before: &Assignment,
    ) -> Result<Assignment, Inadequate> {
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
    /// The same for the same plan, at every member: what to compare before the view is used, since a
    /// policy that breaks P1 would part the group in silence.
    pub fn digest(&self) -> u64 {
        let mut words = vec![self.subgroups.len() as u64];
        for (subgroup, shard) in self.subgroups.iter().zip(&self.assignment.shards) {
            let shape = &subgroup.shape;
            words.extend([shard.len() as u64, subgroup.senders.len() as u64]);
            words.extend(shard);
            words.extend(subgroup.members.iter().map(|rank| u64::from(rank.0)));
            let sender = |sender: &Sender| u64::from(sender.rank.0) << 16 | u64::from(sender.lane);
            words.extend(subgroup.senders.iter().map(sender));
            words.extend([shape.mode as u64, shape.window.into(), shape.ring_bytes]);
            words.push(shape.message_bytes_max.into());
        }
        assignment::fnv(words)
    }
}

/// A policy with what it needs to know of the view before.
pub struct Planner {
    rules: Rules,
    policy: Box<dyn Policy + Send>,
    before: Assignment,
}

impl Planner {
    pub fn new(rules: Rules, policy: Box<dyn Policy + Send>) -> Planner {
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

    /// What a view of these members looks like (P1, P3). Panics if seniorities do not rise.
    pub fn plan(&self, candidates: &[Candidate]) -> Result<Plan, Unplanned> {
        assert!(candidates.len() <= MEMBERS_MAX);
        assert!(candidates.windows(2).all(|pair| pair[0].seniority < pair[1].seniority));
        // Nobody is told of members that are gone: a joiner could not be (P2).
        let before = self.before.among(candidates);
        let placed = self.policy.place(&self.rules, candidates, &before);
        let assignment = placed.map_err(Unplanned::Inadequate)?;
        assignment.check(&self.rules, candidates).map_err(Unplanned::Unruly)?;
        let mut subgroups = Vec::new();
        for (at, shard) in assignment.shards.iter().enumerate() {
            let (of, rule) = self.rules.of(at);
            if shard.len() < usize::from(rule.members_min) {
                let (have, need) = (shard.len() as u16, rule.members_min);
                return Err(Unplanned::Inadequate(Inadequate { subgroup: of as u16, have, need }));
            }
            subgroups.push(self.subgroup(rule, shard, candidates).map_err(|why| {
                Unplanned::Unruly(format!("subgroup {of}, shard {at} of the view: {why}"))
            })?);
        }
        Ok(Plan { assignment, subgroups })
    }

    fn subgroup(
        &self,
        rule: &Rule,
        shard: &[u64],
        candidates: &[Candidate],
    ) -> Result<Subgroup, String> {
        let (mut members, mut senders) = (Vec::new(), Vec::new());
        for (ordinal, &seniority) in shard.iter().enumerate() {
            let rank = rank_of(candidates, seniority).expect("checked");
            members.push(rank);
            if self.policy.may_send(rule, &candidates[rank.index()], ordinal) {
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
        Ok(Subgroup::new(members, &senders, lanes, rule.shape))
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
