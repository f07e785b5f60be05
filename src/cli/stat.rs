// SPDX-License-Identifier: MIT OR Apache-2.0
//! `squall stat`: looks into a running group from outside. Each member's door hands out its
//! statistics page; it is mapped read-only, and reading it costs the member nothing.

use crate::failure::{Failure, fail};
use crate::text::{bytes_text, digits, new_table, rate_text, say, time_text};
use clap::Args;
use comfy_table::CellAlignment;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};
use squall::driver::stats::{self, Snapshot, SubgroupSnapshot, Transferred};
use squall::fabric::shm::door::{Hello, Kind, socket_name};
use squall::fabric::shm::socket::Socket;
use squall::limits::{MEMBERS_MAX, WIRE_VERSION};
use squall::mem::Region;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
Examples:
  squall stat demo                 one look
  squall stat demo --watch 1       each second, with rates
  squall stat demo --json | jq .

Columns: prefix: how far the member has the total order of the view; stable: how far it knows that all
have it; delivered: how far its callbacks are; lag: messages behind the member that is furthest;
refused: sends that found no room; batch: messages per callback; gap: the longest time between two
looks at the clock, that is, the longest that one turn took or that the member did not run.
A member answers when it polls. One that does not is shown as the others see it.";

/// Look into a running group: positions, lag, back-pressure, batches.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Name of the group
    group: String,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Look again and again, this often
    #[arg(long, value_name = "SECONDS")]
    watch: Option<f64>,
}

/// How long a member may take to answer: one that polls takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);

pub fn run(options: &Options) -> Result<(), Failure> {
    let every = match options.watch {
        None => None,
        Some(seconds) if (0.01..=86400.0).contains(&seconds) => {
            Some(Duration::from_secs_f64(seconds))
        }
        Some(seconds) => return fail!("--watch {seconds}: it is 0.01 to 86400 seconds"),
    };
    let members = ask(&options.group)?;
    let mut before: Vec<Option<Snapshot>> = vec![None; members.len()];
    loop {
        let now: Vec<Option<Snapshot>> = members.iter().map(Member::look).collect();
        let look = Look { group: &options.group, members: &members, now: &now, before: &before };
        if options.json {
            let value = look.json();
            say(&if every.is_some() { value.to_string() } else { format!("{value:#}") })?;
        } else {
            if every.is_some() && std::io::stdout().is_terminal() {
                say("\x1b[2J\x1b[H")?;
            }
            look.print(every.is_some())?;
        }
        let Some(every) = every else { return Ok(()) };
        if members.iter().all(|member| member.gone()) {
            return fail!("group {}: all members have ended", options.group);
        }
        before = now;
        std::thread::sleep(every);
    }
}

/// What came of asking one rank.
enum Answer {
    Page(Region),
    /// It is there and says no.
    Refused(String),
    /// It is there and says nothing.
    Silent,
    Absent,
}

struct Member {
    rank: u16,
    pid: u32,
    answer: Answer,
}

impl Member {
    fn look(&self) -> Option<Snapshot> {
        match &self.answer {
            Answer::Page(region) => stats::read(region),
            _ => None,
        }
    }

    fn gone(&self) -> bool {
        self.pid == 0 || !Path::new(&format!("/proc/{}", self.pid)).exists()
    }

    fn state(&self, snapshot: Option<&Snapshot>) -> String {
        match &self.answer {
            Answer::Refused(why) => why.clone(),
            Answer::Silent => "does not answer: it does not poll".into(),
            Answer::Absent => "not there".into(),
            Answer::Page(_) => match snapshot.map(|snapshot| snapshot.stopped) {
                None => "gives an unknown page".into(),
                Some(0) if self.gone() => "has ended".into(),
                Some(0) => "runs".into(),
                Some(status) => {
                    let status = squall::error::Status::from_code(-(status as i32));
                    format!("stopped: {}", status.unwrap_or(squall::error::Status::Failed))
                }
            },
        }
    }
}

/// Knocks at the doors of all ranks and waits for the answers.
fn ask(group: &str) -> Result<Vec<Member>, Failure> {
    let mut calls = Vec::new();
    let hello = Hello::new(Kind::Stat, 0, false, "").encode();
    for rank in 0..MEMBERS_MAX as u16 {
        let Some(socket) = Socket::connect(&socket_name(group, rank))? else { continue };
        let owner = socket.credentials();
        let me = rustix::process::geteuid().as_raw();
        if let Some(owner) = owner
            && owner.uid != me
        {
            let (pid, uid) = (owner.pid, owner.uid);
            return fail!(
                "group {group} belongs to user {uid} (process {pid}), this is user {me}: members \
                 answer their own user only"
            );
        }
        socket.send(&hello, &[]);
        calls.push((rank, owner.map_or(0, |owner| owner.pid), socket));
    }
    if calls.is_empty() {
        return fail!("no group {group} on this host{}", others());
    }
    let deadline = Instant::now() + PATIENCE;
    let mut count = 0;
    let mut members = Vec::new();
    for (rank, pid, socket) in calls {
        let answer = answer_of(&socket, deadline, &mut count)?;
        count = count.max(rank + 1);
        members.push(Member { rank, pid, answer });
    }
    for rank in 0..count {
        if members.iter().all(|member| member.rank != rank) {
            members.push(Member { rank, pid: 0, answer: Answer::Absent });
        }
    }
    members.sort_by_key(|member| member.rank);
    Ok(members)
}

fn answer_of(socket: &Socket, deadline: Instant, count: &mut u16) -> Result<Answer, Failure> {
    loop {
        if let Some(answer) = socket.receive() {
            return match answer {
                None => Ok(Answer::Refused("closed the connection: it is ending".into())),
                Some((bytes, descriptors)) => open(&bytes, descriptors, count),
            };
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Answer::Silent);
        }
        let time = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let _ = poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&time));
    }
}

/// Maps the page that an answer carries, and learns from it how many members there are.
fn open(bytes: &[u8], descriptors: Vec<OwnedFd>, count: &mut u16) -> Result<Answer, Failure> {
    let Some(hello) = Hello::decode(bytes) else {
        return Ok(Answer::Refused("answers nonsense".into()));
    };
    if !hello.versions.speaks(WIRE_VERSION as u16) {
        return fail!(
            "the group speaks {}, this program wire version {WIRE_VERSION}: use the `squall` of \
             the same version",
            hello.versions
        );
    }
    let members = hello.config.lines().find_map(|line| line.strip_prefix("members="));
    let members = members.and_then(|members| members.parse().ok()).unwrap_or(0);
    *count = (*count).max(u16::min(members, MEMBERS_MAX as u16));
    if let Some((_, why)) = hello.refusal {
        return Ok(Answer::Refused(why));
    }
    let Some(page) = descriptors.into_iter().next() else {
        return Ok(Answer::Refused("shows no page".into()));
    };
    let bytes = rustix::fs::fstat(&page).map_or(0, |about| about.st_size as usize);
    Ok(Answer::Page(Region::map_peer(&page, bytes)?))
}

/// The groups that there are, for whoever has mistyped one.
fn others() -> String {
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let name = |line: &str| {
        let (_, name) = line.split_once("@squall/")?;
        Some(name.rsplit_once('/')?.0.to_string())
    };
    let mut groups: Vec<String> = sockets.lines().filter_map(name).collect();
    groups.sort();
    groups.dedup();
    match groups.is_empty() {
        true => ", nor any other; a group is there from its first member's open on".into(),
        false => format!("; there are: {}", groups.join(", ")),
    }
}

fn transfers_json(snapshot: &Snapshot) -> Value {
    let figures = |of: &Transferred| of.figures().into_iter().collect::<BTreeMap<_, _>>();
    let one = |of: &Transferred| json!({ "gives": of.gives, "figures": figures(of) });
    snapshot.transfers.iter().map(one).collect()
}

/// One look at all members, and the one before.
struct Look<'a> {
    group: &'a str,
    members: &'a [Member],
    now: &'a [Option<Snapshot>],
    before: &'a [Option<Snapshot>],
}

impl Look<'_> {
    /// The subgroups that anybody told of.
    fn subgroups(&self) -> Vec<u64> {
        let all = self.now.iter().flatten().flat_map(|snapshot| &snapshot.subgroups);
        let mut numbers: Vec<u64> = all.map(|subgroup| subgroup.subgroup).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// How many shards of a configured subgroup anybody told of.
    fn shards(&self, of: u64) -> u64 {
        let all = self.now.iter().flatten().flat_map(|snapshot| &snapshot.subgroups);
        let shards = all.filter(|subgroup| subgroup.of == of).map(|subgroup| subgroup.shard + 1);
        shards.max().unwrap_or(0)
    }

    fn of(snapshot: &Option<Snapshot>, number: u64) -> Option<&SubgroupSnapshot> {
        snapshot.as_ref()?.subgroups.iter().find(|subgroup| subgroup.subgroup == number)
    }

    /// How far a member is, by its own word or by that of whoever has seen most of it.
    fn prefix(&self, number: u64, rank: u16) -> Option<u64> {
        let own = Self::of(&self.now[usize::from(rank)], number).map(|own| own.prefix);
        let seen = self.now.iter().filter_map(|snapshot| Self::of(snapshot, number));
        let seen = seen.filter_map(|subgroup| subgroup.progress.get(usize::from(rank)).copied());
        own.into_iter().chain(seen.filter(|prefix| *prefix != u64::MAX)).max()
    }

    fn front(&self, number: u64) -> u64 {
        let ranks = self.members.iter().filter_map(|member| self.prefix(number, member.rank));
        ranks.max().unwrap_or(0)
    }

    /// Messages and bytes delivered per second since the look before.
    fn rates(&self, number: u64, rank: u16) -> Option<(f64, f64)> {
        let (now, before) = (&self.now[usize::from(rank)], &self.before[usize::from(rank)]);
        let ns = now.as_ref()?.at.0.saturating_sub(before.as_ref()?.at.0);
        let (now, before) = (Self::of(now, number)?.delivered, Self::of(before, number)?.delivered);
        let per_second = |now: u64, before: u64| match ns {
            0 => 0.0, // it slept all the time
            ns => now.saturating_sub(before) as f64 * 1e9 / ns as f64,
        };
        Some((per_second(now.messages, before.messages), per_second(now.bytes, before.bytes)))
    }

    fn print(&self, watching: bool) -> Result<(), Failure> {
        let epoch = self.now.iter().flatten().map(|snapshot| snapshot.epoch).max();
        let epoch = epoch.map_or("no view".into(), |epoch| format!("view {epoch}"));
        say(&format!("group {}: {} members, {epoch}", self.group, self.members.len()))?;
        for (member, snapshot) in self.members.iter().zip(self.now) {
            let state = member.state(snapshot.as_ref());
            if state != "runs" {
                say(&format!("rank {} (process {}): {state}", member.rank, member.pid))?;
            }
            let evicted = snapshot.as_ref().map_or(0, |snapshot| snapshot.counters.evicted);
            if evicted > 0 {
                say(&format!("rank {} has evicted {evicted} members for their lag", member.rank))?;
            }
            for transfer in snapshot.iter().flat_map(|snapshot| &snapshot.transfers) {
                say(&format!("rank {} {}", member.rank, transfer.text()))?;
            }
        }
        for number in self.subgroups() {
            let one = self.now.iter().find_map(|snapshot| Self::of(snapshot, number));
            let one = one.expect("somebody told of it");
            let mode = if one.received_mode { "received" } else { "stable" };
            let shards = self.shards(one.of);
            let shard = if shards > 1 || one.of != number {
                format!(" (shard {} of the configured subgroup {})", one.shard, one.of)
            } else {
                String::new()
            };
            let waits = match one.lacks {
                0 => String::new(),
                lacks => format!(", waits for {lacks} more"),
            };
            let senders = one.senders;
            say(&format!("\nsubgroup {number}{shard}: {mode} mode, {senders} senders{waits}"))?;
            say(&self.table(number, watching))?;
        }
        Ok(())
    }

    fn table(&self, number: u64, watching: bool) -> String {
        let mut table = new_table();
        let mut header = vec![
            "rank",
            "pid",
            "prefix",
            "stable",
            "delivered",
            "lag",
            "sent",
            "nulls",
            "refused",
            "batches",
            "batch",
            "sleeps",
            "gap",
        ];
        if watching {
            header.extend(["messages", "bytes"]);
        }
        table.set_header(&header);
        let front = self.front(number);
        for (member, snapshot) in self.members.iter().zip(self.now) {
            let prefix = self.prefix(number, member.rank);
            let Some(prefix) = prefix else { continue };
            let mut row = vec![member.rank.to_string(), member.pid.to_string()];
            row.push(prefix.to_string());
            match (snapshot, Self::of(snapshot, number)) {
                (Some(snapshot), Some(own)) => {
                    let batches = own.delivered.batches;
                    let mean = own.delivered.messages as f64 / batches.max(1) as f64;
                    let counts = [own.stable, own.delivered_number, front - prefix];
                    row.extend(counts.map(|count| count.to_string()));
                    let counts = [own.sent, own.nulls, own.pressed, batches];
                    row.extend(counts.map(|count| count.to_string()));
                    row.push(digits(mean));
                    row.push(snapshot.counters.sleeps.to_string());
                    row.push(time_text(snapshot.counters.loop_gap_max_ns));
                }
                _ => {
                    row.extend(["-".into(), "-".into(), (front - prefix).to_string()]);
                    row.extend(std::iter::repeat_n(String::from("-"), 7));
                }
            }
            if watching {
                let rates = self.rates(number, member.rank);
                row.extend(rates.map_or(["-".into(), "-".into()], |(messages, bytes)| {
                    [rate_text(messages), format!("{}/s", bytes_text(bytes as u64))]
                }));
            }
            table.add_row(row);
        }
        table.column_iter_mut().for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        table.to_string()
    }

    fn json(&self) -> Value {
        let members = self.members.iter().zip(self.now).map(|(member, snapshot)| {
            let subgroups = self.subgroups().into_iter();
            let subgroups = subgroups.filter_map(|number| self.subgroup_json(number, member.rank));
            json!({
                "rank": member.rank,
                "pid": member.pid,
                "state": member.state(snapshot.as_ref()),
                "at_ns": snapshot.as_ref().map(|snapshot| snapshot.at.0),
                "turns": snapshot.as_ref().map(|snapshot| snapshot.counters.turns),
                "busy_turns": snapshot.as_ref().map(|snapshot| snapshot.counters.busy_turns),
                "sleeps": snapshot.as_ref().map(|snapshot| snapshot.counters.sleeps),
                "evicted": snapshot.as_ref().map(|snapshot| snapshot.counters.evicted),
                "loop_gap_max_ns": snapshot.as_ref().map(|snapshot| snapshot.counters.loop_gap_max_ns),
                "subgroups": subgroups.collect::<Vec<_>>(),
                "transfers": snapshot.as_ref().map(transfers_json),
            })
        });
        let epoch = self.now.iter().flatten().map(|snapshot| snapshot.epoch).max();
        json!({ "group": self.group, "epoch": epoch, "members": members.collect::<Vec<_>>() })
    }

    fn subgroup_json(&self, number: u64, rank: u16) -> Option<Value> {
        let prefix = self.prefix(number, rank)?;
        let mut value = json!({
            "subgroup": number,
            "prefix": prefix,
            "lag": self.front(number) - prefix,
        });
        if let Some(own) = Self::of(&self.now[usize::from(rank)], number) {
            value["mode"] = if own.received_mode { "received" } else { "stable" }.into();
            let counts = [
                ("of", own.of),
                ("shard", own.shard),
                ("lacks", own.lacks),
                ("senders", own.senders),
                ("stable", own.stable),
                ("delivered", own.delivered_number),
                ("sent", own.sent),
                ("nulls", own.nulls),
                ("refused", own.pressed),
                ("messages", own.delivered.messages),
                ("bytes", own.delivered.bytes),
                ("batches", own.delivered.batches),
            ];
            counts.iter().for_each(|(name, count)| value[*name] = (*count).into());
        }
        if let Some((messages, bytes)) = self.rates(number, rank) {
            value["messages_per_second"] = messages.into();
            value["bytes_per_second"] = bytes.into();
        }
        Some(value)
    }
}
