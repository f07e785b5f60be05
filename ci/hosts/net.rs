// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hosts that are network namespaces, and the links between them.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Namespaces, each with one end of a link whose other end is in a bridge in one more.
pub struct Net {
    hosts: Vec<String>,
    hub: String,
    six: bool,
}

pub fn skipped() -> String {
    "SKIPPED: network namespaces need root and iproute2".into()
}

fn ip(arguments: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(arguments.split(' ')).stdout(Stdio::null()).stderr(Stdio::piped());
    let Ok(output) = command.output() else { return false };
    if !output.status.success() {
        eprintln!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

fn must(arguments: String) {
    assert!(ip(&arguments), "ip {arguments}");
}

/// What `/etc` is to a namespace.
fn folder(host: &str) -> PathBuf {
    PathBuf::from("/etc/netns").join(host)
}

impl Net {
    /// `None`: this machine cannot.
    pub fn new(hosts: usize) -> Option<Net> {
        Net::of(hosts, false)
    }

    /// The same, and there is IPv6 only.
    pub fn six(hosts: usize) -> Option<Net> {
        Net::of(hosts, true)
    }

    fn of(hosts: usize, six: bool) -> Option<Net> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let tag = format!("sq{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let hub = format!("{tag}-hub");
        if !rustix::process::geteuid().is_root() || !ip(&format!("netns add {hub}")) {
            return None;
        }
        let mut net = Net { hosts: Vec::new(), hub, six };
        let hub = &net.hub;
        must(format!("-n {hub} link add br0 type bridge"));
        must(format!("-n {hub} link set br0 up"));
        for at in 0..hosts {
            net.hosts.push(format!("{tag}-{at}"));
            net.power_on(at);
        }
        Some(net)
    }

    /// A host that has just started.
    pub fn power_on(&self, at: usize) {
        let (host, hub) = (&self.hosts[at], &self.hub);
        must(format!("netns add {host}"));
        must(format!("-n {host} link add eth0 type veth peer name port{at} netns {hub}"));
        must(format!("-n {hub} link set port{at} master br0"));
        must(format!("-n {hub} link set port{at} up"));
        self.give(at, &self.number(at));
        must(format!("-n {host} link set lo up"));
        must(format!("-n {host} link set eth0 up"));
    }

    /// What was there says nothing any more, not even that it ends. Processes of that host must have
    /// been killed, and its link cut before that.
    pub fn power_off(&self, at: usize) {
        must(format!("-n {} link del port{at}", self.hub));
        must(format!("netns del {}", self.hosts[at]));
    }

    fn number(&self, at: usize) -> String {
        if self.six { format!("fd77::{:x}", at + 1) } else { format!("10.77.0.{}", at + 1) }
    }

    fn give(&self, at: usize, address: &str) {
        let bits = if self.six { "64 nodad" } else { "24" };
        let (address, bits) = match bits.split_once(' ') {
            Some((bits, more)) => (format!("{address}/{bits}"), format!(" {more}")),
            None => (format!("{address}/{bits}"), String::new()),
        };
        must(format!("-n {} addr add {address} dev eth0{bits}", self.hosts[at]));
    }

    /// From now on it has this address, and not the one before.
    pub fn renumber(&self, at: usize, address: &str) {
        must(format!("-n {} addr flush dev eth0 scope global", self.hosts[at]));
        self.give(at, address);
    }

    pub fn name(&self, at: usize) -> &str {
        &self.hosts[at]
    }

    /// As it stands before a port.
    pub fn address(&self, at: usize) -> String {
        if self.six { format!("[{}]", self.number(at)) } else { self.number(at) }
    }

    /// Names of the namespaces, with the addresses.
    pub fn hosts(&self) -> Vec<(String, String)> {
        (0..self.hosts.len()).map(|at| (self.hosts[at].clone(), self.address(at))).collect()
    }

    /// What names mean there: lines `ADDRESS NAME`. It has to have some before its processes start.
    pub fn names(&self, at: usize, lines: &str) {
        let folder = folder(&self.hosts[at]);
        std::fs::create_dir_all(&folder).unwrap();
        // The same file: it is mounted where processes are that run.
        std::fs::write(folder.join("hosts"), lines).unwrap();
    }

    /// How many TCP connections that host has.
    pub fn connections(&self, at: usize) -> usize {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.hosts[at], "cat", "/proc/net/tcp", "/proc/net/tcp6"]);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let state = |line: &&str| line.split_whitespace().nth(3) == Some("01");
        text.lines().filter(state).count()
    }

    /// Nothing goes in or out.
    pub fn cut(&self, at: usize) {
        must(format!("-n {} link set port{at} down", self.hub));
    }

    pub fn mend(&self, at: usize) {
        must(format!("-n {} link set port{at} up", self.hub));
    }

    /// Nothing goes in or out, and the host does not see that its link is down: after a real end of a
    /// carrier Linux may leave a link unused for a second.
    pub fn unplug(&self, at: usize) {
        must(format!("-n {} link set port{at} nomaster", self.hub));
    }

    pub fn plug(&self, at: usize) {
        must(format!("-n {} link set port{at} master br0", self.hub));
    }

    /// What this host sends goes to nobody: it is told wrong addresses of all others.
    pub fn silence(&self, at: usize) {
        let host = &self.hosts[at];
        for other in (0..self.hosts.len()).filter(|other| *other != at) {
            let nobody = format!("02:00:00:00:99:{other:02x}");
            let to = self.number(other);
            must(format!("-n {host} neigh replace {to} lladdr {nobody} nud permanent dev eth0"));
        }
    }

    /// Sockets of one host that are connected with another.
    pub fn sockets(&self, at: usize, with: usize) -> usize {
        std::thread::sleep(std::time::Duration::from_millis(100)); // it is asked again and again
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.hosts[at], "cat", "/proc/net/tcp"]);
        let table = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let remote = format!("{:02X}004D0A:", with + 1);
        let its =
            |line: &&str| line.split_whitespace().nth(2).is_some_and(|to| to.starts_with(&remote));
        assert!(table.contains("rem_address"), "{table}");
        table.lines().filter(its).count()
    }

    /// What this host sends goes no faster than that.
    pub fn slow_down(&self, at: usize, rate: &str) {
        let host = &self.hosts[at];
        let mut command = Command::new("ip");
        let text = format!(
            "netns exec {host} tc qdisc add dev eth0 root tbf rate {rate} burst 16kb latency 100ms"
        );
        assert!(command.args(text.split(' ')).status().unwrap().success(), "{text}");
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in self.hosts.iter().chain([&self.hub]) {
            ip(&format!("netns del {name}"));
            let _ = std::fs::remove_dir_all(folder(name));
        }
    }
}
