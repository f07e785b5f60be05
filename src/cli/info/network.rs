// SPDX-License-Identifier: MIT OR Apache-2.0
//! The network as Squall would use it: interfaces, what sockets may hold, and, with a configuration
//! file, where this member listens, what the names in it mean, and who answers there.

use super::Line;
use super::links::{Interface, interfaces};
use crate::far::{self, Asked};
use crate::machine::read;
use crate::text::{bytes_text, time_text};
use squall::driver::config::Config;
use squall::driver::network::Carrier;
use squall::driver::{Inquiry, listen_at, misplaced};
use squall::fabric::tcp::address::{Address, Host};
use squall::fabric::tcp::call::Failure as Unmet;
use squall::fabric::tcp::hello::Kind;
use squall::fabric::tcp::terms::{Reason, Versions};
use squall::settings::Settings;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::Duration;

/// What a connection should be able to hold: a hundredth of a second at 10 Gbit/s is 12 MiB, and less
/// than a few MiB is felt already.
const BUFFER_BYTES: u64 = 4 << 20;

/// What is there without any file.
pub fn lines() -> Vec<Line> {
    let mut lines = vec![all_interfaces()];
    lines.push(buffer("receive buffers", "tcp_rmem"));
    lines.push(buffer("send buffers", "tcp_wmem"));
    lines
}

fn all_interfaces() -> Line {
    let all = interfaces();
    let others = || all.iter().filter(|of| of.name != "lo");
    let found = all.iter().map(Interface::text).collect::<Vec<_>>().join("; ");
    let usable = |of: &Interface| of.state != "down" && !of.addresses.is_empty();
    match others().any(usable) {
        true => Line::ok("interfaces", found),
        false => Line::note(
            "interfaces",
            found,
            "only for members on other hosts: no interface but the loopback is up and has an address \
             (`ip address`, `ip link set NAME up`)",
        ),
    }
}

/// TCP sizes its buffers itself up to the third figure.
fn buffer(name: &str, key: &str) -> Line {
    let text = read(&format!("/proc/sys/net/ipv4/{key}")).unwrap_or_default();
    let most = text.split_whitespace().nth(2).and_then(|figure| figure.parse::<u64>().ok());
    match most {
        None => Line::ok(name, "not told here"),
        Some(most) if most >= BUFFER_BYTES => {
            Line::ok(name, format!("up to {} a connection (net.ipv4.{key})", bytes_text(most)))
        }
        Some(most) => Line::note(
            name,
            format!("up to {} a connection (net.ipv4.{key} = {text})", bytes_text(most)),
            format!(
                "`sysctl -w net.ipv4.{key}='4096 131072 {}'` for fast or long networks, and into \
                 /etc/sysctl.d to keep it",
                2 * BUFFER_BYTES
            ),
        ),
    }
}

/// What a file comes to here.
pub fn lines_of(file: &Path) -> Vec<Line> {
    let name = file.display().to_string();
    let config = match Settings::load(file) {
        Ok(settings) => settings.config,
        Err(why) => {
            return vec![Line::lack(
                "file",
                name,
                format!("{why}; see `squall config --check FILE`"),
            )];
        }
    };
    let who = match config.join {
        true => "joins".into(),
        false => format!("rank {} of {}", config.rank, config.members),
    };
    let mut lines = vec![Line::ok("file", format!("{name}: group {}, {who}", config.group))];
    if config.network.carrier == Carrier::Shm {
        lines.push(Line::ok("members", "fabric = \"shm\": all on this host"));
        return lines;
    }
    if let Some(why) = misplaced(&config) {
        lines.push(Line::note("rank", format!("{}, of another host?", config.rank), why));
    }
    lines.extend(listens(&config));
    let inquiry = match Inquiry::new(&config, Kind::Probe) {
        Ok(inquiry) => inquiry,
        Err(why) => {
            lines.push(Line::lack("secret", "cannot be used", why.to_string()));
            return lines;
        }
    };
    lines.push(match config.network.trusted {
        true => Line::note(
            "secret",
            "none: trusted_network = true",
            "whoever reaches a port is believed; `squall secret FILE` makes a secret",
        ),
        false => Line::ok("secret", "can be used"),
    });
    lines.extend(reach(&config, &inquiry));
    lines
}

fn listens(config: &Config) -> Vec<Line> {
    match listen_at(config) {
        Ok(addresses) => addresses.iter().map(listens_at).collect(),
        Err(why) => vec![Line::lack("listens", config.network.listen.join(", "), why.to_string())],
    }
}

fn listens_at(address: &Address) -> Line {
    let text = &address.to_string();
    let address = match address.numeric() {
        Ok(Some(address)) => address,
        Ok(None) => {
            let remedy =
                format!("`network.listen` wants an address of this host, or `*`, not {text}");
            return Line::lack("listens", text, remedy);
        }
        Err(why) => return Line::lack("listens", text, why.to_string()),
    };
    match TcpListener::bind(address).map_err(|cause| cause.kind()) {
        Ok(_) => Line::ok("listens", format!("{text}: free")),
        Err(ErrorKind::AddrInUse) => Line::note(
            "listens",
            format!("{text}: in use"),
            "a member runs here already, or another program has the port (`ss -ltnp` shows which)",
        ),
        Err(ErrorKind::AddrNotAvailable) => Line::lack(
            "listens",
            format!("{text}: no interface of this host has it"),
            "correct `network.listen` (`ip address` lists addresses), or listen on `*`",
        ),
        Err(cause) => Line::lack("listens", format!("{text}: {cause}"), "choose another port"),
    }
}

/// Who answers where the file says that members are.
fn reach(config: &Config, inquiry: &Inquiry) -> Vec<Line> {
    let name = |at: usize| match config.join {
        true => format!("contact {at}"),
        false if at == usize::from(config.rank) => format!("rank {at} (this one)"),
        false => format!("rank {at}"),
    };
    let mut lines = Vec::new();
    let mut numeric: Vec<(usize, SocketAddr)> = Vec::new();
    let found = far::look_up(&inquiry.addresses);
    for (at, (address, found)) in inquiry.addresses.iter().zip(found).enumerate() {
        match found {
            Err(why) => lines.push(Line::lack(name(at), address.to_string(), why)),
            Ok(found) => {
                if let Host::Name(_) = address.host {
                    let list: Vec<String> = found.iter().map(|of| of.ip().to_string()).collect();
                    let found = format!("{address} is {}", list.join(", "));
                    lines.push(Line::ok(name(at), found));
                }
                numeric.extend(found.into_iter().map(|of| (at, of)));
            }
        }
    }
    let addresses: Vec<SocketAddr> = numeric.iter().map(|(_, address)| *address).collect();
    let asked = far::ask(inquiry, &addresses);
    for (at, address) in numeric {
        let Some(asked) = asked.iter().find(|of| of.address == address) else { continue };
        let own = !config.join && at == usize::from(config.rank);
        lines.push(answer(name(at), asked, own));
    }
    lines
}

fn answer(name: String, asked: &Asked, own: bool) -> Line {
    let way = way(asked.address);
    let address = asked.address;
    match &asked.outcome {
        Ok(session) => {
            let text = |time: Duration| time_text(time.as_nanos() as u64);
            let (connected, took) = (text(asked.connected.unwrap_or_default()), text(asked.took));
            let (peer, proved) = (&session.peer, session.keys.is_some());
            let proved = if proved { "proved" } else { "nothing is proved" };
            let found = format!(
                "{address}{way}: connected in {connected}; a member answers in {took}, {proved}: process \
                 {} on {}, {}",
                peer.pid, peer.host, session.versions
            );
            Line::ok(name, found)
        }
        Err(Unmet { refusal, .. }) => {
            let detail = &refusal.error.detail;
            let (lacks, found) = cause(refusal.reason, detail, own);
            let found = format!("{address}{way}: {found}");
            match (lacks, own) {
                (false, true) => Line::ok(name, found),
                (false, false) => Line::note(name, found, remedy(detail)),
                (true, _) => Line::lack(name, found, remedy(detail)),
            }
        }
    }
}

/// What is wrong in a few words, and whether it is more than that nobody is there yet.
fn cause(reason: Reason, detail: &str, own: bool) -> (bool, String) {
    let text = match reason {
        Reason::HungUp if detail.contains("connection refused") => {
            let text = if own { "not started yet" } else { "the host is there, no member listens" };
            return (false, text.into());
        }
        Reason::HungUp if detail.contains("no answer") => "no answer: timeout".into(),
        Reason::HungUp => "cannot be reached, or hangs up".into(),
        Reason::Slow => "takes the call and says nothing".into(),
        Reason::Garbage => "something else than squall answers".into(),
        Reason::Versions => format!("another wire version; this program speaks {}", Versions::OURS),
        Reason::Trust => "one side has a secret and the other has none".into(),
        Reason::Proof => "another secret".into(),
        Reason::Group => "another group".into(),
        Reason::Itself => "this process' own bytes come back".into(),
        Reason::Crowd | Reason::Refused => "a member answers and refuses".into(),
        Reason::Shortage => "this process lacks something".into(),
    };
    (true, text)
}

/// The sentence of an error has it; the address stands before it already.
fn remedy(detail: &str) -> String {
    let rest = detail.strip_prefix("at ").and_then(|rest| rest.split_once(": "));
    rest.map_or(detail, |(_, rest)| rest).to_string()
}

/// The interface that leads there.
fn way(to: SocketAddr) -> String {
    let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    // Nothing is sent: the system only chooses the way.
    let chosen = UdpSocket::bind(any).and_then(|socket| {
        socket.connect(to)?;
        socket.local_addr()
    });
    let Ok(from) = chosen else { return " (no route)".into() };
    let its = |of: &Interface| of.addresses.iter().any(|(ip, _)| *ip == from.ip());
    match interfaces().iter().find(|of| its(of)) {
        Some(of) => format!(" by {} from {}, MTU {}", of.name, from.ip(), of.mtu),
        None => format!(" from {}", from.ip()),
    }
}

/// For tests of the sentences.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_apart() {
        let cases = [
            (Reason::HungUp, "nobody listens (connection refused): is", false, "no member listens"),
            (Reason::HungUp, "no answer: is the host up", true, "timeout"),
            (Reason::Proof, "", true, "another secret"),
            (Reason::Group, "", true, "another group"),
            (Reason::Versions, "", true, "wire version"),
        ];
        for (reason, detail, lacks, text) in cases {
            let found = cause(reason, detail, false);
            assert!(found.0 == lacks && found.1.contains(text), "{found:?}");
        }
        assert_eq!(remedy("at 10.0.0.1:7471: nobody: start it"), "nobody: start it");
        assert_eq!(remedy("nobody"), "nobody");
    }
}
