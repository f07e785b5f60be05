// SPDX-License-Identifier: MIT OR Apache-2.0
//! Transfers between real threads over real sockets: the figures, and the ways in which one of the
//! two sides goes.

use super::*;
use crate::base::{Epoch, Number};
use crate::mem::Cell;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

const COUNTERS: usize = 1 << 13;
const MESSAGE_BYTES: usize = 100;

/// A state of fixed bytes and of counters that each message changes.
#[derive(Clone, PartialEq)]
struct Store {
    fixed: Arc<Vec<u8>>,
    counters: Vec<u64>,
    applied: u64,
}

impl Store {
    fn new(bytes: usize) -> Store {
        let fixed =
            (0..bytes as u64 / 8).flat_map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        Store { fixed: Arc::new(fixed.collect()), counters: vec![0; COUNTERS], applied: 0 }
    }

    fn apply(&mut self, message: &Message) {
        let at = message.number as usize % COUNTERS;
        let word = u64::from_le_bytes(message.bytes()[..8].try_into().unwrap());
        self.counters[at] = self.counters[at].rotate_left(7) ^ word ^ message.number;
        self.applied += 1;
    }

    fn checksum(&self) -> (u32, u64) {
        let counters: Vec<u8> = self.counters.iter().flat_map(|word| word.to_le_bytes()).collect();
        (crc32c::crc32c(&self.fixed), u64::from(crc32c::crc32c(&counters)) ^ self.applied << 32)
    }
}

/// The counters, then what is fixed.
struct Fixed(Vec<u8>, Arc<Vec<u8>>, usize);

impl Checkpoint for Fixed {
    fn read(&mut self, place: &mut [u8]) -> Result<usize, Error> {
        let Fixed(first, second, at) = self;
        let rest = if *at < first.len() { &first[*at..] } else { &second[*at - first.len()..] };
        let len = rest.len().min(place.len());
        place[..len].copy_from_slice(&rest[..len]);
        *at += len;
        Ok(len)
    }
}

impl StateSource for Store {
    fn checkpoint_open(&mut self, _version: &Version) -> Result<Box<dyn Checkpoint>, Error> {
        let words = self.counters.iter().chain(std::iter::once(&self.applied));
        let first = words.flat_map(|word| word.to_le_bytes()).collect();
        Ok(Box::new(Fixed(first, self.fixed.clone(), 0)))
    }
}

/// A joiner's.
struct Loads {
    bytes: Vec<u8>,
    store: Store,
    begun: u64,
    loaded_after: Duration,
    start: Instant,
    slow: Duration,
}

impl Loads {
    fn new(bytes: usize, slow: Duration) -> Loads {
        let bytes = Vec::with_capacity(bytes + 8 * COUNTERS + 8);
        let start = Instant::now();
        Loads { bytes, store: Store::new(0), begun: 0, loaded_after: Duration::ZERO, start, slow }
    }
}

impl StateSink for Loads {
    fn begin(&mut self, _version: &Version) -> Result<(), Error> {
        self.begun += 1;
        self.bytes.clear();
        self.start = Instant::now();
        Ok(())
    }

    fn load(&mut self, chunk: &[u8]) -> Result<(), Error> {
        if !self.slow.is_zero() {
            thread::sleep(self.slow);
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    fn loaded(&mut self) -> Result<(), Error> {
        self.loaded_after = self.start.elapsed();
        let mut words = record::Fields(&self.bytes);
        for at in 0..COUNTERS {
            self.store.counters[at] = words.u64().unwrap();
        }
        self.store.applied = words.u64().unwrap();
        self.bytes.drain(..8 * COUNTERS + 8);
        self.store.fixed = Arc::new(std::mem::take(&mut self.bytes));
        Ok(())
    }

    fn deliver(&mut self, _subgroup: u16, batch: &[Message]) {
        batch.iter().for_each(|message| self.store.apply(message));
    }
}

fn version(number: u64) -> Version {
    let position = Position { subgroup: 0, ordered: true, number: Number(number) };
    Version { epoch: Epoch(1), positions: vec![position], members: vec![1] }
}

/// A member that delivers so many messages a second, and what the transfer costs it.
struct Member {
    store: Store,
    feed: Option<Feed>,
    delivered: u64,
    appended: u64,
    append_ns: u64,
    /// The longest time from one round to the next, `checkpoint_open` left out.
    gap_max: Duration,
    asked: Option<Instant>,
    /// Of the transfer, if this member waits when the tape fills.
    source: Option<Arc<Progress>>,
    payload: [u8; MESSAGE_BYTES],
}

impl Member {
    fn new(store: Store, feed: Feed) -> Member {
        Member {
            store,
            feed: Some(feed),
            delivered: 0,
            appended: 0,
            append_ns: 0,
            gap_max: Duration::ZERO,
            asked: None,
            source: None,
            payload: [7; MESSAGE_BYTES],
        }
    }

    fn deliver(&mut self, count: u64) {
        let mut batch = Vec::with_capacity(512);
        for at in 0..count.min(512) {
            let number = self.delivered + at;
            batch.push(Message::new(&self.payload, 0, 0, number, 5));
        }
        batch.iter().for_each(|message| self.store.apply(message));
        self.delivered += batch.len() as u64;
        let start = Instant::now();
        if let Some(feed) = &mut self.feed {
            feed.append(0, &batch);
            self.append_ns += start.elapsed().as_nanos() as u64;
            self.appended += batch.len() as u64;
        }
    }

    /// Delivers `per_s` messages a second until the transfer is over, or the end is sent. A view
    /// change takes 5 ms.
    fn run(&mut self, per_s: u64) {
        let mut start = Instant::now();
        let mut last = start;
        while self.feed.is_some() {
            let now = Instant::now();
            let gap = now - last;
            last = now;
            self.gap_max = self.gap_max.max(gap);
            if gap > Duration::from_millis(50) {
                start += gap; // who was stopped has nothing to make up for
            }
            if self.source.as_ref().is_some_and(|of| crowds(&of.read())) {
                start += gap; // nor has who waits for a slow machine
            }
            let due = now.duration_since(start).as_nanos() as u64 * per_s / 1_000_000_000;
            if due > self.delivered {
                self.deliver(due - self.delivered);
            } else {
                thread::sleep(Duration::from_micros(20));
            }
            match self.feed.as_mut().unwrap().poll() {
                Ask::Nothing => (),
                Ask::Open => {
                    let version = version(self.delivered);
                    self.feed.as_mut().unwrap().open(&mut self.store, &version);
                    last = Instant::now();
                }
                Ask::Join => self.asked = Some(Instant::now()),
                Ask::Over => drop(self.feed.take()),
            }
            if self.asked.is_some_and(|asked| asked.elapsed() > Duration::from_millis(5)) {
                let finals = version(self.delivered).positions;
                let end = End { epoch: Epoch(2), finals, extra: b"roster and carry".to_vec() };
                if let Some(feed) = self.feed.take() {
                    assert!(feed.end(&end), "nearly caught up, so there is room");
                }
            }
        }
    }
}

/// Whether so much waits in the tape that it may be full soon: on a machine that is busy with something
/// else a state takes longer than a tape lasts, however long.
fn crowds(source: &Snapshot) -> bool {
    source.tape_filled > source.tape_bytes / 2
}

fn options(catchup_bytes: usize) -> Options {
    let near_bytes = (1 << 20).min(catchup_bytes as u64 / 4);
    let message_bytes_max = MESSAGE_BYTES as u32;
    Options {
        subgroups: vec![0],
        catchup_bytes,
        near_bytes,
        message_bytes_max,
        ..Options::default()
    }
}

/// Both ends of a transfer, the joiner's not begun.
fn connected(options: &Options) -> (Feed, Handle, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (feed, handle) = start(Socket(ours), options, Box::new(|| ())).unwrap();
    (feed, handle, theirs)
}

/// Waits for the transfer thread, and says how it ended.
fn outcome(handle: &Handle) -> Result<(), Failure> {
    while !handle.is_finished() {
        thread::sleep(Duration::from_millis(1));
    }
    handle.outcome().cloned().expect("a thread that has ended has said how")
}

fn transferred(state_bytes: usize, per_s: u64) {
    let store = Store::new(state_bytes);
    let options = options(64 << 20);
    let (feed, handle, theirs) = connected(&options);
    let sink = Loads::new(state_bytes, Duration::ZERO);
    let progress = Arc::new(Progress::default());
    let joiner = {
        let (options, progress, mut sink) = (options.clone(), progress.clone(), sink);
        thread::spawn(move || {
            let start = Instant::now();
            let end = receive(&mut Socket(theirs), &options, &mut sink, progress);
            (end, sink, start.elapsed())
        })
    };
    let mut member = Member::new(store, feed);
    member.source = Some(handle.progress().clone());
    member.run(per_s);
    let (end, sink, took) = joiner.join().unwrap();
    assert_eq!(end.unwrap().extra, b"roster and carry");
    assert_eq!(outcome(&handle), Ok(()));
    assert_eq!(sink.store.checksum(), member.store.checksum(), "the state is the same");
    assert!(sink.store == member.store);
    let (source, joiner) = (handle.progress().read(), progress.read());
    assert_eq!((source.phase, joiner.phase), (Phase::Done, Phase::Done));
    assert_eq!(joiner.state_bytes as usize, state_bytes + 8 * COUNTERS + 8);
    assert_eq!(source.catchup_messages, joiner.catchup_messages);
    println!(
        "{} MiB of state in {:?} ({:.2} GB/s), {} messages after it, {} attempts; {took:?} in all",
        state_bytes >> 20,
        sink.loaded_after,
        joiner.state_bytes as f64 / sink.loaded_after.as_nanos() as f64,
        joiner.catchup_messages,
        sink.begun,
    );
    println!(
        "the member: checkpoint_open {} us, {} messages of {MESSAGE_BYTES} bytes at {per_s} a \
         second, {:.0} ns for each append, gap {:?}",
        source.open_ns / 1000,
        member.delivered,
        member.append_ns as f64 / member.appended as f64,
        member.gap_max,
    );
}

/// The figures of the issue: 256 MiB beside 100,000 messages a second.
#[test]
fn a_quarter_of_a_gibibyte_beside_traffic() {
    transferred(256 << 20, 100_000);
}

#[test]
fn a_small_state_without_traffic() {
    transferred(0, 1);
}

/// The same over TCP, between the same machines.
#[test]
fn a_small_state_over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let ours = listener.accept().unwrap().0;
    let options = options(64 << 10);
    let (feed, handle) = start(Socket(ours), &options, Box::new(|| ())).unwrap();
    let joiner = thread::spawn(move || {
        let mut sink = Loads::new(1 << 20, Duration::ZERO);
        let end = receive(&mut Socket(theirs), &options, &mut sink, Arc::default());
        (end.unwrap().epoch, sink)
    });
    let mut member = Member::new(Store::new(1 << 20), feed);
    member.run(100);
    let (epoch, sink) = joiner.join().unwrap();
    assert!(epoch == Epoch(2) && sink.store == member.store);
    assert_eq!(outcome(&handle), Ok(()));
}

/// The joiner takes long; the tape is small: it starts over as often as it may. The member goes on.
#[test]
fn a_slow_joiner_stops_nobody() {
    let options = Options { restarts_max: 2, catchup_bytes_max: 64 << 10, ..options(64 << 10) };
    let (feed, handle, theirs) = connected(&options);
    let joiner = thread::spawn(move || {
        let mut sink = Loads::new(1 << 20, Duration::from_millis(30));
        let taken = receive(&mut Socket(theirs), &Options::default(), &mut sink, Arc::default());
        (taken, sink.begun)
    });
    let mut member = Member::new(Store::new(4 << 20), feed);
    member.run(100_000);
    let failure = outcome(&handle).unwrap_err();
    assert_eq!(failure, Failure::Overflow { times: 3, bytes: 64 << 10 });
    let (taken, begun) = joiner.join().unwrap();
    let Err(Failure::Refused { status: Status::Limit, text }) = &taken else { panic!("{taken:?}") };
    assert!(text.contains("3 times") && begun <= 3, "{text}");
    assert!(taken.unwrap_err().may_pass());
    assert_eq!(handle.progress().read().attempts, 3);
    println!("gap of the member: {:?}", member.gap_max);
}

/// The first buffer is too small, a larger one is not.
#[test]
fn a_larger_buffer_helps() {
    let options = Options { catchup_bytes_max: 256 << 20, restarts_max: 12, ..options(64 << 10) };
    let (feed, handle, theirs) = connected(&options);
    let joiner = thread::spawn(move || {
        let mut sink = Loads::new(4 << 20, Duration::from_millis(20));
        let end = receive(&mut Socket(theirs), &options, &mut sink, Arc::default());
        (end.unwrap().epoch, sink)
    });
    let mut member = Member::new(Store::new(4 << 20), feed);
    member.run(20_000);
    let (epoch, sink) = joiner.join().unwrap();
    assert!(epoch == Epoch(2) && sink.begun > 1 && sink.store == member.store);
    assert_eq!(outcome(&handle), Ok(()));
    println!("{} attempts; gap of the member: {:?}", sink.begun, member.gap_max);
}

/// The joiner takes nothing at all: for so long, and no longer.
#[test]
fn a_joiner_that_stands_still_is_given_up() {
    let options = Options { patience: Duration::from_millis(300), ..options(64 << 10) };
    let (feed, handle, theirs) = connected(&options);
    Member::new(Store::new(4 << 20), feed).run(10);
    assert!(matches!(outcome(&handle), Err(Failure::Silent { .. })), "{:?}", handle.outcome());
    drop(theirs);
}

#[test]
fn a_joiner_that_dies_ends_its_transfer_only() {
    use std::io::Read;
    for bytes in [0, 10, 100_000, 1_000_000] {
        let (feed, handle, mut theirs) = connected(&options(64 << 10));
        let joiner = thread::spawn(move || {
            let mut came = vec![0; bytes];
            theirs.read_exact(&mut came).unwrap();
        });
        let mut member = Member::new(Store::new(4 << 20), feed);
        member.run(1000);
        assert_eq!(outcome(&handle), Err(Failure::Gone), "after {bytes} bytes");
        joiner.join().unwrap();
        let before = member.delivered;
        member.deliver(1);
        assert_eq!(member.delivered, before + 1);
    }
}

#[test]
fn a_source_that_dies_is_told_to_the_joiner() {
    for phase in [Phase::Opening, Phase::Loading, Phase::Catchup] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let killer = ours.try_clone().unwrap();
        let (feed, handle) = start(Socket(ours), &options(1 << 20), Box::new(|| ())).unwrap();
        let progress = Arc::new(Progress::default());
        let seen = progress.clone();
        let joiner = thread::spawn(move || {
            let mut sink = Loads::new(1 << 20, Duration::from_millis(1));
            receive(&mut Socket(theirs), &Options::default(), &mut sink, seen)
        });
        let over = Arc::new(Cell::new(0));
        let seen = over.clone();
        let kill = thread::spawn(move || {
            while progress.read().phase < phase {
                thread::yield_now();
            }
            killer.shutdown(std::net::Shutdown::Both).unwrap();
            seen.publish(1);
        });
        let mut member = Member::new(Store::new(1 << 20), feed);
        // Never near enough to end it well.
        while over.observe() == 0 || member.feed.is_some() {
            if let Some(feed) = &mut member.feed {
                match feed.poll() {
                    Ask::Open => feed.open(&mut member.store, &version(0)),
                    Ask::Over => drop(member.feed.take()),
                    _ => (),
                }
            }
            thread::yield_now();
        }
        kill.join().unwrap();
        let failure = joiner.join().unwrap().unwrap_err();
        assert!(failure == Failure::Gone && failure.may_pass(), "{failure:?}");
        assert_eq!(outcome(&handle), Err(Failure::Gone));
    }
}

/// A source that lives and says nothing: its process is stopped, say.
#[test]
fn a_source_that_stands_still_is_given_up() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let options = Options { patience: Duration::from_millis(200), ..Options::default() };
    let mut sink = Loads::new(0, Duration::ZERO);
    let taken = receive(&mut Socket(theirs), &options, &mut sink, Arc::default());
    assert!(matches!(taken, Err(Failure::Silent { .. })), "{taken:?}");
    drop(ours);
}

/// A polling thread that does not come to open a checkpoint, for longer than the joiner's patience:
/// the source lives, and says so.
#[test]
fn a_source_that_is_busy_is_waited_for() {
    let (mut feed, handle, theirs) = connected(&options(64 << 10));
    let joiner = thread::spawn(move || {
        let options = Options { patience: Duration::from_secs(2), ..Options::default() };
        let mut sink = Loads::new(0, Duration::ZERO);
        receive(&mut Socket(theirs), &options, &mut sink, Arc::default())
    });
    thread::sleep(Duration::from_millis(2500));
    while feed.poll() != Ask::Open {
        thread::yield_now();
    }
    feed.open(&mut Store::new(0), &version(0));
    // Nobody is joined before it is near and has asked for it.
    while feed.poll() != Ask::Join {
        thread::yield_now();
    }
    let finals = version(0).positions;
    assert!(feed.end(&End { epoch: Epoch(2), finals, extra: Vec::new() }));
    assert_eq!(joiner.join().unwrap().unwrap().epoch, Epoch(2));
    assert_eq!(outcome(&handle), Ok(()));
}

#[test]
fn a_member_that_closes_tells_the_joiner() {
    let (feed, handle, theirs) = connected(&options(64 << 10));
    let joiner = thread::spawn(move || {
        let mut sink = Loads::new(0, Duration::ZERO);
        receive(&mut Socket(theirs), &Options::default(), &mut sink, Arc::default())
    });
    drop(feed);
    assert_eq!(outcome(&handle), Err(Failure::Cancelled));
    handle.close();
    let taken = joiner.join().unwrap();
    assert!(matches!(taken, Err(Failure::Refused { status: Status::Closed, .. })), "{taken:?}");
}

struct Panics;

impl StateSource for Panics {
    fn checkpoint_open(&mut self, _version: &Version) -> Result<Box<dyn Checkpoint>, Error> {
        Ok(Box::new(Panics))
    }
}

impl Checkpoint for Panics {
    fn read(&mut self, _place: &mut [u8]) -> Result<usize, Error> {
        std::panic::resume_unwind(Box::new("a bug of the application's")) // it prints nothing
    }
}

#[test]
fn a_panic_of_the_application_ends_its_transfer_only() {
    let (mut feed, handle, theirs) = connected(&options(64 << 10));
    while feed.poll() != Ask::Open {
        thread::yield_now();
    }
    feed.open(&mut Panics, &version(0));
    let mut sink = Loads::new(0, Duration::ZERO);
    let taken = receive(&mut Socket(theirs), &Options::default(), &mut sink, Arc::default());
    assert_eq!(taken, Err(Failure::Gone));
    assert_eq!(outcome(&handle), Err(Failure::Panicked));
    assert_eq!(feed.poll(), Ask::Over);
}
