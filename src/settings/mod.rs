// SPDX-License-Identifier: MIT OR Apache-2.0
//! A group's settings from a file, `squall.toml`, and the environment.
//!
//! What is set later wins: defaults, the file, the environment, then what the program itself
//! changes in `Settings`. Every key is described in one table (`keys`), which the reader, the
//! environment's names and the documented example (`example`) all come from.
//!
//! An error names the file and line (or the variable), the value, what it may be, and for an unknown
//! key the nearest one there is. Nothing is opened, resolved or listened on here.
//!
//! Cost: one file read; for use before a group is opened.

mod environment;
mod file;
mod keys;
pub mod slurm;
mod value;

use crate::driver::config::{Changes, Config};
use crate::driver::network::{Carrier, Network};
use crate::error::{Error, Status};
use keys::{ALL, Key, SUBGROUP};
use std::collections::BTreeMap;
use std::path::Path;
use value::Value;

/// What a file and the environment say.
#[derive(Clone, Debug)]
pub struct Settings {
    pub config: Config,
    /// The core of the polling thread.
    pub core: Option<usize>,
    /// Who says which member this is, and where the others are.
    pub launcher: Launcher,
    /// Where each key was set that was set.
    origins: BTreeMap<String, Origin>,
}

/// Who starts the members.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Launcher {
    /// Rank and addresses are given by hand.
    #[default]
    None,
    /// `SLURM_*` variables say them.
    Slurm,
}

/// Where a key was set.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Origin {
    Line { file: String, line: usize },
    Variable(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Line { file, line } => write!(f, "{file}:{line}"),
            Origin::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}

impl Settings {
    /// All defaults: the name of the group is missing.
    fn new() -> Settings {
        let mut config = Config::new("", 0, 1);
        config.subgroups.clear();
        Settings { config, core: None, launcher: Launcher::None, origins: BTreeMap::new() }
    }

    /// Reads a file, then this process' environment.
    pub fn load(path: &Path) -> Result<Settings, Error> {
        let text = std::fs::read_to_string(path).map_err(|cause| {
            let path = path.display();
            let detail =
                format!("cannot read {path}: {cause}; `squall config --example` prints one");
            Error::new(Status::System, detail)
        })?;
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into());
        Settings::read(&name, &text, std::env::vars_os())
    }

    /// The same of a text. `name`: what errors call it.
    pub fn read<K, V>(
        name: &str,
        text: &str,
        environment: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Settings, Error>
    where
        K: AsRef<std::ffi::OsStr>,
        V: AsRef<std::ffi::OsStr>,
    {
        let mut settings = Settings::new();
        let variables = environment::wanted(environment)?;
        file::read(name, text, &mut settings)?;
        environment::apply(&variables, &mut settings)?;
        if settings.config.subgroups.is_empty() {
            settings.config.subgroups.push(Default::default());
        }
        if settings.launcher == Launcher::Slurm {
            settings.ask_slurm(&variables)?;
        }
        settings.agree(name)?;
        Ok(settings)
    }

    fn set(&mut self, key: &Key<Settings>, value: Value, origin: Origin) -> Result<(), Error> {
        (key.set)(self, value).map_err(|why| bad(&origin, key.name, &why))?;
        self.origins.insert(key.name.into(), origin);
        Ok(())
    }

    fn set_in_subgroup(
        &mut self,
        at: usize,
        key: &Key<keys::Subgroup>,
        value: Value,
        origin: Origin,
    ) -> Result<(), Error> {
        let subgroup = &mut self.config.subgroups[at];
        (key.set)(subgroup, value).map_err(|why| bad(&origin, key.name, &why))?;
        self.origins.insert(format!("subgroup.{at}.{}", key.name), origin);
        Ok(())
    }

    /// Every key that was set, and where.
    pub fn keys(&self) -> impl Iterator<Item = (&str, String)> {
        self.origins.iter().map(|(key, origin)| (key.as_str(), origin.to_string()))
    }

    fn origin(&self, key: &str) -> Option<&Origin> {
        self.origins.get(key)
    }

    /// Rank, members and addresses of a job.
    fn ask_slurm(&mut self, variables: &environment::Variables) -> Result<(), Error> {
        let job = slurm::Job::read(|name| variables.slurm.get(name).cloned());
        let job = job.map_err(|why| Error::new(Status::Invalid, why))?;
        let port =
            self.config.network.listen.first().and_then(|of| of.rsplit_once(':')?.1.parse().ok());
        let port = port.unwrap_or(crate::driver::network::PORT_DEFAULT);
        (self.config.rank, self.config.members) = (job.rank, job.members);
        self.config.network.founders = job.addresses(port)?;
        let mine = &self.config.network.founders[usize::from(job.rank)];
        if self.config.network.listen.is_empty() {
            let port = mine.rsplit_once(':').map_or("", |(_, port)| port);
            self.config.network.listen = vec![format!("*:{port}")];
        }
        Ok(())
    }

    /// Whether the keys fit each other; an error names both.
    fn agree(&mut self, name: &str) -> Result<(), Error> {
        let both = |one: &str, two: &str, why: &str| {
            let (first, second) = (self.origin(one)?, self.origin(two)?);
            let detail =
                format!("{first}: `{one}` and `{two}` ({second}) contradict each other: {why}");
            Some(Error::new(Status::Invalid, detail))
        };
        let far = self.config.network.carrier != Carrier::Shm;
        let trusted = self.config.network.trusted;
        let by_slurm = self.launcher == Launcher::Slurm;
        let found = [
            (self.config.join, "join", "rank", "one that joins is given its rank"),
            (self.config.join, "join", "network.founders", "name members in `network.contacts`"),
            (!self.config.join, "members", "network.contacts", "contacts are for one that joins"),
            (
                trusted,
                "network.trusted_network",
                "network.secret_file",
                "nothing would be protected",
            ),
            (trusted, "network.trusted_network", "network.secret_fd", "nothing would be protected"),
            (true, "network.secret_file", "network.secret_fd", "there is one secret"),
            (by_slurm, "launcher", "rank", "the launcher says it"),
            (by_slurm, "launcher", "members", "the launcher says it"),
            (by_slurm, "launcher", "network.founders", "the launcher says it"),
            (
                far && self.config.membership == Changes::Fixed,
                "fabric",
                "membership",
                "between hosts views change: membership = \"views\"",
            ),
        ];
        for (holds, one, two, why) in found {
            if let Some(error) = both(one, two, why).filter(|_| holds) {
                return Err(error);
            }
        }
        if far {
            self.config.membership = Changes::Views;
            self.agree_far()?;
            self.listen_at_own_port();
        } else if let Some((key, origin)) =
            self.origins.iter().find(|(key, _)| key.starts_with("network."))
        {
            let detail = format!(
                "{origin}: `{key}` says nothing with fabric = \"shm\": leave it out, or set fabric to \
                 \"tcp\" or \"auto\""
            );
            return Err(Error::new(Status::Invalid, detail));
        }
        if self.config.group.is_empty() {
            let detail = format!("{name}: no name of the group: set `group = \"NAME\"`");
            return Err(Error::new(Status::Invalid, detail));
        }
        let config = &self.config;
        let checked = match config.join {
            true => Config { rank: 0, ..config.clone() }.view(),
            false => config.view(),
        };
        checked.map(drop).map_err(|why| Error::new(why.status, format!("{name}: {}", why.detail)))
    }

    /// A founder that is not told where to listen does so where the others look for it.
    fn listen_at_own_port(&mut self) {
        let network = &mut self.config.network;
        let mine = network.founders.get(usize::from(self.config.rank));
        let port = mine.and_then(|mine| mine.rsplit_once(':')?.1.parse::<u16>().ok());
        if let Some(port) = port.filter(|_| network.listen.is_empty() && !self.config.join) {
            network.listen = vec![format!("*:{port}")];
        }
    }

    /// What a group across hosts needs beside.
    fn agree_far(&mut self) -> Result<(), Error> {
        let missing = |what: &str| Err(Error::new(Status::Invalid, what));
        let Network { founders, contacts, secret, trusted, .. } = &self.config.network;
        if self.config.join && contacts.is_empty() {
            return missing("one that joins across hosts needs `network.contacts`");
        }
        if !self.config.join && founders.len() != usize::from(self.config.members) {
            let (named, members) = (founders.len(), self.config.members);
            return missing(&format!(
                "`network.founders` names {named} addresses for {members} members: one each, by rank"
            ));
        }
        if secret.is_none() && !trusted {
            return missing(
                "members on other hosts prove that they belong to the group: set \
                 `network.secret_file` (`squall secret` makes one), or `network.trusted_network = true`",
            );
        }
        Ok(())
    }
}

fn bad(origin: &Origin, key: &str, why: &str) -> Error {
    Error::new(Status::Invalid, format!("{origin}: {key}: {why}"))
}

/// The key that was probably meant.
fn nearest<'a>(name: &str, among: impl Iterator<Item = &'a str>) -> String {
    let likeness = |key: &&str| (strsim::jaro_winkler(name, key) * 1000.0) as u32;
    match among.max_by_key(likeness).filter(|key| likeness(key) > 700) {
        Some(key) => format!("; did you mean `{key}`?"),
        None => "; `squall config --example` lists all".into(),
    }
}

/// The documented example: every key with its unit, default and meaning.
pub fn example() -> String {
    let mut text = String::from(
        "# Squall: settings of one member of a group. Every key, with its default.\n\
         # Each can also be set as an environment variable: `a.b` as SQUALL_A__B, a key of the first\n\
         # [[subgroup]] as SQUALL_SUBGROUP__0__KEY. Times have a unit (\"10ms\"), bytes may (\"4MiB\").\n",
    );
    let mut section = "";
    for key in ALL {
        let (of, name) = key.name.split_once('.').unwrap_or(("", key.name));
        if of != section {
            text.push_str(&format!("\n[{of}]\n"));
            section = of;
        }
        text.push_str(&describe(name, key.help, key.default, key.is_set));
    }
    text.push_str(
        "\n# One ordered stream each; without any, one of all members with these defaults.\n[[subgroup]]\n",
    );
    SUBGROUP.iter().for_each(|key| {
        text.push_str(&describe(key.name, key.help, key.default, key.is_set));
    });
    text
}

fn describe(name: &str, help: &str, default: &str, is_set: bool) -> String {
    let help: String = help.lines().map(|line| format!("# {}\n", line.trim())).collect();
    let comment = if is_set { "" } else { "# " };
    format!("{help}{comment}{name} = {default}\n")
}

#[cfg(test)]
mod tests;
