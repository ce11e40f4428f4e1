//! Headers that are wrong, by accident or on purpose, are refused with a sentence that names the file.

mod support;

use std::fs;
use std::path::Path;

use aio::tensor::{Error, SafeTensors};
use support::handle;

/// A file of these bytes behind a length field.
fn file_of(header_len: u64, header: &str, data: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), [&header_len.to_le_bytes(), header.as_bytes(), data].concat()).unwrap();
    file
}

fn error_of(path: &Path) -> String {
    let error = SafeTensors::open(&handle(), path).unwrap_err();
    let sentence = error.to_string();
    assert!(sentence.contains(&*path.to_string_lossy()), "{sentence}");
    assert!(sentence.chars().count() < 2000 && !sentence.contains(char::is_control), "{sentence:?}");
    sentence
}

fn refused(header_len: u64, header: &str, data: &[u8]) -> String {
    let file = file_of(header_len, header, data);
    let sentence = error_of(file.path());
    assert!(sentence.contains("is not a usable safetensors file: "), "{sentence}");
    sentence
}

fn refused_header(header: &str, data: &[u8]) -> String {
    refused(header.len() as u64, header, data)
}

/// The entry of a tensor of 4 bytes.
fn tensor(name: &str, begin: u32) -> String {
    format!(r#""{name}":{{"dtype":"U8","shape":[4],"data_offsets":[{begin},{}]}}"#, begin + 4)
}

#[test]
fn tensors_are_listed_by_offset() {
    let header = r#"{"__metadata__":{"format":"pt"},
        "b":{"dtype":"F32","shape":[2],"data_offsets":[2,10]},
        "empty":{"dtype":"F32","shape":[0],"data_offsets":[10,10]},
        "a":{"dtype":"BF16","shape":[],"data_offsets":[0,2]}}   "#;
    let file = file_of(header.len() as u64, header, &[0; 10]);
    let model = SafeTensors::open(&handle(), file.path()).unwrap();
    let data = 8 + header.len() as u64;
    let found: Vec<_> = model.tensors().iter().map(|info| (info.name(), info.range())).collect();
    let expected = [("a", data..data + 2), ("b", data + 2..data + 10), ("empty", data + 10..data + 10)];
    assert_eq!(found, expected);
}

#[test]
fn a_wrong_length_is_refused_before_anything_is_allocated() {
    assert!(refused(u64::MAX, "{}", b"").contains("the format allows"));
    assert!(refused(99_000_000, "{}", b"").contains("it was cut off"));
    let short = tempfile::NamedTempFile::new().unwrap();
    fs::write(short.path(), b"1234567").unwrap();
    assert!(error_of(short.path()).contains("it has 7 bytes"));
}

#[test]
fn a_header_that_is_no_header_is_refused() {
    assert!(refused_header("{\"a\":", b"").contains("bad header"));
    assert!(refused_header("[]", b"").contains("bad header"));
    assert!(refused_header("\u{7f}\u{0}", b"").contains("bad header"));
    assert!(refused(2, "", &[0xff, 0xfe]).contains("bad header"));
    assert!(refused(0, "", b"").contains("bad header"));
}

#[test]
fn offsets_that_do_not_cover_the_data_exactly_are_refused() {
    let tensors = |a: &str, b: &str| {
        let entry = |name, offsets| format!(r#""{name}":{{"dtype":"U8","shape":[4],"data_offsets":{offsets}}}"#);
        format!("{{{},{}}}", entry("a", a), entry("b", b))
    };
    for (a, b) in [("[0,4]", "[2,6]"), ("[0,4]", "[8,12]"), ("[4,0]", "[0,4]"), ("[0,5]", "[5,9]")] {
        assert!(refused_header(&tensors(a, b), &[0; 8]).contains("bad header"), "{a} {b}");
    }
    assert!(refused_header(&tensors("[0,-4]", "[0,4]"), &[0; 8]).contains("bad header"));
    assert!(refused_header(&tensors("[0,4]", "[4,8]"), &[0; 7]).contains("describes 8 bytes"));
    assert!(refused_header(&tensors("[0,4]", "[4,8]"), &[0; 9]).contains("9 are there"));
    let overflow = r#"{"a":{"dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#;
    assert!(refused_header(overflow, &[0; 8]).contains("bad header"));
}

#[test]
fn a_name_that_is_there_twice_is_refused_by_name() {
    // The last tensor alone leaves a hole before or behind it.
    for (second, data) in [(4, &[0; 8]), (0, &[0; 8])] {
        let header = format!("{{{},{}}}", tensor("a\\u001b", 0), tensor("a\\u001b", second));
        let error = refused_header(&header, data);
        assert!(error.contains(r#"two tensors have the name "a\u{1b}""#), "{error}");
    }
}

#[test]
fn what_is_no_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(error_of(dir.path()).contains("there is no file NAME.safetensors in it"));
    assert!(error_of(&dir.path().join("missing")).contains("No such file"));
    assert!(error_of(Path::new("/dev/null")).contains("neither a regular file nor a folder"));
}

/// [`error_of`] and this check the length of what is quoted.
#[test]
fn long_names_are_cut_where_an_error_quotes_them() {
    let long = "\\u0007".repeat(5000);
    let twice = refused_header(&format!("{{{},{}}}", tensor(&long, 0), tensor(&long, 4)), &[0; 8]);
    assert!(twice.contains("two tensors have the name \"\\u{7}"), "{twice}");

    let dir = tempfile::tempdir().unwrap();
    let header = format!("{{{}}}", tensor(&long, 0));
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), b"1234"].concat();
    for name in ["1.safetensors", "2.safetensors"] {
        fs::write(dir.path().join(name), &file).unwrap();
    }
    let error = SafeTensors::open(&handle(), dir.path()).unwrap_err().to_string();
    assert!(error.contains("1.safetensors, too") && error.chars().count() < 2000, "{error}");
    let index = dir.path().join("m.safetensors.index.json");
    for map in [
        format!(r#"{{"{long}":"1.safetensors","b":"1.safetensors"}}"#),
        format!(r#"{{"{long}":"../{long}"}}"#),
        format!(r#"{{"{long}":"{long}"}}"#),
        format!(r#"{{"{long}":"1.safetensors","{long}":"1.safetensors"}}"#),
        format!(r#"{{"{long}":1}}"#),
    ] {
        fs::write(&index, format!(r#"{{"weight_map":{map}}}"#)).unwrap();
        error_of(&index);
    }
    let name = "\u{7}".repeat(5000);
    let mismatch = Error::Mismatch { name: name.clone(), path: index.clone(), expected: 1, found: 2 };
    let missing = Error::NoTensor { name, path: index, count: 1 };
    for sentence in [mismatch, missing].map(|error| error.to_string()) {
        assert!(sentence.chars().count() < 2000 && !sentence.contains(char::is_control), "{sentence:?}");
    }
}
