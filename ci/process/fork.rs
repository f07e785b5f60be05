// SPDX-License-Identifier: MIT OR Apache-2.0
//! A member that forks: its child does nothing and outlives it, and is no reason to think that the
//! member lives. Programs that fork at awkward moments: in callbacks, beside opens, with handlers.

use super::*;
use squall::capi::*;
use std::ffi::{CString, c_int, c_void};
use std::sync::atomic::AtomicI32;

/// A child of a member, ended with the test.
struct Orphan(rustix::process::Pid);

impl Orphan {
    fn of(line: &str) -> Orphan {
        Orphan(rustix::process::Pid::from_raw(line.parse().unwrap()).unwrap())
    }

    fn lives(&self) -> bool {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", self.0.as_raw_pid()));
        state.is_ok_and(|state| !state.contains(") Z "))
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, Signal::KILL);
    }
}

/// Makes a child that holds what it inherits, pipes aside, and sleeps until it is killed, ten minutes
/// at the most; says its number.
pub fn leave_an_orphan() {
    // SAFETY: the child calls only what may be called in a signal handler.
    let child = unsafe { libc::fork() };
    if child != 0 {
        println!("orphan {child}");
        return;
    }
    // SAFETY: as above; none of them touches memory.
    unsafe {
        for pipe in 0..3 {
            libc::close(pipe);
        }
        libc::sleep(600);
        libc::_exit(0);
    }
}

/// Its death was never noticed, and its rank was taken for as long as the child lived.
pub fn a_member_that_forked_is_named_and_replaced() -> String {
    let mut text = String::new();
    for (victim, idle) in [(1u16, "park"), (0, "yield")] {
        let group = group_name("forked");
        let more: &Options<'_> = &[("idle", &idle), ("progress", &100), ("reopen", &true)];
        let start = starts(&group, 2, more);
        let mut forks = starts(&group, 2, &[("idle", &idle), ("fork", &true)])(victim);
        let mut other = start(1 - victim);
        let orphan = Orphan::of(&forks.expect("orphan"));
        other.expect("progress");
        forks.kill();
        drop(forks.end());
        let mut next = starts(&group, 2, &[("idle", &idle), ("count", &2_000)])(victim);
        let line = other.expect("stopped");
        assert!(line.starts_with("PeerLost"), "{line}");
        assert_eq!(field(&line, "rank="), victim.to_string(), "{line}");
        let heard = [next.expect("done"), other.expect("done")];
        assert_eq!(heard[0], heard[1]);
        assert!(orphan.lives(), "the child is there all the time");
        for mut member in [next, other] {
            member.say("close");
            member.end_well();
        }
        text.push_str(&format!(
            "rank {victim} of {idle} members forked and was killed: noticed, replaced while its \
             child lived: {}\n",
            heard_of(&heard[0])
        ));
    }
    text
}

/// A process that forks: `case` says when.
pub fn forker(arguments: &Arguments) {
    let group = arguments.text("group").unwrap();
    match arguments.text("case").unwrap() {
        "returns" => returns_from_a_callback(arguments, group),
        "returns-rust" => returns_and_goes_on(arguments, group),
        "mutex" => forks_under_a_mutex(group),
        "opening" => forks_while_others_open(group),
        other => panic!("{other}"),
    }
}

/// A group of the C door, whose open may fail.
fn opened(
    name: &str,
    members: u32,
    flags: u32,
    callbacks: squall_callbacks_t,
) -> Result<u64, c_int> {
    let name = CString::new(name).unwrap();
    // SAFETY: the struct is initialised as the header says, and lives across the call.
    unsafe {
        let mut attr = std::mem::zeroed();
        squall_group_attr_init(&mut attr, size_of::<squall_group_attr_t>() as u32);
        (attr.name, attr.members, attr.flags) = (name.as_ptr(), members, flags);
        attr.open_timeout_ms = if members > 1 { 2 } else { 20_000 };
        let mut group = 0;
        match squall_group_open(&attr, &callbacks, &mut group) {
            0 => Ok(group),
            status => Err(status),
        }
    }
}

fn callbacks() -> squall_callbacks_t {
    // SAFETY: initialised as the header says.
    unsafe {
        let mut callbacks = std::mem::zeroed();
        squall_callbacks_init(&mut callbacks, size_of::<squall_callbacks_t>() as u32);
        callbacks.message = Some(deaf);
        callbacks
    }
}

extern "C" fn deaf(_: *mut c_void, _: squall_group_t, _: u32, _: *const squall_message_t) {}

fn send(group: u64) -> i64 {
    // SAFETY: the bytes live across the call.
    unsafe { squall_send(group, 0, b"x".as_ptr().cast(), 1) }
}

/// How a child of ours has ended.
fn end_of(pid: i32) -> c_int {
    let mut status = -1;
    // SAFETY: a place for the status.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    status
}

/// The bytes that this process shares with the members of a group.
fn shared_bytes(group: &str) -> Vec<u8> {
    let memory = std::fs::File::open("/proc/self/mem").unwrap();
    let mut all = Vec::new();
    for (from, bytes, _) in own_memory(group) {
        let mut region = vec![0; bytes as usize];
        memory.read_exact_at(&mut region, from).unwrap();
        all.extend(region);
    }
    assert!(!all.is_empty());
    all
}

/// Messages that `returns_from_a_callback` sends; whether it has; calls of its callback.
const SENT: i32 = 8;
static ALL_SENT: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicI32 = AtomicI32::new(0);
/// 0 in the child.
static CHILD: AtomicI32 = AtomicI32::new(-1);

/// Forks when first called; the child returns, the parent waits for its end.
unsafe extern "C" fn fork_and_return(
    user: *mut c_void,
    _group: squall_group_t,
    _subgroup: u32,
    _message: *const squall_message_t,
) {
    assert_ne!(CHILD.load(Ordering::SeqCst), 0, "the child hears nothing more");
    if CALLS.fetch_add(1, Ordering::SeqCst) > 0 {
        return;
    }
    // SAFETY: what was given at open, which lives longer than the group.
    let name = unsafe { &*user.cast::<String>() };
    until("all is sent", || ALL_SENT.load(Ordering::SeqCst));
    let before = shared_bytes(name);
    // SAFETY: the child returns from here, as the header allows, and then ends.
    let child = unsafe { libc::fork() };
    CHILD.store(child, Ordering::SeqCst);
    if child != 0 {
        assert_eq!(end_of(child), 0, "how the child ended");
        assert!(before == shared_bytes(name), "the child changed the parent's memory");
    }
}

/// The child went on in the turn, and released, in memory that both write, what the parent's
/// callback still had.
fn returns_from_a_callback(arguments: &Arguments, name: &str) {
    let own_thread: bool = arguments.or("own_thread", false);
    let user = name.to_string();
    let mut callbacks = callbacks();
    callbacks.message = Some(fork_and_return);
    callbacks.user = std::ptr::from_ref(&user).cast_mut().cast();
    let flags = if own_thread { SQUALL_FLAG_OWN_THREAD } else { 0 };
    let group = opened(name, 1, flags, callbacks).unwrap();
    for ordinal in 0..SENT {
        assert_eq!(send(group), i64::from(ordinal));
    }
    ALL_SENT.store(true, Ordering::SeqCst);
    let mut polled = 0;
    while !own_thread && polled == 0 {
        polled = squall_poll(group, u32::MAX);
    }
    if polled < 0 {
        // The child: it may try what it likes. That of the group's own thread ends with that thread.
        let closed = Status::Closed as i32;
        let again = [squall_poll(group, 8), send(group) as i32, squall_group_close(group)];
        let heard = CALLS.load(Ordering::SeqCst);
        // SAFETY: it ends this process.
        unsafe { libc::_exit(i32::from(polled != closed || again != [closed; 3] || heard != 1)) };
    }
    until("all is heard", || CALLS.load(Ordering::SeqCst) == SENT);
    assert_eq!(squall_group_close(group), 0);
    println!("its child has ended: {}", CHILD.load(Ordering::SeqCst) > 0);
}

/// Forks when it first hears of something; the parent waits there until its child has ended.
#[derive(Clone, Default)]
struct Forks {
    group: String,
    /// "delivery", "view", or "between" turns.
    when: String,
    page: Arc<OnceLock<Arc<Region>>>,
    /// 0 in the child.
    child: Arc<AtomicI32>,
}

impl Forks {
    fn fork(&self, when: &str) {
        if self.when != when || self.child.load(Ordering::SeqCst) >= 0 {
            return;
        }
        let before = self.shared();
        // SAFETY: the child returns from here, tries this and that, and ends.
        let child = unsafe { libc::fork() };
        self.child.store(child, Ordering::SeqCst);
        if child > 0 {
            assert_eq!(end_of(child), 0, "how the child ended");
            assert!(before == self.shared(), "the child changed the parent's memory");
        }
    }

    /// What a child shares with its parent.
    fn shared(&self) -> (Vec<u8>, Vec<u64>) {
        let page = self.page.get().expect("it is open");
        let words = (0..page.size() / 8).map(|word| page.cell(word * 8).observe());
        (shared_bytes(&self.group), words.collect())
    }
}

impl Application for Forks {
    fn deliver(&mut self, _: u16, _: &[Message]) {
        self.fork("delivery");
    }

    fn view(&mut self, _: &ViewInfo) {
        self.fork("view");
    }
}

/// As a Rust program has it, without handles that are closed in children: the child's next poll was a
/// panic, its `close` said farewell in its parent's name, and its statistics were its parent's.
fn returns_and_goes_on(arguments: &Arguments, name: &str) {
    let when: String = arguments.or("forked", String::new());
    let (group, child) = (name.to_string(), Arc::new(AtomicI32::new(-1)));
    let forks = Forks { group, when, child: child.clone(), page: Arc::default() };
    let mut config = Config::new(name, 0, 1);
    config.membership = if forks.when == "view" { Changes::Views } else { Changes::Fixed };
    let mut group = Group::open(&config, Box::new(forks.clone())).unwrap();
    assert!(forks.page.set(group.stats_page()).is_ok());
    let mut sender = group.sender(0, 0).unwrap();
    sender.send(b"x").unwrap();
    forks.fork("between");
    while child.load(Ordering::SeqCst) < 0 {
        _ = group.poll(8);
    }
    if child.load(Ordering::SeqCst) == 0 {
        let closed = Some(Status::Closed);
        let mut well = (0..100).all(|_| group.poll(8).err() == closed);
        well &= group.arm().err() == closed && group.wait(None).err() == closed;
        well &= sender.send(b"not mine").err() == closed;
        drop(group.stats());
        group.close();
        // SAFETY: it ends this process.
        unsafe { libc::_exit(i32::from(!well)) };
    }
    assert_eq!(sender.send(b"y"), Ok(1));
    while group.stats().subgroups[0].delivered.messages < 2 {
        group.poll(8).unwrap();
    }
    group.close();
    println!("its child has ended: {}", child.load(Ordering::SeqCst) > 0);
}

/// What the host's fork handler waits for.
static HOSTS: Mutex<()> = Mutex::new(());
static WAITING: AtomicBool = AtomicBool::new(false);

unsafe extern "C" fn hosts_handler() {
    WAITING.store(true, Ordering::SeqCst);
    drop(HOSTS.lock().unwrap());
}

/// A fork handler of the host's that waits for a thread that makes connections. Ours, which came
/// before it, had the lock of all makers: both waited for ever.
fn forks_under_a_mutex(name: &str) {
    // SAFETY: the handler is there as long as the process.
    assert_eq!(unsafe { libc::pthread_atfork(Some(hosts_handler), None, None) }, 0);
    // Registered later, our handler comes before the host's.
    let group = opened(name, 1, 0, callbacks()).unwrap();
    let held = HOSTS.lock().unwrap();
    let forks = std::thread::spawn(|| {
        // SAFETY: the child calls nothing else.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: it ends this process.
            unsafe { libc::_exit(0) };
        }
        end_of(child)
    });
    until("the host's handler waits", || WAITING.load(Ordering::SeqCst));
    let other = opened(&format!("{name}-2"), 1, 0, callbacks()).unwrap();
    assert_eq!(squall_group_close(other), 0);
    assert_eq!(squall_group_close(group), 0);
    drop(held);
    assert_eq!(forks.join().unwrap(), 0);
    println!("forked and opened");
}

/// Children open groups of their own whatever other threads were about when they were forked.
fn forks_while_others_open(name: &str) {
    const FORKS: u32 = 40;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (name, stop) = (format!("{name}-{thread}"), &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // What a child inherits it closes first of all, which may take it a moment.
                    let mut one = Err(Status::InUse as c_int);
                    while one == Err(Status::InUse as c_int) {
                        one = opened(&name, 1, 0, callbacks());
                    }
                    let never = opened(&format!("{name}-never"), 2, 0, callbacks());
                    assert_eq!(never, Err(Status::NotComplete as c_int));
                    assert_eq!(squall_group_close(one.unwrap()), 0);
                }
            });
        }
        for at in 0..FORKS {
            let name = format!("{name}-child-{at}");
            // SAFETY: the child opens a group, which it may, and ends.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let own = opened(&name, 1, 0, callbacks());
                let well = own.is_ok_and(|own| send(own) == 0 && squall_group_close(own) == 0);
                // SAFETY: it ends this process.
                unsafe { libc::_exit(i32::from(!well)) };
            }
            assert_eq!(end_of(child), 0, "child {at}");
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("opened in {FORKS} children");
}

fn forks(options: &Options<'_>) -> String {
    let group = group_name("forker");
    let mut all: Vec<(&str, &dyn std::fmt::Display)> = vec![("group", &group)];
    all.extend(options);
    let ended = Process::start("forker", &all).end();
    assert!(ended.status.success(), "{} {:?} {}", ended.status, ended.lines, ended.errors);
    assert_eq!(ended.lines.len(), 1, "{:?}", ended.lines);
    assert_eq!(ended.errors, "");
    ended.lines[0].clone()
}

pub fn a_child_may_return_from_its_callback() -> String {
    forks(&[("case", &"returns")]) + "\n" + &forks(&[("case", &"returns"), ("own_thread", &true)])
}

pub fn a_child_of_a_rust_program_has_no_group() -> String {
    let forked = ["delivery", "view", "between"];
    let case = |forked| forks(&[("case", &"returns-rust"), ("forked", &forked)]);
    forked.map(case).join("\n")
}

pub fn a_fork_handler_may_wait_for_a_thread_that_opens() -> String {
    forks(&[("case", &"mutex")])
}

pub fn children_open_while_threads_of_the_parent_do() -> String {
    forks(&[("case", &"opening")])
}
