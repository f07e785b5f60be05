// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the library's few sentences go: one sink for the process, set by the application.
//!
//! Nothing is ever said on the data path. Without a sink, nothing is said at all.

use std::sync::RwLock;

/// How much it matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(i32)]
pub enum Level {
    /// The group is lost, or a peer is cut off.
    Error = 1,
    /// Something wanted was not had; the group runs.
    Warning = 2,
    /// Progress and events.
    Notice = 3,
}

type Sink = Box<dyn Fn(Level, &str) + Send + Sync>;

static SINK: RwLock<Option<Sink>> = RwLock::new(None);

/// Replaces the sink; `None` silences the library. The sink may be called from any thread that
/// opens or polls a group or sends its state, and must not call the library.
pub fn set(sink: Option<Sink>) {
    *SINK.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = sink;
}

/// Says one sentence.
pub fn say(level: Level, text: &str) {
    let sink = SINK.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(sink) = sink.as_ref() {
        sink(level, text);
    }
}

/// Says a formatted sentence at the level of a notice.
#[macro_export]
#[doc(hidden)]
macro_rules! notice {
    ($($arg:tt)*) => {
        $crate::log_sink::say($crate::log_sink::Level::Notice, &format!($($arg)*))
    };
}
