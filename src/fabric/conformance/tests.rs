// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each check passes on a fabric whose posts land late, and fails on one that breaks its promise.

use super::super::shm::socket::Bell;
use super::*;
use crate::mem::order;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// What a fabric may do wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    TearsWords,
    SwapsPosts,
    ReadsWordsLate,
    LandsSpansLast,
    HearsOfRevoked,
    ReportsLossTwice,
    ReportsSilence,
    LosesFarewell,
    InventsValues,
    LosesBells,
    RingsTheAwake,
    NeverRings,
}

/// Both ends' memory: the blocks, rings and their mirrors, and who sleeps or has ended.
struct Shared {
    blocks: [Arc<Region>; 2],
    mirrors: [Arc<Region>; 2],
    rings: [Extent; 2],
    ring_mirrors: [Extent; 2],
    asleep: [crate::mem::Cell; 2],
    ended: [crate::mem::Cell; 2],
    bells: [Bell; 2],
}

/// A fabric whose posts land a little later than they were posted, by hand of the poster: a NIC
/// with a short queue. Member `me`'s block has its mirror in `mirrors[me]`.
struct Lazy {
    me: usize,
    shared: Arc<Shared>,
    fault: Fault,
    queue: VecDeque<Post>,
    waits: bool,
    landed: u64,
    looks: u64,
    reported: bool,
    revoked: bool,
}

const ASLEEP: u64 = 1;
const ASLEEP_FOR_ROOM: u64 = 2;
const CLOSED: usize = WORDS * 8;

impl Lazy {
    fn land(&mut self, keep: usize) {
        while self.queue.len() > keep {
            self.landed += 1;
            let swap = self.fault == Fault::SwapsPosts && self.landed % 3 == 0;
            let at = usize::from(swap && self.queue.len() > 1);
            let span = |post: &Post| matches!(post, Post::Span { .. });
            let late = self.fault == Fault::LandsSpansLast && self.queue.len() > 1;
            let at = if late && span(&self.queue[0]) { 1 } else { at };
            let post = self.queue.remove(at).unwrap();
            self.land_one(post);
            if self.fault != Fault::None {
                (0..200).for_each(|_| std::hint::spin_loop()); // for the other to see it
                if self.landed % 17 == 0 {
                    std::thread::yield_now(); // also where there is one core
                }
            }
        }
    }

    fn land_one(&mut self, post: Post) {
        let (block, mirror) = (&self.shared.blocks[self.me], &self.shared.mirrors[self.me]);
        match post {
            Post::Words { at, values, .. } => {
                let (cell, mut value) = (mirror.cell(at as usize), values[0]);
                if self.fault == Fault::ReadsWordsLate {
                    value = block.cell(at as usize).own();
                }
                if self.fault == Fault::InventsValues && at as usize == DATA[0] * 8 {
                    value += 1;
                }
                if self.fault == Fault::TearsWords {
                    cell.publish(cell.own() >> 32 << 32 | value & 0xffff_ffff);
                    std::thread::yield_now();
                }
                cell.publish(value);
            }
            Post::Span { from, upto, .. } => {
                let source = self.shared.rings[self.me].lend(from, (upto - from) as u32);
                self.shared.ring_mirrors[self.me].write(from, source.unwrap());
            }
            Post::Bell { .. } => unreachable!(),
        }
    }

    fn ring(&mut self) {
        order::fence();
        let asleep = self.shared.asleep[1 - self.me].observe();
        let lost = match self.fault {
            Fault::LosesBells | Fault::NeverRings => true,
            _ => false,
        };
        if asleep != 0 && !lost {
            self.shared.bells[1 - self.me].ring();
        }
    }
}

impl Fabric for Lazy {
    fn posting(&self) -> Posting {
        Posting::All
    }
    fn post(&mut self, posts: &[Post]) {
        for post in posts {
            if !matches!(post, Post::Bell { .. }) {
                self.queue.push_back(*post);
            }
        }
        self.waits = false;
        self.land(3);
        self.ring();
    }
    fn poll(&mut self, look: bool, events: &mut Events) {
        // Whoever only polls waits for something: then the queue runs empty.
        if std::mem::replace(&mut self.waits, true) && !self.queue.is_empty() {
            let keep = self.queue.len() - 1;
            self.land(keep);
            self.ring();
        }
        self.looks += u64::from(look);
        let silent = self.fault == Fault::ReportsSilence && self.looks == 1_000;
        let ended = self.shared.ended[1 - self.me].observe() == 1;
        let again = !self.reported || self.fault == Fault::ReportsLossTwice;
        let heard = !self.revoked || self.fault == Fault::HearsOfRevoked;
        if look && (ended && again && heard || silent) {
            self.reported = true;
            events.lost.insert(Rank(1 - self.me as u16));
        }
    }
    fn revoke(&mut self, _peer: crate::base::Peer) {
        self.revoked = true;
    }
    fn fd(&self) -> BorrowedFd<'_> {
        self.shared.bells[self.me].as_fd()
    }
    fn arm(&mut self, room: bool) {
        self.land(0);
        self.shared.asleep[self.me].publish(if room { ASLEEP_FOR_ROOM } else { ASLEEP });
        order::fence();
    }
    fn sleep(&mut self, timeout_ns: Option<u64>, events: &mut Events) {
        if wait(&self.shared.bells[self.me], Duration::from_nanos(timeout_ns.unwrap())) {
            self.shared.bells[self.me].silence();
        }
        self.poll(true, events);
    }
    fn disarm(&mut self) {
        self.shared.asleep[self.me].publish(0);
        if self.fault == Fault::RingsTheAwake {
            self.shared.bells[self.me].ring(); // as somebody who does not look would
        }
    }
    fn farewell(&mut self) {
        self.land(0);
        let told = self.fault != Fault::LosesFarewell;
        self.shared.mirrors[self.me].cell(CLOSED).publish(u64::from(told));
    }
    fn parks(&self) -> bool {
        true
    }
}

impl Drop for Lazy {
    fn drop(&mut self) {
        self.land(0);
        self.ring();
        self.shared.ended[self.me].publish(1);
    }
}

fn wait(bell: &Bell, time: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let tv_nsec = time.subsec_nanos().into();
    let timeout = Timespec { tv_sec: time.as_secs() as i64, tv_nsec };
    poll(&mut [PollFd::new(bell, PollFlags::IN)], Some(&timeout)) == Ok(1)
}

struct LazyEnd(Lazy);

impl End for LazyEnd {
    fn peer(&self) -> Rank {
        Rank(1 - self.0.me as u16)
    }
    fn fabric(&mut self) -> &mut dyn Fabric {
        &mut self.0
    }
    fn mine(&self) -> &Region {
        &self.0.shared.blocks[self.0.me]
    }
    fn theirs(&self) -> &Region {
        &self.0.shared.mirrors[1 - self.0.me]
    }
    fn my_ring(&self) -> &Extent {
        &self.0.shared.rings[self.0.me]
    }
    fn their_ring(&self) -> &Extent {
        &self.0.shared.ring_mirrors[1 - self.0.me]
    }
    fn scratch(&self) -> usize {
        0
    }
    fn closed_at(&self) -> usize {
        CLOSED
    }
    fn peer_has_ended(&self) -> bool {
        self.0.shared.ended[1 - self.0.me].observe() == 1
    }
    fn stills_revoked(&self) -> bool {
        false
    }
    fn fd_is_readable(&mut self, within: Duration) -> bool {
        let end = Instant::now() + within;
        loop {
            if wait(&self.0.shared.bells[self.0.me], Duration::ZERO) {
                return true;
            }
            self.0.poll(false, &mut Events::default());
            if Instant::now() >= end {
                return false;
            }
        }
    }
    fn rounds(&self) -> u64 {
        10_000
    }
    fn patience(&self) -> Duration {
        match self.0.fault {
            Fault::LosesBells | Fault::NeverRings => Duration::from_secs(2),
            _ => PATIENCE,
        }
    }
}

/// Runs a check between two threads; the failures of its roles.
fn failures(check: &Check, fault: Fault) -> Vec<String> {
    let block = || Arc::new(Region::heap(WORDS * 8 + 8));
    let ring = || {
        let region = Arc::new(Region::heap(RING_BYTES as usize));
        Extent::new(region, 0, RING_BYTES as usize)
    };
    let cells = || [crate::mem::Cell::new(0), crate::mem::Cell::new(0)];
    let shared = Arc::new(Shared {
        blocks: [block(), block()],
        mirrors: [block(), block()],
        rings: [ring(), ring()],
        ring_mirrors: [ring(), ring()],
        asleep: cells(),
        ended: cells(),
        bells: [Bell::new().unwrap(), Bell::new().unwrap()],
    });
    let end = |me: usize| {
        let (shared, queue) = (shared.clone(), VecDeque::new());
        let (landed, looks, reported, revoked) = (0, 0, false, false);
        let waits = false;
        LazyEnd(Lazy { me, shared, fault, queue, waits, landed, looks, reported, revoked })
    };
    let (mut one, mut two) = (end(0), end(1));
    std::thread::scope(|scope| {
        let other = scope.spawn(move || run(check, false, &mut two));
        let first = run(check, true, &mut one);
        drop(one);
        [first, other.join().unwrap()].into_iter().filter_map(Result::err).collect()
    })
}

#[test]
fn a_lazy_fabric_passes_every_check() {
    for check in CHECKS {
        assert_eq!(failures(check, Fault::None), [""; 0], "{}", check.name);
    }
}

#[test]
fn every_broken_promise_fails_its_check() {
    for (fault, name, text) in [
        (Fault::TearsWords, "word_lands_whole", "half a word"),
        (Fault::SwapsPosts, "posts_land_in_order", "FORBIDDEN"),
        (Fault::ReadsWordsLate, "spans_land_before_what_counts_them", "FORBIDDEN"),
        (Fault::LandsSpansLast, "spans_land_before_what_counts_them", "FORBIDDEN"),
        (Fault::HearsOfRevoked, "revoked_is_not_heard_of", "was reported"),
        (Fault::ReportsLossTwice, "loss_is_reported_once", "reported again"),
        (Fault::ReportsSilence, "loss_is_reported_once", "kept silent"),
        (Fault::LosesFarewell, "farewell_lands_before_the_loss", "`closed` is 0"),
        (Fault::InventsValues, "own_cells_may_be_seen_early", "FORBIDDEN"),
        (Fault::LosesBells, "no_wake_up_is_lost", "slept on"),
        (Fault::NeverRings, "fd_is_readable_when_rung", "never readable"),
        (Fault::RingsTheAwake, "fd_is_readable_when_rung", "before anybody rang"),
    ] {
        let check = CHECKS.iter().find(|check| check.name == name).unwrap();
        // On a busy machine the other thread may not run when there is something to see.
        let seen = |_| failures(check, fault).iter().any(|why| why.contains(text));
        assert!((0..20).any(seen), "{fault:?}");
    }
}
