// SPDX-License-Identifier: MIT OR Apache-2.0
//! Facts of this machine that belong beside every figure.

use serde_json::{Value, json};
use squall::driver::config::Config;
use squall::driver::near_identity;
use squall::error::Error;
use std::fs;

/// The first line of a file, trimmed; `None`: there is no such file, or it is empty.
pub fn read(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_string())
}

/// A field of `/proc/cpuinfo` or `/proc/meminfo`, where it first occurs.
pub fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let value = |line: &str| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_string())
    };
    text.lines().find_map(value)
}

pub fn kernel() -> String {
    read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "of unknown version".into())
}

pub fn processor() -> String {
    field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.into())
}

/// How many cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get())
}

/// The host's name, as it calls itself.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The same for processes that meet over shared memory: one boot, one place.
pub fn network_place(config: &Config) -> Result<String, Error> {
    let boot = read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Ok(format!("{boot} {}", near_identity(config)?))
}

pub fn line() -> String {
    let cores = cores();
    let version = env!("CARGO_PKG_VERSION");
    format!("squall {version} on {}, {cores} cores, Linux {}", processor(), kernel())
}

pub fn json() -> Value {
    json!({
        "squall": env!("CARGO_PKG_VERSION"),
        "processor": processor(),
        "cores": cores(),
        "kernel": kernel(),
        "architecture": std::env::consts::ARCH,
    })
}
