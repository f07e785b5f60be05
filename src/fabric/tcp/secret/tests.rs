// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a secret may come from, and what it is good for.

use super::*;
use crate::fabric::tcp::session::cases;
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, chmod, chown, mknodat};
use rustix::pipe::pipe;
use std::path::PathBuf;

const GOOD: &[u8] = b"0123456789abcdef0123456789abcdef";

fn same(one: &Secret, other: &Secret) -> bool {
    one.mark("", &[]) == other.mark("", &[])
}

/// A file that vanishes.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let name = format!("squall-secret-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        Scratch(path)
    }

    fn holding(name: &str, bytes: &[u8]) -> Scratch {
        let scratch = Scratch::new(name);
        let mut options = File::options();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&scratch.0).unwrap();
        file.write_all(bytes).unwrap();
        scratch
    }

    fn refused(&self) -> String {
        let error = Secret::from_file(&self.0).unwrap_err();
        assert_eq!(error.status, Status::Invalid, "{error}");
        assert!(error.detail.contains(&*self.0.to_string_lossy()), "{error}");
        error.detail
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_made_secret_can_be_read_by_its_owner_only() {
    let (one, other) = (Scratch::new("made"), Scratch::new("made-too"));
    Secret::create(&one.0).unwrap();
    Secret::create(&other.0).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&one.0.metadata().unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o600);
    assert_eq!(one.0.metadata().unwrap().len(), 65);
    let secret = Secret::from_file(&one.0).unwrap();
    assert!(same(&secret, &Secret::from_file(&one.0).unwrap()));
    assert!(!same(&secret, &Secret::from_file(&other.0).unwrap()));
    assert!(Secret::create(&one.0).unwrap_err().detail.contains("exists"));
    assert_eq!(format!("{secret:?}"), "Secret(not shown)");
}

#[test]
fn a_file_open_to_others_is_refused_with_the_remedy() {
    let file = Scratch::holding("mode", GOOD);
    for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o777] {
        chmod(&file.0, Mode::from_raw_mode(mode)).unwrap();
        let detail = file.refused();
        assert!(detail.contains(&format!("mode {mode:04o}")), "{detail}");
        assert!(detail.contains(&format!("`chmod 600 {}`", file.0.display())), "{detail}");
    }
    chmod(&file.0, Mode::from_raw_mode(0o400)).unwrap();
    Secret::from_file(&file.0).unwrap();
}

#[test]
fn a_file_of_another_user_is_refused() {
    let file = Scratch::holding("owner", GOOD);
    let nobody = rustix::process::Uid::from_raw(65534);
    if chown(&file.0, Some(nobody), None).is_err() {
        return; // only root may give a file away
    }
    let detail = file.refused();
    assert!(detail.contains("belongs to user 65534"), "{detail}");
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let fifo = Scratch::new("fifo");
    mknodat(CWD, &fifo.0, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    assert!(fifo.refused().contains("no regular file"), "and nobody waits for its writer");
    let folder = Secret::from_file(&std::env::temp_dir()).unwrap_err();
    assert!(folder.detail.contains("no regular file"), "{folder}");
    let absent = Secret::from_file(&Scratch::new("absent").0).unwrap_err();
    assert_eq!(absent.status, Status::System);
}

#[test]
fn a_secret_is_long_and_random() {
    let refused = |bytes: &[u8]| Secret::from_bytes(bytes, "here").unwrap_err().detail;
    assert!(refused(b"").contains("has 0 bytes"));
    assert!(refused(b"correct horse battery staple\n").contains("has 28 bytes"));
    assert!(refused(&[b'a'; 64]).contains("1 kinds"));
    assert!(refused(&[7; BYTES_MAX + 1]).contains("more than 4096"));
    assert!(refused(b"").contains("`squall secret FILE`"));
    let end = |end: &[u8]| Secret::from_bytes(&[GOOD, end].concat(), "here").unwrap();
    assert!(same(&end(b""), &end(b"\n")) && same(&end(b""), &end(b"\r\n")));
    assert!(!same(&end(b""), &end(b"\n\n")) && !same(&end(b""), &end(b" ")));
    let long = Scratch::holding("long", &GOOD.repeat(200));
    assert!(long.refused().contains("more than 4096"));
}

#[test]
fn a_descriptor_may_hold_the_secret() {
    let (reader, writer) = pipe().unwrap();
    let write = std::thread::spawn(move || {
        for half in GOOD.chunks(7) {
            rustix::io::write(&writer, half).unwrap();
            std::thread::yield_now();
        }
    });
    let secret = Secret::from_descriptor(reader).unwrap();
    write.join().unwrap();
    assert!(same(&secret, &Secret::from_bytes(GOOD, "here").unwrap()));
    let file = Scratch::holding("open", GOOD);
    let opened = File::open(&file.0).unwrap().into();
    assert!(same(&secret, &Secret::from_descriptor(opened).unwrap()));
}

/// Its writer forgets to close it, or a forked child holds it.
#[test]
fn a_descriptor_that_does_not_end_is_given_up() {
    let (reader, writer) = pipe().unwrap();
    rustix::io::write(&writer, GOOD).unwrap();
    let error = Secret::from_descriptor_within(reader, Duration::from_millis(20)).unwrap_err();
    assert!(error.detail.contains("does not end within 0.02 s"), "{error}");
    let (reader, writer) = pipe().unwrap();
    rustix::io::write(&writer, &[7; BYTES_MAX + 300]).unwrap();
    let error = Secret::from_descriptor(reader).unwrap_err();
    assert!(error.detail.contains("more than 4096"), "{error}");
}

#[test]
fn random_bytes_differ() {
    assert_ne!(random::<32>().unwrap(), random::<32>().unwrap());
}

/// No two lists of parts are the same bytes (S3).
#[test]
fn marks_depend_on_label_and_parts_and_their_ends() {
    let secret = Secret::from_bytes(GOOD, "here").unwrap();
    let other = Secret::from_bytes(&[GOOD, b"x"].concat(), "here").unwrap();
    let all: [(&Secret, &str, &[&[u8]]); 6] = [
        (&secret, "a", &[b"bc", b"d"]),
        (&secret, "a", &[b"b", b"cd"]),
        (&secret, "ab", &[b"c", b"d"]),
        (&secret, "a", &[b"bcd"]),
        (&secret, "a", &[b"bc", b"d", b""]),
        (&other, "a", &[b"bc", b"d"]),
    ];
    for (at, (of, label, parts)) in all.iter().enumerate() {
        let mark = of.mark(label, parts);
        for (which, (of, label, parts)) in all.iter().enumerate() {
            assert_eq!(of.verify(label, parts, &mark), which == at, "{which} for {at}");
        }
        assert!(!of.verify(label, parts, &mark[1..]) && !of.verify(label, parts, b""));
    }
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn fuzz_any_bytes_are_a_secret_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..80),
        times in 1..60usize,
    ) {
        let bytes = bytes.repeat(times);
        match Secret::from_bytes(&bytes, "here") {
            Ok(_) => prop_assert!((BYTES_MIN..=BYTES_MAX + 2).contains(&bytes.len())),
            Err(error) => prop_assert_eq!(error.status, Status::Invalid),
        }
    }
}
