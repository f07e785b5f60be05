// SPDX-License-Identifier: MIT OR Apache-2.0
//! The group's secret: where it comes from, and the one function that it keys.
//!
//! It comes from a file that only its owner, this process' user, may read; from a descriptor that
//! this process was given; or from the application. Never from a command line or the environment:
//! others can read those.
//!
//! S1  A secret is at least `BYTES_MIN` bytes, and random: whoever stands between two members can
//!     try guesses at home against what they say (`threats.md`).
//! S2  Neither it nor what is derived from it is ever shown: no `Debug`, no sentence.
//! S3  Everything is a mark: a MAC over a label and the parts, each with its length before it, so
//!     that no two lists of parts are the same bytes, and nothing made for one purpose is of use for
//!     another.
//!
//! The MAC is HMAC-SHA256, of the crate that seals the records (`seal`), which also compares in
//! constant time and brings the system's random bytes: no other is needed. As a pseudo-random
//! function it derives the keys, too. A proof costs a fifth of a microsecond, the mark of the longest
//! hello thirty (`seal` has figures).

use crate::error::{Error, Status};
use crate::fabric::shm::socket::system;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use rustix::fs::{Mode, OFlags, fstat, open};
use rustix::io::Errno;
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// The least of a secret; 64 hexadecimal digits are 64.
pub const BYTES_MIN: usize = 32;
/// The most.
pub const BYTES_MAX: usize = 4096;
/// Fewer different bytes than this are no random secret: hexadecimal digits have 16.
const DIFFERENT_MIN: usize = 8;
/// How long a descriptor may keep its secret back.
const DESCRIPTOR_WAIT: Duration = Duration::from_secs(5);
/// A mark's bytes.
pub const MARK_BYTES: usize = 32;

/// What the members of a group have in common, and strangers lack.
#[derive(Clone)]
pub struct Secret(hmac::Key);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(not shown)")
    }
}

/// Random bytes of the system's, as many as an array has.
///
/// Errors: `System`: it gives none.
pub fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(Error::new(Status::System, "the system gives no random bytes (getrandom)")),
    }
}

/// What a MAC is over (S3).
fn message(label: &str, parts: &[&[u8]]) -> Vec<u8> {
    let all = || std::iter::once(label.as_bytes()).chain(parts.iter().copied());
    let mut message = Vec::with_capacity(all().map(|part| 8 + part.len()).sum());
    for part in all() {
        message.extend_from_slice(&(part.len() as u64).to_le_bytes());
        message.extend_from_slice(part);
    }
    message
}

fn invalid(detail: String) -> Error {
    Error::new(Status::Invalid, detail)
}

impl Secret {
    /// From bytes that the application has. `whence`: for the sentence of an error.
    ///
    /// One line end at the end does not count, so that an editor may have written it.
    /// Errors: `Invalid`: too short, too long, or not random.
    pub fn from_bytes(bytes: &[u8], whence: &str) -> Result<Secret, Error> {
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let made = "a good one is made by `squall secret FILE`";
        let count = bytes.len();
        if count < BYTES_MIN {
            let least = format!("the group secret of {whence} has {count} bytes, the least is");
            return Err(invalid(format!("{least} {BYTES_MIN}, random ones: {made}")));
        }
        if count > BYTES_MAX {
            let most = format!("the group secret of {whence} has more than {BYTES_MAX} bytes");
            return Err(invalid(format!("{most}: is that the right file? {made}")));
        }
        let mut seen = [false; 256];
        bytes.iter().for_each(|byte| seen[usize::from(*byte)] = true);
        let different = seen.iter().filter(|seen| **seen).count();
        if different < DIFFERENT_MIN {
            let detail = format!(
                "the group secret of {whence} is {count} bytes of only {different} kinds, so it \
                 is not random: {made}"
            );
            return Err(invalid(detail));
        }
        // As HKDF extracts: whatever the secret's form, the key is 32 bytes of this purpose only.
        let salt = hmac::Key::new(hmac::HMAC_SHA256, b"squall group secret over tcp, version 1");
        let key = hmac::sign(&salt, bytes);
        Ok(Secret(hmac::Key::new(hmac::HMAC_SHA256, key.as_ref())))
    }

    /// From a file. Blocks as reading a file does.
    ///
    /// Errors: `System`, `Limit`: it cannot be read. `Invalid`: it is no regular file, another user's,
    /// open to others, or holds no secret.
    pub fn from_file(path: &Path) -> Result<Secret, Error> {
        let name = path.display();
        // A FIFO would let this wait for its writer.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let cannot = |cause| system(&format!("the group secret in {name} cannot be read"), cause);
        let file = open(path, flags, Mode::empty()).map_err(cannot)?;
        let found = fstat(&file).map_err(cannot)?; // of what is open, whatever the name means by now
        let kind = rustix::fs::FileType::from_raw_mode(found.st_mode);
        if kind != rustix::fs::FileType::RegularFile {
            return Err(invalid(format!("the group secret {name} is no regular file")));
        }
        let me = rustix::process::geteuid().as_raw();
        let owner = found.st_uid;
        if owner != me {
            let detail = format!(
                "the group secret {name} belongs to user {owner}, this process is user {me}: give \
                 it a copy of its own (`install -m 600 -o {me} {name} COPY`)"
            );
            return Err(invalid(detail));
        }
        let mode = found.st_mode & 0o7777;
        if mode & 0o077 != 0 {
            let detail = format!(
                "the group secret {name} is open to other users (mode {mode:04o}): `chmod 600 \
                 {name}`, and make a new one if somebody may have read it"
            );
            return Err(invalid(detail));
        }
        let mut bytes = Vec::new();
        let read = File::from(file).take(BYTES_MAX as u64 + 3).read_to_end(&mut bytes);
        read.map_err(|cause| {
            Error::new(Status::System, format!("the group secret {name} cannot be read: {cause}"))
        })?;
        Secret::from_bytes(&bytes, &name.to_string())
    }

    /// From a descriptor: a pipe, or a file that somebody opened for this process. Reads to its
    /// end, for 5 s at the most.
    ///
    /// Errors: `System`: it cannot be read, or does not end. `Invalid`: it holds no secret.
    pub fn from_descriptor(descriptor: OwnedFd) -> Result<Secret, Error> {
        Secret::from_descriptor_within(descriptor, DESCRIPTOR_WAIT)
    }

    fn from_descriptor_within(descriptor: OwnedFd, wait: Duration) -> Result<Secret, Error> {
        let number = std::os::fd::AsRawFd::as_raw_fd(&descriptor);
        let whence = format!("descriptor {number}");
        let until = Instant::now() + wait;
        let mut bytes = Vec::new();
        let mut part = [0; 256];
        while bytes.len() <= BYTES_MAX + 2 {
            if !readable(descriptor.as_fd(), until) {
                let detail = format!(
                    "the group secret of {whence} does not end within {} s: write it, then close \
                     the writing end everywhere",
                    wait.as_secs_f64()
                );
                return Err(Error::new(Status::System, detail));
            }
            match rustix::io::read(&descriptor, &mut part) {
                Ok(0) => break,
                Ok(got) => bytes.extend_from_slice(&part[..got]),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(cause) => {
                    let detail = format!("the group secret of {whence} cannot be read: {cause}");
                    return Err(Error::new(Status::System, detail));
                }
            }
        }
        Secret::from_bytes(&bytes, &whence)
    }

    /// Makes a file with a new random secret that only this user may read. An existing file stays.
    ///
    /// Errors: `System`: it cannot be written, or is there already.
    pub fn create(path: &Path) -> Result<(), Error> {
        let bytes = random::<32>()?;
        let mut text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        text.push('\n');
        let cannot = |cause: std::io::Error| {
            let name = path.display();
            let remedy = match cause.kind() {
                std::io::ErrorKind::AlreadyExists => format!(
                    "; it stays as it is (`squall secret --check {name}` says whether it will do)"
                ),
                _ => String::new(),
            };
            let detail = format!("the group secret {name} cannot be made: {cause}{remedy}");
            Error::new(Status::System, detail)
        };
        let mut options = File::options();
        let mut file =
            options.write(true).create_new(true).mode(0o600).open(path).map_err(cannot)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(cannot)
    }

    /// What only who holds the secret can make of these parts (S3).
    pub fn mark(&self, label: &str, parts: &[&[u8]]) -> [u8; MARK_BYTES] {
        let mark = hmac::sign(&self.0, &message(label, parts));
        mark.as_ref().try_into().expect("SHA-256 has as many bytes")
    }

    /// Whether these bytes are that mark, in constant time.
    pub fn verify(&self, label: &str, parts: &[&[u8]], mark: &[u8]) -> bool {
        hmac::verify(&self.0, &message(label, parts), mark).is_ok()
    }
}

/// Waits until there is something to be read, or the end. `false`: not until then.
fn readable(descriptor: BorrowedFd<'_>, until: Instant) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let time = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ };
        match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&time)) {
            Ok(0) => return false,
            Err(Errno::INTR) => {}
            _ => return true, // whatever is wrong, reading says so
        }
    }
}

#[cfg(test)]
mod tests;
