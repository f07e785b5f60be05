// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks of the code by the code: the invariants of `ARCHITECTURE.md` that no lint knows.
//!
//! A violation names the file, the line and the rule. Lists of exceptions only shrink.

use std::fs;
use std::path::{Path, PathBuf};

/// One source file: its path below the root, its lines, and how many of them are no tests.
struct Source {
    path: String,
    lines: Vec<String>,
    /// Lines before the first `#[cfg(test)]`-like module at the bottom.
    code: usize,
}

impl Source {
    fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or("");
        let names = [
            "tests.rs",
            "batch_tests.rs",
            "loom_tests.rs",
            "tidy.rs",
            "transcript.rs",
            "mutants.rs",
            "conformance.rs",
        ];
        // The software device of the verbs fabric is compiled for tests only.
        names.contains(&name) || self.path.contains("/verbs/sys/soft/")
    }

    /// The lines that are code: no tests, no comments.
    fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.lines[..self.code].iter().enumerate();
        let comment = |line: &str| line.trim_start().starts_with("//");
        lines.map(|(at, line)| (at + 1, line.as_str())).filter(move |(_, line)| !comment(line))
    }

    fn room(&self) -> &str {
        self.path.trim_start_matches("src/").split(['/', '.']).next().unwrap_or("")
    }
}

fn sources() -> Vec<Source> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["src", "bench", "ci"] {
        walk(&root, &root.join(folder), &mut found);
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 30, "the sources are where they were");
    found
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(root, &path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path).expect("a source is text");
            let lines: Vec<String> = text.lines().map(String::from).collect();
            let test = |line: &String| line.starts_with("#[cfg(") && line.contains("test");
            let code = lines.iter().position(test).unwrap_or(lines.len());
            let path = path.strip_prefix(root).expect("below the root");
            found.push(Source { path: path.to_string_lossy().into_owned(), lines, code });
        }
    }
}

/// Fails with all violations at once.
fn report(rule: &str, violations: Vec<String>) {
    assert!(violations.is_empty(), "{rule}:\n  {}", violations.join("\n  "));
}

#[test]
fn a_module_names_only_lower_ones() {
    const LEVELS: [(&str, u32); 16] = [
        ("base", 0),
        ("limits", 0),
        ("error", 0),
        ("log_sink", 0),
        ("mutants", 0),
        ("mem", 1),
        ("sst", 2),
        ("registered", 2),
        ("group", 3),
        ("fabric", 3),
        ("transfer", 3),
        ("log", 3),
        ("driver", 4),
        ("sim", 4),
        ("settings", 5),
        ("capi", 6),
    ];
    let level = |room: &str| LEVELS.iter().find(|(name, _)| *name == room).map(|(_, level)| *level);
    let mut violations = Vec::new();
    for source in sources().iter().filter(|source| source.path.starts_with("src/")) {
        let Some(mine) = level(source.room()) else { continue };
        for (at, line) in source.code_lines() {
            for named in line.split("crate::").skip(1) {
                let named = named.split(|c: char| !c.is_alphanumeric() && c != '_').next();
                let named = named.unwrap_or("");
                let Some(its) = level(named) else { continue };
                let same = named == source.room();
                // Level 0 is one room of several files; the simulator sees what it simulates.
                if !same && (its > mine || (its == mine && mine > 0)) {
                    violations.push(format!("{}:{at}: names {named}", source.path));
                }
            }
        }
    }
    report("a module names only modules of a lower level", violations);
}

#[test]
fn the_engine_and_the_table_know_no_world() {
    let banned = [
        "std::time",
        "std::thread",
        "std::net",
        "std::fs",
        "std::os",
        "Instant",
        "SystemTime",
        "println",
        "eprintln",
        "HashMap",
        "HashSet",
        "libc::",
        "rustix",
    ];
    let mut violations = Vec::new();
    let pure = |source: &&Source| ["group", "sst"].contains(&source.room()) && !source.is_test();
    for source in sources().iter().filter(|s| s.path.starts_with("src/")).filter(pure) {
        for (at, line) in source.code_lines() {
            for word in banned.iter().filter(|word| line.contains(**word)) {
                violations.push(format!("{}:{at}: {word}", source.path));
            }
        }
    }
    report("group and sst mention no clock, thread, file, socket or random map", violations);
}

#[test]
fn unsafe_is_where_it_belongs_and_says_why() {
    let rooms = ["src/mem/", "src/fabric/shm/", "src/fabric/verbs/", "src/capi/", "bench/", "ci/"];
    let mut violations = Vec::new();
    for source in &sources() {
        let allowed = rooms.iter().any(|room| source.path.starts_with(room));
        for (at, line) in source.code_lines() {
            let word =
                line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "unsafe");
            if !word || line.contains("forbid(unsafe") || source.path == "src/tidy.rs" {
                continue;
            }
            if !allowed {
                violations.push(format!("{}:{at}: unsafe", source.path));
                continue;
            }
            let opens = line.contains("unsafe {") || line.contains("unsafe impl");
            let above = source.lines[at.saturating_sub(9)..at].iter();
            if opens && !above.clone().any(|line| line.contains("SAFETY:")) {
                violations.push(format!("{}:{at}: no SAFETY note above it", source.path));
            }
        }
    }
    report("unsafe only in mem, shm, verbs and capi, each with its reason", violations);
}

#[test]
fn memory_orderings_are_on_their_page() {
    let mut violations = Vec::new();
    for source in sources().iter().filter(|source| source.path.starts_with("src/")) {
        if source.path == "src/mem/order.rs" || source.path == "src/tidy.rs" {
            continue;
        }
        for (at, line) in source.code_lines().filter(|(_, line)| line.contains("Ordering::")) {
            if !line.contains("cmp::Ordering") {
                violations.push(format!("{}:{at}: {}", source.path, line.trim()));
            }
        }
    }
    report("`Ordering::` occurs only in mem/order.rs", violations);
}

#[test]
fn features_are_asked_for_at_the_door_only() {
    let allowed = ["src/lib.rs", "src/fabric/mod.rs", "src/tidy.rs"];
    let mut violations = Vec::new();
    for source in sources().iter().filter(|source| source.path.starts_with("src/")) {
        for (at, line) in source.code_lines() {
            if line.contains("feature =") && !allowed.contains(&source.path.as_str()) {
                violations.push(format!("{}:{at}: {}", source.path, line.trim()));
            }
        }
    }
    report("cfg(feature) occurs in lib.rs, build.rs and fabric/mod.rs only", violations);
}

#[test]
fn words_have_one_meaning() {
    let banned = ["seq_num", "num_", "vid", "committed", "acked", "transport", "watermark"];
    let mut violations = Vec::new();
    for source in sources().iter().filter(|s| s.path.starts_with("src/")) {
        if !["group", "sst"].contains(&source.room()) {
            continue;
        }
        for (at, line) in source.code_lines() {
            let words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            for word in words {
                let hit =
                    |bad: &&&str| word == **bad || (bad.ends_with('_') && word.starts_with(**bad));
                if let Some(bad) = banned.iter().find(hit) {
                    violations.push(format!("{}:{at}: {word} (glossary: not {bad})", source.path));
                }
            }
        }
    }
    report("the glossary's words", violations);
}

#[test]
fn files_begin_with_what_they_are_and_stay_small() {
    let mut violations = Vec::new();
    // What a tool writes has the length that it has.
    let generated = |source: &&Source| source.path == "src/fabric/verbs/sys/bindings.rs";
    for source in sources().iter().filter(|source| !generated(source)) {
        let first = source.lines.first().map_or("", String::as_str);
        if first != "// SPDX-License-Identifier: MIT OR Apache-2.0" {
            violations.push(format!("{}:1: no SPDX line", source.path));
        }
        let second = source.lines.get(1).map_or("", String::as_str);
        let header = second.starts_with("//!") || second.starts_with("#![");
        if !header {
            violations.push(format!("{}:2: no header that says what it is", source.path));
        }
        // Black-box tests and lists of checks are read one test at a time.
        let listed = source.path.starts_with("ci/") || source.is_test();
        let most =
            if listed { 1400 } else { 520 + 280 * usize::from(!source.path.starts_with("src/")) };
        if source.code > most {
            violations.push(format!("{}: {} lines without tests", source.path, source.code));
        }
    }
    report("a header, and at most 500 lines", violations);
}

#[test]
fn nothing_is_left_for_later_unsaid() {
    let mut violations = Vec::new();
    for source in sources().iter().filter(|source| source.path != "src/tidy.rs") {
        for (at, line) in source.lines.iter().enumerate() {
            for word in ["TODO", "FIXME", "XXX", "todo!", "unimplemented!", "dbg!"] {
                if line.contains(word) {
                    violations.push(format!("{}:{}: {word}", source.path, at + 1));
                }
            }
        }
    }
    report("no loose ends", violations);
}

/// Functions longer than 70 lines. Only ever to be taken from.
const LONG_FUNCTIONS: [&str; 3] = ["collect_stable", "build", "delivered"];

#[test]
fn functions_fit_a_page() {
    let mut violations = Vec::new();
    for source in sources().iter().filter(|source| source.path.starts_with("src/")) {
        let mut open: Option<(usize, usize, String)> = None;
        for (at, line) in source.lines[..source.code].iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let text = line.trim_start();
            let named = text.split("fn ").nth(1).filter(|_| !text.starts_with("//"));
            if let (None, Some(named), true) =
                (&open, named, text.ends_with('{') || text.ends_with('('))
            {
                let name = named.split(['(', '<']).next().unwrap_or("").to_string();
                open = Some((at, indent, name));
            }
            if let Some((from, its, name)) = &open
                && line == &format!("{}}}", " ".repeat(*its))
            {
                if at - from > 70 && !LONG_FUNCTIONS.contains(&name.as_str()) {
                    violations.push(format!(
                        "{}:{}: {name} has {} lines",
                        source.path,
                        from + 1,
                        at - from
                    ));
                }
                open = None;
            }
        }
    }
    report("at most 70 lines a function", violations);
}
