// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the members of a measurement between hosts tell each other, as JSON, in a subgroup of its own;
//! and where the callbacks leave it for the loop. All runs in one thread.

use super::super::member::Track;
use super::super::plan::{Report, Stage};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use squall::driver::Application;
use squall::driver::views::ViewInfo;
use squall::error::{Status, Suspicion};
use squall::mem::Message;
use std::sync::{Arc, Mutex, MutexGuard};

/// Bytes of the longest word: a report without histograms has hundreds.
pub const BYTES_MAX: u32 = 64 << 10;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// Everybody's first: what it is about to do, its host's name and network.
    Hello {
        plans: Vec<Value>,
        host: String,
        place: String,
    },
    /// Rank 0's: this test is next, and its floor is measured at that port (0: it is not).
    Go {
        test: usize,
        port: u16,
        token: String,
    },
    NoFloor {
        test: usize,
        why: String,
    },
    /// What a member has seen of a test.
    Saw {
        test: usize,
        report: Box<Report>,
    },
    /// A member's last.
    Failed {
        why: String,
    },
}

impl Word {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("a word is plain data");
        if bytes.len() > BYTES_MAX as usize
            && let Word::Failed { why } = self
        {
            let why = why.chars().take(4096).collect();
            bytes = serde_json::to_vec(&Word::Failed { why }).expect("likewise");
        }
        if bytes.len() > BYTES_MAX as usize
            && let Word::Saw { test, report } = self
        {
            // On a machine where hardly two messages took the same time.
            let mut report = report.clone();
            while bytes.len() > BYTES_MAX as usize && !report.stages.is_empty() {
                report.stages.iter_mut().for_each(Stage::coarsen);
                let word = Word::Saw { test: *test, report: report.clone() };
                bytes = serde_json::to_vec(&word).expect("likewise");
            }
        }
        bytes
    }
}

/// The first figure that is not the same: its name, ours, theirs.
pub fn differs(ours: &[Value], theirs: &[Value]) -> Option<(String, Value, Value)> {
    if ours.len() != theirs.len() {
        return Some(("the number of tests".into(), ours.len().into(), theirs.len().into()));
    }
    ours.iter().zip(theirs).find_map(|(ours, theirs)| {
        let ours = ours.as_object()?;
        ours.iter().find_map(|(key, value)| {
            let other = theirs.get(key).cloned().unwrap_or(Value::Null);
            (*value != other).then(|| (format!("`{key}`"), value.clone(), other))
        })
    })
}

/// What has been heard.
pub struct Board {
    founders: Vec<String>,
    tracks: Vec<Track>,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    /// By rank of the first view: whoever is in a later one ends.
    words: Vec<(u16, Word)>,
    /// Why the measurement is over: by a member's own word, or by what was seen of it.
    said: Option<String>,
    seen: Option<String>,
}

impl Board {
    pub fn new(founders: Vec<String>, tracks: Vec<Track>) -> Board {
        Board { founders, tracks, heard: Mutex::default() }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn find<T>(
        &self,
        rank: Option<usize>,
        mut wanted: impl FnMut(&Word) -> Option<T>,
    ) -> Option<T> {
        let heard = self.heard();
        let of = |from: &u16| rank.is_none_or(|rank| rank == usize::from(*from));
        heard.words.iter().filter(|(from, _)| of(from)).find_map(|(_, word)| wanted(word))
    }

    pub fn hello(&self, rank: usize) -> Option<Word> {
        self.find(Some(rank), |word| matches!(word, Word::Hello { .. }).then(|| word.clone()))
    }

    pub fn go(&self, wanted: usize) -> Option<Word> {
        let is = |word: &Word| matches!(word, Word::Go { test, .. } if *test == wanted);
        self.find(Some(0), |word| is(word).then(|| word.clone()))
    }

    pub fn no_floor(&self, wanted: usize) -> Option<String> {
        self.find(None, |word| match word {
            Word::NoFloor { test, why } if *test == wanted => Some(why.clone()),
            _ => None,
        })
    }

    pub fn saw(&self, rank: usize, wanted: usize) -> Option<Report> {
        self.find(Some(rank), |word| match word {
            Word::Saw { test, report } if *test == wanted => Some((**report).clone()),
            _ => None,
        })
    }

    /// Why it is over, if it is.
    pub fn failure(&self) -> Option<String> {
        let heard = self.heard();
        heard.said.clone().or_else(|| heard.seen.clone())
    }

    fn who(&self, rank: usize) -> String {
        match self.founders.get(rank) {
            Some(address) => format!("rank {rank} ({address})"),
            None => format!("rank {rank}"),
        }
    }

    fn take(&self, message: &Message) {
        let Ok(word) = serde_json::from_slice::<Word>(message.bytes()) else {
            return self.fails(format!("{} says nonsense", self.who(message.rank.into())), true);
        };
        if let Word::Failed { why } = &word {
            return self.fails(format!("{}: {why}", self.who(message.rank.into())), true);
        }
        self.heard().words.push((message.rank, word));
    }

    fn fails(&self, why: String, said: bool) {
        let mut heard = self.heard();
        let place = if said { &mut heard.said } else { &mut heard.seen };
        let why = place.get_or_insert(why).clone();
        drop(heard);
        self.tracks.iter().for_each(|track| track.fail(why.clone()));
    }
}

/// The application of a member.
pub struct Hearer(pub Arc<Board>);

impl Application for Hearer {
    #[inline]
    fn deliver(&mut self, subgroup: u16, batch: &[Message]) {
        match self.0.tracks.get(usize::from(subgroup)) {
            Some(track) => track.deliver(batch),
            None => batch.iter().for_each(|message| self.0.take(message)),
        }
    }

    /// A view without somebody is the end.
    fn view(&mut self, view: &ViewInfo) {
        if let Some((member, fault)) = view.left.first() {
            let who = self.0.who(member.seat.into());
            self.0.fails(format!("{who} is gone: {fault}; the measurement is over"), false);
        }
    }

    fn stopped(&mut self, status: Status, suspicion: Option<Suspicion>) {
        let why = match suspicion {
            Some(Suspicion { rank, fault, .. }) => {
                format!(
                    "{} is gone: {fault}; the measurement is over ({status})",
                    self.0.who(rank.index())
                )
            }
            None => format!("the others cannot be reached any more ({status})"),
        };
        self.0.fails(why, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member of a measurement over slow devices could not say what it had seen, and the group ended.
    #[test]
    fn what_was_seen_fits_however_much_it_was() {
        let counts: Vec<(u64, u64)> = (1..=20_000).map(|at| (1_000_000 + at * 1_000, 1)).collect();
        let stages =
            ["stable", "delivered"].map(|name| Stage { name: name.into(), counts: counts.clone() });
        let text = r#"{"rank":0,"delivered":1,"window_ns":1,"total":1,"hash":1,"checked":CHECKED,"sent":1,
            "refused":0,"nulls":0,"batches":1,"sleeps":0,"loop_gap_max_ns":0,"ran":1.0,"stages":[]}"#;
        let checked = serde_json::to_string(&crate::perf::message::Checked::default()).unwrap();
        let mut report: Report = serde_json::from_str(&text.replace("CHECKED", &checked)).unwrap();
        report.stages = stages.into();
        let bytes = Word::Saw { test: 0, report: Box::new(report) }.encode();
        assert!(bytes.len() <= BYTES_MAX as usize, "{}", bytes.len());
        let Ok(Word::Saw { report, .. }) = serde_json::from_slice(&bytes) else { panic!("a word") };
        for stage in &report.stages {
            let all: u64 = stage.counts.iter().map(|of| of.1).sum();
            assert_eq!((all, stage.counts.last().unwrap().0), (20_000, 21_000_000));
        }
    }
}
