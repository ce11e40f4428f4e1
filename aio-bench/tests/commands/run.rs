//! `aio-bench run`.

use crate::support::bench::{Bench, backends};
use crate::support::schema::assert_valid;

const KEYS: [&str; 25] = [
    "allocate_seconds",
    "backend",
    "block_size",
    "bytes",
    "cpu_us_per_io",
    "direct",
    "errors",
    "extents",
    "gb_per_s",
    "iops",
    "ios",
    "latency_us",
    "memory",
    "memory_offset",
    "op",
    "open_to_close_seconds",
    "ops",
    "partial",
    "paths",
    "queue_depth",
    "ramp_seconds",
    "schema",
    "seconds",
    "threads",
    "verify",
];

/// The names of an object's keys.
fn keys(object: &serde_json::Value) -> Vec<&str> {
    let mut keys: Vec<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn every_backend_writes_a_new_file_and_reads_it_back() {
    for backend in backends() {
        let bench = Bench::new();
        let written = bench.json(&format!(
            "run --backend {backend} --op write --file f --size 1000000 --block-size 64K --queue-depth 4 --json"
        ));
        assert_eq!(keys(&written), KEYS);
        assert_valid("run", &written);
        assert_eq!((&written["partial"], &written["verify"]), (&false.into(), &serde_json::Value::Null));
        let only = &written["ops"][0];
        for same in ["op", "ios", "bytes", "gb_per_s", "iops", "latency_us"] {
            assert_eq!(only[same], written[same], "{same}");
        }
        assert_eq!(keys(&written["latency_us"]), ["max", "p50", "p99", "p999"]);
        assert_eq!((&written["backend"], &written["op"]), (&backend.into(), &"write".into()));
        let figures =
            ["block_size", "queue_depth", "bytes", "ios", "errors"].map(|key| written[key].as_u64().unwrap());
        assert_eq!(figures, [65536, 4, 983_040, 15, 0]);
        let [allocate, whole, seconds] =
            ["allocate_seconds", "open_to_close_seconds", "seconds"].map(|key| written[key].as_f64().unwrap());
        assert!(allocate > 0.0 && whole > allocate + seconds, "{written}");
        let contents = bench.contents("f");
        assert_eq!(contents.len(), 983_040, "whole blocks");
        assert!(contents.chunks(8).all(|chunk| chunk != [0; 8]), "every block was written");

        let read = bench.json(&format!("run --backend {backend} --op read --file f --block-size 64K --json"));
        assert_valid("run", &read);
        assert_eq!((read["bytes"].as_u64(), read["errors"].as_u64()), (Some(983_040), Some(0)));
        assert!(read["gb_per_s"].as_f64().unwrap() > 0.0 && read["iops"].as_f64().unwrap() > 0.0);
        assert_eq!(bench.contents("f"), contents);
        let null = serde_json::Value::Null;
        assert_eq!((&read["allocate_seconds"], &read["open_to_close_seconds"]), (&null, &null), "no new file");
    }
}

#[test]
fn paths_and_memory_are_told() {
    const MIB: u64 = 1 << 20;
    let bench = Bench::new();
    bench.file("f", &vec![7; 4 << 20]);
    for backend in backends() {
        let line = format!("run --backend {backend} --op read --file f --queue-depth 32 --bytes 64M --json");
        let read = bench.json(&line);
        assert_eq!(keys(&read["paths"]), ["bytes_buffered", "bytes_direct", "bytes_fixed", "bytes_staged"]);
        assert_eq!((moved(&read), read["paths"]["bytes_staged"].as_u64()), (64 * MIB, Some(0)), "{read}");
        let memory = &read["memory"];
        assert_eq!(keys(memory), ["beyond_bytes", "buffer_bytes", "peak_rss_bytes"]);
        assert_eq!(memory["buffer_bytes"], 32 * MIB);
        // The buffers were written to, so all of them were resident; memory from before the engine does not count.
        let (peak, beyond) = (memory["peak_rss_bytes"].as_u64().unwrap(), memory["beyond_bytes"].as_i64().unwrap());
        assert!(peak > 32 * MIB && beyond.unsigned_abs() < peak - 32 * MIB, "{memory}");
    }
}

#[test]
fn memory_that_direct_io_does_not_take_is_staged() {
    let bench = Bench::new();
    bench.file("f", &[7; 100 * 4096]);
    for backend in backends() {
        for how in ["--queue-depth 1", "--queue-depth 8", "--queue-depth 8 --extents 4"] {
            for op in ["randread", "randwrite --overwrite"] {
                let read = bench.json(&format!(
                    "run --backend {backend} --op {op} --file f --block-size 8K {how} --memory-offset 1 --json"
                ));
                assert_eq!((&read["memory_offset"], moved(&read)), (&1.into(), 50 * 8192), "{read}");
                let staged = if read["direct"] == true { 50 * 8192 } else { 0 };
                assert_eq!(read["paths"]["bytes_staged"], staged, "{backend}, {op} {how}: {read}");
            }
        }
    }
}

/// All bytes that moved.
fn moved(result: &serde_json::Value) -> u64 {
    ["bytes_direct", "bytes_buffered"].map(|key| result["paths"][key].as_u64().unwrap()).iter().sum()
}

#[test]
fn bare_calls_move_as_many_blocks() {
    let bench = Bench::new();
    bench.file("f", &[7; 100 * 4096]);
    let job = "--file f --block-size 4K --queue-depth 1 --bare --json";
    for op in ["read", "randread", "write --overwrite", "randwrite --overwrite"] {
        for direct in ["auto", "off"] {
            let both = bench.json(&format!("run --op {op} --direct {direct} --bytes 1000K {job}"));
            assert_valid("run", &both);
            let bare = &both["bare"];
            assert_eq!(keys(bare), ["cpu_us_per_io", "direct", "gb_per_s", "ios", "ratio"]);
            assert_eq!((&both["ios"], &bare["ios"], &bare["direct"]), (&250.into(), &250.into(), &false.into()));
            assert_eq!(moved(&both), 250 * 4096, "only the library's own");
        }
    }
    let contents = bench.contents("f");
    assert!(contents.len() == 100 * 4096 && contents.chunks(8).all(|chunk| chunk != [7; 8] && chunk != [0; 8]));

    let both = bench.json(&format!("run --op randread --direct off --runtime 0.3 {job}"));
    let [cpu, theirs, ratio] = [&both["cpu_us_per_io"], &both["bare"]["cpu_us_per_io"], &both["bare"]["ratio"]]
        .map(|value| value.as_f64().unwrap());
    assert!(ratio > 0.0 && (ratio - cpu / theirs).abs() < 1e-9, "{both}");
}

#[test]
fn bare_calls_are_direct_where_that_is_asked_for() {
    let bench = Bench::new();
    bench.file("f", &[7; 100 * 4096]);
    if bench.json("run --op read --file f --block-size 4K --json")["direct"] == false {
        return println!("SKIPPED: {} has no direct I/O", bench.path().display());
    }
    let job = "run --op read --file f --queue-depth 1 --direct on --bare";
    let both = bench.json(&format!("{job} --block-size 4K --json"));
    assert_eq!((&both["bare"]["direct"], &both["bare"]["ios"]), (&true.into(), &100.into()));
    let refused = bench.refused(&format!("{job} --block-size 1000"), 1);
    assert!(refused.contains("1000 bytes of f") && refused.contains("aligned"), "{refused}");
}

#[test]
fn each_way_of_submitting_moves_as_many_blocks() {
    let bench = Bench::new();
    bench.file("f", &[7; 100 * 4096]);
    for backend in backends() {
        for op in ["read", "randread"] {
            for how in
                ["--queue-depth 1", "--queue-depth 8", "--queue-depth 8 --extents 3", "--extents 16", "--threads 2"]
            {
                let line =
                    format!("run --backend {backend} --op {op} --file f --block-size 4K {how} --bytes 1000K --json");
                let read = bench.json(&line);
                assert_eq!((read["ios"].as_u64(), read["errors"].as_u64()), (Some(250), Some(0)), "{line}: {read}");
            }
        }
    }
}

#[test]
fn an_existing_file_is_written_to_only_when_told() {
    let bench = Bench::new();
    let original: Vec<_> = (0..10_000_u32).flat_map(|word| word.to_le_bytes()).collect();
    bench.file("f", &original);
    let refused = bench.refused("run --op write --file f --block-size 4K", 1);
    assert!(refused.contains("f exists") && refused.contains("--overwrite"), "{refused}");
    assert_eq!(bench.contents("f"), original);

    bench.text("run --op write --file f --size 8K --block-size 4K --overwrite --queue-depth 1");
    let written = bench.contents("f");
    assert_eq!((written.len(), &written[8192..]), (original.len(), &original[8192..]));
    assert!(written[..4096] != original[..4096] && written[4096..8192] != original[4096..8192]);

    bench.text("run --op randwrite --file f --size 64K --block-size 4K --overwrite --extents 4");
    assert_eq!(bench.contents("f").len(), 65536, "it may grow");
}

#[test]
fn a_run_lasts_as_long_as_it_should() {
    let bench = Bench::new();
    bench.file("f", &[1; 65536]);
    let read = bench.json("run --op read --file f --block-size 4K --runtime 0.2 --json");
    assert!(read["seconds"].as_f64().unwrap() >= 0.2 && read["ios"].as_u64().unwrap() > 16, "{read}");
}

#[test]
fn direct_can_be_switched_off_and_the_cpu_chosen() {
    let bench = Bench::new();
    bench.file("f", &[1; 65536]);
    // The first CPU that this process may use.
    let allowed = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = allowed.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    let cpu = list.split([',', '-']).next().unwrap();
    let read = bench.json(&format!("run --op read --file f --block-size 4K --direct off --cpu {cpu} --json"));
    assert_eq!((&read["direct"], read["ios"].as_u64()), (&false.into(), Some(16)));
}

#[test]
fn text_tells_the_same() {
    let bench = Bench::new();
    bench.file("f", &[1; 65536]);
    let text = bench.text("run --op read --file f --block-size 4K --backend pthread");
    for words in
        ["read of f on pthread", "GB/s", "us per I/O", "99.9 %", "65536 bytes in 16 I/Os", "staged", "errors   0"]
    {
        assert!(text.contains(words), "{words}\n{text}");
    }
    let text = bench.text("run --op read --file f --block-size 5000");
    assert!(text.contains("blocks of 5000 bytes, "), "nothing is rounded: {text}");
    let text = bench.text("run --op read --file f --block-size 4K --queue-depth 1 --bare --memory-offset 3");
    for words in ["memory 3 bytes past a page boundary", "  bare ", "times its CPU time"] {
        assert!(text.contains(words), "{words}\n{text}");
    }
    let text = bench.text("run --op write --file new --size 64K --block-size 4K");
    assert!(text.contains("s to allocate") && text.contains("from open to close"), "{text}");
}
