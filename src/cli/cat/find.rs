// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a group that runs was founded with: whoever joins it needs not be told.

use crate::failure::{Failure, fail};
use crate::near;
use squall::fabric::shm::door::{Hello, Kind};
use squall::fabric::shm::place::Place;
use squall::limits::{MEMBERS_MAX, WIRE_VERSION};
use std::time::{Duration, Instant};

/// How long a member may take to answer, and how soon it is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// The figures that all members must agree on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Founded {
    pub members: u16,
    pub window: u32,
    pub message_bytes_max: u32,
}

/// Asks the members that are there, until one answers or the time is over.
pub fn find(group: &str, patience: Duration) -> Result<Founded, Failure> {
    let (start, place) = (Instant::now(), Place::usual(group));
    let probe = Hello::new(Kind::Probe, u16::MAX, false, "").encode();
    loop {
        let mut calls = Vec::new();
        for seat in 0..2 * MEMBERS_MAX as u16 {
            if let Some(socket) = place.connect(seat)?
                && socket.send(&probe, &[])
            {
                calls.push(socket);
            }
        }
        std::thread::sleep(ASK_AGAIN);
        for socket in &calls {
            if let Some(Some((bytes, _))) = socket.receive()
                && let Some(hello) = Hello::decode(&bytes)
                && let Some(founded) = read(group, &hello)?
            {
                return Ok(founded);
            }
        }
        if calls.is_empty()
            && let parts @ [first, ..] = &near::parts(group, &near::groups())[..]
        {
            let (parts, host) = (parts.join(", "), first.split('@').nth(1).unwrap_or_default());
            return fail!(
                "group {group}: nobody is there by that name, but parts of it (`network.host`), {parts}: \
                 join with `squall cat --config FILE`, which names a part (`SQUALL_NETWORK__HOST={host}`)"
            );
        }
        if start.elapsed() >= patience {
            let seconds = patience.as_secs_f64();
            let there = match calls.is_empty() {
                true => "nobody is there to join".into(),
                false => format!("none of {} members answers: they do not poll", calls.len()),
            };
            return fail!(
                "group {group}: {there}, in {seconds:.1} s; found the group with `squall cat --group \
                 {group} --views`, or wait longer with --timeout"
            );
        }
    }
}

/// What an answer tells; `None`: nothing.
fn read(group: &str, hello: &Hello) -> Result<Option<Founded>, Failure> {
    if !hello.versions.speaks(WIRE_VERSION as u16) {
        return fail!(
            "group {group} speaks {}, this program wire version {WIRE_VERSION}: use the `squall` of \
             the same version",
            hello.versions
        );
    }
    if hello.config.is_empty() {
        return Ok(None);
    }
    let number = |key: &str| {
        let value = hello.config.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        value.and_then(|value| value.parse::<u32>().ok())
    };
    let Some(members) = number("founders") else {
        return fail!(
            "group {group} has members that do not change: nobody can join it; its members must be \
             started with --views"
        );
    };
    let figures = (number("subgroup.0.window"), number("subgroup.0.message_bytes_max"));
    let (Some(window), Some(message_bytes_max)) = figures else { return Ok(None) };
    Ok(Some(Founded { members: members.min(MEMBERS_MAX as u32) as u16, window, message_bytes_max }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use squall::driver::config::Config;

    #[test]
    fn an_answer_is_read() {
        let mut config = Config::new("g", 0, 3);
        config.subgroups[0].window = 77;
        let text = config.lasting_text(&config.rules(64).unwrap());
        let hello = |text: &str| Hello::new(Kind::Welcome, 0, false, text);
        let found = read("g", &hello(&format!("membership=views\nfounders=3\n{text}"))).unwrap();
        let expected = Founded { members: 3, window: 77, message_bytes_max: 1 << 20 };
        assert_eq!(found, Some(expected));
        assert_eq!(read("g", &hello("")).unwrap(), None);
        let fixed = config.agreed_text(&config.view().unwrap());
        let why = read("g", &hello(&fixed)).unwrap_err().to_string();
        assert!(why.contains("--views"), "{why}");
    }
}
