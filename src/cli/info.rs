// SPDX-License-Identifier: MIT OR Apache-2.0
//! `squall info`: what this machine offers for Squall, what it lacks, and the remedy for each lack.
//! What can be tried is tried; what cannot is read from the kernel's files. With a configuration file also
//! what its network comes to.

mod links;
mod network;
mod rdma;

use crate::failure::Failure;
use crate::machine::{self, field, read};
use crate::text::{bytes_text, new_table, say, time_text};
use clap::Args;
use comfy_table::ContentArrangement;
use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};
use squall::driver::config::Config;
use squall::mem::Region;
use squall::mem::region::{Want, memlock_limit};
use std::fs;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  squall info
  squall info --config demo.toml   where this member would listen, what names mean, who answers
  squall info --json | jq '.[] | select(.state != \"ok\")'

States: ok; note: works, could be faster or more; LACK: something that Squall can use is missing.
The exit status is 0 unless shared memory itself does not work.";

/// What this machine offers and lacks for Squall, with the remedies.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// A configuration file: try the network as its member would use it. Nothing is opened or joined
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Ok,
    Note,
    Lack,
}

struct Line {
    name: String,
    state: State,
    found: String,
    remedy: String,
}

impl Line {
    fn ok(name: impl Into<String>, found: impl Into<String>) -> Line {
        Line { name: name.into(), state: State::Ok, found: found.into(), remedy: String::new() }
    }

    fn note(name: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Line {
        Line { name: name.into(), state: State::Note, found: found.into(), remedy: remedy.into() }
    }

    fn lack(name: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Line {
        Line { name: name.into(), state: State::Lack, found: found.into(), remedy: remedy.into() }
    }
}

pub fn run(options: &Options) -> Result<(), Failure> {
    let memory = shared_memory();
    let works = memory.state == State::Ok;
    let mut lines = vec![
        kernel(),
        cores(),
        isolation(),
        governor(),
        clock(),
        memory,
        memory_left(),
        locking(),
        huge_pages(),
        transparent_huge_pages(),
        nodes(),
        descriptors(),
        gpu(),
    ];
    lines.extend(rdma::lines());
    lines.push(rdma::accelerators());
    lines.extend(network::lines());
    if let Some(file) = &options.config {
        lines.extend(network::lines_of(file));
    }
    if options.json {
        let lines: Vec<Value> = lines.iter().map(line_json).collect();
        say(&format!("{:#}", Value::from(lines)))?;
    } else {
        say(&machine::line())?;
        say(&table(&lines))?;
    }
    match works {
        true => Ok(()),
        false => Err(Failure::Because("no group can be opened on this machine".into())),
    }
}

fn state_text(state: State) -> &'static str {
    match state {
        State::Ok => "ok",
        State::Note => "note",
        State::Lack => "LACK",
    }
}

fn line_json(line: &Line) -> Value {
    json!({
        "name": line.name,
        "state": state_text(line.state).to_ascii_lowercase(),
        "found": line.found,
        "remedy": line.remedy,
    })
}

fn table(lines: &[Line]) -> String {
    let mut table = new_table();
    table.set_content_arrangement(ContentArrangement::Dynamic);
    // A terminal that does not say how wide it is: a serial console has 0 columns.
    if table.width().is_none_or(|columns| columns < 40) {
        table.set_width(120);
    }
    table.set_header(["what", "", "found"]);
    for line in lines {
        table.add_row([line.name.as_str(), state_text(line.state), &line.found]);
    }
    format!("{table}{}", remedies(lines))
}

/// Each on a line of its own, however long: a command that a table breaks cannot be copied.
fn remedies(lines: &[Line]) -> String {
    let lines = lines.iter().filter(|line| !line.remedy.is_empty());
    lines.map(|line| format!("\n{}: {}", line.name, line.remedy)).collect()
}

fn kernel() -> Line {
    let version = machine::kernel();
    let mut parts = version.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let number = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    match number >= (5, 1) {
        true => Line::ok("kernel", format!("Linux {version}")),
        false => Line::lack(
            "kernel",
            format!("Linux {version}"),
            "Linux 5.1 or newer: older ones cannot seal memory against writing",
        ),
    }
}

fn cores() -> Line {
    let (mine, all) = (machine::cores(), read("/sys/devices/system/cpu/online"));
    let all = all.unwrap_or_else(|| "unknown".into());
    let found = format!("{mine} for this process; online: {all}; {}", machine::processor());
    match mine {
        1 => Line::note(
            "cores",
            found,
            "a spinning member needs a core of its own: with one core use --idle yield or park",
        ),
        _ => Line::ok("cores", found),
    }
}

fn isolation() -> Line {
    let isolated = read("/sys/devices/system/cpu/isolated");
    let quiet = read("/sys/devices/system/cpu/nohz_full").filter(|cores| cores != "(null)");
    match (isolated, quiet) {
        (Some(isolated), Some(quiet)) => {
            Line::ok("isolation", format!("isolcpus {isolated}, nohz_full {quiet}"))
        }
        (isolated, quiet) => Line::note(
            "isolation",
            format!(
                "isolcpus {}, nohz_full {}",
                isolated.unwrap_or_else(|| "none".into()),
                quiet.unwrap_or_else(|| "none".into())
            ),
            "for steady latencies boot with isolcpus= nohz_full= rcu_nocbs= the members' cores, and \
             pin them there",
        ),
    }
}

fn governor() -> Line {
    match read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") {
        None => Line::ok("frequency", "no governor here (a virtual machine, or fixed)"),
        Some(governor) if governor == "performance" => Line::ok("frequency", governor),
        Some(governor) => Line::note(
            "frequency",
            format!("governor {governor}"),
            "`cpupower frequency-set -g performance` while latency counts",
        ),
    }
}

fn clock() -> Line {
    let source = read("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let source = source.unwrap_or_else(|| "unknown".into());
    let cost = {
        let from = squall::driver::clock().0;
        let looks = 10_000;
        for _ in 0..looks {
            std::hint::black_box(squall::driver::clock());
        }
        (squall::driver::clock().0 - from) / looks
    };
    let found = format!("{source}, {} a look", time_text(cost));
    match ["tsc", "arch_sys_counter", "kvm-clock"].contains(&source.as_str()) && cost < 200 {
        true => Line::ok("clock", found),
        false => Line::note(
            "clock",
            found,
            "a look at the clock should not be a system call: boot with clocksource=tsc \
             tsc=reliable if the processor's counter is sound",
        ),
    }
}

/// Tries what `open` does: make, seal, map again.
fn shared_memory() -> Line {
    let tried = Region::share("squall-info", 1 << 20, Want::No, Want::No, &mut Vec::new())
        .and_then(|(own, descriptor)| {
            Region::seal(&descriptor)?;
            let peer = Region::map_peer(&descriptor, 1 << 20)?;
            own.cell(0).publish(7);
            Ok(peer.cell(0).observe())
        });
    match tried {
        Ok(7) => Line::ok("shared memory", "made, sealed, mapped twice, seen by the other map"),
        Ok(_) => Line::lack("shared memory", "a store was not seen", "report this as a bug"),
        Err(refused) => Line::lack(
            "shared memory",
            refused.to_string(),
            "allow memfd_create and sealing (seccomp, container profile)",
        ),
    }
}

/// Bytes of a default group of three, for one member.
fn need_bytes() -> u64 {
    let rings = Config::new("need", 0, 3).view().expect("the defaults are sound");
    rings.subgroups[0].shape.ring_bytes + (1 << 20)
}

fn memory_left() -> Line {
    let kib = field("/proc/meminfo", "MemAvailable");
    let kib = kib.and_then(|text| text.split(' ').next()?.parse::<u64>().ok()).unwrap_or(0);
    let (left, need) = (kib << 10, need_bytes());
    let found =
        format!("{} free; a member takes {} by default", bytes_text(left), bytes_text(need));
    match left > 16 * need {
        true => Line::ok("memory", found),
        false => Line::lack("memory", found, "smaller --window or largest message, or free memory"),
    }
}

fn locking() -> Line {
    let need = need_bytes();
    match memlock_limit() {
        None => Line::ok("locked memory", "no limit"),
        Some(limit) if limit >= need => {
            Line::ok("locked memory", format!("limit {}", bytes_text(limit)))
        }
        Some(limit) => Line::note(
            "locked memory",
            format!(
                "limit {}, a member with the defaults needs {}",
                bytes_text(limit),
                bytes_text(need)
            ),
            "only to keep pages from being swapped, and for RDMA: `ulimit -l unlimited`, or memlock \
             in /etc/security/limits.conf",
        ),
    }
}

fn huge_pages() -> Line {
    let pool = "/sys/kernel/mm/hugepages/hugepages-2048kB";
    let count = |name: &str| read(&format!("{pool}/{name}")).and_then(|n| n.parse::<u64>().ok());
    let pages = need_bytes().div_ceil(2 << 20) * 4;
    match (count("nr_hugepages"), count("free_hugepages")) {
        (Some(all), Some(free)) if free > 0 => {
            Line::ok("huge pages", format!("{free} of {all} free (2 MiB)"))
        }
        (Some(all), _) => Line::note(
            "huge pages",
            format!("0 of {all} free (2 MiB)"),
            format!("`sysctl vm.nr_hugepages={pages}` for groups that ask for them"),
        ),
        _ => Line::note("huge pages", "no pool of 2 MiB pages", "a kernel with CONFIG_HUGETLBFS"),
    }
}

fn transparent_huge_pages() -> Line {
    let chosen = |name: &str| {
        let text = read(&format!("/sys/kernel/mm/transparent_hugepage/{name}"))?;
        let (_, rest) = text.split_once('[')?;
        Some(rest.split_once(']')?.0.to_string())
    };
    let all = chosen("enabled").unwrap_or_else(|| "absent".into());
    let shared = chosen("shmem_enabled").unwrap_or_else(|| "absent".into());
    let found = format!("{all}; for shared memory {shared}");
    match ["always", "advise", "within_size", "force"].contains(&shared.as_str()) {
        true => Line::ok("transparent huge", found),
        false => Line::note(
            "transparent huge",
            found,
            "`echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled` lets large rings have \
             large pages",
        ),
    }
}

fn nodes() -> Line {
    let nodes = read("/sys/devices/system/node/online").unwrap_or_else(|| "0".into());
    match nodes == "0" {
        true => Line::ok("NUMA", "one node"),
        false => Line::note(
            "NUMA",
            format!("nodes {nodes}"),
            "keep the members of a group on one node: numactl --cpunodebind=0 --membind=0",
        ),
    }
}

fn descriptors() -> Line {
    let limit = getrlimit(Resource::Nofile).current;
    let most = squall::limits::MEMBERS_MAX as u64 * 3 + 64;
    let found = limit.map_or("no limit".into(), |limit| format!("limit {limit}"));
    match limit.is_none_or(|limit| limit >= most) {
        true => Line::ok("descriptors", found),
        false => Line::note(
            "descriptors",
            found,
            format!(
                "a group of {} members takes up to {most}: `ulimit -n 1024`",
                squall::limits::MEMBERS_MAX
            ),
        ),
    }
}

fn names_in(path: &str) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn gpu() -> Line {
    let cards = names_in("/proc/driver/nvidia/gpus");
    let amd = names_in("/sys/class/kfd/kfd/topology/nodes");
    match (cards.len(), amd.len()) {
        (0, 0..=1) => Line::ok("GPU", "none (nothing in Squall needs one)"),
        (0, _) => Line::ok("GPU", "an AMD device"),
        (count, _) => {
            let peer = fs::metadata("/sys/module/nvidia_peermem").is_ok();
            let peer = if peer { "with nvidia_peermem" } else { "without nvidia_peermem" };
            Line::ok("GPU", format!("{count} NVIDIA, {peer}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_in_one_piece() {
        let remedy =
            format!("`echo advise > /sys/{}` lets rings have large pages", "long/".repeat(40));
        let lines = [Line::ok("clock", "tsc"), Line::note("huge", "x ".repeat(200), &remedy)];
        let text = table(&lines);
        assert!(text.ends_with(&format!("\nhuge: {remedy}")), "{text}");
        assert!(!text.contains("\nclock: "), "what is well needs no remedy");
    }
}
