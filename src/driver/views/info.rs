// SPDX-License-Identifier: MIT OR Apache-2.0
//! A view as the application sees it.

use super::super::policy::seat_of;
use crate::base::Rank;
use crate::error::Fault;
use crate::group::membership::roster::Roster;
use crate::group::view::{Part, View};
use crate::log_sink::{Level, say};

/// A member, as the application sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemberInfo {
    /// Chosen anew by every process that opens the group.
    pub incarnation: u64,
    /// Its name on this host is `squall/GROUP/SEAT`.
    pub seat: u16,
}

/// A view, as the application sees it. By rank, where nothing else is said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ViewInfo {
    /// The view's number; the first is 1.
    pub epoch: u64,
    /// My rank.
    pub rank: u16,
    /// The wire version that the view runs at: the highest that all its members speak.
    pub wire: u16,
    pub members: Vec<MemberInfo>,
    /// Ranks that were not in the view before.
    pub joined: Vec<u16>,
    /// Who was in the view before, and why it is no more.
    pub left: Vec<(MemberInfo, Fault)>,
    /// By subgroup, each shard one: members, and those that send.
    pub subgroups: Vec<(Vec<u16>, Vec<u16>)>,
    /// By subgroup: which shard of which it is, and whether it waits for members (`Part::lacks`).
    pub parts: Vec<Part>,
}

pub fn member_info(roster: &Roster, rank: Rank) -> MemberInfo {
    let member = roster.members[rank.index()];
    MemberInfo { incarnation: member.incarnation, seat: seat_of(roster, rank) }
}

pub fn info_of(
    roster: &Roster,
    view: &View,
    joined: Vec<u16>,
    left: Vec<(MemberInfo, Fault)>,
) -> ViewInfo {
    let members = (0..roster.len() as u16).map(|rank| member_info(roster, Rank(rank)));
    let subgroups = view.subgroups.iter().map(|subgroup| {
        let mut senders: Vec<u16> = subgroup.senders.iter().map(|sender| sender.rank.0).collect();
        senders.dedup();
        (subgroup.members.iter().map(|rank| rank.0).collect(), senders)
    });
    ViewInfo {
        epoch: roster.epoch.0,
        rank: roster.me.0,
        wire: roster.wire(),
        members: members.collect(),
        joined,
        left,
        subgroups: subgroups.collect(),
        parts: view.subgroups.iter().map(|subgroup| subgroup.part).collect(),
    }
}

/// A view follows another one: whether that changes the wire version.
pub fn say_version(old: &Roster, new: &Roster) {
    let (epoch, before, wire) = (new.epoch.0, old.wire(), new.wire());
    if wire != before && old.epoch.0 > 0 {
        let text = format!("view {epoch}: the group runs at wire version {wire} now, not {before}");
        say(Level::Notice, &text);
    }
}
