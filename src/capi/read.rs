// SPDX-License-Identifier: MIT OR Apache-2.0
//! Attributes from a configuration file and the environment.
//!
//! What is read goes into the caller's struct, where it can be seen and changed; the memory that it
//! points to is one block of ours, `owned`, until it is freed. What a C program cannot say in its
//! attributes a file cannot say either: the two agree key by key.

use super::attr::*;
use super::network::{
    SQUALL_FABRIC_AUTO, SQUALL_FABRIC_SHM, SQUALL_FABRIC_SHM_VERBS, SQUALL_FABRIC_TCP,
    SQUALL_FABRIC_VERBS, SQUALL_LAUNCHER_NONE, SQUALL_LAUNCHER_SLURM, environment,
};
use super::state::{SQUALL_RESTARTS_NONE, options_of, squall_transfer_attr_t, transfer_of};
use super::subgroup::*;
use super::view::{SQUALL_MEMBERSHIP_FIXED, SQUALL_MEMBERSHIP_VIEWS};
use super::{bug, guard, refuse};
use crate::driver::config::{Changes, Config, Idle, SubgroupConfig};
use crate::driver::network::{Carrier, SecretFrom};
use crate::error::{Error, Status};
use crate::group::detector::lag::Lag;
use crate::mem::region::Want;
use crate::settings::{Launcher, Settings};
use crate::sst::layout::Mode;
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::mem::{offset_of, size_of};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// What attributes point to that were read. Nothing in it moves when it is moved.
#[derive(Default)]
struct Owned {
    texts: Vec<CString>,
    ranks: Vec<Vec<u16>>,
    subgroups: Vec<squall_subgroup_attr_t>,
    transfer: Option<Box<squall_transfer_attr_t>>,
    /// Of an earlier file, which other fields still point to.
    before: Option<Box<Owned>>,
}

/// Reads a configuration file (`squall.toml`), then the environment, into attributes.
///
/// Each key that is set there sets its field; the other fields stay. So what a program sets before is
/// its own default, and what it sets afterwards wins over file and environment. Nothing is opened,
/// looked up or listened on: `squall_group_open` says what is still missing, or in the way.
///
/// `squall config --example` prints every key; `a.b` is SQUALL_A__B in the environment, a key of the
/// first `[[subgroup]]` SQUALL_SUBGROUP__0__KEY; other variables that begin with SQUALL_ are errors. Fields
/// have the names of their keys (open_timeout is `open_timeout_ms`, members_min `shard_members_min`), but:
///
///   group                        `name`
///   join, tie_break              SQUALL_FLAG_JOIN, SQUALL_FLAG_TIE_BREAK
///   lock, huge_pages             SQUALL_FLAG_LOCK, SQUALL_FLAG_REQUIRE_LOCK, and the like for huge ones
///   core                         `core` and SQUALL_FLAG_PIN: a program that polls itself pins its own
///                                thread, and takes that flag away
///   fabric                       `fabric`, and SQUALL_MEMBERSHIP_VIEWS unless it is "shm"
///   network.secret_fd            `secret_fd` and SQUALL_FLAG_SECRET_FD
///   network.trusted_network      SQUALL_FLAG_TRUSTED_NETWORK
///   peers.*                      `peers_users`, `peers_group`, `peers_directory`
///   rdma.*                       `rdma`: all of them in one text
///   transfer.*                   `transfer`, a struct of the library's, over what the program's says
///   [[subgroup]]                 `subgroups`: those of the file instead of the program's
///
/// @param attr  Initialised by `squall_group_attr_init`; changed on success only.
/// @param path  The file; NULL: none, the environment only. The environment is passed over in a program
///              that has more rights than who has started it (set-user-ID).
/// @return SQUALL_OK, or
///         SQUALL_INVALID     a key, a value, or two that contradict each other: `squall_last_error` has
///                            the line or variable, what it may be, and the nearest key;
///         SQUALL_SYSTEM      the file cannot be read;
///         SQUALL_WRONG_SIZE  `attr` was not initialised, or by an older header, without the field of a
///                            key that is set;
///         SQUALL_PANIC       a bug of ours.
///
/// Threads:   any, also in callbacks; no other may change the environment meanwhile (setenv).
/// Ownership: what `attr` points to is the library's, until `squall_group_attr_free`; the struct may be
///            copied, and one of the copies is freed, once. It may be changed, but not in place: to
///            change a subgroup, copy the list.
/// Cost:      reads the file; allocates some hundred bytes.
/// Since:     0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn squall_group_attr_read(
    attr: *mut squall_group_attr_t,
    path: *const c_char,
) -> c_int {
    bug::hear_panics();
    guard(|| {
        // SAFETY: the caller's promises are those of this function.
        match unsafe { read(attr, path) } {
            Ok(()) => Status::Ok as c_int,
            Err(error) => refuse(error),
        }
    })
}

/// Frees what `squall_group_attr_read` has put into attributes, and makes them the default again, as
/// `squall_group_attr_init` does. After `squall_group_open` they are not needed any more.
///
/// @param attr  May be NULL, and may have read nothing: nothing is freed then.
///
/// Threads: any, also in callbacks. Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn squall_group_attr_free(attr: *mut squall_group_attr_t) {
    guard(|| {
        // SAFETY: the caller says that a struct with its size is there, or NULL.
        let Ok(theirs) = (unsafe { known(attr) }) else { return Status::Ok as c_int };
        if !theirs.owned.is_null() {
            // SAFETY: `read` has made it with `Box::into_raw`, and the caller frees it once.
            drop(unsafe { Box::from_raw(theirs.owned.cast::<Owned>()) });
        }
        // SAFETY: as above; it has that size.
        unsafe { init(attr.cast(), theirs.size) };
        Status::Ok as c_int
    });
}

/// Attributes that have room for what is read.
///
/// # Safety
/// `at` is NULL, or points to attributes that begin with their size.
unsafe fn known(at: *const squall_group_attr_t) -> Result<squall_group_attr_t, Error> {
    // SAFETY: the caller's promise is ours.
    let attr = unsafe { attr_of(at)? };
    let least = offset_of!(squall_group_attr_t, owned) + size_of::<*mut c_void>();
    if (attr.size as usize) < least {
        let detail = format!(
            "attr: size {} is that of an older squall.h, without room for what is read: compile the \
             program with this one",
            attr.size
        );
        return Err(Error::new(Status::WrongSize, detail));
    }
    Ok(attr)
}

/// # Safety
/// As for `squall_group_attr_read`.
unsafe fn read(at: *mut squall_group_attr_t, path: *const c_char) -> Result<(), Error> {
    // SAFETY: the caller's promises are ours, here and below.
    let mut attr = unsafe { known(at)? };
    let mut base = Config::new("", 0, 1);
    // SAFETY: as above.
    (base.subgroups, base.transfer) = unsafe { (subgroups_of(&attr)?, options_of(attr.transfer)?) };
    // SAFETY: as above; the string lives until the call ends.
    let path = (!path.is_null()).then(|| unsafe { CStr::from_ptr(path) });
    let path = path.map(|path| Path::new(OsStr::from_bytes(path.to_bytes())));
    let settings = Settings::over(base, path, environment())?;
    let mut owned = Owned::default();
    plain(&mut attr, &settings, &mut owned)?;
    network(&mut attr, &settings, &mut owned)?;
    latest(&mut attr, &settings, &mut owned)?;
    // SAFETY: as above.
    unsafe { transfer(&mut attr, &settings, &mut owned)? };
    if settings.sets_subgroups() {
        for of in &settings.config.subgroups {
            let of = subgroup(of, &mut owned)?;
            owned.subgroups.push(of);
        }
        attr.subgroup_count = owned.subgroups.len() as u32;
        attr.subgroups = match owned.subgroups.is_empty() {
            true => std::ptr::null(),
            false => owned.subgroups.as_ptr(),
        };
    }
    if !attr.owned.is_null() {
        // SAFETY: an earlier `read` has made it so, and it has not been freed.
        owned.before = Some(unsafe { Box::from_raw(attr.owned.cast()) });
    }
    attr.owned = Box::into_raw(Box::new(owned)).cast();
    // SAFETY: the caller's struct has at least as many bytes as are known here, or `known` had
    // refused it; a longer one ends in zeros.
    unsafe {
        let bytes = (attr.size as usize).min(size_of::<squall_group_attr_t>());
        std::ptr::copy_nonoverlapping((&raw const attr).cast::<u8>(), at.cast(), bytes);
    }
    Ok(())
}

impl Owned {
    /// A string that lives as long as this.
    fn text(&mut self, text: &str, key: &str) -> Result<*const c_char, Error> {
        let Ok(text) = CString::new(text) else {
            return invalid(format!("{key}: {text:?} has a zero byte in it"));
        };
        self.texts.push(text);
        Ok(self.texts[self.texts.len() - 1].as_ptr())
    }

    /// The same; NULL for none.
    fn list(&mut self, list: &[String], key: &str) -> Result<*const c_char, Error> {
        match list {
            [] => Ok(std::ptr::null()),
            // Parted there, it would be two: of users, say, two that nobody has named.
            list if list.iter().any(|text| text.contains(',')) => {
                invalid(format!("{key}: {list:?}: no part may have a comma in it"))
            }
            list => self.text(&list.join(","), key),
        }
    }

    fn ranks(&mut self, ranks: &[u16]) -> *const u16 {
        self.ranks.push(ranks.to_vec());
        self.ranks[self.ranks.len() - 1].as_ptr() // not NULL, also if there are none
    }
}

/// At least 1, since 0 is the default.
fn milliseconds(time: Duration) -> u32 {
    time.as_millis().clamp(1, u128::from(u32::MAX - 1)) as u32
}

/// Fields of one host.
fn plain(
    attr: &mut squall_group_attr_t,
    settings: &Settings,
    owned: &mut Owned,
) -> Result<(), Error> {
    let (config, is_set) = (&settings.config, |key| settings.is_set(key));
    if is_set("group") {
        attr.name = owned.text(&config.group, "group")?;
    }
    if is_set("rank") {
        attr.rank = config.rank.into();
    }
    if is_set("members") {
        attr.members = config.members.into();
    }
    if is_set("membership") {
        attr.membership = match config.membership {
            Changes::Fixed => SQUALL_MEMBERSHIP_FIXED,
            Changes::Views => SQUALL_MEMBERSHIP_VIEWS,
        };
    }
    if is_set("idle") {
        attr.idle = match config.idle {
            Idle::Park => SQUALL_IDLE_PARK,
            Idle::Yield => SQUALL_IDLE_YIELD,
            Idle::Spin => SQUALL_IDLE_SPIN,
        };
    }
    if let Some(core) = settings.core {
        attr.core = core as u32;
        attr.flags |= SQUALL_FLAG_PIN;
    }
    if is_set("open_timeout") {
        attr.open_timeout_ms = milliseconds(config.open_timeout);
    }
    if is_set("liveness_every") {
        attr.liveness_every_ns = config.liveness_every_ns.max(1);
    }
    if is_set("suspicion") {
        attr.suspicion_ms = match config.suspicion_ns {
            0 => SQUALL_SUSPICION_NEVER,
            time => milliseconds(Duration::from_nanos(time)),
        };
    }
    if is_set("join") {
        put(&mut attr.flags, SQUALL_FLAG_JOIN, config.join);
    }
    if is_set("tie_break") {
        put(&mut attr.flags, SQUALL_FLAG_TIE_BREAK, config.tie_break);
    }
    let (lock, huge) = (is_set("lock"), is_set("huge_pages"));
    if (lock || huge) && attr.flags & SQUALL_FLAG_REQUIRE != 0 {
        let asked = |flag: u32| attr.flags & flag != 0;
        let (locks, are_huge) = (asked(SQUALL_FLAG_LOCK), asked(SQUALL_FLAG_HUGE));
        put(&mut attr.flags, SQUALL_FLAG_REQUIRE, false);
        put(&mut attr.flags, SQUALL_FLAG_REQUIRE_LOCK, locks);
        put(&mut attr.flags, SQUALL_FLAG_REQUIRE_HUGE, are_huge);
    }
    if lock {
        put(&mut attr.flags, SQUALL_FLAG_LOCK, config.lock != Want::No);
        put(&mut attr.flags, SQUALL_FLAG_REQUIRE_LOCK, config.lock == Want::Require);
    }
    if huge {
        put(&mut attr.flags, SQUALL_FLAG_HUGE, config.huge != Want::No);
        put(&mut attr.flags, SQUALL_FLAG_REQUIRE_HUGE, config.huge == Want::Require);
    }
    Ok(())
}

fn put(flags: &mut u32, flag: u32, on: bool) {
    *flags = if on { *flags | flag } else { *flags & !flag };
}

/// Fields of several hosts.
fn network(
    attr: &mut squall_group_attr_t,
    settings: &Settings,
    owned: &mut Owned,
) -> Result<(), Error> {
    let (network, is_set) = (&settings.config.network, |key| settings.is_set(key));
    if is_set("fabric") {
        attr.fabric = match network.carrier {
            Carrier::Shm => SQUALL_FABRIC_SHM,
            Carrier::Tcp => SQUALL_FABRIC_TCP,
            Carrier::Auto => SQUALL_FABRIC_AUTO,
            Carrier::Verbs => SQUALL_FABRIC_VERBS,
            Carrier::ShmVerbs => SQUALL_FABRIC_SHM_VERBS,
        };
        if attr.fabric != SQUALL_FABRIC_SHM {
            attr.membership = SQUALL_MEMBERSHIP_VIEWS;
        }
    }
    if is_set("launcher") {
        attr.launcher = match settings.launcher {
            Launcher::None => SQUALL_LAUNCHER_NONE,
            Launcher::Slurm => SQUALL_LAUNCHER_SLURM,
        };
    }
    let lists = [
        (&mut attr.listen, &network.listen, "network.listen"),
        (&mut attr.founders, &network.founders, "network.founders"),
        (&mut attr.contacts, &network.contacts, "network.contacts"),
    ];
    for (field, list, key) in lists {
        if is_set(key) {
            *field = owned.list(list, key)?;
        }
    }
    if is_set("network.advertise") {
        attr.advertise = owned.text(&network.advertise, "network.advertise")?;
    }
    if is_set("network.trusted_network") {
        put(&mut attr.flags, SQUALL_FLAG_TRUSTED_NETWORK, network.trusted);
    }
    match &network.secret {
        Some(SecretFrom::File(file)) => {
            attr.secret_file = owned.text(&file.to_string_lossy(), "network.secret_file")?;
            put(&mut attr.flags, SQUALL_FLAG_SECRET_FD, false);
            attr.secret_fd = 0;
        }
        Some(SecretFrom::Descriptor(number)) => {
            attr.secret_file = std::ptr::null();
            put(&mut attr.flags, SQUALL_FLAG_SECRET_FD, true);
            attr.secret_fd = *number;
        }
        None => {}
    }
    Ok(())
}

/// Fields behind `owned`, which a struct of an older header may lack: what is set is not passed over.
fn latest(
    attr: &mut squall_group_attr_t,
    settings: &Settings,
    owned: &mut Owned,
) -> Result<(), Error> {
    let (peers, size) = (&settings.config.peers, attr.size);
    let is_set = |key: &str, offset: usize| match settings.is_set(key) {
        true if (size as usize) < offset + size_of::<*const c_char>() => {
            let detail = format!(
                "`{key}` is set, and attr: size {size} is that of an older squall.h, without its field: \
                 compile the program with this one"
            );
            Err(Error::new(Status::WrongSize, detail))
        }
        set => Ok(set),
    };
    if is_set("peers.users", offset_of!(squall_group_attr_t, peers_users))? {
        attr.peers_users = owned.list(&peers.users, "peers.users")?;
    }
    if is_set("peers.group", offset_of!(squall_group_attr_t, peers_group))? {
        attr.peers_group = owned.text(&peers.group, "peers.group")?;
    }
    if is_set("peers.directory", offset_of!(squall_group_attr_t, peers_directory))? {
        let directory = peers.directory.to_string_lossy();
        attr.peers_directory = owned.text(&directory, "peers.directory")?;
    }
    if is_set("network.host", offset_of!(squall_group_attr_t, host))? {
        attr.host = owned.text(&settings.config.network.host, "network.host")?;
    }
    let mut rdma = false;
    for key in ["device", "port", "gid_index", "mtu", "timeout", "retry"] {
        rdma |= is_set(&format!("rdma.{key}"), offset_of!(squall_group_attr_t, rdma))?;
    }
    for key in ["traffic_class", "service_level"] {
        rdma |= is_set(&format!("rdma.{key}"), offset_of!(squall_group_attr_t, rdma))?;
    }
    if rdma {
        attr.rdma = owned.text(&settings.config.network.rdma.text(), "rdma")?;
    }
    Ok(())
}

/// What a transfer may take: over what the program has said.
///
/// # Safety
/// As for `squall_group_attr_read`.
unsafe fn transfer(
    attr: &mut squall_group_attr_t,
    settings: &Settings,
    owned: &mut Owned,
) -> Result<(), Error> {
    let (options, is_set) = (&settings.config.transfer, |key: &str| settings.is_set(key));
    let keys = ["catchup", "catchup_max", "restarts_max", "patience"];
    if !keys.iter().any(|key| is_set(&format!("transfer.{key}"))) {
        return Ok(());
    }
    // SAFETY: the caller's promise is ours.
    let mut all = unsafe { transfer_of(attr.transfer)? };
    if is_set("transfer.catchup") {
        all.catchup_bytes = options.catchup_bytes as u64;
    }
    if is_set("transfer.catchup_max") {
        all.catchup_bytes_max = options.catchup_bytes_max as u64;
    }
    if is_set("transfer.restarts_max") {
        all.restarts_max =
            if options.restarts_max == 0 { SQUALL_RESTARTS_NONE } else { options.restarts_max };
    }
    if is_set("transfer.patience") {
        all.patience_ms = milliseconds(options.patience);
    }
    attr.transfer = &raw const **owned.transfer.insert(Box::new(all));
    Ok(())
}

fn subgroup(of: &SubgroupConfig, owned: &mut Owned) -> Result<squall_subgroup_attr_t, Error> {
    // SAFETY: zero is a value of every field.
    let mut attr: squall_subgroup_attr_t = unsafe { fresh() };
    attr.mode = if of.mode == Mode::Stable { SQUALL_MODE_STABLE } else { SQUALL_MODE_RECEIVED };
    if !of.members.is_empty() {
        (attr.members, attr.member_count) = (owned.ranks(&of.members), of.members.len() as u32);
    }
    if let Some(senders) = &of.senders {
        (attr.senders, attr.sender_count) = (owned.ranks(senders), senders.len() as u32);
    }
    attr.lanes = of.lanes.into();
    attr.window = of.window;
    attr.message_bytes_max = of.message_bytes_max;
    attr.window_bytes = of.window_bytes;
    attr.shards = of.shards.count.into();
    attr.shard_members_min = of.shards.members_min.into();
    attr.shard_members_max = of.shards.members_max.into();
    attr.senders_first = of.senders_first.into();
    let ms = |after_ns: u64| milliseconds(Duration::from_nanos(after_ns));
    (attr.lag, attr.lag_ms) = match of.lag {
        Lag::Wait => (SQUALL_LAG_WAIT, 0),
        Lag::Report { after_ns } => (SQUALL_LAG_REPORT, ms(after_ns)),
        Lag::Evict { after_ns } => (SQUALL_LAG_EVICT, ms(after_ns)),
    };
    if !of.name.is_empty() {
        attr.name = owned.text(&of.name, "subgroup.name")?;
    }
    Ok(attr)
}
