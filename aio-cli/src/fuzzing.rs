//! Properties that hold for every input from outside, valid or not.
//!
//! Each function takes a fuzzer's input, and panics where a property does not hold. The fuzz targets (`fuzz/` at the
//! root of the repository) call them with generated inputs, the tests below with `fuzz/seeds/`.

mod config;
mod safetensors;
#[cfg(test)]
mod seeds;

pub use config::config;
pub use safetensors::safetensors;

/// The most memory in bytes that an input may take, its check included: a constant for building a command line, and a
/// multiple of the input. A length that an input only claims to have is far more.
pub fn most_memory(input: &[u8]) -> u64 {
    (2 << 20) + 1000 * input.len() as u64
}

/// Checks that an error has text, is of bounded length, and has no control characters.
pub fn assert_readable(error: &str) {
    /// In characters. TOML's errors have several lines, and quote the one that is wrong.
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
