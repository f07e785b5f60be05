// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fabric of a member whose connections are made one by one: shared memory, and TCP or RDMA beside
//! it where the group is on several hosts.

use super::config::Config;
use super::network::{Carrier, HOST_BYTES_MAX, Network, PORT_DEFAULT, Rdma, SecretFrom, is_host};
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
use crate::fabric::verbs::{self, Verbs};
use crate::fabric::{Exchange, Fabric};
use crate::mem::Region;
use crate::sst::layout::Layout;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

/// What a member is connected by.
pub enum Lines {
    Near(Box<Shm>),
    Both(Box<Mixed<Shm, Tcp>>),
    Rdma(Box<Mixed<Shm, Verbs>>),
}

impl Lines {
    pub fn fabric(&mut self) -> &mut dyn Fabric {
        match self {
            Lines::Near(shm) => &mut **shm,
            Lines::Both(both) => &mut **both,
            Lines::Rdma(both) => &mut **both,
        }
    }

    pub fn exchange(&mut self) -> &mut dyn Exchange {
        match self {
            Lines::Near(shm) => &mut **shm,
            Lines::Both(both) => &mut **both,
            Lines::Rdma(both) => &mut **both,
        }
    }

    pub fn near(&mut self) -> &mut Shm {
        match self {
            Lines::Near(shm) => shm,
            Lines::Both(both) => &mut both.near,
            Lines::Rdma(both) => &mut both.near,
        }
    }

    /// What meets those on other hosts.
    fn far(&self) -> Option<&Tcp> {
        match self {
            Lines::Near(_) => None,
            Lines::Both(both) => Some(&both.far),
            Lines::Rdma(both) => Some(both.far.tcp()),
        }
    }

    fn lobby(&mut self) -> Option<&mut Lobby> {
        match self {
            Lines::Near(_) => None,
            Lines::Both(both) => both.far.lobby(),
            Lines::Rdma(both) => both.far.tcp_mut().lobby(),
        }
    }

    /// The name that a peer of the near fabric has in both.
    pub fn name_of_near(&self, peer: Peer) -> Peer {
        match self {
            Lines::Near(_) => peer,
            Lines::Both(_) | Lines::Rdma(_) => near(peer),
        }
    }

    pub fn own_bell(&self) -> Option<OwnBell> {
        match self {
            Lines::Near(shm) => shm.own_bell(),
            Lines::Both(both) => both.near.own_bell(),
            Lines::Rdma(both) => both.near.own_bell(),
        }
    }

    /// Incarnations that I am connected with.
    pub fn connected(&self) -> Vec<u64> {
        let mut all = match self {
            Lines::Near(shm) => shm.connected(),
            Lines::Both(both) => both.near.connected(),
            Lines::Rdma(both) => both.near.connected(),
        };
        all.extend(self.far().into_iter().flat_map(Tcp::connected));
        all
    }

    /// Where other hosts reach me.
    pub fn doors(&mut self) -> String {
        self.near().doors().into()
    }

    /// Those on other hosts: seat, peer, incarnation.
    pub fn far_ones(&mut self) -> Vec<(u16, Peer, u64)> {
        let Some(lobby) = self.lobby() else { return Vec::new() };
        let known: Vec<(u16, u64)> =
            lobby.abouts().iter().map(|of| (of.seat, of.incarnation)).collect();
        let Some(tcp) = self.far() else { return Vec::new() };
        let peer = |(seat, who): (u16, u64)| Some((seat, far(tcp.peer(who)?), who));
        known.into_iter().filter_map(peer).collect()
    }

    /// What one speaks that is connected.
    pub fn versions(&mut self, incarnation: u64) -> Option<Versions> {
        let far = self.lobby().and_then(|lobby| {
            lobby.abouts().iter().find(|of| of.incarnation == incarnation)?.versions
        });
        far.or_else(|| self.near().versions(incarnation))
    }

    /// Why some host cannot be reached: of the last call that failed, and whether another could do.
    pub fn trouble(&mut self) -> Option<(Error, bool)> {
        let lobby = self.lobby()?;
        Some((lobby.trouble()?.clone(), lobby.fatal().is_some()))
    }

    pub fn into_fabric(self) -> Box<dyn Fabric> {
        match self {
            Lines::Near(shm) => shm,
            Lines::Both(both) => both,
            Lines::Rdma(both) => both,
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
    /// As `secret_of` has found it.
    pub secret: Option<&'a Secret>,
    /// Its statistics.
    pub page: &'a Arc<Region>,
    /// Where it meets others on this host.
    pub place: &'a Place,
}

/// What members on other hosts prove that they belong to the group with.
///
/// Errors: `Invalid`, `System`: as of `Secret`.
pub fn secret_of(config: &Config) -> Result<Option<Secret>, Error> {
    let network = &config.network;
    let from = network.secret.as_ref().filter(|_| network.carrier != Carrier::Shm);
    from.map(secret).transpose()
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
        let (source, incarnation) = (source_of(&listen_at(config)?), 0);
        let terms = terms(config, secret_of(config)?, incarnation);
        let mut hello = Hello::new(kind, &config.group, config.rank, incarnation, &text);
        hello.versions = config.versions;
        Ok(Inquiry { terms, hello, source, addresses: all_of(whom_to_call(config))? })
    }
}

fn terms(config: &Config, secret: Option<Secret>, incarnation: u64) -> Arc<Terms> {
    let (group, versions) = (config.group.clone(), config.versions);
    Arc::new(Terms { group, secret, versions, incarnation })
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
/// Errors: `Invalid`: an address, the secret, or a figure of RDMA; `InUse`: a port; `Limit`, `NoMemory`,
/// `System`: what this process, or its device, lacks.
pub fn open(config: &Config, mut shm: Shm, me: &Myself<'_>) -> Result<Lines, Error> {
    let network = &config.network;
    if network.carrier == Carrier::Shm {
        return Ok(Lines::Near(Box::new(shm)));
    }
    let terms = terms(config, me.secret.cloned(), me.incarnation);
    let listen = listen_at(config)?;
    let door = Door::open(&listen, terms.clone(), Limits::default())?;
    let kind = if config.join { Kind::Enter } else { Kind::Join };
    let mut hello = Hello::new(kind, &config.group, me.seat, me.incarnation, me.text);
    hello.versions = config.versions;
    hello.addresses = advertised(network, &door)?;
    let doors: Vec<String> = hello.addresses.iter().map(Address::to_string).collect();
    shm.set_doors(&doors.join(","));
    let source = source_of(&listen);
    let device_at = device_at(config, &door.addresses());
    let others_only = network.carrier.shares_memory();
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
    if !network.carrier.is_rdma() {
        return Ok(Lines::Both(Box::new(Mixed::new(shm, tcp)?)));
    }
    let Rdma { mut choice, manner } = network.rdma.clone();
    choice.address = choice.address.or(device_at);
    let setup = verbs::Setup { manner, ..verbs::Setup::default() };
    let verbs = verbs::open(tcp, &choice, setup)?;
    Ok(Lines::Rdma(Box::new(Mixed::new(shm, verbs)?)))
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
    if !is_host(host) {
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

/// A founder whose address is another host's while this host has another founder's: its rank is probably
/// wrong, as where nobody has set it. A sentence's end. Names are not looked up.
///
/// Cost: a socket per founder; for who waits already.
pub fn misplaced(config: &Config) -> Option<String> {
    let network = &config.network;
    if config.join || network.carrier == Carrier::Shm {
        return None;
    }
    let (rank, founders) = (usize::from(config.rank), &network.founders);
    let mine = founders.get(rank)?;
    if is_here(mine)? {
        return None;
    }
    let other = founders.iter().position(|address| is_here(address) == Some(true))?;
    Some(format!(
        "this process is rank {rank}, whose address {mine} is not this host's, and {}, which is, is rank \
         {other}'s: is it that one (SQUALL_RANK={other}, or `rank`)?",
        founders[other]
    ))
}

/// Whether an address is this host's; `None`: that is not known.
fn is_here(address: &str) -> Option<bool> {
    let address = parse(address, Some(PORT_DEFAULT)).ok()?;
    let ip = match &address.host {
        Host::Name(name) => {
            let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
            let first =
                |name: &str| name.split('.').next().unwrap_or_default().to_ascii_lowercase();
            return Some(first(name) == first(&node));
        }
        _ => address.numeric().ok()??.ip(),
    };
    match UdpSocket::bind((ip, 0)).map_err(|cause| cause.kind()) {
        Ok(_) => Some(true),
        Err(ErrorKind::AddrNotAvailable) => Some(false),
        Err(_) => None,
    }
}

/// What others are told: as given, or where the door is.
fn advertised(network: &Network, door: &Door) -> Result<Vec<Address>, Error> {
    if !network.advertise.is_empty() {
        return Ok(vec![parse(&network.advertise, Some(PORT_DEFAULT))?]);
    }
    let told = |at: SocketAddr| match at.ip().is_unspecified() {
        true => Address { host: Host::Any, port: at.port() },
        false => at.into(),
    };
    let mut all: Vec<Address> = door.addresses().into_iter().map(told).collect();
    all.dedup();
    Ok(all)
}

/// Where calls come from: the interface that is listened on, if it is one of that family.
fn source_of(listen: &[Address]) -> Option<IpAddr> {
    let ip = |address: &Address| match address.host {
        Host::V4(ip) if !ip.is_unspecified() => Some(IpAddr::from(ip)),
        Host::V6(ip, _) if !ip.is_unspecified() => Some(ip.into()),
        _ => None,
    };
    let all: Vec<IpAddr> = listen.iter().filter_map(ip).collect();
    let alone = |ip: &&IpAddr| all.iter().filter(|of| of.is_ipv4() == ip.is_ipv4()).count() == 1;
    all.iter().find(alone).copied()
}

/// The address whose RDMA device this member takes, unless it is told otherwise: where it listens; or,
/// if it does so everywhere, where the others look for it, if that is written in numbers and is here.
fn device_at(config: &Config, door: &[SocketAddr]) -> Option<IpAddr> {
    let listens: Vec<Address> = door.iter().map(|&at| at.into()).collect();
    source_of(&listens).or_else(|| {
        let founders = &config.network.founders;
        let mine = founders.get(usize::from(config.rank)).filter(|_| !config.join)?;
        let ip = parse(mine, Some(PORT_DEFAULT)).ok()?.numeric().ok()??.ip();
        (!ip.is_unspecified() && is_here(mine) == Some(true)).then_some(ip)
    })
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn door(listen: &str) -> (Door, Vec<Address>) {
        let listen: Vec<Address> =
            listen.split(' ').map(|text| parse(text, None).unwrap()).collect();
        let (group, versions) = ("g".into(), Versions::OURS);
        let terms = Arc::new(Terms { group, secret: None, versions, incarnation: 1 });
        (Door::open(&listen, terms, Limits::default()).unwrap(), listen)
    }

    /// All were told the first port, and `*`, as soon as one address was `*`.
    #[test]
    fn each_door_is_told_as_it_is() {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (one, other) = (free(), free());
        let (door, listen) = door(&format!("127.0.0.1:{one} *:{other}"));
        let told = advertised(&Network::default(), &door).unwrap();
        assert_eq!(told, listen);
    }

    #[test]
    fn calls_come_from_the_one_interface() {
        let from = |text: &str| {
            let all: Vec<Address> = text.split(' ').map(|of| parse(of, None).unwrap()).collect();
            source_of(&all).map(|ip| ip.to_string())
        };
        assert_eq!(from("10.0.0.1:1").as_deref(), Some("10.0.0.1"));
        assert_eq!(from("127.0.0.1:1 10.0.0.1:1"), None, "one of them reaches nobody");
        assert_eq!(from("*:1"), None);
        assert_eq!(from("[2001:db8::7]:1 10.0.0.1:1").as_deref(), Some("2001:db8::7"));
    }

    /// Who came again as another incarnation found the pipe empty, from which it had its secret.
    #[test]
    fn a_pipe_gives_its_secret_once() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&writer, b"0123456789abcdef0123456789abcdef").unwrap();
        drop(writer);
        let number = std::os::fd::AsRawFd::as_raw_fd(&reader);
        let mut config = Config::new("g", 0, 1);
        config.network.secret = Some(SecretFrom::Descriptor(number));
        assert!(secret_of(&config).unwrap().is_none(), "none is needed on one host");
        config.network.carrier = Carrier::Tcp;
        assert!(secret_of(&config).unwrap().is_some());
        assert!(secret_of(&config).is_err(), "that is how it is: so `join` reads it once");
    }

    /// It waited for itself, for a minute, and said only that.
    #[test]
    fn whose_rank_is_another_hosts_is_asked_about_it() {
        let mut config = Config::new("g", 0, 2);
        config.network.carrier = Carrier::Auto;
        let mut says = |rank: u16, founders: [&str; 2]| {
            config.rank = rank;
            config.network.founders = founders.map(String::from).to_vec();
            misplaced(&config)
        };
        let why = says(0, ["203.0.113.1:7471", "127.0.0.1:7471"]).unwrap();
        assert!(why.contains("203.0.113.1:7471 is not") && why.contains("SQUALL_RANK=1"), "{why}");
        assert_eq!(says(1, ["203.0.113.1:7471", "127.0.0.1:7471"]), None);
        assert_eq!(says(1, ["127.0.0.1:1", "127.0.0.1:2"]), None, "both are here");
        assert_eq!(says(0, ["203.0.113.1:1", "203.0.113.2:2"]), None, "behind another address");
        let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let mine = format!("{}.example:1", node.split('.').next().unwrap_or("x"));
        if parse(&mine, None).is_ok() {
            assert!(says(0, ["elsewhere:1", &mine]).is_some());
            assert_eq!(says(1, ["elsewhere:1", &mine]), None);
        }
    }

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
    #[test]
    fn a_device_is_where_one_listens_or_is_looked_for() {
        let mut config = Config::new("g", 1, 3);
        config.network.founders =
            ["203.0.113.1", "127.0.0.1:1001", "*:3"].map(String::from).to_vec();
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let [any, one]: [SocketAddr; 2] = [at("[::]:7471"), at("10.0.0.1:7471")];
        let mine = Some(IpAddr::from([127, 0, 0, 1]));
        assert_eq!(device_at(&config, &[any]), mine, "where the others look");
        assert_eq!(device_at(&config, &[one]), Some(one.ip()), "where it listens");
        let joins = Config { join: true, ..config.clone() };
        assert_eq!(device_at(&joins, &[any]), None, "no founder");
        for other in [0, 2] {
            config.rank = other;
            assert_eq!(device_at(&config, &[any]), None, "not here, or everywhere");
        }
    }
}
