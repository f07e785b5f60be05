// SPDX-License-Identifier: MIT OR Apache-2.0
//! The queue to one peer: what is written there now, and what waits for keys or for room.
//!
//! Q1  Posts leave in the order they came (F2), by value but for bytes of rings; what waits, waits in
//!     order, and its peer is full.
//! Q2  Behind `enter` nothing leaves before the keys of that epoch are here. The first to leave is my
//!     block as it was when I entered: what was written before the first post.
//! Q3  My beat is never an older one than was written before, wherever it stands in what waits.
//! Q4  Words that are no news wait for the next post or some polls. Those that a newer post of the same
//!     turn covers are dropped then: a peer that is full for that turn would be told the same.
//! Q5  Of the slots some are kept for beats, and for the write that asks for the last completion.
//! Q6  Who has entered a later epoch and sees the peer behind beats in both (`mod`, K4).
//!
//! Cost: a queue entry per post; nothing is allocated but what waits, which is bounded as posts are.

use super::carrier::{Keys, Nonsense};
use super::failure::Failure;
use super::memory::Memory as Registered;
use super::queue::Queue;
use crate::base::{Epoch, POST_WORDS_MAX, Post, RingId};
use crate::error::Error;
use crate::fabric::tcp::mirror::Measures;
use crate::mem::Region;
use crate::mutant;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// Slots that posts leave (Q5): beats in two or three epochs, and one to settle with.
const RESERVE: usize = 4;
/// Bytes of one write: what a word behind it waits for is cut, too.
const SPAN_BYTES_MAX: u64 = 1 << 20;
/// Polls that what is no news waits, and how much of it.
const LATE_MAX: u32 = 16;
const QUIET_MAX: usize = 16;
/// Epochs that a peer may leave me waiting in.
const OLD_MAX: usize = 8;

/// My memory of an epoch, as peers are written from it.
pub struct Own {
    pub epoch: Epoch,
    pub block: Arc<Region>,
    /// By subgroup.
    pub rings: Vec<Option<Arc<Registered>>>,
    pub measures: Arc<Measures>,
    pub beat_at: usize,
}

impl Own {
    fn beat(&self) -> u64 {
        self.block.cell(self.beat_at).own()
    }
}

/// Words by value.
#[derive(Clone, Copy)]
struct Words {
    at: u32,
    values: [u64; POST_WORDS_MAX],
    len: u8,
}

enum Parcel {
    Words(Words),
    Span { ring: RingId, from: u64, upto: u64 },
    Enter(Arc<Own>),
}

/// Where the peer is written in one epoch.
struct Target {
    own: Arc<Own>,
    keys: Keys,
    /// The beat that was written there last.
    beat: u64,
    /// Nothing more is written there; all of it is complete when all before this is.
    mark: Option<u64>,
}

/// Why a queue carries nothing more.
#[derive(Debug)]
pub enum Trouble {
    Failed(Failure),
    Nonsense(Nonsense),
    /// It cannot be made, for the peer's bytes or for what this process lacks.
    Unmade(Error),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        Trouble::Failed(failure)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Unmade(error)
    }
}

impl From<Nonsense> for Trouble {
    fn from(nonsense: Nonsense) -> Trouble {
        Trouble::Nonsense(nonsense)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Failed(failure) => failure.fmt(f),
            Trouble::Nonsense(nonsense) => write!(f, "it sent {nonsense}"),
            Trouble::Unmade(error) => error.fmt(f),
        }
    }
}

pub struct Line {
    pub queue: Queue,
    /// The peer's endpoint has come; it wants bells.
    pub connected: bool,
    pub wants_bells: bool,
    waiting: VecDeque<Parcel>,
    quiet: Vec<Words>,
    /// Polls since something is quiet.
    late: u32,
    /// Epochs that I have entered with this peer and have no keys of; keys whose turn has not come.
    unanswered: VecDeque<Epoch>,
    keys: VecDeque<(Epoch, Keys)>,
    target: Option<Target>,
    /// Those before it, that the peer has not left or that are not complete.
    old: VecDeque<Target>,
    /// Mine of the epoch entered last.
    newest: Option<Arc<Own>>,
    /// The epoch that the peer has entered last.
    pub entered: Epoch,
    /// How often there was no room.
    pub full: u64,
}

impl Line {
    pub fn new(queue: Queue) -> Line {
        Line {
            queue,
            connected: false,
            wants_bells: false,
            waiting: VecDeque::new(),
            quiet: Vec::with_capacity(QUIET_MAX),
            late: 0,
            unanswered: VecDeque::new(),
            keys: VecDeque::new(),
            target: None,
            old: VecDeque::new(),
            newest: None,
            entered: Epoch(0),
            full: 0,
        }
    }

    /// I enter a view with this peer (Q2).
    pub fn enter(&mut self, own: &Arc<Own>) {
        self.put_quiet();
        self.newest = Some(own.clone());
        self.unanswered.push_back(own.epoch);
        self.waiting.push_back(Parcel::Enter(own.clone()));
        let bytes = own.measures.block_bytes.min(own.block.size());
        for at in (0..bytes).step_by(8 * POST_WORDS_MAX) {
            let len = POST_WORDS_MAX.min((bytes - at) / 8);
            let mut values = [0; POST_WORDS_MAX];
            for (word, value) in values[..len].iter_mut().enumerate() {
                *value = own.block.cell(at + word * 8).own();
            }
            if values != [0; POST_WORDS_MAX] {
                self.waiting.push_back(Parcel::Words(Words {
                    at: at as u32,
                    values,
                    len: len as u8,
                }));
            }
        }
    }

    /// The peer says where to write in an epoch that it has heard me enter.
    pub fn hear_keys(&mut self, epoch: Epoch, keys: Keys) -> Result<(), Nonsense> {
        if self.unanswered.front() != Some(&epoch) {
            return Err(Nonsense::Epoch { kind: super::carrier::KEYS, epoch: epoch.0 });
        }
        self.unanswered.pop_front();
        self.keys.push_back((epoch, keys));
        Ok(())
    }

    /// Whether posts to this peer would wait.
    #[inline]
    pub fn is_full(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether the peer is to say something before all is well here.
    #[inline]
    pub fn waits(&self) -> bool {
        !self.connected || !self.unanswered.is_empty()
    }

    /// Whether the peer keeps an epoch open for me that I have left: to be looked after now and then.
    #[inline]
    pub fn has_old(&self) -> bool {
        !self.old.is_empty()
    }

    /// Whether a poll has something to do here.
    #[inline]
    pub fn stirs(&self) -> bool {
        !self.quiet.is_empty() || self.is_full() || self.waits() || self.queue.is_half_used()
    }

    /// Takes the posts of a turn that are for this peer, in their order; `news`: one of them is.
    pub fn post(&mut self, posts: &[Post], is_for: impl Fn(&Post) -> bool, news: bool) {
        if news && !self.quiet.is_empty() {
            self.put_quiet_but(|words| {
                posts.iter().any(|post| is_for(post) && covers(post, words))
            });
        }
        for post in posts.iter().filter(|post| is_for(post)) {
            match *post {
                Post::Words { at, values, len, .. } if news => {
                    self.put(Parcel::Words(Words { at, values, len }));
                }
                Post::Words { at, values, len, .. } => self.keep_quiet(Words { at, values, len }),
                Post::Span { ring, from, upto, .. } => {
                    self.put_quiet(); // none without news is known
                    self.put(Parcel::Span { ring, from, upto });
                }
                Post::Bell { .. } => {}
            }
        }
    }

    /// Words of which nobody waits for the news (Q4).
    fn keep_quiet(&mut self, words: Words) {
        let same = |of: &&mut Words| (of.at, of.len) == (words.at, words.len);
        if let Some(older) = self.quiet.iter_mut().find(same) {
            *older = words;
            return;
        }
        if self.quiet.len() == QUIET_MAX {
            self.put_quiet();
        }
        self.quiet.push(words);
    }

    fn put_quiet(&mut self) {
        self.put_quiet_but(|_| false);
    }

    fn put_quiet_but(&mut self, covered: impl Fn(&Words) -> bool) {
        self.late = 0;
        let mut quiet = std::mem::take(&mut self.quiet);
        for words in quiet.drain(..) {
            if !covered(&words) {
                self.put(Parcel::Words(words));
            }
        }
        self.quiet = quiet; // for its room
    }

    /// What was posted without news has waited long enough, or the member goes to sleep.
    pub fn say_quiet(&mut self, now: bool) {
        if self.quiet.is_empty() {
            return;
        }
        self.late += 1;
        if now || self.late > LATE_MAX {
            self.put_quiet();
        }
    }

    #[inline]
    fn put(&mut self, mut parcel: Parcel) {
        if self.waiting.is_empty() && self.send(&mut parcel) == Sent::All {
            return;
        }
        self.waiting.push_back(parcel);
    }

    /// Adds a parcel to what the next doorbell is for, as far as there is room.
    #[inline]
    fn send(&mut self, parcel: &mut Parcel) -> Sent {
        let Line { queue, target, .. } = self;
        match parcel {
            Parcel::Words(words) => {
                if queue.room() <= RESERVE {
                    return Sent::NoRoom;
                }
                let target = target.as_mut().expect("posts come after `enter`");
                let Words { at, mut values, len } = *words;
                let (from, upto) = (at as usize, at as usize + usize::from(len) * 8);
                if (from..upto).contains(&target.own.beat_at) {
                    let beat = target.own.beat(); // Q3
                    (values[(target.own.beat_at - from) / 8], target.beat) = (beat, beat);
                }
                queue.words(&target.keys.block, u64::from(at), &values[..usize::from(len)]);
                Sent::All
            }
            Parcel::Span { ring, from, upto } => {
                let target = target.as_mut().expect("posts come after `enter`");
                let subgroup = usize::from(ring.subgroup);
                let source = target.own.rings[subgroup].as_ref().expect("a ring of mine");
                let Some(remote) = &target.keys.rings[subgroup] else { return Sent::NoKey };
                while from < upto {
                    if queue.room() <= RESERVE {
                        return Sent::NoRoom;
                    }
                    let len = (*upto - *from).min(SPAN_BYTES_MAX);
                    let measures = &target.own.measures.rings[subgroup];
                    let at =
                        measures.place(ring.lane, *from, len).expect("a span lies in its lane");
                    queue.span(source, at, at + len, remote, at);
                    *from += len;
                }
                Sent::All
            }
            Parcel::Enter(own) => {
                let own = own.clone();
                self.turn_to(own)
            }
        }
    }

    /// From here on the peer is written in that epoch, if its keys are here (Q2).
    fn turn_to(&mut self, own: Arc<Own>) -> Sent {
        if self.keys.front().is_none_or(|(epoch, _)| *epoch != own.epoch) {
            return Sent::NoKey;
        }
        let (_, keys) = self.keys.pop_front().expect("it is the one");
        let new = Target { own, keys, beat: 0, mark: None };
        if let Some(before) = self.target.replace(new) {
            self.old.push_back(before);
        }
        Sent::All
    }

    /// Adds what waits, as far as it goes, and rings the doorbell for all that was added.
    pub fn flush(&mut self, bell: bool) -> Result<(), Trouble> {
        while let Some(mut parcel) = self.waiting.pop_front() {
            let sent = self.send(&mut parcel);
            let keyless = matches!(parcel, Parcel::Span { .. }) && sent == Sent::NoKey;
            if keyless {
                return Err(Nonsense::Order { kind: super::carrier::KEYS }.into());
            }
            if sent == Sent::All {
                continue;
            }
            self.waiting.push_front(parcel);
            self.queue.post(false)?; // one doorbell is for so many only
            if sent == Sent::NoKey || self.queue.room() <= RESERVE {
                self.full += 1;
                break;
            }
        }
        Ok(self.ring(bell)?)
    }

    /// One doorbell for all that was added.
    #[inline]
    pub fn ring(&mut self, bell: bool) -> Result<(), Failure> {
        self.queue.post(bell && self.wants_bells)
    }

    /// Writes my beat, if it has moved, wherever the peer may look for it (Q6).
    pub fn beat(&mut self) -> Result<(), Trouble> {
        let Some(newest) = &self.newest else { return Ok(()) };
        let newest = newest.beat();
        let Line { queue, target, old, .. } = self;
        for target in old.iter_mut().chain(target).filter(|target| target.mark.is_none()) {
            let beat = newest.max(target.own.beat());
            if beat != target.beat && queue.room() > 1 {
                target.beat = beat;
                queue.words(&target.keys.block, target.own.beat_at as u64, &[beat]);
            }
        }
        Ok(queue.post(false)?)
    }

    /// An epoch that the peer need not keep for me any more (K4), one at a time.
    pub fn over(&mut self) -> Result<Option<Epoch>, Trouble> {
        if self.old.len() > OLD_MAX {
            return Err(
                Nonsense::Epoch { kind: super::carrier::DONE, epoch: self.entered.0 }.into()
            );
        }
        let Some(old) = self.old.front_mut() else { return Ok(None) };
        let left = self.entered > old.own.epoch || mutant!("verbs-leaves-at-once");
        if old.mark.is_none() && left && self.queue.room() > 0 {
            self.queue.settle()?;
            old.mark = Some(self.queue.mark());
        }
        let over = old.mark.is_some_and(|mark| self.queue.is_over(mark));
        Ok(over.then(|| self.old.pop_front().expect("there is one").own.epoch))
    }

    /// Whether all that was posted has landed, as far as a queue can tell: to be asked again.
    pub fn is_drained(&mut self, mark: &mut Option<u64>) -> Result<bool, Trouble> {
        if self.is_full() || !self.quiet.is_empty() {
            return Ok(false);
        }
        let mark = match *mark {
            Some(mark) => mark,
            None if self.queue.room() == 0 => return Ok(false),
            None => {
                self.queue.settle()?;
                *mark.insert(self.queue.mark())
            }
        };
        Ok(self.queue.is_over(mark))
    }

    /// Whether nothing waits for keys.
    pub fn has_keys(&self) -> bool {
        self.connected && self.unanswered.is_empty()
    }

    /// Parcels that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len() + self.quiet.len()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    All,
    NoRoom,
    NoKey,
}

/// Whether a post says the same words anew.
fn covers(post: &Post, words: &Words) -> bool {
    matches!(post, Post::Words { at, len, .. } if (*at, *len) == (words.at, words.len))
}
