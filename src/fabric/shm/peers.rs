// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which processes of this host may be in one group: whose they are decides, as the kernel says it.
//!
//! Q1  Both sides ask (`SO_PEERCRED`, `SO_PEERGROUPS`): who is called could be a stranger that took the
//!     name first.
//! Q2  A number that stands for all users, or groups, that this user namespace does not map is
//!     nobody's: not a member's, though it is listed, and not this process' own, though it is equal.
//! Q3  At the door users are numbers. Their names may be in a data base on another host, and who polls
//!     would wait for that as often as a stranger knocks. Who opens a group looks them up.
//!
//! Cost: two system calls for each connection, before a group or a member's part in it begins.

use super::socket::{Credentials, Socket};
use super::users::{self, group_text, user_text};
use crate::error::{Error, Status};
use std::path::PathBuf;

/// Who may be a member beside processes of this process' own user, and where they find each other.
/// Not what members must agree on: each decides for itself whom it meets.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Peers {
    /// Users: names or numbers.
    pub users: Vec<String>,
    /// A unix group, by name or number: processes that have it, as their own or among their further
    /// ones. This process must have it, too. Empty: none.
    pub group: String,
    /// An existing directory for the members' sockets, which has to be the same one for all. Empty: none,
    /// their names are abstract; such names are seen in one network namespace only.
    pub directory: PathBuf,
}

/// The same in numbers, and this process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Circle {
    me: u32,
    users: Vec<u32>,
    group: Option<u32>,
    /// The user and the group that are nobody's (Q2).
    nobody: (Option<u32>, Option<u32>),
}

/// A process that is none of this circle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stranger {
    pub pid: u32,
    pub uid: u32,
    me: u32,
    group: Option<u32>,
    unmapped: bool,
}

impl Circle {
    /// Processes of this user only.
    pub fn own() -> Circle {
        let me = rustix::process::geteuid().as_raw();
        Circle { me, users: Vec::new(), group: None, nobody: users::unmapped() }
    }

    /// `Invalid`: there is no such user or group, or this process is not of that group.
    pub fn of(peers: &Peers) -> Result<Circle, Error> {
        let mut circle = Circle::own();
        let bad = |detail: String| Err(Error::new(Status::Invalid, detail));
        for text in &peers.users {
            let Some(uid) = users::user(text) else {
                return bad(format!(
                    "`peers.users`: there is no user {text:?} on this host: name another one, or give \
                     its number"
                ));
            };
            if Some(uid) == circle.nobody.0 {
                return bad(format!(
                    "`peers.users`: user {uid} stands for all users that this user namespace does not \
                     map: map the one that is meant, and name it"
                ));
            }
            circle.users.push(uid);
        }
        if peers.group.is_empty() {
            return Ok(circle);
        }
        let Some(gid) = users::group(&peers.group) else {
            let name = &peers.group;
            return bad(format!(
                "`peers.group`: there is no group {name:?} on this host: name another one, or give its \
                 number"
            ));
        };
        if Some(gid) == circle.nobody.1 {
            return bad(format!(
                "`peers.group`: group {gid} stands for all groups that this user namespace does not \
                 map: map the one that is meant, and name it"
            ));
        }
        if !users::my_groups().contains(&gid) {
            let (user, group) = (user_text(circle.me), group_text(gid));
            return bad(format!(
                "`peers.group`: this process, of {user}, is not of {group}, so the others would refuse \
                 it: add it (`usermod -aG`), or start it with that group"
            ));
        }
        circle.group = Some(gid);
        Ok(circle)
    }

    /// Whether the process at the other end may be a member.
    pub fn admits(&self, socket: &Socket) -> Result<(), Stranger> {
        let nobody = Credentials { pid: 0, uid: u32::MAX, gid: u32::MAX };
        let of = socket.credentials().unwrap_or(nobody);
        let unmapped = self.nobody.0 == Some(of.uid);
        let user = of.uid == self.me || self.users.contains(&of.uid);
        let group = |gid: u32| gid == of.gid || socket.groups().contains(&gid);
        if (user && !unmapped) || self.group.is_some_and(group) {
            return Ok(());
        }
        Err(Stranger { pid: of.pid, uid: of.uid, me: self.me, group: self.group, unmapped })
    }

    /// Who may use a socket of this process' in a directory: its group and mode. Those that may not
    /// be members are refused when they call, whatever these are.
    pub(super) fn rights(&self) -> (Option<u32>, u32) {
        match (self.group, self.users.is_empty()) {
            (group, true) if group.is_some() => (group, 0o660),
            (_, true) => (None, 0o600),
            (group, false) => (group, 0o666),
        }
    }
}

impl Stranger {
    fn process(&self) -> String {
        match self.pid {
            0 => "a process of another process namespace".into(),
            pid => format!("process {pid}"),
        }
    }

    /// `name`: of a user or a group, if it may be looked up (Q3).
    fn remedy(&self, name: impl Fn(u32) -> String, group: impl Fn(u32) -> String) -> String {
        if self.unmapped {
            return format!(
                "user {} stands for every user that this user namespace does not map: give the \
                 containers one mapping of users",
                self.uid
            );
        }
        let group = match self.group {
            None => "or both one `peers.group`".into(),
            Some(gid) => format!("or add both to {}, its `peers.group`", group(gid)),
        };
        let (one, other) = (name(self.me), name(self.uid));
        format!("to share a group, give both `peers.users = [{one:?}, {other:?}]`, {group}")
    }

    /// The same in numbers.
    fn plain_remedy(&self) -> String {
        self.remedy(|uid| uid.to_string(), |gid| format!("group {gid}"))
    }

    /// What the process that was called, or has the name, means to who calls.
    pub fn holds(&self, group: &str, seat: u16) -> Error {
        let name = |uid: u32| users::user_name(uid).unwrap_or_else(|| uid.to_string());
        let detail = format!(
            "rank {seat} of group {group} is held by {} of {}, this process is {}, and does not admit \
             it: choose another group name; {}",
            self.process(),
            user_text(self.uid),
            user_text(self.me),
            self.remedy(name, group_text)
        );
        Error::new(Status::ForeignOwner, detail)
    }

    /// What it is told at the door (Q3).
    pub fn is_told(&self) -> String {
        format!(
            "this group belongs to another user, user {}, and process {} does not admit user {}: \
             choose another group name; {}",
            self.me,
            std::process::id(),
            self.uid,
            self.plain_remedy()
        )
    }

    /// What this process' log is told (Q3).
    pub fn is_logged(&self) -> String {
        format!(
            "{} of user {} is refused, this process is user {}: {}",
            self.process(),
            self.uid,
            self.me,
            self.plain_remedy()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::socket::tests::connected;
    use super::*;

    fn circle(me: u32) -> Circle {
        Circle { me, users: Vec::new(), group: None, nobody: (None, None) }
    }

    #[test]
    fn the_own_user_listed_ones_and_a_group_are_admitted() {
        let (socket, _other) = connected();
        let Credentials { uid, gid, .. } = socket.credentials().unwrap();
        assert_eq!(circle(uid).admits(&socket), Ok(()));
        let mut other = circle(uid + 1);
        let stranger = other.admits(&socket).unwrap_err();
        assert_eq!((stranger.uid, stranger.pid), (uid, std::process::id()));
        other.users.push(uid);
        assert_eq!(other.admits(&socket), Ok(()));
        other.users.clear();
        other.group = Some(gid + 1_000_000);
        let text = other.admits(&socket).unwrap_err().holds("g", 3).detail;
        let said = |word: &str| assert!(text.contains(word), "{word}: {text}");
        said(&format!("of user {uid}"));
        said(&format!("this process is user {}", uid + 1));
        said("`peers.users = [");
        said("`peers.group`");
        for gid in users::my_groups() {
            other.group = Some(gid);
            assert_eq!(other.admits(&socket), Ok(()), "as its own, or among others");
        }
    }

    /// 65534 was the own user of a process that its namespace does not map: all strangers were, too.
    #[test]
    fn who_is_not_mapped_is_nobody() {
        let (socket, _other) = connected();
        let uid = socket.credentials().unwrap().uid;
        let mut circle = circle(uid);
        circle.users.push(uid);
        circle.nobody.0 = Some(uid);
        let text = circle.admits(&socket).unwrap_err().is_told();
        assert!(text.contains("does not map"), "{text}");
    }

    /// Who polls looked up four names for each stranger that knocked: it waited for a directory service
    /// that was slow, and a stranger could make it read `/etc/passwd` all day.
    #[test]
    fn at_the_door_no_names_are_looked_up() {
        let (socket, _other) = connected();
        let Credentials { uid, gid, .. } = socket.credentials().unwrap();
        let circle = Circle { group: Some(gid + 1_000_000), ..circle(uid + 1) };
        let before = users::LOOKED_UP.get();
        let stranger = circle.admits(&socket).unwrap_err();
        let (told, logged) = (stranger.is_told(), stranger.is_logged());
        assert_eq!(users::LOOKED_UP.get(), before);
        for (text, gid) in [(told, gid + 1_000_000), (logged, gid + 1_000_000)] {
            let numbers =
                [format!("user {uid}"), format!("user {}", uid + 1), format!("group {gid}")];
            assert!(numbers.iter().all(|number| text.contains(number)), "{text}");
        }
        stranger.holds("g", 0);
        assert!(users::LOOKED_UP.get() > before, "who opens a group hears names");
    }

    #[test]
    fn what_there_is_not_is_named() {
        let refused = |users: &[&str], group: &str| {
            let users = users.iter().map(|text| text.to_string()).collect();
            let peers = Peers { users, group: group.into(), directory: PathBuf::new() };
            Circle::of(&peers).map_err(|error| error.detail)
        };
        assert!(refused(&["nosuchuser-7"], "").unwrap_err().contains("\"nosuchuser-7\""));
        assert!(refused(&[], "nosuchgroup-7").unwrap_err().contains("\"nosuchgroup-7\""));
        assert!(refused(&[], "3999999999").unwrap_err().contains("is not of group 3999999999"));
        let circle = refused(&["root", "4711"], "").unwrap();
        assert_eq!((circle.users.as_slice(), circle.rights()), (&[0, 4711][..], (None, 0o666)));
        assert_eq!(refused(&[], "").unwrap().rights(), (None, 0o600));
    }
}
