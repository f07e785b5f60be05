// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is in which shard, and as bytes for a joiner:
//!
//! ```text
//! byte 0        format: 1
//! byte 1        subgroups of a view (shards counted)
//! bytes 2..10   digest of the candidates (seniority and incarnation of each), little-endian
//! per subgroup  how many; then the rank of each among the candidates, a byte each, in the order in
//!               which they arrived in the shard
//! ```
//!
//! Only members of the view that the joiner will be in are told: nobody else counts for its plan.
//! Nothing may follow. The bytes are a peer's, so everything about them is checked.

use super::{Candidate, Rules, rank_of};
use crate::limits::{MEMBERS_MAX, SUBGROUPS_MAX};

const FORMAT: u8 = 1;
const HEAD: usize = 10;
const _: () = assert!(MEMBERS_MAX <= 256 && SUBGROUPS_MAX <= 255);

/// By subgroup of the view: the seniorities of its members, in the order of their arrival there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Assignment {
    pub shards: Vec<Vec<u64>>,
}

impl Assignment {
    /// Nobody is anywhere.
    pub fn empty(rules: &Rules) -> Assignment {
        Assignment { shards: vec![Vec::new(); rules.subgroups()] }
    }

    /// The same without all others.
    pub fn among(&self, candidates: &[Candidate]) -> Assignment {
        let stays = |shard: &Vec<u64>| {
            let here = shard.iter().copied();
            here.filter(|&member| rank_of(candidates, member).is_some()).collect()
        };
        Assignment { shards: self.shards.iter().map(stays).collect() }
    }

    /// Which shard of that rule a member is in, as the view's subgroup.
    pub fn shard_of(&self, rules: &Rules, rule: usize, seniority: u64) -> Option<usize> {
        rules.shards(rule).find(|&at| self.shards[at].contains(&seniority))
    }

    /// What of the rules it breaks, but for the least number of members.
    pub fn check(&self, rules: &Rules, candidates: &[Candidate]) -> Result<(), String> {
        if self.shards.len() != rules.subgroups() {
            let (have, want) = (self.shards.len(), rules.subgroups());
            return Err(format!("{have} shards where the rules have {want}"));
        }
        for (at, rule) in rules.list().iter().enumerate() {
            let mut placed = Vec::new();
            for shard in &self.shards[rules.shards(at)] {
                if shard.len() > rule.most() {
                    let (have, most) = (shard.len(), rule.most());
                    return Err(format!(
                        "subgroup {at}: {have} members in a shard, {most} at most"
                    ));
                }
                for &member in shard {
                    let Some(rank) = rank_of(candidates, member) else {
                        return Err(format!("subgroup {at}: nobody has seniority {member}"));
                    };
                    if !rule.who.has(&candidates[rank.index()]) {
                        return Err(format!("subgroup {at}: rank {} is not meant for it", rank.0));
                    }
                    if placed.contains(&member) {
                        return Err(format!("subgroup {at}: rank {} has two places", rank.0));
                    }
                    placed.push(member);
                }
            }
        }
        Ok(())
    }

    pub fn encode(&self, candidates: &[Candidate]) -> Vec<u8> {
        let mut bytes = vec![FORMAT, self.shards.len() as u8];
        bytes.extend(digest(candidates).to_le_bytes());
        for shard in &self.shards {
            let ranks = shard.iter().filter_map(|&member| rank_of(candidates, member));
            let ranks: Vec<u8> = ranks.map(|rank| rank.0 as u8).collect();
            bytes.push(ranks.len() as u8);
            bytes.extend(ranks);
        }
        bytes
    }

    /// The error says what is wrong.
    pub fn decode(
        bytes: &[u8],
        rules: &Rules,
        candidates: &[Candidate],
    ) -> Result<Assignment, String> {
        let Some((head, mut rest)) = bytes.split_at_checked(HEAD) else {
            return Err(format!("an assignment of {} bytes: {HEAD} at least", bytes.len()));
        };
        if head[0] != FORMAT {
            return Err(format!("an assignment of format {}: this is {FORMAT}", head[0]));
        }
        if usize::from(head[1]) != rules.subgroups() {
            let (have, want) = (head[1], rules.subgroups());
            return Err(format!("an assignment of {have} subgroups where the rules have {want}"));
        }
        if head[2..] != digest(candidates).to_le_bytes() {
            return Err("an assignment for other members than these".into());
        }
        let mut shards = Vec::new();
        for at in 0..rules.subgroups() {
            let part =
                rest.split_first().and_then(|(&count, rest)| rest.split_at_checked(count.into()));
            let Some((ranks, after)) = part else {
                return Err(format!("an assignment that ends in subgroup {at}"));
            };
            let mut shard = Vec::new();
            for &rank in ranks {
                let Some(candidate) = candidates.get(usize::from(rank)) else {
                    let most = candidates.len();
                    return Err(format!("an assignment with rank {rank} of {most} members"));
                };
                shard.push(candidate.seniority);
            }
            shards.push(shard);
            rest = after;
        }
        if !rest.is_empty() {
            return Err(format!("an assignment with {} bytes too many", rest.len()));
        }
        let assignment = Assignment { shards };
        assignment.check(rules, candidates)?;
        Ok(assignment)
    }
}

fn digest(candidates: &[Candidate]) -> u64 {
    fnv(candidates.iter().flat_map(|member| [member.seniority, member.incarnation]))
}

/// FNV-1a over the words' bytes: it tells mistakes, not attacks.
pub(super) fn fnv(words: impl IntoIterator<Item = u64>) -> u64 {
    let bytes = words.into_iter().flat_map(u64::to_le_bytes);
    bytes.fold(0xcbf2_9ce4_8422_2325, |digest: u64, byte| {
        (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
