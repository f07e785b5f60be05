// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every key there is: its name, what it means, its default, and where its value goes.

use super::value::{Value, Wanted, callable};
use super::{Launcher, Settings};
use crate::driver::config::{Changes, Idle, SubgroupConfig, is_name};
use crate::driver::network::{Carrier, HOST_BYTES_MAX, SecretFrom, is_host};
use crate::group::detector::lag::Lag;
use crate::limits::*;
use crate::mem::region::Want;
use crate::sst::layout::Mode;
use std::time::Duration;

pub type Subgroup = SubgroupConfig;

pub struct Key<T> {
    /// As in `section.name`.
    pub name: &'static str,
    /// With its unit.
    pub help: &'static str,
    /// As TOML.
    pub default: &'static str,
    /// Whether the example sets it, and does not only name it.
    pub is_set: bool,
    pub set: fn(&mut T, Value) -> Wanted<()>,
}

const WANTS: [&str; 3] = ["no", "try", "require"];

fn want(value: Value) -> Wanted<Want> {
    Ok([Want::No, Want::Try, Want::Require][value.choice(&WANTS)?])
}

fn nanoseconds(time: Duration) -> Wanted<u64> {
    u64::try_from(time.as_nanos()).map_err(|_| "that is more than five hundred years".into())
}

/// Milliseconds that are whole, so that programs in C and in Rust can say the same.
fn whole(time: Duration) -> Wanted<Duration> {
    let millis = time.as_millis();
    match Duration::from_millis(millis as u64) == time && millis < u128::from(u32::MAX) {
        true => Ok(time),
        false => Err(format!("{time:?} must be whole milliseconds, less than {}", u32::MAX)),
    }
}

/// Within these bounds, for a sentence.
fn span(least_ns: u64, most_ns: u64) -> String {
    let [least, most] =
        [least_ns, most_ns].map(|ns| humantime::format_duration(Duration::from_nanos(ns)));
    format!("{least} to {most}")
}

fn group(text: String) -> Wanted<String> {
    match is_name(&text) {
        true => Ok(text),
        false => {
            Err(format!("{text:?} must be 1 to {NAME_BYTES_MAX} letters, digits, '-', '_' or '.'"))
        }
    }
}

fn host(text: String) -> Wanted<String> {
    match is_host(&text) {
        true => Ok(text),
        false => Err(format!(
            "{text:?} must be at most {HOST_BYTES_MAX} letters, digits, '-', '_' or '.'"
        )),
    }
}

fn suspicion(value: Value) -> Wanted<u64> {
    let shown = value.to_string();
    let ns = nanoseconds(whole(value.time()?)?)?;
    match ns == 0 || (SUSPICION_NS_MIN..=SUSPICION_NS_MAX).contains(&ns) {
        true => Ok(ns),
        false => {
            let span = span(SUSPICION_NS_MIN, SUSPICION_NS_MAX);
            Err(format!("{shown} must be {span}, or \"0s\""))
        }
    }
}

const MEMBERS: u64 = MEMBERS_MAX as u64;

macro_rules! keys {
    ($of:ty: $($name:literal = $default:literal $($is_set:ident)?, $help:literal,
        |$settings:ident, $value:ident| $set:expr;)*) => {
        &[$(Key {
            name: $name,
            help: $help,
            default: $default,
            is_set: keys!(@ $($is_set)?),
            set: |$settings: &mut $of, $value| {
                $set;
                Ok(())
            },
        }),*]
    };
    (@) => { false };
    (@ set) => { true };
}

/// Keys outside `[[subgroup]]`; those of a section adjoin.
pub const ALL: &[Key<Settings>] = keys!(Settings:
    "group" = "\"demo\"" set, "Name of the group: letters, digits, '-', '_', '.'. No default.",
        |s, v| s.config.group = group(v.text()?)?;
    "rank" = "0" set, "Which of the first members this is, from 0.",
        |s, v| s.config.rank = v.number(0, MEMBERS - 1)? as u16;
    "members" = "1" set, "How many members the group begins with.",
        |s, v| s.config.members = v.number(1, MEMBERS)? as u16;
    "membership" = "\"fixed\"",
        "\"fixed\": the first loss ends the group. \"views\": the others go on while they are a majority.
         Across hosts it is \"views\".",
        |s, v| s.config.membership =
            [Changes::Fixed, Changes::Views][v.choice(&["fixed", "views"])?];
    "join" = "false", "Join a group that runs, instead of founding one; with membership = \"views\".",
        |s, v| s.config.join = v.switch()?;
    "fabric" = "\"shm\"",
        "\"shm\": shared memory, all members on one host. \"tcp\": TCP, on one host, too. \"auto\": shared
         memory within a host, TCP between hosts. \"verbs\": RDMA (InfiniBand, RoCE), on one host, too.
         \"shm+verbs\": shared memory within a host, RDMA between hosts.",
        |s, v| s.config.network.carrier = Carrier::ALL[v.choice(&Carrier::NAMES)?];
    "launcher" = "\"none\"",
        "\"slurm\": rank, members and addresses are those of the job step (SLURM_PROCID and others).",
        |s, v| s.launcher = [Launcher::None, Launcher::Slurm][v.choice(&["none", "slurm"])?];
    "idle" = "\"park\"",
        "What the polling thread does when there is nothing to do: \"spin\", \"yield\" its core, or \"park\".",
        |s, v| s.config.idle =
            [Idle::Spin, Idle::Yield, Idle::Park][v.choice(&["spin", "yield", "park"])?];
    "core" = "0", "Core of the polling thread; no default: wherever the system puts it.",
        |s, v| s.core = Some(v.number(0, 4095)? as usize);
    "lock" = "\"no\"", "Lock the shared pages in memory: \"no\", \"try\", \"require\".",
        |s, v| s.config.lock = want(v)?;
    "huge_pages" = "\"no\"", "Pages of 2 MiB: \"no\", \"try\", \"require\".",
        |s, v| s.config.huge = want(v)?;
    "open_timeout" = "\"60s\"", "How long opening waits for the other members.",
        |s, v| s.config.open_timeout = whole(v.time()?)?;
    "liveness_every" = "\"10ms\"", "How often a busy turn looks at connections.",
        |s, v| s.config.liveness_every_ns = nanoseconds(v.time()?)?;
    "suspicion" = "\"1s\"",
        "How long a member may be silent before it is suspected; the same at all members. \"0s\": for ever.",
        |s, v| s.config.suspicion_ns = suspicion(v)?;
    "tie_break" = "false",
        "With membership = \"views\": of two members the first goes on alone when it loses the other. Else
         neither is a majority, and both stop. Of three nobody can leave in good order then: closing is a
         failure to the others. The same at all members.",
        |s, v| s.config.tie_break = v.switch()?;
    "peers.users" = "[]",
        "Users whose processes may be members on this host, beside this process' own: names or numbers. Give
         all members the same list.",
        |s, v| s.config.peers.users = v.names()?;
    "peers.group" = "\"\"",
        "A unix group whose processes may be members, by name or number; this process must be of it. \"\":
         none.",
        |s, v| s.config.peers.group = v.name()?;
    "peers.directory" = "\"\"",
        "A directory in which members on this host find each other, for containers that share a volume and
         no network; the same for all members, who can read and write it. \"\": none, abstract names.",
        |s, v| s.config.peers.directory = v.text()?.into();
    "network.host" = "\"\"",
        "Parts a machine: members with another name here are on another host, and meet over TCP though
         they could share memory (other users' containers, say). Letters, digits, '-', '_', '.'.",
        |s, v| s.config.network.host = host(v.text()?)?;
    "network.listen" = "[]",
        "Addresses to listen on, HOST:PORT, of an interface or of all (\"*:7471\"). []: all, and the port
         that `founders` says, else 7471.",
        |s, v| s.config.network.listen = v.listeners()?;
    "network.advertise" = "\"\"",
        "The address that others reach this member by, HOST:PORT; \"\": as they see it.",
        |s, v| {
            let text = v.text()?;
            if !text.is_empty() {
                callable(&text)?;
            }
            s.config.network.advertise = text;
        };
    "network.founders" = "[]",
        "Addresses of the first members, by rank: [\"10.0.0.1:7471\", \"node2:7471\"].",
        |s, v| s.config.network.founders = v.addresses()?;
    "network.contacts" = "[]",
        "With join: members, any of which will do; a name may have several addresses. []: `founders`.
         Who founds the group needs none.",
        |s, v| s.config.network.contacts = v.addresses()?;
    "network.secret_file" = "\"/etc/squall/secret\"",
        "A file that only its owner may read: what it holds proves who belongs to the group. No default.",
        |s, v| {
            let file = v.text()?;
            s.config.network.secret = Some(SecretFrom::File(file.into()));
        };
    "network.secret_fd" = "3", "The same from an open descriptor. No default.",
        |s, v| {
            let descriptor = v.number(0, i32::MAX as u64)? as i32;
            s.config.network.secret = Some(SecretFrom::Descriptor(descriptor));
        };
    "network.trusted_network" = "false",
        "true: nothing is authenticated, and whoever reaches a port is believed.",
        |s, v| s.config.network.trusted = v.switch()?;
    "rdma.device" = "\"mlx5_0\"",
        "With RDMA: this host's device, as `squall info` names it. No default: the one whose address is
         listened on, else one near this process, else the first.",
        |s, v| s.config.network.rdma.choice.device = Some(v.text()?);
    "rdma.port" = "1", "Its port. No default: the first one that is active.",
        |s, v| s.config.network.rdma.choice.port = Some(v.number(1, 255)? as u8);
    "rdma.gid_index" = "3",
        "Which of the port's GIDs. No default: of RoCE version 2, one of an IPv4 address if there is one.",
        |s, v| s.config.network.rdma.choice.gid_index = Some(v.number(0, 65535)? as u32);
    "rdma.mtu" = "4096", "Bytes of a packet at the most. No default: what both ports have in common.",
        |s, v| s.config.network.rdma.manner.mtu_bytes = Some(v.number(256, 4096)? as u32);
    "rdma.timeout" = "14",
        "How long a device waits for an answer before it sends again: 4.096 us times 2 to this power.",
        |s, v| s.config.network.rdma.manner.timeout = v.number(1, 31)? as u8;
    "rdma.retry" = "6", "How often it sends again before the member at the other end counts as failed.",
        |s, v| s.config.network.rdma.manner.retry = v.number(0, 6)? as u8;
    "rdma.traffic_class" = "0", "Of RoCE packets: the byte with DSCP and ECN.",
        |s, v| s.config.network.rdma.manner.traffic_class = v.number(0, 255)? as u8;
    "rdma.service_level" = "0", "Of InfiniBand packets; of RoCE ones the priority, where there is one.",
        |s, v| s.config.network.rdma.manner.service_level = v.number(0, 15)? as u8;
    "transfer.catchup" = "\"64MiB\"",
        "Bytes kept for one that joins while it loads the state; a power of two.",
        |s, v| s.config.transfer.catchup_bytes = v.bytes(4096, 1 << 34)? as usize;
    "transfer.catchup_max" = "\"256MiB\"", "The same after the transfer has started over.",
        |s, v| s.config.transfer.catchup_bytes_max = v.bytes(4096, 1 << 34)? as usize;
    "transfer.restarts_max" = "3", "How often a transfer may start over.",
        |s, v| s.config.transfer.restarts_max = v.number(0, 1000)? as u32;
    "transfer.patience" = "\"30s\"", "How long the other side of a transfer may stand still.",
        |s, v| s.config.transfer.patience = whole(v.time()?)?;
);

/// Keys of a `[[subgroup]]`.
pub const SUBGROUP: &[Key<Subgroup>] = keys!(Subgroup:
    "name" = "\"\"", "Its name; no two are the same.", |s, v| s.name = v.text()?;
    "members" = "[]", "Ranks of its members; []: all.", |s, v| s.members = v.ranks()?;
    "senders" = "[0, 1]", "Ranks of those who may send; no default: all its members.",
        |s, v| s.senders = Some(v.ranks()?);
    "senders_first" = "0",
        "Only the first so many to arrive in a shard send; not with `senders`. 0: no bound.",
        |s, v| s.senders_first = v.number(0, MEMBERS)? as u16;
    "lanes" = "1", "Sending threads of each sender.",
        |s, v| s.lanes = v.number(1, LANES_MAX as u64)? as u16;
    "mode" = "\"stable\"",
        "\"stable\": one order, once all have it. \"received\": in each sender's order, on receipt.",
        |s, v| s.mode = [Mode::Stable, Mode::Received][v.choice(&["stable", "received"])?];
    "window" = "4096", "Messages of one sender that may be on their way.",
        |s, v| s.window = v.number(1, WINDOW_MAX)? as u32;
    "window_bytes" = "0", "Bytes of one sender that may be on their way; 0: chosen from the others.",
        |s, v| s.window_bytes = v.bytes(0, RING_BYTES_MAX)?;
    "message_bytes_max" = "\"1MiB\"", "Bytes of the largest message.",
        |s, v| s.message_bytes_max = v.bytes(1, MESSAGE_BYTES_MAX)? as u32;
    "shards" = "1", "How many streams of their own its members are parted into.",
        |s, v| s.shards.count = v.number(1, SUBGROUPS_MAX as u64)? as u16;
    "members_min" = "0", "Members that each shard needs.",
        |s, v| s.shards.members_min = v.number(0, MEMBERS)? as u16;
    "members_max" = "0", "Members of each shard at the most; 0: no bound.",
        |s, v| s.shards.members_max = v.number(0, MEMBERS)? as u16;
    "lag" = "\"wait\"",
        "What is done about a member that senders wait for: \"wait\", \"report:TIME\", \"evict:TIME\".",
        |s, v| s.lag = lag(&v.text()?)?;
);

fn lag(text: &str) -> Wanted<Lag> {
    let (what, time) = text.split_once(':').unwrap_or((text, ""));
    let after_ns = || {
        let ns = nanoseconds(whole(Value::Text(time.into()).time()?)?)?;
        let fits = (LAG_NS_MIN..=SUSPICION_NS_MAX).contains(&ns);
        let why = || format!("{text:?} must be after {}", span(LAG_NS_MIN, SUSPICION_NS_MAX));
        fits.then_some(ns).ok_or_else(why)
    };
    match (what, time) {
        ("wait", "") => Ok(Lag::Wait),
        ("report", _) => Ok(Lag::Report { after_ns: after_ns()? }),
        ("evict", _) => Ok(Lag::Evict { after_ns: after_ns()? }),
        _ => Err(format!("{text:?} must be \"wait\", \"report:TIME\" or \"evict:TIME\"")),
    }
}
