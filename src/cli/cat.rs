// SPDX-License-Identifier: MIT OR Apache-2.0
//! `squall cat`: every member's standard input, line by line, at every member, in one order.
//!
//! Two threads: one reads the input and cuts it into batches of messages; the main one polls,
//! sends and prints. The channel between them is bounded, so input is read no faster than the
//! group takes it; the group's bell wakes the main thread for a batch.

mod find;
mod lines;
mod output;
mod printer;

use crate::failure::{Failure, because, fail};
use crate::text::{IdleOption, parse_message_bytes, remark};
use clap::Args;
use lines::{Batch, Splitter};
use output::Output;
use printer::{Printer, Shared, list, lock};
use squall::driver::Turn;
use squall::driver::config::{Changes, Config};
use squall::driver::group::{Group, Sender};
use squall::driver::idle::{Pace, pin};
use squall::error::{Fault, Status, Suspicion};
use squall::log_sink::{self, Level};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const EXAMPLES: &str = "\
Each member prints NUMBER<TAB>LINE for every line of every member, all in the same order. NUMBER says
whose line it is: the rank that it was started with, or, if it joined later, the number that the
members tell on standard error.

With members that do not change (a terminal each, or in the background):
  squall cat --group demo --members 2 --rank 0 < one.txt > out0.txt
  squall cat --group demo --members 2 --rank 1 < two.txt > out1.txt
  cmp out0.txt out1.txt                    the same bytes
It ends with status 0 when all inputs have ended and everything is printed. The loss of a member ends
it for all, with status 1.

With members that come and go:
  squall cat --group demo --views          founds the group: alone, or with --members and --rank
  squall cat --group demo --join           in other terminals, as many as you like, at any time
  tail -f log | squall cat --group demo --join --at-least 3      sends nothing before three are there
Who joins prints what comes from then on: the end of what the others print. Who is killed or stopped
(also with Ctrl-Z) is dropped within a second and the others go on; standard error says who joined and
who is gone. A member whose input ends (Ctrl-D) leaves when all have its lines; keep the input open to
go on listening. It ends with status
  0  it has left: all that it read was delivered to everybody;
  3  EXPELLED: the others took it for dead and go on without it; --join makes it a new member;
  4  PARTITIONED: half of the members or more are gone at once, so that it cannot know what the others
     do. Of two members the loss of one (not its leaving) ends the other; of three any one may be lost.
  1  something else, which standard error says.
Whatever the end, what two members have printed while both were members is the same, as far as both
have printed.

Across hosts (`squall config --example` lists all keys):
  squall secret demo.secret                once, then copied to each host
  squall cat --config demo.toml            on each host, with its rank, or with `join = true`

Lines are bytes: NUL is welcome, no encoding is assumed. A last line without a newline is printed
with one. A line longer than --max-line travels in parts and is printed when it is complete; its
place in the order is that of its last part. Who joins in the middle of such a line leaves it out.
A member that reads its output slowly slows the others down; nothing is lost.";

/// Multicast standard input, line by line, and print every member's lines in one order.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Name of the group on this host: letters, digits, '-', '_' and '.'
    #[arg(long, required_unless_present = "config")]
    group: Option<String>,
    /// A configuration file that says all of that, also for members on several hosts: see `squall
    /// config --help`. Every member sends in its first subgroup
    #[arg(long, value_name = "FILE", conflicts_with_all = ["group", "members", "rank", "views", "join", "window", "max_line", "idle", "timeout"])]
    config: Option<std::path::PathBuf>,
    /// How many members the group has; with --views: its first ones, 1 if not given
    #[arg(long, required_unless_present_any = ["views", "join", "config"], conflicts_with = "join")]
    members: Option<u16>,
    /// Which of them this one is: 0 to MEMBERS - 1
    #[arg(long, required_unless_present_any = ["views", "join", "config"], conflicts_with = "join")]
    rank: Option<u16>,
    /// Members may come and go: whoever fails or leaves is dropped, and others may join
    #[arg(long)]
    views: bool,
    /// Join a group that runs and was founded with --views; its other settings are found there
    #[arg(long)]
    join: bool,
    /// Send nothing before the group has had so many members at once; with --views or --join
    #[arg(long, value_name = "N")]
    at_least: Option<u16>,
    /// Lines that one member may have under way [default: 4096]
    #[arg(long, value_name = "MESSAGES", conflicts_with = "join")]
    window: Option<u32>,
    /// The longest line that travels in one piece [default: 1MiB]
    #[arg(long, value_name = "BYTES", value_parser = parse_message_bytes, conflicts_with = "join")]
    max_line: Option<u32>,
    /// What to do when there is nothing to do [default: park]
    #[arg(long, value_enum)]
    idle: Option<IdleOption>,
    /// How long to wait for the other members to arrive, or to be joined [default: 60]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
}

/// Bytes read from standard input at once.
const CHUNK_BYTES: usize = 64 << 10;
/// Batches between the two threads.
const BATCHES: usize = 4;
/// Messages sent between two turns: the others shall not wait for a whole window.
const SENT_MAX: usize = 256;
/// Messages delivered in a turn, so that what waits to be written stays short.
const DELIVERED_MAX: u32 = 512;
/// Idle turns after which what is printed is shown, where the thread never sleeps.
const SHOW_AFTER: u32 = 16;
/// How long a turn waits for a reader that has fallen behind. Turns go on meanwhile and deliver
/// nothing: members are waited for, and not taken for dead.
const WAIT_FOR_READER: Duration = Duration::from_millis(10);
/// Exit statuses.
const EXPELLED: u8 = 3;
const PARTITIONED: u8 = 4;

pub fn run(options: &Options) -> Result<(), Failure> {
    let (config, core) = config(options)?;
    let changes = config.membership == Changes::Views;
    let output = Output::new()?;
    let at_least = usize::from(options.at_least.unwrap_or(0));
    let printer = Arc::new(Mutex::new(Printer::new(config.rank, config.members, at_least)));
    if changes {
        log_sink::set(Some(Box::new(say)));
    }
    let mut group = Group::open(&config, Box::new(Shared(printer.clone())))?;
    let Some(sender) = group.sender(0, 0) else {
        return fail!("this member does not send in the first subgroup, and `squall cat` has to");
    };
    let waker = group.waker();
    let (feed, batches) = sync_channel(BATCHES);
    let most = config.subgroups[0].message_bytes_max as usize - 1;
    let read = move || {
        read_input(most, &feed, || {
            if let Some(waker) = &waker {
                waker.ring_always();
            }
        })
    };
    let reader = std::thread::Builder::new().name("squall-input".into()).spawn(read);
    reader.map_err(|cause| because!("cannot start a thread for standard input: {cause}"))?;
    if let Some(core) = core {
        pin(core)?; // not before: the other thread may run anywhere
    }
    let input = Input { batches, batch: Batch::default(), sender, over: false };
    let pace = Pace::new(config.idle);
    let (members, name) = (config.members, config.group);
    let again = match &options.config {
        Some(file) => {
            format!("env -u SQUALL_RANK SQUALL_JOIN=true squall cat --config {}", file.display())
        }
        None => format!("squall cat --group {name} --join"),
    };
    let mut talk = Talk { group, input, printer, output, pace, members, changes, again, quiet: 0 };
    let outcome = talk.run();
    match outcome {
        // Whoever ends because of another says farewell, so that the others name that one too.
        Ok(()) | Err(End::Lost(_)) => talk.group.close(),
        Err(End::Mine(_)) => {}
    }
    outcome.map_err(|(End::Mine(why) | End::Lost(why))| why)
}

/// What the library says, where this program tells of views and of the end itself.
fn say(level: Level, text: &str) {
    match level {
        Level::Error if Status::ALL.iter().any(|status| status.text() == text) => {}
        Level::Error => remark(&format!("error: {text}")),
        Level::Warning => remark(&format!("warning: {text}")),
        Level::Notice => {}
    }
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

/// And the core of the thread that polls, if the file says it.
fn config(options: &Options) -> Result<(Config, Option<usize>), Failure> {
    let Options { rank, members, window, max_line, .. } = options;
    if let Some(path) = &options.config {
        let settings = squall::settings::Settings::load(path)?;
        if settings.config.subgroups[0].message_bytes_max < 2 {
            return fail!("{}: messages have to be 2 bytes at the least", path.display());
        }
        return Ok((settings.config, settings.core));
    }
    let group = options.group.as_deref().unwrap_or_default();
    let changes = options.views || options.join;
    if options.at_least.is_some() && !changes {
        return fail!("--at-least is for groups whose members change: add --views, or --join");
    }
    let most = squall::limits::MESSAGE_BYTES_MAX - 1;
    let max_line = max_line.unwrap_or(1 << 20);
    if max_line == 0 || u64::from(max_line) > most {
        return fail!("--max-line {max_line}: it is 1 to {most} bytes");
    }
    let timeout = options.timeout.unwrap_or(60.0);
    if !(0.0..1e9).contains(&timeout) {
        return fail!("--timeout {timeout}: give it in seconds, 0 or more");
    }
    let mut config = Config::new(group, rank.unwrap_or(0), members.unwrap_or(1));
    config.idle = options.idle.unwrap_or(IdleOption::Park).into();
    config.open_timeout = Duration::from_secs_f64(timeout);
    config.subgroups[0].window = window.unwrap_or(4096);
    config.subgroups[0].message_bytes_max = max_line + 1;
    if changes {
        config.membership = Changes::Views;
    }
    if options.join {
        config.view()?; // the name is one
        let found = find::find(group, config.open_timeout)?;
        config.join = true;
        config.members = found.members;
        config.subgroups[0].window = found.window;
        config.subgroups[0].message_bytes_max = found.message_bytes_max;
    }
    Ok((config, None))
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

/// A member at work.
struct Talk {
    group: Group,
    input: Input,
    printer: Arc<Mutex<Printer>>,
    output: Output,
    pace: Pace,
    members: u16,
    changes: bool,
    /// How this becomes a member again.
    again: String,
    /// Turns without anything.
    quiet: u32,
}

impl Talk {
    /// Polls, sends and prints: until the inputs of all members are at their end, or, where members
    /// change, until this one's is.
    fn run(&mut self) -> Result<(), End> {
        loop {
            if self.output.is_full() {
                self.output.write(WAIT_FOR_READER).or_else(|cause| unwritten(&cause))?;
            }
            let most = if self.output.is_full() { 0 } else { DELIVERED_MAX };
            let turn = self.group.turn(most);
            if self.is_over(most, turn)? {
                return Ok(());
            }
            let sent = self.may_send() && self.input.feed()?;
            if most == 0 {
                continue; // the reader of the output is what sets the pace
            }
            if sent || turn.is_ok_and(|turn| turn.busy) {
                self.pace.busy();
                self.quiet = 0;
                continue;
            }
            self.idle()?;
        }
    }

    fn may_send(&self) -> bool {
        let printer = lock(&self.printer);
        printer.most_members >= printer.at_least
    }

    /// What a turn came to; whether it was the last one.
    fn is_over(&mut self, most: u32, turn: Result<Turn, Status>) -> Result<bool, End> {
        let mut printer = lock(&self.printer);
        self.output.take(&mut printer.pending);
        if let Some(trouble) = printer.trouble.take() {
            return Err(Failure::Because(trouble).into());
        }
        if self.changes && std::mem::take(&mut printer.own_end) {
            // Not before: who is the last one would leave without its own lines.
            self.group.control().expect("members change").leave();
        }
        let (ends, suspicion) = (printer.ends, printer.suspicion);
        let members = list(&printer.members);
        drop(printer);
        let mut finish = || self.output.finish().or_else(|cause| unwritten(&cause));
        match turn {
            _ if !self.changes && ends == self.members => {
                finish()?;
                Ok(true)
            }
            Ok(_) => Ok(false),
            // There is more that can be delivered.
            Err(_) if most == 0 => {
                finish()?;
                Ok(false)
            }
            Err(Status::Left) => {
                finish()?;
                Ok(true)
            }
            Err(status) => {
                let _ = finish();
                Err(End::Lost(match self.changes {
                    true => stopped(status, &self.again, &members),
                    false => lost(status, suspicion),
                }))
            }
        }
    }

    /// Nothing is to be done.
    fn idle(&mut self) -> Result<(), Failure> {
        self.quiet += 1;
        let sleeps = self.pace.quiet();
        if sleeps || self.quiet == SHOW_AFTER {
            self.output.write(Duration::ZERO).or_else(|cause| unwritten(&cause))?;
            self.quiet = 0;
        }
        if !sleeps {
            return Ok(());
        }
        self.pace.busy();
        if self.output.is_empty() {
            // If the group has stopped, the next turn says so, with more to tell.
            let _ = self.group.wait(None);
        } else if self.group.arm() == Ok(true) {
            let slept = self.output.sleep_beside(self.group.as_fd());
            slept.or_else(|cause| unwritten(&cause))?;
        }
        Ok(())
    }
}

fn unwritten(cause: &io::Error) -> Result<(), Failure> {
    fail!("cannot write standard output: {cause}; the others are told that this member is gone")
}

/// Why a member stops where members change.
fn stopped(status: Status, again: &str, members: &str) -> Failure {
    let rest = "what it has printed, the others have too, as far as they were members; lines that it \
                had read and not printed may be lost";
    match status {
        Status::Expelled => Failure::Told(
            EXPELLED,
            format!(
                "EXPELLED: the others took this member for dead, because it was stopped or got no time \
                 to run, and go on without it; {rest}: become a new member with `{again}`"
            ),
        ),
        Status::Partitioned => Failure::Told(
            PARTITIONED,
            format!(
                "PARTITIONED: of the members {members} this one can reach no majority, so it stops; \
                 {rest}: if others go on, join them with `{again}`; if none do, found the group anew, \
                 as the first time"
            ),
        ),
        status => Failure::Because(format!("the group is over for this member ({status}); {rest}")),
    }
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
