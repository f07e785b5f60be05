// SPDX-License-Identifier: MIT OR Apache-2.0
//! The seeded world of groups whose views change. As its elder sister (`sim/world.rs`), with real
//! memberships; what the two judge differs: here it is what a view promises to those who go on.

mod era;
mod faults;
mod lane;
mod leave;
mod links;
mod node;
mod oracle;
mod plan;
mod settle;
mod smaller;
mod watch;
mod world;

#[cfg(test)]
mod mutants;

pub use plan::Plan;
pub use world::run_plan;
#[cfg(test)]
pub use world::run_seed;
