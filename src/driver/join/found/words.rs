// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which founders begin together: what each tells, and when that is enough.
//!
//! F1  A founder first tells whom it has met by rank, again whenever that changes. When all have told it
//!     the same as it tells them, it votes for that list; a vote is its last word, whatever it sees.
//! F2  A list is begun with the votes of all that are in it. So no process is in two lists that are
//!     begun: whoever is begun without it was never voted for by it. Two processes that claim the same
//!     rank, each met by some of the others, are not enough for two groups.
//! F3  Who has voted and loses somebody of its list can neither begin nor vote again: it comes back as
//!     another incarnation, unless a letter says that somebody else had all votes.
//! F4  So a letter says the list that I have voted for, or it is of somebody who makes it up. Nor is there
//!     a list of processes that have no wire version in common.

use crate::base::Versions;
use crate::mutant;

/// Incarnations by rank, with the wire versions that each speaks.
pub type List = Vec<(u64, Versions)>;

/// What a founder tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Word {
    pub list: List,
    /// It is a vote.
    pub binds: bool,
}

impl Word {
    pub fn encode(&self) -> Vec<u8> {
        let one = |(who, versions): &(u64, Versions)| format!("{who}:{}", versions.text());
        let all: Vec<String> = self.list.iter().map(one).collect();
        let what = if self.binds { "begin" } else { "found" };
        format!("{what}\n{}\n", all.join(",")).into_bytes()
    }

    /// `None`: something else.
    pub fn decode(bytes: &[u8]) -> Option<Word> {
        let (what, list) = std::str::from_utf8(bytes).ok()?.split_once('\n')?;
        let binds = match what {
            "found" => false,
            "begin" => true,
            _ => return None,
        };
        let one = |text: &str| {
            let (who, versions) = text.split_once(':')?;
            Some((who.parse().ok()?, Versions::parse(versions)?))
        };
        let list = list.trim_end().split(',').map(one);
        Some(Word { list: list.collect::<Option<List>>()?, binds })
    }
}

/// One founder's part.
pub struct Words {
    me: u64,
    mine: Option<Word>,
    /// The last word of each that has told one.
    heard: Vec<(u64, Word)>,
}

impl Words {
    pub fn new(me: u64) -> Words {
        Words { me, mine: None, heard: Vec::new() }
    }

    pub fn hears(&mut self, from: u64, word: Word) {
        self.heard.retain(|(of, _)| *of != from);
        self.heard.push((from, word));
    }

    /// What is told now.
    pub fn mine(&self) -> Option<&Word> {
        self.mine.as_ref()
    }

    /// Whom I am connected with, if that is somebody of each rank. Whether there is something new to be
    /// told: then ask again.
    pub fn sees(&mut self, all: Option<&List>) -> bool {
        let versions = |list: &List| Versions::common(list.iter().map(|(_, versions)| *versions));
        let all = all.filter(|list| versions(list).is_some()); // F4
        let (bound, told) = match &self.mine {
            Some(word) => (word.binds, Some(&word.list)),
            None => (false, None),
        };
        if !bound && told != all {
            self.mine = all.map(|list| Word { list: list.clone(), binds: false });
            return self.mine.is_some();
        }
        let votes = !bound && self.all_say(|_, _| true);
        if votes && let Some(mine) = &mut self.mine {
            mine.binds = true;
        }
        votes
    }

    /// The list that is begun now (F2).
    pub fn begun(&self) -> Option<&List> {
        let bound = self.all_say(|mine, theirs| mine.binds && theirs.binds);
        let begins = bound || mutant!("found-words-do-not-bind") && self.all_say(|_, _| true);
        self.mine.as_ref().filter(|_| begins).map(|word| &word.list)
    }

    /// Whether somebody may have had all votes for that list (F4).
    pub fn may_begin(&self, list: &List) -> bool {
        self.mine.as_ref().is_some_and(|word| word.binds && word.list == *list)
    }

    /// Whether somebody is missing of the list that I am bound to (F3).
    pub fn is_torn(&self, all: Option<&List>) -> bool {
        self.mine.as_ref().is_some_and(|word| word.binds && Some(&word.list) != all)
    }

    /// Whether all of my list have told the same list, and so.
    fn all_say(&self, so: impl Fn(&Word, &Word) -> bool) -> bool {
        let Some(mine) = &self.mine else { return false };
        let word = |who: &u64| self.heard.iter().find(|(of, _)| of == who).map(|(_, word)| word);
        let says = |who: &u64| match word(who) {
            _ if *who == self.me => so(mine, mine),
            Some(word) => word.list == mine.list && so(mine, word),
            None => false,
        };
        mine.list.iter().all(|(who, _)| says(who))
    }
}

#[cfg(test)]
mod tests;
