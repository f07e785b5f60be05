// SPDX-License-Identifier: MIT OR Apache-2.0
//! Registered memory, as far as the polling thread has a part in it: it opens the streams that the
//! memory thread asks for, hands over those that peers have opened, and tells whose memory and whose
//! operations are over.
//!
//! Cost: two loads per look at the clock, where members change; nothing in a turn.

use super::Driver;
use super::views::{ViewInfo, Views};
use crate::base::{Members, Peer};
use crate::error::Status;
use crate::fabric::Exchange;
use crate::fabric::shm::OwnBell;
use crate::fabric::shm::fork::{Unshared, forks};
use crate::group::membership::roster::Roster;
use crate::log_sink::{Level, say};
use crate::registered::direct::Device;
use crate::registered::{Memories, Owner, Stream};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// This member's end of it.
pub struct Reach {
    /// `None` at the end.
    owner: Option<Owner>,
    /// In which process this is.
    forks: u64,
}

impl Reach {
    /// `wake`: of the polling thread, if it ever sleeps. `device`: what reads and writes memory itself.
    pub fn new(incarnation: u64, wake: Option<OwnBell>, device: Option<Arc<dyn Device>>) -> Reach {
        let wake = move || {
            if let Some(bell) = &wake {
                bell.ring_always();
            }
        };
        let owner = Owner::new(incarnation, Box::new(wake));
        if let Some(device) = device {
            owner.use_device(device);
        }
        Reach { owner: Some(owner), forks: forks() }
    }

    pub fn memories(&self) -> Memories {
        self.owner().memories()
    }

    fn owner(&self) -> &Owner {
        self.owner.as_ref().expect("it is not over")
    }

    /// The group is over.
    pub fn stop(&self, status: Status) {
        self.owner().stop(status);
    }

    /// Streams that peers have opened, and those that operations wait for.
    fn attend(&self, views: &Views, exchange: &mut dyn Exchange) {
        while let Some((who, stream)) = exchange.reached() {
            if let Some(stream) = unshared(stream)
                && let Err(error) = self.owner().offered(who, stream)
            {
                say(Level::Warning, &format!("registered memory is out of reach: {error}"));
            }
        }
        if !self.owner().is_wanted() {
            return;
        }
        for whom in self.owner().wants() {
            let peer = exchange.peer(whom).filter(|_| is_member(views, whom));
            let stream = peer.and_then(|peer| open(peer, exchange));
            self.owner().opened(whom, stream);
        }
    }
}

impl Drop for Reach {
    fn drop(&mut self) {
        if forks() != self.forks {
            std::mem::forget(self.owner.take()); // a child: that thread is its parent's
        }
    }
}

/// Of this view, or of the one that is built.
fn is_member(views: &Views, who: u64) -> bool {
    let is_in = |of: &Roster| of.members.iter().any(|member| member.incarnation == who);
    is_in(views.present().0) || views.next(0, 0).is_some_and(|(next, ..)| is_in(next))
}

/// A stream to that peer. `None`: it is gone, or this process lacks something.
fn open(peer: Peer, exchange: &mut dyn Exchange) -> Option<Stream> {
    if exchange.has_ended(peer) {
        return None;
    }
    let flags = SocketFlags::CLOEXEC;
    let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let (mine, theirs) = pair
        .inspect_err(|cause| {
            let text = format!("registered memory is out of reach: no stream: {cause}");
            say(Level::Warning, &text);
        })
        .ok()?;
    let mine = unshared(mine)?;
    exchange.reach(peer, theirs).then_some(mine)
}

fn unshared(stream: OwnedFd) -> Option<Stream> {
    Some(Box::new(Unshared::make(|| Ok(stream)).ok()?))
}

impl Driver {
    /// A look at the clock.
    #[cold]
    pub(super) fn reach(&mut self) {
        let Driver { reach, views, fabric, .. } = self;
        let Some(((reach, views), exchange)) =
            reach.as_ref().zip(views.as_ref()).zip(fabric.exchange())
        else {
            return;
        };
        reach.attend(views, exchange);
    }

    /// Connections of these are cut: they touch no memory of mine any more.
    pub(super) fn fence(&self, ranks: Members) {
        let (Some(reach), Some(views)) = (&self.reach, &self.views) else { return };
        for rank in ranks.iter() {
            reach.owner().fence(views.member(rank).incarnation);
        }
    }

    /// Before the application hears of a view.
    pub(super) fn fence_departed(&self, view: &ViewInfo) {
        let Some(reach) = &self.reach else { return };
        for (member, _) in &view.left {
            reach.owner().fence(member.incarnation);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
