// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every simulated run has, whatever its world: chance, time, who sleeps, what was counted and
//! what happened last; and how a run ends, in order or at the first property that does not hold.

use super::dice::Dice;
use super::oracle::Broken;
use super::report::{Violation, World as Kind};
use super::rows::{Row, Tallies};
use crate::base::Rank;
use crate::mutants::caught;
use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::panic::resume_unwind;
use std::rc::Rc;

/// Events that a violation shows.
const TRAIL: usize = 60;

/// One thing that happened, for the page.
#[derive(Clone, Copy, Default)]
struct Event {
    step: u64,
    depth: u32,
    what: &'static str,
    who: [u64; 4],
}

/// Whether a turn thread sleeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sleep {
    Awake,
    Asleep,
    /// And a lane of it waits for room.
    ForRoom,
}

/// How often, how much and how deep the world moves before a word is observed or advanced: of 256
/// words, steps at most, levels.
#[derive(Clone, Copy, Debug)]
pub struct Hooks {
    pub chance: u32,
    pub moves: u64,
    pub depth_max: u32,
}

pub struct Run {
    pub dice: Dice,
    pub tallies: Tallies,
    pub now: Cell<u64>,
    /// The application has fallen silent: what is reserved is resolved, nothing new is sent.
    pub hush: Cell<bool>,
    /// Counts whatever changes the world: posts that land, cells that move, messages.
    pub stirs: Cell<u64>,
    /// Polls under way.
    pub polling: Cell<u32>,
    hooks: Hooks,
    depth: Cell<u32>,
    asleep: Vec<Cell<Sleep>>,
    trail: RefCell<[Event; TRAIL]>,
    events: Cell<usize>,
}

/// A world that a run can be of.
pub trait World {
    /// The whole run.
    fn run(&self);
    /// One random step of one random party.
    fn act(&self);
    fn run_of(&self) -> &Run;
    /// What was planned, for the page.
    fn planned(&self) -> String;
    /// What a panic breaks.
    fn property_of_panics(&self) -> &'static str;
}

thread_local! {
    static WORLD: RefCell<Option<Rc<dyn World>>> = const { RefCell::new(None) };
}

/// Before a word is observed or advanced: the world may move.
pub fn hook(_: Rank) {
    WORLD.with(|world| {
        if let Some(world) = &*world.borrow() {
            world.run_of().meanwhile(&**world);
        }
    });
}

/// Runs a world to its end, or to the first property that does not hold.
pub fn run(
    kind: Kind,
    seed: u64,
    world: Rc<dyn World>,
    absorb: impl FnOnce(&Tallies),
) -> Option<Violation> {
    WORLD.with(|place| *place.borrow_mut() = Some(world.clone()));
    let outcome = caught(|| world.run());
    WORLD.with(|place| *place.borrow_mut() = None);
    let run = world.run_of();
    run.tallies.add(Row::Steps, run.now.get());
    absorb(&run.tallies);
    let panic = outcome.err()?;
    let (property, detail) = match panic.downcast::<Broken>() {
        Ok(broken) => *broken,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
            (world.property_of_panics(), text.unwrap_or_else(|| "a panic without a text".into()))
        }
    };
    let page = format!("{}\n{}", world.planned(), run.story());
    Some(Violation { world: kind, seed, step: run.now.get(), property, detail, page })
}

impl Run {
    pub fn new(dice: Dice, hooks: Hooks, parties: usize) -> Run {
        Run {
            dice,
            tallies: Tallies::new(),
            now: Cell::new(0),
            hush: Cell::new(false),
            stirs: Cell::new(0),
            polling: Cell::new(0),
            hooks,
            depth: Cell::new(0),
            asleep: vec![Cell::new(Sleep::Awake); parties],
            trail: RefCell::new([Event::default(); TRAIL]),
            events: Cell::new(0),
        }
    }

    fn meanwhile(&self, world: &dyn World) {
        let depth = self.depth.get();
        if depth >= self.hooks.depth_max || !self.dice.chance(self.hooks.chance) {
            return;
        }
        self.depth.set(depth + 1);
        for _ in 0..self.dice.range(1, self.hooks.moves) {
            world.act();
        }
        self.depth.set(depth);
    }

    /// Does something during which nothing else moves.
    pub fn alone<T>(&self, what: impl FnOnce() -> T) -> T {
        let depth = self.depth.replace(u32::MAX);
        let outcome = what();
        self.depth.set(depth);
        outcome
    }

    pub fn tick(&self) {
        self.now.set(self.now.get() + 1);
    }

    pub fn stir(&self) {
        self.stirs.set(self.stirs.get() + 1);
    }

    pub fn sleep(&self, party: usize, room: bool) {
        self.asleep[party].set(if room { Sleep::ForRoom } else { Sleep::Asleep });
    }

    /// Rings a party's bell; without `news`, only if it waits for room.
    pub fn wake(&self, party: usize, news: bool) {
        let asleep = self.asleep[party].get();
        if asleep == Sleep::ForRoom || (news && asleep == Sleep::Asleep) {
            self.asleep[party].set(Sleep::Awake);
            self.tallies.one(Row::Woken);
        }
    }

    /// A party finds that it should not have gone to sleep.
    pub fn rouse(&self, party: usize) {
        self.asleep[party].set(Sleep::Awake);
    }

    /// A hang-up wakes whoever sleeps.
    pub fn wake_all(&self) {
        (0..self.asleep.len()).for_each(|party| self.rouse(party));
    }

    pub fn is_awake(&self, party: usize) -> bool {
        self.asleep[party].get() == Sleep::Awake
    }

    /// Ends the run.
    pub fn fail(&self, broken: Broken) -> ! {
        resume_unwind(Box::new(broken))
    }

    pub fn check<T>(&self, outcome: Result<T, Broken>) -> T {
        outcome.unwrap_or_else(|broken| self.fail(broken))
    }

    /// Remembers what happened, for the page.
    #[inline]
    pub fn note(&self, what: &'static str, who: [u64; 4]) {
        let events = self.events.get();
        let event = Event { step: self.now.get(), depth: self.depth.get(), what, who };
        self.trail.borrow_mut()[events % TRAIL] = event;
        self.events.set(events + 1);
    }

    fn story(&self) -> String {
        let mut story = String::from("  the last events, by step\n");
        let events = self.events.get();
        for at in events.saturating_sub(TRAIL)..events {
            let Event { step, depth, what, who } = self.trail.borrow()[at % TRAIL];
            let indent = "  ".repeat(depth.min(8) as usize);
            let _ = writeln!(story, "  {step:>6} {indent}{what} {who:?}");
        }
        story
    }
}
