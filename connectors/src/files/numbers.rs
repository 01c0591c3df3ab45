//! Numbers in text that a double keeps.

/// A double has so many digits at most: more would be lost.
const MOST_DIGITS: usize = 17;

/// The double of a number's text; `None` where it is none, or would be another number: a whole one that doubles step over, or a fraction of more
/// digits than they have.
pub(crate) fn double(text: &str) -> Option<f64> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite())?;
    let is_whole = !text.contains(['.', 'e', 'E']);
    let kept = match is_whole {
        true => digits(text) <= 15 || text.parse() == Ok(number as i128) || number.to_string() == text,
        false => digits(text) <= MOST_DIGITS,
    };
    kept.then_some(number)
}

/// How many digits count: without zeros before and after.
fn digits(text: &str) -> usize {
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    digits.trim_matches('0').len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_kept_or_it_is_no_double() {
        for kept in [
            "0",
            "-1",
            "0.1",
            "1e3",
            "0.30000000000000004",
            "0.10000000000000001",
            "0.1000000000000000000000",
            "9007199254740992",
            "1180591620717411303424",
            "123456789012345680000",
            "-9223372036854775808",
        ] {
            assert!(double(kept).is_some(), "{kept}");
        }
        for lost in
            ["9223372036854775807", "9007199254740993", "123456789012345678.25", "1e999", "NaN", "inf", "x", "", "1 "]
        {
            assert_eq!(double(lost), None, "{lost}");
        }
    }
}
