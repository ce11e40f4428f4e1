//! Ctrl-C, and the like: everything goes, and the exit code says why.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::bench::Bench;
use crate::schema::assert_valid;

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

/// The exit code, stdout and stderr.
pub(crate) fn end(child: Child) -> (Option<i32>, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// What a swap printed says that it is not all, and is described.
fn assert_partial(stdout: &str) {
    let partial = serde_json::from_str(stdout).unwrap();
    assert_valid("swap", &partial);
    assert_eq!((&partial["partial"], &partial["verified"]), (&true.into(), &false.into()), "{partial}");
    let rows = partial["backends"].as_array().unwrap();
    let (last, through) = rows.split_last().unwrap();
    assert_eq!(last["reason"], "interrupted", "{partial}");
    assert!(through.iter().all(|row| row["available"] == false || row["verified"] == 128), "{partial}");
}

/// The exit code and the result of a run, which says that it is partial.
fn end_of_run(child: Child) -> (Option<i32>, Value) {
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error: interrupted") && stderr.trim_end().lines().count() == 1, "{stderr}");
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_valid("run", &result);
    assert_eq!(result["partial"], true);
    (output.status.code(), result)
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
        let (ended, stdout, stderr) = end(child);
        assert_partial(&stdout);
        assert_eq!((ended, bench.names()), (Some(code), Vec::new()), "{stderr}");
        assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
        assert!(stderr.starts_with("error: interrupted"), "{stderr}");
    }
}

#[test]
fn text_says_that_it_is_partial() {
    let bench = Bench::new();
    let mut child = start(&bench, LONG_SWAP.trim_end_matches(" --json"));
    wait_until(&mut child, || writes_tensors(bench.path()));
    send(&child, Signal::SIGINT);
    let (code, stdout, stderr) = end(child);
    assert_eq!(code, Some(130), "{stderr}");
    assert!(stdout.contains("PARTIAL") && stdout.contains("of 128, interrupted"), "{stdout}");
}

#[test]
fn the_second_signal_is_cleaned_up_after_too() {
    let bench = Bench::new();
    let mut child = start(&bench, LONG_SWAP);
    wait_until(&mut child, || writes_tensors(bench.path()));
    send(&child, Signal::SIGINT);
    send(&child, Signal::SIGTERM);
    let (code, stdout, stderr) = end(child);
    if !stdout.is_empty() {
        assert_partial(&stdout);
    }
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
    let (code, result) = end_of_run(child);
    assert_eq!((code, bench.names()), (Some(130), vec!["other".to_owned()]));
    assert!(result["ios"].as_u64().unwrap() > 0 && result["seconds"].as_f64().unwrap() > 0.0, "{result}");
}

/// A log is a result, too.
#[test]
fn what_was_logged_until_then_stays() {
    for (signal, code) in [(Signal::SIGHUP, 129), (Signal::SIGINT, 130)] {
        let bench = Bench::new();
        bench.file("new", &[0; 1 << 20]);
        let mut child = start(&bench, &format!("{LONG_RUN} --overwrite --verify --log l.hlog"));
        wait_until(&mut child, || bench.contents("new").iter().any(|byte| *byte != 0));
        send(&child, signal);
        let (ended, result) = end_of_run(child);
        assert_eq!((ended, &result["verify"]["read_back_bytes"]), (Some(code), &Value::Null));
        assert_eq!(bench.names(), ["l.hlog", "new"]);
        assert!(String::from_utf8(bench.contents("l.hlog")).unwrap().contains(",HISTF"));
    }
}

#[test]
fn what_is_interrupted_in_the_ramp_has_measured_nothing() {
    let bench = Bench::new();
    bench.file("new", &[0; 1 << 20]);
    let mut child = start(&bench, &format!("{LONG_RUN} --overwrite --ramp 600 --log l.hlog"));
    wait_until(&mut child, || bench.contents("new").iter().any(|byte| *byte != 0));
    send(&child, Signal::SIGINT);
    let (code, result) = end_of_run(child);
    assert_eq!((code, &result["ios"], &result["paths"]["bytes_staged"]), (Some(130), &0.into(), &0.into()));
    assert_eq!(bench.names(), ["new"], "and logged nothing");
}

#[test]
fn a_file_that_was_there_stays() {
    let bench = Bench::new();
    bench.file("new", &[0; 1 << 20]);
    let mut child = start(&bench, &format!("{LONG_RUN} --overwrite"));
    wait_until(&mut child, || bench.contents("new").iter().any(|byte| *byte != 0));
    send(&child, Signal::SIGTERM);
    assert_eq!(end_of_run(child).0, Some(143));
    assert_eq!(bench.contents("new").len(), 1 << 20);
}

#[test]
fn a_plot_that_waits_for_its_input_ends_at_once() {
    let bench = Bench::new();
    let mut plot = Command::new(cargo_bin!("aio-bench"));
    plot.args(["plot", "-", "--out", "a.svg"]).current_dir(bench.path());
    let mut child = plot.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Held open until the end: there is always more to wait for.
    let stdin = child.stdin.take();
    let tasks = format!("/proc/{}/task", child.id());
    let reads = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "stdin\n");
    wait_until(&mut child, || fs::read_dir(&tasks).is_ok_and(|tasks| tasks.flatten().any(reads)));
    send(&child, Signal::SIGINT);
    let (code, _, stderr) = end(child);
    assert!(code == Some(130) && stderr.contains("interrupted"), "{code:?} {stderr}");
    drop(stdin);
    assert!(bench.names().is_empty());
}

#[test]
fn a_comparison_tells_what_it_has() {
    let bench = Bench::new();
    let mut child =
        start(&bench, "compare --size 16M --rounds 1000 --only save,read --threads 2 --json --out report");
    // A folder of its own beside that of the report.
    wait_until(&mut child, || bench.names().len() == 2);
    send(&child, Signal::SIGTERM);
    let (code, stdout, stderr) = end(child);
    assert!(code == Some(143) && stderr.starts_with("error: interrupted"), "{code:?} {stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_valid("compare", &report);
    assert_eq!((&report["partial"], bench.names()), (&true.into(), vec!["report".to_owned()]));
    let written: Value = serde_json::from_slice(&bench.contents("report/report.json")).unwrap();
    assert_eq!(written, report);
}
