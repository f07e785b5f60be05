// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls through lists of addresses that lead nowhere, somewhere else, and at last to a member.

use super::super::door::Limits;
use super::super::door::tests::{hello, open, secret, serve, terms, wait_for};
use super::*;
use rustix::net::{getsockname, listen};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

const PATIENCE: Duration = Duration::from_secs(60);

/// An address at which nobody listens.
fn deserted() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn fails(mut call: Call, mut now: impl FnMut() -> Instant) -> Failure {
    let mut failure = None;
    wait_for(|| match call.step(now()) {
        Called::Waits => false,
        Called::Met(_) => panic!("there is no member"),
        Called::Failed(why) => {
            failure = Some(why);
            true
        }
    });
    failure.unwrap()
}

/// Nobody, somebody who says nothing, another program, itself, another group; then a member.
#[test]
fn a_call_goes_on_until_it_meets_a_member() {
    let mine = terms(Some(secret(0)), 99);
    let mut member = open("127.0.0.1:0", &terms(Some(secret(0)), 7), Limits::default());
    let mut own = open("127.0.0.1:0", &mine, Limits::default());
    let other = Terms { group: "other".into(), incarnation: 8, ..(*mine).clone() };
    let mut other = open("127.0.0.1:0", &Arc::new(other), Limits::default());
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let program = TcpListener::bind("127.0.0.1:0").unwrap();
    let greets = program.local_addr().unwrap();
    let greeter = std::thread::spawn(move || {
        let (mut stream, _) = program.accept().unwrap();
        let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
    });
    let addresses = vec![
        deserted(),
        silent.local_addr().unwrap(),
        greets,
        own.addresses()[0],
        other.addresses()[0],
        member.addresses()[0],
    ];
    let each = Duration::from_millis(300);
    let mut call = Call::new(addresses, None, mine.clone(), hello(&mine), each);
    let mut met = None;
    wait_for(|| {
        for door in [&mut own, &mut other, &mut member] {
            serve(door, &hello(&mine), Instant::now());
        }
        match call.step(Instant::now()) {
            Called::Waits => {}
            Called::Met(session) => met = Some(session),
            Called::Failed(why) => panic!("{why:?}"),
        }
        met.is_some()
    });
    assert_eq!(met.unwrap().remote, member.addresses()[0]);
    greeter.join().unwrap();
}

/// Of many troubles the one is told that came nearest to a member.
#[test]
fn the_trouble_that_says_most_is_told() {
    let mine = terms(Some(secret(0)), 99);
    let mut stranger = open("127.0.0.1:0", &terms(Some(secret(1)), 7), Limits::default());
    let there = stranger.addresses()[0];
    let addresses = vec![deserted(), there, deserted()];
    let call = Call::new(addresses, None, mine.clone(), hello(&mine), Duration::from_secs(60));
    let failure = fails(call, || {
        serve(&mut stranger, &hello(&mine), Instant::now());
        Instant::now()
    });
    assert_eq!((failure.refusal.reason, failure.remote), (Reason::Proof, Some(there)));
    assert!(failure.refusal.error.detail.contains(&format!("at {there}: ")));
}

#[test]
fn nobody_there_is_said_with_the_address() {
    let mine = terms(None, 99);
    let call = |to| Call::new(to, None, mine.clone(), hello(&mine), TRY);
    let there = deserted();
    let error = fails(call(vec![there]), Instant::now).refusal.error;
    assert_eq!(error.status, Status::NotComplete);
    assert!(error.detail.contains(&format!("at {there}: nobody listens")), "{error}");
    let nowhere = fails(call(Vec::new()), Instant::now);
    assert!(nowhere.remote.is_none() && nowhere.refusal.error.detail.contains("no address"));
}

/// Listens with a queue that is full: calls hear nothing, as of a host that is down.
fn deaf() -> (OwnedFd, Vec<TcpStream>, SocketAddr) {
    let listener =
        socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    listen(&listener, 0).unwrap();
    let there = SocketAddr::try_from(getsockname(&listener).unwrap()).unwrap();
    let soon = Duration::from_millis(50);
    let queue = std::iter::from_fn(|| TcpStream::connect_timeout(&there, soon).ok()).collect();
    (listener, queue, there)
}

/// A name of ten hosts that are down, and one that is not: each of them would take all the time.
#[test]
fn silent_addresses_are_tried_beside_each_other() {
    let mine = terms(Some(secret(0)), 99);
    let mut member = open("127.0.0.1:0", &terms(Some(secret(0)), 7), Limits::default());
    let (_listener, _queue, deaf) = deaf();
    let addresses = [vec![deaf; 10], member.addresses()].concat();
    let mut call = Call::new(addresses, None, mine.clone(), hello(&mine), PATIENCE);
    let (start, mut now, mut met) = (Instant::now(), Instant::now(), false);
    while !met && now < start + PATIENCE / 2 {
        serve(&mut member, &hello(&mine), Instant::now());
        met = matches!(call.step(now), Called::Met(_));
        std::thread::sleep(Duration::from_micros(200));
        now += STAGGER / 4;
    }
    assert!(met);
}

/// However many there are, few are tried at once, and in the end all have been.
#[test]
fn many_silent_addresses_are_bounded() {
    let mine = terms(None, 99);
    let (_listener, _queue, deaf) = deaf();
    let count = 3 * TRIED_MAX;
    let mut call = Call::new(vec![deaf; count], None, mine.clone(), hello(&mine), TRY);
    let (start, mut now, mut most) = (Instant::now(), Instant::now(), 0);
    while !matches!(call.step(now), Called::Failed(_)) {
        most = most.max(call.tried.len());
        now += STAGGER / 4;
        assert!(now < start + 8 * TRY);
    }
    assert_eq!(most, TRY.as_millis().div_ceil(STAGGER.as_millis()).min(TRIED_MAX as u128) as usize);
}

/// It takes the call and says nothing: the time is up.
#[test]
fn a_member_that_hangs_is_given_up() {
    let mine = terms(None, 99);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = vec![silent.local_addr().unwrap()];
    let mut call = Call::new(addresses, None, mine.clone(), hello(&mine), TRY);
    let start = Instant::now();
    for _ in 0..50 {
        assert!(matches!(call.step(start), Called::Waits));
        std::thread::sleep(Duration::from_millis(1));
    }
    let error = fails(call, || start + TRY).refusal.error;
    assert!(error.detail.contains("said nothing within 3.0 s"), "{error}");
}

#[test]
fn a_call_comes_from_the_interface_that_was_asked_for() {
    let mine = terms(None, 99);
    let mut door = open("127.0.0.1:0", &terms(None, 7), Limits::default());
    let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 5));
    let to = door.addresses();
    let mut call = Call::new(to.clone(), Some(source), mine.clone(), hello(&mine), TRY);
    let mut met = None;
    wait_for(|| {
        serve(&mut door, &hello(&mine), Instant::now());
        if let Called::Met(session) = call.step(Instant::now()) {
            met = Some(session);
        }
        met.is_some()
    });
    assert_eq!(met.unwrap().local.ip(), source);
    let foreign = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    let call = Call::new(to, foreign, mine.clone(), hello(&mine), TRY);
    let error = fails(call, Instant::now).refusal.error;
    assert!(error.detail.contains("cannot come from 192.0.2.1"), "{error}");
}

#[test]
fn a_hello_that_cannot_be_said_ends_the_call() {
    let mine = terms(None, 99);
    let hello = Hello { config: "x".repeat(1 << 20), ..hello(&mine) };
    let call = Call::new(vec![deserted()], None, mine, hello, TRY);
    assert_eq!(fails(call, Instant::now).refusal.error.status, Status::Invalid);
}
