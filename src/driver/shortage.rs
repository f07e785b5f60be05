// SPDX-License-Identifier: MIT OR Apache-2.0
//! What this member lacks for its next view, while that is not needed yet: said once, tried again
//! ever more rarely, and said when it is over.
//!
//! When it is needed and still lacking, the member stops with it (`change`).

use crate::base::Nanos;
use crate::error::Error;
use crate::log_sink::Level;

/// Between two tries: at first, and at the most. A try may make and zero all of a view's memory.
const WAIT_NS: u64 = 20_000_000;
const WAIT_NS_MAX: u64 = 1_000_000_000;

#[derive(Default)]
pub struct Shortage {
    /// 0: nothing is lacking.
    wait_ns: u64,
    again_at: Nanos,
}

impl Shortage {
    /// Whether to try at all, now.
    pub fn is_due(&self, now: Nanos) -> bool {
        now >= self.again_at
    }

    /// How a try went; what is to be said of it.
    pub fn note(&mut self, now: Nanos, tried: &Result<(), Error>) -> Option<(Level, String)> {
        let before = self.wait_ns;
        let Err(error) = tried else {
            *self = Shortage::default();
            let text = "the memory of a next view is there after all";
            return (before > 0).then(|| (Level::Notice, text.into()));
        };
        self.wait_ns = (before * 2).clamp(WAIT_NS, WAIT_NS_MAX);
        self.again_at = Nanos(now.0 + self.wait_ns);
        let text = format!(
            "no memory for a next view yet; this member stops when the view changes, unless there \
             is some by then: {error}"
        );
        (before == 0).then_some((Level::Warning, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;

    /// It was tried, and said, at every quiet look at the clock.
    #[test]
    fn a_shortage_is_said_once_and_tried_ever_more_rarely() {
        let (mut shortage, mut now, mut said, mut tries) = (Shortage::default(), 0, 0, 0);
        let lacks = Err(Error::new(Status::Limit, "no descriptor"));
        while now < 10_000_000_000 {
            if shortage.is_due(Nanos(now)) {
                tries += 1;
                if let Some((level, text)) = shortage.note(Nanos(now), &lacks) {
                    assert!(level == Level::Warning && text.contains("no descriptor"));
                    said += 1;
                }
            }
            now += 1_000_000;
        }
        assert_eq!(said, 1);
        assert!((10..20).contains(&tries), "{tries}");
        let over = shortage.note(Nanos(now), &Ok(())).unwrap();
        assert!(over.0 == Level::Notice && over.1.contains("after all"));
        assert_eq!(shortage.note(Nanos(now), &Ok(())), None);
        assert!(shortage.is_due(Nanos(now)));
        assert!(shortage.note(Nanos(now), &lacks).is_some(), "anew");
        assert!(
            !shortage.is_due(Nanos(now + WAIT_NS - 1)) && shortage.is_due(Nanos(now + WAIT_NS))
        );
    }
}
