// SPDX-License-Identifier: MIT OR Apache-2.0
//! View changes as people and programs read them: distributions, and where the time goes.

use super::super::{plan, plot};
use super::member::{Seen, State};
use super::{Event, Options, Sample, Victim};
use crate::failure::Failure;
use crate::machine;
use crate::text::{bytes_text, new_table, say, time_text};
use comfy_table::CellAlignment;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::path::Path;

/// What a group may cost above the kernel's part: half of the times, and 99 of 100.
const BAR_NS: [(f64, u64); 2] = [(0.5, 1_000_000), (0.99, 20_000_000)];
/// What a member may have mapped for the bar to mean something.
const MAPPED_MAX: u64 = 16 << 20;
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

pub struct Outcome<'a> {
    pub options: &'a Options,
    pub samples: Vec<Sample>,
    /// Runs that were thrown away.
    pub spoilt: usize,
}

type Series = (String, Histogram<u64>);

/// A histogram of times that are there.
fn series(name: &str, times: impl Iterator<Item = Option<u64>>) -> Series {
    let mut histogram = plan::new_histogram();
    times.flatten().for_each(|time| histogram.saturating_record(time.max(1)));
    (name.into(), histogram)
}

impl Outcome<'_> {
    /// Every sample with what each member saw of it.
    fn pairs(&self) -> impl Iterator<Item = (&Sample, &Seen)> {
        self.samples.iter().flat_map(|sample| sample.seen.iter().map(move |seen| (sample, seen)))
    }

    /// From the event to the first delivery, less the kernel's part of it: that of the idle process.
    fn above(&self, of: Victim) -> Series {
        let name = match of {
            Victim::Each => "above hang-up",
            Victim::Leader => "  of a leader",
            Victim::Other => "  of another",
        };
        let chosen = |sample: &Sample| match of {
            Victim::Each => true,
            Victim::Leader => sample.victim == Some(0),
            Victim::Other => sample.victim != Some(0),
        };
        let pairs = self.pairs().filter(|(sample, _)| chosen(sample));
        series(
            name,
            pairs.map(|(sample, seen)| {
                Some((seen.first - sample.at).saturating_sub(sample.hang_up_ns))
            }),
        )
    }

    /// The same, less what the kernel took for the victim itself. An idle process may take longer: it
    /// is woken first, and frees its memory, which the victim shares.
    fn above_own(&self) -> Series {
        let above = |(sample, seen): (&Sample, &Seen)| {
            Some((seen.first - sample.at).saturating_sub(sample.own_hang_up_ns))
        };
        series("above the victim's own hang-up", self.pairs().map(above))
    }

    /// What is judged, and what it is made of.
    fn figures(&self) -> Vec<Series> {
        let each = |name, time: fn(&Sample, &Seen) -> Option<u64>| {
            series(name, self.pairs().map(move |(sample, seen)| time(sample, seen)))
        };
        let total = each("to the first delivery", |sample, seen| Some(seen.first - sample.at));
        let gap = each("gap between deliveries", |_, seen| seen.first.checked_sub(seen.last));
        match self.options.event {
            Event::Kill => {
                let once = |time: fn(&Sample) -> u64| self.samples.iter().map(time).map(Some);
                let mut figures = vec![
                    series("hang-up of an idle process", once(|sample| sample.hang_up_ns)),
                    series("hang-up of the victim", once(|sample| sample.own_hang_up_ns)),
                    total,
                    self.above(Victim::Each),
                ];
                if self.options.victim == Victim::Each {
                    figures.extend([self.above(Victim::Leader), self.above(Victim::Other)]);
                }
                figures.push(self.above_own());
                figures.push(gap);
                figures
            }
            Event::Stop => {
                let noticed = |sample: &Sample, seen: &Seen| {
                    (seen.suspected != 0).then(|| seen.suspected.saturating_sub(sample.at))
                };
                vec![each("to suspicion", noticed), total, gap]
            }
            Event::Join => vec![gap],
        }
    }

    /// When each step was reached, counted from the event; for a joiner, from the last delivery.
    fn steps(&self) -> Vec<Series> {
        type Time = fn(&Seen) -> u64;
        let steps: [(&str, Time); 10] = [
            ("suspected", |seen| seen.suspected),
            ("wedged", |seen| seen.wedged),
            ("agreed", |seen| seen.agreed),
            ("echoed", |seen| seen.echoed),
            ("ended", |seen| seen.ended),
            ("passed", |seen| seen.passed),
            ("installed", |seen| seen.installed),
            ("built", |seen| seen.built),
            ("told", |seen| seen.view),
            ("delivers", |seen| seen.first),
        ];
        let joins = self.options.event == Event::Join;
        let each = |(name, time): (&str, Time)| {
            let since = move |(sample, seen): (&Sample, &Seen)| {
                let from = if joins { seen.last } else { sample.at };
                // The driver's clock may be that of before the event.
                (time(seen) != 0).then(|| time(seen).saturating_sub(from))
            };
            series(name, self.pairs().map(since))
        };
        steps.into_iter().map(each).collect()
    }

    fn mapped(&self) -> u64 {
        self.samples.iter().map(|sample| sample.mapped).max().unwrap_or(0)
    }

    /// What is judged here, and whether it holds; `None`: nothing is.
    fn verdict(&self) -> Option<(String, bool)> {
        match self.options.event {
            Event::Kill => {
                let above = [self.above(Victim::Each), self.above_own()];
                let met = BAR_NS.iter().all(|(at, bar)| {
                    above.iter().all(|(_, above)| above.value_at_quantile(*at) < *bar)
                });
                let small = self.mapped() <= MAPPED_MAX;
                let [p50, p99] = BAR_NS.map(|(_, bar)| time_text(bar));
                let mapped = bytes_text(MAPPED_MAX);
                let text = format!(
                    "above hang-up, of either kind: p50 under {p50}, p99 under {p99}, at most \
                     {mapped} mapped"
                );
                Some((text, met && small))
            }
            Event::Stop => {
                let (_, noticed) = self.figures().swap_remove(0);
                let most = time_text(self.options.suspicion);
                let text = format!("a stopped member is suspected within {most}, then expelled");
                Some((text, noticed.max() <= self.options.suspicion))
            }
            Event::Join => None,
        }
    }

    pub fn plot(&self, path: &Path) -> Result<(), Failure> {
        let Options { members, idle, event, .. } = self.options;
        let title = format!("squall perf failover: {event:?} of {members} members, {idle:?}");
        let axes = ["share of the view changes that were at least as fast", "time"];
        plot::write(path, &title.to_lowercase(), axes, self.figures())
    }

    fn json(&self) -> Value {
        let all = |of: Vec<Series>| of.iter().map(series_json).collect::<Vec<_>>();
        json!({
            "plan": self.options,
            "runs": self.samples.len(),
            "spoilt_runs": self.spoilt,
            "mapped_bytes": self.mapped(),
            "figures": all(self.figures()),
            "steps": all(self.steps()),
            "met": self.verdict().map(|(_, met)| met),
            "samples": self.samples,
            "machine": machine::json(),
        })
    }

    pub fn print(&self, as_json: bool) -> Result<(), Failure> {
        if as_json {
            return say(&format!("{:#}", self.json()));
        }
        let Options { members, idle, event, pace, size, .. } = self.options;
        say(&machine::line())?;
        let what = format!("{event:?}, {} runs, {members} members, {idle:?}", self.samples.len());
        say(&format!(
            "{}, each sends {} each {}, {} mapped\n",
            what.to_lowercase(),
            bytes_text((*size).into()),
            time_text(*pace),
            bytes_text(self.mapped())
        ))?;
        say(&table("what", &self.figures()))?;
        let from = if *event == Event::Join { "last delivery to" } else { "event to" };
        say(&table(from, &self.steps()))?;
        if self.spoilt > 0 {
            say(&format!("{} more runs were thrown away: this process was stopped", self.spoilt))?;
        }
        match self.verdict() {
            Some((text, met)) => say(&format!("{text}: {}", if met { "met" } else { "MISSED" })),
            None => Ok(()),
        }
    }
}

fn table(what: &str, rows: &[Series]) -> String {
    let mut table = new_table();
    let names = QUANTILES.iter().map(|(name, _)| *name);
    table.set_header([what].into_iter().chain(names).chain(["max", "samples"]));
    for (name, histogram) in rows {
        let times = QUANTILES.iter().map(|(_, quantile)| histogram.value_at_quantile(*quantile));
        let times = times.chain([histogram.max()]).map(time_text);
        let row = [name.clone()].into_iter().chain(times);
        table.add_row(row.chain([histogram.len().to_string()]));
    }
    for column in 1..QUANTILES.len() + 3 {
        table.column_mut(column).expect("as many").set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

fn series_json((name, histogram): &Series) -> Value {
    let mut value = json!({
        "what": name.trim(),
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

/// What became of a group beside busy programs.
pub fn loaded(
    options: &Options,
    seconds: f64,
    burners: usize,
    pause_ns: u64,
    states: &[State],
) -> Result<(), Failure> {
    let suspected = states.iter().any(|state| state.views != 1);
    if options.json {
        let value = json!({
            "plan": options,
            "seconds": seconds,
            "burners": burners,
            "pause_ns": pause_ns,
            "members": states,
            "met": !suspected,
            "machine": machine::json(),
        });
        return say(&format!("{value:#}"));
    }
    say(&machine::line())?;
    let (members, idle) = (options.members, format!("{:?}", options.idle).to_lowercase());
    say(&format!("{members} members, {idle}, beside {burners} busy programs for {seconds} s\n"))?;
    let mut table = new_table();
    table.set_header(["rank", "delivered", "longest turn", "views"]);
    for (rank, state) in states.iter().enumerate() {
        let gap = time_text(state.loop_gap_max_ns);
        let delivered = state.delivered.to_string();
        table.add_row([rank.to_string(), delivered, gap, state.views.to_string()]);
    }
    for column in 1..4 {
        table.column_mut(column).expect("four").set_cell_alignment(CellAlignment::Right);
    }
    say(&table.to_string())?;
    let (time, pause) = (time_text(options.suspicion), time_text(pause_ns));
    say(&format!("time to suspicion {time}; this process did not run for up to {pause}"))?;
    say(&format!("nobody is suspected: {}", if suspected { "MISSED" } else { "met" }))
}
