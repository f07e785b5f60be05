// SPDX-License-Identifier: MIT OR Apache-2.0
//! The devices of a test.

use super::super::device::Device;
use super::super::gid::Choice;
use super::super::sys::Table;
use std::sync::Arc;

pub struct Net;

impl Net {
    pub fn running(_seed: u64) -> Net {
        Net
    }

    /// One of a process of its own.
    pub fn device(&self, _at: usize) -> Arc<Device> {
        Device::open(&Table::load().unwrap(), &Choice::default()).unwrap()
    }

    /// Regions that are open.
    pub fn open(&self) -> usize {
        super::super::stub::NET.lock().unwrap().regions.len()
    }
}
