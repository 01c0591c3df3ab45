//! Postgres's binary numeric into a scaled integer, exactly.
//!
//! On the wire: digit count, weight of the first digit, sign, display scale (four 16-bit words), then digits of base 10 000.
//! The value is the sum of `digit[i] * 10000^(weight - i)`.

use arrow::datatypes::i256;

/// Why a numeric cannot be a decimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NumericFault {
    /// The bytes are no numeric.
    Malformed,
    /// NaN or an infinity.
    NotFinite(&'static str),
    /// More digits than the decimal has, before or after the point.
    DoesNotFit,
}

struct Parts<'a> {
    weight: i32,
    negative: bool,
    digits: &'a [[u8; 2]],
}

impl Parts<'_> {
    /// The digits with the power of ten that each counts for in a decimal of `scale`.
    fn terms(&self, scale: i8) -> impl Iterator<Item = (u16, i32)> {
        let first = self.weight.saturating_mul(4).saturating_add(i32::from(scale));
        let exponents = (0i32..).map(move |i| first.saturating_sub(i.saturating_mul(4)));
        self.digits.iter().map(|bytes| u16::from_be_bytes(*bytes)).zip(exponents)
    }
}

fn parse(bytes: &[u8]) -> Result<Parts<'_>, NumericFault> {
    let word =
        |at: usize| bytes.get(at..at + 2).and_then(|w| <[u8; 2]>::try_from(w).ok()).ok_or(NumericFault::Malformed);
    let count = u16::from_be_bytes(word(0)?);
    let weight = i32::from(i16::from_be_bytes(word(2)?));
    let negative = match u16::from_be_bytes(word(4)?) {
        0x0000 => false,
        0x4000 => true,
        0xC000 => return Err(NumericFault::NotFinite("NaN")),
        0xD000 => return Err(NumericFault::NotFinite("Infinity")),
        0xF000 => return Err(NumericFault::NotFinite("-Infinity")),
        _ => return Err(NumericFault::Malformed),
    };
    let rest = bytes.get(8..).ok_or(NumericFault::Malformed)?;
    let (digits, tail) = rest.as_chunks::<2>();
    let valid = digits.iter().all(|digit| u16::from_be_bytes(*digit) < 10_000);
    if !tail.is_empty() || digits.len() != usize::from(count) || !valid {
        return Err(NumericFault::Malformed);
    }
    Ok(Parts { weight, negative, digits })
}

/// The value times `10^scale`, for decimals of at most 38 digits.
pub(crate) fn to_i128(bytes: &[u8], precision: u8, scale: i8) -> Result<i128, NumericFault> {
    let parts = parse(bytes)?;
    let mut sum: i128 = 0;
    for (digit, exponent) in parts.terms(scale) {
        let term = term_i128(digit, exponent).ok_or(NumericFault::DoesNotFit)?;
        sum = sum.checked_add(term).ok_or(NumericFault::DoesNotFit)?;
    }
    let limit = 10i128.checked_pow(precision.into()).unwrap_or(i128::MAX);
    if sum >= limit {
        return Err(NumericFault::DoesNotFit);
    }
    Ok(if parts.negative { -sum } else { sum })
}

fn term_i128(digit: u16, exponent: i32) -> Option<i128> {
    let digit = i128::from(digit);
    if digit == 0 {
        return Some(0);
    }
    match u32::try_from(exponent) {
        Ok(up) => digit.checked_mul(10i128.checked_pow(up)?),
        Err(_) => divide(digit, exponent.unsigned_abs()),
    }
}

/// `digit / 10^down`, when nothing is lost.
fn divide(digit: i128, down: u32) -> Option<i128> {
    let divisor = 10i128.checked_pow(down)?;
    (digit % divisor == 0).then_some(digit / divisor)
}

/// The value times `10^scale`, for decimals of at most 76 digits.
pub(crate) fn to_i256(bytes: &[u8], precision: u8, scale: i8) -> Result<i256, NumericFault> {
    let parts = parse(bytes)?;
    let mut sum = i256::ZERO;
    for (digit, exponent) in parts.terms(scale) {
        let term = term_i256(digit, exponent).ok_or(NumericFault::DoesNotFit)?;
        sum = sum.checked_add(term).ok_or(NumericFault::DoesNotFit)?;
    }
    let limit = power_i256(precision.into()).ok_or(NumericFault::DoesNotFit)?;
    if sum >= limit {
        return Err(NumericFault::DoesNotFit);
    }
    if parts.negative { sum.checked_neg().ok_or(NumericFault::DoesNotFit) } else { Ok(sum) }
}

fn term_i256(digit: u16, exponent: i32) -> Option<i256> {
    if digit == 0 {
        return Some(i256::ZERO);
    }
    match u32::try_from(exponent) {
        Ok(up) => i256::from_i128(digit.into()).checked_mul(power_i256(up)?),
        Err(_) => divide(digit.into(), exponent.unsigned_abs()).map(i256::from_i128),
    }
}

fn power_i256(exponent: u32) -> Option<i256> {
    if exponent > 76 {
        return None;
    }
    let half = i256::from_i128(10i128.checked_pow(exponent / 2)?);
    let rest = i256::from_i128(10i128.checked_pow(exponent - exponent / 2)?);
    half.checked_mul(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(weight: i16, sign: u16, digits: &[u16]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((digits.len() as u16).to_be_bytes());
        bytes.extend(weight.to_be_bytes());
        bytes.extend(sign.to_be_bytes());
        bytes.extend(0u16.to_be_bytes());
        digits.iter().for_each(|digit| bytes.extend(digit.to_be_bytes()));
        bytes
    }

    #[test]
    fn values_scale_exactly() {
        assert_eq!(to_i128(&wire(1, 0, &[1, 2345, 6700]), 15, 2), Ok(1_234_567));
        assert_eq!(to_i128(&wire(0, 0x4000, &[7, 500]), 15, 2), Ok(-705));
        assert_eq!(to_i128(&wire(-1, 0, &[12]), 10, 4), Ok(12));
        assert_eq!(to_i128(&wire(0, 0, &[]), 15, 2), Ok(0));
        assert_eq!(
            to_i256(&wire(15, 0, &[9999; 16]), 76, 6).map(|v| v.to_string()),
            Ok(format!("{}000000", "9".repeat(64)))
        );
    }

    #[test]
    fn what_does_not_fit_is_told() {
        assert_eq!(to_i128(&wire(0, 0, &[1, 2345]), 15, 2), Err(NumericFault::DoesNotFit));
        assert_eq!(to_i128(&wire(0, 0, &[1000]), 3, 0), Err(NumericFault::DoesNotFit));
        assert_eq!(to_i128(&wire(i16::MAX, 0, &[1]), 38, 0), Err(NumericFault::DoesNotFit));
        assert_eq!(to_i128(&wire(i16::MIN, 0, &[1]), 38, 38), Err(NumericFault::DoesNotFit));
        assert_eq!(to_i128(&wire(0, 0xC000, &[]), 15, 2), Err(NumericFault::NotFinite("NaN")));
    }

    #[test]
    fn hostile_bytes_are_malformed() {
        let sound = wire(0, 0, &[1, 2]);
        for end in 0..sound.len() {
            assert_eq!(to_i128(&sound[..end], 15, 4), Err(NumericFault::Malformed), "cut at {end}");
        }
        assert_eq!(to_i128(&wire(0, 0, &[10_000]), 15, 2), Err(NumericFault::Malformed));
        assert_eq!(to_i128(&wire(0, 0x1234, &[1]), 15, 2), Err(NumericFault::Malformed));
    }
}
