// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a file and an environment come to, and what errors say.

use super::*;
use crate::driver::config::Idle;
use crate::group::detector::lag::Lag;

const NOTHING: [(&str, &str); 0] = [];

fn read(text: &str) -> Result<Settings, String> {
    Settings::read("squall.toml", text, NOTHING).map_err(|why| why.detail)
}

fn refused(text: &str) -> String {
    read(text).unwrap_err()
}

#[test]
fn a_file_says_what_a_group_is() {
    let text = r#"
        group = "prices"
        rank = 1
        members = 3
        membership = "views"
        idle = "spin"
        core = 2
        suspicion = "250ms"

        [[subgroup]]
        name = "orders"
        message_bytes_max = "4KiB"
        lag = "evict:2s"

        [[subgroup]]
        name = "quotes"
        senders = [0, 2]
        mode = "received"
        window = 64
    "#;
    let settings = read(text).unwrap();
    let Config { group, rank, members, idle, suspicion_ns, subgroups, .. } = settings.config;
    assert_eq!((group.as_str(), rank, members, idle), ("prices", 1, 3, Idle::Spin));
    assert_eq!((settings.core, suspicion_ns), (Some(2), 250_000_000));
    assert_eq!((subgroups[0].message_bytes_max, subgroups[0].window), (4096, 4096));
    assert_eq!(subgroups[0].lag, Lag::Evict { after_ns: 2_000_000_000 });
    assert_eq!((subgroups[1].senders.as_deref(), subgroups[1].window), (Some(&[0, 2][..]), 64));
}

#[test]
fn peers_are_named_or_numbered() {
    let text =
        "group = \"g\"\n[peers]\nusers = [\"alice\", 1002]\ngroup = 2000\ndirectory = \"/run/g\"";
    let peers = read(text).unwrap().config.peers;
    assert_eq!((peers.users, peers.group.as_str()), (vec!["alice".into(), "1002".into()], "2000"));
    assert_eq!(peers.directory, std::path::Path::new("/run/g"));
    let variables = [("SQUALL_PEERS__USERS", "bob,17"), ("SQUALL_PEERS__GROUP", "crew")];
    let settings = Settings::read("squall.toml", text, variables).unwrap();
    assert_eq!(settings.config.peers.users, ["bob", "17"]);
    assert_eq!(settings.config.peers.group, "crew");
    assert!(refused("group = \"g\"\npeers.user = 1").contains("did you mean `peers.users`?"));
}

#[test]
fn an_error_names_line_value_and_remedy() {
    let cases = [
        ("group = \"g\"\n\nrnak = 1", "squall.toml:3: unknown key `rnak`; did you mean `rank`?"),
        (
            "group = \"g\"\n[[subgroup]]\nwindw = 1",
            "squall.toml:3: unknown key `windw` in [[subgroup]]; did you mean `window`?",
        ),
        ("group = \"g\"\nrank = \"x\"", "squall.toml:2: rank: \"x\" must be a number, 0 to 63"),
        (
            "group = \"g\"\nsuspicion = 5",
            "squall.toml:2: suspicion: 5 must be a time with its unit",
        ),
        (
            "group = \"g\"\nidle = \"sleep\"",
            "squall.toml:2: idle: \"sleep\" must be one of \"spin\", \"yield\", \"park\"",
        ),
        ("group = \"g\"\nrank = 1\nrank = 2", "squall.toml:3: duplicate key"),
        ("group = \"g\"\nrank = ", "squall.toml:2:"),
        ("members = 2", "no name of the group"),
        ("group = \"g\"\nrank = 3\nmembers = 2", "rank 3 of 2 members"),
        ("group = \"g\"\n[subgroup]\nwindow = 1", "squall.toml:2: `subgroup` is a list of tables"),
        ("group = \"g\"\n[[subgroup]]\nlag = \"evict\"", "squall.toml:3: lag: \"\" must be a time"),
        (
            "group = \"g\"\nliveness_every = 1.5",
            "squall.toml:2: liveness_every: a number with a fraction must be",
        ),
        (
            "group = \"g\"\nnothing.like.it = 1",
            "squall.toml:2: unknown key `nothing.like`; `squall config --example`",
        ),
    ];
    for (text, expected) in cases {
        let why = refused(text);
        assert!(why.contains(expected), "{text:?}: {why}");
    }
}

/// What was wrong with an address was found when the group was opened, and not where it stands.
#[test]
fn an_address_that_is_none_is_found_in_its_line() {
    let cases = [
        ("founders", "[\"a:1\", \"b:99999\"]", "`b:99999`: the port 99999"),
        ("founders", "[\"*:7471\"]", "`*:7471` is where to listen"),
        ("contacts", "[\"http://a:1\"]", "without `http://`"),
        ("contacts", "[\"a:0\"]", "port 0"),
        ("advertise", "\"0.0.0.0:1\"", "`0.0.0.0:1` is where to listen"),
        ("listen", "[\"10.0.0.256:1\"]", "an IPv4 address is four numbers"),
    ];
    for (key, value, expected) in cases {
        let why = refused(&format!("group = \"g\"\n[network]\n{key} = {value}"));
        assert!(why.starts_with(&format!("squall.toml:3: network.{key}: ")), "{why}");
        assert!(why.contains(expected), "{why}");
    }
}

/// Only the file was named, or not even that.
#[test]
fn what_does_not_fit_names_its_line() {
    let far = "group = \"g\"\nfabric = \"tcp\"\n[network]\ntrusted_network = true\n";
    let cases = [
        (
            "group = \"g\"\nrank = 3\nmembers = 2".to_string(),
            "squall.toml:2: rank 3 of 2 members (squall.toml:3): ranks are 0 to 1",
        ),
        (
            "group = \"g\"\nrank = 1".into(),
            "squall.toml:2: rank 1 of 1 members (`members` is not set): ranks are 0 to 0",
        ),
        ("rank = 0\ngroup = \"a/b\"".into(), "squall.toml:2: group: \"a/b\" must be 1 to"),
        (
            "group = \"g\"\nsuspicion = \"1ms\"".into(),
            "squall.toml:2: suspicion: \"1ms\" must be 20ms to 1h, or \"0s\"",
        ),
        (
            "group = \"g\"\n[[subgroup]]\nlag = \"report:2h\"".into(),
            "squall.toml:3: lag: \"report:2h\" must be",
        ),
        (
            "group = \"g\"\nmembers = 2\n[[subgroup]]\n\n[[subgroup]]\nsenders = [7]".into(),
            "squall.toml:5: [[subgroup]] 1: sender 7 is not among [0, 1]",
        ),
        (
            format!("{far}founders = [\"a:1\"]\nhost = \"a b\""),
            "squall.toml:6: network.host: \"a b\" must be at most 24 letters",
        ),
        (
            format!("{far}founders = [\"a:1\", \"b:1\"]"),
            "squall.toml:5: `founders` names 2 addresses for 1 members (`members` is not set)",
        ),
        (
            format!("members = 3\n{far}founders = [\"a:1\", \"b:1\"]"),
            "squall.toml:6: `founders` names 2 addresses for 3 members (squall.toml:1)",
        ),
        (
            format!("{far}founders = [\"a:1\"]\nlisten = [\"host-a:7471\"]"),
            "squall.toml:6: network.listen: `host-a:7471` is a name",
        ),
        ("group = \"g\"\njoin = true".into(), "squall.toml:2: `join` needs membership = \"views\""),
        (
            "group = \"g\"\n[netwrok]\n".into(),
            "squall.toml:2: unknown section `netwrok`; did you mean `network`?",
        ),
    ];
    for (text, expected) in cases {
        let why = refused(&text);
        assert!(why.contains(expected), "{text:?}: {why}");
    }
}

/// Who forgets a section, or writes on behind one, is told of another key that begins alike.
#[test]
fn a_key_of_another_section_is_the_nearest() {
    let cases = [
        ("listen = []", "did you mean `network.listen`?"),
        ("founders = []", "did you mean `network.founders`?"),
        ("secretfile = \"x\"", "did you mean `network.secret_file`?"),
        ("[network]\nsuspicion = \"1s\"", "did you mean `suspicion`?"),
    ];
    for (text, expected) in cases {
        let why = refused(&format!("group = \"g\"\n{text}"));
        assert!(why.contains(expected), "{text:?}: {why}");
    }
    let variables = [("SQUALL_NETWORK_LISTEN", "*:7000")];
    let why = Settings::read("squall.toml", "group = \"g\"", variables).unwrap_err().detail;
    assert!(why.contains("did you mean SQUALL_NETWORK__LISTEN?"), "{why}");
}

/// A container has its secret in a descriptor, whatever the file says that it shares with others.
#[test]
fn a_secret_of_the_environment_wins_over_the_files() {
    use crate::driver::network::SecretFrom;
    let file = |key: &str| {
        format!("group = \"g\"\nfabric = \"tcp\"\n[network]\nfounders = [\"a:1\"]\n{key}\n")
    };
    let secret = |key: &str, variables: &[(&str, &str)]| {
        let settings = Settings::read("squall.toml", &file(key), variables.iter().copied());
        settings.map(|of| (of.config.network.secret.clone().unwrap(), of.keys().count()))
    };
    let (by_file, by_fd) = ("secret_file = \"s\"", "secret_fd = 3");
    let fd = secret(by_file, &[("SQUALL_NETWORK__SECRET_FD", "4")]).unwrap();
    assert_eq!(fd, (SecretFrom::Descriptor(4), 4));
    let path = secret(by_fd, &[("SQUALL_NETWORK__SECRET_FILE", "t")]).unwrap();
    assert_eq!(path, (SecretFrom::File("t".into()), 4));
    let both = [("SQUALL_NETWORK__SECRET_FILE", "t"), ("SQUALL_NETWORK__SECRET_FD", "4")];
    assert!(secret("", &both).unwrap_err().detail.contains("there is one secret"));
    assert!(secret(&format!("{by_file}\n{by_fd}"), &[]).is_err());
    let trusts = secret(by_file, &[("SQUALL_NETWORK__TRUSTED_NETWORK", "true")]);
    assert!(trusts.unwrap_err().detail.contains("nothing would be protected"));
}

#[test]
fn contradictions_name_both_places() {
    let far = "group = \"g\"\nfabric = \"tcp\"\nnetwork.founders = [\"a:1\"]\n";
    let cases = [
        (
            "group = \"g\"\njoin = true\nmembership = \"views\"\nrank = 1".to_string(),
            "squall.toml:2: `join` and `rank` (squall.toml:4)",
        ),
        (
            format!("{far}membership = \"fixed\"\nnetwork.trusted_network = true"),
            "squall.toml:2: `fabric` and `membership` (squall.toml:4)",
        ),
        (
            format!("{far}network.trusted_network = true\nnetwork.secret_fd = 3"),
            "`network.trusted_network` and `network.secret_fd` (squall.toml:5)",
        ),
        (far.into(), "`secret_file`"),
        (format!("{far}members = 2\nnetwork.secret_fd = 3"), "names 1 addresses for 2 members"),
        (
            "group = \"g\"\nnetwork.listen = [\"10.0.0.1:1\"]".into(),
            "squall.toml:2: `network.listen` says nothing with fabric = \"shm\"",
        ),
    ];
    for (text, expected) in cases {
        let why = refused(&text);
        assert!(why.contains(expected), "{text:?}: {why}");
    }
    let settings = read(&format!("{far}network.trusted_network = true")).unwrap();
    assert_eq!(settings.config.membership, Changes::Views);
}

/// One file for all members: who joins has `join = true` in its environment.
#[test]
fn one_file_is_for_founders_and_for_those_that_join() {
    let text = "group = \"g\"\nmembers = 2\nfabric = \"tcp\"\n[network]\n\
                founders = [\"a:1\", \"b:1\"]\ncontacts = [\"all\"]\nsecret_fd = 3\n";
    for variable in [("SQUALL_RANK", "1"), ("SQUALL_JOIN", "true")] {
        let settings = Settings::read("squall.toml", text, [variable]).unwrap();
        assert_eq!(settings.config.join, variable.0 == "SQUALL_JOIN");
    }
    let alone = "group = \"g\"\nfabric = \"tcp\"\njoin = true\nnetwork.secret_fd = 3\n";
    assert!(refused(alone).contains("`contacts`"), "{}", refused(alone));
}

/// What a program has set stays, unless file or environment say otherwise; what is missing may come.
#[test]
fn settings_over_a_base_need_not_be_complete() {
    let base = || {
        let mut base = Config::new("mine", 0, 3);
        base.subgroups.push(Subgroup { window: 8, ..Subgroup::default() });
        base.idle = Idle::Spin;
        base
    };
    let over = |variables: &[(&str, &str)]| {
        let variables = variables.iter().map(|(key, value)| ((*key).into(), (*value).into()));
        Settings::over(base(), None, variables).map_err(|why| why.detail)
    };
    let settings = over(&[("SQUALL_SUBGROUP__1__LANES", "2"), ("SQUALL_FABRIC", "auto")]).unwrap();
    let Config { subgroups, idle, group, membership, .. } = &settings.config;
    assert_eq!((subgroups.len(), subgroups[1].window, subgroups[1].lanes), (2, 8, 2));
    assert_eq!((*idle, group.as_str(), *membership), (Idle::Spin, "mine", Changes::Views));
    assert!(settings.sets_subgroups() && settings.is_set("fabric") && !settings.is_set("idle"));
    assert!(!over(&[]).unwrap().sets_subgroups());
    let why = over(&[("SQUALL_SUBGROUP__2__LANES", "2")]).unwrap_err();
    assert!(why.contains("there are 2 [[subgroup]]"), "{why}");

    let file = "[[subgroup]]\n";
    let mut settings = Settings::new(base());
    file::read("f", file, &mut settings).unwrap();
    assert_eq!(settings.config.subgroups, [Subgroup::default()], "those of the file instead");
    assert!(settings.sets_subgroups());
}

#[test]
fn what_cannot_be_told_to_a_c_program_is_refused() {
    for (key, value) in [("suspicion", "\"250500us\""), ("open_timeout", "\"2000h\"")] {
        let why = refused(&format!("group = \"g\"\n{key} = {value}"));
        assert!(why.contains("whole milliseconds"), "{why}");
    }
    assert!(refused("group = \"g\"\n[[subgroup]]\nlag = \"evict:1500us\"").contains("whole"));
}

#[test]
fn a_buffer_takes_its_bounds_with_it() {
    let transfer = |text: &str| read(&format!("group = \"g\"\n[transfer]\n{text}"));
    let small = transfer("catchup = \"1MiB\"").unwrap().config.transfer;
    assert_eq!(small.near_bytes, 1 << 18);
    let large = transfer("catchup = \"512MiB\"").unwrap().config.transfer;
    assert_eq!(large.catchup_bytes_max, 512 << 20);
    let why = transfer("catchup = \"512MiB\"\ncatchup_max = \"1MiB\"").unwrap_err();
    assert!(why.contains("catch-up buffer"), "{why}");
}

#[test]
fn the_environment_wins_over_the_file() {
    let text = "group = \"g\"\nmembers = 3\n[[subgroup]]\nwindow = 64\n";
    let settings = |variables: &[(&str, &str)]| {
        Settings::read("squall.toml", text, variables.iter().copied()).map_err(|why| why.detail)
    };
    let all = [
        ("SQUALL_RANK", "2"),
        ("SQUALL_SUBGROUP__0__WINDOW", "128"),
        ("SQUALL_SUBGROUP__0__SENDERS", "0, 2"),
        ("SQUALL_CLUSTER_CHANGES", "500"),
        ("HOME", "/"),
    ];
    let Config { rank, subgroups, .. } = settings(&all).unwrap().config;
    assert_eq!((rank, subgroups[0].window), (2, 128));
    assert_eq!(subgroups[0].senders.as_deref(), Some(&[0, 2][..]));
    let why = settings(&[("SQUALL_RANKS", "2")]).unwrap_err();
    assert!(
        why.contains("SQUALL_RANKS: there is no key `ranks`; did you mean SQUALL_RANK?"),
        "{why}"
    );
    let why = settings(&[("SQUALL_RANK", "9")]).unwrap_err();
    assert!(why.contains("rank 9 of 3 members"), "{why}");
    let why = settings(&[("SQUALL_SUBGROUP__1__WINDOW", "1")]).unwrap_err();
    assert!(why.contains("there are 1 [[subgroup]]"), "{why}");
}

/// A service of that name in the same namespace let no member start.
#[test]
fn variables_of_kubernetes_services_are_no_settings() {
    let all = [
        "SQUALL_SERVICE_HOST",
        "SQUALL_SERVICE_PORT",
        "SQUALL_SERVICE_PORT_PEERS",
        "SQUALL_PORT",
        "SQUALL_PORT_7471_TCP",
        "SQUALL_FEED_PORT_7471_TCP_ADDR",
    ];
    let text = "group = \"g\"\n";
    let set = |name: &&str| Settings::read("squall.toml", text, [(*name, "tcp://10.0.0.1:7471")]);
    assert!(all.iter().all(|name| set(name).is_ok()));
    for wrong in ["SQUALL_PORTS", "SQUALL_PORT_X", "SQUALL_SERVICE", "SQUALL_PORT_7471_X"] {
        assert!(set(&wrong).is_err(), "{wrong}");
    }
}

/// Where no job is, a file can be looked at all the same: rank and addresses are those of its tasks.
#[test]
fn a_job_s_file_is_checked_outside_of_it() {
    let text = "group = \"g\"\nfabric = \"auto\"\nlauncher = \"slurm\"\nnetwork.secret_fd = 3\n";
    let job = [
        ("SLURM_PROCID", "1"),
        ("SLURM_NTASKS", "2"),
        ("SLURM_JOB_NODELIST", "n[1-2]"),
        ("SLURM_TASKS_PER_NODE", "1(x2)"),
    ];
    let inside = Settings::inspect("squall.toml", text, job).unwrap();
    assert!(inside.config.network.founders.len() == 2 && !inside.lacks_job);
    let outside = Settings::inspect("squall.toml", text, NOTHING).unwrap();
    assert!(outside.lacks_job && outside.config.network.founders.is_empty());
    let open = text.replace("network.secret_fd = 3\n", "");
    let why = Settings::inspect("squall.toml", &open, NOTHING).unwrap_err().detail;
    assert!(why.contains("`secret_file`"), "{why}");
    let wrong = format!("{text}suspicion = \"5\"\n");
    assert!(Settings::inspect("squall.toml", &wrong, NOTHING).is_err());
}

#[test]
fn slurm_says_rank_and_addresses() {
    let text = "group = \"g\"\nfabric = \"auto\"\nlauncher = \"slurm\"\nnetwork.secret_fd = 3\n";
    let job = [
        ("SLURM_PROCID", "1"),
        ("SLURM_NTASKS", "2"),
        ("SLURM_JOB_NODELIST", "n[1-2]"),
        ("SLURM_TASKS_PER_NODE", "1(x2)"),
    ];
    let settings = Settings::read("squall.toml", text, job).unwrap();
    assert_eq!((settings.config.rank, settings.config.members), (1, 2));
    assert_eq!(settings.config.network.founders, ["n1:7471", "n2:7471"]);
    assert!(Settings::read("squall.toml", text, NOTHING).unwrap_err().detail.contains("srun"));
    let why = refused(&format!("{text}rank = 1\n"));
    assert!(why.contains("`launcher` and `rank`") || why.contains("srun"), "{why}");
}

/// Every key is there with its default, and defaults are what they say they are.
#[test]
fn the_example_is_the_defaults() {
    let example = example();
    let settings = read(&example).unwrap();
    let expected = Config::new("demo", 0, 1);
    assert_eq!(format!("{:?}", settings.config), format!("{expected:?}"));
    assert_eq!(settings.core, None);
    // Uncommented, each alone is understood, and is its default.
    let untold = [
        "core",
        "network.secret_file",
        "network.secret_fd",
        "senders",
        "group",
        "rdma.device",
        "rdma.port",
        "rdma.gid_index",
        "rdma.mtu",
    ];
    for key in ALL.iter().filter(|key| !untold.contains(&key.name)) {
        let mut settings = Settings::new(Config::new("", 0, 1));
        file::read("f", &format!("{} = {}", key.name, key.default), &mut settings).unwrap();
        settings.origins.clear();
        let expected = Settings::new(Config::new("", 0, 1));
        assert_eq!(format!("{settings:?}"), format!("{expected:?}"), "{}", key.name);
    }
    for key in SUBGROUP.iter().filter(|key| !untold.contains(&key.name)) {
        let mut settings = Settings::new(Config::new("", 0, 1));
        let text = format!("[[subgroup]]\n{} = {}", key.name, key.default);
        file::read("f", &text, &mut settings).unwrap();
        assert_eq!(settings.config.subgroups[0], Subgroup::default(), "{}", key.name);
    }
}

use super::keys::Subgroup;
