//! Runs the checks on the stored seeds, without a fuzzer.

use std::fs;
use std::path::PathBuf;

use super::most_memory;

/// Checks every file of a folder of `fuzz/seeds/`; fails if there is none.
pub(super) fn check_seeds(target: &str, check: fn(&[u8])) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let mut paths: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 10, "{} has only {} files", folder.display(), paths.len());
    for path in paths {
        println!("{}", path.display());
        let input = fs::read(&path).unwrap();
        let used = allocation_counter::measure(|| check(&input)).bytes_max;
        let most = most_memory(&input);
        assert!(used <= most, "{}: {used} bytes of memory for {}, not {most}", path.display(), input.len());
    }
}
