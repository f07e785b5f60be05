// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a member can be called: `HOST:PORT`, with a name or an address as the host; and what names
//! mean.
//!
//! ```text
//! 192.0.2.7:7000     [2001:db8::7]:7000     [fe80::7%eth0]:7000     node-7.example:7000
//! *:7000             to listen on: every address of this host
//! ```
//!
//! A name may have several addresses (a headless service: one per member); all of them are tried.
//!
//! R1  The system's resolver blocks, for many seconds if a name server is down. So a name is looked
//!     up by a helper thread (`Lookup`), and whoever waits for it goes on polling. Names matter only
//!     to who opens or joins: members tell each other numeric addresses. A thread that hangs in the
//!     resolver is left to itself; it holds nothing of the group's.
//! R2  Looking up again asks again: the addresses of a restarted member are other ones.

use crate::error::{Error, Status};
use crate::mem::thread::block_signals;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

/// Bytes of an address as text: a name has 253 at the most.
const TEXT_BYTES_MAX: usize = 320;
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;
/// Bytes of an interface's name (`IFNAMSIZ`, less the end).
const ZONE_BYTES_MAX: usize = 15;
/// Addresses in one list.
pub const LIST_MAX: usize = 256;
/// Addresses that one name may have; more are left out.
const ADDRESSES_PER_NAME_MAX: usize = 64;
/// Helper threads of one lookup.
const THREADS_MAX: usize = 4;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Host {
    /// Every address of this host.
    Any,
    V4(Ipv4Addr),
    /// With the interface, where the address is one of a link.
    V6(Ipv6Addr, Option<String>),
    Name(String),
}

/// Where a member can be called, or where a door is to be.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Address {
    pub host: Host,
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Any => write!(f, "*:{}", self.port),
            Host::V4(ip) => write!(f, "{ip}:{}", self.port),
            Host::V6(ip, None) => write!(f, "[{ip}]:{}", self.port),
            Host::V6(ip, Some(zone)) => write!(f, "[{ip}%{zone}]:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(numeric: SocketAddr) -> Address {
        let host = match numeric {
            SocketAddr::V4(v4) => Host::V4(*v4.ip()),
            SocketAddr::V6(v6) => {
                let zone = (v6.scope_id() != 0).then(|| v6.scope_id().to_string());
                Host::V6(*v6.ip(), zone)
            }
        };
        Address { host, port: numeric.port() }
    }
}

fn invalid(text: &str, why: &str) -> Error {
    let shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    let more = if text.chars().count() > 80 { "…" } else { "" };
    Error::new(Status::Invalid, format!("address `{shown}{more}`: {why}"))
}

/// Reads one address. `port`: if none is named; `None`: it has to be.
///
/// Errors: `Invalid`, with what is wrong and how it is written.
pub fn parse(text: &str, port: Option<u16>) -> Result<Address, Error> {
    let no = |why: &str| invalid(text, why);
    if text.len() > TEXT_BYTES_MAX {
        return Err(no("too long"));
    }
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    if let Some(scheme) = scheme.filter(|text| text.bytes().all(|b| b.is_ascii_alphanumeric())) {
        return Err(no(&format!("write `HOST:PORT` without `{scheme}://`")));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let closed = rest.split_once(']');
        let (inner, after) = closed.ok_or_else(|| no("`]` is missing: write `[ADDRESS]:PORT`"))?;
        let port = match after.strip_prefix(':') {
            Some(digits) => port_of(digits).map_err(|why| no(&why))?,
            None if after.is_empty() => port.ok_or_else(|| no(NO_PORT))?,
            None => return Err(no("after `]` comes `:PORT`")),
        };
        let host = v6(inner).map_err(|why| no(&why))?;
        return Ok(Address { host, port });
    }
    if text.matches(':').count() > 1 {
        return Err(match v6(text) {
            Ok(_) => no("an IPv6 address stands in brackets before its port: `[ADDRESS]:PORT`"),
            Err(_) => no("more than one colon: write `HOST:PORT`, or `[IPv6 ADDRESS]:PORT`"),
        });
    }
    let (host, port) = match text.split_once(':') {
        Some((host, digits)) => (host, port_of(digits).map_err(|why| no(&why))?),
        None => (text, port.ok_or_else(|| no(NO_PORT))?),
    };
    let host = match host {
        "*" => Host::Any,
        host => match host.parse() {
            Ok(ip) => Host::V4(ip),
            Err(_) => Host::Name(name(host).map_err(|why| no(&why))?),
        },
    };
    Ok(Address { host, port })
}

const NO_PORT: &str = "the port is missing: write `HOST:PORT`";

/// Reads a list: separated by commas or blanks.
///
/// Errors: as `parse`, for the first that is wrong; and for a list without any, or too many.
pub fn parse_list(text: &str, port: Option<u16>) -> Result<Vec<Address>, Error> {
    let parts = text.split([',', ' ', '\t', '\n']).filter(|part| !part.is_empty());
    let list = parts.take(LIST_MAX + 1).map(|part| parse(part, port));
    let list = list.collect::<Result<Vec<Address>, Error>>()?;
    match list.len() {
        0 => Err(invalid(text, "there is no address in this list")),
        count if count > LIST_MAX => {
            Err(invalid(text, &format!("more than {LIST_MAX} addresses in one list")))
        }
        _ => Ok(list),
    }
}

fn port_of(digits: &str) -> Result<u16, String> {
    if digits.is_empty() {
        return Err(NO_PORT.into());
    }
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("the port `{}` is no number", digits.escape_debug()));
    }
    let out = |_| format!("the port {digits} is not one of 0 to 65535");
    digits.parse().map_err(out)
}

fn v6(text: &str) -> Result<Host, String> {
    let (digits, zone) = match text.split_once('%') {
        Some((digits, zone)) => (digits, Some(zone)),
        None => (text, None),
    };
    let shown = digits.escape_debug();
    let ip: Ipv6Addr = digits.parse().map_err(|_| format!("`{shown}` is no IPv6 address"))?;
    let Some(zone) = zone else { return Ok(Host::V6(ip, None)) };
    let letter = |c: char| c.is_ascii_graphic() && !"/%,[]:".contains(c);
    if zone.is_empty() || zone.len() > ZONE_BYTES_MAX || !zone.chars().all(letter) {
        return Err(format!("`{}` names no interface", zone.escape_debug()));
    }
    Ok(Host::V6(ip, Some(zone.into())))
}

fn name(host: &str) -> Result<String, String> {
    if host.is_empty() {
        return Err("the host is missing: write `HOST:PORT`, or `*:PORT` to listen".into());
    }
    if host.len() > NAME_BYTES_MAX {
        return Err(format!("a name has at most {NAME_BYTES_MAX} bytes"));
    }
    let labels = host.strip_suffix('.').unwrap_or(host);
    for label in labels.split('.') {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if label.is_empty() || label.len() > LABEL_BYTES_MAX {
            let most = LABEL_BYTES_MAX;
            return Err(format!("between its dots a name has 1 to {most} letters"));
        }
        if !label.bytes().all(fits) || label.starts_with('-') || label.ends_with('-') {
            let shown = label.escape_debug();
            return Err(format!("`{shown}` is no part of a name: letters, digits and `-` inside"));
        }
    }
    // Resolvers read `127.1`, `2130706433` and `0x7f000001` as addresses, each in its own way.
    let last = labels.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or(last.strip_prefix("0X"));
    let hex = hex.is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if hex || last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("an IPv4 address is four numbers of 0 to 255 with dots between".into());
    }
    Ok(host.into())
}

impl Address {
    /// The address, if it needs no lookup of a name. `Any` is that of every interface (IPv4).
    ///
    /// Errors: `Invalid`: there is no such interface. One system call for an address of a link.
    pub fn numeric(&self) -> Result<Option<SocketAddr>, Error> {
        let ip = match &self.host {
            Host::Name(_) => return Ok(None),
            Host::Any => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Host::V4(ip) => IpAddr::V4(*ip),
            Host::V6(ip, None) => IpAddr::V6(*ip),
            Host::V6(ip, Some(zone)) => {
                let index = interface(zone).ok_or_else(|| {
                    let why = format!("this host has no interface `{zone}` (`ip link` lists them)");
                    invalid(&self.to_string(), &why)
                })?;
                return Ok(Some(SocketAddrV6::new(*ip, self.port, 0, index).into()));
            }
        };
        Ok(Some(SocketAddr::new(ip, self.port)))
    }
}

/// Its number, which may also be named itself.
fn interface(zone: &str) -> Option<u32> {
    if let Ok(index) = zone.parse() {
        return Some(index);
    }
    let flags = SocketFlags::CLOEXEC;
    let any = socket_with(AddressFamily::INET6, SocketType::DGRAM, flags, None)
        .or_else(|_| socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None));
    netdevice::name_to_index(any.ok()?, zone).ok()
}

type Found = Result<Vec<SocketAddr>, Error>;

/// A list of addresses on its way to be numeric.
pub struct Lookup {
    /// By place in the list; `None`: not yet.
    found: Vec<Option<Found>>,
    answers: Receiver<(usize, Found)>,
}

impl Lookup {
    /// Begins. Numeric addresses are there at once; names are looked up by at most four helper
    /// threads, which end with the last of them. Does not wait.
    ///
    /// Errors: `Limit`: no thread can be had.
    pub fn start(addresses: &[Address]) -> Result<Lookup, Error> {
        Lookup::start_by(addresses, |name, port| {
            (name, port).to_socket_addrs().map(Iterator::collect)
        })
    }

    pub(super) fn start_by(
        addresses: &[Address],
        resolve: fn(&str, u16) -> std::io::Result<Vec<SocketAddr>>,
    ) -> Result<Lookup, Error> {
        let (answer, answers) = channel();
        let mut lookup = Lookup { found: Vec::new(), answers };
        let mut names = VecDeque::new();
        for (at, address) in addresses.iter().enumerate() {
            let numeric = address.numeric().transpose();
            if let (None, Host::Name(name)) = (&numeric, &address.host) {
                names.push_back((at, name.clone(), address.port));
            }
            lookup.found.push(numeric.map(|numeric| numeric.map(|one| vec![one])));
        }
        let threads = names.len().min(THREADS_MAX);
        let names = Arc::new(Mutex::new(names));
        for _ in 0..threads {
            let (names, answer) = (names.clone(), answer.clone());
            let work = move || look_up(&names, &answer, resolve);
            std::thread::Builder::new().name("squall-names".into()).spawn(work).map_err(|cause| {
                let what = format!("cannot start a thread to look up names: {cause}");
                let remedy = "raise the limit of threads (`ulimit -u`, or pids.max of the control \
                              group), or use numeric addresses";
                Error::new(Status::Limit, format!("{what}; {remedy}"))
            })?;
        }
        Ok(lookup)
    }

    /// Takes in what has been found. `true`: that is all. Does not wait.
    pub fn poll(&mut self) -> bool {
        while let Ok((at, found)) = self.answers.try_recv() {
            self.found[at] = Some(found);
        }
        self.found.iter().all(Option::is_some)
    }

    /// What is known so far, each once, in the order of the list.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let mut all: Vec<SocketAddr> = Vec::new();
        for found in self.found.iter().flatten().flatten().flatten() {
            if !all.contains(found) {
                all.push(*found);
            }
        }
        all
    }

    /// Of one place in the list: `None`: not yet.
    pub fn of(&self, at: usize) -> Option<&Found> {
        self.found.get(at)?.as_ref()
    }

    /// The first that could not be found.
    pub fn trouble(&self) -> Option<&Error> {
        self.found.iter().flatten().find_map(|found| found.as_ref().err())
    }
}

/// A helper thread's life.
fn look_up(
    names: &Mutex<VecDeque<(usize, String, u16)>>,
    answer: &Sender<(usize, Found)>,
    resolve: fn(&str, u16) -> std::io::Result<Vec<SocketAddr>>,
) {
    block_signals();
    loop {
        let next = names.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop_front();
        let Some((at, name, port)) = next else { return };
        let found = match resolve(&name, port) {
            Ok(found) if found.is_empty() => Err(no_address(&name, "it has no address")),
            Ok(found) => Ok(found.into_iter().take(ADDRESSES_PER_NAME_MAX).collect()),
            Err(cause) => Err(no_address(&name, &cause.to_string())),
        };
        if answer.send((at, found)).is_err() {
            return; // nobody waits any more
        }
    }
}

fn no_address(name: &str, cause: &str) -> Error {
    let detail = format!(
        "the name `{name}` cannot be looked up: {cause}; check it (`getent ahosts {name}`), or use \
         a numeric address"
    );
    Error::new(Status::NotComplete, detail)
}

#[cfg(test)]
mod tests;
