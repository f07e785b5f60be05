// SPDX-License-Identifier: MIT OR Apache-2.0
//! Founders whose connections break and come again, two of them of the same rank: whatever happens, no
//! two groups have a member in common.

use super::*;
use crate::mutants::plant;
use proptest::prelude::*;
use std::collections::VecDeque;

#[test]
fn words_survive_their_text() {
    for binds in [false, true] {
        let list = vec![(7, Versions::OURS), (9, Versions { min: 1, max: 2 })];
        let word = Word { list, binds };
        assert_eq!(Word::decode(&word.encode()), Some(word));
    }
    let wrong =
        [b"found\n1:1,x:1\n", &b"found\n"[..], b"found\n1\n", b"find\n1:1\n", b"begin", b"\xff"];
    for wrong in wrong {
        assert_eq!(Word::decode(wrong), None);
    }
}

/// What a list says of process `n`.
fn name(n: usize) -> (u64, Versions) {
    (n as u64 + 1, Versions::OURS)
}

/// A connection as its two ends see it.
#[derive(Default)]
struct Line {
    /// Whether that end knows of it.
    open: [bool; 2],
    /// What is on its way to that end.
    to: [VecDeque<Said>; 2],
}

#[derive(Clone)]
enum Said {
    Word(Word),
    Letter(List),
    End,
}

struct World {
    seed: u64,
    ranks: Vec<usize>,
    words: Vec<Words>,
    /// The list that a process goes on with.
    begun: Vec<Option<List>>,
    /// By pair: the lower one first.
    lines: Vec<Vec<Line>>,
    /// Letters that were taken for false ones (F4).
    refused: usize,
}

impl World {
    /// Process `n` has incarnation `n + 1`, and that rank.
    fn new(seed: u64, ranks: &[usize]) -> World {
        let count = ranks.len();
        let lines = || (0..count).map(|_| Line::default()).collect();
        World {
            seed: seed * 2 + 1,
            ranks: ranks.to_vec(),
            words: (1..=count as u64).map(Words::new).collect(),
            begun: vec![None; count],
            lines: (0..count).map(|_| lines()).collect(),
            refused: 0,
        }
    }

    fn below(&mut self, most: usize) -> usize {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.seed >> 33) as usize % most
    }

    /// The line of two, and which end the first one is.
    fn line(&mut self, one: usize, other: usize) -> (&mut Line, usize) {
        (&mut self.lines[one.min(other)][one.max(other)], usize::from(one > other))
    }

    fn is_open(&mut self, one: usize, other: usize) -> bool {
        let (line, end) = self.line(one, other);
        line.open[end]
    }

    fn say(&mut self, from: usize, list: &List, said: &Said) {
        for other in (0..self.ranks.len()).filter(|other| list.contains(&name(*other))) {
            if other != from && self.is_open(from, other) {
                let (line, end) = self.line(from, other);
                line.to[1 - end].push_back(said.clone());
            }
        }
    }

    /// Somebody of each rank, as that one sees it; with one of its rank it does not meet.
    fn everybody(&mut self, me: usize) -> Option<List> {
        let ranks = self.ranks.iter().max()? + 1;
        let mut found = vec![None; ranks];
        found[self.ranks[me]] = Some(name(me));
        for other in 0..self.ranks.len() {
            if other != me && self.is_open(me, other) {
                found[self.ranks[other]] = Some(name(other));
            }
        }
        found.into_iter().collect()
    }

    fn connect(&mut self, one: usize, other: usize) {
        let ranks = self.ranks.clone();
        let taken = |world: &mut World, me: usize, whose: usize| {
            (0..ranks.len())
                .any(|of| of != me && ranks[of] == ranks[whose] && world.is_open(me, of))
        };
        if ranks[one] == ranks[other] || taken(self, one, other) || taken(self, other, one) {
            return;
        }
        *self.line(one, other).0 = Line { open: [true; 2], to: Default::default() };
    }

    /// One end goes; the other one hears of it, after what was said before or instead of it.
    fn cut(&mut self, one: usize, other: usize, loses: bool) {
        let (line, end) = self.line(one, other);
        if line.open[end] {
            line.open[end] = false;
            line.to[end].clear();
            if loses {
                line.to[1 - end].clear();
            }
            line.to[1 - end].push_back(Said::End);
        }
    }

    fn hear(&mut self, me: usize, from: usize) {
        let (line, end) = self.line(me, from);
        match line.to[end].pop_front() {
            Some(Said::End) => line.open[end] = false,
            Some(Said::Word(word)) => self.words[me].hears(from as u64 + 1, word),
            Some(Said::Letter(list)) if list.contains(&name(me)) => {
                if !self.words[me].may_begin(&list) {
                    self.refused += 1;
                } else if self.begun[me].is_none() {
                    self.begun[me] = Some(list.clone());
                    self.say(me, &list.clone(), &Said::Letter(list));
                }
            }
            Some(Said::Letter(_)) | None => {}
        }
    }

    fn step(&mut self, me: usize) {
        if self.begun[me].is_some() {
            return;
        }
        let all = self.everybody(me);
        while self.words[me].sees(all.as_ref()) {
            let word = self.words[me].mine().unwrap().clone();
            self.say(me, &word.list.clone(), &Said::Word(word));
        }
        if let Some(list) = self.words[me].begun().cloned() {
            self.begun[me] = Some(list.clone());
            self.say(me, &list.clone(), &Said::Letter(list));
        }
    }

    fn turn(&mut self, flaky: usize) {
        let (one, other) = (self.below(self.ranks.len()), self.below(self.ranks.len()));
        if one == other {
            return;
        }
        match self.below(12 + flaky) {
            0..2 => self.connect(one, other),
            2..7 => self.hear(one, other),
            7..12 => self.step(one),
            _ => {
                let loses = self.below(2) == 0;
                self.cut(one, other, loses);
            }
        }
    }

    /// Two groups with a member in common.
    fn is_split(&self) -> bool {
        let all: Vec<&List> = self.begun.iter().flatten().collect();
        let meet = |a: &List, b: &List| a != b && a.iter().any(|who| b.contains(who));
        all.iter().any(|a| all.iter().any(|b| meet(a, b)))
    }
}

/// How many of so many worlds have split, or took a letter for a false one.
fn splits(worlds: u64) -> [usize; 2] {
    let mut bad = [0; 2];
    for seed in 1..=worlds {
        let mut world = World::new(seed, &[0, 1, 2, 1]);
        (0..600).for_each(|_| world.turn(2));
        bad[0] += usize::from(world.is_split());
        bad[1] += world.refused;
    }
    bad
}

#[test]
fn two_of_the_same_rank_make_no_two_groups() {
    assert_eq!(splits(20_000), [0; 2]);
    plant(Some("found-words-do-not-bind"));
    assert!(splits(20_000)[0] > 0, "F2 is not needed");
    plant(None);
}

#[test]
fn founders_that_meet_begin() {
    let ranks: [&[usize]; 3] = [&[0], &[0, 1], &[0, 1, 2, 3]];
    for (seed, ranks) in (1..).zip(ranks) {
        let mut world = World::new(seed, ranks);
        (0..20_000).for_each(|_| world.turn(0));
        if ranks.len() == 1 {
            world.step(0);
        }
        let all: List = (0..ranks.len()).map(name).collect();
        assert!(world.begun.iter().all(|begun| begun.as_ref() == Some(&all)), "{ranks:?}");
    }
}

/// A letter that its sender had made up could name fewer members than a founder's rank: a failed assertion.
#[test]
fn who_has_not_voted_takes_no_letter() {
    let list: List = (0..2).map(name).collect();
    let mut words = Words::new(1);
    assert!(words.sees(Some(&list)) && !words.may_begin(&list));
    words.hears(2, Word { list: list.clone(), binds: false });
    assert!(words.sees(Some(&list)) && words.may_begin(&list), "its vote");
    assert!(!words.may_begin(&vec![name(0)]) && !words.may_begin(&vec![name(1), name(0)]));
}

/// Two that each had one in common with a third made a view that has none: a failed assertion, too.
#[test]
fn without_a_common_version_nothing_is_told() {
    let of = |who: u64, min: u16, max: u16| (who, Versions { min, max });
    let mut words = Words::new(1);
    assert!(
        !words.sees(Some(&vec![of(1, 1, 2), of(2, 1, 1), of(3, 2, 2)])) && words.mine().is_none()
    );
    assert!(words.sees(Some(&vec![of(1, 1, 2), of(2, 1, 1), of(3, 1, 2)])));
}

proptest! {
    #![proptest_config(crate::fabric::tcp::session::cases(1_000))]

    /// What founders that have proved themselves say is read without harm, whatever it is.
    #[test]
    fn fuzz_any_word_is_read_without_harm(
        any in any::<Vec<u8>>(),
        binds in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0usize..8, ".{0,6}"), 0..4),
    ) {
        let versions = Versions { min: 1, max: 2 };
        let mut bytes = Word { list: vec![(71, versions), (72, versions)], binds }.encode();
        for (at, len, piece) in changes {
            let at = at.index(bytes.len() + 1);
            let upto = (at + len).min(bytes.len());
            bytes.splice(at..upto, piece.bytes());
        }
        for bytes in [&any, &bytes] {
            if let Some(word) = Word::decode(bytes) {
                prop_assert_eq!(Word::decode(&word.encode()), Some(word));
            }
        }
    }
}
