//! What bad input gets: one sentence with the path and the reason, a non-zero exit code, no changes on disk.

use crate::support::refused::{assert_file_size_limit_is_told, assert_refused, bench};

#[test]
fn values_that_make_no_sense() {
    assert_refused(&[
        ("swap --direct maybe", 2, &["maybe", "auto"]),
        ("swap --tensors 0 --tensor-size 1", 2, &["--tensors"]),
        ("swap --tensors 1000001 --tensor-size 1", 2, &["--tensors"]),
        ("swap --tensors 2 --tensor-size 0", 2, &["--tensor-size", "at least 1 byte"]),
        ("swap --tensors 1000000 --tensor-size 7E", 1, &["does not fit in memory"]),
        ("swap --block-size 5", 2, &["--block-size = 5", "multiple of the page size"]),
        ("swap --layout heap", 2, &["heap", "files", "extents"]),
        ("swap --queue-depth x", 2, &["--queue-depth", "it is not a whole number"]),
        ("erase", 2, &["erase"]),
        ("probe --runtime 5", 2, &["'--runtime' is an option of 'tensor-aio tune' and 'tensor-aio soak'"]),
    ]);
}

#[test]
fn an_unknown_option_is_not_taken_for_a_value() {
    for line in ["probe --runtime 5", "tune . --time 5", "soak --time 5", "swap --nonsense"] {
        let sentence = bench().refused(line, 2);
        assert!(!sentence.contains("as a value"), "{line}: {sentence}");
    }
}

#[test]
fn backends_that_do_not_exist() {
    assert_refused(&[("swap --backend tape", 2, &["tape", "uring", "libaio", "pthread"])]);
}

#[test]
fn folders_that_cannot_be_used() {
    assert_refused(&[
        ("swap --dir missing", 1, &["missing", "No such file"]),
        ("swap --dir small", 1, &["small is not a folder"]),
        ("swap --dir /proc", 1, &["/proc"]),
        ("probe missing", 1, &["missing", "No such file"]),
        ("probe small", 1, &["small is not a folder"]),
    ]);
}

#[test]
fn safetensors_files_that_are_none() {
    assert_refused(&[
        ("swap --from missing", 1, &["missing", "No such file"]),
        ("swap --from .", 1, &["there is no file NAME.safetensors"]),
        ("swap --from small", 1, &["small is not a usable safetensors file", "3978425819141910832"]),
    ]);
    let bench = bench();
    let header = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let tensor = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
    let overlapping = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#;
    for (contents, reason) in [
        (Vec::new(), "it has 0 bytes"),
        (header(tensor)[..20].to_vec(), "it was cut off"),
        (header(tensor), "describes 4 bytes of tensors, and 0 are there"),
        ([header(tensor), b"12345".to_vec()].concat(), "describes 4 bytes of tensors, and 5 are there"),
        ([header(overlapping), b"123456".to_vec()].concat(), "invalid offset for tensor `b`"),
        (header("{\"a\":}"), "bad header"),
        (header("{}"), "holds no tensor"),
        (u64::MAX.to_le_bytes().to_vec(), "the format allows"),
    ] {
        bench.file("model", &contents);
        let sentence = bench.refused("swap --from model", 1);
        assert!(sentence.contains("model") && sentence.contains(reason), "{reason}: {sentence}");
        assert_eq!(sentence.trim_end().lines().count(), 1, "{sentence}");
    }
    assert_eq!(bench.names(), ["model", "small"]);
}

#[test]
fn a_file_size_limit_is_an_error_and_leaves_nothing() {
    assert_file_size_limit_is_told("swap --tensors 2 --tensor-size 5M --backend pthread --json", ".tensor");
}
