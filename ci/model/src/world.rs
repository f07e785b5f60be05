// SPDX-License-Identifier: MIT OR Apache-2.0
//! Members, their rows, and what of the rows has arrived where.
//!
//! A member publishes a row at the end of a poll (a *push*). Pushes of one member arrive at another
//! in their order, each at any time or never; so a member that dies is one that is not polled
//! again, and every way to die is a prefix of the ways to live. A reader that skips a push is one
//! at which two landed between its polls.
//!
//! Rows are kept once and named by number. What a reader can make no use of is not pushed to it:
//! how much a follower knows to be agreed; lists between two members that can never lead; whatever
//! follows a push by which the reader is a suspect (it stops there).

use crate::agreement::Poll;
use crate::config::{Config, Fault, Part};
use crate::row::{Counts, ENDED, LEAVING, List, PASSED, READY, Row, Set, WEDGED, count};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

pub const PUSHES: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Status {
    #[default]
    Unborn,
    Up,
    Stopped,
    /// In the next view, where the search of this part ends.
    Passed,
}

/// Pushes that somebody may still read, oldest first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pushes {
    pub rows: [u32; PUSHES],
    pub len: u8,
}

/// What a member keeps to itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Private {
    /// Messages it has, and has delivered, by stream of its shards, in the first view.
    pub received: Counts,
    pub delivered: Counts,
    /// Shards whose cut is being delivered, or is.
    pub asked: u8,
    /// `Part::Trim`: whom it suspected when it ended.
    pub suspected: Set,
}

#[derive(Clone, Debug)]
pub struct State<const N: usize> {
    pub status: [Status; N],
    /// Mine, as I shall publish it.
    pub own: [u32; N],
    /// `seen[p][q]`: p's copy of q's row.
    pub seen: [[u32; N]; N],
    pub pushes: [Pushes; N],
    /// `unread[p][q]`: which of q's pushes p may still read, by position.
    pub unread: [[u16; N]; N],
    pub private: [Private; N],
    /// Who was suspected on somebody's own motion.
    pub suspected: Set,
    /// Everything that was ever agreed by anybody.
    pub agreed: List,
    /// What anybody ever delivered in the first view, by stream.
    pub delivered: Counts,
    /// Who has said that it has ended the first view.
    pub ended: Set,
    /// 1 + position in `judge::PROPERTIES`.
    pub broken: u8,
}

/// Every row there is, once.
pub struct Rows {
    all: Vec<Row>,
    numbers: HashMap<Row, u32>,
    /// By symmetry, by row; 0 is not yet known.
    renamed: Vec<Vec<u32>>,
}

impl Rows {
    fn number(&mut self, row: &Row) -> u32 {
        if let Some(number) = self.numbers.get(row) {
            return *number;
        }
        let number = self.all.len() as u32;
        self.all.push(*row);
        self.numbers.insert(*row, number);
        number
    }

    pub fn renamed(&mut self, symmetry: usize, row: u32, map: &[u8]) -> u32 {
        let known = &mut self.renamed[symmetry];
        known.resize(known.len().max(row as usize + 1), 0);
        if row != 0 && known[row as usize] == 0 {
            let other = self.all[row as usize].permuted(map);
            let number = self.number(&other);
            self.renamed[symmetry][row as usize] = number;
        }
        self.renamed[symmetry][row as usize]
    }
}

pub struct World<const N: usize> {
    pub config: Config,
    pub rows: RefCell<Rows>,
    /// All but the identity.
    pub symmetries: Vec<[u8; N]>,
    /// (shard, sender) by position.
    pub streams: Vec<(usize, usize)>,
    /// Who can ever lead the group, or a shard.
    leads: Set,
    cuts: Set,
    /// The polls that a member can make, by its situation (`steps.rs`).
    pub known: RefCell<HashMap<u64, Rc<[Poll]>>>,
}

impl<const N: usize> World<N> {
    pub fn new(config: Config) -> World<N> {
        assert!(config.processes() == N && N <= 6 && config.votes.len() == N);
        let all = ((1u16 << N) - 1) as Set;
        let leaders = |among: Set| {
            let may = |who: &usize| among >> who & 1 == 1 && config.can_lead(*who, among);
            (0..N).filter(may).fold(0, |set, who| set | 1 << who)
        };
        let leads = leaders(all);
        let cuts = config.shards.iter().fold(0, |set, (members, _)| set | leaders(*members));
        let mut world = World {
            rows: RefCell::new(Rows {
                all: vec![Row::default()],
                numbers: HashMap::from([(Row::default(), 0)]),
                renamed: Vec::new(),
            }),
            symmetries: Vec::new(),
            streams: config.streams(),
            leads,
            cuts,
            known: RefCell::default(),
            config,
        };
        if world.config.symmetry {
            world.symmetries = world.symmetries();
            world.rows.get_mut().renamed = vec![Vec::new(); world.symmetries.len()];
        }
        world
    }

    #[cfg(test)]
    pub fn symmetry_count(&self) -> usize {
        self.symmetries.len() + 1
    }

    /// Founders that can never lead and are alike in all else may change places. Their order is
    /// that of nothing then: a poll takes in all rows it reads at once (`look`).
    fn symmetries(&self) -> Vec<[u8; N]> {
        let config = &self.config;
        let traits = |who: usize| {
            let alone = (self.leads | self.cuts) >> who & 1 == 1
                || who >= config.founders
                || config.shards.iter().any(|(_, senders)| senders >> who & 1 == 1);
            let shards = config.shards.iter().map(|(members, _)| members >> who & 1 == 1);
            let sets = [config.targets, config.accusers, config.leavers].map(|set| set >> who & 1);
            (alone.then_some(who), shards.collect::<Vec<bool>>(), sets, config.votes[who])
        };
        let mut found = Vec::new();
        let mut map = [0; N];
        fn extend<const N: usize>(
            at: usize,
            map: &mut [u8; N],
            alike: &dyn Fn(usize, usize) -> bool,
            found: &mut Vec<[u8; N]>,
        ) {
            if at == N {
                found.push(*map);
                return;
            }
            for to in 0..N as u8 {
                if !map[..at].contains(&to) && alike(at, usize::from(to)) {
                    map[at] = to;
                    extend(at + 1, map, alike, found);
                }
            }
        }
        extend(0, &mut map, &|one, two| traits(one) == traits(two), &mut found);
        found.retain(|map| map.iter().enumerate().any(|(from, to)| from != usize::from(*to)));
        found
    }

    pub fn row(&self, number: u32) -> Row {
        self.rows.borrow().all[number as usize]
    }

    pub fn number(&self, row: &Row) -> u32 {
        self.rows.borrow_mut().number(row)
    }

    /// The members of a row's view.
    pub fn roster(&self, row: &Row) -> Set {
        row.list.roster(self.config.first_view(), row.epoch)
    }

    /// The lowest that a row's owner does not suspect.
    pub fn leader(&self, row: &Row) -> usize {
        (self.roster(row) & !row.suspects).trailing_zeros() as usize
    }

    /// Shards that a process belongs to, while there are any: messages are of the first view.
    pub fn shards_of(&self, who: usize, epoch: u8) -> impl Iterator<Item = usize> + '_ {
        let mine = move |at: &usize| epoch == 0 && self.config.shards[*at].0 >> who & 1 == 1;
        (0..self.config.shards.len()).filter(mine)
    }

    /// The streams that matter to a member.
    pub fn mine(&self, who: usize, counts: Counts) -> Counts {
        let streams = self.streams.iter().enumerate();
        let mine = streams.filter(|(_, (shard, _))| self.config.shards[*shard].0 >> who & 1 == 1);
        mine.fold(0, |all, (at, _)| all | count(counts, at) << (4 * at))
    }

    /// What `reader` can use of a row of `owner`.
    pub fn for_reader(&self, row: &Row, owner: usize, reader: usize) -> Row {
        let (config, mut row) = (&self.config, *row);
        let either_leads = (self.leads >> owner | self.leads >> reader) & 1 == 1;
        if config.part == Part::Trim {
            // The oracle tells each what is agreed, and knows who has ended.
            (row.list, row.ballot, row.agreed) = (List::default(), 0, 0);
            row.flags &= !(ENDED | PASSED);
        } else if !either_leads {
            (row.list, row.ballot, row.agreed) = (List::default(), 0, 0);
        } else if row.ballot as usize != owner || config.views == 0 {
            // Only a leader's word of what is agreed counts; where nobody installs, none does.
            row.agreed = row.epoch;
        }
        let (owner_cuts, reader_cuts) = (self.cuts >> owner & 1 == 1, self.cuts >> reader & 1 == 1);
        if !reader_cuts {
            row.flags &= !WEDGED;
        }
        if !row.has(WEDGED) {
            row.received = 0;
        }
        if !owner_cuts && !reader_cuts && !config.has(Fault::SuspectsAreEchoed) {
            row.cut = 0;
        }
        row
    }

    /// Sends a member's row to whoever may read it (`Membership::publish`, `posts`).
    pub fn push(&self, state: &mut State<N>, owner: usize, row: &Row) {
        let roster = self.roster(row);
        let at = usize::from(state.pushes[owner].len);
        let mut anybody = false;
        for reader in 0..N {
            if reader == owner
                || roster >> reader & 1 == 0
                || !self.reads(state, reader, owner, row)
            {
                continue;
            }
            state.unread[reader][owner] |= 1 << at;
            anybody = true;
        }
        if anybody {
            assert!(at < PUSHES, "more pushes than there is room for");
            state.pushes[owner].rows[at] = self.number(row);
            state.pushes[owner].len += 1;
        }
    }

    fn reads(&self, state: &State<N>, reader: usize, owner: usize, row: &Row) -> bool {
        match state.status[reader] {
            Status::Stopped | Status::Passed => return false,
            Status::Up => {
                let its = self.row(state.own[reader]);
                let shuns = its.suspects >> owner & 1 == 1;
                if its.epoch > row.epoch || shuns && !self.config.has(Fault::RowsNotFrozen) {
                    return false;
                }
            }
            Status::Unborn => {}
        }
        let unread = state.unread[reader][owner];
        let (last, waits) = if unread == 0 {
            (state.seen[reader][owner], false)
        } else {
            (state.pushes[owner].rows[15 - unread.leading_zeros() as usize], true)
        };
        let last = self.row(last);
        if waits && last.suspects >> reader & 1 == 1 {
            return false;
        }
        let same = last.here && last.epoch == row.epoch;
        !same || self.for_reader(&last, owner, reader) != self.for_reader(row, owner, reader)
    }

    /// The pushes of `owner` that `reader` may read now, as positions.
    pub fn readable(
        &self,
        state: &State<N>,
        reader: usize,
        owner: usize,
        epoch: u8,
    ) -> impl Iterator<Item = usize> + '_ {
        let unread = state.unread[reader][owner];
        let rows = state.pushes[owner].rows;
        (0..PUSHES)
            .filter(move |at| unread >> at & 1 == 1)
            .take_while(move |at| self.row(rows[*at]).epoch == epoch)
    }

    /// A reader's copy becomes that push; those before it are not read any more.
    pub fn take(&self, state: &mut State<N>, reader: usize, owner: usize, at: usize) {
        state.unread[reader][owner] &= !((2u32 << at) - 1) as u16;
        let row = self.row(state.pushes[owner].rows[at]);
        state.seen[reader][owner] = self.number(&self.for_reader(&row, owner, reader));
    }

    /// A suspect's row is not read again: what of it can still matter is kept.
    pub fn freeze(&self, state: &mut State<N>, me: usize, suspect: usize) {
        state.unread[me][suspect] = 0;
        let mut row = self.row(state.seen[me][suspect]);
        if self.config.has(Fault::SuspectsAreFollowed) || !row.here {
            return;
        }
        if self.leads >> me & 1 == 0 {
            (row.list, row.ballot) = (List::default(), 0);
        }
        if self.cuts >> me & 1 == 0 {
            (row.suspects, row.received) = (0, 0);
        }
        row.agreed = row.epoch;
        state.seen[me][suspect] = self.number(&row);
    }

    /// Forgets pushes that nobody waits for.
    pub fn tidy(&self, state: &mut State<N>) {
        for owner in 0..N {
            let wanted = (0..N).fold(0, |all, reader| all | state.unread[reader][owner]);
            let pushes = state.pushes[owner];
            if wanted == ((1u32 << pushes.len) - 1) as u16 {
                continue;
            }
            let mut kept = Pushes::default();
            let mut places = [0; N];
            for at in (0..usize::from(pushes.len)).filter(|at| wanted >> at & 1 == 1) {
                kept.rows[usize::from(kept.len)] = pushes.rows[at];
                for (reader, places) in places.iter_mut().enumerate() {
                    *places |= (state.unread[reader][owner] >> at & 1) << kept.len;
                }
                kept.len += 1;
            }
            state.pushes[owner] = kept;
            places
                .iter()
                .enumerate()
                .for_each(|(reader, bits)| state.unread[reader][owner] = *bits);
        }
    }

    /// A member takes no more part. Of its row only what the oracle asks for is kept.
    pub fn leave(&self, state: &mut State<N>, who: usize, status: Status) {
        let row = self.row(state.own[who]);
        state.status[who] = status;
        let said = Row { here: true, suspects: row.suspects, ..Row::default() };
        state.own[who] = if self.config.part == Part::Trim { self.number(&said) } else { 0 };
        state.seen[who] = [0; N];
        state.unread[who] = [0; N];
        let Private { delivered, suspected, .. } = state.private[who];
        let delivered = if status == Status::Passed { delivered } else { 0 };
        state.private[who] = Private { delivered, suspected, ..Private::default() };
    }

    pub fn blank(&self) -> State<N> {
        State {
            status: [Status::Unborn; N],
            own: [0; N],
            seen: [[0; N]; N],
            pushes: [Pushes::default(); N],
            unread: [[0; N]; N],
            private: [Private::default(); N],
            suspected: 0,
            agreed: List::default(),
            delivered: 0,
            ended: 0,
            broken: 0,
        }
    }

    pub fn flags(&self, row: &Row) -> String {
        let mut text = String::new();
        for (bit, name) in [(1, " wedged"), (2, " ended"), (4, " passed"), (LEAVING, " leaving")] {
            text += if row.has(bit) { name } else { "" };
        }
        for at in 0..self.config.shards.len() {
            if row.has(READY << at) {
                text += &format!(" cut {:x}", row.cut);
            }
        }
        text
    }
}
