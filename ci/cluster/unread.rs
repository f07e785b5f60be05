// SPDX-License-Identifier: MIT OR Apache-2.0
//! Peers over TCP that do not read: memory stays as it is, and the others go on.

use crate::check::Check;
use crate::member::Cluster;
use crate::short::said;
use crate::support::until;
use rustix::process::Signal;
use squall::fabric::shm::door;
use squall::fabric::tcp::address::parse;
use squall::fabric::tcp::call::{Call, Called, TRY};
use squall::fabric::tcp::handshake::{Terms, Versions};
use squall::fabric::tcp::hello::{Hello, Kind};
use squall::fabric::tcp::seal::Sealer;
use squall::fabric::tcp::secret::Secret;
use squall::fabric::tcp::session::Session;
use squall::fabric::tcp::wire::{HEADER_BYTES, TAG_BYTES, Writer, finish};
use squall::mem::stream::{Part, send};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What a member may grow by while nothing new happens: its own noise, not a queue's growth.
const NOISE_KIB: u64 = 1024;

/// All wait for a stopped member, with full windows: neither they nor the kernel keep more and more for
/// it. When it goes on, nothing is lost.
pub fn a_member_that_does_not_read() -> String {
    let patient: &[(&str, &dyn std::fmt::Display)] = &[("suspicion_ms", &60_000)];
    let mut cluster = Cluster::start_over("tcp", "unread", 3, "park", &|_| patient);
    cluster.delivers();
    cluster.members[1].process.signal(Signal::STOP);
    until("all wait for it", || {
        let before = written(&cluster, 0);
        std::thread::sleep(Duration::from_millis(300));
        written(&cluster, 0) == before
    });
    let before = memory(&cluster);
    std::thread::sleep(Duration::from_millis(1_200));
    let after = memory(&cluster);
    cluster.members[1].process.signal(Signal::CONT);
    assert!(after <= before + NOISE_KIB, "{before} KiB, then {after} KiB");
    cluster.rest();
    let text = Check::of(&cluster).run();
    cluster.leave_all();
    format!("{before} KiB, then {after} KiB; {text}")
}

/// Somebody holds the secret, connects with all members, asks them again and again who there is, and
/// never reads an answer.
pub fn a_peer_that_never_reads() -> String {
    let mut cluster = Cluster::start_over("tcp", "neverreads", 3, "park", &|_| &[]);
    cluster.delivers();
    let speed = |cluster: &Cluster| (0..4).map(|_| bytes_a_second(cluster)).max().unwrap();
    let alone = speed(&cluster);
    let over = AtomicBool::new(false);
    let asked = AtomicU64::new(0);
    let (before, after, beside) = std::thread::scope(|scope| {
        let deaf: Vec<Deaf> = (1..=3).map(|id| Deaf::call(&cluster, id)).collect();
        scope.spawn(|| ask_on(deaf, &asked, &over));
        let _over = Over(&over);
        until("its kernel and the member's queue are full", || {
            std::thread::sleep(Duration::from_millis(10));
            asked.load(Relaxed) > ENOUGH
        });
        let before = memory(&cluster);
        let beside = speed(&cluster);
        (before, memory(&cluster), beside)
    });
    assert!(after <= before + NOISE_KIB, "{before} KiB, then {after} KiB");
    assert!(2 * beside > alone, "{alone} bytes a second alone, {beside} beside it");
    let asked = asked.into_inner();
    cluster.rest();
    let text = Check::of(&cluster).run();
    cluster.leave_all();
    format!(
        "asked {asked} times: {before} KiB, then {after} KiB; {alone} B/s of notes alone, {beside} \
         beside it; {text}"
    )
}

/// Answers to this many questions, of some 4 KiB each, are more than anybody keeps: a MiB in the queue,
/// and what two kernels take.
const ENOUGH: u64 = 1_200;

/// Ends the asking, also if the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Asks all members, slowly: who asks faster than a member listens is cut off.
fn ask_on(mut deaf: Vec<Deaf>, asked: &AtomicU64, over: &AtomicBool) {
    while !over.load(Relaxed) {
        deaf.iter_mut().for_each(Deaf::ask);
        asked.fetch_add(1, Relaxed);
        std::thread::sleep(Duration::from_millis(1));
    }
}

struct Deaf {
    session: Box<Session>,
    sealer: Sealer,
}

impl Deaf {
    fn call(cluster: &Cluster, id: u64) -> Deaf {
        let name = door::socket_name(&cluster.near_name(1), 0);
        let probe = door::Hello::new(door::Kind::Probe, 9, true, "");
        let config = said(&name, probe, &[]).1.config;
        let (group, incarnation) = (cluster.group.clone(), 77);
        let secret =
            Some(Secret::from_file(cluster.sites.secret(&cluster.folder).as_ref()).unwrap());
        let mut hello = Hello::new(Kind::Enter, &group, 9, incarnation, &config);
        let long = "x".repeat(60);
        let name = format!("{long}.{long}.{long}.{long}:1");
        hello.addresses = vec![parse(&name, None).unwrap(); 16];
        let terms = Terms { group, secret, versions: Versions::OURS, incarnation };
        let address = cluster.sites.address(id).parse().unwrap();
        let mut call = Call::new(vec![address], None, Arc::new(terms), hello, TRY);
        let mut session = None;
        until("it is welcome", || {
            match call.step(Instant::now()) {
                Called::Waits => {}
                Called::Met(met) => session = Some(met),
                Called::Failed(failure) => panic!("{}", failure.refusal.error),
            }
            session.is_some()
        });
        let session = session.unwrap();
        let sealer = Sealer::new(&session.keys.as_ref().unwrap().send);
        Deaf { session, sealer }
    }

    fn ask(&mut self) {
        let mut record = Vec::new();
        Writer(&mut record).begin();
        Writer(&mut record).say(b"who\n");
        let length = record.len() - HEADER_BYTES + TAG_BYTES;
        finish(&mut record, length);
        self.sealer.seal(&mut record);
        let sent = send(self.session.socket.as_fd(), [Part::Bytes(&record)].into_iter());
        assert_eq!(sent, Ok(record.len()), "the member reads, and keeps the connection");
    }
}

/// What the members that run have in memory.
fn memory(cluster: &Cluster) -> u64 {
    let of = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    cluster.members.iter().map(|one| of(one.process.pid())).sum()
}

/// What a member has written down of its deliveries.
fn written(cluster: &Cluster, at: usize) -> u64 {
    let file = cluster.folder.join(cluster.members[at].id.to_string());
    std::fs::metadata(file).unwrap().len()
}

fn bytes_a_second(cluster: &Cluster) -> u64 {
    let (start, before) = (Instant::now(), written(cluster, 0));
    std::thread::sleep(Duration::from_millis(150));
    ((written(cluster, 0) - before) as f64 / start.elapsed().as_secs_f64()) as u64
}
