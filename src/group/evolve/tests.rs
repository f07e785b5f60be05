// SPDX-License-Identifier: MIT OR Apache-2.0
//! E3 where views end: whatever a member's row and rings hold, the others suspect it at worst. Real
//! engines on shared memory; the others see the liar through copies, in which words are altered.

use super::super::membership::Request;
use super::super::membership::roster::{Address, Roster};
use super::super::view::{Subgroup, View};
use super::super::{Engine, Work};
use super::*;
use crate::base::{Epoch, Posting, Rank, Versions};
use crate::limits::{BATCH_MAX, COUNT_MAX};
use crate::mem::{Batch, Region};
use crate::sst::inbox::Inbox;
use crate::sst::layout::{Layout, Mode, RECORD_WORDS, Shape};
use crate::sst::producer::{Gate, Producer};
use crate::sst::ring::{LaneCells, Ring};
use std::collections::BTreeMap;
use std::sync::Arc;

struct Dice(u64);

impl Dice {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let word = self.0 ^ self.0 >> 29;
        word.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word >> 32
    }

    fn below(&mut self, bound: usize) -> usize {
        ((self.word() >> 16) % bound as u64) as usize
    }
}

struct Player {
    engine: Engine,
    table: Table,
    inbox: Inbox,
    producer: Producer,
    work: Work,
    events: Events,
    /// What became of it.
    end: Option<&'static str>,
}

struct Cast {
    players: Vec<Player>,
    layout: Arc<Layout>,
    /// The liar's own block and ring, and what the others see of them.
    own: [Arc<Region>; 2],
    shown: [Arc<Region>; 2],
    bytes: [usize; 2],
    /// Words that the liar has altered: for now, and for good.
    altered: BTreeMap<(usize, usize), u64>,
    stubborn: BTreeMap<(usize, usize), u64>,
}

fn cast(members: usize, liar: usize, mode: Mode) -> Cast {
    let shape =
        Shape { senders: 0, lanes: 0, mode, window: 4, message_bytes_max: 16, ring_bytes: 4096 };
    let all: Vec<Rank> = (0..members as u16).map(Rank).collect();
    let spec = Subgroup::new(all.clone(), &all, 1, shape);
    let layout = Arc::new(Layout::new(&[spec.shape]));
    let bytes = [layout.control_bytes, layout.rings_bytes(0)];
    let regions = || bytes.map(|bytes| Arc::new(Region::heap(bytes)));
    let owned: Vec<[Arc<Region>; 2]> = all.iter().map(|_| regions()).collect();
    let shown = regions();
    let founders: Vec<_> = (1..=members as u64).map(|id| (id, Address::default())).collect();
    let player = |me: usize| {
        let seen = |of: usize, what: usize| {
            let copies = of == liar && me != liar;
            if copies { shown[what].clone() } else { owned[of][what].clone() }
        };
        let rank = Rank(me as u16);
        let blocks = (0..members).map(|of| seen(of, 0)).collect();
        let mut table = Table::new(layout.clone(), rank, blocks, None);
        let ring = |of: usize| Ring::new(seen(of, 1), 0, &spec.shape);
        let rings = (0..members).map(|of| (ring(of), of as u16, 0)).collect();
        let columns = &layout.subgroups[0];
        let at = match mode {
            Mode::Stable => columns.released.byte(0),
            Mode::Received => columns.released_by.byte(me),
        };
        let row = |&of: &Rank| (of, table.block(of).clone(), at);
        let rows = all.iter().map(row).collect();
        let gate = Gate { rows, mode, sender: me, senders: members, hook: None };
        let cells = LaneCells::new();
        let producer = Producer::new(ring(me), cells.clone(), gate, &spec.shape, 4096);
        let takers = vec![vec![Taker::new(ring(me), cells)]];
        let view = View { epoch: Epoch(1), me: rank, members, subgroups: vec![spec.clone()] };
        let roster = Roster::first(&founders, rank);
        let carry = Carry::first(&roster);
        let options = Options { tie_break: false, posting: Posting::Nothing };
        Player {
            engine: Engine::evolving(view, &mut table, takers, (roster, carry), options),
            table,
            inbox: Inbox::new(rings, &spec.shape, Epoch(1)),
            producer,
            work: Work::new(),
            events: Events::default(),
            end: None,
        }
    };
    let players = (0..members).map(player).collect();
    let own = owned[liar].clone();
    Cast { players, layout, own, shown, bytes, altered: BTreeMap::new(), stubborn: BTreeMap::new() }
}

impl Cast {
    /// A member's turn; it delivers at most so many messages.
    fn turn(&mut self, who: usize, most: usize) {
        let Player { engine, table, inbox, work, events, end, .. } = &mut self.players[who];
        if end.is_some() {
            return;
        }
        engine.poll(Nanos(1), table, events, work);
        if let Some(&delivery) = work.deliver.first() {
            let mut batch = Batch::new(BATCH_MAX);
            let multicast = engine.multicast_mut(0);
            if let Err(bad) = multicast.collect(inbox, delivery.upto, &mut batch, most) {
                engine.bad_slot(0, bad, work);
            }
        }
        engine.done(std::slice::from_ref(inbox), table, events, work);
        events.lost = Members::NONE;
        if work.install.is_some() {
            let kept = engine.keep(0, 0);
            assert!(kept.len() <= 4, "no more than a window");
            *end = Some("goes on");
        } else if let Some(stop) = engine.stop_reason() {
            *end = Some(match stop {
                Stop::Expelled { .. } => "expelled",
                Stop::Partitioned { .. } => "partitioned",
                Stop::Left => "left",
                Stop::Exhausted => "exhausted",
            });
        }
    }

    /// What the liar has said lands, and some of it is not what it said.
    fn show(&mut self, dice: &mut Dice, lies: usize) {
        let tell = |what: usize, at: usize| self.own[what].cell(at).own();
        if dice.below(100) < lies {
            let (what, at) = self.place(dice);
            let was = self.altered.get(&(what, at)).copied().unwrap_or_else(|| tell(what, at));
            let value = match dice.below(10) {
                0 => dice.word(),
                1 => 1 << dice.below(64),
                2 => COUNT_MAX - 1 + dice.below(3) as u64,
                3 => was.wrapping_sub(1),
                4 | 5 => was.wrapping_add(1 + dice.below(3) as u64),
                6 => 1 << dice.below(5),
                // A record's first word.
                7 => {
                    dice.below(5) as u64
                        | (dice.below(2) as u64) << 8
                        | (dice.below(9) as u64) << 32
                }
                _ => dice.below(6) as u64,
            };
            self.altered.insert((what, at), value);
            if dice.below(2) == 0 {
                let cold = self.layout.cold.byte(0);
                let value = self.shown[0].cell(cold).own().wrapping_add(1);
                self.altered.insert((0, cold), value);
            }
        }
        for what in [1, 0] {
            for at in (0..self.bytes[what]).step_by(8) {
                let place = (what, at);
                let value = self.stubborn.get(&place).or(self.altered.get(&place)).copied();
                self.shown[what].cell(at).publish(value.unwrap_or_else(|| tell(what, at)));
            }
        }
        if dice.below(4) == 0 {
            self.altered.clear(); // goes back to what it should have said
        }
    }

    /// A word that somebody looks at.
    fn place(&self, dice: &mut Dice) -> (usize, usize) {
        let (layout, columns) = (&self.layout, &self.layout.subgroups[0]);
        let words = |from: usize, upto: usize, dice: &mut Dice| {
            from + dice.below((upto - from) / 8 + 1) * 8
        };
        match dice.below(8) {
            0 | 1 => (0, words(layout.changes.byte(0), layout.cold.byte(0), dice)),
            2 => (0, words(layout.change.byte(0), layout.change.byte(6 * RECORD_WORDS), dice)),
            3 | 4 => (0, words(columns.slots.byte(0), columns.released.byte(0), dice)),
            5 | 6 => (0, words(columns.received.byte(0), columns.cut_ready.byte(0), dice)),
            _ => (1, words(0, 4 * 40, dice)),
        }
    }
}

/// `SQUALL_LIAR_SEEDS` says how many seeds.
#[test]
fn a_liar_is_suspected_at_worst() {
    let seeds = std::env::var("SQUALL_LIAR_SEEDS").ok().and_then(|text| text.parse().ok());
    let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 1..=seeds.unwrap_or(2_000) {
        let mut dice = Dice(seed);
        let members = 3 + dice.below(4);
        let liar = dice.below(members);
        let mode = if dice.below(8) == 0 { Mode::Received } else { Mode::Stable };
        let (lies, most) = ([2, 10, 40][dice.below(3)], 1 + dice.below(4));
        let mut cast = cast(members, liar, mode);
        if dice.below(3) == 0 {
            let columns = &cast.layout.subgroups[0];
            let of = if dice.below(3) == 0 { columns.cut } else { columns.received };
            let at = of.byte(dice.below(members));
            cast.stubborn.insert((0, at), dice.below(3) as u64);
        }
        for step in 0..120 + 20 * members {
            if dice.below(3) == 0 {
                let from = dice.below(members);
                let _ = cast.players[from].producer.send(&dice.word().to_le_bytes());
            }
            if step > 40 && dice.below(60) == 0 {
                let request = Request {
                    incarnation: 99,
                    address: Address::default(),
                    versions: Versions::OURS,
                };
                let who = dice.below(members);
                match dice.below(3) {
                    0 => cast.players[who].engine.ask_to_leave(),
                    1 => cast.players.iter_mut().for_each(|p| p.engine.ask_to_join(request)),
                    _ if who > 0 => cast.players[0].events.lost.insert(Rank(who as u16)),
                    _ => {}
                }
            }
            cast.turn(dice.below(members), most);
            cast.show(&mut dice, if step > 10 { lies } else { 0 });
            cast.turn(dice.below(members), most);
        }
        let others = cast.players.iter().enumerate().filter(|(who, _)| *who != liar);
        for (_, player) in others {
            *ends.entry(player.end.unwrap_or("is still here")).or_insert(0) += 1;
        }
    }
    println!("{ends:?}");
}
