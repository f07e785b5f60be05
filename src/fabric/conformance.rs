// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every fabric must pass: one list of checks between the two ends of a pair of members.
//!
//! A check has two roles, *one* and *two*. Each runs at its own end, in its own process or thread,
//! and knows of the other only what lands; so the list is the same for mapped memory, a stream and
//! a device. `ci/fabric.rs` runs it between processes, the unit test below shows that each check
//! fails on a fabric that breaks its promise.
//!
//! A litmus counts its outcomes and the FORBIDDEN ones among them, which must be 0. Counts of the
//! allowed ones tell whether the check saw anything; they are printed, not judged.
//!
//! Nothing here depends on time: `DEADLINE` only turns a hang into a failure.

use super::Fabric;
use crate::base::{Events, Members, POST_WORDS_MAX, Peer, Post, Posting, Rank, RingId};
use crate::mem::{Extent, Region};
use std::time::{Duration, Instant};

/// One end of a fabric between two members.
pub trait End {
    /// The other one's rank.
    fn peer(&self) -> Rank;
    /// What the fabric calls it.
    fn name(&self) -> Peer {
        Peer(self.peer().0)
    }
    fn fabric(&mut self) -> &mut dyn Fabric;
    /// My control block, and my mirror of the other's.
    fn mine(&self) -> &Region;
    fn theirs(&self) -> &Region;
    /// My ring of subgroup 0 and lane 0, and my mirror of the other's.
    fn my_ring(&self) -> &Extent;
    fn their_ring(&self) -> &Extent;
    /// First of `WORDS` words of a control block that nothing else uses; begins a line.
    fn scratch(&self) -> usize;
    /// Byte of the word that `farewell` sets to 1.
    fn closed_at(&self) -> usize;
    /// Whether the other end's process (or thread) has ended, by another way than the fabric.
    fn peer_has_ended(&self) -> bool;
    /// Whether `revoke` stills the mirror. Shared memory does not yet: the engine looks away.
    fn stills_revoked(&self) -> bool;
    /// Whether the fabric's `fd` is readable, now or within that time.
    fn fd_is_readable(&mut self, within: Duration) -> bool;
    /// How many rounds a check makes.
    fn rounds(&self) -> u64;
    /// How long an end waits for a bell before it calls it lost; the other never takes so long.
    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }
}

/// Words of the control block that an `End` gives.
pub const WORDS: usize = 128;
/// Bytes that the rings of a pair must have at the least.
pub const RING_BYTES: u64 = SLOTS * SLOT_BYTES;

/// What a role counted, or the broken promise.
pub type Outcome = Result<String, String>;

pub struct Check {
    pub name: &'static str,
    /// The promise of `Fabric` that it is about.
    pub promise: &'static str,
    pub one: fn(&mut Side<'_>) -> Outcome,
    pub two: fn(&mut Side<'_>) -> Outcome,
    /// Role two's process shall die without another word when its role is over.
    pub two_dies: bool,
}

/// The list.
pub const CHECKS: &[Check] = &[
    check("word_lands_whole", "F1", whole::one, whole::two),
    check("posts_land_in_order", "F2", order::one, order::two),
    check("spans_land_before_what_counts_them", "F2 F3", spans::one, spans::two),
    Check { two_dies: true, ..check("revoked_is_not_heard_of", "F4", revoke::one, revoke::two) },
    Check { two_dies: true, ..check("loss_is_reported_once", "F5", loss::one, loss::two) },
    check("farewell_lands_before_the_loss", "F5", farewell::one, farewell::two),
    check("own_cells_may_be_seen_early", "F6", early::one, early::two),
    check("no_wake_up_is_lost", "P", wake::one, wake::two),
    check("a_bell_rings_only_sleepers", "P H3", awake::one, awake::two),
    check("fd_is_readable_when_rung", "P", readable::one, readable::two),
];

type Role = fn(&mut Side<'_>) -> Outcome;

const fn check(name: &'static str, promise: &'static str, one: Role, two: Role) -> Check {
    Check { name, promise, one, two, two_dies: false }
}

/// Runs one role of a check.
pub fn run(check: &Check, one: bool, end: &mut dyn End) -> Outcome {
    let until = Instant::now() + DEADLINE;
    let mut side = Side { end, events: Events::default(), until, alone: false };
    if one { (check.one)(&mut side) } else { (check.two)(&mut side) }
}

const DEADLINE: Duration = Duration::from_secs(60);
/// Spins between two looks at the clock and a yield: the other end may need this core.
const SPINS: u32 = 2048;

/// Words by use, each on a line of its own.
const TOLD: usize = 0;
const FLAG: usize = 16;
const DATA: [usize; 4] = [32, 48, 64, 80];
const _: () = assert!(DATA[3] + 16 <= WORDS);

const SLOTS: u64 = 32;
const SLOT_BYTES: u64 = 64;

/// What a role works with.
pub struct Side<'a> {
    end: &'a mut dyn End,
    events: Events,
    until: Instant,
    /// The other had ended when a wait looked last.
    alone: bool,
}

impl Side<'_> {
    fn peer(&self) -> Members {
        Members::from_ranks([self.end.peer()])
    }

    /// Advances a cell of mine, without posting it.
    fn set(&mut self, word: usize, value: u64) {
        self.end.mine().cell(self.end.scratch() + word * 8).publish(value);
    }

    fn own(&self, word: usize) -> u64 {
        self.end.mine().cell(self.end.scratch() + word * 8).own()
    }

    /// Posts as the engine's outbox does: nothing, a bell, or everything.
    fn post(&mut self, spans: &[(u64, u64)], words: &[usize]) {
        let to = self.peer();
        let posting = self.end.fabric().posting();
        let mut posts = Vec::with_capacity(spans.len() + words.len());
        match posting {
            Posting::Nothing => {}
            Posting::Bells => posts.push(Post::Bell { to, news: true }),
            Posting::All => {
                let ring = RingId::default();
                let span = |&(from, upto): &(u64, u64)| Post::Span { to, ring, from, upto };
                posts.extend(spans.iter().map(span));
                for &word in words {
                    let mut values = [0; POST_WORDS_MAX];
                    values[0] = self.own(word);
                    let at = (self.end.scratch() + word * 8) as u32;
                    posts.push(Post::Words { to, at, values, len: 1, news: true });
                }
            }
        }
        loop {
            self.poll(false);
            if !self.events.full.contains(self.end.peer()) {
                break;
            }
            assert!(Instant::now() < self.until, "the other end takes no posts");
        }
        self.end.fabric().post(&posts);
    }

    /// Advances and posts.
    fn say(&mut self, word: usize, value: u64) {
        self.set(word, value);
        self.post(&[], &[word]);
    }

    fn hear(&self, word: usize) -> u64 {
        self.end.theirs().cell(self.end.scratch() + word * 8).observe()
    }

    fn poll(&mut self, look: bool) {
        let events = &mut self.events;
        events.full = Members::NONE;
        self.end.fabric().poll(look, events);
    }

    /// Spins until a word of the other's is `least` or more.
    fn wait(&mut self, word: usize, least: u64) -> Result<u64, String> {
        let mut spins = 0;
        loop {
            let value = self.hear(word);
            if value >= least {
                return Ok(value);
            }
            self.poll(false);
            let what = format_args!("word {word} is {value}, {least} never landed");
            self.spin(&mut spins, &what)?;
        }
    }

    /// One round of a wait: gives the core away now and then, and up when the deadline is over.
    fn spin(&mut self, spins: &mut u32, what: &dyn std::fmt::Display) -> Result<(), String> {
        *spins += 1;
        if *spins % SPINS == 0 {
            std::thread::yield_now();
            if Instant::now() >= self.until {
                return Err(format!("{what}, after {} s", DEADLINE.as_secs()));
            }
        }
        if *spins % (64 * SPINS) == 0 {
            if self.alone {
                return Err(format!("{what}, and the other end has ended"));
            }
            self.alone = self.end.peer_has_ended();
        }
        std::hint::spin_loop();
        Ok(())
    }

    /// Whether `fd` is readable now.
    fn readable(&mut self) -> bool {
        self.end.fd_is_readable(Duration::ZERO)
    }

    /// Whether it becomes so.
    fn readable_soon(&mut self) -> bool {
        let patience = self.end.patience();
        self.end.fd_is_readable(patience)
    }
}

fn forbid(count: u64, what: &str, counted: String) -> Outcome {
    if count > 0 { Err(format!("{what}: {count} FORBIDDEN; {counted}")) } else { Ok(counted) }
}

/// F1: a reader that spins on words under change never sees half of one.
mod whole {
    use super::*;

    const PLACES: [usize; 4] = [DATA[0], DATA[0] + 1, DATA[1], DATA[2] + 3];

    /// Either eight equal bytes, or a number and its complement: halves and bytes of different
    /// words never make one of these.
    fn pattern(n: u64, place: usize) -> u64 {
        let n = n + place as u64;
        if n % 2 == 0 {
            (n / 2 % 256) * 0x0101_0101_0101_0101
        } else {
            n << 32 | (!n & 0xffff_ffff)
        }
    }

    fn sound(value: u64) -> bool {
        let (high, low) = ((value >> 32) as u32, value as u32);
        high == !low || value.to_le_bytes() == [value as u8; 8]
    }

    pub fn one(side: &mut Side<'_>) -> Outcome {
        let rounds = side.end.rounds();
        let mut n = 0;
        // Until the reader has seen enough of it; bounded, because it may share a core with me.
        while n < rounds || (n < 100 * rounds && side.hear(TOLD) == 0) {
            n += 1;
            for (place, word) in PLACES.into_iter().enumerate() {
                side.set(word, pattern(n, place));
                side.post(&[], &[word]);
            }
        }
        side.say(FLAG, 1);
        side.wait(TOLD, 2)?;
        Ok(format!("{} words posted", n * PLACES.len() as u64))
    }

    pub fn two(side: &mut Side<'_>) -> Outcome {
        let enough = side.end.rounds() / 100;
        let (mut last, mut looks, mut seen, mut torn) = ([0; 4], 0u64, 0u64, 0u64);
        let (mut example, mut spins) = (0, 0);
        while side.hear(FLAG) == 0 {
            for (last, word) in last.iter_mut().zip(PLACES) {
                let value = side.hear(word);
                looks += 1;
                if value == *last {
                    continue;
                }
                *last = value;
                seen += 1;
                if !sound(value) {
                    (torn, example) = (torn + 1, value);
                }
            }
            if seen >= enough && side.own(TOLD) == 0 {
                side.say(TOLD, 1);
            }
            side.poll(false);
            side.spin(&mut spins, &"the writer never ended")?;
        }
        side.say(TOLD, 2);
        if seen < 2 {
            return Err(format!("{looks} looks saw {seen} values: nothing was checked"));
        }
        let counted = format!("{looks} looks, {seen} new values, torn {torn}");
        forbid(torn, &format!("half a word was seen, {example:#018x}"), counted)
    }
}

/// F2: message passing. What was posted before a word is there once the word is.
mod order {
    use super::*;

    pub fn one(side: &mut Side<'_>) -> Outcome {
        let rounds = side.end.rounds();
        let mut n = 0;
        while n < rounds || (n < 20 * rounds && side.hear(TOLD) == 0) {
            n += 1;
            for word in DATA {
                side.set(word, n);
                side.post(&[], &[word]);
            }
            side.say(FLAG, n);
            // Now and then a moment of peace, so that all outcomes occur.
            for _ in 0..if n % 16 == 0 { n / 16 % 128 } else { 0 } {
                std::hint::spin_loop();
            }
        }
        side.say(FLAG + 1, n);
        side.wait(TOLD, 2)?;
        Ok(format!("{n} counters posted after {} words each", DATA.len()))
    }

    pub fn two(side: &mut Side<'_>) -> Outcome {
        let enough = side.end.rounds() / 100;
        let (mut same, mut ahead, mut forbidden) = (0u64, 0u64, 0u64);
        let (mut n, mut example, mut spins) = (0, [0; 5], 0);
        while side.hear(FLAG + 1) != n || n == 0 {
            side.poll(false);
            // In the reverse of the order in which they were posted.
            let counter = side.hear(FLAG);
            if counter == n {
                side.spin(&mut spins, &format_args!("the counter stands at {n}"))?;
                continue;
            }
            let [a, b, c, d] = [3, 2, 1, 0].map(|at| side.hear(DATA[at]));
            n = counter;
            if !(counter <= a && a <= b && b <= c && c <= d) {
                (forbidden, example) = (forbidden + 1, [counter, a, b, c, d]);
            } else if counter == d {
                same += 1;
            } else {
                ahead += 1;
            }
            if same + ahead >= enough && side.own(TOLD) == 0 {
                side.say(TOLD, 1);
            }
        }
        side.say(TOLD, 2);
        let what = format!("counter and data, last posted first, were {example:?}");
        let counted =
            format!("counter equal to data {same}, data ahead {ahead}, data behind {forbidden}");
        forbid(forbidden, &what, counted)
    }
}

/// F2 and F3: slots in a ring, then their count by value. Every second time the own cell of the
/// count has moved on, together with a slot that is not posted yet: a fabric that reads the cell
/// late would announce it.
mod spans {
    use super::*;

    fn fill(side: &Side<'_>, n: u64) {
        let mut bytes = [0; SLOT_BYTES as usize];
        for (at, byte) in bytes.chunks_exact_mut(8).enumerate() {
            byte.copy_from_slice(&content(n, at as u64).to_le_bytes());
        }
        side.end.my_ring().write(n % SLOTS * SLOT_BYTES, &bytes);
    }

    fn content(n: u64, at: u64) -> u64 {
        (n * 8 + at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn post(side: &mut Side<'_>, n: u64) {
        let from = n % SLOTS * SLOT_BYTES;
        side.post(&[(from, from + SLOT_BYTES)], &[FLAG]);
    }

    pub fn one(side: &mut Side<'_>) -> Outcome {
        let rounds = side.end.rounds() & !1;
        for n in (0..rounds).step_by(2) {
            if n + 2 > SLOTS {
                side.wait(TOLD, n + 2 - SLOTS)?; // S: these slots have been left
            }
            fill(side, n);
            side.set(FLAG, n + 1);
            post(side, n);
            fill(side, n + 1);
            side.set(FLAG, n + 2);
            post(side, n + 1);
        }
        side.wait(TOLD, rounds)?;
        Ok(format!("{rounds} slots of {SLOT_BYTES} bytes posted"))
    }

    pub fn two(side: &mut Side<'_>) -> Outcome {
        let rounds = side.end.rounds() & !1;
        let (mut n, mut batches, mut forbidden, mut spins) = (0, 0u64, 0u64, 0);
        while n < rounds {
            let count = side.hear(FLAG);
            if count == n {
                side.poll(false);
                side.spin(&mut spins, &format_args!("the count stands at {n}"))?;
                continue;
            }
            if count > rounds || count - n > SLOTS {
                return Err(format!("the count went from {n} to {count}"));
            }
            for n in n..count {
                let slot = side.end.their_ring().lend(n % SLOTS * SLOT_BYTES, SLOT_BYTES as u32);
                let slot = slot.ok_or("a slot lies outside the ring")?;
                let whole = slot
                    .chunks_exact(8)
                    .enumerate()
                    .all(|(at, bytes)| bytes == content(n, at as u64).to_le_bytes());
                forbidden += u64::from(!whole);
            }
            (n, batches) = (count, batches + 1);
            side.say(TOLD, n);
        }
        let counted = format!("{n} slots in {batches} batches, counted and not there {forbidden}");
        forbid(forbidden, "a count landed before its slots", counted)
    }
}

/// F4, as far as the fabric goes: a revoked peer's words, bells and end are no event any more.
mod revoke {
    use super::*;

    const LOOKS: u64 = 2_000;

    pub fn one(side: &mut Side<'_>) -> Outcome {
        side.wait(FLAG, 1)?;
        let peer = side.end.name();
        side.end.fabric().revoke(peer);
        let stilled = DATA.map(|word| side.hear(word));
        side.say(TOLD, 1);
        let (mut looks, mut after, mut moved, mut spins) = (0u64, 0, 0u64, 0);
        while after < LOOKS {
            side.poll(true);
            looks += 1;
            after += u64::from(side.end.peer_has_ended());
            if !side.events.lost.is_empty() {
                return Err(format!("the end of a revoked peer was reported at look {looks}"));
            }
            moved +=
                u64::from(side.end.stills_revoked() && DATA.map(|word| side.hear(word)) != stilled);
            side.spin(&mut spins, &"the other end never ended")?;
        }
        if side.readable() {
            return Err("the descriptor stays readable after the end of a revoked peer".into());
        }
        let counted =
            format!("{looks} looks, {after} of them after its end, its words moved in {moved}");
        forbid(moved, "a revoked peer's words moved", counted)
    }

    pub fn two(side: &mut Side<'_>) -> Outcome {
        side.say(FLAG, 1);
        // The word may be the last thing that I hear of the other: it may take my posts no more. Where
        // it cannot be heard any more either, the end of the connection says the same.
        let mut spins = 0;
        while side.hear(TOLD) == 0 && side.events.lost.is_empty() {
            side.poll(true);
            side.spin(&mut spins, &"neither a word nor the end of the connection came")?;
        }
        for n in 1..=1_000 {
            DATA.iter().for_each(|&word| side.set(word, n));
            side.post(&[], &DATA);
        }
        Ok("1000 rounds of words and bells after it".into())
    }
}

/// F5: the end of a peer is one event; before it, silence is none.
mod loss {
    use super::*;

    const LOOKS: u64 = 2_000;

    pub fn one(side: &mut Side<'_>) -> Outcome {
        side.wait(FLAG, 1)?;
        for _ in 0..LOOKS {
            side.poll(true);
        }
        if !side.events.lost.is_empty() {
            return Err("a peer that only kept silent was reported".into());
        }
        side.say(TOLD, 1);
        let (mut looks, mut spins) = (0u64, 0);
        while side.events.lost.is_empty() {
            side.poll(true);
            looks += 1;
            side.spin(&mut spins, &"the loss was never reported")?;
        }
        if side.events.lost != side.peer() {
            return Err(format!("{:?} was reported", side.events.lost));
        }
        side.events.lost = Members::NONE;
        for _ in 0..LOOKS {
            side.poll(true);
        }
        if !side.events.lost.is_empty() || side.readable() {
            return Err("the loss was reported again, or stays readable".into());
        }
        Ok(format!("silent for {LOOKS} looks, reported at look {looks}, once in {LOOKS} more"))
    }

    pub fn two(side: &mut Side<'_>) -> Outcome {
        side.say(FLAG, 1);
        side.wait(TOLD, 1)?;
        Ok("ended without a farewell".into())
    }
}

/// F5 with F2: who leaves in good order is known to have done so when its end is reported.
mod farewell {
    use super::*;

    pub fn one(side: &mut Side<'_>) -> Outcome {
        side.wait(FLAG, 1)?;
        let closed = side.end.closed_at();
        if side.end.theirs().cell(closed).observe() != 0 {
            return Err("closed before it said so".into());
        }
        side.say(TOLD, 1);
        let mut spins = 0;
        while side.events.lost.is_empty() {
            side.poll(true);
            side.spin(&mut spins, &"the end was never reported")?;
        }
        match side.end.theirs().cell(closed).observe() {
            1 => Ok("the farewell was there when the end was reported".into()),
            word => Err(format!("the end was reported, `closed` is {word}")),
        }
    }

    pub fn two(side: &mut Side<'_>) -> Outcome {
        side.say(FLAG, 1);
        side.wait(TOLD, 1)?;
        side.end.fabric().farewell();
        Ok("left in good order".into())
    }
}

/// F6: an own cell is seen at once or after its post, and nothing else is seen.
mod early {
    use super::*;

    pub fn one(side: &mut Side<'_>) -> Outcome {
        let rounds = (side.end.rounds() / 100).max(10);
        for n in 1..=rounds {
            side.set(DATA[0], n);
            side.say(FLAG, n);
            side.wait(TOLD, n)?;
            side.post(&[], &[DATA[0]]);
            side.say(FLAG + 1, n);
            side.wait(TOLD + 1, n)?;
        }
        Ok(format!("{rounds} cells advanced, told of, and then posted"))
    }

    pub fn two(side: &mut Side<'_>) -> Outcome {
        let rounds = (side.end.rounds() / 100).max(10);
        let (mut at_once, mut later, mut forbidden) = (0u64, 0u64, 0u64);
        for n in 1..=rounds {
            side.wait(FLAG, n)?;
            match side.hear(DATA[0]) {
                value if value == n => at_once += 1,
                value if value == n - 1 => later += 1,
                _ => forbidden += 1,
            }
            side.say(TOLD, n);
            side.wait(FLAG + 1, n)?;
            forbidden += u64::from(side.hear(DATA[0]) != n);
            side.say(TOLD + 1, n);
        }
        let counted =
            format!("seen before its post {at_once}, not before {later}, else {forbidden}");
        forbid(forbidden, "a cell showed another value than its last two", counted)
    }
}

/// P: arm, look, sleep. Whoever posts either sees the sleeper and rings, or is seen by it.
mod wake {
    use super::*;

    pub fn one(side: &mut Side<'_>) -> Outcome {
        if !side.end.fabric().parks() {
            return Ok("not here: nobody sleeps".into());
        }
        let rounds = (side.end.rounds() / 50).max(10);
        let lost = side.end.patience();
        let [mut up, mut looked, mut sleeps, mut early] = [0u64; 4];
        for n in 1..=rounds {
            // Up for a moment of changing length, so that the bell falls everywhere.
            for _ in 0..n % 61 * 16 {
                std::hint::spin_loop();
            }
            up += u64::from(side.hear(FLAG) >= n);
            while side.hear(FLAG) < n {
                side.end.fabric().arm(false);
                if side.hear(FLAG) >= n {
                    looked += 1;
                } else {
                    let start = Instant::now();
                    let mut events = Events::default();
                    side.end.fabric().sleep(Some(lost.as_nanos() as u64), &mut events);
                    sleeps += 1;
                    if start.elapsed() >= lost {
                        let there = side.hear(FLAG);
                        return Err(format!("round {n}: slept on, the word was {there}"));
                    }
                    if !events.lost.is_empty() {
                        return Err("the other end is gone".into());
                    }
                    early += u64::from(side.hear(FLAG) < n);
                }
                side.end.fabric().disarm();
                side.poll(false);
            }
            side.say(TOLD, n);
        }
        Ok(format!(
            "{rounds} rounds: still up {up}, seen by the last look {looked}, slept {sleeps}, woken \
             for nothing {early}, lost 0"
        ))
    }

    pub fn two(side: &mut Side<'_>) -> Outcome {
        if !side.end.fabric().parks() {
            return Ok(String::new());
        }
        let rounds = (side.end.rounds() / 50).max(10);
        for n in 1..=rounds {
            side.wait(TOLD, n - 1)?;
            for _ in 0..n * 7 % 257 * 4 {
                std::hint::spin_loop();
            }
            side.say(FLAG, n);
        }
        side.wait(TOLD, rounds)?;
        Ok(String::new())
    }
}

/// H3: no system call for who is awake, nor for who waits for something else.
mod awake {
    use super::*;

    fn rung_only(side: &mut Side<'_>) -> bool {
        side.end.fabric().posting() == Posting::Bells
    }

    pub fn one(side: &mut Side<'_>) -> Outcome {
        if !rung_only(side) {
            side.say(TOLD, 9);
            return Ok("not here: nobody sleeps, or everything posted is an event".into());
        }
        side.say(TOLD, 1);
        side.wait(FLAG, 1)?;
        if side.readable() {
            return Err("rung while awake".into());
        }
        side.end.fabric().arm(false);
        side.say(TOLD, 2);
        side.wait(FLAG, 2)?;
        if side.readable() {
            return Err("rung for mere room while waiting for news".into());
        }
        side.say(TOLD, 3);
        if !side.readable_soon() {
            return Err("not rung for news while asleep".into());
        }
        side.wait(FLAG, 3)?;
        let mut events = Events::default();
        side.end.fabric().sleep(Some(0), &mut events);
        side.end.fabric().disarm();
        if side.readable() {
            return Err("still readable after it was silenced".into());
        }
        side.end.fabric().arm(true);
        side.say(TOLD, 4);
        if !side.readable_soon() {
            return Err("not rung for room while waiting for room".into());
        }
        side.wait(FLAG, 4)?;
        side.end.fabric().sleep(Some(0), &mut events);
        side.end.fabric().disarm();
        side.say(TOLD, 9);
        Ok("awake 10000 bells rang 0; asleep: room 0, news 1; asleep for room: room 1".into())
    }

    pub fn two(side: &mut Side<'_>) -> Outcome {
        let to = side.peer();
        let bells = |side: &mut Side<'_>, count: u64, news: bool| {
            for _ in 0..count {
                side.end.fabric().post(&[Post::Bell { to, news }]);
            }
        };
        for (step, count, news) in
            [(1, 10_000, true), (2, 100, false), (3, 100, true), (4, 100, false)]
        {
            if side.wait(TOLD, step)? == 9 {
                return Ok(String::new());
            }
            bells(side, count, news);
            // Without posting: nothing but the bells shall ring.
            side.set(FLAG, step);
        }
        side.wait(TOLD, 9)?;
        Ok(String::new())
    }
}

/// The descriptor is what an event loop sleeps on: readable once rung, and not before.
mod readable {
    use super::*;

    pub fn one(side: &mut Side<'_>) -> Outcome {
        if !side.end.fabric().parks() {
            return Ok("not here: nobody sleeps".into());
        }
        let rounds = (side.end.rounds() / 1_000).max(10);
        let mut events = Events::default();
        for n in 1..=rounds {
            side.end.fabric().arm(false);
            if side.readable() {
                return Err(format!("round {n}: readable before anybody rang"));
            }
            side.say(TOLD, n);
            if !side.readable_soon() {
                return Err(format!("round {n}: never readable"));
            }
            side.wait(FLAG, n)?;
            side.end.fabric().sleep(Some(0), &mut events);
            side.end.fabric().disarm();
        }
        Ok(format!("{rounds} rounds: quiet when armed, readable when rung"))
    }

    pub fn two(side: &mut Side<'_>) -> Outcome {
        if !side.end.fabric().parks() {
            return Ok(String::new());
        }
        let rounds = (side.end.rounds() / 1_000).max(10);
        for n in 1..=rounds {
            side.wait(TOLD, n)?;
            side.say(FLAG, n);
        }
        Ok(String::new())
    }
}

#[cfg(test)]
mod tests;
