// SPDX-License-Identifier: MIT OR Apache-2.0
//! The reader's side of a statistics page. Whoever has written it, or sent it, may say anything.

use super::*;

/// Decodes a page. `None`: it is none, or not yet.
pub fn read(region: &Region) -> Option<Snapshot> {
    let word = |at: usize| (at * 8 + 8 <= region.size()).then(|| region.cell(at * 8).observe());
    if word(0)? != STATS_MAGIC {
        return None;
    }
    let members = word(3)? as usize;
    let (subgroups, room) = (word(4)? as usize, word(12)? as usize);
    let known = members <= room && room <= 1 << 10 && subgroups <= 1 << 10;
    if !known || page_bytes(subgroups, room) > region.size() {
        return None;
    }
    let mut snapshot = Snapshot {
        pid: word(1)?,
        rank: word(2)?,
        members: members as u64,
        epoch: word(5)?,
        stopped: word(6)?,
        at: Nanos(word(7)?),
        changes: word(13)?,
        last: Steps {
            suspected: Nanos(word(14)?),
            wedged: Nanos(word(15)?),
            agreed: Nanos(word(16)?),
            echoed: Nanos(word(17)?),
            ended: Nanos(word(18)?),
            passed: Nanos(word(19)?),
            installed: Nanos(word(20)?),
            built: Nanos(word(21)?),
            delivered: Nanos(word(22)?),
        },
        counters: Counters {
            turns: word(8)?,
            busy_turns: word(9)?,
            sleeps: word(10)?,
            loop_gap_max_ns: word(11)?,
            evicted: word(23)?,
        },
        subgroups: Vec::new(),
        elsewhere: Vec::new(),
        peers: (0..members).map(|rank| way_of(PEERS_AT + rank * PEER_WORDS, &word)).collect(),
        transfers: (0..=TAKEN).filter_map(|place| transferred(place, &word)).collect(),
    };
    for at in 0..subgroups {
        let base = subgroup_at(at, room);
        let get = |i: usize| word(base + i).unwrap_or(0);
        match get(17) {
            0 => snapshot.elsewhere.push(elsewhere(get)),
            _ => snapshot.subgroups.push(subgroup(get, members)),
        }
    }
    Some(snapshot)
}

fn way_of(base: usize, word: &impl Fn(usize) -> Option<u64>) -> Option<Way> {
    match word(base)? {
        BY_SHM => Some(Way::Shm),
        by @ (BY_TCP | BY_VERBS) => {
            let place = word(base + 1)?;
            let bytes = u128::from(word(base + 2)?) << 64 | u128::from(word(base + 3)?);
            let ip = match place >> 16 {
                4 => Some(IpAddr::from(Ipv4Addr::from_bits(bytes as u32))),
                6 => Some(IpAddr::from(Ipv6Addr::from_bits(bytes))),
                _ => None,
            };
            let remote = ip.map(|ip| SocketAddr::new(ip.to_canonical(), place as u16));
            let (waits, full) = (word(base + 4)?, word(base + 5)?);
            if by == BY_TCP {
                return Some(Way::Tcp { remote, queued_bytes: waits, full });
            }
            let mut words = [0; COUNTS];
            for (at, count) in (base + COUNTS_AT..).zip(&mut words) {
                *count = word(at)?;
            }
            Some(Way::Verbs { remote, waiting: waits, full, counts: counts_of(words) })
        }
        _ => None,
    }
}

fn transferred(place: usize, word: &impl Fn(usize) -> Option<u64>) -> Option<Transferred> {
    let base = TRANSFERS_AT + place * TRANSFER_WORDS;
    let kind = word(base)?;
    let words = std::array::from_fn(|at| word(base + 2 + at).unwrap_or(u64::MAX));
    let progress = transfer::Snapshot::of_words(words)?;
    let known = kind == GIVES || kind == TAKES;
    known.then_some(Transferred { gives: kind == GIVES, other: word(base + 1)?, progress })
}

fn elsewhere(get: impl Fn(usize) -> u64) -> Elsewhere {
    Elsewhere {
        subgroup: get(0),
        received_mode: get(1) == 1,
        members: get(16),
        senders: get(2),
        of: get(13),
        shard: get(14),
        lacks: get(15),
    }
}

fn subgroup(get: impl Fn(usize) -> u64, members: usize) -> SubgroupSnapshot {
    let delivered = Delivered { messages: get(10), bytes: get(11), batches: get(12) };
    SubgroupSnapshot {
        subgroup: get(0),
        received_mode: get(1) == 1,
        senders: get(2),
        prefix: get(3),
        stable: get(4),
        delivered_number: get(5),
        sent: get(6),
        nulls: get(7),
        announced: get(8),
        pressed: get(9),
        delivered,
        of: get(13),
        shard: get(14),
        lacks: get(15),
        progress: (0..members).map(|rank| get(SUBGROUP_WORDS + rank)).collect(),
    }
}
