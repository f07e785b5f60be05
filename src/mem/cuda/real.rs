// SPDX-License-Identifier: MIT OR Apache-2.0
//! The real libcuda and its first device, where a machine has them: for tests.

use super::{Code, Cuda, Handle, LIBRARY};
use std::ptr::null_mut;

/// The library, and the address of so many bytes of the device's. `None`: what is missing is said.
pub fn alloc(bytes: usize) -> Option<(&'static Cuda, u64)> {
    let real = match Cuda::load(LIBRARY) {
        Ok(real) => Box::leak(Box::new(real)),
        Err(why) => {
            eprintln!("SKIPPED: no device of CUDA's: {why}");
            return None;
        }
    };
    let mut context = Handle(null_mut());
    // SAFETY: a place for a pointer; the first device.
    let code = unsafe { (real.retain)(&raw mut context.0, 0) };
    if real.check("cuDevicePrimaryCtxRetain", code).is_err() {
        eprintln!("SKIPPED: libcuda is here, a device is not");
        return None;
    }
    let found = real.library.symbol(c"cuMemAlloc_v2").unwrap();
    // SAFETY: the driver's function of that name has this signature.
    let alloc: unsafe extern "C" fn(*mut u64, usize) -> Code =
        unsafe { std::mem::transmute(found) };
    let mut address = 0;
    let allocated = real.within(context, || {
        // SAFETY: a place for an address.
        real.check("cuMemAlloc", unsafe { alloc(&raw mut address, bytes) })
    });
    allocated.unwrap();
    Some((real, address))
}
