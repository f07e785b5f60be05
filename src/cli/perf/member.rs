// SPDX-License-Identifier: MIT OR Apache-2.0
//! One member of a measurement: it sends what the plan says, checks and counts what is delivered.
//!
//! Rank 0 says START with the measured time; data flows until it is over; each sender says END; when
//! all have, each says FINAL; when all have, the member is done. All clocks of a host are one; of
//! members on several hosts each measures as long, from when START comes to it.

use super::message::{Checkpoint, END, FINAL, Meaning, Reader, START, Writer, touch};
use super::plan::{Plan, Report, Stage, Test, new_histogram};
use crate::failure::{Failure, fail};
use crate::text::{IdleOption, time_text};
use hdrhistogram::Histogram;
use squall::driver::group::{Group, Sender};
use squall::driver::idle::{Pace, pin};
use squall::driver::stats::SubgroupSnapshot;
use squall::driver::{Application, clock};
use squall::error::{Status, Suspicion};
use squall::mem::{Cell, Message};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Messages sent between two turns.
const BURST: usize = 1024;
/// With `lat`: how long after its end a measurement may still be sending what was due in it.
const CATCH_UP_NS: f64 = 10e9;
/// How often, and after which time each, it is asked whether that will do.
const LOOKS: u32 = 3;
const LOOK_NS: u64 = 100_000_000;
/// With `lat`: so near to the next send nothing else is begun.
const HOLD_NS: u64 = 2_000;

/// What the callback tells the loop, without a lock. Both run in one thread.
struct Board {
    /// When the last batch was delivered, and how many messages are by then.
    now: Cell,
    delivered: Cell,
    begin: Cell,
    end: Cell,
    ends: Cell,
    finals: Cell,
    failed: Cell,
    checkpoint: Cell,
    hash: Cell,
}

/// What the callback keeps.
struct Record {
    reader: Reader,
    /// (time, messages) at the first and at the last batch of the measured time.
    first: Option<(u64, u64)>,
    last: (u64, u64),
    /// When the START was due, and the measured time; by this member's own clock (`far`).
    far: bool,
    base: u64,
    begin: u64,
    end: u64,
    pace_ns: u64,
    warm_up_ns: u64,
    latency: Option<Histogram<u64>>,
    rank: u16,
    trouble: Option<String>,
    suspicion: Option<Suspicion>,
}

struct Shared {
    board: Board,
    record: Mutex<Record>,
}

fn lock(shared: &Shared) -> MutexGuard<'_, Record> {
    shared.record.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// One measurement of a member: what is delivered in its subgroup goes here.
#[derive(Clone)]
pub struct Track(Arc<Shared>);

impl Track {
    /// `far`: members are on several hosts.
    pub fn new(plan: &Plan, rank: u16, far: bool) -> Track {
        let cell = || Cell::new(0);
        let board = Board {
            now: cell(),
            delivered: cell(),
            begin: cell(),
            end: cell(),
            ends: cell(),
            finals: cell(),
            failed: cell(),
            checkpoint: cell(),
            hash: cell(),
        };
        let record = Record::new(plan, rank, far && rank > 0);
        Track(Arc::new(Shared { board, record: Mutex::new(record) }))
    }

    /// It ends with that.
    #[cold]
    pub fn fail(&self, why: String) {
        lock(&self.0).trouble.get_or_insert(why);
        self.0.board.failed.prepare(1);
    }

    #[inline]
    pub fn deliver(&self, batch: &[Message]) {
        let now = clock().0;
        let mut record = lock(&self.0);
        let before = record.reader.newest();
        for message in batch {
            match record.reader.take(message) {
                Ok(Meaning::Data { sequence }) => record.data(now, message, sequence),
                Ok(meaning) => record.control(&self.0.board, meaning, now),
                Err(why) => {
                    let why = format!("VIOLATION at rank {}: {why}", record.rank);
                    drop(record);
                    return self.fail(why);
                }
            }
        }
        let board = &self.0.board;
        let newest = record.reader.newest();
        if newest != before {
            board.checkpoint.prepare(newest.number);
            board.hash.prepare(newest.hash);
        }
        board.now.prepare(now);
        board.delivered.prepare(record.reader.delivered());
        record.count(now);
    }
}

struct Receiver(Track);

impl Application for Receiver {
    fn deliver(&mut self, _subgroup: u16, batch: &[Message]) {
        self.0.deliver(batch);
    }

    fn stopped(&mut self, _status: Status, suspicion: Option<Suspicion>) {
        lock(&self.0.0).suspicion = suspicion;
    }
}

impl Record {
    fn new(plan: &Plan, rank: u16, far: bool) -> Record {
        let mut reader = Reader::new(rank, plan.members, plan.senders, plan.window, plan.size);
        reader.plant(plan.plant);
        Record {
            reader,
            first: None,
            last: (0, 0),
            far,
            base: 0,
            begin: u64::MAX,
            end: 0,
            pace_ns: plan.pace_ns,
            warm_up_ns: warm_up_ns(plan),
            latency: (plan.test == Test::Lat && !far).then(new_histogram),
            rank,
            trouble: None,
            suspicion: None,
        }
    }

    #[inline(always)]
    fn data(&mut self, now: u64, message: &Message, sequence: u64) {
        match &mut self.latency {
            Some(latency) => {
                let intended = self.base + sequence * self.pace_ns;
                if intended >= self.begin && intended < self.end {
                    latency.saturating_record(now.saturating_sub(intended));
                }
            }
            None => {
                std::hint::black_box(touch(message.bytes()));
            }
        }
    }

    #[cold]
    fn control(&mut self, board: &Board, meaning: Meaning, now: u64) {
        match meaning {
            Meaning::Start { begin, end } => {
                let mine = if self.far { now + self.warm_up_ns } else { begin };
                let (begin, end) = (mine, mine + (end - begin));
                (self.base, self.begin, self.end) = (begin - self.warm_up_ns, begin, end);
                board.begin.prepare(begin);
                board.end.prepare(end);
            }
            Meaning::End => board.ends.prepare(board.ends.own() + 1),
            Meaning::Final => board.finals.prepare(board.finals.own() + 1),
            Meaning::Data { .. } => {}
        }
    }

    /// A batch is over: where it lies in the measured time.
    #[inline(always)]
    fn count(&mut self, now: u64) {
        if now >= self.begin && (now <= self.end || self.first.is_none()) {
            let at = (now, self.reader.delivered());
            self.first.get_or_insert(at);
            self.last = at;
        }
    }
}

fn warm_up_ns(plan: &Plan) -> u64 {
    (plan.warm_up_seconds() * 1e9) as u64
}

/// The processor time of this thread.
fn ran_ns() -> u64 {
    let ran = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    ran.tv_sec as u64 * 1_000_000_000 + ran.tv_nsec as u64
}

/// Runs one member to its end.
pub fn run(plan: &Plan, rank: u16) -> Result<Report, Failure> {
    pin(plan.core(rank))?;
    if plan.idle == IdleOption::Park {
        // Timers that are 50 us late by default would be measured as latency.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    }
    let track = Track::new(plan, rank, false);
    let mut group = Group::open(&plan.config(rank), Box::new(Receiver(track.clone())))?;
    let report = run_in(&mut group, plan, rank, 0, &track)?;
    group.close();
    Ok(report)
}

/// Runs one measurement in a subgroup of a group that is open.
pub fn run_in(
    group: &mut Group,
    plan: &Plan,
    rank: u16,
    subgroup: u16,
    track: &Track,
) -> Result<Report, Failure> {
    let mut member = Member {
        plan,
        rank,
        subgroup,
        sender: group.sender(subgroup, 0),
        writer: Writer::new(rank, plan.size, plan.plant.filter(|_| rank == 0)),
        shared: track.0.clone(),
        step: if rank == 0 { Step::Start } else { Step::Await },
        due: 0,
        late: new_histogram(),
        look: None,
        looks: 0,
        needed: f64::INFINITY,
        hopeless: None,
    };
    let (wall, ran) = (clock().0, ran_ns());
    member.converse(group)?;
    let share = (ran_ns() - ran) as f64 / (clock().0 - wall).max(1) as f64;
    Ok(member.report(group, share))
}

/// What a member does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Say START.
    Start,
    /// Wait for it.
    Await,
    Flow,
    /// Say END.
    End,
    /// Wait for that of all.
    Ending,
    /// Say FINAL.
    Final,
    /// Wait for that of all.
    Closing,
}

struct Member<'a> {
    plan: &'a Plan,
    rank: u16,
    subgroup: u16,
    sender: Option<Sender>,
    writer: Writer,
    shared: Arc<Shared>,
    step: Step,
    /// When the next message of `lat` is due.
    due: u64,
    /// By how much it was sent late.
    late: Histogram<u64>,
    /// After the end: the last look, as the time and what was due then; how many there were.
    look: Option<(u64, u64)>,
    looks: u32,
    /// The least time, by that of the pace, that was needed between two of them.
    needed: f64,
    /// Why the pace cannot be kept.
    hopeless: Option<String>,
}

impl Member<'_> {
    fn converse(&mut self, group: &mut Group) -> Result<(), Failure> {
        let mut pace = Pace::new(self.plan.idle.into());
        loop {
            let turn = group.turn(u32::MAX);
            let board = &self.shared.board;
            if board.failed.own() != 0 {
                let why = lock(&self.shared).trouble.clone().unwrap_or_default();
                return fail!("{why}");
            }
            if board.finals.own() == u64::from(self.plan.senders) {
                return Ok(());
            }
            let turn = turn.or_else(|status| self.lost(status))?;
            let sent = self.advance(turn.busy).or_else(|status| self.lost(status))?;
            if sent || turn.busy {
                pace.busy();
            } else if pace.quiet() {
                pace.busy();
                // If the group has stopped, the next turn says so, with more to tell.
                let _ = group.wait(self.until_due());
            }
        }
    }

    fn lost<T>(&self, status: Status) -> Result<T, Failure> {
        if let Some(why) = &self.hopeless {
            return fail!("{why}");
        }
        match lock(&self.shared).suspicion {
            Some(suspicion) => fail!("rank {} is gone: {}", suspicion.rank.0, suspicion.fault),
            None => fail!("the group has ended too early: {status}"),
        }
    }

    /// Sends what is to be sent now. Whether anything was; no room is not an error.
    #[inline]
    fn advance(&mut self, busy: bool) -> Result<bool, Status> {
        let outcome = match self.step {
            Step::Flow if self.plan.test == Test::Lat => self.paced(busy),
            Step::Flow => self.burst(),
            _ => self.handshake(),
        };
        match outcome {
            Err(Status::Again) => Ok(false),
            other => other,
        }
    }

    #[cold]
    fn handshake(&mut self) -> Result<bool, Status> {
        let board = &self.shared.board;
        let senders = u64::from(self.plan.senders);
        let mut say = |kind, words| match &mut self.sender {
            Some(sender) => self.writer.control(sender, kind, words),
            None => Ok(()),
        };
        self.step = match self.step {
            Step::Start => {
                let begin = clock().0 + warm_up_ns(self.plan);
                say(START, [begin, begin + (self.plan.seconds * 1e9) as u64])?;
                Step::Await
            }
            Step::Await if board.begin.own() != 0 => {
                self.due = board.begin.own() - warm_up_ns(self.plan)
                    + self.plan.pace_ns * self.writer.sent();
                let silent = self.plan.test == Test::Lat && self.rank > 0;
                if silent || self.sender.is_none() { Step::End } else { Step::Flow }
            }
            Step::End => {
                say(END, [0; 2])?;
                Step::Ending
            }
            Step::Ending if board.ends.own() == senders => Step::Final,
            Step::Final => {
                let (count, hash) = lock(&self.shared).reader.closing().expect("all have ended");
                say(FINAL, [count, hash])?;
                Step::Closing
            }
            waiting => {
                self.step = waiting;
                return Ok(false);
            }
        };
        Ok(true)
    }

    /// As many as there is room for, up to a limit.
    #[inline]
    fn burst(&mut self) -> Result<bool, Status> {
        let board = &self.shared.board;
        if board.now.own() >= board.end.own() {
            self.step = Step::End;
            return Ok(true);
        }
        let newest = Checkpoint { number: board.checkpoint.own(), hash: board.hash.own() };
        let sender = self.sender.as_mut().expect("only senders flow");
        for sent in 0..BURST {
            match self.writer.data(sender, newest) {
                Ok(()) => {}
                Err(Status::Again) => return Ok(sent > 0),
                Err(status) => return Err(status),
            }
        }
        Ok(true)
    }

    /// The next one if it is due; in an open loop, whatever became of those before.
    #[inline]
    fn paced(&mut self, busy: bool) -> Result<bool, Status> {
        let board = &self.shared.board;
        // What was due in the measured time is sent, however late.
        if self.due >= board.end.own() {
            self.step = Step::End;
            return Ok(true);
        }
        let mut now = clock().0;
        let idle = !busy && board.delivered.own() >= self.writer.sent();
        let hold = self.plan.idle != IdleOption::Park && idle && now + HOLD_NS >= self.due;
        while hold && now < self.due {
            std::hint::spin_loop();
            now = clock().0;
        }
        if now < self.due {
            return Ok(false);
        }
        if now >= board.end.own() {
            self.catch_up(now)?;
        }
        let board = &self.shared.board;
        let newest = Checkpoint { number: board.checkpoint.own(), hash: board.hash.own() };
        let sender = self.sender.as_mut().expect("only senders flow");
        self.writer.data(sender, newest)?;
        if self.due >= board.begin.own() {
            self.late.saturating_record(now - self.due);
        }
        self.due += self.plan.pace_ns;
        Ok(true)
    }

    /// The measured time is over, and not all that was due in it is sent. Whether it ever will be, as
    /// the best of a few looks says: this member may have stood still, but hardly in each.
    #[cold]
    fn catch_up(&mut self, now: u64) -> Result<(), Status> {
        let (since, due) = *self.look.get_or_insert((now, self.due));
        if now - since < LOOK_NS {
            return Ok(());
        }
        let needed = (now - since) as f64 / (self.due - due).max(1) as f64;
        self.looks += 1;
        self.look = Some((now, self.due));
        self.needed = self.needed.min(needed);
        let left = (self.shared.board.end.own() - self.due) as f64;
        if self.looks < LOOKS || self.needed * left <= CATCH_UP_NS {
            return Ok(());
        }
        self.hopeless = Some(format!(
            "a send each {} is more than these members can do: they needed {} each; a longer \
             --pace, or `squall perf rate` for how many they can",
            time_text(self.plan.pace_ns),
            time_text((self.needed * self.plan.pace_ns as f64) as u64)
        ));
        Err(Status::TimedOut)
    }

    /// How long a sleep may be.
    fn until_due(&self) -> Option<Duration> {
        (self.plan.test == Test::Lat && self.step == Step::Flow)
            .then(|| Duration::from_nanos(self.due.saturating_sub(clock().0)))
    }

    fn report(&mut self, group: &mut Group, ran: f64) -> Report {
        let stats = group.stats();
        let mine = |of: &&SubgroupSnapshot| of.subgroup == u64::from(self.subgroup);
        let subgroup = stats.subgroups.iter().find(mine).cloned().unwrap_or_default();
        let record = lock(&self.shared);
        let (first, last) = (record.first.unwrap_or_default(), record.last);
        let mut stages = Vec::new();
        if let Some(latency) = &record.latency {
            if self.rank == 0 {
                stages.push(Stage::new("intended -> sent", &self.late));
                stages.push(Stage::new("send -> stable at the sender", latency));
            } else {
                let name = format!("send -> delivered at rank {}", self.rank);
                stages.push(Stage::new(&name, latency));
            }
        }
        Report {
            rank: self.rank,
            delivered: last.1 - first.1,
            window_ns: last.0 - first.0,
            total: record.reader.delivered(),
            hash: record.reader.hash(),
            checked: record.reader.checked,
            sent: self.writer.sent(),
            refused: subgroup.pressed,
            nulls: subgroup.nulls,
            batches: subgroup.delivered.batches,
            sleeps: stats.counters.sleeps,
            loop_gap_max_ns: stats.counters.loop_gap_max_ns,
            ran,
            stages,
        }
    }
}
