//! What has to hold for every input from outside, valid or not.
//!
//! Each function takes an input as a fuzzer makes it, and panics where something does not hold. The fuzz targets
//! (`fuzz/` at the root of the repository) call them with inputs of their own, the tests below with `fuzz/seeds/`.

mod config;
mod job_file;
mod safetensors;

pub use config::config;
pub use job_file::job_file;
pub use safetensors::safetensors;

/// The most memory in bytes that an input may take, its check included: what a command line takes to build, and a
/// multiple of the input. A length that an input only claims to have is far more.
pub fn most_memory(input: &[u8]) -> u64 {
    (2 << 20) + 1000 * input.len() as u64
}

/// An error is for people: it says something, is not endless, and leaves their terminal alone.
fn assert_readable(error: &str) {
    /// Characters. TOML's errors are of several lines, and quote the one that they are about.
    const LONGEST: usize = 2000;
    assert!(!error.trim().is_empty(), "an error that says nothing");
    assert!(error.chars().count() <= LONGEST, "an error of {} bytes: {error:.200}...", error.len());
    let odd = error.chars().find(|&c| c.is_control() && !"\n\t".contains(c));
    assert!(odd.is_none(), "an error with {odd:?}: {error:?}");
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    /// Checks every file of a folder, and that among them are `least` or more.
    fn check_seeds(target: &str, check: fn(&[u8]), least: usize) {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
        let mut paths: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        assert!(paths.len() >= least, "{} has only {} files", folder.display(), paths.len());
        for path in paths {
            println!("{}", path.display());
            let input = fs::read(&path).unwrap();
            let used = allocation_counter::measure(|| check(&input)).bytes_max;
            let most = most_memory(&input);
            assert!(used <= most, "{}: {used} bytes of memory for {}, not {most}", path.display(), input.len());
        }
    }

    #[test]
    fn configurations() {
        check_seeds("config", config, 10);
    }

    #[test]
    fn safetensors_files() {
        check_seeds("safetensors", safetensors, 10);
    }

    #[test]
    fn job_files() {
        check_seeds("job_file", job_file, 10);
    }
}
