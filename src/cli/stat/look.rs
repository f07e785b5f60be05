// SPDX-License-Identifier: MIT OR Apache-2.0
//! One look at a group: what its members tell of themselves and of each other, by rank.

use super::ask::Member;
use crate::failure::Failure;
use crate::text::{bytes_text, digits, new_table, rate_text, say, time_text};
use comfy_table::{CellAlignment, Table};
use serde_json::{Value, json};
use squall::base::Nanos;
use squall::driver::stats::{Elsewhere, Snapshot, Steps, SubgroupSnapshot, Transferred};
use squall::fabric::Way;
use std::collections::{BTreeMap, BTreeSet};

/// A process, from look to look.
pub type Key = (u32, Option<String>);

impl Member {
    pub fn key(&self) -> Key {
        (self.pid, self.far.as_ref().map(|(address, _)| address.clone()))
    }
}

/// What there is under one rank of the newest view.
struct Row<'a> {
    rank: u16,
    /// `None`: nobody was asked.
    member: Option<&'a Member>,
    now: Option<&'a Snapshot>,
    before: Option<&'a Snapshot>,
}

/// One look at all members, and the one before.
pub struct Look<'a> {
    group: &'a str,
    epoch: Option<u64>,
    rows: Vec<Row<'a>>,
    /// Those that are in no place of that view, as far as is known.
    outside: Vec<(&'a Member, Option<&'a Snapshot>)>,
}

impl<'a> Look<'a> {
    /// `least`: how many members there are, if nobody shows a page that says it.
    pub fn new(
        group: &'a str,
        members: &'a [Member],
        now: &'a [Option<Snapshot>],
        before: &'a [(Key, Snapshot)],
        least: u16,
    ) -> Look<'a> {
        let epoch = now.iter().flatten().map(|snapshot| snapshot.epoch).max();
        let current = |snapshot: &&Snapshot| Some(snapshot.epoch) == epoch;
        let count = now.iter().flatten().filter(current).map(|snapshot| snapshot.members).max();
        let count = count.map_or(least, |count| count as u16);
        let blank = |rank| Row { rank, member: None, now: None, before: None };
        let mut rows: Vec<Row> = (0..count).map(blank).collect();
        let mut outside = Vec::new();
        let (known, unknown): (Vec<_>, Vec<_>) = members
            .iter()
            .zip(now)
            .partition(|(_, now)| now.as_ref().is_some_and(|now| current(&now)));
        for (member, snapshot) in known.into_iter().chain(unknown) {
            let snapshot = snapshot.as_ref();
            let rank = snapshot.map_or(u64::from(member.seat), |snapshot| snapshot.rank);
            let of_view = snapshot.is_none_or(|snapshot| current(&snapshot));
            match rows.get_mut(rank as usize).filter(|row| of_view && row.member.is_none()) {
                Some(row) => {
                    let key = member.key();
                    let before = before.iter().find(|(of, _)| *of == key).map(|(_, seen)| seen);
                    (row.member, row.now, row.before) = (Some(member), snapshot, before);
                }
                None => outside.push((member, snapshot)),
            }
        }
        Look { group, epoch, rows, outside }
    }

    fn snapshots(&self) -> impl Iterator<Item = &'a Snapshot> {
        self.rows.iter().filter_map(|row| row.now)
    }

    /// The subgroups that anybody told of, also those that nobody belongs to.
    fn subgroups(&self) -> BTreeSet<u64> {
        let mine = self.snapshots().flat_map(|snapshot| &snapshot.subgroups).map(|of| of.subgroup);
        let others =
            self.snapshots().flat_map(|snapshot| &snapshot.elsewhere).map(|of| of.subgroup);
        mine.chain(others).collect()
    }

    /// What is the same at all members.
    fn about(&self, number: u64) -> Elsewhere {
        let other =
            |snapshot: &'a Snapshot| snapshot.elsewhere.iter().find(|of| of.subgroup == number);
        if let Some(other) = self.snapshots().find_map(other) {
            return *other;
        }
        let own = self.snapshots().find_map(|snapshot| Self::of(Some(snapshot), number));
        let own = own.expect("somebody told of it");
        Elsewhere {
            subgroup: number,
            received_mode: own.received_mode,
            members: own.progress.iter().filter(|prefix| **prefix != u64::MAX).count() as u64,
            senders: own.senders,
            of: own.of,
            shard: own.shard,
            lacks: own.lacks,
        }
    }

    fn of(snapshot: Option<&'a Snapshot>, number: u64) -> Option<&'a SubgroupSnapshot> {
        snapshot?.subgroups.iter().find(|subgroup| subgroup.subgroup == number)
    }

    /// How far a member is, by its own word or by that of whoever has seen most of it.
    fn prefix(&self, number: u64, row: &Row<'a>) -> Option<u64> {
        let own = Self::of(row.now, number).map(|own| own.prefix);
        let seen = self.snapshots().filter_map(|snapshot| Self::of(Some(snapshot), number));
        let seen = seen.filter_map(|of| of.progress.get(usize::from(row.rank)).copied());
        own.into_iter().chain(seen.filter(|prefix| *prefix != u64::MAX)).max()
    }

    fn front(&self, number: u64) -> u64 {
        self.rows.iter().filter_map(|row| self.prefix(number, row)).max().unwrap_or(0)
    }

    /// Messages and bytes delivered per second since the look before.
    fn rates(&self, number: u64, row: &Row<'a>) -> Option<(f64, f64)> {
        let (now, before) = (row.now?, row.before?);
        let ns = now.at.0.saturating_sub(before.at.0);
        let of = |snapshot| Some(Self::of(Some(snapshot), number)?.delivered);
        let (now, before) = (of(now)?, of(before)?);
        let per_second = |now: u64, before: u64| match ns {
            0 => 0.0, // it slept all the time
            ns => now.saturating_sub(before) as f64 * 1e9 / ns as f64,
        };
        Some((per_second(now.messages, before.messages), per_second(now.bytes, before.bytes)))
    }

    fn state(&self, row: &Row<'a>) -> String {
        let Some(member) = row.member else {
            let way =
                |snapshot: &'a Snapshot| snapshot.peers.get(usize::from(row.rank)).copied()?;
            return match self.snapshots().find_map(way) {
                Some(Way::Tcp { remote, .. } | Way::Verbs { remote, .. }) => {
                    let at = remote.map_or(String::new(), |remote| format!(" ({})", remote.ip()));
                    format!("on another host{at}, not asked: `squall stat --config FILE` does")
                }
                _ => "not there".into(),
            };
        };
        member.state(row.now)
    }

    pub fn print(&self, watching: bool) -> Result<(), Failure> {
        let epoch = self.epoch.map_or("no view".into(), |epoch| format!("view {epoch}"));
        say(&format!("group {}: {} members, {epoch}", self.group, self.rows.len()))?;
        for row in &self.rows {
            let (rank, state) = (row.rank, self.state(row));
            match row.member {
                Some(Member { far: Some((address, _)), pid: 0, .. }) => {
                    say(&format!("rank {rank}: {address}: {state}"))?; // told of by others
                }
                Some(Member { far: Some((address, host)), pid, .. }) => {
                    say(&format!("rank {rank}: {address}, host {host}, process {pid}: {state}"))?;
                }
                Some(member) if state != "runs" => {
                    say(&format!("rank {rank} (process {}): {state}", member.pid))?;
                }
                None => say(&format!("rank {rank}: {state}"))?,
                Some(_) => {}
            }
            let evicted = row.now.map_or(0, |snapshot| snapshot.counters.evicted);
            if evicted > 0 {
                say(&format!("rank {rank} has evicted {evicted} members for their lag"))?;
            }
            for transfer in row.now.iter().flat_map(|snapshot| &snapshot.transfers) {
                say(&format!("rank {rank} {}", transfer.text()))?;
            }
        }
        for (member, snapshot) in &self.outside {
            say(&format!("{}: {}", place(member), outside_state(member, *snapshot)))?;
        }
        for number in self.subgroups() {
            let one = self.about(number);
            let mode = if one.received_mode { "received" } else { "stable" };
            let shards = self.subgroups().iter().filter(|at| self.about(**at).of == one.of).count();
            let shard = if shards > 1 || one.of != number {
                format!(" (shard {} of the configured subgroup {})", one.shard, one.of)
            } else {
                String::new()
            };
            let waits = match one.lacks {
                0 => String::new(),
                lacks => format!(", waits for {lacks} more"),
            };
            let empty = if one.members == 0 { ", no members" } else { "" };
            let senders = one.senders;
            say(&format!(
                "\nsubgroup {number}{shard}: {mode} mode, {senders} senders{waits}{empty}"
            ))?;
            if one.members > 0 {
                say(&self.table(number, watching))?;
            }
        }
        if self
            .snapshots()
            .flat_map(|of| &of.peers)
            .any(|way| matches!(way, Some(Way::Tcp { .. } | Way::Verbs { .. })))
        {
            say("\nconnections")?;
            say(&self.connections())?;
        }
        self.changes().map_or(Ok(()), |table| say(&format!("\nlast view change\n{table}")))
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
        for row in &self.rows {
            let Some(prefix) = self.prefix(number, row) else { continue };
            let pid = row.member.map_or("-".into(), |member| member.pid.to_string());
            let mut cells = vec![row.rank.to_string(), pid, prefix.to_string()];
            match (row.now, Self::of(row.now, number)) {
                (Some(snapshot), Some(own)) => {
                    let batches = own.delivered.batches;
                    let mean = own.delivered.messages as f64 / batches.max(1) as f64;
                    let counts = [own.stable, own.delivered_number, front - prefix];
                    cells.extend(counts.map(|count| count.to_string()));
                    let counts = [own.sent, own.nulls, own.pressed, batches];
                    cells.extend(counts.map(|count| count.to_string()));
                    cells.push(digits(mean));
                    cells.push(snapshot.counters.sleeps.to_string());
                    cells.push(time_text(snapshot.counters.loop_gap_max_ns));
                }
                _ => {
                    cells.extend(["-".into(), "-".into(), (front - prefix).to_string()]);
                    cells.extend(std::iter::repeat_n(String::from("-"), 7));
                }
            }
            if watching {
                let rates = self.rates(number, row);
                cells.extend(rates.map_or(["-".into(), "-".into()], |(messages, bytes)| {
                    [rate_text(messages), format!("{}/s", bytes_text(bytes as u64))]
                }));
            }
            table.add_row(cells);
        }
        to_the_right(table)
    }

    /// Who reaches whom by what, and what waits there.
    fn connections(&self) -> String {
        let mut table = new_table();
        table.set_header(["rank", "to rank", "by", "address", "waiting", "full", "behind"]);
        for (row, snapshot) in self.rows.iter().filter_map(|row| Some((row, row.now?))) {
            for (peer, way) in snapshot.peers.iter().enumerate() {
                let Some(way) = way else { continue };
                let behind = behind(snapshot, peer).to_string();
                let [by, address, waiting, full] = match way {
                    Way::Shm => ["shm", "-", "-", "-"].map(String::from),
                    Way::Tcp { remote, queued_bytes, full } => {
                        let address = remote.map_or("-".into(), |remote| remote.to_string());
                        ["tcp".into(), address, bytes_text(*queued_bytes), full.to_string()]
                    }
                    Way::Verbs { remote, waiting, full, .. } => {
                        let address = remote.map_or("-".into(), |remote| remote.to_string());
                        ["rdma".into(), address, format!("{waiting} posts"), full.to_string()]
                    }
                };
                let (rank, peer) = (row.rank.to_string(), peer.to_string());
                table.add_row([rank, peer, by, address, waiting, full, behind]);
            }
        }
        to_the_right(table)
    }

    /// What the last view change of each member took, from the first step that it went through.
    fn changes(&self) -> Option<String> {
        let mut table = new_table();
        let names = Steps::default().named().map(|(name, _)| name);
        table.set_header(["rank", "changes", "ago"].into_iter().chain(names));
        for (row, snapshot) in self.rows.iter().filter_map(|row| Some((row, row.now?))) {
            let steps = snapshot.last.named().map(|(_, at)| at.0);
            let reached = || steps.into_iter().filter(|at| *at != 0);
            let (Some(first), Some(last)) = (reached().min(), reached().max()) else { continue };
            let ago = time_text(snapshot.at.0.saturating_sub(last));
            let cell = |at: u64| at.checked_sub(first).map_or("-".into(), time_text);
            let cells = [row.rank.to_string(), snapshot.changes.to_string(), ago];
            table.add_row(cells.into_iter().chain(steps.map(cell)));
        }
        (!table.is_empty()).then(|| to_the_right(table))
    }

    pub fn json(&self) -> Value {
        let members = self.rows.iter().map(|row| {
            let subgroups = self.subgroups().into_iter();
            let subgroups = subgroups.filter_map(|number| self.subgroup_json(number, row));
            let (now, far) = (row.now, row.member.and_then(|member| member.far.as_ref()));
            let counter = |of: fn(&Snapshot) -> u64| now.map(of);
            json!({
                "rank": row.rank,
                "pid": row.member.map_or(0, |member| member.pid),
                "address": far.map(|(address, _)| address),
                "host": far.map(|(_, host)| host),
                "state": self.state(row),
                "at_ns": counter(|of| of.at.0),
                "turns": counter(|of| of.counters.turns),
                "busy_turns": counter(|of| of.counters.busy_turns),
                "sleeps": counter(|of| of.counters.sleeps),
                "evicted": counter(|of| of.counters.evicted),
                "loop_gap_max_ns": counter(|of| of.counters.loop_gap_max_ns),
                "subgroups": subgroups.collect::<Vec<_>>(),
                "view_changes": counter(|of| of.changes),
                "last_change": now.map(|of| steps_json(&of.last)),
                "peers": now.map(peers_json),
                "transfers": now.map(transfers_json),
            })
        });
        let outside = self.outside.iter().map(|(member, snapshot)| {
            let state = outside_state(member, *snapshot);
            json!({ "pid": member.pid, "seat": member.seat, "state": state })
        });
        let subgroups = self.subgroups().into_iter().map(|number| {
            let of = self.about(number);
            json!({
                "subgroup": number, "of": of.of, "shard": of.shard, "members": of.members,
                "senders": of.senders, "lacks": of.lacks,
            })
        });
        json!({
            "group": self.group,
            "epoch": self.epoch,
            "members": members.collect::<Vec<_>>(),
            "outside": outside.collect::<Vec<_>>(),
            "subgroups": subgroups.collect::<Vec<_>>(),
        })
    }

    fn subgroup_json(&self, number: u64, row: &Row<'a>) -> Option<Value> {
        let prefix = self.prefix(number, row)?;
        let mut value = json!({
            "subgroup": number,
            "prefix": prefix,
            "lag": self.front(number) - prefix,
        });
        if let Some(own) = Self::of(row.now, number) {
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
        if let Some((messages, bytes)) = self.rates(number, row) {
            value["messages_per_second"] = messages.into();
            value["bytes_per_second"] = bytes.into();
        }
        Some(value)
    }
}

/// Messages of one member's order that another is not known to have, in the subgroup where most are.
fn behind(snapshot: &Snapshot, peer: usize) -> u64 {
    let lag = |of: &SubgroupSnapshot| {
        let has = of.progress.get(peer).copied().filter(|has| *has != u64::MAX)?;
        Some(of.prefix.saturating_sub(has))
    };
    snapshot.subgroups.iter().filter_map(lag).max().unwrap_or(0)
}

fn place(member: &Member) -> String {
    match &member.far {
        Some((address, _)) => address.clone(),
        None => format!("seat {} (process {})", member.seat, member.pid),
    }
}

/// Of one that is in no place of the newest view.
fn outside_state(member: &Member, snapshot: Option<&Snapshot>) -> String {
    let state = member.state(snapshot);
    match snapshot {
        Some(snapshot) if state == "runs" => format!("is in view {}", snapshot.epoch),
        _ => state,
    }
}

fn to_the_right(mut table: Table) -> String {
    table.column_iter_mut().for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table.to_string()
}

/// By the member's clock, as `at_ns`; null: it was not reached, or not yet.
fn steps_json(last: &Steps) -> Value {
    let step = |(name, at): (&str, Nanos)| (format!("{name}_ns"), (at.0 != 0).then_some(at.0));
    last.named().into_iter().map(step).collect()
}

fn transfers_json(snapshot: &Snapshot) -> Value {
    let figures = |of: &Transferred| of.figures().into_iter().collect::<BTreeMap<_, _>>();
    let one = |of: &Transferred| json!({ "gives": of.gives, "figures": figures(of) });
    snapshot.transfers.iter().map(one).collect()
}

fn peers_json(snapshot: &Snapshot) -> Value {
    let one = |(rank, way): (usize, &Option<Way>)| {
        let behind = behind(snapshot, rank);
        Some(match (*way)? {
            Way::Shm => json!({ "rank": rank, "by": "shm", "behind": behind }),
            Way::Tcp { remote, queued_bytes, full } => json!({
                "rank": rank, "by": "tcp", "address": remote.map(|remote| remote.to_string()),
                "waiting_bytes": queued_bytes, "full": full, "behind": behind,
            }),
            Way::Verbs { remote, waiting, full, counts } => json!({
                "rank": rank, "by": "rdma", "address": remote.map(|remote| remote.to_string()),
                "waiting_posts": waiting, "full": full, "behind": behind,
                "work_requests": counts.work_requests, "doorbells": counts.doorbells,
                "words": counts.words, "spans": counts.spans, "inlined": counts.inlined,
                "bytes": counts.bytes, "notes": counts.notes, "bells": counts.bells,
                "rung": counts.rung, "completions": counts.completions,
            }),
        })
    };
    snapshot.peers.iter().enumerate().filter_map(one).collect()
}
