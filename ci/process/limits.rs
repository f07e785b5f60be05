// SPDX-License-Identifier: MIT OR Apache-2.0
//! Limits and missing memory: a sentence with the value and the remedy, never a signal or a hang.

use super::*;

/// A member alone in its group, with what is to be taken from it.
pub fn alone(more: &Options<'_>) -> (String, Process) {
    let group = group_name("alone");
    let member = starts(&group, 1, more)(0);
    (group, member)
}

/// Runs it to its end: what it said.
pub fn runs(more: &Options<'_>) -> Vec<String> {
    let mut all: Vec<(&str, &dyn std::fmt::Display)> = vec![("count", &100)];
    all.extend(more.iter().copied());
    let (_, mut member) = alone(&all);
    let mut lines = Vec::new();
    loop {
        let line = member.line().unwrap_or_else(|| panic!("{lines:?}"));
        let done = line.starts_with("done") || line.starts_with("error");
        lines.push(line);
        if done {
            break;
        }
    }
    member.say("close");
    drop(member.end_well());
    assert!(lines.last().unwrap().starts_with("done Ok heard=100:"), "{lines:?}");
    lines
}

pub fn the_lock_limit_is_named() -> String {
    if !root() {
        return "SKIPPED: only root can lower its user".into();
    }
    let confined: &Options<'_> = &[("memlock", &65536), ("uid", &65534)];
    let with = |lock: &'static &'static str| {
        let mut all: Vec<(&str, &dyn std::fmt::Display)> = vec![("lock", lock)];
        all.extend(confined.iter().copied());
        all
    };
    let line = refused(alone(&with(&"require")).1);
    let named = line.contains("RLIMIT_MEMLOCK is 64 KiB") && line.contains("ulimit -l");
    assert!(line.starts_with("Limit") && named, "{line}");
    let lines = runs(&with(&"try"));
    let warned = lines.iter().find(|line| line.starts_with("note Warning"));
    let warned = warned.unwrap_or_else(|| panic!("{lines:?}"));
    assert!(warned.contains("RLIMIT_MEMLOCK") && warned.contains("swapped out"), "{warned}");
    // Where it is allowed, the pages are locked.
    let (group, mut member) = alone(&[("lock", &"require"), ("count", &10)]);
    member.expect("done");
    let status = std::fs::read_to_string(format!("/proc/{}/status", member.pid())).unwrap();
    let locked = status.lines().find(|line| line.starts_with("VmLck")).unwrap().to_string();
    assert!(!locked.ends_with(" 0 kB"), "{locked}");
    drop((group, member));
    format!("{line}\n{warned}\nallowed: {locked}")
}

pub fn huge_pages() -> [u64; 2] {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    ["HugePages_Total:", "HugePages_Free:"].map(|key| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.map_or(0, |line| line.trim().parse().unwrap())
    })
}

/// Huge pages are the machine's: two runs of these tests take turns. Free again when dropped.
fn alone_with_huge_pages() -> Socket {
    let mut lock = None;
    until("another run of this test has ended", || {
        lock = Socket::listen("squall-test-huge-pages").unwrap();
        lock.is_some()
    });
    lock.unwrap()
}

pub fn missing_huge_pages_are_named() -> String {
    let _lock = alone_with_huge_pages();
    if huge_pages() != [0, 0] {
        return format!("SKIPPED: huge pages are reserved here: {:?}", huge_pages());
    }
    let line = refused(alone(&[("huge", &"require")]).1);
    assert!(line.starts_with("Limit") && line.contains("sysctl vm.nr_hugepages="), "{line}");
    let lines = runs(&[("huge", &"try")]);
    let warned = lines.iter().find(|line| line.starts_with("note Warning"));
    let warned = warned.unwrap_or_else(|| panic!("{lines:?}"));
    assert!(warned.contains("ordinary pages are used"), "{warned}");
    format!("{line}\n{warned}")
}

/// Gives the huge pages back however the test ends.
pub struct Reserved(String);

pub const NR_HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";

impl Drop for Reserved {
    fn drop(&mut self) {
        let _ = std::fs::write(NR_HUGEPAGES, &self.0);
    }
}

pub fn huge_pages_work() -> String {
    let _lock = alone_with_huge_pages();
    let Ok(before) = std::fs::read_to_string(NR_HUGEPAGES) else {
        return "SKIPPED: this kernel has no huge pages".into();
    };
    // Two members with a table and a ring each, and nothing to spare.
    let need = 4;
    let [total, free] = huge_pages();
    if std::fs::write(NR_HUGEPAGES, (total - free + need).to_string()).is_err() {
        return "SKIPPED: only root can reserve huge pages".into();
    }
    let _back = Reserved(before);
    if huge_pages()[1] < need {
        return format!("SKIPPED: the kernel found no room for {need} huge pages");
    }
    let group = group_name("huge");
    let more: &Options<'_> = &[("huge", &"require"), ("count", &3_000), ("repeat", &3)];
    let start = starts(&group, 2, more);
    let mut members: Vec<Process> = (0..2).map(start).collect();
    for _ in 0..2 {
        // Each group needs the pages of the one before: it must have given all of them back.
        members.iter_mut().for_each(|member| drop(heard_of(&member.expect("repeated"))));
        members.iter_mut().for_each(|member| member.say("close"));
        members.iter_mut().for_each(|member| drop(member.expect("closed")));
        members.iter_mut().for_each(|member| member.say("next"));
    }
    members.iter_mut().for_each(|member| drop(heard_of(&member.expect("done"))));
    let mut huge = Vec::new();
    for member in &members {
        let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", member.pid())).unwrap();
        let mut inside = false;
        let mut pages = 0;
        for line in smaps.lines() {
            if line.contains("memfd:") {
                inside = line.contains(&format!("squall-{group}-"));
            }
            pages += u64::from(
                inside && line.starts_with("KernelPageSize:") && line.contains("2048 kB"),
            );
        }
        huge.push(pages);
    }
    assert_eq!(huge, [4, 4], "maps of huge pages: own and foreign table and ring");
    members.iter_mut().for_each(|member| member.say("close"));
    members.into_iter().for_each(|member| drop(member.end_well()));
    assert_eq!(huge_pages()[1], need, "all are free again");
    format!("3 groups one after the other in the same {need} pages; maps per member: {huge:?}")
}

pub fn missing_memory_is_named() -> String {
    let gib: u64 = 1 << 30;
    let file = refused(alone(&[("window_bytes", &(64 << 20)), ("fsize", &(1 << 20))]).1);
    assert!(file.starts_with("Limit") && file.contains("64.0 MiB"), "{file}");
    assert!(file.contains("RLIMIT_FSIZE is 1.0 MiB") && file.contains("ulimit -f"), "{file}");
    let space = refused(alone(&[("window_bytes", &gib), ("as", &(gib / 2))]).1);
    assert!(space.starts_with("NoMemory") && space.contains("1024.0 MiB"), "{space}");
    // Last, because a library that asked the kernel for this would bring others down.
    let absurd = refused(alone(&[("window_bytes", &(8 * gib)), ("lanes", &8)]).1);
    assert!(absurd.starts_with("NoMemory") && absurd.contains("65536.1 MiB"), "{absurd}");
    assert!(absurd.contains("use a smaller window"), "{absurd}");
    format!("{absurd}\n{space}\n{file}")
}

pub fn the_descriptor_limit_is_named() -> String {
    let check = |line: &str, limit: u64| {
        let named = line.starts_with("Limit") && line.contains("ulimit -n");
        assert!(named, "with {limit} descriptors: {line}");
    };
    let mut text = String::new();
    for limited in [0u16, 1] {
        let mut limit = 4;
        let mut sentences: Vec<String> = Vec::new();
        // One more descriptor each time, until it is enough. A fresh group each time: who has met
        // the one that gives up may have met all, and go on without waiting for a successor.
        loop {
            let group = group_name("descriptors");
            let more: &Options<'_> = &[("count", &100), ("many", &true), ("timeout_ms", &240_000)];
            let mut members: Vec<Process> = Vec::new();
            for rank in 0..3 {
                let all = [more, &[("nofile", &limit)]].concat();
                let confined = rank == limited;
                members.push(starts(&group, 3, if confined { &all } else { more })(rank));
            }
            let mut member = members.remove(usize::from(limited));
            let line = loop {
                let line = member.line().expect("it says how it went");
                if line.starts_with("error") || line.starts_with("done") {
                    break line;
                }
            };
            if line.starts_with("done") {
                members.push(member);
                all_are_done(members);
                break;
            }
            check(line.strip_prefix("error ").unwrap(), limit);
            assert_eq!(member.end().status.code(), Some(3));
            sentences.push(line.split(": ").nth(1).unwrap_or("").to_string());
            limit += 1;
            assert!(limit < 200, "never enough");
        }
        sentences.dedup();
        text.push_str(&format!("rank {limited}: {limit} are enough; with fewer: {sentences:?}\n"));
    }
    text
}

pub fn all_are_done(mut members: Vec<Process>) {
    members.iter_mut().for_each(|member| member.say("close"));
    members.into_iter().for_each(|member| drop(member.end_well()));
}

/// A member alone that sleeps, and has no descriptor left for a visitor until it is told.
pub fn cramped(arguments: &Arguments) {
    support_notes();
    confine(arguments);
    let mut group = Group::open(&config(arguments), Box::new(|_: u16, _: &[Message]| {})).unwrap();
    let open = || std::fs::File::open("/dev/null").ok();
    let all: Vec<_> = std::iter::from_fn(open).collect();
    println!("full {}", all.len());
    assert_eq!(commands().next().as_deref(), Some("a visitor knocks"));
    for _ in 0..10 {
        group.turn(0).unwrap();
        group.wait(Some(Duration::ZERO)).unwrap();
    }
    while !group.arm().unwrap() {
        group.turn(0).unwrap();
    }
    let mut own = [rustix::event::PollFd::new(&group, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    println!("wakes {}", rustix::event::poll(&mut own, Some(&now)).unwrap());
    drop(all);
    let (waker, stop) = (group.waker().unwrap(), Arc::new(AtomicBool::new(false)));
    let told = stop.clone();
    std::thread::spawn(move || {
        assert_eq!(commands().next(), None);
        told.store(true, Ordering::Relaxed);
        waker.ring_always();
    });
    while !stop.load(Ordering::Relaxed) {
        group.turn(0).unwrap();
        group.wait(None).unwrap();
    }
    group.close();
}

pub fn a_door_without_a_descriptor() -> String {
    let group = group_name("cramped");
    let arguments: &Options<'_> = &[("group", &group), ("members", &1), ("nofile", &64)];
    let mut member = Process::start("cramped", arguments);
    let taken = member.expect("full");
    let visitor = connect(&group, 0);
    assert!(visitor.send(&Hello::new(Kind::Stat, 0, false, "").encode(), &[]));
    member.say("a visitor knocks");
    let warned = member.expect("note Warning a visitor waits at the door");
    assert!(warned.contains("ulimit -n"), "{warned}");
    assert_eq!(member.expect("wakes"), "0", "it sleeps while the visitor waits");
    let mut answer = None;
    until("the door answers", || {
        answer = visitor.receive();
        answer.is_some()
    });
    assert_eq!(answer.unwrap().expect("an answer, not a hang-up").1.len(), 1);
    drop(member.end_well());
    format!("all {taken} descriptors taken: it slept, and answered once there was one; {warned}")
}
