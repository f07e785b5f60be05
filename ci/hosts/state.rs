// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state of a group for one that joins on another host: it comes over a connection of its own.

use crate::net::{Net, skipped};
use crate::stateful::{Crew, MIB, Plan};
use crate::support::sites::Sites;
use crate::support::until;

fn crew(what: &str, net: &Net, patience_ms: u64) -> Crew {
    let plan = Plan { patience_ms, ..Plan::new(3, 8 * MIB, "park") };
    let mut crew = Crew::on(what, plan, Sites::on(net.hosts()));
    crew.delivers();
    crew
}

/// Threads that carry a state, of a member that gives one or gets one.
fn carriers(crew: &Crew, at: usize) -> usize {
    let threads = format!("/proc/{}/task", crew.members[at].process.pid());
    let threads = std::fs::read_dir(threads).into_iter().flatten().flatten();
    let name = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("comm"));
    threads.filter_map(|thread| name(thread).ok()).filter(|name| name == "squall-stream\n").count()
}

/// All deliver while it comes; states are equal; nothing of it is left.
pub fn a_joiner_gets_the_state() -> String {
    let Some(net) = Net::new(4) else { return skipped() };
    let mut crew = crew("farstate", &net, 30_000);
    let one = crew.join(10);
    crew.members[one].process.expect("load 1");
    assert_ne!((carriers(&crew, 0), carriers(&crew, one)), (0, 0), "over a connection of its own");
    let before = crew.delivered(1);
    crew.members[one].process.expect("load 7");
    let during = crew.delivered(1) - before;
    assert!(during > 0, "the others deliver");
    crew.joined(one, 4);
    let text = crew.agree();
    assert!(crew.caught_up(one) > 0, "under load something comes after the checkpoint");
    until("its threads end", || carriers(&crew, 0) + carriers(&crew, one) == 0);
    crew.leave_all();
    format!("{during} delivered while it loaded; {text}")
}

/// Both at once: most of it is waiting.
pub fn a_path_ends() -> String {
    // Whichever fails, the other one ends first: its hosts are taken down.
    std::thread::scope(|both| {
        let other = both.spawn(the_joiner_dies);
        let text = the_source_is_cut_off();
        format!("{text}\n{}", other.join().unwrap())
    })
}

/// In the middle of the state the host that it comes from is cut off: it begins anew with another,
/// however patient it is with members that can be reached.
fn the_source_is_cut_off() -> String {
    let Some(net) = Net::new(4) else { return skipped() };
    let mut crew = crew("farsource", &net, 300_000);
    let one = crew.join(20);
    crew.members[one].process.expect("load 2");
    let start = std::time::Instant::now();
    net.unplug(0);
    let alone = crew.members.remove(0);
    let one = one - 1;
    crew.members[one].process.expect("begin");
    let waited = start.elapsed();
    crew.joined(one, 3);
    let lines = alone.process.end_well();
    assert!(lines.contains(&"over Partitioned".to_string()), "{lines:?}");
    let text = crew.agree();
    crew.leave_all();
    format!("anew after {waited:.1?}; {text}")
}

/// One that loads is killed, and the host of another one fails without a word: nobody waits for them,
/// and their source keeps nothing of it.
fn the_joiner_dies() -> String {
    let Some(net) = Net::new(5) else { return skipped() };
    let mut crew = crew("farjoiner", &net, 1_000);
    let (killed, lost) = (crew.join(20), crew.join(20));
    crew.members[killed].process.expect("load 2");
    crew.kill(killed);
    let lost = lost - 1;
    crew.members[lost].process.expect("load 2");
    let start = std::time::Instant::now();
    net.cut(4);
    crew.kill(lost); // and nobody hears of it
    let one = crew.join(0);
    crew.joined(one, 4);
    let text = crew.agree();
    until("the source lets go of it", || carriers(&crew, 0) == 0);
    let waited = start.elapsed();
    crew.leave_all();
    format!("let go of after {waited:.1?}; {text}")
}
