//! `aio-bench run` with several ops, a ramp, a log, and on a terminal.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::Value;

use crate::support::bench::{Bench, backends};
use crate::support::schema::assert_valid;
use crate::support::screen::{seen, terminal};

fn run(bench: &Bench, line: &str) -> Value {
    let result = bench.json(line);
    assert_valid("run", &result);
    result
}

/// The tags in a log, and for each the number of latencies in all intervals, and the longest.
fn logged(bench: &Bench, name: &str) -> Vec<(Option<String>, u64, u64)> {
    let text = fs::read(bench.path().join(name)).unwrap();
    let mut sums: Vec<(Option<String>, u64, u64)> = Vec::new();
    for entry in IntervalLogIterator::new(&text) {
        let LogEntry::Interval(interval) = entry.unwrap() else { continue };
        let tag = interval.tag().map(|tag| tag.as_str().to_owned());
        let bytes = STANDARD.decode(interval.encoded_histogram()).unwrap();
        let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
        match sums.iter_mut().find(|(seen, ..)| *seen == tag) {
            Some((_, sum, longest)) => (*sum, *longest) = (*sum + histogram.len(), histogram.max().max(*longest)),
            None => sums.push((tag, histogram.len(), histogram.max())),
        }
    }
    sums
}

#[test]
fn ops_are_mixed_by_weight_and_told_apart() {
    for backend in backends() {
        for how in ["--queue-depth 1", "--queue-depth 8", "--queue-depth 8 --extents 4"] {
            let bench = Bench::new();
            let result = run(
                &bench,
                &format!(
                    "run --backend {backend} --op randread:3 --op write --file f --size 256K --block-size 4K \
                     --bytes 4M {how} --json"
                ),
            );
            assert_eq!((&result["op"], &result["ios"]), (&"randread:3,write:1".into(), &1024.into()), "{result}");
            let kinds = result["ops"].as_array().unwrap();
            let told: Vec<_> = kinds.iter().map(|kind| (&kind["op"], &kind["weight"])).collect();
            assert_eq!(told, [(&"randread".into(), &3.into()), (&"write".into(), &1.into())]);
            let [reads, writes] = [0, 1].map(|kind: usize| kinds[kind]["ios"].as_u64().unwrap());
            // The picks are the same in every run; wrong weights for vectored ops would miss these bounds.
            assert!(reads + writes == 1024 && reads > 600 && writes > 150, "{result}");
            for sum in ["bytes", "gb_per_s", "iops"] {
                let parts: f64 = kinds.iter().map(|kind| kind[sum].as_f64().unwrap()).sum();
                let whole = result[sum].as_f64().unwrap();
                assert!((parts - whole).abs() <= whole * 1e-9, "{sum}: {result}");
            }
            assert!(bench.contents("f").chunks(8).all(|chunk| chunk != [0; 8]), "it was laid out");
        }
    }
}

#[test]
fn a_mix_that_writes_needs_leave_to_overwrite() {
    let bench = Bench::new();
    bench.file("f", &[7; 65536]);
    let refused = bench.refused("run --op read:99 --op write:1 --file f --block-size 4K", 1);
    assert!(refused.contains("--overwrite"), "{refused}");
    assert_eq!(bench.contents("f"), [7; 65536]);
    // A mix of reads does not write.
    let result = run(&bench, "run --op read --op randread --file f --block-size 4K --json");
    assert_eq!((&result["ios"], bench.contents("f")), (&16.into(), vec![7; 65536]));
}

#[test]
fn what_the_ramp_does_is_in_no_figure() {
    let bench = Bench::new();
    bench.text("run --op write --file f --size 256K --block-size 4K --verify");
    for backend in backends() {
        for how in ["--queue-depth 1", "--queue-depth 8", "--queue-depth 8 --extents 4"] {
            let line = format!("run --backend {backend} --op read --file f --block-size 4K --bytes 4M {how} --json");
            let result = run(&bench, &format!("{line} --verify --ramp 0.1 --log {backend}.log"));
            assert_eq!((&result["ios"], &result["ramp_seconds"]), (&1024.into(), &0.1.into()), "{result}");
            let checked = result["verify"]["bytes"].as_u64().unwrap();
            assert!(checked > 4 << 20, "the ramp read, too: {result}");
            // The engine may have counted a part of the ops in flight at the border before it.
            let paths = ["bytes_direct", "bytes_buffered"].map(|key| result["paths"][key].as_u64().unwrap());
            let missing = (4 << 20) - paths.iter().sum::<u64>();
            let in_flight = if how == "--queue-depth 1" { 0 } else { 8 * 4096 };
            assert!(missing <= in_flight, "{how}: {result}");
            let ops = if how.contains("--extents") { 256 } else { 1024 };
            let nanos = (result["latency_us"]["max"].as_f64().unwrap() * 1e3).round() as u64;
            assert_eq!(logged(&bench, &format!("{backend}.log")), [(None, ops, nanos)]);
            fs::remove_file(bench.path().join(format!("{backend}.log"))).unwrap();
        }
    }
    let both =
        run(&bench, "run --op read --file f --block-size 4K --queue-depth 1 --bytes 64K --ramp 0.1 --bare --json");
    assert_eq!(
        (&both["ios"], &both["bare"]["ios"], both["paths"]["bytes_staged"].as_u64()),
        (&16.into(), &16.into(), Some(0))
    );
}

#[test]
fn a_log_has_every_op_in_intervals_by_kind() {
    let bench = Bench::new();
    bench.file("f", &[7; 65536]);
    let line =
        "run --op read:3 --op randwrite --file f --block-size 4K --overwrite --runtime 1.2 --json --log l.hlog";
    let result = run(&bench, line);
    let kinds = result["ops"].as_array().unwrap();
    let expected = kinds.iter().map(|kind| {
        let (ios, longest) = (kind["ios"].as_u64().unwrap(), kind["latency_us"]["max"].as_f64().unwrap());
        (kind["op"].as_str().map(str::to_owned), ios, (longest * 1e3).round() as u64)
    });
    let expected: Vec<_> = expected.collect();
    assert_eq!(logged(&bench, "l.hlog"), expected);
    let text = String::from_utf8(bench.contents("l.hlog")).unwrap();
    assert!(text.starts_with("#[Histogram log format version 1.3]\n") && text.contains("#[StartTime: "), "{text}");
    let intervals = text.lines().filter(|line| line.starts_with("Tag=read,")).count();
    assert!(intervals >= 2, "more than a second: {text}");

    let before = bench.contents("l.hlog");
    assert!(bench.refused(line, 1).contains("the log l.hlog: it exists"));
    assert_eq!(bench.contents("l.hlog"), before);
}

#[test]
fn a_run_that_fails_early_leaves_no_log() {
    let bench = Bench::new();
    bench.file("f", &[7; 65536]);
    bench.refused("run --op read --file f --block-size 4K --log l --backend pthread --size 128K", 1);
    bench.refused("run --op read --file f --block-size 1000 --queue-depth 1 --direct on --cpu 100000 --log l", 1);
    assert_eq!(bench.names(), ["f"]);
}

#[test]
fn a_terminal_sees_how_it_goes() {
    let bench = Bench::new();
    bench.file("f", &[7; 65536]);
    let line = "run --op read --file f --block-size 4K --ramp 0.6 --runtime 1.2 --json";
    let (screen, stderr) = terminal(80);
    let mut child = Command::new(crate::PROGRAM)
        .args(line.split(' '))
        .current_dir(bench.path())
        .env_remove("RUST_LOG")
        .env("TERM", "xterm")
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .unwrap();
    let seen = seen(screen);
    let mut result = String::new();
    child.stdout.take().unwrap().read_to_string(&mut result).unwrap();
    assert!(child.wait().unwrap().success());
    assert_valid("run", &serde_json::from_str(&result).unwrap());
    for words in ["GB/s, ", " I/Os per second", "of 0.6 s", "of 1.2 s"] {
        assert!(seen.contains(words), "{words}: {seen:?}");
    }

    let quiet = bench.command(line).assert().success().get_output().clone();
    assert_eq!(String::from_utf8_lossy(&quiet.stderr), "", "no terminal, no line");
}
