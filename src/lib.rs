// SPDX-License-Identifier: MIT OR Apache-2.0
#![doc = include_str!("ARCHITECTURE.md")]

// Modules from the bottom to the top; a module names only modules of a lower level (`tidy`).
// Their paths lead through `src/..`, so that a panic of ours is told from one of a host that has a
// `src` of its own, whichever way the two were compiled (`capi::bug`).

// Level 0
#[forbid(unsafe_code)]
#[path = "../src/base.rs"]
pub mod base;
#[forbid(unsafe_code)]
#[path = "../src/error.rs"]
pub mod error;
#[forbid(unsafe_code)]
#[path = "../src/limits.rs"]
pub mod limits;
#[doc(hidden)]
#[forbid(unsafe_code)]
#[path = "../src/log_sink.rs"]
pub mod log_sink;
#[doc(hidden)]
#[forbid(unsafe_code)]
#[path = "../src/mutants.rs"]
pub mod mutants;

// Level 1
#[path = "../src/mem/mod.rs"]
pub mod mem;

// Level 2
#[cfg(not(loom))]
#[forbid(unsafe_code)]
#[path = "../src/registered/mod.rs"]
pub mod registered;
#[forbid(unsafe_code)]
#[path = "../src/sst/mod.rs"]
pub mod sst;

// Level 3
#[cfg(not(loom))]
#[path = "../src/fabric/mod.rs"]
pub mod fabric;
#[forbid(unsafe_code)]
#[path = "../src/group/mod.rs"]
pub mod group;
#[cfg(not(loom))]
#[forbid(unsafe_code)]
#[path = "../src/log/mod.rs"]
pub mod log;
#[forbid(unsafe_code)]
#[path = "../src/transfer/mod.rs"]
pub mod transfer;

// Level 4
#[cfg(not(loom))]
#[forbid(unsafe_code)]
#[path = "../src/driver/mod.rs"]
pub mod driver;
#[cfg(not(loom))]
#[forbid(unsafe_code)]
#[path = "../src/sim/mod.rs"]
pub mod sim;

// Level 5
#[cfg(not(loom))]
#[path = "../src/capi/mod.rs"]
pub mod capi;
#[cfg(all(feature = "settings", not(loom)))]
#[forbid(unsafe_code)]
#[path = "../src/settings/mod.rs"]
pub mod settings;
#[cfg(all(not(feature = "settings"), not(loom)))]
#[forbid(unsafe_code)]
#[path = "../src/settings/absent.rs"]
pub mod settings;

#[cfg(all(test, not(loom)))]
mod tidy;
