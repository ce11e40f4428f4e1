//! Ctrl-C, and the like: everything goes, and the exit code says why.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bench::Bench;

/// A swap that goes on for long after its first file.
const LONG_SWAP: &str = "swap --tensors 128 --tensor-size 1M --json";

/// A run that takes minutes.
const LONG_RUN: &str = "run --op write --file new --size 1M --block-size 4K --runtime 600 --json";

pub(crate) fn start(bench: &Bench, line: &str) -> Child {
    Command::new(cargo_bin!("aio-bench"))
        .args(line.split(' '))
        .current_dir(bench.path())
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Looks again and again until `reached`; a child that ends instead has failed the test.
pub(crate) fn wait_until(child: &mut Child, reached: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !reached() {
        assert_eq!(child.try_wait().unwrap(), None, "it ended too early");
        assert!(Instant::now() < deadline, "it did not get there");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

/// The exit code and stderr; stdout is empty.
fn end(child: Child) -> (Option<i32>, String) {
    let (code, stdout, stderr) = end_with_output(child);
    assert_eq!(stdout, "");
    (code, stderr)
}

/// The exit code, stdout and stderr.
pub(crate) fn end_with_output(child: Child) -> (Option<i32>, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Whether some tensor is being written in the folder that a swap made.
fn writes_tensors(dir: &Path) -> bool {
    let folders = fs::read_dir(dir).unwrap().flatten();
    let mut files = folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten().flatten());
    files.any(|file| file.file_name().to_string_lossy().contains(".tensor"))
}

#[test]
fn a_swap_is_cleaned_up() {
    for (signal, code, layout) in [
        (Signal::SIGINT, 130, "files"),
        (Signal::SIGTERM, 143, "files"),
        (Signal::SIGHUP, 129, "files"),
        (Signal::SIGINT, 130, "extents"),
    ] {
        let bench = Bench::new();
        let mut child = start(&bench, &format!("{LONG_SWAP} --layout {layout}"));
        wait_until(&mut child, || writes_tensors(bench.path()));
        send(&child, signal);
        let (ended, stderr) = end(child);
        assert_eq!((ended, bench.names()), (Some(code), Vec::new()), "{stderr}");
        assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
        assert!(stderr.starts_with("error: interrupted"), "{stderr}");
    }
}

#[test]
fn the_second_signal_is_cleaned_up_after_too() {
    let bench = Bench::new();
    let mut child = start(&bench, LONG_SWAP);
    wait_until(&mut child, || writes_tensors(bench.path()));
    send(&child, Signal::SIGINT);
    send(&child, Signal::SIGTERM);
    let (code, stderr) = end(child);
    assert!(matches!(code, Some(130 | 143)), "{code:?} {stderr}");
    assert!(bench.names().is_empty(), "{:?} {stderr}", bench.names());
}

#[test]
fn a_file_that_an_interrupted_run_made_is_removed() {
    let bench = Bench::new();
    bench.file("other", b"precious");
    let mut child = start(&bench, LONG_RUN);
    let is_written = || fs::read(bench.path().join("new")).is_ok_and(|bytes| bytes.iter().any(|byte| *byte != 0));
    wait_until(&mut child, is_written);
    send(&child, Signal::SIGINT);
    assert_eq!(end(child).0, Some(130));
    assert_eq!(bench.names(), ["other"]);
}

#[test]
fn a_file_that_was_there_stays() {
    let bench = Bench::new();
    bench.file("new", &[0; 1 << 20]);
    let mut child = start(&bench, &format!("{LONG_RUN} --overwrite"));
    wait_until(&mut child, || bench.contents("new").iter().any(|byte| *byte != 0));
    send(&child, Signal::SIGTERM);
    assert_eq!(end(child).0, Some(143));
    assert_eq!(bench.contents("new").len(), 1 << 20);
}
