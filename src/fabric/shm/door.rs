// SPDX-License-Identifier: MIT OR Apache-2.0
//! The door of a member: who knocks says a `Hello`, with descriptors; who opens answers with one.
//!
//! A hello is text, one `key=value` a line, then the configuration, one line per figure, so that two
//! members that do not fit can say in which line:
//!
//! ```text
//! squall 1           (the wire versions that it speaks: one, or from which to which, as in 1-2)
//! kind=join          (join, enter, stat, probe; the answer: welcome, or refuse)
//! rank=2             (where views change: the seat, which is a founder's first rank)
//! pid=4711
//! parks=1
//! wire=1             (the version that the group runs at, if it runs)
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
//! D3  What is said can be quoted in a line of the log: it has no control characters but ends of lines.

use super::peers::{Circle, Stranger};
use super::socket::{Parcel, Socket};
use crate::base::Versions;
use crate::error::{Error, Status};
pub use crate::fabric::greeting::{Kind, compare_configs};
use crate::fabric::greeting::{Speech, compare_versions, parts, refusal};
use crate::log_sink::{Level, say};
use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};

const VISITORS_MAX: usize = 64;
/// Users whose refusal is said in the log.
const TOLD_MAX: usize = 16;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    pub kind: Kind,
    pub versions: Versions,
    /// The version that the group runs at; 0: it does not run yet.
    pub wire: u16,
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
        let (versions, wire, config) = (Versions::OURS, 0, config.into());
        let (incarnation, doors, refusal) = (0, String::new(), None);
        Hello { kind, versions, wire, rank, pid, parks, incarnation, doors, refusal, config }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut text = format!(
            "squall {}\nkind={}\nrank={}\npid={}\nparks={}\n",
            self.versions.text(),
            self.kind.text(),
            self.rank,
            self.pid,
            u8::from(self.parks)
        );
        if self.wire != 0 {
            text.push_str(&format!("wire={}\n", self.wire));
        }
        if self.incarnation != 0 {
            text.push_str(&format!("incarnation={}\n", self.incarnation));
        }
        if !self.doors.is_empty() {
            text.push_str(&format!("doors={}\n", self.doors));
        }
        if let Some((status, sentence)) = &self.refusal {
            let sentence = sentence.replace(char::is_control, " ");
            text.push_str(&format!("text={status} {sentence}\n"));
        }
        text.push_str("config:\n");
        text.push_str(&self.config);
        text.into_bytes()
    }

    /// `None`: nonsense. A hello whose versions are all others is understood as far as these.
    pub fn decode(bytes: &[u8]) -> Option<Hello> {
        let text = std::str::from_utf8(bytes).ok()?;
        if text.chars().any(|c| c.is_control() && c != '\n') {
            return None; // D3
        }
        let (first, rest) = text.split_once('\n')?;
        let mut hello = Hello::new(Kind::Probe, u16::MAX, false, "");
        hello.versions = Versions::parse(first.strip_prefix("squall ")?)?;
        let other = Versions::common([Versions::OURS, hello.versions]).is_none();
        hello.clone().with(rest).or_else(|| other.then_some(hello))
    }

    /// The same with the lines after the first.
    fn with(mut self, rest: &str) -> Option<Hello> {
        let (head, config) = parts(rest)?;
        self.config = config.into();
        for line in head.lines() {
            let (key, value) = line.split_once('=')?;
            match key {
                "kind" => self.kind = Kind::parse(value)?,
                "rank" => self.rank = value.parse().ok()?,
                "pid" => self.pid = value.parse().ok()?,
                "parks" => self.parks = value == "1",
                "wire" => self.wire = value.parse().ok()?,
                "incarnation" => self.incarnation = value.parse().ok()?,
                "doors" => self.doors = value.into(),
                "text" => {
                    let (status, sentence) = refusal(value)?;
                    self.refusal = Some((status, sentence.into()));
                }
                _ => {}
            }
        }
        Some(self)
    }

    fn speech(&self) -> Speech {
        Speech { versions: self.versions, wire: self.wire }
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
                refuse(&socket, Status::ForeignOwner, &stranger.is_told(), None);
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
                    None => refuse(&socket, Status::Invalid, "that was no hello", None),
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

/// Says no, and why. `mine`: what this process says of itself, so that the other can compare. The last
/// word: to close a connection with something unread would take the refusal back.
pub fn refuse(socket: &Socket, status: Status, sentence: &str, mine: Option<&Hello>) {
    socket.deafen();
    let mut hello = Hello::new(Kind::Refuse, u16::MAX, false, "");
    if let Some(mine) = mine {
        (hello.versions, hello.wire) = (mine.versions, mine.wire);
        hello.config = mine.config.clone();
    }
    hello.refusal = Some((status as i32, sentence.into()));
    socket.send(&hello.encode(), &[]);
}

/// Says yes.
pub fn welcome(visitor: &Socket, hello: &Hello, descriptors: &[BorrowedFd<'_>]) -> bool {
    visitor.send(&hello.encode(), descriptors)
}

/// Whether two members fit each other; if not, the sentence that names both values.
pub fn compare(mine: &Hello, theirs: &Hello, who: &str) -> Result<(), Error> {
    compare_versions(mine.speech(), theirs.speech(), who)?;
    compare_configs(&mine.config, &theirs.config, who)
}

#[cfg(test)]
mod tests {
    use super::super::socket::tests::connected;
    use super::*;
    use proptest::prelude::*;
    use std::fs::File;
    use std::os::fd::{AsFd, AsRawFd};

    #[test]
    fn a_hello_survives_its_text() {
        let mut hello = Hello::new(Kind::Refuse, 3, true, "members=3\nsubgroup.0=all\n");
        hello.refusal = Some((-34, "two\nlines".into()));
        (hello.versions, hello.wire) = (Versions { min: 1, max: 2 }, 2);
        let decoded = Hello::decode(&hello.encode()).unwrap();
        assert_eq!(decoded.refusal, Some((-34, "two lines".into())));
        assert_eq!((decoded.rank, decoded.parks, decoded.kind), (3, true, Kind::Refuse));
        assert_eq!(decoded.config, hello.config);
        assert_eq!((decoded.versions.text().as_str(), decoded.wire), ("1-2", 2));
    }

    #[test]
    fn nonsense_is_no_hello() {
        for bytes in
            [&b""[..], b"squall", b"squall x\n", b"\xff\xfe\n", b"squall 1\nkind=x\nconfig:\n"]
        {
            assert_eq!(Hello::decode(bytes), None, "{bytes:?}");
        }
        let later = Versions { min: 9, max: 11 };
        assert_eq!(Hello::decode(b"squall 9-11\nwhatever").unwrap().versions, later);
        assert_eq!(Hello::decode(b"squall 1-9\nwhatever"), None, "this can be read");
    }

    /// A configuration of another process' went into the log as it was, with whatever a terminal makes of it.
    #[test]
    fn nothing_said_at_the_door_moves_a_terminal() {
        let mut hello = Hello::new(Kind::Join, 0, false, "members=3\n\x1b[2J\n");
        assert_eq!(Hello::decode(&hello.encode()), None);
        hello.config = "members=3\n".into();
        hello.refusal = Some((-34, "two\r\n\x1b[2Jlines".into()));
        let refusal = Hello::decode(&hello.encode()).unwrap().refusal;
        assert_eq!(refusal, Some((-34, "two   [2Jlines".into())));
    }

    /// A line of a hello, mostly as it is said.
    fn line() -> impl Strategy<Value = String> {
        let key = "(kind|rank|pid|parks|wire|incarnation|doors|text|[a-z]{0,4})";
        let value = "(join|enter|probe|1-2|[0-9]{1,21}|-3[0-9] [a-z ]{0,9}|a:1,b:2|.{0,12})";
        prop_oneof![
            6 => (key, value).prop_map(|(key, value)| format!("{key}={value}\n")),
            1 => Just("config:\n".to_string()),
            1 => ".{0,12}\n?",
        ]
    }

    proptest! {
        #![proptest_config(crate::fabric::tcp::session::cases(1_000))]

        /// Whatever a process of this host says at the door: a hello that can be compared, or none.
        #[test]
        fn fuzz_anything_said_is_a_hello_or_none(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            versions in "(1|1-2|2-1|9-11|0|65536|[0-9]{0,9}(-[0-9]{0,6})?)",
            lines in prop::collection::vec(line(), 0..8),
            config in "(config:\n)?(.{0,9}\n){0,3}",
        ) {
            let mine = Hello::new(Kind::Join, 0, false, "members=3\nwindow=8\n");
            let text = format!("squall {versions}\n{}{config}", lines.concat());
            for bytes in [&bytes[..], &[b"squall 1\n", &bytes[..]].concat(), text.as_bytes()] {
                let Some(hello) = Hello::decode(bytes) else { continue };
                prop_assert!(hello.versions.is_sound());
                if let Err(differs) = compare(&mine, &hello, "it") {
                    prop_assert!(matches!(differs.status, Status::Mismatch | Status::WireVersion));
                    prop_assert!(!differs.detail.chars().any(char::is_control), "{}", differs);
                }
                prop_assert!(Hello::decode(&hello.encode()).is_some());
            }
        }
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
            refuse(&socket, Status::ForeignOwner, "no", None);
            assert!(!visitor.send(b"too late", &[]));
            drop(socket);
            let (bytes, _) = visitor.receive().unwrap().expect("the refusal");
            let refusal = Hello::decode(&bytes).unwrap().refusal;
            assert_eq!(refusal, Some((Status::ForeignOwner as i32, "no".into())));
        }
    }

    /// A stranger's descriptors were received to be dropped, and closing one ends all `fcntl` locks of
    /// this process on its file: it could be an application's data base. Or it waits for who serves the
    /// file, which may be the stranger.
    #[test]
    fn what_a_stranger_shows_is_not_taken() {
        let path = std::env::temp_dir().join(format!("squall-locked-{}", std::process::id()));
        let open = || File::options().read(true).write(true).create(true).open(&path).unwrap();
        let (mine, other) = (open(), open());
        let lock = |of: &File, command: i32| {
            // SAFETY: zero is a value of every field.
            let mut lock: libc::flock = unsafe { std::mem::zeroed() };
            lock.l_type = libc::F_WRLCK as _;
            // SAFETY: the lock lives as long as the call.
            assert_eq!(unsafe { libc::fcntl(of.as_raw_fd(), command, &mut lock) }, 0);
            i32::from(lock.l_type)
        };
        lock(&mine, libc::F_SETLK);
        let is_locked = || lock(&other, libc::F_OFD_GETLK) == libc::F_WRLCK;
        assert!(is_locked());
        let (socket, visitor) = connected();
        (0..3).for_each(|_| assert!(visitor.send(b"hello", &[other.as_fd()])));
        refuse(&socket, Status::ForeignOwner, "no", None);
        assert!(is_locked(), "a stranger's descriptor was closed here");
        drop(socket);
        let (bytes, _) = visitor.receive().unwrap().expect("the refusal");
        assert!(Hello::decode(&bytes).unwrap().refusal.is_some());
        std::fs::remove_file(&path).unwrap();
    }
}
