//! Which backend a handle gets, and what it says when it cannot have the one that was asked for.

mod support;

use std::process::Command;

use aio::{AioConfig, AioFile, AioHandle, Backend, Error, Ticket};
use static_assertions::assert_impl_all;
use support::child::{again, assert_passes, forked, is_child};
use support::{Folder, backends, pattern};

assert_impl_all!(AioHandle: Clone, Send, Sync);
assert_impl_all!(aio_core::AioHandle: Clone, Send, Sync);
assert_impl_all!(AioFile: Clone, Send, Sync);
assert_impl_all!(Ticket<Vec<u8>>: Send, Unpin, Future);
assert_impl_all!(Ticket<()>: Send, Unpin, Future);
assert_impl_all!(Error: Send, Sync, std::error::Error);
assert_impl_all!(aio::buf::AlignedBuf: Send, Sync);

#[test]
fn auto_takes_the_first_that_works() {
    if std::env::var_os("AIO_BACKEND").is_some() {
        return;
    }
    let Some(first) = backends().first().copied() else { return };
    let aio = aio::builder().build().unwrap();
    assert_eq!(aio.backend_name(), first.name());
    assert!(Backend::Auto.probe().is_ok());
}

#[test]
fn each_backend_can_be_forced() {
    for backend in backends() {
        let aio = aio::builder().backend(backend).build().unwrap();
        assert_eq!(aio.backend_name(), backend.name());
        let mut config = AioConfig::default();
        config.backend = Some(backend.name().to_owned());
        let aio = aio::builder().config(config).build().unwrap();
        assert_eq!(aio.backend_name(), backend.name());
    }
}

#[test]
fn a_backend_that_was_not_compiled_in_says_so() {
    for backend in [Backend::Uring, Backend::Libaio, Backend::Pthread] {
        if Backend::COMPILED.contains(&backend) {
            continue;
        }
        let error = aio::builder().backend(backend).build().unwrap_err();
        let expected = format!(
            "backend {backend} is not available: it was not compiled in: enable the feature `{backend}` of tensor-aio"
        );
        assert_eq!(error.to_string(), expected);
    }
}

/// The environment is the process's, so each case is a child that runs `report_backend`.
#[test]
fn the_environment_overrides_auto_only() {
    let ask = |variable: &str, forced: Option<Backend>| {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["report_backend", "--exact", "--nocapture"]).env("AIO_BACKEND", variable);
        child.env("AIO_TEST_REPORT", forced.map_or("auto", Backend::name));
        String::from_utf8(child.output().unwrap().stdout).unwrap()
    };
    for backend in backends() {
        let name = backend.name();
        assert!(ask(name, None).contains(&format!("got {name}")), "{name}");
        assert!(ask(&name.to_uppercase(), None).contains(&format!("got {name}")), "{name}");
        for forced in backends() {
            assert!(ask(name, Some(forced)).contains(&format!("got {forced}")), "{name}, forced {forced}");
        }
    }
    let refused = ask("fastest", None);
    let sentence = "AIO_BACKEND = \"fastest\" is not valid: it is one of auto, uring, libaio, pthread";
    assert!(refused.contains(sentence), "{refused}");
    assert!(ask("", None).contains("got "));
}

#[test]
fn report_backend() {
    let Ok(forced) = std::env::var("AIO_TEST_REPORT") else { return };
    match aio::builder().backend(forced.parse().unwrap()).build() {
        Ok(aio) => println!("got {}", aio.backend_name()),
        Err(error) => println!("{error}"),
    }
}

/// A probe needs a file in memory, or in the temporary folder; a queue needs neither. So the probe fails without
/// them, and the second build does not.
#[test]
fn a_process_probes_a_backend_once() {
    const NAME: &str = "a_process_probes_a_backend_once";
    if !is_child(NAME) {
        return assert_passes(again(NAME).env("TMPDIR", "/proc"));
    }
    let no_files = |work: fn(Backend) -> bool, backend| {
        aio_testkit::conformance::refusing(&[libc::SYS_memfd_create], libc::EPERM, || work(backend))
    };
    let builds = |backend| match aio::builder().backend(backend).build() {
        Ok(_) => true,
        Err(Error::Unavailable(unavailable)) => {
            assert!(unavailable.reason.contains("memfd_create"), "{unavailable}");
            false
        }
        Err(error) => panic!("{error}"),
    };
    for backend in backends() {
        let Some(built) = no_files(builds, backend) else { return };
        assert!(!built, "a probe of {backend} needs no file");
        // What failed is tried again, and what succeeded is not.
        assert!(builds(backend));
        assert_eq!(no_files(builds, backend), Some(true), "{backend} was probed again");
        // A child may have other limits.
        let in_child = |backend| forked(|| (aio::builder().backend(backend).build().is_ok()).then_some(1)) == 0;
        assert_eq!(no_files(in_child, backend), Some(true), "{backend} was not probed in a child");
    }
}

#[test]
fn deepspeeds_configuration_is_understood() {
    let Some(backend) = backends().first().copied() else { return };
    let text = r#"{
        "train_batch_size": 8,
        "aio": {"block_size": 262144, "queue_depth": 16, "intra_op_parallelism": 2,
                "single_submit": "false", "overlap_events": "true"}
    }"#;
    let aio = aio::builder().config(AioConfig::from_json(text).unwrap()).backend(backend).build().unwrap();
    assert_eq!((aio.config().block_size, aio.config().queue_depth), (262_144, 16));
    let folder = Folder::new();
    let file = aio.create(folder.path("t")).unwrap();
    let data = pattern(1, 3 << 20);
    file.write(data.clone(), 0).wait().unwrap();
    assert!(file.read(vec![0; data.len()], 0).wait().unwrap() == data);
}

#[test]
fn every_way_of_submitting_moves_the_same_bytes() {
    for backend in backends() {
        for (single_submit, overlap_events) in [(false, false), (false, true), (true, false), (true, true)] {
            for (threads, queue_depth) in [(1, 1), (1, 3), (3, 4)] {
                let aio = aio::builder()
                    .backend(backend)
                    .block_size(4096)
                    .queue_depth(queue_depth)
                    .threads(threads)
                    .single_submit(single_submit)
                    .overlap_events(overlap_events)
                    .build()
                    .unwrap();
                let folder = Folder::new();
                let file = aio.create(folder.path("t")).unwrap();
                let data = pattern(queue_depth as u64, 300_001);
                let background = file.background().write(data.clone(), 1_000_000);
                file.write(data.clone(), 3).wait().unwrap();
                background.wait().unwrap();
                assert!(file.read(vec![0; data.len()], 3).wait().unwrap() == data);
                assert!(file.background().read(vec![0; data.len()], 1_000_000).wait().unwrap() == data);
            }
        }
    }
}
