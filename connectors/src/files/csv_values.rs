//! Values of CSV: which type a column's texts have, and the texts as values of that type. Both by the same rules, so that what was learnt is read.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Date32Array, Float64Array, Int64Array, StringArray};
use arrow::compute::cast;
use arrow::compute::kernels::cast_utils::{Parser, string_to_datetime};
use arrow::datatypes::{DataType, Date32Type, TimeUnit};
use chrono::{DateTime, Timelike, Utc};

use super::numbers::double;

/// As in all our times that have a zone.
const UTC: &str = "+00:00";

/// What one text looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looks {
    Boolean,
    Integer,
    Double,
    Date,
    Time { digits: usize, zoned: bool },
    Text,
}

/// A type that all of a column's values have; text where there is no other, or no value.
pub(crate) fn type_of(values: &StringArray) -> DataType {
    let looks = values.iter().flatten().map(looks).reduce(around).unwrap_or(Looks::Text);
    let data_type = looks.data_type();
    // What looks like a date may be none.
    match parsed(values, &data_type) {
        Ok(_) => data_type,
        Err(_) => DataType::Utf8,
    }
}

/// The values of a column, or the row of the first that is none of the type.
pub(crate) fn parsed(values: &StringArray, data_type: &DataType) -> Result<ArrayRef, usize> {
    Ok(match data_type {
        DataType::Utf8 => Arc::new(values.clone()),
        DataType::Boolean => Arc::new(BooleanArray::from(each(values, boolean)?)),
        DataType::Int64 => Arc::new(Int64Array::from(each(values, |text| text.parse().ok())?)),
        DataType::Float64 => Arc::new(Float64Array::from(each(values, float)?)),
        DataType::Date32 => Arc::new(Date32Array::from(each(values, date)?)),
        DataType::Timestamp(unit, zone) => {
            let times = Int64Array::from(each(values, |text| time(text, *unit, zone.is_some()))?);
            cast(&times, data_type).map_err(|_| 0_usize)?
        }
        _ => return Err(0),
    })
}

fn each<T>(values: &StringArray, value: impl Fn(&str) -> Option<T>) -> Result<Vec<Option<T>>, usize> {
    let value = |(row, text): (usize, Option<&str>)| match text {
        None => Ok(None),
        Some(text) => value(text).map(Some).ok_or(row),
    };
    values.iter().enumerate().map(value).collect()
}

impl Looks {
    fn data_type(self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Integer => DataType::Int64,
            Self::Double => DataType::Float64,
            Self::Date => DataType::Date32,
            Self::Time { digits, zoned } => {
                let unit = match digits {
                    0 => TimeUnit::Second,
                    1..=3 => TimeUnit::Millisecond,
                    4..=6 => TimeUnit::Microsecond,
                    _ => TimeUnit::Nanosecond,
                };
                DataType::Timestamp(unit, zoned.then(|| UTC.into()))
            }
            Self::Text => DataType::Utf8,
        }
    }
}

/// What holds both. A time with a zone and one without have nothing in common: no zone is anybody's guess.
fn around(left: Looks, right: Looks) -> Looks {
    use Looks::{Date, Double, Integer, Text, Time};
    match (left, right) {
        (left, right) if left == right => left,
        (Integer | Double, Integer | Double) => Double,
        (Time { digits, zoned: false }, Date) | (Date, Time { digits, zoned: false }) => Time { digits, zoned: false },
        (Time { digits: a, zoned }, Time { digits: b, zoned: other }) if zoned == other => {
            Time { digits: a.max(b), zoned }
        }
        _ => Text,
    }
}

fn looks(text: &str) -> Looks {
    if boolean(text).is_some() {
        return Looks::Boolean;
    }
    if is_code(text) {
        return Looks::Text;
    }
    if text.strip_prefix('-').unwrap_or(text).bytes().all(|byte| byte.is_ascii_digit()) {
        // Longer ones are text, which keeps their digits.
        return if text.parse::<i64>().is_ok() { Looks::Integer } else { Looks::Text };
    }
    if float(text).is_some() && !text.starts_with('+') {
        return Looks::Double;
    }
    match (is_date(text), Stamp::of(text)) {
        (true, _) => Looks::Date,
        (_, Some(stamp)) => Looks::Time { digits: stamp.digits, zoned: stamp.zoned },
        _ => Looks::Text,
    }
}

/// Whether a number is none: the leading zeros of a code would be lost. As `townlake load` has it.
fn is_code(text: &str) -> bool {
    let digits = text.trim_start_matches(['-', '+']).as_bytes();
    digits.first() == Some(&b'0') && digits.get(1).is_some_and(u8::is_ascii_digit)
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        _ if text.eq_ignore_ascii_case("true") => Some(true),
        _ if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

fn float(text: &str) -> Option<f64> {
    match text {
        "NaN" | "nan" => Some(f64::NAN),
        "inf" => Some(f64::INFINITY),
        "-inf" => Some(f64::NEG_INFINITY),
        _ => double(text),
    }
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && has_shape(text, b"0000-00-00")
}

/// Whether a text begins in this shape, in which `0` is any digit.
fn has_shape(text: &str, shape: &[u8]) -> bool {
    let fits = |(byte, shape): (&u8, &u8)| if *shape == b'0' { byte.is_ascii_digit() } else { byte == shape };
    text.len() >= shape.len() && text.as_bytes().iter().zip(shape).all(fits)
}

fn date(text: &str) -> Option<i32> {
    is_date(text).then(|| Date32Type::parse(text)).flatten()
}

/// The shape of a time.
struct Stamp {
    /// Of its fraction.
    digits: usize,
    zoned: bool,
}

impl Stamp {
    fn of(text: &str) -> Option<Self> {
        if !has_shape(text, b"0000-00-00T00:00:00") && !has_shape(text, b"0000-00-00 00:00:00") {
            return None;
        }
        let rest = text.get(19..)?;
        let (digits, zone) = match rest.strip_prefix('.') {
            None => (0, rest),
            Some(fraction) => {
                let zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
                (fraction.len() - zone.len(), zone)
            }
        };
        let is_sound = rest.is_empty() || !rest.starts_with('.') || (1..=9).contains(&digits);
        is_sound.then_some(Self { digits, zoned: !zone.is_empty() })
    }
}

/// A time in its unit; `None` for one that has a zone where the column has none, or the other way round, and for finer ones.
fn time(text: &str, unit: TimeUnit, zoned: bool) -> Option<i64> {
    let is_ours = match Stamp::of(text) {
        Some(stamp) => stamp.zoned == zoned,
        None => !zoned && is_date(text),
    };
    let time: DateTime<Utc> = is_ours.then(|| string_to_datetime(&Utc, text).ok()).flatten()?;
    let finer = 10_u32.pow(9 - digits(unit));
    match unit {
        _ if !time.nanosecond().is_multiple_of(finer) => None,
        TimeUnit::Second => Some(time.timestamp()),
        TimeUnit::Millisecond => Some(time.timestamp_millis()),
        TimeUnit::Microsecond => Some(time.timestamp_micros()),
        TimeUnit::Nanosecond => time.timestamp_nanos_opt(),
    }
}

/// The digits of a unit's fraction of a second.
pub(super) fn digits(unit: TimeUnit) -> u32 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learnt(values: &[&str]) -> DataType {
        type_of(&StringArray::from(values.to_vec()))
    }

    #[test]
    fn a_type_holds_all_that_was_seen() {
        let time = |unit, zoned: bool| DataType::Timestamp(unit, zoned.then(|| UTC.into()));
        for (values, expected) in [
            (&["true", "FALSE"][..], DataType::Boolean),
            (&["1", "-9223372036854775808"], DataType::Int64),
            (&["1", "9223372036854775808"], DataType::Utf8),
            (&["1", "0.5", "NaN"], DataType::Float64),
            (&["9007199254740993", "0.5"], DataType::Utf8),
            (&["1", "true"], DataType::Utf8),
            (&["1", "007"], DataType::Utf8),
            (&["+1"], DataType::Utf8),
            (&["-"], DataType::Utf8),
            (&["2024-01-01", "2024-02-29"], DataType::Date32),
            (&["2024-01-01", "2024-02-30"], DataType::Utf8),
            (&["2024-01-01", "2024-01-01 10:00:00"], time(TimeUnit::Second, false)),
            (&["2024-01-01 10:00:00", "2024-01-01T10:00:00.25"], time(TimeUnit::Millisecond, false)),
            (&["2024-01-01T10:00:00Z", "2024-01-01T10:00:00.123456+02:00"], time(TimeUnit::Microsecond, true)),
            (&["2024-01-01 10:00:00", "2024-01-01T10:00:00+02:00"], DataType::Utf8),
            (&["2024-01-01", "2024-01-01T10:00:00+02:00"], DataType::Utf8),
            (&["2024-01-01 25:00:00"], DataType::Utf8),
            (&["2024-01-01 10:00:00.1234567890"], DataType::Utf8),
            (&["2024-01-01 10:00:00 x"], DataType::Utf8),
            // No nanoseconds reach so far.
            (&["3024-01-01 10:00:00.123456789"], DataType::Utf8),
            (&["2024-01-01 10:00:0é"], DataType::Utf8),
            (&[], DataType::Utf8),
        ] {
            assert_eq!(learnt(values), expected, "{values:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_told_and_not_bent() {
        let seconds = DataType::Timestamp(TimeUnit::Second, None);
        let zoned = DataType::Timestamp(TimeUnit::Second, Some(UTC.into()));
        for (value, data_type) in [
            ("2024-01-01T10:00:00+02:00", &seconds),
            ("2024-01-01 10:00:00.5", &seconds),
            ("2024-01-01 10:00:00", &zoned),
            ("2024-01-01", &zoned),
            ("2024-01-01T10:00:00", &DataType::Date32),
            ("9223372036854775808", &DataType::Int64),
            ("1.5", &DataType::Int64),
            ("9007199254740993", &DataType::Float64),
            ("yes", &DataType::Boolean),
        ] {
            let values = StringArray::from(vec![None, Some(value)]);
            assert_eq!(parsed(&values, data_type).map(|_| ()), Err(1), "{value} {data_type}");
        }
        let values = StringArray::from(vec!["2024-01-01T10:00:00+02:00"]);
        let hours = |data_type| cast(&parsed(&values, data_type).unwrap(), &DataType::Int64).unwrap();
        assert_eq!(hours(&zoned).as_ref(), &Int64Array::from(vec![1_704_096_000]));
    }
}
