// SPDX-License-Identifier: MIT OR Apache-2.0
//! The queue to one peer: what is written there now, and what waits for keys or for room.
//!
//! Q1  Posts leave in the order they came, in notes (`notes`) but for long spans: a long one is written
//!     in place, ahead of the note that is being filled, and so of words that were posted before it in the
//!     same turn. What was posted before a word is there when the word is (F2); bytes of a span are
//!     nobody's before a word counts them. What waits, waits in order, and its peer is full.
//! Q2  Behind `enter` nothing leaves before the keys of that epoch are here. The first to leave is my
//!     block as it was when I entered: what was written before the first post.
//! Q3  My beat is never an older one than was written before, wherever it stands in what waits.
//! Q4  Words that are no news wait for the next post or some polls. Those that a newer post of the same
//!     turn covers are dropped then: a peer that is full for that turn would be told the same.
//! Q5  Of the slots some are kept for beats, for what is said of notes, and for the write that asks for
//!     the last completion; and one for the note that is being filled.
//! Q6  Who has entered a later epoch and sees the peer behind beats in both (`mod`, K4).
//! Q7  A peer without a place for a note is full, as one whose queue is.
//! Q8  A note is of one epoch, and is closed when its doorbell is rung.
//! Q9  A beat is never in a note: it is written by itself, with what waits before it or without. So its
//!     word in a note is no news, and the reader drops it.
//!
//! Cost: per turn a note, and a queue entry per long span; nothing is allocated but what waits, which is
//! bounded as posts are.

use super::carrier::{Keys, Nonsense};
use super::failure::Failure;
use super::memory::{Memory as Registered, Remote};
use super::notes::{self, Writer};
use super::queue::Queue;
use super::trouble::Trouble;
use crate::base::{Epoch, POST_WORDS_MAX, Post, RingId};
use crate::fabric::tcp::mirror::Measures;
use crate::mem::Region;
use crate::mutant;
use std::collections::VecDeque;
use std::sync::Arc;

/// Slots that posts leave (Q5): beats in two or three epochs, and one to settle with.
const RESERVE: usize = 4;
/// Bytes of one write: what a word behind it waits for is cut, too.
const WRITE_BYTES_MAX: u64 = 1 << 20;
/// Notes of the peer's that are taken before it is told, if there is nothing else to say.
const UNSAID_MAX: u64 = notes::PLACES / 2;
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

    /// A part of one of my rings: the memory of all its lanes, and the byte there.
    #[inline]
    fn source(&self, ring: RingId, from: u64, len: u64) -> (&Registered, u64) {
        let subgroup = usize::from(ring.subgroup);
        let source = self.rings[subgroup].as_ref().expect("a ring of mine");
        let at = self.measures.rings[subgroup].place(ring.lane, from, len);
        (source, at.expect("a span lies in its lane"))
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

pub struct Line {
    pub queue: Queue,
    writer: Writer,
    /// Of the peer's notes, how many were taken here; and how many it was told of.
    taken: u64,
    said: u64,
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
    pub fn new(queue: Queue, writer: Writer) -> Line {
        Line {
            queue,
            writer,
            taken: 0,
            said: 0,
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

    /// The peer's endpoint has come: its notes are read there; it wants bells.
    pub fn connected(&mut self, notes: Remote, bells: bool) {
        self.writer.connect(notes);
        (self.connected, self.wants_bells) = (true, bells);
    }

    /// So many of the peer's notes have been taken here; and of mine there, it says.
    #[inline]
    pub fn hear_taken(&mut self, here: u64, there: u64) -> Result<(), Nonsense> {
        self.taken = here;
        self.writer.hear_taken(there)
    }

    /// Whether the peer is to be told how many of its notes were taken, before it has no place left.
    #[inline]
    pub fn owes_word(&self) -> bool {
        self.taken - self.said > UNSAID_MAX && !mutant!("verbs-taken-unsaid")
    }

    /// Tells it, if that is due. It may sleep until there is a place.
    #[inline]
    pub fn say_taken(&mut self) -> Result<(), Failure> {
        if !self.owes_word() || self.queue.room() <= 1 {
            return Ok(());
        }
        self.said = self.taken;
        self.writer.say_taken(&mut self.queue, self.taken);
        self.queue.post(self.wants_bells)
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
        !self.quiet.is_empty()
            || self.is_full()
            || self.waits()
            || self.owes_word()
            || self.queue.is_half_used()
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

    /// What was posted without news has waited long enough, or the member goes to sleep; whether it goes
    /// now.
    pub fn say_quiet(&mut self, now: bool) -> bool {
        if self.quiet.is_empty() {
            return false;
        }
        self.late += 1;
        let goes = now || self.late > LATE_MAX;
        if goes {
            self.put_quiet();
        }
        goes
    }

    #[inline]
    fn put(&mut self, mut parcel: Parcel) {
        if self.waiting.is_empty() && self.send(&mut parcel) == Sent::All {
            return;
        }
        self.waiting.push_back(parcel);
    }

    /// Slots that are free beside the one of the note that is being filled.
    #[inline]
    fn room(&self) -> usize {
        self.queue.room().saturating_sub(usize::from(self.writer.is_open()))
    }

    /// Sees to it that a note of that epoch is being filled which has room for so many words.
    #[inline]
    fn open_note(&mut self, words: usize) -> bool {
        if self.writer.has_room(words) {
            return true;
        }
        self.close_note();
        let target = self.target.as_ref().expect("posts come after `enter`");
        let has_room = self.room() > RESERVE && self.writer.has_place();
        if has_room {
            self.writer.open(target.own.epoch);
        }
        has_room
    }

    /// The note that is being filled is whole (Q8).
    #[inline]
    fn close_note(&mut self) {
        if !self.writer.is_open() {
            return;
        }
        if self.queue.room() == 0 {
            assert!(self.queue.alive().is_err(), "Q5: a note without its slot");
            return self.writer.forget();
        }
        self.writer.close(&mut self.queue, self.taken);
        self.said = self.taken;
    }

    /// Adds a parcel to what the next doorbell is for, as far as there is room.
    #[inline]
    fn send(&mut self, parcel: &mut Parcel) -> Sent {
        match parcel {
            Parcel::Words(Words { at, values, len }) => {
                let values = &values[..usize::from(*len)];
                if !self.open_note(Writer::words_len(values.len())) {
                    return Sent::NoRoom;
                }
                self.writer.words(*at, values);
                Sent::All
            }
            Parcel::Span { ring, from, upto } if *upto - *from <= notes::SPAN_BYTES_MAX => {
                self.send_copy(*ring, *from, *upto)
            }
            Parcel::Span { ring, from, upto } => self.send_in_place(*ring, from, *upto),
            Parcel::Enter(own) => {
                let own = own.clone();
                self.turn_to(own)
            }
        }
    }

    /// A short span, by value.
    #[inline]
    fn send_copy(&mut self, ring: RingId, from: u64, upto: u64) -> Sent {
        let len = (upto - from) as usize;
        if !self.open_note(Writer::span_len(len)) {
            return Sent::NoRoom;
        }
        let own = &self.target.as_ref().expect("posts come after `enter`").own;
        let (source, at) = own.source(ring, from, upto - from);
        self.writer.span(ring, from, len, |bytes| source.copy(at, bytes));
        Sent::All
    }

    /// A long one, or what is left of it.
    fn send_in_place(&mut self, ring: RingId, from: &mut u64, upto: u64) -> Sent {
        while *from < upto {
            if self.room() <= RESERVE {
                return Sent::NoRoom;
            }
            let target = self.target.as_ref().expect("posts come after `enter`");
            let Some(remote) = &target.keys.rings[usize::from(ring.subgroup)] else {
                return Sent::NoKey;
            };
            let len = (upto - *from).min(WRITE_BYTES_MAX);
            let (source, at) = target.own.source(ring, *from, len);
            self.queue.span(source, at, at + len, remote, at);
            *from += len;
        }
        Sent::All
    }

    /// From here on the peer is written in that epoch, if its keys are here (Q2).
    fn turn_to(&mut self, own: Arc<Own>) -> Sent {
        if self.keys.front().is_none_or(|(epoch, _)| *epoch != own.epoch) {
            return Sent::NoKey;
        }
        self.close_note();
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
            self.ring(false)?; // one doorbell is for so many only
            if sent == Sent::NoKey || self.room() <= RESERVE || !self.writer.has_place() {
                self.full += 1;
                break;
            }
        }
        Ok(self.ring(bell)?)
    }

    /// One doorbell for all that was added.
    #[inline]
    pub fn ring(&mut self, bell: bool) -> Result<(), Failure> {
        self.close_note();
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
        self.close_note();
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
        self.close_note();
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
