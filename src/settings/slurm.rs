// SPDX-License-Identifier: MIT OR Apache-2.0
//! A Slurm job step as a group: each task is a member, ranks are `SLURM_PROCID`.
//!
//! What is read: `SLURM_PROCID`, `SLURM_NTASKS` (or `SLURM_STEP_NUM_TASKS`), `SLURM_STEP_NODELIST` (or
//! `SLURM_JOB_NODELIST`), `SLURM_STEP_TASKS_PER_NODE` (or `SLURM_TASKS_PER_NODE`). Tasks are laid out in
//! blocks, node by node, which is Slurm's default; another `--distribution` is not known here, and
//! found by `SLURM_NODEID` and `SLURM_LOCALID`, where they are set.
//! Source of the formats: the manual page of srun, "OUTPUT ENVIRONMENT VARIABLES".

use crate::driver::config::Config;
use crate::driver::network::{Carrier, PORT_DEFAULT};
use crate::error::{Error, Status};
use crate::fabric::tcp::address::{Address, parse};
use crate::limits::MEMBERS_MAX;

/// Who starts the members: says which member this is, and where the others are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Launcher {
    /// Rank and addresses are given by hand.
    #[default]
    None,
    /// `SLURM_*` variables say them.
    Slurm,
}

/// Makes rank, members and addresses those of this process' job. `variable`: the environment.
///
/// The port that `listen` names is that of the first task of each node; the next ones have the next.
/// Errors: `Invalid`: no job, or one that is no group.
pub fn settle(config: &mut Config, variable: impl Fn(&str) -> Option<String>) -> Result<(), Error> {
    let job = Job::read(variable).map_err(|why| Error::new(Status::Invalid, why))?;
    (config.rank, config.members) = (job.rank, job.members);
    let network = &mut config.network;
    if network.carrier == Carrier::Shm {
        return Ok(());
    }
    let listen = network.listen.iter().map(|text| parse(text, Some(PORT_DEFAULT)));
    let listen = listen.collect::<Result<Vec<_>, Error>>()?;
    let first = listen.first().map_or(PORT_DEFAULT, |address| address.port);
    network.founders = job.addresses(first)?;
    let at = job.tasks[usize::from(job.rank)].1;
    let moved = |mut address: Address| {
        address.port = port_of_task(address.port, at)?;
        Ok(address.to_string())
    };
    network.listen = listen.into_iter().map(moved).collect::<Result<Vec<_>, Error>>()?;
    Ok(())
}

/// Whether this process is a task of a job.
pub fn is_in_job(variable: impl Fn(&str) -> Option<String>) -> bool {
    variable("SLURM_PROCID").is_some()
}

fn port_of_task(port: u16, at: u16) -> Result<u16, Error> {
    port.checked_add(at).ok_or_else(|| {
        let detail = format!("port {port} and {at} more: give a lower one to listen on");
        Error::new(Status::Invalid, detail)
    })
}

/// A job step, from one of its tasks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Job {
    pub rank: u16,
    pub members: u16,
    /// By rank: the node, and which of its tasks.
    tasks: Vec<(String, u16)>,
}

impl Job {
    /// `variable`: the environment.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Job, String> {
        let one_of = |names: [&str; 2]| {
            let found = names.iter().find_map(|name| Some((name.to_string(), variable(name)?)));
            found.ok_or_else(|| {
                format!(
                    "launcher = \"slurm\", but {} is not set: start the members with srun",
                    names[0]
                )
            })
        };
        let number = |(name, text): (String, String)| -> Result<u16, String> {
            text.parse().map_err(|_| format!("{name}={text} is no number"))
        };
        let rank = number(one_of(["SLURM_PROCID", "SLURM_PROCID"])?)?;
        let members = number(one_of(["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"])?)?;
        if members == 0 || usize::from(members) > MEMBERS_MAX || rank >= members {
            return Err(format!(
                "task {rank} of {members}: a group has 1 to {MEMBERS_MAX} members"
            ));
        }
        let (nodes_name, nodes) = one_of(["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"])?;
        let nodes =
            hosts(&nodes).ok_or_else(|| format!("{nodes_name}={nodes} is no list of nodes"))?;
        let (each_name, each) = one_of(["SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"])?;
        let counts =
            counts(&each).ok_or_else(|| format!("{each_name}={each} is no list of counts"))?;
        let mut tasks = Vec::new();
        for (node, count) in nodes.iter().zip(&counts) {
            tasks.extend((0..*count).map(|at| (node.clone(), at)));
        }
        if tasks.len() != usize::from(members) {
            let all = tasks.len();
            return Err(format!(
                "{nodes_name} and {each_name} say {all} tasks, and there are {members}"
            ));
        }
        let job = Job { rank, members, tasks };
        job.is_in_blocks(|name| variable(name)?.parse().ok(), &counts)?;
        Ok(job)
    }

    /// Whether this task is where a layout in blocks has it. What is not told is believed.
    fn is_in_blocks(
        &self,
        number: impl Fn(&str) -> Option<usize>,
        counts: &[u16],
    ) -> Result<(), String> {
        let (Some(node), Some(local)) = (number("SLURM_NODEID"), number("SLURM_LOCALID")) else {
            return Ok(());
        };
        let before: usize = counts.iter().take(node).map(|count| usize::from(*count)).sum();
        let rank = usize::from(self.rank);
        if before + local == rank {
            return Ok(());
        }
        Err(format!(
            "SLURM_PROCID={rank} is task {local} of node {node} (SLURM_LOCALID, SLURM_NODEID), where blocks \
             have task {}: members find each other by that, so start them with \
             `srun --distribution=block`",
            before + local
        ))
    }

    /// Of all members, by rank: the tasks of a node listen on adjoining ports from `port` on.
    pub fn addresses(&self, port: u16) -> Result<Vec<String>, Error> {
        let address =
            |(node, at): &(String, u16)| Ok(format!("{node}:{}", port_of_task(port, *at)?));
        self.tasks.iter().map(address).collect()
    }
}

/// `n[1-3,05],login` is n1, n2, n3, n05, login. Numbers keep their leading zeros.
pub fn hosts(list: &str) -> Option<Vec<String>> {
    let mut all = Vec::new();
    for part in parts(list)? {
        expand(&part, &mut all)?;
    }
    (!all.is_empty()).then_some(all)
}

/// Parted at commas that are not in brackets.
fn parts(list: &str) -> Option<Vec<String>> {
    let (mut all, mut part, mut inside) = (Vec::new(), String::new(), false);
    for letter in list.chars() {
        match letter {
            '[' if inside => return None,
            ']' if !inside => return None,
            '[' => inside = true,
            ']' => inside = false,
            ',' if !inside => {
                all.push(std::mem::take(&mut part));
                continue;
            }
            _ => {}
        }
        part.push(letter);
    }
    all.push(part);
    (!inside && all.iter().all(|part| !part.is_empty())).then_some(all)
}

/// More nodes than any group has members are nobody's list.
const HOSTS_MAX: usize = 4096;

fn expand(name: &str, all: &mut Vec<String>) -> Option<()> {
    let Some((before, rest)) = name.split_once('[') else {
        all.push(name.into());
        return (all.len() <= HOSTS_MAX).then_some(());
    };
    let (ranges, after) = rest.split_once(']')?;
    for range in ranges.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let width = first.len();
        let (from, upto): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if from > upto || (upto - from) as usize >= HOSTS_MAX {
            return None;
        }
        for number in from..=upto {
            expand(&format!("{before}{number:0width$}{after}"), all)?;
        }
    }
    Some(())
}

/// `2(x3),1` is 2, 2, 2, 1.
pub fn counts(list: &str) -> Option<Vec<u16>> {
    let mut all = Vec::new();
    for part in list.split(',') {
        let (count, times) = match part.split_once("(x") {
            Some((count, times)) => (count, times.strip_suffix(')')?.parse().ok()?),
            None => (part, 1usize),
        };
        if times > HOSTS_MAX {
            return None;
        }
        all.extend(std::iter::repeat_n(count.parse::<u16>().ok()?, times));
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(variables: &[(&str, &str)]) -> Result<Job, String> {
        Job::read(|name| {
            let found = variables.iter().find(|(its, _)| *its == name);
            found.map(|(_, value)| value.to_string())
        })
    }

    #[test]
    fn lists_of_nodes_are_what_slurm_writes() {
        let all = hosts("n[1-3,05],login,r[1-2]c[08-09]").unwrap().join(" ");
        assert_eq!(all, "n1 n2 n3 n05 login r1c08 r1c09 r2c08 r2c09");
        assert_eq!(counts("2(x3),1").unwrap(), [2, 2, 2, 1]);
        for wrong in ["", "n[1-", "n]1[", "n[a]", "n[3-1]", "n[0-99999999]", "a,,b", "n[[1]]"] {
            assert_eq!(hosts(wrong), None, "{wrong}");
        }
        for wrong in ["", "x", "2(x", "2(x-1)", "2(x99999999999)"] {
            assert_eq!(counts(wrong), None, "{wrong}");
        }
    }

    /// One that named no port was the same for all tasks of a node, and the second found it taken.
    #[test]
    fn each_task_listens_on_a_port_of_its_own() {
        let variables = [
            ("SLURM_PROCID", "1"),
            ("SLURM_NTASKS", "2"),
            ("SLURM_JOB_NODELIST", "n1"),
            ("SLURM_TASKS_PER_NODE", "2"),
        ];
        let settled = |listen: &[&str]| {
            let mut config = Config::new("g", 0, 1);
            config.network.carrier = Carrier::Auto;
            config.network.listen = listen.iter().map(|text| text.to_string()).collect();
            settle(&mut config, |name| {
                let found = variables.iter().find(|(its, _)| *its == name);
                found.map(|(_, value)| value.to_string())
            })?;
            Ok::<_, Error>((config.network.listen, config.network.founders[1].clone()))
        };
        let cases = [
            (&["*:7571"][..], "*:7572", "n1:7572"),
            (&["*"], "*:7472", "n1:7472"),
            (&["10.0.0.1"], "10.0.0.1:7472", "n1:7472"),
            (&["[fd77::1]"], "[fd77::1]:7472", "n1:7472"),
            (&["[fd77::1]:80", "10.0.0.1:80"], "[fd77::1]:81 10.0.0.1:81", "n1:81"),
        ];
        for (listen, expected, founder) in cases {
            let (found, at) = settled(listen).unwrap();
            assert_eq!((found.join(" ").as_str(), at.as_str()), (expected, founder));
        }
        assert!(settled(&["*:65535"]).is_err(), "two tasks do not fit there");
    }

    /// Founders would have called each other at addresses of other tasks.
    #[test]
    fn tasks_that_are_not_in_blocks_are_told() {
        let step = |rank: &'static str, node: &'static str, local: &'static str| {
            job(&[
                ("SLURM_PROCID", rank),
                ("SLURM_STEP_NUM_TASKS", "4"),
                ("SLURM_STEP_NODELIST", "n[1-2]"),
                ("SLURM_STEP_TASKS_PER_NODE", "2(x2)"),
                ("SLURM_NODEID", node),
                ("SLURM_LOCALID", local),
            ])
        };
        for (rank, node, local) in [("0", "0", "0"), ("1", "0", "1"), ("2", "1", "0")] {
            assert_eq!(step(rank, node, local).unwrap().rank.to_string(), rank);
        }
        let why = step("1", "1", "0").unwrap_err(); // --distribution=cyclic
        assert!(why.contains("SLURM_PROCID=1") && why.contains("--distribution=block"), "{why}");
    }

    #[test]
    fn tasks_of_a_node_have_ports_of_their_own() {
        let variables = [
            ("SLURM_PROCID", "2"),
            ("SLURM_NTASKS", "5"),
            ("SLURM_JOB_NODELIST", "n[1-3]"),
            ("SLURM_TASKS_PER_NODE", "2(x2),1"),
        ];
        let found = job(&variables).unwrap();
        let addresses = found.addresses(7471).unwrap().join(" ");
        assert_eq!(addresses, "n1:7471 n1:7472 n2:7471 n2:7472 n3:7471");
        assert_eq!((found.rank, found.members), (2, 5));
        assert!(found.addresses(65535).is_err());
        let why = job(&variables[1..]).unwrap_err();
        assert!(why.contains("SLURM_PROCID is not set"), "{why}");
    }
}
