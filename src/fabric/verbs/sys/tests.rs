// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table without a device: what is there, what is not.

use super::*;

#[test]
fn a_library_that_is_not_there_is_an_error_with_a_remedy() {
    let error = Table::load_from(c"libsquall-has-no-such.so.1").err().expect("not there");
    assert_eq!(error.status, Status::System);
    assert!(error.detail.contains("libsquall-has-no-such"), "{error}");
    assert!(error.detail.contains("rdma-core"), "{error}");
}

#[test]
fn another_library_of_that_name_is_recognised() {
    let error = Table::load_from(c"libc.so.6").err().expect("no libibverbs");
    assert!(error.detail.contains("ibv_get_device_list"), "{error}");
}

/// On a machine with libibverbs and no device the list is empty or refused; without it there is none.
#[test]
fn the_real_library_loads_or_says_why_not() {
    match Table::load() {
        Ok(table) => {
            let mut count = -1;
            let list = (table.get_device_list)(&mut count);
            if !list.is_null() {
                assert!(count >= 0);
                // SAFETY: a list that was just made.
                unsafe { (table.free_device_list)(list) };
            }
        }
        Err(error) => assert!(error.detail.contains("install"), "{error}"),
    }
}
