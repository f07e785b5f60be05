// SPDX-License-Identifier: MIT OR Apache-2.0
//! The statistics page: what a member tells about itself to any process of its user.
//!
//! A region of 64-bit words, written by the turn thread when it reads the clock (every
//! `TICK_TURNS` turns), mapped read-only by whoever asks at the door. Words are independent;
//! a reader may see some of one tick and some of the next.

use crate::base::{Nanos, Rank};
use crate::error::Status;
use crate::fabric::{Counts, Way};
use crate::group::Engine;
use crate::group::multicast::{Multicast, Tally};
use crate::group::view::{Part, View};
use crate::mem::Region;
use crate::sst::layout::Mode;
use crate::transfer;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

mod read;
pub use read::read;

/// The first word of the page: "sqstat" and a format byte.
pub const STATS_MAGIC: u64 = u64::from_le_bytes(*b"sqstat\0\x04");

/// State transfers of a page: those that the member gives its state by at the same time, at the
/// most, and the one by which it got its own.
pub const GIVEN_MAX: usize = 4;
pub const TAKEN: usize = GIVEN_MAX;
/// The first word of each: 0: none; `GIVES` or `TAKES`; then whom with; then `transfer::Snapshot`.
const GIVES: u64 = 1;
const TAKES: u64 = 2;
const TRANSFERS_AT: usize = 32;
const TRANSFER_WORDS: usize = 16;
const _: () = assert!(transfer::progress::WORDS + 2 <= TRANSFER_WORDS);

/// By rank, how that member is reached: 0: it is not, or it is this one; `BY_SHM`, `BY_TCP` or `BY_VERBS`;
/// the address (family 4 or 6 above the port, then 16 bytes of it); bytes, or posts, that wait; how often
/// there was no room; by RDMA then what its queue has counted (`counts_of`).
const PEERS_AT: usize = TRANSFERS_AT + (GIVEN_MAX + 1) * TRANSFER_WORDS;
const PEER_WORDS: usize = 16;
const BY_SHM: u64 = 1;
const BY_TCP: u64 = 2;
const BY_VERBS: u64 = 3;
const COUNTS_AT: usize = 6;
const _: () = assert!(COUNTS_AT + COUNTS <= PEER_WORDS);

/// After those: the subgroups of the view, each with what belongs to its members by rank.
const SUBGROUP_WORDS: usize = 32;

/// Where a subgroup begins, with room for so many members.
fn subgroup_at(at: usize, room: usize) -> usize {
    PEERS_AT + room * PEER_WORDS + at * (SUBGROUP_WORDS + room)
}

/// Bytes of the page of a group.
pub fn page_bytes(subgroups: usize, members: usize) -> usize {
    subgroup_at(subgroups, members) * 8
}

/// What the driver counts.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Turns, and those that found or said something.
    pub turns: u64,
    pub busy_turns: u64,
    /// Times it went to sleep.
    pub sleeps: u64,
    /// The longest time between two looks at the clock, in nanoseconds; sleeps excluded.
    pub loop_gap_max_ns: u64,
    /// Members that it has suspected for their lag.
    pub evicted: u64,
}

/// What is counted per subgroup by the driver.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Delivered {
    pub messages: u64,
    pub bytes: u64,
    pub batches: u64,
}

/// What the driver keeps of a subgroup over all views.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counted {
    pub delivered: Delivered,
    /// In the views that are over; the engine counts those of the one at hand.
    before: Tally,
    pressed_before: u64,
}

impl Counted {
    /// A view is over.
    pub fn add(&mut self, multicast: &Multicast) {
        self.before = self.tally(multicast);
        self.pressed_before = self.pressed(multicast);
    }

    fn tally(&self, multicast: &Multicast) -> Tally {
        let (before, now) = (self.before, multicast.tally);
        Tally {
            sent: before.sent + now.sent,
            nulls: before.nulls + now.nulls,
            announced: before.announced + now.announced,
        }
    }

    fn pressed(&self, multicast: &Multicast) -> u64 {
        let lanes = multicast.lanes.iter();
        self.pressed_before + lanes.map(|lane| lane.taker.pressed()).sum::<u64>()
    }
}

/// When the steps of a view change were reached, by the member's clock; 0: it was not (nobody failed,
/// say), or there was none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    pub suspected: Nanos,
    pub wedged: Nanos,
    pub agreed: Nanos,
    pub echoed: Nanos,
    pub ended: Nanos,
    pub passed: Nanos,
    /// The old view's engine was over; the new one's was there; the first message was delivered.
    pub installed: Nanos,
    pub built: Nanos,
    pub delivered: Nanos,
}

impl Steps {
    /// Names and times of all steps, as `squall perf failover` calls them.
    pub fn named(&self) -> [(&'static str, Nanos); 9] {
        let Steps { suspected, wedged, agreed, echoed, ended, passed, .. } = *self;
        [
            ("suspected", suspected),
            ("wedged", wedged),
            ("agreed", agreed),
            ("echoed", echoed),
            ("ended", ended),
            ("passed", passed),
            ("installed", self.installed),
            ("built", self.built),
            ("delivers", self.delivered),
        ]
    }
}

/// One transfer of the application's state, as the member tells of it: under way, or the last one in
/// its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transferred {
    /// It is the source; else it is the joiner.
    pub gives: bool,
    /// The other's incarnation.
    pub other: u64,
    pub progress: transfer::Snapshot,
}

impl Transferred {
    /// For whoever looks.
    pub fn text(&self) -> String {
        let Transferred { gives, other, progress } = self;
        match gives {
            true => format!("gives its state to {other}, which {progress}"),
            false => format!("takes the state of {other} and {progress}"),
        }
    }

    /// The same as figures: bytes, counts, nanoseconds.
    pub fn figures(&self) -> [(&'static str, u64); 11] {
        let transfer::Snapshot { phase, attempts, state_bytes, catchup_bytes, .. } = self.progress;
        let transfer::Snapshot { catchup_messages, behind_bytes, behind_messages, .. } =
            self.progress;
        [
            ("with", self.other),
            ("phase", phase as u64),
            ("restarts", attempts.saturating_sub(1)),
            ("state_bytes", state_bytes),
            ("catchup_bytes", catchup_bytes),
            ("catchup_messages", catchup_messages),
            ("behind_bytes", behind_bytes),
            ("behind_messages", behind_messages),
            ("checkpoint_open_ns", self.progress.open_ns),
            ("buffer_bytes", self.progress.tape_bytes),
            ("buffer_filled_bytes", self.progress.tape_filled),
        ]
    }
}

/// One member's page, decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub pid: u64,
    pub rank: u64,
    pub members: u64,
    pub epoch: u64,
    /// 0 while it runs, else the negated status that stopped it.
    pub stopped: u64,
    /// The member's clock at the last tick.
    pub at: Nanos,
    /// View changes that this member went through, and the steps of the last one.
    pub changes: u64,
    pub last: Steps,
    pub counters: Counters,
    pub subgroups: Vec<SubgroupSnapshot>,
    /// Those that it does not belong to, some of which may have no members at all.
    pub elsewhere: Vec<Elsewhere>,
    /// By rank: how that member is reached.
    pub peers: Vec<Option<Way>>,
    pub transfers: Vec<Transferred>,
}

/// A subgroup of the view that the member does not belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Elsewhere {
    pub subgroup: u64,
    pub received_mode: bool,
    pub members: u64,
    pub senders: u64,
    /// As in `SubgroupSnapshot`.
    pub of: u64,
    pub shard: u64,
    pub lacks: u64,
}

/// One subgroup of a page. Only subgroups that the member belongs to are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubgroupSnapshot {
    pub subgroup: u64,
    pub received_mode: bool,
    pub senders: u64,
    /// How far this member is in the order of the view `Snapshot::epoch`: received, stable,
    /// delivered. In the next view they begin anew.
    pub prefix: u64,
    pub stable: u64,
    pub delivered_number: u64,
    /// Over all views: messages sent by it (one that is sent again in a later view counts there, too),
    /// indices that became nulls, batches announced, refusals for want of room.
    pub sent: u64,
    pub nulls: u64,
    pub announced: u64,
    pub pressed: u64,
    pub delivered: Delivered,
    /// Which shard of which configured subgroup it is, and how many members it lacks: then it waits.
    pub of: u64,
    pub shard: u64,
    pub lacks: u64,
    /// By rank: how far each member is in that order, as this one sees it (`u64::MAX`: no member of
    /// it).
    pub progress: Vec<u64>,
}

/// Where the turn thread writes.
pub struct Page {
    region: Arc<Region>,
    /// Members that there is room for.
    room: usize,
}

impl Page {
    /// `room`: for so many members.
    pub fn new(region: Arc<Region>, room: usize) -> Page {
        let page = Page { region, room };
        page.put(1, u64::from(std::process::id()));
        page.put(12, room as u64);
        page.region.cell(0).publish(STATS_MAGIC);
        page
    }

    fn put(&self, word: usize, value: u64) {
        self.region.cell(word * 8).prepare(value);
    }

    /// What does not change within a view.
    #[cold]
    fn write_view(&self, view: &View) {
        for (at, subgroup) in view.subgroups.iter().enumerate() {
            let base = subgroup_at(at, self.room);
            let Part { of, shard, lacks } = subgroup.part;
            let words = [
                (0, at as u64),
                (1, u64::from(subgroup.shape.mode == Mode::Received)),
                (2, subgroup.senders.len() as u64),
                (13, of.into()),
                (14, shard.into()),
                (15, lacks.into()),
                (16, subgroup.members.len() as u64),
                (17, u64::from(subgroup.has(view.me))),
            ];
            words.iter().for_each(|(word, value)| self.put(base + word, *value));
        }
        (0..self.room).for_each(|rank| self.put(PEERS_AT + rank * PEER_WORDS, 0));
    }

    /// How a member is reached; some stores.
    pub fn write_way(&self, rank: Rank, way: Way) {
        if rank.index() >= self.room {
            return;
        }
        let base = PEERS_AT + rank.index() * PEER_WORDS;
        let (by, remote, waits, full) = match way {
            Way::Shm => return self.put(base, BY_SHM),
            Way::Tcp { remote, queued_bytes, full } => (BY_TCP, remote, queued_bytes, full),
            Way::Verbs { remote, waiting, full, counts } => {
                let counts = words_of_counts(&counts);
                (COUNTS_AT..).zip(counts).for_each(|(at, word)| self.put(base + at, word));
                (BY_VERBS, remote, waiting, full)
            }
        };
        let (place, [high, low]) = words_of(remote);
        let words = [by, place, high, low, waits, full];
        words.iter().enumerate().for_each(|(at, word)| self.put(base + at, *word));
    }

    /// Writes everything; about ten stores and as many per subgroup, to lines nobody else writes.
    pub fn write(
        &self,
        now: Nanos,
        engine: &Engine,
        stopped: Option<Status>,
        counters: &Counters,
        counted: &[Counted],
    ) {
        let stopped = stopped.map_or(0, |status| u64::from((status as i32).unsigned_abs()));
        let view = engine.view();
        if self.region.cell(5 * 8).own() != engine.epoch().0 {
            self.write_view(view);
        }
        let head = [engine.epoch().0, stopped, now.0];
        let turned =
            [counters.turns, counters.busy_turns, counters.sleeps, counters.loop_gap_max_ns];
        self.put(2, u64::from(view.me.0));
        self.put(3, view.members as u64);
        self.put(4, view.subgroups.len() as u64);
        self.put(23, counters.evicted);
        head.iter().chain(&turned).enumerate().for_each(|(at, value)| self.put(5 + at, *value));
        for multicast in engine.multicasts() {
            let base = subgroup_at(multicast.subgroup, self.room);
            let [prefix, stable, done] = multicast.own_progress();
            let counted = &counted[multicast.subgroup];
            let (tally, delivered) = (counted.tally(multicast), counted.delivered);
            let words = [
                prefix.0,
                stable.0,
                done.0,
                tally.sent,
                tally.nulls,
                tally.announced,
                counted.pressed(multicast),
                delivered.messages,
                delivered.bytes,
                delivered.batches,
            ];
            words.iter().enumerate().for_each(|(i, value)| self.put(base + 3 + i, *value));
            let ranks = base + SUBGROUP_WORDS;
            (0..view.members).for_each(|rank| self.put(ranks + rank, u64::MAX));
            self.put(ranks + view.me.index(), prefix.0);
            for (rank, number) in multicast.progress() {
                self.put(ranks + rank.index(), number.0);
            }
        }
    }
}

impl Page {
    /// A state transfer, in its place. About a dozen stores, now and then while there is one.
    pub fn write_transfer(&self, place: usize, of: &Transferred) {
        assert!(place <= TAKEN);
        let base = TRANSFERS_AT + place * TRANSFER_WORDS;
        self.put(base + 1, of.other);
        of.progress.words().iter().zip(base + 2..).for_each(|(word, at)| self.put(at, *word));
        self.put(base, if of.gives { GIVES } else { TAKES });
    }

    /// The steps of a view change; written once for each.
    pub fn write_change(&self, changes: u64, last: &Steps) {
        let Steps { suspected, wedged, agreed, echoed, ended, passed, .. } = last;
        let steps = [suspected, wedged, agreed, echoed, ended, passed];
        let all = steps.into_iter().chain([&last.installed, &last.built, &last.delivered]);
        all.enumerate().for_each(|(at, step)| self.put(14 + at, step.0));
        self.put(13, changes);
    }
}

/// How many figures a queue counts.
const COUNTS: usize = 10;

fn words_of_counts(counts: &Counts) -> [u64; COUNTS] {
    let Counts {
        work_requests,
        doorbells,
        words,
        spans,
        inlined,
        bytes,
        notes,
        bells,
        rung,
        completions,
        reads: _, // none: of registered memory only
    } = *counts;
    [work_requests, doorbells, words, spans, inlined, bytes, notes, bells, rung, completions]
}

fn counts_of(words: [u64; COUNTS]) -> Counts {
    let [work_requests, doorbells, words, spans, inlined, bytes, notes, bells, rung, completions] =
        words;
    Counts {
        work_requests,
        doorbells,
        words,
        spans,
        inlined,
        bytes,
        notes,
        bells,
        rung,
        completions,
        reads: 0,
    }
}

/// An address as words: family and port; and its bytes.
fn words_of(address: Option<SocketAddr>) -> (u64, [u64; 2]) {
    let halves = |bytes: u128| [(bytes >> 64) as u64, bytes as u64];
    match address {
        None => (0, [0; 2]),
        Some(SocketAddr::V4(v4)) => {
            (4 << 16 | u64::from(v4.port()), halves(u128::from(v4.ip().to_bits())))
        }
        Some(SocketAddr::V6(v6)) => (6 << 16 | u64::from(v6.port()), halves(v6.ip().to_bits())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_tells_how_members_are_reached() {
        let region = Arc::new(Region::heap(page_bytes(1, 5)));
        let page = Page::new(region.clone(), 5);
        page.put(3, 5);
        let tcp = |text: &str| {
            let remote = Some(text.parse().unwrap());
            Way::Tcp { remote, queued_bytes: 7, full: 9 }
        };
        let counts = counts_of(std::array::from_fn(|at| at as u64 + 100));
        let remote = Some("10.0.0.3:7471".parse().unwrap());
        let verbs = Way::Verbs { remote, waiting: 5, full: 3, counts };
        let ways = [Way::Shm, tcp("10.0.0.1:7471"), tcp("[2001:db8::7]:9"), verbs];
        (1..5).zip(ways).for_each(|(rank, way)| page.write_way(Rank(rank), way));
        let expected = [None, Some(ways[0]), Some(ways[1]), Some(ways[2]), Some(ways[3])];
        assert_eq!(read(&region).unwrap().peers, expected);
        page.write_way(Rank(63), Way::Shm); // there is no room: nothing else is overwritten
        assert_eq!(read(&region).unwrap().peers, expected);
    }
    use crate::transfer::{Phase, Snapshot};
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(crate::fabric::tcp::session::cases(500))]
        /// Pages come over the network, too.
        #[test]
        fn fuzz_a_page_may_say_anything(
            count in 1usize..2000,
            sizes in (0..40u64, 0..40u64, 0..40u64),
            words in vec((0..2000usize, prop_oneof![0..8u64, 0..200u64, any::<u64>()]), 0..40),
            sound in prop::bool::weighted(0.9),
        ) {
            let region = Region::heap(count * 8 + 8);
            for (at, word) in [(3, sizes.0), (4, sizes.1), (12, sizes.0 + sizes.2)] {
                region.cell(at.min(count) * 8).prepare(word);
            }
            for (at, word) in words {
                region.cell(at.min(count) % 200.max(count / 2) * 8).prepare(word);
            }
            if sound {
                region.cell(0).prepare(STATS_MAGIC);
            }
            if let Some(page) = read(&region) {
                prop_assert!(sound || region.cell(0).observe() == STATS_MAGIC);
                prop_assert_eq!(page.peers.len() as u64, page.members);
                prop_assert!(page.subgroups.len() + page.elsewhere.len() <= 1 << 10);
            }
        }
    }

    #[test]
    fn a_page_tells_of_transfers() {
        let region = Arc::new(Region::heap(page_bytes(1, 4)));
        let page = Page::new(region.clone(), 4);
        assert_eq!(read(&region).unwrap().transfers, []);
        let progress =
            Snapshot { phase: Phase::Loading, attempts: 2, tape_filled: 9, ..Default::default() };
        let given = Transferred { gives: true, other: 77, progress };
        let taken = Transferred { gives: false, other: 78, progress };
        page.write_transfer(2, &given);
        page.write_transfer(TAKEN, &taken);
        assert_eq!(read(&region).unwrap().transfers, [given, taken]);
        assert!(
            given.text().contains("to 77") && given.text().contains("start 2"),
            "{}",
            given.text()
        );
        assert!(given.figures().contains(&("restarts", 1)) && taken.text().contains("of 78"));
        // Another process' page may say anything.
        region.cell((TRANSFERS_AT + 2 * TRANSFER_WORDS + 2) * 8).publish(99);
        region.cell((TRANSFERS_AT + TAKEN * TRANSFER_WORDS) * 8).publish(7);
        assert_eq!(read(&region).unwrap().transfers, []);
    }
}
