//! After Ctrl-C and the like, all files are removed and the exit code tells the signal.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::bench::Bench;
use crate::support::child::{end, send, start, wait_until};
use crate::support::schema::assert_valid;

/// What every command says of a result that is not whole.
const PARTIAL: &str = "PARTIAL: interrupted; this is what there was until then";

/// A swap that goes on for long after its first file.
const LONG_SWAP: &str = "swap --tensors 128 --tensor-size 1M --json";

/// Checks that a swap's result is marked as partial and matches its schema.
fn assert_partial(stdout: &str) {
    let partial: Value = serde_json::from_str(stdout).unwrap();
    assert_valid("swap", &partial);
    assert_eq!((&partial["partial"], &partial["verified"]), (&true.into(), &false.into()), "{partial}");
    let rows = partial["backends"].as_array().unwrap();
    let interrupted = |row: &&Value| row["reason"] == "interrupted";
    assert_eq!(rows.iter().filter(interrupted).count(), 1, "{partial}");
    let through = rows.iter().filter(|row| !interrupted(row)).flat_map(|row| row["passes"].as_array().unwrap());
    assert!(through.into_iter().all(|pass| pass["verified"] == 128), "{partial}");
}

/// Whether a swap is writing tensors in its folder.
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
    let mut child = start(&bench, &format!("{} --passes 5", LONG_SWAP.trim_end_matches(" --json")));
    wait_until(&mut child, || writes_tensors(bench.path()));
    send(&child, Signal::SIGINT);
    let (code, stdout, stderr) = end(child);
    assert_eq!(code, Some(130), "{stderr}");
    assert!(stdout.contains(PARTIAL) && stdout.contains(" of 5,") && stdout.contains("interrupted"), "{stdout}");
}

#[test]
fn a_soak_says_it_in_the_same_words() {
    let bench = Bench::new();
    let mut child = start(&bench, "soak --runtime 1h --size 16M");
    wait_until(&mut child, || !bench.names().is_empty());
    send(&child, Signal::SIGINT);
    let (code, stdout, stderr) = end(child);
    assert!(code == Some(130) && stdout.contains(PARTIAL), "{stdout}{stderr}");
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
