// SPDX-License-Identifier: MIT OR Apache-2.0
//! Planted faults: named points in the code that tests can switch on, one at a time per thread.
//!
//! Outside test builds `mutant!("…")` is the constant `false` and leaves no trace.
//!
//! What a planted fault is found by is often a panic. Such a panic is caught (`caught`) and prints
//! nothing; every other one is printed as ever, so that a log shows those that mean something.

#[cfg(test)]
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

#[cfg(test)]
thread_local! {
    static ACTIVE: Cell<Option<&'static str>> = const { Cell::new(None) };
    /// A panic of this thread is expected.
    static HUSHED: Cell<bool> = const { Cell::new(false) };
}

/// As `catch_unwind`. While a fault is planted in this thread, its panics in there print nothing.
pub fn caught<T>(what: impl FnOnce() -> T) -> std::thread::Result<T> {
    #[cfg(test)]
    let _hush = Hush::new(ACTIVE.with(Cell::get).is_some());
    catch_unwind(AssertUnwindSafe(what))
}

/// It must panic, with these words among others; that prints nothing.
#[cfg(test)]
pub fn must_panic(words: &str, what: impl FnOnce()) {
    let hush = Hush::new(true);
    let outcome = catch_unwind(AssertUnwindSafe(what));
    drop(hush);
    let panic = outcome.expect_err("it goes well");
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
    assert!(text.contains(words), "it panics for another reason: {text}");
}

/// While it lives panics of its thread print nothing.
#[cfg(test)]
struct Hush(bool);

#[cfg(test)]
impl Hush {
    fn new(hushed: bool) -> Hush {
        static HOOK: std::sync::Once = std::sync::Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                if !HUSHED.with(Cell::get) {
                    before(panic);
                }
            }));
        });
        Hush(HUSHED.with(|now| now.replace(hushed || now.get())))
    }
}

#[cfg(test)]
impl Drop for Hush {
    fn drop(&mut self) {
        HUSHED.with(|now| now.set(self.0));
    }
}

/// Plants `name` (or nothing) in this thread.
#[cfg(test)]
pub fn plant(name: Option<&'static str>) {
    ACTIVE.with(|active| active.set(name));
}

#[cfg(test)]
pub fn is_active(name: &str) -> bool {
    ACTIVE.with(|active| active.get() == Some(name))
}

/// True where the planted fault of that name is active.
#[macro_export]
#[doc(hidden)]
macro_rules! mutant {
    ($name:literal) => {{
        #[cfg(test)]
        {
            $crate::mutants::is_active($name)
        }
        #[cfg(not(test))]
        {
            false
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_expected_is_hushed() {
        let hushed = || HUSHED.with(Cell::get);
        assert!(!hushed() && !caught(hushed).unwrap(), "nothing is planted");
        plant(Some("nowhere"));
        assert!(caught(hushed).unwrap() && !hushed());
        assert!(caught(|| caught(hushed).unwrap() && hushed()).unwrap());
        plant(None);
        must_panic("as it shall", || panic!("it panics, {}", "as it shall"));
        must_panic("it panics for another reason", || must_panic("this", || panic!("that")));
        must_panic("it goes well", || must_panic("this", || ()));
        assert!(!hushed());
    }
}
