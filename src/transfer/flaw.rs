// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong in a transfer, twice: `Flaw` is what is wrong with bytes that came, `Failure`
//! is why a transfer ended.

use crate::error::{Error, Status};
use std::fmt;

/// Why bytes are no correct stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// It does not begin as a stream of this kind does.
    Magic {
        word: u32,
    },
    /// Another version of the format.
    Version {
        theirs: u8,
    },
    /// A frame's head, or what it holds, is not what its checksum says.
    Checksum,
    /// A frame is missing, doubled or out of place.
    Sequence {
        came: u64,
        expected: u64,
    },
    /// A kind that does not exist, or not in this phase.
    Kind {
        kind: u8,
        phase: &'static str,
    },
    TooLong {
        len: u64,
        most: u64,
    },
    /// A frame or record ends within a field.
    Short,
    /// A field's value cannot be.
    Field {
        value: u64,
    },
    /// A record's first word cannot be.
    Record {
        word: u64,
    },
    /// A message's number is not above the one before it, or not within its view.
    Number {
        subgroup: u16,
        number: u64,
        expected: u64,
    },
    /// What has come is not as much as was said, or not the same.
    Total {
        came: u64,
        said: u64,
    },
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::Magic { word } => write!(f, "a frame begins with {word:#010x}"),
            Flaw::Version { theirs } => write!(f, "a frame is of version {theirs}"),
            Flaw::Checksum => write!(f, "a frame's checksum is wrong"),
            Flaw::Sequence { came, expected } => write!(f, "frame {came} came, not {expected}"),
            Flaw::Kind { kind, phase } => write!(f, "a frame of kind {kind} came while {phase}"),
            Flaw::TooLong { len, most } => write!(f, "{len} bytes where {most} are the most"),
            Flaw::Short => write!(f, "a frame or record is shorter than its fields"),
            Flaw::Field { value } => write!(f, "a field is {value}, which cannot be"),
            Flaw::Record { word } => write!(f, "a record begins with {word:#018x}"),
            Flaw::Number { subgroup, number, expected } => {
                write!(f, "message {number} of subgroup {subgroup} where {expected} is the least")
            }
            Flaw::Total { came, said } => write!(f, "{came} came of what should be {said}"),
        }
    }
}

/// Why a transfer ended before its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The other side's process, or the connection to it, ended.
    Gone,
    /// The other side took or said nothing for so long, though it had to.
    Silent {
        for_ms: u64,
    },
    /// The other side sent what no correct one sends.
    Flawed(Flaw),
    WireVersion {
        theirs: u8,
    },
    /// The other side gave up, for the reason it says.
    Refused {
        status: Status,
        text: String,
    },
    /// The catch-up buffer was full too often.
    Overflow {
        times: u32,
        bytes: u64,
    },
    /// It was full when the joiner had been asked for already.
    LateOverflow {
        bytes: u64,
    },
    /// A callback of this side's application refused.
    Application(Error),
    /// A callback panicked, or we did.
    Panicked,
    /// This side's member gave it up: it closes, leaves, or is no member any more.
    Cancelled,
    /// The joiner's place is, or is to be, in a shard that this side's member is not in, and another
    /// one is.
    Moved,
    /// This side's member has no time for it now: why.
    Busy(&'static str),
    /// The system refused something.
    System {
        what: &'static str,
        cause: i32,
    },
}

impl Failure {
    pub fn status(&self) -> Status {
        match self {
            Failure::Gone | Failure::Silent { .. } => Status::PeerLost,
            Failure::Flawed(_) => Status::PeerFault,
            Failure::WireVersion { .. } => Status::WireVersion,
            Failure::Refused { status, .. } => *status,
            Failure::Overflow { .. } | Failure::LateOverflow { .. } => Status::Limit,
            Failure::Application(error) => error.status,
            Failure::Panicked => Status::Panic,
            Failure::Cancelled | Failure::Moved | Failure::Busy(_) => Status::Closed,
            Failure::System { .. } => Status::System,
        }
    }

    /// Whether a joiner that asks another member, or this one once more, may fare better.
    pub fn may_pass(&self) -> bool {
        let status = self.status();
        !matches!(status, Status::WireVersion | Status::Mismatch | Status::Panic)
            && !matches!(self, Failure::Application(_))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let again = "join again, from another member if there is one";
        match self {
            Failure::Gone => write!(f, "the other side of a state transfer is gone; {again}"),
            Failure::Silent { for_ms } => {
                write!(f, "the other side of a state transfer stood still for {for_ms} ms; {again}")
            }
            Failure::Flawed(flaw) => {
                write!(f, "what came in a state transfer is damaged: {flaw}; {again}")
            }
            Failure::WireVersion { theirs } => write!(
                f,
                "the other side of a state transfer speaks version {theirs} of it, this one {}; use \
                 the same release everywhere",
                super::frame::TRANSFER_VERSION
            ),
            Failure::Refused { text, .. } => {
                write!(f, "the other side gave the state transfer up: {text}")
            }
            Failure::Overflow { times, bytes } => write!(
                f,
                "messages came faster than the joiner took them: {bytes} bytes of catch-up buffer \
                 were full {times} times; give it more, send less, or make loading faster"
            ),
            Failure::LateOverflow { bytes } => write!(
                f,
                "the joiner stood still after it had nearly caught up, and {bytes} bytes of \
                 catch-up buffer were full; give it more, or make applying messages faster"
            ),
            Failure::Application(error) => {
                write!(f, "the application gave the state transfer up: {error}")
            }
            Failure::Panicked => write!(f, "a panic ended the state transfer"),
            Failure::Cancelled => {
                write!(f, "the member that sent the state is closing or is no member any more")
            }
            Failure::Moved => write!(
                f,
                "the state of the shard that the joiner will be in is with another member: ask that \
                 one"
            ),
            Failure::Busy(why) => write!(f, "{why}: ask another member, or later"),
            Failure::System { what, cause } => {
                let cause = std::io::Error::from_raw_os_error(*cause);
                write!(f, "cannot {what} in a state transfer: {cause}")
            }
        }
    }
}

impl From<Flaw> for Failure {
    fn from(flaw: Flaw) -> Failure {
        match flaw {
            Flaw::Version { theirs } => Failure::WireVersion { theirs },
            flaw => Failure::Flawed(flaw),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        Error::new(failure.status(), failure.to_string())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_it_is_and_what_helps() {
        let error = Error::from(Failure::Overflow { times: 3, bytes: 65536 });
        assert_eq!(error.status, Status::Limit);
        assert!(error.detail.contains("65536") && error.detail.contains("3 times"), "{error}");
        assert!(Failure::Gone.may_pass() && !Failure::WireVersion { theirs: 9 }.may_pass());
        let refused = Failure::Refused { status: Status::Mismatch, text: "other".into() };
        assert!(!refused.may_pass() && refused.to_string().contains("other"));
    }
}
