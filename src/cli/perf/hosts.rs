// SPDX-License-Identifier: MIT OR Apache-2.0
//! `squall perf --config`: one member of a measurement between hosts.
//!
//! Every host runs this with the same file and the same options. There is one group; each test has a
//! subgroup of its own in it, and one more carries what the members tell each other (`Word`): what
//! they are about to do, which floor is measured when, what each has seen. Rank 0 prints. So nothing
//! but the group has to be reachable, and what is said is as authenticated as the group is.
//!
//! Whoever fails says why and leaves; the others see it in the next view, and end, too: a measurement
//! with a member less would be another one.

mod bare;
mod words;

use super::member::{self, Track};
use super::plan::{Plan, Report, Test};
use super::report::{self, Floor, Outcome};
use crate::failure::{Failure, because, fail};
use crate::machine;
use crate::text::{IdleOption, new_table, remark, say};
use bare::{Bare, Figure};
use serde_json::{Value, json};
use squall::driver::config::{Config, Idle, SubgroupConfig};
use squall::driver::group::{Group, Sender};
use squall::driver::idle::pin;
use squall::driver::network::{Carrier, Rdma};
use squall::error::{Error, Status};
use squall::settings::Settings;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use words::{Board, Hearer, Word};

/// How long a member that is there may take for what it is asked to say.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two turns while a floor is measured, or another member is waited for.
const PAUSE: Duration = Duration::from_millis(2);

/// Which member this is, and of what.
pub struct Job {
    config: Config,
    core: Option<usize>,
    floor_port: u16,
}

impl Job {
    pub fn read(file: &Path, floor_port: u16) -> Result<Job, Failure> {
        let Settings { config, core, .. } = Settings::load(file)?;
        let name = file.display();
        if config.network.carrier == Carrier::Shm {
            return fail!(
                "{name}: fabric = \"shm\" is for one host, where `squall perf` needs no file; for several \
                 set fabric to \"auto\" or \"tcp\""
            );
        }
        if config.join {
            return fail!(
                "{name}: `join` is set, but a measurement has first members only: give `rank`, `members` \
                 and `network.founders`"
            );
        }
        Ok(Job { config, core, floor_port })
    }

    /// A test with the usual figures.
    pub fn plan(&self, test: Test, size: Option<u32>) -> Plan {
        let members = self.config.members;
        let idle = match self.config.idle {
            Idle::Spin => IdleOption::Spin,
            Idle::Yield => IdleOption::Yield,
            Idle::Park => IdleOption::Park,
        };
        Plan {
            test,
            group: self.config.group.clone(),
            members,
            senders: if test == Test::Rate { members } else { 1 },
            size: size.unwrap_or(test.size()),
            window: 4096,
            idle,
            cores: Vec::new(),
            seconds: 3.0,
            pace_ns: if idle == IdleOption::Spin { 100_000 } else { 1_000_000 },
            plant: None,
        }
    }

    /// What the floor is measured by, if the group goes by RDMA.
    fn rdma(&self) -> Option<Rdma> {
        let network = &self.config.network;
        network.carrier.is_rdma().then(|| {
            let mut rdma = network.rdma.clone();
            rdma.choice.address = rdma.choice.address.or(bare::own_address(&network.listen));
            rdma
        })
    }

    pub fn tour(&self, seconds: f64, as_json: bool) -> Result<(), Failure> {
        if !(2.0..=3600.0).contains(&seconds) {
            return fail!("--seconds {seconds}: a tour between hosts takes 2 to 3600 s");
        }
        let stops = [
            (Test::Lat, None),
            (Test::Rate, None),
            (Test::Bw, Some(10 << 10)),
            (Test::Bw, Some(1 << 20)),
        ];
        let each = (seconds / stops.len() as f64 - bare::SECONDS) / 1.2;
        let plan = |(test, size)| Plan { seconds: each.max(0.05), ..self.plan(test, size) };
        self.run(stops.map(plan).to_vec(), as_json)
    }

    /// Meets the others, measures, and prints if this is rank 0.
    pub fn run(&self, plans: Vec<Plan>, as_json: bool) -> Result<(), Failure> {
        for plan in &plans {
            plan.check()?;
        }
        let rank = self.config.rank;
        if plans.iter().any(|plan| plan.members < 2) {
            return fail!("`members` is 1: between hosts there are two at the least");
        }
        if let Some(core) = self.core {
            pin(core)?;
        }
        if self.config.idle == Idle::Park {
            // Timers that are 50 us late by default would be measured as latency.
            let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        }
        let mut config = self.config.clone();
        config.subgroups = plans.iter().map(Plan::subgroup).collect();
        config.subgroups.push(SubgroupConfig {
            window: 64,
            message_bytes_max: words::BYTES_MAX,
            ..SubgroupConfig::default()
        });
        let tracks: Vec<Track> = plans.iter().map(|plan| Track::new(plan, rank, true)).collect();
        let founders = config.network.founders.clone();
        let board = Arc::new(Board::new(founders, tracks.clone()));
        let addresses = config.network.founders.join(", ");
        remark(&format!("group {}: rank {rank} of {addresses}; meets the others", config.group));
        let mut group = Group::open(&config, Box::new(Hearer(board.clone()))).map_err(unlike)?;
        let sender = group.sender(plans.len() as u16, 0).expect("all send there");
        let mut crew = Crew { job: self, plans, tracks, board, sender, rank, hosts: Vec::new() };
        let outcome = crew.measure(&mut group, as_json);
        if let Err(why) = &outcome {
            crew.tell_failure(&mut group, why);
        }
        group.close();
        outcome
    }
}

/// Members whose options differ are told apart by the subgroups that those make.
fn unlike(why: Error) -> Failure {
    match why.status {
        Status::Mismatch => because!(
            "{why}. The subgroups of `squall perf` follow from its options: give all members the same \
             test and options, and end what else runs with this file"
        ),
        _ => why.into(),
    }
}

/// This member, in a group that is open.
struct Crew<'a> {
    job: &'a Job,
    plans: Vec<Plan>,
    tracks: Vec<Track>,
    board: Arc<Board>,
    sender: Sender,
    rank: u16,
    /// By rank: the host's name, and which network it is in.
    hosts: Vec<(String, String)>,
}

impl Crew<'_> {
    fn measure(&mut self, group: &mut Group, as_json: bool) -> Result<(), Failure> {
        let hello = Word::Hello {
            plans: self.plans.iter().map(Plan::agreed).collect(),
            host: machine::host(),
            place: machine::network_place(&self.job.config)?,
        };
        self.say(group, &hello)?;
        self.meet(group)?;
        let partner = self.partner();
        let mut outcomes = Vec::new();
        for test in 0..self.plans.len() {
            let plan = self.plans[test].clone();
            let floor = self.floor(group, test, partner)?;
            if self.rank == 0 {
                let seconds = plan.seconds + plan.warm_up_seconds();
                let (name, size) = (plan.test.name(), crate::text::bytes_text(plan.size.into()));
                let of = self.plans.len();
                remark(&format!("{}/{of} {name}, {size}, {seconds:.1} s", test + 1));
            }
            let track = &self.tracks[test];
            let report = member::run_in(group, &plan, self.rank, test as u16, track);
            let report = report.map_err(|why| self.better(why))?;
            self.say(group, &Word::Saw { test, report: Box::new(report) })?;
            let reports = self.reports(group, test)?;
            super::crew::agreed(&reports)?;
            if let Some(floor) = floor {
                outcomes.push(Outcome { plan, floor, reports }.check()?);
            }
        }
        if self.rank > 0 {
            remark("done; rank 0 prints the results");
            return Ok(());
        }
        self.print(&outcomes, as_json)
    }

    /// What another member has said of its end is more than what followed from it.
    fn better(&self, why: Failure) -> Failure {
        self.board.failure().map_or(why, Failure::Because)
    }

    /// One turn; what has happened to others ends this one, too.
    fn turn(&self, group: &mut Group) -> Result<(), Failure> {
        let turn = group.turn(u32::MAX);
        if let Some(why) = self.board.failure() {
            return Err(Failure::Because(why));
        }
        match turn {
            Ok(_) => Ok(()),
            Err(status) => fail!("the group has ended too early: {status}"),
        }
    }

    fn say(&mut self, group: &mut Group, word: &Word) -> Result<(), Failure> {
        let bytes = word.encode();
        loop {
            match self.sender.send(&bytes) {
                Ok(_) => return Ok(()),
                Err(Status::Again) => self.turn(group)?,
                Err(status) => return fail!("the group has ended too early: {status}"),
            }
        }
    }

    /// Turns until there is an answer.
    fn until<T>(
        &self,
        group: &mut Group,
        what: &str,
        mut so: impl FnMut() -> Option<T>,
    ) -> Result<T, Failure> {
        let start = Instant::now();
        loop {
            self.turn(group)?;
            if let Some(found) = so() {
                return Ok(found);
            }
            if start.elapsed() > PATIENCE {
                return fail!("{what}: nothing came within {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// All have said what they are about to do, and it is the same.
    fn meet(&mut self, group: &mut Group) -> Result<(), Failure> {
        let members = usize::from(self.job.config.members);
        let hellos = || {
            let all: Option<Vec<Word>> = (0..members).map(|rank| self.board.hello(rank)).collect();
            all
        };
        let hellos = self.until(group, "what the others are about to measure", hellos)?;
        let mine: Vec<Value> = self.plans.iter().map(Plan::agreed).collect();
        for (rank, hello) in hellos.into_iter().enumerate() {
            let Word::Hello { plans, host, place } = hello else { unreachable!("it is a hello") };
            if let Some((key, ours, theirs)) = words::differs(&mine, &plans) {
                return fail!(
                    "rank {rank} on {host} measures something else: {key} is {theirs} there and {ours} \
                     here; give all members the same options"
                );
            }
            self.hosts.push((host, place));
        }
        Ok(())
    }

    /// With whom rank 0 measures the floor: the first member on another host, or else the next one.
    fn partner(&self) -> u16 {
        let far = self.hosts.iter().position(|(_, place)| *place != self.hosts[0].1);
        far.unwrap_or(1) as u16
    }

    /// Bare TCP or RDMA, just before the test. At rank 0 what it came to.
    fn floor(
        &mut self,
        group: &mut Group,
        test: usize,
        partner: u16,
    ) -> Result<Option<Floor>, Failure> {
        let plan = self.plans[test].clone();
        if self.rank > 0 {
            let go = || self.board.go(test);
            let Word::Go { port, token, .. } = self.until(group, "rank 0's sign to go on", go)?
            else {
                unreachable!("it is that")
            };
            if self.rank == partner && port > 0 {
                let founder = self.job.config.network.founders[0].clone();
                let bare = Bare::calls(&founder, port, token, &plan, self.job.core);
                let bare = bare.by(self.job.rdma(), &plan);
                if let Err(why) = self.beside(group, bare)? {
                    self.say(group, &Word::NoFloor { test, why })?;
                }
            }
            return Ok(None);
        }
        let network = &self.job.config.network;
        let (bare, port, token) =
            match Bare::answers(&network.listen, self.job.floor_port, &plan, self.job.core) {
                Ok((bare, port, token)) => (Ok(bare.by(self.job.rdma(), &plan)), port, token),
                Err(why) => (Err(why), 0, String::new()),
            };
        self.say(group, &Word::Go { test, port, token })?;
        let measured = match bare {
            Ok(bare) => self.beside(group, bare)?,
            Err(why) => Err(why),
        };
        let (here, there) = (&self.hosts[0].0, &self.hosts[usize::from(partner)].0);
        let figure = match measured {
            Ok(figure) => figure,
            Err(why) => {
                let why = self.board.no_floor(test).unwrap_or(why);
                remark(&format!("warning: no floor between {here} and {there}: {why}"));
                return Ok(Some(Floor::Missing { why }));
            }
        };
        let Figure { one, chained } = figure;
        let size = f64::from(plan.size);
        Ok(Some(match (plan.test, self.job.rdma().is_some()) {
            (Test::Lat, false) => Floor::RoundTrip { what: "TCP round trip", p50_ns: one as u64 },
            (Test::Lat, true) => {
                Floor::RoundTrip { what: "RDMA write round trip", p50_ns: one as u64 }
            }
            (_, false) => Floor::flow("TCP stream", one / size),
            (Test::Rate, true) => {
                let what = "RDMA writes, one a doorbell";
                Floor::Flow { what, per_second: one, chained: Some(chained) }
            }
            (Test::Bw, true) => Floor::flow("RDMA writes", one),
        }))
    }

    /// Lets a thread measure, and polls meanwhile, so that the others do not take this one for dead.
    fn beside(&self, group: &mut Group, bare: Bare) -> Result<Result<Figure, String>, Failure> {
        let thread = bare.start().map_err(|cause| because!("cannot start a thread: {cause}"))?;
        while !thread.is_finished() {
            self.turn(group)?;
            std::thread::sleep(PAUSE);
        }
        Ok(thread.join().unwrap_or_else(|_| Err("the thread that measures it has died".into())))
    }

    /// By rank.
    fn reports(&self, group: &mut Group, test: usize) -> Result<Vec<Report>, Failure> {
        let members = usize::from(self.job.config.members);
        let all = || (0..members).map(|rank| self.board.saw(rank, test)).collect();
        self.until(group, "what the others have seen", all)
    }

    /// So that the others can say why, too.
    fn tell_failure(&mut self, group: &mut Group, why: &Failure) {
        let Failure::Because(why) = why else { return };
        if self.board.failure().is_some() {
            return; // another's
        }
        let word = Word::Failed { why: why.clone() }.encode();
        for _ in 0..100 {
            if self.sender.send(&word) != Err(Status::Again) || group.turn(0).is_err() {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn print(&self, outcomes: &[Outcome], as_json: bool) -> Result<(), Failure> {
        let founders = &self.job.config.network.founders;
        let members = || self.hosts.iter().zip(founders).enumerate();
        if as_json {
            let mut all = Vec::new();
            for (rank, ((host, place), address)) in members() {
                all.push(
                    json!({ "rank": rank, "host": host, "network": place, "address": address }),
                );
            }
            let tests: Vec<Value> = outcomes.iter().map(Outcome::json).collect();
            let machine = machine::json();
            let group = &self.job.config.group;
            let sealed = !self.job.config.network.trusted;
            let value = json!({
                "group": group, "sealed": sealed, "members": all, "machine": machine, "tests": tests
            });
            return say(&format!("{value:#}"));
        }
        say(&machine::line())?;
        let mut table = new_table();
        table.set_header(["rank", "host", "address"]);
        for (rank, ((host, _), address)) in members() {
            table.add_row([rank.to_string(), host.clone(), address.clone()]);
        }
        say(&table.to_string())?;
        let sealed = if self.job.config.network.trusted { "trusted network" } else { "sealed" };
        say(&format!("{}; {sealed}\n", report::conditions(&outcomes[0].plan)))?;
        let rows: Vec<[String; 6]> = outcomes.iter().map(Outcome::row).collect();
        say(&report::table(&rows))?;
        let (here, there) = (&self.hosts[0].0, usize::from(self.partner()));
        say(&format!(
            "floor: bare {} between rank 0 ({here}) and rank {there} ({}), with the same idle strategy.",
            if self.job.rdma().is_some() { "RDMA" } else { "TCP" },
            self.hosts[there].0
        ))?;
        for outcome in outcomes.iter().filter(|outcome| outcome.plan.test == Test::Lat) {
            report::say_latency(&outcome.stages())?;
        }
        report::disturbed(outcomes)?;
        say(&report::verified(outcomes))
    }
}
