//! What the fuzz targets share.

use aio_cli::fuzzing::most_memory;

/// Checks an input, and that the check stays within the memory limit.
pub fn bounded(check: fn(&[u8]), input: &[u8]) {
    let used = allocation_counter::measure(|| check(input)).bytes_max;
    let most = most_memory(input);
    assert!(used <= most, "{used} bytes of memory for an input of {}, not {most}", input.len());
}
