// SPDX-License-Identifier: MIT OR Apache-2.0
//! The processes of `squall perf failover`: a member that sends and delivers until it is killed, an
//! idle process that only holds memory, and one that burns a core.
//!
//! They hear orders from their standard input, a socket that ends with its parent, and say one line
//! each time something happens. What a member measures it notes in memory, and says it `LATER`: then
//! nobody waits for the parent that reads it.

use super::super::crew;
use crate::failure::{Failure, fail};
use crate::text::{IdleOption, say};
use serde::{Deserialize, Serialize};
use squall::driver::config::{Changes, Config};
use squall::driver::group::{Group, Sender};
use squall::driver::views::ViewInfo;
use squall::driver::{Application, clock};
use squall::error::Status;
use squall::mem::region::Want;
use squall::mem::{Cell, Message, Region};
use std::io::BufRead;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A member says what it has seen so long after the first delivery in a new view.
const LATER_NS: u64 = 20_000_000;
/// Messages of its own that a member has seen delivered when it says that it is ready.
const WARM: u64 = 50;

/// What a process of a measurement is to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Role {
    Member(Part),
    /// Holds so many bytes of shared memory and waits.
    Holder {
        bytes: usize,
    },
    /// Wants a core of its own, all the time.
    Burner,
}

/// A member's part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    pub group: String,
    /// What its messages say; one that joins has a rank that no founder has.
    pub rank: u16,
    pub members: u16,
    pub join: bool,
    pub idle: IdleOption,
    pub size: u32,
    pub window: u32,
    pub pace_ns: u64,
    pub suspicion_ns: u64,
}

impl Part {
    pub fn config(&self) -> Config {
        let rank = if self.join { 0 } else { self.rank };
        let mut config = Config::new(&self.group, rank, self.members);
        config.membership = Changes::Views;
        config.join = self.join;
        config.idle = self.idle.into();
        config.suspicion_ns = self.suspicion_ns;
        config.subgroups[0].window = self.window;
        config.subgroups[0].message_bytes_max = self.size;
        config.open_timeout = Duration::from_secs(60);
        config
    }
}

/// A view change as one member went through it; times by the host's monotonic clock, in nanoseconds.
#[derive(Clone, Copy, Default, Debug, Serialize, Deserialize)]
pub struct Seen {
    pub rank: u16,
    pub epoch: u64,
    pub members: usize,
    /// The last delivery in the old view, the view callback, the first delivery in the new one.
    pub last: u64,
    pub view: u64,
    pub first: u64,
    /// As the statistics name them; 0: this member did not go through it.
    pub suspected: u64,
    pub wedged: u64,
    pub agreed: u64,
    pub echoed: u64,
    pub ended: u64,
    pub passed: u64,
    pub installed: u64,
    pub built: u64,
}

/// How a member is, at any time.
#[derive(Clone, Copy, Default, Debug, Serialize, Deserialize)]
pub struct State {
    pub views: u64,
    pub delivered: u64,
    /// The longest time between two looks of its driver at the clock.
    pub loop_gap_max_ns: u64,
}

/// What callbacks note.
#[derive(Default)]
struct Notes {
    seen: Seen,
    state: State,
    /// By rank of the first view; whose came when.
    next: Vec<u64>,
    wrong: Option<String>,
}

#[derive(Clone, Default)]
struct Scribe(Arc<Mutex<Notes>>);

impl Scribe {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message: its sender's number, its place among that sender's.
fn content(rank: u16, ordinal: u64, into: &mut [u8]) {
    into[..8].copy_from_slice(&u64::from(rank).to_le_bytes());
    into[8..16].copy_from_slice(&ordinal.to_le_bytes());
}

impl Notes {
    /// Every sender's messages adjoin, over all views.
    fn check(&mut self, bytes: &[u8]) {
        let word = |at: usize| bytes.get(at..at + 8).map(|word| word.try_into().expect("eight"));
        let words = [word(0), word(8)].map(|word| word.map_or(u64::MAX, u64::from_le_bytes));
        let [rank, ordinal] = words;
        if rank > u64::from(u16::MAX) {
            self.wrong = Some(format!("a message of {} bytes says {words:?}", bytes.len()));
            return;
        }
        if self.next.len() <= rank as usize {
            self.next.resize(rank as usize + 1, u64::MAX);
        }
        let next = &mut self.next[rank as usize];
        if *next != u64::MAX && *next != ordinal {
            self.wrong = Some(format!("rank {rank}: {ordinal} came where {next} was due"));
        }
        *next = ordinal.wrapping_add(1);
    }
}

impl Application for Scribe {
    fn deliver(&mut self, _: u16, batch: &[Message]) {
        let now = clock().0;
        let mut notes = self.notes();
        if notes.seen.view == 0 {
            notes.seen.last = now;
        } else if notes.seen.first == 0 {
            notes.seen.first = now;
        }
        batch.iter().for_each(|message| notes.check(message.bytes()));
        notes.state.delivered += batch.len() as u64;
    }

    fn view(&mut self, view: &ViewInfo) {
        let mut notes = self.notes();
        notes.state.views += 1;
        // A joiner's first view is none that it has changed to.
        if notes.state.views > 1 {
            let (last, rank) = (notes.seen.last, notes.seen.rank);
            let (epoch, members, view) = (view.epoch, view.members.len(), clock().0);
            notes.seen = Seen { rank, epoch, members, last, view, ..Seen::default() };
        }
    }
}

/// Does what the role says, until the parent ends it.
pub fn run(role: &Role, parent: u32) -> Result<(), Failure> {
    crew::die_with(parent)?;
    match role {
        Role::Member(part) => member(part),
        Role::Holder { bytes } => {
            let (region, _fd) =
                Region::share("squall-held", *bytes, Want::No, Want::No, &mut Vec::new())?;
            (0..region.size()).step_by(4096).for_each(|at| region.cell(at).publish(1));
            say("ready")?;
            std::io::stdin().lock().lines().for_each(drop);
            Ok(())
        }
        Role::Burner => {
            say("ready")?;
            let mut number = 1_u64;
            loop {
                number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005) + 1);
            }
        }
    }
}

fn member(part: &Part) -> Result<(), Failure> {
    let scribe = Scribe::default();
    scribe.notes().seen.rank = part.rank;
    let mut group = Group::open(&part.config(), Box::new(scribe.clone()))?;
    let sender = group.sender(0, 0).expect("every member sends");
    let asked = Arc::new(Cell::new(0));
    let orders = asked.clone();
    std::thread::spawn(move || {
        // Every line asks the same.
        std::io::stdin().lock().lines().for_each(|_| orders.publish(1));
    });
    let bytes = vec![0; part.size as usize];
    let due = clock().0;
    Sending { part, group, sender, scribe, asked, bytes, sent: 0, due }.run()
}

struct Sending<'a> {
    part: &'a Part,
    group: Group,
    sender: Sender,
    scribe: Scribe,
    asked: Arc<Cell>,
    bytes: Vec<u8>,
    sent: u64,
    /// When the next message is.
    due: u64,
}

impl Sending<'_> {
    fn run(mut self) -> Result<(), Failure> {
        let (mut ready, mut told) = (false, 0);
        loop {
            let now = clock().0;
            if now >= self.due {
                self.send(now);
            }
            match self.group.turn(u32::MAX) {
                Ok(turn) if turn.busy => {}
                Ok(_) => {
                    let rest = Duration::from_nanos(self.due.saturating_sub(now).max(1_000));
                    // The next turn says why it did not wait.
                    let _ = self.group.wait(Some(rest));
                }
                Err(status) => return self.over(status),
            }
            let (seen, state) = {
                let mut notes = self.scribe.notes();
                if let Some(wrong) = notes.wrong.take() {
                    return fail!("VIOLATION at rank {}: {wrong}", self.part.rank);
                }
                (notes.seen, notes.state)
            };
            if !ready && self.sent >= WARM && state.delivered >= WARM {
                ready = true;
                say("ready")?;
            }
            if self.asked.observe() != 0 {
                self.asked.publish(0);
                let loop_gap_max_ns = self.group.stats().counters.loop_gap_max_ns;
                self.tell("state", &State { loop_gap_max_ns, ..state })?;
            }
            if seen.first != 0 && told != seen.epoch && now > seen.first + LATER_NS {
                told = seen.epoch;
                let whole = self.with_steps(seen);
                self.tell("seen", &whole)?;
                // The next change is measured anew.
                let mut notes = self.scribe.notes();
                notes.seen = Seen { rank: seen.rank, ..Seen::default() };
            }
        }
    }

    fn tell(&self, what: &str, value: &impl Serialize) -> Result<(), Failure> {
        say(&format!("{what} {}", serde_json::to_string(value).expect("it is plain data")))
    }

    /// A message that is due, if there is room; no more than that are due at once.
    fn send(&mut self, now: u64) {
        content(self.part.rank, self.sent, &mut self.bytes);
        if self.sender.send(&self.bytes).is_ok() {
            self.sent += 1;
            self.due = (self.due + self.part.pace_ns).max(now);
        }
    }

    fn with_steps(&mut self, seen: Seen) -> Seen {
        let times = self.group.stats().last;
        Seen {
            suspected: times.suspected.0,
            wedged: times.wedged.0,
            agreed: times.agreed.0,
            echoed: times.echoed.0,
            ended: times.ended.0,
            passed: times.passed.0,
            installed: times.installed.0,
            built: times.built.0,
            ..seen
        }
    }

    fn over(&mut self, status: Status) -> Result<(), Failure> {
        let again = self.sender.send(&self.bytes);
        if again != Err(status) {
            return fail!("a turn says {status:?} and a send {again:?}");
        }
        let gap_ns = self.group.stats().counters.loop_gap_max_ns;
        say(&format!("longest time without a turn: {} ms", gap_ns / 1_000_000))?;
        say(&format!("over {status:?}"))
    }
}
