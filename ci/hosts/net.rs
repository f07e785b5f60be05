// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hosts that are network namespaces, and the links between them.

use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// Namespaces `HOST`, each with one end of a link whose other end is in a bridge in one more.
pub struct Net {
    hosts: Vec<String>,
    hub: String,
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

/// Namespaces of runs that were killed: one of them might have the number of this process.
fn remove_what_is_left() {
    let Ok(output) = Command::new("ip").args(["netns", "list"]).output() else { return };
    for name in String::from_utf8_lossy(&output.stdout).lines() {
        let name = name.split(' ').next().unwrap_or_default();
        let run = name.strip_prefix("sq").and_then(|rest| rest.split('-').next()?.parse().ok());
        let Some(run) = run else { continue };
        let run: u32 = run;
        let mine = run == std::process::id();
        if mine || !std::path::Path::new(&format!("/proc/{run}")).exists() {
            ip(&format!("netns del {name}"));
        }
    }
}

impl Net {
    /// `None`: this machine cannot.
    pub fn new(hosts: usize) -> Option<Net> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let tag = format!("sq{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let hub = format!("{tag}-hub");
        static ONCE: Once = Once::new();
        ONCE.call_once(remove_what_is_left);
        if !rustix::process::geteuid().is_root() || !ip(&format!("netns add {hub}")) {
            return None;
        }
        let mut net = Net { hosts: Vec::new(), hub };
        let hub = &net.hub;
        must(format!("-n {hub} link add br0 type bridge"));
        must(format!("-n {hub} link set br0 up"));
        for at in 0..hosts {
            let host = format!("{tag}-{at}");
            must(format!("netns add {host}"));
            must(format!("-n {host} link add eth0 type veth peer name port{at} netns {hub}"));
            must(format!("-n {hub} link set port{at} master br0"));
            must(format!("-n {hub} link set port{at} up"));
            must(format!("-n {host} addr add 10.77.0.{}/24 dev eth0", at + 1));
            must(format!("-n {host} link set lo up"));
            must(format!("-n {host} link set eth0 up"));
            net.hosts.push(host);
        }
        Some(net)
    }

    /// Names of the namespaces, with the addresses.
    pub fn hosts(&self) -> Vec<(String, String)> {
        let address = |at: usize| format!("10.77.0.{}", at + 1);
        self.hosts.iter().enumerate().map(|(at, host)| (host.clone(), address(at))).collect()
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
            let to = format!("10.77.0.{}", other + 1);
            must(format!("-n {host} neigh replace {to} lladdr {nobody} nud permanent dev eth0"));
        }
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
        }
    }
}
