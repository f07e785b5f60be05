// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a member is shown of another's memory it can read and nothing else.

use super::*;

/// Joins as a member by hand, and tries everything on what it is shown.
pub fn thief(arguments: &Arguments) {
    confine(arguments);
    let config = config(arguments);
    let view = config.view().unwrap();
    let layout = view.layout();
    let bytes = [layout.control_bytes, layout.rings_bytes(0)];
    let share = |bytes: usize| {
        let made = Region::share("squall-thief", bytes, Want::No, Want::No, &mut Vec::new());
        let descriptor = made.unwrap().1;
        Region::seal(&descriptor).unwrap();
        descriptor
    };
    let (control, ring, bell) = (share(bytes[0]), share(bytes[1]), Bell::new().unwrap());
    let mut socket = None;
    until("rank 0 listens", || {
        socket = Socket::connect(&socket_name(&config.group, 0)).unwrap();
        socket.is_some()
    });
    let socket = socket.unwrap();
    let hello = Hello::new(Kind::Join, 1, true, &config.agreed_text(&view));
    assert!(socket.send(&hello.encode(), &[control.as_fd(), bell.as_fd(), ring.as_fd()]));
    let mut answer = None;
    until("rank 0 answers", || {
        answer = socket.receive();
        answer.is_some()
    });
    let (text, shown) = answer.unwrap().unwrap();
    assert_eq!(Hello::decode(&text).unwrap().kind, Kind::Welcome);
    assert_eq!(shown.len(), 3, "table, bell, ring");
    for (what, descriptor, bytes) in [("table", &shown[0], bytes[0]), ("ring", &shown[2], bytes[1])]
    {
        for (attempt, refused) in attempts(descriptor, bytes) {
            println!("tried {what}: {attempt}: {}", refused.as_deref().unwrap_or("NOT REFUSED"));
        }
    }
    if let Some(pid) = arguments.get::<u32>("pid") {
        let refused = owners_descriptors(pid, &config.group);
        println!("tried the owner's descriptors: {}", refused.as_deref().unwrap_or("NOT REFUSED"));
    }
    for (what, descriptor, bytes) in [("table", &shown[0], bytes[0]), ("ring", &shown[2], bytes[1])]
    {
        println!("tried {what}: read: {}", Region::map_peer(descriptor, bytes).is_ok());
    }
    commands().next();
}

/// Looks for a member's memory in its process, to open it for writing; why that was refused.
fn owners_descriptors(pid: u32, group: &str) -> Option<String> {
    let folder = match std::fs::read_dir(format!("/proc/{pid}/fd")) {
        Err(cause) => return Some(cause.to_string()),
        Ok(folder) => folder,
    };
    let its = |path: &std::path::PathBuf| {
        std::fs::read_link(path).is_ok_and(|target| target.to_string_lossy().contains(group))
    };
    let all: Vec<_> = folder.flatten().map(|entry| entry.path()).filter(its).collect();
    let open = |path| std::fs::OpenOptions::new().write(true).open(path);
    all.iter().find_map(|path| open(path).err()).map(|cause| cause.to_string())
}

/// Each way to change another's pages, and how it was refused.
pub fn attempts(descriptor: &OwnedFd, bytes: usize) -> Vec<(&'static str, Option<String>)> {
    let fd = descriptor.as_raw_fd();
    let error = || Some(std::io::Error::last_os_error().to_string());
    let map = |fd: i32, protection: i32| {
        let (none, shared) = (std::ptr::null_mut(), libc::MAP_SHARED);
        // SAFETY: a new map at an address that the kernel chooses; nothing of ours lies there.
        unsafe { libc::mmap(none, bytes, protection, shared, fd, 0) }
    };
    let writable = libc::PROT_READ | libc::PROT_WRITE;
    let mut tried = Vec::new();
    let mapped = |fd: i32| if map(fd, writable) == libc::MAP_FAILED { error() } else { None };
    tried.push(("mmap for writing", mapped(fd)));
    let read_only = map(fd, libc::PROT_READ);
    assert_ne!(read_only, libc::MAP_FAILED);
    // SAFETY: the map that was just made, which nothing else uses.
    let changed = unsafe { libc::mprotect(read_only, bytes, writable) };
    tried.push(("mprotect for writing", if changed == 0 { None } else { error() }));
    // SAFETY: as above.
    let removed = unsafe { libc::madvise(read_only, bytes, libc::MADV_REMOVE) };
    tried.push(("madvise to remove", if removed == 0 { None } else { error() }));
    let again =
        std::fs::OpenOptions::new().read(true).write(true).open(format!("/proc/self/fd/{fd}"));
    match again {
        Err(cause) => tried.push(("open again", Some(cause.to_string()))),
        Ok(file) => {
            tried.push(("mmap what was opened again", mapped(file.as_raw_fd())));
            let written = file.write_at(b"x", 0).err().map(|cause| cause.to_string());
            tried.push(("write to what was opened again", written));
        }
    }
    // SAFETY: plain system calls on a descriptor that we hold, and bytes that live on.
    unsafe {
        let written = libc::pwrite(fd, b"x".as_ptr().cast(), 1, 0);
        tried.push(("write", if written == 1 { None } else { error() }));
        let cut = libc::ftruncate(fd, 0);
        tried.push(("ftruncate shorter", if cut == 0 { None } else { error() }));
        let grown = libc::ftruncate(fd, 1 << 30);
        tried.push(("ftruncate longer", if grown == 0 { None } else { error() }));
        let kind = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let punched = libc::fallocate(fd, kind, 0, 4096);
        tried.push(("punch a hole", if punched == 0 { None } else { error() }));
        let sealed = libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_WRITE);
        tried.push(("seal against its owner", if sealed == 0 { None } else { error() }));
    }
    tried
}

pub fn nobody_can_write_into_anothers_memory() -> String {
    let group = group_name("thief");
    let owner = starts(&group, 2, &[("count", &10)])(0);
    let mut thief = Process::start("thief", &[("group", &group), ("members", &2), ("rank", &1)]);
    let mut text = String::new();
    let mut read = 0;
    while read < 2 {
        let line = thief.expect("tried");
        assert!(!line.contains("NOT REFUSED"), "{line}");
        read += u64::from(line.ends_with("read: true"));
        assert!(!line.ends_with("read: false"), "{line}");
        text.push_str(&line);
        text.push('\n');
    }
    drop((thief, owner));
    text
}
