//! `aio-bench run`.

use crate::bench::{Bench, backends, keys};

const KEYS: [&str; 14] = [
    "backend",
    "block_size",
    "bytes",
    "cpu_us_per_io",
    "direct",
    "errors",
    "gb_per_s",
    "iops",
    "ios",
    "latency_us",
    "op",
    "queue_depth",
    "seconds",
    "threads",
];

#[test]
fn every_backend_writes_a_new_file_and_reads_it_back() {
    for backend in backends() {
        let bench = Bench::new();
        let written = bench.json(&format!(
            "run --backend {backend} --op write --file f --size 1000000 --block-size 64K --queue-depth 4 --json"
        ));
        assert_eq!(keys(&written), KEYS);
        assert_eq!(keys(&written["latency_us"]), ["max", "p50", "p99", "p999"]);
        assert_eq!((&written["backend"], &written["op"]), (&backend.into(), &"write".into()));
        let figures =
            ["block_size", "queue_depth", "bytes", "ios", "errors"].map(|key| written[key].as_u64().unwrap());
        assert_eq!(figures, [65536, 4, 983_040, 15, 0]);
        let contents = bench.contents("f");
        assert_eq!(contents.len(), 983_040, "whole blocks");
        assert!(contents.chunks(8).all(|chunk| chunk != [0; 8]), "every block was written");

        let read = bench.json(&format!("run --backend {backend} --op read --file f --block-size 64K --json"));
        assert_eq!((read["bytes"].as_u64(), read["errors"].as_u64()), (Some(983_040), Some(0)));
        assert!(read["gb_per_s"].as_f64().unwrap() > 0.0 && read["iops"].as_f64().unwrap() > 0.0);
        assert_eq!(bench.contents("f"), contents);
    }
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
    for words in ["read of f on pthread", "GB/s", "us per I/O", "99.9 %", "65536 bytes in 16 I/Os", "errors   0"] {
        assert!(text.contains(words), "{words}\n{text}");
    }
}
