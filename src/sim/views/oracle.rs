// SPDX-License-Identifier: MIT OR Apache-2.0
//! What views add to what must hold; numbers as in `protocol.md` §f.
//!
//! It remembers what every process was ever given, dead ones included: agreement is *uniform*.

use super::lane::Name;
use super::plan::Plan;
use crate::base::Count;
use crate::group::membership::Stop;
use crate::group::membership::changes::Change;
use crate::mem::Message;
use crate::sim::dice::Pattern;
use crate::sim::oracle::{Broken, FIFO, INTEGRITY, LIVENESS, REUSE, TOTAL_ORDER};
use crate::sst::layout::Mode;
use crate::sst::ring::slot_bytes;
use std::collections::BTreeMap;

pub const VIEWS: &str = "2, 3 same epoch, same view; each a later one";
pub const EMPTY: &str = "on receipt: what came is delivered before the view ends";
pub const GRUDGE: &str = "2 who has left is nobody's suspect";
pub const INCLUSION: &str = "2 a process is in its views, and stops only when it was suspected";
pub const OPINION: &str = "2 who has read that it is suspected says that it was expelled";
pub const AGREEMENT: &str = "15 one change per position, never taken back";
pub const CUTS: &str = "11 all act on the same cut";
pub const PRIMARY: &str = "4 a majority of a view makes the next";
pub const SAME: &str = "6 who installs a view has delivered the same of the one before";
pub const ACCOUNT: &str =
    "what a send accepted is delivered or given back, and a leaver's delivered";
pub const LACKING: &str = "a subgroup that lacks members delivers nothing, and keeps everything";
pub const UNIFORM: &str = "7 what anybody delivered all survivors have";

/// A lane: process and lane.
type Lane = (usize, u16);

/// What a process is to be given next of a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    Ordinal(u64),
    /// The first message of the lane's ring in that epoch, which its owner may still have to begin.
    FirstOf(u64),
}

/// What of one subgroup was delivered in one epoch.
#[derive(Default)]
struct Chapter {
    /// Number, sender and ordinal.
    sequence: Vec<(u64, Lane, u64)>,
    /// By process: how far it is.
    at: BTreeMap<usize, usize>,
    /// Somebody has installed the next view with so many delivered.
    closed: Option<usize>,
}

#[derive(Default)]
pub struct Oracle {
    seed: u64,
    modes: Vec<Mode>,
    templates: Vec<super::plan::Template>,
    tie_break: bool,
    founders: u64,
    /// By subgroup and lane: lengths of the messages sent, by ordinal.
    sent: BTreeMap<(usize, Lane), Vec<u32>>,
    /// By subgroup and lane: ordinals that its application was given back.
    back: BTreeMap<(usize, Lane), Vec<u64>>,
    /// By process, subgroup and lane: the next ordinal that it is to be given.
    next: BTreeMap<(usize, usize, Lane), Next>,
    /// In *received* mode, by process, epoch, subgroup and lane: the same when the view began there.
    begun: BTreeMap<(usize, u64, usize, Lane), Next>,
    chapters: BTreeMap<(u64, usize), Chapter>,
    /// By epoch and subgroup: the counts with which its members begin.
    starts: BTreeMap<(u64, usize), BTreeMap<Lane, u64>>,
    /// By epoch, subgroup and lane: messages of it before the first slot of its ring.
    bases: BTreeMap<(u64, usize, Lane), u64>,
    /// By the same: who has returned from how many of the ring's.
    returned: BTreeMap<(u64, usize, Lane), BTreeMap<usize, u64>>,
    cuts: BTreeMap<(u64, usize), Vec<Count>>,
    /// By position: what was agreed.
    agreed: Vec<Change>,
    pub views: BTreeMap<u64, Vec<usize>>,
    pub installed: BTreeMap<usize, u64>,
    pub leavers: Vec<usize>,
    pub suspected: Vec<usize>,
    /// Who was told to stop in the middle of a call of its application's, and why.
    pub out: Vec<(usize, Stop)>,
}

impl Oracle {
    pub fn new(plan: &Plan) -> Oracle {
        let templates = plan.templates.clone();
        let modes = templates.iter().map(|template| template.shape.mode).collect();
        let (tie_break, founders) = (plan.tie_break, plan.founders as u64);
        Oracle { seed: plan.seed, modes, templates, tie_break, founders, ..Oracle::default() }
    }

    fn lanes(&self, subgroup: usize) -> Vec<Lane> {
        let template = &self.templates[subgroup];
        let lanes = |&process: &usize| (0..template.lanes).map(move |lane| (process, lane));
        template.senders.iter().flat_map(lanes).collect()
    }

    pub fn pattern(&self, subgroup: usize, lane: Lane, ordinal: u64) -> Pattern {
        Pattern::new(self.seed, subgroup, lane.0 * 16 + usize::from(lane.1), ordinal)
    }

    /// What the lane's next message must contain.
    pub fn next_pattern(&self, name: Name) -> Pattern {
        let lane = (name.process, name.lane);
        self.pattern(name.subgroup, lane, self.count(name.subgroup, lane))
    }

    /// Of the ring of that view, what all its readers have returned from.
    pub fn returned_by_all(&self, epoch: u64, subgroup: usize, lane: Lane) -> u64 {
        let members = &self.templates[subgroup].members;
        let readers = self.views[&epoch].iter().filter(|who| members.contains(who));
        let by = self.returned.get(&(epoch, subgroup, lane));
        let of = |who: &usize| {
            let returned = by.and_then(|by| by.get(who)).copied().unwrap_or(0);
            returned + self.ahead(*who, epoch, subgroup, lane)
        };
        readers.map(of).min().unwrap_or(0)
    }

    /// How many of the first messages of a lane's ring a process has had in earlier views.
    fn ahead(&self, who: usize, epoch: u64, subgroup: usize, lane: Lane) -> u64 {
        let begun = self.begun.get(&(who, epoch, subgroup, lane));
        let Some(&Next::Ordinal(begun)) = begun else { return 0 };
        begun.saturating_sub(self.base(epoch, subgroup, lane))
    }

    /// The ordinal that a process is to be given next.
    fn next(&self, who: usize, subgroup: usize, lane: Lane) -> u64 {
        match self.next.get(&(who, subgroup, lane)) {
            Some(Next::Ordinal(next)) => *next,
            Some(Next::FirstOf(epoch)) => self.base(*epoch, subgroup, lane),
            None => 0,
        }
    }

    pub fn count(&self, subgroup: usize, lane: Lane) -> u64 {
        self.sent.get(&(subgroup, lane)).map_or(0, |sent| sent.len() as u64)
    }

    pub fn sent(
        &mut self,
        subgroup: usize,
        lane: Lane,
        ordinal: u64,
        len: u32,
    ) -> Result<(), Broken> {
        let sent = self.sent.entry((subgroup, lane)).or_default();
        if sent.len() as u64 != ordinal {
            return Err((FIFO, format!("{lane:?} sends ordinal {ordinal} after {}", sent.len())));
        }
        sent.push(len);
        Ok(())
    }

    /// A call that was under way when its lane was settled is told that it sent nothing from that
    /// ordinal on. How many it had counted.
    pub fn take_back(&mut self, subgroup: usize, lane: Lane, from: u64) -> u64 {
        let sent = self.sent.entry((subgroup, lane)).or_default();
        let before = sent.len() as u64;
        sent.truncate(from as usize);
        before - sent.len() as u64
    }

    /// A process whose part is over gives a message back to its application.
    pub fn handed_back(
        &mut self,
        subgroup: usize,
        lane: Lane,
        ordinal: u64,
        bytes: &[u8],
    ) -> Result<(), Broken> {
        let sent = self.sent.get(&(subgroup, lane)).and_then(|sent| sent.get(ordinal as usize));
        let pattern = self.pattern(subgroup, lane, ordinal);
        if sent != Some(&(bytes.len() as u32)) || pattern.first_difference(bytes).is_some() {
            let detail = format!("{lane:?}: ordinal {ordinal}, {} bytes, is none", bytes.len());
            return Err((INTEGRITY, detail));
        }
        self.back.entry((subgroup, lane)).or_default().push(ordinal);
        Ok(())
    }

    /// A process that is out, with no call of its application's under way: it has delivered all of
    /// its own messages, or had them given back; those, too, that it has delivered *on receipt* and
    /// that wait for members, if it leaves.
    pub fn has_accounted(&self, who: usize, reason: Stop) -> Result<(), Broken> {
        for subgroup in 0..self.modes.len() {
            for lane in self.lanes(subgroup).into_iter().filter(|lane| lane.0 == who) {
                let count = self.count(subgroup, lane);
                let next = self.next(who, subgroup, lane);
                let back = self.back.get(&(subgroup, lane)).cloned().unwrap_or_default();
                let more = reason == Stop::Left && self.modes[subgroup] == Mode::Received;
                let first = back.first().filter(|first| more && **first < next).unwrap_or(&next);
                let all = back == (*first..count).collect::<Vec<u64>>();
                let last = self.installed.get(&who).and_then(|epoch| self.views.get(epoch));
                let waits = last.is_some_and(|view| self.lacks(subgroup, view));
                if !all || reason == Stop::Left && !back.is_empty() && !waits {
                    let detail = format!(
                        "{lane:?} in subgroup {subgroup}: of {count} {next} are delivered, {back:?} \
                         given back; {reason:?}"
                    );
                    return Err((ACCOUNT, detail));
                }
            }
        }
        Ok(())
    }

    /// A process begins a view. `source`: if it joins with the state of another member, whose.
    pub fn install(
        &mut self,
        who: usize,
        epoch: u64,
        view: &[usize],
        source: Option<usize>,
    ) -> Result<(), Broken> {
        let known = self.views.entry(epoch).or_insert_with(|| view.to_vec());
        if known != view {
            return Err((VIEWS, format!("{epoch} is {known:?}, and at {who} {view:?}")));
        }
        if !view.contains(&who) {
            return Err((INCLUSION, format!("{who} installs {epoch} of {view:?}")));
        }
        let before = self.installed.insert(who, epoch);
        if before.is_some_and(|before| before + 1 != epoch) {
            return Err((VIEWS, format!("{who} installs {epoch} after {before:?}")));
        }
        if let Some(parent) = self.views.get(&(epoch - 1)) {
            let stay = parent.iter().filter(|process| view.contains(process)).count();
            let left = parent.iter().filter(|p| !view.contains(p) && self.leavers.contains(p));
            let tie = self.tie_break && parent.len() == 2 && view.contains(&parent[0]);
            if 2 * stay <= parent.len() - left.count() && !tie {
                return Err((PRIMARY, format!("{view:?} after {parent:?}")));
            }
        }
        for subgroup in 0..self.templates.len() {
            if self.templates[subgroup].members.contains(&who) {
                match self.modes[subgroup] {
                    Mode::Stable => self.begin(who, epoch, subgroup, before.is_some())?,
                    Mode::Received => {
                        self.begin_received(who, epoch, subgroup, before.is_some(), source);
                    }
                }
            }
        }
        Ok(())
    }

    /// In *received* mode each goes on where it was. Who joins begins where its source did; without a
    /// state, with the first messages that are sent in this view, again or for the first time.
    fn begin_received(
        &mut self,
        who: usize,
        epoch: u64,
        subgroup: usize,
        was: bool,
        source: Option<usize>,
    ) {
        for lane in self.lanes(subgroup) {
            let known = |of: usize| self.begun.get(&(of, epoch, subgroup, lane)).copied();
            let next = match source.and_then(known) {
                // In the view that it came with nothing was sent, since members were lacking.
                _ if was => match self.next.get(&(who, subgroup, lane)).copied() {
                    Some(Next::FirstOf(first)) if self.lacked(first, subgroup) => {
                        Some(Next::FirstOf(epoch))
                    }
                    next => next,
                },
                Some(next) => Some(next),
                None => Some(Next::FirstOf(epoch)),
            };
            let next = next.unwrap_or(Next::Ordinal(0));
            self.next.insert((who, subgroup, lane), next);
            self.begun.insert((who, epoch, subgroup, lane), next);
        }
    }

    fn begin(&mut self, who: usize, epoch: u64, subgroup: usize, was: bool) -> Result<(), Broken> {
        let lanes = self.lanes(subgroup);
        if was {
            let chapter = self.chapters.entry((epoch - 1, subgroup)).or_default();
            let mine = chapter.at.get(&who).copied().unwrap_or(0);
            let closed = *chapter.closed.get_or_insert(mine);
            if closed != mine || mine != chapter.sequence.len() {
                let all = chapter.sequence.len();
                let detail = format!(
                    "{who} installs {epoch} with {mine} messages of subgroup {subgroup}, others \
                     with {closed}, somebody had {all}"
                );
                return Err((if closed != mine { SAME } else { UNIFORM }, detail));
            }
        }
        let counts_of = |of: usize| -> BTreeMap<Lane, u64> {
            lanes.iter().map(|&lane| (lane, self.next(of, subgroup, lane))).collect()
        };
        // A joiner begins where the survivors are; if there are none, at the end of what was sent.
        let counts = match self.starts.get(&(epoch, subgroup)) {
            _ if was || epoch == 1 => counts_of(who),
            Some(counts) => counts.clone(),
            None => {
                let (parent, view) = (&self.views[&(epoch - 1)], &self.views[&epoch]);
                let members = &self.templates[subgroup].members;
                let stays = |p: &&usize| view.contains(p) && members.contains(p);
                let all = |lane: &Lane| (*lane, self.count(subgroup, *lane));
                let survivors: Vec<_> =
                    parent.iter().filter(stays).map(|p| counts_of(*p)).collect();
                let most = |lane: &Lane| (*lane, survivors.iter().map(|of| of[lane]).max());
                let known = |(lane, count): (Lane, Option<u64>)| count.map(|count| (lane, count));
                let most: Option<_> = lanes.iter().map(most).map(known).collect();
                most.unwrap_or_else(|| lanes.iter().map(all).collect())
            }
        };
        let start = self.starts.entry((epoch, subgroup)).or_insert_with(|| counts.clone());
        if *start != counts {
            return Err((SAME, format!("{who} begins {epoch} with {counts:?}, others {start:?}")));
        }
        for (lane, count) in counts {
            self.next.insert((who, subgroup, lane), Next::Ordinal(count));
        }
        Ok(())
    }

    /// A message is handed to the callback of a process.
    pub fn delivered(
        &mut self,
        who: usize,
        epoch: u64,
        subgroup: usize,
        lane: Lane,
        message: &Message,
    ) -> Result<u64, Broken> {
        let name = || format!("{who} in view {epoch} subgroup {subgroup} of {lane:?}");
        if self.lacks(subgroup, &self.views[&epoch]) {
            return Err((LACKING, format!("{}: number {}", name(), message.number)));
        }
        let number = message.number;
        let expected = self.next(who, subgroup, lane);
        let count = self.count(subgroup, lane);
        let is = |ordinal: u64| {
            let len = self.sent[&(subgroup, lane)][ordinal as usize];
            let pattern = self.pattern(subgroup, lane, ordinal);
            len == message.len && pattern.first_difference(message.bytes()).is_none()
        };
        let ordinal = expected;
        if ordinal >= count || !is(ordinal) {
            let other = (0..count).find(|ordinal| is(*ordinal));
            let detail = format!(
                "{}: number {number}, {} bytes, is not ordinal {expected} of {count} but {other:?}",
                name(),
                message.len
            );
            return Err((if other.is_some() { FIFO } else { INTEGRITY }, detail));
        }
        self.next.insert((who, subgroup, lane), Next::Ordinal(ordinal + 1));
        if self.modes[subgroup] == Mode::Received {
            return Ok(ordinal);
        }
        let chapter = self.chapters.entry((epoch, subgroup)).or_default();
        let at = chapter.at.entry(who).or_insert(0);
        let entry = (number, lane, ordinal);
        match chapter.sequence.get(*at) {
            Some(other) if *other != entry => {
                return Err((TOTAL_ORDER, format!("{}: {entry:?}, others {other:?}", name())));
            }
            Some(_) => {}
            None => {
                if let Some(closed) = chapter.closed {
                    let detail = format!("{}: beyond the {closed} of the view", name());
                    return Err((UNIFORM, detail));
                }
                if chapter.sequence.last().is_some_and(|last| last.0 >= number) {
                    return Err((TOTAL_ORDER, format!("{}: number {number}", name())));
                }
                chapter.sequence.push(entry);
            }
        }
        *at += 1;
        Ok(ordinal)
    }

    /// A callback is about to return: its messages have not changed under it, however long it took
    /// and whatever views came and went meanwhile.
    pub fn returned(
        &mut self,
        who: usize,
        epoch: u64,
        subgroup: usize,
        lane: Lane,
        ordinal: u64,
        message: &Message,
    ) -> Result<(), Broken> {
        let pattern = self.pattern(subgroup, lane, ordinal);
        if let Some(byte) = pattern.first_difference(message.bytes()) {
            let detail = format!("{who}: byte {byte} of ordinal {ordinal} of {lane:?} changed");
            return Err((REUSE, detail));
        }
        let by = self.returned.entry((epoch, subgroup, lane)).or_default();
        *by.entry(who).or_insert(0) += 1;
        Ok(())
    }

    /// The ring of a lane in that view begins with its message `base`.
    pub fn begins(&mut self, epoch: u64, subgroup: usize, lane: Lane, base: u64) {
        self.bases.insert((epoch, subgroup, lane), base);
    }

    pub fn base(&self, epoch: u64, subgroup: usize, lane: Lane) -> u64 {
        self.bases.get(&(epoch, subgroup, lane)).copied().unwrap_or(0)
    }

    /// 10: what of a ring with so many slots filled somebody may still read fits into it.
    pub fn fits(&self, epoch: u64, subgroup: usize, lane: Lane, slots: u64) -> Result<(), Broken> {
        let template = &self.templates[subgroup];
        let least = self.returned_by_all(epoch, subgroup, lane);
        let base = self.base(epoch, subgroup, lane);
        let Some(lens) = self.sent.get(&(subgroup, lane)) else { return Ok(()) };
        // Whoever is ahead may be so by more than has been sent again.
        let lens = &lens[(base + least.min(slots)) as usize..(base + slots) as usize];
        let bytes: u64 = lens.iter().map(|len| slot_bytes(*len)).sum();
        let shape = &template.shape;
        if lens.len() as u64 > u64::from(shape.window) || bytes > shape.ring_bytes {
            let detail = format!(
                "{lane:?} has {} messages in {bytes} bytes of view {epoch} that somebody may still \
                 read",
                lens.len()
            );
            return Err((REUSE, detail));
        }
        Ok(())
    }

    /// Somebody delivers what a cut says.
    pub fn acts_on(&mut self, epoch: u64, subgroup: usize, cut: &[Count]) -> Result<(), Broken> {
        let known = self.cuts.entry((epoch, subgroup)).or_insert_with(|| cut.to_vec());
        if known != cut {
            let detail = format!("view {epoch} subgroup {subgroup}: {known:?} and {cut:?}");
            return Err((CUTS, detail));
        }
        Ok(())
    }

    /// Somebody knows these changes to be agreed, from that position on.
    pub fn agrees(&mut self, who: usize, base: u64, changes: &[Change]) -> Result<(), Broken> {
        for (change, at) in changes.iter().zip(base - self.founders..) {
            match self.agreed.get(at as usize) {
                None if at as usize == self.agreed.len() => self.agreed.push(*change),
                Some(agreed) if agreed == change => {}
                other => {
                    let detail = format!("change {at} is {other:?}, and at {who} {change:?}");
                    return Err((AGREEMENT, detail));
                }
            }
        }
        Ok(())
    }

    pub fn may_stop(&self, who: usize, reason: Option<Stop>) -> Result<(), Broken> {
        let right = match reason {
            Some(Stop::Expelled { .. }) => self.suspected.contains(&who),
            Some(Stop::Left) => self.leavers.contains(&who),
            Some(Stop::Partitioned { .. }) => !self.suspected.is_empty(),
            _ => true,
        };
        if right { Ok(()) } else { Err((INCLUSION, format!("{who} stops: {reason:?}"))) }
    }

    fn lacks(&self, subgroup: usize, view: &[usize]) -> bool {
        self.templates[subgroup].lacks(view) > 0
    }

    fn lacked(&self, epoch: u64, subgroup: usize) -> bool {
        self.views.get(&epoch).is_some_and(|view| self.lacks(subgroup, view))
    }

    /// All is silent, and a lane of one that is left waits for members with so many messages.
    pub fn keeps(&self, name: Name, kept: u64) -> Result<(), Broken> {
        let Name { process, subgroup, lane } = name;
        let lane = (process, lane);
        let next = self.next(process, subgroup, lane);
        let count = self.count(subgroup, lane);
        if next + kept != count && self.modes[subgroup] == Mode::Stable {
            let detail = format!("{name:?} keeps {kept}; {next} of {count} were delivered");
            return Err((LACKING, detail));
        }
        Ok(())
    }

    /// All is silent, and `up` are left: they have all that those among them have sent.
    pub fn quiet(&self, up: &[usize]) -> Result<(), Broken> {
        self.out.iter().try_for_each(|(who, reason)| self.has_accounted(*who, *reason))?;
        for subgroup in 0..self.templates.len() {
            if self.lacks(subgroup, up) {
                continue; // `keeps`
            }
            let members = &self.templates[subgroup].members;
            let here: Vec<usize> = up.iter().copied().filter(|who| members.contains(who)).collect();
            for lane in self.lanes(subgroup).into_iter().filter(|lane| up.contains(&lane.0)) {
                let count = self.count(subgroup, lane);
                for &who in &here {
                    let next = self.next(who, subgroup, lane);
                    if next != count {
                        let detail =
                            format!("{who} has {next} of the {count} of {lane:?} in {subgroup}");
                        return Err((LIVENESS, detail));
                    }
                }
            }
        }
        Ok(())
    }
}
