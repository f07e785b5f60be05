// SPDX-License-Identifier: MIT OR Apache-2.0
//! A state as bytes: short, and the same for states that differ only by a symmetry.

use crate::row::{Row, permuted};
use crate::world::{Private, State, Status, World};

impl<const N: usize> World<N> {
    /// The smallest of its encodings under all symmetries.
    pub fn encode(&self, state: &State<N>, bytes: &mut Vec<u8>) {
        self.write(state, bytes);
        if self.symmetries.is_empty() {
            return;
        }
        let mut other = Vec::with_capacity(bytes.len() + 8);
        for at in 0..self.symmetries.len() {
            other.clear();
            self.write(&self.renamed(state, at), &mut other);
            if other < *bytes {
                std::mem::swap(&mut other, bytes);
            }
        }
    }

    fn renamed(&self, state: &State<N>, symmetry: usize) -> State<N> {
        let map = &self.symmetries[symmetry];
        let mut rows = self.rows.borrow_mut();
        let mut next = state.clone();
        for from in 0..N {
            let to = usize::from(map[from]);
            next.status[to] = state.status[from];
            next.private[to] = state.private[from];
            next.own[to] = rows.renamed(symmetry, state.own[from], map);
            next.pushes[to] = state.pushes[from];
            for row in &mut next.pushes[to].rows[..usize::from(state.pushes[from].len)] {
                *row = rows.renamed(symmetry, *row, map);
            }
            for (other, &its) in map.iter().enumerate() {
                next.seen[to][usize::from(its)] =
                    rows.renamed(symmetry, state.seen[from][other], map);
                next.unread[to][usize::from(its)] = state.unread[from][other];
            }
        }
        next.suspected = permuted(state.suspected, map);
        next.ended = permuted(state.ended, map);
        let agreed = Row { list: state.agreed, ..Row::default() };
        next.agreed = agreed.permuted(map).list;
        next
    }

    fn write(&self, state: &State<N>, bytes: &mut Vec<u8>) {
        bytes.extend([state.suspected, state.broken, state.ended, state.agreed.len()]);
        (0..state.agreed.len()).for_each(|at| bytes.push(state.agreed.at(at)));
        let trims = !self.streams.is_empty();
        if trims {
            bytes.extend(state.delivered.to_le_bytes());
        }
        let statuses = state.status.iter().fold(0u16, |all, status| all << 2 | *status as u16);
        bytes.extend(statuses.to_le_bytes());
        for who in 0..N {
            if trims {
                let private = state.private[who];
                bytes.extend(private.received.to_le_bytes());
                bytes.extend(private.delivered.to_le_bytes());
                bytes.extend([private.asked, private.suspected]);
            }
            varint(bytes, state.own[who]);
            bytes.push(state.pushes[who].len);
            let pushes = &state.pushes[who].rows[..usize::from(state.pushes[who].len)];
            pushes.iter().for_each(|row| varint(bytes, *row));
        }
        for who in (0..N).filter(|who| is_in(state.status[*who])) {
            for other in (0..N).filter(|other| *other != who) {
                varint(bytes, state.seen[who][other]);
                if state.pushes[other].len > 0 {
                    varint(bytes, u32::from(state.unread[who][other]));
                }
            }
        }
    }

    pub fn read(&self, bytes: &[u8]) -> State<N> {
        let mut bytes = Bytes { bytes };
        let mut state = self.blank();
        state.suspected = bytes.byte();
        state.broken = bytes.byte();
        state.ended = bytes.byte();
        (0..bytes.byte()).for_each(|_| state.agreed.push(bytes.byte()));
        let trims = !self.streams.is_empty();
        if trims {
            state.delivered = bytes.word();
        }
        let statuses = bytes.word();
        for who in 0..N {
            state.status[who] = match statuses >> (2 * (N - 1 - who)) & 3 {
                0 => Status::Unborn,
                1 => Status::Up,
                2 => Status::Stopped,
                _ => Status::Passed,
            };
            if trims {
                state.private[who] = Private {
                    received: bytes.word(),
                    delivered: bytes.word(),
                    asked: bytes.byte(),
                    suspected: bytes.byte(),
                };
            }
            state.own[who] = bytes.varint();
            state.pushes[who].len = bytes.byte();
            for at in 0..usize::from(state.pushes[who].len) {
                state.pushes[who].rows[at] = bytes.varint();
            }
        }
        for who in (0..N).filter(|who| is_in(state.status[*who])).collect::<Vec<_>>() {
            for other in (0..N).filter(|other| *other != who) {
                state.seen[who][other] = bytes.varint();
                if state.pushes[other].len > 0 {
                    state.unread[who][other] = bytes.varint() as u16;
                }
            }
        }
        state
    }
}

fn varint(bytes: &mut Vec<u8>, mut value: u32) {
    while value >= 128 {
        bytes.push(value as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Whether a process reads, or will.
fn is_in(status: Status) -> bool {
    matches!(status, Status::Unborn | Status::Up)
}

struct Bytes<'a> {
    bytes: &'a [u8],
}

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.bytes.split_first().expect("a whole state");
        self.bytes = rest;
        *first
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn varint(&mut self) -> u32 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.byte();
            value |= u32::from(byte & 127) << shift;
            shift += 7;
            if byte < 128 {
                return value;
            }
        }
    }
}
