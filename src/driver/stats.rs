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
use crate::transfer;
use std::sync::Arc;

/// The first word of the page: "sqstat" and a format byte.
pub const STATS_MAGIC: u64 = u64::from_le_bytes(*b"sqstat\0\x02");

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

const HEAD_WORDS: usize = TRANSFERS_AT + (GIVEN_MAX + 1) * TRANSFER_WORDS;
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
    pub transfers: Vec<Transferred>,
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
        self.put(23, counters.evicted);
        head.iter().chain(&turned).enumerate().for_each(|(at, value)| self.put(5 + at, *value));
        for (at, multicast) in engine.multicasts().iter().enumerate() {
            let base = HEAD_WORDS + at * (SUBGROUP_WORDS + self.room);
            let [prefix, stable, done] = multicast.own_progress();
            let part = engine.view().subgroups[multicast.subgroup].part;
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
                part.of.into(),
                part.shard.into(),
                part.lacks.into(),
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
            evicted: word(23)?,
        },
        subgroups: Vec::new(),
        transfers: (0..=TAKEN).filter_map(|place| transferred(place, &word)).collect(),
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
            of: get(13),
            shard: get(14),
            lacks: get(15),
            progress: (0..members).map(|rank| get(SUBGROUP_WORDS + rank)).collect(),
        });
    }
    Some(snapshot)
}

fn transferred(place: usize, word: &impl Fn(usize) -> Option<u64>) -> Option<Transferred> {
    let base = TRANSFERS_AT + place * TRANSFER_WORDS;
    let kind = word(base)?;
    let words = std::array::from_fn(|at| word(base + 2 + at).unwrap_or(u64::MAX));
    let progress = transfer::Snapshot::of_words(words)?;
    let known = kind == GIVES || kind == TAKES;
    known.then_some(Transferred { gives: kind == GIVES, other: word(base + 1)?, progress })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::{Phase, Snapshot};

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
