//! Fields of JSON values into Arrow columns.
//!
//! | SQL type | JSON |
//! |---|---|
//! | boolean | `true`, `false` |
//! | tinyint … bigint, decimal | a number, or a string that holds one, of exactly this value: nothing is rounded, 64 bits and 38 digits are kept |
//! | real, double | a number, or a string that holds one, to the nearest float; not beyond the largest |
//! | varchar | a string; anything else as its JSON text |
//! | varbinary | a string in base64 |
//! | date, time | a string `2026-01-31`, `23:59:59.5` |
//! | timestamp, timestamptz | a string of ISO 8601, UTC where it names no zone, or a number of milliseconds since 1970 |

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder, Float64Builder,
    Int8Builder, Int16Builder, Int32Builder, Int64Builder, StringBuilder, Time64MicrosecondBuilder,
    TimestampMicrosecondBuilder,
};
use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::datatypes::Date32Type;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{NaiveDate, NaiveTime, Timelike, Utc};
use serde_json::value::RawValue;

use super::types::{FieldType, UTC};

/// Builds one column of fields.
#[derive(Debug)]
pub(crate) enum FieldBuilder {
    Boolean(BooleanBuilder),
    Tinyint(Int8Builder),
    Smallint(Int16Builder),
    Integer(Int32Builder),
    Bigint(Int64Builder),
    Real(Float32Builder),
    Double(Float64Builder),
    Decimal(Decimal128Builder, u8, i8),
    Varchar(StringBuilder),
    Varbinary(BinaryBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
}

/// A value that its column's type does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DoesNotFit;

macro_rules! each {
    ($self:expr, $builder:ident => $do:expr) => {
        match $self {
            FieldBuilder::Boolean($builder) => $do,
            FieldBuilder::Tinyint($builder) => $do,
            FieldBuilder::Smallint($builder) => $do,
            FieldBuilder::Integer($builder) => $do,
            FieldBuilder::Bigint($builder) => $do,
            FieldBuilder::Real($builder) => $do,
            FieldBuilder::Double($builder) => $do,
            FieldBuilder::Decimal($builder, ..) => $do,
            FieldBuilder::Varchar($builder) => $do,
            FieldBuilder::Varbinary($builder) => $do,
            FieldBuilder::Date($builder) => $do,
            FieldBuilder::Time($builder) => $do,
            FieldBuilder::Timestamp($builder) => $do,
        }
    };
}

impl FieldBuilder {
    /// An empty column.
    pub fn new(field_type: FieldType) -> Self {
        match field_type {
            FieldType::Boolean => Self::Boolean(BooleanBuilder::new()),
            FieldType::Tinyint => Self::Tinyint(Int8Builder::new()),
            FieldType::Smallint => Self::Smallint(Int16Builder::new()),
            FieldType::Integer => Self::Integer(Int32Builder::new()),
            FieldType::Bigint => Self::Bigint(Int64Builder::new()),
            FieldType::Real => Self::Real(Float32Builder::new()),
            FieldType::Double => Self::Double(Float64Builder::new()),
            FieldType::Decimal { precision, scale } => {
                let builder = Decimal128Builder::new().with_data_type(field_type.arrow());
                Self::Decimal(builder, precision, scale)
            }
            FieldType::Varchar => Self::Varchar(StringBuilder::new()),
            FieldType::Varbinary => Self::Varbinary(BinaryBuilder::new()),
            FieldType::Date => Self::Date(Date32Builder::new()),
            FieldType::Time => Self::Time(Time64MicrosecondBuilder::new()),
            FieldType::Timestamp => Self::Timestamp(TimestampMicrosecondBuilder::new()),
            FieldType::Timestamptz => Self::Timestamp(TimestampMicrosecondBuilder::new().with_timezone(UTC)),
        }
    }

    /// Appends NULL.
    pub fn append_null(&mut self) {
        each!(self, builder => builder.append_null());
    }

    /// Appends what stands in a JSON value. Nothing is appended when it does not fit.
    pub fn append_json(&mut self, value: Option<&RawValue>) -> Result<(), DoesNotFit> {
        let Some(value) = value else {
            self.append_null();
            return Ok(());
        };
        let raw = value.get();
        match self {
            Self::Boolean(builder) => match raw {
                "true" => builder.append_value(true),
                "false" => builder.append_value(false),
                _ => return Err(DoesNotFit),
            },
            Self::Tinyint(builder) => builder.append_value(integer(raw)?),
            Self::Smallint(builder) => builder.append_value(integer(raw)?),
            Self::Integer(builder) => builder.append_value(integer(raw)?),
            Self::Bigint(builder) => builder.append_value(integer(raw)?),
            Self::Real(builder) => {
                let value: f32 = number(raw)?.parse().map_err(|_| DoesNotFit)?;
                builder.append_value(Some(value).filter(|value| value.is_finite()).ok_or(DoesNotFit)?);
            }
            Self::Double(builder) => {
                let value: f64 = number(raw)?.parse().map_err(|_| DoesNotFit)?;
                builder.append_value(Some(value).filter(|value| value.is_finite()).ok_or(DoesNotFit)?);
            }
            Self::Decimal(builder, precision, scale) => {
                let value = scaled(&number(raw)?, *scale).ok_or(DoesNotFit)?;
                let limit = 10u128.pow(u32::from(*precision));
                builder.append_value(Some(value).filter(|value| value.unsigned_abs() < limit).ok_or(DoesNotFit)?);
            }
            Self::Varchar(builder) => match string(raw) {
                Some(text) => builder.append_value(text),
                None => builder.append_value(raw),
            },
            Self::Varbinary(builder) => {
                let bytes = string(raw).and_then(|text| STANDARD.decode(text.as_bytes()).ok());
                builder.append_value(bytes.ok_or(DoesNotFit)?);
            }
            Self::Date(builder) => {
                let text = string(raw).ok_or(DoesNotFit)?;
                let date = NaiveDate::parse_from_str(&text, "%Y-%m-%d").map_err(|_| DoesNotFit)?;
                builder.append_value(Date32Type::from_naive_date(date));
            }
            Self::Time(builder) => builder.append_value(time(&string(raw).ok_or(DoesNotFit)?)?),
            Self::Timestamp(builder) => builder.append_value(timestamp(raw)?),
        }
        Ok(())
    }

    /// Appends text to a column of text, or bytes to one of bytes.
    pub fn append_whole(&mut self, value: &[u8]) -> Result<(), DoesNotFit> {
        match self {
            Self::Varchar(builder) => builder.append_value(std::str::from_utf8(value).map_err(|_| DoesNotFit)?),
            Self::Varbinary(builder) => builder.append_value(value),
            _ => return Err(DoesNotFit),
        }
        Ok(())
    }

    /// The column, and an empty one after it.
    pub fn finish(&mut self) -> ArrayRef {
        each!(self, builder => Arc::new(builder.finish()))
    }
}

/// The text of a JSON string; `None` for anything else.
fn string(raw: &str) -> Option<Cow<'_, str>> {
    let inside = raw.strip_prefix('"')?.strip_suffix('"')?;
    if !inside.contains('\\') {
        return Some(Cow::Borrowed(inside));
    }
    serde_json::from_str::<String>(raw).ok().map(Cow::Owned)
}

/// The text of a JSON number, or of one in a string.
fn number(raw: &str) -> Result<Cow<'_, str>, DoesNotFit> {
    let text = string(raw).unwrap_or(Cow::Borrowed(raw));
    // What Rust reads as a float and JSON does not know: inf, nan, +1, a bare point.
    let is_number = text.strip_prefix('-').unwrap_or(&text).starts_with(|c: char| c.is_ascii_digit());
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'+' | b'e' | b'E'));
    if is_number && plain { Ok(text) } else { Err(DoesNotFit) }
}

fn integer<T: TryFrom<i128>>(raw: &str) -> Result<T, DoesNotFit> {
    let value = scaled(&number(raw)?, 0).ok_or(DoesNotFit)?;
    T::try_from(value).map_err(|_| DoesNotFit)
}

/// A number times `10^scale`, exactly; `None` when that is no integer of 38 digits.
fn scaled(text: &str, scale: i8) -> Option<i128> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = fraction.trim_end_matches('0');
    let mut digits = [whole, fraction].concat();
    let mut power = i64::from(exponent) + i64::from(scale) - i64::try_from(fraction.len()).ok()?;
    let significant = digits.trim_end_matches('0').len();
    power += i64::try_from(digits.len() - significant).ok()?;
    digits.truncate(significant);
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    let power = u32::try_from(power).ok().filter(|power| *power <= 38)?;
    let value = digits.parse::<i128>().ok()?.checked_mul(10i128.checked_pow(power)?)?;
    Some(if negative { -value } else { value })
}

fn time(text: &str) -> Result<i64, DoesNotFit> {
    let time = NaiveTime::parse_from_str(text, "%H:%M:%S%.f").map_err(|_| DoesNotFit)?;
    Ok(i64::from(time.num_seconds_from_midnight()) * 1_000_000 + i64::from(time.nanosecond() % 1_000_000_000 / 1000))
}

fn timestamp(raw: &str) -> Result<i64, DoesNotFit> {
    match string(raw) {
        Some(text) => string_to_datetime(&Utc, &text).map(|time| time.timestamp_micros()).map_err(|_| DoesNotFit),
        None => i64::try_from(scaled(&number(raw)?, 3).ok_or(DoesNotFit)?).map_err(|_| DoesNotFit),
    }
}

#[cfg(test)]
mod tests {
    use arrow::util::display::array_value_to_string;

    use super::*;

    /// What a column of this type shows for this JSON.
    fn shown(sql_type: &str, json: &str) -> Option<String> {
        let mut builder = FieldBuilder::new(FieldType::parse(sql_type).unwrap());
        let raw: &RawValue = serde_json::from_str(json).unwrap();
        let appended = builder.append_json(Some(raw));
        let column = builder.finish();
        assert_eq!(column.len(), usize::from(appended.is_ok()), "what does not fit leaves nothing");
        appended.ok().map(|()| array_value_to_string(&column, 0).unwrap())
    }

    #[test]
    fn numbers_keep_their_digits_or_do_not_fit() {
        for (sql_type, json, expected) in [
            ("bigint", "9223372036854775807", Some("9223372036854775807")),
            ("bigint", "-9223372036854775808", Some("-9223372036854775808")),
            ("bigint", "9223372036854775808", None),
            ("bigint", "\"9007199254740993\"", Some("9007199254740993")),
            ("bigint", "1.0", Some("1")),
            ("bigint", "12e2", Some("1200")),
            ("bigint", "1.5", None),
            ("bigint", "true", None),
            ("bigint", "\"x\"", None),
            ("bigint", "\"\"", None),
            ("tinyint", "127", Some("127")),
            ("tinyint", "128", None),
            (
                "decimal(38,2)",
                "123456789012345678901234567890123456.78",
                Some("123456789012345678901234567890123456.78"),
            ),
            ("decimal(5,2)", "999.99", Some("999.99")),
            ("decimal(5,2)", "1000", None),
            ("decimal(5,2)", "1.005", None),
            ("decimal(5,2)", "1.500", Some("1.50")),
            ("decimal(5,2)", "-0.00", Some("0.00")),
            ("decimal(5,2)", "1e-2", Some("0.01")),
            ("decimal(5,2)", "1e999999999", None),
            ("decimal(5,2)", "0e999999999", Some("0.00")),
            ("double", "0.1", Some("0.1")),
            ("double", "1e400", None),
            ("double", "\"NaN\"", None),
            ("real", "16777216", Some("16777216.0")),
        ] {
            assert_eq!(shown(sql_type, json).as_deref(), expected, "{json} as {sql_type}");
        }
    }

    #[test]
    fn text_times_and_bytes() {
        for (sql_type, json, expected) in [
            ("varchar", r#""a\nb\u00e4""#, Some("a\nbä")),
            ("varchar", "12.50", Some("12.50")),
            ("varchar", r#"{"a": 1}"#, Some(r#"{"a": 1}"#)),
            ("boolean", "true", Some("true")),
            ("boolean", "1", None),
            ("varbinary", r#""AP8=""#, Some("00ff")),
            ("varbinary", r#""?""#, None),
            ("date", r#""2024-02-29""#, Some("2024-02-29")),
            ("date", r#""2023-02-29""#, None),
            ("date", "5", None),
            ("time", r#""23:59:59.000001""#, Some("23:59:59.000001")),
            ("timestamp", r#""2024-02-29T12:00:00.5""#, Some("2024-02-29T12:00:00.500")),
            ("timestamp", "1709208000500", Some("2024-02-29T12:00:00.500")),
            ("timestamptz", r#""2024-02-29T12:00:00+02:00""#, Some("2024-02-29T10:00:00Z")),
            ("timestamptz", r#""yesterday""#, None),
            ("timestamptz", "1e300", None),
        ] {
            assert_eq!(shown(sql_type, json).as_deref(), expected, "{json} as {sql_type}");
        }
    }
}
