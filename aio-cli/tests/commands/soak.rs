//! `tensor-aio soak`.

use nix::sys::signal::Signal;

use crate::support::bench::{Bench, backends};
use crate::support::child::{end, send, start, wait_until};
use crate::support::schema::assert_valid;

#[test]
fn everything_is_verified_on_every_backend() {
    let bench = Bench::new();
    let soak = bench.json("soak --runtime 0.5 --size 16M --seed 3 --json");
    assert_valid("soak", &soak);
    assert_eq!((&soak["passed"], &soak["partial"], &soak["left_behind"]), (&true.into(), &false.into(), &().into()));
    let rows = soak["backends"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| row["backend"].as_str().unwrap()).collect();
    assert_eq!(names, backends());
    for row in rows {
        assert!(row["ops"].as_u64() > Some(0) && row["bytes_verified"].as_u64() > Some(0), "{row}");
        assert_eq!((&row["faults"], &row["faults_by_kind"]), (&0.into(), &().into()), "{row}");
    }
    assert_eq!(bench.names(), Vec::<String>::new());
}

#[test]
fn faults_are_injected_and_survived() {
    let bench = Bench::new();
    let soak = bench.json("soak --runtime 1 --size 16M --seed 5 --faults --backend pthread --json");
    assert_valid("soak", &soak);
    let row = &soak["backends"][0];
    assert_eq!((&soak["passed"], &row["mismatches"], &row["errors"]), (&true.into(), &0.into(), &0.into()), "{soak}");
    // Faults that any queue meets, however deep it is.
    for kind in ["short_transfers", "interrupted_or_again", "delayed_blocks"] {
        assert!(row["faults_by_kind"][kind].as_u64() > Some(0), "{kind}: {row}");
    }
}

#[test]
fn people_get_a_table_and_no_warnings() {
    let bench = Bench::new();
    let output = bench.command("soak --runtime 0.2 --size 16M --faults").assert().success().get_output().clone();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("with injected faults, seed ") && text.contains("0 mismatches"), "{text}");
    assert!(text.trim_end().ends_with("left behind: nothing"), "{text}");
    // Figures end where those above them end.
    let figures = text.lines().filter(|line| line.starts_with('│')).skip(1).flat_map(|row| row.split('┆').skip(1));
    assert!(
        figures.clone().count() >= 6 && figures.clone().all(|cell| !cell.contains("  │") && !cell.ends_with("  "))
    );
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn an_interrupted_soak_says_what_it_had() {
    let bench = Bench::new();
    let mut child = start(&bench, "soak --runtime 1h --size 16M --json");
    wait_until(&mut child, || !bench.names().is_empty());
    send(&child, Signal::SIGINT);
    let (code, stdout, stderr) = end(child);
    assert_eq!(code, Some(130), "{stderr}");
    let soak = serde_json::from_str(&stdout).unwrap();
    assert_valid("soak", &soak);
    assert_eq!((&soak["partial"], &soak["passed"]), (&true.into(), &true.into()), "{soak}");
    assert_eq!(bench.names(), Vec::<String>::new());
}

#[test]
fn what_cannot_be_is_refused() {
    let bench = Bench::new();
    for (line, code, sentence) in [
        ("soak --runtime 0", 2, "is not a time"),
        ("soak --hours 8", 2, "'--runtime'"),
        ("soak --seconds=60", 2, "'--runtime'"),
        ("soak --seed x", 2, "'x' for '--seed <N>': it is not a whole number from 0 to"),
        ("soak --size 1M", 2, "at least 16M"),
        ("soak --backend auto", 2, "name one backend"),
        ("soak --backend pthread --backend pthread", 2, "given twice"),
        ("soak --dir missing", 1, "cannot use the folder missing"),
        ("soak --size 1E", 1, "are needed"),
    ] {
        let stderr = bench.refused(line, code);
        assert!(stderr.contains(sentence), "{line}: {stderr}");
        // Of another option, whose name is like the old one.
        assert!(!stderr.contains("soak --json"), "{line}: {stderr}");
    }
}
