// SPDX-License-Identifier: MIT OR Apache-2.0
//! Members on several hosts, in the attributes: where they are, and what protects the way.

use super::attr::{
    SQUALL_FLAG_SECRET_FD, SQUALL_FLAG_TRUSTED_NETWORK, invalid, squall_group_attr_t,
};
use crate::driver::config::{Changes, Config};
use crate::driver::network::{Carrier, Network, Rdma, SecretFrom};
use crate::error::{Error, Status};
use crate::settings::slurm;
use std::ffi::{CStr, c_char};

/// Shared memory: all members are on this host.
pub const SQUALL_FABRIC_SHM: u32 = 0;
/// TCP, between members on one host, too; only with SQUALL_MEMBERSHIP_VIEWS.
pub const SQUALL_FABRIC_TCP: u32 = 1;
/// Shared memory within a host, TCP between hosts; only with SQUALL_MEMBERSHIP_VIEWS.
pub const SQUALL_FABRIC_AUTO: u32 = 2;
/// RDMA (InfiniBand, RoCE), between members on one host, too; only with SQUALL_MEMBERSHIP_VIEWS. Needs
/// libibverbs.so.1 and a device when the group is opened. Which one: `rdma`.
pub const SQUALL_FABRIC_VERBS: u32 = 3;
/// Shared memory within a host, RDMA between hosts; as SQUALL_FABRIC_VERBS otherwise.
pub const SQUALL_FABRIC_SHM_VERBS: u32 = 4;

/// `rank`, `members` and `founders` are given.
pub const SQUALL_LAUNCHER_NONE: u32 = 0;
/// They are those of the Slurm job step, from its environment variables (SLURM_PROCID and others): leave
/// them 0. The members of a host listen on adjoining ports, from the one in `listen` on, or 7471.
pub const SQUALL_LAUNCHER_SLURM: u32 = 1;

/// A string of the caller's; `None`: NULL.
///
/// # Safety
/// `at` is NULL or points to a string with its NUL.
pub unsafe fn text_of(at: *const c_char, what: &str) -> Result<Option<String>, Error> {
    if at.is_null() {
        return Ok(None);
    }
    // SAFETY: as promised.
    match unsafe { CStr::from_ptr(at) }.to_str() {
        Ok(text) => Ok(Some(text.into())),
        Err(_) => invalid(format!("attr.{what} is no UTF-8")),
    }
}

/// What is parted by commas.
///
/// # Safety
/// As `text_of`.
unsafe fn list_of(at: *const c_char, what: &str) -> Result<Vec<String>, Error> {
    // SAFETY: as promised.
    let text = unsafe { text_of(at, what)? }.unwrap_or_default();
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    Ok(parts.map(String::from).collect())
}

/// Where the secret comes from, if there is one.
///
/// # Safety
/// As for `squall_group_open`.
unsafe fn secret_of(attr: &squall_group_attr_t) -> Result<Option<SecretFrom>, Error> {
    // SAFETY: the caller says that it is a string, or NULL.
    let file = unsafe { text_of(attr.secret_file, "secret_file")? };
    let by_descriptor = attr.flags & SQUALL_FLAG_SECRET_FD != 0;
    let trusted = attr.flags & SQUALL_FLAG_TRUSTED_NETWORK != 0;
    match (file, by_descriptor) {
        (Some(_), true) => invalid(
            "attr.secret_file is set, and attr.flags has SQUALL_FLAG_SECRET_FD: there is one",
        ),
        (Some(_), _) if trusted => invalid(
            "attr.secret_file is set, and attr.flags has SQUALL_FLAG_TRUSTED_NETWORK: nothing would be \
             protected; leave out one of them",
        ),
        (_, true) if trusted => invalid(
            "attr.flags has SQUALL_FLAG_SECRET_FD and SQUALL_FLAG_TRUSTED_NETWORK: nothing would be \
             protected; leave out one of them",
        ),
        (Some(file), _) => Ok(Some(SecretFrom::File(file.into()))),
        (None, true) if attr.secret_fd < 0 => {
            invalid(format!("attr.secret_fd {} is no descriptor", attr.secret_fd))
        }
        (None, true) => Ok(Some(SecretFrom::Descriptor(attr.secret_fd))),
        (None, false) if attr.secret_fd != 0 => invalid(format!(
            "attr.secret_fd is {} and says nothing without SQUALL_FLAG_SECRET_FD: set that, too",
            attr.secret_fd
        )),
        (None, false) => Ok(None),
    }
}

/// Where the members are, and who says so.
///
/// # Safety
/// As for `squall_group_open`.
pub unsafe fn network_into(config: &mut Config, attr: &squall_group_attr_t) -> Result<(), Error> {
    // SAFETY: the caller says that these are strings, or NULL.
    let (host, rdma, listen, advertise, founders, contacts, secret) = unsafe {
        (
            text_of(attr.host, "host")?.unwrap_or_default(),
            text_of(attr.rdma, "rdma")?.unwrap_or_default(),
            list_of(attr.listen, "listen")?,
            text_of(attr.advertise, "advertise")?.unwrap_or_default(),
            list_of(attr.founders, "founders")?,
            list_of(attr.contacts, "contacts")?,
            secret_of(attr)?,
        )
    };
    let carrier = match attr.fabric {
        SQUALL_FABRIC_SHM => Carrier::Shm,
        SQUALL_FABRIC_TCP => Carrier::Tcp,
        SQUALL_FABRIC_AUTO => Carrier::Auto,
        SQUALL_FABRIC_VERBS => Carrier::Verbs,
        SQUALL_FABRIC_SHM_VERBS => Carrier::ShmVerbs,
        other => return invalid(format!("attr.fabric {other} is no SQUALL_FABRIC_…")),
    };
    let trusted = attr.flags & SQUALL_FLAG_TRUSTED_NETWORK != 0;
    if !rdma.is_empty() && !carrier.is_rdma() {
        return invalid(
            "attr.rdma says nothing without SQUALL_FABRIC_VERBS or SQUALL_FABRIC_SHM_VERBS",
        );
    }
    let rdma = Rdma::parse(&rdma)?;
    let network =
        Network { carrier, host, listen, advertise, founders, contacts, secret, trusted, rdma };
    if carrier != Carrier::Shm && config.membership == Changes::Fixed {
        return invalid(
            "attr.membership is SQUALL_MEMBERSHIP_FIXED, and attr.fabric not SQUALL_FABRIC_SHM: between \
             hosts members may change; set SQUALL_MEMBERSHIP_VIEWS",
        );
    }
    if let (Carrier::Shm, Some(what)) = (carrier, says(&network)) {
        return invalid(format!(
            "{what} says nothing with SQUALL_FABRIC_SHM: leave it out, or set attr.fabric to \
             another SQUALL_FABRIC_…"
        ));
    }
    config.network = network;
    match attr.launcher {
        SQUALL_LAUNCHER_NONE => Ok(()),
        SQUALL_LAUNCHER_SLURM => by_slurm(config, attr),
        other => invalid(format!("attr.launcher {other} is no SQUALL_LAUNCHER_…")),
    }
}

/// Which processes of this host may be members, and where they meet.
///
/// # Safety
/// As for `squall_group_open`.
pub unsafe fn peers_into(config: &mut Config, attr: &squall_group_attr_t) -> Result<(), Error> {
    let peers = &mut config.peers;
    // SAFETY: the caller says that these are strings, or NULL.
    unsafe {
        peers.users = list_of(attr.peers_users, "peers_users")?;
        peers.group = text_of(attr.peers_group, "peers_group")?.unwrap_or_default();
        let directory = text_of(attr.peers_directory, "peers_directory")?;
        peers.directory = directory.unwrap_or_default().into();
    }
    Ok(())
}

/// What a network of one host has no use for.
fn says(network: &Network) -> Option<&'static str> {
    let rows = [
        (!network.host.is_empty(), "attr.host"),
        (!network.listen.is_empty(), "attr.listen"),
        (!network.advertise.is_empty(), "attr.advertise"),
        (!network.founders.is_empty(), "attr.founders"),
        (!network.contacts.is_empty(), "attr.contacts"),
        (matches!(network.secret, Some(SecretFrom::File(_))), "attr.secret_file"),
        (network.secret.is_some(), "SQUALL_FLAG_SECRET_FD"),
        (network.trusted, "SQUALL_FLAG_TRUSTED_NETWORK"),
    ];
    rows.into_iter().find_map(|(is_set, what)| is_set.then_some(what))
}

fn by_slurm(config: &mut Config, attr: &squall_group_attr_t) -> Result<(), Error> {
    let rows = [
        (attr.rank != 0, "rank"),
        (attr.members != 0, "members"),
        (!config.network.founders.is_empty(), "founders"),
    ];
    if let Some((_, what)) = rows.into_iter().find(|(is_set, _)| *is_set) {
        return invalid(format!(
            "attr.{what} and SQUALL_LAUNCHER_SLURM contradict each other: the launcher says it; leave one \
             of them 0"
        ));
    }
    let variables =
        || environment().filter_map(|(key, value)| Some((key, value.into_string().ok()?)));
    let settled = slurm::settle(config, |name| {
        variables().find_map(|(key, value)| (key == name).then_some(value))
    });
    settled.map_err(|why| Error::new(Status::Invalid, why.detail))
}

/// This process' environment: nothing where it may be a stranger's, in a program that runs with more
/// rights than who has started it.
pub fn environment() -> impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)> {
    // SAFETY: it takes and gives numbers.
    let trusted = unsafe { libc::getauxval(libc::AT_SECURE) } == 0;
    trusted.then(std::env::vars_os).into_iter().flatten()
}
