// SPDX-License-Identifier: MIT OR Apache-2.0
//! Detectors in a small world: members that run and stop by a schedule, and words that land at once.

use super::beats::Beats;
use super::lag::{Lag, Laggards, Verdict};
use crate::base::{Members, Nanos, Rank};
use crate::error::{Fault, Suspicion};
use crate::limits::SUSPICION_NS_DEFAULT;
use crate::mutants::plant;
use proptest::prelude::*;

const MS: u64 = 1_000_000;
/// The time to suspicion here, in milliseconds.
const T: u64 = SUSPICION_NS_DEFAULT / MS;
const START: u64 = 1 << 40;

/// Who suspected whom, when, and why.
type Told = (usize, usize, u64, Fault);

struct World {
    beats: Vec<Beats>,
    words: Vec<Nanos>,
    told: Vec<Told>,
    /// Milliseconds since the start.
    now: u64,
}

impl World {
    fn new(members: usize) -> World {
        let beats = vec![Beats::new(T * MS, Nanos(START)); members];
        World { beats, words: vec![Nanos(0); members], told: Vec::new(), now: 0 }
    }

    fn others(&self, me: usize) -> Members {
        let mut others = Members::below(Rank(self.beats.len() as u16));
        others.remove(Rank(me as u16));
        others
    }

    fn look_at(&mut self, me: usize, clock: Nanos, watched: Members) {
        let (words, told, now) = (&self.words, &mut self.told, self.now);
        let beat = self.beats[me].look(
            clock,
            watched,
            |rank| words[rank.index()],
            |Suspicion { rank, fault }| told.push((me, rank.index(), now, fault)),
        );
        if let Some(beat) = beat {
            assert!(beat > self.words[me], "my word never goes back");
            self.words[me] = beat;
        }
    }

    fn look(&mut self, me: usize) {
        let clock = Nanos(START + self.now * MS);
        self.look_at(me, clock, self.others(me));
    }

    /// So many milliseconds, in each of which who runs looks.
    fn run(&mut self, millis: u64, runs: impl Fn(usize, u64) -> bool) {
        for _ in 0..millis {
            self.now += 1;
            for me in 0..self.beats.len() {
                if runs(me, self.now) {
                    self.look(me);
                }
            }
        }
    }

    fn suspected(&self) -> Vec<(usize, usize)> {
        self.told.iter().map(|&(me, whom, ..)| (me, whom)).collect()
    }
}

#[test]
fn who_runs_is_never_suspected() {
    let mut world = World::new(3);
    world.run(10 * T, |_, _| true);
    assert_eq!(world.suspected(), []);
}

#[test]
fn a_stopped_peer_is_suspected_within_the_time_and_one_look() {
    for stop in [1, 17, T / 16, T - 1, 3 * T + 5] {
        let mut world = World::new(3);
        world.run(stop, |_, _| true);
        world.run(T + 1, |me, _| me != 2);
        assert_eq!(world.suspected(), [(0, 2), (1, 2)], "once by each");
        for (_, _, at, fault) in world.told {
            assert!(at >= stop + T * 7 / 8 - T / 16 && at <= stop + T + 1, "{at} after {stop}");
            assert!(matches!(fault, Fault::Silent { for_ns } if for_ns.0 >= T * MS * 7 / 8 - 16));
        }
    }
}

#[test]
fn an_observer_that_sleeps_between_beats_keeps_the_time_too() {
    let mut world = World::new(2);
    let wakes = |me: usize, now: u64| me == 0 && now % (T / 16) == 0;
    world.run(2 * T + 3, |me, now| me == 1 || wakes(me, now));
    let stop = world.now;
    world.run(T + T / 16, wakes);
    assert_eq!(world.suspected(), [(0, 1)]);
    assert!(world.told[0].2 <= stop + T + 1, "{} after {stop}", world.told[0].2);
    assert!(world.beats[0].wake_at().0 <= START + (world.now + T / 16) * MS);
}

#[test]
fn who_was_stopped_suspects_nobody() {
    for pause in [T / 2, T, 3 * T, 600 * T] {
        let mut world = World::new(3);
        world.run(2 * T, |_, _| true);
        // All stop at once, a machine that sleeps; 0 is the first to go on.
        world.now += pause;
        world.run(T * 3 / 4, |me, _| me == 0);
        world.run(2 * T, |_, _| true);
        assert_eq!(world.suspected(), [], "after {pause} ms");
        assert!(world.beats[0].pauses() >= (1, Nanos(pause * MS)));
    }
}

/// Each pause ends shortly before the next: none of them is silence, nor all together.
#[test]
fn two_pauses_in_a_row_suspect_nobody() {
    let mut world = World::new(3);
    world.run(T, |_, _| true);
    for _ in 0..20 {
        world.run(T * 5 / 8, |me, _| me == 0); // the others are slow to come back
        world.now += T * 3 / 8; // and then everything stops again
    }
    assert_eq!(world.suspected(), []);
}

/// A member that is itself away for a quarter of its time needs longer, and gets there.
#[test]
fn an_observer_with_pauses_still_suspects_who_is_gone() {
    let mut world = World::new(2);
    world.run(T, |_, _| true);
    for _ in 0..8 {
        world.run(T * 3 / 4, |me, _| me == 0);
        world.now += T * 5 / 16;
    }
    assert_eq!(world.suspected(), [(0, 1)]);
}

#[test]
fn a_peer_starved_to_a_tenth_of_its_core_is_not_suspected() {
    let mut world = World::new(3);
    // Quotas: ten of every hundred milliseconds; and a tenth in longer pieces.
    let quota = |me: usize, now: u64| me != 2 || now % 100 < 10;
    world.run(20 * T, quota);
    let pieces = |me: usize, now: u64| me != 2 || now % (T * 3 / 4) < T * 3 / 40;
    world.run(20 * T, pieces);
    // All of them, each in its own tenth.
    world.run(20 * T, |me, now| (now + 33 * me as u64) % 100 < 10);
    assert_eq!(world.suspected(), []);
}

#[test]
fn jumps_of_the_clock_suspect_nobody() {
    let hour = 3_600_000 * MS;
    for jump in [hour as i64, -(hour as i64), (T * MS) as i64, -((T * MS) as i64)] {
        let mut world = World::new(2);
        world.run(2 * T, |_, _| true);
        for ahead in 0..3 * T {
            // Only the clock of 0 has jumped; its own word goes on rising all the same.
            world.now += 1;
            let clock = (START + world.now * MS).wrapping_add_signed(jump);
            let before = world.words[0];
            world.look_at(0, Nanos(clock), world.others(0));
            assert!(world.words[0] >= before && (ahead > 0 || world.words[0] > before));
            world.look(1);
        }
        assert_eq!(world.suspected(), []);
        world.look_at(0, Nanos(START + world.now * MS), world.others(0));
        world.look(1);
        assert_eq!(world.suspected(), [], "and back");
    }
}

#[test]
fn sixty_four_members_lose_sixty_three() {
    let mut world = World::new(64);
    world.run(T, |_, _| true);
    assert_eq!(world.suspected(), []);
    world.run(T + 1, |me, _| me == 63);
    assert_eq!(world.suspected(), (0..63).map(|whom| (63, whom)).collect::<Vec<_>>());
}

/// A callback of three times the time: without a sign of life the others must suspect, with one they
/// must not; and who comes back from it suspects nobody.
#[test]
fn a_long_callback_is_survived_by_keeping_alive() {
    for keeps in [false, true] {
        let mut world = World::new(3);
        world.run(T, |_, _| true);
        for at in 0..3 * T {
            world.run(1, |me, _| me != 1);
            let clock = Nanos(START + world.now * MS);
            if keeps && at % (T / 2) == T / 4 {
                world.words[1] = world.beats[1].keep_alive(clock).unwrap();
                assert_eq!(world.beats[1].keep_alive(clock), None, "not more often than due");
            }
        }
        world.run(T, |_, _| true);
        let expected = if keeps { vec![] } else { vec![(0, 1), (2, 1)] };
        assert_eq!(world.suspected(), expected);
    }
}

#[test]
fn who_has_passed_on_is_not_suspected_for_silence() {
    let mut world = World::new(3);
    world.run(T, |_, _| true);
    let mut watched = world.others(0);
    watched.remove(Rank(2));
    for _ in 0..3 * T {
        world.now += 1;
        let clock = Nanos(START + world.now * MS);
        world.look_at(0, clock, watched);
        world.look(1);
    }
    assert_eq!(world.suspected(), [(1, 2)], "only who still waits for it");
    // Looked at again, it has the whole time again.
    world.run(T / 2, |me, _| me == 0);
    assert_eq!(world.suspected(), [(1, 2)]);
}

#[test]
fn in_a_new_view_all_have_the_whole_time_again() {
    let mut world = World::new(2);
    world.run(T, |_, _| true);
    world.run(T / 2, |me, _| me == 0);
    let before = world.words[0];
    world.beats[0].begin();
    world.run(1, |me, _| me == 0);
    assert!(world.words[0] > before, "the new block wants a beat at once");
    world.run(T * 7 / 8 - 2 - T / 64, |me, _| me == 0);
    assert_eq!(world.suspected(), []);
    world.run(T / 16, |me, _| me == 0);
    assert_eq!(world.suspected(), [(0, 1)]);
}

#[test]
fn a_word_that_goes_back_is_a_fault_and_told_once() {
    let mut world = World::new(2);
    world.run(T, |_, _| true);
    let from = world.words[1].0;
    world.words[1] = Nanos(7);
    world.run(2 * T, |me, _| me == 0);
    assert_eq!(world.told.len(), 1);
    assert!(matches!(world.told[0].3, Fault::Regressed { from: was, to: 7, .. } if was == from));
}

#[test]
fn with_the_setting_off_all_beat_and_nobody_suspects() {
    let mut world = World::new(2);
    world.beats = vec![Beats::new(0, Nanos(START)); 2];
    world.run(100, |_, _| true);
    let before = world.words[0];
    world.run(20 * T, |me, _| me == 0);
    assert!(world.words[0] > before);
    assert_eq!(world.suspected(), []);
}

/// Milliseconds of running and of being off, again and again.
fn schedule() -> impl Strategy<Value = Vec<(u64, u64)>> {
    proptest::collection::vec((1..T, 0..=T * 3 / 4), 1..6)
}

/// Whether it runs at that millisecond of its own schedule.
fn runs(schedule: &[(u64, u64)], now: u64) -> bool {
    let whole: u64 = schedule.iter().map(|(on, off)| on + off).sum();
    let mut at = now % whole;
    for (on, off) in schedule {
        if at < *on {
            return true;
        }
        if at < on + off {
            return false;
        }
        at -= on + off;
    }
    false
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() })]

    /// H2, D1: whatever the observers' own schedules and pauses of the whole machine. Shorter ones
    /// than D1 forgives are time without a core, and of that a schedule has all that H2 allows.
    #[test]
    fn who_gets_some_of_its_core_is_never_suspected(
        schedules in proptest::collection::vec(schedule(), 3..5),
        pauses in proptest::collection::vec((1..2 * T, T / 4 + 1..5 * T), 1..5),
    ) {
        let mut world = World::new(schedules.len());
        let mut own = 0; // time in which the machine runs
        for (between, pause) in pauses {
            for _ in 0..between {
                own += 1;
                world.run(1, |me, _| runs(&schedules[me], own));
            }
            world.now += pause;
        }
        prop_assert_eq!(world.suspected(), []);
    }

    /// H1, whenever it stops and however the others' looks lie, if they look regularly.
    #[test]
    fn who_stops_is_suspected_by_all_who_look(
        stop in 1..3 * T,
        every in proptest::collection::vec(1..=T / 16, 1..4),
    ) {
        let mut world = World::new(every.len() + 1);
        let last = every.len();
        world.run(stop, |me, now| me == last || now % every[me] == 0);
        world.run(T + T / 16, |me, now| me != last && now % every[me] == 0);
        prop_assert_eq!(world.told.len(), last);
        for &(me, whom, at, _) in &world.told {
            prop_assert_eq!(whom, last);
            prop_assert!(at <= stop + T + every[me], "{} of {}", at, stop);
        }
    }

    /// D2: however an observer looks, who is suspected did stand still for 7/8 of the time.
    #[test]
    fn silence_is_never_overestimated(looks in proptest::collection::vec((1..T / 2, any::<bool>()), 1..200)) {
        let mut world = World::new(2);
        let mut moved = 0;
        for (gap, other_first) in looks {
            world.now += gap;
            if other_first {
                world.look(1);
                moved = world.now;
            }
            world.look(0);
            if let Some(&(_, _, at, fault)) = world.told.iter().find(|told| told.0 == 0) {
                prop_assert_eq!(at, world.now);
                prop_assert!(at - moved >= T * 7 / 8 - T / 16, "{} ms: {}", at - moved, fault);
                return Ok(());
            }
        }
    }
}

/// Threads for members, on this machine as it is: run it beside whatever loads it, for
/// `SQUALL_BEAT_SECONDS`. Each looks every millisecond, as far as it is let.
#[test]
#[ignore = "as long as one wants"]
fn threads_on_a_loaded_machine() {
    use crate::mem::Cell;
    use std::time::{Duration, Instant};
    let seconds = std::env::var("SQUALL_BEAT_SECONDS").ok().and_then(|s| s.parse().ok());
    let (members, start) = (6, Instant::now());
    let end = Duration::from_secs(seconds.unwrap_or(60));
    let clock = || Nanos(START + start.elapsed().as_nanos() as u64);
    let words: Vec<Cell> = (0..members).map(|_| Cell::new(0)).collect();
    let member = |me: usize| {
        let mut beats = Beats::new(T * MS, clock());
        let mut watched = Members::below(Rank(members as u16));
        watched.remove(Rank(me as u16));
        let (mut told, mut late) = (Vec::new(), 0);
        while start.elapsed() < end {
            let now = clock();
            if beats.wake_at() > Nanos(0) {
                late = late.max(now.0.saturating_sub(beats.wake_at().0));
            }
            let observe = |rank: Rank| Nanos(words[rank.index()].observe());
            if let Some(beat) = beats.look(now, watched, observe, |s| told.push(s)) {
                words[me].publish(beat.0);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        (told, beats.pauses(), late)
    };
    std::thread::scope(|scope| {
        let member = &member;
        let all: Vec<_> = (0..members).map(|me| scope.spawn(move || member(me))).collect();
        for thread in all {
            let (told, (pauses, longest), late) = thread.join().unwrap();
            let (longest, late) = (longest.0 / MS, late / MS);
            println!("{pauses} pauses, at most {longest} ms; a beat late by at most {late} ms");
            // At the end some stop before others, by less than anybody's patience.
            assert!(told.is_empty(), "{told:?}");
        }
    });
}

/// Lag with one subgroup and the word of one member.
struct Lags {
    lag: Laggards,
    now: u64,
    said: Vec<(u64, Verdict)>,
}

impl Lags {
    fn new(policy: Lag) -> Lags {
        Lags { lag: Laggards::new(&[policy], Nanos(START)), now: 0, said: Vec::new() }
    }

    fn look(&mut self, held: Option<u64>, may_go: usize) {
        self.lag.look(Nanos(START + self.now * MS));
        if let Some(moved) = held {
            self.lag.held(0, Rank(1), moved);
        }
        let (said, now) = (&mut self.said, self.now);
        self.lag.verdicts(may_go, |verdict| said.push((now, verdict)));
    }

    fn run(&mut self, millis: u64, mut held: impl FnMut(u64) -> Option<u64>) {
        for _ in 0..millis {
            self.now += 1;
            self.look(held(self.now), 1);
        }
    }
}

const EVICT: Lag = Lag::Evict { after_ns: T * MS };

fn evicted(for_ms: u64) -> Verdict {
    let fault = Fault::Lag { subgroup: 0, for_ns: Nanos(for_ms * MS) };
    Verdict::Evict(Suspicion { rank: Rank(1), fault })
}

#[test]
fn a_laggard_is_evicted_after_the_whole_time_without_progress() {
    let mut lags = Lags::new(EVICT);
    lags.run(100, |_| None);
    lags.run(T, |_| Some(7));
    assert_eq!(lags.said, []);
    lags.run(T, |_| Some(7));
    assert_eq!(lags.said, [(100 + T + 1, evicted(T))], "once");
}

#[test]
fn progress_and_a_lane_with_room_start_the_time_anew() {
    let mut lags = Lags::new(EVICT);
    // However slow it is.
    lags.run(20 * T, |now| Some(now / (T - 1)));
    // A window that is full most of the time.
    lags.run(20 * T, |now| (now % (T - 1) != 0).then_some(1));
    assert_eq!(lags.said, []);
}

#[test]
fn my_own_pauses_do_not_count_as_lag() {
    let mut lags = Lags::new(EVICT);
    lags.run(T * 7 / 8, |_| Some(7));
    lags.now += 100 * T;
    lags.look(Some(7), 1);
    assert_eq!(lags.said, []);
    lags.run(T - 1, |_| Some(7));
    assert_eq!(lags.said, [], "it has the whole time again");
    lags.run(2, |_| Some(7));
    assert_eq!(lags.said.len(), 1);
}

#[test]
fn nobody_is_evicted_at_the_cost_of_the_majority() {
    let mut lags = Lags::new(EVICT);
    for _ in 0..2 * T + 3 {
        lags.now += 1;
        lags.look(Some(7), 0);
    }
    let report = |for_ms| {
        let for_ns = Nanos(for_ms * MS);
        Verdict::Report { subgroup: 0, rank: Rank(1), for_ns }
    };
    assert_eq!(lags.said, [(T + 1, report(T)), (2 * T + 1, report(2 * T))]);
    lags.look(Some(7), 1);
    assert!(matches!(lags.said[2].1, Verdict::Evict(_)), "once another one is there");
}

#[test]
fn reports_come_after_each_such_time_and_waiting_says_nothing() {
    let mut lags = Lags::new(Lag::Report { after_ns: T * MS });
    lags.run(5 * T + 2, |_| Some(7));
    assert_eq!(lags.said.len(), 5);
    let mut lags = Lags::new(Lag::Wait);
    assert!(!lags.lag.wants(0));
    lags.run(5 * T, |_| Some(7));
    assert_eq!(lags.said, []);
}

/// A sender that sleeps while it waits for room looks often enough for its own waiting to count.
#[test]
fn a_sleeping_sender_notices_lag_in_time() {
    let mut lags = Lags::new(EVICT);
    lags.look(Some(7), 1);
    while lags.said.is_empty() {
        let wake = lags.lag.wake_at().expect("somebody holds");
        lags.now = (wake.0 - START) / MS + 1;
        lags.look(Some(7), 1);
    }
    assert!(lags.now >= T && lags.now <= T + T / 8, "{}", lags.now);
    lags.look(None, 1);
    assert_eq!(lags.lag.wake_at(), None);
}

#[test]
fn a_new_view_forgets_who_held() {
    let mut lags = Lags::new(EVICT);
    lags.run(T - 1, |_| Some(7));
    lags.lag.begin();
    lags.run(T - 1, |_| Some(7));
    assert_eq!(lags.said, []);
}

/// The faults planted here, each with the test that finds it.
#[test]
fn each_detector_mutant_dies() {
    type Case = (&'static str, fn());
    const CASES: [Case; 3] = [
        ("detect-own-pauses-count", who_was_stopped_suspects_nobody),
        ("detect-pauses-forgive-nothing", two_pauses_in_a_row_suspect_nobody),
        ("detect-own-pauses-count", my_own_pauses_do_not_count_as_lag),
    ];
    for (name, test) in CASES {
        plant(Some(name));
        let survived = crate::mutants::caught(test).is_ok();
        plant(None);
        assert!(!survived, "nobody sees {name}");
    }
}
