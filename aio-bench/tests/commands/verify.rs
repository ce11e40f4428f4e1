//! `aio-bench run --verify`: the right bytes pass, and the errors tell the kinds of wrong bytes apart.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use serde_json::Value;

use crate::support::bench::{Bench, backends};
use crate::support::schema::assert_valid;

const BLOCK: usize = 4096;
const READ: &str = "run --op read --file f --block-size 4K --verify --json";

fn run(bench: &Bench, line: &str) -> Value {
    let result = bench.json(line);
    assert_valid("run", &result);
    result
}

fn written() -> Bench {
    let bench = Bench::new();
    run(&bench, "run --op write --file f --size 64K --block-size 4K --verify --json");
    bench
}

/// Overwrites a part of the file in place; it keeps its identity.
fn put(bench: &Bench, name: &str, bytes: &[u8], offset: u64) {
    let file = OpenOptions::new().write(true).open(bench.path().join(name)).unwrap();
    file.write_all_at(bytes, offset).unwrap();
    file.sync_all().unwrap();
}

/// The error of a read that fails; the result counts it.
fn fault(bench: &Bench) -> String {
    let output = bench.command(READ).assert().code(1).get_output().clone();
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_valid("run", &result);
    assert!(result["errors"].as_u64().unwrap() > 0, "{result}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn every_way_of_writing_is_read_back() {
    for backend in backends() {
        for how in ["--queue-depth 1", "--queue-depth 8", "--queue-depth 8 --extents 4 --memory-offset 3"] {
            let bench = Bench::new();
            let job = format!("--backend {backend} --file f --block-size 3K {how} --verify --json");
            let result = run(&bench, &format!("run --op write --size 99K {job}"));
            let all = (&result["verify"]["bytes"], &result["verify"]["read_back_bytes"]);
            assert_eq!(all, (&(99 << 10).into(), &(99 << 10).into()), "{backend} {how}");
            let result = run(&bench, &format!("run --op randread {job}"));
            let all = (&result["verify"]["bytes"], &result["verify"]["read_back_bytes"]);
            assert_eq!(all, (&(99 << 10).into(), &Value::Null), "{backend} {how}");

            // Random writes reach some of the blocks, a few of them more than once.
            let result = run(&bench, &format!("run --op randwrite --overwrite {job}"));
            assert_eq!(result["verify"]["bytes"], result["verify"]["read_back_bytes"]);
            let bytes = result["verify"]["bytes"].as_u64().unwrap();
            assert!(bytes.is_multiple_of(3 << 10) && (3 << 10..=99 << 10).contains(&bytes), "{result}");
        }
    }
}

/// Few blocks, all in flight: unless conflicting ops are ordered, some would find older or torn blocks.
#[test]
fn reads_and_writes_that_meet_are_no_errors() {
    for backend in backends() {
        for how in ["--queue-depth 1", "--queue-depth 16", "--queue-depth 16 --extents 4"] {
            let bench = Bench::new();
            let result = run(
                &bench,
                &format!(
                    "run --backend {backend} --op randread:2 --op read --op randwrite --op write --file f --size 64K \
                     --block-size 4K --bytes 8M {how} --verify --json"
                ),
            );
            let kinds = result["ops"].as_array().unwrap();
            let total = |kinds: &[Value]| kinds.iter().map(|kind| kind["bytes"].as_u64().unwrap()).sum::<u64>();
            assert_eq!(total(kinds), 8 << 20);
            let read = total(&kinds[..2]);
            assert!(read > 0 && read < 8 << 20);
            assert_eq!(result["verify"]["bytes"], read + (64 << 10), "{backend} {how}: {result}");
            assert_eq!(result["verify"]["read_back_bytes"], 64 << 10);
        }
    }
}

#[test]
fn kinds_of_damage_are_told_apart() {
    let bench = written();
    let original = bench.contents("f");
    let block = |index: usize| &original[index * BLOCK..(index + 1) * BLOCK];
    bench.text("run --op write --file other --size 64K --block-size 4K --verify");
    let other = bench.contents("other");
    let mut flipped = block(3).to_vec();
    flipped[1000] ^= 1;
    for (bytes, sentence) in [
        (block(7), "f does not verify: offset 12288 holds what belongs at 28672"),
        (&other[3 * BLOCK..4 * BLOCK], "offset 12288 holds a block of another file, which belongs at 12288 there"),
        (&[0; BLOCK], "offset 12288 holds zeros"),
        (&[7; BLOCK], "offset 12288 holds no pattern"),
        (&flipped, "offset 12800 is damaged: its checksum"),
    ] {
        put(&bench, "f", bytes, 3 * BLOCK as u64);
        let said = fault(&bench);
        assert!(said.contains(sentence), "{sentence}\n{said}");
    }
    put(&bench, "f", block(3), 3 * BLOCK as u64);
    run(&bench, READ);

    // Writes the file again, except for the second half of a block.
    run(&bench, "run --op write --file f --block-size 4K --overwrite --verify --json");
    put(&bench, "f", &block(3)[BLOCK / 2..], (3 * BLOCK + BLOCK / 2) as u64);
    let said = fault(&bench);
    assert!(said.contains("torn: from offset 14336 on it is of an older write"), "{said}");
}

#[test]
fn blocks_of_another_size_or_without_a_pattern_are_explained() {
    let bench = written();
    let output =
        bench.command("run --op read --file f --block-size 8K --verify").assert().code(1).get_output().clone();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("written in blocks of 4096 bytes and is read in blocks of 8192"), "{said}");
    bench.text("run --op write --file f --block-size 4K --overwrite");
    let said = fault(&bench);
    assert!(said.contains("written without --verify"), "{said}");
}

#[test]
fn a_renamed_file_is_the_same_file() {
    let bench = written();
    std::fs::rename(bench.path().join("f"), bench.path().join("g")).unwrap();
    std::fs::copy(bench.path().join("g"), bench.path().join("f")).unwrap();
    let said = fault(&bench);
    assert!(said.contains("another file"), "a copy is not: {said}");
    run(&bench, "run --op read --file g --block-size 4K --verify --json");
}

#[test]
fn text_tells_what_was_checked() {
    let bench = Bench::new();
    let text = bench.text("run --op write --file f --size 64K --block-size 4K --verify");
    assert!(text.contains("65536 bytes are what they should be, 65536 of them read back in the end"), "{text}");
}
