//! What manifests say about values, in Arrow's terms: bounds of columns, and the ranges that partition values stand for.

use chrono::{Datelike, NaiveDate};
use datafusion::common::ScalarValue;
use iceberg::spec::{DataFile, Datum, PartitionField, PrimitiveLiteral, PrimitiveType, Schema, Transform};

use crate::ColumnBounds;
use crate::schema::UTC;

const HOURS_PER_DAY: i64 = 24;
const MICROS_PER_HOUR: i64 = 3_600_000_000;
const NANOS_PER_MICRO: i64 = 1000;

/// An Iceberg value as a scalar of the Arrow type that [`crate::schema`] gives its column.
pub(crate) fn scalar(value: &PrimitiveLiteral, of: &PrimitiveType) -> Option<ScalarValue> {
    use PrimitiveLiteral as Value;
    let utc = || Some(UTC.into());
    Some(match (of, value) {
        (PrimitiveType::Boolean, Value::Boolean(v)) => ScalarValue::Boolean(Some(*v)),
        (PrimitiveType::Int, Value::Int(v)) => ScalarValue::Int32(Some(*v)),
        (PrimitiveType::Long, Value::Long(v)) => ScalarValue::Int64(Some(*v)),
        (PrimitiveType::Float, Value::Float(v)) => ScalarValue::Float32(Some(v.0)),
        (PrimitiveType::Double, Value::Double(v)) => ScalarValue::Float64(Some(v.0)),
        (PrimitiveType::Decimal { precision, scale }, Value::Int128(v)) => {
            ScalarValue::Decimal128(Some(*v), u8::try_from(*precision).ok()?, i8::try_from(*scale).ok()?)
        }
        (PrimitiveType::Date, Value::Int(v)) => ScalarValue::Date32(Some(*v)),
        (PrimitiveType::Time, Value::Long(v)) => ScalarValue::Time64Microsecond(Some(*v)),
        (PrimitiveType::Timestamp, Value::Long(v)) => ScalarValue::TimestampMicrosecond(Some(*v), None),
        (PrimitiveType::Timestamptz, Value::Long(v)) => ScalarValue::TimestampMicrosecond(Some(*v), utc()),
        (PrimitiveType::TimestampNs, Value::Long(v)) => ScalarValue::TimestampNanosecond(Some(*v), None),
        (PrimitiveType::TimestamptzNs, Value::Long(v)) => ScalarValue::TimestampNanosecond(Some(*v), utc()),
        (PrimitiveType::String, Value::String(v)) => ScalarValue::Utf8View(Some(v.clone())),
        (PrimitiveType::Uuid, Value::UInt128(v)) => ScalarValue::FixedSizeBinary(16, Some(v.to_be_bytes().to_vec())),
        (PrimitiveType::Fixed(n), Value::Binary(v)) if v.len() as u64 == *n => {
            ScalarValue::FixedSizeBinary(i32::try_from(*n).ok()?, Some(v.clone()))
        }
        (PrimitiveType::Binary, Value::Binary(v)) => ScalarValue::BinaryView(Some(v.clone())),
        _ => return None,
    })
}

/// The Iceberg value of a scalar, for transforms. `None` for null and for types that no transform takes.
pub(crate) fn datum(value: &ScalarValue, of: &PrimitiveType) -> Option<Datum> {
    let bytes = match value {
        ScalarValue::Int32(Some(v)) | ScalarValue::Date32(Some(v)) => v.to_le_bytes().to_vec(),
        ScalarValue::Int64(Some(v))
        | ScalarValue::Time64Microsecond(Some(v))
        | ScalarValue::TimestampMicrosecond(Some(v), _)
        | ScalarValue::TimestampNanosecond(Some(v), _) => v.to_le_bytes().to_vec(),
        ScalarValue::Decimal128(Some(v), _, _) => v.to_be_bytes().to_vec(),
        ScalarValue::Utf8View(Some(v)) => v.as_bytes().to_vec(),
        ScalarValue::BinaryView(Some(v)) | ScalarValue::FixedSizeBinary(_, Some(v)) => v.clone(),
        _ => return None,
    };
    Datum::try_from_bytes(&bytes, of.clone()).ok()
}

/// The bounds of the column `id` in one data file, in the column's type of today.
pub(crate) fn of_column(file: &DataFile, id: i32, of: &PrimitiveType) -> ColumnBounds {
    let bound = |bounds: &std::collections::HashMap<i32, Datum>| {
        let promoted = promote(bounds.get(&id)?, of)?;
        scalar(promoted.literal(), of)
    };
    let (lower, upper) = match of {
        // Comparing UUIDs as signed halves, as Java does, gives other bounds than comparing their bytes.
        PrimitiveType::Uuid => (None, None),
        // Bounds leave NaN out, and NaN is the greatest value in SQL: usable only where there is none.
        PrimitiveType::Float | PrimitiveType::Double if file.nan_value_counts().get(&id) != Some(&0) => (None, None),
        _ => (bound(file.lower_bounds()), bound(file.upper_bounds())),
    };
    let (lower, upper) = widen_zeros(lower, upper);
    let is_float = matches!(of, PrimitiveType::Float | PrimitiveType::Double);
    let exact = !is_float && lower.is_some() && lower == upper;
    ColumnBounds { null_count: file.null_value_counts().get(&id).copied(), lower, upper, exact }
}

/// A bound of an older type of the column as one of today's.
fn promote(bound: &Datum, to: &PrimitiveType) -> Option<Datum> {
    use PrimitiveType::{Decimal, Double, Float, Int, Long};
    match (bound.data_type(), to) {
        (from, to) if from == to => Some(bound.clone()),
        (Int, Long) | (Float, Double) => Datum::try_from_bytes(&bound.to_bytes().ok()?, to.clone()).ok(),
        (Decimal { precision: from, scale: a }, Decimal { precision: wider, scale: b }) if a == b && from <= wider => {
            Datum::try_from_bytes(&bound.to_bytes().ok()?, to.clone()).ok()
        }
        _ => None,
    }
}

/// A partition value that was written before its source column was widened, as one of today's type.
pub(crate) fn promote_value(value: &PrimitiveLiteral, to: &PrimitiveType) -> PrimitiveLiteral {
    match (value, to) {
        (PrimitiveLiteral::Int(v), PrimitiveType::Long) => PrimitiveLiteral::Long(i64::from(*v)),
        (PrimitiveLiteral::Float(v), PrimitiveType::Double) => PrimitiveLiteral::Double(f64::from(v.0).into()),
        _ => value.clone(),
    }
}

/// What the source column of an identity partition reads as in a file that lacks it, where bounds do not say it: bounds
/// of floats are never exact, for they hold neither NaN nor the sign of zero.
pub(crate) fn constant(
    transform: &Transform,
    value: Option<&PrimitiveLiteral>,
    source: &PrimitiveType,
) -> Option<ScalarValue> {
    let is_float = matches!(source, PrimitiveType::Float | PrimitiveType::Double);
    if *transform != Transform::Identity || !is_float {
        return None;
    }
    scalar(&promote_value(value?, source), source)
}

/// -0.0 is below 0.0 in bounds and equal to it in SQL. A NaN is no bound.
fn widen_zeros(lower: Option<ScalarValue>, upper: Option<ScalarValue>) -> (Option<ScalarValue>, Option<ScalarValue>) {
    (lower.and_then(|value| with_zero(value, -0.0)), upper.and_then(|value| with_zero(value, 0.0)))
}

fn with_zero(bound: ScalarValue, zero: f32) -> Option<ScalarValue> {
    match bound {
        ScalarValue::Float32(Some(v)) if v.is_nan() => None,
        ScalarValue::Float64(Some(v)) if v.is_nan() => None,
        // The pattern matches both zeros.
        ScalarValue::Float32(Some(0.0)) => Some(ScalarValue::Float32(Some(zero))),
        ScalarValue::Float64(Some(0.0)) => Some(ScalarValue::Float64(Some(zero.into()))),
        other => Some(other),
    }
}

/// The source column of a partition field, where the schema still has it and it is primitive.
pub(crate) fn source_type<'a>(schema: &'a Schema, field: &PartitionField) -> Option<&'a PrimitiveType> {
    schema.field_by_id(field.source_id)?.field_type.as_primitive_type()
}

/// What a file's partition value says about the source column, beyond the file's own bounds.
pub(crate) fn add_partition(
    bounds: &mut ColumnBounds,
    transform: &Transform,
    value: Option<&PrimitiveLiteral>,
    source: &PrimitiveType,
    rows: u64,
) {
    // Only null is transformed to null, except by these two, which tell nothing.
    if matches!(transform, Transform::Void | Transform::Unknown) {
        return;
    }
    let Some(value) = value else {
        *bounds = ColumnBounds { null_count: Some(rows), ..ColumnBounds::default() };
        return;
    };
    bounds.null_count = Some(0);
    let (lower, upper) = source_range(transform, value, value, source);
    let is_float = matches!(source, PrimitiveType::Float | PrimitiveType::Double);
    if *transform == Transform::Identity && lower.is_some() && !is_float {
        *bounds = ColumnBounds { null_count: Some(0), lower, upper, exact: true };
        return;
    }
    bounds.lower = bounds.lower.take().or(lower);
    bounds.upper = bounds.upper.take().or(upper);
}

/// The least and the greatest source value whose partition value lies in `[low, high]`.
pub(crate) fn source_range(
    transform: &Transform,
    low: &PrimitiveLiteral,
    high: &PrimitiveLiteral,
    source: &PrimitiveType,
) -> (Option<ScalarValue>, Option<ScalarValue>) {
    match transform {
        // The order of UUIDs differs between writers: only a single value is a range.
        Transform::Identity if *source == PrimitiveType::Uuid && low != high => (None, None),
        Transform::Identity => {
            let of_today = |value| scalar(&promote_value(value, source), source);
            widen_zeros(of_today(low), of_today(high))
        }
        Transform::Truncate(width) => {
            let (low, high) = (promote_value(low, source), promote_value(high, source));
            if truncation_wraps(&high, *width, source) {
                return (None, None);
            }
            let upper = truncated_upper(&high, *width).and_then(|high| scalar(&high, source));
            (scalar(&low, source), upper)
        }
        Transform::Year | Transform::Month | Transform::Day | Transform::Hour => {
            let (PrimitiveLiteral::Int(low), PrimitiveLiteral::Int(high)) = (low, high) else { return (None, None) };
            // Old writers rounded times before 1970 towards zero, so that they lie one partition too late.
            let first = if *low <= 0 { i64::from(*low) - 1 } else { i64::from(*low) };
            let lower = start_of(transform, first, source).and_then(|start| temporal(start, source));
            let after = start_of(transform, i64::from(*high) + 1, source);
            let upper = after.and_then(|after| temporal(after.checked_sub(1)?, source));
            (lower, upper)
        }
        Transform::Bucket(_) | Transform::Void | Transform::Unknown => (None, None),
    }
}

/// Whether values at the minimum of the type may stand behind this one: less than a width above it they are truncated to
/// one below it, which wraps around to the maximum. They may have been of the narrower type that the column had.
fn truncation_wraps(value: &PrimitiveLiteral, width: u32, source: &PrimitiveType) -> bool {
    let rest = i64::from(width.saturating_sub(1));
    match (value, source) {
        (PrimitiveLiteral::Int(v), _) => i64::from(*v) + rest > i64::from(i32::MAX),
        (PrimitiveLiteral::Long(v), PrimitiveType::Long) => {
            let was_int = i32::try_from(*v).is_ok_and(|v| i64::from(v) + rest > i64::from(i32::MAX));
            was_int || v.checked_add(rest).is_none()
        }
        _ => false,
    }
}

/// The greatest value (or one above it) that is truncated to `value`.
fn truncated_upper(value: &PrimitiveLiteral, width: u32) -> Option<PrimitiveLiteral> {
    let rest = width.checked_sub(1)?;
    match value {
        PrimitiveLiteral::Int(v) => Some(PrimitiveLiteral::Int(v.saturating_add(i32::try_from(rest).ok()?))),
        PrimitiveLiteral::Long(v) => Some(PrimitiveLiteral::Long(v.saturating_add(i64::from(rest)))),
        PrimitiveLiteral::Int128(v) => Some(PrimitiveLiteral::Int128(v.saturating_add(i128::from(rest)))),
        PrimitiveLiteral::String(v) if (v.chars().count() as u64) < u64::from(width) => Some(value.clone()),
        PrimitiveLiteral::String(v) => successor(v).map(PrimitiveLiteral::String),
        PrimitiveLiteral::Binary(v) if (v.len() as u64) < u64::from(width) => Some(value.clone()),
        PrimitiveLiteral::Binary(v) => {
            let mut bytes = v.clone();
            while let Some(last) = bytes.pop() {
                if last < u8::MAX {
                    bytes.push(last + 1);
                    return Some(PrimitiveLiteral::Binary(bytes));
                }
            }
            None
        }
        _ => None,
    }
}

/// The least text above every text that starts with `prefix`.
fn successor(prefix: &str) -> Option<String> {
    let mut characters: Vec<char> = prefix.chars().collect();
    while let Some(last) = characters.pop() {
        // The code points of surrogates are no characters.
        let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(next) = next {
            characters.push(next);
            return Some(characters.into_iter().collect());
        }
    }
    None
}

/// Where the partition `n` of a time transform starts, in the unit of the source column.
fn start_of(transform: &Transform, n: i64, source: &PrimitiveType) -> Option<i64> {
    let hours = match transform {
        Transform::Hour => n,
        Transform::Day => n.checked_mul(HOURS_PER_DAY)?,
        Transform::Month => days_of_month(n)?.checked_mul(HOURS_PER_DAY)?,
        Transform::Year => days_of_month(n.checked_mul(12)?)?.checked_mul(HOURS_PER_DAY)?,
        _ => return None,
    };
    match source {
        PrimitiveType::Date => Some(hours.div_euclid(HOURS_PER_DAY)),
        PrimitiveType::Timestamp | PrimitiveType::Timestamptz => hours.checked_mul(MICROS_PER_HOUR),
        PrimitiveType::TimestampNs | PrimitiveType::TimestamptzNs => {
            hours.checked_mul(MICROS_PER_HOUR)?.checked_mul(NANOS_PER_MICRO)
        }
        _ => None,
    }
}

/// Days from 1970-01-01 to the first of the month that is `months` after January 1970.
fn days_of_month(months: i64) -> Option<i64> {
    let year = i32::try_from(months.div_euclid(12)).ok()?.checked_add(1970)?;
    let month = u32::try_from(months.rem_euclid(12)).ok()? + 1;
    let first = NaiveDate::from_ymd_opt(year, month, 1)?;
    let epoch = NaiveDate::from_ymd_opt(1970, 1, 1)?;
    Some(i64::from(first.num_days_from_ce()) - i64::from(epoch.num_days_from_ce()))
}

fn temporal(value: i64, source: &PrimitiveType) -> Option<ScalarValue> {
    let literal = match source {
        PrimitiveType::Date => PrimitiveLiteral::Int(i32::try_from(value).ok()?),
        _ => PrimitiveLiteral::Long(value),
    };
    scalar(&literal, source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(transform: Transform, value: PrimitiveLiteral, source: PrimitiveType) -> (String, String) {
        let (lower, upper) = source_range(&transform, &value, &value, &source);
        let text = |v: Option<ScalarValue>| v.map_or("-".to_string(), |v| v.to_string());
        (text(lower), text(upper))
    }

    #[test]
    fn partitions_stand_for_ranges() {
        let int = |v| PrimitiveLiteral::Int(v);
        let text = |v: &str| PrimitiveLiteral::String(v.to_string());
        let pair = |a: &str, b: &str| (a.to_string(), b.to_string());
        // Month 13 is February 1971: days 396 to 423.
        assert_eq!(range(Transform::Month, int(13), PrimitiveType::Date), pair("1971-02-01", "1971-02-28"));
        assert_eq!(range(Transform::Year, int(54), PrimitiveType::Date), pair("2024-01-01", "2024-12-31"));
        let day = range(Transform::Day, int(1), PrimitiveType::Timestamp);
        assert_eq!(day, pair("86400000000", "172799999999"));
        assert_eq!(range(Transform::Truncate(10), int(-10), PrimitiveType::Int), pair("-10", "-1"));
        assert_eq!(range(Transform::Truncate(3), text("abc"), PrimitiveType::String), pair("abc", "abd"));
        assert_eq!(range(Transform::Truncate(3), text("ab"), PrimitiveType::String), pair("ab", "ab"));
        assert_eq!(range(Transform::Truncate(1), text("\u{10ffff}"), PrimitiveType::String).1, "-");
        assert_eq!(range(Transform::Bucket(4), int(1), PrimitiveType::Int), pair("-", "-"));
    }

    #[test]
    fn truncation_near_the_minimum_says_nothing() {
        let none = ("-".to_string(), "-".to_string());
        // What i32::MIN is truncated to: two below it, wrapped.
        let wrapped = i32::MIN.wrapping_sub(i32::MIN.rem_euclid(10));
        assert_eq!(wrapped, i32::MAX - 1);
        assert_eq!(range(Transform::Truncate(10), PrimitiveLiteral::Int(wrapped), PrimitiveType::Int), none);
        let widened = PrimitiveLiteral::Int(wrapped);
        assert_eq!(range(Transform::Truncate(10), widened, PrimitiveType::Long), none);
        let wrapped = i64::MIN.wrapping_sub(i64::MIN.rem_euclid(10));
        assert_eq!(range(Transform::Truncate(10), PrimitiveLiteral::Long(wrapped), PrimitiveType::Long), none);
        let last = i64::from(i32::MAX) + 3;
        let (lower, _) = range(Transform::Truncate(10), PrimitiveLiteral::Long(last), PrimitiveType::Long);
        assert_eq!(lower, last.to_string());
    }

    #[test]
    fn partition_values_follow_the_type_of_today() {
        let long = range(Transform::Identity, PrimitiveLiteral::Int(7), PrimitiveType::Long);
        assert_eq!(long, ("7".to_string(), "7".to_string()));
        let truncated = range(Transform::Truncate(10), PrimitiveLiteral::Int(-10), PrimitiveType::Long);
        assert_eq!(truncated, ("-10".to_string(), "-1".to_string()));
        let float = PrimitiveLiteral::Float(0.1_f32.into());
        let constant = constant(&Transform::Identity, Some(&float), &PrimitiveType::Double);
        assert_eq!(constant, Some(ScalarValue::Float64(Some(f64::from(0.1_f32)))));
    }

    #[test]
    fn times_before_1970_are_looked_for_one_partition_later_too() {
        let (lower, _) = range(Transform::Day, PrimitiveLiteral::Int(0), PrimitiveType::Timestamp);
        assert_eq!(lower, "-86400000000");
    }

    #[test]
    fn bounds_follow_the_type_of_today() {
        assert_eq!(promote(&Datum::int(7), &PrimitiveType::Long), Some(Datum::long(7)));
        assert_eq!(promote(&Datum::float(1.5), &PrimitiveType::Double), Some(Datum::double(1.5)));
        assert_eq!(promote(&Datum::string("7"), &PrimitiveType::Long), None);
    }
}
