//! What has to hold for every input from outside, valid or not.
//!
//! Each function takes an input as a fuzzer makes it, and panics where something does not hold. The fuzz targets
//! (`fuzz/` at the root of the repository) call them with inputs of their own, the tests below with `fuzz/seeds/`.

mod config;
mod safetensors;
#[cfg(test)]
mod seeds;

pub use config::config;
pub use safetensors::safetensors;

/// The most memory in bytes that an input may take, its check included: what a command line takes to build, and a
/// multiple of the input. A length that an input only claims to have is far more.
pub fn most_memory(input: &[u8]) -> u64 {
    (2 << 20) + 1000 * input.len() as u64
}

/// An error is for people: it says something, is not endless, and leaves their terminal alone.
pub fn assert_readable(error: &str) {
    /// Characters. TOML's errors are of several lines, and quote the one that they are about.
    const LONGEST: usize = 2000;
    assert!(!error.trim().is_empty(), "an error that says nothing");
    assert!(error.chars().count() <= LONGEST, "an error of {} bytes: {error:.200}...", error.len());
    let odd = error.chars().find(|&c| c.is_control() && !"\n\t".contains(c));
    assert!(odd.is_none(), "an error with {odd:?}: {error:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations() {
        seeds::check_seeds("config", config);
    }

    #[test]
    fn safetensors_files() {
        seeds::check_seeds("safetensors", safetensors);
    }
}
