// SPDX-License-Identifier: MIT OR Apache-2.0
//! What members and those who join say to each other, as text.
//!
//! ```text
//! ask                                   a joiner to every member, again whenever it changes
//! seat=5
//! versions=1-2                          the wire versions that it speaks
//! connected=INCARNATION,INCARNATION…    with whom it has a connection
//!
//! no                                    the leader to one that cannot be joined
//! wire=2                                the wire version that the group runs at
//!
//! view                                  a member to one that is joined: what the view begins with
//! epoch=7
//! base=12
//! members=SENIORITY:INCARNATION:SEAT:VERSIONS,…  by rank
//! ballot=0
//! agreed=12
//! suspects=0,2                          ranks
//! joined=3                              ranks of all that join with this view
//! change=WORD:WORD:WORD:WORD            each change beyond the view that is known already
//! ahead=SUBGROUP:SENIORITY:LANE:COUNT   each lane of which my state has so many messages already
//! assignment=00ff…                      bytes, in hexadecimal
//! ```
//!
//! What a peer says is checked here, or it is no letter.

use crate::base::{Epoch, Members, Rank, Versions};
use crate::group::membership::Carry;
use crate::group::membership::changes::{List, Record};
use crate::group::membership::roster::{Address, Member, Roster};
use crate::group::multicast::ahead::Ahead;
use crate::limits::MEMBERS_MAX;
use std::fmt::Write;

/// Epochs and positions that a group may have had before: positions are half a word (`Record`).
const COUNTS_MAX: u64 = 1 << 31;

/// A process asks to be joined.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ask {
    pub seat: u16,
    pub versions: Versions,
    /// Incarnations.
    pub connected: Vec<u64>,
}

/// What a joiner's first view begins with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Letter {
    /// As the joiner sees it.
    pub roster: Roster,
    pub carry: Carry,
    /// Who joins with this view, this one among them.
    pub joined: Members,
    pub assignment: Vec<u8>,
}

impl Ask {
    pub fn encode(&self) -> Vec<u8> {
        let connected: Vec<String> = self.connected.iter().map(u64::to_string).collect();
        let (seat, versions) = (self.seat, self.versions.text());
        let connected = connected.join(",");
        format!("ask\nseat={seat}\nversions={versions}\nconnected={connected}\n").into_bytes()
    }

    pub fn decode(bytes: &[u8]) -> Option<Ask> {
        let mut lines = lines_of(bytes, "ask")?;
        let seat = lines.next()?.strip_prefix("seat=")?.parse().ok()?;
        let versions = Versions::parse(lines.next()?.strip_prefix("versions=")?)?;
        let connected = lines.next()?.strip_prefix("connected=")?;
        Some(Ask { seat, versions, connected: list(connected, |text| text.parse().ok())? })
    }
}

/// That one cannot be joined: the group runs at that wire version. It rose after it had been let in.
pub fn refusal(wire: u16) -> Vec<u8> {
    format!("no\nwire={wire}\n").into_bytes()
}

pub fn read_refusal(bytes: &[u8]) -> Option<u16> {
    lines_of(bytes, "no")?.next()?.strip_prefix("wire=")?.parse().ok()
}

impl Letter {
    pub fn encode(&self) -> Vec<u8> {
        let Letter { roster, carry, joined, assignment } = self;
        let ranks =
            |set: Members| set.iter().map(|rank| rank.0.to_string()).collect::<Vec<_>>().join(",");
        let mut text = format!("view\nepoch={}\nbase={}\n", roster.epoch.0, roster.base);
        let member = |of: &Member| {
            let (seat, versions) = (of.address.extra, of.versions.text());
            format!("{}:{}:{seat}:{versions}", of.seniority, of.incarnation)
        };
        let members: Vec<String> = roster.members.iter().map(member).collect();
        let _ = write!(
            text,
            "members={}\nballot={}\nagreed={}\nsuspects={}\njoined={}\n",
            members.join(","),
            carry.list.ballot,
            carry.agreed,
            ranks(carry.suspects),
            ranks(*joined)
        );
        for (change, at) in carry.list.changes.iter().zip(carry.list.base..) {
            let words = Record::Change { at, change: *change }.words();
            let _ = writeln!(text, "change={}", words.map(|word| word.to_string()).join(":"));
        }
        for Ahead { subgroup, sender, lane, count } in &carry.ahead {
            let _ = writeln!(text, "ahead={subgroup}:{sender}:{lane}:{count}");
        }
        text.push_str("assignment=");
        for byte in assignment {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
        text.into_bytes()
    }

    /// `me`: my incarnation, which must be among the members.
    pub fn decode(bytes: &[u8], me: u64) -> Option<Letter> {
        let mut lines = lines_of(bytes, "view")?.peekable();
        let mut value = |key: &str| {
            let (its, value) = lines.next()?.split_once('=')?;
            (its == key).then(|| value.to_string())
        };
        let epoch = Epoch(value("epoch")?.parse().ok()?);
        let base = value("base")?.parse().ok()?;
        let members = list(&value("members")?, member_of)?;
        let ballot = value("ballot")?.parse().ok()?;
        let agreed = value("agreed")?.parse().ok()?;
        let suspects = list(&value("suspects")?, |text| text.parse().ok())?;
        let joined = list(&value("joined")?, |text| text.parse().ok())?;
        let mut changes = Vec::new();
        while let Some(line) = lines.next_if(|line| line.starts_with("change=")) {
            let words = line.strip_prefix("change=")?.split(':').map(|word| word.parse().ok());
            let words: Vec<u64> = words.collect::<Option<_>>()?;
            let Record::Change { at, change } = Record::of_words(words.try_into().ok()?)? else {
                return None;
            };
            if u64::checked_add(base, changes.len() as u64) != Some(at) {
                return None;
            }
            changes.push(change);
        }
        let mut ahead = Vec::new();
        while let Some(line) = lines.next_if(|line| line.starts_with("ahead=")) {
            ahead.push(ahead_of(line.strip_prefix("ahead=")?)?);
        }
        let assignment = hexadecimal(lines.next()?.strip_prefix("assignment=")?)?;
        let below = |rank: &u16| usize::from(*rank) < members.len();
        let mine = members.iter().position(|member: &Member| member.incarnation == me)?;
        // Before they are ranks: a set of members holds no others.
        if members.len() > MEMBERS_MAX || !suspects.iter().chain(&joined).all(below) {
            return None;
        }
        let suspects = Members::from_ranks(suspects.into_iter().map(Rank));
        let joined = Members::from_ranks(joined.into_iter().map(Rank));
        let roster = Roster { epoch, me: Rank(mine as u16), base, members };
        let carry = Carry { list: List { base, ballot, changes }, agreed, suspects, ahead };
        let sound = joined.contains(roster.me)
            && epoch.0.max(base) < COUNTS_MAX
            && roster.is_sound()
            && carry.is_sound(&roster);
        sound.then_some(Letter { roster, carry, joined, assignment })
    }
}

/// The lines after the first one, which is `first`.
fn lines_of<'a>(bytes: &'a [u8], first: &str) -> Option<std::str::Lines<'a>> {
    let mut lines = std::str::from_utf8(bytes).ok()?.lines();
    (lines.next()? == first).then_some(lines)
}

/// What is between commas; nothing is an empty list.
fn list<T>(text: &str, item: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    text.split(',').filter(|text| !text.is_empty()).map(item).collect()
}

fn member_of(text: &str) -> Option<Member> {
    let mut parts = text.split(':');
    let seniority = parts.next()?.parse().ok()?;
    let incarnation = parts.next()?.parse().ok()?;
    let extra = parts.next()?.parse().ok()?;
    let address = Address { extra, ..Address::default() };
    let versions = Versions::parse(parts.next()?)?;
    Some(Member { seniority, incarnation, address, versions })
}

fn ahead_of(text: &str) -> Option<Ahead> {
    let mut parts = text.split(':');
    let subgroup = parts.next()?.parse().ok()?;
    let sender = parts.next()?.parse().ok()?;
    let lane = parts.next()?.parse().ok()?;
    let count = parts.next()?.parse().ok()?;
    Some(Ahead { subgroup, sender, lane, count })
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    if text.len() % 2 != 0 || !text.is_ascii() {
        return None;
    }
    let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).ok();
    (0..text.len()).step_by(2).map(digits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::membership::changes::{Change, What};
    use proptest::prelude::*;

    fn letter() -> Letter {
        let seat = |extra| Address { extra, ..Address::default() };
        let versions = |max| Versions { min: 1, max };
        let founders =
            [(71, seat(0), versions(1)), (72, seat(1), versions(2)), (73, seat(9), versions(1))];
        let roster = Roster { epoch: Epoch(4), ..Roster::founded(&founders, Rank(2)) };
        let remove = Change { what: What::Remove { member: 0 }, ends: true };
        let list = List { base: 3, ballot: 1, changes: vec![remove] };
        let suspects = Members::from_ranks([Rank(0)]);
        let ahead =
            [(1, 0), (1, 1)].map(|(sender, lane)| Ahead { subgroup: 2, sender, lane, count: 5 });
        let carry = Carry { list, agreed: 3, suspects, ahead: ahead.to_vec() };
        let joined = Members::from_ranks([Rank(2)]);
        Letter { roster, carry, joined, assignment: vec![0, 255, 7] }
    }

    /// Of a removal that ends its batch.
    fn head_of(at: u64) -> String {
        (4 | 1 << 8 | at << 32).to_string()
    }

    #[test]
    fn letters_survive_their_text() {
        let letter = letter();
        assert_eq!(Letter::decode(&letter.encode(), 73), Some(letter));
        let versions = Versions { min: 1, max: 2 };
        let ask = Ask { seat: 9, versions, connected: vec![71, 72] };
        assert_eq!(Ask::decode(&ask.encode()), Some(ask));
        let nobody = Ask { seat: 0, versions, connected: Vec::new() };
        assert_eq!(Ask::decode(&nobody.encode()), Some(nobody));
        assert_eq!((read_refusal(&refusal(2)), read_refusal(b"no\nwire=x\n")), (Some(2), None));
    }

    #[test]
    fn what_no_member_says_is_no_letter() {
        let text = String::from_utf8(letter().encode()).unwrap();
        assert_eq!(Letter::decode(text.as_bytes(), 74), None, "I am not in it");
        assert_eq!(Letter::decode(text.as_bytes(), 71), None, "it suspects me");
        for (from, to) in [
            ("epoch=4", "epoch=0"),
            ("agreed=3", "agreed=9"),
            ("suspects=0", "suspects=3"),
            ("joined=2", "joined=1"),
            ("joined=2", "joined=2,9"),
            ("members=0:", "members=5:"),
            ("change=", "change=1:"),
            ("assignment=00", "assignment=0"),
            ("base=3", "base=2"),
            ("ballot=1\n", ""),
            ("ahead=2:1:0:5", "ahead=2:3:0:5"),
            ("ahead=2:", "ahead=200:"),
            ("ahead=2:1:1:5", "ahead=2:1:99:5"),
            ("ahead=2:1:1:5", "ahead=2:1:1"),
            ("1:1:5", "1:1:18446744073709551615"),
        ] {
            assert!(text.contains(from));
            assert_eq!(Letter::decode(text.replace(from, to).as_bytes(), 73), None, "{to}");
        }
        // These were taken, or fell over before they were refused.
        for (from, to) in [
            ("suspects=0", "suspects=60000"),
            ("joined=2", "joined=2,128"),
            (":72:", ":71:"),
            (":72:", ":0:"),
            ("members=0:71:0:1,1:", "members=0:71:0:1,0:"),
            ("2:73:9", "3:73:9"),
            (":72:1:1-2", ":72:1:2-3"),
            (":72:1:1-2", ":72:1:0-2"),
            (":72:1:1-2", ":72:1"),
            ("epoch=4", "epoch=18446744073709551615"),
            ("ballot=1", "ballot=3"),
        ] {
            assert!(text.contains(from));
            assert_eq!(Letter::decode(text.replace(from, to).as_bytes(), 73), None, "{to}");
        }
        let change = text.lines().find(|line| line.starts_with("change=")).unwrap();
        let twice = change.replace("change=", "").replacen(&head_of(3), &head_of(4), 1);
        let twice = text.replace(change, &format!("{change}\nchange={twice}"));
        assert_eq!(Letter::decode(twice.as_bytes(), 73), None, "nobody is removed twice");
        let head: u64 = 4 | 1 << 8 | 3 << 32;
        assert!(text.contains(&format!("change={head}:")));
        let open = head & !(1 << 8);
        let unfinished = text.replace(&format!("change={head}:"), &format!("change={open}:"));
        assert_eq!(Letter::decode(unfinished.as_bytes(), 73), None);
        assert_eq!(Ask::decode(b"ask\nseat=x\nconnected=\n"), None);
        assert_eq!(Ask::decode(b"\xff"), None);
    }

    /// A number or a piece that an honest one would not say there, now and then.
    fn piece() -> impl Strategy<Value = String> {
        let extremes = prop::sample::select(vec![0, 1, 63, 64, 1 << 48, u64::MAX - 1, u64::MAX]);
        let marks =
            prop::sample::select(vec![",", ":", "=", "\n", "-", "", "change=", "ahead=0:0:0:1\n"]);
        prop_oneof![extremes.prop_map(|of| of.to_string()), marks.prop_map(String::from), ".{0,6}"]
    }

    proptest! {
        #![proptest_config(crate::fabric::tcp::session::cases(2_000))]

        /// What members that have proved themselves say is read without harm, whatever it is.
        #[test]
        fn fuzz_any_letter_is_read_without_harm(
            any in any::<Vec<u8>>(),
            of in 0usize..2,
            changes in prop::collection::vec((any::<prop::sample::Index>(), 0usize..8, piece()), 0..4),
        ) {
            let ask = Ask { seat: 3, versions: Versions { min: 1, max: 2 }, connected: vec![7, 8] };
            let mut bytes = [letter().encode(), ask.encode()][of].clone();
            for (at, len, piece) in changes {
                let at = at.index(bytes.len() + 1);
                let upto = (at + len).min(bytes.len());
                bytes.splice(at..upto, piece.bytes());
            }
            for bytes in [&any, &bytes] {
                let _ = (Ask::decode(bytes), read_refusal(bytes));
                if let Some(letter) = Letter::decode(bytes, 73) {
                    prop_assert!(letter.roster.is_sound() && letter.carry.is_sound(&letter.roster));
                }
            }
        }
    }
}
