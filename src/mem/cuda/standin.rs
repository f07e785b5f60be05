// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stand-in for libcuda (`ci/cuda/standin.c`), compiled and loaded by the tests.

use super::{Code, Cuda, Library};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The library, and one that fails as it is told: of a test that has it for itself.
pub struct Standin {
    pub cuda: &'static Cuda,
    _alone: MutexGuard<'static, ()>,
}

/// `None`: there is no C compiler here, which is said.
pub fn load() -> Option<Standin> {
    static LOADED: OnceLock<Option<&'static Cuda>> = OnceLock::new();
    static ALONE: Mutex<()> = Mutex::new(());
    let cuda = (*LOADED.get_or_init(|| {
        let cuda = Cuda::load(&compiled()?).expect("the stand-in has all that we call");
        Some(Box::leak(Box::new(cuda)))
    }))?;
    Some(Standin { cuda, _alone: ALONE.lock().unwrap_or_else(PoisonError::into_inner) })
}

/// Where it is.
pub fn compiled() -> Option<CString> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/ci/cuda/standin.c");
    let name = format!("squall-standin-{}.so", std::process::id());
    let library = std::env::temp_dir().join(name);
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-pthread", source, "-o"]);
    match compile.arg(&library).status() {
        Ok(status) => assert!(status.success(), "{source} does not compile"),
        Err(cause) => {
            eprintln!("SKIPPED: the stand-in for libcuda: no C compiler: {cause}");
            return None;
        }
    }
    CString::new(library.as_os_str().as_bytes()).ok()
}

impl Standin {
    fn of(&self) -> &Library {
        &self.cuda.library
    }

    /// Memory of the device.
    pub fn alloc(&self, bytes: usize) -> u64 {
        let found = self.of().symbol(c"standin_alloc").unwrap();
        // SAFETY: the function of that name has this signature.
        let alloc: unsafe extern "C" fn(usize) -> u64 = unsafe { std::mem::transmute(found) };
        // SAFETY: it takes any number.
        unsafe { alloc(bytes) }
    }

    pub fn peek(&self, address: u64, bytes: &mut [u8]) {
        let found = self.of().symbol(c"standin_peek").unwrap();
        // SAFETY: the function of that name has this signature.
        let peek: unsafe extern "C" fn(u64, *mut c_void, usize) -> Code =
            unsafe { std::mem::transmute(found) };
        // SAFETY: so many bytes are there.
        assert_eq!(unsafe { peek(address, bytes.as_mut_ptr().cast(), bytes.len()) }, 0);
    }

    pub fn poke(&self, address: u64, bytes: &[u8]) {
        let found = self.of().symbol(c"standin_poke").unwrap();
        // SAFETY: the function of that name has this signature.
        let poke: unsafe extern "C" fn(u64, *const c_void, usize) -> Code =
            unsafe { std::mem::transmute(found) };
        // SAFETY: so many bytes are there.
        assert_eq!(unsafe { poke(address, bytes.as_ptr().cast(), bytes.len()) }, 0);
    }

    /// That call fails from now on.
    pub fn fail(&self, call: Option<&CStr>) {
        let found = self.of().symbol(c"standin_fail").unwrap();
        // SAFETY: the function of that name has this signature.
        let fail: unsafe extern "C" fn(*const c_char) = unsafe { std::mem::transmute(found) };
        // SAFETY: NULL, or a text with a NUL.
        unsafe { fail(call.map_or(std::ptr::null(), CStr::as_ptr)) }
    }

    /// How often it was asked to make visible what came from a network device.
    pub fn flushes(&self) -> i32 {
        self.number(c"standin_flushes")
    }

    /// What was taken of the driver and not given back.
    pub fn count(&self) -> i32 {
        self.number(c"standin_count")
    }

    fn number(&self, name: &CStr) -> i32 {
        let found = self.of().symbol(name).unwrap();
        // SAFETY: both functions that are named above have this signature.
        let number: unsafe extern "C" fn() -> c_int = unsafe { std::mem::transmute(found) };
        // SAFETY: it takes nothing.
        unsafe { number() }
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        self.fail(None);
    }
}
