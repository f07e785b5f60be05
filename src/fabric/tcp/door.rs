// SPDX-License-Identifier: MIT OR Apache-2.0
//! The door of a member: who calls is heard, proved and handed to the driver for a decision.
//!
//! Anybody can call. So:
//!
//! E1  A look accepts at most `ACCEPTS_MAX` and carries at most `socket::EVENTS_MAX` talks on, each
//!     by a bounded number of system calls. Who says nothing costs none, until its time is up; nor does
//!     what somebody says, or a hang-up one way, while it is to take an answer.
//! E2  At most `strangers` wait who have not proved themselves, each with some hundred bytes here
//!     (where the network is trusted: with one hello), for `within`. When one too many comes, the
//!     oldest goes of the network from which most have come: a flood drives out its own.
//! E3  Who has proved itself is not driven out by strangers.
//! E4  Whatever is wrong with a caller ends its connection and nothing else. Each kind of that is
//!     said once in the log, then at most once in `SAID_AGAIN` with how often it was; and counted.
//! E5  Without a descriptor for a caller the oldest stranger goes; without one the door is shut for
//!     a moment, so that nobody who sleeps on it is woken for nothing.

use super::address::{Address, Host};
use super::handshake::{Handshake, Progress};
use super::hello::Hello;
use super::secret;
use super::session::Session;
use super::talk::{Stepped, Talk};
use super::terms::{NEAR, REASONS, Reason, Refusal, Terms};
use crate::error::{Error, Status};
use crate::fabric::shm::fork::Unshared;
use crate::fabric::shm::socket::{EVENTS_MAX, Watch, system};
use crate::limits::MEMBERS_MAX;
use crate::log_sink::{Level, say};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, acceptfrom_with, bind, getsockname, listen,
    socket_with, sockopt,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Callers that one look lets in.
const ACCEPTS_MAX: usize = 16;
/// Sockets that one door listens on.
pub const LISTENERS_MAX: usize = 16;
/// Callers that the system keeps for us.
const BACKLOG: i32 = 128;
/// How long the door stays shut when nobody can be let in: a descriptor may be free by then.
const SHUT: Duration = Duration::from_millis(100);
/// After this a refusal of a kind that was said may be said again.
const SAID_AGAIN: Duration = Duration::from_secs(600);
/// Tries to find a port that is free in all address families.
const PORT_TRIES: usize = 16;

/// How much a door bears (E2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Callers that have not proved themselves.
    pub strangers: usize,
    /// Callers that have, and are not welcomed or refused to the last byte yet.
    pub guests: usize,
    /// For each of the two.
    pub within: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { strangers: 64, guests: 2 * MEMBERS_MAX, within: Duration::from_secs(10) }
    }
}

/// Somebody who has said what it wants and waits for the answer.
pub struct Visitor {
    pub hello: Hello,
    pub remote: SocketAddr,
    token: u64,
    talk: Talk,
}

impl Visitor {
    /// For sentences.
    pub fn who(&self) -> String {
        self.hello.who(self.remote)
    }
}

/// What a look has found.
pub enum Arrival {
    /// `Door::welcome` or `Door::refuse`; dropped, it is a hang-up.
    Asks(Box<Visitor>),
    /// It was welcomed and has all of it.
    Met(Box<Session>),
}

struct Stranger {
    token: u64,
    talk: Talk,
}

/// How often it was, and when it was said last, at which count.
#[derive(Clone, Copy, Default)]
struct Told {
    count: u64,
    said: Option<(Instant, u64)>,
}

pub struct Door {
    terms: Arc<Terms>,
    limits: Limits,
    listeners: Vec<Unshared>,
    watch: Watch,
    /// In the order of their arrival.
    talks: Vec<Stranger>,
    /// Tokens below are those of listeners.
    next_token: u64,
    /// Nothing is late before.
    due: Option<Instant>,
    shut_until: Option<Instant>,
    told: [Told; REASONS],
    lines: u64,
}

impl AsFd for Door {
    /// Readable when a look finds something. What is late it does not tell: `wake_at`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}

impl Door {
    /// Listens on numeric addresses of this host, or on all (`*`: IPv4, and IPv6 if there is any).
    /// Port 0: any that is free, the same on all.
    ///
    /// Errors: `InUse`: somebody has the port. `Invalid`: no address of this host, or a name.
    /// `Limit`, `System`.
    pub fn open(at: &[Address], terms: Arc<Terms>, limits: Limits) -> Result<Door, Error> {
        let mut tries = 0;
        let listeners = loop {
            tries += 1;
            match listen_on(at) {
                // The port that was free on one address is not on the next.
                Err(taken)
                    if taken.status == Status::InUse && chooses(at) && tries < PORT_TRIES => {}
                listeners => break listeners?,
            }
        };
        let watch = Watch::new()?;
        for (token, listener) in listeners.iter().enumerate() {
            watch.add(listener, token as u64)?;
        }
        Ok(Door {
            terms,
            limits,
            watch,
            talks: Vec::new(),
            next_token: LISTENERS_MAX as u64,
            due: None,
            shut_until: None,
            told: [Told::default(); REASONS],
            lines: 0,
            listeners,
        })
    }

    /// Nobody is answered any more, and the ports are free.
    pub fn close(&mut self) {
        self.listeners.clear();
        self.talks.clear();
        (self.due, self.shut_until) = (None, None);
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(local_address).collect()
    }

    /// How often callers were refused, by `Reason`.
    pub fn refused(&self, reason: Reason) -> u64 {
        self.told[reason as usize].count
    }

    /// How many lines were said about that in the log.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Callers that are being heard or answered now.
    pub fn waiting(&self) -> usize {
        self.talks.len()
    }

    /// When to look even if nobody stirs; `None`: no need.
    pub fn wake_at(&self) -> Option<Instant> {
        [self.due, self.shut_until].into_iter().flatten().min()
    }

    /// Lets in, hears, drops who is late. Never waits; one system call if nobody stirs.
    pub fn look(&mut self, now: Instant) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        self.open_again(now);
        self.drop_the_late(now);
        let mut ready = [0; EVENTS_MAX];
        let mut count = 0;
        self.watch.wait(Some(0), |token, _| {
            ready[count] = token;
            count += 1;
        });
        for token in &ready[..count] {
            if *token < LISTENERS_MAX as u64 {
                self.accept(*token as usize, now, &mut arrivals);
            } else if let Some(at) = self.talks.iter().position(|talk| talk.token == *token) {
                self.carry_on(at, now, &mut arrivals);
            }
        }
        arrivals
    }

    /// Says yes to a visitor; a later look reports it as met.
    ///
    /// Errors: `Invalid`: the hello cannot be said; the visitor is hung up on.
    pub fn welcome(&mut self, mut visitor: Visitor, hello: &Hello) -> Result<(), Error> {
        visitor.talk.handshake.welcome(hello)?;
        self.keep(visitor);
        Ok(())
    }

    /// Says no to a visitor, and why. `hello`: mine, so that it can compare.
    pub fn refuse(&mut self, mut visitor: Visitor, hello: &Hello, status: Status, sentence: &str) {
        visitor.talk.handshake.refuse(hello, status, sentence);
        self.keep(visitor);
    }

    /// It has all the time again to take the answer.
    fn keep(&mut self, visitor: Visitor) {
        let Visitor { token, mut talk, .. } = visitor;
        talk.until += self.limits.within;
        self.due = Some(self.due.map_or(talk.until, |due| due.min(talk.until)));
        self.watch.await_only_room(&talk.socket, token);
        self.talks.push(Stranger { token, talk });
        self.bound_the_guests(Instant::now());
    }

    fn accept(&mut self, listener: usize, now: Instant, arrivals: &mut Vec<Arrival>) {
        for _ in 0..ACCEPTS_MAX {
            let Some(listener) = self.listeners.get(listener) else { return };
            let mut remote = None;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let accepted = Unshared::make(|| {
                let (socket, from) = acceptfrom_with(listener, flags)?;
                remote = from.and_then(|from| SocketAddr::try_from(from).ok());
                Ok::<OwnedFd, Errno>(socket)
            });
            match accepted {
                Ok(socket) => {
                    let Some(remote) = remote else { continue };
                    self.receive(socket, remote, now, arrivals);
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    if !self.drive_out(now) {
                        return self.shut(now); // E5
                    }
                }
                // accept(2): what is wrong is the caller's network.
                Err(_) => {}
            }
        }
    }

    fn receive(
        &mut self,
        socket: Unshared,
        remote: SocketAddr,
        now: Instant,
        arrivals: &mut Vec<Arrival>,
    ) {
        let Ok(nonce) = secret::random() else { return };
        let handshake = Handshake::answer(self.terms.clone(), nonce);
        let until = now + self.limits.within;
        let token = self.next_token;
        if self.watch.add(&socket, token).is_err() {
            return;
        }
        self.next_token += 1;
        self.due = Some(self.due.map_or(until, |due| due.min(until)));
        self.talks.push(Stranger { token, talk: Talk::new(socket, handshake, remote, until) });
        self.carry_on(self.talks.len() - 1, now, arrivals); // most have spoken already
        if self.strangers() > self.limits.strangers {
            self.drive_out(now);
        }
    }

    fn strangers(&self) -> usize {
        self.talks.iter().filter(|talk| !talk.talk.handshake.is_proven()).count()
    }

    /// A stranger goes (E2). `false`: there is none.
    fn drive_out(&mut self, now: Instant) -> bool {
        let strange = |of: &&Stranger| !of.talk.handshake.is_proven();
        let origins: Vec<IpAddr> =
            self.talks.iter().filter(strange).map(|of| origin(of.talk.remote.ip())).collect();
        let crowd = |ip: &IpAddr| origins.iter().filter(|other| *other == ip).count();
        let Some(most) = origins.iter().map(crowd).max() else { return false };
        let from = origins.iter().find(|ip| crowd(ip) == most);
        let at = self.talks.iter().position(|of| {
            !of.talk.handshake.is_proven() && Some(&origin(of.talk.remote.ip())) == from
        });
        let Some(at) = at else { return false };
        let gone = self.talks.remove(at);
        let detail = format!(
            "more than {} callers wait here without a proof, {most} from there",
            self.limits.strangers.min(origins.len().saturating_sub(1))
        );
        self.tell(&Refusal::new(Reason::Crowd, Status::Limit, detail), gone.talk.remote, now);
        true
    }

    fn drop_the_late(&mut self, now: Instant) {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        while let Some(at) = self.talks.iter().position(|of| of.talk.until <= now) {
            let late = self.talks.remove(at);
            let what = if late.talk.handshake.is_proven() { "took" } else { "proved" };
            let detail =
                format!("it {what} nothing within {:.1} s", self.limits.within.as_secs_f64());
            self.tell(
                &Refusal::new(Reason::Slow, Status::NotComplete, detail),
                late.talk.remote,
                now,
            );
        }
        self.due = self.talks.iter().map(|of| of.talk.until).min();
    }

    fn carry_on(&mut self, at: usize, now: Instant, arrivals: &mut Vec<Arrival>) {
        let Stranger { token, talk } = &mut self.talks[at];
        let writing = talk.is_writing();
        let stepped = talk.step();
        match stepped {
            Stepped::Waits => {
                match (writing, talk.is_writing()) {
                    (_, true) => self.watch.await_only_room(&talk.socket, *token),
                    (true, false) => self.watch.await_all(&talk.socket, *token),
                    (false, false) => {}
                }
                return self.bound_the_guests(now);
            }
            Stepped::Asked => {}
            Stepped::Agreed | Stepped::Refused => self.watch.remove(&talk.socket),
        }
        let Stranger { token, talk } = self.talks.remove(at);
        let remote = talk.remote;
        match (stepped, talk.handshake.progress()) {
            (_, Progress::Asked(hello)) => {
                let hello = hello.clone();
                arrivals.push(Arrival::Asks(Box::new(Visitor { hello, remote, token, talk })));
            }
            (_, Progress::Refused(refusal)) => {
                let refusal = refusal.clone();
                self.tell(&refusal, remote, now);
            }
            (Stepped::Agreed, _) => match talk.session() {
                Ok(session) => arrivals.push(Arrival::Met(Box::new(session))),
                Err(error) => self.tell(&Refusal { reason: Reason::HungUp, error }, remote, now),
            },
            // It has hung up before it has read its welcome.
            _ => {
                let detail = "it hung up before it had the answer";
                let refusal = Refusal::new(Reason::HungUp, Status::NotComplete, detail);
                self.tell(&refusal, remote, now);
            }
        }
    }

    /// Those who have proved themselves are not without number either; the oldest goes.
    fn bound_the_guests(&mut self, now: Instant) {
        if self.talks.len() - self.strangers() > self.limits.guests
            && let Some(at) = self.talks.iter().position(|of| of.talk.handshake.is_proven())
        {
            let gone = self.talks.remove(at);
            let detail = format!("more than {} members talk at once", self.limits.guests);
            self.tell(&Refusal::new(Reason::Crowd, Status::Limit, detail), gone.talk.remote, now);
        }
    }

    fn shut(&mut self, now: Instant) {
        if self.shut_until.is_none() {
            self.listeners.iter().for_each(|listener| self.watch.remove(listener));
        }
        self.shut_until = Some(now + SHUT);
        let detail = "this process may open no descriptor more; raise the limit with `ulimit -n`";
        let nobody = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        self.tell(&Refusal::new(Reason::Crowd, Status::Limit, detail), nobody, now);
    }

    fn open_again(&mut self, now: Instant) {
        if self.shut_until.is_none_or(|until| now < until) {
            return;
        }
        self.shut_until = None;
        for (token, listener) in self.listeners.iter().enumerate() {
            if self.watch.add(listener, token as u64).is_err() {
                self.shut_until = Some(now + SHUT);
            }
        }
    }

    /// Counts, and says it if it is new (E4).
    fn tell(&mut self, refusal: &Refusal, remote: SocketAddr, now: Instant) {
        if refusal.error.detail == NEAR {
            return;
        }
        let told = &mut self.told[refusal.reason as usize];
        told.count += 1;
        if refusal.reason == Reason::Itself && self.terms.incarnation != 0 {
            return; // a list of addresses may hold its own
        }
        let since = match told.said {
            Some((when, _)) if now.saturating_duration_since(when) < SAID_AGAIN => return,
            Some((_, count)) => format!(" ({} like that since the last time)", told.count - count),
            None => String::new(),
        };
        told.said = Some((now, told.count));
        self.lines += 1;
        let (group, why) = (&self.terms.group, &refusal.error);
        say(Level::Warning, &format!("group {group}: refused a caller at {remote}: {why}{since}"));
    }
}

/// The network that a caller is counted for: an IPv6 host has 2^64 addresses.
fn origin(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
        v4 => v4,
    }
}

fn chooses(at: &[Address]) -> bool {
    at.iter().any(|address| address.port == 0)
}

fn local_address(socket: &Unshared) -> Option<SocketAddr> {
    SocketAddr::try_from(getsockname(socket).ok()?).ok()
}

fn listen_on(at: &[Address]) -> Result<Vec<Unshared>, Error> {
    let mut listeners: Vec<Unshared> = Vec::new();
    let mut port = 0;
    let mut add = |address: SocketAddr, port: &mut u16| -> Result<(), Error> {
        let mut address = address;
        if address.port() == 0 {
            address.set_port(*port);
        }
        listeners.push(listen_at(address)?);
        *port = listeners.last().and_then(local_address).map_or(0, |local| local.port());
        if listeners.len() > LISTENERS_MAX {
            let detail = format!("a member listens on at most {LISTENERS_MAX} addresses");
            return Err(Error::new(Status::Invalid, detail));
        }
        Ok(())
    };
    for address in at {
        let Some(numeric) = address.numeric()? else {
            let detail = format!(
                "cannot listen on `{address}`: give an address of this host, or `*:{}` for all",
                address.port
            );
            return Err(Error::new(Status::Invalid, detail));
        };
        add(numeric, &mut port)?;
        if address.host == Host::Any {
            let six = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), address.port);
            match add(six, &mut port) {
                Err(none) if none.status == Status::Invalid => {} // no IPv6 here
                added => added?,
            }
        }
    }
    match listeners.is_empty() {
        true => Err(Error::new(Status::Invalid, "there is no address to listen on")),
        false => Ok(listeners),
    }
}

fn listen_at(address: SocketAddr) -> Result<Unshared, Error> {
    let refused = |cause: Errno| {
        let what = format!("cannot listen on {address}");
        let (status, detail) = match cause {
            Errno::ADDRINUSE => (
                Status::InUse,
                format!(
                    "{what}: a process has that port (`ss -ltnp` shows which): end it, or choose \
                     another port"
                ),
            ),
            Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT => (
                Status::Invalid,
                format!("{what}: no interface of this host has it (`ip address` lists them)"),
            ),
            Errno::ACCESS => (
                Status::System,
                format!("{what}: ports below 1024 need a privilege: choose a higher one"),
            ),
            cause => return system(&what, cause),
        };
        Error::new(status, detail)
    };
    let six = address.is_ipv6();
    let family = if six { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = Unshared::make(|| socket_with(family, SocketType::STREAM, flags, None));
    let socket = socket.map_err(refused)?;
    sockopt::set_socket_reuseaddr(&socket, true).map_err(refused)?; // of one that has just ended
    if six {
        sockopt::set_ipv6_v6only(&socket, true).map_err(refused)?;
    }
    bind(&socket, &address).map_err(refused)?;
    listen(&socket, BACKLOG).map_err(refused)?;
    Ok(socket)
}

#[cfg(test)]
pub(super) mod tests;
