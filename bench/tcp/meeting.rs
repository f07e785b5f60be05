// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the members of a measurement meet: without a rendezvous, each pair by a connection of its own;
//! with a door each if somebody is to call there.

use super::{CASES, Delivered, Kind, Over, Told, application};
use squall::base::{Epoch, Events, Peer, Rank};
use squall::driver::config::{Config, Idle};
use squall::driver::group::{Group, Sender};
use squall::fabric::tcp::address::parse;
use squall::fabric::tcp::door::{Door, Limits};
use squall::fabric::tcp::handshake::{Terms, Versions};
use squall::fabric::tcp::hello::{Hello, Kind as Wants};
use squall::fabric::tcp::link::{Channel, Keys};
use squall::fabric::tcp::lobby::{Lobby, Parts};
use squall::fabric::tcp::mirror::Measures;
use squall::fabric::tcp::secret::Secret;
use squall::fabric::tcp::{Setup, Tcp};
use squall::fabric::{Admission, Exchange, Fabric, Memory, Shown, Sizes};
use squall::group::view::View;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long members wait for each other.
const MEET: Duration = Duration::from_secs(30);

/// Calls, until somebody listens there.
fn call(port: u16) -> TcpStream {
    let until = Instant::now() + MEET;
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => return stream,
            Err(cause) => assert!(Instant::now() < until, "nobody at port {port}: {cause}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Connections with all others, by rank: those of lower rank are called.
pub fn meet(rank: u16, ports: &[u16], listener: TcpListener) -> Vec<(u16, TcpStream)> {
    let mut all = Vec::new();
    for (port, of) in ports[..usize::from(rank)].iter().zip(0..) {
        let mut stream = call(*port);
        stream.write_all(&[rank as u8]).expect("it has just been connected");
        all.push((of, stream));
    }
    for _ in usize::from(rank) + 1..ports.len() {
        let (mut stream, _) = listener.accept().expect("another end");
        let mut who = [0];
        stream.read_exact(&mut who).expect("it says who it is");
        all.push((who[0].into(), stream));
    }
    all.sort_by_key(|(of, _)| *of);
    for (_, stream) in &all {
        stream.set_nodelay(true).expect("a socket");
        stream.set_nonblocking(true).expect("a socket");
    }
    all
}

/// The role of one who calls at each port, says nothing, and calls again when it is hung up on.
pub fn stranger(ports: &[String]) {
    let hold = |port: u16| {
        loop {
            let mut held = call(port);
            println!("{port}");
            let _ = held.read(&mut [0]);
        }
    };
    let ports = ports.iter().map(|port| port.parse().expect("a port"));
    let threads: Vec<_> = ports.map(|port| std::thread::spawn(move || hold(port))).collect();
    threads.into_iter().for_each(|thread| drop(thread.join()));
}

pub struct Member {
    pub group: Group,
    pub sender: Option<Sender>,
    pub delivered: Arc<Delivered>,
}

impl Member {
    /// Connects as handshakes would have; shows, sees and enters the first view.
    pub fn new(told: &Told, streams: Vec<(u16, TcpStream)>) -> Member {
        let (job, rank) = (told.job, told.rank);
        let case = &CASES[job.case];
        let mut config = Config::new("tcp-bench", rank, job.members as u16);
        config.idle = Idle::Spin;
        let subgroup = &mut config.subgroups[0];
        (subgroup.window, subgroup.message_bytes_max) = (job.window as u32, case.size as u32);
        subgroup.senders = match case.kind {
            Kind::Latency => Some(vec![0]),
            Kind::Small => None,
            Kind::Large => Some(vec![1]),
        };
        let view = config.view().expect("a configuration");
        let mut tcp = fabric(told, &view, streams);
        let (memories, peers) = memories(&mut tcp, told, &view);
        let blocks: Vec<_> = memories.iter().map(|memory| memory.block.clone()).collect();
        tcp.enter(Epoch(1), Rank(rank), &peers, &blocks);
        let delivered = Arc::new(Delivered::default());
        let deliver = application(rank, case.kind, delivered.clone());
        let group = Group::over(&config, &memories, Box::new(tcp), None, Box::new(deliver));
        let mut group = group.expect("a group");
        Member { sender: group.sender(0, 0), group, delivered }
    }
}

fn fabric(told: &Told, view: &View, streams: Vec<(u16, TcpStream)>) -> Tcp {
    let (rank, over) = (told.rank, told.job.over());
    let layout = view.layout();
    let setup = Setup {
        measures: Measures::of(&layout),
        beat_at: layout.beat.byte(0),
        closed_at: layout.closed.byte(0),
        parks: false,
        views: false,
    };
    let mut tcp = Tcp::new(setup).expect("a fabric");
    for (of, stream) in streams {
        let key = |from: u16, to: u16| [16 * from as u8 + to as u8 + 1; 32];
        let keys = Keys { send: key(rank, of), receive: key(of, rank) };
        let keys = (over != Over::Trusted).then_some(keys);
        let channel = Channel::of(stream, u64::from(of) + 1, keys).expect("a socket");
        tcp.connect_as(Peer(of), channel).expect("a connection");
    }
    if matches!(over, Over::Alone | Over::Called) {
        tcp.attend(lobby(told)).expect("a door");
        tcp.admit(Admission::All);
    }
    tcp
}

/// As a member has one that runs: it calls nobody.
fn lobby(told: &Told) -> Lobby {
    let secret = Secret::from_bytes(b"0123456789abcdef0123456789abcdef", "here").expect("a secret");
    let incarnation = u64::from(told.rank) + 1;
    let (group, secret) = ("tcp-bench".to_string(), Some(secret));
    let terms = Arc::new(Terms { group, secret, versions: Versions::OURS, incarnation });
    let at = format!("127.0.0.1:{}", told.doors[usize::from(told.rank)]);
    let at = parse(&at, None).expect("an address");
    let door = Door::open(&[at], terms.clone(), Limits::default()).expect("a port");
    let hello = Hello::new(Wants::Join, "tcp-bench", told.rank, incarnation, "");
    let (source, page, place) = (None, None, String::new());
    Lobby::new(Parts { terms, hello, door, others_only: false, source, page, place })
}

/// By rank: all members' memory, and as whom this one knows them.
fn memories(tcp: &mut Tcp, told: &Told, view: &View) -> (Vec<Memory>, Vec<Option<Peer>>) {
    let (epoch, layout) = (Epoch(1), view.layout());
    let sends = |rank: u16| view.subgroups[0].senders.iter().any(|of| of.rank.0 == rank);
    let mine: &[usize] = if sends(told.rank) { &[0] } else { &[] };
    let own = tcp.own(epoch, mine).expect("memory");
    Group::prepare(&own.block);
    let all = || (0..told.job.members as u16).map(|of| (of != told.rank).then_some(Peer(of)));
    for peer in all().flatten() {
        tcp.show(epoch, peer, mine).expect("it is told");
    }
    let mut shown = |peer: Peer| {
        let ring = sends(peer.0).then(|| layout.rings_bytes(0));
        let sizes = Sizes { block: layout.control_bytes, rings: vec![ring] };
        loop {
            tcp.poll(true, &mut Events::default());
            match tcp.shown(peer, epoch, &sizes).unwrap() {
                Shown::Memory(memory) => return memory,
                Shown::Waits => {}
                Shown::Never => panic!("another end has gone"),
            }
        }
    };
    let memories = all().map(|peer| peer.map_or_else(|| own.clone(), &mut shown)).collect();
    (memories, all().collect())
}
