// SPDX-License-Identifier: MIT OR Apache-2.0
//! A bug of ours behind the C door, in a host that is a Rust program with a panic hook of its own.

use super::*;
use squall::capi::*;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::null_mut;

extern "C" fn log(_user: *mut c_void, level: i32, text: *const c_char) {
    // SAFETY: the library hands a string.
    println!("log {level} {}", unsafe { CStr::from_ptr(text) }.to_str().unwrap());
}

extern "C" fn hear(
    _user: *mut c_void,
    _group: squall_group_t,
    _subgroup: u32,
    _messages: *const squall_message_t,
    count: u32,
) {
    println!("heard {count}");
    let own = std::panic::catch_unwind(|| panic!("the host's, in a callback"));
    assert!(own.is_err());
}

/// Opens a group through the C door and makes its own counts nonsense, which the engine asserts.
pub fn buggy(arguments: &Arguments) {
    let own_thread = arguments.or("own_thread", false);
    std::panic::set_hook(Box::new(|panic| println!("hook {panic}")));
    squall_log_set(Some(log), null_mut());
    let name = CString::new(arguments.text("group").unwrap()).unwrap();
    // SAFETY: the structs are initialised as the header says, and live across the call.
    let group = unsafe {
        let (mut attr, mut callbacks) = (std::mem::zeroed(), std::mem::zeroed());
        squall_group_attr_init(&mut attr, size_of::<squall_group_attr_t>() as u32);
        squall_callbacks_init(&mut callbacks, size_of::<squall_callbacks_t>() as u32);
        (attr.name, attr.members) = (name.as_ptr(), 1);
        callbacks.deliver = Some(hear);
        attr.flags = if own_thread { SQUALL_FLAG_OWN_THREAD } else { 0 };
        let mut group = 0;
        assert_eq!(squall_group_open(&attr, &callbacks, &mut group), 0);
        group
    };
    // SAFETY: the bytes live across the call.
    let send = || assert!(unsafe { squall_send(group, 0, b"x".as_ptr().cast(), 1) } >= 0);
    if !own_thread {
        send();
        while squall_poll(group, 1) == 0 {}
    }
    let _ = std::panic::catch_unwind(|| panic!("the host's, beside the group"));
    let layout = config(arguments).view().unwrap().layout();
    let memory = std::fs::OpenOptions::new().write(true).open("/proc/self/mem").unwrap();
    let regions = own_memory(arguments.text("group").unwrap());
    let table = regions.iter().find(|(.., name)| name.contains("-table")).unwrap().0;
    let prefix = table + layout.subgroups[0].prefix.byte(0) as u64;
    memory.write_all_at(&(1u64 << 40).to_le_bytes(), prefix).unwrap();
    send();
    if !own_thread {
        let mut status = 0;
        while status >= 0 {
            status = squall_poll(group, 1);
        }
        let mut text = [0; 256];
        // SAFETY: so many bytes are there, and a string comes back.
        let text = unsafe {
            squall_last_error(text.as_mut_ptr(), text.len());
            CStr::from_ptr(text.as_ptr())
        };
        println!("polled {status} {}", text.to_str().unwrap());
        println!("closed {}", squall_group_close(group));
    } else {
        let mut input = std::io::stdin().lock().lines();
        assert_eq!(input.next().unwrap().unwrap(), "close");
        println!("closed {}", squall_group_close(group));
    }
}

pub fn a_bug_of_ours_is_said_in_the_log() -> String {
    let mut all = String::new();
    for own_thread in [false, true] {
        let group = group_name("bug");
        let options: &Options<'_> =
            &[("group", &group), ("members", &1), ("own_thread", &own_thread)];
        let mut member = Process::start("buggy", options);
        let mut lines = Vec::new();
        if own_thread {
            while !lines.iter().any(|line: &String| line.starts_with("log 1 a bug")) {
                lines.push(member.line().expect("a bug is said"));
            }
            member.say("close");
        }
        let ended = member.end();
        assert!(ended.status.success(), "{} {:?} {}", ended.status, ended.lines, ended.errors);
        assert_eq!(ended.errors, "", "nothing on standard error");
        lines.extend(ended.lines);
        let (log, rest): (Vec<_>, Vec<_>) =
            lines.into_iter().partition(|line| line.starts_with("log"));
        assert_eq!(log.len(), 1, "{log:?}, {rest:?}");
        assert!(log[0].contains("would go back") && log[0].contains(".rs:"), "{log:?}");
        // The host's own panics are its hook's, wherever they happen; ours is none of them.
        let hooked = rest.iter().filter(|line| line.starts_with("hook")).collect::<Vec<_>>();
        assert_eq!(hooked.len(), if own_thread { 1 } else { 2 }, "{rest:?}");
        assert!(hooked.iter().all(|line| line.contains("ci/process/bug.rs")), "{rest:?}");
        if !own_thread {
            let polled = rest.iter().find(|line| line.starts_with("polled -90")).unwrap();
            assert!(polled.contains("would go back"), "{polled}");
        }
        all.push_str(&format!("{}\n", log[0]));
    }
    all
}
