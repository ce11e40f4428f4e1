//! Lines that fail: with one sentence, an exit code, and no changes on disk.

use std::fs;
use std::process::Command;

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

/// Runs a line, with the path of a full disk for `DISK`, that says how much it needs, and leaves the disk as it was.
pub(crate) fn assert_full_disk_is_told(line: &str) {
    let Some(disk) = SmallDisk::new(8) else { return };
    let filler = disk.path().join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    let full = std::io::copy(&mut std::io::repeat(1), &mut file).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let line = line.replace("DISK", disk.path().to_str().unwrap());
    let sentence = Bench::new().refused(&line, 1);
    assert!(sentence.contains("0 B free, and 2.0 MiB are needed"), "{sentence}");
    assert_eq!(names(&disk), ["filler"]);
}

/// Runs a line under RLIMIT_FSIZE that fails, names a file by this word, and leaves no files.
pub(crate) fn assert_file_size_limit_is_told(line: &str, word: &str) {
    let bench = bench();
    let script = format!("ulimit -f 100 && exec \"$0\" {line}");
    let program = crate::PROGRAM;
    let output = Command::new("sh").arg("-c").arg(script).arg(program).current_dir(bench.path()).output().unwrap();
    let (code, sentence) = (output.status.code(), String::from_utf8(output.stderr).unwrap());
    assert!(code == Some(1) && sentence.contains(word) && sentence.contains("File too large"), "{code:?} {sentence}");
    assert_eq!(bench.names(), ["small"]);
}
