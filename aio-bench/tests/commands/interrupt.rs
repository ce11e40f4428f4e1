//! After Ctrl-C and the like, all files are removed and the exit code tells the signal.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;

use crate::support::bench::Bench;
use crate::support::child::{end, send, start, wait_until};
use crate::support::schema::assert_valid;

/// A run that takes minutes.
const LONG_RUN: &str = "run --op write --file new --size 1M --block-size 4K --runtime 600 --json";

/// The exit code and the result of a run, after a check that it is marked as partial.
fn end_of_run(child: Child) -> (Option<i32>, Value) {
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error: interrupted") && stderr.trim_end().lines().count() == 1, "{stderr}");
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_valid("run", &result);
    assert_eq!(result["partial"], true);
    (output.status.code(), result)
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

/// A log is a result, too, and stays.
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
    let fifo = bench.path().join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    for (input, signal, code) in [("-", Signal::SIGINT, 130), ("fifo", Signal::SIGTERM, 143)] {
        let mut plot = Command::new(crate::PROGRAM);
        plot.args(["plot", input, "--out", "a.svg"]).current_dir(bench.path());
        let mut child = plot.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Open until the end, so that the command keeps waiting.
        let stdin = child.stdin.take();
        let fds = format!("/proc/{}/fd", child.id());
        // The FIFO that the command reads from, or stdin opened again.
        let opened = |fd: fs::DirEntry| {
            let file = fs::read_link(fd.path()).ok();
            let stdin = fs::read_link(format!("{fds}/0")).ok();
            file.is_some()
                && if input == "-" { file == stdin && fd.file_name() != "0" } else { file.as_ref() == Some(&fifo) }
        };
        wait_until(&mut child, || fs::read_dir(&fds).is_ok_and(|fds| fds.flatten().any(opened)));
        send(&child, signal);
        let (ended, _, stderr) = end(child);
        assert!(ended == Some(code) && stderr.contains("interrupted"), "{input}: {ended:?} {stderr}");
        drop(stdin);
        assert_eq!(bench.names(), ["fifo"]);
    }
}

#[test]
fn a_comparison_tells_what_it_has() {
    let bench = Bench::new();
    let mut child =
        start(&bench, "compare --size 16M --rounds 1000 --only save,read --threads 2 --json --out report");
    // A new folder, beside that of the report.
    wait_until(&mut child, || bench.names().len() == 2);
    send(&child, Signal::SIGTERM);
    let (code, stdout, stderr) = end(child);
    assert!(code == Some(143) && stderr.starts_with("error: interrupted"), "{code:?} {stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_valid("compare", &report);
    assert_eq!((&report["partial"], bench.names()), (&true.into(), vec!["report".to_owned()]));
    let written: Value = serde_json::from_slice(&bench.contents("report/report.json")).unwrap();
    assert_eq!(written, report);
    let page = String::from_utf8(bench.contents("report/report.md")).unwrap();
    assert!(page.contains("**PARTIAL: interrupted; this is what there was until then.**"), "{page}");
}

#[test]
fn a_fio_that_runs_is_ended_too() {
    let bench = Bench::new();
    bench.file(
        "fio",
        b"#!/bin/sh\n[ \"$1\" = --version ] && exit\nmarks=${0%/*}\n/bin/sleep 60 &\n\
          trap 'kill $!; : > \"$marks/ended\"; exit 1' TERM\n: > \"$marks/started\"\nwait\n",
    );
    fs::set_permissions(bench.path().join("fio"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut compare = Command::new(crate::PROGRAM);
    compare.args("compare --size 1M --rounds 1 --only read --json".split(' ')).current_dir(bench.path());
    compare.env("PATH", bench.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = compare.spawn().unwrap();
    wait_until(&mut child, || bench.names().contains(&"started".to_owned()));
    send(&child, Signal::SIGTERM);
    let (code, stdout, stderr) = end(child);
    assert!(code == Some(143) && stderr.starts_with("error: interrupted"), "{code:?} {stderr}");
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap()["partial"], true);
    let mut names = bench.names();
    names.sort();
    assert_eq!(names, ["ended", "fio", "started"]);
}
