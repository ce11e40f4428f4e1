//! `tensor-aio verify`.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::model::{Model, damage, whole};
use crate::support::bench::{Bench, backends};
use crate::support::child::{end, send, start, wait_until};
use crate::support::schema::assert_valid;

/// Runs a line that ends with this code; returns the object and stderr.
fn verify(bench: &Bench, line: &str, code: i32) -> (Value, String) {
    let output = bench.command(&format!("verify {line} --json")).assert().code(code).get_output().clone();
    let found = serde_json::from_slice(&output.stdout).unwrap();
    assert_valid("verify", &found);
    assert_eq!((&found["verified"], &found["partial"]), (&json!(code == 0), &json!(false)), "{found:#}");
    (found, String::from_utf8(output.stderr).unwrap())
}

#[test]
fn what_is_as_it_was_saved_verifies_on_every_backend() {
    let bench = Bench::new();
    whole(&["a", "b"]).save(&bench, "m.safetensors");
    for backend in backends() {
        let line = "verify m.safetensors --json";
        let output = bench.command(line).env("AIO_BACKEND", backend).assert().success().get_output().clone();
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let path = &found["paths"][0];
        assert_eq!(
            (&path["outcome"], &path["compared"], &path["compared_bytes"]),
            (&json!("intact"), &json!(2), &json!(8000))
        );
    }
    let text = bench.text("verify m.safetensors");
    assert!(text.contains("as it was saved"), "{text}");
}

#[test]
fn a_damaged_tensor_is_named_with_its_file_and_the_others_are_compared() {
    let bench = Bench::new();
    fs::create_dir(bench.path().join("d")).unwrap();
    let odd = "b\u{1b}[31m";
    let names = ["a", odd, "c"];
    Model { shard_size: 4000, ..whole(&names) }.save(&bench, "d/m.safetensors.index.json");
    whole(&["a"]).save(&bench, "m.safetensors");
    let file = damage(&bench, "d", odd);
    let (found, stderr) = verify(&bench, "d m.safetensors", 1);
    let [bad, good] = [0, 1].map(|at| &found["paths"][at]);
    assert_eq!((&bad["outcome"], &bad["compared"]), (&json!("damaged"), &json!(3)));
    assert_eq!((&good["outcome"], &good["compared"]), (&json!("intact"), &json!(1)));
    let damaged = bad["damaged"].as_array().unwrap();
    assert_eq!((damaged.len(), &damaged[0]["name"]), (1, &json!(odd)));
    assert_eq!(damaged[0]["file"], format!("d/{file}"));
    assert_ne!(damaged[0]["expected"], damaged[0]["found"]);
    let start = format!("error: tensor \"b\\u{{1b}}[31m\" of d/{file} has the checksum ");
    assert!(stderr.starts_with(&start), "{stderr}");

    damage(&bench, "m.safetensors", "a");
    let output = bench.command("verify m.safetensors d").assert().code(1).get_output().clone();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(stderr.starts_with("error: 2 tensors are damaged; the first: tensor \"a\" of m.safetensors"), "{stderr}");
    for words in ["1 damaged", "tensor \"a\" of m.safetensors has", &start["error: ".len()..]] {
        assert!(stdout.contains(words), "{words}\n{stdout}");
    }
}

#[test]
fn files_without_checksums_have_nothing_to_compare_and_are_no_failure() {
    let bench = Bench::new();
    Model { checksums: false, ..whole(&["a"]) }.save(&bench, "plain.safetensors");
    bench.file("none.safetensors", b"\x02\0\0\0\0\0\0\0{}");
    let (found, _) = verify(&bench, "plain.safetensors none.safetensors", 0);
    for path in found["paths"].as_array().unwrap() {
        assert_eq!((&path["outcome"], &path["compared"]), (&json!("nothing_to_compare"), &json!(0)), "{path}");
    }
    assert!(bench.text("verify plain.safetensors").contains("nothing to compare"));
}

#[test]
fn a_path_that_cannot_be_read_keeps_no_other_from_being_compared() {
    let bench = Bench::new();
    whole(&["a"]).save(&bench, "m.safetensors");
    bench.file("bad.safetensors", b"12345678{}");
    let (found, stderr) = verify(&bench, "missing bad.safetensors m.safetensors", 1);
    let outcomes: Vec<_> = found["paths"].as_array().unwrap().iter().map(|path| &path["outcome"]).collect();
    assert_eq!(outcomes, ["failed", "failed", "intact"]);
    let first = "error: 0 tensors are damaged, and 2 paths could not be read; the first: cannot open missing: ";
    assert!(stderr.starts_with(first), "{stderr}");
    let (_, stderr) = verify(&bench, "bad.safetensors m.safetensors", 1);
    assert!(stderr.starts_with("error: bad.safetensors is not a usable safetensors file: "), "{stderr}");
    bench.refused("verify", 2);
}

#[test]
fn interrupted_it_prints_what_it_has() {
    let bench = Bench::new();
    whole(&["a", "b"]).save(&bench, "m.safetensors");
    // So many that only the signal can end it.
    let paths = "m.safetensors ".repeat(20_000);
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let mut child = start(&bench, &format!("verify --json {}", paths.trim_end()));
        // The thread that handles signals is there before the threads of the engine.
        let threads = format!("/proc/{}/task", child.id());
        wait_until(&mut child, || fs::read_dir(&threads).is_ok_and(|threads| threads.count() > 2));
        send(&child, signal);
        let (ended, stdout, stderr) = end(child);
        assert_eq!(ended, Some(code), "{stderr}");
        let found: Value = serde_json::from_str(&stdout).unwrap();
        assert_valid("verify", &found);
        assert_eq!(found["partial"], true);
        assert!(found["paths"].as_array().unwrap().len() < 20_000);
        assert!(stderr.starts_with("error: interrupted"), "{stderr}");
    }
}

#[test]
fn a_stdout_that_takes_nothing_is_an_error() {
    let bench = Bench::new();
    whole(&["a"]).save(&bench, "m.safetensors");
    for line in ["inspect", "verify"] {
        let script = format!("\"$0\" {line} m.safetensors >/dev/full");
        let output =
            Command::new("sh").args(["-c", &script, crate::PROGRAM]).current_dir(bench.path()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && stderr.contains("cannot write the result to stdout"), "{stderr}");
    }
}
