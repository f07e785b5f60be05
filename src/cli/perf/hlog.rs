// SPDX-License-Identifier: MIT OR Apache-2.0
//! Latencies as an HdrHistogram interval log (V2, deflated): one interval per stage, tagged with it.

use super::report::Outcome;
use crate::failure::{Failure, because};
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Values are nanoseconds; the column of maxima is in microseconds.
const MAX_DIVISOR: f64 = 1000.0;
/// The writer of the library leaves out these lines, which plotters look for.
const VERSION: &str = "#[Histogram log format version 1.3]\n";
const LEGEND: &str =
    "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n";

pub fn write(path: &Path, outcome: &Outcome) -> Result<(), Failure> {
    let text = encode(outcome)?;
    let written = std::fs::write(path, text);
    written.map_err(|cause| because!("cannot write {}: {cause}", path.display()))
}

fn encode(outcome: &Outcome) -> Result<Vec<u8>, Failure> {
    let mut text = VERSION.as_bytes().to_vec();
    let seconds = Duration::from_secs_f64(outcome.plan.seconds);
    let start = SystemTime::now() - seconds;
    let mut serializer = V2DeflateSerializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    builder.add_comment("squall perf lat; values are nanoseconds, Interval_Max microseconds");
    builder.with_start_time(start).with_base_time(start).with_max_value_divisor(MAX_DIVISOR);
    let mut lines = Vec::new();
    let log = builder.begin_log_with(&mut lines, &mut serializer);
    let mut log = log.map_err(|cause| because!("cannot begin a histogram log: {cause}"))?;
    for stage in outcome.stages() {
        let tag = tag_of(&stage.name);
        let tag = Tag::new(&tag).expect("it has no comma and no space");
        let histogram = stage.histogram();
        let written = log.write_histogram(&histogram, Duration::ZERO, seconds, Some(tag));
        written.map_err(|cause| because!("cannot encode a histogram: {cause}"))?;
    }
    // Comments first, then the legend, then the intervals.
    let intervals = lines.split_inclusive(|byte| *byte == b'\n');
    let comments = intervals.clone().take_while(|line| line.starts_with(b"#")).count();
    intervals.clone().take(comments).for_each(|line| text.extend_from_slice(line));
    text.write_all(LEGEND.as_bytes()).expect("memory takes bytes");
    intervals.skip(comments).for_each(|line| text.extend_from_slice(line));
    Ok(text)
}

/// Tags have no space and no comma.
fn tag_of(name: &str) -> String {
    name.replace("->", "to").replace([' ', ','], "_")
}
