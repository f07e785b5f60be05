// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes a failing plan smaller: fewer members, faults, messages and steps, as long as the same
//! property breaks. What is left is easier to understand, and mostly it is short.
//!
//! A smaller plan is another course of events: chance is drawn anew. So each is tried with a few
//! salts. Counts bound the work, not time: the same seed shrinks to the same page.

use super::report::Violation;
use std::fmt::Display;

/// Runs at the most; salts per plan.
const RUNS_MAX: u64 = 1_500;
const SALTS: u64 = 6;

/// Something that can be made smaller.
pub trait Shrinks: Clone + Display {
    /// Plans with a little less, those with much less first. `step`: where it fails.
    fn smaller(&self, step: u64) -> Vec<Self>;
    /// The same plan, another course of events.
    fn salted(&self, salt: u64) -> Self;
}

/// The smallest plan found that breaks the same property as `plan` does.
pub fn shrink<P: Shrinks>(
    plan: P,
    found: Violation,
    run: impl Fn(&P) -> Option<Violation>,
) -> Violation {
    let planned = plan.to_string();
    let (mut least, mut violation, mut runs) = (plan, found, 0);
    let mut taken = 0;
    'again: loop {
        for smaller in least.smaller(violation.step) {
            for salt in 0..SALTS {
                if runs == RUNS_MAX {
                    break 'again;
                }
                runs += 1;
                let salted = smaller.salted(salt);
                let broken = run(&salted).filter(|broken| broken.property == violation.property);
                if let Some(broken) = broken {
                    (least, violation) = (salted, broken);
                    taken += 1;
                    continue 'again;
                }
            }
        }
        break;
    }
    let page = format!(
        "  as planned by the seed\n{planned}\n  shrunk {taken} times in {runs} runs\n{}",
        violation.page
    );
    Violation { page, ..violation }
}
