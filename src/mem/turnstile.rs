// SPDX-License-Identifier: MIT OR Apache-2.0
//! One call at a time in a group: who polls, waits or closes. Who comes beside it is told so.
//!
//! The thread that comes first comes and goes by the *short way* from then on, with plain stores: an
//! exchange at the door would be a fifth of a quiet turn. Any other thread takes that right away, for
//! good, with a barrier on all threads.
//!
//! B1  Inside is who has `busy`, or the first thread while `inside` is set, never both. The first
//!     thread sets `inside`, then looks whether the short way is still its own and `busy` free;
//!     any other one takes `busy`, runs the barrier, then looks at `inside` (Dekker: the barrier
//!     stands for both fences).

use super::Cell;
use super::order::keep_order;
use super::thread::{can_order_all_threads, order_all_threads, this_thread};
#[cfg(not(loom))]
use std::time::Duration;

/// In `busy`: a call that turns, waits or closes.
const TURNING: u64 = 1;
/// In `busy`: statistics are brought up to date, which may be done beside everything: who comes
/// meanwhile waits the microseconds that it takes.
const COUNTING: u64 = 2;
/// In `first`: the short way is nobody's any more.
const NOBODY: u64 = u64::MAX;

pub struct Turnstile {
    /// The thread that came first; 0: none yet.
    first: Cell,
    /// Whether that one is inside by the short way.
    inside: Cell,
    busy: Cell,
}

/// Somebody counts, which takes microseconds: unless it has lost its core, to this thread perhaps.
#[cfg(not(loom))]
fn be_patient(looks: &mut u32) {
    *looks += 1;
    match *looks {
        ..100 => std::hint::spin_loop(),
        ..200 => std::thread::yield_now(),
        _ => std::thread::sleep(PAUSE),
    }
}

#[cfg(loom)]
fn be_patient(_: &mut u32) {
    loom::thread::yield_now();
}

/// Between two looks at who does not come out: long enough for one of any priority to go on.
#[cfg(not(loom))]
const PAUSE: Duration = Duration::from_micros(50);

/// How a call has come in, and goes out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Short,
    Long,
}

impl Turnstile {
    /// Nobody is inside; or whoever made it, by the long way. May take milliseconds, if this process
    /// has other threads and has never asked for the barrier: not for a turn to do.
    pub fn new(taken: bool) -> Turnstile {
        let busy = if taken { TURNING } else { 0 };
        let first = if can_order_all_threads() { 0 } else { NOBODY };
        Turnstile { first: Cell::new(first), inside: Cell::new(0), busy: Cell::new(busy) }
    }

    /// Goes in; `None`: somebody is inside already, perhaps this thread.
    #[inline(always)]
    pub fn enter(&self) -> Option<Way> {
        self.enter_as(this_thread())
    }

    #[inline(always)]
    fn enter_as(&self, me: u64) -> Option<Way> {
        if self.is_mine(me) {
            if self.inside.own() != 0 {
                return None;
            }
            self.inside.prepare(1);
            keep_order(); // B: the barrier on all threads does the rest
            if self.busy.observe() == 0 && self.is_mine(me) {
                return Some(Way::Short);
            }
            self.inside.publish(0);
        }
        self.enter_late(me)
    }

    #[inline(always)]
    fn is_mine(&self, me: u64) -> bool {
        self.first.own() == me && me != NOBODY
    }

    #[cold]
    fn enter_late(&self, me: u64) -> Option<Way> {
        let mut looks = 0;
        while !self.busy.replace(0, TURNING) {
            if self.busy.observe() == TURNING {
                return None;
            }
            be_patient(&mut looks);
        }
        let first = self.first.own();
        if first == 0 {
            self.first.publish(me);
        } else if first != me {
            if first != NOBODY {
                self.first.publish(NOBODY);
                let _ = crate::mutant!("loom-b-no-barrier") || order_all_threads(); // B
            }
            if self.inside.observe() != 0 {
                self.busy.publish(0);
                return None;
            }
        }
        Some(Way::Long)
    }

    /// Goes in to bring statistics up to date; `false`: it cannot be done now.
    pub fn enter_to_count(&self) -> bool {
        self.enter_to_count_as(this_thread())
    }

    fn enter_to_count_as(&self, me: u64) -> bool {
        // Whoever is seen inside need not be interrupted.
        if self.inside.observe() != 0 || !self.busy.replace(0, COUNTING) {
            return false;
        }
        let first = self.first.own();
        let others = ![0, NOBODY, me].contains(&first);
        if others && !crate::mutant!("loom-b-no-barrier") && !order_all_threads() {
            self.first.publish(NOBODY); // so that this was the last barrier of that price
        }
        if self.inside.observe() != 0 {
            self.busy.publish(0);
            return false;
        }
        true
    }

    /// Goes out as it came in.
    #[inline(always)]
    pub fn leave(&self, way: Way) {
        match way {
            Way::Short => self.inside.publish(0),
            Way::Long => self.busy.publish(0),
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    struct Room {
        door: Turnstile,
        /// Only for who is inside.
        entries: UnsafeCell<u32>,
    }

    // SAFETY: loom reports a race if there is one.
    unsafe impl Sync for Room {}

    impl Room {
        /// Whether it was let in. In the model all threads have the same number, so they say theirs.
        fn visit(&self, me: u64, count: bool) -> u32 {
            let way = match count {
                true => self.door.enter_to_count_as(me).then_some(Way::Long),
                false => self.door.enter_as(me),
            };
            let Some(way) = way else { return 0 };
            // SAFETY: as above.
            self.entries.with_mut(|entries| unsafe { *entries += 1 });
            self.door.leave(way);
            1
        }
    }

    /// One thread has the short way; another comes in, or counts, and then both may have the long one.
    fn explore(fault: Option<&'static str>, count: bool) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(4);
        crate::mutants::plant(fault);
        builder.check(move || {
            let room = Arc::new(Room { door: Turnstile::new(false), entries: UnsafeCell::new(0) });
            assert_eq!(room.visit(1, false), 1, "the first one");
            let theirs = room.clone();
            let other = thread::spawn(move || theirs.visit(2, count) + theirs.visit(2, false));
            let mine = 1 + room.visit(1, false) + room.visit(1, false);
            let all = mine + other.join().unwrap();
            // SAFETY: as above.
            assert_eq!(room.entries.with(|entries| unsafe { *entries }), all);
            assert_eq!(room.visit(3, false), 1, "nobody is inside");
        });
        crate::mutants::plant(None);
    }

    #[test]
    fn loom_edge_b_lets_one_in() {
        explore(None, false);
        explore(None, true);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn loom_finds_a_short_way_taken_without_a_barrier() {
        explore(Some("loom-b-no-barrier"), false);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn loom_finds_a_count_without_a_barrier() {
        explore(Some("loom-b-no-barrier"), true);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::cell::UnsafeCell;
    use std::sync::Arc;

    struct Room {
        door: Turnstile,
        /// Only for who is inside.
        entries: UnsafeCell<[u64; 2]>,
    }

    // SAFETY: `entries` is reached through the turnstile only.
    unsafe impl Sync for Room {}

    impl Room {
        fn new() -> Arc<Room> {
            Arc::new(Room { door: Turnstile::new(false), entries: UnsafeCell::new([0; 2]) })
        }

        /// Whether it was let in.
        fn visit(&self, count: bool) -> bool {
            let way = match count {
                true => self.door.enter_to_count().then_some(Way::Long),
                false => self.door.enter(),
            };
            let Some(way) = way else { return false };
            // SAFETY: inside; two at once would lose an entry, or see the two unequal.
            let entries = unsafe { &mut *self.entries.get() };
            assert_eq!(entries[0], entries[1]);
            entries[0] += 1;
            std::hint::black_box(&mut *entries);
            entries[1] += 1;
            self.door.leave(way);
            true
        }
    }

    #[test]
    fn the_first_thread_has_the_short_way_until_another_one_comes() {
        let room = Room::new();
        assert_eq!(room.door.enter(), Some(Way::Long));
        room.door.leave(Way::Long);
        if room.door.first.own() == NOBODY {
            return; // no barrier here
        }
        assert_eq!(room.door.first.own(), this_thread());
        assert_eq!(room.door.enter(), Some(Way::Short));
        assert_eq!(room.door.enter(), None, "nested");
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(!room.visit(false) && !room.visit(true)));
        });
        room.door.leave(Way::Short);
        assert!(room.visit(true));
        std::thread::scope(|scope| {
            scope.spawn(|| assert_eq!(room.door.enter(), Some(Way::Long)));
        });
        assert_eq!(room.door.enter(), None, "the other thread is still inside");
        room.door.leave(Way::Long);
        assert_eq!(room.door.enter(), Some(Way::Long), "and the short way is nobody's");
    }

    /// The one moment at which the short way is taken away, often; also by a thread that may not
    /// call `membarrier`, and from one that has ended and whose number another thread has now.
    #[test]
    fn the_short_way_is_taken_away_whoever_is_where() {
        take_away(1_000, || ());
        take_away(10, super::super::thread::forbid_membarrier);
    }

    fn take_away(rooms: u64, begin: impl FnOnce() + Send) {
        let rooms: Vec<_> = (0..rooms).map(|_| Room::new()).collect();
        let reached = [Cell::new(0), Cell::new(0)];
        let meet = |me: usize, at: u64| {
            reached[me].publish(at);
            while reached[1 - me].observe() < at {
                std::thread::yield_now();
            }
        };
        let visits = |me: usize| {
            let mut done = vec![];
            for (at, room) in (0..).zip(&rooms) {
                done.push(u64::from(me == 0 && room.visit(false)));
                meet(me, at + 1);
                done[at as usize] += (0..8).map(|_| u64::from(room.visit(false))).sum::<u64>();
            }
            done
        };
        let (mine, theirs) = std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                begin();
                visits(1)
            });
            (scope.spawn(|| visits(0)).join().unwrap(), other.join().unwrap())
        });
        for ((room, mine), theirs) in rooms.iter().zip(mine).zip(theirs) {
            // SAFETY: all are gone.
            assert_eq!(unsafe { *room.entries.get() }, [mine + theirs; 2]);
        }
        let later = |room: &Arc<Room>| assert!(room.visit(false), "nobody is inside");
        std::thread::scope(|scope| {
            scope.spawn(|| rooms.iter().for_each(later));
        });
    }

    #[test]
    fn two_are_never_inside() {
        for _ in 0..50 {
            let room = Room::new();
            let visits = |count: bool| {
                let room = room.clone();
                move || (0..2_000).filter(|_| room.visit(count)).count() as u64
            };
            let mine = visits(false);
            let others = [visits(false), visits(true)].map(std::thread::spawn);
            let all = mine() + others.map(|thread| thread.join().unwrap()).iter().sum::<u64>();
            // SAFETY: all are gone.
            assert_eq!(unsafe { *room.entries.get() }, [all; 2]);
        }
    }
}
