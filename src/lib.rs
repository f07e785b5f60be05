// SPDX-License-Identifier: MIT OR Apache-2.0
#![doc = include_str!("ARCHITECTURE.md")]
#![warn(missing_debug_implementations)]
#![allow(missing_debug_implementations)]

pub mod base;
pub mod error;
pub mod limits;
#[doc(hidden)]
pub mod mutants;

pub mod mem;

pub mod sst;

#[cfg(not(loom))]
pub mod fabric;
pub mod group;
#[doc(hidden)]
pub mod log_sink;

#[cfg(not(loom))]
pub mod driver;

#[cfg(not(loom))]
pub mod capi;

#[cfg(not(loom))]
pub mod sim;
