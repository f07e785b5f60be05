// SPDX-License-Identifier: MIT OR Apache-2.0
//! `squall cat`: every member's standard input, line by line, at every member, in one order.
//!
//! Two threads: one reads the input and cuts it into batches of messages; the main one polls,
//! sends and prints. The channel between them is bounded, so input is read no faster than the
//! group takes it; the group's bell wakes the main thread for a batch.

mod lines;

use crate::failure::{Failure, because, fail};
use crate::text::{IdleOption, bytes_text, parse_message_bytes};
use clap::Args;
use lines::{Batch, Joiner, Piece, Splitter};
use squall::driver::Application;
use squall::driver::config::Config;
use squall::driver::group::{Group, Sender};
use squall::driver::idle::Pace;
use squall::error::{Fault, Status, Suspicion};
use squall::mem::Message;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

const EXAMPLES: &str = "\
Each member prints RANK<TAB>LINE for every line of every member, all in the same order, and ends
with status 0 when all inputs have ended and everything is printed.

Examples (a terminal each, or in the background):
  squall cat --group demo --members 2 --rank 0 < one.txt > out0.txt
  squall cat --group demo --members 2 --rank 1 < two.txt > out1.txt
  cmp out0.txt out1.txt                    the same bytes

Lines are bytes: NUL is welcome, no encoding is assumed. A last line without a newline is printed
with one. A line longer than --max-line travels in parts and is printed when it is complete; its
place in the order is that of its last part.
A member that reads its output slowly slows the others down; nothing is lost.";

/// Multicast standard input, line by line, and print every member's lines in one order.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Name of the group on this host: letters, digits, '-', '_' and '.'
    #[arg(long)]
    group: String,
    /// How many members the group has
    #[arg(long)]
    members: u16,
    /// Which of them this one is: 0 to MEMBERS - 1
    #[arg(long)]
    rank: u16,
    /// Lines that one member may have under way
    #[arg(long, default_value_t = 4096, value_name = "MESSAGES")]
    window: u32,
    /// The longest line that travels in one piece
    #[arg(long, default_value = "1MiB", value_name = "BYTES", value_parser = parse_message_bytes)]
    max_line: u32,
    /// What to do when there is nothing to do
    #[arg(long, value_enum, default_value = "park")]
    idle: IdleOption,
    /// How long to wait for the other members to arrive
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS")]
    timeout: f64,
}

/// Bytes read from standard input at once, and the output gathered before it is written.
const CHUNK_BYTES: usize = 64 << 10;
/// Batches between the two threads.
const BATCHES: usize = 4;
/// Messages sent between two turns: the others shall not wait for a whole window.
const SENT_MAX: usize = 256;
/// Idle turns after which what is printed is shown, where the thread never sleeps.
const SHOW_AFTER: u32 = 16;

pub fn run(options: &Options) -> Result<(), Failure> {
    let config = config(options)?;
    let output = io::stdout().as_fd().try_clone_to_owned();
    let output = output.map_err(|cause| because!("standard output is not open: {cause}"))?;
    let printer = Printer {
        joiner: Joiner::new(options.members),
        pending: Vec::with_capacity(2 * CHUNK_BYTES),
        output: File::from(output),
        ends: 0,
        trouble: None,
        suspicion: None,
    };
    let printer = Arc::new(Mutex::new(printer));
    let mut group = Group::open(&config, Box::new(Shared(printer.clone())))?;
    let sender = group.sender(0, 0).expect("every member is a sender");
    let waker = group.waker();
    let (feed, batches) = sync_channel(BATCHES);
    let most = options.max_line as usize;
    let read = move || {
        read_input(most, &feed, || {
            if let Some(waker) = &waker {
                waker.ring_always();
            }
        })
    };
    let reader = std::thread::Builder::new().name("squall-input".into()).spawn(read);
    reader.map_err(|cause| because!("cannot start a thread for standard input: {cause}"))?;
    let input = Input { batches, batch: Batch::default(), sender, over: false };
    let outcome = converse(&mut group, input, &printer, options);
    match outcome {
        // Whoever ends because of another says farewell, so that the others name that one too.
        Ok(()) | Err(End::Lost(_)) => group.close(),
        Err(End::Mine(_)) => {}
    }
    outcome.map_err(|(End::Mine(why) | End::Lost(why))| why)
}

/// Whose end it was: this member's own, or a consequence of another's.
enum End {
    Mine(Failure),
    Lost(Failure),
}

impl From<Failure> for End {
    fn from(why: Failure) -> End {
        End::Mine(why)
    }
}

fn config(options: &Options) -> Result<Config, Failure> {
    let mut config = Config::new(&options.group, options.rank, options.members);
    config.idle = options.idle.into();
    config.subgroups[0].window = options.window;
    let most = squall::limits::MESSAGE_BYTES_MAX - 1;
    if options.max_line == 0 || u64::from(options.max_line) > most {
        return fail!("--max-line {}: it is 1 to {most} bytes", options.max_line);
    }
    config.subgroups[0].message_bytes_max = options.max_line + 1;
    if !(0.0..1e9).contains(&options.timeout) {
        return fail!("--timeout {}: give it in seconds, 0 or more", options.timeout);
    }
    config.open_timeout = Duration::from_secs_f64(options.timeout);
    Ok(config)
}

/// The reading thread: cuts what comes into batches until the input ends.
fn read_input(most: usize, feed: &SyncSender<io::Result<Batch>>, wake: impl Fn()) {
    let mut splitter = Splitter::new(most);
    let mut bytes = vec![0; CHUNK_BYTES];
    let mut input = io::stdin().lock();
    loop {
        let mut batch = Batch::default();
        let got = match input.read(&mut bytes) {
            Ok(got) => got,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => {
                let _ = feed.send(Err(cause));
                return wake();
            }
        };
        match got {
            0 => splitter.finish(&mut batch),
            _ => splitter.push(&bytes[..got], &mut batch),
        }
        if !batch.is_empty() {
            if feed.send(Ok(batch)).is_err() {
                return;
            }
            wake();
        }
        if got == 0 {
            return;
        }
    }
}

/// The main thread's end of the input.
struct Input {
    batches: Receiver<io::Result<Batch>>,
    batch: Batch,
    sender: Sender,
    over: bool,
}

impl Input {
    /// Sends what is there while there is room; says whether anything was sent.
    fn feed(&mut self) -> Result<bool, Failure> {
        for sent in 0..SENT_MAX {
            let Some(message) = self.batch.message() else {
                match self.batches.try_recv() {
                    Ok(Ok(batch)) => self.batch = batch,
                    Ok(Err(cause)) => return fail!("cannot read standard input: {cause}"),
                    Err(TryRecvError::Disconnected) if !self.over => {
                        return fail!("the thread that reads standard input has died");
                    }
                    Err(_) => return Ok(sent > 0),
                }
                continue;
            };
            match self.sender.send(message) {
                Ok(_) => {}
                Err(Status::Again) => return Ok(sent > 0),
                // The next turn says the same, with more to tell.
                Err(_) => return Ok(true),
            }
            self.over |= message == [lines::END];
            self.batch.advance();
        }
        Ok(true)
    }
}

/// Polls, sends and prints until the inputs of all members are at their end.
fn converse(
    group: &mut Group,
    mut input: Input,
    printer: &Arc<Mutex<Printer>>,
    options: &Options,
) -> Result<(), End> {
    let mut pace = Pace::new(options.idle.into());
    let mut quiet = 0;
    loop {
        let turn = group.turn(u32::MAX);
        let delivered = turn.as_ref().map_or(0, |turn| turn.delivered);
        if delivered > 0 || turn.is_err() {
            let mut printer = lock(printer);
            if let Some(trouble) = printer.trouble.take() {
                return Err(Failure::Because(trouble).into());
            }
            if printer.ends == options.members {
                return Ok(printer.flush().or_else(|cause| unwritten(&cause))?);
            }
            if let Err(status) = turn {
                let _ = printer.flush();
                return Err(End::Lost(lost(status, printer.suspicion)));
            }
        }
        let sent = input.feed()?;
        if sent || turn.is_ok_and(|turn| turn.busy) {
            pace.busy();
            quiet = 0;
            continue;
        }
        quiet += 1;
        let sleeps = pace.quiet();
        if sleeps || quiet == SHOW_AFTER {
            lock(printer).flush().or_else(|cause| unwritten(&cause))?;
        }
        if sleeps {
            pace.busy();
            // If the group has stopped, the next turn says so, with more to tell.
            let _ = group.wait(None);
        }
    }
}

fn unwritten(cause: &io::Error) -> Result<(), Failure> {
    fail!("cannot write standard output: {cause}; the others are told that this member is gone")
}

fn lost(status: Status, suspicion: Option<Suspicion>) -> Failure {
    let who = match suspicion {
        Some(Suspicion { rank, fault: Fault::Left { .. } }) => {
            format!("rank {} has left, because another one is gone or it had an error,", rank.0)
        }
        Some(suspicion) => format!("rank {} is gone", suspicion.rank.0),
        None => "the group has ended".into(),
    };
    Failure::Because(format!(
        "{who} before the end of all inputs ({status}); what every member had received is \
         printed, later lines are lost: start all members again"
    ))
}

/// What the polling thread does with messages.
struct Printer {
    joiner: Joiner,
    pending: Vec<u8>,
    output: File,
    ends: u16,
    trouble: Option<String>,
    suspicion: Option<Suspicion>,
}

impl Printer {
    /// Blocks while the reader of the output is slow: then this member releases nothing, and the
    /// senders find no room.
    fn flush(&mut self) -> io::Result<()> {
        let outcome = self.output.write_all(&self.pending);
        self.pending.clear();
        outcome
    }

    fn take(&mut self, message: &Message) {
        match self.joiner.take(message.rank, message.bytes(), &mut self.pending) {
            Piece::Taken => {}
            Piece::End => self.ends += 1,
            Piece::Nonsense => {
                let (rank, len) = (message.rank, bytes_text(message.len.into()));
                self.trouble = Some(format!(
                    "rank {rank} sent a message of {len} that `squall cat` does not know: only \
                     `squall cat` of the same version may be in this group"
                ));
            }
        }
        if self.pending.len() >= CHUNK_BYTES
            && let Err(cause) = self.flush()
            && let Err(Failure::Because(why)) = unwritten(&cause)
        {
            self.trouble = Some(why);
        }
    }
}

struct Shared(Arc<Mutex<Printer>>);

fn lock(printer: &Mutex<Printer>) -> MutexGuard<'_, Printer> {
    printer.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Application for Shared {
    fn deliver(&mut self, _subgroup: u16, batch: &[Message]) {
        let mut printer = lock(&self.0);
        for message in batch {
            if printer.trouble.is_some() {
                return;
            }
            printer.take(message);
        }
    }

    fn stopped(&mut self, _status: Status, suspicion: Option<Suspicion>) {
        lock(&self.0).suspicion = suspicion;
    }
}
