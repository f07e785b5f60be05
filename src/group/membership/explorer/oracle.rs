// SPDX-License-Identifier: MIT OR Apache-2.0
//! What must hold in every schedule (tests only); numbers as in `protocol.md` §f.
//!
//! It remembers what every process ever did, dead ones included: agreement is *uniform*.

use super::super::changes::Change;
use super::super::roster::Roster;
use crate::base::{Count, Versions};
use std::collections::{BTreeMap, BTreeSet};

pub type Broken = String;

/// What one process delivered of one subgroup in one epoch: by sender, and by whom.
type Delivered = BTreeMap<usize, Vec<Count>>;

#[derive(Default)]
pub struct Oracle {
    /// By epoch: the members' processes, by rank.
    pub views: BTreeMap<u64, Vec<usize>>,
    /// By position: what was agreed.
    agreed: Vec<Change>,
    founders: u64,
    /// By epoch and subgroup.
    delivered: BTreeMap<(u64, usize), Delivered>,
    /// Epochs that each process has installed.
    installed: BTreeMap<usize, BTreeSet<u64>>,
    /// Everybody whom anybody ever suspected.
    pub suspected: BTreeSet<usize>,
    /// Who has asked to leave.
    pub leavers: BTreeSet<usize>,
    pub tie_break: bool,
    /// What each process speaks.
    versions: Vec<Versions>,
    /// By epoch: the wire version.
    wires: BTreeMap<u64, u16>,
}

fn process(incarnation: u64) -> usize {
    incarnation as usize - 1
}

impl Oracle {
    pub fn new(founders: usize, tie_break: bool, versions: Vec<Versions>) -> Oracle {
        Oracle { founders: founders as u64, tie_break, versions, ..Oracle::default() }
    }

    /// A view runs at the highest version that all its members speak, wherever it is installed, and at
    /// no lower one than the view before.
    fn version(
        &mut self,
        who: usize,
        epoch: u64,
        members: &[usize],
        wire: u16,
    ) -> Result<(), Broken> {
        let common = Versions::common(members.iter().map(|member| self.versions[*member]));
        let before = self.wires.get(&(epoch - 1)).copied().unwrap_or(1);
        if common != Some(wire) || wire < before {
            return Err(format!(
                "wire version: {epoch} runs at {wire} at {who}, after {before}, and its members speak \
                 {common:?}"
            ));
        }
        self.wires.insert(epoch, wire);
        Ok(())
    }

    /// 2, 3, 4: view agreement, increasing epochs, primary partition.
    pub fn install(&mut self, who: usize, roster: &Roster) -> Result<(), Broken> {
        let epoch = roster.epoch.0;
        let members: Vec<usize> =
            roster.members.iter().map(|member| process(member.incarnation)).collect();
        let view = self.views.entry(epoch).or_insert_with(|| members.clone());
        if *view != members {
            return Err(format!("view agreement: {epoch} is {view:?} and at {who} {members:?}"));
        }
        if members[roster.me.index()] != who {
            return Err(format!("self-inclusion: {who} in view {epoch} {members:?}"));
        }
        self.version(who, epoch, &members, roster.wire())?;
        let mine = self.installed.entry(who).or_default();
        if mine.last().is_some_and(|last| *last >= epoch) {
            return Err(format!("{who} installs {epoch} after {mine:?}"));
        }
        mine.insert(epoch);
        if let Some(before) = self.views.get(&(epoch - 1)) {
            let stay = before.iter().filter(|process| members.contains(process)).count();
            let gone = before.iter().filter(|process| !members.contains(process));
            let leavers = gone.filter(|process| self.leavers.contains(process)).count();
            let tie = self.tie_break && before.len() == 2;
            if 2 * stay <= before.len() - leavers && !tie {
                return Err(format!("primary partition: {members:?} after {before:?}"));
            }
        }
        self.judge(epoch - 1)
    }

    /// 15: one change per position, and none is taken back.
    pub fn agrees(&mut self, who: usize, base: u64, changes: &[Change]) -> Result<(), Broken> {
        for (change, at) in changes.iter().zip(base - self.founders..) {
            match self.agreed.get(at as usize) {
                None if at as usize == self.agreed.len() => self.agreed.push(*change),
                Some(agreed) if agreed == change => {}
                other => {
                    return Err(format!("change {at} is agreed as {other:?}; {who}: {change:?}"));
                }
            }
        }
        Ok(())
    }

    /// 6, 7: whoever installs the next view has delivered whatever anybody ever delivered, so all
    /// of them the same. Counts only grow.
    pub fn deliver(
        &mut self,
        who: usize,
        epoch: u64,
        subgroup: usize,
        counts: Vec<Count>,
    ) -> Result<(), Broken> {
        let all = self.delivered.entry((epoch, subgroup)).or_default();
        if let Some(before) = all.get(&who)
            && before.iter().zip(&counts).any(|(before, count)| before > count)
        {
            return Err(format!("trim below delivered: {who} had {before:?}, now {counts:?}"));
        }
        all.insert(who, counts);
        self.judge(epoch)
    }

    fn judge(&self, epoch: u64) -> Result<(), Broken> {
        for (&(_, subgroup), all) in self.delivered.range((epoch, 0)..(epoch + 1, 0)) {
            let senders = all.values().next().map_or(0, Vec::len);
            for s in 0..senders {
                let most = all.values().map(|counts| counts[s]).max().expect("one delivered");
                let installers = all.iter().filter(|(who, _)| {
                    self.installed.get(who).is_some_and(|epochs| epochs.contains(&(epoch + 1)))
                });
                for (who, counts) in installers {
                    if counts[s] != most {
                        return Err(format!(
                            "uniform agreement: in view {epoch}, subgroup {subgroup}, sender {s} \
                             {most:?} were delivered, by {who} {:?}",
                            counts[s]
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}
