// SPDX-License-Identifier: MIT OR Apache-2.0
//! The statistics page: what a member tells about itself to any process of its user.
//!
//! A region of 64-bit words, written by the turn thread when it reads the clock (every
//! `TICK_TURNS` busy turns), mapped read-only by whoever asks at the door. Words are independent;
//! a reader may see some of one tick and some of the next.

use crate::base::Nanos;
use crate::error::Status;
use crate::group::Engine;
use crate::group::multicast::{Multicast, Tally};
use crate::mem::Region;
use crate::sst::layout::Mode;
use std::sync::Arc;

/// The first word of the page: "sqstat" and a format byte.
pub const STATS_MAGIC: u64 = u64::from_le_bytes(*b"sqstat\0\x01");

const HEAD_WORDS: usize = 32;
const SUBGROUP_WORDS: usize = 32;

/// Bytes of the page of a group.
pub fn page_bytes(subgroups: usize, members: usize) -> usize {
    (HEAD_WORDS + subgroups * (SUBGROUP_WORDS + members)) * 8
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
        let head = [engine.epoch().0, stopped, now.0];
        let turned =
            [counters.turns, counters.busy_turns, counters.sleeps, counters.loop_gap_max_ns];
        self.put(2, u64::from(engine.view().me.0));
        self.put(3, engine.view().members as u64);
        self.put(4, engine.multicasts().len() as u64);
        head.iter().chain(&turned).enumerate().for_each(|(at, value)| self.put(5 + at, *value));
        for (at, multicast) in engine.multicasts().iter().enumerate() {
            let base = HEAD_WORDS + at * (SUBGROUP_WORDS + self.room);
            let [prefix, stable, done] = multicast.own_progress();
            let counted = &counted[multicast.subgroup];
            let (tally, delivered) = (counted.tally(multicast), counted.delivered);
            let words = [
                multicast.subgroup as u64,
                u64::from(multicast.mode == Mode::Received),
                multicast.slots().len() as u64,
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
            words.iter().enumerate().for_each(|(i, value)| self.put(base + i, *value));
            let ranks = base + SUBGROUP_WORDS;
            (0..engine.view().members).for_each(|rank| self.put(ranks + rank, u64::MAX));
            self.put(ranks + usize::from(engine.view().me.0), prefix.0);
            for (rank, number) in multicast.progress() {
                self.put(ranks + rank.index(), number.0);
            }
        }
    }
}

impl Page {
    /// The steps of a view change; written once for each.
    pub fn write_change(&self, changes: u64, last: &Steps) {
        let Steps { suspected, wedged, agreed, echoed, ended, passed, .. } = last;
        let steps = [suspected, wedged, agreed, echoed, ended, passed];
        let all = steps.into_iter().chain([&last.installed, &last.built, &last.delivered]);
        all.enumerate().for_each(|(at, step)| self.put(14 + at, step.0));
        self.put(13, changes);
    }
}

/// Decodes a page. `None`: it is none, or not yet.
pub fn read(region: &Region) -> Option<Snapshot> {
    let word = |at: usize| (at * 8 + 8 <= region.size()).then(|| region.cell(at * 8).observe());
    if word(0)? != STATS_MAGIC {
        return None;
    }
    let members = word(3)? as usize;
    let (subgroups, room) = (word(4)? as usize, word(12)? as usize);
    if members > room || page_bytes(subgroups.min(1 << 10), room.min(1 << 10)) > region.size() {
        return None;
    }
    let mut snapshot = Snapshot {
        pid: word(1)?,
        rank: word(2)?,
        members: members as u64,
        epoch: word(5)?,
        stopped: word(6)?,
        at: Nanos(word(7)?),
        changes: word(13)?,
        last: Steps {
            suspected: Nanos(word(14)?),
            wedged: Nanos(word(15)?),
            agreed: Nanos(word(16)?),
            echoed: Nanos(word(17)?),
            ended: Nanos(word(18)?),
            passed: Nanos(word(19)?),
            installed: Nanos(word(20)?),
            built: Nanos(word(21)?),
            delivered: Nanos(word(22)?),
        },
        counters: Counters {
            turns: word(8)?,
            busy_turns: word(9)?,
            sleeps: word(10)?,
            loop_gap_max_ns: word(11)?,
        },
        subgroups: Vec::new(),
    };
    for at in 0..subgroups {
        let base = HEAD_WORDS + at * (SUBGROUP_WORDS + room);
        let get = |i: usize| word(base + i).unwrap_or(0);
        let delivered = Delivered { messages: get(10), bytes: get(11), batches: get(12) };
        snapshot.subgroups.push(SubgroupSnapshot {
            subgroup: get(0),
            received_mode: get(1) == 1,
            senders: get(2),
            prefix: get(3),
            stable: get(4),
            delivered_number: get(5),
            sent: get(6),
            nulls: get(7),
            announced: get(8),
            pressed: get(9),
            delivered,
            progress: (0..members).map(|rank| get(SUBGROUP_WORDS + rank)).collect(),
        });
    }
    Some(snapshot)
}
