// SPDX-License-Identifier: MIT OR Apache-2.0
//! The door of a member: who knocks says a `Hello`, with descriptors; who opens answers with one.
//!
//! A hello is text, one `key=value` a line, then the configuration, one line per figure, so that two
//! members that do not fit can say in which line:
//!
//! ```text
//! squall 1
//! kind=join          (join, enter, stat, probe; the answer: welcome, or refuse)
//! rank=2             (where views change: the seat, which is a founder's first rank)
//! pid=4711
//! parks=1
//! incarnation=…      (with enter and its welcome)
//! doors=HOST:PORT,…  (likewise: where other hosts reach it, if they do)
//! text=…             (with refuse: the status and the sentence)
//! config:
//! members=3
//! subgroup.0=…
//! ```
//!
//! D1  Only processes of this user are answered, or of those that the configuration says (`peers`).
//!     Others are told why; of each user, one is said in the log.
//! D2  A visitor that says nothing, or nonsense, costs one descriptor for as long as it stays; at
//!     most `VISITORS_MAX` wait, the oldest leaves first. Nobody else waits for it.

use super::peers::{Circle, Stranger};
use super::socket::{Parcel, Socket};
use crate::error::{Error, Status};
use crate::limits::WIRE_VERSION;
use crate::log_sink::{Level, say};
use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};

const VISITORS_MAX: usize = 64;
/// Users whose refusal is said in the log.
const TOLD_MAX: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// One of the first members.
    Join,
    /// Somebody who wants to be joined to a group that runs.
    Enter,
    Stat,
    Probe,
    Welcome,
    Refuse,
}

const KINDS: [(Kind, &str); 6] = [
    (Kind::Join, "join"),
    (Kind::Enter, "enter"),
    (Kind::Stat, "stat"),
    (Kind::Probe, "probe"),
    (Kind::Welcome, "welcome"),
    (Kind::Refuse, "refuse"),
];

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    pub kind: Kind,
    pub wire: u32,
    pub rank: u16,
    pub pid: u32,
    /// Whether this member ever sleeps, so that peers must look whether to ring.
    pub parks: bool,
    /// 0: not told.
    pub incarnation: u64,
    /// Where processes on other hosts reach it: addresses, parted by commas; may be empty.
    pub doors: String,
    /// With `Refuse`: why. The status' number and a sentence.
    pub refusal: Option<(i32, String)>,
    pub config: String,
}

impl Hello {
    pub fn new(kind: Kind, rank: u16, parks: bool, config: &str) -> Hello {
        let pid = std::process::id();
        let (wire, config) = (WIRE_VERSION, config.into());
        let doors = String::new();
        Hello { kind, wire, rank, pid, parks, incarnation: 0, doors, refusal: None, config }
    }

    pub fn encode(&self) -> Vec<u8> {
        let kind = KINDS.iter().find(|(kind, _)| *kind == self.kind).map_or("", |(_, text)| text);
        let mut text = format!(
            "squall {}\nkind={kind}\nrank={}\npid={}\nparks={}\n",
            self.wire,
            self.rank,
            self.pid,
            u8::from(self.parks)
        );
        if self.incarnation != 0 {
            text.push_str(&format!("incarnation={}\n", self.incarnation));
        }
        if !self.doors.is_empty() {
            text.push_str(&format!("doors={}\n", self.doors));
        }
        if let Some((status, sentence)) = &self.refusal {
            let sentence = sentence.replace('\n', " ");
            text.push_str(&format!("text={status} {sentence}\n"));
        }
        text.push_str("config:\n");
        text.push_str(&self.config);
        text.into_bytes()
    }

    /// `None`: nonsense. A hello of another wire version is understood as far as this line.
    pub fn decode(bytes: &[u8]) -> Option<Hello> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (first, rest) = text.split_once('\n')?;
        let wire = first.strip_prefix("squall ")?.parse().ok()?;
        let mut hello = Hello::new(Kind::Probe, u16::MAX, false, "");
        hello.wire = wire;
        if wire != WIRE_VERSION {
            return Some(hello);
        }
        let (head, config) = rest.split_once("config:\n")?;
        hello.config = config.into();
        for line in head.lines() {
            let (key, value) = line.split_once('=')?;
            match key {
                "kind" => hello.kind = KINDS.iter().find(|(_, text)| *text == value)?.0,
                "rank" => hello.rank = value.parse().ok()?,
                "pid" => hello.pid = value.parse().ok()?,
                "parks" => hello.parks = value == "1",
                "incarnation" => hello.incarnation = value.parse().ok()?,
                "doors" => hello.doors = value.into(),
                "text" => {
                    let (status, sentence) = value.split_once(' ')?;
                    hello.refusal = Some((status.parse().ok()?, sentence.into()));
                }
                _ => {}
            }
        }
        Some(hello)
    }
}

/// Someone who has knocked and said hello.
#[derive(Debug)]
pub struct Visitor {
    pub socket: Socket,
    pub hello: Hello,
    pub descriptors: Vec<OwnedFd>,
    /// Why some descriptors are missing: this process may not have them.
    pub short: Option<Error>,
}

/// The listening socket and those who have not said hello yet.
#[derive(Debug)]
pub struct Door {
    /// `None`: closed for good.
    pub listener: Option<Socket>,
    waiting: VecDeque<Socket>,
    circle: Circle,
    /// Users that were refused, as far as that has been said.
    told: Vec<u32>,
    /// Why somebody who knocked could not be let in.
    pub trouble: Option<Error>,
}

/// The socket name of a rank of a group.
pub fn socket_name(group: &str, rank: u16) -> String {
    format!("squall/{group}/{rank}")
}

impl Door {
    /// For processes of this user only.
    pub fn new(listener: Socket) -> Door {
        Door::of(listener, Circle::own())
    }

    /// For those of that circle.
    pub fn of(listener: Socket, circle: Circle) -> Door {
        let (waiting, told) = (VecDeque::new(), Vec::new());
        Door { listener: Some(listener), waiting, circle, told, trouble: None }
    }

    /// Nobody is answered any more, and the name is free; whoever waits hears of a hang-up.
    pub fn close(&mut self) {
        self.listener = None;
        self.waiting.clear();
    }

    /// Lets everybody in who has said hello; drops who has hung up or is nobody of ours (D1, D2).
    /// Sockets that knocked newly are shown to `arrived`, so that the caller can watch them.
    pub fn visitors(
        &mut self,
        mut arrived: impl FnMut(&Socket) -> Result<(), Error>,
    ) -> Vec<Visitor> {
        for _ in 0..VISITORS_MAX {
            let Some(listener) = &self.listener else { break };
            let accepted = listener.accept().unwrap_or_else(|trouble| {
                self.trouble = Some(trouble);
                None
            });
            let Some(socket) = accepted else { break };
            if let Err(stranger) = self.circle.admits(&socket) {
                self.tell(&stranger);
                refuse(&socket, Status::ForeignOwner, &stranger.is_told(), "");
                continue;
            }
            if let Err(trouble) = arrived(&socket) {
                self.trouble = Some(trouble); // it hears of a hang-up, and may call again
                continue;
            }
            self.waiting.push_back(socket);
            if self.waiting.len() > VISITORS_MAX {
                self.waiting.pop_front();
            }
        }
        let mut visitors = Vec::new();
        for _ in 0..self.waiting.len() {
            let Some(socket) = self.waiting.pop_front() else { break };
            match socket.receive_parcel() {
                None => self.waiting.push_back(socket),
                Some(None) => {}
                Some(Some(Parcel { bytes, descriptors, short })) => match Hello::decode(&bytes) {
                    Some(hello) => visitors.push(Visitor { socket, hello, descriptors, short }),
                    None => refuse(&socket, Status::Invalid, "that was no hello", ""),
                },
            }
        }
        visitors
    }

    fn tell(&mut self, stranger: &Stranger) {
        if self.told.len() < TOLD_MAX && !self.told.contains(&stranger.uid) {
            self.told.push(stranger.uid);
            say(Level::Warning, &format!("at the door of a group, {}", stranger.is_logged()));
        }
    }
}

/// Says no, and why. `config`: mine, so that the other can compare. The last word: to close a
/// connection with something unread would take the refusal back.
pub fn refuse(socket: &Socket, status: Status, sentence: &str, config: &str) {
    socket.deafen();
    let mut hello = Hello::new(Kind::Refuse, u16::MAX, false, config);
    hello.refusal = Some((status as i32, sentence.into()));
    socket.send(&hello.encode(), &[]);
}

/// Says yes.
pub fn welcome(visitor: &Visitor, hello: &Hello, descriptors: &[BorrowedFd<'_>]) -> bool {
    visitor.socket.send(&hello.encode(), descriptors)
}

/// Whether two members fit each other; if not, the sentence that names both values.
pub fn compare(mine: &Hello, theirs: &Hello, who: &str) -> Result<(), Error> {
    if mine.wire != theirs.wire {
        let (mine, theirs) = (mine.wire, theirs.wire);
        let detail = format!(
            "{who} speaks wire version {theirs}, this library speaks {mine}: use one version of \
             squall in all members"
        );
        return Err(Error::new(Status::WireVersion, detail));
    }
    compare_configs(&mine.config, &theirs.config, who)
}

/// Whether two configurations fit each other; if not, the sentence with the first lines that differ.
pub fn compare_configs(mine: &str, theirs: &str, who: &str) -> Result<(), Error> {
    if mine == theirs {
        return Ok(());
    }
    let lines = |text: &str| text.lines().map(String::from).collect::<Vec<_>>();
    let (ours, others) = (lines(mine), lines(theirs));
    let absent = || String::from("nothing");
    let at = (0..ours.len().max(others.len())).find(|&at| ours.get(at) != others.get(at));
    let at = at.unwrap_or(0);
    let ours = ours.get(at).cloned().unwrap_or_else(absent);
    let others = others.get(at).cloned().unwrap_or_else(absent);
    let detail = format!(
        "the group runs with another configuration: {who} has `{others}` where this process \
         has `{ours}`: open it with the same attributes everywhere, or choose another name"
    );
    Err(Error::new(Status::Mismatch, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_survives_its_text() {
        let mut hello = Hello::new(Kind::Refuse, 3, true, "members=3\nsubgroup.0=all\n");
        hello.refusal = Some((-34, "two\nlines".into()));
        let decoded = Hello::decode(&hello.encode()).unwrap();
        assert_eq!(decoded.refusal, Some((-34, "two lines".into())));
        assert_eq!((decoded.rank, decoded.parks, decoded.kind), (3, true, Kind::Refuse));
        assert_eq!(decoded.config, hello.config);
    }

    #[test]
    fn nonsense_is_no_hello() {
        for bytes in
            [&b""[..], b"squall", b"squall x\n", b"\xff\xfe\n", b"squall 1\nkind=x\nconfig:\n"]
        {
            assert_eq!(Hello::decode(bytes), None, "{bytes:?}");
        }
        assert_eq!(Hello::decode(b"squall 9\nwhatever").unwrap().wire, 9);
    }

    #[test]
    fn a_mismatch_names_both_values() {
        let mine = Hello::new(Kind::Join, 0, false, "members=3\nwindow=8\n");
        let theirs = Hello::new(Kind::Join, 1, false, "members=3\nwindow=9\n");
        let error = compare(&mine, &theirs, "rank 1").unwrap_err();
        assert_eq!(error.status, Status::Mismatch);
        assert!(error.detail.contains("`window=9`") && error.detail.contains("`window=8`"));
    }

    /// A hello that nobody reads came while the door closed: the visitor heard of a hang-up only.
    #[test]
    fn a_refusal_is_heard_by_who_speaks_at_once() {
        let name = format!("squall/refusal-{}/0", std::process::id());
        let listener = Socket::listen(&name).unwrap().unwrap();
        for unread in 0..3 {
            let visitor = Socket::connect(&name).unwrap().unwrap();
            (0..unread).for_each(|_| assert!(visitor.send(b"hello", &[])));
            let socket = listener.accept().unwrap().unwrap();
            refuse(&socket, Status::ForeignOwner, "no", "");
            assert!(!visitor.send(b"too late", &[]));
            drop(socket);
            let (bytes, _) = visitor.receive().unwrap().expect("the refusal");
            let refusal = Hello::decode(&bytes).unwrap().refusal;
            assert_eq!(refusal, Some((Status::ForeignOwner as i32, "no".into())));
        }
    }
}
