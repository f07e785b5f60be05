// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong, twice: `Status` is what a caller sees, `Fault` is why a peer is suspected.
//!
//! A status is grouped by what is lost: nothing yet (ask again), this call, the group, a bug of
//! ours. Numbers are frozen; a retired one stays as a comment.

use crate::base::{Members, Nanos, Rank};
use std::fmt;

/// The answer of a call. `Ok` is 0, everything else is negative, as in C.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Status {
    Ok = 0,
    // Nothing is lost: ask again.
    /// No free slot, or there is work: poll, then try again.
    Again = -1,
    /// A wait ended before anything happened. Kept for later: `wait` answers `Ok` then too, since
    /// whoever waits polls either way.
    TimedOut = -2,
    /// The subgroup has fewer members than it needs: wait for a view in which it has enough.
    Inadequate = -3,
    // This call is lost.
    /// An argument is out of its range or contradicts another.
    Invalid = -10,
    /// The message is longer than the subgroup's largest.
    TooLong = -11,
    /// This member only receives in that subgroup (or does not belong to it).
    NotSender = -12,
    /// A struct's `size` is unknown to this version of the library.
    WrongSize = -13,
    /// No such handle: never opened.
    NoHandle = -14,
    /// The handle was closed.
    Closed = -15,
    /// Called from inside a callback, or while another thread is in the same call.
    Reentrant = -16,
    /// The group polls itself in a thread of its own.
    OwnThread = -17,
    /// No message is reserved in that lane, or one is already.
    NotReserved = -18,
    /// Whose memory it is is no member any more, or the connection to it broke: what of the operation
    /// was carried out is not known.
    Gone = -19,
    /// Its owner has no such memory any more.
    NoRegion = -20,
    /// Its owner does not allow that.
    Denied = -21,
    /// Only directly, and no device reaches that memory itself.
    NotDirect = -22,
    // The group cannot be opened; or, where views change, this member lacks what the next one needs.
    /// This machine has no memory left for the group.
    NoMemory = -30,
    /// A limit of this process or machine is in the way; the text names it.
    Limit = -31,
    /// The name, or the place of this rank, is taken by a live process.
    InUse = -32,
    /// Another user's process holds the name.
    ForeignOwner = -33,
    /// Members of one name were opened with different configurations.
    Mismatch = -34,
    /// Members of one name speak different wire versions.
    WireVersion = -35,
    /// Not all members arrived in time.
    NotComplete = -36,
    /// The system refused something; the text says what.
    System = -37,
    // The group is lost: only close is left.
    /// A member's process ended without closing the group.
    PeerLost = -50,
    /// A member wrote what no correct member writes; it was cut off.
    PeerFault = -51,
    /// A member has closed the group: nothing sent from now on can become stable.
    PeerLeft = -52,
    /// The group has stopped.
    Failed = -53,
    /// The other members believe this one failed and go on without it.
    Expelled = -54,
    /// This member sees no majority of the group.
    Partitioned = -55,
    /// This member has left, as it asked to.
    Left = -56,
    /// Too many leaders have failed in one view change.
    Exhausted = -57,
    // A bug of ours.
    /// A panic inside the library was caught; the group is poisoned.
    Panic = -90,
}

impl Status {
    pub const ALL: [Status; 34] = [
        Status::Ok,
        Status::Again,
        Status::TimedOut,
        Status::Inadequate,
        Status::Invalid,
        Status::TooLong,
        Status::NotSender,
        Status::WrongSize,
        Status::NoHandle,
        Status::Closed,
        Status::Reentrant,
        Status::OwnThread,
        Status::NotReserved,
        Status::Gone,
        Status::NoRegion,
        Status::Denied,
        Status::NotDirect,
        Status::NoMemory,
        Status::Limit,
        Status::InUse,
        Status::ForeignOwner,
        Status::Mismatch,
        Status::WireVersion,
        Status::NotComplete,
        Status::System,
        Status::PeerLost,
        Status::PeerFault,
        Status::PeerLeft,
        Status::Failed,
        Status::Expelled,
        Status::Partitioned,
        Status::Left,
        Status::Exhausted,
        Status::Panic,
    ];

    /// One sentence without a full stop; never empty.
    pub const fn text(self) -> &'static str {
        match self {
            Status::Ok => "done",
            Status::Again => "not now: poll, then try again",
            Status::TimedOut => "nothing happened within the time given",
            Status::Inadequate => "the subgroup waits for more members: try again in the next view",
            Status::Invalid => "an argument is out of its range",
            Status::TooLong => "the message is longer than the subgroup's largest",
            Status::NotSender => "this member is not a sender in that subgroup",
            Status::WrongSize => "a struct's size field is not one this library knows",
            Status::NoHandle => "no such group handle",
            Status::Closed => "the group handle was closed",
            Status::Reentrant => "called from inside a callback or beside the same call",
            Status::OwnThread => "the group polls itself in its own thread",
            Status::NotReserved => "reserve and publish do not match in this lane",
            Status::Gone => "the owner of that memory is gone, or the connection to it broke",
            Status::NoRegion => "that memory is not registered any more",
            Status::Denied => "that memory may not be used so by others",
            Status::NotDirect => "no device reaches that memory itself",
            Status::NoMemory => "not enough memory for the group",
            Status::Limit => "a limit of this process or machine is in the way",
            Status::InUse => "that rank of that group is already open",
            Status::ForeignOwner => "another user's process holds that group name",
            Status::Mismatch => "members were opened with different configurations",
            Status::WireVersion => "members speak different versions of the wire",
            Status::NotComplete => "not all members arrived in time",
            Status::System => "the system refused",
            Status::PeerLost => "a member's process ended without closing the group",
            Status::PeerFault => "a member wrote nonsense and was cut off",
            Status::PeerLeft => "a member has closed the group",
            Status::Failed => "the group has stopped",
            Status::Expelled => "the other members go on without this one: open the group anew",
            Status::Partitioned => "this member sees no majority of the group",
            Status::Left => "this member has left the group",
            Status::Exhausted => "too many members failed in one view change",
            Status::Panic => "a bug in squall was caught; the group is poisoned",
        }
    }

    pub fn from_code(code: i32) -> Option<Status> {
        Status::ALL.into_iter().find(|status| *status as i32 == code)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// A status with the cause, the value and the remedy, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error {
    pub status: Status,
    pub detail: String,
}

impl Error {
    pub fn new(status: Status, detail: impl Into<String>) -> Self {
        Error { status, detail: detail.into() }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Error { status, detail: String::new() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detail.is_empty() {
            return f.write_str(self.status.text());
        }
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Error {}

/// Why a peer became suspect, or that it left. It goes to the log and to the view callback, never up
/// the stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Its process ended, or its connection broke; those of `also` went the same way before the
    /// group's end.
    Lost { also: Members },
    /// It has closed the group in good order, and so have those of `also`.
    Left { also: Members },
    /// Its heartbeat stood still for so long.
    Silent { for_ns: Nanos },
    /// Senders of a subgroup waited so long for it without any progress, and the subgroup's policy of
    /// lag is to go on without such members.
    Lag { subgroup: u16, for_ns: Nanos },
    /// A word of its went back.
    Regressed { cell: CellName, from: u64, to: u64 },
    /// A word of its is one that no correct member writes.
    BadWord { cell: CellName, value: u64 },
    /// A slot of its ring is not a message, as these words say.
    BadSlot { subgroup: u16, sender: u16, words: [u64; 2] },
    /// Another member believes it failed; such beliefs are shared and never taken back.
    Reported { by: Rank },
    /// Its policy places the members of the view otherwise than that of the majority.
    Disagrees,
}

/// Which word a fault speaks of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CellName {
    pub column: &'static str,
    pub subgroup: u16,
    pub index: u16,
}

impl CellName {
    /// The subgroup of a column that belongs to none.
    pub const NONE: u16 = u16::MAX;
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Lost { also } => {
                write!(f, "its process ended or its connection broke")?;
                also.iter().try_for_each(|rank| write!(f, "; rank {} likewise", rank.0))
            }
            Fault::Left { also } => {
                write!(f, "it has closed the group")?;
                also.iter().try_for_each(|rank| write!(f, "; rank {} likewise", rank.0))
            }
            Fault::Silent { for_ns } => write!(f, "silent for {} ms", for_ns.0 / 1_000_000),
            Fault::Lag { subgroup, for_ns } => {
                let waited = for_ns.0 / 1_000_000;
                write!(f, "subgroup {subgroup} waited {waited} ms for it without any progress")
            }
            Fault::Regressed { cell, from, to } => {
                let CellName { column, subgroup, index } = cell;
                write!(f, "`{column}[{index}]` of subgroup {subgroup} went back: {from} to {to}")
            }
            Fault::BadWord {
                cell: CellName { column, subgroup: CellName::NONE, index },
                value,
            } => {
                write!(f, "`{column}[{index}]` is {value}, which cannot be")
            }
            Fault::BadWord { cell: CellName { column, subgroup, index }, value } => {
                write!(f, "`{column}[{index}]` of subgroup {subgroup} is {value}, which cannot be")
            }
            Fault::BadSlot { subgroup, sender, words } => write!(
                f,
                "a slot of sender {sender} in subgroup {subgroup} is not a message \
                 ({:#018x} {:#018x})",
                words[0], words[1]
            ),
            Fault::Reported { by } => write!(f, "member {} believes it failed", by.0),
            Fault::Disagrees => write!(f, "its policy places the members otherwise"),
        }
    }
}

/// A member because of which a group ends, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Suspicion {
    pub rank: Rank,
    pub fault: Fault,
}
