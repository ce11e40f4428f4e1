//! How long something shall go on, as people write it.

/// Reads a number of seconds: `60`, `0.5`, `60s`.
pub fn parse_seconds(text: &str) -> Result<f64, String> {
    /// A week.
    const LONGEST: f64 = 604_800.0;
    match text.trim().trim_end_matches('s').parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= LONGEST => Ok(seconds),
        _ => Err(format!("{text:?} is not a number of seconds above 0 and at most {LONGEST}")),
    }
}
