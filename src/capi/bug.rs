// SPDX-License-Identifier: MIT OR Apache-2.0
//! Panics of ours that the door catches are said in the log sink, where the application looks, and
//! not on its standard error.
//!
//! Rust says a panic through one hook of the process, before anybody catches it. If the host is a
//! Rust program, that hook is its own: ours, in front of it, takes only what has begun in our
//! sources, and hands on the rest, such as a panic in the host's callback. Nothing is marked when
//! the door is entered: that would cost every message something. What marks our sources is their
//! path, which no other crate has: it leads through `src/..` (lib.rs).

use crate::error::{Error, Status};
use crate::fabric::shm::fork::First;
use crate::log_sink::{Level, say};
use std::any::Any;
use std::panic::{PanicHookInfo, set_hook, take_hook};

/// Puts our hook before the host's, once per process.
pub fn hear_panics() {
    static HEARD: First = First::new();
    // A build that aborts catches nothing: then the last words belong to standard error. And a
    // thread that panics may not change the hook; the next group's will.
    // And in tests of ours a panic is a failure, which must be seen.
    if cfg!(any(not(panic = "unwind"), test)) || std::thread::panicking() {
        return;
    }
    HEARD.call(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic: &PanicHookInfo<'_>| {
            let at = panic.location().and_then(|at| Some((ours(at.file())?, at.line())));
            let Some((file, line)) = at else { return before(panic) };
            say(Level::Error, &format!("{} (src/{file}:{line})", of(panic.payload())));
        }));
    });
}

/// What precedes the names of our source files, as their compiler was told them.
fn root() -> &'static str {
    file!().strip_suffix("capi/bug.rs").expect("the path of this file")
}

/// The name of a source file below our `src`, if it is one.
fn ours(file: &str) -> Option<&str> {
    file.strip_prefix(root())
}

/// What a caller hears of a panic.
pub fn of(payload: &(dyn Any + Send)) -> Error {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let cause = text.unwrap_or("it left no word");
    Error::new(Status::Panic, format!("a bug in squall was caught: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_tells_its_cause() {
        assert_eq!(of(&"why").detail, "a bug in squall was caught: why");
        assert_eq!(of(&String::from("why")).detail, "a bug in squall was caught: why");
        assert_eq!(of(&7).status, Status::Panic);
    }

    /// A host whose sources lie below a `src` too had its panics swallowed.
    #[test]
    fn no_other_crate_has_our_paths() {
        assert!(root().ends_with("src/../src/"), "{}", root());
        assert_eq!(ours(std::panic::Location::caller().file()), Some("capi/bug.rs"));
        let start = root().strip_suffix("../src/").unwrap();
        let hosts =
            ["capi/bug.rs", "main.rs", "../ci/process.rs"].map(|file| start.to_string() + file);
        assert!(hosts.iter().all(|file| ours(file).is_none()), "{hosts:?}");
        assert_eq!(ours("/rustc/library/core/src/panicking.rs"), None);
        // Every module of the library has such a path.
        let (mut before, mut modules) = ("", 0);
        for line in include_str!("../lib.rs").lines() {
            if let Some(name) = line.strip_prefix("pub mod ").and_then(|l| l.strip_suffix(';')) {
                let start = format!("#[path = \"../src/{name}");
                assert!(before.starts_with(&start), "{before} is the path of {name}");
                modules += 1;
            }
            before = line;
        }
        assert!(modules > 10);
    }
}
