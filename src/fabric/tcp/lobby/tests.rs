// SPDX-License-Identifier: MIT OR Apache-2.0
//! Members and those who join, over loopback: whom they meet, whatever some of them are.

use super::super::Tcp;
use super::super::address::Lookup;
use super::super::call::Called;
use super::super::door::Limits;
use super::super::door::tests::{open, secret, terms, wait_for};
use super::super::session::cases;
use super::super::tests::setup;
use super::*;
use crate::base::Events;
use crate::fabric::{Exchange, Fabric};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rustix::net::sockopt;
use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener};

/// One process' lobby, and the connections that came of it.
struct One {
    lobby: Lobby,
    admits: Admission,
    kept: Vec<Box<Session>>,
    /// One of them is to be asked who there is.
    asks: bool,
}

impl One {
    fn at(address: &str, incarnation: u64, rank: u16, kind: Kind, group: &str) -> One {
        let mut terms = (*terms(Some(secret(0)), incarnation)).clone();
        terms.group = group.into();
        let terms = Arc::new(terms);
        let door = open(address, &terms, Limits::default());
        let mut hello = Hello::new(kind, group, rank, incarnation, "founders=2\n");
        hello.addresses = door.addresses().into_iter().map(Address::from).collect();
        let parts = Parts {
            terms,
            hello,
            door,
            others_only: false,
            source: None,
            page: None,
            place: "".into(),
        };
        One { lobby: Lobby::new(parts), admits: Admission::Higher, kept: Vec::new(), asks: false }
    }

    fn joins(incarnation: u64) -> One {
        One::at("127.0.0.1:0", incarnation, 0, Kind::Enter, "demo")
    }

    /// One that runs.
    fn member(incarnation: u64) -> One {
        let mut one = One::at("127.0.0.1:0", incarnation, 0, Kind::Join, "demo");
        one.admits = Admission::All;
        one
    }

    /// Where members meet over shared memory if they are on one host.
    fn on_host(mut self, name: &str) -> One {
        (self.lobby.host, self.lobby.others_only) = (name.into(), true);
        self.lobby.hello.more = vec![(HOST.into(), name.into())];
        self
    }

    fn address(&self) -> Address {
        self.lobby.door.addresses()[0].into()
    }

    fn step(&mut self) {
        for new in self.lobby.step(Instant::now(), self.admits, &[]) {
            match new {
                New::Peer(session, asks) => {
                    self.asks |= asks;
                    self.kept.push(session);
                }
                New::Stream(..) | New::Reach(..) => panic!("nobody asked for one"),
            }
        }
    }

    fn has_met(&self, who: u64) -> bool {
        self.lobby.is_connected(who)
    }
}

/// They stopped calling members as soon as they had met each other: neither was ever joined.
#[test]
fn two_that_join_and_meet_each_other_go_on_to_the_members() {
    let (mut low, mut high, mut member) = (One::joins(10), One::joins(20), One::member(1));
    low.lobby.call_contacts(&[high.address(), member.address()]);
    high.lobby.call_contacts(&[low.address(), member.address()]);
    wait_for(|| {
        low.step();
        high.step();
        low.has_met(20) && high.has_met(10)
    });
    wait_for(|| {
        [&mut low, &mut high, &mut member].into_iter().for_each(One::step);
        low.has_met(1) && high.has_met(1)
    });
    assert_eq!((low.lobby.abouts().len(), high.lobby.abouts().len()), (2, 2));
}

/// The one that called became a member before it read the answer, and hung up; the other one said that
/// it was connected with it, was proposed, and was cut off at once by the one that did not know it.
#[test]
fn who_was_called_says_so_once_the_caller_has_asked() {
    let (mut low, mut high) = (One::joins(10), One::joins(20));
    high.lobby.call_contacts(&[low.address()]);
    wait_for(|| {
        low.step();
        high.step();
        low.has_met(20) && high.has_met(10)
    });
    assert!(high.asks && !low.asks);
    assert!(!low.lobby.is_sure(20) && !high.lobby.is_sure(10), "the other may be gone");
    crate::mutants::plant(Some("tcp-calls-are-sure"));
    assert!(low.lobby.is_sure(20), "the planted fault is the one that was found");
    crate::mutants::plant(None);
    let answer = low.lobby.hears(20, WHO, &[]).flatten().unwrap();
    assert!(low.lobby.is_sure(20));
    high.lobby.hears(10, &answer, &[]);
    assert!(high.lobby.is_sure(10));
}

/// Nobody was to ask, and neither was ever joined.
#[test]
fn two_that_join_are_sure_of_each_other_soon() {
    let (low, mut high) = (One::joins(10), One::joins(20));
    high.lobby.call_contacts(&[low.address()]);
    let mut both = [low, high].map(|of| {
        let mut tcp = Tcp::new(setup(4096)).unwrap();
        tcp.admit(Admission::Higher);
        tcp.attend(of.lobby).unwrap();
        tcp
    });
    wait_for(|| {
        for tcp in &mut both {
            tcp.poll(true, &mut Events::default());
            while tcp.heard().is_some() {}
        }
        both[0].connected() == [20] && both[1].connected() == [10]
    });
}

/// A member on the same host is met over shared memory; it said no, and of nobody else.
#[test]
fn a_contact_on_the_same_host_tells_of_the_others() {
    let mut far = One::at("127.0.0.1:0", 1, 1, Kind::Join, "demo").on_host("there");
    let mut near = One::at("127.0.0.1:0", 2, 0, Kind::Join, "demo").on_host("here");
    far.lobby.call_founders(&[near.address(), far.address()]);
    wait_for(|| {
        [&mut far, &mut near].into_iter().for_each(One::step);
        far.has_met(2) && near.has_met(1)
    });
    (far.admits, near.admits) = (Admission::All, Admission::All);
    let mut joins = One::joins(20).on_host("here");
    joins.lobby.call_contacts(&[near.address()]);
    wait_for(|| {
        [&mut far, &mut near, &mut joins].into_iter().for_each(One::step);
        joins.has_met(1)
    });
    assert!(!joins.has_met(2) && joins.lobby.fatal().is_none(), "Y3");
}

/// One wrong address among several ended the join, though another one was only down for a moment.
#[test]
fn a_contact_that_is_another_groups_ends_nothing_while_others_are_down() {
    let mut other = One::at("127.0.0.1:0", 5, 0, Kind::Join, "other");
    let there: SocketAddr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut joins = One::joins(20);
    joins.lobby.call_contacts(&[other.address(), there.into()]);
    wait_for(|| {
        [&mut joins, &mut other].into_iter().for_each(One::step);
        joins.lobby.trouble().is_some()
    });
    assert_eq!(joins.lobby.fatal(), None);
    let mut member = One::at(&there.to_string(), 1, 0, Kind::Join, "demo");
    member.admits = Admission::All;
    wait_for(|| {
        [&mut joins, &mut other, &mut member].into_iter().for_each(One::step);
        joins.has_met(1)
    });
    // Where all say so it is no use to go on.
    let mut lost = One::joins(21);
    lost.lobby.call_contacts(&[other.address()]);
    wait_for(|| {
        [&mut lost, &mut other].into_iter().for_each(One::step);
        lost.lobby.fatal().is_some()
    });
}

/// Whoever only asks who there is was kept as a member's connection, whomever the driver let in.
#[test]
fn a_probe_is_no_peer() {
    let mut member = One::member(1);
    member.admits = Admission::Nobody;
    let terms = terms(Some(secret(0)), 30);
    let hello = Hello::new(Kind::Probe, "demo", 1, 30, "founders=2\n");
    let mut call = Call::new(member.lobby.door.addresses(), None, terms, hello, TRY);
    let mut met = None;
    wait_for(|| {
        member.step();
        if met.is_none()
            && let Called::Met(session) = call.step(Instant::now())
        {
            met = Some(session);
        }
        met.is_some() && member.lobby.door.waiting() == 0
    });
    assert!(member.kept.is_empty() && !member.has_met(30));
}

/// A name server that does not answer kept those from being called that need none.
#[test]
fn a_name_that_takes_its_time_delays_no_other_contact() {
    let (mut joins, mut member) = (One::joins(20), One::member(1));
    let slow = parse("slow.example:7471", None).unwrap();
    joins.lobby.call_contacts(&[slow.clone(), member.address()]);
    let hangs = |_: &str, _: u16| {
        std::thread::sleep(Duration::from_secs(3600));
        Ok(Vec::new())
    };
    let lookup = Lookup::start_by(&[slow, member.address()], hangs).unwrap();
    joins.lobby.goals[0].lookup = Some(lookup);
    wait_for(|| {
        [&mut joins, &mut member].into_iter().for_each(One::step);
        joins.has_met(1)
    });
    assert!(joins.lobby.goals[0].lookup.is_some(), "and it is not asked twice");
}

/// A member that does not listen for a while found hundreds of questions, and cut the asker off.
#[test]
fn who_has_not_answered_is_not_asked_again() {
    let (mut joins, mut member) = (One::joins(20), One::member(1));
    joins.lobby.call_contacts(&[member.address()]);
    wait_for(|| {
        [&mut joins, &mut member].into_iter().for_each(One::step);
        joins.has_met(1)
    });
    let asked = |one: &mut One, after: u64| {
        let now = Instant::now() + Duration::from_secs(after);
        one.lobby.asks(now).map_or(0, |(whom, _)| whom.len())
    };
    assert!(joins.asks, "with its connection (Y6)");
    assert_eq!((asked(&mut joins, 0), asked(&mut joins, 1)), (0, 0));
    let answer = member.lobby.hears(20, WHO, &[]).flatten().unwrap();
    assert_eq!(joins.lobby.hears(1, &answer, &[]), Some(None));
    assert_eq!((asked(&mut joins, 10), asked(&mut joins, 11)), (1, 0));
    assert_eq!(asked(&mut joins, 13), 1, "an answer may have had no room");
}

/// Any number of processes could be connected, each with its buffers and its memory.
#[test]
fn there_is_room_for_so_many_peers() {
    let (mut joins, mut member) = (One::joins(20), One::member(1));
    let at = || parse("10.0.0.1:7471", None).unwrap();
    let about = |incarnation: u64| About {
        incarnation,
        seat: 0,
        is_member: false,
        versions: None,
        host: "there".into(),
        addresses: vec![at()],
        ip: None,
        asked: None,
        is_sure: true,
    };
    member.lobby.abouts = (1000..1000 + PEERS_MAX as u64).map(about).collect();
    joins.lobby.call_contacts(&[member.address()]);
    wait_for(|| {
        [&mut joins, &mut member].into_iter().for_each(One::step);
        joins.lobby.trouble().is_some()
    });
    assert_eq!(joins.lobby.trouble().unwrap().status, Status::Limit);
    assert_eq!(joins.lobby.fatal(), None, "it is the member's limit");
    member.lobby.forget(1000);
    wait_for(|| {
        [&mut joins, &mut member].into_iter().for_each(One::step);
        joins.has_met(1)
    });
}

/// A founder waited for a host that had vanished, in the place of the one that came after it.
#[test]
fn silence_is_noticed_among_founders() {
    let mut one = One::at("127.0.0.1:0", 1, 1, Kind::Join, "demo");
    let other = One::at("127.0.0.1:0", 2, 0, Kind::Join, "demo");
    one.lobby.call_founders(&[other.address(), one.address()]);
    let mut both = [one, other].map(|of| {
        let mut tcp = Tcp::new(setup(4096)).unwrap();
        tcp.admit(Admission::Higher);
        tcp.attend(of.lobby).unwrap();
        tcp
    });
    wait_for(|| {
        both.iter_mut().for_each(|tcp| tcp.poll(true, &mut Events::default()));
        both.iter().all(|tcp| !tcp.connected().is_empty())
    });
    let bears = |tcp: &Tcp| {
        let socket = tcp.links[0].as_ref().unwrap().socket().unwrap();
        assert!(sockopt::socket_keepalive(socket).unwrap());
        let more = sockopt::tcp_keepintvl(socket).unwrap();
        sockopt::tcp_keepidle(socket).unwrap() + more * sockopt::tcp_keepcnt(socket).unwrap()
    };
    assert!(both.iter().all(|tcp| bears(tcp) <= Duration::from_secs(10)));
    both.iter_mut().for_each(|tcp| tcp.admit(Admission::All));
    assert!(both.iter().all(|tcp| bears(tcp) > Duration::from_secs(60)));
}

/// A line about a process as others tell it, with numbers and pieces that no honest one says.
fn told_line() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        3 => (0u64..40).prop_map(|number| number.to_string()),
        1 => prop::sample::select(vec!["18446744073709551615", "18446744073709551616", "-1", "65536", ""])
            .prop_map(String::from),
    ];
    let what = prop::sample::select(vec!["member", "joins", "joins", "leads", ""]);
    let address = prop::sample::select(vec![
        "10.0.0.1:7471",
        "*:7",
        "0.0.0.0:0",
        "[::]:9",
        "[fe80::1%eth0]:9",
        "host:1",
        "[::1",
        ":",
        "a b:1",
    ]);
    let addresses = prop::collection::vec(address, 0..5).prop_map(|all| all.join(","));
    let long = (0usize..40).prop_map(|count| vec!["10.0.0.1:7471"; count * 10].join(","));
    let addresses = prop_oneof![30 => addresses, 1 => long];
    let line = (number.clone(), number, what, "[a-zA-Z0-9.-]{0,4}", addresses);
    let line = line.prop_map(|(who, seat, what, host, addresses)| {
        format!("{who} {seat} {what} {host} {addresses}")
    });
    prop_oneof![8 => line, 1 => Just("here".to_string()), 1 => ".{0,20}"]
}

/// What processes that have proved themselves tell of others: some are called, a bounded number of them,
/// none of whom is not to be called, and what is passed on can be read by the next one.
#[test]
fn fuzz_what_is_told_of_others_calls_no_wrong_ones() {
    let joins = One::joins(20).on_host("here");
    let joins = RefCell::new(joins);
    let told = (
        prop::collection::vec(
            (told_line(), prop_oneof![30 => Just(1usize), 1 => 60usize..121]),
            0..12,
        ),
        prop::collection::vec((any::<prop::sample::Index>(), 0usize..4, ".{0,4}"), 0..3),
        any::<Vec<u8>>(),
        (any::<bool>(), any::<bool>(), prop::bool::weighted(0.02)),
        "([0-9.:a-z]{0,12},){0,4}",
    );
    let outcome = TestRunner::new(cases(500)).run(&told, |(lines, changes, any, flags, doors)| {
        let (knows, is_v6, repeats) = flags;
        let lobby = &mut joins.borrow_mut().lobby;
        let ip: IpAddr = if is_v6 { "fe80::7" } else { "192.0.2.7" }.parse().unwrap();
        let remote = SocketAddr::new(ip, 5);
        lobby.goals.clear();
        lobby.told.clear();
        lobby.abouts.clear();
        let mut hello = Hello::new(Kind::Enter, "demo", 3, 7, "founders=2\n");
        if knows {
            lobby.abouts.push(about(&hello, remote, false));
        }
        let one = |(line, times): &(String, usize)| vec![line.as_str(); *times].join("\n");
        let mut text = lines.iter().map(one).collect::<Vec<_>>().join("\n").into_bytes();
        for (at, len, piece) in changes {
            let at = at.index(text.len() + 1);
            let upto = (at + len).min(text.len());
            text.splice(at..upto, piece.bytes());
        }
        for _ in 0..1 + 8 * usize::from(repeats) {
            let said = [b"here\n".as_slice(), &text].concat();
            prop_assert_eq!(lobby.hears(7, &said, &[]), Some(None));
        }
        prop_assert!(lobby.told.len() <= 4 * HERE_MAX);
        for bytes in [&any, &text] {
            let answered = lobby.hears(7, bytes, &[7]);
            prop_assert!(answered.is_none() || bytes == WHO || bytes.starts_with(b"here\n"));
        }
        let welcome = String::from_utf8_lossy(&text).replace('\n', ";");
        hello.more.push(("here".into(), welcome));
        lobby.read_told(&hello, ip);
        prop_assert!(told_of(&hello, ip).len() <= HERE_MAX && lobby.told.len() <= 4 * HERE_MAX);
        let told = lobby.told.clone();
        prop_assert!(told.iter().all(|of| of.incarnation > 0 && of.addresses.len() <= 16));
        lobby.look_for_more();
        prop_assert!(lobby.goals.len() <= GOALS_MAX);
        for (at, goal) in lobby.goals.iter().enumerate() {
            let Whom::Incarnation(who) = goal.whom else { panic!("{:?} was told of", goal.whom) };
            prop_assert!(who != 20 && !(knows && who == 7), "Y2");
            let of = told.iter().find(|of| of.incarnation == who).unwrap();
            let calls = told.iter().any(|of| of.incarnation == who && (of.is_member || who < 20));
            prop_assert!(calls, "Y1: {of:?}");
            let far = told.iter().any(|of| of.incarnation == who && of.host != "here");
            prop_assert!(far, "Y3: {of:?}");
            prop_assert!(lobby.goals[..at].iter().all(|before| before.whom != goal.whom));
        }
        let mut neighbour = Neighbour { incarnation: 9, seat: 1, is_member: false, doors };
        neighbour.doors.push_str("10.0.0.1:7");
        lobby.hear_of(&[neighbour]);
        let all = list(told.iter().chain(&lobby.near).map(|of| (of, of.is_member)));
        let again: Vec<About> = all.lines().filter_map(entry).collect();
        prop_assert_eq!(again.len(), all.lines().count(), "{}", all);
        lobby.near.clear();
        Ok(())
    });
    outcome.unwrap();
}
