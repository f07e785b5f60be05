// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a polling thread does between turns that found nothing, and which core it runs on.

use super::config::Idle;
use crate::error::{Error, Status};
use rustix::thread::{CpuSet, sched_setaffinity, sched_yield};

/// Idle turns that a parking thread spins, then yields, before it sleeps. A wake-up across cores
/// costs tens of microseconds, so the few microseconds that this takes are well spent; more would
/// keep the core from the member that has work.
const PARK_SPINS: u32 = 16;
const PARK_YIELDS: u32 = 4;

/// Counts idle turns.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    idle: Idle,
    quiet: u32,
}

impl Pace {
    pub fn new(idle: Idle) -> Pace {
        Pace { idle, quiet: 0 }
    }

    #[inline]
    pub fn busy(&mut self) {
        self.quiet = 0;
    }

    /// Called after an idle turn; true when it is time to sleep.
    #[inline]
    pub fn quiet(&mut self) -> bool {
        match self.idle {
            Idle::Spin => std::hint::spin_loop(),
            Idle::Yield => sched_yield(),
            Idle::Park => {
                self.quiet += 1;
                if self.quiet <= PARK_SPINS {
                    std::hint::spin_loop();
                } else if self.quiet <= PARK_SPINS + PARK_YIELDS {
                    sched_yield();
                } else {
                    return true;
                }
            }
        }
        false
    }
}

/// Binds the calling thread to a core.
pub fn pin(core: usize) -> Result<(), Error> {
    let mut set = CpuSet::new();
    if core < CpuSet::MAX_CPU {
        set.set(core);
    }
    sched_setaffinity(None, &set).map_err(|cause| {
        let cores = std::thread::available_parallelism().map_or(0, |cores| cores.get());
        let detail = format!("cannot run on core {core}: {cause}; this process has {cores} cores");
        Error::new(Status::Invalid, detail)
    })
}
