// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fabric of a member whose connections are made one by one: shared memory, and TCP beside it
//! where the group is on several hosts.

use super::config::Config;
use super::network::{Carrier, HOST_BYTES_MAX, Network, PORT_DEFAULT, SecretFrom};
use super::policy::config_text;
use crate::base::{Peer, Versions};
use crate::error::{Error, Status};
use crate::fabric::mixed::{Mixed, far, near};
use crate::fabric::shm::place::Place;
use crate::fabric::shm::{OwnBell, Shm};
use crate::fabric::tcp::address::{Address, Host, parse};
use crate::fabric::tcp::door::{Door, Limits};
use crate::fabric::tcp::handshake::Terms;
use crate::fabric::tcp::hello::{Hello, Kind};
use crate::fabric::tcp::lobby::{Lobby, Parts};
use crate::fabric::tcp::mirror::Measures;
use crate::fabric::tcp::secret::Secret;
use crate::fabric::tcp::{Setup, Tcp};
use crate::fabric::{Exchange, Fabric};
use crate::mem::Region;
use crate::sst::layout::Layout;
use std::net::IpAddr;
use std::sync::Arc;

/// What a member is connected by.
pub enum Lines {
    Near(Box<Shm>),
    Both(Box<Mixed<Shm, Tcp>>),
}

impl Lines {
    pub fn fabric(&mut self) -> &mut dyn Fabric {
        match self {
            Lines::Near(shm) => &mut **shm,
            Lines::Both(both) => &mut **both,
        }
    }

    pub fn exchange(&mut self) -> &mut dyn Exchange {
        match self {
            Lines::Near(shm) => &mut **shm,
            Lines::Both(both) => &mut **both,
        }
    }

    pub fn near(&mut self) -> &mut Shm {
        match self {
            Lines::Near(shm) => shm,
            Lines::Both(both) => &mut both.near,
        }
    }

    /// The name that a peer of the near fabric has in both.
    pub fn name_of_near(&self, peer: Peer) -> Peer {
        match self {
            Lines::Near(_) => peer,
            Lines::Both(_) => near(peer),
        }
    }

    pub fn own_bell(&self) -> Option<OwnBell> {
        match self {
            Lines::Near(shm) => shm.own_bell(),
            Lines::Both(both) => both.near.own_bell(),
        }
    }

    /// Incarnations that I am connected with.
    pub fn connected(&self) -> Vec<u64> {
        match self {
            Lines::Near(shm) => shm.connected(),
            Lines::Both(both) => {
                let mut all = both.near.connected();
                all.extend(both.far.connected());
                all
            }
        }
    }

    /// Where other hosts reach me.
    pub fn doors(&mut self) -> String {
        self.near().doors().into()
    }

    /// Those on other hosts: seat, peer, incarnation.
    pub fn far_ones(&mut self) -> Vec<(u16, Peer, u64)> {
        let Lines::Both(both) = self else { return Vec::new() };
        let Some(lobby) = both.far.lobby() else { return Vec::new() };
        let known: Vec<(u16, u64)> =
            lobby.abouts().iter().map(|of| (of.seat, of.incarnation)).collect();
        let peer = |(seat, who): (u16, u64)| Some((seat, far(both.far.peer(who)?), who));
        known.into_iter().filter_map(peer).collect()
    }

    /// What one speaks that is connected.
    pub fn versions(&mut self, incarnation: u64) -> Option<Versions> {
        let far = match self {
            Lines::Near(_) => None,
            Lines::Both(both) => both.far.lobby().and_then(|lobby| {
                lobby.abouts().iter().find(|of| of.incarnation == incarnation)?.versions
            }),
        };
        far.or_else(|| self.near().versions(incarnation))
    }

    /// Why some host cannot be reached: of the last call that failed, and whether another could do.
    pub fn trouble(&mut self) -> Option<(Error, bool)> {
        let Lines::Both(both) = self else { return None };
        let lobby = both.far.lobby()?;
        Some((lobby.trouble()?.clone(), lobby.fatal().is_some()))
    }

    pub fn into_fabric(self) -> Box<dyn Fabric> {
        match self {
            Lines::Near(shm) => shm,
            Lines::Both(both) => both,
        }
    }
}

/// What this process says of itself to other hosts.
pub struct Myself<'a> {
    pub seat: u16,
    pub incarnation: u64,
    /// What all members must agree on.
    pub text: &'a str,
    pub largest: &'a Layout,
    /// Its statistics.
    pub page: &'a Arc<Region>,
    /// Where it meets others on this host.
    pub place: &'a Place,
}

/// What a process needs that is no member and asks members something over TCP.
pub struct Inquiry {
    pub terms: Arc<Terms>,
    /// With the configuration, so that who is asked can compare.
    pub hello: Hello,
    /// Calls come from this interface.
    pub source: Option<IpAddr>,
    /// The first members, or contacts.
    pub addresses: Vec<Address>,
}

impl Inquiry {
    /// Errors: `Invalid`: an address, or the secret; `System`: it cannot be read.
    pub fn new(config: &Config, kind: Kind) -> Result<Inquiry, Error> {
        let rank = if config.join { 0 } else { config.rank };
        let text = match kind {
            Kind::Stat => String::new(),
            _ => config_text(config, &Config { rank, ..config.clone() }.view()?)?,
        };
        let (source, incarnation) = (source(&listen_at(config)?), 0);
        let terms = terms(config, incarnation)?;
        let mut hello = Hello::new(kind, &config.group, config.rank, incarnation, &text);
        hello.versions = config.versions;
        Ok(Inquiry { terms, hello, source, addresses: all_of(whom_to_call(config))? })
    }
}

fn terms(config: &Config, incarnation: u64) -> Result<Arc<Terms>, Error> {
    let secret = config.network.secret.as_ref().map(secret).transpose()?;
    let (group, versions) = (config.group.clone(), config.versions);
    Ok(Arc::new(Terms { group, secret, versions, incarnation }))
}

/// The address of the interface that is listened on, if it is one.
fn source(listen: &[Address]) -> Option<IpAddr> {
    listen.iter().find_map(|address| match address.host {
        Host::V4(ip) if !ip.is_unspecified() => Some(ip.into()),
        Host::V6(ip, _) if !ip.is_unspecified() => Some(ip.into()),
        _ => None,
    })
}

/// The first members; for one that joins, its contacts, if it has any.
fn whom_to_call(config: &Config) -> &[String] {
    let network = &config.network;
    match config.join && !network.contacts.is_empty() {
        true => &network.contacts,
        false => &network.founders,
    }
}

/// Opens the door to other hosts, and begins to call.
///
/// Errors: `Invalid`: an address, or the secret; `InUse`: a port; `Limit`, `System`.
pub fn open(config: &Config, mut shm: Shm, me: &Myself<'_>) -> Result<Lines, Error> {
    let network = &config.network;
    if network.carrier == Carrier::Shm {
        return Ok(Lines::Near(Box::new(shm)));
    }
    let incarnation = me.incarnation;
    let terms = terms(config, incarnation)?;
    let listen = listen_at(config)?;
    let door = Door::open(&listen, terms.clone(), Limits::default())?;
    let kind = if config.join { Kind::Enter } else { Kind::Join };
    let mut hello = Hello::new(kind, &config.group, me.seat, incarnation, me.text);
    hello.versions = config.versions;
    hello.addresses = advertised(network, &listen, &door)?;
    let doors: Vec<String> = hello.addresses.iter().map(Address::to_string).collect();
    shm.set_doors(&doors.join(","));
    let source = source(&listen);
    let others_only = network.carrier == Carrier::Auto;
    let place = identity(network, me.place)?;
    let page = Some(me.page.clone());
    let mut lobby = Lobby::new(Parts { terms, hello, door, others_only, source, page, place });
    let known = all_of(whom_to_call(config))?;
    match config.join {
        true => lobby.call_contacts(&known),
        false => lobby.call_founders(&known),
    }
    let setup = Setup {
        measures: Measures::of(me.largest),
        beat_at: me.largest.beat.byte(0),
        closed_at: me.largest.closed.byte(0),
        parks: shm.parks(),
        views: true,
    };
    let mut tcp = Tcp::new(setup)?;
    tcp.attend(lobby)?;
    Ok(Lines::Both(Box::new(Mixed::new(shm, tcp)?)))
}

/// The same, within a host, for all that share memory. Errors: `Invalid`: `network.host`.
pub fn near_identity(config: &Config) -> Result<String, Error> {
    identity(&config.network, &Place::new(&config.near_name(), &config.peers)?)
}

fn identity(network: &Network, place: &Place) -> Result<String, Error> {
    Ok(match part_of(network)? {
        "" => place.identity(),
        part => format!("{}-{part}", place.identity()),
    })
}

fn part_of(network: &Network) -> Result<&str, Error> {
    let host = &network.host;
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if host.len() > HOST_BYTES_MAX || !host.chars().all(fits) {
        let detail = format!(
            "name of this host {host:?}: at most {HOST_BYTES_MAX} letters, digits, '-', '_' or '.'"
        );
        return Err(Error::new(Status::Invalid, detail));
    }
    Ok(host)
}

fn all_of(addresses: &[String]) -> Result<Vec<Address>, Error> {
    addresses.iter().map(|text| parse(text, Some(PORT_DEFAULT))).collect()
}

/// Where a member listens: as it is told, or where the others look for it.
///
/// Errors: `Invalid`: an address.
pub fn listen_at(config: &Config) -> Result<Vec<Address>, Error> {
    let network = &config.network;
    if !network.listen.is_empty() {
        return all_of(&network.listen);
    }
    let mine = network.founders.get(usize::from(config.rank)).filter(|_| !config.join);
    let port = match mine {
        Some(mine) => parse(mine, Some(PORT_DEFAULT))?.port, // where the others call
        None => PORT_DEFAULT,
    };
    Ok(vec![Address { host: Host::Any, port }])
}

/// What others are told: as given, or where the door is.
fn advertised(network: &Network, listen: &[Address], door: &Door) -> Result<Vec<Address>, Error> {
    if !network.advertise.is_empty() {
        return Ok(vec![parse(&network.advertise, Some(PORT_DEFAULT))?]);
    }
    let any = listen.iter().any(|address| match address.host {
        Host::Any => true,
        Host::V4(ip) => ip.is_unspecified(),
        Host::V6(ip, _) => ip.is_unspecified(),
        Host::Name(_) => false,
    });
    let found = door.addresses();
    match found.first() {
        Some(first) if any => Ok(vec![Address { host: Host::Any, port: first.port() }]),
        _ => Ok(found.into_iter().map(Address::from).collect()),
    }
}

fn secret(from: &SecretFrom) -> Result<Secret, Error> {
    match from {
        SecretFrom::File(path) => Secret::from_file(path),
        SecretFrom::Descriptor(number) => {
            let named = format!("/proc/self/fd/{number}");
            let opened = std::fs::File::open(&named).map_err(|cause| {
                let detail = format!(
                    "the secret cannot be read from descriptor {number}: {cause}; open it in the \
                     process that starts this one, as in `squall … {number}<FILE`"
                );
                Error::new(Status::Invalid, detail)
            })?;
            Secret::from_descriptor(opened.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_founder_listens_where_others_look_for_it() {
        let mut config = Config::new("g", 0, 3);
        config.network.founders = ["a:1000", "[::1]:1001", "b"].map(String::from).to_vec();
        let listen = |config: &Config| listen_at(config).unwrap()[0].to_string();
        let mut of = |rank| {
            config.rank = rank;
            listen(&config)
        };
        assert_eq!([of(0), of(1), of(2)], ["*:1000", "*:1001", "*:7471"]);
        let joins = Config { join: true, rank: 0, ..config.clone() };
        assert_eq!(listen(&joins), "*:7471");
        config.network.listen = vec!["10.0.0.1:7".into()];
        assert_eq!(listen(&config), "10.0.0.1:7");
    }
}
