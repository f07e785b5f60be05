// SPDX-License-Identifier: MIT OR Apache-2.0
//! Strangers at the door, over real sockets on loopback. Each is refused, said once in the log, and
//! stalls nobody: an honest caller is let in beside all of them.

use super::super::address;
use super::super::call::{Call, Called, Failure};
use super::super::hello::Kind;
use super::super::secret::Secret;
use super::super::terms::Versions;
use super::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

const PATIENCE: Duration = Duration::from_secs(60);

pub fn secret(of: u8) -> Secret {
    let bytes: Vec<u8> = (0..40).map(|at| at ^ of).collect();
    Secret::from_bytes(&bytes, "a test").unwrap()
}

pub fn terms(secret: Option<Secret>, incarnation: u64) -> Arc<Terms> {
    let versions = Versions { min: 1, max: 1 };
    Arc::new(Terms { group: "demo".into(), secret, versions, incarnation })
}

pub fn open(at: &str, terms: &Arc<Terms>, limits: Limits) -> Door {
    Door::open(&address::parse_list(at, None).unwrap(), terms.clone(), limits).unwrap()
}

/// A fabric that has a door goes from the thread that opens a group to the one that polls it.
const _: fn() = || {
    fn may_go<T: Send>() {}
    may_go::<(Door, Call, Session, Visitor, address::Lookup)>();
};

fn door(terms: &Arc<Terms>) -> Door {
    open("127.0.0.1:0", terms, Limits::default())
}

pub fn hello(terms: &Terms) -> Hello {
    Hello::new(Kind::Join, &terms.group, 1, terms.incarnation, "members=3\nwindow=8\n")
}

/// What a look of a member whose configuration is `mine` makes of its visitors.
pub fn serve(door: &mut Door, mine: &Hello, now: Instant) -> Vec<Session> {
    let mine = &Hello { incarnation: 7, ..mine.clone() };
    let mut met = Vec::new();
    for arrival in door.look(now) {
        match arrival {
            Arrival::Met(session) => met.push(*session),
            Arrival::Asks(visitor) => {
                match super::super::hello::compare(mine, &visitor.hello, &visitor.who()) {
                    Ok(()) => door.welcome(*visitor, mine).unwrap(),
                    Err(no) => door.refuse(*visitor, mine, no.status, &no.detail),
                }
            }
        }
    }
    met
}

pub fn wait_for(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "it takes too long");
        std::thread::sleep(Duration::from_micros(200));
    }
}

pub fn call(door: &Door, terms: &Arc<Terms>) -> Call {
    Call::new(door.addresses(), None, terms.clone(), hello(terms), PATIENCE)
}

/// The call and the door, until the call ends: the caller's end, and those that the door has met.
fn ring(door: &mut Door, mut call: Call) -> (Result<Session, Failure>, Vec<Session>) {
    let mine = hello(&terms(None, 0));
    let (mut outcome, mut met) = (None, Vec::new());
    wait_for(|| {
        met.extend(serve(door, &mine, Instant::now()));
        if outcome.is_none() {
            outcome = match call.step(Instant::now()) {
                Called::Waits => None,
                Called::Met(session) => Some(Ok(*session)),
                Called::Failed(why) => Some(Err(why)),
            };
        }
        match &outcome {
            Some(Ok(session)) => met.iter().any(|other| other.remote == session.local),
            outcome => outcome.is_some(),
        }
    });
    (outcome.unwrap(), met)
}

/// An honest member is let in.
fn let_in(door: &mut Door, terms: &Arc<Terms>) -> (Session, Session) {
    let call = call(door, &Arc::new(Terms { incarnation: 99, ..(**terms).clone() }));
    let (called, mut met) = ring(door, call);
    (called.unwrap_or_else(|why| panic!("{why:?}")), met.pop().unwrap())
}

fn failure(door: &mut Door, call: Call) -> Refusal {
    ring(door, call).0.err().expect("it is refused").refusal
}

fn stranger(door: &Door) -> TcpStream {
    let stream = TcpStream::connect(door.addresses()[0]).unwrap();
    stream.set_nonblocking(true).unwrap();
    stream
}

/// What the stranger hears until the door hangs up, or resets.
fn heard(door: &mut Door, stranger: &mut TcpStream, now: Instant) -> Vec<u8> {
    let (mut all, mut part) = (Vec::new(), [0; 256]);
    wait_for(|| {
        serve(door, &hello(&terms(None, 0)), now);
        match stranger.read(&mut part) {
            Ok(0) => true,
            Ok(got) => {
                all.extend_from_slice(&part[..got]);
                false
            }
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    });
    all
}

fn opening(of: &Terms) -> Vec<u8> {
    let caller = Handshake::call(Arc::new(of.clone()), hello(of), [1; 32]).unwrap();
    caller.output().to_vec()
}

#[test]
fn members_meet_over_both_families() {
    let terms = terms(Some(secret(0)), 7);
    for at in ["127.0.0.1:0", "[::1]:0", "*:0"] {
        let mut door = open(at, &terms, Limits::default());
        let mut targets = door.addresses();
        if at.starts_with('*') {
            assert!(targets.iter().all(|one| one.port() == targets[0].port()), "{targets:?}");
            let six = targets.iter().any(SocketAddr::is_ipv6);
            targets = vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), targets[0].port())];
            let port = targets[0].port();
            targets.extend(six.then(|| SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port)));
        }
        for target in targets {
            let them = Arc::new(Terms { incarnation: 99, ..(*terms).clone() });
            let call = Call::new(vec![target], None, them.clone(), hello(&them), PATIENCE);
            let (called, met) = ring(&mut door, call);
            let (one, other) = (called.unwrap(), &met[0]);
            assert_eq!((one.incarnation(), other.incarnation()), (7, 99));
            assert_eq!((one.remote, other.remote), (target, one.local));
            let (ours, others) = (one.keys.unwrap(), other.keys.clone().unwrap());
            assert_eq!((ours.send, ours.receive), (others.receive, others.send));
            assert!(sockopt::tcp_nodelay(&one.socket).unwrap());
            assert!(one.leftover.is_empty() && other.leftover.is_empty());
        }
        assert_eq!((door.waiting(), door.lines()), (0, 0));
    }
}

/// A record that follows the welcome at once is not read with it.
#[test]
fn what_comes_after_the_welcome_is_left_in_the_socket() {
    let terms = terms(Some(secret(0)), 7);
    let mut door = door(&terms);
    let mut call = call(&door, &Arc::new(Terms { incarnation: 99, ..(*terms).clone() }));
    let mut visitor = None;
    wait_for(|| {
        assert!(matches!(call.step(Instant::now()), Called::Waits));
        for arrival in door.look(Instant::now()) {
            let Arrival::Asks(asks) = arrival else { panic!("nobody was welcomed") };
            visitor = Some(*asks);
        }
        visitor.is_some()
    });
    door.welcome(visitor.unwrap(), &hello(&terms)).unwrap();
    let mut met = Vec::new();
    wait_for(|| {
        met.extend(serve(&mut door, &hello(&terms), Instant::now()));
        !met.is_empty()
    });
    let record = b"the first record".repeat(20);
    rustix::net::send(&met[0].socket, &record, rustix::net::SendFlags::NOSIGNAL).unwrap();
    let mut called = None;
    wait_for(|| {
        if let Called::Met(session) = call.step(Instant::now()) {
            called = Some(session);
        }
        called.is_some()
    });
    let (mut bytes, mut got) = (vec![0; 1000], 0);
    let flags = rustix::net::RecvFlags::DONTWAIT;
    let socket = &called.unwrap().socket;
    wait_for(|| {
        got += rustix::net::recv(socket, &mut bytes[got..], flags).map_or(0, |(got, _)| got);
        got >= record.len()
    });
    assert_eq!(bytes[..got], record);
}

/// They say nothing; the door is open to others meanwhile, holds only so many, and drops them.
#[test]
fn the_silent_stall_nobody() {
    let terms = terms(Some(secret(0)), 7);
    let mut door = door(&terms);
    let silent: Vec<TcpStream> = (0..200)
        .map(|_| {
            serve(&mut door, &hello(&terms), Instant::now());
            stranger(&door)
        })
        .collect();
    wait_for(|| {
        serve(&mut door, &hello(&terms), Instant::now());
        assert!(door.waiting() <= door.limits.strangers);
        door.refused(Reason::Crowd) == 200 - door.limits.strangers as u64
    });
    let_in(&mut door, &terms);
    let_in(&mut door, &terms);
    let driven_out = door.refused(Reason::Crowd);
    let wake = door.wake_at().expect("they will be late");
    assert!(wake <= Instant::now() + door.limits.within);
    let later = Instant::now() + door.limits.within;
    serve(&mut door, &hello(&terms), later);
    assert_eq!((door.waiting(), door.wake_at()), (0, None));
    assert_eq!(door.refused(Reason::Slow) + driven_out, 200);
    assert_eq!(door.lines(), 2, "one for the crowd, one for the late");
    drop(silent);
}

/// A byte now and then: the time is up all the same.
#[test]
fn a_slow_loris_is_dropped_in_time() {
    let terms = terms(Some(secret(0)), 7);
    let mut door = door(&terms);
    let mut loris = stranger(&door);
    let start = Instant::now();
    for byte in opening(&terms).iter().take(40) {
        loris.write_all(&[*byte]).unwrap();
        serve(&mut door, &hello(&terms), start);
        std::thread::sleep(Duration::from_micros(300));
    }
    let_in(&mut door, &terms);
    let within = door.limits.within;
    serve(&mut door, &hello(&terms), start + within / 2);
    assert_eq!(door.waiting(), 1);
    let heard = heard(&mut door, &mut loris, Instant::now() + within);
    assert_eq!(heard, b"", "it has not even opened");
    assert_eq!((door.refused(Reason::Slow), door.waiting(), door.lines()), (1, 0, 1));
}

/// Where there is no proof, a hello may come byte by byte: only so many times.
#[test]
fn a_hello_in_crumbs_is_cut_off() {
    let terms = terms(None, 7);
    let mut door = door(&terms);
    let mut loris = stranger(&door);
    let mut bytes = opening(&terms);
    let long = Hello { config: "x".repeat(1000), ..hello(&terms) }.encode();
    bytes.extend_from_slice(&(1 + long.len() as u32).to_le_bytes());
    bytes.push(3);
    bytes.extend_from_slice(&long);
    let mut left = bytes.chunks(1);
    loris.set_nodelay(true).unwrap();
    wait_for(|| {
        let _ = left.next().map(|byte| loris.write_all(byte));
        serve(&mut door, &hello(&terms), Instant::now());
        door.refused(Reason::Slow) == 1
    });
    assert!(left.len() > 0, "it had more to say");
    let_in(&mut door, &terms);
}

#[test]
fn garbage_is_refused_and_said_once() {
    let terms = terms(Some(secret(0)), 7);
    let mut door = door(&terms);
    let garbage: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &[0; 100],
        &[0xff; 4096],
        b"S",
        b"SQUALM",
        b"SQUALL\x02\x01\x01\x00\x01\x00\0\0\0\0 a nonce of thirty-two bytes ...",
    ];
    let mut count = 0;
    for _ in 0..3 {
        for bytes in garbage {
            let mut stranger = stranger(&door);
            stranger.write_all(bytes).unwrap();
            stranger.shutdown(Shutdown::Write).unwrap();
            assert_eq!(heard(&mut door, &mut stranger, Instant::now()), b"", "{bytes:?}");
            count += 1;
        }
    }
    // One byte and a hang-up is no garbage yet.
    assert_eq!(door.refused(Reason::Garbage) + door.refused(Reason::HungUp), count);
    assert_eq!(door.refused(Reason::HungUp), 3);
    assert_eq!((door.lines(), door.waiting()), (2, 0));
    // Much later it may be said again, with how often it was.
    let mut again = stranger(&door);
    again.write_all(garbage[0]).unwrap();
    heard(&mut door, &mut again, Instant::now() + SAID_AGAIN);
    assert_eq!(door.lines(), 3);
    let_in(&mut door, &terms);
}

#[test]
fn another_version_is_refused_by_name() {
    let now = terms(Some(secret(0)), 7);
    let later = Versions { min: 2, max: 3 };
    let later = Arc::new(Terms { versions: later, incarnation: 99, ..(*now).clone() });
    let mut door = door(&now);
    for _ in 0..3 {
        let call = call(&door, &later);
        let Refusal { reason, error } = failure(&mut door, call);
        assert_eq!((reason, error.status), (Reason::Versions, Status::WireVersion));
        let both = ["wire version 1", "wire versions 2 to 3", &door.addresses()[0].to_string()];
        assert!(both.iter().all(|text| error.detail.contains(text)), "{error}");
    }
    assert_eq!((door.refused(Reason::Versions), door.lines()), (3, 1));
    let next = Versions { min: 1, max: 2 };
    let next = Arc::new(Terms { versions: next, incarnation: 99, ..(*now).clone() });
    let (one, other) = let_in(&mut door, &next);
    assert_eq!((one.wire, other.wire, other.versions), (1, 1, next.versions));
}

#[test]
fn another_group_is_refused_by_name() {
    for secret in [Some(secret(0)), None] {
        let mine = terms(secret, 7);
        let other = Terms { group: "other".into(), incarnation: 99, ..(*mine).clone() };
        let mut door = door(&mine);
        for _ in 0..3 {
            let call = call(&door, &Arc::new(other.clone()));
            let Refusal { reason, error } = failure(&mut door, call);
            assert_eq!((reason, error.status), (Reason::Group, Status::Mismatch));
            assert!(error.detail.contains("`demo`") && error.detail.contains("`other`"), "{error}");
        }
        assert_eq!((door.refused(Reason::Group), door.lines()), (3, 1));
        let_in(&mut door, &mine);
    }
}

#[test]
fn another_configuration_is_refused_in_the_callers_words() {
    let terms = terms(Some(secret(0)), 7);
    let mut door = door(&terms);
    let other = Hello { config: "members=3\nwindow=9\n".into(), ..hello(&terms) };
    let other = Hello { incarnation: 99, ..other };
    let them = Arc::new(Terms { incarnation: 99, ..(*terms).clone() });
    let call = Call::new(door.addresses(), None, them, other, PATIENCE);
    let Refusal { reason, error } = failure(&mut door, call);
    assert_eq!((reason, error.status), (Reason::Refused, Status::Mismatch));
    let detail = error.detail;
    assert!(detail.contains("`window=8` where this process has `window=9`"), "{detail}");
}

#[test]
fn a_wrong_secret_is_refused() {
    let mine = terms(Some(secret(0)), 7);
    let mut door = door(&mine);
    for of in 1..4 {
        let call = call(&door, &terms(Some(secret(of)), 99));
        let Refusal { reason, error } = failure(&mut door, call);
        assert_eq!((reason, error.status), (Reason::Proof, Status::Mismatch));
        assert!(error.detail.contains("sha256sum"), "{error}");
    }
    assert_eq!((door.refused(Reason::Proof), door.lines()), (3, 1));
    let_in(&mut door, &mine);
}

#[test]
fn one_side_alone_trusts_the_network() {
    for (own, other) in [(Some(secret(0)), None), (None, Some(secret(0)))] {
        let mine = terms(own, 7);
        let mut door = door(&mine);
        for _ in 0..3 {
            let call = call(&door, &terms(other.clone(), 99));
            let Refusal { reason, error } = failure(&mut door, call);
            assert_eq!((reason, error.status), (Reason::Trust, Status::Mismatch));
            let both = ["authenticates with a secret", "trusts the network"];
            assert!(both.iter().all(|text| error.detail.contains(text)), "{error}");
        }
        assert_eq!((door.refused(Reason::Trust), door.lines()), (3, 1));
        let_in(&mut door, &mine);
    }
}

/// Carries on a handshake by hand, and records what the caller said.
fn recorded(door: &mut Door, terms: &Arc<Terms>) -> (Vec<u8>, Vec<u8>) {
    let mut stream = stranger(door);
    let mut caller = Handshake::call(terms.clone(), hello(terms), [1; 32]).unwrap();
    let (mut said, mut told) = (Vec::new(), Vec::new());
    wait_for(|| {
        let out = caller.output().to_vec();
        stream.write_all(&out).unwrap();
        caller.sent(out.len());
        said.extend_from_slice(&out);
        serve(door, &hello(terms), Instant::now());
        let mut part = vec![0; caller.wanted()];
        if let Ok(got) = stream.read(&mut part) {
            told.extend_from_slice(&part[..got]);
            caller.feed(&part[..got]);
        }
        caller.progress() == Progress::Agreed
    });
    (said, told)
}

#[test]
fn a_recorded_handshake_is_of_no_use_at_the_door() {
    let terms = terms(Some(secret(0)), 7);
    let them = Arc::new(Terms { incarnation: 99, ..(*terms).clone() });
    let mut door = door(&terms);
    let (said, _) = recorded(&mut door, &them);
    for _ in 0..3 {
        let mut stranger = stranger(&door);
        stranger.write_all(&said).unwrap();
        let heard = heard(&mut door, &mut stranger, Instant::now());
        assert!(heard.len() <= 48 + 6, "an opening, and that the proof is wrong");
    }
    assert_eq!((door.refused(Reason::Proof), door.lines()), (3, 1));
    let_in(&mut door, &terms);
}

/// Whoever listens where a member should be, and says the same to each caller.
fn impostor(says: Vec<u8>) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(&says);
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    address
}

#[test]
fn a_recorded_answer_is_of_no_use_to_an_impostor() {
    let terms = terms(Some(secret(0)), 7);
    let them = Arc::new(Terms { incarnation: 99, ..(*terms).clone() });
    let mut door = door(&terms);
    let (_, told) = recorded(&mut door, &them);
    let call = Call::new(vec![impostor(told)], None, them.clone(), hello(&them), PATIENCE);
    assert_eq!(failure(&mut door, call).reason, Reason::Proof);
}

/// It sends back what it hears, and gets nowhere.
#[test]
fn an_echo_is_refused() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut from, _) = listener.accept().unwrap();
        let mut to = from.try_clone().unwrap();
        let _ = std::io::copy(&mut from, &mut to);
    });
    let terms = terms(Some(secret(0)), 7);
    let mut door = door(&terms);
    let call = Call::new(vec![address], None, terms.clone(), hello(&terms), PATIENCE);
    let Refusal { reason, error } = failure(&mut door, call);
    assert_eq!((reason, error.status), (Reason::Itself, Status::PeerFault));
    // At the door: the opening that came back, as if it were a proof.
    let mut stranger = stranger(&door);
    stranger.write_all(&opening(&terms)).unwrap();
    let mut back = [0; 48];
    wait_for(|| {
        serve(&mut door, &hello(&terms), Instant::now());
        stranger.read_exact(&mut back).is_ok()
    });
    stranger.write_all(&back).unwrap();
    assert_eq!(heard(&mut door, &mut stranger, Instant::now()), b"");
    assert_eq!((door.refused(Reason::Garbage), door.lines()), (1, 1));
}

/// An address list may hold one's own address.
#[test]
fn a_member_that_calls_itself_passes_on() {
    let mine = terms(Some(secret(0)), 7);
    let mut own = door(&mine);
    let call_itself = call(&own, &mine);
    assert_eq!(failure(&mut own, call_itself).reason, Reason::Itself);
    assert_eq!((own.refused(Reason::Itself), own.lines()), (1, 0));
}

/// A flood from one network drives out its own, not a slow but honest caller from another.
#[test]
fn a_flood_drives_out_its_own() {
    let mine = terms(Some(secret(0)), 7);
    let mut door = open("127.0.0.1:0", &mine, Limits { strangers: 8, ..Limits::default() });
    let them = terms(Some(secret(0)), 99);
    let source = Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)));
    let mut slow = Call::new(door.addresses(), source, them.clone(), hello(&them), PATIENCE);
    wait_for(|| {
        assert!(matches!(slow.step(Instant::now()), Called::Waits));
        serve(&mut door, &hello(&mine), Instant::now());
        door.waiting() == 1
    });
    let mut flood: Vec<TcpStream> = Vec::new();
    for _ in 0..20 {
        flood.extend((0..5).map(|_| stranger(&door)));
        serve(&mut door, &hello(&mine), Instant::now());
        assert!(door.waiting() <= 8);
    }
    let (called, _) = ring(&mut door, slow);
    called.unwrap();
    assert_eq!((door.refused(Reason::Crowd), door.lines()), (93, 1));
}

/// Who has proved itself is nobody that strangers drive out.
#[test]
fn a_proved_caller_is_not_driven_out() {
    let mine = terms(Some(secret(0)), 7);
    let mut door = open("127.0.0.1:0", &mine, Limits { strangers: 4, ..Limits::default() });
    let them = terms(Some(secret(0)), 99);
    let mut stream = stranger(&door);
    let mut caller = Handshake::call(them.clone(), hello(&them), [1; 32]).unwrap();
    let mut step = |door: &mut Door, caller: &mut Handshake| {
        let out = caller.output().to_vec();
        stream.write_all(&out).unwrap();
        caller.sent(out.len());
        serve(door, &hello(&mine), Instant::now());
        let mut part = vec![0; caller.wanted()];
        if let Ok(got) = stream.read(&mut part) {
            caller.feed(&part[..got]);
        }
    };
    while !caller.is_proven() {
        step(&mut door, &mut caller); // its hello is not sent yet
    }
    let flood: Vec<TcpStream> = (0..40).map(|_| stranger(&door)).collect();
    wait_for(|| {
        serve(&mut door, &hello(&mine), Instant::now());
        door.refused(Reason::Crowd) == 36
    });
    assert_eq!(door.waiting(), 5);
    wait_for(|| {
        step(&mut door, &mut caller);
        caller.progress() == Progress::Agreed
    });
    drop(flood);
}

/// Callers that have proved themselves are bounded, too.
#[test]
fn members_that_ask_and_say_no_more_are_bounded() {
    let mine = terms(Some(secret(0)), 7);
    let mut door = open("127.0.0.1:0", &mine, Limits { guests: 3, ..Limits::default() });
    let them = terms(Some(secret(0)), 99);
    let mut held = Vec::new();
    for at in 0..10 {
        let mut stream = stranger(&door);
        let mut caller = Handshake::call(them.clone(), hello(&them), [at; 32]).unwrap();
        wait_for(|| {
            let out = caller.output().to_vec();
            stream.write_all(&out).unwrap();
            caller.sent(out.len());
            serve(&mut door, &hello(&mine), Instant::now());
            let mut part = vec![0; caller.wanted()];
            if let Ok(got) = stream.read(&mut part) {
                caller.feed(&part[..got]);
            }
            caller.is_proven()
        });
        held.push(stream);
    }
    assert_eq!((door.waiting(), door.refused(Reason::Crowd)), (3, 7));
    let_in(&mut door, &mine);
}

/// The caller's end closes early, late, or in the middle.
#[test]
fn a_hang_up_at_any_point_is_survived() {
    let terms = terms(Some(secret(0)), 7);
    let them = Arc::new(Terms { incarnation: 99, ..(*terms).clone() });
    let mut door = door(&terms);
    let (said, _) = recorded(&mut door, &them);
    for count in (0..said.len()).step_by(7) {
        let mut stream = stranger(&door);
        stream.write_all(&said[..count]).unwrap();
        drop(stream); // with the door's opening unread: a reset
        serve(&mut door, &hello(&terms), Instant::now());
    }
    wait_for(|| {
        serve(&mut door, &hello(&terms), Instant::now());
        door.waiting() == 0
    });
    let_in(&mut door, &terms);
}

#[test]
fn a_visitor_that_is_dropped_is_hung_up_on() {
    let terms = terms(Some(secret(0)), 7);
    let mut door = door(&terms);
    let mut call = call(&door, &Arc::new(Terms { incarnation: 99, ..(*terms).clone() }));
    wait_for(|| {
        door.look(Instant::now());
        match call.step(Instant::now()) {
            Called::Waits => false,
            Called::Met(_) => panic!("nobody has welcomed it"),
            Called::Failed(why) => why.refusal.reason == Reason::HungUp,
        }
    });
    assert_eq!(door.waiting(), 0);
}

/// The descriptor wakes who sleeps on it: for a caller, and for one that speaks.
#[test]
fn the_descriptor_is_readable_when_somebody_stirs() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let terms = terms(Some(secret(0)), 7);
    let mut door = door(&terms);
    let readable = |door: &Door| {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(door, PollFlags::IN)], Some(&zero)).unwrap() == 1
    };
    assert!(!readable(&door));
    let mut stranger = stranger(&door);
    wait_for(|| readable(&door));
    door.look(Instant::now());
    assert!(!readable(&door) && door.waiting() == 1, "a silent one wakes nobody");
    stranger.write_all(&opening(&terms)).unwrap();
    wait_for(|| readable(&door));
    door.look(Instant::now());
    assert!(!readable(&door) && door.waiting() == 1);
}

/// Without descriptors the door is shut for a moment, and nobody is woken for nothing.
#[test]
fn a_door_that_was_shut_opens_again() {
    let terms = terms(Some(secret(0)), 7);
    let mut door = door(&terms);
    let now = Instant::now();
    door.shut(now);
    let waiting = stranger(&door);
    assert!(door.look(now).is_empty() && door.waiting() == 0);
    assert_eq!(door.wake_at(), Some(now + SHUT));
    door.shut(now);
    assert_eq!(door.lines(), 1);
    wait_for(|| {
        door.look(now + SHUT);
        door.waiting() == 1
    });
    let_in(&mut door, &terms);
    drop(waiting);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let terms = terms(None, 7);
    let one = door(&terms);
    let at = one.addresses()[0];
    let refused = |text: &str| {
        let list = address::parse_list(text, None).unwrap();
        Door::open(&list, terms.clone(), Limits::default()).err().unwrap()
    };
    let error = refused(&at.to_string());
    assert_eq!(error.status, Status::InUse);
    assert!(error.detail.contains(&at.to_string()) && error.detail.contains("ss -ltnp"), "{error}");
    let error = refused("192.0.2.1:0");
    assert_eq!(error.status, Status::Invalid);
    assert!(error.detail.contains("192.0.2.1:0") && error.detail.contains("ip address"), "{error}");
    let error = refused("localhost:7000");
    assert!(
        error.detail.contains("`localhost:7000`") && error.detail.contains("`*:7000`"),
        "{error}"
    );
    drop(one);
    open(&at.to_string(), &terms, Limits::default());
}

/// Anything from many strangers at once; then an honest member.
#[test]
fn a_noisy_street_stalls_nobody() {
    let terms = terms(Some(secret(0)), 7);
    let them = Arc::new(Terms { incarnation: 99, ..(*terms).clone() });
    let mut door = door(&terms);
    let (said, _) = recorded(&mut door, &them);
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    let mut roll = |below: usize| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        (dice % below as u64) as usize
    };
    let mut street: Vec<TcpStream> = Vec::new();
    for round in 0..300 {
        let mut stream = stranger(&door);
        let mut bytes = said[..roll(said.len())].to_vec();
        for _ in 0..roll(4) {
            if !bytes.is_empty() {
                let at = roll(bytes.len());
                bytes[at] ^= 1 << roll(8);
            }
        }
        let _ = stream.write_all(&bytes);
        street.push(stream);
        if roll(3) == 0 {
            let at = roll(street.len());
            street.swap_remove(at);
        }
        serve(&mut door, &hello(&terms), Instant::now());
        assert!(door.waiting() <= door.limits.strangers);
        if round % 60 == 0 {
            let_in(&mut door, &terms);
        }
    }
    let_in(&mut door, &terms);
    assert!(door.lines() <= REASONS as u64);
}

/// Who is no member any more keeps its port from nobody.
#[test]
fn a_door_that_is_closed_gives_its_port_away() {
    let terms = terms(Some(secret(0)), 7);
    let mut first = door(&terms);
    let at = first.addresses()[0].to_string();
    let _waits = stranger(&first);
    first.look(Instant::now());
    first.close();
    let mut second = open(&at, &terms, Limits::default());
    assert!(first.look(Instant::now()).is_empty() && first.wake_at().is_none());
    let_in(&mut second, &terms);
}

/// It asks, hangs up one way and takes little of the answer: whoever slept on the door was woken for
/// that, without end.
#[test]
fn who_does_not_take_its_answer_wakes_nobody() {
    let terms = terms(None, 7);
    let mut door = door(&terms);
    let caller = Arc::new(Terms { incarnation: 99, ..(*terms).clone() });
    let mut handshake = Handshake::call(caller.clone(), hello(&caller), [3; 32]).unwrap();
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
    sockopt::set_socket_recv_buffer_size(&socket, 4096).unwrap();
    sockopt::set_socket_send_buffer_size(&door.listeners[0], 4096).unwrap();
    rustix::net::connect(&socket, &door.addresses()[0]).unwrap();
    let mut stream = TcpStream::from(socket);
    let mine = Hello { config: "x=1\n".repeat(14_000), ..hello(&terms) };
    let mut asked = None;
    stream.write_all(handshake.output()).unwrap();
    wait_for(|| {
        for arrival in door.look(Instant::now()) {
            let Arrival::Asks(visitor) = arrival else { panic!("it has not got all") };
            asked = Some(visitor);
        }
        let mut opening = [0; 48];
        if handshake.wanted() == 48 && door.waiting() == 1 {
            stream.read_exact(&mut opening).unwrap();
            handshake.sent(handshake.output().len());
            handshake.feed(&opening);
            stream.write_all(handshake.output()).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        }
        asked.is_some()
    });
    door.welcome(*asked.unwrap(), &mine).unwrap();
    let mut quiet = 0;
    wait_for(|| {
        assert!(door.look(Instant::now()).is_empty(), "it fits into the buffers");
        let now = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        quiet += u32::from(poll(&mut [PollFd::new(&door, PollFlags::IN)], Some(&now)) == Ok(0));
        quiet > 5
    });
    assert_eq!(door.waiting(), 1);
}
