//! `aio-bench run --job`.

use crate::support::bench::Bench;
use crate::support::schema::assert_valid;

/// The result of a run with this job file and these options.
fn run(bench: &Bench, file: &str, options: &str) -> serde_json::Value {
    bench.file("job.toml", file.as_bytes());
    let result = bench.json(&format!("run --job job.toml --json {options}"));
    assert_valid("run", &result);
    result
}

#[test]
fn a_job_file_is_as_good_as_options() {
    let bench = Bench::new();
    bench.file("f", &[7; 100 * 4096]);
    let result = run(
        &bench,
        "file = 'f'\nop = ['randread:2', 'randwrite']\nblock-size = '4K'\nqueue-depth = 8\nbytes = '800K'\noverwrite = true",
        "",
    );
    assert_eq!((&result["op"], &result["ios"]), (&"randread:2,randwrite:1".into(), &200.into()), "{result}");
    assert_eq!((&result["queue_depth"], &result["block_size"]), (&8.into(), &4096.into()));
}

#[test]
fn options_win_over_the_file() {
    let bench = Bench::new();
    bench.file("f", &[7; 100 * 4096]);
    let job = "file = 'missing'\nop = ['randread:2', 'randwrite']\nblock-size = 4096\nbytes = 4096\nruntime = 600";
    bench.file("job.toml", job.as_bytes());
    let refused = bench.refused("run --job job.toml", 2);
    assert!(refused.contains("job file job.toml") && refused.contains("cannot be used with"), "{refused}");
    let result = run(&bench, job, "--file f --op read --bytes 40K");
    assert_eq!((&result["op"], &result["ios"]), (&"read".into(), &10.into()), "{result}");
}

#[test]
fn what_is_wrong_with_a_file_is_said() {
    let bench = Bench::new();
    bench.file("f", &[7; 4096]);
    for (job, words) in [
        ("queue-dept = 8", ["job.toml", "\"queue-dept\"", "did you mean queue-depth?"]),
        ("block-size = '0'", ["job.toml", "block-size = ", "at least 1 byte"]),
        ("op = 'erase'", ["job.toml", "op = \"erase\"", "randwrite"]),
        ("verify = 'yes'", ["job.toml", "verify = \"yes\"", "true or false"]),
        ("file = 'f'\nfile = 'f'", ["job.toml", "line 2", "duplicate key"]),
    ] {
        bench.file("job.toml", job.as_bytes());
        let refused = bench.refused("run --job job.toml --file f --op read", 2);
        for word in words {
            assert!(refused.contains(word), "{job}: lacks {word:?}: {refused}");
        }
    }
    bench.file("job.toml", b"file = 'f'");
    let refused = bench.refused("run --job job.toml", 2);
    assert!(refused.contains("--op"), "what neither has is missing: {refused}");
}

#[test]
fn what_is_no_job_file_is_not_read_to_its_end() {
    let bench = Bench::new();
    let refused = bench.refused("run --job /dev/zero", 1);
    assert!(refused.contains("/dev/zero: it is neither a regular file nor a pipe"), "{refused}");
    bench.file("job.toml", &[b'#'; (1 << 20) + 1]);
    let refused = bench.refused("run --job job.toml", 1);
    assert!(refused.contains("job.toml: it is larger than 1.0 MiB"), "{refused}");
    bench.file("job.toml", b"file = '\xff'");
    let refused = bench.refused("run --job job.toml", 1);
    assert!(refused.contains("job.toml: it is not UTF-8 text"), "{refused}");
}
