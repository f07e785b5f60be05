// SPDX-License-Identifier: MIT OR Apache-2.0
//! Breadth first through all states, each once, within bounds of memory and time.
//!
//! A state is remembered by the fingerprint of its encoding (`table.rs`); the encoded states of the
//! frontier wait in one queue. Parents are not kept: when a property breaks, the search is run once
//! more with them, so a counterexample is always a shortest one.

use crate::table::{Inserted, Table, fingerprint};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

pub trait Model {
    type State: Clone;
    type Step: Copy;

    fn starts(&self, visit: &mut dyn FnMut(&Self::State));
    /// All successors; the same one may come more than once. Whether there is any that needs no
    /// new fault or wish.
    fn successors(
        &self,
        state: &Self::State,
        visit: &mut dyn FnMut(Self::Step, &Self::State),
    ) -> bool;
    /// The same bytes for states that differ only by a symmetry.
    fn encode(&self, state: &Self::State, bytes: &mut Vec<u8>);
    fn decode(&self, bytes: &[u8]) -> Self::State;
    fn broken(&self, state: &Self::State) -> Option<&'static str>;
    /// Nothing goes on here without a new fault, and it should.
    fn stuck(&self, state: &Self::State) -> Option<&'static str>;
    fn tell(&self, step: Self::Step) -> String;
    fn show(&self, state: &Self::State) -> String;
}

#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Of fingerprints and frontier together.
    pub bytes: usize,
    pub time: Duration,
    pub progress: bool,
}

#[derive(Debug)]
pub enum End {
    Exhausted,
    /// Memory or time ran out; all states of `depth` steps or less were seen.
    Bounded(&'static str),
    Broken {
        property: &'static str,
        story: Vec<String>,
    },
}

#[derive(Debug)]
pub struct Report {
    pub states: usize,
    pub transitions: u64,
    pub depth: usize,
    pub peak_bytes: usize,
    pub time: Duration,
    pub end: End,
}

/// A queue of byte strings in blocks, so that what has been read is given back.
#[derive(Default)]
struct Frontier {
    blocks: VecDeque<Vec<u8>>,
    read: usize,
    len: usize,
    bytes: usize,
}

const BLOCK: usize = 1 << 20;

impl Frontier {
    fn push(&mut self, state: &[u8]) {
        let fits = |block: &Vec<u8>| block.capacity() - block.len() >= state.len() + 2;
        if !self.blocks.back().is_some_and(fits) {
            self.blocks.push_back(Vec::with_capacity(BLOCK.max(state.len() + 2)));
            self.bytes += self.blocks.back().expect("just pushed").capacity();
        }
        let block = self.blocks.back_mut().expect("one has room");
        block.extend(u16::try_from(state.len()).expect("a state is small").to_le_bytes());
        block.extend(state);
        self.len += 1;
    }

    fn pop(&mut self, into: &mut Vec<u8>) -> bool {
        if self.len == 0 {
            return false;
        }
        if self.blocks[0].len() == self.read {
            self.bytes -= self.blocks.pop_front().map_or(0, |block| block.capacity());
            self.read = 0;
        }
        let rest = &self.blocks[0][self.read..];
        let len = usize::from(u16::from_le_bytes([rest[0], rest[1]]));
        into.clear();
        into.extend(&rest[2..2 + len]);
        (self.read, self.len) = (self.read + 2 + len, self.len - 1);
        true
    }
}

struct Search<'a, M: Model> {
    model: &'a M,
    seen: Table,
    frontier: Frontier,
    /// By fingerprint; only when a story is wanted.
    parents: Option<HashMap<u64, u64>>,
    scratch: Vec<u8>,
    transitions: u64,
    peak: usize,
    /// What broke, and the fingerprint of the state it broke in.
    found: Option<(&'static str, u64)>,
    full: bool,
}

pub fn search<M: Model>(model: &M, bounds: Bounds) -> Report {
    let begin = Instant::now();
    let mut search = Search::new(model, bounds, false);
    let (depth, bounded) = search.run(bounds, begin);
    let end = match (search.found, bounded) {
        (Some((property, _)), _) => {
            let mut again = Search::new(model, Bounds { progress: false, ..bounds }, true);
            again.run(Bounds { time: Duration::MAX, ..bounds }, Instant::now());
            Broken::new(&again).map_or(End::Broken { property, story: Vec::new() }, |broken| {
                End::Broken { property: broken.property, story: broken.story }
            })
        }
        (None, Some(why)) => End::Bounded(why),
        (None, None) => End::Exhausted,
    };
    Report {
        states: search.seen.len(),
        transitions: search.transitions,
        depth,
        peak_bytes: search.peak,
        time: begin.elapsed(),
        end,
    }
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, bounds: Bounds, with_parents: bool) -> Self {
        Search {
            model,
            seen: Table::new(bounds.bytes / 4 * 3),
            frontier: Frontier::default(),
            parents: with_parents.then(HashMap::new),
            scratch: Vec::new(),
            transitions: 0,
            peak: 0,
            found: None,
            full: false,
        }
    }

    /// The depth reached, and why it is not all.
    fn run(&mut self, bounds: Bounds, begin: Instant) -> (usize, Option<&'static str>) {
        let model = self.model;
        model.starts(&mut |state| self.meet(state, 0));
        let (mut depth, mut bytes) = (0, Vec::new());
        while self.frontier.len > 0 && self.found.is_none() {
            for at in 0..self.frontier.len {
                self.frontier.pop(&mut bytes);
                self.expand(&model.decode(&bytes), &bytes);
                if self.found.is_some() {
                    return (depth + 1, None);
                }
                let used = self.seen.bytes() + self.frontier.bytes;
                self.peak = self.peak.max(used);
                if self.full || used > bounds.bytes {
                    return (depth, Some("memory"));
                }
                if at % 1024 == 0 && begin.elapsed() > bounds.time {
                    return (depth, Some("time"));
                }
            }
            depth += 1;
            if bounds.progress {
                let (seen, waiting) = (self.seen.len(), self.frontier.len);
                let seconds = begin.elapsed().as_secs();
                eprintln!("    depth {depth}: {seen} states, {waiting} waiting, {seconds} s");
            }
        }
        // The last level had no successors that were new.
        (depth.saturating_sub(1), None)
    }

    fn expand(&mut self, state: &M::State, bytes: &[u8]) {
        let (model, parent) = (self.model, fingerprint(bytes));
        let lively = model.successors(state, &mut |_, next| {
            self.transitions += 1;
            self.meet(next, parent);
        });
        if !lively && let Some(property) = model.stuck(state) {
            self.found.get_or_insert((property, parent));
        }
    }

    fn meet(&mut self, state: &M::State, parent: u64) {
        if self.found.is_some() {
            return;
        }
        self.scratch.clear();
        self.model.encode(state, &mut self.scratch);
        let print = fingerprint(&self.scratch);
        match self.seen.insert(print) {
            Inserted::Known => return,
            Inserted::Full => self.full = true,
            Inserted::New => {}
        }
        if let Some(parents) = &mut self.parents {
            parents.insert(print, parent);
        }
        match self.model.broken(state) {
            Some(property) => self.found = Some((property, print)),
            None => self.frontier.push(&self.scratch),
        }
    }
}

struct Broken {
    property: &'static str,
    story: Vec<String>,
}

impl Broken {
    /// From a start to the state that broke.
    fn new<M: Model>(search: &Search<M>) -> Option<Broken> {
        let (property, last) = search.found?;
        let parents = search.parents.as_ref()?;
        let mut path = vec![last];
        while let Some(parent) = parents.get(path.last()?).filter(|parent| **parent != 0) {
            path.push(*parent);
        }
        path.reverse();
        let (model, mut bytes) = (search.model, Vec::new());
        let mut print = |state: &M::State| {
            bytes.clear();
            model.encode(state, &mut bytes);
            fingerprint(&bytes)
        };
        let mut here = None;
        model.starts(&mut |state| {
            if print(state) == path[0] {
                here = Some(state.clone());
            }
        });
        let mut here = here?;
        let mut story = vec![model.show(&here)];
        for wanted in &path[1..] {
            let mut found = None;
            model.successors(&here, &mut |step, next| {
                if found.is_none() && print(next) == *wanted {
                    found = Some((step, next.clone()));
                }
            });
            let (step, next) = found?;
            story.push(model.tell(step));
            here = next;
        }
        story.push(model.show(&here));
        Some(Broken { property, story })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counters that each go from 0 to `top`; equal ones may be swapped if `swapped`.
    struct Counters {
        top: u8,
        swapped: bool,
        trap: Option<[u8; 3]>,
        sink: bool,
    }

    impl Model for Counters {
        type State = [u8; 3];
        type Step = usize;

        fn starts(&self, visit: &mut dyn FnMut(&[u8; 3])) {
            visit(&[0; 3]);
        }

        fn successors(&self, state: &[u8; 3], visit: &mut dyn FnMut(usize, &[u8; 3])) -> bool {
            for at in 0..3 {
                let mut next = *state;
                next[at] += 1;
                if next[at] <= self.top {
                    visit(at, &next);
                }
            }
            state.iter().any(|count| *count < self.top)
        }

        fn encode(&self, state: &[u8; 3], bytes: &mut Vec<u8>) {
            let mut state = *state;
            if self.swapped {
                state.sort_unstable();
            }
            bytes.extend(state);
        }

        fn decode(&self, bytes: &[u8]) -> [u8; 3] {
            bytes.try_into().expect("three")
        }

        fn broken(&self, state: &[u8; 3]) -> Option<&'static str> {
            (Some(*state) == self.trap).then_some("the trap")
        }

        fn stuck(&self, _: &[u8; 3]) -> Option<&'static str> {
            self.sink.then_some("the end")
        }

        fn tell(&self, step: usize) -> String {
            step.to_string()
        }

        fn show(&self, state: &[u8; 3]) -> String {
            format!("{state:?}")
        }
    }

    const PLAIN: Counters = Counters { top: 9, swapped: false, trap: None, sink: false };
    const BOUNDS: Bounds = Bounds { bytes: 1 << 26, time: Duration::MAX, progress: false };

    #[test]
    fn all_states_are_met_once_and_the_depth_is_the_longest_way() {
        let report = search(&PLAIN, BOUNDS);
        assert!(matches!(report.end, End::Exhausted));
        assert_eq!((report.states, report.depth), (1000, 27));
        assert_eq!(report.transitions, 3 * 9 * 100);
    }

    #[test]
    fn a_symmetry_leaves_one_of_each_kind() {
        let report = search(&Counters { swapped: true, ..PLAIN }, BOUNDS);
        assert_eq!((report.states, report.depth), (220, 27), "multisets of 3 of 10");
    }

    #[test]
    fn a_counterexample_is_a_shortest_one() {
        let report = search(&Counters { trap: Some([1, 0, 2]), ..PLAIN }, BOUNDS);
        let End::Broken { property, story } = report.end else { panic!("it is there") };
        assert_eq!((property, story.len(), report.depth), ("the trap", 5, 3));
        assert_eq!((story[0].as_str(), story[4].as_str()), ("[0, 0, 0]", "[1, 0, 2]"));
    }

    #[test]
    fn a_state_without_a_way_out_is_told() {
        let report = search(&Counters { sink: true, ..PLAIN }, BOUNDS);
        let End::Broken { property, story } = report.end else { panic!("it is there") };
        assert_eq!((property, story.len()), ("the end", 29));
    }

    #[test]
    fn bounds_are_kept() {
        let many = Counters { top: 250, ..PLAIN };
        let report = search(&many, Bounds { bytes: 8 << 20, ..BOUNDS });
        assert!(matches!(report.end, End::Bounded("memory")), "{report:?}");
        assert!(report.peak_bytes <= 10 << 20 && report.depth > 10);
        let report = search(&many, Bounds { time: Duration::ZERO, ..BOUNDS });
        assert!(matches!(report.end, End::Bounded("time")));
    }

    #[test]
    fn the_frontier_is_a_queue() {
        let (mut queue, mut out) = (Frontier::default(), Vec::new());
        for n in 0..300_000u32 {
            queue.push(&n.to_le_bytes());
            if n % 3 == 0 {
                assert!(queue.pop(&mut out));
                assert_eq!(out, (n / 3).to_le_bytes());
            }
        }
        assert_eq!(queue.len, 200_000);
        while queue.pop(&mut out) {}
        assert!(queue.bytes <= 2 * BLOCK && queue.len == 0);
    }
}
