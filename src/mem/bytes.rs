// SPDX-License-Identifier: MIT OR Apache-2.0
//! Buffers of some hundred KiB, where there may be too little memory for them: an allocation of Rust's
//! own would end the process.

use super::errno::shortage;
use super::region::size_text;
use crate::error::Error;

/// So many bytes, all 0.
pub fn zeroed(bytes: usize) -> Result<Box<[u8]>, Error> {
    let mut buffer = with_room(bytes)?;
    buffer.resize(bytes, 0);
    Ok(buffer.into_boxed_slice())
}

/// None yet, and room for so many.
pub fn with_room(bytes: usize) -> Result<Vec<u8>, Error> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(bytes).map_err(|_| lack(bytes))?;
    Ok(buffer)
}

/// That so many bytes could not be had.
pub fn lack(bytes: usize) -> Error {
    let cause = std::io::Error::from_raw_os_error(libc::ENOMEM);
    shortage(&format!("cannot get {}", size_text(bytes as u64)), &cause)
}
