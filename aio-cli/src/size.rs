//! Byte counts as people write them (`64K`, `1GiB`, `4096`) and read them (`1.4 GiB`).

use bytesize::ByteSize;

/// The largest offset of a file.
const LARGEST: u64 = i64::MAX as u64;

/// Reads a size: plain bytes, or a number with a unit. `K`, `M`, `G`, `T` are binary, as in fio, and so are `KiB`,
/// `MiB`, ...; `KB`, `MB`, ... are decimal. Case does not matter.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let explained = || {
        format!(
            "{text:?} is not a size: write bytes (4096), binary units (64K, 1M, 1GiB) or decimal units (10MB), \
             at most 8 EiB"
        )
    };
    // bytesize reads a lone K as 1000; storage tools and this one mean 1024.
    let binary = match text.char_indices().last() {
        Some((_, unit)) if "kmgtpeKMGTPE".contains(unit) => format!("{text}iB"),
        _ => text.to_owned(),
    };
    match binary.parse::<ByteSize>() {
        Ok(ByteSize(bytes)) if bytes <= LARGEST => Ok(bytes),
        _ => Err(explained()),
    }
}

/// Like [`parse`], without zero.
pub fn parse_positive(text: &str) -> Result<u64, String> {
    parse_at_least(text, 1, "1 byte")
}

/// Like [`parse`], with at least `least` bytes, which the error shows as `shown`.
pub fn parse_at_least(text: &str, least: u64, shown: &str) -> Result<u64, String> {
    match parse(text)? {
        bytes if bytes < least => Err(format!("it must be at least {shown}")),
        bytes => Ok(bytes),
    }
}

/// Like [`parse_positive`], for sizes in memory.
pub fn parse_usize(text: &str) -> Result<usize, String> {
    usize::try_from(parse_positive(text)?).map_err(|error| error.to_string())
}

/// The size in binary units if these show it exactly (`64.0 KiB`), else in bytes (`5000 bytes`).
pub fn exact(bytes: u64) -> String {
    let shown = show(bytes);
    if parse(&shown) == Ok(bytes) { shown } else { format!("{bytes} bytes") }
}

/// The size in binary units: `1.4 GiB`.
pub fn show(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_binary_units_would_round_is_in_bytes() {
        for (bytes, shown) in [
            (0, "0 B"),
            (5000, "5000 bytes"),
            (4096, "4.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) + 1, "1048577 bytes"),
            (1 << 40, "1.0 TiB"),
        ] {
            assert_eq!(exact(bytes), shown);
        }
    }

    #[test]
    fn units_are_binary_unless_they_say_decimal() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("512B", 512),
            ("64K", 64 << 10),
            ("64k", 64 << 10),
            ("64Ki", 64 << 10),
            ("64KiB", 64 << 10),
            ("1M", 1 << 20),
            ("1MiB", 1 << 20),
            ("1.5G", 3 << 29),
            ("1GiB", 1 << 30),
            ("2T", 2 << 40),
            (" 1 MiB ", 1 << 20),
            ("10MB", 10_000_000),
            ("1kB", 1000),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size_is_explained() {
        for text in ["", "K", "-1", "ten", "1X", "1.2.3M", "0x10", "99999999E", "18446744073709551615", "1é", "NaN"]
        {
            let error = parse(text).expect_err(text);
            assert!(error.contains("is not a size"), "{text}: {error}");
        }
        assert!(parse_positive("0K").is_err());
    }
}
