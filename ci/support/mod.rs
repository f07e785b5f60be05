// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests with real processes share: a runner of named tests, members that are this program
//! run again with a role, their lines with a deadline, and looks at what a process leaves behind.
//!
//! A test waits for a line or a fact, never for a time; `DEADLINE` only turns a hang into a failure,
//! and is so long that no machine is slow enough to be taken for one.

#![allow(dead_code, reason = "each test program uses its part")]

pub mod sites;

use rustix::fs::FlockOperation;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub const DEADLINE: Duration = Duration::from_secs(300);

/// A test: what it is called, and what it does. It answers what it counted, or why it was skipped.
pub type Test = (&'static str, fn() -> String);
/// What a child process is: a name, and what it does with its arguments.
pub type Role = (&'static str, fn(&Arguments));

/// The `main` of a test program: runs a role, or the tests that the command line asks for.
pub fn main(tests: &[Test], roles: &[Role]) {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(role) = arguments.first().and_then(|first| first.strip_prefix("role:")) {
        // A test that is killed takes its members with it.
        let with_parent = Some(rustix::process::Signal::KILL);
        rustix::process::set_parent_process_death_signal(with_parent).unwrap();
        let run = roles.iter().find(|(name, _)| *name == role).expect("a role of this program").1;
        return run(&Arguments::parse(&arguments[1..]));
    }
    if arguments.iter().any(|argument| argument == "--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    let wanted: Vec<&String> = arguments.iter().filter(|text| !text.starts_with('-')).collect();
    let chosen = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(*part));
    let (mut failed, mut ran) = (Vec::new(), 0);
    for (name, test) in tests.iter().filter(|(name, _)| chosen(name)) {
        let start = Instant::now();
        ran += 1;
        match std::panic::catch_unwind(test) {
            Ok(text) => {
                let first = if text.starts_with("SKIPPED") { "SKIPPED" } else { "ok" };
                println!("test {name} ... {first} ({:.1} s)", start.elapsed().as_secs_f64());
                text.lines().for_each(|line| println!("    {line}"));
            }
            Err(_) => {
                println!("test {name} ... FAILED ({:.1} s)", start.elapsed().as_secs_f64());
                failed.push(*name);
            }
        }
    }
    println!("\ntest result: {ran} run, {} failed {failed:?}", failed.len());
    if !failed.is_empty() {
        std::process::exit(1);
    }
}

/// `key=value` arguments of a role.
pub struct Arguments(HashMap<String, String>);

impl Arguments {
    fn parse(arguments: &[String]) -> Arguments {
        let pair = |text: &String| {
            let (key, value) = text.split_once('=').expect("key=value");
            (key.to_string(), value.to_string())
        };
        Arguments(arguments.iter().map(pair).collect())
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub fn get<T: FromStr>(&self, key: &str) -> Option<T> {
        let text = self.text(key)?;
        Some(text.parse().unwrap_or_else(|_| panic!("{key}={text}")))
    }

    pub fn or<T: FromStr>(&self, key: &str, default: T) -> T {
        self.get(key).unwrap_or(default)
    }
}

/// A child of this test. Killed and waited for at the latest when it is dropped.
pub struct Process {
    pub child: Child,
    what: String,
    lines: Receiver<String>,
    errors: Option<JoinHandle<String>>,
}

/// How a child ended.
pub struct Ended {
    pub status: ExitStatus,
    pub lines: Vec<String>,
    pub errors: String,
}

impl Process {
    pub fn start(role: &str, arguments: &[(&str, &dyn std::fmt::Display)]) -> Process {
        Process::start_in(None, role, arguments)
    }

    /// The same in a network namespace.
    pub fn start_in(
        namespace: Option<&str>,
        role: &str,
        arguments: &[(&str, &dyn std::fmt::Display)],
    ) -> Process {
        let own = std::env::current_exe().unwrap();
        let mut command = match namespace {
            None => Command::new(own),
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(own);
                command
            }
        };
        command.arg(format!("role:{role}"));
        command.args(arguments.iter().map(|(key, value)| format!("{key}={value}")));
        Process::spawn(command, format!("{role} {}", texts(arguments)))
    }

    pub fn spawn(mut command: Command, what: String) -> Process {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("this program starts again");
        let (tell, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        let mut pipe = child.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = pipe.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Process { child, what, lines, errors: Some(errors) }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line, or `None` at the end of the output.
    pub fn line(&mut self) -> Option<String> {
        self.line_of("anything", &[])
    }

    /// The same; for whoever reads a failure, what is waited for, and what came before.
    fn line_of(&mut self, awaited: &str, before: &[String]) -> Option<String> {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                let of = |name: &str| {
                    let path = format!("/proc/{}/{name}", self.pid());
                    std::fs::read_to_string(path).unwrap_or_default()
                };
                let (stat, stack) = (of("stat"), of("stack"));
                panic!(
                    "{}: no `{awaited}` within {} s; said {before:?}; {stat} {stack}",
                    self.what,
                    DEADLINE.as_secs()
                )
            }
        }
    }

    /// The rest of the first line that begins with `word`; those before it are passed over.
    pub fn expect(&mut self, word: &str) -> String {
        let mut before = Vec::new();
        loop {
            let Some(line) = self.line_of(word, &before) else {
                let status = self.child.wait();
                let errors = self.errors.take().map(|errors| errors.join().unwrap());
                panic!(
                    "{}: ended without `{word}` ({status:?}); said {before:?}; {}",
                    self.what,
                    errors.unwrap_or_default()
                );
            };
            if let Some(rest) = line.strip_prefix(word) {
                return rest.trim().into();
            }
            before.push(line);
        }
    }

    /// Lines that are there already.
    pub fn ready_lines(&mut self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    pub fn say(&mut self, line: &str) {
        let mut input = self.child.stdin.as_ref().expect("its input is open");
        let _ = writeln!(input, "{line}");
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Closes its input and waits for its end.
    pub fn end(mut self) -> Ended {
        drop(self.child.stdin.take());
        let mut lines = Vec::new();
        while let Some(line) = self.line_of("its end", &lines) {
            lines.push(line);
        }
        let status = self.child.wait().unwrap();
        let errors = self.errors.take().map(|errors| errors.join().unwrap()).unwrap_or_default();
        Ended { status, lines, errors }
    }

    /// The same, and it must have ended well.
    pub fn end_well(self) -> Vec<String> {
        let what = self.what.clone();
        let ended = self.end();
        assert!(
            ended.status.success(),
            "{what}: {} (signal {:?}) {:?} {}",
            ended.status,
            ended.status.signal(),
            ended.lines,
            ended.errors
        );
        ended.lines
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking()
            && let Some(errors) = self.errors.take()
            && let Ok(text) = errors.join()
            && !text.is_empty()
        {
            eprintln!("{}: {text}", self.what);
        }
    }
}

fn texts(arguments: &[(&str, &dyn std::fmt::Display)]) -> String {
    let pairs = arguments.iter().map(|(key, value)| format!("{key}={value}"));
    pairs.collect::<Vec<_>>().join(" ")
}

/// Asks until it is so; fails when the deadline is over.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !so() {
        assert!(Instant::now() < end, "never, in {} s: {what}", DEADLINE.as_secs());
        std::thread::yield_now();
    }
}

/// A name that no other test run uses.
pub fn group_name(what: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("test-{what}-{}-{next}", std::process::id())
}

/// Whether somebody listens under a rank of a group.
pub fn listens(group: &str, rank: u16) -> bool {
    let name = format!("@squall/{group}/{rank}");
    let table = std::fs::read_to_string("/proc/net/unix").unwrap();
    table.lines().any(|line| line.ends_with(&name))
}

/// Says to all processes of this machine, in whatever network namespace, that a rank of a group lives, as
/// long as what it returns is there.
pub fn says_that_it_lives(group: &str, rank: u16) -> std::fs::File {
    let file = std::fs::File::create(life(group, rank)).unwrap();
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    file
}

pub fn lives(group: &str, rank: u16) -> bool {
    let Ok(file) = std::fs::File::open(life(group, rank)) else { return false };
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err()
}

/// Forgets of both ranks of a group that they lived.
pub fn forget_lives(group: &str) {
    (0..2).for_each(|rank| _ = std::fs::remove_file(life(group, rank)));
}

fn life(group: &str, rank: u16) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("squall-lives-{group}-{rank}"))
}

/// Everything on this machine that bears a group's name: sockets, files, mapped or open memory.
pub fn traces(group: &str) -> Vec<String> {
    let mut found = Vec::new();
    let table = std::fs::read_to_string("/proc/net/unix").unwrap();
    let sockets = table.lines().filter(|line| line.contains(group));
    found.extend(sockets.map(|line| format!("socket {line}")));
    for folder in ["/dev/shm", "/tmp", "/run", "/var/tmp"] {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        let names = entries.flatten().map(|entry| entry.path().display().to_string());
        found.extend(names.filter(|name| name.contains(group)).map(|name| format!("file {name}")));
    }
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let path = process.path();
        if !process.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let mine = |line: &str| line.contains(&format!("memfd:squall-{group}-"));
        if let Ok(maps) = std::fs::read_to_string(path.join("maps"))
            && maps.lines().any(mine)
        {
            found.push(format!("maps of {}", path.display()));
        }
        let open = std::fs::read_dir(path.join("fd")).into_iter().flatten().flatten();
        let links = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let links = links.filter(|link| mine(&link.to_string_lossy()));
        found.extend(links.map(|link| format!("{} in {}", link.display(), path.display())));
        if let Ok(line) = std::fs::read(path.join("cmdline"))
            && String::from_utf8_lossy(&line).contains(group)
            && process.file_name().to_string_lossy() != std::process::id().to_string()
        {
            found.push(format!("process {}", path.display()));
        }
    }
    found
}

/// Numbers that look random and are the same in every run.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.word() % bound
    }
}
