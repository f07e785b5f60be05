// SPDX-License-Identifier: MIT OR Apache-2.0
//! Panics of ours that the door catches are said in the log sink, where the application looks, and
//! not on its standard error.
//!
//! Rust says a panic through one hook of the process, before anybody catches it. If the host is a
//! Rust program, that hook is its own: ours, in front of it, takes only what has begun in our
//! sources, and hands on the rest, such as a panic in the host's callback. Nothing is marked when
//! the door is entered: that would cost every message something.

use crate::error::{Error, Status};
use crate::log_sink::{Level, say};
use std::any::Any;
use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::sync::Once;

/// Puts our hook before the host's, once per process.
pub fn hear_panics() {
    static HEARD: Once = Once::new();
    // A build that aborts catches nothing: then the last words belong to standard error. And a
    // thread that panics may not change the hook; the next group's will.
    if cfg!(not(panic = "unwind")) || std::thread::panicking() {
        return;
    }
    HEARD.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic: &PanicHookInfo<'_>| match panic.location() {
            Some(at) if is_ours(at.file()) => {
                let bug = of(panic.payload());
                say(Level::Error, &format!("{bug} ({}:{})", at.file(), at.line()));
            }
            _ => before(panic),
        }));
    });
}

/// Whether a source file is one of this library, as its compiler was told the path.
fn is_ours(file: &str) -> bool {
    let root = file!().strip_suffix("capi/bug.rs").expect("the path of this file");
    file.starts_with(root)
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
        assert!(is_ours(file!()) && is_ours(std::panic::Location::caller().file()));
        assert!(!is_ours("/rustc/library/core/src/panicking.rs") && !is_ours("ci/process.rs"));
    }
}
