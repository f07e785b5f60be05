// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whom a leader proposes.

use super::*;
use crate::base::Events;
use crate::driver::config::{Changes, Config};
use crate::fabric::Fabric;
use crate::fabric::shm::exchange::tests::{knock, member};

/// A leader proposed a process that had died long ago, since its connection's place was another's by
/// then. In a view of one that was the end of the group.
#[test]
fn the_dead_are_not_proposed_for_the_living() {
    let (mut shm, name) = member("proposed");
    let mut config = Config::new("proposed", 0, 1);
    config.membership = Changes::Views;
    let policy = Policy::new(&config).unwrap();
    let roster = Roster::first(&[(71, Address::default())], Rank(0));
    let view = policy.view(&roster).unwrap().0;
    let lags = policy.lags(&config);
    let mut views = Views::new(policy, (roster, view), 0, &lags, &shm, Vec::new());
    let ask = || Ask { seat: 9, connected: vec![71] };

    let (dead, _) = knock(&mut shm, &name, 77);
    let place = shm.peer(77).unwrap();
    views.asked(place, 77, ask());
    drop(dead);
    shm.sleep(None, &mut Events::default());
    let block = Arc::new(Region::heap(1 << 16));
    shm.enter(Epoch(2), Rank(0), &[None], &[block]);

    let (_living, _) = knock(&mut shm, &name, 78);
    assert_eq!(shm.peer(78), Some(place));
    assert_eq!(views.requests(&shm), []);
    views.asked(place, 78, ask());
    let requested: Vec<u64> = views.requests(&shm).iter().map(|of| of.incarnation).collect();
    assert_eq!(requested, [78]);
}
