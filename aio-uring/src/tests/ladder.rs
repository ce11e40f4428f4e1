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

#[test]
fn queues_are_opened_through_the_trait() {
    for backend in rungs() {
        let backend: &dyn IoBackend = &backend;
        assert_eq!(backend.name(), "uring");
        let file = direct_file(4 * PAGE);
        let memory = Memory::new(4 * PAGE);
        let mut queue = backend.open_queue(&config(4)).unwrap();
        submit(queue.as_mut(), &reads(&file, &memory, 4, PAGE));
        assert_eq!(queue.in_flight(), 4);
        assert!(reap_all(queue.as_mut()).into_iter().all(|(_, result)| result == Ok(PAGE)));
        assert!(memory.bytes() == pattern(0, 4 * PAGE));
    }
}

/// The suite takes a while, and the rungs between the best one (in `tests/conformance.rs`) and this differ little.
#[test]
fn the_last_rung_conforms() {
    if let Some(backend) = rungs().last() {
        conformance::queue(backend);
    }
}
