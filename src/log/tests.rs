// SPDX-License-Identifier: MIT OR Apache-2.0
//! Histories at random and call by call, and dialogues about single points.

use super::disk::Disk;
use super::format::{Entry, Head, Kind, RECORDS_AT, SegmentHead, Tip, Version, seed_of};
use super::reader::position_as_of;
use super::repair;
use super::simulated::{SimDisk, Trouble};
use super::thread::{Worker, Writing, pair};
use super::world::{Reached, Written, each_call, history, message, options};
use super::{Damage, Log, LogThread, Options, Reader, RealDisk, Refusal, Stamp, Start};
use crate::base::{Epoch, Number};
use crate::error::Status;
use rustix::io::Errno;
use std::sync::Arc;
use std::sync::mpsc;

pub type Outcome = Result<(), String>;

/// So that `?` may end a check.
fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn holds(what: bool, rule: &str) -> Outcome {
    if what { Ok(()) } else { Err(rule.into()) }
}

fn add(total: &mut Reached, one: Reached) {
    total.lives += one.lives;
    total.power_cuts += one.power_cuts;
    total.failed_calls += one.failed_calls;
    total.torn += one.torn;
    total.records += one.records;
    total.segments += one.segments;
    total.trims += one.trims;
    total.erased += one.erased;
}

pub fn histories() -> Outcome {
    let mut total = Reached::default();
    // SQUALL_LOG_SEEDS: so many instead, for a long run.
    let seeds =
        std::env::var("SQUALL_LOG_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1500);
    for seed in 0..seeds {
        let reached = history(seed).map_err(|text| format!("seed {seed}: {text}"))?;
        add(&mut total, reached);
    }
    println!("{seeds} seeds: {total:?}");
    let counts = [total.power_cuts, total.failed_calls, total.torn, total.segments];
    let more = [total.trims, total.erased];
    holds(counts.iter().chain(&more).all(|count| *count > 50), "the seeds reach all of it")
}

pub fn power_cuts_at_each_call() -> Outcome {
    let mut calls = 0;
    for seed in 0..12 {
        calls += each_call(seed).map_err(|text| format!("seed {seed}: {text}"))?;
    }
    println!("power failed at {calls} calls, one after the other");
    holds(calls > 500, "histories are not empty")
}

fn open(disk: &SimDisk) -> Result<Log<SimDisk>, Refusal> {
    Ok(Log::open(disk.clone(), options())?.0)
}

/// A log with so many messages of 100 bytes, all synced, not closed.
fn filled(disk: &SimDisk, messages: u64) -> Result<Vec<Written>, String> {
    let mut log = open(disk).map_err(text)?;
    let written: Vec<Written> = (0..messages).map(|number| message(number, 1, 100)).collect();
    for written in &written {
        log.append(&[written.entry()][..]).map_err(text)?;
        log.sync().map_err(text)?;
    }
    Ok(written)
}

fn damage_of(disk: &SimDisk) -> Result<Damage, String> {
    match open(disk) {
        Err(Refusal::Damaged(damage)) => Ok(damage),
        Err(refusal) => Err(text(refusal)),
        Ok(log) => {
            let upto = log.durable();
            drop(log);
            read_damage(disk, upto)
        }
    }
}

fn read_damage(disk: &SimDisk, upto: u64) -> Result<Damage, String> {
    let mut reader = Reader::open(disk.clone(), Start::First).map_err(text)?;
    match reader.verify(upto, u64::MAX) {
        Err(Refusal::Damaged(damage)) => Ok(damage),
        Err(refusal) => Err(text(refusal)),
        Ok(_) => Err("damage is not seen".into()),
    }
}

/// Where the record of that position is, of such a log.
fn place_of(disk: &SimDisk, position: u64) -> (String, usize) {
    let names = disk.names().unwrap();
    let seed = seed_of(options().identity);
    for name in names.iter().filter(|name| SegmentHead::first_of(name).is_some()) {
        let bytes = disk.shown(name);
        for at in (RECORDS_AT as usize..bytes.len() - 64).step_by(8) {
            let head = Head::parse(&bytes[at..], seed);
            if head.is_some_and(|head| head.position == position) {
                return (name.clone(), at);
            }
        }
    }
    panic!("record {position} is nowhere");
}

/// Every bit of a record matters, in the last segment and in others; and can be put back.
pub fn damage_is_named_and_repaired() -> Outcome {
    for (position, bit) in (0..60).map(|at: u64| (at, (at * 523 + 77) % (164 * 8))) {
        let disk = SimDisk::new(3);
        let written = filled(&disk, 62)?;
        let (name, at) = place_of(&disk, position);
        disk.damage(&name, |bytes| bytes[at + bit as usize / 8] ^= 1 << (bit % 8));
        let damage = damage_of(&disk)?;
        let named = damage.file == name && damage.offset == at as u64;
        holds(named && damage.positions == (position..position + 1), "the place is named")?;
        let wrong = message(position, 2, 100);
        let refused = repair::replace(&disk, &options(), &damage, &[wrong.entry()]);
        holds(matches!(refused, Err(Refusal::Unfit(_))), "other records are not taken")?;
        let lost = &written[position as usize];
        repair::replace(&disk, &options(), &damage, &[lost.entry()]).map_err(text)?;
        read_all(&disk, &written)?;
    }
    Ok(())
}

fn read_all(disk: &SimDisk, written: &[Written]) -> Outcome {
    let log = open(disk).map_err(text)?;
    holds(log.tip().position == written.len() as u64, "all is there")?;
    let mut reader = Reader::open(disk.clone(), Start::First).map_err(text)?;
    for (at, written) in written.iter().enumerate() {
        let record = reader.next(log.durable()).map_err(text)?.ok_or("it ends early")?;
        let same = record.label == written.label && record.payload == written.payload;
        holds(same && record.position == at as u64, "as it was written")?;
    }
    Ok(())
}

/// Bits that the checksum of a head does not cover do not exist; nor in a segment's head.
pub fn heads_of_segments_are_repaired() -> Outcome {
    let disk = SimDisk::new(3);
    let written = filled(&disk, 100)?;
    let names = disk.names().unwrap();
    let segments = names.iter().filter(|name| SegmentHead::first_of(name).is_some());
    for name in segments {
        disk.damage(name, |bytes| bytes[77] ^= 4);
        let damage = damage_of(&disk)?;
        holds(damage.file == *name && damage.offset == 0, "the file is named")?;
        repair::replace(&disk, &options(), &damage, &[]).map_err(text)?;
        read_all(&disk, &written)?;
    }
    Ok(())
}

/// A whole good record of the same place, of another history: a write that the disk lost.
pub fn a_lost_write_is_seen() -> Outcome {
    let disk = SimDisk::new(3);
    filled(&disk, 20)?;
    let (name, at) = place_of(&disk, 7);
    let other = message(7, 9, 100);
    let tip = Tip { position: 7, chain: 1234, ..Tip::default() };
    let head = Head::of(&other.entry(), &tip, 1);
    disk.damage(&name, |bytes| {
        bytes[at..at + 64].copy_from_slice(&head.to_bytes(seed_of(options().identity)));
        bytes[at + 64..at + 164].copy_from_slice(&other.payload);
    });
    let damage = damage_of(&disk)?;
    holds(damage.positions.start == 7, "the record does not follow on the one before")
}

/// Two members' segments, or one from before: each record of it is good.
pub fn another_segment_is_seen() -> Outcome {
    let (disk, other) = (SimDisk::new(3), SimDisk::new(4));
    filled(&disk, 60)?;
    let mut log = open(&other).map_err(text)?;
    let written: Vec<Written> =
        (0..60).map(|number| message(number, 1 + u64::from(number == 0), 100)).collect();
    log.append(&written.iter().map(Written::entry).collect::<Vec<_>>()[..]).map_err(text)?;
    log.sync().map_err(text)?;
    let names = disk.names().unwrap();
    let firsts: Vec<u64> = names.iter().filter_map(|name| SegmentHead::first_of(name)).collect();
    holds(firsts.len() > 2, "some segments")?;
    let name = SegmentHead::name(firsts[1]);
    disk.damage(&name, |bytes| *bytes = other.shown(&name));
    let damage = damage_of(&disk)?;
    holds(damage.file == name, "the file is named")
}

/// One bit anywhere of a log that was closed: all of it is read, or none, or it is said what is gone.
pub fn a_flipped_bit_changes_nothing_unsaid() -> Outcome {
    let (mut refused, mut read) = (0, 0);
    for round in 0..400u64 {
        let disk = SimDisk::new(3);
        let written = filled(&disk, 70)?;
        open(&disk).map_err(text)?.close().map_err(text)?;
        let names = disk.names().unwrap();
        let name = &names[round as usize % names.len()];
        let word = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        disk.damage(name, |bytes| {
            let at = (word >> 3) as usize % bytes.len();
            bytes[at] ^= 1 << (word & 7);
        });
        match open(&disk).and_then(|log| {
            let mut reader = Reader::open(disk.clone(), Start::First)?;
            reader.verify(log.durable(), u64::MAX)?;
            Ok(log.durable())
        }) {
            Ok(_) => {
                read_all(&disk, &written)?;
                read += 1;
            }
            Err(Refusal::Damaged(_)) => refused += 1,
            Err(refusal) => return Err(text(refusal)),
        }
    }
    println!("400 bits: {refused} refused, {read} mean nothing");
    holds(refused > 50 && read > 50, "both happen")
}

/// The newer slot of the anchor is lost: nothing begins again that is over.
pub fn a_lost_slot_erases_nothing() -> Outcome {
    for erased in [false, true] {
        for at in [0, 4096] {
            let disk = SimDisk::new(3);
            let mut written = filled(&disk, 60)?;
            let mut log = open(&disk).map_err(text)?;
            if erased {
                log.erase(20).map_err(text)?;
                written.truncate(20);
                written.push(message(20, 5, 100));
                log.append(&[written[20].entry()][..]).map_err(text)?;
                log.sync().map_err(text)?;
            }
            drop(log);
            disk.damage("anchor", |bytes| bytes[at + 33] ^= 1);
            read_all(&disk, &written)?;
        }
    }
    let disk = SimDisk::new(3);
    let mut log = open(&disk).map_err(text)?;
    log.append(&[message(0, 1, 10).entry()][..]).map_err(text)?;
    log.sync().map_err(text)?;
    drop(log);
    for at in [0, 4096] {
        disk.damage("anchor", |bytes| bytes[at + 33] ^= 1);
        let opened = Log::open(disk.clone(), options()).map_err(text)?.1;
        holds(!opened.made && opened.tip.position == 1, "a log is not made twice")?;
    }
    Ok(())
}

/// A read that fails is no damage: nothing is cut or erased because of it.
pub fn a_failed_read_cuts_nothing() -> Outcome {
    let disk = SimDisk::new(3);
    let written = filled(&disk, 30)?;
    disk.fail_reads(Some(Errno::IO));
    let refused = open(&disk).err();
    let named = matches!(&refused, Some(Refusal::Failed(it)) if it.cause == Errno::IO);
    holds(named, "the cause is named")?;
    disk.fail_reads(None);
    read_all(&disk, &written)
}

/// What was durable at the end of a log that was closed is known to be missing.
pub fn a_lost_end_is_no_torn_tail() -> Outcome {
    let disk = SimDisk::new(3);
    let written = filled(&disk, 5)?;
    open(&disk).map_err(text)?.close().map_err(text)?;
    let (name, at) = place_of(&disk, 4);
    disk.damage(&name, |bytes| bytes[at..].fill(0));
    let damage = damage_of(&disk)?;
    holds(damage.positions == (4..5) && damage.upto.is_none(), "what is missing")?;
    repair::shorten(&disk, &options(), &damage).map_err(text)?;
    let mut log = open(&disk).map_err(text)?;
    holds(log.tip().position == 4, "it ends before what is lost")?;
    log.append(&[written[4].entry()][..]).map_err(text)?;
    log.close().map_err(text)?;
    read_all(&disk, &written)
}

/// Many records at once, confirmations among them, in the middle of a segment and at its end.
pub fn ranges_are_repaired() -> Outcome {
    for (from, upto) in (0..50u64).map(|at| (at, at + 1 + at % 5)) {
        let disk = SimDisk::new(3);
        let mut log = open(&disk).map_err(text)?;
        let mut written: Vec<Written> =
            (0..60).map(|number| message(number, 1, 20 * (number as usize % 8))).collect();
        for written in written.iter_mut().filter(|one| one.label.version.number.0 % 7 == 3) {
            written.label.kind = Kind::Confirm;
        }
        for written in &written {
            log.append(&[written.entry()][..]).map_err(text)?;
            log.sync().map_err(text)?;
        }
        drop(log);
        let lost = from..upto;
        let mut last = None;
        for position in lost.clone() {
            let (name, at) = place_of(&disk, position);
            if last.as_ref().is_some_and(|last| *last != name) {
                break; // another segment: another repair
            }
            disk.damage(&name, |bytes| bytes[at + 20] ^= 255);
            last = Some(name);
        }
        let damage = damage_of(&disk)?;
        holds(damage.positions.start == from, "the first one is named")?;
        let agreed = written[from as usize..damage.positions.end as usize].iter();
        let agreed: Vec<Entry<'_>> =
            agreed.map(Written::entry).filter(|entry| entry.label.kind.is_agreed()).collect();
        if agreed.len() > 1 {
            let fewer = repair::replace(&disk, &options(), &damage, &agreed[1..]);
            holds(matches!(fewer, Err(Refusal::Unfit(_))), "one is missing")?;
        }
        repair::replace(&disk, &options(), &damage, &agreed).map_err(text)?;
        let log = open(&disk).map_err(text)?;
        let mut reader = Reader::open(disk.clone(), Start::First).map_err(text)?;
        let is_lost = |at: u64, kind: Kind| damage.positions.contains(&at) && !kind.is_agreed();
        let mut left = (0..).zip(&written).filter(|(at, one)| !is_lost(*at, one.label.kind));
        while let Some(record) = reader.next(log.durable()).map_err(text)? {
            if record.label.kind != Kind::Filler {
                let (_, written) = left.next().ok_or("there is more than was written")?;
                let same = record.label == written.label && record.payload == written.payload;
                holds(same, "all but lost confirmations is as it was, in its order")?;
            }
        }
        holds(left.next().is_none() && log.tip().position == 60, "and all of it is there")?;
    }
    Ok(())
}

/// What was noted to be durable is known to be missing, without an end in good order.
pub fn a_noted_end_is_no_torn_tail() -> Outcome {
    let disk = SimDisk::new(3);
    filled(&disk, 5)?;
    let mut log = open(&disk).map_err(text)?;
    log.append(&[message(5, 1, 100).entry()][..]).and_then(|()| log.sync()).map_err(text)?;
    log.note().map_err(text)?;
    drop(log);
    let (name, at) = place_of(&disk, 5);
    disk.damage(&name, |bytes| bytes[at + 100] ^= 1);
    holds(damage_of(&disk)?.positions == (5..6), "the last one is damaged")
}

pub fn a_torn_tail_is_cut_and_said() -> Outcome {
    let disk = SimDisk::new(3);
    let written = filled(&disk, 5)?;
    let mut log = open(&disk).map_err(text)?;
    log.append(&[message(5, 1, 300).entry()][..]).map_err(text)?;
    drop(log);
    let (name, at) = place_of(&disk, 5);
    disk.damage(&name, |bytes| bytes[at + 200] ^= 1);
    let (log, opened) = Log::open(disk.clone(), options()).map_err(text)?;
    let torn = opened.torn.ok_or("it says nothing")?;
    let said = torn.file == name && torn.offset == at as u64 && torn.position == 5;
    holds(said && torn.bytes > 300 && torn.bytes <= 368, "how much, and where")?;
    drop(log);
    holds(disk.shown(&name)[at..].iter().all(|byte| *byte == 0), "nothing of it is left")?;
    read_all(&disk, &written)
}

/// What comes back after an erasure would be what was never agreed on.
pub fn what_is_erased_stays_away() -> Outcome {
    let disk = SimDisk::new(3);
    let written = filled(&disk, 60)?;
    let mut log = open(&disk).map_err(text)?;
    log.erase(20).map_err(text)?;
    log.append(&[written[20].entry()][..]).map_err(text)?;
    log.sync().map_err(text)?;
    drop(log);
    read_all(&disk, &written[..21])
}

pub fn two_do_not_open_one_log() -> Outcome {
    let disk = SimDisk::new(3);
    let _log = open(&disk).map_err(text)?;
    let second = open(&disk);
    holds(matches!(second, Err(Refusal::Locked { pid: Some(_) })), "the second one is refused")?;
    let other = Options { owner: 78, ..options() };
    drop(_log);
    let foreign = Log::open(disk.clone(), other);
    holds(matches!(foreign, Err(Refusal::Foreign { .. })), "another's log is refused")
}

pub fn other_formats_are_recognised() -> Outcome {
    let disk = SimDisk::new(3);
    filled(&disk, 3)?;
    let name = SegmentHead::name(0);
    for version in [0u32, 2] {
        disk.damage(&name, |bytes| {
            bytes[8..12].copy_from_slice(&version.to_le_bytes());
            let sum = crc32c::crc32c(&bytes[..124]);
            bytes[124..128].copy_from_slice(&sum.to_le_bytes());
        });
        let refused = open(&disk).err();
        let named = matches!(&refused, Some(Refusal::Format { version: it, .. }) if *it == version);
        holds(named, "the version is named")?;
    }
    Ok(())
}

/// A sync that failed is asked for once, whatever the cache shows later.
pub fn a_failed_sync_is_the_end() -> Outcome {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let written = filled(&disk, 3)?;
        let mut log = open(&disk).map_err(text)?;
        log.append(&[message(3, 1, 1000).entry()][..]).map_err(text)?;
        let calls = disk.calls();
        disk.plan(calls, Trouble::Error(Errno::IO));
        let failure = log.sync().err().ok_or("it did not fail")?;
        let named = failure.cause == Errno::IO && failure.file == SegmentHead::name(0);
        holds(named && failure.to_string().contains("disk"), "file, cause and remedy are named")?;
        holds(log.sync().is_err() && log.durable() == 3, "nothing more is durable")?;
        holds(disk.calls() == calls + 1, "it is not asked again")?;
        drop(log);
        disk.kill();
        let log = open(&disk).map_err(text)?;
        let end = log.tip().position as usize;
        drop(log);
        disk.cut_power();
        let again = open(&disk).map_err(text)?.tip().position as usize;
        holds(end == again, "what was found is on the disk")?;
        holds(end >= written.len(), "what was durable is there")?;
    }
    Ok(())
}

pub fn searches_find_the_first() -> Outcome {
    let disk = SimDisk::new(3);
    let mut log = open(&disk).map_err(text)?;
    let (mut written, mut views) = (Vec::new(), 0);
    for number in 0..90 {
        if number % 40 == 0 {
            let mut view = message(number, 1, 24);
            view.label.kind = Kind::View;
            written.push(view);
            views += 1;
        }
        written.push(message(number, 1, 100));
    }
    log.append(&written.iter().map(Written::entry).collect::<Vec<_>>()[..]).map_err(text)?;
    log.sync().map_err(text)?;
    for number in 0..90u64 {
        let at = written.iter().position(|one| one.label.version.number.0 == number).unwrap();
        let version = Version { epoch: Epoch(1 + number / 40), number: Number(number) };
        let stamp = Stamp(1000 + number * 10);
        for from in [Start::Position(at as u64), Start::Version(version), Start::Stamp(stamp)] {
            let mut reader = Reader::open(disk.clone(), from).map_err(text)?;
            let found = reader.next(log.durable()).map_err(text)?.ok_or("nothing is found")?;
            holds(found.position == at as u64, "the first one that it may be")?;
        }
        let as_of = position_as_of(disk.clone(), Stamp(stamp.0 + 5), log.durable());
        let as_of = as_of.map_err(text)?;
        holds(as_of > at as u64 && as_of <= at as u64 + 2, "behind the last one before that time")?;
    }
    holds(views == 3, "views stand between")?;
    let begins_at = log.trim(50).map_err(text)?;
    holds(begins_at > 0 && begins_at <= 50, "some segments are gone, and no more")?;
    let refused = Reader::open(disk.clone(), Start::Position(begins_at - 1)).err();
    holds(matches!(refused, Some(Refusal::Trimmed { .. })), "what is gone is said")?;
    let mut reader = Reader::open(disk.clone(), Start::First).map_err(text)?;
    let first = reader.next(log.durable()).map_err(text)?.ok_or("nothing is left")?;
    holds(first.position == begins_at, "it begins where it says")
}

/// A reader that follows sees each record once, whatever happens meanwhile.
pub fn a_reader_follows() -> Outcome {
    let disk = SimDisk::new(3);
    let mut log = open(&disk).map_err(text)?;
    let mut reader = Reader::open(disk.clone(), Start::First).map_err(text)?;
    let mut next = 0;
    for number in 0..200 {
        log.append(&[message(number, 1, 200).entry()][..]).map_err(text)?;
        if number % 3 == 0 {
            log.sync().map_err(text)?;
        }
        while let Some(record) = reader.next(log.durable()).map_err(text)? {
            holds(record.position == next && record.payload.len() == 200, "one after the other")?;
            next += 1;
        }
        holds(next == log.durable(), "up to the frontier")?;
        if number % 50 == 49 {
            log.trim(next - 1).map_err(text)?;
        }
    }
    Ok(())
}

fn worker(disk: &SimDisk) -> Result<(LogThread, Worker<SimDisk, impl Fn() + use<>>), String> {
    let log = open(disk).map_err(text)?;
    Ok(pair(vec![log], Writing { lots: 2, records: 4 }, || ()))
}

/// Frontiers move after what they announce, and stand still when that fails.
pub fn frontiers_come_after() -> Outcome {
    for failing in [0, 1] {
        let disk = SimDisk::new(3);
        let (mut handle, mut worker) = worker(&disk)?;
        let (one, two) = (message(0, 1, 50), message(1, 1, 60));
        let mut lot = handle.lot().ok_or("a lot is free")?;
        holds(lot.push(one.label, &one.payload) && lot.push(two.label, &two.payload), "room")?;
        handle.submit(0, lot);
        holds(worker.round(false).map_err(text)?, "it goes on")?;
        holds(handle.appended(0) == 2 && handle.durable(0) == 2, "both are there")?;
        let mut lot = handle.lot().ok_or("a lot is free")?;
        let three = message(2, 1, 50);
        lot.push(three.label, &three.payload);
        handle.submit(0, lot);
        disk.plan(disk.calls() + failing, Trouble::Error(Errno::NOSPC));
        holds(worker.round(false).is_err(), "it fails")?;
        holds(handle.durable(0) == 2, "it is not durable")?;
        holds(handle.appended(0) == 2 + failing, "what is not written is not released")?;
    }
    Ok(())
}

pub fn lots_are_bounded_and_go_round() -> Outcome {
    let disk = SimDisk::new(3);
    let (mut handle, mut worker) = worker(&disk)?;
    let mut written = Vec::new();
    for round in 0..40 {
        let mut number = round * 8;
        while let Some(mut lot) = handle.lot() {
            while !lot.is_full() {
                written.push(message(number, 1, 90));
                let label = written[number as usize].label;
                lot.push_own(label, written[number as usize].payload.clone().into());
                number += 1;
            }
            handle.submit(0, lot);
        }
        holds(number == round * 8 + 8, "two lots of four, and no more")?;
        for below in 0..(round * 8).saturating_sub(60) {
            handle.trim(0, below); // however often: there is room for all lots
        }
        worker.round(false).map_err(text)?;
        holds(handle.durable(0) == number, "all became durable together")?;
    }
    holds(handle.begins_at(0) > 0, "it was trimmed")?;
    drop((handle, worker));
    let log = open(&disk).map_err(text)?;
    holds(log.tip().position == 320 && log.begins_at() > 0, "it is all there")
}

#[test]
fn each_check_holds() {
    for (name, check) in CHECKS {
        let start = std::time::Instant::now();
        check().unwrap_or_else(|text| panic!("{name}: {text}"));
        println!("{name}: {} ms", start.elapsed().as_millis());
    }
}

pub const CHECKS: &[(&str, fn() -> Outcome)] = &[
    ("histories", histories),
    ("power cuts at each call", power_cuts_at_each_call),
    ("damage is named and repaired", damage_is_named_and_repaired),
    ("heads of segments are repaired", heads_of_segments_are_repaired),
    ("a lost write is seen", a_lost_write_is_seen),
    ("ranges are repaired", ranges_are_repaired),
    ("a noted end is no torn tail", a_noted_end_is_no_torn_tail),
    ("another segment is seen", another_segment_is_seen),
    ("a flipped bit changes nothing unsaid", a_flipped_bit_changes_nothing_unsaid),
    ("a lost slot erases nothing", a_lost_slot_erases_nothing),
    ("a failed read cuts nothing", a_failed_read_cuts_nothing),
    ("a lost end is no torn tail", a_lost_end_is_no_torn_tail),
    ("a torn tail is cut and said", a_torn_tail_is_cut_and_said),
    ("what is erased stays away", what_is_erased_stays_away),
    ("two do not open one log", two_do_not_open_one_log),
    ("other formats are recognised", other_formats_are_recognised),
    ("a failed sync is the end", a_failed_sync_is_the_end),
    ("searches find the first", searches_find_the_first),
    ("a reader follows", a_reader_follows),
    ("frontiers come after", frontiers_come_after),
    ("lots are bounded and go round", lots_are_bounded_and_go_round),
];

/// The format's bytes are a promise: these were written by version 1.
#[test]
fn the_format_is_what_it_was() {
    let head =
        Head::of(&message(5, 1, 3).entry(), &Tip { position: 9, chain: 77, ..Tip::default() }, 2);
    let bytes = head.to_bytes(seed_of(4711));
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(text, GOLDEN_HEAD);
    assert_eq!(Head::parse(&bytes, seed_of(4711)), Some(head));
    assert_eq!((head.claim(), head.bytes()), (7, 72));
    assert_eq!(Head::parse(&bytes, seed_of(4712)), None, "another log's record");
}

const GOLDEN_HEAD: &str = "5351010002000100030000007c30553e01000000000000000500000000000000\
                           1a04000000000000090000004d000000090000000000000002000000ae849dc4";

/// The real one: a folder of its own below the system's, removed at the end.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("squall-log-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_real_disk_keeps_a_log() {
    let folder = Folder::new("real");
    let options = Options { zero_ahead_bytes: 4096, segment_bytes: 1 << 20, ..options() };
    let disk = || RealDisk::at(&folder.0).unwrap();
    let (mut log, opened) = Log::open(disk(), options).unwrap();
    assert!(opened.made && log.rest().unwrap());
    let pid = Some(std::process::id());
    assert_eq!(Log::open(disk(), options).err(), Some(Refusal::Locked { pid }));
    let written: Vec<Written> = (0..3000).map(|number| message(number, 1, 1000)).collect();
    let entries: Vec<Entry<'_>> = written.iter().map(Written::entry).collect();
    for entries in entries.chunks(700) {
        log.append(entries).unwrap();
    }
    log.sync().unwrap();
    assert!(log.trim(1500).unwrap() > 0);
    let begins_at = log.begins_at();
    drop(log);
    let (log, opened) = Log::open(disk(), options).unwrap();
    assert_eq!((opened.torn, log.tip().position, log.begins_at()), (None, 3000, begins_at));
    let mut reader = Reader::open(disk(), Start::First).unwrap();
    let mut next = begins_at;
    while let Some(record) = reader.next(log.durable()).unwrap() {
        let same = record.payload == written[next as usize].payload;
        assert!(same && record.position == next);
        next += 1;
    }
    assert_eq!(next, 3000);
}

/// Whatever ends the thread is said, and whoever waits for it is woken.
#[test]
fn a_thread_that_ends_says_why() {
    for (disk_fails, status) in [(true, Status::System), (false, Status::Panic)] {
        let disk = SimDisk::new(3);
        let (ring, rung) = mpsc::channel();
        let wake = move || {
            let _ = ring.send(());
        };
        let log = open(&disk).unwrap();
        let mut thread = LogThread::start(vec![log], Writing::default(), wake).unwrap();
        let mut next = |number| {
            let mut lot = thread.lot().unwrap();
            let one = message(number, 1, 50);
            lot.push_own(one.label, one.payload.into());
            thread.submit(0, lot);
            while thread.failure().is_none() && thread.durable(0) == 0 {
                rung.recv().unwrap();
            }
        };
        next(7);
        if disk_fails {
            (0..20).for_each(|at| disk.plan(disk.calls() + at, Trouble::Error(Errno::IO)));
        }
        next(5 + 4 * u64::from(disk_fails)); // a number that goes back is a bug of ours
        while thread.failure().is_none() {
            rung.recv().unwrap();
        }
        assert_eq!((thread.failure().unwrap().status, thread.durable(0)), (status, 1));
        assert_eq!(thread.close().unwrap_err().status, status);
    }
}

#[test]
fn a_thread_commits_what_has_come() {
    let folder = Folder::new("thread");
    let options = Options { segment_bytes: 1 << 20, ..options() };
    let (log, _) = Log::open(RealDisk::at(&folder.0).unwrap(), options).unwrap();
    let (ring, rung) = mpsc::channel();
    let wake = move || {
        let _ = ring.send(());
    };
    let writing = Writing { lots: 4, records: 32 };
    let mut thread = LogThread::start(vec![log], writing, wake).unwrap();
    let written: Arc<Vec<Written>> =
        Arc::new((0..4000).map(|number| message(number, 1, 700)).collect());
    let mut next = 0;
    while thread.durable(0) < 4000 {
        match thread.lot().filter(|_| next < 4000) {
            Some(mut lot) => {
                while next < 4000 && lot.push(written[next].label, &written[next].payload) {
                    next += 1;
                }
                thread.submit(0, lot);
            }
            None => rung.recv().unwrap(),
        }
        assert!(thread.durable(0) <= thread.appended(0) && thread.failure().is_none());
    }
    thread.close().unwrap();
    let (log, opened) = Log::open(RealDisk::at(&folder.0).unwrap(), options).unwrap();
    assert_eq!((log.tip().position, opened.torn), (4000, None));
}
