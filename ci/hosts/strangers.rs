// SPDX-License-Identifier: MIT OR Apache-2.0
//! Strangers at the doors of members that run: each is refused, said once in the log, and the messages
//! go on meanwhile.

use crate::PACE_US;
use crate::check::Check;
use crate::deep;
use crate::member::Cluster;
use crate::net::Net;
use crate::support::sites::Sites;
use crate::support::{Arguments, Numbers, Process, until};
use squall::fabric::tcp::handshake::{Handshake, Progress, Terms, Versions};
use squall::fabric::tcp::hello::{Hello, Kind};
use squall::fabric::tcp::secret::{Secret, random};
use squall::fabric::tcp::terms::REASONS;
use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

/// What a stranger does, and what is said of it.
const VISITS: [(&str, &str); 8] = [
    ("garbage", "its first bytes are not those of squall"),
    ("http", "its first bytes are not those of squall"),
    ("version", "it speaks wire versions 7 to 9"),
    ("proof", "its proof is wrong"),
    ("trust", "it trusts the network"),
    ("group", "belongs to group `another`"),
    ("config", "another configuration"),
    ("replay", "its proof is wrong"),
];
/// How often, at each door.
const TIMES: usize = 10;
/// Callers without a proof that a door lets wait, and for how long: `door::Limits`.
const WAIT_MAX: usize = 64;
/// Messages of each member after which they have gone on.
const SOME: u64 = 200;

/// The role: arguments what, count, targets, group, secret.
pub fn stranger(arguments: &Arguments) {
    let what = arguments.text("what").unwrap();
    let count: usize = arguments.or("count", 1);
    let targets: Vec<&str> = arguments.text("targets").unwrap().split(',').collect();
    match what {
        "silent" | "loris" | "crowd" => stay(what == "loris", count, &targets),
        _ => {
            let visitor = Visitor::new(what, arguments);
            let all = targets.iter().flat_map(|target| std::iter::repeat_n(target, count));
            let heard = all.filter(|target| visitor.visit(target)).count();
            println!("refused {}", targets.len() * count - heard);
        }
    }
}

fn connect(target: &str) -> TcpStream {
    let stream = TcpStream::connect(target).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Holds connections, and says how many are left when it is asked; to some it says a byte now and then.
fn stay(speaks: bool, count: usize, targets: &[&str]) {
    let all = targets.iter().flat_map(|target| std::iter::repeat_n(target, count));
    let mut held: Vec<TcpStream> = all.map(|target| connect(target)).collect();
    held.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
    println!("there {}", held.len());
    let (ask, asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        std::io::stdin().lock().lines().map_while(Result::ok).for_each(|_| ask.send(()).unwrap());
    });
    // An opening as it should be takes them longer than they have.
    let mut bytes = b"SQUALL\x01\x01\x01\x00\x01\x00".iter().chain(std::iter::repeat(&0));
    loop {
        match asked.recv_timeout(Duration::from_millis(300)) {
            Ok(()) => {
                let mut part = [0; 256];
                let stays = |outcome: std::io::Result<usize>| match outcome {
                    Ok(count) => count > 0,
                    Err(cause) => cause.kind() == ErrorKind::WouldBlock,
                };
                held.retain_mut(|stream| stays(stream.read(&mut part)));
                println!("held {}", held.len());
            }
            Err(RecvTimeoutError::Timeout) => {
                let byte = [*bytes.next().expect("without end")];
                held.retain_mut(|stream| !speaks || stream.write(&byte).is_ok());
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

struct Visitor<'a> {
    what: &'a str,
    terms: Arc<Terms>,
    hello: Hello,
}

impl<'a> Visitor<'a> {
    fn new(what: &'a str, arguments: &Arguments) -> Visitor<'a> {
        let own = || Secret::from_file(Path::new(arguments.text("secret").unwrap())).unwrap();
        let secret = match what {
            "trust" => None,
            "proof" => Some(Secret::from_bytes(&random::<32>().unwrap(), "a test").unwrap()),
            _ => Some(own()),
        };
        let group = match what {
            "group" => "another",
            _ => arguments.text("group").unwrap(),
        };
        let versions = match what {
            "version" => Versions { min: 7, max: 9 },
            _ => Versions::OURS,
        };
        // Who only asks is asked for no configuration.
        let kind = if what == "config" { Kind::Enter } else { Kind::Probe };
        let incarnation = u64::from_le_bytes(random().unwrap());
        let terms = Terms { group: group.into(), secret, versions, incarnation };
        let hello = Hello::new(kind, group, 9, incarnation, "members=99\n");
        Visitor { what, terms: Arc::new(terms), hello }
    }

    /// Whether it was welcomed.
    fn visit(&self, target: &str) -> bool {
        let mut stream = connect(target);
        match self.what {
            "garbage" => {
                let mut numbers = Numbers(u64::from_le_bytes(random().unwrap()));
                let bytes: Vec<u8> = (0..10_000).map(|_| numbers.word() as u8).collect();
                let _ = stream.write_all(&bytes);
                ends(stream)
            }
            "http" => {
                let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n");
                ends(stream)
            }
            "replay" => {
                // Of one that is of the group, but for its configuration.
                let (_, said) = self.shake(&mut stream);
                let mut again = connect(target);
                let _ = again.write_all(&said);
                ends(again)
            }
            _ => self.shake(&mut stream).0,
        }
    }

    /// A handshake, and all that was said in it.
    fn shake(&self, stream: &mut TcpStream) -> (bool, Vec<u8>) {
        let nonce = random().unwrap();
        let mut side = Handshake::call(self.terms.clone(), self.hello.clone(), nonce).unwrap();
        let mut said = Vec::new();
        let mut part = [0; 4096];
        loop {
            let output = side.output().to_vec();
            if !output.is_empty() {
                said.extend_from_slice(&output);
                if stream.write_all(&output).is_err() {
                    return (false, said);
                }
                side.sent(output.len());
            }
            match side.progress() {
                Progress::Agreed => return (true, said),
                Progress::Refused(_) => return (false, said),
                _ => {}
            }
            let wanted = side.wanted().min(part.len());
            match stream.read(&mut part[..wanted]) {
                Ok(0) => side.hung_up(),
                Ok(count) => drop(side.feed(&part[..count])),
                Err(cause) if cause.kind() == ErrorKind::WouldBlock => panic!("it is kept waiting"),
                Err(_) => side.hung_up(),
            }
        }
    }
}

/// Until the other side hangs up; `false`: it is no welcome.
fn ends(mut stream: TcpStream) -> bool {
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => panic!("it is kept waiting"),
            Err(_) => return false,
        }
    }
}

/// The members, and what they have said of callers.
struct Street {
    cluster: Cluster,
    net: Option<Net>,
    notes: Vec<Vec<String>>,
}

impl Street {
    fn start(&self, what: &str, count: usize) -> Process {
        let targets = self.cluster.sites.addresses(1..=3);
        let secret = self.cluster.sites.secret(&self.cluster.folder);
        let (group, place) = (&self.cluster.group, self.net.as_ref().map(|net| net.name(3)));
        let arguments: crate::member::More<'_> = &[
            ("what", &what),
            ("count", &count),
            ("targets", &targets),
            ("group", &group),
            ("secret", &secret),
        ];
        Process::start_in(place, "stranger", arguments)
    }

    /// How many of its own messages a member has delivered.
    fn own(&mut self, at: usize) -> u64 {
        let process = &mut self.cluster.members[at].process;
        process.say("own");
        loop {
            let line = process.line().expect("it goes on");
            if let Some(count) = line.strip_prefix("own ") {
                return count.parse().unwrap();
            }
            assert!(!line.starts_with("view") && !line.starts_with("over"), "{line}");
            if let Some((_, what)) = line.split_once("refused a caller at ") {
                let (_, what) = what.split_once(": ").unwrap();
                self.notes[at].push(what.into());
            }
        }
    }

    /// Every one delivers more, and has all that was said until now noted.
    fn goes_on(&mut self) {
        for at in 0..3 {
            let before = self.own(at);
            until("its messages go on", || self.own(at) >= before + SOME);
        }
    }

    /// How many connections the strangers have left.
    fn held(process: &mut Process) -> usize {
        std::thread::sleep(Duration::from_millis(20));
        process.say("how many?");
        process.expect("held").parse().unwrap()
    }

    fn count(&self) -> usize {
        self.notes.iter().map(Vec::len).sum()
    }

    /// Comes twice: what was said of it is not said again.
    fn visits(&mut self, what: &str, words: &str) {
        for again in [false, true] {
            let before = self.count();
            let mut process = self.start(what, TIMES);
            self.goes_on();
            assert_eq!(process.expect("refused"), (3 * TIMES).to_string(), "{what}");
            self.goes_on();
            assert!(!again || self.count() == before, "{what}: {:?}", self.notes);
        }
        let said = |notes: &Vec<String>| notes.iter().any(|note| note.contains(words));
        assert!(self.notes.iter().all(said), "{what}: {:?}", self.notes);
    }
}

pub fn strangers_at_the_doors() -> String {
    let net = Net::new(4);
    let sites = match &net {
        Some(net) => Sites::on(net.hosts()[..3].to_vec()),
        None => Sites::here("tcp".into()),
    };
    let mut cluster = Cluster::to_be("strangers", 3, "park", PACE_US, sites);
    (0..3).for_each(|rank| cluster.add(rank, false, &[("notes", &true)]));
    cluster.settle();
    let mut street = Street { cluster, net, notes: vec![Vec::new(); 3] };
    let quiet = [street.start("silent", 4), street.start("loris", 4)];
    let mut quiet = quiet.map(|mut process| {
        assert_eq!(process.expect("there"), "12");
        process
    });
    street.goes_on();
    let held: usize = quiet.iter_mut().map(Street::held).sum();
    VISITS.iter().for_each(|(what, words)| street.visits(what, words));
    if deep() {
        for process in &mut quiet {
            until("who says little is hung up on", || Street::held(process) == 0);
        }
        street.goes_on();
    }
    // More than may wait: the oldest go.
    let mut crowd = street.start("crowd", 3 * WAIT_MAX);
    crowd.expect("there");
    street.goes_on();
    until("some are hung up on", || Street::held(&mut crowd) <= 3 * WAIT_MAX);
    street.goes_on();
    // Members come in beside them.
    street.cluster.join();
    street.cluster.settle();
    drop(crowd);
    let Street { mut cluster, mut notes, .. } = street;
    notes.iter_mut().for_each(|notes| each_once(notes));
    cluster.delivers();
    cluster.rest();
    let text = Check::of(&cluster).run();
    cluster.leave_all();
    let said = notes[0].join("\n");
    format!("{held} of 24 quiet ones held beside it; {text}\n{said}")
}

/// Whatever was said was said once.
fn each_once(notes: &mut [String]) {
    let words = |note: &String| note.replace(|c: char| c.is_ascii_digit(), "");
    notes.sort_by_key(words);
    let differ = notes.windows(2).all(|pair| words(&pair[0]) != words(&pair[1]));
    assert!(differ && notes.len() <= REASONS, "each once: {notes:#?}");
    let said = |what: &str| notes.iter().any(|note| note.contains(what));
    assert!(said("callers wait here without a proof"), "a crowd: {notes:#?}");
    assert!(!deep() || said("it proved nothing within"), "the slow: {notes:#?}");
}
