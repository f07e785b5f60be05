// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules: what the configuration says of each subgroup. Values, checked once.

use super::{Candidate, rank_of, too_many_senders};
use crate::limits::*;
use crate::sst::layout::{Mode, Shape};
use crate::sst::ring::ring_bytes_min;

/// Some of the members.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Who {
    #[default]
    All,
    /// By seniority: founders have those of their first ranks, 0, 1, 2 …; who joins later, or again,
    /// is never among them.
    Seniorities(Vec<u64>),
    /// By what they call themselves: who comes back under its name is among them again.
    Names(Vec<String>),
}

impl Who {
    pub fn has(&self, candidate: &Candidate) -> bool {
        match self {
            Who::All => true,
            Who::Seniorities(list) => list.contains(&candidate.seniority),
            Who::Names(list) => list.contains(&candidate.name),
        }
    }

    /// How many it may be of a group of `most`.
    fn most(&self, most: usize) -> usize {
        match self {
            Who::Seniorities(list) => list.len().min(most),
            Who::All | Who::Names(_) => most,
        }
    }

    /// Independent of the order in which they were named.
    fn text(&self) -> String {
        let sorted = |mut words: Vec<String>| {
            words.sort();
            words.dedup();
            words.join(",")
        };
        match self {
            Who::All => "all".into(),
            Who::Seniorities(list) => {
                let mut list = list.clone();
                list.sort_unstable();
                list.dedup();
                list.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
            }
            Who::Names(list) => format!("names {}", sorted(list.clone())),
        }
    }
}

/// Who of a shard's members may send.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Senders {
    #[default]
    All,
    /// The first so many to arrive in it. When one of them goes, the next in line becomes a sender.
    First(u16),
    /// Those at these places in the order of arrival, from 0. Who came later moves up when somebody
    /// goes: such a role passes from member to member.
    Ordinals(Vec<u16>),
    Of(Who),
}

impl Senders {
    pub fn has(&self, candidate: &Candidate, ordinal: usize) -> bool {
        match self {
            Senders::All => true,
            Senders::First(count) => ordinal < usize::from(*count),
            Senders::Ordinals(list) => list.iter().any(|&at| usize::from(at) == ordinal),
            Senders::Of(who) => who.has(candidate),
        }
    }

    /// How many it may be of a shard of `most`.
    fn most(&self, most: usize) -> usize {
        match self {
            Senders::All => most,
            Senders::First(count) => most.min((*count).into()),
            Senders::Ordinals(list) => most.min(list.len()),
            Senders::Of(who) => who.most(most),
        }
    }

    /// Whether code may choose these of a shard's members: what of the rule it breaks.
    pub(super) fn allow(
        &self,
        chosen: &[u64],
        shard: &[u64],
        candidates: &[Candidate],
    ) -> Result<(), String> {
        for (at, seniority) in chosen.iter().enumerate() {
            let rank = rank_of(candidates, *seniority).filter(|_| shard.contains(seniority));
            let Some(rank) = rank else {
                return Err(format!("seniority {seniority} sends there and is no member of it"));
            };
            if chosen[..at].contains(seniority) {
                return Err(format!("rank {} sends there twice", rank.0));
            }
            if let Senders::Of(who) = self
                && !who.has(&candidates[rank.index()])
            {
                return Err(format!("rank {} may not send there", rank.0));
            }
        }
        let (have, most) = (chosen.len(), self.most(shard.len()));
        if have > most {
            return Err(format!("{have} senders, {most} at most"));
        }
        Ok(())
    }

    fn text(&self) -> String {
        match self {
            Senders::All => "all".into(),
            Senders::First(count) => format!("first {count}"),
            Senders::Ordinals(list) => {
                let mut list = list.clone();
                list.sort_unstable();
                list.dedup();
                let words: Vec<_> = list.iter().map(u16::to_string).collect();
                format!("ordinals {}", words.join(","))
            }
            Senders::Of(who) => who.text(),
        }
    }
}

/// A subgroup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// May be empty; else no two are the same.
    pub name: String,
    /// Who may be placed in it.
    pub who: Who,
    /// Disjoint parts, each an ordered stream of its own.
    pub shards: u16,
    /// Per shard: one with fewer waits (P6). 0: a shard may even be empty.
    pub members_min: u16,
    /// Per shard; who is too many waits for a place. 0: no bound.
    pub members_max: u16,
    pub senders: Senders,
    /// `senders` of it is what the plan comes to, whatever it says here.
    pub shape: Shape,
}

impl Rule {
    /// The bound of a shard's members.
    pub fn most(&self) -> usize {
        if self.members_max == 0 { MEMBERS_MAX } else { self.members_max.into() }
    }

    /// What is wrong with it in a group of at most `most` members.
    fn check(&self, most: usize) -> Result<(), String> {
        let Shape { lanes, window, message_bytes_max, ring_bytes, .. } = self.shape;
        let letter = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.len() > NAME_BYTES_MAX || !self.name.chars().all(letter) {
            return Err(format!(
                "name {:?}: at most {NAME_BYTES_MAX} letters, digits, '-', '_' or '.'",
                self.name
            ));
        }
        if self.shards == 0 || usize::from(self.shards) > SUBGROUPS_MAX {
            return Err(format!("{} shards: a subgroup has 1 to {SUBGROUPS_MAX}", self.shards));
        }
        let (least, limit) = (self.members_min, self.members_max);
        if usize::from(least) * usize::from(self.shards) > MEMBERS_MAX {
            return Err(format!(
                "at least {least} members in each of {} shards: at most {MEMBERS_MAX} in all",
                self.shards
            ));
        }
        if limit != 0 && limit < least {
            return Err(format!("at most {limit} members in a shard are fewer than {least}"));
        }
        if lanes == 0 || usize::from(lanes) > LANES_MAX {
            return Err(format!("{lanes} lanes: a sender has 1 to {LANES_MAX}"));
        }
        let senders = self.senders.most(self.who.most(most).min(self.most()));
        if senders * usize::from(lanes) > SENDERS_MAX {
            return Err(too_many_senders(senders, lanes));
        }
        if window == 0 || u64::from(window) > WINDOW_MAX {
            return Err(format!("window {window}: it is 1 to {WINDOW_MAX} messages"));
        }
        let largest = u64::from(message_bytes_max);
        if largest > MESSAGE_BYTES_MAX {
            return Err(format!("largest message {largest}: at most {MESSAGE_BYTES_MAX} bytes"));
        }
        let least = ring_bytes_min(largest);
        if ring_bytes < least || ring_bytes > RING_BYTES_MAX {
            return Err(format!("window_bytes {ring_bytes}: {least} to {RING_BYTES_MAX} here"));
        }
        Ok(())
    }
}

/// The rules of a group: checked, at least one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    /// By subgroup of the view: which rule.
    of: Vec<usize>,
}

impl Rules {
    /// `members_most`: how many members the group may ever have. An error names the subgroup, the
    /// value and what it may be.
    pub fn new(mut rules: Vec<Rule>, members_most: u16) -> Result<Rules, String> {
        let mut of = Vec::new();
        for (at, rule) in rules.iter().enumerate() {
            rule.check(members_most.into()).map_err(|why| format!("subgroup {at}: {why}"))?;
            let same = |other: &Rule| !rule.name.is_empty() && other.name == rule.name;
            if let Some(other) = rules[..at].iter().position(same) {
                return Err(format!("subgroup {at}: name {:?} is that of {other}", rule.name));
            }
            of.extend((0..rule.shards).map(|_| at));
        }
        if of.is_empty() || of.len() > SUBGROUPS_MAX {
            return Err(format!(
                "{} subgroups, each shard counted: a group has 1 to {SUBGROUPS_MAX}",
                of.len()
            ));
        }
        for Rule { shape, .. } in &mut rules {
            shape.ring_bytes = shape.ring_bytes.next_multiple_of(4096);
        }
        Ok(Rules { rules, of })
    }

    pub fn list(&self) -> &[Rule] {
        &self.rules
    }

    /// How many subgroups a view has: one per shard.
    pub fn subgroups(&self) -> usize {
        self.of.len()
    }

    /// The rule of a view's subgroup, and which it is.
    pub fn of(&self, subgroup: usize) -> (usize, &Rule) {
        let at = self.of[subgroup];
        (at, &self.rules[at])
    }

    /// Which of a view's subgroups are the shards of a rule.
    pub fn shards(&self, rule: usize) -> std::ops::Range<usize> {
        let first = self.of.partition_point(|&at| at < rule);
        first..first + usize::from(self.rules[rule].shards)
    }

    /// What all members must agree on, a line per figure.
    pub fn agreed_text(&self) -> String {
        let mut text = String::new();
        for (at, rule) in self.rules.iter().enumerate() {
            let shape = &rule.shape;
            let mode = if shape.mode == Mode::Stable { "stable" } else { "received" };
            let lines = [
                ("name", rule.name.clone()),
                ("who", rule.who.text()),
                ("shards", rule.shards.to_string()),
                ("members_min", rule.members_min.to_string()),
                ("members_max", rule.members_max.to_string()),
                ("may_send", rule.senders.text()),
                ("lanes", shape.lanes.to_string()),
                ("mode", mode.to_string()),
                ("window", shape.window.to_string()),
                ("message_bytes_max", shape.message_bytes_max.to_string()),
                ("window_bytes", shape.ring_bytes.to_string()),
            ];
            for (key, value) in lines {
                text.push_str(&format!("subgroup.{at}.{key}={value}\n"));
            }
        }
        text
    }
}
