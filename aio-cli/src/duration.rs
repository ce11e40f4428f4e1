//! Durations on the command line.

use std::time::Duration;

/// Reads a time: seconds (`60`, `0.5`), or numbers with units (`10s`, `90m`, `1h 30m`).
pub fn parse(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
    let text = text.trim();
    let time = match text.strip_suffix('s').unwrap_or(text).parse() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => humantime::parse_duration(text).ok(),
    };
    time.filter(|time| !time.is_zero() && *time <= LONGEST).ok_or_else(|| {
        format!("{text:?} is not a time above 0 and at most a week: write seconds (60, 0.5), 10s, 90m or 2h")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_need_no_unit() {
        for (text, millis) in [
            ("60", 60_000),
            ("0.5", 500),
            (" 1.5s ", 1500),
            ("250ms", 250),
            ("2m", 120_000),
            ("1h 30m", 5_400_000),
            ("1.5h", 5_400_000),
            ("8h", 28_800_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "0", "0s", "-1", "h", "nan", "inf", "1e300", "8d", "604801", "soon", "2 x"] {
            assert!(parse(text).unwrap_err().contains("is not a time"), "{text}");
        }
    }
}
