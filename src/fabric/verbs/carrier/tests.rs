// SPDX-License-Identifier: MIT OR Apache-2.0
//! What one says the other hears, and any other bytes are refused.

use super::*;
use crate::fabric::tcp::mirror::RingMeasures;
use crate::fabric::tcp::session::cases;
use proptest::prelude::*;

const SUBGROUPS: usize = 3;

fn measures() -> Measures {
    let ring = |lane_bytes| RingMeasures { lanes: 2, lane_bytes };
    Measures { block_bytes: 4096, beat_at: 64, rings: vec![ring(64), ring(4096), ring(1 << 30)] }
}

fn remote(address: u64, bytes: usize, key: u32) -> Remote {
    Remote { address, bytes: bytes as u64, key }
}

fn message() -> impl Strategy<Value = Message> {
    let address = || any::<u64>().prop_map(|address| address >> 1);
    let mtu = prop::sample::select(vec![256u32, 512, 1024, 2048, 4096]);
    let place = (any::<[u8; 16]>(), any::<u16>(), mtu, any::<bool>()).prop_map(
        |(gid, lid, mtu_bytes, ethernet)| Place { gid: Gid(gid), lid, mtu_bytes, ethernet },
    );
    let notes = (address(), any::<u32>()).prop_map(|(at, key)| remote(at, notes::RING_BYTES, key));
    let endpoint = (0..=NUMBER_MAX, 0..=NUMBER_MAX, place, notes, any::<bool>()).prop_map(
        |(qpn, psn, place, notes, bells)| Message::Endpoint {
            endpoint: Endpoint { qpn, psn },
            place,
            notes,
            bells,
        },
    );
    let ring = || prop::option::of((address(), any::<u32>()));
    let rings = prop::collection::vec(ring(), SUBGROUPS..=SUBGROUPS);
    let keys = (1..u64::MAX, address(), any::<u32>(), rings).prop_map(|(epoch, at, key, rings)| {
        let sizes = measures();
        let ring = |(sizes, ring): (&RingMeasures, &Option<(u64, u32)>)| {
            ring.map(|(at, key)| remote(at, sizes.bytes(), key))
        };
        let rings = sizes.rings.iter().zip(&rings).map(ring).collect();
        Message::Keys(Epoch(epoch), Keys { block: remote(at, sizes.block_bytes, key), rings })
    });
    prop_oneof![endpoint, keys, (1..u64::MAX).prop_map(|epoch| Message::Done(Epoch(epoch)))]
}

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn what_is_said_is_heard(message in message()) {
        prop_assert_eq!(Message::decode(&message.encode(), &measures()), Ok(message));
    }

    /// C1: what is heard is what was said, so nothing is overlooked; the rest is refused.
    #[test]
    fn fuzz_any_bytes_are_refused_or_said_so(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        if let Ok(message) = Message::decode(&bytes, &measures()) {
            prop_assert_eq!(message.encode().len(), bytes.len());
        }
    }

    #[test]
    fn fuzz_a_changed_byte_is_another_message_or_none(
        message in message(),
        at in any::<prop::sample::Index>(),
        with in 1u8..,
    ) {
        let mut bytes = message.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= with;
        match Message::decode(&bytes, &measures()) {
            Ok(other) => prop_assert_ne!(other, message),
            Err(nonsense) => prop_assert!(!nonsense.to_string().is_empty()),
        }
    }

    #[test]
    fn a_cut_message_is_none(message in message(), cut in any::<prop::sample::Index>()) {
        let bytes = message.encode();
        let cut = &bytes[..cut.index(bytes.len())];
        prop_assert!(Message::decode(cut, &measures()).is_err());
    }
}

#[track_caller]
fn refused(bytes: &[u8], expected: Nonsense) {
    assert_eq!(Message::decode(bytes, &measures()), Err(expected));
}

fn keys_of(rings: &[(u16, u64)]) -> Vec<u8> {
    let block = remote(4096, 4096, 7);
    let mut bytes = Message::Keys(Epoch(1), Keys { block, rings: Vec::new() }).encode();
    bytes[2..4].copy_from_slice(&(rings.len() as u16).to_le_bytes());
    for (subgroup, address) in rings {
        bytes.extend([0; 2]);
        bytes.extend(subgroup.to_le_bytes());
        bytes.extend(9u32.to_le_bytes());
        bytes.extend(address.to_le_bytes());
    }
    bytes
}

#[test]
fn keys_are_of_memory_that_there_can_be() {
    assert!(Message::decode(&keys_of(&[(0, 64), (2, 128)]), &measures()).is_ok());
    let field = |value| Nonsense::Field { kind: KEYS, value };
    refused(&keys_of(&[(3, 64)]), field(3)); // no such subgroup
    refused(&keys_of(&[(1, 64), (1, 64)]), field(1)); // twice
    refused(&keys_of(&[(0, u64::MAX - 127)]), field(u64::MAX - 127)); // round the end (C2)
    let mut cut = keys_of(&[(0, 64)]);
    cut.pop();
    refused(&cut, Nonsense::Length { kind: KEYS, bytes: cut.len() as u32 });
    let mut none = keys_of(&[]);
    none[8] = 0;
    refused(&none, Nonsense::Epoch { kind: KEYS, epoch: 0 });
    let mut many = keys_of(&[]);
    many[2..4].copy_from_slice(&u16::MAX.to_le_bytes());
    refused(&many, Nonsense::Length { kind: KEYS, bytes: 24 });
}

#[test]
fn an_endpoint_is_one_that_there_can_be() {
    let place = Place { gid: Gid([1; 16]), lid: 5, mtu_bytes: 4096, ethernet: true };
    let endpoint = Endpoint { qpn: 17, psn: 99 };
    let notes = remote(0xffff_f000, notes::RING_BYTES, 3);
    let good = Message::Endpoint { endpoint, place, notes, bells: true }.encode();
    assert!(Message::decode(&good, &measures()).is_ok());
    let field = |value| Nonsense::Field { kind: ENDPOINT, value };
    let changed = |at: usize, with: u32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&with.to_le_bytes());
        bytes
    };
    refused(&changed(4, 1 << 24), field(1 << 24));
    refused(&changed(8, u32::MAX), field(u32::MAX.into()));
    refused(&changed(12, 1500), field(1500));
    refused(&changed(36, 1), field(1));
    refused(&changed(44, u32::MAX), field(0xffff_ffff_ffff_f000)); // round the end (C2)
    let mut flags = good.clone();
    flags[1] = 7;
    refused(&flags, field(4));
    refused(&[], Nonsense::Kind { kind: 0 });
    refused(&[4; 32], Nonsense::Kind { kind: 4 });
}
