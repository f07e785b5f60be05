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
//! `load` is for who needs nothing else to open a group; `over` for who has more to say (the C door).
//!
//! Cost: one file read; for use before a group is opened.

mod environment;
mod file;
mod keys;
pub mod slurm;
mod value;

use crate::driver::config::{Changes, Config};
use crate::driver::network::Carrier;
use crate::error::{Error, Status};
use keys::{ALL, Key, SUBGROUP};
pub use slurm::Launcher;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::path::Path;
use value::Value;

/// A file is not longer; what is was no configuration.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a file and the environment say.
#[derive(Clone, Debug)]
pub struct Settings {
    pub config: Config,
    /// The core of the polling thread.
    pub core: Option<usize>,
    /// Who says which member this is, and where the others are.
    pub launcher: Launcher,
    /// A launcher says it, and this process is none of its: then nobody does (`inspect`).
    pub lacks_job: bool,
    /// Where each key was set that was set.
    origins: BTreeMap<String, Origin>,
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
    /// Nothing is set.
    fn new(config: Config) -> Settings {
        let (core, launcher, origins) = (None, Launcher::None, BTreeMap::new());
        Settings { config, core, launcher, lacks_job: false, origins }
    }

    /// Reads a file, then this process' environment: all that a group needs.
    pub fn load(path: &Path) -> Result<Settings, Error> {
        let (name, text) = text_of(path)?;
        Settings::read(&name, &text, std::env::vars_os())
    }

    /// The same for who opens nothing, and may be outside of the job whose file it is.
    pub fn look(path: &Path) -> Result<Settings, Error> {
        let (name, text) = text_of(path)?;
        Settings::inspect(&name, &text, std::env::vars_os())
    }

    /// What `load` does, of a text. `name`: what errors call it.
    pub fn read<K, V>(
        name: &str,
        text: &str,
        environment: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Settings, Error>
    where
        K: AsRef<std::ffi::OsStr>,
        V: AsRef<std::ffi::OsStr>,
    {
        Settings::settled(name, text, &environment::wanted(environment)?, true)
    }

    /// What `look` does, of a text.
    pub fn inspect<K, V>(
        name: &str,
        text: &str,
        environment: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Settings, Error>
    where
        K: AsRef<std::ffi::OsStr>,
        V: AsRef<std::ffi::OsStr>,
    {
        Settings::settled(name, text, &environment::wanted(environment)?, false)
    }

    fn settled(
        name: &str,
        text: &str,
        variables: &environment::Variables,
        opens: bool,
    ) -> Result<Settings, Error> {
        let mut config = Config::new("", 0, 1); // the name is missing
        config.subgroups.clear();
        let mut settings = Settings::set_over(config, Some((name, text)), variables)?;
        if settings.config.subgroups.is_empty() {
            settings.config.subgroups.push(Default::default());
        }
        let variable = |name: &str| variables.slurm.get(name).cloned();
        let is_slurm = settings.launcher == Launcher::Slurm;
        settings.lacks_job = is_slurm && !opens && !slurm::is_in_job(variable);
        match settings.lacks_job {
            true => settings.config.members = settings.members_named(),
            false if is_slurm => slurm::settle(&mut settings.config, variable)?,
            false => {}
        }
        settings.complete(name)?;
        Ok(settings)
    }

    /// What a file, if there is one, and an environment set over `base`: each key is good, and no two
    /// contradict each other. Whether that is all that a group needs is not looked at: more may be
    /// set. `config.subgroups` are those of the file, or else of the base. A launcher is not asked.
    ///
    /// Errors: `System`: the file cannot be read. `Invalid`, with the line or variable.
    pub fn over(
        base: Config,
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Settings, Error> {
        let read = file.map(text_of).transpose()?;
        let text = read.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
        Settings::set_over(base, text, &environment::wanted(environment)?)
    }

    fn set_over(
        base: Config,
        file: Option<(&str, &str)>,
        variables: &environment::Variables,
    ) -> Result<Settings, Error> {
        let mut settings = Settings::new(base);
        if let Some((name, text)) = file {
            file::read(name, text, &mut settings)?;
        }
        environment::apply(variables, &mut settings)?;
        settings.agree()?;
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
        let is_key = |key: &str| key.strip_prefix("subgroup.").is_none_or(|of| of.contains('.'));
        let keys = self.origins.iter().filter(move |(key, _)| is_key(key));
        keys.map(|(key, origin)| (key.as_str(), origin.to_string()))
    }

    /// Whether it was set, and is not a default.
    pub fn is_set(&self, key: &str) -> bool {
        self.origins.contains_key(key)
    }

    /// Whether anything of a `[[subgroup]]` was.
    pub fn sets_subgroups(&self) -> bool {
        self.origins.keys().any(|key| key.starts_with("subgroup."))
    }

    fn origin(&self, key: &str) -> Option<&Origin> {
        self.origins.get(key)
    }

    /// Whether the keys fit each other, an error names both; and what follows from one for others.
    fn agree(&mut self) -> Result<(), Error> {
        let far = self.config.network.carrier != Carrier::Shm;
        let trusted = self.config.network.trusted;
        let by_slurm = self.launcher == Launcher::Slurm;
        let fixed = self.config.membership == Changes::Fixed;
        let (trust, file, fd) =
            ("network.trusted_network", "network.secret_file", "network.secret_fd");
        let rows = [
            (self.config.join, "join", "rank", "one that joins is given its rank"),
            (trusted, trust, file, "nothing would be protected"),
            (trusted, trust, fd, "nothing would be protected"),
            (true, file, fd, "there is one secret"),
            (by_slurm, "launcher", "rank", "the launcher says it"),
            (by_slurm, "launcher", "members", "the launcher says it"),
            (by_slurm, "launcher", "network.founders", "the launcher says it"),
            (
                far && fixed,
                "fabric",
                "membership",
                "between hosts views change: membership = \"views\"",
            ),
        ];
        self.choose(file, fd);
        for (holds, one, two, why) in rows {
            if let (true, Some(first), Some(second)) = (holds, self.origin(one), self.origin(two)) {
                let detail =
                    format!("{first}: `{one}` and `{two}` ({second}) contradict each other: {why}");
                return Err(Error::new(Status::Invalid, detail));
            }
        }
        if far && self.is_set("fabric") {
            self.config.membership = Changes::Views;
        }
        let transfer = &mut self.config.transfer;
        if self.origins.contains_key("transfer.catchup") {
            transfer.near_bytes = transfer.near_bytes.min(transfer.catchup_bytes as u64 / 4);
            if !self.origins.contains_key("transfer.catchup_max") {
                transfer.catchup_bytes_max = transfer.catchup_bytes_max.max(transfer.catchup_bytes);
            }
        }
        Ok(())
    }

    /// Of two keys that say the same thing that of the environment counts, if only one is from there: its
    /// value is the one that was set last.
    fn choose(&mut self, one: &str, two: &str) {
        use Origin::{Line, Variable};
        let beaten = match (self.origin(one), self.origin(two)) {
            (Some(Line { .. }), Some(Variable(_))) => one,
            (Some(Variable(_)), Some(Line { .. })) => two,
            _ => return,
        };
        self.origins.remove(beaten);
    }

    /// Where a key was set, as a remark behind its value.
    fn remark(&self, key: &str) -> String {
        match self.origin(key) {
            Some(origin) => format!("({origin})"),
            None => format!("(`{key}` is not set)"),
        }
    }

    /// An error about what keys come to together: where the first of them stands that was set.
    fn unfit(&self, name: &str, keys: &[&str], why: &str) -> Error {
        let at = keys.iter().find_map(|key| self.origin(key));
        let at = at.map_or_else(|| name.to_string(), Origin::to_string);
        Error::new(Status::Invalid, format!("{at}: {why}"))
    }

    /// Whether what members are there fits, if they are said here.
    fn fits(&self, name: &str) -> Result<(), Error> {
        let Config { rank, members, join, network, .. } = &self.config;
        if *join && self.config.membership == Changes::Fixed {
            let why = "`join` needs membership = \"views\", as the group was founded with: else nobody can";
            return Err(self.unfit(name, &["join"], why));
        }
        if self.launcher == Launcher::Slurm {
            return Ok(());
        }
        let remark = self.remark("members");
        if !join && rank >= members {
            let last = members - 1;
            let why = format!("rank {rank} of {members} members {remark}: ranks are 0 to {last}");
            return Err(self.unfit(name, &["rank", "members"], &why));
        }
        let named = network.founders.len();
        if network.carrier != Carrier::Shm && !join && named != usize::from(*members) {
            let why = format!(
                "`founders` names {named} addresses for {members} members {remark}: one each, by rank"
            );
            return Err(self.unfit(name, &["network.founders", "members", "fabric"], &why));
        }
        if network.carrier == Carrier::Shm {
            return Ok(());
        }
        let checked = network.check_addresses(*join, *members);
        checked.map_err(|why| self.unfit(name, &["join", "fabric"], &why.detail))
    }

    /// As many members as lists of ranks speak of.
    fn members_named(&self) -> u16 {
        let ranks = |of: &keys::Subgroup| {
            of.members.iter().chain(of.senders.iter().flatten()).max().copied()
        };
        let most = self.config.subgroups.iter().filter_map(ranks).max();
        most.map_or(1, |rank| rank.saturating_add(1))
    }

    /// Each by itself, so that the error can say where it is.
    fn subgroups_fit(&self, name: &str) -> Result<(), Error> {
        for (at, one) in self.config.subgroups.iter().enumerate() {
            let alone = Config { subgroups: vec![one.clone()], ..self.config.clone() };
            if let Err(why) = alone.rules(self.config.members) {
                let why = why.detail.strip_prefix("subgroup 0: ").unwrap_or(&why.detail);
                let key = format!("subgroup.{at}");
                return Err(self.unfit(name, &[&key], &format!("[[subgroup]] {at}: {why}")));
            }
        }
        Ok(())
    }

    /// Whether it is all that a group needs.
    fn complete(&self, name: &str) -> Result<(), Error> {
        let network = self.origins.iter().find(|(key, _)| key.starts_with("network."));
        let config = &self.config;
        match (config.network.carrier, network) {
            (Carrier::Shm, Some((key, origin))) => {
                let detail = format!(
                    "{origin}: `{key}` says nothing with fabric = \"shm\" {}: leave it out, or set \
                     fabric to another one",
                    self.remark("fabric")
                );
                return Err(Error::new(Status::Invalid, detail));
            }
            (Carrier::Shm, None) => {}
            _ => {
                let checked = config.network.check_secret();
                checked.map_err(|why| self.unfit(name, &["fabric"], &why.detail))?;
            }
        }
        let rdma = self.origins.iter().find(|(key, _)| key.starts_with("rdma."));
        if let Some((key, origin)) = rdma.filter(|_| !config.network.carrier.is_rdma()) {
            let detail = format!(
                "{origin}: `{key}` says nothing with fabric = \"{}\": leave it out, or set fabric to \
                 \"verbs\" or \"shm+verbs\"",
                config.network.carrier.text()
            );
            return Err(Error::new(Status::Invalid, detail));
        }
        if config.group.is_empty() {
            let detail = format!("{name}: no name of the group: set `group = \"NAME\"`");
            return Err(Error::new(Status::Invalid, detail));
        }
        self.fits(name)?;
        self.subgroups_fit(name)?;
        let checked = match config.join {
            true => Config { rank: 0, ..config.clone() }.view(),
            false => config.view(),
        };
        checked.map_err(|why| Error::new(why.status, format!("{name}: {}", why.detail)))?;
        let few = crate::transfer::Options { message_bytes_max: 0, ..config.transfer.clone() };
        let keys = ["transfer.catchup_max", "transfer.catchup", "transfer.restarts_max"];
        few.check().map_err(|why| self.unfit(name, &keys, &why.detail))
    }
}

/// What errors call a file, and what is in it.
fn text_of(path: &Path) -> Result<(String, String), Error> {
    let mut text = String::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    let shown = path.display();
    read.map_err(|cause| {
        let detail = format!("cannot read {shown}: {cause}; `squall config --example` prints one");
        Error::new(Status::System, detail)
    })?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let detail =
            format!("{shown} has more than {FILE_BYTES_MAX} bytes: is that the right file?");
        return Err(Error::new(Status::Invalid, detail));
    }
    let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into());
    Ok((name, text))
}

fn bad(origin: &Origin, key: &str, why: &str) -> Error {
    Error::new(Status::Invalid, format!("{origin}: {key}: {why}"))
}

/// The key that was probably meant: one that is the same but for its section, or one that is alike.
fn nearest<'a>(name: &str, among: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_string();
    let alike = |one: &str, other: &str| (strsim::jaro_winkler(one, other) * 1000.0) as u32;
    let likeness = |key: &&str| {
        let parts = alike(&last(name), &last(key));
        alike(name, key).max(if parts > 900 { parts } else { 0 })
    };
    // Of several the first.
    let best = among.map(|key| (likeness(&key), key)).reduce(|best, of| match of.0 > best.0 {
        true => of,
        false => best,
    });
    best.filter(|(likeness, _)| *likeness > 700).map(|(_, key)| key)
}

/// For the end of a sentence. `shown`: as the key is written there.
fn remedy(near: Option<&str>, shown: impl Fn(&str) -> String) -> String {
    match near {
        Some(key) => format!("; did you mean {}?", shown(key)),
        None => "; `squall config --example` lists all".into(),
    }
}

/// The documented example: every key with its unit, default and meaning.
pub fn example() -> String {
    let mut text = String::from(
        "# Squall: settings of one member of a group. Every key, with its default.\n\
         # Each can also be set as an environment variable, which wins: `a.b` as SQUALL_A__B, lists with\n\
         # commas, a key of the first [[subgroup]] as SQUALL_SUBGROUP__0__KEY. Times have a unit (\"10ms\"),\n\
         # bytes may (\"4MiB\"). Paths are as seen from where the member is started.\n",
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
