//! Every rung of the ladder works, and the backend says which one it stands on.

use super::*;

#[test]
fn the_probe_names_what_it_uses() {
    for backend in rungs() {
        let capabilities = backend.probe().unwrap();
        for flag in backend.ladder[0] {
            assert!(capabilities.features.iter().any(|feature| feature == flag.name), "{capabilities:?}");
        }
        assert!(capabilities.registered_memory && capabilities.registered_files, "{capabilities:?}");
    }
}

#[test]
fn the_first_rung_that_the_kernel_takes_is_used() {
    let rungs = rungs();
    let Some(best) = rungs.first() else { return };
    let names = |rung: &[crate::setup::Flag]| rung.iter().map(|flag| flag.name).collect::<Vec<_>>();
    let features = UringBackend::default().probe().unwrap().features;
    assert!(features.iter().map(String::as_str).collect::<Vec<_>>().starts_with(&names(best.ladder[0])));
    // DEFER_TASKRUN without SINGLE_ISSUER is EINVAL on every kernel: the rung below has to be reached.
    let defer = LADDER[0][1];
    let refused: &'static [crate::setup::Flag] = Box::leak(Box::new([defer]));
    let ladder: &'static [crate::setup::Rung] = Box::leak(Box::new([refused, LADDER[LADDER.len() - 1]]));
    UringBackend { ladder }.probe().unwrap();
    let ladder: &'static [crate::setup::Rung] = Box::leak(Box::new([refused]));
    let refusal = UringBackend { ladder }.probe().unwrap_err();
    assert_eq!((refusal.backend, refusal.errno), ("uring", Some(libc::EINVAL)));
    assert!(UringBackend { ladder }.open_queue(&QueueConfig::new(1)).is_err());
}

/// The suite on every rung but the best one, which has it in `tests/conformance.rs`.
fn conform(which: fn(&[&str]) -> bool) {
    for backend in rungs().iter().skip(1) {
        let names: Vec<_> = backend.ladder[0].iter().map(|flag| flag.name).collect();
        if which(&names) {
            conformance::queue(backend);
        }
    }
}

#[test]
fn rungs_that_defer_conform() {
    conform(|flags| flags.contains(&"DEFER_TASKRUN"));
}

#[test]
fn rungs_that_cooperate_conform() {
    conform(|flags| flags.contains(&"COOP_TASKRUN"));
}

#[test]
fn rungs_that_interrupt_conform() {
    conform(|flags| !flags.contains(&"DEFER_TASKRUN") && !flags.contains(&"COOP_TASKRUN"));
}

#[test]
fn the_probe_notices_each_call_that_is_refused_and_names_it() {
    if !conformance::require(&UringBackend::default()) {
        return;
    }
    for (call, words) in [
        (libc::SYS_io_uring_setup, "io_uring"),
        (libc::SYS_io_uring_enter, "a wait for completions failed"),
        (libc::SYS_eventfd2, "eventfd for the waker"),
    ] {
        let Some(found) = conformance::refusing(&[call], libc::EPERM, || UringBackend::default().probe()) else {
            return;
        };
        let refusal = found.expect_err("a call that is not needed");
        assert_eq!((refusal.backend, refusal.errno), ("uring", Some(libc::EPERM)), "{refusal}");
        assert!(refusal.reason.contains(words), "{refusal} lacks {words}");
    }
    // Without this one a queue is slower, no more.
    let without_tables = [libc::SYS_io_uring_register];
    let found = conformance::refusing(&without_tables, libc::EPERM, || UringBackend::default().probe());
    let Some(found) = found else { return };
    let found = found.expect("a queue with nothing registered");
    assert!(!found.registered_memory && !found.registered_files, "{found:?}");
    assert!(!found.features.iter().any(|feature| feature.starts_with("REGISTER")), "{found:?}");
}
