// SPDX-License-Identifier: MIT OR Apache-2.0
//! Members and those who join, over loopback: whom they meet, whatever some of them are.

use super::super::Tcp;
use super::super::address::Lookup;
use super::super::call::Called;
use super::super::door::Limits;
use super::super::door::tests::{open, secret, terms, wait_for};
use super::super::tests::setup;
use super::*;
use crate::base::Events;
use crate::fabric::{Exchange, Fabric};
use rustix::net::sockopt;
use std::net::{SocketAddr, TcpListener};

/// One process' lobby, and the connections that came of it.
struct One {
    lobby: Lobby,
    admits: Admission,
    kept: Vec<Box<Session>>,
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
        One { lobby: Lobby::new(parts), admits: Admission::Higher, kept: Vec::new() }
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
                New::Peer(session) => self.kept.push(session),
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
    assert_eq!((asked(&mut joins, 1), asked(&mut joins, 2)), (1, 0));
    let answer = member.lobby.hears(20, WHO, &[]).flatten().unwrap();
    assert_eq!(joins.lobby.hears(1, &answer, &[]), Some(None));
    assert_eq!(asked(&mut joins, 3), 1);
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
        is_asked: false,
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
