// SPDX-License-Identifier: MIT OR Apache-2.0
//! `squall stat`, `info`, `secret` and `sim` from outside: what they say of a group that runs, of a
//! member that does not poll, of a group that is not there, of this machine, of a few seeds.

use serde_json::Value;
use squall::driver::clock;
use squall::driver::config::{Changes, Config, Shards, SubgroupConfig};
use squall::driver::group::Group;
use squall::mem::Message;
use std::io::{Read, Write};
use std::process::{Child, Command, Output, Stdio};

fn squall(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_squall"));
    command.args(arguments).stdin(Stdio::null()).output().expect("the binary under test starts")
}

fn json_of(arguments: &[&str]) -> Value {
    let output = squall(arguments);
    assert!(output.status.success(), "{}", text_of(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("standard output is one JSON value")
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn member(group: &str, rank: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_squall"));
    command.args(["cat", "--group", group, "--members", "2", "--rank", rank]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// Two members that have printed ten lines and wait for more.
fn pair(group: &str) -> [Child; 2] {
    let mut pair = [member(group, "0"), member(group, "1")];
    pair[0].stdin.as_mut().unwrap().write_all(b"a line\n".repeat(10).as_slice()).unwrap();
    for member in &mut pair {
        member.stdout.as_mut().unwrap().read_exact(&mut [0; 90]).unwrap();
    }
    pair
}

fn signal(member: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &member.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

fn end(pair: [Child; 2]) {
    for mut member in pair {
        member.kill().unwrap();
        member.wait().unwrap();
    }
}

#[test]
fn a_running_group_is_shown() {
    let group = format!("stat-test-{}", std::process::id());
    let pair = pair(&group);
    // A page is written when its member goes to sleep, a moment after the lines are printed.
    let mut looks = (0..1000).map(|_| json_of(&["stat", &group, "--json"]));
    let all =
        |value: &Value| (0..2).all(|rank| value["members"][rank]["subgroups"][0]["messages"] == 10);
    let value = looks.find(all).expect("ten messages at each member");
    let members = value["members"].as_array().unwrap();
    assert_eq!(members.len(), 2);
    for (rank, member) in members.iter().enumerate() {
        assert_eq!(
            (member["rank"].as_u64(), member["state"].as_str()),
            (Some(rank as u64), Some("runs"))
        );
        assert_eq!(member["pid"], pair[rank].id());
        let subgroup = &member["subgroups"][0];
        assert_eq!(subgroup["sent"], if rank == 0 { 10 } else { 0 }, "{subgroup}");
        assert_eq!(subgroup["lag"], 0, "{subgroup}");
    }
    let output = squall(&["stat", &group]);
    let text = text_of(&output.stdout);
    for words in ["2 members", "subgroup 0: stable mode, 2 senders", "refused", "batch"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    end(pair);
}

#[test]
fn a_member_that_does_not_poll_is_told() {
    let group = format!("stat-test-stopped-{}", std::process::id());
    let pair = pair(&group);
    signal(&pair[1], "-STOP");
    let output = squall(&["stat", &group]);
    let text = text_of(&output.stdout);
    assert!(output.status.success(), "{}", text_of(&output.stderr));
    let pid = pair[1].id();
    let expected = format!("rank 1 (process {pid}): does not answer: it does not poll");
    assert!(text.contains(&expected), "{text}");
    end(pair);
}

#[test]
fn a_group_that_is_not_there_is_told() {
    let output = squall(&["stat", "no-such-group-here"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text_of(&output.stderr).contains("no group no-such-group-here on this host"));
}

/// Where a configuration says that members meet; without it nobody is found.
#[test]
fn members_in_a_directory_are_found() {
    let name = format!("stat-place-{}", std::process::id());
    let directory = std::env::temp_dir().join(format!("squall-{name}"));
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("g.toml");
    let text = format!("group = \"{name}\"\nmembers = 1\npeers.directory = {directory:?}\n");
    std::fs::write(&file, text).unwrap();
    let stat = || squall(&["stat", "--config", file.to_str().unwrap()]);
    let output = stat();
    let why = text_of(&output.stderr);
    let there = format!("no group {name} in {}", directory.display());
    assert!(output.status.code() == Some(1) && why.contains(&there), "{why}");
    let mut config = Config::new(&name, 0, 1);
    config.peers.directory = directory.clone();
    let group = Group::open(&config, Box::new(|_: u16, _: &[Message]| {})).unwrap();
    let polling = group.spawn(None).unwrap();
    let output = stat();
    let text = text_of(&output.stdout);
    assert!(text.contains(&format!("group {name}: 1 member")), "{text}{}", text_of(&output.stderr));
    assert!(!squall(&["stat", &name]).status.success());
    drop(polling);
    std::fs::remove_dir_all(&directory).unwrap();
}

/// Nobody is found there by the group's own name: `squall cat` tried for a minute.
#[test]
fn parts_of_a_machine_are_told() {
    let name = format!("stat-part-{}", std::process::id());
    let file = std::env::temp_dir().join(format!("squall-{name}.toml"));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = format!(
        "group = \"{name}\"\nmembers = 1\nfabric = \"auto\"\ncore = 0\n[network]\nhost = \"east\"\n\
         founders = [\"127.0.0.1:{port}\"]\nlisten = [\"127.0.0.1:{port}\"]\ntrusted_network = true\n"
    );
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_squall"));
    command.args(["cat", "--config", file]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut member = command.stderr(Stdio::null()).spawn().unwrap();
    member.stdin.as_mut().unwrap().write_all(b"a line\n").unwrap();
    member.stdout.as_mut().unwrap().read_exact(&mut [0; 9]).unwrap();
    let part = format!("{name}@east");
    for verb in [&["stat", &name][..], &["cat", "--group", &name, "--join"]] {
        let output = squall(verb);
        let why = text_of(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{why}");
        assert!(why.contains(&part) && why.contains("--config FILE"), "{why}");
    }
    assert_eq!(json_of(&["stat", "--config", file, "--json"])["members"][0]["state"], "runs");
    assert_eq!(json_of(&["stat", &part, "--json"])["members"][0]["state"], "runs");
    drop(member.stdin.take());
    assert!(member.wait().unwrap().success());
    std::fs::remove_file(file).unwrap();
}

#[test]
fn the_machine_is_described() {
    let lines = json_of(&["info", "--json"]);
    let lines = lines.as_array().unwrap();
    assert!(lines.len() > 10);
    for line in lines {
        let remedy = line["remedy"].as_str().unwrap();
        assert_eq!(line["state"] == "ok", remedy.is_empty(), "a remedy for each lack: {line}");
    }
    let memory = lines.iter().find(|line| line["name"] == "shared memory").unwrap();
    assert_eq!(memory["state"], "ok");
    assert!(text_of(&squall(&["info"]).stdout).contains("huge pages"));
}

#[test]
fn seeds_are_run() {
    let value = json_of(&["sim", "--seeds", "40", "--json"]);
    assert_eq!(value["passed"].as_bool(), Some(true));
    let worlds = value["worlds"].as_array().unwrap();
    let seeds: Vec<_> = worlds.iter().map(|world| world["seeds"].as_u64()).collect();
    assert_eq!(seeds, [Some(40), Some(40)]);
    let output = squall(&["sim", "--seed", "7"]);
    assert!(output.status.success(), "{}", text_of(&output.stderr));
    assert!(text_of(&output.stdout).contains("no violation"));
}

/// A group of one in this process: the first shard lacks a member, the second one both.
#[test]
fn a_shard_that_waits_is_told() {
    let name = format!("stat-waits-{}", std::process::id());
    let mut config = Config::new(&name, 0, 1);
    config.membership = Changes::Views;
    config.subgroups.insert(0, SubgroupConfig::default());
    config.subgroups[0].shards = Shards { count: 2, members_min: 2, members_max: 0 };
    let group = Group::open(&config, Box::new(|_: u16, _: &[Message]| {})).unwrap();
    let polling = group.spawn(None).unwrap();
    let output = squall(&["stat", &name]);
    let text = text_of(&output.stdout);
    let shard = |at: u32| format!("subgroup {at} (shard {at} of the configured subgroup 0)");
    let waits = format!("{}: stable mode, 0 senders, waits for 1 more\n", shard(0));
    assert!(text.contains(&waits), "{text}");
    let empty = format!("{}: stable mode, 0 senders, waits for 2 more, no members\n", shard(1));
    assert!(text.contains(&empty), "{text}");
    assert!(
        text.contains(
            "subgroup 2 (shard 0 of the configured subgroup 1): stable mode, 1 senders\n"
        )
    );
    let value = json_of(&["stat", &name, "--json"]);
    assert_eq!(value["members"][0]["subgroups"][0]["lacks"], 1);
    assert_eq!(value["members"][0]["evicted"], 0);
    let shard = &value["subgroups"][1];
    assert_eq!([&shard["members"], &shard["lacks"], &shard["of"]], [0, 2, 0], "{value}");
    drop(polling);
}

/// A group of one in this process, which `squall cat` joins: a change to both, which begins for the
/// other with the view that it is in.
#[test]
fn steps_of_a_view_change_are_told() {
    let name = format!("stat-steps-{}", std::process::id());
    let mut config = Config::new(&name, 0, 1);
    config.membership = Changes::Views;
    let group = Group::open(&config, Box::new(|_: u16, _: &[Message]| {})).unwrap();
    let polling = group.spawn(None).unwrap();
    let begun = clock().0;
    let value = json_of(&["stat", &name, "--json"]);
    assert_eq!(value["members"][0]["view_changes"], 0);
    assert!(value["members"][0]["last_change"]["built_ns"].is_null(), "{value}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_squall"));
    command.args(["cat", "--group", &name, "--join"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut joiner = command.stderr(Stdio::null()).spawn().unwrap();
    joiner.stdin.as_mut().unwrap().write_all(b"a line\n").unwrap();
    joiner.stdout.as_mut().unwrap().read_exact(&mut [0; 9]).unwrap();
    let mut looks = (0..1000).map(|_| json_of(&["stat", &name, "--json"]));
    // A member that does not answer within a second is told of without figures.
    let delivers = |value: &Value| {
        let [old, new] = [0, 1].map(|at| &value["members"][at]);
        old["last_change"]["delivers_ns"].is_u64() && new["view_changes"].is_u64()
    };
    let value = looks.find(delivers).expect("the first message is delivered");
    let (old, new) = (&value["members"][0], &value["members"][1]);
    assert_eq!([&old["view_changes"], &new["view_changes"]], [1, 1], "{value}");
    let joined = &new["last_change"];
    assert!(joined["ended_ns"].is_null() && joined["built_ns"].is_u64(), "{value}");
    let steps = ["wedged", "echoed", "ended", "passed", "installed", "built", "delivers"];
    let times = steps.map(|step| old["last_change"][format!("{step}_ns")].as_u64().unwrap());
    assert!(times.is_sorted() && begun <= times[0] && times[6] <= clock().0, "{value}");
    let begins = |line: &str| line.trim_start().starts_with("0 ");
    let mut texts = (0..1000).map(|_| text_of(&squall(&["stat", &name]).stdout));
    let told = |text: &String| {
        text.split_once("\nlast view change\n").is_some_and(|(_, table)| table.lines().any(begins))
    };
    let text = texts.find(told).expect("the old member answers");
    let (_, table) = text.split_once("\nlast view change\n").expect(&text);
    let words = |at: usize| table.lines().nth(at).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(words(0)[..4], ["rank", "changes", "ago", "suspected"], "{text}");
    assert!(words(0).ends_with(&["built", "delivers"]), "{text}");
    drop(joiner.stdin.take());
    assert!(joiner.wait().unwrap().success());
    drop(polling);
}

#[test]
fn a_secret_is_made_once_and_checked() {
    let name = format!("squall-cli-secret-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let _ = std::fs::remove_file(&path);
    let file = path.to_str().unwrap();
    let run = |arguments: &[&str]| {
        let output = squall(arguments);
        assert!(output.stdout.is_empty(), "a secret is not printed");
        (output.status.success(), text_of(&output.stderr))
    };
    assert!(run(&["secret", file]).0 && run(&["secret", "--check", file]).0);
    let made = std::fs::read(&path).unwrap();
    let (done, why) = run(&["secret", file]);
    assert!(!done && why.contains("exists") && std::fs::read(&path).unwrap() == made, "{why}");
    assert!(why.contains(&format!("squall secret --check {file}")), "a remedy: {why}");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&path, open).unwrap();
    let (fits, why) = run(&["secret", "--check", file]);
    assert!(!fits && why.contains(&format!("chmod 600 {file}")), "{why}");
    std::fs::remove_file(&path).unwrap();
}
