// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real processes that join a group under load and get its state: whole, by checksum, whoever is
//! killed on the way, however slow they are.

#[path = "state/member.rs"]
mod member;
mod support;

use member::{Crew, MIB, Plan, ROLE, member};
use support::until;

fn main() {
    support::main(
        &[
            ("a_joiner_gets_the_state", a_joiner_gets_the_state),
            ("on_receipt_nothing_is_counted_twice", on_receipt_nothing_is_counted_twice),
            ("two_join_at_once", two_join_at_once),
            ("the_source_is_killed", the_source_is_killed),
            ("the_source_is_killed_late", the_source_is_killed_late),
            ("the_source_is_killed_before_the_end", the_source_is_killed_before_the_end),
            ("the_source_leaves", the_source_leaves),
            ("the_joiner_is_killed", the_joiner_is_killed),
            ("views_pass_while_a_joiner_loads", views_pass_while_a_joiner_loads),
            ("a_slow_joiner_stops_nobody", a_slow_joiner_stops_nobody),
            ("what_has_no_state_says_so", what_has_no_state_says_so),
        ],
        &[(ROLE, member)],
    );
}

fn a_joiner_gets_the_state() -> String {
    let mut text = String::new();
    for idle in ["park", "yield"] {
        let mut crew = Crew::start("state", 3, 8 * MIB, idle);
        crew.delivers();
        let one = crew.join(0);
        crew.joined(one, 4);
        text.push_str(&format!("{idle}: {}\n", crew.agree()));
        let caught = crew.caught_up(one);
        assert!(caught > 0, "under load something comes after the checkpoint");
        crew.leave_all();
    }
    text
}

/// On receipt members have more or less of each sender when a view ends. Who joins with the state of
/// one goes on where that one does. Whoever leads ends first and has the least; so the source, which
/// has the lowest seat, is made the youngest.
fn on_receipt_nothing_is_counted_twice() -> String {
    let plan =
        Plan { received: true, window: 1024, rate: 20_000, ..Plan::new(3, 1 << 16, "yield") };
    let mut crew = Crew::of("receipt", plan);
    crew.delivers();
    crew.agree(); // of one that fails some might have more
    crew.kill(0);
    crew.joined(0, 2);
    let one = crew.join(0);
    crew.joined(one, 3);
    crew.members.iter_mut().for_each(|one| one.process.say("go"));
    for members in 4..9 {
        let one = crew.join(0);
        crew.joined(one, members);
    }
    let text = crew.agree();
    crew.leave_all();
    text
}

fn two_join_at_once() -> String {
    let mut crew = Crew::start("twostates", 2, 8 * MIB, "park");
    crew.delivers();
    let (one, other) = (crew.join(0), crew.join(0));
    crew.joined(one, 3);
    crew.joined(other, 4);
    let text = crew.agree();
    crew.leave_all();
    text
}

/// In the middle of the checkpoint: the joiner begins anew with another member, though it has been at
/// it for longer than it would wait for a member to answer.
fn the_source_is_killed() -> String {
    let mut crew = Crew::start("sourcedies", 3, 8 * MIB, "park");
    crew.delivers();
    let one = crew.join_within(160, 2000);
    crew.members[one].process.expect("load 4");
    crew.kill(0);
    crew.members[one - 1].process.expect("begin");
    crew.joined(one - 1, 3);
    let text = crew.agree();
    crew.leave_all();
    text
}

/// At any moment after the checkpoint: the joiner may have asked to be joined, or be joined. Then it
/// takes part without a state until it has left, so that those who are left are a majority: of four
/// as of five.
fn the_source_is_killed_late() -> String {
    let mut text = String::new();
    for after_ms in [0, 1, 2, 4, 8, 16, 32] {
        let mut crew = Crew::start("sourcelate", 3, MIB, "park");
        crew.delivers();
        let one = crew.join(0);
        crew.members[one].process.expect("loaded");
        std::thread::sleep(std::time::Duration::from_millis(after_ms));
        crew.kill(0);
        crew.joined(one - 1, 3);
        text.push_str(&format!("after {after_ms} ms: {}\n", crew.agree()));
        crew.leave_all();
    }
    text
}

/// Exactly between the view that the joiner is a member of and the end of the state, most of which
/// is still at the source. The others must go on, of three as of two, and the joiner come again.
fn the_source_is_killed_before_the_end() -> String {
    let mut text = String::new();
    for founders in [3, 2] {
        let plan = Plan { far: true, ..Plan::new(founders, 8 * MIB, "park") };
        let mut crew = Crew::of("sourceend", plan);
        crew.delivers();
        let one = crew.join(40);
        let whole = usize::from(founders) + 1;
        (1..one).for_each(|at| crew.joined(at, whole));
        let said = crew.members[one].process.ready_lines();
        assert!(said.iter().all(|line| !line.starts_with("view")), "no member yet: {said:?}");
        crew.kill(0);
        let before = crew.delivered(0);
        until("the others go on", || crew.delivered(0) > before + 1000);
        crew.joined(one - 1, usize::from(founders));
        text.push_str(&format!("{founders}: {}\n", crew.agree()));
        crew.leave_all();
    }
    text
}

fn the_source_leaves() -> String {
    let mut crew = Crew::start("sourceleaves", 3, 8 * MIB, "park");
    crew.delivers();
    let one = crew.join(20);
    crew.members[one].process.expect("load 4");
    crew.leave(0);
    crew.joined(one - 1, 3);
    let text = crew.agree();
    crew.leave_all();
    text
}

fn the_joiner_is_killed() -> String {
    let mut crew = Crew::start("joinerdies", 3, 8 * MIB, "park");
    crew.delivers();
    for word in ["begin", "load 4", "loaded"] {
        let one = crew.join(10);
        crew.members[one].process.expect(word);
        crew.kill(one);
    }
    let one = crew.join(0);
    crew.joined(one, 4);
    let text = crew.agree();
    crew.leave_all();
    text
}

/// Another member fails, and another process joins, while one loads.
fn views_pass_while_a_joiner_loads() -> String {
    let mut crew = Crew::start("viewspass", 3, 8 * MIB, "park");
    crew.delivers();
    let slow = crew.join(40);
    crew.members[slow].process.expect("load 1");
    crew.kill(2);
    let slow = slow - 1;
    let quick = crew.join(0);
    crew.joined(quick, 3);
    crew.joined(slow, 4);
    let text = crew.agree();
    crew.leave_all();
    text
}

fn a_slow_joiner_stops_nobody() -> String {
    let mut crew = Crew::start("slowjoiner", 3, 8 * MIB, "park");
    crew.delivers();
    let one = crew.join(100);
    crew.members[one].process.expect("load 1");
    let before = crew.delivered(0);
    let mut now = before;
    for mib in 2..8 {
        crew.members[one].process.expect(&format!("load {mib}"));
        let then = now;
        until("more is delivered", || {
            now = crew.delivered(0);
            now > then
        });
    }
    crew.joined(one, 4);
    let text = crew.agree();
    crew.leave_all();
    format!("{} delivered while it loaded; {text}", now - before)
}

fn what_has_no_state_says_so() -> String {
    let mut crew = Crew::start("stateless", 2, 0, "park");
    crew.delivers();
    let one = crew.join(0);
    let said = crew.members[one].process.expect("error");
    assert!(said.starts_with("Mismatch") && said.contains("have no state to give"), "{said}");
    crew.members.remove(one);
    let text = crew.agree();
    crew.leave_all();
    text
}
