// SPDX-License-Identifier: MIT OR Apache-2.0
//! Transcripts: dialogues with a small group that one can read, in `transcripts/*.txt`.
//!
//! A line that begins with `> ` is a command, the lines after it that begin with `| ` are what came
//! of it, everything else is prose. `UPDATE=1 cargo test transcripts` writes what came of it anew.
//!
//! ```text
//! members N [senders A B ..] [window W] [ring BYTES] [max BYTES] [received]
//! send M WORDS     fill M BYTES      reserve M BYTES   publish M     abort M
//! turn M [LIMIT]   land [FROM TO]    full FROM TO      room FROM TO
//! rows M           garbage M COLUMN VALUE
//! ```
//!
//! Every pair has a queue of posts; nothing lands by itself.

use super::view::{Subgroup, View};
use super::{Engine, State, Work};
use crate::base::{Count, Epoch, Events, Members, Nanos, Post, Posting, Rank};
use crate::limits::{DESCRIPTOR_BYTES, RUN_BYTES};
use crate::mem::{Batch, Message, Region};
use crate::sst::Table;
use crate::sst::inbox::Inbox;
use crate::sst::layout::{Column, Layout, Mode, Shape};
use crate::sst::producer::{Gate, Producer};
use crate::sst::ring::{LaneCells, Ring, Taker};
use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Arc;

/// One member of the group of a transcript: the driver's turn by hand.
pub struct Player {
    pub engine: Engine,
    pub table: Table,
    pub inboxes: Vec<Inbox>,
    pub producer: Option<Producer>,
    pub work: Work,
    batch: Batch,
    pub full: Members,
    pub lost: Members,
    reserved: u32,
}

/// A group with one subgroup, a mirror per pair and a queue per pair.
pub struct Stage {
    pub players: Vec<Player>,
    pub layout: Arc<Layout>,
    spec: Subgroup,
    /// By owner and reader.
    pub mirrors: Vec<Vec<Arc<Region>>>,
    rings: Vec<Vec<Arc<Region>>>,
    queues: Vec<Vec<VecDeque<Post>>>,
    now: u64,
}

impl Stage {
    pub fn new(members: usize, senders: &[Rank], shape: Shape) -> Stage {
        let all = (0..members as u16).map(Rank).collect();
        let spec = Subgroup::new(all, senders, 1, shape);
        let view = |me: usize| View {
            epoch: Epoch(1),
            me: Rank(me as u16),
            members,
            subgroups: vec![spec.clone()],
        };
        let layout = Arc::new(view(0).layout());
        let regions = |bytes: usize| -> Vec<Vec<Arc<Region>>> {
            let row = || (0..members).map(|_| Arc::new(Region::heap(bytes))).collect();
            (0..members).map(|_| row()).collect()
        };
        let (mirrors, rings) = (regions(layout.control_bytes), regions(layout.rings_bytes(0)));
        let player = |me: usize| {
            let blocks: Vec<_> = (0..members).map(|owner| mirrors[owner][me].clone()).collect();
            let table = Table::new(layout.clone(), Rank(me as u16), blocks, None);
            let ring = |rank: Rank| Ring::new(rings[rank.index()][me].clone(), 0, &spec.shape);
            let of = |sender: &super::view::Sender| (ring(sender.rank), sender.rank.0, 0);
            let inbox = Inbox::new(spec.senders.iter().map(of).collect(), &spec.shape, Epoch(1));
            let s = spec.senders.iter().position(|sender| sender.rank.index() == me);
            let lane = s.map(|s| lane(&spec, &table, s, ring(Rank(me as u16))));
            let (producer, takers) = lane.map_or((None, vec![]), |(p, t)| (Some(p), vec![t]));
            Player {
                engine: Engine::new(view(me), &table, vec![takers], Posting::All),
                table,
                inboxes: vec![inbox],
                producer,
                work: Work::new(),
                batch: Batch::new(crate::limits::BATCH_MAX),
                full: Members::NONE,
                lost: Members::NONE,
                reserved: 0,
            }
        };
        Stage {
            players: (0..members).map(player).collect(),
            queues: vec![vec![VecDeque::new(); members]; members],
            layout,
            spec,
            mirrors,
            rings,
            now: 0,
        }
    }

    /// A whole turn; delivers at most `limit` messages. What it delivered and posted.
    pub fn turn(&mut self, me: usize, limit: usize) -> String {
        self.now += 1;
        let mut told = String::new();
        let player = &mut self.players[me];
        let events = Events { lost: player.lost, full: player.full };
        let Player { engine, table, inboxes, work, batch, .. } = player;
        let spec = &self.spec;
        engine.poll(Nanos(self.now), table, &events, work);
        if let Some(&delivery) = work.deliver.first() {
            let multicast = engine.multicast_mut(0);
            if let Err(bad) = multicast.collect(&mut inboxes[0], delivery.upto, batch, limit) {
                engine.bad_slot(0, bad, work);
            }
            for message in batch.messages() {
                let Message { number, rank, len, .. } = message;
                let index = match spec.mode() {
                    Mode::Stable => number / spec.senders.len() as u64,
                    Mode::Received => *number,
                };
                let text = String::from_utf8_lossy(message.bytes());
                let text = if *len > 24 { "..".into() } else { text };
                let _ = writeln!(
                    told,
                    "number {number}: \"{text}\", {len} bytes, index {index} of {rank}"
                );
            }
            batch.clear();
        }
        engine.done(inboxes, table, &events, work);
        for post in &work.posts {
            let _ = writeln!(told, "{}", describe(&self.layout, post));
            for to in post.to().iter() {
                self.queues[me][to.index()].push_back(*post);
            }
        }
        if let State::Stopped(status, suspicion) = engine.state() {
            let because = suspicion.map(|s| format!(" rank {}: {}", s.rank.0, s.fault));
            let _ = writeln!(told, "stopped: {status};{}", because.unwrap_or_default());
        }
        if told.is_empty() { "nothing\n".into() } else { told }
    }

    /// Lands what is queued from one member to another, in order.
    pub fn land(&mut self, from: usize, to: usize) {
        let (mirror, block) = (&self.mirrors[from][to], &self.rings[from]);
        for post in self.queues[from][to].drain(..) {
            match post {
                Post::Words { at, values, len, .. } => {
                    for (i, value) in values[..len.into()].iter().enumerate() {
                        mirror.cell(at as usize + i * 8).publish(*value);
                    }
                }
                Post::Span { from: first, upto, .. } => {
                    for at in (first as usize..upto as usize).step_by(8) {
                        block[to].cell(at).publish(block[from].cell(at).own());
                    }
                }
                Post::Bell { .. } => {}
            }
        }
    }

    /// The ring of a member, as another one has it.
    pub fn ring(&self, owner: usize, reader: usize) -> &Region {
        &self.rings[owner][reader]
    }

    pub fn land_all(&mut self) {
        for from in 0..self.players.len() {
            (0..self.players.len()).for_each(|to| self.land(from, to));
        }
    }

    /// All rows as one member has them.
    fn rows(&self, me: usize) -> String {
        let columns = &self.layout.subgroups[0];
        let mut told = String::new();
        for (owner, mirrors) in self.mirrors.iter().enumerate() {
            let cell = |byte: usize| mirrors[me].cell(byte).own();
            let sends = self.spec.senders.iter().any(|sender| sender.rank.index() == owner);
            let _ = write!(told, "row {owner}:");
            if sends {
                let (slots, head) = (cell(columns.slots.byte(0)), cell(columns.head.byte(0)));
                let _ = write!(told, " slots {slots} head {head}");
            }
            if self.spec.mode() == Mode::Stable {
                let at = [columns.prefix, columns.delivered, columns.released];
                let [prefix, delivered, released] = at.map(|column| cell(column.byte(0)));
                let _ = write!(told, " prefix {prefix} delivered {delivered} released {released}");
            } else {
                let by = (0..self.spec.senders.len()).map(|s| cell(columns.released_by.byte(s)));
                let _ = write!(told, " released {:?}", by.collect::<Vec<_>>());
            }
            told.push('\n');
        }
        told
    }
}

/// Both ends of the lane of sender `s`.
fn lane(spec: &Subgroup, table: &Table, s: usize, ring: Ring) -> (Producer, Taker) {
    let columns = &table.layout.subgroups[0];
    let at = match spec.mode() {
        Mode::Stable => columns.released.byte(0),
        Mode::Received => columns.released_by.byte(s),
    };
    let gate = Gate {
        rows: spec.members.iter().map(|&rank| (rank, table.block(rank).clone(), at)).collect(),
        mode: spec.mode(),
        sender: s,
        senders: spec.senders.len(),
        hook: None,
    };
    let cells = LaneCells::new();
    let hot_bytes = spec.shape.ring_bytes;
    let producer = Producer::new(ring.clone(), cells.clone(), gate, &spec.shape, hot_bytes);
    (producer, Taker::new(ring, cells))
}

fn describe(layout: &Layout, post: &Post) -> String {
    let to: Vec<String> = post.to().iter().map(|rank| rank.0.to_string()).collect();
    let to = to.join(" ");
    match post {
        Post::Words { at, values, len, .. } => {
            let word = |i: usize| format!("{} {}", name(layout, *at as usize + i * 8), values[i]);
            let words: Vec<String> = (0..usize::from(*len)).map(word).collect();
            format!("post to {to}: {}", words.join(", "))
        }
        Post::Span { from, upto, .. } => {
            let lane = layout.shapes[0].lane();
            let (what, first, bytes) = match from {
                _ if *from >= lane.payloads => ("payload bytes", lane.payloads, 1),
                _ if *from >= lane.descriptors => {
                    ("descriptors", lane.descriptors, DESCRIPTOR_BYTES)
                }
                _ => ("runs", 0, RUN_BYTES),
            };
            let [from, upto] = [from, upto].map(|byte| (byte - first) / bytes);
            format!("post to {to}: {what} {from}..{upto}")
        }
        Post::Bell { news, .. } => format!("bell to {to}, news {news}"),
    }
}

/// Which column a byte of the block belongs to.
fn name(layout: &Layout, byte: usize) -> &'static str {
    let columns = &layout.subgroups[0];
    let numbers = [columns.prefix, columns.delivered, columns.released];
    let counts = [columns.slots, columns.head, columns.delivered_by, columns.released_by];
    let number = numbers.iter().find(|column| column.byte(0) == byte).map(|column| column.name);
    let holds = |column: &&Column<Count>| (0..column.len.into()).any(|at| column.byte(at) == byte);
    number.or_else(|| counts.iter().find(holds).map(|column| column.name)).unwrap_or("?")
}

/// Carries out one command; its answer, as lines.
fn command(stage: &mut Option<Stage>, line: &str) -> String {
    let mut words = line.split_whitespace();
    let verb = words.next().expect("a command");
    let rest: Vec<&str> = words.collect();
    let number = |at: usize| rest[at].parse::<usize>().expect("a number");
    if verb == "members" {
        *stage = Some(cast(&rest));
        return String::new();
    }
    let stage = stage.as_mut().expect("`members` comes first");
    let answer = |outcome: Result<u64, _>| match outcome {
        Ok(ordinal) => format!("ordinal {ordinal}\n"),
        Err(status) => format!("{status:?}\n"),
    };
    match verb {
        "turn" => {
            let limit = if rest.len() > 1 { number(1) } else { crate::limits::BATCH_MAX };
            return stage.turn(number(0), limit);
        }
        "land" if rest.is_empty() => stage.land_all(),
        "land" => stage.land(number(0), number(1)),
        "full" => stage.players[number(0)].full.insert(Rank(number(1) as u16)),
        "room" => stage.players[number(0)].full.remove(Rank(number(1) as u16)),
        "rows" => return stage.rows(number(0)),
        "garbage" => {
            let columns = &stage.layout.subgroups[0];
            let byte = match rest[1] {
                "head" => columns.head.byte(0),
                "slots" => columns.slots.byte(0),
                "prefix" => columns.prefix.byte(0),
                other => panic!("no garbage for {other}"),
            };
            let value = number(2) as u64;
            stage.mirrors[number(0)].iter().for_each(|mirror| mirror.cell(byte).publish(value));
        }
        _ => {
            let me = &mut stage.players[number(0)];
            let producer = me.producer.as_mut().expect("a sender");
            match verb {
                "send" => return answer(producer.send(rest[1..].join(" ").as_bytes())),
                "fill" => return answer(producer.send(&vec![b'x'; number(1)])),
                "publish" => return answer(producer.publish(me.reserved)),
                "abort" => return format!("{:?}\n", producer.abort()),
                "reserve" => {
                    me.reserved = number(1) as u32;
                    let filled = producer.reserve(me.reserved).map(|slot| slot.fill(b'r'));
                    return format!("{filled:?}\n");
                }
                other => panic!("no such verb: {other}"),
            }
        }
    }
    String::new()
}

/// `members N [senders A B ..] [window W] [ring BYTES] [max BYTES] [received]`
fn cast(words: &[&str]) -> Stage {
    let after = |name: &str| {
        let at = words.iter().position(|word| *word == name)?;
        let some = words[at + 1..].iter().map_while(|word| word.parse::<u64>().ok());
        Some(some.collect::<Vec<_>>())
    };
    let one = |name: &str, default: u64| after(name).map_or(default, |some| some[0]);
    let members = words[0].parse::<u16>().expect("how many members");
    let senders = after("senders").unwrap_or_else(|| (0..members.into()).collect());
    let senders: Vec<Rank> = senders.into_iter().map(|rank| Rank(rank as u16)).collect();
    let shape = Shape {
        senders: 0,
        lanes: 0,
        mode: if words.contains(&"received") { Mode::Received } else { Mode::Stable },
        window: one("window", 8) as u32,
        message_bytes_max: one("max", 64) as u32,
        ring_bytes: one("ring", 1024),
    };
    Stage::new(members.into(), &senders, shape)
}

/// The text with what came of its commands written anew.
fn play(text: &str) -> String {
    let (mut played, mut stage) = (String::new(), None);
    for line in text.lines().filter(|line| !line.starts_with("| ")) {
        played.push_str(line);
        played.push('\n');
        if let Some(line) = line.strip_prefix("> ") {
            for answer in command(&mut stage, line).lines() {
                let _ = writeln!(played, "| {answer}");
            }
        }
    }
    played
}

#[test]
fn transcripts() {
    let place = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/group/transcripts");
    let mut count = 0;
    for entry in std::fs::read_dir(place).expect("the transcripts") {
        let path = entry.expect("a transcript").path();
        let text = std::fs::read_to_string(&path).expect("a text");
        let played = play(&text);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &played).expect("writable");
        } else if played != text {
            let differ = |(a, b): &(&str, &str)| a != b;
            let first = text.lines().zip(played.lines()).find(differ);
            panic!("{}: written and played differ: {first:?}", path.display());
        }
        count += 1;
    }
    assert!(count >= 4, "{count} transcripts");
}
