// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a list of members to a view, and to the memory that its members need of each other: the same
//! answer everywhere (`group/policy`).

use super::config::{Changes, Config};
use super::network::Carrier;
use crate::base::Rank;
use crate::error::{Error, Status};
use crate::fabric::Sizes;
use crate::group::detector::lag::Lag;
use crate::group::membership::roster::Roster;
use crate::group::policy::{Candidate, Plan, Planner, Who, candidates, digest_of};
use crate::group::view::View;
use crate::limits::{LANES_MAX, MEMBERS_MAX, SENDERS_MAX};
use crate::sst::layout::{Layout, Shape};

/// How lists of members become views.
pub struct Policy {
    planner: Planner,
    /// It is the application's: others' may differ.
    own: bool,
}

/// The largest group that a configuration allows: a sender of many lanes leaves room for fewer.
pub fn members_most(config: &Config) -> u16 {
    let lanes = config.subgroups.iter().map(|subgroup| usize::from(subgroup.lanes)).max();
    let lanes = lanes.unwrap_or(1).clamp(1, LANES_MAX);
    (SENDERS_MAX / lanes).min(MEMBERS_MAX).max(config.members.into()) as u16
}

/// What all members must agree on, a line per figure (`fabric::shm::door`).
pub fn config_text(config: &Config, view: &View) -> Result<String, Error> {
    if config.membership == Changes::Fixed {
        return Ok(config.agreed_text(view));
    }
    let rules = config.rules(members_most(config))?;
    let mut first = format!("membership=views\nfounders={}\n", config.members);
    match config.network.carrier {
        Carrier::Shm => {}
        several => first.push_str(&format!("fabric={}\n", several.text())),
    }
    let mut text = first + &config.lasting_text(&rules);
    if config.policy.is_some() {
        // Of those that differ most do so in the first view already.
        text.push_str(&format!("founders_placed={:016x}\n", digest_of(&view.subgroups)));
    }
    Ok(text)
}

impl Policy {
    pub fn new(config: &Config) -> Result<Policy, Error> {
        let rules = config.rules(members_most(config))?;
        let own = config.policy.is_some();
        Ok(Policy { planner: Planner::new(rules, config.policy()), own })
    }

    /// The view of a roster. An error says what the application's policy has answered that cannot be.
    pub fn view(&self, roster: &Roster) -> Result<(View, Plan), Error> {
        let unruly = |why| Error::new(Status::Invalid, format!("the policy: {why}"));
        let plan = self.planner.plan(&all(roster)).map_err(unruly)?;
        let (epoch, me, members) = (roster.epoch, roster.me, roster.len());
        Ok((View { epoch, me, members, subgroups: plan.subgroups.clone() }, plan))
    }

    /// That view is installed.
    pub fn adopt(&mut self, plan: &Plan) {
        self.planner.adopt(plan);
    }

    /// What all members must show of a plan before its view is used; never 0. `None`: they need not, the
    /// policy is the same everywhere.
    pub fn shows(&self, plan: &Plan) -> Option<u64> {
        self.own.then(|| plan.digest() | 1)
    }

    /// For one that is to join as a member of `roster`: what it must know before it can make views.
    pub fn encode(&self, roster: &Roster) -> Vec<u8> {
        self.planner.encode(&all(roster))
    }

    /// The joiner's side.
    pub fn restore(&mut self, bytes: &[u8], roster: &Roster) -> Result<(), String> {
        self.planner.restore(bytes, &all(roster))
    }

    /// What each subgroup of a view does about slow members.
    pub fn lags(&self, config: &Config) -> Vec<Lag> {
        let rules = self.planner.rules();
        (0..rules.subgroups()).map(|at| config.subgroups[rules.of(at).0].lag).collect()
    }

    /// Subgroups of a view.
    pub fn subgroups(&self) -> usize {
        self.planner.rules().subgroups()
    }

    /// Where one that joins later can be a sender.
    pub fn joiner_sends(&self) -> Vec<usize> {
        let rules = self.planner.rules();
        let open = |at: &usize| !matches!(rules.of(*at).1.who, Who::Seniorities(_));
        (0..rules.subgroups()).filter(open).collect()
    }

    /// Bytes of a control block that is large enough in every view, and of a sender's rings by
    /// subgroup.
    pub fn sizes(&self) -> (usize, Vec<usize>) {
        let layout = self.largest();
        let rings = (0..layout.shapes.len()).map(|at| layout.rings_bytes(at)).collect();
        (layout.control_bytes, rings)
    }

    /// A layout that is large enough for every view.
    pub fn largest(&self) -> Layout {
        let rules = self.planner.rules();
        let shape = |at: usize| {
            let shape = rules.of(at).1.shape;
            let most = MEMBERS_MAX * usize::from(shape.lanes);
            Shape { senders: most.min(SENDERS_MAX) as u16, ..shape }
        };
        let shapes: Vec<Shape> = (0..rules.subgroups()).map(shape).collect();
        Layout::new(&shapes)
    }
}

fn all(roster: &Roster) -> Vec<Candidate> {
    candidates(&roster.members, |_| String::new())
}

/// The subgroups in which that member sends.
pub fn sends(view: &View, rank: Rank) -> Vec<usize> {
    let of = |at: &usize| view.subgroups[*at].senders.iter().any(|sender| sender.rank == rank);
    (0..view.subgroups.len()).filter(of).collect()
}

/// The subgroups whose rings of `from` the member `to` reads.
pub fn reads(view: &View, from: Rank, to: Rank) -> Vec<usize> {
    sends(view, from).into_iter().filter(|at| view.subgroups[*at].has(to)).collect()
}

/// What `from` shows to `to` in a view.
pub fn shown(view: &View, from: Rank, to: Rank, (block, rings): &(usize, Vec<usize>)) -> Sizes {
    let mut sizes = Sizes { block: *block, rings: vec![None; rings.len()] };
    for at in reads(view, from, to) {
        sizes.rings[at] = Some(rings[at]);
    }
    sizes
}

/// The name of a member's place on this host: founders have their first ranks.
pub fn seat_of(roster: &Roster, rank: Rank) -> u16 {
    roster.members[rank.index()].address.extra
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::config::SubgroupConfig;
    use crate::group::membership::changes::{Change, What};
    use crate::group::membership::roster::Address;

    fn setting() -> (Policy, Roster) {
        let mut config = Config::new("g", 1, 4);
        let some = SubgroupConfig {
            members: vec![1, 3],
            senders: Some(vec![3]),
            lanes: 2,
            ..SubgroupConfig::default()
        };
        config.subgroups.push(some);
        let seat = |extra| Address { extra, ..Address::default() };
        let founders: Vec<_> = (0..4).map(|at| (u64::from(at) + 1, seat(at))).collect();
        (Policy::new(&config).unwrap(), Roster::first(&founders, Rank(1)))
    }

    #[test]
    fn members_keep_their_roles_when_ranks_move() {
        let (mut policy, first) = setting();
        let (view, plan) = policy.view(&first).unwrap();
        policy.adopt(&plan);
        assert_eq!(view.subgroups[1].members, [Rank(1), Rank(3)]);
        let change = |what| Change { what, ends: true };
        let next = first.next(&[change(What::Remove { member: 0 })]).unwrap();
        let view = policy.view(&next).unwrap().0;
        assert_eq!((view.me, view.members), (Rank(0), 3));
        assert_eq!(view.subgroups[0].senders.len(), 3);
        assert_eq!(view.subgroups[1].members, [Rank(0), Rank(2)]);
        assert_eq!((sends(&view, Rank(2)), sends(&view, Rank(0))), (vec![0, 1], vec![0]));
        assert_eq!(reads(&view, Rank(2), Rank(1)), [0], "who does not listen maps no ring");
    }

    #[test]
    fn memory_is_large_enough_for_every_view() {
        let (policy, first) = setting();
        let view = policy.view(&first).unwrap().0;
        let (layout, sizes) = (view.layout(), policy.sizes());
        assert!(sizes.0 >= layout.control_bytes);
        assert_eq!(sizes.1, [layout.rings_bytes(0), layout.rings_bytes(1)]);
        let shown = shown(&view, Rank(3), Rank(1), &sizes);
        assert_eq!(shown.rings, [Some(sizes.1[0]), Some(sizes.1[1])]);
    }
}
