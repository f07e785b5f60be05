// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the hellos of shared memory (`shm::door`) and of TCP (`tcp::hello`) have in common: what is
//! wanted, the form of the text, and whether two processes belong together.

use crate::base::Versions;
use crate::error::{Error, Status};

/// What somebody wants; the answers are the last two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// To be one of the first members.
    Join,
    /// To be joined to a group that runs.
    Enter,
    Stat,
    Probe,
    /// A state transfer's connection.
    Stream,
    /// The same, for registered memory.
    Reach,
    Welcome,
    Refuse,
}

const KINDS: [(Kind, &str); 8] = [
    (Kind::Join, "join"),
    (Kind::Enter, "enter"),
    (Kind::Stat, "stat"),
    (Kind::Probe, "probe"),
    (Kind::Stream, "stream"),
    (Kind::Reach, "reach"),
    (Kind::Welcome, "welcome"),
    (Kind::Refuse, "refuse"),
];

impl Kind {
    pub fn text(self) -> &'static str {
        KINDS.iter().find(|(kind, _)| *kind == self).map_or("", |(_, text)| text)
    }

    pub fn parse(text: &str) -> Option<Kind> {
        KINDS.iter().find(|(_, of)| *of == text).map(|(kind, _)| *kind)
    }
}

/// A hello's lines before `config:`, and the configuration after it. `None`: there is no such line.
pub fn parts(text: &str) -> Option<(&str, &str)> {
    // At the beginning of a line: a value may end like that.
    match text.strip_prefix("config:\n") {
        Some(config) => Some(("", config)),
        None => text.split_once("\nconfig:\n"),
    }
}

/// A refusal's status and sentence.
pub fn refusal(value: &str) -> Option<(i32, &str)> {
    let (status, sentence) = value.split_once(' ')?;
    Some((status.parse().ok()?, sentence))
}

/// What a process speaks, and what its group runs at; 0: it does not run yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Speech {
    pub versions: Versions,
    pub wire: u16,
}

/// Whether two can be in one group: they have a version in common, and whoever comes to a group that runs
/// speaks the one that it runs at. If not, the sentence that names both values.
pub fn compare_versions(mine: Speech, theirs: Speech, who: &str) -> Result<(), Error> {
    let (ours, others) = (mine.versions, theirs.versions);
    let detail = if mine.wire != 0 && !others.speaks(mine.wire) {
        cannot_follow(who, others, mine.wire)
    } else if theirs.wire != 0 && !ours.speaks(theirs.wire) {
        cannot_follow("this process", ours, theirs.wire)
    } else if Versions::common([ours, others]).is_none() {
        format!(
            "{who} speaks {others}, this library speaks {ours}: upgrade the older one, or upgrade \
             member by member through versions that both speak"
        )
    } else {
        return Ok(());
    };
    Err(Error::new(Status::WireVersion, detail))
}

/// That a process cannot join a group, which runs at that version.
pub fn cannot_follow(who: &str, speaks: Versions, wire: u16) -> String {
    let remedy = match speaks.max < wire {
        true => "upgrade that process: all members have been",
        false => "upgrade the members first, one by one, to what speaks both",
    };
    format!("{who} speaks {speaks}, the group runs at wire version {wire}: {remedy}")
}

/// Whether two configurations fit each other; if not, the sentence with the first lines that differ.
pub fn compare_configs(mine: &str, theirs: &str, who: &str) -> Result<(), Error> {
    if mine == theirs {
        return Ok(());
    }
    let lines = |text: &str| text.lines().map(String::from).collect::<Vec<_>>();
    let (ours, others) = (lines(mine), lines(theirs));
    let absent = || String::from("nothing");
    let at = (0..ours.len().max(others.len())).find(|&at| ours.get(at) != others.get(at));
    let at = at.unwrap_or(0);
    let ours = ours.get(at).cloned().unwrap_or_else(absent);
    let others = others.get(at).cloned().unwrap_or_else(absent);
    let detail = format!(
        "the group runs with another configuration: {who} has `{others}` where this process \
         has `{ours}`: open it with the same attributes everywhere, or choose another name"
    );
    Err(Error::new(Status::Mismatch, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_named() {
        let says = |min, max, wire| Speech { versions: Versions { min, max }, wire };
        let differs = |mine, theirs| {
            let error = compare_versions(mine, theirs, "seat 3").unwrap_err();
            assert_eq!(error.status, Status::WireVersion);
            error.detail
        };
        assert_eq!(compare_versions(says(1, 2, 1), says(1, 1, 0), "it"), Ok(()));
        assert_eq!(compare_versions(says(2, 3, 0), says(1, 2, 2), "it"), Ok(()));
        let never = differs(says(1, 1, 0), says(2, 3, 0));
        assert!(never.starts_with("seat 3 speaks wire versions 2 to 3, this library"), "{never}");
        assert!(never.contains("speaks wire version 1:"), "{never}");
        let old = differs(says(1, 2, 2), says(1, 1, 0));
        assert!(old.contains("seat 3 speaks wire version 1, the group runs at wire version 2"));
        assert!(old.contains("upgrade that process"), "{old}");
        let new = differs(says(2, 3, 0), says(1, 2, 1));
        assert!(
            new.contains("this process speaks wire versions 2 to 3, the group runs at"),
            "{new}"
        );
        assert!(new.contains("wire version 1: upgrade the members first"), "{new}");
    }

    #[test]
    fn the_configuration_begins_at_a_line_of_its_own() {
        assert_eq!(parts("a=config:\nb=2\nconfig:\nx=1\n"), Some(("a=config:\nb=2", "x=1\n")));
        assert_eq!(parts("config:\n"), Some(("", "")));
        assert_eq!(parts("a=config:\n"), None);
    }
}
