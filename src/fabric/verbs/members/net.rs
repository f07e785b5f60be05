// SPDX-License-Identifier: MIT OR Apache-2.0
//! The devices of a test: of each member that of a process of its own.

use super::super::device::Device;
use super::super::gid::Choice;
use super::super::sys::soft::{Process, World};
use std::cell::RefCell;
use std::sync::Arc;

pub struct Net {
    pub world: World,
    /// By member.
    processes: RefCell<Vec<Process>>,
}

impl Net {
    /// Its wire carries writes out by itself.
    pub fn running(seed: u64) -> Net {
        let world = World::new(seed);
        world.start();
        Net { world, processes: RefCell::default() }
    }

    /// That of the next member.
    pub fn device(&self) -> Arc<Device> {
        let process = self.world.process();
        let device = Device::open(&process.table(), &Choice::default());
        self.processes.borrow_mut().push(process);
        device.unwrap()
    }

    /// What can be done to a member's device.
    pub fn at<T>(&self, member: usize, what: impl FnOnce(&Process) -> T) -> T {
        what(&self.processes.borrow()[member])
    }

    /// Regions that are open.
    pub fn open(&self) -> usize {
        self.processes.borrow().iter().map(Process::registered).sum()
    }
}
