// SPDX-License-Identifier: MIT OR Apache-2.0
//! `squall cat` from outside: real processes, real pipes. Every member must print the same bytes, and
//! in them every input, in its order and whole. Nothing here waits for a time to pass.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{JoinHandle, spawn};

/// One member; its pipes are handed to threads.
struct Member {
    child: Child,
    input: Option<ChildStdin>,
    output: Option<ChildStdout>,
    errors: JoinHandle<String>,
}

struct Ended {
    status: ExitStatus,
    errors: String,
}

fn text_of(mut pipe: ChildStderr) -> String {
    let mut text = String::new();
    let _ = pipe.read_to_string(&mut text);
    text
}

impl Member {
    fn start(group: &str, members: usize, rank: usize, more: &[&str]) -> Member {
        let (members, rank) = (members.to_string(), rank.to_string());
        let first = ["--members", &members, "--rank", &rank];
        Member::open(group, &[&first[..], more].concat())
    }

    fn open(group: &str, arguments: &[&str]) -> Member {
        let mut command = Command::new(env!("CARGO_BIN_EXE_squall"));
        command.args(["cat", "--group", group]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary under test starts");
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let stderr = child.stderr.take().unwrap();
        Member { child, input, output, errors: spawn(move || text_of(stderr)) }
    }

    /// Writes all of `text` from a thread, then closes the pipe.
    fn feed(&mut self, text: Vec<u8>) {
        let mut input = self.input.take().unwrap();
        spawn(move || {
            let _ = input.write_all(&text);
        });
    }

    fn collect(&mut self) -> JoinHandle<Vec<u8>> {
        let mut output = self.output.take().unwrap();
        spawn(move || {
            let mut bytes = Vec::new();
            output.read_to_end(&mut bytes).unwrap();
            bytes
        })
    }

    fn end(mut self) -> Ended {
        let status = self.child.wait().unwrap();
        Ended { status, errors: self.errors.join().unwrap() }
    }
}

fn group_name() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("cat-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn start(members: usize, more: &[&str]) -> Vec<Member> {
    let group = group_name();
    (0..members).map(|rank| Member::start(&group, members, rank, more)).collect()
}

/// Runs members over these inputs and answers what each printed.
fn run(inputs: &[Vec<u8>], more: &[&str]) -> Vec<Vec<u8>> {
    let mut members = start(inputs.len(), more);
    let collecting: Vec<_> = members.iter_mut().map(Member::collect).collect();
    members.iter_mut().zip(inputs).for_each(|(member, input)| member.feed(input.clone()));
    let outputs = collecting.into_iter().map(|output| output.join().unwrap()).collect();
    members.into_iter().for_each(succeed);
    outputs
}

fn succeed(member: Member) {
    let ended = member.end();
    assert!(ended.status.success(), "{}: {}", ended.status, ended.errors);
    assert_eq!(ended.errors, "", "a good end is a quiet one");
}

fn lines_of(text: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    if lines.last() == Some(&&b""[..]) {
        lines.pop();
    }
    lines
}

/// All outputs are the same bytes, and of each rank they hold its input, in order, and no more.
fn check(inputs: &[Vec<u8>], outputs: &[Vec<u8>]) {
    for (rank, output) in outputs.iter().enumerate() {
        assert!(*output == outputs[0], "rank {rank} printed something else than rank 0");
    }
    let mut found = vec![Vec::new(); inputs.len()];
    for line in lines_of(&outputs[0]) {
        let tab = line.iter().position(|byte| *byte == b'\t').expect("a rank and a tab");
        let rank: usize = std::str::from_utf8(&line[..tab]).unwrap().parse().unwrap();
        found[rank].push(&line[tab + 1..]);
    }
    for (rank, (input, found)) in inputs.iter().zip(&found).enumerate() {
        let lines = lines_of(input);
        assert_eq!(found.len(), lines.len(), "lines of rank {rank}");
        let differs = lines.iter().zip(found).position(|(line, found)| line != found);
        assert_eq!(differs, None, "the first line of rank {rank} that differs");
    }
}

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % below
    }
}

const WORDS: &str = "the of and to in a is that for it as was with be by on not he his but at are \
    this have from or had an they which one you were all her she there would their we him been has \
    when who will no more if out so up said what its about than into them can only other time new \
    some could these two may first then do any like my now over such our man me even most made \
    after also did many off before must well back through years where much your way down should \
    because long each just state those people too mr how little good world make very year still \
    see work life men wind squall harbour anchor keel mast lantern tide gull rope";

/// Lines as people write them: words, some empty lines, some long ones, now and then UTF-8.
fn text(seed: u64, lines: usize) -> Vec<u8> {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut numbers = Numbers(seed);
    let mut text = Vec::new();
    for _ in 0..lines {
        let count = match numbers.next(100) {
            0..10 => 0,
            10..98 => 1 + numbers.next(16),
            _ => 100 + numbers.next(300),
        };
        for at in 0..count {
            if at > 0 {
                text.push(b' ');
            }
            match numbers.next(200) {
                0 => text.extend_from_slice("…–ß漢字".as_bytes()),
                _ => {
                    let at = numbers.next(words.len() as u64) as usize;
                    text.extend_from_slice(words[at].as_bytes());
                }
            }
        }
        text.push(b'\n');
    }
    text
}

#[test]
fn three_members_print_one_order() {
    let inputs: Vec<_> = (0..3).map(|rank| text(rank, 100_000 + 5_000 * rank as usize)).collect();
    assert!(inputs.iter().all(|input| input.len() > 2_000_000));
    let outputs = run(&inputs, &[]);
    check(&inputs, &outputs);
}

#[test]
fn eight_members_share_few_cores() {
    let inputs: Vec<_> = (0..8).map(|rank| text(100 + rank, 4_000)).collect();
    check(&inputs, &run(&inputs, &[]));
    let fewer: Vec<_> = (0..8).map(|rank| text(200 + rank, 300)).collect();
    check(&fewer, &run(&fewer, &["--idle", "yield", "--window", "16"]));
}

#[test]
fn some_inputs_are_empty_and_some_lines_too() {
    let inputs = [b"".to_vec(), b"\n\n\nx\n\n".to_vec(), b"".to_vec()];
    let outputs = run(&inputs, &[]);
    check(&inputs, &outputs);
    assert_eq!(outputs[0], b"1\t\n1\t\n1\t\n1\tx\n1\t\n");
    check(&[b"".to_vec(), b"".to_vec()], &run(&[b"".to_vec(), b"".to_vec()], &[]));
    check(&[b"alone\n".to_vec()], &run(&[b"alone\n".to_vec()], &["--idle", "spin"]));
}

#[test]
fn bytes_are_bytes() {
    let every: Vec<u8> = (0..=255).collect();
    let mut bytes = b"\0\0\n\0tab\there\r\n".to_vec();
    bytes.extend_from_slice(&every);
    bytes.extend_from_slice(b"\nthe last line has no newline\0");
    let inputs = [bytes, b"neither has this".to_vec()];
    let outputs = run(&inputs, &[]);
    check(&inputs, &outputs);
    assert!(outputs[0].ends_with(b"\n"));
}

#[test]
fn a_line_longer_than_a_message_arrives_whole() {
    let mut numbers = Numbers(5);
    let input = |rank: u64, numbers: &mut Numbers| {
        let mut input = text(300 + rank, 50);
        for len in [63, 64, 65, 127, 128, 129, 200_000] {
            input.extend((0..len).map(|_| b'a' + numbers.next(26) as u8));
            input.push(b'\n');
            input.extend_from_slice(&text(400 + rank, 3));
        }
        input
    };
    let inputs: Vec<_> = (0..3).map(|rank| input(rank, &mut numbers)).collect();
    check(&inputs, &run(&inputs, &["--max-line", "64"]));
    // With the default, too: 3 MiB in parts of 1 MiB, beside another member's short lines.
    let long = vec![b'x'; 3 << 20];
    let inputs = [long, text(9, 1_000)];
    check(&inputs, &run(&inputs, &[]));
}

#[test]
fn a_slow_reader_slows_the_others_and_loses_nothing() {
    let inputs: Vec<_> = (0..3).map(|rank| text(500 + rank, 30_000)).collect();
    let mut members = start(3, &["--window", "256"]);
    members.iter_mut().zip(&inputs).for_each(|(member, input)| member.feed(input.clone()));
    let (first, second) = (members[0].collect_from(), members[1].collect());
    // The third member's output is not read before the first one has printed something; and it
    // cannot have printed all, because the window and the pipe are smaller than the inputs.
    first.started.recv().unwrap();
    assert!(members[0].child.try_wait().unwrap().is_none(), "it did not wait for the slow one");
    let mut third = Vec::new();
    let mut slow = members[2].output.take().unwrap();
    let mut few = [0; 509];
    loop {
        let got = slow.read(&mut few).unwrap();
        if got == 0 {
            break;
        }
        third.extend_from_slice(&few[..got]);
        std::thread::yield_now();
    }
    let outputs = [first.bytes.join().unwrap(), second.join().unwrap(), third];
    members.into_iter().for_each(succeed);
    check(&inputs, &outputs);
}

/// Output on its way, and a word when the first of it is there.
struct Collecting {
    started: Receiver<()>,
    bytes: JoinHandle<Vec<u8>>,
}

impl Member {
    fn collect_from(&mut self) -> Collecting {
        let mut output = self.output.take().unwrap();
        let (tell, started) = channel();
        let bytes = spawn(move || {
            let mut bytes = vec![0; 4096];
            let got = output.read(&mut bytes).unwrap();
            bytes.truncate(got);
            tell.send(()).unwrap();
            output.read_to_end(&mut bytes).unwrap();
            bytes
        });
        Collecting { started, bytes }
    }
}

#[test]
fn what_is_typed_is_printed_before_the_input_ends() {
    let mut members = start(2, &[]);
    let mut typing = members[0].input.take().unwrap();
    let mut shown = members[1].output.take().unwrap();
    let other = members[0].collect();
    let mut all = Vec::new();
    for line in ["first", "second", "third"] {
        typing.write_all(format!("{line}\n").as_bytes()).unwrap();
        let expected = format!("0\t{line}\n");
        let mut got = vec![0; expected.len()];
        shown.read_exact(&mut got).unwrap();
        assert_eq!(got, expected.as_bytes());
        all.extend_from_slice(&got);
    }
    drop(typing);
    drop(members[1].input.take());
    shown.read_to_end(&mut all).unwrap();
    assert_eq!(other.join().unwrap(), all);
    members.into_iter().for_each(succeed);
}

#[test]
fn a_dead_member_is_named() {
    let mut members = start(3, &[]);
    let mut typing = members[0].input.take().unwrap();
    typing.write_all(b"all are here\n").unwrap();
    // Once this is printed, the group is complete.
    let mut shown = members[1].output.take().unwrap();
    shown.read_exact(&mut [0; 15]).unwrap();
    members[2].child.kill().unwrap();
    let ended: Vec<_> = members.into_iter().map(Member::end).collect();
    for ended in &ended[..2] {
        assert_eq!(ended.status.code(), Some(1), "{}", ended.errors);
        // Who ends because rank 2 has died is not taken for the one that died: it has left.
        let dead = ["rank 0 is gone", "rank 1 is gone"].map(|name| ended.errors.contains(name));
        assert_eq!(dead, [false, false], "{}", ended.errors);
    }
    let named = ended[..2].iter().any(|ended| ended.errors.contains("rank 2 is gone"));
    assert!(named, "{} {}", ended[0].errors, ended[1].errors);
}

#[test]
fn a_closed_output_is_an_error() {
    let mut members = start(2, &[]);
    drop(members[1].output.take());
    let other = members[0].collect();
    // A process that another test is starting may hold the pipe for a moment: so until it notices.
    let mut typing = members[0].input.take().unwrap();
    while members[1].child.try_wait().unwrap().is_none() {
        let _ = typing.write_all(b"a line\n");
    }
    drop(typing);
    other.join().unwrap();
    let ended: Vec<_> = members.into_iter().map(Member::end).collect();
    assert_eq!(ended[1].status.code(), Some(1), "{} {}", ended[1].status, ended[1].errors);
    assert!(ended[1].errors.contains("cannot write standard output"), "{}", ended[1].errors);
}

// ---- members that come and go -------------------------------------------------------------------

/// Founders of a group whose members change.
fn found(group: &str, members: usize, more: &[&str]) -> Vec<Member> {
    let more = [&["--views"], more].concat();
    (0..members).map(|rank| Member::start(group, members, rank, &more)).collect()
}

/// Output that is read line by line, and all of it that was.
struct Reading {
    output: BufReader<ChildStdout>,
    text: Vec<u8>,
}

impl Member {
    fn read(&mut self) -> Reading {
        let output = BufReader::new(self.output.take().unwrap());
        Reading { output, text: Vec::new() }
    }

    fn type_line(&mut self, line: &str) {
        self.input.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

impl Reading {
    /// Reads up to the line that ends so.
    fn until(&mut self, end: &str) {
        loop {
            let from = self.text.len();
            let got = self.output.read_until(b'\n', &mut self.text).unwrap();
            assert!(got > 0, "{end} does not come after {}", String::from_utf8_lossy(&self.text));
            if self.text[from..].ends_with(format!("{end}\n").as_bytes()) {
                return;
            }
        }
    }

    fn rest(mut self) -> Vec<u8> {
        self.output.read_to_end(&mut self.text).unwrap();
        self.text
    }
}

fn ended_with(member: Member, status: i32, words: &[&str]) {
    let ended = member.end();
    assert_eq!(ended.status.code(), Some(status), "{}", ended.errors);
    for word in words {
        assert!(ended.errors.contains(word), "{word:?} is missing in {}", ended.errors);
    }
}

/// What was written of a label, in order.
fn lines_of_label(text: &[u8], label: &str) -> Vec<Vec<u8>> {
    let mark = format!("{label}\t");
    let lines = lines_of(text).into_iter();
    lines.filter_map(|line| Some(line.strip_prefix(mark.as_bytes())?.to_vec())).collect()
}

/// One of three is killed in the middle; the two others deliver all of each other's lines, and print
/// the same.
#[test]
fn a_killed_member_is_dropped_and_the_others_go_on() {
    let group = group_name();
    let mut members = found(&group, 3, &["--window", "64"]);
    let inputs = [text(61, 20_000), text(62, 20_000)];
    let [mut first, mut third] = [members[0].read(), members[2].read()];
    members[1].type_line("alive");
    first.until("1\talive");
    third.until("1\talive");
    members[1].feed(text(63, 200_000));
    // Nobody reads what the one to be killed prints, so it cannot come to its end.
    let input = |member: &mut Member| member.input.take().unwrap();
    let pipes = [input(&mut members[0]), input(&mut members[2])];
    let feed = |(mut pipe, bytes): (ChildStdin, Vec<u8>)| {
        spawn(move || {
            pipe.write_all(&bytes).unwrap();
            pipe
        })
    };
    let feeding = pipes.into_iter().zip(inputs.clone()).map(feed).collect::<Vec<_>>();
    let reading = [first, third].map(|reading| spawn(move || reading.rest()));
    members[1].child.kill().unwrap();
    // The end of an input is the end of its member: only when all is written.
    feeding.into_iter().for_each(|pipe| drop(pipe.join().unwrap()));
    let outputs = reading.map(|output| output.join().unwrap());
    let last = members.pop().unwrap();
    drop(members.remove(1).end());
    for member in [members.remove(0), last] {
        ended_with(member, 0, &["view 1: members 0, 1, 2", "members 0, 2; 1 is gone"]);
    }
    // Who leaves first has no more of the other's lines, but none that the other has not.
    let (short, long) = match outputs[0].len() < outputs[1].len() {
        true => (&outputs[0], &outputs[1]),
        false => (&outputs[1], &outputs[0]),
    };
    assert!(long.starts_with(short), "one output is a beginning of the other");
    for (label, input) in ["0", "2"].iter().zip(&inputs) {
        let expected: Vec<Vec<u8>> = lines_of(input).into_iter().map(<[u8]>::to_vec).collect();
        assert!(lines_of_label(long, label) == expected, "the lines of {label}");
    }
}

/// Its output is the end of what the others print, and theirs goes on when it has left.
#[test]
fn who_joins_prints_the_end_of_what_the_others_print() {
    let group = group_name();
    let mut founders = found(&group, 2, &["--max-line", "64", "--window", "128"]);
    let [mut first, mut second] = [founders[0].read(), founders[1].read()];
    founders[0].type_line("before");
    first.until("0\tbefore");
    let mut joiner = Member::open(&group, &["--join"]);
    let mut third = joiner.read();
    joiner.type_line(&"a line in parts ".repeat(50));
    joiner.type_line("here");
    second.until("2\there");
    founders[1].type_line("after");
    third.until("1\tafter");
    drop(joiner.input.take());
    let joined = third.rest();
    ended_with(joiner, 0, &["members 0, 1, 2; this is 2"]);
    founders[0].type_line("without it");
    second.until("0\twithout it");
    assert!(!joined.is_empty() && !joined.starts_with(b"0\tbefore"));
    // One after the other, so that the last one prints everything.
    drop(founders[0].input.take());
    let early = first.rest();
    ended_with(founders.remove(0), 0, &["2 has joined", "2 has left"]);
    founders[0].type_line("alone");
    drop(founders[0].input.take());
    let all = second.rest();
    ended_with(founders.remove(0), 0, &["2 has joined", "2 has left", "0 has left"]);
    assert!(all.starts_with(&early) && all.ends_with(b"1\talone\n"));
    let upto = early.len() - b"0\twithout it\n".len();
    let text = String::from_utf8_lossy(&early);
    assert!(early[..upto].ends_with(&joined), "{} {text}", String::from_utf8_lossy(&joined));
}

#[test]
fn nothing_is_sent_before_there_are_enough() {
    let group = group_name();
    let mut one = Member::open(&group, &["--views", "--at-least", "2"]);
    let mut first = one.read();
    one.type_line("for two");
    let mut two = Member::open(&group, &["--join"]);
    let mut second = two.read();
    second.until("0\tfor two");
    first.until("0\tfor two");
    drop(two.input.take());
    assert_eq!(second.rest(), b"0\tfor two\n");
    ended_with(two, 0, &[]);
    drop(one.input.take());
    assert_eq!(first.rest(), b"0\tfor two\n");
    ended_with(one, 0, &["sends when there are 2", "1 has joined; sends from now on"]);
}

#[test]
fn who_is_in_a_minority_or_was_stopped_says_so() {
    let group = group_name();
    let mut members = found(&group, 3, &[]);
    let mut reading: Vec<Reading> = members.iter_mut().map(Member::read).collect();
    members[0].type_line("all are here");
    reading.iter_mut().for_each(|of| of.until("0\tall are here"));
    let signal = |member: &Member, name: &str| {
        let sent = Command::new("kill").args([name, &member.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    };
    signal(&members[2], "-STOP");
    // It is known to be gone when this comes.
    members[1].type_line("two are here");
    reading[0].until("1\ttwo are here");
    signal(&members[2], "-CONT");
    ended_with(members.pop().unwrap(), 3, &["EXPELLED", &format!("--group {group} --join")]);
    members[1].child.kill().unwrap();
    drop(members.pop().unwrap().end());
    ended_with(members.pop().unwrap(), 4, &["PARTITIONED", "of the members 0, 1"]);
}

/// Longer than the time to suspicion: who waits for its reader is alive.
#[test]
fn a_slow_reader_is_not_taken_for_dead() {
    let group = group_name();
    let mut members = found(&group, 2, &["--window", "256"]);
    let bytes = text(71, 60_000);
    members[0].feed(bytes.clone());
    let first = members[0].collect();
    let mut slow = members[1].read();
    slow.until(&String::from_utf8_lossy(lines_of(&bytes)[0]));
    std::thread::sleep(std::time::Duration::from_millis(2_500));
    drop(members[1].input.take());
    let second = slow.rest();
    let first = first.join().unwrap();
    for member in members {
        ended_with(member, 0, &[]);
    }
    assert!(first.starts_with(&second) || second.starts_with(&first));
    let longest = if first.len() > second.len() { &first } else { &second };
    assert!(lines_of_label(longest, "0").len() == lines_of(&bytes).len());
}

#[test]
fn wrong_use_says_what_is_right() {
    let refused = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_squall"))
            .arg("cat")
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(!output.status.success() && output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    };
    let text = refused(&["--group", "a/b", "--members", "2", "--rank", "0"]);
    assert!(text.contains("a/b") && text.contains("letters, digits"), "{text}");
    let text = refused(&["--group", "g", "--members", "2", "--rank", "2"]);
    assert!(text.contains("ranks are 0 to 1"), "{text}");
    let text = refused(&["--group", "g", "--members", "2", "--rank", "0", "--max-line", "x"]);
    assert!(text.contains("1MiB"), "{text}");
    let text = refused(&["--group", "g", "--members", "2"]);
    assert!(text.contains("--rank"), "{text}");
    let text = refused(&["--group", "g", "--join", "--rank", "1"]);
    assert!(text.contains("cannot be used with"), "{text}");
    let text = refused(&["--group", "g", "--members", "2", "--rank", "0", "--at-least", "2"]);
    assert!(text.contains("--views"), "{text}");
    for option in [["--timeout", "5"], ["--idle", "spin"], ["--window", "8"]] {
        let text = refused(&["--config", "g.toml", option[0], option[1]]);
        assert!(text.contains("cannot be used with") && text.contains(option[0]), "{text}");
    }
    let group = group_name();
    let text = refused(&["--group", &group, "--join", "--timeout", "0.1"]);
    assert!(text.contains("nobody is there to join") && text.contains("--views"), "{text}");
    let text = refused(&["--group", &group, "--members", "2", "--rank", "0", "--timeout", "0"]);
    assert!(text.contains("rank [1] did not arrive"), "{text}");
}
