// SPDX-License-Identifier: MIT OR Apache-2.0
//! A founder put together, once all members of a group on one host have met.

use super::super::Application;
use super::super::assembly::assemble;
use super::super::config::{Changes, Config};
use super::super::policy::Policy;
use super::super::rendezvous::Met;
use super::super::views::Views;
use super::Group;
use crate::base::{Rank, Versions};
use crate::error::{Error, Status};
use crate::fabric::shm::door::Hello;
use crate::fabric::shm::exchange::OwnMemory;
use crate::fabric::shm::socket::Bell;
use crate::fabric::shm::{Parts, Shm};
use crate::fabric::{Fabric, Memory};
use crate::group::membership::Carry;
use crate::group::membership::roster::{Address, Roster};
use crate::group::policy::Plan;
use crate::group::view::View;
use crate::mem::Region;
use crate::sst::layout::Layout;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What is needed to put a member together once all have met.
pub struct Opening<'a> {
    pub config: &'a Config,
    pub view: View,
    pub layout: Arc<Layout>,
    /// And how it has placed the founders.
    pub policy: (Policy, Plan),
    pub memory: Memory,
    pub own: OwnMemory,
}

impl Opening<'_> {
    pub fn build(
        self,
        met: Met,
        bell: Bell,
        (stats, stats_fd): (Arc<Region>, OwnedFd),
        application: Box<dyn Application>,
    ) -> Result<Group, Error> {
        let (me, members) = (self.view.me, self.view.members);
        let others = met.blocks.into_iter().zip(met.rings).enumerate();
        let memory = |(rank, (block, rings)): (usize, (Option<Arc<Region>>, _))| match block {
            Some(block) => Memory { block, rings },
            None => {
                assert_eq!(rank, me.index(), "all have met");
                self.memory.clone()
            }
        };
        let memories: Vec<Memory> = others.map(memory).collect();
        let views = self.config.membership == Changes::Views;
        let mut versions = vec![self.config.versions; members];
        for neighbour in &met.neighbours {
            versions[neighbour.rank.index()] = neighbour.versions;
        }
        let wire = wire_of(&versions)?;
        memories[me.index()].block.cell(self.layout.wire.byte(0)).publish(u64::from(wire));
        let parts = Parts {
            me,
            members,
            blocks: memories.iter().map(|memory| memory.block.clone()).collect(),
            neighbours: met.neighbours,
            bell,
            door: met.door,
            hello: Hello { wire, ..met.hello },
            stats: stats_fd,
            memory: views.then_some(self.own),
        };
        let mut fabric = Shm::new(parts, &self.layout)?;
        let roster = views.then(|| founders(&memories, &versions, &self.layout, me));
        let (mut policy, plan) = self.policy;
        policy.adopt(&plan);
        let first = roster.clone().map(|roster| {
            let carry = Carry::first(&roster);
            (roster, carry, self.config.options())
        });
        let posting = fabric.posting();
        let blocks = memories.iter().map(|memory| memory.block.clone()).collect();
        let assembly = assemble(self.view.clone(), &self.layout, &memories, posting, first);
        let views = fabric.exchange().zip(roster).map(|(exchange, roster)| {
            let lags = policy.lags(self.config);
            let first = (roster, self.view);
            let time = self.config.suspicion_ns;
            let mut views = Views::new(policy, first, time, &lags, exchange, blocks);
            views.options = self.config.options();
            views.spare.begin(&memories);
            views.beat(self.layout.beat.byte(0));
            Box::new(views)
        });
        let bell = fabric.own_bell();
        Ok(Group::of(assembly, Box::new(fabric), bell, views, application, stats, self.config))
    }
}

/// What a group of those runs at. Any two that said what they speak to each other have a version in
/// common, and so have all; who says something else to each has none with anybody.
fn wire_of(versions: &[Versions]) -> Result<u16, Error> {
    Versions::common(versions.iter().copied()).ok_or_else(|| {
        let all: Vec<String> = versions.iter().map(|versions| versions.text()).collect();
        let detail = format!(
            "by rank the members say that they speak wire versions {}, which no two that have met can: \
             start the group anew, with one version of this library",
            all.join(", ")
        );
        Error::new(Status::WireVersion, detail)
    })
}

/// The first view's members: each says in its control block which incarnation it is.
fn founders(memories: &[Memory], versions: &[Versions], layout: &Layout, me: Rank) -> Roster {
    let founder = |((memory, versions), extra): ((&Memory, &Versions), u16)| {
        let incarnation = memory.block.cell(layout.incarnation.byte(0)).observe();
        (incarnation, Address { extra, ..Address::default() }, *versions)
    };
    let all: Vec<_> = memories.iter().zip(versions).zip(0..).map(founder).collect();
    Roster::founded(&all, me)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They are what peers have said: it was an assertion.
    #[test]
    fn who_says_this_and_that_founds_nothing() {
        let of = |(min, max)| Versions { min, max };
        assert_eq!(wire_of(&[(1, 3), (2, 4), (1, 2)].map(of)), Ok(2));
        let none = wire_of(&[(1, 3), (1, 1), (2, 3)].map(of)).unwrap_err();
        assert_eq!(none.status, Status::WireVersion);
        assert!(none.detail.contains("wire versions 1-3, 1, 2-3, which"), "{none}");
    }
}
