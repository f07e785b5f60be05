// SPDX-License-Identifier: MIT OR Apache-2.0
//! A member that writes garbage into its own shared memory: the others cut it off by name or go on;
//! they never crash, hang, blame each other or deliver what a correct member has not sent.

use super::*;

/// A correct member of one group after the other, in each of which rank 2 writes garbage.
pub fn honest(arguments: &Arguments) {
    support_notes();
    for round in 0..arguments.get::<u64>("rounds").unwrap() {
        let mut config = config(arguments);
        config.group = format!("{}.{round}", config.group);
        let mut member = Member::open(&config, arguments, u64::MAX >> 16);
        let status = member.run();
        member.tell("round", status);
        member.close();
    }
}

/// The shared memory that this process may write: (address, bytes, name).
pub fn own_memory(group: &str) -> Vec<(u64, u64, String)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mark = format!("memfd:squall-{group}-");
    let mine = maps.lines().filter(|line| line.contains(&mark) && line.contains(" rw-s "));
    mine.map(|line| {
        let (from, upto) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        (number(from), number(upto) - number(from), line.split('/').next_back().unwrap().into())
    })
    .collect()
}

/// A member that takes part properly for a while, then writes garbage into its table and rings,
/// through the kernel's view of its own memory.
pub fn hostile(arguments: &Arguments) {
    let rounds: u64 = arguments.get("rounds").unwrap();
    for round in 0..rounds {
        let mut config = config(arguments);
        config.group = format!("{}.{round}", config.group);
        let mut numbers = Numbers(arguments.or("seed", 1) * 1_000 + round);
        let mut member = Member::open(&config, arguments, u64::MAX >> 16);
        let enough = numbers.below(3_000);
        let mut pace = Pace::new(config.idle);
        while member.shared.lock().heard[0].count < enough {
            if member.turn(&mut pace).is_err() {
                break;
            }
        }
        let memory = std::fs::OpenOptions::new().read(true).write(true).open("/proc/self/mem");
        let memory = memory.unwrap();
        let regions = own_memory(&config.group);
        assert!(regions.len() >= 2, "a table and a ring: {regions:?}");
        let (count, kind) = (1 + numbers.below(60), numbers.below(4));
        // Garbage in slots is met only if it comes between their writing and their reading: then
        // this member goes on, until it trips over itself. Over its own counts it would at once.
        let goes_on = kind >= 2;
        if !goes_on {
            member.stop.store(true, Ordering::Relaxed);
        }
        for _ in 0..count {
            scribble(&memory, &regions, kind, &config, &mut numbers);
            let turn = || goes_on && member.turn(&mut pace).is_err();
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(turn)).unwrap_or(true) {
                break;
            }
            (0..numbers.below(4)).for_each(|_| std::thread::yield_now());
        }
        member.stop.store(true, Ordering::Relaxed);
        member.threads.drain(..).for_each(|thread| drop(thread.join()));
        println!("scribbled {count} of kind {kind}");
        if numbers.below(4) == 0 { member.group.close() } else { drop(member.group) }
    }
}

/// One piece of garbage. Kinds: 0 the counts of the first subgroup, 1 any word of the table, 2 slot
/// headers, 3 bytes anywhere.
pub fn scribble(
    memory: &std::fs::File,
    regions: &[(u64, u64, String)],
    kind: u64,
    config: &Config,
    numbers: &mut Numbers,
) {
    let layout = config.view().unwrap().layout();
    let (table, table_bytes, name) =
        &regions.iter().find(|(.., name)| name.contains("-table")).unwrap();
    assert!(name.contains("table") && *table_bytes >= layout.control_bytes as u64);
    let ring = &regions[numbers.below(regions.len() as u64) as usize];
    let at = match kind {
        0 => {
            let hot = layout.subgroups[0].slots.byte(0) as u64;
            table
                + hot
                + numbers.below(layout.subgroups[0].released.byte(0) as u64 + 8 - hot) / 8 * 8
        }
        1 => table + numbers.below(layout.control_bytes as u64 / 8) * 8,
        2 => ring.0 + numbers.below(ring.1.min(64 << 10) / 16) * 16,
        _ => ring.0 + numbers.below(ring.1 - 8),
    };
    let mut old = [0; 8];
    memory.read_exact_at(&mut old, at).unwrap();
    let old = u64::from_le_bytes(old);
    let value = match numbers.below(8) {
        0 => 0,
        1 => u64::MAX,
        2 => numbers.word(),
        3 => 1 << 48,
        4 => old.wrapping_sub(1),
        5 => old.wrapping_add(1 + numbers.below(2_000)),
        6 => old ^ 1 << numbers.below(64),
        _ => numbers.below(1 << 20),
    };
    memory.write_all_at(&value.to_le_bytes(), at).unwrap();
}

pub fn garbage_in_shared_memory_is_cut_off() -> String {
    let mut outcomes: BTreeMap<String, u64> = BTreeMap::new();
    let mut faults: BTreeMap<String, u64> = BTreeMap::new();
    for (seed, idle, many, rounds) in
        [(1u64, "park", false, 60u64), (2, "yield", true, 40), (3, "spin", false, 5)]
    {
        let group = group_name("garbage");
        let start = |role: &str, rank: u16| {
            let lanes = if many { 2 } else { 1 };
            Process::start(
                role,
                &[
                    ("group", &group),
                    ("rank", &rank),
                    ("rounds", &rounds),
                    ("seed", &seed),
                    ("idle", &idle),
                    ("many", &many),
                    // No subgroup goes on without the hostile one.
                    ("together", &true),
                    ("lanes", &lanes),
                    ("window", &64),
                    ("distrusted", &2),
                ],
            )
        };
        let hostile = start("hostile", 2);
        let honest = [start("honest", 0), start("honest", 1)];
        for member in honest {
            let lines = member.end_well();
            let ends = lines.iter().filter_map(|line| line.strip_prefix("round "));
            let mut count = 0;
            for line in ends {
                count += 1;
                let status = line.split(' ').next().unwrap();
                *outcomes.entry(status.into()).or_default() += 1;
                let named = field(line, "rank=");
                // Whoever left first is named too, and that may be an honest one.
                let blamed = status != "PeerLeft";
                assert!(!blamed || named == "2", "an honest member is blamed: {line}");
                if status == "PeerFault" {
                    let why = line.split_once("rank=2 ").unwrap().1;
                    let why: String = why.chars().filter(|c| !c.is_ascii_digit()).collect();
                    *faults.entry(why.chars().take(60).collect()).or_default() += 1;
                }
            }
            assert_eq!(count, rounds, "a round is missing");
        }
        drop(hostile.end());
        assert_eq!(traces(&group), [""; 0]);
    }
    assert!(outcomes.get("PeerFault").copied().unwrap_or(0) >= 20, "{outcomes:?}");
    format!("ends of honest members: {outcomes:?}\nreasons: {faults:#?}")
}
