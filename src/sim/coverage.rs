// SPDX-License-Identifier: MIT OR Apache-2.0
//! What of view changes has been reached: which step was interrupted by what, and the failure cases
//! of `protocol.md` §f, numbered as they stand there.
//!
//! Left out, with their numbers, for there is nothing of the kind here: 30 (no fabric that we accept
//! orders index before slots), 34 and 35 (block schedules), 38 to 49 (durable logs), 50 and 52 to 54
//! (completion queues, receiver not ready, registration, memory limits).

use crate::group::membership::stage::Stage;

/// What interrupts a member in a step of a view change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    Crash,
    /// It suspects one that is correct.
    Falsehood,
    /// Nothing comes any more from one that is correct.
    Cut,
    Pause,
    /// It is asked to let somebody join.
    Join,
    /// It asks to leave.
    Leave,
}

pub const BY: [(By, &str); 6] = [
    (By::Crash, "crash"),
    (By::Falsehood, "error"),
    (By::Cut, "cut"),
    (By::Pause, "pause"),
    (By::Join, "join"),
    (By::Leave, "leave"),
];

/// The steps of a view change, and the first moments of the next view.
pub const STEPS: usize = Stage::ALL.len() + 1;
pub const INSTALLED: usize = Stage::ALL.len();

pub fn step_name(step: usize) -> &'static str {
    Stage::ALL.get(step).map_or("installed", |stage| stage.name())
}

macro_rules! cases {
    ($($name:ident $number:literal $text:literal,)*) => {
        /// A failure case.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Case { $($name,)* }

        /// Every case: its number in `protocol.md` §f, and what happens.
        pub const CASES: &[(Case, u32, &str)] = &[$((Case::$name, $number, $text),)*];
    };
}

cases! {
    LeaderBeforePush 1 "leader dies with a proposal that nobody has heard",
    LeaderRecordsOnly 2 "leader dies with changes posted, but not their count",
    LeaderToSome 3 "leader dies when some have its proposal",
    LeaderAgreed 4 "leader dies when it is agreed and not all are wedged",
    LeaderCutToSome 5 "leader of a subgroup dies when some have its cut",
    LeaderPassedToSome 6 "leader dies when some know that it has passed",
    LeaderInTransfer 7 "leader dies during a joiner's state transfer",
    LeadersCascade 8 "another leader dies in the same view, a least majority is left",
    Duel 9 "two suspect each other",
    SuspectWrites 10 "a suspect that lives goes on writing",
    ViralInTrim 11 "a suspicion arrives from another member in the middle of a trim",
    OneWay 12 "a link is dead in one direction only",
    Slow 13 "a view change with a member ten times slower",
    VerySlow 14 "a view change with a member a thousand times slower",
    StopContinue 15 "a member is stopped for long, and goes on",
    HostPause 16 "all members on a host are stopped",
    ClockJump 17 "a clock jumps by an hour",
    JoinerSuspected 18 "a joiner is suspected before it has begun",
    Rejoin 19 "a restarted process joins before its old incarnation is out",
    TwoOfThree 20 "two of a subgroup suspect the third in a trim, deliver, and die",
    SplitTwo 21 "partitions of two members: the rarest of the 1",
    SplitThree 22 "partitions of three members: the rarest of the 3",
    SplitFour 23 "partitions of four members: the rarest of the 7",
    SplitFive 24 "partitions of five members: the rarest of the 15",
    SplitEqual 25 "partitions into equal halves",
    HealsInChange 26 "a partition heals during a view change",
    LeaveAndFailure 27 "a member fails while another leaves",
    SlotsToSome 28 "a sender dies when some have its newest slots",
    SlotsNoIndex 29 "a sender dies with slots posted, but not their indices",
    WrapAtWedge 31 "what a wedged sender must keep wraps its ring",
    FullAtWedge 32 "a sender's window is full when its view ends",
    NullsAtWedge 33 "a sender is wedged within a run of nulls",
    EmptyAcross 36 "a message of no bytes is delivered by a cut",
    LargestAcross 37 "a largest message is delivered by a cut",
    FullQueue 51 "a peer takes no posts during a view change",
    NoConnection 55 "a joiner cannot reach a member of its first view",
}

/// Ways to part 2, 3, 4 or 5 members in two.
const SPLITS: [usize; 4] = [1, 3, 7, 15];
const FIRST_CASE: usize = STEPS * BY.len();
const FIRST_SPLIT: usize = FIRST_CASE + CASES.len();

/// Counters.
pub const LEN: usize = FIRST_SPLIT + 1 + 3 + 7 + 15;

/// Something that was reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reached {
    Step(usize, By),
    Case(Case),
    /// Of so many members; bit by rank.
    Split(usize, u64),
}

impl From<Case> for Reached {
    fn from(case: Case) -> Reached {
        Reached::Case(case)
    }
}

impl Reached {
    pub fn at(self) -> usize {
        match self {
            Reached::Step(step, by) => step * BY.len() + by as usize,
            Reached::Case(case) => FIRST_CASE + case as usize,
            Reached::Split(members, side) => {
                let before: usize = SPLITS[..members - 2].iter().sum();
                let all = (1u64 << members) - 1;
                // The side without the last member names both.
                let side = if side >> (members - 1) & 1 == 1 { !side & all } else { side };
                assert!(side != 0, "two sides");
                FIRST_SPLIT + before + side as usize - 1
            }
        }
    }
}

/// How often that was reached, of all counters from the first of `LEN`. A partition of `n` members
/// counts as often as its rarest form.
pub fn count(counters: &[u64], what: Reached) -> u64 {
    let members = match what {
        Reached::Case(Case::SplitTwo) => 2,
        Reached::Case(Case::SplitThree) => 3,
        Reached::Case(Case::SplitFour) => 4,
        Reached::Case(Case::SplitFive) => 5,
        _ => return counters[what.at()],
    };
    let sides = 1..1u64 << (members - 1);
    sides.map(|side| counters[Reached::Split(members, side).at()]).min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_has_one_meaning() {
        let mut all = Vec::new();
        for step in 0..STEPS {
            all.extend(BY.iter().map(|(by, _)| Reached::Step(step, *by).at()));
        }
        all.extend(CASES.iter().map(|(case, ..)| Reached::Case(*case).at()));
        for members in 2..=5 {
            let sides = 1..1u64 << (members - 1);
            all.extend(sides.map(|side| Reached::Split(members, side).at()));
        }
        assert_eq!(all, (0..LEN).collect::<Vec<_>>());
        assert_eq!(Reached::Split(3, 0b001).at(), Reached::Split(3, 0b110).at());
        let mut numbers: Vec<u32> = CASES.iter().map(|(_, number, _)| *number).collect();
        numbers.dedup();
        assert!(numbers.is_sorted() && numbers.len() == CASES.len());
    }
}
