// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the members of a group on one host meet: each listens at its seat, under an abstract name
//! or at a file of a directory.
//!
//! Abstract names are those of a network namespace. A directory can be shared by several, as a volume
//! of containers, and its rights say who gets so far as to call. What is in it:
//!
//! ```text
//! squall.GROUP.SEAT    a socket, of the member that has the seat
//! ```
//!
//! W1  A socket that nobody listens at was left by a member that was killed. Whoever takes a seat
//!     removes all of its group's.
//! W2  Names are taken and left-overs removed by one process at a time, which holds the directory's lock
//!     (`flock`): so nothing is removed between its `bind` and its `listen`.
//! W3  A file is its owner's until it is closed, and removed before that; not by forked children.
//! W4  Whoever may write the directory can put something else under a name at any time. So what a name
//!     stands for is only called, or removed; it is never followed to give it other rights.

use super::door::{Door, socket_name};
use super::fork::forks;
use super::peers::{Circle, Peers};
use super::socket::{Socket, system};
use super::users::user_text;
use crate::error::{Error, Status};
use crate::limits::MEMBERS_MAX;
use rustix::fs::{
    AtFlags, FileType, FlockOperation, Gid, Mode, OFlags, Stat, chmod, chownat, flock, fstat,
    lstat, open, unlink,
};
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of a socket's path, at the most: the system's.
const PATH_BYTES_MAX: usize = 107;
/// Who holds the lock needs microseconds. Whoever holds it for longer has been stopped, or is none of us.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_AGAIN: Duration = Duration::from_millis(1);
/// Seats whose left-overs are looked for.
const SEATS: u16 = 2 * MEMBERS_MAX as u16;

/// Where a group's members meet, and which processes those may be.
#[derive(Clone, Debug)]
pub struct Place {
    group: String,
    directory: Option<PathBuf>,
    circle: Circle,
}

impl Place {
    /// `Invalid`: what `peers` names does not exist, or is too long.
    pub fn new(group: &str, peers: &Peers) -> Result<Place, Error> {
        let circle = Circle::of(peers)?;
        let directory = (!peers.directory.as_os_str().is_empty()).then(|| peers.directory.clone());
        let place = Place { group: group.into(), directory, circle };
        if let Some(path) = place.path(SEATS - 1) {
            let bytes = path.as_os_str().len();
            if bytes > PATH_BYTES_MAX {
                let detail = format!(
                    "`peers.directory`: with the group's name {} has {bytes} bytes, the path of a \
                     socket has at most {PATH_BYTES_MAX}: take a shorter one",
                    path.display()
                );
                return Err(Error::new(Status::Invalid, detail));
            }
        }
        Ok(place)
    }

    /// Under abstract names, among processes of this user: where groups meet that say nothing else.
    pub fn usual(group: &str) -> Place {
        Place { group: group.into(), directory: None, circle: Circle::own() }
    }

    fn path(&self, seat: u16) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join(format!("squall.{}.{seat}", self.group)))
    }

    /// The same for all that can meet here, within a host: names are seen in a network namespace, files
    /// wherever the directory is.
    pub fn identity(&self) -> String {
        match self.directory.as_ref().map(rustix::fs::stat) {
            Some(Ok(Stat { st_dev, st_ino, .. })) => format!("directory{st_dev}x{st_ino}"),
            Some(Err(_)) => String::new(), // nobody can listen there
            None => {
                let space = std::fs::read_link("/proc/self/ns/net").unwrap_or_default();
                let space = space.to_string_lossy().into_owned();
                space.chars().filter(char::is_ascii_alphanumeric).collect()
            }
        }
    }

    /// Takes a seat; `None`: somebody has it.
    pub fn listen(&self, seat: u16) -> Result<Option<Socket>, Error> {
        let Some(path) = self.path(seat) else {
            return Socket::listen(&socket_name(&self.group, seat));
        };
        let directory = self.directory.as_ref().expect("it has a path");
        let _lock = Lock::of(directory)?;
        (0..SEATS).filter_map(|seat| self.path(seat)).for_each(|path| remove_left_over(&path));
        let rights = self.circle.rights();
        let made = || SocketFile::of(&path, rights).map(Some); // nobody can call yet
        let listens = Socket::listen_at(&self.address(&path)?, made);
        listens.map_err(|cause| {
            system(&format!("cannot take the seat {} in `peers.directory`", path.display()), cause)
        })
    }

    /// Calls who has a seat; `None`: nobody has.
    ///
    /// Errors: `ForeignOwner`: it is none that this process meets. `System`.
    pub fn call(&self, seat: u16) -> Result<Option<Socket>, Error> {
        let Some(socket) = self.connect(seat)? else { return Ok(None) };
        match self.circle.admits(&socket) {
            Ok(()) => Ok(Some(socket)),
            Err(stranger) => Err(stranger.holds(&self.group, seat)),
        }
    }

    /// The same, whoever it is: it may be a stranger.
    pub fn connect(&self, seat: u16) -> Result<Option<Socket>, Error> {
        let Some(path) = self.path(seat) else {
            return Socket::connect(&socket_name(&self.group, seat));
        };
        match Socket::connect_at(&self.address(&path)?) {
            Ok(socket) => Ok(Some(socket)),
            Err(Errno::CONNREFUSED | Errno::AGAIN | Errno::NOENT) => Ok(None),
            Err(Errno::ACCESS) => Err(denied(&path)),
            Err(cause) => Err(system(&format!("cannot call {}", path.display()), cause)),
        }
    }

    /// A door that lets in whom this place is for.
    pub fn door(&self, listener: Socket) -> Door {
        Door::of(listener, self.circle.clone())
    }

    fn address(&self, path: &Path) -> Result<SocketAddrUnix, Error> {
        let what = || format!("{} makes no socket's name", path.display());
        SocketAddrUnix::new(path).map_err(|cause| system(&what(), cause))
    }
}

/// A socket that this process' user may not call.
fn denied(path: &Path) -> Error {
    let me = user_text(rustix::process::geteuid().as_raw());
    let shown = path.display();
    let detail = match lstat(path) {
        Ok(found) => format!(
            "{shown} is a member's of {}, this process is {me} and may not call it: for it to admit \
             others, set `peers.users` or `peers.group` there, too",
            user_text(found.st_uid)
        ),
        Err(_) => format!(
            "{me} may not look into the directory of {shown}: give its rights to all members, as with \
             a group and mode 2770"
        ),
    };
    Error::new(Status::ForeignOwner, detail)
}

/// Removes a socket that nobody listens at (W1, W2). What cannot be removed is found in use.
fn remove_left_over(path: &Path) {
    let is_socket = |found: Stat| FileType::from_raw_mode(found.st_mode) == FileType::Socket;
    let Ok(address) = SocketAddrUnix::new(path) else { return };
    if lstat(path).is_ok_and(is_socket)
        && matches!(Socket::connect_at(&address), Err(Errno::CONNREFUSED))
    {
        let _ = unlink(path);
    }
}

/// The lock of a directory.
struct Lock(OwnedFd);

impl Lock {
    fn of(directory: &Path) -> Result<Lock, Error> {
        let shown = directory.display();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = open(directory, flags, Mode::empty()).map_err(|cause| {
            let me = user_text(rustix::process::geteuid().as_raw());
            let detail = format!(
                "`peers.directory`: {shown} cannot be used by {me}: {cause}; it has to be there, for \
                 all members to read and write (as with a group and mode 2770)"
            );
            Error::new(Status::System, detail)
        })?;
        let start = Instant::now();
        loop {
            match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock(opened)),
                Err(Errno::AGAIN | Errno::INTR) if start.elapsed() < LOCK_WAIT => {
                    std::thread::sleep(LOCK_AGAIN);
                }
                Err(Errno::AGAIN | Errno::INTR) => {
                    let detail = format!(
                        "`peers.directory`: another process has held the lock of {shown} for {} s: look \
                         for a member that is stopped, or whose the directory is (`lsof`)",
                        LOCK_WAIT.as_secs()
                    );
                    return Err(Error::new(Status::System, detail));
                }
                Err(cause) => return Err(system(&format!("cannot lock {shown}"), cause)),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Not by its end: a child that is being forked may have it open.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// What a socket is in the file system, removed when dropped (W3).
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
    forks: u64,
}

impl SocketFile {
    /// Of a socket that has just been bound there: gives it its group, if any, and mode.
    ///
    /// Errors: `NOTSOCK`: something else is there by now, or it has other names, too (W4).
    fn of(path: &Path, (gid, mode): (Option<u32>, u32)) -> Result<SocketFile, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let bound = open(path, flags, Mode::empty())?;
        let Stat { st_dev, st_ino, st_mode, st_nlink, .. } = fstat(&bound)?;
        if FileType::from_raw_mode(st_mode) != FileType::Socket || st_nlink > 1 {
            return Err(Errno::NOTSOCK);
        }
        let file = SocketFile { path: path.into(), id: (st_dev, st_ino), forks: forks() };
        if let Some(gid) = gid {
            chownat(&bound, "", None, Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)?;
        }
        // The system changes no rights by such a descriptor, but by its name, which is no other file's.
        chmod(format!("/proc/self/fd/{}", bound.as_raw_fd()), Mode::from_raw_mode(mode))?;
        Ok(file)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let its = |found: Stat| (found.st_dev, found.st_ino) == self.id;
        if self.forks == forks() && lstat(&self.path).is_ok_and(its) {
            let _ = unlink(&self.path);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("squall-{name}-{}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            Scratch(path)
        }

        fn place(&self, group: &str) -> Place {
            let directory = self.0.clone();
            Place::new(group, &Peers { directory, ..Peers::default() }).unwrap()
        }

        fn names(&self) -> Vec<String> {
            let all = std::fs::read_dir(&self.0).unwrap();
            let mut names: Vec<String> =
                all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_seat_in_a_directory_is_had_once_and_leaves_no_trace() {
        let scratch = Scratch::new("seat");
        let place = scratch.place("g");
        assert!(place.call(0).unwrap().is_none());
        let listener = place.listen(0).unwrap().unwrap();
        assert!(place.listen(0).unwrap().is_none(), "it is taken");
        let other = place.listen(1).unwrap().unwrap();
        assert_eq!(scratch.names(), ["squall.g.0", "squall.g.1"]);
        let caller = place.call(0).unwrap().unwrap();
        assert!(listener.accept().unwrap().is_some());
        let found = std::fs::metadata(scratch.0.join("squall.g.0")).unwrap();
        assert_eq!(found.permissions().mode() & 0o777, 0o600);
        drop((listener, caller));
        assert_eq!(scratch.names(), ["squall.g.1"]);
        assert!(place.call(0).unwrap().is_none() && place.listen(0).unwrap().is_some());
        drop(other);
        assert_eq!(scratch.names(), [""; 0]);
    }

    /// What members leave that are killed, in any seat; not what others have put there.
    #[test]
    fn left_overs_are_removed_by_who_comes_next() {
        let scratch = Scratch::new("left");
        let leave = |name: &str| {
            let kept = std::os::unix::net::UnixListener::bind(scratch.0.join(name)).unwrap();
            drop(kept); // the file stays
        };
        ["squall.g.0", "squall.g.7", "squall.other.0"].iter().for_each(|name| leave(name));
        std::fs::write(scratch.0.join("squall.g.3"), "no socket").unwrap();
        let place = scratch.place("g");
        assert!(place.call(0).unwrap().is_none(), "nobody listens");
        let _seat = place.listen(0).unwrap().expect("it is free");
        assert_eq!(scratch.names(), ["squall.g.0", "squall.g.3", "squall.other.0"]);
        assert!(place.listen(3).unwrap().is_none(), "what is no socket stays");
        assert!(scratch.0.join("squall.g.0").metadata().unwrap().file_type().is_socket());
    }

    #[test]
    fn a_file_that_is_somebody_elses_by_now_stays() {
        let scratch = Scratch::new("swapped");
        let place = scratch.place("g");
        let first = place.listen(0).unwrap().unwrap();
        std::fs::remove_file(scratch.0.join("squall.g.0")).unwrap();
        let second = place.listen(0).unwrap().unwrap();
        drop(first);
        assert_eq!(scratch.names(), ["squall.g.0"]);
        drop(second);
    }

    #[test]
    fn rights_are_those_of_the_peers() {
        let scratch = Scratch::new("rights");
        let gid = rustix::process::getegid().as_raw();
        let mode = |peers: Peers| {
            let place = Place::new("g", &Peers { directory: scratch.0.clone(), ..peers }).unwrap();
            let _seat = place.listen(5).unwrap().unwrap();
            let found = std::fs::metadata(scratch.0.join("squall.g.5")).unwrap();
            assert_eq!(found.gid(), gid);
            found.permissions().mode() & 0o777
        };
        let group = Peers { group: gid.to_string(), ..Peers::default() };
        assert_eq!(mode(group), 0o660);
        let users = Peers { users: vec!["4711".into()], ..Peers::default() };
        assert_eq!(mode(users), 0o666);
    }

    /// Rights were given by name, after the socket was bound: who may write the directory put a link there
    /// meanwhile, to a file of that member's user, and could read or write that from then on.
    #[test]
    fn a_link_in_a_sockets_place_leads_nowhere() {
        let scratch = Scratch::new("link");
        let (file, name) = (scratch.0.join("private"), scratch.0.join("squall.g.0"));
        std::fs::write(&file, "mine").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let rights = (Some(rustix::process::getegid().as_raw()), 0o666);
        let refused = |what: &str| {
            assert_eq!(SocketFile::of(&name, rights).err(), Some(Errno::NOTSOCK), "{what}");
            let mode = file.metadata().unwrap().permissions().mode() & 0o777;
            assert!(mode == 0o600 && name.exists(), "{what}: {mode:o}");
            std::fs::remove_file(&name).unwrap();
        };
        std::os::unix::fs::symlink(&file, &name).unwrap();
        refused("a symbolic link");
        std::fs::hard_link(&file, &name).unwrap();
        refused("a hard link");
        let socket = scratch.0.join("socket");
        let _listens = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::hard_link(&socket, &name).unwrap();
        refused("a hard link to a socket");
        assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_directory_that_cannot_be_is_named() {
        let of = |directory: &str| {
            let directory = directory.into();
            let place = Place::new("g", &Peers { directory, ..Peers::default() });
            place.and_then(|place| place.listen(0).map(drop)).unwrap_err()
        };
        let absent = of("/nonexistent/squall");
        assert!(absent.detail.contains("/nonexistent/squall cannot be used by user"), "{absent}");
        let long = of(&format!("/{}", "x".repeat(100)));
        assert!(long.status == Status::Invalid && long.detail.contains("107"), "{long}");
    }

    #[test]
    fn a_place_has_one_name_for_all_who_can_meet_there() {
        let scratch = Scratch::new("name");
        let (here, usual) = (scratch.place("g").identity(), Place::usual("g").identity());
        assert_eq!(here, scratch.place("h").identity());
        assert!(here.starts_with("directory") && usual.starts_with("net"));
    }
}
