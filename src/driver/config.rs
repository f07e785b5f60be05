// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a group is opened with, checked, and turned into a view.

use super::network::{Carrier, Network};
use crate::base::{Epoch, Rank, Versions};
use crate::error::{Error, Status};
use crate::fabric::shm::peers::Peers;
use crate::group::detector::lag::Lag;
use crate::group::membership::Options;
use crate::group::policy::{Candidate, Plan, Planner, Policy, Rule, Rules, Senders, Standard, Who};
use crate::group::view::View;
use crate::limits::*;
use crate::mem::region::Want;
use crate::sst::layout::{Mode, Shape};
use crate::sst::ring::{ring_bytes_min, slot_bytes};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
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

/// How the members of a subgroup are parted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shards {
    /// Each is an ordered stream of its own.
    pub count: u16,
    /// Members of each: one with fewer waits. Nobody sends in it (`Inadequate`), and what was sent and
    /// not delivered is kept, until a view has members enough. 0: a shard may even be empty.
    pub members_min: u16,
    /// Members of each at the most; 0: no bound. Who is too many has no place in the subgroup.
    pub members_max: u16,
}

impl Default for Shards {
    fn default() -> Self {
        Shards { count: 1, members_min: 0, members_max: 0 }
    }
}

/// Code of the application that places members in shards, instead of the standard policy: the same
/// function at every member (`group::policy::Policy`). Members whose code disagrees are found before
/// they deliver anything: those that are not of one mind with a majority of the view stop (`Mismatch`).
#[derive(Clone)]
pub struct OwnPolicy(pub Arc<dyn Policy + Send + Sync>);

impl fmt::Debug for OwnPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnPolicy")
    }
}

/// One subgroup: an ordered stream with its own members, or several.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubgroupConfig {
    /// May be empty; else no two are the same.
    pub name: String,
    pub shards: Shards,
    /// Ranks; empty: all members of the group.
    pub members: Vec<u16>,
    /// Ranks that may send; `None`: all members of the subgroup.
    pub senders: Option<Vec<u16>>,
    /// Only the first so many to arrive in a shard send; when one of them goes, the next in line
    /// follows. 0: no bound. Not together with `senders`.
    pub senders_first: u16,
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
            name: String::new(),
            shards: Shards::default(),
            members: Vec::new(),
            senders: None,
            senders_first: 0,
            lanes: 1,
            mode: Mode::Stable,
            window: 4096,
            window_bytes: 0,
            message_bytes_max: 1 << 20,
            lag: Lag::Wait,
        }
    }
}

/// Whether that may be the name of a group.
pub fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.chars().all(fits)
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
    /// With `Views`: joins a group that runs, instead of founding one; `rank` says nothing then.
    pub join: bool,
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
    /// With `Views`: of two members, the one of the lower rank goes on alone when it loses the other, which
    /// stops; else both do. Not for a link that may break: both live then, and the one that stops has
    /// delivered nothing that the other has not, but is out. The same at every member.
    pub tie_break: bool,
    /// What the transfer of the application's state to one that joins may take, on either side.
    pub transfer: crate::transfer::Options,
    /// Who places members in shards; `None`: the standard policy (`group::policy::Standard`).
    pub policy: Option<OwnPolicy>,
    /// Members on other hosts, if there are any.
    pub network: Network,
    /// Which processes of this host may be members: those of this user, if it says nothing. Each
    /// member decides for itself, so give it to all.
    pub peers: Peers,
    /// The wire versions that this process speaks. There is one, so far; tests of upgrades say others.
    pub versions: Versions,
}

impl Config {
    /// A group of `members` with one subgroup of all of them.
    pub fn new(group: &str, rank: u16, members: u16) -> Config {
        Config {
            group: group.into(),
            rank,
            members,
            membership: Changes::default(),
            join: false,
            subgroups: vec![SubgroupConfig::default()],
            idle: Idle::default(),
            lock: Want::No,
            huge: Want::No,
            open_timeout: Duration::from_secs(60),
            liveness_every_ns: 10_000_000,
            suspicion_ns: SUSPICION_NS_DEFAULT,
            tie_break: false,
            transfer: crate::transfer::Options::default(),
            policy: None,
            network: Network::default(),
            peers: Peers::default(),
            versions: Versions::OURS,
        }
    }

    /// The first view. An error names the value and what it may be.
    pub fn view(&self) -> Result<View, Error> {
        self.first().map(|(view, _)| view)
    }

    /// The same, and the plan that it is made from.
    pub fn first(&self) -> Result<(View, Plan), Error> {
        let bad = |detail: String| Err(Error::new(Status::Invalid, detail));
        if !is_name(&self.group) {
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
        let span = SUSPICION_NS_MIN..=SUSPICION_NS_MAX;
        if self.suspicion_ns != 0 && !span.contains(&self.suspicion_ns) {
            return bad(format!(
                "time to suspicion {} ns: 0 (never), or {SUSPICION_NS_MIN} to {SUSPICION_NS_MAX}",
                self.suspicion_ns
            ));
        }
        if self.tie_break && self.membership == Changes::Fixed {
            return bad("a tie-break, in a group whose members are fixed: it ends at once".into());
        }
        let rules = self.rules(self.members)?;
        let evicts = |of: &SubgroupConfig| of.lag != Lag::Wait;
        if let Some(at) = self.subgroups.iter().position(evicts)
            && self.membership == Changes::Fixed
        {
            return bad(format!(
                "subgroup {at}: a policy of lag, in a group whose members are fixed"
            ));
        }
        let founder = |seat: u16| Candidate {
            seniority: seat.into(),
            incarnation: 0,
            seat,
            name: String::new(),
        };
        let founders: Vec<Candidate> = (0..self.members).map(founder).collect();
        let plan = Planner::new(rules, self.policy()).plan(&founders);
        let plan = plan.map_err(|why| Error::new(Status::Invalid, why))?;
        if let Some(waits) = plan.inadequate().next()
            && self.membership == Changes::Fixed
        {
            return bad(waits.to_string()); // nobody comes who could be missing
        }
        let (epoch, me) = (Epoch(1), Rank(self.rank));
        let (members, subgroups) = (self.members.into(), plan.subgroups.clone());
        Ok((View { epoch, me, members, subgroups }, plan))
    }

    /// By what processes on one host find each other: the group's name, and that of the host where a
    /// machine is parted (`Network::host`).
    pub fn near_name(&self) -> Cow<'_, str> {
        match (&self.network.carrier, &self.network.host) {
            (Carrier::Shm, _) => Cow::Borrowed(&self.group),
            (_, host) if host.is_empty() => Cow::Borrowed(&self.group),
            (_, host) => Cow::Owned(format!("{}@{host}", self.group)),
        }
    }

    /// Who places members in shards.
    pub fn policy(&self) -> Arc<dyn Policy + Send + Sync> {
        self.policy.as_ref().map_or_else(|| Arc::new(Standard) as _, |own| own.0.clone())
    }

    /// How many subgroups a view has: each shard is one, numbered through.
    pub fn shards(&self) -> u16 {
        self.subgroups.iter().fold(0, |all, of| u16::saturating_add(all, of.shards.count))
    }

    /// Which of the configured subgroups a view's subgroup is a shard of.
    pub fn subgroup(&self, shard: u16) -> Option<&SubgroupConfig> {
        let all = self.subgroups.iter();
        all.flat_map(|of| (0..of.shards.count).map(move |_| of)).nth(shard.into())
    }

    /// What the subgroups are to be in a group of at most `members_most`. Its founders are as many
    /// as `members`, and lists of ranks mean them. An error names the value and what it may be.
    pub fn rules(&self, members_most: u16) -> Result<Rules, Error> {
        let bad = |detail: String| Error::new(Status::Invalid, detail);
        let mut rules = Vec::new();
        for (at, subgroup) in self.subgroups.iter().enumerate() {
            let rule = subgroup.rule(self.members);
            rules.push(rule.map_err(|why| bad(format!("subgroup {at}: {why}")))?);
        }
        Rules::new(rules, members_most).map_err(bad)
    }

    /// What all members of a group whose views change must agree on, whoever is in which view.
    pub fn lasting_text(&self, rules: &Rules) -> String {
        let subgroups = rules.subgroups();
        let policy = if self.policy.is_some() { "own" } else { "standard" };
        let time = self.suspicion_ns;
        let mut first = format!("subgroups={subgroups}\nsuspicion_ns={time}\npolicy={policy}\n");
        if self.tie_break {
            first.push_str("tie_break=yes\n"); // who would stop must not wait for one that does, too
        }
        self.name_text() + &first + &rules.agreed_text()
    }

    /// It is in the names of sockets, but who may write their directory may give them others.
    fn name_text(&self) -> String {
        format!("group={}\n", self.group)
    }

    /// What is chosen of the membership.
    pub fn options(&self) -> Options {
        Options { tie_break: self.tie_break, ..Options::default() }
    }

    /// What all members of one view must agree on, a line per figure (`fabric::shm::door`).
    pub fn agreed_text(&self, view: &View) -> String {
        let list = |ranks: &[Rank]| {
            ranks.iter().map(|rank| rank.0.to_string()).collect::<Vec<_>>().join(",")
        };
        let mut text = self.name_text();
        text.push_str(&format!("members={}\nsubgroups={}\n", view.members, view.subgroups.len()));
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
    fn rule(&self, founders: u16) -> Result<Rule, String> {
        let all: Vec<u16> = (0..founders).collect();
        let chosen = if self.members.is_empty() { &all } else { &self.members };
        let of = |ranks: Vec<Rank>| {
            Who::Seniorities(ranks.iter().map(|rank| u64::from(rank.0)).collect())
        };
        let members = ascending(chosen, &all, "member")?;
        let who = if self.members.is_empty() { Who::All } else { of(members) };
        let senders = match (&self.senders, self.senders_first) {
            (None, 0) => Senders::All,
            (None, count) => Senders::First(count),
            (Some(senders), 0) => Senders::Of(of(ascending(senders, chosen, "sender")?)),
            (Some(_), count) => {
                return Err(format!("both a list of senders and the first {count} of them"));
            }
        };
        if let Lag::Report { after_ns } | Lag::Evict { after_ns } = self.lag
            && !(LAG_NS_MIN..=SUSPICION_NS_MAX).contains(&after_ns)
        {
            return Err(format!("lag after {after_ns} ns: {LAG_NS_MIN} to {SUSPICION_NS_MAX}"));
        }
        let Shards { count, members_min, members_max } = self.shards;
        Ok(Rule {
            name: self.name.clone(),
            who,
            shards: count,
            members_min,
            members_max,
            senders,
            shape: self.shape(),
        })
    }

    /// `Rules` says what is wrong with it.
    fn shape(&self) -> Shape {
        let least = ring_bytes_min(self.message_bytes_max.into());
        let slot = slot_bytes(self.message_bytes_max);
        let wanted = u64::from(self.window).saturating_mul(slot);
        let ring_bytes = match self.window_bytes {
            0 => wanted.min(RING_BYTES_USUAL).max(4 * slot).max(least),
            bytes => bytes,
        };
        Shape {
            senders: 0,
            lanes: self.lanes,
            mode: self.mode,
            window: self.window,
            message_bytes_max: self.message_bytes_max,
            ring_bytes,
        }
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
        let both = |c: &mut Config| {
            (c.subgroups[0].senders, c.subgroups[0].senders_first) = (Some(vec![1]), 2);
        };
        assert!(refused(both).contains("the first 2 of them"));
        assert!(refused(|c| c.suspicion_ns = 1).contains("20000000 to 3600000000000"));
        let lag = Lag::Evict { after_ns: 7 };
        assert!(refused(|c| c.subgroups[0].lag = lag).contains("lag after 7 ns"));
        let lag = Lag::Report { after_ns: 7_000_000 };
        assert!(refused(|c| c.subgroups[0].lag = lag).contains("whose members are fixed"));
        assert!(refused(|c| c.subgroups[0].window_bytes = 5000).contains("window_bytes 5000"));
    }

    #[test]
    fn shards_are_subgroups_and_may_ask_for_members() {
        let mut config = Config::new("g", 1, 5);
        config.subgroups[0].shards = Shards { count: 2, members_min: 2, members_max: 2 };
        config.subgroups.push(SubgroupConfig { senders: Some(vec![4]), ..Default::default() });
        let view = config.view().unwrap();
        let ranks = |at: usize| view.subgroups[at].members.iter().map(|rank| rank.0).collect();
        let shards: [Vec<u16>; 3] = [ranks(0), ranks(1), ranks(2)];
        assert_eq!(shards, [vec![0, 2], vec![1, 3], vec![0, 1, 2, 3, 4]]);
        assert_eq!(view.subgroups[2].senders[0].rank, Rank(4));
        assert_eq!((config.shards(), config.subgroup(3)), (3, None));
        assert_eq!(config.subgroup(2).unwrap().senders, Some(vec![4]));
        config.members = 3;
        config.subgroups.pop();
        let why = config.view().unwrap_err();
        assert!(why.detail.contains("shard 1 of subgroup 0 has 1 members and needs 2"), "{why}");
        config.membership = Changes::Views;
        let view = config.view().unwrap();
        assert_eq!([0, 1].map(|at| view.subgroups[at].part.lacks), [0, 1], "others may come");
        let text = config.lasting_text(&config.rules(64).unwrap());
        assert!(text.contains("subgroups=2\n") && text.contains("subgroup.0.members_max=2\n"));
    }

    #[test]
    fn defaults_make_a_view_of_all() {
        let view = Config::new("g", 1, 3).view().unwrap();
        assert_eq!(view.subgroups[0].members.len(), 3);
        assert_eq!(view.subgroups[0].senders.len(), 3);
        assert!(view.subgroups[0].shape.ring_bytes >= 4 << 20);
    }
}
