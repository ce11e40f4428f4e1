//! Lines that fail: with one sentence, an exit code, and no changes on disk.

use std::fs;

use super::bench::Bench;
use super::disk::SmallDisk;

/// A folder with a file of 10 bytes, which every line has to leave unchanged.
pub(crate) fn bench() -> Bench {
    let bench = Bench::new();
    bench.file("small", b"0123456789");
    bench
}

pub(crate) fn assert_refused(lines: &[(&str, i32, &[&str])]) {
    let bench = bench();
    for (line, code, fragments) in lines {
        let sentence = bench.refused(line, *code);
        for fragment in *fragments {
            assert!(sentence.contains(fragment), "{line}\nlacks {fragment:?}: {sentence}");
        }
        assert_eq!(
            (bench.names(), bench.contents("small").as_slice()),
            (vec!["small".to_owned()], &b"0123456789"[..])
        );
    }
}

/// The names of all files on a disk, except those of mkfs.
pub(crate) fn names(disk: &SmallDisk) -> Vec<String> {
    let entries = fs::read_dir(disk.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != "lost+found").collect()
}

/// Runs a line, with the disk's path for `DISK`, that fails with these words and leaves no files.
pub(crate) fn assert_refused_on(disk: &SmallDisk, line: &str, words: &[&str]) {
    let line = line.replace("DISK", disk.path().to_str().unwrap());
    let sentence = Bench::new().refused(&line, 1);
    for word in words {
        assert!(sentence.contains(word), "{line} lacks {word:?}: {sentence}");
    }
    assert_eq!(names(disk), Vec::<String>::new(), "{line}");
}
