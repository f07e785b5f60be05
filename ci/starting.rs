// SPDX-License-Identifier: MIT OR Apache-2.0
//! Starting members on several hosts, as README.md and `src/cli/starting.md` say it: their commands are
//! run as they are printed, with hosts that are network namespaces, and stand-ins for `ssh`, `scp`,
//! `srun` and `docker` that start processes in those. And the program's verbs across hosts: `perf`,
//! `stat`, `info`. Needs root and iproute2, else the tests say SKIPPED.

#[allow(dead_code, reason = "links are cut elsewhere")]
#[path = "hosts/net.rs"]
mod net;
mod support;

use net::{Net, skipped};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use support::{Arguments, Process, until};

const PAGE: &str = include_str!("../src/cli/starting.md");
const README: &str = include_str!("../README.md");
const SQUALL: &str = env!("CARGO_BIN_EXE_squall");
const NAMES: [&str; 3] = ["host-a", "host-b", "host-c"];

fn main() {
    support::main(
        &[
            ("the_quick_start_of_the_readme", the_quick_start_of_the_readme),
            ("a_loop_of_ssh", a_loop_of_ssh),
            ("a_job_of_slurm", a_job_of_slurm),
            ("a_unit_of_systemd", a_unit_of_systemd),
            ("containers_share_memory", containers_share_memory),
            ("perf_names_who_is_missing", perf_names_who_is_missing),
            ("perf_tells_of_another_members_end", perf_tells_of_another_members_end),
            ("stat_and_info_ask_other_hosts", stat_and_info_ask_other_hosts),
        ],
        &[("stranger", stranger)],
    );
}

/// Listens where a member should be: as one of a later wire version (`newer`), or says nothing.
fn stranger(arguments: &Arguments) {
    let listener = std::net::TcpListener::bind("0.0.0.0:7471").unwrap();
    println!("listens");
    let mut callers = Vec::new();
    for caller in listener.incoming() {
        let mut caller = caller.unwrap();
        if arguments.text("says") == Some("newer") {
            let mut opening =
                *b"SQUALL\x01\x01\x09\x00\x09\x00------------------------------------";
            opening[16..].fill(7);
            caller.write_all(&opening).unwrap();
        }
        callers.push(caller);
    }
}

/// The block of a page after a mark, without its fences.
fn block<'a>(page: &'a str, mark: &str) -> &'a str {
    let (_, rest) = page.split_once(mark).unwrap_or_else(|| panic!("no {mark}"));
    let (_, rest) = rest.split_once("```").expect("a block");
    let (_, rest) = rest.split_once('\n').expect("a block");
    rest.split_once("```").expect("its end").0
}

/// Hosts with names, each with a home folder; and where commands are that work on them.
struct Lab {
    net: Net,
    root: PathBuf,
}

impl Lab {
    fn new(hosts: usize) -> Option<Lab> {
        let net = Net::new(hosts)?;
        let spaces = net.hosts();
        let root = std::env::temp_dir().join(&spaces[0].0);
        let mut lines = String::from("127.0.0.1 localhost\n");
        for ((space, address), name) in spaces.iter().zip(NAMES) {
            lines.push_str(&format!("{address} {name}\n"));
            fs::create_dir_all(root.join(name)).unwrap();
            fs::write(root.join(format!("{name}.netns")), space).unwrap();
        }
        for (space, _) in &spaces {
            let etc = PathBuf::from("/etc/netns").join(space);
            fs::create_dir_all(&etc).unwrap();
            fs::write(etc.join("hosts"), &lines).unwrap(); // `ip netns exec` mounts it
        }
        fs::create_dir_all(root.join("bin")).unwrap();
        symlink(SQUALL, root.join("bin/squall")).unwrap();
        for (name, text) in [("ssh", SSH), ("scp", SCP), ("srun", SRUN), ("docker", DOCKER)] {
            write_program(&root.join("bin").join(name), text);
        }
        Some(Lab { net, root })
    }

    fn home(&self, host: usize) -> PathBuf {
        self.root.join(NAMES[host])
    }

    /// A command on a host, in its home, that finds the stand-ins and the program under test.
    fn on(&self, host: usize, line: &str) -> Command {
        let space = &self.net.hosts()[host].0;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", space, "bash", "-ec", line]);
        command.current_dir(self.home(host));
        self.set_up(&mut command);
        command
    }

    /// The same on a machine that is none of them.
    fn beside(&self, line: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-ec", line]).current_dir(&self.root);
        self.set_up(&mut command);
        command
    }

    fn set_up(&self, command: &mut Command) {
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.root.join("bin").display()));
        command.env("LAB", &self.root).env("SQUALL_OPEN_TIMEOUT", "40s");
        command.env("SQUALL_SUSPICION", "10s"); // a machine with other work
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    }

    /// Files for a group of so many members on these hosts: each with its own rank by environment.
    fn write_files(&self, founders: &[&str], more: &str) {
        let secret = self.root.join("demo.secret");
        let made = Command::new(SQUALL).arg("secret").arg(&secret).output().unwrap();
        assert!(made.status.success(), "{}", text_of(&made.stderr));
        let list: Vec<String> = founders.iter().map(|address| format!("{address:?}")).collect();
        let text = format!(
            "group = \"demo\"\nmembers = {}\nfabric = \"auto\"\n{more}[network]\nfounders = [{}]\n\
             secret_file = \"demo.secret\"\n",
            founders.len(),
            list.join(", ")
        );
        for home in (0..self.net.hosts().len()).map(|host| self.home(host)) {
            fs::write(home.join("demo.toml"), &text).unwrap();
            fs::copy(&secret, home.join("demo.secret")).unwrap();
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for (space, _) in self.net.hosts() {
            let _ = fs::remove_dir_all(Path::new("/etc/netns").join(space));
        }
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn write_program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

const SSH: &str = r#"#!/bin/bash
[ "$1" = -n ] || { echo "ssh: a job in the background would be stopped" >&2; exit 2; }
host=$2; shift 2
cd "$LAB/$host" && exec ip netns exec "$(cat "$LAB/$host.netns")" bash -c "$*"
"#;

const SCP: &str = r#"#!/bin/bash
[ "$1" = -pq ] || exit 2
shift
exec cp -p "${@:1:$#-1}" "$LAB/${!#%:}/"
"#;

/// Blocks of tasks, node by node; all in one folder, as on a cluster's file system.
const SRUN: &str = r#"#!/bin/bash
nodes=${1#--nodes=} each=${2#--ntasks-per-node=}; shift 2
hosts=(host-a host-b host-c); hosts=("${hosts[@]:0:nodes}")
export SLURM_NTASKS=$((nodes * each)) SLURM_STEP_TASKS_PER_NODE="$each(x$nodes)"
export SLURM_STEP_NODELIST=$(IFS=,; echo "${hosts[*]}")
rank=0
for host in "${hosts[@]}"; do for ((task = 0; task < each; task++)); do
  SLURM_PROCID=$rank SLURM_NODEID=$((rank / each)) SLURM_LOCALID=$task ip netns exec "$(cat "$LAB/$host.netns")" "$@" & pids+=($!)
  rank=$((rank + 1))
done; done
worst=0
for pid in "${pids[@]}"; do wait "$pid" || worst=$?; done
exit $worst
"#;

/// Namespaces of its own but for the network and the users, as `docker run --network host`.
const DOCKER: &str = r#"#!/bin/bash
[ "$1" = run ] || exit 2
shift
environment=()
while :; do case "$1" in
  --rm | -i) shift ;;
  --network) [ "$2" = host ] || exit 2; shift 2 ;;
  --user) [ "$2" = "$(id -u)" ] || exit 2; shift 2 ;;
  -v) IFS=: read -r from to _ <<< "$2"; shift 2 ;;
  -w) folder=$2; shift 2 ;;
  -e) environment+=("$2"); shift 2 ;;
  squall) shift; break ;; # the image, whose entry point is the program
  *) echo "docker: $1?" >&2; exit 2 ;;
esac; done
exec unshare --pid --fork --kill-child --mount-proc --ipc --uts --mount bash -c \
  'mount --bind "$1" "$2" && mount -o remount,ro,bind "$2" && cd "$3" && shift 3 && exec env "$@"' \
  bash "$from" "$to" "$folder" "${environment[@]}" squall "$@"
"#;

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn done(mut command: Command) -> Output {
    command.output().expect("the command starts")
}

fn done_well(command: Command) -> String {
    let output = done(command);
    let errors = text_of(&output.stderr);
    assert!(output.status.success(), "{}: {} {errors}", output.status, text_of(&output.stdout));
    text_of(&output.stdout)
}

fn json_of(command: Command) -> Value {
    serde_json::from_str(&done_well(command)).expect("standard output is one JSON value")
}

/// A process that is killed at the latest when it is dropped, with what it has started.
struct Started(Child);

impl Started {
    /// `input`: its standard input stays open.
    fn new(mut command: Command, input: bool) -> Started {
        use std::os::unix::process::CommandExt;
        if input {
            command.stdin(Stdio::piped());
        }
        Started(command.process_group(0).spawn().expect("it starts"))
    }

    fn end(mut self) -> Output {
        drop(self.0.stdin.take());
        let mut output =
            Output { status: Default::default(), stdout: Vec::new(), stderr: Vec::new() };
        let mut pipe = self.0.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = std::io::Read::read_to_end(&mut pipe, &mut text);
            text
        });
        std::io::Read::read_to_end(&mut self.0.stdout.take().unwrap(), &mut output.stdout).unwrap();
        output.stderr = errors.join().unwrap();
        output.status = self.0.wait().unwrap();
        output
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let group = rustix::process::Pid::from_raw(self.0.id() as i32).unwrap();
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            let _ = self.0.wait();
        }
    }
}

fn positive(value: &Value, path: &str) {
    let found = value.pointer(path).and_then(Value::as_f64);
    assert!(found.is_some_and(|found| found > 0.0), "{path} is {found:?}: {value}");
}

/// In two namespaces with the addresses that it names, both members' lines come out at both.
fn the_quick_start_of_the_readme() -> String {
    let Some(lab) = Lab::new(2) else { return skipped() };
    for (host, (space, _)) in lab.net.hosts().iter().enumerate() {
        let line = format!("-n {space} addr add 10.0.0.{}/24 dev eth0", host + 1);
        assert!(Command::new("ip").args(line.split(' ')).status().unwrap().success());
    }
    let text = block(README, "Across hosts");
    let first = lab.on(0, text);
    let first = Started::new(first, true);
    let (secret, file) = (lab.home(0).join("demo.secret"), lab.home(0).join("demo.toml"));
    until("the secret is made", || secret.exists() && file.exists());
    fs::copy(&secret, lab.home(1).join("demo.secret")).unwrap(); // "copy it to the other host"
    let rest = text.lines().filter(|line| !line.starts_with("squall secret"));
    let rest = rest.collect::<Vec<_>>().join("\n");
    // Who forgets its rank there is rank 0, too, and waits for itself.
    let forgets = format!("{}\nSQUALL_OPEN_TIMEOUT=100ms squall cat --config demo.toml", rest);
    let forgets = forgets.replacen("squall cat --config demo.toml ", "true ", 1);
    let output = done(lab.on(1, &forgets));
    let (text, errors) = (text_of(&output.stdout), text_of(&output.stderr));
    let hint = "10.0.0.2:7471, which is, is rank 1's: is it that one (SQUALL_RANK=1";
    assert!(
        !output.status.success() && errors.contains(hint) && text.contains(hint),
        "{text}{errors}"
    );
    let mut second = lab.on(1, &rest);
    let second = Started::new(
        {
            second.env("SQUALL_RANK", "1");
            second
        },
        true,
    );
    let mut both = [first, second];
    for (at, member) in both.iter_mut().enumerate() {
        let mut input = member.0.stdin.as_ref().unwrap();
        writeln!(input, "from {at}").unwrap();
    }
    // A member whose input ends leaves when all have its lines; so both are waited for at once.
    let outputs = both.map(|member| std::thread::spawn(move || member.end())).map(|of| of.join());
    let mut words = String::new();
    for output in outputs.map(Result::unwrap) {
        assert!(output.status.success(), "{}", text_of(&output.stderr));
        words.push_str(&text_of(&output.stdout));
    }
    assert!(words.contains("0\tfrom 0\n") && words.contains("1\tfrom 1\n"), "{words}");
    "both members' lines".into()
}

fn a_loop_of_ssh() -> String {
    let Some(lab) = Lab::new(2) else { return skipped() };
    let text = done_well(lab.beside(block(PAGE, "<!-- try: ssh -->")));
    for words in ["host-a:7471", "host-b:7471", "TCP round trip", "TCP stream", "no violation"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let other = fs::read_to_string(lab.root.join("host-b.out")).unwrap();
    assert!(other.contains("rank 0 prints the results"), "{other}");
    "measured, four tests".into()
}

fn a_job_of_slurm() -> String {
    let Some(lab) = Lab::new(2) else { return skipped() };
    let script =
        block(PAGE, "<!-- try: slurm -->").replace("demo.toml rate", "demo.toml rate --json");
    let value: Value = serde_json::from_str(&done_well(lab.beside(&script))).unwrap();
    let members = value["members"].as_array().unwrap();
    let addresses: Vec<&str> = members.iter().map(|of| of["address"].as_str().unwrap()).collect();
    assert_eq!(addresses, ["host-a:7471", "host-a:7472", "host-b:7471", "host-b:7472"]);
    assert_eq!(members[0]["network"], members[1]["network"]);
    assert_ne!(members[0]["network"], members[2]["network"]);
    let test = &value["tests"][0];
    for path in ["/ratio", "/floor/messages_per_second", "/verified/messages"] {
        positive(test, path);
    }
    let hashes = test["members"].as_array().unwrap();
    assert!(hashes.iter().all(|of| of["hash"] == hashes[0]["hash"]) && hashes.len() == 4);
    // Outside of the job nobody says rank and addresses.
    let text = done_well(lab.beside("squall config --check demo.toml"));
    assert!(text.contains("as its job step says"), "{text}");
    let stat = |at: &str| {
        let line = format!("cd \"$LAB\"; squall stat --config demo.toml {at}");
        text_of(&done(lab.on(0, &line)).stderr)
    };
    assert!(stat("").contains("--at NODE:7471"), "{}", stat(""));
    let why = stat("--at host-b:7471");
    assert!(why.contains("no member of group demo answers: at 10.77.0.2:7471: nobody"), "{why}");
    "four tasks on two nodes".into()
}

/// The unit is one by systemd's own word; and its script founds, and joins again after a death.
fn a_unit_of_systemd() -> String {
    let Some(lab) = Lab::new(3) else { return skipped() };
    let log = |host: usize| lab.home(host).join("demo.log");
    let made = Command::new(SQUALL).arg("secret").arg(lab.root.join("demo.secret")).output();
    assert!(made.unwrap().status.success());
    for program in ["useradd", "systemctl"] {
        write_program(&lab.root.join("bin").join(program), "#!/bin/sh\n");
    }
    // What the page says is put where it says, but below the host's home, by root.
    let place = |text: &str, host: usize| {
        let mut text = text.replace("-o squall", "").replace("\"5s\"", "\"2s\"");
        for folder in ["/etc/", "/usr/local/bin", "/var/log/demo.log"] {
            let name = folder.replace("/var/log/", "/");
            text = text.replace(folder, &format!("{}{name}", lab.home(host).display()));
        }
        text
    };
    for host in 0..3 {
        fs::write(log(host), "").unwrap();
        fs::copy(lab.root.join("demo.secret"), lab.home(host).join("demo.secret")).unwrap();
        for folder in ["usr/local/bin", "etc/systemd/system"] {
            fs::create_dir_all(lab.home(host).join(folder)).unwrap();
        }
        for name in ["demo.toml", "join.toml", "squall-demo", "squall-demo.service"] {
            let text = block(PAGE, &format!("<!-- file: {name} -->"));
            fs::write(lab.home(host).join(name), place(text, host)).unwrap();
        }
        let install =
            block(PAGE, "<!-- try: systemd -->").replace("RANK=0", &format!("RANK={host}"));
        done_well(lab.on(host, &place(&install, host)));
    }
    let unit = block(PAGE, "<!-- file: squall-demo.service -->");
    let verified = verify(&lab, unit);
    // `Restart=always`
    let member = |host: usize| {
        let mut command = lab.on(
            host,
            "set -a; . etc/squall/demo.env; set +a
                          while :; do usr/local/bin/squall-demo || sleep 0.1; done >> out 2>> err",
        );
        command.env_remove("SQUALL_OPEN_TIMEOUT");
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Started::new(command, false)
    };
    let _members: Vec<Started> = (0..3).map(member).collect();
    let said = |host: usize, what: &str, line: &str| {
        let file = lab.home(host).join(what);
        fs::read_to_string(file).unwrap_or_default().contains(line)
    };
    let write = |host: usize, line: &str| {
        let mut file = fs::OpenOptions::new().append(true).open(log(host)).unwrap();
        writeln!(file, "{line}").unwrap();
    };
    until("the group is founded", || (0..3).all(|host| said(host, "err", "members 0, 1, 2")));
    write(0, "one");
    until("all have the line", || (0..3).all(|host| said(host, "out", "0\tone")));
    let pid = pids_in(&lab.net.hosts()[2].0, "demo.toml")[0];
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    until("it is found out", || (0..2).all(|host| said(host, "err", "view 2")));
    until("it joins again", || (0..3).all(|host| said(host, "err", "view 3")));
    write(1, "two");
    until("all have the line", || (0..3).all(|host| said(host, "out", "1\ttwo")));
    format!("{verified}; founded by its script, killed, joined again")
}

fn verify(lab: &Lab, unit: &str) -> String {
    let file = lab.root.join("squall-demo.service");
    let program = lab.home(0).join("usr/local/bin/squall-demo");
    let unit = unit.replace("/usr/local/bin/squall-demo", &program.display().to_string());
    fs::write(&file, unit.replace("User=squall\n", "User=root\n")).unwrap();
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no"]).arg(&file);
    match command.output() {
        Ok(output) => {
            let errors = text_of(&output.stderr);
            let about = errors.lines().filter(|line| line.contains("squall-demo"));
            let about: Vec<&str> = about.collect();
            assert!(about.is_empty(), "{about:?}");
            "systemd-analyze verify is content".into()
        }
        Err(_) => "no systemd-analyze here".into(),
    }
}

/// Processes of a namespace whose command line ends so.
fn pids_in(space: &str, end: &str) -> Vec<u32> {
    let output = Command::new("ip").args(["netns", "pids", space]).output().unwrap();
    let pids = text_of(&output.stdout);
    let pids = pids.lines().filter_map(|line| line.trim().parse::<u32>().ok());
    let is = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = text_of(&line).replace('\0', " ");
        line.contains("squall cat") && line.trim_end().ends_with(end)
    };
    pids.filter(is).collect()
}

fn containers_share_memory() -> String {
    let Some(lab) = Lab::new(2) else { return skipped() };
    lab.write_files(&["host-a:7471", "host-a:7472", "host-b:7471"], "suspicion = \"10s\"\n");
    let line = block(PAGE, "<!-- try: container -->");
    let start = |rank: usize| {
        let line = format!("rank={rank}\n{line}");
        Started::new(lab.on(rank / 2, &line), true)
    };
    let members: Vec<Started> = (0..3).map(start).collect();
    let stat = || lab.on(0, "squall stat demo --json");
    let mut value = Value::Null;
    until("all three have met", || {
        let output = done(stat());
        value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        value["members"].as_array().is_some_and(|all| all.len() == 3)
    });
    let peers = value["members"][0]["peers"].as_array().unwrap();
    assert_eq!(
        (peers[0]["rank"].as_u64(), peers[0]["by"].as_str()),
        (Some(1), Some("shm")),
        "{value}"
    );
    assert_eq!(
        (peers[1]["rank"].as_u64(), peers[1]["by"].as_str()),
        (Some(2), Some("tcp")),
        "{value}"
    );
    assert_eq!(value["members"][0]["state"], "runs");
    let errors: String = members.into_iter().map(|one| text_of(&one.end().stderr)).collect();
    assert!(!errors.contains("refused a caller"), "that is no trouble: {errors}");
    "two on one host by shared memory, the third by TCP".into()
}

fn perf_names_who_is_missing() -> String {
    let Some(lab) = Lab::new(2) else { return skipped() };
    lab.write_files(&["host-a:7471", "host-b:7471"], "");
    let mut alone = lab.on(0, "squall perf --config demo.toml lat");
    alone.env("SQUALL_OPEN_TIMEOUT", "2500ms");
    let output = done(alone);
    let errors = text_of(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("waiting for rank 1 (host-b:7471)"), "{errors}");
    assert!(errors.contains("rank 1 (host-b:7471) did not arrive within 2.5 s"), "{errors}");
    assert!(output.stdout.is_empty());
    let mut alone = lab.on(1, "squall perf --config demo.toml lat");
    alone.env("SQUALL_OPEN_TIMEOUT", "500ms").env("SQUALL_RANK", "1");
    let errors = text_of(&done(alone).stderr);
    assert!(errors.contains("rank 0 (host-a:7471)") && errors.contains("refused"), "{errors}");
    let cases = [
        ("squall perf --config demo.toml rate --rank 1 --group g", "the file says it"),
        ("squall perf --config demo.toml failover", "only for lat, rate, bw and the tour"),
        ("SQUALL_FABRIC=shm squall perf --config demo.toml", "fabric"),
    ];
    for (line, words) in cases {
        let output = done(lab.on(0, line));
        let errors = text_of(&output.stderr);
        assert!(!output.status.success() && errors.contains(words), "{line}: {errors}");
    }
    "named, with the address".into()
}

fn perf_tells_of_another_members_end() -> String {
    let Some(lab) = Lab::new(2) else { return skipped() };
    lab.write_files(&["host-a:7471", "host-b:7471"], "");
    let both = |options: [&str; 2]| {
        let start = |rank: usize| {
            let line =
                format!("SQUALL_RANK={rank} exec squall perf --config demo.toml {}", options[rank]);
            Started::new(lab.on(rank, &line), false)
        };
        [start(0), start(1)]
    };
    let ended = |members: [Started; 2]| {
        let ends = members.map(|of| std::thread::spawn(|| of.end())).map(|of| of.join().unwrap());
        assert!(ends.iter().all(|of| of.status.code() == Some(1)), "{ends:?}");
        assert!(ends.iter().all(|of| of.stdout.is_empty()), "no figures from a run that failed");
        ends.map(|of| text_of(&of.stderr))
    };
    // A fault that rank 1 finds in what rank 0 sends.
    let planted = "rate --seconds 1 --plant payload";
    let said = ended(both([planted, planted]));
    assert!(said.iter().all(|errors| errors.contains("VIOLATION")), "{said:?}");
    // Not the same options.
    let said = ended(both(["lat --seconds 1", "lat --seconds 2"]));
    let differs =
        |errors: &String| errors.contains("`seconds` is") && errors.contains("same options");
    assert!(said.iter().any(differs), "{said:?}");
    // Nor the same test: then they do not even meet.
    let [first, second] = both(["lat --seconds 1", "rate --seconds 1"]);
    let errors = text_of(&second.end().stderr);
    drop(first);
    assert!(errors.contains("may_send") && errors.contains("same test and options"), "{errors}");
    // The port of the floor is taken, by the group itself.
    let options = "lat --seconds 0.1 --json --floor-port 7471";
    let [first, second] = both([options, options]);
    let (first, second) = (std::thread::spawn(|| first.end()), second.end());
    let first = first.join().unwrap();
    assert!(first.status.success() && second.status.success(), "{first:?} {second:?}");
    let value: Value = serde_json::from_slice(&first.stdout).unwrap();
    let why = value["tests"][0]["floor"]["missing"].as_str().unwrap_or_default();
    assert!(why.contains("7471") && value["tests"][0]["ratio"].is_null(), "{value}");
    // A member that dies.
    let members = both(["rate --seconds 60", "rate --seconds 60"]);
    let member = |host: usize| {
        let output = done(lab.on(host, "squall stat demo --json"));
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or(Value::Null)
    };
    until("messages flow", || {
        member(0)["members"][0]["subgroups"][0]["messages"].as_u64().unwrap_or(0) > 1000
    });
    let pid = member(1)["members"]
        .as_array()
        .unwrap()
        .iter()
        .find_map(|of| of["pid"].as_u64().filter(|pid| *pid > 0));
    let pid = rustix::process::Pid::from_raw(pid.unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let [first, second] = members;
    drop(second);
    let output = first.end();
    let errors = text_of(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("error: ") && output.stdout.is_empty(), "{errors}");
    assert!(
        errors.contains("rank 1 (host-b:7471)") || errors.contains("cannot be reached"),
        "{errors}"
    );
    errors.lines().last().unwrap_or_default().into()
}

fn stat_and_info_ask_other_hosts() -> String {
    let Some(lab) = Lab::new(3) else { return skipped() };
    lab.write_files(&["host-a:7471", "host-a:7472", "host-b:7471"], "");
    let start = |rank: usize| {
        let line = format!("SQUALL_RANK={rank} exec squall cat --config demo.toml");
        Started::new(lab.on(rank / 2, &line), true)
    };
    let members: Vec<Started> = (0..3).map(start).collect();
    // From a host that has no member: it holds the secret, though.
    let mut value = Value::Null;
    until("all three answer", || {
        let output = done(lab.on(2, "squall stat --config demo.toml --at host-b:7471 --json"));
        value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        // A page tells of turns from the first on.
        let runs = |of: &Value| of["state"] == "runs" && of["turns"].as_u64() > Some(0);
        let run = |all: &Vec<Value>| all.len() == 3 && all.iter().all(runs);
        value["members"].as_array().is_some_and(run)
    });
    let all = value["members"].as_array().unwrap();
    assert_eq!(all.len(), 3);
    assert_eq!(all[2]["address"], format!("{}:7471", lab.net.hosts()[1].1));
    let by = |at: usize, of: usize| all[at]["peers"][of]["by"].as_str().unwrap();
    assert_eq!([by(0, 0), by(0, 1), by(2, 0), by(2, 1)], ["shm", "tcp", "tcp", "tcp"], "{value}");
    positive(&all[2], "/turns");
    let text = done_well(lab.on(0, "squall stat demo"));
    let other = format!("rank 2: on another host ({})", lab.net.hosts()[1].1);
    assert!(text.contains(&other) && text.contains("connections"), "{text}");
    let info = |host: usize, line: &str| {
        let value = json_of(lab.on(host, &format!("{line} squall info --json --config demo.toml")));
        let lines = value.as_array().unwrap().iter();
        let text = |of: &Value| {
            ["name", "state", "found", "remedy"]
                .map(|key| of[key].as_str().unwrap().to_string())
                .join("|")
        };
        lines.map(text).collect::<Vec<_>>()
    };
    let has = |lines: &[String], words: [&str; 3]| {
        let line = |line: &&String| words.iter().all(|word| line.contains(word));
        assert!(lines.iter().any(|of| line(&of)), "{words:?}: {lines:#?}");
    };
    let lines = info(2, "");
    has(&lines, ["interfaces|ok", &lab.net.hosts()[2].1, "MTU 1500"]);
    has(&lines, ["rank 2|ok|host-b:7471 is", &lab.net.hosts()[1].1, ""]);
    has(&lines, ["rank 1|ok", "connected in", "a member answers"]);
    has(&lines, ["listens|ok", "*:7471: free", ""]);
    let other = Command::new(SQUALL).arg("secret").arg(lab.home(2).join("other")).output().unwrap();
    assert!(other.status.success());
    has(
        &info(2, "SQUALL_NETWORK__SECRET_FILE=other"),
        ["rank 2|lack", "another secret", "sha256sum"],
    );
    has(&info(2, "SQUALL_GROUP=else"), ["rank 2|lack", "another group", "`demo`"]);
    has(&info(2, "SQUALL_SUBGROUP__0__WINDOW=7"), ["rank 2|lack", "refuses", "window"]);
    let trusts = "sed -i /secret/d demo.toml; SQUALL_NETWORK__TRUSTED_NETWORK=true";
    has(&info(2, trusts), ["rank 2|lack", "one side has a secret", "trusted_network"]);
    drop(members);
    has(&info(0, ""), ["rank 2|note", "no member listens", "is the member started"]);
    let space = lab.net.hosts()[1].0.clone();
    for (says, words) in [("newer", "another wire version"), ("nothing", "says nothing")] {
        let mut stranger = Process::start_in(Some(&space), "stranger", &[("says", &says)]);
        stranger.expect("listens");
        has(&info(0, ""), ["rank 2|lack", words, ""]);
    }
    lab.net.cut(1);
    has(&info(0, ""), ["rank 2|lack", "10.77.0.2:7471", "firewall"]);
    "seen from a third host; eight troubles told apart".into()
}
