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

pub mod fabric;
pub mod group;
