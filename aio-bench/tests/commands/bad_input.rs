//! What bad input gets: one sentence with the path and the reason, a non-zero exit code, no changes on disk.

use std::process::Command;

use crate::support::refused::{assert_file_size_limit_is_told, assert_refused};

#[test]
fn files_that_cannot_be_used() {
    assert_refused(&[
        ("run --op read --file missing", 1, &["missing", "No such file"]),
        ("run --op read --file .", 1, &["cannot read .", "folder"]),
        ("run --op write --file . --size 4K", 1, &["cannot write .", "folder"]),
        ("run --op read --file /dev/null", 1, &["/dev/null", "not a regular file"]),
        ("run --op write --file no/file --size 4K", 1, &["folder no", "No such file"]),
        ("run --op write --file small --size 4K", 1, &["small exists", "--overwrite"]),
        ("run --op write --file /proc/file --size 1M", 1, &["/proc/file"]),
        ("run --op write --file new", 2, &["new does not exist", "--size"]),
    ]);
}

#[test]
fn ranges_that_are_not_there() {
    assert_refused(&[
        ("run --op read --file small", 1, &["small has 10 bytes", "block of 1.0 MiB", "--block-size"]),
        ("run --op write --file new --size 1K", 1, &["--size is 1024 bytes", "--block-size"]),
        ("run --op read --file small --size 1G --block-size 2", 1, &["small has 10 bytes", "1073741824"]),
        ("run --op read --file small --block-size 2 --bytes 1", 2, &["--bytes 1"]),
        ("run --op write --file new --size 8191P", 1, &["free", "needed"]),
    ]);
}

#[test]
fn an_empty_file_has_nothing_to_read() {
    let bench = crate::support::bench::Bench::new();
    bench.file("empty", b"");
    for (line, words) in [
        ("run --op read --file empty", "empty is empty: there is nothing to read"),
        ("run --op write --file empty --overwrite", "empty is empty: --size says how much to write"),
    ] {
        let sentence = bench.refused(line, 1);
        assert!(sentence.contains(words), "{line}: {sentence}");
    }
}

#[test]
fn values_that_make_no_sense() {
    assert_refused(&[
        ("run --op read --file small --queue-depth 0", 2, &["--queue-depth = 0", "from 1 to"]),
        ("run --op read --file small --queue-depth 99999999", 2, &["--queue-depth", "from 1 to"]),
        ("run --op read --file small --threads 0", 2, &["--threads = 0", "from 1 to"]),
        ("run --op read --file small --block-size 0", 2, &["--block-size", "at least 1 byte"]),
        ("run --op read --file small --block-size 8E", 2, &["--block-size"]),
        ("run --op read --file small --block-size 7E", 2, &["--block-size", "1073741824"]),
        ("run --op read --file small --block-size x", 2, &["\"x\" is not a size"]),
        ("run --op read --file small --extents 0", 2, &["--extents"]),
        ("run --op read --file small --memory-offset 4096", 2, &["4096", "0..4096"]),
        ("run --op read --file small --memory-offset -1", 2, &["-1"]),
        ("run --op read --file small --block-size 1 --bare", 2, &["--queue-depth 1", "this one has 32"]),
        ("run --op read --file small --queue-depth 1 --threads 2 --bare", 2, &["--threads 1", "this one has 1, 2"]),
        ("run --op read --file small --queue-depth 1 --extents 2 --bare", 2, &["--extents 1", "1 and 2"]),
        ("run --op read --file small --runtime -1", 2, &["--runtime"]),
        ("run --op read --file small --block-size 1 --cpu 100000", 1, &["CPU 100000"]),
        ("run --op erase --file small", 2, &["erase", "randread"]),
        ("run --op read --file small --direct maybe", 2, &["maybe", "auto"]),
        ("erase", 2, &["erase"]),
    ]);
}

#[test]
fn blocks_that_do_not_fit_into_memory() {
    let bench = crate::support::bench::Bench::new();
    // A hole, which takes no disk space.
    let file = std::fs::File::create(bench.path().join("large")).unwrap();
    file.set_len(1 << 30).unwrap();
    let line = "run --op read --file large --block-size 1G --queue-depth 4096 --threads 64";
    for line in [line.to_owned(), format!("{line} --memory-offset 8")] {
        let sentence = bench.refused(&line, 1);
        for word in ["262144 buffers of 1.0 GiB", "arena's limit", "smaller --block-size, --queue-depth, --threads"] {
            assert!(sentence.contains(word), "{line} lacks {word:?}: {sentence}");
        }
    }
    // An error of the system gets such a sentence, too.
    let script = "ulimit -v 1000000 && exec \"$0\" run --op read --file large --block-size 64M --queue-depth 32";
    let mut command = Command::new("sh");
    let output = command.args(["-c", script, crate::PROGRAM]).current_dir(bench.path()).output().unwrap();
    let sentence = String::from_utf8(output.stderr).unwrap();
    assert!(sentence.contains("32 buffers of 64.0 MiB do not fit into memory (cannot map"), "{sentence}");
}

#[test]
fn backends_that_do_not_exist() {
    assert_refused(&[("run --op read --file small --backend tape", 2, &["tape", "uring", "libaio", "pthread"])]);
}

#[test]
fn a_file_size_limit_is_an_error_and_leaves_nothing() {
    assert_file_size_limit_is_told("run --op write --file new --size 50M", "new");
}

#[test]
fn runs_that_make_no_sense() {
    assert_refused(&[
        ("run --op read:0 --file small", 2, &["weight", "1 to 1000000"]),
        ("run --op read:x --file small", 2, &["weight", "\"x\""]),
        ("run --op read --op read:3 --file small", 2, &["--op read is given twice"]),
        ("run --op read --op randwrite --file small --block-size 2", 1, &["small exists", "--overwrite"]),
        ("run --op read --file small --block-size 2 --ramp 0", 2, &["--ramp"]),
        ("run --op read --file small --block-size 2 --verify", 2, &["--verify", "at least 48 bytes", "is 2"]),
        (
            "run --op randwrite --file new --size 64K --block-size 4K --runtime 1 --verify",
            2,
            &["32 blocks in flight", "the 16", "--queue-depth"],
        ),
        ("run --op read --op randread --file small --queue-depth 1 --bare", 2, &["--bare", "several --op"]),
        ("run --op read --file small --queue-depth 1 --bare --verify", 2, &["--bare", "--verify"]),
        ("run --op read --file small --queue-depth 1 --bare --log l", 2, &["--bare", "--log"]),
        ("run --op read --file small --block-size 2 --log .", 1, &["log .", "exists"]),
        ("run --op write --file new --size 1M --log ./new", 2, &["--file and --log are the same file, ./new"]),
        (
            "run --op read --file small --block-size 2 --extents 5000",
            2,
            &["--extents 5000 is more than the 5 blocks", "small", "fewer --extents"],
        ),
        ("run --op read --file small --block-size 2 --log no/log", 1, &["log no/log", "No such file"]),
        ("run --job missing", 1, &["job file missing", "No such file"]),
        ("run --job small --op", 2, &["--op"]),
    ]);
}
