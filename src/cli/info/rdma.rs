// SPDX-License-Identifier: MIT OR Apache-2.0
//! What this machine offers for RDMA: the library, the ports, and whether the one that would be used
//! keeps its writes in order, which is tried.

use super::{Line, names_in};
use squall::fabric::verbs::device::{self, Device};
use squall::fabric::verbs::gid::{Choice, Found, State};
use squall::fabric::verbs::ordering::{self, Verdict};
use squall::fabric::verbs::sys::Table;
use squall::mem::cuda::Cuda;
use std::sync::Arc;

const NOT_NEEDED: &str = "not needed: without RDMA members of several hosts meet over TCP";

pub fn lines() -> Vec<Line> {
    let devices = names_in("/sys/class/infiniband");
    let table = match Table::load() {
        Ok(table) => table,
        Err(missing) if devices.is_empty() => {
            let found = format!("no device; {missing}");
            return vec![Line::note("RDMA", found, NOT_NEEDED)];
        }
        Err(missing) => {
            let found = format!("{}, but no library for it", devices.join(", "));
            return vec![Line::lack("RDMA", found, missing.to_string())];
        }
    };
    let library = library(&table);
    match device::list(&table) {
        Ok(found) if found.is_empty() => {
            vec![library, Line::note("RDMA", "no device", NOT_NEEDED)]
        }
        Ok(found) => {
            let ports = found.iter().map(port);
            std::iter::once(library).chain(ports).chain(used(&table)).collect()
        }
        Err(refused) if devices.is_empty() => {
            vec![library, Line::note("RDMA", refused.to_string(), NOT_NEEDED)]
        }
        Err(refused) => vec![library, Line::lack("RDMA", devices.join(", "), refused.to_string())],
    }
}

/// Whether memory of CUDA devices can be registered.
pub fn accelerators() -> Line {
    match Cuda::get() {
        Ok(_) => Line::ok("CUDA", "libcuda: memory of its devices can be registered"),
        Err(missing) => Line::note(
            "CUDA",
            missing.to_string(),
            "not needed but to register memory of CUDA devices",
        ),
    }
}

fn library(table: &Table) -> Line {
    let known = |there: bool, what: &'static str| if there { what } else { "" };
    let more = [
        known(table.qp_to_qp_ex.is_some(), "calls by work request"),
        known(table.reg_dmabuf_mr.is_some(), "dma-buf"),
        known(table.query_qp_data_in_order.is_some(), "order of bytes"),
    ];
    let more: Vec<&str> = more.into_iter().filter(|what| !what.is_empty()).collect();
    Line::ok("RDMA library", format!("libibverbs.so.1 with {}", more.join(", ")))
}

fn port(found: &Found) -> Line {
    let gids: Vec<String> =
        found.gids.iter().map(|entry| format!("{} {}", entry.index, entry.gid)).collect();
    let gids = if gids.is_empty() { "none".into() } else { gids.join(", ") };
    let text = format!("{}; firmware {:?}; GIDs: {gids}", found.line(), found.firmware);
    let name = format!("RDMA {}", found.device);
    match found.state {
        State::Active => Line::ok(name, text),
        State::Waits => Line::note(name, text, "a subnet manager must configure it (opensm)"),
        State::Down => {
            Line::note(name, text, "bring its link up: `ip link set DEVICE up`, cable, switch")
        }
    }
}

/// The port that is taken where none is named, and its order.
fn used(table: &Arc<Table>) -> Vec<Line> {
    let device = match Device::open(table, &Choice::default()) {
        Ok(device) => device,
        Err(refused) => return vec![Line::note("RDMA port", "none", refused.to_string())],
    };
    let mut lines = vec![Line::ok("RDMA port", format!("by default {}", device.line()))];
    if !device.survives_fork() {
        lines.push(Line::note(
            "RDMA and fork",
            "this kernel moves registered pages when a process forks",
            "Linux 5.12 or newer, or RDMAV_FORK_SAFE=1 in programs that fork while they are members",
        ));
    }
    lines.push(match ordering::check(&device) {
        Ok(Verdict::Holds { rounds, bytes_in_order }) => {
            let bytes = match bytes_in_order {
                Some(true) => "; the bytes of each write, too",
                _ => "",
            };
            Line::ok("RDMA order", format!("{rounds} counters came after their data{bytes}"))
        }
        Ok(Verdict::Breaks(what)) => {
            Line::lack("RDMA order", what, "another device; or adaptive routing off for this one")
        }
        Ok(Verdict::Untried(why)) => {
            Line::note("RDMA order", format!("not tried: {why}"), "its port should reach itself")
        }
        Err(refused) => {
            let remedy = "what a member needs of a device is not there";
            Line::lack("RDMA order", refused.to_string(), remedy)
        }
    });
    lines
}
