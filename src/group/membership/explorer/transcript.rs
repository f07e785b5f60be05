// SPDX-License-Identifier: MIT OR Apache-2.0
//! Transcripts of view changes (tests only): dialogues with a small group that one can read, in
//! `membership/transcripts/*.txt`.
//!
//! A line that begins with `> ` is a command, those with `| ` after it say what came of it, and where
//! each member stands now, if that has changed; everything else is prose. Members are named by the
//! numbers of their processes. `UPDATE=1 cargo test transcripts_of_views` writes what came of it anew.

use super::super::Membership;
use super::super::changes::{Change, What};
use super::{Phase, Plan, World};
use crate::base::Members;
use std::fmt::Write;

/// How a process stands, in a line.
fn state(phase: &Phase) -> Option<String> {
    let up = match phase {
        Phase::Up(up) => up,
        Phase::Crashed => return Some("is dead".into()),
        Phase::Stopped => return Some("has stopped".into()),
        _ => return None,
    };
    let membership = &up.membership;
    let (roster, stage) = (membership.roster(), membership.stage().name());
    let name = |rank: usize| (roster.members[rank].incarnation - 1).to_string();
    let names = |set: Members| set.iter().map(|rank| name(rank.index())).collect::<Vec<_>>();
    let mut text = format!("view {} of {}, {stage}", roster.epoch.0, names(roster.all()).join(" "));
    if !membership.suspects().is_empty() {
        let _ = write!(text, "; suspects {}", names(membership.suspects()).join(" "));
    }
    if !membership.changes().is_empty() {
        let agreed = (membership.agreed() - roster.base) as usize;
        let list = membership.changes().iter().enumerate();
        let one = |(at, change)| change_of(membership, change, at < agreed);
        let _ = write!(text, "; {}", list.map(one).collect::<Vec<_>>().join(", "));
    }
    Some(text)
}

fn change_of(membership: &Membership, change: &Change, agreed: bool) -> String {
    let roster = membership.roster();
    let name = |seniority: u64| match roster.rank_of(seniority) {
        Some(rank) => roster.members[rank.index()].incarnation - 1,
        None => seniority, // it is gone
    };
    let what = match change.what {
        What::Join { incarnation, .. } => format!("join {}", incarnation - 1),
        What::Leave { member } => format!("leave {}", name(member)),
        What::Remove { member } => format!("remove {}", name(member)),
    };
    format!("{what} {}", if agreed { "agreed" } else { "proposed" })
}

fn command(world: &mut Option<World>, line: &str) -> Result<(), String> {
    let words: Vec<&str> = line.split(' ').collect();
    let number = |at: usize| words[at].parse::<usize>().map_err(|_| format!("{line:?}: no number"));
    if words[0] == "founders" {
        let mut founded = World::of(Plan::still(number(1)?, number(3)?, 0))?;
        founded.told = true;
        *world = Some(founded);
        return Ok(());
    }
    let world = world.as_mut().ok_or("first: founders N joiners M")?;
    match words[..] {
        [_, "sends"] => world.send(number(0)?),
        [_, "dies"] => {
            world.crash(number(0)?);
            Ok(())
        }
        [_, "hears", "that", _, "is", "gone"] => {
            world.tell(number(0)?, number(3)?);
            Ok(())
        }
        [_, "asks", _, "to", "join"] => {
            world.ask(number(0)?, number(2)?);
            Ok(())
        }
        [_, "begins"] => world.sponsor(number(0)?),
        [_, "asks", "to", "leave"] => {
            let who = number(0)?;
            world.oracle.leavers.insert(who);
            let Phase::Up(up) = &mut world.processes[who] else { return Err(line.into()) };
            up.membership.ask_to_leave();
            Ok(())
        }
        [_, "turns"] => world.turn(number(0)?),
        ["all", "turn"] => world.all_up().into_iter().try_for_each(|who| world.turn(who)),
        ["what", "was", "posted", "lands"] => {
            world.net.borrow_mut().land_all();
            Ok(())
        }
        _ => Err(format!("{line:?} is no command")),
    }
}

fn play(text: &str) -> Result<String, String> {
    let (mut played, mut world) = (String::new(), None);
    let mut before: Vec<Option<String>> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with("| ")) {
        let _ = writeln!(played, "{line}");
        let Some(line) = line.strip_prefix("> ") else { continue };
        command(&mut world, line)?;
        let world = world.as_mut().expect("it is founded");
        // Whoever enters a view is shown below, and `suspects` as well.
        let told = world.trail.drain(..).filter(|what| !what.contains(" enters "));
        for what in told {
            let _ =
                writeln!(played, "| {}", what.trim_start().split_once(' ').unwrap_or_default().1);
        }
        let now: Vec<Option<String>> = world.processes.iter().map(state).collect();
        before.resize(now.len(), None);
        for (who, (now, before)) in now.iter().zip(&before).enumerate() {
            if let Some(now) = now.as_ref().filter(|now| before.as_ref() != Some(now)) {
                let _ = writeln!(played, "| {who}: {now}");
            }
        }
        before = now;
    }
    Ok(played)
}

#[test]
fn transcripts_of_views() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = folder.join("src/group/membership/transcripts");
    let mut count = 0;
    for entry in std::fs::read_dir(place).expect("the transcripts") {
        let path = entry.expect("a transcript").path();
        let text = std::fs::read_to_string(&path).expect("a text");
        let played = play(&text).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &played).expect("writable");
        } else if played != text {
            let differ = |(a, b): &(&str, &str)| a != b;
            let first = text.lines().zip(played.lines()).find(differ);
            panic!("{}: written and played differ: {first:?}", path.display());
        }
        count += 1;
    }
    assert!(count >= 3, "{count} transcripts");
}
