//! The sentences for refusals.

use std::io;

use crate::refusal::{no_slots, of_setup};

#[test]
fn every_refusal_names_the_call_and_keeps_the_errno() {
    for errno in [libc::EAGAIN, libc::ENOSYS, libc::EPERM, libc::ENOMEM] {
        let refusal = of_setup(33, &io::Error::from_raw_os_error(errno));
        assert!(refusal.reason.contains("io_setup"), "{refusal}");
        assert_eq!((refusal.backend, refusal.errno), ("libaio", Some(errno)));
    }
}

#[test]
fn used_up_slots_name_the_limit_and_the_remedy() {
    for (used, most, enough) in [
        (Some(65530), Some(65536), "131072"),
        (Some(65536), Some(16), "131072"),
        (Some(1 << 40), Some(u64::MAX / 2 + 1), "18446744073709551615"),
        (Some(u64::MAX), Some(u64::MAX), "18446744073709551615"),
        (None, Some(65536), "1048576"),
        (Some(0), None, "1048576"),
    ] {
        let reason = no_slots(33, used, most);
        let remedy = format!("`sysctl -w fs.aio-max-nr={enough}`");
        assert!(reason.contains("33 requests") && reason.contains(&remedy), "{reason} lacks {remedy}");
    }
}
