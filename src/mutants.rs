// SPDX-License-Identifier: MIT OR Apache-2.0
//! Planted faults: named points in the code that tests can switch on, one at a time per thread.
//!
//! Outside test builds `mutant!("…")` is the constant `false` and leaves no trace.

#[cfg(test)]
use std::cell::Cell;

#[cfg(test)]
thread_local! {
    static ACTIVE: Cell<Option<&'static str>> = const { Cell::new(None) };
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
