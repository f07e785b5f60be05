// SPDX-License-Identifier: MIT OR Apache-2.0
//! The only place with raw shared memory: pages, and the two ways to touch a word of them.

#[cfg(not(loom))]
pub mod bytes;
#[cfg(not(loom))]
pub mod cuda;
#[cfg(not(loom))]
pub mod dmabuf;
#[cfg(not(loom))]
pub mod errno;
#[cfg(not(loom))]
pub mod extent;
#[cfg(not(loom))]
pub mod host;
pub mod message;
pub mod order;
#[cfg(not(loom))]
pub mod place;
pub mod region;
#[cfg(not(loom))]
pub mod stream;
pub mod thread;
pub mod turnstile;

#[cfg(not(loom))]
pub use extent::{Extent, stream_fence};
pub use message::{Batch, Message};
pub use order::{Cell, Exchange};
pub use region::{CellRef, Region};
#[cfg(loom)]
pub use region::{Extent, stream_fence};
