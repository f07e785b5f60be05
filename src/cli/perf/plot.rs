// SPDX-License-Identifier: MIT OR Apache-2.0
//! Latencies as a percentile plot: each nine of the quantile takes the same width.

use super::report::Outcome;
use crate::failure::{Failure, because};
use crate::text::{bytes_text, time_text};
use hdrhistogram::Histogram;
use plotters::prelude::*;
use std::path::Path;

/// Less than a few nanoseconds is not drawn: a clock's look takes longer.
const LEAST_NS: u64 = 10;
const WIDTH: u32 = 960;
const HEIGHT: u32 = 560;
const COLORS: [RGBColor; 6] = [
    RGBColor(0x1f, 0x77, 0xb4),
    RGBColor(0xd6, 0x27, 0x28),
    RGBColor(0x2c, 0xa0, 0x2c),
    RGBColor(0xff, 0x7f, 0x0e),
    RGBColor(0x94, 0x67, 0xbd),
    RGBColor(0x7f, 0x7f, 0x7f),
];

/// Where a quantile lies: 0 at 0, 1 at 90 %, 2 at 99 %.
fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).max(1e-9).log10()
}

/// Points of a stage's curve, as far as its samples carry: with n of them, to 1 - 1/n.
fn curve(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let most = nines(1.0 - 1.0 / histogram.len().max(2) as f64);
    let steps = (most * 100.0).ceil() as usize;
    let at = |step: usize| (step as f64 / 100.0).min(most);
    let value = |x: f64| histogram.value_at_quantile(1.0 - 10f64.powf(-x)).max(LEAST_NS) as f64;
    (0..=steps).map(at).map(|x| (x, value(x))).collect()
}

fn tick_name(nines: f64) -> String {
    match nines.round() as i32 {
        0 => "0%".into(),
        1 => "90%".into(),
        2 => "99%".into(),
        more => format!("99.{}%", "9".repeat((more - 2) as usize)),
    }
}

/// Draws named distributions. `axes`: what the shares are of, what the values are.
pub fn write(
    path: &Path,
    title: &str,
    axes: [&str; 2],
    stages: Vec<(String, Histogram<u64>)>,
) -> Result<(), Failure> {
    let mut picture = String::new();
    let drawn = draw(&mut picture, title, axes, &stages);
    drawn.map_err(|cause| because!("cannot draw the plot: {cause}"))?;
    let written = std::fs::write(path, picture);
    written.map_err(|cause| because!("cannot write {}: {cause}", path.display()))
}

/// The latencies of a measurement.
pub fn write_latencies(path: &Path, outcome: &Outcome) -> Result<(), Failure> {
    let plan = &outcome.plan;
    let title = format!(
        "squall perf lat: {} members, {}, a send each {}",
        plan.members,
        bytes_text(plan.size.into()),
        time_text(plan.pace_ns)
    );
    let axes =
        ["share of the messages that were at least as fast", "latency from the intended send"];
    let stages = outcome.stages();
    let stages = stages.iter().map(|stage| (stage.name.clone(), stage.histogram())).collect();
    write(path, &title, axes, stages)
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(
    picture: &mut String,
    title: &str,
    axes: [&str; 2],
    stages: &[(String, Histogram<u64>)],
) -> Drawn {
    let curves: Vec<_> = stages.iter().map(|(_, histogram)| curve(histogram)).collect();
    let points = || curves.iter().flatten();
    let right = points().map(|(x, _)| *x).fold(1.0, f64::max);
    let low = points().map(|(_, y)| *y).fold(f64::MAX, f64::min).min(1e9);
    let high = points().map(|(_, y)| *y).fold(10.0, f64::max);
    let root = SVGBackend::with_string(picture, (WIDTH, HEIGHT)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(88)
        .build_cartesian_2d(0.0..right, (low * 0.8..high * 1.3).log_scale())?;
    chart
        .configure_mesh()
        .x_desc(axes[0])
        .y_desc(axes[1])
        .x_labels(right.floor() as usize + 1)
        .x_label_formatter(&|x| tick_name(*x))
        .y_label_formatter(&|y| time_text(*y as u64).replace(".00", "").replace(".0 ", " "))
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 15))
        .light_line_style(WHITE)
        .draw()?;
    for (at, ((name, _), curve)) in stages.iter().zip(curves).enumerate() {
        let color = COLORS[at % COLORS.len()];
        chart
            .draw_series(LineSeries::new(curve, color.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 14))
        .legend_area_size(32)
        .draw()?;
    root.present()?;
    Ok(())
}
