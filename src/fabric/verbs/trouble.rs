// SPDX-License-Identifier: MIT OR Apache-2.0
//! What ends the queue to a peer, and so its connection: the queue's own failure, or what the peer says.

use super::carrier::Nonsense;
use super::failure::Failure;
use crate::error::Error;
use std::fmt;

/// Why a queue carries nothing more.
#[derive(Debug)]
pub enum Trouble {
    Failed(Failure),
    Nonsense(Nonsense),
    /// It cannot be made, for the peer's bytes or for what this process lacks.
    Unmade(Error),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        Trouble::Failed(failure)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Unmade(error)
    }
}

impl From<Nonsense> for Trouble {
    fn from(nonsense: Nonsense) -> Trouble {
        Trouble::Nonsense(nonsense)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Failed(failure) => failure.fmt(f),
            Trouble::Nonsense(nonsense) => write!(f, "it sent {nonsense}"),
            Trouble::Unmade(error) => error.fmt(f),
        }
    }
}
