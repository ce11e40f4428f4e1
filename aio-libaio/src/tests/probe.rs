//! What the probe finds, and what it says when the kernel refuses a call.

use aio_core::backend::Unavailable;
use aio_testkit::conformance::refusing;

use super::*;
use crate::NAME;

/// What the probe says when the kernel refuses `call`.
fn refusal_without(call: libc::c_long, avoid: Avoid) -> Option<Unavailable> {
    refusing(&[call], libc::EPERM, || (LibaioBackend { avoid }).probe().expect_err("a call that is not needed"))
}

#[test]
fn the_probe_notices_each_call_that_is_refused_and_names_it() {
    if !require(&LibaioBackend::default()) {
        return;
    }
    let library = cfg!(feature = "system-libaio");
    let (usual, oldest) = (Avoid::default(), Avoid { ring: true, poll: true });
    for (call, avoid, words) in [
        (libc::SYS_io_setup, usual, "io_setup was refused"),
        (libc::SYS_io_submit, usual, "io_submit of a poll for the waker"),
        (libc::SYS_io_submit, oldest, "a write to a file in memory failed"),
        (libc::SYS_io_getevents, usual, "a wait for completions failed"),
        // libaio spares itself the call while there is nothing to fetch.
        (libc::SYS_io_getevents, oldest, if library { "a write to a file" } else { "a wait for completions" }),
        (libc::SYS_ppoll, oldest, "a wait for completions failed"),
        (libc::SYS_eventfd2, usual, "eventfd for the waker"),
    ] {
        let Some(refusal) = refusal_without(call, avoid) else { return };
        assert_eq!((refusal.backend, refusal.errno), (NAME, Some(libc::EPERM)), "{refusal}");
        assert!(refusal.reason.contains(words), "{refusal} lacks {words}");
        let kernel = io::Error::from_raw_os_error(libc::EPERM).to_string();
        assert!(refusal.reason.contains(&kernel), "{refusal} lacks what the kernel said");
    }
}

#[test]
fn the_probe_names_what_a_queue_uses() {
    for (avoid, expected) in [
        (Avoid::default(), &["user-space reap", "IOCB_CMD_POLL"][..]),
        (Avoid { ring: true, poll: true }, &["IOCB_FLAG_RESFD"]),
    ] {
        let backend = LibaioBackend { avoid };
        if require(&backend) {
            let found = backend.probe().unwrap();
            let library = cfg!(feature = "system-libaio").then_some("system-libaio");
            assert!(found.features.iter().map(String::as_str).eq(expected.iter().copied().chain(library)));
            assert!(!found.registered_memory && !found.registered_files);
        }
    }
}
