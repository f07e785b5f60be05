// SPDX-License-Identifier: MIT OR Apache-2.0
//! A member that sends from a thread per lane, checks and hashes what it delivers, and obeys a few
//! commands; and what a test asks of such members.

use super::*;

/// The configuration that a role's arguments ask for.
pub fn config(arguments: &Arguments) -> Config {
    let mut config = Config::new(
        arguments.text("group").unwrap(),
        arguments.or("rank", 0),
        arguments.or("members", 3),
    );
    let lanes = arguments.or("lanes", 1);
    let one = SubgroupConfig {
        lanes,
        window: arguments.or("window", 256),
        window_bytes: arguments.or("window_bytes", 0),
        message_bytes_max: arguments.or("largest", 1024),
        ..SubgroupConfig::default()
    };
    config.subgroups = vec![one.clone()];
    if arguments.or("many", false) {
        let of =
            |members: &[u16], senders: Option<&[u16]>, mode: Mode, window: u32| SubgroupConfig {
                members: members.to_vec(),
                senders: senders.map(<[u16]>::to_vec),
                mode,
                window,
                ..one.clone()
            };
        if !arguments.or("together", false) {
            config.subgroups.push(of(&[0, 1], None, Mode::Stable, 7));
        }
        config.subgroups.push(of(&[], Some(&[1]), Mode::Stable, 64));
        config.subgroups.push(of(&[], None, Mode::Received, 100));
        config.subgroups.push(of(&[1, 2], Some(&[2]), Mode::Received, 1));
    }
    config.idle = match arguments.text("idle") {
        Some("spin") => Idle::Spin,
        Some("yield") => Idle::Yield,
        _ => Idle::Park,
    };
    let want = |key: &str| match arguments.text(key) {
        Some("require") => Want::Require,
        Some("try") => Want::Try,
        _ => Want::No,
    };
    (config.lock, config.huge) = (want("lock"), want("huge"));
    config.open_timeout = Duration::from_millis(arguments.or("timeout_ms", 60_000));
    let text = |key: &str| arguments.text(key).unwrap_or_default();
    let users = text("peers_users").split(',').filter(|user| !user.is_empty());
    config.peers.users = users.map(String::from).collect();
    config.peers.group = text("peers_group").into();
    config.peers.directory = text("directory").into();
    config
}

/// What a message says: who sent it, its place in that lane, and filler that follows from both.
pub fn content(rank: u16, lane: u16, ordinal: u64, into: &mut Vec<u8>) {
    into.clear();
    let key = u64::from(rank) << 56 | u64::from(lane) << 48 | ordinal;
    into.extend_from_slice(&key.to_le_bytes());
    let mut numbers = Numbers(key);
    let more = numbers.below(if ordinal % 50 == 0 { 900 } else { 90 });
    into.extend((0..more).map(|at| (key.wrapping_mul(31).wrapping_add(at * 7) >> 3) as u8));
}

/// What a subgroup has delivered here.
#[derive(Clone)]
pub struct Heard {
    pub mode: Mode,
    pub count: u64,
    /// Over the whole order; in *received* mode by sender, since only that is one order.
    pub hash: u64,
    pub by_sender: BTreeMap<(u16, u16), (u64, u64)>,
    /// In subgroup 0: the hash after each message.
    pub history: Vec<u64>,
}

/// FNV-1a.
pub fn hash_of(mut hash: u64, bytes: &[u8]) -> u64 {
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    }
    hash
}

pub struct Listener {
    pub heard: Vec<Heard>,
    /// A rank whose messages may be anything.
    pub distrusted: Option<u16>,
    pub trouble: Option<String>,
    pub ended: Option<(Status, Option<Suspicion>)>,
    pub progress_every: u64,
    pub expected: Vec<u8>,
}

#[derive(Clone)]
pub struct Shared(Arc<Mutex<Listener>>);

impl Shared {
    pub fn new(config: &Config, arguments: &Arguments) -> Shared {
        let heard = |subgroup: &SubgroupConfig| Heard {
            mode: subgroup.mode,
            count: 0,
            hash: 0xcbf2_9ce4_8422_2325,
            by_sender: BTreeMap::new(),
            history: Vec::new(),
        };
        Shared(Arc::new(Mutex::new(Listener {
            heard: config.subgroups.iter().map(heard).collect(),
            distrusted: arguments.get("distrusted"),
            trouble: None,
            ended: None,
            progress_every: arguments.or("progress", u64::MAX),
            expected: Vec::new(),
        })))
    }

    pub fn lock(&self) -> MutexGuard<'_, Listener> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Application for Shared {
    fn deliver(&mut self, subgroup: u16, batch: &[Message]) {
        let listener = &mut *self.lock();
        for message in batch {
            let heard = &mut listener.heard[usize::from(subgroup)];
            heard.count += 1;
            let sender = heard.by_sender.entry((message.rank, message.lane.into()));
            let (count, own_hash) = sender.or_insert((0, 0xcbf2_9ce4_8422_2325));
            if listener.distrusted != Some(message.rank) {
                content(message.rank, message.lane.into(), *count, &mut listener.expected);
                if message.bytes() != listener.expected {
                    let (rank, lane) = (message.rank, u16::from(message.lane));
                    listener.trouble = Some(format!(
                        "message {count} of rank {rank}, lane {lane}, subgroup {subgroup} is {:?}",
                        message.bytes()
                    ));
                }
                *own_hash = hash_of(*own_hash, message.bytes());
                heard.hash = hash_of(heard.hash, message.bytes());
            }
            *count += 1;
            if subgroup == 0 {
                heard.history.push(heard.hash);
                if heard.count % listener.progress_every == 0 {
                    println!("progress {} {:016x}", heard.count, heard.hash);
                }
            }
        }
    }

    fn stopped(&mut self, status: Status, suspicion: Option<Suspicion>) {
        self.lock().ended = Some((status, suspicion));
    }
}

impl Heard {
    pub fn text(&self) -> String {
        let hash = match self.mode {
            Mode::Stable => self.hash,
            Mode::Received => self.by_sender.iter().fold(0, |hash, (sender, (count, own))| {
                hash_of(hash, format!("{sender:?} {count} {own}").as_bytes())
            }),
        };
        format!("{}:{hash:016x}", self.count)
    }
}

/// Sends messages of a lane until all are sent, or the group has stopped, or someone says so.
pub fn produce(mut sender: Sender, rank: u16, lane: u16, count: u64, stop: &AtomicBool) {
    let mut bytes = Vec::new();
    for ordinal in 0..count {
        content(rank, lane, ordinal, &mut bytes);
        loop {
            match sender.send(&bytes) {
                Ok(at) => break assert_eq!(at, ordinal),
                Err(Status::Again) if !stop.load(Ordering::Relaxed) => std::thread::yield_now(),
                Err(_) => return,
            }
        }
    }
}

/// Opens a group, sends from a thread per lane, delivers until all is there or the group stops.
pub struct Member {
    pub group: Group,
    pub shared: Shared,
    pub threads: Vec<std::thread::JoinHandle<()>>,
    pub stop: Arc<AtomicBool>,
    pub expected: Vec<u64>,
    pub idle: Idle,
}

impl Member {
    pub fn open(config: &Config, arguments: &Arguments, count: u64) -> Member {
        let shared = Shared::new(config, arguments);
        let mut group = match Group::open(config, Box::new(shared.clone())) {
            Ok(group) => group,
            Err(error) => {
                println!("error {:?}: {error}", error.status);
                std::process::exit(3);
            }
        };
        println!("open {}", std::process::id());
        let stop = Arc::new(AtomicBool::new(false));
        let (mut threads, mut expected) = (Vec::new(), Vec::new());
        for (at, subgroup) in config.subgroups.iter().enumerate() {
            let all: Vec<u16> = (0..config.members).collect();
            let members = if subgroup.members.is_empty() { &all } else { &subgroup.members };
            let senders = subgroup.senders.as_ref().unwrap_or(members).len() as u64;
            let mine = members.contains(&config.rank);
            let total = senders.saturating_mul(u64::from(subgroup.lanes)).saturating_mul(count);
            expected.push(if mine { total } else { 0 });
            for lane in 0..subgroup.lanes {
                let Some(sender) = group.sender(at as u16, lane) else { continue };
                let (rank, stop) = (config.rank, stop.clone());
                let work = move || produce(sender, rank, lane, count, &stop);
                threads.push(std::thread::spawn(work));
            }
        }
        Member { group, shared, threads, stop, expected, idle: config.idle }
    }

    pub fn over(&self) -> bool {
        let listener = self.shared.lock();
        if let Some(trouble) = &listener.trouble {
            panic!("{trouble}");
        }
        listener.heard.iter().zip(&self.expected).all(|(heard, expected)| heard.count >= *expected)
    }

    /// One round; `Err` once the group has stopped.
    pub fn turn(&mut self, pace: &mut Pace) -> Result<u32, Status> {
        let turn = self.group.turn(u32::MAX)?;
        if turn.busy {
            pace.busy();
        } else if pace.quiet() {
            pace.busy();
            // If it has stopped meanwhile, the next turn says so.
            let _ = self.group.wait(None);
        }
        Ok(turn.delivered)
    }

    /// Until everything is delivered, or the group has stopped.
    pub fn run(&mut self) -> Status {
        let mut pace = Pace::new(self.idle);
        loop {
            if self.over() {
                return Status::Ok;
            }
            match self.turn(&mut pace) {
                Ok(_) => {}
                Err(status) => return status,
            }
        }
    }

    pub fn tell(&self, what: &str, status: Status) {
        let listener = self.shared.lock();
        let heard: Vec<String> = listener.heard.iter().map(Heard::text).collect();
        let suspicion = match listener.ended {
            Some((_, Some(Suspicion { rank, fault }))) => format!("rank={} {fault}", rank.0),
            _ => String::new(),
        };
        println!("{what} {status:?} heard={} {suspicion}", heard.join(","));
    }

    /// Ends the producers and leaves in good order.
    pub fn close(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.group.close();
    }
}

pub fn commands() -> impl Iterator<Item = String> {
    std::io::stdin().lock().lines().map_while(Result::ok)
}

/// A member that sends and delivers. With `reopen`: once the group has lost a member, it opens the
/// next one of the same name at once.
pub fn stream(arguments: &Arguments) {
    support_notes();
    confine(arguments);
    for _ in 1..arguments.or("repeat", 1) {
        let mut member = Member::open(&config(arguments), arguments, 500);
        let status = member.run();
        member.tell("repeated", status);
        // Nobody leaves before all are through, nor comes back before all have left.
        assert_eq!(commands().next().as_deref(), Some("close"));
        member.close();
        println!("closed");
        assert_eq!(commands().next().as_deref(), Some("next"));
    }
    let config = config(arguments);
    let count = arguments.or("count", u64::MAX >> 16);
    let mut member = Member::open(&config, arguments, count);
    if arguments.or("fork", false) {
        leave_an_orphan();
    }
    let status = member.run();
    let history = std::mem::take(&mut member.shared.lock().heard[0].history);
    if status != Status::Ok && arguments.or("reopen", false) {
        let first = member.shared.clone();
        let text = Member::close_for(member);
        println!("{text}");
        drop(first);
        member = Member::open(&config, arguments, 2_000);
        let status = member.run();
        member.tell("done", status);
    } else {
        member.tell("done", status);
    }
    let (tell, told) = channel();
    std::thread::spawn(move || commands().for_each(|command| drop(tell.send(command))));
    loop {
        let command = match told.try_recv() {
            Ok(command) => command,
            Err(TryRecvError::Disconnected) => break,
            // It stays a good member until it is told to leave: others may need it.
            Err(TryRecvError::Empty) => {
                let soon = Some(Duration::from_millis(2));
                let stopped = member.group.turn(u32::MAX).and_then(|_| member.group.wait(soon));
                match stopped {
                    Ok(()) => continue,
                    Err(_) => match told.recv() {
                        Ok(command) => command,
                        Err(_) => break,
                    },
                }
            }
        };
        let Some(("at", count)) = command.split_once(' ') else { break };
        let count: usize = count.parse().unwrap();
        let hash = count.checked_sub(1).and_then(|at| history.get(at));
        println!("hash {:016x}", hash.copied().unwrap_or(0));
    }
    member.close();
}

impl Member {
    /// Closes a group that has stopped; what `tell` would say.
    pub fn close_for(self) -> String {
        let shared = self.shared.clone();
        self.close();
        let listener = shared.lock();
        let heard: Vec<String> = listener.heard.iter().map(Heard::text).collect();
        let Some((status, Some(suspicion))) = listener.ended else {
            return format!("stopped {:?}", listener.ended);
        };
        let (rank, fault) = (suspicion.rank.0, suspicion.fault);
        format!("stopped {status:?} heard={} rank={rank} {fault}", heard.join(","))
    }
}

/// Takes from this process what the arguments say: limits, and the user.
pub fn confine(arguments: &Arguments) {
    for (key, resource) in [
        ("memlock", Resource::Memlock),
        ("nofile", Resource::Nofile),
        ("fsize", Resource::Fsize),
        ("as", Resource::As),
    ] {
        if let Some(limit) = arguments.get(key) {
            let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
            setrlimit(resource, limit).unwrap();
        }
    }
    if arguments.or("netns", false) {
        // SAFETY: a system call on flags; this process has one thread.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
    }
    if let Some(id) = arguments.get("uid") {
        let gid = rustix::process::Gid::from_raw(arguments.or("gid", id));
        let uid = rustix::process::Uid::from_raw(id);
        let further = rustix::process::Gid::from_raw(arguments.or("groups", id));
        rustix::thread::set_thread_groups(&[further]).unwrap();
        rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
    }
    // SAFETY: as above.
    if arguments.or("userns", false) && unsafe { libc::unshare(libc::CLONE_NEWUSER) } != 0 {
        println!("SKIPPED: no user namespaces: {}", std::io::Error::last_os_error());
        std::process::exit(0);
    }
}

/// Prints what the library says.
pub fn support_notes() {
    squall::log_sink::set(Some(Box::new(|level, text| println!("note {level:?} {text}"))));
}

// What a test asks of members.

/// `heard=` of a `done` line, after a good end.
pub fn heard_of(line: &str) -> String {
    let rest = line.strip_prefix("Ok heard=").unwrap_or_else(|| panic!("{line}"));
    rest.trim().to_string()
}

/// Arguments of a role.
pub type Options<'a> = [(&'a str, &'a dyn std::fmt::Display)];

/// Starts members of a group, by rank.
pub fn starts(group: &str, members: u16, more: &Options<'_>) -> impl Fn(u16) -> Process + use<> {
    let mut all = vec![("group".to_string(), group.to_string())];
    all.push(("members".into(), members.to_string()));
    all.extend(more.iter().map(|(key, value)| (key.to_string(), value.to_string())));
    move |rank: u16| {
        let mut options: Vec<(&str, &dyn std::fmt::Display)> = vec![("rank", &rank)];
        options.extend(all.iter().map(|(key, value)| (key.as_str(), value as _)));
        Process::start("stream", &options)
    }
}

/// Waits for `done` of all, which must have heard the same; then lets them leave.
pub fn all_agree(mut members: Vec<Process>) -> String {
    let heard: Vec<String> =
        members.iter_mut().map(|member| heard_of(&member.expect("done"))).collect();
    assert!(heard.iter().all(|one| *one == heard[0]), "{heard:?}");
    members.iter_mut().for_each(|member| member.say("close"));
    members.into_iter().for_each(|member| drop(member.end_well()));
    heard[0].clone()
}

/// The statistics page of a member, as any process of its user can have it.
pub fn stat(group: &str, rank: u16) -> Snapshot {
    let mut socket = None;
    until("the door takes a visitor", || {
        socket = Socket::connect(&socket_name(group, rank)).unwrap();
        socket.is_some()
    });
    let socket = socket.unwrap();
    assert!(socket.send(&Hello::new(Kind::Stat, 0, false, "").encode(), &[]));
    let mut answer = None;
    until("the door answers", || {
        answer = socket.receive();
        answer.is_some()
    });
    let (bytes, descriptors) = answer.unwrap().expect("an answer, not a hang-up");
    let hello = Hello::decode(&bytes).unwrap();
    assert_eq!((hello.kind, hello.rank), (Kind::Welcome, rank));
    let page = Region::map_peer(&descriptors[0], 4096).unwrap();
    stats::read(&page).expect("a page of statistics")
}

/// The rest of the word that begins with `key`.
pub fn field<'a>(line: &'a str, key: &str) -> &'a str {
    line.split_whitespace().find_map(|word| word.strip_prefix(key)).unwrap_or("")
}

/// The error of a member that cannot open: its status and sentence.
pub fn refused(mut member: Process) -> String {
    let line = member.expect("error");
    assert_eq!(member.end().status.code(), Some(3), "{line}");
    line
}

pub fn root() -> bool {
    rustix::process::geteuid().is_root()
}
