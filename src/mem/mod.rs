// SPDX-License-Identifier: MIT OR Apache-2.0
//! The only place with raw shared memory: pages, and the two ways to touch a word of them.

pub mod message;
pub mod order;
pub mod region;
#[cfg(not(loom))]
pub mod thread;

pub use message::{Batch, Message};
pub use order::Cell;
pub use region::{Extent, Region};
