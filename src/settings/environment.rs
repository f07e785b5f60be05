// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keys as environment variables: `network.listen` is `SQUALL_NETWORK__LISTEN`.

use super::keys::{ALL, SUBGROUP};
use super::value::Value;
use super::{Origin, Settings, nearest, remedy};
use crate::error::{Error, Status};
use std::collections::BTreeMap;
use std::ffi::OsStr;

/// Names that begin so are settings; what else does is a mistake, but for tools of ours.
const PREFIX: &str = "SQUALL_";
/// What our own tests and programs are told by.
const NOT_SETTINGS: [&str; 4] = ["SQUALL_CLUSTER_", "SQUALL_SIM_", "SQUALL_TEST_", "SQUALL_STATE_"];

/// What Kubernetes sets in every container for a service whose name begins like ours: of a service
/// `squall-feed` those are SQUALL_FEED_SERVICE_HOST, SQUALL_FEED_PORT, SQUALL_FEED_PORT_7471_TCP_ADDR.
fn is_of_a_service(name: &str) -> bool {
    let port = |rest: &str| {
        let mut parts = rest.split('_');
        let number = parts.next().is_some_and(|part| part.parse::<u16>().is_ok());
        number && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
    };
    let named = name.split_once("_PORT_").is_some_and(|(_, rest)| port(rest));
    named
        || name.ends_with("_PORT")
        || name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
}

/// Variables that mean something here.
#[derive(Default)]
pub struct Variables {
    /// Name and value.
    settings: Vec<(String, String)>,
    pub slurm: BTreeMap<String, String>,
}

/// Picks them out.
pub fn wanted<K: AsRef<OsStr>, V: AsRef<OsStr>>(
    environment: impl IntoIterator<Item = (K, V)>,
) -> Result<Variables, Error> {
    let mut variables = Variables::default();
    for (name, value) in environment {
        let Some(name) = name.as_ref().to_str() else { continue };
        let other = NOT_SETTINGS.iter().any(|of| name.starts_with(of)) || is_of_a_service(name);
        let ours = name.starts_with(PREFIX) && !other;
        if !ours && !name.starts_with("SLURM_") {
            continue;
        }
        match value.as_ref().to_str() {
            Some(value) if ours => variables.settings.push((name.into(), value.into())),
            Some(value) => drop(variables.slurm.insert(name.into(), value.into())),
            None if ours => {
                let detail = format!("environment variable {name} is no UTF-8");
                return Err(Error::new(Status::Invalid, detail));
            }
            None => {}
        }
    }
    variables.settings.sort();
    Ok(variables)
}

/// The key of a variable.
fn key_of(name: &str) -> String {
    name[PREFIX.len()..].to_lowercase().replace("__", ".")
}

/// The other way round.
fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
}

/// Sets what they say.
pub fn apply(variables: &Variables, settings: &mut Settings) -> Result<(), Error> {
    for (name, text) in &variables.settings {
        let wanted = key_of(name);
        let value = Value::Loose(text.clone());
        let origin = Origin::Variable(name.clone());
        if let Some(rest) = wanted.strip_prefix("subgroup.") {
            apply_to_subgroup(rest, value, origin, settings)?;
            continue;
        }
        match ALL.iter().find(|key| key.name == wanted) {
            Some(key) => settings.set(key, value, origin)?,
            None => {
                let near = remedy(nearest(&wanted, ALL.iter().map(|key| key.name)), variable_of);
                let detail = format!("{origin}: there is no key `{wanted}`{near}");
                return Err(Error::new(Status::Invalid, detail));
            }
        }
    }
    Ok(())
}

fn apply_to_subgroup(
    rest: &str,
    value: Value,
    origin: Origin,
    settings: &mut Settings,
) -> Result<(), Error> {
    let wrong = |why: String| Error::new(Status::Invalid, format!("{origin}: {why}"));
    let (at, name) = rest.split_once('.').unwrap_or((rest, ""));
    let subgroups = settings.config.subgroups.len();
    let at = at.parse().ok().filter(|at: &usize| *at < subgroups.max(1));
    let Some(at) = at else {
        let why = format!("there are {subgroups} [[subgroup]]; write SQUALL_SUBGROUP__NUMBER__KEY");
        return Err(wrong(why));
    };
    let Some(key) = SUBGROUP.iter().find(|key| key.name == name) else {
        let near = nearest(name, SUBGROUP.iter().map(|key| key.name));
        let near = remedy(near, |key| variable_of(&format!("subgroup.{at}.{key}")));
        return Err(wrong(format!("there is no key `{name}` of a [[subgroup]]{near}")));
    };
    if settings.config.subgroups.is_empty() {
        settings.config.subgroups.push(Default::default());
    }
    settings.set_in_subgroup(at, key, value, origin)
}
