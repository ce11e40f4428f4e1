//! Whole numbers on the command line.

/// Reads a whole number.
pub fn parse<N: TryFrom<u64>>(text: &str) -> Result<N, String> {
    let number = text.trim().parse::<u64>().ok().and_then(|number| N::try_from(number).ok());
    number.ok_or_else(|| format!("it is not a whole number from 0 to {}", u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn what_is_no_whole_number_is_said() {
        assert_eq!((parse::<u64>("18446744073709551615"), parse::<usize>(" 7 ")), (Ok(u64::MAX), Ok(7)));
        for text in ["x", "", "-1", "0.5", "18446744073709551616"] {
            assert_eq!(
                parse::<u64>(text).unwrap_err(),
                "it is not a whole number from 0 to 18446744073709551615",
                "{text}"
            );
        }
    }
}
