// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a search is about: who there is, what may happen, which rule is broken on purpose.

use crate::row::Set;

/// Rules left out on purpose. Names are those of the library's mutants where there is one
/// (`src/group/membership`, without `view-`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    TakeoverWithoutBarrier,
    TakeoverLongestList,
    TakeoverWithoutFrozenRows,
    OtherBallotsCount,
    OtherBallotsAreSkipped,
    SuspectsAreFollowed,
    RowsNotFrozen,
    MajorityIsHalf,
    MajorityUntested,
    SuspectsObservedLast,
    RemovalsJoinTheBatch,
    JoinsUncapped,
    LeaverOutOfCount,
    LeaverIsNotAwaited,
    BallotIsReset,
    JoinerStartsBlank,
    CutWithoutTakeoverBarrier,
    CutRecomputed,
    CutOfUnsuspected,
    CutWithoutFrozenRows,
    CutBeforeAllAreWedged,
    CutNotEchoed,
    EchoesNotAwaited,
    SuspectsAreEchoed,
    BarriersTrustSuspicion,
    InstallWithoutEnded,
    PassingIsNotHeard,
    AcceptsAfterWedge,
    DeliversUnstable,
}

/// Which of the two models, or both at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Takeover and agreement; the trim is any delay before a member has ended.
    Agreement,
    /// Trim and install; agreement is an oracle (`oracle.rs`).
    Trim,
    /// Both as they are.
    Whole,
}

#[derive(Clone, Debug)]
pub struct Config {
    pub part: Part,
    pub founders: usize,
    pub joiners: usize,
    /// Votes by process: one that has three stands for three that move in lockstep.
    pub votes: Vec<u8>,
    /// `Trim`: members of the group that are in no shard; the oracle speaks for them.
    pub outside: u8,
    /// At most so many different processes are ever suspected on somebody's own motion, rightly or
    /// not, and only these. Whoever is suspected may also be dead: any process may stop anywhere.
    pub suspects: usize,
    pub targets: Set,
    /// Who may begin to suspect.
    pub accusers: Set,
    pub leavers: Set,
    /// Views that may be installed after the first.
    pub views: u8,
    /// Life goes on in the last view; else whoever installs it is done.
    pub beyond: bool,
    /// `Options::tie_break`.
    pub tie_break: bool,
    /// Members of each shard and its senders. Empty in `Agreement`.
    pub shards: Vec<(Set, Set)>,
    /// Messages of each sender.
    pub messages: u16,
    /// The data plane moves (accepts, delivers); else every outcome of it is a start.
    pub data: bool,
    /// A row may be read while its next push lands: parts of both (R6).
    pub torn: bool,
    /// Nobody has seen anybody's first row yet.
    pub fresh: bool,
    /// What a poll sees may be acted on in a later one: coarser than the code, which acts at once.
    pub lazy: bool,
    /// `Trim`: who passes is told if it is suspected by one of those that it waited for. In the
    /// code their lists tell it (`removes` in `look`). Without this more is allowed, and it holds.
    pub told: bool,
    /// A joined process asks from the start (`Trim`), so the view ends without a suspicion.
    pub join_agreed: bool,
    pub symmetry: bool,
    /// Whether a state in which nothing goes on any more must be a good end.
    pub liveness: bool,
    pub faults: Vec<Fault>,
    /// All polls, also those that read more than they must: to check that these add nothing.
    pub naive: bool,
}

impl Config {
    pub fn new(part: Part, founders: usize, joiners: usize) -> Config {
        let all = ((1u16 << (founders + joiners)) - 1) as Set;
        Config {
            part,
            founders,
            joiners,
            votes: vec![1; founders + joiners],
            outside: 0,
            suspects: 2,
            targets: all,
            accusers: all,
            leavers: 0,
            views: u8::from(part == Part::Whole),
            tie_break: false,
            beyond: part == Part::Agreement,
            shards: if part == Part::Agreement {
                Vec::new()
            } else {
                vec![(((1u16 << founders) - 1) as Set, 0b10)]
            },
            messages: 1,
            data: false,
            torn: false,
            fresh: false,
            lazy: false,
            told: false,
            join_agreed: false,
            symmetry: true,
            liveness: true,
            faults: Vec::new(),
            naive: false,
        }
    }

    pub fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    pub fn processes(&self) -> usize {
        self.founders + self.joiners
    }

    pub fn first_view(&self) -> Set {
        ((1u16 << self.founders) - 1) as Set
    }

    pub fn votes_of(&self, set: Set) -> u32 {
        let its = |at: &usize| set >> at & 1 == 1;
        (0..self.processes()).filter(its).map(|at| u32::from(self.votes[at])).sum()
    }

    /// V2: whether that part of a view is a strict majority of it.
    pub fn is_majority(&self, part: u32, whole: u32) -> bool {
        if self.has(Fault::MajorityIsHalf) {
            return 2 * part >= whole;
        }
        2 * part > whole || self.has(Fault::MajorityUntested)
    }

    /// Whether a process can ever be the lowest that somebody does not suspect among those, given
    /// who may be suspected and how many, and who may leave.
    pub fn can_lead(&self, process: usize, among: Set) -> bool {
        let below = among & ((1u16 << process) - 1) as Set;
        let stay = below & !self.leavers;
        stay & !self.targets == 0 && stay.count_ones() as usize <= self.suspects
    }

    /// Streams: (shard, sender) by position.
    pub fn streams(&self) -> Vec<(usize, usize)> {
        let shards = self.shards.iter().enumerate();
        shards
            .flat_map(|(shard, (_, senders))| {
                (0..8).filter(move |sender| senders >> sender & 1 == 1).map(move |s| (shard, s))
            })
            .collect()
    }
}
