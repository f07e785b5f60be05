// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the first members of a group on several hosts become its first view.
//!
//! Each connects with all others, those of its host over shared memory, and tells them whom it has met
//! by rank. When all have told it the same as it tells them, that is the view, and it sends a letter
//! to all. Who has died before is another incarnation when it comes again, and the list changes.
//!
//! F1  Who has sent letters tells nothing else any more. So no two go on with different lists: the
//!     second one would need the first one's word.
//! F2  Who gets a letter with itself in it goes on with that, whatever it sees itself: its own word was
//!     needed for it.

use super::super::letter::Letter;
use super::super::lines::Lines;
use super::super::rendezvous::CALL_AGAIN;
use super::Joining;
use crate::base::{Epoch, Events, Members, Peer, Rank, Versions};
use crate::error::{Error, Status};
use crate::group::membership::Carry;
use crate::group::membership::roster::{Address, Roster};
use std::time::Duration;

/// How often it is said who is missing.
const SAY_EVERY: Duration = Duration::from_secs(2);

/// Incarnations by rank, with the wire versions that each speaks.
type List = Vec<(u64, Versions)>;

impl Joining<'_> {
    /// Meets all other founders, and agrees with them; the answer is what the first view begins with.
    pub fn found(&mut self, lines: &mut Lines, rings: &[usize]) -> Result<Letter, Error> {
        let mut said: Vec<(u64, List)> = Vec::new();
        let mut mine: Option<List> = None;
        let mut told = Duration::ZERO;
        loop {
            let mut events = Events::default();
            lines.fabric().sleep(Some(CALL_AGAIN.as_nanos() as u64), &mut events);
            while let Some((peer, bytes)) = lines.exchange().heard() {
                if let Some(letter) = Letter::decode(&bytes, self.hello.incarnation) {
                    return Ok(letter); // F2
                }
                if let Some(who) = lines.exchange().incarnation(peer)
                    && let Some(list) = decode(&bytes)
                {
                    said.retain(|(of, _)| *of != who);
                    said.push((who, list));
                }
            }
            self.connect(lines)?;
            let all = self.everybody(lines);
            if all != mine {
                self.tell(lines, all.as_ref(), rings)?;
                mine = all;
            }
            if let Some(list) = &mine {
                let word = |who: &u64| said.iter().find(|(of, _)| of == who).map(|(_, said)| said);
                let agreed = |who: &u64| *who == self.hello.incarnation || word(who) == Some(list);
                if list.iter().all(|(who, _)| agreed(who)) {
                    return Ok(self.begin_all(lines, list));
                }
            }
            let waited = self.start.elapsed();
            if self.is_late() {
                return Err(self.not_founded(lines));
            }
            if waited >= told + SAY_EVERY {
                told = waited;
                let missing = self.whom(&self.missing(lines));
                let why = self.refusal.as_ref().map(|why| format!("; {why}")).unwrap_or_default();
                crate::notice!("group {}: waiting for {missing}{why}", self.config.group);
            }
        }
    }

    /// By rank, where somebody is.
    fn found_so_far(&self, lines: &mut Lines) -> Vec<Option<(u64, Versions)>> {
        let mut found = vec![None; usize::from(self.config.members)];
        found[usize::from(self.hello.rank)] = Some((self.hello.incarnation, self.config.versions));
        let near = lines.near().neighbours().map(|(who, seat, ..)| (seat, who));
        let near: Vec<(u16, u64)> = near.collect();
        let far = lines.far_ones().into_iter().map(|(seat, _, who)| (seat, who));
        for (seat, who) in near.into_iter().chain(far) {
            if let Some(place) = found.get_mut(usize::from(seat)) {
                *place = lines.versions(who).map(|versions| (who, versions));
            }
        }
        found
    }

    fn everybody(&self, lines: &mut Lines) -> Option<List> {
        self.found_so_far(lines).into_iter().collect()
    }

    fn missing(&self, lines: &mut Lines) -> Vec<usize> {
        let found = self.found_so_far(lines);
        found.iter().enumerate().filter(|(_, who)| who.is_none()).map(|(rank, _)| rank).collect()
    }

    /// For sentences: ranks, and where they should be.
    fn whom(&self, missing: &[usize]) -> String {
        let one = |rank: &usize| match self.config.network.founders.get(*rank) {
            Some(address) => format!("rank {rank} ({address})"),
            None => format!("rank {rank}"),
        };
        match missing.is_empty() {
            true => "all to have met each other".into(),
            false => missing.iter().map(one).collect::<Vec<_>>().join(", "),
        }
    }

    fn not_founded(&mut self, lines: &mut Lines) -> Error {
        let missing = self.missing(lines);
        let who = match missing.is_empty() {
            true => "not all have met each other".to_string(),
            false => format!("{} did not arrive", self.whom(&missing)),
        };
        let why = self.refusal.take().map(|refusal| format!("; {refusal}")).unwrap_or_default();
        let detail = format!(
            "group {}: {who} within {:.1} s{why}; start it with the same name and configuration, or \
             wait longer",
            self.config.group,
            self.config.open_timeout.as_secs_f64()
        );
        Error::new(Status::NotComplete, detail)
    }

    /// Tells all whom I have met, and shows them my memory of the first view.
    fn tell(&self, lines: &mut Lines, all: Option<&List>, rings: &[usize]) -> Result<(), Error> {
        let Some(list) = all else { return Ok(()) };
        for (peer, _) in self.others(lines, list) {
            lines.exchange().show(Epoch(0), peer, rings)?;
            lines.exchange().say(peer, &encode(list));
        }
        Ok(())
    }

    fn others(&self, lines: &mut Lines, list: &List) -> Vec<(Peer, u16)> {
        let others = list.iter().zip(0..).filter(|((who, _), _)| *who != self.hello.incarnation);
        let peer =
            |((who, _), rank): (&(u64, Versions), u16)| Some((lines.exchange().peer(*who)?, rank));
        others.filter_map(peer).collect()
    }

    /// All agree: it is begun (F1).
    fn begin_all(&self, lines: &mut Lines, list: &List) -> Letter {
        let seat = |extra| Address { extra, ..Address::default() };
        let founder =
            |((who, versions), rank): (&(u64, Versions), u16)| (*who, seat(rank), *versions);
        let founders: Vec<_> = list.iter().zip(0..).map(founder).collect();
        let letter = |me: Rank| {
            let roster = Roster::founded(&founders, me);
            let carry = Carry::first(&roster);
            let joined = Members::from_ranks((0..list.len() as u16).map(Rank));
            Letter { roster, carry, joined, assignment: Vec::new() }
        };
        for (peer, rank) in self.others(lines, list) {
            lines.exchange().say(peer, &letter(Rank(rank)).encode());
        }
        letter(Rank(self.hello.rank))
    }
}

fn encode(list: &List) -> Vec<u8> {
    let one = |(who, versions): &(u64, Versions)| format!("{who}:{}", versions.text());
    let all: Vec<String> = list.iter().map(one).collect();
    format!("found\n{}\n", all.join(",")).into_bytes()
}

/// `None`: something else.
fn decode(bytes: &[u8]) -> Option<List> {
    let text = std::str::from_utf8(bytes).ok()?.strip_prefix("found\n")?;
    let one = |text: &str| {
        let (who, versions) = text.split_once(':')?;
        Some((who.parse().ok()?, Versions::parse(versions)?))
    };
    text.trim_end().split(',').map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_survive_their_text() {
        let list = vec![(7, Versions::OURS), (9, Versions { min: 1, max: 2 })];
        assert_eq!(decode(&encode(&list)), Some(list));
        for wrong in [&b"found\n"[..], b"found\n1:1,x:1\n", b"found\n1\n", b"find\n1:1\n", b"\xff"]
        {
            assert_eq!(decode(wrong), None);
        }
    }
}
