// SPDX-License-Identifier: MIT OR Apache-2.0
//! The checker: what members wrote, compared. It knows nothing of the library.
//!
//! C1  A view's number names one list of members, and who installs it is in it.
//! C2  Two members that go from one view to the next one, or leave the group with it, have delivered
//!     the same in it, in the same order.
//! C3  Of any two members in a view, what one has delivered in it is a beginning of what the other
//!     has.
//! C4  Of every sender each member delivers adjoining ordinals, none twice, over all its views.
//! C5  Who rests has delivered all of its own, and so have all that were with it to the end.
//!
//! On receipt members may differ in what they have of one that failed (C2, C3). Instead:
//!
//! C6  Who joins begins, of every sender, with no later message than the first that one who was there
//!     before had not delivered.
//! C7  Whoever is there when all rest delivers, in the end, all that the others sent.

#![allow(dead_code, reason = "each test program uses its part")]

use crate::member::Cluster;
use std::collections::{BTreeMap, HashMap};

/// A message: whose, and which.
type Item = (u64, u64);

/// One view of one member.
struct Stay {
    epoch: u64,
    members: String,
    items: Vec<Item>,
}

struct Life {
    id: u64,
    stays: Vec<Stay>,
    stopped: Option<String>,
}

pub struct Check {
    lives: Vec<Life>,
    received: bool,
    /// Those that are still there at the end: what they sent, if they rest.
    rests: HashMap<u64, u64>,
}

impl Life {
    /// Whether it has taken part in that view to its end.
    fn has_ended(&self, epoch: u64) -> bool {
        let left = self.stopped.as_deref() == Some("Left");
        let last = self.stays.last().is_some_and(|stay| stay.epoch == epoch);
        left && last || self.stays.iter().any(|stay| stay.epoch == epoch + 1)
    }
}

impl Life {
    /// How many of a sender's messages it had before that view, of those that came before, too.
    fn heard(&self, id: u64, epoch: u64) -> u64 {
        let before = self.stays.iter().filter(|stay| stay.epoch < epoch);
        let items = before.flat_map(|stay| &stay.items).filter(|item| item.0 == id);
        items.last().map_or(0, |item| item.1 + 1)
    }
}

fn read(id: u64, text: &str) -> Life {
    let mut life = Life { id, stays: Vec::new(), stopped: None };
    // The last line of one that was killed may be cut.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for line in whole.lines() {
        let parts: Vec<&str> = line.split(' ').collect();
        assert!(life.stopped.is_none(), "{id} goes on after it has stopped: {line}");
        let number = |at: usize| parts[at].parse::<u64>().unwrap_or_else(|_| panic!("{line}"));
        match parts[0] {
            "v" => {
                let (epoch, members) = (number(1), parts[3].to_string());
                life.stays.push(Stay { epoch, members, items: Vec::new() });
            }
            "d" => {
                let stay = life.stays.last_mut().expect("a view comes before its messages");
                stay.items.push((number(2), number(3)));
            }
            "s" => life.stopped = Some(parts[1].into()),
            _ => panic!("{id} wrote {line}"),
        }
    }
    life
}

impl Check {
    pub fn of(cluster: &Cluster) -> Check {
        let text = |id: &u64| std::fs::read_to_string(cluster.folder.join(id.to_string()));
        let lives = cluster.ids.iter().map(|id| read(*id, &text(id).unwrap_or_default())).collect();
        let rests = cluster.members.iter().filter_map(|one| Some((one.id, one.rests?))).collect();
        Check { lives, received: cluster.received, rests }
    }

    /// Panics with the first rule that does not hold; else what was compared.
    pub fn run(&self) -> String {
        let mut views: BTreeMap<u64, &str> = BTreeMap::new();
        let (mut delivered, mut compared) = (0, 0);
        for life in &self.lives {
            delivered += life.stays.iter().map(|stay| stay.items.len()).sum::<usize>();
            for pair in life.stays.windows(2) {
                assert_eq!(pair[0].epoch + 1, pair[1].epoch, "{} skips a view", life.id);
            }
            for stay in &life.stays {
                let members = views.entry(stay.epoch).or_insert(&stay.members);
                assert_eq!(*members, stay.members, "C1: view {} at {}", stay.epoch, life.id);
            }
            self.ordinals(life);
        }
        for (at, one) in self.lives.iter().enumerate() {
            for two in &self.lives[..at] {
                compared += match self.received {
                    false => self.pair(one, two),
                    true => self.begins(one, two) + self.begins(two, one),
                };
            }
        }
        self.rested();
        let views = views.len();
        format!(
            "{} lives, {views} views, {delivered} deliveries, {compared} pairs",
            self.lives.len()
        )
    }

    /// What those that rest have heard of a sender.
    pub fn heard_by_those_who_stay(&self, id: u64) -> Vec<(u64, Vec<u64>)> {
        let last = self.lives.iter().filter(|life| self.rests.contains_key(&life.id));
        last.map(|life| {
            let items = life.stays.iter().flat_map(|stay| &stay.items);
            (life.id, items.filter(|item| item.0 == id).map(|item| item.1).collect())
        })
        .collect()
    }

    fn ordinals(&self, life: &Life) {
        let mut next: HashMap<u64, u64> = HashMap::new();
        for &(id, ordinal) in life.stays.iter().flat_map(|stay| &stay.items) {
            // Who was there from the start has heard everybody from the start.
            let first = if life.stays[0].epoch == 1 { 0 } else { ordinal };
            let due = next.entry(id).or_insert(first);
            assert_eq!(*due, ordinal, "C4: {} hears {id}", life.id);
            *due += 1;
        }
    }

    fn pair(&self, one: &Life, two: &Life) -> usize {
        let mut compared = 0;
        for stay in &one.stays {
            let Some(other) = two.stays.iter().find(|other| other.epoch == stay.epoch) else {
                continue;
            };
            compared += 1;
            let who = format!("{} and {} in view {}", one.id, two.id, stay.epoch);
            let both = stay.items.len().min(other.items.len());
            if let Some(at) = (0..both).find(|at| stay.items[*at] != other.items[*at]) {
                let items = (stay.items[at], other.items[at]);
                panic!("C3: {who}: they differ at {at}: {items:?}");
            }
            let goes_on = |life: &Life| life.has_ended(stay.epoch);
            if goes_on(one) && goes_on(two) {
                assert_eq!(stay.items.len(), other.items.len(), "C2: {who}");
            }
        }
        compared
    }

    /// C6, of one who may have joined in a view that another went on to. How many senders.
    fn begins(&self, one: &Life, other: &Life) -> usize {
        let Some(first) = one.stays.first().map(|stay| stay.epoch) else { return 0 };
        if first == 1 || !other.stays.iter().any(|stay| stay.epoch == first) {
            return 0;
        }
        let before = other.stays.iter().filter(|stay| stay.epoch < first);
        let had: HashMap<u64, u64> = before.flat_map(|stay| &stay.items).copied().collect();
        let mut heard: HashMap<u64, u64> = HashMap::new();
        for &(id, ordinal) in one.stays.iter().flat_map(|stay| &stay.items) {
            heard.entry(id).or_insert(ordinal);
        }
        let both = heard.iter().filter_map(|(id, first)| Some((id, first, had.get(id)?)));
        let both: Vec<_> = both.collect();
        for &(id, first, last) in &both {
            let (one, other) = (one.id, other.id);
            assert!(*first <= last + 1, "C6: {one} hears {id} from {first}, {other} had {last}");
        }
        both.len()
    }

    /// C7, so far.
    pub fn have_heard_all(&self) -> bool {
        let here = self.lives.iter().filter(|life| self.rests.contains_key(&life.id));
        let mut pairs = here.flat_map(|life| self.rests.iter().map(move |rest| (life, rest)));
        pairs.all(|(life, (&id, &sent))| self.has_all(life, id, sent, u64::MAX))
    }

    /// Whether it had all that a sender has sent before that view. Who joined when all who went on had
    /// it hears none of it.
    fn has_all(&self, life: &Life, id: u64, sent: u64, epoch: u64) -> bool {
        let heard = life.heard(id, epoch);
        let first = life.stays[0].epoch;
        if heard > 0 || sent == 0 || first == 1 {
            return heard == sent;
        }
        let was = |other: &Life, epoch: u64| other.stays.iter().any(|stay| stay.epoch == epoch);
        let mut others = self.lives.iter().filter(|of| was(of, first) && was(of, first - 1));
        others.all(|other| self.has_all(other, id, sent, first))
    }

    fn rested(&self) {
        let last = self.lives.iter().filter(|life| self.rests.contains_key(&life.id));
        for life in last {
            for (&id, &sent) in &self.rests {
                let items = life.stays.iter().flat_map(|stay| &stay.items);
                let heard = items.filter(|item| item.0 == id).last().map_or(0, |item| item.1 + 1);
                // Others may still be on their way; its own are there.
                let whole = if id == life.id { heard == sent } else { heard <= sent };
                assert!(whole, "C5: {} has {heard} of {sent} of {id}", life.id);
            }
        }
    }
}
