// SPDX-License-Identifier: MIT OR Apache-2.0
//! What two processes say of themselves once each knows that the other may hear it.
//!
//! Text, one `key=value` a line, then the configuration, one line per figure, as at the door of
//! shared memory (`shm::door`):
//!
//! ```text
//! kind=join             (join, enter, stat, probe, stream; the answer: welcome, or refuse)
//! group=NAME
//! rank=2                (where views change: the seat)
//! pid=4711
//! incarnation=…         (0: a process that is no member)
//! speaks=1-2            (the wire versions; the same as in the opening)
//! wire=0                (the version that the group runs at, if it runs)
//! host=NAME             (for sentences)
//! addresses=H:P,[H]:P   (where its door is, for those that it will be made known to)
//! text=STATUS SENTENCE  (with refuse)
//! config:
//! members=3
//! ```
//!
//! Unknown keys are kept (`more`), so that a later version may say more to those who know it.
//!
//! O1  Whoever has sent it, a decoded hello is bounded and holds no control character: its parts
//!     may stand in a sentence of the log.

use super::address::{self, Address};
use crate::base::Versions;
use crate::error::{Error, Status};
pub use crate::fabric::greeting::Kind;
use crate::fabric::greeting::{self, Speech, compare_configs, compare_versions};
use crate::limits::NAME_BYTES_MAX;
use std::net::SocketAddr;

/// Bytes of a hello, at the most.
pub const HELLO_BYTES_MAX: usize = 64 << 10;
/// Addresses of one member.
pub const ADDRESSES_MAX: usize = 16;
/// Keys that this version does not know.
const MORE_MAX: usize = 16;
/// Bytes of a host's name; more are cut off.
const HOST_BYTES_MAX: usize = 255;
/// Bytes of a refusal's sentence; more are cut off.
const SENTENCE_BYTES_MAX: usize = 4096;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    pub kind: Kind,
    pub group: String,
    pub rank: u16,
    pub pid: u32,
    /// 0: none, it is no member and does not want to be.
    pub incarnation: u64,
    /// The wire versions that it speaks. What is sent in a handshake says those of its `Terms`.
    pub versions: Versions,
    /// The wire version that the group runs at; 0: it does not run yet.
    pub wire: u16,
    /// The host's name, for people.
    pub host: String,
    /// Where its door is.
    pub addresses: Vec<Address>,
    /// With `Refuse`: why. The status' number and a sentence.
    pub refusal: Option<(i32, String)>,
    /// What else was said: keys and values.
    pub more: Vec<(String, String)>,
    pub config: String,
}

impl Hello {
    /// Of this process.
    pub fn new(kind: Kind, group: &str, rank: u16, incarnation: u64, config: &str) -> Hello {
        let name = rustix::system::uname();
        let host = plain(&name.nodename().to_string_lossy(), HOST_BYTES_MAX);
        Hello {
            kind,
            group: group.into(),
            rank,
            pid: std::process::id(),
            incarnation,
            versions: Versions::OURS,
            wire: 0,
            host,
            addresses: Vec::new(),
            refusal: None,
            more: Vec::new(),
            config: config.into(),
        }
    }

    /// The same process says no.
    pub fn refusal(&self, status: Status, sentence: &str) -> Hello {
        let refusal = Some((status as i32, plain(sentence, SENTENCE_BYTES_MAX)));
        Hello { kind: Kind::Refuse, refusal, ..self.clone() }
    }

    /// For sentences.
    pub fn who(&self, from: SocketAddr) -> String {
        match self.host.as_str() {
            "" => format!("process {} at {from}", self.pid),
            host => format!("process {} on {host} ({from})", self.pid),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let addresses: Vec<String> = self.addresses.iter().map(Address::to_string).collect();
        let mut text = format!(
            "kind={}\ngroup={}\nrank={}\npid={}\nincarnation={}\nspeaks={}\nwire={}\nhost={}\n\
             addresses={}\n",
            self.kind.text(),
            self.group,
            self.rank,
            self.pid,
            self.incarnation,
            self.versions.text(),
            self.wire,
            self.host,
            addresses.join(",")
        );
        if let Some((status, sentence)) = &self.refusal {
            text.push_str(&format!("text={status} {sentence}\n"));
        }
        for (key, value) in &self.more {
            text.push_str(&format!("{key}={value}\n"));
        }
        text.push_str("config:\n");
        text.push_str(&self.config);
        text.into_bytes()
    }

    /// Whether `encode` says it all, and within the bounds. `Invalid`: what does not.
    pub fn check(&self) -> Result<(), Error> {
        let bytes = self.encode();
        let too_long = bytes.len() > HELLO_BYTES_MAX;
        if too_long || Hello::decode(&bytes).as_ref() != Some(self) {
            let detail = format!(
                "what this process says of itself to others ({} bytes, at most {HELLO_BYTES_MAX}) \
                 cannot be said: group {:?}, host {:?}, {} addresses (at most {ADDRESSES_MAX})",
                bytes.len(),
                self.group,
                self.host,
                self.addresses.len()
            );
            return Err(Error::new(Status::Invalid, detail));
        }
        Ok(())
    }

    /// `None`: nonsense.
    pub fn decode(bytes: &[u8]) -> Option<Hello> {
        let text = std::str::from_utf8(bytes).ok().filter(|_| bytes.len() <= HELLO_BYTES_MAX)?;
        if text.chars().any(|c| c.is_control() && c != '\n') {
            return None; // O1
        }
        let (head, config) = greeting::parts(text)?;
        let (mut kind, mut group, mut refusal) = (None, None, None);
        let (mut rank, mut pid, mut incarnation, mut wire) = (None, None, None, None);
        let (mut versions, mut host) = (None, None);
        let (mut addresses, mut more) = (None, Vec::new());
        for line in head.lines() {
            let (key, value) = line.split_once('=')?;
            let twice = match key {
                "kind" => kind.replace(Kind::parse(value)?).is_some(),
                "group" => group.replace(name(value)?).is_some(),
                "rank" => rank.replace(value.parse().ok()?).is_some(),
                "pid" => pid.replace(value.parse().ok()?).is_some(),
                "incarnation" => incarnation.replace(value.parse().ok()?).is_some(),
                "speaks" => versions.replace(Versions::parse(value)?).is_some(),
                "wire" => wire.replace(value.parse().ok()?).is_some(),
                "host" => host.replace(bounded(value, HOST_BYTES_MAX)?).is_some(),
                "addresses" => addresses.replace(door_addresses(value)?).is_some(),
                "text" => refusal.replace(reason(value)?).is_some(),
                _ => {
                    let known = more.iter().any(|(before, _)| before == key);
                    more.push((key.to_string(), value.to_string()));
                    known || more.len() > MORE_MAX
                }
            };
            if twice {
                return None;
            }
        }
        Some(Hello {
            kind: kind?,
            group: group?,
            rank: rank?,
            pid: pid?,
            incarnation: incarnation.unwrap_or(0),
            versions: versions.unwrap_or(Versions::OURS),
            wire: wire.unwrap_or(0),
            host: host.unwrap_or_default(),
            addresses: addresses.unwrap_or_default(),
            refusal,
            more,
            config: config.into(),
        })
    }
}

/// A group's name: the same letters as where a group is opened.
fn name(value: &str) -> Option<String> {
    let letter = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let fits = !value.is_empty() && value.chars().all(letter);
    bounded(value, NAME_BYTES_MAX).filter(|_| fits)
}

fn bounded(value: &str, most: usize) -> Option<String> {
    (value.len() <= most).then(|| value.into())
}

fn door_addresses(value: &str) -> Option<Vec<Address>> {
    if value.is_empty() {
        return Some(Vec::new());
    }
    let all = value.split(',').take(ADDRESSES_MAX + 1).map(|text| address::parse(text, None).ok());
    all.collect::<Option<Vec<Address>>>().filter(|all| all.len() <= ADDRESSES_MAX)
}

fn reason(value: &str) -> Option<(i32, String)> {
    let (status, sentence) = greeting::refusal(value)?;
    Some((status, bounded(sentence, SENTENCE_BYTES_MAX)?))
}

/// The text without control characters, and no longer than that.
fn plain(text: &str, most: usize) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut plain: String = text.chars().map(clean).collect();
    while plain.len() > most {
        plain.pop();
    }
    plain
}

/// Whether two members fit each other; if not, the sentence that names both values.
pub fn compare(mine: &Hello, theirs: &Hello, who: &str) -> Result<(), Error> {
    same_group(&mine.group, theirs, who)?;
    let speech = |of: &Hello| Speech { versions: of.versions, wire: of.wire };
    compare_versions(speech(mine), speech(theirs), who)?;
    compare_configs(&mine.config, &theirs.config, who)
}

/// Likewise the names of the groups.
pub fn same_group(mine: &str, theirs: &Hello, who: &str) -> Result<(), Error> {
    let other = &theirs.group;
    if mine == other {
        return Ok(());
    }
    let detail = format!(
        "{who} belongs to group `{other}`, this process to group `{mine}`: give one of them the \
         other's name or other addresses"
    );
    Err(Error::new(Status::Mismatch, detail))
}

#[cfg(test)]
mod tests;
