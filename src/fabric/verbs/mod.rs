// SPDX-License-Identifier: MIT OR Apache-2.0
//! RDMA: InfiniBand, RoCE, soft-RoCE. The only fabric whose writes land without a processor of the
//! peer's.
//!
//! From the bottom: `sys` (libibverbs, found at run time), `device` (which port), `memory` (what the
//! device may read and write), `slots` and `queue` (what is posted and what has completed), `ordering`
//! (whether the device keeps F2).

mod chain;
pub mod completions;
pub mod device;
pub mod failure;
pub mod gid;
pub mod memory;
pub mod ordering;
pub mod queue;
pub mod raw;
mod setup;
pub mod slots;
pub mod sys;

#[cfg(all(test, not(loom)))]
mod tests;
