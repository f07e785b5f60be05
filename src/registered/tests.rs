// SPDX-License-Identifier: MIT OR Apache-2.0
//! Members in one thread, turned by hand: any order of steps, short socket buffers, fences, regions
//! that go. What R1 to R6 promise is looked at after every step.

use super::door::Shared;
use super::worker::Worker;
use super::*;
use crate::mem::cuda::{Device, standin};
use crate::mem::host::Buffer;
use crate::mutants::{caught, plant};
use rustix::net::sockopt::set_socket_send_buffer_size;
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

const MEMBERS: usize = 3;
/// Bytes of a region that each other member writes.
const SHARE: usize = 8 << 10;
/// Places of that length for the near end of operations.
const SLOTS: usize = 12;

mod soft;

/// As `sim::dice`, which is of a higher room.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

struct Member {
    owner: Owner,
    shared: Arc<Shared>,
    worker: Worker,
    memories: Memories,
}

impl Member {
    fn new(incarnation: u64) -> Member {
        let owner = Owner::running(incarnation, Box::new(|| ()), |_| ());
        let (shared, memories) = (owner.shared(), owner.memories());
        Member { owner, shared, worker: Worker::default(), memories }
    }

    fn polled(&self) -> Vec<Completion> {
        let mut places = [Completion::NONE; 7];
        let count = self.memories.poll(&mut places);
        places[..count].to_vec()
    }
}

/// Opens what is asked for.
fn connect(members: &mut [Member]) {
    for at in 0..members.len() {
        for whom in members[at].owner.wants() {
            let (mine, theirs) = UnixStream::pair().unwrap();
            for end in [&mine, &theirs] {
                set_socket_send_buffer_size(end, 4096).unwrap();
            }
            let me = members[at].shared.incarnation;
            members[at].owner.opened(whom, Some(Box::new(mine)));
            let there = members.iter().find(|of| of.shared.incarnation == whom).unwrap();
            there.owner.offered(me, Box::new(theirs)).unwrap();
        }
    }
}

fn bytes_of(buffer: &Buffer, at: usize, len: usize) -> Vec<u8> {
    let mut words = vec![0; (len + at % 8).div_ceil(8)];
    buffer.read(at / 8, &mut words);
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes[at % 8..at % 8 + len].to_vec()
}

/// An operation that is open.
struct Open {
    what: What,
    by: usize,
    at_member: usize,
    at: usize,
    slot: usize,
    /// What is to be there when it is over.
    bytes: Vec<u8>,
}

struct World {
    dice: Dice,
    network: Arc<soft::Network>,
    members: Vec<Member>,
    windows: Vec<(Buffer, Ticket, u64)>,
    purses: Vec<(Buffer, u64)>,
    open: BTreeMap<u64, Open>,
    tags: u64,
    /// By who writes and whose memory it is: what is there in the end, and by which operation; `None`:
    /// some have failed.
    model: BTreeMap<(usize, usize), Option<Vec<(u8, u64)>>>,
    /// What must not change any more: of a window, from there on.
    frozen: Vec<(usize, usize, Vec<u8>)>,
    fenced: Vec<(usize, usize)>,
    announced: BTreeMap<u64, u64>,
}

impl World {
    fn new(seed: u64) -> World {
        let members: Vec<Member> = (0..MEMBERS as u64).map(|at| Member::new(100 + at)).collect();
        let network = soft::Network::new();
        // With devices at all, at some, or at none.
        let with = [0, 3, 2][seed as usize / 2 % 3];
        members[..with].iter().for_each(|member| member.owner.use_device(network.device()));
        let both = Rights { read: true, write: true };
        let register = |of: &Member, bytes: usize, rights| {
            let buffer = Buffer::new(bytes / 8);
            network.knows(&buffer);
            let number = of.memories.register(Place::Host(buffer.lend()), rights, false).unwrap();
            (buffer, number)
        };
        let window = |of: &Member| {
            let (buffer, number) = register(of, MEMBERS * SHARE, both);
            (buffer, of.memories.ticket(number).unwrap(), number)
        };
        let windows = members.iter().map(window).collect();
        let purses = members.iter().map(|of| register(of, SLOTS * SHARE, Rights::default()));
        let purses = purses.collect();
        let pairs = (0..MEMBERS).flat_map(|by| (0..MEMBERS).map(move |at| (by, at)));
        let model = pairs.map(|pair| (pair, Some(vec![(0, 0); SHARE]))).collect();
        World {
            dice: Dice(seed),
            network,
            members,
            windows,
            purses,
            open: BTreeMap::new(),
            tags: 0,
            model,
            frozen: Vec::new(),
            fenced: Vec::new(),
            announced: BTreeMap::new(),
        }
    }

    fn issue(&mut self) {
        let (by, whose) = (self.dice.below(MEMBERS), self.dice.below(MEMBERS));
        let ticket = self.windows[whose].1;
        let taken = |slot: &usize| self.open.values().any(|of| of.by == by && of.slot == *slot);
        let Some(slot) = (0..SLOTS).find(|slot| !taken(slot)) else { return };
        let len = [0, 1, 8, 77, 1000, SHARE][self.dice.below(6)];
        let at = self.dice.below(SHARE - len + 1);
        self.tags += 1;
        let (tag, what) = (self.tags, [What::Put, What::Get][self.dice.below(2)]);
        let announce = (what == What::Put && self.dice.below(4) == 0).then_some(tag);
        let (purse, region) = &self.purses[by];
        let fill: Vec<u64> = (0..SHARE as u64 / 8)
            .map(|at| (tag << 32 | at).wrapping_mul(0x9e37_79b9_7f4a_7c15))
            .collect();
        purse.write(slot * SHARE / 8, &fill);
        let access = Access {
            region: *region,
            offset: (slot * SHARE) as u64,
            ticket,
            at: (by * SHARE + at) as u64,
            bytes: len as u64,
            tag,
            announce,
        };
        let memories = &self.members[by].memories;
        let asked = if what == What::Put { memories.put(&access) } else { memories.get(&access) };
        if let Err(error) = asked {
            assert_eq!(error.status, Status::Gone);
            assert!(self.fenced.contains(&(by, whose)));
            return;
        }
        let mut bytes = bytes_of(purse, slot * SHARE, len);
        if let Some(model) = self.model.get_mut(&(by, whose)).unwrap() {
            let there = &mut model[at..at + len];
            match what {
                What::Put => there.iter_mut().zip(&bytes).for_each(|(of, byte)| *of = (*byte, tag)),
                _ => bytes = there.iter().map(|(byte, _)| *byte).collect(),
            }
        }
        if let Some(word) = announce {
            self.announced.insert(word, tag);
        }
        self.open.insert(tag, Open { what, by, at_member: whose, at, slot, bytes });
    }

    /// What `of` has put is there, as far as nothing that was asked later goes over it.
    fn look(&self, tag: u64, of: &Open) {
        let Some(Some(model)) = self.model.get(&(of.by, of.at_member)) else { return };
        let there = bytes_of(&self.windows[of.at_member].0, of.by * SHARE + of.at, of.bytes.len());
        let model = &model[of.at..of.at + of.bytes.len()];
        for ((byte, there), (_, last)) in of.bytes.iter().zip(there).zip(model) {
            assert!(*last != tag || *byte == there, "R2: it is over, and its bytes are not there");
        }
    }

    fn poll(&mut self, member: usize) {
        for of in self.members[member].polled() {
            if of.what == What::Announced {
                let tag = self.announced.remove(&of.word).expect("R4: announced once");
                if let Some(open) = self.open.get(&tag) {
                    assert_eq!(open.at_member, member);
                    self.look(tag, open);
                }
                continue;
            }
            let open = self.open.remove(&of.tag).expect("R1: it is over once");
            assert_eq!((open.by, open.what), (member, of.what));
            let pair = (open.by, open.at_member);
            let earlier = self.open.values().any(|of| (of.by, of.at_member) == pair)
                && self.open.iter().any(|(tag, it)| *tag < of.tag && (it.by, it.at_member) == pair);
            assert!(!earlier, "R3: in the order of issue");
            if of.status != Status::Ok {
                let cut = [pair, (pair.1, pair.0)].iter().any(|pair| self.fenced.contains(pair));
                assert!(cut || of.status == Status::NoRegion, "{:?}", of.status);
                self.model.insert(pair, None);
                continue;
            }
            match open.what {
                What::Put => self.look(of.tag, &open),
                _ if self.model[&pair].is_some() => {
                    let there =
                        bytes_of(&self.purses[member].0, open.slot * SHARE, open.bytes.len());
                    assert!(there == open.bytes, "R2, R3: what was got is what was put before");
                }
                _ => {}
            }
        }
    }

    fn still(&self) {
        for (member, from, bytes) in &self.frozen {
            let there = bytes_of(&self.windows[*member].0, *from, bytes.len());
            assert!(there == *bytes, "R5, R6: memory changes that nobody may touch");
        }
    }

    fn freeze(&mut self, member: usize, from: usize, len: usize) {
        let there = bytes_of(&self.windows[member].0, from, len);
        self.frozen.push((member, from, there));
    }

    fn step(&mut self, faults: bool) {
        let member = self.dice.below(MEMBERS);
        if self.dice.below(3) == 0 {
            let which = self.dice.below(16);
            self.network.step(which);
        }
        match self.dice.below(if faults { 200 } else { 196 }) {
            0..60 => self.issue(),
            60..150 => {
                let Member { worker, shared, .. } = &mut self.members[member];
                worker.round(shared);
            }
            // What is fenced now is not in the mail yet.
            150..170 => {
                let Member { worker, shared, .. } = &mut self.members[member];
                worker.go_round(shared);
            }
            170..190 => self.poll(member),
            190..196 => connect(&mut self.members),
            196..199 => {
                let whom = self.dice.below(MEMBERS);
                if whom != member {
                    self.members[member].owner.fence(100 + whom as u64);
                    self.fenced.push((member, whom));
                    self.freeze(member, whom * SHARE, SHARE);
                    self.model.insert((whom, member), None);
                }
            }
            _ => {
                let number = self.windows[member].2;
                if number != 0 && self.dice.below(4) == 0 {
                    self.windows[member].2 = 0;
                    self.members[member].memories.deregister(number).unwrap();
                    self.freeze(member, 0, MEMBERS * SHARE);
                    (0..MEMBERS).for_each(|by| drop(self.model.insert((by, member), None)));
                }
            }
        }
        self.still();
    }

    fn run(seed: u64) {
        let mut world = World::new(seed);
        let faults = seed % 2 == 1;
        (0..600).for_each(|_| world.step(faults));
        for _ in 0..2000 {
            connect(&mut world.members);
            (0..16).for_each(|which| world.network.step(which));
            for member in 0..MEMBERS {
                let Member { worker, shared, .. } = &mut world.members[member];
                worker.round(shared);
                world.poll(member);
            }
            world.still();
            if world.open.is_empty() {
                break;
            }
        }
        assert!(world.open.is_empty(), "R1: {} operations are never over", world.open.len());
        for ((by, whose), model) in &world.model {
            let Some(model) = model else { continue };
            let there = bytes_of(&world.windows[*whose].0, by * SHARE, SHARE);
            assert!(model.iter().map(|(byte, _)| *byte).eq(there), "{by} at {whose}");
            assert!(faults || world.announced.is_empty(), "R4: announced");
        }
    }
}

fn seeds() -> u64 {
    std::env::var("SQUALL_MEMORY_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60)
}

#[test]
fn memory_is_what_was_put_whatever_the_order_of_steps() {
    (0..seeds()).for_each(World::run);
}

#[test]
fn each_memory_mutant_dies() {
    let mutants = [
        "memory-fence-unseen",
        "memory-announced-early",
        "memory-not-taken-back",
        "memory-overtakes",
        "memory-queue-left",
        "memory-refused-again",
    ];
    for mutant in mutants {
        plant(Some(mutant));
        let died = (0..400).any(|seed| caught(|| World::run(seed)).is_err());
        plant(None);
        assert!(died, "{mutant} survives");
    }
}

/// A step that has begun is waited for; later ones see what may not be touched.
#[test]
fn a_fence_waits_for_the_step_that_is_under_way() {
    let passes = |mutant: Option<&'static str>, fence: fn(&Member, u64)| {
        let member = Arc::new(Member::new(1));
        let buffer = Buffer::new(8);
        let memories = &member.memories;
        let region = memories.register(Place::Host(buffer.lend()), Rights::default(), false);
        let region = region.unwrap();
        assert!(member.shared.enter(7, region).unwrap().is_some());
        let theirs = member.clone();
        let fencing = std::thread::spawn(move || {
            plant(mutant);
            fence(&theirs, region);
        });
        // A fence that waits is given a moment to show that it does not; one that must not wait, all
        // the time that a loaded machine takes.
        let patience = Duration::from_millis(if mutant.is_some() { 60_000 } else { 30 });
        let since = std::time::Instant::now();
        while !fencing.is_finished() && since.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
        let early = fencing.is_finished();
        member.shared.leave();
        fencing.join().unwrap();
        early
    };
    let fences: [fn(&Member, u64); 3] = [
        |member, _| member.owner.fence(7),
        |member, region| member.memories.deregister(region).unwrap(),
        |member, _| member.owner.stop(Status::Left),
    ];
    for fence in fences {
        assert!(!passes(None, fence));
        assert!(passes(Some("memory-step-not-awaited"), fence));
    }
}

/// Two members, of which the first asks; turns them until nothing goes on.
struct Two([Member; 2]);

impl Two {
    fn new() -> Two {
        Two([Member::new(1), Member::new(2)])
    }

    fn settle(&mut self) {
        for _ in 0..200 {
            connect(&mut self.0);
            for Member { worker, shared, .. } in &mut self.0 {
                worker.round(shared);
            }
        }
    }

    /// How one operation of the first comes out.
    fn outcome(&mut self, put: bool, access: &Access) -> Status {
        let memories = &self.0[0].memories;
        let asked = if put { memories.put(access) } else { memories.get(access) };
        asked.unwrap();
        self.settle();
        let over = self.0[0].polled();
        assert_eq!(over.len(), 1);
        over[0].status
    }
}

fn lend(member: &Member, words: usize, rights: Rights) -> (Buffer, u64) {
    let buffer = Buffer::new(words);
    let region = member.memories.register(Place::Host(buffer.lend()), rights, false);
    (buffer, region.unwrap())
}

const BOTH: Rights = Rights { read: true, write: true };
const NEITHER: Rights = Rights { read: false, write: false };

/// Whatever a ticket says, the owner decides.
#[test]
fn the_owner_decides_and_says_why_not() {
    let mut two = Two::new();
    let (_mine, region) = lend(&two.0[0], 512, NEITHER);
    let (theirs, shown) = lend(&two.0[1], 512, Rights { read: true, write: false });
    let (_other, hidden) = lend(&two.0[1], 512, Rights { read: false, write: true });
    let (offset, at, bytes, tag, announce) = (0, 0, 4096, 5, None);
    let of = |number: u64, length: u64| {
        let ticket = Ticket::new(2, number, length, BOTH); // forged
        Access { region, offset, ticket, at, bytes, tag, announce }
    };
    theirs.write(0, &[7; 512]);
    assert_eq!(two.outcome(true, &of(shown, 4096)), Status::Denied);
    assert_eq!(two.outcome(false, &of(hidden, 4096)), Status::Denied);
    assert_eq!(two.outcome(false, &of(shown, 4096)), Status::Ok);
    assert_eq!(two.outcome(true, &of(hidden, 4096)), Status::Ok);
    let beyond = Access { at: 4090, ..of(shown, 1 << 40) };
    assert_eq!(two.outcome(false, &beyond), Status::Invalid);
    assert_eq!(
        two.outcome(true, &Access { at: u64::MAX - 4096, ..of(hidden, u64::MAX) }),
        Status::Invalid
    );
    assert_eq!(two.outcome(true, &of(99, 4096)), Status::NoRegion);
    assert_eq!(two.outcome(false, &of(99, 4096)), Status::NoRegion);
    assert_eq!(two.outcome(false, &of(shown, 4096)), Status::Ok, "the stream goes on");
    plant(Some("memory-rights-unasked"));
    assert_eq!(two.outcome(true, &of(shown, 4096)), Status::Ok, "the planted fault is one");
    plant(None);
}

#[test]
fn what_cannot_be_is_refused_at_once() {
    let two = Two::new();
    let (_mine, region) = lend(&two.0[0], 8, NEITHER);
    let (_theirs, theirs) = lend(&two.0[1], 8, Rights { read: true, write: false });
    let ticket = two.0[1].memories.ticket(theirs).unwrap();
    let memories = &two.0[0].memories;
    let (offset, at, bytes, tag, announce) = (0, 0, 64, 0, None);
    let sound = Access { region, offset, ticket, at, bytes, tag, announce };
    let refused = |access: Access| memories.get(&access).unwrap_err().status;
    assert_eq!(memories.put(&sound).unwrap_err().status, Status::Denied);
    assert_eq!(refused(Access { at: 1, ..sound }), Status::Invalid);
    assert_eq!(refused(Access { offset: u64::MAX, ..sound }), Status::Invalid);
    assert_eq!(refused(Access { region: 9, ..sound }), Status::Invalid);
    assert_eq!(
        memories.register(Place::Host(Buffer::new(1).lend()), BOTH, true).unwrap_err().status,
        Status::NotDirect
    );
    for _ in 0..OPEN_MAX {
        memories.get(&sound).unwrap();
    }
    assert_eq!(refused(sound), Status::Again);
    assert_eq!(memories.deregister(region).unwrap_err().status, Status::Again);
    two.0[0].owner.fence(2);
    assert_eq!(refused(sound), Status::Gone);
    two.0[0].owner.stop(Status::Expelled);
    assert_eq!(refused(sound), Status::Expelled);
}

/// W2: what is left in a stream that was given up does not land on what comes by the next one.
#[test]
fn a_stream_that_was_given_up_is_not_read_any_more() {
    let streams = |mutant: Option<&'static str>| {
        let mut two = Two::new();
        let (mine, region) = lend(&two.0[0], 8, NEITHER);
        let (theirs, number) = lend(&two.0[1], 8, BOTH);
        let ticket = two.0[1].memories.ticket(number).unwrap();
        let (offset, at, bytes, tag, announce) = (0, 0, 64, 0, None);
        let access = Access { region, offset, ticket, at, bytes, tag, announce };
        let Two([one, other]) = &mut two;
        plant(mutant);
        let mut kept = Vec::new();
        for value in [1, 2] {
            mine.write(0, &[value; 8]);
            one.memories.put(&access).unwrap();
            one.worker.round(&one.shared);
            let (near, far) = UnixStream::pair().unwrap();
            kept.push(near.try_clone().unwrap()); // the other sees no end of it
            one.owner.opened(2, Some(Box::new(near)));
            other.owner.offered(1, Box::new(far)).unwrap();
            one.worker.round(&one.shared);
            if value == 1 {
                one.owner.opened(2, None);
                one.worker.round(&one.shared);
                assert_eq!(one.polled()[0].status, Status::Gone);
            }
        }
        other.worker.round(&other.shared);
        let streams = other.worker.targets();
        for _ in 0..20 {
            other.worker.round(&other.shared);
            one.worker.round(&one.shared);
        }
        plant(None);
        let mut words = [0; 8];
        theirs.read(0, &mut words);
        assert_eq!((words, one.polled()[0].status), ([2; 8], Status::Ok));
        streams
    };
    assert_eq!(streams(None), 1);
    assert_eq!(streams(Some("memory-two-streams")), 2, "the planted fault is one");
}

/// Who does not poll holds up those that announce, and they lose nothing.
#[test]
fn announcements_wait_for_room() {
    let mut two = Two::new();
    let (_mine, region) = lend(&two.0[0], 8, NEITHER);
    let (_theirs, theirs) = lend(&two.0[1], 8, BOTH);
    let ticket = two.0[1].memories.ticket(theirs).unwrap();
    let (mut sent, mut over, mut heard) = (0u64, 0, 0u64);
    while over < ANNOUNCED_MAX as u64 + 3 {
        let (offset, at, bytes, tag, announce) = (0, 0, 8, sent, Some(sent));
        let access = Access { region, offset, ticket, at, bytes, tag, announce };
        sent +=
            u64::from(sent < ANNOUNCED_MAX as u64 + 3 && two.0[0].memories.put(&access).is_ok());
        connect(&mut two.0);
        for Member { worker, shared, .. } in &mut two.0 {
            worker.round(shared);
        }
        over += two.0[0].polled().len() as u64;
        if over < ANNOUNCED_MAX as u64 && sent < ANNOUNCED_MAX as u64 + 3 {
            continue;
        }
        two.settle();
        over += two.0[0].polled().len() as u64;
        if over == ANNOUNCED_MAX as u64 || heard > 0 {
            for announced in two.0[1].polled() {
                assert_eq!((announced.word, announced.incarnation), (heard, 1));
                heard += 1;
            }
        }
    }
    assert!(heard >= 3);
}

/// Threads and all.
#[test]
fn bytes_go_there_and_back_between_threads() {
    let owners = [1, 2].map(|incarnation| Owner::new(incarnation, Box::new(|| ())));
    let words = 300_000;
    let (mine, theirs) = (Buffer::new(words), Buffer::new(words));
    let memories = owners.each_ref().map(Owner::memories);
    let region = memories[0].register(Place::Host(mine.lend()), NEITHER, false).unwrap();
    let other = memories[1].register(Place::Host(theirs.lend()), BOTH, false).unwrap();
    let ticket = memories[1].ticket(other).unwrap();
    let wanted: Vec<u64> = (0..words as u64).map(|word| word * 3 + 1).collect();
    mine.write(0, &wanted);
    let (offset, at, bytes, tag, announce) = (0, 0, 8 * words as u64, 0, Some(77));
    let put = Access { region, offset, ticket, at, bytes, tag, announce };
    memories[0].put(&put).unwrap();
    while !owners[0].is_wanted() {
        std::thread::yield_now();
    }
    assert_eq!(owners[0].wants(), [2]);
    let (one, two) = UnixStream::pair().unwrap();
    owners[0].opened(2, Some(Box::new(one)));
    owners[1].offered(1, Box::new(two)).unwrap();
    let mut places = [Completion::NONE; 2];
    assert!(memories[1].wait(None).unwrap() && memories[1].poll(&mut places) == 1);
    assert_eq!((places[0].word, places[0].what, places[0].bytes), (77, What::Announced, bytes));
    let mut there = vec![0; words];
    theirs.read(0, &mut there);
    assert!(there == wanted);
    assert!(memories[0].wait(None).unwrap() && memories[0].poll(&mut places) == 1);
    assert_eq!((places[0].status, places[0].what), (Status::Ok, What::Put));
    mine.write(0, &vec![0; words]);
    memories[0].get(&Access { announce: None, ..put }).unwrap();
    assert!(memories[0].wait(None).unwrap() && memories[0].poll(&mut places) == 1);
    mine.read(0, &mut there);
    assert!(places[0].status == Status::Ok && there == wanted);
    assert!(!memories[0].wait(Some(Duration::from_millis(1))).unwrap());
    // The other one ends in the middle.
    memories[0].get(&Access { announce: None, ..put }).unwrap();
    let [first, second] = owners;
    drop(second);
    assert!(memories[0].wait(None).unwrap() && memories[0].poll(&mut places) == 1);
    assert!([Status::Gone, Status::Ok].contains(&places[0].status));
    drop(first);
    assert_eq!(memories[0].get(&put).unwrap_err().status, Status::Closed);
}

/// Memory of my own is reached in the same way.
#[test]
fn a_member_reaches_itself() {
    let mut two = Two::new();
    let (mine, region) = lend(&two.0[0], 8, BOTH);
    let ticket = two.0[0].memories.ticket(region).unwrap();
    mine.write(0, &[1, 2, 3, 4, 0, 0, 0, 0]);
    let (offset, at, bytes, tag, announce) = (0, 32, 32, 0, None);
    let access = Access { region, offset, ticket, at, bytes, tag, announce };
    assert_eq!(two.outcome(true, &access), Status::Ok);
    let mut words = [0; 8];
    mine.read(0, &mut words);
    assert_eq!(words, [1, 2, 3, 4, 1, 2, 3, 4]);
}

/// Device to device: through pinned memory on both sides, visible before it is announced, and what the
/// driver refuses is told.
#[test]
fn memory_of_a_device_is_there_before_it_is_announced() {
    let Some(standin) = standin::load() else { return };
    let mut two = Two::new();
    let [mine, theirs] = [0, 1].map(|_| standin.alloc(600_000));
    let register = |member: &Member, address: u64, rights: Rights| {
        let device = Device::new(standin.cuda, address, 600_000).unwrap();
        member.memories.register(Place::Device(device), rights, false).unwrap()
    };
    let region = register(&two.0[0], mine, NEITHER);
    let there = register(&two.0[1], theirs, BOTH);
    assert_eq!(two.0[1].memories.info(there).unwrap().path, Path::Bounce);
    let pattern: Vec<u8> = (0..600_000).map(|at| (at % 251) as u8).collect();
    standin.poke(mine, &pattern);
    let ticket = two.0[1].memories.ticket(there).unwrap();
    let (offset, at, bytes, tag, announce) = (0, 0, 600_000, 5, Some(9));
    let access = Access { region, offset, ticket, at, bytes, tag, announce };
    let arrived = |two: &mut Two| {
        two.0[0].memories.put(&access).unwrap();
        loop {
            connect(&mut two.0);
            for Member { worker, shared, .. } in &mut two.0 {
                worker.round(shared);
            }
            if let Some(heard) = two.0[1].polled().pop() {
                assert_eq!(heard.word, 9);
                let mut bytes = vec![0; 600_000];
                standin.peek(theirs, &mut bytes);
                return bytes == pattern;
            }
        }
    };
    assert!(arrived(&mut two), "R2");
    two.settle();
    assert_eq!(two.0[0].polled()[0].status, Status::Ok);
    standin.poke(mine, &vec![0; 600_000]);
    assert_eq!(two.outcome(false, &Access { announce: None, ..access }), Status::Ok);
    let mut bytes = vec![0; 600_000];
    standin.peek(mine, &mut bytes);
    assert!(bytes == pattern);
    standin.poke(theirs, &vec![0; 600_000]);
    plant(Some("cuda-not-synchronised"));
    let early = arrived(&mut two);
    plant(None);
    assert!(!early, "the planted fault is one");
    two.settle();
    two.0[0].polled();
    standin.fail(Some(c"cuMemcpyHtoDAsync"));
    assert_eq!(two.outcome(true, &access), Status::System);
    assert!(two.0[1].polled().is_empty(), "what has failed is not announced");
    assert_eq!(two.outcome(false, &Access { announce: None, ..access }), Status::System);
}

mod nonsense {
    use super::*;
    use crate::registered::wire::{Kind, Record};
    use proptest::prelude::*;
    use std::io::{Read, Write};

    proptest! {
        /// Nothing that a peer sends makes this member do more than hang up.
        #[test]
        fn fuzz_any_bytes_are_asked(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            kinds in proptest::collection::vec(0u8..7, 0..8),
        ) {
            let mut member = Member::new(1);
            let (buffer, region) = lend(&member, 8, BOTH);
            let (mut theirs, mine) = UnixStream::pair().unwrap();
            member.owner.offered(9, Box::new(mine)).unwrap();
            theirs.write_all(&Record::of(Kind::Hello).encode()).unwrap();
            for (number, kind) in kinds.iter().enumerate() {
                let mut record =
                    Record { number: number as u64, region, bytes: 8, ..Record::of(Kind::Put) }.encode();
                record[5] = *kind;
                theirs.write_all(&record).unwrap();
            }
            theirs.write_all(&bytes).unwrap();
            theirs.set_nonblocking(true).unwrap();
            let Member { worker, shared, .. } = &mut member;
            for _ in 0..40 {
                worker.round(shared);
                let _ = theirs.read(&mut [0; 4096]);
            }
            drop(buffer);
        }

        /// The same of what answers.
        #[test]
        fn fuzz_any_bytes_are_answered(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            answers in proptest::collection::vec((3u8..6, 0u64..3, 0u64..70, -25i64..3), 0..6),
        ) {
            let mut member = Member::new(1);
            let (_buffer, region) = lend(&member, 8, BOTH);
            let ticket = Ticket::new(2, 1, 64, BOTH);
            let (offset, at, tag, announce) = (0, 0, 0, None);
            let access = Access { region, offset, ticket, at, bytes: 64, tag, announce };
            member.memories.get(&access).unwrap();
            member.memories.put(&access).unwrap();
            let Member { worker, shared, owner, .. } = &mut member;
            worker.round(shared);
            let (mut theirs, mine) = UnixStream::pair().unwrap();
            owner.opened(2, Some(Box::new(mine)));
            for (kind, number, bytes, status) in answers {
                let mut record = Record { number, bytes, status, ..Record::of(Kind::Done) }.encode();
                record[5] = kind;
                theirs.write_all(&record).unwrap();
            }
            theirs.write_all(&bytes).unwrap();
            drop(theirs);
            for _ in 0..40 {
                worker.round(shared);
            }
            let over = member.polled();
            prop_assert_eq!(over.len(), 2, "R1");
        }
    }
}
