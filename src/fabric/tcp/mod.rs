// SPDX-License-Identifier: MIT OR Apache-2.0
//! Members on other hosts: one TCP connection per pair of incarnations.
//!
//! How they find and prove each other: `address` (names), `secret`, `terms` and
//! `hello` (what is said), `handshake` (in which order), `door` (who listens), `call` (who calls). All of that ends in a
//! `Session`. Who is trusted with what: `threats.md`.

pub mod address;
pub mod call;
pub mod door;
pub mod handshake;
pub mod hello;
pub mod secret;
pub mod session;
mod talk;
pub mod terms;
