// SPDX-License-Identifier: MIT OR Apache-2.0
//! A measurement as people and programs read it, each figure beside the machine's floor.

use super::floor;
use super::plan::{Plan, Report, Stage, Test};
use crate::failure::{Failure, fail};
use crate::machine;
use crate::text::{IdleOption, bytes_text, digits, new_table, rate_text, say, time_text};
use comfy_table::CellAlignment;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// What the machine can do without an engine.
pub enum Floor {
    /// A round trip between the sender and the first receiver, median in nanoseconds.
    RoundTrip { what: &'static str, p50_ns: u64 },
    /// Messages per second that go the same way without an engine; and if many are handed over at once.
    Flow { what: &'static str, per_second: f64, chained: Option<f64> },
    /// It could not be measured.
    Missing { why: String },
}

impl Floor {
    pub fn flow(what: &'static str, per_second: f64) -> Floor {
        Floor::Flow { what, per_second, chained: None }
    }

    pub fn measure(plan: &Plan) -> Result<Floor, Failure> {
        let cores = [plan.core(0), plan.core(1)];
        Ok(match (plan.test, plan.idle) {
            (Test::Lat, IdleOption::Park) => {
                let p50_ns = floor::wake_up_round_trip(cores)?.value_at_quantile(0.5);
                Floor::RoundTrip { what: "eventfd round trip", p50_ns }
            }
            (Test::Lat, _) => {
                let p50_ns = floor::round_trip(cores)?.value_at_quantile(0.5);
                let what = match cores[0] == cores[1] {
                    true => "round trip by sched_yield",
                    false => "cache-line round trip (two lines, one each way)",
                };
                Floor::RoundTrip { what, p50_ns }
            }
            _ => {
                let per_second = floor::copies_per_second(cores[0], plan.size)?;
                Floor::flow("memcpy", per_second)
            }
        })
    }
}

/// A plan, its floor and what all members reported, by rank.
pub struct Outcome {
    pub plan: Plan,
    pub floor: Floor,
    pub reports: Vec<Report>,
}

/// The quantiles that are shown.
const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];

impl Outcome {
    /// Messages delivered per second: least, median, most of the members.
    fn rates(&self) -> [f64; 3] {
        let mut rates: Vec<f64> = self.reports.iter().map(Report::per_second).collect();
        rates.sort_by(f64::total_cmp);
        let middle = rates.len() / 2;
        let median = match rates.len() % 2 {
            1 => rates[middle],
            _ => (rates[middle - 1] + rates[middle]) / 2.0,
        };
        [rates[0], median, rates[rates.len() - 1]]
    }

    pub fn stages(&self) -> Vec<Stage> {
        self.reports.iter().flat_map(|report| report.stages.clone()).collect()
    }

    /// The stage that a latency is judged by.
    fn stable(&self) -> Histogram<u64> {
        let stable = self.reports[0].stages.iter().find(|stage| stage.name.contains("stable"));
        stable.map_or_else(super::plan::new_histogram, Stage::histogram)
    }

    /// What has no figure is no result.
    pub fn check(self) -> Result<Outcome, Failure> {
        if self.plan.test == Test::Lat && self.stable().is_empty() {
            return fail!("no latency was measured: a shorter --pace, or more --seconds");
        }
        Ok(self)
    }

    fn ratio(&self) -> Option<f64> {
        match &self.floor {
            Floor::RoundTrip { p50_ns, .. } => {
                Some(self.stable().value_at_quantile(0.5) as f64 / (*p50_ns).max(1) as f64)
            }
            Floor::Flow { per_second, .. } => Some(self.rates()[1] / per_second),
            Floor::Missing { .. } => None,
        }
    }

    /// Messages that were checked at the members, all together.
    pub fn checked(&self) -> u64 {
        self.reports.iter().map(|report| report.checked.messages).sum()
    }

    pub fn texts_checked(&self) -> u64 {
        self.reports.iter().map(|report| report.checked.texts).sum()
    }

    fn flow_text(&self, per_second: f64) -> String {
        match self.plan.test {
            Test::Bw => bandwidth_text(per_second * f64::from(self.plan.size)),
            _ => rate_text(per_second),
        }
    }

    /// Test, members, size, result, floor, ratio: a row of the table.
    pub fn row(&self) -> [String; 6] {
        let plan = &self.plan;
        let result = match plan.test {
            Test::Lat => {
                let stable = self.stable();
                let at = |quantile| time_text(stable.value_at_quantile(quantile));
                format!("p50 {}, p99 {}, p99.9 {}", at(0.5), at(0.99), at(0.999))
            }
            Test::Rate | Test::Bw => {
                let [least, median, most] = self.rates().map(|rate| self.flow_text(rate));
                let spread =
                    if least == most { String::new() } else { format!(" ({least} - {most})") };
                format!("{median}{spread}")
            }
        };
        let floor = match &self.floor {
            Floor::RoundTrip { what, p50_ns } => format!("{} {what}", time_text(*p50_ns)),
            Floor::Flow { what, per_second, chained } => {
                let many = |many| format!("; 16 a doorbell {}", self.flow_text(many));
                let many = chained.map_or(String::new(), many);
                format!("{} {what}{many}", self.flow_text(*per_second))
            }
            Floor::Missing { .. } => "not measured".into(),
        };
        let senders =
            if plan.senders == plan.members { "all".into() } else { plan.senders.to_string() };
        let members = format!("{} ({senders} send)", plan.members);
        let test = format!("{} {}", plan.test.name(), idle_name(plan.idle));
        [
            test,
            members,
            bytes_text(plan.size.into()),
            result,
            floor,
            self.ratio().map_or("-".into(), digits),
        ]
    }

    pub fn json(&self) -> Value {
        let [least, median, most] = self.rates();
        let size = f64::from(self.plan.size);
        let stages: Vec<Value> = self.stages().iter().map(stage_json).collect();
        let members: Vec<Value> = self.reports.iter().map(member_json).collect();
        json!({
            "plan": self.plan,
            "warm_up_seconds": self.plan.warm_up_seconds(),
            "messages_per_second": { "median": median, "min": least, "max": most },
            "bytes_per_second": { "median": median * size, "min": least * size, "max": most * size },
            "latency": stages,
            "floor": match &self.floor {
                Floor::RoundTrip { what, p50_ns } => json!({ "what": what, "p50_ns": p50_ns }),
                Floor::Missing { why } => json!({ "missing": why }),
                Floor::Flow { what, per_second, chained } => json!({
                    "what": what,
                    "messages_per_second": per_second,
                    "messages_per_second_chained": chained,
                    "bytes_per_second": per_second * size,
                }),
            },
            "ratio": self.ratio(),
            "verified": {
                "messages": self.checked(),
                "texts": self.texts_checked(),
                "checkpoints": self.reports.iter().map(|report| report.checked.checkpoints).sum::<u64>(),
                "violations": 0,
            },
            "members": members,
            "machine": machine::json(),
        })
    }

    pub fn print(&self, as_json: bool) -> Result<(), Failure> {
        if as_json {
            return say(&format!("{:#}", self.json()));
        }
        let plan = &self.plan;
        say(&machine::line())?;
        say(&format!("{}\n", conditions(plan)))?;
        say(&table(&[self.row()]))?;
        if plan.test == Test::Lat {
            say_latency(&self.stages())?;
        }
        disturbed(std::slice::from_ref(self))?;
        say(&verified(std::slice::from_ref(self)))
    }

    /// Which part of their cores the members had, where each had one and never slept.
    fn had(&self) -> f64 {
        let ran = self.reports.iter().map(|report| report.ran);
        if self.plan.idle == IdleOption::Spin { ran.fold(1.0, f64::min) } else { 1.0 }
    }
}

fn idle_name(idle: IdleOption) -> &'static str {
    match idle {
        IdleOption::Spin => "spin",
        IdleOption::Yield => "yield",
        IdleOption::Park => "park",
    }
}

pub fn conditions(plan: &Plan) -> String {
    let cores: Vec<String> = match plan.cores.is_empty() {
        true => Vec::new(),
        false => (0..plan.members).map(|rank| plan.core(rank).to_string()).collect(),
    };
    let cores = match cores.is_empty() {
        true => String::new(),
        false => format!(", members on cores {}", cores.join(",")),
    };
    let pace = match plan.test {
        Test::Lat => format!(", a send each {}", time_text(plan.pace_ns)),
        _ => String::new(),
    };
    format!(
        "{} s measured after {} s of warm-up, window {}{cores}{pace}",
        digits(plan.seconds),
        digits(plan.warm_up_seconds()),
        plan.window
    )
}

/// Says so if other programs took much of the cores: then the figures say little.
pub fn disturbed(outcomes: &[Outcome]) -> Result<(), Failure> {
    let had = outcomes.iter().map(Outcome::had).fold(1.0, f64::min);
    if had < 0.97 {
        say(&format!(
            "NOT QUIET: other programs took up to {:.0} % of a spinning member's core; figures, \
             and latencies above all, are worse than the engine's.",
            (1.0 - had) * 100.0
        ))?;
    }
    Ok(())
}

/// What was checked, and that nothing was wrong: otherwise there is no outcome.
pub fn verified(outcomes: &[Outcome]) -> String {
    let messages: u64 = outcomes.iter().map(Outcome::checked).sum();
    let texts: u64 = outcomes.iter().map(Outcome::texts_checked).sum();
    format!(
        "Order verified on {messages} messages and checksums on {texts} of them, at every member; \
         no violation."
    )
}

pub fn table(rows: &[[String; 6]]) -> String {
    let mut table = new_table();
    table.set_header(["test", "members", "size", "result", "floor", "ratio"]);
    table.add_rows(rows);
    for column in [2, 5] {
        table.column_mut(column).expect("it has six").set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

pub fn say_latency(stages: &[Stage]) -> Result<(), Failure> {
    say("")?;
    say(&latency_table(stages))?;
    say("Latency counts from the time a send was intended, whether or not it could be made then\n\
         (no coordinated omission).")
}

fn latency_table(stages: &[Stage]) -> String {
    let mut table = new_table();
    let names = QUANTILES.iter().map(|(name, _)| *name);
    table.set_header(["stage"].into_iter().chain(names).chain(["max", "samples"]));
    for stage in stages {
        let histogram = stage.histogram();
        let times = QUANTILES.iter().map(|(_, quantile)| histogram.value_at_quantile(*quantile));
        let times = times.chain([histogram.max()]).map(time_text);
        let row = [stage.name.clone()].into_iter().chain(times);
        table.add_row(row.chain([histogram.len().to_string()]));
    }
    for column in 1..QUANTILES.len() + 3 {
        table.column_mut(column).expect("as many").set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

fn stage_json(stage: &Stage) -> Value {
    let histogram = stage.histogram();
    let mut value = json!({
        "stage": stage.name,
        "samples": histogram.len(),
        "min_ns": histogram.min(),
        "mean_ns": histogram.mean(),
        "max_ns": histogram.max(),
    });
    for (name, quantile) in QUANTILES {
        value[format!("{name}_ns")] = histogram.value_at_quantile(quantile).into();
    }
    value
}

fn member_json(report: &Report) -> Value {
    json!({
        "rank": report.rank,
        "messages_per_second": report.per_second(),
        "delivered": report.delivered,
        "window_ns": report.window_ns,
        "total": report.total,
        "hash": format!("{:016x}", report.hash),
        "sent": report.sent,
        "refused": report.refused,
        "nulls": report.nulls,
        "batches": report.batches,
        "sleeps": report.sleeps,
        "loop_gap_max_ns": report.loop_gap_max_ns,
        "ran": report.ran,
    })
}

/// One member that was started by hand.
pub fn print_member(plan: &Plan, report: &Report, as_json: bool) -> Result<(), Failure> {
    if as_json {
        let mut value = member_json(report);
        value["latency"] = report.stages.iter().map(stage_json).collect();
        value["plan"] = json!(plan);
        return say(&format!("{value:#}"));
    }
    say(&conditions(plan))?;
    let (rate, size) = (report.per_second(), f64::from(plan.size));
    say(&format!(
        "rank {}: {} messages delivered, {}, {}",
        report.rank,
        report.total,
        rate_text(rate),
        bandwidth_text(rate * size)
    ))?;
    if !report.stages.is_empty() {
        say(&latency_table(&report.stages))?;
    }
    say(&format!(
        "Order verified on {} messages, checksums on {}; hash {:016x} (compare it with the others').",
        report.checked.messages, report.checked.texts, report.hash
    ))
}

fn bandwidth_text(bytes_per_second: f64) -> String {
    match bytes_per_second {
        rate if rate >= 1e9 => format!("{} GB/s", digits(rate / 1e9)),
        rate => format!("{} MB/s", digits(rate / 1e6)),
    }
}
