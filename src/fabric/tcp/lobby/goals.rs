// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whom a lobby calls, for how long, and how often.

use super::super::address::{Address, Lookup};
use super::super::call::{Call, Called, TRY};
use super::super::session::Session;
use super::super::terms::{NEAR, Reason, Refusal};
use super::Lobby;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long a call that met nobody waits before the next one.
const CALL_AGAIN: Duration = Duration::from_millis(100);
/// The same for contacts, once somebody has been met.
const CALL_OTHERS: Duration = Duration::from_secs(1);

/// Whom a call is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Whom {
    Founder(u16),
    /// Any member.
    Anybody,
    Incarnation(u64),
}

/// Somebody to be called until it is connected.
pub(super) struct Goal {
    pub whom: Whom,
    pub addresses: Vec<Address>,
    pub lookup: Option<Lookup>,
    pub call: Option<Call>,
    /// Not before.
    pub next: Instant,
    /// A call has met nobody.
    pub failed: bool,
}

impl Lobby {
    /// How long after a call the next one is made.
    pub(super) fn pause(&self, whom: Whom) -> Duration {
        let others = whom == Whom::Anybody && !self.has_met_nobody();
        if others { CALL_OTHERS } else { CALL_AGAIN }
    }

    /// Without those that are at the other end of a connection already.
    fn unmet(&self, addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let is_there = |to: &SocketAddr| {
            let to = Address::from(*to);
            self.abouts.iter().any(|of| of.addresses.contains(&to))
        };
        addresses.into_iter().filter(|to| !is_there(to)).collect()
    }

    /// Carries a call on, or begins one.
    pub(super) fn go_on(&mut self, at: usize, now: Instant) -> Option<Box<Session>> {
        let whom = self.goals[at].whom;
        if self.is_reached(whom) {
            (self.goals[at].lookup, self.goals[at].call) = (None, None);
            return None;
        }
        if self.goals[at].call.is_none() {
            let addresses = self.look_up(at, now)?;
            let (terms, hello) = (self.terms.clone(), self.hello.clone());
            self.goals[at].call = Some(Call::new(addresses, self.source, terms, hello, TRY));
        }
        let pause = self.pause(whom);
        let goal = &mut self.goals[at];
        match goal.call.as_mut()?.step(now) {
            Called::Waits => None,
            Called::Met(session) => {
                goal.call = None;
                Some(session)
            }
            Called::Failed(failure) => {
                (goal.call, goal.next, goal.failed) = (None, now + pause, true);
                let Refusal { reason, error } = failure.refusal;
                // What this process lacks others would wait for, were it joined. What a peer lacks is
                // its own affair.
                let lacks = reason == Reason::Shortage;
                let whole = goal.lookup.is_none();
                let needed = matches!(whom, Whom::Founder(_)) || self.has_met_nobody();
                if lacks || failure.is_hopeless && whole && needed {
                    self.fatal.get_or_insert(error.clone()); // Y4
                }
                if !error.detail.ends_with(NEAR) {
                    self.trouble = Some(error); // else the other way says what is wrong
                }
                None
            }
        }
    }

    /// Where to call, as soon as some of it is known: one name that takes its time delays no other.
    /// What is known by then is called, and the lookup goes on.
    fn look_up(&mut self, at: usize, now: Instant) -> Option<Vec<SocketAddr>> {
        let whom = self.goals[at].whom;
        let pause = self.pause(whom);
        let goal = &mut self.goals[at];
        if now < goal.next {
            return None;
        }
        let mut lookup = match goal.lookup.take().map_or_else(|| Lookup::start(&goal.addresses), Ok)
        {
            Ok(lookup) => lookup,
            Err(trouble) => {
                goal.next = now + pause;
                self.trouble = Some(trouble);
                return None;
            }
        };
        let whole = lookup.poll();
        let found = lookup.addresses();
        if whole && found.is_empty() {
            self.trouble = lookup.trouble().cloned();
        } else if !whole {
            goal.lookup = Some(lookup);
        }
        let addresses = if whom == Whom::Anybody { self.unmet(found) } else { found };
        if addresses.is_empty() {
            if whole {
                (self.goals[at].next, self.goals[at].failed) = (now + pause, true);
            }
            return None;
        }
        Some(addresses)
    }
}
