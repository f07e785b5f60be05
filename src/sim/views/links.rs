// SPDX-License-Identifier: MIT OR Apache-2.0
//! What lies between processes: posts that land view after view, links that break for good.

use super::world::World;
use crate::base::{Members, Post, Rank};
use crate::mem::Message;
use crate::sim::oracle::{self, Broken, MONOTONE, STABILITY};
use crate::sim::rows::Row;
use crate::sst::layout::Mode;

impl World {
    pub fn pair(&self, from: usize, to: usize) -> usize {
        from * self.plan.processes + to
    }

    /// Lands something somewhere; whether there was anything.
    pub fn land(&self, parcels: u64) -> bool {
        let mut eras = self.eras.borrow_mut();
        let queued: Vec<u64> = eras
            .iter()
            .filter(|(_, era)| era.wires.queued() > 0)
            .map(|(epoch, _)| *epoch)
            .collect();
        if queued.is_empty() {
            return false;
        }
        let epoch = if self.hush.get() { queued[0] } else { self.dice.pick(&queued) };
        // What was posted in an earlier view lands first.
        let mut before = Vec::new();
        for older in queued.iter().filter(|older| **older < epoch) {
            before.extend(eras[older].busy_pairs());
        }
        let era = eras.get_mut(&epoch).expect("looked up");
        let now = self.now.get();
        let allowed = |from: usize, to: usize| {
            let (from, to) = (era.view[from], era.view[to]);
            self.stuck_until[self.pair(from, to)].get() <= now && !before.contains(&(from, to))
        };
        let landed = era.wires.land_where(now, parcels, &self.dice, &self.tallies, allowed);
        let Some(landed) = landed else { return false };
        let (from, to) = (era.view[landed.from.index()], era.view[landed.to.index()]);
        drop(eras);
        if let Some((byte, old, new)) = landed.regressed {
            let detail = format!("byte {byte} of {from}'s mirror at {to}: {old} to {new}");
            self.fail((MONOTONE, detail));
        }
        self.stir();
        if self.polling.get() > 0 {
            self.tallies.add(Row::LandedInPoll, landed.words);
        }
        self.wake(to, true);
        if landed.room_again {
            self.wake(from, true);
        }
        true
    }

    pub fn full(&self, epoch: u64, rank: Rank) -> Members {
        self.eras.borrow()[&epoch].wires.full(rank)
    }

    pub fn post(&self, epoch: u64, from: Rank, view: &[usize], posts: &[Post]) {
        let me = view[from.index()];
        let open = |rank: &Rank| {
            let to = view[rank.index()];
            !self.cut[self.pair(me, to)].get() && !self.gone[to].get()
        };
        let mut eras = self.eras.borrow_mut();
        let wires = &mut eras.get_mut(&epoch).expect("its own era").wires;
        for &post in posts {
            let mut post = post;
            match &mut post {
                Post::Words { to, .. } | Post::Span { to, .. } | Post::Bell { to, .. } => {
                    *to = Members::from_ranks(to.iter().filter(open));
                }
            }
            wires.post(from, &[post], &self.dice);
        }
    }

    pub fn has_landed(&self, from: usize, to: usize) -> bool {
        let eras = self.eras.borrow();
        eras.values().all(|era| !era.busy_pairs().contains(&(from, to)))
    }

    /// Nothing more comes from there, where that needs a NIC.
    pub fn revoke(&self, from: usize, to: usize) {
        if self.plan.lazy(from, to) {
            self.break_link(from, to);
        }
    }

    pub fn break_link(&self, from: usize, to: usize) {
        self.cut[self.pair(from, to)].set(true);
        for era in self.eras.borrow_mut().values_mut() {
            if let (Some(from), Some(to)) = (era.rank(from), era.rank(to)) {
                era.wires.drop_all(from, to);
            }
        }
    }

    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut[self.pair(from, to)].get()
    }

    /// 10: every member of the view has the message that is handed to somebody before any cut;
    /// `slot`: in the ring of that view.
    pub fn is_stable(
        &self,
        epoch: u64,
        subgroup: usize,
        slot: u64,
        message: &Message,
    ) -> Result<(), Broken> {
        let eras = self.eras.borrow();
        let era = &eras[&epoch];
        let spec = &era.specs[subgroup];
        if spec.mode() != Mode::Stable {
            return Ok(());
        }
        let columns = &era.layout.subgroups[subgroup];
        oracle::is_everywhere(spec, columns, message, slot, &era.wires).map_err(|detail| {
            let number = message.number;
            (STABILITY, format!("view {epoch} subgroup {subgroup} number {number}: {detail}"))
        })
    }
}
