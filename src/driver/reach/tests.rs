// SPDX-License-Identifier: MIT OR Apache-2.0
//! Registered memory of real members, which are all of this process and take turns when a test says so:
//! over shared memory, over TCP with keys and without, and both; and by devices that do it themselves.

use super::super::config::{Changes, Config, Idle};
use super::super::control::Control;
use super::super::group::Group;
use super::super::network::{Carrier, SecretFrom};
use super::super::views::ViewInfo;
use super::super::{Application, Turn};
use crate::error::Status;
use crate::fabric::verbs::plant;
use crate::fabric::verbs::sys::soft::World;
use crate::mem::Message;
use crate::mem::host::Buffer;
use crate::mem::place::Place;
use crate::registered::{Access, Completion, Memories, Path, Rights, Ticket, What};
use std::io::Write;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Words of each window: a third for each member.
const WORDS: usize = 3 * SHARE;
const SHARE: usize = 40_000;

#[derive(Clone, Default)]
struct Views(Arc<Mutex<Vec<ViewInfo>>>);

impl Application for Views {
    fn deliver(&mut self, _: u16, _: &[Message]) {}

    fn view(&mut self, view: &ViewInfo) {
        self.0.lock().unwrap().push(view.clone());
    }
}

struct Member {
    group: Group,
    control: Control,
    memories: Memories,
    views: Views,
    window: Buffer,
    purse: (Buffer, u64),
    ticket: Ticket,
    over: Vec<Completion>,
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Shm,
    Tcp,
    Sealed,
    /// The third one is on another host.
    Mixed,
    Verbs,
    /// The same with RDMA between hosts.
    MixedVerbs,
}

fn config(name: &str, rank: u16, way: Way, founders: &[String]) -> Config {
    let mut config = Config::new(&format!("{name}-{}", std::process::id()), rank, 3);
    (config.membership, config.suspicion_ns, config.idle) = (Changes::Views, 0, Idle::Yield);
    let network = &mut config.network;
    match way {
        Way::Shm => return config,
        Way::Mixed => {
            (network.carrier, network.trusted) = (Carrier::Auto, true);
            network.host = format!("host{}", rank / 2);
        }
        Way::MixedVerbs => {
            (network.carrier, network.trusted) = (Carrier::ShmVerbs, true);
            network.host = format!("host{}", rank / 2);
        }
        Way::Verbs => (network.carrier, network.trusted) = (Carrier::Verbs, true),
        Way::Tcp => (network.carrier, network.trusted) = (Carrier::Tcp, true),
        Way::Sealed => {
            let (read, mut write) = std::io::pipe().unwrap();
            write
                .write_all(b"9b1e7d0c3a5f42688e6f7a1b2c3d4e5f60718293a4b5c6d7e8f9012a3b4c5d6e")
                .unwrap();
            network.carrier = Carrier::Tcp;
            network.secret = Some(SecretFrom::Descriptor(read.as_raw_fd()));
            let _ = read.into_raw_fd(); // read to its end, and closed, by the group
        }
    }
    network.founders = founders.to_vec();
    config
}

impl Member {
    fn open(config: &Config) -> Member {
        let views = Views::default();
        let group = Group::open(config, Box::new(views.clone())).unwrap();
        let (control, memories) = (group.control().unwrap(), group.memory().unwrap());
        let (window, purse) = (Buffer::new(WORDS), Buffer::new(WORDS));
        let (all, none) = (Rights { read: true, write: true }, Rights::default());
        let number = memories.register(Place::Host(window.lend()), all, false).unwrap();
        let own = memories.register(Place::Host(purse.lend()), none, false).unwrap();
        let (ticket, purse) = (memories.ticket(number).unwrap(), (purse, own));
        Member { group, control, memories, views, window, purse, ticket, over: Vec::new() }
    }

    fn turn(&mut self) -> Result<Turn, Status> {
        let mut places = [Completion::NONE; 16];
        let count = self.memories.poll(&mut places);
        self.over.extend_from_slice(&places[..count]);
        self.group.turn(u32::MAX)
    }

    fn access(&self, ticket: Ticket, from: usize, at: usize, words: usize, tag: u64) -> Access {
        let [offset, at, bytes] = [from, at, words].map(|words| 8 * words as u64);
        Access { region: self.purse.1, offset, ticket, at, bytes, tag, announce: Some(tag) }
    }

    fn members(&self) -> usize {
        self.views.0.lock().unwrap().last().map_or(0, |view| view.members.len())
    }
}

fn open(name: &str, way: Way, world: &World) -> Vec<Member> {
    let ports = [0; 3].map(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    let founders: Vec<String> =
        ports.iter().map(|port| port.local_addr().unwrap().to_string()).collect();
    drop(ports);
    std::thread::scope(|scope| {
        let one = |rank: u16| {
            let config = config(name, rank, way, &founders);
            let table = is_rdma(way).then(|| world.process().table());
            scope.spawn(move || {
                table.map(plant);
                Member::open(&config)
            })
        };
        let all: Vec<_> = (0..3).map(one).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

/// All take turns until that holds.
fn until(members: &mut [Member], what: &str, mut holds: impl FnMut(&mut [Member]) -> bool) {
    let since = Instant::now();
    while !holds(members) {
        for member in members.iter_mut() {
            let _ = member.turn();
        }
        assert!(since.elapsed() < Duration::from_secs(120), "never: {what}");
        std::thread::yield_now();
    }
}

fn taken(members: &mut [Member], count: usize) -> Vec<Vec<Completion>> {
    until(members, "all is over", |all| all.iter().all(|member| member.over.len() >= count));
    members.iter_mut().map(|member| std::mem::take(&mut member.over)).collect()
}

fn is_rdma(way: Way) -> bool {
    matches!(way, Way::Verbs | Way::MixedVerbs)
}

/// A wire for those who have devices.
fn world(way: Way) -> World {
    let world = World::new(31);
    if is_rdma(way) {
        world.start();
    }
    world
}

/// Each puts into the windows of all and gets it back; then one goes.
fn there_and_back(name: &str, way: Way) {
    let world = world(way);
    let mut all = open(name, way, &world);
    let paths = all.iter().map(|member| member.memories.info(member.purse.1).unwrap().path);
    assert!(paths.eq([if is_rdma(way) { Path::Direct } else { Path::Staged }; 3]));
    let tickets: Vec<Ticket> = all.iter().map(|member| member.ticket).collect();
    let pattern =
        |by: usize, whose: usize, at: usize| (by * 10 + whose) as u64 * 1_000_000 + at as u64;
    for (by, member) in all.iter().enumerate() {
        for (whose, ticket) in tickets.iter().enumerate() {
            let words: Vec<u64> = (0..SHARE).map(|at| pattern(by, whose, at)).collect();
            member.purse.0.write(whose * SHARE, &words);
            let (from, at) = (whose * SHARE, by * SHARE);
            member.memories.put(&member.access(*ticket, from, at, SHARE, whose as u64)).unwrap();
        }
    }
    for over in taken(&mut all, 6) {
        let done = over.iter().filter(|of| of.what == What::Put && of.status == Status::Ok).count();
        let heard = over.iter().filter(|of| of.what == What::Announced).count();
        assert_eq!((done, heard), (3, 3), "{over:?}");
    }
    for (whose, member) in all.iter().enumerate() {
        let mut words = vec![0; WORDS];
        member.window.read(0, &mut words);
        let wanted = (0..WORDS).map(|at| pattern(at / SHARE, whose, at % SHARE));
        assert!(wanted.eq(words), "{whose}");
    }
    let next = (all.len() - 1, tickets[1]);
    let member = &all[next.0];
    member.purse.0.write(0, &vec![0; WORDS]);
    let get = Access { announce: None, ..member.access(next.1, 7, 0, WORDS - 7, 9) };
    member.memories.get(&get).unwrap();
    until(&mut all, "it was got", |all| !all[2].over.is_empty());
    assert_eq!(all[2].over.pop().unwrap().status, Status::Ok);
    let (mut there, mut here) = (vec![0; WORDS], vec![0; WORDS]);
    all[1].window.read(0, &mut there);
    all[2].purse.0.read(0, &mut here);
    assert!(there[..WORDS - 7] == here[7..]);
    assert_eq!(world.reads() > 0, is_rdma(way), "a device gets it itself, if there is one");

    // It goes with what others do there.
    let gone = all.pop().unwrap();
    for member in &all {
        member
            .memories
            .get(&Access { announce: None, ..member.access(tickets[2], 0, 0, 8, 3) })
            .unwrap();
    }
    drop(gone);
    for over in taken(&mut all, 1) {
        assert!([Status::Gone, Status::Ok].contains(&over[0].status), "{over:?}");
    }
    until(&mut all, "the next view", |all| all.iter().all(|member| member.members() == 2));
    let [one, two] = &mut all[..] else { panic!("two stay") };
    let refused = one.memories.put(&one.access(tickets[2], 0, 0, 8, 4)).unwrap_err();
    assert_eq!(refused.status, Status::Gone, "{refused}");
    one.memories.put(&one.access(two.ticket, 0, 0, 8, 5)).unwrap();
    until(&mut all, "the others go on", |all| !all[0].over.is_empty() && !all[1].over.is_empty());
}

#[test]
fn memory_is_reached_over_shared_memory() {
    there_and_back("reach-shm", Way::Shm);
}

#[test]
fn memory_is_reached_over_tcp() {
    there_and_back("reach-tcp", Way::Tcp);
}

#[test]
fn memory_is_reached_over_tcp_with_keys() {
    there_and_back("reach-sealed", Way::Sealed);
}

#[test]
fn memory_is_reached_over_both() {
    there_and_back("reach-mixed", Way::Mixed);
}

#[test]
fn memory_is_reached_by_rdma() {
    there_and_back("reach-rdma", Way::Verbs);
}

#[test]
fn memory_is_reached_by_rdma_between_hosts() {
    there_and_back("reach-rdma-mixed", Way::MixedVerbs);
}

/// Who was cut off writes nothing from the view callback on, though it lives and tries.
fn a_living_suspect_is_fenced(name: &str, way: Way) {
    let world = world(way);
    let mut all = open(name, way, &world);
    let tickets: Vec<Ticket> = all.iter().map(|member| member.ticket).collect();
    until(&mut all, "the first view", |all| all.iter().all(|member| member.members() == 3));
    let suspect = all[2].views.0.lock().unwrap().last().unwrap().members[2].incarnation;
    let mut next = 1;
    let mut fill = |member: &mut Member| {
        while next < 1_000_000_000 {
            next += 1;
            member.purse.0.write(0, &[next; 4]);
            let put = Access { announce: None, ..member.access(tickets[0], 0, 0, SHARE, next) };
            if member.memories.put(&put).is_err() {
                break;
            }
        }
    };
    fill(&mut all[2]);
    until(&mut all, "it writes", |all| !all[2].over.is_empty());
    all[0].control.report(suspect);
    until(&mut all, "the view without it", |all| {
        if all[0].members() == 2 {
            return true;
        }
        all[2].over.clear();
        fill(&mut all[2]);
        false
    });
    let frozen = |member: &Member| {
        let mut words = vec![0; WORDS];
        member.window.read(0, &mut words);
        words
    };
    let before = frozen(&all[0]);
    let mut rest = all.split_off(2);
    for _ in 0..200 {
        rest[0].over.clear();
        fill(&mut rest[0]);
        let _ = rest[0].turn();
        let _ = all[0].turn();
        std::thread::sleep(Duration::from_micros(100));
        assert!(frozen(&all[0]) == before, "it writes on");
    }
    until(&mut rest, "it hears of it", |rest| {
        let refused = rest[0].memories.put(&rest[0].access(tickets[0], 0, 0, 8, 0));
        refused.is_err_and(|error| error.status != Status::Again)
    });
}

#[test]
fn a_living_suspect_is_fenced_over_shared_memory() {
    a_living_suspect_is_fenced("reach-suspect-shm", Way::Shm);
}

#[test]
fn a_living_suspect_is_fenced_over_tcp() {
    a_living_suspect_is_fenced("reach-suspect-tcp", Way::Tcp);
}

#[test]
fn a_living_suspect_is_fenced_by_rdma() {
    a_living_suspect_is_fenced("reach-suspect-rdma", Way::Verbs);
}

/// A group whose view is fixed has none.
#[test]
fn a_fixed_view_has_no_registered_memory() {
    let config = Config::new(&format!("reach-fixed-{}", std::process::id()), 0, 1);
    let group = Group::open(&config, Box::new(|_: u16, _: &[Message]| {})).unwrap();
    assert!(group.memory().is_none());
}
