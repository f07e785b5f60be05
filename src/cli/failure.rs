// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a verb failed, for people.

use squall::error::{Error, Status};
use std::fmt;

#[derive(Debug)]
pub enum Failure {
    /// One sentence: the cause, the value, the remedy.
    Because(String),
    /// The same, with an exit status of its own.
    Told(u8, String),
    /// Nobody is left to read the results: no error.
    Quiet,
}

/// Why, as a formatted sentence.
macro_rules! because {
    ($($arg:tt)*) => { $crate::failure::Failure::Because(format!($($arg)*)) };
}
pub(crate) use because;

/// The answer of a verb that failed, with a formatted sentence.
macro_rules! fail {
    ($($arg:tt)*) => { Err($crate::failure::Failure::Because(format!($($arg)*))) };
}
pub(crate) use fail;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Because(error.to_string())
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Failure::Because(status.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Because(why) | Failure::Told(_, why) => f.write_str(why),
            Failure::Quiet => Ok(()),
        }
    }
}
