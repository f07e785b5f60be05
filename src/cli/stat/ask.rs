// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where statistics come from: the doors of this host's members, and members elsewhere over the network.

use crate::failure::{Failure, fail};
use crate::far::{self, Asked};
use crate::near;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use squall::driver::Inquiry;
use squall::driver::stats::{self, Snapshot};
use squall::error::Status;
use squall::fabric::shm::door::{Hello, Kind};
use squall::fabric::shm::place::Place;
use squall::fabric::shm::socket::Socket;
use squall::fabric::tcp::address::Address;
use squall::fabric::tcp::hello as far_hello;
use squall::fabric::tcp::lobby::{About, told_of};
use squall::fabric::tcp::page;
use squall::limits::{MEMBERS_MAX, WIRE_VERSION};
use squall::mem::Region;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a member may take to answer: one that polls takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// What came of asking a member.
pub enum Answer {
    Page(Region),
    /// It is there and says no.
    Refused(String),
    /// It is there and says nothing.
    Silent,
}

/// A process that has a place in the group.
pub struct Member {
    /// A founder's is its first rank.
    pub seat: u16,
    /// 0: not known.
    pub pid: u32,
    /// Where it was asked over the network, and its host's name; `None`: on this host.
    pub far: Option<(String, String)>,
    pub answer: Answer,
}

impl Member {
    pub fn look(&self) -> Option<Snapshot> {
        match &self.answer {
            Answer::Page(region) => stats::read(region),
            _ => None,
        }
    }

    /// Its process has ended; of one that this process cannot see that is not known.
    pub fn gone(&self) -> bool {
        let seen = self.far.is_none() && self.pid != 0;
        seen && !Path::new(&format!("/proc/{}", self.pid)).exists()
    }

    pub fn state(&self, snapshot: Option<&Snapshot>) -> String {
        match &self.answer {
            Answer::Refused(why) => why.clone(),
            Answer::Silent => "does not answer: it does not poll".into(),
            Answer::Page(page) => match snapshot.map(|snapshot| snapshot.stopped) {
                None if page.cell(0).observe() == 0 => "is no member yet".into(),
                None => "gives an unknown page".into(),
                Some(0) if self.gone() => "has ended".into(),
                Some(0) => "runs".into(),
                Some(status) => {
                    let status = squall::error::Status::from_code((status as i32).wrapping_neg());
                    format!("stopped: {}", status.unwrap_or(squall::error::Status::Failed))
                }
            },
        }
    }
}

/// Knocks at the doors of all seats of this host and waits for the answers; how many members they say
/// there are, if they say it. `absent`: what to say if nobody is there.
pub fn ask_here(
    group: &str,
    place: &Place,
    absent: impl Fn() -> String,
) -> Result<(Vec<Member>, u16), Failure> {
    let mut calls = Vec::new();
    let hello = Hello::new(Kind::Stat, 0, false, "").encode();
    for seat in 0..2 * MEMBERS_MAX as u16 {
        let socket = match place.call(seat) {
            Ok(None) => continue,
            Ok(Some(socket)) => socket,
            Err(why) if why.status == Status::ForeignOwner => {
                return fail!(
                    "group {group} is another user's: {why}; `--config` with such a file looks there"
                );
            }
            Err(why) => return Err(why.into()),
        };
        socket.send(&hello, &[]);
        let pid = socket.credentials().map_or(0, |owner| owner.pid);
        calls.push((seat, pid, socket));
    }
    if calls.is_empty() {
        return fail!("no group {group} {}", absent());
    }
    let deadline = Instant::now() + PATIENCE;
    let mut count = 0;
    let mut members = Vec::new();
    for (seat, pid, socket) in calls {
        let answer = answer_of(&socket, deadline, &mut count)?;
        members.push(Member { seat, pid, far: None, answer });
    }
    Ok((members, count))
}

/// Asks those at some addresses over the network, and all members that they tell of.
pub fn ask_far(inquiry: &Inquiry, at: &[Address]) -> Result<Vec<Member>, Failure> {
    let mut troubles: Vec<(Option<SocketAddr>, String)> = Vec::new();
    let mut next = Vec::new();
    for (address, found) in at.iter().zip(far::look_up(at)) {
        match found {
            Ok(found) => next.extend(found),
            Err(why) => troubles.push((None, format!("{address}: {why}"))),
        }
    }
    let (mut members, mut tried) = (Vec::new(), Vec::new());
    let mut met: Vec<u64> = Vec::new();
    let mut told: Vec<About> = Vec::new();
    while !next.is_empty() {
        next.sort_unstable();
        next.dedup();
        tried.extend(next.iter().copied());
        for Asked { address, outcome, .. } in far::ask(inquiry, &next) {
            let session = match outcome {
                Ok(session) => session,
                Err(failure) => {
                    troubles.push((Some(address), failure.refusal.error.detail));
                    continue;
                }
            };
            told.extend(told_of(&session.peer, address.ip()).into_iter().filter(|of| of.is_member));
            if !met.contains(&session.incarnation()) {
                met.push(session.incarnation());
                members.push(far_member(&session.peer, address));
            }
        }
        told.retain(|about| !met.contains(&about.incarnation));
        let doors = told.iter().flat_map(|about| &about.addresses);
        next = doors.filter_map(|door| door.numeric().ok().flatten()).collect();
        next.retain(|address| !tried.contains(address));
    }
    if members.is_empty() {
        let troubles: Vec<String> = troubles.into_iter().map(|(_, why)| why).collect();
        let (group, troubles) = (&inquiry.terms.group, troubles.join("; "));
        return fail!("no member of group {group} answers: {troubles}");
    }
    told.sort_by_key(|about| about.incarnation);
    told.dedup_by_key(|about| about.incarnation);
    for about in told {
        let door = about.addresses.first().map_or(String::new(), Address::to_string);
        let doors: Vec<SocketAddr> =
            about.addresses.iter().filter_map(|door| door.numeric().ok().flatten()).collect();
        let its =
            |(at, _): &&(Option<SocketAddr>, String)| at.is_some_and(|at| doors.contains(&at));
        let why = troubles.iter().find(its).map_or("another one answers there", |(_, why)| why);
        let answer = Answer::Refused(format!("cannot be asked from here: {why}"));
        members.push(Member { seat: about.seat, pid: 0, far: Some((door, String::new())), answer });
    }
    members.sort_by_key(|member| member.seat);
    Ok(members)
}

fn far_member(welcome: &far_hello::Hello, address: SocketAddr) -> Member {
    let page = welcome.more.iter().find(|(key, _)| key == page::KEY);
    let answer = match page.and_then(|(_, text)| page::decode(text)) {
        Some(page) => Answer::Page(page),
        None => Answer::Refused("is no member yet".into()),
    };
    let far = Some((address.to_string(), welcome.host.clone()));
    Member { seat: welcome.rank, pid: welcome.pid, far, answer }
}

fn answer_of(socket: &Socket, deadline: Instant, count: &mut u16) -> Result<Answer, Failure> {
    loop {
        if let Some(answer) = socket.receive() {
            return match answer {
                None => Ok(Answer::Refused("closed the connection: it is ending".into())),
                Some((bytes, descriptors)) => open(&bytes, descriptors, count),
            };
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Answer::Silent);
        }
        let time = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let _ = poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&time));
    }
}

/// Maps the page that an answer carries, and learns from it how many members there are.
fn open(bytes: &[u8], descriptors: Vec<OwnedFd>, count: &mut u16) -> Result<Answer, Failure> {
    let Some(hello) = Hello::decode(bytes) else {
        return Ok(Answer::Refused("answers nonsense".into()));
    };
    if !hello.versions.speaks(WIRE_VERSION as u16) {
        return fail!(
            "the group speaks {}, this program wire version {WIRE_VERSION}: use the `squall` of \
             the same version",
            hello.versions
        );
    }
    let members = hello.config.lines().find_map(|line| line.strip_prefix("members="));
    let members = members.and_then(|members| members.parse().ok()).unwrap_or(0);
    *count = (*count).max(u16::min(members, MEMBERS_MAX as u16));
    if let Some((_, why)) = hello.refusal {
        return Ok(Answer::Refused(why));
    }
    let Some(page) = descriptors.into_iter().next() else {
        return Ok(Answer::Refused("shows no page".into()));
    };
    let bytes = rustix::fs::fstat(&page).map_or(0, |about| about.st_size as usize);
    Ok(Answer::Page(Region::map_peer(&page, bytes)?))
}

/// The groups that there are, for whoever has mistyped one.
pub fn others(group: &str) -> String {
    let groups = near::groups();
    if let [first, ..] = &near::parts(group, &groups)[..] {
        return format!(
            "by that name, but parts of it (`network.host`), {}: `squall stat --config FILE` asks all, with \
             the group's file, `squall stat {first}` that part",
            near::parts(group, &groups).join(", ")
        );
    }
    let more = "one that meets in a directory (`peers.directory`) is found with `--config FILE`";
    match groups.is_empty() {
        true => format!(
            "on this host, nor any other; a group is there from its first member's open on; {more}"
        ),
        false => format!("on this host; there are: {}; {more}", groups.join(", ")),
    }
}
