// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the members of a test's group are, how they are called, and what a role is told of that.

use super::Arguments;
use squall::driver::config::Config;
use squall::driver::network::{Carrier, SecretFrom};
use squall::fabric::tcp::secret::Secret;
use std::collections::HashMap;
use std::path::Path;

/// A namespace, and an address in it.
pub type Host = (String, String);

/// Places of members, by id.
pub struct Sites {
    /// As in a configuration; or `mixed`, `mixed-verbs`: this host is parted in two, with TCP or RDMA
    /// between its parts.
    pub fabric: String,
    /// Members are here in turns; empty: all are on this host.
    hosts: Vec<Host>,
    /// Those that are elsewhere: the namespace, and address and port.
    moved: HashMap<u64, Host>,
}

impl Sites {
    /// All on this host.
    pub fn here(fabric: String) -> Sites {
        Sites { fabric, hosts: Vec::new(), moved: HashMap::new() }
    }

    pub fn on(hosts: Vec<Host>) -> Sites {
        Sites { fabric: "auto".into(), hosts, moved: HashMap::new() }
    }

    /// That member is to be in this namespace, at `ADDRESS:PORT`.
    pub fn put(&mut self, id: u64, namespace: &str, address: String) {
        self.moved.insert(id, (namespace.into(), address));
    }

    /// The part of this host that a member is on.
    pub fn part(&self, id: u64) -> &'static str {
        match (self.fabric.as_str(), id % 2) {
            ("mixed" | "mixed-verbs", 0) => "even",
            ("mixed" | "mixed-verbs", _) => "odd",
            _ => "",
        }
    }

    /// What a process is told: it listens where that member does, and knows `others`.
    pub fn ways(&self, id: u64, others: String, folder: &Path) -> Vec<(&'static str, String)> {
        let fabric = match self.fabric.as_str() {
            "mixed" => "auto",
            "mixed-verbs" => "shm+verbs",
            one => one,
        };
        vec![
            ("fabric", fabric.into()),
            ("host", self.part(id).into()),
            ("listen", self.address(id)),
            ("others", others),
            ("secret", self.secret(folder)),
        ]
    }

    /// The namespace that a member is in.
    pub fn namespace(&self, id: u64) -> Option<&str> {
        if let Some((namespace, _)) = self.moved.get(&id) {
            return Some(namespace);
        }
        let count = self.hosts.len() as u64;
        (count > 0).then(|| self.hosts[((id - 1) % count) as usize].0.as_str())
    }

    /// Where a member listens, if it listens.
    pub fn address(&self, id: u64) -> String {
        if let Some((_, address)) = self.moved.get(&id) {
            return address.clone();
        }
        let count = self.hosts.len() as u64;
        if count > 0 {
            return format!("{}:{}", self.hosts[((id - 1) % count) as usize].1, 20_000 + id);
        }
        // Of this run and no other one.
        let run = std::process::id();
        let (a, b, port) = (run / 250 % 250 + 1, run % 250 + 1, 7471 + id / 250);
        format!("127.{a}.{b}.{}:{port}", id % 250 + 1)
    }

    pub fn addresses(&self, ids: impl IntoIterator<Item = u64>) -> String {
        ids.into_iter().map(|id| self.address(id)).collect::<Vec<_>>().join(",")
    }

    /// The file with the group's secret, in that folder; made when it is first asked for.
    pub fn secret(&self, folder: &Path) -> String {
        let path = folder.join("secret");
        if self.fabric != "shm" && !path.exists() {
            Secret::create(&path).unwrap();
        }
        path.display().to_string()
    }
}

/// What a member is told: arguments fabric, host, listen, others, secret.
pub fn network(config: &mut Config, arguments: &Arguments) {
    let network = &mut config.network;
    network.carrier = match arguments.text("fabric") {
        Some("tcp") => Carrier::Tcp,
        Some("auto") => Carrier::Auto,
        Some("verbs") => Carrier::Verbs,
        Some("shm+verbs") => Carrier::ShmVerbs,
        _ => return,
    };
    let list = |key: &str| -> Vec<String> {
        let text = arguments.text(key).unwrap_or("");
        text.split(',').filter(|part| !part.is_empty()).map(String::from).collect()
    };
    network.host = arguments.text("host").unwrap_or("").into();
    network.listen = list("listen");
    match config.join {
        true => network.contacts = list("others"),
        false => network.founders = list("others"),
    }
    network.secret = arguments.text("secret").map(|path| SecretFrom::File(path.into()));
    network.trusted = network.secret.is_none();
}
