// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of a device, against the stand-in; and against a device, where there is one.

use super::*;
use crate::mutants::plant;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

#[test]
fn what_came_is_there_when_it_is_said() {
    let Some(standin) = standin::load() else { return };
    let before = standin.count();
    let address = standin.alloc(5000);
    let device = Device::new(standin.cuda, address + 8, 4000).unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let there = |from: u64, len: usize| {
        let mut bytes = vec![0; len];
        standin.peek(address + 8 + from, &mut bytes);
        bytes
    };
    ours.write_all(&[7; 100]).unwrap();
    assert_eq!(device.receive(theirs.as_fd(), 40, 100), Ok(100));
    assert_eq!(there(39, 102), [&[0][..], &[7; 100], &[0]].concat());
    assert_eq!(device.receive(theirs.as_fd(), 40, 100), Err(Errno::AGAIN));
    standin.poke(address + 8, &[9; 60]);
    assert_eq!(device.send(theirs.as_fd(), b"head", 0, 60), Ok(64));
    let mut came = [0; 64];
    ours.read_exact(&mut came).unwrap();
    assert_eq!(came[..], [&b"head"[..], &[9; 60]].concat()[..]);
    plant(Some("cuda-not-synchronised"));
    ours.write_all(&[8; 10]).unwrap();
    assert_eq!(device.receive(theirs.as_fd(), 0, 10), Ok(10));
    assert_eq!(there(0, 10), [9; 10], "the planted fault is one");
    plant(None);
    assert!(!device.has_failed());
    drop(device);
    assert_eq!(standin.count(), before, "all was given back");
}

#[test]
fn each_call_of_the_driver_may_fail() {
    let Some(standin) = standin::load() else { return };
    let before = standin.count();
    let address = standin.alloc(4096);
    let refused = |address: u64, bytes: u64| {
        Device::new(standin.cuda, address, bytes).map(drop).unwrap_err().status
    };
    assert_eq!(refused(64, 8), Status::Invalid, "the host's");
    assert_eq!(refused(address, 4097), Status::Invalid, "beyond its end");
    assert_eq!(refused(address, u64::MAX), Status::Invalid);
    assert_eq!(refused(address, 0), Status::Invalid);
    let opening = [
        (c"cuPointerGetAttribute", Status::Invalid),
        (c"cuMemHostAlloc", Status::NoMemory),
        (c"cuStreamCreate", Status::System),
        (c"cuCtxPushCurrent", Status::System),
    ];
    for (call, status) in opening {
        standin.fail(Some(call));
        assert_eq!(refused(address, 4096), status, "{call:?}");
        assert_eq!(standin.count(), before, "{call:?}");
    }
    standin.fail(Some(c"no context"));
    let primary = Device::new(standin.cuda, address, 4096).unwrap();
    assert!(primary.is_primary);
    drop(primary);
    assert_eq!(standin.count(), before);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    for call in [c"cuMemcpyHtoDAsync", c"cuStreamSynchronize", c"cuCtxPushCurrent"] {
        standin.fail(None);
        let device = Device::new(standin.cuda, address, 4096).unwrap();
        standin.fail(Some(call));
        ours.write_all(&[1; 9]).unwrap();
        assert_eq!(device.receive(theirs.as_fd(), 0, 9), Ok(9), "what has come has come");
        assert!(device.has_failed(), "{call:?}");
    }
    for call in [c"cuMemcpyDtoHAsync", c"cuStreamSynchronize"] {
        standin.fail(None);
        let device = Device::new(standin.cuda, address, 4096).unwrap();
        standin.fail(Some(call));
        assert_eq!(device.send(theirs.as_fd(), &[], 0, 9), Err(Errno::IO), "nothing is sent");
        assert!(device.has_failed(), "{call:?}");
    }
}

#[test]
fn a_library_that_is_missing_is_named() {
    let missing = |name: &CStr| Cuda::load(name).map(drop).unwrap_err();
    let none = missing(c"libno-such-cuda.so.1");
    assert!(none.status == Status::System && none.detail.contains("libno-such-cuda"), "{none}");
    assert!(none.detail.contains("SQUALL_CUDA_LIBRARY"), "{none}");
    let other = missing(c"libc.so.6");
    assert!(other.detail.contains("cuInit"), "{other}");
}

/// The real one, where a machine has it: `cuMemAlloc` and our way there and back.
#[test]
fn memory_of_a_real_device_if_there_is_one() {
    let bytes = 3 << 20;
    let Some((real, address)) = real::alloc(bytes) else { return };
    let device = Device::new(real, address, bytes as u64).unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let pattern: Vec<u8> = (0..bytes).map(|at| (at * 7 + at / 256) as u8).collect();
    let mut came = vec![0; bytes];
    for at in (0..bytes).step_by(1 << 15) {
        ours.write_all(&pattern[at..at + (1 << 15)]).unwrap();
        let mut got = 0;
        while got < 1 << 15 {
            got += device.receive(theirs.as_fd(), (at + got) as u64, (1 << 15) - got).unwrap();
        }
    }
    for at in (0..bytes).step_by(1 << 15) {
        assert_eq!(device.send(theirs.as_fd(), &[], at as u64, 1 << 15), Ok(1 << 15));
        ours.read_exact(&mut came[at..at + (1 << 15)]).unwrap();
    }
    assert!(came == pattern && !device.has_failed());
    eprintln!("a device of CUDA's: {bytes} bytes there and back");
}
