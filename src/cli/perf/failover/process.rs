// SPDX-License-Identifier: MIT OR Apache-2.0
//! A process of the measurement, as its parent has it: what it said, when it hung up, its end.
//!
//! Its standard input is one end of a Unix socket pair. The other end hangs up when the kernel closes
//! the process's descriptors: that is how any program learns of a death on its host.

use super::member::Role;
use crate::failure::{Failure, because, fail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use squall::driver::clock;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long anything may take that is no figure.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Process {
    child: Child,
    end: UnixStream,
    said: Receiver<String>,
    errors: Arc<Mutex<String>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    pub fn start(role: &Role) -> Result<Process, Failure> {
        let program = std::env::current_exe();
        let program = program.map_err(|cause| because!("cannot find this program: {cause}"))?;
        let (end, its) = UnixStream::pair().map_err(|cause| because!("no socket pair: {cause}"))?;
        let role = serde_json::to_string(role).expect("a role is plain data");
        let parent = std::process::id().to_string();
        let mut command = Command::new(program);
        command.args(["perf", "failover-role", "--role", &role, "--parent", &parent]);
        command.stdin(OwnedFd::from(its)).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn();
        let mut child = child.map_err(|cause| because!("cannot start a process: {cause}"))?;
        let (output, mut wrong) = (child.stdout.take(), child.stderr.take().expect("it is piped"));
        let (tell, said) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(output.expect("it is piped")).lines();
            for line in lines.map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        let errors = Arc::new(Mutex::new(String::new()));
        let into = errors.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = wrong.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]);
                into.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        Ok(Process { child, end, said, errors })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks for its state.
    pub fn ask(&mut self) -> Result<(), Failure> {
        let asked = self.end.write_all(b"?\n");
        asked.map_err(|cause| because!("a process cannot be asked: {cause}"))
    }

    /// Waits until it says so; what else it says is passed over. What follows the word is decoded.
    pub fn hear<T: DeserializeOwned>(&mut self, word: &str) -> Result<T, Failure> {
        let text = self.word(word)?;
        serde_json::from_str(&text).map_err(|why| because!("{word} {text}: {why}"))
    }

    /// The same, as text.
    pub fn word(&mut self, word: &str) -> Result<String, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.said.recv_timeout(left) {
                Ok(line) => match line.strip_prefix(word) {
                    Some(rest) => return Ok(rest.trim_start().to_string()),
                    None if line.starts_with("over ") => return self.wrong(word, &line),
                    None => {}
                },
                Err(RecvTimeoutError::Timeout) => return self.wrong(word, "nothing for a minute"),
                Err(RecvTimeoutError::Disconnected) => {
                    return self.wrong(word, "nothing; it ended");
                }
            }
        }
    }

    fn wrong<T>(&self, word: &str, instead: &str) -> Result<T, Failure> {
        fail!("a process was to say {word:?} and said {instead}")
    }

    /// What it has said that nobody has heard, and to whom it may concern: for people.
    pub fn last_words(&self) -> String {
        let said: Vec<String> = self.said.try_iter().collect();
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        format!("{}\n{}", said.join("\n"), errors.trim_end()).trim().to_string()
    }

    /// Kills it (-9) and waits until the socket hangs up: when, and how long that took.
    pub fn kill(&mut self) -> Result<(u64, u64), Failure> {
        let start = clock().0;
        self.signal(Signal::KILL)?;
        let mut fds = [PollFd::new(&self.end, PollFlags::empty())]; // a hang-up is always told
        let most = Timespec { tv_sec: 60, tv_nsec: 0 };
        let heard = poll(&mut fds, Some(&most));
        let took = clock().0 - start;
        match heard {
            Ok(1..) => Ok((start, took)),
            Ok(_) => fail!("a process that was killed did not hang up within a minute"),
            Err(cause) => fail!("cannot wait for a hang-up: {cause}"),
        }
    }

    pub fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let pid = i32::try_from(self.id()).ok().and_then(Pid::from_raw).expect("a child has an id");
        kill_process(pid, signal).map_err(|cause| because!("cannot signal a process: {cause}"))
    }

    /// Bytes of shared memory that it has mapped.
    pub fn mapped(&self) -> u64 {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.id())).unwrap_or_default();
        let shared = maps.lines().filter(|line| line.contains("/memfd:squall"));
        let size = |line: &str| {
            let (from, to) = line.split(' ').next()?.split_once('-')?;
            let number = |text| u64::from_str_radix(text, 16).ok();
            number(to)?.checked_sub(number(from)?)
        };
        shared.filter_map(size).sum()
    }
}
