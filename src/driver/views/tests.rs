// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whom a leader proposes.

use super::*;
use crate::base::{Events, Versions};
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
    let versions = Versions::OURS;
    let ask = || Ask { seat: 9, versions, connected: vec![71] };

    let (dead, _) = knock(&mut shm, &name, 77);
    let place = shm.peer(77).unwrap();
    views.asked(place, 77, ask());
    drop(dead);
    shm.sleep(None, &mut Events::default());
    let block = Arc::new(Region::heap(1 << 16));
    shm.enter(Epoch(2), Rank(0), &[None], &[block]);

    let (_living, _) = knock(&mut shm, &name, 78);
    assert_eq!(shm.peer(78), Some(place));
    assert_eq!(views.requests(&mut shm), []);
    views.asked(place, 78, ask());
    let requested: Vec<u64> = views.requests(&mut shm).iter().map(|of| of.incarnation).collect();
    assert_eq!(requested, [78]);
}

/// A group has risen while a process of the old version waited: it waited until its time was over.
#[test]
fn who_cannot_follow_is_told_so() {
    let (mut shm, name) = member("left-behind");
    let mut config = Config::new("left-behind", 0, 1);
    config.membership = Changes::Views;
    let policy = Policy::new(&config).unwrap();
    let both = Versions { min: 1, max: 2 };
    let roster = Roster::founded(&[(71, Address::default(), both)], Rank(0));
    let view = policy.view(&roster).unwrap().0;
    let lags = policy.lags(&config);
    let mut views = Views::new(policy, (roster, view), 0, &lags, &shm, Vec::new());
    let (old, _) = knock(&mut shm, &name, 77);
    let (_new, _) = knock(&mut shm, &name, 78);
    let one = Versions { min: 1, max: 1 };
    for (who, versions) in [(77, one), (78, both)] {
        let ask = Ask { seat: 9, versions, connected: vec![71, 77, 78] };
        views.asked(shm.peer(who).unwrap(), who, ask);
    }
    let requested: Vec<u64> = views.requests(&mut shm).iter().map(|of| of.incarnation).collect();
    assert_eq!(requested, [78]);
    let (bytes, _) = old.receive().unwrap().unwrap();
    let word = bytes.strip_prefix(b"words\n").unwrap();
    assert_eq!(crate::driver::letter::read_refusal(word), Some(2));
    // From now on it is refused at the door already.
    shm.speak(2);
    let (_late, refusal) = knock(&mut shm, &name, 79);
    let (status, sentence) = refusal.refusal.unwrap();
    let named = sentence.contains("speaks wire version 1, the group runs at wire version 2");
    assert!(status == Status::WireVersion as i32 && named, "{sentence}");
}
