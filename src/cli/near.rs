// SPDX-License-Identifier: MIT OR Apache-2.0
//! The groups that have members on this host, by the names that they meet at: for whoever has mistyped
//! one, or names one whose machine is parted (`network.host`).

use squall::driver::config::is_name;

/// By name; one of a parted machine as `GROUP@HOST`, for each of its parts. Those that meet in a directory
/// of theirs (`peers.directory`) are not among them.
pub fn groups() -> Vec<String> {
    names_in(&std::fs::read_to_string("/proc/net/unix").unwrap_or_default())
}

fn names_in(sockets: &str) -> Vec<String> {
    let name = |line: &str| {
        let (_, name) = line.split_once("@squall/")?;
        Some(name.rsplit_once('/')?.0.to_string())
    };
    let mut groups: Vec<String> = sockets.lines().filter_map(name).collect();
    groups.sort();
    groups.dedup();
    groups
}

/// The parts of a group on a machine that is parted for it; under its own name nobody is found then.
pub fn parts(group: &str, among: &[String]) -> Vec<String> {
    let is_part = |name: &&String| name.split_once('@').is_some_and(|(of, _)| of == group);
    among.iter().filter(is_part).cloned().collect()
}

/// Whether somebody may have meant that group, and can look at it: a part is one, too.
pub fn is_group(text: &str) -> bool {
    let (group, part) = text.split_once('@').unwrap_or((text, "all"));
    is_name(group) && is_name(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_sockets() {
        let sockets = "Num RefCount Protocol Flags Type St Inode Path\n\
                       0000000000000000: 00000002 00000000 00010000 0005 01 20 @squall/demo@east/0\n\
                       0000000000000000: 00000002 00000000 00010000 0005 01 21 @squall/demo@east/1\n\
                       0000000000000000: 00000002 00000000 00010000 0001 01 22 /run/other\n\
                       0000000000000000: 00000002 00000000 00010000 0005 01 23 @squall/chat/0\n";
        let names = names_in(sockets);
        assert_eq!(names, ["chat", "demo@east"]);
        assert_eq!(parts("demo", &names), ["demo@east"]);
        assert!(parts("chat", &names).is_empty() && parts("east", &names).is_empty());
        assert!(is_group("demo") && is_group("demo@east") && !is_group("a/b") && !is_group("a@"));
    }
}
