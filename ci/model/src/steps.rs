// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything that can happen next, as a search wants it.

use crate::agreement::{ENDS, Outcome, PROPOSES, Poll, Read, STEPS};
use crate::config::{Config, Fault, Part};
use crate::judge::PROPERTIES;
use crate::row::{Counts, ENDED, LEAVING, List, Row, Set, WISH, count, each, most};
use crate::search::Model;
use crate::table::fingerprint;
use crate::trim::is_frozen;
use crate::world::{Private, State, Status, World};
use std::rc::Rc;

/// Situations whose polls are remembered.
const SITUATIONS_MAX: usize = 1 << 20;

#[derive(Clone, Copy, Debug)]
pub enum Step {
    Poll(Poll),
    /// A joined process starts from a member of its view.
    Start {
        joiner: usize,
        from: usize,
    },
    /// The oracle: a removal is agreed, by somebody who suspects all of those.
    Agreed {
        who: usize,
        by_who_suspects: Set,
    },
    Sends(usize),
    Accepts {
        who: usize,
        stream: usize,
    },
    Delivers(usize),
}

/// What comes of a poll, as far as it is not for a later one to find out.
#[derive(Clone, PartialEq, Eq)]
struct Come<const N: usize> {
    status: Status,
    own: u32,
    private: Private,
    /// The rows of suspects: they are not read again.
    frozen: [u32; N],
    broken: bool,
}

/// Per other process, the looks at its row that there can be, those that find more later. In a
/// poll that is not yet made, `Read::push` is 1 + the position in such a list.
type Looks = [Vec<Read>; 6];

fn found(poll: &mut Poll, looks: &Looks) {
    for (read, looks) in poll.reads.iter_mut().zip(looks) {
        *read = if read.push == 0 { *read } else { looks[usize::from(read.push) - 1] };
    }
}

/// Whether what a poll was asked for came of it.
fn is_meant(poll: &Poll, done: u16) -> bool {
    (poll.wishes == 0 || done & PROPOSES != 0) && (!poll.ends || done & ENDS != 0)
}

impl<const N: usize> World<N> {
    /// All polls of a member that anything comes of. A read that makes no difference is left for a
    /// later poll, which can make it as well: of the polls with one outcome (`Come`) those that
    /// read no more than they must are enough.
    fn polls(&self, state: &State<N>, who: usize, visit: &mut dyn FnMut(Step, &State<N>)) -> bool {
        let own = self.row(state.own[who]);
        let looks = self.looks(state, who, own.epoch);
        let key = self.situation(state, who, &own, &looks);
        let known = self.known.borrow().get(&key).cloned();
        let polls = known.unwrap_or_else(|| {
            let mut polls = Vec::new();
            for template in self.templates(state, &own, who) {
                self.polls_like(state, template, &looks, &mut polls);
            }
            let polls: Rc<[Poll]> = polls.into();
            let mut known = self.known.borrow_mut();
            if known.len() >= SITUATIONS_MAX {
                known.clear();
            }
            known.insert(key, polls.clone());
            polls
        });
        let mut lively = false;
        for poll in polls.iter() {
            let mut poll = *poll;
            found(&mut poll, &looks);
            let mut next = state.clone();
            let outcome = self.poll(&mut next, poll);
            if let Outcome::Done(done) = outcome {
                poll.done = done;
            }
            next.suspected |= poll.hears;
            visit(Step::Poll(poll), &next);
            lively |= poll.hears | poll.wishes == 0 && !poll.leaves;
        }
        lively
    }

    fn looks(&self, state: &State<N>, who: usize, epoch: u8) -> Looks {
        let mut looks = Looks::default();
        for other in (0..N).filter(|other| *other != who) {
            let pushes: Vec<u8> =
                self.readable(state, who, other, epoch).map(|at| at as u8).collect();
            for (at, push) in pushes.iter().enumerate() {
                let whole = Read { push: push + 1, ..Read::default() };
                looks[other].push(whole);
                let levels = match self.config {
                    Config { torn: false, .. } => 0,
                    _ if self.config.has(Fault::SuspectsObservedLast) => 1,
                    _ => 3,
                };
                for later in &pushes[at + 1..] {
                    let torn = (1..=levels).map(|level| Read { level, later: *later, ..whole });
                    looks[other].extend(torn);
                }
            }
        }
        looks
    }

    /// All that decides which polls a member can make.
    fn situation(&self, state: &State<N>, who: usize, own: &Row, looks: &Looks) -> u64 {
        let mut key = Vec::with_capacity(128);
        key.extend([who as u8, self.accusable(state, own, who)]);
        key.extend(state.own[who].to_le_bytes());
        if !self.streams.is_empty() {
            let private = state.private[who];
            key.extend(private.received.to_le_bytes());
            key.extend(private.delivered.to_le_bytes());
            key.extend([private.asked, private.suspected]);
            state.private.iter().for_each(|private| key.push(private.suspected));
        }
        if self.config.part == Part::Trim {
            key.extend([state.ended, state.agreed.len()]);
            (0..state.agreed.len()).for_each(|at| key.push(state.agreed.at(at)));
        }
        for (other, looks) in looks.iter().enumerate().take(N) {
            key.extend(state.seen[who][other].to_le_bytes());
            key.push(looks.len() as u8);
            for read in looks.iter().filter(|read| read.level == 0) {
                let row = state.pushes[other].rows[usize::from(read.push) - 1];
                key.extend(row.to_le_bytes());
            }
        }
        fingerprint(&key)
    }

    /// The polls of one kind, their reads as how many of each other's pushes.
    fn polls_like(&self, state: &State<N>, template: Poll, looks: &Looks, polls: &mut Vec<Poll>) {
        let (who, mut poll, mut index) = (template.who, template, 0);
        let mut strides = [1; 6];
        for other in 1..N {
            strides[other] = strides[other - 1] * (looks[other - 1].len() + 1);
        }
        let mut comes = Vec::with_capacity(strides[N - 1] * (looks[N - 1].len() + 1));
        loop {
            let (mut next, mut made) = (state.clone(), poll);
            found(&mut made, looks);
            let outcome = self.poll(&mut next, made);
            let newly = self.row(next.own[who]).suspects;
            let frozen = |other: usize| {
                if newly >> other & 1 == 1 { next.seen[who][other] } else { 0 }
            };
            let broken = next.broken > 0;
            let come = (outcome != Outcome::None).then(|| Come::<N> {
                status: next.status[who],
                own: next.own[who],
                private: next.private[who],
                frozen: std::array::from_fn(frozen),
                broken,
            });
            let less = |other: usize| {
                (1..=usize::from(poll.reads[other].push))
                    .any(|less| comes[index - less * strides[other]] == come)
            };
            let meant = matches!(outcome, Outcome::Done(done) if is_meant(&poll, done));
            let naive = self.config.naive && (meant || outcome == Outcome::Idle);
            let least = (meant || broken && outcome != Outcome::None) && !(0..N).any(less);
            if naive || least {
                polls.push(poll);
            }
            comes.push(come);
            index += 1;
            let more = |other: &usize| usize::from(poll.reads[*other].push) < looks[*other].len();
            let Some(more) = (0..N).find(more) else { return };
            poll.reads[more].push += 1;
            poll.reads[..more].fill(Read::default());
        }
    }

    /// Polls without what they find: all that may come to a member besides rows.
    fn templates(&self, state: &State<N>, own: &Row, who: usize) -> Vec<Poll> {
        let mut templates = Vec::new();
        let config = &self.config;
        let mut poll = Poll { who, acts: true, ..Poll::default() };
        let accusable = self.accusable(state, own, who);
        let lessons = if config.part == Part::Trim { self.lessons(state, who) } else { 1..=0 };
        for learns in std::iter::once(0).chain(lessons) {
            for hears in std::iter::once(0).chain(each(accusable).map(|other| 1 << other)) {
                templates.push(Poll { learns, hears, ..poll });
            }
        }
        if config.lazy {
            let idle = templates.clone().into_iter().filter(|poll| poll.learns == 0);
            templates.extend(idle.map(|poll| Poll { acts: false, ..poll }));
        }
        let private = state.private[who];
        if private.asked != 0 && !own.has(ENDED) {
            let slow = templates.clone().into_iter();
            templates.extend(slow.map(|poll| Poll { delays: true, ..poll }));
        }
        if config.part == Part::Agreement && config.views > own.epoch && !own.has(ENDED) {
            let ends = templates.clone().into_iter().filter(|poll| poll.hears == 0);
            templates.extend(ends.map(|poll| Poll { ends: true, ..poll }));
        }
        if own.suspects != 0 || config.part == Part::Trim {
            return templates;
        }
        if config.leavers >> who & 1 == 1 && !own.has(LEAVING) {
            templates.push(Poll { leaves: true, ..poll });
        }
        if own.list.len() > own.epoch || self.leader(own) != who {
            return templates;
        }
        let joined = (0..own.list.len()).map(|at| own.list.at(at));
        let joined = joined.filter(|batch| batch & WISH != 0).fold(0, |set, batch| set | batch);
        for joiner in (config.founders..N).filter(|joiner| joined >> joiner & 1 == 0) {
            poll.wishes |= 1 << joiner;
            templates.push(poll);
        }
        templates
    }

    /// Whom a member may begin to suspect on its own motion.
    fn accusable(&self, state: &State<N>, own: &Row, who: usize) -> Set {
        let config = &self.config;
        if config.accusers >> who & 1 == 0 {
            return 0;
        }
        let more = (state.suspected.count_ones() as usize) < config.suspects;
        let may = state.suspected | if more { config.targets } else { 0 };
        may & self.roster(own) & !own.suspects & !(1 << who)
    }

    fn starts_of_joiners(&self, state: &State<N>, visit: &mut dyn FnMut(Step, &State<N>)) -> bool {
        let mut any = false;
        for from in (0..N).filter(|who| state.status[*who] == Status::Up) {
            let own = self.row(state.own[from]);
            let roster = self.roster(&own) & !own.suspects;
            for joiner in (self.config.founders..N).filter(|joiner| roster >> joiner & 1 == 1) {
                if state.status[joiner] == Status::Unborn {
                    let mut next = state.clone();
                    self.sponsor(&mut next, from, joiner);
                    visit(Step::Start { joiner, from }, &next);
                    any = true;
                }
            }
        }
        any
    }

    fn oracle(&self, state: &State<N>, visit: &mut dyn FnMut(Step, &State<N>)) -> bool {
        let mut any = false;
        for (who, by_who_suspects) in self.removals(state) {
            let mut next = state.clone();
            next.agreed.push(1 << who);
            next.suspected |= by_who_suspects;
            any = true;
            visit(Step::Agreed { who, by_who_suspects }, &next);
        }
        any
    }

    /// The data plane of the first view, one message at a time.
    fn data(&self, state: &State<N>, visit: &mut dyn FnMut(Step, &State<N>)) -> bool {
        let mut any = false;
        let fault = |fault| self.config.has(fault);
        for who in (0..N).filter(|who| state.status[*who] == Status::Up) {
            let (own, has) = (self.row(state.own[who]), state.private[who]);
            let open = own.epoch == 0 && !is_frozen(&own);
            for (stream, (shard, sender)) in self.streams.iter().enumerate() {
                let (members, _) = self.config.shards[*shard];
                let mine = count(has.received, stream);
                let sent = count(state.private[*sender].received, stream);
                let mut next = state.clone();
                next.private[who].received += 1 << (4 * stream);
                if *sender == who {
                    if open && mine < self.config.messages {
                        visit(Step::Sends(who), &next);
                    }
                } else if members >> who & 1 == 1
                    && (open || fault(Fault::AcceptsAfterWedge) && own.epoch == 0)
                    && mine < sent
                {
                    visit(Step::Accepts { who, stream }, &next);
                    any = true;
                }
            }
            let stable = self.stable(state, who);
            if open && stable != has.delivered && most(stable, has.delivered) == stable {
                let mut next = state.clone();
                next.private[who].delivered = stable;
                next.delivered = most(next.delivered, stable);
                self.judge_deliveries(&mut next);
                visit(Step::Delivers(who), &next);
                any = true;
            }
        }
        any
    }

    /// What everybody in its shards has, in truth: whoever knows it may deliver it. Of those who
    /// are gone, what they had.
    fn stable(&self, state: &State<N>, who: usize) -> Counts {
        if self.config.has(Fault::DeliversUnstable) {
            return self.mine(who, state.private[who].received);
        }
        let streams = self.streams.iter().enumerate();
        let stable = streams.map(|(at, (shard, _))| {
            let members = (0..N).filter(|other| self.config.shards[*shard].0 >> other & 1 == 1);
            let counts = members.map(|other| count(state.private[other].received, at));
            counts.min().unwrap_or(0) << (4 * at)
        });
        self.mine(who, stable.fold(0, |all, count| all | count))
    }

    /// Every outcome of the data plane: who has how much, a sender no less than others have of it.
    fn receipts(&self) -> Vec<[Counts; N]> {
        let mut all = vec![[0; N]];
        if self.config.data {
            return all;
        }
        for (at, (shard, sender)) in self.streams.iter().enumerate() {
            let (members, _) = self.config.shards[*shard];
            for who in (0..N).filter(|who| members >> who & 1 == 1) {
                let more = all.iter().flat_map(|receipts| {
                    (0..=self.config.messages).map(|count| {
                        let mut receipts = *receipts;
                        receipts[who] |= count << (4 * at);
                        receipts
                    })
                });
                all = more.collect();
            }
            all.retain(|receipts| {
                receipts.iter().all(|its| count(*its, at) <= count(receipts[*sender], at))
            });
        }
        all
    }

    fn list(&self, list: List) -> String {
        let batches = (0..list.len()).map(|at| {
            let batch = list.at(at);
            let name = if batch & WISH != 0 { "join/leave" } else { "remove" };
            let who: Vec<usize> = (0..7).filter(|who| batch >> who & 1 == 1).collect();
            format!("{name} {who:?}")
        });
        batches.collect::<Vec<_>>().join(", ")
    }

    fn set(&self, set: Set) -> String {
        let who: Vec<usize> = (0..N).filter(|who| set >> who & 1 == 1).collect();
        format!("{who:?}")
    }
}

impl<const N: usize> Model for World<N> {
    type State = State<N>;
    type Step = Step;

    /// Everybody has seen everybody's first row.
    fn starts(&self, visit: &mut dyn FnMut(&State<N>)) {
        let mut state = self.blank();
        let first = self.number(&Row { here: true, ..Row::default() });
        for who in 0..self.config.founders {
            state.status[who] = Status::Up;
            state.own[who] = first;
            for other in (0..self.config.founders).filter(|other| *other != who) {
                state.seen[who][other] = if self.config.fresh { 0 } else { first };
            }
        }
        if self.config.fresh {
            let row = self.row(first);
            (0..self.config.founders).for_each(|who| self.push(&mut state, who, &row));
        }
        if self.config.join_agreed {
            state.agreed.push(WISH | 1 << 6);
        }
        for receipts in self.receipts() {
            let mut state = state.clone();
            for (private, received) in state.private.iter_mut().zip(receipts) {
                *private = Private { received, ..Private::default() };
            }
            for who in 0..self.config.founders {
                let stable = if self.config.data { 0 } else { self.stable(&state, who) };
                state.private[who].delivered = stable;
                state.delivered = most(state.delivered, stable);
            }
            visit(&state);
        }
    }

    fn successors(&self, state: &State<N>, visit: &mut dyn FnMut(Step, &State<N>)) -> bool {
        let mut lively = false;
        for who in (0..N).filter(|who| state.status[*who] == Status::Up) {
            lively |= self.polls(state, who, visit);
        }
        lively |= self.starts_of_joiners(state, visit);
        if self.config.part == Part::Trim {
            lively |= self.oracle(state, visit);
        }
        if self.config.data {
            lively |= self.data(state, visit);
        }
        lively
    }

    fn encode(&self, state: &State<N>, bytes: &mut Vec<u8>) {
        World::encode(self, state, bytes);
    }

    fn decode(&self, bytes: &[u8]) -> State<N> {
        self.read(bytes)
    }

    fn broken(&self, state: &State<N>) -> Option<&'static str> {
        Some(PROPERTIES[usize::from(state.broken.checked_sub(1)?)])
    }

    fn stuck(&self, state: &State<N>) -> Option<&'static str> {
        let stuck = self.config.liveness && self.is_stuck(state);
        stuck.then_some("stuck: those who are left agree on who that is, and do not go on")
    }

    fn tell(&self, step: Step) -> String {
        let poll = match step {
            Step::Poll(poll) => poll,
            Step::Start { joiner, from } => return format!("{joiner} starts from {from}"),
            Step::Agreed { who, by_who_suspects } => {
                let suspects = self.set(by_who_suspects);
                return format!("elsewhere remove {who} is agreed by one that suspects {suspects}");
            }
            Step::Sends(who) => return format!("{who} sends"),
            Step::Accepts { who, stream } => return format!("{who} accepts of stream {stream}"),
            Step::Delivers(who) => return format!("{who} delivers what is stable"),
        };
        let mut text = format!("{} polls:", poll.who);
        let read = |other: &usize| poll.reads[*other].push > 0;
        let set = (0..N).filter(read).fold(0, |set, who| set | 1 << who);
        if set != 0 {
            text += &format!(" looks at {}", self.set(set));
        }
        for torn in (0..N).filter(|other| poll.reads[*other].level > 0) {
            text += &format!(" (that of {torn} torn at level {})", poll.reads[torn].level);
        }
        if poll.hears != 0 {
            text += &format!(" hears of {}", self.set(poll.hears));
        }
        if poll.wishes != 0 {
            text += &format!(" is asked by {}", self.set(poll.wishes));
        }
        if poll.learns > 0 {
            text += &format!(" hears that {} are agreed", poll.learns - 1);
        }
        let steps = STEPS.iter().enumerate().filter(|(at, _)| poll.done >> at & 1 == 1);
        let steps: Vec<&str> = steps.map(|(_, name)| *name).collect();
        text + " → " + &if steps.is_empty() { "nothing".into() } else { steps.join(", ") }
    }

    fn show(&self, state: &State<N>) -> String {
        let mut text = String::new();
        for who in 0..N {
            let (row, private) = (self.row(state.own[who]), state.private[who]);
            text += &format!("{who} {:?}", state.status[who]);
            if state.status[who] == Status::Up {
                let (suspects, list) = (self.set(row.suspects), self.list(row.list));
                let (epoch, ballot, agreed) = (row.epoch, row.ballot, row.agreed);
                text += &format!(": epoch {epoch} suspects {suspects} ballot {ballot} [{list}]");
                text += &format!(" agreed {agreed}{}", self.flags(&row));
            }
            if !self.streams.is_empty() {
                let (received, delivered) = (private.received, private.delivered);
                text += &format!(" received {received:x} delivered {delivered:x}");
            }
            text += "\n";
        }
        let delivered = state.delivered;
        text + &format!("agreed: [{}], delivered {delivered:x}", self.list(state.agreed))
    }
}
