//! `tensor-aio tune` on small files, for a few seconds: tests check what it reports, not which configuration wins.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileTypeExt;
use std::process::{Command, Stdio};

use aio::{AioConfig, Backend, DirectMode};
use serde_json::{Value, json};

use crate::support::bench::Bench;
use crate::support::child::{end, send, start, wait_until};
use crate::support::schema::assert_valid;
use nix::sys::signal::Signal;

/// Quick, and long enough for the defaults and a few others.
const QUICK: &str = "tune . --size 8M --runtime 3";

#[test]
fn one_folder_gets_an_answer_that_is_as_described() {
    let bench = Bench::new();
    let result = bench.json(&format!("{QUICK} --json"));
    assert_valid("tune", &result);
    assert_eq!(
        (&result["partial"], &result["together"], &result["written"]),
        (&json!(false), &json!(null), &json!(null))
    );
    assert_eq!((&result["op_bytes"], &result["buffer_bytes"]), (&json!(1 << 20), &json!(8 << 20)));
    let folder = &result["folders"][0];
    assert_eq!(folder["dir"], bench.path().canonicalize().unwrap().to_str().unwrap());

    let trials = folder["trials"].as_array().unwrap();
    let defaults = &folder["best"]["defaults"]["config"];
    assert_eq!(defaults["block_size"], AioConfig::default().block_size);
    for direction in ["read", "write"] {
        let of = |trial: &&Value| trial["config"] == *defaults && trial["direction"] == direction;
        assert!(trials.iter().filter(of).count() >= 1, "{direction}: {result:#}");
    }
    for trial in trials {
        let values: Vec<f64> =
            trial["gb_per_s"]["values"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
        let [low, median, high] = ["low", "median", "high"].map(|key| trial["gb_per_s"][key].as_f64().unwrap());
        assert!(0.0 < low && low <= median && median <= high && values.iter().all(|rate| *rate > 0.0), "{trial:#}");
    }
    let mut measured: Vec<_> = trials.iter().map(|trial| trial["config"].to_string()).collect();
    measured.sort();
    measured.dedup();
    assert_eq!(folder["measured"], measured.len());
    let recommended = &folder["recommendation"];
    assert_eq!(recommended["is_defaults"], recommended["config"] == *defaults);
    assert!(measured.contains(&recommended["config"].to_string()));
    assert!(bench.names().is_empty(), "{:?}", bench.names());
}

#[test]
fn the_text_has_a_table_and_a_recommendation() {
    let bench = Bench::new();
    let text = bench.text(QUICK);
    for words in
        ["candidate", "read GB/s", "write GB/s", "CPU s per GB", "defaults", "best for reads", "recommended:"]
    {
        assert!(text.contains(words), "{words}\n{text}");
    }
    assert!(bench.names().is_empty(), "{:?}", bench.names());
}

#[test]
fn what_is_saved_is_read_back_by_the_library_and_as_deepspeed_reads_it() {
    let bench = Bench::new();
    let result = bench.json(&format!("{QUICK} --json --write aio.json"));
    assert_valid("tune", &result);
    assert_eq!((bench.names(), &result["written"]), (vec!["aio.json".to_owned()], &json!("aio.json")));
    let recommended = &result["folders"][0]["recommendation"]["config"];

    let config = AioConfig::from_json_file(bench.path().join("aio.json")).unwrap();
    assert_eq!(config, config_of(recommended));
    let saved: Value = serde_json::from_slice(&bench.contents("aio.json")).unwrap();
    assert_eq!(saved, config.to_json_value());

    // The block also works when pasted among other blocks of a DeepSpeed configuration.
    let ds = json!({ "train_batch_size": 8, "aio": saved["aio"], "tensor_aio": saved["tensor_aio"] });
    assert_eq!(AioConfig::from_json(&ds.to_string()).unwrap(), config);
    read_by_python(&bench, recommended);
}

/// The engine's configuration for a candidate in a result.
fn config_of(shown: &Value) -> AioConfig {
    let number = |key: &str| usize::try_from(shown[key].as_u64().unwrap()).unwrap();
    let mut config = AioConfig::default();
    config.backend = shown["backend"].as_str().map(str::to_owned);
    config.block_size = number("block_size");
    config.queue_depth = number("queue_depth");
    config.intra_op_parallelism = number("intra_op_parallelism");
    config.single_submit = shown["single_submit"].as_bool().unwrap();
    config.overlap_events = shown["overlap_events"].as_bool().unwrap();
    config.direct = shown["direct"].as_str().unwrap().parse::<DirectMode>().unwrap();
    config
}

/// DeepSpeed parses the block with `json.load`, looks up keys, and passes the values to a C++ constructor that takes no
/// strings, and no floats for integers.
fn read_by_python(bench: &Bench, recommended: &Value) {
    const READER: &str = r#"
import json, sys
config = json.load(open("aio.json"))
aio = config["aio"]
types = {"block_size": int, "queue_depth": int, "single_submit": bool, "overlap_events": bool,
         "intra_op_parallelism": int}
assert set(aio) == set(types), aio
for key, kind in types.items():
    assert type(aio[key]) is kind, (key, aio[key])
assert type(config["tensor_aio"]) is dict
json.dump(aio, sys.stdout)
"#;
    let Ok(output) = Command::new("python3").arg("-c").arg(READER).current_dir(bench.path()).output() else {
        println!("SKIPPED the reading by Python: there is no python3");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (key, value) in read.as_object().unwrap() {
        assert_eq!(value, &recommended[key], "{key}");
    }
}

#[test]
fn several_folders_are_tuned_alone_and_then_run_together() {
    let bench = Bench::new();
    for name in ["a", "b"] {
        fs::create_dir(bench.path().join(name)).unwrap();
    }
    let result = bench.json("tune a b --size 8M --runtime 6 --json");
    assert_valid("tune", &result);
    assert_eq!(result["folders"].as_array().unwrap().len(), 2);
    for direction in ["read", "write"] {
        let rates = &result["together"][direction];
        let alone: Vec<f64> = rates["alone"].as_array().unwrap().iter().map(|rate| rate.as_f64().unwrap()).collect();
        assert_eq!((alone.len(), rates["each"].as_array().unwrap().len()), (2, 2));
        assert!((rates["sum_of_alone"].as_f64().unwrap() - (alone[0] + alone[1])).abs() < 1e-9);
        assert!(rates["together"]["median"].as_f64().unwrap() > 0.0);
    }
    let notes = result["notes"].to_string();
    assert!(notes.contains("on the same device"), "{notes}");
    for name in ["a", "b"] {
        assert_eq!(fs::read_dir(bench.path().join(name)).unwrap().count(), 0);
    }
}

#[test]
fn a_second_is_enough_for_an_honest_answer() {
    let bench = Bench::new();
    let result = bench.json("tune . --size 1M --runtime 1 --json");
    assert_valid("tune", &result);
    let folder = &result["folders"][0];
    assert!(!folder["best"].is_null() && folder["left_out"].as_u64().unwrap() > 0, "{folder:#}");
    assert!(folder["rounds"].as_u64().unwrap() >= 5 || folder["recommendation"]["is_defaults"] == true, "{folder:#}");
}

#[test]
fn a_backend_that_is_chosen_from_outside_is_what_the_defaults_take() {
    let bench = Bench::new();
    let output = bench.command(&format!("{QUICK} --json")).env("AIO_BACKEND", "pthread").assert().success();
    let result: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!(result["folders"][0]["auto_backend"], Backend::Pthread.name());
}

#[test]
fn what_cannot_be_done_is_said_before_the_work() {
    let bench = Bench::new();
    bench.file("file", b"0123456789");
    for (line, code, words) in [
        ("tune", 2, &["DIR"][..]),
        ("tune missing", 1, &["missing", "No such file"]),
        ("tune file", 1, &["file is not a folder"]),
        ("tune . .", 2, &["named twice"]),
        ("tune . --size 4096P", 1, &["free", "needed"]),
        ("tune . --size 1K", 2, &["--size", "at least 1M"]),
        ("tune . --runtime 0", 2, &["--runtime", "10s"]),
        ("tune . --runtime -5", 2, &["--runtime", "is not a time"]),
        ("tune . --runtime soon", 2, &["--runtime", "2h"]),
        ("tune . --runtime 0.5", 2, &["--runtime", "at least 1s"]),
        ("tune . --budget 5", 2, &["'--budget'", "'--runtime'"]),
        ("tune . --time 5", 2, &["'--time'", "tip: ", "'--runtime'"]),
        ("tune . --write no/such/folder.json", 1, &["cannot write no/such/folder.json"]),
        ("tune . --write .", 1, &["cannot write .", "folder"]),
        ("tune . --write file", 1, &["file exists", "--overwrite"]),
        ("tune . --overwrite", 2, &["--write"]),
        ("tune . / --write new.json", 2, &["one DIR"]),
    ] {
        let sentence = bench.refused(line, code);
        for word in words {
            assert!(sentence.contains(word), "{line} lacks {word:?}: {sentence}");
        }
        assert_eq!(
            (bench.names(), bench.contents("file")),
            (vec!["file".to_owned()], b"0123456789".to_vec()),
            "{line}"
        );
    }
}

#[test]
fn a_file_may_be_replaced() {
    let bench = Bench::new();
    bench.file("aio.json", b"old");
    bench.text(&format!("{QUICK} --write aio.json --overwrite"));
    AioConfig::from_json_file(bench.path().join("aio.json")).unwrap();
    assert_eq!(bench.names(), ["aio.json"]);
}

#[test]
fn a_file_size_limit_is_an_error_and_leaves_nothing() {
    let bench = Bench::new();
    let program = crate::PROGRAM;
    let script = "ulimit -f 100 && exec \"$0\" tune . --size 50M --runtime 5";
    let output = Command::new("sh").args(["-c", script]).arg(program).current_dir(bench.path()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && stderr.contains("File too large"), "{stderr}");
    assert!(bench.names().is_empty(), "{:?}", bench.names());
}

#[test]
fn interrupted_it_prints_what_it_has_and_leaves_nothing() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let bench = Bench::new();
        bench.file("aio.json", b"old");
        // Long enough that only the signal can end it.
        let mut child = start(&bench, "tune . --size 8M --runtime 10m --json --write aio.json --overwrite");
        wait_until(&mut child, || bench.names().iter().any(|name| name.starts_with("tensor-aio-")));
        send(&child, signal);
        let (ended, stdout, stderr) = end(child);
        assert_eq!(ended, Some(code), "{stderr}");
        assert_eq!((bench.names(), bench.contents("aio.json")), (vec!["aio.json".to_owned()], b"old".to_vec()));
        let result: Value = serde_json::from_str(&stdout).unwrap();
        assert_valid("tune", &result);
        assert_eq!((&result["partial"], &result["written"]), (&json!(true), &json!(null)));
        assert!(stderr.starts_with("error: interrupted"), "{stderr}");
    }
}

#[test]
fn what_was_measured_before_the_signal_is_in_the_result() {
    let bench = Bench::new();
    let line = "tune . --size 8M --runtime 10m --json";
    let mut child = Command::new(crate::PROGRAM)
        .args(line.split(' '))
        .current_dir(bench.path())
        .env("RUST_LOG", "aio_cli=debug")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(|line| line.unwrap());
    // The defaults are measured twice: to warm up, and among the others.
    let measured = log.by_ref().filter(|line| line.contains("measured")).nth(3);
    assert!(measured.is_some(), "it ended too early");
    send(&child, Signal::SIGINT);
    let rest: Vec<String> = log.collect();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{rest:?}");
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_valid("tune", &result);
    let folder = &result["folders"][0];
    assert!(folder["measured"].as_u64().unwrap() >= 3 && folder["left_out"].as_u64().unwrap() > 0, "{folder:#}");
    assert!(!folder["best"]["defaults"].is_null() && result["partial"] == true);
    assert!(bench.names().is_empty(), "{:?}", bench.names());
}

#[test]
fn what_is_no_file_is_not_replaced() {
    let bench = Bench::new();
    let fifo = bench.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink("fifo", bench.path().join("link")).unwrap();
    for name in ["fifo", "link"] {
        let sentence = bench.refused(&format!("{QUICK} --write {name} --overwrite"), 1);
        assert!(
            sentence.contains(&format!("cannot write {name}")) && sentence.contains("regular file"),
            "{sentence}"
        );
    }
    assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());
}
