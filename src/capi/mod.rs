// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C door: one file per C noun. `include/squall.h` is generated from here.
//!
//! C1  Nothing a C caller passes can make us panic or read out of bounds, as long as pointers point
//!     to what their comments say; what cannot be checked is the caller's and is said there.
//! C2  A panic of ours never crosses: `guard` turns it into `SQUALL_PANIC`, and it is said in the
//!     log sink (`bug`).
//! C3  Outputs are written on success only.
//! C4  Structs begin with `size`: what the caller knows of. Shorter than version 1: refused; longer:
//!     the unknown tail must be zero.

#![allow(non_camel_case_types, reason = "the names are those of the header")]
#![allow(clippy::missing_safety_doc, reason = "the header's comments say it for C")]

mod access;
mod attr;
mod bug;
mod group;
mod handle;
mod memory;
mod message;
mod network;
mod place;
mod read;
mod refusal;
mod send;
mod state;
mod stats;
mod status;
mod subgroup;
mod view;

pub use access::*;
pub use attr::*;
pub use group::*;
pub use handle::squall_group_t;
pub use memory::*;
pub use message::*;
pub use network::*;
pub use place::*;
pub use read::*;
pub use send::*;
pub use state::*;
pub use stats::*;
pub use status::*;
pub use subgroup::*;
pub use view::*;

use crate::error::Error;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static LAST_ERROR: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps an error's sentence for `squall_last_error` and answers its number. A thread that ends may
/// still call, from a destructor of its own after ours has run: then there is no place for it.
fn refuse(error: Error) -> i32 {
    let status = error.status as i32;
    let _ = LAST_ERROR.try_with(|last| *last.borrow_mut() = error.to_string());
    status
}

/// Runs an entry of the door (C2).
fn guard(body: impl FnOnce() -> i32) -> i32 {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| refuse(bug::of(&*panic)))
}

/// The same for entries that answer a count.
#[inline(always)]
fn guard_count(body: impl FnOnce() -> i64) -> i64 {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| i64::from(refuse(bug::of(&*panic))))
}
