// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong with a log, twice: `Failure` is a call that the system refused, after which the
//! log is written no more; `Refusal` is why a log is not opened, or not read further.

use crate::error::{Error, Status};
use rustix::io::Errno;
use std::fmt;
use std::ops::Range;

/// A call of the disk failed. Nothing that was reported durable is lost by it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    pub call: &'static str,
    pub file: String,
    pub offset: u64,
    pub cause: Errno,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { call, file, offset, cause } = self;
        let remedy = match *cause {
            Errno::NOSPC | Errno::DQUOT => "free space there",
            Errno::IO | Errno::NODEV | Errno::NXIO => {
                "look into the system's log, replace the disk"
            }
            Errno::ROFS | Errno::ACCESS | Errno::PERM => "make it writable for this process",
            Errno::MFILE => "raise the limit of open files with `ulimit -n`",
            _ => "look into the system's log",
        };
        write!(
            f,
            "cannot {call} {file} at byte {offset} of the log: {cause}; {remedy}, then open it \
             anew (what was reported durable is there)"
        )
    }
}

/// Why bytes are no good record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// It is no head of a record of this log, or not as it was written.
    Head,
    /// It would not end within its file.
    Length(u64),
    Position(u64),
    /// It does not follow on the record before it.
    Chain,
    Payload,
    /// The file's own head.
    Preface,
    /// A record was durable, and there is nothing.
    Missing,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Head => write!(f, "no record's head"),
            Why::Length(bytes) => write!(f, "a record of {bytes} bytes, which end beyond the file"),
            Why::Position(position) => write!(f, "a record with position {position}"),
            Why::Chain => write!(f, "a record that does not follow on the one before it"),
            Why::Payload => write!(f, "a payload whose checksum is wrong"),
            Why::Preface => write!(f, "a head of the file whose checksum is wrong"),
            Why::Missing => write!(f, "nothing"),
        }
    }
}

/// What was durable once and is not there any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    pub file: String,
    /// Where it begins.
    pub offset: u64,
    /// Where the next good record begins, if one does.
    pub upto: Option<u64>,
    /// The records that are lost.
    pub positions: Range<u64>,
    pub why: Why,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damage { file, offset, positions, why, .. } = self;
        write!(
            f,
            "{file} is damaged at byte {offset}: {why}, where record {} was durable; have records \
             {} to {} repaired from a peer",
            positions.start,
            positions.start,
            positions.end.max(positions.start + 1) - 1
        )
    }
}

/// Why a log is not opened, or not read further.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Another process, or another open log of this one, has it.
    Locked {
        pid: Option<u32>,
    },
    Damaged(Damage),
    /// The anchor, without which nothing can be told of the rest.
    NoAnchor,
    /// Another format.
    Format {
        file: String,
        version: u32,
    },
    /// Another group's, or subgroup's, or member's.
    Foreign {
        owner: u64,
        expected: u64,
    },
    /// What is asked for was trimmed.
    Trimmed {
        begins_at: u64,
    },
    /// A repair does not fit what it is to repair.
    Unfit(&'static str),
    Failed(Failure),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        Refusal::Failed(failure)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Locked { pid: Some(pid) } => {
                write!(f, "process {pid} has the log open: end it, or name another directory")
            }
            Refusal::Locked { pid: None } => {
                write!(f, "another process has the log open: end it, or name another directory")
            }
            Refusal::Damaged(damage) => write!(f, "{damage}"),
            Refusal::NoAnchor => write!(
                f,
                "both slots of the log's anchor are damaged: remove the log, and join as a member \
                 without one"
            ),
            Refusal::Format { file, version } => {
                let (ours, than) = (super::format::FORMAT_VERSION, super::format::FORMAT_VERSION);
                let age = if *version > than { "a newer" } else { "an older" };
                write!(
                    f,
                    "{file} has format version {version}, this library's is {ours}: open it with \
                     {age} library"
                )
            }
            Refusal::Foreign { owner, expected } => write!(
                f,
                "the log belongs to {owner:#018x}, not to {expected:#018x}: name its own directory \
                 for each member and subgroup"
            ),
            Refusal::Trimmed { begins_at } => {
                write!(f, "the log begins at record {begins_at}: what was before is trimmed")
            }
            Refusal::Unfit(why) => write!(f, "the records do not fit what is damaged: {why}"),
            Refusal::Failed(failure) => write!(f, "{failure}"),
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        let status = match &refusal {
            Refusal::Locked { .. } => Status::InUse,
            Refusal::Format { .. } | Refusal::Foreign { .. } => Status::Mismatch,
            Refusal::Trimmed { .. } | Refusal::Unfit(_) => Status::Invalid,
            Refusal::Damaged(_) | Refusal::NoAnchor | Refusal::Failed(_) => Status::System,
        };
        Error::new(status, refusal.to_string())
    }
}

/// Makes a failure of a call's cause.
pub(super) fn failing(
    call: &'static str,
    file: &str,
    offset: u64,
) -> impl FnOnce(Errno) -> Failure {
    let file = file.to_owned();
    move |cause| Failure { call, file, offset, cause }
}
