// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a joiner costs those that are members already: the longest time without a delivery while it
//! gets a large state, under load.
//!
//! `cargo bench --bench state`. From the environment: `STATE_MIB` (256), `MEMBERS` (2), `RATE` of
//! all together in messages a second (100000), `JOINS` (5), `IDLE` (yield). Each message has 100
//! bytes. A gap is the time between the end of one delivery and the beginning of the next at one
//! member, less `checkpoint_open`. Beside each join the same is measured as long without one: what
//! the machine does anyway.

#[path = "../ci/state/member.rs"]
mod member;
#[path = "../ci/support/mod.rs"]
mod support;

use member::{Crew, Plan, ROLE, member};
use std::time::{Duration, Instant};

/// The bar, for any join.
const GAP_MS_MAX: f64 = 50.0;
/// How much of the rate that was asked for has to be delivered beside each.
const RATE_MIN: f64 = 0.95;

fn main() {
    support::main(&[("a_join_under_load", a_join_under_load)], &[(ROLE, member)]);
}

fn or<T: std::str::FromStr>(key: &str, default: T) -> T {
    std::env::var(key).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The longest gap of any old member since the last call.
fn gap_ms(crew: &mut Crew, founders: u16) -> f64 {
    let gaps = (0..founders.into()).map(|at| crew.ask(at, "gap"));
    gaps.max().unwrap_or(0) as f64 / 1e6
}

fn a_join_under_load() -> String {
    let (founders, mib): (u16, usize) = (or("MEMBERS", 2), or("STATE_MIB", 256));
    let (rate, joins): (u64, usize) = (or("RATE", 100_000), or("JOINS", 5));
    let idle = if or("IDLE", String::new()) == "park" { "park" } else { "yield" };
    let each = rate / u64::from(founders);
    let plan = Plan {
        rate: each,
        rate_joined: 0,
        window: 1 << 14,
        ..Plan::new(founders, mib << 20, idle)
    };
    let mut crew = Crew::of("benchstate", plan);
    crew.delivers();
    let mut text = format!(
        "{founders} members ({idle}), {mib} MiB of state, {rate} messages/s\n\
         join      whole s  messages/s  gap ms  without ms  checkpoint_open ms\n"
    );
    let (mut gaps, mut rates) = (Vec::new(), Vec::new());
    for join in 1..=joins {
        gap_ms(&mut crew, founders);
        let (start, before) = (Instant::now(), crew.delivered(0));
        let one = crew.join(0);
        crew.joined(one, usize::from(founders) + 1);
        let took = start.elapsed();
        std::thread::sleep(Duration::from_millis(200));
        let delivered = (crew.delivered(0) - before) as f64 / start.elapsed().as_secs_f64();
        let gap = gap_ms(&mut crew, founders);
        let opened = (0..founders.into()).map(|at| crew.ask(at, "opened")).max().unwrap_or(0);
        std::thread::sleep(took);
        let without = gap_ms(&mut crew, founders);
        crew.agree();
        crew.leave(one);
        for at in 0..founders.into() {
            crew.joined(at, founders.into());
        }
        crew.members.iter_mut().for_each(|member| member.process.say("go"));
        std::thread::sleep(Duration::from_millis(500));
        text.push_str(&format!(
            "{join:4} {:12.2} {delivered:11.0} {gap:7.2} {without:11.2} {:19.3}\n",
            took.as_secs_f64(),
            opened as f64 / 1e6
        ));
        gaps.push(gap);
        rates.push(delivered);
    }
    gaps.sort_by(f64::total_cmp);
    let (least, median, most) = (gaps[0], gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    text.push_str(&format!(
        "gap over {joins} joins: least {least:.2}, median {median:.2}, most {most:.2} ms (to be under \
         {GAP_MS_MAX}); all states the same by checksum"
    ));
    crew.leave_all();
    assert!(most < GAP_MS_MAX, "{text}");
    let slow = rates.iter().any(|per_s| *per_s < RATE_MIN * rate as f64);
    assert!(!slow, "fewer than {RATE_MIN} of {rate} messages a second:\n{text}");
    text
}
