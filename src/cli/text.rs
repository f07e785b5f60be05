// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the verbs share: saying things, and figures as people write them.

use crate::failure::{Failure, fail};
use comfy_table::{LineStyle, Table, TableStyle};
use squall::driver::config::Idle;
use std::io::{self, Write};

/// A line to standard error. Whoever closed it does not want to hear.
pub fn remark(text: &str) {
    let _ = writeln!(io::stderr(), "squall: {text}");
}

/// A result, to standard output. A reader that went away ends the program without a word.
pub fn say(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")) {
        Ok(()) => Ok(()),
        Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Err(Failure::Quiet),
        Err(cause) => fail!("cannot write standard output: {cause}"),
    }
}

/// What a member does when there is nothing to do, as an option.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum IdleOption {
    /// Poll on: the lowest latency, a whole core per member.
    Spin,
    /// Give the core away and poll on: for more members than cores.
    Yield,
    /// Poll a while, then sleep until a peer rings.
    Park,
}

impl From<IdleOption> for Idle {
    fn from(option: IdleOption) -> Idle {
        match option {
            IdleOption::Spin => Idle::Spin,
            IdleOption::Yield => Idle::Yield,
            IdleOption::Park => Idle::Park,
        }
    }
}

/// Bytes with an optional unit of 1024: `64`, `10k`, `1MiB`, `2G`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text[digits.len()..].to_ascii_lowercase();
    let unit = unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit);
    let factor: u64 = match unit {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return Err(format!("unknown unit {unit:?}; write it like 64, 10k, 1MiB")),
    };
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    number.ok_or_else(|| "not a number of bytes; write it like 64, 10k, 1MiB".to_string())
}

/// The same for what must fit a message.
pub fn parse_message_bytes(text: &str) -> Result<u32, String> {
    let most = squall::limits::MESSAGE_BYTES_MAX;
    let bytes = parse_bytes(text)?;
    if bytes > most {
        return Err(format!("at most {}", bytes_text(most)));
    }
    Ok(bytes as u32)
}

/// `64 B`, `10 KiB`, `1.5 MiB`.
pub fn bytes_text(bytes: u64) -> String {
    let unit = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match unit.into_iter().find(|(factor, _)| bytes >= *factor) {
        None => format!("{bytes} B"),
        Some((factor, name)) if bytes.is_multiple_of(factor) => {
            format!("{} {name}", bytes / factor)
        }
        Some((factor, name)) => format!("{:.1} {name}", bytes as f64 / factor as f64),
    }
}

/// Three digits or so, whatever the size: `312`, `53.1`, `5.31`.
pub fn digits(value: f64) -> String {
    match value.abs() {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// `312 ns`, `1.25 us`.
pub fn time_text(ns: u64) -> String {
    let value = ns as f64;
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{} us", digits(value / 1e3)),
        1_000_000..1_000_000_000 => format!("{} ms", digits(value / 1e6)),
        _ => format!("{} s", digits(value / 1e9)),
    }
}

/// `53.1 M/s`.
pub fn rate_text(per_second: f64) -> String {
    match per_second {
        rate if rate >= 1e6 => format!("{} M/s", digits(rate / 1e6)),
        rate if rate >= 1e3 => format!("{} k/s", digits(rate / 1e3)),
        rate => format!("{}/s", digits(rate)),
    }
}

/// A table with one line under its header.
pub fn new_table() -> Table {
    let line = |fill| LineStyle::none().fill(fill).junction(fill);
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(line('─')).bottom_border(line('─')));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_and_written() {
        for (text, bytes) in [("64", 64), ("10k", 10240), ("1MiB", 1 << 20), ("2G", 2 << 30)] {
            assert_eq!(parse_bytes(text), Ok(bytes));
        }
        for text in ["", "k", "1x", "-1", "99999999999999999999", "18446744073709551615k"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        assert_eq!(bytes_text(10240), "10 KiB");
        assert_eq!(bytes_text(1000), "1000 B");
        assert_eq!(bytes_text(1536), "1.5 KiB");
        assert!(parse_message_bytes("2G").is_err());
    }
}
