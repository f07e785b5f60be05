// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is counted: rows with what they mean and how many a full run must show.

use super::coverage::{self, Reached};
use std::cell::Cell;

macro_rules! rows {
    ($($name:ident $want:literal $text:literal,)*) => {
        /// What is counted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Row { $($name,)* }

        /// Every row: what it counts, and how many a full run must show.
        pub(super) const ROWS: &[(Row, &str, u64)] = &[$((Row::$name, $text, $want),)*];
    };
}

rows! {
    Seeds 0 "seeds",
    Steps 0 "steps of the world",
    Turns 0 "turns of members",
    Deliveries 10_000_000 "deliveries (message and member)",
    Received 100_000 "of these, in *received* mode",
    Messages 1_000_000 "messages sent",
    Nulls 100_000 "nulls given",
    Laps 100_000 "laps of a ring",
    WindowFull 1_000 "sends refused: window full",
    RingFull 1_000 "sends refused: no bytes left",
    WrapInBatch 1_000 "wraps inside one take-up",
    WrapInPosts 1_000 "ranges posted in two spans",
    LongNullRun 1_000 "null runs longer than the window",
    LandedInPoll 1_000 "words landing between two observes of one poll",
    MovedInPoll 1_000 "steps of other members inside one poll",
    MovedInCallback 1_000 "callbacks during which others moved",
    WindowOneSeeds 100 "subgroups with window 1",
    WindowOne 1_000 "deliveries with window 1",
    Singletons 100 "subgroups of one member",
    Gathered 1_000 "gathered sends",
    Late 1_000 "reservations published late",
    Aborts 1_000 "reservations aborted",
    Abandoned 100 "reservations never published nor aborted",
    CallbackSends 1_000 "sends from callbacks",
    CutShort 1_000 "deliveries that one turn's budget cut short",
    FullTurns 1_000 "turns with a peer that took no posts",
    CaughtUp 1_000 "posts to a peer that had missed some",
    TornWords 1_000 "word posts seen half landed",
    TornSpans 1_000 "spans seen half landed",
    Pauses 1_000 "pauses of a member",
    Sleeps 1_000 "sleeps",
    Woken 1_000 "sleepers woken by a bell or a landing",
    Quiet 1_000 "times that all fell silent and was compared",
    Left 100 "departures in good order",
    Lost 50 "departures without",
    LeftBehind 1_000 "messages delivered after a departure",
    EvilSeeds 20 "seeds with a member that writes garbage",
    EvilWords 1_000 "words and headers of garbage",
    EvilFaults 20 "members that cut it off",
    ViewSeeds 0 "seeds of groups whose views change",
    Views 10_000 "views after a first one",
    Installs 10_000 "views installed (view and member)",
    Wedged 10_000 "members wedged",
    CutDeliveries 1_000 "messages delivered by a cut",
    Resent 1_000 "messages sent again in the next view",
    Lacking 1_000 "views in which a subgroup lacked members and waited",
    RefusedWaiting 1_000 "sends refused: the subgroup waits for members",
    WaitedFor 200 "messages that waited for members, and were sent again when they had come",
    Ahead 1_000 "lanes in *received* mode of which a member had had some of that (member and lane)",
    AheadStill 100 "of these, when the view that brought them ended before it had brought all",
    CallOverView 50 "calls of the application under way while a view was installed",
    SentLate 20 "messages that such a call counted in the old ring when the next view had begun",
    CallbackOverView 100 "callbacks during which others went on by one view",
    CallbackOverViews 3 "callbacks during which others went on by several",
    StoppedOverView 20 "of these, suspects that lived, one view later",
    StoppedOverViews 3 "suspects that lived, several views and a lap of the ring later",
    Joined 500 "joiners started",
    Rejoined 100 "of these, new incarnations of members that had stopped or crashed",
    TieBroken 20 "views of one that broke the tie of two",
    LeftView 100 "members that left with a view",
    LeavesDelivered 100 "leavers that asked to be left out, all that they sent being delivered",
    RefusedLeaving 100 "sends that a leaver's application was refused",
    SentLeaving 20 "messages that a call under way sent while its lane was closed",
    TakenBack 5 "messages that such a call counted too late, and took back",
    HandedBack 1_000 "messages given back to an application whose member was out",
    Expelled 500 "members expelled",
    Partitioned 500 "members in a minority",
    Exhausted 0 "members whose journal was full",
    SurvivedSeeds 1_000 "groups that survived",
}

pub(super) const LEN: usize = ROWS.len();

/// Counters of one world: rows, then the steps that were interrupted, failure cases, partitions.
pub struct Tallies(Vec<Cell<u64>>);

impl Tallies {
    pub fn new() -> Tallies {
        Tallies(vec![Cell::new(0); LEN + coverage::LEN])
    }

    #[inline(always)]
    pub fn add(&self, row: Row, count: u64) {
        let cell = &self.0[row as usize];
        cell.set(cell.get() + count);
    }

    pub fn get(&self, row: Row) -> u64 {
        self.0[row as usize].get()
    }

    /// Counts something of the coverage of view changes.
    pub fn reached(&self, what: impl Into<Reached>) {
        let cell = &self.0[LEN + what.into().at()];
        cell.set(cell.get() + 1);
    }

    /// All counters, the first `LEN` by row.
    pub(super) fn all(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().map(Cell::get)
    }

    #[inline(always)]
    pub fn one(&self, row: Row) {
        self.add(row, 1);
    }
}
