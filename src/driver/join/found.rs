// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the first members of a group on several hosts become its first view.
//!
//! Each connects with all others, those of its host over shared memory, and tells them whom it has met
//! by rank; when all say the same, they vote for that, and with all votes it is begun (`words`). Who
//! begins sends a letter to all, and who gets one passes it on: so a founder that fails now has told
//! all or nobody.

mod words;

use super::super::letter::Letter;
use super::super::lines::{Lines, misplaced};
use super::super::rendezvous::CALL_AGAIN;
use super::Joining;
use crate::base::{Epoch, Events, Members, Peer, Rank, Versions};
use crate::error::{Error, Status};
use crate::group::membership::Carry;
use crate::group::membership::roster::{Address, Member, Roster};
use std::time::{Duration, Instant};
use words::{List, Word, Words};

/// How often it is said who is missing.
const SAY_EVERY: Duration = Duration::from_secs(2);
/// How long who has voted and has lost somebody waits for a letter, before it comes back as another
/// incarnation.
const LETTER_WITHIN: Duration = Duration::from_secs(1);

impl Joining<'_> {
    /// Meets all other founders, and agrees with them; the answer is what the first view begins with.
    /// `None`: come again as another incarnation.
    pub fn found(&mut self, lines: &mut Lines, rings: &[usize]) -> Result<Option<Letter>, Error> {
        let mut words = Words::new(self.hello.incarnation);
        let (mut told, mut torn): (Vec<Peer>, Option<Instant>) = (Vec::new(), None);
        let mut said = Duration::ZERO;
        loop {
            let mut events = Events::default();
            lines.fabric().sleep(Some(CALL_AGAIN.as_nanos() as u64), &mut events);
            while let Some((peer, bytes)) = lines.exchange().heard() {
                if let Some(letter) = Letter::decode(&bytes, self.hello.incarnation) {
                    let members = &letter.roster.members;
                    let one = |member: &Member| (member.incarnation, member.versions);
                    let list = members.iter().map(one).collect::<List>();
                    if words.may_begin(&list) {
                        return Ok(Some(self.begin_all(lines, &list)));
                    }
                    continue;
                }
                if let (Some(who), Some(word)) =
                    (lines.exchange().incarnation(peer), Word::decode(&bytes))
                {
                    words.hears(who, word);
                }
            }
            self.connect(lines)?;
            let all = self.everybody(lines);
            while words.sees(all.as_ref()) {
                told.clear();
                self.tell(lines, words.mine(), rings, &mut told)?;
            }
            self.tell(lines, words.mine(), rings, &mut told)?;
            if let Some(list) = words.begun() {
                return Ok(Some(self.begin_all(lines, list)));
            }
            match words.is_torn(all.as_ref()) {
                false => torn = None,
                true if torn.get_or_insert_with(Instant::now).elapsed() > LETTER_WITHIN => {
                    return Ok(None);
                }
                true => {}
            }
            let waited = self.start.elapsed();
            if self.is_late() {
                return Err(self.not_founded(lines));
            }
            if waited >= said + SAY_EVERY {
                said = waited;
                let missing = self.whom(&self.missing(lines));
                let why = self.refusal.as_ref().map(|why| format!("; {why}")).unwrap_or_default();
                let why = why + &self.misplaced();
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
            let place = found.get_mut(usize::from(seat)).filter(|_| seat != self.hello.rank);
            if let Some(place) = place {
                *place = lines.versions(who).map(|versions| (who, versions));
            }
        }
        found
    }

    /// `None`: somebody is missing, or they say that they speak what not all can.
    fn everybody(&self, lines: &mut Lines) -> Option<List> {
        let all: List = self.found_so_far(lines).into_iter().collect::<Option<_>>()?;
        Versions::common(all.iter().map(|(_, versions)| *versions)).map(|_| all)
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

    /// For sentences: whether this is the member that it says.
    fn misplaced(&self) -> String {
        misplaced(self.config).map(|why| format!("; {why}")).unwrap_or_default()
    }

    fn not_founded(&mut self, lines: &mut Lines) -> Error {
        let missing = self.missing(lines);
        let who = match missing.is_empty() {
            true => "not all have met each other".to_string(),
            false => format!("{} did not arrive", self.whom(&missing)),
        };
        let why = self.refusal.take().map(|refusal| format!("; {refusal}")).unwrap_or_default();
        let why = why + &self.misplaced();
        let detail = format!(
            "group {}: {who} within {:.1} s{why}; start it with the same name and configuration, or \
             wait longer",
            self.config.group,
            self.config.open_timeout.as_secs_f64()
        );
        Error::new(Status::NotComplete, detail)
    }

    /// Tells my word to those who have not been `told` in the connection that there is now, and shows
    /// them my memory of the first view.
    fn tell(
        &self,
        lines: &mut Lines,
        word: Option<&Word>,
        rings: &[usize],
        told: &mut Vec<Peer>,
    ) -> Result<(), Error> {
        let Some(word) = word else { return Ok(()) };
        for (peer, _) in self.others(lines, &word.list) {
            if !told.contains(&peer) && !lines.exchange().has_ended(peer) {
                lines.exchange().show(Epoch(0), peer, rings)?;
                if lines.exchange().say(peer, &word.encode()) {
                    told.push(peer);
                }
            }
        }
        Ok(())
    }

    fn others(&self, lines: &mut Lines, list: &List) -> Vec<(Peer, u16)> {
        let others = list.iter().zip(0..).filter(|((who, _), _)| *who != self.hello.incarnation);
        let peer =
            |((who, _), rank): (&(u64, Versions), u16)| Some((lines.exchange().peer(*who)?, rank));
        others.filter_map(peer).collect()
    }

    /// It is begun, and all hear of it.
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
