// SPDX-License-Identifier: MIT OR Apache-2.0
//! Instead of `settings` in a library that was built without: no file is read, and that is said.

#[path = "slurm.rs"]
pub mod slurm;

use crate::driver::config::Config;
use crate::error::{Error, Status};
pub use slurm::Launcher;
use std::convert::Infallible;
use std::ffi::OsString;
use std::path::Path;

/// There are none.
#[derive(Clone, Debug)]
pub struct Settings {
    pub config: Config,
    pub core: Option<usize>,
    pub launcher: Launcher,
    never: Infallible,
}

impl Settings {
    /// Errors: `Invalid`, always.
    pub fn over(
        _base: Config,
        _file: Option<&Path>,
        _environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Settings, Error> {
        let detail = "this squall was built without the feature `settings` and reads no configuration: \
                      build it with, or fill in the attributes";
        Err(Error::new(Status::Invalid, detail))
    }

    pub fn is_set(&self, _key: &str) -> bool {
        match self.never {}
    }

    pub fn sets_subgroups(&self) -> bool {
        match self.never {}
    }
}
