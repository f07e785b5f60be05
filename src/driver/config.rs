// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a group is opened with, checked, and turned into a view.

use crate::base::{Epoch, Rank};
use crate::error::{Error, Status};
use crate::group::detector::lag::Lag;
use crate::group::view::{Subgroup, View};
use crate::limits::*;
use crate::mem::region::Want;
use crate::sst::layout::{Mode, Shape};
use crate::sst::ring::{ring_bytes_min, slot_bytes};
use std::time::Duration;

/// What a polling thread does when there is nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Idle {
    /// Polls on: the lowest latency, a whole core.
    Spin,
    /// Gives the core away and polls on: for more members than cores.
    Yield,
    /// Polls a while, then sleeps until a peer rings.
    #[default]
    Park,
}

/// Whether a group's members may change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Changes {
    /// They are those of the configuration; the first loss ends the group.
    #[default]
    Fixed,
    /// Whoever fails or leaves is dropped, and the others go on, as long as they are a majority.
    Views,
}

/// One subgroup: an ordered stream with its own members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubgroupConfig {
    /// Ranks; empty: all members of the group.
    pub members: Vec<u16>,
    /// Ranks that may send; `None`: all members of the subgroup.
    pub senders: Option<Vec<u16>>,
    /// Producing threads per sender, at least 1.
    pub lanes: u16,
    pub mode: Mode,
    /// Messages that one lane may have unreleased.
    pub window: u32,
    /// Bytes of a lane's ring; 0: room for a window of the largest messages, but no more than
    /// 4 MiB, unless four of them need more.
    pub window_bytes: u64,
    /// Bytes of the largest message.
    pub message_bytes_max: u32,
    /// What is done about a member that its senders wait for.
    pub lag: Lag,
}

impl Default for SubgroupConfig {
    fn default() -> Self {
        SubgroupConfig {
            members: Vec::new(),
            senders: None,
            lanes: 1,
            mode: Mode::Stable,
            window: 4096,
            window_bytes: 0,
            message_bytes_max: 1 << 20,
            lag: Lag::Wait,
        }
    }
}

/// Everything that `Group::open` needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the group on this host: letters, digits, `-`, `_`, `.`.
    pub group: String,
    pub rank: u16,
    pub members: u16,
    /// With `Views`, `rank` and `members` are those of the first view.
    pub membership: Changes,
    pub subgroups: Vec<SubgroupConfig>,
    pub idle: Idle,
    /// Keep the shared pages in memory (`mlock`).
    pub lock: Want,
    /// Use 2 MiB pages.
    pub huge: Want,
    /// How long `open` waits for the other members.
    pub open_timeout: Duration,
    /// How often a busy turn looks at connections and visitors, in nanoseconds.
    pub liveness_every_ns: u64,
    /// The time to suspicion, in nanoseconds: a member that shows no sign of life for so long is
    /// suspected (`group::detector::beats`). The same at every member; 0: silence is never held
    /// against anybody.
    pub suspicion_ns: u64,
}

impl Config {
    /// A group of `members` with one subgroup of all of them.
    pub fn new(group: &str, rank: u16, members: u16) -> Config {
        Config {
            group: group.into(),
            rank,
            members,
            membership: Changes::default(),
            subgroups: vec![SubgroupConfig::default()],
            idle: Idle::default(),
            lock: Want::No,
            huge: Want::No,
            open_timeout: Duration::from_secs(60),
            liveness_every_ns: 10_000_000,
            suspicion_ns: SUSPICION_NS_DEFAULT,
        }
    }

    /// The first view. An error names the value and what it may be.
    pub fn view(&self) -> Result<View, Error> {
        let bad = |detail: String| Err(Error::new(Status::Invalid, detail));
        let name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.group.is_empty()
            || self.group.len() > NAME_BYTES_MAX
            || !self.group.chars().all(name)
        {
            return bad(format!(
                "group name {:?} must be 1 to {NAME_BYTES_MAX} letters, digits, '-', '_' or '.'",
                self.group
            ));
        }
        if self.members == 0 || usize::from(self.members) > MEMBERS_MAX {
            return bad(format!("{} members: a group has 1 to {MEMBERS_MAX}", self.members));
        }
        if self.rank >= self.members {
            let last = self.members - 1;
            return bad(format!(
                "rank {} of {} members: ranks are 0 to {last}",
                self.rank, self.members
            ));
        }
        if self.subgroups.is_empty() || self.subgroups.len() > SUBGROUPS_MAX {
            return bad(format!(
                "{} subgroups: a group has 1 to {SUBGROUPS_MAX}",
                self.subgroups.len()
            ));
        }
        let span = SUSPICION_NS_MIN..=SUSPICION_NS_MAX;
        if self.suspicion_ns != 0 && !span.contains(&self.suspicion_ns) {
            return bad(format!(
                "time to suspicion {} ns: 0 (never), or {SUSPICION_NS_MIN} to {SUSPICION_NS_MAX}",
                self.suspicion_ns
            ));
        }
        let mut subgroups = Vec::new();
        for (at, subgroup) in self.subgroups.iter().enumerate() {
            let built = subgroup.build(self.members);
            subgroups.push(
                built
                    .map_err(|why| Error::new(Status::Invalid, format!("subgroup {at}: {why}")))?,
            );
        }
        let (epoch, me) = (Epoch(1), Rank(self.rank));
        Ok(View { epoch, me, members: usize::from(self.members), subgroups })
    }

    /// What all members must agree on, a line per figure (`fabric::shm::door`).
    pub fn agreed_text(&self, view: &View) -> String {
        let list = |ranks: &[Rank]| {
            ranks.iter().map(|rank| rank.0.to_string()).collect::<Vec<_>>().join(",")
        };
        let mut text = format!("members={}\nsubgroups={}\n", view.members, view.subgroups.len());
        if self.membership == Changes::Views {
            text.push_str("membership=views\n");
        }
        // Who beats for a longer time than others have patience for would be suspected.
        text.push_str(&format!("suspicion_ns={}\n", self.suspicion_ns));
        for (at, subgroup) in view.subgroups.iter().enumerate() {
            let shape = &subgroup.shape;
            let mut senders: Vec<Rank> =
                subgroup.senders.iter().map(|sender| sender.rank).collect();
            senders.dedup();
            let mode = if shape.mode == Mode::Stable { "stable" } else { "received" };
            let lines = [
                ("members", list(&subgroup.members)),
                ("senders", list(&senders)),
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

impl SubgroupConfig {
    fn build(&self, members: u16) -> Result<Subgroup, String> {
        let all: Vec<u16> = (0..members).collect();
        let chosen = if self.members.is_empty() { &all } else { &self.members };
        let ranks = ascending(chosen, &all, "member")?;
        let senders = self.senders.as_ref().unwrap_or(chosen);
        let senders = ascending(senders, chosen, "sender")?;
        if self.lanes == 0 || usize::from(self.lanes) > LANES_MAX {
            return Err(format!("{} lanes: a sender has 1 to {LANES_MAX}", self.lanes));
        }
        if senders.len() * usize::from(self.lanes) > SENDERS_MAX {
            let (senders, lanes) = (senders.len(), self.lanes);
            return Err(format!("{senders} senders of {lanes} lanes are more than {SENDERS_MAX}"));
        }
        if self.window == 0 || u64::from(self.window) > WINDOW_MAX {
            return Err(format!("window {}: it is 1 to {WINDOW_MAX} messages", self.window));
        }
        let largest = u64::from(self.message_bytes_max);
        if largest > MESSAGE_BYTES_MAX {
            return Err(format!("largest message {largest}: at most {MESSAGE_BYTES_MAX} bytes"));
        }
        if let Lag::Report { after_ns } | Lag::Evict { after_ns } = self.lag
            && !(LAG_NS_MIN..=SUSPICION_NS_MAX).contains(&after_ns)
        {
            return Err(format!("lag after {after_ns} ns: {LAG_NS_MIN} to {SUSPICION_NS_MAX}"));
        }
        let least = ring_bytes_min(largest);
        let ring_bytes = match self.window_bytes {
            0 => {
                let slot = slot_bytes(self.message_bytes_max);
                (u64::from(self.window) * slot).min(RING_BYTES_USUAL).max(4 * slot).max(least)
            }
            bytes if bytes < least || bytes > RING_BYTES_MAX => {
                return Err(format!("window_bytes {bytes}: {least} to {RING_BYTES_MAX} here"));
            }
            bytes => bytes,
        };
        let shape = Shape {
            senders: 0,
            lanes: self.lanes,
            mode: self.mode,
            window: self.window,
            message_bytes_max: self.message_bytes_max,
            ring_bytes: ring_bytes.next_multiple_of(4096),
        };
        Ok(Subgroup::new(ranks, &senders, self.lanes, shape))
    }
}

/// Sorted ranks, without doubles, all of them in `among`.
fn ascending(ranks: &[u16], among: &[u16], what: &str) -> Result<Vec<Rank>, String> {
    let mut sorted = ranks.to_vec();
    sorted.sort_unstable();
    if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(format!("a {what} is named twice in {ranks:?}"));
    }
    if let Some(stranger) = sorted.iter().find(|rank| !among.contains(rank)) {
        return Err(format!("{what} {stranger} is not among {among:?}"));
    }
    Ok(sorted.into_iter().map(Rank).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl Fn(&mut Config)) -> String {
        let mut config = Config::new("g", 0, 3);
        change(&mut config);
        config.view().unwrap_err().detail
    }

    #[test]
    fn an_error_names_the_value_and_its_range() {
        assert!(refused(|c| c.group = "a/b".into()).contains("\"a/b\""));
        assert!(refused(|c| c.rank = 3).contains("ranks are 0 to 2"));
        assert!(refused(|c| c.members = 65).contains("1 to 64"));
        assert!(refused(|c| c.subgroups.clear()).contains("1 to 32"));
        assert!(refused(|c| c.subgroups[0].window = 0).contains("window 0"));
        assert!(refused(|c| c.subgroups[0].lanes = 9).contains("9 lanes"));
        assert!(refused(|c| c.subgroups[0].members = vec![0, 0]).contains("twice"));
        assert!(refused(|c| c.subgroups[0].senders = Some(vec![7])).contains("sender 7"));
        assert!(refused(|c| c.suspicion_ns = 1).contains("20000000 to 3600000000000"));
        let lag = Lag::Evict { after_ns: 7 };
        assert!(refused(|c| c.subgroups[0].lag = lag).contains("lag after 7 ns"));
        assert!(refused(|c| c.subgroups[0].window_bytes = 5000).contains("window_bytes 5000"));
    }

    #[test]
    fn defaults_make_a_view_of_all() {
        let view = Config::new("g", 1, 3).view().unwrap();
        assert_eq!(view.subgroups[0].members.len(), 3);
        assert_eq!(view.subgroups[0].senders.len(), 3);
        assert!(view.subgroups[0].shape.ring_bytes >= 4 << 20);
    }
}
