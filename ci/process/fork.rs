// SPDX-License-Identifier: MIT OR Apache-2.0
//! A member that forks: its child does nothing and outlives it, and is no reason to think that the
//! member lives.

use super::*;

/// A child of a member, ended with the test.
struct Orphan(rustix::process::Pid);

impl Orphan {
    fn of(line: &str) -> Orphan {
        Orphan(rustix::process::Pid::from_raw(line.parse().unwrap()).unwrap())
    }

    fn lives(&self) -> bool {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", self.0.as_raw_pid()));
        state.is_ok_and(|state| !state.contains(") Z "))
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, Signal::KILL);
    }
}

/// Makes a child that holds what it inherits, pipes aside, and sleeps until it is killed, a minute at
/// the most; says its number.
pub fn leave_an_orphan() {
    // SAFETY: the child calls only what may be called in a signal handler.
    let child = unsafe { libc::fork() };
    if child != 0 {
        println!("orphan {child}");
        return;
    }
    // SAFETY: as above; none of them touches memory.
    unsafe {
        for pipe in 0..3 {
            libc::close(pipe);
        }
        libc::sleep(60);
        libc::_exit(0);
    }
}

/// Its death was never noticed, and its rank was taken for as long as the child lived.
pub fn a_member_that_forked_is_named_and_replaced() -> String {
    let mut text = String::new();
    for (victim, idle) in [(1u16, "park"), (0, "yield")] {
        let group = group_name("forked");
        let more: &Options<'_> = &[("idle", &idle), ("progress", &100), ("reopen", &true)];
        let start = starts(&group, 2, more);
        let mut forks = starts(&group, 2, &[("idle", &idle), ("fork", &true)])(victim);
        let mut other = start(1 - victim);
        let orphan = Orphan::of(&forks.expect("orphan"));
        other.expect("progress");
        forks.kill();
        drop(forks.end());
        let mut next = starts(&group, 2, &[("idle", &idle), ("count", &2_000)])(victim);
        let line = other.expect("stopped");
        assert!(line.starts_with("PeerLost"), "{line}");
        assert_eq!(field(&line, "rank="), victim.to_string(), "{line}");
        let heard = [next.expect("done"), other.expect("done")];
        assert_eq!(heard[0], heard[1]);
        assert!(orphan.lives(), "the child is there all the time");
        for mut member in [next, other] {
            member.say("close");
            member.end_well();
        }
        text.push_str(&format!(
            "rank {victim} of {idle} members forked and was killed: noticed, replaced while its \
             child lived: {}\n",
            heard_of(&heard[0])
        ));
    }
    text
}
