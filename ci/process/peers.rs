// SPDX-License-Identifier: MIT OR Apache-2.0
//! Members of several users, and of several network namespaces, that share memory; and who may not.

use super::*;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Users and a group of nobody's here.
const ALICE: u32 = 4_001;
const BOB: u32 = 4_002;
const CAROL: u32 = 4_003;
const CREW: u32 = 4_100;

/// A directory that a unix group may use, removed in the end.
struct Shared(PathBuf);

impl Shared {
    fn new(group: &str, gid: u32) -> Shared {
        let path = std::env::temp_dir().join(format!("squall-{group}"));
        std::fs::create_dir(&path).unwrap();
        std::os::unix::fs::chown(&path, None, Some(gid)).unwrap();
        let mode = std::fs::Permissions::from_mode(0o2770);
        std::fs::set_permissions(&path, mode).unwrap();
        Shared(path)
    }

    fn text(&self) -> String {
        self.0.display().to_string()
    }

    fn sockets(&self) -> Vec<String> {
        let all = std::fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> =
            all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A rank of a group of two, as a user with a group and a further one.
fn of(group: &str, rank: u16, (uid, gid, further): (u32, u32, u32), more: &Options<'_>) -> Process {
    let mut all: Vec<(&str, &dyn std::fmt::Display)> =
        vec![("uid", &uid), ("gid", &gid), ("groups", &further), ("count", &2_000)];
    all.extend(more.iter().copied());
    starts(group, 2, &all)(rank)
}

fn knock_as(group: &str, uid: u32) -> String {
    let arguments: &Options<'_> = &[("group", &group), ("members", &2), ("uid", &uid)];
    Process::start("knock", arguments).expect("told")
}

/// Members of two users: as those of a unix group, one by its own group and one by a further one, and
/// as users that are listed. A third user is refused, and hears why; the log is told once.
pub fn two_users_share_a_group() -> String {
    if !root() {
        return "SKIPPED: only root can be two users".into();
    }
    let (alice, bob) = ((ALICE, ALICE, CREW), (BOB, CREW, BOB));
    let listed = format!("{ALICE},{BOB}");
    let mut text = String::new();
    let policies: [&Options<'_>; 2] = [&[("peers_group", &CREW)], &[("peers_users", &listed)]];
    for policy in policies {
        let group = group_name("users");
        let mut first = of(&group, 0, alice, policy);
        until("rank 0 listens", || listens(&group, 0));
        let carol = refused(of(&group, 1, (CAROL, CAROL, CAROL), &[]));
        let named = [ALICE, CAROL].iter().all(|uid| carol.contains(&format!("user {uid}")));
        assert!(carol.starts_with("ForeignOwner") && named && carol.contains("`peers."), "{carol}");
        let told: Vec<String> = (0..3).map(|_| knock_as(&group, CAROL)).collect();
        for told in &told {
            assert!(
                told.contains("does not admit user 4003") && told.contains("user 4001"),
                "{told}"
            );
        }
        let mut second = of(&group, 1, bob, policy);
        let mut said = Vec::new();
        let heard = [&mut first, &mut second].map(|member| {
            loop {
                let line = member.line().expect("it ends well");
                match line.strip_prefix("done ") {
                    Some(rest) => break heard_of(rest),
                    None => said.push(line),
                }
            }
        });
        assert_eq!(heard[0], heard[1]);
        let logged: Vec<&String> = said.iter().filter(|line| line.contains("is refused")).collect();
        assert!(logged.len() == 1 && logged[0].contains("user 4003"), "{said:?}");
        for mut member in [first, second] {
            member.say("close");
            member.end_well();
        }
        text.push_str(&format!("{carol}\n{}\n{}\nthe two: {}\n", told[0], logged[0], heard[0]));
    }
    let alone = refused(of(&group_name("users"), 0, (CAROL, CAROL, CAROL), policies[0]));
    assert!(alone.starts_with("Invalid") && alone.contains("is not of group 4100"), "{alone}");
    text + &alone
}

/// What a member shows, one of another user can read, as it must, and not change: not by what it was
/// given, nor by looking for it in the owner's process.
pub fn another_user_cannot_write_either() -> String {
    if !root() {
        return "SKIPPED: only root can be two users".into();
    }
    let group = group_name("reader");
    let owner = of(&group, 0, (ALICE, ALICE, CREW), &[("peers_group", &CREW)]);
    until("rank 0 listens", || listens(&group, 0));
    let (pid, uid, gid) = (owner.pid(), BOB, CREW);
    let arguments: &Options<'_> = &[
        ("group", &group),
        ("members", &2),
        ("rank", &1),
        ("uid", &uid),
        ("gid", &gid),
        ("pid", &pid),
    ];
    let mut thief = Process::start("thief", arguments);
    let (mut text, mut read) = (String::new(), 0);
    while read < 2 {
        let line = thief.expect("tried");
        assert!(!line.contains("NOT REFUSED") && !line.ends_with("read: false"), "{line}");
        read += u64::from(line.ends_with("read: true"));
        text.push_str(&format!("{line}\n"));
    }
    assert!(text.contains("the owner's descriptors"), "{text}");
    drop((thief, owner));
    text
}

/// Two network namespaces, so two of abstract names, and one directory. A member that is killed leaves
/// its socket there; who comes after removes it.
pub fn namespaces_meet_in_a_directory() -> String {
    if !root() {
        return "SKIPPED: only root can make namespaces".into();
    }
    let group = group_name("volume");
    let shared = Shared::new(&group, CREW);
    let directory = shared.text();
    let (alice, bob) = ((ALICE, ALICE, CREW), (BOB, CREW, BOB));
    let there: &Options<'_> = &[
        ("peers_group", &CREW),
        ("directory", &directory),
        ("netns", &true),
        ("timeout_ms", &30_000),
    ];
    let apart: &Options<'_> = &[("peers_group", &CREW), ("netns", &true), ("timeout_ms", &300)];
    let abstracts = [of(&group, 0, alice, apart), of(&group, 1, bob, apart)].map(refused);
    assert!(abstracts.iter().all(|line| line.starts_with("NotComplete")), "{abstracts:?}");
    let mut members = [of(&group, 0, alice, there), of(&group, 1, bob, there)];
    members.iter_mut().for_each(|member| drop(member.expect("done")));
    assert_eq!(shared.sockets(), [format!("squall.{group}.0"), format!("squall.{group}.1")]);
    let carol = refused(of(&group, 1, (CAROL, CAROL, CAROL), &[("directory", &directory)]));
    assert!(carol.contains("cannot be used by user 4003"), "{carol}");
    members.iter_mut().for_each(Process::kill);
    drop(members.map(Process::end));
    assert_eq!(shared.sockets().len(), 2, "nobody was left to remove them");
    let heard = all_agree(vec![of(&group, 1, bob, there), of(&group, 0, alice, there)]);
    assert_eq!(shared.sockets(), [""; 0]);
    format!("{}\n{carol}\nin one directory: {heard}", abstracts[0])
}

/// In a user namespace without a map everybody else is user 65534, this process among them to itself:
/// that makes them no friends.
pub fn who_is_not_mapped_is_refused() -> String {
    if !root() {
        return "SKIPPED: only root can be two users".into();
    }
    let group = group_name("unmapped");
    let holder = of(&group, 0, (ALICE, ALICE, ALICE), &[("timeout_ms", &60_000)]);
    until("rank 0 listens", || listens(&group, 0));
    let mut lost = of(&group, 1, (ALICE, ALICE, ALICE), &[("userns", &true)]);
    let line = lost.line().expect("a word");
    if line.starts_with("SKIPPED") {
        return line;
    }
    let named = line.contains("user 65534") && line.contains("does not map");
    assert!(line.starts_with("error ForeignOwner") && named, "{line}");
    drop((holder, lost));
    line
}
