//! `aio-bench probe`.

use std::fs::File;
use std::process::{Command, Stdio};

use assert_cmd::cargo::cargo_bin;

use crate::bench::{Bench, backends, keys};

#[test]
fn json_has_all_that_was_looked_at() {
    let bench = Bench::new();
    let probed = bench.json("probe . --json");
    assert_eq!(
        keys(&probed),
        [
            "aio_slots",
            "auto",
            "backends",
            "cpus",
            "dir",
            "huge_pages",
            "io_uring_disabled",
            "kernel",
            "memlock",
            "page_size"
        ]
    );
    let names: Vec<_> = probed["backends"].as_array().unwrap().iter().map(|backend| &backend["backend"]).collect();
    assert_eq!(names, ["uring", "libaio", "pthread"]);
    assert_eq!(probed["auto"], backends()[0]);
    assert!(bench.names().is_empty(), "{:?}", bench.names());
}

#[test]
fn text_tells_the_same() {
    let text = Bench::new().text("probe");
    for words in ["uring", "libaio", "pthread", "RLIMIT_MEMLOCK", "aio-max-nr", "huge pages", "direct I/O"] {
        assert!(text.contains(words), "{words}\n{text}");
    }
}

#[test]
fn a_folder_that_takes_no_files_is_reported_with_the_reason() {
    // Not even root makes files there.
    let probed = Bench::new().json("probe /proc --json");
    assert!(probed["dir"]["reason"].as_str().unwrap().contains("/proc"), "{probed}");
    assert_eq!(probed["dir"]["direct_io"], serde_json::Value::Null);
}

#[test]
fn the_environment_decides_what_auto_means() {
    let bench = Bench::new();
    let probed = bench.command("probe --json").env("AIO_BACKEND", "pthread").assert().success().get_output().clone();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&probed.stdout).unwrap()["auto"], "pthread");
    let refused = bench.command("probe --json").env("AIO_BACKEND", "tape").assert().code(2).get_output().clone();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("AIO_BACKEND"));
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(cargo_bin!("aio-bench")).arg("probe").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"));
}

#[test]
fn a_reader_that_went_away_is_none() {
    let mut probe = Command::new(cargo_bin!("aio-bench"))
        .arg("probe")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(probe.stdout.take());
    let output = probe.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}
