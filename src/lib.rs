// SPDX-License-Identifier: MIT OR Apache-2.0
#![doc = include_str!("ARCHITECTURE.md")]

// Modules from the bottom to the top; a module names only modules of a lower level (`tidy`).

// Level 0
#[forbid(unsafe_code)]
pub mod base;
#[forbid(unsafe_code)]
pub mod error;
#[forbid(unsafe_code)]
pub mod limits;
#[doc(hidden)]
#[forbid(unsafe_code)]
pub mod log_sink;
#[doc(hidden)]
#[forbid(unsafe_code)]
pub mod mutants;

// Level 1
pub mod mem;

// Level 2
#[forbid(unsafe_code)]
pub mod sst;

// Level 3
#[cfg(not(loom))]
pub mod fabric;
#[forbid(unsafe_code)]
pub mod group;
#[forbid(unsafe_code)]
pub mod transfer;

// Level 4
#[cfg(not(loom))]
#[forbid(unsafe_code)]
pub mod driver;
#[cfg(not(loom))]
#[forbid(unsafe_code)]
pub mod sim;

// Level 5
#[cfg(not(loom))]
pub mod capi;

#[cfg(all(test, not(loom)))]
mod tidy;
