// SPDX-License-Identifier: MIT OR Apache-2.0
//! `squall perf failover`: how long a group stands still when a member is killed, stopped, or joins.
//!
//! Every run is a group of its own: its processes start, send to each other, one event happens, and
//! all are ended. What is judged is the time from the event to the first delivery in the new view at
//! each member of it, less the time that the kernel takes to take a process down: an idle process that
//! has as much memory mapped is killed beside it in the same run, and its socket hangs up.
//!
//! Runs in which this process itself did not run for a while (it was stopped, or the machine was) say
//! nothing: they are thrown away, counted, and made again.

pub mod member;
mod process;
mod report;

use super::{Cores, group_name, parse_cores, parse_time};
use crate::failure::{Failure, fail};
use crate::text::{IdleOption, parse_message_bytes, remark, time_text};
use clap::Args;
use member::{Part, Role, Seen, State};
use process::Process;
use report::Outcome;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use squall::driver::clock;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  squall perf failover                            20 times: kill -9, the leader and others in turn
  squall perf failover --times 200 --idle park    for the record; members that sleep
  squall perf failover --event stop               SIGSTOP is noticed, SIGCONT ends in EXPELLED
  squall perf failover --event join               what a joining process costs the others
  squall perf failover --load 600                 ten minutes beside as many busy programs as twice
                                                  the cores: nobody is suspected

hang-up is what the kernel takes to end an idle process that maps as much memory, killed in the same
run; above it is what the engine adds.";

/// Time from a failure to the first delivery in the next view
#[derive(Args, Clone, Debug, Serialize)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// What happens to a member
    #[arg(long, value_enum, default_value_t = Event::Kill)]
    event: Event,
    /// How often; each time is a group of its own
    #[arg(long, default_value_t = 20)]
    times: usize,
    /// To whom: the leader, another member, or each in turn
    #[arg(long, value_enum, default_value_t = Victim::Each)]
    victim: Victim,
    /// Members of the group, one process each
    #[arg(long, default_value_t = 3)]
    members: u16,
    /// What members do when there is nothing to do
    #[arg(long, value_enum, default_value_t = IdleOption::Yield)]
    idle: IdleOption,
    /// Time between two messages of each member, like 100us, 1ms
    #[arg(long, value_parser = parse_time, value_name = "TIME", default_value = "100us")]
    pace: u64,
    /// Bytes of a message
    #[arg(long, value_parser = parse_message_bytes, value_name = "BYTES", default_value = "1KiB")]
    size: u32,
    /// Messages that a member may have under way; with their size that makes the memory mapped
    #[arg(long, default_value_t = 1024, value_name = "MESSAGES")]
    window: u32,
    /// The time to suspicion
    #[arg(long, value_parser = parse_time, value_name = "TIME", default_value = "1s")]
    suspicion: u64,
    /// Cores that all processes share, like 0,2-3 [default: all]
    #[arg(long, value_parser = parse_cores, value_name = "LIST")]
    #[serde(skip)]
    cores: Option<Cores>,
    /// No event: a group for so long beside busy programs, and nobody may be suspected
    #[arg(long, value_name = "SECONDS", conflicts_with_all = ["event", "times"])]
    load: Option<f64>,
    /// Busy programs of --load [default: two for each core]
    #[arg(long, value_name = "PROGRAMS", requires = "load")]
    burners: Option<usize>,
    /// Print JSON instead of a table
    #[arg(long)]
    #[serde(skip)]
    json: bool,
    /// Write a percentile plot
    #[arg(long, value_name = "FILE.svg", conflicts_with = "load")]
    #[serde(skip)]
    plot: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Event {
    /// SIGKILL
    Kill,
    /// SIGSTOP; later SIGCONT
    Stop,
    /// Another process joins
    Join,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Victim {
    Leader,
    Other,
    Each,
}

/// One event and what came of it; all times are nanoseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Sample {
    /// The member that was killed or stopped; `None`: one joined.
    victim: Option<u16>,
    /// From the kill of the idle process to its hang-up; of the victim to its own. 0: not measured.
    hang_up_ns: u64,
    own_hang_up_ns: u64,
    /// When it happened.
    at: u64,
    /// Bytes that the victim had mapped.
    mapped: u64,
    /// By member of the new view.
    seen: Vec<Seen>,
}

/// Pauses of this process longer than this spoil a run. Without them its threads wait a few
/// milliseconds for a core at the most.
const PAUSE_NS: u64 = 200_000_000;
/// So many runs may be spoilt for each that is wanted.
const SPOILT_MAX: usize = 3;
/// Between what happens in a run: everything has come to rest by then, memory for the next view too.
const REST: Duration = Duration::from_millis(30);

pub fn run(options: &Options) -> Result<(), Failure> {
    check(options)?;
    if let Some(cores) = &options.cores {
        let mut set = rustix::thread::CpuSet::new();
        cores.iter().for_each(|core| set.set(*core));
        if let Err(cause) = rustix::thread::sched_setaffinity(None, &set) {
            return fail!("cannot run on cores {cores:?}: {cause}");
        }
    }
    let pulse = Pulse::start();
    if let Some(seconds) = options.load {
        return load(options, seconds, &pulse);
    }
    let (mut samples, mut spoilt) = (Vec::new(), 0);
    while samples.len() < options.times {
        pulse.begin();
        let start = clock().0;
        let sample = once(options, samples.len());
        let pause = pulse.worst();
        if pause < PAUSE_NS {
            let sample = sample.inspect_err(|_| {
                let (ran, pause) = (time_text(clock().0 - start), time_text(pause));
                remark(&format!("it ran for {ran}, and this process stood still for {pause}"));
            })?;
            samples.push(sample);
            continue;
        }
        spoilt += 1;
        if spoilt > SPOILT_MAX * options.times {
            return fail!("this process was stopped in {spoilt} runs: no figures");
        }
    }
    let outcome = Outcome { options, samples, spoilt };
    if let Some(path) = &options.plot {
        outcome.plot(path)?;
    }
    outcome.print(options.json)
}

fn check(options: &Options) -> Result<(), Failure> {
    if options.members < 3 && options.event != Event::Join && options.load.is_none() {
        let members = options.members;
        return fail!("--members {members}: at least 3, or who is left is no majority");
    }
    if options.size < 16 {
        return fail!("--size {}: at least 16 bytes, for sender and sequence", options.size);
    }
    if options.times == 0 || options.pace == 0 {
        return fail!("--times and --pace: at least 1");
    }
    if let Some(path) = &options.plot {
        super::can_be_drawn(path)?;
    }
    part(options, "check", 0).config().view()?;
    Ok(())
}

fn part(options: &Options, group: &str, rank: u16) -> Part {
    Part {
        group: group.into(),
        rank,
        members: options.members,
        join: rank >= options.members,
        idle: options.idle,
        size: options.size,
        window: options.window,
        pace_ns: options.pace,
        suspicion_ns: options.suspicion,
    }
}

/// A group whose members all send and deliver, by rank.
fn start(options: &Options, group: &str) -> Result<Vec<Process>, Failure> {
    let member = |rank| Process::start(&Role::Member(part(options, group, rank)));
    let mut members = (0..options.members).map(member).collect::<Result<Vec<_>, _>>()?;
    members.iter_mut().try_for_each(|one| one.word("ready").map(drop))?;
    Ok(members)
}

/// One run.
fn once(options: &Options, number: usize) -> Result<Sample, Failure> {
    let group = group_name();
    let mut members = start(options, &group)?;
    // Neither what happens first nor its time depends on the scheduler's ticks.
    std::thread::sleep(REST + Duration::from_micros(number as u64 * 613 % 4_000));
    let victim = match options.victim {
        Victim::Leader => 0,
        Victim::Each if number.is_multiple_of(2) => 0,
        _ => 1 + number / 2 % (usize::from(options.members) - 1),
    };
    let mapped = members[victim].mapped();
    let empty = Sample {
        victim: Some(victim as u16),
        hang_up_ns: 0,
        own_hang_up_ns: 0,
        at: 0,
        mapped,
        seen: Vec::new(),
    };
    match options.event {
        Event::Kill => {
            let mut holder = Process::start(&Role::Holder { bytes: mapped.max(1) as usize })?;
            holder.word("ready")?;
            std::thread::sleep(REST);
            let (_, hang_up_ns) = holder.kill()?;
            drop(holder);
            std::thread::sleep(REST);
            let (at, own_hang_up_ns) = members[victim].kill()?;
            let _dead = members.remove(victim);
            let seen = hear(&mut members, at)?;
            Ok(Sample { hang_up_ns, own_hang_up_ns, at, seen, ..empty })
        }
        Event::Stop => {
            let mut stopped = members.remove(victim);
            let at = clock().0;
            stopped.signal(Signal::STOP)?;
            let seen = hear(&mut members, at)?;
            stopped.signal(Signal::CONT)?;
            let why = stopped.word("over")?;
            if why != "Expelled" {
                return fail!("rank {victim} was stopped and went on: it says {why}, not EXPELLED");
            }
            Ok(Sample { at, seen, ..empty })
        }
        Event::Join => {
            let at = clock().0;
            let mut joiner = Process::start(&Role::Member(part(options, &group, options.members)))?;
            joiner.word("ready")?;
            let seen = hear(&mut members, at)?;
            Ok(Sample { victim: None, at, seen, ..empty })
        }
    }
}

/// What all of them have seen; if one has not, what each had to say. `at`: when it happened.
fn hear(members: &mut [Process], at: u64) -> Result<Vec<Seen>, Failure> {
    let seen: Result<Vec<Seen>, _> = members.iter_mut().map(|one| one.hear("seen")).collect();
    let early = |seen: &[Seen]| seen.iter().any(|seen| seen.first < at);
    let seen = match seen {
        Ok(seen) if early(&seen) => fail!("somebody was suspected before anything had happened"),
        seen => seen,
    };
    if seen.is_err() {
        tell_last_words(members);
    }
    seen
}

/// What each of those that have not ended well had to say.
fn tell_last_words(members: &[Process]) {
    std::thread::sleep(REST); // they may still be under way
    for (at, one) in members.iter().enumerate() {
        one.last_words().lines().for_each(|line| remark(&format!("survivor {at}: {line}")));
    }
}

/// A group for some time beside busy programs: its first view must be its last.
fn load(options: &Options, seconds: f64, pulse: &Pulse) -> Result<(), Failure> {
    if !(0.1..=86_400.0).contains(&seconds) {
        return fail!("--load {seconds}: it is 0.1 to 86400 seconds");
    }
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let burners = options.burners.unwrap_or(2 * cores);
    let mut members = start(options, &group_name())?;
    let mut burning = Vec::new();
    for _ in 0..burners {
        let mut burner = Process::start(&Role::Burner)?;
        burner.word("ready")?;
        burning.push(burner);
    }
    pulse.begin();
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let pause_ns = pulse.worst();
    drop(burning);
    let ask = |one: &mut Process| one.ask().and_then(|()| one.hear::<State>("state"));
    let states: Result<Vec<State>, Failure> = members.iter_mut().map(ask).collect();
    if states.is_err() {
        remark(&format!("this process was not run for {} ms at once", pause_ns / 1_000_000));
        tell_last_words(&members);
    }
    let states = states?;
    report::loaded(options, seconds, burners, pause_ns, &states)?;
    let suspected = states.iter().any(|state| state.views != 1);
    if suspected && pause_ns >= options.suspicion {
        remark("this process was stopped meanwhile, perhaps others too: the result says nothing");
    }
    if suspected { fail!("somebody was suspected, and nobody had failed") } else { Ok(()) }
}

/// Notices when this process does not run.
struct Pulse(Arc<Mutex<u64>>);

impl Pulse {
    fn start() -> Pulse {
        let worst = Arc::new(Mutex::new(0));
        let into = worst.clone();
        std::thread::spawn(move || {
            let mut before = clock().0;
            loop {
                std::thread::sleep(Duration::from_millis(5));
                let now = clock().0;
                let mut worst = into.lock().unwrap_or_else(PoisonError::into_inner);
                *worst = (now - before).max(*worst);
                before = now;
            }
        });
        Pulse(worst)
    }

    fn begin(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = 0;
    }

    /// The longest time without running since `begin`, in nanoseconds.
    fn worst(&self) -> u64 {
        // A pause that has just ended is noted by then.
        std::thread::sleep(Duration::from_millis(10));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
