//! `aio-bench plot`.

use std::fs;
use std::process::Command;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

use crate::support::bench::Bench;
use crate::support::child::{end, start};
use crate::support::schema;

/// A result of `run`, with these changes.
fn result(backend: &str, queue_depth: u64, gb_per_s: f64, changes: &Value) -> Value {
    let mut result = json!({
        "schema": "aio-bench/run/1", "backend": backend, "op": "read", "block_size": 1 << 20,
        "queue_depth": queue_depth, "threads": 1, "direct": true, "memory_offset": 0, "bytes": 1 << 30, "ios": 1024,
        "seconds": 1.0, "gb_per_s": gb_per_s, "iops": 1024.0, "cpu_us_per_io": 2.0, "errors": 0,
        "latency_us": { "p50": 90.0 * queue_depth as f64, "p99": 200.0 * queue_depth as f64, "p999": 1e5, "max": 1e6 }
    });
    for (key, change) in changes.as_object().unwrap() {
        result[key] = change.clone();
    }
    result
}

/// Two backends at four depths, three runs each, one after the other as `run --json >> FILE` leaves them.
fn depths() -> String {
    let mut text = String::new();
    for (backend, scale) in [("uring", 1.0), ("pthread", 0.6)] {
        for depth in [1, 4, 16, 64] {
            for noise in [1.0, 0.9, 1.2] {
                let rate = scale * noise * 3.0 * depth as f64 / (depth as f64 + 4.0);
                text += &format!("{:#}\n", result(backend, depth, rate, &json!({})));
            }
        }
    }
    text
}

fn bench() -> Bench {
    let bench = Bench::new();
    fs::write(bench.path().join("depths.json"), depths()).unwrap();
    bench
}

fn svg(bench: &Bench, name: &str) -> String {
    let svg = String::from_utf8(bench.contents(name)).unwrap();
    roxmltree::Document::parse(&svg).unwrap();
    svg
}

#[test]
fn saved_results_become_lines() {
    let bench = bench();
    let plotted = bench.json("plot depths.json --out depths.svg --json");
    schema::assert_valid("plot", &plotted);
    assert_eq!((&plotted["x"], &plotted["results"]), (&json!("queue_depth"), &json!(24)));
    let names: Vec<_> = plotted["series"].as_array().unwrap().iter().map(|series| &series["name"]).collect();
    assert_eq!(names, ["uring", "pthread"]);
    let point = &plotted["series"][0]["points"][3];
    assert_eq!((&point["x"], &point["runs"]), (&json!(64), &json!(3)));
    let close = |value: &Value, expected: f64| (value.as_f64().unwrap() - expected).abs() < 1e-9;
    let middle = 3.0 * 64.0 / 68.0;
    assert!(close(&point["gb_per_s"]["median"], middle) && close(&point["gb_per_s"]["low"], 0.9 * middle), "{point}");
    assert!(close(&point["latency_us"]["p99"]["median"], 12_800.0), "{point}");

    let svg = svg(&bench, "depths.svg");
    for words in
        ["uring", "pthread", "throughput (GB/s)", "queue depth", "Medians of up to 3 runs", "blocks of 1 MiB"]
    {
        assert!(svg.contains(words), "{words}");
    }
    assert_eq!(bench.names(), ["depths.json", "depths.svg"]);

    let text = bench.text("plot depths.json --out depths.svg");
    assert_eq!(text, "depths.svg: 8 points of 2 series from 24 results, by queue depth\n");
}

#[test]
fn what_run_prints_is_drawn() {
    let bench = Bench::new();
    bench.file("data", &[7; 1 << 16]);
    let mut saved = Vec::new();
    for depth in [1, 4] {
        let line =
            format!("run --op read --file data --backend pthread --block-size 4K --queue-depth {depth} --json");
        saved.push(bench.json(&line));
    }
    fs::write(bench.path().join("saved"), json!(saved).to_string()).unwrap();
    let plotted = bench.json("plot saved --out a.svg --json");
    schema::assert_valid("plot", &plotted);
    assert_eq!(plotted["series"][0]["name"], "pthread");
    for (point, result) in plotted["series"][0]["points"].as_array().unwrap().iter().zip(&saved) {
        assert_eq!((&point["x"], &point["runs"]), (&result["queue_depth"], &json!(1)));
        assert_eq!(point["gb_per_s"]["median"], result["gb_per_s"]);
        assert_eq!(point["latency_us"]["p50"]["high"], result["latency_us"]["p50"]);
    }
    assert!(svg(&bench, "a.svg").contains("blocks of 4 KiB"));
}

#[test]
fn several_files_and_stdin_are_one_picture() {
    let bench = bench();
    let other = result("libaio", 4, 1.0, &json!({ "threads": 2 }));
    let mut command = bench.command("plot depths.json - --out a.svg --json");
    let output = command.write_stdin(json!([other]).to_string()).assert().success().get_output().clone();
    let plotted: Value = serde_json::from_slice(&output.stdout).unwrap();
    schema::assert_valid("plot", &plotted);
    let names: Vec<_> = plotted["series"].as_array().unwrap().iter().map(|series| &series["name"]).collect();
    assert_eq!(names, ["uring, 1 thread", "pthread, 1 thread", "libaio, 2 threads"]);
    assert!(output.stderr.is_empty());
}

#[test]
fn a_picture_that_is_there_is_replaced() {
    let bench = bench();
    bench.file("a.svg", b"an older one");
    bench.text("plot depths.json --out a.svg");
    assert!(svg(&bench, "a.svg").contains("uring"));
}

#[test]
fn what_varies_is_drawn_over_and_a_choice_is_asked_for_where_two_do() {
    let bench = Bench::new();
    let save =
        |name: &str, results: &[Value]| fs::write(bench.path().join(name), json!(results).to_string()).unwrap();
    let sized = |depth, size: u64| result("uring", depth, 1.0, &json!({ "block_size": size }));
    save("sizes", &[sized(8, 4096), sized(8, 1 << 20)]);
    save("both", &[sized(8, 4096), sized(8, 1 << 20), sized(16, 1 << 20)]);
    save("point", &[sized(8, 4096), result("libaio", 8, 2.0, &json!({ "block_size": 4096 }))]);

    let plotted = bench.json("plot sizes --out a.svg --json");
    assert_eq!((&plotted["x"], &plotted["series"][0]["points"][1]["x"]), (&json!("block_size"), &json!(1 << 20)));
    assert!(svg(&bench, "a.svg").contains("1 MiB"));

    let sentence = bench.refused("plot both --out b.svg", 2);
    assert!(sentence.contains("--x queue-depth") && sentence.contains("--x block-size"), "{sentence}");
    let plotted = bench.json("plot both --out b.svg --x queue-depth --json");
    assert_eq!(plotted["series"][1]["name"], "uring, blocks of 1 MiB");

    let plotted = bench.json("plot point --out c.svg --json");
    schema::assert_valid("plot", &plotted);
    assert_eq!((&plotted["x"], &plotted["series"][1]["points"][0]["x"]), (&Value::Null, &Value::Null));
    assert!(bench.text("plot point --out c.svg").contains("as bars"));
    assert!(svg(&bench, "c.svg").contains("queue depth 8"));
}

#[test]
fn partial_and_failed_results_are_left_out_and_named() {
    let bench = Bench::new();
    let partial = result("uring", 2, 9.0, &json!({ "partial": true }));
    let failed = result("uring", 4, 9.0, &json!({ "errors": 1 }));
    let text = format!("{partial}{failed}{}", result("uring", 1, 1.0, &json!({ "partial": false })));
    fs::write(bench.path().join("all"), text).unwrap();
    let output = bench.command("plot all --out a.svg --json").assert().success().get_output().clone();
    let notes = String::from_utf8(output.stderr).unwrap();
    assert_eq!(notes.lines().count(), 2, "{notes}");
    assert!(
        notes.contains("result 1 of all is left out: it is partial") && notes.contains("result 2 of all"),
        "{notes}"
    );
    let plotted: Value = serde_json::from_slice(&output.stdout).unwrap();
    schema::assert_valid("plot", &plotted);
    assert_eq!((&plotted["results"], plotted["left_out"].as_array().unwrap().len()), (&json!(1), 2));

    fs::write(bench.path().join("none"), partial.to_string()).unwrap();
    let sentence = bench.refused("plot none --out b.svg", 1);
    assert!(sentence.contains("nothing is left to draw") && sentence.contains("partial"), "{sentence}");
}

#[test]
fn bad_input_is_a_sentence_and_no_picture() {
    let bench = bench();
    bench.file("text", b"no JSON");
    bench.file("empty", b"");
    bench.file("cut", &depths().as_bytes()[..900]);
    bench.file("foreign", br#"{"jobs": [{"read": {"bw": 1}}]}"#);
    bench.file("swap", br#"{"schema": "tensor-aio/swap/1"}"#);
    bench.file("old.svg", b"what was there");
    fs::File::create(bench.path().join("sparse")).unwrap().set_len((16 << 20) + 1).unwrap();
    let before = bench.names();
    for (line, code, fragments) in [
        ("plot missing --out old.svg", 1, &["cannot read missing", "No such file"][..]),
        ("plot . --out old.svg", 1, &["cannot read .", "neither a regular file nor a pipe"]),
        ("plot sparse --out old.svg", 1, &["cannot read sparse", "larger than 16.0 MiB"]),
        ("plot text --out old.svg", 1, &["text is not JSON", "aio-bench/run/1"]),
        ("plot empty --out old.svg", 1, &["empty holds no result"]),
        ("plot cut --out old.svg", 1, &["cut is not JSON", "EOF"]),
        ("plot foreign --out old.svg", 1, &["foreign has a result (number 1) without a schema", "aio-bench/run/1"]),
        (
            "plot depths.json swap --out old.svg",
            1,
            &["swap has a result (number 1) of the schema \"tensor-aio/swap/1\""],
        ),
        ("plot depths.json --out old.png", 2, &["old.png", "end the name in .svg"]),
        ("plot depths.json --out picture", 2, &["picture", "end the name in .svg"]),
        ("plot depths.json --out no/a.svg", 1, &["cannot write no/a.svg", "No such file"]),
        ("plot depths.json --out /proc/a.svg", 1, &["cannot write /proc/a.svg"]),
        ("plot depths.json --out text/a.svg", 1, &["cannot write text/a.svg", "Not a directory"]),
        ("plot depths.json", 2, &["--out"]),
        ("plot --out old.svg", 2, &["<FILE>"]),
    ] {
        let sentence = bench.refused(line, code);
        for fragment in fragments {
            assert!(sentence.contains(fragment), "{line}\nlacks {fragment:?}: {sentence}");
        }
        assert_eq!((bench.names(), bench.contents("old.svg").as_slice()), (before.clone(), &b"what was there"[..]));
    }
    fs::create_dir(bench.path().join("folder.svg")).unwrap();
    assert!(bench.refused("plot depths.json --out folder.svg", 1).contains("Is a directory"));
}

#[test]
fn a_pipe_is_read_to_its_end_and_not_further_than_the_limit() {
    let bench = bench();
    mkfifo(&bench.path().join("fifo"), Mode::S_IRWXU).unwrap();
    // The command opens the FIFO before it has a writer.
    let child = start(&bench, "plot fifo --out a.svg");
    fs::write(bench.path().join("fifo"), depths()).unwrap();
    let (code, stdout, stderr) = end(child);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.contains("from 24 results"), "{stdout}");

    for (input, sentence) in [
        ("-", "error: cannot read stdin: it is larger than 16.0 MiB\n"),
        ("/dev/zero", "error: cannot read /dev/zero: it is neither a regular file nor a pipe\n"),
    ] {
        let script = format!("ulimit -v 1000000 && exec \"$0\" plot {input} --out b.svg");
        let mut sh = Command::new("sh");
        sh.arg("-c").arg(script).arg(crate::PROGRAM).current_dir(bench.path());
        let output = sh.stdin(fs::File::open("/dev/zero").unwrap()).output().unwrap();
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(1), sentence));
    }
    assert_eq!(bench.names(), ["a.svg", "depths.json", "fifo"]);
}

#[test]
fn what_a_terminal_would_obey_is_escaped_in_paths() {
    let bench = bench();
    let partial = result("uring", 1, 1.0, &json!({ "partial": true })).to_string();
    fs::write(bench.path().join("a\u{1b}[31m"), depths() + &partial).unwrap();
    let output = bench.command("plot a\u{1b}[31m --out b\u{7}.svg").assert().success().get_output().clone();
    assert_eq!(
        String::from_utf8_lossy(&output.stderr).lines().next(),
        Some("note: result 25 of a\\u{1b}[31m is left out: it is partial, of a run that was interrupted")
    );
    assert!(output.stdout.starts_with(b"b\\u{7}.svg: 8 points"), "{output:?}");
    for (line, fragment) in [
        ("plot c\u{1b} --out b.svg", "cannot read c\\u{1b}: "),
        ("plot depths.json --out c\u{1b}/b.svg", "cannot write c\\u{1b}/b.svg: "),
        ("plot depths.json --out c\u{1b}", "--out c\\u{1b} "),
        ("compare --dir c\u{1b}", "c\\u{1b}: "),
        ("compare --out depths.json/c\u{1b}", "cannot make depths.json/c\\u{1b}: "),
    ] {
        let code = if line.ends_with("--out c\u{1b}") { 2 } else { 1 };
        let sentence = bench.refused(line, code);
        assert!(sentence.contains(fragment) && !sentence.contains('\u{1b}'), "{line}: {sentence:?}");
    }
}

#[test]
fn where_there_is_no_room_the_older_picture_stays() {
    let bench = bench();
    bench.file("a.svg", b"what was there");
    let before = bench.names();
    for out in ["a.svg", "new.svg"] {
        // The limit applies to each file, in blocks of 512 bytes: the picture is written in part.
        let script = format!("ulimit -f 8 && exec \"$0\" plot depths.json --out {out}");
        let mut sh = Command::new("sh");
        let output = sh.arg("-c").arg(script).arg(crate::PROGRAM).current_dir(bench.path()).output().unwrap();
        let sentence = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{sentence}");
        assert!(sentence.contains(&format!("cannot write {out}: File too large")), "{sentence}");
        assert_eq!((bench.names(), bench.contents("a.svg").as_slice()), (before.clone(), &b"what was there"[..]));
    }
}
