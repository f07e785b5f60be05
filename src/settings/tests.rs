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
        (far.into(), "`network.secret_file`"),
        (format!("{far}members = 2\nnetwork.secret_fd = 3"), "names 1 addresses for 2 members"),
        (
            "group = \"g\"\nnetwork.listen = [\"a:1\"]".into(),
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
    assert!(why.contains("SQUALL_RANKS: there is no key `ranks`; did you mean `rank`?"), "{why}");
    let why = settings(&[("SQUALL_RANK", "9")]).unwrap_err();
    assert!(why.contains("rank 9 of 3 members"), "{why}");
    let why = settings(&[("SQUALL_SUBGROUP__1__WINDOW", "1")]).unwrap_err();
    assert!(why.contains("there are 1 [[subgroup]]"), "{why}");
}

#[test]
fn a_founder_listens_where_others_look_for_it() {
    let text = "group = \"g\"\nmembers = 2\nfabric = \"tcp\"\n\
                network = { founders = [\"a:1000\", \"[::1]:1001\"], trusted_network = true }\n";
    let listen = |text: &str| read(text).unwrap().config.network.listen;
    assert_eq!(listen(text), ["*:1000"]);
    assert_eq!(listen(&format!("rank = 1\n{text}")), ["*:1001"]);
    let told = text.replace("founders", "listen = [\"10.0.0.1:7\"], founders");
    assert_eq!(listen(&told), ["10.0.0.1:7"]);
    assert!(listen(&text.replace(":1000", "")).is_empty(), "no port there: the default");
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
    let untold = ["core", "network.secret_file", "network.secret_fd", "senders", "group"];
    for key in ALL.iter().filter(|key| !untold.contains(&key.name)) {
        let mut settings = Settings::new();
        file::read("f", &format!("{} = {}", key.name, key.default), &mut settings).unwrap();
        settings.origins.clear();
        let mut expected = Settings::new();
        if key.name == "network.listen" {
            expected.config.network.listen = vec!["*:7471".into()]; // "" means that
        }
        assert_eq!(format!("{settings:?}"), format!("{expected:?}"), "{}", key.name);
    }
    for key in SUBGROUP.iter().filter(|key| !untold.contains(&key.name)) {
        let mut settings = Settings::new();
        let text = format!("[[subgroup]]\n{} = {}", key.name, key.default);
        file::read("f", &text, &mut settings).unwrap();
        assert_eq!(settings.config.subgroups[0], Subgroup::default(), "{}", key.name);
    }
}

use super::keys::Subgroup;
