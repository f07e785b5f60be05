// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a caller and an answerer find out that they belong together: bytes in, bytes out. No socket,
//! no clock, no randomness: the nonce is given.
//!
//! ```text
//! opening, 48 bytes, of the same form in every version to come:
//!   0 "SQUALL"   6 form (1)   7 flags (bit 0: authenticates)   8 lowest, 10 highest wire version
//!   12 four bytes to be ignored   16 nonce, 32 bytes                            (little-endian)
//! message: 0 length of what follows   4 kind (1 proof, 2 alert, 3 hello)   5 body, then its mark
//!
//! caller             answerer
//!   opening     ->
//!               <-   opening            both know: versions, whether to authenticate
//!   proof       ->                      mark("caller's proof", openings)       \  left out where
//!               <-   proof              mark("answerer's proof", openings)     /  the network is
//!   hello, mark ->                      mark("caller's hello", openings, hello)   trusted, as are
//!               <-   hello, mark        mark("answerer's hello", openings, both)  the marks
//! ```
//!
//! The caller goes first in everything: who only knocks and listens learns the opening, and that is
//! the same for everybody. One speaks at a time, so what one reads in full has left nothing unread.
//!
//! A1  Before the other's proof nothing is kept but 48 bytes and one small message, nothing is said
//!     that tells of the group, and nothing of the other's reaches a sentence.
//! A2  Nonces make the marks of each connection its own: a replay fails. The labels tell the two
//!     roles apart: an echo fails. The openings are in all marks: who lowers the versions on the way
//!     fails. The hellos (group, incarnation, configuration) are in the keys.
//! A3  How the bytes are split into reads makes no difference; never more is read than what belongs
//!     to the handshake; what is claimed to come takes no memory until it comes.
//! A4  Whoever speaks to himself hears so: his own opening, or his own incarnation.

use super::hello::{self, HELLO_BYTES_MAX, Hello, Kind};
use super::secret::MARK_BYTES;
use super::session::Keys;
use super::terms::{MAGIC, NONCE_BYTES, OPENING_BYTES, Opening};
pub use super::terms::{Reason, Refusal, Terms, Versions};
use crate::error::{Error, Status};
use crate::fabric::greeting::{Speech, compare_versions};
use std::sync::Arc;

/// Length and kind of a message.
const HEAD_BYTES: usize = 5;
const PROOF: u8 = 1;
const ALERT: u8 = 2;
const HELLO: u8 = 3;
/// The only alert: your proof is none.
const WRONG_PROOF: u8 = 1;

/// What both have found out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Agreed {
    pub peer: Hello,
    pub keys: Option<Keys>,
    pub wire: u16,
    pub versions: Versions,
}

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress<'a> {
    /// It waits for bytes.
    Reads,
    /// The answerer: somebody who holds the secret (if there is one) wants this; `welcome` or
    /// `refuse`.
    Asked(&'a Hello),
    /// Done, once the output is sent: `agreed`.
    Agreed,
    /// Over, once the output is sent.
    Refused(&'a Refusal),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Caller,
    Answerer,
}

enum Stage {
    Opening,
    Proof,
    Hello,
    Asked(Hello),
    Agreed(Box<Agreed>),
    Refused(Refusal),
}

/// One side of one handshake.
pub struct Handshake {
    side: Side,
    terms: Arc<Terms>,
    /// Mine: the caller's from the beginning, the answerer's from its decision.
    hello: Option<Hello>,
    mine: Opening,
    theirs: Option<Opening>,
    stage: Stage,
    /// What has come of the opening or message that is on its way.
    held: Vec<u8>,
    output: Vec<u8>,
    /// The body of the caller's hello, for the answer's mark and the keys.
    asked: Vec<u8>,
    proven: bool,
}

impl Handshake {
    /// The caller's side, which wants `hello`. The nonce: random, never used before.
    ///
    /// Errors: `Invalid`: the hello cannot be said.
    pub fn call(
        terms: Arc<Terms>,
        hello: Hello,
        nonce: [u8; NONCE_BYTES],
    ) -> Result<Handshake, Error> {
        hello.check()?;
        let mut caller = Handshake::new(Side::Caller, terms, nonce);
        caller.hello = Some(hello);
        caller.output.extend_from_slice(&caller.mine.bytes);
        Ok(caller)
    }

    /// The answerer's side.
    pub fn answer(terms: Arc<Terms>, nonce: [u8; NONCE_BYTES]) -> Handshake {
        Handshake::new(Side::Answerer, terms, nonce)
    }

    fn new(side: Side, terms: Arc<Terms>, nonce: [u8; NONCE_BYTES]) -> Handshake {
        let mine = Opening::new(&terms, nonce);
        let (hello, theirs, stage) = (None, None, Stage::Opening);
        let (held, output, asked) = (Vec::new(), Vec::new(), Vec::new());
        Handshake { side, terms, hello, mine, theirs, stage, held, output, asked, proven: false }
    }

    pub fn progress(&self) -> Progress<'_> {
        match &self.stage {
            Stage::Opening | Stage::Proof | Stage::Hello => Progress::Reads,
            Stage::Asked(hello) => Progress::Asked(hello),
            Stage::Agreed(_) => Progress::Agreed,
            Stage::Refused(refusal) => Progress::Refused(refusal),
        }
    }

    /// What was found out, if it is done.
    pub fn agreed(self) -> Option<Agreed> {
        match self.stage {
            Stage::Agreed(agreed) => Some(*agreed),
            _ => None,
        }
    }

    /// Whether the other is no stranger any more: it holds the secret, or, without one, has said
    /// what it wants.
    pub fn is_proven(&self) -> bool {
        self.proven
    }

    /// What is to be sent.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// So many bytes of it were sent.
    pub fn sent(&mut self, count: usize) {
        self.output.drain(..count);
    }

    /// Bytes that are read at the most before something can be done; 0: none now.
    pub fn wanted(&self) -> usize {
        match self.stage {
            Stage::Opening => OPENING_BYTES - self.held.len(),
            Stage::Proof | Stage::Hello if self.held.len() < HEAD_BYTES => {
                HEAD_BYTES - self.held.len()
            }
            Stage::Proof | Stage::Hello => 4 + self.length() - self.held.len(),
            _ => 0,
        }
    }

    /// As the head says; it was checked.
    fn length(&self) -> usize {
        let length = self.held.first_chunk().map_or(0, |head| u32::from_le_bytes(*head));
        length as usize
    }

    /// Takes bytes in; how many of them. The rest is not the handshake's, or for after the decision.
    pub fn feed(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        loop {
            let count = self.wanted().min(bytes.len() - taken);
            if count == 0 {
                return taken;
            }
            self.held.extend_from_slice(&bytes[taken..taken + count]);
            taken += count;
            if let Err(refusal) = self.advance() {
                self.end(refusal);
            }
        }
    }

    /// The other has hung up.
    pub fn hung_up(&mut self) {
        if matches!(self.stage, Stage::Agreed(_) | Stage::Refused(_)) {
            return;
        }
        let detail = match (self.side, &self.stage) {
            (Side::Caller, Stage::Opening) => {
                "it hung up at once: its process ends, has too many callers, or is no member of a \
                 group of squall"
            }
            (Side::Caller, Stage::Proof) => {
                "it hung up on this process' proof: compare the secrets (`sha256sum` of the files)"
            }
            _ => "it hung up in the middle of the handshake",
        };
        self.end(Refusal::new(Reason::HungUp, Status::NotComplete, detail));
    }

    /// It is over, for that reason. What is in the output may still be sent.
    pub fn end(&mut self, refusal: Refusal) {
        self.held = Vec::new();
        self.stage = Stage::Refused(refusal);
    }

    /// Something has come; maybe it is whole.
    fn advance(&mut self) -> Result<(), Refusal> {
        if matches!(self.stage, Stage::Opening) {
            if !self.held.starts_with(&MAGIC[..self.held.len().min(MAGIC.len())]) {
                return Err(garbage("its first bytes are not those of squall"));
            }
            let Ok(opening) = self.held.as_slice().try_into() else { return Ok(()) };
            self.held.clear();
            return self.opened(opening);
        }
        if self.held.len() == HEAD_BYTES {
            self.check_head()?;
        }
        if self.held.len() < HEAD_BYTES || self.wanted() > 0 {
            return Ok(());
        }
        let held = std::mem::take(&mut self.held);
        let (kind, body) = (held[4], &held[HEAD_BYTES..]);
        match (&self.stage, kind) {
            (Stage::Proof, PROOF) => self.proved(body),
            (Stage::Proof, _) => Err(self.alerted()),
            _ => self.greeted(body),
        }
    }

    /// Whether such a message may come now (A3).
    fn check_head(&self) -> Result<(), Refusal> {
        let (length, kind) = (self.length(), self.held[4]);
        let mark = if self.terms.secret.is_some() { MARK_BYTES } else { 0 };
        let fits = match (&self.stage, kind) {
            (Stage::Proof, PROOF) => length == 1 + MARK_BYTES,
            (Stage::Proof, ALERT) => length == 2 && self.side == Side::Caller,
            (Stage::Hello, HELLO) => (2 + mark..=1 + HELLO_BYTES_MAX + mark).contains(&length),
            _ => false,
        };
        if fits { Ok(()) } else { Err(garbage("a message of its cannot be one of squall's")) }
    }

    fn opened(&mut self, bytes: [u8; OPENING_BYTES]) -> Result<(), Refusal> {
        let theirs = Opening::decode(bytes).ok_or_else(|| garbage("its opening is nonsense"))?;
        if theirs.bytes[16..] == self.mine.bytes[16..] {
            let detail = "this process' own bytes came back: nobody is there, or somebody plays";
            return Err(Refusal::new(Reason::Itself, Status::PeerFault, detail)); // A4
        }
        self.theirs = Some(theirs);
        if self.side == Side::Answerer {
            self.output.extend_from_slice(&self.mine.bytes); // a refusal is read from that
        }
        let (ours, others) = (self.terms.versions, theirs.versions);
        let speech = |versions| Speech { versions, wire: 0 };
        compare_versions(speech(ours), speech(others), "it")
            .map_err(|error| Refusal { reason: Reason::Versions, error })?;
        if theirs.authenticates != self.mine.authenticates {
            return Err(self.one_trusts());
        }
        if self.side == Side::Caller {
            if self.terms.secret.is_some() {
                self.send_proof();
            } else {
                self.send_hello();
            }
        }
        let authenticates = self.terms.secret.is_some();
        self.stage = if authenticates { Stage::Proof } else { Stage::Hello };
        Ok(())
    }

    fn one_trusts(&self) -> Refusal {
        let (has, trusts) = ("authenticates with a secret", "trusts the network");
        let (ours, others) = if self.mine.authenticates { (has, trusts) } else { (trusts, has) };
        let detail = format!(
            "it {others}, this process {ours}: give all members of the group the same secret, or \
             `trusted_network = true`"
        );
        Refusal::new(Reason::Trust, Status::Mismatch, detail)
    }

    /// What marks are over: both openings, the caller's first, then two parts.
    fn marked<'a>(&'a self, parts: [&'a [u8]; 2]) -> [&'a [u8]; 4] {
        let theirs = &self.theirs.as_ref().expect("it has opened").bytes;
        let (caller, answerer) = match self.side {
            Side::Caller => (&self.mine.bytes, theirs),
            Side::Answerer => (theirs, &self.mine.bytes),
        };
        [caller, answerer, parts[0], parts[1]]
    }

    fn send(&mut self, kind: u8, body: &[u8], mark: &[u8]) {
        let length = (1 + body.len() + mark.len()) as u32;
        self.output.extend_from_slice(&length.to_le_bytes());
        self.output.push(kind);
        self.output.extend_from_slice(body);
        self.output.extend_from_slice(mark);
    }

    fn send_proof(&mut self) {
        let secret = self.terms.secret.as_ref().expect("this is for those who authenticate");
        let mark = secret.mark(PROOFS[self.side as usize], &self.marked([b"", b""]));
        self.send(PROOF, &mark, b"");
    }

    /// A proof has come.
    fn proved(&mut self, proof: &[u8]) -> Result<(), Refusal> {
        let secret = self.terms.secret.as_ref().expect("this is for those who authenticate");
        let label = PROOFS[self.other() as usize];
        if !secret.verify(label, &self.marked([b"", b""]), proof) {
            if self.side == Side::Answerer {
                self.send(ALERT, &[WRONG_PROOF], b"");
            }
            let detail = "it does not hold this group's secret (its proof is wrong): a stranger, or \
                          a member with another secret file: compare them with `sha256sum`";
            return Err(Refusal::new(Reason::Proof, Status::Mismatch, detail));
        }
        self.proven = true;
        match self.side {
            Side::Caller => self.send_hello(),
            Side::Answerer => self.send_proof(),
        }
        self.stage = Stage::Hello;
        Ok(())
    }

    /// The answerer, whoever it is, says that my proof is wrong.
    fn alerted(&self) -> Refusal {
        let detail = "it does not accept this process' proof: its secret is another one, or it is no \
                      member: compare the files with `sha256sum`";
        Refusal::new(Reason::Proof, Status::Mismatch, detail)
    }

    fn other(&self) -> Side {
        if self.side == Side::Caller { Side::Answerer } else { Side::Caller }
    }

    /// My hello, and its mark.
    fn send_hello(&mut self) {
        let hello = self.hello.as_mut().expect("what is to be said");
        hello.versions = self.terms.versions;
        let body = hello.encode();
        let label = HELLOS[self.side as usize];
        let mark = match &self.terms.secret {
            Some(secret) => secret.mark(label, &self.marked([&self.asked, &body])).to_vec(),
            None => Vec::new(),
        };
        self.send(HELLO, &body, &mark);
        if self.side == Side::Caller {
            self.asked = body;
        }
    }

    /// A hello has come.
    fn greeted(&mut self, message: &[u8]) -> Result<(), Refusal> {
        let mut body = message;
        if let Some(secret) = &self.terms.secret {
            let (said, mark) = message.split_at(message.len() - MARK_BYTES); // of that length (A3)
            let label = HELLOS[self.other() as usize];
            if !secret.verify(label, &self.marked([&self.asked, said]), mark) {
                let detail = "what it said was changed on the way";
                return Err(Refusal::new(Reason::Proof, Status::PeerFault, detail));
            }
            body = said;
        }
        let theirs = Hello::decode(body).ok_or_else(|| garbage("its hello is nonsense"))?;
        if theirs.versions != self.theirs.as_ref().expect("it has opened").versions {
            return Err(garbage("its hello says other versions than its opening"));
        }
        self.proven = true;
        match self.side {
            Side::Caller => self.answered(theirs, body),
            Side::Answerer => {
                self.asked = body.to_vec();
                self.asked_by(theirs)
            }
        }
    }

    /// The answerer's look at what is wanted.
    fn asked_by(&mut self, theirs: Hello) -> Result<(), Refusal> {
        let me = self.terms.incarnation;
        let mut refused = None;
        if matches!(theirs.kind, Kind::Welcome | Kind::Refuse) {
            return Err(garbage("it answers where it should ask"));
        }
        let who = format!("process {}", theirs.pid);
        if me != 0 && theirs.incarnation == me {
            let detail = "this is the calling process itself";
            refused = Some(Refusal::new(Reason::Itself, Status::InUse, detail)); // A4
        } else if let Err(error) = hello::same_group(&self.terms.group, &theirs, &who) {
            refused = Some(Refusal { reason: Reason::Group, error });
        }
        let Some(refusal) = refused else {
            self.stage = Stage::Asked(theirs);
            return Ok(());
        };
        let mine = Hello::new(Kind::Refuse, &self.terms.group, u16::MAX, me, "");
        let (status, sentence) = (refusal.error.status, refusal.error.detail.clone());
        self.say(mine.refusal(status, &sentence));
        Err(refusal)
    }

    /// The caller's look at the answer.
    fn answered(&mut self, theirs: Hello, body: &[u8]) -> Result<(), Refusal> {
        let mine = self.hello.as_ref().expect("it has asked");
        let me = self.terms.incarnation;
        if me != 0 && theirs.incarnation == me {
            let detail = "this address is that of the calling process itself";
            return Err(Refusal::new(Reason::Itself, Status::InUse, detail)); // A4
        }
        let reason = Reason::Group;
        hello::same_group(&mine.group, &theirs, "it").map_err(|error| Refusal { reason, error })?;
        let reason = Reason::Refused;
        match (theirs.kind, &theirs.refusal) {
            (Kind::Welcome, _) => {}
            (Kind::Refuse, Some((status, sentence))) => {
                if !theirs.config.is_empty() {
                    // In my own words what differs.
                    hello::compare(mine, &theirs, "it")
                        .map_err(|error| Refusal { reason, error })?;
                }
                let status = Status::from_code(*status).filter(|status| *status != Status::Ok);
                let status = status.unwrap_or(Status::System);
                return Err(Refusal::new(reason, status, format!("it says no: {sentence}")));
            }
            _ => return Err(garbage("its answer is none")),
        }
        self.agree(theirs, body);
        Ok(())
    }

    /// Both have said what they are. `answer`: the body of the answerer's hello.
    fn agree(&mut self, peer: Hello, answer: &[u8]) {
        let versions = self.theirs.as_ref().expect("it has opened").versions;
        let wire = Versions::common([self.terms.versions, versions]).expect("that was checked");
        let key = |side: Side| {
            let secret = self.terms.secret.as_ref()?;
            Some(secret.mark(KEYS[side as usize], &self.marked([&self.asked, answer])))
        };
        let keys = key(self.side).zip(key(self.other()));
        let keys = keys.map(|(send, receive)| Keys { send, receive });
        self.stage = Stage::Agreed(Box::new(Agreed { peer, keys, wire, versions }));
    }

    /// The answerer says yes; `hello` is made a welcome.
    ///
    /// Errors: `Invalid`: the hello cannot be said; nothing has happened. Panics if nobody has asked.
    pub fn welcome(&mut self, hello: &Hello) -> Result<(), Error> {
        let versions = self.terms.versions;
        let welcome = Hello { kind: Kind::Welcome, refusal: None, versions, ..hello.clone() };
        welcome.check()?;
        let stage = std::mem::replace(&mut self.stage, Stage::Hello);
        let Stage::Asked(theirs) = stage else { panic!("nobody has asked") };
        let body = welcome.encode();
        self.say(welcome);
        self.agree(theirs, &body);
        Ok(())
    }

    /// The answerer says no, and why; `hello`: mine, so that the other can compare. Panics if nobody
    /// has asked.
    pub fn refuse(&mut self, hello: &Hello, status: Status, sentence: &str) {
        assert!(matches!(self.stage, Stage::Asked(_)), "nobody has asked");
        let mut refusal = hello.refusal(status, sentence);
        if refusal.check().is_err() {
            refusal = Hello { config: String::new(), ..refusal };
        }
        self.say(refusal);
        self.end(Refusal::new(Reason::Refused, status, sentence));
    }

    fn say(&mut self, hello: Hello) {
        self.hello = Some(hello);
        self.send_hello();
    }
}

/// By side: the caller's, the answerer's.
const PROOFS: [&str; 2] = ["caller's proof", "answerer's proof"];
const HELLOS: [&str; 2] = ["caller's hello", "answerer's hello"];
const KEYS: [&str; 2] = ["caller's records", "answerer's records"];

fn garbage(detail: &str) -> Refusal {
    Refusal::new(Reason::Garbage, Status::PeerFault, detail)
}

#[cfg(test)]
mod tests;
