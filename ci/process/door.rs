// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who knocks at a member's door, and who may have a group's name.

use super::*;

/// Knocks as another user and says what it was told.
pub fn knock(arguments: &Arguments) {
    confine(arguments);
    let config = config(arguments);
    let view = config.view().unwrap();
    let mut socket = None;
    until("the door takes a visitor", || {
        socket = Socket::connect(&socket_name(&config.group, 0)).unwrap();
        socket.is_some()
    });
    let socket = socket.unwrap();
    socket.send(&Hello::new(Kind::Join, 1, true, &config.agreed_text(&view)).encode(), &[]);
    let mut answer = None;
    until("the door answers", || {
        answer = socket.receive();
        answer.is_some()
    });
    match answer.unwrap() {
        Some((bytes, _)) => {
            let answer = Hello::decode(&bytes).unwrap();
            println!("told {:?} {:?}", answer.kind, answer.refusal);
        }
        None => println!("told nothing: the member has closed"),
    }
}

/// A connection to a member's door, however many wait there.
pub fn connect(group: &str, rank: u16) -> Socket {
    let mut socket = None;
    until("the door takes a visitor", || {
        socket = Socket::connect(&socket_name(group, rank)).unwrap();
        socket.is_some()
    });
    socket.unwrap()
}

/// Everybody whom a door may see: silent ones, garbage, and false members. Those who stay.
pub fn crowd(group: &str, rank: u16, numbers: &mut Numbers) -> Vec<Socket> {
    let mut stay = Vec::new();
    for at in 0..1_000u64 {
        let socket = connect(group, rank);
        let mut bytes: Vec<u8> =
            (0..1 + numbers.below(300)).map(|_| numbers.word() as u8).collect();
        match at % 5 {
            0 => {} // silent
            1 => drop(socket.send(&bytes, &[])),
            2 => {
                let mut text = b"squall 1\nkind=join\nrank=".to_vec();
                text.append(&mut bytes);
                socket.send(&text, &[]);
            }
            3 => drop(socket.send(&Hello::new(Kind::Welcome, 1, false, "config").encode(), &[])),
            _ => drop(socket.send(b"squall 77\n", &[])),
        }
        if at % 20 < 5 {
            stay.push(socket);
        }
    }
    stay
}

/// Visitors with the right words and wrong memory; what each was told.
pub fn impostors(group: &str, config: &Config) -> Vec<String> {
    let view = config.view().unwrap();
    let layout = view.layout();
    let agreed = config.agreed_text(&view);
    let memory = |bytes: usize, sealed: bool| {
        let made = Region::share("impostor", bytes, Want::No, Want::No, &mut Vec::new());
        let descriptor = made.unwrap().1;
        if sealed {
            Region::seal(&descriptor).unwrap();
        }
        descriptor
    };
    let bell = Bell::new().unwrap();
    let null: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    let path: OwnedFd = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open("/dev/null")
        .unwrap()
        .into();
    let whole = memory(layout.control_bytes, true);
    let (open, ring) = (memory(layout.control_bytes, false), memory(layout.rings_bytes(0), true));
    let short_ring = memory(4096, true);
    let cases: [(&str, u16, Vec<&dyn AsFd>); 8] = [
        ("no memory", 1, vec![]),
        ("a table only", 1, vec![&whole]),
        ("an unsealed table", 1, vec![&open, &bell, &ring]),
        ("a bell that cannot be rung", 1, vec![&whole, &path, &ring]),
        ("no memory but a file", 1, vec![&null, &null, &null]),
        ("a short ring", 1, vec![&whole, &bell, &short_ring]),
        ("a rank beyond the group", 9, vec![&whole, &bell, &ring]),
        ("the door's own rank", 0, vec![&whole, &bell, &ring]),
    ];
    let mut told = Vec::new();
    for (what, rank, shown) in cases {
        let socket = connect(group, 0);
        let descriptors: Vec<_> = shown.iter().map(|one| one.as_fd()).collect();
        assert!(socket.send(&Hello::new(Kind::Join, rank, true, &agreed).encode(), &descriptors));
        let mut answer = None;
        until("an impostor is answered", || {
            answer = socket.receive();
            answer.is_some()
        });
        let (bytes, _) = answer.unwrap().expect("an answer, not a hang-up");
        let answer = Hello::decode(&bytes).unwrap();
        assert_eq!(answer.kind, Kind::Refuse, "{what}");
        told.push(format!("{what}: {:?}", answer.refusal.unwrap()));
    }
    told
}

pub fn strangers_at_the_door_disturb_nobody() -> String {
    let group = group_name("door");
    let arguments: &Options<'_> = &[("count", &60_000), ("window", &64)];
    let start = starts(&group, 2, arguments);
    let first = start(0);
    until("rank 0 listens", || listens(&group, 0));
    let mut numbers = Numbers(3);
    let mut guests = crowd(&group, 0, &mut numbers);
    let mut config = Config::new(&group, 1, 2);
    config.subgroups[0].window = 64;
    config.subgroups[0].message_bytes_max = 1024;
    let told = impostors(&group, &config);
    let mut members = vec![first, start(1)];
    members.iter_mut().for_each(|member| drop(member.expect("open")));
    for rank in [0, 1] {
        guests.extend(crowd(&group, rank, &mut numbers));
    }
    let late = impostors(&group, &config);
    assert!(late.iter().all(|line| line.contains("the group is complete")), "{late:?}");
    let heard = all_agree(members);
    format!("{}\n3000 others knocked, {} stayed; the group: {heard}", told.join("\n"), guests.len())
}

pub fn two_configurations_are_both_named() -> String {
    let group = group_name("other");
    let with = |window: &u64| starts(&group, 2, &[("window", window), ("count", &100)]);
    let first = with(&256)(0);
    until("rank 0 listens", || listens(&group, 0));
    let arriving = refused(with(&64)(1));
    let same_rank = refused(with(&32)(0));
    let names = |line: &str, theirs: &str| {
        line.starts_with("Mismatch")
            && line.contains("`subgroup.0.window=256`")
            && line.contains(theirs)
    };
    assert!(names(&arriving, "`subgroup.0.window=64`"), "{arriving}");
    assert!(names(&same_rank, "`subgroup.0.window=32`"), "{same_rank}");
    let fewer = refused(starts(&group, 3, &[("window", &256)])(2));
    assert!(fewer.contains("members=2") && fewer.contains("members=3"), "{fewer}");
    let heard = all_agree(vec![first, with(&256)(1)]);
    format!("{arriving}\n{same_rank}\n{fewer}\nthe first group went on: {heard}")
}

pub fn a_rank_is_open_once() -> String {
    let group = group_name("twice");
    let start = starts(&group, 2, &[("count", &20_000), ("window", &16)]);
    let mut first = start(0);
    until("rank 0 listens", || listens(&group, 0));
    let waiting = refused(start(0));
    let mut second = start(1);
    let pids = [first.expect("open"), second.expect("open")];
    let running = refused(start(1));
    for (line, pid) in [(&waiting, &pids[0]), (&running, &pids[1])] {
        assert!(line.starts_with("InUse") && line.contains(&format!("process {pid}")), "{line}");
    }
    let heard = all_agree(vec![first, second]);
    format!("{waiting}\n{running}\nthe first group went on: {heard}")
}

pub fn another_users_group_is_told_from_ours() -> String {
    if !root() {
        return "SKIPPED: only root can be two users".into();
    }
    let group = group_name("foreign");
    let of = |uid: &u32, rank: u16| {
        let more: &Options<'_> = &[("uid", uid), ("count", &100_000), ("window", &16)];
        starts(&group, 2, more)(rank)
    };
    // Another user holds the name.
    let holder = of(&65534, 0);
    until("rank 0 listens", || listens(&group, 0));
    let (same, next) = (refused(of(&0, 0)), refused(of(&0, 1)));
    for line in [&same, &next] {
        let named = line.contains(&format!("process {} of user 65534", holder.pid()));
        assert!(line.starts_with("ForeignOwner") && named, "{line}");
    }
    let heard = all_agree(vec![holder, of(&65534, 1)]);
    // A foreign visitor comes to ours.
    let holder = of(&0, 0);
    until("rank 0 listens", || listens(&group, 0));
    let visitor = refused(of(&65534, 1));
    assert!(visitor.starts_with("ForeignOwner") && visitor.contains("of user 0"), "{visitor}");
    let knock = || {
        let uid = 65534;
        let arguments: &Options<'_> = &[("group", &group), ("members", &2), ("uid", &uid)];
        Process::start("knock", arguments).expect("told")
    };
    let mut told = vec![knock()];
    let mut members = vec![holder, of(&0, 1)];
    members.iter_mut().for_each(|member| drop(member.expect("open")));
    told.push(knock());
    // The second one may come when the members have said all and closed.
    assert!(told[0].contains("belongs to another user"), "{told:?}");
    let second = ["belongs to another user", "has closed"];
    assert!(second.iter().any(|text| told[1].contains(text)), "{told:?}");
    let ours = all_agree(members);
    format!("{same}\n{next}\n{visitor}\nat the door: {}\ntheirs: {heard}; ours: {ours}", told[0])
}

pub fn who_is_missing_is_named() -> String {
    let group = group_name("missing");
    let start = |timeout_ms: u64| starts(&group, 4, &[("timeout_ms", &timeout_ms)]);
    let alone = refused(start(300)(3));
    assert!(alone.starts_with("NotComplete") && alone.contains("[0, 1, 2]"), "{alone}");
    // One waits for long, another one gives up: the sooner, the less this test takes; but not before
    // the two have met, however slow the machine is.
    let first = start(240_000)(0);
    until("rank 0 listens", || listens(&group, 0));
    let mut others = [300, 3_000, 30_000, 200_000].iter().map(|ms| refused(start(*ms)(2)));
    let third = others.find(|line| line.contains("[1, 3]")).expect("they meet");
    drop(first);
    assert_eq!(traces(&group), [""; 0]);
    format!("{alone}\n{third}")
}
