//! Lines `key: value` of files in `/proc`.

/// The first value of `key`.
pub fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let value = |line: &'a str| line.split_once(':').filter(|(name, _)| name.trim() == key);
    text.lines().find_map(value).map(|(_, value)| value.trim())
}

/// A value in kB, which are 1024 bytes here, in bytes.
pub fn bytes(text: &str, key: &str) -> Option<u64> {
    value(text, key)?.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_key() {
        let text = "model name\t: A: B\nMemTotal:  24 kB\nMemFree: 24 MB\n";
        assert_eq!((value(text, "model name"), value(text, "model")), (Some("A: B"), None));
        assert_eq!(
            (bytes(text, "MemTotal"), bytes(text, "MemFree"), bytes(text, "Mem")),
            (Some(24 << 10), None, None)
        );
    }
}
