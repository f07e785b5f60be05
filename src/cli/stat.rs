// SPDX-License-Identifier: MIT OR Apache-2.0
//! `squall stat`: looks into a running group from outside. Each member's door hands out its
//! statistics page; it is mapped read-only, and reading it costs the member nothing. A member on another
//! host sends its page as text to who proves the group's secret.

mod ask;
mod look;

use crate::failure::{Failure, fail};
use crate::near;
use crate::text::say;
use ask::{Member, ask_far, ask_here, others};
use clap::Args;
use look::Look;
use squall::driver::Inquiry;
use squall::driver::network::{Carrier, PORT_DEFAULT};
use squall::driver::stats::Snapshot;
use squall::fabric::shm::place::Place;
use squall::fabric::tcp::address::{Address, parse_list};
use squall::fabric::tcp::hello::Kind;
use squall::settings::Settings;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  squall stat demo                 one look at the members on this host
  squall stat demo --watch 1       each second, with rates
  squall stat demo --json | jq .
  squall stat --config demo.toml   asks all members, also on other hosts, with the group's secret
  squall stat --config demo.toml --at 10.0.0.2:7471    by way of that one (a task of a Slurm job)

Columns: prefix: how far the member has the total order of the view; stable: how far it knows that all
have it; delivered: how far its callbacks are; lag: messages behind the member that is furthest;
refused: sends that found no room; batch: messages per callback; gap: the longest time between two
looks at the clock, that is, the longest that one turn took or that the member did not run.
Where members are on several hosts, also how each reaches the others: waiting: bytes that its socket
to the other has no room for; full: how often that was so; behind: messages that the other is not
known to have.
Where views change, also when the last change reached each step, counted from the member's first one:
suspected: it suspects somebody; wedged: what it has received is final; agreed: the next view is
decided; echoed: it has the old view's last messages named; ended, passed: they are delivered here, and
everywhere; installed, built: the new view's memory is begun, and there; delivers: its first message.
A member answers when it polls. One that does not is shown as the others see it.";

/// Look into a running group: positions, lag, back-pressure, batches.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Name of the group on this host
    #[arg(required_unless_present = "config")]
    group: Option<String>,
    /// A configuration file of the group: its members are asked over the network, wherever they are
    #[arg(long, value_name = "FILE", conflicts_with = "group")]
    config: Option<PathBuf>,
    /// Whom to ask first, instead of those whom the file names: HOST:PORT, or several, with commas
    #[arg(long, value_name = "ADDRESS", requires = "config")]
    at: Option<String>,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Look again and again, this often
    #[arg(long, value_name = "SECONDS")]
    watch: Option<f64>,
}

/// Where the members are asked.
enum Whence {
    /// With the directory where they meet, if there is one.
    Here(String, Box<Place>, PathBuf),
    There(Box<Inquiry>, Vec<Address>),
}

fn whence(options: &Options) -> Result<Whence, Failure> {
    let Some(file) = &options.config else {
        let group = options.group.clone().unwrap_or_default();
        if !near::is_group(&group) {
            return fail!("{group:?} is no name of a group: letters, digits, '-', '_' and '.'");
        }
        let place = Place::usual(&group).into();
        return Ok(Whence::Here(group, place, PathBuf::new()));
    };
    let Settings { config, lacks_job, .. } = Settings::look(file)?;
    if lacks_job && options.at.is_none() && config.network.carrier != Carrier::Shm {
        return fail!(
            "{}: launcher = \"slurm\", and this process is no task of the job, which knows the addresses: \
             name one of its nodes with `--at NODE:{PORT_DEFAULT}` (`squeue` lists them)",
            file.display()
        );
    }
    if config.network.carrier == Carrier::Shm {
        let place = Place::new(&config.near_name(), &config.peers)?.into();
        return Ok(Whence::Here(config.group, place, config.peers.directory));
    }
    let inquiry = Inquiry::new(&config, Kind::Stat)?;
    let at = match &options.at {
        Some(list) => parse_list(list, Some(PORT_DEFAULT))?,
        None => inquiry.addresses.clone(),
    };
    Ok(Whence::There(Box::new(inquiry), at))
}

impl Whence {
    fn group(&self) -> &str {
        match self {
            Whence::Here(group, ..) => group,
            Whence::There(inquiry, _) => &inquiry.terms.group,
        }
    }

    /// The members that there are, and how many there should be at the least.
    fn ask(&self) -> Result<(Vec<Member>, u16), Failure> {
        match self {
            Whence::Here(group, place, directory) => {
                ask_here(group, place, || match directory.as_os_str().is_empty() {
                    true => others(group),
                    false => format!("in {}, its `peers.directory`", directory.display()),
                })
            }
            Whence::There(inquiry, at) => Ok((ask_far(inquiry, at)?, 0)),
        }
    }
}

pub fn run(options: &Options) -> Result<(), Failure> {
    let every = match options.watch {
        None => None,
        Some(seconds) if (0.01..=86400.0).contains(&seconds) => {
            Some(Duration::from_secs_f64(seconds))
        }
        Some(seconds) => return fail!("--watch {seconds}: it is 0.01 to 86400 seconds"),
    };
    let whence = whence(options)?;
    let (mut members, mut count) = whence.ask()?;
    let mut before = Vec::new();
    loop {
        let now: Vec<Option<Snapshot>> = members.iter().map(Member::look).collect();
        let look = Look::new(whence.group(), &members, &now, &before, count);
        if options.json {
            let value = look.json();
            say(&if every.is_some() { value.to_string() } else { format!("{value:#}") })?;
        } else {
            if every.is_some() && std::io::stdout().is_terminal() {
                say("\x1b[2J\x1b[H")?;
            }
            look.print(every.is_some())?;
        }
        let Some(every) = every else { return Ok(()) };
        if members.iter().all(|member| member.gone()) {
            return fail!("group {}: all members have ended", whence.group());
        }
        let seen = members.iter().zip(now);
        before = seen.filter_map(|(member, now)| Some((member.key(), now?))).collect();
        std::thread::sleep(every);
        if let Whence::There(..) = whence {
            (members, count) = whence.ask()?;
        }
    }
}
